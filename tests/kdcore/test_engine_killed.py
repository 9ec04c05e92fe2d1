"""Trainings of every kind, killed by SIGKILL wherever it happens, end after resuming in the bits of one left alone.

``KDCORE_KILLS=50`` makes 50 of them per kind instead of a handful; the places are drawn from a fixed seed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KINDS = ("Chapters", "Growing", "Bilevel", "Distillation")
KILLS = int(os.environ.get("KDCORE_KILLS", "3"))

_SCRIPT = """
import json, os, signal, sys
import torch
from kdcore.checkpoints import state_hash
from kdcore.distiller import Distiller
from kdcore.engine import Run, Step
from support import trainings

def start(kind, **options):
    if kind != "Distillation":
        return Run(getattr(trainings, kind)(), **options)
    return Distiller(trainings.net(5, 16), trainings.net(0), ["kd", "dist"], trainings.batches(shuffle=True),
                     trainings.batches(seed=1), epochs=4, **options)

def main(kind, folder, kill_at, every, before):
    losses = []
    def watch(event):
        # before the step's own save (callbacks run after it): dies inside the next step, or right after this one
        if isinstance(event, Step):
            losses.append([event.stage, event.step, event.loss])
            if event.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    options = {"checkpoint_dir": folder, "checkpoint_every": every, "resume": "auto", "callbacks": [watch]}
    run = start(kind, accelerator="cpu", **options)
    if before and kill_at > 0:
        step = run._apply
        def dying(*args):
            if run.step + 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args)
        run._apply = dying
    for _ in run.run():
        pass
    result = run.result()
    players = {n: state_hash(m) for n, m in run.training.named_children()}
    print(json.dumps({"players": players, "losses": losses, "steps": result.steps, "done": not result.stopped,
                      "history": [[e.stage, e.epoch, e.step, e.terms, e.lr, e.metrics] for e in result.history]}))

import lightning.fabric  # noqa: F401 (once, for all forks)
torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        main(**job)
        sys.stdout.flush()
        os._exit(0)
    print(json.dumps({"status": os.waitpid(child, 0)[1]}), flush=True)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """``run(kind, folder, kill_at)`` trains in a fresh fork of a process that has imported everything."""
    script = tmp_path_factory.mktemp("script") / "train.py"
    script.write_text(_SCRIPT)
    root = Path(__file__).parents[2]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as server:
        assert server.stdin is not None and server.stdout is not None

        def job(kind: str, folder: Path, kill_at: int = -1, every: int | None = None, before: bool = False) -> Any:
            asked = {"kind": kind, "folder": str(folder), "kill_at": kill_at, "every": every, "before": before}
            server.stdin.write(json.dumps(asked) + "\n")  # type: ignore[union-attr]
            server.stdin.flush()  # type: ignore[union-attr]
            lines: list[Any] = []
            while not lines or "status" not in lines[-1]:
                lines.append(json.loads(server.stdout.readline()))  # type: ignore[union-attr]
            if kill_at > 0:
                assert lines == [{"status": signal.SIGKILL}], "the process was to be killed"
                return None
            assert lines[-1]["status"] == 0
            return lines[0]

        yield job
        server.stdin.close()


@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere_and_resumed(kind: str, run: Any, tmp_path: Path) -> None:
    whole = run(kind, tmp_path / "whole")
    assert whole["done"] and len(whole["losses"]) == whole["steps"]
    draw = random.Random(f"{kind} 0")
    for number in range(KILLS):
        folder, at = tmp_path / str(number), draw.randint(1, whole["steps"])
        every, before = draw.choice([None, 1, 2]), draw.random() < 0.5
        run(kind, folder, at, every, before)
        resumed = run(kind, folder, every=every)
        where = f"kill {number}: step {at}, every {every}, {'inside' if before else 'after'} the step"
        for key in ("players", "history", "steps", "done"):
            assert resumed[key] == whole[key], f"{key} differ; {where}"
        done = len(whole["losses"]) - len(resumed["losses"])
        assert resumed["losses"] == whole["losses"][done:], where


def test_killed_again_and_again(run: Any, tmp_path: Path) -> None:
    """Every step of every stage, one after the other, in one folder."""
    whole = run("Growing", tmp_path / "whole")
    for at in range(2, whole["steps"] + 1):
        run("Growing", tmp_path / "often", at, 1)
    resumed = run("Growing", tmp_path / "often", every=1)
    assert resumed["players"] == whole["players"] and resumed["history"] == whole["history"]
