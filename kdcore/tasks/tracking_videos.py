"""Your own videos with one box per frame, as pairs for a tracker: the layouts of GOT-10k, LaSOT and OTB are read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..functional.checks import check_fraction, check_positive
from ._image_files import SUFFIXES, decoded
from ._tracking import PairDataset, TrackingTask
from .tracking_pairs import tracking_task

__all__ = ["TASKS", "Video", "find_videos", "tracking_videos", "video_pairs"]

BOXES = ("groundtruth.txt", "groundtruth_rect.txt")
#: Side of a crop over the square root of the box's area, and the jitter of the search crop (wuyou3474/ORTrack).
TEMPLATE_FACTOR, SEARCH_FACTOR = 2.0, 4.0
CENTER_JITTER, SCALE_JITTER = 3.0, 0.25


@dataclass(frozen=True)
class Video:
    """One sequence.

    Attributes:
        name: of its folder.
        frames: image files in order, those whose box is usable.
        boxes: ``(N, 4)`` float64, xywh in pixels.
    """

    name: str
    frames: tuple[Path, ...]
    boxes: np.ndarray


def find_videos(folder: str | Path) -> list[Video]:
    """Every sequence below a folder: a folder with ``groundtruth.txt`` and its frames, beside it or in ``img/``.

    Boxes are one line per frame, ``x y w h`` in pixels, separated by commas, tabs or spaces. Frames without a box
    (zero, negative or NaN sides) are left out, sequences with fewer than two frames left, too.

    Raises:
        FileNotFoundError: no such folder, or no sequence below it; the message says what was looked for.
        ValueError: boxes that cannot be read, or another number of boxes than of frames; the file is named.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"path must be a folder of videos, got {root}, which is not one.")
    notes = sorted(p for name in BOXES for p in root.rglob(name))
    videos = [v for v in map(_video, notes) if len(v.frames) > 1]
    if not videos:
        raise FileNotFoundError(
            f"no video below {root}: wanted folders with {' or '.join(BOXES)} (x y w h per line) "
            "and at least two frames as images beside it or in img/."
        )
    return videos


def _video(note: Path) -> Video:
    lines = [line for line in note.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        boxes = np.array([[float(v) for v in re.split(r"[,\s]+", line.strip())] for line in lines])
    except ValueError as error:
        raise ValueError(f"{note} must hold one box x y w h per line: {error}") from error
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{note} must hold one box x y w h per line, got shape {boxes.shape}.")
    home = note.parent / "img" if (note.parent / "img").is_dir() else note.parent
    frames = sorted(p for p in home.iterdir() if p.suffix.lower() in SUFFIXES)
    if len(frames) != len(boxes):
        raise ValueError(f"{note} holds {len(boxes)} boxes for {len(frames)} frames.")
    usable = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
    return Video(note.parent.name, tuple(f for f, good in zip(frames, usable, strict=True) if good), boxes[usable])


def video_pairs(
    videos: Sequence[Video],
    count: int,
    *,
    template_size: int = 64,
    search_size: int = 128,
    max_gap: int = 100,
    seed: int = 0,
) -> PairDataset:
    """Pairs of two frames of one video: a template about the box of one, a jittered search crop of the other.

    The template's side is 2, the search image's 4 times the square root of the box's area; before the search crop is
    cut, its centre moves by up to 1.5 of that length and its size by a log-normal factor of 0.25, until the target's
    centre is in it (the official recipe). Outside a frame crops are black.

    Args:
        videos: drawn evenly.
        count: number of pairs.
        template_size, search_size: sides in pixels.
        max_gap: largest distance of the two frames.
        seed: of everything.

    Raises:
        ValueError: no videos, or a number below 1.
        OSError: a frame that is not a readable image; the message names it.
    """
    for name, value in (
        ("count", count),
        ("template_size", template_size),
        ("search_size", search_size),
        ("max_gap", max_gap),
    ):
        check_positive(name, value)
    if not videos:
        raise ValueError("videos must hold at least one video, got none.")
    random = np.random.default_rng(seed)
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(count):
        video = videos[int(random.integers(len(videos)))]
        a = int(random.integers(len(video.frames)))
        low, high = max(0, a - max_gap), min(len(video.frames) - 1, a + max_gap)
        b = int(random.integers(low, high + 1))
        template, z_box = _crop(video, a, video.boxes[a], TEMPLATE_FACTOR, template_size)
        search, x_box = _crop(video, b, _jittered(video.boxes[b], random), SEARCH_FACTOR, search_size)
        columns.append((template, search, x_box, _inside(z_box, template_size), _inside(x_box, search_size)))
    return PairDataset(*(torch.stack(column) for column in zip(*columns, strict=True)))


def _jittered(box: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A box ``xywh`` near ``box`` whose search crop holds the centre of ``box``."""
    center = box[:2] + box[2:] / 2
    while True:
        sides = box[2:] * np.exp(SCALE_JITTER * random.standard_normal(2))
        length = math.sqrt(sides.prod())
        moved = center + CENTER_JITTER * length * (random.random(2) - 0.5)
        if (np.abs(moved - center) < SEARCH_FACTOR * length / 2).all():
            return np.concatenate([moved - sides / 2, sides])


def _crop(video: Video, at: int, about: np.ndarray, factor: float, size: int) -> tuple[Tensor, Tensor]:
    """The square about a box as uint8 ``(3, size, size)``, and the true box in it, xywh in [0, 1]."""
    from PIL import Image

    side = max(2, round(factor * math.sqrt(about[2] * about[3])))
    left, top = (round(v) for v in about[:2] + about[2:] / 2 - side / 2)
    cut = decoded(video.frames[at], "frame").crop((left, top, left + side, top + side))
    pixels = np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1).copy()
    x, y, w, h = video.boxes[at]
    ends = np.clip((np.array([x, y, x + w, y + h]) - [left, top, left, top]) / side, 0, 1)
    box = np.concatenate([ends[:2], np.maximum(ends[2:] - ends[:2], 1 / size)])
    return torch.from_numpy(pixels), torch.from_numpy(box).float()


def _inside(box: Tensor, size: int) -> Tensor:
    """Pixels of a box, ``(size, size)`` bool, at least one."""
    at = torch.arange(size)
    first = (box[:2] * size).floor().long().clamp(0, size - 1)
    last = ((box[:2] + box[2:]) * size).ceil().long().sub(1).clamp(0, size - 1).maximum(first)
    columns, rows = ((at >= first[i]) & (at <= last[i]) for i in (0, 1))
    return rows[:, None] & columns


def tracking_videos(
    path: str | Path,
    *,
    seed: int = 0,
    count: int = 2000,
    test_count: int = 400,
    test_share: float = 0.2,
    max_gap: int = 100,
    template_size: int = 64,
    search_size: int = 128,
    width: int = 128,
    teacher_depth: int = 6,
    student_depth: int = 3,
    head_channels: int = 64,
) -> TrackingTask:
    """Your videos (folders of frames with groundtruth.txt): pairs for a tracker.

    Whole videos are kept for the test; of a single video, its last frames.

    Args:
        path: folder of sequences, see :func:`find_videos`.
        seed: of the split, the pairs and the reference teachers.
        count, test_count: pairs in the two splits, see :func:`video_pairs`; max_gap: frames between the two of a pair.
        test_share: share of the videos (of the frames, if there is one video) in the test.
        template_size, search_size, width, teacher_depth, student_depth, head_channels: as of ``tracking_pairs``.

    Raises:
        FileNotFoundError, ValueError, OSError: as :func:`find_videos` and :func:`video_pairs`; too little to split.
    """
    check_fraction("test_share", test_share)
    videos = find_videos(path)
    if len(videos) == 1:
        (only,) = videos
        cut = round((1 - test_share) * len(only.frames))
        parts: list[list[Video]] = [
            [Video(only.name, only.frames[s], only.boxes[s])] for s in (slice(None, cut), slice(cut, None))
        ]
        sizes = [len(part[0].frames) for part in parts]
    else:
        order = np.random.default_rng(seed).permutation(len(videos))
        held = min(len(videos) - 1, max(1, round(test_share * len(videos))))
        parts = [[videos[i] for i in rows] for rows in (order[held:], order[:held])]
        sizes = [len(part) for part in parts]
    if not all(sizes):
        raise ValueError(
            f"test_share {test_share} of {len(videos)} videos leaves {sizes[0]} for training and "
            f"{sizes[1]} for the test: both need one."
        )
    crops: dict[str, Any] = {"template_size": template_size, "search_size": search_size, "max_gap": max_gap}
    train, test = (
        video_pairs(part, n, seed=2 * seed + i, **crops)
        for i, (part, n) in enumerate(zip(parts, (count, test_count), strict=True))
    )
    return tracking_task(
        "tracking_videos",
        train,
        test,
        seed=seed,
        template_size=template_size,
        search_size=search_size,
        width=width,
        teacher_depth=teacher_depth,
        student_depth=student_depth,
        head_channels=head_channels,
        words=f"{len(videos)} videos, {sum(len(v.frames) for v in videos)} frames with a box",
    )


TASKS = {"tracking_videos": tracking_videos}
