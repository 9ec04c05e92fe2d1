"""Pools of samples whose labels are bought: who knows which, and batches of labelled and unlabelled ones together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .functional.checks import check_labels


class LabelOracle:
    """Labels that have to be bought, so that nothing can look at one that was not.

    Args:
        labels: ``(N,)`` integers of the whole pool.

    Attributes:
        is_known: ``(N,)`` bool, which labels were handed out. queries: how many.
        num_classes: the largest label plus 1.

    Raises:
        ValueError, TypeError: labels that are no vector of integers >= 0.
    """

    def __init__(self, labels: Tensor) -> None:
        self.num_classes = int(labels.max()) + 1 if labels.numel() else 0
        self._labels = check_labels(labels, labels.numel(), max(1, self.num_classes)).cpu()
        self.is_known = torch.zeros(len(self._labels), dtype=torch.bool)
        self.queries = 0

    def __len__(self) -> int:
        return len(self._labels)

    def start(self, per_class: int, generator: torch.Generator | None = None) -> Tensor:
        """Positions of ``per_class`` random samples of each class, whose labels are known from the start.

        Raises:
            ValueError: a class has fewer samples.
        """
        shuffled = torch.randperm(len(self), generator=generator)
        order = self._labels[shuffled]
        member = F.one_hot(order, self.num_classes)
        if (member.sum(0) < per_class).any():
            raise ValueError(f"initial_per_class is {per_class}, but classes have {member.sum(0).tolist()} samples.")
        first = shuffled[((member.cumsum(0) * member).sum(1) <= per_class)]
        first = first[self._labels[first].argsort(stable=True)]
        self.query(first)
        return first

    def query(self, index: Tensor) -> Tensor:
        """Buy the labels at these positions; each is counted once."""
        self.queries += int((~self.is_known[index]).sum())
        self.is_known[index] = True
        return self._labels[index]

    def __getitem__(self, index: Any) -> Tensor:
        """Labels that were bought.

        Raises:
            RuntimeError: one of them was not.
        """
        if not bool(self.is_known[index].all()):
            raise RuntimeError(f"a label was read that nobody asked for, at {index!r}: query() buys labels.")
        return self._labels[index]


class _Pool(Dataset[tuple[Tensor, ...]]):
    """Images with the labels that are known (-100 elsewhere) and their positions; a batch is one indexing."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.images[index], self.labels[index], torch.tensor(index)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        rows = torch.as_tensor(indices)
        return self.images[rows], self.labels[rows], rows


class _Mixed(Sampler[list[int]]):
    """Batches of labelled positions, drawn with replacement, and of unlabelled ones, each once before any comes again.

    Args:
        known: ``(N,)`` bool; steps: batches; sizes: labelled and unlabelled positions in each.
    """

    def __init__(self, known: Tensor, steps: int, sizes: tuple[int, int], seed: int) -> None:
        self.known, self.steps, self.sizes = known, steps, sizes
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        have, free = (part.nonzero().flatten() for part in (self.known, ~self.known))
        queue = free[:0]
        for _ in range(self.steps):
            drawn = have[torch.randint(len(have), (self.sizes[0],), generator=self.generator)]
            while len(free) and len(queue) < self.sizes[1]:
                queue = torch.cat([queue, free[torch.randperm(len(free), generator=self.generator)]])
            yield torch.cat([drawn, queue[: self.sizes[1]]]).tolist()
            queue = queue[self.sizes[1] :]


def _collate(batch: Any) -> Any:
    return batch if isinstance(batch, tuple) else default_collate(batch)


def mixed_loader(images: Tensor, labels: Tensor, *, steps: int, sizes: tuple[int, int], seed: int) -> DataLoader[Any]:
    """Batches ``(x, y, index)`` of labelled samples, drawn with replacement, and unlabelled ones, in turn.

    Args:
        images: ``(N, ...)``.
        labels: ``(N,)``, -100 for the unlabelled samples; at least one is known.
        steps: batches of one epoch.
        sizes: labelled and unlabelled samples in a batch (fewer, where there are not as many unlabelled ones).
        seed: of the order.

    Raises:
        ValueError: no known label.
    """
    known = labels != -100
    if not bool(known.any()):
        raise ValueError("labels must hold at least one that is known, all are -100.")
    batches = _Mixed(known, steps, sizes, seed)
    return DataLoader(_Pool(images, labels), batch_sampler=batches, collate_fn=_collate)


__all__ = ["LabelOracle", "mixed_loader"]
