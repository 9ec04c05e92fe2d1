"""Tasks whose labels are classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..functional.checks import describe
from ..metrics import accuracy
from ..weights import fitting_names, read_weights
from ._data import known_labels, labels_of
from ._draw import Draw, draw_rows
from ._models import reference_models
from ._task import Task


@dataclass(kw_only=True, eq=False)
class Classification(Task):
    """A :class:`Task` whose labels are classes and whose networks give logits ``(N, C)``.

    Any map-style data sets that give ``(x, y)`` make one::

        task = Classification(name="mine", train=train_set, test=test_set, class_names=("cat", "dog"))
        teacher, student = task.teacher("cnn"), task.student("cnn-small", seed=0)

    Without ``teachers`` or ``students``, small reference networks that fit the input's shape are offered (perceptrons,
    convolutions, vision transformers).

    Attributes:
        class_names: names in the order of the labels.

    Raises:
        ValueError: no classes, or labels outside the classes.
    """

    class_names: Sequence[str]

    def __post_init__(self) -> None:
        self.class_names = tuple(map(str, self.class_names))
        if not self.class_names:
            raise ValueError("class_names must name at least one class.")
        super().__post_init__()
        for split in self.splits:
            labels = known_labels(self.split(split))
            if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                raise ValueError(
                    f"labels of the {split} split must be in [0, {self.num_classes}), got values from "
                    f"{int(labels.min())} to {int(labels.max())}."
                )
        teachers, students = reference_models(self.input_shape, self.num_classes)
        self.teachers, self.students = self.teachers or teachers, self.students or students

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def labels(self, split: str = "test") -> Tensor:
        """All labels of a split, ``(N,)`` int64, in the order of the data set."""
        return labels_of(self.split(split))

    def draw(self, split: str = "test", n: int = 400, *, seed: int = 0) -> Draw:
        """At most ``n`` samples of a split, every class with its share; see :meth:`Task.draw`."""
        data = self.split(split)
        return draw_rows(split, len(data), n, seed, self.labels(split).numpy() if n < len(data) else None)

    def load(self, model: nn.Module, weights: str | Path) -> nn.Module:
        """Read a checkpoint into ``model`` and check that it answers with this task's classes; returned in eval mode.

        Raises:
            ValueError: the checkpoint's classifier has another number of classes; both numbers are named.
            kdcore.checkpoints.CheckpointError: a file that cannot be read or fits another network.
        """
        own = model.state_dict()
        stored = fitting_names(own, read_weights(weights))
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
        return super().load(model, weights)

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

    def accuracy(self, model: nn.Module, split: str = "test") -> float:
        """Share of samples classified as labelled, in [0, 1]."""
        return accuracy(*self.predict(model, split))

    def recall(self, model: nn.Module, split: str = "test") -> Tensor:
        """Share of each class's samples classified as such, ``(C,)`` float64; NaN for a class without samples."""
        logits, labels = self.predict(model, split)
        right = labels[logits.argmax(1) == labels]
        return right.bincount(minlength=self.num_classes).double() / labels.bincount(minlength=self.num_classes)

    def label_facts(self) -> list[tuple[str, str]]:
        """The classes."""
        return [("classes", f"{self.num_classes}: {self._class_words()}")]

    def _class_words(self) -> str:
        return ", ".join(self.class_names[:12]) + (", ..." if self.num_classes > 12 else "")

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.test)} test"
        return f"Classification({self.name!r}, {self.num_classes} classes, {sizes})"
