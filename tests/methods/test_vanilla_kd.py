"""KD, DKD, DIST: official values, hand-computed values, a slow oracle, identities, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.golden import Case, close, grad_of, parity
from torch import Tensor

from kdcore.method import Signals
from kdcore.methods.vanilla_kd import CARD, DIST, DKD, KD, dist_loss, dkd_loss, kd_loss, kd_objective, linear_warmup

LOG = math.log


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair(n: int, c: int, seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    s, t = torch.randn(2, n, c, generator=g, dtype=torch.float64) * scale
    return s.clone().requires_grad_(), t.clone(), torch.randint(c, (n,), generator=g)


# Official values -----------------------------------------------------------------------------------------------------


def check_kd(case: Case) -> None:
    s, t, y = case.leaf("student_logits"), case.inputs["teacher_logits"], case.inputs["labels"]
    loss = kd_loss(s, t, y, temperature=case.hp["temperature"])
    objective = kd_objective(
        s, t, y, temperature=case.hp["temperature"], ce_weight=case.hp["ce_weight"], kd_weight=case.hp["kd_weight"]
    )
    close(loss, case.out["kd_loss"])
    close(objective, case.out["objective"])
    close(grad_of(loss, s), case.grad["student_logits_kd"])
    close(grad_of(objective, s), case.grad["student_logits_objective"])


def check_dkd(case: Case) -> None:
    s, hp = case.leaf("student_logits"), case.hp
    loss, tckd, nckd = dkd_loss(
        s,
        case.inputs["teacher_logits"],
        case.inputs["labels"],
        alpha=hp["alpha"],
        beta=hp["beta"],
        temperature=hp["temperature"],
        return_parts=True,
    )
    close(loss, case.out["loss"])
    close(tckd, case.out["tckd"])
    close(nckd, case.out["nckd"])
    close(grad_of(loss, s), case.grad["student_logits"])


def check_dist(case: Case) -> None:
    s, hp = case.leaf("student_logits"), case.hp
    loss, inter, intra = dist_loss(
        s,
        case.inputs["teacher_logits"],
        beta=hp["beta"],
        gamma=hp["gamma"],
        temperature=hp["temperature"],
        return_parts=True,
    )
    close(loss, case.out["loss"])
    if s.ndim == 2:
        close(inter, case.out["inter"])
        close(intra, case.out["intra"])
    close(grad_of(loss, s), case.grad["student_logits"])


@parity("vanilla_kd", {"kd_*": check_kd, "dkd_*": check_dkd, "dist_*": check_dist})
def test_parity(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
    case.assert_all_read()


# By hand -------------------------------------------------------------------------------------------------------------


def test_kd_by_hand() -> None:
    s, t = torch.zeros(1, 2).double(), double([[LOG(3), 0.0]])  # p = (3/4, 1/4), q = (1/2, 1/2)
    kl = 0.75 * LOG(1.5) + 0.25 * LOG(0.5)
    close(kd_loss(s, t, temperature=1.0), kl)
    close(kd_loss(s, 3 * t, temperature=3.0), 9 * kl)
    close(kd_loss(s, t), 16 * (1 - _entropy2(3**0.25)) * LOG(2))  # the default temperature is 4; q is uniform


def _entropy2(odds: float) -> float:
    """Entropy in bits of a coin with these odds."""
    p = odds / (1 + odds)
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


def test_objective_by_hand() -> None:
    s, t = torch.zeros(1, 2).double(), double([[LOG(3), 0.0]])
    kl = 0.75 * LOG(1.5) + 0.25 * LOG(0.5)
    close(kd_objective(s, t, torch.tensor([1]), temperature=1.0, ce_weight=0.25, kd_weight=2.0), 0.25 * LOG(2) + 2 * kl)


def test_dkd_by_hand() -> None:
    t = double([[LOG(2), 0.0, 0.0]])  # p = (1/2, 1/4, 1/4)
    s = double([[0.0, LOG(3), 0.0]])  # q = (1/5, 3/5, 1/5)
    y = torch.tensor([0])
    tckd = 0.5 * LOG(0.5 / 0.2) + 0.5 * LOG(0.5 / 0.8)
    nckd = 0.5 * LOG(0.5 / 0.75) + 0.5 * LOG(0.5 / 0.25)
    loss, a, b = dkd_loss(s, t, y, temperature=1.0, alpha=3.0, beta=0.5, return_parts=True)
    close(a, tckd)
    close(b, nckd)
    close(loss, 3 * tckd + 0.5 * nckd)
    close(dkd_loss(2 * s, 2 * t, y, temperature=2.0), 4 * (tckd + 8 * nckd))


def test_dist_by_hand() -> None:
    q = double([[0.75, 0.25], [0.6, 0.4]])
    p = double([[0.75, 0.25], [0.25, 0.75]])
    loss, inter, intra = dist_loss(q.log(), p.log(), eps=0.0, beta=5.0, gamma=7.0, return_parts=True)
    close(inter, 1.0)  # rows agree (+1) and disagree (-1)
    close(intra, 0.0)  # both columns move together over the two samples
    close(loss, 5.0)
    close(dist_loss(3 * q.log(), 3 * p.log(), eps=0.0, temperature=3.0), 9.0)


# A slow oracle, written from the formulas with loops over samples and classes ----------------------------------------


def soft(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    e = [math.exp((v - top) / temperature) for v in row]
    return [v / sum(e) for v in e]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * LOG(a / b) for a, b in zip(p, q, strict=True))


def pearson(a: list[float], b: list[float], eps: float) -> float:
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    dot = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    norms = math.sqrt(sum((x - ma) ** 2 for x in a)) * math.sqrt(sum((y - mb) ** 2 for y in b))
    return dot / (norms + eps)


def oracle_kd(s: Tensor, t: Tensor, temperature: float) -> list[float]:
    return [
        temperature**2 * kl(soft(b, temperature), soft(a, temperature))
        for a, b in zip(s.tolist(), t.tolist(), strict=True)
    ]


def oracle_dkd(s: Tensor, t: Tensor, y: Tensor, temperature: float) -> tuple[list[float], list[float]]:
    tckd, nckd = [], []
    for a, b, label in zip(s.tolist(), t.tolist(), y.tolist(), strict=True):
        p, q = soft(b, temperature), soft(a, temperature)
        tckd.append(temperature**2 * kl([p[label], 1 - p[label]], [q[label], 1 - q[label]]))
        del a[label], b[label]
        nckd.append(temperature**2 * kl(soft(b, temperature), soft(a, temperature)))
    return tckd, nckd


def oracle_dist(s: Tensor, t: Tensor, temperature: float, eps: float) -> tuple[float, float]:
    q, p = ([soft(row, temperature) for row in x.tolist()] for x in (s, t))
    inter = 1 - sum(pearson(a, b, eps) for a, b in zip(q, p, strict=True)) / len(q)
    columns = list(zip(zip(*q, strict=True), zip(*p, strict=True), strict=True))
    intra = 1 - sum(pearson(list(a), list(b), eps) for a, b in columns) / len(columns)
    return inter, intra


shapes = given(n=st.integers(2, 6), c=st.integers(2, 7), seed=st.integers(0, 999), temperature=st.floats(0.5, 8))


@shapes
def test_kd_equals_the_oracle(n: int, c: int, seed: int, temperature: float) -> None:
    s, t, _ = pair(n, c, seed)
    expected = double(oracle_kd(s, t, temperature))
    close(kd_loss(s, t, temperature=temperature, reduction="none"), expected, 1e-9)
    close(kd_loss(s, t, temperature=temperature), expected.mean(), 1e-9)
    close(kd_loss(s, t, temperature=temperature, reduction="sum"), expected.sum(), 1e-9)


@shapes
def test_dkd_equals_the_oracle(n: int, c: int, seed: int, temperature: float) -> None:
    s, t, y = pair(n, c, seed)
    tckd, nckd = (double(x) for x in oracle_dkd(s, t, y, temperature))
    total, a, b = dkd_loss(s, t, y, alpha=1.5, beta=3.0, temperature=temperature, return_parts=True, reduction="none")
    close(a, tckd, 1e-9)
    close(b, nckd, 1e-9)
    close(total, 1.5 * tckd + 3.0 * nckd, 1e-9)
    close(dkd_loss(s, t, y, temperature=temperature, reduction="sum"), (tckd + 8 * nckd).sum(), 1e-9)


@given(
    n=st.integers(2, 6),
    c=st.integers(2, 7),
    seed=st.integers(0, 999),
    temperature=st.floats(0.5, 8),
    eps=st.sampled_from([0.0, 1e-8, 0.3]),
)
def test_dist_equals_the_oracle(n: int, c: int, seed: int, temperature: float, eps: float) -> None:
    s, t, _ = pair(n, c, seed)
    total, inter, intra = dist_loss(s, t, beta=0.7, gamma=1.3, temperature=temperature, eps=eps, return_parts=True)
    a, b = oracle_dist(s, t, temperature, eps)
    close(inter, a, 1e-9, floor=1e-11)
    close(intra, b, 1e-9, floor=1e-11)
    close(total, temperature**2 * (0.7 * a + 1.3 * b), 1e-9, floor=1e-10)


@shapes
def test_objective_is_cross_entropy_plus_kd(n: int, c: int, seed: int, temperature: float) -> None:
    s, t, y = pair(n, c, seed)
    ce = double([-LOG(soft(row, 1.0)[label]) for row, label in zip(s.tolist(), y.tolist(), strict=True)])
    kd = double(oracle_kd(s, t, temperature))
    expected = 0.3 * ce + 0.6 * kd
    options = {"temperature": temperature, "ce_weight": 0.3, "kd_weight": 0.6}
    close(kd_objective(s, t, y, **options, reduction="none"), expected, 1e-9)
    close(kd_objective(s, t, y, **options, reduction="sum"), expected.sum(), 1e-9)
    close(kd_objective(s, t, y, temperature=temperature), (0.1 * ce + 0.9 * kd).mean(), 1e-9)


# Identities ----------------------------------------------------------------------------------------------------------


@shapes
def test_kd_is_tckd_plus_the_muted_nckd(n: int, c: int, seed: int, temperature: float) -> None:
    s, t, y = pair(n, c, seed)
    _, tckd, nckd = dkd_loss(s, t, y, temperature=temperature, return_parts=True, reduction="none")
    p_y = (t / temperature).softmax(1).gather(1, y[:, None]).squeeze(1)
    close(kd_loss(s, t, temperature=temperature, reduction="none"), tckd + (1 - p_y) * nckd, 1e-9, floor=1e-11)


@shapes
def test_the_kd_gradient_is_t_times_the_difference(n: int, c: int, seed: int, temperature: float) -> None:
    s, t, _ = pair(n, c, seed)
    expected = temperature * ((s / temperature).softmax(1) - (t / temperature).softmax(1)) / n
    close(grad_of(kd_loss(s, t, temperature=temperature), s), expected, 1e-9)


def test_dense_logits_are_pixels_as_samples() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 2, 4, 3, 5, generator=g, dtype=torch.float64)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, 4) for x in (s, t)]
    for loss in (kd_loss, dist_loss):
        close(loss(s, t), loss(*rows))
    assert kd_loss(s, t, reduction="none").shape == (30,)


def test_dist_of_a_match_is_zero_up_to_eps() -> None:
    s, t, _ = pair(6, 5, 0)
    match = t.clone().requires_grad_()
    exact = dist_loss(match, t, eps=0.0)
    close(exact, 0.0, floor=1e-14)
    close(grad_of(exact, match), torch.zeros_like(t), floor=1e-14)
    assert 0 < dist_loss(match, t) < 1e-4 < dist_loss(s, t)


def test_labels_are_ignored_where_they_do_not_matter() -> None:
    s, t, y = pair(5, 4, 0)
    for loss in (kd_loss, dist_loss):
        assert torch.equal(loss(s, t, y), loss(s, t))


LOSSES = {
    "kd": lambda s, t, y, **k: kd_loss(s, t, **k),
    "objective": kd_objective,
    "dkd": dkd_loss,
    "dist": lambda s, t, y, **k: dist_loss(s, t, **k),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_confident_logits_stay_finite(name: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    for scale in (1e2, 1e4):
        s, t = (torch.randint(-1, 2, (2, 6, 5), generator=g) * scale).to(dtype)
        s.requires_grad_()
        for temperature in (1.0, 4.0):
            loss = LOSSES[name](s, t, torch.arange(6) % 5, temperature=temperature)
            assert loss.isfinite() and grad_of(loss, s).isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_confident_and_equal_is_zero(name: str) -> None:
    t = (torch.eye(5)[torch.arange(6) % 5] - 0.5) * 2e4
    s = t.clone().requires_grad_()
    kwargs = {"ce_weight": 0.0} if name == "objective" else {}
    loss = LOSSES[name](s, t, torch.arange(6) % 5, **kwargs)
    close(loss, 0.0, floor=1e-6)
    close(grad_of(loss, s), torch.zeros_like(s), floor=1e-6)


def test_dkd_sees_the_rest_behind_a_confident_target() -> None:
    """With p_y = 1 - exp(-60) the rest has no mass left in float32, and its shape is still compared."""
    t, s = torch.tensor([[60.0, 0.0, LOG(3)]]), torch.tensor([[60.0, LOG(3), 0.0]], requires_grad=True)
    _, _, nckd = dkd_loss(s, t, torch.tensor([0]), temperature=1.0, return_parts=True)
    close(nckd, 0.5 * LOG(3), 1e-5)  # KL((1/4, 3/4) || (3/4, 1/4))
    assert grad_of(nckd, s)[0, 1:].abs().min() > 0.4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    s, t, y = pair(6, 5, 3)
    s, t = s.detach().to(dtype), t.to(dtype)
    loss = LOSSES[name](s, t, y)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](s.float(), t.float(), y))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_gradients(name: str) -> None:
    s, t, y = pair(3, 4, 1)
    assert torch.autograd.gradgradcheck(lambda x: LOSSES[name](x, t, y, temperature=2.0), (s,))


# Schedules and methods -----------------------------------------------------------------------------------------------


def test_linear_warmup() -> None:
    assert [linear_warmup(e, 4) for e in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert linear_warmup(0, 0) == 1.0
    for bad in ((-1, 4), (1, -4), (math.nan, 4), (1, math.inf)):
        with pytest.raises(ValueError, match="epoch"):
            linear_warmup(*bad)


def signals(seed: int = 0, **more: object) -> Signals:
    s, t, y = pair(6, 5, seed)
    return Signals(student_logits=s, teacher_logits=t, labels=y, **more)


def test_terms_of_kd() -> None:
    x = signals()
    terms = KD(temperature=2, kd_weight=0.5).terms(x)
    assert list(terms) == ["kd"]
    close(terms["kd"], 0.5 * kd_loss(x.student_logits, x.teacher_logits, temperature=2.0))
    assert KD().settings == {"temperature": 4.0, "kd_weight": 0.9, "ce_weight": 0.1}


def test_terms_of_dkd_warm_up() -> None:
    for epoch, weight in ((0, 0.0), (1, 0.25), (4, 1.0), (7, 1.0)):
        x = signals(epoch=epoch)
        terms = DKD(alpha=2, beta=3, temperature=2, warmup_epochs=4).terms(x)
        _, tckd, nckd = dkd_loss(x.student_logits, x.teacher_logits, x.labels, temperature=2.0, return_parts=True)
        close(terms["tckd"], weight * 2 * tckd)
        close(terms["nckd"], weight * 3 * nckd)


def test_terms_of_dist() -> None:
    x = signals()
    terms = DIST(beta=2, gamma=3, temperature=2, dist_weight=0.5).terms(x)
    assert list(terms) == ["inter", "intra"]
    close(sum(terms.values()), 0.5 * dist_loss(*x.logits, beta=2.0, gamma=3.0, temperature=2.0))


def test_a_missing_teacher_is_named() -> None:
    with pytest.raises(ValueError, match="teacher_logits"):
        KD().terms(Signals(student_logits=torch.zeros(2, 3)))


def test_the_card_holds_three_objectives() -> None:
    assert CARD.objectives == (KD, DKD, DIST)


# Bad input -----------------------------------------------------------------------------------------------------------

S, T, Y = torch.zeros(4, 3), torch.ones(4, 3), torch.tensor([0, 1, 2, 0])
BAD = [
    (kd_loss, (S, T[:, :2]), {}, ValueError, "3 classes and the teacher 2"),
    (kd_loss, (S, T[:3]), {}, ValueError, "same shape"),
    (kd_loss, (S[0], T[0]), {}, ValueError, r"\(N, C\) or \(N, C, H, W\)"),
    (kd_loss, (S[None], T[None]), {}, ValueError, "student_logits must be"),
    (kd_loss, (S.long(), T), {}, TypeError, "student_logits must be a floating"),
    (kd_loss, (S, None), {}, TypeError, "teacher_logits must be a floating"),
    (kd_loss, (S[:0], T[:0]), {}, ValueError, "at least 1 samples"),
    (kd_loss, (S, T), {"temperature": 0.0}, ValueError, "temperature must be"),
    (kd_loss, (S, T), {"temperature": math.nan}, ValueError, "temperature must be"),
    (kd_loss, (S, T), {"reduction": "avg"}, ValueError, "reduction must be one of"),
    (kd_loss, (S, T.to("meta")), {}, ValueError, "same device"),
    (kd_objective, (S, T, None), {}, ValueError, "labels are required"),
    (kd_objective, (S, T, Y[:3]), {}, ValueError, r"labels must have shape \(4,\)"),
    (kd_objective, (S, T, Y.float()), {}, TypeError, "labels must have an integer dtype"),
    (kd_objective, (S, T, Y + 1), {}, ValueError, r"labels must be in \[0, 3\), got 3 \(at position 2\)"),
    (kd_objective, (S, T, Y - 1), {}, ValueError, r"got -1"),
    (kd_objective, (S, T, Y), {"ce_weight": -1.0}, ValueError, "ce_weight"),
    (kd_objective, (S, T, Y), {"kd_weight": math.inf}, ValueError, "kd_weight"),
    (kd_objective, (S, T, Y), {"temperature": -2.0}, ValueError, "temperature"),
    (kd_objective, (S.view(4, 3, 1, 1), T.view(4, 3, 1, 1), Y), {}, ValueError, r"must be \(N, C\)"),
    (dkd_loss, (S, T, None), {}, ValueError, "labels are required"),
    (dkd_loss, (S, T, Y.double()), {}, TypeError, "integer dtype"),
    (dkd_loss, (S, T, Y + 5), {}, ValueError, "labels must be in"),
    (dkd_loss, (S[:, :1], T[:, :1], Y * 0), {}, ValueError, "at least 2 classes"),
    (dkd_loss, (S, T, Y), {"temperature": 0}, ValueError, "temperature"),
    (dkd_loss, (S, T, Y), {"alpha": -1}, ValueError, "alpha"),
    (dkd_loss, (S, T, Y), {"beta": -1}, ValueError, "beta"),
    (dkd_loss, (S, T, Y), {"reduction": "total"}, ValueError, "reduction"),
    (dist_loss, (S[:1], T[:1]), {}, ValueError, "at least 2 samples"),
    (dist_loss, (S, T), {"temperature": -1}, ValueError, "temperature"),
    (dist_loss, (S, T), {"beta": -1}, ValueError, "beta"),
    (dist_loss, (S, T), {"gamma": -1}, ValueError, "gamma"),
    (dist_loss, (S, T), {"eps": -1e-8}, ValueError, "eps"),
    (dist_loss, (S, T.view(4, 3, 1, 1)), {}, ValueError, "same shape"),
]


@pytest.mark.parametrize(
    ("loss", "args", "kwargs", "error", "message"), BAD, ids=[f"{b[0].__name__}-{i}" for i, b in enumerate(BAD)]
)
def test_bad_input(
    loss: Callable[..., Tensor], args: tuple, kwargs: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loss(*args, **kwargs)


def test_cross_entropy_of_the_objective_is_torchs() -> None:
    s, t, y = pair(7, 4, 5)
    close(kd_objective(s, t, y, ce_weight=1.0, kd_weight=0.0), F.cross_entropy(s, y))
