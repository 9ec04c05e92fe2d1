"""CKA of all pairs of layers of two models, in one pass over a loader.

Each hook turns its layer's output into one small Gram matrix at once, so no activation is kept; one product per batch
then gives all pairs. Grams can be kept (``keep_grams=True``): a teacher's Grams serve for every later map against it,
without running it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ._cka_result import CKAResult, KeptGrams, LayerMatch
from .functional.checks import check_choice, check_non_negative
from .functional.cka import KERNELS, CKAMap, cka_matrix
from .functional.gram import ucentered_gram
from .functional.pooling import POOLINGS, pool_features
from .inputs import Batch, own_type, read_batch
from .model_layers import feature_kind, layers
from .taps import Taps, evaluating, resolve_names

if TYPE_CHECKING:
    pass

Transform = Callable[[Any], Any]


class _Side:
    """One of the two models: taps whose hooks return Grams (or pooled features), or Grams kept from before."""

    def __init__(
        self,
        source: nn.Module | KeptGrams,
        names: str | Sequence[str] | None,
        transform: Transform | None,
        *,
        exact: bool,
        settings: dict[str, Any],
        dtype: torch.dtype | None,
    ) -> None:
        self.names = names
        self.transform = transform
        self.exact, self.settings, self.dtype = exact, settings, dtype
        self.kept: KeptGrams | None = None
        self.model: nn.Module | None = None
        self.layers: tuple[str, ...] = ()
        self.shapes: tuple[tuple[int, ...], ...] = ()
        self.taps: Taps | None = None
        self._seen: list[tuple[Tensor, tuple[int, ...]]] = []
        if isinstance(source, KeptGrams):
            self.kept = source if names is None else source.select(names)
            self.layers, self.shapes, self.device = self.kept.layers, self.kept.shapes, torch.device("cpu")
            return
        self.model = source
        cast = own_type(source)
        if transform is None and not isinstance(cast, nn.Identity):
            self.transform = cast
        if names is not None:
            resolve_names(source, names)  # unknown layers are refused before anything runs
        self.device = next((p.device for p in source.parameters()), torch.device("cpu"))
        self.channels_last = True if getattr(source, "output_fmt", None) == "NHWC" else None

    def reduce(self, x: Tensor) -> Tensor:
        """Inside the hook: the layer's output becomes a Gram matrix, or pooled features."""
        last = feature_kind(x.shape[1:], channels_last=self.channels_last) == "map_last"
        result = pool_features(x.detach(), self.settings["pooling"], channels_last=last)
        if not self.exact:
            kernel, bandwidth = self.settings["kernel"], self.settings["bandwidth"]
            result = ucentered_gram(result, kernel=kernel, bandwidth=bandwidth, dtype=self.dtype)
        if not self.layers:
            self._seen.append((result, tuple(x.shape)))
        return result

    def input(self, batch: Batch) -> Any:
        x = batch.to(self.device).x
        return x if self.transform is None else self.transform(x)

    def attach(self, batch: Batch, stack: ExitStack) -> None:
        """Put the taps on, once; which ones may depend on what the first batch looks like."""
        if self.model is not None and self.taps is None:
            names = self.names
            if names is None:
                x = self.input(batch)
                names = [info.name for info in layers(self.model, x if isinstance(x, Tensor) else None)]
            self.taps = stack.enter_context(Taps(self.model, names, reduce=self.reduce))

    def forward(self, batch: Batch) -> None:
        """One forward; the taps hold what it gave."""
        if self.model is not None:
            self.model(self.input(batch))

    def read(self, n: int, position: int, marks: Tensor) -> list[Tensor]:
        """Grams (or pooled features) of the layers for the batch at ``position``, in the layers' order."""
        if self.kept is not None:
            self.kept.check_marks(position, marks)
            return list(self.kept.batches[position])
        assert self.taps is not None
        if not self.layers:
            shapes = {
                name: next((s for r, s in self._seen if r is feature), tuple(feature.shape))
                for name, feature in self.taps.features.items()
            }
            self._seen.clear()
            silent = [name for name in self.taps.names if name not in shapes and f"{name}#0" not in shapes]
            if silent:
                self.taps.features[silent[0]]  # raises, and says why
            self.layers, self.shapes = tuple(shapes), tuple(s[1:] for s in shapes.values())
        values = [self.taps.features[name] for name in self.layers]
        for name, value in zip(self.layers, values, strict=True):
            if len(value) != n:
                raise ValueError(
                    f"layer {name!r} gave {len(value)} rows for a batch of {n}: its first dimension does "
                    "not count samples. Choose other layers."
                )
        return values


def _marks(batch: Batch) -> Tensor:
    """``(n, 2)``: sum and norm of each sample's input, by which kept Grams recognise their samples."""
    parts = batch.x.values() if isinstance(batch.x, dict) else (batch.x,)
    flat = [p.reshape(batch.size, -1) for p in parts if isinstance(p, Tensor)]
    sums = sum(f.sum(1, dtype=torch.float64) for f in flat)
    norms = sum(
        torch.linalg.vector_norm(f if f.is_floating_point() else f.double(), dim=1, dtype=torch.float64) for f in flat
    )
    return torch.stack([torch.as_tensor(sums), torch.as_tensor(norms)], 1).cpu()


def _batches(loader: Iterable[Any], limit: int | None) -> Iterator[Batch]:
    """The loader's batches in one form, cut after ``limit`` samples."""
    left = limit
    for raw in loader:
        batch = read_batch(raw)
        if left is not None and batch.size > left:
            parts = batch.x.items() if isinstance(batch.x, dict) else [("", batch.x)]
            cut = {k: v[:left] if isinstance(v, Tensor) else v for k, v in parts}
            batch = Batch(x=cut if isinstance(batch.x, dict) else cut[""])
        yield batch
        if left is not None:
            left -= batch.size
            if left <= 0:
                return


@contextmanager
def _placed(sides: Sequence[_Side], device: torch.device | str | None) -> Iterator[ExitStack]:
    """Models in eval mode, on ``device``, without gradients; everything is put back afterwards."""
    with ExitStack() as stack:
        for side in sides:
            if side.model is None:
                continue
            stack.enter_context(evaluating(side.model))
            if device is not None and side.device != torch.device(device):
                stack.callback(side.model.to, side.device)
                side.model.to(device)
                side.device = torch.device(device)
        stack.enter_context(torch.inference_mode())
        yield stack


def cka_map(
    model_x: nn.Module | KeptGrams,
    model_y: nn.Module | KeptGrams,
    loader: Iterable[Any] | None = None,
    *,
    layers_x: str | Sequence[str] | None = None,
    layers_y: str | Sequence[str] | None = None,
    mode: str = "minibatch",
    kernel: str = "linear",
    bandwidth: float = 0.5,
    batch_weighting: str = "pairs",
    pooling: str = "flatten",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    limit: int | None = None,
    transform_x: Transform | None = None,
    transform_y: Transform | None = None,
    keep_grams: bool = False,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> CKAResult:
    """CKA of all pairs of layers of two models on the same samples, in one pass.

    Unbiased linear minibatch CKA by default; see :class:`~kdcore.functional.cka.CKAMap` for the estimators.
    Both models run in eval and inference mode on the same batches; flags, devices and hooks are as before afterwards,
    also after an error. A model compared with itself runs once.

    Which samples share a batch matters a little: shuffle once, with a fixed generator. A loader sorted by class gives
    a biased minibatch map (``mode="exact"`` does not care).

    Args:
        model_x: the model of the rows, or Grams kept of it (:attr:`CKAResult.grams_x`).
        model_y: the model of the columns, or Grams kept of it.
        loader: gives batches (``x``, ``(x, y)``, ``(x, y, index)`` or dicts); not needed where both sides are kept
            Grams.
        layers_x, layers_y: tap names and globs (:mod:`kdcore.taps`); default what
            :func:`~kdcore.model_layers.layers` proposes.
        mode: ``"minibatch"``, or ``"exact"``: the whole-set value whatever the batches (linear only; memory
            ``sum_ij d1_i d2_j``, so pool wide layers).
        kernel: ``"linear"`` or ``"rbf"``. bandwidth: of the latter, a fraction of the median distance.
        batch_weighting: ``"pairs"`` or ``"uniform"``, for batches of unequal size.
        pooling: ``"flatten"``, ``"gap"`` (mean over H, W or tokens) or ``"cls"`` (token 0).
        dtype: precision of the Gram products in minibatch mode; default that of the features, at least float32. Sums
            are float64.
        device: run both models there; default where each of them is.
        limit: use this many samples; default all.
        transform_x, transform_y: applied to the batch's input for either model (its own normalisation, resizing).
        keep_grams: keep the Grams of both models in the result, ``4 L n^2`` bytes per batch: a later map against one
            of them runs only the other model. The samples are checked to be the same.
        bootstrap: number of resamples over batches for an interval per cell; 0 for none (minibatch mode only).
        confidence: coverage of the interval. seed: of its draws.
        progress: called with (batches done, number of batches or ``None``) after each batch.

    Raises:
        ValueError: unknown choice, empty loader, non-finite features, a layer whose first dimension is not the batch,
            kept Grams of other samples or settings, too few batches for the bootstrap.
        KeyError: unknown layer, with the closest names.
        RuntimeError: no batch of at least 4 samples.

    Warns:
        UserWarning: a constant layer (its row or column is NaN), a batch of fewer than 4 samples (left out).

    Reference:
        Nguyen, Raghu, Kornblith 2021, arXiv:2010.15327; Kornblith et al. 2019, arXiv:1905.00414.
    """
    check_choice("mode", mode, ("minibatch", "exact"))
    check_choice("kernel", kernel, KERNELS)
    check_choice("pooling", pooling, POOLINGS)
    check_non_negative("bootstrap", bootstrap)
    exact, kept = mode == "exact", [m for m in (model_x, model_y) if isinstance(m, KeptGrams)]
    if exact and (kernel != "linear" or kept or keep_grams or bootstrap):
        raise ValueError("mode='exact' exists for kernel='linear', without kept Grams and without bootstrap.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    if (loader is None) is not (len(kept) == 2):
        raise ValueError("loader is needed unless both sides are kept Grams, which have had theirs.")
    settings = {"kernel": kernel, "bandwidth": bandwidth, "pooling": pooling}
    for grams in kept:
        if grams.settings != settings:
            raise ValueError(f"the kept Grams were made with {grams.settings}, asked for is {settings}.")
    x, y = (
        _Side(model, names, transform, exact=exact, settings=settings, dtype=dtype)
        for model, names, transform in ((model_x, layers_x, transform_x), (model_y, layers_y, transform_y))
    )

    def new_map() -> CKAMap:
        return CKAMap(
            x.layers,
            y.layers,
            mode=mode,
            kernel=kernel,
            batch_weighting=batch_weighting,
            bandwidth=bandwidth,
            dtype=dtype or torch.float32,
            keep_batches=bootstrap > 0,
        )

    keepers: tuple[KeptGrams, ...] = ()
    if loader is None:
        assert x.kept is not None and y.kept is not None
        total = _from_grams(new_map(), x.kept, y.kept)
    else:
        total, keepers = _from_models(new_map, x, y, loader, limit, device, keep_grams, progress)
    return CKAResult(
        matrix=total.compute().cpu(),
        layers_x=x.layers,
        layers_y=y.layers,
        shapes_x=x.shapes,
        shapes_y=y.shapes,
        n_samples=total.n_samples,
        n_batches=total.n_batches,
        n_skipped=total.n_skipped,
        mode=mode,
        kernel=kernel,
        batch_weighting=batch_weighting,
        pooling=pooling,
        confidence=confidence,
        interval=total.bootstrap(bootstrap, confidence=confidence, seed=seed).cpu() if bootstrap else None,
        grams_x=keepers[0] if keepers else None,
        grams_y=keepers[1] if keepers else None,
    )


def _from_grams(total: CKAMap, x: KeptGrams, y: KeptGrams) -> CKAMap:
    if len(x.batches) != len(y.batches):
        raise ValueError(f"both sides must be kept of the same batches, got {len(x.batches)} and {len(y.batches)}.")
    for position, (grams_x, grams_y) in enumerate(zip(x.batches, y.batches, strict=True)):
        x.check_marks(position, y.marks[position])
        total.update_grams(grams_x, grams_y)
    return total


def _from_models(
    new_map: Callable[[], CKAMap],
    x: _Side,
    y: _Side,
    loader: Iterable[Any],
    limit: int | None,
    device: torch.device | str | None,
    keep: bool,
    progress: Callable[[int, int | None], None] | None,
) -> tuple[CKAMap, tuple[KeptGrams, ...]]:
    sides = (x, y)
    once = x.model is not None and x.model is y.model and x.transform is y.transform  # one forward feeds both
    length = len(loader) if hasattr(loader, "__len__") else None  # type: ignore[arg-type]
    total: CKAMap | None = None
    keepers: tuple[KeptGrams, ...] = ()
    small: list[int] = []
    used = 0
    with _placed(sides, device) as stack:
        for done, batch in enumerate(_batches(loader, limit), 1):
            if batch.size < 4 and not x.exact:
                small.append(batch.size)
                continue
            marks = _marks(batch) if keep or x.kept or y.kept else torch.empty(0)
            for side in sides:
                side.attach(batch, stack)
            for side in sides[:1] if once else sides:
                side.forward(batch)
            values_x, values_y = (side.read(batch.size, used, marks) for side in sides)
            if total is None:
                total = new_map()
                if keep:
                    keepers = tuple(KeptGrams(s.layers, s.shapes, s.settings) for s in sides)
            if x.exact:
                home = values_x[0].device
                total.update(
                    dict(zip(x.layers, values_x, strict=True)),
                    {name: v.to(home) for name, v in zip(y.layers, values_y, strict=True)},
                )
            else:
                grams = torch.stack(values_x), torch.stack(values_y)
                total.update_grams(grams[0], grams[1].to(grams[0].device))
                for keeper, gram in zip(keepers, grams, strict=False):
                    keeper.batches.append(gram.to("cpu", x.dtype or torch.float32))
                    keeper.marks.append(marks)
            used += 1
            if progress is not None:
                progress(done, length)
    if total is None:
        if not small:
            raise ValueError("loader gave no samples.")
        raise RuntimeError(f"no usable batch: all {len(small)} had fewer than the 4 samples that the estimator needs.")
    for n in small:
        total.skip(n)
    for side in sides:
        if side.kept is not None and len(side.kept.batches) != used:
            raise ValueError(
                f"the kept Grams hold {len(side.kept.batches)} batches, loader gave {used}: use the same "
                "data and limit."
            )
    return total, keepers


class BatchEstimate(NamedTuple):
    """Two ways of estimating a map from batches.

    Attributes:
        batch_size: samples per batch. n_batches: how many.
        minibatch: ``(L1, L2)`` minibatch CKA: the ratio of summed unbiased HSIC.
        naive: ``(L1, L2)`` mean over batches of the biased CKA of each batch.
    """

    batch_size: int
    n_batches: int
    minibatch: Tensor
    naive: Tensor


def batch_estimates(
    features_x: Mapping[str, Tensor],
    features_y: Mapping[str, Tensor],
    batch_sizes: Sequence[int],
    *,
    kernel: str = "linear",
    bandwidth: float = 0.5,
    seed: int = 0,
) -> list[BatchEstimate]:
    """What batches of several sizes say of a map whose whole-set value is :func:`cka_matrix` of the same features.

    Args:
        features_x, features_y: ``(N, ...)`` features by layer name, the same samples.
        batch_sizes: each at least 4 and at most N; samples that fill no whole batch are left out.
        kernel, bandwidth: as in :func:`cka_map`.
        seed: of the one shuffling of the samples, the same for all sizes.

    Raises:
        ValueError: a batch size outside [4, N], different numbers of samples, constant or non-finite features.
    """
    n = len(next(iter(features_x.values()), ()))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    shuffled = [{name: f[order] for name, f in features.items()} for features in (features_x, features_y)]
    estimates = []
    for size in batch_sizes:
        if not 4 <= size <= n:
            raise ValueError(f"batch_sizes must be in [4, {n}], the number of samples, got {size!r}.")
        streamed = CKAMap([*features_x], [*features_y], kernel=kernel, bandwidth=bandwidth)
        naive = []
        for start in range(0, n - size + 1, size):
            x, y = ({name: f[start : start + size] for name, f in features.items()} for features in shuffled)
            streamed.update(x, y)
            naive.append(cka_matrix(x, y, kernel=kernel, unbiased=False, bandwidth=bandwidth))
        estimates.append(BatchEstimate(size, len(naive), streamed.compute(), torch.stack(naive).mean(0)))
    return estimates


__all__ = ["BatchEstimate", "CKAResult", "KeptGrams", "LayerMatch", "batch_estimates", "cka_map"]
