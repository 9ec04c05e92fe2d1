"""The study of mixup in distillation: does it smooth too much, and what helps; then teachers trained with mixup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from ..experiment import Arm, Claim, Comparison
from ..functional.calibration import expected_calibration_error
from ..functional.prototypes import class_means
from ..method import Method, Signals
from ..methods.mixup_kd import Mixup, MixupKD, std_scale
from ..model_layers import collect_features, embedding_tap
from ..models import CifarResNet
from ..tasks import Classification, ModelSpec
from . import Study
from ._shared import CIFAR_RECIPE, cifar100_task, few_labels_task

STRATEGY, RELEASED = "std + PMU 10 %", "std + PMU as released"
SHUFFLED = f"{STRATEGY}, shuffled pairs"


class ShuffledMixupKD(MixupKD):
    """The teacher's answers belong to other samples of the batch."""

    def terms(self, s: Signals) -> dict[str, Tensor]:
        assert s.teacher_logits is not None
        return super().terms(replace(s, teacher_logits=s.teacher_logits.roll(1, 0)))


def kd_label(temperature: float, mix: str = "none", beta: float = 1.0) -> str:
    """Label of plain distillation: ``"KD, T = 4 + FMU"``."""
    words = {"none": "", "partial": " + PMU 10 %", "full": " + FMU"}[mix]
    return f"KD, T = {temperature:g}{words}" + (f", β = {beta:g}" if beta != 1 and mix != "none" else "")


def kd_arm(temperature: float, mix: str = "none", beta: float = 1.0, **weights: float) -> Arm:
    """Plain distillation at a temperature, with mixed samples and labels."""
    knobs = {"scaling": "temperature", "temperature": temperature, "mix": mix, "beta": beta, **weights}
    return Arm(kd_label(temperature, mix, beta), "mixup_kd", knobs)


def mixup_arms(
    *, mix_fraction: float = 0.1, beta: float = 1.0, ce_weight: float = 0.1, kd_weight: float = 0.9
) -> list[Arm]:
    """Labels, KD at two temperatures and std-scaled KD, without and with mixup, and a control that must fail.

    Args:
        mix_fraction: share that the arms with PMU mix; "as released" draws what stays with replacement.
        beta: shape of the coefficients.
        ce_weight, kd_weight: of all arms with a teacher.
    """
    weights = {"ce_weight": ce_weight, "kd_weight": kd_weight}
    std: dict[str, Any] = {"mix_fraction": mix_fraction, "beta": beta, **weights}
    kd = [kd_arm(t, mix, **weights) for t, mix in ((4.0, "none"), (4.0, "partial"), (4.0, "full"), (1.0, "full"))]
    kd = [replace(arm, knobs={**arm.knobs, "mix_fraction": mix_fraction, "beta": beta}) for arm in kd]
    return [
        Arm("CE", "ce"),
        Arm("CE + FMU", "mixup", {"mix": "full", "beta": beta}),
        *kd,
        Arm("std", "mixup_kd", {**std, "mix": "none"}),
        Arm(STRATEGY, "mixup_kd", std),
        Arm(RELEASED, "mixup_kd", {**std, "sampling": "with_replacement"}),
        Arm("std + FMU", "mixup_kd", {**std, "mix": "full"}),
        Arm(SHUFFLED, ShuffledMixupKD(**std), control_of=STRATEGY),
    ]


def mixup_claims(comparison: Comparison) -> list[Claim]:
    """Over-smoothing, less of it at a low temperature and with partial mixup, and the suggested strategy."""
    v, full = comparison.values, kd_label(4, "full")
    return [
        Claim(
            "KD at T = 4 loses a point or more by full mixup",
            left=v(kd_label(4)), op=">=", right=v(full), threshold=1.0,
        ),
        Claim(
            "with full mixup, T = 1 beats T = 4 by a point or more",
            left=v(kd_label(1, "full")), op=">=", right=v(full), threshold=1.0,
        ),
        Claim(
            f"{STRATEGY} beats KD at T = 4 by 2 points or more",
            left=v(STRATEGY), op=">=", right=v(kd_label(4)), threshold=2.0,
        ),
        Claim("at T = 4 partial mixup is better than full mixup", left=v(kd_label(4, "partial")), right=v(full)),
    ]  # fmt: skip


def calibration_error(student: nn.Module, task: Classification, *, scaled: bool = False) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: ECE in 15 bins, of the logits or of scaled ones."""
    logits, labels = task.predict(student)
    return expected_calibration_error(std_scale(logits) if scaled else logits, labels)


def class_scatter(student: nn.Module, task: Classification) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: between-class over within-class scatter of test embeddings."""
    name = embedding_tap(student)
    z = collect_features(student, task.loader("test", batch_size=512, shuffle=False), name)[name].double()
    means, labels = class_means(z, task.labels("test"), task.num_classes), task.labels("test")
    within = (z - means[labels]).square().sum()
    return float((means[labels] - z.mean(0)).square().sum() / within)


# Teachers trained with mixup ------------------------------------------------------------------------------------------


class MixupTeachers(Classification):
    """A task whose reference teachers are trained with full mixup."""

    def teacher_objective(self) -> Method:
        return Mixup(mix="full")


class TwoTeachers(nn.Module):
    """Answers ``(plain, mixed)``: what a teacher trained without, and one trained with mixup say to the same batch."""

    def __init__(self, plain: nn.Module, mixed: nn.Module) -> None:
        super().__init__()
        self.plain, self.mixed = plain, mixed

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.plain(x), self.mixed(x)


class TaughtByTwo(Classification):
    """A task whose reference teacher is a pair, :class:`TwoTeachers`."""

    def teacher(self, name: str | None = None, **options: Any) -> TwoTeachers:
        pair = [_as(kind, self).teacher(name, **options) for kind in (Classification, MixupTeachers)]
        return TwoTeachers(*pair).eval()

    def untrained_teacher(self, name: str | None = None) -> TwoTeachers:
        return TwoTeachers(*(super(TaughtByTwo, self).untrained_teacher(name) for _ in range(2))).eval()


def _as(kind: type[Classification], task: Classification) -> Classification:
    return kind(**{f.name: getattr(task, f.name) for f in fields(task) if f.init})


class FromMixedTeacher(MixupKD):
    """Learns from the second teacher of a pair."""

    def terms(self, s: Signals) -> dict[str, Tensor]:
        (answer,) = s.teachers.values()
        return super().terms(replace(s, teacher_logits=answer.output[1]))


def two_teachers_task(seed: int = 0) -> Classification:
    """Digits with few labels, taught by a teacher trained without and one trained with mixup."""
    return _as(TaughtByTwo, few_labels_task(seed))


def grid_label(mixed: bool, temperature: float, mix: str, beta: float = 1.0) -> str:
    """Label of a cell: ``"mixup teacher: KD, T = 4 + FMU"``."""
    return f"{'mixup' if mixed else 'plain'} teacher: {kd_label(temperature, mix, beta)}"


def grid_arms(*, temperatures: Sequence[float] = (1.0, 4.0), betas: Sequence[float] = (1.0,)) -> list[Arm]:
    """Teacher with and without mixup x student without and with full mixup x temperature (x beta)."""
    cells = [(t, mix, b) for t in temperatures for mix, b in (("none", 1.0), *(("full", b) for b in betas))]
    return [
        replace(
            arm := kd_arm(t, mix, b),
            label=grid_label(mixed, t, mix, b),
            method=FromMixedTeacher(**arm.knobs) if mixed else "mixup_kd",
            knobs={} if mixed else arm.knobs,
        )
        for mixed in (False, True)
        for t, mix, b in cells
    ]


def grid_claims(comparison: Comparison) -> list[Claim]:
    """A teacher trained with mixup distils worse."""
    left, right = (comparison.values(grid_label(mixed, 4.0, "none")) for mixed in (False, True))
    return [Claim("at T = 4 a teacher trained without mixup teaches better than one with", left=left, right=right)]


@cache
def cifar100_mixup_task() -> Classification:
    """CIFAR-100, ResNet110 teaches ResNet20 by the released recipe: SGD 0.05, x0.1 at 150, 180, 210 of 240 epochs."""
    task = cifar100_task(recipe=CIFAR_RECIPE)

    def spec(depth: int) -> ModelSpec:
        build = partial(CifarResNet, depth, task.num_classes)
        return ModelSpec(build=build, recipe=CIFAR_RECIPE, words=f"CIFAR ResNet of {depth} layers")

    teachers, students = ({f"resnet{d}": spec(d)} for d in (110, 20))
    return replace(task, teachers=teachers, students=students)


def cifar100_mixup_for(seed: int) -> Classification:
    """:func:`cifar100_mixup_task` for every seed: the full tier; the teacher is shared."""
    return cifar100_mixup_task()


#: Teachers with and without mixup.
GRID = Study(
    slug="mixup_kd",
    words="teachers and students with and without mixup at several temperatures, digits with few labels",
    task=two_teachers_task,
    arms=grid_arms,
    claims=grid_claims,
    baseline=grid_label(False, 4.0, "none"),
    quick={"student": "mlp-16", "epochs": 60},
    full={"student": "mlp-16", "epochs": 60, "temperatures": (1.0, 2.0, 4.0, 8.0), "betas": (0.2, 0.4, 1.0)},
)
STUDY = Study(
    slug="mixup_kd",
    words="mixup, temperature and std scaling on digits with few labels; CIFAR-100 in the full tier",
    task=few_labels_task,
    arms=mixup_arms,
    claims=mixup_claims,
    metrics={"ece": calibration_error, "ece_std": partial(calibration_error, scaled=True), "scatter": class_scatter},
    baseline=kd_label(4),
    quick={"student": "mlp-16", "epochs": 60},
    full={"task": cifar100_mixup_for},
    also=(GRID,),
)

__all__ = [
    "GRID",
    "RELEASED",
    "SHUFFLED",
    "STRATEGY",
    "STUDY",
    "FromMixedTeacher",
    "MixupTeachers",
    "ShuffledMixupKD",
    "TaughtByTwo",
    "TwoTeachers",
    "calibration_error",
    "cifar100_mixup_task",
    "class_scatter",
    "grid_arms",
    "grid_label",
    "kd_arm",
    "kd_label",
    "mixup_arms",
    "two_teachers_task",
]
