"""kdw: every command, its exit codes, its JSON, and that starting it is quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from workbench.cli import app, join_pairs
from workbench.runs.files import write_json
from workbench.runs.pairing import notebook_text
from workbench.runs.store import owner

SCRIPT = """# %% tags=["parameters"]
n: int = 2  # a number
fail: bool = False  # raise

# %%
from workbench.runs import record

assert not fail, "asked to fail"
record(n=n)
"""


def kdw(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of a project: two notebooks, no baselines."""
    (tmp_path / "pyproject.toml").touch()
    for key in ("one", "fam/two"):
        path = tmp_path / "notebooks" / f"{key}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SCRIPT, encoding="utf-8")
        path.with_suffix(".ipynb").write_text(notebook_text(SCRIPT), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_version() -> None:
    import kdcore

    assert kdw("--version").output == f"kd-workbench {kdcore.__version__}\n"


def test_help_does_not_import_what_is_heavy() -> None:
    code = (
        "import sys, workbench.cli; from typer.testing import CliRunner;"
        "r = CliRunner().invoke(workbench.cli.app, ['--help']); assert r.exit_code == 0 and 'notebooks' in r.output;"
        "heavy = {'torch', 'pandas', 'matplotlib', 'IPython', 'papermill', 'ipywidgets', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (["nb", "-p", "a", "1", "-p", "b=2"], ["nb", "-p", "a=1", "-p", "b=2"]),
        (["-p", "rate", "-1e-3", "--json"], ["-p", "rate=-1e-3", "--json"]),
        (["--parameter", "a", "x=y"], ["--parameter", "a=x=y"]),
        (["-p", "a"], ["-p", "a"]),
        (["-p"], ["-p"]),
    ],
)
def test_both_ways_of_giving_a_parameter(given: list[str], joined: list[str]) -> None:
    assert join_pairs(given) == joined


def test_list_reads_the_cards_and_filters() -> None:
    from kdcore.registry import list_methods

    cards = json.loads(kdw("list", "--json").stdout)
    assert [c["slug"] for c in cards] == list_methods()
    pld = next(c for c in cards if c["slug"] == "pld")
    assert pld["notebook"] == "notebooks/ranking/pld.ipynb" and "ranking" in pld["axes"]["knowledge"]
    assert [c["slug"] for c in json.loads(kdw("list", "--json", "--where", "family=ranking").stdout)] == list_methods(
        family="ranking"
    )
    assert "pld" in kdw("list", "pl*").stdout and "vanilla_kd" not in kdw("list", "pl*").stdout
    assert "family" in kdw("list", "--where", "family=no", code=2).output
    assert "AXIS=VALUE" in kdw("list", "--where", "family", code=2).output


def test_tasks_with_their_options() -> None:
    found = {t["name"]: t for t in json.loads(kdw("tasks", "--json").stdout)}
    assert found["digits"]["options"]["train_size"] == "None" and found["images"]["required"] == ["root"]
    assert "digits" in kdw("tasks").stdout


def test_parameters_of_a_notebook(project: Path) -> None:
    listed = json.loads(kdw("run", "two", "--help-parameters", "--json").stdout)
    assert listed[0] == {"name": "n", "type": "int", "default": 2, "help": "a number"}
    assert "a number" in kdw("run", "fam/two", "--help-parameters").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "three"), "There are: fam/two, one"),
        (("run", "one", "-p", "m", "3"), "no parameter 'm'"),
        (("run", "one", "-p", "n", "many"), "n must be int"),
        (("run", "one", "-p", "n"), "followed by a name and a value"),
        (("run", "one", "--run-id", "../x"), "run_id must be"),
        (("notebooks", "--only", "zzz"), "no notebook matches 'zzz'"),
        (("notebooks", "--only", "one", "--only", "zzz"), "no notebook matches 'zzz'"),
        (("runs", "--status", "well"), "--status must be one of"),
        (("pair", "notebooks/absent.py"), "no percent script"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_reason_and_makes_nothing(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in kdw(*arguments, code=2).output
    assert not (project / "runs").exists()


def test_a_missing_kernel_is_exit_code_1(project: Path) -> None:
    assert "no Jupyter kernel 'nope'" in kdw("run", "one", "--kernel", "nope", code=1).output


@pytest.mark.notebook
def test_run_and_runs(project: Path) -> None:
    done = json.loads(kdw("run", "one", "-p", "n", "7", "--json", "--run-id", "a").stdout)
    assert done["status"] == "done" and done["metrics"]["n"]["value"] == 7
    failed = kdw("run", "one", "-p", "fail", "yes", "--run-id", "b", code=1)
    assert "AssertionError: asked to fail" in failed.output
    assert [(r["id"], r["status"]) for r in json.loads(kdw("runs", "--json").stdout)] == [
        ("b", "failed"),
        ("a", "done"),
    ]
    assert [r["id"] for r in json.loads(kdw("runs", "one", "--status", "done", "--json").stdout)] == ["a"]


@pytest.mark.notebook
def test_notebooks_against_baselines(project: Path) -> None:
    baselines = project / "tests" / "notebooks" / "baselines"
    assert '"n": {' in kdw("notebooks", "--update").output
    names = ["fam/two.json", "one.json"]
    assert sorted(p.relative_to(baselines).as_posix() for p in baselines.rglob("*.json")) == names
    (project / "notebooks" / "one.ipynb").write_text(notebook_text(SCRIPT.replace("n: int = 2", "n: int = 3")))
    both = kdw("notebooks", "--only", "fam/*", "--only", "one", "--json", code=1)
    assert "fam/two" in both.stdout and '"one"' in both.stdout
    drifted = kdw("notebooks", "--only", "one", code=1).output
    assert "drift" in drifted and "kdw notebooks --update" in drifted and "fam/two" not in drifted
    updated = kdw("notebooks", "--only", "one", "--update").output
    changed = [line.replace(" ", "") for line in updated.splitlines() if line.startswith(("-", "+"))][2:]
    assert changed == ['-"value":2,', '+"value":3,']
    assert json.loads((baselines / "one.json").read_text())["metrics"]["n"]["value"] == 3
    assert sorted(p.relative_to(baselines).as_posix() for p in baselines.rglob("*.json")) == names


def test_a_killed_run_is_shown_and_marked(project: Path) -> None:
    info = {"id": "k", "status": "running", "notebook": "one", "started": 1.0, **owner(), "process_start": "1"}
    write_json(project / "runs" / "k" / "run.json", info)
    assert json.loads(kdw("runs", "--json").stdout)[0]["status"] == "interrupted"
    assert json.loads((project / "runs" / "k" / "run.json").read_text())["status"] == "running"
    kdw("runs", "--mark")
    assert json.loads((project / "runs" / "k" / "run.json").read_text())["status"] == "interrupted"


def test_pair_checks_writes_and_goes_back(project: Path) -> None:
    script, notebook = project / "notebooks" / "one.py", project / "notebooks" / "one.ipynb"
    kdw("pair", "--check")
    script.write_text(SCRIPT + "\n# %%\nnew = 1\n")
    assert "cells differ" in kdw("pair", "--check", code=1).output
    assert "new = 1" not in notebook.read_text()
    assert "one.ipynb" in kdw("pair").output and "new = 1" in notebook.read_text()
    kdw("pair", "--check")
    notebook.write_text(notebook.read_text().replace("new = 1", "new = 5"))
    kdw("pair", "--from-notebook", str(notebook))
    assert "new = 5" in script.read_text() and "new = 5" in notebook.read_text()
    kdw("pair", "--check")


def test_lab_starts_on_the_start_page_with_our_settings(project: Path) -> None:
    start = project / "notebooks" / "00_start_here.ipynb"
    start.write_text(notebook_text(SCRIPT))
    command = kdw("lab", "--dry-run", "--no-browser", "--port", "9999").output
    assert "/lab/tree/notebooks/00_start_here.ipynb" in command and "--port=9999" in command
    assert "--no-browser" in command and "app_settings_dir" in command and f"root_dir={project}" in command
    start.unlink()
    assert "no notebook is called '00_start_here'" in kdw("lab", "--dry-run", code=2).output


def test_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    checks = {c["name"]: c for c in json.loads(kdw("doctor", "--json").stdout)}
    assert checks["torch"]["ok"] and checks["kernel python3"]["ok"] and not checks["GPU"]["needed"]
    monkeypatch.setattr("workbench.runs.doctor.kernels", dict)
    assert "kernel python3" in kdw("doctor", code=1).output
