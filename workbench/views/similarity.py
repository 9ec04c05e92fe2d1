"""Similarity of representations: maps to hover over, layers found again, batch estimates, blind spots, films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .base import View
from .cka import cka_map_view
from .drawing import as_array, check_names, told
from .picture import Arrows, Axis, Colours, Heat, Line, Mark, Picture, Plane, Points, Rule, Texts

if TYPE_CHECKING:
    from kdcore.cka_maps import BatchEstimate


def cka_grid_view(
    matrix: Any,
    layers_x: Sequence[str],
    layers_y: Sequence[str],
    *,
    shapes_x: Sequence[str] | None = None,
    shapes_y: Sequence[str] | None = None,
    names: tuple[str, str] = ("student", "teacher"),
    title: str | None = None,
) -> View:
    """A CKA map to hover over: each cell tells both layers, their shapes and the value; the best of a row is framed.

    Args:
        matrix: ``(L1, L2)`` CKA; cells that are not a number are left open.
        layers_x, layers_y: names of rows and columns, shallow first.
        shapes_x, shapes_y: shapes or widths in words, one per layer.
        names: the two models in words, rows first.
        title: heading; made from ``names`` by default.

    Raises:
        ValueError: shapes and names disagree, or nothing is finite.
    """
    said_x, said_y = _shapes("shapes_x", layers_x, shapes_x), _shapes("shapes_y", layers_y, shapes_y)
    view = cka_map_view(matrix, layers_x, layers_y, names=names, title=title)
    if shapes_x is None and shapes_y is None:
        return view
    notes = [
        [", ".join(filter(None, (f"{names[0]} {x}" * bool(x), f"{names[1]} {y}" * bool(y)))) for y in said_y]
        for x in said_x
    ]
    assert view.picture is not None
    (heat,) = view.picture.panels
    assert isinstance(heat, Heat)
    return replace(view, picture=Picture(replace(heat, notes=notes)), _png={})


def _shapes(argument: str, layers: Sequence[str], shapes: Sequence[str] | None) -> list[str]:
    return [""] * len(layers) if shapes is None else check_names(argument, shapes, len(layers))


def layer_identification_view(
    maps: Mapping[str, Any],
    layers: Sequence[str],
    *,
    names: tuple[str, str] = ("network", "twin"),
    title: str = "Which layer finds its counterpart?",
) -> View:
    """Maps of one pair of equal networks by several measures; the best of each row is marked right or wrong.

    Args:
        maps: measure -> ``(L, L)`` similarity, up to three.
        layers: names of the layers, the same for rows and columns.
        names: the two networks in words.

    Raises:
        ValueError: none or more than three maps, or shapes that do not fit the names.
    """
    arrays = {n: as_array(f"maps[{n!r}]", m, ndim=2) for n, m in maps.items()}
    if not 1 <= len(arrays) <= 3:
        raise ValueError(f"maps must hold one to three, got {len(arrays)}.")
    for n, a in arrays.items():
        if a.shape != (len(layers), len(layers)):
            raise ValueError(f"maps[{n!r}] must have shape {(len(layers), len(layers))}, got {a.shape}.")
    best = {n: a.argmax(1) for n, a in arrays.items()}
    own = np.arange(len(layers))
    table = pd.DataFrame({"layer": list(layers), **{f"best by {n}": [layers[j] for j in b] for n, b in best.items()}})
    alt = "; ".join(
        f"{n} finds {int((b == own).sum())} of {len(layers)} layers"
        + (
            f", and takes {layers[wrong[0]]} for {layers[b[wrong[0]]]}"
            if len(wrong := np.flatnonzero(b != own))
            else ""
        )
        for n, b in best.items()
    )

    floor = min(0.0, *(float(np.nanmin(a)) for a in arrays.values()))
    heats = [
        Heat(
            values=a,
            rows=layers,
            columns=layers,
            colours=Colours(floor, 1.0, "similarity"),
            dotted=[(i, i) for i in own[best[n] == own]],
            crossed=[(i, best[n][i]) for i in own[best[n] != own]],
            meanings={"dotted": "best in row: right", "crossed": "best in row: wrong"},
            row_label=f"layers of the {names[0]}",
            column_label=f"layers of the {names[1]}",
            title=f"{n}: {int((best[n] == own).sum())} of {len(layers)}",
        )
        for n, a in arrays.items()
    ]
    return View(title=title, alt=alt + ".", table=table, picture=Picture(*heats))


def batch_estimates_view(
    whole: Any, estimates: Sequence[BatchEstimate], *, batch_size: int, title: str | None = None
) -> View:
    """Minibatch CKA and the mean of biased batch values against the whole-set value, over batch size and pair by pair.

    Args:
        whole: ``(L1, L2)`` value of the whole set.
        estimates: of :func:`kdcore.cka_maps.batch_estimates`, by growing batch size.
        batch_size: the one shown pair by pair on the right.

    Raises:
        ValueError: no estimate of that batch size, or shapes that do not fit.
    """
    array = as_array("whole", whole, ndim=2, finite=True)
    chosen = next((e for e in estimates if e.batch_size == batch_size), None)
    if chosen is None:
        raise ValueError(
            f"batch_size must be one of {', '.join(str(e.batch_size) for e in estimates) or 'none'}, got "
            f"{batch_size!r}."
        )
    kinds = {"mean of biased batches": "naive", "minibatch CKA (unbiased)": "minibatch"}
    maps = {
        kind: [as_array(f"estimates.{name}", getattr(e, name), ndim=2, finite=True) for e in estimates]
        for kind, name in kinds.items()
    }
    if any(m.shape != array.shape for ms in maps.values() for m in ms):
        raise ValueError(f"whole and the estimates must have the same shape, got {array.shape} and others.")
    sizes = [e.batch_size for e in estimates]
    table = pd.DataFrame(
        {
            "batch size": sizes,
            "batches": [e.n_batches for e in estimates],
            "whole set": float(array.mean()),
            **{kind: [float(m.mean()) for m in ms] for kind, ms in maps.items()},
            **{f"mean error, {kind}": [float(np.abs(m - array).mean()) for m in ms] for kind, ms in maps.items()},
        }
    )
    row = table[table["batch size"] == batch_size].iloc[0]
    alt = (
        f"Mean over {array.size} pairs of layers, whole set {array.mean():.3f}. At batch size {batch_size} ("
        f"{chosen.n_batches} batches): "
        + "; ".join(f"{kind} {row[kind]:.3f}, on average {row[f'mean error, {kind}']:.3f} off" for kind in kinds)
        + f". At batch size {sizes[0]} the errors are "
        + " and ".join(f"{table[f'mean error, {kind}'].iloc[0]:.3f}" for kind in kinds)
        + "."
    )

    chosen_maps = {kind: ms[sizes.index(batch_size)].ravel() for kind, ms in maps.items()}
    lines = [
        Line(kind, sizes, [float(m.mean()) for m in ms], style=1 - i, dots=True)
        for i, (kind, ms) in enumerate(maps.items())
    ]
    left = Plane(
        Rule(float(array.mean()), "whole set"),
        Rule(batch_size, "shown at the right", axis="x", style="muted"),
        *lines,
        x=Axis("batch size", log=True, ticks=sizes),
        y=Axis("CKA, mean over all pairs of layers"),
    )
    right = Plane(
        Rule(0, "equal", axis="both", style="muted"),
        *(Points(kind, array.ravel(), values, style=1 - i) for i, (kind, values) in enumerate(chosen_maps.items())),
        x=Axis("CKA of the whole set"),
        y=Axis(f"estimate at batch size {batch_size}"),
        title="each point a pair of layers",
    )
    picture = Picture(left, right)
    return View(title=title or f"CKA from batches of {batch_size}", alt=alt, table=table, picture=picture)


def similarity_profile_view(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    labels: tuple[str, str] = ("before", "after"),
    title: str = "What each measure sees",
    reference: Mapping[str, float] | None = None,
) -> View:
    """Several measures of one pair of representations, before and after something was done to one of them.

    Args:
        before, after: measure -> similarity, 1 for equal; the same measures.
        labels: what the two are called.
        reference: measure -> what unrelated representations would score, drawn as a tick.

    Raises:
        ValueError: no measures, or different ones.
    """
    if not before or list(before) != list(after) or not set(reference or ()) <= set(before):
        raise ValueError(
            f"before, after and reference must hold the same measures, got {list(before)}, {list(after)} "
            f"and {list(reference or ())}."
        )
    first, second = (np.array([float(v) for v in values.values()]) for values in (before, after))
    change = second - first
    if not np.isfinite(change).any():
        raise ValueError("before and after hold no measure with finite values in both.")
    blind = [n for n, c in zip(before, change, strict=True) if abs(c) < 0.01]
    moved = [i for i in np.argsort(-np.abs(np.nan_to_num(change))) if not abs(change[i]) < 0.01]
    alt = f"From {labels[0]} to {labels[1]}: " + (
        "; ".join(f"{list(before)[i]} {told(first[i])} to {told(second[i])}" for i in moved) or "no measure changes"
    )
    alt += ". " + (f"Changed by less than 0.01: {', '.join(blind)}." if blind else "Every measure changes.")
    table = pd.DataFrame({"measure": list(before), labels[0]: first, labels[1]: second, "change": change})
    if reference:
        table["unrelated"] = [reference.get(n, np.nan) for n in before]

    y = np.arange(len(first), dtype=float)
    marks: list[Mark] = [
        Arrows("", first, y, change, 0 * y, style="muted", head=False),
        Points(labels[0], first, y, style=4, size=15, ring=True),
        Points(labels[1], second, y, style=5, size=9),
        Texts(second, y - 0.26, [told(v) for v in second]),
    ]
    if reference:
        at = [float(list(before).index(n)) for n in reference]
        marks.append(Points("unrelated", [*reference.values()], at, style="ink", size=8, ring=True))
    least = min(-0.06, float(min(np.nanmin(first), np.nanmin(second))) - 0.06)
    plane = Plane(
        *marks,
        x=Axis("similarity (1: equal)", low=least, high=1.12),
        y=Axis(names=list(before)),
        height=40 + 40 * len(y),
    )
    return View(title=title, alt=alt, table=table, picture=Picture(plane))


def cka_film_view(
    maps: Sequence[Any],
    layers_x: Sequence[str],
    layers_y: Sequence[str],
    captions: Sequence[str],
    *,
    names: tuple[str, str] = ("student", "teacher"),
    title: str = "CKA through training",
) -> View:
    """Small maps of the same layers one after the other, on one colour scale.

    Args:
        maps: each ``(L1, L2)``; at most twelve.
        layers_x, layers_y, names: as in :func:`workbench.views.cka.cka_map_view`.
        captions: one per map.

    Raises:
        ValueError: none or more than twelve maps, or shapes, names and captions that do not fit.
    """
    arrays = [as_array(f"maps[{i}]", m, ndim=2) for i, m in enumerate(maps)]
    if not 1 <= len(arrays) <= 12 or any(a.shape != (len(layers_x), len(layers_y)) for a in arrays):
        raise ValueError(
            f"maps must hold one to twelve of shape {(len(layers_x), len(layers_y))}, got {[a.shape for a in arrays]}."
        )
    said = check_names("captions", captions, len(arrays))
    means = [float(np.nanmean(a)) for a in arrays]
    deepest = [float(a[-1, -1]) for a in arrays]
    alt = (
        f"{len(arrays)} maps from {said[0]} to {said[-1]}: mean CKA goes from {means[0]:.2f} to {means[-1]:.2f}, "
        f"{names[0]} {layers_x[-1]} against {names[1]} {layers_y[-1]} from {deepest[0]:.2f} to {deepest[-1]:.2f}."
    )
    table = pd.DataFrame({"map": said, "mean CKA": means, f"{layers_x[-1]} / {layers_y[-1]}": deepest})

    low = min(0.0, *(float(np.nanmin(a)) for a in arrays))
    heats = [
        Heat(
            values=a,
            rows=layers_x,
            columns=layers_y,
            colours=Colours(low, 1.0, "CKA"),
            row_label=names[0],
            column_label=names[1],
            title=said[k],
            unnamed=True,
        )
        for k, a in enumerate(arrays)
    ]
    return View(title=title, alt=alt, table=table, picture=Picture(*heats, columns=min(len(arrays), 4)))


def gram_view(
    grams: Mapping[str, Any],
    labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    title: str = "Which images does each layer find alike?",
) -> View:
    """Centred Gram matrices of the same samples side by side, samples sorted by class.

    Args:
        grams: name -> ``(N, N)`` centred Gram (:func:`kdcore.functional.gram.center_gram`), up to three; each is
            drawn relative to its largest entry off the diagonal.
        labels: ``(N,)`` class of each sample.
        class_names: names by label.

    Raises:
        ValueError: none or more than three Grams, not square, labels that do not fit, or a Gram that is zero.
    """
    y = as_array("labels", labels, ndim=1).astype(int)
    arrays = {n: as_array(f"grams[{n!r}]", g, ndim=2) for n, g in grams.items()}
    if not 1 <= len(arrays) <= 3 or any(a.shape != (len(y), len(y)) for a in arrays.values()):
        raise ValueError(
            f"grams must hold one to three of shape {(len(y), len(y))}, one row per label, got "
            f"{[a.shape for a in arrays.values()]}."
        )
    order = np.argsort(y, kind="stable")
    y = y[order]
    off = ~np.eye(len(y), dtype=bool)
    shown = {}
    for n, a in arrays.items():
        largest = float(np.abs(a[off]).max(initial=0.0))
        if not largest > 0:
            raise ValueError(f"grams[{n!r}] is zero off the diagonal: all samples are equally far from each other.")
        shown[n] = a[order][:, order] / largest
    same = y[:, None] == y
    means = {
        n: (
            float(a[same & off].mean()) if (same & off).any() else np.nan,
            float(a[~same].mean()) if (~same).any() else np.nan,
        )
        for n, a in shown.items()
    }
    words = "; ".join(
        f"{n} {told(inside, '+.2f')} within a class and {told(across, '+.2f')} between classes"
        for n, (inside, across) in means.items()
    )
    classes, starts = np.unique(y, return_index=True)
    names = check_names("class_names", class_names, max(int(classes.max()) + 1, len(class_names or ())))
    table = pd.DataFrame(
        {
            "layer": list(means),
            "within a class": [m[0] for m in means.values()],
            "between classes": [m[1] for m in means.values()],
        }
    )

    of = [names[c] for c in y]
    heats = [
        Heat(
            values=a,
            rows=of,
            columns=of,
            colours=Colours(-1, 1, "alike (+) or opposite (−)", "diverging"),
            groups=[(int(start), names[c]) for start, c in zip(starts, classes, strict=True)],
            column_label="images, by class",
            title=n,
            square=True,
        )
        for n, a in shown.items()
    ]
    words_ = f"{len(y)} images. Mean similarity, relative to the largest: {words}."
    return View(title=title, alt=words_, table=table, picture=Picture(*heats))


__all__ = [
    "batch_estimates_view",
    "cka_film_view",
    "cka_grid_view",
    "gram_view",
    "layer_identification_view",
    "similarity_profile_view",
]
