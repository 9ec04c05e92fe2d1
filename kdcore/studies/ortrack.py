"""Experiments on occlusion: trackers with and without masks in training, and students of the robust one.

See :mod:`kdcore.studies` for what a study is. The task is :func:`kdcore.tasks.tracking_pairs.tracking_pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..experiment import Arm, Claim, Comparison, compare
from ..functional.masks import token_shift_map
from ..inputs import input_normalization
from ..methods.ortrack import AFKD, ORR
from ..models.tracker import PairTracker, pack_pair
from ..tasks.tracking_pairs import TrackingTask, tracking_pairs
from ..tasks.tracking_videos import tracking_videos
from . import Study

#: Data, networks and training that take half a minute, and those that take hours on two cores. The quick networks are
#: narrower and shallower than those of the task, and look for the target in a smaller image: 200 steps of 8 pairs.
QUICK: dict[str, Any] = {
    "task": {"template_size": 32, "search_size": 48, "width": 32, "teacher_depth": 2, "student_depth": 1},
    "train": {"epochs": 2, "batch_size": 8},
}
FULL: dict[str, Any] = {
    "task": {
        "count": 20_000,
        "test_count": 1_000,
        "template_size": 64,
        "search_size": 128,
        "width": 128,
        "teacher_depth": 6,
        "student_depth": 3,
    },
    "train": {"epochs": 15},
}
NO_ORR, UNIFORM, COX = "no ORR", "ORR, uniform", "ORR, Cox"
NO_KD, FIXED, ADAPTIVE = "no KD", "fixed weight", "AFKD"


def orr_arms(*, gamma: float = 0.05, mask_ratio: float = 0.3, sigma: float = 64.0) -> list[Arm]:
    """The tracker without a masked pass, with uniform masks, with Cox masks.

    Args:
        gamma: weight of the occlusion-robust loss; default 0.05 (ours, for untrained tokens; the paper's is 2e-4).
        mask_ratio, sigma: of the masks; defaults 0.3 and 64 (paper).
    """
    passes = 2 if gamma else 1  # clean and masked
    return [
        Arm(NO_ORR, "ce"),
        Arm(UNIFORM, ORR(gamma=gamma, mask="uniform", mask_ratio=mask_ratio), passes=passes),
        Arm(COX, ORR(gamma=gamma, mask="cox", mask_ratio=mask_ratio, sigma=sigma), passes=passes),
    ]


def afkd_arms(*, alpha: float = 0.5, beta: float = 0.5) -> list[Arm]:
    """A student from labels alone, with feature distillation of fixed weight, with adaptive weights.

    Args:
        alpha, beta: default 0.5 (ours: the squared token error is of size 1 here; the paper's are 2e-4).
    """
    return [
        Arm(NO_KD, "ce"),
        Arm(FIXED, AFKD(alpha=alpha, beta=0.0)),
        Arm(ADAPTIVE, AFKD(alpha=alpha, beta=beta)),
    ]


def _metrics() -> dict[str, Any]:
    def shift(model: nn.Module, task: Any) -> float:
        return task.token_shift(model)

    def on(split: str, key: str) -> Any:
        return lambda model, task: task.evaluate(model, split)[key]

    return {
        "token_shift": shift,
        "template_iou": on("test/template", "mean IoU"),
        "search_iou": on("test/search", "mean IoU"),
        "auc": on("test", "auc"),
    }


def tracking_task(seed: int = 0, *, quick: bool = True, videos: str | Path | None = None) -> TrackingTask:
    """The pairs and networks of these studies, at the scale of :data:`QUICK` or :data:`FULL`.

    Args:
        seed: of pairs and networks.
        quick: which scale.
        videos: a folder of your own videos (:func:`~kdcore.tasks.tracking_videos.tracking_videos`); by default the made
            pairs of :func:`~kdcore.tasks.tracking_pairs.tracking_pairs`.
    """
    options = (QUICK if quick else FULL)["task"]
    return tracking_pairs(seed=seed, **options) if videos is None else tracking_videos(videos, seed=seed, **options)


def occlusion_robustness(
    *,
    quick: bool = True,
    videos: str | Path | None = None,
    arms: Sequence[Arm] | None = None,
    seeds: int | Sequence[int] = 3,
    **options: Any,
) -> Comparison:
    """The deep tracker with and without ORR.

    Rows also have ``token_shift`` (see :meth:`TrackingTask.token_shift`), ``template_iou`` and ``search_iou`` (mean IoU
    with an occluder on that image) and ``auc`` of the success curve.

    Args:
        quick, videos: see :func:`tracking_task`; arms: :func:`orr_arms` by default.
        seeds, **options: see :func:`kdcore.experiment.compare`; each seed has its own pairs and initial weights.
    """
    scale = QUICK if quick else FULL
    return compare(
        partial(tracking_task, quick=quick, videos=videos),
        orr_arms() if arms is None else arms,
        student=f"tracker-{scale['task']['teacher_depth']}",
        seeds=seeds,
        **scale["train"] | {"metrics": _metrics()} | options,
    )


def afkd_students(
    teacher: nn.Module,
    *,
    quick: bool = True,
    videos: str | Path | None = None,
    arms: Sequence[Arm] | None = None,
    seeds: int | Sequence[int] = 3,
    **options: Any,
) -> Comparison:
    """Shallow trackers taught by a deep one; numbers as in :func:`occlusion_robustness`.

    Args:
        teacher: a deep tracker of the same scale, e.g. of :func:`occlusion_robustness`.
        quick, videos, arms, seeds, **options: as there; arms: :func:`afkd_arms` by default.
    """
    scale = QUICK if quick else FULL
    return compare(
        partial(tracking_task, quick=quick, videos=videos),
        afkd_arms() if arms is None else arms,
        teacher=teacher,
        student=f"tracker-{scale['task']['student_depth']}",
        seeds=seeds,
        **scale["train"] | {"metrics": _metrics()} | options,
    )


def robustness_claims(comparison: Comparison, *, quick: bool = True) -> list[Claim]:
    """Cox masks steady the template's tokens on every seed and cost no accuracy; ``quick=False`` adds that they help
    when the template is occluded."""
    values = comparison.values
    claims = [
        Claim(
            "Cox-ORR's template tokens shift less under bars never seen in training",
            op="<",
            unit="%",
            left=values(COX, "token_shift"),
            right=values(NO_ORR, "token_shift"),
            every_seed=True,
        ),
        Claim(
            "Cox-ORR keeps the mean IoU on clean pairs within 2 points",
            op=">=",
            left=values(COX),
            right=values(NO_ORR),
            threshold=-2.0,
        ),
    ]
    if not quick:
        claims.append(
            Claim(
                "Cox-ORR's mean IoU with an occluded template is at least that without ORR",
                op=">=",
                left=values(COX, "template_iou"),
                right=values(NO_ORR, "template_iou"),
            )
        )
    return claims


def student_claims(comparison: Comparison) -> list[Claim]:
    """AFKD's student is at least as good as the one without a teacher."""
    return [
        Claim(
            "the AFKD student's mean IoU is at least that of the student without a teacher",
            op=">=",
            left=comparison.values(ADAPTIVE),
            right=comparison.values(NO_KD),
        )
    ]


@torch.no_grad()
def pair_shift(model: PairTracker, templates: tuple[Tensor, Tensor], search: Tensor) -> Tensor:
    """How far each template token moves between two versions of one template, ``(h, w)``.

    Args:
        model: the tracker, in eval mode.
        templates: clean and occluded, ``(1, 3, S_z, S_z)`` uint8.
        search: ``(1, 3, S_x, S_x)`` uint8.
    """
    normalize = input_normalization(model)
    clean, occluded = (model.tokens(normalize(pack_pair(z / 255, search / 255))) for z in templates)
    return token_shift_map(clean, occluded, grid_size=(model.tracker.template_grid,) * 2)[0]


#: The deep tracker with and without masks. Its students (:func:`afkd_students`) need one of these trackers as teacher.
STUDY = Study(
    slug="ortrack",
    words="trackers with and without masks in training, on made pairs",
    task=tracking_task,
    arms=orr_arms,
    claims=robustness_claims,
    metrics=_metrics,
    baseline=NO_ORR,
    quick={"student": f"tracker-{QUICK['task']['teacher_depth']}", **QUICK["train"]},
    full={"student": f"tracker-{FULL['task']['teacher_depth']}", **FULL["train"]},
)
