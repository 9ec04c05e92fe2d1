"""What the modules of a model give, in the order they finish, and what such a feature is: map, tokens or vector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from .taps import evaluating, this_thread
from .taps._names import first_tensor


@dataclass(frozen=True)
class LayerInfo:
    """A place in a model that is worth reading.

    Attributes:
        name: tap name.
        type: class of the module.
        kind: ``"map"`` (C, H, W), ``"map_last"`` (H, W, C), ``"tokens"`` (T, D), ``"vector"`` (D,) or ``"other"``.
        depth: fraction in [0, 1] of the weight layers (convolutions, linear maps, ...) that have run when it is ready.
        parameters: number of parameters used up to and including it.
        shape: of its output without the batch dimension; ``None`` where no sample was given.
        stride: by how much the resolution of the input was divided (for tokens: by their square grid); ``None`` where
            unknown.
    """

    name: str
    type: str
    kind: str
    depth: float
    parameters: int
    shape: tuple[int, ...] | None = None
    stride: float | None = None

    def __str__(self) -> str:
        return f"{self.name} {format_shape(self.shape)}" if self.shape else self.name


def format_shape(shape: Sequence[int]) -> str:
    """``(64, 4, 4)`` -> ``"64x4x4"``."""
    return "x".join(map(str, shape))


def feature_kind(shape: Sequence[int], *, channels_last: bool | None = None) -> str:
    """What a feature of this shape (without batch) is; see :class:`LayerInfo`.

    A 3-D shape is a channels-last map if ``channels_last`` says so or, left open, if only its first two numbers agree.
    """
    if len(shape) == 3:
        if channels_last is None:
            channels_last = shape[0] == shape[1] != shape[2]
        return "map_last" if channels_last else "map"
    return {1: "vector", 2: "tokens"}.get(len(shape), "other")


def token_grid(tokens: int, grid: tuple[int, int] | None = None) -> tuple[int, int, int] | None:
    """``(height, width, prefix)`` of a token count: a square (or the given grid), with or without one class token."""
    for prefix in (0, 1):
        rest = tokens - prefix
        if grid is not None:
            if grid[0] * grid[1] == rest:
                return (*grid, prefix)
        elif rest > 0 and int(rest**0.5 + 0.5) ** 2 == rest:
            side = int(rest**0.5 + 0.5)
            return side, side, prefix
    return None


CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


class Trace:
    """One forward in eval mode (without a sample: the order of definition): which modules finish when, with what."""

    def __init__(self, model: nn.Module, sample: Any = None) -> None:
        self.modules = dict(model.named_modules())
        self.outputs: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()
        self.traced = sample is not None
        self.order = self._run(model, sample) if self.traced else _post_order(model)
        weighty = [any(p.ndim > 1 for p in self.modules[n].parameters(recurse=False)) for n in self.order]
        seen: set[nn.Parameter] = set()
        sizes = []
        for name in self.order:
            new = set(self.modules[name].parameters(recurse=False)) - seen
            seen |= new
            sizes.append(sum(p.numel() for p in new))
        self.depth = dict(zip(self.order, (w / max(sum(weighty), 1) for w in accumulate(weighty)), strict=True))
        self.parameters = dict(zip(self.order, accumulate(sizes), strict=True))

    def _run(self, model: nn.Module, sample: Any) -> list[str]:
        handles = []

        def hook(name: str) -> Callable[..., None]:
            def record(_: nn.Module, args: Any, output: Any) -> None:
                self.calls[name] += 1
                tensor = first_tensor(output)
                if tensor is not None:
                    self.outputs.setdefault(name, tensor)

            return record

        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(this_thread(hook(name))))
            with evaluating(model), torch.inference_mode():
                self.input = first_tensor(_forward(model, sample))
        finally:
            for handle in handles:
                handle.remove()
        return list(self.outputs)

    def info(self, name: str, channels_last: bool | None) -> LayerInfo:
        module, shape, stride = self.modules[name], None, None
        kind = self.kind(name, channels_last)
        if name in self.outputs:
            shape = tuple(self.outputs[name].shape[1:])
            stride = _stride(self.input, shape, kind)
        return LayerInfo(
            name, type(module).__name__, kind, round(self.depth[name], 4), self.parameters[name], shape, stride
        )

    def kind(self, name: str, channels_last: bool | None = None) -> str:
        """From the output's shape; untraced from the module's parts, or from the one before where it has no weights."""
        if self.traced:
            return feature_kind(self.outputs[name].shape[1:], channels_last=channels_last)
        for earlier in reversed(self.order[: self.order.index(name) + 1]):
            if guess := _guess_kind(self.modules[earlier], channels_last):
                return guess
        return "other"


def _forward(model: nn.Module, sample: Any) -> Any:
    """Run ``model`` on one sample of a batch on the model's device; returns what was fed."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(sample, Tensor):
        if sample.ndim < 1 or sample.shape[0] < 1:
            raise ValueError(f"sample must be a batch with at least one element, got shape {tuple(sample.shape)}.")
        sample = sample[:1].to(device)
        model(sample)
    elif isinstance(sample, Mapping):
        sample = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in sample.items()}
        model(**sample)
    elif isinstance(sample, tuple | list):
        sample = tuple(v.to(device) if isinstance(v, Tensor) else v for v in sample)
        model(*sample)
    else:
        raise TypeError(
            f"sample must be a batch (tensor, tuple of arguments or dict of keywords), got {type(sample).__name__}."
        )
    return sample


def _post_order(model: nn.Module, prefix: str = "", seen: set[nn.Module] | None = None) -> list[str]:
    seen = set() if seen is None else seen
    seen.add(model)
    names = []
    for name, child in model.named_children():
        if child not in seen:
            names += _post_order(child, f"{prefix}{name}.", seen)
    return [*names, prefix[:-1]]


def _stride(source: Tensor | None, shape: tuple[int, ...], kind: str) -> float | None:
    if source is None or source.ndim != 4:
        return None
    size = (source.shape[2] * source.shape[3]) ** 0.5
    if kind == "tokens":
        grid = token_grid(shape[0])
        return size / (grid[0] * grid[1]) ** 0.5 if grid else None
    if kind in ("map", "map_last"):
        height, width = shape[1:] if kind == "map" else shape[:2]
        return size / (height * width) ** 0.5
    return None


def _guess_kind(module: nn.Module, channels_last: bool | None) -> str | None:
    """Without a sample: the kind from what the module is made of; ``None`` where that does not say."""
    parts = list(module.modules())
    if channels_last:
        return "map_last"
    if any("attention" in type(p).__name__.lower() or "attn" in type(p).__name__.lower() for p in parts):
        return "tokens"
    if any(isinstance(p, (*CONV, nn.BatchNorm2d, *POOL)) for p in parts):
        return "map"
    if any(isinstance(p, nn.LayerNorm) for p in parts) and len(parts) > 2:
        return "tokens"
    return "vector" if any(isinstance(p, nn.Linear) for p in parts) else None
