"""A picture as data: panels made of marks, each with the arrays it shows. Two renderers draw it, both from this alone:
``workbench/marks`` in the page (hover, keyboard, both themes) and :mod:`workbench.views.painting` as a still picture.

A picture in ten lines::

    picture = Picture(
        Plane(
            Bars("student", at=range(10), values=q, style="student"),
            Bars("teacher", at=range(10), values=p, style="teacher"),
            Rule(0.5, "half"),
            x=Axis("class", names=class_names),
            y=Axis("probability", low=0, high=1),
        ),
    )
    View(title="Both answers", alt=words, table=frame, picture=picture)

``Picture.plain()`` is versioned JSON in which arrays are :class:`Packed`; names are data and never HTML.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from .drawing import as_array, check_names

#: Of the plain form; a page's module refuses another one.
VERSION = 1
#: Colours of marks beside the numbers 0 to 7 (:data:`workbench.views.theme.CATEGORICAL`).
STYLES = ("student", "teacher", "ink", "muted", "good", "bad")
SCHEMES = ("sequential", "diverging", "grey")
#: Longer arrays travel with 7 digits instead of 16.
_EXACT = 4096

Style = int | str


def _numbers(argument: str, value: Any, ndim: int | tuple[int, ...] = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Like ``as_array``; an empty one is allowed, as a mark of nothing draws nothing."""
    if hasattr(value, "__len__") and len(value) == 0:
        return np.zeros((0,) * (ndim if isinstance(ndim, int) else ndim[0]))
    return as_array(argument, list(value) if isinstance(value, range) else value, ndim=ndim)


def _fit(owner: str, **arrays: Any) -> None:
    """All arrays that are given must have the length of the first."""
    (first, leader), *others = arrays.items()
    for name, array in others:
        if array is not None and len(array) != len(leader):
            raise ValueError(f"{name} of {owner} must hold {len(leader)} entries like {first}, got {len(array)}.")


def check_style(argument: str, style: Style) -> None:
    """Raise ``ValueError`` unless a style is a whole number from 0 or a name in :data:`STYLES`."""
    named = isinstance(style, str) and style in STYLES
    if not named and (isinstance(style, bool) or not isinstance(style, int) or style < 0):
        raise ValueError(f"{argument} must be a number from 0 or one of {', '.join(STYLES)}, got {style!r}.")


@dataclass(frozen=True)
class Axis:
    """One axis of a :class:`Plane`.

    Attributes:
        label: what it measures, with the unit.
        names: of the positions 0, 1, ...: the axis is one of names; none: one of numbers.
        low, high: ends; from the data by default.
        log: logarithmic (numbers > 0).
        ticks: positions to name; round numbers by default.
        percent: values in [0, 1] are written as percents.
        strong: positions whose name is set in bold (the label's class).
        hidden: neither ticks nor names (positions mean nothing by themselves).
        down: values grow downwards (ranks).
    """

    label: str = ""
    names: Sequence[str] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    ticks: Sequence[float] = ()
    percent: bool = False
    strong: Sequence[int] = ()
    hidden: bool = False
    down: bool = False

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"an axis needs low < high, got {self.low!r} and {self.high!r}.")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError(f"a logarithmic axis needs low > 0, got {self.low!r}.")


@dataclass(frozen=True)
class Colours:
    """A colour scale.

    Attributes:
        low, high: its ends (``low < high``); values beyond get the end's colour.
        label: what the colours measure.
        scheme: ``"sequential"`` (cividis), ``"diverging"`` (purple to orange, a meaningful middle) or ``"grey"``.
    """

    low: float
    high: float
    label: str = ""
    scheme: str = "sequential"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}.")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"colours need finite low < high, got {self.low!r} and {self.high!r}.")


class Mark:
    """What a panel is made of; ``kind`` names it in the plain form."""

    kind: ClassVar[str]


class Panel:
    """A part of a picture with its own axes; ``kind`` names it in the plain form."""

    kind: ClassVar[str]


# Marks of a plane -----------------------------------------------------------------------------------------------------
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
        _arrays(self, "x", "y", "low", "high")
        _fit("a line", x=self.x, y=self.y, low=self.low, high=self.high)
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
        _arrays(self, "x", "y", "values")
        _arrays(self, "to", ndim=2)
        _fit(
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
        _arrays(self, "at", "values", "low", "high")
        _fit(
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
        _arrays(self, "edges", "heights")
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
        _arrays(self, "x", "y", "dx", "dy")
        _fit("arrows", x=self.x, y=self.y, dx=self.dx, dy=self.dy, notes=self.notes or None)
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
        _arrays(self, "x", "y")
        _fit("an area", x=self.x, y=self.y)
        check_style("style", self.style)


@dataclass(frozen=True)
class Field(Mark):
    """Values over a rectangle of the plane, coloured, with lines of equal value.

    Attributes:
        values: ``(R, C)``; row 0 lies at the lower end of ``y``.
        x, y: ``(first, last)`` centre of the cells along each axis.
        colours: the scale.
        levels: values whose lines are drawn.
    """

    kind: ClassVar[str] = "field"
    values: Any
    x: tuple[float, float]
    y: tuple[float, float]
    colours: Colours
    levels: Sequence[float] = ()

    def __post_init__(self) -> None:
        _arrays(self, "values", ndim=2)


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
        _arrays(self, "x", "y")
        _fit("texts", x=self.x, y=self.y, texts=self.texts)
        if self.anchor not in ("middle", "start", "end"):
            raise ValueError(f'anchor must be "middle", "start" or "end", got {self.anchor!r}.')


# Panels ---------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Plane(Panel):
    """Two axes and marks on them, the first at the bottom.

    Attributes:
        marks: in drawing order.
        x, y: axes.
        title: above the panel.
        equal: a unit is as long on both axes.
        colours: scale of points with values.
        height: of the drawing in pixels; by default by what it holds.
        square: as wide as high.
    """

    kind: ClassVar[str] = "plane"
    marks: tuple[Mark, ...]
    x: Axis
    y: Axis
    title: str
    equal: bool
    colours: Colours | None
    height: float | None

    def __init__(
        self,
        *marks: Mark,
        x: Axis | None = None,
        y: Axis | None = None,
        title: str = "",
        equal: bool = False,
        colours: Colours | None = None,
        height: float | None = None,
    ) -> None:
        for mark in marks:
            if not isinstance(mark, Mark):
                raise TypeError(f"a plane is made of marks, got {type(mark).__name__}.")
        if colours is None and any(isinstance(m, Points) and m.values is not None for m in marks):
            raise ValueError("points with values need the plane's colours.")
        values = (marks, x or Axis(), y or Axis(), title, equal, colours, height)
        for f, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, f.name, value)


@dataclass(frozen=True, kw_only=True)
class Heat(Panel):
    """A matrix of coloured cells with named rows and columns; cells that are NaN are left open.

    Attributes:
        values: ``(R, C)``; rows, columns: their names (numbers by default).
        colours: the scale.
        numbers: format of numbers written into the cells, such as ``".2f"``; none by default.
        framed: cells ``(row, column)`` to frame; crossed: cells marked as wrong.
        notes: ``R`` lists of ``C`` texts told beside the value.
        row_label, column_label: what rows and columns are.
        square: cells as high as wide.
        groups: starts of groups of rows and columns (lines between them), as ``(index, name)``; names replace those
            of the rows and columns.
    """

    kind: ClassVar[str] = "heat"
    values: Any
    colours: Colours
    rows: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    numbers: str = ""
    framed: Sequence[tuple[int, int]] = ()
    crossed: Sequence[tuple[int, int]] = ()
    notes: Sequence[Sequence[str]] = ()
    row_label: str = ""
    column_label: str = ""
    title: str = ""
    square: bool = False
    groups: Sequence[tuple[int, str]] = ()

    def __post_init__(self) -> None:
        _arrays(self, "values", ndim=2)
        r, c = self.values.shape
        object.__setattr__(self, "rows", check_names("rows", self.rows, r))
        object.__setattr__(self, "columns", check_names("columns", self.columns, c))
        if self.notes and [len(row) for row in self.notes] != [c] * r:
            raise ValueError(f"notes of a heat map must hold {r} rows of {c} texts.")
        for i, j in (*self.framed, *self.crossed):
            if not (0 <= i < r and 0 <= j < c):
                raise ValueError(f"a marked cell must lie within {r} x {c}, got {(i, j)}.")


@dataclass(frozen=True, kw_only=True)
class Images(Panel):
    """Images in a grid, captions below, each with a map over it where ``maps`` are given.

    Attributes:
        images: ``(N, H, W)`` or ``(N, H, W, 3)`` in [0, 1].
        captions: ``N`` texts; notes: what is told beside them on hover.
        framed: truth values, images to frame.
        maps: ``(N, h, w)`` values over the images, NaN where the image shows through; colours: their scale.
        opacity: of the maps; smooth: maps go from one value to the next.
        columns: images in a row; by their number otherwise.
        size: width of an image in pixels, at most.
    """

    kind: ClassVar[str] = "images"
    images: Any
    captions: Sequence[str] | None = None
    notes: Sequence[str] = ()
    framed: Sequence[bool] = ()
    maps: Any = None
    colours: Colours | None = None
    opacity: float = 0.6
    smooth: bool = False
    columns: int | None = None
    size: float = 120.0
    title: str = ""

    def __post_init__(self) -> None:
        array = _numbers("images", self.images, (3, 4))
        if array.ndim == 4 and array.shape[-1] != 3:
            raise ValueError(f"images must be (N, H, W) or (N, H, W, 3), got {array.shape}.")
        object.__setattr__(self, "images", np.round(np.clip(np.nan_to_num(array), 0, 1) * 255).astype(np.uint8))
        object.__setattr__(self, "captions", check_names("captions", self.captions, len(array)))
        _arrays(self, "maps", ndim=3)
        _fit("images", images=array, maps=self.maps, notes=self.notes or None, framed=self.framed or None)
        if self.maps is not None and self.colours is None:
            raise ValueError("maps over images need colours.")


@dataclass(frozen=True, kw_only=True)
class Ribbons(Panel):
    """Two orders of the same items, joined by ribbons.

    Attributes:
        names: of the items.
        left, right: position (0 first) of every item in each order.
        left_title, right_title: what the orders are.
        left_notes, right_notes: written beside the names (a score).
        strong: items in bold (the label).
        values: width of each ribbon, relative; equal by default.
    """

    kind: ClassVar[str] = "ribbons"
    names: Sequence[str]
    left: Any
    right: Any
    left_title: str = "left"
    right_title: str = "right"
    left_notes: Sequence[str] = ()
    right_notes: Sequence[str] = ()
    strong: Sequence[int] = ()
    title: str = ""

    def __post_init__(self) -> None:
        _arrays(self, "left", "right")
        _fit(
            "ribbons",
            names=self.names,
            left=self.left,
            right=self.right,
            left_notes=self.left_notes or None,
            right_notes=self.right_notes or None,
        )
        for side in ("left", "right"):
            if sorted(getattr(self, side).tolist()) != list(range(len(self.names))):
                raise ValueError(f"{side} must hold every position from 0 to {len(self.names) - 1} once.")


@dataclass(frozen=True, kw_only=True)
class Simplex(Panel):
    """Probabilities of three classes as points of a triangle.

    Attributes:
        corners: names of the three classes.
        points: name -> ``(3,)`` or ``(K, 3)`` (a path), non-negative with sum 1.
        styles: name -> style, in the order of the points by default.
        arrows: name of a point -> ``(3,)`` direction (sum 0) drawn at it.
    """

    kind: ClassVar[str] = "simplex"
    corners: Sequence[str]
    points: Mapping[str, Any]
    styles: Mapping[str, Style] = field(default_factory=dict)
    arrows: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    def __post_init__(self) -> None:
        check_names("corners", self.corners, 3)
        made = {n: np.atleast_2d(_numbers(f"points[{n!r}]", p, (1, 2))) for n, p in self.points.items()}
        for n, p in made.items():
            if p.shape[1] != 3 or (p < -1e-6).any() or not np.allclose(p.sum(1), 1, atol=1e-4):
                raise ValueError(f"points[{n!r}] must be probabilities of three classes, got shape {p.shape}.")
        object.__setattr__(self, "points", made)
        object.__setattr__(self, "arrows", {n: _numbers(f"arrows[{n!r}]", a, 1) for n, a in self.arrows.items()})
        styles: dict[str, Style] = {n: i for i, n in enumerate(made)}
        object.__setattr__(self, "styles", styles | dict(self.styles))


@dataclass(frozen=True, kw_only=True)
class Tokens(Panel):
    """Rows of text tokens, each on a colour that says its value; long rows are wrapped.

    Attributes:
        tokens: ``R`` rows of texts; values: ``R`` rows of numbers, NaN where there is none.
        rows: names of the rows; notes: ``R`` rows of texts told on hover.
    """

    kind: ClassVar[str] = "tokens"
    tokens: Sequence[Sequence[str]]
    values: Sequence[Any]
    colours: Colours
    rows: Sequence[str] | None = None
    notes: Sequence[Sequence[str]] = ()
    title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", check_names("rows", self.rows, len(self.tokens)))
        made = [_numbers(f"values[{r}]", v) for r, v in enumerate(self.values)]
        object.__setattr__(self, "values", made)
        _fit("tokens", tokens=self.tokens, values=made, notes=self.notes or None)
        for r, (texts, numbers) in enumerate(zip(self.tokens, made, strict=True)):
            _fit(f"row {r}", tokens=texts, values=numbers, notes=self.notes[r] if self.notes else None)


@dataclass(frozen=True, kw_only=True)
class Graph(Panel):
    """Nodes and edges at given places.

    Attributes:
        positions: ``(N, 2)``, any unit, equal on both axes; edges: ``(2, E)`` indices.
        names: of the nodes; empty: numbers that are told on hover only.
        styles: one per node; values with ``colours`` instead, NaN (a ring) where there is none.
        widths: of edges in pixels; directed: arrowheads.
        strong: nodes with a strong edge and a bold name.
        notes: what is told of a node on hover.
        legend: style -> name of a group.
    """

    kind: ClassVar[str] = "graph"
    positions: Any
    edges: Any
    names: Sequence[str] = ()
    styles: Sequence[Style] = ()
    values: Any = None
    colours: Colours | None = None
    widths: Any = None
    directed: bool = False
    strong: Sequence[bool] = ()
    notes: Sequence[str] = ()
    legend: Mapping[str, Style] = field(default_factory=dict)
    title: str = ""

    def __post_init__(self) -> None:
        _arrays(self, "positions", ndim=2)
        object.__setattr__(self, "edges", np.asarray(self.edges, dtype=np.int32).reshape(2, -1))
        _arrays(self, "values", "widths")
        _fit(
            "a graph",
            positions=self.positions,
            names=self.names or None,
            styles=self.styles or None,
            values=self.values,
            strong=self.strong or None,
            notes=self.notes or None,
        )
        if self.edges.size and not (self.edges.min() >= 0 and self.edges.max() < len(self.positions)):
            raise ValueError(f"edges must name nodes below {len(self.positions)}.")
        if self.values is not None and self.colours is None:
            raise ValueError("a graph with values needs colours.")


@dataclass(frozen=True, kw_only=True)
class Table(Panel):
    """Rows and columns to sort and point at.

    Attributes:
        columns: heading -> cells; numbers are written with four digits and sort as numbers.
        bars: headings of columns of numbers in [0, 1] whose cells carry a bar.
    """

    kind: ClassVar[str] = "table"
    columns: Mapping[str, Sequence[Any]]
    bars: Sequence[str] = ()
    title: str = ""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("a table needs at least one column.")
        _fit("a table", **{str(k): v for k, v in self.columns.items()})


# The whole ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Picture:
    """Panels of one picture.

    Attributes:
        panels: in reading order.
        columns: panels in a row; all of them by default, up to three.
        widths: relative widths of the columns.
    """

    panels: tuple[Panel, ...]
    columns: int
    widths: tuple[float, ...]

    def __init__(self, *panels: Panel, columns: int | None = None, widths: Sequence[float] = ()) -> None:
        if not panels:
            raise ValueError("a picture needs at least one panel.")
        for panel in panels:
            if not isinstance(panel, Panel):
                raise TypeError(f"a picture is made of panels, got {type(panel).__name__}.")
        n = columns if columns is not None else min(3, len(panels))
        if n < 1 or (widths and len(widths) != n):
            raise ValueError(f"columns must be at least 1 and widths one each, got {n!r} and {list(widths)!r}.")
        object.__setattr__(self, "panels", panels)
        object.__setattr__(self, "columns", n)
        object.__setattr__(self, "widths", tuple(widths) or (1.0,) * n)

    def plain(self) -> dict[str, Any]:
        """JSON values and :class:`Packed` arrays, with the version of the form."""
        return {"version": VERSION, **_plain(self)}

    def json(self) -> dict[str, Any]:
        """The plain form with arrays as base64: JSON alone."""
        return _unpacked(self.plain())


class Packed(dict[str, Any]):
    """An array in the plain form: ``shape``, ``dtype`` and ``data`` (little-endian bytes)."""


def packed(array: np.ndarray[Any, Any]) -> Packed:
    """An array as little-endian bytes: bytes and whole numbers as they are, others with 16 digits up to 4,096 entries
    and with 7 beyond."""
    if array.dtype == np.uint8:
        kept = array
    elif np.issubdtype(array.dtype, np.integer):
        kept = array.astype("<i4")
    else:
        kept = array.astype("<f8" if array.size <= _EXACT else "<f4")
    return Packed(shape=list(kept.shape), dtype=str(kept.dtype), data=np.ascontiguousarray(kept).tobytes())


def _arrays(owner: Any, *names: str, ndim: int = 1) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None:
            object.__setattr__(owner, name, _numbers(name, value, ndim))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return packed(value)
    if isinstance(value, Mark | Panel | Picture | Axis | Colours):
        kind = {"kind": value.kind} if isinstance(value, Mark | Panel) else {}
        return kind | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, Iterable):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | bool) else str(value)


def _unpacked(value: Any) -> Any:
    if isinstance(value, Packed):
        return {**value, "data": base64.b64encode(value["data"]).decode()}
    if isinstance(value, dict):
        return {k: _unpacked(v) for k, v in value.items()}
    return [_unpacked(v) for v in value] if isinstance(value, list) else value


__all__ = [
    "Area",
    "Arrows",
    "Axis",
    "Bars",
    "Colours",
    "Field",
    "Graph",
    "Heat",
    "Histogram",
    "Images",
    "Line",
    "Picture",
    "Plane",
    "Points",
    "Ribbons",
    "Rule",
    "Simplex",
    "Span",
    "Table",
    "Texts",
    "Tokens",
]
