"""Scikit-learn's real handwritten digits: 1,797 grey images of 8x8 pixels, shipped inside the package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ._classification import Classification
from ._data import ArrayDataset, split_train, transfer_set


def digits(
    seed: int = 0,
    train_fraction: float = 0.6,
    val_fraction: float = 0.0,
    train_size: int | None = None,
    omit_classes: Sequence[int | str] = (),
    size: int = 8,
) -> Classification:
    """Real handwritten digits, 8x8 grey pixels, ten classes (scikit-learn; nothing is downloaded).

    ``x`` is ``(1, 8, 8)`` in [0, 1] (the stored 0 to 16 divided by 16); perceptrons flatten it themselves.

    Args:
        seed: of the stratified split and of the reference teachers.
        train_fraction: share that is not test.
        val_fraction: share of the training images set aside for validation.
        train_size: number of labelled images the *student* sees, a stratified subset; the teacher learned from all.
        omit_classes: digits removed from the student's images only; teacher and test keep them.
        size: side in pixels; larger than 8 is interpolated bilinearly, for networks that need more than 8 pixels.

    Raises:
        ValueError: fraction, size or class out of range.

    Reference: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), test part.
    """
    from sklearn.datasets import load_digits

    if not isinstance(size, int) or size < 8:
        raise ValueError(f"size must be a whole number of pixels >= 8, got {size!r}.")
    bunch = load_digits()
    x = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32) / 16).unsqueeze(1)
    if size != 8:
        x = torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    labels = np.asarray(bunch.target)
    names = tuple(map(str, range(10)))
    everything = ArrayDataset(x, torch.from_numpy(labels))
    split = split_train(labels, class_names=names, seed=seed, train_fraction=train_fraction, val_fraction=val_fraction)
    seen = transfer_set(
        labels[split["train"]], class_names=names, seed=seed, train_size=train_size, omit_classes=omit_classes
    )
    parts = {name: everything.subset(rows) for name, rows in split.items()}
    notes = []
    if omit_classes:
        notes.append(f"the student sees no image of {', '.join(map(str, omit_classes))}")
    if train_size is not None:
        notes.append(f"the student sees {len(seen)} of the teacher's {len(parts['train'])} images")
    return Classification(
        name="digits",
        train=parts["train"].subset(seen),
        teacher_train=parts["train"],
        val=parts.get("val"),
        test=parts["test"],
        class_names=names,
        seed=seed,
        notes=tuple(notes),
        words=f"real handwritten digits, {size}x{size} grey pixels",
    )


TASKS = {"digits": digits}
