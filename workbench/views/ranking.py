"""Ranking pictures: choices of the Plackett-Luce model, weights of positions, teacher's order against student's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kdcore.functional.checks import check_labels
from kdcore.functional.correlation import kendall_tau, pearson_correlation
from kdcore.functional.ranking import choice_losses, descending_order, positions
from kdcore.methods.pld import pld_weights, teacher_optimal_permutation

from .base import View
from .drawing import as_tensor, check_names
from .picture import Axis, Bars, Colours, Field, Heat, Line, Picture, Plane, Ribbons, Span


def _ordinal(k: int) -> str:
    return f"{k}{'th' if 10 <= k % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(k % 10, 'th')}"


def worth_view(
    student_logits: Any,
    teacher_logits: Any,
    label: int,
    *,
    step: int,
    temperature: float = 1.0,
    weights: str = "teacher",
    class_names: Sequence[str] | None = None,
    title: str | None = None,
) -> View:
    """One choice of the Plackett-Luce model: what is left, how likely the wanted class is chosen, what the term costs.

    Above: share of each remaining class in the worth ``exp(s)`` that remains, student and teacher, in the target order
    (label first, then by teacher logit); classes chosen earlier are greyed out. Below: the weighted term of every
    choice; the sum of the bars is the PLD loss of this sample.

    Args:
        student_logits, teacher_logits: ``(C,)`` raw scores of one sample.
        label: the true class.
        step: the choice to look at, 1..C.
        temperature, weights: of :func:`kdcore.methods.pld.pld_weights`.
        class_names: ``C`` names.

    Raises:
        ValueError: ``step`` or ``label`` out of range, shapes that differ.
    """
    s, t = as_tensor("student_logits", student_logits, ndim=1), as_tensor("teacher_logits", teacher_logits, ndim=1)
    names, count = check_names("class_names", class_names, len(t)), len(t)
    if not 1 <= step <= count:
        raise ValueError(f"step must be in 1..{count}, got {step!r}.")
    ranking = teacher_optimal_permutation(t[None], torch.tensor([label]))
    alpha = pld_weights(t[None], ranking, kind=weights, temperature=temperature)[0].numpy()
    ordered = {"student": s[ranking[0]], "teacher": t[ranking[0]]}
    cost = choice_losses(ordered["student"][None])[0].numpy()
    terms, chosen = alpha * cost, np.exp(-cost)
    shares = {who: torch.softmax(x[step - 1 :], 0).numpy() for who, x in ordered.items()}
    classes = [names[i] for i in ranking[0].tolist()]
    marked = [f"{classes[0]} (label)", *classes[1:]]
    k = step - 1
    alt = (
        f"Choice {step} of {count}: among {count - k} remaining classes the target order wants {classes[k]}; the "
        f"student chooses it "
        f"with probability {chosen[k]:.3f}. Weight {alpha[k]:.3g}, term {terms[k]:.3g}. The terms so far add up to "
        f"{terms[:step].sum():.4g} of a loss of {terms.sum():.4g}."
    )
    table = pd.DataFrame(
        {
            "choice": np.arange(1, count + 1),
            "class": classes,
            "choice probability": chosen,
            "weight": alpha,
            "term": terms,
        }
    )

    left = np.arange(k, count)
    above = Plane(
        *([Span(-0.5, k - 0.5, "already chosen")] if k else []),
        Bars("student", left, shares["student"], style="student"),
        Bars("teacher", left, shares["teacher"], style="teacher"),
        x=Axis(names=marked, hidden=True),
        y=Axis("share of what remains", low=0),
        title=f"P(choose {classes[k]}) = {chosen[k]:.3f}",
    )
    below = Plane(
        Bars("terms so far", range(step), terms[:step], style=3, width=0.8, strong=[i == k for i in range(step)]),
        Bars("terms still to come", range(step, count), terms[step:], style="muted", width=0.8),
        Line("weight of the choice", range(count), alpha, style=2, dots=True),
        x=Axis("classes in target order: label first, then by teacher logit", names=marked, strong=[k]),
        y=Axis("term, weight", low=0),
        title="Term of every choice: weight × −log P",
    )
    picture = Picture(above, below, columns=1)
    return View(title=title or f"Plackett-Luce choice {step} of {count}", alt=alt, table=table, picture=picture)


def pld_weights_view(
    teacher_logits: Any,
    label: int,
    *,
    temperatures: Sequence[float] = (1.0, 4.0),
    kinds: Sequence[str] = ("first", "uniform", "position"),
    class_names: Sequence[str] | None = None,
    title: str = "Weight of each choice",
) -> View:
    """Weights of the choices of one sample: teacher's probabilities at several temperatures, and the special cases.

    Args:
        teacher_logits: ``(C,)`` raw scores; label: the true class.
        temperatures: one line each for the teacher's weights.
        kinds: other kinds of :func:`kdcore.methods.pld.pld_weights` to compare with.
        class_names: ``C`` names.

    Raises:
        ValueError: nothing to draw, or a temperature that is not positive.
    """
    t = as_tensor("teacher_logits", teacher_logits, ndim=1)[None]
    names = check_names("class_names", class_names, t.shape[1])
    if not len(temperatures) + len(kinds):
        raise ValueError("temperatures and kinds are both empty: there is nothing to show.")
    ranking = teacher_optimal_permutation(t, torch.tensor([label]))
    lines = {
        f"teacher, τ = {x:g}": pld_weights(t, ranking, kind="teacher", temperature=x)[0].numpy() for x in temperatures
    }
    lines |= {kind: pld_weights(t, ranking, kind=kind)[0].numpy() for kind in kinds}
    ordered = [names[i] for i in ranking[0].tolist()]
    top = names[int(t[0].argmax())]
    alt = (
        f"The label is {names[label]}; the teacher's first choice is {top}"
        + (". " if int(t[0].argmax()) == label else ", so the teacher is wrong and the label's weight is small. ")
        + "Weight of the label: "
        + "; ".join(f"{n}: {v[0]:.3g}" for n, v in lines.items())
        + "."
    )
    table = pd.DataFrame({"position": np.arange(1, len(ordered) + 1), "class": ordered, **lines})

    marks = [Line(name, range(len(ordered)), v, style=i, dots=True) for i, (name, v) in enumerate(lines.items())]
    x = Axis("class, in target order (label first)", names=ordered, strong=[0])
    picture = Picture(Plane(*marks, x=x, y=Axis("weight of the choice", low=0)))
    return View(title=title, alt=alt, table=table, picture=picture)


def _inversions(first: Tensor, second: Tensor) -> int:
    """Pairs of classes that two orders (positions by class) put the other way round."""
    i, j = torch.triu_indices(len(first), len(first), offset=1)
    return int(((first[i] - first[j]) * (second[i] - second[j]) < 0).sum())


def ranking_view(
    student_logits: Any,
    teacher_logits: Any,
    class_names: Sequence[str] | None = None,
    *,
    label: int | None = None,
    title: str | None = None,
) -> View:
    """The teacher's order of the classes beside the student's, joined by lines; every crossing is an inversion.

    Args:
        student_logits, teacher_logits: ``(C,)`` raw scores of one sample.
        class_names: ``C`` names; label: the true class, marked.
    """
    s, t = as_tensor("student_logits", student_logits, ndim=1), as_tensor("teacher_logits", teacher_logits, ndim=1)
    if len(s) != len(t):
        raise ValueError(
            f"student_logits and teacher_logits must have the same shape, got ({len(s)},) and ({len(t)},)."
        )
    if len(t) < 2:
        raise ValueError("student_logits and teacher_logits must have at least 2 classes: one has no order.")
    names = check_names("class_names", class_names, len(t))
    place_s, place_t = (positions(descending_order(x)) for x in (s, t))
    crossed, pairs = _inversions(place_s, place_t), len(t) * (len(t) - 1) // 2
    tau = float(kendall_tau(s[None], t[None])[0])
    moved = (place_s - place_t).numpy()
    far = int(np.abs(moved).argmax())
    alt = (
        f"{crossed} of {pairs} pairs of classes are in another order (Kendall tau {tau:.2f}). The teacher's first "
        f"is "
        f"{names[int(t.argmax())]}, the student's {names[int(s.argmax())]}. "
        + (
            f"{names[far]} is furthest off: {_ordinal(int(place_t[far]) + 1)} for the teacher, "
            f"{_ordinal(int(place_s[far]) + 1)} for the "
            "student."
            if crossed
            else "The two orders are the same."
        )
    )
    order = descending_order(t).tolist()
    table = pd.DataFrame(
        {
            "class": [names[i] for i in order],
            "teacher's position": [int(place_t[i]) + 1 for i in order],
            "student's position": [int(place_s[i]) + 1 for i in order],
            "teacher logit": t[order].numpy(),
            "student logit": s[order].numpy(),
        }
    )

    ribbons = Ribbons(
        names=[f"{n} (label)" if i == label else n for i, n in enumerate(names)],
        left=place_t,
        right=place_s,
        left_title="teacher's order",
        right_title="student's order",
        left_notes=[f"{v:.1f}" for v in t.tolist()],
        right_notes=[f"{v:.1f}" for v in s.tolist()],
        strong=[] if label is None else [label],
    )
    return View(
        title=title or f"Order of the classes: {crossed} inversion{'' if crossed == 1 else 's'}",
        alt=alt,
        table=table,
        picture=Picture(ribbons),
    )


def rank_agreement_view(
    student_logits: Any,
    teacher_logits: Any,
    before: Any = None,
    *,
    labels: tuple[str, str] = ("before", "after"),
    title: str = "Agreement of the rankings",
) -> View:
    """Where the student puts the class that the teacher puts k-th, over a data set.

    Each row of the heat map is a place in the teacher's ranking, each column a place in the student's; a cell is the
    share of samples. The line is the student's mean place. With equal rankings everything lies on the diagonal.

    Args:
        student_logits, teacher_logits: ``(N, C)`` raw scores of the same samples.
        before: ``(N, C)`` scores of the student before distillation, shown beside.
        labels: headings of the two maps where ``before`` is given.
    """
    t = as_tensor("teacher_logits", teacher_logits, ndim=2)
    students = {"student": as_tensor("student_logits", student_logits, ndim=2)}
    if before is not None:
        students = {labels[0]: as_tensor("before", before, ndim=2), labels[1]: students["student"]}
    for name, s in students.items():
        if s.shape != t.shape:
            raise ValueError(
                f"{name} logits and teacher_logits must have the same shape, got {tuple(s.shape)} and {tuple(t.shape)}."
            )
    count = t.shape[1]
    if count < 2:
        raise ValueError("student_logits and teacher_logits must have at least 2 classes: one has no order.")
    maps, means, taus, words = {}, {}, {}, []
    order = descending_order(t)
    for name, s in students.items():
        places = positions(descending_order(s)).gather(1, order)  # (N, C): where the student puts the teacher's k-th
        maps[name] = torch.nn.functional.one_hot(places, count).double().mean(0).numpy()
        means[name] = places.double().mean(0).numpy() + 1
        taus[name] = float(kendall_tau(s, t).mean())
        words.append(
            f"{name}: mean Kendall tau {taus[name]:.2f}, first places agree on {100 * maps[name][0, 0]:.0f} % "
            f"of the samples, the "
            f"teacher's second is on average {means[name][1 if count > 1 else 0]:.1f}"
        )
    table = pd.DataFrame(
        {
            "teacher's place": np.arange(1, count + 1),
            **{f"mean place, {n}": m for n, m in means.items()},
            **{f"same place, {n}": np.diag(m) for n, m in maps.items()},
        }
    )

    shares = Colours(0, max(1e-9, *(float(m.max()) for m in maps.values())), "share of samples")
    places_named = [str(i + 1) for i in range(count)]
    planes = [
        Plane(
            Field(matrix, (0, count - 1), (0, count - 1), shares, cells=True),
            Line("student's mean place", means[name] - 1, range(count), style="light", dots=True),
            x=Axis("place in the student's ranking", names=places_named),
            y=Axis("place in the teacher's ranking", names=places_named),
            title=f"{name}: Kendall tau {taus[name]:.2f}",
            equal=True,
        )
        for name, matrix in maps.items()
    ]
    words_ = f"Over {len(t)} samples, {'; '.join(words)}."
    return View(title=title, alt=words_, table=table, picture=Picture(*planes))


def class_positions_view(
    logits: Mapping[str, Any],
    labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    title: str = "Mean place of each class in the ranking",
) -> View:
    """Which classes are ranked high on images of which class: mean places, one heat map per model.

    Row: the true class; column: the class that is ranked; cell: its mean place (1 = first) over the images of that row.
    The first model is the reference; the description says how many places the others are off on average.

    Args:
        logits: name -> ``(N, C)`` scores of the same samples, one to three models, the teacher first.
        labels: ``(N,)`` true classes.
        class_names: ``C`` names.

    Raises:
        ValueError: no or too many models, shapes that differ, labels that do not fit.
    """
    models = {n: as_tensor(f"logits[{n!r}]", v, ndim=2) for n, v in logits.items()}
    if not 1 <= len(models) <= 3:
        raise ValueError(f"logits must hold one to three models, got {len(models)}.")
    first, reference = next(iter(models.items()))
    for n, x in models.items():
        if x.shape != reference.shape:
            raise ValueError(
                f"logits[{n!r}] must have shape {tuple(reference.shape)} like logits[{first!r}], got {tuple(x.shape)}."
            )
    y = check_labels(torch.as_tensor(labels), *reference.shape)
    count = reference.shape[1]
    names = check_names("class_names", class_names, count)
    truth = torch.nn.functional.one_hot(y, count).double()
    maps = {
        n: (truth.T @ positions(descending_order(x)).double() / truth.sum(0)[:, None] + 1).numpy()
        for n, x in models.items()
    }
    off = {n: float(np.nanmean(np.abs(m - maps[first]))) for n, m in maps.items() if n != first}
    rivals = np.where(np.eye(count, dtype=bool), np.inf, np.nan_to_num(maps[first], nan=np.inf))
    i, j = np.unravel_index(int(rivals.argmin()), rivals.shape)
    alt = (
        f"{len(y)} samples, {count} classes. For the {first}, the highest class after the label is {names[j]} on "
        f"{names[i]} (mean place {maps[first][i, j]:.1f})"
        + "".join(f". {n}: on average {d:.1f} places from the {first}" for n, d in off.items())
        + "."
    )
    table = pd.DataFrame(
        {
            "true class": np.repeat(names, count),
            "ranked class": np.tile(names, count),
            **{n: m.ravel() for n, m in maps.items()},
        }
    )

    heats = [
        Heat(
            values=matrix,
            rows=names,
            columns=names,
            colours=Colours(1, max(count, 2), "mean place", reverse=True),
            numbers=".1f" if count <= 12 else "",
            row_label="true class",
            column_label="ranked class",
            title=n if n not in off else f"{n}: {off[n]:.1f} places off",
        )
        for n, matrix in maps.items()
    ]
    return View(title=title, alt=alt, table=table, picture=Picture(*heats))


def correlation_heatmaps_view(
    student_probabilities: Any,
    teacher_probabilities: Any,
    *,
    class_names: Sequence[str] | None = None,
    title: str = "What DIST compares",
) -> View:
    """Probabilities of a batch, student and teacher, with the correlation of every row and of every column.

    Args:
        student_probabilities, teacher_probabilities: ``(N, C)``, N >= 2 samples.
        class_names: ``C`` names.
    """
    q, p = (
        as_tensor(n, v, ndim=2)
        for n, v in (("student_probabilities", student_probabilities), ("teacher_probabilities", teacher_probabilities))
    )
    if q.shape != p.shape or len(q) < 2:
        raise ValueError(
            f"student and teacher probabilities must have the same shape with at least 2 samples, got "
            f"{tuple(q.shape)} and "
            f"{tuple(p.shape)}."
        )
    names = check_names("class_names", class_names, q.shape[1])
    rows, columns = (pearson_correlation(q, p, dim=d).numpy() for d in (1, 0))
    alt = (
        f"{q.shape[0]} samples, {q.shape[1]} classes. Rows (each sample over its classes) correlate "
        f"{rows.mean():.3f} on average, at worst "
        f"{rows.min():.3f} (sample {int(rows.argmin())}). Columns (each class over the samples) correlate "
        f"{columns.mean():.3f} on average, at "
        f"worst {columns.min():.3f} (class {names[int(columns.argmin())]})."
    )
    table = pd.DataFrame(
        {
            "what": ["row"] * len(rows) + ["column"] * len(columns),
            "name": [*map(str, range(len(rows))), *names],
            "correlation": np.concatenate([rows, columns]),
        }
    )

    samples = [str(i) for i in range(len(rows))]
    heats = [
        Heat(
            values=matrix,
            rows=samples,
            columns=names,
            colours=Colours(0, 1, "probability"),
            row_label="sample",
            column_label="class",
            title=who,
        )
        for matrix, who in ((p, "teacher P"), (q, "student Q"))
    ]
    ends = [
        Plane(
            Bars("", range(len(values)), values, style=style),
            x=Axis(label, names=labels),
            y=Axis("correlation", low=min(0.0, float(values.min())), high=1),
            title=f"{kind} correlations, mean {values.mean():.3f}",
            height=120,
        )
        for kind, values, label, labels, style in (
            ("row", rows, "sample", samples, 0),
            ("column", columns, "class", names, 2),
        )
    ]
    return View(title=title, alt=alt, table=table, picture=Picture(*heats, *ends, columns=2))


__all__ = [
    "class_positions_view",
    "correlation_heatmaps_view",
    "pld_weights_view",
    "rank_agreement_view",
    "ranking_view",
    "worth_view",
]
