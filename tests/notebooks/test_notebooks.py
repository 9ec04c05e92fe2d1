"""Every notebook is executed by the runner in its quick form; what it records is compared with the baselines.

``kdw notebooks --update`` writes the baselines and prints the diff; a change of those files is reviewed like code.
A lesson of which nothing changed since a green run is skipped (``workbench.runs.lessons``), but for the first of every
family; ``KDW_ALL_LESSONS=1`` or ``CI=true`` runs all. A quick lesson may compute for 25 CPU seconds, teachers included
whether they were trained or read; what it took is listed at the end of the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.runs import lessons, run_notebook
from workbench.runs.baselines import compare_run, drift_table, load_baselines
from workbench.runs.files import find_notebooks, notebook_key, project_root
from workbench.runs.parameters import read_parameters

ROOT = project_root(Path(__file__).parent)
NOTEBOOKS = {notebook_key(path, ROOT): path for path in find_notebooks(ROOT)}
FOLDER = Path(__file__).parent / "baselines"
BASELINES = load_baselines(FOLDER)
ALWAYS = lessons.always(NOTEBOOKS)


def test_baselines_and_notebooks_are_the_same_set() -> None:
    assert NOTEBOOKS, "there are no notebooks"
    assert set(BASELINES) == set(NOTEBOOKS)


@pytest.mark.parametrize("key", NOTEBOOKS)
def test_parameters_are_typed_and_explained(key: str) -> None:
    parameters = read_parameters(NOTEBOOKS[key])
    assert "quick" not in parameters or parameters["quick"].default is True, "the test run is the quick one"
    assert [p.name for p in parameters.values() if not p.help] == []


@pytest.mark.parametrize("key", NOTEBOOKS)
def test_nothing_committed_is_executed(key: str) -> None:
    document = json.loads(NOTEBOOKS[key].read_text(encoding="utf-8"))
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in document["cells"])
    assert document["metadata"]["kernelspec"]["name"] == "python3" and "widgets" not in document["metadata"]


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("key", NOTEBOOKS)
def test_notebook(key: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    if key not in ALWAYS and not lessons.all_wanted() and (earlier := lessons.unchanged(NOTEBOOKS[key], ROOT)):
        pytest.skip(f"unchanged since run {earlier}")
    with lessons.watch_slowness() as speed:
        run = run_notebook(NOTEBOOKS[key], runs_dir=tmp_path)
    assert run.ok, f"{run.failure}\n{run.failure.traceback if run.failure else ''}"
    problems = drift_table(compare_run(run, BASELINES))
    assert not problems, f"\n{problems}\n\nIf the new numbers are right: kdw notebooks --only {key} --update"
    size = run.executed.stat().st_size
    assert size < 3_000_000, f"the executed notebook has {size / 1e6:.1f} MB"
    cells = json.loads(run.executed.read_text(encoding="utf-8"))["cells"]
    complaints = [o["text"] for c in cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    assert complaints == [], "a cell wrote to standard error"
    assert run.computing is not None, "the kernel was not measured"
    allowed, slowness = lessons.allowed_seconds(key, FOLDER), speed.mean * lessons.SLACK
    took = f"{run.computing:.1f} CPU s of {allowed:g} allowed, this machine {speed.mean:.2f} times as slow"
    record_property("lesson", f"{key}: {took}" if run.computing <= allowed * slowness else f"{key}: TOO LONG, {took}")
    assert run.computing <= allowed * slowness, f"{key} computes too long: {took}. Slowest: {run.slowest(5)}"
    lessons.remember(run, NOTEBOOKS[key], ROOT)
