"""Teacher outputs computed once: one memory-mapped file per output and view, and a manifest that says whose they are.

A cache belongs to one teacher (hash of its weights), one input transform, one set of taps, one number type and one
dataset (length and the bytes of a few samples at once, every sample when it is used). Anything else is refused: nothing
is recomputed or transformed behind the reader's back. One process builds at a time, others wait and read. The manifest,
with a hash of every file, is written last and atomically, so a cache whose making was interrupted does not exist.

Views. An augmented sample has as many cached outputs as it has views. A dataset declares reproducible views by an
attribute ``views`` (their number) and by serving ``dataset[index, view]`` (a sampler may yield such pairs); a
deterministic dataset may instead give ``x`` as a tuple with one tensor per view. A dataset whose samples change from
read to read and that declares no views cannot be cached: the teacher would answer for images that the student never
sees.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.data import Dataset

from ._cache_source import CacheError, Source, describe_transform, sample_marks
from .checkpoints import check_writable, preserved_rng, state_hash, write_checked
from .files import as_path
from .functional.checks import describe
from .inputs import Batch, check_finite
from .taps import Taps, evaluating, resolve_names

_FORMAT = 2
_DTYPES: dict[torch.dtype, Any] = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: np.int16,
}
_LOGITS = ":logits"  # no tap can be called that
_MARKS = "marks.npy"  # of the samples that the teacher saw


class StaleCacheError(CacheError):
    """The cache was made by another teacher, transform, set of taps, number type or dataset."""


class TeacherCache:
    """Logits and tapped features of a teacher for every sample and view of a dataset.

    Args:
        folder: where the files live; made by :meth:`build`.
        dtype: number type on disk. ``float32`` keeps a training's loss curve bit for bit; ``float16``/``bfloat16``
            halve the space.

    Example:
        >>> cache = TeacherCache("digits-teacher").build(teacher, dataset, taps=["layer3"])   # doctest: +SKIP
        >>> logits, features = cache.read(torch.tensor([3, 14, 15]))                          # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype!r}.")
        self.folder, self.dtype = as_path(folder), dtype
        self._manifest: dict[str, Any] | None = None
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    @property
    def complete(self) -> bool:
        """Whether a whole cache is there (its making was not interrupted)."""
        return self._manifest_path.is_file()

    @property
    def manifest(self) -> dict[str, Any]:
        """What the cache holds and whose it is.

        Raises:
            CacheError: nothing there, an interrupted build, or damaged files.
        """
        if self._manifest is None:
            if not self.complete:
                raise CacheError(
                    f"there is no complete teacher cache in {self.folder}: build() makes it (an "
                    "interrupted build is made again from the start)."
                )
            self._manifest = self._load_manifest()
        return self._manifest

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the cached features (a module called several times has several, see :mod:`kdcore.taps`)."""
        return tuple(name for name in self.manifest["outputs"] if name != _LOGITS)

    @property
    def views(self) -> int:
        """Number of cached views per sample."""
        return int(self.manifest["key"]["views"])

    def __len__(self) -> int:
        return int(self.manifest["key"]["samples"])

    def build(
        self,
        teacher: nn.Module,
        dataset: Dataset,
        taps: Sequence[str] = (),
        views: int = 1,
        *,
        batch_size: int = 128,
        transform: Callable[[Any], Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        device: torch.device | str | None = None,
        overwrite: bool = False,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> TeacherCache:
        """Run the teacher once per sample and view, unless that has been done already.

        Args:
            teacher: put in eval mode for the time of the build; float32 outputs are bit-equal to those of a training
                that uses the same batch size, up to what the hardware's kernels make of another batch composition.
            dataset: map-style; samples as :func:`kdcore.inputs.read_batch` accepts them.
            taps: layer names (see :mod:`kdcore.taps`) whose outputs are kept beside the logits.
            views: how many views of each sample.
            transform: applied to ``x`` before the teacher (its normalisation); part of the key.
            device: where the teacher runs; default: where it is.
            overwrite: replace a stale cache instead of refusing it.
            on_batch: called with (samples done, samples to do), for progress bars.

        Returns:
            ``self``, complete.

        Raises:
            StaleCacheError: the folder holds a cache of something else, and what differs.
            CacheError: random samples without declared views, teacher outputs that are not finite, a disk that has no
                room for them.
            CheckpointError: a folder that cannot be written.
            ValueError: an iterable dataset, an empty one, or fewer declared views than asked for.
        """
        source = Source(dataset, views, collate_fn)
        names = resolve_names(teacher, taps) if taps else []
        key = self._key(teacher, source, names, transform)
        if self.complete and not overwrite:
            self._refuse_stale(key)
            return self
        check_writable(self.folder)
        # Random states before the folder: whoever waits for the folder holds nothing that its builder needs.
        with preserved_rng(), FileLock(self.folder / ".lock", thread_local=False):
            if self.complete and not overwrite:  # another process has made it in the meantime
                self._refuse_stale(key)
                return self
            self._drop()
            outputs = self._fill(teacher, source, names, batch_size, transform, num_workers, device, on_batch)
            self._publish(key, outputs)
        return self

    def validate(
        self,
        teacher: nn.Module,
        dataset: Dataset,
        taps: Sequence[str] = (),
        views: int = 1,
        *,
        transform: Callable[[Any], Any] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        """Raise :class:`StaleCacheError` naming what differs unless the cache answers for exactly these arguments.

        A cache with more taps or views than asked for will do.
        """
        names = resolve_names(teacher, taps) if taps else []
        self._refuse_stale(self._key(teacher, Source(dataset, views, collate_fn), names, transform))

    def read(self, index: Tensor | Sequence[int], view: int | Tensor = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Teacher outputs of one batch, copied out of the memory maps.

        Args:
            index: ``(N,)`` positions in the dataset.
            view: one view for all, or ``(N,)``.

        Returns:
            logits ``(N, ...)`` and features by tap name; half types come back as float32.

        Raises:
            IndexError: a position or view that is not there.
        """
        rows, wanted = _integers(index), _integers(view)
        if rows.ndim != 1 or (rows.size and (rows.min() < 0 or rows.max() >= len(self))):
            raise IndexError(f"index must be (N,) positions in [0, {len(self)}), got {rows.tolist()[:8]} ...")
        wanted = np.broadcast_to(wanted, rows.shape)
        if rows.size and (wanted.min() < 0 or wanted.max() >= self.views):
            raise IndexError(f"view must be in [0, {self.views}), got {wanted.tolist()[:8]}: build with more views.")
        features = {name: self._gather(name, rows, wanted) for name in self.taps}
        return self._gather(_LOGITS, rows, wanted), features

    # How it is made ---------------------------------------------------------------------------------------------------

    def _key(self, teacher: nn.Module, source: Source, taps: Sequence[str], transform: Any) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "teacher": type(teacher).__qualname__,
            "weights": state_hash(teacher),
            "taps": list(taps),
            "views": source.views,
            "dtype": str(self.dtype).removeprefix("torch."),
            "transform": describe_transform(transform),
            "samples": len(source),
            "data": source.fingerprint(),
        }

    def _refuse_stale(self, key: dict[str, Any]) -> None:
        have, differs = self.manifest["key"], []
        for name, wanted in key.items():
            fits = (
                set(wanted) <= set(have[name])
                if name == "taps"
                else wanted <= have[name]
                if name == "views"
                else _same_data(wanted, have[name])
                if name == "data"
                else wanted == have[name]
            )
            if not fits:
                differs.append(f"{name} (cached {_short(have[name])}, now {_short(wanted)})")
        if differs:
            raise StaleCacheError(
                f"the teacher cache in {self.folder} is stale: it differs in {', '.join(differs)}. "
                "Use another folder, or build(..., overwrite=True)."
            )

    def _fill(
        self,
        teacher: nn.Module,
        source: Source,
        taps: list[str],
        batch_size: int,
        transform: Any,
        num_workers: int,
        device: Any,
        on_batch: Any,
    ) -> dict[str, dict[str, Any]]:
        """Write all files; returns what each output is."""
        device = torch.device(device) if device is not None else _device_of(teacher)
        outputs: dict[str, dict[str, Any]] = {}
        marks = np.zeros((source.views, len(source)), dtype=np.int64)
        done, total = 0, len(source) * source.views
        with preserved_rng(), evaluating(teacher), torch.no_grad(), ExitStack() as stack:
            teacher.to(device)
            tapped = stack.enter_context(Taps(teacher, taps)) if taps else None
            for view in range(source.views):
                maps: dict[str, np.memmap] = {}
                for batch in source.batches(view, batch_size, num_workers):
                    check_finite(batch, "the teacher cache")
                    x = batch.to(device).x
                    if tapped is not None:
                        tapped.clear()
                    values = {_LOGITS: teacher(transform(x) if transform is not None else x)}
                    if tapped is not None:
                        values |= tapped.features
                    self._write(maps, outputs, view, batch, values, len(source))
                    marks[view, cast(Tensor, batch.index).numpy()] = sample_marks(x).cpu().numpy()
                    done += batch.size
                    if on_batch is not None:
                        on_batch(done, total)
                for file in maps.values():
                    file.flush()
        with open(self.folder / _MARKS, "wb") as opened:
            np.save(opened, marks)
        return outputs

    def _write(
        self,
        maps: dict[str, np.memmap],
        outputs: dict[str, dict[str, Any]],
        view: int,
        batch: Batch,
        values: dict[str, Tensor],
        samples: int,
    ) -> None:
        for number, (name, value) in enumerate(values.items()):
            if not isinstance(value, Tensor) or value.shape[:1] != (batch.size,):
                raise CacheError(
                    f"the teacher's {name} must be a tensor with one row per sample ({batch.size}), "
                    f"got {describe(value)}."
                )
            if not torch.isfinite(value).all():
                raise CacheError(
                    f"the teacher's {name} is NaN or infinite for some of the samples "
                    f"{cast(Tensor, batch.index).tolist()[:8]}: it is not cached."
                )
            shape = [samples, *value.shape[1:]]
            entry = outputs.setdefault(name, {"file": f"tap{number}" if number else "logits", "shape": shape})
            if name not in maps:
                maps[name] = _new_map(self._file(entry, view), tuple(entry["shape"]), _DTYPES[self.dtype])
            if entry["shape"] != shape:
                raise CacheError(
                    f"the teacher's {name} changes its shape from {entry['shape'][1:]} to {shape[1:]} "
                    "between batches: it cannot be cached."
                )
            stored = value.detach().to("cpu", self.dtype)
            maps[name][cast(Tensor, batch.index).numpy()] = (
                stored.view(torch.int16) if self.dtype is torch.bfloat16 else stored
            ).numpy()

    def _publish(self, key: dict[str, Any], outputs: dict[str, dict[str, Any]]) -> None:
        files = [self._file(o, v) for o in outputs.values() for v in range(key["views"])] + [self.folder / _MARKS]
        manifest = {
            "key": key,
            "outputs": outputs,
            "bytes": {file.name: file.stat().st_size for file in files},
            "sha256": {file.name: _digest(file) for file in files},
        }
        write_checked(self._manifest_path, json.dumps(manifest, indent=1))
        self._manifest = manifest

    # How it is read ---------------------------------------------------------------------------------------------------

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def _file(self, entry: dict[str, Any], view: int) -> Path:
        return self.folder / f"{entry['file']}.view{view}.npy"

    def _load_manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads(self._manifest_path.read_text())
            sizes = manifest["bytes"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise CacheError(
                f"{self._manifest_path} is damaged ({error}): build(..., overwrite=True) makes the cache again."
            ) from error
        for name, size in sizes.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise CacheError(f"{path} is missing or truncated: build(..., overwrite=True) makes the cache again.")
        return manifest

    def _gather(self, name: str, rows: np.ndarray, view: np.ndarray) -> Tensor:
        found = np.unique(view)
        if len(found) <= 1:
            out = self._map(name, int(found[0]) if len(found) else 0)[rows]
        else:
            out = np.empty((len(rows), *self.manifest["outputs"][name]["shape"][1:]), dtype=self._map(name, 0).dtype)
            for v in found:
                out[view == v] = self._map(name, int(v))[rows[view == v]]
        tensor = torch.from_numpy(np.ascontiguousarray(out))
        if self.manifest["key"]["dtype"] == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor

    def _map(self, name: str, view: int) -> np.ndarray:
        if (name, view) not in self._maps:
            self._maps[name, view] = self._opened(self._file(self.manifest["outputs"][name], view))
        return self._maps[name, view]

    def _opened(self, path: Path) -> np.ndarray:
        """A file of the cache, mapped once its content is known to be what was written."""
        known = self.manifest.get("sha256", {}).get(path.name)
        try:
            if known is None or _digest(path) != known:
                raise CacheError(f"{path} is damaged or of another build: build(..., overwrite=True) makes it again.")
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CacheError(f"{path} cannot be read ({error}): build(..., overwrite=True) makes it again.") from error

    def check_samples(self, index: Tensor, x: Any, view: int | Tensor = 0) -> None:
        """Refuse samples that are not those the teacher answered for.

        Args:
            index: ``(N,)`` positions; x: the batch's input, ``(N, ...)`` or a dict; view: one for all, or ``(N,)``.

        Raises:
            StaleCacheError: the data set has changed since; the first positions are named.
        """
        if (_MARKS, 0) not in self._maps:
            self._maps[_MARKS, 0] = self._opened(self.folder / _MARKS)
        kept = self._maps[_MARKS, 0][_integers(view), _integers(index)]
        changed = np.flatnonzero(kept != sample_marks(x).cpu().numpy())
        if len(changed):
            raise StaleCacheError(
                f"the data set has changed since the teacher cache in {self.folder} was made: {len(changed)} of "
                f"{len(kept)} samples of this batch are others, e.g. at positions "
                f"{_integers(index)[changed][:5].tolist()}. Use another folder, or build(..., overwrite=True)."
            )

    def _drop(self) -> None:
        """Remove what an earlier build left; the manifest first, so that nothing half-removed reads as whole."""
        self._manifest = None
        self._maps.clear()
        self._manifest_path.unlink(missing_ok=True)
        for file in [*self.folder.glob("*.view*.npy"), self.folder / _MARKS]:
            file.unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def __repr__(self) -> str:
        if not self.complete:
            return f"TeacherCache({str(self.folder)!r}, not built)"
        size = sum(self.manifest["bytes"].values()) / 2**20
        return (
            f"TeacherCache({str(self.folder)!r}, {len(self)} samples x {self.views} views, logits"
            f"{''.join(f' + {t}' for t in self.taps)}, {self.manifest['key']['dtype']}, {size:.1f} MiB)"
        )


def _new_map(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """A file of that shape with all its bytes reserved: writing to a map on a full disk would kill the process."""
    try:
        created = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(path, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        path.unlink(missing_ok=True)
        raise CacheError(
            f"cannot reserve {size / 2**20:.3g} MiB for {path}: {error.strerror or error}. Free space, "
            "cache fewer taps, or use dtype=torch.float16."
        ) from error
    return created


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _integers(value: Tensor | Sequence[int] | int) -> np.ndarray:
    return np.asarray(value.cpu() if isinstance(value, Tensor) else value, dtype=np.int64)


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def _same_data(wanted: list[str], have: list[str]) -> bool:
    return wanted == have[: len(wanted)]


def _short(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{v[:12]}..." if isinstance(v, str) and len(v) == 64 else str(v) for v in values) or "none"


__all__ = ["CacheError", "StaleCacheError", "TeacherCache"]
