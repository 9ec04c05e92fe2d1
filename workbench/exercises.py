"""Answers of a reader, judged: a cell of a lesson says *right*, *not yet*, or waits.

The right answer is computed when the cell runs and is not written into it, so that nobody reads it by accident::

    my_radius = None  # your answer
    judged(my_radius, lambda: coverage_radius(points, centres), hint="the farthest point counts")

A lesson calls the same line with the answer of its folded solution and asserts that it is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kdcore.html import tag

_SHOWN = {
    None: ("?", "#767676", "Not answered yet"),
    True: ("✓", "#009E73", "Right"),
    False: ("✗", "#D55E00", "Not yet"),
}


@dataclass(frozen=True)
class Judged:
    """What was said of an answer; true where it is right."""

    right: bool | None
    words: str = ""

    @property
    def sentence(self) -> str:
        """``"Right."``, ``"Not yet: ..."`` or ``"Not answered yet."``"""
        return _SHOWN[self.right][2] + (f": {self.words}" if self.words else ".")

    def __bool__(self) -> bool:
        return self.right is True

    def __repr__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        sign, colour, head = _SHOWN[self.right]
        mark = tag("b", tag("span", sign, aria_hidden="true", style=f"color:{colour}"), f" {head}")
        style = f"border-left:4px solid {colour};padding:.2em .8em;margin:.3em 0"
        return tag(
            "div", mark, f": {self.words}" if self.words else ".", style=style, class_="kd-judged", role="status"
        )


def judged(answer: Any, right: Callable[..., Any] | Any, *, within: float = 0.0, hint: str = "") -> Judged:
    """Compare an answer with the right one.

    Args:
        answer: of the reader; ``None`` while there is none. Numbers, text, lists, tensors, or a function to be tried
            by ``right``.
        right: the right answer; a function without arguments that computes it; or, where ``answer`` is a function, one
            that takes it and returns whether it is right.
        within: how far numbers and entries of tensors may be off, beyond rounding.
        hint: shown with a wrong answer.

    Returns:
        ``right`` is ``None`` without an answer. An answer that fails with an error is wrong, and the error is named.
    """
    if answer is None:
        return Judged(None)
    try:
        good = (
            bool(right(answer)) if callable(answer) else _equal(answer, right() if callable(right) else right, within)
        )
    except Exception as error:  # the reader's own function, or an answer of a kind that cannot be compared
        return Judged(False, f"{type(error).__name__}: {error}")
    return Judged(good, "" if good else hint)


def _equal(answer: Any, right: Any, within: float) -> bool:
    if isinstance(right, str) or isinstance(answer, str):
        return str(answer).strip().lower() == str(right).strip().lower()
    if isinstance(right, bool):
        return answer is right
    given, wanted = (torch.as_tensor(value, dtype=torch.float64) for value in (answer, right))
    if given.shape != wanted.shape:
        raise ValueError(f"the answer has shape {tuple(given.shape)}, wanted {tuple(wanted.shape)}.")
    return bool(torch.allclose(given, wanted, rtol=1e-6, atol=max(within, 1e-9)))


__all__ = ["Judged", "judged"]
