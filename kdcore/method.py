"""What a training objective is: what it reads, what it learns, its knobs, and its named loss terms.

A new paper subclasses :class:`Method` beside its loss functions::

    class PLD(Method):
        card = CARD
        name, label = "pld", "PLD"
        knobs = (Knob("temperature", 1.0, 0.5, 8.0, symbol="tau_T", ...), ce_weight_knob(0.0))

        def terms(self, s: Signals) -> dict[str, Tensor]:
            return {"pld": pld_loss(s.student_logits, s.teacher_logits, s.labels, temperature=self.knob.temperature)}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .functional.checks import closest
from .inputs import Batch
from .model_layers import embedding_tap
from .registry import Axes, Knob, MethodCard, knob_names
from .taps import evaluating, tap


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the training loop must supply.

    Attributes:
        teacher_logits: run the teacher (or read its cache) for logits.
        labels: batches must carry labels.
        index: batches must carry the sample's index (memory banks, per-sample state).
        class_means: mean teacher feature per class, computed over the training set before the first step, of the tap
            that :meth:`Method.class_mean_tap` names.
        same_classes: student and teacher logits must have the same classes (a method that maps them itself says no).
        views: number of augmented views per sample; with 2, a loader gives ``x`` as a pair and the loop runs both.
    """

    teacher_logits: bool = True
    labels: bool = True
    index: bool = False
    class_means: bool = False
    same_classes: bool = True
    views: int = 1


@dataclass(kw_only=True)
class Signals:
    """Everything an objective may look at in one step; teacher tensors carry no gradient.

    Attributes:
        student_logits: ``(N, C)``, ``(N, C, H, W)`` for maps, ``(N, C, L)`` for sequences: the classes (the vocabulary)
            are the second dimension, as for torch's cross-entropy.
        teacher_logits: same shape; ``None`` where :attr:`Needs.teacher_logits` is false.
        labels: ``(N,)`` int64 (``(N, H, W)``, ``(N, L)``; -100 is ignored), probabilities ``(N, C)``, or ``None``.
        student_features, teacher_features: tapped tensors by tap name, as the modules returned them.
        class_means: ``(C, D)`` teacher class means, or ``None``.
        inputs: the batch ``x``; index: ``(N,)`` sample ids; view: ``(N,)`` view number where several are used.
        epoch: counts from 0; step: optimizer steps since the start; progress: in [0, 1] over the whole training.
        generator: for objectives that draw random numbers.
    """

    student_logits: Tensor
    teacher_logits: Tensor | None = None
    labels: Tensor | None = None
    student_features: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    class_means: Tensor | None = None
    inputs: Tensor | None = None
    index: Tensor | None = None
    view: Tensor | None = None
    epoch: int = 0
    step: int = 0
    progress: float = 0.0
    generator: torch.Generator | None = None

    @property
    def logits(self) -> tuple[Tensor, Tensor]:
        """``(student_logits, teacher_logits)``, for ``kd_loss(*s.logits, ...)``; ``ValueError`` without a teacher."""
        if self.teacher_logits is None:
            raise ValueError("teacher_logits are required: the objective must declare Needs(teacher_logits=True).")
        return self.student_logits, self.teacher_logits


def ce_weight_knob(default: float, source: str = "") -> Knob:
    """The knob every objective has: weight of the cross-entropy with the labels that the loop adds to its terms."""
    return Knob(
        "ce_weight", default, 0.0, 1.0, symbol="w_ce", help="weight of cross-entropy with the labels", source=source
    )


class Method(nn.Module):
    """A training objective for :func:`kdcore.distiller.distill`.

    Subclasses set ``card``, ``name``, ``label``, ``knobs`` and ``needs`` and write :meth:`terms`. Learnable parts
    (projectors, heads) are submodules created in ``__init__`` or :meth:`setup`; they are trained and checkpointed with
    the student and dropped afterwards.

    Args:
        **knobs: hyper-parameters by name; what is not given takes the paper's default. Read as ``self.knob.<name>``.

    Raises:
        ValueError: unknown knob, with the closest names.
        TypeError: a knob of the wrong type.
    """

    card: ClassVar[MethodCard]
    name: ClassVar[str]
    label: ClassVar[str]
    knobs: ClassVar[tuple[Knob, ...]] = ()
    needs: ClassVar[Needs] = Needs()
    invariances: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        card = cls.__dict__.get("card")
        if card is not None:
            cls.knobs = cls.__dict__.get("knobs", card.knobs)
            cls.name = cls.__dict__.get("name", card.slug)
            cls.label = cls.__dict__.get("label", cls.name.upper())
            cls.invariances = cls.__dict__.get("invariances", card.invariances)
            if "ce_weight" not in knob_names(cls.knobs):
                cls.knobs = (*cls.knobs, ce_weight_knob(1.0))

    def __init__(self, **knobs: Any) -> None:
        super().__init__()
        known = {k.name: k for k in self.knobs}
        for given in knobs:
            if given not in known:
                raise ValueError(
                    f"{self.name} has no knob {given!r}.{closest(given, known)} It has: {', '.join(known)}."
                )
        self.knob = SimpleNamespace(**{n: k.check(knobs.get(n, k.default)) for n, k in known.items()})

    # What the method reads. Names are dotted module names, see kdcore.taps.
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()

    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        """Called once before the optimizer is built: choose taps, build projectors from a sample batch."""

    def settle_taps(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        sample: Tensor,
        *,
        find: Callable[[nn.Module, Tensor], str] = embedding_tap,
    ) -> list[tuple[int, ...]]:
        """For :meth:`setup` of objectives that compare one layer of each model: name both layers and measure them.

        A tap that was assigned to the instance stays; one that is still the class's placeholder becomes what ``find``
        names in that model.

        Args:
            find: ``(model, sample) -> tap``; default the penultimate embedding.

        Returns:
            Shapes per sample of the student's and of the teacher's feature.

        Raises:
            ValueError: no teacher.
        """
        if teacher is None:
            raise ValueError(f"{self.name} needs a teacher: it reads one of its layers.")
        shapes = []
        for side, model in (("student_taps", student), ("teacher_taps", teacher)):
            if getattr(self, side) == getattr(type(self), side):
                setattr(self, side, (find(model, sample),))
            (name,) = getattr(self, side)
            with torch.no_grad(), evaluating(model), tap(model, name) as features:
                model(sample)
                shapes.append(tuple(features[name].shape[1:]))
        return shapes

    def class_mean_tap(self) -> str:
        """Name of the teacher tap whose class means are wanted (only with ``needs.class_means``)."""
        raise NotImplementedError(f"{self.name} asks for class means but does not name a teacher tap.")

    def min_batch(self) -> int:
        """Fewest samples of a batch on which the terms are defined; a smaller last batch is refused at the start."""
        return 1

    def terms(self, s: Signals) -> dict[str, Tensor]:
        """Named scalar loss terms, each already multiplied by its weight; cross-entropy is added by the loop."""
        raise NotImplementedError

    def ce_weight(self, s: Signals) -> float:
        """Weight of cross-entropy at this step; constant unless the paper schedules it."""
        return self.knob.ce_weight

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups for the learnable parts; a group may carry its own ``lr`` or ``weight_decay``."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return [{"params": parameters}] if parameters else []

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change what both models see (mixtures, cut-outs, noise) before they run; by default nothing.

        Args:
            batch: on the device; return a changed copy (``dataclasses.replace``) with as many samples. ``labels`` may
                become class probabilities ``(N, C)``, which cross-entropy takes as they are.
            generator: on the same device; checkpointed, so that a resumed run draws the same numbers.

        A teacher cache holds answers to the unchanged samples: the loop refuses it for a method that has this hook.
        """
        return batch

    def on_epoch_start(self, epoch: int) -> None:
        """Hook before the first step of an epoch (schedules, memory banks)."""

    def on_epoch_end(self, epoch: int) -> None:
        """Hook after the last step of an epoch."""

    def on_step_end(self, s: Signals) -> None:
        """Hook after the optimizer step (moving averages, queues)."""

    @property
    def settings(self) -> dict[str, Any]:
        """Knob values by name, as stored in run records."""
        return dict(vars(self.knob))

    def forward(self, s: Signals) -> dict[str, Tensor]:
        return self.terms(s)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.settings.items())

    @classmethod
    def example_models(cls) -> tuple[nn.Module, nn.Module | None, Any] | None:
        """Small student, teacher and input on which the contract suite tries :meth:`setup`.

        ``None``: two convolutional networks and four images ``(4, 3, 8, 8)``. Methods for texts or graphs override it.
        """
        return None

    @classmethod
    def example(
        cls, *, batch: int = 6, classes: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0, match: bool = False
    ) -> Signals:
        """Random signals on which the contract suite, and the two-tensor examples of lessons, evaluate the objective.

        Methods that read features or class means override it and add them. With ``match`` the student is the teacher.
        """
        g = torch.Generator().manual_seed(seed)
        teacher = torch.randn(batch, classes, generator=g, dtype=torch.float64).mul(2).to(dtype)
        noise = torch.randn(batch, classes, generator=g, dtype=torch.float64).to(dtype)
        student = teacher.clone() if match else teacher * 0.3 + noise
        labels = torch.randint(classes, (batch,), generator=g)
        return Signals(
            student_logits=student.requires_grad_(),
            teacher_logits=teacher,
            labels=labels,
            generator=torch.Generator().manual_seed(seed),
        )


class CrossEntropy(Method):
    """The baseline without a teacher: labels only. Not a paper of the collection, so it has no lesson of its own."""

    card = MethodCard(
        slug="ce",
        title="Cross-entropy (no teacher)",
        authors="baseline",
        year=1922,
        family="foundations",
        summary="The student learns from the labels alone: the baseline every distillation result is compared with.",
        axes=Axes(
            knowledge="response",
            scheme="nokd",
            signal="hardce",
            task="classification",
            modality="image",
            teacher_access="none",
            data_regime="labelled",
            teachers="none",
            arch="any",
            goal="accuracy",
        ),
    )
    name, label = "ce", "CE"
    knobs = (ce_weight_knob(1.0),)
    needs = Needs(teacher_logits=False)

    def terms(self, s: Signals) -> dict[str, Tensor]:
        return {}


def total(terms: Iterable[Tensor]) -> Tensor:
    """Sum of scalar terms (at least one); the loop calls it once per step."""
    return torch.stack(list(terms)).sum()
