"""Losses of features in which samples count by their difficulty: more where the student itself does badly."""

from __future__ import annotations

from torch import Tensor

from .checks import check_features_pair, describe, names_arguments
from .reductions import at_least_float32, reduce


@names_arguments
def difficulty_weights(
    box_loss: Tensor, *, alpha: float = 2e-4, beta: float = 2e-4, min_weight: float | None = None
) -> Tensor:
    """AFKD's weight per sample, ``alpha + beta (l - mean l)``; the mean weight is ``alpha``.

    Args:
        box_loss: ``(B,)`` difficulty, in the paper 1 - GIoU of the student's box.
        alpha: weight of a sample of average difficulty; default 2e-4 (official).
        beta: extra weight per unit of difficulty; default 2e-4 (official).
        min_weight: lower bound; by default none, so easy samples may get a negative weight once ``l < mean - alpha /
            beta``.

    Returns:
        ``(B,)``, differentiable in ``box_loss``.

    Raises:
        ValueError: not ``(B,)`` with at least one sample.

    Reference:
        arXiv:2504.09228, section 3.3; wuyou3474/ORTrack: ``2e-5 * (10 + 10 * (l - mean))``.
    """
    if box_loss.ndim != 1 or not box_loss.numel():
        raise ValueError(f"box_loss must be (B,) with at least one sample, got {describe(box_loss)}.")
    weights = alpha + beta * (box_loss - box_loss.mean())
    return weights if min_weight is None else weights.clamp(min=min_weight)


@names_arguments
def adaptive_feature_kd_loss(
    student_tokens: Tensor,
    teacher_tokens: Tensor,
    box_loss: Tensor,
    *,
    alpha: float = 2e-4,
    beta: float = 2e-4,
    detach_weight: bool = True,
    min_weight: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Squared token error per sample, weighted by how badly the student does on that sample.

    Args:
        student_tokens: ``(B, T, D)``.
        teacher_tokens: ``(B, T, D)``; detached.
        box_loss: ``(B,)`` difficulty, 1 - GIoU of the student's box.
        alpha, beta: see :func:`difficulty_weights`; official 2e-4 both, with tokens of size 1 about 0.5.
        detach_weight: no gradient through the weights (default, ours). ``False``: the gradient of the released code,
            which rewards a student for making hard samples easier *and* for matching less where it fails.
        min_weight: lower bound of the weights; none by default.
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``(B,)``.

    Raises:
        ValueError: token shapes that differ or are not ``(B, T, D)``, ``box_loss`` not ``(B,)``, unknown reduction.

    Reference:
        Wu et al., ORTrack (2025), arXiv:2504.09228, section 3.3 (adaptive feature-based knowledge distillation).
    """
    names = ("student_tokens", "teacher_tokens")
    check_features_pair(student_tokens, teacher_tokens, names=names, same_shape=True, min_samples=1)
    if student_tokens.ndim != 3 or 0 in student_tokens.shape:
        raise ValueError(f"student_tokens must be (B, T, D), none of them 0, got {describe(student_tokens)}.")
    if box_loss.shape != student_tokens.shape[:1]:
        raise ValueError(
            f"box_loss must be ({student_tokens.shape[0]},), one number per sample, got {describe(box_loss)}."
        )
    s, t = at_least_float32(student_tokens), at_least_float32(teacher_tokens.detach())
    difficulty = at_least_float32(box_loss.detach() if detach_weight else box_loss)
    weights = difficulty_weights(difficulty, alpha=alpha, beta=beta, min_weight=min_weight)
    return reduce(weights * (s - t).square().mean((1, 2)), reduction)
