"""A student of a weak sensor: which teacher, on which path, and what masks and routing add to it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..distillation import Distillation
from ..engine import Learn, Training
from ..experiment import Arm, Claim, Comparison
from ..methods.mst_distill import MSTTraining, routed_distillation_loss
from ..registry import create_method
from ..tasks import load_task
from ..tasks.digits_two_sensors import TwoSensorTask
from . import Study

CE, KD_BOTH, KD_IMAGE = "CE", "KD, both sensors", "KD, image"
MST, UNMASKED, FIRST = "MST", "MST, no masks", "MST, always the first"
#: The layers that get a mask; with the auxiliary teacher's one they make three specialized teachers.
LAYERS: dict[str, Any] = {"multimodal_layers": ("fc1", "fc2"), "auxiliary_layers": ("fc1",)}
LEARNING_RATE = 3e-3
BATCH = 50
#: Names of the specialized teachers in their order.
TEACHERS = ("multimodal fc1", "multimodal fc2", "auxiliary fc1")


class AlwaysFirst(MSTTraining):
    """A control: everything as in the paper, but whatever the gate says, the first specialized teacher is chosen."""

    def choose(self, s: Tensor, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The loss against the first teacher."""
        alone = torch.ones_like(g[:, :1])
        return routed_distillation_loss(s, z[:1], alone, temperature=self.options["temperature"])


def stage_epochs(epochs: int) -> tuple[int, int, int]:
    """Epochs of the three stages where the student learns in ``epochs`` of them: a fifth, a tenth, the rest."""
    first = max(1, epochs // 5)
    return first, max(1, epochs // 10), max(1, epochs - first)


def training(
    task: TwoSensorTask, _: Any, student: nn.Module, seed: int, *, kind: type[MSTTraining] = MSTTraining,
    epochs: int = 100, **options: Any,
) -> MSTTraining:  # fmt: skip
    """The three stages with fresh teachers; nothing is chosen on the test samples, they are only measured.

    Args:
        task, student, seed: of the arm; its teacher is not used.
        kind: the training; epochs: of the student; **options: see :class:`~kdcore.methods.mst_distill.MSTTraining`.
    """
    pixels, fusion = (task.spec("teacher", name).make(seed) for name in ("image", "both"))
    data, measured = task.paired(batch_size=BATCH, seed=seed), task.paired("test", batch_size=512)
    common: dict[str, Any] = {"epochs": stage_epochs(epochs), "lr": (LEARNING_RATE,) * 3, "keep_best": False, **LAYERS}
    return kind(student, pixels, fusion, data, measured, num_classes=task.num_classes, **common, **options)


def taught_by(
    task: TwoSensorTask, _: Any, student: nn.Module, seed: int, *, name: str, epochs: int, temperature: float
) -> Training:
    """Plain KD, as an arm with a method is trained, but from the task's teacher ``name``."""
    method = create_method("kd", temperature=temperature, ce_weight=1.0, kd_weight=1.0)
    learn = Learn(players=("student", "methods"), optimizer="adam", lr=LEARNING_RATE, scheduler="constant")
    data, watched = task.loader(batch_size=BATCH, seed=seed), task.loader("test", batch_size=512)
    options: dict[str, Any] = {"epochs": epochs, "learn": learn, "metric": task.metrics()}
    return Distillation(task.teacher(name), student, method, data, watched, **options)


def arms(*, epochs: int = 100, temperature: float = 4.0, top_k: int = 1, routing: str = "topk") -> list[Arm]:
    """Labels alone, each path by hand, and the paper with and without its masks and its routing.

    Args:
        epochs: in which the student learns, of every arm.
        temperature: of all distillation terms; default 4 (Gray-OREO/MST-Distill).
        top_k, routing: of MST; default 1 and ``"topk"`` (Gray-OREO/MST-Distill).
    """
    share, staged = {"epochs": epochs}, {"epochs": sum(stage_epochs(epochs))}
    options: dict[str, Any] = {"epochs": epochs, "temperature": temperature, "top_k": top_k, "routing": routing}
    by_image = partial(taught_by, name="image", epochs=epochs, temperature=temperature)
    return [
        Arm(CE, "ce", train=share),
        Arm(KD_BOTH, "kd", {"temperature": temperature, "ce_weight": 1.0, "kd_weight": 1.0}, train=share),
        Arm(KD_IMAGE, training=by_image, train=share),
        Arm(MST, training=partial(training, **options), train=staged),
        Arm(UNMASKED, training=partial(training, **options, masked=False), train=staged),
        Arm(FIRST, training=partial(training, **options, kind=AlwaysFirst), train=staged),
    ]


def drift(comparison: Comparison, arm: str = MST) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """After stage 2, ``kd`` to the student on test samples by seed: with the mask and without, for every teacher."""
    found = {}
    for name in TEACHERS:
        rows = [[e for e in comparison.histories[arm, s] if e.stage == "masks"][-1] for s in comparison.seeds]
        masked, unmasked = (np.array([e.metrics[f"{kind} {name}"] for e in rows]) for kind in ("masked", "open"))
        found[name] = masked, unmasked
    return found


def claims(comparison: Comparison) -> list[Claim]:
    """MST against labels alone and against both paths by hand; and what masks do to each specialized teacher."""
    values, task = comparison.values, comparison.tasks[comparison.seeds[0]]
    where = f"noise {task.noise:g}"  # type: ignore[attr-defined]
    opponents = {CE: "labels alone", KD_BOTH: "KD from both sensors", KD_IMAGE: "KD from the image"}
    return [
        *(Claim(f"{where}: MST beats {w}", left=values(MST), right=values(arm)) for arm, w in opponents.items()),
        *(
            Claim(f"{where}: the mask brings {name} nearer to the student", op="<", left=m, right=o, unit="tau^2 nats")
            for name, (m, o) in drift(comparison).items()
        ),
    ]


def task_of(seed: int = 0, *, noise: float = 0.15, train_size: int = 250, test_size: int = 700) -> TwoSensorTask:
    """The arena of one seed: its own split, noise and teachers; options of :mod:`kdcore.tasks.digits_two_sensors`."""
    return load_task("digits_two_sensors", seed=seed, noise=noise, train_size=train_size, test_size=test_size)


_COMMON: dict[str, Any] = {
    "slug": "mst_distill", "arms": arms, "claims": claims, "baseline": CE,
    "quick": {"epochs": 100},
    "full": {"epochs": 100, "train_size": 900, "test_size": 897},
}  # fmt: skip
STUDY = Study(
    words="a student of a weak sensor and teachers that see the image, on digits",
    task=task_of,
    also=(Study(words="the same with a third of the noise", task=partial(task_of, noise=0.05), **_COMMON),),
    **_COMMON,
)

__all__ = [
    "CE", "FIRST", "KD_BOTH", "KD_IMAGE", "MST", "STUDY", "TEACHERS", "UNMASKED", "AlwaysFirst", "arms", "claims",
    "drift", "stage_epochs", "task_of", "taught_by", "training",
]  # fmt: skip
