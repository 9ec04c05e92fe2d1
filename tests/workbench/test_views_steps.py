"""Galleries over steps put every image in its place, and say how the numbers under them went."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.views import step_gallery_view
from workbench.views.steps import _scaled, _short
from workbench.views.theme import DARK, LIGHT
from workbench.views.words import text_width

#: Two rows, three steps; each image has one grey of its own.
GREYS = np.array([[0.0, 0.2, 0.4], [0.6, 0.8, 1.0]])
IMAGES = np.broadcast_to(GREYS[..., None, None], (2, 3, 4, 4))
NAMES, STEPS = ["cat", "dog"], ["start", "middle", "end"]


def test_gallery_says_how_values_went() -> None:
    values = [[1.0, np.nan, 0.25], [np.nan, 2.0, 2.5]]
    view = step_gallery_view(IMAGES, NAMES, STEPS, values=values, value_label="loss", mark=[[0, 0, 1], [0, 0, 0]])
    assert view.alt == (
        "2 rows by 3 steps of images of 4 by 4 pixels. loss: cat goes from 1 at start to 0.25 at end; dog goes from 2 "
        "at middle to 2.5 at end. Change: largest 0.5 (dog), smallest -0.75 (cat). 2 values are not a "
        "number. Framed: 1."
    )
    assert view.table["row"].tolist() == ["cat"] * 3 + ["dog"] * 3 and view.table["step"].tolist() == STEPS * 2
    assert view.table["mean pixel"].tolist() == pytest.approx(GREYS.ravel())
    assert view.table["loss"].tolist() == pytest.approx([1, np.nan, 0.25, np.nan, 2, 2.5], nan_ok=True)
    drawn = [t.get_text() for t in view.figure().axes[0].texts]
    assert drawn == [*STEPS, *NAMES, "1", "–", "0.25", "–", "2", "2.5", "below each image: loss"]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


def test_images_stand_in_reading_order() -> None:
    sheet = np.asarray(step_gallery_view(IMAGES).figure().axes[0].images[0].get_array())
    full = sheet[..., 3] == 255
    rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
    starts = [np.flatnonzero(np.diff(part, prepend=-9) > 1) for part in (rows, columns)]
    seen = [[int(sheet[rows[a] + 2, columns[b] + 2, 0]) for b in starts[1]] for a in starts[0]]
    assert seen == (255 * GREYS).round().astype(int).tolist()


@pytest.mark.parametrize(
    ("images", "more", "words"),
    [
        (IMAGES[:, :1], {}, "Rows: 0, 1."),
        (IMAGES * 0, {}, "No pixel changes between 0 and 2."),
        (IMAGES, {"row_names": NAMES}, "Mean change of a pixel from 0 to 2: all 2 have 0.4."),
        (IMAGES[:1], {"values": [[np.nan, 3.0, np.nan]]}, "value: 0 has 3 at 1. 2 values are not a number."),
        (IMAGES[:1], {"values": [[np.nan] * 3]}, "value: 0 is not known. 3 values are not a number."),
    ],
)
def test_gallery_says_it_right_at_the_edges(images: np.ndarray, more: dict[str, object], words: str) -> None:
    view = step_gallery_view(images, **more)
    assert view.alt.endswith(words) and "nan" not in view.alt and view.png()


def test_long_galleries_show_first_and_last_step_and_say_so() -> None:
    view = step_gallery_view(np.zeros((30, 50, 2, 2)), most_rows=4, most_steps=3, values=np.zeros((30, 50)))
    assert "3 of 50 steps are drawn, evenly. The first 4 of 30 rows are drawn; the table holds all." in view.alt
    texts = [t.get_text() for t in view.figure().axes[0].texts]
    assert texts[:3] == ["0", "24", "49"] and texts[3:7] == ["0", "1", "2", "3"] and len(view.table) == 1500


def test_what_shares_black_and_white() -> None:
    tops = np.array([[0.0, 2.0], [10.0, 30.0]])  # each image has a black pixel and one as bright as this
    array = tops[:, :, None, None, None] * np.array([0.0, 1.0])[:, None]
    one = {scale: _scaled(array, scale).max((2, 3, 4)) for scale in ("all", "rows", "steps", "none")}
    assert one["all"].ravel() == pytest.approx([0, 2 / 30, 10 / 30, 1])
    assert one["rows"].ravel() == pytest.approx([0, 1, 1 / 3, 1])
    assert one["steps"].ravel() == pytest.approx([0, 2 / 30, 1, 1])
    assert one["none"].ravel() == pytest.approx([0, 1, 1, 1])


@given(st.floats(-1e12, 1e12), st.floats(0.35, 1.0))
def test_numbers_are_as_long_as_there_is_room(value: float, room: float) -> None:
    said = _short(value, room)
    assert text_width(said, 8) <= room or said == f"{value:.1g}"
    assert float(said) == pytest.approx(value, rel=0.5, abs=1e-300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((2, 3, 4))}, r"images must be 4-D or 5-D, got shape \(2, 3, 4\)"),
        ({"images": np.zeros((0, 3, 4, 4))}, "images is empty"),
        ({"images": np.zeros((2, 3, 2, 4, 4))}, r"1 or 3 channels, last or before H and W, got \(2, 3, 2, 4, 4\)"),
        ({"images": IMAGES * np.nan}, "images must be finite, got 96"),
        ({"row_names": ["a"]}, "row_names must hold 2 names, got 1"),
        ({"step_captions": ["a"]}, "step_captions must hold 3 names, got 1"),
        ({"values": np.zeros((3, 2))}, r"values must be \(2, 3\), one for each image, got \(3, 2\)"),
        ({"mark": [True]}, r"mark must be \(2, 3\), one for each image, got \(1,\)"),
        ({"scale": "columns"}, "scale must be one of"),
        ({"most_steps": 1}, "most_rows must be at least 1 and most_steps 2, got 12 and 1"),
    ],
)
def test_galleries_refuse_what_they_cannot_draw(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_gallery_view(**({"images": IMAGES} | arguments))
