"""Class means: by hand, against a loop, batch by batch, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.functional.prototypes import ClassMeanAccumulator, class_means


def data(n: int = 40, classes: int = 4, dim: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (n - classes,), generator=g)])
    return torch.randn(n, dim, generator=g, dtype=torch.float64), labels


def test_by_hand() -> None:
    means = class_means(torch.tensor([[0.0, 2.0], [2.0, 4.0], [5.0, 5.0]]), torch.tensor([1, 1, 0]), 2)
    assert means.tolist() == [[5.0, 5.0], [1.0, 3.0]]


@given(seed=st.integers(0, 1000), size=st.integers(1, 40))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_batches_equal_the_whole_and_the_loop(seed: int, size: int) -> None:
    x, y = data(seed=seed)
    expected = torch.stack(
        [torch.stack([row for row, label in zip(x, y, strict=True) if label == c]).mean(0) for c in range(4)]
    )
    torch.testing.assert_close(class_means(x, y, 4), expected, rtol=0, atol=1e-12)
    whole = ClassMeanAccumulator(4)
    parts = [ClassMeanAccumulator(4, dim=3), ClassMeanAccumulator(4)]
    for i, (a, b) in enumerate(zip(x.split(size), y.split(size), strict=True)):
        whole.update(a, b)
        parts[i % 2].update(a, b)
    torch.testing.assert_close(whole.compute(), expected, rtol=0, atol=1e-12)
    parts[0].merge(parts[1])
    torch.testing.assert_close(parts[0].compute(), expected, rtol=0, atol=1e-12)
    assert whole.counts.tolist() == torch.bincount(y).tolist() == parts[0].counts.tolist()


def test_sums_are_kept_in_float64() -> None:
    x = torch.full((3000, 1), 0.1).half()
    means = ClassMeanAccumulator(1)
    for part in x.split(10):
        means.update(part, torch.zeros(len(part), dtype=torch.int64))
    assert means.compute().dtype == torch.float16 and means.compute().item() == x[0].item()
    big = torch.tensor([[2.0**24], [1.0], [1.0]])  # 2^24 + 1 + 1 is 2^24 in float32
    assert class_means(big, torch.zeros(3, dtype=torch.int32), 1).item() == pytest.approx((2**24 + 2) / 3, rel=1e-7)


def test_no_gradient_is_kept() -> None:
    x, y = data()
    assert not class_means(x.requires_grad_(), y, 4).requires_grad


def test_a_class_without_samples_is_nan_and_named() -> None:
    x, y = data()
    with pytest.warns(UserWarning, match="no sample of class 4, 5: its mean is NaN"):
        means = class_means(x, y, 6)
    assert means[4:].isnan().all()
    torch.testing.assert_close(means[:4], class_means(x, y, 4))


def test_refusals() -> None:
    x, y = data()
    nan = x.clone()
    nan[0, 0] = math.nan
    for args, error, message in (
        ((x, y + 1, 4), ValueError, r"labels must be in \[0, 4\), got 4"),
        ((x, y - 1, 4), ValueError, "labels must be in"),
        ((x, y.double(), 4), TypeError, "labels"),
        ((x, y[:5], 4), ValueError, r"labels must have shape \(40,\)"),
        ((nan, y, 4), ValueError, "finite"),
        ((x[0], y[:3], 4), ValueError, r"\(N, D\)"),
        ((x.long(), y, 4), ValueError, "floating"),
        ((x[:0], y[:0], 4), ValueError, "at least one sample"),
        ((x, y, 0), ValueError, "num_classes"),
    ):
        with pytest.raises(error, match=message):
            class_means(*args)
    with pytest.raises(RuntimeError, match="no embeddings"):
        ClassMeanAccumulator(3).compute()
    with pytest.raises(RuntimeError, match="no embeddings"):
        ClassMeanAccumulator(3, dim=2).compute()
    means = ClassMeanAccumulator(4)
    means.update(x, y)
    with pytest.raises(ValueError, match="must have 3 features"):
        means.update(x[:, :2], y)
    for other in (ClassMeanAccumulator(5), ClassMeanAccumulator(4, dim=2)):
        with pytest.raises(ValueError, match="other must have"):
            means.merge(other)
    means.merge(ClassMeanAccumulator(4))  # nothing seen yet: nothing changes
    torch.testing.assert_close(means.compute(), class_means(x, y, 4))
