"""Controls: arms that must fail, and what the numbers say of them.

A loss that helps for the reason its paper gives stops helping when that reason is taken away: the means belong to other
classes, the teacher's answers to other images. An arm with ``control_of`` names the arm that it must fall behind; a
control that does not is a finding about the method (or a fault), never a detail.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .claims import SIGNS, Claim, Verdict, check_claims

if TYPE_CHECKING:
    from .compare import Comparison

#: What is said of a control, by the value of its verdict.
WORDS = {"reproduced": "control failed as it must", "contradicted": "control did not fail", "open": "open"}


@dataclass(frozen=True, kw_only=True)
class ControlVerdict:
    """Whether a control fell behind.

    Attributes:
        control, of: labels of the control and of the arm it must fall behind; on: in which column of the rows.
        verdict: of the claim that it does.
    """

    control: str
    of: str
    on: str
    verdict: Verdict

    @property
    def failed(self) -> bool:
        """Whether the control failed, as it must; false where that is open."""
        return self.verdict.reproduced

    @property
    def sentence(self) -> str:
        """``"control failed as it must: ..."``, ``"control did not fail: ..."`` or ``"open at 3 seeds (...): ..."``."""
        head = self.verdict.head if self.verdict.value == "open" else WORDS[self.verdict.value]
        return f"{head}: {self.verdict.sentence.removeprefix(f'{self.verdict.head}: ')}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text for a run record."""
        says = {"control": self.control, "of": self.of, "on": self.on, "says": WORDS[self.verdict.value]}
        return {**self.verdict.to_dict(), **says, "sentence": self.sentence}

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        symbol, colour = SIGNS[self.verdict.value]
        return (
            f'<div class="kd-verdict" style="border-left:4px solid {colour};padding:.2em .8em;margin:.3em 0">'
            f'<span aria-hidden="true" style="color:{colour}">{symbol}</span> {html.escape(self.sentence)}</div>'
        )


def check_controls(comparison: Comparison) -> list[ControlVerdict]:
    """Judge every control of a comparison by the interval of its paired differences, corrected for their number.

    The score has the direction of the comparison; of any other column more is better.
    """
    made: list[tuple[str, str, str, Claim]] = []
    wanted = [(control, of, on) for control, (of, columns) in comparison.controls.items() for on in columns]
    for control, of, on in wanted:
        score = on in ("last", "best")
        claim = Claim(
            f"{control} falls behind {of}" + ("" if score else f" in {on}"),
            left=comparison.values(of, on),
            op=">" if not score or comparison.higher_is_better else "<",
            right=comparison.values(control, on),
            unit="points" if score and comparison.metric == "accuracy" else "",
        )
        made.append((control, of, on, claim))
    verdicts = check_claims([claim for *_, claim in made])
    return [
        ControlVerdict(control=control, of=of, on=on, verdict=verdict)
        for (control, of, on, _), verdict in zip(made, verdicts, strict=True)
    ]


__all__ = ["ControlVerdict", "check_controls"]
