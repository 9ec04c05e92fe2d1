"""Changes made to features on purpose, to see which measure of similarity notices what.

Each takes ``x (N, d)`` and an ``amount`` in [0, 1]; 0 gives ``x`` back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_choice, check_fraction, describe, names_arguments


def _radius(x: Tensor) -> Tensor:
    """Root mean square distance of the samples from their mean."""
    return (x - x.mean(0)).square().sum(1).mean().sqrt()


def _rotate(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Turn in random planes; at 1 nearly nothing is left where it was. Distances stay the same."""
    d = x.shape[1]
    free = torch.randn(d, d, generator=generator, dtype=x.dtype)
    return x @ torch.linalg.matrix_exp(amount * torch.pi * (free - free.T) / (2 * d) ** 0.5)


def _scale(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Everything up to 100 times larger."""
    return x * 100.0**amount


def _stretch(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Each feature by its own factor, up to 1/10 to 10 in even steps on a logarithmic scale, dealt out at random."""
    d = x.shape[1]
    exponents = torch.linspace(-1, 1, d, dtype=x.dtype) if d > 1 else torch.ones(1, dtype=x.dtype)
    return x * 10.0 ** (amount * exponents[torch.randperm(d, generator=generator)])


def _shift(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """All samples move by the same vector, up to 3 times the typical distance from the mean."""
    direction = torch.randn(x.shape[1], generator=generator, dtype=x.dtype)
    return x + 3 * amount * _radius(x) * direction / direction.norm()


def _outlier(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """One sample is moved in a random direction, up to 30 times the typical distance from the mean."""
    row = int(torch.randint(len(x), (1,), generator=generator))
    direction = torch.randn(x.shape[1], generator=generator, dtype=x.dtype)
    moved = x.clone()
    moved[row] += 30 * amount * _radius(x) * direction / direction.norm()
    return moved


def _flatten_top(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """The direction of largest variance shrinks; at 1 it is gone."""
    centred = x - x.mean(0)
    top = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return x - amount * (centred @ top)[:, None] * top


#: Name -> change, in the order in which one would try them.
DISTORTIONS: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "rotation": _rotate,
    "scaling": _scale,
    "shift": _shift,
    "anisotropic scaling": _stretch,
    "one outlier": _outlier,
    "no top component": _flatten_top,
}


@names_arguments
def distort(x: Tensor, kind: str, amount: float = 1.0, *, seed: int = 0) -> Tensor:
    """Features changed in one way.

    Args:
        x: ``(N, ...)`` features, flattened.
        kind: ``"rotation"`` (in random planes, about the origin), ``"scaling"`` (all by ``100**amount``), ``"shift"``
            (all samples by one vector, ``3 * amount`` times the root mean square distance from the mean),
            ``"anisotropic scaling"`` (each feature by its own factor between ``10**-amount`` and ``10**amount``),
            ``"one outlier"`` (one sample moved by ``30 * amount`` times that distance), ``"no top component"`` (the
            first principal component times ``1 - amount``).
        amount: in [0, 1]; 0 changes nothing.
        seed: of what is random: planes, which feature gets which factor, sample and direction of the outlier.

    Returns:
        ``(N, d)`` float64.

    Raises:
        ValueError: unknown kind, ``amount`` outside [0, 1], no samples or no features.
    """
    check_choice("kind", kind, tuple(DISTORTIONS))
    check_fraction("amount", amount)
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"x must be (N, ...) with at least one sample and one feature, got {describe(x)}.")
    rows = x.detach().reshape(len(x), -1).double()
    return DISTORTIONS[kind](rows, float(amount), torch.Generator().manual_seed(seed))


__all__ = ["DISTORTIONS", "distort"]
