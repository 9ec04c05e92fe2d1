"""What the logit losses count: KD taken apart into the two terms that DKD weighs, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdcore.functional.checks import check_labels, check_logits_pair
from kdcore.functional.divergences import dkd_loss, split_target_nontarget

from .base import View
from .drawing import Array, as_tensor
from .picture import Axis, Picture, Plane, Points
from .theme import percent

#: Values below are drawn at this height (a KL of exactly 0 has no place on a logarithmic axis).
_FLOOR = 1e-8
#: Confidences are drawn up to this; closer to 1 the axis has no end.
_CEILING = 1 - 1e-9


def kd_split_view(
    student_logits: Any,
    teacher_logits: Any,
    labels: Any,
    *,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 1.0,
    title: str | None = None,
) -> View:
    """KD and DKD as sums of two terms per image, over how sure the teacher is of the label.

    Left what KD adds up, TCKD and ``(1 - p_y) NCKD``; right what DKD adds up, ``alpha TCKD`` and ``beta NCKD``.

    Args:
        student_logits, teacher_logits: ``(N, C)`` raw scores; labels: ``(N,)`` integers.
        temperature: > 0, of both.
        alpha, beta: weights of DKD.

    Raises:
        ValueError: shapes or labels that do not fit, temperature not positive, negative weights.
    """
    s, t = as_tensor("student_logits", student_logits, ndim=2), as_tensor("teacher_logits", teacher_logits, ndim=2)
    check_logits_pair(s, t, min_classes=2)
    y = check_labels(torch.as_tensor(labels), *s.shape)
    parts = dkd_loss(s, t, y, alpha=alpha, beta=beta, temperature=temperature, return_parts=True, reduction="none")
    tckd, nckd = (part.numpy() for part in parts[1:])
    log_target, log_rest, _ = split_target_nontarget(t / temperature, y)
    sure, muted = log_target.exp().numpy(), log_rest.exp().numpy() * nckd
    counted = {
        "KD": (("TCKD", tckd), ("(1 − p) NCKD", muted)),
        "DKD": ((f"{alpha:g} · TCKD", alpha * tckd), (f"{beta:g} · NCKD", beta * nckd)),
    }
    table = pd.DataFrame(
        {
            "label": y.numpy(),
            "teacher's probability of the label": sure,
            "TCKD": tckd,
            "NCKD": nckd,
            "(1 - p) NCKD": muted,
            "KD": tckd + muted,
            "DKD": parts[0].numpy(),
        }
    )

    planes = [_plane(name, sure, terms, temperature) for name, terms in counted.items()]
    return View(
        title=title or f"Two terms of the loss, T = {temperature:g}",
        alt=_split_words(sure, counted),
        table=table,
        picture=Picture(*planes),
    )


def _plane(name: str, sure: Array, terms: Sequence[tuple[str, Array]], temperature: float) -> Plane:
    label = f"teacher's probability p of the label, T = {temperature:g}"
    if sure.min() > 0 and sure.max() - sure.min() > 1e-6:
        ticks = [
            x
            for x in (1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1 - 1e-5, 1 - 1e-7, 1 - 1e-9)
            if sure.min() * 0.5 <= x and 1 - x >= (1 - min(float(sure.max()), _CEILING)) * 0.5
        ]
        x = Axis(label, logit=True, ticks=ticks, tick_names=[_confidence(x) for x in ticks])
    else:
        x = Axis(label)
    points = [
        Points(said, np.minimum(sure, _CEILING), np.maximum(values, _FLOOR), style=i, size=5)
        for i, (said, values) in enumerate(terms)
    ]
    return Plane(*points, x=x, y=Axis("loss of one image (log)", log=True), title=f"What {name} adds up")


def _confidence(p: float) -> str:
    return f"{p:g}" if p < 0.9995 else f"1 − {1 - p:.0e}".replace("e-0", "e-")


def _split_words(sure: Array, counted: dict[str, Any]) -> str:
    """Share of the non-target term in both losses, over all images and over the quarter the teacher is surest of."""
    quarter = sure >= np.quantile(sure, 0.75)
    words = [
        f"{len(sure)} images, the teacher's probability of the label from {sure.min():.3g} to {sure.max():.4g}, "
        f"median {np.median(sure):.4g}."
    ]
    for name, ((_, target), (_, rest)) in counted.items():
        shares = [
            percent(float(rest[rows].sum() / max((target + rest)[rows].sum(), 1e-300)))
            for rows in (slice(None), quarter)
        ]
        words.append(
            f"In {name} the classes other than the label make up {shares[0]} of the loss, and {shares[1]} of "
            "it on the quarter of images the teacher is surest of."
        )
    return " ".join(words)


__all__ = ["kd_split_view"]
