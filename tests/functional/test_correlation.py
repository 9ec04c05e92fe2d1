"""Pearson, cosine and Kendall against scipy, and at their edges."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.golden import close
from torch import Tensor

from kdcore.functional import correlation
from kdcore.functional.correlation import cosine_similarity, kendall_tau, pearson_correlation

seeds = st.integers(0, 999)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(n=st.integers(1, 5), c=st.integers(3, 9), seed=seeds)
def test_pearson_equals_scipy(n: int, c: int, seed: int) -> None:
    a, b = normal(n, c, seed=seed), normal(n, c, seed=seed + 1)
    expected = torch.tensor([stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)], dtype=torch.float64)
    close(pearson_correlation(a, b, eps=0.0), expected, 1e-10, floor=1e-12)
    close(pearson_correlation(a.T, b.T, dim=0, eps=0.0), expected, 1e-10, floor=1e-12)


def test_pearson_by_hand() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([10.0, 30.0, 20.0]).double()
    close(pearson_correlation(a, b, eps=0.0), 0.5)
    close(pearson_correlation(a, b, eps=10.0), 10 / (20 + 10))  # <a, b> = 10, |a| |b| = 20: eps joins the product
    close(pearson_correlation(a, b, eps=20.0), 10 / 40)


def test_pearson_of_a_constant_is_zero_with_finite_gradient() -> None:
    a, b = torch.ones(3, 4).double().requires_grad_(), normal(3, 4)
    r = pearson_correlation(a, b)
    r.sum().backward()
    close(r, torch.zeros(3))
    assert a.grad is not None and a.grad.isfinite().all()


def test_pearson_keeps_accuracy_on_a_large_offset() -> None:
    a, b = normal(2, 50, seed=1), normal(2, 50, seed=2)
    close(pearson_correlation((a + 64).float(), (b - 64).float()), pearson_correlation(a, b), 1e-4)


def test_pearson_is_differentiable() -> None:
    a, b = normal(3, 5, seed=1).requires_grad_(), normal(3, 5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: pearson_correlation(x, y, dim=0), (a, b))


@given(n=st.integers(1, 4), c=st.integers(1, 9), seed=seeds)
def test_cosine_equals_torch(n: int, c: int, seed: int) -> None:
    a, b = normal(n, c, seed=seed), normal(n, c, seed=seed + 1)
    close(cosine_similarity(a, b, eps=0.0), F.cosine_similarity(a, b, dim=1, eps=1e-30), 1e-12)
    close(cosine_similarity(a, b, eps=2.0), (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 2), 1e-12)


def test_cosine_of_zero_is_zero_with_finite_gradient() -> None:
    a = torch.zeros(2, 3, requires_grad=True)
    c = cosine_similarity(a, torch.ones(2, 3))
    c.sum().backward()
    assert (c == 0).all() and a.grad is not None and a.grad.isfinite().all()


@given(n=st.integers(1, 4), c=st.integers(2, 9), seed=seeds, ties=st.booleans())
def test_kendall_equals_scipy(n: int, c: int, seed: int, ties: bool) -> None:
    a, b = normal(n, c, seed=seed), normal(n, c, seed=seed + 1)
    if ties:
        a, b = a.round(), b.round()
    expected = torch.tensor([stats.kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)], dtype=torch.float64)
    close(kendall_tau(a, b), expected, 1e-12)


def test_kendall_by_hand() -> None:
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(4, 4)
    b = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    close(kendall_tau(a, b), torch.tensor([1.0, -1.0, 4 / 6, torch.nan], dtype=torch.float64))


@given(c=st.integers(3, 8), seed=seeds)
def test_kendall_with_a_mask_drops_columns(c: int, seed: int) -> None:
    a, b = normal(4, c, seed=seed), normal(4, c, seed=seed + 1)
    label = torch.randint(c, (4,), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(4, c, dtype=torch.bool).scatter(1, label[:, None], False)
    close(kendall_tau(a, b, mask=mask), kendall_tau(a[mask].view(4, -1), b[mask].view(4, -1)), 1e-12)


def test_kendall_in_groups_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, mask = normal(7, 6, seed=1), normal(7, 6, seed=2), normal(7, 6, seed=3) > -1
    whole = kendall_tau(a, b, mask=mask), kendall_tau(a, b)
    monkeypatch.setattr(correlation, "_PAIR_BUDGET", 100)
    assert torch.equal(kendall_tau(a, b, mask=mask), whole[0]) and torch.equal(kendall_tau(a, b), whole[1])
    assert kendall_tau(a[:0], b[:0]).shape == (0,)


def test_bad_input() -> None:
    a = torch.zeros(2, 3)
    for function in (cosine_similarity, pearson_correlation):
        with pytest.raises(ValueError, match="same shape"):
            function(a, a[:, :2])
        with pytest.raises(ValueError, match="eps"):
            function(a, a, eps=-1.0)
    with pytest.raises(ValueError, match=r"must both be \(N, C\)"):
        kendall_tau(a[0], a[0])
    with pytest.raises(ValueError, match="mask must be bool"):
        kendall_tau(a, a, mask=a)
