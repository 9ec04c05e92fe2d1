r"""Losses of a student taught by many specialized teachers: co-training, routed distillation, balance of the gate.

.. math::
    kd(s, t) = \tau^2 \, \mathrm{mean}_n \, KL(\mathrm{softmax}(t / \tau) \,\|\, \mathrm{softmax}(s / \tau))

MST-Distill (arXiv:2507.07015) is built of them; see :mod:`kdcore.methods.mst_distill`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_choice, check_labels, check_logits_pair, check_temperature, describe, names_arguments
from .divergences import kl_with_temperature
from .routing import cv_balance, kl_balance, select_experts, top_k_gate

ROUTINGS = ("topk", "weighted", "soft")
BALANCES = ("kl", "cv")
#: Up to so many logits, copying them for each of k teachers costs less than k calls.
_FEW = 2**18


@names_arguments
def kd_per_sample(student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, detach: bool = True) -> Tensor:
    """``T^2 KL`` per sample; over maps ``(..., C, H, W)`` the mean of their places. Classes are the second dimension.

    Of routed logits ``(N, k, C, ...)`` they are the third; the result then is ``(N, k)``.
    """
    classes = 1 if student_logits.ndim in (2, 4) else 2
    s, t = (x.movedim(classes, -1) for x in (student_logits, teacher_logits))
    kl = kl_with_temperature(s.contiguous(), t.contiguous(), temperature=temperature, detach=detach)
    return temperature**2 * kl.flatten(classes).mean(-1) if kl.ndim > classes else temperature**2 * kl


@names_arguments
def cotraining_loss(
    student_logits: Tensor,
    auxiliary_logits: Tensor,
    multimodal_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    detach_targets: bool = False,
) -> dict[str, Tensor]:
    """Stage 1: each of three networks learns from the labels and from the two others.

    Args:
        student_logits, auxiliary_logits, multimodal_logits: ``(N, C)`` or ``(N, C, H, W)``.
        labels: ``(N,)`` or ``(N, H, W)`` int64.
        temperature: tau; default 4 (Gray-OREO/MST-Distill).
        detach_targets: take the targets as constants; default off, as in the official code: the gradient also flows
            into the network that is learnt from.

    Returns:
        ``student``, ``auxiliary``, ``multimodal``: the loss of each; ``loss``: their sum.

    Raises:
        ValueError: different shapes, labels out of range, temperature not above zero. TypeError: logits not floating,
            labels not integers.

    Reference:
        arXiv:2507.07015, stage 1; official code: Gray-OREO/MST-Distill.
    """
    check_temperature(temperature)
    logits = {"student": student_logits, "auxiliary": auxiliary_logits, "multimodal": multimodal_logits}
    for other in (auxiliary_logits, multimodal_logits):
        check_logits_pair(student_logits, other, ndim=(2, 4))
    if student_logits.ndim == 2:
        check_labels(labels, *student_logits.shape)
    out = {}
    for name, own in logits.items():
        out[name] = F.cross_entropy(own.float() if own.dtype in (torch.float16, torch.bfloat16) else own, labels)
        for target in (t for n, t in logits.items() if n != name):
            out[name] = out[name] + kd_per_sample(own, target, temperature, detach=detach_targets).mean()
    return out | {"loss": torch.stack(list(out.values())).sum()}


@names_arguments
def load_balancing_loss(gate_probs: Tensor, *, mode: str = "kl") -> Tensor:
    """How unevenly the gate uses the teachers; 0 when their mean probabilities are equal.

    Args:
        gate_probs: ``(N, E)``.
        mode: ``"kl"``, KL of the uniform distribution to the mean gate, divided by E (official default); ``"cv"``,
            standard deviation over mean of the gate's sums.

    Raises:
        ValueError: unknown mode, or another shape.

    Reference:
        arXiv:2507.07015, stage 3; official code: Gray-OREO/MST-Distill. See :mod:`kdcore.functional.routing`.
    """
    check_choice("mode", mode, BALANCES)
    return kl_balance(gate_probs) if mode == "kl" else cv_balance(gate_probs)


@names_arguments
def routed_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    gate_probs: Tensor,
    *,
    routing: str = "topk",
    top_k: int = 1,
    temperature: float = 4.0,
) -> tuple[Tensor, Tensor]:
    """Stage 3: every sample is distilled from the teachers that the gate gives it.

    Args:
        student_logits: ``(N, C)`` or ``(N, C, H, W)``.
        teacher_logits: ``(E, N, C[, H, W])``, constants.
        gate_probs: ``(N, E)``.
        routing: ``"topk"``, the unweighted mean over the k most probable teachers (official); ``"weighted"``, one
            teacher whose logits are the mean weighted by the gate, a constant (unused in the official code);
            ``"soft"``, each teacher's loss weighted by the gate, which learns from it (ours).
        top_k: k in [1, E]; default 1 (official).
        temperature: tau; default 4 (official).

    Returns:
        The loss, and the teachers chosen ``(N, k)`` or, without a choice, ``gate_probs``.

    Raises:
        ValueError: shapes, an unknown routing, ``top_k``, ``temperature``. TypeError: logits not floating.

    Reference:
        arXiv:2507.07015, stage 3; official code: Gray-OREO/MST-Distill.
    """
    check_choice("routing", routing, ROUTINGS)
    check_temperature(temperature)
    s, z = student_logits, teacher_logits
    if s.ndim not in (2, 4) or not len(s) or z.ndim != s.ndim + 1 or not len(z) or z.shape[1:] != s.shape:
        raise ValueError(
            "teacher_logits must be (E, N, C[, H, W]) for student_logits (N, C[, H, W]) of at least one sample, got "
            f"{describe(z)} for {describe(s)}."
        )
    for argument, logits in (("student_logits", s), ("teacher_logits", z)):
        if not logits.is_floating_point():
            raise TypeError(f"{argument} must be a floating tensor of raw scores, got {describe(logits)}.")
    experts = len(z)
    if gate_probs.shape != (len(s), experts) or not gate_probs.is_floating_point():
        raise ValueError(f"gate_probs must be floating ({len(s)}, {experts}), got {describe(gate_probs)}.")
    if not isinstance(top_k, int) or not 1 <= top_k <= experts:
        raise ValueError(f"top_k must be an integer in [1, {experts}] (the number of teachers), got {top_k!r}.")
    if routing == "weighted":
        mixed = torch.einsum("ne,en...->n...", gate_probs.to(z.dtype), z).detach()
        return kd_per_sample(s, mixed, temperature).mean(), gate_probs
    if routing == "topk":
        chosen = top_k_gate(gate_probs, top_k).indices
        if top_k > 1 and s.numel() > _FEW:
            turns = (select_experts(z, chosen[:, i : i + 1]).squeeze(1) for i in range(top_k))
            return torch.stack([kd_per_sample(s, t, temperature).mean() for t in turns]).mean(), chosen
        routed = select_experts(z, chosen)
        return kd_per_sample(s.unsqueeze(1).expand_as(routed), routed, temperature).mean(), chosen
    every = z.movedim(0, 1)
    each = kd_per_sample(s.unsqueeze(1).expand_as(every), every, temperature)
    return (gate_probs.to(each.dtype) * each).sum(1).mean(), gate_probs


class StageWeights(NamedTuple):
    """Weights of the two terms of stage 3 beside the labels."""

    kl: float
    lb: float


def stage_weights(epoch: int) -> StageWeights:
    """``w_kl`` and ``w_lb`` in an epoch of stage 3, counted from 0: both start at 1 and shrink after epoch 0 already.

    After epoch e, ``w_lb`` is multiplied by 0.9 if e is a multiple of 10 and ``w_kl`` by 0.5 if it is one of 30.

    Raises:
        ValueError: a negative epoch.

    Reference:
        official code: Gray-OREO/MST-Distill.
    """
    if epoch < 0:
        raise ValueError(f"epoch must be >= 0, got {epoch!r}.")
    return StageWeights(kl=0.5 ** (-(-epoch // 30)), lb=0.9 ** (-(-epoch // 10)))


__all__ = [
    "BALANCES",
    "ROUTINGS",
    "StageWeights",
    "cotraining_loss",
    "kd_per_sample",
    "load_balancing_loss",
    "routed_distillation_loss",
    "stage_weights",
]
