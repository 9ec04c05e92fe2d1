"""The diagnosis of the pair that a training panel trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.views.base import View
from workbench.views.diagnose import diagnosis_views, findings_view

from .explorer import Explorer, dropdown
from .pair import RANDOM_STATE
from .train import Outcome, TrainPanel

if TYPE_CHECKING:
    from kdcore.diagnose import Diagnosis

#: What can be chosen, and the pictures each part shows (names of :func:`workbench.views.diagnosis_views`).
PARTS: dict[str, tuple[str, ...]] = {
    "findings": ("findings",),
    "what the student has not learnt": ("missed",),
    "layers": ("cka", "alignment"),
    "regions": ("occlusion", "robustness"),
    "calibration": ("reliability",),
}
_STATIC = ("findings", "missed", "alignment", "occlusion", "robustness")


class DiagnosisPanel(Explorer):
    """What is wrong with the pair just trained, or what its student has not learnt.

    Each training that ends, or is stopped after an epoch, is examined by :func:`kdcore.diagnose.diagnose` with its own
    history, on samples it was not trained on.

    Args:
        training: the panel to follow.
        limit: samples used, of the task's test split.
        name: key among the open panels.

    The static form shows the findings and the main pictures of the last training; where there is none, it trains with
    the panel's choices.
    """

    def __init__(self, training: TrainPanel, *, limit: int = 256, name: str = "diagnosis") -> None:
        self.training, self.limit = training, limit
        self._found: tuple[Outcome, Diagnosis] | None = None
        super().__init__("Diagnosis", {"part": dropdown([*PARTS], label="show")}, self._views, name=name)
        training.state.observe(self._arrived, "outcome")

    @property
    def outcome(self) -> Outcome | None:
        """The training that is examined, ``None`` before the first."""
        return self.training.outcomes[-1] if self.training.outcomes else None

    def diagnosis(self) -> Diagnosis:
        """The diagnosis of the last training, made once.

        Raises:
            RuntimeError: nothing has been trained.
        """
        from kdcore.diagnose import diagnose

        with RANDOM_STATE:  # a cell may ask while the panel draws
            outcome = self.outcome
            if outcome is None or outcome.student is None or outcome.teacher is None:
                raise RuntimeError("nothing has been trained: press Start in the panel above.")
            if self._found is None or self._found[0] is not outcome:
                # copies in eval mode: the panel may train the same networks on meanwhile
                teacher, student = (copy.deepcopy(m).eval() for m in (outcome.teacher, outcome.student))
                self._found = (
                    outcome,
                    diagnose(
                        teacher,
                        student,
                        outcome.request.task,
                        limit=self.limit,
                        history=outcome.result,
                        seed=outcome.request.seed,
                    ),
                )
            return self._found[1]

    def _views(self, part: str) -> list[View]:
        return self._chosen(PARTS[part]) or [findings_view(self.diagnosis(), sentences=True)]

    def _chosen(self, wanted: tuple[str, ...], *, last: bool = False) -> list[View]:
        """The views whose names begin with one of ``wanted``; with ``last`` one of each kind, the deepest."""
        found = self.diagnosis()
        drawn = diagnosis_views(found) | {"findings": findings_view(found, sentences=True)}
        kinds = [[v for name, v in drawn.items() if name.split()[0] == kind] for kind in wanted]
        return [v for kind in kinds for v in (kind[-1:] if last else kind)]

    def static(self) -> list[View]:
        """Findings and the main pictures of the last training."""
        if self.outcome is None:
            self.training.static()
        return self._chosen(_STATIC, last=True)

    def _stop(self) -> None:
        self.training.state.unobserve(self._arrived, "outcome")

    def _arrived(self, _: Any) -> None:
        """A training ended (told in its thread): examine it and draw."""
        if not self.closed and self.outcome is not None and "widget" in self.__dict__:
            self._request(self.state.values)

    def _draw(self, values: Mapping[str, Any]) -> None:
        if self.outcome is not None:
            super()._draw(dict(values))
        elif hasattr(self, "_box"):
            self._box.say("<p>Nothing has been trained yet. Press <b>Start</b> above: the findings follow.</p>")


__all__ = ["PARTS", "DiagnosisPanel"]
