"""What a run computes and reads: CPU seconds cell by cell, and the files of this repository that it rests on.

The first half is an IPython extension that the runner loads into the kernel: after every cell it writes what is known
so far, so that a kernel that fails or dies has told the most. No cell is added. The second half reads that in the
runner, where the note becomes part of ``run.json``.

Files are those below :data:`FOLDERS` that were imported, or opened for reading and are no modules: a table that a
module reads changes a result as much as its code, a module that is only looked through for its names does not. A folder
of which everything was asked for (all papers, all notebooks) is among them with its list of names: a new file there
changes what is shown.
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
        self.listed: set[tuple[str, str]] = set()
        self.start = self.last = used()
        sys.addaudithook(self._opening)
        self._write()

    def _opening(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.listdir", "os.scandir") or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.path.abspath(os.fspath(arguments[0]))
        if event == "open":
            if isinstance(path, str) and (arguments[1] is None or "w" not in str(arguments[1])):
                self.opened.add(path)
        elif event == "os.scandir" or sys._getframe(1).f_code.co_filename.endswith("pkgutil.py"):
            self.listed.add((event, path))  # imports and importlib.metadata look into folders too, for one name

    def after(self, result: Any) -> None:
        """Called by IPython when a cell has ended, well or not."""
        now = used()
        self.cells.append({"count": result.execution_count, "cpu_seconds": round(now - self.last, 3)})
        self.last = now
        self._write()

    def _write(self) -> None:
        imported = [getattr(m, "__file__", None) for m in list(sys.modules.values())]
        read = [path for path in list(self.opened) if not path.endswith(".py")]
        # pkgutil lists what it will import; a glob over modules looks for names, one over pages for pages
        packages = tuple(os.path.join(ROOT, name) for name in ("kdcore", "workbench"))
        read += [path for event, path in list(self.listed) if event == "os.listdir" or not path.startswith(packages)]
        teachers = getattr(sys.modules.get("kdcore.tasks._teachers"), "USED", {})
        write_json(
            self.folder / NOTE,
            {
                "cpu_seconds": round(used(), 3),
                "start_cpu_seconds": round(self.start, 3),
                "cells": self.cells,
                "teachers": [vars(teacher) for teacher in teachers.values()],
                "sources": sorted({name for path in (*imported, *read) if path and (name := _ours(path))}),
            },
        )


def _ours(path: str) -> str | None:
    """A file's path from the root of the repository, ``None`` for a file that is not one of its sources."""
    name = os.path.relpath(path, ROOT).replace(os.sep, "/")
    if name.split("/")[0] not in FOLDERS or "/." in name or "__pycache__" in name:
        return None
    return name if os.path.isfile(path) else f"{name}/" if os.path.isdir(path) else None


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
    try:
        return _collect(folder, started)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a cell wrote over the note or the notebook
        return {}


def _collect(folder: Path, started: float) -> dict[str, Any]:
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
    names = [name for name in note["sources"] if (ROOT / name).exists()]
    return {
        "cpu_seconds": note["cpu_seconds"],
        "start_cpu_seconds": note["start_cpu_seconds"],
        "cells": measured,
        "teachers": note["teachers"],
        "sources": hashes(names),
        "sources_moved": [n for n in names if (ROOT / n).is_file() and (ROOT / n).stat().st_mtime > started],
    }


def hashes(names: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """sha256 of files below ``root`` by name, of the names in a folder (``"kdcore/methods/"``), or ``"absent"``."""
    return {name: _hash(root / name) for name in names}


def _hash(path: Path) -> str:
    if path.is_dir():
        return sha256("\n".join(sorted(p.name for p in path.iterdir() if not p.name.startswith((".", "__pycache__")))))
    return sha256(path.read_bytes()) if path.is_file() else "absent"


def _title(cell: dict[str, Any]) -> str:
    """The first line of a cell that says something."""
    lines = [line.strip() for line in "".join(cell["source"]).splitlines()]
    said = [line for line in lines if line and not line.startswith(("#", "import ", "from "))]
    return (said or lines or [""])[0][:60]
