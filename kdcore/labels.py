"""What class labels may look like, for training and validation alike: numbers, columns, one-hot rows, probabilities."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .functional.checks import describe

_ADVICE = (
    "softmax cross-entropy wants one class per sample. For several classes per sample pass a loss of your own, e.g. "
    "loss=torch.nn.functional.binary_cross_entropy_with_logits, and a metric such as metric('multilabel_f1', classes=C)"
)


def class_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels as torch's cross-entropy takes them: int64 classes, or class probabilities as they are.

    Args:
        labels: whole numbers ``(N, ...)`` (-100: ignored), of any type, or with one column, ``(N, 1, ...)``; one-hot
            rows or probabilities ``(N, C, ...)``, classes in the second dimension as in ``logits``.
        logits: ``(N, C, ...)``.

    Returns:
        ``(N, ...)`` int64, or ``(N, C, ...)`` floating.

    Raises:
        ValueError: fractions, classes outside ``[0, C)``, rows that do not sum to 1, or another shape; the message says
            what is wanted.
    """
    n, classes, rest = logits.shape[0], logits.shape[1], tuple(logits.shape[2:])
    if tuple(labels.shape) == (n, 1, *rest) and classes > 1:
        labels = labels.squeeze(1)
    if tuple(labels.shape) == (n, *rest):
        return _numbers(labels, classes)
    if labels.shape == logits.shape:
        return _rows(labels)
    raise ValueError(
        f"labels must be {describe_shape((n, *rest))} whole numbers, or probabilities {describe_shape(logits.shape)}, "
        f"for logits {describe_shape(logits.shape)}, got {describe(labels)}."
    )


def describe_shape(shape: Any) -> str:
    """``(8,)``, ``(8, 4)``."""
    return str(tuple(int(size) for size in shape))


def _numbers(labels: Tensor, classes: int) -> Tensor:
    if labels.is_floating_point():
        if not bool((labels == labels.round()).all()):
            odd = labels[labels != labels.round()][0].item()
            raise ValueError(
                f"labels must be whole numbers of classes, got {odd:g} among them: for a regression pass a loss of "
                "your own (loss=..., metric=...)."
            )
        labels = labels.long()
    if fault := label_fault(labels, classes):
        raise ValueError(fault)
    return labels.long()


def _rows(labels: Tensor) -> Tensor:
    values = labels.double()
    sums = values.sum(1)
    if bool((values < 0).any()) or not bool(((sums - 1).abs() < 2e-2).all()):
        counts = bool(((values == 0) | (values == 1)).all())
        what = "have several classes in a row (multi-hot), or none" if counts else "have rows that are no probabilities"
        raise ValueError(
            f"labels {describe_shape(labels.shape)} {what}: sums from {sums.min():.3g} to {sums.max():.3g}; {_ADVICE}."
        )
    return labels if labels.is_floating_point() else labels.long().argmax(1)


def hard_labels(labels: Tensor) -> Tensor:
    """The most probable class of what :func:`class_labels` returned, ``(N, ...)``."""
    return labels.argmax(1) if labels.is_floating_point() else labels


def label_fault(labels: Tensor, classes: int) -> str | None:
    """What is wrong with integer class labels, if anything; -100 is torch's 'ignore'."""
    outside = (labels != -100) & ((labels < 0) | (labels >= classes))
    if not bool(outside.any()):
        return None
    where = outside.nonzero()[0].tolist()
    return (
        f"labels must be in [0, {classes}) as the student has {classes} classes, got {labels[outside][0].item()} "
        f"(at position {where[0] if len(where) == 1 else where})."
    )


def known_labels(data: Any) -> Tensor | None:
    """All labels where a data set has them at hand (``tensors[1]``, ``y``, ``labels``, ``targets``), else ``None``.

    Subsets (``dataset`` and ``indices``, as torch's) are looked through.
    """
    tensors = getattr(data, "tensors", None)
    if isinstance(tensors, tuple) and len(tensors) > 1:
        return torch.as_tensor(tensors[1])
    for name in ("y", "labels", "targets"):
        found = getattr(data, name, None)
        if found is not None and not callable(found):
            try:
                return torch.as_tensor(found if isinstance(found, Tensor) else np.asarray(found))
            except (TypeError, ValueError):
                return None  # words, ragged lists: whatever they are, they are no numbers
    inner, rows = getattr(data, "dataset", None), getattr(data, "indices", None)
    if inner is not None and rows is not None:
        of_all = known_labels(inner)
        return None if of_all is None else of_all[torch.as_tensor(np.asarray(rows), dtype=torch.long)]
    return None


def labels_hash(loader: Any) -> str | None:
    """A short hash of all labels of a loader's data set in their order, where it has them at hand."""
    found = known_labels(getattr(loader, "dataset", None))
    if found is None:
        return None
    digest = hashlib.sha256(f"{found.dtype}{tuple(found.shape)}".encode())
    digest.update(np.ascontiguousarray(found.cpu().numpy()).data)
    return digest.hexdigest()[:16]


__all__ = ["class_labels", "hard_labels", "known_labels", "label_fault", "labels_hash"]
