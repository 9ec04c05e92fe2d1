"""Pictures of TGeo-KD: the triangle of student, teacher and label as it moves, and whom the learnt weights trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..base import View
from ..drawing import WIDTH, as_array, join_words, legend_above, subplots
from ..histogram import histogram_view
from ..theme import CATEGORICAL, STUDENT, TEACHER, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def triangle_view(
    student: Any, teacher: Any, label: Any, average: Any, *, alpha: Any, epoch: int, title: str = "The moving triangle"
) -> View:
    """Student, teacher, label and the teacher's average answer among the class probabilities, in their own plane.

    The plane is the one that keeps most of the spread of all these points; lengths in the table are exact.

    Args:
        student: ``(E, C)`` probabilities after every epoch; teacher, label, average: ``(C,)``.
        alpha: ``(E,)`` weight of the teacher after every epoch.
        epoch: which one is drawn, from 0.

    Raises:
        ValueError: shapes, or an epoch that does not exist.
    """
    path = as_array("student", student, ndim=2)
    others = {n: as_array(n, v, ndim=1) for n, v in (("teacher", teacher), ("label", label), ("average", average))}
    weight = as_array("alpha", alpha, ndim=1)
    if any(len(v) != path.shape[1] for v in others.values()) or len(weight) != len(path):
        raise ValueError(f"student must be (E, C), the others (C,), alpha (E,), got {path.shape} and {weight.shape}.")
    if not 0 <= epoch < len(path):
        raise ValueError(f"epoch must be in [0, {len(path)}), got {epoch!r}.")
    points = np.concatenate([path, np.stack(list(others.values()))])
    centred = points - points.mean(0)
    flat = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    now = path[epoch]
    lengths = {f"student to {n}": float(np.linalg.norm(now - v)) for n, v in others.items()}
    lengths["teacher to label"] = float(np.linalg.norm(others["teacher"] - others["label"]))
    alt = f"After epoch {epoch + 1} the teacher's weight is {weight[epoch]:.2f}; " + join_words(
        [f"{name} {value:.2f}" for name, value in lengths.items()]
    ) + "."  # fmt: skip
    table = pd.DataFrame({"edge": list(lengths), "length": list(lengths.values())})

    def draw(theme: Theme) -> Figure:
        figure, ax = subplots(WIDTH, 3.8)
        s, (t, g, m) = flat[epoch], flat[len(path) :]
        ax.plot(*flat[: epoch + 1].T, color=STUDENT, lw=1, alpha=0.6)
        ax.fill(*np.stack([s, t, g]).T, color=STUDENT, alpha=0.1 + 0.3 * float(weight[epoch]))
        box = {"boxstyle": "round,pad=0.15", "fc": theme.paper, "ec": "none"}
        # the numbers stand at different places along the edges, so that they stay apart where two corners meet
        edges = ((s, t, "student to teacher", 0.5), (s, g, "student to label", 0.4), (t, g, "teacher to label", 0.6))
        for a, b, name, at in edges:
            ax.plot(*np.stack([a, b]).T, color=theme.muted, lw=1.5)
            lift = (0, 14) if name == "student to teacher" else (0, 0)
            ax.annotate(
                f"{name} {lengths[name]:.2f}",
                a + at * (b - a),
                lift,
                textcoords="offset points",
                color=theme.ink,
                ha="center",
                va="center",
                fontsize=8,
                bbox=box,
            )
        marks = ((s, "o", STUDENT, "student"), (t, "s", TEACHER, "teacher"), (g, "^", theme.ink, "label"))
        for point, marker, colour, name in (*marks, (m, "D", CATEGORICAL[2], "teacher's average")):
            ax.plot(*point, marker, color=colour, ms=10, label=name, ls="none")
        ax.set(xticks=[], yticks=[], xlabel=f"weight of the teacher: {weight[epoch]:.2f}")
        ax.margins(0.15)
        legend_above(ax)
        return figure

    return View(title=title, alt=alt, table=table, draw=draw)


def trust_view(groups: Mapping[str, Any], *, title: str = "How much the teacher counts, by kind of sample") -> View:
    """Histograms of the teacher's weight, a row for each group of samples.

    Args:
        groups: name -> ``(n,)`` weights in [0, 1]; an empty group is said to be empty.

    Raises:
        ValueError: no group.
    """
    if not groups:
        raise ValueError("groups is empty: there is nothing to show.")
    values = {n: as_array(f"groups[{n!r}]", v, ndim=1) if len(v) else np.zeros(0) for n, v in groups.items()}
    edges = np.linspace(0, 1, 21).tolist()
    alt = "; ".join(f"{n}: mean {v.mean():.2f} of {len(v)}" if len(v) else f"{n}: no sample" for n, v in values.items())
    view = histogram_view(
        values, bins=edges, measure="share", panels=True, value_label="weight of the teacher", title=title
    )
    counts = histogram_view(values, bins=edges).table
    return replace(view, alt=alt + ".", table=counts, _png={})


__all__ = ["triangle_view", "trust_view"]
