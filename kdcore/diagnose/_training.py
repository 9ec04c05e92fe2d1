"""What the training samples show, where they are given: copies among the data, another preparation, what was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.agreement import paired_gain
from ._pair import ROLES, Net, Role
from ._sample import Sample, draw
from ._states import batch_statistics, tracked_norms

#: Training samples that copies are looked for among, at most.
MOST = 20_000
#: A sample is a copy where its nearest training sample is nearer than this share of the usual distance between a
#: training sample and its nearest other one.
COPY = 0.2
#: Side of the thumbnails that are compared.
SIDE = 8


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The data held against the training samples.

    Attributes:
        words: how many training samples were compared. samples: as many as the data, for the accuracies.
        copies: rows of the sample that are (nearly) training samples. partners: positions of these in the training
            data.
        shift: by property of an input (its mean, spread, sharpness) the chance that one of the data has more of it than
            one of the training samples: 0.5 where they are alike.
        accuracy: of both models on training samples, ``{}`` without labels. renewed: the same with the statistics of
            the batch, of the models with running ones.
    """

    words: str
    samples: int
    copies: Tensor = field(repr=False)
    partners: list[int] = field(repr=False)
    shift: dict[str, float]
    accuracy: dict[Role, float]
    renewed: dict[Role, tuple[float, float]]


def compare(training: Any, sample: Sample, nets: Mapping[Role, Net], *, limit: int, seed: int) -> TrainingSet:
    """Hold the data against training samples (what ``data`` may be, of a task its training split).

    Raises:
        ValueError: samples of another shape. TypeError: not data.
    """
    size = sample.batch_size
    many, _ = draw(training, limit=MOST, batch_size=max(64, size), seed=seed, split="train")
    if many.x.shape[1:] != sample.x.shape[1:]:
        raise ValueError(
            f"training must hold samples like those of data, {tuple(sample.x.shape[1:])}, got "
            f"{tuple(many.x.shape[1:])}."
        )
    few = many.part(slice(0, limit))
    rows, partners = copies(sample.x, many.x)
    accuracy: dict[Role, float] = {}
    renewed: dict[Role, tuple[float, float]] = {}
    if few.labels is not None and few.labels.ndim == 1:
        labels = few.labels.cpu()
        for role in ROLES:
            net = nets[role]
            right = net.over(few.x.split(size)).argmax(1) == labels
            accuracy[role] = float(right.double().mean())
            if tracked_norms(net.model) and size >= 4:
                with batch_statistics(net.model):
                    again = net.over(few.x.split(size)).argmax(1) == labels
                change = paired_gain(right, again)
                renewed[role] = change.gain, change.p
    return TrainingSet(
        words=many.words.replace("test samples", "training samples"),
        samples=len(few),
        copies=rows,
        partners=many.index[partners].tolist(),
        shift=shifts(sample.x, few.x),
        accuracy=accuracy,
        renewed=renewed,
    )


# --------------------------------------------------------------------------------------------------------------- copies


def thumbnails(x: Tensor) -> Tensor:
    """``(N, D)``: images at a few pixels a side, anything else as it is; each without its mean, at unit spread."""
    x = x.float()
    if x.ndim == 4:
        x = F.adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3])))
    flat = x.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-9)


def copies(x: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of ``x`` that lie far nearer to a training sample than training samples lie to each other, and the rows of
    those; mirrored images count as copies.

    The distance is between thumbnails without brightness and contrast, so that noise, compression and a shift of the
    brightness do not hide a copy. In units of the usual distance among training samples: it adapts to data that all
    look alike.
    """
    theirs = thumbnails(training)
    near, which = _nearest(thumbnails(x), theirs)
    if x.ndim == 4:
        other, at = _nearest(thumbnails(x.flip(3)), theirs)
        which = torch.where(other < near, at, which)
        near = torch.minimum(near, other)
    usual = _nearest(theirs[:512], theirs, own=True)[0].median()
    rows = (near < COPY * usual).nonzero().flatten()
    if len(rows):  # plain grounds all look alike: nearer than the training sample's own neighbours are to it, too
        around = torch.stack([torch.cdist(theirs[w][None].double(), theirs.double())[0] for w in which[rows]])
        local = around.scatter(1, which[rows, None], torch.inf).min(1).values
        rows = rows[near[rows] <= (COPY * local).clamp_min(1e-6)]
    return rows, which[rows]


def _nearest(points: Tensor, others: Tensor, *, own: bool = False) -> tuple[Tensor, Tensor]:
    """Distance to the nearest of the others and its row; ``own``: the points are the first of the others."""
    found = []
    for start in range(0, len(points), 128):
        distance = torch.cdist(points[start : start + 128].double(), others.double())
        if own:
            rows = torch.arange(len(distance))
            distance[rows, start + rows] = torch.inf
        found.append(distance.min(1))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


# --------------------------------------------------------------------------------------------------------------- shifts


def properties(x: Tensor) -> dict[str, Tensor]:
    """``(N,)`` each: mean and spread of a sample and, of images of 4 pixels or more, their sharpness: the size of
    differences between neighbours' differences, in units of the spread."""
    flat = x.double().flatten(1)
    spread = flat.std(1)
    found = {"mean": flat.mean(1), "spread": spread}
    if x.ndim == 4 and min(x.shape[2:]) >= 4:
        image = x.double()
        bend = [(image.diff(dim=d).diff(dim=d)).square().flatten(1).mean(1) for d in (2, 3)]
        found["sharpness"] = (bend[0] + bend[1]).sqrt() / spread.clamp_min(1e-9)
    return found


def shifts(x: Tensor, training: Tensor) -> dict[str, float]:
    """Per property the chance that a sample has more of it than a training sample (area under the ROC curve)."""
    from scipy.stats import mannwhitneyu

    mine, theirs = properties(x), properties(training)
    return {
        name: float(mannwhitneyu(mine[name].numpy(), theirs[name].numpy()).statistic) / (len(x) * len(training))
        for name in mine
    }


__all__ = ["COPY", "MOST", "TrainingSet", "compare", "copies", "properties", "shifts", "thumbnails"]
