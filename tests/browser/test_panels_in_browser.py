"""The panels as people meet them: keyboard, pictures, training that can be stopped, names for screen readers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.browser

EXPLORER = """
from workbench.panels import Explorer, slider, dropdown, checkbox
from workbench.views import lines_view

def draw(power, start, squared):
    if power > 8.5:
        raise ValueError("power is too large for this picture")
    x = list(range(start, start + 10))
    return lines_view(x, {f"x to the {power:g}": [v ** power for v in x]}, x_label="x", y_label="y",
                      title=f"Power {power:g}")

explorer = Explorer("Powers", {"power": slider(2.0, 1.0, 9.0, step=0.5, help="exponent"), "start": dropdown([0, 5]),
                               "squared": checkbox()}, draw)
explorer
"""
TRAIN = """
from workbench.panels import TrainPanel
panel = TrainPanel("digits", teacher="mlp", student="mlp-16", method="kd", epochs=400)
panel
"""


def picture(notebook: Any) -> Any:
    return notebook.locate(".kd-explorer .kd-picture svg[role=img]")


def wait_text(notebook: Any, selector: str, pattern: str, seconds: float = 60.0) -> str:
    """Wait until the visible text of ``selector`` matches; returns it."""
    notebook.page.wait_for_function(
        "([s, p]) => [...document.querySelectorAll(s)].some(e => new RegExp(p).test(e.innerText))",
        arg=[selector, pattern],
        timeout=1000 * seconds,
    )
    return notebook.locate(selector).first.inner_text()


def test_explorer_follows_keyboard_and_code(lab: Any, open_notebook: Callable[..., Any]) -> None:
    notebook = open_notebook(lab.write("explorer.ipynb", EXPLORER))
    notebook.run_all()
    assert notebook.errors() == []
    picture(notebook).wait_for()
    assert "x to the 2 goes from 0" in picture(notebook).get_attribute("aria-label")
    handle = notebook.page.get_by_role("slider", name="power", exact=True)
    handle.focus()
    handle.press("ArrowRight")
    wait_text(notebook, ".kd-explorer figcaption", "Power 2\\.5")
    assert "x to the 2.5" in picture(notebook).get_attribute("aria-label")
    assert notebook.page.get_by_role("spinbutton", name=re.compile("^power")).input_value() == "2.5"
    handle.press("End")  # 9: render raises; shown in the panel, not swallowed
    shown = wait_text(notebook, ".kd-explorer .kd-error", "too large")
    assert "ValueError" in shown and "Traceback" not in shown  # folded
    notebook.locate(".kd-explorer .kd-error summary").click()
    assert "Traceback" in notebook.locate(".kd-explorer .kd-error pre").inner_text()
    field = notebook.page.get_by_role("spinbutton", name=re.compile("^power"))
    field.fill("3")
    field.press("Enter")
    wait_text(notebook, ".kd-explorer figcaption", "Power 3\\.")
    notebook.page.get_by_label("start", exact=True).select_option("5")
    wait_text(notebook, ".kd-explorer figcaption", "from 5 to 14")
    assert notebook.kernel("print(explorer.state.values)").strip() == "{'power': 3.0, 'start': 5, 'squared': False}"
    notebook.kernel("explorer.set(power=4.0)")
    wait_text(notebook, ".kd-explorer figcaption", "Power 4\\.")
    assert field.input_value() == "4"
    notebook.screenshot("explorer", ".kd-explorer")


def test_explorer_keeps_the_table_open_and_no_label_is_cut(lab: Any, open_notebook: Callable[..., Any]) -> None:
    notebook = open_notebook(lab.write("explorer_table.ipynb", EXPLORER), width=900)
    notebook.run_all()
    picture(notebook).wait_for()
    notebook.locate(".kd-explorer figcaption summary").click()
    handle = notebook.page.get_by_role("slider", name="power", exact=True)
    handle.focus()
    handle.press("ArrowRight")
    wait_text(notebook, ".kd-explorer figcaption", "Power 2\\.5")
    assert notebook.locate(".kd-explorer figcaption details[open]").count() == 1
    labels = ".kd-explorer label, .kd-explorer .widget-label"
    cut = notebook.page.evaluate(
        """selector => [...document.querySelectorAll(selector)]
        .filter(e => e.innerText.trim() && e.scrollWidth > e.clientWidth + 1)
        .filter(e => getComputedStyle(e).overflow !== 'visible')
        .map(e => e.innerText)""",
        labels,
    )
    assert cut == []
    wide = notebook.page.evaluate("""() => [...document.querySelectorAll('.kd-explorer .kd-picture svg')]
        .filter(i => i.getClientRects().length)
        .map(i => [i, i.closest('.jp-OutputArea-output')].map(e => e.getBoundingClientRect().right))
        .map(([picture, column]) => picture - column)""")
    assert wide and max(wide) <= 1  # the picture fits the column


def test_training_grows_stops_and_resumes(lab: Any, open_notebook: Callable[..., Any]) -> None:
    notebook = open_notebook(lab.write("train.ipynb", TRAIN))
    notebook.run_all()
    assert notebook.errors() == []
    button = {name: notebook.page.get_by_role("button", name=name, exact=True) for name in ("Start", "Stop", "Resume")}
    assert button["Start"].is_enabled() and button["Stop"].is_disabled() and button["Resume"].is_disabled()
    button["Start"].click()
    first = int(points(notebook, more_than=3))
    assert int(points(notebook, more_than=first)) > first  # the line grows while it runs
    assert button["Start"].is_disabled()
    assert notebook.kernel("print('free', panel.state.job)").strip() == "free running"  # the kernel answers meanwhile
    notebook.screenshot("train_running", ".kd-train")
    button["Stop"].click()
    wait_text(notebook, ".kd-train .kd-status", "^stopped")
    halted = int(notebook.kernel("print(panel.state.steps)"))
    assert int(notebook.kernel("import time; time.sleep(0.6); print(panel.state.steps)")) == halted
    assert "Resume goes on" in notebook.locate(".kd-train .kd-outcome").inner_text()
    button["Resume"].click()
    points(notebook, more_than=halted)
    button["Stop"].click()
    wait_text(notebook, ".kd-train .kd-status", "^stopped")
    steps = notebook.kernel(
        "from kdcore.distiller import Step\n"
        "n = [e.step for e in panel.job.snapshot.events if isinstance(e, Step)]\nprint(n == "
        "list(range(1, len(n) + 1)))"
    )
    assert steps.strip() == "True"  # resumed where it stopped: no step twice, none left out
    notebook.screenshot("train_stopped", ".kd-train")


def points(notebook: Any, *, more_than: int) -> str:
    """Wait until the loss chart says it has more points; returns the number."""
    notebook.page.wait_for_function(
        """n => [...document.querySelectorAll('.kd-train .kd-livechart > svg[role=img]')]
            .some(e => Number((e.getAttribute('aria-label').match(/: (\\d+) points/) ?? [0, 0])[1]) > n)""",
        arg=more_than,
        timeout=120_000,
    )
    label = notebook.locate(".kd-train .kd-livechart > svg[role=img]").first.get_attribute("aria-label")
    return re.search(r": (\d+) points", label)[1]


def test_a_cell_run_again_ends_the_training_of_the_first(lab: Any, open_notebook: Callable[..., Any]) -> None:
    notebook = open_notebook(lab.write("train_twice.ipynb", TRAIN))
    notebook.run_all()
    notebook.page.get_by_role("button", name="Start", exact=True).click()
    points(notebook, more_than=3)
    notebook.kernel("first = panel")
    notebook.run_all()
    assert (
        notebook.kernel("first.join(20); print(first.job.state, first.closed, panel.state.job)").strip()
        == "stopped True idle"
    )
    assert notebook.page.get_by_role("button", name="Start", exact=True).count() == 1


def test_failure_is_shown_and_can_be_tried_again(lab: Any, open_notebook: Callable[..., Any]) -> None:
    broken = TRAIN.replace("epochs=400)", "epochs=2, options={'optimizer': 'no-such-optimizer'})")
    notebook = open_notebook(lab.write("train_fails.ipynb", broken))
    notebook.run_all()
    notebook.page.get_by_role("button", name="Start", exact=True).click()
    wait_text(notebook, ".kd-train .kd-status", "^failed")
    assert "no-such-optimizer" in notebook.locate(".kd-train .kd-error").first.inner_text()
    assert notebook.page.get_by_role("button", name="Start", exact=True).is_enabled()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_our_part_of_the_page_is_named_and_readable(lab: Any, open_notebook: Callable[..., Any], dark: bool) -> None:
    notebook = open_notebook(
        lab.write(f"names_{dark}.ipynb", EXPLORER, TRAIN.replace("epochs=400", "epochs=6")), dark=dark
    )
    notebook.run_all()
    picture(notebook).wait_for()
    notebook.page.get_by_role("button", name="Start", exact=True).click()
    wait_text(notebook, ".kd-train .kd-status", "^done", 120)
    for panel in (".kd-explorer", ".kd-train"):
        report = notebook.locate(panel).first.evaluate((HERE / "accessibility.js").read_text())
        assert report["checked"] >= 5
        assert report["problems"] == []
        assert notebook.locate(panel).first.evaluate((HERE / "contrast.js").read_text()) == []
        assert notebook.violations(panel) == []
        notebook.screenshot(f"{panel[1:]}_{'dark' if dark else 'light'}", panel)
    shown = picture(notebook).first
    assert shown.locator("text").first.get_attribute("fill") == ("#e8e8e8" if dark else "#1b1b1b")
    notebook.screenshot(f"page_{'dark' if dark else 'light'}")


def test_reload_finds_the_running_training_again(lab: Any, open_notebook: Callable[..., Any]) -> None:
    notebook = open_notebook(lab.write("reload.ipynb", TRAIN))
    notebook.run_all()
    notebook.page.get_by_role("button", name="Start", exact=True).click()
    before = int(points(notebook, more_than=3))
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    notebook.page.reload(wait_until="domcontentloaded")
    notebook.page.wait_for_selector(".kd-train .kd-livechart > svg[role=img]", timeout=60_000)
    assert int(points(notebook, more_than=before)) > before
    notebook.page.get_by_role("button", name="Stop", exact=True).click()
    wait_text(notebook, ".kd-train .kd-status", "^stopped")
