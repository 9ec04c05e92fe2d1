"""How a graph is drawn: edges, nodes by class or value, and the names that find room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .drawing import WIDTH, Array
from .graph_layout import fit_into, name_places, spread
from .mosaic import FRAME, sheet
from .theme import CATEGORICAL, DIVERGING, MARKERS, SEQUENTIAL, Theme
from .words import counted, fitted, literal, text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TALL, _PAD, _SIDE, _BAR = 4.9, 0.3, 0.6, 1.0
_SIZE, _LINE = 8.5, 0.15


@dataclass(frozen=True)
class GraphDrawing:
    """What is drawn: names (N,), positions (N, 2), edges (2, E), weights (E,) or none, classes (N,) of ``groups`` or
    none (-1: no class, -2: one of the others), values (N,) or none on a scale, marks (N,), what was left out, whether
    the positions were given."""

    names: list[str] | None
    positions: Array
    edges: npt.NDArray[np.int64]
    weights: Array | None
    groups: list[str]
    others: str
    classes: npt.NDArray[np.int64] | None
    values: Array | None
    scale: tuple[float, float]
    diverging: bool
    value_label: str
    marked: npt.NDArray[np.bool_]
    directed: bool
    left_out: str
    given: bool


def draw_graph(d: GraphDrawing, theme: Theme) -> Figure:
    """The picture of a graph."""
    top = 0.1 + 0.24 * -(-len(legend_entries(d)) // 4)
    wide = WIDTH - (_BAR if d.values is not None else 0)
    radius = float(np.clip(0.45 * np.sqrt(wide * _TALL / len(d.positions)) / 4, 0.045, 0.11))
    room = (wide - 2 * _SIDE, _TALL - 2 * _PAD)
    points = fit_into(d.positions, *room, stretch=1.0 if d.given else 1.7)
    points = points if d.given else spread(points, 2.6 * radius, *room)
    used = float(np.ptp(points[:, 1])) + 2 * _PAD
    tall = max(used, 3.2 if d.values is not None else 0.0)
    points = points + np.array([_SIDE, top + (tall - used) / 2 + _PAD - points[:, 1].min()])
    bar = [(WIDTH - _BAR + 0.2, top + 0.4, 0.15, min(tall - 0.6, 2.6))] if d.values is not None else []
    notes = [d.left_out] if d.left_out else []
    figure, ax, sides = sheet(WIDTH, top + tall + 0.32, bar)
    _edges(ax, d, points, radius, theme)
    _nodes(ax, d, points, radius, theme)
    unnamed = _names(ax, d, points, radius, np.array([wide, top + tall + 0.05]), theme)
    if sides:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        cmap = colormaps[DIVERGING if d.diverging else SEQUENTIAL]
        figure.colorbar(ScalarMappable(Normalize(*d.scale), cmap), cax=sides[0])
        sides[0].set_title(literal(wrapped(d.value_label, _BAR - 0.2, 9)), fontsize=9, loc="left")
        sides[0].tick_params(labelsize=9)
    if unnamed:
        notes.append(f"{counted(unnamed, 'name')} without room: see the table.")
    ax.text(0.1, top + tall + 0.28, fitted(" ".join(notes), WIDTH - 0.2, 9), fontsize=9, color=theme.muted)
    _keys(figure, d, theme)
    return figure


def _edges(ax: Axes, d: GraphDrawing, points: Array, radius: float, theme: Theme) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    if not d.edges.size:
        return
    start, end = points[d.edges[0]], points[d.edges[1]]
    strength = np.ones(len(start)) if d.weights is None else np.abs(d.weights) / (np.abs(d.weights).max() or 1.0)
    width = 1.0 if d.weights is None else 0.4 + 3.2 * strength
    alpha = 0.75 if d.edges.shape[1] < 150 else 0.45
    negative = np.zeros(len(start), dtype=bool) if d.weights is None else d.weights < 0
    styles = np.where(negative, "--", "-")
    ax.add_collection(
        LineCollection(
            list(np.stack([start, end], 1)), colors=theme.muted, linewidths=width, linestyles=list(styles), alpha=alpha
        )
    )
    if d.directed:
        along = end - start
        unit = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        side = unit[:, ::-1] * [1, -1] * 0.05
        tip = end - unit * (radius + 0.01)
        heads = np.stack([tip, tip - 0.13 * unit + side, tip - 0.13 * unit - side], 1)
        ax.add_collection(PolyCollection(list(heads), facecolors=theme.ink, linewidths=0))


def _nodes(ax: Axes, d: GraphDrawing, points: Array, radius: float, theme: Theme) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    size = (2 * radius * 72) ** 2
    edge, width = np.where(d.marked, FRAME, theme.ink), np.where(d.marked, 2.6, 0.8)
    if d.values is not None:
        cmap = colormaps[DIVERGING if d.diverging else SEQUENTIAL]
        colours = cmap(np.clip((d.values - d.scale[0]) / (d.scale[1] - d.scale[0]), 0, 1))
        colours[np.isnan(d.values)] = to_rgba(theme.paper)
        _dots(ax, points, size, colours, "o", edge, width)
        return
    classes = np.zeros(len(points), dtype=int) if d.classes is None else d.classes
    for k in np.unique(classes).tolist():
        part, (fill, marker) = classes == k, _look(k, theme)
        _dots(ax, points[part], size, fill, marker, edge[part], width[part])


def _dots(ax: Axes, points: Array, size: float, colours: Any, marker: str, edges: Any, widths: Any) -> None:
    x, y = points.T
    ax.scatter(x, y, s=size, c=colours, marker=marker, edgecolors=edges.tolist(), linewidths=widths.tolist(), zorder=3)


def _look(k: int, theme: Theme) -> tuple[str, str]:
    """Fill and marker of a class, of nodes without one, and of the classes that are not told apart."""
    if k < 0:
        return (theme.paper if k == -1 else theme.grid), "o"
    return CATEGORICAL[k % len(CATEGORICAL)], MARKERS[(k + k // len(CATEGORICAL)) % len(MARKERS)]


def _names(ax: Axes, d: GraphDrawing, points: Array, radius: float, room: Array, theme: Theme) -> int:
    """Write the names that find room; how many do not."""
    if d.names is None:
        return 0
    words = [fitted(n, 1.5, _SIZE) for n in d.names]
    sizes = [(text_width(w, _SIZE) + 0.03, _LINE) for w in words]
    degree = np.bincount(d.edges.ravel(), minlength=len(words))
    order = np.lexsort((-degree, ~d.marked)).tolist()
    share = np.linspace(0, 1, 12)[:, None, None]
    lines = (share * points[d.edges[0]] + (1 - share) * points[d.edges[1]]).reshape(-1, 2)
    placed = 0
    box: dict[str, Any] = {"fc": theme.paper, "ec": "none", "pad": 0.4, "alpha": 0.75}
    for i, middle in name_places(points, radius, sizes, lines, order, room):
        placed += 1
        weight = "bold" if d.marked[i] else "normal"
        x, y = middle.tolist()
        ax.text(x, y, literal(words[i]), ha="center", va="center", fontsize=_SIZE, bbox=box, weight=weight, zorder=4)
    return len(words) - placed


def legend_entries(d: GraphDrawing) -> list[tuple[int, str]]:
    """Classes and their names in the legend."""
    if d.classes is None:
        return []
    others = [(-2, d.others)] if (d.classes == -2).any() else []
    return [*enumerate(d.groups), *others, *([(-1, "no class")] if (d.classes == -1).any() else [])]


def _keys(figure: Figure, d: GraphDrawing, theme: Theme) -> None:
    from matplotlib.lines import Line2D

    keys = []
    for k, name in legend_entries(d):
        fill, marker = _look(k, theme)
        key = Line2D([], [], ls="none", marker=marker, ms=8, mec=theme.ink, mew=0.8, mfc=fill)
        key.set_label(literal(fitted(name, 1.5, 10)))
        keys.append(key)
    if keys:
        figure.legend(handles=keys, loc="upper left", ncols=4, frameon=False, fontsize=10, borderaxespad=0)
