"""How a per-sample loss becomes a number: sum over classes, mean over samples, everywhere in kdcore."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .checks import check_choice

Reduction = Literal["mean", "sum", "none"]


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
