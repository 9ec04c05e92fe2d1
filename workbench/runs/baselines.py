"""Recorded numbers and verdicts against ``tests/notebooks/baselines/<key>.json``: the regression test of the notebooks.

One file per notebook, so that lessons written side by side do not meet in one. Beside the metrics it holds the value of
every verdict (reproduced, contradicted, open) and the difference that it rests on, which may move by one standard
error, and the loss terms and the gradient of every arm's first step, which may hardly move: a loss with a fault can
train a student that is as accurate. What a person wrote into the file (``cpu_seconds_allowed``) stays. The tolerance in
the baseline file decides, so that loosening one is a change of that file. A metric without a tolerance must match
exactly. A metric that the baseline does not know, one that is gone, and a notebook that records nothing are failures.
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

SCHEMA = 2
_ROUNDING = 1e-9  # 0.92 is within 0.02 of 0.90, whatever their binary forms say
BASELINES = Path("tests/notebooks/baselines")


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


def load_baselines(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Baselines by notebook, metrics and verdicts by name.

    E.g. ``{"ranking/pld": {"accuracy": {"value": 0.9, "tolerance": 0.02, "kind": "float"}}}``.

    Raises:
        ValueError: a file that is not a baseline file of this schema.
    """
    folder = Path(folder)
    return {
        path.relative_to(folder).with_suffix("").as_posix(): {
            n: e for part in _PARTS for n, e in _read(path)[part].items()
        }
        for path in sorted(folder.rglob("*.json"))
    }


_PARTS = ("metrics", "verdicts", "first_steps")
#: Beginning of the names whose tolerance is measured, not chosen.
_MEASURED = ("difference: ", "first step: ")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {part: {} for part in _PARTS}
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a baseline file of schema {SCHEMA}.")
    parts = {"first_steps": {}, **document}  # not every notebook trains
    if not all(isinstance(parts.get(part), dict) for part in _PARTS):
        raise ValueError(f"{path} is not a baseline file of schema {SCHEMA}.")
    return parts


def _recorded(run: RunRecord) -> dict[str, dict[str, Any]]:
    """What a run would have as its baseline: metrics, verdicts with their differences, and first steps."""
    verdicts: dict[str, Any] = {}
    for verdict in run.verdicts:
        text, error = verdict["text"], verdict.get("standard_error")
        verdicts[f"verdict: {text}"] = {"value": verdict["value"], "tolerance": None, "kind": "text"}
        if error is not None and verdict.get("difference") is not None:
            tolerance = float(f"{error:.2g}")
            verdicts[f"difference: {text}"] = {"value": verdict["difference"], "tolerance": tolerance, "kind": "float"}
    first = {f"first step: {name}": entry for name, entry in run.first_steps.items()}
    return {"metrics": run.metrics, "verdicts": verdicts, "first_steps": first}


def compare_run(run: RunRecord, baselines: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Every metric and verdict of a run, or of its baseline, with what became of it."""
    old, recorded = baselines.get(run.notebook, {}), _recorded(run)
    if not run.ok:
        return [Row(run.notebook, "(run)", "done", f"{run.status}: {run.failure}", None, "failed")]
    if not recorded["metrics"]:
        return [Row(run.notebook, "(record)", len(old) or None, "records nothing", None, "missing")]
    new = recorded["metrics"] | recorded["verdicts"] | recorded["first_steps"]
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


def compare_runs(runs: Iterable[RunRecord], folder: str | Path) -> list[Row]:
    """:func:`compare_run` for several runs against a folder of baseline files."""
    baselines = load_baselines(folder)
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


def update_baselines(runs: Iterable[RunRecord], folder: str | Path, *, keep: Iterable[str] | None = None) -> str:
    """Write what the runs recorded as baselines; returns the unified diff of what was written ("" if nothing changed).

    What is within its tolerance keeps its old value, so that a file changes only where the numbers did.

    Args:
        runs: finished runs.
        folder: of the baseline files.
        keep: keys of the notebooks that exist; baselines of others are deleted. Default: delete none.

    Raises:
        ValueError: a run that is not done, or recorded nothing, cannot become a baseline.
    """
    folder, runs = Path(folder), list(runs)
    for run in runs:
        if not run.metrics:
            raise ValueError(
                f"{run.notebook} cannot become a baseline: "
                + (f"it {run.status} ({run.failure})." if not run.ok else "it records nothing.")
            )
    kept = None if keep is None else {*keep, *(run.notebook for run in runs)}
    gone = [] if kept is None else [key for key in load_baselines(folder) if key not in kept]
    written: dict[str, str] = dict.fromkeys(gone, "")
    for run in runs:
        old, new = _read(_file(folder, run.notebook)), _recorded(run)
        merged = {
            part: {name: _entry(name, old[part].get(name), entry) for name, entry in new[part].items()}
            for part in _PARTS
        }
        shown = {part: entries for part, entries in merged.items() if entries or part != "first_steps"}
        others = {name: part for name, part in old.items() if name not in (*_PARTS, "schema")}  # decided by hand
        written[run.notebook] = to_json({"schema": SCHEMA, **others, **shown})
    return "".join(_write(folder, key, text) for key, text in sorted(written.items()))


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _write(folder: Path, key: str, after: str) -> str:
    """Write one file, or delete it where there is no text; its diff."""
    path = _file(folder, key)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if after == before:
        return ""
    if after:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, after)
    else:
        path.unlink()
    lines = before.splitlines(True), after.splitlines(True)
    return "".join(difflib.unified_diff(*lines, f"{key}.json (old)", f"{key}.json (new)", n=2))


def _entry(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    fresh = {k: new[k] for k in ("value", "tolerance", "kind")}
    if (
        old is not None
        and old["kind"] == new["kind"]
        and (old["tolerance"] == new["tolerance"] or name.startswith(_MEASURED))
        and _agree(old["value"], new["value"], old["tolerance"])
    ):
        return dict(old)
    return fresh
