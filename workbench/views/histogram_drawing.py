"""How histograms are drawn: over each other, in rows, or as strips whose colour is the height."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .drawing import WIDTH, Array, placed
from .theme import CATEGORICAL, DASHES, SEQUENTIAL, Theme
from .words import (
    BOLD,
    LINES,
    drawable,
    fitted,
    keys_above,
    keys_height,
    literal,
    name_positions,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT = 0.85
#: Strips in one column, their height in inches, and the size of their names in points.
_STRIPS, _HIGH, _SIZE = 34, 0.165, 9.0


@dataclass(frozen=True)
class Histograms:
    """What is drawn: edges (B + 1,), heights (K, B), names, means (K,), lines across, labels of value and height."""

    edges: Array
    heights: Array
    names: list[str]
    means: Array
    threshold: dict[str, float]
    labels: tuple[str, str]


def together(d: Histograms, theme: Theme) -> Figure:
    """All over each other in one pair of axes."""
    fills = d.names if len(d.names) > 1 else []
    top = 0.2 + keys_height(len(fills) + len(d.threshold))
    figure, (ax,) = placed(WIDTH, top + 3.2, [(_LEFT, top, WIDTH - 1.0, 2.6)])
    for k in range(len(d.names)):
        _steps(ax, d, k, theme, alone=len(d.names) == 1)
    _axis(ax, d, theme)
    ax.set(xlabel=literal(f"{d.labels[0]}   (▼ mean)"), ylabel=literal(d.labels[1]))
    keys_above(figure, theme, fills, d.threshold, outlined=True)
    return figure


def rows(d: Histograms, theme: Theme) -> Figure:
    """A row for each sample, all on one scale."""
    top, high, gap = 0.1 + keys_height(len(d.threshold)), 0.5, 0.34
    boxes = [(_LEFT, top + k * (high + gap) + gap, WIDTH - 1.0, high) for k in range(len(d.names))]
    figure, axes = placed(WIDTH, top + len(boxes) * (high + gap) + 0.6, boxes)
    for k, ax in enumerate(axes):
        _steps(ax, d, k, theme, alone=True)
        _axis(ax, d, theme)
        ax.locator_params(axis="y", nbins=2, integer=d.labels[1] == "values")
        ax.set_title(literal(fitted(d.names[k], WIDTH - 1.0, 10)), fontsize=10, pad=4)
        if k < len(axes) - 1:
            ax.tick_params(labelbottom=False)
    axes[-1].set_xlabel(literal(f"{d.labels[0]}   (▼ mean)"))
    middle = (axes[0].get_position().y1 + axes[-1].get_position().y0) / 2
    figure.text(0.01, middle, d.labels[1], rotation=90, ha="left", va="center", fontsize=11)
    keys_above(figure, theme, [], d.threshold)
    return figure


def strips(d: Histograms, theme: Theme) -> Figure:
    """A strip for each sample, in up to three columns; colour is the height on one scale for all."""
    columns = min(3, math.ceil(len(d.names) / _STRIPS))
    per, bar = math.ceil(len(d.names) / columns), 0.75
    wide = (WIDTH - bar) / columns
    most = 2.6 if columns == 1 else 0.48 * wide
    left = 0.15 + min(most, max(text_width(drawable(n), _SIZE) for n in d.names) * BOLD)
    top, tall = 0.1 + keys_height(len(d.threshold)), per * _HIGH
    boxes = [(c * wide + left, top, wide - left - 0.12, tall) for c in range(columns)]
    figure, axes = placed(WIDTH, top + tall + 0.62, [*boxes, (WIDTH - bar + 0.1, top, 0.14, min(tall, 2.5))])
    scale = {"vmin": 0.0, "vmax": float(d.heights.max()) or 1.0}
    for c, ax in enumerate(axes[:columns]):
        part = slice(c * per, (c + 1) * per)
        image = ax.pcolormesh(d.edges, np.arange(len(d.heights[part]) + 1) - 0.5, d.heights[part], cmap=SEQUENTIAL)
        image.set_clim(**scale)
        shown = np.isfinite(d.means[part])
        ax.plot(d.means[part][shown], np.flatnonzero(shown), "|", color="#000000", ms=9, mew=3.6, clip_on=False)
        ax.plot(d.means[part][shown], np.flatnonzero(shown), "|", color="#D55E00", ms=9, mew=1.8, clip_on=False)
        name_positions(ax, "y", d.names[part], length=tall, room=most, size=_SIZE)
        _lines(ax, d, theme, colour="#ffffff")
        ax.set(xlim=(d.edges[0], d.edges[-1]), ylim=(per - 0.5, -0.5))
        ax.tick_params(axis="y", length=0)
        if columns > 1:  # narrow: the ends say enough
            ax.set_xticks(d.edges[[0, -1]], [f"{e:.3g}" for e in d.edges[[0, -1]]], fontsize=_SIZE)
            for label, side in zip(ax.get_xticklabels(), ("left", "right"), strict=True):
                label.set(ha=side)
        ax.grid(False)
    figure.colorbar(image, cax=axes[-1])
    axes[-1].set_title(literal(d.labels[1].replace(" of values", "")), fontsize=9.5, loc="center")
    figure.text(0.45, 0.01, literal(f"{d.labels[0]}; the mark in each strip is its mean"), ha="center", fontsize=11)
    keys_above(figure, theme, [], d.threshold)
    return figure


def _steps(ax: Axes, d: Histograms, k: int, theme: Theme, *, alone: bool) -> None:
    colour, dashes = CATEGORICAL[k % 8], DASHES[0 if alone else k % len(DASHES)]
    ax.stairs(d.heights[k], d.edges, fill=True, alpha=0.9 if alone else 0.25, color=colour)
    ax.stairs(d.heights[k], d.edges, color=colour, linewidth=2.0, linestyle=dashes)
    if np.isfinite(d.means[k]):
        inside = float(np.clip(d.means[k], d.edges[0], d.edges[-1]))
        place = ax.get_xaxis_transform()
        ax.plot(inside, 1.0, "v", color=colour, mec=theme.ink, mew=0.8, ms=8, transform=place, clip_on=False, zorder=5)


def _axis(ax: Axes, d: Histograms, theme: Theme) -> None:
    _lines(ax, d, theme, colour=theme.ink)
    ax.set(xlim=(d.edges[0], d.edges[-1]), ylim=(0, float(d.heights.max()) * 1.12 or 1.0))
    ax.grid(axis="x", visible=False)


def _lines(ax: Axes, d: Histograms, theme: Theme, *, colour: str) -> None:
    for i, at in enumerate(d.threshold.values()):
        if colour != theme.ink:  # over strips: dark under light, so that it shows on every colour
            ax.axvline(at, color="#000000", linewidth=2.6)
        ax.axvline(at, color=colour, linestyle=LINES[i % len(LINES)], linewidth=1.4)
