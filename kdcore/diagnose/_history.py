"""Evidence from training: is the soft term that was minimised the one with T^2?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional.divergences import kl_with_temperature

#: Names under which a soft term and its settings are looked for.
SOFT_TERMS = ("kd", "kl", "kld", "soft", "kd_loss", "distill", "distillation", "kl_loss", "loss_kd", "soft_loss")
TEMPERATURES = ("temperature", "T", "tau", "temp")
WEIGHTS = ("kd_weight", "weight", "soft_weight", "alpha", "lambda_kd")
#: A soft term counts as lacking T^2 only within this factor of KL(T) (weights and averages are not known exactly).
FACTOR = 2.5


class SoftTerm(NamedTuple):
    """What is known of the soft term: ``ratio`` is the found value over the one with T^2."""

    temperature: float
    ratio: float
    source: str


def flat(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings of a run without their nesting (``{"methods": {"kd": {"temperature": 4}}}`` -> temperature)."""
    found: dict[str, Any] = {}
    for key, value in (settings or {}).items():
        found |= flat(value) if isinstance(value, Mapping) else {str(key): value}
    return found


def _number(settings: Mapping[str, Any], names: Iterable[str]) -> float | None:
    value = next((settings[n] for n in names if n in settings), None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def rows(history: Any) -> list[dict[str, float]]:
    """Terms per epoch of a :class:`~kdcore.distiller.DistillResult`, a list of epochs or dicts, or a table.

    Raises:
        TypeError: something else.
    """
    if history is None:
        return []
    history = getattr(history, "history", history)
    if hasattr(history, "to_dict") and hasattr(history, "columns"):
        history = history.to_dict("records")
    if isinstance(history, Mapping):  # a dict of curves
        keys = list(history)
        history = [dict(zip(keys, values, strict=False)) for values in zip(*history.values(), strict=False)]
    if not isinstance(history, Iterable):
        raise TypeError(f"history must be a DistillResult, a list of epochs or a table, got {type(history).__name__}.")
    return [
        {
            str(k): float(v)
            for k, v in (getattr(row, "terms", None) or dict(row)).items()
            if isinstance(v, int | float) and not isinstance(v, bool)
        }
        for row in history
    ]


def from_loss(loss: Callable[[Tensor, Tensor], Tensor], temperature: float, classes: int) -> SoftTerm:
    """Compare a soft loss with ``T^2 KL(T)`` by its gradient on fixed random logits.

    The gradient's norm is compared, so that a constant (the teacher's entropy) or another reduction over classes does
    not matter more than by its own factor.
    """
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 64, max(classes, 2), generator=generator, dtype=torch.float64)
    student = student.float().requires_grad_()
    with torch.enable_grad():
        (theirs,) = torch.autograd.grad(loss(student, teacher.float()), student)
        full = temperature**2 * kl_with_temperature(student, teacher.float(), temperature=temperature).mean()
        (ours,) = torch.autograd.grad(full, student)
    return SoftTerm(temperature, float(theirs.norm() / ours.norm()), "the loss given")


def from_history(history: Any, settings: Mapping[str, Any], student: Tensor, teacher: Tensor) -> SoftTerm | None:
    """Compare the soft term recorded in the last epoch with what the finished pair gives on the data."""
    temperature, table = _number(settings, TEMPERATURES), rows(history)
    if temperature is None or temperature < 1.5 or not table:
        return None
    name = next((k for k in table[-1] if k.lower() in SOFT_TERMS), None)
    weight = _number(settings, WEIGHTS) or 1.0
    if name is None or not table[-1][name] > 0:
        return None
    now = float(kl_with_temperature(student.double(), teacher.double(), temperature=temperature).mean())
    return SoftTerm(
        temperature,
        table[-1][name] / (weight * temperature**2 * max(now, 1e-12)),
        f"the term {name!r} of the last epoch",
    )


def soft_term(
    loss: Callable[[Tensor, Tensor], Tensor] | None,
    history: Any,
    settings: Mapping[str, Any] | None,
    student: Tensor,
    teacher: Tensor,
) -> SoftTerm | None:
    """The best evidence there is about the soft term: the loss itself, a switch in the settings, the history.

    Raises:
        ValueError: a loss without a temperature in ``settings``.
    """
    known = flat(settings)
    temperature = _number(known, TEMPERATURES)
    if loss is not None:
        if temperature is None:
            raise ValueError("loss needs settings={'temperature': T}, the temperature it was called with.")
        return from_loss(loss, temperature, student.shape[1])
    switch = next((known[k] for k in ("t_squared", "t2", "temperature_squared", "scale_by_t2") if k in known), None)
    if switch is not None and temperature is not None:
        return SoftTerm(temperature, 1.0 if switch else temperature**-2, "the settings")
    return from_history(history, known, student, teacher)


def lacks_t2(term: SoftTerm) -> bool:
    """Whether the ratio is that of a term without T^2 rather than one with it."""
    if term.temperature < 1.5:
        return False
    expected = term.temperature**-2
    off = abs(math.log(term.ratio / expected)) if term.ratio > 0 else math.inf
    return off <= math.log(FACTOR) and off < abs(math.log(term.ratio))


__all__ = ["SoftTerm", "flat", "lacks_t2", "rows", "soft_term"]
