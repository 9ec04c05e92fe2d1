r"""Understanding the Role of Mixup in Knowledge Distillation: An Empirical Study (WACV 2023), arXiv:2211.03946.

Mixup and distillation both smooth what a network says between samples. Together they can smooth too much: a mixed image
is strange to the teacher, its answer is soft already, and a high temperature softens it again. The paper mixes only a
small share of every batch, and lets the spread of each sample's logits take the temperature's place.

=====================================  ======================  ==========================================
symbol                                 name here               shape
=====================================  ======================  ==========================================
:math:`x,\ y`                          inputs, labels          ``(N, ...)``, ``(N,)`` integers
:math:`\lambda`                        lam                     ``(N,)`` in [0, 1], one per sample
:math:`i,\ j`                          perm1, perm2            ``(N,)`` the two members of every pair
:math:`\tilde x,\ \tilde y`            inputs, targets         ``(N, ...)``, ``(N, C)`` rows that sum to 1
:math:`s,\ t`                          student, teacher        ``(N, C)`` raw scores of :math:`\tilde x`
:math:`\sigma_s,\ \sigma_t`            standard deviation      ``(N, 1)`` over classes, unbiased
=====================================  ======================  ==========================================

.. math::
    \tilde x_n = \lambda_n x_{i_n} + (1 - \lambda_n) x_{j_n}, \qquad \hat s = s / \sigma_s,\quad \hat t = t / \sigma_t

    L = \gamma\,\frac1N\sum_n -\tilde y_n \log \mathrm{softmax}(\hat s_n)
      + \alpha\,\frac1N\sum_n KL(\mathrm{softmax}(\hat t_n) \,\|\, \mathrm{softmax}(\hat s_n))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..card import Evidence, Knob, MethodCard, Parity
from ..functional.checks import (
    check_choice,
    check_fraction,
    check_logits_pair,
    check_positive,
    check_temperature,
    check_weights,
    describe,
    names_arguments,
)
from ..functional.divergences import kl_with_temperature, soft_cross_entropy
from ..functional.mixing import beta_draws, mix_pairs, mixup_pairs, one_hot_targets, permutation
from ..functional.reductions import at_least_float32, reduce
from ..inputs import Batch
from ..method import Method, Signals, ce_weight_knob

SCALINGS = ("std", "temperature", "none")
SAMPLINGS = ("exact", "with_replacement")


class MixedBatch(NamedTuple):
    """A mixed batch and what it was made of.

    Attributes:
        inputs: ``(N, ...)``; targets: ``(N, C)``; lam: ``(N,)`` weight of the first member, 1 where nothing is mixed;
        perm1, perm2: ``(N,)`` rows of the batch.
    """

    inputs: Tensor
    targets: Tensor
    lam: Tensor
    perm1: Tensor
    perm2: Tensor


@names_arguments
def std_scale(logits: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    r"""Logits in units of their own spread: ``z / std(z)``, in place of a temperature.

    Args:
        logits: ``(N, C)``, any shape with two or more classes along ``dim``. The standard deviation is unbiased (N - 1)
            and carries gradient.
        dim: of the classes.
        eps: what a spread of exactly zero becomes; default 1e-12.

    Raises:
        ValueError: fewer than two classes, logits that are not floating.

    Reference:
        arXiv:2211.03946; official code hchoi71/MIX-KD (``MIXSTD``).
    """
    if not logits.is_floating_point() or not logits.ndim or logits.shape[dim] < 2:
        raise ValueError(f"logits must be floating with two classes or more along dim {dim}, got {describe(logits)}.")
    z = at_least_float32(logits)
    centred = z - z.mean(dim, keepdim=True)
    variance = centred.square().sum(dim, keepdim=True) / (z.shape[dim] - 1)
    flat = variance == 0  # the root of zero has no gradient
    return z / torch.where(flat, eps, variance.where(~flat, 1.0).sqrt())


def _check_batch(inputs: Tensor, labels: Tensor, num_classes: int, beta: float) -> None:
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or len(inputs) < 2:
        raise ValueError(f"inputs must be (N, ...) with two samples or more to mix, got {describe(inputs)}.")
    check_positive("beta", beta)
    one_hot_targets(labels, num_classes)


def _draw(
    inputs: Tensor, labels: Tensor, num_classes: int, beta: float, share: float, sampling: str, g: torch.Generator | None
) -> MixedBatch:
    n = len(inputs)
    perm1, perm2 = permutation(n, generator=g), permutation(n, generator=g)
    lam = beta_draws(n, beta, generator=g, dtype=inputs.dtype)
    kept = n - round(share * n) if sampling == "exact" else int((1 - share) * n)
    if sampling == "exact":
        still = permutation(n, generator=g)[:kept]
    else:
        still = torch.randint(n, (kept,), generator=g, device=lam.device)
    lam = lam.index_fill(0, still, 1.0)
    perm1, perm2, lam = (v.to(inputs.device) for v in (perm1, perm2, lam))
    mixed = mixup_pairs(inputs, labels, perm1=perm1, perm2=perm2, lam=lam, num_classes=num_classes)
    return MixedBatch(*mixed, lam, perm1, perm2)


@names_arguments
def full_mixup(
    inputs: Tensor, labels: Tensor, *, num_classes: int, beta: float = 1.0, generator: torch.Generator | None = None
) -> MixedBatch:
    """Every sample of a batch is mixed with another: two random permutations, one coefficient per sample.

    Args:
        inputs: ``(N, ...)`` floating, N >= 2. labels: ``(N,)`` integers in [0, C), or ``(N, C)`` probabilities.
        num_classes: C.
        beta: coefficients are drawn from Beta(beta, beta); default 1, uniform (official; the paper also tries 0.2, 0.4).
        generator: of all draws; the same state gives the same batch.

    Raises:
        ValueError: fewer than two samples, ``beta`` not above zero, labels that are no classes.

    Reference:
        arXiv:2211.03946, FMU; official code hchoi71/MIX-KD.
    """
    _check_batch(inputs, labels, num_classes, beta)
    return _draw(inputs, labels, num_classes, beta, 1.0, "exact", generator)


@names_arguments
def partial_mixup(
    inputs: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    mix_fraction: float = 0.1,
    beta: float = 1.0,
    sampling: str = "exact",
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """A share of the batch is mixed, the rest stays as it is (``lam = 1``).

    Args:
        inputs, labels, num_classes, beta, generator: as for :func:`full_mixup`.
        mix_fraction: share that is mixed; default 0.1, the paper's best.
        sampling: ``"exact"``: that share, rounded to whole samples. ``"with_replacement"``: as the released code, which
            draws ``int((1 - mix_fraction) N)`` samples to leave alone *with* replacement: at 0.1 only about 59.5 % stay
            unmixed.

    Raises:
        ValueError: as :func:`full_mixup`; ``mix_fraction`` outside [0, 1], unknown sampling.

    Reference:
        arXiv:2211.03946, PMU; official code hchoi71/MIX-KD (``partmixup``).
    """
    _check_batch(inputs, labels, num_classes, beta)
    check_fraction("mix_fraction", mix_fraction)
    check_choice("sampling", sampling, SAMPLINGS)
    return _draw(inputs, labels, num_classes, beta, mix_fraction, sampling, generator)


def _check_targets(labels: Tensor, student_logits: Tensor) -> Tensor:
    targets = one_hot_targets(labels, student_logits.shape[1], dtype=at_least_float32(student_logits).dtype)
    if len(targets) != len(student_logits):
        raise ValueError(f"labels must hold {len(student_logits)} samples like the logits, got {describe(labels)}.")
    if labels.is_floating_point() and not torch.compiler.is_compiling():
        low, off = float(targets.min()), float((targets.sum(1) - 1).abs().max())
        if low < 0 or not off <= 1e-4:
            raise ValueError(
                f"labels must be probabilities: none negative, rows that sum to 1 within 1e-4; got {low:.4g} as the "
                f"lowest and rows up to {off:.4g} off."
            )
    return targets


@names_arguments
def mixup_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    scaling: str = "std",
    temperature: float = 4.0,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    return_parts: bool = False,
    reduction: str = "mean",
) -> Tensor | dict[str, Tensor]:
    r"""Cross-entropy with (soft) labels and divergence from the teacher, both on logits in units of their own spread.

    Args:
        student_logits: ``(N, C)``. teacher_logits: ``(N, C)``, a constant.
        labels: ``(N,)`` integers in [0, C), or ``(N, C)`` probabilities (mixed labels).
        scaling: ``"std"`` (default, the paper's) divides both by their standard deviation over classes, in both terms,
            without a factor; ``"temperature"``: plain cross-entropy and :math:`T^2 KL` at ``temperature``; ``"none"``:
            the same at T = 1.
        temperature: > 0, of ``scaling="temperature"``; default 4.
        ce_weight, kd_weight: gamma and alpha; default 0.1 and 0.9 (official).
        return_parts: a dict of ``loss``, ``ce_term`` and ``kd_term`` (each with its weight) instead of the loss.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over samples.

    Raises:
        ValueError: shapes, one class only, labels out of range or no probabilities, temperature, weights, scaling.

    Reference:
        arXiv:2211.03946; official code hchoi71/MIX-KD.
    """
    check_logits_pair(student_logits, teacher_logits, min_classes=2)
    check_choice("scaling", scaling, SCALINGS)
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_temperature(temperature)
    check_weights(ce_weight=ce_weight, kd_weight=kd_weight)
    targets = _check_targets(labels, student_logits)
    s, t = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
    s, t = (std_scale(s), std_scale(t)) if scaling == "std" else (s, t)
    heat = temperature if scaling == "temperature" else 1.0
    ce_term = ce_weight * soft_cross_entropy(s, targets, reduction=reduction)
    kd_term = kd_weight * heat**2 * kl_with_temperature(s, t, temperature=heat, reduction=reduction)
    if return_parts:
        return {"loss": ce_term + kd_term, "ce_term": ce_term, "kd_term": kd_term}
    return ce_term + kd_term
