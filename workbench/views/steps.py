"""Images over steps: a row for each thing that changes, a column for each step, a value under each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kdcore.functional.checks import check_choice

from .base import View
from .drawing import WIDTH, Array, as_array, check_names
from .mosaic import Box, as_images, frame, paint, sheet, to_unit
from .picture import Images, Picture
from .theme import Theme, number
from .words import counted, extremes, listed, literal, text_width, unknown, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE, _LINE, _GAP = 9.0, 0.155, 0.07


def step_gallery_view(
    images: Any,
    row_names: Sequence[str] | None = None,
    step_captions: Sequence[str] | None = None,
    *,
    values: Any = None,
    value_label: str = "value",
    scale: str = "all",
    mark: Any = None,
    most_rows: int = 12,
    most_steps: int = 12,
    title: str = "Images over steps",
) -> View:
    """How images change over steps (optimisation, masking, denoising), or versions of the same images side by side.

    Args:
        images: ``(R, S, H, W)``, ``(R, S, H, W, C)`` or ``(R, S, C, H, W)`` with C 1 or 3.
        row_names: ``R`` names; numbers by default.
        step_captions: ``S`` captions; numbers by default.
        values: ``(R, S)`` numbers to stand under the images; NaN where there is none (a dash is drawn).
        value_label: what they are, with the unit.
        scale: which images share black and white: ``"all"``, those of a row (``"rows"``), of a step (``"steps"``), or
            none (``"none"``). Values in [0, 1] are taken as they are.
        mark: ``(R, S)`` truth values; images to frame.
        most_rows: at most so many rows are drawn, the first ones.
        most_steps: at most so many steps are drawn, evenly, the first and the last among them; the table holds all.

    Raises:
        ValueError: ranks, numbers or channels that do not fit, images that are not finite, a scale that does not
            exist, limits that leave nothing (``most_rows`` < 1, ``most_steps`` < 2).
    """
    array = as_images("images", images, lead=2)
    count, steps = array.shape[:2]
    names, captions = check_names("row_names", row_names, count), check_names("step_captions", step_captions, steps)
    numbers = None if values is None else as_array("values", values, ndim=2)
    if numbers is not None and numbers.shape != (count, steps):
        raise ValueError(f"values must be ({count}, {steps}), one for each image, got {numbers.shape}.")
    marked = np.zeros((count, steps), dtype=bool) if mark is None else np.asarray(mark, dtype=bool)
    if marked.shape != (count, steps):
        raise ValueError(f"mark must be ({count}, {steps}), one for each image, got {marked.shape}.")
    check_choice("scale", scale, ("all", "rows", "steps", "none"))
    if most_rows < 1 or most_steps < 2:
        raise ValueError(f"most_rows must be at least 1 and most_steps 2, got {most_rows!r} and {most_steps!r}.")
    rows, at = min(count, most_rows), np.unique(np.linspace(0, steps - 1, min(steps, most_steps)).round().astype(int))
    shown = _scaled(array, scale)[:rows, at]

    def draw(theme: Theme) -> Figure:
        rooms = [text_width(w, _SIZE) for n in names[:rows] for w in wrapped(n, 1.4, _SIZE, lines=3).split("\n")]
        left = max(rooms) + 0.12
        wide = min(
            1.7, (WIDTH - left) / len(at) - _GAP, max(0.5, 9 / rows - 3 * _LINE) * array.shape[3] / array.shape[2]
        )
        tall = wide * array.shape[2] / array.shape[3]
        heads = [wrapped(captions[i], wide + _GAP - 0.05, _SIZE) for i in at]
        top = 0.08 + _LINE * (1 + max(h.count("\n") for h in heads))
        down = max(tall + (_LINE if numbers is not None else 0) + _GAP, 3 * _LINE)
        about = 0.28 if numbers is not None else 0.0
        figure, ax, _ = sheet(left + len(at) * (wide + _GAP), top + rows * down + about, [])
        boxes: dict[tuple[int, int], Box] = {
            (r, s): (left + s * (wide + _GAP), top + r * down, wide, tall) for r in range(rows) for s in range(len(at))
        }
        paint(ax, ((shown[key], box) for key, box in boxes.items()))
        for s, head in enumerate(heads):
            x = left + s * (wide + _GAP) + wide / 2
            ax.text(x, top - 0.04, literal(head), ha="center", va="bottom", fontsize=_SIZE)
        for r, name in enumerate(names[:rows]):
            words = literal(wrapped(name, 1.4, _SIZE, lines=3))
            ax.text(left - 0.08, top + r * down + tall / 2, words, ha="right", va="center", fontsize=_SIZE)
        for (r, s), (x, y, *_) in boxes.items():
            if numbers is not None:
                value = numbers[r, at[s]]
                said = "–" if np.isnan(value) else _short(value, wide + _GAP)
                ax.text(x + wide / 2, y + tall + 0.02, said, ha="center", va="top", fontsize=8, color=theme.ink)
            if marked[r, at[s]]:
                frame(ax, boxes[r, s])
        if about:
            below = literal(wrapped(f"below each image: {value_label}", WIDTH, _SIZE))
            ax.text(left, top + rows * down + about - 0.03, below, va="bottom", fontsize=_SIZE, color=theme.muted)
        return figure

    pixel = array.mean((2, 3, 4)).ravel()
    table = pd.DataFrame({"row": np.repeat(names, steps), "step": captions * count, "mean pixel": pixel})
    if numbers is not None:
        table[value_label] = numbers.ravel()
    if marked.any():
        table["framed"] = marked.ravel()
    size = f"images of {array.shape[2]} by {array.shape[3]} pixels"
    alt = f"{counted(count, 'row')} by {counted(steps, 'step')} of {size}. "
    alt += _change(array, names, captions) if numbers is None else _course(numbers, names, captions, value_label)
    alt += f" Framed: {int(marked.sum())}." if marked.any() else ""
    if len(at) < steps:
        alt += f" {len(at)} of {steps} steps are drawn, evenly."
    if rows < count:
        alt += f" The first {rows} of {count} rows are drawn; the table holds all."
    captions_ = [
        (captions[i] if r == 0 else "") + ("" if numbers is None else f"\n{_said(numbers[r, i])}")
        for r in range(rows)
        for i in at
    ]
    told = [f"{names[r]}, {captions[i]}" for r in range(rows) for i in at]
    grid = Images(
        images=shown.reshape(-1, *shown.shape[2:]),
        captions=[c.strip("\n") for c in captions_],
        notes=told,
        framed=marked[:rows, at].ravel().tolist(),
        columns=len(at),
        rows=names[:rows],
        title="" if numbers is None else f"below each image: {value_label}",
    )
    return View(title=title, alt=alt, table=table, picture=Picture(grid), draw=draw)


def _said(value: float) -> str:
    return "–" if np.isnan(value) else number(float(value))


def _scaled(array: Array, scale: str) -> Array:
    if scale == "all":
        return to_unit(array)
    made = np.empty_like(array)
    for r in range(len(array)) if scale != "steps" else [slice(None)]:
        for s in range(array.shape[1]) if scale != "rows" else [slice(None)]:
            made[r, s] = to_unit(array[r, s])
    return made


def _short(value: float, room: float) -> str:
    """As many digits as there is room for."""
    return next(
        (w for w in (number(value), f"{value:.3g}", f"{value:.2g}") if text_width(w, 8) <= room), f"{value:.1g}"
    )


def _change(array: Array, names: Sequence[str], captions: Sequence[str]) -> str:
    if array.shape[1] == 1:
        return f"Rows: {', '.join(names[:6])}" + (f" and {len(names) - 6} more." if len(names) > 6 else ".")
    moved = np.abs(array[:, -1] - array[:, 0]).reshape(len(array), -1).mean(1)
    if not moved.any():
        return f"No pixel changes between {captions[0]} and {captions[-1]}."
    return f"Mean change of a pixel from {captions[0]} to {captions[-1]}: {extremes(moved, names)}."


def _course(numbers: Array, names: Sequence[str], captions: Sequence[str], label: str) -> str:
    told = []
    for name, row in zip(names, numbers, strict=True):
        known = np.flatnonzero(np.isfinite(row))
        if not len(known):
            told.append(f"{name} is not known")
        elif len(known) == 1:
            told.append(f"{name} has {number(float(row[known[0]]))} at {captions[known[0]]}")
        else:
            first, last = known[0], known[-1]
            told.append(
                f"{name} goes from {number(float(row[first]))} at {captions[first]} to {number(float(row[last]))} at "
                f"{captions[last]}"
            )
    alt = f"{label}: {listed(told)}"
    ends = [row[np.isfinite(row)] for row in numbers]
    gains = np.array([e[-1] - e[0] if len(e) > 1 else np.nan for e in ends])
    if len(names) > 1 and np.isfinite(gains).any():
        alt += f" Change: {extremes(gains, names, high='largest', low='smallest')}."
    return alt + unknown(int(np.isnan(numbers).sum()))


__all__ = ["step_gallery_view"]
