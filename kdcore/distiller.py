"""The one training loop: a student learns from a teacher, a method and labels, and every step is an event.

:func:`distill` runs it to the end; :class:`Distiller` is the same loop as a generator of :class:`Step` and
:class:`Epoch` events, which a progress bar, a live chart and a headless run read alike::

    distiller = Distiller(teacher, student, "kd", train, val, epochs=20, checkpoint_dir="runs/kd", resume="auto")
    for event in distiller.run():
        ...
    result = distiller.result()

What can be relied on:

* The teacher is in eval mode, gets no gradient, and is never part of the student's or the method's parameters, state or
  optimizer; afterwards its training flags and buffers are what they were.
* Validation, sample batches and cache building draw no random numbers from the training's point of view.
* On a CPU, a run that was killed and resumed ends in the same bits as one that was not, as long as the data's
  randomness comes from Python's, NumPy's or torch's global generators or the loader's own, and a method's state is in
  its buffers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, TensorDataset

from ._training import (
    BatchNormAdvice,
    Given,
    Objective,
    TeacherAnswers,
    Untouched,
    as_methods,
    device_of,
    gathered,
    label_fault,
    leave_process_group_at_exit,
    loader_length,
    make_optimizer,
    metric_name,
    resolved,
    widened,
)
from .cache import TeacherCache
from .checkpoints import (
    CheckpointError,
    capture_rng,
    check_writable,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    preserved_rng,
    restore_rng,
    save_checkpoint,
    seed_everything,
)
from .functional.checks import check_choice, check_non_negative, check_positive, describe
from .inputs import Batch, Normalize, check_finite, input_normalization, read_batch, rebuild_loader
from .method import Method
from .taps import Taps, evaluating

if TYPE_CHECKING:
    import pandas as pd
    from torch.optim import Optimizer

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_SAMPLE = 8  # samples that methods see in setup()
#: Where the scheduler "steps" divides the learning rate by 10 (megvii-research/mdistiller: epochs 150, 180, 210).
_STEPS = (0.625, 0.75, 0.875)


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        epoch: counts from 0; step: optimizer steps done so far, this one included.
        terms: weighted loss terms by name (they sum to ``loss``), averaged over the step's samples.
        lr: learning rate of the first parameter group in this step; grad_norm: 2-norm over everything that learns,
            before clipping; samples_per_second: loading included, time spent by the events' readers excluded.
        teacher_forwards: samples (times views) that the teacher was run on since the start.
    """

    epoch: int
    step: int
    terms: dict[str, float]
    loss: float
    lr: float
    grad_norm: float
    samples_per_second: float
    teacher_forwards: int


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch: ``terms`` are means over its samples, ``metrics`` those of the validation data (if any)."""

    epoch: int
    step: int
    terms: dict[str, float]
    metrics: dict[str, float]
    lr: float
    seconds: float
    samples_per_second: float
    teacher_forwards: int
    is_best: bool


@dataclass(kw_only=True)
class DistillResult:
    """What a training gave.

    Attributes:
        student: the trained module, in eval mode, with the weights of the *last* step.
        method: name of the objective (several joined by ``+``).
        history: one :class:`Epoch` per finished epoch.
        last_metric, best_metric: validation metric of the last and the best epoch, ``None`` without validation data.
        best_epoch: the epoch ``best_state`` (on the CPU) comes from; without validation data the last one.
        teacher_forwards: samples (times views) that the teacher was run on, cache building included.
        steps, seconds: optimizer steps and time spent training and validating.
        stopped: ended before the last epoch; checkpoint_dir: where it can be resumed from.
        settings: arguments and knobs, fit for a run record.
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

    def load_best(self) -> nn.Module:
        """Put the weights of the best epoch into the student and return it."""
        if not self.best_state:
            raise ValueError("no epoch was finished, so there is no best state.")
        self.student.load_state_dict(self.best_state)
        return self.student

    def to_dataframe(self) -> pd.DataFrame:
        """One row per epoch; loss terms as ``loss/<name>``, metrics as ``val/<name>``."""
        import pandas as pd

        return pd.DataFrame(
            [
                {k: v for k, v in asdict(e).items() if k not in ("terms", "metrics")}
                | {f"loss/{k}": v for k, v in e.terms.items()}
                | {f"val/{k}": v for k, v in e.metrics.items()}
                for e in self.history
            ]
        )

    def _repr_html_(self) -> str:
        def shown(value: float | None) -> str:
            return "-" if value is None else f"{value:.4f}"

        rows = {
            "method": self.method,
            f"last {self.metric_name}": shown(self.last_metric),
            f"best {self.metric_name}": f"{shown(self.best_metric)} (epoch {self.best_epoch})",
            "steps": self.steps,
            "seconds": f"{self.seconds:.1f}",
            "teacher forwards": self.teacher_forwards,
            "stopped early": self.stopped,
        }
        return (
            "<table>"
            + "".join(f'<tr><th scope="row" style="text-align:left">{k}</th><td>{v}</td></tr>' for k, v in rows.items())
            + "</table>"
        )


class NonFiniteLossError(ArithmeticError):
    """A loss term (or the gradient) is NaN or infinite; the step was not taken.

    Attributes:
        term: its name, ``"gradient"`` for the gradient norm; epoch, step, batch: where (batch counts within the epoch).
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
    ) -> None:
        samples = f", samples {index[:16]}{' ...' if len(index) > 16 else ''}" if index is not None else ""
        kept = (
            f"The last good checkpoint is {checkpoint}."
            if checkpoint
            else "No checkpoint was written (checkpoint_dir); the student still holds the weights before this step."
        )
        super().__init__(f"loss term {term!r} is {value} in epoch {epoch}, step {step}, batch {batch}{samples}. {kept}")
        self.term, self.epoch, self.step, self.batch = term, epoch, step, batch
        self.index, self.checkpoint = index, checkpoint


class StopSignal(Protocol):
    """Anything with ``is_set()``, such as :class:`threading.Event`."""

    def is_set(self) -> bool: ...


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of samples (pixels, tokens) whose largest logit is at the label, those labelled -100 left out.

    Args:
        logits: ``(N, C, ...)``; labels: ``(N, ...)``.
    """
    return (logits.argmax(1) == labels)[labels != -100].double().mean().item()


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    metric: Callable[[Tensor, Tensor], float] = accuracy,
    transform: Callable[[Any], Any] | None = None,
    device: torch.device | str | None = None,
    stop: StopSignal | None = None,
) -> dict[str, float]:
    """A model's metric, and its cross-entropy where labels are classes, over a whole loader.

    Args:
        model: run in eval mode; its training flags are restored.
        loader: labelled batches (see :func:`kdcore.inputs.read_batch`); its random state is left as it was.
        metric: ``(logits (N, C, ...), labels (N, ...)) -> float`` on the CPU, over all samples at once.
        transform: applied to ``x``; ``None``: the model's own normalisation
            (:func:`kdcore.inputs.input_normalization`).
        device: where to run; default: where the model is.
        stop: given up (with an empty result) as soon as it is set.

    Raises:
        ValueError: an empty loader or unlabelled batches.
    """
    device = torch.device(device) if device is not None else device_of(model)
    transform = transform if transform is not None else input_normalization(model).to(device)
    logits, labels = [], []
    with preserved_rng(getattr(loader, "generator", None)), evaluating(model):
        for number, raw in enumerate(loader):
            if stop is not None and stop.is_set():
                return {}
            batch = read_batch(raw)
            check_finite(batch, f"validation batch {number}")
            if batch.labels is None:
                raise ValueError(f"validation batch {number} has no labels: give (x, y).")
            logits.append(widened(model(transform(batch.to(device).x))).cpu())
            labels.append(batch.labels.cpu())
    if not logits:
        raise ValueError("the validation loader is empty.")
    scores, truth = torch.cat(logits), torch.cat(labels)
    out = {metric_name(metric): float(metric(scores, truth))}
    if not truth.is_floating_point() and truth.shape == scores.shape[:1] + scores.shape[2:]:
        fault = label_fault(truth, scores.shape[1])
        if fault:
            raise ValueError(f"validation data: {fault}")
        out["ce"] = F.cross_entropy(scores, truth.long()).item()
    return out


class Distiller:
    """Trains a student; see :func:`distill` for the arguments and the module for the promises.

    An object trains once: build another one to train again.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        student: nn.Module,
        method: str | Method | Sequence[str | Method],
        train: Iterable[Any],
        val: Iterable[Any] | None = None,
        *,
        epochs: int,
        optimizer: str | Optimizer | Callable[[list[dict[str, Any]]], Optimizer] | None = None,
        lr: float = 1e-3,
        weight_decay: float | None = None,
        scheduler: str | Callable[[Optimizer, int], Any] = "cosine",
        precision: str = "32-true",
        accumulate: int = 1,
        accelerator: str = "auto",
        devices: int | str | list[int] = 1,
        strategy: Any = "auto",
        clip_grad: float | None = None,
        callbacks: Sequence[Callable[[Step | Epoch], object]] = (),
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool | str | Path = False,
        cache: TeacherCache | str | Path | None = None,
        seed: int = 0,
        metric: Callable[[Tensor, Tensor], float] | None = None,
        ce_weight: float | None = None,
        student_transform: Callable[[Any], Any] | None = None,
        teacher_transform: Callable[[Any], Any] | None = None,
        teacher_train_mode: bool = False,
        stop: StopSignal | None = None,
        compile: bool = False,
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        for name, value in (("epochs", epochs), ("accumulate", accumulate), ("checkpoint_every", checkpoint_every)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}.")
        check_positive("lr", lr)
        for name, number in (("weight_decay", weight_decay), ("ce_weight", ce_weight)):
            if number is not None:
                check_non_negative(name, number)
        if clip_grad is not None:
            check_positive("clip_grad", clip_grad)
        if checkpoint_dir is None and (checkpoint_every or resume in (True, "auto")):
            raise ValueError("checkpoint_every and resume need checkpoint_dir.")
        if cache is not None and teacher_train_mode:
            raise ValueError("teacher_train_mode makes the teacher's answer depend on the batch: it cannot be cached.")
        self.teacher, self.student, self.methods = teacher, student, as_methods(method)
        self.train, self.val, self.epochs = train, val, epochs
        self.accumulate, self.clip_grad, self.seed, self.compile = accumulate, clip_grad, seed, compile
        self.optimizer, self.scheduler, self.lr, self.weight_decay = optimizer, scheduler, lr, weight_decay
        self.callbacks, self.stop, self.resume, self.ce_weight = tuple(callbacks), stop, resume, ce_weight
        self.checkpoint_dir = Path(checkpoint_dir) if checkpoint_dir is not None else None
        self.checkpoint_every, self.metric = checkpoint_every, metric or accuracy
        self.cache = cache if isinstance(cache, TeacherCache) or cache is None else TeacherCache(cache)
        self.student_transform, self.teacher_transform = student_transform, teacher_transform
        self.teacher_train_mode = teacher_train_mode
        self._fabric_options: dict[str, Any] = {
            "accelerator": accelerator,
            "devices": devices,
            "strategy": strategy,
            "precision": precision,
        }
        changing = [m.name for m in self.methods if type(m).on_batch is not Method.on_batch]
        if cache is not None and changing:
            raise ValueError(f"method {changing[0]!r} changes the samples: the teacher's answers cannot be cached.")
        self.views = max(m.needs.views for m in self.methods)
        self._length = loader_length(train)
        self._check_models()
        self._begun = self._stopping = False
        self._state = _Progress()

    # The loop ---------------------------------------------------------------------------------------------------------

    def run(self) -> Generator[Step | Epoch, None, None]:
        """Train, yielding a :class:`Step` per optimizer step and an :class:`Epoch` per epoch; callbacks get them first.

        Raises:
            NonFiniteLossError: a loss term or gradient is not finite; the step is not taken.
            ValueError: batches, labels or models that do not fit (as early as it can be known).
            CheckpointError: a checkpoint cannot be read or written; the student in memory keeps what it learnt.
        """
        if self._begun:
            raise RuntimeError("this Distiller has been run already: build another one to train again.")
        self._begun = True
        with ExitStack() as stack:
            self._prepare(stack)
            at = self._state
            while at.epoch < self.epochs and not self._stop_asked():
                yield from self._train_epoch()
                event = None if self._stop_asked() else self._finish_epoch()
                if event is None:
                    break
                yield self._emit(event)
            if at.epoch < self.epochs:
                self._save()

    def _train_epoch(self) -> Iterator[Step]:
        at = self._state
        batches = self._open_epoch()
        while not self._stop_asked():
            began = time.perf_counter()
            group = [self._read(raw, at.batch + i) for i, raw in enumerate(islice(batches, self.accumulate))]
            if not group:
                return
            terms, norm, lr = self._update(group)
            at.add(terms, sum(b.size for b in group), len(group), time.perf_counter() - began)
            event = Step(
                at.epoch, at.step, terms, math.fsum(terms.values()), lr, norm, at.last_rate, self._teacher.forwards
            )
            if self.checkpoint_every and at.step % self.checkpoint_every == 0:
                self._save()
            yield self._emit(event)

    def _open_epoch(self) -> Iterator[Any]:
        """The epoch's batches; in a resumed epoch the used ones are drawn again, so that all generators stand right."""
        at = self._state
        if isinstance(sampler := getattr(self._loader, "sampler", None), DistributedSampler):
            sampler.set_epoch(at.epoch)
        if at.epoch_rng is None:
            at.epoch_rng = self._rng()
            for method in self.methods:
                method.on_epoch_start(at.epoch)
            self._objective.train()
            return iter(self._loader)
        resumed = self._rng()
        self._set_rng(at.epoch_rng)
        self._objective.train()
        batches = iter(self._loader)
        for _ in islice(batches, at.batch):
            pass
        self._set_rng(resumed)
        return batches

    def _update(self, group: list[Batch]) -> tuple[dict[str, float], float, float]:
        """One optimizer step over the batches of ``group``, weighted as one large batch of all their samples."""
        at, fabric, samples = self._state, self._fabric, sum(b.size for b in group)
        self._optimizer.zero_grad(set_to_none=True)
        seen: list[tuple[tuple[str, ...], Tensor]] = []
        for i, batch in enumerate(group):
            waiting = fabric.world_size > 1 and i < len(group) - 1
            with fabric.no_backward_sync(self._model) if waiting else nullcontext(), BatchNormAdvice():
                loss, values = self._model(self._given(batch))
                fabric.backward(loss * (batch.size / samples))
            seen.append((self._objective.names, values))
        precision = fabric.strategy.precision
        precision.unscale_gradients(self._raw_optimizer)
        learning = [p for g in self._raw_optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
        numbers = cast(Tensor, fabric.all_reduce(torch.cat([*(v for _, v in seen), norm.float().reshape(1)]))).tolist()
        terms = self._checked_terms(group, [names for names, _ in seen], numbers, samples)
        if self.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(learning, self.clip_grad, norm)
        lr = float(self._raw_optimizer.param_groups[0]["lr"])
        scaler = getattr(precision, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 0.0
        self._optimizer.step()
        if self._scheduler is not None and (scaler is None or scaler.get_scale() >= scale):
            self._scheduler.step()
        at.step += 1
        with torch.no_grad():
            for method, signals in zip(self.methods, self._objective.signals, strict=True):
                method.on_step_end(signals)
        self._objective.signals = []
        return terms, numbers[-1], lr

    def _checked_terms(
        self, group: list[Batch], names: list[tuple[str, ...]], numbers: list[float], samples: int
    ) -> dict[str, float]:
        """Mean of each term over the step's samples, once all of them, and the gradient, are known to be finite."""
        at, values = self._state, iter(numbers)
        terms: dict[str, float] = {}
        for i, (batch, present) in enumerate(zip(group, names, strict=True)):
            index = batch.index.tolist() if batch.index is not None else None
            for name in present:
                value = next(values)
                if not math.isfinite(value):
                    raise NonFiniteLossError(name, value, at.epoch, at.step, at.batch + i, index, self._last_checkpoint)
                terms[name] = terms.get(name, 0.0) + value * batch.size / samples
        scaled = getattr(self._fabric.strategy.precision, "scaler", None) is not None
        if not math.isfinite(numbers[-1]) and not scaled:  # with fp16 the scaler skips the step and lowers its scale
            raise NonFiniteLossError("gradient", numbers[-1], at.epoch, at.step, at.batch, index, self._last_checkpoint)
        return terms

    def _finish_epoch(self) -> Epoch | None:
        """Validate, note the best state, save; ``None`` if stopped during validation (it is then done on resuming)."""
        at, began = self._state, time.perf_counter()
        metrics = self._validate() if self.val is not None else {}
        if self.val is not None and not metrics:
            return None
        for method in self.methods:
            method.on_epoch_end(at.epoch)
        name = metric_name(self.metric)
        best = at.best_metric
        is_best = name not in metrics or best is None or math.isnan(best) or metrics[name] > best
        if is_best:
            at.best_metric, at.best_epoch = metrics.get(name), at.epoch
            at.best_state = {k: v.detach().cpu().clone() for k, v in self.student.state_dict().items()}
        at.total_seconds += (validating := time.perf_counter() - began)
        event = Epoch(
            at.epoch,
            at.step,
            {k: v / at.samples for k, v in at.sums.items()},
            metrics,
            float(self._raw_optimizer.param_groups[0]["lr"]),
            at.seconds + validating,
            at.samples / max(at.seconds, 1e-9),
            self._teacher.forwards,
            is_best,
        )
        at.next_epoch(event)
        self._save()
        return event

    def _validate(self) -> dict[str, float]:
        assert self.val is not None
        with self._fabric.autocast():
            metrics = evaluate(
                self.student,
                self.val,
                metric=self.metric,
                transform=self._objective.transform,
                device=self._fabric.device,
                stop=self.stop,
            )
        return self._fabric.broadcast(metrics) if self._fabric.world_size > 1 else metrics

    def _emit(self, event: Any) -> Any:
        for callback in self.callbacks:
            callback(event)
        return event

    def _stop_asked(self) -> bool:
        """Whether to end; once yes, always yes, even if somebody clears the event."""
        self._stopping = self._stopping or (self.stop is not None and self.stop.is_set())
        return self._stopping

    # One batch --------------------------------------------------------------------------------------------------------

    def _read(self, raw: Any, number: int) -> Batch:
        batch = read_batch(raw, views=self.views)
        check_finite(batch, f"epoch {self._state.epoch}, batch {number}")
        return batch

    def _given(self, batch: Batch) -> Given:
        """Everything the objective may look at, on the device, before the student has run."""
        at = self._state
        fault = None
        if batch.labels is not None and not batch.labels.is_floating_point():
            fault = label_fault(batch.labels, self._classes)
            batch = replace(batch, labels=batch.labels.long())
        local = batch.to(self._fabric.device)
        for method in self.methods:
            local = method.on_batch(local, self._generator)
            if local.size != batch.size:
                raise ValueError(
                    f"on_batch of {method.name!r} must keep the number of samples, {batch.size}, got {local.size}."
                )
        x, labels, view = local.joined()
        logits, features = self._teacher(local, x)
        index = batch.index.repeat(self.views) if batch.index is not None and self.views > 1 else batch.index
        signals = {
            "teacher_logits": logits,
            "teacher_features": features,
            "labels": labels,
            "inputs": x,
            "index": index.to(self._fabric.device) if index is not None else None,
            "view": view,
            "epoch": at.epoch,
            "step": at.step,
            "progress": min(1.0, at.step / self._total_steps),
            "generator": self._generator,
        }
        return Given(x, signals, fault)

    # Before the first step --------------------------------------------------------------------------------------------

    def _check_models(self) -> None:
        """Refuse what would leak the teacher, and a method that needs a teacher where there is none."""
        self._wants_logits = any(m.needs.teacher_logits for m in self.methods)
        for role, model in (("student", self.student), ("teacher", self.teacher)):
            if not isinstance(model, nn.Module) and not (role == "teacher" and model is None):
                raise TypeError(f"{role} must be a torch.nn.Module, got {describe(model)}.")
            if model is not None and any(p.is_meta for p in model.parameters()):
                raise ValueError(f"the {role} is on the device 'meta', where tensors have no values: load its weights.")
        if self.teacher is None:
            for m in self.methods:
                if m.needs.teacher_logits or m.needs.class_means or m.teacher_taps:
                    raise ValueError(f"method {m.name!r} needs a teacher, got teacher=None.")
            return
        own = {id(p) for p in self.teacher.parameters()}
        if self.teacher is self.student or any(id(p) in own for p in self.student.parameters()):
            raise ValueError("teacher and student share parameters: give the teacher as a copy (copy.deepcopy).")

    def _prepare(self, stack: ExitStack) -> None:
        """From arguments to a state in which :meth:`_train_epoch` can run; ``stack`` undoes what must be undone."""
        from lightning.fabric import Fabric

        if self._fabric_options["precision"] == "16-mixed" and not torch.cuda.is_available():
            raise ValueError("precision '16-mixed' needs a CUDA device, use 'bf16-mixed' on a CPU.")
        checkpoint = self._find_checkpoint()
        self._fabric = fabric = Fabric(**self._fabric_options)
        fabric.launch()
        if fabric.world_size > 1:
            leave_process_group_at_exit()
        if self.checkpoint_dir is not None and fabric.is_global_zero:
            check_writable(self.checkpoint_dir)
        seed_everything(self.seed)
        self._generator = torch.Generator(device=fabric.device).manual_seed(self.seed)
        for module in (self.student, self.teacher, *self.methods):
            if module is not None:
                module.to(fabric.device)
        student_transform = self._transform(self.student_transform, self.student)
        teacher_transform = self._transform(self.teacher_transform, self.teacher)
        if self.teacher is not None:
            stack.enter_context(Untouched(self.teacher, self.teacher_train_mode))
        sample = self._sample_batch()
        self._setup_methods(sample, student_transform, teacher_transform)
        self._loader = self._prepare_loader(sample)
        self._teacher = self._prepare_teacher(stack, teacher_transform)
        taps = resolved(self.student, [t for m in self.methods for t in m.student_taps])
        tapped = stack.enter_context(Taps(self.student, taps)) if taps else None
        student = torch.compile(self.student) if self.compile else self.student
        self._objective = Objective(student, self.methods, student_transform, tapped, self.ce_weight)
        stack.callback(self.student.eval)
        self._objective.class_means = (
            checkpoint["class_means"] if checkpoint is not None else self._class_means(teacher_transform)
        )
        self._objective.class_means = [None if m is None else m.to(fabric.device) for m in self._objective.class_means]
        self._total_steps = self.epochs * math.ceil(self._length / self.accumulate)
        self._raw_optimizer, self._scheduler = self._prepare_optimizer()
        seed_everything(self.seed + fabric.global_rank)  # whatever setup() drew: every method sees the same batches
        self._model, self._optimizer = fabric.setup(self._objective, self._raw_optimizer)
        self._last_checkpoint: Path | None = None
        if checkpoint is not None:
            self._restore(checkpoint)

    def _transform(self, given: Callable[[Any], Any] | None, model: nn.Module | None) -> Callable[[Any], Any]:
        transform = given if given is not None else input_normalization(model)
        return transform.to(self._fabric.device) if isinstance(transform, nn.Module) else transform

    def _sample_batch(self) -> Batch:
        """A few samples, drawn without leaving a trace in any random state."""
        loader = self.train
        with preserved_rng(getattr(loader, "generator", None)):
            if isinstance(loader, DataLoader) and _has_positions(loader.dataset) and loader.batch_sampler is not None:
                size = min(_SAMPLE, len(cast(Sized, loader.dataset)))
                one = self.views == 1 and getattr(loader.dataset, "views", None) is not None
                items = [loader.dataset[(i, 0) if one else i] for i in range(size)]
                raw = loader.collate_fn(items) if size else None
            else:
                raw = next(iter(loader), None)
        if raw is None:
            raise ValueError("the training loader is empty.")
        batch = read_batch(raw, views=self.views)
        if batch.labels is None:
            for m in self.methods:
                if m.needs.labels:
                    raise ValueError(f"method {m.name!r} needs labels, but the batches have none: give (x, y).")
        return batch

    @torch.no_grad()
    def _setup_methods(self, sample: Batch, student_transform: Any, teacher_transform: Any) -> None:
        """Check the models on a sample, then let the methods choose taps and build what they learn."""
        x = sample.to(self._fabric.device).joined()[0]
        self._check_range(x, student_transform, teacher_transform)
        with preserved_rng(), evaluating(self.student):
            logits = self.student(student_transform(x))
        if not isinstance(logits, Tensor) or logits.ndim < 2:
            raise ValueError(f"the student must return logits (N, C, ...), got {describe(logits)}.")
        self._classes = logits.shape[1]
        if self.teacher is not None and self._wants_logits:
            with preserved_rng():
                theirs = self.teacher(teacher_transform(x))
            strict = all(m.needs.same_classes for m in self.methods if m.needs.teacher_logits)
            if not isinstance(theirs, Tensor) or (strict and theirs.shape[1:2] != logits.shape[1:2]):
                raise ValueError(
                    f"the student has {self._classes} classes and the teacher answers {describe(theirs)}: "
                    "logit distillation needs the same classes in the same order."
                )
        self._check_known_labels()
        own = {id(p) for p in self.teacher.parameters()} if self.teacher is not None else set()
        for method in self.methods:
            with torch.enable_grad():
                method.setup(self.student, self.teacher, x)
            method.to(self._fabric.device)
            if method.teacher_taps and self.teacher is None:
                raise ValueError(f"method {method.name!r} needs a teacher, got teacher=None.")
            if own & {id(p) for p in method.parameters()}:
                raise ValueError(f"method {method.name!r} holds the teacher: it would be trained and saved with it.")
        self._check_last_batch(x)

    def _check_range(self, x: Any, *transforms: Any) -> None:
        given = (self.student_transform, self.teacher_transform)
        if isinstance(x, Tensor) and x.dtype == torch.uint8 and None in given:
            raise ValueError(
                "images must be floating, in [0, 1], got uint8: divide them by 255 in the data set or "
                "pass student_transform and teacher_transform that do."
            )
        automatic = any(isinstance(t, Normalize) and g is None for t, g in zip(transforms, given, strict=True))
        if automatic and isinstance(x, Tensor) and (x.min() < -0.5 or x.max() > 1.5):
            raise ValueError(
                f"images must be in [0, 1], got [{x.min().item():.3g}, {x.max().item():.3g}]: the model's "
                "pretrained_cfg normalises them. If the loader has done that already, pass "
                "student_transform=nn.Identity() and teacher_transform=nn.Identity()."
            )

    def _check_known_labels(self) -> None:
        """Labels that the dataset lists are checked at once, all others batch by batch."""
        dataset = getattr(self.train, "dataset", None)
        labels = (
            dataset.tensors[1]
            if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1
            else getattr(dataset, "targets", None)
        )
        weight = self.ce_weight if self.ce_weight is not None else self.methods[0].knob.ce_weight
        if labels is None or not weight:
            return
        labels = torch.as_tensor(labels)
        fault = None if labels.is_floating_point() else label_fault(labels, self._classes)
        if fault:
            raise ValueError(fault)

    def _check_last_batch(self, x: Any) -> None:
        """Whether the methods can do with the smallest batch, and the student's batch norm if that has one sample."""
        loader = self.train
        if not isinstance(loader, DataLoader) or not loader.batch_size or not isinstance(loader.sampler, Sized):
            return
        rest = 0 if loader.drop_last else len(loader.sampler) % loader.batch_size
        smallest = rest or loader.batch_size
        for m in self.methods:
            if smallest < m.min_batch():
                advice = "pass drop_last=True to the training loader, or another" if rest else "use a larger"
                raise ValueError(
                    f"method {m.name!r} needs batches of at least {m.min_batch()} samples, but the "
                    f"{'last' if rest else 'batch size'} {'has' if rest else 'is'} {smallest}: {advice} "
                    "batch size."
                )
        if smallest > 1 or not isinstance(x, Tensor) or self.views > 1:
            return
        norms = [m for m in self.student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        saved = [(b, b.clone()) for m in norms for b in m.buffers()]
        flags = [(m, m.training) for m in self.student.modules()]
        try:
            with preserved_rng(), BatchNormAdvice():
                self.student.train()
                self.student(self._transform(self.student_transform, self.student)(x[:1]))
        finally:
            for buffer, value in saved:
                buffer.copy_(value)
            for module, training in flags:
                module.training = training

    def _prepare_loader(self, sample: Batch) -> Iterable[Any]:
        """The loader with sample positions where they are needed, sharded over processes, restartable when saving."""
        loader, fabric = self.train, self._fabric
        index = sample.index is None and (self.cache is not None or any(m.needs.index for m in self.methods))
        if not isinstance(loader, DataLoader):
            if index or self.cache is not None or fabric.world_size > 1:
                raise ValueError(
                    "a cache, sample indices and several devices need a torch DataLoader over a map-style "
                    f"dataset, got {type(loader).__name__}."
                )
            return loader
        sampler: DistributedSampler | None = None
        if fabric.world_size > 1 and not isinstance(loader.sampler, DistributedSampler):
            if loader.batch_size is None:
                raise ValueError("several devices need a DataLoader with batch_size, or its own DistributedSampler.")
            sampler = DistributedSampler(
                loader.dataset,
                fabric.world_size,
                fabric.global_rank,
                seed=self.seed,
                shuffle=isinstance(loader.sampler, RandomSampler),
                drop_last=loader.drop_last,
            )
        fresh = loader.persistent_workers and self.checkpoint_dir is not None
        if not (index or sampler is not None or fresh):
            return loader
        rebuilt = rebuild_loader(loader, index=index, sampler=sampler, persistent_workers=False if fresh else None)
        self._length = len(rebuilt)
        return rebuilt

    def _prepare_teacher(self, stack: ExitStack, transform: Any) -> TeacherAnswers:
        """A teacher that answers for a batch: from its cache (made now if need be), by running, or not at all."""
        if self.teacher is None:
            return TeacherAnswers(None, self._fabric)
        taps = resolved(self.teacher, [t for m in self.methods for t in m.teacher_taps])
        means = resolved(self.teacher, [m.class_mean_tap() for m in self.methods if m.needs.class_means])
        if not (self._wants_logits or taps or (means and self.cache is not None)):
            return TeacherAnswers(None, self._fabric)
        answer = TeacherAnswers(
            self.teacher, self._fabric, transform, logits=self._wants_logits, runs=bool(self._wants_logits or taps)
        )
        if self.cache is not None:
            assert isinstance(self.train, DataLoader)
            dataset, kept = self.train.dataset, list(dict.fromkeys([*taps, *means]))
            options: dict[str, Any] = {"transform": transform, "collate_fn": self.train.collate_fn}
            if self._fabric.is_global_zero:
                before = self.cache.complete
                self.cache.build(
                    self.teacher,
                    dataset,
                    kept,
                    self._cache_views(dataset),
                    device=self._fabric.device,
                    batch_size=self.train.batch_size or 128,
                    num_workers=self.train.num_workers,
                    **options,
                )
                answer.forwards += 0 if before else len(self.cache) * self.cache.views
            self._fabric.barrier()
            answer.cache = self.cache
        elif taps:
            answer.tapped = stack.enter_context(Taps(self.teacher, taps))
        return answer

    def _cache_views(self, dataset: Any) -> int:
        return max(self.views, getattr(dataset, "views", 1))

    @torch.no_grad()
    def _class_means(self, transform: Any) -> list[Tensor | None]:
        """Mean teacher feature per class for each method that asks, over the training set as the loader gives it."""
        if not any(m.needs.class_means for m in self.methods):
            return [None] * len(self.methods)
        from .functional.prototypes import ClassMeanAccumulator

        assert self.teacher is not None
        names = [resolved(self.teacher, [m.class_mean_tap()])[0] if m.needs.class_means else "" for m in self.methods]
        wanted = list(dict.fromkeys(n for n in names if n))
        means = {name: ClassMeanAccumulator(self._classes) for name in wanted}
        reader = TeacherAnswers(self.teacher, self._fabric, transform, logits=False, runs=True)
        reader.cache = self._teacher.cache
        loader = self._loader if self._fabric.world_size == 1 else self.train
        with preserved_rng(self._loader_generator), ExitStack() as stack:
            if reader.cache is None:
                reader.tapped = stack.enter_context(Taps(self.teacher, wanted))
            for number, raw in enumerate(loader):
                batch = self._read(raw, number).to(self._fabric.device)
                x, labels, _ = batch.joined()
                if labels is None:
                    raise ValueError("class means need labels: give (x, y).")
                if fault := label_fault(labels, self._classes):
                    raise ValueError(fault)
                features = reader(batch, x)[1]
                for name, accumulator in means.items():
                    accumulator.update(features[name], labels.long())
        self._teacher.forwards += reader.forwards
        return [means[name].compute() if name else None for name in names]

    def _prepare_optimizer(self) -> tuple[Optimizer, Any]:
        student = [p for p in self.student.parameters() if p.requires_grad]
        extra = [g for m in self.methods for g in m.parameter_groups()]
        groups = [{"params": student}, *extra] if student else extra
        if not groups:
            raise ValueError("nothing to train: no parameter of the student requires a gradient.")
        optimizer = make_optimizer(self.optimizer, groups, extra, self.lr, self.weight_decay)
        own = {id(p) for p in self.teacher.parameters()} if self.teacher is not None else set()
        if any(id(p) in own for g in optimizer.param_groups for p in g["params"]):
            raise ValueError("the optimizer holds parameters of the teacher.")
        total_steps = self._total_steps
        if self.scheduler == "constant":
            return optimizer, None
        if self.scheduler == "cosine":
            return optimizer, torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))
            )
        if self.scheduler == "steps":
            return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(f * total_steps) for f in _STEPS])
        if callable(self.scheduler):
            return optimizer, self.scheduler(optimizer, total_steps)
        raise ValueError(
            "scheduler must be 'cosine', 'steps', 'constant' or a callable(optimizer, total_steps), "
            f"got {self.scheduler!r}."
        )

    # Checkpoints ------------------------------------------------------------------------------------------------------

    @property
    def _loader_generator(self) -> torch.Generator | None:
        return getattr(self._loader, "generator", None)

    @property
    def _generators(self) -> tuple[torch.Generator | None, ...]:
        """The generators besides the global ones: the loader's, its sampler's, the objectives'."""
        sampler = getattr(getattr(self._loader, "sampler", None), "generator", None)
        return self._loader_generator, sampler, self._generator

    def _rng(self) -> dict[str, Any]:
        return capture_rng(*self._generators)

    def _set_rng(self, state: Mapping[str, Any]) -> None:
        restore_rng(state, *self._generators)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued."""
        return {
            "methods": [m.name for m in self.methods],
            "knobs": [m.settings for m in self.methods],
            "seed": self.seed,
            "accumulate": self.accumulate,
            "batches per epoch": self._length,
            "processes": self._fabric.world_size,
        }

    def _find_checkpoint(self) -> dict[str, Any] | None:
        folder = self.checkpoint_dir
        if self.resume is False:
            if folder is not None and list_checkpoints(folder):
                raise CheckpointError(
                    f"{folder} holds checkpoints of another run: pass resume=True (or 'auto') to go "
                    "on with it, or choose another folder.",
                    folder,
                )
            return None
        if self.resume == "auto":
            if folder is None or not list_checkpoints(folder):
                return None
            return load_checkpoint(folder, fall_back=True)
        source = folder if self.resume is True else Path(self.resume)
        assert source is not None
        return load_checkpoint(newest_checkpoint(source))

    def _save(self) -> None:
        """Write everything a bit-identical continuation needs."""
        if self.checkpoint_dir is None:
            return
        at, fabric = self._state, self._fabric
        rng, epoch_rng = gathered(fabric, self._rng()), gathered(fabric, at.epoch_rng)
        if fabric.is_global_zero:
            state = {
                "identity": self._identity(),
                "epochs": self.epochs,
                "student": self.student.state_dict(),
                "methods": [m.state_dict() for m in self.methods],
                "optimizer": self._raw_optimizer.state_dict(),
                "scheduler": self._scheduler.state_dict() if self._scheduler is not None else {},
                "precision": fabric.strategy.precision.state_dict(),
                "rng": rng,
                "epoch_rng": epoch_rng,
                "teacher_forwards": self._teacher.forwards,
                "class_means": self._objective.class_means,
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
        saved, now = checkpoint["identity"], self._identity()
        differs = [f"{k} (saved {saved.get(k)}, now {v})" for k, v in now.items() if saved.get(k) != v]
        if differs:
            raise ValueError(f"the checkpoint belongs to another training: it differs in {', '.join(differs)}.")
        self.student.load_state_dict(checkpoint["student"])
        for method, state in zip(self.methods, checkpoint["methods"], strict=True):
            method.load_state_dict(state)
        self._raw_optimizer.load_state_dict(checkpoint["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(checkpoint["scheduler"])
        self._fabric.strategy.precision.load_state_dict(checkpoint["precision"])
        rank = self._fabric.global_rank
        self._state = _Progress.from_state(checkpoint["progress"], checkpoint["epoch_rng"][rank])
        self._teacher.forwards = checkpoint["teacher_forwards"]
        self._set_rng(checkpoint["rng"][rank])

    # Afterwards -------------------------------------------------------------------------------------------------------

    def result(self) -> DistillResult:
        """What was reached so far; complete when :meth:`run` has been read to its end."""
        if not self._begun:
            raise RuntimeError("nothing was trained yet: read run() first, or call distill().")
        at, name = self._state, metric_name(self.metric)
        last = at.history[-1].metrics.get(name) if at.history else None
        teacher = getattr(self, "_teacher", None)
        return DistillResult(
            student=self.student,
            method="+".join(m.name for m in self.methods),
            history=list(at.history),
            last_metric=last,
            best_metric=at.best_metric,
            best_epoch=at.best_epoch,
            metric_name=name,
            best_state=at.best_state,
            teacher_forwards=teacher.forwards if teacher is not None else 0,
            steps=at.step,
            seconds=at.total_seconds,
            stopped=at.epoch < self.epochs,
            checkpoint_dir=self.checkpoint_dir,
            settings=self.settings,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments and knobs as plain values, for run records."""
        optimizer = (
            self.optimizer
            if isinstance(self.optimizer, str)
            else "adamw"
            if self.optimizer is None
            else getattr(self.optimizer, "__name__", type(self.optimizer).__name__)
        )
        return {
            "methods": {m.name: m.settings for m in self.methods},
            "epochs": self.epochs,
            "optimizer": optimizer,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "scheduler": self.scheduler
            if isinstance(self.scheduler, str)
            else getattr(self.scheduler, "__name__", type(self.scheduler).__name__),
            "precision": self._fabric_options["precision"],
            "accumulate": self.accumulate,
            "clip_grad": self.clip_grad,
            "ce_weight": self.ce_weight,
            "seed": self.seed,
            "batches_per_epoch": self._length,
            "cached_teacher": self.cache is not None,
            "teacher_train_mode": self.teacher_train_mode,
        }


def distill(
    teacher: nn.Module | None,
    student: nn.Module,
    method: str | Method | Sequence[str | Method],
    train: Iterable[Any],
    val: Iterable[Any] | None = None,
    *,
    epochs: int,
    **options: Any,
) -> DistillResult:
    """Train ``student`` with ``method`` and return the result.

    Args:
        teacher: any module giving logits ``(N, C, ...)``; ``None`` for methods that need none. It is moved to the
            device.
        student: any module giving logits; trained in place.
        method: a name (``list_objectives()``), a :class:`kdcore.method.Method`, or a list of them whose terms are added
            up; cross-entropy is then weighted by the first one's ``ce_weight``.
        train: a loader with a length, giving batches as :func:`kdcore.inputs.read_batch` accepts them. Where sample
            indices are needed and not given, they are the positions in its map-style dataset.
        val: labelled batches for the metric; without it the last epoch counts as the best.
        epochs: passes over ``train``.
        **options: the keyword arguments of :class:`Distiller`:

            optimizer: ``None`` or ``"adamw"``, ``"sgd"`` (momentum 0.9), a callable taking parameter groups, or an
                optimizer over the student's parameters, to which the method's groups are added.
            lr, weight_decay: for optimizers made here; 1e-3, and torch's 0.01 for AdamW or 5e-4 for SGD.
            scheduler: ``"cosine"`` to zero over all steps, ``"steps"`` (a tenth of it after 62.5, 75 and 87.5 %),
                ``"constant"``, or ``callable(optimizer, total_steps)``.
            precision: ``"32-true"`` (what the tensors are), ``"bf16-mixed"``, ``"16-mixed"`` (CUDA).
            accumulate: batches per optimizer step, weighted as one large batch.
            accelerator, devices, strategy: as for Lightning Fabric; several devices run under ``torchrun``.
            clip_grad: largest gradient 2-norm.
            callbacks: called with every event before it is yielded.
            checkpoint_dir, checkpoint_every: where to save, each epoch and every so many steps.
            resume: ``True`` (newest checkpoint of ``checkpoint_dir``), ``"auto"`` (the same if there is one; a damaged
                one is passed over with a warning), or a file or folder.
            cache: a :class:`kdcore.cache.TeacherCache` or folder; built on first use, after which no epoch runs the
                teacher.
            seed: of weights made by the method, shuffling, augmentation, dropout.
            metric: ``(logits, labels) -> float``, higher is better; accuracy.
            ce_weight: replaces the method's own weight of cross-entropy.
            student_transform, teacher_transform: applied to ``x`` before each model; ``None``: what its
                ``pretrained_cfg`` asks for, given images in [0, 1]; ``nn.Identity()``: nothing.
            teacher_train_mode: batch statistics in the teacher's batch norm (its buffers are restored afterwards).
            stop: an event; once set, training ends within one optimizer step and can be resumed.
            compile: ``torch.compile`` the student.

    Raises:
        NonFiniteLossError, ValueError, CheckpointError: see :meth:`Distiller.run`.
    """
    distiller = Distiller(teacher, student, method, train, val, epochs=epochs, **options)
    for _ in distiller.run():
        pass
    return distiller.result()


def _has_positions(dataset: Any) -> bool:
    """Whether samples can be asked for by position (a map-style dataset)."""
    return not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


@dataclass
class _Progress:
    """Where a training stands; everything but the random states, which a checkpoint holds per process."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that were used
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    last_rate: float = 0.0
    total_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    best_metric: float | None = None
    best_epoch: int | None = None
    best_state: dict[str, Tensor] = field(default_factory=dict)
    epoch_rng: dict[str, Any] | None = None

    def add(self, terms: dict[str, float], samples: int, batches: int, seconds: float) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples
        self.batch, self.samples, self.seconds = self.batch + batches, self.samples + samples, self.seconds + seconds
        self.last_rate = samples / max(seconds, 1e-9)
        self.total_seconds += seconds

    def next_epoch(self, event: Epoch) -> None:
        self.history.append(event)
        self.epoch, self.batch, self.samples, self.seconds, self.sums = self.epoch + 1, 0, 0, 0.0, {}
        self.epoch_rng = None

    def state_dict(self) -> dict[str, Any]:
        state = {k: v for k, v in vars(self).items() if k not in ("epoch_rng", "history")}
        return state | {"history": [asdict(e) for e in self.history]}

    @classmethod
    def from_state(cls, state: dict[str, Any], epoch_rng: dict[str, Any] | None) -> _Progress:
        return cls(**(state | {"history": [Epoch(**e) for e in state["history"]], "epoch_rng": epoch_rng}))


__all__ = ["DistillResult", "Distiller", "Epoch", "NonFiniteLossError", "Step", "accuracy", "distill", "evaluate"]
