"""The fused kernels against the plain formulas: values, gradients, second derivatives, however the rows are cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore.functional import _kernels
from kdcore.functional.divergences import dist_loss, dkd_loss, kd_loss, kl_with_temperature

LOSSES = {
    "kd": lambda s, t, y: kd_loss(s, t, temperature=3.0),
    "dkd": lambda s, t, y: dkd_loss(s, t, y, temperature=3.0, alpha=0.7, beta=2.0),
    "dist": lambda s, t, y: dist_loss(s, t, temperature=3.0, beta=0.5, gamma=2.0),
}


def logits(n: int = 7, c: int = 11, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    s, t = (3 * torch.randn(n, c, generator=g, dtype=torch.float64) for _ in range(2))
    return s.to(dtype).requires_grad_(), t.to(dtype), torch.randint(c, (n,), generator=g)


def both(loss, s: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(s, t, y)
    return value.detach(), torch.autograd.grad(value, s)[0]


@pytest.mark.parametrize("slab", [1, 25, 1 << 17])
@pytest.mark.parametrize("name", LOSSES)
def test_equal_to_the_plain_formula_for_any_slab(name, slab, monkeypatch):
    s, t, y = logits()
    monkeypatch.setattr(_kernels, "applies", lambda logits: False)
    plain = both(LOSSES[name], s, t, y)
    monkeypatch.undo()
    monkeypatch.setattr(_kernels, "_SLAB", slab)
    for ours, theirs in zip(both(LOSSES[name], s, t, y), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_first_and_second_derivatives(name):
    s, t, y = logits(3, 4)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, t, y), s)
    assert torch.autograd.gradgradcheck(lambda x: LOSSES[name](x, t, y), s)


@pytest.mark.parametrize("name", LOSSES)
def test_twice_through_one_graph(name):
    s, t, y = logits()
    value = LOSSES[name](s, t, y)
    first = torch.autograd.grad(value, s, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(value, s)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_transposed_and_sliced_logits(name):
    s, t, y = logits()
    wide = torch.stack([s.detach(), t], 2)
    across = wide[..., 0].t().contiguous().t().requires_grad_()
    for ours, theirs in zip(both(LOSSES[name], across, wide[..., 1], y), both(LOSSES[name], s, t, y), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_as_accurate_as_the_plain_formula_at_any_scale(name, scale, monkeypatch):
    s, t, y = logits(6, 9, dtype=torch.float32)
    s, t = (s.detach() * scale).requires_grad_(), t * scale
    truth = both(LOSSES[name], s.detach().double().requires_grad_(), t.double(), y)
    ours = both(LOSSES[name], s, t, y)
    monkeypatch.setattr(_kernels, "applies", lambda logits: False)
    plain = both(LOSSES[name], s, t, y)
    for mine, theirs, wanted in zip(ours, plain, truth, strict=True):
        error, allowed = ((x.double() - wanted).abs().max() for x in (mine, theirs))
        assert error <= 2 * allowed + 2e-7 * max(1.0, float(wanted.abs().max()))


def test_a_common_shift_of_a_million_changes_nothing():
    s, t, _ = logits(5, 8)
    whole_s, whole_t = s.detach().round().float(), t.round().float()
    shifted = kl_with_temperature(whole_s + 2.0**20, whole_t - 2.0**20, temperature=2.0)
    assert torch.equal(shifted, kl_with_temperature(whole_s, whole_t, temperature=2.0))


def test_a_match_is_zero_exactly():
    _, t, y = logits(dtype=torch.float32)
    s = t.clone().requires_grad_()
    value, gradient = both(LOSSES["kd"], s, t, y)
    assert value == 0 and not gradient.any()
    value, gradient = both(LOSSES["dkd"], s, t, y)
    assert value == 0 and gradient.abs().max() < 1e-7  # its binary part goes through two logarithms


def test_constant_logits_have_correlation_zero_and_a_finite_gradient():
    s, t, y = logits(4, 1000, dtype=torch.float32)
    value, gradient = both(LOSSES["dist"], torch.full_like(s, 2.0).requires_grad_(), t, y)
    assert value == 9 * (0.5 + 2.0)
    assert torch.isfinite(gradient).all()
    with torch.no_grad():
        assert dist_loss(t, torch.zeros_like(t)) == 2


@pytest.mark.parametrize("name", LOSSES)
def test_nan_is_passed_on(name):
    s, t, y = logits()
    broken = s.detach().clone().index_fill_(0, torch.tensor([2]), torch.nan).requires_grad_()
    assert LOSSES[name](broken, t, y).isnan()
