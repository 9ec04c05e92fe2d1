r"""Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation (ICLR 2024), arXiv:2312.15112.

How much should a student listen to the teacher rather than to the label? Usually one number :math:`\alpha` says so for
all samples. TGeo-KD learns it *per sample* from the triangle of three points among the class probabilities, the student
:math:`S`, the teacher :math:`T` and the label :math:`G`, and a fourth point that tells outliers, the teacher's average
answer :math:`\bar T` to the label's class. A small network maps these relations to :math:`\alpha`; it is trained so
that the student, *after* a step with these weights, does well on validation data:

.. math::
    L = \frac1N \sum_n \alpha_n T_{kd}^2 \, KL(t_n \| s_n) + (1 - \alpha_n) \, CE(s_n, y_n), \qquad
    \min_\omega L_{val}(\theta - \eta \nabla_\theta L(\theta, \alpha_\omega))

=====================  =================================  =====================================
paper                  argument                           shape
=====================  =================================  =====================================
:math:`s, t`           student_logits, teacher_logits     ``(N, C)``
:math:`y`              labels                             ``(N,)``
:math:`\bar T`         class_means                        ``(C, C)``, a row for each label
:math:`\alpha`         alpha                              ``(N,)`` in [0, 1]
:math:`\omega`         :class:`FusionRatioController`
:math:`\eta`           inner_lr                           of the virtual step
=====================  =================================  =====================================

The paper does not say how the outer gradient is taken, and the released loop takes none: it evaluates :math:`\alpha`
without gradient, so that its controller stays as it was initialised. Here one step is unrolled.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..card import Evidence, MethodCard, Parity
from ..checkpoints import preserved_rng
from ..engine import Learn, Run, Stage, Training
from ..functional.checks import check_choice, check_labels, check_logits_pair, check_positive, describe
from ..functional.divergences import kl_with_temperature
from ..functional.parameters import functional_step
from ..functional.prototypes import class_means as mean_by_class
from ..functional.reductions import at_least_float32, reduce
from ..inputs import Paired
from ..taps import evaluating

#: Which relations a controller reads; ``"full"`` is the released code's.
FEATURES = ("sg_tg", "intra", "full", "angles")
UPDATES = ("one_step", "frozen", "constant")


def class_mean_predictions(
    teacher_logits_or_probs: Tensor, labels: Tensor, num_classes: int, *, from_logits: bool = True
) -> Tensor:
    """The teacher's average answer to the samples of each label.

    Args:
        teacher_logits_or_probs: ``(N, C)`` over the training set.
        labels: ``(N,)`` integers.
        num_classes: C.
        from_logits: take the softmax first.

    Returns:
        ``(C, C)``; a class without samples gets ``1 / C`` everywhere (the released code: NaN that is never read).

    Raises:
        ValueError: shapes, labels out of range. TypeError: labels that are not integers.

    Reference:
        arXiv:2312.15112, equation 9.
    """
    check_logits_pair(teacher_logits_or_probs, teacher_logits_or_probs)
    if teacher_logits_or_probs.shape[1] != num_classes:
        raise ValueError(
            f"teacher_logits_or_probs must be (N, {num_classes}), got {describe(teacher_logits_or_probs)}."
        )
    labels = check_labels(labels, len(teacher_logits_or_probs), num_classes)
    p = at_least_float32(teacher_logits_or_probs.detach())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no sample of class")
        means = mean_by_class(p.softmax(1) if from_logits else p, labels, num_classes)
    return means.to(p).nan_to_num(1 / num_classes)


def relation_dim(num_classes: int, features: str = "full") -> int:
    """Width F of :func:`trilateral_relations` for C classes: 5, 6, 9 or 11 values for each, in the order of FEATURES.

    Raises:
        ValueError: unknown ``features``.
    """
    check_choice("features", features, FEATURES)
    return {"sg_tg": 5, "intra": 6, "full": 9, "angles": 11}[features] * num_classes


def trilateral_relations(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, class_means: Tensor, *, features: str = "full"
) -> Tensor:
    """Vertices and edges of the triangle of student, teacher and label, side by side.

    Args:
        student_logits: ``(N, C)``; teacher_logits: ``(N, C)``, detached.
        labels: ``(N,)`` integers.
        class_means: ``(C, C)`` of :func:`class_mean_predictions`.
        features: ``"sg_tg"``: S, T, G and the edges to G; ``"intra"``: also the edge T-S; ``"full"``: also the average
            answer and its edges to S and G (default, released code); ``"angles"``: also two elementwise products.

    Returns:
        ``(N, F)``, F of :func:`relation_dim`.

    Raises:
        ValueError: shapes, labels, unknown features. TypeError: labels that are not integers.

    Reference:
        arXiv:2312.15112, section 3; Chengming0501/TGeo-KD, option 3.
    """
    check_choice("features", features, FEATURES)
    check_logits_pair(student_logits, teacher_logits)
    n, c = student_logits.shape
    labels = check_labels(labels, n, c)
    if class_means.shape != (c, c):
        raise ValueError(f"class_means must be ({c}, {c}), got {describe(class_means)}.")
    s = at_least_float32(student_logits).softmax(1)
    t = teacher_logits.detach().to(s.dtype).softmax(1)
    g, average = F.one_hot(labels, c).to(s), class_means.detach().to(s)[labels]
    if features in ("sg_tg", "intra"):
        parts = [s, t, g, (g - s) ** 2, *([(t - s) ** 2] if features == "intra" else []), (t - g) ** 2]
    else:
        edges = [(average - s) ** 2, (g - s) ** 2, (t - s) ** 2, (t - g) ** 2, (average - g) ** 2]
        parts = [s, t, g, average, *edges]
        if features == "angles":
            parts += [(average - s) * (g - s), (t - s) * (g - s)]
    return torch.cat(parts, 1)


class FusionRatioController(nn.Module):
    """Relations ``(N, F)`` to weights ``(N,)`` in (0, 1): three linear layers, LeakyReLU between, sigmoid at the end.

    Args:
        in_features: F; hidden: widths, 32 and 16 in the released code.
    """

    def __init__(self, in_features: int, hidden: tuple[int, int] = (32, 16)) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], 1)

    def forward(self, relations: Tensor) -> Tensor:
        if relations.ndim != 2 or relations.shape[1] != self.fc1.in_features:
            raise ValueError(f"relations must be (N, {self.fc1.in_features}), got {describe(relations)}.")
        x = F.leaky_relu(self.fc2(F.leaky_relu(self.fc1(relations))))
        return self.fc3(x).squeeze(1).sigmoid()


def tgeo_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: Tensor,
    temperature: float = 1.5,
    double_softmax: bool = False,
    return_parts: bool = False,
    reduction: str = "mean",
) -> Any:
    """``alpha T^2 KL + (1 - alpha) CE``, weighted sample by sample.

    Args:
        student_logits: ``(N, C)``; teacher_logits: ``(N, C)``, detached.
        labels: ``(N,)`` integers.
        alpha: ``(N,)`` in [0, 1]; a gradient flows into it where it carries one.
        temperature: > 0; default 1.5 (released code).
        double_softmax: cross-entropy of the softmax instead of the logits, as the released code has it.
        return_parts: also return KL (without ``T^2``), CE and loss of every sample.
        reduction: ``"mean"`` over samples, ``"sum"`` or ``"none"``.

    Returns:
        The loss, or ``(loss, kd_per_sample, ce_per_sample, loss_per_sample)``.

    Raises:
        ValueError: shapes, labels out of range, ``alpha`` not ``(N,)`` or outside [0, 1], temperature, reduction.
        TypeError: labels that are not integers.

    Reference:
        arXiv:2312.15112, equation 5; Chengming0501/TGeo-KD.
    """
    check_logits_pair(student_logits, teacher_logits)
    check_positive("temperature", temperature)
    labels = check_labels(labels, *student_logits.shape)
    s = at_least_float32(student_logits)
    if not isinstance(alpha, Tensor) or alpha.shape != labels.shape:
        raise ValueError(f"alpha must be ({len(labels)},), got {describe(alpha)}.")
    if not torch.compiler.is_compiling() and not bool(((alpha >= 0) & (alpha <= 1)).all()):
        raise ValueError(f"alpha must be in [0, 1], got values from {alpha.min().item()} to {alpha.max().item()}.")
    kd = kl_with_temperature(s, teacher_logits.to(s.dtype), temperature=temperature)
    ce = F.cross_entropy(s.softmax(1) if double_softmax else s, labels, reduction="none")
    each = alpha * temperature**2 * kd + (1 - alpha) * ce
    loss = reduce(each, reduction)
    return (loss, kd, ce, each) if return_parts else loss


def baseline_fusion_ratio(
    kind: str, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, progress: float | None = None
) -> Tensor:
    """Weights ``(N,)`` by the rules that the paper compares with; constants.

    Args:
        kind: ``"wls"``: ``1 - exp(-CE_student / CE_teacher)``; ``"ada"``: how far the teacher's probability of the
            label exceeds its largest other one, at least 0; ``"annealing"``: from 1 to 0 over the training.
        student_logits, teacher_logits: ``(N, C)``; labels: ``(N,)``.
        progress: share of the training done in [0, 1]; needed for ``"annealing"``.

    Raises:
        ValueError: unknown kind, shapes, labels, ``progress`` missing or out of range.

    Reference:
        Chengming0501/TGeo-KD; WLS: Zhou et al., ICLR 2021, arXiv:2102.00650.
    """
    check_choice("kind", kind, ("wls", "ada", "annealing"))
    check_logits_pair(student_logits, teacher_logits, min_classes=2)
    labels = check_labels(labels, *student_logits.shape)
    s, t = at_least_float32(student_logits.detach()), at_least_float32(teacher_logits.detach())
    if kind == "annealing":
        if progress is None or not 0 <= progress <= 1:
            raise ValueError(f"progress must be in [0, 1] for 'annealing', got {progress!r}.")
        return torch.full((len(s),), 1 - progress, dtype=s.dtype, device=s.device)
    if kind == "wls":
        ours, theirs = (F.cross_entropy(z, labels, reduction="none") for z in (s, t))
        return -torch.expm1(-ours / theirs.clamp_min(torch.finfo(s.dtype).tiny))
    p = t.softmax(1)
    own = p.gather(1, labels[:, None])[:, 0]
    return (own - p.scatter(1, labels[:, None], -math.inf).amax(1)).clamp_min(0)


# Training -------------------------------------------------------------------------------------------------------------


class TGeoTraining(Training):
    """The bilevel training: in every step the controller learns through a virtual step of the student.

    Args:
        teacher: frozen; ``None`` where batches carry the teacher's logits behind the labels.
        student, controller: what learns.
        train, val: batches ``(x, y)`` (or ``(x, y, teacher_logits)``); ``val`` begins anew whenever it ends.
        num_classes: C.
        epochs, lr, controller_lr: the student's Adam follows a cosine, the controller's is constant.
        temperature, inner_lr: default 1.5 and 0.5. update: ``"one_step"``, ``"frozen"`` (the controller stays as it is,
            as in the released code), or ``"constant"`` (``fixed_alpha`` for all). features: of the relations.
        class_means: ``(C, C)``; by default taken over ``train`` before the first step.
        steps, student_optimizer, controller_optimizer: for :class:`TGeoTrainer`.
    """

    frozen = ("teacher",)
    name = "tgeo_kd"
    class_means: Tensor | None

    def __init__(
        self,
        teacher: nn.Module | None,
        student: nn.Module,
        controller: FusionRatioController | None,
        train: Any,
        val: Any,
        *,
        num_classes: int,
        epochs: int = 60,
        lr: float = 1e-2,
        controller_lr: float = 1e-2,
        temperature: float = 1.5,
        inner_lr: float = 0.5,
        update: str = "one_step",
        features: str = "full",
        fixed_alpha: float = 0.5,
        class_means: Tensor | None = None,
        steps: int | None = None,
        student_optimizer: Any = "adam",
        controller_optimizer: Any = "adam",
    ) -> None:
        super().__init__()
        check_choice("update", update, UPDATES)
        check_positive("temperature", temperature)
        check_positive("inner_lr", inner_lr)
        width = relation_dim(num_classes, features)
        self.teacher = teacher if teacher is not None else nn.Identity()
        self.student, self.controller = student, controller or FusionRatioController(width)
        if self.controller.fc1.in_features != width:
            raise ValueError(
                f"controller must read {width} relations ({num_classes} classes, {features!r}), "
                f"it reads {self.controller.fc1.in_features}."
            )
        self.train_data, self.data, self.steps_wanted = train, Paired(train, val), steps
        self.num_classes, self.epochs, self.temperature, self.inner_lr = num_classes, epochs, temperature, inner_lr
        self.update, self.features, self.fixed_alpha = update, features, fixed_alpha
        self.lr, self.controller_lr = lr, controller_lr
        self.optimizers = (student_optimizer, controller_optimizer)
        self.register_buffer("class_means", class_means)
        self.alpha: Tensor | None = None

    def begin(self, run: Run, stack: ExitStack) -> None:
        """The teacher's average answers over the training set, where they are not given."""
        if self.class_means is None:
            with torch.no_grad(), preserved_rng(getattr(self.train_data, "generator", None)):
                seen = []
                for x, y, *given in self.train_data:
                    answers = given[0].to(run.device) if given else self.teacher(x.to(run.device))
                    seen.append((answers, y.to(run.device)))
            logits, labels = (torch.cat(part) for part in zip(*seen, strict=True))
            self.class_means = class_mean_predictions(logits, labels, self.num_classes)

    def stages(self) -> Iterator[Stage]:
        constant = self.steps_wanted is not None
        learn = {
            "main": Learn(
                players=("student",),
                optimizer=self.optimizers[0],
                lr=self.lr,
                scheduler="constant" if constant else "cosine",
            )
        }
        if self.update == "one_step":
            learn["controller"] = Learn(
                players=("controller",), optimizer=self.optimizers[1], lr=self.controller_lr, scheduler="constant"
            )
        yield Stage(name="", data=self.data, step=self.step, learn=learn, epochs=self.epochs, steps=self.steps_wanted)

    def fusion_ratios(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """The weights ``(N,)`` of these samples; the student's logits enter without gradient."""
        if self.update == "constant":
            return torch.full((len(labels),), self.fixed_alpha, device=student_logits.device)
        assert isinstance(self.class_means, Tensor)
        relations = trilateral_relations(
            student_logits.detach(), teacher_logits, labels, self.class_means, features=self.features
        )
        return self.controller(relations.to(self.controller.fc1.weight.dtype))

    def step(self, batch: Any, run: Run) -> dict[str, Tensor]:
        """The controller's step through a virtual step of the student, then the student's."""
        (x, y, *given), (x_val, y_val, *_) = batch
        if not len(x_val):
            raise ValueError("the validation batch is empty: the controller has nothing to learn from.")
        t = given[0] if given else self.teacher(x)
        if self.update == "one_step":
            run.minimize({"val": self.outer_loss(x, t, y, x_val, y_val)}, "controller")
        s = self.student(x)
        with torch.no_grad():
            self.alpha = self.fusion_ratios(s, t, y)
        run.log(alpha=self.alpha.mean())
        return {"tgeo": tgeo_kd_loss(s, t, y, alpha=self.alpha, temperature=self.temperature)}

    def outer_loss(self, x: Tensor, t: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """Cross-entropy on validation data of the student after one virtual step; a gradient reaches the controller."""
        parameters = dict(self.student.named_parameters())
        # Both passes move copies of the statistics (batch norm): the student's own move in its real step alone.
        buffers = {name: b.clone() for name, b in self.student.named_buffers()}
        s = functional_call(self.student, {**parameters, **buffers}, (x,))
        inner = tgeo_kd_loss(s, t, y, alpha=self.fusion_ratios(s, t, y), temperature=self.temperature)
        virtual = functional_step(inner, parameters, lr=self.inner_lr)
        return F.cross_entropy(functional_call(self.student, {**virtual, **buffers}, (x_val,)), y_val)

    @property
    def settings(self) -> dict[str, Any]:
        """Hyper-parameters, for records."""
        names = ("epochs", "lr", "controller_lr", "temperature", "inner_lr", "update", "features", "fixed_alpha")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def example(cls) -> TGeoTraining:
        g = torch.Generator().manual_seed(0)
        x, y = torch.randn(12, 4, generator=g), torch.randint(3, (12,), generator=g)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            teacher, student = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
            controller = FusionRatioController(relation_dim(3))
        train, val = [(x[:4], y[:4]), (x[4:8], y[4:8])], [(x[8:], y[8:])]
        return cls(teacher, student, controller, train, val, num_classes=3, epochs=2)


class _Feed:
    """Batches that are handed over one at a time."""

    def __init__(self) -> None:
        self.next: Any = None

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.next


class TGeoTrainer:
    """One step at a time of :class:`TGeoTraining`, on batches and teacher logits of your own.

    Args:
        student, controller, class_means: see :class:`TGeoTraining`.
        student_optimizer, controller_optimizer: over their parameters.
        temperature, inner_lr, update, features, fixed_alpha: see :class:`TGeoTraining`.

    Raises:
        ValueError: unknown ``update`` or ``features``, a controller of another width, ``class_means`` not ``(C, C)``.
    """

    def __init__(
        self,
        student: nn.Module,
        controller: FusionRatioController,
        class_means: Tensor,
        *,
        student_optimizer: torch.optim.Optimizer,
        controller_optimizer: torch.optim.Optimizer,
        temperature: float = 1.5,
        inner_lr: float = 0.5,
        update: str = "one_step",
        features: str = "full",
        fixed_alpha: float = 0.5,
    ) -> None:
        if class_means.ndim != 2 or class_means.shape[0] != class_means.shape[1]:
            raise ValueError(f"class_means must be (C, C), got {describe(class_means)}.")
        self.feeds = _Feed(), _Feed()
        self.training = TGeoTraining(
            None,
            student,
            controller,
            *self.feeds,
            num_classes=len(class_means),
            temperature=temperature,
            inner_lr=inner_lr,
            update=update,
            features=features,
            fixed_alpha=fixed_alpha,
            class_means=class_means,
            steps=sys.maxsize,
            student_optimizer=student_optimizer,
            controller_optimizer=controller_optimizer,
        )
        device = next(student.parameters()).device
        seed = int(torch.randint(2**31, ()))  # a run seeds all generators as it begins: what follows is the caller's
        self._events = Run(self.training, accelerator="cpu" if device.type == "cpu" else "auto", seed=seed).run()

    def step(
        self, inputs: Tensor, teacher_logits: Tensor, labels: Tensor, val_inputs: Tensor, val_labels: Tensor
    ) -> dict[str, Any]:
        """One step of both; ``train_loss``, ``val_loss`` (NaN without an outer step) and ``alpha (N,)``."""
        self.feeds[0].next, self.feeds[1].next = (inputs, labels, teacher_logits), (val_inputs, val_labels)
        event = next(self._events)
        return {
            "train_loss": event.terms["tgeo"],
            "val_loss": event.terms.get("val", math.nan),
            "alpha": self.training.alpha,
        }

    @torch.no_grad()
    def fusion_ratios(self, inputs: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """The weights ``(N,)`` of these samples as things stand, the student in eval mode; nothing is changed."""
        with evaluating(self.training.student):
            return self.training.fusion_ratios(self.training.student(inputs), teacher_logits, labels)


CARD = MethodCard(
    slug="tgeo_kd",
    summary="How much a sample's student listens to the teacher rather than to the label is learnt from the triangle "
    "of student, teacher and label, through a virtual step and the loss on validation data.",
    losses=("tgeo_kd_loss",),
    taps="logits of both",
    parity=Parity("exact", "Chengming0501/TGeo-KD", 1e-6, "relations, controller, loss and gradients, float64"),
    evidence=(
        Evidence(
            "outer gradient", paper="not said", code="none: the controller stays frozen", here="one step unrolled"
        ),
        Evidence("cross-entropy", paper="of logits", code="of the softmax", here="of logits; double_softmax=True"),
        Evidence("class average", paper="training set", code="the batch, which is all", here="training set, once"),
        Evidence("empty class", paper="not said", code="NaN, never read", here="1 / C"),
    ),
    deviations=("The controller is trained: the released loop evaluates it without gradient.",),
)

__all__ = [
    "CARD",
    "FEATURES",
    "UPDATES",
    "FusionRatioController",
    "TGeoTrainer",
    "TGeoTraining",
    "baseline_fusion_ratio",
    "class_mean_predictions",
    "relation_dim",
    "tgeo_kd_loss",
    "trilateral_relations",
]
