"""What teacher and student say about one sample, and what the loss tells each class to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdcore.functional.checks import check_positive
from kdcore.functional.divergences import kd_loss

from .base import View
from .drawing import as_array, as_tensor, check_names, pixels
from .picture import Axis, Bars, Blank, Images, Panel, Picture, Plane, Style

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

    shown = [f"{names[i]} (label)" if i == label else names[i] for i in order]
    strong = [k for k, i in enumerate(order) if i == label]
    above = Plane(
        Bars("teacher", range(len(order)), p[order], style="teacher"),
        Bars("student", range(len(order)), q[order], style="student"),
        x=Axis("" if gradient else "class", names=shown, strong=strong, hidden=gradient),
        y=Axis(f"probability, T = {temperature:g}", low=0),
    )
    planes: list[Panel] = [above]
    if gradient:
        styles: list[Style] = ["good" if v >= 0 else "bad" for v in pull[order]]
        notes = ["raises this logit" if v >= 0 else "lowers this logit" for v in pull[order]]
        bars = Bars("", range(len(order)), pull[order], styles=styles, notes=notes)
        below = Axis("class", names=shown, strong=strong)
        planes.append(Plane(bars, x=below, y=Axis("pull  T (p − q)"), title="Up: the loss raises this logit"))
    if picture is not None:
        caption = "" if label is None else f"label {names[label]}"
        beside: list[Panel] = [Images(images=picture[None], captions=[caption]), Blank()]
        planes = [panel for pair in zip(beside, planes, strict=False) for panel in pair]
    whole = Picture(*planes, columns=1 if picture is None else 2, widths=() if picture is None else (0.22, 1))
    heading = title or f"Teacher and student at temperature {temperature:g}"
    return View(title=heading, alt=alt, table=table, picture=whole)


__all__ = ["probability_bars_view"]
