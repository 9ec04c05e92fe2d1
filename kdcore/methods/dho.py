r"""Simple yet Effective Semi-supervised Knowledge Distillation ... via Dual-Head Optimization (2025), arXiv:2505.07675.

Few labelled images, many unlabelled ones, and a vision-language model that can say something of any image but is large
and often wrong. A student with *one* classifier is pulled two ways wherever the teacher contradicts a label. Here it has
two heads on one backbone: one learns from labels only, the other from the teacher only, and the backbone from both.
Their answers are mixed afterwards, with weights that are looked for on validation images:

.. math::
    L = w_{ce} \, CE(z^{ce}_l, y) + w_{kd} \, (KD(z^{kd}_l, t_l) + KD(z^{kd}_u, t_u)), \qquad
    p = \alpha \, \mathrm{softmax}(z^{ce}) + (1 - \alpha) \, \mathrm{softmax}(z^{kd} / \beta)

==============================  =======================================  =================================
paper                           argument                                 shape
==============================  =======================================  =================================
:math:`z^{ce}_l, z^{kd}_l`      ce_logits, kd_logits_labeled             ``(N, C)`` of labelled samples
:math:`z^{kd}_u`                kd_logits_unlabeled                      ``(M, C)`` of unlabelled samples
:math:`t_l, t_u`                teacher_logits_labeled, ..._unlabeled    as the student's
:math:`\alpha, \beta`           alpha, beta                              of the mixture
==============================  =======================================  =================================

Loss, mixture and search live in :mod:`kdcore.functional.dual_heads` (PCoreSet uses them too), the student in
:mod:`kdcore.models.dual_head`. In the loop one batch holds labelled and unlabelled samples together (the latter labelled
-100), so that batch norm sees both, as in the authors' ImageNet scripts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..card import Evidence, Knob, MethodCard, Parity
from ..functional.checks import check_non_negative, check_positive, describe
from ..functional.divergences import kd_loss
from ..functional.dual_heads import (
    InterpolationResult,
    dho_loss,
    dual_head_probabilities,
    search_interpolation,
    zero_shot_logits,
    zero_shot_weights,
)
from ..functional.reductions import at_least_float32
from ..method import Method, Signals, ce_weight_knob
from ..model_layers import classifier_name
from ..models.dual_head import DualHeadStudent
from ..outputs import logits_of


def tip_adapter_logits(
    image_features: Tensor,
    cache_keys: Tensor,
    cache_values: Tensor,
    text_weights: Tensor,
    *,
    alpha: float,
    beta: float,
    logit_scale: float = 100.0,
) -> Tensor:
    """Logits of a few-shot teacher: zero-shot, plus what labelled images that look alike are called.

    ``logit_scale * e W + alpha * exp(-beta (1 - e K^T)) V``.

    Args:
        image_features: ``(N, D)`` e, of length 1.
        cache_keys: ``(M, D)`` K, features of labelled images, of length 1.
        cache_values: ``(M, C)`` V, one-hot labels.
        text_weights: ``(D, C)`` W, columns of length 1.
        alpha: weight of the cache, >= 0; beta: its sharpness, > 0.
        logit_scale: > 0; default 100 (CLIP).

    Returns:
        ``(N, C)``.

    Raises:
        ValueError: shapes or widths that do not fit, ``alpha``, ``beta`` or ``logit_scale`` out of range.

    Warns:
        UserWarning: image features that are not of length 1 (to 1e-3).

    Reference:
        "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification" (Zhang et al., 2022),
        arXiv:2207.09519; as used by erjui/DHO.
    """
    check_non_negative("alpha", alpha)
    check_positive("beta", beta)
    check_positive("logit_scale", logit_scale)
    width = text_weights.shape[0] if text_weights.ndim == 2 else None
    for name, x in (("image_features", image_features), ("cache_keys", cache_keys)):
        if x.ndim != 2 or x.shape[1] != width:
            raise ValueError(f"{name} must be (N, {width}), the width of text_weights, got {describe(x)}.")
    if cache_values.shape != (len(cache_keys), text_weights.shape[1]):
        raise ValueError(
            f"cache_values must be ({len(cache_keys)}, {text_weights.shape[1]}), got {describe(cache_values)}."
        )
    if bool(((image_features.norm(dim=1) - 1).abs() > 1e-3).any()):
        warnings.warn("image_features are not of length 1: their similarities are not cosines.", stacklevel=2)
    e = at_least_float32(image_features)
    near = torch.exp(-beta * (1 - e @ cache_keys.to(e).T))
    return logit_scale * e @ text_weights.to(e) + alpha * near @ cache_values.to(e)


def gradient_conflict(ce_loss: Tensor, kd_loss: Tensor, parameters: Iterable[Tensor]) -> dict[str, float]:
    """How two losses pull at the same parameters; the graph is kept for the training step.

    Args:
        ce_loss, kd_loss: scalars; parameters: those of the backbone.

    Returns:
        ``cosine`` in [-1, 1] of the two gradients (NaN where one is zero), ``ce_norm``, ``kd_norm``, and ``conflict``,
        1.0 where the cosine is negative, else 0.0 (its mean over steps is the share of steps in conflict).

    Raises:
        ValueError: no parameters.

    Reference:
        arXiv:2505.07675, the analysis of gradient conflicts.
    """
    leaves = list(parameters)
    if not leaves:
        raise ValueError("parameters must hold at least one tensor, got none.")
    flat = []
    for loss in (ce_loss, kd_loss):
        grads = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        flat.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(leaves, grads, strict=True)])
        )
    ce, kd = flat[0].norm().item(), flat[1].norm().item()
    cosine = (flat[0] @ flat[1]).item() / (ce * kd) if ce * kd else float("nan")
    return {"cosine": cosine, "ce_norm": ce, "kd_norm": kd, "conflict": float(cosine < 0)}


# Teachers -------------------------------------------------------------------------------------------------------------


class LogitTeacher(Protocol):
    """Anything that maps images to logits ``(N, C)``."""

    def __call__(self, images: Tensor) -> Tensor: ...


class ZeroShotTeacher(nn.Module):
    """An image encoder with class weights made of text: logits are scaled cosines.

    Args:
        image_encoder: images -> ``(N, D)``.
        text_weights: ``(D, C)``, see :func:`~kdcore.functional.dual_heads.zero_shot_weights`.
        logit_scale: > 0; default 100 (CLIP).

    Raises:
        ValueError: weights that are not a matrix, ``logit_scale``.
    """

    text_weights: Tensor

    def __init__(self, image_encoder: nn.Module, text_weights: Tensor, *, logit_scale: float = 100.0) -> None:
        super().__init__()
        check_positive("logit_scale", logit_scale)
        if text_weights.ndim != 2:
            raise ValueError(f"text_weights must be (D, C), got {describe(text_weights)}.")
        self.image_encoder, self.logit_scale = image_encoder, logit_scale
        self.register_buffer("text_weights", text_weights.detach().clone())

    @classmethod
    def from_text_embeddings(
        cls,
        image_encoder: nn.Module,
        text_embeddings: Tensor,
        *,
        normalize_first: bool = True,
        logit_scale: float = 100.0,
    ) -> ZeroShotTeacher:
        """From the embeddings ``(C, P, D)`` of P prompts per class."""
        weights = zero_shot_weights(text_embeddings, normalize_first=normalize_first)
        return cls(image_encoder, weights, logit_scale=logit_scale)

    def forward(self, images: Tensor) -> Tensor:
        return zero_shot_logits(self.image_encoder(images), self.text_weights, logit_scale=self.logit_scale)


def OpenClipTeacher(
    model_name: str, pretrained: str, classnames: Sequence[str], templates: Sequence[str | Callable[[str], str]]
) -> ZeroShotTeacher:
    """A :class:`ZeroShotTeacher` from an open_clip model; weights are fetched by open_clip, so this needs a network.

    Args:
        model_name, pretrained: as for ``open_clip.create_model_and_transforms``.
        classnames: C names; templates: texts with one ``{}``, or functions of the name.

    Raises:
        ImportError: open_clip is not installed; the message says how to install it.
    """
    try:
        import open_clip  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError("OpenClipTeacher needs open_clip: pip install open_clip_torch") from error
    model, _, _ = open_clip.create_model_and_transforms(model_name, pretrained=pretrained)
    tokenize = open_clip.get_tokenizer(model_name)
    with torch.no_grad():
        texts = [[t(c) if callable(t) else t.format(c) for t in templates] for c in classnames]
        embedded = torch.stack([model.encode_text(tokenize(prompts)) for prompts in texts])
    return ZeroShotTeacher.from_text_embeddings(model.visual, embedded)


# In the loop ----------------------------------------------------------------------------------------------------------


class DHO(Method):
    """Labels to one head, the teacher to the other; ``heads="single"`` sends both to one head, as a baseline.

    The student is a :class:`DualHeadStudent`; any other gets a second head beside its classifier. Samples labelled -100
    are the unlabelled ones.
    """

    name, label = "dho", "DHO"
    knobs = (
        Knob("temperature", 2.0, 1.0, 8.0, symbol="T", log=True, help="softens both distributions", source="erjui/DHO"),
        Knob("kd_weight", 0.5, 0.0, 1.0, symbol="w_kd", help="weight of both distillation terms", source="erjui/DHO"),
        Knob("alpha", 0.5, 0.0, 1.0, symbol="α", help="share of the CE head in the answer", source="PCoreSet's default"),
        Knob("beta", 1.0, 0.5, 4.0, symbol="β", help="temperature of the KD head in the answer", source="erjui/DHO"),
        Knob("heads", "dual", symbol="h", choices=("dual", "single"), help="one head for each signal, or one for both"),
        ce_weight_knob(0.5, source="erjui/DHO: 0.5 in the few-shot scripts, 1 with 1 % and 10 % of ImageNet"),
    )

    def wrap_student(self, student: nn.Module, sample: Tensor) -> nn.Module:
        """The student with two heads; the classifier of another network is taken off."""
        if isinstance(student, DualHeadStudent):
            return student
        name = classifier_name(student, sample)
        last = student.get_submodule(name)
        if not isinstance(last, nn.Linear):
            raise ValueError(f"the last layer {name!r} must be linear to be replaced by two heads, got {last}.")
        student.set_submodule(name, nn.Identity())
        return DualHeadStudent(student, last.in_features, last.out_features)

    def heads(self, output: Any) -> tuple[Tensor, Tensor]:
        """The logits that labels and teacher speak to."""
        if not isinstance(output, tuple | list) or len(output) < 2:
            raise ValueError(f"dho needs a student with two heads that returns (ce_logits, kd_logits), got {output!r}.")
        ce, kd = output[:2]
        return (kd, kd) if self.knob.heads == "single" else (ce, kd)

    def readout(self, output: Any) -> Tensor:
        """Logarithms of the mixed probabilities; of a teacher its logits."""
        if isinstance(output, Tensor):
            return logits_of(output)
        ce, kd = self.heads(output)
        if self.knob.heads == "single":
            return kd
        return dual_head_probabilities(ce, kd, alpha=self.knob.alpha, beta=self.knob.beta).clamp_min(1e-30).log()

    def supervised(self, s: Signals) -> Tensor | None:
        weight = s.fixed_ce_weight if s.fixed_ce_weight is not None else self.ce_weight(s)
        if not weight or s.labels is None or not bool((s.labels != -100).any()):
            return None
        return weight * F.cross_entropy(self.heads(s.student_output)[0], s.labels)

    def terms(self, s: Signals) -> dict[str, Tensor]:
        _, kd = self.heads(s.student_output)
        teacher = s.logits[1]
        known = torch.zeros(len(kd), dtype=torch.bool) if s.labels is None else s.labels != -100
        weighted = {}
        for name, part in (("kd_labeled", known), ("kd_unlabeled", ~known)):
            if bool(part.any()):
                weighted[name] = self.knob.kd_weight * kd_loss(kd[part], teacher[part], temperature=self.knob.temperature)
        return weighted

    @classmethod
    def example(cls, **kwargs: Any) -> Signals:
        """As the method of the base class, with two heads; the last third of the samples is unlabelled."""
        signals = super().example(**kwargs)
        ce = (0.5 * signals.student_logits.detach().flip(1)).requires_grad_()
        signals.student_output = (ce, signals.student_logits)
        n = len(signals.student_logits)
        assert signals.labels is not None
        signals.labels[n - n // 3 :] = -100
        return signals


CARD = MethodCard(
    slug="dho",
    summary="A student with two heads: labels speak to one, a vision-language teacher to the other; their probabilities "
    "are mixed at inference, with weights found on validation images.",
    objectives=(DHO,),
    losses=("dho_loss",),
    taps="logits of both heads",
    invariances=("sample_permutation",),
    parity=Parity(
        "exact", "erjui/DHO", 1e-10, "loss, gradients, search, zero-shot and Tip-Adapter logits, float64"
    ),
    evidence=(
        Evidence("forward", paper="one model", code="one batch (ImageNet) or two forwards (few-shot)", here="one batch"),
        Evidence("weights", paper="λ", code="0.5 and 0.5 (few-shot); 1 and 1 (1 %, 10 %)", here="knobs, 0.5 and 0.5"),
        Evidence(
            "search of α and β", paper="on validation data", code="on the test set in the ImageNet few-shot script",
            here="on validation images only",
        ),
        Evidence(
            "prompts", paper="text ensemble", code="normalised before the mean (DHO), after it (PCoreSet)",
            here="normalize_first",
        ),
    ),  # fmt: skip
    deviations=("α and β are never searched on test images.",),
)

__all__ = [
    "CARD",
    "DHO",
    "DualHeadStudent",
    "InterpolationResult",
    "LogitTeacher",
    "OpenClipTeacher",
    "ZeroShotTeacher",
    "dho_loss",
    "dual_head_probabilities",
    "gradient_conflict",
    "search_interpolation",
    "tip_adapter_logits",
]
