"""Does a test fail when a loss is wrong? Run as ``python tests/mutation_check.py [slug or slug:loss ...]``.

Every loss that a method's card names gets, one at a time, each fault of :mod:`support.mutants` (sign, factor, offset,
gradient, student and teacher swapped, student detached, ``T^2`` dropped, each keyword ignored), and the method's test
file runs against it in a process of its own. A fault that no test notices is a survivor: the exit status is 1 and the
survivors are named. No fault is excluded for looking harmless.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from support.mutants import faults  # noqa: E402

from kdcore.registry import get_card, list_methods  # noqa: E402


@dataclass(frozen=True)
class Outcome:
    """One run: ``killed`` (a test failed), ``survived`` (none did), or ``broken`` (the tests did not run)."""

    slug: str
    loss: str
    fault: str
    state: str
    by: str


def wanted(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """``(slug, loss)`` pairs for ``slug`` or ``slug:loss`` arguments; all methods without any."""
    pairs = []
    for argument in arguments or list_methods():
        slug, _, loss = argument.partition(":")
        losses = get_card(slug).losses
        if loss and loss not in losses:
            raise SystemExit(f"{slug} has no loss {loss!r}; its card names {', '.join(losses) or 'none'}.")
        pairs += [(slug, name) for name in ([loss] if loss else losses)]
    return pairs


def run(slug: str, loss: str, fault: str) -> Outcome:
    """The method's tests against one fault (none if ``fault`` is empty)."""
    mutant = {"KDCORE_MUTANT": f"kdcore.methods.{slug}:{loss}:{fault}"} if fault else {}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-m",
        "not slow",
        str(TESTS / "methods" / f"test_{slug}.py"),
    ]
    done = subprocess.run(
        command,
        cwd=TESTS.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", **mutant},
        capture_output=True,
        text=True,
        check=False,
    )
    state = {0: "survived", 1: "killed"}.get(done.returncode, "broken")
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    by = lines[0].split("::", 1)[-1].split(" - ")[0] if lines else ""
    return Outcome(slug, loss, fault, state, by if state != "broken" else (done.stdout + done.stderr)[-500:])


def check(pairs: Sequence[tuple[str, str]], processes: int = 2) -> list[Outcome]:
    """All faults of all pairs, a few processes at a time; first the tests must pass without any fault."""
    with ThreadPoolExecutor(processes) as pool:
        slugs = list(dict.fromkeys(slug for slug, _ in pairs))
        for outcome in pool.map(lambda slug: run(slug, "", ""), slugs):
            if outcome.state != "survived":
                raise SystemExit(f"tests/methods/test_{outcome.slug}.py fails without any fault: {outcome.by}")
        jobs = [
            (slug, loss, fault)
            for slug, loss in pairs
            for fault in faults(getattr(importlib.import_module(f"kdcore.methods.{slug}"), loss))
        ]
        return list(pool.map(lambda job: run(*job), jobs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if every fault was noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="slugs, or slug:loss; all methods by default")
    parser.add_argument("-n", "--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    outcomes = check(wanted(options.methods), options.processes)
    width = max((len(o.slug + o.loss) for o in outcomes), default=0) + 1
    for o in outcomes:
        print(f"{o.slug + '.' + o.loss:{width}}  {o.fault:26} {o.state:9} {o.by.splitlines()[0] if o.by else ''}")
    alive = [o for o in outcomes if o.state != "killed"]
    print(f"\n{len(outcomes)} faults, {len(outcomes) - len(alive)} noticed, {len(alive)} not")
    for o in alive:
        print(f"{o.state.upper()}: {o.slug}.{o.loss} {o.fault}\n{o.by if o.state == 'broken' else ''}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
