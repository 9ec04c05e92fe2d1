"""A task whose labels are boxes: pairs of a template and a search image, trackers, and their loss."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..functional.boxes import (
    TRACKING_WEIGHTS,
    box_iou,
    center_tracking_losses,
    cxcywh_to_xyxy,
    decode_center_boxes,
    success_curve,
    xywh_to_xyxy,
)
from ..functional.checks import describe
from ..functional.masks import relative_token_shift, token_shift_map
from ..method import Method
from ..metrics import SampleMean
from ..models.tracker import PairTracker, pack_pair, split_maps
from ..registry import create_method
from ..taps import evaluating, tap
from ._data import SizedDataset
from ._task import Task


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Packed pairs ``(6, S_x, S_x)`` in [0, 1] with boxes; images are kept as bytes and packed when they are read.

    Args:
        template: ``(N, 3, S_z, S_z)`` uint8.
        search: ``(N, 3, S_x, S_x)`` uint8.
        boxes: ``(N, 4)`` float, xywh in [0, 1] of the search image.
        template_target, search_target: ``(N, S, S)`` bool, pixels of the target (for occluders), or ``None``.

    Raises:
        ValueError: lengths differ, or a box without width or height.
    """

    def __init__(
        self,
        template: Tensor,
        search: Tensor,
        boxes: Tensor,
        template_target: Tensor | None = None,
        search_target: Tensor | None = None,
    ) -> None:
        if not len(template) == len(search) == len(boxes) or boxes.shape[1:] != (4,):
            raise ValueError(
                f"template, search and boxes (N, 4) must hold the same samples, got {describe(template)}, "
                f"{describe(search)} and {describe(boxes)}."
            )
        if not bool((boxes[:, 2:] > 0).all()):
            raise ValueError("boxes must have width and height > 0 (xywh).")
        self.template, self.search, self.boxes = template, search, boxes.float()
        self.template_target, self.search_target = template_target, search_target

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, boxes = self.__getitems__([index])
        return x[0], boxes[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A whole batch ``(x (B, 6, S, S), boxes (B, 4))``."""
        rows = torch.as_tensor(indices)
        return pack_pair(self.template[rows].float() / 255, self.search[rows].float() / 255), self.boxes[rows]

    def fingerprint(self) -> str:
        """Hash of every byte of images and boxes."""
        digest = hashlib.sha256()
        for part in (self.template, self.search, self.boxes):
            digest.update(f"{tuple(part.shape)}{part.dtype}".encode())
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()


# The loss -------------------------------------------------------------------------------------------------------------


def tracking_loss(maps: Tensor, boxes: Tensor, *, readout: str = "target") -> dict[str, Tensor]:
    """What a tracker learns from its labels: ``focal``, ``2 GIoU`` and ``5 L1``, by name.

    Args:
        maps: ``(B, 5, F, F)`` of a tracker; boxes: ``(B, 4)``, xywh in [0, 1] of the search image.
        readout: whose cell's box is judged, ``"target"`` (default, ours: a new tracker's highest score is anywhere) or
            ``"argmax"`` (OSTrack).
    """
    terms = center_tracking_losses(*split_maps(maps), boxes, readout=readout)
    return {name: w * t for w, (name, t) in zip(TRACKING_WEIGHTS, terms.items(), strict=True)}


# The task -------------------------------------------------------------------------------------------------------------


class SuccessAUC:
    """Area under the success curve of boxes, streamed: the IoU of every pair is kept, one number each."""

    name, higher_is_better = "auc", True

    def __init__(self) -> None:
        self.reset()

    def update(self, maps: Tensor, boxes: Tensor) -> None:
        self.ious.append(paired_iou(maps, boxes))

    def compute(self) -> float:
        return success_curve(torch.cat(self.ious))[1].mean().item()

    def reset(self) -> None:
        self.ious: list[Tensor] = []


def tracking_metrics() -> dict[str, Any]:
    """Mean IoU and the area under the success curve."""
    return {"mean IoU": SampleMean(paired_iou, "mean IoU"), "auc": SuccessAUC()}


def paired_iou(maps: Tensor, boxes: Tensor) -> Tensor:
    """IoU of each predicted box with the true one, ``(N,)`` float64."""
    found = cxcywh_to_xyxy(decode_center_boxes(*split_maps(maps.double()))).clamp(0, 1)
    return box_iou(found, xywh_to_xyxy(boxes.double()))


@dataclass(kw_only=True, eq=False)
class TrackingTask(Task):
    """A :class:`Task` whose label is a box ``(4,)``, xywh in [0, 1] of the search image; the score is the mean IoU.

    Attributes:
        occluded: test pairs with an occluder, by where it lies (``"template"``, ``"search"``); also the splits
            ``"test/template"`` and ``"test/search"``.
    """

    occluded: dict[str, SizedDataset]
    metrics: Callable[[], Mapping[str, Any]] = tracking_metrics
    loss: Callable[[Any, Any], Any] = tracking_loss

    def __post_init__(self) -> None:
        self.more = {**self.more, **{f"test/{where}": data for where, data in self.occluded.items()}}
        super().__post_init__()

    def labels(self, split: str = "test") -> Tensor:
        """All boxes of a split, ``(N, 4)``."""
        data = self.split(split)
        return torch.stack([data[i][1] for i in range(len(data))])

    def teacher_objective(self) -> Method:
        """Stage 1 of ORTrack, with Cox masks at the scale of these small networks."""
        return create_method("orr", gamma=0.05)

    def check_model(self, model: nn.Module, name: str = "the model") -> nn.Module:
        """Return ``model`` if it gives ``(N, 5, F, F)`` maps on this task's pairs, else raise ``ValueError``."""
        maps, _ = self.predict(model, n=2)
        if maps.ndim != 4 or maps.shape[1] != 5:
            raise ValueError(f"{name} must give (N, 5, F, F) maps (score, size, offset), got {describe(maps)}.")
        return model

    def ious(self, model: nn.Module, split: str = "test") -> Tensor:
        """IoU of every pair of a split, ``(N,)`` float64."""
        return paired_iou(*self.predict(model, split))

    def success_rate(self, model: nn.Module, split: str = "test") -> float:
        """Share of pairs with IoU above 0.5."""
        return (self.ious(model, split) > 0.5).double().mean().item()

    def tokens(self, model: nn.Module, split: str = "test", *, n: int | None = None, batch_size: int = 256) -> Tensor:
        """Tokens ``(N, T_z + T_x, D)`` of a :class:`PairTracker` over the first ``n`` pairs of a split."""
        if not isinstance(model, PairTracker):
            raise ValueError(f"tokens are those of a PairTracker, got {type(model).__name__}.")
        normalize, data = self.normalization(model), self.split(split)
        count = len(data) if n is None else min(n, len(data))
        found: list[Tensor] = []
        with evaluating(model), torch.no_grad():
            for x, _ in self.loader(split, batch_size=batch_size, shuffle=False):
                found.append(model.tokens(normalize(x)))
                if len(found) * batch_size >= count:
                    break
        return torch.cat(found)[:count]

    def token_shift(self, model: PairTracker, *, to: str = "energy") -> float:
        """How far occluders never seen in training move the template's tokens (lower is robuster).

        Args:
            model: a tracker; to: the unit, see :func:`~kdcore.functional.masks.relative_token_shift`.
        """
        clean, occluded = self.tokens(model), self.tokens(model, "test/template")
        count = model.tracker.num_template_tokens
        return relative_token_shift(clean, occluded, num_template_tokens=count, to=to).item()

    @torch.no_grad()
    def pair_shift(self, model: PairTracker, templates: tuple[Tensor, Tensor], search: Tensor) -> Tensor:
        """How far each template token moves between two versions of one template, ``(h, w)``.

        Args:
            model: the tracker.
            templates: clean and occluded, ``(1, 3, S_z, S_z)`` uint8.
            search: ``(1, 3, S_x, S_x)`` uint8.
        """
        normalize = self.normalization(model)
        with evaluating(model):
            clean, occluded = (model.tokens(normalize(pack_pair(z / 255, search / 255))) for z in templates)
        return token_shift_map(clean, occluded, grid_size=(model.tracker.template_grid,) * 2)[0]

    def layer_shifts(self, model: PairTracker, *, n: int = 64) -> dict[str, float]:
        """The token shift after every block and the final norm, over the first ``n`` test pairs."""
        names = [*(f"tracker.blocks.{i}" for i in range(len(model.tracker.blocks))), "tracker.norm"]
        normalize, found = self.normalization(model), []
        for split in ("test", "test/template"):
            x, _ = self.split(split).__getitems__(range(min(n, len(self.test))))  # type: ignore[attr-defined]
            with evaluating(model), torch.no_grad(), tap(model, names) as features:
                model(normalize(x))
                found.append({name: features[name] for name in names})
        count = model.tracker.num_template_tokens
        return {
            name.removeprefix("tracker."): relative_token_shift(
                found[0][name], found[1][name], num_template_tokens=count
            ).item()
            for name in names
        }

    def label_facts(self) -> list[tuple[str, str]]:
        """Boxes."""
        return [("labels", "one box per pair, x y width height in [0, 1] of the search image")]
