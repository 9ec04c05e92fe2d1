"""Images or vectors in one .npz file."""

from __future__ import annotations

import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import as_path
from ..functional.checks import check_choice
from ._classification import Classification
from ._data import ArrayDataset, split_train, transfer_set

LAYOUTS = ("auto", "nchw", "nhwc", "nhw", "nd")


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, without ever unpickling.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an .npz file, damaged, or with arrays of Python objects.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file at {path}.")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if fault := archive.testzip():
                raise ValueError(f"{fault} fails its checksum")
            file.seek(0)
            stored = np.load(file, allow_pickle=False)
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as an .npz file of plain arrays: {error}") from error


def _field(arrays: dict[str, np.ndarray], option: str, name: str, path: str | Path) -> np.ndarray:
    if name not in arrays:
        shown = ", ".join(f"{key} {value.shape}" for key, value in arrays.items())
        raise ValueError(f"{path} has no array {name!r} (option {option}); it has {shown}.")
    return arrays[name]


def to_inputs(images: np.ndarray, layout: str = "auto", *, name: str = "images") -> Tensor:
    """An array as network input: ``(N, C, H, W)`` or ``(N, D)``; uint8 stays uint8 (divided by 255 when read).

    Args:
        images: any numeric array whose first axis counts samples; uint16 images are divided by 65535.
        layout: ``"nchw"``, ``"nhwc"``, ``"nhw"`` (grey), ``"nd"`` (vectors), or ``"auto"``: two axes are vectors, three
            grey images, and of four the channels are those of :func:`channels_last`.
        name: for the error message.

    Raises:
        ValueError: a layout that does not fit the number of axes, or that cannot be told; integer images of a range
            that nobody knows; TypeError: not numbers.
    """
    check_choice("layout", layout, LAYOUTS)
    if images.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got dtype {images.dtype}.")
    if layout == "auto":
        last = images.ndim == 4 and channels_last(images.shape[1:], name=name)
        layout = {2: "nd", 3: "nhw", 4: "nhwc" if last else "nchw"}.get(images.ndim, "nchw")
    if images.ndim != len(layout):
        raise ValueError(f"{name} must have {len(layout)} axes for layout {layout!r}, got shape {images.shape}.")
    if layout == "nhwc":
        images = images.transpose(0, 3, 1, 2)
    elif layout == "nhw":
        images = images[:, None]
    if layout != "nd":
        images = _known_range(images, name)
    if images.dtype == np.uint8 and layout != "nd":
        return torch.from_numpy(np.ascontiguousarray(images))
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))


def images_are_bytes(x: Tensor) -> bool:
    """Whether floating images ``(N, C, H, W)`` look like bytes that nobody divided by 255."""
    return x.ndim == 4 and x.is_floating_point() and bool(x.numel()) and float(x.min()) >= 0 and float(x.max()) > 16


def channels_last(shape: Sequence[int], *, name: str = "images") -> bool:
    """Whether of three axes the last one holds the channels; the first one otherwise.

    An axis of 1, 3 or 4 entries at one end, and none at the other, is that of colours. Otherwise the two equal axes are
    the sides (satellite images of 13 bands), and of two different sides the channels are fewer than either.

    Raises:
        ValueError: nothing tells them apart; the message asks for ``layout``.
    """
    first, middle, last = shape
    if (first in (1, 3, 4)) != (last in (1, 3, 4)):
        return last in (1, 3, 4)
    if first in (1, 3, 4):
        return middle == first != last  # (3, 20, 3) and (3, 3, 3) are read in torch's order
    if (first == middle) != (middle == last):
        return first == middle
    if min(first, last) < middle and first != last:
        return last < first
    raise ValueError(
        f"{name} of shape (N, {first}, {middle}, {last}): which axis holds the channels? Say layout='nchw' or 'nhwc'."
    )


def _known_range(images: np.ndarray, name: str) -> np.ndarray:
    """Images in [0, 1], as uint8, or floating as they are; 16 bits become floating."""
    if images.dtype == np.bool_:
        return images.astype(np.float32)
    if images.dtype == np.uint16:
        return images.astype(np.float32) / np.float32(65535)
    if images.dtype.kind in "iu" and images.dtype != np.uint8:
        low, high = (int(images.min()), int(images.max())) if images.size else (0, 0)
        if high <= 1 and low >= 0:
            return images.astype(np.float32)
        if low < 0 or not 128 <= high <= 255:
            raise ValueError(
                f"{name} has {images.dtype} values from {low} to {high}: save it as uint8, uint16, or floating in "
                "[0, 1], so that it is known what is white."
            )
        return images.astype(np.uint8)
    return images


def to_labels(labels: np.ndarray, *, name: str = "labels") -> np.ndarray:
    """Integer labels ``(N,)``; whole floats are accepted."""
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    whole = flat.dtype.kind in "iub" or (flat.dtype.kind == "f" and np.array_equal(flat, np.rint(flat)))
    if flat.ndim != 1 or not whole:
        raise ValueError(f"{name} must be whole numbers of shape (N,), got {labels.dtype} {labels.shape}.")
    return flat.astype(np.int64)


def arrays(
    path: str | Path,
    images: str = "x_train",
    labels: str = "y_train",
    test_images: str | None = "x_test",
    test_labels: str | None = "y_test",
    classes: str | Sequence[str] | None = "classes",
    layout: str = "auto",
    seed: int = 0,
    train_fraction: float = 0.6,
    val_fraction: float = 0.0,
    train_size: int | None = None,
    omit_classes: Sequence[int | str] = (),
) -> Classification:
    """Images or vectors in one .npz file of plain arrays.

    Args:
        path: the file; it is read without unpickling.
        images, labels: names of the training arrays: ``(N, H, W, C)``, ``(N, C, H, W)``, ``(N, H, W)`` or ``(N, D)``,
            and ``(N,)`` integers. uint8 images are divided by 255, uint16 ones by 65535.
        test_images, test_labels: names of the test arrays; where the file has neither, the data are split by ``seed``.
        classes: name of an array of class names, or the names; numbers are used where the file has no such array.
        layout: order of the axes, see :func:`to_inputs`.
        seed, train_fraction, val_fraction, train_size, omit_classes: as for the digits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an array that is not there (the message lists those that are), lengths or values that do not fit.
    """
    stored = read_npz(path)
    x, y = (
        to_inputs(_field(stored, "images", images, path), layout, name=images),
        to_labels(_field(stored, "labels", labels, path), name=labels),
    )
    if len(x) != len(y):
        raise ValueError(f"{images} has {len(x)} samples and {labels} has {len(y)}.")
    has_test = test_images is not None and (test_images in stored or (test_images, test_labels) != ("x_test", "y_test"))
    test = None
    if has_test and test_images is not None and test_labels is not None:
        test_y = to_labels(_field(stored, "test_labels", test_labels, path), name=test_labels)
        test = ArrayDataset(
            to_inputs(_field(stored, "test_images", test_images, path), layout, name=test_images),
            torch.from_numpy(test_y),
        )
        if test.x.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"{images} and {test_images} must hold samples of one shape, got {tuple(x.shape[1:])} and "
                f"{tuple(test.x.shape[1:])}."
            )
    if images_are_bytes(x):
        warnings.warn(
            f"{images} of {path} holds floating values up to {float(x.max()):g} and none below 0; they are taken as "
            "they are. Networks expect [0, 1] or their own normalisation: bytes saved as floats want / 255.",
            stacklevel=3,
        )
    names = _class_names(stored, classes, y if test is None else np.concatenate([y, test.y.numpy()]))
    return from_arrays(
        Path(path).stem,
        ArrayDataset(x, torch.from_numpy(y)),
        test,
        names,
        seed=seed,
        train_fraction=train_fraction,
        val_fraction=val_fraction,
        train_size=train_size,
        omit_classes=omit_classes,
        words=f"arrays of {Path(path).name}",
    )


def _class_names(
    stored: dict[str, np.ndarray], classes: str | Sequence[str] | None, labels: np.ndarray
) -> tuple[str, ...]:
    lowest, highest = int(labels.min()), int(labels.max())
    given: Sequence[object] | None = None
    if isinstance(classes, str):
        given = stored[classes].tolist() if classes in stored else None
        if given is None and classes != "classes":
            raise ValueError(f"there is no array {classes!r} (option classes); there are {', '.join(stored)}.")
    elif classes is not None:
        given = classes
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in given or range(highest + 1)]
    if lowest < 0 or highest >= len(names):
        raise ValueError(f"labels must be in [0, {len(names)}), got values from {lowest} to {highest}.")
    return tuple(names)


def from_arrays(
    name: str,
    train: ArrayDataset,
    test: ArrayDataset | None,
    class_names: Sequence[str],
    *,
    seed: int,
    train_fraction: float,
    val_fraction: float,
    train_size: int | None,
    omit_classes: Sequence[int | str],
    words: str,
) -> Classification:
    """A task of in-memory data, split by seed where no test set is given."""
    labels = train.y.numpy()
    split = split_train(
        labels,
        class_names=class_names,
        seed=seed,
        val_fraction=val_fraction,
        train_fraction=train_fraction if test is None else None,
    )
    parts = {key: train.subset(rows) for key, rows in split.items() if key != "train"}
    kept = train if len(split["train"]) == len(train) else train.subset(split["train"])
    seen = transfer_set(
        kept.y.numpy(), class_names=class_names, seed=seed, train_size=train_size, omit_classes=omit_classes
    )
    return Classification(
        name=name,
        train=kept if len(seen) == len(kept) else kept.subset(seen),
        teacher_train=kept,
        val=parts.get("val"),
        test=parts["test"] if test is None else test,
        class_names=class_names,
        seed=seed,
        words=words,
    )


TASKS = {"arrays": arrays}
