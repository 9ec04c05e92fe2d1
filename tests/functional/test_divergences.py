"""The pieces that logit losses are made of; the losses themselves are proven in tests/methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy
from support.golden import close, grad_of
from torch import Tensor

from kdcore.functional.divergences import (
    flatten_maps,
    kl_with_temperature,
    soft_cross_entropy,
    split_target_nontarget,
)

shapes = given(n=st.integers(1, 5), c=st.integers(2, 8), seed=st.integers(0, 999), temperature=st.floats(0.3, 9))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


@shapes
def test_kl_equals_scipy(n: int, c: int, seed: int, temperature: float) -> None:
    s, t = normal(n, c, seed=seed), normal(n, c, seed=seed + 1)
    p, q = (softmax(x.numpy() / temperature, axis=1) for x in (t, s))
    expected = torch.from_numpy(entropy(p, q, axis=1))
    close(kl_with_temperature(s, t, temperature=temperature), expected, 1e-9, floor=1e-13)


def test_kl_has_any_leading_shape_and_no_factor() -> None:
    s, t = normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)
    kl = kl_with_temperature(s, t, temperature=3.0)
    assert kl.shape == (2, 3)
    close(kl, kl_with_temperature(s / 3, t / 3))
    with pytest.raises(ValueError, match="same shape"):
        kl_with_temperature(s, t[0])
    with pytest.raises(ValueError, match="temperature"):
        kl_with_temperature(s, t, temperature=0.0)


def test_kl_detaches_the_teacher_alone() -> None:
    s, t = normal(2, 3, seed=1).requires_grad_(), normal(2, 3, seed=2).requires_grad_()
    kl_with_temperature(s, t).sum().backward()
    assert s.grad is not None and t.grad is None


@shapes
def test_kl_passes_gradients_to_the_target_on_request(n: int, c: int, seed: int, temperature: float) -> None:
    s, t = normal(n, c, seed=seed), normal(n, c, seed=seed + 1).requires_grad_()
    kl = kl_with_temperature(s, t, temperature=temperature, detach=False)
    close(kl, kl_with_temperature(s, t, temperature=temperature))
    p, log_p, log_q = (t / temperature).softmax(1), (t / temperature).log_softmax(1), (s / temperature).log_softmax(1)
    expected = p * (log_p - log_q - kl[:, None]) / temperature
    close(grad_of(kl.sum(), t), expected, 1e-8, floor=1e-12)
    if n == 1:
        assert torch.autograd.gradcheck(
            lambda a, b: kl_with_temperature(a, b, temperature=temperature, detach=False), (s.requires_grad_(), t)
        )


@shapes
def test_soft_cross_entropy_equals_torch(n: int, c: int, seed: int, temperature: float) -> None:
    logits, target = normal(n, c, seed=seed), (normal(n, c, seed=seed + 1) / temperature).softmax(1)
    for reduction in ("mean", "sum", "none"):
        close(
            soft_cross_entropy(logits, target, reduction=reduction),
            F.cross_entropy(logits, target, reduction=reduction),
            1e-12,
        )


def test_soft_cross_entropy_of_one_hot_targets_is_cross_entropy() -> None:
    logits, labels = normal(4, 3).requires_grad_(), torch.tensor([0, 2, 1, 1])
    soft, hard = soft_cross_entropy(logits, F.one_hot(labels, 3).double()), F.cross_entropy(logits, labels)
    close(soft, hard)
    close(grad_of(soft, logits), grad_of(hard, logits))


def test_soft_cross_entropy_passes_gradients_to_targets() -> None:
    logits, target = normal(4, 3), normal(4, 3, seed=1).softmax(1).requires_grad_()
    close(grad_of(soft_cross_entropy(logits, target, reduction="sum"), target), -logits.log_softmax(1))
    with pytest.raises(ValueError, match=r"must both be \(N, C\)"):
        soft_cross_entropy(logits, target[:, :2])


@shapes
def test_split_is_what_the_probabilities_say(n: int, c: int, seed: int, temperature: float) -> None:
    x, y = normal(n, c, seed=seed) / temperature, torch.randint(c, (n,), generator=torch.Generator().manual_seed(seed))
    log_target, log_rest, log_others = split_target_nontarget(x, y)
    p = softmax(x.numpy(), axis=1)
    rows = np.arange(n)
    close(log_target.exp(), torch.from_numpy(p[rows, y]), 1e-12)
    close(log_rest.exp(), torch.from_numpy(1 - p[rows, y]), 1e-9)
    for row, label, others in zip(x, y, log_others, strict=True):
        rest = torch.cat([row[:label], row[label + 1 :]])
        close(torch.cat([others[:label], others[label + 1 :]]), rest.log_softmax(0), 1e-12)
        assert others[label].exp() == 0


def test_split_keeps_what_confidence_hides() -> None:
    """In float32 1 - p_y is 0 here; the log of it is still known to full precision."""
    x = torch.tensor([[200.0, 0.0, 0.0, 0.0]])
    log_target, log_rest, _ = split_target_nontarget(x, torch.tensor([0]))
    close(log_rest, torch.tensor([-200.0 + float(np.log(3))]), 1e-6)
    assert log_target == 0
    shifted = split_target_nontarget(x - 20_000, torch.tensor([0]))
    close(shifted[1], log_rest, 1e-6)


def test_split_gradients() -> None:
    x, y = normal(3, 4).requires_grad_(), torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda v: tuple(p.clamp_min(-1e3) for p in split_target_nontarget(v, y)), (x,))


def test_flatten_maps() -> None:
    x = normal(2, 3, 4, 5)
    rows = flatten_maps(x)
    assert rows.shape == (40, 3) and torch.equal(rows[1 * 20 + 2 * 5 + 3], x[1, :, 2, 3])
    assert flatten_maps(rows) is rows
