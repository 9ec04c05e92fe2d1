"""Top-k gates and balance measures: by hand, against loops, gradients, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor

from kdcore.functional.routing import (
    cv_balance,
    expert_load,
    gshard_balance,
    kl_balance,
    select_experts,
    top_k_gate,
)

sizes = given(n=st.integers(1, 9), e=st.integers(2, 6), seed=st.integers(0, 999))


def gates(n: int, e: int, seed: int = 0) -> Tensor:
    return torch.randn(n, e, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)


@sizes
def test_top_k_equals_a_sort_of_each_row(n: int, e: int, seed: int) -> None:
    probs = gates(n, e, seed)
    for k in range(e + 1):
        weights, indices = top_k_gate(probs, k)
        for row, w, i in zip(probs.tolist(), weights.tolist(), indices.tolist(), strict=True):
            expected = sorted(range(e), key=lambda c, row=row: -row[c])[:k]
            assert i == expected and w == [row[c] for c in expected]
    close(top_k_gate(probs, 2, normalize=True).weights.sum(1), torch.ones(n))


def test_top_k_ties_ranks_and_gradient() -> None:
    assert top_k_gate(torch.full((2, 3, 4), 0.25).bfloat16(), 2).indices.tolist() == [[[0, 1]] * 3] * 2
    assert top_k_gate(gates(3, 4), 0, normalize=True).weights.shape == (3, 0)
    probs = gates(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: top_k_gate(p, 2, normalize=True).weights, (probs,))
    assert not top_k_gate(probs, 1).indices.requires_grad


def test_select_experts_equals_a_loop() -> None:
    outputs = torch.randn(4, 5, 3, 2, generator=torch.Generator().manual_seed(0))
    indices = torch.tensor([[0, 3], [1, 1], [2, 0], [3, 2], [0, 1]])
    chosen = select_experts(outputs, indices)
    assert chosen.shape == (5, 2, 3, 2)
    for n in range(5):
        for slot in range(2):
            assert torch.equal(chosen[n, slot], outputs[indices[n, slot], n])


def test_balance_by_hand() -> None:
    uniform, one = torch.full((4, 3), 1 / 3), torch.eye(3)[[1, 1, 1, 1]]
    spread = torch.tensor([[0], [1], [2], [0]])
    assert gshard_balance(uniform, spread).item() == pytest.approx(1)
    assert gshard_balance(one, torch.ones(4, 1).long()).item() == pytest.approx(3)
    assert gshard_balance(one, torch.empty(4, 0).long()).item() == 0
    assert kl_balance(uniform).item() == pytest.approx(0, abs=1e-7)
    assert cv_balance(uniform).item() == pytest.approx(0, abs=1e-6)
    two = torch.tensor([[0.75, 0.25], [0.5, 0.5]])  # mean (0.625, 0.375)
    assert kl_balance(two).item() == pytest.approx(-0.5 * (math.log(1.25) + math.log(0.75)) / 2)
    assert cv_balance(two).item() == pytest.approx(0.25 / math.sqrt(2) / 0.5)
    assert math.isfinite(kl_balance(one).item())
    assert expert_load(spread, 4).tolist() == [0.5, 0.25, 0.25, 0]


@sizes
def test_balance_equals_loops(n: int, e: int, seed: int) -> None:
    g = gates(n, e, seed)
    chosen = torch.randint(e, (n, 2), generator=torch.Generator().manual_seed(seed))
    mean = [sum(g[i, j].item() for i in range(n)) / n for j in range(e)]
    share = [sum(chosen[i, s].item() == j for i in range(n) for s in range(2)) / (2 * n) for j in range(e)]
    close(gshard_balance(g, chosen), e * sum(f * p for f, p in zip(share, mean, strict=True)), 1e-6)
    close(kl_balance(g), sum((math.log(1 / e) - math.log(p)) / e for p in mean) / e, 1e-9, floor=1e-14)
    spread = math.sqrt(sum((p - 1 / e) ** 2 for p in mean) / (e - 1))
    close(cv_balance(g), spread * e, 1e-9, floor=1e-14)
    assert kl_balance(g) >= -1e-15


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_gradients(seed: int) -> None:
    g = gates(4, 3, seed).requires_grad_()
    chosen = torch.tensor([[0, 1], [2, 0], [1, 2], [0, 2]])
    assert torch.autograd.gradcheck(kl_balance, (g,))
    assert torch.autograd.gradcheck(cv_balance, (g,))
    assert torch.autograd.gradcheck(lambda p: gshard_balance(p, chosen), (g,))


def test_half_precision_is_read_as_float32() -> None:
    g = gates(64, 4).bfloat16()
    for loss in (kl_balance(g), cv_balance(g), gshard_balance(g, top_k_gate(g, 2).indices)):
        assert loss.dtype == torch.float32
    close(kl_balance(g), kl_balance(g.float()))


def test_refusals() -> None:
    g = gates(4, 3)
    for call, message in (
        (lambda: top_k_gate(g, 4), r"k must be in \[0, 3\]"),
        (lambda: top_k_gate(g, -1), r"k must be in"),
        (lambda: top_k_gate(g.long(), 1), "floating"),
        (lambda: gshard_balance(g, torch.zeros(3, 1).long()), r"assignments must be \(4, k\)"),
        (lambda: gshard_balance(g, torch.full((4, 1), 3)), r"assignments must be in \[0, 3\)"),
        (lambda: gshard_balance(g[0], torch.zeros(3, 1).long()), r"\(N, E\)"),
        (lambda: kl_balance(g[:0]), "N >= 1"),
        (lambda: cv_balance(g[:, :1]), "at least 2 experts"),
        (lambda: select_experts(g, torch.zeros(2, 1).long()), r"indices \(N, k\)"),
        (lambda: select_experts(g, torch.full((3, 1), 4)), r"indices must be in \[0, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="int64"):
        expert_load(g, 3)
