r"""Representation similarity: what two networks represent on the same samples, without matching widths or neurons.

Rows of ``x`` ``(N, ...)`` and ``y`` ``(N, ...)`` are the same samples in the same order; everything behind the first
dimension is flattened. Features are centred **before** a Gram matrix is formed: the value of HSIC does not change, but
without it a float32 Gram of features with mean/std = 10 is worthless. Scalar functions compute in float64 whatever
comes in.

==================  ==============================================================================================
CKA                 :func:`cka`, :func:`cka_matrix`, :func:`cka_loss`, :class:`CKAMap`, and their parts
                    :func:`gram_linear`, :func:`gram_rbf`, :func:`center_gram`, :func:`hsic`, :func:`ucentered_gram`
subspaces           :func:`cca_coefficients`, :func:`mean_cca`, :func:`mean_cca_matrix`, :func:`cca_r2`,
                    :func:`svcca`, :func:`pwcca`
shape               :func:`procrustes_distance`, :func:`procrustes_disparity`
geometry of pairs   :func:`rsa`
neighbourhoods      :func:`mutual_knn`, :func:`cknna`
side by side        :func:`similarity_profile`
==================  ==============================================================================================

References: Kornblith et al. 2019, arXiv:1905.00414 (CKA, ``R^2_CCA``); Nguyen, Raghu, Kornblith 2021, arXiv:2010.15327
(minibatch CKA); Song et al. 2012, JMLR 13 (unbiased HSIC, eq. 5); Székely and Rizzo 2014 (U-centring); Raghu et al.
2017, arXiv:1706.05806 (SVCCA); Morcos et al. 2018, arXiv:1806.05759 (PWCCA); Huh et al. 2024, arXiv:2405.07987 (mutual
k-NN, CKNNA).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice, check_features_pair, check_fraction, check_positive, closest, describe
from .correlation import pearson_correlation
from .pooling import POOLINGS, pool_features

KERNELS = ("linear", "rbf")
_XY = ("x", "y")
_SLAB = {"cpu": 4096}  # columns that ucentered_gram takes at a time: 2 MB for 128 samples stays in the cache
_ROWS = {"cpu": 16}  # samples whose mean it subtracts first; where memory is slow, reading all of them twice costs


# ---------------------------------------------------------------------------- preparation


def _accumulator(device: torch.device) -> torch.dtype:
    """float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _out_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def _rows(x: Tensor, name: str) -> Tensor:
    """``(N, ...)`` of any dtype -> ``(N, d)`` float64; refuses empty and non-finite features."""
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"{name} must be (N, ...) with at least one sample and one feature, got {describe(x)}.")
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{name} must be finite, got {describe(x)} with {bad} NaN or infinite values.")
    return x.reshape(x.shape[0], -1).to(_accumulator(x.device))


def _pair(x: Tensor, y: Tensor, *, min_samples: int, names: tuple[str, str] = _XY) -> tuple[Tensor, Tensor]:
    check_features_pair(x, y, names=names, min_samples=min_samples)
    return _rows(x, names[0]), _rows(y, names[1])


def _centred(x: Tensor, name: str) -> Tensor:
    """Minus the mean of each column; refuses features that are the same for every sample, up to round-off."""
    centred = x - x.mean(0, keepdim=True)
    if not torch.compiler.is_compiling() and bool(centred.abs().max() <= 16 * torch.finfo(x.dtype).eps * x.abs().max()):
        raise ValueError(f"{name} is constant: all {x.shape[0]} samples have the same features: nothing to compare.")
    return centred


def _centred_pair(x: Tensor, y: Tensor, *, min_samples: int, names: tuple[str, str] = _XY) -> tuple[Tensor, Tensor]:
    x, y = _pair(x, y, min_samples=min_samples, names=names)
    return _centred(x, names[0]), _centred(y, names[1])


def _median(values: Tensor) -> Tensor:
    """numpy's median (mean of the two middle values); ``torch.quantile`` refuses more than 2^24 values."""
    flat, n = values.flatten(), values.numel()
    return (flat.kthvalue((n - 1) // 2 + 1).values + flat.kthvalue(n // 2 + 1).values) / 2


# ---------------------------------------------------------------------------- kernels and HSIC


def _rbf(inner: Tensor, bandwidth: float, name: str | None) -> Tensor:
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


def _u_center(gram: Tensor) -> Tensor:
    """U-centring: zero diagonal, rows and columns summing to zero (Székely and Rizzo 2014)."""
    n = gram.shape[-1]
    off = 1 - torch.eye(n, dtype=gram.dtype, device=gram.device)
    gram = gram * off
    means = gram.sum(-1) / (n - 2)
    means = means - means.sum(-1, keepdim=True) / (2 * (n - 1))
    return (gram - means[..., :, None] - means[..., None, :]) * off


def _double_center(gram: Tensor) -> Tensor:
    """``H K H`` with ``H = I - 11^T/N``."""
    rows = gram.mean(-1, keepdim=True)
    return gram - rows - gram.mean(-2, keepdim=True) + rows.mean(-2, keepdim=True)


def _check_gram(gram: Tensor, name: str, *, unbiased: bool) -> Tensor:
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"{name} must be a square Gram matrix (N, N), got {describe(gram)}.")
    least = 4 if unbiased else 2
    if gram.shape[0] < least:
        raise ValueError(f"{name} needs at least {least} samples with unbiased={unbiased}, got {gram.shape[0]}.")
    eps = torch.finfo(_out_dtype(gram)).eps
    gram = gram.to(_accumulator(gram.device))
    if not torch.compiler.is_compiling():
        if not bool(torch.isfinite(gram).all()):
            raise ValueError(f"{name} must be finite, got {int((~torch.isfinite(gram)).sum())} NaN or infinite values.")
        gap = (gram - gram.T).abs().max()
        if bool(gap > 100 * eps * gram.abs().max()):
            raise ValueError(f"{name} must be symmetric, got a difference to its transpose of {gap.item():.3g}.")
    return gram


def gram_linear(x: Tensor) -> Tensor:
    """Inner products of all pairs of samples, ``K = X X^T``, of the features as they are (not centred).

    Args:
        x: ``(N, ...)`` features, any dtype.

    Returns:
        ``(N, N)`` float64, whatever ``x`` is.

    Raises:
        ValueError: empty or non-finite features.
    """
    x = _rows(x, "x")
    return x @ x.T


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
    x = _rows(x, "x")
    x = x - x.mean(0, keepdim=True)
    return _rbf(x @ x.T, bandwidth, "x")


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
    return _u_center(gram) if unbiased else _double_center(gram)


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
    center, pairs = (_u_center, n * (n - 3)) if unbiased else (_double_center, (n - 1) ** 2)
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
    n, wide = len(features), _accumulator(features.device)
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
    dtype = dtype or torch.promote_types(_out_dtype(features), torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        every = n // min(n, _ROWS.get(features.device.type, n))
        gram, offset = _shifted_gram(features.detach(), dtype, every)
        if every > 1 and bool(gram.sum() > 0.5 * n * gram.diagonal().sum()):  # the mean left holds half of the energy
            gram, offset = _shifted_gram(features.detach(), dtype, 1)
        constant = gram.diagonal().sum() <= (16 * torch.finfo(dtype).eps) ** 2 * n * offset
        if kernel == "rbf":
            gram = _rbf(gram, bandwidth, None)
        plain = gram.fill_diagonal_(0).square().sum()
        gram = _u_center(gram)
        vanishing = gram.square().sum() <= (16 * torch.finfo(dtype).eps) ** 2 * plain
        return gram.masked_fill_(constant | vanishing, 0)


# ---------------------------------------------------------------------------- CKA


def _check_spread(own: Tensor, size: Tensor, name: str) -> None:
    if not torch.compiler.is_compiling() and bool(own <= 64 * torch.finfo(own.dtype).eps * size):
        raise ValueError(
            f"{name} has HSIC 0 with itself: all samples are equally far from each other, so CKA is undefined."
        )


def _ratio(xy: Tensor, xx: Tensor, yy: Tensor, scale: tuple[Tensor, Tensor], names: tuple[str, str]) -> Tensor:
    """``xy / sqrt(xx yy)``; a self term that is zero up to round-off of its ``scale`` is refused by name."""
    for own, size, name in ((xx, scale[0], names[0]), (yy, scale[1], names[1])):
        _check_spread(own, size, name)
    return xy / (xx.sqrt() * yy.sqrt())


def _centred_gram(x: Tensor, kernel: str, unbiased: bool, bandwidth: float, name: str) -> tuple[Tensor, Tensor]:
    """Centred Gram of centred features, and the round-off that its self term may carry (see :func:`_ratio`)."""
    gram = x @ x.T
    if kernel == "rbf":
        gram = _rbf(gram, bandwidth, name)
    # Round-off enters the self term squared: eps^2 |K|^2, which _ratio's eps turns into the bound below.
    size = torch.finfo(x.dtype).eps * gram.detach().square().sum()
    return (_u_center if unbiased else _double_center)(gram), size


def _cka_gram(x: Tensor, y: Tensor, kernel: str, unbiased: bool, bandwidth: float, names: tuple[str, str]) -> Tensor:
    (cx, size_x), (cy, size_y) = (
        _centred_gram(z, kernel, unbiased, bandwidth, name) for z, name in zip((x, y), names, strict=True)
    )
    return _ratio((cx * cy).sum(), cx.square().sum(), cy.square().sum(), (size_x, size_y), names)


def _cka_feature(x: Tensor, y: Tensor, unbiased: bool, names: tuple[str, str]) -> Tensor:
    """Linear CKA from ``d x d`` products of centred features: the same value as the Gram form when N > d."""
    n, rx, ry = len(x), x.square().sum(1), y.square().sum(1)

    def h(a: Tensor, b: Tensor, ra: Tensor, rb: Tensor) -> tuple[Tensor, Tensor]:
        cross = (a.T @ b).square().sum()
        if not unbiased:
            return cross, cross.detach()
        return cross - n / (n - 2) * (ra @ rb) + ra.sum() * rb.sum() / ((n - 1) * (n - 2)), cross.detach()

    (xy, _), (xx, size_x), (yy, size_y) = h(x, y, rx, ry), h(x, x, rx, rx), h(y, y, ry, ry)
    return _ratio(xy, xx, yy, (size_x, size_y), names)


def _cka(
    x: Tensor, y: Tensor, kernel: str, unbiased: bool, bandwidth: float, method: str, names: tuple[str, str]
) -> Tensor:
    check_choice("kernel", kernel, KERNELS)
    check_choice("method", method, ("auto", "gram", "feature"))
    check_positive("bandwidth", bandwidth)
    if method == "feature" and kernel != "linear":
        raise ValueError(f"method='feature' exists for kernel='linear' only, got kernel={kernel!r}.")
    x, y = _centred_pair(x, y, min_samples=4 if unbiased else 2, names=names)
    x, y = (z / z.detach().abs().max() for z in (x, y))  # same value and gradient, but nothing overflows
    if method == "feature" or (method == "auto" and kernel == "linear" and len(x) > max(x.shape[1], y.shape[1])):
        return _cka_feature(x, y, unbiased, names)
    return _cka_gram(x, y, kernel, unbiased, bandwidth, names)


def cka(
    x: Tensor, y: Tensor, *, kernel: str = "linear", unbiased: bool = True, bandwidth: float = 0.5, method: str = "auto"
) -> Tensor:
    r"""Centred kernel alignment of two representations of the same samples.

    ``CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))``, the same estimator in all three places and no epsilon.
    Invariant to orthogonal transforms, isotropic scaling and translation of either side, not to general linear maps.

    Args:
        x: ``(N, ...)`` features of one layer.
        y: ``(N, ...)`` features of another layer on the same samples; widths may differ.
        kernel: ``"linear"`` or ``"rbf"``.
        unbiased: ``True`` (default) uses unbiased HSIC, value in (-1, 1], N >= 4; ``False`` is Kornblith's, value in
            [0, 1], N >= 2: close to 1 for unrelated features wherever d >> N.
        bandwidth: of the RBF kernel, a fraction of the median distance.
        method: ``"gram"`` (example space, O(N^2 d)), ``"feature"`` (O(N d^2), linear only) or ``"auto"``: feature
            space when N > max(d1, d2). The value is the same.

    Returns:
        Scalar in the dtype of ``x``, computed in float64; differentiable in both arguments.

    Raises:
        ValueError: different N, N too small, no features, non-finite, constant features, ``bandwidth`` <= 0, unknown
            choice.

    Reference:
        Kornblith et al. 2019, arXiv:1905.00414, section 3; google-research/google-research.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [4.0], [3.0]])
        >>> round(cka(x, -3 * x + 1).item(), 6)
        1.0
    """
    return _cka(x, y, kernel, unbiased, bandwidth, method, _XY).to(_out_dtype(x))


def cka_matrix(
    features_x: Mapping[str, Tensor],
    features_y: Mapping[str, Tensor],
    *,
    kernel: str = "linear",
    unbiased: bool = True,
    bandwidth: float = 0.5,
) -> Tensor:
    """:func:`cka` of all pairs of layers whose features lie in memory: one Gram per layer, not per pair.

    Args:
        features_x, features_y: ``(N, ...)`` features by layer name, the same samples in the same order.
        kernel, unbiased, bandwidth: as in :func:`cka`.

    Returns:
        ``(L1, L2)`` float64, in the order of the mappings. Memory ``8 (L1 + L2) N^2`` bytes; :class:`CKAMap` needs
        none of the features at once.

    Raises:
        ValueError: as :func:`cka`, naming the layer; no layers.
    """
    check_choice("kernel", kernel, KERNELS)
    check_positive("bandwidth", bandwidth)
    grams = []
    for argument, features in (("features_x", features_x), ("features_y", features_y)):
        if not features:
            raise ValueError(f"{argument} must hold at least one layer.")
        rows = [
            _gram_row(features_x, layer, f"{argument}[{name!r}]", kernel, unbiased, bandwidth)
            for name, layer in features.items()
        ]
        grams.append(torch.stack(rows))
    x, y = grams
    return _normalise(x @ y.T, x.square().sum(1), y.square().sum(1))


def _gram_row(
    others: Mapping[str, Tensor], layer: Tensor, name: str, kernel: str, unbiased: bool, bandwidth: float
) -> Tensor:
    """``(N^2,)`` centred Gram of one layer, whose samples must be as many as those of the others."""
    first, reference = next(iter(others.items()))
    check_features_pair(reference, layer, names=(f"features_x[{first!r}]", name), min_samples=4 if unbiased else 2)
    x = _centred(_rows(layer, name), name)
    gram, size = _centred_gram(x / x.abs().max(), kernel, unbiased, bandwidth, name)
    _check_spread(gram.square().sum(), size, name)
    return gram.flatten()


def cka_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    *,
    kernel: str = "linear",
    unbiased: bool = True,
    bandwidth: float = 0.5,
) -> Tensor:
    """``1 - CKA(student, teacher)``: pulls the student's geometry towards the teacher's, whatever their widths.

    The teacher is detached. With the unbiased estimator the value is in [0, 2) and may exceed 1 for unrelated features.

    Args:
        student_features: ``(N, ...)``; N >= 4 when ``unbiased``, else N >= 2.
        teacher_features: ``(N, ...)`` on the same samples; no gradient flows to it.
        kernel, unbiased, bandwidth: as in :func:`cka`.

    Returns:
        Scalar in the dtype of ``student_features`` (at least float32).

    Raises:
        ValueError: as :func:`cka`, naming ``student_features`` or ``teacher_features``.

    Reference:
        Kornblith et al. 2019, arXiv:1905.00414 (the measure; its use as a loss is common practice).
    """
    value = _cka(
        student_features,
        teacher_features.detach(),
        kernel,
        unbiased,
        bandwidth,
        "auto",
        ("student_features", "teacher_features"),
    )
    return (1 - value).to(torch.promote_types(_out_dtype(student_features), torch.float32))


# ---------------------------------------------------------------------------- all pairs of layers


class _Stream:
    """Sums from which linear CKA of the whole set follows, one pass, for all pairs of layers (see :class:`CKAMap`)."""

    def __init__(self, feats_x: list[Tensor], feats_y: list[Tensor]) -> None:
        self.n, self.x, self.y = 0, _Side(feats_x), _Side(feats_y)
        (n_x, n_y), new = (len(feats_x), len(feats_y)), feats_x[0].new_zeros
        self.cross = new(self.x.total, self.y.total)  # sum x y^T, all pairs of layers at once
        self.uv = new(n_x, n_y)  # sum u v, with u = |x|^2, v = |y|^2
        self.uy, self.vx = new(n_x, self.y.total), new(n_y, self.x.total)

    def add(self, feats_x: list[Tensor], feats_y: list[Tensor]) -> None:
        (x, u), (y, v) = self.x.add(feats_x), self.y.add(feats_y)
        self.n += len(x)
        self.cross.addmm_(x.T, y)
        self.uv.addmm_(u.T, v)
        self.uy.addmm_(u.T, y)
        self.vx.addmm_(v.T, x)

    def terms(self, unbiased: bool) -> tuple[Tensor, Tensor, Tensor]:
        """``h(X_i, Y_j)``, ``h(X_i, X_i)``, ``h(Y_j, Y_j)``; segments of columns are layers."""
        n, x, y = self.n, self.x, self.y
        own_x, own_y = x.self_terms(n, unbiased), y.self_terms(n, unbiased)
        mx, my = x.sums / n, y.sums / n
        cx, cy = x.fold(mx.square()), y.fold(my.square())
        squared = y.fold(x.fold((self.cross - n * mx[:, None] * my[None, :]).square().T).T)
        if not unbiased:
            return squared, own_x, own_y
        a, b = x.norms, y.norms
        through = y.fold(x.fold((mx[:, None] * self.cross).T).T * my)
        products = (
            self.uv
            - 2 * y.fold(self.uy * my)
            + a[:, None] * cy
            - 2 * x.fold(self.vx * mx).T
            + cx[:, None] * b
            + 4 * through
            - 3 * n * cx[:, None] * cy
        )  # sum of products of centred squared norms, row by row
        spread = (a - n * cx)[:, None] * (b - n * cy)
        return squared - n / (n - 2) * products + spread / ((n - 1) * (n - 2)), own_x, own_y


class _Side:
    """What :class:`_Stream` keeps of one model: per layer the sums of x, |x|^2, |x|^4, |x|^2 x and x x^T.

    All are taken about the first batch's mean, which changes nothing but the round-off.
    """

    def __init__(self, features: list[Tensor]) -> None:
        self.widths = [f.shape[1] for f in features]
        self.total = sum(self.widths)
        device, wide = features[0].device, features[0].dtype
        self.segment = torch.repeat_interleave(torch.arange(len(features)), torch.tensor(self.widths)).to(device)
        self.shift = torch.cat([f.mean(0) for f in features])
        self.sums, self.ux = (torch.zeros(self.total, dtype=wide, device=device) for _ in range(2))
        self.norms, self.uu = (torch.zeros(len(features), dtype=wide, device=device) for _ in range(2))
        self.outer = [torch.zeros(w, w, dtype=wide, device=device) for w in self.widths]

    def fold(self, values: Tensor) -> Tensor:
        """Sum the columns of each layer: ``(..., total) -> (..., layers)``."""
        out = values.new_zeros(*values.shape[:-1], len(self.widths))
        return out.index_add_(-1, self.segment, values)

    def add(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        x = torch.cat(features, 1) - self.shift
        u = self.fold(x.square())
        self.sums += x.sum(0)
        self.norms += u.sum(0)
        self.uu += u.square().sum(0)
        self.ux += (x * u[:, self.segment]).sum(0)
        for outer, part in zip(self.outer, x.split(self.widths, 1), strict=True):
            outer.addmm_(part.T, part)
        return x, u

    def self_terms(self, n: int, unbiased: bool) -> Tensor:
        """``h(X, X)`` per layer; NaN where the layer is constant, up to round-off."""
        mean, a = self.sums / n, self.norms
        c = self.fold(mean.square())
        centred = [v - n * torch.outer(m, m) for v, m in zip(self.outer, mean.split(self.widths), strict=True)]
        squared = torch.stack([v.square().sum() for v in centred])
        spread = a - n * c
        size = n * self.fold((mean + self.shift).square())
        constant = spread <= (16 * torch.finfo(a.dtype).eps) ** 2 * size
        if not unbiased:
            return squared.masked_fill(constant, math.nan)
        through = torch.stack([m @ v @ m for v, m in zip(self.outer, mean.split(self.widths), strict=True)])
        products = self.uu - 4 * self.fold(self.ux * mean) + 2 * a * c + 4 * through - 3 * n * c.square()
        h = squared - n / (n - 2) * products + spread.square() / ((n - 1) * (n - 2))
        return h.masked_fill(constant | (h <= 64 * torch.finfo(a.dtype).eps * squared), math.nan)


class CKAMap:
    """CKA of all pairs of layers of two models, batch by batch; memory does not grow with the number of samples.

    ``mode="minibatch"`` (Nguyen et al. 2021): every batch of ``n >= 4`` samples gives one U-centred Gram per layer, a
    row of ``n^2`` numbers; one product of the stacked rows adds the unbiased HSIC of all pairs. Memory is
    ``(L1 + L2) n^2 + L1 L2``. Never averages biased values: their bias depends on the batch size. ``mode="exact"``:
    linear CKA of the whole set from streamed sums, ``sum_ij d1_i d2_j`` numbers, float64; batch sizes do not matter.

    Batches should be drawn at random (shuffle once, with a fixed generator): a loader sorted by class gives a biased
    minibatch map.

    Args:
        layers_x, layers_y: names of the layers of either model, in the order of rows and columns.
        mode: ``"minibatch"`` or ``"exact"``.
        kernel: ``"linear"`` or ``"rbf"`` (minibatch only).
        batch_weighting: ``"pairs"`` (released code of Nguyen et al.) weighs a batch by ``n (n-3)``; ``"uniform"``
            (their formula, torch_cka) averages HSIC over batches. The same for equal batch sizes. Exact mode knows no
            batches.
        pooling: ``"flatten"``, ``"gap"`` or ``"cls"``, see :func:`~kdcore.functional.pooling.pool_features`.
        dtype: precision of Gram products in minibatch mode; sums are float64 always.
        bandwidth: of the RBF kernel.
        keep_batches: keep the ``L1 L2 + L1 + L2`` sums of every batch, for :meth:`bootstrap`.

    Attributes:
        n_samples: samples used. n_batches: batches used. n_skipped: batches of fewer than 4 samples, left out.
        hsic, hsic_x, hsic_y: ``(L1, L2)``, ``(L1,)``, ``(L2,)`` raw sums (minibatch mode).

    Raises:
        ValueError: unknown choice, no layers, repeated names, RBF in exact mode.

    Reference:
        arXiv:2010.15327, eq. 2 and 3; google-research/google-research.
    """

    def __init__(
        self,
        layers_x: Sequence[str],
        layers_y: Sequence[str],
        *,
        mode: str = "minibatch",
        kernel: str = "linear",
        batch_weighting: str = "pairs",
        pooling: str = "flatten",
        dtype: torch.dtype = torch.float64,
        bandwidth: float = 0.5,
        keep_batches: bool = False,
    ) -> None:
        check_choice("mode", mode, ("minibatch", "exact"))
        check_choice("kernel", kernel, KERNELS)
        check_choice("batch_weighting", batch_weighting, ("pairs", "uniform"))
        check_choice("pooling", pooling, POOLINGS)
        check_positive("bandwidth", bandwidth)
        if mode == "exact" and (kernel != "linear" or keep_batches):
            raise ValueError(
                "mode='exact' exists for kernel='linear' without keep_batches only, got "
                f"kernel={kernel!r}, keep_batches={keep_batches}."
            )
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating dtype, got {dtype}.")
        for argument, layers in (("layers_x", layers_x), ("layers_y", layers_y)):
            if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
                raise ValueError(f"{argument} must be distinct layer names, at least one, got {layers!r}.")
        self.layers_x, self.layers_y = tuple(layers_x), tuple(layers_y)
        self.mode, self.kernel, self.batch_weighting, self.pooling = mode, kernel, batch_weighting, pooling
        self.dtype, self.bandwidth, self.keep_batches = dtype, bandwidth, keep_batches
        self.n_samples = self.n_batches = self.n_skipped = 0
        self.hsic, self.hsic_x, self.hsic_y = torch.zeros(0), torch.zeros(0), torch.zeros(0)
        self._labels = (*(f"x:{name}" for name in self.layers_x), *(f"y:{name}" for name in self.layers_y))
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._stream: _Stream | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held at the moment: sums, streamed sums, and batches where they are kept."""
        return sum(t.nbytes for t in _tensors_in(vars(self)))

    def update(self, feats_x: Mapping[str, Tensor], feats_y: Mapping[str, Tensor]) -> None:
        """Add one batch.

        Args:
            feats_x, feats_y: ``(n, ...)`` features by layer name, the same samples in the same order.

        Raises:
            ValueError: missing or extra layers, different batch sizes, non-finite features, naming the layer.
        """
        xs, ys = self._select("feats_x", self.layers_x, feats_x), self._select("feats_y", self.layers_y, feats_y)
        each = {name: t.shape[0] if t.ndim else 0 for name, t in zip(self._labels, (*xs, *ys), strict=True)}
        n = each[self._labels[0]]
        if set(each.values()) != {n}:
            raise ValueError(
                "feats_x and feats_y must hold the same samples, got batch sizes "
                f"{', '.join(f'{name}: {size}' for name, size in each.items())}."
            )
        if self.mode == "exact":
            self._update_exact(xs, ys)
        elif n < 4:
            self.skip(n)
        else:
            grams = torch.stack(
                [
                    ucentered_gram(
                        pool_features(t.detach(), self.pooling),
                        kernel=self.kernel,
                        bandwidth=self.bandwidth,
                        dtype=self.dtype,
                    )
                    for t in (*xs, *ys)
                ]
            )
            self.update_grams(*grams.split([len(xs), len(ys)]))

    def skip(self, n: int) -> None:
        """Count a batch of ``n < 4`` samples as left out; the first one is warned about."""
        self.n_skipped += 1
        if self.n_skipped == 1:
            warnings.warn(
                f"a batch of {n} samples was left out of the CKA map: the unbiased estimator needs at least "
                "4. Further ones are counted in n_skipped.",
                UserWarning,
                stacklevel=3,
            )

    def update_grams(self, grams_x: Tensor, grams_y: Tensor) -> None:
        """Add one batch from the U-centred Grams (:func:`ucentered_gram`) of its layers.

        Hooks that return these keep no activations.

        Args:
            grams_x, grams_y: ``(L1, n, n)`` and ``(L2, n, n)``.

        Raises:
            ValueError: wrong shapes, non-finite values (naming the layers), exact mode.
        """
        if self.mode == "exact":
            raise ValueError("update_grams needs mode='minibatch': Gram matrices of batches do not give the exact map.")
        n = grams_x.shape[-1]
        for argument, grams, layers in (("grams_x", grams_x, self.layers_x), ("grams_y", grams_y, self.layers_y)):
            if grams.shape != (len(layers), n, n):
                raise ValueError(f"{argument} must have shape ({len(layers)}, {n}, {n}), got {describe(grams)}.")
        wide = _accumulator(grams_x.device)
        x, y = grams_x.flatten(1).to(wide), grams_y.flatten(1).to(wide)
        own_x, own_y = x.square().sum(1), y.square().sum(1)
        bad = ~torch.isfinite(torch.cat([own_x, own_y]))
        if bool(bad.any()):
            names = [label for label, b in zip(self._labels, bad.tolist(), strict=True) if b]
            raise ValueError(
                f"the Gram matrix of {', '.join(names)} is not finite: the features are NaN or infinite, "
                "or so large that products overflow (use dtype=torch.float64), or, with kernel='rbf', the "
                "same for most pairs of samples."
            )
        weight = 1.0 if self.batch_weighting == "pairs" else 1.0 / (n * (n - 3))
        batch = (weight * (x @ y.T), weight * own_x, weight * own_y)
        if self.n_batches:
            self.hsic, self.hsic_x, self.hsic_y = self.hsic + batch[0], self.hsic_x + batch[1], self.hsic_y + batch[2]
        else:
            self.hsic, self.hsic_x, self.hsic_y = batch
        if self.keep_batches:
            self._batches.append(batch)
        self.n_batches += 1
        self.n_samples += n

    def compute(self, *, unbiased: bool = True) -> Tensor:
        """The map so far: ``(L1, L2)`` float64; may be called at any time, and again.

        Args:
            unbiased: ``False`` gives Kornblith's biased value of the whole set, in exact mode only.

        Raises:
            RuntimeError: no usable batch yet (exact mode: fewer than 4 samples, biased fewer than 2).
            ValueError: ``unbiased=False`` in minibatch mode.

        A layer that is constant gives a row (column) of NaN and a ``UserWarning`` with its name.
        """
        if not unbiased and self.mode != "exact":
            raise ValueError("unbiased=False needs mode='exact': the bias of batch values depends on the batch size.")
        if self.n_batches == 0 or self.n_samples < (4 if unbiased else 2):
            raise RuntimeError(
                f"no usable batch yet: {self.n_samples} samples added, {self.n_skipped} batches left "
                "out because they had fewer than 4 samples."
            )
        terms = self._stream.terms(unbiased) if self._stream else (self.hsic, self.hsic_x, self.hsic_y)
        own = torch.cat(terms[1:]).tolist()
        constant = [label for label, value in zip(self._labels, own, strict=True) if not value > 0]
        if constant:
            warnings.warn(
                f"CKA is undefined (NaN) for {', '.join(constant)}: the same features for every sample.",
                UserWarning,
                stacklevel=2,
            )
        return _normalise(*terms)

    def bootstrap(self, resamples: int, *, confidence: float = 0.95, seed: int = 0) -> Tensor:
        """Percentile interval of every cell over resampled batches: the batch is the unit of the estimate.

        Args:
            resamples: how many times the batches are drawn with replacement.
            confidence: coverage aimed at.
            seed: of the draws.

        Returns:
            ``(L1, L2, 2)``: lower and upper bound.

        Raises:
            RuntimeError: batches were not kept. ValueError: fewer than 2 batches, bad arguments.
        """
        if not self.keep_batches:
            raise RuntimeError("bootstrap needs CKAMap(..., keep_batches=True).")
        check_positive("resamples", resamples)
        check_fraction("confidence", confidence, closed=False)
        if self.n_batches < 2:
            raise ValueError(
                f"bootstrap resamples batches and needs at least 2 of them, got {self.n_batches}: use smaller batches."
            )
        kept = [torch.stack(part) for part in zip(*self._batches, strict=True)]
        generator = torch.Generator().manual_seed(seed)
        draws = torch.randint(self.n_batches, (resamples, self.n_batches), generator=generator)
        counts = F.one_hot(draws, self.n_batches).sum(1).to(kept[0])
        maps = _normalise(*(torch.einsum("rb,b...->r...", counts, part) for part in kept))
        tail = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2]).to(maps)
        return torch.quantile(maps, tail, dim=0).movedim(0, -1)

    @staticmethod
    def _select(argument: str, layers: tuple[str, ...], feats: Mapping[str, Tensor]) -> list[Tensor]:
        missing, extra = [n for n in layers if n not in feats], [n for n in feats if n not in layers]
        if missing or extra:
            raise ValueError(
                f"{argument} must hold exactly the layers {', '.join(layers)}; "
                f"missing: {', '.join(missing) or 'none'}; extra: {', '.join(extra) or 'none'}."
                f"{closest(missing[0], extra) if missing else ''}"
            )
        return [feats[n] for n in layers]

    def _update_exact(self, xs: list[Tensor], ys: list[Tensor]) -> None:
        flat = [
            _rows(pool_features(t.detach(), self.pooling), f"layer {label!r}")
            for label, t in zip(self._labels, (*xs, *ys), strict=True)
        ]
        if self._stream is None:
            self._stream = _Stream(flat[: len(xs)], flat[len(xs) :])
        self._stream.add(flat[: len(xs)], flat[len(xs) :])
        self.n_batches += 1
        self.n_samples = self._stream.n


def _tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors in an object, its attributes and containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(item)
    elif isinstance(value, _Stream | _Side):
        yield from _tensors_in(vars(value))


def _normalise(xy: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    """``A_ij / sqrt(a_i c_j)``; 0/0 of a constant layer is NaN."""
    return xy / (xx.sqrt()[..., :, None] * yy.sqrt()[..., None, :])


# ---------------------------------------------------------------------------- subspaces


def _directions(x: Tensor, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of centred features, without those below the resolution of the input."""
    u, s, _ = torch.linalg.svd(_centred(x, name), full_matrices=False)
    keep = s > torch.finfo(dtype).eps * max(x.shape) * s[0]
    return u[:, keep], s[keep]


def _check_wide(n: int, widths: Sequence[int], names: str) -> None:
    if n <= max(widths):
        raise ValueError(
            f"CCA needs more samples than features, got N = {n}, d = {' and '.join(map(str, widths))} in "
            f"{names}: every direction would correlate. Use svcca: it keeps the leading directions."
        )


def _spaces(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dtypes = _out_dtype(x), _out_dtype(y)
    x, y = _pair(x, y, min_samples=2)
    _check_wide(len(x), (x.shape[1], y.shape[1]), "x and y")
    return _directions(x, "x", dtypes[0])[0], _directions(y, "y", dtypes[1])[0]


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
            x = _rows(values, name)
            _check_wide(len(x), x.shape[1:], name)
            found.append(_directions(x, name, _out_dtype(values))[0])
        return found

    us, vs = directions("features_x", features_x), directions("features_y", features_y)
    sizes = {len(z) for z in (*us, *vs)}
    if len(sizes) != 1 or not us or not vs:
        raise ValueError(
            "features_x and features_y must hold layers of the same samples, got "
            f"{', '.join(map(str, sorted(sizes))) or 'no'} samples."
        )
    return torch.stack([torch.stack([torch.linalg.svdvals(u.T @ v).clamp(0, 1).mean() for v in vs]) for u in us])


def cca_r2(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared canonical correlation, ``R^2_CCA`` of Kornblith et al. 2019, arXiv:1905.00414, table 1.

    Args:
        x, y: as in :func:`cca_coefficients`, whose errors are raised.

    Returns:
        Scalar, float64, in [0, 1].
    """
    return cca_coefficients(x, y).square().mean()


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
    u, s = _directions(_rows(x, name), name, _out_dtype(x))
    share = s.square().cumsum(0) / s.square().sum()
    return u[:, : min(int((share < threshold).sum()) + 1, len(s))]


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
    check_features_pair(x, y, names=_XY, min_samples=2)
    u, v = _leading(x, "x", threshold), _leading(y, "y", threshold)
    return torch.linalg.svdvals(u.T @ v).clamp(0, 1).mean()


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
    columns = _centred(_rows(x, "x"), "x")
    alpha = (columns.T @ (u @ left)).abs().sum(0)
    return (alpha / alpha.sum()) @ rho.clamp(0, 1)


# ---------------------------------------------------------------------------- shape


def _nuclear(x: Tensor, y: Tensor) -> Tensor:
    """Nuclear norm of ``A^T B`` for centred A, B of Frobenius norm 1; never larger than N x N."""
    a, b = _centred_pair(x, y, min_samples=2)
    a, b = (z / z.norm() for z in (a, b))
    a, b = (torch.linalg.qr(z.T).R.T if z.shape[1] > len(z) else z for z in (a, b))
    return torch.linalg.svdvals(a.T @ b).sum()


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
    x, y = _pair(x, y, min_samples=3)
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
    x, y = _pair(x, y, min_samples=2)
    _check_k(k, len(x), 1)
    x, y = (F.normalize(z, dim=1) if normalize else z for z in (x, y))
    shared = _neighbours(x @ x.T, k) & _neighbours(y @ y.T, k)
    return shared.sum().to(x.dtype) / (len(x) * k)


def _hsic_masked(p: Tensor, q: Tensor) -> Tensor:
    """Unbiased HSIC (Song et al. 2012, eq. 5) of matrices with zero diagonal that need not be symmetric."""
    n = len(p)
    through = 2 / (n - 2) * (p.sum(0) @ q.sum(1))
    return ((p * q.T).sum() + p.sum() * q.sum() / ((n - 1) * (n - 2)) - through) / (n * (n - 3))


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
    _centred_pair(x, y, min_samples=4)  # refuses constant features; the inner products are those of the raw ones
    gram_x, gram_y = gram_linear(x), gram_linear(y)
    _check_k(k, len(gram_x), 2)
    near_x, near_y = _neighbours(gram_x, k), _neighbours(gram_y, k)

    def similarity(p: Tensor, q: Tensor, mask: Tensor) -> Tensor:
        return _hsic_masked(p * mask, q * mask)

    own = similarity(gram_x, gram_x, near_x) * similarity(gram_y, gram_y, near_y)
    return similarity(gram_x, gram_y, near_x & near_y) / (own.sqrt() + 1e-6)


# ---------------------------------------------------------------------------- side by side


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
    "KERNELS",
    "CKAMap",
    "cca_coefficients",
    "cca_r2",
    "center_gram",
    "cka",
    "cka_loss",
    "cka_matrix",
    "cknna",
    "gram_linear",
    "gram_rbf",
    "hsic",
    "leading_directions",
    "mean_cca",
    "mean_cca_matrix",
    "mutual_knn",
    "procrustes_disparity",
    "procrustes_distance",
    "pwcca",
    "rsa",
    "similarity_profile",
    "svcca",
    "ucentered_gram",
]
