"""What diagnose runs on: the two models as they are meant to be run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..functional.agreement import paired_gain
from ..functional.checks import check_labels, describe
from ..inputs import own_type, stated_normalization
from ..outputs import logits_of
from ._sample import Sample

Transform = Callable[[Tensor], Tensor]
Role = Literal["teacher", "student"]
ROLES: tuple[Role, Role] = ("teacher", "student")
#: A stated normalisation is dropped only for a gain in accuracy of this size, with this probability by chance.
RAW_GAIN, RAW_P = 0.1, 0.01


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

    def logits_with_gradient(self, x: Tensor) -> Tensor:
        """``(N, C)`` as a function of the loader's ``x`` that can be differentiated."""
        return read_logits(self.model(self.input(x))).float()

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
    net.choice |= {
        "accuracy_stated": float(stated.double().mean()),
        "accuracy_raw": float(raw.double().mean()),
        "samples": len(part),
    }
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
    "Transform",
    "check_pair",
    "is_unit",
    "prepare",
    "read_logits",
    "settle",
    "undisturbed",
]
