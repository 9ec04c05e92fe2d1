"""Bars of named groups for one or several series, with intervals and reference lines; many names go in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .bars_drawing import BarsDrawing, lying, standing, too_long
from .base import View
from .drawing import Array, as_array, check_names
from .picture import Axis, Bars, Mark, Picture, Plane, Rule
from .theme import Theme, number
from .words import counted, drawable, extremes, listed, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: So many series stay readable side by side.
_TOGETHER = 4


def bars_view(
    values: Any,
    groups: Sequence[str] | None = None,
    series: Sequence[str] | None = None,
    *,
    intervals: Any = None,
    reference: Mapping[str, float] | None = None,
    mark: Sequence[bool] = (),
    value_label: str = "value",
    group_label: str = "class",
    value_range: tuple[float, float] | None = None,
    horizontal: bool | None = None,
    panels: bool | None = None,
    most: int = 120,
    title: str = "Bars",
) -> View:
    """Bars for each group (a class, a layer, an arm), one for each series.

    Bars stand where the names fit below them and lie where they do not; more than 34 rows go into two or three columns
    that share a scale.

    Args:
        values: ``(G,)`` or ``(G, S)``; NaN where a value is not known (a dash is drawn).
        groups: ``G`` names; numbers by default.
        series: ``S`` names; numbers by default.
        intervals: ``(G, 2)`` or ``(G, S, 2)`` lower and upper ends; NaN where there is none.
        reference: name -> value of a line across the bars.
        mark: ``G`` truth values; marked groups (the label) have bold names and a strong edge.
        value_label, group_label: what the axes show, with the unit.
        value_range: ends of the value axis; from the data by default, 0 included.
        horizontal: force lying (True) or standing (False) bars.
        panels: one panel of standing bars for each series; by default where there are more than four series.
        most: at most so many groups are drawn, those with the largest values and the marked ones; the table holds all.

    Raises:
        ValueError: wrong shapes, infinite or no known values, an interval that ends before it begins, ``most`` < 1.
    """
    array = as_array("values", values, ndim=(1, 2))
    array = array[:, None] if array.ndim == 1 else array
    if np.isinf(array).any() or not np.isfinite(array).any():
        raise ValueError("values must hold finite numbers (NaN where one is not known), got infinite ones or none.")
    names = check_names("groups", groups, len(array))
    kinds = check_names("series", series, array.shape[1])
    ends = None if intervals is None else _ends(intervals, array.shape)
    marked = np.array(list(mark) or [False] * len(array), dtype=bool)
    if len(marked) != len(array):
        raise ValueError(f"mark must hold {len(array)} truth values, got {len(marked)}.")
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most!r}.")
    apart = len(kinds) > _TOGETHER if panels is None else panels
    largest = np.nanmax(np.where(np.isnan(array), -np.inf, array), 1)
    shown = np.sort(np.lexsort((-largest, ~marked))[:most])
    drawn = BarsDrawing(
        array[shown],
        None if ends is None else ends[shown],
        [names[i] for i in shown],
        kinds,
        marked[shown],
        dict(reference or {}),
        value_range or _bounds(array[shown], None if ends is None else ends[shown], reference),
        (drawable(value_label), drawable(group_label)),
    )
    columns = [value_label] if len(kinds) == 1 else kinds
    table = pd.DataFrame(array, columns=columns)
    if ends is not None:
        sides = [f"{k}, {side}" for k in columns for side in ("low", "high")]
        table = pd.concat([table, pd.DataFrame(ends.reshape(len(array), -1), columns=sides)], axis=1)
    table.insert(0, group_label, names, allow_duplicates=True)

    def draw(theme: Theme) -> Figure:
        lie = groups is not None and too_long(drawn.names) if horizontal is None else horizontal
        return lying(drawn, theme) if lie and not apart else standing(drawn, theme, apart)

    alt = _words(array, names, kinds, reference, marked, value_label, group_label)
    if len(shown) < len(names):
        alt += f" The {len(shown)} of {len(names)} groups with the largest values are drawn; the table holds all."
    lie = groups is not None and too_long(drawn.names) if horizontal is None else horizontal
    return View(title=title, alt=alt, table=table, picture=_picture(drawn, lie and not apart, apart), draw=draw)


def _picture(d: BarsDrawing, lie: bool, apart: bool) -> Picture:
    strong = np.flatnonzero(d.marked).tolist()
    names = Axis(d.labels[1], names=d.names, strong=strong)
    values = Axis(d.labels[0], low=d.bounds[0], high=d.bounds[1])

    def bars(k: int) -> Bars:
        low, high = (None, None) if d.ends is None else (d.ends[:, k, 0], d.ends[:, k, 1])
        edge = d.marked.tolist() if any(d.marked) else ()
        called = "" if apart or len(d.kinds) == 1 else d.kinds[k]
        return Bars(called, range(len(d.names)), d.values[:, k], low=low, high=high, style=k, strong=edge, lying=lie)

    rules: list[Mark] = [Rule(v, n, axis="x" if lie else "y") for n, v in d.reference.items()]
    series = range(len(d.kinds))
    if not apart:
        return Picture(Plane(*rules, *map(bars, series), x=values if lie else names, y=names if lie else values))
    last = len(d.kinds) - 1
    planes = []
    for k in series:
        x = names if k == last else Axis(names=d.names, strong=strong, hidden=True)
        planes.append(Plane(*rules, bars(k), x=x, y=values, title=d.kinds[k], height=90))
    return Picture(*planes, columns=1)


def _ends(intervals: Any, shape: tuple[int, ...]) -> Array:
    ends = as_array("intervals", intervals, ndim=(2, 3))
    ends = ends[:, None] if ends.ndim == 2 else ends
    if ends.shape != (*shape, 2):
        raise ValueError(f"intervals must be {(*shape, 2)}, lower and upper ends of values, got {ends.shape}.")
    if (ends[..., 0] > ends[..., 1]).any() or np.isinf(ends).any():
        raise ValueError("intervals must be finite with the lower end first, got others.")
    return ends


def _bounds(values: Array, ends: Array | None, reference: Mapping[str, float] | None) -> tuple[float, float]:
    every = np.concatenate([values.ravel(), [] if ends is None else ends.ravel(), [*(reference or {}).values()]])
    low, high = min(0.0, float(np.nanmin(every))), max(0.0, float(np.nanmax(every)))
    space = 0.05 * (high - low) or 1.0
    return (low - space if low < 0 else 0.0), (high + space if high > 0 or low == 0 else 0.0)


def _words(
    values: Array,
    names: Sequence[str],
    kinds: Sequence[str],
    reference: Mapping[str, float] | None,
    marked: Any,
    value_label: str,
    group_label: str,
) -> str:
    several = len(kinds) > 1
    told = [
        f"{k}: {extremes(values[:, i], names)}" if several else extremes(values[:, 0], names)
        for i, k in enumerate(kinds)
    ]
    alt = f"{value_label} by {group_label}, {counted(len(names), 'group')}"
    alt += f" and {len(kinds)} series. " if several else ": "
    alt += listed(told)
    pairs = np.isfinite(values).sum(1) > 1
    if several and pairs.any():
        spread = np.full(len(values), -1.0)
        spread[pairs] = np.nanmax(values[pairs], 1) - np.nanmin(values[pairs], 1)
        at = int(spread.argmax())
        top, bottom = (kinds[int(f(values[at]))] for f in (np.nanargmax, np.nanargmin))
        alt += (
            f" Series differ most at {names[at]}, by {number(spread[at])}: {top} is highest, {bottom} lowest."
            if spread[at] > 0
            else " The series are equal everywhere."
        )
    for name, at_ in (reference or {}).items():
        alt += (
            f" {int((values > at_).sum())} of {int(np.isfinite(values).sum())} values lie above {name} ({number(at_)})."
        )
    if marked.any():
        alt += f" Marked: {', '.join(n for n, m in zip(names, marked, strict=True) if m)}."
    return alt + unknown(int(np.isnan(values).sum()))


__all__ = ["bars_view"]
