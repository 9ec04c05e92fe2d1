"""What a rule looks at, what it says, and the words and slopes that all rules share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..cka_maps import CKAResult
from ..functional.checks import check_choice
from ._codes import ALARM, CODES
from ._history import Learning, SoftTerm
from ._measures import Activity, Answers, LayerView, Occlusion
from ._pair import Net, Role
from ._probes import Gain
from ._sample import Sample
from ._seen import Seen
from ._training import TrainingSet
from ._weights import Odd, Stage


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One plain sentence about a pair.

    Attributes:
        code: stable name, one of :data:`kdcore.diagnose.CODES`. severity: in [0, 1]; an alarm from
            :data:`kdcore.diagnose.ALARM` on.
        sentence: what is the matter, with the numbers. try_next: what to do about it.
        evidence: the numbers, and the layers, classes or samples meant; plain values.
    """

    code: str
    severity: float
    sentence: str
    evidence: dict[str, Any]
    try_next: str

    def __post_init__(self) -> None:
        check_choice("code", self.code, tuple(CODES))

    @property
    def alarm(self) -> bool:
        """Whether this is a fault rather than a difference."""
        return self.severity >= ALARM

    def __str__(self) -> str:
        return f"[{self.severity:.2f}] {self.code}: {self.sentence} {self.try_next}"


#: Findings that say how a model errs, not why.
HOW = frozenset(
    {
        "class_bias",
        "collapsed_output",
        "missing_class",
        "teacher_worse_than_student",
        "overconfident_teacher",
        "underconfident_teacher",
        "overconfident_student",
        "head_mismatch",
    }
)


@dataclass(kw_only=True)
class Facts:
    """Everything the rules look at."""

    nets: dict[Role, Net]
    said: dict[Role, Answers]
    sample: Sample
    labels: Tensor | None
    names: tuple[str, ...]
    agreement: dict[str, float]
    gains: list[Gain] = field(default_factory=list)
    batch_changes: dict[Role, float] = field(default_factory=dict)
    dependence: dict[Role, tuple[float, float]] = field(default_factory=dict)
    activity: dict[Role, list[Activity]] = field(default_factory=dict)
    stages: dict[Role, list[Stage]] = field(default_factory=dict)
    odd_weights: dict[Role, list[Odd]] = field(default_factory=dict)
    embeddings: dict[Role, Tensor] = field(default_factory=dict)
    scaled: dict[Role, Gain | None] = field(default_factory=dict)
    seen: dict[Role, Seen | None] = field(default_factory=dict)
    cliffs: tuple[tuple[float, int], tuple[float, int]] | None = None
    unseen: list[tuple[Role, str, float]] = field(default_factory=list)
    views: list[LayerView] = field(default_factory=list)
    embedding: LayerView | None = None
    cka: CKAResult | None = None
    pairs: list[tuple[str, str]] = field(default_factory=list)
    occlusion: Occlusion | None = None
    robustness: list[dict[str, Any]] = field(default_factory=list)
    soft_term: SoftTerm | None = None
    learning: Learning | None = None
    training: TrainingSet | None = None
    same: bool = False

    def other(self, role: Role) -> Role:
        return "student" if role == "teacher" else "teacher"

    def explained(self, role: Role, found: Sequence[Finding]) -> bool:
        """Whether an alarm already says why this model does badly (and not how; nor is it a repair that is beaten)."""
        return any(
            f.alarm
            and f.code not in HOW
            and not f.evidence.get("better_repairs")
            and f.evidence.get("model") in (role, "both")
            for f in found
        )


def pc(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def ramp(value: float, low: float, high: float, bottom: float, top: float) -> float:
    """``bottom`` at ``low``, ``top`` at ``high``, straight between, flat outside."""
    return bottom + (top - bottom) * min(1.0, max(0.0, (value - low) / (high - low)))
