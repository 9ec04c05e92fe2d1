"""Graph operators against dense matrices, sampled pairs against enumeration, block models, and what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import close
from torch import Tensor

from kdcore.functional.graphs import (
    frequency_components,
    gcn_norm,
    negative_edges,
    propagate,
    sbm_graph,
)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def graph(seed: int, n: int = 8) -> Tensor:
    return sbm_graph([n // 2, n - n // 2], 0.6, 0.2, generator=gen(seed))[0]


def dense(edges: Tensor, n: int) -> Tensor:
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for a, b in edges.T.tolist():
        matrix[b, a] = 1
    return matrix


@given(seed=st.integers(0, 99), loops=st.booleans())
@settings(deadline=None)
def test_normalisation_equals_the_dense_matrix(seed: int, loops: bool) -> None:
    edges, n = graph(seed), 8
    adjacency = dense(edges, n) + (torch.eye(n, dtype=torch.float64) if loops else 0)
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, degree.clamp_min(1e-9).rsqrt(), 0.0)
    expected = scale[:, None] * adjacency * scale
    x = torch.randn(n, 3, generator=gen(seed), dtype=torch.float64)
    given_edges = torch.cat([edges, torch.tensor([[2], [2]])], dim=1) if loops else edges  # a loop that is there
    new, weights = gcn_norm(given_edges, n, add_self_loops=loops, dtype=torch.float64)
    close(propagate(x, new, weights), expected @ x, 1e-10)
    low, high = frequency_components(x, edges)
    close(low + high, x)
    if loops:
        close(low, expected @ x, 1e-10)


def test_by_hand_and_direction() -> None:
    edges, weights = gcn_norm(torch.tensor([[0, 1], [1, 0]]), 3)
    assert edges.tolist() == [[0, 1, 0, 1, 2], [1, 0, 0, 1, 2]]
    assert weights.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5, 1])
    x = torch.tensor([[1.0], [10], [100]])
    assert propagate(x, torch.tensor([[0, 2], [1, 1]]), torch.tensor([1.0, 2])).flatten().tolist() == [0, 201, 0]
    assert gcn_norm(torch.empty(2, 0, dtype=torch.int64), 2)[1].tolist() == [1, 1]
    constant = torch.ones(8, 1)
    edges = torch.tensor(list(itertools.permutations(range(8), 2))).T  # regular: a constant has no high frequency
    close(frequency_components(constant, edges)[1], torch.zeros(8, 1), floor=1e-6)


def test_gradient_and_half_precision() -> None:
    edges, weights = gcn_norm(graph(1), 8, dtype=torch.float64)
    x = torch.randn(8, 2, generator=gen(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, w: propagate(a, edges, w), (x, weights.requires_grad_()))
    assert propagate(x.bfloat16(), edges, weights).dtype == torch.bfloat16


@given(seed=st.integers(0, 99), share=st.floats(0, 1))
@settings(deadline=None)
def test_negative_edges_are_unlinked_and_distinct(seed: int, share: float) -> None:
    edges = graph(seed)
    linked = {tuple(sorted(e)) for e in edges.T.tolist()}
    free = {p for p in itertools.combinations(range(8), 2) if p not in linked}
    count = round(share * len(free))
    drawn = [tuple(e) for e in negative_edges(edges[:, ::2], 8, count, generator=gen(seed)).T.tolist()]
    seen_half = {tuple(sorted(e)) for e in edges[:, ::2].T.tolist()}
    assert len(set(drawn)) == count and not set(drawn) & seen_half and all(a < b for a, b in drawn)
    everything = negative_edges(edges, 8, len(free), generator=gen(seed)).T.tolist()
    assert {tuple(e) for e in everything} == free
    again = negative_edges(edges, 8, count, generator=gen(seed))
    assert torch.equal(again, negative_edges(edges, 8, count, generator=gen(seed)))


def test_negative_edges_are_uniform_and_work_on_large_graphs() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(600):
        pair = tuple(negative_edges(torch.tensor([[0], [1]]), 4, 1, generator=gen(seed)).flatten().tolist())
        counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 5 and all(80 < c < 165 for c in counts.values())
    n = 100_000
    edges = torch.randint(n, (2, 50_000), generator=gen())
    drawn = negative_edges(edges, n, 50_000, generator=gen(1))
    codes = drawn[0] * n + drawn[1]
    assert len(codes.unique()) == 50_000 and (drawn[0] < drawn[1]).all() and drawn.max() < n
    assert not torch.isin(codes, edges.amin(0) * n + edges.amax(0)).any()


def test_block_model() -> None:
    edges, labels = sbm_graph([100, 60], 0.3, 0.02, generator=gen())
    assert labels.bincount().tolist() == [100, 60] and (edges[0] != edges[1]).all()
    matrix = dense(edges, 160)
    assert torch.equal(matrix, matrix.T) and matrix.sum() == edges.shape[1]
    same = labels[:, None] == labels
    assert abs(float(matrix[same].sum()) / (100 * 99 + 60 * 59) - 0.3) < 0.02
    assert abs(float(matrix[~same].mean()) - 0.02) < 0.006
    assert sbm_graph([3], 1.0, 0.0)[0].shape == (2, 6) and sbm_graph([1, 1], 1.0, 0.0)[0].shape == (2, 0)
    assert torch.equal(
        sbm_graph([5, 5], 0.5, 0.5, generator=gen(3))[0], sbm_graph([5, 5], 0.5, 0.5, generator=gen(3))[0]
    )


def test_refusals() -> None:
    edges, x = torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 1)
    for call, error, message in (
        (lambda: gcn_norm(edges.int(), 2), ValueError, r"int64 \(2, E\)"),
        (lambda: gcn_norm(edges.T[:1], 2), ValueError, r"int64 \(2, E\)"),
        (lambda: gcn_norm(edges, 1), IndexError, r"\[0, 1\), got 0 .. 1"),
        (lambda: gcn_norm(edges - 1, 2), IndexError, "-1"),
        (lambda: propagate(x, edges, torch.ones(3)), ValueError, r"weights must be \(2,\)"),
        (lambda: propagate(x[:, 0], edges, torch.ones(2)), ValueError, r"signal must be floating \(N, C\)"),
        (lambda: frequency_components(x, edges, num_nodes=3), ValueError, "num_nodes must be the 2 rows"),
        (lambda: negative_edges(edges, 3, 3), ValueError, r"count must be in \[0, 2\]"),
        (lambda: sbm_graph([], 0.1, 0.1), ValueError, "at least one block"),
        (lambda: sbm_graph([3, 0], 0.1, 0.1), ValueError, "at least one node"),
        (lambda: sbm_graph([3], 1.1, 0.1), ValueError, "p_in"),
    ):
        with pytest.raises(error, match=message):
            call()
