"""The parts of a picture: planes, heat maps, images, ribbons, triangles, tokens, graphs, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from ._picture_base import Axis, Colours, Mark, Panel, Style, as_arrays, fit_together, numbers
from ._picture_marks import Points
from .drawing import check_names


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
        framed, dotted, crossed: cells ``(row, column)`` with a frame, a dot (right) or a cross (wrong).
        meanings: what frames, dots and crosses mean (``{"framed": "best in row"}``), for the legend.
        texts: ``R`` lists of ``C`` texts written into the cells in place of numbers.
        notes: ``R`` lists of ``C`` texts told beside the value.
        row_label, column_label: what rows and columns are.
        square: cells as high as wide.
        groups: starts of groups of rows and columns (lines between them), as ``(index, name)``; names replace those
            of the rows and columns.
        unnamed: rows and columns are named on hover only (small multiples).
    """

    kind: ClassVar[str] = "heat"
    values: Any
    colours: Colours
    rows: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    numbers: str = ""
    texts: Sequence[Sequence[str]] = ()
    framed: Sequence[tuple[int, int]] = ()
    dotted: Sequence[tuple[int, int]] = ()
    crossed: Sequence[tuple[int, int]] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[Sequence[str]] = ()
    row_label: str = ""
    column_label: str = ""
    title: str = ""
    square: bool = False
    groups: Sequence[tuple[int, str]] = ()
    unnamed: bool = False

    def __post_init__(self) -> None:
        as_arrays(self, "values", ndim=2)
        r, c = self.values.shape
        object.__setattr__(self, "rows", check_names("rows", self.rows, r))
        object.__setattr__(self, "columns", check_names("columns", self.columns, c))
        for name in ("texts", "notes"):
            if getattr(self, name) and [len(row) for row in getattr(self, name)] != [c] * r:
                raise ValueError(f"{name} of a heat map must hold {r} rows of {c} texts.")
        for i, j in (*self.framed, *self.dotted, *self.crossed):
            if not (0 <= i < r and 0 <= j < c):
                raise ValueError(f"a marked cell must lie within {r} x {c}, got {(i, j)}.")


@dataclass(frozen=True, kw_only=True)
class Images(Panel):
    """Images in a grid, captions below, each with a map over it where ``maps`` are given.

    Attributes:
        images: ``(N, H, W)``, ``(N, H, W, 1)`` or ``(N, H, W, 3)`` in [0, 1].
        captions: ``N`` texts; notes: what is told beside them on hover.
        framed: truth values, images to frame.
        maps: ``(N, h, w)`` values over the images, NaN where the image shows through; colours: their scale.
        opacity: of the maps; smooth: maps go from one value to the next.
        boxes: name -> ``(N, 4)`` corners x0, y0, x1, y1 as shares of the image, NaN for none; the first kind is drawn
            as true (solid), the others as found (dashed).
        columns: images in a row; by their number otherwise. rows: names of the rows of images, at the left.
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
    boxes: Mapping[str, Any] = field(default_factory=dict)
    columns: int | None = None
    rows: Sequence[str] = ()
    size: float = 120.0
    title: str = ""

    def __post_init__(self) -> None:
        array = numbers("images", self.images, (3, 4))
        if array.ndim == 4 and array.shape[-1] not in (1, 3):
            raise ValueError(f"images must be (N, H, W), (N, H, W, 1) or (N, H, W, 3), got {array.shape}.")
        array = array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array
        object.__setattr__(self, "images", np.round(np.clip(np.nan_to_num(array), 0, 1) * 255).astype(np.uint8))
        object.__setattr__(self, "captions", check_names("captions", self.captions, len(array)))
        as_arrays(self, "maps", ndim=3)
        boxes = {n: numbers(f"boxes[{n!r}]", b, 2) for n, b in self.boxes.items()}
        object.__setattr__(self, "boxes", boxes)
        for n, b in boxes.items():
            if b.shape != (len(array), 4):
                raise ValueError(f"boxes[{n!r}] must be ({len(array)}, 4), one for each image, got {b.shape}.")
        fit_together("images", images=array, maps=self.maps, notes=self.notes or None, framed=self.framed or None)
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
        as_arrays(self, "left", "right")
        fit_together(
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
        made = {n: np.atleast_2d(numbers(f"points[{n!r}]", p, (1, 2))) for n, p in self.points.items()}
        for n, p in made.items():
            if p.shape[1] != 3 or (p < -1e-6).any() or not np.allclose(p.sum(1), 1, atol=1e-4):
                raise ValueError(f"points[{n!r}] must be probabilities of three classes, got shape {p.shape}.")
        object.__setattr__(self, "points", made)
        object.__setattr__(self, "arrows", {n: numbers(f"arrows[{n!r}]", a, 1) for n, a in self.arrows.items()})
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
        made = [numbers(f"values[{r}]", v) for r, v in enumerate(self.values)]
        object.__setattr__(self, "values", made)
        fit_together("tokens", tokens=self.tokens, values=made, notes=self.notes or None)
        for r, (texts, row) in enumerate(zip(self.tokens, made, strict=True)):
            fit_together(f"row {r}", tokens=texts, values=row, notes=self.notes[r] if self.notes else None)


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
        as_arrays(self, "positions", ndim=2)
        object.__setattr__(self, "edges", np.asarray(self.edges, dtype=np.int32).reshape(2, -1))
        as_arrays(self, "values", "widths")
        fit_together(
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
        fit_together("a table", **{str(k): v for k, v in self.columns.items()})


@dataclass(frozen=True)
class Blank(Panel):
    """A place of the grid that stays empty."""

    kind: ClassVar[str] = "blank"
    title: str = ""
