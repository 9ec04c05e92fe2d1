"""A student learns from teachers, methods and labels: :func:`distill` and its loop, :class:`Distiller`.

:func:`distill` runs it to the end; :class:`Distiller` is the same loop as a generator of :class:`Step` and
:class:`Epoch` events, which a progress bar, a live chart and a headless run read alike::

    distiller = Distiller(teacher, student, "kd", train, val, epochs=20, checkpoint_dir="runs/kd", resume="auto")
    for event in distiller.run():
        ...
    result = distiller.result()

What can be relied on stands at the head of :mod:`kdcore.engine`; beyond that, validation, sample batches and cache
building draw no random numbers from the training's point of view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .cache import TeacherCache
from .distillation import Distillation
from .engine import Epoch, Learn, NonFiniteLossError, Run, Step, Trained, finish
from .functional.checks import check_non_negative, check_positive
from .method import Method
from .metrics import Metrics, accuracy, evaluate
from .teachers import Teachers

if TYPE_CHECKING:
    from torch.optim import Optimizer

#: What a distillation gives; the engine's :class:`~kdcore.engine.Trained`.
DistillResult = Trained


class Distiller(Run):
    """Trains a student; see :func:`distill` for the arguments and :mod:`kdcore.engine` for the promises.

    An object trains once: build another one to train again.
    """

    training: Distillation

    def __init__(
        self,
        teacher: Teachers,
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
        clip_grad: float | None = None,
        cache: TeacherCache | str | Path | None = None,
        metric: Metrics | None = None,
        loss: Callable[[Any, Tensor], Any] | None = None,
        readout: Callable[[Any], Tensor] | None = None,
        ce_weight: float | None = None,
        student_transform: Callable[[Any], Any] | None = None,
        teacher_transform: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None = None,
        teacher_train_mode: bool = False,
        compile: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"epochs must be an integer >= 1, got {epochs!r}.")
        check_positive("lr", lr)
        for name, number in (("weight_decay", weight_decay), ("ce_weight", ce_weight)):
            if number is not None:
                check_non_negative(name, number)
        if cache is not None and teacher_train_mode:
            raise ValueError("teacher_train_mode makes the teacher's answer depend on the batch: it cannot be cached.")
        learn = Learn(
            players=("student", "methods"),
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            scheduler=scheduler,
            clip_grad=clip_grad,
        )
        training = Distillation(
            teacher,
            student,
            method,
            train,
            val,
            epochs=epochs,
            learn=learn,
            cache=cache,
            metric=metric,
            loss=loss,
            readout=readout,
            ce_weight=ce_weight,
            student_transform=student_transform,
            teacher_transform=teacher_transform,
            compile=compile,
        )
        changing = [m.name for m in training.objectives if type(m).on_batch is not Method.on_batch]
        if cache is not None and changing:
            raise ValueError(f"method {changing[0]!r} changes the samples: the teacher's answers cannot be cached.")
        super().__init__(training, teacher_train_mode=teacher_train_mode, **options)

    @property
    def student(self) -> nn.Module:
        """The module that is trained."""
        return self.training.student

    @property
    def methods(self) -> list[Method]:
        """The objectives."""
        return self.training.objectives

    def result(self) -> DistillResult:
        """What was reached so far; complete when :meth:`run` has been read to its end."""
        result = super().result()
        if not result.metric_name:
            result.metric_name = next(iter(self.training.metrics))
        return result


def distill(
    teacher: Teachers,
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
        teacher: any module giving logits ``(N, C, ...)``; several as a sequence (logits are then stacked) or by name
            (:attr:`~kdcore.method.Signals.teachers`); ``None`` for methods that need none. Moved to the device.
        student: any module giving logits, or an output that ``readout`` understands; trained in place.
        method: a name (``list_objectives()``), a :class:`kdcore.method.Method`, or a list of them whose terms are added
            up; what is learnt from labels is then the first one's.
        train: a loader with a length, giving batches as :func:`kdcore.inputs.read_batch` accepts them. Where sample
            indices are needed and not given, they are the positions in its map-style dataset.
        val: labelled batches for the metric; without it the last epoch counts as the best.
        epochs: passes over ``train``.
        **options: the keyword arguments of :class:`Distiller`:

            optimizer: ``None`` or ``"adamw"``, ``"adam"``, ``"sgd"`` (momentum 0.9), a callable taking parameter
                groups, or an optimizer over the student's parameters, to which the method's groups are added.
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
            cache: a :class:`kdcore.cache.TeacherCache` or folder (of several teachers, a folder with one inside for
                each); built on first use, after which no epoch runs the teacher.
            seed: of weights made by the method, shuffling, augmentation, dropout.
            metric: see :func:`kdcore.metrics.evaluate`; accuracy. The first one picks the best epoch, in its direction.
            loss: what is learnt from labels, ``(student's output, labels) -> tensor`` or named tensors; cross-entropy.
            readout: what metrics and methods read of the student's output, where no method has its own; logits.
            ce_weight: replaces the method's own weight of what is learnt from labels.
            student_transform, teacher_transform: applied to ``x`` before each model (for named teachers, by name);
                ``None``: what its ``pretrained_cfg`` asks for, given images in [0, 1]; ``nn.Identity()``: nothing.
            teacher_train_mode: batch statistics in the teacher's batch norm (its buffers are restored afterwards).
            stop: an event; once set, training ends within one optimizer step and can be resumed.
            compile: ``torch.compile`` the student.

    Raises:
        NonFiniteLossError, ValueError, CheckpointError: see :meth:`kdcore.engine.Run.run`.
    """
    distiller = Distiller(teacher, student, method, train, val, epochs=epochs, **options)
    finish(distiller)
    return distiller.result()


__all__ = [
    "DistillResult",
    "Distillation",
    "Distiller",
    "Epoch",
    "NonFiniteLossError",
    "Step",
    "accuracy",
    "distill",
    "evaluate",
]
