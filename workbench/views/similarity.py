"""Similarity of representations: maps to hover over, layers found again, batch estimates, blind spots, films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kdcore.html import Html, join, tag

from .base import _STYLE, View
from .cka import cka_map_view
from .drawing import WIDTH, Array, as_array, check_names, heatmap, legend_above, subplots
from .theme import CATEGORICAL, DASHES, DIVERGING, MARKERS, SEQUENTIAL, Theme, text_colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdcore.cka_maps import BatchEstimate

_RIGHT, _WRONG = "#009E73", "#D55E00"


@dataclass(kw_only=True)
class TableView(View):
    """A view whose page form is a coloured table instead of a picture: every cell can be hovered over and read aloud.

    Attributes:
        cells: the table as HTML; figures and reports on paper use ``draw``.
    """

    cells: str

    def html(self, *, table: bool = True, style: bool = True, dark: bool = True) -> str:
        """A ``<figure>`` with the coloured table and the description; colours suit light and dark pages."""
        shown = tag("div", Html(self.cells), style="overflow-x:auto")
        words = tag("figcaption", tag("b", f"{self.title}."), " ", self.alt)
        return join((Html(_STYLE if style else ""), tag("figure", shown, words, class_="kd-view")))


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
    picture = cka_map_view(matrix, layers_x, layers_y, names=names, title=title)
    array = as_array("matrix", matrix, ndim=2)
    words_x, words_y = _with_shapes("shapes_x", layers_x, shapes_x), _with_shapes("shapes_y", layers_y, shapes_y)
    return TableView(
        title=picture.title,
        alt=picture.alt,
        table=picture.table,
        draw=picture.draw,
        picture=picture.picture,
        interactive=picture.interactive,
        cells=_cells(array, words_x, words_y, names),
    )


def _with_shapes(argument: str, layers: Sequence[str], shapes: Sequence[str] | None) -> list[str]:
    if shapes is None:
        return list(layers)
    return [
        f"{layer} ({shape})" for layer, shape in zip(layers, check_names(argument, shapes, len(layers)), strict=True)
    ]


def _cells(array: Array, words_x: Sequence[str], words_y: Sequence[str], names: tuple[str, str]) -> Html:
    def th(word: str, scope: str) -> Html:
        layer, _, shape = word.partition(" (")
        small = join((tag("br"), tag("small", shape.rstrip(")")))) if shape else ""
        return tag("th", layer, small, scope=scope, style="font-weight:normal")

    rows = []
    for word_x, values in zip(words_x, array, strict=True):
        best = int(np.nanargmax(values)) if np.isfinite(values).any() else -1
        cells = (
            _cell(value, f"{names[0]} {word_x}, {names[1]} {word_y}", j == best)
            for j, (word_y, value) in enumerate(zip(words_y, values, strict=True))
        )
        rows.append(tag("tr", th(word_x, "row"), *cells))
    sides = tag("small", f"rows: {names[0]}", tag("br"), f"columns: {names[1]}")
    head = tag("tr", tag("td", sides, style="text-align:left"), *(th(word, "col") for word in words_y))
    return tag("table", tag("thead", head), tag("tbody", *rows))


def _cell(value: float, words: str, best: bool) -> Html:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if not np.isfinite(value):
        return tag("td", "–", title=f"{words}: undefined, a layer is constant")
    colour = colormaps[SEQUENTIAL](min(max(value, 0.0), 1.0))[:3]
    frame = f";outline:3px solid {_WRONG};outline-offset:-3px;font-weight:bold" if best else ""
    return tag(
        "td",
        f"{value:.2f}",
        title=f"{words}: CKA {value:.3f}{', best of the row' if best else ''}",
        style=f"text-align:center;background:{to_hex(colour)};color:{text_colour(colour)};padding:.45em .6em{frame}",
    )


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

    def draw(theme: Theme) -> Figure:
        figure, axes = subplots(
            WIDTH,
            1.6 + 0.34 * len(layers) + (0.4 if len(arrays) == 1 else 0),
            1,
            len(arrays),
            sharey=True,
            squeeze=False,
        )
        for ax, (n, a) in zip(axes[0], arrays.items(), strict=True):
            image = heatmap(
                ax, a, theme, rows=layers, columns=layers, vmin=min(0.0, float(np.nanmin(a))), vmax=1.0, room=30
            )
            right = best[n] == own
            for mask, marker, colour, label in ((right, "o", _RIGHT, "right"), (~right, "X", _WRONG, "wrong")):
                ax.scatter(
                    best[n][mask],
                    own[mask],
                    marker=marker,
                    s=90,
                    color=colour,
                    edgecolors="#ffffff",
                    linewidths=1.2,
                    label=f"best in row: {label}",
                )
            ax.set_title(f"{n}: {int(right.sum())} of {len(layers)}")
            ax.set_xlabel(f"layers of the {names[1]}")
        axes[0, 0].set_ylabel(f"layers of the {names[0]}")
        figure.colorbar(image, ax=list(axes[0]), label="similarity", fraction=0.04, pad=0.02)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
        return figure

    return View(title=title, alt=alt + ".", table=table, draw=draw)


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
    array = as_array("whole", whole, ndim=2)
    chosen = next((e for e in estimates if e.batch_size == batch_size), None)
    if chosen is None:
        raise ValueError(
            f"batch_size must be one of {', '.join(str(e.batch_size) for e in estimates) or 'none'}, got "
            f"{batch_size!r}."
        )
    kinds = {"mean of biased batches": "naive", "minibatch CKA (unbiased)": "minibatch"}
    maps = {
        kind: [as_array(f"estimates.{name}", getattr(e, name), ndim=2) for e in estimates]
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

    def draw(theme: Theme) -> Figure:
        figure, (left, right) = subplots(WIDTH, 4.0, 1, 2)
        left.axhline(array.mean(), color=theme.ink, linewidth=1.4, label="whole set")
        left.axvline(batch_size, color=theme.muted, linestyle=":", linewidth=1.4)
        for i, (kind, ms) in enumerate(maps.items()):
            style: dict[str, Any] = {"color": CATEGORICAL[1 - i], "marker": MARKERS[i]}
            left.plot(sizes, [m.mean() for m in ms], linestyle=DASHES[i], markersize=6, label=kind, **style)
            right.scatter(
                array.ravel(),
                ms[sizes.index(batch_size)].ravel(),
                s=22,
                alpha=0.8,
                edgecolors=theme.ink,
                linewidths=0.3,
                **style,
            )
        ends = [min(0.0, float(array.min())), 1.0]
        right.plot(ends, ends, color=theme.ink, linewidth=1.2)
        left.set_xscale("log", base=2)
        left.set_xticks(sizes, [str(n) for n in sizes])
        left.set(xlabel="batch size", ylabel="CKA, mean over all pairs of layers")
        right.set(
            xlabel="CKA of the whole set",
            ylabel=f"estimate at batch size {batch_size}",
            title="each point a pair of layers",
        )
        legend_above(left, 1)
        return figure

    return View(title=title or f"CKA from batches of {batch_size}", alt=alt, table=table, draw=draw)


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
    blind = [n for n, c in zip(before, change, strict=True) if abs(c) < 0.01]
    most = int(np.abs(change).argmax())
    alt = (
        f"From {labels[0]} to {labels[1]}: "
        + "; ".join(f"{n} {a:.2f} to {b:.2f}" for n, a, b in zip(before, first, second, strict=True))
        + ". "
        + (f"Changed by less than 0.01: {', '.join(blind)}. " if blind else "Every measure changes. ")
        + (f"{list(before)[most]} changes most, by {change[most]:+.2f}." if np.abs(change).max() >= 0.01 else "")
    )
    table = pd.DataFrame({"measure": list(before), labels[0]: first, labels[1]: second, "change": change})
    if reference:
        table["unrelated"] = [reference.get(n, np.nan) for n in before]

    def draw(theme: Theme) -> Figure:
        figure, ax = subplots(7.6, 1.2 + 0.48 * len(first))
        y = np.arange(len(first))
        ax.hlines(y, first, second, color=theme.muted, linewidth=2.5)
        ax.scatter(second, y, s=60, color=CATEGORICAL[5], marker="D", zorder=3, label=labels[1])
        ax.scatter(
            first,
            y,
            s=190,
            facecolors="none",
            edgecolors=CATEGORICAL[4],
            linewidths=2,
            marker="o",
            zorder=3,
            label=labels[0],
        )
        if reference:
            at = [list(before).index(n) for n in reference]
            ax.scatter([*reference.values()], at, s=160, color=theme.ink, marker="|", label="unrelated")
        for i, value in enumerate(second):
            ax.annotate(f"{value:.2f}", (value, i), (0, 10), textcoords="offset points", ha="center", fontsize=9.5)
        ax.set_yticks(y, list(before))
        ax.set(
            ylim=(len(first) - 0.4, -0.75),
            xlim=(min(-0.06, float(min(first.min(), second.min())) - 0.06), 1.08),
            xlabel="similarity (1: equal)",
        )
        legend_above(ax, 3)
        return figure

    return View(title=title, alt=alt.strip(), table=table, draw=draw)


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

    def draw(theme: Theme) -> Figure:
        columns = min(len(arrays), 4)
        rows = -(-len(arrays) // columns)
        figure, axes = subplots(WIDTH, 0.5 + 2.35 * rows, rows, columns, squeeze=False)
        low = min(0.0, *(float(np.nanmin(a)) for a in arrays))
        for k, ax in enumerate(axes.flat):
            if k >= len(arrays):
                ax.set_visible(False)
                continue
            image = heatmap(
                ax, arrays[k], theme, rows=[""] * len(layers_x), columns=[""] * len(layers_y), vmin=low, vmax=1.0
            )
            ax.set_title(said[k])
        for ax in axes[:, 0]:
            ax.set_ylabel(f"{names[0]}, first to last")
        for ax in axes[-1]:
            ax.set_xlabel(f"{names[1]}, first to last")
        figure.colorbar(image, ax=list(axes.flat), label="CKA", fraction=0.03, pad=0.02)
        return figure

    return View(title=title, alt=alt, table=table, draw=draw)


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
        f"{n} {inside:+.2f} within a class and {across:+.2f} between classes" for n, (inside, across) in means.items()
    )
    classes, starts = np.unique(y, return_index=True)
    names = check_names("class_names", class_names, int(classes.max()) + 1)
    table = pd.DataFrame(
        {
            "layer": list(means),
            "within a class": [m[0] for m in means.values()],
            "between classes": [m[1] for m in means.values()],
        }
    )

    def draw(theme: Theme) -> Figure:
        figure, axes = subplots(WIDTH, 4.2 if len(shown) > 1 else 5.2, 1, len(shown), squeeze=False)
        centres = (starts + np.append(starts[1:], len(y))) / 2 - 0.5
        for ax, (n, a) in zip(axes[0], shown.items(), strict=True):
            image = ax.imshow(a, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
            for start in starts[1:]:
                ax.axhline(start - 0.5, color="#777777", linewidth=0.6)
                ax.axvline(start - 0.5, color="#777777", linewidth=0.6)
            ax.set_xticks(centres, [names[c] for c in classes])
            ax.set_yticks(centres, [names[c] for c in classes])
            ax.grid(False)
            ax.tick_params(length=0)
            ax.set(title=n, xlabel="images, by class")
        figure.colorbar(image, ax=list(axes[0]), label="alike (+) or opposite (−)", fraction=0.035, pad=0.02)
        return figure

    return View(
        title=title, alt=f"{len(y)} images. Mean similarity, relative to the largest: {words}.", table=table, draw=draw
    )


__all__ = [
    "batch_estimates_view",
    "cka_film_view",
    "cka_grid_view",
    "gram_view",
    "layer_identification_view",
    "similarity_profile_view",
]
