"""Optimizers and schedules of a stage, by name or as given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .stage import Learn, Stage, Training

#: Where the scheduler "steps" divides the learning rate by 10 (megvii-research/mdistiller: epochs 150, 180, 210).
_STEPS = (0.625, 0.75, 0.875)
OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULERS = ("cosine", "steps", "constant")


@dataclass
class Learner:
    """One optimizer at work: raw, as Fabric wrapped it, its schedule and its limits."""

    name: str
    learn: Learn
    raw: Optimizer
    scheduler: Any
    wrapped: Any = None

    @property
    def parameters(self) -> list[Tensor]:
        return [p for g in self.raw.param_groups for p in g["params"]]

    @property
    def lr(self) -> float:
        return float(self.raw.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.raw.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.raw.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])


def make_optimizer(
    optimizer: Any, groups: list[dict[str, Any]], lr: float, weight_decay: float | None, *, extra: Sequence[Any] = ()
) -> Optimizer:
    """An optimizer by name, by a function of parameter groups, or the given one with the groups ``extra`` added."""
    if isinstance(optimizer, Optimizer):
        for group in extra:
            optimizer.add_param_group(group)
        return optimizer
    decay = weight_decay
    if optimizer is None or optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=0.01 if decay is None else decay)
    if optimizer == "adam":
        return torch.optim.Adam(groups, lr=lr, weight_decay=0.0 if decay is None else decay)
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=5e-4 if decay is None else decay)
    if callable(optimizer):
        return optimizer(groups)
    raise ValueError(
        "optimizer must be None, 'adamw', 'adam', 'sgd', a callable taking parameter groups or an Optimizer, "
        f"got {optimizer!r}."
    )


def make_scheduler(scheduler: Any, optimizer: Optimizer, total_steps: int | None) -> Any:
    """A schedule over ``total_steps`` by name or by ``callable(optimizer, total_steps)``; ``None`` for a constant one.

    Raises:
        ValueError: unknown, wanting a metric, or following a number of steps that is not known.
    """
    if isinstance(scheduler, str) and scheduler == "constant":
        return None
    if not callable(scheduler) and scheduler not in SCHEDULERS:
        raise ValueError(
            f"scheduler must be 'cosine', 'steps', 'constant' or a callable(optimizer, total_steps), got {scheduler!r}."
        )
    if total_steps is None:
        raise ValueError(
            f"scheduler {scheduler!r} follows the number of steps, which is not known for data without a length: give "
            "steps=... or scheduler='constant'."
        )
    if scheduler == "cosine":
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))
        )
    if scheduler == "steps":
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(f * total_steps) for f in _STEPS])
    made = scheduler(optimizer, total_steps)
    if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ValueError(
            "scheduler gave a ReduceLROnPlateau, which waits for a metric; the schedule here advances with every step: "
            "use 'cosine', 'steps', 'constant' or another torch scheduler."
        )
    return made


def make_learners(
    training: Training, stage: Stage, total_steps: int | None, earlier: dict[str, Learner]
) -> dict[str, Learner]:
    """The optimizers of a stage.

    Raises:
        ValueError: nothing to train, a player that does not exist or is frozen, or parameters in two optimizers.
    """
    owners: dict[int, str] = {}
    found: dict[str, Learner] = {}
    names = {id(p): n for n, p in training.named_parameters(remove_duplicate=False)}
    frozen = {id(p) for n, p in training.named_parameters(remove_duplicate=False) if training.is_frozen(n)}
    for name, learn in stage.learners.items():
        for player in learn.players:
            _check_player(training, stage, player)
        groups = training.parameter_groups(learn)
        if not groups and not isinstance(learn.optimizer, Optimizer):
            raise ValueError(f"nothing to train: no parameter of {_players(learn)} requires a gradient{_in(stage)}.")
        kept = earlier.get(name) if learn.keep else None
        raw = _kept(kept, groups, learn) if kept else make_optimizer(
            learn.optimizer, groups, learn.lr, learn.weight_decay, extra=groups[1:]
        )  # fmt: skip
        if any(id(p) in frozen for g in raw.param_groups for p in g["params"]):
            raise ValueError("the optimizer holds parameters of the teacher.")
        for p in (p for g in raw.param_groups for p in g["params"]):
            if id(p) in owners and owners[id(p)] != name:
                raise ValueError(
                    f"{names.get(id(p), 'a parameter')} is in two optimizers{_in(stage)}: {owners[id(p)]!r} and "
                    f"{name!r}."
                )
            owners[id(p)] = name
        found[name] = Learner(name, learn, raw, make_scheduler(learn.scheduler, raw, total_steps))
    return found


def _check_player(training: Training, stage: Stage, player: str) -> None:
    try:
        training.get_submodule(player)
    except AttributeError:
        there = ", ".join(name for name, _ in training.named_children())
        raise ValueError(f"there is no player {player!r}{_in(stage)}; the training has {there}.") from None
    if training.is_frozen(player):
        raise ValueError(f"player {player!r} is frozen (a teacher) and cannot learn{_in(stage)}.")


def _kept(kept: Learner, groups: list[dict[str, Any]], learn: Learn) -> Optimizer:
    """The optimizer of the stage before, with this stage's parameters and learning rate."""
    there = {id(p) for p in kept.parameters}
    for group in groups:
        new = [p for p in group["params"] if id(p) not in there]
        if new:
            kept.raw.add_param_group({**group, "params": new})
    for group in kept.raw.param_groups:
        group["lr"] = group["initial_lr"] = learn.lr
    return kept.raw


def _players(learn: Learn) -> str:
    return "the student" if learn.players[0] == "student" else ", ".join(learn.players)


def _in(stage: Stage) -> str:
    return f" in stage {stage.name!r}" if stage.name else ""


def optimizer_name(optimizer: Any) -> str:
    """How an optimizer or scheduler argument is written in records."""
    if optimizer is None:
        return "adamw"
    if isinstance(optimizer, str):
        return optimizer
    named: Callable[..., Any] = optimizer
    return getattr(named, "__name__", type(optimizer).__name__)
