"""Few-shot teachers of vision-language models: class prototypes between the text weights and a few labelled images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoints import preserved_rng
from .engine import Learn, Run, Stage, Training, fit
from .functional.checks import check_labels, check_non_negative, describe
from .functional.dual_heads import zero_shot_logits
from .functional.reductions import at_least_float32


class PrototypeFitting(Training):
    """Class prototypes between the text weights and a few labelled features; see :func:`class_adaptive_prototypes`.

    Args:
        features: ``(M, D)``; labels: ``(M,)``; text_weights: ``(D, C)``.
        constraint_weight, lr, epochs, logit_scale: see there.
    """

    text_weights: Tensor

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        text_weights: Tensor,
        *,
        constraint_weight: float = 1.0,
        lr: float = 0.01,
        epochs: int = 300,
        logit_scale: float = 100.0,
    ) -> None:
        super().__init__()
        self.prototypes = nn.Linear(text_weights.shape[0], text_weights.shape[1], bias=False)
        self.prototypes.weight = nn.Parameter(text_weights.detach().T.clone())
        self.register_buffer("text_weights", text_weights.detach().clone())
        self.data, self.epochs, self.lr = [(features.detach(), labels)], epochs, lr
        self.constraint_weight, self.logit_scale = constraint_weight, logit_scale

    def stages(self) -> Iterator[Stage]:
        warm = min(10, self.epochs)

        def cosine(optimizer: torch.optim.Optimizer, steps: int) -> Any:
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=warm)
            fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warm))
            return torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [warm])

        learn = Learn(players=("prototypes",), optimizer="sgd", weight_decay=0.0, lr=self.lr, scheduler=cosine)
        yield Stage(name="", data=self.data, step=self.step, learn=learn, epochs=self.epochs)

    def step(self, batch: Any, run: Run) -> dict[str, Tensor]:
        features, labels = batch
        weights = self.prototypes.weight
        logits = zero_shot_logits(features, F.normalize(weights, dim=1).T, logit_scale=self.logit_scale)
        constraint = (weights - self.text_weights.T).square().sum(1).mean()
        return {"ce": F.cross_entropy(logits, labels), "constraint": self.constraint_weight * constraint}

    def deployed(self) -> nn.Module:
        return self.prototypes

    @classmethod
    def example(cls) -> PrototypeFitting:
        g = torch.Generator().manual_seed(0)
        weights = F.normalize(torch.randn(4, 3, generator=g), dim=0)
        return cls(torch.randn(6, 4, generator=g), torch.arange(6) % 3, weights, epochs=4)


def class_adaptive_prototypes(
    features: Tensor,
    labels: Tensor,
    text_weights: Tensor,
    *,
    constraint_weight: float = 1.0,
    lr: float = 0.01,
    epochs: int = 300,
    logit_scale: float = 100.0,
) -> Tensor:
    """Class weights of a few-shot teacher: fitted to labelled features, held near the text weights.

    Simplified from CLAP: one equal weight of the constraint for all classes, all features in one batch.

    Args:
        features: ``(M, D)`` of labelled images, of any length.
        labels: ``(M,)`` integers in [0, C).
        text_weights: ``(D, C)``, where the prototypes begin and what they are held near, by the squared distance.
        constraint_weight: >= 0; default 1.
        lr, epochs: of SGD, with 10 epochs of warm-up and a cosine; default 0.01 and 300 (erjui/PCoreSet).
        logit_scale: > 0; default 100 (CLIP).

    Returns:
        ``(D, C)``, columns of length 1.

    Raises:
        ValueError: shapes, labels out of range, weights and rates out of range. TypeError: labels not integers.

    Reference:
        "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models" (Silva-Rodriguez et al., 2024),
        arXiv:2312.12730; as used by erjui/PCoreSet.
    """
    check_non_negative("constraint_weight", constraint_weight)
    if text_weights.ndim != 2 or features.ndim != 2 or features.shape[1] != text_weights.shape[0] or not len(features):
        raise ValueError(
            f"features must be (M, D) with M >= 1 and text_weights (D, C), got {describe(features)} and "
            f"{describe(text_weights)}."
        )
    labels = check_labels(labels, len(features), text_weights.shape[1])
    with preserved_rng():
        training = PrototypeFitting(
            at_least_float32(features),
            labels,
            at_least_float32(text_weights),
            constraint_weight=constraint_weight,
            lr=lr,
            epochs=epochs,
            logit_scale=logit_scale,
        )
        fit(training, accelerator="cpu" if features.device.type == "cpu" else "auto")
    return F.normalize(training.prototypes.weight.detach(), dim=1).T.to(features.device)


__all__ = ["PrototypeFitting", "class_adaptive_prototypes"]
