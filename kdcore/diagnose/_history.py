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
HARD_TERMS = ("ce", "cross_entropy", "hard", "loss/ce", "ce_loss", "hard_loss", "label")
HARD_WEIGHTS = ("ce_weight", "hard_weight")
WHOLE = ("loss", "train_loss", "total", "total_loss")
#: A training was too short if less than half of its loss is gone and either it fell by 2 % of its start from the second
#: to the last third of the epochs, or there were fewer than three epochs and no more than 300 steps.
HALF, FALLING, HARDLY = 0.5, 0.02, 300
#: A soft term counts as lacking T^2 only within this factor of KL(T) (weights and averages are not known exactly).
FACTOR = 2.5


class SoftTerm(NamedTuple):
    """What is known of the soft term: ``ratio`` is the found value over the one with T^2; ``fitting`` the temperature
    whose
    soft term has gradients of the same direction, where the loss itself was given."""

    temperature: float
    ratio: float
    source: str
    fitting: float | None = None


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


class Learning(NamedTuple):
    """How far a training got.

    Attributes:
        steps: optimizer steps, ``None`` where the history does not say. epochs: finished. term: whose course was read.
        start: its value before anything is learnt. last: in the last epoch. falling: by how much of ``start`` it fell
            from the second to the last third of the epochs; 0 where it did not, or with fewer than three epochs.
    """

    steps: int | None
    epochs: int
    term: str
    start: float
    last: float
    falling: float

    @property
    def learnt(self) -> float:
        """Share of the loss that is gone."""
        return 1 - self.last / self.start

    @property
    def too_little(self) -> bool:
        """Whether less than half of the loss is gone, and the training ended while it fell or hardly began."""
        if self.learnt >= HALF:
            return False
        if self.epochs >= 3:
            return self.falling >= FALLING
        return self.steps is None or self.steps <= HARDLY


def learning(history: Any, settings: Mapping[str, Any] | None, classes: int) -> Learning | None:
    """The course of a training: of the cross-entropy where it was recorded (before anything is learnt it is ``ln C``
    times its weight), else of the whole loss; ``None`` without a history that tells it."""
    table, known = rows(history), flat(settings)
    if not table:
        return None
    name = next((k for k in table[-1] if k.lower() in HARD_TERMS), None)
    values = [row.get(name, math.nan) for row in table] if name else [_whole(row) for row in table]
    if not all(math.isfinite(v) for v in values) or values[-1] < 0:
        return None
    weight = _number(known, HARD_WEIGHTS)
    start = max(values[0], (1.0 if weight is None else weight) * math.log(classes) if name else 0.0)
    if start <= 0 or (not name and len(values) < 2):
        return None
    third = len(values) // 3
    falling = 0.0
    if third:
        before, after = values[-2 * third : -third], values[-third:]
        falling = max(0.0, (sum(before) - sum(after)) / third / start)
    return Learning(_steps(history, known), len(values), name or "loss", start, values[-1], falling)


def _whole(row: Mapping[str, float]) -> float:
    found = next((row[k] for k in row if k.lower() in WHOLE), None)
    if found is not None:
        return found
    terms = [v for k, v in row.items() if k.lower() in SOFT_TERMS]
    return sum(terms) if terms else math.nan


def _steps(history: Any, settings: Mapping[str, Any]) -> int | None:
    """Optimizer steps by the result, its last epoch, the last row of a table, or the settings."""
    said: Any = getattr(history, "steps", None)
    if said is None:
        epochs = getattr(history, "history", history)
        if hasattr(epochs, "to_dict") and hasattr(epochs, "columns"):
            epochs = epochs.to_dict("records")
        last = epochs[-1] if isinstance(epochs, list | tuple) and epochs else None
        said = getattr(last, "step", None)
        if isinstance(last, Mapping):
            said = last.get("step", last.get("steps"))
        elif isinstance(epochs, Mapping):
            said = next((list(epochs[k])[-1] for k in ("step", "steps") if len(list(epochs.get(k, [])))), None)
    if said is None:
        said = _number(settings, ("steps", "max_steps", "total_steps"))
    return int(said) if isinstance(said, int | float) and not isinstance(said, bool) else None


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
        fitting = _fitting(loss, temperature, student.detach(), teacher.float())
    return SoftTerm(temperature, float(theirs.norm() / ours.norm()), "the loss given", fitting)


def _fitting(
    loss: Callable[[Tensor, Tensor], Tensor], temperature: float, student: Tensor, teacher: Tensor
) -> float | None:
    """The temperature whose ``KL`` has gradients nearest in direction to those of the loss; ``None`` where none comes
    near (another kind of loss). Logits are a few times ``temperature``: at small ones all temperatures are alike."""
    student = (4 * temperature * student).requires_grad_()
    teacher = 4 * temperature * teacher
    (theirs,) = torch.autograd.grad(loss(student, teacher), student)
    found = []
    for tried in (temperature, temperature**2, *(temperature * 1.2**k for k in range(-8, 20))):
        value = kl_with_temperature(student, teacher, temperature=tried).mean()
        (ours,) = torch.autograd.grad(value, student)
        found.append((float((theirs * ours).sum() / (theirs.norm() * ours.norm()).clamp_min(1e-30)), tried))
    cosine, best = max(found)
    return best if cosine > 0.999 else None


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


__all__ = ["Learning", "SoftTerm", "flat", "lacks_t2", "learning", "rows", "soft_term"]
