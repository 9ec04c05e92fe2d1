"""PairPanel: what distillation changed inside, for one teacher and a student before and after."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.cka_maps import CKAResult, cka_map
from kdcore.tasks import Task
from workbench.views.base import View
from workbench.views.cka import cka_compare_view, cka_map_view
from workbench.views.comparison import confusion_view
from workbench.views.images import image_grid_view
from workbench.views.probabilities import probability_bars_view
from workbench.views.ranking import rank_agreement_view, ranking_view

from .explorer import Explorer, dropdown, slider

PICTURES = {"CKA map": "cka", "agreement of the rankings": "agreement", "confusion": "confusion",
            "one sample": "sample"}


class PairPanel(Explorer):
    """Pictures of a teacher and a student, before and after distillation.

    Args:
        task: where the samples come from.
        teacher: module.
        after: the distilled student; before: the same network earlier (untrained, or trained with labels alone), or
            ``None``.
        split: part of the data; limit: at most so many samples of it.
        layers_teacher, layers_student: layers of the CKA map (default: :func:`kdcore.layers`).
        labels: what before and after are called.
        name: key among the open panels.

    The networks are copied, so that a later training does not change what is shown.
    """

    def __init__(self, task: Task, teacher: nn.Module, after: nn.Module, before: nn.Module | None = None, *,
                 split: str = "test",
                 limit: int = 400, layers_teacher: Sequence[str] | None = None,
                 layers_student: Sequence[str] | None = None,
                 labels: tuple[str, str] = ("before", "after"), name: str = "pair") -> None:
        if limit < 8:
            raise ValueError(f"limit must be >= 8 samples, got {limit!r}.")
        self.task, self.split, self.labels = task, split, labels
        self.count = min(limit, len(task.split(split)))
        self.teacher, self.after = copy.deepcopy(teacher).eval(), copy.deepcopy(after).eval()
        self.before = copy.deepcopy(before).eval() if before is not None else None
        self.layers: dict[str, Any] = {"layers_x": layers_student, "layers_y": layers_teacher}
        controls = {"picture": dropdown(PICTURES, label="picture"),
                    "sample": slider(0, 0, self.count - 1, label="sample", help="for “one sample”"),
                    "temperature": slider(4.0, 1.0, 20.0, step=0.5, label="temperature T", help="for “one sample”")}
        super().__init__("Teacher and student, side by side", controls, self._views, name=name,
                         static_at=[{"picture": p} for p in PICTURES.values()])

    def _views(self, picture: str, sample: int, temperature: float) -> list[View]:
        made: dict[str, Callable[[], list[View]]] = {
            "cka": self._cka_views, "agreement": self._agreement_views, "confusion": self._confusion_views,
            "sample": lambda: self._sample_views(sample, temperature)}
        return made[picture]()

    @cached_property
    def logits(self) -> dict[str, Tensor]:
        """Logits ``(N, C)`` by role, labels ``(N,)`` under ``"labels"``; computed once."""
        teacher, labels = self.task.predict(self.teacher, self.split, n=self.count)
        made = {"teacher": teacher, "labels": labels,
                "after": self.task.predict(self.after, self.split, n=self.count)[0]}
        if self.before is not None:
            made["before"] = self.task.predict(self.before, self.split, n=self.count)[0]
        return made

    def _map(self, student: nn.Module) -> CKAResult:
        loader = self.task.loader(self.split, batch_size=64, shuffle=True, seed=0)
        return cka_map(student, self.teacher, loader, transform_x=self.task.normalization(student),
                       transform_y=self.task.normalization(self.teacher), limit=self.count, **self.layers)

    @cached_property
    def maps(self) -> dict[str, CKAResult]:
        """CKA maps, student by teacher, ``after`` and (if given) ``before``; computed once."""
        return {role: self._map(model) for role, model in (("before", self.before), ("after", self.after))
                if model is not None}

    def _cka_views(self) -> list[View]:
        after = self.maps["after"]
        if "before" not in self.maps:
            return [cka_map_view(after.matrix, after.layers_x, after.layers_y)]
        return [cka_compare_view(self.maps["before"].matrix, after.matrix, after.layers_x, after.layers_y,
                                 labels=self.labels)]

    def _agreement_views(self) -> list[View]:
        return [rank_agreement_view(self.logits["after"], self.logits["teacher"], self.logits.get("before"),
                                    labels=self.labels)]

    def _confusion_views(self) -> list[View]:
        count, labels = self.task.num_classes, self.logits["labels"]
        named = {"teacher": "teacher", **({"before": self.labels[0]} if self.before is not None else {}),
                 "after": self.labels[1]}
        return [confusion_view({title: torch.bincount(labels * count + self.logits[role].argmax(1),
                                                      minlength=count * count)
                                .reshape(count, count) for role, title in named.items()}, self.task.class_names,
                               title="Truth against prediction")]

    def _sample_views(self, sample: int, temperature: float) -> list[View]:
        names, label = self.task.class_names, int(self.logits["labels"][sample])
        s, t = self.logits["after"][sample], self.logits["teacher"][sample]
        x = torch.as_tensor(self.task.split(self.split)[sample][0])
        shown = [image_grid_view(x[None], [f"sample {sample}: {names[label]}"],
                                 title="The sample")] if x.ndim == 3 and x.shape[0] in (1, 3) else []
        return [*shown, probability_bars_view(s, t, names, temperature=temperature, label=label),
                ranking_view(s, t, names, label=label)]
