"""Pictures drawn in the page: they follow while a control moves, tell exact values, survive their kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser.test_panels_in_browser import EXPLORER, picture, wait_text

pytestmark = pytest.mark.browser


def handle(notebook: Any) -> Any:
    return notebook.page.get_by_role("slider", name="power", exact=True)


def test_a_picture_follows_while_the_control_moves(lab: Any, open_notebook: Callable[..., Any]) -> None:
    notebook = open_notebook(lab.write("dragged.ipynb", EXPLORER))
    notebook.run_all()
    picture(notebook).wait_for()
    box = handle(notebook).bounding_box()
    mouse = notebook.page.mouse
    mouse.move(box["x"] + 0.13 * box["width"], box["y"] + box["height"] / 2)
    mouse.down()
    mouse.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2, steps=8)
    wait_text(notebook, ".kd-explorer figcaption", "Power [45]")  # the button is still pressed
    mouse.up()


def test_pointing_tells_the_value_and_choosing_is_reported(lab: Any, open_notebook: Callable[..., Any]) -> None:
    notebook = open_notebook(lab.write("pointed.ipynb", EXPLORER))
    notebook.run_all()
    chart = picture(notebook)
    chart.focus()
    for _ in range(4):  # the fourth point: x = 3, 3 ** 2
        chart.press("ArrowRight")
    tip = notebook.locate(".kd-explorer .kd-tip")
    assert tip.inner_text().split("\n") == ["x to the 2", "x 3", "y 9"]
    assert "y 9" in notebook.locate(".kd-explorer .kd-voice").text_content()
    chart.press("Enter")
    notebook.page.wait_for_timeout(300)
    told = json.loads(notebook.kernel("import json; print(json.dumps(explorer.state.selected))"))
    assert told == {"view": 0, "panel": 0, "key": 3}
    handle(notebook).focus()
    handle(notebook).press("ArrowRight")  # the choice stays, and the focus
    wait_text(notebook, ".kd-explorer figcaption", "Power 2\\.5")
    assert notebook.locate(".kd-explorer .kd-chosen").count() == 2
    assert handle(notebook).evaluate("e => e === document.activeElement")
    notebook.kernel("explorer.state.selected = {'view': 0, 'panel': 0, 'key': 5}")
    notebook.page.wait_for_timeout(200)
    x = notebook.locate(".kd-explorer .kd-chosen").last.get_attribute("cx")
    point = notebook.locate(".kd-explorer .kd-picture svg[role=img]")
    bounds = point.bounding_box()
    mouse = notebook.page.mouse
    y = float(notebook.locate(".kd-explorer .kd-chosen").last.get_attribute("cy"))
    mouse.move(bounds["x"] + float(x), bounds["y"] + y)
    assert "x 5" in tip.inner_text().split("\n")
    notebook.screenshot("explorer_pointed", ".kd-explorer")


def test_a_saved_notebook_shows_the_last_picture_when_its_kernel_is_gone(
    lab: Any, open_notebook: Callable[..., Any]
) -> None:
    path = lab.write("kept.ipynb", EXPLORER)
    notebook = open_notebook(path)
    notebook.run_all()
    picture(notebook).wait_for()
    assert notebook.locate(".kd-still").count() == 1 and not notebook.locate(".kd-still").first.is_visible()
    handle(notebook).focus()
    handle(notebook).press("ArrowRight")
    wait_text(notebook, ".kd-explorer figcaption", "Power 2\\.5")
    notebook.page.wait_for_timeout(2500)  # at rest: the page's own picture is kept
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    notebook.page.wait_for_timeout(1500)
    saved = json.loads((lab.root / path).read_text())
    outputs = [o for c in saved["cells"] for o in c.get("outputs", [])]
    (kept,) = [h for o in outputs if "kd-still" in (h := "".join(o["data"].get("text/html", "")))]
    assert "Power 2.5" in kept and "data:image/png;base64," in kept
    assert "state" not in saved["metadata"].get("widgets", {}) and Path(lab.root / path).stat().st_size < 300_000
    for session in lab.api("sessions"):
        lab.api(f"sessions/{session['id']}", "DELETE")
    again = open_notebook(path, lost_widgets=True)
    still = again.locate(".kd-still img")
    still.wait_for(timeout=20_000)
    again.page.wait_for_timeout(1500)
    assert still.is_visible() and "Error displaying widget" not in again.locate(".jp-Notebook").inner_text()
    again.screenshot("reopened")
