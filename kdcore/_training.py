"""The parts of the training loop: the objective as one module, the teacher's answers, and what is checked on the way.

Private to :mod:`kdcore.distiller`, which is the door.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import TeacherCache
from .functional.checks import describe
from .inputs import Batch
from .method import Method, Signals, total
from .registry import create_method
from .taps import Taps, resolve_names

if TYPE_CHECKING:
    from torch.optim import Optimizer


class Given:
    """What the objective gets per batch; opaque to wrappers that cast or scatter the tensors they find in arguments."""

    def __init__(self, x: Any, signals: dict[str, Any], label_fault: str | None) -> None:
        self.x, self.signals, self.label_fault = x, signals, label_fault


class Objective(nn.Module):
    """Student and methods in one forward, so that one wrapper (autocast, DDP) covers everything that learns."""

    def __init__(
        self,
        student: Any,
        methods: Sequence[Method],
        transform: Callable[[Any], Any],
        taps: Taps | None,
        ce_weight: float | None,
    ) -> None:
        super().__init__()
        self.student, self.methods = student, nn.ModuleList(methods)
        self.transform, self.taps, self.fixed_ce_weight = transform, taps, ce_weight
        self.class_means: list[Tensor | None] = [None] * len(methods)
        self.reads_logits = [m.needs.teacher_logits for m in methods]
        self.names: tuple[str, ...] = ()
        self.signals: list[Signals] = []

    def forward(self, given: Given) -> tuple[Tensor, Tensor]:
        """Loss, and the values of its terms (detached) in the order of ``names``."""
        if self.taps is not None:
            self.taps.clear()
        logits = widened(self.student(self.transform(given.x)))
        features = dict(self.taps.features) if self.taps is not None else {}
        base = Signals(student_logits=logits, student_features=features, **given.signals)
        self.signals = [
            replace(base, class_means=means, teacher_logits=base.teacher_logits if reads else None)
            for means, reads in zip(self.class_means, self.reads_logits, strict=True)
        ]
        terms: dict[str, Tensor] = {}
        for method, s in zip(self.methods, self.signals, strict=True):
            for name, term in method(s).items():
                if name in terms or name == "ce":
                    raise ValueError(
                        f"two parts of the objective are called {name!r}: rename a term of {type(method).__name__}."
                    )
                if not isinstance(term, Tensor) or term.ndim:
                    raise ValueError(f"term {name!r} must be a scalar tensor, got {describe(term)}.")
                terms[name] = widened(term)
        self._add_cross_entropy(terms, given)
        self.names = tuple(terms)
        return total(terms.values()), torch.stack([t.detach().float() for t in terms.values()])

    def _add_cross_entropy(self, terms: dict[str, Tensor], given: Given) -> None:
        s = self.signals[0]
        first = self.methods[0]
        assert isinstance(first, Method)
        weight = self.fixed_ce_weight if self.fixed_ce_weight is not None else first.ce_weight(s)
        if weight and s.labels is not None:
            if given.label_fault:
                raise ValueError(given.label_fault)
            terms["ce"] = weight * F.cross_entropy(s.student_logits, s.labels)
        if not terms:
            raise ValueError(
                f"nothing to learn from: {first.name!r} gave no terms, and cross-entropy has no weight or no labels."
            )


class TeacherAnswers:
    """Answers for a batch by running the teacher or reading its cache, and counts the samples it was run on."""

    def __init__(
        self,
        model: nn.Module | None,
        fabric: Any,
        transform: Callable[[Any], Any] | None = None,
        *,
        logits: bool = False,
        runs: bool = False,
    ) -> None:
        self.model, self.fabric, self.transform = model, fabric, transform
        self.logits, self.runs = logits, runs
        self.cache: TeacherCache | None = None
        self.tapped: Taps | None = None
        self.forwards = 0

    @torch.no_grad()
    def __call__(self, batch: Batch, x: Any) -> tuple[Tensor | None, dict[str, Tensor]]:
        if self.model is None or not self.runs:
            return None, {}
        logits, features = self._cached(batch) if self.cache is not None else self._run(x, batch)
        return (widened(logits) if self.logits else None), dict(features)

    def _cached(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert self.cache is not None and batch.index is not None
        if isinstance(batch.x, tuple):
            parts = [self.cache.read(batch.index, view) for view in range(len(batch.x))]
        else:
            parts = [self.cache.read(batch.index, batch.view if batch.view is not None else 0)]
        device = self.fabric.device
        return (
            torch.cat([logits for logits, _ in parts]).to(device),
            {name: torch.cat([f[name] for _, f in parts]).to(device) for name in parts[0][1]},
        )

    def _run(self, x: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert self.model is not None and self.transform is not None
        if self.tapped is not None:
            self.tapped.clear()
        with self.fabric.autocast():
            logits = self.model(self.transform(x))
        self.forwards += batch.size * (len(batch.x) if isinstance(batch.x, tuple) else 1)
        return logits, {name: f.detach() for name, f in self.tapped.features.items()} if self.tapped is not None else {}


class BatchNormAdvice(AbstractContextManager):
    """Turns torch's complaint about one value per channel into what to do about it."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            raise ValueError(
                "a batch of one sample cannot go through batch norm in training mode: pass drop_last=True "
                "to the training loader, or another batch size."
            ) from error


class Untouched(AbstractContextManager):
    """The teacher in eval mode (batch norm in train mode on request); flags and buffers restored afterwards."""

    def __init__(self, teacher: nn.Module, train_mode: bool) -> None:
        self.teacher, self.train_mode = teacher, train_mode

    def __enter__(self) -> None:
        self.flags = [(m, m.training) for m in self.teacher.modules()]
        self.buffers = [(b, b.clone()) for b in self.teacher.buffers()] if self.train_mode else []
        self.teacher.eval()
        if self.train_mode:
            for module in self.teacher.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()

    def __exit__(self, *_: Any) -> None:
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
        for module, training in self.flags:
            module.training = training


def as_methods(method: str | Method | Sequence[str | Method]) -> list[Method]:
    given = [method] if isinstance(method, str | Method) else list(method)
    if not given:
        raise ValueError("method must be a name, a Method or a list of them, got an empty list.")
    for m in given:
        if not isinstance(m, str | Method):
            raise TypeError(f"method must be a name, a Method or a list of them, got {m!r}.")
    made = [create_method(m) if isinstance(m, str) else m for m in given]
    if len({id(m) for m in made}) != len(made) or len({m.name for m in made}) != len(made):
        raise ValueError(f"the same method is given twice: {[m.name for m in made]}.")
    if len({m.needs.views for m in made} - {1}) > 1:
        raise ValueError(f"the methods need different numbers of views: {[(m.name, m.needs.views) for m in made]}.")
    return made


def loader_length(loader: Any) -> int:
    try:
        length = len(loader)
    except TypeError as error:
        raise ValueError(
            "the training loader must have a length (the learning rate and 'progress' follow the number "
            f"of steps), got {type(loader).__name__} without one."
        ) from error
    if length < 1:
        raise ValueError("the training loader is empty: no data, or drop_last with fewer samples than one batch.")
    return length


def make_optimizer(
    optimizer: Any, groups: list[dict[str, Any]], extra: list[dict[str, Any]], lr: float, weight_decay: float | None
) -> Optimizer:
    if isinstance(optimizer, torch.optim.Optimizer):
        for group in extra:
            optimizer.add_param_group(group)
        return optimizer
    if optimizer is None or optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=0.01 if weight_decay is None else weight_decay)
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=5e-4 if weight_decay is None else weight_decay)
    if callable(optimizer):
        return optimizer(groups)
    raise ValueError(
        "optimizer must be None, 'adamw', 'sgd', a callable taking parameter groups or an Optimizer, "
        f"got {optimizer!r}."
    )


def label_fault(labels: Tensor, classes: int) -> str | None:
    """What is wrong with integer class labels, if anything; -100 is torch's 'ignore'."""
    outside = (labels != -100) & ((labels < 0) | (labels >= classes))
    if not bool(outside.any()):
        return None
    where = outside.nonzero()[0].tolist()
    return (
        f"labels must be in [0, {classes}) as the student has {classes} classes, got {labels[outside][0].item()} "
        f"(at position {where[0] if len(where) == 1 else where})."
    )


def widened(logits: Any) -> Any:
    """Half-precision logits as float32, so that losses are computed in full precision."""
    return logits.float() if isinstance(logits, Tensor) and logits.dtype in (torch.float16, torch.bfloat16) else logits


def resolved(model: nn.Module, names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(resolve_names(model, names))) if names else []


def device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def metric_name(metric: Any) -> str:
    return getattr(metric, "__name__", type(metric).__name__)


@cache
def leave_process_group_at_exit() -> None:
    """Take this process out of its group when the program ends; once.

    Fabric does so for NCCL alone. A gloo group that is alive when the interpreter shuts down aborts the process now and
    then ("terminate called without an active exception"), after the work is done.
    """
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gathered(fabric: Any, value: Any) -> list[Any]:
    """The value of every process, in the order of ranks."""
    if fabric.world_size == 1:
        return [value]
    out: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(out, value)
    return out
