r"""Images from networks: the distance of a batch from BatchNorm's running statistics, class activation maps.

A network remembers in its BatchNorm layers what real inputs look like. A synthetic batch is drawn toward them by

.. math::
    \sum_l m_l \left(\| \sigma^2_l - \mathrm{rv}_l \|_2 + \| \mu_l - \mathrm{rm}_l \|_2\right),

with mean and biased variance of the layer's input over the batch, and norms (not squared) over channels.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .checks import check_labels, check_positive, describe, names_arguments
from .reductions import at_least_float32


@names_arguments
def bn_statistics_distance(x: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """``|| var - running_var ||_2 + || mean - running_mean ||_2`` of one layer's input.

    Args:
        x: ``(N, C, ...)``, at least one entry per channel; the gradient flows here.
        running_mean, running_var: ``(C,)``; constants.

    Returns:
        One number, at least float32.

    Raises:
        ValueError: shapes.

    Reference:
        "Dreaming to Distill" (Yin et al., 2020), arXiv:1912.08795, equation 4 (there squared norms).
    """
    if x.ndim < 2 or not x.is_floating_point() or not x.numel():
        raise ValueError(f"x must be floating (N, C, ...), got {describe(x)}.")
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if value.shape != x.shape[1:2]:
            raise ValueError(f"{name} must be ({x.shape[1]},) like the channels of x, got {describe(value)}.")
    rows = at_least_float32(x).transpose(0, 1).flatten(1)
    variance, mean = torch.var_mean(rows, dim=1, correction=0)
    expected_var, expected_mean = (v.detach().to(rows.dtype) for v in (running_var, running_mean))
    return torch.linalg.vector_norm(variance - expected_var) + torch.linalg.vector_norm(mean - expected_mean)


class BNStatisticsLoss:
    """The sum of :func:`bn_statistics_distance` over the BatchNorm layers that a forward pass went through.

    A context manager: hooks are added on entry and removed on exit, also after an error. Call it after a forward pass::

        with BNStatisticsLoss(model) as bn_loss:
            loss = F.cross_entropy(model(x), y) + bn_loss()

    Args:
        model: with at least one BatchNorm layer that keeps running statistics; put it in eval mode, so that they stay.
        first_multiplier: weight of the first layer (in the order of ``named_modules``); the others have 1. Default 10.

    Raises:
        ValueError: no such layer, or ``first_multiplier`` not above zero.

    Reference:
        "Dreaming to Distill" (Yin et al., 2020), arXiv:1912.08795, official code (``first_bn_multiplier``).
    """

    def __init__(self, model: nn.Module, *, first_multiplier: float = 10.0) -> None:
        check_positive("first_multiplier", first_multiplier)
        self.layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not self.layers:
            raise ValueError("model must have a BatchNorm layer with running statistics, got none.")
        self.first_multiplier = first_multiplier
        self._seen: dict[int, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> BNStatisticsLoss:
        for index, layer in enumerate(self.layers):
            self._handles.append(layer.register_forward_pre_hook(self._hook(index)))
        return self

    def _hook(self, index: int) -> Any:
        def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, _BatchNorm)
            assert layer.running_mean is not None and layer.running_var is not None
            self._seen[index] = bn_statistics_distance(inputs[0], layer.running_mean, layer.running_var)

        return measure

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def per_layer(self) -> Tensor:
        """``(L,)`` distances of the last forward pass, unweighted, of the layers that it went through.

        Raises:
            RuntimeError: no forward pass yet.
        """
        if not self._seen:
            raise RuntimeError("no BatchNorm layer was run: call the model inside the with block first.")
        return torch.stack([self._seen[index] for index in sorted(self._seen)])

    def __call__(self) -> Tensor:
        """The weighted sum for the last forward pass.

        Raises:
            RuntimeError: no forward pass yet.
        """
        layers = self.per_layer
        weights = torch.ones_like(layers)
        if 0 in self._seen:
            weights[0] = self.first_multiplier
        return (weights * layers).sum()


@names_arguments
def class_activation_map(
    feature_maps: Tensor,
    classifier_weight: Tensor,
    labels: Tensor,
    *,
    output_size: tuple[int, int] | int | None = None,
) -> Tensor:
    """Where a class is seen: ``relu(sum_d W[c, d] F_d)`` on the last map, resized and stretched to [0, 1] per image.

    Args:
        feature_maps: ``(N, D, h, w)`` before global average pooling.
        classifier_weight: ``(C, D)`` of the linear layer after it.
        labels: ``(N,)`` integers in [0, C), the class to look for.
        output_size: ``(H, W)`` or a side, bilinear; default the size of the maps.

    Returns:
        ``(N, 1, H, W)``, at least float32; 0 everywhere in an image whose map is constant.

    Raises:
        ValueError: shapes, or labels out of range. TypeError: labels that are not integers.

    Reference:
        "Learning Deep Features for Discriminative Localization" (Zhou et al., 2016), arXiv:1512.04150, equation 2.
    """
    if feature_maps.ndim != 4 or classifier_weight.ndim != 2 or feature_maps.shape[1] != classifier_weight.shape[1]:
        raise ValueError(
            f"feature_maps must be (N, D, h, w) and classifier_weight (C, D), got {describe(feature_maps)} and "
            f"{describe(classifier_weight)}."
        )
    labels = check_labels(labels, len(feature_maps), len(classifier_weight))
    maps = at_least_float32(feature_maps)
    cam = torch.einsum("nd,ndhw->nhw", classifier_weight.to(maps.dtype)[labels], maps).relu()[:, None]
    if output_size is not None:
        size = (output_size, output_size) if isinstance(output_size, int) else output_size
        cam = F.interpolate(cam, size, mode="bilinear", align_corners=False)
    low, high = cam.amin((2, 3), keepdim=True), cam.amax((2, 3), keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (cam - low) / torch.where(spread > 0, spread, 1.0), 0.0)


__all__ = ["BNStatisticsLoss", "bn_statistics_distance", "class_activation_map"]
