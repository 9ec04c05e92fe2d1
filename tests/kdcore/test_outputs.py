"""What a model returned, in any form that is met in practice."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdcore.outputs import as_float32, logits_of, output_form

X = torch.arange(6.0).view(2, 3)
Inception = namedtuple("Inception", "logits aux_logits")


@pytest.mark.parametrize(
    "output",
    [
        X,
        (X, torch.zeros(2, 3)),
        [X, None],
        {"logits": X, "features": torch.zeros(2, 5)},
        OrderedDict(out=X, aux=torch.zeros(2, 3)),
        SimpleNamespace(logits=X, hidden_states=None),
        Inception(X, torch.zeros(2, 3)),
    ],
    ids=["tensor", "tuple", "list", "dict", "segmentation", "object", "namedtuple"],
)
def test_the_main_answer_is_found(output: Any) -> None:
    assert logits_of(output) is X


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "got None"),
        ({}, "a dict with the keys none"),
        ({"boxes": X}, "a dict with the keys 'boxes'"),
        ((), r"a tuple of 0: \(\)"),
        (({"a": X}, X), r"a tuple of 2: \(a dict with the keys 'a', float32 \(2, 3\)\)"),
        (SimpleNamespace(logits="no"), "got namespace"),
    ],
)
def test_what_has_no_main_answer_is_described(output: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"a model must return a tensor.*{words}"):
        logits_of(output)
    assert output_form(output)


def test_half_precision_is_widened_wherever_it_stands() -> None:
    half = X.bfloat16()
    out = as_float32({"a": half, "b": (half, [X.double()]), "c": "text"})
    assert out["a"].dtype == out["b"][0].dtype == torch.float32
    assert out["b"][1][0].dtype == torch.float64 and out["c"] == "text"
    other = SimpleNamespace(logits=half)
    assert as_float32(other) is other
