"""Pooling against hand-written loops."""

from __future__ import annotations

import pytest
import torch

from kdcore.functional.pooling import pool_features


def test_values_by_hand():
    x = torch.arange(16.0).reshape(2, 2, 2, 2)
    assert torch.equal(pool_features(x, "flatten"), torch.arange(16.0).reshape(2, 8))
    assert torch.equal(pool_features(x, "gap"), torch.tensor([[1.5, 5.5], [9.5, 13.5]]))
    assert torch.equal(pool_features(x, "gap", channels_last=True), torch.tensor([[3.0, 4.0], [11.0, 12.0]]))
    assert pool_features(x, None) is x
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(pool_features(tokens, "gap"), torch.tensor([[2.0, 3.0], [8.0, 9.0]]))
    assert torch.equal(pool_features(tokens, "cls"), torch.tensor([[0.0, 1.0], [6.0, 7.0]]))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 5, 4), (3, 4, 2, 6), (3, 4, 2, 2, 2)])
@pytest.mark.parametrize("pooling", ["flatten", "gap"])
def test_one_row_per_sample_equal_to_a_loop(shape, pooling):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = []
    for sample in x:
        if pooling == "flatten" or sample.ndim < 2:
            rows.append(sample.reshape(-1))
        elif sample.ndim == 2:
            rows.append(sum(sample) / len(sample))
        else:
            rows.append(torch.stack([channel.mean() for channel in sample]))
    torch.testing.assert_close(pool_features(x, pooling), torch.stack(rows))


def test_bad_input():
    with pytest.raises(ValueError, match=r"pooling must be one of .*, got 'gapp'\. Did you mean 'gap'"):
        pool_features(torch.ones(2, 3), "gapp")
    with pytest.raises(ValueError, match=r'pooling="cls" takes token 0 of \(N, T, D\), got float32 \(2, 3\)'):
        pool_features(torch.ones(2, 3), "cls")
    with pytest.raises(ValueError, match="samples in its first dimension"):
        pool_features(torch.tensor(1.0), "gap")
