"""The first step of every arm: its loss terms and its gradient, told by the training's own events.

Accuracies forgive: a loss without its factor or with two weights exchanged often trains a student that is as good. The
values of the first step do not. They are made for a regression test, so that nothing but the objective is in them:

* The teacher has its *initial* weights. A trained one would carry the rounding of hundreds of steps along (measured on
  digits: terms differ by up to 0.8 % between processors), and on the images that it has learnt it is always right, so
  that a loss that takes its first class for the label would give the same value.
* Of a method there are two values, the second an epoch later with the *same* weights (the learning rate is 0): warm-ups
  count epochs and let nothing through in the first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from ..engine import Epoch, Step, listening
from ..tasks import Task
from .arm import Arm, check_arms
from .running import Share, run_arm, run_settings

#: Batches that are an epoch here; more would only delay the second.
BATCHES = 20


#: Initial weights are multiplied by it: a fresh teacher is nearly undecided, and its embeddings are short.
SHARPER = 4.0


class _EnoughError(Exception):
    """Everything that was wanted has been heard."""


def first_steps(
    task: Task,
    arms: Sequence[Arm | str],
    *,
    seed: int = 0,
    student: str | None = None,
    quick: bool = False,
    on: str = "",
    **train: Any,
) -> dict[str, float]:
    """Loss terms and gradient norm of the first step of every arm, with an untrained teacher.

    Args:
        task: data and networks of one seed.
        arms: of methods also the first step of the second epoch is taken, of trainings and loops the first step alone.
        seed: of the student's weights and of the batches, as in a comparison.
        student, quick, **train: see :func:`kdcore.experiment.compare`; optimizer, schedule and number of epochs do not
            matter here.
        on: name of the data, put before the names where there are several.

    Returns:
        Values by name: ``"KD: kd"``, ``"KD: gradient"`` (2-norm over everything that learns) and, an epoch later,
        ``"KD, epoch 1: kd"``.

    Raises:
        ValueError: see :func:`kdcore.experiment.compare`.
    """
    place = _fresh(task)
    found: dict[str, float] = {}
    for arm in check_arms(arms):
        name = arm.student or student
        settings = run_settings(place, arm, student, quick, train) | _STILL
        settings.pop("callbacks", None)  # a chart must not show a step without learning
        taught_by = place.teacher() if arm.taught else None
        for step in _heard(place, arm, taught_by, name, seed, settings):
            where = f"{on}: " * bool(on) + arm.label + f", epoch {step.epoch}" * bool(step.epoch)
            found |= {f"{where}: {term}": value for term, value in step.terms.items()}
            found[f"{where}: gradient"] = step.grad_norm
    return found


def _heard(
    task: Task, arm: Arm, teacher: Any, student: str | None, seed: int, settings: Mapping[str, Any]
) -> list[Step]:
    """The steps that are wanted of one arm; its training ends with the last of them."""
    wanted, steps = 2 if arm.by_method else 1, list[Step]()

    def hear(event: Step | Epoch) -> None:
        if isinstance(event, Step) and event.epoch == len(steps):
            steps.append(event)
        if len(steps) == wanted:
            raise _EnoughError

    try:
        with listening(hear):
            run_arm(task, arm, teacher, student, seed, settings, Share(None, 0, 2, 2, arm.label), None)
    except _EnoughError:
        pass
    return steps


def _no_learning(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0)


_STILL: dict[str, Any] = {"epochs": 2, "optimizer": _no_learning, "scheduler": "constant"}


class _Short:
    """The first batches of a loader, every time it is read."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return min(len(self.batches), BATCHES)

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), BATCHES)


def _fresh(task: Task) -> Task:
    """The task with untrained teachers and epochs of few batches."""
    place = copy.copy(task)

    def teacher(name: str | None = None, **options: Any) -> Any:
        model = task.untrained_teacher(name)
        with torch.no_grad():
            for weight in (p for p in model.parameters() if p.ndim > 1):
                weight.mul_(SHARPER)
        return model

    def loader(split: str = "train", **options: Any) -> Any:
        batches = task.loader(split, **options)
        return _Short(batches) if len(batches) > BATCHES else batches

    place.teacher, place.loader = teacher, loader  # type: ignore[method-assign]
    return place


__all__ = ["first_steps"]
