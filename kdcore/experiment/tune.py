"""Settings for every arm by the same number of trials, on images held out of the training data.

Arms differ in what suits them: on digits, labels alone gain from twice the learning rate that suits soft targets. A
comparison in which one arm was tuned and the others run as they come says nothing of the methods::

    tuning = tune("digits", ["ce", "kd"])
    compare("digits", tuning.arms)

Trials see neither a test image of their own split nor a seed of the comparison. What they cannot be blind to: seeds cut
the same data set in their own ways, so that an image held out here can be a test image there; and the teacher is the
task's, which may have learnt from the images held out.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.data import Subset

from ..functional.checks import check_fraction
from ..tasks import Task
from .arm import Arm, check_arms
from .compare import check_seeds, compare, task_for
from .running import Progress, run_settings

if TYPE_CHECKING:
    import pandas as pd

#: What is tried where no grid is given: the learning rate an arm has otherwise, times each of these.
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)
#: Seeds of the trials, far from those of comparisons, which count from 0.
TRIAL_SEEDS = (1000, 1001, 1002)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuning:
    """What every arm was tried with, and what it got.

    Attributes:
        arms: the arms with the chosen settings in their ``train``.
        trials: one dict per arm and setting: ``arm``, the settings, ``mean`` and ``std`` of the score over the seeds,
            ``chosen``.
        chosen: settings by arm.
        seeds, metric: of the trials; higher_is_better: direction of the score.
    """

    arms: list[Arm]
    trials: list[dict[str, Any]]
    chosen: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    metric: str
    higher_is_better: bool

    @property
    def budget(self) -> int:
        """Trainings of each arm."""
        return len(self.seeds) * len(self.trials) // len(self.arms)

    @property
    def table(self) -> pd.DataFrame:
        """:attr:`trials` as a frame."""
        import pandas as pd

        return pd.DataFrame(self.trials)

    @property
    def at_the_edge(self) -> list[str]:
        """Arms whose choice is the first or the last of their grid: a wider one might hold a better."""
        rows = {arm.label: [t for t in self.trials if t["arm"] == arm.label] for arm in self.arms}
        return [label for label, own in rows.items() if len(own) > 2 and (own[0]["chosen"] or own[-1]["chosen"])]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text for a record."""
        own = {"seeds": list(self.seeds), "budget": self.budget, "metric": self.metric}
        return {**own, "trials": self.trials, "at_the_edge": self.at_the_edge}

    def __repr__(self) -> str:
        picks = "; ".join(f"{label}: {_words(settings)}" for label, settings in self.chosen.items())
        return f"Tuning({self.budget} trainings of each arm; {picks})"

    def _repr_html_(self) -> str:
        caption = (
            f"{html.escape(self.metric)} on held-out training data, {len(self.seeds)} seeds, {self.budget} trainings "
            "of each arm"
        )
        body = self.table.to_html(border=0, index=False, float_format=lambda v: f"{v:.4g}")
        return body.replace("<thead>", f"<caption>{caption}</caption><thead>", 1)


def tune(
    task: str | Task | Callable[[int], Task],
    arms: Sequence[Arm | str],
    grid: Sequence[Mapping[str, Any]] | None = None,
    *,
    seeds: int | Sequence[int] = TRIAL_SEEDS,
    fraction: float = 0.3,
    teacher: str | nn.Module | None = None,
    student: str | None = None,
    quick: bool = False,
    progress: Progress | None = None,
    stop: Any = None,
    **train: Any,
) -> Tuning:
    """Try every setting with every arm on a validation split and choose one for each arm.

    Args:
        task: as of :func:`compare`. Its own validation split is used where it has one; else a share of the training
            data is held out, which students of the trials do not see.
        arms: of methods.
        grid: training settings, e.g. ``[{"lr": 1e-3}, {"lr": 2e-3, "epochs": 60}]``, the same for all arms; default the
            arm's learning rate times :data:`FACTORS`.
        seeds: of the trials; a comparison must have others.
        fraction: of the training data that is held out; default 0.3 (ours).
        teacher, student, quick, progress, stop, **train: see :func:`compare`.

    Returns:
        For each arm the setting with the best mean score, of equals the first.

    Raises:
        ValueError: an arm that is a training or a loop of its own, an empty grid, settings that are no training
            settings, a fraction outside (0, 1), or a stop before every trial was run.
    """
    checked, numbers = check_arms(arms), check_seeds(seeds)
    check_fraction("fraction", fraction, closed=False)
    if own := [arm.label for arm in checked if not arm.by_method]:
        raise ValueError(f"arms must be methods, whose settings can be tried; {own[0]!r} trains in its own way.")
    if grid is not None and not len(grid):
        raise ValueError("grid must name at least one setting, got none.")
    of = task_for(task)
    places: dict[int, Task] = {}

    def place(seed: int) -> Task:
        if seed not in places:
            places[seed] = held_out(of(seed), fraction=fraction, seed=seed)
        return places[seed]

    trials = {
        arm.label: list(grid)
        if grid is not None
        else _rates(run_settings(place(numbers[0]), arm, student, quick, train))
        for arm in checked
    }
    tried = {
        (arm.label, i): replace(arm, label=f"{arm.label}, trial {i}", train={**arm.train, **setting}, control_of=None)
        for arm in checked
        for i, setting in enumerate(trials[arm.label])
    }
    found = compare(
        place, list(tried.values()), seeds=numbers, teacher=teacher, student=student, quick=quick, progress=progress,
        stop=stop, keep_students=False, **train,
    )  # fmt: skip
    if found.stopped:
        raise ValueError("the tuning was stopped: an arm with fewer trials than another cannot be compared with it.")
    rows, chosen = [], {}
    for arm in checked:
        scores = [found.values(tried[arm.label, i].label) for i in range(len(trials[arm.label]))]
        best = _best([float(s.mean()) for s in scores], found.higher_is_better)
        chosen[arm.label] = dict(trials[arm.label][best])
        rows += [
            {"arm": arm.label, **setting, "mean": float(s.mean()), "std": _std(s), "chosen": i == best}
            for i, (setting, s) in enumerate(zip(trials[arm.label], scores, strict=True))
        ]
    return Tuning(
        arms=[replace(arm, train={**arm.train, **chosen[arm.label]}) for arm in checked],
        trials=rows,
        chosen=chosen,
        seeds=numbers,
        metric=found.metric,
        higher_is_better=found.higher_is_better,
    )


def held_out(task: Task, *, fraction: float = 0.3, seed: int = 0) -> Task:
    """The task with a validation split in place of its test split, and without these samples in ``train``.

    The split of the task where it has one, else ``fraction`` of the training data, drawn by ``seed``. The teacher stays
    the same.
    """
    if task.val is not None:
        return replace(task, test=task.val, val=None)
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed)).tolist()
    count = round(fraction * len(order))
    if not 0 < count < len(order):
        raise ValueError(f"fraction {fraction:g} of {len(order)} training samples leaves a split empty.")
    data = cast(Any, task.train)
    val, train = (Subset(data, sorted(part)) for part in (order[:count], order[count:]))
    return replace(task, train=train, test=val, teacher_train=task.split("teacher_train"))


def _rates(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"lr": factor * settings["lr"]} for factor in FACTORS]


def _best(scores: Sequence[float], higher_is_better: bool) -> int:
    sign = 1 if higher_is_better else -1
    return max(range(len(scores)), key=lambda i: sign * scores[i] if math.isfinite(scores[i]) else -math.inf)


def _std(values: Any) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )


__all__ = ["FACTORS", "TRIAL_SEEDS", "Tuning", "held_out", "tune"]
