"""Executing notebooks through papermill: strict parameters, a run folder each, several at once, failures collected."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .environment import git_commit, kernels, python_executable, versions
from .files import notebook_key, project_root, resolve_notebook, to_json, write_json
from .meter import collect
from .parameters import check_parameters, read_parameters
from .records import SCHEMA, source_hash
from .store import Failure, RunRecord, owner, read_run

DEFAULT_TIMEOUT = 600
_TRACEBACK_LINES = 25
Progress = Callable[[int, int, str], None]


class KernelMissingError(RuntimeError):
    """The Jupyter kernel a run asks for is not installed."""


class RunNameError(ValueError):
    """A name that a run folder cannot have."""


@dataclass(frozen=True)
class Job:
    """One notebook to run, for :func:`run_many`."""

    notebook: str | Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    runs_dir: str | Path = "runs",
    run_id: str | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    kernel: str = "python3",
    progress: Progress | None = None,
    static: bool = True,
    text: bool = False,
    env: Mapping[str, str] | None = None,
) -> RunRecord:
    """Execute a notebook and keep what came of it in a run folder.

    The kernel gets ``KDW_RUN_DIR`` (where ``record(...)`` writes), ``OMP_NUM_THREADS=1`` unless it is set, and, with
    ``static``, ``KDW_STATIC=1`` (panels show their static form). It starts in the notebook's own folder, as in
    JupyterLab.

    Args:
        notebook: path, key (``"ranking/pld"``) or slug (``"pld"``).
        parameters: values by name; with ``text`` command-line text to be read in the declared types.
        runs_dir: where run folders live.
        run_id: name of the run's folder; default the time, the slug and four random characters.
        timeout: seconds one cell may take (``None``: no limit).
        kernel: name of an installed Jupyter kernel.
        progress: called with (cells done, cells, notebook) after every cell.
        env: further variables for the kernel.

    Returns:
        The run. A notebook that raises gives ``status="failed"`` with :class:`Failure`, not an exception.

    Raises:
        FileNotFoundError: no such notebook.
        ParameterError: unknown or ill-typed parameters (before a kernel starts).
        KernelMissingError: the kernel is not installed (before anything is written).
        RunNameError, FileExistsError: ``run_id`` cannot be a folder's name, or exists already.
        OSError: the run folder cannot be written.
    """
    path = resolve_notebook(notebook)
    known = read_parameters(path)
    key = notebook_key(path)
    given = check_parameters(known, parameters or {}, text=text, notebook=key)
    check_kernel(kernel)
    folder = new_run_folder(Path(runs_dir), run_id or new_run_id(key))
    info = {
        "schema": SCHEMA,
        "id": folder.name,
        "status": "running",
        "notebook": key,
        "path": str(path),
        "source_sha256": source_hash(path),
        "parameters": {n: p.default for n, p in known.items()} | given,
        "given": given,
        "kernel": kernel,
        "static": static,
        "timeout": timeout,
        **owner(),
        "started": time.time(),
        "versions": versions(),
        "git": git_commit(path.parent),
    }
    write_json(folder / "run.json", info)
    variables = {
        "KDW_RUN_DIR": str(folder),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        **({"KDW_STATIC": "1"} if static else {}),
        **(env or {}),
    }
    status, failure, reached = "failed", None, 0

    def report(done: int, total: int) -> None:
        nonlocal reached
        reached = done
        if progress is not None:
            progress(done, total, key)

    try:
        failure = _execute(path, folder, given, variables, kernel, timeout, report)
        status = "failed" if failure else "done"
    except KeyboardInterrupt:
        status, failure = "interrupted", Failure(None, "KeyboardInterrupt", "stopped by the user")
        raise
    except Exception as error:
        log = folder / "kernel.log"
        said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        failure = Failure(reached or None, type(error).__name__, str(error)[-2000:], traceback=_excerpt(said))
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):  # the folder, not a cell that takes long
            raise
    finally:
        partial = folder / "notebook.partial.ipynb"
        if partial.is_file():
            os.replace(partial, folder / "notebook.ipynb")
        finished = time.time()
        write_json(
            folder / "run.json",
            info
            | {
                "status": status,
                "finished": finished,
                "seconds": round(finished - info["started"], 3),
                "failure": vars(failure) if failure else None,
                **collect(folder, info["started"]),
            },
        )
    return read_run(folder)


def _execute(
    path: Path,
    folder: Path,
    given: dict[str, Any],
    variables: dict[str, str],
    kernel: str,
    timeout: float | None,
    on_cell: Callable[[int, int], None],
) -> Failure | None:
    """Run through papermill into ``notebook.partial.ipynb``; the failure of a cell is returned."""
    import logging

    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from .kernel import ENGINE, RunKernelManager, kernel_config

    logging.getLogger("papermill").setLevel(logging.ERROR)
    target = folder / "notebook.partial.ipynb"
    with _short_folder() as sockets:
        try:
            execute_notebook(
                _escape(path),
                _escape(target),
                parameters=given or None,
                engine_name=ENGINE,
                kernel_name=kernel,
                progress_bar=False,
                request_save_on_cell_execute=True,
                autosave_cell_every=0,
                execution_timeout=timeout,
                store_widget_state=False,
                kernel_manager_class=RunKernelManager,
                config=kernel_config(variables, sockets, folder / "kernel.log"),
                resources={"metadata": {"path": str(path.parent)}},
                on_cell=on_cell,
            )
        except PapermillExecutionError as error:
            return Failure(
                error.cell_index + 1, error.ename, error.evalue[:2000], error.source[:2000], _excerpt(error.traceback)
            )
    return None


def _escape(path: Path) -> str:
    """papermill formats paths as templates."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def _short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kdw-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _excerpt(traceback: Sequence[str]) -> str:
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(traceback)).splitlines()
    return "\n".join(lines[-_TRACEBACK_LINES:])


def new_run_id(key: str) -> str:
    """``"ranking/pld"`` -> ``"20260102-030405-pld-9f3a"``."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{key.rpartition('/')[2]}-{secrets.token_hex(2)}"


def new_run_folder(runs_dir: Path, run_id: str) -> Path:
    """Make ``runs_dir/run_id``, which must not exist; errors name the folder."""
    if not re.fullmatch(r"[\w.+-]+", run_id) or run_id.startswith("."):
        raise RunNameError(f"run_id must be made of letters, digits, '_', '-', '+' and '.', got {run_id!r}.")
    folder = runs_dir.resolve() / run_id
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if folder.exists():
            raise FileExistsError(f"the run {run_id!r} exists already in {runs_dir}.") from None
        raise NotADirectoryError(f"{runs_dir} is not a folder that run folders can be made in.") from None
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot make a run folder in {runs_dir}: {error.strerror}", str(folder)
        ) from error
    return folder


def check_kernel(kernel: str) -> None:
    """Raise :class:`KernelMissingError` unless the kernel is installed; the message lists those that are."""
    installed = kernels()
    if kernel not in installed:
        listed = "\n".join(f"  {name:<16} {place}" for name, place in installed.items()) or "  (none)"
        raise KernelMissingError(
            f"there is no Jupyter kernel {kernel!r}. Installed kernels:\n{listed}\n"
            f"Install one with: {python_executable()} -m ipykernel install --sys-prefix --name {kernel}"
        )


def run_many(
    jobs: Iterable[Job | str | Path],
    *,
    workers: int = 2,
    runs_dir: str | Path = "runs",
    progress: Progress | None = None,
    **options: Any,
) -> list[RunRecord]:
    """Execute several notebooks in worker processes; one that fails, or kills its worker, does not stop the others.

    Args:
        jobs: notebooks, or :class:`Job` with parameters.
        workers: how many run at once.
        progress: called with (notebooks done, notebooks, what just ended).
        **options: passed to :func:`run_notebook`.

    Returns:
        The runs in the order of the jobs.

    Raises:
        FileNotFoundError, ParameterError, KernelMissingError: for any job, before the first one starts.
    """
    todo = [job if isinstance(job, Job) else Job(job) for job in jobs]
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    check_kernel(options.get("kernel", "python3"))
    ready = []
    for job in todo:
        path = resolve_notebook(job.notebook)
        check_parameters(
            read_parameters(path), job.parameters, text=options.get("text", False), notebook=notebook_key(path)
        )
        ready.append(Job(path, dict(job.parameters), job.run_id or new_run_id(notebook_key(path))))
    folder = Path(runs_dir).resolve()
    results: dict[int, RunRecord] = {}
    waiting = list(range(len(ready)))
    while waiting:
        waiting = _run_pool(ready, waiting, results, min(workers, len(waiting)), folder, progress, options)
    return [results[i] for i in range(len(ready))]


def _run_pool(
    jobs: list[Job],
    waiting: list[int],
    results: dict[int, RunRecord],
    workers: int,
    runs_dir: Path,
    progress: Progress | None,
    options: dict[str, Any],
) -> list[int]:
    """Run jobs in one pool of processes; returns those that a dying worker kept from starting."""

    def finish(index: int, run: RunRecord) -> None:
        results[index] = run
        if progress is not None:
            progress(len(results), len(jobs), f"{run.notebook}: {run.status}")

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending: dict[Future[RunRecord], int] = {
            pool.submit(_run_job, jobs[i], str(runs_dir), options): i for i in waiting
        }
        broken: list[int] = []
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                index = pending.pop(future)
                try:
                    finish(index, future.result())
                except BrokenExecutor:
                    broken.append(index)
                except Exception as error:
                    finish(index, _failed(jobs[index], runs_dir, error))
    restart = []
    for index in broken:  # a worker died: what had begun is interrupted, the rest is tried again
        folder = runs_dir / str(jobs[index].run_id)
        if (folder / "run.json").is_file():
            finish(index, read_run(folder))
        elif folder.exists():
            finish(index, _failed(jobs[index], runs_dir, RuntimeError("the worker process died")))
        else:
            restart.append(index)
    return restart if len(restart) < len(waiting) else _give_up(restart, jobs, runs_dir, finish)


def _give_up(
    restart: list[int], jobs: list[Job], runs_dir: Path, finish: Callable[[int, RunRecord], None]
) -> list[int]:
    for index in restart:
        finish(index, _failed(jobs[index], runs_dir, RuntimeError("worker processes die before they can start a run")))
    return []


def _failed(job: Job, runs_dir: Path, error: Exception) -> RunRecord:
    return RunRecord(
        str(job.run_id),
        runs_dir / str(job.run_id),
        "failed",
        notebook_key(job.notebook),
        failure=Failure(None, type(error).__name__, str(error)),
    )


def _run_job(job: Job, runs_dir: str, options: dict[str, Any]) -> RunRecord:
    return run_notebook(job.notebook, job.parameters, runs_dir=runs_dir, run_id=job.run_id, **options)


def default_runs_dir() -> Path:
    """``runs/`` of the project."""
    return project_root() / "runs"


def summary_json(runs: Iterable[RunRecord]) -> str:
    """Runs as JSON text, for ``--json``."""
    return to_json([run.to_dict() for run in runs])
