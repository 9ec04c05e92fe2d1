"""The one training loop: stages of any training as a generator of :class:`Step` and :class:`Epoch` events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from ..checkpoints import (
    CheckpointError,
    OwnRandomStates,
    capture_rng,
    check_writable,
    restore_rng,
    save_checkpoint,
    seed_everything,
    state_hash,
)
from ..files import as_path
from ..functional.checks import check_choice, describe
from ..metrics import StopSignal
from ..weights import copied_state
from .events import Epoch, Step, Trained, tell
from .optim import Learner, make_learners
from .ownership import Ownership, check_plain, owned
from .processes import gathered, leave_process_group_at_exit
from .stage import Learn, Stage, Training
from .state import Progress, check_identity, find_checkpoint, generators_of, length_of
from .teachers import Learning, Untouched, frozen_in_eval_mode
from .update import StepModule, Updates, of_stage

#: Before the first stage is opened.
_NO_STAGE = Stage(name="", data=(), step=lambda batch, run: None, learn=Learn(players=("nobody",)))
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class Run(Updates):
    """One run of a training, and what its steps may ask of it.

    Args:
        training: what is trained; its players are trained in place.
        precision: ``"32-true"`` (what the tensors are), ``"bf16-mixed"``, ``"16-mixed"`` (CUDA).
        accelerator, devices, strategy: as for Lightning Fabric; several devices run under ``torchrun``, for stages
            whose step returns its terms.
        accumulate: batches per optimizer step, weighted as one large batch.
        callbacks: called with every event before it is yielded.
        checkpoint_dir, checkpoint_every: where to save, each epoch and every so many steps.
        resume: ``True`` (newest checkpoint of ``checkpoint_dir``), ``"auto"`` (the same if there is one; a damaged one
            is passed over with a warning), or a file or folder.
        seed: of whatever is drawn.
        stop: an event; once set, training ends within one optimizer step and can be resumed.
        teacher_train_mode: frozen players use batch statistics in their batch norm (buffers are restored afterwards).

    Attributes:
        stage: the running :class:`Stage`.
        epoch, step, progress: epochs done in the stage, steps in all stages, share of the stage done in [0, 1].
        device, generator: where it runs, and a checkpointed generator there for whatever a step draws.
        resuming: the run goes on from a checkpoint; reopening: the data of an epoch is being asked for again, to go on
            in its middle.
        shown: newest tensors given to :meth:`show`, by name.
    """

    def __init__(
        self,
        training: Training,
        *,
        precision: str = "32-true",
        accelerator: str = "auto",
        devices: int | str | list[int] = 1,
        strategy: Any = "auto",
        accumulate: int = 1,
        callbacks: Sequence[Callable[[Step | Epoch], object]] = (),
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool | str | Path = False,
        seed: int = 0,
        stop: StopSignal | None = None,
        teacher_train_mode: bool = False,
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        for name, value in (("accumulate", accumulate), ("checkpoint_every", checkpoint_every)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}.")
        if checkpoint_dir is None and (checkpoint_every or resume in (True, "auto")):
            raise ValueError("checkpoint_every and resume need checkpoint_dir.")
        if not isinstance(training, Training):
            raise TypeError(f"training must be a kdcore.engine.Training, got {describe(training)}.")
        self.training, self.accumulate, self.seed, self.stop = training, accumulate, seed, stop
        self.callbacks, self.resume, self.teacher_train_mode = tuple(callbacks), resume, teacher_train_mode
        self.checkpoint_dir = as_path(checkpoint_dir) if checkpoint_dir is not None else None
        self.checkpoint_every = checkpoint_every
        self.fabric_options: dict[str, Any] = {
            "accelerator": accelerator,
            "devices": devices,
            "strategy": strategy,
            "precision": precision,
        }
        self.stage = _NO_STAGE
        self.shown: dict[str, Tensor] = {}
        self.reopening = self.resuming = False
        self._begun = self._stopping = self._complete = False
        self._progress = Progress()
        self._learners: dict[str, Learner] = {}
        self._last_checkpoint: Path | None = None
        self._ownership: Ownership | None = None
        self._total_steps: int | None = None
        self._epoch_length: int | None = None
        self._reset_step()

    # What a step may ask ----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch, from 0 within the stage."""
        return self._progress.epoch

    @property
    def step(self) -> int:
        """Optimizer steps done in all stages."""
        return self._progress.step

    @property
    def progress(self) -> float:
        """How much of the stage is done, in [0, 1]; by epochs where its number of steps is not known."""
        at = self._progress
        if self._total_steps:
            return min(1.0, at.stage_step / self._total_steps)
        part = at.batch / self._epoch_length if self._epoch_length else 0.0
        return min(1.0, (at.epoch + part) / self.stage.epochs)

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def teacher_forwards(self) -> int:
        """Samples that teachers were run on; a training that runs teachers adds to it."""
        return self._progress.teacher_forwards

    @teacher_forwards.setter
    def teacher_forwards(self, value: int) -> None:
        self._progress.teacher_forwards = value

    # The loop ---------------------------------------------------------------------------------------------------------

    def run(self) -> Generator[Step | Epoch, None, None]:
        """Train, yielding a :class:`Step` per optimizer step and an :class:`Epoch` per epoch; callbacks get them first.

        Raises:
            NonFiniteLossError: a loss term or gradient is not finite; the step is not taken.
            ValueError: data or players that do not fit (as early as it can be known).
            CheckpointError: a checkpoint cannot be read or written; the players in memory keep what they learnt.
        """
        events, own = self._events(), OwnRandomStates()
        try:
            while True:
                with own():
                    event = next(events, None)
                if event is None:
                    return
                yield event
        finally:
            with own():
                events.close()

    def _events(self) -> Generator[Step | Epoch, None, None]:
        """The run itself, whoever's the random states are; :meth:`run` and :func:`finish` see to that."""
        if self._begun:
            raise RuntimeError("this training has been run already: build another one to train again.")
        self._begun = True
        with ExitStack() as stack:
            checkpoint = self._prepare(stack)
            at = self._progress
            saved = checkpoint["progress"]["stage"] if checkpoint is not None else 0
            for number, stage in enumerate(self.training.stages()):
                self._open_stage(stage, first=number == 0)
                if number < saved:
                    continue  # replayed, not trained: its parts exist now
                if checkpoint is not None:
                    self._restore(checkpoint)
                    at, checkpoint = self._progress, None
                if number > at.stage:
                    at.next_stage()
                with self._learning():
                    yield from self._train_stage(stage)
                if not self._finished(stage):
                    self._save()
                    return
            self._complete = True

    def _train_stage(self, stage: Stage) -> Generator[Step | Epoch, None, None]:
        while not self._finished(stage) and not self._stop_asked():
            yield from self._train_epoch(stage)
            event = None if self._stop_asked() else self._finish_epoch(stage)
            if event is None:
                return
            yield self._emit(event)

    def _finished(self, stage: Stage) -> bool:
        at = self._progress
        return at.batch == 0 and (at.stage_step >= stage.steps if stage.steps else at.epoch >= stage.epochs)

    def _train_epoch(self, stage: Stage) -> Iterator[Step]:
        at = self._progress
        batches = self._open_epoch(stage)
        while not self._stop_asked() and not (stage.steps and at.stage_step >= stage.steps):
            began = time.perf_counter()
            raws = islice(batches, self.accumulate)
            group = [self.training.read(raw, at.batch + i, self) for i, raw in enumerate(raws)]
            if not group:
                if not at.batch:
                    raise ValueError(f"the data{of_stage(stage)} gave no batch: it is empty, or was read before.")
                return
            terms, norm, lr = self._update(stage, group)
            samples = sum(self.training.size(b) for b in group)
            at.add(terms, self._logged, samples, len(group), time.perf_counter() - began)
            event = Step(
                at.epoch, at.step, terms, math.fsum(terms.values()), lr, norm, at.last_rate, at.teacher_forwards,
                stage.name, self._logged,
            )  # fmt: skip
            if self.checkpoint_every and at.step % self.checkpoint_every == 0:
                self._save()
            yield self._emit(event)

    def _open_epoch(self, stage: Stage) -> Iterator[Any]:
        """The epoch's batches; in a resumed epoch the used ones are drawn again, so that all generators stand right."""
        at = self._progress
        if at.epoch_rng is None:
            self.training.on_epoch_start(self)
            at.epoch_rng = self._rng()
            data = self._data(stage)
            self._set_modes(stage)
            return iter(data)
        resumed = self._rng()
        self._set_rng(at.epoch_rng)
        self.reopening = True
        data = self._data(stage)
        self.reopening = False
        self._set_modes(stage)
        batches = iter(data)
        for _ in islice(batches, at.batch):
            pass
        self._set_rng(resumed)
        return batches

    def _data(self, stage: Stage) -> Iterable[Any]:
        data = stage.data(self) if callable(stage.data) else stage.data
        if isinstance(sampler := getattr(data, "sampler", None), DistributedSampler):
            sampler.set_epoch(self._progress.epoch)
        self._epoch_length = length_of(data)
        return data

    def _set_modes(self, stage: Stage) -> None:
        """Who learns is in train mode, everybody else in eval mode; teachers keep theirs."""
        for name, child in self.training.named_children():
            if not self.training.is_frozen(name):
                child.eval()
        chosen = stage.train_mode
        if chosen is None:
            chosen = tuple(dict.fromkeys(p for learn in stage.learners.values() for p in learn.players))
        for name in chosen:
            self.training.get_submodule(name).train()
        for module in self._at_rest:
            module.eval()

    # The end of an epoch ----------------------------------------------------------------------------------------------

    def _finish_epoch(self, stage: Stage) -> Epoch | None:
        """Validate, note the best state, save; ``None`` if stopped during validation (it is then done on resuming)."""
        at, began = self._progress, time.perf_counter()
        try:
            metrics = dict(stage.evaluate()) if stage.evaluate is not None else {}
        except Exception:
            self._save()  # what the epoch learnt is not lost; a resumed run validates again
            raise
        if self.fabric.world_size > 1 and stage.evaluate is not None:
            metrics = self.fabric.broadcast(metrics)
        if not metrics and stage.evaluate is not None and self._stop_asked():
            return None
        self.training.on_epoch_end(self)
        value, best = metrics.get(stage.watch or ""), at.best_metric
        if stage.watch is not None and stage.evaluate is not None and value is None:
            raise ValueError(
                f"watch={stage.watch!r} is not among what evaluate gave{of_stage(stage)}: {', '.join(metrics)}."
            )
        sign = 1 if stage.higher_is_better else -1
        is_best = value is None or best is None or math.isnan(best) or sign * value > sign * best
        if is_best:
            at.best_metric, at.best_epoch = value, at.epoch
            at.best_state = copied_state(self.training.deployed())
        at.total_seconds += (validating := time.perf_counter() - began)
        event = Epoch(
            at.epoch,
            at.step,
            {k: v / at.samples for k, v in at.sums.items()},
            metrics,
            self._learners.get("main", next(iter(self._learners.values()))).lr,
            at.seconds + validating,
            at.samples / max(at.seconds, 1e-9),
            at.teacher_forwards,
            is_best,
            stage.name,
            stage.higher_is_better,
            {k: v / at.samples for k, v in at.logged.items()},
        )
        at.next_epoch(event)
        self._save()
        return event

    def _emit(self, event: Any) -> Any:
        for callback in self.callbacks:
            callback(event)
        tell(event)
        return event

    def _stop_asked(self) -> bool:
        """Whether to end; once yes, always yes, even if somebody clears the event."""
        self._stopping = self._stopping or (self.stop is not None and self.stop.is_set())
        return self._stopping

    # Before the first step, and between stages ------------------------------------------------------------------------

    def _prepare(self, stack: ExitStack) -> dict[str, Any] | None:
        """From arguments to a state in which stages can be opened; ``stack`` undoes what must be undone."""
        from lightning.fabric import Fabric

        if self.fabric_options["precision"] == "16-mixed" and not torch.cuda.is_available():
            raise ValueError("precision '16-mixed' needs a CUDA device, use 'bf16-mixed' on a CPU.")
        checkpoint = find_checkpoint(self.checkpoint_dir, self.resume)
        self.fabric = fabric = Fabric(**self.fabric_options)
        fabric.launch()
        if fabric.world_size > 1:
            leave_process_group_at_exit()
        if self.checkpoint_dir is not None and fabric.is_global_zero:
            check_writable(self.checkpoint_dir)
            self._ownership = stack.enter_context(owned(self.checkpoint_dir))
        seed_everything(self.seed)
        self.generator = torch.Generator(device=fabric.device).manual_seed(self.seed)
        self.training.to(fabric.device)
        teachers = [self.training.get_submodule(name) for name in self.training.frozen]
        wanted = self.checkpoint_dir is not None or self.resume is not False
        self._hashes = {
            f"weights of {name}": state_hash(teacher)[:16]
            for name, teacher in zip(self.training.frozen, teachers, strict=True)
            if wanted and teacher.state_dict()
        }
        stack.enter_context(Untouched(teachers, train_mode=self.teacher_train_mode))
        self.resuming = checkpoint is not None
        self._at_rest = frozen_in_eval_mode(
            m for n, m in self.training.named_children() if not self.training.is_frozen(n)
        )
        self.training.begin(self, stack)
        if self.checkpoint_dir is not None:
            check_plain(self.training.learned_state())
        stack.callback(self._rest)
        return checkpoint

    def _rest(self) -> None:
        """Afterwards every player is in eval mode; teachers are put back by their own context."""
        for name, child in self.training.named_children():
            if not self.training.is_frozen(name):
                child.eval()

    def _open_stage(self, stage: Stage, *, first: bool) -> None:
        fabric = self.fabric
        self.stage = stage
        self.training.to(fabric.device)
        self._epoch_length = None if callable(stage.data) else length_of(stage.data)
        if self._epoch_length == 0:
            raise ValueError(f"the data{of_stage(stage)} gave no batch: it is empty.")
        self._total_steps = stage.steps
        if stage.steps is None and self._epoch_length is not None:
            self._total_steps = stage.epochs * math.ceil(self._epoch_length / self.accumulate)
        self._learners = make_learners(self.training, stage, self._total_steps, self._learners)
        if first:  # whatever begin() drew: every method sees the same batches
            seed_everything(self.seed + fabric.global_rank)
        players = dict.fromkeys(p for learn in stage.learners.values() for p in learn.players)
        self._step_module = StepModule([self.training.get_submodule(p) for p in players], self)
        self._model, *wrapped = fabric.setup(self._step_module, *(learner.raw for learner in self._learners.values()))
        for learner, optimizer in zip(self._learners.values(), wrapped, strict=True):
            learner.wrapped = optimizer

    def _learning(self) -> Learning:
        return Learning(self.training, [p for learner in self._learners.values() for p in learner.parameters])

    # Checkpoints ------------------------------------------------------------------------------------------------------

    @property
    def _generators(self) -> list[torch.Generator | None]:
        """The generators besides the global ones: the data's, and the one for steps."""
        own = [] if callable(self.stage.data) else generators_of(self.stage.data)
        return [*own, self.generator]

    def _rng(self) -> dict[str, Any]:
        return capture_rng(*self._generators)

    def _set_rng(self, state: Mapping[str, Any]) -> None:
        restore_rng(state, *self._generators)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued."""
        return {
            **self.training.identity(),
            "seed": self.seed,
            "accumulate": self.accumulate,
            "precision": self.fabric_options["precision"],
            "processes": self.fabric.world_size,
            **self._hashes,
        }

    def _save(self) -> None:
        """Write everything a bit-identical continuation needs."""
        if self.checkpoint_dir is None:
            return
        if self._ownership is not None:
            self._ownership.check()
        at, fabric = self._progress, self.fabric
        rng, epoch_rng = gathered(fabric, self._rng()), gathered(fabric, at.epoch_rng)
        if fabric.is_global_zero:
            state = {
                "identity": self._identity(),
                "players": self.training.learned_state(),
                "learners": {name: learner.state_dict() for name, learner in self._learners.items()},
                "precision": fabric.strategy.precision.state_dict(),
                "rng": rng,
                "epoch_rng": epoch_rng,
                "progress": at.state_dict(),
            }
            try:
                self._last_checkpoint = save_checkpoint(self.checkpoint_dir, state, step=at.step)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error} The training result is not lost: the student in memory holds the "
                    f"weights after step {at.step}.",
                    error.path,
                    self._last_checkpoint,
                ) from error
        fabric.barrier()

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        if "players" not in checkpoint:
            raise ValueError("the checkpoint was written by an older version of kdcore and cannot be continued.")
        check_identity(checkpoint["identity"], self._identity())
        self.training.load_learned_state(checkpoint["players"])
        for name, learner in self._learners.items():
            learner.load_state_dict(checkpoint["learners"][name])
        self.fabric.strategy.precision.load_state_dict(checkpoint["precision"])
        rank = self.fabric.global_rank
        self._progress = Progress.from_state(checkpoint["progress"], checkpoint["epoch_rng"][rank])
        self._set_rng(checkpoint["rng"][rank])

    # Afterwards -------------------------------------------------------------------------------------------------------

    def result(self) -> Trained:
        """What was reached so far; complete when :meth:`run` has been read to its end."""
        if not self._begun:
            raise RuntimeError("nothing was trained yet: read run() first, or call fit().")
        at, watch = self._progress, self.stage.watch or ""
        last = at.history[-1].metrics.get(watch) if at.history else None
        return Trained(
            student=self.training.deployed(),
            method=self.training.name or type(self.training).__name__,
            history=list(at.history),
            last_metric=last,
            best_metric=at.best_metric,
            best_epoch=at.best_epoch,
            metric_name=watch,
            higher_is_better=self.stage.higher_is_better,
            best_state=at.best_state,
            teacher_forwards=at.teacher_forwards,
            steps=at.step,
            seconds=at.total_seconds,
            stopped=not self._complete,
            checkpoint_dir=self.checkpoint_dir,
            settings=self.settings,
            training=self.training,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments as plain values, for run records."""
        return {
            **self.training.settings,
            "precision": self.fabric_options["precision"],
            "accumulate": self.accumulate,
            "seed": self.seed,
            "teacher_train_mode": self.teacher_train_mode,
        }
