"""What a plane is made of: lines, points, bars, histograms, fields, and what is drawn across it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ._picture_base import Colours, Mark, Style, as_arrays, check_style, fit_together


@dataclass(frozen=True)
class Line(Mark):
    """Points joined by a line, with a band between ``low`` and ``high`` where those are given; NaN breaks the line.

    Attributes:
        name: in the legend; ``""`` has no entry.
        style: number (colour, dash and marker) or name.
        dots: draw a marker at every point (by default where there are at most 30).
        fine: thin and without markers (one of many, a trace behind others).
    """

    kind: ClassVar[str] = "line"
    name: str
    x: Any
    y: Any
    low: Any = None
    high: Any = None
    style: Style = 0
    dots: bool | None = None
    fine: bool = False

    def __post_init__(self) -> None:
        as_arrays(self, "x", "y", "low", "high")
        fit_together("a line", x=self.x, y=self.y, low=self.low, high=self.high)
        check_style("style", self.style)


@dataclass(frozen=True)
class Points(Mark):
    """Dots, each with a note on hover; ``to`` joins each to a second point (pairs).

    Attributes:
        notes: what the reader is told beside the coordinates, one text each.
        values: colours on the plane's scale instead of ``style``.
        to: ``(N, 2)`` other ends of the lines.
        size: diameter in pixels.
        texts: written beside the dots where there is room.
        ring: drawn as rings (chosen, expected), filled otherwise.
    """

    kind: ClassVar[str] = "points"
    name: str
    x: Any
    y: Any
    style: Style = 0
    notes: Sequence[str] = ()
    values: Any = None
    to: Any = None
    size: float = 7.0
    texts: Sequence[str] = ()
    ring: bool = False

    def __post_init__(self) -> None:
        as_arrays(self, "x", "y", "values")
        as_arrays(self, "to", ndim=2)
        fit_together(
            "points",
            x=self.x,
            y=self.y,
            values=self.values,
            to=self.to,
            notes=self.notes or None,
            texts=self.texts or None,
        )
        check_style("style", self.style)


@dataclass(frozen=True)
class Bars(Mark):
    """Bars from ``base`` to ``values``; series that share positions stand side by side.

    Attributes:
        at: positions along the axis of names (or numbers, with ``width``).
        low, high: ends of intervals.
        styles: one style per bar instead of ``style``.
        width: of a bar, in units of the axis; by default the share of a position that its series gets.
        notes: what the reader is told beside the value.
        strong: a strong edge, one truth value per bar.
        lying: from left to right; positions are on the y axis then.
        stacked: on top of the series before it, at the same position.
    """

    kind: ClassVar[str] = "bars"
    name: str
    at: Any
    values: Any
    base: float = 0.0
    low: Any = None
    high: Any = None
    style: Style = 0
    styles: Sequence[Style] = ()
    width: float | None = None
    notes: Sequence[str] = ()
    strong: Sequence[bool] = ()
    lying: bool = False
    stacked: bool = False

    def __post_init__(self) -> None:
        as_arrays(self, "at", "values", "low", "high")
        fit_together(
            "bars",
            at=self.at,
            values=self.values,
            low=self.low,
            high=self.high,
            styles=self.styles or None,
            notes=self.notes or None,
            strong=self.strong or None,
        )
        for style in (self.style, *self.styles):
            check_style("style", style)


@dataclass(frozen=True)
class Histogram(Mark):
    """Heights over the bins between ``edges`` (one more than heights)."""

    kind: ClassVar[str] = "histogram"
    name: str
    edges: Any
    heights: Any
    style: Style = 0
    mean: float | None = None

    def __post_init__(self) -> None:
        as_arrays(self, "edges", "heights")
        if len(self.edges) != len(self.heights) + 1:
            raise ValueError(
                f"edges of a histogram must hold {len(self.heights) + 1} numbers, one more than heights, "
                f"got {len(self.edges)}."
            )
        check_style("style", self.style)


@dataclass(frozen=True)
class Rule(Mark):
    """A line across the plane at a value of the y axis (``axis="x"``: of the x axis), or from corner to corner where
    both coordinates are equal (``axis="both"``)."""

    kind: ClassVar[str] = "rule"
    value: float
    name: str = ""
    axis: str = "y"
    style: Style = "ink"

    def __post_init__(self) -> None:
        if self.axis not in ("x", "y", "both"):
            raise ValueError(f'axis must be "x", "y" or "both", got {self.axis!r}.')
        check_style("style", self.style)


@dataclass(frozen=True)
class Span(Mark):
    """A shaded range of one axis, with its name written inside."""

    kind: ClassVar[str] = "span"
    low: float
    high: float
    name: str = ""
    axis: str = "x"
    style: Style = "muted"

    def __post_init__(self) -> None:
        if self.axis not in ("x", "y") or not self.low < self.high:
            raise ValueError(
                f'a span needs axis "x" or "y" and low < high, got {self.axis!r}, {self.low!r}, {self.high!r}.'
            )
        check_style("style", self.style)


@dataclass(frozen=True)
class Arrows(Mark):
    """Arrows from ``(x, y)`` to ``(x + dx, y + dy)``; ``head=False``: plain segments."""

    kind: ClassVar[str] = "arrows"
    name: str
    x: Any
    y: Any
    dx: Any
    dy: Any
    style: Style = "ink"
    head: bool = True
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        as_arrays(self, "x", "y", "dx", "dy")
        fit_together("arrows", x=self.x, y=self.y, dx=self.dx, dy=self.dy, notes=self.notes or None)
        check_style("style", self.style)


@dataclass(frozen=True)
class Area(Mark):
    """A filled polygon."""

    kind: ClassVar[str] = "area"
    name: str
    x: Any
    y: Any
    style: Style = 0
    opacity: float = 0.2

    def __post_init__(self) -> None:
        as_arrays(self, "x", "y")
        fit_together("an area", x=self.x, y=self.y)
        check_style("style", self.style)


@dataclass(frozen=True)
class Field(Mark):
    """Values over a rectangle of the plane, coloured, with lines of equal value.

    Attributes:
        values: ``(R, C)``; row 0 lies at the lower end of ``y``.
        x, y: ``(first, last)`` centre of the cells along each axis.
        colours: the scale.
        levels: values whose lines are drawn.
        cells: draw cells with edges; by default colours go from one value to the next.
    """

    kind: ClassVar[str] = "field"
    values: Any
    x: tuple[float, float]
    y: tuple[float, float]
    colours: Colours
    levels: Sequence[float] = ()
    cells: bool = False

    def __post_init__(self) -> None:
        as_arrays(self, "values", ndim=2)


@dataclass(frozen=True)
class Texts(Mark):
    """Words at points of the plane (``anchor``: ``"middle"``, ``"start"``, ``"end"``)."""

    kind: ClassVar[str] = "texts"
    x: Any
    y: Any
    texts: Sequence[str]
    anchor: str = "middle"
    style: Style = "ink"

    def __post_init__(self) -> None:
        as_arrays(self, "x", "y")
        fit_together("texts", x=self.x, y=self.y, texts=self.texts)
        if self.anchor not in ("middle", "start", "end"):
            raise ValueError(f'anchor must be "middle", "start" or "end", got {self.anchor!r}.')
