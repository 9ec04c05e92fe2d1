r"""Divergences between two sets of logits, and the three baselines of logit distillation made of them: KD, DKD, DIST.

With student logits :math:`s`, teacher logits :math:`t`, :math:`p = \mathrm{softmax}(t / T)` and
:math:`q = \mathrm{softmax}(s / T)`:

.. math::
    L_{KD}   &= T^2 \, \mathrm{mean}_n \, KL(p_n \,\|\, q_n) \\
    L_{DKD}  &= \alpha \, TCKD + \beta \, NCKD \\
    L_{DIST} &= T^2 (\beta \, (1 - \mathrm{mean}_n \, \rho(q_n, p_n)) +
                \gamma \, (1 - \mathrm{mean}_c \, \rho(q_{:c}, p_{:c})))

The teacher is a constant in all of them. Half-precision logits are read as float32, under autocast too. NaN and
infinite logits are not looked for: they propagate.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _kernels
from .checks import check_labels, check_logits_pair, check_non_negative, check_temperature, describe, names_arguments
from .correlation import pearson_correlation
from .reductions import at_least_float32, reduce

_HOT = 64.0  # float32 has digits enough below


@names_arguments
def flatten_maps(logits: Tensor) -> Tensor:
    """Dense logits ``(N, C, H, W)`` as rows ``(N*H*W, C)``; logits ``(N, C)`` are returned unchanged."""
    return logits if logits.ndim == 2 else logits.movedim(1, -1).reshape(-1, logits.shape[1])


def _pair(
    student_logits: Tensor, teacher_logits: Tensor, *, ndim: tuple[int, ...] = (2,), min_classes: int = 1
) -> tuple[Tensor, Tensor]:
    """Checked rows ``(N, C)`` of at least float32; the teacher detached and in the student's precision."""
    check_logits_pair(student_logits, teacher_logits, ndim=ndim, min_classes=min_classes)
    s = at_least_float32(flatten_maps(student_logits))
    return s, flatten_maps(teacher_logits).detach().to(s.dtype)


@names_arguments
def kl_with_temperature(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, detach: bool = True
) -> Tensor:
    """``KL(softmax(t / T) || softmax(s / T))`` per row, without the factor ``T^2``: the sum over classes alone.

    Args:
        student_logits: ``(..., C)``.
        teacher_logits: ``(..., C)``; a constant unless ``detach`` is off.
        temperature: ``T > 0``.
        detach: take the teacher as a constant, the default. Off where networks teach each other and the gradient is to
            flow into the target as well: ``p (log p - log q - KL) / T``.

    Returns:
        ``(...)``, >= 0 up to round-off, 0 at a match.

    Raises:
        ValueError: temperature not above zero, or different shapes.
    """
    check_temperature(temperature)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits and teacher_logits must have the same shape, got "
            f"{describe(student_logits)} and {describe(teacher_logits)}."
        )
    s = at_least_float32(student_logits)
    if temperature > _HOT and s.dtype != torch.float64:  # the divergence falls with T^-2 below float32's rounding
        kl = kl_with_temperature(s.double(), teacher_logits.double(), temperature=temperature, detach=detach)
        return kl.to(s.dtype)
    t = (teacher_logits.detach() if detach else teacher_logits).to(s.dtype)
    if _kernels.applies(s) and s.ndim == 2 and not t.requires_grad:
        return _kernels.RowKL.apply(s, t, temperature)
    log_q, log_p = F.log_softmax(s / temperature, dim=-1), F.log_softmax(t / temperature, dim=-1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


@names_arguments
def soft_cross_entropy(logits: Tensor, target_probs: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy with soft targets, ``-sum_c p_c log softmax(logits)_c``.

    Args:
        logits: ``(N, C)`` raw scores.
        target_probs: ``(N, C)`` probabilities; not normalised here. A gradient flows into them if they require one.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over rows.

    Raises:
        ValueError: different shapes, not 2-D, unknown reduction.
    """
    if logits.ndim != 2 or logits.shape != target_probs.shape:
        raise ValueError(
            f"logits and target_probs must both be (N, C), got {describe(logits)} and {describe(target_probs)}."
        )
    return reduce(-(target_probs * F.log_softmax(at_least_float32(logits), dim=-1)).sum(-1), reduction)


@names_arguments
def split_target_nontarget(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two parts of ``softmax(logits)`` that DKD looks at: target against rest, and the shape of the rest.

    Nothing is subtracted from 1, so confident rows keep their accuracy: with ``m`` the target's logit minus the
    logsumexp of the others, the two binary log-probabilities are ``logsigmoid(m)`` and ``logsigmoid(-m)``.

    Args:
        logits: ``(N, C)`` scores, already divided by the temperature; ``C >= 2``.
        labels: ``(N,)`` int64 in ``[0, C)``.

    Returns:
        ``(log_target, log_rest, log_nontarget)``: ``(N,)`` log-probability of the target; ``(N,)`` of all others
        together; ``(N, C)`` log-softmax over the others, whose entry at the target is so low that its ``exp`` is
        exactly 0.
    """
    logits, index = at_least_float32(logits), labels.unsqueeze(1)
    rest = logits.scatter(1, index, torch.finfo(logits.dtype).min)  # finite, or 0 * inf would make the gradient NaN
    top = rest.detach().amax(1, keepdim=True)  # taken off first: large logits would round the small log-sum away
    rest = rest - top
    log_sum = rest.exp().sum(1, keepdim=True).log()
    margin = (logits.gather(1, index) - top - log_sum).squeeze(1)
    return F.logsigmoid(margin), F.logsigmoid(-margin), rest - log_sum


@names_arguments
def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    reduction: str = "mean",
) -> Tensor:
    """Hinton's distillation term, ``T^2 KL(softmax(t / T) || softmax(s / T))``.

    The gradient is ``T (q - p) / N``. At large ``T`` it tends to the difference of the centred logits over ``N C`` and
    depends on ``T`` no longer; at small ``T``, where the softmaxes are not flat, ``T^2`` keeps its order of size alone.

    Args:
        student_logits: ``(N, C)`` or ``(N, C, H, W)`` raw scores (maps count as ``N*H*W`` samples).
        teacher_logits: same shape; detached.
        labels: accepted and ignored, so that a loop can call all losses alike.
        temperature: ``T > 0``; default 4 (megvii-research/mdistiller).
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``(N,)``.

    Raises:
        ValueError: shapes that differ or have another rank, temperature not above zero, unknown reduction.
        TypeError: logits that are not floating.

    Reference:
        "Distilling the Knowledge in a Neural Network" (Hinton et al., 2015), arXiv:1503.02531, section 2;
        official values: megvii-research/mdistiller.
    """
    s, t = _pair(student_logits, teacher_logits, ndim=(2, 4))
    check_temperature(temperature)
    return temperature**2 * reduce(kl_with_temperature(s, t, temperature=temperature), reduction)


@names_arguments
def kd_objective(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    temperature: float = 4.0,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy with the labels (at temperature 1) plus :func:`kd_loss`, weighted.

    Args:
        student_logits: ``(N, C)`` raw scores.
        teacher_logits: ``(N, C)``; detached.
        labels: ``(N,)`` integers in ``[0, C)``.
        temperature: ``T > 0`` of the distillation term; default 4.
        ce_weight: weight of cross-entropy; default 0.1 (megvii-research/mdistiller).
        kd_weight: weight of the distillation term; default 0.9 (megvii-research/mdistiller).
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``(N,)``.

    Raises:
        ValueError: shapes, labels missing or out of range, temperature, negative weight, unknown reduction.
        TypeError: labels that are not integers.

    Reference:
        "Distilling the Knowledge in a Neural Network" (Hinton et al., 2015), arXiv:1503.02531, section 2.
    """
    s, t = _pair(student_logits, teacher_logits)
    labels = check_labels(labels, *s.shape)
    check_non_negative("ce_weight", ce_weight)
    check_non_negative("kd_weight", kd_weight)
    ce = F.cross_entropy(s, labels, reduction="none")
    return reduce(ce_weight * ce + kd_weight * kd_loss(s, t, temperature=temperature, reduction="none"), reduction)


def _decoupled_kl(s: Tensor, t: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KL between (target, rest), and KL between the softmaxes over the rest: ``(N,)`` each."""
    if _kernels.applies(s):
        q_margin, p_margin, others = _kernels.TargetAndRest.apply(s, t, labels, temperature)
        (log_q_target, log_q_rest), (log_p_target, log_p_rest) = (
            (F.logsigmoid(m), F.logsigmoid(-m)) for m in (q_margin, p_margin)
        )
    else:
        log_q_target, log_q_rest, log_q = split_target_nontarget(s / temperature, labels)
        log_p_target, log_p_rest, log_p = split_target_nontarget(t / temperature, labels)
        others = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    binary = log_p_target.exp() * (log_p_target - log_q_target) + log_p_rest.exp() * (log_p_rest - log_q_rest)
    return binary, others


@overload
def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    alpha: float = ...,
    beta: float = ...,
    temperature: float = ...,
    return_parts: Literal[False] = ...,
    reduction: str = ...,
) -> Tensor: ...
@overload
def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    alpha: float = ...,
    beta: float = ...,
    temperature: float = ...,
    return_parts: Literal[True],
    reduction: str = ...,
) -> tuple[Tensor, Tensor, Tensor]: ...
@names_arguments
def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    return_parts: bool = False,
    reduction: str = "mean",
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Decoupled KD, ``alpha * TCKD + beta * NCKD``.

    TCKD is ``T^2 KL`` between (target, rest) of teacher and student; NCKD is ``T^2 KL`` between their softmaxes over
    the other classes. Per sample ``KD = TCKD + (1 - p_y) NCKD``: plain KD mutes NCKD where the teacher is confident.

    Args:
        student_logits: ``(N, C)`` raw scores, ``C >= 2``.
        teacher_logits: ``(N, C)``; detached.
        labels: ``(N,)`` integers in ``[0, C)``.
        alpha: weight of TCKD; default 1 (megvii-research/mdistiller).
        beta: weight of NCKD; default 8 (megvii-research/mdistiller; its configurations per pair use 2, 6 or 8).
        temperature: ``T > 0``; default 4.
        return_parts: also return the unweighted parts.
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``(N,)``; parts likewise.

    Returns:
        The loss, or ``(loss, tckd, nckd)`` with ``loss == alpha * tckd + beta * nckd``.

    Raises:
        ValueError: shapes, fewer than two classes, labels missing or out of range, temperature, negative weight,
            reduction.
        TypeError: labels that are not integers.

    Reference:
        "Decoupled Knowledge Distillation" (Zhao et al., 2022), arXiv:2203.08679, eq. 7; code
        megvii-research/mdistiller.
    """
    s, t = _pair(student_logits, teacher_logits, min_classes=2)
    labels = check_labels(labels, *s.shape)
    check_temperature(temperature)
    check_non_negative("alpha", alpha)
    check_non_negative("beta", beta)
    tckd, nckd = (temperature**2 * reduce(part, reduction) for part in _decoupled_kl(s, t, labels, temperature))
    total = alpha * tckd + beta * nckd
    return (total, tckd, nckd) if return_parts else total


@overload
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = ...,
    *,
    beta: float = ...,
    gamma: float = ...,
    temperature: float = ...,
    eps: float = ...,
    return_parts: Literal[False] = ...,
) -> Tensor: ...
@overload
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = ...,
    *,
    beta: float = ...,
    gamma: float = ...,
    temperature: float = ...,
    eps: float = ...,
    return_parts: Literal[True],
) -> tuple[Tensor, Tensor, Tensor]: ...
@names_arguments
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    eps: float = 1e-8,
    return_parts: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """DIST: match the correlation of probabilities, not the probabilities, ``T^2 (beta * inter + gamma * intra)``.

    ``inter`` is 1 - the mean Pearson correlation of each sample's class probabilities; ``intra`` is 1 - that of each
    class's probabilities over the batch. Has no per-sample form.

    Args:
        student_logits: ``(N, C)`` or ``(N, C, H, W)`` raw scores, at least two rows (maps count as ``N*H*W`` samples).
        teacher_logits: same shape; detached.
        labels: accepted and ignored, so that a loop can call all losses alike.
        beta: weight of the relation between classes; default 1 (hunto/DIST_KD).
        gamma: weight of the relation between samples; default 1 (hunto/DIST_KD).
        temperature: ``T > 0``; default 1 (hunto/DIST_KD; 4 in its CIFAR-100 recipe).
        eps: added to the product of the norms, not inside a root; default 1e-8 (hunto/DIST_KD).
        return_parts: also return the unweighted parts.

    Returns:
        The loss, or ``(loss, inter, intra)`` with ``loss == T^2 (beta * inter + gamma * intra)``.

    Raises:
        ValueError: shapes, fewer than two samples, temperature not above zero, negative weight or ``eps``.

    Reference:
        "Knowledge Distillation from A Stronger Teacher" (Huang et al., 2022), arXiv:2205.10536, eqs. 8-11; code
        hunto/DIST_KD.
    """
    s, t = _pair(student_logits, teacher_logits, ndim=(2, 4))
    if s.shape[0] < 2:
        raise ValueError(
            f"student_logits needs at least 2 samples for the correlation over the batch, "
            f"got {describe(student_logits)}."
        )
    check_temperature(temperature)
    check_non_negative("beta", beta)
    check_non_negative("gamma", gamma)
    check_non_negative("eps", eps)
    if _kernels.applies(s):
        rows, columns = _kernels.SoftmaxCorrelations.apply(s, t, temperature, eps)
    else:
        q, p = (s / temperature).softmax(1), (t / temperature).softmax(1)
        rows, columns = (pearson_correlation(q, p, dim=dim, eps=eps) for dim in (1, 0))
    inter, intra = 1 - rows.mean(), 1 - columns.mean()
    total = temperature**2 * (beta * inter + gamma * intra)
    return (total, inter, intra) if return_parts else total


def linear_warmup(epoch: float, warmup_epochs: float) -> float:
    """``min(epoch / warmup_epochs, 1)``: the factor of a distillation term that grows from 0; 1 without warm-up.

    Args:
        epoch: epochs done, >= 0 (counts from 0, so that the first epoch has weight 0).
        warmup_epochs: epochs until the full weight; 0 switches warm-up off.

    Raises:
        ValueError: a negative or non-finite argument.
    """
    check_non_negative("epoch", epoch)
    check_non_negative("warmup_epochs", warmup_epochs)
    return min(epoch / warmup_epochs, 1.0) if warmup_epochs else 1.0
