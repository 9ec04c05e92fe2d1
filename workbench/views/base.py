"""A View is a picture that can also be read: drawing, title, alternative text and the table behind it."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from kdcore.html import Html, details, join, tag

from .theme import DARK, LIGHT, Theme, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .picture import Picture

_STYLE = (
    "<style>.kd-view{margin:.4em 0 1em;max-width:100%}.kd-view img{max-width:100%;height:auto;border-radius:4px}"
    ".kd-view figcaption{font-size:.93em;max-width:60em}.kd-view table{font-size:.85em;border-collapse:collapse}"
    ".kd-view td,.kd-view th{padding:.15em .6em;text-align:right}.kd-view .kd-table{overflow:auto;max-height:24em}"
    ".kd-view .kd-dark{display:none}"
    "body[data-jp-theme-light='false'] .kd-view .kd-light{display:none}"
    "body[data-jp-theme-light='false'] .kd-view .kd-dark{display:inline}"
    "@media (prefers-color-scheme:dark){body:not([data-jp-theme-light]) .kd-view .kd-light{display:none}"
    "body:not([data-jp-theme-light]) .kd-view .kd-dark{display:inline}}</style>"
)


#: matplotlib's settings are shared by all threads; panels draw in the background.
_DRAWING = threading.RLock()


@dataclass(kw_only=True)
class View:
    """A picture with everything needed to read it without seeing it.

    Attributes:
        title: one line, says what is shown.
        alt: what the picture says, computed from the data ("CKA is highest, 0.94, between ...").
        table: the numbers behind the picture.
        draw: ``draw(theme) -> matplotlib Figure``, called inside the theme's settings; must not use pyplot. Where there
            is none, the picture is painted.
        picture: panels and marks with their arrays, drawn in the page and, by
            :func:`workbench.views.painting.paint`, as a still picture.
        interactive: optional ``() -> plotly Figure`` for hover and zoom in a live notebook.
    """

    title: str
    alt: str
    table: pd.DataFrame
    draw: Callable[[Theme], Figure] | None = None
    picture: Picture | None = None
    interactive: Callable[[], Any] | None = None
    _png: dict[str, bytes] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("title", "alt"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} of a view must not be empty.")
        if self.draw is None and self.picture is None:
            raise ValueError("a view needs a picture or a function draw(theme), got neither.")

    @property
    def spec(self) -> dict[str, Any] | None:
        """The picture as plain data (:meth:`workbench.views.picture.Picture.plain`); none where it is only drawn."""
        return None if self.picture is None else self.picture.plain()

    def _drawn(self, theme: Theme) -> Figure:
        if self.draw is not None:
            return self.draw(theme)
        from .painting import paint

        assert self.picture is not None
        return paint(self.picture, theme)

    def figure(self, theme: Theme = LIGHT) -> Figure:
        """The matplotlib figure in a theme."""
        import matplotlib as mpl

        with _DRAWING, mpl.rc_context(theme.rc()):
            return self._drawn(theme)

    def png(self, theme: Theme = LIGHT, *, dpi: int = 100) -> bytes:
        """The picture as PNG bytes (no pyplot, safe in any thread)."""
        key = f"{theme.name}-{dpi}"
        if key not in self._png:
            import matplotlib as mpl
            from matplotlib.backends.backend_agg import FigureCanvasAgg

            with _DRAWING, mpl.rc_context(theme.rc()):
                figure = self._drawn(theme)
                buffer = io.BytesIO()
                cut: dict[str, Any] = (
                    {} if self.draw is None else {"bbox_inches": "tight", "pad_inches": 0.08}
                )  # painted ones fit
                FigureCanvasAgg(figure).print_figure(buffer, dpi=dpi, **cut)
            self._png[key] = buffer.getvalue()
        return self._png[key]

    def html(self, *, table: bool = True, style: bool = True, dark: bool = True) -> str:
        """A ``<figure>`` with the picture for light and dark pages, the description, and the table folded away."""
        images = (
            tag(
                "img",
                class_=f"kd-{theme.name}",
                alt=self.alt,
                src=f"data:image/png;base64,{base64.b64encode(self.png(theme)).decode()}",
            )
            for theme in ((LIGHT, DARK) if dark else (LIGHT,))
        )
        folded = Html()
        if table and len(self.table):
            shown = self.table.to_html(border=0, float_format=number, max_rows=200, index=False)
            folded = details(f"table: {self.title}", tag("div", Html(shown), class_="kd-table"))
        words = tag("figcaption", tag("b", f"{self.title}."), " ", self.alt, folded)
        return join((Html(_STYLE if style else ""), tag("figure", *images, words, class_="kd-view")))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {
            "text/html": self.html(),
            "image/png": base64.b64encode(self.png()).decode(),
            "text/plain": f"{self.title}. {self.alt}",
        }


__all__ = ["View"]
