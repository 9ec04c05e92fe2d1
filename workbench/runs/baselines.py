"""Recorded numbers against ``tests/notebooks/baselines.json``: the regression test of the notebooks.

The tolerance in the baseline file decides, so that loosening one is a change of that file. A metric without a tolerance
must match exactly. A metric that the baseline does not know, one that is gone, and a notebook that records nothing are
failures.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.files import write_atomic

from .files import read_json, text_table, to_json
from .store import RunRecord

SCHEMA = 1
_ROUNDING = 1e-9  # 0.92 is within 0.02 of 0.90, whatever their binary forms say
BASELINES = Path("tests/notebooks/baselines.json")


@dataclass(frozen=True)
class Row:
    """One metric of one notebook beside its baseline; ``status`` is ok, drift, unknown, missing or failed."""

    notebook: str
    metric: str
    old: Any
    new: Any
    tolerance: float | None
    status: str

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def load_baselines(path: str | Path) -> dict[str, dict[str, Any]]:
    """Baselines by notebook: ``{"ranking/pld": {"accuracy": {"value": 0.9, "tolerance": 0.02, "kind": "float"}}}``.

    Raises:
        ValueError: the file is not a baseline file of this schema.
    """
    path = Path(path)
    if not path.is_file():
        return {}
    document = read_json(path)
    if (
        not isinstance(document, dict)
        or document.get("schema") != SCHEMA
        or not isinstance(document.get("notebooks"), dict)
    ):
        raise ValueError(f"{path} is not a baseline file of schema {SCHEMA}.")
    return document["notebooks"]


def compare_run(run: RunRecord, baselines: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Every metric of a run, or of its baseline, with what became of it."""
    old, new = baselines.get(run.notebook, {}), run.metrics
    if not run.ok:
        return [Row(run.notebook, "(run)", "done", f"{run.status}: {run.failure}", None, "failed")]
    if not new:
        return [Row(run.notebook, "(record)", len(old) or None, "records nothing", None, "missing")]
    return [_row(run.notebook, name, old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])]


def _row(notebook: str, name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Row:
    if old is None or new is None:
        known, status = (new, "unknown") if old is None else (old, "missing")
        assert known is not None
        return Row(notebook, name, old and old["value"], new and new["value"], known["tolerance"], status)
    status = "ok" if _agree(old["value"], new["value"], old["tolerance"]) else "drift"
    return Row(notebook, name, old["value"], new["value"], old["tolerance"], status)


def _agree(old: Any, new: Any, tolerance: float | None) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
    if tolerance is None or not numbers:
        return type(old) is type(new) and old == new
    return math.isclose(new, old, rel_tol=_ROUNDING, abs_tol=tolerance * (1 + _ROUNDING))


def compare_runs(runs: Iterable[RunRecord], path: str | Path) -> list[Row]:
    """:func:`compare_run` for several runs against a baseline file."""
    baselines = load_baselines(path)
    return [row for run in runs for row in compare_run(run, baselines)]


def drift_table(rows: Iterable[Row]) -> str:
    """The rows that do not agree as a text table (empty if all do)."""
    bad = [r for r in rows if not r.ok]
    return (
        text_table(
            (
                (
                    r.notebook,
                    r.metric,
                    _show(r.old),
                    _show(r.new),
                    "exact" if r.tolerance is None else f"{r.tolerance:g}",
                    r.status,
                )
                for r in bad
            ),
            ("notebook", "metric", "old", "new", "tolerance", "status"),
        )
        if bad
        else ""
    )


def _show(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def update_baselines(runs: Iterable[RunRecord], path: str | Path, *, keep: Iterable[str] | None = None) -> str:
    """Write the runs' metrics as baselines; returns the unified diff of what was written ("" if nothing changed).

    A metric within its tolerance keeps its old value, so that the file changes only where the numbers did.

    Args:
        runs: finished runs.
        path: the baseline file.
        keep: keys of the notebooks that exist; baselines of others are dropped. Default: drop none.

    Raises:
        ValueError: a run that is not done, or recorded nothing, cannot become a baseline.
    """
    path, runs = Path(path), list(runs)
    for run in runs:
        if not run.metrics:
            raise ValueError(
                f"{run.notebook} cannot become a baseline: "
                + (f"it {run.status} ({run.failure})." if not run.ok else "it records nothing.")
            )
    baselines = load_baselines(path)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    kept = None if keep is None else set(keep)
    merged = {k: v for k, v in baselines.items() if kept is None or k in kept}
    for run in runs:
        merged[run.notebook] = {
            name: _entry(merged.get(run.notebook, {}).get(name), new) for name, new in run.metrics.items()
        }
    after = to_json({"schema": SCHEMA, "notebooks": dict(sorted(merged.items()))})
    if after == before:
        return ""
    write_atomic(path, after)
    return "".join(
        difflib.unified_diff(
            before.splitlines(True), after.splitlines(True), f"{path.name} (old)", f"{path.name} (new)", n=2
        )
    )


def _entry(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    fresh = {k: new[k] for k in ("value", "tolerance", "kind")}
    if (
        old is not None
        and old["kind"] == new["kind"]
        and old["tolerance"] == new["tolerance"]
        and _agree(old["value"], new["value"], old["tolerance"])
    ):
        return dict(old)
    return fresh
