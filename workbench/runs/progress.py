"""One progress callback ``(done, total, text)`` for everything long: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[int, int, str], None]
_EVERY = 5.0  # seconds between plain lines of one task


class Tasks:
    """Several progress bars, one per title, safe to feed from different threads."""

    def __init__(self, bar: Progress | None, console: Console) -> None:
        self._bar, self._console = bar, console
        self._ids: dict[str, TaskID] = {}

    def report(self, title: str) -> Report:
        """The callback that drives the bar called ``title``."""
        return self._bar_report(self._bar, title) if self._bar is not None else self._line_report(title)

    def _bar_report(self, bar: Progress, title: str) -> Report:
        def update(done: int, total: int, text: str) -> None:
            if title not in self._ids:
                self._ids[title] = bar.add_task(title, total=total, text="")
            bar.update(self._ids[title], completed=done, total=total, text=text)

        return update

    def _line_report(self, title: str) -> Report:
        last = [0.0]

        def update(done: int, total: int, text: str) -> None:
            if done >= total or time.monotonic() - last[0] >= _EVERY:
                last[0] = time.monotonic()
                self._console.print(
                    f"{title}: {done}/{total} {text}".rstrip(), markup=False, highlight=False, soft_wrap=True
                )

        return update


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Tasks]:
    """Bars on standard error, so that standard output stays clean for tables and ``--json``.

    Args:
        quiet: show nothing.
    """
    console = Console(file=sys.stderr, quiet=quiet)
    if not console.is_terminal or quiet:
        yield Tasks(None, console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # names and messages are shown as they are
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        yield Tasks(bar, console)
