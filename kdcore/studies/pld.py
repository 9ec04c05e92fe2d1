"""The study of PLD: the ranking losses against each other on few labels, and how alike student and teacher rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..experiment import Arm, Claim, Comparison
from ..functional.ranking import ranking_agreement
from ..method import Signals
from ..methods.pld import PLD, teacher_optimal_permutation
from ..tasks import Classification
from . import Study
from ._shared import cifar100_for, cifar100_x4, few_labels, few_labels_task, logit_baselines, teacher_order

#: Label of the control.
REVERSED = "PLD, reversed order"


def pld_arm(temperature: float = 1.0, *, weights: str = "teacher", ce_weight: float = 0.0) -> Arm:
    """PLD with these knobs as an arm, called ``"PLD, τ = 4"``, or by its special case (``"PLD, uniform weights"``)."""
    words = [f"τ = {temperature:g}" if weights == "teacher" else f"{weights} weights"]
    words += [f"CE {ce_weight:g}"] if ce_weight else []
    return Arm(
        f"PLD, {', '.join(words)}", "pld", {"temperature": temperature, "weights": weights, "ce_weight": ce_weight}
    )


class ReversedPLD(PLD):
    """PLD with the teacher's order of the wrong classes turned round; label and weights of the places stay."""

    def terms(self, s: Signals) -> dict[str, Tensor]:
        assert s.teacher_logits is not None and s.labels is not None
        return super().terms(replace(s, teacher_logits=with_wrong_classes_reversed(s.teacher_logits, s.labels)))


def with_wrong_classes_reversed(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong class gets the logit of the worst, the second best that of the second worst, and so on."""
    wrong = teacher_optimal_permutation(logits, labels)[:, 1:]
    return logits.scatter(1, wrong, logits.gather(1, wrong.flip(1)))


def ranking_arms(chosen: Arm | None = None) -> list[Arm]:
    """CE, KD and DIST, then PLD as ``chosen`` (its defaults otherwise), with temperature 4, and with uniform weights.

    Last a control: PLD with temperature 4 and the teacher's order reversed. Equal labels appear once.
    """
    baselines = [arm for arm in logit_baselines() if arm.label != "DKD"]
    given = [*baselines, chosen or pld_arm(), pld_arm(4.0), pld_arm(weights="uniform")]
    reverse = ReversedPLD(temperature=4.0)
    given.append(Arm(REVERSED, reverse, control_of=pld_arm(4.0).label, control_on=("last", "agreement")))
    return list({arm.label: arm for arm in given}.values())


def teacher_agreement(student: nn.Module, task: Classification) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: how alike student and reference teacher rank the wrong classes.

    The mean over the test images of :func:`kdcore.functional.ranking.ranking_agreement` without the label, in [-1, 1];
    images where every pair is tied are left out.
    """
    logits, labels = task.predict(student)
    taught, _ = task.predict(task.teacher())
    return ranking_agreement(logits, taught, labels).nanmean().item()


def ranking_claims(comparison: Comparison, *, on: str = "", pld: str | None = None) -> list[Claim]:
    """PLD against CE and uniform weights in accuracy, and against CE in agreement with the teacher.

    Args:
        comparison: has the arms of :func:`ranking_arms` and the metric ``agreement`` (:func:`teacher_agreement`).
        on: name of the data, put before the claims where there are several comparisons.
        pld: label of the arm that is judged; default temperature 1, the paper's, whatever does better here: to report
            the better of two temperatures would be to tune one on the test images.
    """
    where = f"{on}: " if on else ""
    pld, uniform = pld or pld_arm().label, pld_arm(weights="uniform").label
    values = comparison.values
    return [
        Claim(
            f"{where}{pld} beats CE by half a point or more",
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


#: The paper's recipe for the students on CIFAR-100.
CIFAR_TRAINING: dict[str, Any] = {
    "epochs": 250,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 1e-3,
    "scheduler": "cosine",
    "weight_decay": 0.5,
}
STUDY = Study(
    slug="pld",
    words="rankings of the classes on digits with few labels; CIFAR-100 in the full tier",
    task=few_labels_task,
    arms=ranking_arms,
    claims=ranking_claims,
    metrics={"tau": teacher_order, "agreement": teacher_agreement},
    baseline="CE",
    quick={"student": "mlp-16", "epochs": 60},
    full={"task": cifar100_for, **CIFAR_TRAINING},
)

__all__ = [
    "CIFAR_TRAINING",
    "REVERSED",
    "STUDY",
    "ReversedPLD",
    "cifar100_x4",
    "few_labels",
    "pld_arm",
    "ranking_arms",
    "ranking_claims",
    "teacher_agreement",
    "with_wrong_classes_reversed",
]
