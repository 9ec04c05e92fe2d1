"""Every arm with every seed: runs them under equal conditions and keeps what came out, see :mod:`kdcore.experiment`."""

from __future__ import annotations

import copy
import html
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ..functional.checks import closest
from ..tasks import Task, load_task
from .arm import Arm, check_arms
from .claims import mean_interval, paired_difference
from .controls import ControlVerdict, check_controls
from .running import Outcome, Progress, Share, run_arm, run_settings

if TYPE_CHECKING:
    import pandas as pd

#: A further number of a student: ``f(student, task)``, the task being of the kind that the arms are compared on.
Metric = Callable[[nn.Module, Any], float]


@dataclass(kw_only=True, eq=False)
class Comparison:
    """What came out of :func:`compare`.

    Attributes:
        arms: labels in the order given; seeds: all seeds asked for.
        records: one dict per run, the rows of :attr:`rows`.
        students: trained students by ``(arm, seed)``, weights of the last epoch, in eval mode.
        methods: what trained them, as it was after the training, by ``(arm, seed)``: the list of methods with what
            they learned, or the ``Training``; nothing for an arm that is a ``run``.
        histories: list of :class:`~kdcore.distiller.Epoch` by ``(arm, seed)``.
        teachers: teacher by seed (the same object for every seed where the task does not change).
        tasks: task by seed.
        metric: what ``last`` and ``best`` measure on the test split; higher_is_better: its direction.
        chosen_on: split on which the best epoch was picked: ``"val"``, or ``"test"`` where the task has no validation
            split (``best`` is then optimistic; ``last`` never is).
        passes: how often an arm runs its student on a batch, where that is more than once.
        controls: by label of each control the arm that it must fall behind and the numbers in which it must.
        tuning: how the arms got their settings, where they were tuned (:func:`~kdcore.experiment.tune`).
        stopped: the run was ended early; arms may then have fewer seeds.
        seconds: wall time.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    higher_is_better: bool = True
    chosen_on: str = "test"
    records: list[dict[str, Any]] = field(default_factory=list)
    students: dict[tuple[str, int], nn.Module] = field(default_factory=dict)
    methods: dict[tuple[str, int], Any] = field(default_factory=dict)
    histories: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    teachers: dict[int, nn.Module] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    controls: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    tuning: Any = None
    stopped: bool = False
    seconds: float = 0.0

    @property
    def rows(self) -> pd.DataFrame:
        """One row per run: arm, seed, last, best, best_epoch, epochs, seconds, teacher_forwards, extra metrics."""
        import pandas as pd

        return pd.DataFrame(self.records)

    def values(self, arm: str, metric: str = "last") -> np.ndarray:
        """A metric over the seeds of an arm, in the order of the seeds, ``(n,)`` float64."""
        if arm not in self.arms:
            raise ValueError(
                f"arm must be one of {', '.join(map(repr, self.arms))}, got {arm!r}.{closest(arm, self.arms)}"
            )
        records = [r for r in self.records if r["arm"] == arm]
        if records and metric not in records[0]:
            raise ValueError(
                f"there is no metric {metric!r}.{closest(metric, records[0])} There are {', '.join(records[0])}."
            )
        return np.array([r[metric] for r in records], dtype=float)

    def mean(self, arm: str, metric: str = "last") -> float:
        """Mean over seeds; NaN without a run."""
        values = self.values(arm, metric)
        return float(values.mean()) if len(values) else math.nan

    def table(self, baseline: str | None = None, *, metric: str = "last") -> pd.DataFrame:
        """Mean, spread and interval per arm, and the paired difference to a baseline.

        Args:
            baseline: arm the others are compared with; without it the difference columns are left out.
            metric: column of :attr:`rows`.

        Returns:
            A frame indexed by arm. ``mean``; ``std`` (sample standard deviation over seeds); ``n`` seeds; ``low`` and
            ``high``, the 95 % confidence interval of the mean (Student's t, n - 1 degrees of freedom); ``difference``
            to the baseline, mean over the seeds both have, ``diff_low`` and ``diff_high`` its 95 % interval from the
            per-seed differences, ``p`` of the two-sided paired t test, not corrected for the number of arms. Where an
            arm has more than one, ``passes`` of the student per step. What one seed cannot tell is NaN, and so is ``p``
            where all differences are equal. The intervals describe seeds (initial weights, order, and the split where
            the task changes with the seed), not other data sets.
        """
        import pandas as pd

        by_seed = {arm: {r["seed"]: float(r[metric]) for r in self.records if r["arm"] == arm} for arm in self.arms}
        if baseline is not None:
            self.values(baseline, metric)
        rows = []
        for arm in self.arms:
            values = self.values(arm, metric)
            low, high = mean_interval(values)
            row = {
                "arm": arm,
                "mean": self.mean(arm, metric),
                "std": _std(values),
                "n": len(values),
                "low": low,
                "high": high,
            }
            if self.passes:
                row["passes"] = self.passes.get(arm, 1)
            if baseline is not None:
                common = [seed for seed in by_seed[arm] if seed in by_seed[baseline]] if arm != baseline else []
                row |= paired_difference([by_seed[arm][s] for s in common], [by_seed[baseline][s] for s in common])
            rows.append(row)
        return pd.DataFrame(rows).set_index("arm")

    def check_controls(self) -> list[ControlVerdict]:
        """Whether every control failed, as it must; see :func:`~kdcore.experiment.check_controls`."""
        return check_controls(self)

    def __repr__(self) -> str:
        means = ", ".join(f"{arm} {self.mean(arm):.4f}" for arm in self.arms)
        return f"Comparison({self.metric} over {len(self.seeds)} seeds: {means})"

    def _repr_html_(self) -> str:
        table = self.table(self.arms[0] if len(self.arms) > 1 else None)
        scaled = (
            table.assign(**{c: 100 * table[c] for c in table.columns if c not in ("n", "p", "passes")})
            if self.metric == "accuracy"
            else table
        )
        unit = " in %" if self.metric == "accuracy" else ""
        caption = (
            f"{html.escape(self.metric)}{unit} of the last epoch on the test split, {len(self.seeds)} seeds; "
            f"95 % intervals; differences to {html.escape(self.arms[0])} paired by seed"
        )
        body = scaled.to_html(border=0, float_format=lambda v: f"{v:.3g}" if abs(v) < 1 else f"{v:.2f}", na_rep="")
        controls = "".join(c._repr_html_() for c in self.check_controls()) if self.records else ""
        return body.replace("<thead>", f"<caption>{caption}</caption><thead>", 1) + controls


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def compare(
    task: str | Task | Callable[[int], Task],
    arms: Sequence[Arm | str],
    *,
    seeds: int | Sequence[int] = 3,
    teacher: str | nn.Module | None = None,
    student: str | None = None,
    quick: bool = False,
    metrics: Mapping[str, Metric] | None = None,
    progress: Progress | None = None,
    stop: Any = None,
    keep_students: bool = True,
    **train: Any,
) -> Comparison:
    """Train every arm with every seed.

    Args:
        task: a task; a function ``seed -> Task`` (each seed then has its own split and teacher); or a task's name,
            short for ``lambda seed: load_task(name, seed=seed)``.
        arms: what is compared; labels must differ. A bare name stands for that method with its defaults.
        seeds: their number (0, 1, ...) or the seeds themselves.
        teacher: name of one of the task's teachers, or a module; the default teacher otherwise. A module is used as it
            is for every seed. Where every arm does without a teacher, none is made.
        student: name of one of the task's students; the default student otherwise.
        quick: the student's cheap recipe, where ``train`` does not say otherwise.
        metrics: further numbers, ``name -> f(student, task) -> float``, computed after training; they become columns.
        progress: ``progress(epochs done, epochs in all, text)``.
        stop: anything with ``is_set()``; ends after the running batch, keeping the runs that were finished.
        keep_students: keep trained students and methods (their memory is the reason not to).
        **train: epochs, batch_size, lr, optimizer, weight_decay, scheduler and whatever else
            :func:`kdcore.distiller.distill` takes; what is not given comes from the student's recipe, and an arm's own
            ``train`` comes before both.

    Raises:
        ValueError: no arms, equal labels, no seeds or repeated ones, unknown names, or a teacher whose number of
            classes is not the task's.
    """
    checked, numbers = check_arms(arms), check_seeds(seeds)
    for_seed = task_for(task)
    started = time.perf_counter()
    comparison: Comparison | None = None
    done = 0
    for seed in numbers:
        current = for_seed(seed)
        settings = {arm.label: run_settings(current, arm, student, quick, train) for arm in checked}
        if comparison is None:
            comparison = Comparison(
                arms=tuple(settings),
                seeds=numbers,
                metric=current.metric,
                higher_is_better=current.higher_is_better,
                chosen_on="test" if current.val is None else "val",
                passes={arm.label: arm.passes for arm in checked if arm.passes > 1},
                controls={arm.label: (arm.control_of, arm.control_on) for arm in checked if arm.control_of is not None},
            )
        in_all = len(numbers) * sum(s["epochs"] for s in settings.values())
        comparison.tasks[seed] = current
        for arm in checked:
            if stop is not None and stop.is_set():
                comparison.stopped = True
                break
            if arm.taught and seed not in comparison.teachers:
                comparison.teachers[seed] = _teacher(current, teacher, comparison, progress, done, in_all)
            share = settings[arm.label]["epochs"]
            report = Share(progress, done, share, in_all, f"{arm.label}, seed {seed}")
            taught_by = comparison.teachers[seed] if arm.taught else None
            try:
                result = run_arm(
                    current, arm, taught_by, arm.student or student, seed, settings[arm.label], report, stop
                )
            except Exception as error:
                error.add_note(f"(in arm {arm.label!r}, seed {seed})")
                raise
            if result.stopped:
                comparison.stopped = True
                break
            done += share
            report.finish()
            _keep(comparison, current, arm, seed, result, metrics or {}, keep_students)
        if comparison.stopped:
            break
    assert comparison is not None  # there is at least one seed
    comparison.seconds = time.perf_counter() - started
    return comparison


def check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Seeds as numbers; ``ValueError`` for none or repeated ones."""
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds must be a number >= 1 or different integers, got {seeds!r}.")
    return numbers


def task_for(task: str | Task | Callable[[int], Task]) -> Callable[[int], Task]:
    """``seed -> Task``, see :func:`compare`."""
    if isinstance(task, Task):
        return lambda seed: task
    if isinstance(task, str):
        return lambda seed: load_task(task, seed=seed)
    return task


def _teacher(
    task: Task,
    teacher: str | nn.Module | None,
    comparison: Comparison,
    progress: Progress | None,
    done: int,
    in_all: int,
) -> nn.Module:
    if isinstance(teacher, nn.Module):
        return task.check_model(teacher, "the teacher")
    for seed, earlier in comparison.tasks.items():
        if earlier is task and seed in comparison.teachers:
            return comparison.teachers[seed]
    if progress is None:
        return task.teacher(teacher)

    def report(epoch: int, epochs: int, text: str) -> None:
        progress(done, in_all, f"{text}: epoch {epoch} of {epochs}")

    return task.teacher(teacher, progress=report)


def _keep(
    comparison: Comparison,
    task: Task,
    arm: Arm,
    seed: int,
    result: Outcome,
    metrics: Mapping[str, Metric],
    keep_students: bool,
) -> None:
    student = result.student.eval()
    last = task.evaluate(student, readout=result.readout)[task.metric]
    best = last
    best_epoch = result.best_epoch if result.best_epoch is not None else len(result.history) - 1
    if result.best_state is not None and best_epoch != result.history[-1].epoch:
        other = copy.deepcopy(student)
        other.load_state_dict(result.best_state)
        best = task.evaluate(other, readout=result.readout)[task.metric]
    comparison.records.append(
        {
            "arm": arm.label,
            "seed": seed,
            "last": last,
            "best": best,
            "best_epoch": best_epoch,
            "epochs": len(result.history),
            "seconds": result.seconds,
            "teacher_forwards": result.teacher_forwards,
            **{name: float(f(student, task)) for name, f in metrics.items()},
        }
    )
    comparison.histories[arm.label, seed] = result.history
    if keep_students:
        comparison.students[arm.label, seed] = student
        if result.method is not None:
            comparison.methods[arm.label, seed] = result.method


__all__ = ["Comparison", "Metric", "Progress", "check_seeds", "compare", "task_for"]
