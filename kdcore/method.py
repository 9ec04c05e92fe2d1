"""What a training objective is: what it reads, what it learns, its knobs, and its named loss terms.

A new paper subclasses :class:`Method` beside its loss functions::

    class PLD(Method):
        name, label = "pld", "PLD"
        knobs = (Knob("temperature", 1.0, 0.5, 8.0, symbol="tau_T", ...), ce_weight_knob(0.0))

        def terms(self, s: Signals) -> dict[str, Tensor]:
            return {"pld": pld_loss(s.student_logits, s.teacher_logits, s.labels, temperature=self.knob.temperature)}

    CARD = MethodCard(slug="pld", summary="...", objectives=(PLD,), ...)  # at the end of the module: PLD.card is CARD
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .card import Axes, Knob, MethodCard, knob_names
from .functional.checks import closest
from .inputs import Batch
from .model_layers import embedding_tap
from .outputs import logits_of
from .taps import evaluating, tap


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the training loop must supply.

    Attributes:
        teacher_logits: run the teacher (or read its cache) for logits.
        labels: batches must carry labels.
        index: batches must carry the sample's index (memory banks, per-sample state).
        validation: every step also gets a batch of the validation data (:attr:`Signals.validation`).
        same_classes: student and teacher logits must have the same classes (a method that maps them itself says no).
        views: number of augmented views per sample; with 2, a loader gives ``x`` as a pair and the loop runs both.
    """

    teacher_logits: bool = True
    labels: bool = True
    index: bool = False
    validation: bool = False
    same_classes: bool = True
    views: int = 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one teacher said to a batch: its output, the logits in it (where an objective reads them), tapped layers."""

    output: Any = None
    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(kw_only=True)
class Signals:
    """Everything an objective may look at in one step; teacher tensors carry no gradient.

    Attributes:
        student_logits: ``(N, C)``, ``(N, C, H, W)`` for maps, ``(N, C, L)`` for sequences: the classes (the vocabulary)
            are the second dimension, as for torch's cross-entropy.
        teacher_logits: same shape; ``None`` where :attr:`Needs.teacher_logits` is false.
        labels: ``(N,)`` int64 (``(N, H, W)``, ``(N, L)``; -100 is ignored), probabilities ``(N, C)``, or ``None``.
        student_features, teacher_features: tapped tensors by tap name, as the modules returned them.
        student_output: what the student returned (tensor, tuple, dict); ``student_logits`` is its readout.
        teachers: all teachers' answers by name; ``teacher_logits`` and ``teacher_features`` are those of the only one
            (of a sequence of teachers, logits are stacked ``(M, N, C)``).
        inputs: the batch ``x``; index: ``(N,)`` sample ids; view: ``(N,)`` view number where several are used.
        epoch: counts from 0; step: optimizer steps since the start; progress: in [0, 1] over the whole training.
        generator: for objectives that draw random numbers.
        validation: a batch of the validation data, on the device (only with :attr:`Needs.validation`).
        task_loss: the task's own loss ``(output, labels)``; ``None``: cross-entropy of the logits.
        fixed_ce_weight: weight of the supervised term given by the caller, in place of the method's own.
    """

    student_logits: Tensor
    teacher_logits: Tensor | None = None
    labels: Tensor | None = None
    student_features: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    student_output: Any = None
    teachers: Mapping[str, Answer] = field(default_factory=dict)
    inputs: Tensor | None = None
    index: Tensor | None = None
    view: Tensor | None = None
    epoch: int = 0
    step: int = 0
    progress: float = 0.0
    generator: torch.Generator | None = None
    validation: Batch | None = None
    task_loss: Callable[[Any, Tensor], Tensor | Mapping[str, Tensor]] | None = None
    fixed_ce_weight: float | None = None

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


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The teacher's answers to a part of the training set.

    Attributes:
        logits: ``(n, C)`` or ``None``; features: tapped layers by name; labels, index: ``(n,)`` or ``None``.
    """

    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    index: Tensor | None = None


class TrainingOutputs:
    """The teacher's answers to the whole training set, in parts: every iteration is one pass, as the loader gives it.

    Args:
        parts: called for each pass.
        classes: ``C`` of the student.
    """

    def __init__(self, parts: Callable[[], Iterable[Outputs]], classes: int) -> None:
        self._parts, self.classes = parts, classes

    def __iter__(self) -> Iterator[Outputs]:
        return iter(self._parts())

    def collect(self) -> Outputs:
        """All parts as one, on the CPU; what it costs is the memory of everything that was asked for."""
        parts = list(self)

        def joined(values: list[Tensor | None]) -> Tensor | None:
            kept = [v.cpu() for v in values if v is not None]
            return torch.cat(kept) if kept else None

        names = parts[0].features if parts else ()
        features = {n: torch.cat([p.features[n].cpu() for p in parts]) for n in names}
        logits, labels, index = (joined([getattr(p, n) for p in parts]) for n in ("logits", "labels", "index"))
        return Outputs(logits=logits, features=features, labels=labels, index=index)

    @classmethod
    def of(cls, signals: Signals) -> TrainingOutputs:
        """Those of one batch, as if it were the whole training set."""
        s = signals
        part = Outputs(logits=s.teacher_logits, features=s.teacher_features, labels=s.labels, index=s.index)
        return cls(lambda: [part], s.student_logits.shape[1])


class Method(nn.Module):
    """A training objective for :func:`kdcore.distiller.distill`.

    Subclasses set ``name``, ``label``, ``knobs`` and ``needs`` and write :meth:`terms`; the paper's card, whose
    ``objectives`` name them, sets their ``card``. Learnable parts (projectors, heads) are submodules created in
    ``__init__`` or :meth:`setup`; they are trained and checkpointed with the student and dropped afterwards.

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
        own = vars(cls)
        if "card" in own:  # a variant under another paper's card, which does not name it
            cls.name = own.get("name", cls.card.slug)
            cls.invariances = own.get("invariances", cls.card.invariances)
        if "name" in own:
            cls.label = own.get("label", cls.name.upper())
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

    # What the method reads. Names are dotted module names, see kdcore.taps. Of several teachers, names are read from
    # every one; a mapping says which of whom.
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] | Mapping[str, tuple[str, ...]] = ()

    @property
    def taught(self) -> bool:
        """Whether a teacher is needed: its logits, a layer of it, or a look at its answers before the start."""
        return self.needs.teacher_logits or bool(self.teacher_taps) or type(self).prepare is not Method.prepare

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

    def wrap_student(self, student: nn.Module, sample: Tensor) -> nn.Module:
        """The module that is trained and deployed, e.g. the student with a head of another size; by default itself."""
        return student

    def prepare(self, seen: TrainingOutputs) -> None:
        """Called once before the first step with the teacher's answers to the training set, if it is overridden.

        What is kept goes into buffers (``register_buffer``): a resumed run reads them from its checkpoint.
        """

    def readout(self, output: Any) -> Tensor:
        """What metrics, and objectives as ``student_logits``, read of the student's output."""
        return logits_of(output)

    def supervised(self, s: Signals) -> Tensor | Mapping[str, Tensor] | None:
        """What is learnt from labels; of several objectives the first one's counts.

        By default :meth:`ce_weight` times the task's loss (cross-entropy, unless the task has another); ``None``:
        nothing. A tensor is reported as ``"ce"``, a mapping by its names.
        """
        weight = s.fixed_ce_weight if s.fixed_ce_weight is not None else self.ce_weight(s)
        if not weight or s.labels is None:
            return None
        if s.task_loss is None:
            return weight * F.cross_entropy(s.student_logits, s.labels)
        loss = s.task_loss(s.student_logits if s.student_output is None else s.student_output, s.labels)
        return {n: weight * t for n, t in loss.items()} if isinstance(loss, Mapping) else weight * loss

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

    def on_loss(self, terms: Mapping[str, float], s: Signals) -> None:
        """Hook after the optimizer step with the values of all terms (schedules that follow the loss)."""

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

        Methods that read features override it and add them. With ``match`` the student is the teacher.
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

    name, label = "ce", "CE"
    knobs = (ce_weight_knob(1.0),)
    needs = Needs(teacher_logits=False)

    def terms(self, s: Signals) -> dict[str, Tensor]:
        return {}


CE_CARD = MethodCard(
    slug="ce",
    objectives=(CrossEntropy,),
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


def total(terms: Iterable[Tensor]) -> Tensor:
    """Sum of scalar terms (at least one); the loop calls it once per step."""
    return torch.stack(list(terms)).sum()
