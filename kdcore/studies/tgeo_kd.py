"""One weight for all samples, or one for each: a teacher that is blind to two classes, labels that are noisy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from ..engine import Training
from ..experiment import Arm, Claim, Comparison
from ..methods.tgeo_kd import TGeoTraining
from ..taps import evaluating
from ..tasks import load_task
from ..tasks.digits_noisy import NoisyTask
from . import Study

TGEO, FROZEN, BOTH = "TGeo, one step", "TGeo, frozen controller", "CE on train + validation"
MOVED = "TGeo, weights of other samples"


class MovedWeights(TGeoTraining):
    """A control: every sample is weighed by what the controller says of the next one of the batch."""

    def fusion_ratios(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        return super().fusion_ratios(student_logits, teacher_logits, labels).roll(1, 0)


def fixed(alpha: float) -> str:
    """Label of the arm with one weight for all samples."""
    return f"alpha = {alpha:g}"


def loaders(task: NoisyTask, seed: int, *, with_val: bool = False) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training batches of 50, and the whole validation set as one batch; ``with_val`` puts it into the training."""
    train = ConcatDataset([task.train, task.val]) if with_val else task.train  # type: ignore[list-item]
    g = torch.Generator().manual_seed(seed)
    main: DataLoader[Any] = DataLoader(train, 50, shuffle=True, generator=g, collate_fn=task.collate)  # type: ignore[arg-type]
    return main, task.loader("val", batch_size=512, shuffle=False)


def training(
    task: NoisyTask, teacher: nn.Module, student: nn.Module, seed: int, *, with_val: bool = False,
    kind: type[TGeoTraining] = TGeoTraining, **options: Any,
) -> TGeoTraining:  # fmt: skip
    """The training of one arm, of a kind; see :class:`~kdcore.methods.tgeo_kd.TGeoTraining` for the options."""
    train, val = loaders(task, seed, with_val=with_val)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(teacher, student, None, train, val, num_classes=task.num_classes, **options)


def arms(
    *,
    alphas: tuple[float, ...] = (0.0, 0.5),
    epochs: int = 60,
    temperature: float = 2.0,
    inner_lr: float = 0.5,
    features: str = "full",
) -> list[Arm]:
    """Fixed weights, the released code's frozen controller, the bilevel training, and labels with the validation set;
    and the bilevel training with the weights of other samples, which must fail.

    Args:
        alphas: fixed weights.
        epochs: of every arm.
        temperature, inner_lr, features: of TGeo-KD; default 2, 0.5 and ``"full"``.
    """
    common: dict[str, Any] = {"epochs": epochs, "temperature": temperature, "inner_lr": inner_lr, "features": features}

    def arm(label: str, passes: int = 1, of: str | None = None, **options: Any) -> Arm:
        make: Callable[..., Training] = partial(training, **common, **options)
        return Arm(label, training=make, passes=passes, control_of=of)

    return [
        *(arm(fixed(a), update="constant", fixed_alpha=a) for a in alphas),
        arm(BOTH, update="constant", fixed_alpha=0.0, with_val=True),
        arm(FROZEN, update="frozen"),
        arm(TGEO, passes=3),  # its step, the virtual step, and the validation images after that
        arm(MOVED, passes=3, of=TGEO, kind=MovedWeights),
    ]


@torch.no_grad()
def weights(trained: TGeoTraining, task: NoisyTask) -> Tensor:
    """The weight of every training sample as the training left it, ``(N,)``, in the order of ``train``."""
    batches = task.loader("train", batch_size=512, shuffle=False)
    with evaluating(trained):
        found = [trained.fusion_ratios(trained.student(x), trained.teacher(x), y) for x, y in batches]
    return torch.cat(found)


def group_weights(comparison: Comparison, arm: str = TGEO) -> dict[str, np.ndarray]:
    """Mean weight of each group of training samples, by seed."""
    rows: dict[str, list[float]] = {}
    for seed in comparison.seeds:
        task = comparison.tasks[seed]
        alpha = weights(comparison.methods[arm, seed], task)  # type: ignore[arg-type]
        for name, part in task.groups().items():  # type: ignore[attr-defined]
            rows.setdefault(name, []).append(alpha[part].mean().item())
    return {name: np.array(values) for name, values in rows.items()}


def claims(comparison: Comparison) -> list[Claim]:
    """Against the best fixed weight, the frozen controller, a fair use of the labels; and where the teacher counts."""
    values, tgeo = comparison.values, comparison.values(TGEO)
    constant = [a for a in comparison.arms if a.startswith("alpha")]
    best = max(constant, key=comparison.mean)
    alpha = group_weights(comparison)
    return [
        Claim(f"TGeo beats the best fixed weight ({best}) by 2 points", left=tgeo, op=">=", right=values(best),
              threshold=2.0),
        Claim("TGeo beats its frozen controller by 4 points", left=tgeo, op=">=", right=values(FROZEN), threshold=4.0),
        Claim("TGeo beats labels alone with the validation images added", left=tgeo, right=values(BOTH)),
        Claim(
            "the teacher counts more where the label is wrong than where the teacher is blind, by 0.2", op=">=",
            left=alpha["known class, corrupted label"], right=alpha["blind class, clean label"], threshold=0.2,
            unit="alpha",
        ),
    ]  # fmt: skip


def task_of(seed: int = 0) -> NoisyTask:
    """The arena of one seed: its own split, noise and teacher."""
    return load_task("digits_noisy", seed=seed)


STUDY = Study(
    slug="tgeo_kd",
    words="weights of the teacher by sample, where the teacher is blind to two digits and labels are noisy",
    task=task_of,
    arms=arms,
    claims=claims,
    baseline=BOTH,
    quick={"epochs": 60},
    full={"epochs": 60, "alphas": (0.0, 0.3, 0.5, 1.0)},
)

__all__ = [
    "BOTH",
    "FROZEN",
    "MOVED",
    "STUDY",
    "TGEO",
    "arms",
    "claims",
    "fixed",
    "group_weights",
    "loaders",
    "task_of",
    "training",
    "weights",
]
