"""General pictures: means with intervals, heat maps, confusion matrices, scatters, lines, contours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdcore.experiment import mean_interval

from .base import View
from .drawing import Array, as_array, check_names, limits
from .picture import Arrows, Axis, Colours, Field, Heat, Line, Mark, Picture, Plane, Points, Rule, Texts
from .words import counted, listed

#: Of more arms the words name the best and the last; the table holds all.
_TOLD = 6


def heatmap_view(
    matrix: Any,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    title: str,
    label: str,
    row_label: str = "",
    column_label: str = "",
    diverging: bool = False,
    limits_at: tuple[float, float] | None = None,
    number_format: str = ".2f",
) -> View:
    """A matrix as a heat map; numbers are printed where they fit.

    Args:
        matrix: ``(R, K)``; cells that are not a number are hatched.
        rows, columns: names (numbers by default); row_label, column_label: what they are; label: what a cell is.
        diverging: colours about a meaningful zero; limits_at: ends of the colour scale.
        number_format: of the printed numbers.
    """
    array = as_array("matrix", matrix, ndim=2)
    row_names, column_names = check_names("rows", rows, array.shape[0]), check_names("columns", columns, array.shape[1])
    low, high = limits_at or limits(array, symmetric=diverging)
    top, bottom = (np.unravel_index(int(f(array)), array.shape) for f in (np.nanargmax, np.nanargmin))
    missing = int((~np.isfinite(array)).sum())

    def place(at: Any) -> str:
        row, column = (
            " ".join(filter(None, pair))
            for pair in ((row_label, row_names[at[0]]), (column_label, column_names[at[1]]))
        )
        return f"{row}, {column}"

    alt = f"Highest {label}: {array[top]:.3g}, {place(top)}; lowest: {array[bottom]:.3g}, {place(bottom)}." + (
        f" {missing} undefined." if missing else ""
    )
    table = pd.DataFrame(array, columns=column_names)
    table.insert(0, row_label or "row", row_names)

    heat = Heat(
        values=array,
        rows=row_names,
        columns=column_names,
        colours=Colours(low, high, label, "diverging" if diverging else "sequential"),
        numbers=number_format if max(array.shape) <= 14 else "",
        row_label=row_label,
        column_label=column_label,
    )
    return View(title=title, alt=alt, table=table, picture=Picture(heat))


def confusion_view(
    matrices: Mapping[str, Any] | Any, class_names: Sequence[str] | None = None, *, title: str = "Confusion matrix"
) -> View:
    """Confusion matrices (rows: truth, columns: predicted; counts) side by side, colours by share of the row.

    Args:
        matrices: ``(C, C)`` counts, or label -> counts for up to three.
        class_names: ``C`` names.

    Raises:
        ValueError: a matrix is not square, has negative entries, or more than three are given.
    """
    named = dict(matrices) if isinstance(matrices, Mapping) else {"": matrices}
    arrays = {n: as_array(f"matrices[{n!r}]" if n else "matrices", m, ndim=2) for n, m in named.items()}
    if not 1 <= len(arrays) <= 3:
        raise ValueError(f"matrices must hold one to three, got {len(arrays)}.")
    size = next(iter(arrays.values())).shape[0]
    for n, a in arrays.items():
        if a.shape != (size, size) or (a < 0).any() or a.sum() == 0:
            raise ValueError(
                f"matrices{f'[{n!r}]' if n else ''} must be ({size}, {size}) counts >= 0 that are not all "
                f"0, got shape {a.shape}."
            )
    names = check_names("class_names", class_names, size)
    words = []
    for n, a in arrays.items():
        off = a - np.diag(np.diag(a))
        i, j = np.unravel_index(int(off.argmax()), off.shape)
        worst = int(np.nanargmin(_recall(a)))
        words.append(
            f"{n + ': ' if n else ''}{100 * np.trace(a) / a.sum():.1f} % right of {int(a.sum())}; lowest "
            f"recall {100 * _recall(a)[worst]:.1f} % "
            f"for {names[worst]}"
            + (f"; most frequent mistake {names[i]} taken for {names[j]}, {int(off[i, j])} times" if off.any() else "")
        )
    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "matrix": n or "counts",
                    "truth": names,
                    **{f"predicted {c}": a[:, k].astype(int) for k, c in enumerate(names)},
                    "recall": _recall(a),
                }
            )
            for n, a in arrays.items()
        ],
        ignore_index=True,
    )

    heats = [
        Heat(
            values=a / np.maximum(a.sum(1, keepdims=True), 1),
            rows=names,
            columns=names,
            colours=Colours(0, 1, "share of the class"),
            notes=[[f"{int(v)} of {int(row.sum())}" for v in row] for row in a],
            texts=[[str(int(v)) if v else "" for v in row] for row in a] if size <= 12 else (),
            row_label="truth",
            column_label="predicted",
            title=n,
            square=True,
        )
        for n, a in arrays.items()
    ]
    return View(title=title, alt=". ".join(words) + ".", table=table, picture=Picture(*heats))


def _recall(counts: Array) -> Array:
    totals = counts.sum(1)
    return np.divide(np.diag(counts), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def scatter_view(
    x: Any,
    y: Any,
    *,
    x_label: str,
    y_label: str,
    title: str,
    groups: Sequence[str] | None = None,
    x_log: bool = False,
    y_log: bool = False,
    diagonal: bool = False,
) -> View:
    """Points of two quantities, marked by group.

    Args:
        x, y: ``(N,)``; points that are not finite are left out and counted.
        groups: ``N`` names (colour and marker); diagonal: draw y = x.
        x_log, y_log: logarithmic axes; values <= 0 cannot be drawn there and are left out and counted.
    """
    a, b = as_array("x", x, ndim=1), as_array("y", y, ndim=1)
    if len(a) != len(b):
        raise ValueError(f"x and y must have the same length, got {len(a)} and {len(b)}.")
    names = np.array(list(groups) if groups is not None else ["all"] * len(a), dtype=object)
    if len(names) != len(a):
        raise ValueError(f"groups must hold {len(a)} names, got {len(names)}.")
    keep = np.isfinite(a) & np.isfinite(b) & ((a > 0) | (not x_log)) & ((b > 0) | (not y_log))
    if not keep.any():
        raise ValueError("no point can be drawn: x or y is nowhere finite (and positive on logarithmic axes).")
    table = pd.DataFrame({x_label: a, y_label: b, **({"group": names} if groups is not None else {})})
    from scipy.stats import spearmanr

    vary = np.ptp(a[keep]) > 0 and np.ptp(b[keep]) > 0
    relation = f"; Spearman correlation {spearmanr(a[keep], b[keep]).statistic:.2f}" if vary and keep.sum() > 2 else ""
    alt = (
        f"{int(keep.sum())} points: {x_label} from {a[keep].min():.3g} to {a[keep].max():.3g}, {y_label} from "
        f"{b[keep].min():.3g} to "
        f"{b[keep].max():.3g}{relation}." + (f" {int((~keep).sum())} points cannot be drawn." if not keep.all() else "")
    )

    points = [
        Points(str(name), a[of], b[of], style=i)
        for i, name in enumerate(dict.fromkeys(names))
        if (of := keep & (names == name)).any()
    ]
    rules = [Rule(0.0, "equal", axis="both", style="muted")] if diagonal else []
    plane = Plane(*rules, *points, x=Axis(x_label, log=x_log), y=Axis(y_label, log=y_log))
    return View(title=title, alt=alt, table=table, picture=Picture(plane))


def lines_view(
    x: Any,
    lines: Mapping[str, Any],
    *,
    x_label: str,
    y_label: str,
    title: str,
    bands: Mapping[str, tuple[Any, Any]] | None = None,
    x_log: bool = False,
    y_log: bool = False,
    mark: Mapping[str, float] | None = None,
) -> View:
    """Lines over a common x.

    Args:
        x: ``(K,)``; lines: label -> ``(K,)``, NaN where it is not known.
        bands: label -> lower and upper ends of a band about that line.
        mark: label -> x of a vertical mark.
    """
    a = as_array("x", x, ndim=1)
    if not lines:
        raise ValueError("lines is empty: there is nothing to show.")
    values = {n: as_array(f"lines[{n!r}]", v, ndim=1) for n, v in lines.items()}
    ends = {n: tuple(as_array(f"bands[{n!r}]", v, ndim=1) for v in pair) for n, pair in (bands or {}).items()}
    for n, v in [*values.items(), *((n, e) for n, pair in ends.items() for e in pair)]:
        if len(v) != len(a):
            raise ValueError(f"{n!r} must have {len(a)} values like x, got {len(v)}.")
    words = []
    for n, v in values.items():
        known = v[~np.isnan(v)]
        words.append(
            f"{n} goes from {known[0]:.3g} to {known[-1]:.3g}, highest {known.max():.3g} at {a[np.nanargmax(v)]:.3g}"
            if known.size
            else f"{n} is nowhere defined"
        )
    alt = f"{y_label} over {x_label} from {a.min():.3g} to {a.max():.3g}: {listed(words)}"
    band_columns = {
        f"{n}, {side}": end for n, pair in ends.items() for side, end in zip(("low", "high"), pair, strict=True)
    }
    table = pd.DataFrame({x_label: a, **values, **band_columns})

    marks: list[Mark] = []
    for i, (n, v) in enumerate(values.items()):
        low, high = ends.get(n, (None, None))
        marks.append(Line(n, a, v, low, high, style=i))
    marks += [Rule(at, words_, axis="x") for words_, at in (mark or {}).items()]
    plane = Plane(*marks, x=Axis(x_label, log=x_log), y=Axis(y_label, log=y_log))
    return View(title=title, alt=alt, table=table, picture=Picture(plane))


def contours_view(
    x: Any,
    y: Any,
    fields: Mapping[str, Any],
    *,
    x_label: str,
    y_label: str,
    title: str,
    label: str = "value",
    minimum: tuple[float, float] | None = None,
    shared: bool = False,
) -> View:
    """Contours of up to three functions of two variables side by side.

    Args:
        x: ``(K,)``, y: ``(M,)`` grid; fields: name -> ``(M, K)`` values.
        minimum: a point to mark in each by a star; its name in the legend is "match".
        shared: one colour scale for all (each its own otherwise).
    """
    a, b = as_array("x", x, ndim=1), as_array("y", y, ndim=1)
    arrays = {n: as_array(f"fields[{n!r}]", f, ndim=2) for n, f in fields.items()}
    if not 1 <= len(arrays) <= 3:
        raise ValueError(f"fields must hold one to three functions, got {len(arrays)}.")
    for n, f in arrays.items():
        if f.shape != (len(b), len(a)):
            raise ValueError(f"fields[{n!r}] must have shape {(len(b), len(a))} (y, x), got {f.shape}.")
    words = []
    for n, f in arrays.items():
        i, j = np.unravel_index(int(np.nanargmin(f)), f.shape)
        words.append(f"{n} is lowest, {f[i, j]:.3g}, at ({a[j]:.2g}, {b[i]:.2g}) and highest, {np.nanmax(f):.3g}")
    table = pd.DataFrame(
        {x_label: np.tile(a, len(b)), y_label: np.repeat(b, len(a)), **{n: f.ravel() for n, f in arrays.items()}}
    )

    common = limits(*arrays.values())
    planes = []
    for n, f in arrays.items():
        low, high = common if shared else limits(f)
        scale = Colours(low, high, label)
        field = Field(f, (a[0], a[-1]), (b[0], b[-1]), scale, levels=np.linspace(low, high, 13).tolist())
        star = [] if minimum is None else [Points("match", [minimum[0]], [minimum[1]], style=7, size=17)]
        planes.append(Plane(field, *star, x=Axis(x_label), y=Axis(y_label), title=n))
    words_ = f"{'; '.join(words)}; {label} over {x_label} and {y_label}."
    return View(title=title, alt=words_, table=table, picture=Picture(*planes))


def comparison_view(
    comparison: Any,
    *,
    metric: str | None = None,
    baseline: str | None = None,
    percent: bool | None = None,
    title: str | None = None,
) -> View:
    """Arms of an experiment: mean with 95 % interval, and every seed as a point.

    Args:
        comparison: a :class:`kdcore.experiment.Comparison`, or its ``rows``: a frame with the columns ``arm``, ``seed``
            and the metric.
        metric: column to draw; the comparison's main one by default.
        baseline: arm whose mean is drawn as a line.
        percent: show as percent; by default when all values lie in [0, 1].

    Raises:
        ValueError: no rows, an unknown metric or baseline.
    """
    rows = comparison.rows if hasattr(comparison, "rows") else comparison
    if not isinstance(rows, pd.DataFrame) or rows.empty or not {"arm", "seed"} <= set(rows.columns):
        raise ValueError(
            "comparison must be a Comparison or a non-empty frame with the columns arm, seed and a metric."
        )
    metric = metric or _main_metric(rows)
    if metric not in rows:
        raise ValueError(f"metric must be a column of the rows ({', '.join(rows.columns)}), got {metric!r}.")
    arms = list(dict.fromkeys(rows["arm"]))
    if baseline is not None and baseline not in arms:
        raise ValueError(f"baseline must be one of {', '.join(map(str, arms))}, got {baseline!r}.")
    values = {arm: rows.loc[rows["arm"] == arm, metric].to_numpy(dtype=float) for arm in arms}
    as_percent = (
        percent if percent is not None else all((((v >= 0) & (v <= 1)) | np.isnan(v)).all() for v in values.values())
    )
    factor, unit = (100.0, " %") if as_percent else (1.0, "")
    summary = [_summary(factor * v) for v in values.values()]
    best = max(range(len(arms)), key=lambda i: (np.isfinite(summary[i][0]), summary[i][0]))
    named = metric == "last" and hasattr(comparison, "metric")
    measured = f"{comparison.metric} of the last epoch" if named else metric.replace("_", " ")
    counts = {len(v) for v in values.values()}
    seeds = f"{min(counts)} to {max(counts)} seeds" if len(counts) > 1 else counted(min(counts), "seed")
    ranked = sorted(range(len(arms)), key=lambda i: -summary[i][0] if np.isfinite(summary[i][0]) else np.inf)
    said = range(len(arms)) if len(arms) <= _TOLD else [*ranked[: _TOLD - 2], ranked[-1]]
    intervals = any(np.isfinite(h) for _, h in summary)
    alt = (
        f"Mean {measured.removeprefix('mean ')} over {seeds}{', 95 % interval' if intervals else ''}: "
        + "; ".join(_arm_words(str(arms[i]), *summary[i], unit) for i in said)
        + f". Highest mean: {arms[best]}."
        + (f" {len(arms) - len(said)} arms in between are in the table." if len(said) < len(arms) else "")
    )
    table = pd.DataFrame(
        {
            "arm": arms,
            "mean": [m for m, _ in summary],
            "low": [m - h for m, h in summary],
            "high": [m + h for m, h in summary],
            "seeds": [len(v) for v in values.values()],
        }
    )

    return View(
        title=title or f"{measured} by arm",
        alt=alt,
        table=table,
        picture=Picture(_arms(arms, values, summary, baseline, (factor, unit, measured))),
    )


def _written(value: float, unit: str) -> str:
    """A tenth of a percent, or three digits of what has no unit (a radius may be 0.0725)."""
    return f"{value:.1f}" if unit else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _arm_words(arm: str, mean: float, half: float, unit: str) -> str:
    if not np.isfinite(mean):
        return f"{arm} not known"
    low, high = (_written(v, unit) for v in (mean - half, mean + half))
    around = f" ({low} to {high})" if np.isfinite(half) else ""
    return f"{arm} {_written(mean, unit)}{unit}{around}"


def _arms(
    arms: Sequence[Any],
    values: Mapping[Any, Array],
    summary: Sequence[tuple[float, float]],
    baseline: Any,
    words: tuple[float, str, str],
) -> Plane:
    factor, unit, measured = words
    means, halves = np.array(summary).T
    rows = np.arange(len(arms), dtype=float)
    marks: list[Mark] = []
    if baseline is not None:
        marks.append(Rule(means[list(arms).index(baseline)], f"mean of {baseline}", axis="x", style="muted"))
    for i, v in enumerate(values.values()):
        below = 0.22 + (np.linspace(-0.065, 0.065, len(v)) if len(v) > 1 else np.zeros(1))
        notes = [f"{arms[i]}, one seed: {x:.2f}{unit}" for x in factor * v]
        marks.append(Points("", factor * v, i + below, style=i, size=5, notes=notes))
    marks.append(Arrows("", means - halves, rows, 2 * halves, 0 * rows, head=False))
    for i, (m, h) in enumerate(zip(means, halves, strict=True)):
        said = f"95 % interval {m - h:.2f} to {m + h:.2f}{unit}" if np.isfinite(h) else "one seed: no interval"
        marks.append(Points("", [m], [float(i)], style=i, size=11, notes=[f"{arms[i]}\n{said}"]))
    marks.append(Texts(means, rows - 0.28, [f"{_written(m, unit)}{unit}" for m in means]))
    return Plane(
        *marks,
        x=Axis(f"{measured}{' in percent' if unit else ''}: mean, 95 % interval (t), points are seeds"),
        y=Axis(names=[str(a) for a in arms]),
        height=40 + 46 * len(arms),
    )


def _main_metric(rows: pd.DataFrame) -> str:
    for name in ("last", "metric", "accuracy", "best"):
        if name in rows:
            return name
    numeric = [c for c in rows.select_dtypes("number").columns if c != "seed"]
    if not numeric:
        raise ValueError(f"rows have no numeric column besides the seed: {', '.join(rows.columns)}.")
    return str(numeric[0])


def _summary(values: Array) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (not a number for one value)."""
    low, high = mean_interval(values)
    return float(values.mean()), (high - low) / 2


__all__ = ["comparison_view", "confusion_view", "contours_view", "heatmap_view", "lines_view", "scatter_view"]
