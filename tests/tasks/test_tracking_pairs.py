"""Moving targets: exact boxes, splits that share no pixel, occluders of the size asked for, the task's numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.golden import close
from torch import Tensor

from kdcore.experiment import Arm, compare
from kdcore.functional.boxes import box_iou, success_curve, xywh_to_xyxy
from kdcore.functional.masks import relative_token_shift
from kdcore.inputs import Batch
from kdcore.method import Signals
from kdcore.methods.ortrack import MASKS, ORR, mask_drawer
from kdcore.models import MLP
from kdcore.studies import ortrack as studies
from kdcore.tasks import list_tasks, load_task, task_info
from kdcore.tasks.tracking_pairs import (
    PairDataset,
    TrackingTask,
    bar_at,
    moving_target_pairs,
    occlude,
    occlude_pairs,
    paired_iou,
    tracking_loss,
    tracking_pairs,
)

SMALL = {"count": 24, "test_count": 12, "width": 16, "teacher_depth": 2, "student_depth": 1, "head_channels": 8}


@pytest.fixture(scope="module")
def pairs() -> PairDataset:
    return moving_target_pairs(60, seed=3)


@pytest.fixture(scope="module")
def task() -> TrackingTask:
    return tracking_pairs(seed=1, **SMALL)


# Pairs ----------------------------------------------------------------------------------------------------------------


def test_boxes_are_the_tight_boxes_of_the_targets_pixels(pairs: PairDataset) -> None:
    assert pairs.search_target is not None
    for target, (x, y, w, h) in zip(pairs.search_target, (pairs.boxes * 64).round().int().tolist(), strict=True):
        rows, columns = target.any(1).nonzero().flatten(), target.any(0).nonzero().flatten()
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)
    close(pairs.boxes * 64, (pairs.boxes * 64).round(), 1e-6)


def test_targets_have_the_sizes_they_should_and_lie_within(pairs: PairDataset) -> None:
    assert pairs.template_target is not None
    sides = pairs.boxes[:, 2:] * 64
    assert sides.min() > 0.8 * 18 - 4 and sides.max() <= 1.25 * 30 + 1
    assert (pairs.boxes[:, :2] >= 0).all() and (pairs.boxes[:, :2] + pairs.boxes[:, 2:] <= 1 + 1e-6).all()
    middle = pairs.template_target[:, 14:18, 14:18].flatten(1).float().mean(1)
    assert middle.min() > 0.5, "the target is in the middle of the template"
    assert (pairs.boxes[:, :2] + pairs.boxes[:, 2:] / 2).std(0).min() > 0.1, "and anywhere in the search image"


def test_the_target_looks_alike_in_both_images(pairs: PairDataset) -> None:
    """Its mean colour agrees up to the brightness (0.8 to 1.2) of the search image."""

    def colour(images: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        inside = target[:, None].float()
        return (images.float() * inside).sum((2, 3)) / inside.sum((2, 3))

    z, x = colour(pairs.template, pairs.template_target), colour(pairs.search, pairs.search_target)
    distance = (z / z.norm(dim=1, keepdim=True) - x / x.norm(dim=1, keepdim=True)).norm(dim=1)
    shuffled = (z / z.norm(dim=1, keepdim=True) - (x / x.norm(dim=1, keepdim=True)).roll(1, 0)).norm(dim=1)
    assert distance.max() < 0.1 < shuffled.mean()


def test_train_and_test_share_no_background() -> None:
    """Every crop of the test lies to the right of every crop of the training: their columns do not meet."""
    from kdcore.tasks.tracking_pairs import _crops, _photographs

    photographs = _photographs()
    marked = torch.arange(640.0).expand(2, 3, 427, 640)
    ends = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcore.tasks.tracking_pairs._photographs", lambda: marked)
        for split, columns in (("train", (0, 448)), ("test", (448, 640))):
            found = _crops(torch.zeros(300).long(), 64, columns, torch.Generator().manual_seed(0))
            ends[split] = (found.min().item(), found.max().item())
    assert photographs.shape == marked.shape
    assert ends["train"][0] >= 0 and ends["train"][1] <= 447 < 448 <= ends["test"][0] and ends["test"][1] <= 639


def test_equal_seeds_give_equal_pairs() -> None:
    first, again = (moving_target_pairs(6, seed=2) for _ in range(2))
    assert torch.equal(first.search, again.search) and torch.equal(first.boxes, again.boxes)
    others = moving_target_pairs(6, seed=3), moving_target_pairs(6, split="test", seed=2)
    assert not any(torch.equal(first.search, other.search) for other in others)
    assert len(moving_target_pairs(513, template_size=16, search_size=24)) == 513


def test_batches_are_packed_pairs(pairs: PairDataset) -> None:
    x, boxes = pairs.__getitems__([4, 1])
    assert x.shape == (2, 6, 64, 64) and x.min() >= 0 and x.max() <= 1
    close(x[0, :3] * 255, pairs.search[4].float(), 1e-6)
    close(x[1, 3:, :32, :32] * 255, pairs.template[1].float(), 1e-6)
    one, box = pairs[1]
    assert torch.equal(one, x[1]) and torch.equal(box, boxes[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be >= 1"),
        ({"split": "val"}, "split must be one of"),
        ({"search_size": 34}, "search_size between 1.18 times"),
        ({"search_size": 300}, "search_size between"),
        ({"template_size": 4}, "template_size must be >= 8"),
    ],
)
def test_pairs_refuse(options: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moving_target_pairs(**{"count": 2, **options})  # type: ignore[arg-type]
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="must hold the same samples"):
        PairDataset(images, images, torch.ones(3, 4))
    with pytest.raises(ValueError, match="width and height > 0"):
        PairDataset(images, images, torch.zeros(2, 4))


# Occluders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bar", "blob"])
def test_occluders_cover_the_share_they_should(pairs: PairDataset, kind: str) -> None:
    assert pairs.search_target is not None
    images, hidden = occlude(pairs.search, pairs.search_target, kind=kind, cover=(0.2, 0.6), seed=1)
    share = (hidden & pairs.search_target).flatten(1).sum(1) / pairs.search_target.flatten(1).sum(1)
    assert share.min() >= 0.2 and share.max() < 0.7  # pixels at equal distance are hidden together
    assert share.std() > 0.05
    same = (images == pairs.search).all(1)
    assert same[~hidden].all() and (~same)[hidden].float().mean() > 0.98
    exact, _ = occlude(pairs.search, pairs.search_target, kind=kind, cover=(0.2, 0.6), seed=1)
    assert torch.equal(images, exact)


def test_pairs_are_occluded_where_asked_and_boxes_stay(pairs: PairDataset) -> None:
    for where, other in (("template", "search"), ("search", "template")):
        found = occlude_pairs(pairs, where, seed=0)
        assert torch.equal(getattr(found, other), getattr(pairs, other)) and torch.equal(found.boxes, pairs.boxes)
        assert (getattr(found, where) != getattr(pairs, where)).flatten(1).any(1).all()
    with pytest.raises(ValueError, match="where must be one of"):
        occlude_pairs(pairs, "both")
    with pytest.raises(ValueError, match="must know the target's pixels"):
        occlude_pairs(PairDataset(pairs.template, pairs.search, pairs.boxes), "search")
    assert pairs.search_target is not None
    with pytest.raises(ValueError, match="at least one pixel each"):
        occlude(pairs.search, torch.zeros_like(pairs.search_target))
    with pytest.raises(ValueError, match="kind must be one of"):
        occlude(pairs.search, pairs.search_target, kind="cloud")


def test_a_bar_at_a_place() -> None:
    images = torch.full((1, 3, 8, 8), 7, dtype=torch.uint8)
    changed = (bar_at(images, 0.25, width=0.25) != images).any(1)[0]
    assert changed[:, 1:3].all() and not changed[:, [0, 3, 4, 5, 6, 7]].any()
    with pytest.raises(ValueError, match="position must be in"):
        bar_at(images, 1.5)


# The objective --------------------------------------------------------------------------------------------------------


def test_masks_of_the_objective_have_a_cell_per_patch(task: TrackingTask) -> None:
    model = task.student("tracker-1")
    for kind in MASKS:
        draw = mask_drawer(model.tracker, kind, 0.3, 64.0)  # type: ignore[arg-type]
        assert draw(5).shape == (5, 1, 4, 4)
    with pytest.raises(ValueError, match="mask must be one of"):
        mask_drawer(model.tracker, "perlin", 0.3, 64.0)  # type: ignore[arg-type]


def test_loss_and_masked_pass_sum_to_the_papers_objective(task: TrackingTask) -> None:
    x, boxes = task.sample(n=4)
    model = task.student("tracker-2").eval()
    method = ORR(gamma=0.5)
    method.setup(model, None, x)
    tokens, moved = torch.randn(2, 4, 80, 16)
    features = {"tracker.norm#0": tokens, "tracker.norm#1": moved}
    maps = model(x)
    signals = Signals(student_logits=maps, student_output=maps, labels=boxes, student_features=features)
    template, search = x[:, 3:, :32, :32], x[:, :3]
    losses = model.tracker.training_step_losses(template, search, boxes)  # type: ignore[operator, union-attr]
    close(sum(tracking_loss(maps, boxes, readout="argmax").values()), losses["pred"], 1e-5)
    close(method.terms(signals)["orr"], 0.5 * (tokens - moved)[:, :16].square().mean(), 1e-5)
    signals.task_loss = task.loss
    learnt = method.supervised(signals)
    assert isinstance(learnt, dict) and list(learnt) == ["focal", "giou", "l1"]
    for name, term in tracking_loss(maps, boxes).items():
        close(learnt[name], term, 1e-6)
    with pytest.raises(ValueError, match=r"orr needs a .*PairTracker as student, got MLP"):
        method.setup(MLP(4, (4,), 2), None, torch.zeros(1, 4))


# The task -------------------------------------------------------------------------------------------------------------


def test_the_task_is_found_by_name_and_describes_itself() -> None:
    assert "tracking_pairs" in list_tasks()
    task = load_task("tracking_pairs", count=2, test_count=2)
    assert isinstance(task, TrackingTask) and task.metric == "mean IoU"
    assert task.input_shape == (6, 64, 64) and "one box per pair" in task.describe()
    assert torch.equal(task.labels("test"), task.test.boxes)  # type: ignore[attr-defined]
    assert len(task.split("test/search")) == 2
    assert {name for name in list_tasks() if not task_info(name).classifies} == {"tracking_pairs", "tracking_videos"}
    with pytest.raises(ValueError, match=r"split must be one of .*Did you mean"):
        task.split("test/both")


def test_numbers_of_the_task_are_those_of_its_boxes(task: TrackingTask) -> None:
    model = task.student("tracker-1").eval()
    maps, boxes = task.predict(model)
    ious = []
    for m, box in zip(maps.double(), boxes.double(), strict=True):
        row, column = divmod(int(m[0].argmax()), 8)
        center = torch.tensor([column, row]) + m[3:, row, column]
        size = m[1:3, row, column]
        low, high = (center / 8 - size / 2).clamp(0, 1), (center / 8 + size / 2).clamp(0, 1)
        ious.append(box_iou(torch.cat([low, high])[None], xywh_to_xyxy(box[None])).item())
    close(task.ious(model), ious)
    close(paired_iou(maps, boxes).mean(), sum(ious) / len(ious))
    numbers = task.evaluate(model)
    close(numbers["mean IoU"], sum(ious) / len(ious))
    close(numbers["auc"], success_curve(torch.tensor(ious))[1].mean())
    close(task.success_rate(model), sum(v > 0.5 for v in ious) / len(ious))


def test_the_token_shift_is_that_of_the_template_under_bars(task: TrackingTask) -> None:
    model = task.student("tracker-2").eval()
    normalize = task.normalization(model)
    with torch.no_grad():
        clean, moved = (
            model.tokens(normalize(task.split(s).__getitems__(range(12))[0]))  # type: ignore[attr-defined]
            for s in ("test", "test/template")
        )
    expected = (clean - moved)[:, :16].square().sum() / clean[:, :16].square().sum()
    close(task.token_shift(model), expected, 1e-5)
    shifts = task.layer_shifts(model)  # type: ignore[arg-type]
    assert list(shifts) == ["blocks.0", "blocks.1", "norm"]
    close(shifts["norm"], expected, 1e-5)
    assert len(task.tokens(model, n=5, batch_size=4)) == 5
    close(relative_token_shift(task.tokens(model), task.tokens(model)), 0.0)
    with pytest.raises(ValueError, match="tokens are those of a PairTracker"):
        task.tokens(MLP(4, (4,), 2))
    with pytest.raises(ValueError, match=r"must give \(N, 5, F, F\) maps"):
        task.check_model(MLP((6, 64, 64), (4,), 2))


@pytest.mark.filterwarnings("error")
def test_reference_teachers_learn_boxes_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    task = tracking_pairs(seed=1, **SMALL)
    seen: list[str] = []
    first = task.teacher(progress=lambda done, total, text: seen.append(f"{done}/{total} {text}"))
    assert seen[-1] == "15/15 teacher tracker-2"
    again = tracking_pairs(seed=1, **SMALL).teacher(progress=lambda *_: pytest.fail("trained again"))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


# The studies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(studies, "QUICK", SMALL)
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))


def test_studies_give_every_number_and_judge_them(tiny: None) -> None:
    found = studies.STUDY.run(seeds=2, epochs=1)
    assert found.arms == (studies.NO_ORR, studies.AUGMENT, studies.UNIFORM, studies.COX, studies.WRONG)
    assert found.metric == "mean IoU" and {"token_shift", "apart", "template_iou", "auc"} <= set(found.rows.columns)
    with_loss = {arm for arm in found.arms if "orr" in found.histories[arm, 0][0].terms}
    assert with_loss == {studies.UNIFORM, studies.COX, studies.WRONG}
    assert not found.teachers, "a masked pass needs no teacher"
    claims = studies.STUDY.claimed(found)
    assert [c.op for c in claims] == ["<", "<", "<", ">=", ">="]
    assert claims[0].every_seed and claims[3].threshold == -2.0
    assert all(claim.check().n == 2 for claim in claims)
    assert [c.of for c in found.check_controls()] == [studies.COX]


def test_every_seed_has_a_teacher_of_its_own(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def cheap(seed: int = 0, **options: object) -> TrackingTask:
        task = tracking_pairs(seed=seed, **SMALL)
        return replace(
            task, teachers={n: replace(s, recipe=replace(s.recipe, epochs=1)) for n, s in task.teachers.items()}
        )

    students = replace(studies.STUDY.also[0], task=cheap).run(seeds=2, epochs=1)
    assert students.arms == (studies.NO_KD, studies.FIXED, studies.ADAPTIVE)
    assert students.rows["teacher_forwards"].tolist() == [0, 24, 24] * 2
    a, b = (students.teachers[seed].state_dict() for seed in (0, 1))
    assert not any(torch.equal(v, b[n]) for n, v in a.items() if n.endswith("weight"))
    fixed, adaptive = (students.histories[arm, 0][0].terms["afkd"] for arm in (studies.FIXED, studies.ADAPTIVE))
    assert fixed != adaptive
    assert len(studies.student_claims(students)) == 2


def test_the_full_tier_starts_and_takes_videos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(studies, "FULL", studies.FULL | {"count": 4, "test_count": 2})
    arms = studies.orr_arms()
    found = replace(studies.STUDY, arms=lambda *, mask_ratio=0.3, sigma=32.0: arms[3:4]).run(
        quick=False, seeds=1, epochs=1, batch_size=2
    )
    model = found.students[studies.COX, 0]
    assert found.tasks[0].input_shape == (6, 128, 128) and len(model.tracker.blocks) == 6  # type: ignore[union-attr]
    with pytest.raises(FileNotFoundError, match=r"no video below .* wanted folders with groundtruth\.txt"):
        studies.STUDY.run(quick=False, videos=tmp_path)


def test_arms_start_from_the_same_weights_and_masks_change_the_training(tiny: None) -> None:
    arms = [Arm("a", "ce"), Arm("b", "ce"), *studies.orr_arms()[1:3]]
    twice = compare(studies.tracking_task, arms, student="tracker-2", seeds=1, epochs=1, batch_size=8)
    a, b, augmented, uniform = (twice.students[arm, 0].state_dict() for arm in twice.arms)
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    for other in (augmented, uniform):
        assert not all(torch.equal(v, other[k]) for k, v in a.items())


def test_augmentation_masks_half_of_the_templates_with_the_mean_colour(task: TrackingTask) -> None:
    model = task.student("tracker-1")
    method = studies.MaskedTemplates(mask_ratio=0.5, sigma=16.0)
    method.setup(model, None, task.sample(n=2)[0])
    x = torch.rand(400, 6, 64, 64)
    changed = method.on_batch(Batch(x=x), torch.Generator().manual_seed(0)).x
    torch.testing.assert_close(changed[:, :3], x[:, :3])
    moved = (changed[:, 3:, :32, :32] - x[:, 3:, :32, :32]).abs().amax(1) > 1e-6
    assert 0.4 < moved.flatten(1).any(1).float().mean() < 0.6
    z = task.normalization(model)(changed)[:, 3:, :32, :32]
    assert z.permute(0, 2, 3, 1)[moved].abs().max() < 1e-5, "a masked block is zero once normalised"
    assert not method.terms(Signals(student_logits=x)) and model.train().draw_mask is None


def test_the_control_is_drawn_to_the_next_template() -> None:
    s = ORR.example(batch=4)
    clean, masked = s.student_features.values()
    found = studies.WrongTemplates(gamma=0.5).terms(s)["orr"]
    close(found, 0.5 * (clean - masked.roll(1, 0)).square().mean(), 1e-9)


def test_pair_shift_is_zero_without_a_change(task: TrackingTask) -> None:
    model = task.student("tracker-1").eval()
    z, x = task.test.template[:1], task.test.search[:1]  # type: ignore[attr-defined]
    assert not task.pair_shift(model, (z, z), x).any()  # type: ignore[arg-type]
    moved = task.pair_shift(model, (z, bar_at(z, 0.5)), x)  # type: ignore[arg-type]
    assert moved.shape == (4, 4) and moved.max() > 0
