"""A backbone with two classification heads: one that learns from labels, one that learns from a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.checks import check_positive, describe


class DualHeadStudent(nn.Module):
    """``backbone`` with ``ce_head`` and ``kd_head`` on the same features.

    Args:
        backbone: inputs -> features ``(N, feature_dim)``.
        feature_dim: D.
        num_classes: C.
        kd_normalize: bring the features of the KD head to length 1; for students that start from a CLIP image tower.
        kd_scale: factor of the KD head's logits, its bias included; 100 for the same students, default 1.

    Raises:
        ValueError: widths below 1, ``kd_scale`` not above zero.

    Reference:
        "Simple yet Effective Semi-supervised Knowledge Distillation from Vision-Language Models via Dual-Head
        Optimization" (Kang et al., 2025), arXiv:2505.07675; official code: erjui/DHO.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        num_classes: int,
        *,
        kd_normalize: bool = False,
        kd_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("feature_dim", feature_dim)
        check_positive("num_classes", num_classes)
        check_positive("kd_scale", kd_scale)
        self.backbone = backbone
        self.ce_head = nn.Linear(feature_dim, num_classes)
        self.kd_head = nn.Linear(feature_dim, num_classes)
        self.kd_normalize, self.kd_scale = kd_normalize, kd_scale

    def forward(self, x: Tensor, *, return_features: bool = False) -> tuple[Tensor, ...]:
        """``(ce_logits, kd_logits)``, both ``(N, C)``; with ``return_features`` also the features ``(N, D)``.

        Raises:
            ValueError: the backbone does not give ``(N, feature_dim)``.
        """
        features = self.backbone(x)
        if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[1] != self.ce_head.in_features:
            raise ValueError(f"backbone must give (N, {self.ce_head.in_features}) features, got {describe(features)}.")
        seen = F.normalize(features, dim=1) if self.kd_normalize else features
        logits = self.ce_head(features), self.kd_head(seen) * self.kd_scale
        return (*logits, features) if return_features else logits

    @torch.no_grad()
    def initialize_heads(self, text_weights: Tensor) -> None:
        """Start both heads from class embeddings, with zero bias.

        Args:
            text_weights: ``(C, feature_dim)``, such as the unnormalised prompt means of the student's own CLIP.

        Raises:
            ValueError: another shape.
        """
        if text_weights.shape != self.ce_head.weight.shape:
            raise ValueError(f"text_weights must be {tuple(self.ce_head.weight.shape)}, got {describe(text_weights)}.")
        for head in (self.ce_head, self.kd_head):
            head.weight.copy_(text_weights)
            head.bias.zero_()


__all__ = ["DualHeadStudent"]
