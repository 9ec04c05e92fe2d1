r"""Virtual SGD steps, planes through parameter vectors, average states, magnitude pruning, reversed gradients.

A virtual step :math:`\theta' = \theta - \eta \, \nabla_\theta L` is a function of everything that ``L`` depends on, so
a loss at :math:`\theta'` can be differentiated by the weights, by the weighting of samples, or by a teacher that shaped
the step. The plane through three parameter vectors shows where a training went; masks and averages are computed on
plain mappings, so that no module is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .checks import check_choice, check_fraction, check_positive, describe, names_arguments
from .reductions import at_least_float32


@names_arguments
def functional_step(
    loss: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    lr: float,
    first_order: bool = False,
    allow_unused: bool = False,
) -> dict[str, Tensor]:
    """One step of plain gradient descent as a differentiable function: ``theta - lr * d loss / d theta``.

    The tensors given are left as they are; use the result with ``torch.func.functional_call``. Several steps are this
    function called on its own result.

    Args:
        loss: one number that depends on ``parameters``.
        parameters: tensors by name, each requiring a gradient (``dict(model.named_parameters())``).
        lr: step size, > 0.
        first_order: take the gradient as a constant; then nothing flows through it, neither to the weights a second
            time nor to what weighted the loss. Default: second order.
        allow_unused: return a parameter that ``loss`` does not depend on unchanged, instead of raising.

    Returns:
        New tensors under the same names, connected to ``parameters`` and, in second order, to all inputs of ``loss``.

    Raises:
        ValueError: ``loss`` is not one number, no parameters, ``lr`` not above zero.
        RuntimeError: a parameter does not require a gradient, or is not reached from ``loss``; the message names it.

    Reference:
        "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (Finn et al., 2017), arXiv:1703.03400,
        equation 1; first order: its section 5.2.
    """
    check_positive("lr", lr)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(f"loss must be one number, got {describe(loss)}.")
    if not parameters:
        raise ValueError("parameters must hold at least one tensor, got none.")
    fixed = [name for name, p in parameters.items() if not p.requires_grad]
    if fixed:
        raise RuntimeError(f"parameters must require a gradient; these do not: {', '.join(fixed)}.")
    if not loss.requires_grad:
        raise RuntimeError("loss must depend on parameters, got a constant (computed under no_grad, or detached?).")
    gradients = torch.autograd.grad(
        loss.reshape(()), list(parameters.values()), create_graph=not first_order, retain_graph=True, allow_unused=True
    )
    unused = [name for name, g in zip(parameters, gradients, strict=True) if g is None]
    if unused and not allow_unused:
        raise RuntimeError(f"loss must depend on every parameter; it does not depend on {', '.join(unused)}.")
    pairs = zip(parameters.items(), gradients, strict=True)
    return {name: p if g is None else p - lr * g for (name, p), g in pairs}


class ParameterPlane:
    """The plane through three parameter vectors, and the nearest point of it for any other.

    Args:
        origin, v1, v2: flat parameter vectors ``(P,)`` (``torch.nn.utils.parameters_to_vector``); constants.
        center: the point with coordinates (0, 0): ``None`` for ``origin``, ``"mean"`` for the mean of the three,
            ``"minnorm"`` for the point of the plane with the smallest norm.

    Attributes:
        affine: ``(P,)``, the centre ``a``. basis: ``(P, 2)``, columns ``v1 - a`` and ``v2 - a``.

    Raises:
        ValueError: shapes, unknown ``center``, or vectors that span no plane around the centre (rank below 2).

    Reference:
        "Random Teachers are Good Teachers" (Sarnthein et al., 2023), arXiv:2302.12091, section 4.2.
    """

    def __init__(self, origin: Tensor, v1: Tensor, v2: Tensor, center: str | None = None) -> None:
        for name, v in (("origin", origin), ("v1", v1), ("v2", v2)):
            if not isinstance(v, Tensor) or v.ndim != 1 or not v.is_floating_point() or v.shape != origin.shape:
                raise ValueError(
                    f"{name} must be a floating vector (P,), all three of one length, got {describe(v)} "
                    f"(origin: {describe(origin)})."
                )
        if center is not None:
            check_choice("center", center, ("mean", "minnorm"))
        origin, v1, v2 = (at_least_float32(v.detach()) for v in (origin, v1, v2))
        self.affine = origin
        if center == "mean":
            self.affine = torch.stack([origin, v1, v2]).mean(0)
        elif center == "minnorm":
            spread = torch.stack([v1 - origin, v2 - origin], dim=1)
            self.affine = origin + spread @ _least_squares(spread, -origin)
        self.basis = torch.stack([v1 - self.affine, v2 - self.affine], dim=1)
        if int(torch.linalg.matrix_rank(self.basis)) < 2:
            raise ValueError(
                f"origin, v1 and v2 must span a plane around the centre ({center or 'origin'}), got vectors on one "
                "line (two of them equal?)."
            )

    def project(self, vectors: Tensor) -> Tensor:
        """Coordinates ``(..., 2)`` of the points of the plane nearest to ``vectors`` ``(..., P)``."""
        if vectors.ndim < 1 or vectors.shape[-1] != len(self.affine):
            raise ValueError(f"vectors must be (..., {len(self.affine)}), got {describe(vectors)}.")
        offset = vectors.detach().to(self.affine) - self.affine
        flat = offset.reshape(-1, len(self.affine))
        return _least_squares(self.basis, flat.T).T.reshape(*offset.shape[:-1], 2)

    def map(self, coordinates: Tensor) -> Tensor:
        """The parameter vectors ``(..., P)`` at ``coordinates`` ``(..., 2)``."""
        if coordinates.ndim < 1 or coordinates.shape[-1] != 2:
            raise ValueError(f"coordinates must be (..., 2), got {describe(coordinates)}.")
        return self.affine + coordinates.to(self.affine) @ self.basis.T

    def error(self, vectors: Tensor) -> Tensor:
        """Euclidean distance ``(...)`` of ``vectors`` ``(..., P)`` from the plane."""
        return torch.linalg.vector_norm(vectors.detach().to(self.affine) - self.map(self.project(vectors)), dim=-1)


def _least_squares(basis: Tensor, targets: Tensor) -> Tensor:
    """``argmin_c || basis c - targets ||`` by QR: two columns against millions of rows, on any device."""
    q, r = torch.linalg.qr(basis)
    right = q.T @ targets
    solved = torch.linalg.solve_triangular(r, right.reshape(len(right), -1), upper=True)
    return solved.reshape(right.shape)


def average_states(
    old_state: Mapping[str, Tensor],
    new_state: Mapping[str, Tensor],
    *,
    weight_old: float = 0.5,
    include: Callable[[str], bool] = lambda name: True,
    partial_rows: bool = False,
) -> dict[str, Tensor]:
    """``weight_old * old + (1 - weight_old) * new``, tensor by tensor, where both states have the same shape.

    Everything else keeps the value of ``new_state``: other shapes, names that only it has, names that ``include``
    refuses, and tensors that are not floating (counters, indices).

    Args:
        old_state, new_state: state dicts; neither is changed.
        weight_old: a in [0, 1]; 0 gives the new state, 1 the old one.
        include: whether the tensor of that name is averaged.
        partial_rows: also average the first rows of a tensor that grew along its first dimension (class layers to
            which classes were added); default off.

    Returns:
        The names and order of ``new_state``; new tensors.

    Raises:
        ValueError: ``weight_old`` outside [0, 1].

    Reference:
        The trade-off of old and new classes in "Y-KD" (Pasti et al., 2023), arXiv:2303.06015.
    """
    check_fraction("weight_old", weight_old)
    averaged: dict[str, Tensor] = {}
    for name, new in new_state.items():
        result = new.detach().clone()
        old = old_state.get(name)
        if old is not None and new.is_floating_point() and include(name):
            old = old.detach().to(result)
            if old.shape == new.shape:
                result = weight_old * old + (1 - weight_old) * result
            elif partial_rows and old.ndim == new.ndim >= 1 and old.shape[1:] == new.shape[1:]:
                rows = min(len(old), len(new))
                result[:rows] = weight_old * old[:rows] + (1 - weight_old) * result[:rows]
        averaged[name] = result
    return averaged


def magnitude_masks(weights: Mapping[str, Tensor], amount: float) -> dict[str, Tensor]:
    """Which weights stay when the smallest ``amount`` of all of them together is cut (global, unstructured, L1).

    Args:
        weights: tensors by name, compared with each other by absolute value.
        amount: share that is cut, in [0, 1]; ``round(amount * total)`` entries. Among equals, earlier ones go first.

    Returns:
        Bool masks under the same names, ``True`` where a weight stays.

    Raises:
        ValueError: ``amount`` outside [0, 1], or no weights.

    Reference:
        "Learning both Weights and Connections for Efficient Neural Networks" (Han et al., 2015), arXiv:1506.02626.
    """
    check_fraction("amount", amount)
    if not weights:
        raise ValueError("weights must hold at least one tensor, got none.")
    sizes = [w.numel() for w in weights.values()]
    magnitudes = torch.cat([at_least_float32(w.detach()).abs().flatten() for w in weights.values()])
    keep = torch.ones_like(magnitudes, dtype=torch.bool)
    keep[magnitudes.argsort(stable=True)[: round(amount * len(magnitudes))]] = False
    parts = zip(weights.items(), keep.split(sizes), strict=True)
    return {name: mask.view(w.shape) for (name, w), mask in parts}


def pruning_amounts(ratio: float, rounds: int) -> list[float]:
    """Cumulative shares of cut weights when each round cuts ``ratio`` of what is left: ``a <- a + (1 - a) ratio``.

    Args:
        ratio: share per round, in [0, 1].
        rounds: how many, >= 1.

    Raises:
        ValueError: out of range.

    Reference:
        "The Lottery Ticket Hypothesis" (Frankle and Carbin, 2019), arXiv:1803.03635, section 2.
    """
    check_fraction("ratio", ratio)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds!r}.")
    return [1 - (1 - ratio) ** k for k in range(1, rounds + 1)]


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


@names_arguments
def gradient_reversal(x: Tensor, scale: float = 1.0) -> Tensor:
    """``x`` itself, whose gradient is multiplied by ``-scale``: what comes before works against what comes after.

    Args:
        x: any tensor.
        scale: factor of the reversed gradient; default 1.

    Reference:
        "Unsupervised Domain Adaptation by Backpropagation" (Ganin and Lempitsky, 2015), arXiv:1409.7495, section 3.1.
    """
    return _Reversal.apply(x, scale)


def flat_parameters(tensors: Iterable[Tensor]) -> Tensor:
    """All entries as one vector ``(P,)``, in order; a view of nothing, differentiable.

    Raises:
        ValueError: no tensors.
    """
    parts = [t.reshape(-1) for t in tensors]
    if not parts:
        raise ValueError("tensors must hold at least one tensor, got none.")
    return torch.cat(parts)


__all__ = [
    "ParameterPlane",
    "average_states",
    "flat_parameters",
    "functional_step",
    "gradient_reversal",
    "magnitude_masks",
    "pruning_amounts",
]
