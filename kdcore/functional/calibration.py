"""Is a classifier as often right as it says? Reliability, expected calibration error, the temperature that fits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_labels, check_positive, describe, names_arguments

#: Range in which :func:`fit_temperature` looks.
TEMPERATURE_RANGE = (1e-3, 1e3)


class Reliability(NamedTuple):
    """Samples sorted by confidence into bins of equal width over (0, 1].

    Attributes:
        counts: ``(B,)`` samples per bin. confidence, accuracy: ``(B,)`` float64 means; NaN in an empty bin.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error: mean over samples of ``|accuracy - confidence|`` of their bin."""
        gap = (self.accuracy - self.confidence).abs().nan_to_num()
        return float((gap * self.counts).sum() / self.counts.sum())


def _check(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if logits.ndim != 2 or not logits.is_floating_point() or not len(logits):
        raise ValueError(f"logits must be floating (N, C) with N >= 1, got {describe(logits)}.")
    return logits.detach().double(), check_labels(labels, *logits.shape)


@names_arguments
def reliability(logits: Tensor, labels: Tensor, *, bins: int = 15) -> Reliability:
    """Accuracy against confidence (the highest probability), in bins ``((b - 1) / B, b / B]``.

    Args:
        logits: ``(N, C)`` raw scores.
        labels: ``(N,)`` classes.
        bins: number of bins; default 15 (Guo et al.).

    Raises:
        ValueError: shapes, labels or ``bins`` that do not fit.

    Reference:
        "On Calibration of Modern Neural Networks" (Guo et al., 2017), arXiv:1706.04599, eq. 2 and 3.
    """
    logits, labels = _check(logits, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins!r}.")
    confidence, predicted = logits.softmax(1).max(1)
    home = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = home.bincount(minlength=bins)
    total = [
        torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, home, values)
        for values in (confidence, (predicted == labels).double())
    ]
    return Reliability(count, total[0] / count, total[1] / count)


@names_arguments
def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]; arguments, errors and reference as for :func:`reliability`."""
    return reliability(logits, labels, bins=bins).error


@names_arguments
def fit_temperature(logits: Tensor, labels: Tensor, *, iterations: int = 60) -> float:
    """The temperature at which ``softmax(logits / T)`` gives the labels the highest likelihood.

    The negative log-likelihood is convex in ``1 / T``; the zero of its slope, ``E_p[z] - z_y``, is found by bisection.
    Above 1: the logits are over-confident; below 1: too flat. Where every sample is right there is no such T and the
    lower end of :data:`TEMPERATURE_RANGE` is returned.

    Args:
        logits: ``(N, C)`` raw scores.
        labels: ``(N,)`` classes.
        iterations: halvings of the interval of ``log T``.

    Raises:
        ValueError: shapes or labels that do not fit.

    Reference:
        Guo et al., 2017, arXiv:1706.04599, section 4.2.
    """
    logits, labels = _check(logits, labels)
    check_positive("iterations", iterations)
    logits = logits - logits.max(1, keepdim=True).values
    target = logits.gather(1, labels[:, None]).squeeze(1)
    low, high = (torch.tensor(t, dtype=torch.float64).log() for t in TEMPERATURE_RANGE)
    for _ in range(iterations):
        middle = (low + high) / 2
        slope = (((logits / middle.exp()).softmax(1) * logits).sum(1) - target).mean()
        low, high = (middle, high) if slope > 0 else (low, middle)  # too sharp: a higher temperature
    return float(((low + high) / 2).exp())


__all__ = ["TEMPERATURE_RANGE", "Reliability", "expected_calibration_error", "fit_temperature", "reliability"]
