"""How much of a notebook's outputs a run keeps: a cell that prints without end must not fill the disk or the memory.

A cell may keep half of what is left, so that one that prints too much leaves room for those after it. What does not fit
is read and dropped, and a line at the end of the cell's outputs says how much that was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Megabytes of outputs that a run keeps unless it is told otherwise.
DEFAULT_MEGABYTES = 32.0
_OVERHEAD = 200  # bytes that one more output takes in the file
_ERROR_BYTES = 20_000  # of the message and traceback of an error, which is always kept
_LOG_BYTES = 1_000_000


class OutputBudget:
    """Bytes of outputs that may still be kept.

    Args:
        limit: of the whole notebook, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.kept = limit, 0
        self.start_cell()

    def start_cell(self) -> None:
        """A new cell begins: it may keep half of what is left."""
        self.room, self._cell, self.dropped = (self.limit - self.kept) // 2, 0, 0

    def take(self, size: int, *, instead_of: int = 0) -> bool:
        """Whether an output of this size may be kept; it counts as kept, or as dropped.

        Args:
            size: in bytes; instead_of: size of the output that it replaces.
        """
        if size - instead_of > self.room:
            self.dropped += size
            return False
        self._count(size - instead_of)
        return True

    def beginning(self, text: str) -> str:
        """The beginning of a text that fits; the rest counts as dropped."""
        size, room = text_bytes(text), max(self.room - _OVERHEAD, 0)
        if not text:
            return text
        if size <= room:
            self._count(size + _OVERHEAD)
            return text
        self.dropped += size
        kept = text.encode(errors="replace")[:room].decode(errors="ignore")
        if kept:
            self.dropped -= len(kept.encode())
            self._count(len(kept.encode()) + _OVERHEAD)
        return kept

    def _count(self, size: int) -> None:
        self.room -= size
        self._cell += size
        self.kept += size

    def clear(self) -> None:
        """The cell cleared its outputs."""
        self._count(-self._cell)

    def notice(self) -> str:
        """What is said at the end of a cell that lost outputs; empty for one that did not."""
        if not self.dropped:
            return ""
        return (
            f"\n[kdw: {_megabytes(self.dropped)} MB of this cell's outputs are not kept. A run keeps "
            f"{_megabytes(self.limit)} MB, a cell half of what is left; set it with --output-limit MB "
            "(run_notebook: output_limit).]\n"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g}" if size < 1e8 else f"{size / 1e6:.0f}"


def text_bytes(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def data_bytes(data: Mapping[str, Any]) -> int:
    """Bytes that a display's forms take in a notebook, about."""
    return _OVERHEAD + sum(text_bytes(v if isinstance(v, str) else json.dumps(v, default=str)) for v in data.values())


def shortened_error(content: Mapping[str, Any]) -> dict[str, Any]:
    """An error's name, message and traceback, cut to what is worth reading: the end of the traceback is."""
    message, traceback = str(content.get("evalue", "")), "\n".join(map(str, content.get("traceback", ())))
    if text_bytes(message) + text_bytes(traceback) <= _ERROR_BYTES:
        return dict(content)
    half = _ERROR_BYTES // 2
    return dict(content) | {
        "evalue": message[:half],
        "traceback": (["[...]", *traceback[-half:].splitlines()] if len(traceback) > half else traceback.splitlines()),
    }


def last_lines(path: Path, size: int = 100_000) -> list[str]:
    """The last lines of a file that may be huge or absent."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read().decode("utf-8", errors="replace").splitlines()


def trim_log(path: Path) -> None:
    """Keep the end of a log that has become longer than a megabyte, and say so in it."""
    if path.is_file() and path.stat().st_size > _LOG_BYTES:
        size = path.stat().st_size
        kept = "\n".join(last_lines(path, _LOG_BYTES))
        path.write_text(f"[kdw: the first {_megabytes(size - _LOG_BYTES)} MB are not kept]\n{kept}\n", "utf-8")
