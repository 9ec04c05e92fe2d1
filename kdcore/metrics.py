"""Metrics that stream: what a model is worth over a loader, batch by batch, with nothing concatenated.

A metric is anything with ``update(output, labels)``, ``compute()`` and ``reset()``: every ``torchmetrics.Metric``, and
the means over samples below. It knows its direction (``higher_is_better``). A plain function
``(logits, labels) -> float`` is accepted too; it is the one form that needs all outputs at once::

    evaluate(model, loader, metric={"f1": metric("f1", classes=10), "top5": metric("accuracy", classes=100, top_k=5)})
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoints import preserved_rng
from .functional.checks import check_choice
from .inputs import check_finite, input_normalization, read_batch
from .labels import class_labels, hard_labels
from .outputs import as_float32, logits_of
from .taps import evaluating


class Metric(Protocol):
    """What the loop asks of a metric; ``torchmetrics.Metric`` has it."""

    higher_is_better: bool | None

    def update(self, output: Any, labels: Any) -> None: ...
    def compute(self) -> Any: ...
    def reset(self) -> None: ...


class StopSignal(Protocol):
    """Anything with ``is_set()``, such as :class:`threading.Event`."""

    def is_set(self) -> bool: ...


#: One metric, several by name, or a function of all outputs and labels.
Metrics = Metric | Mapping[str, Metric] | Callable[[Tensor, Tensor], float]


class SampleMean:
    """The mean of a number per sample (pixel, token), summed in float64 while batches come.

    Args:
        values: ``(output, labels) -> (n,)``, the numbers of the entries that count.
        name: what tables call it.
        higher_is_better: its direction.
    """

    def __init__(self, values: Callable[[Any, Any], Tensor], name: str, *, higher_is_better: bool = True) -> None:
        self.values, self.name, self.higher_is_better = values, name, higher_is_better
        self.reset()

    total: float
    count: int

    def update(self, output: Any, labels: Any) -> None:
        values = self.values(output, labels).detach().double()
        self.total, self.count = self.total + values.sum().item(), self.count + values.numel()

    def compute(self) -> float:
        """The mean so far; NaN before the first entry."""
        return self.total / self.count if self.count else float("nan")

    def reset(self) -> None:
        self.total, self.count = 0.0, 0


class Collected:
    """A function of all outputs and labels as a metric: it keeps them on the CPU, which is what it costs.

    Args:
        function: ``(outputs (N, ...), labels (N, ...)) -> float``; an attribute ``higher_is_better`` is its direction.
        higher_is_better: its direction where the function does not say.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], float], *, higher_is_better: bool = True) -> None:
        self.function, self.name = function, metric_name(function)
        self.higher_is_better = getattr(function, "higher_is_better", higher_is_better)
        self.reset()

    def update(self, output: Tensor, labels: Tensor) -> None:
        self.parts.append((output.detach().cpu(), labels.cpu()))

    def compute(self) -> float:
        outputs, labels = zip(*self.parts, strict=True)
        return float(self.function(torch.cat(outputs), torch.cat(labels)))

    def reset(self) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit is at the label, ``(n,)`` bool; entries labelled -100 are left out."""
    return (logits.argmax(1) == labels)[labels != -100]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of samples (pixels, tokens) whose largest logit is at the label, those labelled -100 left out.

    Args:
        logits: ``(N, C, ...)``; labels: ``(N, ...)``.
    """
    return hits(logits, labels).double().mean().item()


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every entry that counts (labels other than -100), ``(n,)``; labels may be probabilities."""
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels.to(logits.dtype), reduction="none").flatten()
    return F.cross_entropy(logits, labels.long(), reduction="none")[labels != -100]


# torchmetrics by name -------------------------------------------------------------------------------------------------

#: Name -> where the metric is kept, and whether its constructor wants the number of classes.
_KEPT: dict[str, tuple[str, bool]] = {
    "accuracy": ("classification.MulticlassAccuracy", True),
    "f1": ("classification.MulticlassF1Score", True),
    "auroc": ("classification.MulticlassAUROC", True),
    "average_precision": ("classification.MulticlassAveragePrecision", True),
    "jaccard": ("classification.MulticlassJaccardIndex", True),
    "multilabel_f1": ("classification.MultilabelF1Score", True),
    "multilabel_average_precision": ("classification.MultilabelAveragePrecision", True),
    "multilabel_jaccard": ("classification.MultilabelJaccardIndex", True),
    "mean_iou": ("segmentation.MeanIoU", True),
    "psnr": ("image.PeakSignalNoiseRatio", False),
    "ssim": ("image.StructuralSimilarityIndexMeasure", False),
    "perplexity": ("text.Perplexity", False),
    "mse": ("MeanSquaredError", False),
    "mae": ("MeanAbsoluteError", False),
}
#: Options that torchmetrics leaves open: images here are in [0, 1].
_DEFAULTS: dict[str, dict[str, Any]] = {"psnr": {"data_range": 1.0}, "ssim": {"data_range": 1.0}}


def list_metrics() -> list[str]:
    """Names that :func:`metric` knows, sorted."""
    return sorted(_KEPT)


def metric(name: str, *, classes: int | None = None, **options: Any) -> Any:
    """A torchmetrics metric by name; torchmetrics is imported here, not before.

    Args:
        name: one of :func:`list_metrics`.
        classes: number of classes (labels); only read where the metric needs it.
        **options: of the torchmetrics class.

    Raises:
        ValueError: unknown name, or ``classes`` missing where it is needed.
    """
    check_choice("name", name, tuple(_KEPT))
    path, needs_classes = _KEPT[name]
    if needs_classes and classes is None:
        raise ValueError(f"metric {name!r} needs classes, the number of classes.")
    import torchmetrics
    import torchmetrics.image
    import torchmetrics.segmentation
    import torchmetrics.text

    module, _, kind = path.rpartition(".")
    cls = getattr(getattr(torchmetrics, module) if module else torchmetrics, kind)
    if needs_classes:
        parameters = inspect.signature(cls).parameters
        options[next(p for p in ("num_classes", "num_labels") if p in parameters)] = classes
    return cls(**_DEFAULTS.get(name, {}) | options)


# Over a loader --------------------------------------------------------------------------------------------------------


def metric_name(metric: Any) -> str:
    """What tables call a metric: its ``name``, a function's ``__name__``, or its class."""
    return str(getattr(metric, "name", None) or getattr(metric, "__name__", type(metric).__name__))


def named_metrics(metric: Metrics | None) -> dict[str, Any]:
    """Metrics by name, each with ``update``/``compute``/``reset``; ``None`` is :func:`accuracy`, streamed.

    Raises:
        TypeError: neither a metric nor a function, or an empty mapping.
    """
    given = metric if isinstance(metric, Mapping) else {None: accuracy if metric is None else metric}
    if not given:
        raise TypeError("metric must name at least one metric, got an empty mapping.")
    found: dict[str, Any] = {}
    for name, one in given.items():
        if one is accuracy:
            ready: Any = SampleMean(hits, "accuracy")
        elif all(callable(getattr(one, part, None)) for part in ("update", "compute", "reset")):
            ready = one
        elif callable(one):
            ready = Collected(one)
        else:
            raise TypeError(f"metric must have update, compute and reset, or be a function, got {one!r}.")
        found[name or metric_name(one)] = ready
    return found


def is_better(metric: Any) -> bool:
    """The direction of a metric: whether higher is better (so it is where a metric does not say)."""
    return getattr(metric, "higher_is_better", None) is not False


def reads_classes(metric: Any) -> bool:
    """Whether a metric is this module's accuracy, which wants one class per entry."""
    return getattr(metric, "values", None) is hits


def evaluation_labels(
    labels: Tensor, scores: Tensor, metrics: Iterable[Any], *, where: str = "validation data"
) -> tuple[Tensor, Tensor | None]:
    """Labels for metrics, and for the cross-entropy (``None``: they are no classes, so there is none).

    Accuracy wants classes: it gets the most probable one of one-hot rows and probabilities, and any fault ends here.
    Other metrics get labels as they are, whole numbers as ``(N, ...)`` int64.

    Raises:
        ValueError: classes out of range, or labels that accuracy cannot read; see :func:`kdcore.labels.class_labels`.
    """
    whole = not labels.is_floating_point() and labels.shape != scores.shape
    wanted = any(map(reads_classes, metrics))
    try:
        read = class_labels(labels, scores) if scores.ndim > 1 else labels
    except ValueError as error:
        if wanted or (whole and labels.ndim == scores.ndim - 1):
            raise ValueError(f"{where}: {error}") from None
        return labels, None
    if wanted:
        return hard_labels(read), read
    return (read if whole else labels), (read if whole else None)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    metric: Metrics | None = None,
    readout: Callable[[Any], Tensor] = logits_of,
    transform: Callable[[Any], Any] | None = None,
    device: torch.device | str | None = None,
    stop: StopSignal | None = None,
) -> dict[str, float]:
    """A model's metrics, and its cross-entropy where labels are classes, over a whole loader.

    Args:
        model: run in eval mode; its training flags are restored.
        loader: labelled batches (see :func:`kdcore.inputs.read_batch`); its random state is left as it was.
        metric: a metric, several by name, or a function ``(logits (N, C, ...), labels (N, ...)) -> float`` over all
            samples at once; ``None``: accuracy. Metrics get every batch on the CPU.
        readout: what of the model's output metrics read; default :func:`kdcore.outputs.logits_of`.
        transform: applied to ``x``; ``None``: the model's own normalisation
            (:func:`kdcore.inputs.input_normalization`).
        device: where to run; default: where the model is.
        stop: given up (with an empty result) as soon as it is set.

    Raises:
        ValueError: an empty loader or unlabelled batches.
    """
    device = torch.device(device) if device is not None else device_of(model)
    transform = transform if transform is not None else input_normalization(model).to(device)
    metrics, entropy = named_metrics(metric), SampleMean(cross_entropies, "ce", higher_is_better=False)
    for one in metrics.values():
        one.reset()
    number = -1
    with preserved_rng(getattr(loader, "generator", None)), evaluating(model):
        for number, raw in enumerate(loader):
            if stop is not None and stop.is_set():
                return {}
            batch = read_batch(raw)
            check_finite(batch, f"validation batch {number}")
            if batch.labels is None:
                raise ValueError(f"validation batch {number} has no labels: give (x, y).")
            scores = as_float32(readout(model(transform(batch.to(device).x)))).cpu()
            labels, classes = evaluation_labels(batch.labels.cpu(), scores, metrics.values())
            if classes is not None:
                entropy.update(scores, classes)
            for one in metrics.values():
                one.update(scores, labels)
    if number < 0:
        raise ValueError("the validation loader is empty.")
    found = {name: float(one.compute()) for name, one in metrics.items()}
    return found | ({"ce": entropy.compute()} if entropy.count and "ce" not in found else {})


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters (or buffers) are; the CPU for a model without any."""
    return next((p.device for p in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


__all__ = [
    "Collected",
    "Metric",
    "Metrics",
    "SampleMean",
    "StopSignal",
    "accuracy",
    "evaluate",
    "is_better",
    "list_metrics",
    "metric",
    "metric_name",
    "named_metrics",
]
