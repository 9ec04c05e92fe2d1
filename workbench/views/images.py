"""Images in a grid, each with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from .base import View
from .drawing import as_array, check_names
from .picture import Images, Picture


def image_grid_view(
    images: Any,
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    mark: Sequence[bool] = (),
    value_range: tuple[float, float] | None = None,
    title: str = "Images",
) -> View:
    """Images side by side, captions below.

    Args:
        images: ``(N, H, W)``, ``(N, 1, H, W)`` grey or ``(N, 3, H, W)`` colour.
        captions: ``N`` texts (default: numbers).
        columns: images per row; chosen by number otherwise.
        mark: images to frame (for instance the wrongly classified), one truth value each.
        value_range: black and white; default 0 and 1 when the values lie there, else their smallest and largest.

    Raises:
        ValueError: wrong rank or channels, or captions and marks that do not fit.
    """
    array = as_array("images", images, ndim=(3, 4))
    if array.ndim == 4 and array.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels (N, C, H, W), got shape {array.shape}.")
    names = check_names("captions", captions, len(array))
    framed = list(mark) or [False] * len(array)
    if len(framed) != len(array):
        raise ValueError(f"mark must hold {len(array)} truth values, got {len(framed)}.")
    low, high = value_range or (
        (0.0, 1.0) if array.min() >= 0 and array.max() <= 1 else (float(array.min()), float(array.max()))
    )
    shown = ((array - low) / ((high - low) or 1.0)).clip(0, 1)
    shown = shown if shown.ndim == 3 else shown[:, 0] if shown.shape[1] == 1 else shown.transpose(0, 2, 3, 1)
    alt = (
        f"{len(shown)} image{'s' if len(shown) > 1 else ''} of {array.shape[-2]} by {array.shape[-1]} pixels: "
        f"{'; '.join(names[:12])}"
        + ("; ..." if len(names) > 12 else ".")
        + (f" Framed: {sum(framed)}." if any(framed) else "")
    )

    table = pd.DataFrame({"image": range(len(names)), "caption": names, "framed": framed})
    grid = Images(images=shown, captions=names, framed=framed, columns=columns or min(len(shown), 8))
    return View(title=title, alt=alt, table=table, picture=Picture(grid))


__all__ = ["image_grid_view"]
