"""What the builders share: figures without pyplot, heat maps with readable numbers, arrays from whatever came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from .theme import SEQUENTIAL, Theme, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Array = npt.NDArray[np.float64]
#: Width of a picture in inches (100 dots each): fits a laptop's notebook column.
WIDTH = 8.8


def as_array(argument: str, value: Any, *, ndim: int | tuple[int, ...], finite: bool = False) -> Array:
    """``value`` (tensor, array, nested lists) as float64, or ``ValueError`` naming rank, emptiness, or numbers that are
    not ``finite`` where they must be."""
    tensor = isinstance(value, torch.Tensor)
    array = value.detach().cpu().double().numpy() if tensor else np.asarray(value, dtype=np.float64)
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in allowed:
        raise ValueError(f"{argument} must be {' or '.join(f'{d}-D' for d in allowed)}, got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"{argument} is empty (shape {array.shape}): there is nothing to show.")
    if finite and not np.isfinite(array).all():
        raise ValueError(f"{argument} must be finite, got {int((~np.isfinite(array)).sum())} numbers that are not.")
    return array


def told(value: float, form: str = ".2f") -> str:
    """A number in words: ``form`` where it is known."""
    return format(value, form) if np.isfinite(value) else "not known"


def as_tensor(argument: str, value: Any, *, ndim: int) -> torch.Tensor:
    """``value`` as a finite float64 tensor on the CPU without gradient, checked like :func:`as_array`."""
    return torch.from_numpy(as_array(argument, value, ndim=ndim, finite=True).copy())


def check_names(argument: str, names: Sequence[str] | None, count: int) -> list[str]:
    """``count`` names as strings; ``None`` gives ``0, 1, ...``."""
    made = [str(i) for i in range(count)] if names is None else [str(n) for n in names]
    if len(made) != count:
        raise ValueError(f"{argument} must hold {count} names, got {len(made)}.")
    return made


def subplots(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure of ``width`` x ``height`` inches with a grid of axes (constrained layout, no pyplot)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **kwargs)


def placed(
    width: float, height: float, boxes: Sequence[tuple[float, float, float, float]]
) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` x ``height`` inches with axes where ``boxes`` say: left, top, width, height in inches from
    the upper left corner. Nothing is laid out: where sizes are known, this takes a fraction of ``subplots``' time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, [figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height)) for x, y, w, h in boxes]


def heatmap(
    ax: Axes,
    matrix: Array,
    theme: Theme,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    vmin: float,
    vmax: float,
    cmap: str = SEQUENTIAL,
    numbers: str | None = None,
    room: int = 90,
) -> AxesImage:
    """A heat map with named rows and columns; not-a-number cells are hatched; ``numbers`` is a format such as
    ``".2f"``."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colours = colormaps[cmap]
    image = ax.imshow(
        np.ma.masked_invalid(matrix), cmap=colours, vmin=vmin, vmax=vmax, aspect="auto", interpolation="nearest"
    )
    for i, j in np.argwhere(~np.isfinite(matrix)):
        ax.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=theme.paper, edgecolor=theme.muted, hatch="///", linewidth=0)
        )
    thin_labels(ax, "y", rows)
    thin_labels(ax, "x", columns, room=room)
    ax.grid(False)
    ax.tick_params(length=0)
    if numbers is not None:
        span = (vmax - vmin) or 1.0
        for (i, j), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                ax.text(
                    j,
                    i,
                    format(value, numbers),
                    ha="center",
                    va="center",
                    fontsize=9 if matrix.shape[1] <= 10 else 7.5,
                    color=text_colour(colours((value - vmin) / span)[:3]),
                )
    return image


def pixels(array: Array) -> Array:
    """``(H, W)`` or ``(H, W, 3)`` in [0, 1] from the layouts torch uses."""
    if array.ndim == 3 and array.shape[0] not in (1, 3):
        raise ValueError(f"image must be (H, W), (1, H, W) or (3, H, W), got shape {array.shape}.")
    return np.clip(array if array.ndim == 2 else array[0] if len(array) == 1 else array.transpose(1, 2, 0), 0, 1)


def show_pixels(ax: Axes, image: Array, caption: str) -> None:
    """An image without ticks, its caption below."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[], xlabel=caption)
    ax.grid(False)


def thin_labels(ax: Axes, axis: str, names: Sequence[str], *, most: int = 40, room: int = 90) -> None:
    """Name the positions 0, 1, ... of an axis, leaving labels out (evenly) where there are more than ``most``.

    Labels below are turned where together they are longer than ``room`` letters (a full-width picture takes 90).
    """
    stride = -(-len(names) // most)
    ticks, labels = list(range(0, len(names), stride)), [names[i] for i in range(0, len(names), stride)]
    small = 9.0 if len(labels) > 14 else None
    if axis == "y":
        ax.set_yticks(ticks, labels, fontsize=small)
        return
    wide = sum(max(map(len, label.split("\n"))) + 2 for label in labels)
    if wide <= room:
        ax.set_xticks(ticks, labels, fontsize=small)
    elif len(labels) > 16:
        ax.set_xticks(ticks, labels, fontsize=small, rotation=90)
    else:
        ax.set_xticks(ticks, labels, fontsize=small, rotation=40, ha="right", rotation_mode="anchor")


def limits(*arrays: Array, symmetric: bool = False) -> tuple[float, float]:
    """Smallest and largest finite value over arrays (widened if equal), or ``-m, m`` when ``symmetric``."""
    finite = np.concatenate([a[np.isfinite(a)].ravel() for a in arrays])
    if finite.size == 0:
        raise ValueError("there is no finite value to show.")
    low, high = float(finite.min()), float(finite.max())
    if symmetric:
        high = max(abs(low), abs(high)) or 1.0
        return -high, high
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def legend_above(ax: Axes, columns: int = 4) -> None:
    """A legend above the axes, out of the way of the data."""
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, frameon=False, borderaxespad=0.2, handlelength=2.6
    )


def join_words(parts: Sequence[str]) -> str:
    """``["a", "b", "c"]`` -> ``"a, b and c"``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
