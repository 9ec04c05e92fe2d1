"""Reference teachers, trained once and kept: the name of the file is the hash of what made it."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..checkpoints import CheckpointError, load_weights, preserved_rng, save_weights, state_hash
from ..files import write_atomic
from ..functional.checks import describe
from ._folders import cache_folder

if TYPE_CHECKING:
    from ._models import ModelSpec
    from ._task import Task

#: Raised whenever the way reference teachers are trained changes: older files are then not found any more.
RECIPE_VERSION = 1

Progress = Callable[[int, int, str], None]


def recipe_key(task: Task, name: str, spec: ModelSpec, model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Hash of everything that makes a reference teacher, and that everything in words."""
    shapes = {key: describe(value) for key, value in model.state_dict().items()}
    made_of = {
        "version": RECIPE_VERSION,
        "task": task.name,
        "model": name,
        "seed": task.seed,
        "recipe": spec.recipe.settings(),
        "data": task.fingerprint,
        "architecture": hashlib.sha256(f"{model}{shapes}".encode()).hexdigest(),
    }
    if (objective := task.teacher_objective()) != "ce":
        made_of["objective"] = str(objective)
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest(), made_of


def reference_teacher(task: Task, name: str, spec: ModelSpec, *, progress: Progress | None = None) -> nn.Module:
    """The trained teacher: read from the cache in milliseconds, or trained once while other processes wait.

    A file that does not hold the weights its note describes is never used: it is named in a warning and made again. A
    cache folder that cannot be written to costs a warning and the training time, not the run.
    """
    model = spec.make(task.seed)
    key, made_of = recipe_key(task, name, spec, model)
    path = cache_folder() / "teachers" / f"{task.name}-{name}-{key[:20]}.safetensors"
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
        return _train(task, spec, model, name, progress)
    try:
        if _read(model, path):  # another process made it while this one waited
            return model.eval()
        started = time.perf_counter()
        model = _train(task, spec, spec.make(task.seed), name, progress)
        _keep(model, path, made_of, time.perf_counter() - started)
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
        found, wanted = state_hash(model), json.loads(note.read_text(encoding="utf-8"))["state_hash"]
        if found == wanted:
            return True
        problem = "its weights are not those that were written"
    except (OSError, CheckpointError, ValueError, KeyError, RuntimeError) as error:
        problem = str(error)
    warnings.warn(f"the cached teacher {path} is damaged ({problem}); it is trained again.", stacklevel=4)
    return False


def _train(task: Task, spec: ModelSpec, model: nn.Module, name: str, progress: Progress | None) -> nn.Module:
    from ..distiller import Epoch, distill

    recipe = spec.recipe

    def report(event: object) -> None:
        if progress is not None and isinstance(event, Epoch):
            progress(event.epoch + 1, recipe.epochs, f"teacher {name}")

    loader = task.loader("teacher_train", batch_size=recipe.batch_size, seed=task.seed)
    with preserved_rng():  # a cached teacher and a new one leave the same random state behind
        distill(None, model, task.teacher_objective(), loader, seed=task.seed, callbacks=(report,), **recipe.training())
    return model.eval()


def _keep(model: nn.Module, path: Path, made_of: dict[str, Any], seconds: float) -> None:
    """Weights first, then the note that makes them valid; each file appears whole or not at all."""
    note = {
        "made_of": made_of,
        "state_hash": state_hash(model),
        "seconds": round(seconds, 3),
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
