"""TGeo-KD against the authors' code, its outer gradient against finite differences, and the trainings made of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import Case, close, grad_of, parity
from torch import Tensor, nn

from kdcore.engine import Step, fit
from kdcore.methods.tgeo_kd import (
    FEATURES,
    FusionRatioController,
    TGeoTrainer,
    TGeoTraining,
    baseline_fusion_ratio,
    class_mean_predictions,
    relation_dim,
    tgeo_kd_loss,
    trilateral_relations,
)
from kdcore.studies import find_study
from kdcore.studies import tgeo_kd as study
from kdcore.tasks import load_task

TOLERANCE = 1e-6


def check_case(case: Case) -> None:
    s, t, y = case.leaf("student_logits"), case.inputs["teacher_logits"], case.inputs["labels"]
    means = class_mean_predictions(t, y, case.hp["num_classes"])
    relations = trilateral_relations(s, t, y, means)
    close(relations, case.out["relations"], TOLERANCE)
    controller = FusionRatioController(relations.shape[1]).double()
    controller.load_state_dict(dict(case.params))
    alpha = controller(relations.detach()).detach()
    close(alpha, case.out["alpha"], TOLERANCE)
    options = {"temperature": case.hp["temperature"], "double_softmax": case.hp["double_softmax"]}
    parts = tgeo_kd_loss(s, t, y, alpha=alpha, **options, return_parts=True)
    for name, value in zip(("loss", "kd_per_sample", "ce_per_sample", "loss_per_sample"), parts, strict=True):
        close(value, case.out[name], TOLERANCE)
    close(grad_of(parts[0], s), case.grad["student_logits"], TOLERANCE)


@parity("tgeo_kd", {"case_*": check_case})
def test_parity(case: Case, check: Any) -> None:
    check(case)
    case.assert_all_read()


# By hand, and by loops ------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    """Student undecided between two classes, teacher 3 to 1 for the wrong one, temperature 1."""
    s, t = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, 3.0]], dtype=torch.float64).log()
    alpha = torch.tensor([0.25], dtype=torch.float64)
    loss = tgeo_kd_loss(s, t, torch.tensor([0]), alpha=alpha, temperature=1.0)
    kd = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    close(loss, torch.tensor(0.25 * kd + 0.75 * math.log(2), dtype=torch.float64))
    relations = trilateral_relations(s, t, torch.tensor([0]), torch.eye(2), features="sg_tg")
    expected = [0.5, 0.5, 0.25, 0.75, 1, 0, 0.25, 0.25, 0.5625, 0.5625]
    close(relations, torch.tensor([expected], dtype=torch.float64))


def oracle(s: Any, t: Any, y: int, alpha: float, temperature: float) -> float:
    def softmax(z: list[float], at: float) -> list[float]:
        e = [math.exp(v / at) for v in z]
        return [v / sum(e) for v in e]

    p, q = softmax(t, temperature), softmax(s, temperature)
    kd = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return alpha * temperature**2 * kd - (1 - alpha) * math.log(softmax(s, 1.0)[y])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 8))
def test_a_loop_gives_the_same(seed: int, temperature: float) -> None:
    g = torch.Generator().manual_seed(seed)
    s, t = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    y, alpha = torch.randint(3, (4,), generator=g), torch.rand(4, generator=g, dtype=torch.float64)
    each = tgeo_kd_loss(s, t, y, alpha=alpha, temperature=temperature, reduction="none")
    rows = zip(s.tolist(), t.tolist(), y.tolist(), alpha.tolist(), strict=True)
    close(each, torch.tensor([oracle(*row, temperature) for row in rows], dtype=torch.float64), 1e-10)
    close(tgeo_kd_loss(s, t, y, alpha=alpha, temperature=temperature), each.mean(), 1e-12)


def test_class_means_are_averages_and_empty_classes_are_uniform() -> None:
    p = torch.tensor([[0.2, 0.3, 0.5], [0.4, 0.1, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
    means = class_mean_predictions(p, torch.tensor([1, 1, 0]), 3, from_logits=False)
    close(means, torch.tensor([[1, 0, 0], [0.3, 0.2, 0.5], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64))
    z = torch.randn(6, 3, dtype=torch.float64)
    y = torch.arange(6) % 3
    close(class_mean_predictions(z, y, 3), torch.stack([z.softmax(1)[y == c].mean(0) for c in range(3)]))


@pytest.mark.parametrize("features", FEATURES)
def test_relations_have_their_width_and_no_gradient_to_the_teacher(features: str) -> None:
    s = torch.randn(5, 4, requires_grad=True)
    t = torch.randn(5, 4, requires_grad=True)
    r = trilateral_relations(s, t, torch.arange(5) % 4, torch.rand(4, 4), features=features)
    assert r.shape == (5, relation_dim(4, features)) and r.grad_fn is not None
    assert torch.autograd.grad(r.sum(), t, allow_unused=True)[0] is None
    same = trilateral_relations(t.detach(), t, torch.arange(5) % 4, torch.rand(4, 4), features="full")
    assert not same[:, 24:28].any()  # the edge from teacher to student


def test_baseline_weights() -> None:
    s, t = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    y = torch.tensor([0, 0])
    ours, theirs = (F.cross_entropy(z, y, reduction="none") for z in (s, t))
    close(baseline_fusion_ratio("wls", s, t, y), 1 - (-ours / theirs).exp(), 1e-6)
    p = t.softmax(1)
    close(baseline_fusion_ratio("ada", s, t, y), torch.stack([torch.tensor(0.0), p[1, 0] - p[1, 1]]), 1e-6)
    assert baseline_fusion_ratio("annealing", s, t, y, progress=0.25).tolist() == [0.75, 0.75]


def test_gradcheck_and_half_precision() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    y, alpha = torch.arange(4) % 3, torch.rand(4, generator=g, dtype=torch.float64)
    s.requires_grad_()
    alpha.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: tgeo_kd_loss(a, t, y, alpha=b.clamp(0, 1)), (s, alpha))
    low = tgeo_kd_loss(s.bfloat16(), t.bfloat16(), y, alpha=alpha.float())
    assert low.dtype == torch.float32
    close(low, tgeo_kd_loss(s, t, y, alpha=alpha).float(), 0.02)


# The outer step -------------------------------------------------------------------------------------------------------


def bilevel() -> tuple[TGeoTraining, tuple[Tensor, ...]]:
    training = TGeoTraining.example().double()
    g = torch.Generator().manual_seed(4)
    x, x_val = torch.randn(2, 6, 4, generator=g, dtype=torch.float64)
    y, y_val = torch.arange(6) % 3, (torch.arange(6) + 1) % 3
    training.class_means = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    with torch.no_grad():
        return training, (x, training.teacher(x), y, x_val, y_val)


def test_the_outer_gradient_is_that_of_finite_differences() -> None:
    training, batch = bilevel()
    outer = training.outer_loss(*batch)
    weight = training.controller.fc3.weight
    (gradient,) = torch.autograd.grad(outer, weight)
    assert gradient.abs().max() > 1e-6
    for index in range(0, 16, 5):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[0, index] += sign * 1e-5
            values.append(training.outer_loss(*batch).item())
            with torch.no_grad():
                weight[0, index] -= sign * 1e-5
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient[0, index].item(), rel=1e-4, abs=1e-9)


def test_the_virtual_step_leaves_the_student_alone() -> None:
    training, batch = bilevel()
    before = [p.clone() for p in training.student.parameters()]
    training.outer_loss(*batch).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, training.student.parameters(), strict=True))


def test_updates_train_what_they_say() -> None:
    moved = {}
    for update in ("one_step", "frozen", "constant"):
        training = TGeoTraining.example()
        training.update = update
        before = training.controller.fc1.weight.clone()
        fit(training, accelerator="cpu")
        moved[update] = not torch.equal(before, training.controller.fc1.weight)
    assert moved == {"one_step": True, "frozen": False, "constant": False}


def test_the_trainer_steps_like_the_training() -> None:
    training, (x, t, y, x_val, y_val) = bilevel()
    other, _ = bilevel()
    means = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    trainer = TGeoTrainer(
        other.student,
        other.controller,
        means,
        student_optimizer=torch.optim.SGD(other.student.parameters(), lr=0.1),
        controller_optimizer=torch.optim.Adam(other.controller.parameters(), lr=0.01),
    )
    first = trainer.step(x, t, y, x_val, y_val)
    assert first["val_loss"] == pytest.approx(training.outer_loss(x, t, y, x_val, y_val).item(), rel=1e-6)
    losses = [trainer.step(x, t, y, x_val, y_val)["train_loss"] for _ in range(30)]
    assert losses[-1] < first["train_loss"] and first["alpha"].shape == (6,)
    assert trainer.fusion_ratios(x, t, y).shape == (6,)
    with pytest.raises(ValueError, match="validation batch is empty"):
        trainer.step(x, t, y, x_val[:0], y_val[:0])


def trainer_with_statistics(seed: int) -> tuple[TGeoTrainer, tuple[Tensor, ...]]:
    """A student with batch norm and dropout, made from torch's global generator."""
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
    controller = FusionRatioController(relation_dim(3))
    trainer = TGeoTrainer(
        student,
        controller,
        torch.full((3, 3), 1 / 3),
        student_optimizer=torch.optim.SGD(student.parameters(), lr=0.1),
        controller_optimizer=torch.optim.Adam(controller.parameters(), lr=0.01),
    )
    _, batch = bilevel()
    return trainer, tuple(b.float() if b.is_floating_point() else b for b in batch)


def test_statistics_move_once_per_step_and_asking_moves_nothing() -> None:
    with torch.random.fork_rng(devices=[]):
        trainer, (x, t, y, x_val, y_val) = trainer_with_statistics(0)
        student = trainer.training.student
        trainer.step(x, t, y, x_val, y_val)
        assert student[1].num_batches_tracked == 1
        before = {name: b.clone() for name, b in student.state_dict().items()}
        first, second = (trainer.fusion_ratios(x, t, y) for _ in range(2))
        assert torch.equal(first, second), "dropout was at work"
        assert all(torch.equal(before[name], b) for name, b in student.state_dict().items())
        assert student.training, "the next step trains it as before"


def test_what_a_trainer_draws_follows_the_global_seed() -> None:
    def drawn(seed: int) -> float:
        trainer, batch = trainer_with_statistics(seed)
        trainer.step(*batch)
        return torch.rand(()).item()

    with torch.random.fork_rng(devices=[]):
        assert drawn(1) == drawn(1) != drawn(2)


def test_given_teacher_logits_serve_for_the_class_means() -> None:
    training, (x, t, y, x_val, y_val) = bilevel()
    for teacher, batch in ((None, (x, y, t)), (training.teacher, (x, y))):
        other = TGeoTraining(teacher, training.student, None, [batch], [(x_val, y_val)], num_classes=3, epochs=1)
        fit(other.double(), accelerator="cpu")
        close(other.class_means, class_mean_predictions(t, y, 3), 1e-12)


def test_a_student_that_cannot_be_stepped_is_refused() -> None:
    training, batch = bilevel()
    training.student[0].weight.requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"these do not: 0\.weight"):
        training.outer_loss(*batch)


# Arena and study ------------------------------------------------------------------------------------------------------


def test_the_arena_is_blind_and_noisy() -> None:
    task = load_task("digits_noisy", seed=1)
    taught = task.labels("teacher_train")
    assert len(taught) == 600 and not torch.isin(taught, torch.tensor([3, 8])).any()
    given, clean = task.labels("train"), task.clean
    assert len(given) == 300 and len(task.val) == 40
    assert 0.2 < (given != clean).double().mean() < 0.35  # a tenth of the replaced labels is right by chance
    groups = task.groups()
    assert sum(int(g.sum()) for g in groups.values()) == 300
    assert (clean[groups["blind class, clean label"]] == given[groups["blind class, clean label"]]).all()
    seen = {row.numpy().tobytes() for row in task.train.x}
    assert not any(row.numpy().tobytes() in seen for row in task.val.x)
    assert torch.equal(given, load_task("digits_noisy", seed=1).labels("train"))


def test_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    found = find_study("tgeo_kd")
    comparison = found.run(seeds=2, epochs=2)
    assert comparison.arms == (study.fixed(0.0), study.fixed(0.5), study.BOTH, study.FROZEN, study.TGEO,
                                study.MOVED)  # fmt: skip
    assert len(found.verdicts(comparison)) == 4
    alpha = study.group_weights(comparison)
    assert all(v.shape == (2,) and ((v > 0) & (v < 1)).all() for v in alpha.values())
    steps = [len(h) for h in comparison.histories.values()]
    assert steps == [2] * 12 and not isinstance(comparison.histories[study.TGEO, 0][0], Step)


def test_the_control_weighs_by_the_next_sample() -> None:
    example = TGeoTraining.example()
    options = {"num_classes": 3, "class_means": torch.full((3, 3), 1 / 3)}
    parts = (example.teacher, example.student, example.controller, [], [])
    own, moved = TGeoTraining(*parts, **options), study.MovedWeights(*parts, **options)
    s, t, y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(moved.fusion_ratios(s, t, y), own.fusion_ratios(s, t, y).roll(1, 0))


# Borders --------------------------------------------------------------------------------------------------------------

S, Y, A = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), torch.full((4,), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tgeo_kd_loss(S, S[:, :2], Y, alpha=A), "same shape"),
        (lambda: tgeo_kd_loss(S, S, Y + 3, alpha=A), "labels must be in"),
        (lambda: tgeo_kd_loss(S, S, Y, alpha=A[:3]), r"alpha must be \(4,\)"),
        (lambda: tgeo_kd_loss(S, S, Y, alpha=2 * A + 0.1), r"alpha must be in \[0, 1\]"),
        (lambda: tgeo_kd_loss(S, S, Y, alpha=A, temperature=0.0), "temperature must be"),
        (lambda: trilateral_relations(S, S, Y, torch.zeros(3, 2)), r"class_means must be \(3, 3\)"),
        (lambda: trilateral_relations(S, S, Y, torch.eye(3), features="all"), "features must be one of"),
        (lambda: FusionRatioController(27)(torch.zeros(2, 3)), r"relations must be \(N, 27\)"),
        (lambda: class_mean_predictions(S, Y, 4), r"teacher_logits_or_probs must be \(N, 4\)"),
        (lambda: relation_dim(3, "all"), "features must be one of"),
        (lambda: baseline_fusion_ratio("best", S, S, Y), "kind must be one of"),
        (lambda: baseline_fusion_ratio("ada", S[:, :1], S[:, :1], 0 * Y), "at least 2 classes"),
        (lambda: baseline_fusion_ratio("annealing", S, S, Y), r"progress must be in \[0, 1\]"),
        (
            lambda: TGeoTraining(nn.Linear(2, 3), nn.Linear(2, 3), None, [], [], num_classes=3, update="two_step"),
            "update must be one of",
        ),
        (
            lambda: TGeoTraining(None, nn.Linear(2, 3), FusionRatioController(5), [], [], num_classes=3),
            "controller must read 27 relations .* it reads 5",
        ),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_must_be_integers() -> None:
    with pytest.raises(TypeError, match="labels"):
        tgeo_kd_loss(S, S, Y.double(), alpha=A)
