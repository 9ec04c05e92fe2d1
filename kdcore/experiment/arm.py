"""An arm of a comparison: one way of getting a trained student, by a method, by a training of its own, or by a loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..method import Method
from ..registry import create_method
from ..tasks import Task


@dataclass(frozen=True)
class Arm:
    """One way of training the student.

    Attributes:
        label: name in tables and pictures; unique within a comparison.
        method: objective by name, a :class:`~kdcore.method.Method` (copied for every run), or several of either.
        knobs: hyper-parameters of a method given by name.
        student: name of one of the task's students, if not the comparison's.
        train: overrides of the training settings, e.g. ``{"epochs": 60, "lr": 1e-2, "batch_size": 32}``, and anything
            else that :func:`kdcore.distiller.distill` takes. Of an arm with ``training`` or ``run`` only ``epochs``
            is read, as its share of the progress.
        training: in place of a method: ``(task, teacher, student, seed) -> Training`` for :func:`kdcore.engine.fit`,
            where a paper needs several optimizers, stages or players. ``student`` has the initial weights of all arms.
        run: in place of both: ``(task, seed, *, progress, stop) -> module``, where a paper is a loop around trainings.
            ``progress(done, in_all, text)`` may be ``None``, ``stop`` too.
        passes: how often the student is run on a batch in one step; an arm with more than 1 costs more than others, and
            tables say so.
        control_of: label of the arm that this one must fall behind, if it is a control: the same with what should help
            taken away (means of other classes, answers to other images, the reverse direction).
        control_on: in which numbers it must fall behind: the score (``"last"``) and further metrics, of which more is
            better.

    Raises:
        ValueError: ``training`` and ``run`` at once, knobs beside one of them, fewer passes than one, a control of
            itself.
    """

    label: str
    method: str | Method | Sequence[str | Method] = "kd"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    student: str | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    training: Callable[[Task, nn.Module | None, nn.Module, int], Any] | None = None
    run: Callable[..., nn.Module] | None = None
    passes: int = 1
    control_of: str | None = None
    control_on: tuple[str, ...] = ("last",)

    def __post_init__(self) -> None:
        if self.training is not None and self.run is not None:
            raise ValueError(f"arm {self.label!r}: give training or run, not both.")
        if self.knobs and not self.by_method:
            raise ValueError(f"arm {self.label!r}: knobs are for a method; training and run have their own.")
        if not isinstance(self.passes, int) or self.passes < 1:
            raise ValueError(f"arm {self.label!r}: passes must be an integer >= 1, got {self.passes!r}.")
        if self.control_of == self.label:
            raise ValueError(f"arm {self.label!r}: control_of must name another arm.")

    @property
    def by_method(self) -> bool:
        """Whether the arm is a method trained by :func:`kdcore.distiller.distill`."""
        return self.training is None and self.run is None

    @property
    def taught(self) -> bool:
        """Whether a teacher is handed to the arm: not where its methods need none, nor to ``run``."""
        if not self.by_method:
            return self.training is not None
        objective = self.objective()
        methods = objective if isinstance(objective, list) else [objective]
        return any(m.taught for m in methods)

    def objective(self) -> Method | list[Method]:
        """A fresh objective for one run."""
        if isinstance(self.method, str):
            return create_method(self.method, **self.knobs)
        if self.knobs:
            raise ValueError(f"arm {self.label!r}: knobs are for a method given by name, got {self.method!r}.")
        if isinstance(self.method, Method):
            return copy.deepcopy(self.method)
        return [create_method(m) if isinstance(m, str) else copy.deepcopy(m) for m in self.method]


def check_arms(given: Sequence[Arm | str]) -> list[Arm]:
    """Arms of a comparison; a bare name is the method with its defaults.

    Raises:
        ValueError: none, equal labels, an unknown method or knob, a control of an arm that is not there.
    """
    arms = [Arm(arm, arm) if isinstance(arm, str) else arm for arm in given]
    labels = [arm.label for arm in arms]
    if not arms or len(set(labels)) < len(labels):
        raise ValueError(f"arms must be one or more with different labels, got {labels}.")
    for arm in arms:
        if arm.control_of is not None and arm.control_of not in labels:
            raise ValueError(f"arm {arm.label!r} is a control of {arm.control_of!r}, which is not among {labels}.")
        if arm.by_method:
            arm.objective()  # an unknown method or knob is refused before anything is trained
    return arms


__all__ = ["Arm", "check_arms"]
