"""Each change does what its name says, nothing at amount 0, and measures react as their invariances demand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcore.functional.cka import cka
from kdcore.functional.distortions import DISTORTIONS, distort
from kdcore.functional.similarity import similarity_profile

F64 = torch.float64


def cloud(n: int = 40, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64) * torch.arange(1.0, d + 1) + 2


@pytest.mark.parametrize("kind", DISTORTIONS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_amount_zero_changes_nothing_and_one_does(kind: str, seed: int) -> None:
    x = cloud(seed=seed)
    torch.testing.assert_close(distort(x, kind, 0.0, seed=seed), x, rtol=1e-12, atol=1e-12)
    assert (distort(x, kind, 1.0, seed=seed) - x).abs().max() > 0.1
    assert torch.equal(distort(x, kind, 0.4, seed=seed), distort(x, kind, 0.4, seed=seed))


@pytest.mark.parametrize("amount", [0.3, 1.0])
def test_what_each_does(amount: float) -> None:
    x = cloud()
    turned, larger, moved = (distort(x, kind, amount) for kind in ("rotation", "scaling", "shift"))
    torch.testing.assert_close(turned @ turned.T, x @ x.T)
    torch.testing.assert_close(larger, x * 100**amount)
    offset = moved - x
    torch.testing.assert_close(offset, offset[:1].expand_as(x))
    radius = (x - x.mean(0)).square().sum(1).mean().sqrt()
    assert offset[0].norm() == pytest.approx(3 * amount * radius.item())
    factors = distort(x, "anisotropic scaling", amount) / x
    torch.testing.assert_close(factors, factors[:1].expand_as(x))
    torch.testing.assert_close(factors[0].log10().sort().values, amount * torch.linspace(-1, 1, 6, dtype=F64))
    changed = distort(x, "one outlier", amount) - x
    assert int((changed.abs().sum(1) > 0).sum()) == 1 and changed.norm() == pytest.approx(30 * amount * radius.item())


def test_the_top_component_goes() -> None:
    x = cloud()
    before = torch.linalg.svdvals(x - x.mean(0))
    gone = distort(x, "no top component")
    torch.testing.assert_close(gone.mean(0), x.mean(0))
    after = torch.linalg.svdvals(gone - gone.mean(0))
    torch.testing.assert_close(after[:-1], before[1:])
    assert after[-1] < 1e-10
    half = torch.linalg.svdvals((h := distort(x, "no top component", 0.5)) - h.mean(0))
    assert half.sum() == pytest.approx((before.sum() - before[0] / 2).item())


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        ("rotation", True),
        ("scaling", True),
        ("shift", True),
        ("anisotropic scaling", False),
        ("one outlier", False),
        ("no top component", False),
    ],
)
def test_cka_is_blind_to_these(kind: str, same: bool) -> None:
    x = cloud()
    assert (abs(cka(x, distort(x, kind)).item() - 1) < 1e-9) is same


def test_neighbours_see_a_shift_and_hardly_an_outlier() -> None:
    x = cloud(100)
    shifted, outlier = (similarity_profile(x, distort(x, kind)) for kind in ("shift", "one outlier"))
    assert shifted["mutual k-NN"] < 0.95 and shifted["CKA"] > 1 - 1e-9
    assert outlier["mutual k-NN"] > 0.95 and outlier["CKA"] < 0.95


def test_shapes_and_bad_input() -> None:
    maps = torch.randn(5, 2, 3, 3)
    assert distort(maps, "shift").shape == (5, 18) and distort(maps, "shift").dtype == F64
    assert distort(torch.randn(4), "anisotropic scaling").shape == (4, 1)
    with pytest.raises(ValueError, match="kind must be one of"):
        distort(cloud(), "twist")
    with pytest.raises(ValueError, match=r"amount must be in \[0, 1\], got 1.5"):
        distort(cloud(), "shift", 1.5)
    with pytest.raises(ValueError, match=r"x must be \(N, \.\.\.\)"):
        distort(torch.zeros(0, 3), "shift")
