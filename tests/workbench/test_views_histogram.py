"""Histograms count every value once, say where the means are, and what is outside or unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workbench.views import histogram_view
from workbench.views.theme import DARK, LIGHT


def test_counts_means_and_shares_by_hand() -> None:
    samples = {"CE": [0.1, 0.2, 0.6, 0.7], "KD": torch.tensor([0.9, 0.8])}
    view = histogram_view(samples, bins=[0.0, 0.5, 1.0], threshold={"tau": 0.65}, value_label="confidence")
    assert view.alt == (
        "confidence of 2 samples in 2 bins from 0 to 1. CE: mean 0.4, from 0.1 to 0.7, 4 values; KD: mean 0.85, from "
        "0.8 to 0.9, 2 values. Means: highest 0.85 (KD), lowest 0.4 (CE). Percent above tau (0.65): CE 25.0, KD 100.0."
    )
    assert view.table.to_numpy().tolist() == [[0.0, 0.5, 2, 0], [0.5, 1.0, 2, 2]]
    assert histogram_view(samples, bins=[0.0, 0.5, 1.0], measure="share").table["KD"].tolist() == [0, 1]
    density = histogram_view(samples, bins=[0.0, 0.5, 1.0], measure="density").table
    assert density["CE"].tolist() == [1.0, 1.0] and density["KD"].tolist() == [0.0, 2.0]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


@given(arrays(float, st.integers(1, 40), elements=st.floats(-1e6, 1e6)), st.integers(1, 30))
def test_every_value_is_in_one_bin_and_density_has_area_one(values: np.ndarray, bins: int) -> None:
    table = histogram_view({"a": values}, bins=bins).table
    assert table["a"].sum() == len(values)
    density = histogram_view({"a": values}, bins=bins, measure="density").table
    assert ((density["to"] - density["from"]) * density["a"]).sum() == pytest.approx(1)


def test_what_is_outside_unknown_or_empty_is_said() -> None:
    view = histogram_view({"a": [0.5, 2.0, np.nan, np.inf], "b": []}, bins=4, value_range=(0, 1))
    assert view.alt.endswith(
        "a: mean 1.25, from 0.5 to 2, 2 values; b: no value. Means: a has 1.25. 1 value lies outside the bins. "
        "2 values are not finite."
    )
    assert view.table["a"].sum() == 1 and view.table["b"].sum() == 0 and view.png()
    equal = histogram_view({"a": [3.0, 3.0], "b": [3.0]})
    assert "Means: all 2 have 3." in equal.alt and equal.table["a"].tolist() == [2] and equal.png()


def test_whole_numbers_have_a_bin_each() -> None:
    view = histogram_view({"rank": [1, 1, 2, 4]})
    assert view.table["from"].tolist() == [0.5, 1.5, 2.5, 3.5] and view.table["rank"].tolist() == [2, 1, 0, 1]
    assert len(histogram_view({"rank": [0, 1000]}).table) == 20


def test_samples_lie_over_each_other_then_in_rows_then_in_strips() -> None:
    def axes(n: int, **more: object) -> list:
        made = {f"class with a long name {i}": [i / n, 0.5, 1.0] for i in range(n)}
        return histogram_view(made, bins=10, threshold={"tau": 0.5}, **more).figure().axes

    assert len(axes(4)) == 1 and len(axes(4, panels=True)) == 4
    assert [ax.get_title(loc="left") for ax in axes(5)][-1] == "class with a long name 4"
    assert len({ax.get_ylim() for ax in axes(12)}) == 1, "one scale for all rows"
    strips = axes(100)
    assert len(strips) == 3 + 1, "three columns and a colour bar"
    assert [len(ax.get_yticklabels()) for ax in strips[:3]] == [34, 34, 32]
    assert len({ax.collections[0].get_clim() for ax in strips[:3]}) == 1


def test_more_samples_than_fit_are_left_out_and_said() -> None:
    view = histogram_view({str(i): [i] for i in range(20)}, most=15)
    assert "The first 15 of 20 samples are drawn" in view.alt and view.table.shape[1] == 22
    assert "and 14 more." in view.alt and "Means: highest 19 (19), lowest 0 (0)." in view.alt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": {}}, "samples is empty"),
        ({"samples": {"a": []}}, "samples hold no finite value"),
        ({"samples": {"a": [np.nan]}}, "samples hold no finite value"),
        ({"samples": {"a": [[1.0]]}}, r"samples\['a'\] must be 1-D, got shape \(1, 1\)"),
        ({"samples": {"a": [1.0]}, "bins": 0}, "bins must be at least 1, got 0"),
        ({"samples": {"a": [1.0]}, "bins": [0.0, 0.0]}, r"two ascending edges, got \[0.0, 0.0\]"),
        ({"samples": {"a": [1.0]}, "value_range": (1, 0)}, r"value_range must be \(low, high\) .* got \(1, 0\)"),
        ({"samples": {"a": [1.0]}, "measure": "log"}, "measure must be one of"),
        ({"samples": {"a": [1.0]}, "most": 0}, "most must be at least 1, got 0"),
    ],
)
def test_histograms_refuse_what_they_cannot_draw(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        histogram_view(**arguments)
