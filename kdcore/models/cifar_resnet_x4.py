"""The four times wider CIFAR ResNets of the distillation literature (ResNet8x4, ResNet32x4)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .cifar_resnet import BasicBlock

#: Channels of the stem and of the three layers.
WIDTHS = (32, 64, 128, 256)
#: Mean and standard deviation of CIFAR-100's training images (megvii-research/mdistiller).
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


class ProjectionBlock(BasicBlock):
    """Two 3x3 convolutions; where width or resolution change, the shortcut is a 1x1 convolution with batch norm."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__(before, width, stride)
        self.downsample = (
            nn.Sequential()
            if before == width and stride == 1
            else nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
        )

    def shortcut(self, x: Tensor) -> Tensor:
        return self.downsample(x)


class CifarResNetX4(nn.Module):
    """ResNet of depth ``6 n + 2`` for 32x32 images: three layers of ``n`` blocks with 64, 128 and 256 channels.

    Layer names for taps: ``layer1`` (32x32), ``layer2`` (16x16), ``layer3`` (8x8), ``fc``; the embedding ``(N, 256)``
    is ``fc:in``. Inputs are normalised with CIFAR-100's statistics (``default_cfg``).

    Args:
        depth: 8 (1.2 M parameters), 14, 20, 32 (7.4 M), ...
        num_classes: width of the head.

    Shapes: input ``(N, 3, H, W)``, 32x32 in the literature; output ``(N, num_classes)`` logits.

    Raises:
        ValueError: ``depth - 2`` is not a positive multiple of 6.

    Reference: Tian et al., "Contrastive Representation Distillation" (2020), arXiv:1910.10699; code
    megvii-research/mdistiller.
    """

    def __init__(self, depth: int = 8, num_classes: int = 100) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2 (8, 14, 20, 32), got {depth!r}.")
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        more = (depth - 2) // 6 - 1
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                ProjectionBlock(before, width, stride), *(ProjectionBlock(width, width, 1) for _ in range(more))
            )
            for before, width, stride in zip(WIDTHS, WIDTHS[1:], (1, 2, 2), strict=False)
        )
        self.fc = nn.Linear(WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.default_cfg: dict[str, Any] = {
            "input_size": (3, 32, 32),
            "num_classes": num_classes,
            "mean": CIFAR100_MEAN,
            "std": CIFAR100_STD,
        }

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))
