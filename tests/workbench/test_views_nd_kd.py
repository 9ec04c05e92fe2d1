"""Pictures of length and direction: the numbers behind them, what is said of them, both themes, bad input."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from workbench.views.base import View
from workbench.views.nd_kd import (
    attribution_view,
    nd_landscape_view,
    norm_direction_curves_view,
    norm_direction_view,
)
from workbench.views.theme import DARK, LIGHT

CLOUDS = {"teacher": ([10.0, 8.0], [1.0, 0.5]), "KD": ([2.0, 4.0], [0.0, 0.5]), "KD++": ([6.0, 8.0], [0.5, 1.0])}


def clouds() -> View:
    return norm_direction_view(CLOUDS, reference="teacher")


def landscape(student: tuple[float, float] = (1.0, 0.0), teacher: tuple[float, float] = (0.0, 2.0)) -> View:
    return nd_landscape_view(student, teacher, (0.0, 3.0), points=5)


def curves() -> View:
    return norm_direction_curves_view(
        {"CE": ([1.0, 2.0], [0.1, 0.2]), "KD++": ([1.0, 3.0], [0.1, 0.7])}, reference=(9.0, 0.9)
    )


def attributions() -> View:
    return attribution_view(np.eye(3)[None], {"before": np.diag([1.0, -2.0, 0.5]), "after": np.eye(3)}, label="weight")


def test_clouds_by_hand() -> None:
    view = clouds()
    assert view.table["mean length"].tolist() == [9.0, 3.0, 7.0]
    np.testing.assert_allclose(view.table["mean angle in degrees"], [30, 75, 30], atol=1e-9)
    assert "KD: length 3, 75 degrees from the class direction" in view.alt and "2 embeddings per model" in view.alt


def test_clouds_open_to_a_half_circle_where_angles_are_obtuse() -> None:
    lows = [norm_direction_view({"a": ([1.0], [c])}).picture.panels[0].y.low for c in (0.5, -0.5)]
    assert lows[0] == 0 and lows[1] < -1
    mean = norm_direction_view({"a": ([2.0], [0.5])}).picture.panels[0].marks[-1]  # 60 degrees to the right
    np.testing.assert_allclose([mean.x[0], mean.y[0]], [3**0.5, 1.0])


def test_the_landscape_says_in_which_regime_the_student_is() -> None:
    short, long = landscape(), landscape((4.0, 0.0))
    numbers = short.table.set_index("quantity")["value"]
    np.testing.assert_allclose(numbers, [1, 2, 1, 0, 0.5], atol=1e-12)  # pull e / ||t|| = (0, 0.5), around only
    assert "shorter than the teacher: pulled along the class" in short.alt
    np.testing.assert_allclose(long.table["value"], [4, 2, 1, 0, 0.25], atol=1e-12)
    assert "longer than the teacher: turned only" in long.alt
    along = landscape((0.0, 1.0)).table.set_index("quantity")["value"]
    np.testing.assert_allclose(along, [1, 2, 0.5, 0.5, 0], atol=1e-12)


def test_a_student_of_zero_is_pulled_outwards() -> None:
    value = landscape((0.0, 0.0)).table.set_index("quantity")["value"]
    np.testing.assert_allclose(value, [0, 2, 1, 0.5, 0], atol=1e-12)


def test_curves() -> None:
    view = curves()
    assert view.table["mean length"].tolist() == [1, 2, 1, 3] and view.table["epoch"].tolist() == [1, 2, 1, 2]
    assert "KD++: length 3, cosine 0.70" in view.alt and "teacher: length 9, cosine 0.90" in view.alt


def test_attributions() -> None:
    view = attributions()
    assert "before: 1.5 for and 2 against, strongest in row 1, column 1" in view.alt
    assert "after: 3 for and 0 against" in view.alt
    assert view.table["before"].sum() == -0.5


@pytest.mark.parametrize("make", [clouds, landscape, curves, attributions])
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
def test_drawn_in_both_themes(make: Callable[[], View], theme: object) -> None:
    image = np.asarray(Image.open(io.BytesIO(make().png(theme))).convert("L"), dtype=float)
    assert 300 < image.shape[1] <= 950 and image.std() > 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm_direction_view({"a": ([1.0], [0.5, 0.2])}), "got 1 norms and 2 cosines"),
        (lambda: norm_direction_view({"a": ([-1.0], [0.5])}), "norms >= 0"),
        (lambda: norm_direction_view({"a": ([1.0], [1.5])}), r"cosines in \[-1, 1\]"),
        (lambda: norm_direction_view(CLOUDS, reference="tutor"), "reference must be one of 'teacher', 'KD', 'KD"),
        (lambda: norm_direction_view({"a": ([1.0], [1.0])}, reference="a"), "one to three beside the reference, got 0"),
        (lambda: nd_landscape_view([1.0, 0.0, 0.0], [1.0, 0.0], [1.0, 0.0]), r"student must be \(2,\), got \(3,\)"),
        (lambda: nd_landscape_view([1.0, 0.0], [1.0, 0.0], [0.0, 0.0]), "no direction for class 0"),
        (lambda: nd_landscape_view([1.0, 0.0], [1.0, 0.0], [1.0, 0.0], points=2), "points must be at least 3, got 2"),
        (lambda: nd_landscape_view([1.0, 0.0], [1.0, 0.0], [1.0, 0.0], half_width=math.nan), "half_width must be"),
        (lambda: norm_direction_curves_view({}), "arms is empty"),
        (
            lambda: norm_direction_curves_view({"a": ([1.0], [0.5]), "b": ([1.0], [0.5, 0.2])}),
            r"arms\['b'\] must hold 1 norms and 1 cosines, got 1 and 2",
        ),
        (lambda: attribution_view(np.eye(3), {}), "maps must hold one to four, got 0"),
        (lambda: attribution_view(np.eye(3), {"a": np.eye(2)}), r"must have the image's shape \(3, 3\), got \(2, 2\)"),
    ],
)
def test_bad_input_is_named(call: Callable[[], View], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
