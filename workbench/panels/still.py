"""The still form of a live output: what a saved notebook shows when the kernel that drew it is gone.

JupyterLab prefers the widget in a bundle to the HTML beside it, and shows "model not found" when the kernel is gone. So
the still form is an output of its own, before the live one. The style sheet in it hides it as long as the live form is
drawn, and hides the live form's error otherwise. Where there are no widgets at all, it is the only one with a picture.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from kdcore.html import Html, join, tag
from workbench.views.base import View

_OUTPUT = ".jp-OutputArea-child"
_STYLE = (
    f"<style>{_OUTPUT}:has(.kd-still):has(+ {_OUTPUT} .kd-live){{display:none}}"
    f"{_OUTPUT}:has(.kd-still)+{_OUTPUT}:not(:has(.kd-live)){{display:none}}</style>"
)


class Still:
    """An output that can be replaced later, from any thread.

    Args:
        html: its first content; plain: the same in words.
    """

    def __init__(self, html: str, plain: str) -> None:
        self.id = uuid.uuid4().hex
        self._bundle = _bundle(html, plain)
        self._parent: Any = None

    def display(self) -> None:
        """Show it in the cell that runs."""
        from IPython import get_ipython
        from IPython.display import display

        publisher = getattr(get_ipython(), "display_pub", None)
        self._parent = getattr(publisher, "parent_header", None)
        display(self._bundle, raw=True, display_id=self.id)

    def update(self, html: str, plain: str) -> None:
        """Replace what is stored; nothing happens without a notebook."""
        from IPython import get_ipython

        self._bundle = _bundle(html, plain)
        publisher: Any = getattr(get_ipython(), "display_pub", None)
        if self._parent is None or getattr(publisher, "pub_socket", None) is None:
            return
        content = {"data": self._bundle, "metadata": {}, "transient": {"display_id": self.id}}
        # sent with the cell as its parent: a callback's or a thread's own parent would lose it
        message = publisher.session.msg("update_display_data", content, parent=self._parent)
        publisher.session.send(publisher.pub_socket, message, ident=publisher.topic)


def _bundle(html: str, plain: str) -> dict[str, str]:
    return {"text/html": f"{_STYLE}{tag('div', Html(html), class_='kd-still')}", "text/plain": plain}


def stills_html(views: Sequence[View], stills: Sequence[str | None] = ()) -> Html:
    """Views without their data, each with the picture the page has sent, or with one drawn here.

    Args:
        views: in order.
        stills: PNG addresses by view; what is missing or is none is drawn.
    """
    given = [s if isinstance(s, str) and s.startswith("data:image/png;base64,") else None for s in stills]
    given += [None] * (len(views) - len(given))
    return join(
        view.html(style=i == 0, data=False, dark=False, still=still)
        for i, (view, still) in enumerate(zip(views, given, strict=True))
    )


__all__ = ["Still", "stills_html"]
