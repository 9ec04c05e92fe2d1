"""Answers of readers: right ones, wrong ones, none, and answers of another kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.exercises import judged


@pytest.mark.parametrize(
    ("answer", "right", "within", "value"),
    [
        (None, 3.0, 0.0, None),
        (3, 3.0, 0.0, True),
        (3.01, 3.0, 0.0, False),
        (3.01, 3.0, 0.02, True),
        (3.01, lambda: 1.0 + 2.0, 0.0, False),
        (" Alpha ", "alpha", 0.0, True),
        ("beta", "alpha", 0.0, False),
        (True, True, 0.0, True),
        (1, True, 0.0, False),
        ([0.5, 0.25], lambda: torch.tensor([0.5, 0.25]), 0.0, True),
        (torch.tensor([0.5, 0.2]), [0.5, 0.25], 0.01, False),
        (float("nan"), 1.0, 0.0, False),
    ],
)
def test_answers(answer: Any, right: Any, within: float, value: bool | None) -> None:
    found = judged(answer, right, within=within, hint="think of the diagonal")
    assert found.right is value and bool(found) is (value is True)
    assert (
        found.sentence
        == {
            None: "Not answered yet.",
            True: "Right.",
            False: "Not yet: think of the diagonal",
        }[value]
    )


def test_a_function_is_tried() -> None:
    def double(of: Any) -> bool:
        return bool(of(3) == 6)

    assert judged(lambda x: 2 * x, double) and not judged(lambda x: x * x, double)
    assert judged(lambda x: x / 0, double).words == "ZeroDivisionError: division by zero"


def test_an_answer_of_another_kind_is_wrong_and_says_why() -> None:
    assert "shape (2,), wanted ()" in judged([1, 2], 3).words
    assert judged(object(), 3).right is False


def test_the_sign_is_beside_a_word_and_text_is_escaped() -> None:
    page = judged(1, 2, hint="<b>no</b>")._repr_html_()
    assert "Not yet" in page and "<b>no</b>" not in page and 'aria-hidden="true"' in page
