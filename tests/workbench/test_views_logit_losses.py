"""KD taken apart: numbers of the table, words of the description, both themes drawn; the image beside the bars."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdcore.functional.divergences import dkd_loss, kd_loss
from workbench.views import DARK, LIGHT, kd_split_view, probability_bars_view


def logits(n: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_table_adds_up_to_the_losses() -> None:
    s, t, y = logits(12, 0), logits(12, 1), torch.arange(12) % 5
    table = kd_split_view(s, t, y, temperature=2.0, alpha=1.5, beta=6.0).table
    kd = kd_loss(s, t, temperature=2.0, reduction="none").numpy()
    dkd = dkd_loss(s, t, y, temperature=2.0, alpha=1.5, beta=6.0, reduction="none").numpy()
    np.testing.assert_allclose(table["KD"], kd, rtol=1e-9)
    np.testing.assert_allclose(table["TCKD"] + table["(1 - p) NCKD"], kd, rtol=1e-9)
    np.testing.assert_allclose(table["DKD"], dkd, rtol=1e-9)
    np.testing.assert_allclose(
        table["teacher's probability of the label"], (t / 2).softmax(1)[torch.arange(12), y].numpy(), rtol=1e-9
    )


def test_the_words_state_the_shares() -> None:
    # p = (3/4, 1/8, 1/8), q uniform: KD's rest is (1 - p) NCKD = 0, as both rests are uniform.
    t = torch.tensor([[math.log(6.0), 0.0, 0.0]])
    view = kd_split_view(torch.zeros(1, 3), t, torch.tensor([0]), temperature=1.0)
    assert "In KD the classes other than the label make up 0.0 % of the loss" in view.alt
    # label 1: rest of p is (6/7, 1/7), rest of q (1/2, 1/2)
    view = kd_split_view(torch.zeros(1, 3), t, torch.tensor([1]), temperature=1.0, alpha=1.0, beta=2.0)
    rest = 6 / 7 * math.log(12 / 7) + 1 / 7 * math.log(2 / 7)
    target = 1 / 8 * math.log(3 / 8) + 7 / 8 * math.log(7 / 8 * 3 / 2)
    assert (
        f"In KD the classes other than the label make up {100 * 7 / 8 * rest / (target + 7 / 8 * rest):.1f} %"
        in view.alt
    )
    assert f"In DKD the classes other than the label make up {100 * 2 * rest / (target + 2 * rest):.1f} %" in view.alt


@pytest.mark.parametrize("scale", [0.0, 1.0, 60.0])
def test_draws_flat_ordinary_and_certain_teachers(scale: float) -> None:
    t = logits(40, 2, scale)
    view = kd_split_view(logits(40, 3), t, t.argmax(1), temperature=1.0)
    sizes = [view.png(theme)[:8] for theme in (LIGHT, DARK)]
    assert sizes == [b"\x89PNG\r\n\x1a\n"] * 2
    planes = view.picture.panels
    assert [plane.title for plane in planes] == ["What KD adds up", "What DKD adds up"]
    assert all(np.isfinite(m.x).all() and (m.y > 0).all() for plane in planes for m in plane.marks)
    assert planes[0].y.log and planes[0].x.logit == (scale != 0)


def test_a_match_is_drawn_at_the_floor() -> None:
    s = logits(6, 4)
    view = kd_split_view(s, s, s.argmax(1), temperature=4.0)
    assert all(m.y.max() < 1e-6 for m in view.picture.panels[0].marks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 9]}, r"labels must be in \[0, 5\), got 9"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0"),
        ({"beta": -1.0}, "beta must be a finite number >= 0"),
        ({"teacher_logits": torch.zeros(3, 5)}, "must have the same shape"),
        ({"student_logits": torch.zeros(5)}, "student_logits must be 2-D"),
    ],
)
def test_refuses(change: dict, message: str) -> None:
    good = {"student_logits": logits(2, 0), "teacher_logits": logits(2, 1), "labels": [0, 1], "temperature": 4.0}
    with pytest.raises(ValueError, match=message):
        kd_split_view(**(good | change))


@pytest.mark.parametrize("shape", [(6, 6), (1, 6, 6), (3, 6, 6)])
@pytest.mark.parametrize("gradient", [True, False])
def test_bars_with_the_image_beside_them(shape: tuple[int, ...], gradient: bool) -> None:
    view = probability_bars_view(
        torch.zeros(4),
        torch.arange(4.0),
        list("abcd"),
        temperature=2.0,
        label=3,
        gradient=gradient,
        image=torch.rand(shape),
    )
    kinds = ["images", "plane", *["blank", "plane"] * gradient]
    assert [p.kind for p in view.picture.panels] == kinds and view.picture.panels[0].captions == ["label d"]
    without = probability_bars_view(torch.zeros(4), torch.arange(4.0), list("abcd"), temperature=2.0, label=3)
    assert view.alt == without.alt and {p.kind for p in without.picture.panels} == {"plane"}


def test_bars_refuse_an_image_of_two_channels() -> None:
    with pytest.raises(ValueError, match=r"image must be \(H, W\), \(1, H, W\) or \(3, H, W\), got shape \(2, 6, 6\)"):
        probability_bars_view(torch.zeros(4), torch.ones(4), temperature=2.0, image=torch.rand(2, 6, 6))
