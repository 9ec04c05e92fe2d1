"""Moving targets before photographs: pairs for a tracker, made from scikit-learn's two sample images.

Nothing is downloaded. A target (ellipse, rounded rectangle or star, textured with the *other* photograph in a shifted
hue) lies in the middle of a template and somewhere in a search image; backgrounds are crops of one photograph. The left
70 % of each photograph are for training, the right 30 % for the test, so that no background is seen twice.
"""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.checks import check_choice, check_fraction
from ..models.tracker import OcclusionRobustTracker, PairTracker
from ._models import ModelSpec, Recipe
from ._tracking import (
    PairDataset,
    TrackingTask,
    paired_iou,
    tracking_loss,
)

__all__ = [
    "OCCLUDERS",
    "TASKS",
    "PairDataset",
    "TrackingTask",
    "bar_at",
    "moving_target_pairs",
    "occlude",
    "occlude_pairs",
    "paired_iou",
    "tracking_loss",
    "tracking_pairs",
    "tracking_task",
]

OCCLUDERS = ("bar", "blob")
SHAPES = ("ellipse", "rounded rectangle", "star")
TRAIN_SHARE = 0.7
#: Side of a target over the side of the template, and its scale in the search image.
TARGET_SIDE, SEARCH_SCALE = (18 / 32, 30 / 32), (0.8, 1.25)
_TEXTURE = 32  # pixels per side of a target's texture
_CHUNK = 512  # pairs drawn at once


@cache
def _photographs() -> Tensor:
    """Both photographs, ``(2, 3, 427, 640)`` in [0, 1]."""
    from sklearn.datasets import load_sample_images

    return torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2).float() / 255


def _uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=g)


def _crops(which: Tensor, size: int, columns: tuple[int, int], g: torch.Generator) -> Tensor:
    """A random square crop of photograph ``which[i]`` within the columns, ``(N, 3, size, size)``."""
    photographs = _photographs()
    top = torch.randint(photographs.shape[2] - size + 1, (len(which),), generator=g)
    left = torch.randint(columns[0], columns[1] - size + 1, (len(which),), generator=g)
    step = torch.arange(size)
    rows, cols = (top[:, None] + step)[:, :, None], (left[:, None] + step)[:, None, :]
    return photographs[which[:, None, None], :, rows, cols].permute(0, 3, 1, 2)


def _shift_hue(images: Tensor, angle: Tensor) -> Tensor:
    """Colours turned about the grey axis by ``angle (N,)`` radians."""
    axis = torch.full((3,), 1 / math.sqrt(3.0))
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3.0)
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turn = c * torch.eye(3) + s * cross + (1 - c) * torch.outer(axis, axis)
    return torch.einsum("nij,njhw->nihw", turn, images).clamp(0, 1)


def _inside(u: Tensor, v: Tensor, kind: Tensor) -> Tensor:
    """Whether local coordinates in [-1, 1] lie within the silhouette ``kind`` (0, 1 or 2, see :data:`SHAPES`)."""
    inner = 0.5  # radius of a star's inner corners
    fifth = 2 * math.pi / 5
    angle = ((torch.atan2(v, u) + math.pi / 2 + fifth / 2) % fifth - fifth / 2).abs()  # from the nearest tip
    x, y = inner * math.cos(fifth / 2), inner * math.sin(fifth / 2)
    edge = y / (y * angle.cos() + (1 - x) * angle.sin())
    radius = (u**2 + v**2).sqrt()
    shapes = torch.stack([radius <= 1, u**6 + v**6 <= 1, radius <= edge])
    return shapes.gather(0, kind.view(1, -1, 1, 1).expand(1, *u.shape))[0]


def _paint(background: Tensor, texture: Tensor, kind: Tensor, center: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Targets drawn at ``center (N, 2)`` with half sizes ``half (N, 2)`` in pixels: images, and the target's pixels."""
    at = torch.arange(background.shape[-1]) + 0.5
    u, v = ((at[None] - center[:, i, None]) / half[:, i, None] for i in (0, 1))
    u, v = u[:, None, :].expand_as(background[:, 0]), v[:, :, None].expand_as(background[:, 0])
    inside = _inside(u, v, kind)
    colours = F.grid_sample(texture, torch.stack([u, v], -1), align_corners=False, padding_mode="border")
    return torch.where(inside[:, None], colours, background), inside


def _tight_boxes(target: Tensor) -> Tensor:
    """The smallest box about each target's pixels ``(N, S, S)``, xywh in [0, 1], ``(N, 4)``."""
    side = target.shape[-1]
    ends = []
    for across in (1, 2):  # columns, then rows
        hit = target.any(across).int()
        first = hit.argmax(1)
        ends.append((first, side - hit.flip(1).argmax(1) - first))
    (x, w), (y, h) = ends
    return torch.stack([x, y, w, h], 1) / side


def moving_target_pairs(
    count: int, *, split: str = "train", template_size: int = 32, search_size: int = 64, seed: int = 0
) -> PairDataset:
    """Pairs of a template and a search image with the exact box of the target.

    Args:
        count: number of pairs.
        split: ``"train"`` (left 70 % of the photographs) or ``"test"`` (right 30 %).
        template_size, search_size: sides in pixels; the target is 0.56 to 0.94 of the template's side, and 0.8 to 1.25
            times that, in pixels, in the search image; at most 192, the width of the test part.
        seed: of everything.

    Returns:
        A data set of packed pairs; boxes are the tight boxes of the drawn pixels, xywh in [0, 1].

    Raises:
        ValueError: a count below 1, an unknown split, sizes between which a target would not fit.
    """
    check_choice("split", split, ("train", "test"))
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count!r}.")
    limit = 192
    if template_size < 8 or not TARGET_SIDE[1] * SEARCH_SCALE[1] * template_size <= search_size <= limit:
        raise ValueError(
            f"template_size must be >= 8 and search_size between 1.18 times that and {limit}, got "
            f"{template_size!r} and {search_size!r}."
        )
    g = torch.Generator().manual_seed(2 * seed + (split == "test"))
    parts = [_draw(min(_CHUNK, count - done), split, template_size, search_size, g) for done in range(0, count, _CHUNK)]
    return PairDataset(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _draw(n: int, split: str, template_size: int, search_size: int, g: torch.Generator) -> tuple[Tensor, ...]:
    width = _photographs().shape[3]
    cut = round(TRAIN_SHARE * width)
    columns = (0, cut) if split == "train" else (cut, width)
    photograph = torch.randint(2, (n,), generator=g)
    texture = _shift_hue(_crops(1 - photograph, _TEXTURE, columns, g), _uniform(g, 0, 2 * math.pi, n))
    kind = torch.randint(len(SHAPES), (n,), generator=g)
    half = template_size / 2 * _uniform(g, *TARGET_SIDE, n, 2)
    template, template_target = _paint(
        _crops(photograph, template_size, columns, g), texture, kind, torch.full((n, 2), template_size / 2), half
    )
    half = half * _uniform(g, *SEARCH_SCALE, n, 1)
    center = half + (search_size - 2 * half) * torch.rand(n, 2, generator=g)
    search, search_target = _paint(_crops(photograph, search_size, columns, g), texture, kind, center, half)
    search = (search * _uniform(g, 0.8, 1.2, n, 1, 1, 1)).clamp(0, 1)
    bytes_ = [(image * 255).round().to(torch.uint8) for image in (template, search)]
    return (*bytes_, _tight_boxes(search_target), template_target, search_target)


# Occluders ------------------------------------------------------------------------------------------------------------


def occlude(
    images: Tensor, target: Tensor, *, kind: str = "bar", cover: tuple[float, float] = (0.2, 0.6), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Cover part of each target with a bar or a blob of a colour texture that no training image has.

    Args:
        images: ``(N, 3, S, S)`` uint8.
        target: ``(N, S, S)`` bool, the target's pixels, at least one each.
        kind: ``"bar"`` (a band across the image in a random direction) or ``"blob"`` (a disc), about a random pixel of
            the target.
        cover: share of the target's pixels that is hidden, drawn evenly between the two.
        seed: of everything.

    Returns:
        Occluded images, and the occluder's pixels ``(N, S, S)`` bool.

    Raises:
        ValueError: unknown kind, shares outside [0, 1], an empty target, shapes that do not belong together.
    """
    check_choice("kind", kind, OCCLUDERS)
    for end in cover:
        check_fraction("cover", end)
    if target.shape != (images.shape[0], *images.shape[2:]) or not bool(target.flatten(1).any(1).all()):
        raise ValueError(
            f"target must be (N, S, S) as images are {tuple(images.shape)}, with at least one pixel each, "
            f"got {tuple(target.shape)}."
        )
    g = torch.Generator().manual_seed(seed)
    n, side = len(images), images.shape[-1]
    pixels = target.flatten(1)
    about = torch.multinomial(pixels.float(), 1, generator=g)[:, 0]
    at = torch.arange(side)
    dx, dy = at[None, None, :] - (about % side)[:, None, None], at[None, :, None] - (about // side)[:, None, None]
    if kind == "bar":
        angle = _uniform(g, 0, math.pi, n, 1, 1)
        field = (dx * angle.cos() + dy * angle.sin()).abs().flatten(1)
    else:
        field = (dx**2 + dy**2).float().sqrt().flatten(1)
    share = _uniform(g, *cover, n)
    wanted = (share * pixels.sum(1)).ceil().long().clamp(min=1)
    radius = field.masked_fill(~pixels, torch.inf).sort(1).values.gather(1, wanted[:, None] - 1)
    hidden = (field <= radius).view(n, side, side)
    return _cover(images, hidden, g), hidden


def _cover(images: Tensor, hidden: Tensor, g: torch.Generator) -> Tensor:
    """Smooth random colours where ``hidden (N, S, S)``."""
    n, side = len(images), images.shape[-1]
    colours = F.interpolate(torch.rand(n, 3, 6, 6, generator=g), (side, side), mode="bilinear", align_corners=False)
    return torch.where(hidden[:, None], (colours * 255).round().to(torch.uint8), images)


def bar_at(images: Tensor, position: float, *, width: float = 0.25, seed: int = 0) -> Tensor:
    """An upright bar over images ``(N, 3, S, S)`` uint8: ``position`` of its middle, ``width``, as shares."""
    check_fraction("position", position)
    at = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1]
    hidden = ((at - position).abs() <= width / 2).expand(len(images), images.shape[-1], -1)
    return _cover(images, hidden, torch.Generator().manual_seed(seed))


def occlude_pairs(
    data: PairDataset,
    where: str,
    *,
    kinds: tuple[str, ...] = OCCLUDERS,
    cover: tuple[float, float] = (0.2, 0.6),
    seed: int = 0,
) -> PairDataset:
    """The same pairs with an occluder on the ``"template"`` or the ``"search"`` image, its kinds taking turns."""
    check_choice("where", where, ("template", "search"))
    images, target = getattr(data, where).clone(), getattr(data, f"{where}_target")
    if target is None:
        raise ValueError("data must know the target's pixels (template_target, search_target) to occlude them.")
    for i, kind in enumerate(kinds):
        rows = torch.arange(i, len(data), len(kinds))
        if len(rows):
            images[rows] = occlude(images[rows], target[rows], kind=kind, cover=cover, seed=seed + i)[0]
    pair = {"template": data.template, "search": data.search, where: images}
    return PairDataset(pair["template"], pair["search"], data.boxes, data.template_target, data.search_target)


# The task -------------------------------------------------------------------------------------------------------------


def _network(template_size: int, search_size: int, width: int, depth: int, channels: int) -> nn.Module:
    return PairTracker(
        OcclusionRobustTracker(
            template_size, search_size, 8, width, depth, max(1, width // 16), channels, score_prior=0.1
        )
    )


def tracking_pairs(
    seed: int = 0,
    count: int = 800,
    test_count: int = 200,
    template_size: int = 32,
    search_size: int = 64,
    width: int = 48,
    teacher_depth: int = 3,
    student_depth: int = 1,
    head_channels: int = 64,
) -> TrackingTask:
    """Targets moving over photographs, exact boxes; occluders in the test (scikit-learn; nothing is downloaded).

    ``x`` is a packed pair ``(6, S_x, S_x)`` in [0, 1], see :func:`kdcore.models.tracker.pack_pair`; ``y`` a box.

    Args:
        seed: of pairs and reference teachers.
        count, test_count: pairs in the two splits.
        template_size, search_size: sides in pixels, multiples of the patch of 8.
        width: D of both networks; a multiple of 16.
        teacher_depth, student_depth: blocks.
        head_channels: of the centre head (with half of 64 its score branch ends in 4 channels, and some seeds learn
            nothing in a few hundred steps).

    Raises:
        ValueError: counts or sizes out of range.
    """
    train = moving_target_pairs(count, split="train", template_size=template_size, search_size=search_size, seed=seed)
    test = moving_target_pairs(
        test_count, split="test", template_size=template_size, search_size=search_size, seed=seed
    )
    return tracking_task(
        "tracking_pairs",
        train,
        test,
        seed=seed,
        template_size=template_size,
        search_size=search_size,
        width=width,
        teacher_depth=teacher_depth,
        student_depth=student_depth,
        head_channels=head_channels,
        words=f"a target in a template of {template_size} and a search image of {search_size} pixels",
    )


def tracking_task(
    name: str,
    train: PairDataset,
    test: PairDataset,
    *,
    seed: int,
    template_size: int,
    search_size: int,
    width: int,
    teacher_depth: int,
    student_depth: int,
    head_channels: int,
    words: str,
) -> TrackingTask:
    """A task of pairs with its reference trackers and the occluded copies of its test; see :func:`tracking_pairs`."""
    recipe = Recipe(epochs=15, batch_size=16, lr=1e-3, weight_decay=0.01, scheduler="constant")
    spec = {
        depth: ModelSpec(
            build=partial(_network, template_size, search_size, width, depth, head_channels),
            recipe=recipe,
            words=f"one-stream tracker, {depth} blocks, width {width}",
        )
        for depth in (teacher_depth, student_depth)
    }
    return TrackingTask(
        name=name,
        train=train,
        test=test,
        seed=seed,
        teachers={f"tracker-{teacher_depth}": spec[teacher_depth]},
        students={f"tracker-{depth}": spec[depth] for depth in (student_depth, teacher_depth)},
        words=words,
        occluded={
            "template": occlude_pairs(test, "template", kinds=("bar",), seed=seed),
            "search": occlude_pairs(test, "search", seed=seed),
        },
    )


TASKS = {"tracking_pairs": tracking_pairs}
