"""Pictures of TGeo-KD: the triangle of student, teacher and label as it moves, and whom the learnt weights trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..base import View
from ..drawing import as_array, join_words
from ..histogram import histogram_view
from ..picture import Area, Arrows, Axis, Line, Mark, Picture, Plane, Points, Style, Texts


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
    path = as_array("student", student, ndim=2, finite=True)
    others = {
        n: as_array(n, v, ndim=1, finite=True)
        for n, v in (("teacher", teacher), ("label", label), ("average", average))
    }
    weight = as_array("alpha", alpha, ndim=1, finite=True)
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

    s, (t, g, m) = flat[epoch], flat[len(path) :]
    # the lengths stand at different places along the edges, so that they stay apart where two corners meet
    edges = ((s, t, "student to teacher", 0.32), (s, g, "student to label", 0.68), (t, g, "teacher to label", 0.5))
    marks: list[Mark] = [
        Line("", flat[: epoch + 1, 0], flat[: epoch + 1, 1], style="student", fine=True),
        Area("", [s[0], t[0], g[0]], [s[1], t[1], g[1]], style="student", opacity=0.1 + 0.3 * float(weight[epoch])),
    ]
    for a, b, name, _ in edges:
        marks.append(Arrows("", [a[0]], [a[1]], [b[0] - a[0]], [b[1] - a[1]], style="muted", head=False,
                            notes=[f"{name} {lengths[name]:.3f}"]))  # fmt: skip
    size = float(np.linalg.norm(np.ptp(flat, 0)))
    said = [e for e in edges if np.linalg.norm(e[1] - e[0]) > 0.25 * size]  # a shorter edge has no room for its words
    at = np.array([a + where * (b - a) for a, b, _, where in said]).reshape(-1, 2)
    marks.append(
        Texts(at[:, 0], at[:, 1] + 0.05 * np.ptp(flat[:, 1]), [f"{name} {lengths[name]:.2f}" for _, _, name, _ in said])
    )
    spots: list[tuple[Any, Style, str]] = [(s, "student", "student"), (t, "teacher", "teacher"), (g, "ink", "label")]
    for point, style, name in (*spots, (m, 2, "teacher's average")):
        ring = name == "label"  # a sure teacher lies upon it and stays in sight
        marks.append(Points(name, [point[0]], [point[1]], style=style, size=19 if ring else 13, ring=ring))
    # the frame stays where it is while the epochs go by
    low, high = flat.min(0), flat.max(0)
    air = 0.15 * np.maximum(high - low, 1e-9)
    x = Axis(f"weight of the teacher: {weight[epoch]:.2f}", low=low[0] - air[0], high=high[0] + air[0], hidden=True)
    y = Axis(low=low[1] - air[1], high=high[1] + air[1], hidden=True)
    return View(title=title, alt=alt, table=table, picture=Picture(Plane(*marks, x=x, y=y)))


def trust_view(groups: Mapping[str, Any], *, title: str = "How much the teacher counts, by kind of sample") -> View:
    """Histograms of the teacher's weight, a row for each group of samples.

    Args:
        groups: name -> ``(n,)`` weights in [0, 1]; an empty group is said to be empty.

    Raises:
        ValueError: no group.
    """
    if not groups:
        raise ValueError("groups is empty: there is nothing to show.")
    values = {
        n: as_array(f"groups[{n!r}]", v, ndim=1, finite=True) if len(v) else np.zeros(0) for n, v in groups.items()
    }
    edges = np.linspace(0, 1, 21).tolist()
    alt = "; ".join(
        f"{n}: mean {v.mean():.2f} over {len(v)} samples" if len(v) else f"{n}: no sample" for n, v in values.items()
    )
    view = histogram_view(
        values,
        bins=edges,
        measure="share",
        panels=True,
        value_label="weight of the teacher; triangle: its mean",
        title=title,
    )
    counts = histogram_view(values, bins=edges).table
    return replace(view, alt=alt + ".", table=counts, _png={})


__all__ = ["triangle_view", "trust_view"]
