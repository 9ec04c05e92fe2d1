"""What teacher and student say about one sample, and what the loss tells each class to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from kdcore.functional.checks import check_positive
from kdcore.functional.divergences import kd_loss

from .base import View
from .drawing import (
    WIDTH,
    Array,
    as_array,
    as_tensor,
    check_names,
    legend_above,
    pixels,
    show_pixels,
    subplots,
    thin_labels,
)
from .theme import STUDENT, TEACHER, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: At most so many classes are drawn, the most probable ones; the table holds all.
_SHOWN = 24


def probability_bars_view(
    student_logits: Any,
    teacher_logits: Any,
    class_names: Sequence[str] | None = None,
    *,
    temperature: float,
    gradient: bool = True,
    label: int | None = None,
    image: Any = None,
    title: str | None = None,
) -> View:
    """Class probabilities of teacher and student at a temperature, with the pull of the KD loss under each bar.

    Args:
        student_logits, teacher_logits: ``(C,)`` raw scores of one sample.
        class_names: ``C`` names; numbers by default.
        temperature: > 0, divides both.
        gradient: draw minus the gradient of the KD loss with respect to the student's logits, ``T (p - q)``: up means
            "raise this logit".
        label: the true class, marked.
        image: the sample, ``(H, W)``, ``(1, H, W)`` grey or ``(3, H, W)`` colour in [0, 1], shown beside the bars.

    Raises:
        ValueError: shapes differ, wrong number of names, temperature not positive.
    """
    s, t = as_tensor("student_logits", student_logits, ndim=1), as_tensor("teacher_logits", teacher_logits, ndim=1)
    picture = None if image is None else pixels(as_array("image", image, ndim=(2, 3)))
    check_positive("temperature", temperature)
    names = check_names("class_names", class_names, len(t))
    s = s.requires_grad_()
    loss = kd_loss(s[None], t[None], temperature=temperature)
    (slope,) = torch.autograd.grad(loss, s)
    p, q = (torch.softmax(x.detach() / temperature, 0).numpy() for x in (t, s))
    pull = -slope.numpy()
    marked = [f"{n}\n(label)" if i == label else n for i, n in enumerate(names)]
    order = np.arange(len(p)) if len(p) <= _SHOWN else np.sort(np.argsort(-(p + q), kind="stable")[:_SHOWN])
    up, down = int(pull.argmax()), int(pull.argmin())
    alt = (
        f"At temperature {temperature:g} the teacher gives most to {names[int(p.argmax())]} ({p.max():.3f}) and the "
        f"student to "
        f"{names[int(q.argmax())]} ({q.max():.3f}). The KD loss is {loss.item():.3g}; it raises {names[up]} most "
        f"({pull[up]:+.3g}) and lowers {names[down]} most ({pull[down]:+.3g})."
    )
    if len(order) < len(p):
        alt += f" The {len(order)} most probable of {len(p)} classes are drawn."
    table = pd.DataFrame(
        {
            "class": names,
            "label": [i == label for i in range(len(names))],
            "teacher": p,
            "student": q,
            "minus gradient": pull,
        }
    )

    def draw(theme: Theme) -> Figure:
        figure, grid = subplots(
            WIDTH,
            4.4 if gradient else 2.9,
            2 if gradient else 1,
            1 if picture is None else 2,
            sharex="col",
            squeeze=False,
            gridspec_kw={
                "height_ratios": [2, 1] if gradient else [1],
                "width_ratios": [1] if picture is None else [0.22, 1],
            },
        )
        axes = grid[:, -1]
        if picture is not None:
            for ax in grid[1:, 0]:
                ax.remove()
            show_pixels(grid[0, 0], picture, "" if label is None else f"label {names[label]}")
        _bars(axes[0], p[order], q[order], theme)
        axes[0].set(ylabel=f"probability, T = {temperature:g}")
        if gradient:
            _pull(axes[1], pull[order], theme)
        thin_labels(axes[-1], "x", [marked[i] for i in order], room=90 if picture is None else 70)
        axes[-1].set_xlabel("class")
        return figure

    return View(title=title or f"Teacher and student at temperature {temperature:g}", alt=alt, table=table, draw=draw)


def _bars(ax: Any, p: Array, q: Array, theme: Theme) -> None:
    x = np.arange(len(p))
    ax.bar(x - 0.2, p, 0.4, color=TEACHER, label="teacher", edgecolor=theme.ink, linewidth=0.5)
    ax.bar(x + 0.2, q, 0.4, color=STUDENT, label="student", edgecolor=theme.ink, linewidth=0.5, hatch="//")
    ax.set_ylim(0, max(p.max(), q.max()) * 1.08)
    ax.grid(axis="x", visible=False)
    legend_above(ax)


def _pull(ax: Any, pull: Array, theme: Theme) -> None:
    x, up = np.arange(len(pull)), pull >= 0
    ax.bar(x[up], pull[up], 0.55, color="#009E73", edgecolor=theme.ink, linewidth=0.5, label="raise this logit")
    ax.bar(x[~up], pull[~up], 0.55, color="#D55E00", edgecolor=theme.ink, linewidth=0.5, hatch="\\\\", label="lower it")
    ax.axhline(0, color=theme.ink, linewidth=0.9)
    ax.set_ylabel("pull  T (p − q)")
    ax.grid(axis="x", visible=False)
    ax.margins(y=0.12)
    legend_above(ax)


__all__ = ["probability_bars_view"]
