r"""Improving Knowledge Distillation via Regularizing Feature Norm and Direction (ECCV 2024), arXiv:2305.17007.

Making a student's features equal to the teacher's, image by image, is not what classifies. The *mean* of the teacher's
features of a class is already a strong classifier, and small students tend to have short features, while the confident,
transferable ones are long. So each student feature is asked for two things: to point towards the teacher's mean of its
class (**direction**), and to be long (**norm**). One term, ND, asks for both, and is added to any distillation loss
(KD becomes KD++, DKD becomes DKD++, ...). With the embedding (input of the classifier) of student and teacher
:math:`s_i, t_i`, the class means :math:`c_k` of the teacher's embeddings over the training set, and
:math:`e_k = c_k / \|c_k\|`:

.. math::
    L_{ND} = \frac1N \sum_i \left[ 1 - \frac{\langle s_i, e_{y_i} \rangle}{\max(\|s_i\|, \|t_i\|)} \right], \qquad
    L_{KD++} = w_{ce} \, CE + w_{kd} \, \min(1, \tfrac{epoch}{warmup}) \, L_{KD} + w_{nd} \, L_{ND}

Two regimes. Where the student is the *shorter* one the denominator is a constant, and the gradient
:math:`-e_y / (N \|t\|)` pushes along the class direction: it turns and lengthens. Where the student is the longer one,
the term is :math:`1 - \cos(s, e_y)`, and the gradient is perpendicular to :math:`s`: it turns only. Of the teacher's
embedding the term reads the length alone; the direction comes from the class.

===================  =====================  ===============================================================
paper                argument               shape
===================  =====================  ===============================================================
:math:`s, t`         student_emb,           ``(N, D)``; where the widths differ, the student's goes through
                     teacher_emb            :class:`EmbeddingProjector` first (for this term only)
:math:`c`            class_means            ``(C, D)``
:math:`y`            labels                 ``(N,)`` integers, or ``(N, C)`` weights (mixup)
:math:`z_s, z_t`     student_logits,        ``(N, C)``
                     teacher_logits
===================  =====================  ===============================================================

What was read: the released code, and of the paper its abstracts (arXiv and ECCV). They also name a plain cosine loss
and a large-norm loss as techniques that were explored; their forms here (:func:`direction_loss`, :func:`norm_loss`)
are a reconstruction, for ablations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..card import Evidence, Knob, MethodCard, Parity
from ..functional.checks import check_choice, check_logits_pair, check_positive, check_weights, describe
from ..functional.divergences import dist_loss, dkd_loss, kd_loss, linear_warmup
from ..functional.prototypes import (
    ClassMeanAccumulator,
    class_means,
    direction_loss,
    embeddings_and_directions,
    norm_and_cosine,
    norm_loss,
    share_along,
)
from ..functional.reductions import at_least_float32, reduce
from ..method import Method, Needs, Signals, TrainingOutputs, ce_weight_knob
from ..projectors import EmbeddingProjector

_CODE = "WangYZ1608/Knowledge-Distillation-via-ND"


# Losses ---------------------------------------------------------------------------------------------------------------


def nd_loss(
    student_emb: Tensor,
    teacher_emb: Tensor,
    labels: Tensor | None,
    *,
    class_means: Tensor,
    eps: float = 1e-12,
    reduction: str = "mean",
) -> Tensor:
    """The ND term: ``1 - <s, e_y> / max(||s||, ||t||)``, in [0, 2]; ``e_y`` is the unit class mean of the label.

    A student shorter than the teacher is turned and lengthened, a longer one is turned only. At equal norms the
    student's counts (its gradient flows). Where both are zero the term is 1 and has no gradient.

    Args:
        student_emb: ``(N, D)``, the input of the classifier (through :class:`EmbeddingProjector` if widths differ).
        teacher_emb: ``(N, D)``; a constant, of which only the lengths are read.
        labels: ``(N,)`` integers in [0, C), or floating ``(N, C)`` class weights (mixup), whose mixture of class means
            gives the direction.
        class_means: ``(C, D)`` means of teacher embeddings (:func:`class_means`); a constant, of any length.
        eps: smallest denominator; default 1e-12.
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``(N,)``.

    Raises:
        ValueError: shapes that differ, labels of another kind or out of range, a class mean of a label in the batch
            that is zero or not finite, ``eps`` not above zero, unknown reduction.
        TypeError: ``teacher_emb`` that is not a floating tensor.

    Reference:
        "Improving Knowledge Distillation via Regularizing Feature Norm and Direction" (Wang et al., ECCV 2024),
        arXiv:2305.17007; code WangYZ1608/Knowledge-Distillation-via-ND, ``DirectNormLoss``.
    """
    if not isinstance(teacher_emb, Tensor) or not teacher_emb.is_floating_point():
        raise TypeError(f"teacher_emb must be a floating tensor (N, D), got {describe(teacher_emb)}.")
    if student_emb.shape != teacher_emb.shape:
        raise ValueError(
            f"student_emb and teacher_emb must have the same shape (N, D), got {tuple(student_emb.shape)} "
            f"and {tuple(teacher_emb.shape)}: map the student's with EmbeddingProjector(student_dim, "
            "teacher_dim) where the widths differ."
        )
    check_positive("eps", eps)
    s, direction = embeddings_and_directions(student_emb, class_means, labels)
    own = torch.linalg.vector_norm(s, dim=1)
    teachers = torch.linalg.vector_norm(teacher_emb.detach().to(s.dtype), dim=1)
    longer = torch.where(own >= teachers, own, teachers)  # not torch.maximum: it would halve the gradient at a tie
    return reduce(1 - share_along(s, direction, longer, eps), reduction)


#: Named bases of :func:`kdpp_loss`.
BASES = ("kd", "dkd", "dist")
#: A loss of ``(student_logits, teacher_logits, labels)`` that ND is added to.
Base = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def kdpp_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    student_emb: Tensor,
    teacher_emb: Tensor,
    class_means: Tensor,
    temperature: float = 4.0,
    ce_weight: float = 1.0,
    kd_weight: float = 1.0,
    nd_weight: float = 2.0,
    epoch: float | None = None,
    warmup_epochs: float = 20.0,
    base: str | Base = "kd",
    return_terms: bool = False,
) -> Tensor | dict[str, Tensor]:
    """KD++: cross-entropy + a logit loss that warms up + ND, as the official training script adds them.

    Args:
        student_logits: ``(N, C)`` raw scores.
        teacher_logits: ``(N, C)``; detached.
        labels: ``(N,)`` integers in [0, C), or ``(N, C)`` class weights where the base can do with them.
        student_emb: ``(N, D)``; teacher_emb: ``(N, D)``; class_means: ``(C, D)``, see :func:`nd_loss`.
        temperature: ``T > 0`` of a named base; default 4 (the authors on CIFAR-100; 1 on ImageNet).
        ce_weight: weight of cross-entropy; default 1.
        kd_weight: weight of the base; default 1 (the authors: 1 to 4 for KD, by pair).
        nd_weight: weight of :func:`nd_loss`; default 2 (the authors: 0.5 to 4, by pair).
        epoch: epochs done, counted from 0, for the warm-up; ``None`` (default) gives the base its full weight.
        warmup_epochs: epochs until the base has its full weight, > 0; default 20 (of the authors' 240).
        base: ``"kd"``, ``"dkd"``, ``"dist"`` (with the default weights of those losses), or a callable
            ``(student_logits, teacher_logits, labels) -> scalar Tensor``, for instance
            ``functools.partial(dkd_loss, alpha=2.5, beta=4.0, temperature=4.0)``.
        return_terms: return the weighted parts as well.

    Returns:
        The loss, or the dict ``loss, ce, kd, nd`` with ``loss = ce + kd + nd``.

    Raises:
        ValueError: shapes, labels, a class mean without direction, a negative weight, a temperature or
            ``warmup_epochs`` not above zero, unknown base, a base that does not give a scalar.
        TypeError: logits or ``teacher_emb`` that are not floating, labels that the base cannot read.

    Reference:
        "Improving Knowledge Distillation via Regularizing Feature Norm and Direction" (Wang et al., ECCV 2024),
        arXiv:2305.17007; weights and warm-up: WangYZ1608/Knowledge-Distillation-via-ND.
    """
    check_logits_pair(student_logits, teacher_logits)
    check_weights(ce_weight=ce_weight, kd_weight=kd_weight, nd_weight=nd_weight)
    check_positive("temperature", temperature)
    check_positive("warmup_epochs", warmup_epochs)
    if len(student_logits) != len(student_emb) or student_logits.shape[1] != len(class_means):
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} must have the samples of student_emb "
            f"{tuple(student_emb.shape)} and the classes of class_means {tuple(class_means.shape)}."
        )
    nd = nd_loss(student_emb, teacher_emb, labels, class_means=class_means)
    target = labels if labels.is_floating_point() else labels.long()
    ce = F.cross_entropy(at_least_float32(student_logits), target)
    kd_weight = kd_weight * (1.0 if epoch is None else linear_warmup(epoch, warmup_epochs))
    kd = _base_loss(base, student_logits, teacher_logits, labels, temperature)
    terms = {"ce": ce_weight * ce, "kd": kd_weight * kd, "nd": nd_weight * nd}
    loss = terms["ce"] + terms["kd"] + terms["nd"]
    return {"loss": loss, **terms} if return_terms else loss


def _base_loss(
    base: str | Base, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None, temperature: float
) -> Tensor:
    """The loss that ND is added to: a named one with kdcore's default weights, or the caller's own."""
    if isinstance(base, str):
        check_choice("base", base, BASES)
    match base:
        case "kd":
            return kd_loss(student_logits, teacher_logits, temperature=temperature)
        case "dkd":
            return dkd_loss(student_logits, teacher_logits, labels, temperature=temperature)
        case "dist":
            return dist_loss(student_logits, teacher_logits, temperature=temperature)
    if not callable(base):
        raise ValueError(
            f"base must be one of {', '.join(map(repr, BASES))} or a callable (student_logits, "
            f"teacher_logits, labels) -> Tensor, got {base!r}."
        )
    loss = base(student_logits, teacher_logits, labels)
    if not isinstance(loss, Tensor) or loss.ndim:
        raise ValueError(f"base must give a scalar tensor, got {describe(loss)}.")
    return loss


# Training -------------------------------------------------------------------------------------------------------------


#: Terms on the embedding that :class:`KDPP` can add to a base.
REGULARIZERS = ("nd", "direction", "norm")

_REGULARIZER = (
    Knob(
        "nd_weight",
        2.0,
        0.0,
        4.0,
        symbol="w_nd",
        help="weight of the term on the embedding",
        source=f"{_CODE}: 2 for ResNet56 to ResNet20; its pairs use 0.5 to 4",
    ),
    Knob(
        "regularizer",
        "nd",
        symbol="L_ND",
        choices=REGULARIZERS,
        help="the term on the embedding: nd, or only half of it (direction, norm) as an ablation",
        source="paper: nd; the others are reconstructed from its abstract",
    ),
    Knob(
        "norm_step",
        1.0,
        0.1,
        4.0,
        symbol="Δ",
        help="by how much regularizer='norm' wants embeddings longer",
        source="ours: the paper gives no number",
    ),
    Knob(
        "dropout",
        0.5,
        0.0,
        0.9,
        symbol="p",
        help="dropout of the projector (only where the widths differ)",
        source=f"{_CODE}: EmbTrans",
    ),
)


class KDPP(Method):
    """KD++ (DKD++, DIST++): ``ce_weight`` CE (added by the loop) + warm-up x ``kd_weight`` base + ``nd_weight`` ND.

    The embeddings are the inputs of the classifiers; assign ``student_taps`` and ``teacher_taps`` (one name each, of a
    layer that gives ``(N, D)``) before the training to choose others. Where their widths differ, :meth:`setup` builds
    an :class:`EmbeddingProjector`. The class means are taken in :meth:`prepare`.
    """

    name, label = "kdpp", "KD++"
    knobs: ClassVar[tuple[Knob, ...]] = (
        *_REGULARIZER,
        Knob(
            "base",
            "kd",
            symbol="L_KD",
            choices=BASES,
            help="the logit loss that the term is added to",
            source="paper: KD++; dkd and dist have the inner weights of kdcore's losses, (1, 8) and (1, 1)",
        ),
        Knob(
            "kd_weight",
            1.0,
            0.0,
            4.0,
            symbol="w_kd",
            help="weight of the base",
            source=f"{_CODE}: 1 for ResNet56 to ResNet20; its pairs use 1 to 4",
        ),
        Knob(
            "temperature",
            4.0,
            1.0,
            8.0,
            symbol="T",
            help="softens both distributions of the base",
            source=f"{_CODE}: 4 on CIFAR-100, 1 on ImageNet",
            log=True,
        ),
        Knob(
            "warmup_epochs",
            20,
            0,
            40,
            symbol="E_w",
            help="epochs until the base has its full weight, from 0",
            source=f"{_CODE}: 20 of 240 epochs",
        ),
        ce_weight_knob(1.0, source=_CODE),
    )
    student_taps = ("embedding",)
    teacher_taps = ("embedding",)

    def __init__(self, **knobs: Any) -> None:
        super().__init__(**knobs)
        self.projector: EmbeddingProjector | None = None
        self.class_means: Tensor

    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        shapes = self.settle_taps(student, teacher, sample)
        for (name,), shape in zip((self.student_taps, self.teacher_taps), shapes, strict=True):
            if len(shape) != 1:
                raise ValueError(
                    f"tap {name!r} must give embeddings (N, D), got {shape} per sample: choose the input "
                    "of the classifier or another vector."
                )
        (student_dim,), (teacher_dim,) = shapes
        if student_dim != teacher_dim:
            self.projector = EmbeddingProjector(student_dim, teacher_dim, self.knob.dropout)

    def prepare(self, seen: TrainingOutputs) -> None:
        """Mean teacher embedding of every class, over the training set as the loader gives it, into ``class_means``."""
        means = ClassMeanAccumulator(seen.classes)
        for part in seen:
            if part.labels is None:
                raise ValueError("class means need labels: give (x, y).")
            means.update(part.features[self.teacher_taps[0]], part.labels)
        self.register_buffer("class_means", means.compute())

    def terms(self, s: Signals) -> dict[str, Tensor]:
        k = self.knob
        weight = k.kd_weight * linear_warmup(s.epoch, k.warmup_epochs)
        return {k.base: weight * _base_loss(k.base, *s.logits, s.labels, k.temperature), **self.regularizer(s)}

    def regularizer(self, s: Signals) -> dict[str, Tensor]:
        """The weighted term on the embedding, by its name."""
        k = self.knob
        emb, teacher = s.student_features[self.student_taps[0]], s.teacher_features[self.teacher_taps[0]]
        emb = self.projector(emb) if self.projector is not None else emb
        if k.regularizer == "nd":
            loss = nd_loss(emb, teacher, s.labels, class_means=self.class_means)
        elif k.regularizer == "direction":
            loss = direction_loss(emb, self.class_means, s.labels)
        else:
            loss = norm_loss(emb, step=k.norm_step)
        return {k.regularizer: k.nd_weight * loss}

    @classmethod
    def example(
        cls, *, batch: int = 6, classes: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0, match: bool = False
    ) -> Signals:
        """As the method of the base class, past the warm-up, with embeddings 7 wide, some longer than the teacher's."""
        signals = super().example(batch=batch, classes=classes, dtype=dtype, seed=seed, match=match)
        g = torch.Generator().manual_seed(seed + 1)
        teacher, noise = torch.randn(2, batch, 7, generator=g, dtype=torch.float64)
        longer = torch.where(torch.arange(batch) % 2 == 0, 0.5, 2.0)[:, None]
        student = teacher.clone() if match else longer * (teacher + noise)
        signals.student_features = {"embedding": student.to(dtype).requires_grad_()}
        signals.teacher_features = {"embedding": teacher.to(dtype)}
        signals.labels = torch.arange(batch) % classes  # every class has a mean, where there are samples enough
        signals.epoch = 20
        return signals


class ND(KDPP):
    """The ND term alone, to be put beside any objective: ``distill(..., method=["dist", "nd"])``.

    Alone it is CE + ND. See :class:`KDPP` for taps, projector and class means.
    """

    name, label = "nd", "ND"
    needs = Needs(teacher_logits=False)
    knobs = (*_REGULARIZER, ce_weight_knob(1.0, source=_CODE))
    invariances = ("class_permutation", "sample_permutation")

    def terms(self, s: Signals) -> dict[str, Tensor]:
        return self.regularizer(s)

    @classmethod
    def example(cls, **kwargs: Any) -> Signals:
        """As :meth:`KDPP.example`, without the teacher's logits."""
        signals = super().example(**kwargs)
        signals.teacher_logits = None
        return signals


CARD = MethodCard(
    slug="nd_kd",
    summary="One term beside any distillation loss turns each student embedding towards the teacher's mean of its "
    "class and lengthens it where it is shorter than the teacher's (KD++, DKD++, DIST++).",
    objectives=(KDPP, ND),
    losses=("nd_loss", "direction_loss", "norm_loss", "kdpp_loss"),
    taps="logits, and the penultimate embedding of both (the input of the classifier)",
    invariances=("shift_invariant", "class_permutation", "sample_permutation"),
    parity=Parity(
        "exact",
        _CODE,
        1e-10,
        "values and gradients of DirectNormLoss, KD++, DKD and DIST, values of the projector, float64",
    ),
    evidence=(
        Evidence(
            "ND term",
            paper="norm and direction in one loss",
            code="DirectNormLoss, a loop over the samples",
            here="the same values, without a loop",
        ),
        Evidence(
            "class means",
            paper="mean teacher feature per class",
            code="a script without augmentation; rounded to 4 decimals, kept as JSON",
            here="exact float64 sums, over the training loader as it is (with its augmentation, if any)",
        ),
        Evidence("equal norms", paper="not read", code="the student's norm", here="the student's norm"),
        Evidence("both embeddings zero", paper="not read", code="0/0: NaN", here="1, without a gradient"),
        Evidence(
            "different widths",
            paper="not read",
            code="batch norm, dropout 0.5, linear; the classifier reads the raw embedding",
            here="as the code",
        ),
        Evidence(
            "warm-up",
            paper="not read",
            code="of the logit term alone, 20 epochs from weight 0",
            here="as the code",
        ),
        Evidence(
            "mixed labels",
            paper="DeiT++",
            code="project_center_v2: one centre per sample",
            here="labels may be (N, C) weights",
        ),
        Evidence(
            "cosine loss, norm loss",
            paper="named in the abstract; text not read",
            code="not released",
            here="a reconstruction, for ablations",
        ),
    ),
    deviations=(
        "Class means are not rounded to 4 decimals.",
        "Class means are taken over the training loader: give one without augmentation for the paper's.",
        "A pair of zero embeddings costs 1 and has no gradient; the released code gives NaN.",
    ),
)

__all__ = [
    "BASES",
    "CARD",
    "KDPP",
    "ND",
    "REGULARIZERS",
    "ClassMeanAccumulator",
    "EmbeddingProjector",
    "class_means",
    "direction_loss",
    "kdpp_loss",
    "nd_loss",
    "norm_and_cosine",
    "norm_loss",
]
