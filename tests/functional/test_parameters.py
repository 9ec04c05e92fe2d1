"""Virtual steps against finite differences, planes against normal equations, averages, masks, reversed gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from kdcore.functional.parameters import (
    ParameterPlane,
    average_states,
    flat_parameters,
    functional_step,
    gradient_reversal,
    magnitude_masks,
    pruning_amounts,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_step_by_hand() -> None:
    theta, a = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    new = functional_step(a * theta**2, {"theta": theta}, lr=0.1)["theta"]
    assert new.item() == pytest.approx(2 - 0.1 * 12)
    assert theta.item() == 2.0 and theta.grad is None
    by_theta, by_a = torch.autograd.grad(new, (theta, a))
    assert by_theta.item() == pytest.approx(1 - 0.1 * 6) and by_a.item() == pytest.approx(-0.1 * 4)


def test_first_order_sees_the_weights_alone() -> None:
    theta, a = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    new = functional_step(a * theta**2, {"theta": theta}, lr=0.1, first_order=True)["theta"]
    assert new.item() == pytest.approx(0.8)
    by_theta, by_a = torch.autograd.grad(new, (theta, a), allow_unused=True)
    assert by_theta.item() == 1.0 and by_a is None


@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_of_the_weighting_equals_finite_differences(steps: int) -> None:
    """The outer loss after virtual steps, differentiated by the weights of the samples of the inner one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y, held, answer = normal(6, 3), torch.tensor([0, 1, 1, 0, 1, 0]), normal(5, 3, seed=1), torch.ones(5).long()

    def outer(alpha: Tensor) -> Tensor:
        theta: dict[str, Tensor] = dict(model.named_parameters())
        for _ in range(steps):
            inner = (alpha * F.cross_entropy(functional_call(model, theta, (x,)), y, reduction="none")).mean()
            theta = functional_step(inner, theta, lr=0.5)
        return F.cross_entropy(functional_call(model, theta, (held,)), answer)

    before = flat_parameters(model.parameters()).clone()
    assert torch.autograd.gradcheck(outer, (normal(6, seed=2).sigmoid().requires_grad_(),))
    assert torch.equal(flat_parameters(model.parameters()), before)


def test_step_equals_the_optimizer() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).bfloat16()
    x = normal(4, 3).bfloat16()
    new = functional_step(model(x).square().mean(), dict(model.named_parameters()), lr=0.25, first_order=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    model(x).square().mean().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(new[name], p, rtol=0.01, atol=0.01)


def test_step_refuses() -> None:
    theta, other = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    loss = theta.sum()
    with pytest.raises(ValueError, match="one number"):
        functional_step(theta * 2, {"theta": theta}, lr=0.1)
    with pytest.raises(ValueError, match="at least one"):
        functional_step(loss, {}, lr=0.1)
    with pytest.raises(ValueError, match="lr"):
        functional_step(loss, {"theta": theta}, lr=0.0)
    with pytest.raises(RuntimeError, match=r"do not: frozen\."):
        functional_step(loss, {"theta": theta, "frozen": torch.ones(1)}, lr=0.1)
    with pytest.raises(RuntimeError, match="got a constant"):
        functional_step(loss.detach(), {"theta": theta}, lr=0.1)
    with pytest.raises(RuntimeError, match="depend on other"):
        functional_step(loss, {"theta": theta, "other": other}, lr=0.1)
    assert functional_step(loss, {"theta": theta, "other": other}, lr=0.1, allow_unused=True)["other"] is other


def test_plane_by_hand() -> None:
    plane = ParameterPlane(torch.tensor([0.0, 0, 1]), torch.tensor([2.0, 0, 1]), torch.tensor([0.0, 3, 1]))
    assert plane.project(torch.tensor([1.0, 1.5, 5])).tolist() == pytest.approx([0.5, 0.5])
    assert plane.error(torch.tensor([1.0, 1.5, 5])).item() == pytest.approx(4)
    assert plane.map(torch.tensor([[1.0, 0], [0, 1]])).tolist() == [[2, 0, 1], [0, 3, 1]]


@given(seed=st.integers(0, 999), center=st.sampled_from([None, "mean", "minnorm"]))
@settings(max_examples=25, deadline=None)
def test_plane_properties(seed: int, center: str | None) -> None:
    v0, v1, v2, far = normal(4, 9, seed=seed)
    plane = ParameterPlane(v0, v1, v2, center)
    corners = torch.stack([v0, v1, v2])
    torch.testing.assert_close(plane.map(plane.project(corners)), corners)  # the three lie in it, whatever the centre
    assert plane.error(corners).max() < 1e-9
    normal_equations = torch.linalg.inv(plane.basis.T @ plane.basis) @ plane.basis.T @ (far - plane.affine)
    torch.testing.assert_close(plane.project(far), normal_equations)
    assert torch.all(plane.error(far) <= torch.linalg.vector_norm(far - plane.map(normal(20, 2, seed=seed)), dim=1))
    if center == "minnorm":
        lengths = torch.linalg.vector_norm(plane.map(normal(20, 2, seed=seed)), dim=1)
        assert torch.linalg.vector_norm(plane.affine) <= lengths.min() + 1e-12
    if center == "mean":
        torch.testing.assert_close(plane.affine, (v0 + v1 + v2) / 3)


def test_plane_in_half_precision_and_refusals() -> None:
    v = normal(3, 5)
    plane = ParameterPlane(*v.bfloat16())
    assert plane.basis.dtype == torch.float32 and plane.project(v.bfloat16()).shape == (3, 2)
    with pytest.raises(ValueError, match="one line"):
        ParameterPlane(v[0], v[1], 2 * v[1] - v[0])
    with pytest.raises(ValueError, match="v2 must be"):
        ParameterPlane(v[0], v[1], v[2, :3])
    with pytest.raises(ValueError, match=r"center must be one of 'mean', 'minnorm'"):
        ParameterPlane(*v, "means")
    with pytest.raises(ValueError, match=r"vectors must be \(\.\.\., 5\)"):
        plane.project(v[:, :4])
    with pytest.raises(ValueError, match=r"coordinates must be"):
        plane.map(v)


def test_average_states() -> None:
    old = {"w": torch.tensor([1.0, 3]), "grown": torch.zeros(1, 2), "steps": torch.tensor(5), "gone": torch.ones(1)}
    new = {"w": torch.tensor([5.0, 7]), "grown": torch.full((2, 2), 4.0), "steps": torch.tensor(9), "n": torch.ones(1)}
    mean = average_states(old, new, weight_old=0.25)
    assert list(mean) == list(new)
    assert mean["w"].tolist() == [4, 6] and mean["grown"].tolist() == [[4, 4], [4, 4]]
    assert mean["steps"].item() == 9 and mean["n"].item() == 1
    assert average_states(old, new, partial_rows=True)["grown"].tolist() == [[2, 2], [4, 4]]
    assert average_states(old, new, include=lambda name: name != "w")["w"].tolist() == [5, 7]
    for weight, expected in ((0.0, new["w"]), (1.0, old["w"])):
        assert torch.equal(average_states(old, new, weight_old=weight)["w"], expected)
    mean["w"].zero_()
    assert new["w"].tolist() == [5, 7]
    with pytest.raises(ValueError, match="weight_old"):
        average_states(old, new, weight_old=1.5)


@given(seed=st.integers(0, 99), amount=st.floats(0, 1))
def test_masks_cut_the_smallest(seed: int, amount: float) -> None:
    weights = {"a": normal(3, 4, seed=seed), "b": normal(5, seed=seed + 1)}
    masks = magnitude_masks(weights, amount)
    entries = sorted((abs(float(v)), name, i) for name, w in weights.items() for i, v in enumerate(w.flatten()))
    cut = {(name, i) for _, name, i in entries[: round(amount * 17)]}
    for name, mask in masks.items():
        assert mask.shape == weights[name].shape
        assert {i for i, stays in enumerate(mask.flatten().tolist()) if not stays} == {i for n, i in cut if n == name}


def test_masks_among_equals_and_refusals() -> None:
    assert magnitude_masks({"w": torch.ones(4).bfloat16()}, 0.5)["w"].tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="amount"):
        magnitude_masks({"w": torch.ones(4)}, 1.1)
    with pytest.raises(ValueError, match="at least one"):
        magnitude_masks({}, 0.1)
    amounts, cut = pruning_amounts(0.2, 4), 0.0
    for amount in amounts:
        cut += (1 - cut) * 0.2
        assert amount == pytest.approx(cut)
    with pytest.raises(ValueError, match="rounds"):
        pruning_amounts(0.2, 0)
    with pytest.raises(ValueError, match="at least one"):
        flat_parameters([])


def test_gradient_reversal() -> None:
    x = normal(3).requires_grad_()
    assert torch.equal(gradient_reversal(x), x)
    (gradient,) = torch.autograd.grad((gradient_reversal(x, 0.5) ** 2).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, -x)
    twice = torch.autograd.grad(gradient.sum(), x)[0]  # the gradient holds x behind the reversal: (-0.5) (-1)
    torch.testing.assert_close(twice, torch.full((3,), 0.5, dtype=torch.float64))
    half = x.detach().bfloat16().requires_grad_()
    gradient_reversal(half).sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16
