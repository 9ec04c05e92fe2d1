"""Relations inside maps: by hand, against loops over positions and channels, gradients, invariances, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor

from kdcore.functional.affinity import (
    channel_gram,
    channel_wise_kl,
    hierarchical_context,
    pixel_cosine_distance,
    sample_gram,
    spatial_affinity,
)

seeds = given(seed=st.integers(0, 999))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@seeds
@settings(deadline=None, max_examples=25)
def test_relations_equal_loops(seed: int) -> None:
    x, y = normal(3, 4, 2, 3, seed=seed), normal(3, 4, 2, 3, seed=seed + 1)
    for i in range(3):
        row = [float(x[i].flatten() @ x[j].flatten()) for j in range(3)]
        close(sample_gram(x)[i], torch.tensor(row, dtype=torch.float64) / math.hypot(*row))
        for c in range(4):
            row = [float(x[i, c].flatten() @ x[i, k].flatten()) for k in range(4)]
            close(channel_gram(x)[i, c], torch.tensor(row, dtype=torch.float64) / math.hypot(*row))
        for a in range(6):
            here = x[i, :, a // 3, a % 3]
            close(pixel_cosine_distance(x, y)[i, a // 3, a % 3], 1 - cosine(here, y[i, :, a // 3, a % 3]), floor=1e-9)
            for b in range(6):
                close(spatial_affinity(x)[i, a, b], cosine(here, x[i, :, b // 3, b % 3]), 1e-7, floor=1e-7)


@seeds
@settings(deadline=None, max_examples=25)
def test_channel_wise_kl_equals_a_loop(seed: int) -> None:
    s, t = normal(2, 3, 2, 2, seed=seed), normal(2, 3, 2, 2, seed=seed + 1)
    values = channel_wise_kl(s, t, temperature=2.0, reduction="none")
    for n in range(2):
        for c in range(3):
            p, q = ((v[n, c].flatten() / 2).softmax(0) for v in (t, s))
            close(values[n, c], 4 * sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True)), floor=1e-9)
    close(channel_wise_kl(s, t, temperature=2.0), values.sum() / 6)
    close(channel_wise_kl(s + 3, t, temperature=2.0), values.mean())  # a shift of a channel moves nothing


def test_hierarchical_context_by_hand() -> None:
    s, t = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 1], [1, -3]]]])
    # full size 12 / 4 = 3; level 4 and 2 are not below H; level 1: mean 0
    assert hierarchical_context(s, t).item() == pytest.approx(3 / 1.5)
    big_s, big_t = normal(2, 3, 6, 5), normal(2, 3, 6, 5, seed=1)
    expected, weight = (big_s - big_t).square().mean(), 1.0
    for level in (4, 2, 1):
        weight /= 2
        pools = [torch.nn.AdaptiveAvgPool2d(level)(v) for v in (big_s, big_t)]
        expected = expected + weight * (pools[0] - pools[1]).square().mean()
    close(hierarchical_context(big_s, big_t), expected / 1.875)
    assert hierarchical_context(big_t, big_t).item() == 0


def test_pooling_and_invariances() -> None:
    x = normal(2, 3, 4, 4)
    assert spatial_affinity(x, pool=2).shape == (2, 4, 4)
    close(spatial_affinity(x, pool=2), spatial_affinity(torch.nn.functional.avg_pool2d(x, 2)))
    rotation = torch.linalg.qr(normal(3, 3))[0]
    close(spatial_affinity(torch.einsum("cd,ndhw->nchw", rotation, x)), spatial_affinity(x), 1e-7)
    close(sample_gram(5 * x), sample_gram(x))
    assert torch.isfinite(sample_gram(0 * x)).all() and torch.isfinite(spatial_affinity(0 * x)).all()
    close(pixel_cosine_distance(0 * x, x), torch.ones(2, 4, 4))
    assert channel_gram(normal(3, 4)).shape == (3, 4, 4)


def test_gradients_and_half_precision() -> None:
    s, t = normal(2, 2, 3, 3).requires_grad_(), normal(2, 2, 3, 3, seed=1).requires_grad_()
    for relation in (sample_gram, channel_gram, spatial_affinity):
        assert torch.autograd.gradcheck(relation, (s,))
        assert relation(s.bfloat16()).dtype == torch.float32
    for pair in (pixel_cosine_distance, hierarchical_context, channel_wise_kl):
        assert torch.autograd.gradcheck(lambda a, pair=pair: pair(a, t), (s,))
        assert torch.autograd.grad(pair(s, t).sum(), t, allow_unused=True) == (None,)
        assert pair(s.bfloat16(), t.bfloat16()).dtype == torch.float32


def test_refusals() -> None:
    x = normal(2, 3, 4, 4)
    for call, message in (
        (lambda: sample_gram(x[0, 0, 0]), r"features must be floating \(N, ...\)"),
        (lambda: channel_gram(x.long()), "floating"),
        (lambda: spatial_affinity(x[0]), r"\(N, C, H, W\)"),
        (lambda: spatial_affinity(x, pool=0), "pool"),
        (lambda: spatial_affinity(x, eps=0), "eps"),
        (lambda: pixel_cosine_distance(x, x[:, :2]), "same shape"),
        (lambda: hierarchical_context(x, x, levels=(0,)), "levels"),
        (lambda: hierarchical_context(x, x[..., :3]), "same shape"),
        (lambda: channel_wise_kl(x, x, temperature=0), "temperature"),
        (lambda: channel_wise_kl(x, x, reduction="max"), "reduction"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
