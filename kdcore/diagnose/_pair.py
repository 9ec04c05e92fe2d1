"""What diagnose runs on: a fixed sample of the data, and the two models as they are meant to be run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, default_collate

from ..functional.agreement import paired_gain
from ..functional.checks import check_labels, describe
from ..inputs import own_type, read_batch, stated_normalization
from ..outputs import logits_of

Transform = Callable[[Tensor], Tensor]
Role = Literal["teacher", "student"]
ROLES: tuple[Role, Role] = ("teacher", "student")
#: A stated normalisation is dropped only for a gain in accuracy of this size, with this probability by chance.
RAW_GAIN, RAW_P = 0.1, 0.01
MIN_SAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The samples everything is measured on.

    Attributes:
        x: ``(N, ...)`` as the loader gives it. labels: ``(N,)`` or ``None``. index: ``(N,)`` positions in the data.
        batch_size: of the passes.
    """

    x: Tensor
    labels: Tensor | None
    index: Tensor
    batch_size: int

    def __len__(self) -> int:
        return len(self.x)

    @property
    def batches(self) -> list[Tensor]:
        return list(self.x.split(self.batch_size))

    @property
    def is_image(self) -> bool:
        """Whether the input is ``(N, C, H, W)`` floating."""
        return self.x.ndim == 4 and self.x.is_floating_point()

    @property
    def mean(self) -> Tensor:
        """Mean colour ``(C, 1, 1)``: what covers and masks."""
        return self.x.mean((0, 2, 3))[:, None, None]

    def part(self, rows: slice) -> Sample:
        """Some of the samples."""
        return Sample(
            x=self.x[rows],
            labels=None if self.labels is None else self.labels[rows],
            index=self.index[rows],
            batch_size=self.batch_size,
        )


def draw(data: Any, *, limit: int, batch_size: int, seed: int) -> tuple[Sample, tuple[str, ...]]:
    """A fixed random sample of ``data`` (which see :func:`kdcore.diagnose.diagnose`), and the class names it states.

    Raises:
        ValueError: no samples, or labels that are not one class per sample. TypeError: not data.
    """
    names: tuple[str, ...] = ()
    if hasattr(data, "loader") and hasattr(data, "class_names"):  # a task
        names, data = tuple(data.class_names), data.loader("test", batch_size=batch_size, shuffle=False)
    generator = torch.Generator().manual_seed(seed)
    parts = [read_batch(raw) for raw in _batches(data, limit, batch_size, generator)]
    if not parts:
        raise ValueError("data gave no samples.")
    if not all(isinstance(p.x, Tensor) for p in parts):
        raise ValueError(
            "data must give tensors as model input (one per batch), got a "
            f"{type(parts[0].x).__name__}: wrap the two models so that each takes one tensor."
        )
    x = torch.cat([p.x for p in parts])[:limit]
    if len(x) < MIN_SAMPLES:
        raise ValueError(
            f"data gave {len(x)} sample{'s' if len(x) > 1 else ''}: a diagnosis needs at least {MIN_SAMPLES} (unbiased "
            "CKA has no value for fewer), and a few hundred to say much."
        )
    labelled = [p.labels for p in parts if p.labels is not None]
    labels = torch.cat(labelled)[:limit] if len(labelled) == len(parts) else None
    indexed = [p.index for p in parts if p.index is not None]
    index = torch.cat(indexed)[:limit] if len(indexed) == len(parts) else torch.arange(len(x))
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        bad = index[~torch.isfinite(x.flatten(1)).all(1)].tolist()
        raise ValueError(f"data holds NaN or infinity, in samples {bad[:8]}.")
    order = torch.randperm(len(x), generator=generator)  # a loader sorted by class would bias the CKA of batches
    smallest = min(batch_size, max(4, len(x) // 4))
    return Sample(
        x=x[order], labels=None if labels is None else labels[order], index=index[order], batch_size=smallest
    ), names


def _batches(data: Any, limit: int, batch_size: int, generator: torch.Generator) -> Iterator[Any]:
    """Raw batches of at most ``limit`` samples; from a map-style data set (or a loader that only reads it in order or
    shuffled) a random subset, whose positions are added."""
    if isinstance(data, tuple | list) and data and all(isinstance(d, Tensor) for d in data):
        data = torch.utils.data.TensorDataset(*data)
    dataset, collate = data, default_collate
    if isinstance(data, DataLoader):
        plain = isinstance(data.sampler, SequentialSampler | RandomSampler) and data.batch_size is not None
        if not plain or isinstance(data.dataset, IterableDataset):
            yield from _first(data, limit)
            return
        dataset, collate = data.dataset, data.collate_fn
    elif not isinstance(data, Dataset) or not hasattr(data, "__getitem__"):
        if not isinstance(data, Iterable):
            raise TypeError(f"data must be a loader, a data set, a task or tensors (x, y), got {type(data).__name__}.")
        yield from _first(data, limit)
        return
    positions = torch.randperm(len(dataset), generator=generator)[:limit]
    for rows in positions.split(batch_size):
        batch = read_batch(collate([dataset[i] for i in rows.tolist()]))
        yield (
            {"x": batch.x, "y": batch.labels, "index": rows}
            if batch.labels is not None
            else {"x": batch.x, "index": rows}
        )


def _first(loader: Iterable[Any], limit: int) -> Iterator[Any]:
    seen = 0
    for raw in loader:
        yield raw
        seen += read_batch(raw).size
        if seen >= limit:
            return


def read_logits(output: Any) -> Tensor:
    """The class scores in what a model returned, see :func:`kdcore.outputs.logits_of`."""
    scores = logits_of(output)
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(f"a model must give (N, C) class scores, got {describe(scores)}: wrap it so that it does.")
    return scores


@dataclass(kw_only=True)
class Net:
    """One of the two models as it is meant to be run.

    Attributes:
        role: which of the two. model: the module.
        transform: brings the loader's input into the model's form. stated: the normalisation the model states itself.
        choice: how the transform was chosen, in words, with the accuracies that decided (if any).
        flags: names of sub-modules that were in train mode when the model came.
    """

    role: Role
    model: nn.Module
    transform: Transform = field(default_factory=nn.Identity)
    stated: nn.Module = field(default_factory=nn.Identity)
    choice: dict[str, Any] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def input(self, x: Tensor) -> Tensor:
        """What the model is given for the loader's ``x``."""
        return own_type(self.model)(self.transform(x.to(self.device)))

    def logits(self, x: Tensor, transform: Transform | None = None) -> Tensor:
        """``(N, C)`` on the CPU, float32 at least; ``transform`` in place of the model's own."""
        given = self.input(x) if transform is None else own_type(self.model)(transform(x.to(self.device)))
        scores = read_logits(self.model(given)).detach().cpu()
        return scores if scores.dtype == torch.float64 else scores.float()

    def over(self, batches: Iterable[Tensor], transform: Transform | None = None) -> Tensor:
        """The same over batches."""
        return torch.cat([self.logits(x, transform) for x in batches])


def prepare(role: Role, model: nn.Module, given: Any, sample: Sample) -> Net:
    """Choose the transform of a model; see :func:`kdcore.diagnose.diagnose` for ``"auto"``.

    Raises:
        TypeError: not a module, or a transform that is not callable.
    """
    net = Net(
        role=role,
        model=model,
        stated=stated_normalization(model),
        flags=frozenset(n for n, m in model.named_modules() if m.training),
    )
    if given is None or callable(given):
        net.transform = nn.Identity() if given is None else given
        net.choice = {"input": "as given by the loader" if given is None else "through the transform passed in"}
        return net
    if given != "auto":
        raise TypeError(f"{role}_transform must be callable, None or 'auto', got {given!r}.")
    net.choice = {"input": "as given by the loader"}
    if isinstance(net.stated, nn.Identity) or not sample.x.is_floating_point():
        return net
    net.stated = net.stated.to(net.device)
    if not is_unit(sample.x):
        net.choice = {"input": "as given by the loader (values outside [0, 1]: taken as normalised)"}
        return net
    net.transform = net.stated
    net.choice = {"input": "normalised as the model's configuration states"}
    return net


def is_unit(x: Tensor) -> bool:
    """Whether the values lie in [0, 1], as images that nobody has normalised."""
    return bool(x.min() >= -1e-3 and x.max() <= 1 + 1e-3)


def settle(net: Net, sample: Sample) -> None:
    """Where a normalisation was taken from the model's configuration: drop it if the model is clearly better without.

    The models must be in eval mode.
    """
    if net.transform is not net.stated or isinstance(net.stated, nn.Identity) or sample.labels is None:
        return
    part = sample.part(slice(0, 64))
    assert part.labels is not None
    stated, raw = (net.over(part.batches, t).argmax(1) == part.labels for t in (net.stated, nn.Identity()))
    net.choice |= {"accuracy_stated": float(stated.double().mean()), "accuracy_raw": float(raw.double().mean())}
    found = paired_gain(stated, raw)
    if found.gain >= RAW_GAIN and found.p < RAW_P:
        net.transform = nn.Identity()
        net.choice["input"] = "as given by the loader (better than with the normalisation the configuration states)"


@contextmanager
def undisturbed(models: Sequence[nn.Module]) -> Iterator[None]:
    """Everything is put back afterwards: training flags, buffers (running statistics), gradients are not touched."""
    kept = [(m, m.training) for model in models for m in model.modules()]
    buffers = [(b, b.detach().clone()) for model in models for b in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, training in kept:
            module.training = training


def check_pair(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Labels as int64 ``(N,)``, or ``None`` where there are none.

    Raises:
        ValueError: the models disagree on the number of classes, or labels outside of them.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"the student gives {student_logits.shape[1]} classes and the teacher "
            f"{teacher_logits.shape[1]}: the pair must answer the same question, with the classes in the "
            "same order. Wrap one of them so that it selects the common classes."
        )
    return None if labels is None else check_labels(labels.cpu(), *student_logits.shape)


__all__ = [
    "ROLES",
    "Net",
    "Role",
    "Sample",
    "Transform",
    "check_pair",
    "draw",
    "is_unit",
    "prepare",
    "read_logits",
    "settle",
    "undisturbed",
]
