"""Teachers in a distillation: one or several by name, run or read from a cache, and looked at once before the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .cache import TeacherCache
from .checkpoints import preserved_rng, state_hash
from .inputs import Batch
from .method import Answer, Method, Outputs
from .outputs import as_float32, logits_of
from .taps import Taps, resolve_names

Teachers = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module] | None
#: Name of a teacher that is given alone.
ONLY = "teacher"


def named_teachers(teacher: Teachers) -> dict[str, nn.Module]:
    """Teachers by name: one alone is ``"teacher"``, those of a sequence are ``"0"``, ``"1"``, ...

    Raises:
        TypeError: something that is no module among them.
        ValueError: an empty sequence or mapping, or a name with a dot.
    """
    if teacher is None:
        return {}
    if isinstance(teacher, nn.Module | str) or not isinstance(teacher, Mapping | Sequence):
        return {ONLY: teacher}
    named = dict(teacher) if isinstance(teacher, Mapping) else {str(i): t for i, t in enumerate(teacher)}
    if not named:
        raise ValueError("teacher must be a module, or one or more of them; got an empty collection.")
    for name in named:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"the names of teachers must be words without a dot, got {name!r}.")
    return named


def taps_of(method: Method, name: str) -> tuple[str, ...]:
    """The layers of the teacher ``name`` that a method reads."""
    taps = method.teacher_taps
    return tuple(taps.get(name, ())) if isinstance(taps, Mapping) else tuple(taps)


def resolved(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Tap names without repetition, once they are known to exist."""
    return list(dict.fromkeys(resolve_names(model, names))) if names else []


class OneTeacher:
    """Answers for a batch by running a teacher or reading its cache, and counts the samples it was run on.

    Args:
        model: the teacher; transform: applied to its input.
        fabric: for device and autocast.
        logits: whether its logits are read; taps: layers that are read.
        runs: whether it answers at all.
    """

    def __init__(
        self,
        model: nn.Module,
        fabric: Any,
        transform: Callable[[Any], Any],
        *,
        logits: bool,
        taps: Sequence[str],
        runs: bool,
    ) -> None:
        self.model, self.fabric, self.transform = model, fabric, transform
        self.logits, self.taps, self.runs = logits, list(taps), runs
        self.cache: TeacherCache | None = None
        self.tapped: Taps | None = None
        self.forwards = 0

    @torch.no_grad()
    def __call__(self, batch: Batch, x: Any) -> Answer:
        if not self.runs:
            return Answer()
        output, features = self._cached(batch) if self.cache is not None else self._run(x, batch)
        logits = as_float32(logits_of(output)) if self.logits else None
        return Answer(output=as_float32(output), logits=logits, features=dict(features))

    def _cached(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert self.cache is not None and batch.index is not None
        views = enumerate(batch.x) if isinstance(batch.x, tuple) else [(batch.view, batch.x)]
        for view, x in views:
            self.cache.check_samples(batch.index, x, 0 if view is None else view)
        if isinstance(batch.x, tuple):
            parts = [self.cache.read(batch.index, view) for view in range(len(batch.x))]
        else:
            parts = [self.cache.read(batch.index, batch.view if batch.view is not None else 0)]
        device = self.fabric.device
        features = {name: torch.cat([f[name] for _, f in parts]).to(device) for name in parts[0][1]}
        return torch.cat([logits for logits, _ in parts]).to(device), features

    def _run(self, x: Any, batch: Batch) -> tuple[Any, Mapping[str, Tensor]]:
        if self.tapped is not None:
            self.tapped.clear()
        with self.fabric.autocast():
            output = self.model(self.transform(x))
        self.forwards += batch.size * (len(batch.x) if isinstance(batch.x, tuple) else 1)
        found = self.tapped.features.items() if self.tapped is not None else ()
        return output, {name: f.detach() for name, f in found}

    def outputs(self, loader: Iterable[Any], read: Callable[[Any, int], Batch], generator: Any) -> Iterator[Outputs]:
        """One pass over the training set, leaving no trace in any random state."""
        before = self.forwards
        with preserved_rng(generator), ExitStack() as stack:
            reader = OneTeacher(self.model, self.fabric, self.transform, logits=self.logits, taps=self.taps, runs=True)
            reader.cache = self.cache
            if self.cache is None and self.taps:
                reader.tapped = stack.enter_context(Taps(self.model, self.taps))
            for number, raw in enumerate(loader):
                batch = read(raw, number).to(self.fabric.device)
                x, labels, _ = batch.joined()
                answer = reader(batch, x)
                self.forwards = before + reader.forwards
                labels = labels.long() if labels is not None and not labels.is_floating_point() else labels
                yield Outputs(logits=answer.logits, features=answer.features, labels=labels, index=batch.index)


def sub_cache(cache: TeacherCache | str | Path | None, teachers: Mapping[str, nn.Module]) -> dict[str, TeacherCache]:
    """A cache for each teacher: the one that is given, or of several teachers a folder each, named by the weights.

    Raises:
        ValueError: one :class:`~kdcore.cache.TeacherCache` for several teachers.
    """
    if cache is None or not teachers:
        return {}
    if len(teachers) == 1:
        return {next(iter(teachers)): cache if isinstance(cache, TeacherCache) else TeacherCache(cache)}
    if isinstance(cache, TeacherCache):
        raise ValueError("a TeacherCache holds one teacher's answers: of several teachers, give cache as a folder.")
    return {name: TeacherCache(Path(cache) / state_hash(model)[:16]) for name, model in teachers.items()}
