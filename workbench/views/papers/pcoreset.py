"""Pictures of PCoreSet: what is covered after each pick, and where predictions gather in the simplex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..bars import bars_view
from ..base import View
from ..drawing import Array, as_array, check_names
from ..picture import Axis, Line, Mark, Picture, Plane, Points

#: More classes than this are drawn in one colour: ten can be told apart by colour and marker.
_TOLD_APART = 10


def _plane(points: Array) -> Array:
    """The two directions of largest variance, ``(N, 2)``; a single direction is filled up with zeros."""
    centred = points - points.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    return np.pad(centred @ directions.T, ((0, 0), (0, 2 - len(directions))))


def _nearest(points: Array, centers: Array) -> Array:
    return np.stack([np.linalg.norm(points - c, axis=1) for c in centers]).min(0)


def coverage_view(
    points: Any,
    labeled: Sequence[int],
    picks: Sequence[int],
    *,
    step: int,
    groups: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    space: str = "probabilities",
    title: str = "What is covered",
) -> View:
    """A plane through points, the labelled ones as stars, the picks so far, and what is covered worst.

    Distances are those of the whole space; the plane shows the two directions of largest variance, so that the circle
    about the worst covered point, which ends at its nearest labelled one, can look too wide.

    Args:
        points: ``(N, D)`` probabilities or features of all samples.
        labeled: positions of those labelled from the start, at least one.
        picks: positions in the order of picking.
        step: how many picks were made, from 0 to their number.
        groups: ``(N,)`` predicted classes, for the colours.
        class_names: their names.
        space: what the points are.

    Raises:
        ValueError: shapes, no labelled point, positions or ``step`` out of range.
    """
    x = as_array("points", points, ndim=2, finite=True)
    start, order = [int(i) for i in labeled], [int(i) for i in picks]
    if not start or not all(0 <= i < len(x) for i in (*start, *order)):
        raise ValueError(f"labeled and picks must be positions in [0, {len(x)}), at least one labelled.")
    if not 0 <= step <= len(order):
        raise ValueError(f"step must be in [0, {len(order)}], got {step!r}.")
    kinds = np.zeros(len(x), dtype=int) if groups is None else np.asarray(groups, dtype=int)
    if len(kinds) != len(x) or kinds.min() < 0:
        raise ValueError(f"groups must hold {len(x)} classes >= 0, got {len(kinds)}.")
    names = check_names("class_names", class_names, int(kinds.max()) + 1 if class_names is None else len(class_names))
    radii = [float(_nearest(x, x[start + order[:k]]).max()) for k in range(len(order) + 1)]
    away = _nearest(x, x[start + order[:step]])
    worst = int(away.argmax())
    flat = _plane(x)
    last = ""
    if step:
        last = f" The last one is sample {order[step - 1]}"
        last += f", predicted {names[kinds[order[step - 1]]]}." if groups is not None else "."
    alt = (
        f"{len(x)} points in the space of {space}, {len(start)} labelled from the start and {step} picked.{last} The "
        f"worst covered point is {away[worst]:.3g} from the nearest labelled one; at the start it was {radii[0]:.3g}."
    )
    table = pd.DataFrame({"picks": range(len(radii)), "sample": [None, *order], "radius after it": radii})

    said = [f"sample {i}, {names[k]}" if groups is not None else f"sample {i}" for i, k in enumerate(kinds)]
    several = groups is not None and len(np.unique(kinds)) <= _TOLD_APART
    marks: list[Mark] = []
    for k, group in enumerate(np.unique(kinds) if several else [None]):
        part = np.arange(len(x)) if group is None else np.flatnonzero(kinds == group)
        name = "" if group is None else names[group]
        marks.append(Points(name, flat[part, 0], flat[part, 1], style=k, size=4.5, notes=[said[i] for i in part]))
    marks.append(
        Points("labelled", flat[start, 0], flat[start, 1], style="ink", size=12, notes=[said[i] for i in start])
    )
    if step:
        numbered = [f"pick {k}\n{said[i]}" for k, i in enumerate(order[:step], 1)]
        texts = [""] * (step - 1) + [str(step)]
        marks.append(
            Points(
                "picked",
                flat[order[:step], 0],
                flat[order[:step], 1],
                style="bad",
                size=11,
                notes=numbered,
                texts=texts,
            )
        )
    turns = np.linspace(0, 2 * np.pi, 91)
    around = flat[worst] + away[worst] * np.stack([np.cos(turns), np.sin(turns)], 1)
    note = [f"{said[worst]}\n{away[worst]:.3g} from the nearest labelled one"]
    marks += [
        Line("", around[:, 0], around[:, 1], style="ink", dots=False),
        Points("covered worst", flat[[worst], 0], flat[[worst], 1], style="ink", size=13, ring=True, notes=note),
    ]
    x_axis, y_axis = Axis(f"{space}, first direction"), Axis("second direction")
    plane = Plane(*marks, x=x_axis, y=y_axis, equal=True, height=420)
    return View(title=title, alt=alt, table=table, picture=Picture(plane))


def structure_view(
    found: Mapping[str, Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
    *,
    title: str = "Where predictions gather",
) -> View:
    """How much predictions cluster, and which classes the clusters stand for, a panel for each model.

    Args:
        found: model -> what :func:`kdcore.methods.pcoreset.prediction_bias` gave.
        class_names: names of the C classes.

    Raises:
        ValueError: no model, or class counts that differ.
    """
    if not found:
        raise ValueError("found is empty: there is nothing to show.")
    counts = {name: as_array(f"found[{name!r}]['histogram']", f["histogram"], ndim=1) for name, f in found.items()}
    classes = len(next(iter(counts.values())))
    if any(len(c) != classes for c in counts.values()):
        raise ValueError(f"all models must have the same classes, got {[len(c) for c in counts.values()]}.")
    names = check_names("class_names", class_names, classes)
    ratios = {name: float(f["ratio"]) for name, f in found.items()}
    said = [
        f"{name}: inertia is {ratios[name]:.3g} of that of evenly spread points; {int((c > 0).sum())} of {classes} "
        f"classes are on top of a centre"
        for name, c in counts.items()
    ]
    view = bars_view(
        np.stack(list(counts.values()), 1),
        names,
        [f"{name}: inertia {ratios[name]:.3g} of that of even points" for name in counts],
        value_label="centres",
        group_label="class on top of the centre",
        panels=True,
        title=title,
    )
    table = pd.DataFrame({"class": names, **{f"centres, {name}": c.astype(int) for name, c in counts.items()}})
    return replace(view, alt="; ".join(said) + ".", table=table, _png={})


__all__ = ["coverage_view", "structure_view"]
