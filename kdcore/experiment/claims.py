"""Claims and what the numbers say of them: reproduced, contradicted, or open at this number of seeds.

A verdict rests on the interval of the paired differences over seeds, not on their mean: a difference of means within
the spread of the seeds settles nothing, in neither direction. Claims of one page are judged together
(:func:`check_claims`), because among many one comes out right by chance.
"""

from __future__ import annotations

import html
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..functional.checks import check_choice

if TYPE_CHECKING:
    from .compare import Comparison

#: Confidence of every interval here: Student's t over seeds.
CONFIDENCE = 0.95
#: One-sided level at which a claim is settled; the side of the 95 % interval.
LEVEL = (1 - CONFIDENCE) / 2
#: Most seeds that are ever suggested.
MOST_SEEDS = 1000

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
#: Sign and colour of a verdict; the word is always beside them.
SIGNS = {"reproduced": ("✓", "#009E73"), "contradicted": ("✗", "#D55E00"), "open": ("?", "#767676")}

Numbers = float | Sequence[float] | np.ndarray


# Intervals ------------------------------------------------------------------------------------------------------------


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
    p = float(stats.ttest_1samp(d, 0.0).pvalue) if len(d) > 1 and np.ptp(d) > _rounding(x, y) else math.nan
    return {"difference": float(d.mean()) if len(d) else math.nan, "diff_low": low, "diff_high": high, "p": p}


def seeds_suggested(sd: float, distance: float, *, level: float = LEVEL, power: float = 0.8) -> int | None:
    """Number of seeds at which a one-sided t test would settle an effect of this size.

    The smallest ``n >= 2`` with ``n >= ((t(1 - level, n - 1) + t(power, n - 1)) * sd / distance) ** 2``, where
    ``t(q, k)`` is the quantile ``q`` of Student's t with ``k`` degrees of freedom: the usual sample size of a paired
    comparison. It takes the measured spread and distance for the true ones, so it is a guide, not a promise.

    Args:
        sd: sample standard deviation of the paired differences.
        distance: of their mean from the threshold, in the same unit.
        level: one-sided; default 0.025, the side of a 95 % interval.
        power: chance to settle the claim if it is true; default 0.8 (convention).

    Returns:
        The number, or ``None`` where it is more than 1000.

    Raises:
        ValueError: a spread below zero or not finite.
    """
    from scipy import stats

    if not (math.isfinite(sd) and sd >= 0 and math.isfinite(distance)):
        raise ValueError(f"sd must be a finite number >= 0 and distance finite, got {sd!r} and {distance!r}.")
    if not distance:
        return None
    n = np.arange(2, MOST_SEEDS + 1)
    wanted = ((stats.t.ppf(1 - level, n - 1) + stats.t.ppf(power, n - 1)) * sd / abs(distance)) ** 2
    enough = n[n >= wanted]
    return int(enough[0]) if len(enough) else None


def _rounding(*values: np.ndarray) -> float:
    """Spread that rounding alone gives differences of these values."""
    return float(8 * np.finfo(float).eps * np.abs(np.concatenate(values)).max(initial=0.0))


def _holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down: the k-th smallest of m p-values times ``m - k + 1``, made monotone, at most 1."""
    order, adjusted, largest = np.argsort(p, kind="stable"), [math.nan] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


# Claims ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A paper's claim as an inequality between measured numbers.

    With ``right`` and ``threshold`` the difference is judged (``left - right op threshold``), with ``right`` alone
    ``left op right``, with ``threshold`` alone ``left op threshold``. Values per seed are judged by the interval of
    their paired differences; no seed is left out.

    Attributes:
        text: what is claimed, in words.
        left: a number, or one number per seed.
        op: ``">"``, ``">="``, ``"<"``, ``"<="``, ``"=="`` or ``"!="``. Measurements with a spread can contradict an
            equality but never establish it: ``"=="`` is reproduced only where the claim is ``exact``.
        right: a number, or one per seed, paired with ``left``.
        threshold: in ``unit``.
        unit: ``"points"`` and ``"%"`` multiply values by 100 (so shares in [0, 1] read as percent); any other text is
            only printed.
        every_seed: the inequality must hold on each seed too; one seed on which it fails contradicts the claim.
        exact: the numbers have no spread that matters (an identity, a count of bytes): the inequality itself is
            judged, on every value, and one value is enough.

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
    exact: bool = False

    def __post_init__(self) -> None:
        check_choice("op", self.op, tuple(OPERATORS))
        if self.right is None and self.threshold is None:
            raise ValueError(f"claim {self.text!r} needs right (what left is compared with), threshold, or both.")
        left, right = self.scaled(self.left), self.scaled(self.right)
        if not len(left) or not len(right):
            raise ValueError(f"claim {self.text!r} has no values to judge.")
        if len(left) != len(right) and 1 not in (len(left), len(right)):
            raise ValueError(f"claim {self.text!r}: left has {len(left)} seeds and right has {len(right)}.")

    def scaled(self, values: Numbers | None) -> np.ndarray:
        """Values in the unit, ``(n,)``; a missing right side is 0 so that differences can be formed."""
        return np.atleast_1d(np.asarray(0.0 if values is None else values, dtype=float)) * UNITS.get(self.unit, 1.0)

    def check(self) -> Verdict:
        """Judge the claim alone; claims of one page belong together into :func:`check_claims`."""
        return check_claims([self])[0]


def check_claims(claims: Sequence[Claim]) -> list[Verdict]:
    """Judge claims of one page together, corrected for their number.

    A claim with values on two seeds or more is tested by one-sided t tests of its paired differences against the
    threshold, in both directions; the smaller p-value counts. Holm's step-down over all tested claims keeps the chance
    of a single wrong verdict on the page at 5 %. For one claim alone this is the same as asking whether the whole 95 %
    interval lies on one side. Where all differences are equal there is no spread for a t test, and a sign test decides:
    ``p = 2 ** -n``, so that six equal seeds settle a claim and two do not.

    Args:
        claims: any number; those that are ``exact``, have one value, or one that is not finite are not tested and do
            not count.

    Returns:
        Verdicts in the order of the claims.

    Reference:
        S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    drafts = [_measure(claim) for claim in claims]
    tested = [i for i, draft in enumerate(drafts) if math.isfinite(draft.p)]
    corrected = dict(zip(tested, _holm([drafts[i].p for i in tested]), strict=True))
    rank = {i: k for k, i in enumerate(sorted(tested, key=lambda i: drafts[i].p))}
    for i in tested:
        settled = corrected[i] <= LEVEL
        value = _settled(drafts[i]) if settled else "open"
        if claims[i].every_seed and drafts[i].seeds_holding != drafts[i].n:
            value = "contradicted"
        suggested = _suggest(drafts[i], LEVEL / (len(tested) - rank[i])) if value == "open" else None
        drafts[i] = replace(
            drafts[i], value=value, p_corrected=corrected[i], claims=len(tested), seeds_suggested=suggested
        )
    return drafts


def _measure(claim: Claim) -> Verdict:
    """The numbers of a claim, and its verdict where no test is needed."""
    left, right = claim.scaled(claim.left), claim.scaled(claim.right)
    sides = (left - right, claim.threshold) if claim.threshold is not None else (left, right)
    finite = bool(np.isfinite(left - right).all())
    holds = np.atleast_1d(OPERATORS[claim.op](*sides)) & np.isfinite(left - right)
    n, p, value = max(len(left), len(right)), math.nan, "open"
    if claim.exact and finite:
        value = "reproduced" if holds.all() else "contradicted"
    elif finite and n > 1:
        p = _p_value(np.broadcast_to(left - right, n) - (claim.threshold or 0.0), _rounding(left, right))
    return Verdict(
        claim=claim,
        value=value,
        left=float(left.mean()),
        right=None if claim.right is None else float(right.mean()),
        n=n,
        seeds_holding=int(holds.sum()) if n > 1 else None,
        interval=mean_interval(left - right) if n > 1 and not claim.exact else (math.nan, math.nan),
        p=p,
    )


def _p_value(distances: np.ndarray, rounding: float) -> float:
    """The smaller one-sided p-value of distances from a threshold: t test, or sign test where all are equal."""
    from scipy import stats

    if np.ptp(distances) <= rounding:
        return 0.5 ** len(distances)
    error = distances.std(ddof=1) / math.sqrt(len(distances))
    return float(stats.t.sf(abs(distances.mean()) / error, len(distances) - 1))


def _settled(draft: Verdict) -> str:
    """On which side the values lie, given that they lie on one."""
    claim = draft.claim
    distance = draft.distance
    if claim.op == "!=":
        return "reproduced" if distance else "open"
    if claim.op == "==":
        return "contradicted" if distance else "open"
    return "reproduced" if OPERATORS[claim.op](distance, 0.0) else "contradicted"


def _suggest(draft: Verdict, level: float) -> int | None:
    """Seeds that would settle an open claim, more than it has; ``None`` where no number up to 1000 would."""
    claim = draft.claim
    d = np.broadcast_to(claim.scaled(claim.left) - claim.scaled(claim.right), draft.n)
    if np.ptp(d) <= _rounding(claim.scaled(claim.left), claim.scaled(claim.right)):
        wanted: int | None = math.ceil(-math.log2(level)) if draft.distance or claim.op not in ("==", "!=") else None
    else:
        wanted = seeds_suggested(float(d.std(ddof=1)), draft.distance, level=level)
    return None if wanted is None else max(wanted, draft.n + 1)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim and what the numbers say of it.

    Attributes:
        claim: what was judged.
        value: ``"reproduced"``, ``"contradicted"`` or ``"open"``; a verdict is true where it is reproduced.
        left, right: means in the claim's unit (``right`` is ``None`` for a bare threshold).
        n: seeds; seeds_holding: on how many of them the inequality holds by itself (``None`` for single numbers).
        interval: 95 % interval (Student's t) of ``left - right`` over seeds, not corrected for the number of claims;
            NaN for single numbers and exact claims.
        p: the smaller one-sided p-value; p_corrected: after Holm's correction over ``claims`` tested claims, settled at
            0.025 or less. NaN where nothing was tested.
        seeds_suggested: seeds that the measured spread suggests for an open claim (:func:`seeds_suggested`, at the
            corrected level); ``None`` where that is more than 1000 or cannot be said.
    """

    claim: Claim
    value: str
    left: float
    right: float | None
    n: int
    seeds_holding: int | None = None
    interval: tuple[float, float] = (math.nan, math.nan)
    p: float = math.nan
    p_corrected: float = math.nan
    claims: int = 1
    seeds_suggested: int | None = None

    @property
    def reproduced(self) -> bool:
        """Whether the value is ``"reproduced"``."""
        return self.value == "reproduced"

    @property
    def distance(self) -> float:
        """Mean of ``left - right`` minus the threshold; 0 where only rounding is left of it."""
        distance = self.left - (self.right or 0.0) - (self.claim.threshold or 0.0)
        terms = np.array([self.left, self.right or 0.0, self.claim.threshold or 0.0])
        return distance if abs(distance) > _rounding(terms) else 0.0

    @property
    def standard_error(self) -> float:
        """Of the mean of ``left - right`` over seeds; NaN for single numbers and exact claims."""
        if self.n < 2 or self.claim.exact:
            return math.nan
        d = np.broadcast_to(self.claim.scaled(self.claim.left) - self.claim.scaled(self.claim.right), self.n)
        return float(d.std(ddof=1) / math.sqrt(self.n)) if np.isfinite(d).all() else math.nan

    @property
    def head(self) -> str:
        """The value in words: ``"open at 3 seeds (about 12 would tell)"``."""
        if self.value != "open":
            return self.value
        head = f"open at {self.n} seed{'' if self.n == 1 else 's'}"
        if not (math.isfinite(self.left) and math.isfinite(self.right or 0.0)):
            return f"{head} (not all values are finite)"
        if self.n == 1:
            return f"{head} (one value has no spread to judge it by)"
        if self.claim.op == "==":
            return f"{head} (measurements can contradict an equality, not establish it)"
        return f"{head} ({self.seeds_suggested or f'more than {MOST_SEEDS}'} suggested)"

    @property
    def sentence(self) -> str:
        """``"reproduced: ..."``, ``"contradicted: ..."`` or ``"open at n seeds ...: ..."`` with its numbers."""
        c = self.claim
        unit = f" {c.unit}" if c.unit else ""
        interval = (
            f" (95 % interval {_signed(self.interval[0])} to {_signed(self.interval[1])}"
            f"{', uncorrected' if self.claims > 1 else ''})"
            if math.isfinite(self.interval[0])
            else ""
        )
        if self.right is None:
            bare = interval.replace("+", "")
            numbers = f"{_number(self.left)}{unit}{bare}, wanted {_WORDS[c.op]} {_number(c.threshold)}{unit}"
        else:
            numbers = (
                f"{_number(self.left)} against {_number(self.right)}{unit}, "
                f"difference {_signed(_difference(self.left, self.right))}{interval}, "
                f"wanted {_WORDS[c.op]} {_number(0.0 if c.threshold is None else c.threshold)}"
            )
        notes = []
        if self.seeds_holding is not None:
            every = " (every seed wanted)" if c.every_seed else ""
            notes.append(f"holds on {self.seeds_holding} of {self.n} seeds{every}")
        if self.value == "open" and self.p <= LEVEL < self.p_corrected:
            notes.append(f"settled alone, not among {self.claims} claims (Holm)")
        return f"{self.head}: {c.text}: {'; '.join([numbers, *notes])}."

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text for a run record; what is not finite is ``None``."""

        def plain(value: float | None) -> float | None:
            return value if value is not None and math.isfinite(value) else None

        return {
            "text": self.claim.text,
            "value": self.value,
            "reproduced": self.reproduced,
            "op": self.claim.op,
            "left": plain(self.left),
            "right": plain(self.right),
            "difference": plain(self.left - (self.right or 0.0)),
            "threshold": plain(self.claim.threshold),
            "unit": self.claim.unit,
            "every_seed": self.claim.every_seed,
            "exact": self.claim.exact,
            "n": self.n,
            "seeds_holding": self.seeds_holding,
            "interval": [plain(v) for v in self.interval],
            "standard_error": plain(self.standard_error),
            "p": plain(self.p),
            "p_corrected": plain(self.p_corrected),
            "claims": self.claims,
            "seeds_suggested": self.seeds_suggested,
            "sentence": self.sentence,
        }

    def __bool__(self) -> bool:
        return self.reproduced

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        symbol, colour = SIGNS[self.value]
        head, rest = html.escape(self.head), html.escape(self.sentence.removeprefix(f"{self.head}: "))
        return (
            f'<div class="kd-verdict" style="border-left:4px solid {colour};padding:.2em .8em;margin:.3em 0">'
            f'<b><span aria-hidden="true" style="color:{colour}">{symbol}</span> {head}</b>: {rest}</div>'
        )


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many claims have which verdict: ``"2 of 4 claims are reproduced, 1 contradicted, 1 open."``"""
    count = {value: sum(v.value == value for v in verdicts) for value in SIGNS}
    rest = "".join(f", {count[value]} {value}" for value in ("contradicted", "open"))
    return f"{count['reproduced']} of {len(verdicts)} claims are reproduced{rest}."


def effects(
    comparison: Comparison, baseline: str, *, metric: str = "last", words: str | None = None, unit: str | None = None
) -> list[str]:
    """A sentence for every arm whose difference to the baseline is settled, none for the others and for controls.

    Settled: the two-sided p-value of the paired t test is at most 0.05 after Holm's correction over all arms (a sign
    test where all differences are equal, as in :func:`check_claims`).

    Args:
        comparison: with two seeds or more.
        baseline: arm that the others are compared with.
        metric: column of the rows.
        words: what the metric is called; default the comparison's own name for its main metric, else the column's.
        unit: as of :class:`Claim`; by default points for an accuracy, else none.

    Returns:
        Sentences such as ``"KD is 2.5 points below CE in accuracy (95 % interval -3.1 to -1.9, p 0.009 after Holm's
        correction for 2 arms, 5 seeds)."``, in the order of the arms.

    Raises:
        ValueError: an unknown baseline or metric.
    """
    comparison.values(baseline, metric)
    main = metric in ("last", "best")
    words = words or (comparison.metric if main else metric)
    unit = unit if unit is not None else "points" if main and comparison.metric == "accuracy" else ""
    factor = UNITS.get(unit, 1.0)
    by_seed = {arm: {r["seed"]: r[metric] for r in comparison.records if r["arm"] == arm} for arm in comparison.arms}
    found: list[tuple[str, np.ndarray, float]] = []
    for arm in (arm for arm in comparison.arms if arm not in comparison.controls):
        common = [seed for seed in by_seed[arm] if seed in by_seed[baseline]] if arm != baseline else []
        x, y = (factor * np.array([by_seed[a][s] for s in common], dtype=float) for a in (arm, baseline))
        if len(common) > 1 and np.isfinite(x - y).all():
            found.append((arm, x - y, 2 * _p_value(x - y, _rounding(x, y))))
    sentences = []
    for (arm, d, _), p in zip(found, _holm([p for _, _, p in found]), strict=True):
        if p > 2 * LEVEL or not d.mean():
            continue
        low, high = mean_interval(d)
        side = "above" if d.mean() > 0 else "below"
        size = f"{_number(abs(float(d.mean())))} {unit}".rstrip()
        sentences.append(
            f"{arm} is {size} {side} {baseline} in {words} (95 % interval {_signed(low)} to {_signed(high)}, "
            f"p {p:.2g} after Holm's correction for {len(found)} arm{'' if len(found) == 1 else 's'}, {len(d)} seeds)."
        )
    return sentences


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return str(value)
    return f"{value:.3g}" if 0 < abs(value) < 0.1 else f"{value:.2f}".rstrip("0").rstrip(".")


def _difference(left: float, right: float) -> float:
    """``left - right``, 0 where only rounding is left of it."""
    d = left - right
    return d if not abs(d) <= _rounding(np.array([left, right])) else 0.0


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "") + _number(value)


__all__ = [
    "Claim",
    "Verdict",
    "check_claims",
    "effects",
    "mean_interval",
    "paired_difference",
    "seeds_suggested",
    "tally",
]
