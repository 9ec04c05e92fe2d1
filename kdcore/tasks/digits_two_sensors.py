"""Digits seen by two sensors: a weak one that stays, and the image, which is there only while the student learns.

The weak sensor is a *pen profile*: how much ink there is in every column and row, with noise. Where in a row the ink is
it does not see. A sample is one vector, profile first; each network reads its part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..functional.checks import check_non_negative
from ..models.two_sensors import FusionNet, PixelNet, ProfileNet
from ._classification import Classification
from ._data import ArrayDataset, stratified
from ._models import ModelSpec, Recipe

#: Numbers of the profile: ink of 8 columns, then of 8 rows.
PROFILE = 16


def pen_profile(images: Tensor) -> Tensor:
    """Twice the mean of every column and of every row: ``(N, S, S)`` in [0, 1] to ``(N, 2 S)``."""
    return 2 * torch.cat([images.mean(1), images.mean(2)], 1)


class TwoSensors:
    """Batches ``(profile, image, labels)`` of a loader of ``(both in a row, labels)``."""

    def __init__(self, loader: Iterable[Any], profile: int = PROFILE) -> None:
        self.parts, self.profile = (loader,), profile

    def __len__(self) -> int:
        return len(self.parts[0])  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for x, y in self.parts[0]:
            yield x[:, : self.profile], x[:, self.profile :], y


@dataclass(kw_only=True, eq=False)
class TwoSensorTask(Classification):
    """A task whose samples are rows of a profile and an image.

    Attributes:
        profile: numbers of the profile; the rest is the image.
        noise: standard deviation of what was added to the profile.
    """

    profile: int = PROFILE
    noise: float

    def paired(self, split: str = "train", **options: Any) -> TwoSensors:
        """Batches ``(profile, image, labels)``; options as of :meth:`loader`."""
        return TwoSensors(self.loader(split, **options), self.profile)


def digits_two_sensors(
    *, noise: float = 0.15, train_size: int = 250, test_size: int = 700, seed: int = 0
) -> TwoSensorTask:
    """Digits seen by two sensors: 16 noisy numbers for the student, the image for its teachers as well.

    Teachers learn from the images of the student, and no more.

    Args:
        noise: standard deviation of what is added to the profile, once for every image.
        train_size, test_size: images of each, stratified; up to 1,797 together.
        seed: of split, noise and teachers.

    Raises:
        ValueError: noise below zero, or more images than there are.
    """
    from sklearn.datasets import load_digits

    check_non_negative("noise", noise)
    bunch = load_digits()
    images, y = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32) / 16), np.asarray(bunch.target)
    if min(train_size, test_size) < 10 or train_size + test_size > len(y):
        raise ValueError(
            f"train_size and test_size must be at least 10 each and at most {len(y)} together, got {train_size!r} and "
            f"{test_size!r}."
        )
    g = torch.Generator().manual_seed(seed)
    drawn = noise * torch.randn(len(y), PROFILE, generator=g)
    everything = ArrayDataset(torch.cat([pen_profile(images) + drawn, images.flatten(1)], 1), torch.from_numpy(y))
    train, rest = stratified(y, train_size, seed=seed)
    test = rest if len(rest) == test_size else rest[stratified(y[rest], test_size, seed=seed)[0]]
    recipe = Recipe(epochs=100, batch_size=50, lr=3e-3, optimizer="adam", weight_decay=0.0, scheduler="constant")
    taught = replace(recipe, epochs=30)
    return TwoSensorTask(
        name="digits_two_sensors",
        train=everything.subset(train),
        test=everything.subset(test),
        class_names=tuple(map(str, range(10))),
        teachers={
            "both": ModelSpec(build=FusionNet, recipe=taught, words="convolutions on the image, and the profile"),
            "image": ModelSpec(build=PixelNet, recipe=taught, words="convolutions on the image"),
        },
        students={
            "profile": ModelSpec(build=partial(ProfileNet, PROFILE), recipe=recipe, words="perceptron on the profile")
        },
        noise=noise,
        seed=seed,
        words="real digits; the student sees 16 noisy numbers, its teachers the image too",
        notes=(f"numbers 1 to {PROFILE} are ink per column and row with noise of sd {noise:g}, the rest is the image",),
    )


TASKS = {"digits_two_sensors": digits_two_sensors}
