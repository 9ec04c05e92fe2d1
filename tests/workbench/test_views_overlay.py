"""Maps over images share a scale, show the image where they say nothing, and name their largest value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import colormaps

from workbench.views import overlay_view
from workbench.views.mosaic import FRAME, as_images, resized, to_unit
from workbench.views.theme import DARK, LIGHT, SEQUENTIAL

MAPS = np.zeros((2, 2, 3))
MAPS[0, 1, 2], MAPS[1, 0, 0] = 0.75, -0.25
IMAGES = np.full((2, 4, 6), 0.5)


def painted(view: object) -> np.ndarray:
    """The sheet of images as it is drawn, RGBA."""
    return np.asarray(view.figure().axes[0].images[0].get_array())


def test_overlay_names_the_largest_and_where() -> None:
    view = overlay_view(MAPS, IMAGES, ["cat", "dog"], value_label="attention", mark=[True, False])
    assert view.alt == (
        "Maps of attention over 2 images. Largest value 0.75, in cat at row 1, column 2 of 2 by 3 (from 0); smallest "
        "-0.25, in dog. Means: highest 0.125 (cat), lowest -0.04167 (dog). Framed: 1."
    )
    assert view.table["highest"].tolist() == [0.75, 0.0] and view.table["lowest"].tolist() == [0.0, -0.25]
    assert view.table[["row of highest", "column of highest"]].iloc[0].tolist() == [1, 2]
    axes = view.figure().axes
    assert [t.get_text() for t in axes[0].texts] == ["cat", "dog"]
    assert sum(p.get_edgecolor()[:3] == pytest.approx([0xD5 / 255, 0x5E / 255, 0], abs=1e-6) for p in axes[0].patches)
    assert FRAME == "#D55E00" and len(axes) == 2, "one colour bar for all"
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


def test_colours_are_image_and_map_by_hand() -> None:
    maps = np.array([[[0.0, 1.0], [np.nan, 0.5]]])
    sheet = painted(overlay_view(maps, np.full((1, 2, 2), 0.2), alpha=0.25, value_range=(0, 1)))
    seen = {tuple(c) for c in sheet[sheet[..., 3] == 255][:, :3].tolist()}
    cmap = colormaps[SEQUENTIAL]
    expected = {tuple(round(255 * (0.75 * 0.2 + 0.25 * c)) for c in cmap(v)[:3]) for v in (0.0, 0.5, 1.0)}
    assert seen == expected | {(51, 51, 51)}, "where the map is not a number the image is as it was"


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        (np.full((1, 2, 2), 0.5), "over 1 image. All values are 0.5."),
        (np.array([[[0.0, 1.0]]]), "smallest 0, in 0. Mean 0.5."),
        (np.array([[[np.nan, 1.0]], [[np.nan, np.nan]]]), "All values are 1. 3 values are not a number."),
        (np.array([[[0.0, 1.0]], [[np.nan, np.nan]]]), "Means: 0 has 0.5. 2 values are not a number."),
    ],
)
def test_overlay_says_it_right_at_the_edges(maps: np.ndarray, words: str) -> None:
    view = overlay_view(maps, np.ones((len(maps), 3, 3)))
    assert view.alt.endswith(words) and "nan" not in view.alt and view.png()


def test_a_diverging_scale_is_about_zero_and_a_smooth_map_is_larger() -> None:
    view = overlay_view(MAPS, IMAGES, diverging=True, smooth=True)
    assert view.figure().axes[1].get_ylim() == pytest.approx((-0.75, 0.75))
    step = len(np.unique(painted(overlay_view(MAPS[:1], IMAGES[:1])).reshape(-1, 4), axis=0))
    smooth = len(np.unique(painted(overlay_view(MAPS[:1], IMAGES[:1], smooth=True)).reshape(-1, 4), axis=0))
    assert step == 3 and smooth > step, "two values and the paper, against values between"


def test_many_images_are_limited_and_said() -> None:
    view = overlay_view(np.zeros((5, 2, 2)), np.zeros((5, 2, 2)), most=3)
    assert "The first 3 of 5 images are drawn" in view.alt and len(view.table) == 5
    assert len(view.figure().axes[0].texts) == 3


def test_channels_come_first_or_last() -> None:
    first = np.random.default_rng(0).uniform(size=(2, 3, 4, 5))
    last = np.moveaxis(first, 1, -1)
    assert (as_images("images", first, lead=1) == last).all() and (as_images("images", last, lead=1) == last).all()
    assert as_images("images", torch.zeros(2, 1, 4, 5), lead=1).shape == (2, 4, 5, 1)
    assert as_images("images", np.zeros((7, 2, 4, 5)), lead=2).shape == (7, 2, 4, 5, 1)
    assert painted(overlay_view(np.zeros((2, 4, 5)), first)).shape == painted(overlay_view(MAPS, last)).shape


@given(arrays(float, (3, 4), elements=st.floats(-5, 5)))
def test_values_are_scaled_and_pixels_kept(image: np.ndarray) -> None:
    unit = to_unit(image)
    assert unit.min() >= 0 and unit.max() <= 1
    if image.min() >= 0 and image.max() <= 1:
        assert (unit == image).all()
    larger = resized(image, 9, 12)
    assert (larger[1::3, 1::3] == image).all() and (resized(larger, 3, 4) == image).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": MAPS[0]}, r"maps must be 3-D, got shape \(2, 3\)"),
        ({"maps": MAPS[:0]}, "maps is empty"),
        ({"maps": MAPS[:1]}, "one map for each of 2 images, got 1"),
        ({"maps": MAPS * np.nan}, "maps must hold finite numbers"),
        ({"maps": MAPS + np.inf}, "maps must hold finite numbers"),
        ({"images": IMAGES * np.nan}, "images must be finite, got 48 values that are not"),
        ({"images": np.zeros((2, 2, 4, 6))}, r"1 or 3 channels, last or before H and W, got \(2, 2, 4, 6\)"),
        ({"images": IMAGES[0]}, "images must be 3-D or 4-D"),
        ({"captions": ["a"]}, "captions must hold 2 names, got 1"),
        ({"mark": [True]}, "mark must hold 2 truth values, got 1"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"value_range": (1, 1)}, r"value_range must be \(low, high\) with low < high, got \(1, 1\)"),
        ({"columns": 0}, "at least 1, got 100 and 0"),
    ],
)
def test_overlays_refuse_what_they_cannot_draw(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay_view(**({"maps": MAPS, "images": IMAGES} | arguments))
