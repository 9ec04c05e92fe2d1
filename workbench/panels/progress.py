"""Progress of long work in a notebook cell: a bar while it runs, one quiet line when it is done."""

from __future__ import annotations

import html
import time
from typing import Any

from .base import static_mode

#: Seconds between updates of the bar.
_EVERY = 0.2


class NotebookProgress:
    """A callback ``(done, total, text)`` that draws itself below the cell, for :func:`kdcore.experiment.compare` etc.

    The display is made on the first call; under ``KDW_STATIC=1`` only the last state is shown, which says how much was
    done and not how long it took, so that executed notebooks do not differ between runs.

    Args:
        title: what is running.
        unit: what ``done`` and ``total`` count.
    """

    def __init__(self, title: str, *, unit: str = "epochs") -> None:
        self.title, self.unit = title, unit
        self._handle: Any = None
        self._last = 0.0

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Show ``done`` of ``total``; call it in the thread of the cell."""
        now = time.monotonic()
        if done < total and (static_mode() or now - self._last < _EVERY):
            return
        self._last = now
        from IPython.display import HTML, display
        picture = HTML(self.html(done, total, text))
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)

    def html(self, done: int, total: int, text: str = "") -> str:
        """The bar as HTML, readable by a screen reader."""
        title, text = html.escape(self.title), html.escape(text)
        if done >= total:
            return f'<div class="kd-progress">{title}: {total} {html.escape(self.unit)} done.</div>'
        return (f'<div class="kd-progress" role="status">{title}: <progress aria-label="{title}" max="{total}" '
                f'value="{done}" style="width:16em;vertical-align:middle">{done} of {total}</progress> '
                f"{done} of {total} {html.escape(self.unit)} · {text}</div>")
