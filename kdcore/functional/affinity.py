"""Row-normalised Gram matrices, spatial affinity, per-pixel cosine, hierarchical context (HCL), channel-wise KL.

The teacher is a constant in everything that takes a pair. Maps are compared at the same size: resize or project first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_positive, describe, names_arguments
from .divergences import kl_with_temperature
from .reductions import at_least_float32, reduce


@names_arguments
def sample_gram(features: Tensor) -> Tensor:
    """``F F^T`` between the samples of a batch, each row brought to length 1.

    Args:
        features: ``(N, ...)``, flattened per sample. A zero row stays zero.

    Returns:
        ``(N, N)``, at least float32; not symmetric after the division.

    Raises:
        ValueError: not floating, or fewer than two dimensions.

    Reference:
        "Similarity-Preserving Knowledge Distillation" (Tung and Mori, 2019), arXiv:1907.09682, equations 1-2.
    """
    if not isinstance(features, Tensor) or features.ndim < 2 or not features.is_floating_point():
        raise ValueError(f"features must be floating (N, ...), got {describe(features)}.")
    x = at_least_float32(features).flatten(1)
    return F.normalize(x @ x.T, dim=1)


@names_arguments
def channel_gram(feature_map: Tensor) -> Tensor:
    """``M M^T`` between the channels of every sample, each row brought to length 1.

    Args:
        feature_map: ``(N, C, ...)``, flattened after the channels; ``(N, C)`` counts as one position.

    Returns:
        ``(N, C, C)``, at least float32.

    Raises:
        ValueError: not floating, or fewer than two dimensions.

    Reference:
        "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation" (Liu et al., 2021),
        arXiv:2202.03680, equation 2.
    """
    if not isinstance(feature_map, Tensor) or feature_map.ndim < 2 or not feature_map.is_floating_point():
        raise ValueError(f"feature_map must be floating (N, C, ...), got {describe(feature_map)}.")
    x = at_least_float32(feature_map).reshape(*feature_map.shape[:2], -1)
    return F.normalize(x @ x.transpose(1, 2), dim=2)


@names_arguments
def spatial_affinity(feature_map: Tensor, *, eps: float = 1e-8, pool: int | None = None) -> Tensor:
    """Cosine between all pairs of positions of a map; the number of channels drops out.

    Args:
        feature_map: ``(N, C, H, W)``.
        eps: added to the length of a position's vector; default 1e-8 (FAKD).
        pool: average-pool with this window and stride first; the result has ``(H W)^2`` entries per sample.

    Returns:
        ``(N, H W, H W)``, at least float32.

    Raises:
        ValueError: not floating ``(N, C, H, W)``, or ``eps`` or ``pool`` not above zero.

    Reference:
        "FAKD: Feature-Affinity Based Knowledge Distillation for Efficient Image Super-Resolution" (He et al., 2020).
    """
    check_positive("eps", eps)
    x = _map("feature_map", feature_map)
    if pool is not None:
        check_positive("pool", pool)
        x = F.avg_pool2d(x, pool)
    x = x.flatten(2)
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + eps)
    return x.transpose(1, 2) @ x


def _map(name: str, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"{name} must be floating (N, C, H, W), got {describe(x)}.")
    return at_least_float32(x)


def _maps(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    s = _map("student_map", student_map)
    t = _map("teacher_map", teacher_map).detach().to(s.dtype)
    if s.shape != t.shape:
        raise ValueError(
            f"student_map and teacher_map must have the same shape, got {tuple(s.shape)} and {tuple(t.shape)}: use a "
            "projector (kdcore.projectors), and resize the larger map."
        )
    return s, t


@names_arguments
def pixel_cosine_distance(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """``1 - cos`` over channels at every position: ``(N, H, W)`` in [0, 2]; 1 where a vector is zero.

    Args:
        student_map: ``(N, C, H, W)``. teacher_map: same shape; a constant.

    Raises:
        ValueError: not floating maps of one shape.

    Reference:
        "Anomaly Detection via Reverse Distillation from One-Class Embedding" (Deng and Li, 2022), arXiv:2201.10703,
        equation 1.
    """
    s, t = _maps(student_map, teacher_map)
    return 1 - (F.normalize(s, dim=1) * F.normalize(t, dim=1)).sum(1)


@names_arguments
def hierarchical_context(student_map: Tensor, teacher_map: Tensor, *, levels: Sequence[int] = (4, 2, 1)) -> Tensor:
    """Mean squared error at full size and after pooling, weighted 1, 1/2, 1/4 ... and divided by the sum of weights.

    Args:
        student_map: ``(N, C, H, W)``. teacher_map: same shape; a constant.
        levels: sides of the pooled maps, in this order; a level not below H is skipped and takes no weight. Default
            ``(4, 2, 1)``.

    Returns:
        One number.

    Raises:
        ValueError: not floating maps of one shape, or a level below 1.

    Reference:
        "Distilling Knowledge via Knowledge Review" (Chen et al., 2021), arXiv:2104.09044, official code (``hcl``).
    """
    s, t = _maps(student_map, teacher_map)
    loss, weight, total = F.mse_loss(s, t), 1.0, 1.0
    for level in levels:
        check_positive("levels", level)
        if level >= s.shape[2]:
            continue
        weight /= 2
        loss = loss + weight * F.mse_loss(F.adaptive_avg_pool2d(s, level), F.adaptive_avg_pool2d(t, level))
        total += weight
    return loss / total


@names_arguments
def channel_wise_kl(
    student_map: Tensor, teacher_map: Tensor, *, temperature: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """``T^2 KL`` between where each channel looks: its softmax over all positions, teacher against student.

    Args:
        student_map: ``(N, C, H, W)`` features or logits. teacher_map: same shape; a constant.
        temperature: T > 0; default 1.
        reduction: ``"mean"`` over samples and channels, ``"sum"``, or ``"none"`` for ``(N, C)``.

    Raises:
        ValueError: not floating maps of one shape, temperature, reduction.

    Reference:
        "Channel-wise Knowledge Distillation for Dense Prediction" (Shu et al., 2021), arXiv:2011.13256, equation 4.
    """
    s, t = _maps(student_map, teacher_map)
    kl = kl_with_temperature(s.flatten(0, 1).flatten(1), t.flatten(0, 1).flatten(1), temperature=temperature)
    return reduce(temperature**2 * kl.view(s.shape[:2]), reduction)


__all__ = [
    "channel_gram",
    "channel_wise_kl",
    "hierarchical_context",
    "pixel_cosine_distance",
    "sample_gram",
    "spatial_affinity",
]
