"""What several studies share: the baselines, digits with few labels, CIFAR-100, and the bootstrap over test images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..experiment import Arm, Comparison, Metric, compare
from ..functional.correlation import kendall_tau
from ..tasks import Classification, ModelSpec, Recipe, load_task
from ..tasks._augment import CropFlip

if TYPE_CHECKING:
    import pandas as pd

#: The recipe of megvii-research/mdistiller for CIFAR-100: SGD 0.05, x0.1 after 150, 180 and 210 of 240 epochs.
CIFAR_RECIPE = Recipe(epochs=240, batch_size=64, lr=0.05, optimizer="sgd", weight_decay=5e-4, scheduler="steps")


def logit_baselines(
    *,
    temperature: float = 4.0,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    alpha: float = 1.0,
    beta: float = 2.0,
    warmup_epochs: int = 10,
    dist_weight: float = 2.0,
) -> list[Arm]:
    """CE, KD, DKD and DIST as the arms of a comparison.

    Args:
        temperature: of KD, DKD and DIST; default 4, as in their CIFAR-100 recipes.
        ce_weight, kd_weight: of KD; defaults 0.1 and 0.9 (megvii-research/mdistiller).
        alpha, beta, warmup_epochs: of DKD; beta 2 is the smallest of its configurations, the warm-up is ours for short
            trainings (mdistiller: 20 of 240 epochs).
        dist_weight: of DIST, with both relations at weight 1; default 2 (the authors' recipes).
    """
    return [
        Arm("CE", "ce"),
        Arm("KD", "kd", {"temperature": temperature, "ce_weight": ce_weight, "kd_weight": kd_weight}),
        Arm("DKD", "dkd", {"temperature": temperature, "alpha": alpha, "beta": beta, "warmup_epochs": warmup_epochs}),
        Arm("DIST", "dist", {"temperature": temperature, "dist_weight": dist_weight}),
    ]


def few_labels_task(seed: int = 0, *, train_size: int = 200) -> Classification:
    """Digits with ``train_size`` labelled images for the student and all of them for the teacher."""
    return load_task("digits", seed=seed, train_size=train_size)


def few_labels(
    *,
    train_size: int = 200,
    arms: Sequence[Arm | str] | None = None,
    student: str = "mlp-16",
    epochs: int = 60,
    seeds: int | Sequence[int] = 3,
    metrics: Mapping[str, Metric] | None = None,
    **options: Any,
) -> Comparison:
    """Digits where the student has few labelled images and the teacher had all of them.

    Each seed has its own split, subset, teacher and initial weights. Rows also have ``tau``, see
    :func:`teacher_order`.

    Args:
        train_size: images the student sees, stratified; the teacher learned from all 1,078.
        arms: what is compared; :func:`logit_baselines` by default.
        student: one of the task's students.
        metrics: further numbers beside ``tau``.
        epochs, seeds, **options: see :func:`kdcore.experiment.compare`.
    """
    return compare(
        partial(few_labels_task, train_size=train_size),
        logit_baselines() if arms is None else arms,
        student=student,
        epochs=epochs,
        seeds=seeds,
        metrics={"tau": teacher_order, **(metrics or {})},
        **options,
    )


def cifar100_x4(
    *,
    folder: str | Path | None = None,
    arms: Sequence[Arm | str] | None = None,
    seeds: int | Sequence[int] = 3,
    recipe: Recipe = CIFAR_RECIPE,
    **options: Any,
) -> Comparison:
    """CIFAR-100, ResNet32x4 teaches ResNet8x4, random crops and flips, mdistiller's recipe: hours on one GPU.

    Args:
        folder: where ``cifar-100-python`` lies; default the data folder (``KDCORE_DATA``).
        arms: :func:`logit_baselines` with DKD's own beta 8 and 20 epochs of warm-up by default.
        seeds: students per arm, all taught by the same teacher.
        recipe: of teacher and student.
        **options: see :func:`kdcore.experiment.compare`.

    Raises:
        FileNotFoundError: CIFAR-100 is not there; the message names the folder.
    """
    task = cifar100_task(folder=folder, recipe=recipe)
    return compare(task, logit_baselines(beta=8.0, warmup_epochs=20) if arms is None else arms, seeds=seeds, **options)


def cifar100_task(*, folder: str | Path | None = None, recipe: Recipe = CIFAR_RECIPE, **options: Any) -> Classification:
    """CIFAR-100 with augmentation, ResNet32x4 as teacher and ResNet8x4 as student.

    Args:
        folder, **options: of the task ``cifar100``.
        recipe: of teacher and student.
    """
    from ..models.cifar_resnet_x4 import CifarResNetX4

    task = load_task("cifar100", folder=folder, **options)

    def spec(depth: int) -> dict[str, ModelSpec]:
        return {
            f"resnet{depth}x4": ModelSpec(
                build=partial(CifarResNetX4, depth, task.num_classes),
                recipe=recipe,
                words=f"CIFAR ResNet of {depth} layers, 64-128-256 channels",
            )
        }

    same = task.teacher_train is task.train
    train: Any = CropFlip(task.train)
    taught: Any = train if same else CropFlip(task.teacher_train)
    return replace(task, train=train, teacher_train=taught, teachers=spec(32), students=spec(8))


@cache
def _cifar100() -> Classification:
    return cifar100_task()


def cifar100_for(seed: int) -> Classification:
    """:func:`cifar100_task` for every seed: the full tier of the studies of logits; the teacher is shared."""
    return _cifar100()


def teacher_order(student: nn.Module, task: Classification) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: Kendall tau between the class orders of student and teacher.

    The mean over the test images, in [-1, 1]; the teacher is the task's default one.
    """
    return kendall_tau(task.predict(student)[0], task.predict(task.teacher())[0]).mean().item()


def accuracy_over_images(
    comparison: Comparison,
    baseline: str | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of every arm with a bootstrap interval over the test images, for the trained students as they are.

    The interval of :meth:`~kdcore.experiment.Comparison.table` says how much another training would change; this one,
    how much other test images would. Images are drawn with replacement, each with the answers of all seeds that were
    tested on it: seeds share images, wholly where there is one test set and in part where each seed has its own split,
    and counting a shared image once per seed would make the interval too narrow. Images are told apart by their
    pixels. Differences are paired by image and seed.

    Args:
        comparison: of a classification task, with its students kept.
        baseline: arm that the others are compared with; no differences without one.
        resamples, confidence, seed: of the percentile bootstrap.

    Returns:
        Index ``arm``; columns ``accuracy``, ``low``, ``high``, and with a baseline ``difference``, ``diff_low``,
        ``diff_high`` (NaN in its own row).

    Raises:
        ValueError: an unknown baseline, or students that were not kept.
    """
    import pandas as pd
    from scipy.stats import bootstrap

    if baseline is not None and baseline not in comparison.arms:
        raise ValueError(f"baseline must be one of {', '.join(comparison.arms)}, got {baseline!r}.")
    missing = [
        f"{arm}, seed {s}" for arm in comparison.arms for s in comparison.seeds if (arm, s) not in comparison.students
    ]
    if missing:
        raise ValueError(
            f"comparison must keep its students (keep_students=True, not stopped); missing: {'; '.join(missing)}."
        )

    image = _image_numbers(comparison)
    answers = np.bincount(image).astype(float)

    def hits(arm: str) -> np.ndarray:
        pairs = (comparison.tasks[s].predict(comparison.students[arm, s]) for s in comparison.seeds)
        right = torch.cat([logits.argmax(1) == labels for logits, labels in pairs]).double().numpy()
        return np.bincount(image, weights=right)

    def share(hits: np.ndarray, answers: np.ndarray, axis: int) -> np.ndarray:
        return hits.sum(axis) / answers.sum(axis)

    def interval(values: np.ndarray) -> tuple[float, float, float]:
        mean = float(values.sum() / answers.sum())
        if not np.ptp(values / answers):  # nothing to resample
            return mean, mean, mean
        low, high = bootstrap(
            (values, answers),
            share,
            paired=True,
            n_resamples=resamples,
            confidence_level=confidence,
            batch=100,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        return mean, float(low), float(high)

    right = {arm: hits(arm) for arm in comparison.arms}
    table = pd.DataFrame.from_dict(
        {arm: interval(v) for arm, v in right.items()}, orient="index", columns=["accuracy", "low", "high"]
    ).rename_axis("arm")
    if baseline is not None:
        names = ["difference", "diff_low", "diff_high"]
        table[names] = [
            (math.nan,) * 3 if arm == baseline else interval(v - right[baseline]) for arm, v in right.items()
        ]
    return table


def _image_numbers(comparison: Comparison) -> np.ndarray:
    """A number for each test image of each seed in turn, equal where the pixels are."""
    known: dict[bytes, int] = {}
    by_task: dict[int, list[int]] = {}
    for task in comparison.tasks.values():
        if id(task) not in by_task:
            by_task[id(task)] = [
                known.setdefault(hashlib.blake2b(x.numpy().tobytes(), digest_size=16).digest(), len(known))
                for batch, _ in task.loader("test", batch_size=512, shuffle=False)
                for x in batch
            ]
    return np.concatenate([by_task[id(comparison.tasks[s])] for s in comparison.seeds])
