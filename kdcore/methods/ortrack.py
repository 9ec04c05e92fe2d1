r"""ORTrack: Learning Occlusion-Robust Vision Transformers for Real-Time UAV Tracking (2025), arXiv:2504.09228.

A one-stream vision transformer reads a template Z (the target) and a search image X as one sequence of tokens and says
where Z is in X. Trees and buildings hide targets. ORTrack has two ideas, one per stage.

**Stage 1, occlusion-robust representations (ORR).** Random blocks of the template are masked, and the template's tokens
shall hardly notice. The blocks come from a spatial Cox process (:mod:`kdcore.functional.masks`): a Poisson process with
a random rate whose intensity is highest in the middle of the template, where the target is.

.. math::
    L_T = L_{pred}(Z, X) + \gamma \, L_{orr}, \qquad
    L_{orr} = \frac{1}{B\,T_z\,D} \sum \big( t(Z, X) - \mathrm{sg}[\,t(m \odot Z, X)\,] \big)^2_{\text{template tokens}}

**Stage 2, adaptive feature-based distillation (AFKD).** A shallower student copies the tokens of the frozen teacher.
Samples on which the student's own box is worse than the batch's average count more:

.. math::
    L_S = L_{pred} + \frac{1}{B} \sum_i w_i d_i, \qquad
    w_i = \alpha + \beta (l_i - \bar l), \quad l_i = 1 - \mathrm{GIoU}_i, \quad
    d_i = \mathrm{mean} (f_i^S - f_i^T)^2

===========================  =========================  =======================================================
paper                        argument                   shape
===========================  =========================  =======================================================
:math:`t`                    clean_tokens,              ``(B, T, D)``, template first; the first
                             masked_tokens              ``num_template_tokens`` count
:math:`m`                    mask                       ``(B, 1, h, w)``, 1 = keep
:math:`f^S, f^T`             student_tokens,            ``(B, T, D)``, all tokens of the last norm
                             teacher_tokens
:math:`l`                    box_loss                   ``(B,)``
:math:`\alpha, \beta`        alpha, beta                numbers; official 2e-4 both
===========================  =========================  =======================================================

:math:`L_{pred}` = focal + 2 GIoU + 5 L1 is :func:`kdcore.functional.boxes.center_tracking_losses`; networks live in
:mod:`kdcore.models.tracker`, pairs of images in :mod:`kdcore.tasks.tracking_pairs`, whose loss is :math:`L_{pred}`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..card import Evidence, Knob, MethodCard, Parity
from ..functional.boxes import cxcywh_to_xyxy, decode_center_boxes, generalized_iou, xywh_to_xyxy
from ..functional.checks import check_labels, describe
from ..functional.difficulty import adaptive_feature_kd_loss, difficulty_weights
from ..functional.masks import (
    STOP_GRADIENTS,
    apply_block_mask,
    cox_intensity,
    masking_probability,
    occlusion_robust_loss,
    sample_cox_mask,
    sample_uniform_mask,
)
from ..functional.reductions import at_least_float32
from ..method import Method, Needs, Signals, ce_weight_knob
from ..model_layers import embedding_tap
from ..models.tracker import MASKS, CenterHead, OcclusionRobustTracker, PairTracker, mask_drawer, split_maps

_CODE = "wuyou3474/ORTrack"


def sample_difficulty(student_logits: Tensor, labels: Tensor | None) -> Tensor:
    """What AFKD calls the student's own error on a sample, ``(B,)``.

    Args:
        student_logits: ``(B, 5, F, F)`` maps of a tracker (score, size, offset), or ``(B, C)`` class scores.
        labels: ``(B, 4)`` boxes, xywh in [0, 1]: gives 1 - GIoU of the box read at the highest score. ``(B,)``
            integers: gives 1 where the class is wrong and 0 where it is right (ours; the paper is about boxes only).

    Raises:
        ValueError: labels missing or out of range, shapes that do not belong together.
        TypeError: class labels that are not integers.
    """
    if student_logits.ndim == 2:
        return (student_logits.argmax(1) != check_labels(labels, *student_logits.shape)).to(student_logits.dtype)
    if labels is None or labels.shape != (student_logits.shape[0], 4):
        raise ValueError(
            f"labels must be ({student_logits.shape[0]}, 4) boxes, xywh in [0, 1], got {describe(labels)}."
        )
    boxes = cxcywh_to_xyxy(decode_center_boxes(*(at_least_float32(m) for m in split_maps(student_logits))))
    return 1 - generalized_iou(boxes, xywh_to_xyxy(labels.to(boxes.dtype)).clamp(0, 1))


class ORR(Method):
    """Stage 1 as an objective: the task's own loss, and the template's tokens held still in a second, masked pass.

    There is no teacher: a :class:`~kdcore.models.tracker.PairTracker` is its own. Every step costs two passes.
    """

    name, label = "orr", "ORTrack ORR"
    knobs = (
        Knob("gamma", 2e-4, 0.0, 1.0, symbol="γ", source=f"{_CODE}, with pretrained tokens",
             help="weight of the occlusion-robust loss; tokens of size 1 want about 0.05"),
        Knob("mask", "cox", symbol="m", choices=MASKS, help="law of the masked blocks", source="paper, section 3.2"),
        Knob("mask_ratio", 0.3, 0.0, 0.9, symbol="ρ", source=_CODE,
             help="mean number of points over number of blocks"),
        Knob("sigma", 64.0, 4.0, 256.0, symbol="s", log=True, source=_CODE,
             help="width of the bell: variance s times half the template's side, in pixels"),
        Knob("stop_gradient", "masked", symbol="sg", choices=STOP_GRADIENTS, source=_CODE,
             help="the side that is the target and does not move"),
        ce_weight_knob(1.0, source="paper: the prediction loss has weight 1"),
    )  # fmt: skip
    needs = Needs(teacher_logits=False)
    student_taps: tuple[str, ...] = ("tracker.norm#0", "tracker.norm#1")
    _template_tokens: int | None = None

    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        if not isinstance(student, PairTracker):
            raise ValueError(f"orr needs a kdcore.models.tracker.PairTracker as student, got {type(student).__name__}.")
        draw = mask_drawer(student.tracker, self.knob.mask, self.knob.mask_ratio, self.knob.sigma)
        student.mask_with(draw, gradient=self.knob.stop_gradient != "masked")
        self._template_tokens = student.tracker.num_template_tokens

    def terms(self, s: Signals) -> dict[str, Tensor]:
        clean, masked = (s.student_features[name] for name in self.student_taps)
        count, stop = self._template_tokens, self.knob.stop_gradient
        loss = occlusion_robust_loss(clean, masked, num_template_tokens=count, stop_gradient=stop)
        return {"orr": self.knob.gamma * loss}

    @classmethod
    def example(
        cls, *, batch: int = 6, classes: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0, match: bool = False
    ) -> Signals:
        """As the method of the base class, with 7 tokens of width 4 of both passes."""
        signals = super().example(batch=batch, classes=classes, dtype=dtype, seed=seed, match=match)
        clean, masked = _example_tokens(batch, dtype, seed, match)
        signals.teacher_logits = None
        signals.student_features = dict(zip(cls.student_taps, (clean, masked.requires_grad_()), strict=True))
        return signals

    @classmethod
    def example_models(cls) -> tuple[nn.Module, nn.Module, Tensor]:
        """A tracker of one block, its teacher that nobody asks, two pairs."""
        tracker = OcclusionRobustTracker(template_size=32, search_size=32, embed_dim=8, depth=1, num_heads=1)
        return PairTracker(tracker), nn.Identity(), torch.zeros(2, 6, 32, 32)


class AFKD(Method):
    """Stage 2 as an objective: the task's own loss (boxes: :math:`L_{pred}`; classes: cross-entropy) + AFKD.

    Trackers (:class:`~kdcore.models.tracker.OcclusionRobustTracker`) are compared on all tokens of their final norm,
    other networks on their embedding, through a learned projection where the widths differ. To compare other layers,
    assign ``student_taps`` and ``teacher_taps`` (one name each) before the training starts.
    """

    name, label = "ortrack", "ORTrack AFKD"
    knobs = (
        Knob("alpha", 2e-4, 1e-5, 10.0, symbol="α", log=True, help="weight of a sample of average difficulty",
             source=f"{_CODE}: 2e-5 * 10; tokens of size 1 want about 0.5"),
        Knob("beta", 2e-4, 0.0, 10.0, symbol="β", source=f"{_CODE}: 2e-5 * 10",
             help="how much a harder sample counts more; 0: plain feature KD"),
        ce_weight_knob(1.0, source="paper: the prediction loss has weight 1"),
    )  # fmt: skip
    needs = Needs(teacher_logits=False)
    student_taps = ("tokens",)
    teacher_taps = ("tokens",)

    def __init__(self, **knobs: float) -> None:
        super().__init__(**knobs)
        self.projector: nn.Module = nn.Identity()

    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        ours, theirs = self.settle_taps(student, teacher, sample, find=_tokens_tap)
        if ours[:-1] != theirs[:-1]:
            raise ValueError(
                f"ortrack compares as many tokens of the student as of the teacher, got shapes {ours} "
                f"({self.student_taps[0]}) and {theirs} ({self.teacher_taps[0]}) per sample."
            )
        if ours != theirs:
            self.projector = nn.Linear(ours[-1], theirs[-1])

    def terms(self, s: Signals) -> dict[str, Tensor]:
        ours = _tokens(self.projector(s.student_features[self.student_taps[0]]))
        theirs = _tokens(s.teacher_features[self.teacher_taps[0]])
        loss = adaptive_feature_kd_loss(
            ours, theirs, sample_difficulty(s.student_logits, s.labels), alpha=self.knob.alpha, beta=self.knob.beta
        )
        return {"afkd": loss}

    @classmethod
    def example(
        cls, *, batch: int = 6, classes: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0, match: bool = False
    ) -> Signals:
        """As the method of the base class, with 7 tokens of width 4 on both sides."""
        signals = super().example(batch=batch, classes=classes, dtype=dtype, seed=seed, match=match)
        ours, theirs = _example_tokens(batch, dtype, seed, match)
        signals.teacher_logits = None
        signals.student_features, signals.teacher_features = {"tokens": ours}, {"tokens": theirs}
        return signals


def _tokens(features: Tensor) -> Tensor:
    """``(B, T, D)`` as it is; an embedding ``(B, D)`` is one token."""
    return features.unsqueeze(1) if features.ndim == 2 else features


def _example_tokens(batch: int, dtype: torch.dtype, seed: int, match: bool) -> tuple[Tensor, Tensor]:
    """Random tokens ``(B, 7, 4)`` that want a gradient, and others near them (with ``match`` the same)."""
    g = torch.Generator().manual_seed(seed + 1)
    tokens, noise = torch.randn(2, batch, 7, 4, generator=g, dtype=torch.float64)
    near = tokens.clone() if match else tokens + noise
    return tokens.to(dtype).requires_grad_(), near.to(dtype)


def _tokens_tap(model: nn.Module, sample: Tensor) -> str:
    """The final norm of a tracker (its first, unmasked call), the embedding of anything else."""
    for name, module in model.named_modules():
        if isinstance(module, OcclusionRobustTracker):
            return f"{name}.norm#0" if name else "norm#0"
    return embedding_tap(model, sample)


CARD = MethodCard(
    slug="ortrack",
    summary="A tracker whose template tokens ignore random occlusions (masks of a spatial Cox process, training only), "
    "then a shallower student that copies its tokens, most where the student's own box is bad.",
    objectives=(AFKD, ORR),
    losses=("occlusion_robust_loss", "adaptive_feature_kd_loss"),
    taps="all tokens of the final norm of both trackers; the embedding of any other network",
    invariances=("zero_at_match", "minimal_at_match", "sample_permutation"),
    parity=Parity(
        "exact",
        _CODE,
        1e-8,
        "intensity, both losses, weights and gradients, float64; the mask's law within 0.02 of 20,000 draws "
        "of the released sampler",
    ),
    evidence=(
        Evidence("intensity", paper="Γ exp(-(x² + y²)) / integral, unit of x and y not said",
                 code="covariance 64 r I in pixels, bilinear to the block grid",
                 here="the code's; sigma=64 is the 64"),
        Evidence("mask ratio 0.3", paper="share of masked blocks",
                 code="mean number of points; duplicates collapse",
                 here="as the code: 25.4 % of 8x8 blocks on average; masking_probability gives it exactly"),
        Evidence("uniform masks", paper="baseline: masks 30 % of the blocks",
                 code="multiplies by a tensor that is 1 on the cells to remove: keeps what it should remove",
                 here="1 = keep in both samplers, as the text; mask=matched hides as much as Cox masks do"),
        Evidence("gradient of ORR", paper="not said", code="the masked branch is detached",
                 here="the same by default, computed without a graph; stop_gradient=clean or none move that side"),
        Evidence("gradient of AFKD", paper="through the features",
                 code="per-sample errors are rebuilt with torch.tensor([...]): no gradient reaches the tokens",
                 here="gradient kept; weights detached (detach_weight=False reproduces the code's gradient)"),
        Evidence("student's stage", paper="prediction loss + AFKD", code="also keeps γ L_orr",
                 here="either: [AFKD(), ORR()] are added"),
    ),
    deviations=(
        "Masks are indexed [y, x]; the released sampler mixes the axes, which a square symmetric intensity "
        "hides. Grids need not be square here.",
        "The released AFKD teaches nothing through the features; ours does, as the text says.",
        "Outside tracking, a sample's difficulty is its top-1 error (ours), and a learned projection adapts "
        "embeddings of different widths (ours).",
    ),
)  # fmt: skip

__all__ = [
    "AFKD",
    "CARD",
    "MASKS",
    "ORR",
    "CenterHead",
    "OcclusionRobustTracker",
    "adaptive_feature_kd_loss",
    "apply_block_mask",
    "cox_intensity",
    "difficulty_weights",
    "mask_drawer",
    "masking_probability",
    "occlusion_robust_loss",
    "sample_cox_mask",
    "sample_difficulty",
    "sample_uniform_mask",
]
