"""Planes through a point of logit space: where a loss is looked at as a landscape."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_non_negative, check_positive, describe, names_arguments


def orthonormal_directions(
    dim: int, count: int = 2, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Random directions of length 1, perpendicular to each other, uniform over all such sets.

    Args:
        dim: length of each; count: how many, at most ``dim``.
        generator: source of the draw.
        dtype: floating type.

    Returns:
        ``(count, dim)``, rows orthonormal.

    Raises:
        ValueError: ``dim`` or ``count`` not positive, or more directions than dimensions.
    """
    check_positive("dim", dim)
    check_positive("count", count)
    if count > dim:
        raise ValueError(f"count must be at most dim ({dim}), got {count}.")
    q, r = torch.linalg.qr(torch.randn(dim, count, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).T.to(dtype)  # the sign makes the draw uniform (Mezzadri 2007, section 5)


@names_arguments
def plane_points(centre: Tensor, directions: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``centre + a d_1 + b d_2`` on a grid.

    Args:
        centre: ``(C,)``.
        directions: ``(2, C)``.
        a: ``(K,)`` coordinates along the first direction; b: ``(M,)`` along the second.

    Returns:
        ``(M, K, C)``: entry ``[i, j]`` belongs to ``(a_j, b_i)``.

    Raises:
        ValueError: shapes that do not fit.
    """
    if centre.ndim != 1 or directions.shape != (2, len(centre)):
        raise ValueError(
            f"centre must be (C,) and directions (2, C), got {describe(centre)} and {describe(directions)}."
        )
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"a and b must be 1-D, got {describe(a)} and {describe(b)}.")
    return centre + a[None, :, None] * directions[0] + b[:, None, None] * directions[1]


@names_arguments
def concave_share(values: Tensor, *, tolerance: float = 1e-9) -> float:
    """Share of the straight steps of a grid at which a function bends down; 0 for every convex function.

    Second differences along rows, columns and both diagonals are counted. A share of 0 does not prove convexity (the
    grid may be too coarse), a positive share refutes it.

    Args:
        values: ``(M, K)`` on an even grid, at least 3 by 3.
        tolerance: second differences above ``-tolerance * (max - min)`` count as rounding.

    Raises:
        ValueError: smaller than 3 by 3, or a negative tolerance.
    """
    if values.ndim != 2 or min(values.shape) < 3:
        raise ValueError(f"values must be at least (3, 3), got {describe(values)}.")
    check_non_negative("tolerance", tolerance)
    v = values.double()
    middle = 2 * v[1:-1, 1:-1]
    bends = (
        torch.stack(
            [v[1:-1, 2:] + v[1:-1, :-2], v[2:, 1:-1] + v[:-2, 1:-1], v[2:, 2:] + v[:-2, :-2], v[2:, :-2] + v[:-2, 2:]]
        )
        - middle
    )
    return (bends < -tolerance * (v.max() - v.min())).double().mean().item()
