"""Weights that are trained once and kept (reference teachers): the file is named by the hash of what made it."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints import CheckpointError, load_weights, save_weights, state_hash
from ..files import write_atomic
from ..functional.checks import describe
from ._folders import cache_folder

#: Raised whenever the way reference teachers are trained changes: older files are then not found any more.
RECIPE_VERSION = 1

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Used:
    """Kept weights that this process used: what their training took, and whether it was spared that."""

    label: str
    cpu_seconds: float
    cached: bool


#: What a process's first training imports: seconds that belong to no teacher.
_IMPORTED_BY_TRAINING = ("lightning.fabric", "torch._dynamo")
#: By file; a run that reads a teacher has not paid for it, and says so.
USED: dict[Path, Used] = {}


def cached_weights(
    label: str,
    made_of: Mapping[str, Any],
    *,
    fresh: Callable[[], nn.Module],
    train: Callable[[nn.Module], nn.Module],
) -> nn.Module:
    """A trained network: read from the cache in milliseconds, or trained once while other processes wait.

    A file that does not hold the weights its note describes is never used: it is named in a warning and made again. A
    cache folder that cannot be written to costs a warning and the training time, not the run.

    Args:
        label: begins the file's name.
        made_of: everything that makes the weights, as plain values (the architecture is added); their hash ends the
            name.
        fresh: makes the untrained network, the same one at every call.
        train: trains it.
    """
    model = fresh()
    shapes = {key: describe(value) for key, value in model.state_dict().items()}
    architecture = hashlib.sha256(f"{model}{shapes}".encode()).hexdigest()
    noted = {"version": RECIPE_VERSION, **made_of, "architecture": architecture}
    key = hashlib.sha256(json.dumps(noted, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "teachers" / f"{label}-{key[:20]}.safetensors"
    if _read(model, path):
        return model.eval()
    try:
        from filelock import FileLock

        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        warnings.warn(
            f"the teacher cannot be kept in {path.parent} ({error}): it is trained again next time. "
            "KDCORE_CACHE names another folder.",
            stacklevel=3,
        )
        return train(model)
    try:
        if _read(model, path):  # another process made it while this one waited
            return model.eval()
        for name in _IMPORTED_BY_TRAINING:
            import_module(name)
        started, computed = time.perf_counter(), time.process_time()
        model = train(fresh())
        USED[path] = Used(path.stem, round(time.process_time() - computed, 3), cached=False)
        _keep(model, path, noted, time.perf_counter() - started)
    finally:
        lock.release()
    return model


def _read(model: nn.Module, path: Path) -> bool:
    """Load ``path`` into ``model`` if it is there and whole; warn and answer no if it is damaged."""
    note = path.with_suffix(".json")
    if not note.exists():
        return False
    try:
        load_weights(model, path)
        written = json.loads(note.read_text(encoding="utf-8"))
        if state_hash(model) == written["state_hash"]:
            took = written.get("cpu_seconds", written["seconds"])  # files of older versions have the time on the wall
            USED.setdefault(path, Used(path.stem, took, cached=True))
            return True
        problem = "its weights are not those that were written"
    except (OSError, CheckpointError, ValueError, KeyError, RuntimeError) as error:
        problem = str(error)
    warnings.warn(f"the cached teacher {path} is damaged ({problem}); it is trained again.", stacklevel=4)
    return False


def _keep(model: nn.Module, path: Path, made_of: dict[str, Any], seconds: float) -> None:
    """Weights first, then the note that makes them valid; each file appears whole or not at all."""
    note = {
        "made_of": made_of,
        "state_hash": state_hash(model),
        "seconds": round(seconds, 3),
        "cpu_seconds": USED[path].cpu_seconds,
        "torch": torch.__version__,
    }
    try:
        path.with_suffix(".json").unlink(missing_ok=True)
        save_weights(model, path)
        write_atomic(path.with_suffix(".json"), json.dumps(note, indent=1))
    except (OSError, CheckpointError) as error:
        warnings.warn(
            f"the teacher is not kept: {error} It is trained again next time. KDCORE_CACHE names another folder.",
            stacklevel=4,
        )
