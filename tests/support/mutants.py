"""Deliberate faults in loss functions, to see whether a test notices.

A mutant is written ``module:function:fault``. :func:`faults` names those that a function's signature admits;
:func:`install` replaces the function in every loaded ``kdcore`` module that holds it (the one that defines it,
the method's, and whatever imported it from there).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

Call = Callable[..., Any]


def _each(result: Any, change: Callable[[Any], Any]) -> Any:
    """Apply ``change`` to a result, or to every member of a tuple or dict of results."""
    if isinstance(result, tuple):
        return tuple(change(r) for r in result)
    if isinstance(result, dict):
        return {name: change(r) for name, r in result.items()}
    return change(result)


def _halve_gradient(x: Any) -> Any:
    return x if not isinstance(x, Tensor) else 0.5 * x + 0.5 * x.detach()


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
    """The faults that can be put into ``function``; each changes its value, its gradient, or what a knob does."""
    names = ["flip_sign", "scale_1.01", "offset", "halve_gradient", "detach_student"]
    if len(_positional(function)) >= 2:
        names.append("swap_student_and_teacher")
    knobs = _knobs(function)
    if "temperature" in knobs:
        names.append("drop_T2")
    return names + [f"ignore_{knob}" for knob in knobs]


def mutate(function: Call, fault: str) -> Call:
    """``function`` with one fault in it; signature and docstring stay."""
    if fault not in faults(function):
        raise ValueError(f"{function.__name__} cannot have the fault {fault!r}; it can have {faults(function)}.")
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
        if fault == "flip_sign":
            return _each(result, lambda x: -x)
        if fault == "scale_1.01":
            return _each(result, lambda x: x * 1.01)
        if fault == "offset":
            return _each(result, lambda x: x + 0.01)
        if fault == "halve_gradient":
            return _each(result, _halve_gradient)
        if fault == "drop_T2":
            return _each(result, lambda x: x / _temperature_squared(call))
        return result

    return mutant


def install(mutant: str) -> None:
    """Put ``module:function:fault`` in place of the function wherever ``kdcore`` holds it."""
    module_name, name, fault = mutant.split(":")
    original = getattr(importlib.import_module(module_name), name)
    replacement = mutate(original, fault)
    for module in [m for key, m in sys.modules.items() if key == "kdcore" or key.startswith("kdcore.")]:
        for attribute in [a for a, value in vars(module).items() if value is original]:
            setattr(module, attribute, replacement)
