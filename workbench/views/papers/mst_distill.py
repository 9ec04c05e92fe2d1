"""Pictures of MST-Distill: whom the gate chooses, what masks take away, and which path is best for which class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..base import View
from ..drawing import as_array, check_names, join_words
from ..picture import Arrows, Axis, Bars, Mark, Picture, Plane, Points, Span


def routing_view(shares: Mapping[str, Any], *, title: str = "Whom the gate chooses") -> View:
    """Share of the samples that each specialized teacher gets, stacked, over the epochs.

    Args:
        shares: teacher -> ``(E,)`` shares in [0, 1] after every epoch; together 1.

    Raises:
        ValueError: no teacher, lengths that differ, or shares that are not 1 together.
    """
    if not shares:
        raise ValueError("shares is empty: there is nothing to show.")
    rows = {name: as_array(f"shares[{name!r}]", v, ndim=1, finite=True) for name, v in shares.items()}
    epochs = len(next(iter(rows.values())))
    if any(len(v) != epochs for v in rows.values()):
        raise ValueError(f"all teachers must have the same epochs, got {[len(v) for v in rows.values()]}.")
    stacked = np.stack(list(rows.values()))
    if stacked.min() < -1e-6 or np.abs(stacked.sum(0) - 1).max() > 1e-4:
        raise ValueError("shares must be in [0, 1] and 1 together in every epoch.")
    said = [f"{name} gets {100 * v[0]:.0f} %, at the end {100 * v[-1]:.0f} %" for name, v in rows.items()]
    alt = f"Of {epochs} epochs, in the first one {'; '.join(said)}."
    table = pd.DataFrame({"epoch": range(1, epochs + 1), **rows})

    at = np.arange(1, epochs + 1)
    bars = [Bars(n, at, v, style=k, width=1.0, stacked=True) for k, (n, v) in enumerate(rows.items())]
    x = Axis("epoch of stage 3", low=0.5, high=epochs + 0.5)
    picture = Picture(Plane(*bars, x=x, y=Axis("share of samples", low=0, high=1)))
    return View(title=title, alt=alt, table=table, picture=picture)


def mask_view(
    masks: Mapping[str, Any],
    answers: Mapping[str, Any],
    student: Any,
    class_names: Sequence[str] | None = None,
    *,
    kind: str,
    label: int,
    title: str = "What the masks take away",
) -> View:
    """One sample: every teacher's mask, feature by feature, and its answer beside the student's.

    Args:
        masks: teacher -> ``(D,)`` how much of each feature is kept; drawn from the largest to the smallest.
        answers: teacher -> ``(C,)`` class probabilities.
        student: ``(C,)`` the student's.
        class_names: C names.
        kind: what the answers are, "masked" or "unmasked".
        label: the true class, shaded.

    Raises:
        ValueError: no teacher, teachers without an answer, classes that differ, or a label that is none of them.
    """
    if not masks or set(masks) != set(answers):
        raise ValueError(f"masks and answers must be of the same teachers, got {list(masks)} and {list(answers)}.")
    kept = {n: np.sort(as_array(f"masks[{n!r}]", m, ndim=1, finite=True))[::-1] for n, m in masks.items()}
    said = {n: as_array(f"answers[{n!r}]", answers[n], ndim=1, finite=True) for n in masks}
    own = as_array("student", student, ndim=1, finite=True)
    if any(len(p) != len(own) for p in said.values()) or not 0 <= label < len(own):
        raise ValueError(f"answers must have the student's {len(own)} classes, and label be one, got {label!r}.")
    names = check_names("class_names", class_names, len(own))
    away = {n: _divergence(own, p) for n, p in said.items()}
    words = [
        f"{n} keeps {m.min():.2f} to {m.max():.2f} of its {len(m)} features, {kind} it is {away[n]:.3g} nats from the "
        f"student and prefers {names[int(said[n].argmax())]}"
        for n, m in kept.items()
    ]
    alt = f"The sample is {names[label]}, the student prefers {names[int(own.argmax())]}. {'; '.join(words)}."
    table = pd.DataFrame({"class": names, "student": own, **{f"{n}, {kind}": p for n, p in said.items()}})

    top = 1.1 * max(own.max(), *(p.max() for p in said.values()))
    planes = []
    for k, (n, m) in enumerate(kept.items()):
        last = k == len(kept) - 1
        features = Axis("features, sorted by what is kept" if last else "")
        left = Bars("", range(len(m)), m, style=2, width=1.0)
        planes.append(Plane(left, x=features, y=Axis("kept", low=0, high=1), title=n, height=110))
        answers_ = Plane(
            Span(label - 0.5, label + 0.5),
            Bars(f"teacher, {kind}", range(len(own)), said[n], style="teacher"),
            Points("student", range(len(own)), own, style="student", size=8),
            x=Axis("class; the label is shaded" if last else "", names=names, strong=[label], hidden=not last),
            y=Axis("probability", low=0, high=top),
            title=f"{away[n]:.3g} nats from the student",
            height=110,
        )
        planes.append(answers_)
    picture = Picture(*planes, columns=2, widths=(2, 3))
    return View(title=title, alt=alt, table=table, picture=picture)


def _divergence(student: np.ndarray, teacher: np.ndarray) -> float:
    """KL of the student to the teacher in nats: what a mask makes small."""
    some = student > 0
    return float((student[some] * np.log(student[some] / np.maximum(teacher[some], 1e-30))).sum())


def paths_view(
    recalls: Mapping[str, Any], class_names: Sequence[str] | None = None, *, title: str = "Which path for which class"
) -> View:
    """Accuracy on every class by arm: is one path the best for all of them?

    Args:
        recalls: arm -> ``(C,)`` shares in [0, 1] of each class's samples that are answered rightly; NaN where a class
            has none.
        class_names: C names.

    Raises:
        ValueError: no arm, or numbers of classes that differ.
    """
    if not recalls:
        raise ValueError("recalls is empty: there is nothing to show.")
    rows = {name: as_array(f"recalls[{name!r}]", v, ndim=1) for name, v in recalls.items()}
    classes = len(next(iter(rows.values())))
    if any(len(v) != classes for v in rows.values()):
        raise ValueError(f"all arms must have the same classes, got {[len(v) for v in rows.values()]}.")
    names = check_names("class_names", class_names, classes)
    values = np.stack(list(rows.values()))
    known = np.isfinite(values).all(0)
    if not known.any():
        raise ValueError("recalls must have a class with samples in every arm.")
    first = (values == values.max(0)) & known  # arms that are the best of a class, ties included
    said = [
        f"{name} {100 * v[known].mean():.1f} %, best on {int(f.sum())}"
        for (name, v), f in zip(rows.items(), first, strict=True)
    ]
    wide = np.where(known, np.ptp(values, axis=0), -1.0)
    alt = (
        f"Mean over {int(known.sum())} classes, and on how many each is the best: {join_words(said)}. They are "
        f"furthest apart on {names[int(wide.argmax())]}, by {100 * wide.max():.1f} points."
    )
    table = pd.DataFrame({"class": names, **rows})

    at = np.flatnonzero(known).astype(float)
    low, high = values.min(0)[known], values.max(0)[known]
    step = min(0.11, 0.7 / len(rows)) if classes <= 20 else 0.0
    marks: list[Mark] = [Arrows("", at, low, 0 * at, high - low, style="muted", head=False)]
    for k, (name, v) in enumerate(rows.items()):
        beside = np.arange(classes) + step * (k - (len(rows) - 1) / 2)
        marks.append(Points(name, beside, v, style=k, size=8 if classes <= 20 else 5))
    plane = Plane(*marks, x=Axis("class", names=names), y=Axis("share answered rightly"))
    return View(title=title, alt=alt, table=table, picture=Picture(plane))


__all__ = ["mask_view", "paths_view", "routing_view"]
