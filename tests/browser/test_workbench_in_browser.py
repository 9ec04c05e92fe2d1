"""The Workbench notebook as people use it: stop, resume, another method, before and after, images of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
pytestmark = [pytest.mark.browser, pytest.mark.slow]
PATH = "notebooks/workbench.ipynb"


def button(notebook: Any, name: str) -> Any:
    return notebook.page.get_by_role("button", name=name, exact=True)


def wait_text(notebook: Any, selector: str, pattern: str, seconds: float = 120.0) -> None:
    """Wait until some element of ``selector`` shows a text that matches."""
    notebook.page.wait_for_function(
        "([s, p]) => [...document.querySelectorAll(s)].some(e => new RegExp(p).test(e.innerText))",
        arg=[selector, pattern],
        timeout=1000 * seconds,
    )


def test_stop_resume_other_method_and_comparison(lab: Any, open_notebook: Callable[..., Any]) -> None:
    notebook = open_notebook(PATH)
    notebook.run_all()
    assert notebook.errors() == []
    wait_text(notebook, ".kd-explorer", "Nothing has been trained yet")
    field = notebook.page.get_by_role("spinbutton", name="epochs, exact value")
    field.fill("40")
    field.press("Enter")
    button(notebook, "Start").click()
    wait_text(notebook, ".kd-train .kd-status", "^running: step")
    button(notebook, "Stop").click()
    wait_text(notebook, ".kd-train .kd-status", "^stopped")
    halted = int(notebook.kernel("print(training.state.steps)"))
    button(notebook, "Resume").click()
    wait_text(notebook, ".kd-train .kd-status", "^done")
    done, wanted = notebook.kernel("print(training.state.steps, training._request.total_steps)").split()
    assert halted < int(done) == int(wanted)  # no step twice, none left out
    wait_text(notebook, ".kd-explorer figcaption", "after KD")
    notebook.page.get_by_label("method", exact=True).select_option(label="PLD")
    button(notebook, "Start").click()
    wait_text(notebook, ".kd-explorer figcaption", "after PLD")
    legend = notebook.locate(".kd-train .kd-livechart .kd-legend").nth(1).inner_text()
    assert "KD (training 1)" in legend and "PLD (this training)" in legend
    notebook.page.get_by_label("compare with", exact=True).select_option(label="KD (training 1)")
    wait_text(notebook, ".kd-explorer figcaption", r"KD \(training 1\)")
    notebook.page.get_by_label("picture", exact=True).select_option(label="one sample")
    wait_text(notebook, ".kd-explorer figcaption", r"Sample \d+ of the test split: teacher and student")
    notebook.screenshot("workbench_compared", ".kd-explorer")
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    assert notebook.kernel("import workbench; print(workbench.__file__)").strip().endswith("__init__.py")
    assert not (lab.root / "notebooks" / "workbench.py").exists()  # it would hide the package from these notebooks


def test_folder_and_timm_networks_of_your_own(lab: Any, open_notebook: Callable[..., Any], tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for name, colour in (("red", (220, 40, 40)), ("blue", (40, 60, 220))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(16):
            pixels = np.clip(np.array(colour) + noise.normal(0, 30, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    notebook = open_notebook(
        lab.write(
            "notebooks/own.ipynb",
            "from workbench.panels import BeforeAfter, TrainPanel",
            "training = TrainPanel('digits', epochs=2)\ntraining",
            "BeforeAfter(training)",
        )
    )
    notebook.run_all()
    notebook.page.get_by_text("Images of your own").click()
    form = notebook.locate(".kd-folder")
    for label, text in (("folder", str(tmp_path / "photos")), ("teacher", "test_resnet"), ("student", "test_resnett")):
        form.get_by_label(label, exact=True).fill(text)
        form.get_by_label(label, exact=True).press("Tab")
    button(notebook, "Load").click()
    wait_text(notebook, ".kd-folder .kd-error", "Did you mean 'test_resnet'")
    form.get_by_label("student", exact=True).fill("test_efficientnet")
    form.get_by_label("student", exact=True).press("Tab")
    button(notebook, "Load").click()
    wait_text(notebook, ".kd-folder", "Loaded images-photos: 1[0-9] images to learn from")
    for script in ("accessibility.js", "contrast.js"):
        found = notebook.locate(".kd-train").first.evaluate((HERE / script).read_text())
        assert (found if isinstance(found, list) else found["problems"]) == []
    assert notebook.violations(".kd-train") == []
    button(notebook, "Start").click()
    wait_text(notebook, ".kd-explorer figcaption", "after KD", 180)
    assert notebook.page.get_by_label("student", exact=True).first.input_value() == "test_efficientnet"
    notebook.screenshot("workbench_own_folder", ".kd-train")
