r"""Canonical correlations of two representations: do they span the same subspace? CCA, SVCCA, PWCCA.

Rows of ``x`` ``(N, ...)`` and ``y`` ``(N, ...)`` are the same samples in the same order; everything behind the first
dimension is flattened, and values are computed in float64.

References: Kornblith et al. 2019, arXiv:1905.00414 (``R^2_CCA``); Raghu et al. 2017, arXiv:1706.05806 (SVCCA); Morcos
et al. 2018, arXiv:1806.05759 (PWCCA).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ._features import XY, centred, out_dtype, pair_of, rows_of
from .checks import check_features_pair, check_fraction, check_positive, names_arguments


def _directions(x: Tensor, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of centred features, without those below the resolution of the input."""
    u, s, _ = torch.linalg.svd(centred(x, name), full_matrices=False)
    keep = s > torch.finfo(dtype).eps * max(x.shape) * s[0]
    return u[:, keep], s[keep]


def _check_wide(n: int, widths: Sequence[int], names: str) -> None:
    if n <= max(widths):
        raise ValueError(
            f"CCA needs more samples than features, got N = {n}, d = {' and '.join(map(str, widths))} in "
            f"{names}: every direction would correlate. Use svcca: it keeps the leading directions."
        )


def _spaces(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dtypes = out_dtype(x), out_dtype(y)
    x, y = pair_of(x, y, min_samples=2)
    _check_wide(len(x), (x.shape[1], y.shape[1]), "x and y")
    return _directions(x, "x", dtypes[0])[0], _directions(y, "y", dtypes[1])[0]


@names_arguments
def cca_coefficients(x: Tensor, y: Tensor) -> Tensor:
    """Canonical correlations between two representations, largest first.

    Linearly dependent features are dropped (singular values below ``eps * max(N, d)`` of the largest, ``eps`` of the
    input's dtype).

    Args:
        x, y: ``(N, ...)`` of widths d1, d2, with N > max(d1, d2).

    Returns:
        ``(min(rank1, rank2),)`` float64 in [0, 1]; the ranks are d1, d2 unless features are dependent.

    Raises:
        ValueError: N <= max(d1, d2) (use :func:`svcca`), different N, non-finite or constant features.
    """
    u, v = _spaces(x, y)
    return torch.linalg.svdvals(u.T @ v).clamp(0, 1)


@names_arguments
def mean_cca(x: Tensor, y: Tensor) -> Tensor:
    """Mean canonical correlation, invariant to invertible linear maps.

    Args:
        x, y: as in :func:`cca_coefficients`, whose errors are raised.

    Returns:
        Scalar, float64, in [0, 1].
    """
    return cca_coefficients(x, y).mean()


def mean_cca_matrix(features_x: Mapping[str, Tensor], features_y: Mapping[str, Tensor]) -> Tensor:
    """:func:`mean_cca` of all pairs of layers: one decomposition per layer, not per pair.

    Args:
        features_x, features_y: ``(N, ...)`` features by layer name, the same samples, N above every width.

    Returns:
        ``(L1, L2)`` float64 in [0, 1], in the order of the mappings.

    Raises:
        ValueError: as :func:`cca_coefficients`, naming the layer.
    """

    def directions(argument: str, features: Mapping[str, Tensor]) -> list[Tensor]:
        found = []
        for layer, values in features.items():
            name = f"{argument}[{layer!r}]"
            x = rows_of(values, name)
            _check_wide(len(x), x.shape[1:], name)
            found.append(_directions(x, name, out_dtype(values))[0])
        return found

    us, vs = directions("features_x", features_x), directions("features_y", features_y)
    sizes = {len(z) for z in (*us, *vs)}
    if len(sizes) != 1 or not us or not vs:
        raise ValueError(
            "features_x and features_y must hold layers of the same samples, got "
            f"{', '.join(map(str, sorted(sizes))) or 'no'} samples."
        )
    return torch.stack([torch.stack([torch.linalg.svdvals(u.T @ v).clamp(0, 1).mean() for v in vs]) for u in us])


@names_arguments
def cca_r2(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared canonical correlation, ``R^2_CCA`` of Kornblith et al. 2019, arXiv:1905.00414, table 1.

    Args:
        x, y: as in :func:`cca_coefficients`, whose errors are raised.

    Returns:
        Scalar, float64, in [0, 1].
    """
    return cca_coefficients(x, y).square().mean()


@names_arguments
def leading_directions(x: Tensor, *, threshold: float = 0.99) -> Tensor:
    """Orthonormal scores of the fewest principal components that hold ``threshold`` of the variance.

    Args:
        x: ``(N, ...)`` features.
        threshold: share of ``sum s^2``, in (0, 1].

    Returns:
        ``(N, k)`` float64.

    Raises:
        ValueError: ``threshold`` outside (0, 1], constant or non-finite features.
    """
    return _leading(x, "x", threshold)


def _leading(x: Tensor, name: str, threshold: float) -> Tensor:
    check_fraction("threshold", threshold)
    check_positive("threshold", threshold)
    u, s = _directions(rows_of(x, name), name, out_dtype(x))
    share = s.square().cumsum(0) / s.square().sum()
    return u[:, : min(int((share < threshold).sum()) + 1, len(s))]


@names_arguments
def svcca(x: Tensor, y: Tensor, *, threshold: float = 0.99) -> Tensor:
    """Singular-vector CCA: mean canonical correlation of the leading principal components of either side.

    Args:
        x, y: ``(N, ...)``; widths may exceed N.
        threshold: share of variance kept on each side; 0.99 is the paper's.

    Returns:
        Scalar, float64, in [0, 1].

    Raises:
        ValueError: different N, ``threshold`` outside (0, 1], constant or non-finite features.

    Reference:
        Raghu et al. 2017, arXiv:1706.05806; google/svcca.
    """
    check_features_pair(x, y, names=XY, min_samples=2)
    u, v = _leading(x, "x", threshold), _leading(y, "y", threshold)
    return torch.linalg.svdvals(u.T @ v).clamp(0, 1).mean()


@names_arguments
def pwcca(x: Tensor, y: Tensor) -> Tensor:
    """Projection-weighted CCA: canonical correlations weighted by how much of ``x`` each canonical variate accounts
    for.

    Follows the definition, ``alpha_i = sum_j |<h_i, x_j>|`` with canonical variates ``h_i`` of ``x``. Asymmetric:
    ``x`` supplies the weights. google/svcca's ``compute_pwcca`` is not followed: it leaves out the whitening and fails
    when ``y`` is narrower.

    Args:
        x, y: as in :func:`cca_coefficients`.

    Returns:
        Scalar, float64, in [0, 1].

    Raises:
        ValueError: as :func:`cca_coefficients`.

    Reference:
        Morcos et al. 2018, arXiv:1806.05759, eq. 4 and 5.
    """
    u, v = _spaces(x, y)
    left, rho, _ = torch.linalg.svd(u.T @ v, full_matrices=False)
    columns = centred(rows_of(x, "x"), "x")
    alpha = (columns.T @ (u @ left)).abs().sum(0)
    return (alpha / alpha.sum()) @ rho.clamp(0, 1)


__all__ = [
    "cca_coefficients",
    "cca_r2",
    "leading_directions",
    "mean_cca",
    "mean_cca_matrix",
    "pwcca",
    "svcca",
]
