"""Forked kernels: quick, alike, clean of each other, and gone when the runner is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.runs import run_notebook
from workbench.runs.pairing import notebook_text
from workbench.runs.store import RunRecord, process_start
from workbench.runs.zygote import can_fork

pytestmark = [
    pytest.mark.notebook,
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only"),
]
FACTS = """
import os, random, sys, time
seconds = time.process_time()
import numpy, torch, pandas, lightning.fabric, matplotlib.pyplot
from workbench.runs import record
leaked = hasattr(torch, "leak") or "KDW_LEAK" in os.environ
torch.leak, os.environ["KDW_LEAK"] = True, "1"
record(seconds=seconds, leaked=leaked, pid=os.getpid(), parent=os.getppid(), threads=torch.get_num_threads(),
       folder=os.getcwd(), static=os.environ.get("KDW_STATIC", ""), extra=os.environ.get("EXTRA", ""),
       draw=float(numpy.random.rand()), torch=float(torch.rand(())), python=random.random(), group=os.getpgid(0))
"""


def make(folder: Path, code: str) -> Path:
    (folder / "pyproject.toml").touch()
    path = folder / "notebooks" / "tiny.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(notebook_text("# %%\n" + code), encoding="utf-8")
    return path


def values(run: RunRecord) -> dict[str, object]:
    assert run.ok, f"{run.failure}\n{run.failure.traceback if run.failure else ''}"
    return {name: entry["value"] for name, entry in run.metrics.items()}


def test_kernels_are_forked_from_one_clean_process(tmp_path: Path) -> None:
    path = make(tmp_path, FACTS)
    one = values(run_notebook(path, runs_dir=tmp_path / "runs", env={"EXTRA": "a"}))
    two = values(run_notebook(path, runs_dir=tmp_path / "runs"))
    assert one["parent"] == two["parent"] != os.getpid() and one["pid"] != two["pid"]
    assert one["leaked"] is two["leaked"] is False, "nothing passes from one kernel to the next"
    assert (one["extra"], two["extra"], one["static"]) == ("a", "", "1")
    assert one["folder"] == str(path.parent) and one["threads"] == 1 and one["group"] == one["pid"]
    assert all(one[k] != two[k] for k in ("draw", "torch", "python")), "forks do not share their random numbers"
    assert float(str(two["seconds"])) <= 1.0, "CPU seconds until the first cell runs"
    assert process_start(int(str(two["pid"]))) is None, "no kernel is left"


def test_a_forked_kernel_and_an_ordinary_one_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, torch\nprint(torch.__version__, sys.path, __name__)\n1 / 0"
    path, said = make(tmp_path, code), []
    for fork in ("1", "0"):
        monkeypatch.setenv("KDW_FORK", fork)
        run = run_notebook(path, runs_dir=tmp_path / "runs")
        assert run.failure is not None and run.failure.exception == "ZeroDivisionError"
        outputs = json.loads(run.executed.read_text())["cells"][-1]["outputs"]
        said.append([o.get("text") for o in outputs])
    assert said[0] == said[1] and any(said[0])


@pytest.mark.parametrize("victim", ["runner", "zygote"])
def test_no_kernel_outlives_the_runner_or_the_zygote(tmp_path: Path, victim: str) -> None:
    note = tmp_path / "pids"
    path = make(tmp_path, f"import os, time\nopen({str(note)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}} ')\n"
                          "time.sleep(100)")  # fmt: skip
    code = f"from workbench.runs import run_notebook; run_notebook({str(path)!r}, runs_dir={str(tmp_path / 'runs')!r})"
    runner = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 90
    while not note.is_file() or len(note.read_text().split()) < 2:
        assert time.monotonic() < deadline and runner.poll() is None
        time.sleep(0.05)
    kernel, zygote = map(int, note.read_text().split())
    os.kill({"runner": runner.pid, "zygote": zygote}[victim], signal.SIGKILL)
    runner.wait(30)
    while any(process_start(pid) is not None for pid in (kernel, zygote)):
        assert time.monotonic() < deadline, "a process outlived its runner"
        time.sleep(0.05)


def test_other_kernels_are_started_as_they_ask(tmp_path: Path) -> None:
    assert can_fork([sys.executable, "-m", "ipykernel_launcher", "-f", "k.json"])
    assert not can_fork(["/elsewhere/bin/python3.99", "-m", "ipykernel_launcher", "-f", "k.json"])
    assert not can_fork([sys.executable, "-m", "xeus", "-f", "k.json"])
