"""Pictures of PCoreSet say what their numbers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdcore.methods.pcoreset import coverage_radius, pcoreset_select, prediction_bias
from workbench.views import coverage_view, structure_view
from workbench.views.theme import DARK, LIGHT

#: Points on a line; the plane's second direction is empty.
LINE = np.array([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8], [1.5, 2.0]])


def test_coverage_names_the_pick_and_the_radius() -> None:
    view = coverage_view(LINE, [0], [3, 2], step=1, groups=[0, 1, 1, 2], class_names=["cat", "dog", "<b>"])
    assert view.alt == (
        "4 points in the space of probabilities, 1 labelled from the start and 1 picked. The last one is sample 3, "
        "predicted <b>. The worst covered point is 1 from the nearest labelled one; at the start it was 2.5."
    )
    assert view.table["radius after it"].tolist() == pytest.approx([2.5, 1.0, 0.5])
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))
    start = coverage_view(LINE, [0], [3, 2], step=0, space="features")
    assert "0 picked. The worst covered point is 2.5" in start.alt and start.png()


def test_radii_are_those_of_the_method() -> None:
    p = torch.randn(60, 100, generator=torch.Generator().manual_seed(0)).softmax(1).double()
    picks = pcoreset_select(p[5:], p[:5], 4) + 5
    view = coverage_view(p, range(5), picks.tolist(), step=4, groups=p.argmax(1).tolist())
    expected = [coverage_radius(p, p[[*range(5), *picks[:k].tolist()]]).item() for k in range(5)]
    assert view.table["radius after it"].tolist() == pytest.approx(expected)
    assert view.png() and coverage_view(p[:, :1] * 0 + 1, [0], [], step=0).png()


def test_structure_names_inertia_and_classes() -> None:
    corners = torch.eye(3, dtype=torch.float64)[[0] * 5 + [1] * 5]
    found = {"teacher": prediction_bias(corners, num_clusters=2, generator=torch.Generator().manual_seed(0))}
    view = structure_view(found, ["cat", "dog", "<b>"])
    assert view.alt == ("teacher: inertia is 0 of that of evenly spread points; 2 of 3 classes are on top of a centre.")
    assert view.table["centres, teacher"].tolist() == [1, 1, 0]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))
    many = {"a": {"histogram": np.ones(100), "ratio": 0.5}, "b": {"histogram": np.ones(100), "ratio": 0.2}}
    assert structure_view(many, [f"class with a long name {i}" for i in range(100)]).png()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"positions in \[0, 4\), at least one labelled"):
        coverage_view(LINE, [], [1], step=0)
    with pytest.raises(ValueError, match="positions in"):
        coverage_view(LINE, [0], [4], step=0)
    with pytest.raises(ValueError, match=r"step must be in \[0, 1\], got 2"):
        coverage_view(LINE, [0], [1], step=2)
    with pytest.raises(ValueError, match="groups must hold 4 classes"):
        coverage_view(LINE, [0], [1], step=1, groups=[0])
    with pytest.raises(ValueError, match="found is empty"):
        structure_view({})
    with pytest.raises(ValueError, match=r"same classes, got \[1, 2\]"):
        structure_view({"a": {"histogram": [1], "ratio": 1}, "b": {"histogram": [1, 1], "ratio": 1}})
