"""Executing notebooks through papermill: strict parameters, a run folder each, several at once, failures collected."""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..scratch import Scratch
from .environment import git_commit, kernels, python_executable, versions
from .files import (
    NotebookError,
    load_notebook,
    notebook_key,
    plain,
    project_root,
    resolve_notebook,
    slug_of,
    to_json,
    write_json,
)
from .meter import collect
from .outputs import DEFAULT_MEGABYTES, last_lines, trim_log
from .parameters import Parameter, check_parameters, literal, read_parameters
from .records import SCHEMA, document_hash
from .store import Failure, RunRecord, owner, read_run

DEFAULT_TIMEOUT = 600
_LONGEST_TIMEOUT = 1e7  # seconds, 115 days: what the clocks below take
_LONGEST_ID = 200  # bytes of a run's name; folders may have 255
_TRACEBACK_LINES = 25
Progress = Callable[[int, int, str], None]


class KernelMissingError(RuntimeError):
    """The Jupyter kernel a run asks for is not installed."""


class RunNameError(ValueError):
    """A name that a run folder cannot have."""


class RunOptionError(ValueError):
    """A limit of time or of outputs that is no sensible number."""


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
    output_limit: float = DEFAULT_MEGABYTES,
) -> RunRecord:
    """Execute a notebook and keep what came of it in a run folder.

    The kernel gets ``KDW_RUN_DIR`` (where ``record(...)`` writes), ``OMP_NUM_THREADS=1`` unless it is set, and, with
    ``static``, ``KDW_STATIC=1`` (panels show their static form). It starts in the notebook's own folder, as in
    JupyterLab.

    Args:
        notebook: path, key (``"ranking/pld"``) or slug (``"pld"``).
        parameters: values by name; with ``text`` command-line text to be read in the declared types.
        runs_dir: where run folders live.
        run_id: name of the run's folder; default the time, a slug made from the notebook's name and four random
            characters.
        timeout: seconds one cell may take, above 0 (``None``: no limit).
        kernel: name of an installed Jupyter kernel.
        progress: called with (cells done, cells, notebook) after every cell.
        env: further variables for the kernel.
        output_limit: megabytes of outputs that are kept in the executed notebook (32; a cell keeps at most half of what
            is left). What is more is read and dropped, with a notice in the cell.

    Returns:
        The run. A notebook that raises, that ends itself (``sys.exit()``, also with 0) or whose kernel dies gives
        ``status="failed"`` with :class:`Failure`, not an exception.

    Raises:
        FileNotFoundError: no such notebook.
        NotebookError: the file is no notebook of this language (before anything is written).
        RunOptionError: ``timeout`` or ``output_limit`` is no number above 0.
        ParameterError: unknown or ill-typed parameters (before a kernel starts).
        KernelMissingError: the kernel is not installed (before anything is written).
        RunNameError, FileExistsError: ``run_id`` cannot be a folder's name, or exists already.
        OSError: the run folder cannot be written.
    """
    plan = _plan(notebook, parameters or {}, kernel=kernel, timeout=timeout, text=text, output_limit=output_limit)
    path, key = plan.path, plan.key
    info = {
        "schema": SCHEMA,
        "id": run_id or new_run_id(key),
        "status": "running",
        "notebook": key,
        "slug": slug_of(key),
        "path": str(path),
        "source_sha256": document_hash(plan.document),
        "parameters": {n: p.default for n, p in plan.known.items()} | plan.given,
        "given": plan.given,
        "kernel": kernel,
        "static": static,
        "timeout": timeout,
        "output_limit": output_limit,
        **owner(),
        "versions": versions(),
        "git": git_commit(path.parent),
        "started": time.time(),
    }
    folder = new_run_folder(Path(runs_dir), info)
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
        failure = _execute(plan, folder, variables, kernel, timeout, output_limit, report)
        status = "failed" if failure else "done"
    except Exception as error:
        said = _excerpt(last_lines(folder / "kernel.log"))
        failure = Failure(reached or None, type(error).__name__, str(error)[-2000:], traceback=said)
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):  # the folder, not a cell that takes long
            raise
    except BaseException as error:  # Ctrl-C, or a signal's handler that ends this process
        stopped = "stopped by the user" if isinstance(error, KeyboardInterrupt) else "the process was ended"
        status, failure = "interrupted", Failure(None, type(error).__name__, stopped)
        raise
    finally:
        partial = folder / "notebook.partial.ipynb"
        with suppress(
            OSError
        ):  # a cell may have done anything to the folder; how the run ended is written all the same
            if partial.is_file():
                os.replace(partial, folder / "notebook.ipynb")
            trim_log(folder / "kernel.log")
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


@dataclass(frozen=True)
class _Plan:
    """A notebook that may run: everything that could be refused was looked at, nothing was written yet."""

    path: Path
    key: str
    document: dict[str, Any]
    known: dict[str, Parameter]
    given: dict[str, Any]


def _plan(
    notebook: str | Path,
    parameters: Mapping[str, Any],
    *,
    kernel: str = "python3",
    timeout: float | None = DEFAULT_TIMEOUT,
    text: bool = False,
    output_limit: float = DEFAULT_MEGABYTES,
    **_: Any,
) -> _Plan:
    if timeout is not None:
        _check_number("timeout", timeout, "seconds", _LONGEST_TIMEOUT)
    _check_number("output_limit", output_limit, "megabytes", 1e6)
    path = resolve_notebook(notebook)
    key, document = notebook_key(path), load_notebook(path)
    _check_language(path, document["metadata"], kernel)
    known = read_parameters(document)
    given = check_parameters(known, parameters, text=text, notebook=key)
    check_kernel(kernel)
    return _Plan(path, key, document, known, given)


def _check_number(name: str, value: Any, unit: str, most: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= most:
        raise RunOptionError(f"{name} must be a number of {unit} above 0 and at most {most:g}, got {value!r:.60}.")


def _check_language(path: Path, metadata: Mapping[str, Any], kernel: str) -> None:
    """A notebook without a kernelspec runs in the kernel that was asked for; one in another language does not."""
    spec, info = (metadata.get(name) for name in ("kernelspec", "language_info"))
    spec, info = (part if isinstance(part, dict) else {} for part in (spec, info))
    language = str(spec.get("language") or info.get("name") or "python")
    if kernel == "python3" and language.lower() not in ("python", "ipython"):
        raise NotebookError(
            f"{path} is written in {language:.40}, not in Python; its kernel is called {spec.get('name')!r:.60} "
            "(see --kernel)."
        )


def _execute(
    plan: _Plan,
    folder: Path,
    variables: dict[str, str],
    kernel: str,
    timeout: float | None,
    output_limit: float,
    on_cell: Callable[[int, int], None],
) -> Failure | None:
    """Run through papermill into ``notebook.partial.ipynb``; the failure of a cell is returned.

    papermill gets the notebook with its parameters in it: it writes tuples as text and keys of dicts as text.
    """
    import logging

    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from .kernel import ENGINE, CellExitError, RunKernelManager, kernel_config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    target = folder / "notebook.partial.ipynb"
    write_json(target, _with_parameters(plan))
    with Scratch("run") as sockets:
        try:
            execute_notebook(
                _escape(target),
                _escape(target),
                engine_name=ENGINE,
                kernel_name=kernel,
                progress_bar=False,
                request_save_on_cell_execute=True,
                autosave_cell_every=0,
                seconds=timeout,
                output_limit=math.ceil(output_limit * 1e6),
                store_widget_state=False,
                kernel_manager_class=RunKernelManager,
                config=kernel_config(variables, sockets, folder / "kernel.log"),
                resources={"metadata": {"path": str(plan.path.parent)}},
                on_cell=on_cell,
            )
        except PapermillExecutionError as error:
            return Failure(
                error.cell_index + 1, error.ename, error.evalue[:2000], error.source[:2000], _excerpt(error.traceback)
            )
        except CellExitError as error:
            return Failure(error.cell, "SystemExit", str(error), error.source[:2000])
    return None


def _with_parameters(plan: _Plan) -> dict[str, Any]:
    """The notebook with the given parameters in a cell of their own after the ``parameters`` cell."""
    cells = [c for c in plan.document["cells"] if "injected-parameters" not in c["metadata"].get("tags", [])]
    if plan.given:
        source = "\n".join(["# Parameters", *(f"{name} = {literal(value)}" for name, value in plan.given.items())])
        cell: dict[str, Any] = {
            "cell_type": "code", "id": "injected-parameters", "metadata": {"tags": ["injected-parameters"]},
            "source": source, "outputs": [], "execution_count": None,
        }  # fmt: skip
        code = [c["cell_type"] == "code" and "parameters" in c["metadata"].get("tags", []) for c in cells]
        place = code.index(True) + 1
        cells = [*cells[:place], cell, *cells[place:]]
    papermill = {
        "default_parameters": {},
        "environment_variables": {},
        "version": versions(("papermill",))["papermill"],
    }
    metadata = plan.document["metadata"] | {"papermill": papermill | {"parameters": plain(plan.given)}}
    return plan.document | {"cells": cells, "metadata": metadata}


def _escape(path: Path) -> str:
    """papermill formats paths as templates."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _excerpt(traceback: Sequence[str]) -> str:
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(traceback)).splitlines()
    return "\n".join(lines[-_TRACEBACK_LINES:])


def new_run_id(key: str) -> str:
    """``"ranking/pld"`` -> ``"20260102-030405-pld-9f3a"``; any name gives one that folders may have."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{slug_of(key)}-{secrets.token_hex(2)}"


def new_run_folder(runs_dir: Path, info: Mapping[str, Any]) -> Path:
    """Make the folder of a run, which must not exist, with its ``run.json`` in it; errors name the folder.

    Args:
        runs_dir: where run folders live.
        info: content of ``run.json``; its ``id`` is the folder's name. It is complete, so that a process that is killed
            right here leaves a run that is known.
    """
    run_id = info["id"]
    if not re.fullmatch(r"[\w.+-]+", run_id) or run_id.startswith("."):
        raise RunNameError(f"run_id must be made of letters, digits, '_', '-', '+' and '.', got {run_id!r}.")
    if len(run_id.encode()) > _LONGEST_ID:
        raise RunNameError(
            f"run_id must take at most {_LONGEST_ID} bytes, got {run_id[:40]!r}... of {len(run_id)} letters."
        )
    folder = runs_dir.expanduser().resolve() / run_id
    made = False
    try:
        folder.mkdir(parents=True)
        made = True
        write_json(folder / "run.json", info)
    except FileExistsError:
        if folder.exists():
            raise FileExistsError(f"the run {run_id!r} exists already in {runs_dir}.") from None
        raise NotADirectoryError(f"{runs_dir} is not a folder that run folders can be made in.") from None
    except OSError as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
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
        FileNotFoundError, NotebookError, ParameterError, RunOptionError, KernelMissingError: for any job, before the
            first one starts.
    """
    todo = [job if isinstance(job, Job) else Job(job) for job in jobs]
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    ready = []
    for job in todo:
        plan = _plan(job.notebook, job.parameters, **options)
        ready.append(Job(plan.path, dict(job.parameters), job.run_id or new_run_id(plan.key)))
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
