r"""Contrastive losses: InfoNCE, NT-Xent of two views, its supervised form, and a symmetric form without the positive.

All of them compare rows by cosine and ask that a row be nearer to its positive than to the others; they differ in what
stands in the denominator: all keys (:func:`info_nce`), all other rows of both views (:func:`nt_xent`), or the negatives
alone (:func:`symmetric_contrastive_loss`, which may therefore be negative).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice, check_labels, check_positive, check_temperature, describe, names_arguments
from .reductions import at_least_float32, reduce


def _rows(x: Tensor, y: Tensor, names: tuple[str, str], *, same: bool) -> tuple[Tensor, Tensor]:
    for name, v in zip(names, (x, y), strict=True):
        if not isinstance(v, Tensor) or v.ndim != 2 or not v.is_floating_point() or not len(v):
            raise ValueError(f"{name} must be floating (N, D) with N >= 1, got {describe(v)}.")
    if x.shape[1] != y.shape[1] or (same and len(x) != len(y)):
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same {'shape' if same else 'width'}, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}: project one of them first."
        )
    a, b = at_least_float32(x), at_least_float32(y)
    return F.normalize(a, dim=1), F.normalize(b.to(a.dtype), dim=1)


@names_arguments
def info_nce(
    query: Tensor,
    keys: Tensor,
    *,
    temperature: float,
    targets: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of ``cos(query, key) / temperature`` over all keys.

    Gradients flow into both sides; detach the one that is a constant.

    Args:
        query: ``(N, D)``.
        keys: ``(M, D)``.
        temperature: > 0.
        targets: ``(N,)`` int64, the positive key of each query, or floating ``(N, M)`` rows that sum to 1 where several
            keys are positive; default the key of the same index (M >= N).
        reduction: ``"mean"`` over queries, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: shapes, targets out of range, temperature, reduction. TypeError: targets of another kind.

    Reference:
        "Representation Learning with Contrastive Predictive Coding" (van den Oord et al., 2018), arXiv:1807.03748,
        equation 4.
    """
    check_temperature(temperature)
    q, k = _rows(query, keys, ("query", "keys"), same=False)
    logits = q @ k.T / temperature
    if targets is None:
        if len(k) < len(q):
            raise ValueError(f"targets are needed where there are fewer keys ({len(k)}) than queries ({len(q)}).")
        targets = torch.arange(len(q), device=q.device)
    if targets.is_floating_point():
        if targets.shape != logits.shape:
            raise ValueError(
                f"targets must be int64 ({len(q)},) or floating {tuple(logits.shape)}, got {describe(targets)}."
            )
        return reduce(-(targets.to(logits.dtype) * logits.log_softmax(1)).sum(1), reduction)
    return reduce(F.cross_entropy(logits, check_labels(targets, *logits.shape), reduction="none"), reduction)


@names_arguments
def symmetric_info_nce(
    x: Tensor, y: Tensor, *, temperature: float, targets: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Mean of :func:`info_nce` from x to y and from y to x: two towers that describe the same N things.

    Args:
        x, y: ``(N, D)``.
        temperature: > 0.
        targets: floating ``(N, N)`` scores of which rows are the same thing (identical captions, for instance);
            normalised here along rows for one direction and along columns for the other. Default: the identity.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over pairs.

    Raises:
        ValueError: shapes, a row or column of ``targets`` without a positive, temperature, reduction.

    Reference:
        "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al., 2021),
        arXiv:2103.00020, figure 3.
    """
    if targets is None:
        forward = info_nce(x, y, temperature=temperature, reduction="none")
        return reduce((forward + info_nce(y, x, temperature=temperature, reduction="none")) / 2, reduction)
    if targets.shape != (len(x), len(y)) or bool((targets < 0).any()):
        raise ValueError(f"targets must be >= 0, ({len(x)}, {len(y)}), got {describe(targets)}.")
    if not bool((targets.sum(0) > 0).all() and (targets.sum(1) > 0).all()):
        raise ValueError("targets must hold a positive in every row and column.")
    score = targets.to(at_least_float32(x).dtype)
    one = info_nce(x, y, temperature=temperature, targets=score / score.sum(1, keepdim=True), reduction="none")
    two = info_nce(y, x, temperature=temperature, targets=(score / score.sum(0)).T, reduction="none")
    return reduce((one + two) / 2, reduction)


@names_arguments
def nt_xent(x: Tensor, y: Tensor, *, temperature: float = 0.5, reduction: str = "mean") -> Tensor:
    """Two views of N samples: each of the 2N rows against all 2N - 1 others, its other view being the positive.

    Args:
        x, y: ``(N, D)``, N >= 2; gradients flow into both.
        temperature: > 0; default 0.5 (SimCLR).
        reduction: ``"mean"`` over the 2N rows, ``"sum"``, or ``"none"`` for ``(2N,)``, the rows of x first.

    Raises:
        ValueError: shapes, fewer than two samples, temperature, reduction.

    Reference:
        "A Simple Framework for Contrastive Learning of Visual Representations" (Chen et al., 2020), arXiv:2002.05709,
        equation 1.
    """
    check_temperature(temperature)
    a, b = _rows(x, y, ("x", "y"), same=True)
    n = len(a)
    if n < 2:
        raise ValueError(f"x and y need at least 2 samples (a row without negatives costs nothing), got {n}.")
    z = torch.cat([a, b])
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    other = torch.arange(2 * n, device=z.device).roll(n)
    return reduce(F.cross_entropy(logits, other, reduction="none"), reduction)


@names_arguments
def symmetric_contrastive_loss(x: Tensor, y: Tensor, *, temperature: float = 1.0, reduction: str = "mean") -> Tensor:
    """``-log(exp(c_jj) / sum_{i != j} exp(c_ij))`` in both directions, added: the positive is not in the denominator.

    With ``c_ij = cos(x_i, y_j) / temperature``. The loss may be negative.

    Args:
        x, y: ``(N, D)``, N >= 2.
        temperature: > 0; default 1.
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``(N,)``.

    Raises:
        ValueError: shapes, fewer than two samples, temperature, reduction.

    Reference:
        The alignment loss of "LEADER" (Liu et al., 2024), arXiv:2402.02803; "Decoupled Contrastive Learning"
        (Yeh et al., 2022), arXiv:2110.06848.
    """
    check_temperature(temperature)
    a, b = _rows(x, y, ("x", "y"), same=True)
    if len(a) < 2:
        raise ValueError(f"x and y need at least 2 samples: there is no negative among {len(a)}.")
    scores = a @ b.T / temperature
    negatives = scores.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), -torch.inf)
    return reduce(negatives.logsumexp(0) + negatives.logsumexp(1) - 2 * scores.diagonal(), reduction)


@names_arguments
def supervised_nt_xent(
    similarity: Tensor, labels: Tensor, *, temperature: float = 0.07, variant: str = "new", eps: float = 1e-8
) -> Tensor:
    """NT-Xent in which all rows of the same label are positives, from a similarity matrix of two views.

    The row's maximum is taken off first. With E = exp(similarity / t) and M the label-equality mask, diagonal included,
    each row divided by its sum, ``A = -log(E / rowsum(E) + eps)``:

    * ``"new"``: the diagonal of E is 0, and the other view counts extra:
      ``(2 sum(M A) + sum over rows of A[row, other view]) / 2B``. The masked diagonal adds the constant ``-log eps``
      to the value, none to the gradient.
    * ``"replay"``: the diagonal of E stays, and the loss is ``sum(M A) / 2B``.

    Args:
        similarity: ``(2B, 2B)``; rows and columns B.. are the second views of 0 .. B - 1.
        labels: ``(B,)`` integers or floats; floats are compared for equality (mixed labels are classes of their own).
        temperature: > 0; default 0.07.
        variant: ``"new"`` or ``"replay"``.
        eps: default 1e-8.

    Raises:
        ValueError: shapes, temperature, variant.

    Reference:
        "Supervised Contrastive Learning" (Khosla et al., 2020), arXiv:2004.11362; this form: official code of "Online
        Prototype Learning" (Wei et al., 2023), arXiv:2308.00301.
    """
    check_temperature(temperature)
    check_positive("eps", eps)
    check_choice("variant", variant, ("new", "replay"))
    size = 2 * len(labels)
    if labels.ndim != 1 or similarity.shape != (size, size) or not size or not similarity.is_floating_point():
        raise ValueError(
            f"similarity must be floating (2B, 2B) for labels (B,), got {describe(similarity)} and {describe(labels)}."
        )
    s = at_least_float32(similarity)
    weights = ((s - s.detach().amax(1, keepdim=True)) / temperature).exp()
    if variant == "new":
        weights = weights.masked_fill(torch.eye(size, dtype=torch.bool, device=s.device), 0.0)
    costs = -(weights / (weights.sum(1, keepdim=True) + eps) + eps).log()
    twice = labels.to(s.device).repeat(2)
    same = (twice[:, None] == twice).to(s.dtype)
    total = (same / (same.sum(1, keepdim=True) + eps) * costs).sum()
    if variant == "new":
        half = len(labels)
        total = 2 * total + costs.diagonal(half).sum() + costs.diagonal(-half).sum()
    return total / size


__all__ = ["info_nce", "nt_xent", "supervised_nt_xent", "symmetric_contrastive_loss", "symmetric_info_nce"]
