"""What all shared builders promise: read and drawn for one thing and for a hundred, whatever the names are."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from workbench import views as V
from workbench.views.base import View
from workbench.views.theme import DARK, LIGHT, Theme

KINDS = ("sweet pepper by the window", "willow tree", "cockroach under the lawn mower", "pickup truck", "boy")
LONG = [f"{KINDS[i % 5]}, class {i}" for i in range(100)]
HOSTILE = ["<b>bold</b>", r"$\frac{$", "[/x]", "🐟🐠", "שלום עולם", "魚の水槽", "", "a\nb\tc", "x" * 300, "%s {0} \\"]


def bars(names: list[str]) -> View:
    values = np.random.default_rng(0).uniform(0.2, 0.9, (len(names), 3))
    return V.bars_view(
        values,
        names,
        ["CE", "KD", names[0]],
        intervals=np.stack([values - 0.05, values + 0.05], -1),
        reference={"chance": 0.1},
        mark=np.arange(len(names)) == len(names) // 2,
    )


def one_series(names: list[str]) -> View:
    return V.bars_view(np.random.default_rng(0).normal(size=len(names)), names, value_label=names[0])


def panels(names: list[str]) -> View:
    return V.bars_view(np.random.default_rng(0).normal(size=(len(names), 5)), names, (names * 5)[:5], panels=True)


def histogram(names: list[str]) -> View:
    rng = np.random.default_rng(0)
    return V.histogram_view({n: rng.normal(size=30) for n in names}, threshold={names[0]: 0.5}, value_label=names[-1])


def overlay(names: list[str]) -> View:
    rng = np.random.default_rng(0)
    return V.overlay_view(rng.normal(size=(len(names), 4, 4)), rng.uniform(size=(len(names), 8, 8)), names)


def steps(names: list[str]) -> View:
    rng, n = np.random.default_rng(0), len(names)
    return V.step_gallery_view(rng.uniform(size=(n, n, 4, 4)), names, names, values=1e5 * rng.normal(size=(n, n)))


def tokens(names: list[str]) -> View:
    return V.token_sequence_view([names] * 3, np.random.default_rng(0).normal(size=(3, len(names))), [*names[:1]] * 3)


def graph(names: list[str]) -> View:
    rng, n = np.random.default_rng(0), len(names)
    return V.graph_view(names, rng.integers(0, n, (2, 2 * n)), classes=np.arange(n), class_names=names)


def valued_graph(names: list[str]) -> View:
    rng, n = np.random.default_rng(0), len(names)
    return V.graph_view(names, rng.integers(0, n, (2, n)), values=rng.normal(size=n), value_label=names[0])


def paths(names: list[str]) -> View:
    rng = np.random.default_rng(0)
    walks = {n: rng.uniform(0, 5, 2) + rng.normal(size=(6, 2)).cumsum(0) * 0.2 for n in names}
    grid = np.linspace(-1, 6, 9)
    return V.trajectory_view(walks, background=(grid, grid, np.add.outer(grid, grid)), background_label=names[0])


BUILDERS = [bars, one_series, panels, histogram, overlay, steps, tokens, graph, valued_graph, paths]


def texts(figure: Figure) -> list[Text]:
    """All texts that are drawn; ticks outside the axes are not."""
    found = []
    for ax in figure.axes:
        for axis, low, high in ((ax.xaxis, *sorted(ax.get_xlim())), (ax.yaxis, *sorted(ax.get_ylim()))):
            if axis.get_visible() and ax.axison:
                ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
                found += [t for tick in ticks for t in (tick.label1, tick.label2)] + [axis.label]
        found += [*ax.texts, ax.title, ax._left_title]
    found += [t for legend in figure.legends for t in legend.get_texts()] + figure.texts
    return [t for t in found if t.get_visible() and t.get_text().strip()]


@pytest.mark.parametrize(
    ("names", "theme"),
    [(LONG[:1], DARK), (LONG[:3], LIGHT), (LONG[:10], LIGHT), (LONG, DARK), (HOSTILE, LIGHT)],
    ids=["1", "3", "10", "100", "hostile"],
)
@pytest.mark.parametrize("build", BUILDERS, ids=lambda f: f.__name__)
def test_no_text_overlaps_and_all_fits_a_column(
    build: Callable[[list[str]], View], names: list[str], theme: Theme
) -> None:
    figure = build(names).figure(theme)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = texts(figure)
    assert shown, "names are drawn"
    boxes = np.array([t.get_window_extent().extents for t in shown])
    over = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    pairs = np.argwhere(np.triu((over > 1.5).all(-1), 1))
    assert not len(pairs), [(shown[i].get_text(), shown[j].get_text()) for i, j in pairs[:5]]
    size = figure.get_tightbbox()
    assert 100 * size.width + 16 <= 900 and 100 * size.height + 16 <= 1200, "as it is saved, at 100 dots an inch"
    pixels = np.asarray(canvas.buffer_rgba(), dtype=float)[..., :3]
    paper = np.array([int(theme.paper[i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(pixels - paper).max(-1) > 60).mean() > 0.002, "something is drawn"


@pytest.mark.parametrize("names", [LONG[:1], LONG, HOSTILE], ids=["1", "100", "hostile"])
@pytest.mark.parametrize("build", BUILDERS, ids=lambda f: f.__name__)
def test_words_and_table_hold_the_names_as_they_are(build: Callable[[list[str]], View], names: list[str]) -> None:
    view = build(names)
    assert view.title and re.search(r"\d", view.alt) and not re.search(r"\b(nan|inf)\b", view.alt)
    assert view.alt.endswith(".") and ".." not in view.alt.replace("...", "")
    held = {str(v) for v in view.table.to_numpy().ravel()} | {str(c) for c in view.table.columns}
    assert all(n in held for n in names), "the table holds every name in full"
    assert names is not HOSTILE or "<b>bold" not in view.html(dark=False), "names are data, never mark-up"


@pytest.mark.parametrize("build", BUILDERS, ids=lambda f: f.__name__)
def test_a_hundred_are_drawn_quickly(build: Callable[[list[str]], View]) -> None:
    view = build(LONG)
    start = time.process_time()
    view.png(DARK)
    assert time.process_time() - start < 1.5, "0.2 to 0.5 s; most of the rest is for loaded machines"


def test_builders_do_not_change_what_they_are_given() -> None:
    maps, images = np.zeros((2, 3, 3)), np.random.default_rng(0).normal(size=(2, 3, 3))
    kept = images.copy()
    V.overlay_view(maps, images).png()
    V.step_gallery_view(images[None]).png()
    edges = np.array([[1, 0], [0, 1]])
    V.graph_view(2, edges, weights=[1.0, 2.0]).png()
    assert (images == kept).all() and edges.tolist() == [[1, 0], [0, 1]] and not maps.any()
