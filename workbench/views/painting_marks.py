"""How the marks of a plane are painted, one function for each; drawn in their order, words last where there is room."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from .painting_ground import DOTS, SMALL, Ground, dash_of
from .painting_sheet import NAMES, colour_map, look, shades
from .picture import Area, Arrows, Bars, Field, Histogram, Line, Points, Rule, Span, Texts
from .words import drawable, fitted, text_width


@singledispatch
def draw_mark(mark: Any, ground: Ground) -> None:
    """Draw one mark; registered for each kind."""
    raise TypeError(f"there is no way to paint a {type(mark).__name__}.")


@draw_mark.register
def _line(mark: Line, ground: Ground) -> None:
    ax, style = ground.ax, look(mark.style, ground.theme)
    if mark.low is not None and mark.high is not None:
        ax.fill_between(mark.x, mark.low, mark.high, color=style.colour, alpha=0.2, linewidth=0)
    dots = (mark.dots if mark.dots is not None else len(mark.x) <= DOTS) and not mark.fine
    wide = 0.9 if mark.fine else 2.0
    if any(isinstance(m, Field) for m in ground.plane.marks):
        around = "#000000" if mark.style == "light" else ground.theme.paper
        ax.plot(mark.x, mark.y, color=around, lw=wide + 2.2, solid_capstyle="round")
    (drawn,) = ax.plot(mark.x, mark.y, color=style.colour, lw=wide, ls=style.dash, alpha=0.8 if mark.fine else 1.0)
    if dots:
        size = 5.5 if len(mark.x) <= 12 else 4.0
        drawn.set(marker=style.marker, markersize=size, markeredgecolor=ground.theme.paper, markeredgewidth=0.6)
    if not dots and not mark.fine:  # a point between two gaps has no line
        known = np.isfinite(mark.x) & np.isfinite(mark.y)
        lone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
        ax.plot(mark.x[lone], mark.y[lone], ls="none", marker=".", color=style.colour)


@draw_mark.register
def _points(mark: Points, ground: Ground) -> None:
    from matplotlib.collections import LineCollection

    if not len(mark.x):
        return
    ax, theme, style = ground.ax, ground.theme, look(mark.style, ground.theme)
    known = np.isfinite(mark.x) & np.isfinite(mark.y)
    here = np.stack([mark.x, mark.y], 1)
    if mark.to is not None:
        ends = np.stack([here, mark.to], 1)
        pairs = LineCollection(list(ends[np.isfinite(ends).all((1, 2))]), colors=theme.muted, linewidths=1.0, alpha=0.8)
        ax.add_collection(pairs, autolim=False)
    colours: Any = style.colour
    if mark.values is not None and ground.plane.colours is not None:
        colours = shades(mark.values, ground.plane.colours)[known]
        known_value = np.isfinite(mark.values[known])
        edges: Any = np.where(known_value, theme.ink if len(mark.x) < 400 else "none", theme.muted).tolist()
    else:
        edges = style.colour if mark.ring else "#000000" if mark.style == "light" else theme.paper
    thin = 0.0 if len(mark.x) > 400 else 0.6
    ax.scatter(
        mark.x[known],
        mark.y[known],
        s=(0.72 * mark.size) ** 2,
        c="none" if mark.ring else colours,
        marker=style.marker,
        edgecolors=colours if mark.ring else edges,
        linewidths=1.8 if mark.ring else thin,
        zorder=3,
    )
    radius = mark.size / 200
    places = ground.inches(mark.x, mark.y)
    ground.waiting += [
        (p, mark.texts[i] if mark.texts else "", radius)
        for i, p in enumerate(places)
        if mark.texts or len(mark.x) <= 1000
    ]


@draw_mark.register
def _bars(mark: Bars, ground: Ground) -> None:
    from matplotlib.collections import PolyCollection

    if not len(mark.at):
        return
    ax, theme = ground.ax, ground.theme
    at, foot, thick = ground.bars[id(mark)]
    ends = np.sort(ax.get_ylim() if mark.lying else ax.get_xlim())
    room = thick * ground.size[1 if mark.lying else 0] / (ends[1] - ends[0])  # inches across one bar
    edge = 0.5 if room > 0.07 else 0.0  # edges and hatches of thin bars would hide their colour
    low = min(ax.get_xlim() if mark.lying else ax.get_ylim())
    tops = np.where(
        np.isfinite(mark.values), foot + (mark.values - mark.base if mark.stacked else mark.values - foot), foot
    )
    if ax.get_xscale() == "log" if mark.lying else ax.get_yscale() == "log":
        foot, tops = np.maximum(foot, low), np.maximum(tops, low)
    near, far = at - 0.47 * thick, at + 0.47 * thick
    corners = np.stack([[near, far, far, near], [foot, foot, tops, tops]]).T  # (bars, corner, axis)
    corners = corners[..., ::-1] if mark.lying else corners
    strong = np.array([*mark.strong] or [False] * len(at), dtype=bool)
    styles = list(mark.styles) or [mark.style] * len(at)
    for style in dict.fromkeys(styles):
        part, seen = np.array([s == style and type(s) is type(style) for s in styles]), look(style, theme)
        # one artist for all bars: a hundred patches take half a second
        bars = PolyCollection(
            list(corners[part]),
            facecolors=seen.colour,
            edgecolors=theme.ink,
            zorder=2,
            linewidths=np.where(strong[part], 4 * edge or 0.8, edge),
            hatch=(seen.hatch or None) if ground.hatched and edge else None,
        )
        ax.add_collection(bars, autolim=False)
    for i in np.flatnonzero(~np.isfinite(mark.values)):
        x, y = (foot[i], at[i]) if mark.lying else (at[i], foot[i])
        ax.text(
            x,
            y,
            "–",
            color=theme.muted,
            fontsize=8,
            ha="left" if mark.lying else "center",
            va="center" if mark.lying else "bottom",
        )
    if mark.low is not None and mark.high is not None:
        for colour, wide in ((theme.paper, 3.0 if edge else 2.2), (theme.ink, 1.3 if edge else 1.0)):
            (ax.hlines if mark.lying else ax.vlines)(at, mark.low, mark.high, color=colour, linewidth=wide, zorder=3)
    (ax.axvline if mark.lying else ax.axhline)(max(mark.base, low), color=theme.muted, linewidth=0.8)


@draw_mark.register
def _histogram(mark: Histogram, ground: Ground) -> None:
    if not len(mark.heights):
        return
    alone = sum(isinstance(m, Histogram) for m in ground.plane.marks) == 1
    style, ax = look(mark.style, ground.theme), ground.ax
    ax.stairs(mark.heights, mark.edges, fill=True, alpha=0.9 if alone else 0.25, color=style.colour)
    ax.stairs(mark.heights, mark.edges, color=style.colour, linewidth=2.0, linestyle="-" if alone else style.dash)
    if mark.mean is not None and np.isfinite(mark.mean):
        inside = min(max(mark.mean, min(ax.get_xlim())), max(ax.get_xlim()))
        ax.plot(
            inside,
            1.0,
            "v",
            color=style.colour,
            mec=ground.theme.ink,
            mew=0.8,
            ms=8,
            clip_on=False,
            zorder=5,
            transform=ax.get_xaxis_transform(),
        )


@draw_mark.register
def _rule(mark: Rule, ground: Ground) -> None:
    dash = dash_of(mark, ground.plane.marks)
    style: dict[str, Any] = {
        "color": look(mark.style, ground.theme).colour,
        "linestyle": dash,
        "linewidth": 1.3 if mark.name else 0.9,
    }
    ax = ground.ax
    if mark.axis == "both":
        low, high = max(min(ax.get_xlim()), min(ax.get_ylim())), min(max(ax.get_xlim()), max(ax.get_ylim()))
        ax.plot([low, high], [low, high], **style)
    elif np.isfinite(mark.value):
        (ax.axhline if mark.axis == "y" else ax.axvline)(mark.value, **style)


@draw_mark.register
def _span(mark: Span, ground: Ground) -> None:
    ax, style = ground.ax, look(mark.style, ground.theme)
    (ax.axvspan if mark.axis == "x" else ax.axhspan)(mark.low, mark.high, color=style.colour, alpha=0.16, lw=0)
    first, last = sorted(ax.get_xlim() if mark.axis == "x" else ax.get_ylim())
    ends = np.clip(np.array([mark.low, mark.high]), first, last)
    other = np.repeat((ax.get_ylim() if mark.axis == "x" else ax.get_xlim())[0], 2)
    corners = ground.inches(ends, other) if mark.axis == "x" else ground.inches(other, ends)
    room = abs(float(np.diff(corners[:, 0])[0])) - 0.08 if mark.axis == "x" else ground.size[0] - 0.1
    tall = 1.0 if mark.axis == "x" else abs(float(np.diff(corners[:, 1])[0]))
    words = fitted(mark.name, room, SMALL) if room > 0.15 and tall > 0.15 else "…"
    whole = words == drawable(mark.name)
    if whole or len(words) > 3:  # less than that of a name says nothing
        wide = text_width(words, SMALL)
        x = corners[:, 0].mean() - wide / 2 if mark.axis == "x" else ground.size[0] - 0.06 - wide
        ground.put(float(x), 0.1 if mark.axis == "x" else float(corners[:, 1].mean()), words, SMALL, "ink")


@draw_mark.register
def _arrows(mark: Arrows, ground: Ground) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    start, end = ground.inches(mark.x, mark.y), ground.inches(mark.x + mark.dx, mark.y + mark.dy)
    known = np.isfinite(start).all(1) & np.isfinite(end).all(1)
    start, end = start[known], end[known]
    if not len(start):
        return
    colour, along = look(mark.style, ground.theme).colour, end - start
    length = np.linalg.norm(along, axis=1, keepdims=True)
    size = np.minimum(0.11, 0.5 * length) if mark.head else np.zeros_like(length)
    unit = along / np.maximum(length, 1e-9)
    stem, side = end - size * unit, unit[:, ::-1] * [1, -1] * 0.45 * size
    segments = ground.data(np.stack([start, stem], 1).reshape(-1, 2)).reshape(-1, 2, 2)
    stems = LineCollection(list(segments), colors=colour, zorder=3, **_stroke(mark, ground))
    ground.ax.add_collection(stems, autolim=False)
    if mark.head:
        heads = ground.data(np.stack([end, stem + side, stem - side], 1).reshape(-1, 2)).reshape(-1, 3, 2)
        ground.ax.add_collection(PolyCollection(list(heads), facecolors=colour, linewidths=0, zorder=3), autolim=False)


def _stroke(mark: Arrows, ground: Ground) -> dict[str, Any]:
    """Dash and width of segments; arrows are solid, as a dashed short one would vanish."""
    many = len(mark.x) > 60
    return {"linewidths": 1.1 if many else 1.7, "linestyles": "-" if mark.head else look(mark.style, ground.theme).dash}


@draw_mark.register
def _area(mark: Area, ground: Ground) -> None:
    from matplotlib.patches import Polygon

    if len(mark.x) < 3:
        return
    colour = look(mark.style, ground.theme).colour
    corners = np.stack([mark.x, mark.y], 1)
    ground.ax.add_patch(Polygon(corners, fc=colour, alpha=mark.opacity, lw=0))
    ground.ax.add_patch(Polygon(corners, fc="none", ec=colour, lw=1.2))


@draw_mark.register
def _field(mark: Field, ground: Ground) -> None:
    rows, columns = mark.values.shape
    if not mark.values.size:
        return
    half_x = (mark.x[1] - mark.x[0]) / max(columns - 1, 1) / 2 or 0.5
    half_y = (mark.y[1] - mark.y[0]) / max(rows - 1, 1) / 2 or 0.5
    extent = (mark.x[0] - half_x, mark.x[1] + half_x, mark.y[0] - half_y, mark.y[1] + half_y)
    ends = ground.ax.get_xlim(), ground.ax.get_ylim()
    ground.ax.imshow(
        np.ma.masked_invalid(mark.values),
        extent=extent,
        origin="lower",
        aspect="auto",
        cmap=colour_map(mark.colours),
        vmin=mark.colours.low,
        vmax=mark.colours.high,
        interpolation="nearest" if mark.cells else "bilinear",
        zorder=0.5,
    )
    ground.ax.set(xlim=ends[0], ylim=ends[1])
    ground.ax.grid(False)
    known = mark.values[np.isfinite(mark.values)]
    levels = sorted({v for v in mark.levels if len(known) and known.min() < v < known.max()})
    if levels and rows > 1 and columns > 1:
        x, y = np.linspace(*mark.x, columns), np.linspace(*mark.y, rows)
        for colour, wide in (("#000000", 1.4), ("#ffffff", 0.7)):
            ground.ax.contour(
                x,
                y,
                np.ma.masked_invalid(mark.values),
                levels=levels,
                colors=colour,
                linewidths=wide,
                linestyles="-",
                zorder=1,
            )


@draw_mark.register
def _texts(mark: Texts, ground: Ground) -> None:
    """Each where it was asked for, moved inside the axes; one that would lie over another is left out."""
    places = ground.inches(mark.x, mark.y) if len(mark.x) else np.zeros((0, 2))
    across, down = ground.size
    for (x, y), text in zip(places, mark.texts, strict=True):
        if np.isfinite(x + y) and -0.05 <= x <= across + 0.05 and -0.05 <= y <= down + 0.05:
            words = fitted(text, min(2.4, across), NAMES)
            wide = text_width(words, NAMES)
            left = x - wide * {"middle": 0.5, "start": 0.0, "end": 1.0}[mark.anchor]
            inside = min(max(float(left), 0.0), max(across - wide, 0.0))
            ground.put(inside, min(max(float(y), 0.07), down - 0.07), words, NAMES, mark.style)
