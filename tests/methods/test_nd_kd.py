"""ND and KD++: official values, hand-computed values, a slow oracle, the two regimes, the training, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import Case, close, grad_of, parity
from torch import Tensor, nn

from kdcore.functional.divergences import dist_loss, dkd_loss, kd_loss
from kdcore.functional.prototypes import class_means
from kdcore.method import Signals, TrainingOutputs
from kdcore.methods.nd_kd import (
    CARD,
    KDPP,
    ND,
    EmbeddingProjector,
    direction_loss,
    kdpp_loss,
    nd_loss,
    norm_and_cosine,
    norm_loss,
)
from kdcore.registry import create_method
from kdcore.taps import Taps

TOLERANCE = 1e-10
quickly = settings(max_examples=12, deadline=None, derandomize=True)


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draw(n: int, d: int, c: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student (requires gradient), teacher, labels, class means; both regimes occur."""
    g = torch.Generator().manual_seed(seed)
    s, t = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    s = s * torch.where(torch.arange(n) % 2 == 0, 0.4, 2.5)[:, None]
    return (
        s.requires_grad_(),
        t,
        torch.randint(c, (n,), generator=g),
        3 * torch.randn(c, d, generator=g, dtype=torch.float64),
    )


# Official values ------------------------------------------------------------------------------------------------------


def check_loss(case: Case) -> None:
    s = case.leaf("student_emb")
    loss = case.hp["weight"] * nd_loss(
        s, case.inputs["teacher_emb"], case.inputs["labels"], class_means=case.inputs["class_means"]
    )
    close(loss, case.out["loss"], TOLERANCE)
    close(grad_of(loss, s), case.grad["student_emb"], TOLERANCE)
    shorter = s.norm(dim=1) < case.inputs["teacher_emb"].norm(dim=1)
    assert {"loss_a": 0 < int(shorter.sum()) < len(s), "loss_b": not shorter.any(), "loss_c": bool(shorter.all())}[
        case.name
    ], "the case is not of the regime that its name promises"


def check_kdpp(case: Case) -> None:
    z, s, hp = case.leaf("student_logits"), case.leaf("student_emb"), case.hp
    call = partial(
        kdpp_loss,
        z,
        case.inputs["teacher_logits"],
        case.inputs["labels"],
        student_emb=s,
        teacher_emb=case.inputs["teacher_emb"],
        class_means=case.inputs["class_means"],
        temperature=hp["temperature"],
        ce_weight=hp["ce_weight"],
        kd_weight=hp["kd_weight"],
        nd_weight=hp["nd_weight"],
        epoch=hp["epoch"],
        warmup_epochs=hp["warmup_epochs"],
    )
    terms = call(return_terms=True)
    assert list(terms) == ["loss", "ce", "kd", "nd"]
    for name, value in terms.items():
        close(value, case.out[name], TOLERANCE, what=name)
    close(call(), case.out["loss"], TOLERANCE)
    for loss in (terms["loss"], call()):
        close(grad_of(loss, z), case.grad["student_logits"], TOLERANCE)
        close(grad_of(loss, s), case.grad["student_emb"], TOLERANCE)


def check_dkd(case: Case) -> None:
    z, hp = case.leaf("student_logits"), case.hp
    loss = dkd_loss(
        z,
        case.inputs["teacher_logits"],
        case.inputs["labels"],
        alpha=hp["alpha"],
        beta=hp["beta"],
        temperature=hp["temperature"],
    )
    close(loss, case.out["loss"], TOLERANCE)
    close(grad_of(loss, z), case.grad["student_logits"], TOLERANCE)


def check_dist(case: Case) -> None:
    z, hp = case.leaf("student_logits"), case.hp
    loss = dist_loss(
        z, case.inputs["teacher_logits"], beta=hp["beta"], gamma=hp["gamma"], temperature=hp["temperature"]
    )
    close(loss, case.out["loss"], TOLERANCE)
    close(grad_of(loss, z), case.grad["student_logits"], TOLERANCE)


def check_projector(case: Case) -> None:
    projector = EmbeddingProjector(64, 128).double().eval()
    children = {"0": "bn", "2": "linear"}
    state = {f"{children[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in case.params.items()}
    projector.load_state_dict(state)  # strict: these keys and no others
    close(projector(case.inputs["student_emb"]), case.out["emb"], TOLERANCE)


@parity(
    "nd_kd",
    {"loss_*": check_loss, "kdpp_*": check_kdpp, "dkd_*": check_dkd, "dist_*": check_dist, "proj_*": check_projector},
)
def test_parity(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
    case.assert_all_read()


# By hand --------------------------------------------------------------------------------------------------------------

MEANS = double([[0.0, 5.0], [2.0, 0.0]])  # directions (0, 1) and (1, 0)


def test_nd_by_hand() -> None:
    s = double([[3.0, 4.0], [3.0, 4.0]]).requires_grad_()
    t = double([[0.0, 1.0], [-8.0, 6.0]])  # shorter than the student, longer than it
    terms = nd_loss(s, t, torch.tensor([0, 1]), class_means=MEANS, reduction="none")
    close(terms, double([1 - 4 / 5, 1 - 3 / 10]))
    loss = nd_loss(s, t, torch.tensor([0, 1]), class_means=MEANS)
    close(loss, 0.45)
    close(nd_loss(s, t, torch.tensor([0, 1]), class_means=MEANS, reduction="sum"), 0.9)
    # d cos / ds = (e - cos s / ||s||) / ||s|| = ((0, 1) - 4/5 (3/5, 4/5)) / 5; then the constant pull e / ||t||
    close(grad_of(loss, s), double([[0.096 / 2, -0.072 / 2], [-0.1 / 2, 0.0]]))


def test_direction_by_hand() -> None:
    s = double([[3.0, 4.0], [-2.0, 0.0]]).requires_grad_()
    y = torch.tensor([0, 1])
    close(direction_loss(s, MEANS, y, reduction="none"), double([0.2, 2.0]))
    loss = direction_loss(s, MEANS, y)
    close(loss, 1.1)
    close(direction_loss(s, MEANS, y, reduction="sum"), 2.2)
    close(grad_of(loss, s), double([[0.048, -0.036], [0.0, 0.0]]))


def test_norm_loss_by_hand() -> None:
    s = double([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]]).requires_grad_()
    loss = norm_loss(s, step=3.0)
    close(loss, 9.0)
    close(norm_loss(s, step=3.0, reduction="none"), double([9.0, 9.0, 9.0]))
    close(norm_loss(s, reduction="sum"), 3.0)
    close(norm_loss(s), 1.0)
    close(grad_of(loss, s), -2 * 3 / 3 * double([[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]]))


def test_norm_and_cosine_by_hand() -> None:
    norms, cosines = norm_and_cosine(double([[3.0, 4.0], [0.0, 0.0]]), MEANS, torch.tensor([1, 0]))
    close(norms, double([5.0, 0.0]))
    close(cosines, double([0.6, 0.0]))


def test_kdpp_by_hand() -> None:
    z, target, y = torch.zeros(1, 2).double(), double([[math.log(3), 0.0]]), torch.tensor([1])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    call = partial(
        kdpp_loss, z, target, y, student_emb=double([[3.0, 4.0]]), teacher_emb=double([[0.0, 10.0]]), class_means=MEANS
    )
    close(call(temperature=1.0), math.log(2) + kl + 2 * 0.7)
    terms = call(
        temperature=1.0, ce_weight=0.5, kd_weight=3.0, nd_weight=10.0, epoch=1, warmup_epochs=4, return_terms=True
    )
    close(
        torch.stack(list(terms.values())),
        double([0.5 * math.log(2) + 0.75 * kl + 7, 0.5 * math.log(2), 0.75 * kl, 7.0]),
    )
    close(call(temperature=1.0, epoch=0), math.log(2) + 1.4)
    close(call(temperature=1.0, epoch=20), call(temperature=1.0))
    close(call(temperature=1.0, epoch=5), math.log(2) + kl / 4 + 1.4)  # the default warm-up takes 20 epochs
    close(call(), math.log(2) + kd_loss(z, target, temperature=4.0) + 1.4)


# A slow oracle and properties -----------------------------------------------------------------------------------------


def oracle(s: Tensor, t: Tensor, labels: Tensor, means: Tensor) -> list[float]:
    """The released loop over samples in plain Python."""
    losses = []
    for a, b, y in zip(s.tolist(), t.tolist(), labels.tolist(), strict=True):
        c = means[y].tolist()
        length = math.sqrt(sum(v * v for v in c))
        along = sum(u * v / length for u, v in zip(a, c, strict=True))
        losses.append(1 - along / max(math.hypot(*a), math.hypot(*b)))
    return losses


shapes = given(n=st.integers(1, 7), d=st.integers(1, 6), c=st.integers(1, 5), seed=st.integers(0, 999))


@shapes
@quickly
def test_nd_equals_the_oracle(n: int, d: int, c: int, seed: int) -> None:
    s, t, y, means = draw(n, d, c, seed)
    expected = double(oracle(s, t, y, means))
    close(nd_loss(s, t, y, class_means=means, reduction="none"), expected, TOLERANCE)
    close(nd_loss(s, t, y, class_means=means), expected.mean(), TOLERANCE)
    close(direction_loss(s, means, y, reduction="none"), double(oracle(s, 0 * t, y, means)), TOLERANCE)
    assert float(expected.min()) > -1e-12 and float(expected.max()) < 2 + 1e-12


@shapes
@quickly
def test_the_two_regimes(n: int, d: int, c: int, seed: int) -> None:
    """Shorter than the teacher: the gradient is -e / (N ||t||). Longer: it is perpendicular to the student."""
    s, t, y, means = draw(n, d, c, seed)
    gradient = grad_of(nd_loss(s, t, y, class_means=means), s)
    shorter = s.norm(dim=1) < t.norm(dim=1)
    constant = -F.normalize(means[y], dim=1) / (n * t.norm(dim=1, keepdim=True))
    close(gradient[shorter], constant[shorter], TOLERANCE)
    along = (gradient * s).sum(1)[~shorter]
    close(along, torch.zeros_like(along), floor=1e-13)
    closer = nd_loss(s - 1e-4 * gradient, t, y, class_means=means)
    assert closer <= nd_loss(s, t, y, class_means=means) + 1e-15


@shapes
@quickly
def test_only_the_teachers_length_and_the_direction_of_the_mean_count(n: int, d: int, c: int, seed: int) -> None:
    s, t, y, means = draw(n, d, c, seed)
    g = torch.Generator().manual_seed(seed)
    other = F.normalize(torch.randn(t.shape, generator=g, dtype=t.dtype), dim=1) * t.norm(dim=1, keepdim=True)
    scaled = means * (0.1 + torch.rand(c, 1, generator=g, dtype=t.dtype))
    close(nd_loss(s, other, y, class_means=scaled), nd_loss(s, t, y, class_means=means), TOLERANCE)
    close(nd_loss(3 * s, 3 * t, y, class_means=means), nd_loss(s, t, y, class_means=means), TOLERANCE)


@shapes
@quickly
def test_one_hot_weights_are_labels(n: int, d: int, c: int, seed: int) -> None:
    s, t, y, means = draw(n, d, c, seed)
    hot = F.one_hot(y, c).double()
    close(nd_loss(s, t, hot, class_means=means), nd_loss(s, t, y, class_means=means), TOLERANCE)
    close(direction_loss(s, means, hot), direction_loss(s, means, y), TOLERANCE)


def test_mixed_labels_point_between_their_classes() -> None:
    s, t = double([[0.0, 1.0]]), double([[0.0, 2.0]])
    mixed = double([[0.4, 0.6]])  # 0.4 (0, 5) + 0.6 (2, 0) = (1.2, 2)
    close(nd_loss(s, t, mixed, class_means=MEANS), 1 - 2 / math.hypot(1.2, 2) / 2)
    close(direction_loss(s, MEANS, mixed), 1 - 2 / math.hypot(1.2, 2))
    loss = kdpp_loss(
        double([[1.0, 0.0]]),
        double([[0.0, 1.0]]),
        mixed,
        student_emb=s,
        teacher_emb=t,
        class_means=MEANS,
        kd_weight=0.0,
        nd_weight=0.0,
    )
    close(loss, -0.4 * math.log(1 / (1 + math.exp(-1))) - 0.6 * math.log(1 / (1 + math.exp(1))))


def test_a_tie_uses_the_students_norm() -> None:
    s = double([[3.0, 4.0]]).requires_grad_()
    loss = nd_loss(s, double([[-5.0, 0.0]]), torch.tensor([0]), class_means=MEANS)
    close(grad_of(loss, s), grad_of(direction_loss(s, MEANS, torch.tensor([0])), s))
    assert grad_of(loss, s).abs().sum() > 0.1


def test_zero_embeddings_are_safe() -> None:
    s = torch.zeros(2, 2).double().requires_grad_()
    t = double([[0.0, 0.0], [0.0, 4.0]])
    y = torch.tensor([0, 1])
    loss = nd_loss(s, t, y, class_means=MEANS, reduction="none")
    close(loss, double([1.0, 1.0]))
    close(grad_of(loss.sum(), s), double([[0.0, 0.0], [-0.25, 0.0]]))  # a short student is pulled along its class
    close(grad_of(direction_loss(s, MEANS, y), s), torch.zeros(2, 2).double())


def test_eps_is_the_smallest_denominator() -> None:
    s, t = double([[0.0, 0.1]]), double([[0.2, 0.0]])
    close(nd_loss(s, t, torch.tensor([0]), class_means=MEANS, eps=0.5), 1 - 0.1 / 0.5)
    close(nd_loss(s, t, torch.tensor([0]), class_means=MEANS), 1 - 0.1 / 0.2)
    tiny = 1e-13 * double([[0.0, 1.0]])
    close(nd_loss(tiny, tiny, torch.tensor([0]), class_means=MEANS), 1 - 0.1)  # the default is 1e-12


def test_bases() -> None:
    g = torch.Generator().manual_seed(0)
    z, target = torch.randn(2, 6, 4, generator=g, dtype=torch.float64) * 2
    s, t, y, means = draw(6, 3, 4, 1)
    call = partial(
        kdpp_loss,
        z,
        target,
        y,
        student_emb=s,
        teacher_emb=t,
        class_means=means,
        ce_weight=0.0,
        nd_weight=0.0,
        kd_weight=0.5,
        temperature=3.0,
    )
    close(call(base="kd"), 0.5 * kd_loss(z, target, temperature=3.0))
    close(call(base="dkd"), 0.5 * dkd_loss(z, target, y, temperature=3.0))
    close(call(base="dist"), 0.5 * dist_loss(z, target, temperature=3.0))
    review = double([0.25]).sum()
    close(call(base=lambda *_: review, epoch=5), 0.5 * 0.25 * review)
    heavier = partial(dkd_loss, alpha=2.5, beta=4.0, temperature=4.0)
    close(call(base=heavier), 0.5 * heavier(z, target, y))
    with pytest.raises(ValueError, match="base must be one of 'kd', 'dkd', 'dist', got 'dkt'"):
        call(base="dkt")
    with pytest.raises(ValueError, match=r"base must be one of .* or a callable"):
        call(base=3)
    with pytest.raises(ValueError, match=r"base must give a scalar tensor, got float64 \(6,\)"):
        call(base=partial(kd_loss, reduction="none"))


def test_gradients_by_finite_differences_reach_the_student_only() -> None:
    s, t, y, means = draw(5, 4, 3, 3)
    t, means = t.requires_grad_(), means.requires_grad_()
    for loss in (
        partial(nd_loss, teacher_emb=t, labels=y, class_means=means),
        partial(direction_loss, class_means=means, labels=y),
    ):
        assert torch.autograd.gradcheck(loss, (s,))
        gradients = torch.autograd.grad(loss(s), (s, t, means), allow_unused=True)
        assert gradients[0].abs().sum() > 0 and gradients[1:] == (None, None)


def test_half_precision_is_computed_in_float32() -> None:
    s, t, y, means = draw(6, 4, 3, 0)
    low = [x.detach().bfloat16() for x in (s, t, means)]
    high = [x.float() for x in low]
    for soft in (y, F.one_hot(y, 3).bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            value = nd_loss(low[0], low[1], soft, class_means=low[2])
        assert value.dtype == torch.float32
        close(value, nd_loss(high[0], high[1], soft, class_means=high[2]), 1e-6)


# The objectives in a training -----------------------------------------------------------------------------------------


class Net(nn.Module):
    """A perceptron with an embedding of a chosen width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, width), nn.Tanh())
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def signals_of(method: KDPP, student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, epoch: int = 0) -> Signals:
    with Taps(student, method.student_taps) as s, Taps(teacher, method.teacher_taps) as t:
        with torch.no_grad():
            theirs = teacher(x)
        ours = student(x)
        signals = Signals(
            student_logits=ours,
            teacher_logits=theirs,
            labels=y,
            student_features=dict(s.features),
            teacher_features=dict(t.features),
            epoch=epoch,
        )
        method.prepare(TrainingOutputs.of(signals))
        return signals


def batch() -> tuple[Tensor, Tensor]:
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(12) % 3


@pytest.mark.parametrize(("width", "projected"), [(5, False), (4, True)])
def test_setup_reads_the_embeddings_and_projects_other_widths(width: int, projected: bool) -> None:
    torch.manual_seed(0)
    student, teacher = Net(width), Net(5)
    method = create_method("kdpp", dropout=0.0)
    method.setup(student, teacher, batch()[0])
    assert method.student_taps == method.teacher_taps == ("head:in",)
    assert (method.projector is not None) is projected
    names = [
        f"projector.{n}"
        for n in (
            "bn.weight",
            "bn.bias",
            "bn.running_mean",
            "bn.running_var",
            "bn.num_batches_tracked",
            "linear.weight",
            "linear.bias",
        )
    ]
    assert list(method.state_dict()) == (names if projected else [])
    assert len(method.parameter_groups()) == int(projected)
    s = signals_of(method, student, teacher, *batch(), epoch=5)
    terms = method.terms(s)
    emb = s.student_features["head:in"]
    if projected:
        emb = F.linear(F.batch_norm(emb, None, None, training=True), method.projector.linear.weight)
        sum(terms.values()).backward()
        assert all(p.grad is not None for p in method.parameters())
    together = kdpp_loss(
        *s.logits,
        s.labels,
        student_emb=emb,
        teacher_emb=s.teacher_features["head:in"],
        class_means=method.class_means,
        epoch=5,
        return_terms=True,
    )
    close(terms["kd"], together["kd"], 1e-6)
    close(terms["nd"], together["nd"], 1e-6)
    assert list(terms) == ["kd", "nd"] and all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("name", ["kdpp", "nd"])
def test_training_turns_and_lengthens(name: str) -> None:
    torch.manual_seed(1)
    student, teacher = Net(5), Net(5)
    teacher.body[0].weight.data.mul_(3)  # a teacher with longer embeddings
    method = create_method(name)
    method.setup(student, teacher, batch()[0])
    optimizer = torch.optim.Adam(student.parameters(), 0.02)
    seen = []
    for _ in range(40):
        s = signals_of(method, student, teacher, *batch())
        norms, cosines = norm_and_cosine(s.student_features["head:in"], method.class_means, s.labels)
        seen.append((norms.mean().item(), cosines.mean().item()))
        optimizer.zero_grad()
        method.terms(s)["nd"].backward()
        optimizer.step()
    assert seen[-1][0] > seen[0][0] + 0.2 and seen[-1][1] > seen[0][1] + 0.2


def test_distill_supplies_the_class_means() -> None:
    """The whole loop: widths differ, and the means are those of the teacher's embeddings of all training samples."""
    from kdcore.distiller import Distiller

    torch.manual_seed(0)
    student, teacher = Net(4), Net(5).eval()
    x, y = batch()
    loader = [(x[:6], y[:6]), (x[6:], y[6:])]
    loop = Distiller(teacher, student, ["dist", "nd"], loader, epochs=2)
    events = list(loop.run())
    assert set(events[0].terms) == {"inter", "intra", "nd", "ce"}
    expected = class_means(teacher.body(x).detach(), y, 3)
    torch.testing.assert_close(loop.methods[1].class_means, expected)
    assert not [k for k in student.state_dict() if "projector" in k]


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"regularizer": "nd", "nd_weight": 3.0}, lambda s, t, y, c: 3 * nd_loss(s, t, y, class_means=c)),
        ({"regularizer": "direction"}, lambda s, t, y, c: 2 * direction_loss(s, c, y)),
        ({"regularizer": "norm", "norm_step": 0.5}, lambda s, t, y, c: 2 * norm_loss(s, step=0.5)),
    ],
)
def test_regularizer_knobs(knobs: dict, expected: Callable[..., Tensor]) -> None:
    s = ND.example()
    method = create_method("nd", **knobs)
    method.prepare(TrainingOutputs.of(s))
    terms = method.terms(s)
    assert list(terms) == [knobs["regularizer"]]
    emb = s.student_features["embedding"]
    value = expected(emb, s.teacher_features["embedding"], s.labels, method.class_means)
    close(terms[knobs["regularizer"]], value)
    close(grad_of(terms[knobs["regularizer"]], emb), grad_of(value, emb))


@pytest.mark.parametrize(("base", "loss"), [("kd", kd_loss), ("dkd", dkd_loss), ("dist", dist_loss)])
def test_base_knobs(base: str, loss: Callable[..., Tensor]) -> None:
    s = KDPP.example()
    s.epoch = 3
    knobs = {"base": base, "kd_weight": 2.0, "temperature": 3.0}
    full = 2 * loss(*s.logits, s.labels, temperature=3.0)
    for warmup, share in ((12, 0.25), (0, 1.0)):
        method = create_method("kdpp", **knobs, warmup_epochs=warmup)
        method.prepare(TrainingOutputs.of(s))
        close(method.terms(s)[base], full * share)


def test_chosen_taps_stay_and_a_teacher_is_needed() -> None:
    student, teacher = Net(5), Net(5)
    method = create_method("kdpp")
    method.student_taps = method.teacher_taps = ("body.0",)
    method.setup(student, teacher, batch()[0])
    assert method.student_taps == method.teacher_taps == ("body.0",)
    with pytest.raises(ValueError, match="kdpp needs a teacher"):
        create_method("kdpp").setup(student, None, batch()[0])
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 16, 3))
    method = create_method("nd")
    method.student_taps = method.teacher_taps = ("0",)
    with pytest.raises(ValueError, match=r"tap '0' must give embeddings \(N, D\), got \(2, 4, 4\) per sample"):
        method.setup(conv, conv, torch.zeros(2, 1, 6, 6))


def test_projector() -> None:
    torch.manual_seed(0)
    projector = EmbeddingProjector(3, 7)
    assert [type(m).__name__ for m in projector.children()] == ["BatchNorm1d", "Dropout", "Linear"]
    assert projector.dropout.p == 0.5
    assert not projector.linear.bias.any() and projector.linear.weight.std() > 0.1
    assert (projector.bn.weight == 1).all() and not projector.bn.bias.any()
    assert projector(torch.randn(4, 3)).shape == (4, 7)
    with pytest.raises(ValueError, match="student_dim must be"):
        EmbeddingProjector(0, 7)
    with pytest.raises(ValueError, match="teacher_dim must be"):
        EmbeddingProjector(3, -1)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\]"):
        EmbeddingProjector(3, 7, dropout=1.5)


# Bad input ------------------------------------------------------------------------------------------------------------

S, T, Y = torch.ones(2, 2), torch.ones(2, 2), torch.tensor([0, 1])
C = MEANS.float()
ABSENT = torch.tensor([[1.0, 0.0], [math.nan, math.nan]])
BAD: dict[str, tuple[dict, str]] = {
    "widths": (
        {"teacher_emb": torch.ones(2, 3)},
        r"student_emb and teacher_emb .* got \(2, 2\) and \(2, 3\).*EmbeddingProjector",
    ),
    "samples": ({"teacher_emb": torch.ones(3, 2)}, r"student_emb and teacher_emb .* got \(2, 2\) and \(3, 2\)"),
    "maps": (
        {"student_emb": torch.ones(2, 2, 2, 2), "teacher_emb": torch.ones(2, 2, 2, 2)},
        r"student_emb must be floating embeddings \(N, D\)",
    ),
    "no sample": (
        {"student_emb": torch.ones(0, 2), "teacher_emb": torch.ones(0, 2), "labels": torch.zeros(0).long()},
        "student_emb needs at least 1 sample",
    ),
    "class means of another width": (
        {"class_means": torch.ones(2, 3)},
        r"class_means must be \(C, 2\) .* got float32 \(2, 3\)",
    ),
    "class means 1-D": ({"class_means": torch.ones(2)}, "class_means must be"),
    "absent class": ({"class_means": ABSENT}, "class_means has no direction for class 1: its mean is zero or not"),
    "zero mean": ({"class_means": torch.zeros(2, 2)}, "class_means has no direction for class 0, 1"),
    "infinite mean": ({"class_means": C / 0}, "class_means has no direction"),
    "label out of range": ({"labels": torch.tensor([0, 2])}, r"labels must be in \[0, 2\), got 2"),
    "negative label": ({"labels": torch.tensor([-1, 0])}, r"labels must be in \[0, 2\), got -1"),
    "no labels": ({"labels": None}, "labels are required"),
    "number of labels": ({"labels": torch.tensor([0])}, r"labels must have shape \(2,\)"),
    "floating labels": ({"labels": torch.zeros(2)}, r"labels must be int64 \(2,\) or floating weights \(2, 2\)"),
    "truth values": ({"labels": torch.tensor([True, False])}, r"labels must be int64 \(2,\)"),
    "weights of another shape": ({"labels": torch.ones(2, 3)}, r"floating weights \(2, 2\), got float32 \(2, 3\)"),
    "weights of an absent class": (
        {"labels": torch.full((2, 2), 0.5), "class_means": ABSENT},
        "class_means has no direction for class 1",
    ),
    "weights that cancel": (
        {"labels": torch.tensor([[1.0, 0.0], [0.5, 0.5]]), "class_means": torch.tensor([[1.0, 0.0], [-1.0, 0.0]])},
        "direction; row 1 is not",
    ),
    "negative weights": ({"labels": torch.tensor([[1.0, -0.5], [0.5, 0.5]])}, "weights >= 0 .*row 0 is not"),
    "eps": ({"eps": 0.0}, "eps must be a finite number > 0"),
    "reduction": ({"reduction": "median"}, "reduction must be one of"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str) -> None:
    change, message = BAD[what]
    given_ = {"student_emb": S, "teacher_emb": T, "labels": Y, "class_means": C} | change
    with pytest.raises(ValueError, match=message):
        nd_loss(**given_)


def test_an_absent_class_matters_only_when_it_is_met() -> None:
    close(nd_loss(S, T, torch.tensor([0, 0]), class_means=ABSENT), 1 - 1 / math.sqrt(2), 1e-6)
    one_hot = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    close(nd_loss(S, T, one_hot, class_means=ABSENT), 1 - 1 / math.sqrt(2), 1e-6)


def test_other_bad_input() -> None:
    with pytest.raises(TypeError, match="teacher_emb must be a floating tensor"):
        nd_loss(S, Y, Y, class_means=C)
    with pytest.raises(ValueError, match="student_emb must be floating"):
        nd_loss(S.long(), T, Y, class_means=C)
    with pytest.raises(ValueError, match="class_means must be"):
        direction_loss(S, torch.ones(2, 3), Y)
    with pytest.raises(ValueError, match="student_emb must be floating"):
        norm_loss(torch.ones(3))
    with pytest.raises(ValueError, match="step must be a finite number > 0"):
        norm_loss(S, step=0.0)
    with pytest.raises(ValueError, match="reduction must be one of"):
        norm_loss(S, reduction="max")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ce_weight": -1.0}, "ce_weight must be a finite number >= 0"),
        ({"kd_weight": -0.1}, "kd_weight must be a finite number >= 0"),
        ({"nd_weight": math.inf}, "nd_weight must be a finite number >= 0"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0"),
        ({"warmup_epochs": 0.0, "epoch": 1}, "warmup_epochs must be a finite number > 0"),
        ({"epoch": -1}, "epoch must be a finite number >= 0"),
        ({"teacher_logits": torch.zeros(2, 3)}, "student_logits and teacher_logits must have the same shape"),
        ({"student_logits": torch.zeros(2, 3), "teacher_logits": torch.zeros(2, 3)}, "the classes of class_means"),
        ({"student_logits": torch.zeros(3, 2), "teacher_logits": torch.zeros(3, 2)}, "have the samples of student_emb"),
        ({"labels": torch.tensor([0, 5])}, r"labels must be in \[0, 2\), got 5"),
    ],
)
def test_bad_input_of_kdpp_is_named(change: dict, message: str) -> None:
    arguments = {
        "student_logits": torch.zeros(2, 2),
        "teacher_logits": torch.zeros(2, 2),
        "labels": Y,
        "student_emb": S,
        "teacher_emb": T,
        "class_means": C,
    } | change
    with pytest.raises(ValueError, match=message):
        kdpp_loss(**arguments)


def test_card() -> None:
    assert CARD.objectives == (KDPP, ND)
    assert isinstance(create_method("nd_kd"), KDPP) and not isinstance(create_method("nd_kd"), ND)
    html = CARD._repr_html_()
    assert "Wang et al." in html and "DirectNormLoss" in html
