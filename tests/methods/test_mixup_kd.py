"""Mixup in distillation: official values, values by hand, slow oracles, what is mixed, the training, bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import Case, close, grad_of, parity
from torch import Tensor, nn

from kdcore.distiller import distill
from kdcore.experiment import Comparison
from kdcore.functional.divergences import kd_loss
from kdcore.inputs import Batch
from kdcore.method import Answer, Signals
from kdcore.methods.mixup_kd import (
    CARD,
    MixedBatch,
    Mixup,
    MixupKD,
    full_mixup,
    mixed_teacher_logits,
    mixup_kd_loss,
    mixup_pairs,
    partial_mixup,
    smoothness_curve,
    std_scale,
)
from kdcore.registry import create_method
from kdcore.studies import mixup_kd as studies
from kdcore.studies._shared import few_labels_task
from kdcore.tasks import ArrayDataset, Classification

quickly = settings(max_examples=12, deadline=None, derandomize=True)


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(n: int, c: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student (requires gradient), teacher, soft labels."""
    s, t, z = torch.randn(3, n, c, generator=gen(seed), dtype=torch.float64)
    return s.requires_grad_(), 3 * t, z.softmax(1)


# Official values ------------------------------------------------------------------------------------------------------


def check_std(case: Case) -> None:
    s, hp = case.leaf("student_logits"), case.hp
    call = partial(
        mixup_kd_loss,
        s,
        case.inputs["teacher_logits"],
        case.inputs["soft_targets"],
        scaling="std",
        ce_weight=hp["ce_weight"],
        kd_weight=hp["kd_weight"],
    )
    parts = call(return_parts=True)
    assert list(parts) == ["loss", "ce_term", "kd_term"]
    for name, value in parts.items():
        close(value, case.out[name], what=name)
    for loss in (parts["loss"], call()):
        close(loss, case.out["loss"])
        close(grad_of(loss, s), case.grad["student_logits"])


def check_mix(case: Case) -> None:
    given_ = case.inputs
    inputs = given_["inputs"].float() / case.hp["input_scale"]
    mixed, targets = mixup_pairs(
        inputs,
        given_["labels"],
        perm1=given_["perm1"],
        perm2=given_["perm2"],
        lam=given_["lam"],
        num_classes=case.hp["num_classes"],
    )
    close(mixed.mean((2, 3)), case.out["mixed_inputs_channel_mean"], 1e-6)
    close(mixed[:, :, :8, :8], case.out["mixed_inputs_patch"], 1e-6)
    close(targets, case.out["soft_targets"], 1e-6)
    assert (case.name == "mix_partial") == bool((given_["lam"] == 1).any())


@parity("mixup_kd", {"std_*": check_std, "mix_*": check_mix})
def test_parity(case: Case, check) -> None:
    check(case)
    case.assert_all_read()


# The loss -------------------------------------------------------------------------------------------------------------


def test_std_scale_by_hand() -> None:
    z = double([[0.0, 3.0, 6.0], [1.0, 1.0, 4.0]])  # std 3 and sqrt(3), with N - 1
    close(std_scale(z), double([[0.0, 1.0, 2.0], [1 / math.sqrt(3)] * 2 + [4 / math.sqrt(3)]]))
    close(std_scale(z.T, dim=0), std_scale(z).T)
    close(std_scale(z).std(1), torch.ones(2))
    close(std_scale(z), z / z.std(1, keepdim=True), 1e-15)


def test_std_scale_keeps_its_gradient() -> None:
    """The length of the student's logits is free: no gradient along them."""
    s, t, y = draw(3, 4, 0)
    gradient = grad_of(mixup_kd_loss(s, t, y), s)
    close((gradient * s.detach()).sum(1), torch.zeros(3), floor=1e-12)
    assert gradient.abs().max() > 1e-3


def test_std_scale_of_constant_logits() -> None:
    z = torch.tensor([[2.0, 2.0, 2.0], [0.0, 1.0, 2.0]], requires_grad=True)
    scaled = std_scale(z)
    close(scaled.softmax(1)[0], torch.full((3,), 1 / 3), 1e-6)
    close(scaled[1], torch.tensor([0.0, 1.0, 2.0]), 1e-6)
    assert scaled[0, 0].item() == pytest.approx(2e12) and std_scale(z, eps=0.5)[0, 0] == 4.0
    scaled[1].sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_loss_by_hand() -> None:
    """Two classes: std-scaled logits are (a, -a) / (sqrt(2) |a|), whatever the size; the answer is sure to 80.4 %."""
    s, t = double([[0.0, 4.0]]), double([[9.0, 1.0]])
    p = 1 / (1 + math.exp(-math.sqrt(2)))
    parts = mixup_kd_loss(s, t, torch.tensor([1]), ce_weight=1.0, kd_weight=1.0, return_parts=True)
    close(parts["ce_term"], -math.log(p))
    close(parts["kd_term"], p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p))
    close(mixup_kd_loss(s, t, torch.tensor([1])), 0.1 * parts["ce_term"] + 0.9 * parts["kd_term"])


def slow_loss(s: Tensor, t: Tensor, y: Tensor, scaling: str, heat: float, ce_weight: float, kd_weight: float) -> list:
    """Per sample with plain numbers."""
    losses = []
    for a, b, labels in zip(s.tolist(), t.tolist(), y.tolist(), strict=True):

        def answer(z: list, divide: float) -> list:
            whole = sum(math.exp(v / divide) for v in z)
            return [math.exp(v / divide) / whole for v in z]

        def spread(z: list) -> float:
            mean = sum(z) / len(z)
            return math.sqrt(sum((v - mean) ** 2 for v in z) / (len(z) - 1))

        over = (spread(a), spread(b)) if scaling == "std" else (heat, heat) if scaling == "temperature" else (1, 1)
        q, p = answer(a, over[0]), answer(b, over[1])
        plain = q if scaling == "std" else answer(a, 1)
        ce = -sum(w * math.log(v) for w, v in zip(labels, plain, strict=True))
        kl = sum(u * math.log(u / v) for u, v in zip(p, q, strict=True))
        losses.append(ce_weight * ce + kd_weight * kl * (heat**2 if scaling == "temperature" else 1))
    return losses


@given(
    n=st.integers(1, 5),
    c=st.integers(2, 7),
    seed=st.integers(0, 99),
    scaling=st.sampled_from(["std", "temperature", "none"]),
    heat=st.floats(0.5, 8),
)
@quickly
def test_loss_equals_a_slow_one(n: int, c: int, seed: int, scaling: str, heat: float) -> None:
    s, t, y = draw(n, c, seed)
    call = partial(mixup_kd_loss, s, t, y, scaling=scaling, temperature=heat, ce_weight=0.3, kd_weight=1.7)
    expected = double(slow_loss(s, t, y, scaling, heat, 0.3, 1.7))
    close(call(reduction="none"), expected)
    close(call(reduction="sum"), expected.sum())
    close(call(), expected.mean())


def test_temperature_is_plain_distillation() -> None:
    s, t, y = draw(6, 5, 1)
    for heat in (1.0, 4.0):
        parts = mixup_kd_loss(s, t, y, scaling="temperature", temperature=heat, return_parts=True)
        close(parts["kd_term"], 0.9 * kd_loss(s, t, temperature=heat))
        close(parts["ce_term"], 0.1 * nn.functional.cross_entropy(s, y))
    close(mixup_kd_loss(s, t, y, scaling="temperature"), mixup_kd_loss(s, t, y, scaling="temperature", temperature=4.0))
    close(mixup_kd_loss(s, t, y, scaling="none"), mixup_kd_loss(s, t, y, scaling="temperature", temperature=1.0))
    hard = torch.tensor([0, 1, 2, 3, 4, 0])
    close(mixup_kd_loss(s, t, hard), mixup_kd_loss(s, t, nn.functional.one_hot(hard, 5).double()))
    assert mixup_kd_loss(s[:, :1], t[:, :1], y[:, :1] ** 0, scaling="none").item() == 0  # one class: nothing to learn


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 30), shift=st.floats(-9, 9))
@quickly
def test_properties(seed: int, scale: float, shift: float) -> None:
    s, t, y = draw(5, 4, seed)
    s = s.detach()
    loss = mixup_kd_loss(s, t, y)
    close(mixup_kd_loss(scale * s + shift, t, y), loss)
    close(mixup_kd_loss(s, scale * t - shift, y), loss)
    order = torch.randperm(4, generator=gen(seed))
    close(mixup_kd_loss(s[:, order], t[:, order], y[:, order]), loss)
    close(mixup_kd_loss(2 * t + 1, t, y, return_parts=True)["kd_term"], 0.0, floor=1e-12)
    assert loss > 0


def test_gradcheck_and_the_teacher_is_a_constant() -> None:
    s, t, y = draw(3, 4, 2)
    for scaling in ("std", "temperature", "none"):
        assert torch.autograd.gradcheck(lambda x, how=scaling: mixup_kd_loss(x, t, y, scaling=how), (s,))
        live = t.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(mixup_kd_loss(s, live, y, scaling=scaling), live, allow_unused=True)
        assert gradient is None or not gradient.any()


def test_half_precision_is_computed_in_float32() -> None:
    s, t, y = draw(8, 10, 3)
    half, taught = s.detach().bfloat16(), t.bfloat16()
    loss = mixup_kd_loss(half, taught, y.float())
    assert loss.dtype == std_scale(half).dtype == torch.float32
    close(loss, mixup_kd_loss(half.double(), taught.double(), y), 1e-5)


# What is mixed --------------------------------------------------------------------------------------------------------


def test_mixed_batches_are_what_they_say() -> None:
    x, y = torch.rand(20, 3, 4, generator=gen(1)), torch.arange(20) % 3
    for make in (full_mixup, partial(partial_mixup, mix_fraction=0.25)):
        batch = make(x, y, num_classes=3, generator=gen(5))
        assert isinstance(batch, MixedBatch) and batch._fields == ("inputs", "targets", "lam", "perm1", "perm2")
        for n in range(20):
            i, j, lam = int(batch.perm1[n]), int(batch.perm2[n]), float(batch.lam[n])
            close(batch.inputs[n], lam * x[i] + (1 - lam) * x[j], 1e-6)
            close(batch.targets[n].sum(), 1.0, 1e-6)
            assert batch.targets[n, y[i]] >= lam - 1e-6
        assert sorted(batch.perm1.tolist()) == sorted(batch.perm2.tolist()) == list(range(20))
        same = make(x, y, num_classes=3, generator=gen(5))
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
        assert not torch.equal(batch.inputs, make(x, y, num_classes=3, generator=gen(6)).inputs)


@given(n=st.integers(2, 70), share=st.floats(0, 1), seed=st.integers(0, 99))
@quickly
def test_exact_sampling_mixes_that_share(n: int, share: float, seed: int) -> None:
    x, y = torch.rand(n, 2, generator=gen(seed)), torch.zeros(n).long()
    batch = partial_mixup(x, y, num_classes=1, mix_fraction=share, generator=gen(seed))
    assert int((batch.lam < 1).sum()) == round(share * n)
    kept = batch.lam == 1
    assert torch.equal(batch.inputs[kept], x[batch.perm1[kept]])


def test_released_sampling_leaves_fewer_alone() -> None:
    """With replacement, int(0.9 * 64) = 57 draws of 64 leave 1 - (63 / 64)^57 = 59.2 % alone, and not 90 %."""
    x, y, g = torch.rand(64, 1, generator=gen(0)), torch.zeros(64).long(), gen(1)
    draws = [
        partial_mixup(x, y, num_classes=1, sampling="with_replacement", generator=g).lam.eq(1).float().mean().item()
        for _ in range(200)
    ]
    share = sum(draws) / 200
    assert abs(share - (1 - (63 / 64) ** 57)) < 0.01 and abs(share - (1 - math.exp(-0.9))) < 0.015
    large = partial_mixup(torch.rand(100_000, 1), torch.zeros(100_000).long(), num_classes=1,
                          sampling="with_replacement", generator=g)  # fmt: skip
    assert float(large.lam.eq(1).float().mean()) == pytest.approx(0.5934, abs=0.01)
    assert partial_mixup(x, y, num_classes=1, generator=g).lam.eq(1).sum() == 58


def test_beta_is_the_shape_of_the_coefficients() -> None:
    x, y = torch.rand(4000, 1), torch.zeros(4000).long()
    for beta in (0.2, 1.0):
        lam = full_mixup(x, y, num_classes=1, beta=beta, generator=gen(2)).lam
        assert lam.var().item() == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.05)
        lam = partial_mixup(x, y, num_classes=1, beta=beta, mix_fraction=1.0, generator=gen(2)).lam
        assert lam.var().item() == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.05)
    one = full_mixup(x, y, num_classes=1, generator=gen(2)).lam
    assert torch.equal(one, full_mixup(x, y, num_classes=1, beta=1.0, generator=gen(2)).lam)


# Smoothness -----------------------------------------------------------------------------------------------------------


class Halves(nn.Module):
    """Logits (log x, log(1 - x)): the answer is x itself."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return torch.stack([x[:, 0], 1 - x[:, 0]], 1).log()


def test_smoothness_curve_by_hand() -> None:
    model = Halves().train()
    curve = smoothness_curve(model, double([[0.9], [0.5]]), double([[0.1], [0.5]]), [0.0, 0.5, 1.0])
    assert list(curve) == ["lam", "entropy", "confidence"] and model.training

    def h(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    ends = (h(0.1) + math.log(2)) / 2
    close(curve["lam"], double([0, 0.5, 1]))
    close(curve["entropy"], double([ends, math.log(2), ends]))
    close(curve["confidence"], double([0.7, 0.5, 0.7]))
    tilted = smoothness_curve(model, double([[0.9]]), double([[0.5]]), double([0.25]))
    close(tilted["confidence"], double([0.25 * 0.9 + 0.75 * 0.5]))  # lam belongs to the first


def test_teacher_modes_by_hand() -> None:
    teacher = Halves().train()
    inputs = double([[0.9], [0.2]])
    batch = MixedBatch(
        double([[0.55], [0.2]]), torch.eye(2), double([0.5, 1.0]), torch.tensor([0, 1]), torch.tensor([1, 0])
    )
    close(mixed_teacher_logits(teacher, inputs, batch), double([[0.55, 0.45], [0.2, 0.8]]).log())
    middle = [(math.log(0.9) + math.log(0.2)) / 2, (math.log(0.1) + math.log(0.8)) / 2]
    close(
        mixed_teacher_logits(teacher, inputs, batch, teacher_mode="mixed_output"),
        double([middle, [math.log(0.2), math.log(0.8)]]),
    )
    assert teacher.training


# The training ---------------------------------------------------------------------------------------------------------


def test_terms_and_labels_are_the_loss() -> None:
    s, t, y = draw(6, 5, 4)
    for knobs in ({}, {"scaling": "temperature", "temperature": 2.0}, {"scaling": "none", "kd_weight": 0.3}):
        method = create_method("mixup_kd", **knobs)
        signals = Signals(student_logits=s, student_output=s, teacher_logits=t, labels=y)
        terms = method.terms(signals)
        parts = mixup_kd_loss(s, t, y, return_parts=True, **knobs)
        assert list(terms) == ["kd"]
        close(terms["kd"], parts["kd_term"])
        close(method.supervised(signals), parts["ce_term"])
    assert isinstance(method, MixupKD)
    method = create_method("mixup", ce_weight=0.5)
    close(method.terms(signals)["mixup"], 0.5 * nn.functional.cross_entropy(s, y))
    assert method.supervised(signals) is None and CARD.objectives == (MixupKD, Mixup)


def test_supervised_follows_the_task_and_the_caller() -> None:
    s, t, y = draw(4, 3, 5)

    def task_loss(output: Tensor, labels: Tensor) -> Tensor:
        return (output - labels).square().mean()

    signals = Signals(student_logits=s, teacher_logits=t, labels=y, task_loss=task_loss, fixed_ce_weight=2.0)
    close(MixupKD().supervised(signals), 2 * task_loss(std_scale(s), y))
    signals.fixed_ce_weight = 0.0
    assert MixupKD().supervised(signals) is None


def method_for(**knobs: object) -> MixupKD:
    method = MixupKD(**knobs)
    method.setup(nn.Linear(2, 3), None, torch.zeros(1, 2))
    return method


def test_on_batch_mixes_by_the_generator_it_gets() -> None:
    batch = Batch(x=torch.rand(10, 2, generator=gen(0)), labels=torch.arange(10) % 3, index=torch.arange(10))
    assert method_for(mix="none").on_batch(batch, gen()) is batch
    mixed = method_for(mix="full", beta=0.4).on_batch(batch, gen(3))
    expected = full_mixup(batch.x, batch.labels, num_classes=3, beta=0.4, generator=gen(3))
    assert torch.equal(mixed.x, expected.inputs) and torch.equal(mixed.labels, expected.targets)
    assert mixed.index is batch.index and torch.equal(batch.labels, torch.arange(10) % 3)
    chosen = {"mix_fraction": 0.3, "sampling": "with_replacement", "beta": 0.4}
    mixed = method_for(**chosen).on_batch(batch, gen(4))
    expected = partial_mixup(batch.x, batch.labels, num_classes=3, generator=gen(4), **chosen)
    assert torch.equal(mixed.x, expected.inputs) and torch.equal(mixed.labels, expected.targets)
    assert [MixupKD(mix=m).min_batch() for m in ("none", "partial", "full")] == [1, 2, 2]


def seen_by(method: str, **knobs: object) -> list[list[Tensor]]:
    """What teacher and student were shown in a training of four steps."""
    shown: list[list[Tensor]] = [[], []]

    class Watched(nn.Linear):
        def __init__(self, side: int) -> None:
            super().__init__(2, 3)
            self.side = side

        def forward(self, x: Tensor) -> Tensor:
            if self.side == 0 or self.training:
                shown[self.side].append(x.detach().clone())
            return super().forward(x)

    torch.manual_seed(0)
    x, y = torch.rand(8, 2), torch.arange(8) % 3
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    distill(Watched(0), Watched(1), create_method(method, **knobs), data, epochs=2, seed=3)
    return [shown[0][-4:], shown[1][-4:]]


def test_teacher_and_student_see_the_same_mixture() -> None:
    teacher, student = seen_by("mixup_kd", mix="full")
    assert all(torch.equal(a, b) for a, b in zip(teacher, student, strict=True))
    plain, _ = seen_by("mixup_kd", mix="none")
    assert not any(torch.equal(a, b) for a, b in zip(teacher, plain, strict=True))
    again, _ = seen_by("mixup_kd", mix="full")
    assert all(torch.equal(a, b) for a, b in zip(teacher, again, strict=True))


# The study ------------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Answers every sample with the logits that are stored for it; samples are their own numbers."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.head = nn.Linear(logits.shape[1], logits.shape[1], bias=False)
        self.head.weight.data = torch.eye(logits.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.logits[x[:, 0].long()])


def numbered(labels: list[int], classes: int) -> Classification:
    data = ArrayDataset(torch.arange(len(labels)).float()[:, None], torch.tensor(labels))
    return Classification(name="numbered", train=data, test=data, class_names=[str(i) for i in range(classes)])


def test_metrics_of_the_study_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    task, student = numbered([0, 0, 1, 0], 2), Fixed(logits)
    sure = 1 / (1 + math.exp(-math.sqrt(2)))  # scaled answers are all as sure: one bin, three of four right
    assert studies.calibration_error(student, task, scaled=True) == pytest.approx(abs(0.75 - sure), abs=1e-6)
    one, two, three, four = (1 / (1 + math.exp(-v)) for v in (1.0, 2.0, 3.0, 4.0))  # the last two share a bin
    by_hand = ((1 - two) + (1 - one) + 2 * abs(0.5 - (three + four) / 2)) / 4
    assert studies.calibration_error(student, task) == pytest.approx(by_hand, abs=1e-6)
    # class 0: (2, 0), (4, 0), (0, 3), mean (2, 1); class 1: (0, 1); overall mean (1.5, 1)
    within = (0 + 1) + (4 + 1) + (4 + 4)
    assert studies.class_scatter(student, task) == pytest.approx((3 * 0.25 + 2.25) / within)


def test_the_pair_of_teachers_is_read_as_its_label_says() -> None:
    s, t, y = draw(4, 3, 6)
    pair = studies.TwoTeachers(nn.Identity(), nn.Flatten())
    assert all(torch.equal(a, t) for a in pair(t))
    signals = Signals(student_logits=s, teacher_logits=t, labels=y, teachers={"": Answer(output=(t, -t), logits=t)})
    mixed, plain = studies.FromMixedTeacher(), MixupKD()
    close(mixed.terms(signals)["kd"], 0.9 * mixup_kd_loss(s, -t, y, ce_weight=0, kd_weight=1))
    assert not torch.allclose(mixed.terms(signals)["kd"], plain.terms(signals)["kd"])
    rolled = studies.ShuffledMixupKD().terms(signals)["kd"]
    close(rolled, 0.9 * mixup_kd_loss(s, t.roll(1, 0), y, ce_weight=0, kd_weight=1))


def test_teachers_of_the_grid(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    task = studies.two_teachers_task(1)
    cheap = {n: replace(spec, recipe=replace(spec.recipe, epochs=1)) for n, spec in task.teachers.items()}
    pair = replace(task, teachers=cheap).teacher()
    plain = replace(few_labels_task(1), teachers=cheap).teacher()
    x, _ = task.sample(n=8)
    assert torch.equal(pair(x)[0], plain(x)) and not torch.allclose(pair(x)[1], plain(x), atol=1e-2)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2, "the plain teacher is that of the other studies"
    labels = [arm.label for arm in studies.grid_arms(temperatures=(2.0,), betas=(0.2, 1.0))]
    assert labels[:3] == [f"plain teacher: KD, T = 2{words}" for words in ("", " + FMU, β = 0.2", " + FMU")]
    assert len(labels) == 6 and labels[3].startswith("mixup teacher")


def test_claims_hold_exactly_where_they_should() -> None:
    def judged(**accuracy: float) -> list[bool]:
        base = dict.fromkeys((arm.label for arm in studies.mixup_arms()), 0.9)
        named = {"kd": "KD, T = 4", "pmu": "KD, T = 4 + PMU 10 %", "fmu": "KD, T = 4 + FMU", "cool": "KD, T = 1 + FMU"}
        base |= {named.get(k, studies.STRATEGY): v for k, v in accuracy.items()}
        records = [{"arm": a, "seed": n, "last": v} for a, v in base.items() for n in range(10)]
        made = Comparison(arms=tuple(base), seeds=tuple(range(10)), metric="accuracy", records=records)
        return [v.reproduced for v in studies.STUDY.verdicts(made)]

    assert judged(kd=0.85, pmu=0.84, fmu=0.83, cool=0.86, std=0.88) == [True] * 4
    assert judged(kd=0.835, pmu=0.84, fmu=0.83, cool=0.86, std=0.88) == [False, True, True, True]
    assert judged(kd=0.85, pmu=0.84, fmu=0.83, cool=0.835, std=0.88) == [True, False, True, True]
    assert judged(kd=0.85, pmu=0.82, fmu=0.83, cool=0.86, std=0.865) == [True, True, False, False]


# Bad input ------------------------------------------------------------------------------------------------------------

X, Y, ROWS = torch.rand(4, 2), torch.tensor([0, 1, 2, 1]), torch.arange(4)
PAIRS = {"inputs": X, "labels": Y, "perm1": ROWS, "perm2": ROWS, "lam": torch.full((4,), 0.5), "num_classes": 3}
BATCH = {"inputs": X, "labels": Y, "num_classes": 3}
ONE = {**BATCH, "inputs": X[:1], "labels": Y[:1]}
S = torch.randn(4, 3, generator=gen(0))
LOSS = {"student_logits": S, "teacher_logits": S + 1, "labels": Y}
CURVE = {"model": Halves(), "x_a": X, "x_b": X, "lams": [0.5]}
SOFT = torch.full((4, 3), 1 / 3)


@pytest.mark.parametrize(
    ("function", "base", "change", "message"),
    [
        (mixup_pairs, PAIRS, {"perm1": ROWS[:3]}, r"perm1 must be \(4,\)"),
        (mixup_pairs, PAIRS, {"perm2": torch.arange(5) % 4}, r"perm2 must be \(4,\)"),
        (mixup_pairs, PAIRS, {"lam": torch.ones(3)}, r"lam must be one number or \(4,\)"),
        (mixup_pairs, PAIRS, {"perm1": ROWS + 1}, r"must hold rows in \[0, 4\)"),
        (mixup_pairs, PAIRS, {"perm2": ROWS - 1}, r"must hold rows in \[0, 4\)"),
        (mixup_pairs, PAIRS, {"lam": torch.tensor([0.5, 1.1, 0, 0])}, r"lam must be in \[0, 1\]"),
        (mixup_pairs, PAIRS, {"lam": torch.tensor([0.5, math.nan, 0, 0])}, r"lam must be in \[0, 1\]"),
        (mixup_pairs, PAIRS, {"num_classes": 2}, r"labels must be in \[0, 2\), got 2"),
        (mixup_pairs, PAIRS, {"labels": Y[:3]}, "labels must hold 4 samples"),
        (mixup_pairs, PAIRS, {"labels": torch.full((4, 3), 0.5)}, "labels must be probabilities"),
        (full_mixup, BATCH, {"beta": 0.0}, "beta must be a finite number > 0"),
        (full_mixup, BATCH, {"num_classes": 2}, r"labels must be in \[0, 2\)"),
        (full_mixup, ONE, {}, "two samples or more"),
        (full_mixup, {"inputs": X.long(), "labels": Y, "num_classes": 3}, {}, "inputs must be floating"),
        (partial_mixup, BATCH, {"mix_fraction": 1.5}, r"mix_fraction must be in"),
        (partial_mixup, BATCH, {"mix_fraction": -0.1}, r"mix_fraction must be"),
        (partial_mixup, BATCH, {"sampling": "some"}, "sampling must be one of"),
        (partial_mixup, BATCH, {"beta": -1.0}, "beta must be a finite number > 0"),
        (partial_mixup, ONE, {}, "two samples or more"),
        (mixup_kd_loss, LOSS, {"teacher_logits": S[:3]}, "must have the same shape"),
        (mixup_kd_loss, LOSS, {"scaling": "max"}, "scaling must be one of"),
        (mixup_kd_loss, LOSS, {"reduction": "max"}, "reduction must be one of"),
        (mixup_kd_loss, LOSS, {"temperature": 0.0}, "temperature must be a finite number > 0"),
        (mixup_kd_loss, LOSS, {"ce_weight": -0.1}, "ce_weight must be"),
        (mixup_kd_loss, LOSS, {"kd_weight": math.nan}, "kd_weight must be"),
        (mixup_kd_loss, LOSS, {"labels": Y + 1}, r"labels must be in \[0, 3\)"),
        (mixup_kd_loss, LOSS, {"labels": Y[:3]}, "labels must hold 4 samples"),
        (mixup_kd_loss, LOSS, {"labels": SOFT + 2e-4}, "labels must be probabilities"),
        (mixup_kd_loss, LOSS, {"labels": SOFT + torch.tensor([-0.5, 0.25, 0.25])}, "the lowest is -0.1667"),
        (mixup_kd_loss, LOSS, {"labels": SOFT[:, :2]}, r"floating \(4, 3\)|floating \(N, 3\)"),
        (mixup_kd_loss, {k: v[:, :1] if v.ndim == 2 else v * 0 for k, v in LOSS.items()}, {}, "2 classes"),
        (std_scale, {"logits": S[:, :1]}, {}, "two classes or more"),
        (std_scale, {"logits": Y}, {}, "floating"),
        (smoothness_curve, CURVE, {"x_b": X[:2]}, "of one shape"),
        (smoothness_curve, CURVE, {"lams": []}, "one or more numbers"),
        (smoothness_curve, CURVE, {"lams": [1.5]}, r"lam must be in"),
    ],
)  # fmt: skip
def test_bad_input_is_named(function, base: dict, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(**{**base, **change})


def test_other_bad_input() -> None:
    close(mixup_kd_loss(S, S, SOFT + 2e-5), mixup_kd_loss(S, S, SOFT), 1e-3)  # rounding is no fault
    batch = full_mixup(X, Y, num_classes=3, generator=gen())
    with pytest.raises(ValueError, match="teacher_mode must be one of"):
        mixed_teacher_logits(Halves(), X, batch, teacher_mode="both")
    with pytest.raises(ValueError, match="the 4 samples that were mixed"):
        mixed_teacher_logits(Halves(), X[:2], batch)
    with pytest.raises(ValueError, match="must be floating tensors, got int64"):
        MixupKD().setup(nn.Linear(2, 3), None, torch.zeros(2, 2).long())
    with pytest.raises(ValueError, match="a tensor x with labels"):
        method_for().on_batch(Batch(x=X), gen())
    with pytest.raises(ValueError, match=r"give \(x, y\)"):
        Mixup().terms(Signals(student_logits=S))
    with pytest.raises(ValueError, match="mix must be one of"):
        MixupKD(mix="some")
