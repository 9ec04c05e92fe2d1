"""Random views of images in memory, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..functional.checks import describe
from ._data import ArrayDataset


class CropFlip(Dataset[tuple[Tensor, int]]):
    """Images seen through random crops and left-right flips: the usual augmentation of CIFAR.

    Each reading pads with black, crops the original size at a random place and flips every second image on average. The
    draws come from torch's global generator, so a seeded or resumed training sees the same views.

    Args:
        data: images ``(N, C, H, W)``.
        padding: pixels added on each side before the crop; default 4 (He et al., 2016, section 4.2).
        flip: flip with probability 1/2.

    Raises:
        ValueError: samples that are not ``(C, H, W)``, or a negative padding.
    """

    def __init__(self, data: ArrayDataset, *, padding: int = 4, flip: bool = True) -> None:
        if data.x.ndim != 4:
            raise ValueError(f"data must hold images (N, C, H, W), got {describe(data.x)}.")
        if padding < 0:
            raise ValueError(f"padding must be >= 0, got {padding!r}.")
        self.data, self.padding, self.flip, self.y = data, padding, flip, data.y

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = self.__getitems__([index])
        return x[0], int(y[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch ``(x, y)``, each image with a crop and flip of its own."""
        x, y = self.data.__getitems__(indices)
        n, _, height, width = x.shape
        padded = torch.nn.functional.pad(x, [self.padding] * 4)
        top, left = torch.randint(2 * self.padding + 1, (2, n))
        rows = (top[:, None] + torch.arange(height))[:, None, :, None]
        columns = left[:, None] + torch.arange(width)
        if self.flip:
            columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
        samples, channels = torch.arange(n)[:, None, None, None], torch.arange(x.shape[1])[:, None, None]
        return padded[samples, channels, rows, columns[:, None, None, :]], y

    def fingerprint(self) -> str:
        """Hash of the images and of what is done to them."""
        return f"{self.data.fingerprint()}-crop{self.padding}{'-flip' if self.flip else ''}"
