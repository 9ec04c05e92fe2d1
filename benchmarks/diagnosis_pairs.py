"""Healthy teacher-student pairs for :mod:`benchmarks.diagnosis_rates`: small networks of many kinds, sizes and data.

A pair is a number and a set: everything in it (data, networks, widths, objective, order of the samples) is drawn from
these two, so that pairs of different sets share nothing but the pictures they are cut from. Both networks are trained
to
the end by :func:`kdcore.distiller.distill`, on the same samples, the teacher from labels, the student from labels or
from
the teacher; a pair is healthy because of how it was made, whatever comes of it: none is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.checkpoints import load_weights, save_weights
from kdcore.distiller import distill
from kdcore.models import MLP, CifarResNet, ConvNet, SmallViT
from kdcore.tasks import load_task
from kdcore.tasks._data import ArrayDataset, collate, stratified

Data = tuple[Tensor, Tensor]
#: Samples of a pair that the networks learn from, and those that they are examined on, at most.
TRAIN, TEST = 960, 640


@dataclass(kw_only=True)
class Pair:
    """Two trained networks and what they learnt from.

    Attributes:
        name: set, number, data and networks. teacher, student: in eval mode. train, test: images in [0, 1] or vectors.
        history: of the student's training. make: a fresh student.
    """

    name: str
    teacher: nn.Module
    student: nn.Module
    train: Data
    test: Data
    make: Callable[[], nn.Module] = field(repr=False)

    @property
    def is_image(self) -> bool:
        return self.train[0].ndim == 4

    @property
    def is_coloured(self) -> bool:
        return self.is_image and self.train[0].shape[1] == 3


# ----------------------------------------------------------------------------------------------------------------- data


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.asarray(bunch.images, dtype=np.float32) / 16, np.asarray(bunch.target)


def digits(seed: int) -> tuple[Data, Data]:
    """Handwritten digits, 8x8 grey."""
    x, y = _digits()
    return _split(torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y).long(), seed)


def coloured_digits(seed: int) -> tuple[Data, Data]:
    """Digits modulo 5 in one of two tints: ten classes."""
    x, y = _digits()
    random = np.random.default_rng(seed)
    second = torch.from_numpy(random.random(len(y)) < 0.5)
    tints = torch.tensor([[1.0, 0.35, 0.1], [0.1, 0.4, 1.0]])
    grey = torch.from_numpy(x).unsqueeze(1)
    return _split(
        grey * tints[second.long()][:, :, None, None], torch.from_numpy(y).long() % 5 + 5 * second.long(), seed
    )


def shapes(seed: int) -> tuple[Data, Data]:
    """Generated: a disc, square, triangle, cross, ring or bar of any colour and place on a noisy ground, 16x16."""
    random = np.random.default_rng(seed)
    n, side = TRAIN + TEST, 16
    y = random.integers(6, size=n)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    images = np.empty((n, 3, side, side), dtype=np.float32)
    for k, kind in enumerate(y):
        centre, size = random.uniform(5.5, 9.5, 2), random.uniform(3.2, 5.0)
        u, v = rows - centre[0], columns - centre[1]
        radius = np.hypot(u, v)
        inside = (
            radius < size,
            np.maximum(abs(u), abs(v)) < 0.85 * size,
            (u < 0.8 * size) & (u > 2 * abs(v) - size),
            (np.minimum(abs(u), abs(v)) < 0.3 * size) & (np.maximum(abs(u), abs(v)) < size),
            (radius < size) & (radius > 0.55 * size),
            (abs(u) < 0.35 * size) & (abs(v) < size),
        )[kind]
        ground, colour = random.uniform(0.05, 0.45, 3), random.uniform(0.5, 1.0, 3)
        images[k] = np.where(inside, colour[:, None, None], ground[:, None, None])
    images += 0.06 * random.standard_normal(images.shape, dtype=np.float32)
    return _split(torch.from_numpy(images.clip(0, 1)), torch.from_numpy(y).long(), seed)


def gratings(seed: int) -> tuple[Data, Data]:
    """Generated: waves of four directions by two lengths under noise, 12x12 grey, eight classes."""
    random = np.random.default_rng(seed)
    n, side = TRAIN + TEST, 12
    y = random.integers(8, size=n)
    angle = np.pi * (y % 4) / 4 + random.normal(0, 0.12, n) + 0.2
    length = np.where(y < 4, 3.2, 6.0) * random.uniform(0.9, 1.1, n)
    rows, columns = np.mgrid[:side, :side]
    phase = random.uniform(0, 2 * np.pi, n)
    wave = np.sin(
        2
        * np.pi
        * (np.multiply.outer(np.cos(angle), rows) + np.multiply.outer(np.sin(angle), columns))
        / length[:, None, None]
        + phase[:, None, None]
    )
    images = 0.5 + 0.25 * wave + 0.15 * random.standard_normal(wave.shape)
    return _split(torch.from_numpy(images.clip(0, 1).astype(np.float32)).unsqueeze(1), torch.from_numpy(y).long(), seed)


@cache
def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [np.asarray(image, dtype=np.float32) / 255 for image in load_sample_images().images]


def photographs(seed: int) -> tuple[Data, Data]:
    """Tiles of the two photographs that ship with scikit-learn, 16x16 colour: which, and which third of its width."""
    tiles, kinds = [], []
    for number, photo in enumerate(_photographs()):
        for top in range(0, photo.shape[0] - 15, 16):
            for left in range(0, photo.shape[1] - 15, 16):
                tiles.append(photo[top : top + 16, left : left + 16])
                kinds.append(3 * number + min(2, 3 * left // photo.shape[1]))
    x = torch.from_numpy(np.stack(tiles).transpose(0, 3, 1, 2).copy())
    return _split(x, torch.tensor(kinds), seed)


def clusters(seed: int) -> tuple[Data, Data]:
    """Generated: vectors of 20 numbers in five classes of two overlapping clusters each."""
    random = np.random.default_rng(seed)
    n = TRAIN + TEST
    y = random.integers(5, size=n)
    centres = random.normal(0, 0.9, (5, 2, 20))
    x = centres[y, random.integers(2, size=n)] + random.standard_normal((n, 20))
    return _split(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y).long(), seed)


def _split(x: Tensor, y: Tensor, seed: int) -> tuple[Data, Data]:
    train, rest = stratified(y.numpy(), TRAIN, seed=seed)
    return (x[train], y[train]), (x[rest[:TEST]], y[rest[:TEST]])


def from_task(name: str, options: dict[str, Any], seed: int) -> tuple[Data, Data]:
    """Subsets of a data set of kdcore's tasks, drawn by class, at half their size."""
    task = load_task(name, **options)
    found = []
    for split, size in (("train", TRAIN), ("test", TEST)):
        rows = task.draw(split, size, seed=seed).rows
        x, y = next(iter(task.loader(split, batch_size=len(rows), shuffle=False, rows=rows)))
        found.append((F.avg_pool2d(x, 2), y.long()))
    return found[0], found[1]


SOURCES: dict[str, Callable[[int], tuple[Data, Data]]] = {
    "digits": digits,
    "coloured digits": coloured_digits,
    "shapes": shapes,
    "gratings": gratings,
    "photographs": photographs,
    "clusters": clusters,
}


def sources(folder: Path | None) -> dict[str, Callable[[int], tuple[Data, Data]]]:
    """All data there are: those that can be had anywhere, and what a folder holds (``FashionMNIST/raw``,
    ``cifar-10-batches-py``, any ``.npz`` with ``x_train``, ``y_train``, ``x_test``, ``y_test``), at any depth of
    one."""
    found = dict(SOURCES)
    if folder is None:
        return found
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        options: dict[str, Any] = {"folder": place}
        if (place / "FashionMNIST" / "raw").is_dir():
            found["FashionMNIST"] = lambda seed, o=options: from_task("fashion_mnist", o, seed)  # type: ignore[misc]
        if (place / "cifar-10-batches-py").is_dir():
            found["CIFAR-10"] = lambda seed, o=options: from_task("cifar10", o, seed)  # type: ignore[misc]
        for file in sorted(place.glob("*.npz")):
            with np.load(file, allow_pickle=False) as arrays:
                fits = {"x_train", "y_train", "x_test", "y_test"} <= set(arrays.files)
                fits = (
                    fits
                    and arrays["x_train"].ndim == 4
                    and len(arrays["y_train"]) >= 400 * len(np.unique(arrays["y_train"]))
                )
            if fits:
                found[file.stem] = lambda seed, f=file: _npz(f, seed)  # type: ignore[misc]
    return found


def _npz(file: Path, seed: int) -> tuple[Data, Data]:
    """Three classes of a file's, drawn by the seed, at half their size: what a small network can learn of few
    images."""
    found = []
    with np.load(file, allow_pickle=False) as arrays:
        chosen = np.random.default_rng(seed).permutation(int(arrays["y_train"].max()) + 1)[:3]
        for split, size in (("train", TRAIN), ("test", TEST)):
            y = arrays[f"y_{split}"].astype(np.int64)
            rows = np.flatnonzero(np.isin(y, chosen))
            rows = rows[np.random.default_rng(seed + 1).permutation(len(rows))[:size]]
            x = torch.from_numpy(arrays[f"x_{split}"][rows]).movedim(3, 1).float() / 255
            found.append(
                (F.avg_pool2d(x, 2), torch.from_numpy(np.argsort(chosen)[np.searchsorted(np.sort(chosen), y[rows])]))
            )
    return found[0], found[1]


# ------------------------------------------------------------------------------------------------------------- networks


def plain_cnn(widths: tuple[int, int], classes: int, channels: int) -> nn.Module:
    """Convolutions without normalisation, max pooling, a linear head."""
    first, second = widths
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * second, classes),
    )  # fmt: skip


def group_cnn(widths: tuple[int, ...], classes: int, channels: int) -> nn.Module:
    """Convolutions with group normalisation and GELU, a mean over the map, a linear head."""
    layers: list[nn.Module] = []
    for k, width in enumerate(widths):
        layers += [nn.Conv2d(channels, width, 3, stride=1 + (k > 0), padding=1), nn.GroupNorm(4, width), nn.GELU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def network(role: str, x: Tensor, classes: int, random: np.random.Generator) -> tuple[str, Callable[[], nn.Module]]:
    """A kind of network and its widths by chance: its name, and what makes it."""
    small = role == "student"
    if x.ndim == 2:
        widths = (int(random.choice([16, 24, 32])),) if small else tuple(random.choice([64, 96, 128], 2).tolist())
        return f"MLP {widths}", lambda: MLP(x.shape[1], widths, classes)
    channels, side = x.shape[1], x.shape[2]
    kinds = ["ConvNet", "plain", "group", "MLP", "ViT"] + ["ResNet-8"] * (not small and side <= 16)
    kind = str(random.choice(kinds))
    scale = int(random.choice([1, 2])) if small else int(random.choice([3, 4]))
    if kind == "ConvNet":
        wide = (8 * scale, 12 * scale, 16 * scale)
        return f"ConvNet {wide}", lambda: ConvNet(wide, classes, in_channels=channels)
    if kind == "plain":
        return f"plain CNN x{scale}", lambda: plain_cnn((8 * scale, 12 * scale), classes, channels)
    if kind == "group":
        return f"group CNN x{scale}", lambda: group_cnn((8 * scale, 12 * scale, 12 * scale), classes, channels)
    if kind == "MLP":
        hidden = (40 * scale,) if small else (48 * scale, 32 * scale)
        return f"MLP {hidden}", lambda: MLP(tuple(x.shape[1:]), hidden, classes)
    if kind == "ViT":
        width = 16 + 8 * scale
        return f"ViT {width}", lambda: SmallViT(
            side, 4 if side > 8 and side % 4 == 0 else 2, classes, in_channels=channels, width=width, depth=2, heads=2
        )
    return "ResNet-8", lambda: CifarResNet(8, classes, in_channels=channels)


def loader(data: Data, seed: int, batch_size: int = 64) -> Any:
    """Shuffled batches."""
    return torch.utils.data.DataLoader(
        ArrayDataset(*data),
        batch_size,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=collate,
    )


def train(
    model: nn.Module,
    data: Data,
    seed: int,
    *,
    teacher: nn.Module | None = None,
    epochs: int = 24,
    batch_size: int = 64,
    exact: bool = False,
    **options: Any,
) -> Any:
    """Train by kdcore's engine, from labels or (with a teacher) by vanilla distillation; returns the result.

    Perceptrons and transformers take half as many epochs more, unless ``exact``.
    """
    slow = isinstance(model, SmallViT | MLP)
    given: dict[str, Any] = {"lr": 3e-3 if slow else 6e-3, "weight_decay": 0.02, "student_transform": nn.Identity()}
    if teacher is not None:
        given["teacher_transform"] = nn.Identity()
    method = "ce" if teacher is None else "kd"
    epochs = 3 * epochs // 2 if slow and not exact else epochs
    batches = loader(data, seed, batch_size)
    return distill(teacher, model, method, batches, epochs=epochs, seed=seed, **(given | options))


def fresh(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def make_pair(group: str, number: int, folder: Path, data: dict[str, Callable[[int], tuple[Data, Data]]]) -> Pair:
    """Pair ``number`` of a set; its weights are kept in ``folder`` and read from there the next time."""
    seed = int.from_bytes(hashlib.sha256(f"{group} {number}".encode()).digest()[:4], "big") % 2**31
    random = np.random.default_rng(seed)
    source = list(data)[number % len(data)]
    training, test = data[source](seed)
    classes = int(training[1].max()) + 1
    names, makes = zip(*(network(role, training[0], classes, random) for role in ("teacher", "student")), strict=True)
    learns_from_teacher = bool(random.random() < 0.5)
    models = [fresh(make, seed + k) for k, make in enumerate(makes)]
    kept = [
        folder / f"{group}-{number}-{source.replace(' ', '-')}-{role}.safetensors" for role in ("teacher", "student")
    ]
    for k, (model, file) in enumerate(zip(models, kept, strict=True)):
        if file.is_file():
            load_weights(model, file)
        else:
            train(model, training, seed + k, teacher=models[0] if k and learns_from_teacher else None)
            save_weights(model, file)
        model.eval()
    how = "from the teacher" if learns_from_teacher else "from labels"
    return Pair(
        name=f"{group} {number}: {source}, {names[1]} {how} under {names[0]}",
        teacher=models[0],
        student=models[1],
        train=training,
        test=test,
        make=lambda: fresh(makes[1], seed + 1),
    )
