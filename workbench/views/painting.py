"""Still pictures from data: :func:`paint` draws a :class:`~workbench.views.picture.Picture` with matplotlib.

Every part says first how much room it takes around its drawing; then the drawings of a column get the same left edge,
those of a row the same upper edge, and nothing has to be laid out by trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .drawing import WIDTH
from .mosaic import Box
from .painting_cells import HeatPart, ImagesPart, TokensPart
from .painting_panels import GraphPart, RibbonsPart, SimplexPart, TablePart
from .painting_plane import PlanePart
from .painting_sheet import BAR, TITLE, TITLES, Key, Legend, Part, Sheet, colour_bar
from .picture import Blank, Graph, Heat, Images, Panel, Picture, Plane, Ribbons, Simplex, Table, Tokens
from .theme import Theme
from .words import wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _BlankPart(Part):
    """A place that stays empty."""

    def __init__(self, blank: Blank) -> None:
        self.title = ""

    def prefers(self, width: float) -> float:
        return 0.0

    def tall(self, inner: float) -> tuple[float, float, float]:
        return 0.0, 0.0, 0.0

    def draw(self, sheet: Sheet, box: Box) -> None:
        """Nothing."""


_PARTS: dict[type[Panel], type[Part]] = {
    Plane: PlanePart,
    Heat: HeatPart,
    Images: ImagesPart,
    Ribbons: RibbonsPart,
    Simplex: SimplexPart,
    Tokens: TokensPart,
    Graph: GraphPart,
    Table: TablePart,
    Blank: _BlankPart,
}
#: Inches between columns and between rows, and about the whole.
_GAP, _ROW, _EDGE = 0.3, 0.22, 0.08


def paint(picture: Picture, theme: Theme) -> Figure:
    """A picture as a figure, at most :data:`workbench.views.drawing.WIDTH` inches wide (no pyplot, for any thread).

    Args:
        picture: panels and what they are made of.
        theme: ink and paper; the caller has set ``theme.rc()``, as :meth:`workbench.views.base.View.figure` does.
    """
    parts = [_PARTS[type(p)](p) for p in picture.panels]  # type: ignore[call-arg]
    rows = [parts[i : i + picture.columns] for i in range(0, len(parts), picture.columns)]
    scales = list(dict.fromkeys(p.colours for p in parts if p.colours))
    shared = (
        scales[0] if len(scales) == 1 and all(r[-1].colours or not any(p.colours for p in r) for r in rows) else None
    )
    barred = [[_has_bar(row, c) and not shared for c in range(len(row))] for row in rows]
    bars = [BAR if any(b[c] for b in barred if c < len(b)) else 0.0 for c in range(picture.columns)]
    columns = _columns(picture, rows, bars, WIDTH - 2 * _EDGE - (BAR if shared else 0.0))
    for row in rows:
        for part, wide in zip(row, columns, strict=False):
            part.width = wide
    lefts, rights = (
        [max(r[c].sides(w)[side] for r in rows if c < len(r)) for c, w in enumerate(columns)] for side in (0, 1)
    )
    inner = [w - a - b for w, a, b in zip(columns, lefts, rights, strict=True)]
    starts = [_EDGE + sum(columns[:c]) + sum(bars[:c]) + c * _GAP for c in range(len(columns))]
    width = starts[-1] + columns[-1] + bars[len(columns) - 1] + (BAR if shared else 0.0) + _EDGE
    legend = Legend(_keys(parts), width - 2 * _EDGE)
    top = _EDGE + legend.height
    tops = []
    for row in rows:
        needs = [p.tall(w) for p, w in zip(row, inner, strict=False)]
        titles = [
            wrapped(p.title, w + rights[c], TITLES) if p.title else ""
            for c, (p, w) in enumerate(zip(row, inner, strict=False))
        ]
        head = max(TITLE * (1 + t.count("\n")) + 0.04 if t else 0.0 for t in titles)
        above, tall, below = (max(n[k] for n in needs) for k in range(3))
        tops.append((top, head, above, tall, needs, titles))
        top += head + above + max(tall + below, *(n[1] + n[2] for n in needs), 1.3 if scales else 0.0) + _ROW
    page = Sheet(width, top - _ROW + _EDGE, theme)
    legend.draw(page, _EDGE, _EDGE)
    for row, (y, head, above, tall, needs, titles), bar in zip(rows, tops, barred, strict=True):
        for c, part in enumerate(row):
            x, down = starts[c] + lefts[c], y + head + above
            page.text(x, y + head - 0.04, titles[c], size=TITLES, va="bottom")
            own = max(needs[c][1], min(tall, 1.5 * needs[c][1])) if part.stretches else needs[c][1]
            part.draw(page, (x, down, inner[c], own))
            if bar[c] and part.colours:
                colour_bar(page, part.colours, starts[c] + columns[c] + 0.12, down, own)
    if shared:
        y, head, above, tall, *_ = next(t for t, row in zip(tops, rows, strict=True) if any(p.colours for p in row))
        colour_bar(page, shared, width - _EDGE - BAR + 0.12, y + head + above, tall)
    page.finish()
    return page.figure


def _has_bar(row: list[Part], c: int) -> bool:
    """Whether a colour bar stands right of a part: the last one of its row with these colours."""
    colours = row[c].colours
    return colours is not None and all(p.colours != colours for p in row[c + 1 :])


def _columns(picture: Picture, rows: list[list[Part]], bars: list[float], room: float) -> list[float]:
    """Widths of the columns: their shares, less where no part has use for it."""
    count = min(picture.columns, max(map(len, rows)))
    free = room - _GAP * (count - 1) - sum(bars[:count])
    total = sum(picture.widths[:count])
    shares = [free * w / total for w in picture.widths[:count]]
    return [min(w, max(r[c].prefers(w) for r in rows if c < len(r))) for c, w in enumerate(shares)]


def _keys(parts: list[Part]) -> list[Key]:
    """Entries of the legend for all parts; none where the only name says no more than the title does."""
    keys = list(dict.fromkeys(k for p in parts for k in p.entries()))
    lone = len(keys) == 1 and keys[0].shape != "rule" and not any(p.crowded for p in parts)
    return [] if lone else keys


__all__ = ["paint"]
