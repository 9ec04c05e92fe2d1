"""What painted panels share: a sheet measured in inches, looks of styles, legend entries, round ticks, colour bars."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import Array
from .mosaic import Box, paint, sheet
from .picture import Colours, Style
from .theme import CATEGORICAL, DASHES, DIVERGING, HATCHES, MARKERS, SEQUENTIAL, Theme
from .words import BOLD, drawable, fitted, literal, text_width, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points: names of positions, words of the legend and of notes, labels of axes, titles.
NAMES, KEYS, LABELS, TITLES = 9.0, 10.0, 10.5, 11.5
#: Inches: a line of a title, a colour bar with its numbers, a line of the legend and of one of its handles.
TITLE, BAR, KEY, HANDLE = 0.22, 1.0, 0.23, 0.34
#: Entries of a legend; more would be a list to read and no key.
MOST_KEYS = 24
_GREY = "gray"
#: Index of the colour, the dash, the marker and the hatch of styles with a name.
_NAMED = {"teacher": (0, 0, 0, 0), "student": (1, 1, 1, 1), "good": (2, 0, 2, 2), "bad": (5, 2, 6, 3)}


@dataclass(frozen=True)
class Look:
    """A style in one theme: a colour, and a dash, a marker and a hatch for those who do not see it."""

    colour: str
    dash: Any
    marker: str
    hatch: str


def look(style: Style, theme: Theme) -> Look:
    """How a style looks; from 8 on colours come again with other dashes and markers."""
    if isinstance(style, str):
        if style not in _NAMED:
            return Look({"ink": theme.ink, "muted": theme.muted, "light": "#ffffff"}[style], "-", "o", "")
        colour, dash, marker, hatch = _NAMED[style]
    else:
        colour, dash, marker, hatch = style % 8, style % 6, (style + style // 8) % 8, (style + style // 8) % 8
    return Look(CATEGORICAL[colour], DASHES[dash], MARKERS[marker], HATCHES[hatch])


@dataclass(frozen=True)
class Key:
    """An entry of the legend.

    Attributes:
        name, style: what is written, and how it looks.
        shape: ``"patch"``, ``"outline"``, ``"line"``, ``"dotted"`` (a line with dots), ``"dot"``, ``"ring"``,
            ``"spot"`` (a round dot), ``"cross"``, ``"frame"`` or ``"rule"``.
        dash: of an outline or a rule; the hatch of a patch.
    """

    name: str
    style: Style
    shape: str
    dash: Any = None


class Sheet:
    """A figure whose first axes count in inches from the upper left corner; images are put on it all at once."""

    def __init__(self, width: float, height: float, theme: Theme) -> None:
        self.theme, self.width, self.height = theme, width, height
        self.figure, self.base, _ = sheet(width, height)
        self._images: list[tuple[Array, Box]] = []

    def axes(self, box: Box) -> Axes:
        """Axes in a box."""
        x, y, w, h = box
        place = (x / self.width, 1 - (y + h) / self.height, w / self.width, h / self.height)
        return self.figure.add_axes(place)

    def image(self, pixels: Array, box: Box) -> None:
        """Put ``(H, W, 1 or 3)`` in [0, 1] into a box, when the sheet is finished."""
        self._images.append((pixels, box))

    def finish(self) -> None:
        """Paint the images that were put on the sheet."""
        if self._images:
            paint(self.base, self._images)

    def text(
        self, x: float, y: float, words: str, *, size: float = NAMES, ha: str = "left", va: str = "center", **more: Any
    ) -> None:
        """Words that were made to fit, at a place in inches; drawn as they are, never read as a formula."""
        if words.strip():
            self.base.text(x, y, literal(words), fontsize=size, ha=ha, va=va, **more)

    def box(self, box: Box, **look: Any) -> None:
        """A rectangle."""
        from matplotlib.patches import Rectangle

        self.base.add_patch(Rectangle(box[:2], box[2], box[3], **look))

    def line(self, x: Sequence[float], y: Sequence[float], **look: Any) -> None:
        """A line through points."""
        from matplotlib.lines import Line2D

        self.base.add_line(Line2D(x, y, **look))


class Part:
    """A panel that knows how much room it takes and draws itself into it.

    A part is as wide as its column; ``sides`` and ``tall`` are what it needs around its drawing, so that the drawings
    of a column and of a row line up.
    """

    title: str = ""
    colours: Colours | None = None
    #: The drawing may become taller than ``tall`` says, to be as tall as its neighbours.
    stretches = False
    #: Of its column, in inches; known before ``tall`` and ``draw``.
    width: float = 0.0

    def entries(self) -> list[Key]:
        """Entries of the legend."""
        return []

    @property
    def crowded(self) -> bool:
        """Whether there is more than one thing that a legend could name."""
        return False

    def prefers(self, width: float) -> float:
        """Width that is of use, at most ``width``."""
        return width

    def sides(self, width: float) -> tuple[float, float]:
        """Inches left and right of the drawing."""
        return 0.0, 0.0

    def tall(self, inner: float) -> tuple[float, float, float]:
        """Inches above the drawing, of the drawing that is ``inner`` wide, and below it."""
        raise NotImplementedError

    def draw(self, sheet: Sheet, box: Box) -> None:
        """Draw into the box of the drawing."""
        raise NotImplementedError


def colour_map(colours: Colours) -> Any:
    """matplotlib's colour map of a scale."""
    from matplotlib import colormaps

    name = {"sequential": SEQUENTIAL, "diverging": DIVERGING, "grey": _GREY}[colours.scheme]
    return colormaps[f"{name}_r" if colours.reverse else name]


def shades(values: Array, colours: Colours) -> Array:
    """``(..., 4)`` colours of values; transparent where there is none."""
    share = (values - colours.low) / (colours.high - colours.low)
    made = colour_map(colours)(np.clip(np.nan_to_num(share), 0, 1))
    made[np.isnan(share)] = 0
    return np.asarray(made)


def room_of(names: Sequence[str], most: float, *, strong: Collection[int] = ()) -> float:
    """Inches that the widest of names takes, at most ``most``; the ``strong`` ones are bold."""
    widths = (text_width(drawable(n), NAMES) * (BOLD if i in strong else 1) for i, n in enumerate(names))
    return min(most, max(widths, default=0.0) + 0.02)


def ticks_of(low: float, high: float, most: int, *, whole: bool = False, percent: bool = False) -> dict[float, str]:
    """At most about ``most`` round values between two ends, and how they are written."""
    least = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= least * (1 - 1e-9))
    step = max(step, 1.0) if whole and step < 2 else math.ceil(step) if whole else step
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    scale = 100 if percent else 1
    return {
        i * step: written(i * step * scale, step * scale) + (" %" if percent else "") for i in range(first, last + 1)
    }


def log_ticks(low: float, high: float, most: int) -> dict[float, str]:
    """Powers of ten (and 2 and 5 between few of them), at most ``most``."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(powers) <= 4 and most >= 6 else (1,)
    found = [d * 10.0**p for p in powers for d in digits if low * (1 - 1e-9) <= d * 10.0**p <= high * (1 + 1e-9)]
    if not found:
        return ticks_of(low, high, most)
    return {v: _short(f"{v:g}") for v in found[:: -(-len(found) // most)]}


def written(value: float, step: float) -> str:
    """A number with the digits that a step of this size needs."""
    value = 0.0 if abs(value) < 1e-9 * step else value
    if not step >= 1e-5 or abs(value) >= 1e7:
        digits = max(3, math.ceil(math.log10(max(abs(value), step) / step)) + 1)
        return _short(f"{value:.{digits}g}")
    digits = next(d for d in range(7) if abs(step * 10**d - round(step * 10**d)) < 1e-6 * step * 10**d or d == 6)
    return f"{value:.{digits}f}".replace("-", "−")


def _short(said: str) -> str:
    """``4e+07`` as ``4e7``, with a minus that is as wide as a plus."""
    return said.replace("e+0", "e").replace("e-0", "e-").replace("-", "−")


def colour_bar(sheet: Sheet, colours: Colours, x: float, y: float, tall: float) -> None:
    """The scale of colours, standing, its numbers to the right and what it measures above."""
    label = wrapped(colours.label, BAR - 0.12, NAMES, lines=3)
    head = 0.15 * (1 + label.count("\n")) + 0.1 if colours.label else 0.0
    high, wide = min(2.6, max(tall - head, 0.5)), 0.15
    sheet.text(x, y, label, va="top")
    y += head
    steps = np.linspace(1, 0, 256)[:, None]
    sheet.image(colour_map(colours)(steps)[..., :3], (x, y, wide, high))
    sheet.box((x, y, wide, high), fill=False, ec=sheet.theme.muted, lw=0.6)
    span = colours.high - colours.low
    for value, words in ticks_of(colours.low, colours.high, max(2, int(high / 0.35))).items():
        at = y + high * (1 - (value - colours.low) / span)
        sheet.line([x + wide, x + wide + 0.04], [at, at], color=sheet.theme.muted, lw=0.8)
        sheet.text(x + wide + 0.07, at, words, size=8.5, va="center_baseline")


class Legend:
    """Entries above the panels, one after the other, in as many lines as they need."""

    def __init__(self, keys: Sequence[Key], width: float) -> None:
        more = len(keys) - MOST_KEYS
        self._places: list[tuple[Key, str, float, int]] = []
        room = min(2.6, width - HANDLE - 0.3)
        words = [fitted(k.name, room, KEYS) for k in keys[: MOST_KEYS if more > 0 else None]]
        widths = [HANDLE + 0.08 + text_width(w, KEYS) + 0.22 for w in words]
        columns = max(1, min(int(width / max(widths, default=width)), 5)) if len(words) > 5 else 0
        x, line = 0.0, 0
        for i, (key, word, wide) in enumerate(zip(keys, words, widths, strict=False)):
            if columns:  # many: in columns, as a table reads better than a paragraph
                x, line = i % columns * width / columns, i // columns
            elif x and x + wide > width + 0.2:
                x, line = 0.0, line + 1
            self._places.append((key, word, x, line))
            x += wide
        self.note = f"and {more} more: see the table" if more > 0 else ""
        self._lines = line + 1 + bool(self.note) if words else 0

    @property
    def height(self) -> float:
        """Inches."""
        return KEY * self._lines + (0.1 if self._lines else 0)

    def draw(self, sheet: Sheet, x: float, y: float) -> None:
        """Draw it, its upper left corner at a place."""
        for key, word, across, line in self._places:
            at = y + (line + 0.5) * KEY
            _handle(sheet, key, x + across, at)
            sheet.text(x + across + HANDLE + 0.08, at, word, size=KEYS, va="center_baseline")
        if self.note:
            sheet.text(x, y + (self._lines - 0.5) * KEY, self.note, color=sheet.theme.muted)


def _handle(sheet: Sheet, key: Key, x: float, y: float) -> None:
    from matplotlib.colors import to_rgb

    theme = sheet.theme
    style = look(key.style, theme)
    box = (x, y - 0.06, HANDLE, 0.12)
    if key.shape == "patch":
        sheet.box(box, fc=style.colour, ec=theme.ink, lw=0.5, hatch=key.dash or None)
    elif key.shape == "outline":
        sheet.box(box, fc=(*to_rgb(style.colour), 0.25), ec=style.colour, lw=2, ls=key.dash or "-")
    elif key.shape == "frame":
        sheet.box(box, fill=False, ec=style.colour, lw=2.2, ls=key.dash or "-")
    elif key.shape == "cross":
        sheet.line([x + HANDLE / 2], [y], ls="none", marker="x", ms=7, mec=style.colour, mew=2.2)
    elif key.shape in ("dot", "ring", "spot"):
        face = "none" if key.shape == "ring" else style.colour
        edge = style.colour if key.shape == "ring" else theme.ink
        sheet.line(
            [x + HANDLE / 2],
            [y],
            ls="none",
            marker="o" if key.shape == "spot" else style.marker,
            ms=7.5,
            mfc=face,
            mec=edge,
            mew=1.8 if key.shape == "ring" else 0.6,
        )
    else:
        if key.style == "light":
            sheet.line([x, x + HANDLE], [y, y], color="#000000", lw=4)
        marks = {"marker": style.marker, "ms": 5.5} if key.shape == "dotted" else {}
        dash, wide = (key.dash, 1.3) if key.shape == "rule" else (style.dash, 1.8)
        sheet.line(
            [x, x + HANDLE / 2, x + HANDLE] if marks else [x, x + HANDLE],
            [y, y, y] if marks else [y, y],
            color=style.colour,
            ls=dash,
            lw=wide,
            markevery=[1] if marks else None,
            **marks,
        )
