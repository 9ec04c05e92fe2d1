"""What every task promises that can be loaded by its name alone; new arenas need no edit here."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore import tasks
from kdcore.checkpoints import state_hash
from kdcore.distiller import distill
from kdcore.inputs import read_batch
from kdcore.tasks import Classification, Task, list_tasks, load_task, task_info, torchvision_sets

#: Tasks that need nothing but their name: no folder, no table, no set that must lie in the data folder.
NAMES = [n for n in list_tasks() if n not in torchvision_sets.TASKS and not task_info(n).required]
every_task = pytest.mark.parametrize("name", NAMES)
#: Sizes of tasks that generate their data, so that a test stays short.
SMALL: dict[str, dict[str, Any]] = {
    "tracking_pairs": {"count": 24, "test_count": 8, "template_size": 32, "search_size": 48}
}


@cache
def task(name: str) -> Task:
    return load_task(name, **SMALL.get(name, {}))


@pytest.fixture(autouse=True)
def teachers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path_factory.getbasetemp() / "teachers"))


def test_some_tasks_need_nothing() -> None:
    assert "digits" in NAMES


@every_task
def test_it_says_what_it_is(name: str) -> None:
    t = task(name)
    assert isinstance(t, Task) and t.words and {"train", "test", "teacher_train"} <= set(t.splits)
    assert t.metric and isinstance(t.higher_is_better, bool)
    text = t.describe()
    assert t.name in text and t.metric in text
    assert task_info(name).words and task_info(name).classifies == isinstance(t, Classification)
    assert "<table" in t._repr_html_()


@every_task
def test_batches_depend_on_the_seed_alone(name: str) -> None:
    t = task(name)
    first, second, other = (next(iter(t.loader("train", batch_size=4, seed=s))) for s in (5, 5, 6))

    def tensors(raw: Any) -> list[Tensor]:
        x = read_batch(raw).x
        parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple) else [x]
        return [v for v in parts if isinstance(v, Tensor)]

    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(other), strict=True))


@every_task
def test_students_depend_on_the_seed_alone_and_can_be_measured(name: str) -> None:
    t = task(name)
    assert state_hash(t.student(seed=1)) == state_hash(t.student(seed=1)) != state_hash(t.student(seed=2))
    before = torch.get_rng_state()
    measured = t.evaluate(t.student(seed=1))
    assert t.metric in measured and all(isinstance(v, float) for v in measured.values())
    assert torch.equal(before, torch.get_rng_state())
    t.check_model(t.student(seed=1))


@every_task
def test_labels_can_be_learnt(name: str, tmp_path: Path) -> None:
    t = task(name)
    data = t.loader("train", batch_size=4, seed=0)
    few = [batch for batch, _ in zip(data, range(3), strict=False)]
    result = distill(None, t.student(seed=0), t.teacher_objective(), few, epochs=1, loss=t.loss, readout=t.readout)
    assert result.steps == 3 and all(v == v for v in result.history[0].terms.values())


def test_asking_for_one_task_loads_no_other() -> None:
    code = (
        "import sys; from kdcore.tasks import load_task; load_task('digits')\n"
        "print([m for m in sys.modules if m.startswith('kdcore.tasks.') and not m.startswith('kdcore.tasks._')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['kdcore.tasks.digits']"


def test_the_names_of_tasks_that_are_read_are_those_that_are_there() -> None:
    assert sorted(tasks._homes()) == list_tasks()
