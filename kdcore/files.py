"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

Content = bytes | str | Callable[[BinaryIO], object]


def as_path(path: str | Path) -> Path:
    """A path as a user means it: ``~`` is the home folder."""
    return Path(path).expanduser()


def write_atomic(path: str | Path, content: Content) -> Path:
    """Write a whole file or nothing: temporary name in the same folder, flushed to disk, then renamed.

    Args:
        path: the final name; its folder is created.
        content: bytes, text (UTF-8), or a function that is called with the open binary file.

    Returns:
        The path.

    Raises:
        OSError: (of the kind that came) disk full, folder read-only or not a folder; names the file. No part of it is
            left behind, and what was there before is untouched. Other errors of ``content`` pass through.
    """
    path = as_path(path)
    # Unique, so that two threads may write one file; made by open, so that it has the permissions of any new file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write {path}: {error.strerror or error}", str(path)) from error
    return path


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; where a folder cannot be opened (Windows) the rename itself has to do."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


__all__ = ["as_path", "write_atomic"]
