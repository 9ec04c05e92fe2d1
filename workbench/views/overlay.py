"""Maps over the images they belong to: attention, class activation, masks, anomaly scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from .base import View
from .drawing import WIDTH, Array, as_array, check_names, limits
from .mosaic import as_images, frame, paint, resized, sheet, to_unit
from .picture import Colours, Images, Picture
from .theme import DIVERGING, SEQUENTIAL, Theme, number
from .words import counted, extremes, literal, unknown, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAR = 0.95
_SIZE, _LINE = 8.5, 0.145


def overlay_view(
    maps: Any,
    images: Any,
    captions: Sequence[str] | None = None,
    *,
    alpha: float = 0.6,
    diverging: bool = False,
    smooth: bool = False,
    value_range: tuple[float, float] | None = None,
    value_label: str = "value",
    mark: Sequence[bool] = (),
    columns: int | None = None,
    most: int = 100,
    title: str = "Maps over images",
) -> View:
    """Each image with its map laid over it, all maps on one colour scale.

    Args:
        maps: ``(N, h, w)`` values, of any size: each covers its image; where NaN, the image shows through.
        images: ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with C 1 or 3.
        captions: ``N`` texts; numbers by default.
        alpha: 0 (image alone) to 1 (map alone).
        diverging: a scale about 0 for values of both signs.
        smooth: between the cells of a map that is smaller than its image, go from one value to the next.
        value_range: ends of the colour scale; by default smallest and largest value.
        value_label: what the maps hold, with the unit.
        mark: ``N`` truth values; images to frame.
        columns: images in a row; chosen by number otherwise.
        most: at most so many images are drawn, the first ones; the table holds all.

    Raises:
        ValueError: ranks, numbers, channels that do not fit, infinite values, no known value, alpha or range.
    """
    values, pictures = as_array("maps", maps, ndim=3), as_images("images", images, lead=1)
    if len(values) != len(pictures):
        raise ValueError(f"maps must hold one map for each of {len(pictures)} images, got {len(values)}.")
    if np.isinf(values).any() or np.isnan(values).all():
        raise ValueError("maps must hold finite numbers (NaN where an image shows through), got infinite ones or none.")
    names = check_names("captions", captions, len(values))
    marked = list(mark) or [False] * len(values)
    if len(marked) != len(values):
        raise ValueError(f"mark must hold {len(values)} truth values, got {len(marked)}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha!r}.")
    if most < 1 or (columns is not None and columns < 1):
        raise ValueError(f"most and columns must be at least 1, got {most!r} and {columns!r}.")
    low, high = value_range or limits(values, symmetric=diverging)
    if not low < high:
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range!r}.")
    count = min(most, len(values))
    grey = to_unit(pictures)[:count]
    layers = _smoothed(values, pictures.shape[1:3]) if smooth else values

    def draw(theme: Theme) -> Figure:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        per = columns or next(c for n, c in ((5, count), (15, 5), (40, 8), (math.inf, 10)) if count <= n)
        step = (WIDTH - _BAR) / per
        wide = min(2.2, step - 0.1)
        words = [wrapped(n, wide, _SIZE) for n in names[:count]]
        tall = wide * pictures.shape[1] / pictures.shape[2]
        down = tall + 0.12 + _LINE * (1 + max(w.count("\n") for w in words))
        lines = math.ceil(count / per)
        step = min(step, wide + 0.35)
        bar = (per * step + 0.1, 0.3, 0.15, min(2.6, max(lines * down - 0.5, 0.9)))
        figure, ax, (side,) = sheet(per * step + _BAR, max(lines * down + 0.05, 1.4), [bar])
        cmap = colormaps[DIVERGING if diverging else SEQUENTIAL]
        boxes = [(k % per * step, 0.05 + k // per * down, wide, tall) for k in range(count)]
        scaled = (layers[:count] - low) / (high - low)
        paint(ax, ((_blend(grey[k], scaled[k], cmap, alpha), boxes[k]) for k in range(count)))
        for k, (x, y, *_) in enumerate(boxes):
            ax.text(x + wide / 2, y + tall + 0.04, literal(words[k]), ha="center", va="top", fontsize=_SIZE)
            if marked[k]:
                frame(ax, boxes[k])
        figure.colorbar(ScalarMappable(Normalize(low, high), cmap), cax=side)
        side.set_title(literal(wrapped(value_label, 0.8, 9)), fontsize=9, loc="left")
        side.tick_params(labelsize=9)
        return figure

    flat = values.reshape(len(values), -1)
    known = ~np.isnan(flat)
    top, bottom = np.where(known, flat, -np.inf), np.where(known, flat, np.inf)
    some = known.any(1)
    highest, lowest = np.where(some, top.max(1), np.nan), np.where(some, bottom.min(1), np.nan)
    means = np.where(known, flat, 0).sum(1) / np.where(some, known.sum(1), np.nan)
    places = np.stack(np.unravel_index(top.argmax(1), values.shape[1:]), 1).astype(float)
    places[~some] = np.nan
    table = pd.DataFrame(
        {
            "image": names,
            "mean": means,
            "lowest": lowest,
            "highest": highest,
            "row of highest": places[:, 0],
            "column of highest": places[:, 1],
        }
    )
    alt = f"Maps of {value_label} over {counted(len(names), 'image')}. "
    if np.nanmax(highest) == np.nanmin(lowest):
        alt += f"All values are {number(float(np.nanmax(highest)))}."
    else:
        best, worst = int(np.nanargmax(highest)), int(np.nanargmin(lowest))
        row, column = (int(v) for v in places[best])
        alt += (
            f"Largest value {number(float(highest[best]))}, in {names[best]} at row {row}, column {column} of "
            f"{values.shape[1]} by {values.shape[2]} (from 0); smallest {number(float(lowest[worst]))}, in "
            f"{names[worst]}."
        )
        alt += f" Means: {extremes(means, names)}." if len(names) > 1 else f" Mean {number(float(means[0]))}."
    if any(marked):
        alt += f" Framed: {sum(marked)}."
    alt += unknown(int((~known).sum()))
    if count < len(names):
        alt += f" The first {count} of {len(names)} images are drawn; the table holds all."
    colours = Colours(low, high, value_label, "diverging" if diverging else "sequential")
    grid = Images(
        images=grey,
        captions=names[:count],
        framed=marked[:count],
        maps=values[:count],
        colours=colours,
        opacity=alpha,
        smooth=smooth,
        columns=columns,
    )
    return View(title=title, alt=alt, table=table, picture=Picture(grid), draw=draw)


def _smoothed(values: Array, size: tuple[int, ...]) -> Array:
    """Maps enlarged to the images' size (never made smaller) by linear interpolation; NaN spreads to its neighbours."""
    target = [max(a, b) for a, b in zip(values.shape[1:], size, strict=True)]
    made = torch.nn.functional.interpolate(torch.from_numpy(values)[:, None], target, mode="bilinear")
    return made[:, 0].numpy()


def _blend(image: Array, layer: Array, cmap: Any, alpha: float) -> Array:
    height, width = (max(a, b) for a, b in zip(image.shape, layer.shape, strict=False))
    below, above = np.broadcast_to(resized(image, height, width), (height, width, 3)), resized(layer, height, width)
    weight = np.where(np.isnan(above), 0.0, alpha)[..., None]
    return (1 - weight) * below + weight * cmap(np.nan_to_num(above).clip(0, 1))[..., :3]


__all__ = ["overlay_view"]
