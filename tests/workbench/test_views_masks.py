"""Pictures of occlusion: what they say is computed from the data, and every one is drawn on light and dark."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.functional.masks import cox_intensity, masked_fraction_moments, sample_cox_mask
from workbench.views import masks as V
from workbench.views.base import View
from workbench.views.theme import DARK, LIGHT

G = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 3, 32, 32, generator=G)
Q = cox_intensity(32, block_size=8, sigma=16)
MASKS = sample_cox_mask(Q, 4, mask_ratio=0.5, generator=G)
TRUE = torch.tensor([[0.1, 0.1, 0.5, 0.5]]).expand(4, 4)
FOUND = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.3, 0.1, 0.7, 0.5], [0.6, 0.6, 0.9, 0.9], [0.1, 0.1, 0.5, 0.3]])


def every_view() -> dict[str, View]:
    return {
        "masks": V.masked_images_view(IMAGES, MASKS, Q, mask_ratio=0.5),
        "shares": V.masked_share_view(1 - MASKS.mean((1, 2, 3)), Q, mask_ratio=0.5),
        "shift": V.token_shift_view(IMAGES[0], IMAGES[1], {"a": torch.rand(4, 4), "b": torch.zeros(4, 4)}),
        "along": V.shift_profile_view({"a": [{"x": 0.1, "y": 0.4}, {"x": 0.3, "y": 0.2}], "b": [{"x": 0.0, "y": 1.0}]}),
        "weights": V.afkd_weights_view(torch.tensor([0.1, 0.5, 1.5]), torch.tensor([0.9, 0.5, 0.0]), alpha=0.5, beta=1),
        "success": V.success_view({"one": torch.rand(9), "seeds": [torch.rand(9), torch.rand(9)]}),
        "tracking": V.tracking_view(IMAGES, TRUE, FOUND, templates=IMAGES[:, :, :16, :16]),
    }


@pytest.mark.parametrize("name", every_view())
def test_views_are_drawn_in_both_themes(name: str) -> None:
    view = every_view()[name]
    assert len(view.table) and view.alt.endswith(".")
    pictures = [np.asarray(Image.open(io.BytesIO(view.png(theme))).convert("RGB")) for theme in (LIGHT, DARK)]
    assert pictures[0].std() > 5 and pictures[0].mean() > pictures[1].mean()
    assert pictures[0].shape[1] < 1000, "fits a laptop's column"


def test_masks_say_the_share_and_the_law() -> None:
    view = every_view()["masks"]
    mean, std = masked_fraction_moments(Q, mask_ratio=0.5)
    assert f"{100 * mean:.1f} %" in view.alt and f"{100 * std:.1f}" in view.alt
    assert view.table["masked share"].tolist() == pytest.approx((1 - MASKS.mean((1, 2, 3))).tolist())


def test_shares_are_counted() -> None:
    view = V.masked_share_view(torch.tensor([0.25, 0.25, 0.5, 0.0]), Q, mask_ratio=0.5)
    assert view.table["masked blocks"].tolist() == [0, 4, 8]
    assert view.table["share of masks"].tolist() == [0.25, 0.5, 0.25]


def test_shift_names_mean_and_largest() -> None:
    view = V.token_shift_view(IMAGES[0], IMAGES[1], {"plain": torch.tensor([[1.0, 0.0], [0.0, 1.0]])})
    assert "plain 0.500 (largest 1.00)" in view.alt
    assert view.table["plain"].tolist() == [1, 0, 0, 1]


def test_profile_averages_seeds_and_names_the_layers() -> None:
    view = every_view()["along"]
    assert view.table["layer"].tolist() == ["x", "y"] and view.table["a"].tolist() == pytest.approx([0.2, 0.3])
    assert "after x, y: a 0.200, 0.300; b 0.000, 1.000." in view.alt


def test_weights_name_the_ends_and_the_negative() -> None:
    view = every_view()["weights"]
    assert "the heaviest sample (1.3) has IoU 0.00, the lightest (-0.1) 0.90" in view.alt
    assert "1 of 3 weights are negative" in view.alt and "Mean weight 0.5;" in view.alt


def test_success_averages_seeds() -> None:
    view = V.success_view({"a": [torch.ones(4), torch.zeros(4)]})
    assert view.table.columns[1] == f"a ({0.5 * 20 / 21:.3f})" and view.table.iloc[3, 1] == 0.5


def test_tracking_gives_the_iou_of_every_image() -> None:
    view = every_view()["tracking"]
    assert view.table["IoU"].tolist() == pytest.approx([1.0, 1 / 3, 0.0, 0.5], abs=1e-6)
    alone = V.tracking_view(IMAGES, TRUE)
    assert "sides are 40 to 40 %" in alone.alt and "IoU" not in alone.alt and len(alone.png(LIGHT)) > 1000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: V.masked_images_view(IMAGES[:2], MASKS, Q, mask_ratio=0.5), "must belong together"),
        (lambda: V.masked_images_view(IMAGES, MASKS, Q[:2] / Q[:2].sum(), mask_ratio=0.5), "must belong together"),
        (lambda: V.token_shift_view(IMAGES[0], IMAGES[1], {}), "maps of one shape"),
        (lambda: V.token_shift_view(IMAGES[0, :1], IMAGES[1], {"a": torch.rand(2, 2)}), r"clean must be \(3, H, W\)"),
        (lambda: V.success_view({}), "nothing to show"),
        (lambda: V.shift_profile_view({}), "the same layers"),
        (lambda: V.shift_profile_view({"a": [{"x": 1.0}], "b": [{"y": 1.0}]}), "the same layers"),
        (lambda: V.shift_profile_view({"a": [{"x": 1.0}], "b": []}), "one or more runs"),
        (lambda: V.tracking_view(IMAGES[:2], TRUE, FOUND), "the same samples"),
    ],
)
def test_views_refuse(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
