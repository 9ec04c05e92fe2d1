"""Paths in a plane over steps: where each starts, which way it goes, where it ends; with a landscape below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .base import View
from .drawing import Array, as_array, limits
from .paths_drawing import Paths, draw_paths
from .picture import Axis, Colours, Field, Line, Mark, Picture, Plane, Points
from .theme import Theme, number
from .words import counted, drawable, extremes, listed, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def trajectory_view(
    paths: Mapping[str, Any],
    *,
    x_label: str = "x",
    y_label: str = "y",
    background: tuple[Any, Any, Any] | None = None,
    background_label: str = "value",
    points: Mapping[str, Any] | None = None,
    equal: bool = False,
    most: int = 100,
    title: str = "Paths",
) -> View:
    """Paths over steps: a ring where each starts, arrowheads on the way, a square where it ends.

    Up to twelve paths have a colour and dashes of their own, explained above; more are named at one of their ends,
    where there is room.

    Args:
        paths: name -> ``(S, 2)`` places in the order of the steps, S may differ; a step with NaN is a gap.
        x_label, y_label: what the axes show, with the unit.
        background: ``x (K,)`` and ``y (M,)``, both ascending, and ``z (M, K)``, drawn as contours; NaN is left empty.
        background_label: what z is.
        points: name -> ``(2,)`` places to mark (an optimum, the teacher).
        equal: one scale for both axes, so that angles and lengths are right.
        most: at most so many paths are drawn, the first ones; the table holds all.

    Raises:
        ValueError: no path, shapes, infinite places, no known place, a grid that does not ascend, ``most`` < 1.
    """
    if not paths or most < 1:
        raise ValueError(f"paths and most must be at least 1, got {len(paths)} paths and most = {most!r}.")
    places = {n: _places(f"paths[{n!r}]", p) for n, p in paths.items()}
    names = list(places)
    if not any(np.isfinite(p).all(1).any() for p in places.values()):
        raise ValueError("paths hold no known place: there is nothing to show.")
    spots = {n: as_array(f"points[{n!r}]", p, ndim=1) for n, p in (points or {}).items()}
    for n, p in spots.items():
        if p.shape != (2,) or not np.isfinite(p).all():
            raise ValueError(f"points[{n!r}] must be two finite numbers, got {p.tolist()}.")
    ground = None if background is None else _ground(*background)
    drawn = Paths(
        {n: places[n] for n in names[:most]},
        spots,
        ground,
        (drawable(x_label), drawable(y_label), background_label),
        equal,
        "" if len(names) <= most else f"{most} of {len(names)} paths are drawn.",
    )

    def draw(theme: Theme) -> Figure:
        return draw_paths(drawn, theme)

    every = np.concatenate(list(places.values()))
    lengths = [len(p) for p in places.values()]
    table = pd.DataFrame(
        {
            "path": np.repeat(names, lengths),
            "step": np.concatenate([np.arange(n) for n in lengths]),
            x_label: every[:, 0],
            y_label if y_label != x_label else f"{y_label}, second": every[:, 1],
        }
    )
    if ground is not None:
        table[background_label] = _at(ground, every)
    alt = _words(places, spots, ground, background_label, (x_label, y_label))
    if len(names) > most:
        alt += f" The first {most} of {len(names)} paths are drawn; the table holds all."
    return View(title=title, alt=alt, table=table, picture=Picture(_plane(drawn)), draw=draw)


def _plane(d: Paths) -> Plane:
    marks: list[Mark] = []
    if d.ground is not None:
        x, y, z = d.ground
        low, high = limits(z)
        levels = np.linspace(low, high, 13).tolist()
        even_x, even_y, even = _even(x, y, z)
        ends_x, ends_y = (float(even_x[0]), float(even_x[-1])), (float(even_y[0]), float(even_y[-1]))
        marks.append(Field(even, ends_x, ends_y, Colours(low, high, d.labels[2]), levels=levels))
    for k, (name, path) in enumerate(d.paths.items()):
        known = path[np.isfinite(path[:, 0])]
        if not len(known):
            continue
        marks.append(Line(name, path[:, 0], path[:, 1], style=k, dots=len(path) <= 30))
        first, last = known[0], known[-1]
        marks.append(Points("", [first[0]], [first[1]], style=k, size=12, ring=True, notes=[f"{name}: start"]))
        marks.append(Points("", [last[0]], [last[1]], style=k, size=11, notes=[f"{name}: end"]))
    for k, (name, spot) in enumerate(d.spots.items()):
        marks.append(Points(name, [spot[0]], [spot[1]], style="light" if d.ground is not None else "ink", size=13 - k))
    return Plane(*marks, x=Axis(d.labels[0]), y=Axis(d.labels[1]), equal=d.equal, height=360)


def _even(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """The background on a grid of equal steps: as it is where its steps are equal, else between its points."""
    if all(np.allclose(np.diff(a), (a[-1] - a[0]) / (len(a) - 1)) for a in (x, y)):
        return x, y, z
    a, b = (np.linspace(v[0], v[-1], max(60, len(v))) for v in (x, y))
    places = np.stack([np.tile(a, len(b)), np.repeat(b, len(a))], 1)
    return a, b, _at((x, y, z), places).reshape(len(b), len(a))


def _places(argument: str, path: Any) -> Array:
    array = as_array(argument, path, ndim=2)
    if array.shape[1] != 2 or np.isinf(array).any():
        raise ValueError(f"{argument} must be (S, 2) without infinite numbers, got shape {array.shape}.")
    return np.where(np.isnan(array).any(1, keepdims=True), np.nan, array)


def _ground(x: Any, y: Any, z: Any) -> tuple[Array, Array, Array]:
    a, b, field = (as_array(f"background's {n}", v, ndim=d) for n, v, d in (("x", x, 1), ("y", y, 1), ("z", z, 2)))
    for name, axis in (("x", a), ("y", b)):
        if len(axis) < 2 or not (np.diff(axis) > 0).all():
            raise ValueError(f"background's {name} must hold at least two ascending numbers, got {axis.tolist()}.")
    if field.shape != (len(b), len(a)):
        raise ValueError(f"background's z must be {(len(b), len(a))} (y, x), got {field.shape}.")
    if not np.isfinite(field).any():
        raise ValueError("background's z has no finite value: there is nothing to show.")
    return a, b, field


def _at(ground: tuple[Array, Array, Array], places: Array) -> Array:
    """The background at places, between its points by linear interpolation; NaN outside."""
    from scipy.interpolate import RegularGridInterpolator

    x, y, z = ground
    known = np.isfinite(places).all(1)
    values = np.full(len(places), np.nan)
    values[known] = RegularGridInterpolator((y, x), z, bounds_error=False)(places[known][:, ::-1])
    return values


def _words(
    places: Mapping[str, Array],
    spots: Mapping[str, Array],
    ground: tuple[Array, Array, Array] | None,
    label: str,
    axes: tuple[str, str],
) -> str:
    told, names = [], list(places)
    net, length = np.full(len(names), np.nan), np.full(len(names), np.nan)
    ends = np.full((len(names), 2), np.nan)
    for i, (name, path) in enumerate(places.items()):
        known = path[np.isfinite(path[:, 0])]
        if not len(known):
            told.append(f"{name} has no known place")
            continue
        ends[i] = known[-1]
        net[i] = np.linalg.norm(known[-1] - known[0])
        length[i] = np.nansum(np.linalg.norm(np.diff(path, axis=0), axis=1))
        start, end = (f"({number(float(p[0]))}, {number(float(p[1]))})" for p in (known[0], known[-1]))
        told.append(
            f"{name} stays at {end}" if not length[i] and start == end else f"{name} goes from {start} to {end}"
        )
    steps = sorted({len(p) for p in places.values()})
    span = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    alt = f"{counted(len(names), 'path')} over {axes[0]} and {axes[1]} with {span} "
    alt += f"{'place' if steps == [1] else 'places'} each: {listed(told)}"
    if len(names) > 1:
        alt += f" Length of the way: {extremes(length, names, high='longest', low='shortest')}."
        alt += f" From start to end: {extremes(net, names, high='farthest', low='nearest')}."
    else:
        alt += f" The way is {number(float(length[0]))} long, start and end are {number(float(net[0]))} apart."
    if ground is not None:
        alt += f" {label} at the end: {extremes(_at(ground, ends), names)}."
    for spot, place in spots.items():
        away = np.linalg.norm(ends - place, axis=1)
        alt += f" Distance of the end to {spot}: {extremes(away, names, high='largest', low='smallest')}."
    return alt + unknown(sum(int(np.isnan(p[:, 0]).sum()) for p in places.values()), "place")


__all__ = ["trajectory_view"]
