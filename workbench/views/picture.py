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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._picture_base import STYLES as STYLES
from ._picture_base import VERSION as VERSION
from ._picture_base import Axis, Colours, plain, unpacked
from ._picture_base import Mark as Mark
from ._picture_base import Packed as Packed
from ._picture_base import Panel as Panel
from ._picture_base import Style as Style
from ._picture_base import packed as packed
from ._picture_marks import Area, Arrows, Bars, Field, Histogram, Line, Points, Rule, Span, Texts
from ._picture_panels import Blank, Graph, Heat, Images, Plane, Ribbons, Simplex, Table, Tokens


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
        return {"version": VERSION, **plain(self)}

    def json(self) -> dict[str, Any]:
        """The plain form with arrays as base64: JSON alone."""
        return unpacked(self.plain())


__all__ = [
    "Area",
    "Arrows",
    "Axis",
    "Bars",
    "Blank",
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
