r"""PLD: A Choice-Theoretic List-Wise Knowledge Distillation (2025), arXiv:2506.12542.

Distillation usually adds a term to cross-entropy and leaves a weight to tune. PLD reads the logits of a classifier as
the scores of a *choice model*: a ranking of the classes arises by choosing the best one, removing it, choosing again
(Plackett-Luce). One target ranking per sample, :math:`\pi`: the true label first, then the other classes as the teacher
orders them. The student maximises the likelihood of that ranking, and each choice weighs as much as the teacher
believes in the class chosen there:

.. math::
    L = \sum_{k=1}^{C} \alpha_k \left[ \log \sum_{l \ge k} e^{s_{\pi_l}} - s_{\pi_k} \right], \qquad
    \alpha_k = \mathrm{softmax}(t / \tau_T)_{\pi_k}

The first choice is cross-entropy with weight :math:`\alpha_1`, so no separate term is needed. The loss is convex in
:math:`s`, unchanged when a constant is added to the logits, and has the gradient

.. math::
    \frac{\partial L}{\partial s_i} =
        \sum_{k \le pos(i)} \alpha_k \frac{e^{s_i}}{\sum_{l \ge k} e^{s_{\pi_l}}} - \alpha_{pos(i)}

==================  ==============================  ===================================================
paper               argument                        shape
==================  ==============================  ===================================================
:math:`s, t`        student_logits, teacher_logits  ``(N, C)``
:math:`y`           labels                          ``(N,)``
:math:`\pi`         ranking                         ``(N, C)`` class indices, best first
:math:`\alpha`      weights                         ``(N, C)`` in ranking order
:math:`\tau_T`      temperature                     divides the teacher's logits, in the weights only
==================  ==============================  ===================================================

A wrong teacher gives the label little weight: :math:`\alpha_1` is the teacher's probability *of the label*, whatever it
prefers. With other weights the same formula is cross-entropy (``"first"``), ListMLE (``"uniform"``) or p-ListMLE
(``"position"``). The general Plackett-Luce pieces live in :mod:`kdcore.functional.ranking`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..card import Evidence, Knob, MethodCard, Parity
from ..functional.checks import check_choice, check_labels, check_logits_pair, check_positive
from ..functional.ranking import (
    check_choice_weights,
    check_ranking,
    choice_gradient,
    descending_order,
    plackett_luce_log_likelihood,
    plackett_luce_sample,
    weighted_choice_loss,
)
from ..functional.reductions import at_least_float32, reduce
from ..method import Method, Signals, ce_weight_knob

#: The weightings by name: PLD itself, and the special cases that its formula contains.
WEIGHTS = ("teacher", "first", "uniform", "position")


def teacher_optimal_permutation(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """The target ranking: the label first, then the other classes from the teacher's highest logit down.

    Args:
        teacher_logits: ``(N, C)``, ``C >= 2``.
        labels: ``(N,)`` integers in ``[0, C)``.

    Returns:
        ``(N, C)`` int64, best first; ties go to the lower class index.

    Raises:
        ValueError: logits not 2-D, one class only, labels missing, of wrong shape or out of range.
        TypeError: labels that are not integers.

    Reference:
        arXiv:2506.12542, section 4 ("teacher-optimal permutation") and appendix C.
    """
    check_logits_pair(teacher_logits, teacher_logits, min_classes=2)
    labels = check_labels(labels, *teacher_logits.shape)
    return descending_order(teacher_logits.detach().scatter(1, labels.unsqueeze(1), torch.inf))


def pld_weights(
    teacher_logits: Tensor, ranking: Tensor, *, kind: str | Tensor = "teacher", temperature: float = 1.0
) -> Tensor:
    """How much each choice of the ranking counts, ``alpha_k``.

    Args:
        teacher_logits: ``(N, C)``.
        ranking: ``(N, C)`` int64, best first.
        kind: ``"teacher"``: ``softmax(t / temperature)`` in ranking order (PLD). ``"first"``: 1 for the first choice
            only (cross-entropy). ``"uniform"``: ``1 / C`` (ListMLE). ``"position"``: ``2^(C-k) - 1``, normalised
            (p-ListMLE). A ``(C,)`` or ``(N, C)`` tensor is used as given.
        temperature: ``tau_T > 0``; default 1 (paper, ImageNet).

    Returns:
        ``(N, C)``; the named kinds sum to 1 in every row.

    Raises:
        ValueError: unknown kind, weights of wrong shape, negative or not finite, bad ranking, temperature not above
            zero.
        TypeError: ranking not int64.

    Reference:
        arXiv:2506.12542, eq. for alpha in section 4; p-ListMLE: Lan et al., UAI 2014.
    """
    check_logits_pair(teacher_logits, teacher_logits, min_classes=2)
    check_ranking(ranking, teacher_logits.shape)
    return _weights(teacher_logits, ranking, kind, temperature)


def _weights(teacher_logits: Tensor, ranking: Tensor, kind: str | Tensor, temperature: float) -> Tensor:
    check_positive("temperature", temperature)
    t = at_least_float32(teacher_logits.detach())
    if isinstance(kind, Tensor):
        check_choice_weights(kind, t.shape)
        return kind.to(t).expand_as(t)
    check_choice("weights", kind, WEIGHTS)
    if kind == "teacher":
        return (t / temperature).softmax(1).gather(1, ranking)
    step = torch.arange(t.shape[1], dtype=torch.float64, device=t.device)  # k - 1
    if kind == "first":
        weights = (step == 0).double()
    elif kind == "uniform":
        weights = torch.full_like(step, 1 / t.shape[1])
    else:
        weights = torch.exp2(-step) - torch.exp2(-step[-1])  # (2^(C-k) - 1) / 2^(C-1): no overflow, any C
        weights = weights / weights.sum()
    return weights.to(t).expand_as(t)


def pld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    temperature: float = 1.0,
    weights: str | Tensor = "teacher",
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Plackett-Luce distillation: weighted negative log-likelihood of the teacher-optimal ranking.

    Args:
        student_logits: ``(N, C)`` raw scores, ``C >= 2``; flatten dense logits to rows first.
        teacher_logits: ``(N, C)``; detached.
        labels: ``(N,)`` integers in ``[0, C)``; rows with ``ignore_index`` count nowhere and have loss 0.
        temperature: ``tau_T > 0``, on the teacher's logits and in the weights only; default 1 (paper: 1 on ImageNet,
            4 on CIFAR-100).
        weights: see :func:`pld_weights`; default ``"teacher"``. A tensor is in ranking order.
        ignore_index: label of rows to leave out; default -100, as in torch.
        reduction: ``"mean"`` over the rows that count, ``"sum"``, or ``"none"`` for ``(N,)``.

    Raises:
        ValueError: shapes, one class only, labels missing or out of range, no row that counts, temperature, weights,
            reduction.
        TypeError: labels that are not integers.

    Reference:
        "PLD: A Choice-Theoretic List-Wise Knowledge Distillation" (2025), arXiv:2506.12542, section 4 and appendix C.
    """
    check_logits_pair(student_logits, teacher_logits, min_classes=2)
    labels = check_labels(labels, *student_logits.shape, ignore_index=ignore_index)
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    counts = labels != ignore_index
    if not torch.compiler.is_compiling() and not bool(counts.any()):
        raise ValueError(f"labels has no valid rows: all {labels.shape[0]} are ignore_index ({ignore_index}).")
    s, t = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
    ranking = teacher_optimal_permutation(t, labels.where(counts, 0))
    alpha = _weights(t, ranking, weights, temperature).to(s.dtype)
    losses = weighted_choice_loss(s.gather(1, ranking), alpha).where(counts, 0.0)
    return losses.sum() / counts.sum() if reduction == "mean" else reduce(losses, reduction)


def pld_gradient(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Gradient of the mean :func:`pld_loss` with respect to the student's logits, in closed form (to show and to test).

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``.
        labels: ``(N,)`` integers in ``[0, C)``.
        temperature: ``tau_T > 0``; default 1.

    Returns:
        ``(N, C)``; every row sums to 0.

    Raises:
        ValueError, TypeError: as :func:`pld_loss`.

    Reference:
        arXiv:2506.12542, gradient of section 4.
    """
    check_logits_pair(student_logits, teacher_logits, min_classes=2)
    s = at_least_float32(student_logits.detach())
    ranking = teacher_optimal_permutation(teacher_logits, labels)
    alpha = _weights(teacher_logits, ranking, "teacher", temperature).to(s.dtype)
    gradient = choice_gradient(s.gather(1, ranking), alpha)
    return torch.empty_like(s).scatter_(1, ranking, gradient) / s.shape[0]


class PLD(Method):
    """PLD alone: the label is the first choice of the ranking, so ``ce_weight`` is 0 by default."""

    name, label = "pld", "PLD"
    knobs = (
        Knob(
            "temperature",
            1.0,
            0.5,
            4.0,
            symbol="τ_T",
            log=True,
            help="softens the teacher in the weights; never the ranking or the student",
            source="paper: 1 on ImageNet (best of 0.5, 1, 1.5, 2, 4); 4 on CIFAR-100",
        ),
        Knob(
            "weights",
            "teacher",
            symbol="α",
            choices=WEIGHTS,
            help="how much each choice counts",
            source="paper: 'teacher'; the others are its special cases",
        ),
        ce_weight_knob(0.0, source="paper: the first choice is the cross-entropy"),
    )

    def terms(self, s: Signals) -> dict[str, Tensor]:
        return {"pld": pld_loss(*s.logits, s.labels, temperature=self.knob.temperature, weights=self.knob.weights)}


CARD = MethodCard(
    slug="pld",
    summary="Cross-entropy and distillation in one convex loss: the student maximises the Plackett-Luce likelihood of "
    "the ranking 'label first, then as the teacher orders the rest', each choice weighted by the teacher's "
    "confidence.",
    objectives=(PLD,),
    losses=("pld_loss",),
    taps="logits of both",
    invariances=("shift_invariant", "class_permutation", "sample_permutation"),
    parity=Parity(
        "exact",
        "the implementation printed in appendix C of the paper",
        1e-8,
        "values, rankings and gradients, float64; also equal to PyLate's form for lists",
    ),
    evidence=(
        Evidence("code", paper="printed in appendix C", code="no repository found", here="equal to appendix C"),
        Evidence(
            "ties in the teacher", paper="not said", code="unstable sort: any order", here="the lower class index first"
        ),
        Evidence(
            "position-aware weights",
            paper="text: 2^(C−k) − 1; ablation: through the teacher's mass",
            code="not printed",
            here="the text's, normalised to sum 1",
        ),
        Evidence("logit standardisation", paper="does not help (71.16 → 70.66)", code="not used", here="left out"),
    ),
    deviations=(
        "Ties in the teacher's logits go to the lower class index; the appendix's sort is unstable.",
        "Half-precision logits are computed in float32.",
    ),
)

__all__ = [
    "CARD",
    "PLD",
    "WEIGHTS",
    "plackett_luce_log_likelihood",
    "plackett_luce_sample",
    "pld_gradient",
    "pld_loss",
    "pld_weights",
    "teacher_optimal_permutation",
]
