"""PLD: official values, special cases, closed-form gradient, a slow oracle over choices, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.golden import Case, close, grad_of, parity
from torch import Tensor

from kdcore.method import Signals
from kdcore.methods.pld import (
    CARD,
    PLD,
    WEIGHTS,
    plackett_luce_log_likelihood,
    plackett_luce_sample,
    pld_gradient,
    pld_loss,
    pld_weights,
    teacher_optimal_permutation,
)

shapes = given(n=st.integers(1, 6), c=st.integers(2, 8), seed=st.integers(0, 999), temperature=st.floats(0.3, 8))


def batch(n: int, c: int, seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    s, t = torch.randn(2, n, c, generator=g, dtype=torch.float64) * scale
    return s.clone().requires_grad_(), t.clone(), torch.randint(c, (n,), generator=g)


# Official values ------------------------------------------------------------------------------------------------------


def check_loss(case: Case) -> None:
    s, t, y = case.leaf("student_logits"), case.inputs["teacher_logits"], case.inputs["labels"]
    temperature = case.hp["temperature"]
    loss = pld_loss(s, t, y, temperature=temperature)
    close(loss, case.out["loss"])
    close(pld_loss(s, t, y, temperature=temperature, reduction="none"), case.out["per_sample"])
    assert torch.equal(teacher_optimal_permutation(t, y), case.out["ranking"])
    close(grad_of(loss, s), case.grad["student_logits"])
    close(pld_gradient(s, t, y, temperature=temperature), case.grad["student_logits"])


@parity("pld", {"loss_*": check_loss})
def test_parity(case: Case, check: Callable[[Case], None]) -> None:
    check(case)
    case.assert_all_read()


# A slow oracle: choose, remove, choose again --------------------------------------------------------------------------


def oracle_ranking(t: list[float], y: int) -> list[int]:
    return [y, *sorted((c for c in range(len(t)) if c != y), key=lambda c: (-t[c], c))]


def oracle_alpha(t: list[float], ranking: list[int], kind: str, temperature: float) -> list[float]:
    c = len(t)
    if kind == "teacher":
        e = [math.exp(v / temperature) for v in t]
        return [e[i] / sum(e) for i in ranking]
    raw = {"first": [1] + [0] * (c - 1), "uniform": [1] * c, "position": [2 ** (c - k) - 1 for k in range(1, c + 1)]}[
        kind
    ]
    return [r / sum(raw) for r in raw]


def oracle_loss(s: Tensor, t: Tensor, y: Tensor, kind: str, temperature: float) -> Tensor:
    losses = []
    for a, b, label in zip(s.tolist(), t.tolist(), y.tolist(), strict=True):
        ranking, loss = oracle_ranking(b, label), 0.0
        remaining = set(range(len(a)))
        for weight, chosen in zip(oracle_alpha(b, ranking, kind, temperature), ranking, strict=True):
            loss -= weight * math.log(math.exp(a[chosen]) / sum(math.exp(a[c]) for c in remaining))
            remaining.remove(chosen)
        losses.append(loss)
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("kind", WEIGHTS)
@shapes
def test_loss_equals_the_oracle(kind: str, n: int, c: int, seed: int, temperature: float) -> None:
    s, t, y = batch(n, c, seed)
    expected = oracle_loss(s, t, y, kind, temperature)
    loss = pld_loss(s, t, y, temperature=temperature, weights=kind, reduction="none")
    close(loss, expected, 1e-9, floor=1e-11)
    close(pld_loss(s, t, y, temperature=temperature, weights=kind), expected.mean(), 1e-9, floor=1e-11)
    close(pld_loss(s, t, y, temperature=temperature, weights=kind, reduction="sum"), expected.sum(), 1e-9, floor=1e-11)


def test_by_hand() -> None:
    s = torch.tensor([[math.log(1), math.log(2), math.log(5)]], dtype=torch.float64)
    t = torch.tensor([[math.log(1), math.log(3), math.log(4)]], dtype=torch.float64)
    # label 0: ranking 0, 2, 1; choices 1/8, 5/7, 1; weights 1/8, 4/8, 3/8
    close(pld_loss(s, t, torch.tensor([0])), math.log(8) / 8 + math.log(7 / 5) / 2)
    # label 2: ranking 2, 1, 0; choices 5/8, 2/3, 1; weights 4/8, 3/8, 1/8
    close(pld_loss(s, t, torch.tensor([2])), math.log(8 / 5) / 2 + 3 * math.log(3 / 2) / 8)
    # position weights (2^2 - 1, 2^1 - 1, 0) / 4
    close(pld_loss(s, t, torch.tensor([2]), weights="position"), 3 * math.log(8 / 5) / 4 + math.log(3 / 2) / 4)


# Rankings and weights -------------------------------------------------------------------------------------------------


def test_ties_go_to_the_lower_class() -> None:
    t = torch.zeros(3, 40)
    rankings = teacher_optimal_permutation(t, torch.tensor([0, 7, 39]))
    for label, row in zip((0, 7, 39), rankings.tolist(), strict=True):
        assert row == [label, *(c for c in range(40) if c != label)]


def test_the_temperature_never_changes_the_ranking_or_the_student() -> None:
    s, t, y = batch(5, 6, 0)
    weights = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        pld_loss(s, t, y, temperature=0.5, weights=weights), pld_loss(s, t, y, temperature=7.0, weights=weights)
    )


def test_a_wrong_teacher_gives_the_label_little_weight() -> None:
    t = torch.tensor([[5.0, 0.0, 0.0]])
    weights = pld_weights(t, teacher_optimal_permutation(t, torch.tensor([1])))
    close(weights[0, 0], t.softmax(1)[0, 1], 1e-6)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_named_weights_sum_to_one(kind: str, classes: int) -> None:
    t = torch.randn(3, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = pld_weights(t, teacher_optimal_permutation(t, torch.tensor([0, 1, 1])), kind=kind, temperature=2.0)
    assert weights.shape == t.shape and weights.isfinite().all() and (weights >= 0).all()
    close(weights.sum(1), torch.ones(3), 1e-12)


def test_first_weights_are_cross_entropy() -> None:
    s, t, y = batch(9, 7, 1)
    close(pld_loss(s, t, y, weights="first"), F.cross_entropy(s, y), 1e-14)
    close(grad_of(pld_loss(s, t, y, weights="first"), s), grad_of(F.cross_entropy(s, y), s), 1e-12)


@shapes
def test_tensor_weights_are_used_as_given(n: int, c: int, seed: int, temperature: float) -> None:
    s, t, y = batch(n, c, seed)
    ranking = teacher_optimal_permutation(t, y)
    given = pld_weights(t, ranking, temperature=temperature)
    close(pld_loss(s, t, y, weights=given), pld_loss(s, t, y, temperature=temperature), 1e-12)
    close(
        pld_loss(s, t, y, weights=3 * given[0]),
        -3 * plackett_luce_log_likelihood(s, ranking, weights=given[0], reduction="mean"),
        1e-12,
    )


# Properties -----------------------------------------------------------------------------------------------------------


@shapes
def test_the_closed_form_is_the_gradient(n: int, c: int, seed: int, temperature: float) -> None:
    s, t, y = batch(n, c, seed)
    gradient = pld_gradient(s, t, y, temperature=temperature)
    close(grad_of(pld_loss(s, t, y, temperature=temperature), s), gradient, 1e-10, floor=1e-13)
    close(gradient.sum(1), torch.zeros(n), floor=1e-13)


@shapes
def test_convex_in_the_student(n: int, c: int, seed: int, temperature: float) -> None:
    a, t, y = batch(n, c, seed)
    b, _, _ = batch(n, c, seed + 1)
    at = lambda s: pld_loss(s, t, y, temperature=temperature)  # noqa: E731
    for w in (0.25, 0.5):
        assert at(w * a + (1 - w) * b) <= w * at(a) + (1 - w) * at(b) + 1e-12


def test_gradients_of_gradients() -> None:
    s, t, y = batch(3, 5, 2)
    assert torch.autograd.gradcheck(lambda x: pld_loss(x, t, y, temperature=2.0), (s,))
    assert torch.autograd.gradgradcheck(lambda x: pld_loss(x, t, y, temperature=2.0), (s,))


def test_the_teacher_gets_no_gradient() -> None:
    s, t, y = batch(3, 5, 2)
    t.requires_grad_()
    pld_loss(s, t, y).backward()
    assert t.grad is None and s.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [60.0, 1e2, 1e4])
def test_confident_logits_stay_finite(scale: float, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randint(-1, 2, (2, 6, 50), generator=g) * scale + torch.randn(2, 6, 50, generator=g)).to(dtype)
    y = torch.arange(6)
    s.requires_grad_()
    for kind in WEIGHTS:
        loss = pld_loss(s, t, y, weights=kind)
        assert loss.isfinite() and grad_of(loss, s).isfinite().all()
    exact = s.detach().double().requires_grad_()
    reference = pld_loss(exact, t.double(), y)
    rounding = 4 * scale * torch.finfo(dtype).eps  # logits of this size are known to scale * eps; exp() passes it on
    close(pld_loss(s, t, y), reference, 1e-6)
    close(grad_of(pld_loss(s, t, y), s), grad_of(reference, exact), rounding)
    close(pld_gradient(s, t, y), grad_of(reference, exact), rounding)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    s, t, y = batch(6, 5, 3)
    s, t = s.detach().to(dtype), t.to(dtype)
    loss = pld_loss(s, t, y)
    assert loss.dtype == torch.float32 and torch.equal(loss, pld_loss(s.float(), t.float(), y))


def test_ignored_rows_count_nowhere() -> None:
    s, t, y = batch(6, 5, 4)
    keep = torch.tensor([True, False, True, True, False, True])
    for ignore in (-100, 3, 255):
        labels = y.where(y != ignore, 0)
        masked = labels.where(keep, ignore)
        loss = pld_loss(s, t, masked, ignore_index=ignore)
        close(loss, pld_loss(s[keep], t[keep], labels[keep], ignore_index=-1), 1e-12)
        rows = pld_loss(s, t, masked, ignore_index=ignore, reduction="none")
        assert rows.shape == (6,) and (rows[~keep] == 0).all() and (rows[keep] > 0).all()
        gradient = grad_of(loss, s)
        assert (gradient[~keep] == 0).all() and (gradient[keep] != 0).any(1).all()


# Plackett-Luce --------------------------------------------------------------------------------------------------------


def test_the_likelihood_is_a_distribution_over_rankings() -> None:
    logits = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rankings = torch.tensor(list(permutations(range(4))))
    likelihood = plackett_luce_log_likelihood(logits.expand(24, 4), rankings)
    close(likelihood.exp().sum(), 1.0, 1e-12)
    close(plackett_luce_log_likelihood(logits.expand(24, 4), rankings, reduction="mean"), likelihood.mean(), 1e-12)


def test_samples_follow_the_likelihood() -> None:
    """Frequencies of all 24 rankings of 4 items lie within 4 standard deviations (beyond: about one seed in 660)."""
    logits = torch.tensor([0.0, 0.5, 1.0, -0.7], dtype=torch.float64)
    draws = plackett_luce_sample(logits, 20_000, generator=torch.Generator().manual_seed(0))
    rankings = torch.tensor(list(permutations(range(4))))
    probability = plackett_luce_log_likelihood(logits.expand(24, 4), rankings).exp()
    frequency = (draws[:, None] == rankings).all(2).double().mean(0)
    assert ((frequency - probability).abs() <= 4 * (probability * (1 - probability) / 20_000).sqrt()).all()
    first = torch.bincount(draws[:, 0], minlength=4) / 20_000
    assert ((first - logits.softmax(0)).abs() <= 4 * 0.5 / 20_000**0.5).all()


def test_samples_have_shapes_and_seeds() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    draw = lambda seed: plackett_luce_sample(logits, 7, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    assert draw(0).shape == (3, 7, 5) and plackett_luce_sample(logits[0], 7).shape == (7, 5)
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert torch.equal(draw(0).sort(-1).values, torch.arange(5).expand(3, 7, 5))


# Method ---------------------------------------------------------------------------------------------------------------


def test_terms() -> None:
    s, t, y = batch(6, 5, 0)
    x = Signals(student_logits=s, teacher_logits=t, labels=y)
    assert PLD().settings == {"temperature": 1.0, "weights": "teacher", "ce_weight": 0.0}
    close(PLD(temperature=4, weights="uniform").terms(x)["pld"], pld_loss(s, t, y, temperature=4.0, weights="uniform"))
    close(PLD(temperature=4).terms(x)["pld"], pld_loss(s, t, y, temperature=4.0))
    with pytest.raises(ValueError, match="weights must be one of"):
        PLD(weights="linear")
    assert CARD.objectives == (PLD,)


# Bad input ------------------------------------------------------------------------------------------------------------

S, T, Y = torch.zeros(4, 3), torch.ones(4, 3), torch.tensor([0, 1, 2, 0])
R = torch.arange(3).expand(4, 3)
TWICE = torch.tensor([[0, 1, 2], [0, 1, 1], [2, 1, 0], [0, 1, 2]])
BAD = [
    (pld_loss, (S, T[:, :2], Y), {}, ValueError, "3 classes and the teacher 2"),
    (pld_loss, (S[None], T[None], Y), {}, ValueError, r"must be \(N, C\)"),
    (pld_loss, (S[:, :1], T[:, :1], Y * 0), {}, ValueError, "at least 2 classes"),
    (pld_loss, (S, T, None), {}, ValueError, "labels are required"),
    (pld_loss, (S, T, Y[:2]), {}, ValueError, r"shape \(4,\)"),
    (pld_loss, (S, T, Y + 1), {}, ValueError, "got 3"),
    (pld_loss, (S, T, Y - 1), {}, ValueError, "got -1"),
    (pld_loss, (S, T, Y.float()), {}, TypeError, "integer dtype"),
    (pld_loss, (S, T, Y * 0 - 100), {}, ValueError, "no valid rows"),
    (pld_loss, (S, T, Y), {"temperature": 0.0}, ValueError, "temperature"),
    (pld_loss, (S, T, Y), {"temperature": 0.0, "weights": "first"}, ValueError, "temperature"),
    (pld_loss, (S, T, Y), {"weights": "firts"}, ValueError, "Did you mean 'first'"),
    (pld_loss, (S, T, Y), {"weights": -torch.ones(3)}, ValueError, "finite and >= 0"),
    (pld_loss, (S, T, Y), {"weights": torch.full((4, 3), math.inf)}, ValueError, "finite and >= 0"),
    (pld_loss, (S, T, Y), {"weights": torch.ones(4)}, ValueError, "weights must have shape"),
    (pld_loss, (S, T, Y), {"reduction": "batchmean"}, ValueError, "reduction"),
    (teacher_optimal_permutation, (T, Y + 1), {}, ValueError, "labels must be in"),
    (teacher_optimal_permutation, (T, None), {}, ValueError, "labels are required"),
    (pld_weights, (T, TWICE), {}, ValueError, r"row 1 is \[0, 1, 1\]"),
    (pld_weights, (T, R.float()), {}, TypeError, "ranking must be int64"),
    (pld_weights, (T, R), {"kind": "none"}, ValueError, "must be one of"),
    (pld_weights, (T, R), {"temperature": -1.0}, ValueError, "temperature"),
    (plackett_luce_log_likelihood, (S, TWICE), {}, ValueError, "permutation"),
    (plackett_luce_log_likelihood, (S, R[:2]), {}, ValueError, r"shape \(4, 3\)"),
    (plackett_luce_log_likelihood, (S[0], R[0]), {}, ValueError, r"logits must be \(N, C\)"),
    (plackett_luce_log_likelihood, (S, R), {"weights": torch.ones(2)}, ValueError, "weights must have shape"),
    (plackett_luce_log_likelihood, (S, R), {"reduction": "all"}, ValueError, "reduction"),
    (plackett_luce_sample, (S[None], 3), {}, ValueError, r"\(C,\) or \(N, C\)"),
    (plackett_luce_sample, (S, 0), {}, ValueError, "num_samples"),
    (pld_gradient, (S, T, None), {}, ValueError, "labels are required"),
]


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "error", "message"), BAD, ids=[f"{b[0].__name__}-{i}" for i, b in enumerate(BAD)]
)
def test_bad_input(
    function: Callable[..., Tensor], args: tuple, kwargs: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(*args, **kwargs)
