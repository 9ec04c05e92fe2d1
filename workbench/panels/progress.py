"""A progress line under the cell that runs: for work the reader waits for, a few seconds to a few minutes.

    compare("digits", ["ce", "kd"], progress=progress_line("Students"))

Work in the background has its panel (:class:`workbench.panels.TrainPanel`); the command line has bars of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kdcore.html import tag

_EVERY = 0.2  # seconds between two updates


class _Line:
    """The callback: shows itself at the first call, is redrawn at most five times a second and always at the end."""

    def __init__(self, title: str, unit: str, show: Callable[..., Any] | None) -> None:
        self.title, self.unit, self._show = title, unit, show
        self._handle: Any = None
        self._started = self._last = time.monotonic()

    def __call__(self, done: int, total: int | None, text: str = "") -> None:
        now = time.monotonic()
        finished = total is not None and done >= total
        if self._show is None or (self._handle is not None and not finished and now - self._last < _EVERY):
            return
        self._last = now
        bundle = progress_bundle(
            self.title, done, total, text, unit=self.unit, seconds=now - self._started if finished else None
        )
        if self._handle is None:
            self._handle = self._show(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def progress_bundle(
    title: str, done: int, total: int | None, text: str = "", *, unit: str = "", seconds: float | None = None
) -> dict[str, str]:
    """The line as a notebook output; with ``seconds`` it is the last one and says how long the work took."""
    of_all = f" of {total}" if total is not None and seconds is None else ""
    amount = f"{done}{of_all}" + (f" {unit}" if unit else "")
    words = f"{title}: {amount}" + (f" in {seconds:.0f} s" if seconds is not None else f", {text}" if text else "")
    share = {"value": done, "max": total} if total else {}
    bar = tag("progress", aria_label=title, **share, style="vertical-align:middle") if seconds is None else ""
    return {
        "text/html": tag("div", bar, " " if bar else "", words, class_="kd-progress"),
        "text/plain": words,
    }


def progress_line(title: str, *, unit: str = "epochs") -> Callable[..., None]:
    """A callback ``(done, total, text)`` that draws one line below the running cell and keeps it up to date.

    Args:
        title: what is being done.
        unit: what ``done`` and ``total`` count.

    Returns:
        The callback, for :func:`kdcore.experiment.compare`, ``task.teacher(progress=...)`` or
        :func:`kdcore.cka_maps.cka_map` (``total`` may be ``None``). To be called in the cell's own thread. Silent
        outside of IPython.
    """
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    return _Line(title, unit, display if get_ipython() is not None else None)
