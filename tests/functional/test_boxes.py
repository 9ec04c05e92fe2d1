"""Boxes: hand-computed overlaps, torchvision as oracle, heat maps by a slow loop, read-out, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor

from kdcore.functional.boxes import (
    box_iou,
    center_cells,
    center_heatmap,
    center_tracking_losses,
    cxcywh_to_xyxy,
    decode_center_boxes,
    focal_heatmap_loss,
    gaussian_radius,
    generalized_iou,
    success_curve,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)

seeds = given(seed=st.integers(0, 999))


def boxes(n: int, seed: int) -> Tensor:
    """Random xyxy boxes in [0, 1] with sides of at least 0.02."""
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=g, dtype=torch.float64) * 0.9
    return torch.cat([low, low + 0.02 + torch.rand(n, 2, generator=g, dtype=torch.float64) * (0.98 - low)], 1)


# Formats and overlap --------------------------------------------------------------------------------------------------


def test_formats_by_hand() -> None:
    corners = torch.tensor([[0.1, 0.2, 0.5, 0.8]], dtype=torch.float64)
    close(xyxy_to_cxcywh(corners), [[0.3, 0.5, 0.4, 0.6]])
    close(xyxy_to_xywh(corners), [[0.1, 0.2, 0.4, 0.6]])


@seeds
def test_formats_are_inverse(seed: int) -> None:
    b = boxes(5, seed).view(1, 5, 4)
    close(cxcywh_to_xyxy(xyxy_to_cxcywh(b)), b)
    close(xywh_to_xyxy(xyxy_to_xywh(b)), b)


def test_overlap_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    close(box_iou(a, b), [1 / 7, 0.0, 1.0])
    close(generalized_iou(a, b), [1 / 7 - 2 / 9, -1 / 3, 1.0])


@seeds
def test_overlap_is_torchvisions(seed: int) -> None:
    from torchvision.ops import box_iou as every_iou
    from torchvision.ops import generalized_box_iou

    a, b = boxes(6, seed), boxes(6, seed + 1000)
    close(box_iou(a, b), every_iou(a, b).diagonal())
    close(generalized_iou(a, b), generalized_box_iou(a, b).diagonal())
    assert (generalized_iou(a, b) <= box_iou(a, b) + 1e-12).all()
    close(generalized_iou(a, b), generalized_iou(b, a))


def test_giou_draws_distant_boxes_together() -> None:
    x = torch.tensor([[0.0, 0.0, 0.2, 0.2]], dtype=torch.float64, requires_grad=True)
    far = torch.tensor([[0.6, 0.0, 0.8, 0.2]], dtype=torch.float64)
    generalized_iou(x, far).sum().backward()
    assert x.grad is not None and x.grad[0, 2] > 0  # the right edge wants to move right
    assert torch.autograd.gradcheck(generalized_iou, (boxes(4, 1).requires_grad_(), boxes(4, 2)))


def test_empty_boxes_overlap_with_nothing() -> None:
    point = torch.zeros(1, 4, requires_grad=True)
    assert box_iou(point, torch.zeros(1, 4)).item() == 0
    generalized_iou(point, torch.zeros(1, 4)).sum().backward()
    assert point.grad is not None and point.grad.isfinite().all()


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(3, 4), ValueError, "the same shape"),
        (torch.zeros(2, 3), torch.zeros(2, 3), ValueError, r"boxes must be \(..., 4\)"),
        (torch.zeros(2, 4).long(), torch.zeros(2, 4), TypeError, "boxes must be a floating tensor"),
        (torch.tensor([[0.5, 0.5, 0.2, 0.9]]), torch.zeros(1, 4), ValueError, "boxes must be xyxy with x1 <= x2"),
        (torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.7, 0.1]]), ValueError, "targets must be xyxy"),
    ],
)
def test_overlap_refuses(a: Tensor, b: Tensor, error: type[Exception], message: str) -> None:
    for overlap in (box_iou, generalized_iou):
        with pytest.raises(error, match=message):
            overlap(a, b)


# Heat maps ------------------------------------------------------------------------------------------------------------


def slow_radius(w: float, h: float, overlap: float) -> float:
    r1 = ((h + w) + math.sqrt((h + w) ** 2 - 4 * w * h * (1 - overlap) / (1 + overlap))) / 2
    r2 = (2 * (h + w) + math.sqrt((2 * (h + w)) ** 2 - 16 * (1 - overlap) * w * h)) / 2
    b = -2 * overlap * (h + w)
    r3 = (b + math.sqrt(b**2 - 16 * overlap * (overlap - 1) * w * h)) / 2
    return min(r1, r2, r3)


def slow_heatmap(xywh: list[float], f: int) -> Tensor:
    x, y, w, h = xywh
    column, row = (min(f - 1, round((lo + side / 2) * f)) for lo, side in ((x, w), (y, h)))
    radius = int(max(0.0, slow_radius(w * f, h * f, 0.7)))
    heat = torch.zeros(f, f, dtype=torch.float64)
    for i in range(max(0, row - radius), min(f, row + radius + 1)):
        for j in range(max(0, column - radius), min(f, column + radius + 1)):
            heat[i, j] = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * ((2 * radius + 1) / 6) ** 2))
    return heat


@given(seed=st.integers(0, 999), f=st.integers(4, 20))
def test_heatmap_oracle(seed: int, f: int) -> None:
    target = xyxy_to_xywh(boxes(3, seed))
    heat = center_heatmap(target, f)
    assert heat.shape == (3, 1, f, f) and ((heat == 1).flatten(1).sum(1) == 1).all()
    for found, box in zip(heat[:, 0], target.tolist(), strict=True):
        close(found, slow_heatmap(box, f), 1e-9)
    assert torch.equal(center_cells(target, f), heat.flatten(1).argmax(1))
    close(gaussian_radius(target[:, 2:] * f), [slow_radius(w * f, h * f, 0.7) for _, _, w, h in target.tolist()])


def test_a_wide_box_has_a_wide_bell_and_the_last_cell_is_the_last() -> None:
    heat = center_heatmap(torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.9, 0.9, 0.1, 0.1]], dtype=torch.float64), 16)
    assert (heat[0] > 0).sum() > 9 and heat[0, 0, 8, 8] == 1
    assert center_cells(torch.tensor([[0.9, 0.9, 0.2, 0.2]]), 16).item() == 255


def test_focal_by_hand() -> None:
    score = torch.tensor([[[[0.8, 0.3], [0.1, 0.5]]]], dtype=torch.float64)
    heat = torch.tensor([[[[1.0, 0.6], [0.0, 0.0]]]], dtype=torch.float64)
    expected = (
        0.2**2 * math.log(0.8) + 0.4**4 * 0.3**2 * math.log(0.7) + 0.1**2 * math.log(0.9) + 0.5**2 * math.log(0.5)
    )
    close(focal_heatmap_loss(score, heat), -expected)
    close(focal_heatmap_loss(score.repeat(2, 1, 1, 1), heat.repeat(2, 1, 1, 1)), -expected)
    nothing = torch.zeros_like(heat)
    close(focal_heatmap_loss(score, nothing), -sum(p**2 * math.log(1 - p) for p in (0.8, 0.3, 0.1, 0.5)))


def test_focal_is_safe_at_the_ends_and_has_a_gradient() -> None:
    score = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert focal_heatmap_loss(score, 1 - score).isfinite()
    p = torch.rand(1, 1, 3, 3, dtype=torch.float64) * 0.8 + 0.1
    heat = center_heatmap(torch.tensor([[0.2, 0.2, 0.4, 0.4]], dtype=torch.float64), 3)
    assert torch.autograd.gradcheck(lambda x: focal_heatmap_loss(x, heat), p.requires_grad_())
    with pytest.raises(ValueError, match="score and heatmap must have the same shape"):
        focal_heatmap_loss(score, heat)


# Read-out -------------------------------------------------------------------------------------------------------------


def maps(target: Tensor, f: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a perfect head would say of xywh targets."""
    cells = center_cells(target, f)
    heat = center_heatmap(target, f)
    center = (target[:, :2] + target[:, 2:] / 2) * f
    shift = center - torch.stack([cells % f, cells // f], 1)
    at = [v[:, :, None, None].expand(-1, -1, f, f) for v in (target[:, 2:], shift)]
    return heat.clamp(1e-4, 1 - 1e-4), at[0], at[1]


@given(seed=st.integers(0, 999), f=st.integers(4, 16))
def test_a_perfect_head_is_read_back(seed: int, f: int) -> None:
    target = xyxy_to_xywh(boxes(4, seed))
    score, size, offset = maps(target, f)
    close(cxcywh_to_xyxy(decode_center_boxes(score, size, offset)), xywh_to_xyxy(target))
    for readout in ("argmax", "target"):
        terms = center_tracking_losses(score, size, offset, target, readout=readout)
        assert list(terms) == ["focal", "giou", "l1"]
        close(terms["giou"], 0.0, floor=1e-9)
        close(terms["l1"], 0.0, floor=1e-9)
        assert terms["focal"] < 0.1


def test_readout_by_hand() -> None:
    score, size, offset = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    score[0, 0, 2, 1], size[0, :, 2, 1], offset[0, :, 2, 1] = 0.7, torch.tensor([0.3, 0.2]), torch.tensor([0.5, -0.25])
    close(decode_center_boxes(score, size, offset), [[1.5 / 4, 1.75 / 4, 0.3, 0.2]], 1e-6)
    size[0, :, 0, 3] = torch.tensor([0.1, 0.4])
    close(decode_center_boxes(score, size, offset, cells=torch.tensor([3])), [[0.75, 0.0, 0.1, 0.4]], 1e-6)


def test_the_two_readouts_judge_different_boxes() -> None:
    target = torch.tensor([[0.1, 0.1, 0.3, 0.3]], dtype=torch.float64)
    score, size, offset = (m.clone() for m in maps(target, 8))
    score[0, 0, 7, 7] = 0.99995  # the score points elsewhere
    close(center_tracking_losses(score, size, offset, target, readout="target")["giou"], 0.0, floor=1e-9)
    assert center_tracking_losses(score, size, offset, target, readout="argmax")["giou"] > 1


def test_boxes_beyond_the_image_are_judged_within_it() -> None:
    target = torch.tensor([[0.8, 0.4, 0.4, 0.2]], dtype=torch.float64)
    f = 8
    score, size, offset = maps(torch.tensor([[0.8, 0.4, 0.2, 0.2]], dtype=torch.float64), f)
    close(center_tracking_losses(score, size, offset, target)["l1"], 0.0, floor=1e-9)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (torch.tensor([[0.1, 0.1, 0.0, 0.2]]), {}, r"target_xywh must have width and height > 0.*position 0"),
        (torch.tensor([[0.1, 0.1, 0.2, -0.2]]), {}, "target_xywh must have width and height > 0"),
        (torch.tensor([[0.1, 0.1, float("nan"), 0.2]]), {}, "target_xywh must be finite"),
        (torch.rand(2, 4) + 0.1, {}, "target_xywh must hold 1 boxes"),
        (torch.rand(4) + 0.1, {}, r"target_xywh must be \(B, 4\)"),
        (torch.tensor([[0.1, 0.1, 0.2, 0.2]]), {"readout": "centre"}, "readout must be one of"),
    ],
)
def test_tracking_losses_refuse(target: Tensor, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        center_tracking_losses(
            torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4), target, **options
        )


def test_decoding_refuses_maps_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match=r"score must be \(B, 1, F, F\)"):
        decode_center_boxes(torch.rand(1, 1, 4, 5), torch.rand(1, 2, 4, 5), torch.rand(1, 2, 4, 5))
    with pytest.raises(ValueError, match=r"offset must be \(1, 2, 4, 4\)"):
        decode_center_boxes(torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4), torch.rand(1, 1, 4, 4))


# Measures -------------------------------------------------------------------------------------------------------------


def test_success_by_hand() -> None:
    at, share = success_curve(torch.tensor([0.0, 0.5, 0.52, 1.0]), torch.tensor([0.0, 0.5, 0.9, 1.0]))
    close(at, [0.0, 0.5, 0.9, 1.0], 1e-7)
    close(share, [0.75, 0.5, 0.25, 0.0])
    at, share = success_curve(torch.full((3,), 0.61))
    assert len(at) == 21 and share.mean().item() == pytest.approx(13 / 21)
    with pytest.raises(ValueError, match=r"ious must be \(N,\)"):
        success_curve(torch.zeros(0))
