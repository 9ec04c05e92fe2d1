"""Features made ready to be compared: flattened, float64, centred; what cannot be compared is refused by name."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_features_pair, describe

XY = ("x", "y")


def accumulator(device: torch.device) -> torch.dtype:
    """float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def out_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def rows_of(x: Tensor, name: str) -> Tensor:
    """``(N, ...)`` of any dtype -> ``(N, d)`` float64; refuses empty and non-finite features."""
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"{name} must be (N, ...) with at least one sample and one feature, got {describe(x)}.")
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name} must be finite, got {describe(x)} with {bad} NaN or infinite values.")
    return x.reshape(x.shape[0], -1).to(accumulator(x.device))


def pair_of(x: Tensor, y: Tensor, *, min_samples: int, names: tuple[str, str] = XY) -> tuple[Tensor, Tensor]:
    check_features_pair(x, y, names=names, min_samples=min_samples)
    return rows_of(x, names[0]), rows_of(y, names[1])


def centred(x: Tensor, name: str) -> Tensor:
    """Minus the mean of each column; refuses features that are the same for every sample, up to round-off."""
    centred = x - x.mean(0, keepdim=True)
    if not torch.compiler.is_compiling() and bool(centred.abs().max() <= 16 * torch.finfo(x.dtype).eps * x.abs().max()):
        raise ValueError(f"{name} is constant: all {x.shape[0]} samples have the same features: nothing to compare.")
    return centred


def centred_pair(x: Tensor, y: Tensor, *, min_samples: int, names: tuple[str, str] = XY) -> tuple[Tensor, Tensor]:
    x, y = pair_of(x, y, min_samples=min_samples, names=names)
    return centred(x, names[0]), centred(y, names[1])
