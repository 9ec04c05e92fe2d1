"""k-means, greedy k-centre cover, balanced assignments (Sinkhorn-Knopp), accuracy of clusters under the best renaming.

Nothing here is differentiable: clusters, picks and assignments are constants for whoever uses them. Everything random
comes from the generator that is given.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .agreement import best_matching, confusion_counts
from .checks import check_choice, check_positive, describe, names_arguments
from .reductions import at_least_float32


class KMeans(NamedTuple):
    """A clustering.

    Attributes:
        centers: ``(K, D)``. assignments: ``(N,)`` int64. inertia: sum of squared distances to the own centre.
        iterations: how many were done.
    """

    centers: Tensor
    assignments: Tensor
    inertia: float
    iterations: int


def _points(name: str, points: Tensor, *, least: int = 1) -> Tensor:
    if not isinstance(points, Tensor) or points.ndim != 2 or not points.is_floating_point() or len(points) < least:
        raise ValueError(f"{name} must be floating (N, D) with N >= {least}, got {describe(points)}.")
    if not bool(torch.isfinite(points).all()):
        raise ValueError(f"{name} must be finite, got {describe(points)} with NaN or infinite values.")
    return at_least_float32(points.detach())


def _squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    """``(N, K)`` without an ``(N, K, D)`` tensor; round-off below 0 is cut."""
    lengths = points.square().sum(1)[:, None] + centers.square().sum(1)
    return torch.addmm(lengths, points, centers.T, alpha=-2).clamp_min_(0)


def _draw(weights: Tensor, generator: torch.Generator | None) -> int:
    """An index with probability in proportion to ``weights`` (float64; ``torch.multinomial`` ends at 2^24 entries)."""
    device = generator.device if generator is not None else torch.device("cpu")
    steps = weights.double().cumsum(0)
    share = torch.rand((), generator=generator, device=device, dtype=torch.float64).to(steps.device)
    return min(int(torch.searchsorted(steps, share * steps[-1], right=True)), len(weights) - 1)


def _seeds(points: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """k-means++: each next seed with probability in proportion to its squared distance from those before."""
    picks = [_draw(torch.ones(len(points), device=points.device), generator)]
    nearest = (points - points[picks[0]]).square().sum(1)
    for _ in range(k - 1):
        # all points equal to a seed: any of them will do
        picks.append(_draw(nearest if bool(nearest.any()) else torch.ones_like(nearest), generator))
        nearest = torch.minimum(nearest, (points - points[picks[-1]]).square().sum(1))
    return points[picks]


@names_arguments
def kmeans(
    points: Tensor,
    num_clusters: int,
    *,
    generator: torch.Generator | None = None,
    max_iterations: int = 100,
    restarts: int = 1,
) -> KMeans:
    """Lloyd's k-means from k-means++ seeds, until no assignment changes.

    A cluster that loses its last point is put on the point that is farthest from its own centre.

    Args:
        points: ``(N, D)``, finite.
        num_clusters: K in [1, N].
        generator: source of the seeds; ``None`` takes torch's global one.
        max_iterations: at most so many rounds; default 100.
        restarts: the best of so many clusterings by inertia; default 1.

    Raises:
        ValueError: shape, non-finite points, K out of range, fewer than one iteration or restart.

    Reference:
        Lloyd 1982; seeds: "k-means++: The Advantages of Careful Seeding" (Arthur and Vassilvitskii, 2007).
    """
    x = _points("points", points)
    if not 1 <= num_clusters <= len(x):
        raise ValueError(f"num_clusters must be in [1, {len(x)}] (the number of points), got {num_clusters!r}.")
    check_positive("max_iterations", max_iterations)
    check_positive("restarts", restarts)
    shift = x.mean(0)  # distances by scalar products lose digits far from the origin
    x = x - shift
    best = min((_lloyd(x, num_clusters, generator, max_iterations) for _ in range(restarts)), key=lambda r: r.inertia)
    return best._replace(centers=(best.centers + shift).to(points.dtype))


def _lloyd(x: Tensor, k: int, generator: torch.Generator | None, max_iterations: int) -> KMeans:
    centers = _seeds(x, k, generator)
    distances, assignments = _squared_distances(x, centers).min(1)
    iterations = 0
    for iterations in range(1, max_iterations + 1):  # noqa: B007 (the last value is reported)
        counts = torch.bincount(assignments, minlength=k)
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            assignments[distances.argsort(descending=True)[: len(empty)]] = empty
            counts = torch.bincount(assignments, minlength=k)
        sums = torch.zeros_like(centers).index_add_(0, assignments, x)
        # a refilled cluster may have taken the last point of another one, which then keeps its centre
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centers)
        distances, new = _squared_distances(x, centers).min(1)
        if torch.equal(new, assignments):
            break
        assignments = new
    inertia = float((x - centers[assignments]).square().sum())
    return KMeans(centers, assignments, inertia, iterations)


def _cover_inputs(
    points: Tensor, centers: Tensor, metric: str, names: tuple[str, str], *, least: int
) -> tuple[Tensor, Tensor]:
    check_choice("metric", metric, ("euclidean", "cosine"))
    x, c = _points(names[0], points), _points(names[1], centers, least=least)
    if x.shape[1] != c.shape[1]:
        raise ValueError(f"{names[0]} and {names[1]} must have the same width, got {describe(x)} and {describe(c)}.")
    c = c.to(x)
    return (F.normalize(x, dim=1), F.normalize(c, dim=1)) if metric == "cosine" else (x, c)


def _distance_to(x: Tensor, center: Tensor, metric: str) -> Tensor:
    return 1 - x @ center if metric == "cosine" else torch.linalg.vector_norm(x - center, dim=1)


def _nearest(x: Tensor, centers: Tensor, metric: str) -> Tensor:
    """Distance of each point from its nearest centre, a block of points at a time; infinite without centres."""
    if not len(centers):
        return torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
    rows = max(1, (1 << 24) // len(centers))

    def block(part: Tensor) -> Tensor:
        if metric == "cosine":
            return 1 - (part @ centers.T).amax(1)
        return torch.cdist(part, centers, compute_mode="donot_use_mm_for_euclid_dist").amin(1)

    return torch.cat([block(part) for part in x.split(rows)])


@names_arguments
def k_center_greedy(
    candidates: Tensor,
    centers: Tensor,
    budget: int,
    *,
    metric: str = "euclidean",
    first_index: int | None = None,
) -> Tensor:
    """Pick, one after the other, the candidate that is farthest from everything picked or given so far.

    The largest distance of a candidate from its nearest centre is at most twice the smallest possible one. The distance
    to the nearest centre is kept, so that a pick costs one pass over the candidates.

    Args:
        candidates: ``(N, D)``, finite.
        centers: ``(M, D)`` points that are covered from the start; M may be 0.
        budget: how many to pick, >= 1; more than N returns all N, with a ``UserWarning``.
        metric: ``"euclidean"``, or ``"cosine"`` for ``1 - cos``.
        first_index: the first pick, whatever the centres are; ``None`` with M = 0 takes the candidate of largest norm.

    Returns:
        ``(min(budget, N),)`` int64 in the order of picking; among equals the first candidate.

    Raises:
        ValueError: shapes, widths that differ, non-finite values, metric, ``budget`` below 1, ``first_index`` outside.

    Reference:
        Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; "Active Learning for Convolutional
        Neural Networks: A Core-Set Approach" (Sener and Savarese, 2018), arXiv:1708.00489, algorithm 1.
    """
    x, c = _cover_inputs(candidates, centers, metric, ("candidates", "centers"), least=0)
    if budget < 1:
        raise ValueError(f"budget must be at least 1, got {budget!r}.")
    if first_index is not None and not 0 <= first_index < len(x):
        raise ValueError(f"first_index must be in [0, {len(x)}), got {first_index!r}.")
    if budget > len(x):
        warnings.warn(f"budget is {budget}, but there are {len(x)} candidates: all are taken.", stacklevel=2)
    nearest = _nearest(x, c, metric)
    if first_index is None and not len(c):
        first_index = int(torch.linalg.vector_norm(at_least_float32(candidates.detach()), dim=1).argmax())
    picks: list[int] = []
    for _ in range(min(budget, len(x))):
        pick = first_index if first_index is not None and not picks else int(nearest.argmax())
        picks.append(pick)
        nearest = torch.minimum(nearest, _distance_to(x, x[pick], metric))
        nearest[picks[-1]] = -math.inf  # never twice, even among duplicates at distance 0
    return torch.tensor(picks, dtype=torch.int64, device=candidates.device)


@names_arguments
def coverage_radius(points: Tensor, centers: Tensor, *, metric: str = "euclidean") -> Tensor:
    """``max_x min_c d(x, c)``: distance of the worst covered point from its nearest centre..

    Args:
        points: ``(N, D)``. centers: ``(M, D)``, M >= 1. metric: ``"euclidean"`` or ``"cosine"``.

    Raises:
        ValueError: shapes, widths that differ, non-finite values, metric.
    """
    x, c = _cover_inputs(points, centers, metric, ("points", "centers"), least=1)
    return _nearest(x, c, metric).max()


@names_arguments
def sinkhorn_knopp(logits: Tensor, *, num_iters: int = 3, epsilon: float = 0.05) -> Tensor:
    """Soft assignments that use all clusters alike: ``exp(logits / epsilon)`` with rows and columns scaled in turn.

    Computed with logarithms, so that no scale overflows and no cluster underflows to 0 / 0.

    Args:
        logits: ``(..., N, K)`` scores of N samples for K clusters; every leading index is a problem of its own.
        num_iters: rounds; default 3 (official code of SwAV, UNO and Cr-KD).
        epsilon: smoothness; small is harder. Default 0.05 (same).

    Returns:
        ``(..., N, K)``, at least float32, without gradient; each row sums to 1, each column to about N / K.

    Raises:
        ValueError: shape, ``epsilon`` or ``num_iters`` out of range.

    Reference:
        Cuturi 2013, arXiv:1306.0895; "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
        (Caron et al., 2020), arXiv:2006.09882, section 3.1.
    """
    check_positive("epsilon", epsilon)
    if num_iters < 1:
        raise ValueError(f"num_iters must be at least 1, got {num_iters!r}.")
    if not isinstance(logits, Tensor) or logits.ndim < 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating (..., N, K), got {describe(logits)}.")
    log_q = at_least_float32(logits.detach()) / epsilon
    for _ in range(num_iters):
        log_q = log_q - log_q.logsumexp(-2, keepdim=True)  # constant factors 1/K and 1/N drop out of the rows' sums
        log_q = log_q - log_q.logsumexp(-1, keepdim=True)
    return log_q.exp()


@names_arguments
def cluster_accuracy(
    labels: Tensor, predictions: Tensor, *, num_known: int | None = None, protocol: str = "all"
) -> float | dict[str, float]:
    """Accuracy of clusters after the one-to-one renaming that serves them best (Hungarian matching).

    Args:
        labels: ``(N,)`` classes >= 0.
        predictions: ``(N,)`` clusters >= 0.
        num_known: K; classes below it are known, the others novel. Needed by the last two protocols.
        protocol: ``"all"``: one matching, one number. ``"task_agnostic"``: the same matching, read on all samples, on
            those of known and on those of novel classes. ``"task_aware"``: known samples count where the prediction
            *is* the label, novel ones after a matching of their own.

    Returns:
        A number in [0, 1], or a dict with ``"all"`` (task-agnostic only), ``"known"`` and ``"novel"``; NaN for a group
        without samples.

    Raises:
        ValueError: shapes, no sample, negative values, protocol, ``num_known`` missing or below 0.
        TypeError: not integers.

    Reference:
        "A Unified Objective for Novel Class Discovery" (Fini et al., 2021), arXiv:2108.08536; protocols: "Generalized
        Category Discovery" (Vaze et al., 2022), arXiv:2201.02609 (v1 and v2 of its released code).
    """
    check_choice("protocol", protocol, ("all", "task_agnostic", "task_aware"))
    for name, x in (("labels", labels), ("predictions", predictions)):
        if x.is_floating_point() or x.dtype == torch.bool:
            raise TypeError(f"{name} must be integers, got {describe(x)}.")
        if x.ndim != 1 or not len(x) or len(x) != len(labels):
            raise ValueError(f"{name} must be (N,) with N >= 1, both alike, got {describe(x)} ({describe(labels)}).")
        if int(x.min()) < 0:
            raise ValueError(f"{name} must be >= 0, got {int(x.min())}.")
    labels, predictions = labels.cpu(), predictions.cpu()
    if protocol == "all":
        hits, counts = _matched(labels, predictions)
        return float(hits.sum().double() / counts.sum())
    if num_known is None or num_known < 0:
        raise ValueError(f"num_known must be a number of classes >= 0 for {protocol!r}, got {num_known!r}.")
    if protocol == "task_agnostic":
        hits, counts = _matched(labels, predictions)
        k = min(num_known, len(hits))
        groups = {"all": slice(None), "known": slice(k), "novel": slice(k, None)}
        return {name: float(hits[part].sum().double() / counts[part].sum()) for name, part in groups.items()}
    novel = labels >= num_known
    known_hits = (labels == predictions)[~novel].double()
    result = {"known": float(known_hits.mean()), "novel": math.nan}
    if bool(novel.any()):
        hits, counts = _matched(labels[novel], predictions[novel])
        result["novel"] = float(hits.sum().double() / counts.sum())
    return result


def _matched(labels: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor]:
    """Per class: samples whose cluster got the name of their class, and samples at all."""
    classes = int(torch.maximum(labels.max(), predictions.max())) + 1
    table = confusion_counts(predictions, labels, classes)
    return table.gather(1, best_matching(table)[:, None]).squeeze(1), table.sum(1)


__all__ = ["KMeans", "cluster_accuracy", "coverage_radius", "k_center_greedy", "kmeans", "sinkhorn_knopp"]
