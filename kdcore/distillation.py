"""A distillation as a :class:`~kdcore.engine.Training`: teachers, a student and objectives as players of one stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, TensorDataset

from ._distillation_checks import (
    answer_of,
    as_methods,
    check_labelled,
    check_last_batch,
    check_models,
    check_range,
    check_training_labels,
    check_validation,
    loader_length,
    sample_batch,
)
from .cache import TeacherCache
from .checkpoints import preserved_rng
from .engine import Learn, Run, Stage, Training
from .engine.optim import optimizer_name
from .functional.checks import describe
from .inputs import Batch, Paired, check_finite, input_normalization, read_batch, rebuild_loader
from .labels import class_labels, labels_hash
from .method import Answer, Method, Signals, TrainingOutputs
from .metrics import Metrics, evaluate, is_better, named_metrics
from .outputs import as_float32, logits_of
from .taps import Taps, evaluating
from .teachers import OneTeacher, Teachers, named_teachers, resolved, sub_cache, taps_of


class StepInputs:
    """What the objective gets per batch, everything but what the student does with it."""

    def __init__(self, x: Any, signals: dict[str, Any], label_fault: str | None) -> None:
        self.x, self.signals, self.label_fault = x, signals, label_fault


@dataclass(frozen=True)
class Ready:
    """What a distillation made of its arguments before the first step; apart, as none of it is a player.

    ``loader`` gives sample positions where they are needed; ``forward`` is the student, compiled where that was asked
    for; ``transform`` comes before it; ``tapped`` reads its layers.
    """

    loader: Iterable[Any]
    forward: Callable[[Any], Any]
    transform: Callable[[Any], Any]
    tapped: Taps | None


class Distillation(Training):
    """Teacher(s), student and methods as players of one stage; see :func:`distill` for the arguments."""

    frozen = ("teachers",)
    run: Run
    ready: Ready
    answering: dict[str, OneTeacher]
    counted: int

    def __init__(
        self,
        teacher: Teachers,
        student: nn.Module,
        method: str | Method | Sequence[str | Method],
        train: Iterable[Any],
        val: Iterable[Any] | None,
        *,
        epochs: int,
        learn: Learn,
        cache: TeacherCache | str | Path | None = None,
        metric: Metrics | None = None,
        loss: Callable[[Any, Tensor], Any] | None = None,
        readout: Callable[[Any], Tensor] | None = None,
        ce_weight: float | None = None,
        student_transform: Callable[[Any], Any] | None = None,
        teacher_transform: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        teachers = named_teachers(teacher)
        self.objectives = as_methods(method)
        self.views = max(m.needs.views for m in self.objectives)
        self.length = loader_length(train)
        check_models(teachers, student, self.objectives)
        self.teachers, self.methods = nn.ModuleDict(teachers), nn.ModuleList(self.objectives)
        self.student = student
        self.train_data, self.val, self.by_name = train, val, isinstance(teacher, Mapping)
        self.epochs, self.learn, self.cache, self.loss = epochs, learn, cache, loss
        self.metrics, self.ce_weight, self.compiles = named_metrics(metric), ce_weight, compile
        own = next((m for m in self.objectives if type(m).readout is not Method.readout), None)
        self.readout: Callable[[Any], Tensor] = own.readout if own is not None else readout or logits_of
        self.given_transforms = (student_transform, teacher_transform)  # in a tuple: they are no players
        self.name = "+".join(m.name for m in self.objectives)
        self.wants_logits = any(m.needs.teacher_logits for m in self.objectives)
        self.with_validation = any(m.needs.validation for m in self.objectives)
        if self.with_validation and val is None:
            needy = next(m for m in self.objectives if m.needs.validation)
            raise ValueError(f"method {needy.name!r} needs validation data, got val=None.")

    @property
    def teacher(self) -> nn.Module | None:
        """What methods get in ``setup``: the only teacher, a ``ModuleDict`` of several, or ``None``."""
        return self.teachers if len(self.teachers) > 1 else next(iter(self.teachers.values()), None)

    @classmethod
    def example(cls) -> Distillation:
        """KD from a perceptron to a smaller one on 20 random samples, with a validation set."""
        g = torch.Generator().manual_seed(0)
        x, y = torch.randn(20, 6, generator=g), torch.randint(3, (20,), generator=g)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            teacher = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
            student = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.2), nn.Linear(4, 3))
        train = DataLoader(TensorDataset(x, y), 5, shuffle=True)
        learn = Learn(players=("student", "methods"))
        return cls(teacher, student, "kd", train, [(x, y)], epochs=2, learn=learn)

    # The stage --------------------------------------------------------------------------------------------------------

    def stages(self) -> Iterator[Stage]:
        data = (
            Paired(self.ready.loader, self.val) if self.with_validation and self.val is not None else self.ready.loader
        )
        watch, metric = next(iter(self.metrics.items()))
        yield Stage(
            name="",
            data=data,
            step=self.step,
            learn=self.learn,
            epochs=self.epochs,
            evaluate=self.validate if self.val is not None else None,
            watch=watch,
            higher_is_better=is_better(metric),
        )

    def step(self, given: StepInputs, run: Run) -> dict[str, Tensor]:
        """The named terms of all objectives, and what is learnt from labels."""
        tapped = self.ready.tapped
        if tapped is not None:
            tapped.clear()
        output = as_float32(self.ready.forward(self.ready.transform(given.x)))
        features = dict(tapped.features) if tapped is not None else {}
        base = Signals(
            student_logits=self.readout(output),
            student_output=output,
            student_features=features,
            task_loss=self.loss,
            fixed_ce_weight=self.ce_weight,
            **given.signals,
        )
        self.signals = [base if m.needs.teacher_logits else replace(base, teacher_logits=None) for m in self.objectives]
        terms: dict[str, Tensor] = {}
        for method, s in zip(self.objectives, self.signals, strict=True):
            for name, term in method(s).items():
                if name in terms or name == "ce":
                    raise ValueError(
                        f"two parts of the objective are called {name!r}: rename a term of {type(method).__name__}."
                    )
                terms[name] = term
        self._add_supervised(terms, given)
        return terms

    def _add_supervised(self, terms: dict[str, Tensor], given: StepInputs) -> None:
        first, s = self.objectives[0], self.signals[0]
        if given.label_fault and self.loss is None and type(first).supervised is Method.supervised:
            weight = s.fixed_ce_weight if s.fixed_ce_weight is not None else first.ce_weight(s)
            if weight:
                raise ValueError(given.label_fault)
        learnt = first.supervised(s)
        named = learnt if isinstance(learnt, Mapping) else {} if learnt is None else {"ce": learnt}
        for name, term in named.items():
            if name in terms:
                raise ValueError(f"two parts of the objective are called {name!r}: rename a term of {first.name!r}.")
            terms[name] = term
        if not terms:
            raise ValueError(
                f"nothing to learn from: {first.name!r} gave no terms, and cross-entropy has no weight or no labels."
            )

    def validate(self) -> dict[str, float]:
        """The metrics of the student on the validation data."""
        assert self.val is not None
        with self.run.fabric.autocast():
            return evaluate(
                self.student,
                self.val,
                metric=self.metrics,
                readout=self.readout,
                transform=self.ready.transform,
                device=self.run.device,
                stop=self.run.stop,
            )

    # One batch --------------------------------------------------------------------------------------------------------

    def read(self, raw: Any, number: int, run: Run) -> tuple[Batch, Batch | None]:
        """The batch in one form, and the validation batch beside it, both known to be finite."""
        raw, beside = raw if self.with_validation else (raw, None)
        batch = self._read(raw, number)
        return batch, read_batch(beside) if beside is not None else None

    def _read(self, raw: Any, number: int) -> Batch:
        batch = read_batch(raw, views=self.views)
        check_finite(batch, f"epoch {self.run.epoch}, batch {number}")
        return batch

    def size(self, batch: tuple[Batch, Batch | None]) -> int:
        return batch[0].size

    def sample_ids(self, batch: tuple[Batch, Batch | None]) -> list[int] | None:
        return batch[0].index.tolist() if batch[0].index is not None else None

    def to_step(self, batches: tuple[Batch, Batch | None], run: Run) -> StepInputs:
        """Everything the objectives may look at, on the device, before the student has run."""
        batch, beside = batches
        fault = None
        if batch.labels is not None and self.loss is None:
            try:
                batch = replace(
                    batch, labels=class_labels(batch.labels, self.form.expand(batch.size, *self.form.shape[1:]))
                )
            except ValueError as error:
                fault = str(error)
        local = batch.to(run.device)
        for method in self.objectives:
            local = method.on_batch(local, run.generator)
            if local.size != batch.size:
                raise ValueError(
                    f"on_batch of {method.name!r} must keep the number of samples, {batch.size}, got {local.size}."
                )
        x, labels, view = local.joined()
        answers = {name: teacher(local, x) for name, teacher in self.answering.items()}
        index = batch.index.repeat(self.views) if batch.index is not None and self.views > 1 else batch.index
        signals = {
            "teacher_logits": self._teacher_logits(answers),
            "teacher_features": next(iter(answers.values())).features if len(answers) == 1 else {},
            "teachers": answers,
            "labels": labels,
            "inputs": x,
            "index": index.to(run.device) if index is not None else None,
            "view": view,
            "epoch": run.epoch,
            "step": run.step,
            "progress": run.progress,
            "generator": run.generator,
            "validation": beside.to(run.device) if beside is not None else None,
        }
        self._count()
        return StepInputs(x, signals, fault)

    def _count(self) -> None:
        """Tell the run of the samples that teachers were run on since the last time."""
        done = sum(t.forwards for t in self.answering.values())
        self.run.teacher_forwards += done - self.counted
        self.counted = done

    def _teacher_logits(self, answers: Mapping[str, Answer]) -> Tensor | None:
        """Of one teacher its logits, of a sequence all of them ``(M, N, C)``, of named ones none."""
        if not self.wants_logits or not answers:
            return None
        if len(answers) == 1:
            return next(iter(answers.values())).logits
        if self.by_name:
            return None
        return torch.stack([a.logits for a in answers.values() if a.logits is not None])

    def on_epoch_start(self, run: Run) -> None:
        for method in self.objectives:
            method.on_epoch_start(run.epoch)

    def on_step_end(self, terms: Mapping[str, float], run: Run) -> None:
        for method, signals in zip(self.objectives, self.signals, strict=True):
            method.on_step_end(signals)
            method.on_loss(terms, signals)
        self.signals = []

    def on_epoch_end(self, run: Run) -> None:
        for method in self.objectives:
            method.on_epoch_end(run.epoch)

    # Before the first step --------------------------------------------------------------------------------------------

    def begin(self, run: Run, stack: ExitStack) -> None:
        """Look at a sample, let methods choose layers and build what they learn, make loader, teachers and caches."""
        self.run, self.signals, self.counted = run, [], 0
        given_student, given_teacher = self.given_transforms
        transform = self._transform(given_student, self.student)
        transforms = {
            name: self._transform(
                given_teacher.get(name) if isinstance(given_teacher, Mapping) else given_teacher, model
            )
            for name, model in self.teachers.items()
        }
        sample = sample_batch(self.train_data, self.views)
        check_labelled(sample, self.objectives)
        self._setup_methods(sample, transform, transforms)
        loader = self._prepare_loader(sample)
        self.answering = self._prepare_teachers(stack, transforms)
        taps = resolved(self.student, [t for m in self.objectives for t in m.student_taps])
        tapped = stack.enter_context(Taps(self.student, taps)) if taps else None
        forward = torch.compile(self.student) if self.compiles else self.student
        self.ready = Ready(loader, forward, transform, tapped)
        if not run.resuming:
            self._look_ahead(transforms)
        self._count()

    def _transform(self, given: Callable[[Any], Any] | None, model: Any) -> Callable[[Any], Any]:
        transform = given if given is not None else input_normalization(model)
        return transform.to(self.run.device) if isinstance(transform, nn.Module) else transform

    @torch.no_grad()
    def _setup_methods(self, sample: Batch, transform: Any, transforms: Mapping[str, Any]) -> None:
        """Check the models on a sample, then let the methods choose taps and build what they learn."""
        x = sample.to(self.run.device).joined()[0]
        check_range(x, self.given_transforms, [transform, *transforms.values()])
        for method in self.objectives:
            with torch.enable_grad():
                self.student = method.wrap_student(self.student, x).to(self.run.device)
        with preserved_rng(), evaluating(self.student):
            output = answer_of("student", self.student, transform(x))
        try:
            logits = self.readout(output)
        except ValueError as error:
            raise ValueError(f"the student must return logits (N, C, ...): {error}") from error
        if not isinstance(logits, Tensor) or (logits.ndim < 2 and self.loss is None):
            raise ValueError(f"the student must return logits (N, C, ...), got {describe(logits)}.")
        self.classes = logits.shape[1] if logits.ndim > 1 else 1
        self.form = logits[:1].detach()
        strict = all(m.needs.same_classes for m in self.objectives if m.needs.teacher_logits)
        for name, model in self.teachers.items() if self.wants_logits else ():
            with preserved_rng():
                said = answer_of(f"teacher {name!r}" if self.by_name else "teacher", model, transforms[name](x))
            theirs = logits_of(said)
            if strict and theirs.shape[1:2] != logits.shape[1:2]:
                raise ValueError(
                    f"the student has {self.classes} classes and the teacher answers {describe(theirs)}: "
                    "logit distillation needs the same classes in the same order."
                )
        if self.loss is None:
            check_training_labels(self.objectives[0], self.ce_weight, sample, logits, self.train_data)
        theirs_ids = {id(p) for p in self.teachers.parameters()}
        for method in self.objectives:
            with torch.enable_grad():
                method.setup(self.student, self.teacher, x)
            method.to(self.run.device)
            if method.teacher_taps and not self.teachers:
                raise ValueError(f"method {method.name!r} needs a teacher, got teacher=None.")
            if theirs_ids & {id(p) for p in method.parameters()}:
                raise ValueError(f"method {method.name!r} holds the teacher: it would be trained and saved with it.")
        check_last_batch(self.train_data, self.objectives, self.student, transform, x, self.views)
        if self.val is not None:
            check_validation(self.val, self.student, self.metrics, self.readout, transform)

    def _prepare_loader(self, sample: Batch) -> Iterable[Any]:
        """The loader with sample positions where they are needed, sharded over processes, restartable when saving."""
        loader, fabric = self.train_data, self.run.fabric
        index = sample.index is None and (self.cache is not None or any(m.needs.index for m in self.objectives))
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
            shuffle = isinstance(loader.sampler, RandomSampler)
            sampler = DistributedSampler(
                loader.dataset,
                fabric.world_size,
                fabric.global_rank,
                seed=self.run.seed,
                shuffle=shuffle,
                drop_last=loader.drop_last,
            )
        fresh = loader.persistent_workers and self.run.checkpoint_dir is not None
        if not (index or sampler is not None or fresh):
            return loader
        rebuilt = rebuild_loader(loader, index=index, sampler=sampler, persistent_workers=False if fresh else None)
        self.length = len(rebuilt)
        return rebuilt

    def _prepare_teachers(self, stack: ExitStack, transforms: Mapping[str, Any]) -> dict[str, OneTeacher]:
        """Teachers that answer for a batch: from a cache (made now if need be), by running, or not at all."""
        teachers: dict[str, nn.Module] = dict(self.teachers.items())
        caches = sub_cache(self.cache, teachers)
        self.looking = {n: self._looks_ahead(n, model) for n, model in teachers.items()}
        found = {}
        for name, model in teachers.items():
            taps = resolved(model, [t for m in self.objectives for t in taps_of(m, name)])
            ahead = self.looking[name][1]
            runs = bool(self.wants_logits or taps)
            found[name] = answer = OneTeacher(
                model, self.run.fabric, transforms[name], logits=self.wants_logits, taps=taps, runs=runs
            )
            if name in caches and (runs or ahead):
                self._build_cache(answer, caches[name], list(dict.fromkeys([*taps, *ahead])))
            elif taps:
                answer.tapped = stack.enter_context(Taps(model, taps))
        return found

    def _looks_ahead(self, name: str, model: nn.Module) -> tuple[bool, list[str]]:
        """Whether a method looks at this teacher's answers before the start, and at which layers."""
        ahead = [m for m in self.objectives if type(m).prepare is not Method.prepare]
        return bool(ahead), resolved(model, [t for m in ahead for t in taps_of(m, name)])

    def _build_cache(self, answer: OneTeacher, cache: TeacherCache, taps: list[str]) -> None:
        assert isinstance(self.train_data, DataLoader)
        loader, fabric = self.train_data, self.run.fabric
        if fabric.is_global_zero:
            before = cache.complete
            cache.build(
                answer.model,
                loader.dataset,
                taps,
                max(self.views, getattr(loader.dataset, "views", 1)),
                device=fabric.device,
                batch_size=loader.batch_size or 128,
                num_workers=loader.num_workers,
                transform=answer.transform,
                collate_fn=loader.collate_fn,
            )
            answer.forwards += 0 if before else len(cache) * cache.views
        fabric.barrier()
        answer.cache = cache

    @torch.no_grad()
    def _look_ahead(self, transforms: Mapping[str, Any]) -> None:
        """Let methods see the teacher's answers to the training set (the only teacher's, or the first one's)."""
        ahead = [m for m in self.objectives if type(m).prepare is not Method.prepare]
        if not ahead:
            return
        if not self.teachers:
            raise ValueError(f"method {ahead[0].name!r} needs a teacher, got teacher=None.")
        name, answer = next(iter(self.answering.items()))
        reader = OneTeacher(
            answer.model,
            self.run.fabric,
            transforms[name],
            logits=any(m.needs.teacher_logits for m in ahead),
            taps=self.looking[name][1],
            runs=True,
        )
        reader.cache = answer.cache
        # with several processes every one reads the whole training set, not its share
        loader = self.ready.loader if self.run.fabric.world_size == 1 else self.train_data
        generator = getattr(loader, "generator", None)
        seen = TrainingOutputs(lambda: reader.outputs(loader, self._read, generator), self.classes)
        for method in ahead:
            method.prepare(seen)
            method.to(self.run.device)
        answer.forwards += reader.forwards

    # State ------------------------------------------------------------------------------------------------------------

    def parameter_groups(self, learn: Learn) -> list[dict[str, Any]]:
        """The student's parameters that want a gradient, then the groups of the methods."""
        student = [p for p in self.student.parameters() if p.requires_grad]
        extra = [g for m in self.objectives for g in m.parameter_groups()]
        return [{"params": student}, *extra] if student else extra

    def identity(self) -> dict[str, Any]:
        kept = ("optimizer", "lr", "weight_decay", "scheduler", "clip_grad", "ce_weight")
        return {
            "methods": [m.name for m in self.objectives],
            "knobs": [m.settings for m in self.objectives],
            **{k: v for k, v in self.settings.items() if k in kept},
            "batches per epoch": self.length,
            "training labels": labels_hash(self.train_data),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments and knobs as plain values, for run records."""
        return {
            "methods": {m.name: m.settings for m in self.objectives},
            "epochs": self.epochs,
            "optimizer": optimizer_name(self.learn.optimizer),
            "lr": self.learn.lr,
            "weight_decay": self.learn.weight_decay,
            "scheduler": optimizer_name(self.learn.scheduler),
            "clip_grad": self.learn.clip_grad,
            "ce_weight": self.ce_weight,
            "batches_per_epoch": self.length,
            "cached_teacher": self.cache is not None,
        }
