"""A plain convolutional network whose size is a list of channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """3x3 convolution, batch norm and ReLU per stage, halved resolution between stages, mean over the map, linear head.

    Layer names for taps: ``stage1``, ``stage2``, ... (maps at full, half, quarter resolution), ``pool``, ``head``; the
    embedding ``(N, channels[-1])`` is ``head:in``. Teacher and student with the same last width have comparable
    embeddings.

    Args:
        channels: widths of the stages.
        num_classes: width of the head.
        in_channels: channels of the image.

    Shapes: input ``(N, in_channels, H, W)`` with ``H, W >= 2 ** (len(channels) - 1)``; output ``(N, num_classes)``
    logits.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 64), num_classes: int = 10, *, in_channels: int = 1) -> None:
        super().__init__()
        before = in_channels
        self.stages = [f"stage{number}" for number in range(1, len(channels) + 1)]
        for name, width in zip(self.stages, channels, strict=True):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if name != "stage1":
                layers["down"] = nn.MaxPool2d(2)
            layers["conv"] = nn.Conv2d(before, width, 3, padding=1, bias=False)
            layers["norm"] = nn.BatchNorm2d(width)
            layers["act"] = nn.ReLU()
            self.add_module(name, nn.Sequential(layers))
            before = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.head(self.pool(x).flatten(1))
