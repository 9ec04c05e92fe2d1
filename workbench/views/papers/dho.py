"""Pictures of DHO: the mixture of two heads, their answers to one image, and how their losses pull at the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from kdcore.functional.checks import check_choice

from ..bars import bars_view
from ..base import View
from ..drawing import as_array, check_names, join_words
from ..histogram import histogram_view
from ..picture import Colours, Heat, Picture


def mixture_view(
    grid: Any,
    alphas: Sequence[float],
    betas: Sequence[float],
    *,
    alpha: float,
    beta: float,
    title: str = "Accuracy of the mixture on validation images",
) -> View:
    """Validation accuracy for every share of the CE head and every temperature of the KD head, with a chosen point.

    Args:
        grid: ``(betas, alphas)`` accuracies in [0, 1]; alphas, betas: what they belong to.
        alpha, beta: the chosen point, one of them.

    Raises:
        ValueError: a grid of another shape, or a point that is not on it.
    """
    array = as_array("grid", grid, ndim=2)
    if array.shape != (len(betas), len(alphas)):
        raise ValueError(f"grid must be ({len(betas)}, {len(alphas)}), got {array.shape}.")
    columns, rows = [f"{a:.2f}" for a in alphas], [f"{b:g}" for b in betas]
    check_choice("alpha", f"{alpha:.2f}", tuple(columns))
    check_choice("beta", f"{beta:g}", tuple(rows))
    place = (rows.index(f"{beta:g}"), columns.index(f"{alpha:.2f}"))
    best = np.unravel_index(int(array.argmax()), array.shape)
    alone = {"CE": array[place[0], -1], "KD": array[place[0], 0]}
    alt = (
        f"At alpha {alpha:.2f} and beta {beta:g} the mixture is right on {100 * array[place]:.1f} % of the validation "
        f"images; the best point, alpha {columns[best[1]]} and beta {rows[best[0]]}, on {100 * array[best]:.1f} %; "
        + "; ".join(f"the {name} head alone on {100 * value:.1f} %" for name, value in alone.items())
        + "."
    )
    table = pd.DataFrame(array, columns=columns)
    table.insert(0, "beta", rows)

    low, high = float(array.min()), float(array.max())
    heat = Heat(
        values=array,
        rows=rows,
        columns=columns,
        colours=Colours(low, high if high > low else low + 1e-9, "accuracy"),
        framed=[(int(best[0]), int(best[1]))],
        dotted=[place],
        meanings={"framed": "best", "dotted": "chosen"},
        row_label="beta, temperature of the KD head",
        column_label="alpha, share of the CE head",
    )
    return View(title=title, alt=alt, table=table, picture=Picture(heat))


def head_bars_view(
    probabilities: Mapping[str, Any], class_names: Sequence[str] | None = None, *, label: int, title: str
) -> View:
    """Class probabilities of one image by several speakers (CE head, KD head, mixture, teacher), one panel each.

    Args:
        probabilities: speaker -> ``(C,)``.
        class_names: ``C`` names.
        label: the true class, marked.

    Raises:
        ValueError: nobody speaks, or lengths that differ.
    """
    if not probabilities:
        raise ValueError("probabilities is empty: there is nothing to show.")
    rows = {name: as_array(f"probabilities[{name!r}]", p, ndim=1, finite=True) for name, p in probabilities.items()}
    classes = len(next(iter(rows.values())))
    if any(len(p) != classes for p in rows.values()):
        raise ValueError(f"all speakers must have the same classes, got {[len(p) for p in rows.values()]}.")
    names = check_names("class_names", class_names, classes)
    said = [f"{name}: {names[int(p.argmax())]} ({100 * p.max():.0f} %)" for name, p in rows.items()]
    alt = f"The image shows {names[label]}. " + join_words(said) + "."
    view = bars_view(
        np.stack(list(rows.values()), 1),
        names,
        list(rows),
        mark=[i == label for i in range(classes)],
        value_range=(0, 1),
        value_label="probability",
        group_label="class; the label is bold",
        panels=True,
        title=title,
    )
    table = pd.DataFrame({"class": names} | rows)
    return replace(view, alt=alt, table=table, _png={})


def conflict_view(
    cosines: Mapping[str, Any], *, title: str = "Do the two losses pull the backbone the same way?"
) -> View:
    """Histograms of the cosine between the gradients of two losses, one for each kind of student.

    Args:
        cosines: kind -> ``(steps,)`` cosines in [-1, 1]; values that are not a number are left out and counted.

    Raises:
        ValueError: nothing to show.
    """
    if not cosines:
        raise ValueError("cosines is empty: there is nothing to show.")
    all_values = {name: as_array(f"cosines[{name!r}]", v, ndim=1) for name, v in cosines.items()}
    values = {name: v[np.isfinite(v)] for name, v in all_values.items()}
    said = [
        f"{name}: mean {v.mean():.2f}, against each other in {100 * (v < 0).mean():.0f} % of {len(v)} steps"
        if len(v)
        else f"{name}: no step"
        for name, v in values.items()
    ]
    lost = sum(len(all_values[n]) - len(values[n]) for n in values)
    alt = "; ".join(said) + "." + (f" {lost} steps have no cosine." if lost else "")
    view = histogram_view(
        values,
        bins=np.linspace(-1, 1, 21).tolist(),
        threshold={"right angle": 0.0},
        value_label="cosine of the two gradients",
        title=title,
    )
    return replace(view, alt=alt, _png={})


__all__ = ["conflict_view", "head_bars_view", "mixture_view"]
