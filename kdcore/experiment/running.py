"""One arm with one seed: the same initial weights and batches for all arms, whatever an arm is made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..checkpoints import preserved_rng
from ..distiller import distill
from ..engine import Epoch, Trained, fit
from ..tasks import Task
from .arm import Arm

Progress = Callable[[int, int, str], None]


def run_settings(task: Task, arm: Arm, student: str | None, quick: bool, train: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings of an arm: its own, before those of the comparison, before the student's recipe."""
    return (
        task.recipe(arm.student or student, quick=quick).settings()
        | {k: v for k, v in train.items() if v is not None}
        | dict(arm.train)
    )


class Share:
    """Turns what one run tells of itself into progress of the whole, within the run's share of epochs."""

    def __init__(self, progress: Progress | None, done: int, share: int, in_all: int, text: str) -> None:
        self.progress, self.done, self.share, self.in_all, self.text = progress, done, share, in_all, text
        self.epochs = self.told = 0

    def __call__(self, event: object) -> None:
        """An event of a training: epochs are counted, over all stages where there are several."""
        if isinstance(event, Epoch):
            self.epochs += 1
            self._tell(self.epochs)

    def loop(self, done: int, in_all: int, text: str) -> None:
        """Progress of an outer loop in units of its own."""
        self._tell(self.share * done // max(in_all, 1), f"{self.text}: {text}")

    def finish(self) -> None:
        """A run of fewer epochs than its share has now used it up."""
        if self.told < self.share:
            self._tell(self.share)

    def _tell(self, epochs: int, text: str | None = None) -> None:
        self.told = max(self.told, min(epochs, self.share))
        if self.progress is not None:
            self.progress(self.done + self.told, self.in_all, text or self.text)


@dataclass(kw_only=True)
class Outcome:
    """What every kind of arm gives: its student, and what is known of the training."""

    student: nn.Module
    method: Any = None
    history: list[Any] = field(default_factory=list)
    best_epoch: int | None = None
    best_state: dict[str, Tensor] | None = None
    teacher_forwards: float = math.nan
    seconds: float
    stopped: bool = False
    readout: Callable[[Any], Tensor] | None = None


def run_arm(
    task: Task,
    arm: Arm,
    teacher: nn.Module | None,
    student: str | None,
    seed: int,
    settings: Mapping[str, Any],
    report: Share,
    stop: Any,
) -> Outcome:
    """One run; initial weights and batches depend on the seed alone."""
    with preserved_rng():
        if arm.run is not None:
            started = time.perf_counter()
            model = arm.run(task, seed, progress=report.loop, stop=stop)
            ended = stop is not None and stop.is_set()
            return Outcome(student=model, seconds=time.perf_counter() - started, stopped=ended)
        if arm.training is not None:
            training = arm.training(task, teacher, task.student(student, seed=seed), seed)
            return _outcome(fit(training, seed=seed, stop=stop, callbacks=(report,)), training)
        return _distilled(task, arm, teacher, student, seed, settings, report, stop)


def _distilled(
    task: Task,
    arm: Arm,
    teacher: nn.Module | None,
    student: str | None,
    seed: int,
    settings: Mapping[str, Any],
    report: Share,
    stop: Any,
) -> Outcome:
    options = {k: v for k, v in settings.items() if k not in ("batch_size", "callbacks")}
    train = task.loader("train", batch_size=settings["batch_size"], seed=seed)
    watched = task.loader("test" if task.val is None else "val", batch_size=512, shuffle=False)

    objective = arm.objective()
    result = distill(
        teacher,
        task.student(student, seed=seed),
        objective,
        train,
        watched,
        seed=seed,
        stop=stop,
        metric=task.metrics(),
        loss=task.loss,
        readout=task.readout,
        callbacks=(*settings.get("callbacks", ()), report),
        **options,
    )
    return _outcome(result, objective if isinstance(objective, list) else [objective])


def _outcome(result: Trained, method: Any) -> Outcome:
    return Outcome(
        student=result.student,
        method=method,
        history=result.history,
        best_epoch=result.best_epoch,
        best_state=result.best_state or None,
        teacher_forwards=result.teacher_forwards,
        seconds=result.seconds,
        stopped=result.stopped,
        readout=getattr(result.training, "readout", None),
    )


__all__ = ["Outcome", "Progress", "Share", "run_arm", "run_settings"]
