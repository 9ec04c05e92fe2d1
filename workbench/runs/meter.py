"""What a run computes and reads: CPU seconds cell by cell, and the files of this repository that it rests on.

The first half is an IPython extension that the runner loads into the kernel: after every cell it writes what is known
so far, so that a kernel that fails or dies has told the most. No cell is added. The second half reads that in the
runner, where the note becomes part of ``run.json``.

Files are those that were imported or opened for reading below :data:`FOLDERS`: a table that a module reads changes a
result as much as its code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import read_json, sha256, write_json

EXTENSION = "workbench.runs.meter"
#: Folders of the repository whose files can change what a notebook records or shows.
FOLDERS = ("kdcore", "workbench", "docs", "notebooks")
ROOT = Path(__file__).resolve().parents[2]
NOTE = "usage.json"


# ------------------------------------------------------------------------------------------------------ in the kernel


def used() -> float:
    """CPU seconds of this process and of those of its children that have ended; user and system."""
    try:
        import resource
    except ImportError:  # Windows
        import time

        return time.process_time()
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


class Meter:
    """Measures the cells of one kernel into ``folder/usage.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells: list[dict[str, Any]] = []
        self.opened: set[str] = set()
        self.start = self.last = used()
        sys.addaudithook(self._opening)
        self._write()

    def _opening(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            reading = arguments[1] is None or "w" not in str(arguments[1])
            path = os.path.abspath(os.fspath(arguments[0]))
            if reading and isinstance(path, str):
                self.opened.add(path)

    def after(self, result: Any) -> None:
        """Called by IPython when a cell has ended, well or not."""
        now = used()
        self.cells.append({"count": result.execution_count, "cpu_seconds": round(now - self.last, 3)})
        self.last = now
        self._write()

    def _write(self) -> None:
        modules = [getattr(m, "__file__", None) for m in list(sys.modules.values())]
        teachers = getattr(sys.modules.get("kdcore.tasks._teachers"), "USED", {})
        write_json(
            self.folder / NOTE,
            {
                "cpu_seconds": round(used(), 3),
                "start_cpu_seconds": round(self.start, 3),
                "cells": self.cells,
                "teachers": [vars(teacher) for teacher in teachers.values()],
                "sources": sorted({name for path in (*modules, *list(self.opened)) if path and (name := _ours(path))}),
            },
        )


def _ours(path: str) -> str | None:
    """A file's path from the root of the repository, ``None`` for a file that is not one of its sources."""
    name = os.path.relpath(path, ROOT).replace(os.sep, "/")
    kept = name.split("/")[0] in FOLDERS and "/." not in name and "__pycache__" not in name
    return name if kept and os.path.isfile(path) else None


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython; measures if the kernel was started by the runner."""
    folder = os.environ.get("KDW_RUN_DIR")
    if folder:
        shell.events.register("post_run_cell", Meter(Path(folder)).after)


# ------------------------------------------------------------------------------------------------------ in the runner


def collect(folder: Path, started: float) -> dict[str, Any]:
    """What the kernel noted, for ``run.json``; the note is removed. Empty for a kernel without the extension.

    Args:
        folder: of the run, with its executed notebook as far as there is one.
        started: when the run began. Sources that were written since are named in ``sources_moved``: which of their
            contents the kernel read is not known.
    """
    path = folder / NOTE
    if not path.is_file():
        return {}
    note = read_json(path)
    path.unlink()
    notebook = folder / "notebook.ipynb"
    cells = read_json(notebook)["cells"] if notebook.is_file() else []
    places = {c["execution_count"]: (i, _title(c)) for i, c in enumerate(cells, 1) if c.get("execution_count")}
    measured = []
    for cell in note["cells"]:
        number, title = places.get(cell["count"], (None, ""))
        measured.append({"cell": number, "title": title, "cpu_seconds": cell["cpu_seconds"]})
    files = [name for name in note["sources"] if (ROOT / name).is_file()]
    return {
        "cpu_seconds": note["cpu_seconds"],
        "start_cpu_seconds": note["start_cpu_seconds"],
        "cells": measured,
        "teachers": note["teachers"],
        "sources": hashes(files),
        "sources_moved": [name for name in files if (ROOT / name).stat().st_mtime > started],
    }


def hashes(names: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """sha256 of files below ``root`` by name; ``"absent"`` for one that is not there."""
    return {name: sha256(p.read_bytes()) if (p := root / name).is_file() else "absent" for name in names}


def _title(cell: dict[str, Any]) -> str:
    """The first line of a cell that says something."""
    lines = [line.strip() for line in "".join(cell["source"]).splitlines()]
    said = [line for line in lines if line and not line.startswith(("#", "import ", "from "))]
    return (said or lines or [""])[0][:60]
