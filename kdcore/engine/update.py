"""One step of a stage: forward, backward, finite?, clip, step, schedule; and what a step may ask of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..functional.checks import describe
from ..method import total
from ..outputs import as_float32
from .events import NonFiniteLossError
from .optim import Learner
from .stage import Stage, Terms, Training
from .state import Progress
from .teachers import BatchNormAdvice

#: Terms of one batch: their names, their values, the batch's share of the step, the batch and its number in the step.
Seen = tuple[tuple[str, ...], Tensor, float, tuple[Any, int]]


class Updates:
    """The part of a :class:`~kdcore.engine.run.Run` that takes steps."""

    training: Training
    stage: Stage
    fabric: Any
    accumulate: int
    shown: dict[str, Tensor]
    _progress: Progress
    _learners: dict[str, Learner]
    _last_checkpoint: Path | None
    _model: Any
    _step_module: StepModule

    @property
    def _as_run(self) -> Any:
        """Itself, as the class that trainings know."""
        return self

    def minimize(self, terms: Terms, *optimizers: str, retain_graph: bool = False) -> None:
        """One step of one or several optimizers on the sum of ``terms``: backward, finite?, clip, step, schedule.

        Only the parameters of these optimizers get a gradient.

        Args:
            terms: named scalars, already weighted; they are reported with the step's other terms.
            *optimizers: names from :attr:`Stage.learn`; default ``"main"``, or the only one.
            retain_graph: keep the graph for another backward pass.

        Raises:
            NonFiniteLossError: a term or the gradient is not finite; no optimizer has stepped.
            ValueError: an unknown optimizer, several processes, or accumulation.
        """
        if self.fabric.world_size > 1:
            raise ValueError(
                f"stage {self.stage.name!r} calls run.minimize, which works on one device: use devices=1, or return "
                "the terms."
            )
        if self.accumulate > 1:
            raise ValueError(
                f"stage {self.stage.name!r} calls run.minimize, which cannot accumulate: use accumulate=1."
            )
        learners = [self._learner(name) for name in optimizers] or [self._main()]
        checked = checked_terms(terms)
        if twice := checked.keys() & self._minimized.keys():
            raise ValueError(f"two terms of one step are called {sorted(twice)[0]!r}: rename one.")
        parameters = [p for learner in learners for p in learner.parameters if p.requires_grad]
        self._zero(learners)
        loss = total(checked.values())
        with torch.autocast(self.fabric.device.type, enabled=False):
            self.fabric.backward(loss, inputs=parameters, retain_graph=retain_graph)
        values = torch.stack([t.detach().float() for t in checked.values()])
        numbers = self._apply(learners, [(tuple(checked), values, 1.0, self._batch)])
        self._minimized |= numbers
        self._zero(learners)

    def log(self, **numbers: float | Tensor) -> None:
        """Numbers beside the terms; in :attr:`Step.logged`, and as means over an epoch's samples."""
        self._logged |= {k: float(v.detach()) if isinstance(v, Tensor) else float(v) for k, v in numbers.items()}

    def show(self, **tensors: Tensor) -> None:
        """Tensors for whoever looks on: the newest ones are kept on the CPU in :attr:`shown`."""
        self.shown |= {k: v.detach().cpu() for k, v in tensors.items()}

    def after(self, call: Callable[[], object]) -> None:
        """Something to be done once this step is taken (a replay buffer, a moving average); without gradients."""
        self._afterwards.append(call)

    # One step of the loop ---------------------------------------------------------------------------------------------

    def _reset_step(self) -> None:
        self._minimized: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        self._afterwards: list[Callable[[], object]] = []
        self._norms: list[float] = []
        self._batch: tuple[Any, int] = (None, 0)

    def _update(self, stage: Stage, group: list[Any]) -> tuple[dict[str, float], float, float]:
        """One step over the batches of ``group``, weighted as one large batch of all their samples."""
        at, fabric = self._progress, self.fabric
        sizes = [self.training.size(b) for b in group]
        self._reset_step()
        self._zero(self._learners.values())
        learner = next(iter(self._learners.values()))
        lr = self._learners.get("main", learner).lr
        seen: list[tuple[tuple[str, ...], Tensor, float, tuple[Any, int]]] = []
        for i, (batch, size) in enumerate(zip(group, sizes, strict=True)):
            self._batch = (batch, i)
            waiting = fabric.world_size > 1 and i < len(group) - 1
            with fabric.no_backward_sync(self._model) if waiting else nullcontext(), BatchNormAdvice():
                out = self._model(Opaque(self.training.to_step(batch, self._as_run)))
                if out is None:
                    continue
                loss, values = out
                learner = self._main()
                only = {"inputs": [p for p in learner.parameters if p.requires_grad]} if len(self._learners) > 1 else {}
                fabric.backward(loss * (size / sum(sizes)), **only)
            seen.append((self._step_module.names, values, size / sum(sizes), self._batch))
        terms = self._apply([learner], seen) if seen else {}
        if twice := terms.keys() & self._minimized.keys():
            raise ValueError(f"two terms of one step are called {sorted(twice)[0]!r}: rename one.")
        terms = {**self._minimized, **terms}
        if not terms:
            raise ValueError(f"the step{of_stage(stage)} neither returned terms nor called run.minimize.")
        at.step, at.stage_step = at.step + 1, at.stage_step + 1
        with torch.no_grad():
            self.training.on_step_end(terms, self._as_run)
            for call in self._afterwards:
                call()
        return terms, math.hypot(*self._norms), lr

    def _apply(
        self, learners: list[Learner], seen: list[tuple[tuple[str, ...], Tensor, float, tuple[Any, int]]]
    ) -> dict[str, float]:
        """Step the optimizers on the gradients that are there, once all terms and gradients are known to be finite."""
        fabric, precision = self.fabric, self.fabric.strategy.precision
        learning = []
        for learner in learners:
            precision.unscale_gradients(learner.raw)
            learning.append([p for p in learner.parameters if p.grad is not None])
        norms = [torch.nn.utils.get_total_norm([p.grad for p in own if p.grad is not None]) for own in learning]
        packed = torch.cat([*(v for _, v, _, _ in seen), *(n.float().reshape(1).to(self.fabric.device) for n in norms)])
        numbers = cast(Tensor, fabric.all_reduce(packed)).tolist()
        terms = self._finite_terms(seen, numbers, len(norms))
        for learner, own, norm in zip(learners, learning, norms, strict=True):
            if learner.learn.clip_grad is not None:
                torch.nn.utils.clip_grads_with_norm_(own, learner.learn.clip_grad, norm)
        scaler = getattr(precision, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 0.0
        if scaler is None or len(learners) == 1:
            for learner in learners:
                learner.wrapped.step()
        else:  # one scale for all: it may move only when every optimizer has stepped
            for learner in learners:
                scaler.step(learner.raw)
            scaler.update()
        for learner in learners:
            if learner.scheduler is not None and (scaler is None or scaler.get_scale() >= scale):
                learner.scheduler.step()
        self._norms += numbers[len(numbers) - len(norms) :]
        return terms

    def _finite_terms(self, seen: list[Any], numbers: list[float], norms: int) -> dict[str, float]:
        """Mean of each term over the step's samples; an error names the first that is not finite."""
        at, values = self._progress, iter(numbers)
        terms: dict[str, float] = {}

        def fail(term: str, value: float, batch: Any, number: int) -> NonFiniteLossError:
            ids = self.training.sample_ids(batch)
            return NonFiniteLossError(
                term, value, at.epoch, at.step, at.batch + number, ids, self._last_checkpoint, self.stage.name
            )

        for names, _, share, (batch, number) in seen:
            for name in names:
                value = next(values)
                if not math.isfinite(value):
                    raise fail(name, value, batch, number)
                terms[name] = terms.get(name, 0.0) + value * share
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        for norm in numbers[len(numbers) - norms :]:
            if not math.isfinite(norm) and not scaled:  # with fp16 the scaler skips the step and lowers its scale
                raise fail("gradient", norm, seen[0][3][0], 0)
        return terms

    def _zero(self, learners: Iterable[Learner]) -> None:
        for learner in learners:
            learner.raw.zero_grad(set_to_none=True)

    def _main(self) -> Learner:
        if len(self._learners) == 1:
            return next(iter(self._learners.values()))
        return self._learner("main")

    def _learner(self, name: str) -> Learner:
        if name not in self._learners:
            raise ValueError(
                f"stage {self.stage.name!r} has no optimizer {name!r}; it has {', '.join(self._learners)}."
            )
        return self._learners[name]


class Opaque:
    """What a step gets, hidden from wrappers that cast or scatter the tensors they find in arguments."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class StepModule(nn.Module):
    """A stage's step as one forward over its learning players, so that one wrapper (autocast, DDP) covers all of it."""

    def __init__(self, players: Iterable[nn.Module], run: Updates) -> None:
        super().__init__()
        self.players = nn.ModuleList(players)
        self.run = run
        self.names: tuple[str, ...] = ()

    def forward(self, given: Opaque) -> tuple[Tensor, Tensor] | None:
        """Loss, and the values of its terms (detached) in the order of ``names``; ``None`` if there are none."""
        terms = self.run.stage.step(given.batch, self.run._as_run)
        if terms is None:
            return None
        checked = checked_terms(terms)
        self.names = tuple(checked)
        return total(checked.values()), torch.stack([t.detach().float() for t in checked.values()])


def checked_terms(terms: Terms) -> dict[str, Tensor]:
    """Named scalar terms in full precision.

    Raises:
        ValueError: no terms, or one that is not a scalar tensor.
    """
    if not isinstance(terms, Mapping) or not terms:
        raise ValueError(f"a step must give named terms, at least one, got {describe(terms)}.")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            raise ValueError(f"term {name!r} must be a scalar tensor, got {describe(term)}.")
    return {name: as_float32(term) for name, term in terms.items()}


def of_stage(stage: Stage) -> str:
    return f" of stage {stage.name!r}" if stage.name else ""
