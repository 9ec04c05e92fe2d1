"""Which samples a diagnosis looks at: drawn once, by class and by seed, and said so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from ..inputs import read_batch
from ..labels import known_labels
from ..tasks._draw import Draw, draw_rows

MIN_SAMPLES = 4
#: Of data that can only be read in their order so many times the limit is read (a loader may be sorted by class), but
#: no more than so many bytes of input.
AHEAD, AHEAD_BYTES = 16, 2**28


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The samples everything is measured on.

    Attributes:
        x: ``(N, ...)`` as the loader gives it. labels: ``(N,)`` or ``None``. index: ``(N,)`` positions in the data.
        batch_size: of the passes. words: how many of how many they are, and how they were drawn.
        notes: what the data say of themselves (files that could not be read).
    """

    x: Tensor
    labels: Tensor | None
    index: Tensor
    batch_size: int
    words: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    @property
    def batches(self) -> list[Tensor]:
        return list(self.x.split(self.batch_size))

    @property
    def is_image(self) -> bool:
        """Whether the input is ``(N, C, H, W)`` floating."""
        return self.x.ndim == 4 and self.x.is_floating_point()

    @property
    def mean(self) -> Tensor:
        """Mean colour ``(C, 1, 1)``: what covers and masks."""
        return self.x.mean((0, 2, 3))[:, None, None]

    def part(self, rows: slice) -> Sample:
        """Some of the samples; the first ones hold every class in its share, as the whole does."""
        return Sample(
            x=self.x[rows],
            labels=None if self.labels is None else self.labels[rows],
            index=self.index[rows],
            batch_size=self.batch_size,
            words=self.words,
        )


def draw(data: Any, *, limit: int, batch_size: int, seed: int, split: str = "test") -> tuple[Sample, tuple[str, ...]]:
    """A fixed part of ``data`` (which see :func:`kdcore.diagnose.diagnose`), every class with its share wherever the
    labels are at hand, and the class names it states.

    Args:
        split: of a task.

    Raises:
        ValueError: no samples, or labels that are not one class per sample. TypeError: not data.
    """
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    drawn: Draw | None = None
    if hasattr(data, "loader") and hasattr(data, "class_names"):  # a task
        names, notes = tuple(data.class_names), tuple(getattr(data, "notes", ()))
        drawn = data.draw(split, limit, seed=seed)
        source: Iterable[Any] = data.loader(split, batch_size=batch_size, shuffle=False, rows=drawn.rows, index=True)
    elif (found := _indexable(data)) is not None:
        dataset, collate = found
        drawn = draw_rows("given", len(dataset), limit, seed, _labels(dataset)) if len(dataset) else None
        source = _read(dataset, collate, drawn, batch_size) if drawn is not None else ()
    else:
        source = _ahead(data, AHEAD * limit)
    parts = [read_batch(raw) for raw in source]
    if not parts:
        raise ValueError("data gave no samples.")
    if not all(isinstance(p.x, Tensor) for p in parts):
        raise ValueError(
            "data must give tensors as model input (one per batch), got a "
            f"{type(parts[0].x).__name__}: wrap the two models so that each takes one tensor."
        )
    x = torch.cat([p.x for p in parts])
    labelled = [p.labels for p in parts if p.labels is not None]
    labels = torch.cat(labelled) if len(labelled) == len(parts) else None
    indexed = [p.index for p in parts if p.index is not None]
    index = torch.cat(indexed) if len(indexed) == len(parts) else torch.arange(len(x))
    words = "" if drawn is None else drawn.words.replace("given samples", "samples")
    if drawn is None:
        classes = labels.cpu().numpy() if labels is not None and labels.ndim == 1 else None
        part = draw_rows("first", len(x), limit, seed, classes)
        words = f"all {len(x):,} samples read" if len(part) == len(x) else part.words
        rows = torch.tensor(part.rows)
        x, index = x[rows], index[rows]
        labels = None if labels is None else labels[rows]
    if len(x) < MIN_SAMPLES:
        raise ValueError(
            f"data gave {len(x)} sample{'s' if len(x) > 1 else ''}: a diagnosis needs at least {MIN_SAMPLES} (unbiased "
            "CKA has no value for fewer), and a few hundred to say much."
        )
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        bad = index[~torch.isfinite(x.flatten(1)).all(1)].tolist()
        raise ValueError(f"data holds NaN or infinity, in samples {bad[:8]}.")
    order = dealt(labels, len(x), torch.Generator().manual_seed(seed))
    smallest = min(batch_size, max(4, len(x) // 4))
    return Sample(
        x=x[order],
        labels=None if labels is None else labels[order],
        index=index[order],
        batch_size=smallest,
        words=words,
        notes=notes,
    ), names


def dealt(labels: Tensor | None, size: int, generator: torch.Generator) -> Tensor:
    """A random order of the samples in which every class is spread evenly, so that any first part holds its share."""
    place = torch.rand(size, generator=generator, dtype=torch.float64)
    if labels is None or labels.ndim != 1:
        return place.argsort()
    for c in labels.unique():
        rows = (labels == c).nonzero().flatten().to(place.device)
        shuffled = torch.randperm(len(rows), generator=generator)
        place[rows] = (shuffled + place[rows]) / len(rows)
    return place.argsort()


def _indexable(data: Any) -> tuple[Any, Any] | None:
    """The map-style data set behind ``data`` and how its samples become a batch; ``None`` where it must be read in its
    own order.

    Raises:
        TypeError: not data.
    """
    if isinstance(data, tuple | list) and data and all(isinstance(d, Tensor) for d in data):
        data = torch.utils.data.TensorDataset(*data)
    if isinstance(data, DataLoader):
        plain = isinstance(data.sampler, SequentialSampler | RandomSampler) and data.batch_size is not None
        return (data.dataset, data.collate_fn) if plain and not isinstance(data.dataset, IterableDataset) else None
    if isinstance(data, Dataset) and hasattr(data, "__getitem__"):
        return data, default_collate
    if not isinstance(data, Iterable):
        raise TypeError(f"data must be a loader, a data set, a task or tensors (x, y), got {type(data).__name__}.")
    return None


def _labels(dataset: Any) -> np.ndarray | None:
    """One whole number per sample where the data set has them at hand."""
    found = known_labels(dataset)
    if found is None or found.ndim != 1 or len(found) != len(dataset) or found.is_floating_point():
        return None
    return found.cpu().numpy()


def _read(dataset: Any, collate: Any, drawn: Draw, batch_size: int) -> Iterator[Any]:
    for rows in torch.tensor(drawn.rows).split(batch_size):
        batch = read_batch(collate([dataset[i] for i in rows.tolist()]))
        yield (
            {"x": batch.x, "y": batch.labels, "index": rows}
            if batch.labels is not None
            else {"x": batch.x, "index": rows}
        )


def _ahead(loader: Iterable[Any], limit: int) -> Iterator[Any]:
    seen = size = 0
    for raw in loader:
        yield raw
        batch = read_batch(raw)
        seen += batch.size
        size += batch.x.nbytes if isinstance(batch.x, Tensor) else 0
        if seen >= limit or size >= AHEAD_BYTES:
            return


__all__ = ["MIN_SAMPLES", "Sample", "dealt", "draw"]
