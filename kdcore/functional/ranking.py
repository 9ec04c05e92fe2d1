r"""Rankings as choices: the Plackett-Luce model, its likelihood for any ranking, its samples.

A ranking :math:`\pi` of ``C`` items is made by choosing the best item, removing it, and choosing again; with scores
:math:`s` the choice at step ``k`` has probability :math:`\exp s_{\pi_k} / \sum_{l \ge k} \exp s_{\pi_l}`. Rankings are
tensors of item indices, best first.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .checks import check_labels, check_logits_pair, describe, names_arguments
from .correlation import kendall_tau
from .reductions import at_least_float32, reduce


@names_arguments
def descending_order(scores: Tensor) -> Tensor:
    """Indices that sort the last dimension from the largest score down; ties go to the lower index.

    Args:
        scores: ``(..., C)``.

    Returns:
        ``(..., C)`` int64.
    """
    scores = scores.detach()
    if scores.device.type == "cpu" and scores.dtype != torch.float64 and not torch.compiler.is_compiling():
        return _packed_order(at_least_float32(scores))
    return scores.argsort(dim=-1, descending=True, stable=True)


def _packed_order(scores: Tensor) -> Tensor:
    """:func:`descending_order` of float32 on the CPU, several times as fast as a stable argsort there.

    Score and index are packed into one int64 (score above, index below): the keys are distinct, so any sort of them is
    stable, and numpy sorts plain integers with vector instructions.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    falling = ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))  # integers in the order of the floats, largest float first
    keys = (falling.long() << 32) | torch.arange(scores.shape[-1])
    keys.numpy().sort(axis=-1)
    return keys & 0xFFFFFFFF


@names_arguments
def positions(ranking: Tensor) -> Tensor:
    """The inverse permutation: ``positions(ranking)[n, c]`` is the place (0 = best) of item ``c`` in row ``n``."""
    places = torch.arange(ranking.shape[-1], device=ranking.device).expand_as(ranking)
    return torch.empty_like(ranking).scatter_(-1, ranking, places)


@names_arguments
def check_ranking(ranking: Tensor, shape: tuple[int, ...] | torch.Size) -> None:
    """Raise unless ``ranking`` is an integer tensor of ``shape`` whose rows are permutations of ``0 .. C-1``.

    Raises:
        TypeError: not int64.
        ValueError: another shape, or a row that is not a permutation (the first one is named).
    """
    if ranking.dtype != torch.int64:
        raise TypeError(f"ranking must be int64, got {describe(ranking)}.")
    if ranking.shape != tuple(shape):
        raise ValueError(f"ranking must have shape {tuple(shape)}, got {describe(ranking)}.")
    if torch.compiler.is_compiling():
        return
    wrong = (ranking.sort(-1).values != torch.arange(shape[-1], device=ranking.device)).any(-1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0].item())
        raise ValueError(
            f"ranking must hold a permutation of 0 .. {shape[-1] - 1} in every row; row {row} is "
            f"{ranking[row].tolist()}."
        )


@names_arguments
def choice_losses(ordered_scores: Tensor) -> Tensor:
    """``-log P(choice k)`` for every step of a ranking: ``logsumexp_{l >= k} s_l - s_k``.

    Args:
        ordered_scores: ``(..., C)`` scores in ranking order, best first.

    Returns:
        ``(..., C)``, >= 0; the last choice is certain and costs exactly 0.
    """
    return ordered_scores.flip(-1).logcumsumexp(-1).flip(-1) - ordered_scores


@names_arguments
def choice_gradient(ordered_scores: Tensor, weights: Tensor) -> Tensor:
    """Gradient of ``sum_k w_k choice_losses(s)_k`` with respect to the ordered scores, in closed form and log space.

    ``sum_{k <= i} w_k exp(s_i) / sum_{l >= k} exp(s_l) - w_i``.

    Args:
        ordered_scores: ``(..., C)`` in ranking order, best first.
        weights: same shape, >= 0.

    Returns:
        Same shape; differentiable; the last dimension sums to 0.
    """
    remaining = choice_losses(ordered_scores) + ordered_scores  # log of the sum over the items still there at step k
    log_weights = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    return (ordered_scores + (log_weights - remaining).logcumsumexp(-1)).exp() - weights


@names_arguments
def weighted_choice_loss(ordered_scores: Tensor, weights: Tensor) -> Tensor:
    """``sum_k w_k choice_losses(s)_k``: the weighted negative log-likelihood of a ranking, one number per row.

    The gradient is the closed form of :func:`choice_gradient`, made in the forward pass; it is differentiable itself.

    Args:
        ordered_scores: ``(N, C)`` in ranking order, best first, float32 or float64.
        weights: ``(N, C)``, >= 0, same precision.

    Returns:
        ``(N,)``.
    """
    if torch.compiler.is_compiling():
        return (weights * choice_losses(ordered_scores)).sum(-1)
    return _WeightedChoices.apply(ordered_scores, weights)


class _WeightedChoices(torch.autograd.Function):
    """Value and gradient of :func:`weighted_choice_loss` in one go."""

    @staticmethod
    def forward(ctx: Any, ordered: Tensor, weights: Tensor) -> Tensor:
        losses, gradient = _losses_and_gradient(ordered, weights)
        ctx.save_for_backward(ordered, weights, gradient, losses if ctx.needs_input_grad[1] else None)
        return (weights * losses).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        ordered, weights, gradient, losses = ctx.saved_tensors
        upstream = grads[0].unsqueeze(-1)
        if torch.is_grad_enabled():  # the gradient will itself be differentiated: make it again, with a graph
            gradient = choice_gradient(ordered, weights)
            losses = choice_losses(ordered) if ctx.needs_input_grad[1] else None
        return upstream * gradient, None if losses is None else upstream * losses


def _losses_and_gradient(ordered: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The two by plain sums of exponentials where these cannot underflow, else in log space."""
    scores = ordered - ordered.amax(-1, keepdim=True)
    reach = -0.9 * math.log(torch.finfo(scores.dtype).tiny)  # exp(-reach) is a normal number: 78 or 637
    if scores.device.type != "cpu" or (scores.numel() and bool(scores.amin() < -reach)):
        return choice_losses(ordered), choice_gradient(ordered, weights)
    worth = scores.exp()
    remaining = worth.flip(-1).cumsum(-1).flip(-1)
    return remaining.log() - scores, worth * (weights / remaining).cumsum(-1) - weights


@names_arguments
def plackett_luce_log_likelihood(
    logits: Tensor, ranking: Tensor, *, weights: Tensor | None = None, reduction: str = "none"
) -> Tensor:
    """Log-likelihood of a ranking under the Plackett-Luce model, each choice weighted.

    ``sum_k w_k [ s_{pi_k} - logsumexp_{l >= k} s_{pi_l} ]``. Unchanged when a constant is added to the logits of a row.

    Args:
        logits: ``(N, C)`` scores ("log-worths").
        ranking: ``(N, C)`` int64, best first.
        weights: ``(N, C)`` or ``(C,)`` in ranking order, used as given; ``None`` weighs every choice 1.
        reduction: ``"none"`` for ``(N,)``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: logits not 2-D, a ranking that is not a permutation, weights of another shape, unknown reduction.
        TypeError: ranking not int64.

    Reference:
        "The Analysis of Permutations" (Plackett, 1975); PLD (arXiv:2506.12542), section 3.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits must be (N, C), got {describe(logits)}.")
    check_ranking(ranking, logits.shape)
    ordered = at_least_float32(logits).gather(1, ranking)
    if weights is None:
        weights = torch.ones_like(ordered)
    check_choice_weights(weights, logits.shape)
    return reduce(-weighted_choice_loss(ordered, weights.to(ordered).expand_as(ordered)), reduction)


@names_arguments
def check_choice_weights(weights: Tensor, shape: tuple[int, ...] | torch.Size) -> None:
    """Raise ``ValueError`` unless ``weights`` is ``(C,)`` or ``(N, C)``, finite and >= 0."""
    if tuple(weights.shape) not in (tuple(shape), tuple(shape[-1:])):
        raise ValueError(f"weights must have shape {tuple(shape[-1:])} or {tuple(shape)}, got {describe(weights)}.")
    if not torch.compiler.is_compiling() and not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("weights must be finite and >= 0 in every entry.")


@names_arguments
def plackett_luce_sample(logits: Tensor, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Rankings drawn from the Plackett-Luce model, exactly: sort ``logits + Gumbel noise`` from the top.

    Args:
        logits: ``(C,)`` or ``(N, C)`` scores.
        num_samples: rankings per row, >= 1.
        generator: source of the noise, on the device of ``logits``.

    Returns:
        ``(num_samples, C)`` or ``(N, num_samples, C)`` int64, best first.

    Raises:
        ValueError: another rank, or ``num_samples`` below 1.

    Reference:
        "The relationship between Luce's choice axiom, Thurstone's theory ..." (Yellott, 1977): the Gumbel
        representation.
    """
    if logits.ndim not in (1, 2):
        raise ValueError(f"logits must be (C,) or (N, C), got {describe(logits)}.")
    if num_samples < 1:
        raise ValueError(f"num_samples must be >= 1, got {num_samples!r}.")
    shape = (*logits.shape[:-1], num_samples, logits.shape[-1])
    exponential = torch.empty(shape, dtype=torch.float64, device=logits.device).exponential_(generator=generator)
    return descending_order(logits.detach().double().unsqueeze(-2) - exponential.log())


@names_arguments
def ranking_agreement(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """How alike student and teacher order the classes of each sample: Kendall's tau, without the label where given.

    Leaving the label out asks what was learnt *beyond* the label: cross-entropy alone already puts that one first.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``.
        labels: ``(N,)`` integers in ``[0, C)``: the class of each sample that does not take part (``C >= 3``);
            ``None`` compares the orders of all classes (``C >= 2``).

    Returns:
        ``(N,)`` float64 in [-1, 1]: 1 the same order, 0 no relation, -1 the reverse; NaN where every pair is tied.

    Raises:
        ValueError: shapes, too few classes, labels out of range. TypeError: logits that are not floating, labels that
            are not integers.

    Reference:
        :func:`kdcore.functional.correlation.kendall_tau`.
    """
    check_logits_pair(student_logits, teacher_logits, min_classes=2 if labels is None else 3)
    if labels is None:
        return kendall_tau(student_logits, teacher_logits)
    labels = check_labels(labels, *student_logits.shape)
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter(1, labels.unsqueeze(1), False)
    return kendall_tau(student_logits, teacher_logits, mask=others)
