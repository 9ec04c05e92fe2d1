"""Temporary folders that do not outlive their process for long, even where it is killed.

A folder holds a file that its process keeps locked; the system drops the lock when the process ends, however it ends.
Whoever makes the next folder removes those that nobody holds any more. Process numbers would not do: another container
that shares the folder for temporary files has its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed: that serves as the lock
    fcntl = None  # type: ignore[assignment]

PREFIX = "kdw-"
_LOCK = ".held"
#: Seconds after which a folder that was never locked is nobody's: its process was killed while it made it.
_UNBORN = 60.0


class Scratch(tempfile.TemporaryDirectory[str]):
    """``tempfile.TemporaryDirectory`` whose rest is removed by the next one if this process is killed.

    Args:
        kind: what it is for, part of the folder's name.
    """

    def __init__(self, kind: str) -> None:
        sweep()
        super().__init__(prefix=f"{PREFIX}{kind}-", ignore_cleanup_errors=True)
        lock = Path(self.name) / f"{_LOCK}.new"
        self._held: Any = open(lock, "xb")  # noqa: SIM115  held as long as the folder
        with contextlib.suppress(OSError):  # a file system without locks: the folder is never taken for a dead one's
            if fcntl is not None:
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(lock, lock.with_name(_LOCK))

    def cleanup(self) -> None:
        """Remove the folder now."""
        if fcntl is None:
            self._held.close()
        super().cleanup()
        self._held.close()


def sweep(folder: str | Path | None = None) -> list[Path]:
    """Remove the scratch folders of processes that are gone; returns them.

    Args:
        folder: where they are; default the system's folder for temporary files.
    """
    removed = []
    for path in sorted(Path(folder or tempfile.gettempdir()).glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):  # another process sweeps too, or it is not ours
            if _ours(path) and _abandoned(path):
                removed.append(path)
    return removed


def _ours(path: Path) -> bool:
    info = path.lstat()
    return stat.S_ISDIR(info.st_mode) and (os.name != "posix" or info.st_uid == os.geteuid())


def _abandoned(path: Path) -> bool:
    """Whether nobody holds the folder; then it is removed."""
    lock = path / _LOCK
    if not lock.is_file():
        inside = [p.name for p in path.iterdir()]
        if time.time() - path.lstat().st_mtime < _UNBORN or set(inside) - {f"{_LOCK}.new"}:
            return False
        for name in inside:
            (path / name).unlink()
        path.rmdir()
        return True
    if fcntl is None:
        lock.unlink()
        shutil.rmtree(path)
        return True
    with open(lock, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path)
    return True
