"""What a sample teaches: its label beside the teacher's softened answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdcore.functional.checks import check_positive

from .base import View
from .drawing import Array, as_array, as_tensor, check_names, join_words, pixels
from .picture import Axis, Bars, Images, Panel, Picture, Plane


def soft_target_view(
    teacher_logits: Any,
    label: int,
    class_names: Sequence[str] | None = None,
    *,
    temperature: float,
    image: Any = None,
    title: str | None = None,
) -> View:
    """The label of one sample (one bar) and the teacher's softened probabilities (all bars), side by side.

    Args:
        teacher_logits: ``(C,)`` raw scores of the sample.
        label: the true class, 0 to C - 1.
        class_names: ``C`` names; numbers by default.
        temperature: > 0, divides the logits.
        image: the sample, ``(H, W)``, ``(1, H, W)`` grey or ``(3, H, W)`` colour in [0, 1], shown on the left.

    Raises:
        ValueError: rank, label, names or temperature do not fit.
    """
    logits = as_tensor("teacher_logits", teacher_logits, ndim=1)
    picture = None if image is None else pixels(as_array("image", image, ndim=(2, 3)))
    check_positive("temperature", temperature)
    names = check_names("class_names", class_names, len(logits))
    if not 0 <= label < len(names):
        raise ValueError(f"label must be in [0, {len(names)}), got {label!r}.")
    soft = torch.softmax(logits / temperature, 0).numpy()
    hard = np.eye(len(names))[label]
    alt = (
        f"The label says {names[label]} and nothing else. The teacher, at temperature {temperature:g}, gives "
        f"{_shares(soft, names)}."
    )
    table = pd.DataFrame({"class": names, "label": hard, "teacher": soft})

    panels: list[Panel] = [] if picture is None else [Images(images=picture[None], captions=["the image"])]
    for values, style, says in (
        (hard, 2, "what the label says"),
        (soft, "teacher", f"what the teacher says, T = {temperature:g}"),
    ):
        x, y = Axis("class", names=names, strong=[label]), Axis("probability", low=0, high=1.04)
        panels.append(Plane(Bars("", range(len(values)), values, style=style), x=x, y=y, title=says, height=170))
    widths = (1, 1) if picture is None else (0.42, 1, 1)
    whole = Picture(*panels, columns=len(panels), widths=widths)
    return View(title=title or f"One image, two lessons, T = {temperature:g}", alt=alt, table=table, picture=whole)


def _shares(probabilities: Array, names: Sequence[str]) -> str:
    """The most probable classes with their shares, at most four, none under half a percent."""
    order = np.argsort(-probabilities, kind="stable")[:4]
    told = [f"{100 * probabilities[i]:.1f} % to {names[i]}" for i in order if probabilities[i] >= 0.005]
    return join_words(told)


__all__ = ["soft_target_view"]
