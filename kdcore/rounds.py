"""Rounds of buying labels: what happened in each, kept on disk so that a run that was interrupted goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import list_checkpoints, load_checkpoint, save_checkpoint

_LISTS = ("labeled", "queried", "accuracy", "coverage_radius", "probabilities")


@dataclass(kw_only=True)
class ActiveHistory:
    """What happened, one entry for each round.

    Attributes:
        labeled: positions of the labelled samples that the round's student learned from, in the order of buying.
        queried: what was bought after the round; empty in the last one.
        accuracy: on the test samples. coverage_radius: largest distance, in the student's probabilities, from a sample
            of the pool to the nearest labelled one, after the query.
        probabilities: ``(N, C)`` of the round's student over all samples.
        student: that of the last round. stopped: ended early.
    """

    labeled: list[Tensor] = field(default_factory=list)
    queried: list[Tensor] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    coverage_radius: list[float] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)
    student: nn.Module | None = None
    stopped: bool = False

    @property
    def aulc(self) -> float:
        """Area under the learning curve: the mean accuracy over the rounds; NaN where none was finished."""
        return sum(self.accuracy) / len(self.accuracy) if self.accuracy else float("nan")

    @property
    def next_labeled(self) -> Tensor:
        """Positions that the next round's student learns from."""
        return torch.cat([self.labeled[-1], self.queried[-1]])

    def save(self, folder: str | Path, setting: Mapping[str, Any], generator: torch.Generator | None) -> None:
        """Keep all rounds so far, the last student, and where the random numbers stand.

        Args:
            folder: of the checkpoints; a damaged newest one leaves the one before.
            setting: what must be equal for a run to go on from here, plain values.
            generator: that draws the queries.
        """
        assert self.student is not None
        state = {name: getattr(self, name) for name in _LISTS} | {"setting": dict(setting)}
        state["student"] = {k: v.detach().cpu() for k, v in self.student.state_dict().items()}
        state["generator"] = None if generator is None else generator.get_state()
        save_checkpoint(folder, state, step=len(self.accuracy))

    def resume(self, folder: str | Path, setting: Mapping[str, Any], generator: torch.Generator | None) -> Any:
        """Take over the rounds that lie in a folder, if there are any; a damaged newest file costs its round.

        Returns:
            The state of the last student, or ``None`` where the folder has no checkpoint.

        Raises:
            ValueError: the folder belongs to a run with other settings.
            CheckpointError: no checkpoint of the folder can be read.
        """
        if not list_checkpoints(folder):
            return None
        state = load_checkpoint(folder, fall_back=True)
        if other := {k: (v, setting.get(k)) for k, v in state["setting"].items() if v != setting.get(k)}:
            said = ", ".join(f"{name} {kept!r}, now {now!r}" for name, (kept, now) in other.items())
            raise ValueError(f"checkpoint_dir {str(folder)!r} belongs to another run: {said}.")
        for name in _LISTS:
            setattr(self, name, list(state[name]))
        if generator is not None and state["generator"] is not None:
            generator.set_state(state["generator"])
        return state["student"]


__all__ = ["ActiveHistory"]
