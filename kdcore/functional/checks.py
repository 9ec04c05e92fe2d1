"""Border checks: bad input is refused with a message that names the argument, what came and what was expected."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def describe(value: object) -> str:
    """A tensor in words (``float32 (8, 10)``), tuples and dicts of them alike; anything else by its repr, shortened."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value):
        return f"a {type(value).__name__} of {', '.join(map(describe, value))}"
    if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values()):
        return f"a {type(value).__name__} of {', '.join(f'{k}: {describe(v)}' for k, v in value.items())}"
    return text if len(text := repr(value)) <= 200 else f"{text[:200]} ..."


P = ParamSpec("P")
R = TypeVar("R")


def names_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """For public functions of tensors: an error deep inside that comes from an argument of another kind names it.

    Costs nothing while all is well: arguments are looked at only after something failed.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except (AttributeError, TypeError, NotImplementedError, RuntimeError, IndexError) as error:
            fault = wrong_argument(function, args, kwargs, str(error))
            if fault is None:
                raise
            raise TypeError(fault) from error

    return checked


def wrong_argument(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], said: str = ""
) -> str | None:
    """The first argument that is not what its annotation says, in words; ``None``: none, or it is ``said`` already."""
    signature = inspect.signature(function)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    if any(re.search(rf"\b{name}\b", said) for name in given):
        return None
    for name, value in given.items():
        kind = str(signature.parameters[name].annotation)
        if kind in ("Tensor", "Tensor | None"):
            if not isinstance(value, Tensor) and not (value is None and "None" in kind):
                return f"{name} must be a tensor, got {describe(value)}."
            if isinstance(value, Tensor) and value.is_meta:
                return f"{name} must hold values, got {describe(value)} on the device 'meta'."
        elif kind in ("float", "int", "float | None", "int | None") and not (value is None and "None" in kind):
            number = isinstance(value, int | float) or hasattr(value, "__float__")
            if not number or (kind.startswith("int") and not hasattr(value, "__index__")):
                return f"{name} must be {'a whole' if kind.startswith('int') else 'a'} number, got {value!r}."
    return None


def closest(name: str, known: Iterable[str], n: int = 3) -> str:
    """``" Did you mean 'a' or 'b'?"`` for the names nearest to ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""


def check_choice(argument: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        hint = closest(value, allowed) if isinstance(value, str) else ""
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}.{hint}")


def check_positive(argument: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number above zero (temperatures, bandwidths)."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{argument} must be a finite number > 0, got {value!r}.")


#: Beyond these a softmax of float32 is one-hot or uniform to the last digit, and T^2 leaves its range.
TEMPERATURES = (1e-6, 1e6)


def check_temperature(value: float, argument: str = "temperature") -> None:
    """Raise ``ValueError`` unless a temperature is a number within :data:`TEMPERATURES`."""
    check_positive(argument, value)
    low, high = TEMPERATURES
    if not low <= value <= high:
        raise ValueError(f"{argument} must be a finite number > 0, from {low:g} to {high:g}, got {value!r}.")


def check_non_negative(argument: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number >= 0 (weights)."""
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{argument} must be a finite number >= 0, got {value!r}.")


def check_weights(**weights: float) -> None:
    """Raise ``ValueError`` unless each of the named weights of a loss is a finite number >= 0."""
    for argument, value in weights.items():
        check_non_negative(argument, value)


def check_fraction(argument: str, value: float, *, closed: bool = True) -> None:
    """Raise ``ValueError`` unless ``value`` is in [0, 1] (``closed``) or [0, 1)."""
    if not (0 <= value <= 1 and (closed or value < 1)):
        raise ValueError(f"{argument} must be in [0, 1{']' if closed else ')'}, got {value!r}.")


def check_probabilities(argument: str, rows: Tensor, tolerance: float = 1e-4) -> None:
    """Raise ``ValueError`` unless ``(N, C)`` rows are not negative and sum to 1; not looked at while compiling."""
    if torch.compiler.is_compiling() or not len(rows):
        return
    low, off = float(rows.min()), float((rows.double().sum(1) - 1).abs().max())
    if not (low >= 0 and off <= tolerance):
        raise ValueError(
            f"{argument} must be probabilities, none negative and rows that sum to 1 within {tolerance:g}; the lowest "
            f"is {low:.4g}, a row is {off:.4g} off."
        )


def check_logits_pair(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    ndim: Sequence[int] = (2,),
    min_classes: int = 1,
    min_samples: int = 1,
) -> None:
    """Raise unless both are floating logits of the same shape and an allowed rank, on the same device.

    Args:
        student_logits: ``(N, C)`` raw scores (``(N, C, H, W)`` where ``ndim`` admits 4).
        teacher_logits: same shape.
        ndim: admitted ranks.
        min_classes: fewest classes for which the loss is defined.
        min_samples: fewest samples for which the loss is defined (at least 1: an empty batch has no mean).

    Raises:
        TypeError: not a floating tensor.
        ValueError: everything else; the message names the argument and what came.
    """
    for argument, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise TypeError(f"{argument} must be a floating tensor of raw scores, got {describe(logits)}.")
        if logits.ndim not in ndim:
            ranks = " or ".join("(N, C)" if d == 2 else "(N, C, H, W)" if d == 4 else f"{d}-D" for d in ndim)
            raise ValueError(f"{argument} must be {ranks}, got {describe(logits)}.")
    if student_logits.shape != teacher_logits.shape:
        hint = ""
        if student_logits.shape[0] == teacher_logits.shape[0] and student_logits.shape[1] != teacher_logits.shape[1]:
            hint = (
                f" The student has {student_logits.shape[1]} classes and the teacher {teacher_logits.shape[1]}: "
                "logit distillation needs the same classes in the same order."
            )
        raise ValueError(
            f"student_logits and teacher_logits must have the same shape, got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}.{hint}"
        )
    if student_logits.device != teacher_logits.device:
        raise ValueError(
            f"student_logits and teacher_logits must be on the same device, got "
            f"{student_logits.device} and {teacher_logits.device}."
        )
    if student_logits.shape[1] < min_classes:
        raise ValueError(f"student_logits needs at least {min_classes} classes, got {describe(student_logits)}.")
    if student_logits.shape[0] < min_samples:
        raise ValueError(f"student_logits needs at least {min_samples} samples, got {describe(student_logits)}.")


def check_labels(
    labels: Tensor | None, num_samples: int, num_classes: int, *, ignore_index: int | None = None
) -> Tensor:
    """Return ``labels`` as int64 ``(N,)`` or raise.

    Raises:
        ValueError: missing, wrong shape, or a value outside ``[0, num_classes)`` other than ``ignore_index``.
        TypeError: not an integer dtype.
    """
    if labels is None:
        raise ValueError(f"labels are required: an integer tensor of shape ({num_samples},).")
    if labels.dtype not in _INTEGER_DTYPES:
        raise TypeError(f"labels must have an integer dtype (int64), got {describe(labels)}.")
    if labels.shape != (num_samples,):
        raise ValueError(f"labels must have shape ({num_samples},), got {describe(labels)}.")
    outside = (labels < 0) | (labels >= num_classes)
    if ignore_index is not None:
        outside = outside & (labels != ignore_index)
    if not torch.compiler.is_compiling() and bool(outside.any()):
        bad = labels[outside][0].item()
        position = outside.nonzero()[0].item()
        raise ValueError(f"labels must be in [0, {num_classes}), got {bad} (at position {position}).")
    return labels.long()


def check_features_pair(
    x: Tensor,
    y: Tensor,
    *,
    names: tuple[str, str] = ("student_features", "teacher_features"),
    same_shape: bool = False,
    min_samples: int = 1,
) -> None:
    """Raise ``ValueError`` unless both hold the same samples (first dimension) and at least ``min_samples`` of them."""
    if x.ndim < 1 or y.ndim < 1 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"{names[0]} and {names[1]} must hold the same samples (first dimension), "
            f"got {describe(x)} and {describe(y)}."
        )
    if same_shape and x.shape != y.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}: use a projector (kdcore.projectors) or another layer pair (pair_layers)."
        )
    if x.shape[0] < min_samples:
        raise ValueError(f"{names[0]} and {names[1]} need at least {min_samples} samples, got {x.shape[0]}.")
