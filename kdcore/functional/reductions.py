"""How a per-sample loss becomes a number, everywhere in kdcore: sum over classes, mean over samples, float32 at
least."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .checks import check_choice, names_arguments

Reduction = Literal["mean", "sum", "none"]


@names_arguments
def reduce(loss: Tensor, reduction: str = "mean") -> Tensor:
    """Reduce per-sample losses.

    Args:
        loss: ``(N,)`` (or any shape) loss per sample, classes already summed.
        reduction: ``"mean"`` over all entries, ``"sum"``, or ``"none"`` (returned unchanged).

    Raises:
        ValueError: if ``reduction`` is none of the three.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss


@names_arguments
def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself in float32 or float64; half-precision tensors (float16, bfloat16) as float32. Differentiable."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
