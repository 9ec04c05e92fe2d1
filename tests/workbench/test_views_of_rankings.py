"""Loss landscapes and mean places: the numbers behind the pictures, what is said of them, both themes, bad input."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.experiment import Comparison
from kdcore.functional.landscape import orthonormal_directions
from workbench.views import class_positions_view, comparison_view, loss_landscape_view
from workbench.views.base import View
from workbench.views.theme import DARK, LIGHT

T = torch.tensor([1.0, 0.5, 0.0, -0.5], dtype=torch.float64)
PLANE = orthonormal_directions(4, generator=torch.Generator().manual_seed(0))


def bowl(s: torch.Tensor) -> torch.Tensor:
    return (s - T).square().sum(1)


def dome(s: torch.Tensor) -> torch.Tensor:
    return -bowl(s)


def landscape() -> View:
    return loss_landscape_view(T, {"bowl": bowl, "dome": dome}, PLANE, half_width=2.0, points=9)


def places() -> View:
    teacher = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]])
    return class_positions_view(
        {"teacher": teacher, "same": teacher * 2, "reverse": -teacher}, [0, 0, 1, 2], class_names=["ant", "bee", "cat"]
    )


def test_landscape_numbers_are_the_losses() -> None:
    table = landscape().table
    assert len(table) == 81 and list(table.columns[-2:]) == ["bowl", "dome"]
    a, b = table.iloc[:, 0].to_numpy(), table.iloc[:, 1].to_numpy()
    np.testing.assert_allclose(table["bowl"], a**2 + b**2, atol=1e-12)  # orthonormal: distance in the plane


def test_landscape_says_which_loss_is_not_convex() -> None:
    alt = landscape().alt
    assert "bowl bends down nowhere" in alt and "dome bends down at 100 % of the steps, so it is not convex" in alt
    assert "bowl is lowest, 0, at (0, 0)" in alt


def test_places_by_hand() -> None:
    view = places()
    assert view.table["teacher"].tolist() == [1, 2, 3, 3, 1, 2, 2, 3, 1]
    assert view.table["reverse"].tolist() == [3, 2, 1, 1, 3, 2, 2, 1, 3]
    assert "highest class after the label is bee on ant (mean place 2.0)" in view.alt
    assert "same: on average 0.0 places" in view.alt and "reverse: on average 1.3 places" in view.alt


def test_a_class_without_samples_is_left_open() -> None:
    view = class_positions_view(
        {"teacher": torch.tensor([[3.0, 2.0, 1.0]]), "student": torch.tensor([[2.0, 3, 1]])}, [0]
    )
    assert view.table["teacher"].isna().sum() == 6 and "0.7 places" in view.alt


@pytest.mark.parametrize("view", [landscape(), places()], ids=["landscape", "places"])
def test_drawn_on_light_and_dark(view: View) -> None:
    pictures = [
        np.asarray(Image.open(io.BytesIO(view.png(theme))).convert("L"), dtype=float) for theme in (LIGHT, DARK)
    ]
    assert all(p.std() > 10 for p in pictures) and pictures[0][0, 0] > 200 > 60 > pictures[1][0, 0]


def test_a_comparison_is_drawn_with_the_name_of_its_metric() -> None:
    made = Comparison(arms=("CE",), seeds=(0,), metric="accuracy", records=[{"arm": "CE", "seed": 0, "last": 0.9}])
    assert comparison_view(made).alt.startswith("Mean accuracy of the last epoch over ")
    assert comparison_view(made.rows).alt.startswith("Mean last over ")


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="directions"):
        loss_landscape_view(T, {"bowl": bowl}, PLANE[:, :3])
    with pytest.raises(ValueError, match="points"):
        loss_landscape_view(T, {"bowl": bowl}, PLANE, points=2)
    with pytest.raises(ValueError, match="half_width"):
        loss_landscape_view(T, {"bowl": bowl}, PLANE, half_width=0.0)
    with pytest.raises(ValueError, match="one number per row"):
        loss_landscape_view(T, {"mean": lambda s: bowl(s).mean()}, PLANE, points=5)
    with pytest.raises(ValueError, match="one to three"):
        class_positions_view({}, [0])
    with pytest.raises(ValueError, match="must have shape"):
        class_positions_view({"a": torch.zeros(2, 3), "b": torch.zeros(2, 4)}, [0, 1])
    with pytest.raises(ValueError, match="labels must be in"):
        class_positions_view({"a": torch.zeros(2, 3)}, [0, 3])
