"""Where a training stands, and how that is written down so that it can go on in the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import CheckpointError, list_checkpoints, load_checkpoint, newest_checkpoint
from ..files import as_path
from .events import Epoch


@dataclass
class Progress:
    """Everything but the random states, which a checkpoint holds per process.

    ``stage``, ``epoch`` (in the stage), ``batch`` (of this epoch, used so far) and ``stage_step`` say where; ``step``
    counts through all stages.
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    stage_step: int = 0
    samples: int = 0
    seconds: float = 0.0
    last_rate: float = 0.0
    total_seconds: float = 0.0
    teacher_forwards: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    best_metric: float | None = None
    best_epoch: int | None = None
    best_state: dict[str, Tensor] = field(default_factory=dict)
    epoch_rng: dict[str, Any] | None = None

    def add(
        self, terms: Mapping[str, float], logged: Mapping[str, float], samples: int, batches: int, seconds: float
    ) -> None:
        """One step more."""
        for sums, values in ((self.sums, terms), (self.logged, logged)):
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value * samples
        self.batch, self.samples, self.seconds = self.batch + batches, self.samples + samples, self.seconds + seconds
        self.last_rate = samples / max(seconds, 1e-9)
        self.total_seconds += seconds

    def next_epoch(self, event: Epoch) -> None:
        self.history.append(event)
        self.epoch, self.batch, self.samples, self.seconds = self.epoch + 1, 0, 0, 0.0
        self.sums, self.logged, self.epoch_rng = {}, {}, None

    def next_stage(self) -> None:
        """The best of a stage is its own: another stage watches another number, or has other parts."""
        self.stage, self.epoch, self.stage_step = self.stage + 1, 0, 0
        self.best_metric, self.best_epoch, self.best_state = None, None, {}

    def state_dict(self) -> dict[str, Any]:
        state = {k: v for k, v in vars(self).items() if k not in ("epoch_rng", "history")}
        return state | {"history": [asdict(e) for e in self.history]}

    @classmethod
    def from_state(cls, state: dict[str, Any], epoch_rng: dict[str, Any] | None) -> Progress:
        return cls(**(state | {"history": [Epoch(**e) for e in state["history"]], "epoch_rng": epoch_rng}))


def find_checkpoint(folder: Path | None, resume: bool | str | Path) -> dict[str, Any] | None:
    """The checkpoint that ``resume`` means, or ``None``.

    Raises:
        CheckpointError: the folder holds another run and ``resume`` is false, or what is asked for cannot be read.
    """
    if resume is False:
        if folder is not None and list_checkpoints(folder):
            raise CheckpointError(
                f"{folder} holds checkpoints of another run: pass resume=True (or 'auto') to go "
                "on with it, or choose another folder.",
                folder,
            )
        return None
    if resume == "auto":
        if folder is None or not list_checkpoints(folder):
            return None
        return load_checkpoint(folder, fall_back=True)
    source = folder if resume is True else as_path(resume)
    assert source is not None
    return load_checkpoint(newest_checkpoint(source))


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with the checkpoint of another training, naming all that differs.

    Raises:
        ValueError: something differs.
    """
    differs = [
        f"{k} (saved {saved.get(k)}, now {now.get(k)})"
        for k in dict.fromkeys([*now, *saved])
        if saved.get(k) != now.get(k)
    ]
    if differs:
        raise ValueError(f"the checkpoint belongs to another training: it differs in {', '.join(differs)}.")


def generators_of(data: Any) -> list[torch.Generator | None]:
    """The generators that data draws from besides the global ones: its own, its sampler's, its parts'."""
    own = [getattr(data, "generator", None), getattr(getattr(data, "sampler", None), "generator", None)]
    for part in getattr(data, "parts", ()):
        own += generators_of(part)
    return own


def length_of(data: Any) -> int | None:
    """Batches in an epoch, or ``None`` for data without a length."""
    try:
        return len(data)
    except TypeError:
        return None


__all__ = ["CheckpointError", "Progress", "check_identity", "find_checkpoint", "generators_of", "length_of"]
