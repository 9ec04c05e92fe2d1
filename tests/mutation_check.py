"""Does a test notice when a paper's code is wrong? ``python tests/mutation_check.py [slug or slug:function ...]``.

Every loss that a method's card names gets, one at a time, each fault of :mod:`support.mutants` (sign, factor, offset,
gradient, student and teacher swapped, student detached, ``T^2`` dropped, each keyword ignored), and so does every other
public function that the method's module defines, as far as the faults fit what it returns (sign, factor, offset, each
keyword ignored). The method's test file runs against each fault in a process of its own: a fork of this one, which has
imported torch, kdcore and pytest, so that a fault costs its tests and not four seconds of imports.

A fault that no test notices is a survivor: the exit status is 1 and the survivors are named. No fault is excluded for
looking harmless. One that cannot change what the function returns (a factor on indices) is listed as "no fit".
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from support import mutants  # noqa: E402

from kdcore.registry import get_card, list_methods  # noqa: E402

OPTIONS = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow",
           "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")  # fmt: skip
#: Exit status of a run in which every test passed and the fault had no result that it could change.
NO_FIT = 90
_STATES = {0: "survived", 1: "killed", NO_FIT: "no fit"}


@dataclass(frozen=True)
class Outcome:
    """One run: ``killed`` (a test failed), ``survived`` (none did), ``no fit``, or ``broken`` (the tests did not
    run)."""

    slug: str
    function: str
    fault: str
    state: str
    by: str = ""


@dataclass(frozen=True)
class Job:
    """One fault to try; the tests as they are if it is empty."""

    slug: str
    function: str = ""
    fault: str = ""

    @property
    def mutant(self) -> str:
        return f"kdcore.methods.{self.slug}:{self.function}:{self.fault}" if self.fault else ""


def algorithms(slug: str) -> list[str]:
    """Public functions that a method's module defines and that are none of its losses."""
    module = importlib.import_module(f"kdcore.methods.{slug}")
    return [
        name
        for name in module.__all__
        if inspect.isfunction(value := getattr(module, name)) and value.__module__ == module.__name__
        if name not in get_card(slug).losses
    ]


def wanted(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """``(slug, function)`` pairs for ``slug`` or ``slug:function`` arguments; all methods without any."""
    pairs = []
    for argument in arguments or list_methods():
        slug, _, function = argument.partition(":")
        if slug not in list_methods():
            raise SystemExit(f"there is no method {slug!r}. There are: {', '.join(list_methods())}.")
        known = [*get_card(slug).losses, *algorithms(slug)]
        if function and function not in known:
            raise SystemExit(f"{slug} has no function {function!r} to check; it has {', '.join(known) or 'none'}.")
        pairs += [(slug, name) for name in ([function] if function else known)]
    return pairs


def jobs_of(slug: str, function: str) -> list[Job]:
    """The faults of one function."""
    value = getattr(importlib.import_module(f"kdcore.methods.{slug}"), function)
    names = mutants.faults(value) if function in get_card(slug).losses else mutants.algorithm_faults(value)
    return [Job(slug, function, fault) for fault in names]


# ---------------------------------------------------------------------------------------------------------- processes


def run_tests(job: Job, folder: Path | None = None) -> int:
    """In a process of its own: pytest on the method's test file, with the fault in place; its exit status.

    ``folder`` is for temporary files: pytest's own are removed when a process ends, which a fork does without.
    """
    import pytest

    os.environ["KDCORE_MUTANT"] = job.mutant  # conftest.py installs it before the test file is imported
    own = [] if folder is None else [f"--basetemp={folder}"]
    status = int(pytest.main([*OPTIONS, *own, str(TESTS / "methods" / f"test_{job.slug}.py")]))
    untouched = mutants.TALLY["calls"] > 0 and mutants.TALLY["changed"] == 0
    return NO_FIT if status == 0 and job.fault and untouched else status


def fork(job: Job, log: Path) -> int:
    """Begin a run in a copy of this process; its number. Its output goes into ``log``."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = run_tests(job, log.with_suffix(".files"))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # nothing of this process is to run in its copy: no handler, no second table


def outcome(job: Job, status: int, log: Path) -> Outcome:
    """What an exit status and the output say."""
    said = log.read_text(encoding="utf-8", errors="replace")
    state = _STATES.get(status, "broken")
    lines = [line for line in said.splitlines() if line.startswith("FAILED")]
    by = lines[0].split("::", 1)[-1].split(" - ")[0] if lines else ""
    return Outcome(job.slug, job.function, job.fault, state, said[-2000:] if state == "broken" else by)


def run_all(jobs: Sequence[Job], processes: int) -> Iterator[Outcome]:
    """The outcomes as they come, a few processes at a time; where there is no fork, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        if not hasattr(os, "fork"):
            for number, job in enumerate(jobs):
                log = Path(folder) / f"{number}"
                command = [sys.executable, __file__, "--one", f"{job.slug}:{job.function}:{job.fault}"]
                with log.open("wb") as out:
                    done = subprocess.run(command, cwd=TESTS.parent, stdout=out, stderr=out, check=False)
                yield outcome(job, done.returncode, log)
            return
        waiting, running = list(enumerate(jobs))[::-1], dict[int, tuple[Job, Path]]()
        while waiting or running:
            while waiting and len(running) < processes:
                number, job = waiting.pop()
                log = Path(folder) / f"{number}"
                running[fork(job, log)] = job, log
            pid, status = os.wait()
            if pid in running:
                job, log = running.pop(pid)
                yield outcome(job, os.waitstatus_to_exitcode(status), log)


def warm() -> None:
    """Import what every run needs, once; with one thread, without which a fork would not be safe."""
    import torch

    torch.set_num_threads(1)
    for name in ("pytest", "numpy", "hypothesis.strategies", "support.golden"):
        importlib.import_module(name)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()
    torch.testing.assert_close(torch.ones(1), torch.ones(1))  # imports a second's worth when it is first called
    if threading.active_count() > 1:
        raise SystemExit("this process has more than one thread and cannot be forked safely.")
    gc.collect()
    gc.freeze()  # what is shared is not touched by later collections


def check(pairs: Sequence[tuple[str, str]], processes: int = 2) -> list[Outcome]:
    """All faults of all pairs; first the tests must pass without any."""
    slugs = list(dict.fromkeys(slug for slug, _ in pairs))
    for found in run_all([Job(slug) for slug in slugs], processes):
        if found.state != "survived":
            raise SystemExit(f"tests/methods/test_{found.slug}.py fails without any fault: {found.by}")
    jobs, unfit = [], []
    for slug, function in pairs:
        mine = jobs_of(slug, function)
        jobs += mine
        unfit += [] if mine else [Outcome(slug, function, "-", "no fit", "it returns no number and has no knob")]
    order = {job: i for i, job in enumerate(jobs)}
    found = sorted(run_all(jobs, processes), key=lambda o: order[Job(o.slug, o.function, o.fault)])
    return found + unfit


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if every fault that fits was noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="slugs, or slug:function; all methods by default")
    parser.add_argument("-n", "--processes", type=int, default=2)
    parser.add_argument("--one", metavar="SLUG:FUNCTION:FAULT", help="run one fault in this process")
    options = parser.parse_args(arguments)
    if options.one:
        return run_tests(Job(*options.one.split(":")))
    started = time.monotonic()
    warm()
    outcomes = check(wanted(options.methods), options.processes)
    width = max((len(o.slug + o.function) for o in outcomes), default=0) + 1
    for o in outcomes:
        print(f"{o.slug + '.' + o.function:{width}}  {o.fault:26} {o.state:9} {o.by.splitlines()[0] if o.by else ''}")
    alive = [o for o in outcomes if o.state in ("survived", "broken")]
    for o in alive:
        print(f"\n{o.state.upper()}: {o.slug}.{o.function} {o.fault}{o.by if o.state == 'broken' else ''}")
    states = [o.state for o in outcomes]
    fit = len(states) - states.count("no fit")
    print(
        f"\n{fit} faults, {states.count('killed')} noticed, {fit - states.count('killed')} not, "
        f"{states.count('no fit')} that fit no result; {time.monotonic() - started:.0f} s"
    )
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
