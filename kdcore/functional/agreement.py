"""Do two classifiers say the same, does one classifier say what another says under other class names, and is a
difference in accuracy more than chance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_labels, check_logits_pair, describe, names_arguments


@names_arguments
def top_k_agreement(student_logits: Tensor, teacher_logits: Tensor, *, k: int = 1) -> Tensor:
    """Share of the teacher's ``k`` highest classes that are among the student's ``k`` highest, per sample.

    With ``k = 1`` it is 1 where both predict the same class. Ties are broken by the class index, in both alike.

    Args:
        student_logits: ``(N, C)`` raw scores.
        teacher_logits: ``(N, C)``.
        k: how many classes count, ``1 <= k <= C``.

    Returns:
        ``(N,)`` float64 in [0, 1].

    Raises:
        ValueError: shapes differ, or ``k`` out of range.
    """
    check_logits_pair(student_logits, teacher_logits)
    if not 1 <= k <= student_logits.shape[1]:
        raise ValueError(f"k must be in [1, {student_logits.shape[1]}], got {k!r}.")
    ours, theirs = (x.argsort(dim=1, descending=True, stable=True)[:, :k] for x in (student_logits, teacher_logits))
    return (ours[:, :, None] == theirs[:, None, :]).any(2).double().mean(1)


@names_arguments
def confusion_counts(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``(C, C)`` int64: how many samples of class ``row`` were called ``column``.

    Args:
        predicted: ``(N,)`` classes. labels: ``(N,)`` classes. num_classes: C.

    Raises:
        ValueError: shapes differ, or a class outside ``[0, C)``.
    """
    labels = check_labels(labels, len(labels), num_classes)
    predicted = check_labels(predicted, len(labels), num_classes)
    return (labels * num_classes + predicted).bincount(minlength=num_classes**2).view(num_classes, num_classes)


@names_arguments
def best_matching(scores: Tensor) -> Tensor:
    """The one-to-one renaming of columns with the highest total score: ``matching[row]`` is the column of that row.

    Args:
        scores: ``(C, C)``, for instance :func:`confusion_counts`.

    Returns:
        ``(C,)`` int64, a permutation. Among equals the identity is preferred, so that a class without evidence keeps
        its name.

    Raises:
        ValueError: not a square matrix.

    Reference:
        Kuhn 1955, "The Hungarian method for the assignment problem" (``scipy.optimize.linear_sum_assignment``).
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores must be (C, C), got {describe(scores)}.")
    from scipy.optimize import linear_sum_assignment

    size = len(scores)
    values = scores.double()
    bonus = 1e-9 * float(values.abs().max()) / max(size, 1)  # decides ties alone: C bonuses stay below any real step
    _, columns = linear_sum_assignment((values + bonus * torch.eye(size, dtype=torch.float64)).numpy(), maximize=True)
    return torch.from_numpy(columns).long()


class PairedGain(NamedTuple):
    """How two answers to the same questions compare.

    Attributes:
        gain: accuracy of the second minus that of the first. fixed, broken: samples only the second, only the first
            has right. p: probability of at least so many fixed if both were equally good (exact McNemar, one-sided).
    """

    gain: float
    fixed: int
    broken: int
    p: float


@names_arguments
def paired_gain(before: Tensor, after: Tensor) -> PairedGain:
    """Is ``after`` right more often than ``before`` on the same samples?

    Args:
        before, after: ``(N,)`` bool, which samples are right.

    Raises:
        ValueError: shapes differ or there is no sample.

    Reference:
        McNemar 1947, Psychometrika 12; exact binomial form.
    """
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise ValueError(f"before and after must be (N,) with N >= 1, got {describe(before)} and {describe(after)}.")
    from scipy.stats import binom

    before, after = before.bool(), after.bool()
    fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
    p = float(binom.sf(fixed - 1, fixed + broken, 0.5)) if fixed + broken else 1.0
    return PairedGain((fixed - broken) / len(before), fixed, broken, p)


@names_arguments
def paired_rise(before: Tensor, after: Tensor) -> float:
    """Are the values ``after`` larger than those ``before`` on the same samples?

    On log-probabilities of the labels it sees changes that leave most answers as they were, which
    :func:`paired_gain` does not; a few enormous differences do not decide it.

    Args:
        before, after: ``(N,)`` finite values, say log-probabilities of the labels.

    Returns:
        Probability by chance, one-sided; 1 where nothing differs.

    Raises:
        ValueError: shapes differ, there is no sample or a value is not finite.

    Reference:
        Wilcoxon 1945, Biometrics Bulletin 1 (``scipy.stats.wilcoxon``, samples without a difference left out).
    """
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise ValueError(f"before and after must be (N,) with N >= 1, got {describe(before)} and {describe(after)}.")
    difference = after.double() - before.double()
    if not bool(torch.isfinite(difference).all()):
        raise ValueError("before and after must be finite, got NaN or infinity.")
    if not bool(difference.any()):
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(difference.cpu().numpy(), alternative="greater").pvalue)


__all__ = ["PairedGain", "best_matching", "confusion_counts", "paired_gain", "paired_rise", "top_k_agreement"]
