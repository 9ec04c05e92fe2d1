"""A task: data, reference teacher and student, loss, metrics. What a lesson, a sweep and the workbench run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from .. import html
from ..checkpoints import load_weights, preserved_rng
from ..distiller import Epoch, distill
from ..engine import Training, fit
from ..functional.checks import check_choice, check_positive
from ..inputs import input_normalization, read_batch
from ..method import Method
from ..metrics import SampleMean, evaluate, hits, is_better
from ..outputs import logits_of
from ..taps import evaluating
from ._data import SizedDataset, WithIndex, as_dataset, collate, fingerprint
from ._draw import Draw, draw_rows
from ._models import ModelSpec, Recipe
from ._teachers import Progress, cached_weights

SPLITS = ("train", "val", "test", "teacher_train")


def accuracy_metric() -> Mapping[str, Any]:
    """The share of right answers, streamed."""
    return {"accuracy": SampleMean(hits, "accuracy")}


@dataclass(kw_only=True, eq=False)
class Task:
    """Data with a reference teacher, a reference student, a loss and metrics; it knows nothing of classes.

    :class:`Classification` and the other kinds add what their labels mean.

    Attributes:
        name: of the task; also part of the file name of cached teachers.
        train, test: map-style data sets of ``(x, y)``; ``train`` is what the student sees.
        val: validation split, or ``None``.
        teacher_train: what the teacher learns from; ``train`` unless the student sees less than the teacher did.
        more: further splits by name (``"unlabelled"``, ``"target/rot30"``).
        teachers, students: networks by name, the first is the default.
        seed: of the split and of the reference teachers.
        loss: what is learnt from labels, ``(output, labels) -> tensor`` or named tensors; ``None``: cross-entropy.
        metrics: makes fresh metrics by name, with their directions; the first one is the score.
        readout: what metrics read of a network's output.
        collate: builds a batch from samples; the default also passes batches that a data set built itself.
        words: one line for menus.
        notes: what a user must know, e.g. how many files were skipped.

    Raises:
        TypeError: a split without length.
        ValueError: an empty split.
    """

    name: str
    train: SizedDataset
    test: SizedDataset
    val: SizedDataset | None = None
    teacher_train: SizedDataset | None = None
    more: dict[str, SizedDataset] = field(default_factory=dict)
    teachers: dict[str, ModelSpec] = field(default_factory=dict)
    students: dict[str, ModelSpec] = field(default_factory=dict)
    seed: int = 0
    loss: Callable[[Any, Any], Any] | None = None
    metrics: Callable[[], Mapping[str, Any]] = accuracy_metric
    readout: Callable[[Any], Tensor] = logits_of
    collate: Callable[[Any], Any] = collate
    words: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.teacher_train = self.train if self.teacher_train is None else self.teacher_train
        for split in self.splits:
            if not len(as_dataset(self.split(split))):
                raise ValueError(f"the {split} split of task {self.name!r} is empty.")

    # -- data ---------------------------------------------------------------------------------------------------------

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, ``(C, H, W)`` or ``(D,)``."""
        return tuple(torch.as_tensor(self.test[0][0]).shape)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that exist."""
        return (*(name for name in SPLITS if getattr(self, name) is not None), *self.more)

    def split(self, name: str) -> SizedDataset:
        """A split by name: ``train``, ``val``, ``test``, ``teacher_train``, or one of :attr:`more`."""
        check_choice("split", name, (*SPLITS, *self.more))
        data = self.more[name] if name in self.more else getattr(self, name)
        if data is None:
            raise ValueError(
                f"task {self.name!r} has no {name} split; it has {', '.join(self.splits)} "
                "(val_fraction=0.1 sets a validation split aside)."
            )
        return data

    def loader(
        self,
        split: str = "train",
        *,
        batch_size: int = 64,
        shuffle: bool | None = None,
        seed: int = 0,
        index: bool = False,
        drop_last: bool | None = None,
        workers: int = 0,
        rows: Sequence[int] | None = None,
    ) -> DataLoader[Any]:
        """Batches ``(x, y)`` or, with ``index``, ``(x, y, index)``.

        Args:
            split: which part of the data.
            batch_size: samples per batch.
            shuffle: ``None`` shuffles the training splits only.
            seed: of the order; equal seeds give equal batches.
            index: add the position of each sample in the split.
            drop_last: drop an incomplete last batch; ``None`` drops it only while shuffling and only if it would hold a
                single sample, which batch normalisation cannot use.
            workers: processes that read ahead.
            rows: only the samples at these positions, e.g. of :meth:`draw`; with ``index`` positions stay those of the
                split.
        """
        data: Any = self.split(split)
        shuffle = split in ("train", "teacher_train") if shuffle is None else shuffle
        size = len(data) if rows is None else len(rows)
        if drop_last is None:
            drop_last = shuffle and size > batch_size and size % batch_size == 1
        source = cast("Dataset[Any]", WithIndex(data) if index else data)
        if rows is not None:
            source = Subset(source, list(rows))
        return DataLoader(
            source,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=workers,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=self.collate,
        )

    def sample(self, split: str = "test", n: int = 16, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """``n`` random samples without replacement (all of them if there are fewer): ``x (n, ...)``, ``y (n,)``."""
        data = self.split(split)
        check_positive("n", n)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:n].tolist()
        x, y, _ = collate(WithIndex(data).__getitems__(order))
        return x, y

    def draw(self, split: str = "test", n: int = 400, *, seed: int = 0) -> Draw:
        """At most ``n`` samples of a split, for whatever does not look at all of them; classes have their shares.

        The same arguments give the same samples, so that pictures of one page agree.
        """
        return draw_rows(split, len(self.split(split)), n, seed)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what the reference teacher learns from."""
        return fingerprint(self.split("teacher_train"))

    # -- models -------------------------------------------------------------------------------------------------------

    def spec(self, role: str, name: str | None = None) -> ModelSpec:
        """The specification of a ``"teacher"`` or ``"student"`` by name, the default one without a name."""
        check_choice("role", role, ("teacher", "student"))
        group = self.teachers if role == "teacher" else self.students
        name = next(iter(group)) if name is None else name
        check_choice(role, name, tuple(group))
        return group[name]

    def teacher(self, name: str | None = None, *, progress: Progress | None = None) -> Any:
        """A reference teacher in eval mode: read from its checkpoint or from the cache, or trained once and kept.

        Args:
            name: key of :attr:`teachers`, the first by default.
            progress: ``progress(epochs done, epochs in all, text)`` while it is being trained.

        Raises:
            ValueError: unknown name, or a checkpoint that does not fit the task.
            kdcore.checkpoints.CheckpointError: a checkpoint that cannot be read.
        """
        spec, name = self.spec("teacher", name), name or next(iter(self.teachers))
        if spec.weights is not None:
            return self.load(spec.make(self.seed), spec.weights)
        made_of = {
            "task": self.name,
            "model": name,
            "seed": self.seed,
            "recipe": spec.recipe.settings(),
            "data": self.fingerprint,
        }
        if (objective := self.teacher_objective()) != "ce":
            made_of["objective"] = str(objective)
        return cached_weights(
            f"{self.name}-{name}",
            made_of,
            fresh=lambda: spec.make(self.seed),
            train=lambda model: self.fit(model, recipe=spec.recipe, label=f"teacher {name}", progress=progress),
        )

    def untrained_teacher(self, name: str | None = None) -> Any:
        """The network of a reference teacher with its initial weights, in eval mode."""
        return self.spec("teacher", name).make(self.seed).eval()

    def teacher_objective(self) -> str | Method:
        """What reference teachers are trained with; ``"ce"``: from labels, by the task's loss."""
        return "ce"

    def training(self, model: nn.Module) -> Training | None:
        """How a reference teacher is made that needs more than labels (stages of its own); ``None``: :meth:`fit`."""
        return None

    def fit(
        self,
        model: nn.Module,
        split: str = "teacher_train",
        *,
        recipe: Recipe,
        method: str | Method | None = None,
        label: str = "training",
        progress: Progress | None = None,
    ) -> nn.Module:
        """Train a network on a split, from labels by the task's loss unless ``method`` says otherwise; in eval mode.

        Random states are left as they were.

        Args:
            model: trained in place; split: which data; recipe: how.
            method: an objective that needs no teacher; default :meth:`teacher_objective`.
            label, progress: ``progress(epochs done, epochs in all, label)``.
        """

        def report(event: object) -> None:
            if progress is not None and isinstance(event, Epoch):
                progress(event.epoch + 1, recipe.epochs, label)

        own = self.training(model) if method is None else None
        with preserved_rng():
            if own is not None:
                fit(own, seed=self.seed, callbacks=(report,))
                return model.eval()
            distill(
                None,
                model,
                self.teacher_objective() if method is None else method,
                self.loader(split, batch_size=recipe.batch_size, seed=self.seed),
                seed=self.seed,
                callbacks=(report,),
                loss=self.loss,
                readout=self.readout,
                **recipe.training(),
            )
        return model.eval()

    def student(self, name: str | None = None, *, seed: int = 0) -> nn.Module:
        """A student in train mode whose initial weights depend on ``seed`` alone (or on its own checkpoint)."""
        spec = self.spec("student", name)
        model = spec.make(seed)
        return (self.load(model, spec.weights) if spec.weights else model).train()

    def recipe(self, student: str | None = None, *, quick: bool = False) -> Recipe:
        """How a student is trained when nothing else is said; ``quick`` is the cheap preset."""
        recipe = self.spec("student", student).recipe
        return recipe.quick() if quick else recipe

    def load(self, model: nn.Module, weights: str | Path) -> nn.Module:
        """Read a checkpoint into ``model`` and check that it answers as this task wants; returned in eval mode.

        Raises:
            ValueError: other answers.
            kdcore.checkpoints.CheckpointError: a file that cannot be read or fits another network.
        """
        load_weights(model, weights)
        return self.check_model(model.eval(), str(weights))

    def check_model(self, model: nn.Module, name: str = "the model") -> nn.Module:
        """Return ``model`` if it gives what the task can read on two of its inputs, else raise ``ValueError``."""
        try:
            self.predict(model, n=2)
        except ValueError as error:
            raise ValueError(f"{name} does not fit task {self.name!r}: {error}") from error
        return model

    def normalization(self, model: nn.Module) -> nn.Module:
        """The model's own input normalisation (identity where it states none); images of a task are in [0, 1]."""
        return input_normalization(model)

    # -- measurement --------------------------------------------------------------------------------------------------

    @property
    def metric(self) -> str:
        """Name of the score, the first metric."""
        return next(iter(self.metrics()))

    @property
    def higher_is_better(self) -> bool:
        """Direction of the score."""
        return is_better(next(iter(self.metrics().values())))

    def score(self, output: Tensor, labels: Tensor) -> float:
        """The first metric of given answers."""
        metric = next(iter(self.metrics().values()))
        metric.reset()
        metric.update(output, labels)
        return float(metric.compute())

    def answers(
        self, model: nn.Module, split: str = "test", *, batch_size: int = 512, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[Tensor, Any]]:
        """Readout and labels of every batch of a split (of its ``rows``), in its order, on the CPU.

        The model runs in eval mode with its own normalisation; its training flags are put back.
        """
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        normalize = self.normalization(model).to(device)
        with evaluating(model), torch.no_grad():
            for raw in self.loader(split, batch_size=batch_size, shuffle=False, rows=rows):
                batch = read_batch(raw)
                yield self.readout(model(normalize(batch.to(device).x))).cpu(), batch.labels

    def predict(
        self,
        model: nn.Module,
        split: str = "test",
        *,
        n: int | None = None,
        rows: Sequence[int] | None = None,
        batch_size: int = 512,
    ) -> tuple[Tensor, Tensor]:
        """Answers ``(N, ...)`` and labels ``(N, ...)`` over a split, in its order, on the CPU.

        Args:
            model: any module that maps x to what :attr:`readout` reads.
            split: which part of the data.
            n: the first ``n`` samples only (to see what an answer looks like; for numbers take :meth:`draw`).
            rows: the samples at these positions only.
            batch_size: samples per forward pass.
        """
        size = len(self.split(split)) if rows is None else len(rows)
        total = size if n is None else min(n, size)
        found, labels, count = [], [], 0
        for output, truth in self.answers(model, split, batch_size=min(batch_size, total), rows=rows):
            found.append(output)
            labels.append(truth)
            count += len(output)
            if count >= total:
                break
        return torch.cat(found)[:total], torch.cat(labels)[:total]

    def evaluate(
        self, model: nn.Module, split: str = "test", *, readout: Callable[[Any], Tensor] | None = None
    ) -> dict[str, float]:
        """The metrics over a split, and the cross-entropy in nats (``"ce"``) where labels are classes.

        ``readout`` takes the place of the task's own, for students of methods that read their output differently.
        """
        loader = self.loader(split, batch_size=512, shuffle=False)
        read = readout if readout is not None else self.readout
        return evaluate(model, loader, metric=self.metrics(), readout=read, transform=self.normalization(model))

    # -- words --------------------------------------------------------------------------------------------------------

    def facts(self) -> list[tuple[str, str]]:
        """What the task is, as (name, value) pairs."""
        sizes = ", ".join(
            f"{name} {len(self.split(name))}"
            for name in self.splits
            if name != "teacher_train" or self.teacher_train is not self.train
        )

        def menu(group: dict[str, ModelSpec]) -> str:
            return "; ".join(f"{name} ({spec.words})" if spec.words else name for name, spec in group.items())

        direction = "higher" if self.higher_is_better else "lower"
        return [
            ("samples", sizes),
            ("input", " x ".join(map(str, self.input_shape))),
            *self.label_facts(),
            ("metric", f"{self.metric}, {direction} is better"),
            ("teachers", menu(self.teachers)),
            ("students", menu(self.students)),
            ("seed", str(self.seed)),
            *(("note", note) for note in self.notes),
        ]

    def label_facts(self) -> list[tuple[str, str]]:
        """What the labels mean, as (name, value) pairs."""
        return []

    def describe(self) -> str:
        """Plain text: sizes, shape, classes, metric, models, notes."""
        head = f"{self.name}: {self.words}" if self.words else self.name
        return "\n".join([head, *(f"  {name:<9} {value}" for name, value in self.facts())])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.train)} train, {len(self.test)} test)"

    def _repr_html_(self) -> str:
        return html.facts(self.facts(), caption=f"{self.name} {self.words}".strip())
