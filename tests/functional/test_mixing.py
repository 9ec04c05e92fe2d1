"""Mixing against loops, Beta draws against SciPy's distribution, boxes, image statistics, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.golden import close
from torch import Tensor

from kdcore.functional.mixing import (
    beta_draws,
    cutmix,
    cutmix_box,
    kept_share,
    mix_distribution,
    mix_pairs,
    mixup_cross_entropy,
    mixup_pairs,
    one_hot_targets,
    permutation,
)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


@pytest.mark.parametrize(("a", "b"), [(1.0, None), (0.1, None), (0.4, 0.4), (0.8, None), (2.5, 0.7), (30.0, 5.0)])
def test_beta_draws_follow_the_distribution(a: float, b: float | None) -> None:
    draws = beta_draws(20000, a, b, generator=gen(3), dtype=torch.float64)
    at = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)  # not at 1: near it, floats are coarse and draws tie
    share = (draws[:, None] <= at).double().mean(0)
    expected = torch.from_numpy(stats.beta(a, a if b is None else b).cdf(at.numpy()))
    assert float((share - expected).abs().max()) < 1.95 / math.sqrt(20000)  # Kolmogorov's bound at 0.1 %
    assert draws.min() >= 0 and draws.max() <= 1


def test_beta_draws_depend_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = beta_draws(7, 0.3, generator=gen(5))
    torch.manual_seed(2)
    assert torch.equal(beta_draws(7, 0.3, generator=gen(5)), first)
    assert not torch.equal(beta_draws(7, 0.3, generator=gen(6)), first)
    torch.manual_seed(2)
    mine = beta_draws(3, 1.0)
    torch.manual_seed(2)
    assert torch.equal(beta_draws(3, 1.0), mine)
    tiny = beta_draws(1000, 1e-3, generator=gen())
    assert torch.isfinite(tiny).all() and ((tiny < 1e-6) | (tiny > 1 - 1e-6)).float().mean() > 0.95
    assert beta_draws(0, 1.0).shape == (0,) and beta_draws(4, 1.0, dtype=torch.bfloat16).dtype == torch.bfloat16


@given(seed=st.integers(0, 99), rank=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_pairs_equal_a_loop(seed: int, rank: int) -> None:
    x, y = normal(5, *[2] * (rank - 1), seed=seed), torch.tensor([0, 2, 1, 1, 0])
    i, j, lam = permutation(5, generator=gen(seed)), permutation(5, generator=gen(seed + 1)), normal(5).sigmoid()
    mixed, targets = mixup_pairs(x, y, perm1=i, perm2=j, lam=lam, num_classes=3)
    for n in range(5):
        close(mixed[n], lam[n] * x[i[n]] + (1 - lam[n]) * x[j[n]])
        row = [0.0] * 3
        row[int(y[i[n]])] += float(lam[n])
        row[int(y[j[n]])] += 1 - float(lam[n])
        close(targets[n], torch.tensor(row, dtype=torch.float64))
    close(targets.sum(1), torch.ones(5))
    assert torch.equal(mix_pairs(x, i, j, 1.0), x[i]) and torch.equal(mix_pairs(x, i, j, torch.zeros(5)), x[j])


def test_pairs_are_differentiable_and_keep_the_precision() -> None:
    x, i, j = normal(3, 2).requires_grad_(), torch.tensor([2, 0]), torch.tensor([1, 1])
    assert torch.autograd.gradcheck(lambda a: mix_pairs(a, i, j, torch.tensor([0.25, 0.5])), (x,))
    i, j = torch.tensor([2, 0, 1]), torch.tensor([1, 1, 0])
    half, target = mixup_pairs(x.detach().bfloat16(), torch.tensor([0, 1, 0]), perm1=i, perm2=j, lam=0.5, num_classes=2)
    assert half.dtype == torch.bfloat16 and target.dtype == torch.float32  # labels keep a sum of 1
    soft = torch.tensor([[0.25, 0.75]])
    assert one_hot_targets(soft, 2) is soft


def test_cross_entropy_of_pairs() -> None:
    z, a, b, lam = normal(4, 3).requires_grad_(), torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2]), 0.3
    soft = (1 - lam) * F.one_hot(a, 3) + lam * F.one_hot(b, 3)
    close(mixup_cross_entropy(z, a, b, lam), F.cross_entropy(z, soft.double()))
    per_sample = mixup_cross_entropy(z, a, b, torch.tensor([0.0, 1, 0.5, 1]), reduction="none")
    close(per_sample[0], F.cross_entropy(z[:1], a[:1]))
    close(per_sample[3], F.cross_entropy(z[3:], b[3:]))
    assert torch.autograd.gradcheck(lambda x: mixup_cross_entropy(x, a, b, lam), (z,))
    assert mixup_cross_entropy(z.bfloat16(), a, b, lam).dtype == torch.float32


@given(h=st.integers(1, 20), w=st.integers(1, 20), lam=st.floats(0, 1), seed=st.integers(0, 99))
def test_boxes(h: int, w: int, lam: float, seed: int) -> None:
    box = cutmix_box(h, w, lam, generator=gen(seed))
    top, left, bottom, right = box
    assert 0 <= top <= bottom <= h and 0 <= left <= right <= w
    assert kept_share(box, h, w) >= lam - 1e-9
    images = torch.arange(2 * h * w).view(2, 1, h, w).float()
    mixed = cutmix(images, torch.tensor([1, 0]), box)
    changed = (mixed != images)[0, 0]
    assert int(changed.sum()) == (bottom - top) * (right - left)
    assert kept_share(box, h, w) == pytest.approx(1 - float(changed.double().mean()))
    assert torch.equal(mixed[0][:, changed], images[1][:, changed])


def test_box_sizes_by_hand() -> None:
    boxes = [cutmix_box(100, 50, 0.75, generator=gen(s)) for s in range(200)]
    assert max(b - t for t, _, b, _ in boxes) == 50 and max(r - left for _, left, _, r in boxes) == 24
    assert cutmix_box(8, 8, 0.0) == (0, 0, 8, 8)
    assert kept_share(cutmix_box(8, 8, 1.0, generator=gen()), 8, 8) == 1
    assert kept_share((0, 0, 2, 4), 4, 4) == 0.5


def test_mix_distribution_equals_a_loop() -> None:
    x, lam, pi = normal(4, 2, 3, 3), torch.tensor([0.2, 0.9, 0.0, 1.0], dtype=torch.float64), torch.tensor([1, 3, 0, 2])
    mixed = mix_distribution(x, mixing=lam, permutation=pi, eps=1e-3)
    for n in range(4):
        for c in range(2):
            mine, other = x[n, c], x[pi[n], c]
            spread = [math.sqrt(float(v.var()) + 1e-3) for v in (mine, other)]
            new = lam[n] * spread[0] + (1 - lam[n]) * spread[1]
            mean = lam[n] * mine.mean() + (1 - lam[n]) * other.mean()
            close(mixed[n, c], (mine - mine.mean()) / spread[0] * new + mean)
    close(mixed[3], x[3])
    close(mix_distribution(x[:1], generator=gen()), x[:1])  # alone, an image is its own partner


def test_mix_distribution_draws() -> None:
    x = normal(7, 1, 2, 2)
    assert torch.equal(mix_distribution(x, generator=gen(1)), mix_distribution(x, generator=gen(1)))
    assert mix_distribution(x, p=0.0, generator=gen()) is x
    images = (
        torch.cat([torch.zeros(3, 1, 2, 2), torch.ones(4, 1, 2, 2)]) + torch.rand(7, 1, 2, 2, generator=gen()) * 0.1
    )
    crossed = mix_distribution(images, mode="crossdomain", mixing=torch.zeros(7), generator=gen())
    assert (crossed[:3] > 0.5).all() and (crossed[4:] < 0.5).all()  # of an odd batch, one stays in its half
    assert mix_distribution(x.bfloat16(), generator=gen()).dtype == torch.bfloat16
    shares = sum(mix_distribution(x, p=0.3, generator=gen(s)) is not x for s in range(300)) / 300
    assert 0.2 < shares < 0.4
    leaf = x.clone().requires_grad_()
    mixed = mix_distribution(leaf, mixing=torch.full((7,), 0.5), permutation=torch.arange(7).flip(0))
    (gradient,) = torch.autograd.grad(mixed.sum(), leaf)  # statistics are constants: a plain rescaling
    spread = (x.var((2, 3), keepdim=True) + 1e-6).sqrt()
    close(gradient, ((spread + spread.flip(0)) / (2 * spread)).expand_as(x), 1e-6)


def test_refusals() -> None:
    x, i = normal(3, 2), torch.arange(3)
    images = normal(3, 1, 2, 2)
    for call, message in (
        (lambda: beta_draws(3, 0.0), "alpha"),
        (lambda: beta_draws(3, 1.0, -1.0), "beta"),
        (lambda: beta_draws(-1, 1.0), "n must be"),
        (lambda: one_hot_targets(torch.tensor([3]), 3), r"labels must be in \[0, 3\)"),
        (lambda: one_hot_targets(x, 3), r"floating \(N, 3\)"),
        (lambda: mix_pairs(x, i, i[:2], 0.5), r"both be \(M,\)"),
        (lambda: mix_pairs(x, i + 1, i, 0.5), r"first must hold rows in \[0, 3\)"),
        (lambda: mix_pairs(x, i, i, 1.5), r"lam must be in \[0, 1\]"),
        (lambda: mix_pairs(x, i, i, torch.ones(2)), r"lam must be one number or \(3,\)"),
        (lambda: mix_pairs(x.long(), i, i, 0.5), "floating"),
        (lambda: mixup_pairs(x, i[:2], perm1=i, perm2=i, lam=0.5, num_classes=3), "3 samples"),
        (lambda: mixup_pairs(x, i, perm1=i[:2], perm2=i[:2], lam=0.5, num_classes=3), r"perm1 must be \(3,\)"),
        (lambda: mixup_pairs(x, x, perm1=i, perm2=i, lam=0.5, num_classes=2), "labels must be probabilities"),
        (lambda: mixup_cross_entropy(x, i, i, 0.5), r"labels must be in \[0, 2\)"),
        (lambda: mixup_cross_entropy(x, i % 2, i % 2, 2.0), "lam"),
        (lambda: mixup_cross_entropy(x[0], i % 2, i % 2, 0.5), r"\(N, C\)"),
        (lambda: mixup_cross_entropy(x, i % 2, i % 2, torch.ones(2)), "lam must be one number"),
        (lambda: cutmix_box(0, 3, 0.5), "at least 1"),
        (lambda: cutmix_box(3, 3, 1.5), "lam"),
        (lambda: cutmix(images, i, (0, 0, 3, 1)), "box must lie inside"),
        (lambda: cutmix(images, i[:2], (0, 0, 1, 1)), r"partners \(N,\)"),
        (lambda: mix_distribution(x), r"\(N, C, H, W\)"),
        (lambda: mix_distribution(images, mode="other"), "mode"),
        (lambda: mix_distribution(images, alpha=0), "alpha"),
        (lambda: mix_distribution(images, mixing=torch.ones(2)), r"must be \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
