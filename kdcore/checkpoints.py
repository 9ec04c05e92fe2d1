"""What is written to disk survives a crash: checksummed checkpoints; and random states. Weights: :mod:`kdcore.weights`.

A checkpoint file is one line ``KDCKPT1 <sha256 of the rest>`` followed by what :func:`torch.save` wrote. It is read
with ``weights_only=True``: a checkpoint holds tensors, numbers, strings, lists and dicts, never code.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from .files import as_path
from .weights import CheckpointError, load_weights, read_weights, save_weights, write_checked

_MAGIC = b"KDCKPT1 "
_PATTERN = "step-*.ckpt"


def check_writable(folder: str | Path) -> None:
    """Raise :class:`CheckpointError` unless files can be written in ``folder`` (created if missing)."""
    folder = as_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise CheckpointError(
            f"cannot write in folder {folder}: {error.strerror or error}. Free space or choose a writable folder.",
            folder,
        ) from error


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Checkpoint files of a folder, newest step first; a missing folder has none."""
    found = (path for path in as_path(folder).glob(_PATTERN) if path.is_file())  # no folders, no dangling links
    return sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1


def save_checkpoint(folder: str | Path, state: Mapping[str, Any], *, step: int, keep: int = 2) -> Path:
    """Write ``step-<step>.ckpt`` atomically and drop all but the newest ``keep`` checkpoints.

    Args:
        folder: where checkpoints live; created when missing.
        state: tensors, numbers, strings, lists, tuples and dicts (what ``weights_only`` can read back).
        step: optimizer steps done; names the file. Saving a step again replaces it.
        keep: how many checkpoints stay, at least 1.

    Raises:
        CheckpointError: the folder cannot be written; older checkpoints are untouched.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep!r}.")
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getbuffer()
    header = _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n"

    def write(file: BinaryIO) -> None:
        file.write(header)
        file.write(payload)

    folder = as_path(folder)
    path = write_checked(folder / f"step-{step:09d}.ckpt", write)
    older = [p for p in list_checkpoints(folder) if p != path]
    for stale in [*older[keep - 1 :], *folder.glob(f".{_PATTERN}.*.tmp")]:
        stale.unlink(missing_ok=True)
    return path


def load_checkpoint(source: str | Path, *, fall_back: bool = False) -> dict[str, Any]:
    """Read a checkpoint (on the CPU) after verifying its checksum.

    Args:
        source: a checkpoint file, or a folder, whose newest checkpoint is meant.
        fall_back: with a damaged file, go on with the newest intact older one and warn, naming both.

    Raises:
        CheckpointError: nothing there, or the file is truncated or altered; ``error.previous`` is the newest intact
            older checkpoint, which the message offers.
    """
    path = newest_checkpoint(source)
    try:
        return _read(path)
    except CheckpointError as error:
        if not (fall_back and error.previous):
            raise
        warnings.warn(f"{error} Going on from {error.previous}.", stacklevel=2)
        return _read(error.previous)


def newest_checkpoint(source: str | Path) -> Path:
    """``source`` itself if it is a file, the newest checkpoint if it is a folder; else :class:`CheckpointError`."""
    source = as_path(source)
    if source.is_file():
        return source
    found = list_checkpoints(source)
    if not found:
        raise CheckpointError(f"there is no checkpoint at {source}.", source)
    return found[0]


def _read(path: Path) -> dict[str, Any]:
    payload = _verified(path)
    if payload is None:
        previous = next(
            (p for p in list_checkpoints(path.parent) if _step_of(p) < _step_of(path) and _verified(p) is not None),
            None,
        )
        offer = f"The newest intact one before it is {previous}." if previous else "No intact older one is beside it."
        raise CheckpointError(
            f"{path} is damaged (truncated, altered, or no kdcore checkpoint): its content does not "
            f"match its checksum. {offer}",
            path,
            previous,
        )
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values: it is not read.", path) from error


def _verified(path: Path) -> bytes | None:
    """The payload of a checkpoint file, or ``None`` if the checksum does not fit; CheckpointError: not to be read."""
    try:
        header, _, payload = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.", path) from error
    return payload if header == _MAGIC + hashlib.sha256(payload).hexdigest().encode() else None


# Hashes ---------------------------------------------------------------------------------------------------------------


def state_hash(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all parameters and buffers (device does not matter)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        hash_tensor(digest, name, tensor)
    return digest.hexdigest()


def hash_tensor(digest: Any, name: str, tensor: Any) -> None:
    """Feed one named tensor into a running ``hashlib`` digest; other values (extra state) by their text."""
    if not isinstance(tensor, Tensor):
        digest.update(f"{name}|{tensor!r}|".encode())
        return
    digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


# Random states -------------------------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's (global) and torch's generators on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (augmentations draw from the global state)
    torch.manual_seed(seed)


def capture_rng(*generators: torch.Generator | None) -> dict[str, Any]:
    """The state of every global random generator, and of ``generators``, as something a checkpoint can hold."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64).copy()), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "generators": [g.get_state() if g is not None else None for g in generators],
    }


def restore_rng(state: Mapping[str, Any], *generators: torch.Generator | None) -> None:
    """Undo everything drawn since :func:`capture_rng` gave ``state`` (with the same generators in the same order)."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    for generator, saved in zip(generators, state["generators"], strict=True):
        if generator is not None and saved is not None:
            generator.set_state(saved)


#: Held while somebody draws from the global random states for a purpose of his own: threads share those states.
_DRAWING = threading.RLock()
_WAITING: set[int] = set()


@contextmanager
def _drawing() -> Iterator[None]:
    if not _DRAWING.acquire(blocking=False):
        _WAITING.add(threading.get_ident())
        try:
            _DRAWING.acquire()
        finally:
            _WAITING.discard(threading.get_ident())
    try:
        yield
    finally:
        _DRAWING.release()


def others_wait() -> bool:
    """Whether another thread waits for its turn to draw."""
    return bool(_WAITING)


@contextmanager
def preserved_rng(*generators: torch.Generator | None) -> Iterator[None]:
    """What is drawn inside leaves no trace: validation, a sample batch, building a cache do not change the training.

    Threads take turns, so that a training beside it is not disturbed.
    """
    with _drawing():
        state = capture_rng(*generators)
        try:
            yield
        finally:
            restore_rng(state, *generators)


class OwnRandomStates:
    """Global random states of one run, apart from those of the caller and of other runs.

    ``with own():`` puts them in place of the current ones, and takes them out afterwards; what the caller draws between
    is his own, and neither he nor another thread's run changes what this one draws.
    """

    def __init__(self) -> None:
        self._own: tuple[Any, ...] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with _drawing():
            theirs = _states()
            if self._own is not None:
                _put(self._own)
            try:
                yield
            finally:
                self._own = _states()
                _put(theirs)


def _states() -> tuple[Any, ...]:
    """As :func:`capture_rng`, in the libraries' own form: this is done at every step."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002


def _put(states: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


__all__ = [
    "CheckpointError",
    "OwnRandomStates",
    "capture_rng",
    "check_writable",
    "hash_tensor",
    "list_checkpoints",
    "load_checkpoint",
    "load_weights",
    "newest_checkpoint",
    "others_wait",
    "preserved_rng",
    "read_weights",
    "restore_rng",
    "save_checkpoint",
    "save_weights",
    "seed_everything",
    "state_hash",
    "write_checked",
]
