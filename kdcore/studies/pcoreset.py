"""Which labels to buy: six strategies with a vision-language teacher, and random queries without one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..experiment import Arm, Claim, Comparison
from ..functional.dual_heads import dual_head_probabilities
from ..methods.pcoreset import ActiveHistory, ActiveKD, LabelOracle
from ..tasks import load_task
from ..tasks.digits_two_tower import TwoTowerTask
from . import Study

PLAIN, RANDOM, CORESET, UNCERTAIN = "random, no KD", "random", "core-set of features", "uncertainty"
BADGE, BALANCED, PCORESET = "BADGE", "class-balanced", "PCoreSet"
NEAREST = "nearest first"
#: Strategy of every arm that has a teacher.
STRATEGY_OF = {
    RANDOM: "random",
    CORESET: "coreset",
    UNCERTAIN: "uncertainty",
    BADGE: "badge",
    BALANCED: "classbalanced",
    PCORESET: "pcoreset",
}
#: The authors'; the arena's own recipe has another.
LEARNING_RATE = 1e-3
#: Labelled and unlabelled images of a batch.
SIZES = (16, 16)
#: Steps of an epoch, a pass over the whole pool; as many where some of its digits are rare.
STEPS = math.ceil(900 / SIZES[1])


class NearestFirst(ActiveKD):
    """A control: bought are the images that are covered *best* already."""

    def _ask(self, p: Tensor, features: Tensor, pool: Tensor, labeled: Tensor, oracle: LabelOracle) -> Tensor:
        nearest = torch.cdist(p[pool], p[labeled]).amin(1)
        return nearest.argsort(stable=True)[: min(self.budget, len(pool))]


class Learner(nn.Module):
    """The student of the last round, answering with what it was trained for, and the story of all rounds."""

    def __init__(self, student: nn.Module, history: ActiveHistory, *, use_kd: bool) -> None:
        super().__init__()
        self.student, self.history, self.use_kd = student, history, use_kd

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of the mixed probabilities; without KD the logits of the CE head."""
        ce, kd = self.student(x)[:2]
        return dual_head_probabilities(ce, kd).clamp_min(1e-30).log() if self.use_kd else ce


def pool_of(task: TwoTowerTask) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels of the pool, and of the test."""
    pool, test = task.split("unlabelled"), task.split("test")
    return pool.x, pool.y, test.x, test.y  # type: ignore[attr-defined]


def learned(
    task: TwoTowerTask,
    seed: int,
    *,
    strategy: str = "pcoreset",
    kind: type[ActiveKD] = ActiveKD,
    use_kd: bool = True,
    rounds: int = 3,
    epochs: int = 1,
    budget: int = 10,
    temperature: float = 2.0,
    progress: Callable[[int, int, str], object] | None = None,
    stop: Any = None,
    **options: Any,
) -> Learner:
    """All rounds of one arm.

    Args:
        task, seed: the arena; labels at the start, weights and batches depend on the seed alone.
        kind: of the loop.
        strategy, use_kd, rounds, budget, temperature, **options: see :class:`~kdcore.methods.pcoreset.ActiveKD`.
        epochs: passes over the pool in every round, of :data:`STEPS` steps.
        progress, stop: see there.
    """
    images, labels, test_images, test_labels = pool_of(task)
    spec = task.spec("student")
    loop = kind(
        spec.build,
        task.teacher() if use_kd else None,
        strategy=strategy,
        use_kd=use_kd,
        budget=budget,
        rounds=rounds,
        temperature=temperature,
        steps_per_round=epochs * STEPS,
        lr=LEARNING_RATE,
        batch_size=SIZES[0],
        unlabeled_batch_size=SIZES[1],
        generator=torch.Generator().manual_seed(seed),
        **options,
    )
    history = loop.run(images, LabelOracle(labels), test_images, test_labels, progress=progress, stop=stop)
    return Learner(history.student or task.student(seed=seed), history, use_kd=use_kd)


def arms(*, rounds: int = 3, epochs: int = 1, budget: int = 10, temperature: float = 2.0) -> list[Arm]:
    """Random queries without a teacher, six strategies with it, and PCoreSet turned round, which must fail; all with
    the same students, batches and steps.

    Args:
        rounds: trainings; epochs: passes over the pool in each.
        budget: labels bought between two rounds; default 10, the number of classes.
        temperature: of the distillation terms; default 2 (erjui/PCoreSet).
    """
    options: dict[str, Any] = {"rounds": rounds, "epochs": epochs, "budget": budget, "temperature": temperature}
    share = {"epochs": rounds}  # what progress counts
    return [
        Arm(PLAIN, run=partial(learned, strategy="random", use_kd=False, **options), train=share),
        *(Arm(name, run=partial(learned, strategy=s, **options), train=share) for name, s in STRATEGY_OF.items()),
        Arm(NEAREST, run=partial(learned, kind=NearestFirst, **options), train=share, control_of=PCORESET,
            control_on=("aulc", "covered")),
    ]  # fmt: skip


def aulc(student: Learner, task: TwoTowerTask) -> float:
    """A metric: test accuracy, the mean over all rounds (area under the learning curve)."""
    return student.history.aulc


def radius(student: Learner, task: TwoTowerTask) -> float:
    """A metric: coverage radius in probability space after a query, the mean over all queries."""
    after = [r for r, asked in zip(student.history.coverage_radius, student.history.queried, strict=True) if len(asked)]
    return sum(after) / len(after) if after else student.history.coverage_radius[-1]


def covered(student: Learner, task: TwoTowerTask) -> float:
    """A metric: 1 minus the radius, in units of the distance of two corners of the simplex."""
    return 1 - radius(student, task) / math.sqrt(2)


def task_of(seed: int = 0, *, imbalanced: bool = False) -> TwoTowerTask:
    """The arena of one seed: its own split and teacher.

    Args:
        seed: of everything.
        imbalanced: the pool has only a fifth of the digits 5 to 9.
    """
    return load_task("digits_two_tower", seed=seed, imbalanced=imbalanced)


def claims(comparison: Comparison) -> list[Claim]:
    """A teacher helps, PCoreSet is not below random queries, and it covers the probability space."""
    pool = len(comparison.tasks[comparison.seeds[0]].split("unlabelled"))
    values, where = comparison.values, f"pool of {pool}"
    return [
        Claim(f"{where}: random queries gain from the teacher, mean over rounds", left=values(RANDOM, "aulc"),
              right=values(PLAIN, "aulc")),
        Claim(f"{where}: PCoreSet is not below random queries, mean over rounds", left=values(PCORESET, "aulc"),
              op=">=", right=values(RANDOM, "aulc")),
        Claim(f"{where}: PCoreSet leaves a smaller radius than random queries, in every seed", op="<",
              left=values(PCORESET, "radius"), right=values(RANDOM, "radius"), unit="", every_seed=True),
    ]  # fmt: skip


_COMMON: dict[str, Any] = {
    "slug": "pcoreset",
    "arms": arms,
    "claims": claims,
    "metrics": {"aulc": aulc, "radius": radius, "covered": covered},
    "baseline": RANDOM,
    "quick": {"rounds": 3, "epochs": 1},
    "full": {"rounds": 10, "epochs": 3},
}
_IMBALANCED = Study(
    words="the same where the digits 5 to 9 are rare in the pool", task=partial(task_of, imbalanced=True), **_COMMON
)
STUDY = Study(
    words="which labels to buy, with a vision-language teacher and without, on digits",
    task=task_of,
    also=(_IMBALANCED,),
    **_COMMON,
)

__all__ = [
    "BADGE",
    "BALANCED",
    "CORESET",
    "NEAREST",
    "PCORESET",
    "PLAIN",
    "RANDOM",
    "SIZES",
    "STEPS",
    "STRATEGY_OF",
    "STUDY",
    "UNCERTAIN",
    "Learner",
    "arms",
    "aulc",
    "claims",
    "covered",
    "learned",
    "pool_of",
    "radius",
    "task_of",
]
