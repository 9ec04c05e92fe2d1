"""Maps as tokens and back, patches of images, fixed sine-cosine positions, means over what a mask leaves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_positive, describe, names_arguments


def _check_map(name: str, x: Tensor, patch_size: int) -> None:
    check_positive("patch_size", patch_size)
    if not isinstance(x, Tensor) or x.ndim != 4:
        raise ValueError(f"{name} must be (N, C, H, W), got {describe(x)}.")
    if x.shape[2] % patch_size or x.shape[3] % patch_size:
        raise ValueError(f"patch_size must divide height and width of {name}, got {patch_size} and {describe(x)}.")


@names_arguments
def tokens_from_map(feature_map: Tensor, *, patch_size: int = 1) -> Tensor:
    """A map as one token per position, or per patch; row by row.

    Args:
        feature_map: ``(N, C, H, W)``.
        patch_size: p, divides H and W; default 1. The features of a token are ordered (channel, row, column), as in
            ``torch.nn.functional.unfold``.

    Returns:
        ``(N, H W / p^2, C p^2)``.

    Raises:
        ValueError: not 4-D, or ``patch_size`` does not divide.
    """
    _check_map("feature_map", feature_map, patch_size)
    if patch_size == 1:
        return feature_map.flatten(2).transpose(1, 2)
    n, c, h, w = feature_map.shape
    p = patch_size
    blocks = feature_map.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(n, h * w // p**2, c * p * p)


@names_arguments
def map_from_tokens(
    tokens: Tensor, *, grid: tuple[int, int] | None = None, num_class_tokens: int = 0, patch_size: int = 1
) -> Tensor:
    """The inverse of :func:`tokens_from_map`; leading class tokens are dropped.

    Args:
        tokens: ``(N, num_class_tokens + rows * columns, D)``.
        grid: ``(rows, columns)`` of tokens; default: a square.
        num_class_tokens: tokens in front that have no place in the map; default 0.
        patch_size: p, default 1; ``D`` is then C p^2.

    Returns:
        ``(N, C, rows p, columns p)``.

    Raises:
        ValueError: shapes, or tokens that do not fill the grid.
    """
    check_positive("patch_size", patch_size)
    if tokens.ndim != 3 or not 0 <= num_class_tokens < tokens.shape[1]:
        raise ValueError(f"tokens must be (N, T, D) with T > {num_class_tokens} class tokens, got {describe(tokens)}.")
    x = tokens[:, num_class_tokens:]
    rows, columns = grid if grid is not None else (_side(x.shape[1]),) * 2
    if rows * columns != x.shape[1]:
        raise ValueError(f"grid must hold {x.shape[1]} tokens, got {rows} x {columns} (give grid=(rows, columns)).")
    p = patch_size
    if x.shape[2] % p**2:
        raise ValueError(f"tokens must have a multiple of {p**2} features for patch_size {p}, got {describe(tokens)}.")
    blocks = x.reshape(len(x), rows, columns, x.shape[2] // p**2, p, p).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(len(x), x.shape[2] // p**2, rows * p, columns * p)


def _side(count: int) -> int:
    return round(count**0.5)


@names_arguments
def patchify(images: Tensor, *, patch_size: int) -> Tensor:
    """Images as rows of patches, row by row; the entries of a patch are ordered (row, column, channel), as in MAE.

    Args:
        images: ``(N, C, H, W)``. patch_size: p, divides H and W.

    Returns:
        ``(N, H W / p^2, p^2 C)``.

    Raises:
        ValueError: not 4-D, or ``patch_size`` does not divide.

    Reference:
        "Masked Autoencoders Are Scalable Vision Learners" (He et al., 2022), arXiv:2111.06377, official code.
    """
    _check_map("images", images, patch_size)
    n, c, h, w = images.shape
    p = patch_size
    return images.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(n, h * w // p**2, p * p * c)


@names_arguments
def unpatchify(patches: Tensor, *, patch_size: int, grid: tuple[int, int] | None = None) -> Tensor:
    """The inverse of :func:`patchify`.

    Args:
        patches: ``(N, T, p^2 C)``. patch_size: p. grid: ``(rows, columns)`` of patches; default: a square.

    Returns:
        ``(N, C, rows p, columns p)``.

    Raises:
        ValueError: shapes, or patches that do not fill the grid.
    """
    check_positive("patch_size", patch_size)
    p = patch_size
    if patches.ndim != 3 or patches.shape[2] % p**2:
        raise ValueError(f"patches must be (N, T, {p**2} C), got {describe(patches)}.")
    rows, columns = grid if grid is not None else (_side(patches.shape[1]),) * 2
    if rows * columns != patches.shape[1]:
        raise ValueError(f"grid must hold {patches.shape[1]} patches, got {rows} x {columns}.")
    n, c = len(patches), patches.shape[2] // p**2
    return patches.reshape(n, rows, columns, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, rows * p, columns * p)


def sincos_pos_embed_2d(
    embed_dim: int,
    grid_size: int | tuple[int, int],
    *,
    cls_token: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Fixed positions of a grid: half the features for the column, half for the row, each ``[sin, cos]``.

    Frequencies are ``10000^(-j / (D / 4))``, j = 0 .. D / 4 - 1; computed in float64.

    Args:
        embed_dim: D, a multiple of 4.
        grid_size: side, or ``(rows, columns)``.
        cls_token: put a row of zeros in front.
        dtype: of the result; default float32.

    Returns:
        ``(rows * columns [+ 1], D)``, row by row.

    Raises:
        ValueError: ``embed_dim`` no multiple of 4, or an empty grid.

    Reference:
        arXiv:2111.06377, official code; one axis: "Attention Is All You Need" (Vaswani et al., 2017),
        arXiv:1706.03762, section 3.5.
    """
    if embed_dim < 4 or embed_dim % 4:
        raise ValueError(f"embed_dim must be a multiple of 4, got {embed_dim!r}.")
    rows, columns = (grid_size, grid_size) if isinstance(grid_size, int) else grid_size
    if rows < 1 or columns < 1:
        raise ValueError(f"grid_size must be at least 1 x 1, got {rows} x {columns}.")
    quarter = embed_dim // 4
    omega = 10000 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)

    def axis(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    column = axis(columns).expand(rows, columns, 2 * quarter)
    row = axis(rows)[:, None].expand(rows, columns, 2 * quarter)
    table = torch.cat([column, row], dim=2).reshape(rows * columns, embed_dim)
    return (F.pad(table, (0, 0, 1, 0)) if cls_token else table).to(dtype)


@names_arguments
def masked_mean(values: Tensor, mask: Tensor | None = None, *, dim: int | None = None) -> Tensor:
    """Mean of the entries whose mask is not 0; what is masked does not matter, not even NaN.

    Args:
        values: any shape.
        mask: same shape: bool, or weights >= 0; ``None`` counts all.
        dim: axis to reduce; ``None`` reduces all.

    Returns:
        ``sum(mask * values) / sum(mask)``; 0 where the mask is empty.

    Raises:
        ValueError: shapes differ.
    """
    if mask is None:
        return values.mean() if dim is None else values.mean(dim)
    if mask.shape != values.shape:
        raise ValueError(f"mask must have the shape {tuple(values.shape)} of values, got {describe(mask)}.")
    weight = mask.to(values.dtype)
    kept = torch.where(mask != 0, values, 0.0) * weight
    total, count = (kept.sum(), weight.sum()) if dim is None else (kept.sum(dim), weight.sum(dim))
    return total / torch.where(count > 0, count, 1.0)


@names_arguments
def mean_pool(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """One vector per sample: the mean of its tokens, without padding.

    Args:
        tokens: ``(N, T, D)``.
        mask: ``(N, T)``, 1 where a token counts; ``None`` counts all.

    Returns:
        ``(N, D)``; zeros for a sample without tokens.

    Raises:
        ValueError: shapes.
    """
    if tokens.ndim != 3:
        raise ValueError(f"tokens must be (N, T, D), got {describe(tokens)}.")
    if mask is not None and mask.shape != tokens.shape[:2]:
        raise ValueError(f"mask must be {tuple(tokens.shape[:2])}, got {describe(mask)}.")
    return masked_mean(tokens, None if mask is None else mask[..., None].expand(tokens.shape), dim=1)


__all__ = [
    "map_from_tokens",
    "masked_mean",
    "mean_pool",
    "patchify",
    "sincos_pos_embed_2d",
    "tokens_from_map",
    "unpatchify",
]
