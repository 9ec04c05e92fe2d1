"""Every notebook runs top to bottom in JupyterLab: no error output, quiet console, no request leaves the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    str(p.relative_to(REPOSITORY))
    for p in (REPOSITORY / "notebooks").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in p.parts
)
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_runs_live_without_errors(lab: Any, open_notebook: Callable[..., Any], path: str) -> None:
    notebook = open_notebook(path)
    notebook.run_all(timeout=420)
    assert notebook.errors() == []
    assert notebook.locate(".kd-explorer .kd-error, .kd-train .kd-error").count() == 0
    broken = notebook.page.evaluate("""() => [...document.querySelectorAll('.jp-OutputArea img')]
        .filter(i => i.getAttribute('src') && i.complete && !i.naturalWidth).map(i => i.outerHTML.slice(0, 300))""")
    assert broken == []
    assert "Error displaying widget" not in notebook.locate(".jp-Notebook").inner_text()
    assert notebook.violations(".jp-OutputArea-output") == []
    notebook.screenshot_whole(Path(path).stem)
