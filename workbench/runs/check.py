"""All that proves one paper: ``kdw check SLUG``, ``make test-paper PAPER=SLUG``; the inner loop while one is written.

Lint of its files, its tests, its part of the contracts (with its study on two seeds of two epochs), tests of its
pictures, its lesson against the baseline, and the mutation check. This process imports torch, kdcore and pytest once;
every step runs in a fork of it, so that steps are quick and nothing passes from one to the next. Where there is no
fork, a step is an ordinary process.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import connection
from pathlib import Path
from typing import Any

from .files import find_notebooks, notebook_key, project_root, script_of

_PYTEST = ("-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist",
           "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")  # fmt: skip
_NOTHING_COLLECTED = 5


@dataclass(frozen=True)
class Step:
    """What came of one step: how long it took, in one line what it said, and in full what it printed."""

    name: str
    ok: bool
    seconds: float
    said: str
    log: str


def papers(root: Path) -> list[str]:
    """Slugs of the papers that have a method file, whether it can be imported or not."""
    return sorted(p.stem for p in (root / "kdcore" / "methods").glob("[!_]*.py"))


def files_of(slug: str, root: Path) -> list[Path]:
    """The Python files of a paper that are there: method, study, pictures, lesson, tests."""
    named = [
        *(root / f"{folder}/{slug}.py" for folder in ("kdcore/methods", "kdcore/studies", "workbench/views/papers")),
        *(script_of(page) for page in find_notebooks(root, slug)),
        root / f"tests/methods/test_{slug}.py",
        *_view_tests(slug, root),
    ]
    return [path for path in named if path.is_file()]


def _view_tests(slug: str, root: Path) -> list[Path]:
    return sorted((root / "tests" / "workbench").glob(f"test_*_{slug}.py"))


def check_paper(slug: str, root: Path | None = None, *, jobs: int = 2) -> Iterator[Step]:
    """Run the steps, some at once, and give each one's outcome when it is there.

    Raises:
        ValueError: there is no such paper (the message lists those that exist), or a tool that the steps need.
    """
    root = (root or project_root()).resolve()
    known = papers(root)
    if slug not in known:
        raise ValueError(f"there is no paper {slug!r}. There are: {', '.join(known)}.")
    if missing := [name for name in ("pytest", "hypothesis", "ruff") if find_spec(name) is None]:
        raise ValueError(f"the check needs {', '.join(missing)}: pip install -e '.[dev]'.")
    pictures, pages = _view_tests(slug, root), find_notebooks(root, slug)
    steps: list[tuple[str, Callable[..., int], tuple[Any, ...]]] = [  # the longest first
        ("lesson", _pytest, (["tests/notebooks/test_notebooks.py"], [notebook_key(page, root) for page in pages])),
        ("lint", _lint, (slug, root)),
        ("tests", _pytest, ([f"tests/methods/test_{slug}.py"], None)),
        ("contracts and study", _pytest, (["tests/contract"], slug)),
        ("mutation check", _mutations, (slug,)),
    ]
    if pictures:
        steps.append(("pictures", _pytest, ([str(path) for path in pictures], None)))
    _warm()
    running: list[_Running] = []
    while steps or running:
        while steps and len(running) < jobs:
            running.append(_Running(*steps.pop(0), root))
        connection.wait([each.process.sentinel for each in running])
        for ended in [each for each in running if not each.process.is_alive()]:
            running.remove(ended)
            yield ended.step()


def _warm() -> None:
    """Import what the steps need; with one thread, without which a fork would not be safe."""
    import torch

    torch.set_num_threads(1)
    for name in ("pytest", "numpy", "hypothesis.strategies", "kdcore.distiller", "kdcore.experiment", "pandas"):
        importlib.import_module(name)
    torch.testing.assert_close(torch.ones(1), torch.ones(1))  # imports a second's worth when it is first called


class _Running:
    """A step in a process of its own."""

    def __init__(self, name: str, function: Callable[..., int], arguments: Sequence[Any], root: Path) -> None:
        forks = sys.platform == "linux"  # elsewhere a fork of a process with torch in it is not safe, or there is none
        context: Any = multiprocessing.get_context("fork" if forks else "spawn")
        self.name, self.started = name, time.monotonic()
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / "log"
        self.process = context.Process(target=_step, args=(function, arguments, str(root), str(self.log)))
        self.process.start()

    def step(self) -> Step:
        """What came of it, once it has ended."""
        self.process.join()
        log = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        self.folder.cleanup()
        lines = [line.strip("= ") for line in log.splitlines() if line.strip()]
        said = lines[-1] if lines else f"exit status {self.process.exitcode}"
        return Step(self.name, self.process.exitcode == 0, time.monotonic() - self.started, said, log)


def _step(function: Callable[..., int], arguments: Sequence[Any], root: str, log: str) -> None:
    """In the process of a step: its output goes into a file, its outcome is the exit status."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(root)
    # of pytest's temporary files: its own folder is removed when a process ends, which a fork does without
    os.environ["PYTEST_ADDOPTS"] = f"--basetemp={Path(log).with_name('files')}"
    try:
        status = function(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    raise SystemExit(status)


# -------------------------------------------------------------------------------------------------------------- steps


def _lint(slug: str, root: Path) -> int:
    from .pairing import check_pairs

    files = files_of(slug, root)
    names = [str(path.relative_to(root)) for path in files]
    failed = 0
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", *names], check=False)
        failed += done.returncode != 0
    for state in check_pairs([path for path in files if "notebooks" in path.parts]):
        if state.problem:
            failed += 1
            sys.stdout.write(f"{state.notebook}: {state.problem}\n{state.diff[:2000]}\n")
    sys.stdout.write(f"{len(files)} files, {failed or 'nothing'} wrong\n")
    return int(failed > 0)


class _Only:
    """A pytest plugin that keeps the tests of one paper, or of the given parameters."""

    def __init__(self, wanted: str | list[str]) -> None:
        self.slug, self.names = (wanted, {wanted}) if isinstance(wanted, str) else ("", set(wanted))
        if self.slug:
            from kdcore.registry import get_card

            self.names |= {cls.name for cls in get_card(self.slug).objectives}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if self._wants(getattr(item, "callspec", None))]

    def _wants(self, call: Any) -> bool:
        if call is None:
            return False
        given = {str(value) for value in call.params.values()}
        part = self.slug and (call.id.startswith(f"{self.slug}.") or any(v.startswith(f"{self.slug}.") for v in given))
        return bool(part or given & self.names)


def _pytest(paths: list[str], wanted: str | list[str] | None) -> int:
    os.environ["KDW_ALL_LESSONS"] = "1"
    missing = [path for path in paths if not Path(path).exists()]
    if missing or wanted == []:
        sys.stdout.write(f"there is no {missing[0] if missing else 'lesson'}\n")
        return _NOTHING_COLLECTED
    pytest: Any = importlib.import_module("pytest")  # of the development tools, which the workbench does without
    return int(pytest.main([*_PYTEST, *paths], plugins=[] if wanted is None else [_Only(wanted)]))


def _mutations(slug: str) -> int:
    sys.argv = ["mutation_check.py", slug]
    try:
        runpy.run_path("tests/mutation_check.py", run_name="__main__")
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            sys.stdout.write(f"{end.code}\n")
        return int(bool(end.code))
    return 0
