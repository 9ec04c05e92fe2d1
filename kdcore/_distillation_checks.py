"""What a distillation refuses before its first step, and the sample batch it looks at. Private to the distiller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from .checkpoints import preserved_rng
from .engine.teachers import BatchNormAdvice
from .functional.checks import describe
from .inputs import INPUT_KEYS, LABEL_KEYS, Batch, Normalize, read_batch
from .labels import class_labels, known_labels
from .method import Method
from .metrics import device_of, evaluation_labels, reads_classes
from .outputs import as_float32
from .registry import create_method
from .taps import evaluating

_SAMPLE = 8  # samples that methods see in setup()


def as_methods(method: str | Method | Sequence[str | Method]) -> list[Method]:
    """The objectives, made where they are named."""
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
    """Batches per epoch."""
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


def check_models(teachers: Mapping[str, nn.Module], student: nn.Module, methods: Sequence[Method]) -> None:
    """Refuse what would leak the teacher, and a method that needs a teacher where there is none."""
    for role, model in (("student", student), *(("teacher", t) for t in teachers.values())):
        if not isinstance(model, nn.Module):
            raise TypeError(f"{role} must be a torch.nn.Module, got {describe(model)}.")
        if any(p.is_meta for p in model.parameters()):
            raise ValueError(f"the {role} is on the device 'meta', where tensors have no values: load its weights.")
    if not teachers:
        for m in methods:
            if m.taught:
                raise ValueError(f"method {m.name!r} needs a teacher, got teacher=None.")
    for teacher in teachers.values():
        own = {id(p) for p in teacher.parameters()}
        if teacher is student or any(id(p) in own for p in student.parameters()):
            raise ValueError("teacher and student share parameters: give the teacher as a copy (copy.deepcopy).")


def sample_batch(loader: Iterable[Any], views: int) -> Batch:
    """A few samples, drawn without leaving a trace in any random state."""
    with preserved_rng(getattr(loader, "generator", None)):
        if isinstance(loader, DataLoader) and _has_positions(loader.dataset) and loader.batch_sampler is not None:
            size = min(_SAMPLE, len(cast(Sized, loader.dataset)))
            one = views == 1 and getattr(loader.dataset, "views", None) is not None
            items = [loader.dataset[(i, 0) if one else i] for i in range(size)]
            raw = loader.collate_fn(items) if size else None
        else:
            raw = next(iter(loader), None)
    if raw is None:
        raise ValueError("the training loader is empty.")
    return read_batch(raw, views=views)


def check_range(x: Any, given: Sequence[Any], transforms: Sequence[Any]) -> None:
    """Refuse images that an automatic normalisation would spoil."""
    if isinstance(x, Tensor) and x.dtype == torch.uint8 and None in given:
        raise ValueError(
            "images must be floating, in [0, 1], got uint8: divide them by 255 in the data set or "
            "pass student_transform and teacher_transform that do."
        )
    own = [g for g in given if g is not None]
    made = [t for t in transforms if not any(t is g for g in own)]
    automatic = any(isinstance(part, Normalize) for t in made if isinstance(t, nn.Module) for part in t.modules())
    if automatic and isinstance(x, Tensor) and (x.min() < -0.5 or x.max() > 1.5):
        raise ValueError(
            f"images must be in [0, 1], got [{x.min().item():.3g}, {x.max().item():.3g}]: the model's "
            "pretrained_cfg normalises them. If the loader has done that already, pass "
            "student_transform=nn.Identity() and teacher_transform=nn.Identity()."
        )


def check_labelled(sample: Batch, methods: Sequence[Method]) -> None:
    """Refuse batches without labels for a method that needs them; of a dict the keys are named."""
    needy = next((m for m in methods if m.needs.labels), None)
    if sample.labels is not None or needy is None:
        return
    came = f", got the keys {', '.join(map(repr, sample.x))}" if isinstance(sample.x, Mapping) else ""
    raise ValueError(
        f"method {needy.name!r} needs labels, but the batches have none: give (x, y), or a dict with labels "
        f"under one of {', '.join(LABEL_KEYS)}{came}."
    )


def check_training_labels(first: Method, ce_weight: float | None, sample: Batch, logits: Tensor, loader: Any) -> None:
    """Labels that cross-entropy cannot take are refused now, where it has a weight: those of the sample, and all that
    the data set lists."""
    weight = ce_weight if ce_weight is not None else first.knob.ce_weight
    if not weight or type(first).supervised is not Method.supervised or sample.labels is None:
        return
    class_labels(sample.labels.to(logits.device), logits[: len(sample.labels)])
    check_known_labels(loader, sample, logits)


def check_known_labels(loader: Any, sample: Batch, logits: Tensor, where: str = "") -> None:
    """Labels that the data set lists are all checked at once, others batch by batch.

    Args:
        loader: of the data; sample: its first samples. A list that says something else of them (it is changed on the
            way, by a ``target_transform`` or when batches are put together) is not what is learnt, and is passed over.
        logits: of these samples ``(n, C, ...)``, for the classes and the shape.
        where: put before the message.
    """
    labels = known_labels(getattr(loader, "dataset", None))
    if labels is None or sample.labels is None or labels.ndim < logits.ndim - 1:
        return
    first = sample.labels.cpu()
    if labels[: len(first)].shape != first.shape or not bool((labels[: len(first)] == first).all()):
        return
    try:
        class_labels(labels, logits[:1].expand(len(labels), *logits.shape[1:]))
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


@torch.no_grad()
def check_validation(
    loader: Any, student: nn.Module, metrics: Mapping[str, Any], readout: Callable[[Any], Tensor], transform: Any
) -> None:
    """Refuse validation data that the student cannot read, or whose labels the metrics cannot, before anything is
    trained.

    All labels are looked at where the data set lists them, and those of a few samples, which go through the student. A
    generator, which can be read once only, is left alone.
    """
    if isinstance(loader, Iterator):
        return
    batch = sample_batch(loader, 1)
    if batch.labels is None:
        raise ValueError("validation data has no labels: give (x, y).")
    with preserved_rng(), evaluating(student):
        x = transform(batch.to(device_of(student)).x)
        scores = as_float32(readout(answer_of("student", student, x))).cpu()
    evaluation_labels(batch.labels.cpu(), scores, metrics.values())
    if any(map(reads_classes, metrics.values())):
        check_known_labels(loader, batch, scores, "validation data: ")


def answer_of(role: str, model: nn.Module, x: Any) -> Any:
    """What a model says to a few samples; one that cannot read them is named with what came."""
    try:
        return model(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, AttributeError, IndexError, KeyError, AssertionError) as error:
        if isinstance(x, Mapping):
            form = f"a dict with the keys {', '.join(map(repr, x))}"
            advice = (
                f" (a batch's input is found under {', '.join(INPUT_KEYS)}, its labels under {', '.join(LABEL_KEYS)})"
            )
        else:
            form, advice = describe(x), ""
        raise ValueError(f"the {role} cannot read the batches, {form}{advice}: {error}") from error


def check_last_batch(
    loader: Any,
    methods: Sequence[Method],
    student: nn.Module,
    transform: Callable[[Any], Any],
    x: Any,
    views: int,
) -> None:
    """Whether the methods can do with the smallest batch, and the student's batch norm if that has one sample."""
    if not isinstance(loader, DataLoader) or not loader.batch_size or not isinstance(loader.sampler, Sized):
        return
    rest = 0 if loader.drop_last else len(loader.sampler) % loader.batch_size
    smallest = rest or loader.batch_size
    for m in methods:
        if smallest < m.min_batch():
            advice = "pass drop_last=True to the training loader, or another" if rest else "use a larger"
            raise ValueError(
                f"method {m.name!r} needs batches of at least {m.min_batch()} samples, but the "
                f"{'last' if rest else 'batch size'} {'has' if rest else 'is'} {smallest}: {advice} "
                "batch size."
            )
    if smallest > 1 or not isinstance(x, Tensor) or views > 1:
        return
    norms = [m for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    saved = [(b, b.clone()) for m in norms for b in m.buffers()]
    flags = [(m, m.training) for m in student.modules()]
    try:
        with preserved_rng(), BatchNormAdvice():
            student.train()
            student(transform(x[:1]))
    finally:
        for buffer, value in saved:
            buffer.copy_(value)
        for module, training in flags:
            module.training = training


def _has_positions(dataset: Any) -> bool:
    """Whether samples can be asked for by position (a map-style dataset)."""
    return not isinstance(dataset, IterableDataset) and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
