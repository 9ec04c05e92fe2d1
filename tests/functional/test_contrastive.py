"""Contrastive losses: by hand, against loops over rows, gradients, half precision, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor

from kdcore.functional.contrastive import (
    info_nce,
    nt_xent,
    supervised_nt_xent,
    symmetric_contrastive_loss,
    symmetric_info_nce,
)

cases = given(n=st.integers(2, 6), d=st.integers(1, 4), seed=st.integers(0, 999), t=st.floats(0.1, 3))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@cases
@settings(deadline=None)
def test_info_nce_equals_a_loop(n: int, d: int, seed: int, t: float) -> None:
    q, k = normal(n, d, seed=seed), normal(n + 2, d, seed=seed + 1)
    for targets in (None, torch.arange(n) + 1):
        expected = []
        for i in range(n):
            scores = [math.exp(cosine(q[i], key) / t) for key in k]
            expected.append(-math.log(scores[i if targets is None else i + 1] / sum(scores)))
        close(info_nce(q, k, temperature=t, targets=targets, reduction="none"), torch.tensor(expected).double(), 1e-6)
    soft = normal(n, n + 2, seed=seed + 2).softmax(1)
    logits = F.normalize(q) @ F.normalize(k).T / t
    close(info_nce(q, k, temperature=t, targets=soft), F.cross_entropy(logits, soft))


@cases
@settings(deadline=None)
def test_symmetric_info_nce(n: int, d: int, seed: int, t: float) -> None:
    x, y = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    both = (info_nce(x, y, temperature=t) + info_nce(y, x, temperature=t)) / 2
    close(symmetric_info_nce(x, y, temperature=t), both)
    close(symmetric_info_nce(x, y, temperature=t, targets=torch.eye(n, dtype=torch.float64)), both)
    same = torch.ones(n, n, dtype=torch.bool)
    logits = F.normalize(x) @ F.normalize(y).T / t
    close(
        symmetric_info_nce(x, y, temperature=t, targets=same),
        -(logits.log_softmax(1).mean() + logits.log_softmax(0).mean()) / 2,
    )


@cases
@settings(deadline=None)
def test_nt_xent_equals_a_loop(n: int, d: int, seed: int, t: float) -> None:
    x, y = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    rows = [*x, *y]
    expected = []
    for i, row in enumerate(rows):
        others = {j: math.exp(cosine(row, r) / t) for j, r in enumerate(rows) if j != i}
        expected.append(-math.log(others[(i + n) % (2 * n)] / sum(others.values())))
    close(nt_xent(x, y, temperature=t, reduction="none"), torch.tensor(expected, dtype=torch.float64))
    close(nt_xent(x, y, temperature=t), nt_xent(y, x, temperature=t))
    close(nt_xent(3 * x, y, temperature=t), nt_xent(x, y, temperature=t))


@cases
@settings(deadline=None)
def test_symmetric_contrastive_equals_a_loop(n: int, d: int, seed: int, t: float) -> None:
    x, y = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    for j, value in enumerate(symmetric_contrastive_loss(x, y, temperature=t, reduction="none")):
        positive = cosine(x[j], y[j]) / t
        to_y = math.log(sum(math.exp(cosine(x[i], y[j]) / t) for i in range(n) if i != j))
        to_x = math.log(sum(math.exp(cosine(x[j], y[i]) / t) for i in range(n) if i != j))
        close(value, to_y + to_x - 2 * positive, 1e-9, floor=1e-9)


@given(seed=st.integers(0, 999), variant=st.sampled_from(["new", "replay"]), t=st.floats(0.1, 2))
@settings(deadline=None)
def test_supervised_equals_a_loop(seed: int, variant: str, t: float) -> None:
    s, y, eps = normal(8, 8, seed=seed), [0.0, 1.0, 0.0, 0.5], 1e-8
    total, labels = 0.0, y + y
    for i in range(8):
        top = float(s[i].max())
        e = [0.0 if variant == "new" and i == j else math.exp((float(s[i, j]) - top) / t) for j in range(8)]
        a = [-math.log(v / (sum(e) + eps) + eps) for v in e]
        same = [j for j in range(8) if labels[j] == labels[i]]
        mean = sum(a[j] for j in same) / (len(same) + eps)
        total += 2 * mean + a[(i + 4) % 8] if variant == "new" else mean
    close(supervised_nt_xent(s, torch.tensor(y), temperature=t, variant=variant), total / 8)


def test_by_hand() -> None:
    x = torch.tensor([[1.0, 0], [0, 2]])
    assert info_nce(x, x, temperature=1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert nt_xent(x, x, temperature=1.0).item() == pytest.approx(math.log(math.e + 2) - 1)
    assert symmetric_contrastive_loss(x, x).item() == pytest.approx(-2)


def test_gradients_and_half_precision() -> None:
    x, y = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    s = normal(6, 6).requires_grad_()
    labels = torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(lambda a, b: info_nce(a, b, temperature=0.5), (x, y))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.5), (x, y))
    assert torch.autograd.gradcheck(symmetric_contrastive_loss, (x, y))
    for variant in ("new", "replay"):  # the maximum that is taken off drops out of value and gradient, up to eps
        assert torch.autograd.gradcheck(
            lambda a, v=variant: supervised_nt_xent(a, labels, temperature=1.0, variant=v), (s,)
        )
    half = x.detach().bfloat16(), y.detach().bfloat16()
    for loss in (info_nce(*half, temperature=0.1), nt_xent(*half), symmetric_contrastive_loss(*half)):
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(nt_xent(x, y, temperature=1e-3))
    assert torch.isfinite(supervised_nt_xent(s.detach().bfloat16() * 100, labels))


def test_refusals() -> None:
    x, labels = normal(3, 2), torch.arange(3)
    for call, message in (
        (lambda: info_nce(x, x, temperature=0), "temperature"),
        (lambda: info_nce(x, x[:, :1], temperature=1), "same width"),
        (lambda: info_nce(x, x[:2], temperature=1), "targets are needed"),
        (lambda: info_nce(x, x, temperature=1, targets=labels + 1), r"labels must be in \[0, 3\)"),
        (lambda: info_nce(x, x, temperature=1, targets=x), r"floating \(3, 3\)"),
        (lambda: info_nce(x[0], x, temperature=1), r"query must be floating \(N, D\)"),
        (lambda: symmetric_info_nce(x, x, temperature=1, targets=torch.zeros(3, 3)), "every row and column"),
        (lambda: symmetric_info_nce(x, x, temperature=1, targets=x), r"\(3, 3\)"),
        (lambda: nt_xent(x[:1], x[:1]), "at least 2"),
        (lambda: nt_xent(x, x[:2]), "same shape"),
        (lambda: nt_xent(x, x, reduction="max"), "reduction"),
        (lambda: symmetric_contrastive_loss(x[:1], x[:1]), "at least 2"),
        (lambda: supervised_nt_xent(x, labels), r"\(2B, 2B\)"),
        (lambda: supervised_nt_xent(normal(6, 6), labels, variant="old"), "variant"),
        (lambda: supervised_nt_xent(normal(6, 6), labels, temperature=-1), "temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
