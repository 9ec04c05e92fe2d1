"""Masks: the law of the Cox process against draws and enumeration, block masks by a slow loop, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor

from kdcore.functional.masks import (
    apply_block_mask,
    cox_intensity,
    masked_fraction_moments,
    masking_probability,
    relative_token_shift,
    sample_cox_mask,
    sample_uniform_mask,
    token_shift_map,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Intensity ------------------------------------------------------------------------------------------------------------


@given(h=st.integers(1, 6), w=st.integers(1, 6), block=st.sampled_from([2, 4, 8]), sigma=st.floats(4, 200))
def test_intensity_oracle(h: int, w: int, block: int, sigma: float) -> None:
    """The mean of the 2x2 pixels about the centre of an even block, normalised."""

    def pixel(y: int, x: int) -> float:
        ry, rx = h * block / 2, w * block / 2
        ty, tx = y - h * block // 2, x - w * block // 2
        return math.exp(-(ty**2) / (2 * sigma * ry) - tx**2 / (2 * sigma * rx))

    middle = block // 2
    cells = [
        [
            sum(pixel(i * block + middle - a, j * block + middle - b) for a in (0, 1) for b in (0, 1)) / 4
            for j in range(w)
        ]
        for i in range(h)
    ]
    expected = torch.tensor(cells, dtype=torch.float64)
    close(cox_intensity((h * block, w * block), block_size=block, sigma=sigma), expected / expected.sum(), 1e-9)


def test_intensity_is_highest_in_the_middle_and_sums_to_one() -> None:
    q = cox_intensity(128)
    assert q.shape == (8, 8) and q.dtype == torch.float64
    close(q.sum(), 1.0)
    assert q.argmax().item() in (27, 28, 35, 36) and q.argmin().item() in (0, 7, 56, 63)
    assert cox_intensity(128, sigma=16).max() > q.max()
    assert cox_intensity(32, block_size=8, dtype=torch.float32).dtype == torch.float32
    wide = cox_intensity((32, 64), block_size=8)
    assert wide.shape == (4, 8)
    close(wide.T, cox_intensity((64, 32), block_size=8))


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (100, {}, "template_size must be a positive multiple of block_size 16, got 100"),
        ((128, 120), {}, "template_size must be a positive multiple"),
        (0, {}, "template_size must be a positive multiple"),
        (128, {"block_size": 0}, "block_size must be a finite number > 0"),
        (128, {"sigma": 0.0}, "sigma must be a finite number > 0"),
    ],
)
def test_intensity_refuses(size: int | tuple[int, int], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cox_intensity(size, **options)


# The law --------------------------------------------------------------------------------------------------------------


def enumerated(q: list[float], mu: int) -> list[float]:
    """P(masked) by summing over the number of points: sum_G Poisson(G; mu) (1 - exp(-G q))."""
    p, total = math.exp(-mu), [0.0] * len(q)
    for points in range(200):
        total = [t + p * (1 - math.exp(-points * x)) for t, x in zip(total, q, strict=True)]
        p *= mu / (points + 1)
    return total


@given(h=st.integers(1, 4), w=st.integers(1, 5), seed=st.integers(0, 99), ratio=st.floats(0, 0.99))
def test_probability_is_the_sum_over_the_number_of_points(h: int, w: int, seed: int, ratio: float) -> None:
    q = torch.rand(h, w, generator=generator(seed), dtype=torch.float64) + 0.01
    q = q / q.sum()
    mu = int(h * w * ratio)
    expected = torch.tensor(enumerated(q.flatten().tolist(), mu), dtype=torch.float64)
    close(masking_probability(q, mask_ratio=ratio).flatten(), expected)
    close(masked_fraction_moments(q, mask_ratio=ratio)[0], expected.mean())


def test_the_official_setting_masks_a_quarter_not_thirty_percent() -> None:
    mean, std = masked_fraction_moments(cox_intensity(128), mask_ratio=0.3)
    assert mean == pytest.approx(0.254, abs=5e-4) and 0.06 < std < 0.08


def test_draws_follow_the_law() -> None:
    q = cox_intensity((32, 48), block_size=8, sigma=16)
    n = 20_000
    masked = 1 - sample_cox_mask(q, n, mask_ratio=0.5, generator=generator()).double()
    p = masking_probability(q, mask_ratio=0.5)
    error = (p * (1 - p) / n).sqrt()
    assert ((masked.mean((0, 1)) - p).abs() < 5 * error).all()
    shares = masked.mean((1, 2, 3))
    mean, std = masked_fraction_moments(q, mask_ratio=0.5)
    assert abs(shares.mean().item() - mean) < 5 * std / math.sqrt(n)
    assert abs(shares.std().item() - std) < 0.03 * std


def test_masks_differ_in_size_and_are_not_mixed_up_along_the_axes() -> None:
    q = torch.zeros(2, 5, dtype=torch.float64)
    q[1, 4] = 1.0  # all points fall in one cell
    mask = sample_cox_mask(q, 50, mask_ratio=0.9, generator=generator())
    assert mask.shape == (50, 1, 2, 5) and mask.dtype == torch.float32
    assert (mask[:, 0, 1, 4] == 0).sum() > 45 and mask.sum() == mask.numel() - (mask[:, 0, 1, 4] == 0).sum()
    many = sample_cox_mask(cox_intensity(128), 100, generator=generator())
    assert len({int(m.sum()) for m in many}) > 5
    assert set(many.unique().tolist()) == {0.0, 1.0}


def test_equal_seeds_give_equal_masks_and_no_ratio_masks_nothing() -> None:
    q = cox_intensity(32, block_size=8)
    first, second = (sample_cox_mask(q, 8, generator=generator(3)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, sample_cox_mask(q, 8, generator=generator(4)))
    assert sample_cox_mask(q, 8, mask_ratio=0.0).min() == 1
    torch.manual_seed(5)
    from_global = sample_uniform_mask((4, 4), 8)
    torch.manual_seed(5)
    assert torch.equal(from_global, sample_uniform_mask((4, 4), 8))


@given(h=st.integers(1, 6), w=st.integers(1, 6), ratio=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_uniform_masks_have_one_size(h: int, w: int, ratio: float, seed: int) -> None:
    mask = sample_uniform_mask((h, w), 5, mask_ratio=ratio, generator=generator(seed))
    assert mask.shape == (5, 1, h, w) and set(mask.unique().tolist()) <= {0.0, 1.0}
    assert ((mask == 0).flatten(1).sum(1) == h * w - int(h * w * (1 - ratio))).all()


@given(h=st.integers(1, 6), w=st.integers(1, 6), ratio=st.floats(0, 0.99), seed=st.integers(0, 999))
def test_randomly_rounded_masks_differ_by_one_block_at_most(h: int, w: int, ratio: float, seed: int) -> None:
    mask = sample_uniform_mask((h, w), 7, mask_ratio=ratio, rounding="random", generator=generator(seed))
    zeros = (1 - mask).sum((1, 2, 3))
    assert set(zeros.tolist()) <= {math.floor(h * w * ratio), math.ceil(h * w * ratio)}


def test_randomly_rounded_masks_hide_the_share_they_are_asked_for() -> None:
    mask = sample_uniform_mask((4, 4), 20_000, mask_ratio=0.26, rounding="random", generator=generator())
    assert abs((1 - mask).mean().item() - 0.26) < 4 * 0.5 / 16 / 20_000**0.5  # 4.16 blocks: 4 or 5
    assert (1 - mask).mean((0, 1)).sub(0.26).abs().max() < 0.02
    with pytest.raises(ValueError, match="rounding must be one of"):
        sample_uniform_mask((4, 4), 2, rounding="down")


def test_uniform_masks_have_no_preferred_place() -> None:
    mask = sample_uniform_mask((8, 8), 4000, generator=generator())
    assert (mask == 0).flatten(1).sum(1).unique().tolist() == [20]
    p = 20 / 64
    assert ((1 - mask).mean((0, 1)) - p).abs().max() < 5 * math.sqrt(p * (1 - p) / 4000)


@pytest.mark.parametrize(
    ("intensity", "ratio", "message"),
    [
        (torch.full((4,), 0.25), 0.3, r"intensity must be a floating \(h, w\)"),
        (torch.ones(2, 2).long(), 0.3, r"intensity must be a floating \(h, w\)"),
        (torch.tensor([[1.5, -0.5]]), 0.3, "intensity must be >= 0 and sum to 1"),
        (torch.ones(2, 2), 0.3, "intensity must be >= 0 and sum to 1.*a sum of 4"),
        (torch.tensor([[float("nan"), 1.0]]), 0.3, "intensity must be >= 0 and sum to 1"),
        (torch.full((2, 2), 0.25), 1.0, r"mask_ratio must be in \[0, 1\)"),
        (torch.full((2, 2), 0.25), -0.1, r"mask_ratio must be in \[0, 1\)"),
    ],
)
def test_the_process_refuses(intensity: Tensor, ratio: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_cox_mask(intensity, 2, mask_ratio=ratio)
    with pytest.raises(ValueError, match=message):
        masking_probability(intensity, mask_ratio=ratio)


@pytest.mark.parametrize(
    ("grid", "batch", "ratio", "message"),
    [
        ((0, 4), 2, 0.3, r"grid_size must be \(h, w\)"),
        ((4,), 2, 0.3, r"grid_size must be \(h, w\)"),
        ((4, 4), 0, 0.3, "batch_size must be a whole number >= 1"),
        ((4, 4), 2, 1.0, "mask_ratio must be in"),
    ],
)
def test_uniform_masks_refuse(grid: tuple[int, ...], batch: int, ratio: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_uniform_mask(grid, batch, mask_ratio=ratio)  # type: ignore[arg-type]


# On images and features -----------------------------------------------------------------------------------------------


@given(b=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4), by=st.integers(1, 4), bx=st.integers(1, 4))
def test_block_mask_oracle(b: int, h: int, w: int, by: int, bx: int) -> None:
    g = generator(b)
    images = torch.randn(b, 3, h * by, w * bx, generator=g)
    mask = torch.randint(2, (b, 1, h, w), generator=g).float()
    found = apply_block_mask(images, mask)
    for y in range(h * by):
        for x in range(w * bx):
            assert torch.equal(found[:, :, y, x], images[:, :, y, x] * mask[:, :, y // by, x // bx])


@pytest.mark.parametrize(
    ("images", "mask", "message"),
    [
        (torch.zeros(2, 3, 8, 8), torch.ones(3, 1, 4, 4), "the same batch size, got 2 and 3"),
        (torch.zeros(2, 3, 8, 9), torch.ones(2, 1, 4, 4), "whole multiples of the mask's grid"),
        (torch.zeros(2, 3, 2, 2), torch.ones(2, 1, 4, 4), "whole multiples of the mask's grid"),
        (torch.zeros(2, 3, 8, 8), torch.ones(2, 4, 4), r"mask \(B, 1, h, w\)"),
    ],
)
def test_block_masks_refuse(images: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_block_mask(images, mask)


def test_token_shift_by_hand() -> None:
    clean = torch.tensor([[[3.0, 4.0], [0.0, 5.0], [9.0, 9.0]]], dtype=torch.float64)
    moved = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    close(relative_token_shift(clean, moved, num_template_tokens=2), 0.5)
    close(relative_token_shift(7 * clean, 7 * moved, num_template_tokens=2), 0.5)
    close(token_shift_map(clean, moved, grid_size=(1, 2)), [[[0.0, 1.0]]])
    with pytest.raises(ValueError, match="must not be zero everywhere"):
        relative_token_shift(torch.zeros(1, 2, 2), clean[:, :2])
    with pytest.raises(ValueError, match=r"num_template_tokens must be in 1\.\.3"):
        token_shift_map(clean, moved, grid_size=(2, 2))


def test_shift_in_units_of_other_samples_by_hand() -> None:
    clean = torch.tensor([[[0.0, 0.0]], [[4.0, 0.0]], [[0.0, 4.0]]], dtype=torch.float64)
    moved = clean + torch.tensor([2.0, 0.0])  # each by 4, squared; the three pairs are 16, 16 and 32 apart
    close(relative_token_shift(clean, moved, to="others"), 4 / ((16 + 16 + 32) / 3))
    close(relative_token_shift(clean, moved), 12 / 32)
    close(relative_token_shift(clean + 100, moved + 100, to="others"), 4 / ((16 + 16 + 32) / 3))
    for same in (clean[:1], clean[:1].expand(3, 1, 2)):
        with pytest.raises(ValueError, match="must not be the same for all samples"):
            relative_token_shift(same, same + 1, to="others")
    with pytest.raises(ValueError, match="to must be one of"):
        relative_token_shift(clean, moved, to="itself")
