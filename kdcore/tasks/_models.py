"""Recipes, model specifications, and the reference networks for a given input shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models import MLP, CifarResNet, ConvNet, SmallViT


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: arguments of :func:`kdcore.distiller.distill` plus the batch size."""

    epochs: int = 25
    batch_size: int = 64
    lr: float = 3e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    scheduler: str = "cosine"

    def settings(self) -> dict[str, Any]:
        """As a plain dict."""
        return asdict(self)

    def training(self) -> dict[str, Any]:
        """The arguments of :func:`kdcore.distiller.distill`: everything but the batch size, which the loader takes."""
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}

    def quick(self) -> Recipe:
        """The cheap preset: the same recipe for a third of the epochs."""
        return replace(self, epochs=max(1, self.epochs // 3))


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A network a task offers.

    Attributes:
        build: makes a fresh, untrained network; takes no arguments and draws from torch's global generator.
        recipe: how it is trained when nothing else is said.
        words: one line for menus.
        weights: checkpoint that makes it a finished teacher (safetensors, or a weights-only .pt), or ``None``.
    """

    build: Callable[[], nn.Module]
    recipe: Recipe = Recipe()
    words: str = ""
    weights: Path | None = None

    def make(self, seed: int) -> nn.Module:
        """A fresh network whose weights depend on ``seed`` alone; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()


STUDENT_MLP = Recipe(epochs=30, batch_size=32, lr=5e-3)
STUDENT_CNN = Recipe(epochs=12, batch_size=64, lr=1e-2)
RESNET = Recipe(epochs=30, batch_size=128, lr=0.1, optimizer="sgd", weight_decay=5e-4)


def _vit(side: int, channels: int, classes: int, *, width: int, depth: int) -> nn.Module:
    patch = next(p for p in (max(2, side // 8), 4, 2, 1) if side % p == 0)
    return SmallViT(side, patch, classes, in_channels=channels, width=width, depth=depth)


def reference_models(input_shape: Sequence[int], num_classes: int) -> tuple[dict[str, ModelSpec], dict[str, ModelSpec]]:
    """Teachers and students that fit the input: perceptrons always, networks for images where they make sense.

    Args:
        input_shape: ``(D,)`` or ``(C, H, W)``.
        num_classes: C.

    Returns:
        Two dicts by name; the first entry of each is the default.
    """
    shape = tuple(input_shape)
    teachers = {
        "mlp": ModelSpec(
            build=partial(MLP, shape, (256, 256), num_classes, dropout=0.2),
            recipe=Recipe(),
            words="perceptron, 256-256 hidden, dropout 0.2",
        )
    }
    students = {
        f"mlp-{width}": ModelSpec(
            build=partial(MLP, shape, (width,), num_classes), recipe=STUDENT_MLP, words=f"perceptron, {width} hidden"
        )
        for width in (32, 16)
    }
    if len(shape) != 3:
        return teachers, students
    channels, height, width = shape
    if min(height, width) >= 4:
        teachers["cnn"] = ModelSpec(
            build=partial(ConvNet, (32, 64, 64), num_classes, in_channels=channels),
            recipe=Recipe(epochs=15),
            words="convolutions, 32-64-64 channels, 64-d embedding",
        )
        students["cnn-small"] = ModelSpec(
            build=partial(ConvNet, (4, 8, 64), num_classes, in_channels=channels),
            recipe=STUDENT_CNN,
            words="convolutions, 4-8-64 channels, 64-d embedding",
        )
    if height == width and min(height, width) >= 4:
        teachers["vit"] = ModelSpec(
            build=partial(_vit, height, channels, num_classes, width=64, depth=4),
            recipe=Recipe(epochs=30, lr=1e-3),
            words="vision transformer, 4 blocks, width 64",
        )
        students["vit-tiny"] = ModelSpec(
            build=partial(_vit, height, channels, num_classes, width=32, depth=2),
            recipe=Recipe(epochs=30),
            words="vision transformer, 2 blocks, width 32",
        )
    if min(height, width) >= 24:
        for group, depth in ((teachers, 56), (students, 20)):
            group[f"resnet{depth}"] = ModelSpec(
                build=partial(CifarResNet, depth, num_classes, in_channels=channels),
                recipe=RESNET,
                words=f"CIFAR ResNet of {depth} layers",
            )
    return teachers, students
