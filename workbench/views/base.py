"""A View is a picture that can also be read: drawing, title, alternative text and the table behind it."""

from __future__ import annotations

import base64
import io
import json
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


def sentence(title: str) -> str:
    """A title with its full stop, unless it ends in a mark of its own."""
    return title if title.endswith((".", "?", "!")) else f"{title}."


#: matplotlib's settings are shared by all threads; panels draw in the background.
_DRAWING = threading.RLock()


@dataclass(kw_only=True)
class View:
    """A picture with everything needed to read it without seeing it.

    Attributes:
        title: one line, says what is shown.
        alt: what the picture says, computed from the data ("CKA is highest, 0.94, between ...").
        table: the numbers behind the picture.
        picture: what is shown, as data: pages and panels draw it themselves, with hover and keyboard.
        draw: ``draw(theme) -> matplotlib Figure``, called inside the theme's settings; must not use pyplot. By default
            the picture is painted (:func:`workbench.views.painting.paint`).
        interactive: optional ``() -> plotly Figure`` for hover and zoom in a live notebook.
    """

    title: str
    alt: str
    table: pd.DataFrame
    picture: Picture | None = None
    draw: Callable[[Theme], Figure] | None = None
    interactive: Callable[[], Any] | None = None
    _png: dict[str, bytes] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("title", "alt"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} of a view must not be empty.")
        if self.picture is None and self.draw is None:
            raise ValueError("a view needs a picture or a function draw(theme), got neither.")

    @property
    def spec(self) -> dict[str, Any] | None:
        """The picture as plain values and packed arrays, ``None`` where there is a drawing alone."""
        return None if self.picture is None else self.picture.plain()

    def figure(self, theme: Theme = LIGHT) -> Figure:
        """The matplotlib figure in a theme."""
        import matplotlib as mpl

        with _DRAWING, mpl.rc_context(theme.rc()):
            return self._drawn(theme)

    def _drawn(self, theme: Theme) -> Figure:
        if self.draw is not None:
            return self.draw(theme)
        from .painting import paint

        assert self.picture is not None
        return paint(self.picture, theme)

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

    def table_html(self, most: int = 200) -> Html:
        """The table, its first rows."""
        return Html(self.table.to_html(border=0, float_format=number, max_rows=most, index=False))

    def images(self, *, dark: bool = True) -> Html:
        """The still picture; of a drawing without data a second one for dark pages where ``dark``."""
        themes = (LIGHT,) if self.picture is not None or not dark else (LIGHT, DARK)
        return join(
            tag(
                "img",
                class_=f"kd-{theme.name}" if len(themes) > 1 else None,
                alt=self.alt,
                src=f"data:image/png;base64,{base64.b64encode(self.png(theme)).decode()}",
            )
            for theme in themes
        )

    def html(
        self,
        *,
        table: bool = True,
        style: bool = True,
        dark: bool = True,
        data: bool = True,
        still: str | None = None,
    ) -> Html:
        """A ``<figure>`` with the still picture, the description, and the table folded away.

        Args:
            table: whether the table is in it.
            style: whether the style sheet is.
            dark: of a drawing without data, a second one for dark pages.
            data: whether the picture's data are, from which a page that has the marks' script draws it.
            still: address of a picture that is there already (``data:image/png;...``).
        """
        images = self.images(dark=dark) if still is None else tag("img", alt=self.alt, src=still)
        folded = Html()
        if table and len(self.table):
            folded = details(f"table: {self.title}", tag("div", self.table_html(), class_="kd-table"))
        words = tag("figcaption", tag("b", sentence(self.title)), " ", self.alt, folded)
        values = self._data() if data and self.picture is not None else Html()
        return join((Html(_STYLE if style else ""), tag("figure", images, values, words, class_="kd-view")))

    def _data(self) -> Html:
        assert self.picture is not None
        given = {"title": self.title, "alt": self.alt, "spec": self.picture.json()}
        text = json.dumps(given, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
        return tag("script", Html(text), type="application/json", class_="kd-data")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {
            "text/html": self.html(),
            "image/png": base64.b64encode(self.png()).decode(),
            "text/plain": f"{sentence(self.title)} {self.alt}",
        }


__all__ = ["View"]
