"""Clusters and covers: by hand, against slow loops and exhaustive search, invariants, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor

from kdcore.functional.clustering import (
    cluster_accuracy,
    coverage_radius,
    k_center_greedy,
    kmeans,
    sinkhorn_knopp,
)

seeds = st.integers(0, 999)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_kmeans_by_hand() -> None:
    x = torch.tensor([[0.0], [1], [10], [11], [100]])
    result = kmeans(x, 3, generator=generator())
    assert sorted(result.centers.flatten().tolist()) == [0.5, 10.5, 100]
    assert result.inertia == pytest.approx(1.0)
    a = result.assignments.tolist()
    assert a[0] == a[1] != a[2] == a[3] != a[4]


@given(seed=seeds, k=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_kmeans_is_a_fixed_point(seed: int, k: int) -> None:
    x = normal(23, 2, seed=seed) + 1000  # far from the origin
    result = kmeans(x, k, generator=generator(seed))
    nearest = [min(range(k), key=lambda j, p=p: float((p - result.centers[j]).square().sum())) for p in x]
    assert result.assignments.tolist() == nearest
    for j in range(k):
        close(result.centers[j], x[result.assignments == j].mean(0), 1e-10)
    close(result.inertia, sum(float((p - result.centers[j]).square().sum()) for p, j in zip(x, nearest, strict=True)))
    again = kmeans(x, k, generator=generator(seed))
    assert torch.equal(again.centers, result.centers) and again.iterations == result.iterations


def test_kmeans_restarts_find_the_optimum_and_k_means_plus_plus_spreads() -> None:
    x = normal(8, 2, seed=3)
    best = min(
        sum(
            float((x[part] - x[part].mean(0)).square().sum())
            for part in (torch.tensor(c, dtype=torch.bool), ~torch.tensor(c, dtype=torch.bool))
        )
        for c in itertools.product([False, True], repeat=8)
        if 0 < sum(c) < 8
    )
    assert kmeans(x, 2, generator=generator(), restarts=20).inertia == pytest.approx(best)
    blobs = torch.cat([normal(5, 2, seed=i) * 0.01 + 10 * i for i in range(6)])
    assert all(kmeans(blobs, 6, generator=generator(s)).inertia < 0.1 for s in range(20))


def test_kmeans_with_duplicates_half_precision_and_k_of_n() -> None:
    same = torch.ones(4, 2)
    result = kmeans(same, 3, generator=generator())
    assert result.inertia == 0 and torch.isfinite(result.centers).all()
    half = kmeans(normal(12, 3).bfloat16(), 3, generator=generator())
    assert half.centers.dtype == torch.bfloat16 and half.assignments.unique().numel() == 3
    assert kmeans(normal(5, 2), 5, generator=generator()).inertia == pytest.approx(0, abs=1e-20)
    assert not kmeans(normal(5, 2).requires_grad_(), 2, generator=generator()).centers.requires_grad


def slow_cover(x: Tensor, centers: Tensor, budget: int, metric: str) -> list[int]:
    def distance(a: Tensor, b: Tensor) -> float:
        if metric == "cosine":
            return float(1 - a @ b / (a.norm() * b.norm()))
        return float((a - b).norm())

    chosen: list[int] = []
    for _ in range(budget):
        known = [*centers, *(x[i] for i in chosen)]
        if not known:
            chosen.append(max(range(len(x)), key=lambda i: float(x[i].norm())))
            continue
        left = [i for i in range(len(x)) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(distance(x[i], c) for c in known)))
    return chosen


@given(seed=seeds, given_centers=st.integers(0, 3), metric=st.sampled_from(["euclidean", "cosine"]))
@settings(max_examples=30, deadline=None)
def test_cover_equals_a_loop(seed: int, given_centers: int, metric: str) -> None:
    x, c = normal(12, 3, seed=seed), normal(given_centers, 3, seed=seed + 1)
    picks = k_center_greedy(x, c, 6, metric=metric)
    assert picks.tolist() == slow_cover(x, c, 6, metric)
    radii = [coverage_radius(x, torch.cat([c, x[picks[: i + 1]]]), metric=metric).item() for i in range(6)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(radii))


@given(seed=seeds)
@settings(max_examples=15, deadline=None)
def test_cover_is_within_twice_the_optimum(seed: int) -> None:
    x = normal(9, 2, seed=seed)
    best = min(coverage_radius(x, x[list(c)]).item() for c in itertools.combinations(range(9), 3))
    picks = k_center_greedy(x, x[:0], 3, first_index=0)
    assert picks[0] == 0 and coverage_radius(x, x[picks]).item() <= 2 * best + 1e-12


def test_cover_ties_duplicates_and_warning() -> None:
    x = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [0, 0]])
    assert k_center_greedy(x, torch.zeros(1, 2), 2).tolist() == [0, 1]  # first among equals
    with pytest.warns(UserWarning, match="4 candidates"):
        assert sorted(k_center_greedy(x.bfloat16(), torch.zeros(1, 2), 9).tolist()) == [0, 1, 2, 3]
    assert coverage_radius(torch.tensor([[0.0, 0], [3, 4]]), torch.zeros(1, 2)).item() == 5
    x = normal(5000, 3)
    close(coverage_radius(x, x[:4000]), torch.cdist(x, x[:4000]).amin(1).max(), 1e-6)


@given(seed=seeds, n=st.integers(1, 9), k=st.integers(1, 5), rounds=st.integers(1, 4))
@settings(deadline=None)
def test_sinkhorn_equals_the_loop(seed: int, n: int, k: int, rounds: int) -> None:
    logits = normal(2, n, k, seed=seed)
    result = sinkhorn_knopp(logits, num_iters=rounds, epsilon=0.5)
    for problem, q_result in zip(logits, result, strict=True):
        q = [[math.exp(float(problem[i, j]) / 0.5) for i in range(n)] for j in range(k)]
        total = sum(map(sum, q))
        q = [[v / total for v in row] for row in q]
        for _ in range(rounds):
            q = [[v / sum(row) / k for v in row] for row in q]
            columns = [sum(row[i] for row in q) for i in range(n)]
            q = [[row[i] / columns[i] / n for i in range(n)] for row in q]
        close(q_result, torch.tensor([[q[j][i] * n for j in range(k)] for i in range(n)], dtype=torch.float64))
    close(result.sum(-1), torch.ones(2, n))


def test_sinkhorn_is_balanced_stable_and_constant() -> None:
    logits = normal(40, 4).requires_grad_()
    q = sinkhorn_knopp(logits, num_iters=200)
    assert not q.requires_grad
    close(q.sum(0), torch.full((4,), 10.0), 1e-3)
    large = sinkhorn_knopp(torch.tensor([[100.0, 0], [90, 0]]))  # exp(2000) has no float
    assert torch.isfinite(large).all() and large.argmax(1).tolist() == [0, 1]
    close(sinkhorn_knopp(logits + 5), sinkhorn_knopp(logits), 1e-9)
    assert sinkhorn_knopp(logits.bfloat16()).dtype == torch.float32


@given(seed=seeds, classes=st.integers(2, 4))
@settings(deadline=None)
def test_cluster_accuracy_equals_all_renamings(seed: int, classes: int) -> None:
    y, p = (torch.randint(classes, (15,), generator=generator(seed + i)) for i in range(2))
    best = max(
        sum(names[int(a)] == int(b) for a, b in zip(p, y, strict=True)) / 15
        for names in itertools.permutations(range(classes))
    )
    assert cluster_accuracy(y, p) == pytest.approx(best)
    assert cluster_accuracy(y, (p + 1) % classes) == pytest.approx(best)
    agnostic = cluster_accuracy(y, p, num_known=1, protocol="task_agnostic")
    assert isinstance(agnostic, dict) and agnostic["all"] == pytest.approx(best)
    known = int((y == 0).sum())
    parts = [v * n for v, n in ((agnostic["known"], known), (agnostic["novel"], 15 - known)) if n]
    assert sum(parts) / 15 == pytest.approx(best)


def test_cluster_accuracy_by_hand() -> None:
    y, p = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([1, 0, 0, 3, 3, 2])
    assert cluster_accuracy(y, p, num_known=2, protocol="task_aware") == {
        "known": pytest.approx(1 / 3),
        "novel": pytest.approx(1.0),
    }
    assert cluster_accuracy(y, p, num_known=2, protocol="task_agnostic") == {
        "all": pytest.approx(5 / 6),
        "known": pytest.approx(2 / 3),
        "novel": pytest.approx(1.0),
    }
    only_known = cluster_accuracy(y[:3], p[:3], num_known=2, protocol="task_aware")
    assert isinstance(only_known, dict) and math.isnan(only_known["novel"])


def test_refusals() -> None:
    x, nan = normal(4, 2), torch.full((2, 2), math.nan)
    labels = torch.tensor([0, 1])
    for call, error, message in (
        (lambda: kmeans(x, 5), ValueError, r"num_clusters must be in \[1, 4\]"),
        (lambda: kmeans(x[0], 1), ValueError, r"points must be floating \(N, D\)"),
        (lambda: kmeans(nan, 1), ValueError, "points must be finite"),
        (lambda: kmeans(x, 2, restarts=0), ValueError, "restarts"),
        (lambda: kmeans(x, 2, max_iterations=0), ValueError, "max_iterations"),
        (lambda: k_center_greedy(x, x, 0), ValueError, "budget must be at least 1"),
        (lambda: k_center_greedy(x, x[:, :1], 1), ValueError, "same width"),
        (lambda: k_center_greedy(x, x, 1, metric="l2"), ValueError, "metric must be one of"),
        (lambda: k_center_greedy(x, x, 1, first_index=4), ValueError, r"first_index must be in \[0, 4\)"),
        (lambda: k_center_greedy(nan, x, 1), ValueError, "candidates must be finite"),
        (lambda: coverage_radius(x, x[:0]), ValueError, "N >= 1"),
        (lambda: sinkhorn_knopp(x, epsilon=0), ValueError, "epsilon"),
        (lambda: sinkhorn_knopp(x, num_iters=0), ValueError, "num_iters"),
        (lambda: sinkhorn_knopp(x[0]), ValueError, r"\(\.\.\., N, K\)"),
        (lambda: cluster_accuracy(labels, labels[:1]), ValueError, "both alike"),
        (lambda: cluster_accuracy(labels[:0], labels[:0]), ValueError, "N >= 1"),
        (lambda: cluster_accuracy(labels - 1, labels), ValueError, "labels must be >= 0"),
        (lambda: cluster_accuracy(labels.float(), labels), TypeError, "labels must be integers"),
        (lambda: cluster_accuracy(labels, labels, protocol="task_aware"), ValueError, "num_known"),
        (lambda: cluster_accuracy(labels, labels, protocol="v2"), ValueError, "protocol"),
    ):
        with pytest.raises(error, match=message):
            call()
