"""What a cache is made of: a dataset read view by view, its fingerprint, and a transform in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .checkpoints import hash_tensor, preserved_rng, seed_everything, state_hash
from .inputs import GRAPH_KEYS, Batch, read_batch

_PROBES, _READS = 16, 3


class CacheError(RuntimeError):
    """The cache cannot be made or read: incomplete, damaged, or the data are not reproducible."""


class Source:
    """A dataset seen as ``views`` reproducible readings of each sample."""

    def __init__(self, dataset: Dataset, views: int, collate_fn: Callable[[list[Any]], Any] | None) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ValueError(
                f"a teacher cache needs a map-style dataset (its samples have positions), got {type(dataset).__name__}."
            )
        declared = getattr(dataset, "views", None)
        if views < 1 or (declared is not None and views > declared):
            raise ValueError(f"views must be >= 1 and at most what the dataset declares ({declared}), got {views}.")
        if not len(cast(Sized, dataset)):
            raise ValueError("the dataset is empty.")
        self.dataset, self.views, self.collate_fn, self.declared = dataset, views, collate_fn, declared is not None

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def batches(
        self, view: int, batch_size: int, num_workers: int = 0, positions: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """The samples of one view in order, with their positions as index."""
        order = list(range(len(self)) if positions is None else positions)
        items = [(i, view) for i in order] if self.declared else order
        loader = DataLoader(
            self.dataset, batch_size=batch_size, sampler=items, num_workers=num_workers, collate_fn=self.collate_fn
        )
        start = 0
        for raw in loader:
            batch = read_batch(raw, views=1 if self.declared else self.views)
            position = torch.tensor(order[start : start + batch.size])
            if batch.index is not None and not torch.equal(batch.index.long().cpu(), position):
                raise ValueError(
                    f"the dataset's own index must be the sample's position (the cache is keyed by it), "
                    f"got {batch.index.tolist()[:4]} at {position.tolist()[:4]}."
                )
            start += batch.size
            yield Batch(x=batch.x[view] if isinstance(batch.x, tuple) else batch.x, labels=batch.labels, index=position)

    def fingerprint(self) -> list[str]:
        """Hash per view of a few samples, each read several times under different seeds.

        Raises:
            CacheError: two readings differ.
        """
        n = len(self)
        probes = sorted({round(i * (n - 1) / max(1, _PROBES - 1)) for i in range(min(_PROBES, n))})
        with preserved_rng():
            return [self._view_hash(view, probes) for view in range(self.views)]

    def _view_hash(self, view: int, probes: list[int]) -> str:
        digests = []
        for seed in range(_READS):
            seed_everything(seed)
            digest = hashlib.sha256()
            for batch in self.batches(view, 1, positions=probes):
                for name, value in batch.x.items() if isinstance(batch.x, dict) else [("x", batch.x)]:
                    hash_tensor(digest, name, value)
            digests.append(digest.hexdigest())
        if len(set(digests)) > 1:
            raise CacheError(
                "the dataset gives different data when the same sample is read again (random augmentation): the cached "
                "teacher would answer for images that the student never sees. Declare reproducible views (an attribute "
                "'views' and dataset[index, view]), or train without a cache."
            )
        return digests[0]


def sample_marks(x: Any) -> Tensor:
    """A number per sample, ``(N,)`` int64, that another content almost surely changes; exact, on every device.

    The bits of a sample are added as whole numbers, once plainly and once weighted by position (every seventh).
    """
    if isinstance(x, Mapping):  # edges of a graph have no row per sample
        rows_of = [value for key, value in sorted(x.items()) if isinstance(value, Tensor) and key not in GRAPH_KEYS]
        parts = [sample_marks(value) for value in rows_of]
        return torch.stack([part * (2 * k + 1) for k, part in enumerate(parts)]).sum(0)
    rows = x.detach().reshape(len(x), -1)
    if rows.is_floating_point():
        rows = rows.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])
    some = rows[:, ::7].long()
    weights = torch.arange(1, some.shape[1] + 1, device=rows.device)
    return rows.sum(1, dtype=torch.int64) * 1_000_003 + (some * weights).sum(1)


def describe_transform(transform: Any) -> str:
    """What a transform does, as text: the state and form of a module, the code and defaults of a function."""
    if transform is None or isinstance(transform, nn.Identity):
        return "none"
    if isinstance(transform, nn.Module):
        digest = hashlib.sha256(f"{transform!r}{state_hash(transform)}".encode())
        for name, buffer in transform.named_buffers():
            hash_tensor(digest, name, buffer)
        return f"{type(transform).__qualname__} {digest.hexdigest()[:16]}"
    if isinstance(transform, partial):
        return f"partial({describe_transform(transform.func)}, {transform.args!r}, {transform.keywords!r})"
    code = getattr(transform, "__code__", None)
    if code is None:
        return f"{type(transform).__module__}.{type(transform).__qualname__} {transform!r}"
    closure = [cell.cell_contents for cell in transform.__closure__ or ()]
    body = repr(
        (
            code.co_code,
            [c for c in code.co_consts if not hasattr(c, "co_code")],
            code.co_names,
            transform.__defaults__,
            closure,
        )
    )
    return f"{transform.__module__}.{transform.__qualname__} {hashlib.sha256(body.encode()).hexdigest()[:16]}"
