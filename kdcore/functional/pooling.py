"""From feature maps and token sequences to one vector per sample."""

from __future__ import annotations

from torch import Tensor

from .checks import check_choice, describe, names_arguments

POOLINGS = ("flatten", "gap", "cls")


@names_arguments
def pool_features(x: Tensor, pooling: str | None, *, channels_last: bool = False) -> Tensor:
    """One row per sample: ``(N, C, H, W)``, ``(N, T, D)`` or ``(N, D)`` to ``(N, F)``.

    Args:
        x: features, samples first.
        pooling: ``"flatten"`` keeps every value; ``"gap"`` is the mean over H and W of a map or over T of a token
            sequence; ``"cls"`` takes token 0; ``None`` returns ``x`` as it is.
        channels_last: a map is ``(N, H, W, C)`` (Swin-like models); only ``"gap"`` looks at it.

    Returns:
        ``(N, C*H*W)`` for flatten, ``(N, C)`` or ``(N, D)`` for gap and cls. Flatten may share memory with ``x``.

    Raises:
        ValueError: unknown pooling, or ``"cls"`` asked of something that is not a token sequence.
    """
    if pooling is None:
        return x
    check_choice("pooling", pooling, POOLINGS)
    if x.ndim < 1:
        raise ValueError(f"x must have samples in its first dimension, got {describe(x)}.")
    if x.ndim == 1:
        x = x.unsqueeze(1)
    if pooling == "flatten":
        return x.flatten(1)
    if pooling == "cls":
        if x.ndim != 3:
            raise ValueError(f'pooling="cls" takes token 0 of (N, T, D), got {describe(x)}: use "gap" or "flatten".')
        return x[:, 0]
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        return x.mean(1)
    return x.flatten(1, -2).mean(1) if channels_last else x.flatten(2).mean(2)


__all__ = ["POOLINGS", "pool_features"]
