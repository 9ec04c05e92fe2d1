r"""Other measures of representation similarity: shape (Procrustes), geometry of pairs (RSA), neighbourhoods (k-NN).

Rows of ``x`` ``(N, ...)`` and ``y`` ``(N, ...)`` are the same samples in the same order; widths may differ, everything
behind the first dimension is flattened, and values are computed in float64. CKA lives in :mod:`~kdcore.functional.cka`,
canonical correlations in :mod:`~kdcore.functional.cca`; :func:`similarity_profile` puts all of them side by side.

Reference: Huh et al. 2024, arXiv:2405.07987 (mutual k-NN, CKNNA).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._features import centred_pair, pair_of
from .cca import svcca
from .checks import check_choice, names_arguments
from .cka import cka
from .correlation import pearson_correlation
from .gram import gram_linear

# ---------------------------------------------------------------------------- shape


def _nuclear(x: Tensor, y: Tensor) -> Tensor:
    """Nuclear norm of ``A^T B`` for centred A, B of Frobenius norm 1; never larger than N x N."""
    a, b = centred_pair(x, y, min_samples=2)
    a, b = (z / z.norm() for z in (a, b))
    a, b = (torch.linalg.qr(z.T).R.T if z.shape[1] > len(z) else z for z in (a, b))
    return torch.linalg.svdvals(a.T @ b).sum()


@names_arguments
def procrustes_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance that remains after the best rotation: ``2 - 2 |A^T B|_*`` for centred A, B of Frobenius norm 1.

    Args:
        x, y: ``(N, ...)``; widths may differ.

    Returns:
        Scalar, float64, in [0, 2]; 0 for equal shapes.

    Raises:
        ValueError: different N, N < 2, constant or non-finite features.

    Reference:
        Schönemann 1966; Ding, Denain, Steinhardt 2021, arXiv:2108.01661.
    """
    return 2 - 2 * _nuclear(x, y)


@names_arguments
def procrustes_disparity(x: Tensor, y: Tensor) -> Tensor:
    """``1 - |A^T B|_*^2``, the disparity of ``scipy.spatial.procrustes``: rotation and scale are fitted.

    Args:
        x, y: as in :func:`procrustes_distance`, whose errors are raised.

    Returns:
        Scalar, float64, in [0, 1].
    """
    return 1 - _nuclear(x, y).square()


# ---------------------------------------------------------------------------- geometry of pairs


def _dissimilarities(x: Tensor, kind: str, name: str) -> Tensor:
    """Condensed upper triangle of pairwise dissimilarities: ``(N (N-1) / 2,)``."""
    if kind == "euclidean":
        return F.pdist(x)
    if kind == "correlation":
        centred = x - x.mean(1, keepdim=True)
        flat = centred.abs().amax(1) <= 16 * torch.finfo(x.dtype).eps * x.abs().amax(1)
        x = centred
    else:
        flat = x.abs().amax(1) == 0
    if bool(flat.any()):
        what = "constant" if kind == "correlation" else "zero"
        raise ValueError(
            f"{name}: sample {int(flat.nonzero()[0])} has {what} features, so its {kind} dissimilarity is "
            "undefined. Use dissimilarity='euclidean'."
        )
    x = x / x.norm(dim=1, keepdim=True)
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return 1 - (x @ x.T)[i, j]


def _average_ranks(values: Tensor) -> Tensor:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0).to(values.dtype) - (counts.to(values.dtype) - 1) / 2)[inverse]


def _inversions(values: Tensor) -> int:
    """Pairs ``i < j`` with ``values[i] > values[j]``, of ranks: a merge sort, every level one batched search."""
    size = 1 << max(len(values) - 1, 1).bit_length()
    runs = F.pad(values, (0, size - len(values)), value=len(values))[:, None]
    found = 0
    while len(runs) > 1:
        left, right = runs[0::2].contiguous(), runs[1::2].contiguous()
        found += int((left.shape[1] - torch.searchsorted(left, right, right=True)).sum())
        runs = torch.cat([left, right], 1).sort(dim=1).values
    return found


def _kendall(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b, exact with ties, O(M log^2 M): the M = N(N-1)/2 pairs of samples are too many to pair again."""

    def classes(values: Tensor) -> tuple[Tensor, int]:
        _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
        return inverse, int((counts * (counts - 1) // 2).sum())

    (ra, tied_a), (rb, tied_b) = classes(a), classes(b)
    joint, tied_both = classes(ra * (int(rb.max()) + 1) + rb)
    pairs = len(a) * (len(a) - 1) // 2
    discordant = _inversions(rb[joint.argsort()])
    score = pairs - tied_a - tied_b + tied_both - 2 * discordant
    return a.new_tensor(score / math.sqrt((pairs - tied_a) * (pairs - tied_b)))


@names_arguments
def rsa(x: Tensor, y: Tensor, *, dissimilarity: str = "correlation", comparison: str = "spearman") -> Tensor:
    """Representational similarity analysis: do the two models find the same pairs of samples alike?

    Args:
        x, y: ``(N, ...)``, N >= 3.
        dissimilarity: of two samples: ``"correlation"`` (1 - Pearson between their features), ``"cosine"`` or
            ``"euclidean"``.
        comparison: of the two lists of N(N-1)/2 dissimilarities: ``"spearman"`` (average ranks for ties),
            ``"pearson"`` or ``"kendall"`` (tau-b). Rank comparisons carry no gradient.

    Returns:
        Scalar, float64, in [-1, 1].

    Raises:
        ValueError: different N, N < 3, non-finite features, a sample without direction, all dissimilarities equal,
            unknown choice.

    Reference:
        Kriegeskorte, Mur, Bandettini 2008, Frontiers in Systems Neuroscience 2:4.
    """
    check_choice("dissimilarity", dissimilarity, ("correlation", "cosine", "euclidean"))
    check_choice("comparison", comparison, ("spearman", "pearson", "kendall"))
    x, y = pair_of(x, y, min_samples=3)
    a, b = _dissimilarities(x, dissimilarity, "x"), _dissimilarities(y, dissimilarity, "y")
    for values, name in ((a, "x"), (b, "y")):
        if bool(values.max() - values.min() <= 16 * torch.finfo(values.dtype).eps * values.abs().max()):
            raise ValueError(f"{name}: all pairs of samples are equally dissimilar by {dissimilarity}.")
    if comparison == "kendall":
        return _kendall(a, b)
    if comparison == "spearman":
        a, b = _average_ranks(a), _average_ranks(b)
    return pearson_correlation(a, b, eps=0.0)


# ---------------------------------------------------------------------------- neighbourhoods


def _neighbours(gram: Tensor, k: int) -> Tensor:
    """``(N, N)`` bool: column j is among the k largest off-diagonal entries of row i."""
    own = torch.eye(len(gram), dtype=torch.bool, device=gram.device)
    nearest = gram.masked_fill(own, -math.inf).topk(k, dim=1).indices
    return torch.zeros_like(own).scatter_(1, nearest, True)


def _check_k(k: int, n: int, least: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or not least <= k <= n - 1:
        raise ValueError(f"k must be an integer in [{least}, N-1] = [{least}, {n - 1}], got {k!r}.")


@names_arguments
def mutual_knn(x: Tensor, y: Tensor, *, k: int = 10, normalize: bool = True) -> Tensor:
    """Mean share of the k nearest neighbours that both representations agree on. Unrelated ones score ``k / (N-1)``.

    Args:
        x, y: ``(N, ...)``.
        k: neighbours per sample (largest inner products, the sample itself left out); 10 is the paper's.
        normalize: scale every sample to length 1 first (the paper's driver does); ``False`` uses raw inner products.

    Returns:
        Scalar, float64, in [0, 1].

    Raises:
        ValueError: ``k`` outside [1, N-1], different N, non-finite features.

    Reference:
        Huh et al. 2024, arXiv:2405.07987, appendix A; minyoungg/platonic-rep.
    """
    x, y = pair_of(x, y, min_samples=2)
    _check_k(k, len(x), 1)
    x, y = (F.normalize(z, dim=1) if normalize else z for z in (x, y))
    shared = _neighbours(x @ x.T, k) & _neighbours(y @ y.T, k)
    return shared.sum().to(x.dtype) / (len(x) * k)


def _hsic_masked(p: Tensor, q: Tensor) -> Tensor:
    """Unbiased HSIC (Song et al. 2012, eq. 5) of matrices with zero diagonal that need not be symmetric."""
    n = len(p)
    through = 2 / (n - 2) * (p.sum(0) @ q.sum(1))
    return ((p * q.T).sum() + p.sum() * q.sum() / ((n - 1) * (n - 2)) - through) / (n * (n - 3))


@names_arguments
def cknna(x: Tensor, y: Tensor, *, k: int = 10) -> Tensor:
    """Unbiased CKA restricted to pairs that are k-nearest neighbours in both representations; ``k = N-1`` is unbiased
    CKA.

    Args:
        x, y: ``(N, ...)``, N >= 4; inner products of the features as they are.
        k: neighbours per sample, at least 2.

    Returns:
        Scalar, float64. The denominator carries the released code's 1e-6.

    Raises:
        ValueError: ``k`` outside [2, N-1], different N, N < 4, constant or non-finite features.

    Reference:
        Huh et al. 2024, arXiv:2405.07987, appendix A; minyoungg/platonic-rep.
    """
    centred_pair(x, y, min_samples=4)  # refuses constant features; the inner products are those of the raw ones
    gram_x, gram_y = gram_linear(x), gram_linear(y)
    _check_k(k, len(gram_x), 2)
    near_x, near_y = _neighbours(gram_x, k), _neighbours(gram_y, k)

    def similarity(p: Tensor, q: Tensor, mask: Tensor) -> Tensor:
        return _hsic_masked(p * mask, q * mask)

    own = similarity(gram_x, gram_x, near_x) * similarity(gram_y, gram_y, near_y)
    return similarity(gram_x, gram_y, near_x & near_y) / (own.sqrt() + 1e-6)


# ---------------------------------------------------------------------------- side by side


@names_arguments
def similarity_profile(x: Tensor, y: Tensor, *, k: int = 10) -> dict[str, float]:
    """Six measures of the same two representations, each 1 where it finds them equal.

    Args:
        x, y: ``(N, ...)``, N >= 4.
        k: neighbours of :func:`mutual_knn`.

    Returns:
        ``CKA`` (linear, unbiased), ``RBF CKA`` (bandwidth 0.5, unbiased), ``Procrustes`` (the nuclear norm, 1 minus
        half of :func:`procrustes_distance`), ``SVCCA`` (99 % of the variance), ``RSA`` (correlation, Spearman) and
        ``mutual k-NN``.

    Raises:
        ValueError: as the six functions.
    """
    return {
        "CKA": cka(x, y).item(),
        "RBF CKA": cka(x, y, kernel="rbf").item(),
        "Procrustes": 1 - procrustes_distance(x, y).item() / 2,
        "SVCCA": svcca(x, y).item(),
        "RSA": rsa(x, y).item(),
        "mutual k-NN": mutual_knn(x, y, k=k).item(),
    }


__all__ = [
    "cknna",
    "mutual_knn",
    "procrustes_disparity",
    "procrustes_distance",
    "rsa",
    "similarity_profile",
]
