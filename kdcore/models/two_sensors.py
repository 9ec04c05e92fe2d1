"""Networks for samples of two sensors in one row ``(N, P + S^2)``: a profile of P numbers, then an image of S x S.

Each reads its part, also when it is given alone: the profile is the first P columns, the image the last S^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.checks import describe
from .cnn import ConvNet
from .mlp import MLP


class ProfileNet(MLP):
    """A perceptron that sees the profile only.

    Args:
        profile: P, numbers of the profile.
        hidden: widths of the stages.
        num_classes: C.

    Shapes: ``(N, P)`` or ``(N, P + S^2)`` to logits ``(N, C)``.

    Raises:
        ValueError: fewer columns than P.
    """

    def __init__(self, profile: int = 16, hidden: Sequence[int] = (32, 32), num_classes: int = 10) -> None:
        super().__init__(profile, hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_columns(x, self.in_features, "the profile")[:, : self.in_features])


class PixelNet(nn.Module):
    """Convolutions that see the image only, their mean over the map, a hidden layer ``fc1``, ``head``.

    Args:
        side: S.
        channels: of the convolutions, halved resolution between them.
        hidden: width of ``fc1``.
        num_classes: C.

    Shapes: ``(N, S^2)`` or ``(N, P + S^2)`` to logits ``(N, C)``.

    Raises:
        ValueError: fewer columns than S^2.
    """

    def __init__(
        self, side: int = 8, channels: Sequence[int] = (16, 32, 32), hidden: int = 32, num_classes: int = 10
    ) -> None:
        super().__init__()
        self.side = side
        self.cnn = _features(channels)
        self.fc1, self.head = nn.Linear(channels[-1], hidden), nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc1(self.cnn(_image(x, self.side)))))


class FusionNet(nn.Module):
    """Sees both: features of the image and of the profile side by side, ``fc1``, ``fc2``, ``head``.

    Args:
        profile: P, and the width that the profile is brought to.
        side: S.
        channels: of the convolutions on the image.
        hidden: widths of ``fc1`` and ``fc2``.
        num_classes: C.

    Shapes: ``(N, P + S^2)``, or ``(N, P)`` and ``(N, S^2)``, to logits ``(N, C)``.

    Raises:
        ValueError: fewer columns than that.
    """

    def __init__(
        self,
        profile: int = 16,
        side: int = 8,
        channels: Sequence[int] = (16, 32, 32),
        hidden: tuple[int, int] = (32, 16),
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.columns, self.side = profile, side
        self.cnn, self.profile = _features(channels), nn.Linear(profile, profile)
        self.fc1, self.fc2 = nn.Linear(channels[-1] + profile, hidden[0]), nn.Linear(*hidden)
        self.head = nn.Linear(hidden[1], num_classes)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if other is None:
            x = other = _columns(x, self.columns + self.side**2, "profile and image")
        seen = self.cnn(_image(other, self.side))
        read = F.relu(self.profile(_columns(x, self.columns, "the profile")[:, : self.columns]))
        return self.head(F.relu(self.fc2(F.relu(self.fc1(torch.cat([seen, read], 1))))))


def _features(channels: Sequence[int]) -> nn.Module:
    cnn = ConvNet(channels)
    cnn.head = nn.Identity()  # type: ignore[assignment]
    return cnn


def _columns(x: Tensor, least: int, what: str) -> Tensor:
    if x.ndim != 2 or x.shape[1] < least:
        raise ValueError(f"x must be (N, at least {least}) to hold {what}, got {describe(x)}.")
    return x


def _image(x: Tensor, side: int) -> Tensor:
    return _columns(x, side**2, "the image")[:, -(side**2) :].unflatten(1, (1, side, side))


__all__ = ["FusionNet", "PixelNet", "ProfileNet"]
