"""The study of KD: the baselines against each other on few labels, a digit that the student never sees, and T squared.

:func:`omitted_class` is Hinton's experiment, :func:`few_labels` compares CE, KD, DKD and DIST, and :func:`cifar100_x4`
does the same with real networks. :data:`SCALE` asks where the factor ``T^2`` matters: not where an optimizer that
ignores the scale of its gradient sees one loss alone, but beside the labels, and with plain SGD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..experiment import Arm, Claim, Comparison, Metric, compare
from ..functional.checks import check_positive
from ..method import Signals
from ..methods.vanilla_kd import KD
from ..tasks import Classification, load_task
from . import Study
from ._shared import cifar100_for, cifar100_x4, few_labels, few_labels_task, logit_baselines, teacher_order

#: Label of the control.
SHUFFLED = "KD, shuffled pairs"


class ShuffledKD(KD):
    """KD with the teacher's answers to other images of the batch."""

    def terms(self, s: Signals) -> dict[str, Tensor]:
        assert s.teacher_logits is not None
        return super().terms(replace(s, teacher_logits=s.teacher_logits.roll(1, 0)))


def baseline_arms(
    *,
    temperature: float = 4.0,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    alpha: float = 1.0,
    beta: float = 2.0,
    warmup_epochs: int = 10,
    dist_weight: float = 2.0,
) -> list[Arm]:
    """CE, KD, DKD and DIST, and a control that must fall behind KD: the teacher's answers belong to other images.

    Args:
        temperature, ce_weight, kd_weight, alpha, beta, warmup_epochs, dist_weight: of :func:`logit_baselines`.
    """
    kd = {"temperature": temperature, "ce_weight": ce_weight, "kd_weight": kd_weight}
    others = {"alpha": alpha, "beta": beta, "warmup_epochs": warmup_epochs, "dist_weight": dist_weight}
    return [*logit_baselines(**kd, **others), Arm(SHUFFLED, ShuffledKD(**kd), control_of="KD")]  # type: ignore[arg-type]


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
    return compare(
        partial(omitted_task, digit=digit),
        omitted_arms(temperatures=temperatures),
        student=student,
        seeds=seeds,
        metrics=omitted_metrics(digit=digit, bias=bias),
        **options,
    )


def omitted_task(seed: int = 0, *, digit: int = 3) -> Classification:
    """Digits whose student never sees ``digit``."""
    return load_task("digits", seed=seed, omit_classes=(digit,))


def omitted_arms(*, temperatures: Sequence[float] = (4.0, 8.0)) -> list[Arm]:
    """CE on labels, and KD on soft targets alone at each of the temperatures.

    Raises:
        ValueError: no temperature or one that is not above zero.
    """
    if not len(temperatures):
        raise ValueError("temperatures must name at least one temperature, got none.")
    for temperature in temperatures:
        check_positive("temperatures", temperature)
    soft = [Arm(soft_arm(t), "kd", {"temperature": t, "ce_weight": 0.0, "kd_weight": 1.0}) for t in temperatures]
    return [Arm("CE", "ce"), *soft]


def omitted_metrics(*, digit: int = 3, bias: float = 2.0) -> dict[str, Metric]:
    """Recall of the omitted digit, and recall and accuracy with ``bias`` added to its logit."""
    return {
        "recall": class_recall(digit),
        "recall_biased": class_recall(digit, bias=bias),
        "accuracy_biased": biased_accuracy(digit, bias),
    }


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


class UnscaledKD(KD):
    """KD without its factor ``T^2``."""

    def terms(self, s: Signals) -> dict[str, Tensor]:
        return {name: term / self.knob.temperature**2 for name, term in super().terms(s).items()}


#: How a student is taught in :data:`SCALE`, by the words of its two arms: weight of the labels, training settings.
SCALE_WAYS: dict[str, tuple[float, dict[str, Any]]] = {
    "alone, AdamW": (0.0, {}),
    "beside labels, AdamW": (0.1, {}),
    "alone, SGD": (0.0, {"optimizer": "sgd", "lr": 0.05}),
}


def scale_arms(*, temperature: float = 8.0) -> list[Arm]:
    """KD with and without ``T^2``: alone under AdamW, beside the labels (0.1 and 0.9), and alone under SGD.

    Args:
        temperature: ``T`` of all arms; default 8, where leaving the factor out makes the loss 64 times smaller.
    """
    return [
        Arm(f"KD {way}{words}", kind(temperature=temperature, ce_weight=labels, kd_weight=1.0 - labels), train=train)
        for way, (labels, train) in SCALE_WAYS.items()
        for words, kind in (("", KD), (", no T²", UnscaledKD))
    ]


def scale_claims(comparison: Comparison, *, same: float = 0.01) -> list[Claim]:
    """``T^2`` changes nothing for one loss under AdamW, and much beside labels or under SGD, in the order of classes.

    Args:
        comparison: of :func:`scale_arms`.
        same: difference of Kendall's tau with the teacher up to which two students count as the same; set beforehand.
    """
    tau = {way: [comparison.values(f"KD {way}{w}", "tau") for w in ("", ", no T²")] for way in SCALE_WAYS}
    alone, beside, sgd = tau.values()
    return [
        Claim(
            f"alone under AdamW, leaving T² out changes the order of classes by less than {same:g}",
            left=abs(alone[0] - alone[1]).tolist(),
            op="<",
            threshold=same,
            unit="Kendall tau",
        ),
        Claim(
            "beside labels, T² brings the student nearer to the teacher's order",
            left=beside[0],
            right=beside[1],
            unit="Kendall tau",
        ),
        Claim(
            "alone under SGD, T² brings the student nearer to the teacher's order",
            left=sgd[0],
            right=sgd[1],
            unit="Kendall tau",
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

    def recall(student: nn.Module, task: Classification) -> float:
        logits, labels = task.predict(student)
        answers = shift_class(logits, index, bias).argmax(1)[labels == index]
        return (answers == index).double().mean().item()

    return recall


def biased_accuracy(index: int, bias: float) -> Metric:
    """A metric for :func:`~kdcore.experiment.compare`: test accuracy with ``bias`` added to the logit of a class."""

    def accuracy(student: nn.Module, task: Classification) -> float:
        logits, labels = task.predict(student)
        return (shift_class(logits, index, bias).argmax(1) == labels).double().mean().item()

    return accuracy


#: The digit that the student never sees.
OMITTED = Study(
    slug="vanilla_kd",
    words="digits, one of which the student never sees",
    task=omitted_task,
    arms=omitted_arms,
    claims=omitted_class_claims,
    metrics=omitted_metrics,
    baseline="CE",
    quick={"student": "mlp-32"},
    full={"student": "mlp-32"},
)
#: KD with and without its factor.
SCALE = Study(
    slug="vanilla_kd",
    words="KD with and without T², on digits with few labels",
    task=few_labels_task,
    arms=scale_arms,
    claims=scale_claims,
    metrics={"tau": teacher_order},
    baseline="KD alone, AdamW",
    quick={"student": "mlp-16", "epochs": 60},
    full={"student": "mlp-16", "epochs": 60},
)
STUDY = Study(
    slug="vanilla_kd",
    words="CE, KD, DKD and DIST on digits with few labels; CIFAR-100 in the full tier",
    task=few_labels_task,
    arms=baseline_arms,
    claims=baseline_claims,
    metrics={"tau": teacher_order},
    baseline="CE",
    quick={"student": "mlp-16", "epochs": 60},
    full={"task": cifar100_for, "beta": 8.0, "warmup_epochs": 20},
    also=(OMITTED, SCALE),
)

__all__ = [
    "OMITTED",
    "SCALE",
    "SCALE_WAYS",
    "SHUFFLED",
    "STUDY",
    "ShuffledKD",
    "UnscaledKD",
    "baseline_arms",
    "baseline_claims",
    "bias_sweep",
    "biased_accuracy",
    "cifar100_x4",
    "class_recall",
    "few_labels",
    "logit_baselines",
    "omitted_arms",
    "omitted_class",
    "omitted_class_claims",
    "omitted_metrics",
    "omitted_task",
    "scale_arms",
    "scale_claims",
    "shift_class",
    "soft_arm",
    "teacher_order",
]
