"""The study of ND: what it does to length and direction of a small student's embeddings, and to its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..experiment import Arm, Claim, Comparison, compare
from ..functional.prototypes import class_means, norm_and_cosine
from ..method import TrainingOutputs
from ..methods.nd_kd import KDPP
from ..model_layers import collect_features, embedding_tap
from ..models import CifarResNet
from ..tasks import Classification, ModelSpec, load_task
from . import Study
from ._shared import CIFAR_RECIPE, accuracy_over_images, cifar100_task

#: Label of the control.
WRONG_MEANS = "KD++, wrong means"


class WrongMeans(KDPP):
    """KD++ where every class is asked to point to the mean of the next one: what helps must not be any direction."""

    def prepare(self, seen: TrainingOutputs) -> None:
        super().prepare(seen)
        self.class_means = self.class_means.roll(1, 0)


def norm_direction_arms(
    *,
    ce_weight: float = 1.0,
    kd_weight: float = 1.0,
    nd_weight: float = 4.0,
    norm_weight: float = 0.5,
    temperature: float = 4.0,
    warmup_epochs: int = 1,
) -> list[Arm]:
    """CE, KD, KD with each half of ND, KD++ (both halves), ND without KD, and KD++ with wrong means, which must fail.

    Args:
        ce_weight, kd_weight, temperature: of KD in all arms that have it.
        nd_weight: of ND and of its direction half.
        norm_weight: of the norm half, whose gradient does not shrink as embeddings grow.
        warmup_epochs: until KD has its full weight; default 1, the authors' share (20 of 240) of a short training.
    """
    base = {"ce_weight": ce_weight, "kd_weight": kd_weight, "temperature": temperature, "warmup_epochs": warmup_epochs}
    return [
        Arm("CE", "ce"),
        Arm("KD", "kdpp", {**base, "nd_weight": 0.0}),
        Arm("KD + cos", "kdpp", {**base, "nd_weight": nd_weight, "regularizer": "direction"}),
        Arm("KD + norm", "kdpp", {**base, "nd_weight": norm_weight, "regularizer": "norm"}),
        Arm("KD++", "kdpp", {**base, "nd_weight": nd_weight}),
        Arm("CE + ND", "nd", {"ce_weight": ce_weight, "nd_weight": nd_weight}),
        Arm(
            WRONG_MEANS,
            WrongMeans(**base, nd_weight=nd_weight),
            control_of="KD++",
            control_on=("last", "cosine"),
        ),
    ]


def norm_direction_task(seed: int = 0, *, train_size: int = 400) -> Classification:
    """Digits with few labelled images; teacher and student are convolutional and have embeddings of 64 numbers."""
    task = load_task("digits", seed=seed, train_size=train_size)
    return replace(task, teachers={"cnn": task.teachers["cnn"]}, students={"cnn-small": task.students["cnn-small"]})


def class_geometry(model: nn.Module, task: Classification, split: str = "test") -> tuple[Tensor, Tensor]:
    """Length of every embedding of a split, and its cosine with the reference teacher's mean of its class.

    Args:
        model: any network with the teacher's width of embedding, the teacher included.
        task: its default teacher gives the class means, over the images that the student learns from.
        split: whose images are measured.

    Returns:
        ``(norms, cosines)``, both ``(N,)``, in the order of the split.

    Raises:
        ValueError: embeddings of another width than the teacher's, or a class of the split that the student never saw.
    """
    means = class_means(_embeddings(task.teacher(), task, "train"), task.labels("train"), task.num_classes)
    return norm_and_cosine(_embeddings(model, task, split), means, task.labels(split))


def _embeddings(model: nn.Module, task: Classification, split: str) -> Tensor:
    name = embedding_tap(model)
    return collect_features(model, task.loader(split, batch_size=512, shuffle=False), name)[name]


def mean_norm(student: nn.Module, task: Classification) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: mean length of the test embeddings."""
    return class_geometry(student, task)[0].mean().item()


def mean_cosine(student: nn.Module, task: Classification) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: mean cosine of the test embeddings with their class mean."""
    return class_geometry(student, task)[1].mean().item()


def norm_direction(
    *, arms: Sequence[Arm | str] | None = None, train_size: int = 400, seeds: int | Sequence[int] = 3, **options: Any
) -> Comparison:
    """What ND does to length and direction of a small student's embeddings, and to its accuracy, on few labels.

    Args:
        arms: :func:`norm_direction_arms` by default.
        train_size: images the student sees; each seed has its own split, subset, teacher and initial weights.
        seeds, **options: see :func:`kdcore.experiment.compare`.

    Returns:
        A comparison whose rows also have ``norm`` and ``cosine`` (:func:`mean_norm`, :func:`mean_cosine`).
    """
    return compare(
        partial(norm_direction_task, train_size=train_size),
        norm_direction_arms() if arms is None else arms,
        seeds=seeds,
        metrics={"norm": mean_norm, "cosine": mean_cosine},
        **options,
    )


def norm_direction_claims(comparison: Comparison) -> list[Claim]:
    """KD++ against KD in length, direction and accuracy (the paper's claim), and the direction half in length."""
    values = comparison.values
    return [
        Claim(
            "embeddings are longer with KD++ than with KD",
            left=values("KD++", "norm"),
            right=values("KD", "norm"),
            unit="mean length",
        ),
        Claim(
            "embeddings point to their class mean more with KD++ than with KD",
            left=values("KD++", "cosine"),
            right=values("KD", "cosine"),
            unit="mean cosine",
        ),
        Claim("KD++ beats KD in accuracy", left=values("KD++"), right=values("KD")),
        Claim(
            "the norm half of ND is real: embeddings are longer than with the direction half alone",
            left=values("KD++", "norm"),
            right=values("KD + cos", "norm"),
            unit="mean length",
        ),
    ]


def cifar100_nd(*, folder: str | Path | None = None, seeds: int | Sequence[int] = 3, **options: Any) -> Comparison:
    """CIFAR-100, ResNet56 teaches ResNet20 by KD and by KD++ with the authors' weights (1, 1, 2): hours on one GPU.

    Args:
        folder: where ``cifar-100-python`` lies; default the data folder (``KDCORE_DATA``).
        seeds, **options: see :func:`kdcore.experiment.compare`.

    Raises:
        FileNotFoundError: CIFAR-100 is not there; the message names the folder.

    Reference:
        arXiv:2305.17007; WangYZ1608/Knowledge-Distillation-via-ND.
    """
    arms = [arm for arm in norm_direction_arms(nd_weight=2.0, warmup_epochs=20) if arm.label in ("CE", "KD", "KD++")]
    return compare(cifar100_nd_task(folder=folder), arms, seeds=seeds, **options)


@cache
def cifar100_nd_task(*, folder: str | Path | None = None) -> Classification:
    """CIFAR-100 with ResNet56 and ResNet20 by the authors' recipe (SGD 0.1, x0.1 at 150, 180, 210 of 240 epochs)."""
    recipe = replace(CIFAR_RECIPE, lr=0.1)
    task = cifar100_task(folder=folder, recipe=recipe)

    def spec(depth: int) -> dict[str, ModelSpec]:
        return {
            f"resnet{depth}": ModelSpec(
                build=partial(CifarResNet, depth, task.num_classes),
                recipe=recipe,
                words=f"CIFAR ResNet of {depth} layers",
            )
        }

    return replace(task, teachers=spec(56), students=spec(20))


def cifar100_nd_for(seed: int) -> Classification:
    """:func:`cifar100_nd_task` for every seed: the full tier; the teacher is shared."""
    return cifar100_nd_task()


STUDY = Study(
    slug="nd_kd",
    words="length and direction of embeddings on digits with few labels; CIFAR-100 in the full tier",
    task=norm_direction_task,
    arms=norm_direction_arms,
    claims=norm_direction_claims,
    metrics={"norm": mean_norm, "cosine": mean_cosine},
    baseline="KD",
    full={"task": cifar100_nd_for, "nd_weight": 2.0, "warmup_epochs": 20},
)

__all__ = [
    "STUDY",
    "WRONG_MEANS",
    "WrongMeans",
    "accuracy_over_images",
    "cifar100_nd",
    "cifar100_nd_task",
    "class_geometry",
    "mean_cosine",
    "mean_norm",
    "norm_direction",
    "norm_direction_arms",
    "norm_direction_claims",
    "norm_direction_task",
]
