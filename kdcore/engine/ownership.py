"""One training at a time writes into a checkpoint folder; a second one is refused and told who is there."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from ..weights import CheckpointError

_OWNER = ".owner.json"


@dataclass
class Ownership:
    """Who in this process writes into a folder; ``lost`` once another training of the same thread took it over."""

    folder: Path
    thread: threading.Thread
    lock: FileLock
    lost: bool = False

    def check(self) -> None:
        """Raise :class:`CheckpointError` if the folder is no longer this training's."""
        if self.lost:
            raise CheckpointError(
                f"{self.folder} was taken over by a training that was begun later; this one no longer writes there.",
                self.folder,
            )


_HELD: dict[Path, Ownership] = {}


@contextmanager
def owned(folder: Path) -> Iterator[Ownership]:
    """Hold ``folder`` while a training runs; the system lets go of it when the process ends, however it ends.

    A training of the same thread that was left in the middle (an interrupted cell) loses the folder to the next one.

    Raises:
        CheckpointError: another process, or another thread of this one, is training there.
    """
    key = folder.resolve()
    earlier, me = _HELD.get(key), threading.current_thread()
    if earlier is None:
        lock = _locked(key)
    elif earlier.thread is not me and earlier.thread.is_alive():
        raise CheckpointError(
            f"{folder} is in use by another training of this process (thread {earlier.thread.name!r}): stop it, or "
            "choose another folder.",
            folder,
        )
    else:
        earlier.lost, lock = True, earlier.lock
    mine = _HELD[key] = Ownership(folder, me, lock)
    try:
        yield mine
    finally:
        if not mine.lost:
            del _HELD[key]
            (key / _OWNER).unlink(missing_ok=True)
            lock.release()


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"{folder} is in use by another training{_who(folder)}: wait for it or stop it, or choose another folder.",
            folder,
        ) from None
    who = json.dumps({"process": os.getpid(), "host": platform.node(), "since": time.time()})
    with contextlib.suppress(OSError):  # only for the message to others; a full disk is told by what matters
        (folder / _OWNER).write_text(who, encoding="utf-8")
    return lock


def _who(folder: Path) -> str:
    try:
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        return f" (process {owner['process']} on {owner['host']}, since {since})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def check_plain(state: Mapping[str, Any]) -> None:
    """Refuse extra state that a checkpoint could not give back: it holds tensors and plain values, never code.

    Raises:
        ValueError: naming the module and the type.
    """
    for name, value in state.items():
        if (odd := _odd(value)) is not None:
            owner = name.removesuffix("_extra_state").rstrip(".") or "the module"
            raise ValueError(
                f"the extra state of {owner} holds a {odd}: a checkpoint keeps tensors, numbers, text, lists and "
                "dicts. Train without checkpoint_dir, or change its get_extra_state()."
            )


def _odd(value: Any) -> str | None:
    if value is None or isinstance(value, Tensor | bool | int | float | str | bytes):
        return None
    if isinstance(value, Mapping):
        return next((odd for pair in value.items() for part in pair if (odd := _odd(part)) is not None), None)
    if isinstance(value, list | tuple | set):
        return next((odd for part in value if (odd := _odd(part)) is not None), None)
    return type(value).__name__


__all__ = ["Ownership", "check_plain", "owned"]
