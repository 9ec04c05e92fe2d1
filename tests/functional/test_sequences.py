"""Token divergences against loops and their limits, sequences of tokens, gradients, excluded entries, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close, grad_of
from torch import Tensor

from kdcore.functional.sequences import (
    DIVERGENCES,
    sequence_logps,
    shift,
    token_divergence,
    token_mask,
    token_mean,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 1.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(v - max(row)) for v in row]
    return [w / sum(weights) for w in weights]


def slow(kind: str, s: list[float], t: list[float], w: float, threshold: float) -> float:
    p, q = softmax(t), softmax(s)
    pairs = list(zip(p, q, strict=True))
    fkl, rkl = -sum(a * math.log(b) for a, b in pairs), sum(b * math.log(b / a) for a, b in pairs)
    if kind == "adaptive_kl":
        order, head, tail, total = sorted(range(len(p)), key=lambda i: p[i]), 0.0, 0.0, 0.0
        for i in order:
            total += p[i]
            if total >= threshold:
                head += abs(p[i] - q[i])
            else:
                tail += abs(p[i] - q[i])
        share = head / (head + tail)
        return share * fkl + (1 - share) * rkl
    js = 0.0
    for a, b in pairs:
        m = w * a + (1 - w) * b
        js += w * a * math.log(a / m) + (1 - w) * b * math.log(b / m)
    return {
        "fkl": fkl,
        "rkl": rkl,
        "tvd": 0.5 * sum(abs(a - b) for a, b in pairs),
        "js": js,
        "skew_fkl": -sum(a * math.log(w * a + (1 - w) * b) for a, b in pairs),
        "skew_rkl": sum(b * math.log(b / ((1 - w) * a + w * b)) for a, b in pairs),
    }[kind]


@given(
    kind=st.sampled_from(DIVERGENCES),
    seed=st.integers(0, 999),
    w=st.floats(0.01, 0.99),
    temperature=st.floats(0.5, 4),
    threshold=st.floats(0.1, 0.9),
)
@settings(deadline=None)
def test_divergences_equal_a_loop(kind: str, seed: int, w: float, temperature: float, threshold: float) -> None:
    s, t = normal(2, 3, 5, seed=seed), normal(2, 3, 5, seed=seed + 1)
    values = token_divergence(s, t, kind=kind, weight=w, temperature=temperature, head_threshold=threshold)
    assert values.shape == (2, 3)
    for value, a, b in zip(values.flatten(), s.view(-1, 5), t.view(-1, 5), strict=True):
        rows = (a / temperature).tolist(), (b / temperature).tolist()
        close(value, slow(kind, *rows, w, threshold), 1e-9, floor=1e-12)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_divergences_at_a_match_and_gradients(kind: str) -> None:
    s, t = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    if kind != "adaptive_kl":  # its share is 0 / 0 at a match
        assert torch.allclose(token_divergence(t, t, kind=kind, include_entropy=True), torch.zeros(3).double())
    assert torch.autograd.gradcheck(lambda a: token_divergence(a, t, kind=kind, weight=0.3), (s,))
    assert not torch.autograd.grad(token_divergence(s, t, kind=kind).sum(), t, allow_unused=True)[0]
    assert torch.isfinite(token_divergence(t, t, kind=kind)).all()
    assert token_divergence(s.bfloat16(), t.bfloat16(), kind=kind).dtype == torch.float32


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("both", [True, False])
def test_excluded_entries_contribute_nothing(kind: str, both: bool) -> None:
    s, t = normal(3, 4), normal(3, 4, seed=1)
    s[:, 2] = -math.inf
    if both:
        t[:, 2] = -math.inf
    s.requires_grad_()
    values = token_divergence(s, t, kind=kind, weight=0.3)
    gradient = grad_of(values.sum(), s)
    assert torch.isfinite(values).all() and torch.isfinite(gradient).all() and not gradient[:, 2].any()
    if both:
        left = [0, 1, 3]
        close(values, token_divergence(s[:, left], t[:, left], kind=kind, weight=0.3), 1e-9)


def test_entropy_and_limits_of_the_weight() -> None:
    s, t = normal(4, 5).requires_grad_(), normal(4, 5, seed=1)
    entropy = -(t.softmax(1) * t.log_softmax(1)).sum(1)
    for kind in ("fkl", "skew_fkl"):
        ce, kl = (token_divergence(s, t, kind=kind, include_entropy=e) for e in (False, True))
        close(ce - kl, entropy)
        close(grad_of(ce.sum(), s), grad_of(kl.sum(), s))
    close(token_divergence(s, t, kind="skew_fkl", weight=0.0), token_divergence(s, t, kind="fkl"))
    close(token_divergence(s, t, kind="skew_rkl", weight=0.0), token_divergence(s, t, kind="rkl"))
    for weight in (0.0, 1.0):
        close(token_divergence(s, t, kind="js", weight=weight), torch.zeros(4))
    close(token_divergence(s, t, kind="js", weight=0.3), token_divergence(t, s, kind="js", weight=0.7))


def test_the_unaligned_head_is_the_sorted_one() -> None:
    p, q = torch.tensor([0.7, 0.1, 0.2]), torch.tensor([0.3, 0.3, 0.4])
    fkl, rkl = -(p * q.log()).sum(), (q * (q / p).log()).sum()
    for aligned, share in ((True, 0.4 / 0.8), (False, 0.2 / 0.8)):
        value = token_divergence(q.log(), p.log(), kind="adaptive_kl", aligned=aligned)
        close(value, share * fkl + (1 - share) * rkl, 1e-6)


@given(seed=st.integers(0, 99))
@settings(deadline=None)
def test_sequence_logps_equal_a_loop(seed: int) -> None:
    logits = normal(3, 5, 4, seed=seed)
    y = torch.randint(4, (3, 5), generator=torch.Generator().manual_seed(seed))
    y[0, 2] = y[2, 1:] = -100
    expected, lengths = [], []
    for n in range(3):
        terms = [
            math.log(softmax(logits[n, i].tolist())[int(y[n, i + 1])]) for i in range(4) if int(y[n, i + 1]) != -100
        ]
        expected.append(sum(terms))
        lengths.append(max(len(terms), 1))
    close(sequence_logps(logits, y), torch.tensor(expected, dtype=torch.float64))
    close(sequence_logps(logits, y, average=True), torch.tensor(expected).double() / torch.tensor(lengths), 1e-6)


def test_sequences_gradients_shift_and_means() -> None:
    logits, y = normal(2, 3, 4).requires_grad_(), torch.tensor([[0, 1, -100], [3, 2, 1]])
    assert torch.autograd.gradcheck(lambda z: sequence_logps(z, y, average=True), (logits,))
    z, tokens = shift(logits, y)
    assert torch.equal(z, logits[:, :2]) and tokens.tolist() == [[1, -100], [2, 1]]
    values = torch.tensor([[1.0, math.nan], [2.0, 6.0]])
    mask = token_mask(tokens)
    assert token_mean(values, mask).item() == 3 and token_mean(values, mask, reduction="sum").item() == 9
    assert token_mean(values, mask, reduction="none").tolist() == [[1, 0], [2, 6]]
    assert token_mean(values[1:]).item() == 4 and token_mean(values[1:], reduction="sum").item() == 8
    assert sequence_logps(logits.bfloat16(), y).dtype == torch.float32


def test_refusals() -> None:
    s, y = normal(2, 3, 4), torch.tensor([[0, 1, 2], [3, 2, 1]])
    for call, message in (
        (lambda: token_divergence(s, s[..., :3]), "same shape"),
        (lambda: token_divergence(s, s, kind="kl"), "kind must be one of"),
        (lambda: token_divergence(s, s, weight=1.5), "weight"),
        (lambda: token_divergence(s, s, temperature=0), "temperature"),
        (lambda: token_divergence(s, s, head_threshold=-1), "head_threshold"),
        (lambda: shift(s, y[:, :2]), r"labels \(N, L\)"),
        (lambda: shift(s[:, :1], y[:, :1]), "L >= 2"),
        (lambda: sequence_logps(s[0], y), r"\(N, L, V\)"),
        (lambda: sequence_logps(s, y + 2), r"labels must be in \[0, 4\) or -100"),
        (lambda: token_mean(s, y), "mask must have the shape"),
        (lambda: token_mean(s[..., 0], y * 0), "at least one token"),
        (lambda: token_mean(s, reduction="max"), "reduction"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="integers"):
        sequence_logps(s, y.double())
