"""BatchNorm statistics against loops, hooks that leave no trace, activation maps by hand, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor, nn

from kdcore.functional.inversion import BNStatisticsLoss, bn_statistics_distance, class_activation_map


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_distance(x: Tensor, mean: Tensor, var: Tensor) -> float:
    first = second = 0.0
    for c in range(x.shape[1]):
        values = x[:, c].flatten().tolist()
        m = sum(values) / len(values)
        v = sum((u - m) ** 2 for u in values) / len(values)
        first, second = first + (v - float(var[c])) ** 2, second + (m - float(mean[c])) ** 2
    return math.sqrt(first) + math.sqrt(second)


@given(seed=st.integers(0, 99), rank=st.integers(2, 5))
@settings(deadline=None)
def test_distance_equals_a_loop(seed: int, rank: int) -> None:
    x, mean, var = normal(3, 2, *[2] * (rank - 2), seed=seed), normal(2, seed=seed), normal(2, seed=seed).exp()
    close(bn_statistics_distance(x, mean, var), slow_distance(x, mean, var))
    still = (x.transpose(0, 1).flatten(1).mean(1), x.transpose(0, 1).flatten(1).var(1, correction=0))
    assert bn_statistics_distance(x, *still).item() < 1e-12


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    net.append(nn.BatchNorm1d(4)).append(nn.BatchNorm1d(4, track_running_stats=False))
    return net.double().eval()


def test_hooks_see_the_inputs_of_every_layer_and_go() -> None:
    net, x = network(), normal(5, 1, 4, 4).requires_grad_()
    with BNStatisticsLoss(net, first_multiplier=7.0) as loss:
        with pytest.raises(RuntimeError, match="no BatchNorm layer was run"):
            loss()
        net(x)
        total, layers = loss(), loss.per_layer
    first, second = net[0](x), net[:5](x)
    expected = [slow_distance(first, net[1].running_mean, net[1].running_var)]
    expected.append(slow_distance(second, net[5].running_mean, net[5].running_var))
    close(layers, torch.tensor(expected, dtype=torch.float64))
    close(total, 7 * expected[0] + expected[1])
    assert torch.autograd.grad(total, x)[0].abs().sum() > 0
    assert all(not m._forward_pre_hooks for m in net.modules())
    with pytest.raises(ZeroDivisionError), BNStatisticsLoss(net):
        raise ZeroDivisionError
    assert all(not m._forward_pre_hooks for m in net.modules())


def test_a_second_pass_replaces_the_first() -> None:
    net = network()
    with BNStatisticsLoss(net) as loss:
        net(normal(5, 1, 4, 4))
        before = loss()
        net(normal(5, 1, 4, 4, seed=1) + 3)
        assert loss() != before


def test_gradcheck_and_half_precision() -> None:
    x, mean, var = normal(4, 2, 2).requires_grad_(), normal(2), normal(2).exp()
    assert torch.autograd.gradcheck(lambda a: bn_statistics_distance(a, mean, var), (x,))
    assert bn_statistics_distance(x.bfloat16(), mean, var).dtype == torch.float32
    assert (
        class_activation_map(normal(2, 3, 2, 2).bfloat16(), normal(4, 3), torch.tensor([0, 1])).dtype == torch.float32
    )
    f = normal(2, 3, 3, 3).requires_grad_()
    y = torch.tensor([1, 0])
    assert torch.autograd.gradcheck(lambda a: class_activation_map(a, normal(2, 3, seed=3), y), (f,))


@given(seed=st.integers(0, 99))
@settings(deadline=None)
def test_activation_map_equals_a_loop(seed: int) -> None:
    f, w, y = normal(3, 4, 2, 3, seed=seed), normal(5, 4, seed=seed + 1), torch.tensor([0, 4, 2])
    for n, cam in enumerate(class_activation_map(f, w, y)):
        raw = [[max(0.0, sum(float(w[y[n], d] * f[n, d, i, j]) for d in range(4))) for j in range(3)] for i in range(2)]
        low, high = min(map(min, raw)), max(map(max, raw))
        expected = [[(v - low) / (high - low) if high > low else 0.0 for v in row] for row in raw]
        close(cam[0], torch.tensor(expected, dtype=torch.float64))
    large = class_activation_map(f, w, y, output_size=8)
    assert large.shape == (3, 1, 8, 8) and large.min() >= 0 and large.max() <= 1
    assert class_activation_map(f, w, y, output_size=(4, 6)).shape == (3, 1, 4, 6)


def test_a_constant_map_is_zero() -> None:
    cam = class_activation_map(torch.ones(1, 2, 3, 3), torch.tensor([[1.0, 1], [-1, -1]]), torch.tensor([0]))
    assert not cam.any()


def test_refusals() -> None:
    x = normal(2, 3, 2, 2)
    for call, message in (
        (lambda: bn_statistics_distance(x, torch.zeros(2), torch.ones(3)), r"running_mean must be \(3,\)"),
        (lambda: bn_statistics_distance(x[0, 0, 0], torch.zeros(2), torch.ones(2)), r"\(N, C, ...\)"),
        (lambda: BNStatisticsLoss(nn.Linear(2, 2)), "got none"),
        (lambda: BNStatisticsLoss(nn.BatchNorm1d(2), first_multiplier=0), "first_multiplier"),
        (lambda: class_activation_map(x, normal(4, 2), torch.tensor([0, 1])), r"classifier_weight \(C, D\)"),
        (lambda: class_activation_map(x, normal(4, 3), torch.tensor([0, 4])), r"labels must be in \[0, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
