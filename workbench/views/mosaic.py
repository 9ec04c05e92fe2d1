"""Many small images on one sheet: a single picture in the memory layout of the screen, however many they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .drawing import Array, as_array, placed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Left, top, width and height in inches from the upper left corner of the sheet.
Box = tuple[float, float, float, float]
#: Dots per inch of the painted sheet, as pictures are shown; finer ones take four times as long.
_DOTS = 100
#: The frame of a marked image.
FRAME = "#D55E00"


def as_images(argument: str, images: Any, *, lead: int) -> Array:
    """``(..., H, W)``, ``(..., H, W, C)`` or ``(..., C, H, W)`` with ``lead`` leading axes and C 1 or 3 as
    ``(..., H, W, C)``; channels are last where both readings fit.

    Raises:
        ValueError: rank, channels, or a value that is not finite.
    """
    array = as_array(argument, images, ndim=(lead + 2, lead + 3))
    if array.ndim == lead + 2:
        array = array[..., None]
    elif array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, lead, -1)
    if array.shape[-1] not in (1, 3):
        raise ValueError(f"{argument} must have 1 or 3 channels, last or before H and W, got {np.shape(images)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument} must be finite, got {int((~np.isfinite(array)).sum())} values that are not.")
    return array


def to_unit(array: Array, ends: tuple[float, float] | None = None) -> Array:
    """Values in [0, 1]: as they are where they lie there already, else from smallest to largest (or ``ends``)."""
    inside = array.min() >= 0 and array.max() <= 1
    low, high = ends or ((0.0, 1.0) if inside else (float(array.min()), float(array.max())))
    return ((array - low) / ((high - low) or 1.0)).clip(0, 1)


def resized(array: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """``(H, W, ...)`` at another size, each dot from the pixel that lies under it."""
    down = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(int)
    across = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(int)
    return array[down[:, None], across]


def sheet(width: float, height: float, extra: Iterable[Box] = ()) -> tuple[Figure, Axes, list[Axes]]:
    """A figure whose first axes cover all of it and count in inches from the upper left corner; more axes at will."""
    figure, (ax, *others) = placed(width, height, [(0.0, 0.0, width, height), *extra])
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return figure, ax, others


def paint(ax: Axes, images: Iterable[tuple[Array, Box]]) -> None:
    """Put images ``(H, W, 1 or 3)`` in [0, 1] into boxes of a sheet."""
    width, height = ax.get_xlim()[1], ax.get_ylim()[0]
    canvas = np.zeros((round(height * _DOTS), round(width * _DOTS), 4), dtype=np.uint8)
    for image, box in images:
        left, top, across, down = (round(v * _DOTS) for v in box)
        place = canvas[top : top + down, left : left + across]
        place[..., :3] = (255 * resized(image, *place.shape[:2])).round()
        place[..., 3] = 255
    ax.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")


def frame(ax: Axes, box: Box) -> None:
    """An edge about a box."""
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle(box[:2], box[2], box[3], fill=False, ec=FRAME, lw=3))
