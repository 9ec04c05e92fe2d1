"""``kdw check``: which steps a paper has, that each one's failure is told, and that it needs a paper that exists."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdcore.registry import list_methods
from workbench.cli import app
from workbench.runs.check import files_of, papers
from workbench.runs.pairing import notebook_text

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "kdcore/methods/pld.py": "x = 1\n",
    "kdcore/methods/broken.py": "import nothing_of_this_name\n",
    "notebooks/ranking/pld.py": "# %%\nx = 1\n",
    "tests/methods/test_pld.py": "def test_it():\n    pass\n",
    "tests/contract/test_every.py": """import pytest


@pytest.mark.parametrize("name", ["pld", "kd", "pld.Training"])
def test_it(name):
    assert name.startswith("pld")


def test_without_a_name():
    raise AssertionError
""",
    "tests/notebooks/test_notebooks.py": """import os

import pytest


@pytest.mark.parametrize("key", ["ranking/pld", "ranking/kd"])
def test_notebook(key):
    assert key == "ranking/pld" and os.environ["KDW_ALL_LESSONS"] == "1"
""",
    "tests/mutation_check.py": 'import sys\n\nprint(f"checked {sys.argv[1]}")\nsys.exit(0)\n',
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose paper PLD has tests of one line."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "notebooks/ranking/pld.ipynb").write_text(notebook_text(FILES["notebooks/ranking/pld.py"]))
    return tmp_path


@pytest.fixture
def check(project: Path) -> Callable[..., tuple[int, dict[str, dict[str, Any]], str]]:
    """``kdw check`` in that project, in a process of its own: exit code, steps by name, and what went to stderr."""

    def run(*arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
        done = subprocess.run(
            [sys.executable, "-m", "workbench.cli", "check", "--json", *arguments], cwd=project, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False, timeout=200,
        )  # fmt: skip
        steps = json.loads(done.stdout) if done.stdout else []
        return done.returncode, {step["name"]: step for step in steps}, done.stderr

    return run


def test_every_step_runs_for_this_paper_alone(project: Path, check: Callable[..., Any]) -> None:
    pictures = project / "tests/workbench/test_views_pld.py"
    pictures.parent.mkdir()
    pictures.write_text(FILES["tests/methods/test_pld.py"])
    code, steps, said = check("pld", "-j", "1")
    assert code == 0, said
    assert {name: step["said"].partition(" in ")[0] for name, step in steps.items()} == {
        "lesson": "1 passed", "lint": "4 files, nothing wrong", "tests": "1 passed", "contracts and study": "2 passed",
        "mutation check": "checked pld", "pictures": "1 passed",
    }  # fmt: skip
    assert all(step["ok"] and step["seconds"] > 0 for step in steps.values())


def test_what_fails_is_told_and_the_rest_runs(project: Path, check: Callable[..., Any]) -> None:
    wrong = {
        "kdcore/methods/pld.py": ("import os\n", "lint", "F401"),
        "notebooks/ranking/pld.py": ("# %%\nx = 2\n", "lint", "pld.ipynb"),
        "tests/mutation_check.py": ('import sys\n\nsys.exit("survived")\n', "mutation check", "survived"),
        "tests/notebooks/test_notebooks.py": ("import os\n\nos._exit(9)\n", "lesson", ""),
    }
    for name, (text, _, _) in wrong.items():
        (project / name).write_text(text)
    (project / "tests/methods/test_pld.py").unlink()
    code, steps, said = check("pld")
    assert code == 1 and {n for n, each in steps.items() if each["ok"]} == {"contracts and study"} and len(steps) == 5
    for _, step, why in wrong.values():
        assert why in steps[step]["log"] and f"== {step}" in said
    assert steps["lesson"]["said"] == "exit status 9"
    assert steps["tests"]["said"] == "there is no tests/methods/test_pld.py"


def test_a_paper_without_a_lesson_fails(project: Path, check: Callable[..., Any]) -> None:
    shutil.rmtree(project / "notebooks/ranking")
    code, steps, _ = check("pld")
    assert code == 1 and [n for n, each in steps.items() if not each["ok"]] == ["lesson"]
    assert steps["lesson"]["said"] == "there is no lesson"


def test_an_unknown_paper_gets_the_list_of_those_that_exist() -> None:
    for given in (("pdl",), ()):
        done = CliRunner().invoke(app, ["check", *given])
        assert done.exit_code == 2 and f"There are: {', '.join(list_methods())}." in done.output


def test_the_files_of_a_paper_are_found_by_its_name(project: Path) -> None:
    assert papers(project) == ["broken", "pld"], "one that cannot be imported is a paper, too"
    assert [p.relative_to(project).as_posix() for p in files_of("pld", project)] == [
        "kdcore/methods/pld.py", "notebooks/ranking/pld.py", "tests/methods/test_pld.py",
    ]  # fmt: skip
    assert {p.name for p in files_of("dho", ROOT)} == {"dho.py", "test_dho.py", "test_views_dho.py"}
