"""Two feature spaces in one picture: principal coordinates of both, the one rotated onto the other, and what is left
per sample; and how many directions a feature space uses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_features_pair, describe, names_arguments


class Alignment(NamedTuple):
    """Student and teacher in the teacher's principal axes.

    Attributes:
        student, teacher: ``(N, d)`` coordinates, centred, of total square 1 before the cut to ``d`` axes; the student
            rotated (and scaled) to fit best.
        residual: ``(N,)`` squared distance left per sample, times N, so that its mean is the disparity.
        disparity: in [0, 1]; 0 for equal shapes
            (:func:`~kdcore.functional.similarity.procrustes_disparity`, ``scipy.spatial.procrustes``).
        explained: ``(d,)`` shares of the teacher's variance on the axes.
    """

    student: Tensor
    teacher: Tensor
    residual: Tensor
    disparity: float
    explained: Tensor


def _principal(x: Tensor, name: str) -> Tensor:
    """Coordinates on the principal axes, centred and of Frobenius norm 1; the number of columns is the rank at most."""
    rows = x.detach().flatten(1).double()
    rows = rows - rows.mean(0)
    norm = torch.linalg.matrix_norm(rows)
    if not torch.isfinite(norm):
        raise ValueError(f"{name} must be finite, got NaN or infinity.")
    if norm == 0:
        raise ValueError(f"{name} is constant over the samples: there is no shape to align.")
    left, strength, _ = torch.linalg.svd(rows / norm, full_matrices=False)
    return left * strength


@names_arguments
def procrustes_coordinates(student_features: Tensor, teacher_features: Tensor, *, dim: int = 2) -> Alignment:
    """Principal coordinates of the teacher, and the student rotated onto them as well as can be.

    Args:
        student_features: ``(N, ...)``. teacher_features: ``(N, ...)``; widths may differ (the narrower is padded with
            zeros).
        dim: number of axes kept for the picture; fewer if the features have fewer. The fit uses all of them.

    Raises:
        ValueError: different N, N < 2, constant or non-finite features, ``dim < 1``.

    Reference:
        Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem".
    """
    check_features_pair(student_features, teacher_features, min_samples=2)
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim!r}.")
    s, t = _principal(student_features, "student_features"), _principal(teacher_features, "teacher_features")
    width = max(s.shape[1], t.shape[1])
    s, t = (torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (s, t))
    left, strength, right = torch.linalg.svd(s.T @ t)
    fitted = strength.sum() * (s @ (left @ right))
    return Alignment(
        fitted[:, :dim],
        t[:, :dim],
        len(t) * (t - fitted).square().sum(1),
        float(1 - strength.sum().square()),
        t.square().sum(0)[:dim],
    )


@names_arguments
def effective_rank(x: Tensor) -> float:
    """Participation ratio of the covariance's eigenvalues, ``(sum l)^2 / sum l^2``: how many directions are used.

    Args:
        x: ``(N, ...)`` features, N >= 2.

    Returns:
        Between 1 and ``min(N - 1, D)``; 0 for features that do not vary at all.

    Raises:
        ValueError: fewer than two samples, NaN or infinity.

    Reference:
        Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262.
    """
    if x.ndim < 1 or len(x) < 2:
        raise ValueError(f"x must hold at least 2 samples, got {describe(x)}.")
    rows = x.detach().flatten(1).double()
    rows = rows - rows.mean(0)
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    if not torch.isfinite(gram).all():
        raise ValueError("x must be finite, got NaN or infinity.")
    squares = gram.square().sum()
    return float(gram.trace().square() / squares) if squares > 0 else 0.0


@names_arguments
def spread_share(x: Tensor) -> float:
    """Variance over samples as a share of the mean square: 0 for features that are the same for all samples, at most 1.

    Args:
        x: ``(N, ...)``. A zero tensor has share 0.
    """
    rows = x.detach().flatten(1).double()
    energy = rows.square().sum()
    return float((rows - rows.mean(0)).square().sum() / energy) if energy > 0 else 0.0


__all__ = ["Alignment", "effective_rank", "procrustes_coordinates", "spread_share"]
