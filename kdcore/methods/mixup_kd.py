r"""Understanding the Role of Mixup in Knowledge Distillation: An Empirical Study (WACV 2023), arXiv:2211.03946.

Mixup and distillation both smooth what a network says between samples. Together they can smooth too much: a mixed image
is strange to the teacher, its answer is soft already, and a high temperature softens it again. The paper mixes only a
small share of every batch, and lets the spread of each sample's logits take the temperature's place.

=====================================  ======================  ==========================================
symbol                                 name here               shape
=====================================  ======================  ==========================================
:math:`x,\ y`                          inputs, labels          ``(N, ...)``, ``(N,)`` integers
:math:`\lambda`                        lam                     ``(N,)`` in [0, 1], one per sample
:math:`i,\ j`                          perm1, perm2            ``(N,)`` the two members of every pair
:math:`\tilde x,\ \tilde y`            inputs, targets         ``(N, ...)``, ``(N, C)`` rows that sum to 1
:math:`s,\ t`                          student, teacher        ``(N, C)`` raw scores of :math:`\tilde x`
:math:`\sigma_s,\ \sigma_t`            standard deviation      ``(N, 1)`` over classes, unbiased
=====================================  ======================  ==========================================

.. math::
    \tilde x_n = \lambda_n x_{i_n} + (1 - \lambda_n) x_{j_n}, \qquad \hat s = s / \sigma_s,\quad \hat t = t / \sigma_t

    L = \gamma\,\frac1N\sum_n -\tilde y_n \log \mathrm{softmax}(\hat s_n)
      + \alpha\,\frac1N\sum_n KL(\mathrm{softmax}(\hat t_n) \,\|\, \mathrm{softmax}(\hat s_n))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn

from ..card import Evidence, Knob, MethodCard, Parity
from ..functional.checks import (
    check_choice,
    check_logits_pair,
    check_probabilities,
    check_temperature,
    check_weights,
    describe,
    names_arguments,
)
from ..functional.divergences import kl_with_temperature, soft_cross_entropy
from ..functional.mixing import (
    SAMPLINGS,
    MixedBatch,
    full_mixup,
    mix_pairs,
    mixup_pairs,
    one_hot_targets,
    partial_mixup,
)
from ..functional.reductions import at_least_float32, reduce
from ..inputs import Batch
from ..method import Method, Needs, Signals, ce_weight_knob
from ..outputs import logits_of
from ..taps import evaluating

SCALINGS = ("std", "temperature", "none")
TEACHER_MODES = ("mixed_input", "mixed_output")


@names_arguments
def std_scale(logits: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    r"""Logits in units of their own spread: ``z / std(z)``, in place of a temperature.

    Args:
        logits: ``(N, C)``, any shape with two or more classes along ``dim``. The standard deviation is unbiased (N - 1)
            and carries gradient.
        dim: of the classes.
        eps: what a spread of exactly zero becomes; default 1e-12.

    Raises:
        ValueError: fewer than two classes, logits that are not floating.

    Reference:
        arXiv:2211.03946; official code hchoi71/MIX-KD (``MIXSTD``).
    """
    if not logits.is_floating_point() or not logits.ndim or logits.shape[dim] < 2:
        raise ValueError(f"logits must be floating with two classes or more along dim {dim}, got {describe(logits)}.")
    z = at_least_float32(logits)
    variance = z.var(dim, keepdim=True)
    flat = variance == 0  # the root of zero has no gradient
    return z / torch.where(flat, eps, variance.where(~flat, 1.0).sqrt())


def _scaled(logits: Tensor, scaling: str) -> Tensor:
    return std_scale(logits, dim=1) if scaling == "std" else logits


def _kd(s: Tensor, t: Tensor, scaling: str, temperature: float) -> Tensor:
    """The divergence of every row of scaled logits, without its weight."""
    heat = temperature if scaling == "temperature" else 1.0
    return heat**2 * kl_with_temperature(s, t, temperature=heat)


@overload
def mixup_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    scaling: str = ...,
    temperature: float = ...,
    ce_weight: float = ...,
    kd_weight: float = ...,
    return_parts: Literal[False] = ...,
    reduction: str = ...,
) -> Tensor: ...
@overload
def mixup_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    scaling: str = ...,
    temperature: float = ...,
    ce_weight: float = ...,
    kd_weight: float = ...,
    return_parts: Literal[True],
    reduction: str = ...,
) -> dict[str, Tensor]: ...
@names_arguments
def mixup_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    scaling: str = "std",
    temperature: float = 4.0,
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    return_parts: bool = False,
    reduction: str = "mean",
) -> Tensor | dict[str, Tensor]:
    r"""Cross-entropy with (soft) labels and divergence from the teacher, both on logits in units of their own spread.

    Args:
        student_logits: ``(N, C)``; teacher_logits: ``(N, C)``, a constant.
        labels: ``(N,)`` integers in [0, C), or ``(N, C)`` probabilities (mixed labels).
        scaling: ``"std"`` (default, the paper's) divides both by their standard deviation over classes, in both terms,
            without a factor; ``"temperature"``: plain cross-entropy and :math:`T^2 KL` at ``temperature``; ``"none"``:
            the same at T = 1.
        temperature: > 0, of ``scaling="temperature"``; default 4.
        ce_weight, kd_weight: gamma and alpha; default 0.1 and 0.9 (official).
        return_parts: a dict of ``loss``, ``ce_term`` and ``kd_term`` (each with its weight) instead of the loss.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` over samples.

    Raises:
        ValueError: shapes, one class only, labels out of range or no probabilities, temperature, weights, scaling.

    Reference:
        arXiv:2211.03946; official code hchoi71/MIX-KD.
    """
    check_choice("scaling", scaling, SCALINGS)
    check_logits_pair(student_logits, teacher_logits, min_classes=2 if scaling == "std" else 1)
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_temperature(temperature)
    check_weights(ce_weight=ce_weight, kd_weight=kd_weight)
    targets = one_hot_targets(labels, student_logits.shape[1], dtype=at_least_float32(student_logits).dtype)
    if len(targets) != len(student_logits):
        raise ValueError(f"labels must hold {len(student_logits)} samples like the logits, got {describe(labels)}.")
    if labels.is_floating_point():
        check_probabilities("labels", labels)
    s, t = _scaled(student_logits, scaling), _scaled(teacher_logits.detach(), scaling)
    ce_term = ce_weight * soft_cross_entropy(s, targets, reduction=reduction)
    kd_term = kd_weight * reduce(_kd(s, t, scaling, temperature), reduction)
    if return_parts:
        return {"loss": ce_term + kd_term, "ce_term": ce_term, "kd_term": kd_term}
    return ce_term + kd_term


@torch.no_grad()
def mixed_teacher_logits(
    teacher: nn.Module, inputs: Tensor, mixed: MixedBatch, *, teacher_mode: str = "mixed_input"
) -> Tensor:
    """What the teacher says to a mixed batch, in eval mode.

    Args:
        teacher: its output is read by :func:`kdcore.outputs.logits_of`.
        inputs: ``(N, ...)``, the samples that were mixed. mixed: what became of them.
        teacher_mode: ``"mixed_input"`` (default, the paper's): its answer to the mixed sample. ``"mixed_output"``: the
            mixture of its answers to the two samples, for comparison.

    Returns:
        ``(N, C)`` logits.

    Raises:
        ValueError: unknown mode, inputs of another number than the batch.

    Reference:
        arXiv:2211.03946; official code hchoi71/MIX-KD (``"mixed_input"``).
    """
    check_choice("teacher_mode", teacher_mode, TEACHER_MODES)
    if len(inputs) != len(mixed.inputs):
        raise ValueError(f"inputs must be the {len(mixed.inputs)} samples that were mixed, got {describe(inputs)}.")
    with evaluating(teacher):
        if teacher_mode == "mixed_input":
            return logits_of(teacher(mixed.inputs))
        return mix_pairs(logits_of(teacher(inputs)), mixed.perm1, mixed.perm2, mixed.lam)


@torch.no_grad()
def smoothness_curve(model: nn.Module, x_a: Tensor, x_b: Tensor, lams: Sequence[float] | Tensor) -> dict[str, Tensor]:
    """How sure a model is between samples: entropy and highest probability along the mixing path.

    Args:
        model: run in eval mode. x_a, x_b: ``(N, ...)`` the ends; at ``lam`` the input is ``lam x_a + (1 - lam) x_b``.
        lams: ``L`` numbers in [0, 1].

    Returns:
        ``lam``, ``entropy`` (nats) and ``confidence``, all ``(L,)``, the last two means over the N pairs.

    Raises:
        ValueError: ends of different shape, no number, or one outside [0, 1].

    Reference:
        arXiv:2211.03946, its analysis of smoothness (form reconstructed).
    """
    if x_a.shape != x_b.shape or x_a.ndim < 2 or not len(x_a):
        raise ValueError(f"x_a and x_b must both be (N, ...) of one shape, got {describe(x_a)} and {describe(x_b)}.")
    lam = torch.as_tensor(lams, dtype=torch.float64)
    if lam.ndim != 1 or not len(lam):
        raise ValueError(f"lams must be one or more numbers, got {describe(lam)}.")
    both, at = torch.cat([x_a, x_b]), torch.arange(len(x_a))
    entropy, confidence = [], []
    with evaluating(model):
        for value in lam.tolist():  # one pass each: memory does not grow with L
            log_p = logits_of(model(mix_pairs(both, at, at + len(x_a), value))).double().log_softmax(1)
            entropy.append(-(log_p.exp() * log_p).sum(1).mean())
            confidence.append(log_p.max(1).values.exp().mean())
    return {"lam": lam, "entropy": torch.stack(entropy).cpu(), "confidence": torch.stack(confidence).cpu()}


# Training -------------------------------------------------------------------------------------------------------------

_CODE = "official code hchoi71/MIX-KD"
_MIXING = (
    Knob(
        "mix",
        "partial",
        symbol="PMU",
        choices=("none", "partial", "full"),
        help="which samples are mixed",
        source="paper: PMU",
    ),
    Knob(
        "mix_fraction",
        0.1,
        0.0,
        1.0,
        symbol="r",
        help="share that mix='partial' mixes",
        source="paper: about 10 % is best; the released code mixes about 40 % under this name",
    ),
    Knob(
        "sampling",
        "exact",
        choices=SAMPLINGS,
        symbol="1 - r",
        help="how mix='partial' chooses what stays as it is",
        source=f"exact: paper; with_replacement: {_CODE}",
    ),
    Knob("beta", 1.0, 0.2, 2.0, symbol="a", help="mixing coefficients ~ Beta(a, a)", source=f"{_CODE}; 0.2, 0.4 too"),
)


class Mixup(Method):
    """Mixed samples and mixed labels without a teacher: the baseline, and how a teacher is trained with mixup."""

    name, label = "mixup", "Mixup"
    needs = Needs(teacher_logits=False)
    knobs: ClassVar[tuple[Knob, ...]] = (*_MIXING, ce_weight_knob(1.0, source="Zhang et al., 2018"))
    invariances = ("shift_invariant", "class_permutation", "sample_permutation")
    classes: int = 0

    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        if not isinstance(sample, Tensor) or not sample.is_floating_point():
            raise ValueError(f"{self.name} mixes samples: they must be floating tensors, got {describe(sample)}.")
        with torch.no_grad(), evaluating(student):
            self.classes = self.readout(student(sample)).shape[1]

    def min_batch(self) -> int:
        return 1 if self.knob.mix == "none" else 2

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        k = self.knob
        if k.mix == "none":
            return batch
        if not isinstance(batch.x, Tensor) or batch.labels is None:
            raise ValueError(f"{self.name} mixes samples and labels: a batch must be a tensor x with labels.")
        given: dict[str, Any] = {"num_classes": self.classes, "beta": k.beta, "generator": generator}
        if k.mix == "full":
            mixed = full_mixup(batch.x, batch.labels, **given)
        else:
            mixed = partial_mixup(batch.x, batch.labels, mix_fraction=k.mix_fraction, sampling=k.sampling, **given)
        return replace(batch, x=mixed.inputs, labels=mixed.targets)

    def supervised(self, s: Signals) -> None:
        return None  # it is the term itself

    def terms(self, s: Signals) -> dict[str, Tensor]:
        if s.labels is None:
            raise ValueError(f"{self.name} learns from labels: give (x, y).")
        targets = one_hot_targets(s.labels, s.student_logits.shape[1])
        return {"mixup": self.knob.ce_weight * soft_cross_entropy(s.student_logits, targets)}

    @classmethod
    def example(cls, **kwargs: Any) -> Signals:
        """As :meth:`Method.example`, without the teacher's logits where they are not needed."""
        signals = super().example(**kwargs)
        return signals if cls.needs.teacher_logits else replace(signals, teacher_logits=None)


class MixupKD(Mixup):
    """Partial mixup and std-scaled logits: teacher and student see the mixed batch, labels are mixed likewise."""

    name, label = "mixup_kd", "MIXSTD"
    needs = Needs()
    knobs = (
        Knob("scaling", "std", symbol="σ", choices=SCALINGS, help="what softens both distributions", source="paper"),
        Knob("temperature", 4.0, 1.0, 20.0, symbol="T", log=True, help="of scaling='temperature'", source="KD's usual"),
        Knob("kd_weight", 0.9, 0.0, 1.0, symbol="α", help="weight of the divergence", source=_CODE),
        *_MIXING,
        ce_weight_knob(0.1, source=f"{_CODE} (gamma)"),
    )

    def supervised(self, s: Signals) -> Any:
        """Cross-entropy with the mixed labels, on scaled logits where the divergence has them."""
        if self.knob.scaling == "std":
            s = replace(s, student_logits=std_scale(s.student_logits, dim=1), student_output=None)
        return Method.supervised(self, s)

    def terms(self, s: Signals) -> dict[str, Tensor]:
        k = self.knob
        check_logits_pair(*s.logits, min_classes=2 if k.scaling == "std" else 1)
        student, teacher = (_scaled(z, k.scaling) for z in s.logits)
        return {"kd": k.kd_weight * _kd(student, teacher, k.scaling, k.temperature).mean()}


CARD = MethodCard(
    slug="mixup_kd",
    summary="Mixup and a high temperature together smooth too much: mix only a small share of each batch, and divide "
    "every sample's logits by their standard deviation in place of a temperature.",
    objectives=(MixupKD, Mixup),
    losses=("mixup_kd_loss",),
    taps="logits of both",
    invariances=("zero_at_match", "shift_invariant", "scale_invariant", "class_permutation", "sample_permutation"),
    parity=Parity(
        "exact",
        _CODE,
        1e-8,
        "values and gradient of MIXSTD in float64; mixed inputs and labels of recorded draws to 1e-6",
    ),
    evidence=(
        Evidence(
            "share that is mixed",
            paper="about 10 %",
            code="partmixup = 0.9 draws what stays with replacement: 59.5 % stay, 40 % are mixed",
            here="exactly 10 %; sampling='with_replacement' as the code",
        ),
        Evidence("standard deviation", paper="of the logits", code="N - 1, with gradient", here="as the code"),
        Evidence("constant logits", paper="not said", code="0/0: NaN", here="divided by 1e-12: the uniform answer"),
        Evidence(
            "plain KD with mixup",
            paper="mixed labels",
            code="its 'kd' branch learns the unmixed labels from the mixed samples",
            here="mixed labels",
        ),
        Evidence("teacher's input", paper="the mixed sample", code="the mixed sample", here="the mixed sample"),
        Evidence(
            "calibration", paper="measured", code="logits divided at evaluation too", here="std_scale before an ECE"
        ),
    ),
    deviations=(
        "The share that is mixed is exact by default; the released code mixes about four times as many.",
        "The mixture of the teacher's two answers is offered by the function mixed_teacher_logits alone, not in the "
        "training: the loop shows the teacher what the student sees.",
        "The analyses of smoothness are reconstructed from the abstract.",
    ),
)

__all__ = [
    "CARD",
    "SAMPLINGS",
    "SCALINGS",
    "TEACHER_MODES",
    "MixedBatch",
    "Mixup",
    "MixupKD",
    "full_mixup",
    "mixed_teacher_logits",
    "mixup_kd_loss",
    "mixup_pairs",
    "partial_mixup",
    "smoothness_curve",
    "std_scale",
]
