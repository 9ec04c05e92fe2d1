"""The named steps that projectors are made of: grids, tokens, layouts, and the learnable map of the width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model_layers import format_shape


class Step(nn.Module):
    """One named step; ``words`` is what :meth:`Projector.describe` says."""

    words = ""


class Pool(Step):
    """``(N, C, H, W)`` to a smaller grid: mean over the cells."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.words = grid, f"average pool to {format_shape(grid)}"

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.grid)


class Upsample(Step):
    """``(N, C, H, W)`` to a larger grid, bilinear."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.words = grid, f"bilinear to {format_shape(grid)}"

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.grid, mode="bilinear", align_corners=False)


class TokensToMap(Step):
    """``(N, T, D)`` to ``(N, D, H, W)``; the first ``prefix`` tokens are left out."""

    def __init__(self, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.grid, self.prefix = grid, prefix
        self.words = ("drop class token, " if prefix else "") + f"grid {format_shape(grid)}"

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)


class MapToTokens(Step):
    """``(N, C, H, W)`` to ``(N, H*W, C)``."""

    words = "flatten to tokens"

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class ResizeTokens(Step):
    """``(N, p+h*w, D)`` to ``(N, p+H*W, D)``: the grid is resized, the ``p`` leading tokens stay."""

    def __init__(self, source: tuple[int, int], grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.to_map, self.prefix = TokensToMap(source, prefix), prefix
        self.resize = nn.Sequential(*resizing(source, grid))
        self.words = (
            f"grid {format_shape(source)}, "
            + ", ".join(step_words(self.resize))
            + (", class token kept" if prefix else "")
        )

    def forward(self, x: Tensor) -> Tensor:
        patches = self.resize(self.to_map(x)).flatten(2).transpose(1, 2)
        return torch.cat([x[:, : self.prefix], patches], 1) if self.prefix else patches


class DropTokens(Step):
    """``(N, T, D)`` without its first token."""

    words = "drop class token"

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


class Mean(Step):
    """Mean over the positions of a map ``(N, C, H, W)`` or of tokens ``(N, T, D)``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.tokens, self.words = kind == "tokens", "mean over tokens" if kind == "tokens" else "GAP"

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) if self.tokens else x.mean((2, 3))


class Permute(Step):
    """Channels last to first, or back."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims, self.words = dims, "channels first" if dims[1] == 3 else "channels last"

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


class Pointwise(Step):
    """The learnable part: the same map of the width at every position; PyTorch's default initialisation."""

    def __init__(self, kind: str, layout: str, width: int, out: int) -> None:
        super().__init__()
        conv = layout == "map"

        def layer(a: int, b: int, *, bias: bool = True) -> nn.Module:
            return nn.Conv2d(a, b, 1, bias=bias) if conv else nn.Linear(a, b, bias=bias)

        if kind == "mlp":
            self.net: nn.Module = nn.Sequential(layer(width, out), nn.GELU(), layer(out, out))
            self.words = f"{'conv1x1' if conv else 'linear'} mlp"
        elif kind == "conv1x1_bn":
            self.net, self.words = nn.Sequential(layer(width, out, bias=False), nn.BatchNorm2d(out)), "conv1x1+bn"
        else:
            self.net, self.words = layer(width, out), "conv1x1" if conv else "linear"

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def step_words(steps: nn.Module) -> list[str]:
    return [step.words for step in steps.children() if isinstance(step, Step)]


def resizing(source: tuple[int, int], grid: tuple[int, int]) -> list[Step]:
    """Steps from one grid to another: pooled where a side shrinks, interpolated where one grows."""
    smaller = (min(source[0], grid[0]), min(source[1], grid[1]))
    return ([Pool(smaller)] if smaller != source else []) + ([Upsample(grid)] if smaller != grid else [])
