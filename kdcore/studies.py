"""Experiments shared by lessons, tests and sweeps: which data, which arms, which numbers, which claims.

A study is a function that returns a :class:`~kdcore.experiment.Comparison`, with a function beside it that states its
claims::

    result = omitted_class(seeds=3)
    [claim.check() for claim in omitted_class_claims(result)]

All of them take ``seeds``, ``progress``, ``stop`` and the training settings of :func:`kdcore.experiment.compare`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .experiment import Arm, Claim, Comparison, Metric, compare
from .functional.checks import check_positive
from .functional.correlation import kendall_tau
from .functional.prototypes import class_means, norm_and_cosine
from .functional.ranking import ranking_agreement
from .models import CifarResNet
from .taps import collect_features, embedding_tap
from .tasks import ModelSpec, Recipe, Task, load_task
from .tasks._augment import CropFlip

if TYPE_CHECKING:
    import pandas as pd

#: The recipe of megvii-research/mdistiller for CIFAR-100: SGD 0.05, x0.1 after 150, 180 and 210 of 240 epochs.
CIFAR_RECIPE = Recipe(epochs=240, batch_size=64, lr=0.05, optimizer="sgd", weight_decay=5e-4, scheduler="steps")


# The baselines against each other -------------------------------------------------------------------------------------


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
        lambda seed: load_task("digits", seed=seed, train_size=train_size),
        logit_baselines() if arms is None else arms,
        student=student,
        epochs=epochs,
        seeds=seeds,
        metrics={"tau": teacher_order, **(metrics or {})},
        **options,
    )


def baseline_claims(comparison: Comparison, *, margin: float = 1.0) -> list[Claim]:
    """DIST beats plain training by ``margin`` points, and DKD beats KD."""
    values = comparison.values
    return [
        Claim(
            f"DIST beats CE by {margin:g} point{'' if margin == 1 else 's'} or more",
            left=values("DIST"),
            op=">=",
            right=values("CE"),
            threshold=margin,
        ),
        Claim("DKD beats KD", left=values("DKD"), right=values("KD")),
    ]


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


def cifar100_task(*, folder: str | Path | None = None, recipe: Recipe = CIFAR_RECIPE, **options: Any) -> Task:
    """CIFAR-100 with augmentation, ResNet32x4 as teacher and ResNet8x4 as student.

    Args:
        folder, **options: of the task ``cifar100``.
        recipe: of teacher and student.
    """
    from .models.cifar_resnet_x4 import CifarResNetX4

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
    train: Any = CropFlip(task.train)  # type: ignore[arg-type]
    taught: Any = train if same else CropFlip(task.teacher_train)  # type: ignore[arg-type]
    return replace(task, train=train, teacher_train=taught, teachers=spec(32), students=spec(8))


# The omitted class ----------------------------------------------------------------------------------------------------


def soft_arm(temperature: float) -> str:
    """Label of the arm of :func:`omitted_class` that learns from soft targets at this temperature."""
    return f"KD, T = {temperature:g}"


def omitted_class(
    digit: int = 3,
    *,
    temperatures: Sequence[float] = (4.0, 8.0),
    bias: float = 2.0,
    student: str = "mlp-32",
    seeds: int | Sequence[int] = 3,
    **options: Any,
) -> Comparison:
    """Hinton's "mythical 3": the student never sees one of the digits, and has to learn it from the teacher's doubts.

    All images of ``digit`` are taken out of the student's transfer set. ``CE`` learns from the labels of the rest, the
    other arms from the teacher's soft targets alone, without labels.

    Args:
        digit: 0 to 9.
        temperatures: one arm each, see :func:`soft_arm`.
        bias: added to the student's logit of ``digit`` for the corrected numbers, as in section 3 of the paper.
        student: one of the task's students.
        seeds, **options: see :func:`kdcore.experiment.compare`.

    Returns:
        A comparison whose rows also have ``recall`` of the omitted digit, and ``recall_biased`` and
        ``accuracy_biased`` with the bias.

    Raises:
        ValueError: an unknown digit, no temperature or one that is not above zero.

    Reference:
        "Distilling the Knowledge in a Neural Network" (Hinton et al., 2015), arXiv:1503.02531, section 3.
    """
    if not len(temperatures):
        raise ValueError("temperatures must name at least one temperature, got none.")
    for temperature in temperatures:
        check_positive("temperatures", temperature)
    arms = [
        Arm("CE", "ce"),
        *(Arm(soft_arm(t), "kd", {"temperature": t, "ce_weight": 0.0, "kd_weight": 1.0}) for t in temperatures),
    ]
    metrics = {
        "recall": class_recall(digit),
        "recall_biased": class_recall(digit, bias=bias),
        "accuracy_biased": biased_accuracy(digit, bias),
    }
    return compare(
        lambda seed: load_task("digits", seed=seed, omit_classes=(digit,)),
        arms,
        student=student,
        seeds=seeds,
        metrics=metrics,
        **options,
    )


def omitted_class_claims(comparison: Comparison, *, temperature: float = 8.0) -> list[Claim]:
    """What dark knowledge promises: the omitted digit is recognised, labels alone never do it, accuracy gains."""
    soft = soft_arm(temperature)
    return [
        Claim(
            f"{soft} recognises half of the digit it never saw",
            left=comparison.values(soft, "recall"),
            op=">=",
            threshold=50.0,
            unit="%",
            every_seed=True,
        ),
        Claim(
            "CE never recognises the digit it never saw",
            left=comparison.values("CE", "recall"),
            op="==",
            threshold=0.0,
            unit="%",
            exact=True,
        ),
        Claim(
            f"{soft} is 4 points more accurate than CE",
            left=comparison.values(soft),
            op=">=",
            right=comparison.values("CE"),
            threshold=4.0,
        ),
    ]


def shift_class(logits: Tensor, index: int, bias: float) -> Tensor:
    """``logits (N, C)`` with ``bias`` added to one class: what changing the output bias of that class would do.

    Raises:
        ValueError: the class does not exist.
    """
    if not 0 <= index < logits.shape[1]:
        raise ValueError(f"index must be in [0, {logits.shape[1]}), got {index!r}.")
    shifted = logits.clone()
    shifted[:, index] += bias
    return shifted


def bias_sweep(logits: Tensor, labels: Tensor, index: int, biases: Tensor) -> tuple[Tensor, Tensor]:
    """Recall of one class and accuracy over all, for each of several biases added to that class's logit.

    Args:
        logits: ``(N, C)`` raw scores; labels: ``(N,)`` integers, with samples of the class.
        index: the class.
        biases: ``(B,)``.

    Returns:
        Two ``(B,)`` float64 tensors of shares in [0, 1].
    """
    own = shift_class(logits, index, 0.0)[:, index]
    rest = shift_class(logits, index, -torch.inf)
    chosen = own + biases.to(own)[:, None] > rest.amax(1)
    right = torch.where(chosen, labels == index, rest.argmax(1) == labels)
    return chosen[:, labels == index].double().mean(1), right.double().mean(1)


def class_recall(index: int, *, bias: float = 0.0) -> Metric:
    """A metric for :func:`~kdcore.experiment.compare`: share of one class's test images recognised, in [0, 1]."""

    def recall(student: nn.Module, task: Task) -> float:
        logits, labels = task.predict(student)
        answers = shift_class(logits, index, bias).argmax(1)[labels == index]
        return (answers == index).double().mean().item()

    return recall


def biased_accuracy(index: int, bias: float) -> Metric:
    """A metric for :func:`~kdcore.experiment.compare`: test accuracy with ``bias`` added to the logit of a class."""

    def accuracy(student: nn.Module, task: Task) -> float:
        logits, labels = task.predict(student)
        return (shift_class(logits, index, bias).argmax(1) == labels).double().mean().item()

    return accuracy


# Rankings of the classes ----------------------------------------------------------------------------------------------


def pld_arm(temperature: float = 1.0, *, weights: str = "teacher", ce_weight: float = 0.0) -> Arm:
    """PLD with these knobs as an arm, called ``"PLD, τ = 4"``, or by its special case (``"PLD, uniform weights"``)."""
    words = [f"τ = {temperature:g}" if weights == "teacher" else f"{weights} weights"]
    words += [f"CE {ce_weight:g}"] if ce_weight else []
    return Arm(
        f"PLD, {', '.join(words)}", "pld", {"temperature": temperature, "weights": weights, "ce_weight": ce_weight}
    )


def ranking_arms(chosen: Arm | None = None) -> list[Arm]:
    """CE, KD and DIST, then PLD as ``chosen`` (its defaults otherwise), with temperature 4, and with uniform weights.

    Equal labels appear once.
    """
    baselines = [arm for arm in logit_baselines() if arm.label != "DKD"]
    given = [*baselines, chosen or pld_arm(), pld_arm(4.0), pld_arm(weights="uniform")]
    return list({arm.label: arm for arm in given}.values())


def teacher_agreement(student: nn.Module, task: Task) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: how alike student and reference teacher rank the wrong classes.

    The mean over the test images of :func:`kdcore.functional.ranking.ranking_agreement` without the label, in [-1, 1];
    images where every pair is tied are left out.
    """
    logits, labels = task.predict(student)
    taught, _ = task.predict(task.teacher())
    return ranking_agreement(logits, taught, labels).nanmean().item()


def ranking_claims(comparison: Comparison, *, on: str = "") -> list[Claim]:
    """PLD at temperature 4 against CE and uniform weights in accuracy, and against CE in agreement with the teacher.

    Args:
        comparison: has the arms of :func:`ranking_arms` and the metric ``agreement`` (:func:`teacher_agreement`).
        on: name of the data, put before the claims where there are several comparisons.
    """
    where = f"{on}: " if on else ""
    pld, uniform = pld_arm(4.0).label, pld_arm(weights="uniform").label
    values = comparison.values
    return [
        Claim(
            f"{where}{pld} beats CE by half a point or more, with no weight to tune",
            left=values(pld),
            op=">=",
            right=values("CE"),
            threshold=0.5,
        ),
        Claim(
            f"{where}the teacher's weights beat uniform ones by 2 points or more",
            left=values(pld),
            op=">=",
            right=values(uniform),
            threshold=2.0,
        ),
        Claim(
            f"{where}{pld} ranks the wrong classes more like the teacher than CE does",
            left=values(pld, "agreement"),
            right=values("CE", "agreement"),
            unit="Kendall tau",
        ),
    ]


def teacher_order(student: nn.Module, task: Task) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: Kendall tau between the class orders of student and teacher.

    The mean over the test images, in [-1, 1]; the teacher is the task's default one.
    """
    return kendall_tau(task.predict(student)[0], task.predict(task.teacher())[0]).mean().item()


# Length and direction of embeddings -----------------------------------------------------------------------------------


def norm_direction_arms(
    *,
    ce_weight: float = 1.0,
    kd_weight: float = 1.0,
    nd_weight: float = 4.0,
    norm_weight: float = 0.5,
    temperature: float = 4.0,
    warmup_epochs: int = 1,
) -> list[Arm]:
    """CE, KD, KD with each half of ND, KD++ (both halves), and ND without KD.

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
    ]


def norm_direction_task(seed: int = 0, *, train_size: int = 400) -> Task:
    """Digits with few labelled images; teacher and student are convolutional and have embeddings of 64 numbers."""
    task = load_task("digits", seed=seed, train_size=train_size)
    return replace(task, teachers={"cnn": task.teachers["cnn"]}, students={"cnn-small": task.students["cnn-small"]})


def class_geometry(model: nn.Module, task: Task, split: str = "test") -> tuple[Tensor, Tensor]:
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


def _embeddings(model: nn.Module, task: Task, split: str) -> Tensor:
    name = embedding_tap(model)
    return collect_features(model, task.loader(split, batch_size=512, shuffle=False), name)[name]


def mean_norm(student: nn.Module, task: Task) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: mean length of the test embeddings."""
    return class_geometry(student, task)[0].mean().item()


def mean_cosine(student: nn.Module, task: Task) -> float:
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
    """KD++ against KD in length and direction, against CE in accuracy, and against the direction half in length."""
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
        Claim("KD++ beats CE in accuracy", left=values("KD++"), right=values("CE")),
        Claim(
            "the norm half of ND is real: embeddings are longer than with the direction half alone",
            left=values("KD++", "norm"),
            right=values("KD + cos", "norm"),
            unit="mean length",
        ),
    ]


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


def cifar100_nd(*, folder: str | Path | None = None, seeds: int | Sequence[int] = 3, **options: Any) -> Comparison:
    """CIFAR-100, ResNet56 teaches ResNet20 by KD and by KD++ with the authors' weights (1, 1, 2): hours on one GPU.

    The recipe is the authors' (SGD 0.1, x0.1 at 150, 180, 210 of 240 epochs); ``epochs=30`` is a shortened one.

    Args:
        folder: where ``cifar-100-python`` lies; default the data folder (``KDCORE_DATA``).
        seeds, **options: see :func:`kdcore.experiment.compare`.

    Raises:
        FileNotFoundError: CIFAR-100 is not there; the message names the folder.

    Reference:
        arXiv:2305.17007; WangYZ1608/Knowledge-Distillation-via-ND.
    """
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

    task = replace(task, teachers=spec(56), students=spec(20))
    arms = [arm for arm in norm_direction_arms(nd_weight=2.0, warmup_epochs=20) if arm.label in ("CE", "KD", "KD++")]
    return compare(task, arms, seeds=seeds, **options)
