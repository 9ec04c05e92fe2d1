"""What goes into the models: batches in any of the usual forms, sample indices, and each model's own normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from .functional.checks import describe

#: Keys of dicts, in the order in which they are looked for; image processors give ``pixel_values`` and ``labels``.
INPUT_KEYS = ("x", "image", "input", "pixel_values", "img", "images", "inputs")
LABEL_KEYS = ("y", "label", "labels", "target", "targets")
#: Entries of a graph that do not have one row per node (named as in PyTorch Geometric).
GRAPH_KEYS = ("edge_index", "edge_attr", "edge_weight", "adj", "ptr")


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel.

    Args:
        mean, std: one number per channel; ``std`` above zero.

    Shape:
        ``(N, C, ...)`` to the same, ``C`` the number of given means (or any, with a single one).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean) or not all(s > 0 for s in std):
            raise ValueError(
                f"mean and std must have the same length >= 1 and std > 0, got {tuple(mean)} and {tuple(std)}."
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or len(self.mean) not in (1, x.shape[1]):
            raise ValueError(f"x must be (N, {len(self.mean)}, ...) for this normalisation, got {describe(x)}.")
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - self.mean.to(x.dtype).view(shape)) / self.std.to(x.dtype).view(shape)

    def extra_repr(self) -> str:
        return f"mean={[round(v, 6) for v in self.mean.tolist()]}, std={[round(v, 6) for v in self.std.tolist()]}"


class Cast(nn.Module):
    """Floating input in another type; the rest as it is.

    Args:
        dtype: the type.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Any) -> Any:
        if isinstance(x, Mapping):
            return {key: self(value) for key, value in x.items()}
        return x.to(self.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    def extra_repr(self) -> str:
        return str(self.dtype)


def stated_normalization(model: nn.Module | None) -> nn.Module:
    """The normalisation a timm model was trained with, for images in ``[0, 1]``; identity where none is stated.

    Reads ``model.pretrained_cfg`` (or ``default_cfg``). A network whose first convolution takes another number of
    channels than the configuration lists (``in_chans=1``) gets the average over the listed channels.
    """
    cfg = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if cfg is not None and not isinstance(cfg, Mapping):
        cfg = vars(cfg)
    if model is None or not cfg or not cfg.get("mean") or not cfg.get("std"):
        return nn.Identity()
    mean, std = [float(v) for v in cfg["mean"]], [float(v) for v in cfg["std"]]
    first = cfg.get("first_conv")
    stem = dict(model.named_modules()).get(first if isinstance(first, str) else first[0]) if first else None
    channels = getattr(stem, "in_channels", len(mean))
    if channels != len(mean):
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    return Normalize(mean, std)


def input_normalization(model: nn.Module | None) -> nn.Module:
    """What comes before a model: :func:`stated_normalization`, then :func:`own_type`."""
    stated, cast = stated_normalization(model), own_type(model)
    if isinstance(cast, nn.Identity):
        return stated
    return cast if isinstance(stated, nn.Identity) else nn.Sequential(stated, cast)


def own_type(model: nn.Module | None) -> nn.Module:
    """A :class:`Cast` to the half precision of a model whose weights are all in it; identity for any other."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()} if model is not None else set()
    return Cast(next(iter(types))) if types in ({torch.float16}, {torch.bfloat16}) else nn.Identity()


@dataclass(kw_only=True)
class Batch:
    """One batch in one form.

    Attributes:
        x: model input: a tensor ``(N, ...)``, with several views a tuple of them, or a dict of tensors.
        labels: ``(N, ...)`` or ``None``; index: ``(N,)`` int64 sample ids or ``None``; view: ``(N,)`` or ``None``.
    """

    x: Any
    labels: Tensor | None = None
    index: Tensor | None = None
    view: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of samples ``N`` (views counted once)."""
        return len(_parts(self.x)[0])

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; the index stays on the CPU, where caches are read."""

        def move(value: Any) -> Any:
            return None if value is None else value.to(device, non_blocking=True)

        x = (
            tuple(map(move, self.x))
            if isinstance(self.x, tuple)
            else {k: move(v) if isinstance(v, Tensor) else v for k, v in self.x.items()}
            if isinstance(self.x, dict)
            else move(self.x)
        )
        return Batch(x=x, labels=move(self.labels), index=self.index, view=self.view)

    def joined(self) -> tuple[Any, Tensor | None, Tensor | None]:
        """Model input, labels and view number with the views of a tuple stacked below each other."""
        if not isinstance(self.x, tuple):
            return self.x, self.labels, self.view
        views = len(self.x)
        view = torch.arange(views, device=self.x[0].device).repeat_interleave(self.size)
        labels = None if self.labels is None else self.labels.repeat(views, *[1] * (self.labels.ndim - 1))
        return torch.cat(self.x), labels, view


def read_batch(raw: Any, *, views: int = 1) -> Batch:
    """Bring what a loader gives into one form.

    Accepted: ``(x,)``, ``(x, y)``, ``(x, y, index)``, ``(x, y, index, view)``, a tensor ``x``, or a dict with one of
    :data:`INPUT_KEYS`, one of :data:`LABEL_KEYS`, ``index`` and ``view``.
    A dict without an input key is passed to the model as one dict argument, less labels, index and view; so is a graph,
    a dict with one of ``edge_index``, ``edge_attr``, ``edge_weight``, ``adj``, ``ptr``, whose samples are its nodes.

    Args:
        raw: the loader's batch.
        views: with more than one, ``x`` must be a tuple or list of that many tensors of one shape.

    Raises:
        ValueError: any other form, sizes that disagree, or an input that is NaN or infinite (the position is named).
    """
    if isinstance(raw, Batch):
        batch = raw
    elif isinstance(raw, IndexedBatch):
        batch = read_batch(raw.batch, views=views)
        batch.index, batch.view = raw.position, raw.view
    elif isinstance(raw, Mapping):
        batch = _read_mapping(raw)
    elif isinstance(raw, Tensor):
        batch = Batch(x=raw)
    elif isinstance(raw, tuple | list) and 1 <= len(raw) <= 4:
        batch = Batch(**dict(zip(("x", "labels", "index", "view"), raw, strict=False)))
    else:
        raise ValueError(
            f"a batch must be (x, y), (x, y, index) or a dict with the keys x (or {', '.join(INPUT_KEYS[1:])}), y (or "
            f"{', '.join(LABEL_KEYS[1:])}) and index, got {_shape_of(raw)}."
        )
    return _checked(batch, views)


def _read_mapping(raw: Mapping[str, Any]) -> Batch:
    label = next((k for k in LABEL_KEYS if k in raw), None)
    source = next((k for k in INPUT_KEYS if k in raw), None)
    rest = {k: v for k, v in raw.items() if k not in (label, "index", "view")}
    graph = any(k in raw for k in GRAPH_KEYS)
    return Batch(
        x=raw[source] if source and not graph else rest,
        labels=raw[label] if label else None,
        index=raw.get("index"),
        view=raw.get("view"),
    )


def _checked(batch: Batch, views: int) -> Batch:
    if isinstance(batch.x, list):
        batch.x = tuple(batch.x)
    parts = _parts(batch.x)
    if not parts or not all(isinstance(p, Tensor) and p.ndim for p in parts):
        raise ValueError(f"the batch's x must be a tensor, got {_shape_of(batch.x)}.")
    if isinstance(batch.x, tuple) != (views > 1) or (views > 1 and len(parts) != views):
        raise ValueError(
            f"the batch's x must be {f'a tuple of {views} views' if views > 1 else 'one tensor'}, "
            f"got {_shape_of(batch.x)}."
        )
    n = len(parts[0])
    for name, value in (("y", batch.labels), ("index", batch.index), ("view", batch.view), *(("x", p) for p in parts)):
        if value is not None and (not isinstance(value, Tensor) or not value.ndim or len(value) != n):
            raise ValueError(f"the batch's {name} must be a tensor with {n} entries like x, got {_shape_of(value)}.")
    if not n:
        raise ValueError("the batch is empty.")
    return batch


def check_finite(batch: Batch, where: str) -> None:
    """Raise ``ValueError`` naming the samples if the input holds NaN or infinity."""
    for part in _parts(batch.x):
        if not part.is_floating_point() or torch.isfinite(part.sum()):
            continue
        bad = (~torch.isfinite(part.flatten(1) if part.ndim > 1 else part[:, None])).any(1).nonzero().flatten()
        if len(bad):
            ids = f" (sample indices {batch.index[bad.cpu()].tolist()[:8]})" if batch.index is not None else ""
            raise ValueError(f"NaN or infinity in the input of {where}, at positions {bad.tolist()[:8]}{ids}.")


def _parts(x: Any) -> tuple[Any, ...]:
    """The tensors with one row per sample in a model input: views, entries of a dict, or the one tensor."""
    if isinstance(x, Mapping):
        return tuple(v for k, v in x.items() if isinstance(v, Tensor) and k not in GRAPH_KEYS)
    return x if isinstance(x, tuple) else (x,)


def _shape_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return describe(value)
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(repr, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: ({', '.join(_shape_of(v) for v in list(value)[:5])})"
    return f"{type(value).__name__} {value!r}"[:120]


class IndexedBatch(NamedTuple):
    """What a loader made by :func:`with_index` gives: the usual batch, and where its samples stand in the dataset."""

    batch: Any
    position: Tensor
    view: Tensor | None


class Indexed(Dataset):
    """A map-style dataset whose samples say their position.

    An item is a position, or ``(position, view)`` for a dataset that declares reproducible views (see
    :mod:`kdcore.cache`); a sampler may yield either.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, item: Any) -> tuple[Any, int, int | None]:
        index, view = item if isinstance(item, tuple) else (item, None)
        return self.dataset[item], int(index), None if view is None else int(view)


class _Collate:
    """Collates the samples as the loader would, and the positions beside them."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[Any, int, int | None]]) -> IndexedBatch:
        samples, index, view = zip(*items, strict=True)
        views = None if view[0] is None else torch.tensor(view)
        return IndexedBatch(self.collate(list(samples)), torch.tensor(index), views)


class Paired:
    """Two streams side by side: every batch of ``main`` with the next one of ``other``, which begins anew at its end.

    Args:
        main: a loader; its length is the length of the pair.
        other: a loader with at least one batch.
    """

    def __init__(self, main: Iterable[Any], other: Iterable[Any]) -> None:
        self.parts = (main, other)

    def __len__(self) -> int:
        return len(self.parts[0])  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        main, other = self.parts
        beside = iter(other)
        for batch in main:
            partner = next(beside, None)
            if partner is None:
                beside = iter(other)
                partner = next(beside, None)
            if partner is None:
                raise ValueError("the second stream of a pair is empty: it must give at least one batch.")
            yield batch, partner


def rebuild_loader(
    loader: DataLoader, *, index: bool = False, sampler: Sampler | None = None, persistent_workers: bool | None = None
) -> DataLoader:
    """The same loader with sample positions added, another sampler, or workers that start afresh each epoch.

    Raises:
        ValueError: positions asked of an iterable dataset or of a loader that does not batch.
    """
    if index and (isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__getitem__")):
        raise ValueError(
            "sample indices are needed, but the dataset is iterable and its samples have no position: use "
            "a map-style dataset, or give batches (x, y, index)."
        )
    if loader.batch_sampler is None:
        raise ValueError("the loader has batch_size=None: let it make batches (batch_size or batch_sampler).")
    keep = loader.persistent_workers if persistent_workers is None else persistent_workers
    collate = loader.collate_fn or default_collate
    batching: dict[str, Any] = (
        {"batch_sampler": loader.batch_sampler}
        if sampler is None
        else {"batch_size": loader.batch_size, "drop_last": loader.drop_last, "sampler": sampler}
    )
    if isinstance(loader.dataset, IterableDataset):
        batching = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    return DataLoader(
        Indexed(loader.dataset) if index else loader.dataset,
        **batching,
        collate_fn=_Collate(collate) if index else collate,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=keep,
    )


__all__ = [
    "Batch",
    "Cast",
    "Indexed",
    "IndexedBatch",
    "Normalize",
    "Paired",
    "check_finite",
    "input_normalization",
    "own_type",
    "read_batch",
    "rebuild_loader",
    "stated_normalization",
]
