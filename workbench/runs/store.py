"""Run folders on disk: list them, read them, and tell a finished run from one that was killed.

A run is ``runs/<id>/``: ``run.json`` (what, with which parameters, on what, how it ended), ``notebook.ipynb``
(executed), ``metrics.json`` (the record) and ``figures/``. ``run.json`` says ``running`` until everything else is in
place, together with the process that runs it; when that process is gone, the run is ``interrupted``.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import answers_to, project_root, read_json, write_json

_UNBORN_SECONDS = 5.0  # that an empty folder may be one whose run is just starting
STATES = ("running", "done", "failed", "interrupted", "unreadable")


@dataclass(frozen=True)
class Failure:
    """Why a run failed: the cell (counted from 1 over all cells), the exception and the end of its traceback."""

    cell: int | None
    exception: str
    message: str
    source: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        where = f"cell {self.cell}: " if self.cell is not None else ""
        return f"{where}{self.exception}: {self.message}"


@dataclass(frozen=True)
class RunRecord:
    """A run as it is on disk.

    Attributes:
        id, folder: its name and place.
        status: one of :data:`STATES`; only ``"done"`` is a result.
        notebook: key of the notebook (``"ranking/pld"``).
        info: everything in ``run.json``.
        failure: why it failed, or ``None``.
    """

    id: str
    folder: Path
    status: str
    notebook: str = "unknown"
    info: dict[str, Any] = field(default_factory=dict, repr=False)
    failure: Failure | None = None

    @property
    def ok(self) -> bool:
        return self.status == "done"

    @property
    def parameters(self) -> dict[str, Any]:
        return self.info.get("parameters", {})

    @property
    def seconds(self) -> float | None:
        return self.info.get("seconds")

    @property
    def cpu_seconds(self) -> float | None:
        """CPU seconds of the kernel and its children, its start included; ``None`` if it was not measured."""
        return self.info.get("cpu_seconds")

    @property
    def computing(self) -> float | None:
        """CPU seconds of the cells as on an empty teacher cache.

        The kernel's start does not count. A teacher that was read from the cache counts with what it once took to
        train, so that the number does not depend on which lesson came first.
        """
        if "cells" not in self.info:
            return None
        read = sum(teacher["cpu_seconds"] for teacher in self.info["teachers"] if teacher["cached"])
        return sum(cell["cpu_seconds"] for cell in self.info["cells"]) + read

    def slowest(self, count: int = 3) -> str:
        """The cells with the most CPU seconds, and the teachers that were read: ``"cell 12 (fit(...)): 8.1 s"``."""
        cells = sorted(self.info.get("cells", ()), key=lambda cell: -cell["cpu_seconds"])[:count]
        teachers = [t for t in self.info.get("teachers", ()) if t["cached"]]
        return "; ".join(
            [f"cell {c['cell']} ({c['title']}): {c['cpu_seconds']:.1f} s" for c in cells]
            + [f"teacher {t['label']}, from the cache: {t['cpu_seconds']:.1f} s" for t in teachers]
        )

    @property
    def executed(self) -> Path:
        """The executed notebook (of a failed run: up to and with the error)."""
        return self.folder / "notebook.ipynb"

    @property
    def record(self) -> dict[str, Any]:
        """What ``record(...)`` stored; empty unless the run is done."""
        path = self.folder / "metrics.json"
        if not self.ok or not path.is_file():
            return {}
        try:
            found = _document(path)
            _check_fields("metrics.json", found, _METRICS)
        except (OSError, ValueError, RecursionError):  # since it was read as a good one: as if nothing was recorded
            return {}
        return found

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics by name: ``{"value", "tolerance", "kind"}``; empty unless the run is done."""
        return self.record.get("metrics", {})

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        return self.record.get("verdicts", [])

    @property
    def first_steps(self) -> dict[str, dict[str, Any]]:
        """Loss terms and gradients of the first steps by name, like :attr:`metrics`."""
        return self.record.get("first_steps", {})

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "id": self.id,
            "status": self.status,
            "notebook": self.notebook,
            "folder": str(self.folder),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "parameters": self.parameters,
            "metrics": self.metrics,
            "verdicts": self.verdicts,
            "failure": vars(self.failure) if self.failure else None,
        }


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in an opaque unit; ``None`` if it does not exist (or is a zombie).

    Where the system does not tell (no ``/proc``) an existing process gives ``"unknown"``.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "unknown"
    return "unknown"


def owner() -> dict[str, Any]:
    """The process that runs a notebook, as stored in ``run.json``."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "process_start": process_start(os.getpid())}


def _alive(info: dict[str, Any]) -> bool:
    """Whether the process named in ``run.json`` still runs; that of another machine is believed."""
    if info.get("host") != socket.gethostname():
        return True
    return isinstance(info.get("pid"), int) and process_start(info["pid"]) == info.get("process_start")


def read_run(folder: str | Path) -> RunRecord:
    """Read one run folder; a run whose process is gone is reported as interrupted.

    Whatever else is wrong with the folder makes it ``"unreadable"``, with the reason as its failure: nothing that lies
    there can keep the other runs from being listed.

    Raises:
        FileNotFoundError: there is no ``run.json`` in the folder.
    """
    folder = Path(folder).expanduser().absolute()
    path = folder / "run.json"
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{folder} is not a run folder: it has no run.json.")
    try:
        info = _document(path)
        _check_info(info)
        if info["status"] == "done" and os.path.lexists(folder / "metrics.json"):
            _check_fields("metrics.json", _document(folder / "metrics.json"), _METRICS)
    except (OSError, ValueError, RecursionError) as error:
        return _unreadable(folder, error)
    status = info["status"]
    if status == "running" and not _alive(info):
        status = "interrupted"
    failure = None
    if info.get("failure"):
        failure = Failure(**{"cell": None, **{n: v for n, v in info["failure"].items() if n in _FAILURE}})
    if status == "interrupted" and failure is None:
        failure = Failure(
            None, "Interrupted", f"process {info.get('pid')} on {info.get('host')} ended before the run did"
        )
    return RunRecord(info["id"], folder, status, info["notebook"], info, failure)


def _unreadable(folder: Path, error: BaseException | str) -> RunRecord:
    if isinstance(error, str):
        return RunRecord(folder.name, folder, "unreadable", failure=Failure(None, "Unreadable", error))
    said = "run.json is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return RunRecord(folder.name, folder, "unreadable", failure=Failure(None, type(error).__name__, said))


_Number = (int, float)
_Fields = dict[str, tuple[tuple[type, ...], bool]]
#: Fields of ``run.json``: their types, and whether they must be there.
_INFO: _Fields = {
    "id": ((str,), True), "status": ((str,), True), "notebook": ((str,), True), "started": (_Number, True),
    "seconds": ((*_Number, type(None)), False), "cpu_seconds": ((*_Number, type(None)), False),
    "parameters": ((dict,), False), "given": ((dict,), False), "failure": ((dict, type(None)), False),
    "cells": ((list,), False), "teachers": ((list,), False), "path": ((str,), False), "sources": ((dict,), False),
    "sources_moved": ((list,), False), "slug": ((str,), False),
}  # fmt: skip
_FAILURE: _Fields = {
    "exception": ((str,), True), "message": ((str,), True), "cell": ((int, type(None)), False),
    "source": ((str,), False), "traceback": ((str,), False),
}  # fmt: skip
_CELL: _Fields = {"cell": ((int, type(None)), True), "title": ((str,), True), "cpu_seconds": (_Number, True)}
_TEACHER: _Fields = {"label": ((str,), True), "cached": ((bool,), True), "cpu_seconds": (_Number, True)}
_METRICS: _Fields = {"metrics": ((dict,), False), "verdicts": ((list,), False)}


def _document(path: Path) -> Any:
    """The JSON of a file of a run; a ValueError or OSError in one line for whatever else lies there."""
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path.name} is a link to {os.readlink(path)}, which is not there")
    if not path.is_file():
        raise ValueError(f"{path.name} is {'a folder' if path.is_dir() else 'no ordinary file'}")
    try:
        return read_json(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not UTF-8 text") from None
    except OSError as error:
        raise type(error)(error.errno, f"{path.name} cannot be read: {error.strerror or error}") from None


def _check_info(info: Any) -> None:
    _check_fields("run.json", info, _INFO)
    if info["status"] not in STATES:
        raise ValueError(f"status in run.json must be one of {', '.join(STATES)}, got {info['status']!r:.60}")
    try:
        time.localtime(info["started"])
    except (OverflowError, OSError, ValueError):
        raise ValueError(f"started in run.json is no time, got {info['started']!r:.60}") from None
    if info.get("failure"):
        _check_fields("failure in run.json", info["failure"], _FAILURE)
    for name, fields in (("cells", _CELL), ("teachers", _TEACHER)):
        for number, part in enumerate(info.get(name, ())):
            _check_fields(f"{name}[{number}] in run.json", part, fields)
    if "cells" in info and "teachers" not in info:
        raise ValueError("run.json has cells, but no teachers")


def _check_fields(where: str, value: Any, fields: _Fields) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {type(value).__name__}")
    for name, (kinds, needed) in fields.items():
        if name not in value:
            if needed:
                raise ValueError(f"{where} has no {name!r}")
            continue
        got = value[name]
        good = isinstance(got, kinds) and (bool in kinds or not isinstance(got, bool))
        if not good or (isinstance(got, float) and not math.isfinite(got)):
            words = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{name} in {where} must be {words}, got {got!r:.60}")


def list_runs(
    runs_dir: str | Path | None = None, *, notebook: str | None = None, status: str | None = None
) -> list[RunRecord]:
    """Runs of a folder, newest first.

    Folders that are no good are among them: ``"unreadable"`` with the reason; a folder that its process was killed in
    before it wrote anything is ``"interrupted"``.

    Args:
        runs_dir: default ``runs/`` of the project.
        notebook: keep those of this notebook (key, slug, file name or path).
        status: keep those with this status.

    Raises:
        NotADirectoryError: ``runs_dir`` is a file.
    """
    folder = Path(runs_dir).expanduser() if runs_dir is not None else project_root() / "runs"
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder of runs.")
    runs = list(_all_runs(folder.resolve())) if folder.is_dir() else []
    keep = [
        r for r in runs if (notebook is None or _is_of(r, notebook)) and status in (None, r.status)
    ]  # fmt: skip
    return sorted(keep, key=lambda r: (r.info.get("started", 0.0), r.id), reverse=True)


def _is_of(run: RunRecord, name: str) -> bool:
    return answers_to(run.notebook, name) or run.info.get("path") == str(Path(name).expanduser().absolute())


def _all_runs(folder: Path) -> Iterator[RunRecord]:
    """Every run below a folder; links are followed only from the folder itself, so that no ring is walked."""
    if os.path.lexists(folder / "run.json"):
        yield read_run(folder)
    with os.scandir(folder) as entries:
        children = sorted(entries, key=lambda entry: entry.name)
    for entry in children:
        path = folder / entry.name
        if entry.is_symlink() and not path.exists():
            yield _unreadable(path, f"a link to {os.readlink(path)}, which is not there")
        elif path.is_dir():
            yield from _runs_below(path, top=True)


def _runs_below(path: Path, *, top: bool = False) -> Iterator[RunRecord]:
    try:
        with os.scandir(path) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:  # removed since it was listed
        return
    except OSError as error:
        if top:
            yield _unreadable(path, f"the folder cannot be read: {error.strerror or error}")
        return
    if any(entry.name == "run.json" for entry in inside):
        with contextlib.suppress(FileNotFoundError):
            yield read_run(path)
    elif (top or path.parent.name == "lessons") and all(_is_rest(entry.name) for entry in inside):
        yield _unborn(path, [entry.name for entry in inside])
    for entry in inside:
        if entry.name != "run.json" and entry.is_dir(follow_symlinks=False):
            yield from _runs_below(path / entry.name)


def _is_rest(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _unborn(folder: Path, rest: list[str]) -> RunRecord:
    """A run whose process had made the folder and not yet written into it: it does so at once, or was killed."""
    try:
        began = folder.stat().st_mtime
    except OSError:
        began = 0.0
    starting = time.time() - began < _UNBORN_SECONDS
    said = None if starting else Failure(None, "Interrupted", "its process ended before it wrote run.json")
    return RunRecord(
        folder.name, folder, "running" if starting else "interrupted", info={"started": began}, failure=said
    )


def find_run(run_id: str, runs_dir: str | Path | None = None) -> RunRecord:
    """A run by id, by the beginning of it, or by its notebook where that has one run only.

    Raises:
        FileNotFoundError: none or several runs answer to it; the message lists candidates.
    """
    runs = list_runs(runs_dir)
    hits = (
        [r for r in runs if r.id == run_id]
        or [r for r in runs if r.id.startswith(run_id)]
        or [r for r in runs if _is_of(r, run_id)]
    )
    if len(hits) != 1:
        names = ", ".join(r.id for r in (hits or runs)[:12]) or "none"
        raise FileNotFoundError(f"{'several runs are' if hits else 'no run is'} called {run_id!r}. There are: {names}.")
    return hits[0]


def mark_interrupted(runs_dir: str | Path | None = None) -> list[RunRecord]:
    """Write ``interrupted`` into every run whose process is gone; returns those that were marked.

    What the process left half-written goes, and the notebook as far as it was executed gets its name.
    """
    marked = [r for r in list_runs(runs_dir, status="interrupted") if r.info.get("status") != "interrupted"]
    for run in marked:
        for path in [p for p in run.folder.iterdir() if _is_rest(p.name)]:
            path.unlink(missing_ok=True)
        partial = run.folder / "notebook.partial.ipynb"
        if partial.is_file() and not run.executed.exists():
            os.replace(partial, run.executed)
        born = {"id": run.id, "notebook": run.notebook, "started": run.info["started"]} | run.info
        write_json(run.folder / "run.json", born | {"status": "interrupted", "failure": vars(run.failure)})
    return marked
