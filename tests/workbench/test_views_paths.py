"""Paths start, turn and end where the numbers say, and the words say how far they went."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.collections import LineCollection, PolyCollection

from workbench.views import trajectory_view
from workbench.views.paths_drawing import _heads
from workbench.views.theme import DARK, LIGHT

PATHS = {"CE": [[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]], "KD": torch.tensor([[1.0, 1.0], [1.0, 2.0]])}
GRID = (np.array([0.0, 4.0]), np.array([0.0, 4.0]), np.array([[0.0, 4.0], [8.0, 12.0]]))  # z = x + 2 y


def test_paths_are_measured_by_hand() -> None:
    view = trajectory_view(
        PATHS, x_label="a", y_label="b", background=GRID, background_label="loss", points={"optimum": (3.0, 1.0)}
    )
    assert view.alt == (
        "2 paths over a and b with 2 to 3 places each: CE goes from (0, 0) to (3, 4); KD goes from (1, 1) to (1, 2). "
        "Length of the way: longest 7 (CE), shortest 1 (KD). From start to end: farthest 5 (CE), nearest 1 (KD). loss "
        "at the end: highest 11 (CE), lowest 5 (KD). Distance of the end to optimum: largest 3 (CE), smallest "
        "2.236 (KD)."
    )
    assert view.table["path"].tolist() == ["CE"] * 3 + ["KD"] * 2 and view.table["step"].tolist() == [0, 1, 2, 0, 1]
    assert view.table["loss"].tolist() == pytest.approx([0, 3, 11, 3, 5])
    figure = view.figure()
    lines = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)][-1]
    assert [p.vertices.tolist() for p in lines.get_paths()] == [PATHS["CE"], [[1, 1], [1, 2]]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["CE", "KD", "start", "end", "optimum"]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


@pytest.mark.parametrize(
    ("paths", "more", "words"),
    [
        ({"a": [[1.0, 1.0]]}, {}, "1 place each: a stays at (1, 1). The way is 0 long, start and end are 0 apart."),
        (
            {"a": [[0, 0], [1, 0], [0, 0]]},
            {},
            "a goes from (0, 0) to (0, 0). The way is 2 long, start and end are 0 apart.",
        ),
        ({"a": [[0, 0], [1, 0]], "b": [[5, 5], [5, 6]]}, {}, "From start to end: all 2 have 1."),
        (
            {"a": [[0, 0], [np.nan, 1], [2, 0]], "b": [[np.nan, np.nan]]},
            {},
            "Length of the way: a has 0. From start to end: a has 2. 2 places are not a number.",
        ),
        ({"a": [[9.0, 9.0]]}, {"background": GRID}, "value at the end: none has a known value."),
    ],
)
def test_paths_say_it_right_at_the_edges(paths: dict, more: dict[str, object], words: str) -> None:
    view = trajectory_view(paths, **more)
    assert view.alt.endswith(words) and "nan" not in view.alt and view.png()


@given(arrays(float, (5, 2), elements=st.floats(-100, 100)), st.floats(0.01, 5), st.floats(0.01, 5))
def test_arrowheads_lie_on_the_path_and_point_along_it(path: np.ndarray, across: float, down: float) -> None:
    inches = np.array([across, down])
    for head, share in zip(_heads(path, inches, (0.35, 0.7), 0.09), (0.35, 0.7), strict=False):
        tip, *base = head * inches
        steps = np.diff(path * inches, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        i = int(np.searchsorted(lengths.cumsum(), share * lengths.sum()))
        forward = (tip - np.mean(base, axis=0)) @ steps[i] / lengths[i]
        assert forward == pytest.approx(1.8 * 0.09, rel=1e-3, abs=1e-6), "as long as it should be, and forward"


def test_short_paths_have_no_heads_and_gaps_none_in_them() -> None:
    assert _heads(np.zeros((4, 2)), np.ones(2), (0.5,), 0.09) == []
    gap = np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, np.nan], [9.0, 0.0], [10.0, 0.0]])
    for head in _heads(gap, np.ones(2), (0.25, 0.75), 0.05):
        assert np.isfinite(head).all()


def test_axes_hold_everything_and_share_a_scale_on_request() -> None:
    ax = trajectory_view(PATHS, points={"far": (9, 0)}, equal=True).figure().axes[0]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert left < 0 and right > 9 and low < 0 and high > 4
    box = ax.get_window_extent()
    assert (right - left) / box.width == pytest.approx((high - low) / box.height)


def test_many_paths_are_named_at_an_end_and_limited() -> None:
    many = {f"class with a long name {i}": [[i % 5, i // 5], [i % 5 + 0.5, i // 5 + 0.5]] for i in range(20)}
    view = trajectory_view(many, most=15)
    figure = view.figure()
    assert "The first 15 of 20 paths are drawn; the table holds all." in view.alt and "and 14 more." in view.alt
    names, note = len(figure.axes[0].texts), figure.texts[0].get_text()
    assert note.startswith("15 of 20 paths are drawn.")
    assert names == 15 or f"{15 - names} name" in note
    assert any(isinstance(c, PolyCollection) for c in figure.axes[0].collections) and view.png(DARK)
    assert len(view.table) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paths": {}}, "got 0 paths and most = 100"),
        ({"most": 0}, "got 2 paths and most = 0"),
        ({"paths": {"a": [1.0, 2.0]}}, r"paths\['a'\] must be 2-D, got shape \(2,\)"),
        ({"paths": {"a": [[1.0]]}}, r"paths\['a'\] must be \(S, 2\) without infinite numbers, got shape \(1, 1\)"),
        ({"paths": {"a": [[1.0, np.inf]]}}, "without infinite numbers"),
        ({"paths": {"a": [[1.0, np.nan]]}}, "no known place"),
        ({"points": {"p": [1.0]}}, r"points\['p'\] must be two finite numbers, got \[1.0\]"),
        ({"background": (GRID[0][::-1], *GRID[1:])}, r"background's x must hold at least two ascending numbers"),
        ({"background": (*GRID[:2], np.zeros((2, 3)))}, r"background's z must be \(2, 2\) \(y, x\), got \(2, 3\)"),
        ({"background": (*GRID[:2], GRID[2] * np.nan)}, "background's z has no finite value"),
    ],
)
def test_paths_refuse_what_they_cannot_draw(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trajectory_view(**({"paths": PATHS} | arguments))
