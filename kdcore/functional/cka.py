r"""Centred kernel alignment: of two representations, of all pairs of layers, batch by batch, and as a loss.

Rows of ``x`` ``(N, ...)`` and ``y`` ``(N, ...)`` are the same samples in the same order; widths may differ, everything
behind the first dimension is flattened. Gram matrices and HSIC, the parts of CKA, live in
:mod:`~kdcore.functional.gram`.

References: Kornblith et al. 2019, arXiv:1905.00414 (CKA); Nguyen, Raghu, Kornblith 2021, arXiv:2010.15327 (minibatch
CKA).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._cka_stream import Side, Stream
from ._features import XY, accumulator, centred, centred_pair, out_dtype, rows_of
from .checks import (
    check_choice,
    check_features_pair,
    check_fraction,
    check_positive,
    closest,
    describe,
    names_arguments,
)
from .gram import double_center, rbf, u_center, ucentered_gram
from .pooling import POOLINGS, pool_features

KERNELS = ("linear", "rbf")


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
        gram = rbf(gram, bandwidth, name)
    # Round-off enters the self term squared: eps^2 |K|^2, which _ratio's eps turns into the bound below.
    size = torch.finfo(x.dtype).eps * gram.detach().square().sum()
    return (u_center if unbiased else double_center)(gram), size


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
    x, y = centred_pair(x, y, min_samples=4 if unbiased else 2, names=names)
    x, y = (z / z.detach().abs().max() for z in (x, y))  # same value and gradient, but nothing overflows
    if method == "feature" or (method == "auto" and kernel == "linear" and len(x) > max(x.shape[1], y.shape[1])):
        return _cka_feature(x, y, unbiased, names)
    return _cka_gram(x, y, kernel, unbiased, bandwidth, names)


@names_arguments
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
    return _cka(x, y, kernel, unbiased, bandwidth, method, XY).to(out_dtype(x))


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
    x = centred(rows_of(layer, name), name)
    gram, size = _centred_gram(x / x.abs().max(), kernel, unbiased, bandwidth, name)
    _check_spread(gram.square().sum(), size, name)
    return gram.flatten()


@names_arguments
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
    return (1 - value).to(torch.promote_types(out_dtype(student_features), torch.float32))


# ---------------------------------------------------------------------------- all pairs of layers


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
        self._stream: Stream | None = None

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
        wide = accumulator(grams_x.device)
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
            rows_of(pool_features(t.detach(), self.pooling), f"layer {label!r}")
            for label, t in zip(self._labels, (*xs, *ys), strict=True)
        ]
        if self._stream is None:
            self._stream = Stream(flat[: len(xs)], flat[len(xs) :])
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
    elif isinstance(value, Stream | Side):
        yield from _tensors_in(vars(value))


def _normalise(xy: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    """``A_ij / sqrt(a_i c_j)``; 0/0 of a constant layer is NaN."""
    return xy / (xx.sqrt()[..., :, None] * yy.sqrt()[..., None, :])


__all__ = ["KERNELS", "CKAMap", "cka", "cka_loss", "cka_matrix"]
