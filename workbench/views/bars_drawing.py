"""How bars are drawn: lying in up to three columns of rows, standing, or standing in one panel for each series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import WIDTH, Array, placed
from .theme import CATEGORICAL, HATCHES, Theme
from .words import BOLD, LINES, drawable, fitted, keys_above, keys_height, literal, name_positions, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Rows of names in one column.
_ROWS = 34
#: Points of the names, and height of a row of them in inches.
_SIZE, _HIGH = 9.0, 0.165


@dataclass(frozen=True)
class BarsDrawing:
    """What is drawn: values (groups, series), their intervals, names, marks, lines, ends of the value axis, labels."""

    values: Array
    ends: Array | None
    names: list[str]
    kinds: list[str]
    marked: Any
    reference: dict[str, float]
    bounds: tuple[float, float]
    labels: tuple[str, str]

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers, so that ticks between them would mean nothing."""
        return bool((self.values == self.values.round())[np.isfinite(self.values)].all())


def lying(d: BarsDrawing, theme: Theme) -> Figure:
    columns = min(3, math.ceil(len(d.names) / _ROWS))
    per = math.ceil(len(d.names) / columns)
    row = max(_HIGH, (0.11 if per <= 12 else 0.055) * len(d.kinds) + 0.06)
    wide, most = WIDTH / columns, 3.0 if columns == 1 else 0.47 * WIDTH / columns
    left = 0.15 + min(most, max(text_width(drawable(n), _SIZE) for n in d.names) * BOLD)
    fills = d.kinds if len(d.kinds) > 1 else []
    top = 0.1 + keys_height(len(fills) + len(d.reference))
    boxes = [(b * wide + left, top, wide - left - 0.12, per * row + 0.1) for b in range(columns)]
    figure, axes = placed(WIDTH, top + per * row + 0.62, boxes)
    for b, ax in enumerate(axes):
        rows = slice(b * per, (b + 1) * per)
        _bars(ax, d, rows, range(len(d.kinds)), row, theme)
        strong = np.flatnonzero(d.marked[rows])
        name_positions(ax, "y", d.names[rows], length=per * row, room=most, size=_SIZE, strong=strong)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(per - 0.4, -0.6)  # the first group is on top; columns are equally tall
        ax.locator_params(axis="x", nbins=6 if columns == 1 else 3, integer=d.whole)
    figure.text(0.5, 0.01, literal(d.labels[0]), ha="center", va="bottom", fontsize=11)
    keys_above(figure, theme, fills, d.reference)
    return figure


def standing(d: BarsDrawing, theme: Theme, apart: bool) -> Figure:
    count = len(d.kinds) if apart else 1
    high, top = (0.62, 0.38) if apart else (2.7, 0.0)
    fits = not too_long(d.names)
    below = 0.62 if fits else 0.55 + min(1.5, max(text_width(drawable(n), _SIZE) for n in d.names) * BOLD)
    fills = d.kinds if len(d.kinds) > 1 and not apart else []
    head = 0.1 + keys_height(len(fills) + len(d.reference))
    boxes = [(0.85, head + top + k * (high + top), WIDTH - 1.0, high) for k in range(count)]
    figure, axes = placed(WIDTH, head + count * (high + top) + below, boxes)
    for k, ax in enumerate(axes):
        _bars(ax, d, slice(None), [k] if apart else range(len(d.kinds)), None, theme)
        ax.locator_params(axis="y", nbins=3 if apart else 6, integer=d.whole)
        ax.set_xlim(-0.7, len(d.names) - 0.3)
        ax.set_xticks([])
        if apart:
            ax.set_title(literal(fitted(d.kinds[k], WIDTH - 1.0, 10)), fontsize=10, pad=3)
    strong = np.flatnonzero(d.marked)
    name_positions(axes[-1], "x", d.names, length=WIDTH - 1.0, room=1.5, size=_SIZE, strong=strong)
    axes[-1].set_xlabel(literal(d.labels[1]))
    middle = (axes[0].get_position().y1 + axes[-1].get_position().y0) / 2
    figure.text(0.01, middle, literal(d.labels[0]), ha="left", va="center", rotation=90, fontsize=11)
    keys_above(figure, theme, fills, d.reference)
    return figure


def too_long(words: Sequence[str]) -> bool:
    """Whether names do not fit straight below standing bars."""
    slot = (WIDTH - 1.0) / len(words)
    return max(text_width(drawable(w), _SIZE) for w in words) > slot - 0.08


def _places(groups: int, series: int) -> Array:
    """Where the middles of bars are, ``(groups, series)``: 0.8 of a slot is filled."""
    return np.arange(groups)[:, None] + (np.arange(series) - (series - 1) / 2) * 0.8 / series


def _bars(ax: Axes, d: BarsDrawing, rows: slice, only: Sequence[int], row: float | None, theme: Theme) -> None:
    """The bars of some rows and series, lines across, and the value axis; lying if ``row``, their height, is given."""
    from matplotlib.collections import PolyCollection

    values, ends = d.values[rows], None if d.ends is None else d.ends[rows]
    lie, thick = row is not None, 0.8 / len(only)
    room = thick * (row if row is not None else (WIDTH - 1.0) / len(d.names))  # inches across one bar
    edge = 0.5 if room > 0.08 else 0.0  # edges and hatches of thin bars would hide their colour
    for place, i in enumerate(only):
        at = _places(len(values), len(only))[:, place]
        near, far, ends_at = at - 0.47 * thick, at + 0.47 * thick, np.nan_to_num(values[:, i])
        corners = np.stack([[near, far, far, near], [0 * at, 0 * at, ends_at, ends_at]]).T  # (bars, corner, axis)
        bars = PolyCollection(  # one artist for all bars: a hundred patches take half a second
            list(corners[..., ::-1] if lie else corners),
            facecolors=CATEGORICAL[i % 8],
            edgecolors=theme.ink,
            linewidths=np.where(d.marked[rows], 4 * edge or 0.8, edge),
            hatch=HATCHES[i % 8] if len(only) > 1 and edge else None,
        )
        ax.add_collection(bars, autolim=False)
        for gap in at[np.isnan(values[:, i])]:
            x, y = (0, gap) if lie else (gap, 0)
            dash = ax.text(x, y, "–", color=theme.muted, fontsize=8)
            dash.set(ha="left" if lie else "center", va="center" if lie else "bottom")
    if ends is not None:
        at = _places(len(values), len(only)).ravel()
        for colour, width in ((theme.paper, 3.0 if edge else 2.2), (theme.ink, 1.3 if edge else 1.0)):
            line = ax.hlines if lie else ax.vlines
            line(at, *ends[:, only].reshape(-1, 2).T, color=colour, linewidth=width)
    across = ax.axvline if lie else ax.axhline
    across(0, color=theme.muted, linewidth=0.8)
    for i, value in enumerate(d.reference.values()):
        across(value, color=theme.ink, linestyle=LINES[i % len(LINES)], linewidth=1.3)
    (ax.set_xlim if lie else ax.set_ylim)(*d.bounds)
    ax.grid(axis="y" if lie else "x", visible=False)
