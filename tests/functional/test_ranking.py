"""Orders, inverse permutations and choices; the likelihood and the samples are proven in tests/methods/test_pld.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.golden import close, grad_of
from torch import Tensor

from kdcore.functional.ranking import (
    check_ranking,
    choice_gradient,
    choice_losses,
    descending_order,
    positions,
    ranking_agreement,
    weighted_choice_loss,
)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(
    n=st.integers(1, 4),
    c=st.integers(1, 40),
    seed=st.integers(0, 999),
    ties=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_order_is_descending_and_ties_go_to_the_lower_index(
    n: int, c: int, seed: int, ties: bool, dtype: torch.dtype
) -> None:
    scores = normal(n, c, seed=seed, dtype=dtype)
    if ties:
        scores = scores.round()  # holds 0.0 and -0.0, which are equal
    order = descending_order(scores)
    expected = [sorted(range(c), key=lambda i, row=row: (-row[i], i)) for row in scores.tolist()]
    assert order.tolist() == expected


def test_order_of_extreme_scores() -> None:
    big = torch.finfo(torch.float32).max
    tiny = 1e-45  # the smallest denormal
    scores = torch.tensor([[0.0, -big, big, -0.0, tiny, -tiny, torch.inf, -torch.inf]])
    assert descending_order(scores).tolist() == [[6, 2, 4, 0, 3, 5, 1, 7]]


def test_order_of_any_leading_shape() -> None:
    scores = normal(2, 3, 5)
    order = descending_order(scores)
    assert order.shape == (2, 3, 5) and order.dtype == torch.int64
    assert torch.equal(order[1, 2], descending_order(scores[1, 2]))
    assert descending_order(scores[:0]).shape == (0, 3, 5)


@given(n=st.integers(1, 4), c=st.integers(1, 9), seed=st.integers(0, 999))
def test_positions_invert(n: int, c: int, seed: int) -> None:
    ranking = descending_order(normal(n, c, seed=seed))
    assert torch.equal(ranking.gather(1, positions(ranking)), torch.arange(c).expand(n, c))
    assert torch.equal(positions(positions(ranking)), ranking)


def test_choice_losses_by_hand() -> None:
    worth = torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64)
    close(choice_losses(worth.log()).exp(), torch.tensor([[8.0, 3.5, 1.0]]), 1e-12)
    assert choice_losses(worth.log())[0, 2] == 0


def test_choice_losses_far_apart() -> None:
    scores = torch.tensor([[1e4, 0.0, -1e4, -2e4]])
    close(choice_losses(scores), torch.zeros(1, 4))
    close(choice_losses(scores.flip(1)), torch.tensor([[3e4, 2e4, 1e4, 0.0]]))


@pytest.mark.parametrize("reach", [3.0, 2000.0])  # plain sums of exponentials; log space
def test_weighted_choices_and_their_gradients(reach: float) -> None:
    scores = normal(4, 6).requires_grad_()
    with torch.no_grad():
        scores[0, 3] -= reach
    weights = normal(4, 6, seed=1).abs().requires_grad_()
    loss = weighted_choice_loss(scores, weights)
    plain = (weights * choice_losses(scores)).sum(1)
    close(loss, plain, 1e-12)
    for leaf in (scores, weights):
        close(grad_of(loss.sum(), leaf), grad_of(plain.sum(), leaf), 1e-11)
    close(choice_gradient(scores, weights), grad_of(plain.sum(), scores), 1e-11)
    assert torch.autograd.gradcheck(weighted_choice_loss, (scores, weights))


def test_weighted_choices_twice_differentiable() -> None:
    scores, weights = normal(2, 5).requires_grad_(), normal(2, 5, seed=1).abs().requires_grad_()
    assert torch.autograd.gradgradcheck(weighted_choice_loss, (scores, weights))
    zero_first = torch.tensor([[0.0, 1.0, 0.0, 2.0, 0.0]]).double().expand(2, 5)
    assert torch.autograd.gradgradcheck(lambda x: weighted_choice_loss(x, zero_first), (scores,))


def test_check_ranking() -> None:
    good = torch.tensor([[0, 2, 1], [1, 0, 2]])
    check_ranking(good, (2, 3))
    with pytest.raises(TypeError, match="int64"):
        check_ranking(good.int(), (2, 3))
    with pytest.raises(ValueError, match="shape"):
        check_ranking(good, (2, 4))
    with pytest.raises(ValueError, match=r"row 1 is \[3, 0, 2\]"):
        check_ranking(good + torch.tensor([[0], [2]]) * (good == 1), (2, 3))


def test_ranking_agreement_against_scipy() -> None:
    from scipy.stats import kendalltau

    s, t = normal(12, 6, seed=1), normal(12, 6, seed=2)
    labels = torch.arange(12) % 6
    for row, (tau, others) in enumerate(zip(ranking_agreement(s, t, labels), ranking_agreement(s, t), strict=True)):
        rest = [c for c in range(6) if c != labels[row]]
        assert tau.item() == pytest.approx(kendalltau(s[row, rest], t[row, rest]).statistic, abs=1e-12)
        assert others.item() == pytest.approx(kendalltau(s[row], t[row]).statistic, abs=1e-12)


def test_ranking_agreement_does_not_see_the_label() -> None:
    s, t, labels = normal(8, 5, seed=3), normal(8, 5, seed=4), torch.arange(8) % 5
    moved = s.scatter(1, labels[:, None], 100.0)
    assert torch.equal(ranking_agreement(s, t, labels), ranking_agreement(moved, t, labels))
    assert not torch.equal(ranking_agreement(s, t), ranking_agreement(moved, t))
    assert torch.equal(ranking_agreement(t, t, labels), torch.ones(8, dtype=torch.float64))
    assert torch.equal(ranking_agreement(-t, t, labels), -torch.ones(8, dtype=torch.float64))


def test_ranking_agreement_refuses() -> None:
    with pytest.raises(ValueError, match="at least 3 classes"):
        ranking_agreement(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="same shape"):
        ranking_agreement(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="labels must be in"):
        ranking_agreement(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(TypeError, match="integer"):
        ranking_agreement(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0.0, 1.0]))
