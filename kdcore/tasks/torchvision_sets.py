"""FashionMNIST, CIFAR-10 and CIFAR-100 in the folder layout of torchvision; downloaded only on request."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._classification import Classification
from ._data import ArrayDataset
from ._folders import data_folder
from .arrays import from_arrays, to_inputs

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: Path) -> np.ndarray:
    """A uint8 array in the idx format of MNIST, plain or gzip-compressed (``path`` or ``path`` + ``.gz``).

    Raises:
        FileNotFoundError: neither file is there.
        ValueError: damaged, or not uint8 idx.
    """
    packed = path.with_name(path.name + ".gz")
    if not path.is_file() and not packed.is_file():
        raise FileNotFoundError(f"there is neither {path} nor {packed.name} beside it.")
    found = path if path.is_file() else packed
    try:
        raw = found.read_bytes() if found is path else gzip.decompress(found.read_bytes())
        if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
            raise ValueError("the header is not that of a uint8 idx file")
        shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{found} is damaged: {error}. Delete it and load the task with download=True.") from error


def _missing(name: str, folder: Path, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} is not in the data folder {folder} ({error}). Set the environment variable "
        "KDCORE_DATA (or folder=...) to the folder that holds it, or load it once with "
        "download=True."
    )


def _torchvision(cls: str, folder: Path, *, download: bool) -> tuple[Any, Any]:
    """Train and test set of torchvision, checked by its own MD5 sums."""
    from torchvision import datasets

    make = getattr(datasets, cls)
    try:
        return make(folder, train=True, download=download), make(folder, train=False, download=download)
    except RuntimeError as error:
        raise _missing(cls, folder, error) from error


def _fashion(folder: Path, *, download: bool) -> tuple[list[np.ndarray], tuple[str, ...]]:
    if download:
        _torchvision("FashionMNIST", folder, download=True)
    raw = folder / "FashionMNIST" / "raw"
    try:
        return [
            read_idx(raw / f"{part}-{kind}")
            for part in ("train", "t10k")
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ], FASHION_CLASSES
    except FileNotFoundError as error:
        raise _missing("FashionMNIST", folder, error) from error


def _cifar(cls: str, folder: Path, *, download: bool) -> tuple[list[np.ndarray], tuple[str, ...]]:
    train, test = _torchvision(cls, folder, download=download)
    return [array for part in (train, test) for array in (part.data, np.asarray(part.targets))], tuple(train.classes)


def _load(
    name: str,
    words: str,
    read: Any,
    *,
    folder: str | Path | None,
    download: bool,
    seed: int,
    val_fraction: float,
    train_size: int | None,
    test_size: int | None,
    omit_classes: Sequence[int | str],
) -> Classification:
    where = Path(folder).expanduser() if folder is not None else data_folder()
    (x_train, y_train, x_test, y_test), classes = read(where, download=download)
    test = ArrayDataset(to_inputs(x_test), torch.from_numpy(y_test.astype(np.int64)))
    if test_size is not None:
        if not 0 < test_size <= len(test):
            raise ValueError(f"test_size must be between 1 and {len(test)}, got {test_size!r}.")
        test = test.subset(np.random.default_rng(seed).permutation(len(test))[:test_size])
    train = ArrayDataset(to_inputs(x_train), torch.from_numpy(y_train.astype(np.int64)))
    return from_arrays(
        name,
        train,
        test,
        classes,
        seed=seed,
        train_fraction=1.0,
        val_fraction=val_fraction,
        train_size=train_size,
        omit_classes=omit_classes,
        words=words,
    )


def fashion_mnist(
    folder: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    val_fraction: float = 0.0,
    train_size: int | None = None,
    test_size: int | None = None,
    omit_classes: Sequence[int | str] = (),
) -> Classification:
    """FashionMNIST: clothing, 28x28 grey pixels, ten classes, 60,000 + 10,000 images.

    Args:
        folder: data folder that holds ``FashionMNIST/raw`` (idx files, compressed or not); default ``KDCORE_DATA``.
        download: fetch the files first (the only way this ever uses the network).
        seed: of subsets, the validation split and the reference teachers.
        val_fraction: share of the training images set aside for validation.
        train_size: number of images the student sees; the teacher learns from all.
        test_size: number of random test images used, all by default.
        omit_classes: classes removed from the student's images.

    Raises:
        FileNotFoundError: the data are not there; the message names the folder and the options.

    Reference: Xiao, Rasul and Vollgraf, arXiv:1708.07747.
    """
    return _load(
        "fashion_mnist",
        "clothing, 28x28 grey pixels",
        _fashion,
        folder=folder,
        download=download,
        seed=seed,
        val_fraction=val_fraction,
        train_size=train_size,
        test_size=test_size,
        omit_classes=omit_classes,
    )


def cifar10(
    folder: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    val_fraction: float = 0.0,
    train_size: int | None = None,
    test_size: int | None = None,
    omit_classes: Sequence[int | str] = (),
) -> Classification:
    """CIFAR-10: small photographs, 32x32 colour pixels, ten classes, 50,000 + 10,000 images.

    Options and errors are those of :func:`fashion_mnist`; the folder holds ``cifar-10-batches-py``.

    Reference: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    return _load(
        "cifar10",
        "small photographs, 32x32 colour pixels, 10 classes",
        partial(_cifar, "CIFAR10"),
        folder=folder,
        download=download,
        seed=seed,
        val_fraction=val_fraction,
        train_size=train_size,
        test_size=test_size,
        omit_classes=omit_classes,
    )


def cifar100(
    folder: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    val_fraction: float = 0.0,
    train_size: int | None = None,
    test_size: int | None = None,
    omit_classes: Sequence[int | str] = (),
) -> Classification:
    """CIFAR-100: small photographs, 32x32 colour pixels, a hundred classes, 50,000 + 10,000 images.

    Options and errors are those of :func:`fashion_mnist`; the folder holds ``cifar-100-python``.

    Reference: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    return _load(
        "cifar100",
        "small photographs, 32x32 colour pixels, 100 classes",
        partial(_cifar, "CIFAR100"),
        folder=folder,
        download=download,
        seed=seed,
        val_fraction=val_fraction,
        train_size=train_size,
        test_size=test_size,
        omit_classes=omit_classes,
    )


TASKS = {"fashion_mnist": fashion_mnist, "cifar10": cifar10, "cifar100": cifar100}
