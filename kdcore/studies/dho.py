"""Few labels and a vision-language teacher: one head for both signals against two heads."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..checkpoints import preserved_rng
from ..distiller import Step, distill
from ..experiment import Arm, Claim, Comparison
from ..functional.dual_heads import InterpolationResult, dual_head_probabilities, search_interpolation
from ..inputs import input_normalization
from ..method import Signals, total
from ..methods.dho import DHO, gradient_conflict
from ..registry import create_method
from ..taps import evaluating
from ..tasks import load_task
from ..tasks.digits_two_tower import TwoTowerTask
from . import Study

CE, KD, SINGLE, DUAL = "CE head only", "KD head only", "single head", "DHO"
OTHERS = "DHO, answers to other images"


class OtherImages(DHO):
    """A control: the KD head hears the teacher's answer to the next image of the batch."""

    def terms(self, s: Signals) -> dict[str, Tensor]:
        return super().terms(replace(s, teacher_logits=s.logits[1].roll(1, 0)))


def arms(*, temperature: float = 2.0, ce_weight: float = 0.5, kd_weight: float = 0.5) -> list[Arm]:
    """Labels alone, the teacher alone, both on one head, a head for each; and the latter with the teacher's answers to
    other images, which must fail. All have the same batches and steps.

    Args:
        temperature: of the distillation terms; default 2 (erjui/DHO).
        ce_weight, kd_weight: default 0.5 and 0.5 (erjui/DHO, few-shot scripts).
    """
    both = {"temperature": temperature, "ce_weight": ce_weight, "kd_weight": kd_weight}
    return [
        Arm(CE, "dho", {**both, "kd_weight": 0.0, "alpha": 1.0}),
        Arm(KD, "dho", {**both, "ce_weight": 0.0, "alpha": 0.0}),
        Arm(SINGLE, "dho", {**both, "heads": "single"}),
        Arm(DUAL, "dho", both),
        Arm(OTHERS, OtherImages(**both), control_of=DUAL, control_on=("searched",)),
    ]


@torch.no_grad()
def both_heads(student: nn.Module, task: TwoTowerTask, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the CE head and of the KD head, and the labels, over a split in its order."""
    normalize, parts = input_normalization(student), []
    with evaluating(student):
        for x, y in task.loader(split, batch_size=512, shuffle=False):
            ce, kd = student(normalize(x))[:2]
            parts.append((ce, kd, y))
    ce, kd, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return ce, kd, labels


def searched(student: nn.Module, task: TwoTowerTask) -> InterpolationResult:
    """The best mixture of a student's heads on the validation images."""
    return search_interpolation(*both_heads(student, task, "val"))


def searched_accuracy(student: nn.Module, task: TwoTowerTask) -> float:
    """A metric: test accuracy of the mixture that was best on the validation images."""
    found = searched(student, task)
    ce, kd, labels = both_heads(student, task, "test")
    mixed = dual_head_probabilities(ce, kd, alpha=found.alpha, beta=found.beta)
    return (mixed.argmax(1) == labels).double().mean().item()


def conflicts(task: TwoTowerTask, teacher: nn.Module, *, heads: str, epochs: int = 4, seed: int = 0) -> Tensor:
    """Cosine between the gradients of both losses in the backbone, after every step of a training, ``(steps,)``.

    Args:
        task, teacher: the arena; heads: ``"dual"`` or ``"single"``; epochs, seed: of the training.
    """
    method, student = create_method("dho", heads=heads), task.student(seed=seed)
    loader = task.loader("train", batch_size=32, seed=seed)
    batches, found = list(task.loader("train", batch_size=32, seed=seed + 1)), []

    def look(event: object) -> None:
        if not isinstance(event, Step):
            return
        x, y = batches[event.step % len(batches)]
        with torch.enable_grad(), evaluating(student):
            output = student(x)
            s = Signals(student_logits=output[1], student_output=output, teacher_logits=teacher(x).detach(), labels=y)
            learnt = method.supervised(s)
            assert isinstance(learnt, Tensor)
            pulls = gradient_conflict(
                learnt, total(method.terms(s).values()), student.get_submodule("backbone").parameters()
            )
        found.append(pulls["cosine"])

    with preserved_rng():
        distill(teacher, student, method, loader, epochs=epochs, lr=3e-3, seed=seed, callbacks=[look])
    return torch.tensor(found)


def task_of(seed: int = 0, *, labels_per_class: int = 1, num_images: int = 220) -> TwoTowerTask:
    """The arena of one seed: its own split, teacher and labels.

    Args:
        seed: of everything.
        labels_per_class: labelled images of each digit; 1, 3 and 10 in the specification.
        num_images: images with captions that the teacher learns from.
    """
    return load_task("digits_two_tower", seed=seed, labels_per_class=labels_per_class, num_images=num_images)


def claims(comparison: Comparison) -> list[Claim]:
    """Two heads, mixed by a search on validation images, against one head and against either signal alone."""
    best, count = comparison.values(DUAL, "searched"), len(comparison.tasks[comparison.seeds[0]].train) // 10
    where = f"{count} label{'s' if count > 1 else ''} per class"
    return [
        Claim(f"{where}: DHO, searched, beats a single head", left=best, right=comparison.values(SINGLE)),
        *(
            Claim(
                f"{where}: DHO, searched, is at most a point below the {arm}",
                left=best,
                op=">=",
                right=comparison.values(arm),
                threshold=-1.0,
            )
            for arm in (CE, KD)
        ),
    ]


_AT_THREE = Study(
    slug="dho",
    words="the same with three labels per class",
    task=partial(task_of, labels_per_class=3),
    arms=arms,
    claims=claims,
    metrics={"searched": searched_accuracy},
    baseline=SINGLE,
    quick={"epochs": 8},
    full={"epochs": 20},
)
STUDY = Study(
    slug="dho",
    words="one or two heads for few labels and a vision-language teacher, on digits",
    task=task_of,
    arms=arms,
    claims=claims,
    metrics={"searched": searched_accuracy},
    baseline=SINGLE,
    quick={"epochs": 8},
    full={"epochs": 20},
    also=(_AT_THREE,),
)

__all__ = [
    "CE",
    "DUAL",
    "KD",
    "OTHERS",
    "SINGLE",
    "STUDY",
    "arms",
    "both_heads",
    "claims",
    "conflicts",
    "searched",
    "searched_accuracy",
    "task_of",
]
