"""Interpolation of two heads against loops, the search's order, the loss's gradients, zero-shot weights, refusals."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor, nn

from kdcore.functional.dual_heads import (
    dho_loss,
    dual_head_probabilities,
    search_interpolation,
    zero_shot_logits,
    zero_shot_weights,
)
from kdcore.models.dual_head import DualHeadStudent


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(v) for v in row]
    return [w / sum(weights) for w in weights]


def test_probabilities_by_hand() -> None:
    ce, kd = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 2 * math.log(4)]])
    assert dual_head_probabilities(ce, kd, alpha=0.25, beta=2).tolist()[0] == pytest.approx(
        [0.25 * 0.75 + 0.75 * 0.2, 0.25 * 0.25 + 0.75 * 0.8]
    )


@given(seed=st.integers(0, 99), alpha=st.floats(0, 1), beta=st.floats(0.2, 5))
def test_probabilities_equal_a_loop(seed: int, alpha: float, beta: float) -> None:
    ce, kd = normal(4, 3, seed=seed), normal(4, 3, seed=seed + 1)
    p = dual_head_probabilities(ce, kd, alpha=alpha, beta=beta)
    for row, a, b in zip(p, ce.tolist(), kd.tolist(), strict=True):
        mixed = zip(softmax(a), softmax([v / beta for v in b]), strict=True)
        close(row, torch.tensor([alpha * x + (1 - alpha) * y for x, y in mixed], dtype=torch.float64))
    close(p.sum(1), torch.ones(4))


def test_probabilities_gradient_and_half_precision() -> None:
    ce, kd = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: dual_head_probabilities(a, b, alpha=0.3, beta=1.7), (ce, kd))
    assert dual_head_probabilities(ce.bfloat16(), kd.bfloat16()).dtype == torch.float32


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_search_equals_nested_loops(seed: int) -> None:
    ce, kd = normal(15, 4, seed=seed), normal(15, 4, seed=seed + 1)
    y = torch.randint(4, (15,), generator=torch.Generator().manual_seed(seed))
    best = (-1.0, 0.0, 0.0)
    alphas, betas = [0.0, 0.3, 0.7, 1.0], [0.5, 1.0, 3.0]
    for beta in betas:
        for alpha in alphas:
            p = dual_head_probabilities(ce, kd, alpha=alpha, beta=beta)
            accuracy = (p.argmax(1) == y).double().mean().item()
            if accuracy > best[0]:
                best = (accuracy, alpha, beta)
    result = search_interpolation(ce, kd, y, alphas=alphas, betas=betas)
    assert result[:3] == best and result.grid.shape == (3, 4) and result.grid.max() == best[0]


def test_search_defaults_and_first_of_equals() -> None:
    z, y = torch.eye(3).bfloat16(), torch.arange(3)
    result = search_interpolation(z, z, y)
    assert result.grid.shape == (7, 21) and result[:3] == (1.0, 0.0, 0.5)


def test_loss_is_the_sum_of_its_parts_and_keeps_heads_apart() -> None:
    ce, kd_l, kd_u = (normal(n, 3, seed=i).requires_grad_() for i, n in enumerate((4, 4, 6)))
    t_l, t_u = normal(4, 3, seed=5).requires_grad_(), normal(6, 3, seed=6).requires_grad_()
    y = torch.tensor([0, 2, 1, 1])
    parts = dho_loss(ce, kd_l, kd_u, t_l, t_u, y, temperature=3.0, ce_weight=0.25, kd_weight=2.0)

    def kd(s: Tensor, t: Tensor) -> float:
        total = 0.0
        for a, b in zip(s.tolist(), t.tolist(), strict=True):
            p, q = softmax([v / 3 for v in b]), softmax([v / 3 for v in a])
            total += 9 * sum(x * math.log(x / w) for x, w in zip(p, q, strict=True))
        return total / len(s)

    close(parts["kd_labeled"], kd(kd_l, t_l))
    close(parts["kd_unlabeled"], kd(kd_u, t_u))
    close(parts["ce"], -sum(math.log(softmax(r)[int(c)]) for r, c in zip(ce.tolist(), y, strict=True)) / 4)
    close(parts["loss"], 0.25 * parts["ce"] + 2 * (parts["kd_labeled"] + parts["kd_unlabeled"]))
    assert torch.autograd.grad(parts["ce"], [kd_l, kd_u], allow_unused=True, retain_graph=True) == (None, None)
    assert torch.autograd.grad(parts["loss"], [t_l, t_u], allow_unused=True, retain_graph=True) == (None, None)
    assert torch.autograd.gradcheck(lambda a, b, c: dho_loss(a, b, c, t_l, t_u, y)["loss"], (ce, kd_l, kd_u))
    alone = dho_loss(ce, kd_l, None, t_l, None, y)
    assert alone["kd_unlabeled"].item() == 0
    close(alone["loss"], 0.5 * alone["ce"] + 0.5 * alone["kd_labeled"])


def test_zero_shot() -> None:
    text = torch.tensor([[[3.0, 0], [0, 1]], [[-2, 0], [-2, 0]]])
    close(zero_shot_weights(text), torch.tensor([[0.5**0.5, -1], [0.5**0.5, 0]]), 1e-6)
    close(zero_shot_weights(text, normalize_first=False), torch.tensor([[3 / 10**0.5, -1], [1 / 10**0.5, 0]]), 1e-6)
    logits = zero_shot_logits(torch.tensor([[5.0, 0]]), zero_shot_weights(text), logit_scale=10)
    close(logits, torch.tensor([[10 * 0.5**0.5, -10]]), 1e-6)
    assert zero_shot_weights(text.bfloat16()).dtype == torch.float32


def test_student() -> None:
    torch.manual_seed(0)
    net = DualHeadStudent(nn.Linear(5, 4), 4, 3, kd_normalize=True, kd_scale=100.0)
    assert set(net.state_dict()) == {f"{m}.{p}" for m in ("backbone", "ce_head", "kd_head") for p in ("weight", "bias")}
    x = torch.randn(6, 5)
    ce, kd, features = net(x, return_features=True)
    close(features, net.backbone(x))
    close(ce, features @ net.ce_head.weight.T + net.ce_head.bias, 1e-5)
    unit = features / features.norm(dim=1, keepdim=True)
    close(kd, 100 * (unit @ net.kd_head.weight.T + net.kd_head.bias), 1e-5)
    weights = torch.randn(3, 4)
    net.initialize_heads(weights)
    for head in (net.ce_head, net.kd_head):
        assert torch.equal(head.weight, weights) and not head.bias.any() and head.weight.requires_grad
    plain = DualHeadStudent(nn.Identity(), 4, 3)
    assert len(plain(torch.randn(2, 4))) == 2
    with pytest.raises(ValueError, match=r"text_weights must be \(3, 4\)"):
        net.initialize_heads(weights.T)
    with pytest.raises(ValueError, match=r"backbone must give \(N, 4\)"):
        plain(torch.randn(2, 5))
    with pytest.raises(ValueError, match="kd_scale"):
        DualHeadStudent(nn.Identity(), 4, 3, kd_scale=0)


def test_refusals() -> None:
    z, y = normal(4, 3), torch.tensor([0, 1, 2, 0])
    for call, message in (
        (lambda: dual_head_probabilities(z, z[:, :2]), "both heads alike"),
        (lambda: dual_head_probabilities(z, z, alpha=1.1), "alpha"),
        (lambda: dual_head_probabilities(z, z, beta=0), "beta"),
        (lambda: search_interpolation(z, z, y + 1), r"labels must be in \[0, 3\)"),
        (lambda: search_interpolation(z[:0], z[:0], y[:0]), "at least one sample"),
        (lambda: search_interpolation(z, z, y, alphas=[]), "not be empty"),
        (lambda: search_interpolation(z, z, y, betas=[-1]), "betas"),
        (lambda: dho_loss(z, z, None, z, None, y, ce_weight=0, kd_weight=0), "both be zero"),
        (lambda: dho_loss(z, z, None, z, None, y, temperature=0), "temperature"),
        (lambda: dho_loss(z, z, z, z, None, y), "both be given"),
        (lambda: dho_loss(z, z, z[:, :2], z, z[:, :2], y), "must have 3 classes"),
        (lambda: dho_loss(z, z, None, z[:, :2], None, y), "same classes"),
        (lambda: dho_loss(z, z[:2], None, z[:2], None, y), "both heads alike"),
        (lambda: zero_shot_weights(z), r"\(C, P, D\)"),
        (lambda: zero_shot_logits(z, z), r"text_weights \(D, C\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="labels"):
        search_interpolation(z, z, F.one_hot(y).float())
