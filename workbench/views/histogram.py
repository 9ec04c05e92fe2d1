"""Histograms of one or several samples in shared bins: over each other, in rows, or as strips where they are many."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kdcore.functional.checks import check_choice

from .base import View
from .drawing import Array, as_array
from .histogram_drawing import Histograms, rows, strips, together
from .picture import Axis, Colours, Heat, Histogram, Picture, Plane, Rule
from .theme import Theme, number
from .words import counted, drawable, extremes, listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: So many samples can lie over each other, and so many can have a row; more are strips.
_TOGETHER, _ROWS = 4, 12
_MEASURES = {"count": "values", "share": "share of values", "density": "density"}


def histogram_view(
    samples: Mapping[str, Any],
    *,
    bins: int | Sequence[float] | None = None,
    value_range: tuple[float, float] | None = None,
    threshold: Mapping[str, float] | None = None,
    measure: str = "count",
    panels: bool | None = None,
    value_label: str = "value",
    most: int = 102,
    title: str = "Histogram",
) -> View:
    """How the values of one or several samples are spread, in bins that all share; a triangle marks each mean.

    Up to four samples lie over each other, up to twelve have a row each; more are drawn as strips whose colour says
    how many values a bin has.

    Args:
        samples: name -> ``(n,)`` values, n may differ and be 0; what is not finite is left out and counted.
        bins: a number of bins of equal width, or their ascending edges; by default 20, or one for each whole number
            where all values are whole and span at most 40.
        value_range: ends of the first and last bin where ``bins`` is a number; smallest and largest value by default.
        threshold: name -> value of a line across all samples.
        measure: ``"count"``, ``"share"`` (of the sample's finite values) or ``"density"`` (share per unit of value).
        panels: force a row for each sample (True) or all over each other (False).
        value_label: what is measured, with the unit.
        most: at most so many samples are drawn, the first ones; the table holds all.

    Raises:
        ValueError: no sample, no finite value, bins, range or measure that do not exist, ``most`` < 1.
    """
    if not samples:
        raise ValueError("samples is empty: there is nothing to show.")
    check_choice("measure", measure, tuple(_MEASURES))
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most!r}.")
    given = {n: as_array(f"samples[{n!r}]", v, ndim=1) if len(v) else np.zeros(0) for n, v in samples.items()}
    values = {n: v[np.isfinite(v)] for n, v in given.items()}
    edges = _edges(np.concatenate(list(values.values())), bins, value_range)
    counts = np.stack([np.histogram(v, edges)[0] for v in values.values()]).astype(float)
    sizes = np.array([len(v) for v in values.values()])
    heights = counts if measure == "count" else counts / np.maximum(sizes, 1)[:, None]
    heights = heights / np.diff(edges) if measure == "density" else heights
    names = list(values)
    means = np.array([v.mean() if len(v) else np.nan for v in values.values()])
    drawn = Histograms(
        edges, heights[:most], names[:most], means[:most], dict(threshold or {}),
        (drawable(value_label), _MEASURES[measure]),
    )  # fmt: skip
    table = pd.DataFrame({"from": edges[:-1], "to": edges[1:]} | dict(zip(names, _exact(heights), strict=True)))

    def draw(theme: Theme) -> Figure:
        if panels is False or (panels is None and len(drawn.names) <= _TOGETHER):
            return together(drawn, theme)
        return rows(drawn, theme) if panels or len(drawn.names) <= _ROWS else strips(drawn, theme)

    alt = (
        f"{value_label} of {counted(len(names), 'sample')} in {counted(len(edges) - 1, 'bin')} from "
        f"{number(edges[0])} to {number(edges[-1])}. " + _words(values, means, threshold)
    )
    lost, outside = sum(len(given[n]) - len(values[n]) for n in names), int(sizes.sum() - counts.sum())
    if outside:
        alt += f" {counted(outside, 'value')} {'lies' if outside == 1 else 'lie'} outside the bins."
    if lost:
        alt += f" {counted(lost, 'value')} {'is' if lost == 1 else 'are'} not finite."
    if len(names) > most:
        alt += f" The first {most} of {len(names)} samples are drawn; the table holds all."
    picture = _picture(drawn, panels)
    return View(title=title, alt=alt, table=table, picture=picture, draw=draw)


def _picture(d: Histograms, panels: bool | None) -> Picture:
    x, rules = Axis(d.labels[0]), [Rule(v, n, axis="x") for n, v in d.threshold.items()]
    made = [
        Histogram(n, d.edges, h, style=k, mean=float(m) if np.isfinite(m) else None)
        for k, (n, h, m) in enumerate(zip(d.names, d.heights, d.means, strict=True))
    ]
    if panels is False or (panels is None and len(made) <= _TOGETHER):
        return Picture(Plane(*made, *rules, x=x, y=Axis(d.labels[1], low=0)))
    if panels or len(made) <= _ROWS:
        top = 1.05 * (float(d.heights.max()) or 1.0)
        y = Axis(low=0, high=top)
        planes = [
            Plane(h, *rules, x=x if k == len(made) - 1 else Axis(), y=y, title=h.name, height=70)
            for k, h in enumerate(made)
        ]
        return Picture(*planes, columns=1)
    bins = [f"{number(a)} to {number(b)}" for a, b in itertools.pairwise(d.edges)]
    colours = Colours(0, float(d.heights.max()) or 1.0, d.labels[1])
    return Picture(Heat(values=d.heights, rows=d.names, columns=bins, colours=colours, column_label=d.labels[0]))


def _edges(values: Array, bins: int | Sequence[float] | None, ends: tuple[float, float] | None) -> Array:
    if not len(values):
        raise ValueError("samples hold no finite value: there is nothing to show.")
    if ends is not None and not ends[0] < ends[1]:
        raise ValueError(f"value_range must be (low, high) with low < high, got {ends!r}.")
    if bins is None:
        low, high = float(values.min()), float(values.max())
        if ends is None and high - low <= 40 and (values == values.round()).all():
            return np.arange(low - 0.5, high + 1.0)
        bins = 20
    if isinstance(bins, int):
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins!r}.")
        return np.histogram_bin_edges(values, bins, ends)
    edges = as_array("bins", bins, ndim=1)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bins must be a number or at least two ascending edges, got {edges.tolist()}.")
    return edges


def _exact(heights: Array) -> list[Any]:
    """Counts as whole numbers, shares and densities as they are."""
    return [h.astype(int) if (h == h.round()).all() else h for h in heights]


def _words(values: Mapping[str, Array], means: Array, threshold: Mapping[str, float] | None) -> str:
    names = list(values)
    told = [
        f"{n}: mean {number(v.mean())}, from {number(v.min())} to {number(v.max())}, {counted(len(v), 'value')}"
        if len(v)
        else f"{n}: no value"
        for n, v in values.items()
    ]
    alt = listed(told)
    if len(names) > 1:
        alt += f" Means: {extremes(means, names)}."
    for name, at in (threshold or {}).items():
        above = np.array([100 * float((v > at).mean()) if len(v) else np.nan for v in values.values()])
        shares = [f"{n} {s:.1f}" for n, s in zip(names, above, strict=True) if np.isfinite(s)]
        said = ", ".join(shares) if len(names) <= 6 else extremes(above.round(1), names)
        alt += f" Percent above {name} ({number(at)}): {said}."
    return alt


__all__ = ["histogram_view"]
