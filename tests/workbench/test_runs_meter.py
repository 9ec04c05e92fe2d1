"""What a run says of itself: CPU seconds by cell, teachers, and the repository's files that it rests on."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from workbench.runs import run_notebook
from workbench.runs.files import sha256
from workbench.runs.meter import ROOT, collect, hashes
from workbench.runs.pairing import notebook_text
from workbench.runs.store import RunRecord

BUSY = """
# %% [markdown]
# Words
# %%
# a comment
import time
def burn(seconds, clock=time.process_time):
    end = clock() + seconds
    while clock() < end:
        pass

burn(0.3)
# %%

# %%
import subprocess, sys
done = subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.5: pass"], check=True)
# %%
import kdcore.functional.divergences, workbench.runs.records
import workbench, pkgutil, kdcore.models, pathlib
names = [m.name for m in pkgutil.iter_modules(kdcore.models.__path__)]
pages = list(pathlib.Path(workbench.__path__[0], "..", "docs").glob("*.md"))
text = open(workbench.__path__[0] + "/../kdcore/collection.csv").read()
"""


def make(folder: Path, code: str) -> Path:
    (folder / "pyproject.toml").touch()
    path = folder / "notebooks" / "tiny.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(notebook_text("# %%\n" + code), encoding="utf-8")
    return path


@pytest.mark.notebook
@pytest.mark.parametrize("fork", ["1", "0"])
def test_cells_are_measured_with_their_children_and_sources_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork: str
) -> None:
    monkeypatch.setenv("KDW_FORK", fork)
    path = make(tmp_path, BUSY)
    run = run_notebook(path, runs_dir=tmp_path / "runs")
    assert run.ok, run.failure
    cells = {c["title"]: c for c in run.info["cells"]}
    assert len(cells) == 3 and cells["def burn(seconds, clock=time.process_time):"]["cell"] == 3
    seconds = [c["cpu_seconds"] for c in run.info["cells"]]
    assert 0.29 < seconds[0] < 2 and 0.49 < seconds[1] < 3
    assert run.cpu_seconds == pytest.approx(run.info["start_cpu_seconds"] + sum(seconds), abs=0.2)
    assert run.computing == pytest.approx(sum(seconds)) and run.info["teachers"] == []
    sources = run.info["sources"]
    assert {"kdcore/functional/divergences.py", "workbench/runs/records.py", "kdcore/collection.csv"} <= set(sources)
    assert not [name for name in sources if name.endswith(".pyc") or not (ROOT / name).exists()]
    assert [name for name in sources if name.endswith("/")] == ["docs/", "kdcore/models/"], "of which all was asked for"
    assert "kdcore/methods/pld.py" not in sources and "workbench/cli.py" not in sources
    name = "kdcore/functional/divergences.py"
    assert sources[name] == sha256((ROOT / name).read_bytes()) and run.info["sources_moved"] == []
    document, source = (json.loads(p.read_text()) for p in (run.executed, path))
    assert len(document["cells"]) == len(source["cells"]), "measuring adds no cell"
    assert not (run.folder / "usage.json").exists()
    assert "cell 5 (done = subprocess.run(" in run.slowest(3) and run.slowest(3).count("cell ") == 3


@pytest.mark.notebook
def test_a_run_that_fails_or_dies_has_told_what_it_did_before(tmp_path: Path) -> None:
    start = "import kdcore.functional.divergences\n"
    failing = run_notebook(make(tmp_path, f"{start}\n# %%\n1 / 0\n\n# %%\n2"), runs_dir=tmp_path / "runs")
    assert failing.status == "failed" and len(failing.info["cells"]) == 2
    dying = run_notebook(make(tmp_path, f"{start}\n# %%\nimport os; os._exit(3)"), runs_dir=tmp_path / "runs")
    assert dying.status == "failed" and [c["title"] for c in dying.info["cells"]] == [start.strip()]
    for run in (failing, dying):
        assert run.cpu_seconds and "kdcore/functional/divergences.py" in run.info["sources"]


def test_a_source_written_during_the_run_is_named(tmp_path: Path) -> None:
    note = {"cpu_seconds": 1.5, "start_cpu_seconds": 0.5, "cells": [{"count": 1, "cpu_seconds": 1.0}], "teachers": []}
    name = "workbench/runs/meter.py"
    for started, moved in ((time.time(), []), (os.stat(ROOT / name).st_mtime - 1, [name])):
        (tmp_path / "usage.json").write_text(json.dumps(note | {"sources": [name]}))
        assert collect(tmp_path, started)["sources_moved"] == moved
    assert collect(tmp_path, 0.0) == {}, "a kernel without the extension says nothing"


def test_teachers_from_the_cache_count_as_if_they_had_been_trained() -> None:
    cells = [{"cell": 2, "title": "x", "cpu_seconds": 3.0}, {"cell": 4, "title": "y", "cpu_seconds": 1.0}]
    read = {"label": "digits-cnn", "cpu_seconds": 5.0, "cached": True}
    info = {"cpu_seconds": 4.6, "cells": cells, "teachers": [read, read | {"cached": False, "label": "made"}]}
    run = RunRecord("r", Path(), "done", info=info)
    assert run.computing == 9.0 and run.cpu_seconds == 4.6
    assert run.slowest(1) == "cell 2 (x): 3.0 s; teacher digits-cnn, from the cache: 5.0 s"
    assert RunRecord("r", Path(), "done").computing is None and RunRecord("r", Path(), "done").slowest() == ""


def test_hashes_name_what_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert hashes(["a", "b"], tmp_path) == {"a": sha256("x"), "b": "absent"}
    before = hashes(["./"], tmp_path)
    (tmp_path / "a").write_text("y")
    (tmp_path / "__pycache__").mkdir()
    assert hashes(["./"], tmp_path) == before, "a folder is its names"
    (tmp_path / "c").touch()
    assert hashes(["./"], tmp_path) != before


@pytest.mark.skipif(sys.platform != "linux", reason="needs resource usage of children")
def test_children_that_have_ended_are_counted() -> None:
    import subprocess

    from workbench.runs.meter import used

    before = used()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert used() - before > 0.29
