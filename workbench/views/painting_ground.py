"""What the marks of a plane share when they are painted: the ground, where bars stand, entries of the legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import Array
from .graph_layout import name_places
from .painting_sheet import Key, look
from .picture import Area, Arrows, Bars, Histogram, Line, Mark, Plane, Points, Rule, Style
from .theme import Theme
from .words import LINES, fitted, literal, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Positions, feet (where a bar begins) and thickness of the bars of each mark, by its ``id``.
Places = Mapping[int, tuple[Array, Array, float]]
#: Lines with more points get no dots by themselves.
DOTS = 30
#: Points of words inside a plane.
SMALL = 8.5


@dataclass
class Ground:
    """Axes to draw on, how large they are in inches, and the words that wait for room."""

    ax: Axes
    theme: Theme
    size: tuple[float, float]
    plane: Plane
    bars: Places
    waiting: list[tuple[Array, str, float]] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def inches(self, x: Array, y: Array) -> Array:
        """``(N, 2)`` places in inches from the upper left corner of the axes."""
        with np.errstate(invalid="ignore"):
            share = self.ax.transAxes.inverted().transform(self.ax.transData.transform(np.stack([x, y], 1)))
        return (share * [1, -1] + [0, 1]) * self.size

    def data(self, places: Array) -> Array:
        """Back from inches."""
        share = (places / self.size - [0, 1]) * [1, -1]
        return self.ax.transData.inverted().transform(self.ax.transAxes.transform(share))

    @property
    def hatched(self) -> bool:
        """Whether bars are told apart by more than colour."""
        return _many_bars(self.plane.marks)

    def put(self, left: float, y: float, words: str, size: float, style: Style) -> None:
        """Write a line of words, its left end and middle given in inches, unless it would lie over another one."""
        box = (left, y - 0.0078 * size, left + text_width(words, size), y + 0.0078 * size)
        free = all(box[0] > t[2] or box[2] < t[0] or box[1] > t[3] or box[3] < t[1] for t in self.taken)
        if words.strip() and free:
            self.taken.append(box)
            place = (left / self.size[0], 1 - y / self.size[1])
            colour = look(style, self.theme).colour
            self.ax.text(
                *place, literal(words), color=colour, fontsize=size, va="center", zorder=6, transform=self.ax.transAxes
            )

    def write(self) -> None:
        """Write the words that wait beside their points, those that find room."""
        if not self.waiting:
            return
        points = np.stack([p for p, _, _ in self.waiting])
        words = [fitted(w, 1.5, SMALL) for _, w, _ in self.waiting]
        sizes = [(text_width(w, SMALL) + 0.03, 0.15) for w in words]
        radius = max(r for _, _, r in self.waiting)
        order = [i for i in range(len(words)) if words[i].strip() and np.isfinite(points[i]).all()]
        box: dict[str, Any] = {"fc": self.theme.paper, "ec": "none", "pad": 0.4, "alpha": 0.7}
        # words that are written already stand in the way as rows of points
        rows = [
            np.stack([np.arange(a, c, 0.06), np.full(len(np.arange(a, c, 0.06)), y)], 1)
            for a, b, c, d in self.taken
            for y in np.linspace(b, d, 3)
        ]
        safe = np.concatenate([np.nan_to_num(points, nan=-9.0), *rows])
        for i, middle in name_places(safe, radius, sizes, np.zeros((0, 2)), order, np.array(self.size)):
            x, y = middle / self.size
            place = self.ax.transAxes
            self.ax.text(
                x,
                1 - y,
                literal(words[i]),
                ha="center",
                va="center",
                fontsize=SMALL,
                bbox=box,
                zorder=7,
                transform=place,
            )


def _many_bars(marks: Sequence[Mark]) -> bool:
    series = [m for m in marks if isinstance(m, Bars)]
    return len(series) > 1 or any(isinstance(s, str) for m in series for s in m.styles)


def dash_of(rule: Rule, marks: Sequence[Mark]) -> str:
    """Dashes tell rules apart that have a name; the others are axes and the like."""
    named = [m for m in marks if isinstance(m, Rule) and m.name]
    return next((LINES[i % len(LINES)] for i, m in enumerate(named) if m is rule), "-")


def key_of(mark: Mark, marks: Sequence[Mark]) -> Key | None:
    """The legend's entry for a mark; none for a mark that has no name by its kind."""
    match mark:
        case Line():
            dots = (mark.dots if mark.dots is not None else len(mark.x) <= DOTS) and not mark.fine
            return Key(mark.name, mark.style, "dotted" if dots else "line")
        case Points():
            return Key(mark.name, mark.style if mark.values is None else "muted", "ring" if mark.ring else "dot")
        case Bars() if len(set(mark.styles)) < 2:  # bars that look different have no one entry
            hatch = look(mark.style, _ANY).hatch if _many_bars(marks) else ""
            return Key(mark.name, mark.style, "patch", hatch)
        case Histogram():
            alone = sum(isinstance(m, Histogram) for m in marks) == 1
            return Key(
                mark.name, mark.style, "patch" if alone else "outline", None if alone else look(mark.style, _ANY).dash
            )
        case Area():
            return Key(mark.name, mark.style, "outline")
        case Arrows():
            return Key(mark.name, mark.style, "line")
        case Rule() if mark.name:
            return Key(mark.name, mark.style, "rule", dash_of(mark, marks))
    return None


_ANY = Theme("any", "#000000", "#ffffff", "#000000", "#000000")


def bar_places(marks: Sequence[Mark]) -> Places:
    """Where the bars of all series stand: side by side where they share positions, on each other where stacked."""
    made: dict[int, tuple[Array, Array, float]] = {}
    sided = [m for m in marks if isinstance(m, Bars) and m.width is None and not m.stacked]
    every = np.concatenate([np.zeros(0), *(np.unique(m.at) for m in sided)])
    apart = len(np.unique(every)) == len(every)  # no position has two
    count = 1 if apart else max(len(sided), 1)
    last: Bars | None = None
    tops: dict[float, float] = {}
    for mark in marks:
        if not isinstance(mark, Bars):
            continue
        foot = np.full(len(mark.at), float(mark.base))
        if mark.stacked and last is not None:
            thick, shift = made[id(last)][2], made[id(last)][0][:1] - last.at[:1] if len(last.at) else np.zeros(1)
            at = mark.at + (float(shift[0]) if len(shift) else 0.0)
            foot = np.array([tops.get(float(p), float(mark.base)) for p in mark.at])
        else:
            thick = mark.width if mark.width is not None else 0.8 / count
            place = 0 if apart or mark.width is not None else next(i for i, m in enumerate(sided) if m is mark)
            at = mark.at + (0.0 if mark.width is not None else (place - (count - 1) / 2) * thick)
            tops = {}
            last = mark
        made[id(mark)] = (at, foot, float(thick))
        rise = np.nan_to_num(mark.values - mark.base if mark.stacked else mark.values - foot)
        tops.update(zip(mark.at.tolist(), (foot + rise).tolist(), strict=True))
    return made
