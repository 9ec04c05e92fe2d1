"""The ResNets of the CIFAR section of He et al. (2016), section 4.2, with parameter-free (option A) shortcuts.

State-dict keys are those of the checkpoints in akamaster/pytorch_resnet_cifar10 without their ``module.`` prefix:
``conv1``, ``bn1``, ``layer{1,2,3}.{i}.conv{1,2}``, ``layer{1,2,3}.{i}.bn{1,2}``, ``linear``. Those weights expect the
ImageNet mean and standard deviation, which every network states in ``default_cfg`` (read by
:func:`kdcore.inputs.input_normalization`).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the width doubles, the shortcut drops every second pixel and pads zero channels."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.padding = stride, (width - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """What is added to the block's output."""
        if self.padding or self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return x


class CifarResNet(nn.Module):
    """ResNet of depth ``6 n + 2`` for 32x32 images: three layers of ``n`` blocks with 16, 32 and 64 channels.

    Layer names for taps: ``layer1`` (32x32), ``layer2`` (16x16), ``layer3`` (8x8), ``linear``; the embedding ``(N,
    64)`` is ``linear:in``.

    Args:
        depth: 20, 32, 44, 56, 110, ...
        num_classes, in_channels: ends of the network.

    Raises:
        ValueError: ``depth - 2`` is not a positive multiple of 6.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, *, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2 (20, 32, 44, 56, 110), got {depth!r}.")
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        more = (depth - 2) // 6 - 1
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(BasicBlock(before, width, stride), *(BasicBlock(width, width, 1) for _ in range(more)))
            for before, width, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        self.default_cfg: dict[str, Any] = {"input_size": (in_channels, 32, 32), "num_classes": num_classes}
        if in_channels == 3:
            self.default_cfg |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def resnet20(num_classes: int = 10, **options: Any) -> CifarResNet:
    """0.27 M parameters."""
    return CifarResNet(20, num_classes, **options)


def resnet32(num_classes: int = 10, **options: Any) -> CifarResNet:
    """0.46 M parameters."""
    return CifarResNet(32, num_classes, **options)


def resnet44(num_classes: int = 10, **options: Any) -> CifarResNet:
    """0.66 M parameters."""
    return CifarResNet(44, num_classes, **options)


def resnet56(num_classes: int = 10, **options: Any) -> CifarResNet:
    """0.85 M parameters."""
    return CifarResNet(56, num_classes, **options)
