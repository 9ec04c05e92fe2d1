r"""Gram matrices of features, centred, and the Hilbert-Schmidt independence criterion (HSIC) of two of them.

Rows of ``x`` ``(N, ...)`` are samples; everything behind the first dimension is flattened. Features are centred
**before** a Gram matrix is formed: the value of HSIC does not change, but without it a float32 Gram of features with
mean/std = 10 is worthless. Scalar functions compute in float64 whatever comes in.

References: Gretton et al. 2005 (HSIC); Song et al. 2012, JMLR 13 (unbiased HSIC, eq. 5); Székely and Rizzo 2014
(U-centring).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._features import accumulator, out_dtype, rows_of
from .checks import check_features_pair, check_positive, describe, names_arguments

_SLAB = {"cpu": 4096}  # columns that ucentered_gram takes at a time: 2 MB for 128 samples stays in the cache
_ROWS = {"cpu": 16}  # samples whose mean it subtracts first; where memory is slow, reading all of them twice costs


def _median(values: Tensor) -> Tensor:
    """numpy's median (mean of the two middle values); ``torch.quantile`` refuses more than 2^24 values."""
    flat, n = values.flatten(), values.numel()
    return (flat.kthvalue((n - 1) // 2 + 1).values + flat.kthvalue(n // 2 + 1).values) / 2


def rbf(inner: Tensor, bandwidth: float, name: str | None) -> Tensor:
    """RBF Gram from inner products: ``exp(-d2 / (2 t^2 med))``, with the zero diagonal of ``d2`` in the median.

    A median of zero is refused under ``name``, or gives NaN where there is none.
    """
    norms = inner.diagonal()
    distances = (norms[:, None] + norms[None, :] - 2 * inner).clamp_min(0)
    median = _median(distances)
    zero = median <= 64 * torch.finfo(inner.dtype).eps * norms.abs().max()
    if name is None:
        median = median.masked_fill(zero, math.nan)
    elif not torch.compiler.is_compiling() and bool(zero):
        raise ValueError(
            f"{name}: the median squared distance is 0, at least half of all pairs of samples have "
            "identical features, so an RBF bandwidth cannot be chosen. Use kernel='linear'."
        )
    return torch.exp(distances / (-2 * bandwidth**2 * median))


def u_center(gram: Tensor) -> Tensor:
    """U-centring: zero diagonal, rows and columns summing to zero (Székely and Rizzo 2014)."""
    n = gram.shape[-1]
    off = 1 - torch.eye(n, dtype=gram.dtype, device=gram.device)
    gram = gram * off
    means = gram.sum(-1) / (n - 2)
    means = means - means.sum(-1, keepdim=True) / (2 * (n - 1))
    return (gram - means[..., :, None] - means[..., None, :]) * off


def double_center(gram: Tensor) -> Tensor:
    """``H K H`` with ``H = I - 11^T/N``."""
    rows = gram.mean(-1, keepdim=True)
    return gram - rows - gram.mean(-2, keepdim=True) + rows.mean(-2, keepdim=True)


def _check_gram(gram: Tensor, name: str, *, unbiased: bool) -> Tensor:
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"{name} must be a square Gram matrix (N, N), got {describe(gram)}.")
    least = 4 if unbiased else 2
    if gram.shape[0] < least:
        raise ValueError(f"{name} needs at least {least} samples with unbiased={unbiased}, got {gram.shape[0]}.")
    eps = torch.finfo(out_dtype(gram)).eps
    gram = gram.to(accumulator(gram.device))
    if not torch.compiler.is_compiling():
        if not bool(torch.isfinite(gram).all()):
            raise ValueError(f"{name} must be finite, got {int((~torch.isfinite(gram)).sum())} NaN or infinite values.")
        gap = (gram - gram.T).abs().max()
        if bool(gap > 100 * eps * gram.abs().max()):
            raise ValueError(f"{name} must be symmetric, got a difference to its transpose of {gap.item():.3g}.")
    return gram


@names_arguments
def gram_linear(x: Tensor) -> Tensor:
    """Inner products of all pairs of samples, ``K = X X^T``, of the features as they are (not centred).

    Args:
        x: ``(N, ...)`` features, any dtype.

    Returns:
        ``(N, N)`` float64, whatever ``x`` is.

    Raises:
        ValueError: empty or non-finite features.
    """
    x = rows_of(x, "x")
    return x @ x.T


@names_arguments
def gram_rbf(x: Tensor, *, bandwidth: float = 0.5) -> Tensor:
    """Gaussian kernel of all pairs, ``K_ij = exp(-|x_i - x_j|^2 / (2 t^2 med))``.

    ``med`` is the median over all N^2 squared distances, the zero diagonal included, with numpy's convention for an
    even count (Kornblith et al. 2019, released code). The gradient flows through the median too.

    Args:
        x: ``(N, ...)`` features.
        bandwidth: ``t``, as a fraction of the median distance; 0.5 here, 0.8 is the paper's usual choice.

    Returns:
        ``(N, N)`` float64.

    Raises:
        ValueError: ``bandwidth`` not above zero, median distance zero, empty or non-finite features.
    """
    check_positive("bandwidth", bandwidth)
    x = rows_of(x, "x")
    x = x - x.mean(0, keepdim=True)
    return rbf(x @ x.T, bandwidth, "x")


@names_arguments
def center_gram(gram: Tensor, *, unbiased: bool = False) -> Tensor:
    """Centre a Gram matrix: ``H K H``, or the U-centred form whose products are unbiased.

    Args:
        gram: ``(N, N)`` symmetric.
        unbiased: U-centre (zero diagonal, rows sum to zero; N >= 4) instead of double centring (N >= 2).

    Returns:
        ``(N, N)`` float64.

    Raises:
        ValueError: not square, not symmetric, too few samples, non-finite.
    """
    gram = _check_gram(gram, "gram", unbiased=unbiased)
    return u_center(gram) if unbiased else double_center(gram)


@names_arguments
def hsic(gram_x: Tensor, gram_y: Tensor, *, unbiased: bool = True) -> Tensor:
    """Hilbert-Schmidt independence criterion of two Gram matrices.

    Unbiased: Song et al. 2012, eq. 5, through U-centring: ``<K^, L^> / (N (N-3))``; may be negative. Biased:
    ``tr(K H L H) / (N-1)^2``.

    Args:
        gram_x, gram_y: ``(N, N)`` symmetric, of the same samples.
        unbiased: which estimator; the unbiased one needs N >= 4.

    Returns:
        Scalar, float64.

    Raises:
        ValueError: not square, not symmetric, different sizes, too few samples, non-finite.
    """
    gram_x, gram_y = (_check_gram(g, f"gram_{n}", unbiased=unbiased) for g, n in ((gram_x, "x"), (gram_y, "y")))
    check_features_pair(gram_x, gram_y, names=("gram_x", "gram_y"))
    n = len(gram_x)
    center, pairs = (u_center, n * (n - 3)) if unbiased else (double_center, (n - 1) ** 2)
    return (center(gram_x) * center(gram_y)).sum() / pairs


def _self_product(x: Tensor) -> Tensor:
    """``X X^T``. With one thread on the CPU by numpy, which sees that both factors are one (BLAS ``syrk``) and does
    half the work; with more, numpy's threads and torch's wait for each other (measured: a hundred times slower)."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or torch.get_num_threads() > 1:
        return x @ x.T
    rows = x.numpy()
    return torch.from_numpy(rows @ rows.T)


def _shifted_gram(features: Tensor, dtype: torch.dtype, every: int) -> tuple[Tensor, Tensor]:
    """``(X - s)(X - s)^T`` with the mean ``s`` of each so-manieth row, slab by slab, and ``|s|^2``."""
    n, wide = len(features), accumulator(features.device)
    gram = torch.zeros(n, n, dtype=wide, device=features.device)
    offset = torch.zeros((), dtype=wide, device=features.device)
    columns = max(1, min(features.shape[1], _SLAB.get(features.device.type, 2**16)))
    shifted = torch.empty(n, columns, dtype=dtype, device=features.device)
    for slab in features.split(columns, dim=1):
        slab = slab.to(dtype)
        shift = slab[::every].mean(0)
        gram += _self_product(torch.sub(slab, shift, out=shifted[:, : len(shift)]))
        offset += shift @ shift
    return gram, offset


@names_arguments
def ucentered_gram(
    features: Tensor, *, kernel: str = "linear", bandwidth: float = 0.5, dtype: torch.dtype | None = None
) -> Tensor:
    """U-centred Gram matrix of one layer, made for hooks: one pass over slabs of features that fit the cache.

    Each slab is shifted, multiplied in ``dtype`` and added up in float64; no copy of the features is made. U-centring
    is indifferent to the shift, which only keeps digits: it is the mean of some samples, and where the result shows
    that this was far from the batch mean, the batch mean. A layer that is constant over the batch (up to round-off of
    ``dtype``) gives exact zeros, and one whose RBF bandwidth would be zero gives NaN. No gradient flows.

    Args:
        features: ``(N, d)``, N >= 4.
        kernel: ``"linear"`` or ``"rbf"`` (``bandwidth`` as in :func:`gram_rbf`).
        dtype: precision of the products; ``None``: that of the features, at least float32.

    Returns:
        ``(N, N)``, float64; the sum of products of two of them is ``N (N-3)`` times unbiased HSIC.
    """
    n = len(features)
    dtype = dtype or torch.promote_types(out_dtype(features), torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        every = n // min(n, _ROWS.get(features.device.type, n))
        gram, offset = _shifted_gram(features.detach(), dtype, every)
        if every > 1 and bool(gram.sum() > 0.5 * n * gram.diagonal().sum()):  # the mean left holds half of the energy
            gram, offset = _shifted_gram(features.detach(), dtype, 1)
        constant = gram.diagonal().sum() <= (16 * torch.finfo(dtype).eps) ** 2 * n * offset
        if kernel == "rbf":
            gram = rbf(gram, bandwidth, None)
        plain = gram.fill_diagonal_(0).square().sum()
        gram = u_center(gram)
        vanishing = gram.square().sum() <= (16 * torch.finfo(dtype).eps) ** 2 * plain
        return gram.masked_fill_(constant | vanishing, 0)


__all__ = ["center_gram", "gram_linear", "gram_rbf", "hsic", "ucentered_gram"]
