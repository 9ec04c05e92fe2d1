"""What a model returned, read in one way for all doors: a tensor, a tuple, a dict, an object with ``.logits``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .functional.checks import describe

#: Keys under which dicts carry what metrics and losses read, in the order in which they are looked for.
OUTPUT_KEYS = ("logits", "out", "output", "prediction")


def logits_of(output: Any) -> Tensor:
    """The main answer in a model's output.

    Args:
        output: a tensor; a tuple or list, whose first entry counts (networks with auxiliary heads in train mode); a
            dict with one of the keys ``logits``, ``out``, ``output``, ``prediction``; an object with ``.logits``.

    Raises:
        ValueError: anything else; the message says what came.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(output, Mapping):
        found = next((output[k] for k in OUTPUT_KEYS if isinstance(output.get(k), Tensor)), None)
        if found is not None:
            return found
    elif isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise ValueError(
        "a model must return a tensor, a tuple that begins with one, a dict with one of the keys "
        f"{', '.join(OUTPUT_KEYS)}, or an object with .logits; got {output_form(output)}."
    )


def output_form(output: Any) -> str:
    """What came, in words for a message."""
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {', '.join(map(repr, output)) or 'none'}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}: ({', '.join(output_form(v) for v in output[:4])})"
    return describe(output)


def as_float32(value: Any) -> Any:
    """Half-precision tensors as float32, so that losses are computed in full precision; all else as it is.

    Tuples, lists and dicts are gone through; other objects are returned unchanged.
    """
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    if type(value) in (tuple, list):
        return type(value)(as_float32(v) for v in value)
    if type(value) is dict:
        return {k: as_float32(v) for k, v in value.items()}
    return value


__all__ = ["OUTPUT_KEYS", "as_float32", "logits_of", "output_form"]
