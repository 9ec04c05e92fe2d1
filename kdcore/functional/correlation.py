"""Agreement of two vectors up to scale (cosine), up to scale and offset (Pearson), or in order alone (Kendall)."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_non_negative, describe, names_arguments
from .reductions import at_least_float32

#: Booleans that :func:`kendall_tau` may hold at once; rows are taken in groups that stay below it.
_PAIR_BUDGET = 1 << 24


def _check_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim == 0:
        raise ValueError(
            f"a and b must have the same shape and at least one dimension, got {describe(a)} and {describe(b)}."
        )


@names_arguments
def cosine_similarity(a: Tensor, b: Tensor, *, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Cosine of the angle between ``a`` and ``b``: ``<a, b> / (||a|| ||b|| + eps)``.

    Unlike :func:`torch.nn.functional.cosine_similarity`, which clamps each norm, ``eps`` is added to the product of the
    norms: the form that DIST and its descendants use. The gradient is finite for zero vectors.

    Args:
        a: any shape with ``dim``; b: same shape.
        dim: dimension over which vectors run; it disappears.
        eps: added to the product of the norms; default 1e-8 (hunto/DIST_KD).

    Returns:
        Shape of ``a`` without ``dim``, values in [-1, 1].

    Raises:
        ValueError: different shapes, negative ``eps``.
    """
    _check_same_shape(a, b)
    check_non_negative("eps", eps)
    a, b = at_least_float32(a), at_least_float32(b)
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    return (a * b).sum(dim) / (norms + eps)


@names_arguments
def pearson_correlation(a: Tensor, b: Tensor, *, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Pearson correlation along ``dim``: :func:`cosine_similarity` of the centred vectors.

    The mean is taken off before anything is squared, so nearly constant vectors keep their accuracy.

    Args:
        a: any shape with ``dim``; b: same shape.
        dim: dimension that is correlated; it disappears.
        eps: added to the product of the norms; default 1e-8 (hunto/DIST_KD). A constant vector has correlation 0.

    Returns:
        Shape of ``a`` without ``dim``, values in [-1, 1].

    Raises:
        ValueError: different shapes, negative ``eps``.

    Reference:
        "Knowledge Distillation from A Stronger Teacher" (Huang et al., 2022), arXiv:2205.10536, eq. 6.
    """
    _check_same_shape(a, b)
    a, b = at_least_float32(a), at_least_float32(b)
    return cosine_similarity(a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True), dim=dim, eps=eps)


@names_arguments
def kendall_tau(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Kendall's tau-b between two score vectors, row by row: do ``a`` and ``b`` order the same way?

    ``(concordant - discordant) / sqrt((pairs - ties in a) (pairs - ties in b))`` over all pairs of entries.

    Args:
        a: ``(N, C)`` scores (logits of a student).
        b: ``(N, C)`` scores (logits of a teacher).
        mask: ``(N, C)`` bool, the entries that take part; ``None`` takes all. Leave out the label's column to compare
            the orders of the other classes.

    Returns:
        ``(N,)`` in [-1, 1], float64; NaN where a row has no untied pair.

    Raises:
        ValueError: different shapes, not 2-D, or a mask of another shape.

    Reference:
        "The treatment of ties in ranking problems" (Kendall, 1945), Biometrika 33; equals ``scipy.stats.kendalltau``.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"a and b must both be (N, C), got {describe(a)} and {describe(b)}.")
    if mask is not None and (mask.shape != a.shape or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool {tuple(a.shape)}, got {describe(mask)}.")
    rows = max(1, _PAIR_BUDGET // max(1, a.shape[1] ** 2))
    masks = [None] * a.shape[0] if mask is None else mask.split(rows)
    parts = [_kendall_rows(x, y, m) for x, y, m in zip(a.split(rows), b.split(rows), masks, strict=False)]
    return torch.cat(parts) if parts else a.new_empty(0, dtype=torch.float64)


def _kendall_rows(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    first, second = torch.triu_indices(a.shape[1], a.shape[1], offset=1, device=a.device)

    def order(x: Tensor) -> Tensor:  # (N, pairs): -1, 0 (tied) or 1
        signs = (x[:, first] > x[:, second]).to(torch.int8) - (x[:, first] < x[:, second]).to(torch.int8)
        return signs if mask is None else signs * (mask[:, first] & mask[:, second])

    x, y = order(a), order(b)
    untied = (x != 0).sum(1).double() * (y != 0).sum(1).double()
    return (x * y).sum(1).double() / untied.sqrt()
