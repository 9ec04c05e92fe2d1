"""Still pictures from data: :func:`paint` draws a :class:`~workbench.views.picture.Picture` with matplotlib.

Every part says first how much room it takes around its drawing; then the drawings of a column get the same left edge,
those of a row the same upper edge, and nothing has to be laid out by trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .drawing import WIDTH
from .mosaic import Box
from .painting_cells import HeatPart, ImagesPart, TokensPart
from .painting_panels import GraphPart, RibbonsPart, SimplexPart, TablePart
from .painting_plane import PlanePart
from .painting_sheet import BAR, TITLE, TITLES, Key, Legend, Part, Sheet, colour_bar
from .picture import Blank, Colours, Graph, Heat, Images, Panel, Picture, Plane, Ribbons, Simplex, Table, Tokens
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
#: Inches between columns and between rows, about the whole, and least height beside a colour bar.
_GAP, _ROW, _EDGE, _LEAST = 0.3, 0.22, 0.08, 1.3


@dataclass(frozen=True)
class _Row:
    """Parts side by side: their titles, what each needs above, for and below its drawing, where titles end and drawings
    begin."""

    parts: list[Part]
    titles: list[str]
    needs: list[tuple[float, float, float]]
    head: float
    down: float

    def tall(self, c: int) -> float:
        """Of one drawing: what it needs, or as high as its neighbours, within reason."""
        own, most = self.needs[c][1], max(tall for _, tall, _ in self.needs)
        return max(own, min(most, 1.5 * own)) if self.parts[c].stretches else own

    def end(self) -> float:
        """Where the row ends."""
        least = _LEAST if any(p.colours for p in self.parts) else 0.0
        return self.down + max(least, *(self.tall(c) + below for c, (_, _, below) in enumerate(self.needs)))

    def coloured(self) -> float:
        """Height of the drawings that have a scale of colours."""
        return max((self.tall(c) for c, p in enumerate(self.parts) if p.colours), default=0.0)


def paint(picture: Picture, theme: Theme) -> Figure:
    """A picture as a figure, at most :data:`workbench.views.drawing.WIDTH` inches wide (no pyplot, for any thread).

    Args:
        picture: panels and what they are made of.
        theme: ink and paper; the caller has set ``theme.rc()``, as :meth:`workbench.views.base.View.figure` does.
    """
    parts = [_PARTS[type(p)](p) for p in picture.panels]  # type: ignore[call-arg]
    grid = [parts[i : i + picture.columns] for i in range(0, len(parts), picture.columns)]
    shared = _shared(grid)
    barred = [[not shared and _has_bar(row, c) for c in range(len(row))] for row in grid]
    bars = [BAR if any(b[c] for b in barred if c < len(b)) else 0.0 for c in range(picture.columns)]
    columns = _columns(picture, grid, bars, WIDTH - 2 * _EDGE - (BAR if shared else 0.0))
    for parts_of_row in grid:
        for part, wide in zip(parts_of_row, columns, strict=False):
            part.width = wide
    sides = [[r[c].sides(w) for r in grid if c < len(r)] for c, w in enumerate(columns)]
    lefts, rights = ([max(s[k] for s in some) for some in sides] for k in (0, 1))
    inner = [w - a - b for w, a, b in zip(columns, lefts, rights, strict=True)]
    starts = [_EDGE + sum(columns[:c]) + sum(bars[:c]) + c * _GAP for c in range(len(columns))]
    width = starts[-1] + columns[-1] + bars[len(columns) - 1] + (BAR if shared else 0.0) + _EDGE
    legend = Legend(_keys(parts), width - 2 * _EDGE)
    rows: list[_Row] = []
    for parts_of_row in grid:
        top = rows[-1].end() + _ROW if rows else _EDGE + legend.height
        rows.append(_row(parts_of_row, inner, rights, top))
    page = Sheet(width, rows[-1].end() + _EDGE, theme)
    legend.draw(page, _EDGE, _EDGE)
    for row, bar in zip(rows, barred, strict=True):
        for c, part in enumerate(row.parts):
            page.text(starts[c] + lefts[c], row.head, row.titles[c], size=TITLES, va="bottom")
            part.draw(page, (starts[c] + lefts[c], row.down, inner[c], row.tall(c)))
            if bar[c] and part.colours:
                colour_bar(page, part.colours, starts[c] + columns[c] + 0.12, row.down, row.tall(c))
    if shared:
        first = next(row for row in rows if row.coloured())
        colour_bar(page, shared, width - _EDGE - BAR + 0.12, first.down, max(first.coloured(), _LEAST))
    page.finish()
    return page.figure


def _row(parts: list[Part], inner: list[float], rights: list[float], top: float) -> _Row:
    """A row of parts below ``top``; titles end at one height, drawings begin at one."""
    needs = [p.tall(w) for p, w in zip(parts, inner, strict=False)]
    rooms = [w + r for w, r in zip(inner, rights, strict=True)]
    titles = [wrapped(p.title, room, TITLES) if p.title else "" for p, room in zip(parts, rooms, strict=False)]
    head = max(TITLE * (1 + t.count("\n")) + 0.04 if t else 0.0 for t in titles)
    above = max(a for a, _, _ in needs)
    return _Row(parts, titles, needs, top + head - 0.04, top + head + above)


def _shared(grid: list[list[Part]]) -> Colours | None:
    """The scale of all parts, if there is one for all, and each row ends with it; its bar stands at the right edge."""
    scales = list(dict.fromkeys(p.colours for row in grid for p in row if p.colours))
    last = all(row[-1].colours or not any(p.colours for p in row) for row in grid)
    return scales[0] if len(scales) == 1 and last else None


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
