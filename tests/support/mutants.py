"""Deliberate faults in losses and public algorithms, to see whether a test notices.

A mutant is written ``module:function:fault``. :func:`faults` names those that a loss admits, :func:`algorithm_faults`
those of another public function; :func:`install` replaces the function in every loaded ``kdcore`` module that holds it
(the one that defines it, the method's, and whatever imported it from there).

A value fault fits what the function returns when it is called, not what its signature says: numbers and floating
tensors get a sign, a factor or an offset; indices are off by one, or in reverse order; a mask is turned over. What a
result cannot have (a factor on indices, an offset on a text) is left alone, and :data:`TALLY` tells whether any call
had it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[..., Any]


#: Calls of the mutant, and those whose result it could change.
TALLY = {"calls": 0, "changed": 0}


def _each(result: Any, change: Callable[[Any], Any]) -> Any:
    """Apply ``change`` to a result, or to every member of a tuple, list or mapping of results."""
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*(_each(r, change) for r in result))
    if isinstance(result, tuple | list):
        return type(result)(_each(r, change) for r in result)
    if isinstance(result, dict):
        return {key: _each(r, change) for key, r in result.items()}
    if callable(result) and not isinstance(result, type | nn.Module):  # a function that was made: its results

        def made(*args: Any, **kwargs: Any) -> Any:
            return _each(result(*args, **kwargs), change)

        return made
    fits = isinstance(result, Tensor | float | int) and not isinstance(result, bool)
    return change(result) if fits else result


def _counted(result: Any, change: Callable[[Any], Any]) -> Any:
    """``change`` where it fits; whether it fitted anywhere goes into the tally."""

    def counting(x: Any) -> Any:
        y = change(x)
        TALLY["changed"] += y is not x
        return y

    TALLY["calls"] += 1
    TALLY["changed"] += callable(result) and not isinstance(result, nn.Module)  # if nobody calls it, nobody notices
    return _each(result, counting)


def _floating(x: Any) -> bool:
    return isinstance(x, float) or (isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()))


def _flip_sign(x: Any) -> Any:
    """Floats negated; indices in reverse order along the last dimension; of a mask the opposite."""
    if isinstance(x, Tensor) and x.dtype == torch.bool:
        return ~x
    if isinstance(x, Tensor) and not _floating(x):
        return x.flip(-1) if x.ndim and x.shape[-1] > 1 else x
    return -x


def _scale(x: Any) -> Any:
    return x * 1.01 if _floating(x) else x


def _offset(x: Any) -> Any:
    """Floats 0.01 more; indices and counts one more."""
    if isinstance(x, Tensor) and x.dtype == torch.bool:
        return x
    return x + (0.01 if _floating(x) else 1)


def _halve_gradient(x: Any) -> Any:
    return 0.5 * x + 0.5 * x.detach() if isinstance(x, Tensor) and _floating(x) else x


#: Faults of the value and the gradient, by name.
VALUES: dict[str, Callable[[Any], Any]] = {
    "flip_sign": _flip_sign,
    "scale_1.01": _scale,
    "offset": _offset,
    "halve_gradient": _halve_gradient,
}


def _passed(result: Any) -> Any:
    """A result whose fault lies in the arguments."""
    TALLY["calls"] += 1
    TALLY["changed"] += 1
    return result


def _temperature_squared(call: inspect.BoundArguments) -> float:
    return call.arguments["temperature"] ** 2


def _positional(function: Call) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [n for n, p in inspect.signature(function).parameters.items() if p.kind in kinds]


def _knobs(function: Call) -> list[str]:
    return [
        n
        for n, p in inspect.signature(function).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not inspect.Parameter.empty
    ]


def faults(function: Call) -> list[str]:
    """The faults that can be put into a loss; each changes its value, its gradient, or what a knob does."""
    names = ["flip_sign", "scale_1.01", "offset", "halve_gradient", "detach_student"]
    if len(_positional(function)) >= 2:
        names.append("swap_student_and_teacher")
    knobs = _knobs(function)
    if "temperature" in knobs:
        names.append("drop_T2")
    return names + [f"ignore_{knob}" for knob in knobs]


def algorithm_faults(function: Call) -> list[str]:
    """Those of a public function that is no loss: its value, and each knob. Empty where its result can have none."""
    returned = str(inspect.signature(function).return_annotation)
    value = re.search(r"\b(Tensor|float|int|Any)\b", returned) is not None
    names = ["flip_sign", "scale_1.01", "offset"] if value else []
    return names + [f"ignore_{knob}" for knob in _knobs(function)]


def mutate(function: Call, fault: str) -> Call:
    """``function`` with one fault in it; signature and docstring stay."""
    possible = list(dict.fromkeys([*faults(function), *algorithm_faults(function)]))
    if fault not in possible:
        raise ValueError(f"{function.__name__} cannot have the fault {fault!r}; it can have {possible}.")
    signature, positional = inspect.signature(function), _positional(function)

    @functools.wraps(function)
    def mutant(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        values = call.arguments
        if fault == "swap_student_and_teacher":
            first, second = positional[:2]
            values[first], values[second] = values[second], values[first]
        elif fault == "detach_student":
            values[positional[0]] = values[positional[0]].detach()
        elif fault.startswith("ignore_"):
            knob = fault.removeprefix("ignore_")
            values[knob] = signature.parameters[knob].default
        result = function(*call.args, **call.kwargs)
        if fault == "drop_T2":
            return _counted(result, lambda x: x / _temperature_squared(call))
        return _counted(result, VALUES[fault]) if fault in VALUES else _passed(result)

    return mutant


def install(mutant: str) -> None:
    """Put ``module:function:fault`` in place of the function wherever ``kdcore`` holds it."""
    module_name, name, fault = mutant.split(":")
    original = getattr(importlib.import_module(module_name), name)
    replacement = mutate(original, fault)
    for module in [m for key, m in sys.modules.items() if key == "kdcore" or key.startswith("kdcore.")]:
        for attribute in [a for a, value in vars(module).items() if value is original]:
            setattr(module, attribute, replacement)
