r"""Language models: divergences per token, log-probabilities of sequences, the shift between logits and next tokens.

With teacher :math:`p`, student :math:`q` at every position and a weight :math:`w`:

.. math::
    \mathrm{fkl} &= -\sum p \log q \qquad
    \mathrm{rkl} = \sum q \, (\log q - \log p) \qquad
    \mathrm{tvd} = \tfrac12 \sum |p - q| \\
    \mathrm{js} &= w \, KL(p \,\|\, m) + (1 - w) \, KL(q \,\|\, m), \quad m = w p + (1 - w) q \\
    \mathrm{skew\_fkl} &= -\sum p \log (w p + (1 - w) q) \qquad
    \mathrm{skew\_rkl} = KL(q \,\|\, (1 - w) p + w q)

The two forward forms are cross-entropies, as in the released code of language-model distillation; with
``include_entropy`` the teacher's entropy is taken off and they are divergences, with the same gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_choice, check_fraction, check_temperature, describe, names_arguments
from .reductions import at_least_float32
from .tokens import masked_mean

DIVERGENCES = ("fkl", "rkl", "tvd", "js", "skew_fkl", "skew_rkl", "adaptive_kl")


def _log_mix(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """``log(weight a + (1 - weight) b)`` without leaving logarithms."""
    if weight in (0.0, 1.0):
        return log_a if weight else log_b
    return torch.logaddexp(log_a + math.log(weight), log_b + math.log1p(-weight))


@names_arguments
def token_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    kind: str = "fkl",
    weight: float = 0.1,
    temperature: float = 1.0,
    include_entropy: bool = False,
    head_threshold: float = 0.5,
    aligned: bool = True,
) -> Tensor:
    """How far the student's next-token distribution is from the teacher's, position by position.

    A vocabulary entry that the student excludes (logit ``-inf``) contributes 0. There is no factor ``T^2``.

    Args:
        student_logits: ``(..., V)``.
        teacher_logits: ``(..., V)``; a constant.
        kind: one of ``"fkl"``, ``"rkl"``, ``"tvd"``, ``"js"``, ``"skew_fkl"``, ``"skew_rkl"`` (formulas above), or
            ``"adaptive_kl"``: ``a fkl + (1 - a) rkl``, where a is the share of ``sum |p - q|`` on the teacher's head;
            a gradient flows through a.
        weight: w in [0, 1] of ``"js"`` and the skewed kinds; default 0.1.
        temperature: divides both logits, > 0; default 1.
        include_entropy: take the teacher's entropy off ``"fkl"`` and ``"skew_fkl"`` (and off the former inside
            ``"adaptive_kl"``); default off.
        head_threshold: in [0, 1]: with probabilities in ascending order, entries whose cumulative sum has reached it
            are the head of ``"adaptive_kl"``; default 0.5.
        aligned: whether head and tail belong to the entries they were found on. ``False`` leaves the mask in sorted
            order over unsorted entries, as the released code does.

    Returns:
        ``(...)``, at least float32.

    Raises:
        ValueError: shapes, unknown kind, ``weight``, ``temperature`` or ``head_threshold`` out of range.

    Reference:
        "DistiLLM" (Ko et al., 2024), arXiv:2402.03898, section 2; "On-Policy Distillation of Language Models"
        (Agarwal et al., 2024), arXiv:2306.13649 (js); "Rethinking Kullback-Leibler Divergence in Knowledge Distillation
        for Large Language Models" (Wu et al., 2024), arXiv:2404.02657 (adaptive_kl).
    """
    check_choice("kind", kind, DIVERGENCES)
    check_fraction("weight", weight)
    check_fraction("head_threshold", head_threshold)
    check_temperature(temperature)
    if (
        not student_logits.is_floating_point()
        or student_logits.ndim < 1
        or student_logits.shape != teacher_logits.shape
    ):
        raise ValueError(
            "student_logits and teacher_logits must be floating with the same shape (..., V), got "
            f"{describe(student_logits)} and {describe(teacher_logits)}."
        )
    s = at_least_float32(student_logits) / temperature
    t = teacher_logits.detach().to(s.dtype) / temperature
    excluded = torch.isneginf(s)
    # a finite stand-in: 0 * -inf would be NaN in the value, and in the gradient of what is then replaced
    floor = torch.finfo(s.dtype).min / 4
    log_q = s.masked_fill(excluded, floor).log_softmax(-1)
    log_p = t.masked_fill(torch.isneginf(t), floor).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()

    def total(terms: Tensor) -> Tensor:
        return terms.masked_fill(excluded, 0.0).sum(-1)

    def forward(log_mix: Tensor) -> Tensor:
        return total(p * (log_p - log_mix)) if include_entropy else -total(p * log_mix)

    if kind == "fkl":
        return forward(log_q)
    if kind == "rkl":
        return total(q * (log_q - log_p))
    if kind == "tvd":
        return 0.5 * total((p - q).abs())
    if kind == "js":
        log_mix = _log_mix(log_p, log_q, weight)
        return weight * total(p * (log_p - log_mix)) + (1 - weight) * total(q * (log_q - log_mix))
    if kind == "skew_fkl":
        return forward(_log_mix(log_p, log_q, weight))
    if kind == "skew_rkl":
        return total(q * (log_q - _log_mix(log_q, log_p, weight)))
    gap = (p - q).abs()
    head = _head(p, head_threshold, aligned=aligned)
    share = (gap * head).sum(-1) / gap.sum(-1).clamp_min(torch.finfo(gap.dtype).tiny)
    return share * forward(log_q) + (1 - share) * total(q * (log_q - log_p))


def _head(p: Tensor, threshold: float, *, aligned: bool) -> Tensor:
    """Mask of the likeliest entries: those at which the ascending cumulative sum has reached the threshold."""
    ascending, order = p.sort(dim=-1)
    head = ascending.cumsum(-1) >= threshold
    return torch.zeros_like(head).scatter(-1, order, head) if aligned else head


@names_arguments
def token_mask(labels: Tensor, *, ignore_index: int = -100) -> Tensor:
    """``(N, L)`` bool: where a label token counts."""
    return labels.ne(ignore_index)


@names_arguments
def token_mean(values: Tensor, mask: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
    """Reduce values per token: over the tokens that count, all sequences together.

    Args:
        values: ``(N, L)`` (any shape). mask: same shape, 1 where a token counts; ``None`` for all.
        reduction: ``"mean"`` over counted tokens, ``"sum"`` over them, or ``"none"`` (0 where a token does not count).

    Raises:
        ValueError: shapes, reduction, or a mask without a single token.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if mask is not None and mask.shape != values.shape:
        raise ValueError(f"mask must have the shape {tuple(values.shape)} of the tokens, got {describe(mask)}.")
    if mask is not None and not torch.compiler.is_compiling() and not bool(mask.any()):
        raise ValueError("mask must leave at least one token, got none (are all labels ignored?).")
    if reduction == "mean":
        return masked_mean(values, mask)
    kept = values if mask is None else torch.where(mask != 0, values, 0.0) * mask.to(values.dtype)
    return kept.sum() if reduction == "sum" else kept


@names_arguments
def shift(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits beside the token they predict: ``logits[:, :-1]`` and ``labels[:, 1:]``.

    Args:
        logits: ``(N, L, ...)``. labels: ``(N, L)`` tokens, or a mask.

    Raises:
        ValueError: shapes, or fewer than two positions.
    """
    if labels.ndim != 2 or logits.ndim < 2 or logits.shape[:2] != labels.shape or labels.shape[1] < 2:
        raise ValueError(
            f"logits must be (N, L, ...) and labels (N, L) with L >= 2, got {describe(logits)} and {describe(labels)}."
        )
    return logits[:, :-1], labels[:, 1:]


@names_arguments
def sequence_logps(logits: Tensor, labels: Tensor, *, average: bool = False, ignore_index: int = -100) -> Tensor:
    """Log-probability of every sequence under a causal model: the sum over its next tokens (shifted here).

    Args:
        logits: ``(N, L, V)``. labels: ``(N, L)`` integers; positions with ``ignore_index`` do not count.
        average: divide by the number of counted tokens; default the sum.
        ignore_index: default -100.

    Returns:
        ``(N,)``, at least float32; 0 for a sequence without counted tokens.

    Raises:
        ValueError: shapes, or a token outside the vocabulary. TypeError: labels that are not integers.

    Reference:
        "Direct Preference Optimization" (Rafailov et al., 2023), arXiv:2305.18290, official code.
    """
    if logits.ndim != 3 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating (N, L, V), got {describe(logits)}.")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {describe(labels)}.")
    z, y = shift(logits, labels)
    counts = token_mask(y, ignore_index=ignore_index)
    tokens = y.masked_fill(~counts, 0).long()
    if not torch.compiler.is_compiling() and bool(((tokens < 0) | (tokens >= z.shape[2])).any()):
        raise ValueError(
            f"labels must be in [0, {z.shape[2]}) or {ignore_index}, got {int(y.min())} .. {int(y.max())}."
        )
    z = at_least_float32(z)
    chosen = z.gather(2, tokens[..., None]).squeeze(2) - z.logsumexp(2)  # no (N, L, V) log-softmax is stored
    logps = torch.where(counts, chosen, 0.0).sum(1)
    return logps / counts.sum(1).clamp_min(1) if average else logps


__all__ = ["DIVERGENCES", "sequence_logps", "shift", "token_divergence", "token_mask", "token_mean"]
