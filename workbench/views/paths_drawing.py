"""How paths are drawn: lines with a ring at the start, arrowheads on the way and a square at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import WIDTH, Array, limits, placed
from .graph_layout import name_places
from .mosaic import FRAME
from .theme import CATEGORICAL, DASHES, SEQUENTIAL, Theme
from .words import counted, fitted, literal, text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Paths that are told apart by colour and dashes in a legend.
_KEYS = 12
#: Marks of places.
_SPOTS = ("*", "P", "X", "D")
_LEFT, _TALL, _BAR, _SIZE = 0.85, 4.4, 1.0, 8.5


@dataclass(frozen=True)
class Paths:
    """What is drawn: places (S, 2) of each path, marked places (2,), grid x (K,), y (M,), z (M, K) or none, labels of
    x, y and z, whether axes share a scale, what was left out."""

    paths: Mapping[str, Array]
    spots: Mapping[str, Array]
    ground: tuple[Array, Array, Array] | None
    labels: tuple[str, str, str]
    equal: bool
    left_out: str


def draw_paths(d: Paths, theme: Theme) -> Figure:
    """The picture of paths."""
    told_apart = list(d.paths) if 1 < len(d.paths) <= _KEYS else []
    keys = 2 + len(told_apart) + len(d.spots)
    top = 0.15 + 0.24 * -(-keys // 4)
    wide = WIDTH - _LEFT - 0.15 - (_BAR if d.ground is not None else 0)
    boxes = [(_LEFT, top, wide, _TALL)]
    if d.ground is not None:
        boxes.append((_LEFT + wide + 0.15, top + 0.35, 0.15, 2.6))
    figure, (ax, *sides) = placed(
        WIDTH, top + _TALL + (0.62 if len(d.paths) <= _KEYS and not d.left_out else 0.85), boxes
    )
    low, high = _bounds(d, wide / _TALL)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=literal(d.labels[0]), ylabel=literal(d.labels[1]))
    if d.ground is not None:
        _contours(figure, ax, sides[0], d, theme)
    inches = np.array([wide, _TALL]) / (high - low)
    _lines(ax, d, inches, theme)
    unnamed = _names(ax, d, low, inches, np.array([wide, _TALL]), theme)
    notes = [d.left_out] if d.left_out else []
    notes += [f"{counted(unnamed, 'name')} without room: see the table."] if unnamed else []
    figure.text(_LEFT / WIDTH, 0.01, fitted(" ".join(notes), wide, 9), fontsize=9, color=theme.muted, va="bottom")
    _keys(figure, told_apart, list(d.spots), theme)
    return figure


def _bounds(d: Paths, aspect: float) -> tuple[Array, Array]:
    every = [*d.paths.values(), *(p[None] for p in d.spots.values())]
    places = np.concatenate(every)
    low, high = np.nanmin(places, 0), np.nanmax(places, 0)
    if d.ground is not None:
        low = np.minimum(low, [a[0] for a in d.ground[:2]])
        high = np.maximum(high, [a[-1] for a in d.ground[:2]])
    span = high - low
    least = max(float(span.max()) * 1e-3, 1e-9 * (1 + float(np.abs(high).max())))
    span = np.where(span < least, 1.0 if span.max() == 0 else span.max(), span)
    if d.equal:
        unit = max(span[0] / aspect, span[1])
        span = np.array([unit * aspect, unit])
    room = 0.5 if d.ground is not None and not d.equal else 0.58
    middle = (low + high) / 2
    return middle - room * span, middle + room * span


def _contours(figure: Figure, ax: Axes, side: Axes, d: Paths, theme: Theme) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, to_rgb

    assert d.ground is not None
    x, y, z = d.ground
    low, high = limits(z)
    pale = 0.45 * colormaps[SEQUENTIAL](np.linspace(0, 1, 256))[:, :3] + 0.55 * np.array(to_rgb(theme.paper))
    levels = np.linspace(low, high, 13)
    filled = ax.contourf(x, y, np.ma.masked_invalid(z), levels=levels, cmap=ListedColormap(pale))
    ax.contour(x, y, np.ma.masked_invalid(z), levels=levels, colors=theme.muted, linewidths=0.5)
    figure.colorbar(filled, cax=side, ticks=levels[::3], format="%.3g")
    side.set_title(literal(wrapped(d.labels[2], _BAR - 0.2, 9)), fontsize=9, loc="left")
    side.tick_params(labelsize=9)
    ax.grid(False)


def _lines(ax: Axes, d: Paths, inches: Array, theme: Theme) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    own = len(d.paths) <= _KEYS
    colours = [CATEGORICAL[i % len(CATEGORICAL)] for i in range(len(d.paths))]
    styles = [DASHES[i % len(DASHES)] if own else "-" for i in range(len(d.paths))]
    width = 2.0 if len(d.paths) <= 12 else 1.1
    lines = [p for p in d.paths.values() if len(p) > 1]
    shown = [i for i, p in enumerate(d.paths.values()) if len(p) > 1]
    for colour, style, extra in ((theme.paper, "-", 2.0), (None, None, 0.0)):
        drawn = LineCollection(lines, linewidths=width + extra, zorder=2)
        drawn.set(
            color=[colour or colours[i] for i in shown], linestyle=[style or styles[i] for i in shown], capstyle="butt"
        )
        ax.add_collection(drawn, autolim=False)
    shares = (0.35, 0.7) if len(d.paths) <= 12 else (0.55,)
    heads, fills = [], []
    for colour, path in zip(colours, d.paths.values(), strict=True):
        for head in _heads(path, inches, shares, 0.09 if len(d.paths) <= 12 else 0.06):
            heads.append(head)
            fills.append(colour)
    if heads:
        arrows = PolyCollection(heads, facecolors=fills, edgecolors=theme.ink, linewidths=0.6, zorder=3)
        ax.add_collection(arrows, autolim=False)
    known = [p[np.isfinite(p[:, 0])] for p in d.paths.values()]
    some = [(k[0], k[-1], c) for k, c in zip(known, colours, strict=True) if len(k)]
    big = 60 if len(d.paths) <= 12 else 22
    starts, ends = np.stack([a for a, _, _ in some]), np.stack([b for _, b, _ in some])
    tints = [c for _, _, c in some]
    ax.scatter(starts[:, 0], starts[:, 1], s=big, c=theme.paper, edgecolors=tints, linewidths=1.8, zorder=4)
    ax.scatter(ends[:, 0], ends[:, 1], s=big, c=tints, marker="s", edgecolors=theme.ink, linewidths=0.9, zorder=5)
    for i, place in enumerate(d.spots.values()):
        ax.plot(*place, _SPOTS[i % len(_SPOTS)], ms=14, mfc=FRAME, mec=theme.paper, mew=1.2, zorder=6)


def _heads(path: Array, inches: Array, shares: tuple[float, ...], size: float) -> list[Array]:
    """Triangles along a path, at shares of its length, that look alike whatever the scales of the axes are."""
    steps = np.diff(path * inches, axis=0)
    lengths = np.nan_to_num(np.linalg.norm(steps, axis=1))
    total = lengths.sum()
    if total < 4 * size:  # too short to carry a head
        return []
    made = []
    for share in shares:
        i = min(int(np.searchsorted(lengths.cumsum(), share * total)), len(lengths) - 1)
        along = steps[i] / lengths[i]
        before = lengths[:i].sum()
        tip = path[i] * inches + along * (share * total - before + size)
        side = np.array([-along[1], along[0]]) * 0.6 * size
        made.append(np.stack([tip, tip - 1.8 * size * along + side, tip - 1.8 * size * along - side]) / inches)
    return made


def _names(ax: Axes, d: Paths, low: Array, inches: Array, room: Array, theme: Theme) -> int:
    """Names of paths that have no legend, at the one of their ends that is less crowded; how many have no room."""
    known = {n: p[np.isfinite(p[:, 0])] for n, p in d.paths.items() if np.isfinite(p[:, 0]).any()}
    if len(d.paths) <= _KEYS or not known:
        return 0

    def on_sheet(places: Array) -> Array:  # from data to inches from the upper left corner
        return (places - low) * inches * [1, -1] + np.array([0, room[1]])

    places = on_sheet(np.concatenate([[p[-1] for p in known.values()], [p[0] for p in known.values()]]))
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(len(places)) * 1e9
    clear = apart.min(1).reshape(2, -1)
    chosen = np.arange(len(known)) + np.where(clear[1] > clear[0], len(known), 0)
    words = [fitted(n, 1.5, _SIZE) for n in known]
    sizes = [(text_width(w, _SIZE) + 0.03, 0.15) for w in words] * 2
    box: dict[str, Any] = {"fc": theme.paper, "ec": "none", "pad": 0.4, "alpha": 0.7}
    order = chosen[np.argsort(-clear.max(0), kind="stable")].tolist()
    count = 0
    for i, middle in name_places(places, 0.06, sizes, on_sheet(np.concatenate([*known.values()])), order, room):
        x, y = (low + (middle * [1, -1] + np.array([0, room[1]])) / inches).tolist()
        word = literal(words[i % len(known)])
        ax.text(x, y, word, ha="center", va="center", fontsize=_SIZE, bbox=box, zorder=7)
        count += 1
    return len(known) - count


def _keys(figure: Figure, names: list[str], spots: list[str], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    keys = [
        Line2D(
            [],
            [],
            color=CATEGORICAL[i % len(CATEGORICAL)],
            ls=DASHES[i % len(DASHES)],
            lw=2,
            label=literal(fitted(n, 1.35, 10)),
        )
        for i, n in enumerate(names)
    ]
    keys.append(Line2D([], [], ls="none", marker="o", ms=7, mfc=theme.paper, mec=theme.ink, mew=1.5, label="start"))
    keys.append(Line2D([], [], ls="none", marker="s", ms=7, mfc=theme.muted, mec=theme.ink, label="end"))
    for i, name in enumerate(spots):
        key = Line2D([], [], ls="none", marker=_SPOTS[i % len(_SPOTS)], ms=11, mfc=FRAME, mec=theme.paper)
        key.set_label(literal(fitted(name, 1.35, 10)))
        keys.append(key)
    figure.legend(
        handles=keys, loc="upper left", ncols=4, frameon=False, fontsize=10, borderaxespad=0, handlelength=2.6
    )
