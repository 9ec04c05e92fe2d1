"""Token sequences keep their order, wrap, and name the token with the largest value."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.collections import PolyCollection

from workbench.views import token_sequence_view
from workbench.views.drawing import WIDTH
from workbench.views.theme import DARK, DIVERGING, LIGHT
from workbench.views.tokens import _lay_out, _visible

ROWS = [["the", "cat", "sat"], ["\n", "cat"]]
VALUES = [[0.5, 2.0, -1.0], [np.nan, 0.25]]


def test_tokens_name_the_largest_and_its_place() -> None:
    view = token_sequence_view(ROWS, VALUES, ["teacher", "student"], value_label="loss in nats")
    assert view.alt == (
        'loss in nats of 5 tokens in 2 rows, positions from 0: highest 2 ("cat" at 1 in teacher), lowest -1 ("sat" at '
        "2 in teacher). Means of rows: highest 0.5 (teacher), lowest 0.25 (student). 1 value is not a number."
    )
    assert view.table["row"].tolist() == ["teacher"] * 3 + ["student"] * 2
    assert view.table["position"].tolist() == [0, 1, 2, 0, 1] and view.table["token"].tolist() == [
        "the",
        "cat",
        "sat",
        "\n",
        "cat",
    ]
    assert view.table["loss in nats"].tolist() == pytest.approx([0.5, 2, -1, np.nan, 0.25], nan_ok=True)
    texts = [t.get_text() for t in view.figure().axes[0].texts]
    assert texts == ["the", "cat", "sat", "⏎", "cat", "teacher", "student", "loss in nats; a dotted box has none"]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


def test_colours_are_those_of_the_scale() -> None:
    view = token_sequence_view(ROWS, VALUES, diverging=True)
    boxes = [c for c in view.figure().axes[0].collections if isinstance(c, PolyCollection)]
    expected = colormaps[DIVERGING]((np.array([0.5, 2.0, -1.0, 0.25]) + 2) / 4)
    assert boxes[0].get_facecolor() == pytest.approx(expected) and len(boxes[1].get_paths()) == 1
    assert boxes[1].get_facecolor()[0, 3] == 0, "an unknown value has no colour"


@given(st.lists(st.lists(st.text(max_size=12), max_size=40), min_size=1, max_size=5), st.integers(1, 6))
def test_tokens_stay_in_order_apart_and_inside(rows: list[list[str]], most: int) -> None:
    made = [(texts, np.zeros(len(texts))) for texts in rows]
    places, starts, bottom = _lay_out(made, 1.0, most)
    for one, two in itertools.pairwise(places):
        assert two.top > one.top or (two.top == one.top and two.left > one.left + one.width)
    assert all(t.left >= 1.0 and t.left + t.width <= WIDTH and t.top < bottom for t in places)
    assert len({t.top for t in places} | set(starts.values())) <= most
    if len({t.top for t in places} | set(starts.values())) < most:
        assert len(places) == sum(map(len, rows)), "nothing is left out while there is room"


@pytest.mark.parametrize(
    ("rows", "values", "words"),
    [
        ([["a"]], [[0.5]], '1 token in 1 row, positions from 0: "a" at 0 has 0.5.'),
        ([["a", "b"]], [[0.5, 0.5]], "all 2 have 0.5."),
        ([["a", "b", "c"]], [[1, 1, 0]], 'highest 1 ("a" at 0 and "b" at 1), lowest 0 ("c" at 2).'),
        ([["a"], []], [[1.0], []], "Means of rows: 0 has 1."),
        ([["a"], ["b"]], np.array([[1.0, np.nan], [3.0, np.nan]]), "Means of rows: highest 3 (1), lowest 1 (0)."),
    ],
)
def test_tokens_say_it_right_at_the_edges(rows: list[list[str]], values: object, words: str) -> None:
    view = token_sequence_view(rows, values)
    assert view.alt.endswith(words) and "nan" not in view.alt and view.png()


def test_what_cannot_be_seen_is_made_visible() -> None:
    assert [_visible(t) for t in ("", " ", "\n\n", " the", "\t")] == ["∅", "␣", "⏎⏎", " the", "⇥"]


def test_long_sequences_are_limited_and_said() -> None:
    view = token_sequence_view([["sweet pepper"] * 100] * 3, np.arange(300).reshape(3, 100), most_lines=2)
    drawn = len(view.figure().axes[0].texts) - 2
    assert f"The first 2 lines with {drawn} of 300 tokens are drawn; the table holds all." in view.alt
    assert len(view.table) == 300


@pytest.mark.parametrize(
    ("tokens", "values", "more", "message"),
    [
        ([], [], {}, "tokens is empty"),
        ([[]], [[]], {}, "tokens is empty"),
        (["cat"], [[1, 2, 3]], {}, "rows of texts, got the text 'cat' in place of row 0"),
        ([["a"]], [[1], [2]], {}, "values must hold 1 rows like tokens, got 2"),
        ([["a", "b"]], [[1.0]], {}, r"values\[0\] must hold 2 numbers, one for each token, got 1"),
        ([["a"]], [[1.0, 2.0]], {}, r"values\[0\] must hold 1 numbers, one for each token, got 2"),
        ([["a"]], [[[1.0]]], {}, r"values\[0\] must be 1-D"),
        ([["a"]], [[np.nan]], {}, "values must hold finite numbers"),
        ([["a"]], [[np.inf]], {}, "values must hold finite numbers"),
        ([["a"]], [[1.0]], {"row_names": ["x", "y"]}, "row_names must hold 1 names, got 2"),
        ([["a"]], [[1.0]], {"value_range": (2, 1)}, r"value_range must be \(low, high\)"),
        ([["a"]], [[1.0]], {"most_lines": 0}, "most_lines must be at least 1, got 0"),
    ],
)
def test_token_views_refuse_what_they_cannot_draw(
    tokens: object, values: object, more: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        token_sequence_view(tokens, values, **more)
