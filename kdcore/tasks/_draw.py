"""Which samples of a split are looked at, where not all are: drawn once, the same for every picture of a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..functional.checks import check_positive


@dataclass(frozen=True)
class Draw:
    """Positions of samples in a split, and how they were chosen.

    Attributes:
        split: of the task. rows: positions, ascending. of: samples in the split.
        stratified: every class has its share (and at least one sample where there is room). seed: of the draw.
    """

    split: str
    rows: tuple[int, ...]
    of: int
    stratified: bool
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def words(self) -> str:
        """``"400 of 10,000 test samples, drawn by class, seed 0"``, or ``"all 297 test samples"``."""
        if len(self.rows) == self.of:
            return f"all {self.of:,} {self.split} samples"
        how = "drawn by class" if self.stratified else "drawn at random"
        return f"{len(self.rows):,} of {self.of:,} {self.split} samples, {how}, seed {self.seed}"


def draw_rows(split: str, size: int, n: int, seed: int, labels: np.ndarray | None = None) -> Draw:
    """At most ``n`` of ``size`` samples; with labels in proportion to the classes, by largest remainders.

    Args:
        split: its name; size: samples in it; n: how many at most.
        seed: of the draw, from 0.
        labels: ``(size,)`` whole numbers, or ``None``.
    """
    check_positive("n", n)
    random = np.random.default_rng(seed)
    if n >= size:
        return Draw(split, tuple(range(size)), size, labels is not None, seed)
    if labels is None:
        return Draw(split, tuple(sorted(random.choice(size, n, replace=False).tolist())), size, False, seed)
    classes, counts = np.unique(labels, return_counts=True)
    share = n * counts / size
    taken = np.floor(share).astype(int)
    if n >= len(classes):
        taken = np.maximum(taken, 1)
    order = np.argsort(-(share - taken), kind="stable")
    for k in order[: max(0, n - taken.sum())]:
        taken[k] += 1
    while taken.sum() > n:  # room for the rare classes comes from the largest
        taken[np.argmax(taken)] -= 1
    rows = [random.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, taken, strict=True)]
    return Draw(split, tuple(sorted(np.concatenate(rows).tolist())), size, True, seed)
