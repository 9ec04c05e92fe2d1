r"""Boxes: formats, overlap, heat maps of centres, losses and measures of single-target tracking.

Four formats, all ``(..., 4)``: ``xyxy`` (two corners), ``xywh`` (top-left corner and size), ``cxcywh`` (centre and
size); coordinates in one unit, mostly [0, 1] of the image. Overlaps are of pairs: box i with target i.

A centre head (CenterNet, OSTrack) answers on an F x F grid with a score, a size and an offset map. The cell (row i,
column j) that is chosen gives the box

.. math::
    c_x = (j + o_x) / F, \qquad c_y = (i + o_y) / F, \qquad (w, h) = \mathrm{size}_{ij}
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_choice, check_fraction, describe, names_arguments
from .reductions import at_least_float32

READOUTS = ("argmax", "target")
#: Weights of focal, GIoU and L1 in the tracking loss (OSTrack, ORTrack).
TRACKING_WEIGHTS = (1.0, 2.0, 5.0)


def _check_boxes(argument: str, boxes: Tensor) -> None:
    if not isinstance(boxes, Tensor) or not boxes.is_floating_point():
        raise TypeError(f"{argument} must be a floating tensor of boxes, got {describe(boxes)}.")
    if boxes.ndim < 1 or boxes.shape[-1] != 4:
        raise ValueError(f"{argument} must be (..., 4), got {describe(boxes)}.")


# Formats --------------------------------------------------------------------------------------------------------------


@names_arguments
def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners, ``(..., 4)``."""
    _check_boxes("boxes", boxes)
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], -1)


@names_arguments
def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre and size, ``(..., 4)``."""
    _check_boxes("boxes", boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


@names_arguments
def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Top-left corner and size to corners, ``(..., 4)``."""
    _check_boxes("boxes", boxes)
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


@names_arguments
def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners to top-left corner and size, ``(..., 4)``."""
    _check_boxes("boxes", boxes)
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


# Overlap --------------------------------------------------------------------------------------------------------------


def _areas(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, union and smallest enclosing box of pairs of ``xyxy`` boxes, areas ``(...)``."""
    for argument, value in (("boxes", boxes), ("targets", targets)):
        _check_boxes(argument, value)
    if boxes.shape != targets.shape:
        raise ValueError(
            f"boxes and targets must have the same shape, got {tuple(boxes.shape)} and {tuple(targets.shape)}."
        )
    if not torch.compiler.is_compiling():
        for argument, value in (("boxes", boxes), ("targets", targets)):
            if bool((value[..., 2:] < value[..., :2]).any()):
                raise ValueError(
                    f"{argument} must be xyxy with x1 <= x2 and y1 <= y2 (see cxcywh_to_xyxy and xywh_to_xyxy)."
                )

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    (a, b), (c, d) = boxes.split(2, -1), targets.split(2, -1)
    inner = area(torch.maximum(a, c), torch.minimum(b, d))
    return inner, area(a, b) + area(c, d) - inner, area(torch.minimum(a, c), torch.maximum(b, d))


@names_arguments
def box_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union of pairs; 0 where both boxes are empty.

    Args:
        boxes, targets: ``(..., 4)`` xyxy, the same shape.

    Returns:
        ``(...)`` in [0, 1].

    Raises:
        ValueError: shapes differ, or corners in the wrong order.
        TypeError: not floating.
    """
    inner, union, _ = _areas(boxes, targets)
    return torch.where(union > 0, inner / union.where(union > 0, 1.0), 0.0)


@names_arguments
def generalized_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """GIoU of pairs: IoU minus the share of the smallest enclosing box that neither covers.

    Args:
        boxes, targets: ``(..., 4)`` xyxy, the same shape.

    Returns:
        ``(...)`` in (-1, 1]; 1 only for equal boxes, negative for distant ones, where IoU has no gradient.

    Raises:
        ValueError: shapes differ, or corners in the wrong order.
        TypeError: not floating.

    Reference:
        Rezatofighi et al., Generalized Intersection over Union, CVPR 2019, arXiv:1902.09630.
    """
    inner, union, hull = _areas(boxes, targets)
    iou = torch.where(union > 0, inner / union.where(union > 0, 1.0), 0.0)
    return iou - torch.where(hull > 0, (hull - union) / hull.where(hull > 0, 1.0), 0.0)


# Heat maps of centres -------------------------------------------------------------------------------------------------


def _check_targets(target_xywh: Tensor) -> None:
    _check_boxes("target_xywh", target_xywh)
    if target_xywh.ndim != 2:
        raise ValueError(f"target_xywh must be (B, 4), got {describe(target_xywh)}.")
    if not torch.compiler.is_compiling() and not bool((target_xywh[:, 2:] > 0).all()):
        bad = (target_xywh[:, 2:] <= 0).any(1).nonzero()
        raise ValueError(
            f"target_xywh must have width and height > 0, got {target_xywh[int(bad[0])].tolist()} at "
            f"position {int(bad[0])}."
            if len(bad)
            else "target_xywh must be finite, got NaN."
        )


@names_arguments
def center_cells(target_xywh: Tensor, feature_size: int) -> Tensor:
    """Cell of each target's centre, rounded, as ``row * F + column``, ``(B,)`` int64.

    Args:
        target_xywh: ``(B, 4)`` in [0, 1] units.
        feature_size: F, cells per side.

    Raises:
        ValueError: not ``(B, 4)``, or a width or height that is not above zero.
    """
    _check_targets(target_xywh)
    center = (target_xywh[:, :2] + target_xywh[:, 2:] / 2) * feature_size
    column, row = center.round().long().clamp(0, feature_size - 1).unbind(1)
    return row * feature_size + column


@names_arguments
def gaussian_radius(sizes: Tensor, min_overlap: float = 0.7) -> Tensor:
    """How far a centre may be off so that the box still overlaps by ``min_overlap``, as CenterNet computes it.

    Args:
        sizes: ``(B, 2)`` width and height in cells.
        min_overlap: IoU that shall be kept; default 0.7 (CenterNet, OSTrack).

    Returns:
        ``(B,)``. The released formula divides its first two roots by 2 instead of 2a and adds where CornerNet's erratum
        subtracts; it is kept here, because trained weights depend on it.
    """
    width, height = sizes.unbind(-1)
    total, area = width + height, width * height
    first = (total + (total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap)).sqrt()) / 2
    second = (2 * total + (4 * total**2 - 16 * (1 - min_overlap) * area).sqrt()) / 2
    b = -2 * min_overlap * total
    third = (b + (b**2 + 16 * min_overlap * (1 - min_overlap) * area).sqrt()) / 2
    return torch.minimum(first, torch.minimum(second, third))


@names_arguments
def center_heatmap(target_xywh: Tensor, feature_size: int, *, min_overlap: float = 0.7) -> Tensor:
    """Target of the score map: a Gaussian about the rounded centre, exactly 1 there, 0 beyond its radius.

    Args:
        target_xywh: ``(B, 4)`` in [0, 1] units of the search image.
        feature_size: F.
        min_overlap: see :func:`gaussian_radius`; the standard deviation is a sixth of ``2 radius + 1`` cells.

    Returns:
        ``(B, 1, F, F)``.

    Raises:
        ValueError: not ``(B, 4)``, a width or height that is not above zero, ``min_overlap`` outside [0, 1].

    Reference:
        Zhou et al., Objects as Points (2019), arXiv:1904.07850; the heat maps of OSTrack (botaoye/OSTrack).
    """
    check_fraction("min_overlap", min_overlap)
    cells = center_cells(target_xywh, feature_size)
    radius = gaussian_radius(target_xywh[:, 2:] * feature_size, min_overlap).clamp(min=0).floor().view(-1, 1, 1)
    at = torch.arange(feature_size, device=target_xywh.device)
    dy = (at.view(1, -1, 1) - (cells // feature_size).view(-1, 1, 1)).to(target_xywh.dtype)
    dx = (at.view(1, 1, -1) - (cells % feature_size).view(-1, 1, 1)).to(target_xywh.dtype)
    heat = torch.exp(-(dx**2 + dy**2) / (2 * ((2 * radius + 1) / 6) ** 2))
    heat = heat.where((dx.abs() <= radius) & (dy.abs() <= radius), 0.0)
    return heat.where(heat >= torch.finfo(heat.dtype).eps, 0.0).unsqueeze(1)


@names_arguments
def focal_heatmap_loss(score: Tensor, heatmap: Tensor) -> Tensor:
    r"""CenterNet's focal loss between a score map and Gaussian heat maps.

    .. math::
        -\frac{1}{\max(1, P)} \Big[ \sum_{H = 1} (1 - p)^2 \log p + \sum_{H < 1} (1 - H)^4 p^2 \log (1 - p) \Big]

    Args:
        score: ``(B, 1, F, F)`` probabilities; kept at least one rounding unit away from 0 and 1.
        heatmap: same shape in [0, 1]; P is the number of its ones.

    Returns:
        A scalar: the sum over all cells of the batch, divided by P.

    Raises:
        ValueError: shapes differ.

    Reference:
        Zhou et al., Objects as Points (2019), arXiv:1904.07850, eq. 1 (exponents 2 and 4).
    """
    if score.shape != heatmap.shape:
        raise ValueError(f"score and heatmap must have the same shape, got {describe(score)} and {describe(heatmap)}.")
    p = at_least_float32(score)
    p = p.clamp(torch.finfo(p.dtype).eps, 1 - torch.finfo(p.dtype).eps)
    here = heatmap == 1
    near = (1 - p) ** 2 * p.log()
    far = (1 - heatmap) ** 4 * p**2 * torch.log1p(-p)
    return -torch.where(here, near, far).sum() / here.sum().clamp(min=1)


@names_arguments
def decode_center_boxes(score: Tensor, size: Tensor, offset: Tensor, *, cells: Tensor | None = None) -> Tensor:
    """Boxes of a centre head.

    Args:
        score: ``(B, 1, F, F)``.
        size: ``(B, 2, F, F)`` width and height in [0, 1] units.
        offset: ``(B, 2, F, F)`` x and y, in cells.
        cells: ``(B,)`` int64, ``row * F + column``; default: where each score map is highest.

    Returns:
        ``(B, 4)`` cxcywh in [0, 1] units.

    Raises:
        ValueError: maps that do not belong together.
    """
    if score.ndim != 4 or score.shape[1] != 1 or score.shape[2] != score.shape[3]:
        raise ValueError(f"score must be (B, 1, F, F), got {describe(score)}.")
    b, _, f, _ = score.shape
    for argument, value in (("size", size), ("offset", offset)):
        if value.shape != (b, 2, f, f):
            raise ValueError(
                f"{argument} must be ({b}, 2, {f}, {f}) as score is {tuple(score.shape)}, got {describe(value)}."
            )
    chosen = score.flatten(1).argmax(1) if cells is None else cells
    where = chosen.view(b, 1, 1).expand(b, 2, 1)
    wh, shift = (value.flatten(2).gather(2, where).squeeze(2) for value in (size, offset))
    corner = torch.stack([chosen % f, chosen // f], 1).to(shift.dtype)
    return torch.cat([(corner + shift) / f, wh], 1)


@names_arguments
def center_tracking_losses(
    score: Tensor, size: Tensor, offset: Tensor, target_xywh: Tensor, *, readout: str = "argmax"
) -> dict[str, Tensor]:
    """Focal, GIoU and L1 terms of a centre head, not yet weighted (:data:`TRACKING_WEIGHTS`).

    Args:
        score, size, offset: see :func:`decode_center_boxes`.
        target_xywh: ``(B, 4)`` in [0, 1] units of the search image.
        readout: cell whose box is judged: ``"argmax"`` of the score (official), or ``"target"``, the cell of the true
            centre, which teaches size and offset before the score map points anywhere.

    Returns:
        ``focal``, ``giou`` (mean of 1 - GIoU) and ``l1`` (mean absolute difference of xyxy coordinates).

    Raises:
        ValueError: shapes, targets without width or height, unknown readout.

    Reference:
        Ye et al., OSTrack (2022), arXiv:2203.11991, eq. 8; used unchanged by ORTrack, arXiv:2504.09228.
    """
    check_choice("readout", readout, READOUTS)
    score, size, offset = (at_least_float32(value) for value in (score, size, offset))
    _check_targets(target_xywh)
    if target_xywh.shape[0] != score.shape[0]:
        raise ValueError(f"target_xywh must hold {score.shape[0]} boxes, one per image, got {describe(target_xywh)}.")
    feature_size, target = score.shape[-1], target_xywh.to(score.dtype)
    cells = center_cells(target, feature_size) if readout == "target" else None
    boxes = cxcywh_to_xyxy(decode_center_boxes(score, size, offset, cells=cells))
    truth = xywh_to_xyxy(target).clamp(0, 1)
    return {
        "focal": focal_heatmap_loss(score, center_heatmap(target, feature_size)),
        "giou": (1 - generalized_iou(boxes, truth)).mean(),
        "l1": (boxes - truth).abs().mean(),
    }


# Measures -------------------------------------------------------------------------------------------------------------


@names_arguments
def success_curve(ious: Tensor, thresholds: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Share of targets whose IoU exceeds each threshold; its mean is the success AUC of tracking benchmarks.

    Args:
        ious: ``(N,)`` in [0, 1], ``N >= 1``.
        thresholds: ``(K,)``; default 0, 0.05, ..., 1 (OTB).

    Returns:
        ``(thresholds, shares)``, both ``(K,)`` float64.

    Raises:
        ValueError: no value, or not one-dimensional.

    Reference:
        Wu et al., Online Object Tracking: A Benchmark, CVPR 2013, doi:10.1109/CVPR.2013.312.
    """
    if ious.ndim != 1 or not ious.numel():
        raise ValueError(f"ious must be (N,) with N >= 1, got {describe(ious)}.")
    at = torch.linspace(0, 1, 21, dtype=torch.float64) if thresholds is None else thresholds.double()
    return at, (ious.double().cpu()[None, :] > at[:, None]).double().mean(1)
