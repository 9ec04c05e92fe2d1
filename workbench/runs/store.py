"""Run folders on disk: list them, read them, and tell a finished run from one that was killed.

A run is ``runs/<id>/``: ``run.json`` (what, with which parameters, on what, how it ended), ``notebook.ipynb``
(executed), ``metrics.json`` (the record) and ``figures/``. ``run.json`` says ``running`` until everything else is in
place, together with the process that runs it; when that process is gone, the run is ``interrupted``.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import project_root, read_json, write_json

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
        return read_json(path) if self.ok and path.is_file() else {}

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

    Raises:
        FileNotFoundError: there is no ``run.json`` in the folder.
    """
    folder = Path(folder).resolve()
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no run.json.")
    try:
        info = read_json(path)
        status = info["status"]
    except (ValueError, KeyError, TypeError) as error:
        return RunRecord(folder.name, folder, "unreadable", failure=Failure(None, type(error).__name__, str(error)))
    if status == "running" and not _alive(info):
        status = "interrupted"
    failure = Failure(**info["failure"]) if info.get("failure") else None
    if status == "interrupted" and failure is None:
        failure = Failure(
            None, "Interrupted", f"process {info.get('pid')} on {info.get('host')} ended before the run did"
        )
    return RunRecord(info.get("id", folder.name), folder, status, info.get("notebook", "unknown"), info, failure)


def list_runs(
    runs_dir: str | Path | None = None, *, notebook: str | None = None, status: str | None = None
) -> list[RunRecord]:
    """Runs of a folder, newest first.

    Args:
        runs_dir: default ``runs/`` of the project.
        notebook: keep those of this notebook (key or slug).
        status: keep those with this status.
    """
    folder = Path(runs_dir) if runs_dir is not None else project_root() / "runs"
    runs = [read_run(p.parent) for p in folder.rglob("run.json")] if folder.is_dir() else []
    keep = [
        r for r in runs if notebook in (None, r.notebook, r.notebook.rpartition("/")[2]) and status in (None, r.status)
    ]
    return sorted(keep, key=lambda r: (r.info.get("started", 0.0), r.id), reverse=True)


def find_run(run_id: str, runs_dir: str | Path | None = None) -> RunRecord:
    """A run by id, or by the beginning of it.

    Raises:
        FileNotFoundError: none or several runs answer to it; the message lists candidates.
    """
    runs = list_runs(runs_dir)
    hits = [r for r in runs if r.id == run_id] or [r for r in runs if r.id.startswith(run_id)]
    if len(hits) != 1:
        names = ", ".join(r.id for r in (hits or runs)[:12]) or "none"
        raise FileNotFoundError(f"{'several runs are' if hits else 'no run is'} called {run_id!r}. There are: {names}.")
    return hits[0]


def mark_interrupted(runs_dir: str | Path | None = None) -> list[RunRecord]:
    """Write ``interrupted`` into every run whose process is gone; returns those that were marked."""
    marked = [r for r in list_runs(runs_dir, status="interrupted") if r.info.get("status") == "running"]
    for run in marked:
        write_json(run.folder / "run.json", run.info | {"status": "interrupted"})
    return marked
