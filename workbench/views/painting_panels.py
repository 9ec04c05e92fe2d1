"""How panels without axes are painted: two orders joined by ribbons, the triangle of three probabilities, graphs
and tables. All are drawn in inches on the sheet itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .drawing import Array
from .graph_layout import fit_into, name_places
from .mosaic import FRAME, Box
from .painting_sheet import KEYS, NAMES, Key, Part, Sheet, look, shades
from .picture import Graph, Ribbons, Simplex, Style, Table
from .theme import number
from .words import BOLD, LINE, counted, drawable, fitted, text_width

#: Rows of a table that are drawn at most.
_MOST_ROWS = 40
#: Style and dash of a ribbon, and what it tells, by whether its item stands higher, as high, or lower on the right.
_COURSES: dict[int, tuple[Style, str, str]] = {
    0: ("good", "-", "same place"),
    -1: (0, "--", "higher"),
    1: ("bad", "-.", "lower"),
}


class RibbonsPart(Part):
    """Two orders of the same items."""

    def __init__(self, ribbons: Ribbons) -> None:
        self.ribbons, self.title = ribbons, ribbons.title

    def entries(self) -> list[Key]:
        moved = set(np.sign(self.ribbons.right - self.ribbons.left).astype(int).tolist())
        there = self.ribbons.right_title
        where = "on the right" if there == "right" else f"in {there}"
        told = {k: (f"{words} {where}" if k else words, style, dash) for k, (style, dash, words) in _COURSES.items()}
        return [Key(words, style, "rule", dash) for k, (words, style, dash) in told.items() if k in moved]

    def prefers(self, width: float) -> float:
        return min(width, 2 * self._room(width) + 3.0)

    def _room(self, width: float) -> float:
        """Inches for the names of one side, with what stands beside them."""
        words = [self._words(i, side, 9.0) for i in range(len(self.ribbons.names)) for side in ("left", "right")]
        return 0.12 + min(0.34 * width, max((text_width(w, NAMES) for w in words), default=0.5) * BOLD)

    def _words(self, i: int, side: str, room: float) -> str:
        notes = self.ribbons.left_notes if side == "left" else self.ribbons.right_notes
        note = fitted(str(notes[i]), room / 2, NAMES) if notes else ""
        name = fitted(self.ribbons.names[i], room - (text_width(f"{note}  ", NAMES) if note else 0), NAMES)
        return name if not note else f"{name}  {note}" if side == "left" else f"{note}  {name}"

    def tall(self, inner: float) -> tuple[float, float, float]:
        return 0.26, min(6.6, max(0.3, len(self.ribbons.names) * 0.24)), 0.05

    def draw(self, sheet: Sheet, box: Box) -> None:
        from matplotlib.collections import LineCollection

        x, y, wide, tall = box
        count, room = len(self.ribbons.names), self._room(self.width)
        ends, step = {"left": x + room, "right": x + wide - room}, tall / max(count, 1)
        for side, words in (("left", self.ribbons.left_title), ("right", self.ribbons.right_title)):
            middle, most = ends[side], 2 * min(room, (ends["right"] - ends["left"]) / 2 - 0.05)
            sheet.text(middle, y - 0.12, fitted(words, most, KEYS), size=KEYS, ha="center")
        share = np.linspace(0, 1, 32)
        bend = share**2 * (3 - 2 * share)
        starts, stops = (y + (a + 0.5) * step for a in (self.ribbons.left, self.ribbons.right))
        across = np.broadcast_to(ends["left"] + 0.08 + share * (ends["right"] - ends["left"] - 0.16), (count, 32))
        curves = np.stack([across, starts[:, None] + bend * (stops - starts)[:, None]], -1)
        courses = np.sign(self.ribbons.right - self.ribbons.left).astype(int)
        thick = min(3.0, max(1.0, step * 72 * 0.3))
        for k, (style, dash, _) in _COURSES.items():
            part = np.flatnonzero(courses == k)
            widths = [thick * (1.8 if i in self.ribbons.strong else 1.0) for i in part]
            tint = look(style, sheet.theme).colour
            lines = LineCollection(list(curves[part]), colors=tint, linestyles=dash, linewidths=widths, alpha=0.9)
            sheet.base.add_collection(lines, autolim=False)
            for side, at in (("left", starts), ("right", stops)):
                dot = ends[side] + (0.05 if side == "left" else -0.05)
                sheet.line([dot] * len(part), at[part], ls="none", marker="o", ms=min(5.0, step * 40), color=tint)
        self._names(sheet, {"left": starts, "right": stops}, ends, room - 0.08, step)

    def _names(self, sheet: Sheet, places: dict[str, Array], ends: dict[str, float], room: float, step: float) -> None:
        """Names of both sides, evenly left out where lines would touch, the strong ones last."""
        stride = max(1, math.ceil(LINE / step))
        for side, at in places.items():
            order = np.argsort(at)
            taken: list[int] = []
            for rank in (
                *(int(np.flatnonzero(order == i)[0]) for i in self.ribbons.strong),
                *range(0, len(at), stride),
            ):
                if any(abs(rank - t) < stride for t in taken):
                    continue
                taken.append(rank)
                i = int(order[rank])
                strong = i in self.ribbons.strong
                words = self._words(i, side, room / (BOLD if strong else 1))
                place = ends[side] + (-0.04 if side == "left" else 0.04)
                weight = "bold" if strong else "normal"
                anchor = "right" if side == "left" else "left"
                sheet.text(place, at[i], words, ha=anchor, va="center_baseline", fontweight=weight)


class SimplexPart(Part):
    """The triangle of the probabilities of three classes."""

    def __init__(self, simplex: Simplex) -> None:
        self.simplex, self.title = simplex, simplex.title

    def entries(self) -> list[Key]:
        shapes = {n: "dotted" if len(p) > 1 else "dot" for n, p in self.simplex.points.items()}
        return [Key(n, self.simplex.styles[n], shape) for n, shape in shapes.items() if n]

    @property
    def crowded(self) -> bool:
        return len(self.simplex.points) > 1

    def prefers(self, width: float) -> float:
        return min(width, 5.0)

    def _side(self, inner: float) -> float:
        return min(inner - 0.9, 3.9)

    def tall(self, inner: float) -> tuple[float, float, float]:
        return 0.26, self._side(inner) * math.sqrt(3) / 2, 0.28

    def draw(self, sheet: Sheet, box: Box) -> None:
        from matplotlib.patches import Polygon

        side, theme = self._side(box[2]), sheet.theme
        high = side * math.sqrt(3) / 2
        left, top = box[0] + (box[2] - side) / 2, box[1]
        corners = np.array([[left, top + high], [left + side, top + high], [left + side / 2, top]])
        for share in (0.25, 0.5, 0.75):
            for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
                ends = np.stack([share * corners[a] + (1 - share) * corners[k] for k in (b, c)])
                sheet.line(*ends.T, color=theme.grid, lw=0.7)
        sheet.base.add_patch(Polygon(corners, fc="none", ec=theme.muted, lw=1.2))
        self._corners(sheet, corners, box[0], box[2])
        longest = max((float(np.abs(a).max()) for a in self.simplex.arrows.values()), default=0.0)
        for name, points in self.simplex.points.items():
            style = look(self.simplex.styles[name], theme)
            places = points @ corners
            if len(places) > 1:
                sheet.line(*places.T, color=style.colour, ls=style.dash, lw=1.8, zorder=2)
                sheet.line(*places[:-1].T, ls="none", marker=style.marker, ms=3.5, color=style.colour, zorder=3)
            if name in self.simplex.arrows and longest > 0:
                shift = self.simplex.arrows[name] * min(1.0, 0.4 / longest) @ corners
                _arrow(sheet, places[-1], places[-1] + shift, style.colour)
            sheet.line(
                *places[-1:].T, ls="none", marker=style.marker, ms=9, mfc=style.colour, mec=theme.ink, mew=0.8, zorder=4
            )

    def _corners(self, sheet: Sheet, corners: Array, left: float, wide: float) -> None:
        """Names of the corners; the two below share the width as they need it."""
        first, second, above = (drawable(n) for n in self.simplex.corners)
        half = (wide - 0.15) / 2
        if text_width(first, KEYS) + text_width(second, KEYS) > 2 * half:
            room = max(half, 2 * half - text_width(second, KEYS))
            first = fitted(first, room, KEYS)
            second = fitted(second, 2 * half - text_width(first, KEYS), KEYS)
        a, b = text_width(first, KEYS), text_width(second, KEYS)
        (x, below), (y, _), (z, top) = corners
        x = max(x - a / 2, left)
        y = max(min(y - b / 2, left + wide - b), x + a + 0.15)
        sheet.text(x, below + 0.14, first, size=KEYS)
        sheet.text(y, below + 0.14, second, size=KEYS)
        sheet.text(z, top - 0.13, fitted(above, wide, KEYS), size=KEYS, ha="center")


def _arrow(sheet: Sheet, start: Array, end: Array, colour: str) -> None:
    from matplotlib.patches import Polygon

    along = end - start
    length = float(np.linalg.norm(along))
    if length < 1e-6:
        return
    unit, size = along / length, min(0.13, 0.6 * length)
    foot, across = end - size * unit, np.array([-unit[1], unit[0]]) * 0.45 * size
    sheet.line(*np.stack([start, foot]).T, color=colour, lw=2, zorder=3)
    sheet.base.add_patch(Polygon(np.stack([end, foot + across, foot - across]), fc=colour, lw=0, zorder=3))


class GraphPart(Part):
    """Nodes and edges."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.title = graph, graph.title
        self.colours = graph.colours if graph.values is not None else None

    def entries(self) -> list[Key]:
        return [Key(n, style, "dot") for n, style in self.graph.legend.items() if n]

    @property
    def crowded(self) -> bool:
        return bool(self.graph.legend)

    def _margins(self) -> tuple[float, float]:
        return (0.6 if any(self.graph.names) else 0.2), 0.25

    def _height(self, inner: float) -> float:
        if not self.graph.positions.size:
            return 0.5
        across, down = np.maximum(np.ptp(self.graph.positions, axis=0), 1e-9)
        side, pad = self._margins()
        return float(np.clip((inner - 2 * side) * down / across + 2 * pad, 1.0, min(4.9, max(2.4, 0.9 * inner))))

    def tall(self, inner: float) -> tuple[float, float, float]:
        return 0.0, self._height(inner), 0.2 if len(self.graph.names) > 10 else 0.0

    def draw(self, sheet: Sheet, box: Box) -> None:
        graph, (side, pad) = self.graph, self._margins()
        if not graph.positions.size:
            sheet.text(box[0], box[1] + 0.2, "no nodes", color=sheet.theme.muted)
            return
        tall = self._height(box[2])
        count = len(graph.positions)
        radius = float(np.clip(0.45 * math.sqrt(box[2] * tall / count) / 4, 0.04, 0.11))
        points = fit_into(graph.positions, box[2] - 2 * side, tall - 2 * pad)
        points[:, 1] += (tall - 2 * pad - np.ptp(points[:, 1])) / 2
        points += np.array([box[0] + side, box[1] + pad])
        self._edges(sheet, points, radius)
        self._nodes(sheet, points, radius)
        corner = np.array(box[:2])
        unnamed = self._names(sheet, points - corner, corner, radius, np.array([box[2], tall]))
        if unnamed and len(graph.names) > 10:
            note = f"{counted(unnamed, 'name')} without room: see the table."
            sheet.text(box[0] + 0.1, box[1] + tall + 0.1, fitted(note, box[2] - 0.2, NAMES), color=sheet.theme.muted)

    def _edges(self, sheet: Sheet, points: Array, radius: float) -> None:
        from matplotlib.collections import LineCollection, PolyCollection

        graph, count = self.graph, self.graph.edges.shape[1]
        if not count:
            return
        start, end = points[graph.edges[0]], points[graph.edges[1]]
        widths = 1.0 if graph.widths is None else 0.72 * graph.widths
        alpha = 0.75 if count < 150 else 0.45
        lines = LineCollection(
            list(np.stack([start, end], 1)), colors=sheet.theme.muted, linewidths=widths, alpha=alpha
        )
        sheet.base.add_collection(lines, autolim=False)
        if graph.directed:
            along = end - start
            unit = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
            side, tip = unit[:, ::-1] * [1, -1] * 0.05, end - unit * (radius + 0.01)
            heads = np.stack([tip, tip - 0.13 * unit + side, tip - 0.13 * unit - side], 1)
            sheet.base.add_collection(
                PolyCollection(list(heads), facecolors=sheet.theme.ink, linewidths=0), autolim=False
            )

    def _nodes(self, sheet: Sheet, points: Array, radius: float) -> None:
        from matplotlib.colors import to_rgba

        graph, theme = self.graph, sheet.theme
        strong = np.array([*graph.strong] or [False] * len(points), dtype=bool)
        edges, widths = np.where(strong, FRAME, theme.ink), np.where(strong, 2.6, 0.8)
        styles = list(graph.styles) or [0] * len(points)
        groups: list[tuple[Any, Any, str]]
        if graph.values is not None and graph.colours is not None:
            tints = shades(graph.values, graph.colours)
            tints[np.isnan(graph.values)] = to_rgba(theme.paper)
            groups = [(np.ones(len(points), dtype=bool), tints, "o")]
        else:
            looks = {s: look(s, theme) for s in styles}
            groups = [(np.array([t == s for t in styles]), seen.colour, seen.marker) for s, seen in looks.items()]
        for part, tints, marker in groups:
            sheet.base.scatter(
                points[part, 0],
                points[part, 1],
                s=(2 * radius * 72) ** 2,
                c=tints,
                marker=marker,
                edgecolors=edges[part].tolist(),
                linewidths=widths[part].tolist(),
                zorder=3,
            )

    def _names(self, sheet: Sheet, points: Array, corner: Array, radius: float, room: Array) -> int:
        """Write the names that find room; how many do not."""
        graph = self.graph
        if not any(n.strip() for n in graph.names):
            return 0
        words = [fitted(n, 1.5, 8.5) for n in graph.names]
        strong = np.array([*graph.strong] or [False] * len(words), dtype=bool)
        sizes = [(text_width(w, 8.5) * (BOLD if s else 1) + 0.03, 0.15) for w, s in zip(words, strong, strict=True)]
        degree = np.bincount(graph.edges.ravel(), minlength=len(words))
        order = [i for i in np.lexsort((-degree, ~strong)).tolist() if words[i].strip()]
        share = np.linspace(0, 1, 12)[:, None, None]
        lines = (share * points[graph.edges[0]] + (1 - share) * points[graph.edges[1]]).reshape(-1, 2)
        paper: dict[str, Any] = {"fc": sheet.theme.paper, "ec": "none", "pad": 0.4, "alpha": 0.75}
        placed = 0
        for i, middle in name_places(points, radius, sizes, lines, order, room):
            placed += 1
            x, y = (middle + corner).tolist()
            weight = "bold" if strong[i] else "normal"
            sheet.text(x, y, words[i], size=8.5, ha="center", bbox=paper, weight=weight, zorder=4)
        return len(order) - placed


class TablePart(Part):
    """A table."""

    def __init__(self, table: Table) -> None:
        self.table, self.title = table, table.title
        self.heads = [str(h) for h in table.columns]
        self.count = len(next(iter(table.columns.values())))
        self.cells = {
            h: [_cell(v) for v in list(c)[:_MOST_ROWS]] for h, c in zip(self.heads, table.columns.values(), strict=True)
        }
        self.numeric = {
            h: all(isinstance(v, int | float | np.number) or v is None for v in c)
            for h, c in zip(self.heads, table.columns.values(), strict=True)
        }

    def _widths(self, width: float) -> list[float]:
        """Of the columns: what their words take; where that is too much, the widest give way."""
        wants = [
            max(text_width(fitted(w, 4.0, NAMES), NAMES) for w in [f"{h} ", *self.cells[h]]) * 1.06 + 0.24
            for h in self.heads
        ]
        wants = [max(w, 1.1) if h in self.table.bars else w for w, h in zip(wants, self.heads, strict=True)]
        most = max(wants)
        while sum(min(w, most) for w in wants) > width and most > 0.35:
            most *= 0.96
        return [min(w, most) for w in wants]

    def prefers(self, width: float) -> float:
        return min(width, sum(self._widths(width)))

    def tall(self, inner: float) -> tuple[float, float, float]:
        shown = min(self.count, _MOST_ROWS)
        return 0.02, 0.3 + 0.22 * shown + (0.2 if self.count > shown else 0.0), 0.02

    def draw(self, sheet: Sheet, box: Box) -> None:
        theme, (x, y, *_) = sheet.theme, box
        widths = self._widths(box[2])
        right = x + sum(widths)
        shown = min(self.count, _MOST_ROWS)
        sheet.line([x, right], [y + 0.25, y + 0.25], color=theme.ink, lw=0.9)
        for r in range(1, shown):
            sheet.line([x, right], [y + 0.28 + 0.22 * r] * 2, color=theme.grid, lw=0.5)
        for head, wide in zip(self.heads, widths, strict=True):
            ends, room = (x + wide - 0.1, "right") if self.numeric[head] else (x + 0.06, "left"), wide - 0.14
            sheet.text(ends[0], y + 0.13, fitted(head, room / BOLD, NAMES), ha=ends[1], fontweight="bold")
            if x + wide > box[0] + box[2] + 0.05:
                break
            for r, cell in enumerate(self.cells[head]):
                middle = y + 0.28 + 0.22 * (r + 0.5)
                share = list(self.table.columns.values())[self.heads.index(head)][r]
                if head in self.table.bars and isinstance(share, int | float | np.number) and math.isfinite(share):
                    full = wide - 0.16
                    place = (x + 0.06, middle - 0.08, full * min(max(float(share), 0.0), 1.0), 0.16)
                    sheet.box(place, fc=look(4, theme).colour, alpha=0.45, lw=0)
                sheet.text(ends[0], middle, fitted(cell, room, NAMES), ha=ends[1], va="center_baseline")
            x += wide
        if self.count > shown:
            note = f"and {counted(self.count - shown, 'more row', 'more rows')}"
            sheet.text(box[0] + 0.06, y + 0.3 + 0.22 * shown + 0.1, note, color=theme.muted)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return (
        number(float(value)).replace("-", "−") if isinstance(value, int | float | np.number) else drawable(str(value))
    )
