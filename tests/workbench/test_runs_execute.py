"""Runs: executed notebooks, run folders, and every way in which a run can end badly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcore.files import write_atomic
from workbench.runs import RunRecord, list_runs, run_many, run_notebook
from workbench.runs.execute import Job, KernelMissingError
from workbench.runs.files import read_json, write_json
from workbench.runs.pairing import notebook_text
from workbench.runs.parameters import ParameterError
from workbench.runs.store import find_run, mark_interrupted, owner, process_start, read_run

PARAMETERS = '# %% tags=["parameters"]\nn: int = 2  # a number\nname: str = "x"  # a word\n\n# %%\n'
RECORD = "from workbench.runs import record\nrecord(n=n, half=n / 2, tol={'half': 0.1})\n"


def make(folder: Path, code: str, name: str = "tiny") -> Path:
    """A notebook with the parameters ``n`` and ``name``, and ``code`` in its second code cell."""
    (folder / "pyproject.toml").touch()
    path = folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(notebook_text(PARAMETERS + code), encoding="utf-8")
    return path


@pytest.mark.notebook
def test_a_run_folder_holds_the_executed_notebook_the_record_and_what_it_ran_on(tmp_path: Path) -> None:
    code = f"{RECORD}import os\nprint(*map(os.environ.get, ('KDW_STATIC', 'OMP_NUM_THREADS', 'MINE')), os.getcwd())"
    path, seen = make(tmp_path, code), []
    run = run_notebook(path, {"n": 5}, runs_dir=tmp_path / "runs", run_id="one", env={"MINE": "yes"},
                       progress=lambda done, total, text: seen.append((done, total, text)))  # fmt: skip
    assert run.ok and run.failure is None and run.seconds is not None and run.seconds > 0
    assert {n: m["value"] for n, m in run.metrics.items()} == {"n": 5, "half": 2.5}
    assert run.parameters == {"n": 5, "name": "x"} and run.info["given"] == {"n": 5}
    assert run.record["parameters"] == run.parameters and run.record["source_sha256"] == run.info["source_sha256"]
    assert run.info["versions"]["torch"] and run.info["git"]["commit"] == "unknown" and run.info["static"] is True
    assert seen[-1] == (3, 3, "tiny")
    cells = json.loads(run.executed.read_text())["cells"]
    assert ["".join(c["outputs"][-1]["text"]) for c in cells if c.get("outputs")] == [f"1 1 yes {path.parent}\n"]
    mimes = [set(o["data"]) for c in cells for o in c.get("outputs", []) if "data" in o]
    assert mimes == [{"application/vnd.kdcore.result+json", "text/html", "text/plain"}]
    assert sorted(p.name for p in run.folder.iterdir()) == ["kernel.log", "metrics.json", "notebook.ipynb", "run.json"]
    assert json.loads(path.read_text())["cells"][1]["outputs"] == [], "the source must stay as it was"
    with pytest.raises(FileExistsError, match="'one' exists already"):
        run_notebook(path, runs_dir=tmp_path / "runs", run_id="one")


@pytest.mark.notebook
def test_a_failing_cell_is_a_failed_run_with_cell_exception_and_traceback(tmp_path: Path) -> None:
    path = make(tmp_path, RECORD + "values = {}\n\n# %%\nvalues['absent']\n\n# %%\nprint('never')")
    run = run_notebook(path, runs_dir=tmp_path / "runs")
    assert run.status == "failed" and run.failure is not None
    assert (run.failure.cell, run.failure.exception, run.failure.message) == (3, "KeyError", "'absent'")
    assert "values['absent']" in run.failure.traceback and "\x1b" not in run.failure.traceback
    assert run.metrics == {} and run.record == {}, "what a failed run recorded is not a result"
    assert "KeyError" in run.executed.read_text() and "never\\n" not in run.executed.read_text()


@pytest.mark.notebook
def test_a_cell_that_takes_too_long_fails_the_run(tmp_path: Path) -> None:
    run = run_notebook(make(tmp_path, "import time; time.sleep(60)"), runs_dir=tmp_path / "runs", timeout=1)
    assert run.status == "failed" and run.failure is not None
    assert "Timeout" in run.failure.exception and run.failure.cell == 2


@pytest.mark.notebook
def test_a_kernel_that_dies_fails_the_run(tmp_path: Path) -> None:
    code = "1\n\n# %%\nimport os; os.write(2, b'last words'); os._exit(3)"
    run = run_notebook(make(tmp_path, code), runs_dir=tmp_path / "runs")
    assert run.status == "failed" and run.failure is not None and "Dead" in run.failure.exception
    assert run.failure.cell == 3 and "last words" in run.failure.traceback


@pytest.mark.notebook
def test_wrong_parameters_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = make(tmp_path, "1/0")
    for given, message in (({"m": 1}, "no parameter 'm'"), ({"n": "two"}, "n must be int")):
        with pytest.raises(ParameterError, match=message):
            run_notebook(path, given, runs_dir=tmp_path / "runs")
        with pytest.raises(ParameterError, match=message):
            run_many([path, Job(path, given)], runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_missing_kernel_is_an_early_error_with_the_list_of_kernels(tmp_path: Path) -> None:
    path = make(tmp_path, "1")
    with pytest.raises(KernelMissingError, match=r"no Jupyter kernel 'nope'(.|\n)*python3(.|\n)*ipykernel install"):
        run_notebook(path, runs_dir=tmp_path / "runs", kernel="nope")
    with pytest.raises(KernelMissingError):
        run_many([path], runs_dir=tmp_path / "runs", kernel="nope")
    assert not (tmp_path / "runs").exists()


def unwritable(tmp_path: Path) -> Path:
    """A folder nobody may write into, the superuser included."""
    if os.geteuid() == 0:
        return Path("/proc/self/fd")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    return folder


def test_a_run_folder_that_cannot_be_written_is_an_early_error_that_names_it(tmp_path: Path) -> None:
    path, locked = make(tmp_path, "1"), unwritable(tmp_path)
    with pytest.raises(OSError, match="cannot make a run folder in") as error:
        run_notebook(path, runs_dir=locked)
    assert str(locked) in str(error.value)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OSError, match="run folder"):
        run_notebook(path, runs_dir=blocked)


@pytest.mark.parametrize("run_id", ["../x", "a/b", ".hidden"])
def test_run_names_stay_inside_the_runs_folder(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ValueError, match="run_id must be"):
        run_notebook(make(tmp_path, "1"), runs_dir=tmp_path / "runs", run_id=run_id)


def test_unknown_notebooks_are_refused_with_those_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no notebook is called 'tinny'\. There are: tiny"):
        run_notebook("tinny")
    with pytest.raises(FileNotFoundError, match=r"there is no notebook .*other\.ipynb"):
        run_notebook("notebooks/other.ipynb")


@pytest.mark.notebook
def test_many_run_side_by_side_and_failures_are_collected(tmp_path: Path) -> None:
    good, bad = make(tmp_path, RECORD), make(tmp_path, "raise ValueError('no')", "bad")
    code = "import json, os; run = os.path.join(os.environ['KDW_RUN_DIR'], 'run.json')"
    code += (
        "\nimport time, pathlib\nruns = pathlib.Path(run).parents[1]\n"  # it strikes when the one that fails has failed
    )
    code += "while not any('ValueError' in p.read_text() for p in runs.glob('*-bad-*/run.json')): time.sleep(0.1)\n"
    killer = make(tmp_path, f"{code}os.kill(json.load(open(run))['pid'], 9)", "killer")
    seen: list[tuple[int, int]] = []
    runs = run_many([Job(good, {"n": 7}), bad, killer, Job(good, {"n": 8})], workers=2, runs_dir=tmp_path / "runs",
                    progress=lambda done, total, text: seen.append((done, total)))  # fmt: skip
    assert [r.notebook for r in runs] == ["tiny", "bad", "killer", "tiny"]
    assert runs[1].status == "failed" and "ValueError: no" in str(runs[1].failure)
    assert runs[2].status == "interrupted"
    assert runs[3].ok or runs[3].status == "interrupted"  # it may have shared the pool with the one that was killed
    assert seen[-1] == (4, 4) and len({r.id for r in runs}) == 4


@pytest.mark.notebook
def test_a_killed_run_is_interrupted_never_half_believed(tmp_path: Path) -> None:
    path = make(tmp_path, RECORD + "import time\n\n# %%\ntime.sleep(120)")
    call = f"run_notebook({str(path)!r}, runs_dir={str(tmp_path / 'runs')!r}, run_id='k')"
    code = f"from workbench.runs import run_notebook; {call}"
    process = subprocess.Popen([sys.executable, "-c", code])
    folder = tmp_path / "runs" / "k"
    deadline = time.monotonic() + 60
    while not (folder / "metrics.json").is_file():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    assert read_run(folder).status == "running" and read_run(folder).metrics == {}
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = read_run(folder)
    assert run.status == "interrupted" and run.metrics == {} and "process" in str(run.failure)
    assert read_json(folder / "run.json")["status"] == "running"
    assert [r.id for r in mark_interrupted(tmp_path / "runs")] == ["k"]
    assert read_json(folder / "run.json")["status"] == "interrupted"
    assert mark_interrupted(tmp_path / "runs") == []


# ---------------------------------------------------------------------------------------- the store, without kernels


def fake(folder: Path, **info: object) -> Path:
    defaults = {"id": folder.name, "status": "done", "notebook": "fam/x", "started": 1.0, "seconds": 2.0, **owner()}
    write_json(folder / "run.json", defaults | info)
    return folder


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    assert process_start(os.getpid()) == owner()["process_start"] is not None
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert process_start(child.pid) is None


def test_a_reused_process_number_does_not_make_a_dead_run_alive(tmp_path: Path) -> None:
    assert read_run(fake(tmp_path / "a", status="running")).status == "running"
    assert read_run(fake(tmp_path / "b", status="running", process_start="1")).status == "interrupted"
    assert read_run(fake(tmp_path / "c", status="running", host="elsewhere", pid=1)).status == "running"


def test_unreadable_runs_are_listed_as_such_and_others_in_order(tmp_path: Path) -> None:
    fake(tmp_path / "old", started=1.0)
    fake(tmp_path / "new", started=5.0, notebook="fam/y", status="failed",
         failure={"cell": 1, "exception": "E", "message": "m"})  # fmt: skip
    write_atomic(tmp_path / "torn" / "run.json", '{"status": "do')
    runs = {r.id: r for r in list_runs(tmp_path)}
    assert list(runs)[:2] == ["new", "old"] and runs["torn"].status == "unreadable" and runs["torn"].metrics == {}
    assert str(runs["new"].failure) == "cell 1: E: m"
    assert [r.id for r in list_runs(tmp_path, notebook="x")] == ["old"]
    assert [r.id for r in list_runs(tmp_path, status="failed")] == ["new"]
    assert list_runs(tmp_path / "absent") == []


def test_metrics_are_read_from_done_runs_only(tmp_path: Path) -> None:
    for status in ("failed", "running", "interrupted"):
        folder = fake(tmp_path / status, status=status)
        write_json(folder / "metrics.json", {"metrics": {"a": {"value": 1}}})
        assert read_run(folder).metrics == {}
    write_json(fake(tmp_path / "done") / "metrics.json", {"metrics": {"a": {"value": 1}}})
    assert read_run(tmp_path / "done").metrics == {"a": {"value": 1}}


def test_runs_are_found_by_the_beginning_of_their_name(tmp_path: Path) -> None:
    fake(tmp_path / "2026-a"), fake(tmp_path / "2026-b")
    assert find_run("2026-a", tmp_path).id == "2026-a"
    for name, message in (("2026", "several runs"), ("x", "several runs"), ("absent", "no run is")):
        with pytest.raises(FileNotFoundError, match=message):
            find_run(name, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no run\.json"):
        read_run(tmp_path)


def test_an_atomic_write_that_fails_leaves_the_old_content_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.json"
    write_atomic(target, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.json.*No space"):
        write_atomic(target, "new")
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_run_says_everything_a_script_may_want(tmp_path: Path) -> None:
    run = read_run(fake(tmp_path / "r", parameters={"n": 1}))
    assert isinstance(run, RunRecord)
    keys = {
        "id",
        "status",
        "notebook",
        "folder",
        "seconds",
        "cpu_seconds",
        "parameters",
        "metrics",
        "verdicts",
        "failure",
    }
    assert set(run.to_dict()) == keys and json.dumps(run.to_dict())
