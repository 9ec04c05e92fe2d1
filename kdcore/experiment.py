"""Methods against each other: same task, same seeds, paired differences, verdicts written from the numbers.

    comparison = compare("digits", [Arm("CE", "ce"), Arm("KD", "kd", {"temperature": 4.0})], seeds=5, epochs=30)
    comparison.table(baseline="CE")
    Claim("KD beats CE", left=comparison.values("KD"), right=comparison.values("CE"), threshold=0.5).check()

Within one seed every arm starts from the same student weights and sees the same batches in the same order, so that
differences between arms are paired by seed.
"""

from __future__ import annotations

import copy
import html
import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .checkpoints import preserved_rng
from .distiller import DistillResult, Epoch, distill
from .functional.checks import check_choice, closest
from .method import Method
from .registry import create_method
from .tasks import Task, load_task

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]
Metric = Callable[[nn.Module, Task], float]

#: Confidence of every interval here: Student's t over seeds.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Arm:
    """One way of training the student.

    Attributes:
        label: name in tables and pictures; unique within a comparison.
        method: objective by name, a :class:`~kdcore.method.Method` (copied for every run), or several of either.
        knobs: hyper-parameters of a method given by name.
        student: name of one of the task's students, if not the comparison's.
        train: overrides of the training settings, e.g. ``{"epochs": 60, "lr": 1e-2, "batch_size": 32}``, and anything
            else that :func:`kdcore.distiller.distill` takes.
    """

    label: str
    method: str | Method | Sequence[str | Method] = "kd"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    student: str | None = None
    train: Mapping[str, Any] = field(default_factory=dict)

    def objective(self) -> Method | list[Method]:
        """A fresh objective for one run."""
        if isinstance(self.method, str):
            return create_method(self.method, **self.knobs)
        if self.knobs:
            raise ValueError(f"arm {self.label!r}: knobs are for a method given by name, got {self.method!r}.")
        if isinstance(self.method, Method):
            return copy.deepcopy(self.method)
        return [create_method(m) if isinstance(m, str) else copy.deepcopy(m) for m in self.method]


@dataclass(kw_only=True, eq=False)
class Comparison:
    """What came out of :func:`compare`.

    Attributes:
        arms: labels in the order given; seeds: all seeds asked for.
        records: one dict per run, the rows of :attr:`rows`.
        students: trained students by ``(arm, seed)``, weights of the last epoch, in eval mode.
        histories: list of :class:`~kdcore.distiller.Epoch` by ``(arm, seed)``.
        teachers: teacher by seed (the same object for every seed where the task does not change).
        tasks: task by seed.
        metric: what ``last`` and ``best`` measure on the test split; higher_is_better: its direction.
        chosen_on: split on which the best epoch was picked: ``"val"``, or ``"test"`` where the task has no validation
            split (``best`` is then optimistic; ``last`` never is).
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
    histories: dict[tuple[str, int], list[Epoch]] = field(default_factory=dict)
    teachers: dict[int, nn.Module] = field(default_factory=dict)
    tasks: dict[int, Task] = field(default_factory=dict)
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
            per-seed differences, ``p`` of the two-sided paired t test, not corrected for the number of arms. What one
            seed cannot tell is NaN, and so is ``p`` where all differences are equal. The intervals describe seeds
            (initial weights, order, and the split where the task changes with the seed), not other data sets.
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
            if baseline is not None:
                common = [seed for seed in by_seed[arm] if seed in by_seed[baseline]] if arm != baseline else []
                row |= paired_difference([by_seed[arm][s] for s in common], [by_seed[baseline][s] for s in common])
            rows.append(row)
        return pd.DataFrame(rows).set_index("arm")

    def __repr__(self) -> str:
        means = ", ".join(f"{arm} {self.mean(arm):.4f}" for arm in self.arms)
        return f"Comparison({self.metric} over {len(self.seeds)} seeds: {means})"

    def _repr_html_(self) -> str:
        table = self.table(self.arms[0] if len(self.arms) > 1 else None)
        scaled = (
            table.assign(**{c: 100 * table[c] for c in table.columns if c not in ("n", "p")})
            if self.metric == "accuracy"
            else table
        )
        unit = " in %" if self.metric == "accuracy" else ""
        caption = (
            f"{html.escape(self.metric)}{unit} of the last epoch on the test split, {len(self.seeds)} seeds; "
            f"95 % intervals; differences to {html.escape(self.arms[0])} paired by seed"
        )
        body = scaled.to_html(border=0, float_format=lambda v: f"{v:.3g}" if abs(v) < 1 else f"{v:.2f}", na_rep="")
        return body.replace("<thead>", f"<caption>{caption}</caption><thead>", 1)


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Confidence interval of a mean by Student's t; NaN for fewer than two values or values that are not finite."""
    from scipy import stats

    x = np.asarray(values, dtype=float)
    if len(x) < 2 or not np.isfinite(x).all():
        return math.nan, math.nan
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def paired_difference(left: Sequence[float], right: Sequence[float]) -> dict[str, float]:
    """Mean difference of pairs with its 95 % interval and the p-value of the two-sided paired t test.

    Returns:
        ``difference``, ``diff_low``, ``diff_high``, ``p``; NaN where there are too few pairs, ``p`` also where all
        differences are equal (the test has no spread to compare with).
    """
    from scipy import stats

    x, y = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    d = x - y
    low, high = mean_interval(d)
    rounding = 8 * np.finfo(float).eps * np.abs(np.concatenate([x, y])).max(initial=0.0)
    p = float(stats.ttest_1samp(d, 0.0).pvalue) if len(d) > 1 and np.ptp(d) > rounding else math.nan
    return {"difference": float(d.mean()) if len(d) else math.nan, "diff_low": low, "diff_high": high, "p": p}


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
        keep_students: keep trained students (their memory is the reason not to).
        **train: epochs, batch_size, lr, optimizer, weight_decay, scheduler and whatever else
            :func:`kdcore.distiller.distill` takes; what is not given comes from the student's recipe, and an arm's own
            ``train`` comes before both.

    Raises:
        ValueError: no arms, equal labels, no seeds or repeated ones, unknown names, or a teacher whose number of
            classes is not the task's.
    """
    checked, numbers = _check_arms(arms), _check_seeds(seeds)
    for_seed = _task_for(task)
    started = time.perf_counter()
    comparison: Comparison | None = None
    done = 0
    for seed in numbers:
        current = for_seed(seed)
        settings = {arm.label: _settings(current, arm, student, quick, train) for arm in checked}
        if comparison is None:
            comparison = Comparison(
                arms=tuple(settings),
                seeds=numbers,
                metric=current.metric,
                higher_is_better=current.higher_is_better,
                chosen_on="test" if current.val is None else "val",
            )
        in_all = len(numbers) * sum(s["epochs"] for s in settings.values())
        comparison.tasks[seed] = current
        for arm in checked:
            if stop is not None and stop.is_set():
                comparison.stopped = True
                break
            taught = not _teacherless(arm)
            if taught and seed not in comparison.teachers:
                comparison.teachers[seed] = _teacher(current, teacher, comparison, progress, done, in_all)
            report = _reporter(progress, done, in_all, f"{arm.label}, seed {seed}")
            try:
                result = _run(
                    current,
                    arm,
                    comparison.teachers[seed] if taught else None,
                    arm.student or student,
                    seed,
                    settings[arm.label],
                    report,
                    stop,
                )
            except Exception as error:
                error.add_note(f"(in arm {arm.label!r}, seed {seed})")
                raise
            if result.stopped:
                comparison.stopped = True
                break
            done += settings[arm.label]["epochs"]
            _keep(comparison, current, arm, seed, result, metrics or {}, keep_students)
        if comparison.stopped:
            break
    assert comparison is not None  # there is at least one seed
    comparison.seconds = time.perf_counter() - started
    return comparison


def _check_arms(given: Sequence[Arm | str]) -> list[Arm]:
    arms = [Arm(arm, arm) if isinstance(arm, str) else arm for arm in given]
    labels = [arm.label for arm in arms]
    if not arms or len(set(labels)) < len(labels):
        raise ValueError(f"arms must be one or more with different labels, got {labels}.")
    for arm in arms:
        arm.objective()  # an unknown method or knob is refused before anything is trained
    return arms


def _check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(s) for s in seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds must be a number >= 1 or different integers, got {seeds!r}.")
    return numbers


def _task_for(task: str | Task | Callable[[int], Task]) -> Callable[[int], Task]:
    if isinstance(task, Task):
        return lambda seed: task
    if isinstance(task, str):
        return lambda seed: load_task(task, seed=seed)
    return task


def _teacherless(arm: Arm) -> bool:
    """Whether the arm's methods say on their cards that they have no teacher."""
    objective = arm.objective()
    methods = objective if isinstance(objective, list) else [objective]
    return all(m.card.axes.values("teachers") == ("none",) for m in methods)


def _settings(task: Task, arm: Arm, student: str | None, quick: bool, train: Mapping[str, Any]) -> dict[str, Any]:
    return (
        task.recipe(arm.student or student, quick=quick).settings()
        | {k: v for k, v in train.items() if v is not None}
        | dict(arm.train)
    )


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


def _reporter(progress: Progress | None, done: int, in_all: int, text: str) -> Callable[[object], None]:
    def report(event: object) -> None:
        if progress is not None and isinstance(event, Epoch):
            progress(done + event.epoch + 1, in_all, text)

    return report


def _run(
    task: Task,
    arm: Arm,
    teacher: nn.Module | None,
    student: str | None,
    seed: int,
    settings: Mapping[str, Any],
    report: Callable[[object], None],
    stop: Any,
) -> DistillResult:
    """One run; initial weights and batches depend on the seed alone."""
    options = {k: v for k, v in settings.items() if k not in ("batch_size", "callbacks")}
    train = task.loader("train", batch_size=settings["batch_size"], seed=seed)
    watched = task.loader("test" if task.val is None else "val", batch_size=512, shuffle=False)

    def metric(logits: Tensor, labels: Tensor) -> float:
        return float(task.score(logits, labels)) * (1 if task.higher_is_better else -1)

    metric.__name__ = task.metric if task.higher_is_better else f"negative {task.metric}"
    with preserved_rng():
        return distill(
            teacher,
            task.student(student, seed=seed),
            arm.objective(),
            train,
            watched,
            seed=seed,
            stop=stop,
            metric=metric,
            callbacks=(*settings.get("callbacks", ()), report),
            **options,
        )


def _keep(
    comparison: Comparison,
    task: Task,
    arm: Arm,
    seed: int,
    result: DistillResult,
    metrics: Mapping[str, Metric],
    keep_students: bool,
) -> None:
    student = result.student.eval()
    last = task.evaluate(student)[task.metric]
    best = last
    if result.best_epoch != result.history[-1].epoch:
        other = copy.deepcopy(student)
        other.load_state_dict(result.best_state)
        best = task.evaluate(other)[task.metric]
    comparison.records.append(
        {
            "arm": arm.label,
            "seed": seed,
            "last": last,
            "best": best,
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
            "seconds": result.seconds,
            "teacher_forwards": result.teacher_forwards,
            **{name: float(f(student, task)) for name, f in metrics.items()},
        }
    )
    comparison.histories[arm.label, seed] = result.history
    if keep_students:
        comparison.students[arm.label, seed] = student


# Claims --------------------------------------------------------------------------------------------------------------

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_WORDS = {">": "more than", ">=": "at least", "<": "less than", "<=": "at most", "==": "exactly", "!=": "other than"}
#: Factor from stored values to the unit of the sentence and of the threshold.
UNITS = {"points": 100.0, "%": 100.0}

Numbers = float | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Claim:
    """A paper's claim as an inequality between measured numbers.

    With ``right`` and ``threshold`` the difference is judged (``left - right op threshold``), with ``right`` alone
    ``left op right``, with ``threshold`` alone ``left op threshold``. Values per seed are judged by their means, or
    each seed for itself with ``every_seed``; no seed is left out.

    Attributes:
        text: what is claimed, in words.
        left: a number, or one number per seed.
        op: ``">"``, ``">="``, ``"<"``, ``"<="``, ``"=="`` or ``"!="``.
        right: a number, or one per seed, paired with ``left``.
        threshold: in ``unit``.
        unit: ``"points"`` and ``"%"`` multiply values by 100 (so shares in [0, 1] read as percent); any other text is
            only printed.
        every_seed: the inequality must hold on each seed.

    Raises:
        ValueError: unknown operator, neither ``right`` nor ``threshold``, numbers of seeds that differ, no values.
    """

    text: str
    left: Numbers
    op: str = ">"
    right: Numbers | None = None
    threshold: float | None = None
    unit: str = "points"
    every_seed: bool = False

    def __post_init__(self) -> None:
        check_choice("op", self.op, tuple(OPERATORS))
        if self.right is None and self.threshold is None:
            raise ValueError(f"claim {self.text!r} needs right (what left is compared with), threshold, or both.")
        left, right = self._scaled(self.left), self._scaled(self.right)
        if not len(left) or not len(right):
            raise ValueError(f"claim {self.text!r} has no values to judge.")
        if len(left) != len(right) and 1 not in (len(left), len(right)):
            raise ValueError(f"claim {self.text!r}: left has {len(left)} seeds and right has {len(right)}.")

    def _scaled(self, values: Numbers | None) -> np.ndarray:
        """Values in the unit, ``(n,)``; a missing right side is 0 so that differences can be formed."""
        return np.atleast_1d(np.asarray(0.0 if values is None else values, dtype=float)) * UNITS.get(self.unit, 1.0)

    def check(self) -> Verdict:
        """Judge the claim; a value that is not finite never reproduces it."""
        left, right = self._scaled(self.left), self._scaled(self.right)
        sides = (left - right, self.threshold) if self.threshold is not None else (left, right)
        judge = OPERATORS[self.op]
        holds = np.atleast_1d(judge(*sides)) & np.isfinite(left - right)
        on_means = bool(judge(sides[0].mean(), np.mean(sides[1]))) and bool(np.isfinite(left - right).all())
        n = max(len(left), len(right))
        return Verdict(
            claim=self,
            reproduced=bool(holds.all()) if self.every_seed else on_means,
            left=float(left.mean()),
            right=None if self.right is None else float(right.mean()),
            n=n,
            seeds_holding=int(holds.sum()) if n > 1 else None,
            interval=mean_interval(left - right) if n > 1 else (math.nan, math.nan),
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim and what the numbers say of it.

    Attributes:
        claim: what was judged.
        reproduced: whether the inequality holds.
        left, right: means in the claim's unit (``right`` is ``None`` for a bare threshold).
        n: seeds; seeds_holding: on how many of them the inequality holds by itself (``None`` for single numbers).
        interval: 95 % interval (Student's t) of ``left - right`` over seeds, NaN for single numbers.
    """

    claim: Claim
    reproduced: bool
    left: float
    right: float | None
    n: int
    seeds_holding: int | None = None
    interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def sentence(self) -> str:
        """``"reproduced: ..."`` or ``"not reproduced at this scale: ..."`` with the numbers it rests on."""
        c = self.claim
        unit = f" {c.unit}" if c.unit else ""
        head = "reproduced" if self.reproduced else "not reproduced at this scale"
        if self.right is None:
            numbers = f"{_number(self.left)}{unit}, wanted {_WORDS[c.op]} {_number(c.threshold)}{unit}"
        else:
            difference = self.left - self.right
            interval = (
                f" (95 % interval {_signed(self.interval[0])} to {_signed(self.interval[1])})"
                if math.isfinite(self.interval[0])
                else ""
            )
            numbers = (
                f"{_number(self.left)} against {_number(self.right)}{unit}, "
                f"difference {_signed(difference)}{interval}, "
                f"wanted {_WORDS[c.op]} {_number(0.0 if c.threshold is None else c.threshold)}"
            )
        seeds = (
            ""
            if self.seeds_holding is None
            else (
                f"; holds on {self.seeds_holding} of {self.n} seeds" + (" (every seed wanted)" if c.every_seed else "")
            )
        )
        return f"{head}: {c.text}: {numbers}{seeds}."

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text for a run record; what is not finite is ``None``."""

        def plain(value: float | None) -> float | None:
            return value if value is not None and math.isfinite(value) else None

        return {
            "text": self.claim.text,
            "reproduced": self.reproduced,
            "op": self.claim.op,
            "left": plain(self.left),
            "right": plain(self.right),
            "threshold": plain(self.claim.threshold),
            "unit": self.claim.unit,
            "every_seed": self.claim.every_seed,
            "n": self.n,
            "seeds_holding": self.seeds_holding,
            "interval": [plain(v) for v in self.interval],
            "sentence": self.sentence,
        }

    def __bool__(self) -> bool:
        return self.reproduced

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        symbol, colour = ("✓", "#009E73") if self.reproduced else ("✗", "#D55E00")
        head, _, rest = self.sentence.partition(": ")
        return (
            f'<div class="kd-verdict" style="border-left:4px solid {colour};padding:.2em .8em;margin:.3em 0">'
            f'<b><span aria-hidden="true" style="color:{colour}">{symbol}</span> {html.escape(head)}</b>: '
            f"{html.escape(rest)}</div>"
        )


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return str(value)
    return f"{value:.3g}" if 0 < abs(value) < 0.1 else f"{value:.2f}".rstrip("0").rstrip(".")


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "") + _number(value)


__all__ = ["Arm", "Claim", "Comparison", "Verdict", "compare", "mean_interval", "paired_difference"]
