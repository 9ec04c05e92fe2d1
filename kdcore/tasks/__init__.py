"""Arenas: real data with reference teachers and students, by name. Modules here are found, not listed.

A module that offers tasks defines ``TASKS = {"name": builder}``; a builder is a function of keyword options that
returns a :class:`Task`, and the first line of its docstring is what menus show. Modules that start with an underscore
are the machinery.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..functional.checks import check_choice, closest
from ._augment import CropFlip
from ._classification import Classification
from ._data import ArrayDataset
from ._folders import cache_folder, data_folder
from ._models import ModelSpec, Recipe, reference_models
from ._task import Task


@dataclass(frozen=True)
class TaskInfo:
    """What is known of a task before its data is read.

    Attributes:
        name: of the task.
        words: one line.
        options: option name -> default (``inspect.Parameter.empty`` where the option must be given).
        classifies: labels are classes; ``False`` for builders that return another kind of task (boxes), which methods
            for classifiers cannot be trained on.
    """

    name: str
    words: str
    options: dict[str, Any]
    classifies: bool = True

    @property
    def required(self) -> tuple[str, ...]:
        """Options without a default (a path, a target column)."""
        return tuple(name for name, default in self.options.items() if default is inspect.Parameter.empty)


_TASKS = re.compile(r"^TASKS = \{([^}]*)\}", re.MULTILINE)


@cache
def _homes() -> dict[str, str]:
    """Task -> module, from the text of the files: who asks for one arena loads no other. A hint, as in the registry."""
    found = {p.stem: _TASKS.search(p.read_text(encoding="utf-8")) for p in Path(__file__).parent.glob("[!_]*.py")}
    return {name: module for module, text in found.items() if text for name in re.findall(r'"(\w+)":', text[1])}


def _builder(name: str) -> Callable[..., Task]:
    home = _homes().get(name)
    near = importlib.import_module(f"{__name__}.{home}").TASKS if home is not None else {}
    if name not in near:
        check_choice("task", name, list_tasks())
    return near[name] if name in near else _builders()[name]


@cache
def _builders() -> dict[str, Callable[..., Task]]:
    found: dict[str, Callable[..., Task]] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        for name, builder in importlib.import_module(f"{__name__}.{info.name}").TASKS.items():
            if name in found:
                raise ValueError(f"two tasks are called {name!r}.")
            found[name] = builder
    return found


def list_tasks() -> list[str]:
    """Names that :func:`load_task` knows, sorted."""
    return sorted(_builders())


def task_info(name: str) -> TaskInfo:
    """One line, options and defaults of a task, without reading its data.

    Raises:
        ValueError: unknown name, with the closest ones.
    """
    builder = _builder(name)
    signature = inspect.signature(builder)
    options = {p.name: p.default for p in signature.parameters.values()}
    returned = signature.return_annotation  # a name where the module postpones its annotations
    returned = getattr(builder, "__globals__", {}).get(returned, returned) if isinstance(returned, str) else returned
    return TaskInfo(
        name,
        (inspect.getdoc(builder) or "").partition("\n")[0],
        options,
        classifies=isinstance(returned, type) and issubclass(returned, Classification),
    )


def load_task(name: str, **options: Any) -> Any:
    """A :class:`Task` by name, of the kind that its builder makes.

    Args:
        name: one of :func:`list_tasks`.
        **options: what the task's builder takes, see ``task_info(name).options``.

    Raises:
        ValueError: unknown name or option (with the closest ones), a missing option, or data that is not as it must be.
        FileNotFoundError: a data folder that is not there; the message names it and the option that changes it.

    Example:
        >>> load_task("digits", train_size=200).describe()
    """
    info = task_info(name)
    for given in options:
        if given not in info.options:
            raise ValueError(
                f"task {name!r} has no option {given!r}.{closest(given, info.options)} "
                f"It has: {', '.join(info.options)}."
            )
    missing = [option for option in info.required if option not in options]
    if missing:
        raise ValueError(f"task {name!r} needs {', '.join(f'{m}=...' for m in missing)}.")
    return _builder(name)(**options)


__all__ = [
    "ArrayDataset",
    "Classification",
    "CropFlip",
    "ModelSpec",
    "Recipe",
    "Task",
    "TaskInfo",
    "accuracy",
    "cache_folder",
    "data_folder",
    "list_tasks",
    "load_task",
    "reference_models",
    "task_info",
]
