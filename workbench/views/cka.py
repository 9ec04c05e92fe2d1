"""CKA maps: which layer of the student holds what which layer of the teacher holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .base import View
from .drawing import Array, as_array, check_names
from .picture import Colours, Heat, Picture

#: Values are printed into cells of maps up to this many columns.
_PRINTED = 12


def _cell(matrix: Array, flat: Any) -> tuple[int, int]:
    """Row and column of a flat index."""
    i, j = divmod(int(flat), matrix.shape[1])
    return i, j


def _check(matrix: Any, layers_x: Sequence[str], layers_y: Sequence[str], name: str = "matrix") -> Array:
    array = as_array(name, matrix, ndim=2)
    check_names("layers_x", layers_x, array.shape[0])
    check_names("layers_y", layers_y, array.shape[1])
    if not np.isfinite(array).any():
        raise ValueError(f"{name} has no finite value: every layer was constant or no batch was usable.")
    return array


def _floor(*matrices: Array) -> float:
    return min(0.0, *(float(np.nanmin(m)) for m in matrices))


def _heat(
    matrix: Array,
    layers_x: Sequence[str],
    layers_y: Sequence[str],
    names: tuple[str, str],
    *,
    floor: float,
    ends: Array | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    title: str = "",
) -> Heat:
    small = matrix.shape[1] <= _PRINTED and matrix.shape[0] <= 2 * _PRINTED
    notes = () if ends is None else [[f"interval {a:.3f} to {b:.3f}" for a, b in row] for row in ends]
    return Heat(
        values=matrix,
        rows=layers_x,
        columns=layers_y,
        colours=Colours(floor, 1.0, "CKA"),
        numbers=".2f" if small else "",
        framed=[(i, int(np.nanargmax(row))) for i, row in enumerate(matrix) if np.isfinite(row).any()],
        dotted=[(list(layers_x).index(x), list(layers_y).index(y)) for x, y in pairs],
        meanings={"framed": "best in row", "dotted": "matched pair"},
        notes=notes,
        row_label=names[0],
        column_label=names[1],
        title=title,
    )


def cka_map_view(
    matrix: Any,
    layers_x: Sequence[str],
    layers_y: Sequence[str],
    *,
    interval: Any = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    names: tuple[str, str] = ("student", "teacher"),
    title: str | None = None,
) -> View:
    """Heat map of CKA between all layers of two models.

    Args:
        matrix: ``(L1, L2)`` CKA; cells that are not a number (constant layers) are hatched.
        layers_x, layers_y: names of rows and columns, shallow first.
        interval: ``(L1, L2, 2)`` lower and upper end of an interval per cell, shown in the table and the description.
        pairs: ``(layer_x, layer_y)`` pairs to mark, for instance those a method matches.
        names: the two models in words, rows first.
        title: heading; made from ``names`` by default.

    Raises:
        ValueError: shapes and names disagree, a pair names an unknown layer, or nothing is finite.
    """
    array = _check(matrix, layers_x, layers_y)
    ends = None if interval is None else as_array("interval", interval, ndim=3)
    if ends is not None and ends.shape != (*array.shape, 2):
        raise ValueError(f"interval must have shape {(*array.shape, 2)} (lower, upper), got {ends.shape}.")
    pairs = list(pairs or ())
    for x, y in pairs:
        if x not in layers_x or y not in layers_y:
            raise ValueError(f"pairs must name layers of the map, got {(x, y)!r}.")
    heading = title or f"CKA between the layers of {names[0]} and {names[1]}"
    rows = {
        "row": np.repeat(list(layers_x), array.shape[1]),
        "column": np.tile(list(layers_y), array.shape[0]),
        "cka": array.ravel(),
    }
    table = pd.DataFrame(rows if ends is None else {**rows, "low": ends[..., 0].ravel(), "high": ends[..., 1].ravel()})
    table = table.rename(columns={"row": f"{names[0]} layer", "column": f"{names[1]} layer"})

    heat = _heat(array, layers_x, layers_y, names, floor=_floor(array), ends=ends, pairs=pairs)
    return View(title=heading, alt=_words(array, layers_x, layers_y, names, ends), table=table, picture=Picture(heat))


def _words(
    array: Array, layers_x: Sequence[str], layers_y: Sequence[str], names: tuple[str, str], ends: Array | None
) -> str:
    i, j = _cell(array, np.nanargmax(array))
    low = _cell(array, np.nanargmin(array))
    around = "" if ends is None else f" (interval {ends[i, j, 0]:.2f} to {ends[i, j, 1]:.2f})"
    text = (
        f"CKA is highest, {array[i, j]:.2f}{around}, between {names[0]} {layers_x[i]} and {names[1]} "
        f"{layers_y[j]}, and lowest, "
        f"{array[low]:.2f}, between {names[0]} {layers_x[low[0]]} and {names[1]} {layers_y[low[1]]}. "
        f"The deepest {names[0]} layer {layers_x[-1]} is closest to {names[1]} "
        + (
            f"{layers_y[int(np.nanargmax(array[-1]))]} ({np.nanmax(array[-1]):.2f})."
            if np.isfinite(array[-1]).any()
            else "no layer: it is constant."
        )
    )
    missing = int((~np.isfinite(array)).sum())
    return text + (f" {missing} cells are undefined because a layer is constant." if missing else "")


def cka_compare_view(
    before: Any,
    after: Any,
    layers_x: Sequence[str],
    layers_y: Sequence[str],
    *,
    labels: tuple[str, str] = ("before", "after"),
    names: tuple[str, str] = ("student", "teacher"),
    title: str | None = None,
) -> View:
    """Two CKA maps of the same layers side by side on one colour scale.

    Args:
        before, after: ``(L1, L2)`` CKA.
        layers_x, layers_y, names: as in :func:`cka_map_view`.
        labels: headings of the two maps.
    """
    first, second = (_check(m, layers_x, layers_y, n) for m, n in ((before, "before"), (after, "after")))
    change = second - first
    if not np.isfinite(change).any():
        raise ValueError("before and after have no cell that is finite in both.")
    i, j = _cell(change, np.nanargmax(np.abs(change)))
    matched = [float(np.nanmax(m[-1])) if np.isfinite(m[-1]).any() else float("nan") for m in (first, second)]
    alt = (
        f"From {labels[0]} to {labels[1]}, mean CKA goes from {np.nanmean(first):.2f} to {np.nanmean(second):.2f}. "
        f"The largest change, "
        f"{change[i, j]:+.2f} (from {first[i, j]:.2f} to {second[i, j]:.2f}), is between {names[0]} {layers_x[i]} "
        f"and {names[1]} "
        f"{layers_y[j]}. The deepest {names[0]} layer's best match goes from {matched[0]:.2f} to {matched[1]:.2f}."
    )
    table = pd.DataFrame(
        {
            f"{names[0]} layer": np.repeat(list(layers_x), first.shape[1]),
            f"{names[1]} layer": np.tile(list(layers_y), first.shape[0]),
            labels[0]: first.ravel(),
            labels[1]: second.ravel(),
            "change": change.ravel(),
        }
    )

    floor = _floor(first, second)
    heats = [
        _heat(matrix, layers_x, layers_y, names, floor=floor, title=label)
        for matrix, label in zip((first, second), labels, strict=True)
    ]
    return View(
        title=title or f"CKA between {names[0]} and {names[1]}, {labels[0]} and {labels[1]}",
        alt=alt,
        table=table,
        picture=Picture(*heats),
    )


__all__ = ["cka_compare_view", "cka_map_view"]
