"""Ranking metrics of retrieval (MRR, nDCG, recall) under two tie rules; ROC AUC and average precision of scores.

What a metric says depends on how equal scores are ranked. ``"half"`` puts a tied irrelevant document half a rank above
(between the two orders, so that a constant scorer gains nothing); ``"stable"`` ranks by (-score, index), as a stable
sort does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .checks import check_choice, describe, names_arguments

TIES = ("half", "stable")


@names_arguments
def relevance_matrix(relevance: Tensor | Mapping[int, Iterable[int]], num_queries: int, num_documents: int) -> Tensor:
    """``(Q, D)`` bool from a list of relevant documents.

    Args:
        relevance: ``(Q,)`` int64, one relevant document per query, or query -> documents; a query that is missing has
            none.
        num_queries, num_documents: Q, D.

    Raises:
        ValueError: shape. IndexError: a query or document that does not exist.
    """
    matrix = torch.zeros(num_queries, num_documents, dtype=torch.bool)
    if isinstance(relevance, Tensor):
        if relevance.shape != (num_queries,) or relevance.is_floating_point():
            raise ValueError(f"relevance must be int64 ({num_queries},), got {describe(relevance)}.")
        pairs = torch.stack([torch.arange(num_queries), relevance.cpu().long()])
    else:
        listed = [(q, d) for q, documents in relevance.items() for d in documents]
        pairs = torch.tensor(listed, dtype=torch.int64).reshape(-1, 2).T
    for name, index, size in (("query", pairs[0], num_queries), ("document", pairs[1], num_documents)):
        if bool(((index < 0) | (index >= size)).any()):
            raise IndexError(
                f"relevance must name a {name} in [0, {size}), got {int(index.min())} .. {int(index.max())}."
            )
    matrix[pairs[0], pairs[1]] = True
    return matrix


@names_arguments
def relevant_ranks(scores: Tensor, relevance: Tensor, *, ties: str = "half") -> Tensor:
    """Rank of every relevant document, 1 the best; infinite for the others.

    Args:
        scores: ``(Q, D)`` finite. relevance: ``(Q, D)``, above 0 where relevant.
        ties: ``"half"``: a relevant document is preceded by those with a higher score, by half of the irrelevant ones
            with an equal score, and by equal relevant ones of lower index; ``"stable"``: by all equal ones of lower
            index.

    Returns:
        ``(Q, D)`` float64.

    Raises:
        ValueError: shapes, scores that are not finite, unknown rule.
    """
    check_choice("ties", ties, TIES)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or not scores.is_floating_point() or not scores.numel():
        raise ValueError(f"scores must be floating (Q, D), got {describe(scores)}.")
    if relevance.shape != scores.shape:
        raise ValueError(f"relevance must be {tuple(scores.shape)} like scores, got {describe(relevance)}.")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores must be finite, got NaN or infinite values.")
    relevant, s = relevance > 0, scores.detach().double()
    if ties == "stable":
        order = s.argsort(dim=1, descending=True, stable=True)
        ranks = _positions(order)
    else:
        own = _positions(s.masked_fill(~relevant, -math.inf).argsort(dim=1, descending=True, stable=True))
        others = s.masked_fill(relevant, -math.inf).sort(dim=1).values
        at_most = torch.searchsorted(others, s.contiguous(), right=True).double()
        below = torch.searchsorted(others, s.contiguous(), right=False).double()
        ranks = own + (s.shape[1] - at_most) + 0.5 * (at_most - below)
    return ranks.masked_fill(~relevant, math.inf)


def _positions(order: Tensor) -> Tensor:
    """The inverse of a sort: 1, 2, ... for every entry, float64."""
    counting = torch.arange(1, order.shape[1] + 1, dtype=torch.float64, device=order.device).expand(order.shape)
    return torch.empty_like(counting.contiguous()).scatter(1, order, counting)


@names_arguments
def retrieval_metrics(
    scores: Tensor, relevance: Tensor, *, k: int = 10, ties: str = "half", per_query: bool = False
) -> dict[str, float] | dict[str, Tensor]:
    """MRR, nDCG and recall at ``k`` with binary relevance, over the queries that have a relevant document.

    With r the ranks of a query's relevant documents: MRR is ``1 / min r`` if that is at most k, else 0; DCG is the sum
    of ``1 / log2(r + 1)`` over r <= k, divided by that of ``min(k, number of relevant)`` first ranks; recall is the
    share of relevant documents with r <= k.

    Args:
        scores: ``(Q, D)`` finite, higher is better.
        relevance: ``(Q, D)``, above 0 where relevant.
        k: cut-off, >= 1; default 10.
        ties: ``"half"`` or ``"stable"`` (:func:`relevant_ranks`).
        per_query: ``(Q,)`` float64 tensors instead of means, NaN for a query without a relevant document.

    Returns:
        ``mrr@k``, ``ndcg@k``, ``recall@k``.

    Raises:
        ValueError: shapes, scores not finite, ``k`` below 1, unknown rule, or no query with a relevant document.

    Reference:
        Järvelin and Kekäläinen 2002, ACM TOIS 20(4) (nDCG); Voorhees 1999, TREC-8 (MRR).
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k!r}.")
    ranks = relevant_ranks(scores, relevance, ties=ties)
    count = torch.isfinite(ranks).sum(1)
    if not bool(count.any()):
        raise ValueError("relevance must hold a relevant document for at least one query, got none.")
    found = ranks <= k
    first = ranks.amin(1)
    gains = torch.where(found, 1 / torch.log2(ranks + 1), 0.0).sum(1)
    places = torch.arange(1, k + 1, dtype=torch.float64, device=ranks.device)
    ideal = (1 / torch.log2(places + 1)).cumsum(0)[count.clamp(1, k) - 1]
    values = {
        f"mrr@{k}": torch.where(first <= k, 1 / first, 0.0),
        f"ndcg@{k}": gains / ideal,
        f"recall@{k}": found.sum(1) / count.clamp_min(1).double(),
    }
    if per_query:
        return {name: v.masked_fill(count == 0, math.nan) for name, v in values.items()}
    return {name: float(v[count > 0].mean()) for name, v in values.items()}


def _binary(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if scores.ndim != 1 or not scores.is_floating_point() or labels.shape != scores.shape:
        raise ValueError(
            f"scores must be floating (N,) and labels (N,), got {describe(scores)} and {describe(labels)}."
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores must be finite, got NaN or infinite values.")
    return scores.detach().double(), labels > 0


@names_arguments
def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """Chance that a positive has a higher score than a negative, ties counting half.

    Args:
        scores: ``(N,)`` finite. labels: ``(N,)``, above 0 for positives.

    Raises:
        ValueError: shapes, scores not finite, or only one kind of sample.

    Reference:
        Hanley and McNeil 1982, Radiology 143.
    """
    s, positive = _binary(scores, labels)
    positives, negatives = s[positive], s[~positive].sort().values
    if not len(positives) or not len(negatives):
        raise ValueError(f"labels must hold both kinds, got {len(positives)} positives and {len(negatives)} negatives.")
    below = torch.searchsorted(negatives, positives, right=False)
    at_most = torch.searchsorted(negatives, positives, right=True)
    return float((below + at_most).double().mean() / (2 * len(negatives)))


@names_arguments
def average_precision(scores: Tensor, labels: Tensor) -> float:
    """``sum_n (R_n - R_{n-1}) P_n`` over the distinct thresholds; equal scores enter together.

    Args:
        scores: ``(N,)`` finite. labels: ``(N,)``, above 0 for positives.

    Raises:
        ValueError: shapes, scores not finite, or no positive.

    Reference:
        The definition of ``sklearn.metrics.average_precision_score``.
    """
    s, positive = _binary(scores, labels)
    if not bool(positive.any()):
        raise ValueError("labels must hold at least one positive, got none.")
    ordered, order = s.sort(descending=True)
    hits = positive[order].double().cumsum(0)
    last = torch.ones_like(positive)
    last[:-1] = ordered[1:] != ordered[:-1]
    hits, seen = hits[last], torch.arange(1, len(s) + 1, dtype=torch.float64, device=s.device)[last]
    return float((torch.diff(hits, prepend=hits.new_zeros(1)) * hits / seen).sum() / hits[-1])


__all__ = [
    "TIES",
    "average_precision",
    "relevance_matrix",
    "relevant_ranks",
    "retrieval_metrics",
    "roc_auc",
]
