"""Ranking metrics by hand, against loops and scikit-learn, both tie rules, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from torch import Tensor

from kdcore.functional.retrieval import (
    average_precision,
    relevance_matrix,
    relevant_ranks,
    retrieval_metrics,
    roc_auc,
)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_ties(seed: int, q: int = 4, d: int = 7) -> tuple[Tensor, Tensor]:
    scores = torch.randint(4, (q, d), generator=gen(seed)).float()
    relevance = torch.rand(q, d, generator=gen(seed + 1)) < 0.35
    relevance[:, seed % d] = True
    return scores, relevance


def slow_ranks(scores: list[float], relevant: list[bool], ties: str) -> list[float]:
    ranks = []
    for i, (s, r) in enumerate(zip(scores, relevant, strict=True)):
        rank = 1.0
        for j, (other, also) in enumerate(zip(scores, relevant, strict=True)):
            equal_before = other == s and j < i
            if other > s:
                rank += 1
            elif ties == "stable":
                rank += equal_before
            elif other == s and j != i:
                rank += equal_before if also else 0.5
        ranks.append(rank if r else math.inf)
    return ranks


@given(seed=st.integers(0, 999), ties=st.sampled_from(["half", "stable"]), k=st.integers(1, 9))
@settings(deadline=None)
def test_metrics_equal_loops(seed: int, ties: str, k: int) -> None:
    scores, relevance = with_ties(seed)
    ranks = [slow_ranks(s, r, ties) for s, r in zip(scores.tolist(), relevance.tolist(), strict=True)]
    assert relevant_ranks(scores, relevance, ties=ties).tolist() == ranks
    mrr, ndcg, recall = [], [], []
    for row in ranks:
        mine = [r for r in row if math.isfinite(r)]
        mrr.append(1 / min(mine) if min(mine) <= k else 0.0)
        ideal = sum(1 / math.log2(r + 1) for r in range(1, min(k, len(mine)) + 1))
        ndcg.append(sum(1 / math.log2(r + 1) for r in mine if r <= k) / ideal)
        recall.append(sum(r <= k for r in mine) / len(mine))
    per_query = retrieval_metrics(scores, relevance, k=k, ties=ties, per_query=True)
    means = retrieval_metrics(scores, relevance, k=k, ties=ties)
    for name, expected in ((f"mrr@{k}", mrr), (f"ndcg@{k}", ndcg), (f"recall@{k}", recall)):
        assert per_query[name].tolist() == pytest.approx(expected)
        assert means[name] == pytest.approx(sum(expected) / 4)


@given(seed=st.integers(0, 99))
@settings(deadline=None)
def test_without_ties_both_rules_and_scikit_learn_agree(seed: int) -> None:
    scores = torch.rand(3, 12, generator=gen(seed), dtype=torch.float64)
    relevance = with_ties(seed, 3, 12)[1]
    half, stable = (retrieval_metrics(scores, relevance, k=5, ties=t) for t in ("half", "stable"))
    assert half == stable
    assert half["ndcg@5"] == pytest.approx(ndcg_score(relevance.numpy().astype(float), scores.numpy(), k=5))


def test_by_hand() -> None:
    scores, relevance = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0, 1, 0]])
    assert retrieval_metrics(scores, relevance)["mrr@10"] == pytest.approx(1 / 1.5)
    assert retrieval_metrics(scores, relevance, ties="stable")["mrr@10"] == 0.5
    flipped = torch.tensor([[1, 0, 0]])
    assert retrieval_metrics(scores, flipped, ties="stable")["mrr@10"] == 1
    assert retrieval_metrics(scores, relevance, k=1)["recall@1"] == 0


def test_queries_without_relevant_documents_are_left_out() -> None:
    scores, relevance = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1, 0], [0, 0]])
    assert retrieval_metrics(scores, relevance) == {"mrr@10": 1.0, "ndcg@10": 1.0, "recall@10": 1.0}
    per_query = retrieval_metrics(scores.bfloat16(), relevance, per_query=True)
    assert per_query["ndcg@10"][0] == 1 and per_query["ndcg@10"][1].isnan()


def test_relevance_matrix() -> None:
    assert relevance_matrix(torch.tensor([2, 0]), 2, 3).tolist() == [[False, False, True], [True, False, False]]
    assert relevance_matrix({1: {0, 2}}, 2, 3).tolist() == [[False] * 3, [True, False, True]]
    assert not relevance_matrix({}, 2, 3).any()


@given(seed=st.integers(0, 999), n=st.integers(2, 30))
@settings(deadline=None)
def test_auc_and_average_precision_equal_scikit_learn(seed: int, n: int) -> None:
    scores = torch.randint(6, (n,), generator=gen(seed)).double()
    labels = torch.randint(2, (n,), generator=gen(seed + 1))
    labels[0], labels[1] = 0, 1
    y, s = labels.numpy(), np.asarray(scores)
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(y, s))
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(y, s))
    assert roc_auc(-scores, labels) == pytest.approx(1 - roc_auc(scores, labels))


def test_refusals() -> None:
    scores, relevance = torch.ones(2, 3), torch.ones(2, 3)
    line = torch.tensor([0.1, 0.2])
    for call, error, message in (
        (lambda: retrieval_metrics(scores, relevance[:1]), ValueError, "like scores"),
        (lambda: retrieval_metrics(scores[0], relevance[0]), ValueError, r"\(Q, D\)"),
        (lambda: retrieval_metrics(scores * math.nan, relevance), ValueError, "finite"),
        (lambda: retrieval_metrics(scores, relevance, k=0), ValueError, "k must be"),
        (lambda: retrieval_metrics(scores, relevance, ties="first"), ValueError, "ties must be one of"),
        (lambda: retrieval_metrics(scores, 0 * relevance), ValueError, "at least one query"),
        (lambda: relevance_matrix(torch.tensor([3, 0]), 2, 3), IndexError, r"document in \[0, 3\)"),
        (lambda: relevance_matrix({2: [0]}, 2, 3), IndexError, r"query in \[0, 2\)"),
        (lambda: relevance_matrix(torch.tensor([0]), 2, 3), ValueError, r"int64 \(2,\)"),
        (lambda: roc_auc(line, torch.tensor([1, 1])), ValueError, "both kinds"),
        (lambda: roc_auc(line, torch.tensor([1])), ValueError, r"labels \(N,\)"),
        (lambda: roc_auc(line / 0, torch.tensor([0, 1])), ValueError, "finite"),
        (lambda: average_precision(line, torch.tensor([0, 0])), ValueError, "at least one positive"),
    ):
        with pytest.raises(error, match=message):
            call()
