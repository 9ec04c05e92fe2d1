"""What every panel offers: widgets for people, traits for tests, pictures for readers without a kernel."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from traitlets import HasTraits

from kdcore.html import tag
from workbench.views.base import View, sentence

from .still import Still

#: Set to ``1`` by the runner: panels show their static form.
STATIC_VARIABLE = "KDW_STATIC"


def static_mode() -> bool:
    """Whether panels shall show pictures instead of widgets (``KDW_STATIC=1``)."""
    return os.environ.get(STATIC_VARIABLE, "") not in ("", "0")


class Panel(ABC):
    """An application made of views.

    Showing a panel in a notebook gives its widgets in a live session and its static views under ``KDW_STATIC=1``.
    Showing a second panel of the same kind and name (a cell that is run again) closes the first one and stops its work.

    Attributes:
        name: key among the open panels.
        state: traits that tests and other code read and set.
        widget: the widgets, made on first use.
    """

    state: HasTraits
    _open: ClassVar[weakref.WeakValueDictionary[tuple[str, str], Panel]] = weakref.WeakValueDictionary()

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        key = (type(self).__name__, name)
        earlier = Panel._open.get(key)
        if earlier is not None:
            earlier.close()
        Panel._open[key] = self

    @cached_property
    def widget(self) -> Any:
        """The ipywidgets tree."""
        if self.closed:
            raise RuntimeError(f"the panel {self.name!r} is closed: run its cell again.")
        tree = self._build()
        tree.add_class("kd-live")
        return tree

    @abstractmethod
    def _build(self) -> Any:
        """Make the widgets."""

    @abstractmethod
    def static(self) -> list[View]:
        """The panel as pictures, the same story without a kernel."""

    def _stop(self) -> None:  # noqa: B027 - not every panel has work to end
        """End background work; called once by :meth:`close`."""

    def close(self) -> None:
        """Stop the panel's work and remove its widgets from the page; closing twice does nothing."""
        if self.closed:
            return
        self.closed = True
        self._stop()
        if "widget" in self.__dict__:
            close_tree(self.widget)

    # Shown by a notebook ------------------------------------------------------------------------------------------
    output: Still | None = None

    def _still(self) -> tuple[str, str]:
        """What a saved notebook shows of the live form when its kernel is gone: HTML, and the same in words."""
        words = f"{self.name}: a live panel. Run this cell to use it."
        return tag("p", words), words

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """One bundle: the live form and the still one, or the still one alone under ``KDW_STATIC=1``."""
        if static_mode():
            return views_bundle(self.static())
        html, plain = self._still()
        return {**self._live_bundle(), "text/html": html, "text/plain": plain}

    def _live_bundle(self) -> dict[str, Any]:
        bundle = self.widget._repr_mimebundle_()
        return dict(bundle[0] if isinstance(bundle, tuple) else bundle)

    def _ipython_display_(self) -> None:
        """Two outputs in a notebook, the still form before the live one (see :mod:`.still`)."""
        from IPython.display import display

        if static_mode():
            display(views_bundle(self.static()), raw=True)
            return
        html, plain = self._still()
        self.output = Still(html, plain)
        self.output.display()
        display({**self._live_bundle(), "text/html": "", "text/plain": plain}, raw=True)


def close_tree(widget: Any) -> None:
    """Close a widget and everything in it."""
    for child in getattr(widget, "children", ()):
        close_tree(child)
    widget.close()


def views_html(views: Sequence[View]) -> str:
    """Several views as one piece of HTML with a single style element."""
    return "".join(view.html(style=i == 0) for i, view in enumerate(views))


def views_bundle(views: Sequence[View]) -> dict[str, str]:
    """Several views as one notebook output."""
    return {"text/html": views_html(views), "text/plain": words_of(views)}


def words_of(views: Sequence[View]) -> str:
    """Titles and descriptions of views."""
    return "\n".join(f"{sentence(v.title)} {v.alt}" for v in views)


def as_views(made: View | Sequence[View], *, what: str) -> list[View]:
    """A view or a sequence of them as a list; raise ``TypeError`` naming ``what`` otherwise."""
    views = [made] if isinstance(made, View) else list(made) if isinstance(made, Sequence) else [made]
    for view in views:
        if not isinstance(view, View):
            raise TypeError(f"{what} must return a View or a list of views, got {type(view).__name__}.")
    return views
