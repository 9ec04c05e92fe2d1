"""``kdw``: the command line of the workbench.

Exit codes: 0 all is well, 1 a run or a check failed, 2 the command was used wrongly (unknown notebook, parameter,
option). Commands import what they need when they run, so that ``kdw --help`` is quick.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from rich.table import Table

    from .runs.store import RunRecord

FAILED, USAGE = 1, 2
_LOG = 8000  # characters of a failing step's output that are shown, from its end
_PIPE_WIDTH = 160  # columns of a table that goes into a file or pipe
_CELL_LETTERS = 400  # of a message in a table

app = typer.Typer(
    name="kdw",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Learn, see and compare knowledge distillation. Exit codes: 0 ok, 1 a run or check failed, 2 wrong usage.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
RunsDir = Annotated[
    Path | None, typer.Option("--runs-dir", help="Where run folders live; default: runs/ of the project.")
]
Kernel = Annotated[str, typer.Option(help="Jupyter kernel to run in.")]
Timeout = Annotated[float, typer.Option(help="Seconds one cell may take, above 0.")]
OutputLimit = Annotated[float, typer.Option("--output-limit", metavar="MB", help="Megabytes of outputs a run keeps.")]
Workers = Annotated[int, typer.Option("-j", "--jobs", min=1, help="Notebooks at once.")]


def _friendly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what the user can put right (wrong name or value, a read-only folder) into a message and a code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from .runs.execute import KernelMissingError, RunNameError, RunOptionError
        from .runs.files import NotebookError
        from .runs.parameters import ParameterError

        wrong = (ParameterError, RunNameError, RunOptionError, NotebookError, FileNotFoundError, FileExistsError)
        try:
            return command(*args, **kwargs)
        except wrong as error:
            raise _stop(str(error), USAGE) from None
        except (KernelMissingError, OSError) as error:
            raise _stop(str(error), FAILED) from None

    return wrapped


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"kd-workbench {version('kd-workbench')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and stop.")
    ] = False,
) -> None:
    for stream in (sys.stdout, sys.stderr):  # names of files and messages may hold what the terminal cannot write
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _stop(text: str, code: int) -> typer.Exit:
    typer.echo(f"kdw: {text}", err=True)
    return typer.Exit(code)


def _text(value: Any) -> Any:
    """A value for a rich table, as it is: rich would read ``[/x]`` in it as its own markup, a terminal ``\\x1b``."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() or c == "\n" else " " if c.isspace() else "�" for c in str(value)))


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, wide: str = "") -> None:
    """Print a table; the one place where text meets rich."""
    from rich.console import Console
    from rich.table import Table

    heading = _text(title)
    heading.stylize("italic")
    table: Table = Table(title=heading, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(_text(column), overflow="fold", ratio=1 if column == wide else None)
    for row in rows:
        table.add_row(*map(_text, row))
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)


def _first_lines(text: str) -> str:
    """The beginning of a message that may be a traceback or a file."""
    return text if len(text) <= _CELL_LETTERS else f"{text[:_CELL_LETTERS]}..."


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _json(value: Any) -> None:
    from .runs.files import to_json

    typer.echo(to_json(value), nl=False)


def _runs_dir(given: Path | None) -> Path:
    from .runs.files import project_root

    return given if given is not None else project_root() / "runs"


# ---------------------------------------------------------------------------------------------- what there is


@app.command("list")
def list_command(
    pattern: Annotated[str, typer.Argument(help="Glob over slugs.")] = "*",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", metavar="AXIS=VALUE", help="Keep papers with this value; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the implemented methods, from their cards. Filters: --where family=ranking, --where signal=listwise, ..."""
    from kdcore.card import AXES
    from kdcore.registry import get_card, list_methods

    filters: dict[str, list[str]] = {}
    for item in where or ():
        axis, equals, value = item.partition("=")
        if not equals:
            raise _stop(f"--where must be AXIS=VALUE, got {item!r}.", USAGE)
        filters.setdefault(axis, []).append(value)
    try:
        cards = [get_card(slug) for slug in list_methods(pattern, **filters)]
    except ValueError as error:
        raise _stop(str(error), USAGE) from None
    if as_json:
        _json(
            [
                {
                    "slug": c.slug, "title": c.title, "authors": c.authors, "year": c.year, "arxiv": c.arxiv,
                    "official_code": c.official_code, "family": c.family, "summary": c.summary,
                    "objectives": [o.name for o in c.objectives], "notebook": c.notebook, "parity": c.parity.status,
                    "axes": {axis: c.axes.values(axis) for axis in AXES},
                }
                for c in cards
            ]
        )  # fmt: skip
        return
    rows = [
        (c.slug, c.family, f"{c.authors} {c.year}", " ".join(o.name for o in c.objectives), c.parity.status, c.title)
        for c in cards
    ]
    _table(f"{len(cards)} methods", ("slug", "family", "paper", "objectives", "parity", "title"), rows, wide="title")


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the tasks (data with reference teacher and student) and their options."""
    import inspect

    from kdcore.tasks import list_tasks, task_info

    infos = [task_info(name) for name in list_tasks()]
    shown = [
        {
            "name": i.name,
            "words": i.words,
            "options": {n: None if d is inspect.Parameter.empty else str(d) for n, d in i.options.items()},
            "required": list(i.required),
        }
        for i in infos
    ]
    if as_json:
        _json(shown)
        return
    rows = [
        (i.name, i.words, ", ".join(n if n in i.required else f"{n}={d!r}" for n, d in i.options.items()))
        for i in infos
    ]
    _table(f"{len(rows)} tasks", ("task", "what", "options"), rows, wide="options")


@app.command()
@_friendly
def runs(
    notebook: Annotated[str | None, typer.Argument(help="Only runs of this notebook (key or slug).")] = None,
    status: Annotated[str | None, typer.Option(help="Only runs with this status.")] = None,
    mark: Annotated[bool, typer.Option("--mark", help="Write 'interrupted' into runs whose process is gone.")] = False,
    as_json: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """List the runs, newest first; a run whose process was killed is shown as interrupted."""
    import time

    from .runs.store import STATES, list_runs, mark_interrupted

    if status is not None and status not in STATES:
        raise _stop(f"--status must be one of {', '.join(STATES)}, got {status!r}.", USAGE)
    folder = _runs_dir(runs_dir)
    if mark:
        mark_interrupted(folder)
    found = list_runs(folder, notebook=notebook, status=status)
    if as_json:
        _json([run.to_dict() for run in found])
        return
    rows = [
        (
            run.id,
            run.status,
            run.notebook,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.info["started"])) if "started" in run.info else "-",
            "-" if run.seconds is None else f"{run.seconds:.0f} s",
            _first_lines(str(run.failure or " ".join(f"{k}={v}" for k, v in run.info.get("given", {}).items()))),
        )
        for run in found
    ]
    _table(
        f"{len(rows)} runs in {folder}", ("id", "status", "notebook", "started", "took", "parameters or failure"), rows
    )


# ---------------------------------------------------------------------------------------------- running


def join_pairs(arguments: Sequence[str]) -> list[str]:
    """``-p name value`` -> ``-p name=value``, so that both forms are taken; a value may start with a dash."""
    joined, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        joined.append(word)
        if word in ("-p", "--parameter") and rest:
            name = rest.pop(0)
            joined.append(name if "=" in name or not rest else f"{name}={rest.pop(0)}")
    return joined


class _PairsCommand(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_pairs(args))


@app.command(cls=_PairsCommand)
@_friendly
def run(
    notebook: Annotated[str, typer.Argument(help="Slug (pld), key (ranking/pld) or path.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME VALUE", help="Set a parameter; repeatable.")
    ] = None,
    help_parameters: Annotated[
        bool, typer.Option("--help-parameters", help="List the notebook's parameters and stop.")
    ] = False,
    run_id: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Show panels as widgets, not in their static form.")] = False,
    kernel: Kernel = "python3",
    timeout: Timeout = 600.0,
    output_limit: OutputLimit = 32.0,
    as_json: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """Execute a notebook into a run folder. Unknown or ill-typed parameters are refused before the kernel starts."""
    from .runs.execute import run_notebook
    from .runs.files import resolve_notebook
    from .runs.parameters import describe_parameters, read_parameters
    from .runs.progress import progress_bars
    from .runs.records import record_text

    path = resolve_notebook(notebook)
    if help_parameters:
        known = read_parameters(path)
        if as_json:
            _json([{"name": p.name, "type": p.type_name, "default": p.default, "help": p.help} for p in known.values()])
        else:
            typer.echo(describe_parameters(known))
        return
    given = {}
    for item in parameter or ():
        name, equals, value = item.partition("=")
        if not equals:
            raise _stop(f"-p must be followed by a name and a value, got {item!r} alone.", USAGE)
        given[name] = value
    with progress_bars(quiet=as_json) as bars:
        done = run_notebook(
            path, given, runs_dir=_runs_dir(runs_dir), run_id=run_id, timeout=timeout, kernel=kernel,
            progress=bars.report(path.stem), static=not live, text=True, output_limit=output_limit,
        )  # fmt: skip
    if as_json:
        _json(done.to_dict())
    elif done.ok:
        typer.echo(record_text(done.record) if done.record else "(nothing recorded)")
        typer.echo(f"{done.notebook}: {done.status} in {done.seconds:.0f} s, {done.executed}")
    if not done.ok:
        _show_failures([done])
        raise typer.Exit(FAILED)


@app.command(cls=_PairsCommand)
@_friendly
def study(
    slug: Annotated[str, typer.Argument(help="Slug of a paper with a study.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per arm.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="The full tier: hours, data in KDCORE_DATA.")] = False,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME VALUE", help="Set an option; repeatable.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write the result to docs/results/<slug>.json (-tuned.json).")
    ] = False,
    remark: Annotated[str, typer.Option(help="With --keep: what a reader must know of the result.")] = "",
    as_json: AsJson = False,
) -> None:
    """Run a paper's study without its notebook: numbers with intervals, and verdicts on the paper's claims."""
    from .runs import study as studies
    from .runs.progress import progress_bars

    try:
        options = studies.read_options(slug, parameter or (), quick=not full)
        if keep and seeds < 2:
            raise ValueError("--keep needs --seeds 2 or more, better 10: one seed settles nothing.")
    except ValueError as error:
        raise _stop(str(error), USAGE) from None
    with progress_bars(quiet=as_json) as bars:
        record = studies.run_study(slug, seeds=seeds, quick=not full, options=options, report=bars.report)
    if keep:
        typer.echo(f"kept in {studies.keep(record, remark=remark)}", err=True)
    if as_json:
        _json(record)
        return
    for part in record["experiments"]:
        percent = " in %" if part["metric"] == "accuracy" else ""
        _table(
            f"{part['words']}: {part['metric']}{percent}, {seeds} seeds",
            ("arm", "mean", "95 %", f"against {part['baseline']}", "95 %", "p"),
            studies.rows(part),
        )
        tuned = [studies.tuning_words(part["tuning"])] if "tuning" in part else []
        lines = [*tuned, *part["effects"], *(control["sentence"] for control in part["controls"])]
        typer.echo("\n".join(["", *lines, ""] if lines else [""]))
    typer.echo("\n".join(verdict["sentence"] for verdict in record["verdicts"]))


def _show_failures(failed: Iterable[RunRecord]) -> None:
    for run in failed:
        typer.echo(f"\n{run.notebook} {run.status}: {run.failure}", err=True)
        if run.failure is not None and run.failure.traceback:
            typer.echo("\n".join(f"    {line}" for line in run.failure.traceback.splitlines()), err=True)
        typer.echo(f"    {run.executed if run.executed.is_file() else run.folder}", err=True)


@app.command()
@_friendly
def notebooks(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Glob over keys (ranking/*) or slugs; repeatable.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the recorded numbers as baselines and print the diff.")
    ] = False,
    baselines: Annotated[
        Path | None, typer.Option(help="Folder of baselines; default: tests/notebooks/baselines.")
    ] = None,
    workers: Workers = 2,
    kernel: Kernel = "python3",
    timeout: Timeout = 600.0,
    output_limit: OutputLimit = 32.0,
    as_json: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """Execute all notebooks in parallel and compare what they record with the baselines."""
    from .runs.baselines import BASELINES, compare_runs, drift_table, update_baselines
    from .runs.execute import run_many
    from .runs.files import find_notebooks, notebook_key, project_root
    from .runs.progress import progress_bars

    root = project_root()
    found = {pattern: find_notebooks(root, pattern) for pattern in only or ["*"]}
    for pattern, matching in found.items():
        if not matching:
            raise _stop(f"no notebook matches {pattern!r} in {root / 'notebooks'}.", USAGE)
    paths, file = sorted({p for matching in found.values() for p in matching}), baselines or root / BASELINES
    with progress_bars(quiet=as_json) as bars:
        done = run_many(
            paths, workers=workers, runs_dir=_runs_dir(runs_dir), kernel=kernel, timeout=timeout,
            progress=bars.report("notebooks"), output_limit=output_limit,
        )  # fmt: skip
    bad = [run for run in done if not run.ok]
    if update and not bad:
        everything = [notebook_key(p, root) for p in find_notebooks(root)]
        try:
            difference = update_baselines(done, file, keep=everything)
        except ValueError as error:
            raise _stop(str(error), FAILED) from None
        typer.echo(difference or "the baselines are as they were.", err=as_json)
    rows = compare_runs(done, file)
    drift = [row for row in rows if not row.ok]
    if as_json:
        _json({"runs": [r.to_dict() for r in done], "drift": [vars(row) for row in drift]})
    else:
        _table(
            f"{len(done)} notebooks", ("notebook", "status", "took", "CPU", "cold", "metrics", "run"),
            [(r.notebook, r.status, f"{r.seconds or 0:.0f} s", _seconds(r.cpu_seconds), _seconds(r.computing),
              len(r.metrics), r.id) for r in done],
        )  # fmt: skip
        if drift:
            typer.echo("\n" + drift_table(rows), err=True)
            typer.echo("\nIf the new numbers are right: kdw notebooks --update, and review the diff.", err=True)
    _show_failures(bad)
    if bad or drift:
        raise typer.Exit(FAILED)


@app.command()
@_friendly
def check(
    slug: Annotated[str, typer.Argument(help="Slug of a paper.")] = "",
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Steps at once.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Prove one paper: lint, tests, contracts, study, pictures, lesson, mutation check. Exit code 1 if one fails."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .runs.check import Step, check_paper

    done: list[Step] = []
    started = time.monotonic()
    try:
        for step in check_paper(slug, jobs=jobs):
            done.append(step)
            if not as_json:
                typer.echo(f"{step.name}: {'ok' if step.ok else 'FAILED'} in {step.seconds:.0f} s", err=True)
    except ValueError as error:
        raise _stop(str(error), USAGE) from None
    bad = [step for step in done if not step.ok]
    for step in bad:
        typer.echo(f"\n== {step.name}\n{step.log[-_LOG:]}", err=True)
    if as_json:
        _json([vars(step) for step in done])
    else:
        rows = [(s.name, "ok" if s.ok else "FAILED", f"{s.seconds:.1f} s", s.said) for s in done]
        _table(f"{slug}: {time.monotonic() - started:.0f} s", ("step", "outcome", "took", "said"), rows)
    if bad:
        raise typer.Exit(FAILED)


@app.command()
@_friendly
def demo(
    seeds: Annotated[int, typer.Option(min=2, help="Students per method.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs per student.")] = 60,
    lessons: Annotated[bool, typer.Option(help="Also execute the start page and the lessons.")] = True,
    workers: Workers = 2,
    run_id: Annotated[str | None, typer.Option(help="Name of the run folder.")] = None,
    as_json: AsJson = False,
    runs_dir: RunsDir = None,
) -> None:
    """Distil a student with five methods on real digits, execute the lessons, write a report (three minutes)."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .runs.demo import run_demo
    from .runs.progress import progress_bars

    with progress_bars(quiet=as_json) as bars:
        result = run_demo(
            runs_dir=_runs_dir(runs_dir), run_id=run_id, seeds=seeds, epochs=epochs, lessons=lessons, workers=workers,
            bars=bars,
        )  # fmt: skip
    if as_json:
        _json(result.to_dict())
    else:
        typer.echo(result.text())
    _show_failures(run for run in result.lessons if not run.ok)
    if not result.ok:
        raise typer.Exit(FAILED)


@app.command()
@_friendly
def lab(
    port: Annotated[int | None, typer.Option(help="TCP port; default: 8888 or the next free one.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
    start: Annotated[str, typer.Option(help="Notebook to open: slug, key or path.")] = "00_start_here",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command and stop.")] = False,
) -> None:
    """Start JupyterLab on the start page, with the settings that ship with us."""
    import shlex

    from .lab_server import lab_command
    from .runs.environment import find_browser, is_root
    from .runs.files import project_root, resolve_notebook

    root = project_root()
    chosen = resolve_notebook(start, root)
    if not chosen.is_relative_to(root.resolve()):
        raise _stop(f"--start must be a notebook below {root}, got {chosen}.", USAGE)
    page = chosen.relative_to(root.resolve()).as_posix()
    headless = not os.environ.get("DISPLAY") and sys.platform.startswith("linux") and find_browser() is None
    command = lab_command(root, port, start=page, browser=browser and not headless, allow_root=is_root())
    if dry_run:
        typer.echo(shlex.join(command))
        return
    typer.echo("JupyterLab prints its address below; stop it with Ctrl-C.")
    try:
        raise typer.Exit(subprocess.run(command, check=False).returncode)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command("diagnose")
@_friendly
def diagnose_command(
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            metavar="NAME[:CHECKPOINT]",
            help="A timm or reference network; trained on the data first if it has no checkpoint.",
        ),
    ],
    student: Annotated[
        str,
        typer.Option(
            "--student", metavar="NAME[:CHECKPOINT]", help="Likewise; without a checkpoint examined as initialised."
        ),
    ],
    data: Annotated[str, typer.Option("--data", help="Folder of class folders (or a task such as digits).")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("diagnosis.html"),
    size: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Side in pixels of the images of a folder; without it their "
            "own where they are squares of one size, else 64.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=8, help="Images used.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    training: Annotated[
        bool,
        typer.Option(
            "--training", help="Hold the samples against the data's training part (up to 20,000): copies, preparation."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with a teacher-student pair, or what the student has not learnt; writes an offline page."""
    from kdcore.checkpoints import CheckpointError

    from .diagnose_report import run_diagnosis

    def progress(done: int, parts: int, text: str) -> None:
        typer.echo(f"  {done + 1} of {parts}: {text}", err=True)

    try:
        found, page = run_diagnosis(
            teacher, student, data, out, size=size, limit=limit, seed=seed, training=training, progress=progress
        )
    except (ValueError, CheckpointError) as error:
        raise _stop(str(error), USAGE) from None
    if as_json:
        _json(found.to_dict())
        return
    typer.echo(str(found))
    typer.echo(f"\n{page}")


# ---------------------------------------------------------------------------------------------- care


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the environment: versions, kernel, GPU, browser, folders. Exit code 1 if something needed is missing."""
    from .runs.doctor import examine

    checks = examine()
    if as_json:
        _json([c.to_dict() for c in checks])
    else:
        words = {(True, True): "ok", (True, False): "ok", (False, True): "MISSING", (False, False): "absent"}
        _table(
            "environment", ("check", "", "found", "advice"),
            [(c.name, words[c.ok, c.needed], c.found, "" if c.ok else c.advice) for c in checks],
        )  # fmt: skip
    missing = [c for c in checks if c.needed and not c.ok]
    typer.echo(f"{len(missing)} needed thing(s) missing" if missing else "all that is needed is there", err=True)
    if missing:
        raise typer.Exit(FAILED)


@app.command()
@_friendly
def pair(
    paths: Annotated[list[Path] | None, typer.Argument(help="Percent scripts; default: all of notebooks/.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only verify; exit code 1 if a notebook is not its script's.")
    ] = False,
    from_notebook: Annotated[
        Path | None,
        typer.Option("--from-notebook", help="Write the script from this notebook (edited in Jupyter), then pair."),
    ] = None,
) -> None:
    """Generate the notebooks (.ipynb, without outputs) from the percent scripts (.py)."""
    from kdcore.files import write_atomic

    from .runs import pairing
    from .runs.files import script_of

    if from_notebook is not None:
        script = script_of(from_notebook)
        write_atomic(script, pairing.script_text(from_notebook))
        paths = [script]
    states = pairing.check_pairs(paths)
    wrong = [s for s in states if s.problem]
    for state in wrong:
        if not check and state.script.is_file():
            pairing.pair(state.script)
            typer.echo(f"wrote {state.notebook} ({state.problem})")
        else:
            typer.echo(f"{state.notebook}: {state.problem}\n{state.diff[:2000]}", err=True)
    stuck = [s for s in wrong if check or not s.script.is_file()]
    typer.echo(
        f"{len(states)} pairs, {len(stuck)} wrong" if check or stuck else f"{len(states)} pairs, {len(wrong)} written"
    )
    if stuck:
        raise typer.Exit(FAILED)


@app.command()
@_friendly
def new(
    slug: Annotated[str, typer.Argument(help="Name of the method's module, lesson and test.")],
    family: Annotated[str | None, typer.Option(help="Chapter; for a paper outside the collection.")] = None,
    title: Annotated[str | None, typer.Option(help="Title; for a paper outside the collection.")] = None,
) -> None:
    """Write the four files of a new method: card, study, lesson and test. Its tests fail until they are filled."""
    from .scaffold import scaffold

    try:
        written = scaffold(slug, family, title)
    except ValueError as error:
        raise _stop(str(error), USAGE) from None
    for path in written:
        typer.echo(f"wrote {path}")


if __name__ == "__main__":
    app()
