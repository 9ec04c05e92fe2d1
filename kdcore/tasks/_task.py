"""A task: data, reference teacher and student, loaders, metric. What a lesson, a sweep and the workbench all run on."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..checkpoints import load_weights, read_weights
from ..distiller import accuracy
from ..functional.checks import check_choice, check_positive, describe
from ..inputs import input_normalization
from ..method import Method
from ..taps import evaluating
from ._data import SizedDataset, WithIndex, as_dataset, collate, fingerprint, known_labels, labels_of
from ._models import ModelSpec, Recipe, reference_models
from ._teachers import Progress, reference_teacher

SPLITS = ("train", "val", "test", "teacher_train")


@dataclass(kw_only=True, eq=False)
class Task:
    """Data with a reference teacher, a reference student and a metric.

    Any map-style data sets that give ``(x, y)`` make a task::

        task = Task(name="mine", train=train_set, test=test_set, class_names=("cat", "dog"))
        teacher, student = task.teacher("cnn"), task.student("cnn-small", seed=0)

    Attributes:
        name: of the task; also part of the file name of cached teachers.
        train, test: map-style data sets of ``(x float tensor, y int)``; ``train`` is what the student sees.
        val: validation split, or ``None``.
        teacher_train: what the teacher learns from; ``train`` unless the student sees less than the teacher did.
        class_names: names in the order of the labels.
        teachers, students: networks by name, the first is the default; without them, small reference networks that fit
            the input's shape (perceptrons, convolutions, vision transformers).
        seed: of the split and of the reference teachers.
        metric: what ``score`` is called; accuracy in [0, 1].
        higher_is_better: its direction.
        score: ``score(logits (N, C), labels (N,)) -> float``.
        words: one line for menus.
        notes: what a user must know, e.g. how many files were skipped.

    Raises:
        TypeError: a split without length.
        ValueError: an empty split, no classes, labels outside the classes.
    """

    name: str
    train: SizedDataset
    test: SizedDataset
    class_names: Sequence[str]
    val: SizedDataset | None = None
    teacher_train: SizedDataset | None = None
    teachers: dict[str, ModelSpec] = field(default_factory=dict)
    students: dict[str, ModelSpec] = field(default_factory=dict)
    seed: int = 0
    metric: str = "accuracy"
    higher_is_better: bool = True
    score: Callable[[Tensor, Tensor], float] = accuracy
    words: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.class_names = tuple(map(str, self.class_names))
        if not self.class_names:
            raise ValueError("class_names must name at least one class.")
        self.teacher_train = self.train if self.teacher_train is None else self.teacher_train
        for split in self.splits:
            if not len(as_dataset(self.split(split))):
                raise ValueError(f"the {split} split of task {self.name!r} is empty.")
            labels = known_labels(self.split(split))
            if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                raise ValueError(
                    f"labels of the {split} split must be in [0, {self.num_classes}), got values from "
                    f"{int(labels.min())} to {int(labels.max())}."
                )
        teachers, students = reference_models(self.input_shape, self.num_classes)
        self.teachers, self.students = self.teachers or teachers, self.students or students

    # -- data ---------------------------------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, ``(C, H, W)`` or ``(D,)``."""
        return tuple(torch.as_tensor(self.test[0][0]).shape)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that exist."""
        return tuple(name for name in SPLITS if getattr(self, name) is not None)

    def split(self, name: str) -> SizedDataset:
        """A split by name: ``train``, ``val``, ``test`` or ``teacher_train``."""
        check_choice("split", name, SPLITS)
        data = getattr(self, name)
        if data is None:
            raise ValueError(
                f"task {self.name!r} has no {name} split; it has {', '.join(self.splits)} "
                "(val_fraction=0.1 sets a validation split aside)."
            )
        return data

    def labels(self, split: str = "test") -> Tensor:
        """All labels of a split, ``(N,)`` int64, in the order of the data set."""
        return labels_of(self.split(split))

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
        """
        data = self.split(split)
        shuffle = split in ("train", "teacher_train") if shuffle is None else shuffle
        if drop_last is None:
            drop_last = shuffle and len(data) > batch_size and len(data) % batch_size == 1
        source = cast("Dataset[Any]", WithIndex(data) if index else data)
        return DataLoader(
            source,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=workers,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=collate,
        )

    def sample(self, split: str = "test", n: int = 16, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """``n`` random samples without replacement (all of them if there are fewer): ``x (n, ...)``, ``y (n,)``."""
        data = self.split(split)
        check_positive("n", n)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:n].tolist()
        x, y, _ = collate(WithIndex(data).__getitems__(order))
        return x, y

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

    def teacher(self, name: str | None = None, *, progress: Progress | None = None) -> nn.Module:
        """A reference teacher in eval mode: read from its checkpoint or from the cache, or trained once and kept.

        Args:
            name: key of :attr:`teachers`, the first by default.
            progress: ``progress(epochs done, epochs in all, text)`` while it is being trained.

        Raises:
            ValueError: unknown name, or a checkpoint for another number of classes.
            kdcore.checkpoints.CheckpointError: a checkpoint that cannot be read.
        """
        spec = self.spec("teacher", name)
        if spec.weights is None:
            return reference_teacher(self, name or next(iter(self.teachers)), spec, progress=progress)
        return self.load(spec.make(self.seed), spec.weights)

    def teacher_objective(self) -> str | Method:
        """What reference teachers are trained with: cross-entropy, where the labels are classes."""
        return "ce"

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
        """Read a checkpoint into ``model`` and check that it answers with this task's classes; returned in eval mode.

        Raises:
            ValueError: the checkpoint's classifier has another number of classes; both numbers are named.
            kdcore.checkpoints.CheckpointError: a file that cannot be read or fits another network.
        """
        own, stored = model.state_dict(), read_weights(weights)
        other = {
            key: len(stored[key])
            for key, mine in own.items()
            if key in stored
            and mine.shape != stored[key].shape
            and mine.ndim == stored[key].ndim
            and mine.ndim
            and mine.shape[1:] == stored[key].shape[1:]
            and len(mine) == self.num_classes
        }
        unlike = {key for key, mine in own.items() if key in stored and mine.shape != stored[key].shape}
        if other and unlike == set(other):  # nothing but the classifier differs
            raise ValueError(
                f"{weights} was trained for {max(other.values())} classes ({', '.join(other)}), but task "
                f"{self.name!r} has {self.num_classes}: {self._class_words()}."
            )
        load_weights(model, weights)
        return self.check_model(model.eval(), str(weights))

    def check_model(self, model: nn.Module, name: str = "the model") -> nn.Module:
        """Return ``model`` if it gives ``(N, num_classes)`` logits on this task's inputs.

        Raises:
            ValueError: other output; the message names both numbers of classes.
        """
        logits, _ = self.predict(model, n=2)
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"{name} must give (N, {self.num_classes}) logits, one for each class of task "
                f"{self.name!r} ({self._class_words()}), got {describe(logits)}."
            )
        return model

    def normalization(self, model: nn.Module) -> nn.Module:
        """The model's own input normalisation (identity where it states none); images of a task are in [0, 1]."""
        return input_normalization(model)

    # -- measurement --------------------------------------------------------------------------------------------------

    def predict(
        self, model: nn.Module, split: str = "test", *, n: int | None = None, batch_size: int = 512
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(N, C)`` and labels ``(N,)`` over a split, in its order, on the CPU.

        The model runs in eval mode with its own normalisation; its training flags are put back.

        Args:
            model: any module that maps x to logits.
            split: which part of the data.
            n: the first ``n`` samples only.
            batch_size: samples per forward pass.
        """
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        normalize = self.normalization(model).to(device)
        total = len(self.split(split)) if n is None else min(n, len(self.split(split)))
        logits, labels = [], []
        with evaluating(model), torch.no_grad():
            for x, y in islice(
                self.loader(split, batch_size=min(batch_size, total), shuffle=False), math.ceil(total / batch_size)
            ):
                logits.append(model(normalize(x.to(device))).cpu())
                labels.append(y)
        return torch.cat(logits)[:total], torch.cat(labels)[:total]

    def evaluate(self, model: nn.Module, split: str = "test") -> dict[str, float]:
        """The metric, and the cross-entropy in nats (``"ce"``), over a split."""
        logits, labels = self.predict(model, split)
        return {self.metric: float(self.score(logits, labels)), "ce": F.cross_entropy(logits.double(), labels).item()}

    def accuracy(self, model: nn.Module, split: str = "test") -> float:
        """Share of samples classified as labelled, in [0, 1]."""
        return accuracy(*self.predict(model, split))

    def recall(self, model: nn.Module, split: str = "test") -> Tensor:
        """Share of each class's samples classified as such, ``(C,)`` float64; NaN for a class without samples."""
        logits, labels = self.predict(model, split)
        right = labels[logits.argmax(1) == labels]
        return right.bincount(minlength=self.num_classes).double() / labels.bincount(minlength=self.num_classes)

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
            ("classes", f"{self.num_classes}: {self._class_words()}"),
            ("metric", f"{self.metric}, {direction} is better"),
            ("teachers", menu(self.teachers)),
            ("students", menu(self.students)),
            ("seed", str(self.seed)),
            *(("note", note) for note in self.notes),
        ]

    def _class_words(self) -> str:
        return ", ".join(self.class_names[:12]) + (", ..." if self.num_classes > 12 else "")

    def describe(self) -> str:
        """Plain text: sizes, shape, classes, metric, models, notes."""
        head = f"{self.name}: {self.words}" if self.words else self.name
        return "\n".join([head, *(f"  {name:<9} {value}" for name, value in self.facts())])

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {self.num_classes} classes, {len(self.train)} train, {len(self.test)} test)"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in self.facts()
        )
        caption = f"<b>{html.escape(self.name)}</b> {html.escape(self.words)}"
        return f'<table><caption style="text-align:left">{caption}</caption>{rows}</table>'
