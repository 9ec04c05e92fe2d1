"""Multi-layer perceptrons for vectors and small images."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..functional.checks import check_fraction


class MLP(nn.Module):
    """Linear-ReLU(-dropout) stages and a linear head; images are flattened first.

    Layer names for taps: ``stage1``, ``stage2``, ... (after ReLU and dropout), ``head``; the embedding is ``head:in``.

    Args:
        in_shape: shape of one sample, ``(D,)`` or ``(C, H, W)``, or ``D`` itself.
        hidden: widths of the stages.
        num_classes: width of the head.
        dropout: probability after each stage.

    Shapes: input ``(N, *in_shape)`` or already flat ``(N, D)``; output ``(N, num_classes)`` logits.

    Raises:
        ValueError: dropout outside [0, 1).
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        hidden: Sequence[int] = (256, 256),
        num_classes: int = 10,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_fraction("dropout", dropout, closed=False)
        self.in_features = in_shape if isinstance(in_shape, int) else math.prod(in_shape)
        widths = (self.in_features, *hidden)
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            stage: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(before, after), act=nn.ReLU())
            if dropout:
                stage["drop"] = nn.Dropout(dropout)
            self.add_module(f"stage{number}", nn.Sequential(stage))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for stage in self.children():
            x = stage(x)
        return x
