"""How a run ends: by a cell that exits, by floods of output, by a signal at any moment; what is left then."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workbench.cli import app
from workbench.runs import list_runs, run_notebook, store
from workbench.runs.pairing import notebook_text
from workbench.runs.store import mark_interrupted, process_start
from workbench.scratch import sweep

pytestmark = pytest.mark.notebook


def make(folder: Path, code: str, name: str = "tiny") -> Path:
    """A notebook with ``code`` in its first cell and a second cell that prints."""
    path = folder / f"{name}.ipynb"
    path.write_text(notebook_text(f"# %%\n{code}\n\n# %%\nprint('af' + 'ter')\n"), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------------- exits


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit()", "by SystemExit()"), ("import sys; sys.exit(0)", "by SystemExit(0)"),
        ("import sys; sys.exit(3)", "by SystemExit(3)"), ("import sys; sys.exit('no data')", "by SystemExit(no data)"),
        ("raise SystemExit", "by SystemExit()"), ("def stop():\n    raise SystemExit(None)\nstop()", "by SystemExit"),
        ("exit()", "by exit() or quit()"), ("quit()", "by exit() or quit()"), ("exit(0)", "by exit() or quit()"),
        ("get_ipython().ask_exit()", "by exit() or quit()"),
    ],
)  # fmt: skip
def test_a_cell_that_ends_the_notebook_is_a_failure_of_the_run(tmp_path: Path, code: str, said: str) -> None:
    run = run_notebook(make(tmp_path, code), runs_dir=tmp_path / "runs")
    assert run.status == "failed" and run.failure is not None
    assert (run.failure.cell, run.failure.exception) == (1, "SystemExit")
    assert said in run.failure.message and "the cells after it did not run" in run.failure.message
    executed = json.loads(run.executed.read_text())["cells"]
    assert "error" in [o["output_type"] for o in executed[0]["outputs"]] and executed[1]["outputs"] == []


def test_an_exit_in_the_last_cell_or_in_one_that_may_raise_fails_too(tmp_path: Path) -> None:
    (tmp_path / "x.ipynb").write_text(notebook_text('# %%\n1\n\n# %% tags=["raises-exception"]\nraise SystemExit(0)\n'))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "x.ipynb"), "--runs-dir", str(tmp_path / "runs")])
    assert done.exit_code == 1 and "failed: cell 2: SystemExit: the cell ended the notebook" in done.output
    assert list_runs(tmp_path / "runs")[0].status == "failed"


@pytest.mark.parametrize(
    ("code", "said", "fork"),
    [
        ("import os; os._exit(0)", "exit code 0 (os._exit", "1"), ("import os; os._exit(3)", "exit code 3", "1"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL (killed, by hand or for want of memory)", "1"),
        ("import os; os.abort()", "SIGABRT", "1"), ("import os; os._exit(4)", "exit code 4", "0"),
    ],
)  # fmt: skip
def test_a_kernel_that_ends_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str, fork: str
) -> None:
    """Forked from the zygote, and started as an ordinary process."""
    monkeypatch.setenv("KDW_FORK", fork)
    run = run_notebook(make(tmp_path, code), runs_dir=tmp_path / "runs")
    assert run.status == "failed" and run.failure is not None and run.failure.exception == "DeadKernelError"
    assert "the kernel ended while the cell ran: " in run.failure.message and said in run.failure.message
    assert run.failure.cell == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("(run / 'run.json').unlink()", "done"), ("shutil.rmtree(run)", "done"),
        ("(run / 'run.json').write_text('[')", "done"), ("(run / 'usage.json').write_text('[')", "done"),
        ("(run / 'metrics.json').write_text('[')", "unreadable"), ("(run / 'notebook.ipynb').mkdir()", "done"),
    ],
)  # fmt: skip
def test_whatever_a_cell_does_to_the_run_folder_how_it_ended_is_written(tmp_path: Path, code: str, status: str) -> None:
    head = "import os, pathlib, shutil; run = pathlib.Path(os.environ['KDW_RUN_DIR'])\n"
    path = make(tmp_path, "1")
    path.write_text(notebook_text(f"# %%\n{head}{code}\n"))
    done = CliRunner().invoke(app, ["run", str(path), "--runs-dir", str(tmp_path / "runs"), "--run-id", "r"])
    (run,) = list_runs(tmp_path / "runs")
    assert (run.id, run.status) == ("r", status), (run.failure, done.output)
    assert done.exit_code == int(status != "done") and not isinstance(done.exception, Exception)


# ------------------------------------------------------------------------------------------------------------ floods


def outputs(run: store.RunRecord, cell: int) -> str:
    parts = json.loads(run.executed.read_text())["cells"][cell]["outputs"]
    return "".join("".join(p.get("text", "")) for p in parts)


def test_a_flood_of_prints_ends_in_a_bounded_notebook_with_a_notice(tmp_path: Path) -> None:
    code = "for _ in range(100):\n    print('x' * 99_999)"
    run = run_notebook(make(tmp_path, code), runs_dir=tmp_path / "runs", output_limit=1)
    assert run.ok and run.executed.stat().st_size < 1_000_000
    said = outputs(run, 0)
    assert said.startswith("x" * 99_999) and "9.5 MB of this cell's outputs are not kept" in said
    assert "A run keeps 1 MB" in said and "--output-limit" in said
    assert outputs(run, 1) == "after\n" and run.info["output_limit"] == 1, "what comes after it is kept"


def test_pictures_errors_and_one_huge_text_are_bounded_too(tmp_path: Path) -> None:
    code = (
        "for i in range(50):\n    display({'text/html': 'p' * 50_000}, raw=True)\n"
        "handle = display({'text/html': 'u'}, raw=True, display_id='u')\n"
        "for i in range(30):\n    display({'text/html': 'u' * 100_000}, raw=True, display_id='u', update=True)\n"
        "raise ValueError('m' * 10_000_000)"
    )
    run = run_notebook(make(tmp_path, code), runs_dir=tmp_path / "runs", output_limit=1)
    assert run.failure is not None and run.failure.exception == "ValueError" and run.failure.message == "m" * 2000
    assert run.executed.stat().st_size < 1_100_000 and (run.folder / "run.json").stat().st_size < 20_000
    assert "of this cell's outputs are not kept" in run.executed.read_text()


def test_outputs_that_are_cleared_or_replaced_do_not_count(tmp_path: Path) -> None:
    code = (
        "from IPython.display import clear_output\n"
        "for i in range(20):\n    print(str(i) * 100_000)\n    clear_output(wait=i % 2 == 0)\nprint('left')"
    )
    run = run_notebook(make(tmp_path, code), runs_dir=tmp_path / "runs", output_limit=1)
    assert run.ok and "left" in outputs(run, 0) and "not kept" not in outputs(run, 0)


def test_what_goes_into_an_output_widget_is_kept_and_bounded_too(tmp_path: Path) -> None:
    code = (
        "import ipywidgets\nprint('before')\nbox = ipywidgets.Output()\n"
        "with box:\n    print('inside')\nbox.clear_output()\nwith box:\n    print('again')\n"
        "    for i in range(30):\n        print('z' * 99_999)"
    )
    run = run_notebook(make(tmp_path, code), runs_dir=tmp_path / "runs", output_limit=1)
    assert run.failure is None and outputs(run, 0).startswith("before\ninside\nagain\nzzz")
    assert "of this cell's outputs are not kept" in outputs(run, 0) and outputs(run, 1) == "after\n"


def test_a_flood_of_small_messages_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the sockets hold: the end of the cell's messages is lost, which is told and not waited for."""
    monkeypatch.setattr("workbench.runs.kernel._QUIET_SECONDS", 1.0)
    code = "for i in range(8_000): display(i)"
    run = run_notebook(make(tmp_path, code), runs_dir=tmp_path / "runs", output_limit=0.2)
    assert run.ok and outputs(run, 1) == "after\n"
    assert "not kept" in outputs(run, 0) or "are lost" in outputs(run, 0)
    assert run.executed.stat().st_size < 1_000_000


@pytest.mark.parametrize("seconds", [0.5, 1])
def test_a_timeout_may_be_a_fraction_of_a_second(tmp_path: Path, seconds: float) -> None:
    run = run_notebook(make(tmp_path, "import time; time.sleep(60)"), runs_dir=tmp_path / "runs", timeout=seconds)
    assert (
        run.failure is not None and "Timeout" in run.failure.exception and f"after {seconds} s" in run.failure.message
    )


# ------------------------------------------------------------------------------------------------------------- kills

DIE = "lambda *a, **k: os.kill(os.getpid(), 9)"
MOMENTS = {
    "before run.json is written": f"execute.write_json = {DIE}",
    "while run.json is written": f"kdcore.files.os.replace = {DIE}",
    "before the notebook is copied": f"execute._with_parameters = {DIE}",
    "before the kernel starts": f"kernel.fork_kernel = {DIE}",
    "when the kernel has started": f"kernel.RunClient.papermill_execute_cells = {DIE}",
    "in a cell": "",
    "after the last cell": f"execute.trim_log = {DIE}",
    "before the end is written": f"execute.collect = {DIE}",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_runner_killed_at_any_moment_leaves_an_interrupted_run_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    runs, temporary = tmp_path / "runs", tmp_path / "t"
    temporary.mkdir()
    cell = "import json, os; os.kill(json.load(open(os.environ['KDW_RUN_DIR'] + '/run.json'))['pid'], 9)"
    path = make(tmp_path, cell if moment == "in a cell" else "1")
    code = (
        "import os, kdcore.files\nfrom workbench.runs import execute, kernel\n"
        f"{MOMENTS[moment]}\nexecute.run_notebook({str(path)!r}, runs_dir={str(runs)!r}, run_id='k')"
    )
    runner = subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)}, check=False)
    assert runner.returncode == -signal.SIGKILL
    monkeypatch.setattr(store, "_UNBORN_SECONDS", 0.0)
    assert [p.name for p in runs.iterdir()] == ["k"]
    (run,) = list_runs(runs)
    assert (run.id, run.status) == ("k", "interrupted") and run.metrics == {} and "ended before" in str(run.failure)
    assert [r.id for r in mark_interrupted(runs)] == ["k"] and mark_interrupted(runs) == []
    assert not [p.name for p in run.folder.iterdir() if p.name.startswith(".") or "partial" in p.name]
    sweep(temporary)
    assert not [p.name for p in temporary.iterdir() if p.name.startswith("kdw-")]


def test_runners_killed_at_random_moments_are_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two with the seed 0; ``KDW_KILLS=25`` for a longer draw of moments from the start to the end of a run."""
    runs, temporary = tmp_path / "runs", tmp_path / "t"
    temporary.mkdir()
    path = make(tmp_path, "import time; time.sleep(1)")
    code = f"from workbench.runs import run_notebook; run_notebook({str(path)!r}, runs_dir={str(runs)!r})"
    monkeypatch.setattr(store, "_UNBORN_SECONDS", 0.0)
    moments = random.Random(0)
    for _ in range(int(os.environ.get("KDW_KILLS", "2"))):
        runner = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)})
        time.sleep(moments.uniform(0.3, 8.0))
        runner.kill()
        runner.wait()
        found = {r.folder.name: r.status for r in list_runs(runs)}
        assert set(found) == {p.name for p in runs.glob("*")} and set(found.values()) <= {"interrupted", "done"}
    sweep(temporary)
    assert not list(temporary.glob("kdw-*"))


@pytest.mark.parametrize("victim", ["kernel", "zygote"])
def test_a_kernel_or_zygote_killed_from_outside_fails_the_run_and_the_next_one_works(
    tmp_path: Path, victim: str
) -> None:
    note = tmp_path / "pids"
    cell = f"import os, time\nopen({str(note)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}} ')\ntime.sleep(100)"
    runs = str(tmp_path / "runs")
    code = (
        f"from workbench.runs import run_notebook\n"
        f"one = run_notebook({str(make(tmp_path, cell))!r}, runs_dir={runs!r}, run_id='one')\n"
        f"two = run_notebook({str(make(tmp_path, '2', 'other'))!r}, runs_dir={runs!r}, run_id='two')\n"
        "assert one.status == 'failed' and 'SIGKILL' in str(one.failure) and two.ok, (one.failure, two.failure)"
    )
    runner = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 90
    while not note.is_file() or len(note.read_text().split()) < 2:
        assert time.monotonic() < deadline and runner.poll() is None
        time.sleep(0.05)
    kernel, zygote = map(int, note.read_text().split())
    os.kill({"kernel": kernel, "zygote": zygote}[victim], signal.SIGKILL)
    assert runner.wait(60) == 0
    assert process_start(kernel) is None
    assert {r.id: r.status for r in list_runs(runs)} == {"one": "failed", "two": "done"}
