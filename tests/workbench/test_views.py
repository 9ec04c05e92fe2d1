"""Builders of pictures: what they say is computed from the data, and every one can be drawn on light and dark."""

from __future__ import annotations

import io
import itertools
import json
import re
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kdcore.methods.pld import pld_loss, pld_weights, teacher_optimal_permutation
from workbench import views as V
from workbench.views.base import View
from workbench.views.curves import history_frame
from workbench.views.picture import VERSION, Colours
from workbench.views.theme import CATEGORICAL, DARK, LIGHT, number, text_colour

RNG = np.random.default_rng(3)
LX, LY = ["stem", "stage1", "head"], ["b0", "b1", "b2", "norm"]
MAP = np.array([[0.9, 0.2, 0.1, 0.3], [0.4, 0.8, 0.5, 0.05], [0.1, 0.3, 0.6, 0.7]])
S = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0])
T = torch.tensor([3.0, 1.0, 0.0, 2.0, -1.0])
NAMES = ["ant", "bee", "cat", "dog", "elk"]


def epochs(n: int = 4, shift: float = 0.0) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(
            epoch=e, terms={"ce": 1.0 / (e + 1), "kd": 0.5 + shift}, metrics={"accuracy": 0.5 + 0.1 * e + shift}
        )
        for e in range(n)
    ]


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"arm": a, "seed": k, "last": v}
            for a, values in (("CE", (0.90, 0.91, 0.92)), ("KD", (0.93, 0.95, 0.94)))
            for k, v in enumerate(values)
        ]
    )


def every_view() -> dict[str, View]:
    x = np.linspace(-1, 1, 9)
    logits, teacher = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.randn(20, 5)
    return {
        "cka_map": V.cka_map_view(MAP, LX, LY, pairs=[("head", "norm")]),
        "cka_map_large": V.cka_map_view(
            RNG.uniform(size=(20, 50)), [f"layer{i}" for i in range(20)], [f"b{i}" for i in range(50)]
        ),
        "cka_compare": V.cka_compare_view(MAP, MAP**2, LX, LY),
        "curves": V.training_curves_view({"CE": [epochs(), epochs(shift=0.1)], "KD": [epochs(), epochs(shift=0.2)]}),
        "curves_one": V.training_curves_view({"KD": epochs()}),
        "probabilities": V.probability_bars_view(S, T, NAMES, temperature=4.0, label=3),
        "probabilities_many": V.probability_bars_view(
            torch.randn(200), torch.randn(200), temperature=4.0, gradient=False
        ),
        "worth": V.worth_view(S, T, 1, step=2, class_names=NAMES),
        "worth_last": V.worth_view(S, T, 1, step=5),
        "weights": V.pld_weights_view(T, 1, class_names=NAMES),
        "ranking": V.ranking_view(S, T, NAMES, label=1),
        "agreement": V.rank_agreement_view(logits, teacher),
        "agreement_before": V.rank_agreement_view(logits, teacher, -logits),
        "correlation": V.correlation_heatmaps_view(logits.softmax(1), teacher.softmax(1)),
        "comparison": V.comparison_view(rows(), baseline="CE"),
        "heatmap": V.heatmap_view(MAP - 0.4, LX, LY, title="Change", label="change", diverging=True),
        "confusion": V.confusion_view({"CE": np.eye(4) * 9 + 1, "KD": np.eye(4) * 5 + 1}),
        "scatter": V.scatter_view(
            RNG.uniform(size=30),
            RNG.uniform(size=30),
            x_label="p",
            y_label="loss",
            title="Split",
            groups=["a"] * 15 + ["b"] * 15,
            diagonal=True,
        ),
        "lines": V.lines_view(
            [1, 2, 3],
            {"KD": [1.0, 4.0, 2.0]},
            x_label="T",
            y_label="loss",
            title="Loss",
            bands={"KD": ([0, 3, 1], [2, 5, 3])},
            mark={"default": 2.0},
        ),
        "contours": V.contours_view(
            x, x, {"KD": np.add.outer(x**2, x**2)}, x_label="a", y_label="b", title="Surface", minimum=(0, 0)
        ),
        "images": V.image_grid_view(RNG.uniform(size=(3, 1, 8, 8)), ["a", "b", "c"], mark=[False, True, False]),
    }


@pytest.mark.parametrize("name", sorted(every_view()))
def test_every_view_is_drawn_twice_and_read(name: str) -> None:
    view = every_view()[name]
    pixels = {}
    for theme in (LIGHT, DARK):
        picture = Image.open(io.BytesIO(view.png(theme))).convert("RGB")
        assert 250 <= picture.width <= 900, "must fit a notebook column"
        assert picture.height <= 900
        pixels[theme.name] = np.asarray(picture, dtype=float)
        paper = np.array([int(theme.paper[i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(pixels[theme.name] - paper).max(-1) > 60).mean() > 0.01, "nothing is drawn"
    assert pixels["light"].mean() > pixels["dark"].mean()
    assert len(view.alt) > 30 and re.search(r"\d", view.alt) and "nan" not in view.alt
    assert len(view.table)
    page = view.html()
    assert page.count("<img") == 1 and page.count("alt=") == 1 and "<details>" in page and "http" not in page
    data = json.loads(re.search(r'<script type="application/json" class="kd-data">(.*?)</script>', page, re.S)[1])
    assert data["title"] == view.title and data["alt"] == view.alt and data["spec"]["version"] == VERSION
    assert view.spec is not None and len(view.spec["panels"]) == len(data["spec"]["panels"]) > 0
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"} and view.alt in bundle["text/plain"]


def test_no_text_is_cut_or_overlaps_its_neighbour() -> None:
    """Tick labels of one axis do not run into each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for name, view in every_view().items():
        figure = view.figure(LIGHT)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for ax in figure.axes:
            labels = [t for t in ax.get_xticklabels() if t.get_text() and t.get_visible() and t.get_rotation() == 0]
            boxes = sorted((t.get_window_extent() for t in labels), key=lambda b: b.x0)
            ends = [b for b in boxes if ax.bbox.x0 - 20 <= b.x0 <= ax.bbox.x1]
            for left, right in itertools.pairwise(ends):
                assert left.x1 <= right.x0 + 1, f"{name}: labels overlap"


def test_view_refuses_to_be_mute() -> None:
    with pytest.raises(ValueError, match="alt"):
        View(title="t", alt=" ", table=pd.DataFrame(), draw=lambda theme: None)


def test_html_escapes_what_it_is_given() -> None:
    view = V.heatmap_view([[1.0]], ["<b>"], ['"x"'], title="a < b & c", label="<script>")
    page = view.html()
    assert "<script>" not in page and page.count("<script") == 1  # the data
    assert "<b>&lt;" not in page and "a &lt; b &amp; c" in page


def test_pictures_can_be_drawn_in_several_threads() -> None:
    made, views = [], list(every_view().values())[:6]

    def draw(view: View, theme: object) -> None:
        made.append((view.title, theme.name, view.figure(theme).get_facecolor()))

    threads = [threading.Thread(target=draw, args=(v, th)) for v in views for th in (LIGHT, DARK)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == 12
    assert {c[:3] for _, name, c in made if name == "light"} == {(1.0, 1.0, 1.0)}
    assert all(max(c[:3]) < 0.2 for _, name, c in made if name == "dark")


# CKA ------------------------------------------------------------------------------------------------------------------


def test_cka_map_says_what_is_highest() -> None:
    view = V.cka_map_view(torch.from_numpy(MAP), LX, LY, interval=np.stack([MAP - 0.1, MAP + 0.05], -1))
    assert "highest, 0.90 (interval 0.80 to 0.95), between student stem and teacher b0" in view.alt
    assert "lowest, 0.05, between student stage1 and teacher norm" in view.alt
    assert "deepest student layer head is closest to teacher norm (0.70)" in view.alt
    first = view.table.iloc[0]
    assert (first["student layer"], first["teacher layer"], first["cka"], first["high"]) == (
        "stem",
        "b0",
        0.9,
        pytest.approx(0.95),
    )
    (heat,) = view.picture.panels
    assert np.array_equal(heat.values, MAP) and heat.colours == Colours(0.0, 1.0, "CKA")
    assert heat.notes[0][0] == "interval 0.800 to 0.950"


def test_cka_map_marks_the_best_of_each_row_and_undefined_cells() -> None:
    holed = MAP.copy()
    holed[1] = np.nan
    view = V.cka_map_view(holed, LX, LY)
    assert "4 cells are undefined" in view.alt
    (heat,) = view.picture.panels
    assert heat.framed == [(0, 0), (2, 3)] and np.isnan(heat.values[1]).all()
    assert heat.meanings["framed"] == "best in row"
    last = MAP.copy()
    last[2] = np.nan
    assert "no layer: it is constant" in V.cka_map_view(last, LX, LY).alt


def test_cka_compare_names_the_largest_change_on_one_scale() -> None:
    after = MAP.copy()
    after[1, 3] = 0.95
    view = V.cka_compare_view(MAP, after, LX, LY, labels=("CE", "KD"))
    assert "largest change, +0.90 (from 0.05 to 0.95), is between student stage1 and teacher norm" in view.alt
    assert [h.title for h in view.picture.panels] == ["CE", "KD"]
    assert {h.colours for h in view.picture.panels} == {Colours(0.0, 1.0, "CKA")}
    assert view.table["change"].abs().max() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: V.cka_map_view(MAP, LX[:2], LY), "layers_x must hold 3"),
        (lambda: V.cka_map_view(MAP, LX, LY, interval=np.zeros((2, 3, 4))), r"interval must have shape \(3, 4, 2\)"),
        (lambda: V.cka_map_view(MAP, LX, LY, pairs=[("stem", "none")]), "pairs must name layers"),
        (lambda: V.cka_map_view(MAP * np.nan, LX, LY), "no finite value"),
        (lambda: V.cka_map_view(np.zeros((0, 3)), [], LY[:3]), "empty"),
        (lambda: V.cka_map_view(MAP[0], LX, LY), "2-D"),
        (lambda: V.training_curves_view({}), "no epoch"),
        (lambda: V.training_curves_view({"KD": []}), "no epoch"),
        (lambda: V.training_curves_view(pd.DataFrame({"arm": ["a"]})), "missing: seed"),
        (lambda: V.training_curves_view({"KD": epochs()}, metrics=["f1"]), "accuracy"),
        (lambda: V.probability_bars_view(S, T[:3], temperature=1.0), "same shape"),
        (lambda: V.probability_bars_view(S, T, ["a"], temperature=1.0), "class_names must hold 5"),
        (lambda: V.probability_bars_view(S, T, temperature=0.0), "temperature"),
        (lambda: V.worth_view(S, T, 1, step=6), r"step must be in 1\.\.5"),
        (lambda: V.worth_view(S, T, 9, step=1), "labels must be in"),
        (lambda: V.pld_weights_view(T, 1, temperatures=[], kinds=[]), "both empty"),
        (lambda: V.pld_weights_view(T, 1, kinds=["none"]), "none"),
        (lambda: V.ranking_view(S, T[:2]), "same shape"),
        (lambda: V.rank_agreement_view(torch.zeros(3, 4), torch.zeros(3, 5)), "same shape"),
        (lambda: V.rank_agreement_view(torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(2, 4)), "before"),
        (lambda: V.correlation_heatmaps_view(torch.ones(1, 4), torch.ones(1, 4)), "at least 2"),
        (lambda: V.comparison_view(rows().iloc[:0]), "non-empty"),
        (lambda: V.comparison_view(rows(), metric="f1"), "metric must be a column"),
        (lambda: V.comparison_view(rows(), baseline="XX"), "baseline must be one of CE, KD"),
        (lambda: V.confusion_view(np.ones((2, 3))), "counts >= 0"),
        (lambda: V.confusion_view(-np.eye(3)), "counts >= 0"),
        (lambda: V.confusion_view({}), "one to three"),
        (lambda: V.scatter_view([1, 2], [1], x_label="x", y_label="y", title="t"), "same length"),
        (lambda: V.scatter_view([-1.0], [1.0], x_label="x", y_label="y", title="t", x_log=True), "no point"),
        (lambda: V.lines_view([1, 2], {}, x_label="x", y_label="y", title="t"), "lines is empty"),
        (lambda: V.lines_view([1, 2], {"a": [1]}, x_label="x", y_label="y", title="t"), "'a' must have 2"),
        (
            lambda: V.contours_view([0, 1], [0, 1, 2], {"f": np.ones((2, 3))}, x_label="x", y_label="y", title="t"),
            r"\(3, 2\)",
        ),
        (lambda: V.image_grid_view(np.ones((2, 2, 4, 4))), "1 or 3 channels"),
        (lambda: V.image_grid_view(np.ones((2, 4, 4)), mark=[True]), "2 truth values"),
        (lambda: V.heatmap_view([[np.nan]], title="t", label="x"), "no finite"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Curves ---------------------------------------------------------------------------------------------------------------


def test_histories_in_every_form_are_one_frame() -> None:
    by_pair = history_frame({("KD", 3): epochs(2), ("KD", 5): epochs(2, 0.1)})
    by_list = history_frame({"KD": [epochs(2), epochs(2, 0.1)]})
    assert sorted(by_pair["seed"].unique()) == [3, 5] and sorted(by_list["seed"].unique()) == [0, 1]
    assert by_pair.drop(columns="seed").equals(by_list.drop(columns="seed"))
    assert history_frame(by_list).equals(by_list)
    loss = by_list[(by_list["quantity"] == "loss") & (by_list["seed"] == 0)]
    assert loss["value"].tolist() == pytest.approx([1.5, 1.0]) and loss["epoch"].tolist() == [1, 2]


def test_curves_show_mean_and_range_over_seeds() -> None:
    view = V.training_curves_view({"KD": [epochs(3), epochs(3, 0.2)], "CE": [epochs(3), epochs(3)]})
    assert "2 trainings over 3 epochs, 2 seeds each" in view.alt
    assert "KD 0.800 (best 0.800 at epoch 3)" in view.alt
    part = view.table[(view.table["arm"] == "KD") & (view.table["quantity"] == "accuracy")]
    assert part["mean"].tolist() == pytest.approx([0.6, 0.7, 0.8])
    assert part["low"].tolist() == pytest.approx([0.5, 0.6, 0.7])
    right = view.picture.panels[1]
    assert [line.name for line in right.marks] == ["KD", "CE"] and right.title == "accuracy, mean over seeds"
    assert right.marks[0].low.tolist() == pytest.approx([0.5, 0.6, 0.7]) and right.marks[0].high is not None
    assert len({line.style for line in right.marks}) == 2
    single = V.training_curves_view({"KD": epochs()}).picture.panels
    assert [plane.title for plane in single] == ["loss, terms", "accuracy"]
    assert [line.name for line in single[0].marks] == ["ce", "kd"] and single[1].marks[0].low is None


# Probabilities and rankings -------------------------------------------------------------------------------------------


def test_probability_bars_show_the_gradient_by_hand() -> None:
    view = V.probability_bars_view(S, T, NAMES, temperature=2.0, label=0)
    p, q = torch.softmax(T.double() / 2, 0).numpy(), torch.softmax(S.double() / 2, 0).numpy()
    assert view.table["teacher"].to_numpy() == pytest.approx(p) and view.table["student"].to_numpy() == pytest.approx(q)
    assert view.table["minus gradient"].to_numpy() == pytest.approx(2 * (p - q))
    assert f"KD loss is {4 * float((p * np.log(p / q)).sum()):.3g}" in view.alt
    assert "raises ant most" in view.alt and "lowers bee most" in view.alt


def test_worth_terms_add_up_to_the_loss() -> None:
    label = torch.tensor([1])
    for temperature in (1.0, 4.0):
        view = V.worth_view(S, T, 1, step=3, temperature=temperature, class_names=NAMES)
        loss = pld_loss(S[None].double(), T[None].double(), label, temperature=temperature).item()
        assert view.table["term"].sum() == pytest.approx(loss, rel=1e-12)
    assert view.table["class"].tolist() == ["bee", "ant", "dog", "cat", "elk"]
    # third choice by hand: dog among dog, cat, elk
    chance = float(torch.exp(S[3]) / torch.exp(S[[3, 2, 4]]).sum())
    assert view.table["choice probability"][2] == pytest.approx(chance, rel=1e-6)
    assert "Choice 3 of 5: among 3 remaining classes the target order wants dog" in view.alt
    above, below = view.picture.panels
    span, student, teacher = above.marks  # three classes remain
    assert (span.low, span.high) == (-0.5, 1.5) and student.at.tolist() == teacher.at.tolist() == [2, 3, 4]
    assert student.values[0] == pytest.approx(chance, rel=1e-6) and teacher.values.sum() == pytest.approx(1)
    paid, open_ = below.marks[:2]  # the terms so far and those to come look different
    assert [*paid.values, *open_.values] == view.table["term"].tolist() and paid.strong[2]
    assert paid.at.tolist() == [0, 1, 2] and open_.at.tolist() == [3, 4] and paid.style != open_.style


def test_weights_agree_with_the_method() -> None:
    view = V.pld_weights_view(T, 1, temperatures=[0.5, 2.0], kinds=["first", "uniform"])
    ranking = teacher_optimal_permutation(T[None].double(), torch.tensor([1]))
    assert view.table["teacher, τ = 2"].to_numpy() == pytest.approx(
        pld_weights(T[None].double(), ranking, temperature=2.0)[0].numpy()
    )
    assert view.table["first"].tolist() == [1, 0, 0, 0, 0] and view.table["uniform"].sum() == pytest.approx(1)
    assert "teacher is wrong" in view.alt and "teacher is wrong" not in V.pld_weights_view(T, 0).alt


def test_ranking_counts_inversions() -> None:
    # teacher: ant dog bee cat elk; student: bee dog ant elk cat -> (ant dog), (ant bee), (dog bee), (cat elk)
    view = V.ranking_view(S, T, NAMES)
    assert "4 of 10 pairs" in view.alt and "Kendall tau 0.20" in view.alt and "4 inversions" in view.title
    assert view.table["student's position"].tolist() == [3, 2, 1, 5, 4]
    same = V.ranking_view(T, T, NAMES)
    assert "0 of 10 pairs" in same.alt and "same" in same.alt
    assert "1 inversion" in V.ranking_view([2.0, 1.0, 3.0], [1.0, 2.0, 3.0]).title


def test_rank_agreement_of_equal_and_reversed_rankings() -> None:
    teacher = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    view = V.rank_agreement_view(teacher * 2, teacher, -teacher)
    assert view.table["mean place, after"].tolist() == [1, 2, 3, 4, 5, 6]
    assert view.table["mean place, before"].tolist() == [6, 5, 4, 3, 2, 1]
    assert "after: mean Kendall tau 1.00, first places agree on 100 %" in view.alt
    assert "before: mean Kendall tau -1.00" in view.alt


def test_correlations_by_numpy() -> None:
    q, p = RNG.dirichlet(np.ones(4), 7), RNG.dirichlet(np.ones(4), 7)
    table = V.correlation_heatmaps_view(q, p).table
    expected_rows = [np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)]
    expected_columns = [np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)]
    assert table[table["what"] == "row"]["correlation"].to_numpy() == pytest.approx(expected_rows, abs=1e-6)
    assert table[table["what"] == "column"]["correlation"].to_numpy() == pytest.approx(expected_columns, abs=1e-6)


# General --------------------------------------------------------------------------------------------------------------


def test_comparison_interval_by_hand() -> None:
    view = V.comparison_view(rows(), baseline="CE")
    first = view.table.iloc[0]
    half = 4.302652729911275 * 1.0 / np.sqrt(3)  # t(0.975, 2) x std 1.0 of 90, 91, 92
    assert (first["mean"], first["low"], first["high"]) == pytest.approx((91, 91 - half, 91 + half))
    assert "Highest mean: KD" in view.alt
    assert V.comparison_view(SimpleNamespace(rows=rows())).alt == V.comparison_view(rows()).alt
    many = pd.DataFrame([{"arm": f"arm {i}", "seed": s, "loss": i + s} for i in range(9) for s in range(2)])
    told = V.comparison_view(many).alt  # the best and the last, not pages of numbers
    assert told.startswith("Mean loss over 2 seeds, 95 % interval: arm 8 8.5 (2.15 to 14.9); arm 7 ")
    assert "arm 0 0.5 " in told and "arm 4" not in told and "4 arms in between are in the table" in told
    lone = V.comparison_view(rows()[rows()["seed"] == 0])
    assert "nan" not in lone.alt and lone.table["low"].isna().all() and lone.png()


def test_confusion_words() -> None:
    counts = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    view = V.confusion_view(counts, ["a", "b", "c"])
    assert "90.0 % right of 20" in view.alt
    assert "lowest recall 80.0 % for a" in view.alt and "a taken for b, 2 times" in view.alt


def test_scatter_says_what_it_leaves_out() -> None:
    view = V.scatter_view(
        [1.0, np.nan, 2.0, 3.0], [2.0, 1.0, 4.0, 0.0], x_label="x", y_label="y", title="t", y_log=True
    )
    assert view.alt.startswith("2 points") and "2 points cannot be drawn" in view.alt
    assert "Spearman correlation 1.00" in V.scatter_view([1, 2, 3], [1, 5, 7], x_label="x", y_label="y", title="t").alt


def test_colours_are_told_apart_without_colour_vision() -> None:
    """Under simulated deuteranopia and protanopia the first six categories stay apart (CIE76 > 9)."""
    simulate = {
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    }

    def lab(rgb: np.ndarray) -> np.ndarray:
        xyz = (
            np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
            @ rgb
            / [0.9505, 1, 1.089]
        )
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    linear = [
        np.array([((int(c[i : i + 2], 16) / 255 + 0.055) / 1.055) ** 2.4 for i in (1, 3, 5)]) for c in CATEGORICAL[:6]
    ]
    for matrix in simulate.values():
        seen = [lab(np.clip(np.array(matrix) @ c, 0, 1)) for c in linear]
        nearest = min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])
        assert nearest > 9


def test_numbers_and_ink() -> None:
    assert [number(v) for v in (38416.0, 0.123456, 12.0)] == ["38416", "0.1235", "12"]
    assert text_colour((0.47, 0.47, 0.465)) == "#000000"  # 4.76 against 4.41 for white
    assert text_colour((0.1, 0.1, 0.3)) == "#ffffff" and text_colour((0.9, 0.9, 0.4)) == "#000000"


def test_views_do_not_touch_pyplot() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from workbench import views as V; V.cka_map_view([[1.0]], ['a'], ['b']).png(); "
        "sys.exit('matplotlib.pyplot' in sys.modules or 'ipywidgets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_title_that_asks_gets_no_second_stop() -> None:
    view = V.heatmap_view([[1.0]], ["a"], ["b"], title="Which?", label="share")
    assert "<b>Which?</b>" in view.html() and view._repr_mimebundle_()["text/plain"].startswith("Which? Highest share")
    assert "<b>This.</b>" in V.heatmap_view([[1.0]], ["a"], ["b"], title="This", label="share").html()
