"""How a plane is painted: ends and ticks of its axes, names along them, room around them; marks are in
:mod:`workbench.views.painting_marks`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .drawing import Array
from .painting_ground import Ground, bar_places, key_of
from .painting_marks import draw_mark
from .painting_sheet import LABELS, NAMES, Key, Part, Sheet, log_ticks, room_of, ticks_of, written
from .picture import Area, Arrows, Axis, Bars, Field, Histogram, Line, Mark, Plane, Points, Rule, Span, Texts
from .words import LINE, drawable, fitted, literal, name_positions, text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of the numbers at ticks; inches from the axes to them, of a line of them, of a label.
_TICKS, _PAD, _TALL, _LABEL = 9.5, 0.1, 0.16, 0.24
_TALLEST = 6.6


class PlanePart(Part):
    """A plane."""

    def __init__(self, plane: Plane) -> None:
        self.plane, self.title = plane, plane.title
        fields = [m.colours for m in plane.marks if isinstance(m, Field)]
        valued = any(isinstance(m, Points) and m.values is not None for m in plane.marks)
        self.colours = fields[0] if fields else plane.colours if valued else None
        self.stretches = plane.height is None and not plane.equal and not self._rows
        self.bars = bar_places(plane.marks)

    @property
    def _rows(self) -> int:
        """Names along the y axis, 0 where it is one of numbers."""
        return len(self.plane.y.names or ())

    @property
    def _label(self) -> str:
        """Of the x axis, with what the marks above histograms mean."""
        means = any(isinstance(m, Histogram) and m.mean is not None for m in self.plane.marks)
        return f"{self.plane.x.label}   (▼ mean)".strip() if means else self.plane.x.label

    def entries(self) -> list[Key]:
        return [k for m in self.plane.marks if (k := key_of(m, self.plane.marks)) and k.name]

    @property
    def crowded(self) -> bool:
        named = Line | Points | Bars | Histogram | Area | Arrows | Field
        return sum(isinstance(m, named) for m in self.plane.marks) > 1

    @cached_property
    def ends(self) -> dict[str, tuple[float, float]]:
        """Both ends of each axis: given, or those of the data with a little air."""
        return {which: self._ends(which) for which in ("x", "y")}

    def _axis(self, which: str) -> Axis:
        return self.plane.x if which == "x" else self.plane.y

    def _values(self, which: str) -> tuple[Array, Array]:
        """Every value along an axis, and those that need no air beyond them."""
        found = [np.asarray(a, dtype=float).ravel() for m in self.plane.marks for a in _reach(m, which, self.bars)]
        firm = [np.asarray(a, dtype=float).ravel() for m in self.plane.marks for a in _firm(m, which)]
        every, hard = (np.concatenate([np.zeros(0), *some]) for some in (found + firm, firm))
        every = every if found and any(f.size for f in found) else np.zeros(0)  # the foot of no bar is no value
        known = np.isfinite(every) & ((every > 0) | (not self._axis(which).log))
        return every[known], hard

    def _ends(self, which: str) -> tuple[float, float]:
        axis = self._axis(which)
        if axis.logit:
            every, _ = self._values(which)
            odds = every / (1 - every)
            low, high = (float(odds.min()) / 1.5, float(odds.max()) * 1.5) if len(every) else (0.1, 10.0)
            low, high = low / (1 + low), high / (1 + high)
        elif axis.names is not None:
            low, high = -0.6, max(len(axis.names), 1) - 0.4
        else:
            every, firm = self._values(which)
            fixed = [v for v in (axis.low, axis.high) if v is not None and (v > 0 or not axis.log)]
            if len(every):
                low, high = _widened(float(every.min()), float(every.max()), axis.log, firm)
            elif fixed:
                low, high = fixed[0], fixed[0]
            else:
                low, high = (0.1, 1.0) if axis.log else (0.0, 1.0)
        low, high = (low if axis.low is None else axis.low), (high if axis.high is None else axis.high)
        if not low < high:  # one end is given and all data lie beyond it
            low, high = (
                (low, low * 10 if axis.log else low + 1)
                if axis.low is not None
                else ((high / 10 if axis.log else high - 1), high)
            )
        return low, high

    def _height(self, inner: float) -> float:
        if self.plane.height is not None:
            return self.plane.height / 100
        if self.plane.equal:
            (a, b), (c, d) = self.ends["x"], self.ends["y"]
            return float(np.clip(inner * (d - c) / (b - a), 1.2, 5.2))
        if self._rows:
            series = max(1, len({id(m) for m in self.plane.marks if isinstance(m, Bars) and not m.stacked}))
            row = max(0.175, (0.11 if self._rows <= 12 else 0.055) * series + 0.06)
            return min(_TALLEST, max(0.5, self._rows * row + 0.1))
        return 2.7 if inner > 5.5 else 2.4 if inner > 3.3 else 2.1

    def _ticks(self, which: str, length: float) -> dict[float, str]:
        """Values to name along an axis of numbers that is ``length`` inches long, and how they are written."""
        axis, (low, high) = self._axis(which), self.ends[which]
        if axis.hidden:
            return {}
        if len(axis.tick_names):
            return dict(zip(map(float, axis.ticks), axis.tick_names, strict=True))
        if len(axis.ticks):
            step = float(np.min(np.diff(sorted(axis.ticks)))) if len(axis.ticks) > 1 else 0.0
            scale, sign = (100, " %") if axis.percent else (1, "")
            step = step * scale if step > 0 and not axis.log else 0.0
            return _thinned(
                {float(v): (written(v * scale, step) if step else f"{v * scale:.4g}") + sign for v in axis.ticks},
                which,
                length,
                axis.log,
            )
        whole = not axis.percent and self._whole(which)
        most = int(np.clip(length / 0.42, 2, 7)) if which == "y" else 8
        while True:
            found = (
                log_ticks(low, high, most) if axis.log else ticks_of(low, high, most, whole=whole, percent=axis.percent)
            )
            if which == "y" or most <= 2 or _wide(found) + 0.16 * len(found) <= length:
                return found
            most -= 1

    def _whole(self, which: str) -> bool:
        every, _ = self._values(which)
        return bool(len(every) and (every == every.round()).all())

    def prefers(self, width: float) -> float:
        if not self.plane.equal or self.plane.height is not None:
            return width
        (a, b), (c, d) = self.ends["x"], self.ends["y"]
        around = sum(self.sides(width))
        return min(width, around + max(5.2 * (b - a) / (d - c), 1.6))

    def sides(self, width: float) -> tuple[float, float]:
        left = _PAD + (_LABEL if self.plane.y.label else 0.0)
        if self.plane.y.names is not None and not self.plane.y.hidden:
            left += room_of(self.plane.y.names, self._room(width), strong=self.plane.y.strong)
        elif not self.plane.y.hidden:
            left += max(
                (text_width(t, _TICKS) for t in self._ticks("y", self._height(width - 0.8)).values()), default=0
            )
        last = 0.0
        if self.plane.x.names is None:
            last = max((text_width(t, _TICKS) for t in self._ticks("x", width - left).values()), default=0.0) / 2
        return left, max(0.06, last)

    def _room(self, width: float) -> float:
        return 3.0 if width > 5.5 else 0.42 * width

    def tall(self, inner: float) -> tuple[float, float, float]:
        names, axis = self.plane.x.names, self.plane.x
        below = 0.06 + (_LABEL if self._label else 0.0)
        if not axis.hidden:
            below += _PAD - 0.02
            straight = (
                names is None
                or not len(names)
                or max(text_width(drawable(n), NAMES) for n in names) * 1.16 <= inner / len(names) - 0.08
            )
            below += _TALL if straight else room_of(names or (), 1.5, strong=axis.strong)
        return 0.09, self._height(inner), below

    def draw(self, sheet: Sheet, box: tuple[float, float, float, float]) -> None:
        wide, tall = box[2:]
        ax = sheet.axes(box)
        for which, axis in (("x", self.plane.x), ("y", self.plane.y)):
            low, high = self.ends[which]
            if self.plane.equal:
                low, high = self._equal(which, wide, tall)
            if axis.log or axis.logit:
                (ax.set_xscale if which == "x" else ax.set_yscale)("log" if axis.log else "logit")
            turned = axis.down or (which == "y" and bool(self._rows))  # the first of the rows is on top
            (ax.set_xlim if which == "x" else ax.set_ylim)((high, low) if turned else (low, high))
            self._name(ax, which, wide if which == "x" else tall)
        ground = Ground(ax, sheet.theme, (wide, tall), self.plane, self.bars)
        for mark in self.plane.marks:
            draw_mark(mark, ground)
        ground.write()
        self._labels(sheet, box)

    def _equal(self, which: str, wide: float, tall: float) -> tuple[float, float]:
        """Ends of an axis on which a unit is as long as on the other one."""
        unit = max((self.ends["x"][1] - self.ends["x"][0]) / wide, (self.ends["y"][1] - self.ends["y"][0]) / tall)
        low, high = self.ends[which]
        half = unit * (wide if which == "x" else tall) / 2
        return (low + high) / 2 - half, (low + high) / 2 + half

    def _name(self, ax: Axes, which: str, length: float) -> None:
        axis = self._axis(which)
        side = getattr(ax, f"{which}axis")
        side.set_minor_locator(_nothing())
        if axis.names is not None and len(axis.names) and not axis.hidden:
            room = 1.5 if which == "x" else self._room(self.width)
            shown = length * len(axis.names) / (self.ends[which][1] - self.ends[which][0])
            name_positions(ax, which, axis.names, length=shown, room=room, size=NAMES, strong=axis.strong)
            side.set_tick_params(length=0)
            side.grid(visible=False)
            return
        ticks = self._ticks(which, length) if axis.names is None else {}
        low, high = sorted(side.get_view_interval())
        inside = {v: t for v, t in ticks.items() if low - 1e-9 * (high - low) <= v <= high + 1e-9 * (high - low)}
        side.set_ticks(list(inside), labels=[literal(t) for t in inside.values()], fontsize=_TICKS)
        side.set_tick_params(length=0 if axis.hidden else 3)
        bars = [m for m in self.plane.marks if isinstance(m, Bars | Histogram)]
        if which == "x" and any(not (isinstance(m, Bars) and m.lying) for m in bars):
            side.grid(visible=False)

    def _labels(self, sheet: Sheet, box: tuple[float, float, float, float]) -> None:
        x, y, wide, tall = box
        _, _, below = self.tall(wide)
        if self._label:
            words = fitted(self._label, wide + 0.4, LABELS)
            sheet.text(x + wide / 2, y + tall + below - 0.04, words, size=LABELS, ha="center", va="bottom")
        if self.plane.y.label:
            left, _ = self.sides(self.width)
            words = wrapped(self.plane.y.label, tall + 0.3, LABELS, lines=1)
            sheet.text(x - left + 0.01, y + tall / 2, words, size=LABELS, ha="left", va="center", rotation=90)


def _nothing() -> object:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _wide(ticks: Mapping[float, str]) -> float:
    return sum(text_width(t, _TICKS) for t in ticks.values())


def _thinned(ticks: dict[float, str], which: str, length: float, log: bool) -> dict[float, str]:
    """Ticks that were asked for, so many left out evenly that the others find room."""
    if len(ticks) < 2:
        return ticks
    at = np.array(sorted(ticks))
    at = np.log(at) if log else at
    least = float(np.diff(at).min()) / (float(np.ptp(at)) or 1.0) * length * 0.9
    need = LINE if which == "y" else max(text_width(t, _TICKS) for t in ticks.values()) + 0.08
    stride = max(1, math.ceil(need / max(least, 1e-3)))
    return {v: ticks[v] for v in sorted(ticks)[::stride]}


def _widened(low: float, high: float, log: bool, firm: Array) -> tuple[float, float]:
    """Ends with a little air beyond them, none beyond values that are ``firm`` (the foot of a bar)."""
    if log:
        air = (high / low) ** 0.05 if high > low else 10**0.5
        return low if low in firm else low / air, high if high in firm else high * air
    air = 0.05 * (high - low) if high > low else 0.5 * max(abs(high), 1e-6) if high else 0.5
    return low if low in firm else low - air, high if high in firm else high + air


def _reach(mark: Mark, which: str, bars: Mapping[int, tuple[Array, Array, float]]) -> Iterator[Array | float]:
    """Values of a mark along an axis."""
    match mark:
        case Line():
            yield from (mark.x,) if which == "x" else (a for a in (mark.y, mark.low, mark.high) if a is not None)
        case Points():
            yield mark.x if which == "x" else mark.y
            if mark.to is not None and len(mark.to):
                yield mark.to[:, 0 if which == "x" else 1]
        case Bars():
            at, foot, thick = bars[id(mark)]
            if (which == "y") == mark.lying:
                yield from (at - thick / 2, at + thick / 2)
            else:
                yield from (foot + (mark.values - mark.base if mark.stacked else mark.values - foot), foot)
                yield from (a for a in (mark.low, mark.high) if a is not None)
        case Histogram():
            yield mark.edges if which == "x" else mark.heights
        case Arrows():
            yield from (mark.x, mark.x + mark.dx) if which == "x" else (mark.y, mark.y + mark.dy)
        case Area() | Texts():
            yield mark.x if which == "x" else mark.y
        case Rule() if mark.axis == which:
            yield np.array([mark.value])
        case Span() if mark.axis == which:
            yield np.array([mark.low, mark.high])


def _firm(mark: Mark, which: str) -> Iterator[Array]:
    """Values of a mark at which an axis may end without air."""
    match mark:
        case Bars() if (which == "y") != mark.lying:
            yield np.array([mark.base])
        case Histogram():
            yield mark.edges[[0, -1]] if which == "x" else np.zeros(1)
        case Field():
            first, last = mark.x if which == "x" else mark.y
            half = (last - first) / max(mark.values.shape[1 if which == "x" else 0] - 1, 1) / 2 or 0.5
            yield np.array([first - half, last + half])
