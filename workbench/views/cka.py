"""CKA maps: which layer of the student holds what which layer of the teacher holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .base import View
from .drawing import WIDTH, Array, as_array, check_names, heatmap, subplots
from .theme import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def _draw_map(
    ax: Axes,
    matrix: Array,
    layers_x: Sequence[str],
    layers_y: Sequence[str],
    theme: Theme,
    *,
    floor: float,
    names: tuple[str, str],
    pairs: Sequence[tuple[str, str]],
    title: str,
    room: int = 50,
) -> Any:
    image = heatmap(
        ax,
        matrix,
        theme,
        rows=layers_x,
        columns=layers_y,
        vmin=floor,
        vmax=1.0,
        room=room,
        numbers=".2f" if matrix.shape[1] <= _PRINTED and matrix.shape[0] <= 2 * _PRINTED else None,
    )
    rows = [i for i in range(len(matrix)) if np.isfinite(matrix[i]).any()]
    best = [int(np.nanargmax(matrix[i])) for i in rows]
    size = 2600 / max(matrix.shape) + 30
    ax.scatter(best, rows, s=size, marker="s", facecolors="none", edgecolors="#ffffff", linewidths=3.4)
    ax.scatter(best, rows, s=size, marker="s", facecolors="none", edgecolors="#D55E00", linewidths=1.8)
    ax.scatter([], [], s=70, marker="s", facecolors="none", edgecolors="#D55E00", linewidths=1.8, label="best in row")
    if pairs:
        columns = [list(layers_y).index(y) - 0.38 for _, y in pairs]
        rows_of = [list(layers_x).index(x) - 0.34 for x, _ in pairs]
        ax.scatter(
            columns,
            rows_of,
            s=34,
            marker="D",
            facecolors="#ffffff",
            edgecolors="#000000",
            linewidths=1,
            label="matched pair",
        )
    ax.set(xlabel=f"layers of the {names[1]}", ylabel=f"layers of the {names[0]}", title=title)
    return image


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

    def draw(theme: Theme) -> Figure:
        height = min(8.4, max(3.2, 1.5 + 0.42 * len(layers_x)))
        width = min(WIDTH, max(5.4, 2.6 + 0.62 * len(layers_y)))
        figure, ax = subplots(width, height)
        image = _draw_map(
            ax,
            array,
            layers_x,
            layers_y,
            theme,
            floor=_floor(array),
            names=names,
            pairs=pairs,
            title="",
            room=int((width - 2.1) / 0.078),
        )
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False)
        figure.colorbar(image, ax=ax, label="CKA", fraction=0.05, pad=0.02)
        return figure

    def interactive() -> Any:
        import plotly.graph_objects as go

        figure = go.Figure(
            go.Heatmap(
                z=array,
                x=list(layers_y),
                y=list(layers_x),
                zmin=_floor(array),
                zmax=1,
                colorscale="Cividis",
                hovertemplate=f"{names[0]} %{{y}}<br>{names[1]} %{{x}}<br>CKA %{{z:.3f}}<extra></extra>",
            )
        )
        figure.update_layout(
            title=heading,
            xaxis_title=f"layers of the {names[1]}",
            yaxis_title=f"layers of the {names[0]}",
            yaxis_autorange="reversed",
            width=880,
            height=int(160 + 42 * len(layers_x)),
        )
        return figure

    return View(
        title=heading,
        alt=_words(array, layers_x, layers_y, names, ends),
        table=table,
        draw=draw,
        interactive=interactive,
    )


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

    def draw(theme: Theme) -> Figure:
        figure, axes = subplots(WIDTH, min(8.4, max(3.3, 1.6 + 0.42 * len(layers_x))), 1, 2, sharey=True)
        for ax, matrix, label in zip(axes, (first, second), labels, strict=True):
            image = _draw_map(
                ax,
                matrix,
                layers_x,
                layers_y,
                theme,
                floor=_floor(first, second),
                names=names,
                pairs=(),
                title=label,
                room=40,
            )
        axes[1].set_ylabel("")
        figure.colorbar(image, ax=list(axes), label="CKA", fraction=0.04, pad=0.02)
        return figure

    return View(
        title=title or f"CKA between {names[0]} and {names[1]}, {labels[0]} and {labels[1]}",
        alt=alt,
        table=table,
        draw=draw,
    )


__all__ = ["cka_compare_view", "cka_map_view"]
