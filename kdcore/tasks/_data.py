"""Map-style data sets in memory, batches without a Python loop over samples, splits by seed, fingerprints."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from .. import labels
from ..functional.checks import check_fraction, describe


class SizedDataset(Protocol):
    """A map-style data set: what :class:`torch.utils.data.Dataset` does not promise about length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """Samples in one tensor; a batch is one indexing operation.

    Args:
        x: ``(N, ...)`` float, or uint8 images that are divided by 255 when read.
        y: ``(N,)`` integer labels.

    Raises:
        ValueError: lengths differ, or x is not finite.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if len(x) != len(y) or y.ndim != 1:
            raise ValueError(f"x and y must hold the same samples and y be (N,), got {describe(x)} and {describe(y)}.")
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten()
            raise ValueError(f"x must be finite; NaN or infinity in {len(bad)} samples, first at {int(bad[0])}.")
        self.x, self.y = x, y.long()

    def __len__(self) -> int:
        return len(self.y)

    def _read(self, index: Any) -> Tensor:
        x = self.x[index]
        return x.float().div_(255) if x.dtype == torch.uint8 else x

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._read(index), int(self.y[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A whole batch ``(x, y)``; the data loader calls it instead of one read per sample (see :func:`collate`)."""
        rows = torch.as_tensor(indices)
        return self._read(rows), self.y[rows]

    def fingerprint(self) -> str:
        """Hash of every byte."""
        digest = hashlib.sha256(f"{tuple(self.x.shape)}{self.x.dtype}".encode())
        digest.update(self.x.contiguous().numpy().data)
        digest.update(self.y.contiguous().numpy().data)
        return digest.hexdigest()

    def subset(self, indices: Any) -> ArrayDataset:
        """The samples at ``indices``, in that order."""
        rows = torch.as_tensor(np.asarray(indices))
        return ArrayDataset(self.x[rows], self.y[rows])


class WithIndex(Dataset[tuple[Any, ...]]):
    """Adds the position of the sample: ``(x, y, index)``."""

    def __init__(self, data: SizedDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return (*self.data[index], index)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        many = getattr(self.data, "__getitems__", None)
        batch = many(indices) if many else [self.data[i] for i in indices]
        if isinstance(batch, tuple):
            return (*batch, torch.as_tensor(indices))
        return [(*sample, i) for sample, i in zip(batch, indices, strict=True)]


def collate(batch: Any) -> Any:
    """Pass a batch that ``__getitems__`` already built; stack a list of samples as torch does."""
    return batch if isinstance(batch, tuple) else default_collate(batch)


def known_labels(data: SizedDataset) -> Tensor | None:
    """All labels ``(N,)`` int64 where the data set has them at hand (see :func:`kdcore.labels.known_labels`)."""
    found = labels.known_labels(data)
    return None if found is None else found.long()


def labels_of(data: SizedDataset) -> Tensor:
    """All labels ``(N,)`` of a map-style data set; samples are read only where the set does not offer its labels."""
    found = known_labels(data)
    return torch.tensor([int(data[i][1]) for i in range(len(data))]) if found is None else found


def fingerprint(data: SizedDataset) -> str:
    """Hash that tells data sets apart.

    Sets that know better say so with a ``fingerprint()`` method (every byte in memory, name and size and time of every
    image file); of any other set, the length, all labels if they are at hand, and up to 64 samples spread evenly are
    hashed.
    """
    own = getattr(data, "fingerprint", None)
    if callable(own):
        return str(own())
    digest = hashlib.sha256(str(len(data)).encode())
    if (known := known_labels(data)) is not None:
        digest.update(known.numpy().tobytes())
    for i in np.linspace(0, len(data) - 1, min(64, len(data))).astype(int):
        x, y = data[int(i)][:2]
        digest.update(np.ascontiguousarray(torch.as_tensor(x).cpu().numpy()).tobytes() + str(int(y)).encode())
    return digest.hexdigest()


def check_class_counts(labels: np.ndarray, class_names: Sequence[str], *, at_least: int, why: str) -> None:
    """Raise ``ValueError`` naming every class with fewer than ``at_least`` samples."""
    counts = np.bincount(labels, minlength=len(class_names))
    few = {name: int(count) for name, count in zip(class_names, counts, strict=True) if count < at_least}
    if few:
        shown = ", ".join(f"{name!r} has {count}" for name, count in list(few.items())[:10])
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        samples = f"{at_least} sample{'s' if at_least > 1 else ''}"
        raise ValueError(f"every class needs at least {samples} {why}; {shown}{more}.")


def stratified(labels: np.ndarray, amount: float | int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a stratified part of ``amount`` (a fraction or a count) and of the rest, both in random order.

    Raises:
        ValueError: a part would have fewer samples than there are classes, or a class has a single sample.
    """
    from sklearn.model_selection import train_test_split

    try:
        first, rest = train_test_split(np.arange(len(labels)), train_size=amount, stratify=labels, random_state=seed)
    except ValueError as error:
        counts = np.unique(labels, return_counts=True)[1]
        raise ValueError(
            f"{len(labels)} samples of {len(counts)} classes (the smallest has {counts.min()}) cannot be "
            f"split into {amount} and the rest with every class in both: {error}"
        ) from error
    return first, rest


def split_train(
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    seed: int,
    train_fraction: float | None = None,
    val_fraction: float = 0.0,
) -> dict[str, np.ndarray]:
    """Stratified positions of ``train``, ``val`` (where a fraction is asked for) and ``test`` (where none exists yet).

    Args:
        labels: ``(N,)`` integers.
        class_names: names for the error messages.
        seed: of the split.
        train_fraction: share of all samples that is not test; ``None`` where a test set already exists.
        val_fraction: share of the training samples set aside for validation.

    Raises:
        ValueError: a fraction outside its range, or a class with too few samples to appear in every part.
    """
    check_fraction("val_fraction", val_fraction, closed=False)
    parts = 1 + (train_fraction is not None) + (val_fraction > 0)
    check_class_counts(labels, class_names, at_least=parts, why="to appear in every split")
    split: dict[str, np.ndarray] = {}
    train = np.arange(len(labels))
    if train_fraction is not None:
        if not 0 < train_fraction < 1:
            raise ValueError(f"train_fraction must be in (0, 1), got {train_fraction!r}.")
        train, split["test"] = stratified(labels, train_fraction, seed=seed)
    if val_fraction:
        kept, val = stratified(labels[train], 1 - val_fraction, seed=seed)
        train, split["val"] = train[kept], train[val]
    return {"train": train, **split}


def transfer_set(
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    seed: int,
    train_size: int | None = None,
    omit_classes: Sequence[int | str] = (),
) -> np.ndarray:
    """Positions of the samples the student sees: some classes left out, then a stratified subset.

    Args:
        labels: ``(N,)`` labels of the training split.
        class_names: all classes.
        seed: of the subset.
        train_size: number of samples kept, ``None`` for all.
        omit_classes: names or numbers of classes that are removed.

    Raises:
        ValueError: unknown class, no class left, or a size outside what there is (at least one sample per class).
    """
    known = {str(name): number for number, name in enumerate(class_names)}
    omitted = set()
    for given in omit_classes:
        number = known.get(given, -1) if isinstance(given, str) else int(given)
        if not 0 <= number < len(class_names):
            raise ValueError(f"omit_classes names {given!r}, the classes are {', '.join(known)} (from 0).")
        omitted.add(number)
    kept = np.flatnonzero(~np.isin(labels, list(omitted)))
    if not len(kept):
        raise ValueError(f"omit_classes={list(omit_classes)!r} leaves no training sample.")
    if train_size is None or train_size == len(kept):
        return kept
    classes = Counter(labels[kept].tolist())
    if not len(classes) <= train_size <= len(kept) - len(classes):
        raise ValueError(
            f"train_size must be {len(kept)} (all) or between {len(classes)} (one per class) and "
            f"{len(kept) - len(classes)}, got {train_size!r}."
        )
    chosen, _ = stratified(labels[kept], int(train_size), seed=seed)
    return kept[chosen]


def as_dataset(data: Any) -> SizedDataset:
    """``data`` itself when it is map-style, else ``TypeError``."""
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(f"a data set must have a length and give (x, y) by position, got {type(data).__name__}.")
    return cast("SizedDataset", data)
