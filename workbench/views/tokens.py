"""Rows of tokens on backgrounds that say a value for each: losses, weights, attention, divergences of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from .base import View
from .drawing import WIDTH, Array, as_array, check_names, limits
from .mosaic import sheet
from .picture import Colours, Picture, Tokens
from .theme import DIVERGING, SEQUENTIAL, Theme, text_colour
from .words import counted, extremes, fitted, literal, text_width, unknown, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Points of the tokens; inches: height of a line and of its boxes, air beside a token, between tokens and rows.
_SIZE, _LINE, _BOX, _PAD, _SPACE, _GAP = 9.5, 0.26, 0.22, 0.05, 0.03, 0.12
_NAMES = 1.3
#: What cannot be seen otherwise.
_VISIBLE = {"\n": "⏎", "\t": "⇥", " ": "␣", "": "∅"}


class _Token(NamedTuple):
    text: str
    value: float
    left: float
    top: float
    width: float


def token_sequence_view(
    tokens: Sequence[Sequence[str]],
    values: Sequence[Any],
    row_names: Sequence[str] | None = None,
    *,
    diverging: bool = False,
    value_range: tuple[float, float] | None = None,
    value_label: str = "value",
    most_lines: int = 24,
    title: str = "Tokens",
) -> View:
    """Sequences of tokens, one below the other, each token on a colour that says its value; long ones are wrapped.

    Args:
        tokens: ``R`` rows of texts, lengths may differ; spaces, line ends and empty tokens are made visible.
        values: ``R`` rows ``(L,)`` of numbers, one for each token; NaN (a dotted box) where there is none. Rows may
            be filled up with NaN at their end.
        row_names: ``R`` names (a model, a reading); numbers by default.
        diverging: a scale about 0 for values of both signs.
        value_range: ends of the colour scale; by default smallest and largest value.
        value_label: what is measured, with the unit.
        most_lines: at most so many lines are drawn, the first ones; the table holds all tokens.

    Raises:
        ValueError: no token, a row that is a text, values that do not fit, infinite or no known values.
    """
    if not len(tokens) or not any(len(row) for row in tokens):
        raise ValueError("tokens is empty: there is nothing to show.")
    if len(values) != len(tokens):
        raise ValueError(f"values must hold {len(tokens)} rows like tokens, got {len(values)}.")
    names = check_names("row_names", row_names, len(tokens))
    rows = [_row(r, texts, numbers) for r, (texts, numbers) in enumerate(zip(tokens, values, strict=True))]
    flat = np.concatenate([v for _, v in rows])
    if np.isinf(flat).any() or np.isnan(flat).all():
        raise ValueError("values must hold finite numbers (NaN where there is none), got infinite ones or none.")
    low, high = value_range or limits(flat, symmetric=diverging)
    if not low < high:
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range!r}.")
    if most_lines < 1:
        raise ValueError(f"most_lines must be at least 1, got {most_lines!r}.")
    left = 0.1 + max(text_width(fitted(n, _NAMES, _SIZE), _SIZE) for n in names)
    places, starts, bottom = _lay_out(rows, left, most_lines)

    def draw(theme: Theme) -> Figure:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.collections import PolyCollection
        from matplotlib.colors import Normalize

        figure, ax, (bar,) = sheet(WIDTH, bottom + 0.5, [(left, bottom + 0.12, 2.6, 0.12)])
        cmap = colormaps[DIVERGING if diverging else SEQUENTIAL]
        scaled = np.clip((np.array([t.value for t in places]) - low) / (high - low), 0, 1)
        colours = cmap(scaled)
        colours[np.isnan(scaled)] = 0  # nothing: the paper
        x, y, w = (np.array([getattr(t, k) for t in places]) for k in ("left", "top", "width"))
        corners = np.stack([[x, x + w, x + w, x], [y, y, y + _BOX, y + _BOX]]).T
        empty = np.isnan(scaled)
        for part, edge in ((~empty, {"linewidths": 0.5}), (empty, {"linewidths": 1.4, "linestyles": ":"})):
            boxes = PolyCollection(list(corners[part]), facecolors=colours[part], edgecolors=theme.muted, **edge)
            ax.add_collection(boxes)
        for token, colour in zip(places, colours, strict=True):
            ink = theme.ink if np.isnan(token.value) else text_colour(colour[:3])
            middle = token.top + 0.52 * _BOX
            ax.text(token.left + _PAD, middle, literal(token.text), va="center_baseline", fontsize=_SIZE, color=ink)
        for r, top in starts.items():
            name = literal(fitted(names[r], _NAMES, _SIZE))
            ax.text(left - 0.08, top + 0.52 * _BOX, name, ha="right", va="center_baseline", fontsize=_SIZE)
        figure.colorbar(ScalarMappable(Normalize(low, high), cmap), cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=8.5)
        said = f"{value_label}; a dotted box has none" if np.isnan(flat).any() else value_label
        words = literal(wrapped(said, WIDTH - left - 2.9, _SIZE))
        ax.text(left + 2.75, bottom + 0.18, words, va="center", fontsize=_SIZE)
        return figure

    lengths = [len(texts) for texts, _ in rows]
    every = [t for texts, _ in rows for t in texts]
    owners, positions = np.repeat(np.arange(len(rows)), lengths), np.concatenate([np.arange(n) for n in lengths])
    table = pd.DataFrame({"row": [names[r] for r in owners], "position": positions, "token": every, value_label: flat})
    called = [
        f'"{_visible(t)}" at {p}' + (f" in {names[r]}" if len(rows) > 1 else "")
        for t, p, r in zip(every, positions, owners, strict=True)
    ]
    alt = f"{value_label} of {counted(len(every), 'token')} in {counted(len(rows), 'row')}, positions from 0: "
    alt += f"{extremes(flat, called)}."
    if len(rows) > 1:
        means = [float(v[~np.isnan(v)].mean()) if (~np.isnan(v)).any() else np.nan for _, v in rows]
        alt += f" Means of rows: {extremes(np.array(means), names)}."
    alt += unknown(int(np.isnan(flat).sum()))
    if len(places) < len(every):
        alt += (
            f" The first {most_lines} lines with {len(places)} of {len(every)} tokens are drawn; the table holds all."
        )
    colours = Colours(low, high, value_label, "diverging" if diverging else "sequential")
    shown = Tokens(tokens=[t for t, _ in rows], values=[v for _, v in rows], rows=names, colours=colours)
    return View(title=title, alt=alt, table=table, picture=Picture(shown), draw=draw)


def _row(r: int, texts: Sequence[str], numbers: Any) -> tuple[list[str], Array]:
    if isinstance(texts, str):
        raise ValueError(f"tokens must hold rows of texts, got the text {texts!r} in place of row {r}.")
    array = as_array(f"values[{r}]", numbers, ndim=1) if len(numbers) else np.zeros(0)
    if len(array) < len(texts) or not np.isnan(array[len(texts) :]).all():
        raise ValueError(f"values[{r}] must hold {len(texts)} numbers, one for each token, got {len(array)}.")
    return [str(t) for t in texts], array[: len(texts)]


def _visible(token: str) -> str:
    return "".join(_VISIBLE[c] for c in token) if token and set(token) <= set(_VISIBLE) else _VISIBLE.get(token, token)


def _lay_out(
    rows: Sequence[tuple[list[str], Array]], left: float, most: int
) -> tuple[list[_Token], dict[int, float], float]:
    """Where tokens stand, where rows begin, and where the last line ends."""
    places: list[_Token] = []
    starts: dict[int, float] = {}
    line, top = 0, 0.08
    for r, (texts, numbers) in enumerate(rows):
        if line == most:
            break
        starts[r], x = top, left
        line += 1
        for text, value in zip(texts, numbers, strict=True):
            shown = fitted(_visible(text), WIDTH - left - 0.3, _SIZE)
            width = text_width(shown, _SIZE) + 2 * _PAD
            if x > left and x + width > WIDTH:
                if line == most:
                    break
                x, top, line = left, top + _LINE, line + 1
            places.append(_Token(shown, float(value), x, top, width))
            x += width + _SPACE
        top += _LINE + _GAP
    return places, starts, top - _GAP


__all__ = ["token_sequence_view"]
