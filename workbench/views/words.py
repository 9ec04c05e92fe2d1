"""Words in pictures and about them: how wide, what the font can draw, where names go, and which is the largest."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import Array, join_words
from .theme import CATEGORICAL, DASHES, HATCHES, Theme, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Room that a line of names takes across, in inches at 9 points: letters with descenders and a little air.
LINE = 0.155
#: Dashes of the first, second ... line across a picture.
LINES = ("--", ":", "-.")
_FAMILY = "DejaVu Sans"
#: Bold letters are wider by this.
BOLD = 1.16


def _font() -> Any:
    from matplotlib.font_manager import findfont, get_font

    return get_font(findfont(_FAMILY))


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Width of one line in inches, set in the pictures' font at ``size`` points."""
    from matplotlib.backends.backend_agg import get_hinting_flag

    font = _font()
    font.set_size(size, 100)  # as pictures are drawn: hinting makes small letters wider
    font.set_text(text, 0.0, flags=get_hinting_flag())
    return float(font.get_width_height()[0]) / 64 / 100


@lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """One line that the font has: line ends and tabs become spaces, marks without a shape go, a letter that is missing
    becomes a box. (Title, alt text and table keep the name as it is.)"""
    letters = _font().get_charmap()
    made = []
    for c in text:
        if c.isspace():
            made.append(" ")
        elif unicodedata.category(c) not in ("Cc", "Cf", "Mn") or (ord(c) in letters and unicodedata.combining(c)):
            made.append(c if ord(c) in letters else "□")
    return "".join(made)


def literal(text: str) -> str:
    """Dollar signs escaped, so that matplotlib draws them instead of reading a formula."""
    return text.replace("$", r"\$")


def fitted(text: str, room: float, size: float) -> str:
    """The text if it is at most ``room`` inches wide at ``size`` points, else with its middle left out: names that
    end in a number stay apart."""
    text = drawable(text)
    if text_width(text, size) <= room:
        return text
    keep = min(len(text) - 1, max(1, int(room * 72 / (0.25 * size))))  # no letter of use is narrower than 0.25 em
    while keep > 1 and text_width(_cut(text, keep), size) > room:
        keep -= 1
    return _cut(text, keep)


def _cut(text: str, keep: int) -> str:
    head = (keep + 1) // 2
    return f"{text[:head].rstrip()}…{text[len(text) - (keep - head) :].lstrip() if keep > head else ''}"


def wrapped(text: str, room: float, size: float, *, lines: int = 2) -> str:
    """Up to ``lines`` lines of at most ``room`` inches, broken at spaces; the last one is fitted."""
    made: list[str] = []
    rest = drawable(text).split(" ")
    while len(rest) > 1 and len(made) < lines - 1:
        taken = 1
        while taken < len(rest) and text_width(" ".join(rest[: taken + 1]), size) <= room:
            taken += 1
        made.append(fitted(" ".join(rest[:taken]), room, size))
        rest = rest[taken:]
    return "\n".join([*made, *([fitted(" ".join(rest), room, size)] if rest else [])])


def name_positions(
    ax: Axes,
    axis: str,
    names: Sequence[str],
    *,
    length: float,
    room: float = 1.6,
    size: float = 9.0,
    strong: Collection[int] = (),
) -> None:
    """Name the positions 0, 1, ... of an axis that is ``length`` inches long, so that no two names touch.

    Names below stand straight where all of them fit, else upright; where there are too many lines, some are left out,
    evenly, the ``strong`` ones last; those are set in bold. Each is shortened to ``room`` inches.
    """
    slot = length / len(names)
    straight = axis == "x" and max(text_width(drawable(n), size) for n in names) * BOLD <= slot - 0.08
    stride = 1 if straight else max(1, math.ceil(LINE * size / 9 / slot))
    ticks: list[int] = []
    for i in (*sorted(strong), *range(0, len(names), stride)):
        if all(abs(i - j) >= stride for j in ticks):
            ticks.append(int(i))
    ticks.sort()
    rooms = [math.inf if straight else room / (BOLD if i in strong else 1) for i in ticks]
    labels = [literal(fitted(names[i], r, size)) for i, r in zip(ticks, rooms, strict=True)]
    if axis == "y":
        ax.set_yticks(ticks, labels, fontsize=size)
    else:
        ax.set_xticks(ticks, labels, fontsize=size, rotation=0 if straight else 90)
    for label, at in zip(ax.get_yticklabels() if axis == "y" else ax.get_xticklabels(), ticks, strict=True):
        label.set_fontweight("bold" if at in strong else "normal")


def keys_height(keys: int) -> float:
    """Inches that :func:`keys_above` takes."""
    return 0.24 * math.ceil(keys / 4)


def keys_above(
    figure: Figure, theme: Theme, fills: Sequence[str], lines: Mapping[str, float], *, outlined: bool = False
) -> None:
    """A legend along the upper edge: filled patches in the order of colours and hatches (or, ``outlined``, pale with
    dashed outlines), and dashed lines with values."""
    from matplotlib.colors import to_rgb
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    size, room = 10, 1.55
    keys: list[Any] = []
    for i, name in enumerate(fills):
        key, colour = Patch(fc=CATEGORICAL[i % 8], label=literal(fitted(name, room, size))), CATEGORICAL[i % 8]
        if outlined:
            key.set(facecolor=(*to_rgb(colour), 0.25), edgecolor=colour, linewidth=2, linestyle=DASHES[i % len(DASHES)])
        else:
            key.set(edgecolor=theme.ink, linewidth=0.5, hatch=HATCHES[i % 8])
        keys.append(key)
    for i, (name, value) in enumerate(lines.items()):
        words = f"{fitted(name, room - 0.5, size)} {number(value)}"
        keys.append(Line2D([], [], color=theme.ink, ls=LINES[i % len(LINES)], lw=1.3, label=literal(words)))
    if keys:
        figure.legend(handles=keys, loc="upper left", ncols=4, frameon=False, fontsize=size, borderaxespad=0)


def extremes(values: Array, names: Sequence[str], *, high: str = "highest", low: str = "lowest") -> str:
    """Which of some named values are largest and smallest: ``"highest 0.9 (cat), lowest 0.1 (dog and elk)"``.

    Equal values are named together; values that are not a number are passed over.
    """
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return "none has a known value"
    top, bottom = float(values[known].max()), float(values[known].min())
    if len(known) == 1:
        return f"{names[int(known[0])]} has {number(top)}"
    if np.isclose(top, bottom, rtol=1e-9, atol=0):
        return f"all {len(known)} have {number(top)}"
    who = {}
    for v in (top, bottom):
        equal = known[np.isclose(values[known], v, rtol=1e-9, atol=0)]
        who[v] = named([names[int(i)] for i in equal])
    return f"{high} {number(top)} ({who[top]}), {low} {number(bottom)} ({who[bottom]})"


def named(names: Sequence[str], most: int = 3) -> str:
    """Up to ``most`` names, and how many more there are."""
    shown = list(names[:most])
    return join_words(shown if len(names) <= most else [*shown, f"{len(names) - most} more"])


def listed(told: Sequence[str], most: int = 6) -> str:
    """What is said of each of many, the first ones, as one sentence: ``"a: 1; b: 2; and 8 more."``."""
    return "; ".join([*told[:most], *([f"and {len(told) - most} more"] if len(told) > most else [])]) + "."


def counted(n: int, word: str, several: str | None = None) -> str:
    """``"1 image"``, ``"3 images"``."""
    return f"{n:,} {word if n == 1 else several or word + 's'}"


def unknown(n: int, word: str = "value") -> str:
    """A sentence about values that are not a number, empty if there are none."""
    return f" {counted(n, word)} {'is' if n == 1 else 'are'} not a number." if n else ""
