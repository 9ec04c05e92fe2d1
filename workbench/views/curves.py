"""Training curves: loss terms and metrics over epochs, one line per arm, a band over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .base import View
from .drawing import told
from .picture import Axis, Line, Picture, Plane

COLUMNS = ("arm", "seed", "epoch", "quantity", "value")


def history_frame(histories: Mapping[Any, Any] | pd.DataFrame) -> pd.DataFrame:
    """Histories in long form with the columns ``arm, seed, epoch, quantity, value``.

    Args:
        histories: label -> epochs; label -> list of epochs, one per seed; ``(label, seed)`` -> epochs; or a frame that
            already has the columns. An epoch has ``.epoch``, ``.terms`` and ``.metrics`` (name -> number); epochs
            that count from 0 are shown from 1. Loss terms are called ``loss: <name>``, and their sum ``loss``.

    Raises:
        ValueError: no epoch at all, or a frame without the columns.
    """
    if isinstance(histories, pd.DataFrame):
        missing = [c for c in COLUMNS if c not in histories]
        if missing or histories.empty:
            raise ValueError(
                f"histories must be a non-empty frame with the columns {', '.join(COLUMNS)}; "
                + (f"missing: {', '.join(missing)}." if missing else "it has no rows.")
            )
        return histories[list(COLUMNS)]
    rows: list[tuple[str, int, int, str, float]] = []
    for key, runs in histories.items():
        arm, seed = key if isinstance(key, tuple) else (key, None)
        several = bool(runs) and isinstance(runs[0], Sequence)
        for n, epochs in enumerate(runs if several else [runs]):
            rows.extend(_epoch_rows(str(arm), n if seed is None else seed, epochs))
    if not rows:
        raise ValueError("histories hold no epoch: there is nothing to show.")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _epoch_rows(arm: str, seed: int, epochs: Iterable[Any]) -> Iterable[tuple[str, int, int, str, float]]:
    for e in epochs:
        yield arm, seed, e.epoch + 1, "loss", float(sum(e.terms.values()))
        yield from ((arm, seed, e.epoch + 1, f"loss: {name}", float(v)) for name, v in e.terms.items())
        yield from ((arm, seed, e.epoch + 1, name, float(v)) for name, v in (e.metrics or {}).items())


def training_curves_view(
    histories: Mapping[Any, Any] | pd.DataFrame, *, metrics: Sequence[str] | None = None, title: str = "Training curves"
) -> View:
    """Loss on the left, validation metric on the right, over epochs.

    With one arm its loss terms are drawn one by one; with several arms (whose terms mean different things) the total
    loss. Lines are means over seeds, bands reach from the lowest to the highest seed.

    Args:
        histories: see :func:`history_frame`.
        metrics: names of the metrics to draw (default: all that were measured).

    Raises:
        ValueError: nothing to draw, or an unknown metric.
    """
    frame = history_frame(histories)
    arms = list(dict.fromkeys(frame["arm"]))
    measured = [q for q in dict.fromkeys(frame["quantity"]) if not q.startswith("loss")]
    for name in metrics or ():
        if name not in measured:
            raise ValueError(f"metrics must be among {', '.join(measured) or 'none measured'}, got {name!r}.")
    chosen = list(metrics) if metrics is not None else measured
    terms = [q for q in dict.fromkeys(frame["quantity"]) if q.startswith("loss: ")] if len(arms) == 1 else []
    losses = terms if len(terms) > 1 else ["loss"]
    summary = (
        frame.groupby(["quantity", "arm", "epoch"], sort=False)["value"]
        .agg(mean="mean", low="min", high="max", seeds="count")
        .reset_index()
    )

    averaged = frame.groupby("arm")["seed"].nunique().max() > 1

    planes = []
    for quantities in [losses, *([m] for m in chosen)]:
        pairs = [(q, a) for q in quantities for a in arms]
        several = len(quantities) > 1
        name = "loss" if quantities is losses else quantities[0]
        remark = ["terms"] * several + ["mean over seeds"] * bool(averaged)
        lines = [
            _line(
                summary[(summary["quantity"] == q) & (summary["arm"] == a)],
                k,
                a if len(arms) > 1 or not several else q.removeprefix("loss: "),
            )
            for k, (q, a) in enumerate(pairs)
        ]
        planes.append(Plane(*lines, x=Axis("epoch"), y=Axis(name), title=", ".join([name, *remark])))
    picture = Picture(*planes)
    return View(title=title, alt=_words(frame, summary, arms, chosen), table=summary, picture=picture)


def _line(part: pd.DataFrame, k: int, label: str) -> Line:
    banded = (part["seeds"] > 1).any()
    low, high = (part[side].to_numpy() if banded else None for side in ("low", "high"))
    return Line(label, part["epoch"].to_numpy(), part["mean"].to_numpy(), low, high, style=k)


def _words(frame: pd.DataFrame, summary: pd.DataFrame, arms: list[str], chosen: list[str]) -> str:
    seeds = frame.groupby("arm")["seed"].nunique().max()
    parts = [
        f"{len(arms)} training{'s' if len(arms) > 1 else ''} over {int(frame['epoch'].nunique())} epochs, "
        f"{seeds} seed{'s' if seeds > 1 else ''} each."
    ]
    for quantity in chosen[:1] or ["loss"]:
        ends = []
        for arm in arms:
            part = summary[(summary["quantity"] == quantity) & (summary["arm"] == arm)]
            if len(part):
                mean = part["mean"].to_numpy()
                ends.append(f"{arm} {told(mean[-1], '.3f')}")
                if np.isfinite(mean).any():
                    top = int(np.nanargmin(mean) if quantity == "loss" else np.nanargmax(mean))
                    ends[-1] += f" (best {mean[top]:.3f} at epoch {part['epoch'].iloc[top]})"
        parts.append(f"Final {quantity}: " + "; ".join(ends) + ".")
    losses = summary[summary["quantity"] == "loss"]
    if len(losses) and np.isfinite(losses["mean"]).any():
        first = losses[losses["arm"] == arms[0]]["mean"]
        parts.append(f"The loss of {arms[0]} goes from {told(first.iloc[0], '.3g')} to {told(first.iloc[-1], '.3g')}.")
    return " ".join(parts)


__all__ = ["history_frame", "training_curves_view"]
