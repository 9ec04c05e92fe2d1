"""Which region of an image does a classifier need? A window is slid over it, the fall of every class is read.

All windows of all images are one stack of inputs, and one pass over it answers for every class at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_positive, describe, names_arguments


def occlusion_windows(size: tuple[int, int], *, window: int | tuple[int, int], stride: int | tuple[int, int]) -> Tensor:
    """Where the window stands: ``(K, H, W)`` bool, row by row, true under the window.

    The last window of a row or column is cut at the border, so that every pixel is covered where the stride is at most
    the window.

    Args:
        size: ``(H, W)`` of the images.
        window: side (or sides) of the window in pixels.
        stride: step (or steps) in pixels.

    Raises:
        ValueError: a side or step below 1, or a window larger than the image.
    """
    (height, width), sides, steps = size, _two(window), _two(stride)
    for name, values in (("window", sides), ("stride", steps)):
        for value in values:
            check_positive(name, value)
    if sides[0] > height or sides[1] > width:
        raise ValueError(f"window must fit the image of {height} x {width} pixels, got {sides[0]} x {sides[1]}.")
    rows, columns = (_spans(n, w, s) for n, w, s in zip(size, sides, steps, strict=True))
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def _two(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _spans(length: int, window: int, stride: int) -> Tensor:
    """``(K, length)`` bool: the stretches a window covers along one axis."""
    starts = torch.arange(-(-(length - window) // stride) + 1) * stride
    position = torch.arange(length)
    return (position >= starts[:, None]) & (position < starts[:, None] + window)


@names_arguments
@torch.no_grad()
def occlusion_sensitivity(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    windows: Tensor,
    *,
    baseline: float | Tensor = 0.0,
    batch_size: int = 128,
) -> Tensor:
    """By how much every class falls when a window is covered: ``f(x) - f(x covered)``.

    Args:
        model: maps ``(B, C, H, W)`` to ``(B, K)`` scores; its mode is the caller's affair (eval).
        images: ``(N, C, H, W)``.
        windows: ``(W, H, W)`` bool, from :func:`occlusion_windows`.
        baseline: what covers: a number, or a tensor that broadcasts to one image, e.g. the mean colour ``(C, 1, 1)``.
        batch_size: inputs per forward.

    Returns:
        ``(N, W, K)``: image, window, class.

    Raises:
        ValueError: images or windows of the wrong shape.

    Reference:
        "Visualizing and Understanding Convolutional Networks" (Zeiler and Fergus, 2014), arXiv:1311.2901, section 4.2.
    """
    if images.ndim != 4 or windows.ndim != 3 or windows.dtype != torch.bool or images.shape[2:] != windows.shape[1:]:
        raise ValueError(
            "images must be (N, C, H, W) and windows bool (W, H, W) of the same size, got "
            f"{describe(images)} and {describe(windows)}."
        )
    check_positive("batch_size", batch_size)
    cover = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
    windows = windows.to(images.device)
    plain = model(images)
    jobs = torch.arange(len(images) * len(windows), device=images.device).split(batch_size)
    covered = torch.cat(
        [model(torch.where(windows[job % len(windows), None], cover, images[job // len(windows)])) for job in jobs]
    )
    return plain[:, None] - covered.view(len(images), len(windows), -1)


@names_arguments
def occlusion_map(falls: Tensor, windows: Tensor) -> Tensor:
    """Falls per window as a map over pixels: the mean over the windows that cover a pixel; 0 where none does.

    Args:
        falls: ``(N, W)``, one class of :func:`occlusion_sensitivity`.
        windows: ``(W, H, W)`` bool.

    Returns:
        ``(N, H, W)``; equals ``captum.attr.Occlusion`` for that class.

    Raises:
        ValueError: another number of windows.
    """
    if falls.ndim != 2 or falls.shape[1] != len(windows):
        raise ValueError(f"falls must be (N, {len(windows)}), one per window, got {describe(falls)}.")
    cover = windows.to(falls)
    return torch.einsum("nk,khw->nhw", falls, cover) / cover.sum(0).clamp_min(1)


__all__ = ["occlusion_map", "occlusion_sensitivity", "occlusion_windows"]
