"""Pictures of MST-Distill: whom the gate chooses, what masks take away, and which path is best for which class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..base import View
from ..drawing import WIDTH, as_array, check_names, join_words, legend_above, subplots, thin_labels
from ..theme import CATEGORICAL, MARKERS, STUDENT, TEACHER, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")


def routing_view(shares: Mapping[str, Any], *, title: str = "Whom the gate chooses") -> View:
    """Share of the samples that each specialized teacher gets, stacked, over the epochs.

    Args:
        shares: teacher -> ``(E,)`` shares in [0, 1] after every epoch; together 1.

    Raises:
        ValueError: no teacher, lengths that differ, or shares that are not 1 together.
    """
    if not shares:
        raise ValueError("shares is empty: there is nothing to show.")
    rows = {name: as_array(f"shares[{name!r}]", v, ndim=1) for name, v in shares.items()}
    epochs = len(next(iter(rows.values())))
    if any(len(v) != epochs for v in rows.values()):
        raise ValueError(f"all teachers must have the same epochs, got {[len(v) for v in rows.values()]}.")
    stacked = np.stack(list(rows.values()))
    if stacked.min() < -1e-6 or np.abs(stacked.sum(0) - 1).max() > 1e-4:
        raise ValueError("shares must be in [0, 1] and 1 together in every epoch.")
    said = [f"{name} gets {100 * v[0]:.0f} %, at the end {100 * v[-1]:.0f} %" for name, v in rows.items()]
    alt = f"Of {epochs} epochs, in the first one {'; '.join(said)}."
    table = pd.DataFrame({"epoch": range(1, epochs + 1), **rows})

    def draw(theme: Theme) -> Figure:
        figure, ax = subplots(WIDTH, 3.6)
        edges, ends = np.arange(epochs + 1) + 0.5, np.vstack([np.zeros(epochs), stacked.cumsum(0)])
        for k, name in enumerate(rows):
            ax.stairs(
                ends[k + 1],
                edges,
                baseline=ends[k],
                fill=True,
                facecolor=CATEGORICAL[k % len(CATEGORICAL)],
                edgecolor=theme.paper,
                hatch=_HATCHES[k % len(_HATCHES)],
                linewidth=0,
                label=name,
            )
        ax.set(xlim=(0.5, epochs + 0.5), ylim=(0, 1), xlabel="epoch of stage 3", ylabel="share of samples")
        ax.xaxis.get_major_locator().set_params(integer=True)
        legend_above(ax, 3)
        return figure

    return View(title=title, alt=alt, table=table, draw=draw)


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
    kept = {n: np.sort(as_array(f"masks[{n!r}]", m, ndim=1))[::-1] for n, m in masks.items()}
    said = {n: as_array(f"answers[{n!r}]", answers[n], ndim=1) for n in masks}
    own = as_array("student", student, ndim=1)
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

    def draw(theme: Theme) -> Figure:
        figure, axes = subplots(
            WIDTH, 1.3 + 1.35 * len(kept), len(kept), 2, sharex="col", squeeze=False, width_ratios=(2, 3)
        )
        top = 1.1 * max(own.max(), *(p.max() for p in said.values()))
        for (left, right), (n, m) in zip(axes, kept.items(), strict=True):
            gap = 0.4 if len(m) <= 64 else 0.0  # between more bars the paper's colour would be all there is to see
            left.bar(range(len(m)), m, color=CATEGORICAL[2], width=1.0, edgecolor=theme.paper, linewidth=gap)
            left.set(ylim=(0, 1), yticks=[0, 0.5, 1])
            left.set_title(n, fontsize=10)
            right.axvspan(label - 0.5, label + 0.5, color=theme.grid, zorder=0)
            right.bar(range(len(own)), said[n], color=TEACHER, label=f"teacher, {kind}")
            size = 6 if len(own) <= 20 else 3
            right.plot(range(len(own)), own, "D", color=STUDENT, mec=theme.ink, mew=size / 8, ms=size, label="student")
            right.set(ylim=(0, top))
            right.set_title(f"{away[n]:.3g} nats from the student", fontsize=10)
            for ax in (left, right):
                ax.grid(axis="x", visible=False)
        thin_labels(axes[-1, 1], "x", names, room=50)
        axes[-1, 0].set_xlabel("features, sorted by what is kept")
        axes[-1, 1].set_xlabel("class; the label is shaded")
        handles, labels = axes[0, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
        return figure

    return View(title=title, alt=alt, table=table, draw=draw)


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

    def draw(theme: Theme) -> Figure:
        figure, ax = subplots(WIDTH, 4.0)
        at = np.arange(classes)
        ax.vlines(at[known], values.min(0)[known], values.max(0)[known], color=theme.grid, lw=6, zorder=1)
        step = min(0.11, 0.7 / len(rows)) if classes <= 20 else 0.0
        for k, (name, v) in enumerate(rows.items()):
            ax.plot(
                at + step * (k - (len(rows) - 1) / 2),
                v,
                MARKERS[k % len(MARKERS)],
                color=CATEGORICAL[k % len(CATEGORICAL)],
                mec=theme.ink,
                mew=0.6,
                ms=7 if classes <= 20 else 4,
                ls="none",
                label=name,
            )
        ax.set(xlabel="class", ylabel="share answered rightly")
        ax.grid(axis="x", visible=False)
        thin_labels(ax, "x", names)
        legend_above(ax, 3)
        return figure

    return View(title=title, alt=alt, table=table, draw=draw)


__all__ = ["mask_view", "paths_view", "routing_view"]
