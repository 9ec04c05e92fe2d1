"""Pictures of DHO say what their numbers say."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.views import conflict_view, head_bars_view, mixture_view
from workbench.views.theme import DARK, LIGHT

GRID = np.array([[0.5, 0.7, 0.6], [0.4, 0.9, 0.3]])


def test_the_mixture_names_the_chosen_and_the_best_point() -> None:
    view = mixture_view(GRID, (0.0, 0.5, 1.0), (1.0, 2.0), alpha=0.5, beta=1.0)
    assert "alpha 0.50 and beta 1 the mixture is right on 70.0 %" in view.alt
    assert "best point, alpha 0.50 and beta 2, on 90.0 %" in view.alt
    assert "the CE head alone on 60.0 %; the KD head alone on 50.0 %" in view.alt
    assert view.table.shape == (2, 4)
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


def test_the_voices_are_named_with_what_they_say() -> None:
    voices = {"CE head": [0.7, 0.2, 0.1], "teacher": [0.1, 0.1, 0.8]}
    view = head_bars_view(voices, ["cat", "dog", "<b>"], label=0, title="Voices")
    assert view.alt == "The image shows cat. CE head: cat (70 %) and teacher: <b> (80 %)."
    assert list(view.table.columns) == ["class", "CE head", "teacher"] and view.png()
    many = {"a": np.full(100, 0.01)}
    assert head_bars_view(many, [f"class with a long name {i}" for i in range(100)], label=3, title="Many").png()


def test_conflicts_are_counted() -> None:
    view = conflict_view({"single head": [-0.5, 0.5, np.nan], "dual head": [0.1, 0.3]})
    assert view.alt == (
        "single head: mean 0.00, against each other in 50 % of 2 steps; "
        "dual head: mean 0.20, against each other in 0 % of 2 steps. 1 steps have no cosine."
    )
    assert view.table["single head"].sum() == 2 and view.png(DARK)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grid must be \(3, 3\), got \(2, 3\)"):
        mixture_view(GRID, (0.0, 0.5, 1.0), (1.0, 2.0, 4.0), alpha=0.5, beta=1.0)
    with pytest.raises(ValueError, match="alpha must be one of"):
        mixture_view(GRID, (0.0, 0.5, 1.0), (1.0, 2.0), alpha=0.3, beta=1.0)
    with pytest.raises(ValueError, match="probabilities is empty"):
        head_bars_view({}, label=0, title="Nobody")
    with pytest.raises(ValueError, match=r"same classes, got \[2, 3\]"):
        head_bars_view({"a": [0.5, 0.5], "b": [0.2, 0.3, 0.5]}, label=0, title="Two")
    with pytest.raises(ValueError, match="cosines is empty"):
        conflict_view({})
