"""Bars say which group is highest, keep what is unknown apart, and words in pictures fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.views import bars_view
from workbench.views.theme import DARK, LIGHT
from workbench.views.words import BOLD, drawable, extremes, fitted, literal, named, text_width

NAMES = ["cat", "dog", "elk"]


def lengths(view: object) -> list[list[float]]:
    """Ends of the bars of each series, read from the picture."""
    return [
        [float(path.vertices[2, 1]) for path in series.get_paths()]
        for series in view.figure().axes[0].collections
        if series.get_hatch() is not None or len(series.get_facecolor())
    ]


# Bars -----------------------------------------------------------------------------------------------------------------


def test_bars_name_the_ends_and_the_largest_difference() -> None:
    values = [[0.5, 0.25], [0.75, 0.875], [0.25, 0.5]]
    view = bars_view(values, NAMES, ["CE", "KD"], reference={"chance": 0.5}, value_label="accuracy")
    assert view.alt == (
        "accuracy by class, 3 groups and 2 series. CE: highest 0.75 (dog), lowest 0.25 (elk); KD: highest 0.875 (dog), "
        "lowest 0.25 (cat). Series differ most at cat, by 0.25: CE is highest, KD lowest. 2 of 6 values lie above "
        "chance (0.5)."
    )
    assert view.table.columns.tolist() == ["class", "CE", "KD"]
    assert view.table[["CE", "KD"]].to_numpy().tolist() == values
    assert lengths(view) == [[0.5, 0.75, 0.25], [0.25, 0.875, 0.5]]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.3], "1 group: cat has 0.3."),
        ([0.3, 0.3, 0.3], "3 groups: all 3 have 0.3."),
        ([0.3, 0.3, 0.1], "highest 0.3 (cat and dog), lowest 0.1 (elk)."),
        ([np.nan, 0.3, 0.1], "highest 0.3 (dog), lowest 0.1 (elk). 1 value is not a number."),
        ([np.nan, np.nan, -2.0], "elk has -2. 2 values are not a number."),
        ([[1, 1], [2, 2]], "The series are equal everywhere."),
        ([[1, np.nan], [np.nan, 2]], "0: cat has 1; 1: dog has 2. 2 values are not a number."),
    ],
)
def test_bars_say_it_right_at_the_edges(values: object, words: str) -> None:
    view = bars_view(values, NAMES[: len(values)])
    assert view.alt.endswith(words)
    assert view.png()


def test_unknown_values_are_dashes_and_intervals_stand_in_the_table() -> None:
    view = bars_view([0.5, np.nan], ["a", "b"], intervals=[[0.4, 0.7], [np.nan, np.nan]])
    ax = view.figure().axes[0]
    assert [t.get_text() for t in ax.texts] == ["–"]
    assert lengths(view)[0] == [0.5, 0.0]
    assert view.table.columns.tolist() == ["class", "value", "value, low", "value, high"]
    assert view.table.iloc[0].tolist() == ["a", 0.5, 0.4, 0.7]
    assert ax.get_ylim()[1] > 0.7, "the interval must not be cut"


def test_bars_lie_where_names_are_long_and_go_in_columns() -> None:
    long = [f"class with a long name {i}" for i in range(100)]
    axes = bars_view(np.arange(100), long).figure().axes
    assert [len(ax.get_yticklabels()) for ax in axes] == [34, 34, 32]
    assert len({ax.get_xlim() for ax in axes}) == 1 and axes[0].get_ylim()[0] > axes[0].get_ylim()[1]
    assert len(bars_view(np.arange(100)).figure().axes[0].get_xticklabels()) == 100 // 2, "numbers are thinned out"
    assert len(bars_view(np.arange(10), long[:10]).figure().axes) == 1
    standing = bars_view(np.arange(10), long[:10], horizontal=False).figure().axes[0]
    assert {t.get_rotation() for t in standing.get_xticklabels()} == {90.0}
    panels = bars_view(np.ones((3, 5)), NAMES).figure().axes
    assert [ax.get_title(loc="left") for ax in panels] == list("01234")


def test_the_largest_and_the_marked_are_drawn() -> None:
    view = bars_view([1, 5, 3, 4, 2], list("abcde"), mark=[True, False, False, False, False], most=3)
    labels = view.figure().axes[0].get_xticklabels()
    assert [t.get_text() for t in labels] == ["a", "b", "d"]
    assert [t.get_fontweight() for t in labels] == ["bold", "normal", "normal"]
    assert "Marked: a." in view.alt and "3 of 5 groups with the largest values are drawn" in view.alt
    assert len(view.table) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": np.zeros((2, 2, 2))}, r"values must be 1-D or 2-D, got shape \(2, 2, 2\)"),
        ({"values": []}, r"values is empty"),
        ({"values": [np.nan]}, "values must hold finite numbers"),
        ({"values": [np.inf, 1]}, "values must hold finite numbers"),
        ({"values": [1, 2], "groups": ["a"]}, "groups must hold 2 names, got 1"),
        ({"values": [[1, 2]], "series": ["a"]}, "series must hold 2 names, got 1"),
        ({"values": [1, 2], "intervals": [[0, 1]]}, r"intervals must be \(2, 1, 2\), .* got \(1, 1, 2\)"),
        ({"values": [1], "intervals": [[1, 0]]}, "lower end first"),
        ({"values": [1, 2], "mark": [True]}, "mark must hold 2 truth values, got 1"),
        ({"values": [1, 2], "most": 0}, "most must be at least 1, got 0"),
    ],
)
def test_bars_refuse_what_they_cannot_draw(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bars_view(**arguments)


def test_tensors_with_gradient_are_taken() -> None:
    assert "highest 2 (1)" in bars_view(torch.tensor([1.0, 2.0], requires_grad=True)).alt


# Words ----------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.floats(0.2, 4.0), st.sampled_from([7.0, 9.0, 11.0]))
def test_a_fitted_name_is_no_wider_than_its_room(text: str, room: float, size: float) -> None:
    made = fitted(text, room, size)
    assert text_width(made, size) <= max(room, text_width(f"{drawable(text)[:1]}…{drawable(text)[-1:]}", size)) + 1e-9
    assert "\n" not in made
    if text_width(drawable(text), size) <= room:
        assert made == drawable(text)


@given(st.text(max_size=40))
def test_every_name_can_be_drawn_without_a_warning(text: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    shown = figure.text(0, 0, literal(drawable(text)))
    FigureCanvasAgg(figure).draw()  # warnings are errors: missing glyphs and broken formulas
    assert shown.get_window_extent().height >= 0


def test_names_keep_both_ends_when_cut() -> None:
    made = fitted("class with a long name 17", 1.0, 9)
    assert made.startswith("cl") and made.endswith("17") and "…" in made
    assert drawable("漢\n🐟 ש") == "□ □ ש" and literal("$x$") == r"\$x\$"


def test_width_is_what_is_drawn() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1), dpi=100)
    names = ("aquarium fish", "WMWM", "illi 1", "sweet pepper, red/green")
    texts = {(n, w): figure.text(0, 0, n, fontsize=9, family="DejaVu Sans", weight=w)
             for n in names for w in ("normal", "bold")}  # fmt: skip
    FigureCanvasAgg(figure).draw()
    for (name, weight), text in texts.items():
        drawn = text.get_window_extent().width / 100
        assert drawn <= text_width(name, 9) * (BOLD if weight == "bold" else 1) + 0.02
        assert weight == "bold" or drawn == pytest.approx(text_width(name, 9), abs=0.02)


@given(st.lists(st.one_of(st.just(float("nan")), st.integers(-3, 3).map(float)), min_size=1, max_size=8))
def test_extremes_name_a_largest_and_a_smallest(values: list[float]) -> None:
    names = [f"n{i}" for i in range(len(values))]
    said, known = extremes(np.array(values), names), [v for v in values if v == v]
    assert "nan" not in said
    if len(set(known)) > 1:
        first = f"n{values.index(max(known))}"
        assert said.startswith(f"highest {max(known):g} ({first}") and f", lowest {min(known):g} (" in said
    elif len(known) > 1:
        assert said == f"all {len(known)} have {known[0]:g}"
    else:
        assert said == (f"n{values.index(known[0])} has {known[0]:g}" if known else "none has a known value")


def test_many_names_are_counted() -> None:
    assert named(list("abc")) == "a, b and c" and named(list("abcdef")) == "a, b, c and 3 more"
