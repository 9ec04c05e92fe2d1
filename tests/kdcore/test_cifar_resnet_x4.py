"""The wide CIFAR ResNets: published sizes, names, shapes, gradients."""

from __future__ import annotations

import pytest
import torch

from kdcore.inputs import input_normalization
from kdcore.models.cifar_resnet_x4 import CIFAR100_MEAN, CifarResNetX4
from kdcore.taps import tap


@pytest.mark.parametrize(("depth", "parameters"), [(8, 1_233_540), (32, 7_433_860)])
def test_sizes_are_the_published_ones(depth: int, parameters: int) -> None:
    """1.2 and 7.4 million (Tian et al., 2020, table 1), counted by hand: 3x3 convolutions, norms, shortcuts, head."""
    n, total = (depth - 2) // 6, 3 * 32 * 9 + 2 * 32 + 256 * 100 + 100
    for before, width in ((32, 64), (64, 128), (128, 256)):
        total += before * width * (9 + 1) + 4 * width  # first convolution, shortcut, their norms
        total += (2 * n - 1) * (width * width * 9 + 2 * width)  # the other convolutions with norms
    assert sum(p.numel() for p in CifarResNetX4(depth).parameters()) == total == parameters


def test_layers_can_be_tapped_and_every_parameter_learns() -> None:
    model = CifarResNetX4(8, 5)
    with tap(model, ["layer1", "layer2", "layer3", "fc:in"]) as taps:
        logits = model(torch.randn(2, 3, 16, 16))
    assert [tuple(taps[n].shape) for n in ("layer1", "layer2", "layer3", "fc:in")] == [
        (2, 64, 16, 16),
        (2, 128, 8, 8),
        (2, 256, 4, 4),
        (2, 256),
    ]
    logits.square().sum().backward()
    assert logits.shape == (2, 5) and all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_states_its_normalisation() -> None:
    grey = input_normalization(CifarResNetX4(8, 2))(torch.tensor(CIFAR100_MEAN).view(1, 3, 1, 1))
    assert grey.abs().max() < 1e-6


@pytest.mark.parametrize("depth", [2, 10, 7])
def test_depths_that_do_not_exist(depth: int) -> None:
    with pytest.raises(ValueError, match=r"depth must be 6 n \+ 2"):
        CifarResNetX4(depth)
