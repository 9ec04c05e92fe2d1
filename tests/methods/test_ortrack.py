"""ORTrack: official values, the mask's law, slow oracles, gradients that stop where they should, bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.golden import Case, close, grad_of, parity
from torch import Tensor, nn

from kdcore.distiller import distill
from kdcore.functional.boxes import box_iou, generalized_iou
from kdcore.method import Signals
from kdcore.methods.ortrack import (
    AFKD,
    CARD,
    MASKS,
    OcclusionRobustTracker,
    adaptive_feature_kd_loss,
    cox_intensity,
    difficulty_weights,
    mask_drawer,
    masking_probability,
    occlusion_robust_loss,
    sample_cox_mask,
    sample_difficulty,
    sample_uniform_mask,
)
from kdcore.models import MLP
from kdcore.models.tracker import PairTracker

tokens = given(b=st.integers(1, 5), t=st.integers(1, 6), d=st.integers(1, 4), seed=st.integers(0, 999))


def pair(b: int, t: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, b, t, d, generator=g, dtype=torch.float64)
    return x.clone().requires_grad_(), y.clone().requires_grad_()


# Official values ------------------------------------------------------------------------------------------------------


def check_intensity(case: Case) -> None:
    q = cox_intensity(case.hp["template_size"], block_size=case.hp["block_size"], sigma=case.hp["sigma"])
    close(q, case.out["intensity"], 1e-9, floor=0.0)


def check_law(case: Case) -> None:
    """The released sampler's relative frequencies are a Monte-Carlo estimate: standard error 0.0035 at most."""
    q, ratio = case.inputs["intensity"], case.hp["mask_ratio"]
    counted = case.out["empirical_masked_fraction_per_cell"].double()
    drawn = sample_cox_mask(
        q, int(case.out["num_samples"]), mask_ratio=ratio, generator=torch.Generator().manual_seed(0)
    )
    assert (masking_probability(q, mask_ratio=ratio) - counted).abs().max() < 0.02
    assert ((1 - drawn.double().mean((0, 1))) - counted).abs().max() < 0.02


def check_orr(case: Case) -> None:
    clean, masked = case.leaf("clean_tokens"), case.leaf("masked_tokens")
    loss = occlusion_robust_loss(clean, masked, num_template_tokens=case.hp["num_template_tokens"])
    close(loss, case.out["loss"])
    close(grad_of(loss, clean), case.grad["clean_tokens"])
    assert torch.autograd.grad(loss, masked, allow_unused=True) == (None,)


def check_afkd(case: Case) -> None:
    s, t = case.leaf("student_tokens"), case.leaf("teacher_tokens")
    boxes, truth = case.leaf("pred_boxes"), case.inputs["target_boxes"]
    knobs = {"alpha": case.hp["alpha"], "beta": case.hp["beta"]}
    box_loss = 1 - generalized_iou(boxes, truth)
    close(1 - box_loss, case.out["giou"])
    close(box_iou(boxes, truth), case.out["iou"])
    close(box_loss, case.out["box_loss"])
    close(box_loss.mean(), case.out["giou_loss_mean"])
    close(difficulty_weights(box_loss, **knobs), case.out["weight"])
    each = adaptive_feature_kd_loss(s, t, box_loss, **knobs, reduction="none")
    close(each, case.out["weight"] * case.out["per_sample_mse"])
    for detached in (True, False):
        loss = adaptive_feature_kd_loss(s, t, box_loss, **knobs, detach_weight=detached)
        close(loss, case.out["loss"])
        close(grad_of(loss, s), case.grad["student_tokens"])
        assert torch.autograd.grad(loss, t, allow_unused=True, retain_graph=True) == (None,)
    close(grad_of(loss, boxes), case.grad["pred_boxes_undetached_weight"])
    still = adaptive_feature_kd_loss(s, t, box_loss, **knobs)
    assert torch.autograd.grad(still, boxes, allow_unused=True) == (None,)


@parity("ortrack", {"cox_*": check_intensity, "mask_prob_*": check_law, "orr_*": check_orr, "afkd_*": check_afkd})
def test_parity(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
    case.assert_all_read()


# The occlusion-robust loss --------------------------------------------------------------------------------------------


def test_orr_by_hand() -> None:
    clean = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [9.0, 9.0]]], dtype=torch.float64)
    masked = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    close(occlusion_robust_loss(clean, masked, num_template_tokens=2), (1 + 4 + 9) / 4)
    close(occlusion_robust_loss(clean, masked, num_template_tokens=1), 5 / 2)
    close(occlusion_robust_loss(clean, masked), (1 + 4 + 9 + 81 + 81) / 6)


@tokens
def test_orr_is_the_mean_over_samples_tokens_and_channels(b: int, t: int, d: int, seed: int) -> None:
    x, y = pair(b, t, d, seed)
    count = 1 + seed % t
    each = [
        sum((x[i, j, k] - y[i, j, k]).item() ** 2 for j in range(count) for k in range(d)) / (count * d)
        for i in range(b)
    ]
    found = occlusion_robust_loss(x, y, num_template_tokens=count, reduction="none")
    close(found, torch.tensor(each, dtype=torch.float64))
    close(occlusion_robust_loss(x, y, num_template_tokens=count), sum(each) / b)
    close(occlusion_robust_loss(x, y, num_template_tokens=count, reduction="sum"), sum(each))


@pytest.mark.parametrize(
    ("stop", "clean_moves", "masked_moves"), [("masked", True, False), ("clean", False, True), ("none", True, True)]
)
def test_orr_stops_the_gradient_where_it_is_told(stop: str, clean_moves: bool, masked_moves: bool) -> None:
    x, y = pair(2, 4, 3)
    loss = occlusion_robust_loss(x, y, num_template_tokens=2, stop_gradient=stop)
    expected = torch.zeros_like(x)
    expected[:, :2] = 2 * (x - y)[:, :2].detach() / (2 * 2 * 3)
    for leaf, moves, sign in ((x, clean_moves, 1), (y, masked_moves, -1)):
        (grad,) = torch.autograd.grad(loss, leaf, allow_unused=True, retain_graph=True)
        assert (grad is not None) == moves
        if grad is not None:
            close(grad, sign * expected)


def test_orr_is_exact_in_half_precision() -> None:
    x, y = (v.detach().bfloat16() for v in pair(3, 5, 4))
    loss = occlusion_robust_loss(x, y)
    assert loss.dtype == torch.float32
    close(loss, occlusion_robust_loss(x.double(), y.double()), 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_template_tokens": 5}, "num_template_tokens must be in 1..4"),
        ({"num_template_tokens": 0}, "num_template_tokens must be in 1..4"),
        ({"stop_gradient": "maskd"}, "stop_gradient must be one of.*'masked'"),
        ({"reduction": "median"}, "reduction must be one of"),
        ({"masked_tokens": torch.zeros(2, 4, 2)}, "clean_tokens and masked_tokens must have the same shape"),
        ({"clean_tokens": torch.zeros(2, 3)}, r"clean_tokens must be \(B, T, D\)"),
        ({"clean_tokens": torch.zeros(0, 4, 3), "masked_tokens": torch.zeros(0, 4, 3)}, "at least 1 samples"),
    ],
)
def test_orr_refuses(change: dict[str, object], message: str) -> None:
    arguments = {"clean_tokens": torch.zeros(2, 4, 3), "masked_tokens": torch.zeros(2, 4, 3)} | change
    with pytest.raises(ValueError, match=message):
        occlusion_robust_loss(arguments.pop("clean_tokens"), arguments.pop("masked_tokens"), **arguments)


# Adaptive feature distillation ----------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    loss = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    close(difficulty_weights(loss, alpha=0.5, beta=1.0), [-0.5, 0.5, 1.5])
    close(difficulty_weights(loss, alpha=0.5, beta=1.0, min_weight=0.0), [0.0, 0.5, 1.5])
    close(difficulty_weights(loss), [0.0, 2e-4, 4e-4])


@given(b=st.integers(1, 8), seed=st.integers(0, 999), alpha=st.floats(0, 2), beta=st.floats(0, 2))
def test_weights_average_to_alpha_and_rise_with_difficulty(b: int, seed: int, alpha: float, beta: float) -> None:
    loss = torch.rand(b, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    weights = difficulty_weights(loss, alpha=alpha, beta=beta)
    close(weights.mean(), alpha, floor=1e-9)
    assert (weights[loss.argsort()].diff() >= -1e-12).all()


@tokens
def test_afkd_oracle(b: int, t: int, d: int, seed: int) -> None:
    x, y = pair(b, t, d, seed)
    loss = torch.rand(b, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    mean, total = sum(loss.tolist()) / b, 0.0
    for i in range(b):
        error = sum((x[i, j, k] - y[i, j, k]).item() ** 2 for j in range(t) for k in range(d)) / (t * d)
        total += (0.3 + 0.7 * (loss[i].item() - mean)) * error
    close(adaptive_feature_kd_loss(x, y, loss, alpha=0.3, beta=0.7), total / b)
    close(adaptive_feature_kd_loss(x, y, loss, alpha=0.3, beta=0.7, reduction="sum"), total)


def test_afkd_without_beta_is_feature_distillation() -> None:
    x, y = pair(4, 5, 3)
    close(adaptive_feature_kd_loss(x, y, torch.rand(4), alpha=2.0, beta=0.0), 2 * (x - y).square().mean())


def test_afkd_floor_of_the_weights_is_used() -> None:
    x, y = pair(3, 2, 2)
    loss = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    each = adaptive_feature_kd_loss(x, y, loss, alpha=0.5, beta=1.0, min_weight=0.25, reduction="none")
    close(each, torch.tensor([0.25, 0.5, 1.5]) * (x - y).square().mean((1, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box_loss": torch.zeros(3)}, r"box_loss must be \(2,\)"),
        ({"box_loss": torch.zeros(2, 1)}, r"box_loss must be \(2,\)"),
        ({"teacher_tokens": torch.zeros(2, 4, 2)}, "student_tokens and teacher_tokens must have the same shape"),
        (
            {"student_tokens": torch.zeros(2, 4), "teacher_tokens": torch.zeros(2, 4)},
            r"student_tokens must be \(B, T, D\)",
        ),
        ({"reduction": "max"}, "reduction must be one of"),
    ],
)
def test_afkd_refuses(change: dict[str, object], message: str) -> None:
    arguments = {
        "student_tokens": torch.zeros(2, 4, 3),
        "teacher_tokens": torch.zeros(2, 4, 3),
        "box_loss": torch.zeros(2),
    } | change
    first = [arguments.pop(k) for k in ("student_tokens", "teacher_tokens", "box_loss")]
    with pytest.raises(ValueError, match=message):
        adaptive_feature_kd_loss(*first, **arguments)


def test_weights_refuse_what_is_no_batch() -> None:
    with pytest.raises(ValueError, match=r"box_loss must be \(B,\)"):
        difficulty_weights(torch.zeros(0))


# The objective --------------------------------------------------------------------------------------------------------


def test_difficulty_of_boxes_and_of_classes() -> None:
    maps = torch.zeros(1, 5, 4, 4, dtype=torch.float64)
    maps[0, 0, 1, 2], maps[0, 1:3, 1, 2] = 0.9, 0.5  # row 1, column 2: centre (0.5, 0.25), size 0.5
    close(sample_difficulty(maps, torch.tensor([[0.25, 0.0, 0.5, 0.5]], dtype=torch.float64)), [0.0])
    close(sample_difficulty(maps, torch.tensor([[0.5, 0.0, 0.5, 0.5]], dtype=torch.float64)), [1 - 1 / 3])
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    close(sample_difficulty(logits, torch.tensor([0, 0])), [0.0, 1.0])
    with pytest.raises(ValueError, match=r"labels must be \(1, 4\) boxes"):
        sample_difficulty(maps, torch.tensor([1]))
    with pytest.raises(ValueError, match="labels are required"):
        sample_difficulty(logits, None)


def test_the_objective_weighs_wrong_samples_more() -> None:
    s = AFKD.example(batch=4)
    s.labels = s.student_logits.argmax(1)
    s.labels[2] = (s.labels[2] + 1) % 5
    method = AFKD(alpha=0.5, beta=0.5)
    wrong = (s.student_logits.argmax(1) != s.labels).double()
    assert wrong.tolist() == [0, 0, 1, 0]
    ours, theirs = s.student_features["tokens"], s.teacher_features["tokens"]
    weights = 0.5 + 0.5 * (wrong - wrong.mean())
    close(method.terms(s)["afkd"], (weights * (ours - theirs).square().mean((1, 2))).mean())


def tracker(depth: int = 1, width: int = 16, **options: object) -> PairTracker:
    torch.manual_seed(depth)
    return PairTracker(OcclusionRobustTracker(16, 24, 8, width, depth, 2, 8, **options))


def test_the_drawer_masks_one_cell_per_patch_by_the_law_it_is_asked_for() -> None:
    small = OcclusionRobustTracker(16, 24, 4, 8, 1, 2, 8)
    intensity = cox_intensity(16, block_size=4, sigma=5.0)
    for kind, same in (
        ("cox", lambda g: sample_cox_mask(intensity, 6, mask_ratio=0.4, generator=g)),
        ("uniform", lambda g: sample_uniform_mask((4, 4), 6, mask_ratio=0.4, generator=g)),
    ):
        drawn = mask_drawer(small, kind, 0.4, 5.0)(6, generator=torch.Generator().manual_seed(2))  # type: ignore[call-arg]
        assert drawn.shape == (6, 1, 4, 4) and 0 < drawn.mean() < 1
        assert torch.equal(drawn, same(torch.Generator().manual_seed(2)))
    share = masking_probability(intensity, mask_ratio=0.4).mean().item()
    many = [mask_drawer(small, kind, 0.4, 5.0)(20_000, generator=torch.Generator().manual_seed(3)) for kind in MASKS]  # type: ignore[call-arg]
    cox, uniform, matched = (1 - mask.mean().item() for mask in many)
    assert abs(cox - share) < 0.005 and abs(matched - share) < 0.005 < abs(uniform - share)
    assert (1 - many[2].mean((1, 2, 3))).std() < 0.05 < (1 - many[0].mean((1, 2, 3))).std()
    with pytest.raises(ValueError, match="mask must be one of"):
        mask_drawer(small, "perlin", 0.4, 5.0)


def test_trackers_are_compared_on_all_tokens_and_the_teacher_stays_as_it_is() -> None:
    student, teacher, x = tracker(1), tracker(2), torch.rand(4, 6, 24, 24)
    method = AFKD(alpha=0.5, beta=0.5)
    method.setup(student, teacher, x)
    assert method.student_taps == method.teacher_taps == ("tracker.norm#0",)
    assert isinstance(method.projector, nn.Identity)
    before = copy.deepcopy(teacher.state_dict())
    boxes = torch.tensor([[0.2, 0.3, 0.4, 0.4]]).expand(4, 4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, boxes), batch_size=2)
    result = distill(teacher, student, method, loader, epochs=2, lr=1e-3, ce_weight=0.0)
    assert set(result.history[0].terms) == {"afkd"} and result.history[1].terms["afkd"] > 0
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_other_networks_are_compared_on_their_embedding_through_a_projection() -> None:
    student, teacher = MLP(6, (4,), 3), MLP(6, (8,), 3)
    method = AFKD()
    method.setup(student, teacher, torch.randn(4, 6))
    assert isinstance(method.projector, nn.Linear) and method.projector.weight.shape == (8, 4)
    assert sum(p.numel() for group in method.parameter_groups() for p in group["params"]) == 8 * 4 + 8
    s = Signals(
        student_logits=torch.randn(5, 3),
        labels=torch.tensor([0, 1, 2, 0, 1]),
        student_features={method.student_taps[0]: torch.randn(5, 4)},
        teacher_features={method.teacher_taps[0]: torch.randn(5, 8)},
    )
    assert method.terms(s)["afkd"].isfinite()


def test_the_objective_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="ortrack needs a teacher"):
        AFKD().setup(tracker(), None, torch.rand(2, 6, 24, 24))
    method = AFKD()
    method.student_taps, method.teacher_taps = ("tracker.norm",), ("tracker.patch_embed#0",)
    with pytest.raises(ValueError, match="as many tokens of the student as of the teacher"):
        method.setup(tracker(), tracker(), torch.rand(2, 6, 24, 24))


def test_the_card_tells_the_released_code_from_the_text() -> None:
    said = {row.what: row.code for row in CARD.evidence}
    assert "no gradient" in said["gradient of AFKD"] and "keeps" in said["uniform masks"]
