"""The guide "add a method in ten minutes", followed to the letter in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.views import check_view

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "kdcore",
    "workbench",
    "notebooks",
    "docs",
    "tests/contract",
    "tests/support",
    "tests/conftest.py",
    "README.md",
    "pyproject.toml",
)


def python_blocks() -> list[str]:
    """The Python code of steps 1 and 2."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text.partition("**3. The tests**")[0], flags=re.M | re.S)


def copy_project(to: Path) -> None:
    for part in PARTS:
        source, target = ROOT / part, to / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, target)


@pytest.mark.slow
def test_the_method_of_the_guide_passes_the_contract(tmp_path: Path) -> None:
    copy_project(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    python("-m", "workbench.cli", "new", "my_kd", "--family", "ranking", "--title", "My KD")
    blocks = python_blocks()
    assert len(blocks) == 2
    (tmp_path / "kdcore/methods/my_kd.py").write_text("\n".join(blocks), encoding="utf-8")
    python("-m", "workbench.cli", "pair")
    python("-m", "workbench.readme")
    assert "| [`my_kd`](notebooks/ranking/my_kd.ipynb)" in (tmp_path / "README.md").read_text(encoding="utf-8")
    python("-m", "ruff", "check", "--select", "E,F,I,UP", "kdcore/methods/my_kd.py")
    out = python(
        "-m",
        "pytest",
        "tests/contract/test_every_method.py",
        "-k",
        "my_kd",
        "-m",
        "not slow",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
    )
    assert int(re.search(r"(\d+) passed", out)[1]) > 20 and "skipped" not in out  # type: ignore[index]


def test_the_picture_of_the_guide_is_drawn_by_both_renderers() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Make a picture in ten lines")[2]
    (block,) = re.findall(r"^```python\n(.*?)^```", text.partition("\n## ")[0], flags=re.M | re.S)
    body = block.partition("-> View:\n")[2].strip().splitlines()
    assert len(body) <= 10
    made: dict[str, Any] = {}
    exec(compile(block, "CONTRIBUTING.md", "exec", dont_inherit=True), made)
    view = made["calibration_view"]([0.2, 0.6, 0.9], [0.1, 0.6, 0.6])
    check_view(view)
    assert view.alt == "3 bins; accuracy is 0.13 from confidence on average, at most 0.30."
    line, dots = view.picture.panels[0].marks
    assert line.axis == "both" and dots.y.tolist() == [0.1, 0.6, 0.6] and dots.notes[2] == "bin 2"


def test_every_command_of_the_guide_exists() -> None:
    from typer.main import get_command

    from workbench.cli import app

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    asked = set(re.findall(r"\bkdw ([a-z]+)", text))
    assert {"new", "pair", "run", "notebooks"} <= asked <= set(get_command(app).commands)  # type: ignore[attr-defined]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z]+)", text):
        if target != "sure":
            assert re.search(rf"^{target}:", makefile, flags=re.M), f"make {target} does not exist"
    for path in set(re.findall(r"`((?:docs|tests|kdcore)/[\w/.]+\.\w+)`", text)) - {"tests/golden/<slug>.npz"}:
        assert (ROOT / path).is_file(), path
