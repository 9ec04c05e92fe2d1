"""Specialized teachers: a network, one of its layers, and a learnt mask that dims that layer's features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.checks import closest, describe


class MaskNet(nn.Module):
    """Looks at all features of a layer together and says how much of each is kept, in (0, 1).

    Every feature becomes a token of width ``H = D // (hidden_dim_factor * num_heads) * num_heads``; the D tokens attend
    to each other, and each is read as one number. ``embed`` has ``D^2 H`` weights (67 million for D = 512 with the
    defaults): ``hidden_dim_factor`` makes it smaller. Memory of a forward is ``N D H`` and ``N heads D^2``.

    Args:
        feature_dim: D, channels of the layer.
        num_heads: of the attention; default 3 (Gray-OREO/MST-Distill).
        hidden_dim_factor: divides the tokens' width; default 2 (Gray-OREO/MST-Distill).
        spatial: the layer gives maps ``(N, D, H, W)``, which a small convolution and a mean reduce to ``(N, D)``.

    Shapes: ``(N, D)``, ``(N, D, 1, 1)`` or with ``spatial`` ``(N, D, H, W)`` to the mask ``(N, D)``.

    Raises:
        ValueError: tokens would have no width, or features of another shape.

    Reference:
        "MST-Distill" (Li et al., 2025), arXiv:2507.07015; official code: Gray-OREO/MST-Distill.
    """

    def __init__(
        self, feature_dim: int, *, num_heads: int = 3, hidden_dim_factor: int = 2, spatial: bool = False
    ) -> None:
        super().__init__()
        if min(feature_dim, num_heads, hidden_dim_factor) < 1:
            raise ValueError(
                "feature_dim, num_heads and hidden_dim_factor must be integers >= 1, got "
                f"{feature_dim}, {num_heads} and {hidden_dim_factor}."
            )
        width = feature_dim // (hidden_dim_factor * num_heads) * num_heads
        if not width:
            raise ValueError(
                f"feature_dim {feature_dim} // (hidden_dim_factor {hidden_dim_factor} * num_heads {num_heads}) is 0: "
                "the tokens would have no width; use fewer heads or a smaller factor."
            )
        self.feature_dim, self.spatial = feature_dim, spatial
        if spatial:
            self.spatial_reduce = _SpatialReduce(feature_dim)
        self.embed = nn.Linear(feature_dim, feature_dim * width)
        self.mha = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.fc = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = features
        if not self.spatial and x.ndim == 4 and x.shape[2:] == (1, 1):
            x = x.flatten(1)
        if x.ndim != (4 if self.spatial else 2) or x.shape[1] != self.feature_dim:
            shape = f"(N, {self.feature_dim}{', H, W' if self.spatial else ''})"
            raise ValueError(f"features must be {shape}, got {describe(features)}.")
        if self.spatial:
            x = self.spatial_reduce(x)
        tokens = self.embed(x).unflatten(1, (self.feature_dim, -1))
        mixed, _ = self.mha(tokens, tokens, tokens, need_weights=False)
        return self.fc(mixed).squeeze(-1).sigmoid()


class _SpatialReduce(nn.Module):
    """Maps ``(N, D, H, W)`` to ``(N, D)``: a separable convolution at half resolution and the mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x).mean((2, 3))


class GateNet(nn.Module):
    """Reads the student's logits and scores every specialized teacher.

    For logits ``(N, C)`` two linear layers *without* a non-linearity between them, as in the official code: together
    they are one linear map. For maps ``(N, C, H, W)`` two convolutions with ReLU, a mean and a linear layer.

    Args:
        num_classes: C.
        num_teachers: E.
        dense: the logits are maps.

    Shapes: ``(N, C)`` or ``(N, C, H, W)`` to gate *logits* ``(N, E)``.

    Raises:
        ValueError: no classes or no teachers, or logits of another shape.

    Reference:
        "MST-Distill" (Li et al., 2025), arXiv:2507.07015; official code: Gray-OREO/MST-Distill.
    """

    def __init__(self, num_classes: int, num_teachers: int, *, dense: bool = False) -> None:
        super().__init__()
        if min(num_classes, num_teachers) < 1:
            raise ValueError(
                f"num_classes and num_teachers must be integers >= 1, got {num_classes} and {num_teachers}."
            )
        self.num_classes, self.dense, width = num_classes, dense, 2 * num_classes
        if dense:
            self.conv_point = nn.Conv2d(num_classes, width, 1)
            self.conv_depthwise = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width)
            self.fc = nn.Linear(width, num_teachers)
        else:
            self.fc1, self.fc2 = nn.Linear(num_classes, width), nn.Linear(width, num_teachers)

    def forward(self, student_logits: Tensor) -> Tensor:
        s = student_logits
        if s.ndim != (4 if self.dense else 2) or s.shape[1] != self.num_classes:
            shape = f"(N, {self.num_classes}{', H, W' if self.dense else ''})"
            raise ValueError(f"student_logits must be {shape}, got {describe(s)}.")
        if not self.dense:
            return self.fc2(self.fc1(s))
        return self.fc(F.relu(self.conv_depthwise(F.relu(self.conv_point(s)))).mean((2, 3)))


class SpecializedTeacher(nn.Module):
    """A network whose layer is dimmed by a mask: the triple of the paper. The network itself stays as it is.

    The hook lives only inside ``forward`` (and :meth:`masking`), also when that fails.

    Args:
        model: the teacher; layer: dotted name of one of its submodules; mask: features -> mask ``(N, D)``.

    Attributes:
        last_mask, last_features: of the newest forward, detached, for pictures.

    Raises:
        KeyError: no such layer; the message lists those there are. In ``forward``: TypeError where the layer gives
            something other than a tensor, RuntimeError where it did not run.

    Reference:
        "MST-Distill" (Li et al., 2025), arXiv:2507.07015.
    """

    def __init__(self, model: nn.Module, layer: str, mask: nn.Module) -> None:
        super().__init__()
        names = [name for name, _ in model.named_modules() if name]
        if layer not in names:
            raise KeyError(f"there is no layer {layer!r}.{closest(layer, names)} There are {', '.join(names)}.")
        self.model, self.layer, self.mask = model, layer, mask
        self.last_mask: Tensor | None = None
        self.last_features: Tensor | None = None

    @contextmanager
    def masking(self) -> Iterator[None]:
        """Within the block the network runs with its mask, whoever calls it."""
        with replacing(self.model, self.layer, self._masked):
            yield

    def forward(self, *inputs: Any) -> Tensor:
        self.last_mask = self.last_features = None
        with self.masking():
            out = self.model(*inputs)
        if self.last_mask is None:
            raise RuntimeError(f"layer {self.layer!r} was never executed, so nothing was masked.")
        return out

    def _masked(self, features: Any) -> Tensor:
        if not isinstance(features, Tensor):
            raise TypeError(f"layer {self.layer!r} must return a tensor, got {type(features).__name__}.")
        mask = self.mask(features)
        self.last_mask, self.last_features = mask.detach(), features.detach()
        return mask.view(*mask.shape, *[1] * (features.ndim - mask.ndim)) * features

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}"


class Unmasked(nn.Module):
    """A mask of ones, for controls."""

    def forward(self, features: Tensor) -> Tensor:
        return features.new_ones(features.shape[:2])


class Specialists(nn.Module):
    """Several specialized teachers of a few networks, in the order of their layers.

    The networks are not parts of it: they belong to whoever trains them.

    Args:
        networks: by name.
        layers: ``(network, layer)`` of every teacher.
        inputs: what each network reads of a batch, by name; a first batch tells how wide the masks must be.
        masked: off gives masks of ones.
        **mask_options: of :class:`MaskNet`.

    Raises:
        KeyError: a layer that is not there. ValueError: one whose output is no ``(N, D)`` or ``(N, D, H, W)``.
            TypeError: one that gives something other than a tensor.
    """

    losses: Tensor

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        layers: Sequence[tuple[str, str]],
        inputs: Mapping[str, tuple[Tensor, ...]],
        *,
        masked: bool = True,
        **mask_options: Any,
    ) -> None:
        super().__init__()
        self.layers, masks, teachers = list(layers), [], []
        for name, layer in layers:
            teacher = SpecializedTeacher(networks[name], layer, Unmasked())
            with torch.no_grad():
                teacher(*inputs[name])
            assert teacher.last_features is not None  # the layer ran, else the teacher had said so
            mask = self._mask(teacher.last_features, layer, mask_options) if masked else teacher.mask
            teacher.mask = mask.to(next(teacher.model.parameters()))
            teachers.append(teacher)
            masks.append(teacher.mask)
        self.teachers: Sequence[SpecializedTeacher] = tuple(teachers)
        self.masks, self.best = nn.ModuleList(masks), nn.ModuleList(map(copy.deepcopy, masks))
        device = next(teachers[0].model.parameters()).device
        self.register_buffer("losses", torch.full((len(masks),), torch.inf, device=device))

    def __len__(self) -> int:
        return len(self.teachers)

    def forward(self, inputs: Mapping[str, tuple[Tensor, ...]], *, stacked: bool = False) -> Tensor:
        """Logits of all, ``(E, N, C[, H, W])``; ``stacked``: each with the masks before it in its network as well."""
        out = []
        for e, (teacher, (name, _)) in enumerate(zip(self.teachers, self.layers, strict=True)):
            with ExitStack() as stack:
                for before in self.teachers[:e] if stacked else ():
                    if before.model is teacher.model:
                        stack.enter_context(before.masking())
                out.append(teacher(*inputs[name]))
        return torch.stack(out)

    def keep_best(self, losses: Sequence[float]) -> None:
        """Keep a copy of every mask whose loss is its lowest so far."""
        for e, loss in enumerate(losses):
            if loss < self.losses[e]:
                self.losses[e] = loss
                self.best[e].load_state_dict(self.masks[e].state_dict())

    def load_best(self) -> None:
        """Put the kept masks in place; those of which none was kept stay."""
        for mask, best, loss in zip(self.masks, self.best, self.losses, strict=True):
            if loss.isfinite():
                mask.load_state_dict(best.state_dict())

    @staticmethod
    def _mask(features: Tensor, layer: str, options: Mapping[str, Any]) -> nn.Module:
        shape = tuple(features.shape)
        if len(shape) not in (2, 4):
            raise ValueError(f"layer {layer!r} must give (N, D) or (N, D, H, W) to be masked, got {shape}.")
        return MaskNet(shape[1], spatial=len(shape) == 4 and shape[2:] != (1, 1), **options)


@contextmanager
def replacing(model: nn.Module, layer: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block the output of a layer is what ``change`` makes of it."""
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: change(output))
    try:
        yield
    finally:
        handle.remove()


__all__ = ["GateNet", "MaskNet", "Specialists", "SpecializedTeacher", "Unmasked", "replacing"]
