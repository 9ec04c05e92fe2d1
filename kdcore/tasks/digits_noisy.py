"""Digits where neither voice can always be right: a teacher that is blind to two classes, and labels that are noisy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..functional.checks import check_fraction
from ..models import MLP
from ._classification import Classification
from ._data import ArrayDataset, split_train, stratified, transfer_set
from ._models import ModelSpec, Recipe


@dataclass(kw_only=True, eq=False)
class NoisyTask(Classification):
    """A classification task some of whose training labels are wrong.

    Attributes:
        clean: ``(N,)`` true labels of ``train``, in its order; no training reads them.
        blind: classes that the teacher never saw.
    """

    clean: Tensor
    blind: tuple[int, ...]

    def groups(self) -> dict[str, Tensor]:
        """Which training samples are of a known or blind class, with a clean or corrupted label: ``(N,)`` bool each."""
        given = self.labels("train")
        wrong, unseen = given != self.clean, torch.isin(self.clean, torch.tensor(self.blind))
        return {
            "known class, clean label": ~unseen & ~wrong,
            "known class, corrupted label": ~unseen & wrong,
            "blind class, clean label": unseen & ~wrong,
            "blind class, corrupted label": unseen & wrong,
        }


def digits_noisy(
    *, train_size: int = 300, val_size: int = 40, noise: float = 0.3, blind: tuple[int, ...] = (3, 8), seed: int = 0
) -> NoisyTask:
    """Digits with noisy labels, a few clean validation images, and a teacher that is blind to two classes.

    Args:
        train_size: images the student learns from.
        val_size: clean validation images, none of them among the former.
        noise: share of training labels that are replaced by a random class (which may be the right one).
        blind: digits that the teacher never sees; it learns from 600 images of the others.
        seed: of split, noise and teacher.

    Raises:
        ValueError: sizes, a share or classes outside their range.
    """
    from sklearn.datasets import load_digits

    check_fraction("noise", noise)
    bunch = load_digits()
    x = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32) / 16).unsqueeze(1)
    y = np.asarray(bunch.target)
    names = tuple(map(str, range(10)))
    everything = ArrayDataset(x, torch.from_numpy(y))
    split = split_train(y, class_names=names, seed=seed, train_fraction=0.6)
    seen = transfer_set(y[split["train"]], class_names=names, seed=seed, train_size=train_size + val_size)
    chosen = split["train"][seen]
    val, train = (chosen[part] for part in stratified(y[chosen], val_size, seed=seed))
    taught = transfer_set(y[split["train"]], class_names=names, seed=seed, train_size=600, omit_classes=blind)
    rng = np.random.default_rng(seed)
    replaced = rng.random(len(train)) < noise
    given = np.where(replaced, rng.integers(10, size=len(train)), y[train])
    recipe = Recipe(epochs=60, batch_size=50, lr=1e-2, optimizer="adam", weight_decay=0.0)
    return NoisyTask(
        name="digits_noisy",
        train=ArrayDataset(x[train], torch.from_numpy(given)),
        val=everything.subset(val),
        test=everything.subset(split["test"]),
        teacher_train=everything.subset(split["train"][taught]),
        class_names=names,
        clean=torch.from_numpy(y[train]).long(),
        blind=tuple(blind),
        teachers={
            "mlp": ModelSpec(
                build=partial(MLP, (1, 8, 8), (128,), 10, dropout=0.2), recipe=Recipe(), words="perceptron, 128 hidden"
            )
        },
        students={
            "mlp-16": ModelSpec(build=partial(MLP, (1, 8, 8), (16,), 10), recipe=recipe, words="perceptron, 16 hidden")
        },
        seed=seed,
        words=f"real digits, {100 * noise:g} % noisy labels, a teacher blind to {' and '.join(map(str, blind))}",
        notes=(f"{int((given != y[train]).sum())} of {len(train)} training labels are wrong",),
    )


TASKS = {"digits_noisy": digits_noisy}
