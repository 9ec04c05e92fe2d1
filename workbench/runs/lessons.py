"""Lessons in the tests: which need not run again, and how much they may compute.

A green run leaves a key: the hash of the notebook, its script, its baseline, every file of the repository that the
kernel had imported or opened, and the versions of what it ran on. The list of files is the earlier run's, their
contents are hashed when the question is asked. A lesson of which a key is found again would do the same, and is
skipped. Keys lie in ``.kdw-cache/lessons`` and are never committed; a run that failed has none.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .baselines import BASELINES
from .environment import versions
from .files import notebook_key, read_json, script_of, sha256, to_json, write_json
from .meter import hashes
from .store import RunRecord

KEYS = Path(".kdw-cache/lessons")
KEPT = 4  # keys of one lesson: so many branches can be gone back to
#: CPU seconds that a quick lesson should take, and those above which its test fails; see ``RunRecord.computing``.
AIM, LIMIT = 20.0, 25.0
#: What is let pass beyond that: the speed is that of another piece of work, measured beside the lesson (found: up to
#: 1.17 of what a lesson is allowed, on the machine that the limits are of).
SLACK = 1.3
#: CPU seconds of :func:`_work` on one core of the machine that ``LIMIT`` was set on, otherwise idle.
REFERENCE = 0.026


# ------------------------------------------------------------------------------------------------- what need not run


def lesson_key(notebook: Path, sources: Iterable[str], root: Path) -> str:
    """The hash of all that a lesson's result depends on.

    Args:
        notebook: the ``.ipynb``; its script and its baseline belong to it.
        sources: names, from the root, of the files that a run of it had imported or opened.
        root: of the project.
    """
    baseline = BASELINES / f"{notebook_key(notebook, root)}.json"
    own = [p.relative_to(root).as_posix() for p in (notebook, script_of(notebook))]
    files = sorted({*sources, *own, baseline.as_posix()})
    return sha256(to_json({"files": hashes(files, root), "versions": dict(sorted(versions().items()))}))


def unchanged(notebook: Path, root: Path) -> str | None:
    """The run since which nothing changed that the lesson depends on, if there was one."""
    notebook, root = notebook.resolve(), root.resolve()
    notes = {path.stem: note for path in sorted((root / KEYS).glob("*.json")) if (note := _note(path)) is not None}
    mine = {key: note for key, note in notes.items() if note["notebook"] == notebook_key(notebook, root)}
    same = (note["run"] for key, note in mine.items() if lesson_key(notebook, note["sources"], root) == key)
    return next(same, None)


def remember(run: RunRecord, notebook: Path, root: Path) -> Path | None:
    """Keep the key of a green run: the caller has compared it with its baseline.

    Returns:
        The file, or ``None`` for a run that proves nothing: failed, with parameters of its own, not measured, or one
        whose sources were written to while it ran.
    """
    notebook, root = notebook.resolve(), root.resolve()
    sources = run.info.get("sources")
    whole = run.ok and not run.info.get("given") and not run.info.get("sources_moved")
    if not whole or not sources or hashes(sources, root) != sources:
        return None
    key = notebook_key(notebook, root)
    path = root / KEYS / f"{lesson_key(notebook, sources, root)}.json"
    write_json(path, {"notebook": key, "run": run.id, "sources": sorted(sources), "written": time.time()})
    notes = [(note["written"], p) for p in path.parent.glob("*.json") if (note := _note(p)) and note["notebook"] == key]
    for _, old in sorted(notes, reverse=True)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def _note(path: Path) -> dict[str, Any] | None:
    try:
        note = read_json(path)
    except (OSError, ValueError):  # another process has just dropped it, or it is no note
        return None
    good = isinstance(note, dict) and {"notebook", "run", "sources", "written"} <= set(note)
    return note if good else None


def always(keys: Iterable[str]) -> set[str]:
    """One lesson of every family, the first by name: it runs whatever was kept, so that the path stays tested."""
    first: dict[str, str] = {}
    for key in sorted(keys):
        first.setdefault(key.rpartition("/")[0], key)
    return set(first.values())


def all_wanted() -> bool:
    """Whether every lesson must run: ``KDW_ALL_LESSONS=1``, or continuous integration (``CI=true``)."""
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in ("KDW_ALL_LESSONS", "CI"))


# ---------------------------------------------------------------------------------------------- how much it may cost


def allowed_seconds(key: str, baselines: Path) -> float:
    """CPU seconds that a lesson may compute: :data:`LIMIT`, or what its baseline file grants it with a reason.

    E.g. ``"cpu_seconds_allowed": {"seconds": 45, "since": "2026-11-28", "why": "..."}``.

    Raises:
        ValueError: an exception without a date or a reason, or one that grants no more than everybody has.
    """
    path = baselines / f"{key}.json"
    granted = read_json(path).get("cpu_seconds_allowed") if path.is_file() else None
    if granted is None:
        return LIMIT
    good = isinstance(granted, dict) and set(granted) == {"seconds", "since", "why"} and granted["why"]
    try:
        time.strptime(granted["since"] if good else "", "%Y-%m-%d")
        good = good and granted["seconds"] > LIMIT
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"cpu_seconds_allowed in {path} must have seconds above {LIMIT:g}, since (a date like 2026-11-28) and why, "
            f"got {granted!r}."
        )
    return float(granted["seconds"])


@contextmanager
def watch_slowness(every: float = 2.0) -> Iterator[Slowness]:
    """Measures the machine's speed, in a thread, while something else runs: ``with watch_slowness() as speed: ...``."""
    found, over = Slowness(), threading.Event()

    def look() -> None:
        while True:
            found.measure()
            if over.wait(every):
                return

    thread = threading.Thread(target=look, name="slowness", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


class Slowness:
    """How much longer this machine takes for the same work than the one the limit was set on.

    A core that is shared computes the same in more CPU seconds (caches, hyper-threads, a busy host), up to three times
    as many; without this the limit would measure the neighbours. It changes from second to second: hence a mean.
    """

    def __init__(self) -> None:
        self.seen: list[float] = []

    def measure(self) -> None:
        """Do the work once."""
        started = time.thread_time()
        _work()
        self.seen.append((time.thread_time() - started) / REFERENCE)

    @property
    def mean(self) -> float:
        """The mean of what was measured, at least 1."""
        return max(1.0, sum(self.seen) / len(self.seen)) if self.seen else 1.0


def _work() -> None:
    """What lessons do most: steps of a small network, many small operations."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 64, generator=generator), torch.randint(10, (64,), generator=generator)
    weights = [torch.zeros(64, 64, requires_grad=True), torch.zeros(10, 64, requires_grad=True)]
    for _ in range(180):
        hidden = nn.functional.gelu(nn.functional.linear(x, weights[0]))
        loss = nn.functional.cross_entropy(nn.functional.linear(hidden, weights[1]), y)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= 0.01 * gradient
