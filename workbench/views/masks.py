"""Pictures of occlusion: masks over images, how far tokens shift, weights of distilled samples, success curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kdcore.functional.boxes import success_curve
from kdcore.functional.masks import masked_fraction_moments, masking_probability
from kdcore.methods.ortrack import difficulty_weights

from .base import View
from .comparison import lines_view
from .drawing import Array, as_array, check_names, told
from .picture import Axis, Bars, Colours, Heat, Images, Line, Mark, Panel, Picture, Plane, Points, Rule, Span


def _image(argument: str, image: Any) -> Array:
    """``(3, H, W)`` in [0, 1] as ``(H, W, 3)``."""
    array = as_array(argument, image, ndim=3)
    if array.shape[0] != 3:
        raise ValueError(f"{argument} must be (3, H, W), got shape {array.shape}.")
    return array.transpose(1, 2, 0).clip(0, 1)


def masked_images_view(
    images: Any, mask: Any, intensity: Any, *, mask_ratio: float, columns: int = 6, title: str = "What the mask hides"
) -> View:
    """The intensity, the probability of every block, and drawn masks laid over templates.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1], one for each mask.
        mask: ``(N, 1, h, w)``, 1 = keep; masked blocks are greyed.
        intensity: ``(h, w)`` of the Cox process, sums to 1.
        mask_ratio: of the process.
        columns: images per row.

    Raises:
        ValueError: shapes that do not belong together.
    """
    pictures, cells = as_array("images", images, ndim=4), as_array("mask", mask, ndim=4)
    q = torch.from_numpy(as_array("intensity", intensity, ndim=2).copy())
    if len(pictures) != len(cells) or cells.shape[2:] != tuple(q.shape):
        raise ValueError(
            f"images, mask and intensity must belong together, got shapes {pictures.shape}, {cells.shape} "
            f"and {tuple(q.shape)}."
        )
    chance = masking_probability(q, mask_ratio=mask_ratio).numpy()
    share, (mean, std) = 1 - cells.mean((1, 2, 3)), masked_fraction_moments(q, mask_ratio=mask_ratio)
    i, j = (s // 2 for s in chance.shape)
    alt = (
        f"Blocks of a grid of {chance.shape[0]} by {chance.shape[1]} are masked with probability "
        f"{chance[i, j]:.2f} in the middle and {chance[0, 0]:.2f} in the corner, on average {100 * mean:.1f} % of a "
        f"template (standard deviation {100 * std:.1f}). The {len(share)} masks drawn hide {100 * share.mean():.1f} "
        f"% on average, from {100 * share.min():.0f} to {100 * share.max():.0f}."
    )
    table = pd.DataFrame({"mask": range(1, len(share) + 1), "masked share": share})

    large = cells[:, 0].repeat(pictures.shape[2] // chance.shape[0], 1)
    large = large.repeat(pictures.shape[3] // chance.shape[1], 2)[..., None]
    hidden = large * pictures.transpose(0, 2, 3, 1).clip(0, 1) + (1 - large) * 0.5
    heat = Heat(
        values=chance,
        colours=Colours(0, float(chance.max()) or 1.0, "P(block is masked)"),
        title="P(block is masked)",
        square=True,
        unnamed=True,
    )
    grid = Images(images=hidden, captions=[f"{100 * s:.0f} %" for s in share], columns=columns, title="drawn masks")
    return View(title=title, alt=alt, table=table, picture=Picture(heat, grid, widths=(1, 3)))


def masked_share_view(shares: Any, intensity: Any, *, mask_ratio: float, title: str = "How much is hidden") -> View:
    """Histogram of the masked share of drawn masks against mean and spread in closed form.

    Args:
        shares: ``(N,)`` masked share of each drawn mask.
        intensity: ``(h, w)``; mask_ratio: of the process.
    """
    values = as_array("shares", shares, ndim=1, finite=True)
    q = torch.from_numpy(as_array("intensity", intensity, ndim=2).copy())
    mean, std = masked_fraction_moments(q, mask_ratio=mask_ratio)
    cells = q.numel()
    counts = np.bincount((values * cells).round().astype(int), minlength=cells + 1) / len(values)
    alt = (
        f"{len(values)} masks hide {100 * values.mean():.2f} % on average with a standard deviation of "
        f"{100 * values.std():.2f}; in closed form {100 * mean:.2f} and {100 * std:.2f}. The knob says "
        f"{100 * mask_ratio:.0f} %: points that fall on the same block count once."
    )
    seen = np.flatnonzero(counts)
    table = pd.DataFrame({"masked blocks": seen, "share of masks": counts[seen]})

    end = min(101, 100 * (max(values.max(), mask_ratio) + 0.06))
    plane = Plane(
        Span(100 * (mean - std), 100 * (mean + std), "± standard deviation"),
        Bars("", 100 * np.arange(cells + 1) / cells, counts, width=80 / cells),
        Rule(100 * mean, "mean, closed form", axis="x"),
        Rule(100 * mask_ratio, "mask ratio", axis="x", style="bad"),
        x=Axis("masked blocks in percent of the template", low=-1, high=end),
        y=Axis("share of masks", low=0),
        height=210,
    )
    return View(title=title, alt=alt, table=table, picture=Picture(plane))


def token_shift_view(
    clean: Any, occluded: Any, shifts: Mapping[str, Any], *, title: str = "How far the template's tokens move"
) -> View:
    """A template, the same with an occluder, and the shift of every token for each tracker, on one scale.

    Args:
        clean, occluded: ``(3, H, W)`` in [0, 1].
        shifts: tracker -> ``(h, w)`` from :func:`kdcore.functional.masks.token_shift_map`.

    Raises:
        ValueError: no tracker, or maps of different shapes.
    """
    images = {"template": _image("clean", clean), "occluded": _image("occluded", occluded)}
    maps = {name: as_array(f"shifts[{name!r}]", value, ndim=2) for name, value in shifts.items()}
    if not maps or len({m.shape for m in maps.values()}) > 1:
        raise ValueError(f"shifts must hold maps of one shape, got {[m.shape for m in maps.values()]}.")
    top = max(float(m.max()) for m in maps.values()) or 1.0
    alt = (
        "Mean shift of a token, in units of a typical token's length: "
        + "; ".join(f"{name} {m.mean():.3f} (largest {m.max():.2f})" for name, m in maps.items())
        + "."
    )
    first = next(iter(maps.values()))
    at = [(i, j) for i in range(first.shape[0]) for j in range(first.shape[1])]
    table = pd.DataFrame(
        {"row": [i for i, _ in at], "column": [j for _, j in at], **{name: m.ravel() for name, m in maps.items()}}
    )

    colours = Colours(0, top, "shift")
    panels: list[Panel] = [Images(images=np.stack(list(images.values())), captions=list(images), columns=1)]
    panels += [
        Heat(
            values=m,
            colours=colours,
            numbers=".2f" if m.size <= 36 else "",
            title=name,
            square=True,
            unnamed=True,
        )
        for name, m in maps.items()
    ]
    return View(title=title, alt=alt, table=table, picture=Picture(*panels, columns=len(panels)))


def shift_profile_view(
    profiles: Mapping[str, Sequence[Mapping[str, float]]], *, title: str = "Token shift along the network"
) -> View:
    """How far an occluder moves the tokens after every layer: the mean over seeds as a line, every seed as a point.

    Args:
        profiles: tracker -> one ``{layer: shift}`` per seed (``TrackingTask.layer_shifts``), the same layers in all.

    Raises:
        ValueError: nothing to show, or layers that differ.
    """
    layers = [list(run) for runs in profiles.values() for run in runs]
    if not layers or any(names != layers[0] for names in layers) or not all(profiles.values()):
        raise ValueError(f"profiles must hold one or more runs per tracker with the same layers, got {layers}.")
    values = {n: np.array([list(run.values()) for run in runs], dtype=float) for n, runs in profiles.items()}
    means = {n: v.mean(0) for n, v in values.items()}
    alt = (
        f"Mean token shift after {', '.join(layers[0])}: "
        + "; ".join(f"{n} {', '.join(told(m, '.3f') for m in mean)}" for n, mean in means.items())
        + "."
    )
    table = pd.DataFrame({"layer": layers[0], **means})

    at = np.arange(len(layers[0]), dtype=float)
    marks: list[Mark] = []
    for i, (n, runs) in enumerate(values.items()):
        beside = at + 0.06 * (i - (len(values) - 1) / 2)
        marks.append(Points("", np.tile(beside, len(runs)), runs.ravel(), style=i, size=4, notes=[n] * runs.size))
        marks.append(Line(n, beside, means[n], style=i, dots=True))
    x, y = Axis("after this layer", names=layers[0]), Axis("token shift; small: one seed")
    return View(title=title, alt=alt, table=table, picture=Picture(Plane(*marks, x=x, y=y)))


def afkd_weights_view(
    box_loss: Any,
    ious: Any,
    *,
    alpha: float,
    beta: float,
    groups: Sequence[str] | None = None,
    title: str = "Who counts how much",
) -> View:
    """AFKD's weight of every sample of a batch over the IoU of the student's box.

    Args:
        box_loss: ``(B,)``, 1 - GIoU; ious: ``(B,)``.
        alpha, beta: of :func:`kdcore.methods.ortrack.difficulty_weights`.
        groups: ``B`` names for colours and markers.

    Raises:
        ValueError: lengths that differ.
    """
    from .comparison import scatter_view

    loss, iou = as_array("box_loss", box_loss, ndim=1), as_array("ious", ious, ndim=1)
    weights = difficulty_weights(torch.from_numpy(loss.copy()), alpha=alpha, beta=beta).numpy()
    view = scatter_view(
        iou, weights, x_label="IoU of the student's box", y_label="weight of the sample", groups=groups, title=title
    )
    below = int((weights < 0).sum())
    heavy, light = int(weights.argmax()), int(weights.argmin())
    view.alt += (
        f" Mean weight {weights.mean():.4g}; the heaviest sample ({weights[heavy]:.4g}) has IoU "
        f"{iou[heavy]:.2f}, the lightest ({weights[light]:.4g}) {iou[light]:.2f}. {below} of {len(weights)} "
        "weights are negative."
    )
    return view


def success_view(ious: Mapping[str, Any], *, title: str = "Success curves") -> View:
    """Share of pairs whose IoU exceeds a threshold, for each set of IoUs; the legend gives the area under it.

    Args:
        ious: label -> ``(N,)`` values, or a list of such arrays, one per seed (their curves are averaged).

    Raises:
        ValueError: nothing to show.
    """
    curves: dict[str, Tensor] = {}
    at = torch.zeros(0)
    for name, value in ious.items():
        seeds = [
            torch.from_numpy(as_array(f"ious[{name!r}]", v, ndim=1).copy())
            for v in (value if isinstance(value, list | tuple) else [value])
        ]
        at = success_curve(seeds[0])[0]
        mean = torch.stack([success_curve(v)[1] for v in seeds]).mean(0)
        curves[f"{name} ({mean.mean():.3f})"] = mean
    return lines_view(
        at,
        curves,
        x_label="IoU threshold (area under the curve in brackets)",
        y_label="share of pairs above",
        title=title,
    )


def tracking_view(
    search: Any,
    true_boxes: Any,
    found_boxes: Any = None,
    captions: Sequence[str] | None = None,
    *,
    templates: Any = None,
    columns: int = 6,
    title: str = "Where the target is",
) -> View:
    """Search images with the true box (solid) and the tracker's (dashed); the template above each.

    Args:
        search: ``(N, 3, S, S)`` in [0, 1].
        true_boxes: ``(N, 4)`` xyxy in [0, 1]; found_boxes: the same, or ``None`` to show the truth alone.
        captions: ``N`` texts; default the IoU.
        templates: ``(N, 3, s, s)``, or ``None``.
        columns: images per row.

    Raises:
        ValueError: numbers that differ.
    """
    from kdcore.functional.boxes import box_iou

    images = as_array("search", search, ndim=4)
    truth = as_array("true_boxes", true_boxes, ndim=2)
    found = None if found_boxes is None else as_array("found_boxes", found_boxes, ndim=2)
    if len(images) != len(truth) or (found is not None and len(found) != len(truth)):
        raise ValueError(
            f"search and boxes must hold the same samples, got {len(images)}, {len(truth)} and "
            f"{len(truth if found is None else found)}."
        )
    iou = (
        np.full(len(truth), np.nan)
        if found is None
        else box_iou(torch.from_numpy(found.copy()), torch.from_numpy(truth.copy())).numpy()
    )
    names = check_names("captions", captions or ["" if found is None else f"IoU {v:.2f}" for v in iou], len(images))
    small = None if templates is None else as_array("templates", templates, ndim=4)
    sides = truth[:, 2:] - truth[:, :2]
    alt = (
        f"{len(images)} search images with the box of the target, whose sides are {100 * sides.min():.0f} to "
        f"{100 * sides.max():.0f} % of the image's."
        if found is None
        else f"{len(images)} search images with the true box and the tracker's: IoU from {iou.min():.2f} to "
        f"{iou.max():.2f}, mean {iou.mean():.2f}."
    ) + ("" if small is None else " The template is above each.")
    table = pd.DataFrame({"image": range(1, len(iou) + 1), "IoU": iou, "caption": names})

    boxes = {"true box": truth} | ({} if found is None else {"tracker's box": found})
    panels = []
    if small is not None:
        above = small.transpose(0, 2, 3, 1)
        panels.append(Images(images=above, captions=[""] * len(above), columns=columns, size=64, title="templates"))
    heading = "" if small is None else "where to search"
    panels.append(
        Images(images=images.transpose(0, 2, 3, 1), captions=names, boxes=boxes, columns=columns, title=heading)
    )
    return View(title=title, alt=alt, table=table, picture=Picture(*panels, columns=1))


__all__ = [
    "afkd_weights_view",
    "masked_images_view",
    "masked_share_view",
    "shift_profile_view",
    "success_view",
    "token_shift_view",
    "tracking_view",
]
