"""Pictures of similarity: what is said of the numbers, both themes, cells to hover over, bad input."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.cka_maps import BatchEstimate
from workbench import views
from workbench.views.base import View
from workbench.views.theme import DARK, LIGHT

MAP = torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.4, 0.8]], dtype=torch.float64)
SQUARE = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.1, 0.2, 0.3]], dtype=torch.float64)
ESTIMATES = [BatchEstimate(8, 16, MAP + 0.02, (MAP + 0.3).clamp(max=1)), BatchEstimate(64, 2, MAP + 0.01, MAP + 0.05)]
BEFORE, AFTER = {"CKA": 1.0, "RSA": 0.9}, {"CKA": 1.0, "RSA": 0.4}
GRAM = torch.tensor([[4.0, -1.0, 2.0], [-1.0, 4.0, -2.0], [2.0, -2.0, 4.0]])

MAKE: dict[str, Callable[[], View]] = {
    "grid": lambda: views.cka_grid_view(
        MAP, ["a", "b"], ["u", "v", "w"], shapes_x=["3", "4"], shapes_y=["5", "6 × 2", "7"]
    ),
    "film": lambda: views.cka_film_view([MAP, MAP + 0.1], ["a", "b"], ["u", "v", "w"], ["epoch 0", "epoch 1"]),
    "identification": lambda: views.layer_identification_view({"CKA": torch.eye(3), "CCA": SQUARE}, ["a", "b", "c"]),
    "batches": lambda: views.batch_estimates_view(MAP, ESTIMATES, batch_size=8),
    "profile": lambda: views.similarity_profile_view(BEFORE, AFTER, reference={"RSA": 0.1}),
    "grams": lambda: views.gram_view({"one": GRAM, "two": -GRAM}, [1, 0, 1], class_names=["zero", "one"]),
}


@pytest.mark.parametrize("name", MAKE)
def test_drawn_in_both_themes(name: str) -> None:
    view = MAKE[name]()
    for theme in (LIGHT, DARK):
        pixels = np.asarray(Image.open(io.BytesIO(view.png(theme))).convert("RGB"))
        assert pixels.shape[0] > 150 and pixels.shape[1] > 300 and pixels.std() > 5
    assert view.title and view.alt.endswith(".") and len(view.table)


def test_grid_cells_tell_layers_shapes_and_value() -> None:
    view = MAKE["grid"]()
    (heat,) = view.picture.panels
    assert heat.rows == ["a", "b"] and heat.columns == ["u", "v", "w"]  # short names: shapes would cut them
    assert heat.notes[1] == ["student 4, teacher 5", "student 4, teacher 6 × 2", "student 4, teacher 7"]
    assert heat.framed == [(0, 0), (1, 2)] and heat.values[1, 2] == pytest.approx(0.8)
    assert "highest, 0.90, between student a and teacher u" in view.alt


def test_grid_leaves_undefined_cells_open() -> None:
    broken = MAP.clone()
    broken[0] = torch.nan
    (heat,) = views.cka_grid_view(broken, ["a", "b"], ["u", "v", "w"]).picture.panels
    assert np.isnan(heat.values[0]).all() and heat.framed == [(1, 2)]


def test_grid_escapes_names() -> None:
    page = views.cka_grid_view(MAP, ["a<b", 'q"'], ["u", "v", "w"]).html()
    assert "a<b" not in page and "a&lt;b" in page and "a\\u003cb" in page


def test_identification_counts() -> None:
    view = MAKE["identification"]()
    assert view.alt == "CKA finds 3 of 3 layers; CCA finds 2 of 3 layers, and takes b for a."
    assert view.table["best by CCA"].tolist() == ["a", "a", "c"]


def test_batches_say_the_errors() -> None:
    view = MAKE["batches"]()
    assert view.table["mean error, minibatch CKA (unbiased)"].tolist() == pytest.approx([0.02, 0.01])
    naive = float(((MAP + 0.3).clamp(max=1) - MAP).abs().mean())
    assert view.table["mean error, mean of biased batches"].tolist() == pytest.approx([naive, 0.05])
    assert "At batch size 8 (16 batches)" in view.alt and "on average 0.020 off" in view.alt


def test_profile_names_what_is_blind_and_what_is_not() -> None:
    view = MAKE["profile"]()
    assert view.alt == "From before to after: RSA 0.90 to 0.40. Changed by less than 0.01: CKA."
    assert view.table["change"].tolist() == pytest.approx([0.0, -0.5])
    assert "Every measure changes." in views.similarity_profile_view({"A": 1.0}, {"A": 0.5}).alt


def test_film_and_grams_in_words() -> None:
    assert "mean CKA goes from 0.45 to 0.55, student b against teacher w from 0.80 to 0.90" in MAKE["film"]().alt
    table = MAKE["grams"]().table
    assert table["within a class"].tolist() == pytest.approx([1.0, -1.0])
    assert table["between classes"].tolist() == pytest.approx([-0.75, 0.75])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="shapes_x must hold 2 names, got 1"):
        views.cka_grid_view(MAP, ["a", "b"], ["u", "v", "w"], shapes_x=["3"])
    with pytest.raises(ValueError, match="maps must hold one to three, got 0"):
        views.layer_identification_view({}, ["a"])
    with pytest.raises(ValueError, match=r"maps\['m'\] must have shape \(2, 2\)"):
        views.layer_identification_view({"m": SQUARE}, ["a", "b"])
    with pytest.raises(ValueError, match="batch_size must be one of 8, 64, got 16"):
        views.batch_estimates_view(MAP, ESTIMATES, batch_size=16)
    with pytest.raises(ValueError, match="the same shape"):
        views.batch_estimates_view(SQUARE, ESTIMATES, batch_size=8)
    with pytest.raises(ValueError, match="the same measures"):
        views.similarity_profile_view(BEFORE, {"CKA": 1.0})
    with pytest.raises(ValueError, match="maps must hold one to twelve"):
        views.cka_film_view([MAP.T], ["a", "b"], ["u", "v", "w"], ["x"])
    with pytest.raises(ValueError, match="captions must hold 1 names"):
        views.cka_film_view([MAP], ["a", "b"], ["u", "v", "w"], [])
    with pytest.raises(ValueError, match="grams must hold one to three"):
        views.gram_view({"one": GRAM}, [0, 1])
    with pytest.raises(ValueError, match="zero off the diagonal"):
        views.gram_view({"one": torch.eye(3)}, [0, 1, 1])
