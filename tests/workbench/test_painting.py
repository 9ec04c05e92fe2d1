"""Still pictures from data: what is painted where, in both themes, whatever the names and however many."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from workbench.views.base import View
from workbench.views.drawing import WIDTH
from workbench.views.painting_sheet import MOST_KEYS, log_ticks, look, ticks_of, written
from workbench.views.picture import (
    Area,
    Arrows,
    Axis,
    Bars,
    Colours,
    Field,
    Graph,
    Heat,
    Histogram,
    Images,
    Line,
    Mark,
    Panel,
    Picture,
    Plane,
    Points,
    Ribbons,
    Rule,
    Simplex,
    Span,
    Table,
    Texts,
    Tokens,
)
from workbench.views.theme import DARK, LIGHT, Theme

KINDS = ("sweet pepper by the window", "willow tree", "cockroach under the lawn mower", "pickup truck", "boy")
LONG = [f"{KINDS[i % 5]}, class {i}" for i in range(100)]
HOSTILE = ["<b>bold</b>", r"$\frac{$", "[/x]", "🐟🐠", "שלום עולם", "魚の水槽", "", "a\nb\tc", "x" * 300, "%s {0} \\"]
UNIT = Colours(0, 1, "share of the images")
BLUE, ORANGE = to_rgb("#0072B2"), to_rgb("#E69F00")


def view(*panels: Panel, **layout: object) -> View:
    return View(title="t", alt="a", table=pd.DataFrame(), picture=Picture(*panels, **layout))  # type: ignore[arg-type]


def painted(figure: Figure) -> np.ndarray:
    """Pixels ``(H, W, 3)`` in [0, 1]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=float)[..., :3] / 255


def pixel(picture: np.ndarray, figure: Figure, x: float, y: float, axes: int = 1) -> np.ndarray:
    """The colour at a place of the first axes that are not the sheet (``axes=0``: the sheet, in inches)."""
    across, up = figure.axes[axes].transData.transform((x, y))
    return picture[int(len(picture) - up), int(across)]


def close(a: np.ndarray, b: tuple[float, ...] | np.ndarray, tolerance: float = 0.02) -> bool:
    return bool(np.abs(a - np.asarray(b)[:3]).max() <= tolerance)


def words(figure: Figure) -> list[Text]:
    """All texts that are drawn; ticks outside the axes are not."""
    found: list[Text] = []
    for ax in figure.axes:
        for axis, low, high in ((ax.xaxis, *sorted(ax.get_xlim())), (ax.yaxis, *sorted(ax.get_ylim()))):
            if axis.get_visible() and ax.axison:
                found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        found += ax.texts
    return [t for t in found if t.get_visible() and t.get_text().strip()]


def said(figure: Figure) -> list[str]:
    return [t.get_text().replace(r"\$", "$") for t in words(figure)]


# Names and room ------------------------------------------------------------------------------------------------------
def bars(names: list[str]) -> View:
    n, rng = len(names), np.random.default_rng(0)
    p, q = rng.uniform(0.1, 0.9, (2, n))
    return view(
        Plane(
            Bars("student", range(n), q, low=q - 0.05, high=q + 0.05, style="student"),
            Bars("teacher", range(n), p, style="teacher"),
            Rule(0.5, names[0]),
            x=Axis(names[-1], names=names, strong=[n // 2]),
            y=Axis("probability", low=0, high=1),
            title=names[0],
        )
    )


def lying(names: list[str]) -> View:
    values = np.random.default_rng(0).normal(size=(2, len(names)))
    both = [
        Bars(k, range(len(names)), v, lying=True, style=i) for i, (k, v) in enumerate(zip("ab", values, strict=True))
    ]
    plane = Plane(*both, y=Axis(names[0], names=names, strong=[0]), x=Axis("change"), title=names[-1])
    return view(plane, plane)


def lines(names: list[str]) -> View:
    rng = np.random.default_rng(0)
    marks = [Line(n, range(8), rng.normal(size=8), style=i) for i, n in enumerate(names)]
    return view(*[Plane(*marks, x=Axis("epoch"), y=Axis(names[0], percent=True), title=n) for n in (names * 3)[:3]])


def points(names: list[str]) -> View:
    x, y = np.random.default_rng(0).normal(size=(2, len(names)))
    span = Span(-0.5, 0.5, names[0])
    marks = (span, Points(names[0], x, y, texts=names), Texts(x + 0.1, y, names, anchor="start"))
    return view(Plane(marks[0], marks[1]), Plane(marks[0], marks[2], equal=True))


def heats(names: list[str]) -> View:
    n = len(names)
    values = np.random.default_rng(0).uniform(size=(n, n))
    shared = {"colours": UNIT, "rows": names, "columns": names, "row_label": names[0], "column_label": names[-1]}
    groups = [(0, names[0]), *([(n // 2, names[-1])] if n > 1 else [])]
    return view(
        Heat(values=values, numbers=".2f", title=names[0], **shared),
        Heat(values=values, square=True, groups=groups, **shared),
    )


def images(names: list[str]) -> View:
    n, rng = len(names), np.random.default_rng(0)
    many = Images(images=rng.uniform(size=(n, 6, 6)), captions=names, framed=[True] + [False] * (n - 1))
    over = Images(images=rng.uniform(size=(n, 6, 6, 3)), captions=names, maps=rng.uniform(size=(n, 3, 3)), colours=UNIT)
    return view(many, over)


def ribbons(names: list[str]) -> View:
    n = len(names)
    notes = [f"{i:.1f}" for i in range(n)]
    right = np.random.default_rng(0).permutation(n)
    return view(Ribbons(names=names, left=range(n), right=right, left_notes=notes, right_notes=notes, strong=[n // 2]))


def simplex(names: list[str]) -> View:
    rng = np.random.default_rng(0)
    chosen = {n: rng.dirichlet([1, 1, 1], size=1 + i % 2) for i, n in enumerate(names)}
    triangle = Simplex(corners=(names * 3)[:3], points=chosen, arrows={names[0]: [0.5, -0.25, -0.25]}, title=names[0])
    return view(triangle, triangle)


def tokens(names: list[str]) -> View:
    values = np.random.default_rng(0).uniform(size=(3, len(names)))
    return view(Tokens(tokens=[names] * 3, values=values, colours=UNIT, rows=(names * 3)[:3]))


def graph(names: list[str]) -> View:
    n, rng = len(names), np.random.default_rng(0)
    legend = {name: i for i, name in enumerate(names[:5])}
    places, edges = rng.normal(size=(n, 2)), rng.integers(0, n, (2, n))
    styles = [i % 5 for i in range(n)]
    return view(Graph(positions=places, edges=edges, names=names, styles=styles, legend=legend, directed=True))


def table(names: list[str]) -> View:
    share = np.random.default_rng(0).uniform(size=len(names))
    columns = {"class": names, names[0] + " ": share, "share": share, "known": [None, *[True] * (len(names) - 1)]}
    return view(Table(columns=columns, bars=["share"], title=names[0]), bars(names).picture.panels[0])  # type: ignore[union-attr]


BUILDERS = [bars, lying, lines, points, heats, images, ribbons, simplex, tokens, graph, table]


@pytest.mark.parametrize(
    ("names", "theme"),
    [(LONG[:1], DARK), (LONG[:3], LIGHT), (LONG[:10], DARK), (LONG, LIGHT), (HOSTILE, LIGHT)],
    ids=["1", "3", "10", "100", "hostile"],
)
@pytest.mark.parametrize("build", BUILDERS, ids=lambda f: f.__name__)
def test_no_text_overlaps_and_all_fits_a_column(
    build: Callable[[list[str]], View], names: list[str], theme: Theme
) -> None:
    figure = build(names).figure(theme)
    ink = painted(figure)
    shown = words(figure)
    assert shown, "names are drawn"
    boxes = np.array([t.get_window_extent().extents for t in shown])
    over = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    pairs = np.argwhere(np.triu((over > 1.5).all(-1), 1))
    assert not len(pairs), [(shown[i].get_text(), shown[j].get_text()) for i, j in pairs[:5]]
    assert figure.get_size_inches()[0] <= WIDTH + 1e-6
    assert (boxes[:, :2] > -2).all() and (boxes[:, 2:] < 2 + 100 * figure.get_size_inches()).all(), "nothing is cut"
    assert figure.get_size_inches()[1] <= 16, "and does not grow without end"
    assert (np.abs(ink - to_rgb(theme.paper)).max(-1) > 0.25).mean() > 0.002, "something is drawn"


def test_hostile_names_are_drawn_literally() -> None:
    shown = said(lying(HOSTILE).figure())
    for name in ("<b>bold</b>", r"$\frac{$", "[/x]", "שלום עולם", "a b c", "%s {0} \\"):
        assert name in shown
    assert "□□" in shown, "a box stands for each letter that the font lacks"


# Marks: where ink must be --------------------------------------------------------------------------------------------
AXES = {"x": Axis("x", low=0, high=4), "y": Axis("y", low=0, high=4)}
FLAT = Colours(0, 4, "height")
#: A mark, a place that it covers, one that it leaves open, and the colour there (none: any ink).
MARKS: dict[str, tuple[Mark, tuple[float, float], tuple[float, float], str | None]] = {
    "line": (Line("a", [0, 4], [2, 2], style=1, fine=False, dots=False), (0.3, 2), (2, 3), "#E69F00"),
    "gap": (Line("a", [0, 1, 2, 3, 4], [2, 2, np.nan, 2, 2], dots=False), (0.5, 2), (2, 2), "#0072B2"),
    "band": (Line("a", [0, 4], [2, 2], [1, 1], [3, 3]), (2, 2.7), (2, 3.5), None),
    "points": (Points("a", [1], [3], size=20), (1, 3), (2, 2), "#0072B2"),
    "coloured": (Points("a", [1], [3], values=[4.0], size=20), (1, 3), (2, 2), "#FDE737"),
    "ring": (Points("a", [1.5], [2.5], size=30, ring=True), (1.575, 2.5), (1.5, 2.47), None),
    "pairs": (Points("", [1], [1], to=[[3, 3]]), (2, 2), (2, 3), None),
    "standing": (Bars("a", [1], [3], width=1), (1, 1.5), (1.25, 3.5), "#0072B2"),
    "lying bar": (Bars("a", [1], [3], width=1, lying=True), (1.5, 1), (3.5, 1.25), "#0072B2"),
    "interval": (Bars("a", [1], [1], low=[0.5], high=[3], width=1), (1, 2.5), (1.25, 3.5), LIGHT.ink),
    "histogram": (Histogram("a", [0, 1, 2], [1, 3]), (1.5, 2.5), (0.5, 2.5), None),
    "rule": (Rule(2, "half", style="bad"), (0.1, 2), (0.1, 3), "#D55E00"),
    "upright": (Rule(2, axis="x"), (2, 3.9), (3, 3.9), LIGHT.ink),
    "corner": (Rule(0, axis="both"), (3, 3), (3, 1), None),
    "span": (Span(1, 2, axis="x"), (1.5, 1.5), (2.5, 1.5), None),
    "span of y": (Span(1, 2, axis="y"), (1.5, 1.5), (1.5, 2.5), None),
    "arrows": (Arrows("a", [1], [1], [2], [0], style=2), (1.5, 1), (3.5, 1.5), "#009E73"),
    "area": (Area("a", [1, 3, 3, 1], [1, 1, 3, 3], opacity=0.9), (2.5, 2.5), (3.5, 3.5), None),
    "field": (Field([[4, 0], [0, 4.0]], (0, 2), (0, 2), FLAT, cells=True), (0.3, 0.3), (3.5, 3.5), "#FDE737"),
}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
@pytest.mark.parametrize("name", MARKS)
def test_every_mark_leaves_ink_where_its_data_are(name: str, theme: Theme) -> None:
    mark, inside, outside, colour = MARKS[name]
    # an empty plane beside it keeps the sizes: what differs between both is the mark
    bare = view(Plane(**AXES, colours=FLAT, height=220)).figure(theme)
    figure = view(Plane(mark, **AXES, colours=FLAT, height=220)).figure(theme)
    ink, without = painted(figure), painted(bare)
    around = pixel(without, bare, *inside)
    assert not close(pixel(ink, figure, *inside), around, 0.04), "the mark is there"
    for x in np.linspace(outside[0] - 0.02, outside[0] + 0.02, 3):
        assert close(pixel(ink, figure, x, outside[1] + 0.03), pixel(without, bare, x, outside[1] + 0.03))
    expected = theme.ink if colour == LIGHT.ink else colour
    if expected is not None:
        assert close(pixel(ink, figure, *inside), to_rgb(expected), 0.1)


def test_the_height_of_bars_is_proportional_to_their_values() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 0.0])
    figure = view(Plane(Bars("a", range(5), values), x=Axis(names=list("abcde")), y=Axis(low=0, high=5))).figure()
    blue = np.abs(painted(figure) - BLUE).max(-1) < 0.02
    at = [int(figure.axes[1].transData.transform((i, 0))[0]) for i in range(5)]
    heights = blue[:, at].sum(0)
    whole = np.ptp(figure.axes[1].transData.transform([(0, 0), (0, 5)])[:, 1])
    np.testing.assert_allclose(heights, np.nan_to_num(values) / 5 * whole, atol=2.1)


def test_series_stand_side_by_side_and_stacked_ones_on_each_other() -> None:
    names = Axis(names=["a", "b"])
    beside = view(Plane(Bars("l", [0, 1], [4, 4]), Bars("r", [0, 1], [4, 4], style=4), x=names)).figure()
    ink = painted(beside)
    assert close(pixel(ink, beside, -0.2, 0.03), BLUE, 0.35) and close(
        pixel(ink, beside, 0.21, 0.05), to_rgb("#56B4E9"), 0.4
    )
    stacked = view(Plane(Bars("l", [0, 1], [1, 2]), Bars("t", [0, 1], [2, 1], style=4, stacked=True), x=names)).figure()
    assert stacked.axes[1].get_ylim()[1] == pytest.approx(3.15)
    ends = [c.get_paths()[0].vertices[:, 1] for c in stacked.axes[1].collections]
    assert [(e.min(), e.max()) for e in ends] == [(0, 1), (1, 3)]
    alone = view(Plane(Bars("l", [0], [1]), Bars("r", [1], [1]), x=names)).figure()
    widths = [np.ptp(c.get_paths()[0].vertices[:, 0]) for c in alone.axes[1].collections]
    assert widths == pytest.approx([0.752, 0.752]), "series that share no position have it for themselves"


def test_logarithmic_axes_and_those_that_grow_downwards() -> None:
    x = np.logspace(-3, 3, 7)
    log = view(Plane(Line("a", x, x), x=Axis(log=True), y=Axis(log=True, low=1e-4))).figure()
    places = log.axes[1].transData.transform(np.stack([x, x], 1))
    steps = np.diff(places, axis=0)
    assert steps == pytest.approx(np.broadcast_to(steps[0], steps.shape))
    assert {"0.01", "1", "1000"} <= set(said(log))
    bars_on_log = view(Plane(Bars("a", [0], [100]), x=Axis(names=["a"]), y=Axis(log=True, low=1, high=1000))).figure()
    ink = painted(bars_on_log)
    assert close(pixel(ink, bars_on_log, 0, 50), BLUE) and not close(pixel(ink, bars_on_log, 0, 200), BLUE)
    down = view(Plane(Line("a", [0, 1], [1, 9]), y=Axis(down=True))).figure()
    low, high = down.axes[1].transData.transform([(0, 1), (0, 9)])[:, 1]
    assert low > high


def test_a_unit_is_as_long_on_both_axes_where_that_is_asked() -> None:
    for height in (None, 150, 60):
        plane = Plane(Points("", [0, 10, 3], [0, 2, 1]), equal=True, height=height)
        ax = view(plane).figure().axes[1]
        across, up = np.diff(ax.transData.transform([(0, 0), (1, 1)]), axis=0)[0]
        assert across == pytest.approx(up, rel=1e-3)
        assert ax.get_xlim()[0] < 0 < 10 < ax.get_xlim()[1] and ax.get_ylim()[0] < 0 < 2 < ax.get_ylim()[1]


def test_words_beside_points_and_named_spans() -> None:
    shown = said(view(Plane(Points("", [0, 1], [0, 1], texts=["start", "end"]), Span(0.2, 0.8, "warm-up"))).figure())
    assert {"start", "end", "warm-up"} <= set(shown)
    crowd = view(Plane(Texts([0, 0, 1], [0, 0, 1], ["first", "hidden", "far"]))).figure()
    assert "first" in said(crowd) and "far" in said(crowd) and "hidden" not in said(crowd)


def test_ticks_are_percents_names_or_left_out() -> None:
    assert {"0 %", "20 %", "100 %"} <= set(said(view(Plane(Line("", [0, 1], [0, 1]), y=Axis(percent=True))).figure()))
    hidden = said(view(Plane(Line("", [0, 1], [0, 1]), x=Axis("alone", hidden=True), y=Axis(hidden=True))).figure())
    assert hidden == ["alone"]
    own = said(view(Plane(Line("", [1, 20], [0, 1]), x=Axis(ticks=[1, 2, 5, 20]), y=Axis(hidden=True))).figure())
    assert own == ["1", "5", "20"] or own == ["1", "2", "5", "20"]
    epochs = said(view(Plane(Line("", [0, 1, 2], [0, 1, 4]))).figure())
    assert all("." not in w for w in epochs), "between whole numbers there is nothing to name"


# Panels --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", ["sequential", "diverging", "grey"])
def test_the_cells_of_a_heat_map_have_the_colour_of_their_value(scheme: str) -> None:
    values = np.linspace(-1, 2, 12).reshape(3, 4)
    values[1, 1] = np.nan
    figure = view(Heat(values=values, colours=Colours(-0.5, 1.5, "v", scheme=scheme))).figure(DARK)
    ink = painted(figure)
    cmap = colormaps[{"sequential": "cividis", "diverging": "PuOr", "grey": "gray"}[scheme]]
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            assert close(pixel(ink, figure, j + 0.2, i + 0.2), cmap(np.clip((value + 0.5) / 2, 0, 1)), 0.005), (i, j)
    open_cell = [pixel(ink, figure, 1 + dx, 1.0) for dx in np.linspace(-0.4, 0.4, 40)]
    assert any(close(p, to_rgb(DARK.paper)) for p in open_cell) and len({tuple(p) for p in open_cell}) > 1, "hatched"


def test_numbers_stand_in_cells_where_they_can_be_read() -> None:
    values = np.array([[0.0, 1.0], [np.nan, -0.25]])
    shown = said(view(Heat(values=values, colours=Colours(-1, 1, "v"), numbers=".2f")).figure())
    assert {"0.00", "1.00", "−0.25"} <= set(shown) and "nan" not in shown
    crowded = view(Heat(values=np.zeros((80, 80)), colours=UNIT, numbers=".3f")).figure()
    assert "0.000" not in said(crowded)


def test_panels_share_one_colour_bar_and_one_legend() -> None:
    heat = Heat(values=np.eye(3), colours=UNIT)
    assert said(view(heat, heat).figure()).count("share of the\nimages") == 1
    other = Heat(values=np.eye(3), colours=Colours(0, 2, "loss"))
    shown = said(view(heat, other).figure())
    assert shown.count("share of the\nimages") == 1 and shown.count("loss") == 1
    both = Plane(Line("CE", [0, 1], [0, 1]), Line("KD", [0, 1], [1, 0], style=1))
    assert said(view(both, both).figure()).count("KD") == 1
    single = Plane(Line("CE", [0, 1], [0, 1]))
    assert "CE" not in said(view(single, single).figure()), "one name says no more than the title"
    assert any("chance" in w for w in said(view(Plane(Line("", [0, 1], [0, 1]), Rule(0.1, "chance"))).figure()))


def test_bars_that_look_different_have_no_one_entry_in_the_legend() -> None:
    marks = Bars("accuracy", [0, 1], [1, 2], styles=[0, 5]), Line("trend", [0, 1], [1, 2])
    shown = said(view(Plane(*marks, x=Axis(names=["a", "b"]))).figure())
    assert "trend" in shown and "accuracy" not in shown


def test_colour_bars_of_different_scales_stand_beside_their_own_panels() -> None:
    heats = [Heat(values=np.eye(2), colours=Colours(0, k, f"scale {k}")) for k in (1, 2)]
    figure = view(*heats).figure()
    at = {t.get_text(): t.get_position()[0] / figure.get_size_inches()[0] for t in figure.axes[0].texts}
    first, second = (ax.get_position() for ax in figure.axes[1:])
    assert first.x1 < at["scale 1"] < second.x0 < second.x1 < at["scale 2"]


def test_a_legend_has_an_end() -> None:
    marks = [Line(f"run {i}", [0, 1], [i, i], style=i) for i in range(MOST_KEYS + 7)]
    shown = said(view(Plane(*marks)).figure())
    assert "and 7 more: see the table" in shown and "run 23" in shown and "run 24" not in shown


def test_images_and_maps_over_them_keep_their_pixels() -> None:
    image = np.array([[0.75, 1.0], [0.25, 0.5]])
    cover = np.array([[np.nan, 0.0], [1.0, 1.0]])
    for maps in (None, cover[None]):
        over = {} if maps is None else {"maps": maps, "colours": UNIT, "opacity": 0.5}
        figure = view(Images(images=image[None], captions=["one"], size=100, **over)).figure()
        ink, left, top = painted(figure), *_corner(painted(figure), round(image[0, 0] * 255) / 255)
        for (i, j), grey in np.ndenumerate(image):
            expected = np.repeat(round(grey * 255) / 255, 3)
            if maps is not None and np.isfinite(cover[i, j]):
                expected = 0.5 * expected + 0.5 * np.array(colormaps["cividis"](cover[i, j])[:3])
            assert close(ink[top + 25 + 50 * i, left + 25 + 50 * j], expected, 0.01), (i, j)


def _corner(ink: np.ndarray, grey: float) -> tuple[int, int]:
    """Left and top of the first block of 20 x 20 pixels of one grey."""
    same = np.abs(ink - grey).max(-1) < 0.01
    for top, left in np.argwhere(same):
        if same[top : top + 20, left : left + 20].all():
            return int(left), int(top)
    raise AssertionError("there is no such block")


def test_ribbons_stand_in_their_orders() -> None:
    figure = view(Ribbons(names=["a", "b", "c"], left=[0, 1, 2], right=[2, 0, 1], right_title="student")).figure()
    painted(figure)
    names = [t for t in words(figure) if t.get_text() in "abc"]
    left = [t.get_text() for t in names if t.get_ha() == "right"]
    right = sorted((t for t in names if t.get_ha() == "left"), key=lambda t: t.get_position()[1])
    assert left == ["a", "b", "c"] and [t.get_text() for t in right] == ["b", "c", "a"]
    assert {"higher in student", "lower in student"} <= set(said(figure))


def test_the_corners_of_the_simplex_are_certainty() -> None:
    figure = view(
        Simplex(corners=["a", "b", "c"], points={"p": [1.0, 0, 0], "q": [0, 0, 1.0], "m": [1 / 3] * 3})
    ).figure()
    marks = {line.get_xydata()[0].tobytes(): line for line in figure.axes[0].lines if line.get_markersize() == 9}
    p, q, m = (np.frombuffer(k) for k in marks)
    names = {t.get_text(): np.array(t.get_position()) for t in figure.axes[0].texts}
    assert abs(p[1] + 0.14 - names["a"][1]) < 1e-6 and abs(q[1] - 0.13 - names["c"][1]) < 1e-6
    assert m[1] == pytest.approx((2 * p[1] + q[1]) / 3), "the middle lies at a third of the height"


def test_tokens_nodes_and_cells_of_tables_show_their_values() -> None:
    rows = view(Tokens(tokens=[["one", "two", "\n"]], values=[[0.0, 2.0, np.nan]], colours=Colours(-1, 3))).figure()
    faces = [c.get_facecolors() for c in rows.axes[0].collections]
    assert np.allclose(faces[0], [colormaps["cividis"](0.25), colormaps["cividis"](0.75)]) and faces[1][0, 3] == 0
    assert {"one", "two", "⏎"} <= set(said(rows))

    values = [0.0, 1.0, np.nan]
    nodes = view(Graph(positions=[[0, 0], [1, 0], [0, 1]], edges=[[0], [1]], values=values, colours=UNIT)).figure()
    dots = nodes.axes[0].collections[-1]
    assert np.allclose(dots.get_facecolors()[:2], [colormaps["cividis"](0.0), colormaps["cividis"](1.0)])
    assert np.allclose(dots.get_facecolors()[2, :3], to_rgb(LIGHT.paper)), "a ring where there is none"
    places = dots.get_offsets()
    assert places[2, 1] < places[0, 1] and places[0, 0] < places[1, 0], "y grows upwards"

    cells = view(
        Table(columns={"class": ["a", "b"], "share": [0.25, 0.5], "n": [1234567, None]}, bars=["share"])
    ).figure()
    short, long = (p.get_width() for p in cells.axes[0].patches)
    assert long == pytest.approx(2 * short) and {"0.25", "0.5", "1234567", "–"} <= set(said(cells))


EMPTY: list[Panel] = [
    Plane(),
    Plane(Line("a", [], []), Bars("b", [], []), Points("c", [], []), Arrows("d", [], [], [], []), Area("e", [], [])),
    Plane(Line("a", [0, 1], [np.nan] * 2), Bars("b", [0], [np.nan]), Points("c", [np.nan], [1]), Rule(np.nan, "r")),
    Plane(Bars("a", [0, 1], [0, 0]), x=Axis(names=["a", "b"])),
    Plane(Line("a", [5, 5], [3, 3]), x=Axis(log=True), y=Axis(log=True)),
    Plane(Line("a", [-1, 0], [0, -3]), x=Axis(log=True), y=Axis(log=True)),
    Plane(Field(np.full((2, 2), np.nan), (0, 1), (0, 1), UNIT, levels=[0.5])),
    Plane(Histogram("a", [0, 1], [np.nan], mean=np.nan)),
    Heat(values=np.full((2, 2), np.nan), colours=UNIT, numbers=".1f"),
    Heat(values=np.zeros((0, 0)), colours=UNIT),
    Images(images=np.zeros((0, 0, 0))),
    Ribbons(names=[], left=[], right=[]),
    Simplex(corners="abc", points={}),
    Tokens(tokens=[[], ["a"]], values=[[], [np.nan]], colours=UNIT),
    Tokens(tokens=[], values=[], colours=UNIT),
    Graph(positions=[], edges=[[], []]),
    Graph(positions=[[1, 1]], edges=[[], []], names=["alone"]),
    Table(columns={"a": []}),
]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
@pytest.mark.parametrize("panel", EMPTY, ids=lambda p: p.kind)
def test_nothing_is_drawn_as_nothing(panel: Panel, theme: Theme) -> None:
    assert len(view(panel, panel).png(theme)) > 200  # warnings are errors


def test_panels_of_a_column_and_of_a_row_line_up() -> None:
    wide = Plane(Line("a", [0, 1], [0, 1e5]), y=Axis("count"))
    picture = view(wide, Plane(Line("a", [0, 1], [0, 1]), title="second"), wide, wide, columns=2).figure()
    boxes = [ax.get_position() for ax in picture.axes[1:]]
    assert boxes[0].x0 == pytest.approx(boxes[2].x0) and boxes[0].y1 == pytest.approx(boxes[1].y1)
    shares = view(wide, wide, columns=2, widths=(1, 3)).figure().axes
    assert shares[2].get_position().width > 2.5 * shares[1].get_position().width


def test_styles_have_a_second_channel() -> None:
    looks = [look(i, LIGHT) for i in range(24)]
    assert len({(o.colour, str(o.dash)) for o in looks}) == 24 and len({(o.colour, o.marker) for o in looks}) == 24
    assert look("ink", DARK).colour == DARK.ink
    named = [look(s, LIGHT) for s in ("student", "teacher", "good", "bad")]
    assert len({o.colour for o in named}) == len({o.hatch for o in named}) == len({o.marker for o in named}) == 4


# Numbers at ticks ----------------------------------------------------------------------------------------------------
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_are_round_within_the_ends_and_say_what_they_are(low: float, span: float, most: int) -> None:
    high = low + span
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        return
    ticks = ticks_of(low, high, most)
    at, slack = np.array(list(ticks)), 1e-5 * (high - low)
    assert len(at) <= most + 1 and (at >= low - slack).all() and (at <= high + slack).all()
    if len(at) > 2:
        assert np.allclose(np.diff(at), np.diff(at)[0])
    if span > 1e-4 * max(abs(low), 1):
        told = [float(t.replace("−", "-")) for t in ticks.values()]
        assert len(set(told)) == len(told) and np.allclose(told, at, atol=0.02 * (high - low) + 1e-12)


def test_ticks_by_hand() -> None:
    assert list(ticks_of(0, 1, 5).values()) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert list(ticks_of(-1, 1, 4, percent=True).values()) == ["−100 %", "−50 %", "0 %", "50 %", "100 %"]
    assert list(ticks_of(0, 3, 8, whole=True).values()) == ["0", "1", "2", "3"]
    assert list(log_ticks(0.001, 1000, 8).values()) == ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]
    assert list(log_ticks(1, 12, 8).values()) == ["1", "2", "5", "10"]
    assert list(ticks_of(2e7, 2e7 + 4, 4).values()) == ["20000000", "20000001", "20000002", "20000003", "20000004"]
    assert list(ticks_of(0, 4e7, 4).values()) == ["0", "1e7", "2e7", "3e7", "4e7"]
    assert written(38416, 1) == "38416" and written(-0.25, 0.05) == "−0.25"


# The view ------------------------------------------------------------------------------------------------------------
def test_a_view_is_painted_from_its_picture_and_carries_its_plain_form() -> None:
    made = bars(LONG[:3])
    assert made.spec == made.picture.plain()  # type: ignore[union-attr]
    assert made.png(LIGHT)[:4] == b"\x89PNG" and made.png(LIGHT) != made.png(DARK)
    width, height = made.figure().get_size_inches()
    size = Image.open(io.BytesIO(made.png(LIGHT))).size
    assert size == (int(100 * width), int(100 * height)), "saved as it was laid out"
    drawn = View(title="t", alt="a", table=pd.DataFrame(), draw=lambda theme: Figure())
    assert drawn.spec is None
    own = View(title="t", alt="a", table=pd.DataFrame(), draw=lambda theme: Figure((1, 2)), picture=made.picture)
    assert own.figure().get_size_inches().tolist() == [1, 2], "a drawing of its own goes before"
    with pytest.raises(ValueError, match=r"needs a picture or a function draw\(theme\), got neither"):
        View(title="t", alt="a", table=pd.DataFrame())


def test_painting_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    made = bars(LONG[:10])
    made.png(LIGHT)
    began = time.process_time()
    assert made.png(DARK)
    with capsys.disabled():
        print(f"\n2 series x 10 bars: {time.process_time() - began:.3f} CPU s a picture", end=" ")
