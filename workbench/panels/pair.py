"""What distillation changed inside: a teacher and a student, before and after."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.cka_maps import CKAResult, cka_map
from kdcore.functional.correlation import kendall_tau
from kdcore.functional.divergences import kd_loss
from kdcore.tasks import Classification
from workbench.views.base import View
from workbench.views.cka import cka_compare_view, cka_map_view
from workbench.views.comparison import confusion_view
from workbench.views.probabilities import probability_bars_view
from workbench.views.ranking import rank_agreement_view, ranking_view

from .explorer import Control, Explorer, dropdown, slider
from .train import Outcome, TrainPanel

PICTURES = {
    "CKA map": "cka",
    "agreement of the rankings": "agreement",
    "confusion": "confusion",
    "one sample": "sample",
}
#: Networks made from a seed, and examinations, use torch's one random state: panels that draw at the same time take
#: turns.
RANDOM_STATE = threading.RLock()
#: What a student is compared with when nothing else is chosen.
UNTRAINED = "the untrained student"


def _check_limit(limit: int) -> None:
    if limit < 8:
        raise ValueError(f"limit must be >= 8 samples, got {limit!r}.")


class Pair:
    """Numbers about a teacher and a student before and after, each computed once; see :class:`PairPanel`.

    The networks are copied, so that a later training does not change what is shown.
    """

    def __init__(
        self,
        task: Classification,
        teacher: nn.Module,
        after: nn.Module,
        before: nn.Module | None,
        *,
        split: str,
        limit: int,
        layers_teacher: Sequence[str] | None,
        layers_student: Sequence[str] | None,
        labels: tuple[str, str],
    ) -> None:
        self.task, self.split, self.labels = task, split, labels
        self.draw = task.draw(split, limit)
        self.count = len(self.draw)
        self.teacher, self.after = copy.deepcopy(teacher).eval(), copy.deepcopy(after).eval()
        self.before = copy.deepcopy(before).eval() if before is not None else None
        self.layers: dict[str, Any] = {"layers_x": layers_student, "layers_y": layers_teacher}

    @cached_property
    def logits(self) -> dict[str, Tensor]:
        """Logits ``(N, C)`` by role, labels ``(N,)`` under ``"labels"``."""
        rows = self.draw.rows
        teacher, labels = self.task.predict(self.teacher, self.split, rows=rows)
        made = {
            "teacher": teacher,
            "labels": labels,
            "after": self.task.predict(self.after, self.split, rows=rows)[0],
        }
        if self.before is not None:
            made["before"] = self.task.predict(self.before, self.split, rows=rows)[0]
        return made

    @cached_property
    def maps(self) -> dict[str, CKAResult]:
        """CKA maps, student by teacher, ``after`` and (if given) ``before``."""
        return {
            role: self._map(model)
            for role, model in (("before", self.before), ("after", self.after))
            if model is not None
        }

    @cached_property
    def farthest(self) -> int:
        """The sample on which the student's answer is farthest from the teacher's (KL divergence at T = 1)."""
        return int(kd_loss(self.logits["after"], self.logits["teacher"], temperature=1.0, reduction="none").argmax())

    def _map(self, student: nn.Module) -> CKAResult:
        loader = self.task.loader(self.split, batch_size=64, shuffle=True, seed=0, rows=self.draw.rows)
        return cka_map(
            student,
            self.teacher,
            loader,
            transform_x=self.task.normalization(student),
            transform_y=self.task.normalization(self.teacher),
            **self.layers,
        )

    def views(self, picture: str, sample: int, temperature: float) -> list[View]:
        """The views of one picture, a value of :data:`PICTURES`."""
        made: dict[str, Callable[[], list[View]]] = {
            "cka": self._cka_views,
            "agreement": self._agreement_views,
            "confusion": self._confusion_views,
            "sample": lambda: self._sample_views(sample, temperature),
        }
        whole = made[picture]()
        if picture == "sample":
            return whole
        return [replace(view, title=f"{view.title} ({self.draw.words})") for view in whole]

    def _cka_views(self) -> list[View]:
        after = self.maps["after"]
        if "before" not in self.maps:
            return [cka_map_view(after.matrix, after.layers_x, after.layers_y)]
        before = self.maps["before"]
        if before.layers_x == after.layers_x:
            return [cka_compare_view(before.matrix, after.matrix, after.layers_x, after.layers_y, labels=self.labels)]
        return [
            cka_map_view(m.matrix, m.layers_x, m.layers_y, title=f"CKA of the layers, {label}")
            for label, m in zip(self.labels, (before, after), strict=True)
        ]

    def _agreement_views(self) -> list[View]:
        return [
            rank_agreement_view(
                self.logits["after"], self.logits["teacher"], self.logits.get("before"), labels=self.labels
            )
        ]

    def _confusion_views(self) -> list[View]:
        count, labels = self.task.num_classes, self.logits["labels"]
        named = {
            "teacher": "teacher",
            **({"before": self.labels[0]} if self.before is not None else {}),
            "after": self.labels[1],
        }
        return [
            confusion_view(
                {
                    title: torch.bincount(
                        labels * count + self.logits[role].argmax(1), minlength=count * count
                    ).reshape(count, count)
                    for role, title in named.items()
                },
                self.task.class_names,
                title="Truth against prediction",
            )
        ]

    def _sample_views(self, sample: int, temperature: float) -> list[View]:
        names, label = self.task.class_names, int(self.logits["labels"][sample])
        s, t = self.logits["after"][sample], self.logits["teacher"][sample]
        position = self.draw.rows[sample]
        x = torch.as_tensor(self.task.split(self.split)[position][0])
        image = x if x.ndim == 3 and x.shape[0] in (1, 3) else None
        title = f"Sample {position} of the {self.split} split: teacher and student at temperature {temperature:g}"
        return [
            probability_bars_view(s, t, names, temperature=temperature, label=label, image=image, title=title),
            ranking_view(s, t, names, label=label),
        ]


def _controls(count: int) -> dict[str, Control]:
    return {
        "picture": dropdown(PICTURES, label="picture"),
        "sample": slider(0, 0, max(1, count - 1), label="sample", when={"picture": ("sample",)}),
        "temperature": slider(4.0, 1.0, 20.0, step=0.5, label="temperature T", when={"picture": ("sample",)}),
    }


def _against(students: Sequence[str]) -> Control:
    """With whom the student is compared; pictures of one sample show it beside its teacher alone."""
    compared = [p for p in PICTURES.values() if p != "sample"]
    return dropdown(students, label="compare with", when={"picture": compared})


class PairPanel(Explorer):
    """Pictures of a teacher and a student, before and after distillation.

    Args:
        task: where the samples come from.
        teacher: module.
        after: the distilled student; before: the same network earlier (untrained, or trained with labels alone), or
            ``None``.
        split: part of the data; limit: at most so many samples of it, drawn by class (:meth:`Task.draw`).
        layers_teacher, layers_student: layers of the CKA map (default: :func:`kdcore.layers`).
        labels: what before and after are called.
        name: key among the open panels.

    The networks are copied, so that a later training does not change what is shown; ``panel.pair`` holds the numbers.
    """

    def __init__(
        self,
        task: Classification,
        teacher: nn.Module,
        after: nn.Module,
        before: nn.Module | None = None,
        *,
        split: str = "test",
        limit: int = 400,
        layers_teacher: Sequence[str] | None = None,
        layers_student: Sequence[str] | None = None,
        labels: tuple[str, str] = ("before", "after"),
        name: str = "pair",
    ) -> None:
        _check_limit(limit)
        self.pair = Pair(
            task,
            teacher,
            after,
            before,
            split=split,
            limit=limit,
            layers_teacher=layers_teacher,
            layers_student=layers_student,
            labels=labels,
        )
        super().__init__(
            "Teacher and student, side by side",
            _controls(self.pair.count),
            self.pair.views,
            name=name,
            static_at=[{"picture": p} for p in PICTURES.values()],
        )


class BeforeAfter(Explorer):
    """The pictures of :class:`PairPanel` for what a :class:`~workbench.panels.TrainPanel` trains.

    Each training that ends, or is stopped after an epoch, is shown as soon as it is there, compared with the untrained
    student or with any earlier training on the same task.

    Args:
        training: the panel to follow.
        split: part of the data; limit: at most so many samples of it, drawn by class (:meth:`Task.draw`).
        name: key among the open panels.

    ``pair`` holds the numbers behind the pictures. The static form shows the last training; where there is none, it
    trains with the panel's choices.
    """

    def __init__(
        self, training: TrainPanel, *, split: str = "test", limit: int = 400, name: str = "before-after"
    ) -> None:
        _check_limit(limit)
        self.training, self.split, self.limit = training, split, limit
        self._pairs: dict[tuple[int, str], Pair] = {}
        controls = _controls(limit)
        controls = {
            "picture": controls.pop("picture"),
            "against": _against([UNTRAINED]),
            **controls,
        }
        super().__init__("Before and after", controls, self._views, name=name)
        training.state.observe(self._arrived, "outcome")
        self._arrived(None)

    @property
    def outcome(self) -> Outcome | None:
        """The training that is shown, ``None`` before the first."""
        return self.training.outcomes[-1] if self.training.outcomes else None

    def pair(self, against: str = UNTRAINED) -> Pair:
        """The numbers of the last training, compared with another.

        Raises:
            RuntimeError: nothing has been trained.
        """
        outcome = self.outcome
        if outcome is None or outcome.student is None or outcome.teacher is None:
            raise RuntimeError("nothing has been trained: press Start in the panel above.")
        key = (id(outcome), against)
        with RANDOM_STATE:
            if key not in self._pairs:
                rival = self._rivals().get(against)
                before = outcome.untrained() if rival is None else rival.student
                self._pairs = {k: v for k, v in self._pairs.items() if k[0] == id(outcome)} | {
                    key: Pair(
                        outcome.request.task,
                        outcome.teacher,
                        outcome.student,
                        before,
                        split=self.split,
                        limit=self.limit,
                        layers_teacher=None,
                        layers_student=None,
                        labels=("untrained" if rival is None else against, f"after {outcome.request.label}"),
                    )
                }
            return self._pairs[key]

    def numbers(self) -> dict[str, float | int]:
        """The last training in numbers, for a record.

        Returns:
            ``teacher``, ``student`` (last epoch) and ``untrained``: the task's metric on the split it is watched on;
            ``tau_untrained`` and ``tau``: mean Kendall tau of the student's class ranking with the teacher's;
            ``cka_untrained`` and ``cka``: similarity of the last layers; ``epochs`` and ``steps`` done.

        Raises:
            RuntimeError: nothing has been trained.
        """
        pair, outcome = self.pair(), self.outcome
        assert outcome is not None and outcome.result is not None and pair.before is not None
        task, split = pair.task, outcome.request.split

        def metric(model: nn.Module) -> float:
            return task.evaluate(model, split)[task.metric]

        tau = {
            role: float(kendall_tau(pair.logits[role], pair.logits["teacher"]).nanmean())
            for role in ("before", "after")
        }
        return {
            "teacher": metric(pair.teacher),
            "student": metric(pair.after),
            "untrained": metric(pair.before),
            "tau_untrained": tau["before"],
            "tau": tau["after"],
            "cka_untrained": float(pair.maps["before"].matrix[-1, -1]),
            "cka": float(pair.maps["after"].matrix[-1, -1]),
            "epochs": len(outcome.result.history),
            "steps": outcome.result.steps,
        }

    def _rivals(self) -> dict[str, Outcome]:
        """Earlier trainings on the task of the last one, by the names they have in the chart."""
        outcome = self.outcome
        return {
            f"{o.request.label} (training {n})": o
            for n, o in enumerate(self.training.outcomes, 1)
            if outcome is not None and o is not outcome and o.request.task is outcome.request.task
        }

    def _views(self, picture: str, against: str, sample: int, temperature: float) -> list[View]:
        pair = self.pair(against)
        return pair.views(picture, min(sample, pair.count - 1), temperature)

    def static(self) -> list[View]:
        """All four pictures of the last training, the sample being the one where student and teacher differ most."""
        if self.outcome is None:
            self.training.static()
        pair = self.pair()
        start = self._complete({})
        return [v for p in PICTURES.values() for v in pair.views(p, pair.farthest, start["temperature"])]

    def _stop(self) -> None:
        self.training.state.unobserve(self._arrived, "outcome")

    def _arrived(self, _: Any) -> None:
        """A training ended (told in its thread): offer the new comparisons and draw."""
        if self.closed or self.outcome is None:
            return
        self.controls["against"] = _against([UNTRAINED, *self._rivals()])
        values = {**self.state.values, "against": UNTRAINED}
        if "widget" in self.__dict__:
            self._inputs["against"].options = [UNTRAINED, *self._rivals()]
            self._inputs["sample"].high = float(max(1, self.pair().count - 1))
        self.state.values = values
        self._request(values)

    def _draw(self, values: Mapping[str, Any]) -> None:
        if self.outcome is not None:
            super()._draw(dict(values))
        elif hasattr(self, "_box"):
            self._box.say("<p>Nothing has been trained yet. Press <b>Start</b> above: the pictures follow.</p>")


__all__ = ["PICTURES", "UNTRAINED", "BeforeAfter", "Pair", "PairPanel"]
