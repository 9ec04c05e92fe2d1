"""Graphs: nodes coloured by class or value, edges as wide as their weight, at a size that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .base import View
from .drawing import Array, as_array, check_names, limits
from .graph_drawing import GraphDrawing, draw_graph, legend_entries
from .graph_layout import stress_positions
from .picture import Colours, Graph, Picture, Style
from .theme import Theme
from .words import counted, extremes, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: So many classes can be told apart; of more, the most frequent keep their colour.
_TOLD_APART = 10


def graph_view(
    nodes: int | Sequence[str],
    edges: Any,
    *,
    positions: Any = None,
    classes: Any = None,
    class_names: Sequence[str] | None = None,
    values: Any = None,
    value_label: str = "value",
    diverging: bool = False,
    weights: Any = None,
    mark: Sequence[bool] = (),
    directed: bool = False,
    most: int = 100,
    title: str = "Graph",
) -> View:
    """A graph as dots and lines; without positions, distances show how many steps nodes are apart.

    Args:
        nodes: ``N`` names, or their number (then no names are drawn).
        edges: ``(2, E)`` indices of nodes, as in ``edge_index``; E may be 0. Edges that are given in both directions
            are one (the weight farther from 0 counts) unless ``directed``; self-loops are counted but not drawn.
        positions: ``(N, 2)``; by default found from the edges (:func:`~.graph_layout.stress_positions`).
        classes: ``(N,)`` for colours and markers; negative for none.
        class_names: their names; numbers by default. Of more than ten classes nine are told apart, those
            with the most nodes.
        values: ``(N,)`` for colours on a scale, instead of classes; NaN (empty) where there is none.
        value_label: what the values are, with the unit; diverging: a scale about 0.
        weights: ``(E,)`` for the widths of edges; negative ones are dashed.
        mark: ``N`` truth values; nodes with a strong edge and a bold name.
        directed: draw arrowheads.
        most: at most so many nodes are drawn: the marked ones, then those with the most edges; the table holds all.

    Raises:
        ValueError: no node, shapes, classes and values at once, numbers that are not finite, ``most`` < 1.
        IndexError: an edge to a node that does not exist.
    """
    names = [str(i) for i in range(nodes)] if isinstance(nodes, int) else [str(n) for n in nodes]
    count = len(names)
    if count == 0 or most < 1:
        raise ValueError(f"nodes and most must be at least 1, got {count} nodes and most = {most!r}.")
    links, strength, loops = _links(edges, weights, count, directed)
    if classes is not None and values is not None:
        raise ValueError("classes and values both colour the nodes: give one of them, got both.")
    kinds, groups = _classes(classes, class_names, count)
    numbers = None if values is None else as_array("values", values, ndim=1)
    places = None if positions is None else as_array("positions", positions, ndim=2)
    marked = np.array(list(mark) or [False] * count, dtype=bool)
    for argument, array, shape in (("values", numbers, (count,)), ("positions", places, (count, 2)),
                                   ("mark", marked, (count,))):  # fmt: skip
        if array is not None and array.shape != shape:
            raise ValueError(f"{argument} must be {shape}, got {array.shape}.")
    if places is not None and not np.isfinite(places).all():
        raise ValueError("positions must be finite, got values that are not.")
    if numbers is not None and (np.isinf(numbers).any() or np.isnan(numbers).all()):
        raise ValueError("values must hold finite numbers (NaN where there is none), got infinite ones or none.")
    degree = np.bincount(links.ravel(), minlength=count)
    kept = np.sort(np.lexsort((-degree, ~marked))[:most])
    inside = np.isin(links, kept).all(0)
    index = np.full(count, -1)
    index[kept] = np.arange(len(kept))
    few = index[links[:, inside]]
    shown, others, told = _told_apart(None if kinds is None else kinds[kept], groups)
    left_out = ""
    if len(kept) < count:
        left_out = f"{len(kept)} of {count:,} nodes are drawn, with {few.shape[1]:,} of {links.shape[1]:,} edges."
    drawn = GraphDrawing(
        None if isinstance(nodes, int) else [names[i] for i in kept],
        stress_positions(few, len(kept)) if places is None else places[kept],
        few,
        None if strength is None else strength[inside],
        shown,
        others,
        told,
        None if numbers is None else numbers[kept],
        (0.0, 1.0) if numbers is None else limits(numbers, symmetric=diverging),
        diverging,
        value_label,
        marked[kept],
        directed,
        left_out,
        places is not None,
    )

    def draw(theme: Theme) -> Figure:
        return draw_graph(drawn, theme)

    table = pd.DataFrame({"node": names, "edges": degree, "drawn": index >= 0})
    if kinds is not None:
        table.insert(1, "class", [groups[k] if k >= 0 else "" for k in kinds])
    if numbers is not None:
        table.insert(1, value_label, numbers)
    if strength is not None:
        table["sum of weights"] = sum(np.bincount(end, strength, minlength=count) for end in links)
    alt = f"Graph of {counted(count, 'node')} and {counted(links.shape[1], 'edge')}"
    alt += f", {counted(_parts(links, count), 'connected part')}."
    alt += f" Edges of a node: {extremes(degree.astype(np.float64), names)}."
    alt += _words(links, names, kinds, groups, numbers, value_label, strength)
    alt += f" Marked: {', '.join(n for n, m in zip(names, marked, strict=True) if m)}." if marked.any() else ""
    alt += f" {counted(loops, 'self-loop')} not drawn." if loops else ""
    alt += f" {left_out} The table holds all." if left_out else ""
    return View(title=title, alt=alt, table=table, picture=Picture(_panel(drawn)), draw=draw)


def _panel(d: GraphDrawing) -> Graph:
    scheme = "diverging" if d.diverging else "sequential"
    counted_ = [d.names[i] if d.names is not None else f"node {i}" for i in range(len(d.positions))]
    styles: list[Style] = [] if d.classes is None else [int(k) if k >= 0 else "muted" for k in d.classes]
    legend: dict[str, Style] = {}
    if d.classes is not None:
        legend = {name: ("muted" if k < 0 else k) for k, name in legend_entries(d)}
    widest = None if d.weights is None or not len(d.weights) else float(np.abs(d.weights).max()) or 1.0
    return Graph(
        positions=d.positions,
        edges=d.edges,
        names=d.names or (),
        notes=counted_ if d.names is None else (),
        styles=styles,
        values=d.values,
        colours=None if d.values is None else Colours(*d.scale, d.value_label, scheme),
        widths=None if widest is None or d.weights is None else 0.6 + 3.4 * np.abs(d.weights) / widest,
        directed=d.directed,
        strong=d.marked.tolist() if any(d.marked) else (),
        legend=legend,
    )


def _links(edges: Any, weights: Any, count: int, directed: bool) -> tuple[npt.NDArray[np.int64], Array | None, int]:
    """Edges without repetition and loops, their weights, and how many loops there were."""
    given = np.asarray(edges.cpu() if hasattr(edges, "cpu") else edges)
    given = given.reshape(2, 0) if given.size == 0 else given
    if given.ndim != 2 or len(given) != 2 or not (given == given.astype(np.int64)).all():
        raise ValueError(f"edges must be whole numbers (2, E), got {given.dtype} {given.shape}.")
    links = given.astype(np.int64)
    if links.size and (links.min() < 0 or links.max() >= count):
        raise IndexError(f"edges must be in [0, {count}), got {links.min()} to {links.max()}.")
    strength = None if weights is None or not links.size else as_array("weights", weights, ndim=1)
    if strength is not None and (len(strength) != links.shape[1] or not np.isfinite(strength).all()):
        raise ValueError(f"weights must be {links.shape[1]} finite numbers, one for each edge, got {len(strength)}.")
    if not directed:
        links = np.sort(links, axis=0)
    loop = links[0] == links[1]
    # the strongest first, so that the first of equal edges is the one to keep
    order = np.argsort(-np.abs(strength), kind="stable") if strength is not None else np.arange(links.shape[1])
    order = order[~loop[order]]
    _, first = np.unique(links[:, order], axis=1, return_index=True)
    chosen = order[first]
    return links[:, chosen], None if strength is None else strength[chosen], int(loop.sum())


def _classes(
    classes: Any, class_names: Sequence[str] | None, count: int
) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
    if classes is None:
        return None, []
    array = as_array("classes", classes, ndim=1)
    if len(array) != count or not (array == array.round()).all():
        raise ValueError(f"classes must be {count} whole numbers, one for each node, got shape {array.shape}.")
    kinds = array.astype(np.int64)
    needed = max(int(kinds.max()) + 1, 0)
    groups = check_names("class_names", class_names, needed if class_names is None else len(class_names))
    if len(groups) < needed:
        raise ValueError(f"class_names must hold at least {needed} names, got {len(groups)}.")
    return kinds, groups


def _told_apart(
    kinds: npt.NDArray[np.int64] | None, groups: list[str]
) -> tuple[list[str], str, npt.NDArray[np.int64] | None]:
    """Names of the classes that are told apart, what the others are called, and classes renumbered (-2: others)."""
    if kinds is None:
        return [], "", None
    sizes = np.bincount(kinds[kinds >= 0], minlength=len(groups))
    used = np.flatnonzero(sizes)
    kept = used if len(used) <= _TOLD_APART else np.sort(used[np.lexsort((used, -sizes[used]))[: _TOLD_APART - 1]])
    index = np.full(len(groups) + 1, -2)
    index[kept] = np.arange(len(kept))
    index[-1] = -1  # no class
    return [groups[int(k)] for k in kept], f"{len(used) - len(kept)} other classes", index[np.maximum(kinds, -1)]


def _parts(links: npt.NDArray[np.int64], count: int) -> int:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    matrix = coo_array((np.ones(links.shape[1]), (links[0], links[1])), shape=(count, count))
    return int(connected_components(matrix, directed=False, return_labels=False))


def _words(
    links: npt.NDArray[np.int64],
    names: Sequence[str],
    kinds: npt.NDArray[np.int64] | None,
    groups: Sequence[str],
    numbers: Array | None,
    value_label: str,
    strength: Array | None,
) -> str:
    alt = ""
    if kinds is not None:
        sizes = np.bincount(kinds[kinds >= 0], minlength=len(groups))
        used = np.flatnonzero(sizes)
        alt += f" {counted(len(used), 'class', 'classes')}"
        alt += (
            f", nodes of a class: {extremes(sizes[used].astype(np.float64), [groups[int(k)] for k in used])}."
            if len(used)
            else "."
        )
        both = (kinds[links] >= 0).all(0)
        if both.any():
            same = float((kinds[links[0]] == kinds[links[1]])[both].mean())
            alt += f" {100 * same:.1f} % of the edges between nodes with a class join nodes of the same one."
    if numbers is not None:
        alt += f" {value_label}: {extremes(numbers, names)}." + unknown(int(np.isnan(numbers).sum()))
    if strength is not None and len(strength):
        called = [f"{names[a]} to {names[b]}" for a, b in links.T]
        alt += f" Weights: {extremes(strength, called)}."
    return alt


__all__ = ["graph_view"]
