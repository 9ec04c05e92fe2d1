"""Small widgets of ours where the stock ones cut labels, have no accessible name or cannot be updated quietly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from kdcore.html import tag
from workbench.marks import script, style
from workbench.views.base import View, sentence

_ASSETS = Path(__file__).parent / "assets"


class Slider(anywidget.AnyWidget):
    """A number with a visible label, a named range input and an exact field; ``value`` follows the handle, about 20
    times a second.

    Attributes:
        value, low, high: number and its bounds (``low < high``).
        step: distance of neighbouring positions; ignored when ``log``.
        log: positions are spread evenly in the logarithm (``low > 0``) and lie on round numbers.
        integer: whole numbers only.
        description: the visible label and accessible name; help: a sentence after it.
    """

    _esm, _css = _ASSETS / "slider.js", _ASSETS / "slider.css"
    value = t.Float().tag(sync=True)
    low = t.Float(0.0).tag(sync=True)
    high = t.Float(1.0).tag(sync=True)
    step = t.Float(0.01).tag(sync=True)
    log = t.Bool(False).tag(sync=True)
    integer = t.Bool(False).tag(sync=True)
    description = t.Unicode().tag(sync=True)
    help = t.Unicode().tag(sync=True)
    disabled = t.Bool(False).tag(sync=True)

    @t.validate("value")
    def _inside(self, proposal: Any) -> float:
        value = float(proposal["value"])
        if not math.isfinite(value):
            raise t.TraitError(f"{self.description} must be finite, got {value!r}.")
        return min(self.high, max(self.low, value))


class ViewBox(anywidget.AnyWidget):
    """HTML made by views; folded tables stay as the reader left them when the picture changes."""

    _esm, _css = _ASSETS / "viewbox.js", _ASSETS / "viewbox.css"
    html = t.Unicode().tag(sync=True)
    busy = t.Bool(False).tag(sync=True)


class PictureBox(anywidget.AnyWidget):
    """Views drawn in the page (:mod:`workbench.marks`), with captions and tables; fed by :meth:`show`.

    Attributes:
        hovered, selected: what is pointed at and what was chosen (click, Enter): ``{"view": 0, "panel": 0,
            "key": ...}`` with the key of the mark (an index, or ``[row, column]``); empty where nothing is.
            ``selected`` can be set.
        busy: a picture is being computed; message: words for it ("3 of 10 layers").
        error: HTML of what went wrong (:func:`error_html`); the last picture stays.
        keeps: whether the page sends ``stills``, the pictures as PNG addresses, when they are at rest.
    """

    _esm, _css = script("widget.js"), style()
    views: t.List[Any] = t.List().tag(sync=True)
    hovered = t.Dict().tag(sync=True)
    selected = t.Dict().tag(sync=True)
    busy = t.Bool(False).tag(sync=True)
    message = t.Unicode().tag(sync=True)
    error = t.Unicode().tag(sync=True)
    keeps = t.Bool(False).tag(sync=True)
    stills: t.List[Any] = t.List().tag(sync=True)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.shown: list[View] = []
        self.on_msg(self._asked)

    def show(self, views: Sequence[View]) -> None:
        """Replace the pictures, in one message."""
        plain = [
            {
                "title": v.title,
                "alt": v.alt,
                "rows": len(v.table),
                "spec": v.spec,
                "html": "" if v.picture is not None else str(v.images()),
            }
            for v in views
        ]
        with self.hold_sync():
            self.shown, self.views, self.error = list(views), plain, ""

    @property
    def text(self) -> str:
        """What is shown, in words: an error or a message (HTML), then titles and descriptions."""
        return "\n".join([self.error, *(f"{sentence(v.title)} {v.alt}" for v in self.shown)])

    def say(self, html: str) -> None:
        """Show words in place of pictures."""
        with self.hold_sync():
            self.shown, self.views, self.error = [], [], html

    def _asked(self, _: Any, content: Mapping[str, Any], buffers: Any) -> None:
        index = content.get("view")
        if content.get("type") == "table" and isinstance(index, int) and 0 <= index < len(self.shown):
            self.send({"type": "table", "view": index, "html": str(self.shown[index].table_html())})


class LiveChart(anywidget.AnyWidget):
    """Lines that grow while something runs; fed by :meth:`show`.

    Attributes:
        series: ``[{"label", "x", "y"}, ...]``, finite numbers only.
        title, x_label: texts; alt: the chart in words, computed from the series.
    """

    _esm, _css = _ASSETS / "livechart.js", _ASSETS / "livechart.css"
    series = t.List(t.Dict()).tag(sync=True)
    title = t.Unicode().tag(sync=True)
    x_label = t.Unicode("step").tag(sync=True)
    alt = t.Unicode("no points yet").tag(sync=True)

    def show(self, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, points: int = 400) -> None:
        """Replace all lines in one message.

        Args:
            series: label -> (x, y); non-finite points are left out of the line and counted in the description.
            points: at most so many points per line are sent; the last one always is.
        """
        lines, words = [], []
        for label, (x, y) in series.items():
            kept = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
            bad = len(x) - len(kept)
            stride = max(1, math.ceil(len(kept) / points))
            shown = kept[::-1][::stride][::-1]
            lines.append({"label": label, "x": [a for a, _ in shown], "y": [b for _, b in shown]})
            if kept:
                words.append(
                    f"{label}: {len(kept)} points, first {kept[0][1]:.3g}, last {kept[-1][1]:.3g}"
                    + (f", {bad} not finite" if bad else "")
                )
        alt = f"{self.title} over {self.x_label}. " + ("; ".join(words) + "." if words else "No points yet.")
        with self.hold_sync():
            self.series, self.alt = lines, alt


def error_html(error: BaseException, trace: str) -> str:
    """An exception as the panel shows it: last line in sight, traceback folded below."""
    folded = tag("details", tag("summary", "traceback"), tag("pre", trace), class_="kd-error")
    return tag("div", tag("b", type(error).__name__), f": {error}", folded, class_="kd-error", role="alert")
