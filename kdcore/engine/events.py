"""What a training tells while it runs, and what it gives at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .. import html

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        epoch: counts from 0 within the stage; step: steps done so far in all stages, this one included.
        terms: weighted loss terms by name (they sum to ``loss``), averaged over the step's samples.
        lr: learning rate of the first parameter group in this step; grad_norm: 2-norm over everything that learns,
            before clipping; samples_per_second: loading included, time spent by the events' readers excluded.
        teacher_forwards: samples (times views) that the teachers were run on since the start.
        stage: name of the stage; "" in a training of one.
        logged: numbers the step gave to :meth:`Run.log`.
    """

    epoch: int
    step: int
    terms: dict[str, float]
    loss: float
    lr: float
    grad_norm: float
    samples_per_second: float
    teacher_forwards: int
    stage: str = ""
    logged: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch: ``terms`` are means over its samples, ``metrics`` those of the validation data (if any).

    ``higher_is_better`` is the direction of the watched metric, ``is_best`` whether this epoch is the best of its stage
    so far in that direction; without a watched metric the newest epoch is.
    """

    epoch: int
    step: int
    terms: dict[str, float]
    metrics: dict[str, float]
    lr: float
    seconds: float
    samples_per_second: float
    teacher_forwards: int
    is_best: bool
    stage: str = ""
    higher_is_better: bool = True
    logged: dict[str, float] = field(default_factory=dict)


_LISTENERS: ContextVar[tuple[Callable[[Step | Epoch], object], ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(callback: Callable[[Step | Epoch], object]) -> Iterator[None]:
    """Within the block ``callback`` gets every event of whatever trains, also where a loop starts the trainings."""
    token = _LISTENERS.set((*_LISTENERS.get(), callback))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def tell(event: Step | Epoch) -> None:
    """Hand an event to everybody who is :func:`listening`."""
    for callback in _LISTENERS.get():
        callback(event)


@dataclass(kw_only=True)
class Trained:
    """What a training gave.

    Attributes:
        student: the trained module (:meth:`Training.deployed`), in eval mode, with the weights of the *last* step.
        method: name of what trained it (objectives joined by ``+``).
        history: one :class:`Epoch` per finished epoch of every stage.
        last_metric, best_metric: watched metric of the last and the best epoch of the last stage, ``None`` without one.
        best_epoch: the epoch ``best_state`` (on the CPU) comes from; without a metric the last one.
        metric_name, higher_is_better: of the watched metric.
        teacher_forwards: samples (times views) that the teachers were run on, cache building included.
        steps, seconds: optimizer steps and time spent training and validating.
        stopped: ended before the last epoch; checkpoint_dir: where it can be resumed from.
        settings: arguments and knobs, fit for a run record.
        training: the :class:`Training` itself with all its players.
    """

    student: nn.Module
    method: str
    history: list[Epoch]
    last_metric: float | None
    best_metric: float | None
    best_epoch: int | None
    metric_name: str
    best_state: dict[str, Tensor] = field(repr=False)
    teacher_forwards: int
    steps: int
    seconds: float
    stopped: bool
    checkpoint_dir: Path | None
    settings: dict[str, Any]
    higher_is_better: bool = True
    training: Any = field(default=None, repr=False)

    def load_best(self) -> nn.Module:
        """Put the weights of the best epoch into the student and return it."""
        if not self.best_state:
            raise ValueError("no epoch was finished, so there is no best state.")
        self.student.load_state_dict(self.best_state)
        return self.student

    def to_dataframe(self) -> pd.DataFrame:
        """One row per epoch; terms as ``loss/<name>``, metrics as ``val/<name>``, logged numbers as ``log/<name>``."""
        import pandas as pd

        rows = []
        for epoch in self.history:
            row = {k: v for k, v in asdict(epoch).items() if k not in ("terms", "metrics", "logged")}
            for prefix, part in (("loss", epoch.terms), ("val", epoch.metrics), ("log", epoch.logged)):
                row |= {f"{prefix}/{k}": v for k, v in part.items()}
            rows.append(row)
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        def shown(value: float | None) -> str:
            return "-" if value is None else f"{value:.4f}"

        measured = {
            f"last {self.metric_name}": shown(self.last_metric),
            f"best {self.metric_name}": f"{shown(self.best_metric)} (epoch {self.best_epoch})",
        }
        return html.facts(
            {
                "method": self.method,
                **(measured if self.metric_name else {}),
                "steps": self.steps,
                "seconds": f"{self.seconds:.1f}",
                "teacher forwards": self.teacher_forwards,
                "stopped early": self.stopped,
            }
        )


class NonFiniteLossError(ArithmeticError):
    """A loss term (or the gradient) is NaN or infinite; the step was not taken.

    Attributes:
        term: its name, ``"gradient"`` for the gradient norm; stage, epoch, step, batch: where (batch counts within the
            epoch).
        index: sample ids of that batch, if known; checkpoint: the last good checkpoint, if any.
    """

    def __init__(
        self,
        term: str,
        value: float,
        epoch: int,
        step: int,
        batch: int,
        index: list[int] | None,
        checkpoint: Path | None,
        stage: str = "",
    ) -> None:
        samples = f", samples {index[:16]}{' ...' if len(index) > 16 else ''}" if index is not None else ""
        where = f"stage {stage!r}, " if stage else ""
        kept = (
            f"The last good checkpoint is {checkpoint}."
            if checkpoint
            else "No checkpoint was written (checkpoint_dir); the student still holds the weights before this step."
        )
        super().__init__(
            f"loss term {term!r} is {value} in {where}epoch {epoch}, step {step}, batch {batch}{samples}. {kept}"
        )
        self.term, self.stage, self.epoch, self.step, self.batch = term, stage, epoch, step, batch
        self.index, self.checkpoint = index, checkpoint
