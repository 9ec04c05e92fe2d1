r"""Top-k gates, and three measures of how evenly a router loads its experts (GShard, KL, coefficient of variation).

With router probabilities :math:`g_{ne}` of N tokens or samples over E experts, their mean
:math:`p_e = \mathrm{mean}_n \, g_{ne}`, and the share :math:`f_e` of the hard assignments that went to expert e:

.. math::
    L_{GShard} = E \sum_e f_e \, p_e, \qquad
    L_{KL} = \frac1E \sum_e \frac1E \left(\log \frac1E - \log p_e\right), \qquad
    L_{CV} = \frac{\mathrm{std}_e(p)}{\mathrm{mean}_e(p)}

All are smallest when every expert is used alike: 1, 0 and 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import describe, names_arguments
from .reductions import at_least_float32


class TopK(NamedTuple):
    """The experts of every token.

    Attributes:
        weights: ``(..., k)`` gate weights in descending order, differentiable. indices: ``(..., k)`` int64 experts.
    """

    weights: Tensor
    indices: Tensor


def _probabilities(probs: Tensor, name: str = "router_probs", *, min_experts: int = 1) -> Tensor:
    if not isinstance(probs, Tensor) or probs.ndim != 2 or not probs.is_floating_point() or not len(probs):
        raise ValueError(f"{name} must be floating probabilities (N, E) with N >= 1, got {describe(probs)}.")
    if probs.shape[1] < min_experts:
        raise ValueError(f"{name} needs at least {min_experts} experts, got {describe(probs)}.")
    return at_least_float32(probs)


@names_arguments
def top_k_gate(router_probs: Tensor, k: int, *, normalize: bool = False) -> TopK:
    """The ``k`` most probable experts and their probabilities; among equals the lower index comes first.

    The indices carry no gradient: only the weights do.

    Args:
        router_probs: ``(..., E)``.
        k: in [0, E]; 0 gives empty tensors (no routed expert runs).
        normalize: rescale the chosen probabilities to sum 1; default off.

    Raises:
        ValueError: not floating, or ``k`` out of range.

    Reference:
        "Outrageously Large Neural Networks" (Shazeer et al., 2017), arXiv:1701.06538, section 2.1.
    """
    if not isinstance(router_probs, Tensor) or router_probs.ndim < 1 or not router_probs.is_floating_point():
        raise ValueError(f"router_probs must be floating probabilities (..., E), got {describe(router_probs)}.")
    if not 0 <= k <= router_probs.shape[-1]:
        raise ValueError(f"k must be in [0, {router_probs.shape[-1]}] (the number of experts), got {k!r}.")
    indices = router_probs.detach().argsort(dim=-1, descending=True, stable=True)[..., :k]
    weights = router_probs.gather(-1, indices)
    if normalize and k:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return TopK(weights, indices)


@names_arguments
def select_experts(outputs: Tensor, indices: Tensor) -> Tensor:
    """The outputs of the chosen experts, sample by sample, in one gather.

    Args:
        outputs: ``(E, N, ...)``, every expert's answer to every sample.
        indices: ``(N, k)`` int64 experts of each sample.

    Returns:
        ``(N, k, ...)``.

    Raises:
        ValueError: shapes, or an index outside [0, E).
    """
    if outputs.ndim < 2 or indices.ndim != 2 or indices.shape[0] != outputs.shape[1]:
        raise ValueError(
            f"outputs must be (E, N, ...) and indices (N, k), got {describe(outputs)} and {describe(indices)}."
        )
    _check_assignments(indices, outputs.shape[0], "indices")
    samples = torch.arange(outputs.shape[1], device=outputs.device)[:, None]
    return outputs[indices.to(outputs.device), samples]


def _check_assignments(assignments: Tensor, experts: int, name: str) -> None:
    if assignments.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be int64 expert numbers, got {describe(assignments)}.")
    if not torch.compiler.is_compiling() and bool(((assignments < 0) | (assignments >= experts)).any()):
        raise ValueError(f"{name} must be in [0, {experts}), got {int(assignments.min())} .. {int(assignments.max())}.")


@names_arguments
def expert_load(assignments: Tensor, num_experts: int) -> Tensor:
    """Share of the assignments per expert: ``(E,)`` float32, summing to 1 (all 0 where nothing was assigned).

    Args:
        assignments: integers in [0, E), any shape.
        num_experts: E.

    Raises:
        TypeError: not integers. ValueError: an expert that does not exist.
    """
    _check_assignments(assignments, num_experts, "assignments")
    counts = torch.bincount(assignments.flatten(), minlength=num_experts).float()
    return counts / max(assignments.numel(), 1)


@names_arguments
def gshard_balance(router_probs: Tensor, assignments: Tensor) -> Tensor:
    """``E sum_e f_e p_e`` with f the share of hard assignments (a constant) and p the mean probability.

    1 when both are uniform, E when one expert gets everything; a gradient flows through p alone.

    Args:
        router_probs: ``(N, E)``.
        assignments: ``(N, k)`` integers, the experts that ran; k = 0 gives 0.

    Raises:
        ValueError: shapes, or an expert that does not exist. TypeError: assignments that are not integers.

    Reference:
        "GShard" (Lepikhin et al., 2020), arXiv:2006.16668, section 2.2; "Switch Transformers" (Fedus et al., 2021),
        arXiv:2101.03961, equations 4-6.
    """
    probs = _probabilities(router_probs)
    if assignments.ndim != 2 or len(assignments) != len(probs):
        raise ValueError(f"assignments must be ({len(probs)}, k), got {describe(assignments)}.")
    load = expert_load(assignments, probs.shape[1]).to(probs)
    return probs.shape[1] * (load * probs.mean(0)).sum()


@names_arguments
def kl_balance(gate_probs: Tensor) -> Tensor:
    """``KL(uniform || mean gate) / E``: 0 when the mean over samples is uniform.

    The division by E is what PyTorch's ``batchmean`` does to a vector in the official code. A mean that underflows to 0
    counts as the smallest number of the dtype, so that the loss stays finite.

    Args:
        gate_probs: ``(N, E)``.

    Raises:
        ValueError: not floating ``(N, E)`` with N >= 1.

    Reference:
        "MST-Distill" (Li et al., 2025), arXiv:2507.07015; official code: Gray-OREO/MST-Distill.
    """
    mean = _probabilities(gate_probs, "gate_probs").mean(0)
    experts = len(mean)
    log_ratio = -torch.log(experts * mean.clamp_min(torch.finfo(mean.dtype).tiny))
    return log_ratio.sum() / experts**2


@names_arguments
def cv_balance(gate_probs: Tensor) -> Tensor:
    """Coefficient of variation of the experts' total gate: unbiased standard deviation over mean.

    Args:
        gate_probs: ``(N, E)``, E >= 2.

    Raises:
        ValueError: not floating ``(N, E)`` with N >= 1, or fewer than two experts.

    Reference:
        "Outrageously Large Neural Networks" (Shazeer et al., 2017), arXiv:1701.06538, equation 6 (there squared);
        official code of this form: Gray-OREO/MST-Distill.
    """
    total = _probabilities(gate_probs, "gate_probs", min_experts=2).sum(0)
    return total.std() / total.mean()


__all__ = ["TopK", "cv_balance", "expert_load", "gshard_balance", "kl_balance", "select_experts", "top_k_gate"]
