"""Tokens, patches and positions against index loops, round trips, masked means, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor

from kdcore.functional.tokens import (
    map_from_tokens,
    masked_mean,
    mean_pool,
    patchify,
    sincos_pos_embed_2d,
    tokens_from_map,
    unpatchify,
)

grids = given(rows=st.integers(1, 3), columns=st.integers(1, 3), p=st.integers(1, 3), c=st.integers(1, 3))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@grids
@settings(deadline=None)
def test_tokens_and_patches_equal_loops_and_come_back(rows: int, columns: int, p: int, c: int) -> None:
    x = normal(2, c, rows * p, columns * p)
    tokens, patches = tokens_from_map(x, patch_size=p), patchify(x, patch_size=p)
    assert torch.equal(tokens, F.unfold(x, p, stride=p).transpose(1, 2))
    for row in range(rows):
        for column in range(columns):
            block = x[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p]
            assert torch.equal(patches[:, row * columns + column], block.permute(0, 2, 3, 1).flatten(1))
    assert torch.equal(map_from_tokens(tokens, grid=(rows, columns), patch_size=p), x)
    assert torch.equal(unpatchify(patches, patch_size=p, grid=(rows, columns)), x)


def test_square_grids_and_class_tokens_are_found() -> None:
    x = normal(2, 3, 4, 4)
    tokens = torch.cat([normal(2, 2, 3), tokens_from_map(x)], dim=1)
    assert torch.equal(map_from_tokens(tokens, num_class_tokens=2), x)
    assert torch.equal(unpatchify(patchify(x, patch_size=2), patch_size=2), x)


def test_positions_equal_a_loop() -> None:
    table = sincos_pos_embed_2d(8, (2, 3), cls_token=True, dtype=torch.float64)
    assert table.shape == (7, 8) and not table[0].any()
    for row in range(2):
        for column in range(3):
            angles = [(column, 1.0), (column, 0.01), (row, 1.0), (row, 0.01)]
            (a, b), (c, d) = ([at * w for at, w in angles[:2]], [at * w for at, w in angles[2:]])
            expected = [math.sin(a), math.sin(b), math.cos(a), math.cos(b)]
            expected += [math.sin(c), math.sin(d), math.cos(c), math.cos(d)]
            close(table[1 + row * 3 + column], torch.tensor(expected, dtype=torch.float64), 1e-12)
    assert sincos_pos_embed_2d(16, 3).shape == (9, 16) and sincos_pos_embed_2d(4, 1).dtype == torch.float32


def test_masked_means() -> None:
    values = torch.tensor([[1.0, 2, math.nan], [3, 5, 7]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 1]])
    assert masked_mean(values, mask).item() == pytest.approx(10 / 3)
    assert masked_mean(values, mask.bool(), dim=1).tolist() == [1.5, 7]
    assert masked_mean(values, torch.zeros(2, 3), dim=1).tolist() == [0, 0]
    assert masked_mean(values[1]).item() == 5 and masked_mean(values[1:], dim=1).tolist() == [5]
    assert masked_mean(torch.tensor([1.0, 3]), torch.tensor([0.25, 0.5])).item() == pytest.approx(1.75 / 0.75)


@given(seed=st.integers(0, 99))
@settings(deadline=None)
def test_mean_pool_equals_a_loop(seed: int) -> None:
    x = normal(4, 5, 3, seed=seed)
    mask = torch.randint(2, (4, 5), generator=torch.Generator().manual_seed(seed))
    for row, tokens, keep in zip(mean_pool(x, mask), x, mask, strict=True):
        left = [t for t, k in zip(tokens, keep, strict=True) if k]
        close(row, sum(left) / len(left) if left else torch.zeros(3))
    close(mean_pool(x), x.mean(1))


def test_gradients_and_half_precision() -> None:
    x = normal(2, 3, 2).requires_grad_()
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert torch.autograd.gradcheck(lambda a: mean_pool(a, mask), (x,))
    hole = torch.tensor([1.0, math.nan, 3.0], requires_grad=True)
    masked_mean(hole.square(), torch.tensor([1, 0, 1])).backward()
    assert hole.grad is not None and hole.grad[[0, 2]].tolist() == [1, 3]
    assert mean_pool(x.bfloat16(), mask).dtype == torch.bfloat16
    image = normal(1, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: patchify(a, patch_size=2), (image,))


def test_refusals() -> None:
    x, tokens = normal(2, 3, 4, 6), normal(2, 6, 4)
    for call, message in (
        (lambda: tokens_from_map(tokens), r"feature_map must be \(N, C, H, W\)"),
        (lambda: tokens_from_map(x, patch_size=4), "patch_size must divide"),
        (lambda: patchify(x, patch_size=0), "patch_size"),
        (lambda: patchify(x, patch_size=5), "patch_size must divide"),
        (lambda: map_from_tokens(tokens), "grid must hold 6 tokens"),
        (lambda: map_from_tokens(tokens, num_class_tokens=6), "class tokens"),
        (lambda: map_from_tokens(tokens, grid=(2, 3), patch_size=3), "multiple of 9"),
        (lambda: unpatchify(tokens, patch_size=2), "grid must hold 6 patches"),
        (lambda: unpatchify(tokens, patch_size=3), r"\(N, T, 9 C\)"),
        (lambda: sincos_pos_embed_2d(6, 2), "multiple of 4"),
        (lambda: sincos_pos_embed_2d(8, (0, 2)), "at least 1 x 1"),
        (lambda: masked_mean(x, x[0]), "mask must have the shape"),
        (lambda: mean_pool(x), r"\(N, T, D\)"),
        (lambda: mean_pool(tokens, torch.ones(2, 5)), r"mask must be \(2, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
