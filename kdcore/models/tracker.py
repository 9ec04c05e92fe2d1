"""A one-stream transformer tracker: template and search image in one sequence, a centre head on the search tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..functional.boxes import READOUTS, TRACKING_WEIGHTS, center_tracking_losses, decode_center_boxes
from ..functional.checks import check_choice, check_fraction, describe
from ..functional.masks import (
    STOP_GRADIENTS,
    apply_block_mask,
    cox_intensity,
    masked_fraction_moments,
    occlusion_robust_loss,
    sample_cox_mask,
    sample_uniform_mask,
)
from .vit import Block

#: Mean and standard deviation of the official trackers' inputs (ImageNet).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Laws of the masks over a template, see :func:`mask_drawer`.
MASKS = ("cox", "uniform", "matched")
_CLAMP = 1e-4


class CenterHead(nn.Module):
    """Score, offset and size of the target's centre on a grid of features.

    Three branches of four ``3x3 convolution, batch norm, ReLU`` with ``channels``, /2, /4 and /8 channels and a 1x1
    convolution. Score and size are probabilities kept in [1e-4, 1 - 1e-4]; the offset (in cells) is raw.

    Args:
        in_dim: D, channels of the features.
        channels: of the first convolution, a multiple of 8; default 256 (official).
        feature_size: F, cells per side.
        score_prior: score of every cell before training; ``None`` leaves the last bias as torch makes it (official,
            about 0.5). CenterNet's 0.1 spares a short training the time to learn that most cells are empty.

    Shape:
        ``(B, D, F, F)`` to a dict of ``score (B, 1, F, F)``, ``size (B, 2, F, F)``, ``offset (B, 2, F, F)`` (channel 0
        is x or width) and ``boxes (B, 4)`` cxcywh in [0, 1] units, read where the score is highest.

    Raises:
        ValueError: ``channels`` not a multiple of 8; features of another size.
    """

    def __init__(
        self, in_dim: int, channels: int = 256, feature_size: int = 16, *, score_prior: float | None = None
    ) -> None:
        super().__init__()
        if channels < 8 or channels % 8:
            raise ValueError(f"channels must be a multiple of 8, got {channels!r}.")
        self.in_dim, self.feature_size = in_dim, feature_size
        self.score, self.offset, self.size = (self._branch(in_dim, channels, out) for out in (1, 2, 2))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        if score_prior is not None:
            if not 0 < score_prior < 1:
                raise ValueError(f"score_prior must be in (0, 1), got {score_prior!r}.")
            nn.init.constant_(self.score[-1].bias, math.log(score_prior / (1 - score_prior)))  # type: ignore[arg-type]

    @staticmethod
    def _branch(in_dim: int, channels: int, out: int) -> nn.Sequential:
        widths = [in_dim, *(channels // 2**i for i in range(4))]
        stages = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(widths)
        ]
        return nn.Sequential(*stages, nn.Conv2d(widths[-1], out, 1))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        f = self.feature_size
        if features.shape[1:] != (self.in_dim, f, f):
            raise ValueError(f"features must be (B, {self.in_dim}, {f}, {f}), got {describe(features)}.")
        score, size = (branch(features).sigmoid().clamp(_CLAMP, 1 - _CLAMP) for branch in (self.score, self.size))
        offset = self.offset(features)
        return {"score": score, "size": size, "offset": offset, "boxes": decode_center_boxes(score, size, offset)}


class OcclusionRobustTracker(nn.Module):
    """One-stream ViT tracker of ORTrack: tokens of template and search image through the same blocks.

    No class token; learned positions (zeros at first) for each of the two images; pre-norm blocks; a final layer norm,
    ``norm``, whose output are the tokens ``(B, T_z + T_x, D)``, template first.

    Args:
        template_size, search_size: sides in pixels; official 128 and 256.
        patch_size: divides both; official 16.
        embed_dim: D; official 192 (DeiT-Tiny).
        depth: number of blocks; official 12 for the teacher, 6 for the student.
        num_heads: divides ``embed_dim``; official 3.
        head_channels: of :class:`CenterHead`; official 256.
        dropout: after the positions are added; official 0.
        score_prior: of :class:`CenterHead`.

    Raises:
        ValueError: sizes that do not divide each other; images of another size.

    Reference:
        arXiv:2504.09228, section 3.1; wuyou3474/ORTrack. One stream: Ye et al., OSTrack, arXiv:2203.11991.
    """

    def __init__(
        self,
        template_size: int = 128,
        search_size: int = 256,
        patch_size: int = 16,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        head_channels: int = 256,
        *,
        dropout: float = 0.0,
        score_prior: float | None = None,
    ) -> None:
        super().__init__()
        for name, side in (("template_size", template_size), ("search_size", search_size)):
            if side < patch_size or side % patch_size:
                raise ValueError(f"{name} must be a multiple of patch_size {patch_size}, got {side!r}.")
        if embed_dim % num_heads:
            raise ValueError(f"num_heads must divide embed_dim, got {num_heads} and {embed_dim}.")
        check_fraction("dropout", dropout, closed=False)
        self.template_size, self.search_size, self.patch_size = template_size, search_size, patch_size
        self.template_grid, self.search_grid = template_size // patch_size, search_size // patch_size
        self.patch_embed = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)
        self.pos_embed_z = nn.Parameter(torch.zeros(1, self.num_template_tokens, embed_dim))
        self.pos_embed_x = nn.Parameter(torch.zeros(1, self.search_grid**2, embed_dim))
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, 4.0) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.box_head = CenterHead(embed_dim, head_channels, self.search_grid, score_prior=score_prior)

    @property
    def num_template_tokens(self) -> int:
        """T_z; the first tokens of the sequence."""
        return self.template_grid**2

    def encode(self, template: Tensor, search: Tensor) -> Tensor:
        """Tokens ``(B, T_z + T_x, D)`` of normalised images ``(B, 3, S_z, S_z)`` and ``(B, 3, S_x, S_x)``."""
        for name, image, side in (("template", template, self.template_size), ("search", search, self.search_size)):
            if image.shape[1:] != (3, side, side):
                raise ValueError(f"{name} must be (B, 3, {side}, {side}), got {describe(image)}.")
        if template.shape[0] != search.shape[0]:
            raise ValueError(
                f"template and search must have the same batch size, got {template.shape[0]} and {search.shape[0]}."
            )
        z, x = (self.patch_embed(image).flatten(2).transpose(1, 2) for image in (template, search))
        tokens = torch.cat([z + self.pos_embed_z, x + self.pos_embed_x], 1)
        return self.norm(self.blocks(self.pos_drop(tokens)))

    def answer(self, tokens: Tensor) -> dict[str, Tensor]:
        """What the head says of tokens ``(B, T_z + T_x, D)``; see :class:`CenterHead`."""
        grid = (self.search_grid, self.search_grid)
        return self.box_head(tokens[:, self.num_template_tokens :].transpose(1, 2).unflatten(2, grid))

    def forward(self, template: Tensor, search: Tensor) -> dict[str, Tensor]:
        """``tokens`` beside the head's ``score``, ``size``, ``offset`` and ``boxes`` (cxcywh in [0, 1])."""
        tokens = self.encode(template, search)
        return {"tokens": tokens, **self.answer(tokens)}

    def training_step_losses(
        self,
        template: Tensor,
        search: Tensor,
        target_xywh: Tensor,
        mask: Tensor | None = None,
        *,
        readout: str = "argmax",
        stop_gradient: str = "masked",
    ) -> dict[str, Tensor]:
        """Both losses of the teacher's stage, so that ``pred + gamma * orr`` is the paper's objective.

        The head and ``pred`` see the clean pass only; the masked pass ends at the tokens.

        Args:
            template, search: ``(B, 3, S, S)``, normalised.
            target_xywh: ``(B, 4)`` in [0, 1] units of the search image.
            mask: ``(B, 1, h, w)`` over the template, 1 = keep; without one ``orr`` is 0.
            readout: see :func:`kdcore.functional.boxes.center_tracking_losses`.
            stop_gradient: see :func:`kdcore.functional.masks.occlusion_robust_loss`.

        Raises:
            ValueError: shapes, boxes without width or height, unknown readout or stop_gradient.
        """
        check_choice("readout", readout, READOUTS)
        check_choice("stop_gradient", stop_gradient, STOP_GRADIENTS)
        out = self(template, search)
        terms = center_tracking_losses(out["score"], out["size"], out["offset"], target_xywh, readout=readout)
        pred = sum((w * t for w, t in zip(TRACKING_WEIGHTS, terms.values(), strict=True)), out["score"].new_zeros(()))
        if mask is None:
            return {"pred": pred, "orr": pred.new_zeros(())}
        with torch.set_grad_enabled(torch.is_grad_enabled() and stop_gradient != "masked"):
            masked = self.encode(apply_block_mask(template, mask), search)
        count = self.num_template_tokens
        orr = occlusion_robust_loss(out["tokens"], masked, num_template_tokens=count, stop_gradient=stop_gradient)
        return {"pred": pred, "orr": orr}


def mask_drawer(tracker: OcclusionRobustTracker, kind: str, mask_ratio: float, sigma: float) -> Callable[..., Tensor]:
    """``draw(batch_size, generator=None) -> (B, 1, h, w)`` over a tracker's template, one cell per patch.

    Args:
        tracker: whose template is masked.
        kind: ``"cox"``; ``"uniform"``, of one size (masked autoencoders); ``"matched"``, uniform with the share that
            Cox masks of the same two numbers hide on average (ours, so that only the law differs).
        mask_ratio: mean number of points (uniform: of blocks) over the number of blocks.
        sigma: width of the bell, see :func:`~kdcore.functional.masks.cox_intensity`.

    Raises:
        ValueError: unknown kind, numbers out of range.
    """
    check_choice("mask", kind, MASKS)
    grid = (tracker.template_grid,) * 2
    if kind == "uniform":
        return partial(sample_uniform_mask, grid, mask_ratio=mask_ratio)
    intensity = cox_intensity(tracker.template_size, block_size=tracker.patch_size, sigma=sigma)
    if kind == "cox":
        return partial(sample_cox_mask, intensity, mask_ratio=mask_ratio)
    share, _ = masked_fraction_moments(intensity, mask_ratio=mask_ratio)
    return partial(sample_uniform_mask, grid, mask_ratio=share, rounding="random")


def pack_pair(template: Tensor, search: Tensor) -> Tensor:
    """A pair as one tensor ``(B, 6, S_x, S_x)``: the search image, and the template in the upper left corner."""
    room = search.shape[-1] - template.shape[-1]
    if room < 0 or template.shape[:2] != search.shape[:2]:
        raise ValueError(
            f"template must be (B, 3, S_z, S_z), no larger than the search image and of its batch, got "
            f"{describe(template)} and {describe(search)}."
        )
    return torch.cat([search, nn.functional.pad(template, (0, room, 0, room))], 1)


def unpack_pair(x: Tensor, template_size: int) -> tuple[Tensor, Tensor]:
    """Template ``(B, 3, S_z, S_z)`` and search image ``(B, 3, S_x, S_x)`` of a packed pair."""
    if x.ndim != 4 or x.shape[1] != 6 or x.shape[-1] < template_size:
        raise ValueError(f"a packed pair must be (B, 6, S, S) with S >= {template_size}, got {describe(x)}.")
    return x[:, 3:, :template_size, :template_size], x[:, :3]


class PairTracker(nn.Module):
    """A tracker behind the interface of the training loop: one tensor in, one tensor out, tokens to be tapped.

    ``pretrained_cfg`` states the normalisation (:func:`kdcore.inputs.input_normalization`), as timm's models do.

    Args:
        tracker: the network.
        mean, std: of the input normalisation, per colour.

    Shape:
        packed, normalised pairs ``(B, 6, S_x, S_x)`` (:func:`pack_pair`) to maps ``(B, 5, F, F)``: score, size, offset.

    While training, and if :meth:`mask_with` was called, the tokens of the masked template are computed too: the module
    ``tracker.norm`` is then called twice and the taps are ``tracker.norm#0`` (clean) and ``tracker.norm#1`` (masked).
    """

    def __init__(
        self, tracker: OcclusionRobustTracker, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> None:
        super().__init__()
        self.tracker = tracker
        self.pretrained_cfg = {"mean": (*mean, *mean), "std": (*std, *std)}
        self.draw_mask: Callable[[int], Tensor] | None = None
        self.masked_gradient = False

    def mask_with(self, draw: Callable[[int], Tensor] | None, *, gradient: bool = False) -> None:
        """``draw(batch_size) -> (B, 1, h, w)`` masks the template while training; ``None`` masks nothing.

        Args:
            draw: see :func:`mask_drawer`.
            gradient: whether gradients flow through the masked pass. Not by default: the official loss detaches its
                tokens and nothing else reads them, so that the same gradients come without its graph.
        """
        self.draw_mask, self.masked_gradient = draw, gradient

    def forward(self, x: Tensor) -> Tensor:
        template, search = unpack_pair(x, self.tracker.template_size)
        out = self.tracker.answer(self.tracker.encode(template, search))
        if self.training and self.draw_mask is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.masked_gradient):
                self.tracker.encode(apply_block_mask(template, self.draw_mask(len(x)).to(x.device)), search)
        return torch.cat([out["score"], out["size"], out["offset"]], 1)

    def tokens(self, x: Tensor) -> Tensor:
        """Tokens ``(B, T_z + T_x, D)`` of packed, normalised pairs."""
        return self.tracker.encode(*unpack_pair(x, self.tracker.template_size))


def split_maps(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score, size and offset of a :class:`PairTracker`'s answer ``(B, 5, F, F)``."""
    if maps.ndim != 4 or maps.shape[1] != 5:
        raise ValueError(f"maps must be (B, 5, F, F) as a PairTracker gives them, got {describe(maps)}.")
    score, size, offset = maps.split((1, 2, 2), 1)
    return score, size, offset
