"""Losses as landscapes over a plane of student logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdcore.functional.checks import check_positive
from kdcore.functional.landscape import concave_share, plane_points

from .base import View
from .comparison import contours_view
from .drawing import as_tensor

Loss = Callable[[Tensor], Tensor]


def loss_landscape_view(
    teacher_logits: Any,
    losses: Mapping[str, Loss],
    directions: Any,
    *,
    half_width: float = 5.0,
    points: int = 61,
    shared: bool = False,
    title: str = "Landscape of the losses",
) -> View:
    """Contours of up to three losses over ``s = t + a d1 + b d2``, each with its own colour scale.

    Args:
        teacher_logits: ``(C,)``; the student agrees with the teacher at ``(0, 0)``, which is marked.
        losses: name -> function of student logits ``(M, C)`` giving ``(M,)``.
        directions: ``(2, C)``, for instance :func:`kdcore.functional.landscape.orthonormal_directions`.
        half_width: ``a`` and ``b`` run from minus to plus this.
        points: per axis; an odd number puts one on the match.
        shared: one colour scale for all.

    Raises:
        ValueError: shapes, fewer than three points, a loss that does not give one number per row.

    Reference:
        the picture of PLD (arXiv:2506.12542), appendix J.
    """
    t, plane = as_tensor("teacher_logits", teacher_logits, ndim=1), as_tensor("directions", directions, ndim=2)
    check_positive("half_width", half_width)
    if points < 3:
        raise ValueError(f"points must be at least 3, got {points!r}.")
    steps = torch.arange(1 - points, points, 2, dtype=torch.float64)  # symmetric whole numbers: 0 stays exactly 0
    axis = half_width * steps / (points - 1)
    rows = plane_points(t, plane, axis, axis).reshape(-1, len(t))
    fields = {}
    for name, loss in losses.items():
        values = loss(rows)
        if values.shape != (len(rows),):
            raise ValueError(
                f"losses[{name!r}] must give one number per row ({len(rows)},), got shape {tuple(values.shape)}."
            )
        fields[name] = values.detach().reshape(points, points)
    view = contours_view(
        axis,
        axis,
        fields,
        x_label="a (along d1)",
        y_label="b (along d2)",
        title=title,
        label="loss",
        minimum=(0.0, 0.0),
        shared=shared,
    )
    bends = {name: concave_share(field) for name, field in fields.items()}
    words = "; ".join(
        f"{name} bends down nowhere"
        if share == 0
        else f"{name} bends down at {100 * share:.0f} % of the steps, so it is not convex"
        for name, share in bends.items()
    )
    return replace(view, alt=f"{view.alt} On this grid {words}.", _png={})


__all__ = ["loss_landscape_view"]
