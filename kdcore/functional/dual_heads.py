r"""Two heads on one backbone: their loss, the interpolation of their answers and its search; zero-shot class weights.

A head that sees labels only (CE) and a head that sees the teacher only (KD) give logits :math:`z^{ce}` and
:math:`z^{kd}`. They are trained by

.. math::
    L = w_{ce} \, CE(z^{ce}, y) + w_{kd} \, (KD(z^{kd}_l, t_l) + KD(z^{kd}_u, t_u)),

with l the labelled and u the unlabelled samples, and answer together with
:math:`\alpha \, \mathrm{softmax}(z^{ce}) + (1 - \alpha) \, \mathrm{softmax}(z^{kd} / \beta)`. Here :math:`\alpha`
always weighs the CE head. Logits of a vision-language teacher come from its text embeddings
(:func:`zero_shot_weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import (
    check_fraction,
    check_labels,
    check_logits_pair,
    check_non_negative,
    check_positive,
    check_temperature,
    describe,
    names_arguments,
)
from .divergences import kd_loss
from .reductions import at_least_float32


def _check_heads(ce_logits: Tensor, kd_logits: Tensor) -> None:
    for name, z in (("ce_logits", ce_logits), ("kd_logits", kd_logits)):
        if not isinstance(z, Tensor) or z.ndim != 2 or not z.is_floating_point() or z.shape != ce_logits.shape:
            raise ValueError(
                f"{name} must be floating (N, C), both heads alike, got {describe(z)} (ce: {describe(ce_logits)})."
            )


@names_arguments
def dual_head_probabilities(ce_logits: Tensor, kd_logits: Tensor, *, alpha: float = 0.5, beta: float = 1.0) -> Tensor:
    """``alpha softmax(z_ce) + (1 - alpha) softmax(z_kd / beta)``.

    Args:
        ce_logits: ``(N, C)`` of the head trained with labels.
        kd_logits: ``(N, C)`` of the head trained with the teacher.
        alpha: weight of the CE head, in [0, 1]; default 0.5 (without a validation set).
        beta: temperature of the KD head, > 0; default 1.

    Returns:
        ``(N, C)`` probabilities, at least float32.

    Raises:
        ValueError: shapes, ``alpha`` or ``beta`` out of range.

    Reference:
        "Simple yet Effective Semi-supervised Knowledge Distillation from Vision-Language Models via Dual-Head
        Optimization" (Kang et al., 2025), arXiv:2505.07675; official code: erjui/DHO.
    """
    _check_heads(ce_logits, kd_logits)
    check_fraction("alpha", alpha)
    check_positive("beta", beta)
    ce, kd = at_least_float32(ce_logits), at_least_float32(kd_logits)
    return alpha * ce.softmax(1) + (1 - alpha) * (kd / beta).softmax(1)


class InterpolationResult(NamedTuple):
    """The best interpolation of two heads on labelled samples.

    Attributes:
        accuracy: in [0, 1], at the best point. alpha, beta: that point.
        grid: ``(betas, alphas)`` float64 accuracies of all points.
    """

    accuracy: float
    alpha: float
    beta: float
    grid: Tensor


#: The grid of the official code: steps of 0.05, and seven temperatures.
ALPHAS = tuple(i / 20 for i in range(21))
BETAS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)


@names_arguments
@torch.no_grad()
def search_interpolation(
    ce_logits: Tensor,
    kd_logits: Tensor,
    labels: Tensor,
    *,
    alphas: Sequence[float] | Tensor | None = None,
    betas: Sequence[float] | Tensor | None = None,
) -> InterpolationResult:
    """The grid point of highest accuracy; betas are the outer loop, and a later point must be strictly better.

    Search on validation samples: a point found on the test set says nothing about it.

    Args:
        ce_logits, kd_logits: ``(N, C)``, N >= 1.
        labels: ``(N,)`` integers in [0, C).
        alphas: weights of the CE head; default 0, 0.05, ..., 1.
        betas: temperatures of the KD head; default 0.5, 0.75, 1, 1.25, 1.5, 2, 4.

    Raises:
        ValueError: shapes, no sample, labels out of range, an empty grid or a point out of range.
        TypeError: labels that are not integers.

    Reference:
        arXiv:2505.07675; official code: erjui/DHO.
    """
    _check_heads(ce_logits, kd_logits)
    labels = check_labels(labels, *ce_logits.shape)
    if not len(labels):
        raise ValueError(f"ce_logits must hold at least one sample, got {describe(ce_logits)}.")
    a, b = (
        [float(v) for v in (given if given is not None else default)]
        for given, default in ((alphas, ALPHAS), (betas, BETAS))
    )
    if not a or not b:
        raise ValueError(f"alphas and betas must not be empty, got {len(a)} and {len(b)} values.")
    for alpha in a:
        check_fraction("alphas", alpha)
    for beta in b:
        check_positive("betas", beta)
    ce = at_least_float32(ce_logits).softmax(1)
    hits = torch.zeros(len(b), len(a), dtype=torch.int64)
    for row, beta in enumerate(b):
        kd = (at_least_float32(kd_logits) / beta).softmax(1)
        for column, alpha in enumerate(a):
            hits[row, column] = ((alpha * ce + (1 - alpha) * kd).argmax(1) == labels).sum()
    row, column = divmod(int(hits.flatten().argmax()), len(a))  # the first of several
    grid = hits.double() / len(labels)
    return InterpolationResult(float(grid[row, column]), a[column], b[row], grid)


@names_arguments
def dho_loss(
    ce_logits: Tensor,
    kd_logits_labeled: Tensor,
    kd_logits_unlabeled: Tensor | None,
    teacher_logits_labeled: Tensor,
    teacher_logits_unlabeled: Tensor | None,
    labels: Tensor,
    *,
    temperature: float = 2.0,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
) -> dict[str, Tensor]:
    """The dual-head loss: labels to one head, the teacher to the other.

    The labelled and the unlabelled distillation term are means over their own samples, added.

    Args:
        ce_logits: ``(N, C)`` of the CE head on labelled samples.
        kd_logits_labeled, kd_logits_unlabeled: ``(N, C)`` and ``(M, C)`` of the KD head; the latter ``None`` without
            unlabelled samples.
        teacher_logits_labeled, teacher_logits_unlabeled: the teacher's, same shapes; constants.
        labels: ``(N,)`` integers in [0, C).
        temperature: of the distillation terms (T^2 included), > 0; default 2 (erjui/DHO).
        ce_weight, kd_weight: default 0.5 and 0.5 (few-shot scripts); 1 and 1 in the ImageNet 1 % / 10 % script.

    Returns:
        ``loss``, ``ce``, ``kd_labeled``, ``kd_unlabeled`` (0 without unlabelled samples); the parts are unweighted.

    Raises:
        ValueError: shapes, class counts that differ, labels out of range, temperature, weights negative or both zero.
        TypeError: labels that are not integers.

    Reference:
        arXiv:2505.07675, equation 3; official code: erjui/DHO.
    """
    check_non_negative("ce_weight", ce_weight)
    check_non_negative("kd_weight", kd_weight)
    check_temperature(temperature)
    if not ce_weight + kd_weight:
        raise ValueError("ce_weight and kd_weight must not both be zero.")
    check_logits_pair(kd_logits_labeled, teacher_logits_labeled)
    _check_heads(ce_logits, kd_logits_labeled)
    if (kd_logits_unlabeled is None) != (teacher_logits_unlabeled is None):
        raise ValueError(
            "kd_logits_unlabeled and teacher_logits_unlabeled must both be given or both be None, got "
            f"{describe(kd_logits_unlabeled)} and {describe(teacher_logits_unlabeled)}."
        )
    ce = F.cross_entropy(at_least_float32(ce_logits), check_labels(labels, *ce_logits.shape))
    kd_labeled = kd_loss(kd_logits_labeled, teacher_logits_labeled, temperature=temperature)
    kd_unlabeled = torch.zeros_like(kd_labeled)
    if kd_logits_unlabeled is not None and teacher_logits_unlabeled is not None:
        if kd_logits_unlabeled.shape[1:] != ce_logits.shape[1:]:
            raise ValueError(
                f"kd_logits_unlabeled must have {ce_logits.shape[1]} classes, got {describe(kd_logits_unlabeled)}."
            )
        kd_unlabeled = kd_loss(kd_logits_unlabeled, teacher_logits_unlabeled, temperature=temperature)
    loss = ce_weight * ce + kd_weight * (kd_labeled + kd_unlabeled)
    return {"loss": loss, "ce": ce, "kd_labeled": kd_labeled, "kd_unlabeled": kd_unlabeled}


@names_arguments
def zero_shot_weights(text_embeddings: Tensor, *, normalize_first: bool = True) -> Tensor:
    """Class weights of a vision-language model: the mean text embedding of each class's prompts, of length 1.

    Args:
        text_embeddings: ``(C, P, D)``, P prompts per class.
        normalize_first: bring every prompt to length 1 before the mean, as erjui/DHO does; off for erjui/PCoreSet.

    Returns:
        ``(D, C)``, columns of length 1.

    Raises:
        ValueError: not floating ``(C, P, D)``.

    Reference:
        "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021),
        arXiv:2103.00020, section 3.1.4.
    """
    if text_embeddings.ndim != 3 or not text_embeddings.is_floating_point() or not text_embeddings.numel():
        raise ValueError(f"text_embeddings must be floating (C, P, D), got {describe(text_embeddings)}.")
    x = at_least_float32(text_embeddings)
    mean = (F.normalize(x, dim=-1) if normalize_first else x).mean(1)
    return F.normalize(mean, dim=-1).T


@names_arguments
def zero_shot_logits(image_embeddings: Tensor, text_weights: Tensor, *, logit_scale: float = 100.0) -> Tensor:
    """``logit_scale * cos(image, class)``: what a vision-language model says without training.

    Args:
        image_embeddings: ``(N, D)``, of any length; normalised here.
        text_weights: ``(D, C)`` of :func:`zero_shot_weights`.
        logit_scale: > 0; default 100 (CLIP).

    Raises:
        ValueError: shapes, widths that differ, ``logit_scale``.

    Reference:
        arXiv:2103.00020, figure 3.
    """
    check_positive("logit_scale", logit_scale)
    if image_embeddings.ndim != 2 or text_weights.ndim != 2 or image_embeddings.shape[1] != text_weights.shape[0]:
        raise ValueError(
            f"image_embeddings must be (N, D) and text_weights (D, C), got {describe(image_embeddings)} and "
            f"{describe(text_weights)}."
        )
    x = F.normalize(at_least_float32(image_embeddings), dim=1)
    return logit_scale * x @ text_weights.to(x.dtype)


__all__ = [
    "InterpolationResult",
    "dho_loss",
    "dual_head_probabilities",
    "search_interpolation",
    "zero_shot_logits",
    "zero_shot_weights",
]
