"""A training killed with SIGKILL at any step and resumed ends in the same bits as one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# The training runs in processes of its own: the killed ones die in the middle of a step, with no chance to tidy up.
_SCRIPT = '''
import json, os, random, signal, sys
import numpy as np, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from kdcore.checkpoints import state_hash
from kdcore.distiller import Step, distill
from kdcore.method import CrossEntropy, Method, Needs

class Noisy(Dataset):
    """Augmentation that draws from all three global generators."""
    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.x, self.y = torch.rand(26, 1, 4, 4, generator=g), torch.randint(3, (26,), generator=g)
    def __len__(self):
        return 26
    def __getitem__(self, i):
        x = self.x[i] + 0.1 * torch.randn(1, 4, 4) + 0.1 * random.random() + 0.1 * np.random.random()
        return x, self.y[i]

class Memory(Method):
    """Learns a projector, keeps a moving average, draws random numbers, needs indices."""
    card, name, label, knobs = CrossEntropy.card, "memory", "memory", ()
    needs = Needs(index=True)
    def setup(self, student, teacher, sample):
        self.adapt = nn.Linear(3, 3)
        self.register_buffer("mean", torch.zeros(26, 3))
    def terms(self, s):
        noise = 0.01 * torch.randn(3, generator=s.generator)
        return {"memory": (self.adapt(s.student_logits) + noise - s.teacher_logits).square().mean()
                + (s.student_logits - self.mean[s.index]).square().mean()}
    def on_step_end(self, s):
        self.mean[s.index] = 0.9 * self.mean[s.index] + 0.1 * s.student_logits

def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))

def main(folder, kill_at, workers, every, accumulate):
    """Train; die by SIGKILL at the given steps' first occurrence, in a callback, that is after a possible save."""
    data = Noisy()
    g = torch.Generator().manual_seed(3) if workers else None
    loader = DataLoader(data, 4, shuffle=True, generator=g, num_workers=workers, persistent_workers=workers > 0)
    losses = []
    def watch(event):
        if isinstance(event, Step):
            losses.append([event.step, event.loss, event.grad_norm])
            if event.step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    student, method = net(2), Memory()
    result = distill(net(1), student, method, loader, DataLoader(data, 5, shuffle=True), epochs=3, optimizer="sgd",
                     lr=0.05, accelerator="cpu", checkpoint_dir=folder, checkpoint_every=every, resume="auto",
                     callbacks=[watch], accumulate=accumulate)
    best = nn.Sequential(*net(0)); best.load_state_dict(result.best_state)
    history = [[e.epoch, e.step, e.terms, e.lr, e.teacher_forwards, e.is_best, e.metrics] for e in result.history]
    print(json.dumps({"student": state_hash(student), "method": state_hash(method), "best": state_hash(best),
                      "losses": losses, "history": history}))

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
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``run(folder, kill_at, ...)`` trains in a fresh fork of a process that has imported everything."""
    script = tmp_path_factory.mktemp("script") / "train.py"
    script.write_text(_SCRIPT)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as server:
        assert server.stdin is not None and server.stdout is not None

        def job(folder: Path, kill_at: int = -1, workers: int = 0, every: int = 1, accumulate: int = 1) -> Any:
            server.stdin.write(
                json.dumps(
                    {
                        "folder": str(folder),
                        "kill_at": kill_at,
                        "workers": workers,  # type: ignore[union-attr]
                        "every": every,
                        "accumulate": accumulate,
                    }
                )
                + "\n"
            )
            server.stdin.flush()  # type: ignore[union-attr]
            lines = []
            while not lines or "status" not in lines[-1]:
                lines.append(json.loads(server.stdout.readline()))  # type: ignore[union-attr]
            if kill_at > 0:
                assert lines == [{"status": signal.SIGKILL}], "the process was to be killed"
                return None
            assert lines[-1]["status"] == 0
            return lines[0]

        yield job
        server.stdin.close()


def same(resumed: Any, whole: Any) -> None:
    for key in ("student", "method", "best", "history"):
        assert resumed[key] == whole[key], key
    done = len(whole["losses"]) - len(resumed["losses"])
    assert resumed["losses"] == whole["losses"][done:]


def test_killed_at_any_step(run: Any, tmp_path: Path) -> None:
    """7 steps per epoch; killed right after a save, between saves, at an epoch's first and last step."""
    whole = run(tmp_path / "whole")
    assert len(whole["losses"]) == 21 and len({loss for _, loss, _ in whole["losses"]}) == 21
    for every in (1, 3):
        for kill_at in (1, 4, 7, 8, 13, 20):
            folder = tmp_path / f"{every}-{kill_at}"
            run(folder, kill_at, every=every)
            resumed = run(folder, every=every)
            same(resumed, whole)
            assert len(resumed["losses"]) <= 21 - kill_at + every


def test_killed_again_and_again(run: Any, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for kill_at in (2, 5, 6, 11, 17, 21):
        run(tmp_path / "often", kill_at)
    same(run(tmp_path / "often"), whole)


def test_with_accumulation(run: Any, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", accumulate=2)
    assert len(whole["losses"]) == 12
    run(tmp_path / "killed", 6, accumulate=2, every=2)
    same(run(tmp_path / "killed", accumulate=2, every=2), whole)


def test_with_loader_workers(run: Any, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", workers=2)
    run(tmp_path / "killed", 10, workers=2)
    same(run(tmp_path / "killed", workers=2), whole)
