"""``record(...)``: the numbers, verdicts and pictures a notebook stands for, in its outputs and in its run folder.

In a notebook's last section::

    from workbench.runs import record
    record(student_accuracy=0.912, students_trained=15, tol={"student_accuracy": 0.02}, verdicts=[verdict],
           figures={"curves": curves_view})

The record is shown as a table, travels in the notebook's outputs as ``application/vnd.kdcore.result+json``, and, when
the notebook is executed by the runner (``KDW_RUN_DIR`` is set), is written to ``metrics.json`` and ``figures/`` there.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdcore.files import write_atomic
from kdcore.html import items, join, table, tag

from .environment import device_name, git_commit, thread_count, versions
from .files import load_notebook, notebook_key, plain, read_json, sha256, to_json, write_json
from .parameters import read_parameters

MIME = "application/vnd.kdcore.result+json"
SCHEMA = 2
#: Relative tolerance of first steps. Their sums run over a few thousand float32 numbers of rounding 6e-8; between one
#: and two threads, and between SSE, AVX2 and AVX-512, they moved by at most 2e-6. A changed objective moves them more.
FIRST_STEP_TOLERANCE = 1e-4
#: Sign of a verdict in pages; the word is always beside it.
VERDICT_SIGNS = {"reproduced": "✔", "contradicted": "✘", "open": "?"}
_LOADED = time.time()
_session: dict[str, Any] = {}


def record(
    *,
    tol: float | Mapping[str, float] | None = None,
    verdicts: Iterable[Any] = (),
    figures: Mapping[str, Any] | None = None,
    seeds: Any = None,
    first_steps: Mapping[str, float] | None = None,
    **metrics: Any,
) -> None:
    """Record named results of this notebook; later calls add to earlier ones, the same name replaces.

    Args:
        tol: absolute tolerance of the floating-point metrics when a later run is compared with the baseline: one number
            for all of this call, or by metric name. A metric without one must match exactly.
        verdicts: ``kdcore.experiment.Verdict`` objects or their dicts.
        figures: pictures by name: Views, lists of Views, or PNG bytes.
        seeds: the seeds used; default what the parameters ``seeds`` or ``seed`` say.
        first_steps: loss terms and gradients of every arm's first step (``STUDY.first_steps()``), for the baseline; a
            later run may differ by 0.01 %.
        **metrics: numbers, booleans or short texts. A non-finite number is kept as ``"nan"``, ``"inf"`` or
            ``"-inf"`` with ``"finite": false``.

    Raises:
        TypeError: a metric that is not a scalar.
        ValueError: a negative tolerance, or one for a metric that is not in this call.
        OSError: the run folder cannot be written.
    """
    entries = {name: _metric(name, value, _tolerance(name, value, tol)) for name, value in metrics.items()}
    unknown = set(tol) - set(metrics) if isinstance(tol, Mapping) else set()
    if unknown:
        raise ValueError(
            f"tol names {', '.join(sorted(unknown))}, but the metrics of this call are: {', '.join(metrics) or 'none'}."
        )
    _session.setdefault("metrics", {}).update(entries)
    _session.setdefault("first_steps", {}).update({n: _first_step(n, v) for n, v in (first_steps or {}).items()})
    known = {v["text"]: v for v in _session.get("verdicts", [])}
    known.update({v["text"]: v for v in map(_verdict, verdicts)})
    _session["verdicts"] = list(known.values())
    pictures = {name: _pictures(name, figure) for name, figure in (figures or {}).items()}
    _session.setdefault("figures", {}).update({n: [p["title"] for p in views] for n, views in pictures.items()})
    document = current_record(seeds=seeds)
    folder = os.environ.get("KDW_RUN_DIR")
    if folder:
        for name, views in pictures.items():
            _write_figure(Path(folder) / "figures", name, views)
        write_json(Path(folder) / "metrics.json", document)
    _show(document)


def reset() -> None:
    """Forget what this process has recorded so far."""
    _session.clear()


def current_record(*, seeds: Any = None) -> dict[str, Any]:
    """The record so far as a JSON-ready dict: what was recorded, with which parameters, on what."""
    notebook = _notebook()
    started, git, parameters = notebook.pop("started"), notebook.pop("git"), notebook["parameters"]
    if seeds is not None:
        _session["seeds"] = plain(seeds)
    seeds = _session.get("seeds", parameters.get("seeds", parameters.get("seed")))
    return plain(
        {
            "schema": SCHEMA,
            **notebook,
            "seeds": seeds,
            "versions": versions(),
            **git,
            "device": device_name(),
            "threads": thread_count(),
            "durations": {"seconds": round(time.time() - started, 3), "cpu_seconds": round(time.process_time(), 3)},
            "metrics": _session.get("metrics", {}),
            "verdicts": _session.get("verdicts", []),
            "first_steps": _session.get("first_steps", {}),
            "figures": _session.get("figures", {}),
        }
    )


def _notebook() -> dict[str, Any]:
    """Name, source hash, parameters and start of the notebook: from the run folder, else from the live session."""
    folder = os.environ.get("KDW_RUN_DIR")
    if folder:
        run = read_json(Path(folder) / "run.json")
        return {k: run[k] for k in ("notebook", "source_sha256", "parameters", "started", "git")}
    path = Path(os.environ.get("JPY_SESSION_NAME", ""))
    if path.suffix != ".ipynb" or not path.is_file():
        return {
            "notebook": "unknown",
            "source_sha256": "unknown",
            "parameters": {},
            "started": _LOADED,
            "git": git_commit(Path.cwd()),
        }
    return {
        "notebook": notebook_key(path),
        "source_sha256": source_hash(path),
        "started": _LOADED,
        "git": git_commit(path.parent),
        "parameters": {n: v for n, v in _user_namespace().items() if n in read_parameters(path)},
    }


def source_hash(notebook: str | Path) -> str:
    """sha256 over the code cells of a notebook: text and outputs do not change it."""
    return document_hash(load_notebook(notebook))


def document_hash(document: Mapping[str, Any]) -> str:
    """:func:`source_hash` of a notebook that was read already."""
    return sha256("\n\n".join(cell["source"] for cell in document["cells"] if cell["cell_type"] == "code"))


def _user_namespace() -> dict[str, Any]:
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return dict(shell.user_ns) if shell is not None else {}


def _tolerance(name: str, value: Any, tol: float | Mapping[str, float] | None) -> float | None:
    if isinstance(tol, Mapping):
        chosen = tol.get(name)
    else:
        exact = isinstance(value, bool | int | str)
        chosen = None if exact else tol
    if chosen is not None and not (math.isfinite(chosen) and chosen >= 0):
        raise ValueError(f"tol of {name} must be a finite number >= 0, got {chosen!r}.")
    return None if chosen is None else float(chosen)


def _metric(name: str, value: Any, tolerance: float | None) -> dict[str, Any]:
    scalar = plain(value) if not isinstance(value, Mapping | list | tuple | set) else None
    if not isinstance(scalar, bool | int | float | str):
        raise TypeError(
            f"metric {name} must be a number, a bool or a short text, got {type(value).__name__} ({value!r:.60})."
        )
    number = float("nan") if isinstance(scalar, str) else float(scalar)
    was_text = isinstance(value, str)
    kind = "text" if was_text else "bool" if isinstance(scalar, bool) else "int" if isinstance(scalar, int) else "float"
    return {
        "value": scalar,
        "tolerance": tolerance,
        "kind": kind,
        **({"finite": False} if kind == "float" and not math.isfinite(number) else {}),
    }


def _first_step(name: str, value: float) -> dict[str, Any]:
    tolerance = max(FIRST_STEP_TOLERANCE * abs(value), 1e-7)  # a term without weight is 0 and stays it
    return _metric(name, float(value), float(f"{tolerance:.2g}"))


def _verdict(verdict: Any) -> dict[str, Any]:
    as_dict = plain(verdict)
    good = isinstance(as_dict, dict) and "text" in as_dict and as_dict.get("value") in VERDICT_SIGNS
    if not good:
        raise TypeError(
            f"verdicts must be Verdict objects or dicts with 'text' and 'value' ({', '.join(VERDICT_SIGNS)}), "
            f"got {verdict!r:.80}."
        )
    return as_dict


def _pictures(name: str, figure: Any) -> list[dict[str, Any]]:
    from ..views.base import View
    from ..views.theme import DARK, LIGHT

    if isinstance(figure, bytes):
        return [{"title": name, "alt": name, "light": figure}]
    views = figure if isinstance(figure, list | tuple) else [figure]
    wrong = next((v for v in views if not isinstance(v, View)), None)
    if wrong is not None:
        raise TypeError(f"figure {name} must be a View, a list of Views or PNG bytes, got {type(wrong).__name__}.")
    return [
        {
            "title": v.title,
            "alt": v.alt,
            "light": v.png(LIGHT),
            "dark": v.png(DARK),
            "html": v.html(),
            "csv": v.table.to_csv(index=False),
        }
        for v in views
    ]


def _write_figure(folder: Path, name: str, views: list[dict[str, Any]]) -> None:
    """``<name>[-2].png``, ``-dark.png``, ``.html`` (self-contained), ``.csv`` and ``.json`` (title and description)."""
    for number, view in enumerate(views, 1):
        stem = name if number == 1 else f"{name}-{number}"
        for key, suffix in (("light", ".png"), ("dark", "-dark.png"), ("html", ".html"), ("csv", ".csv")):
            if key in view:
                write_atomic(folder / f"{stem}{suffix}", view[key])
        write_json(folder / f"{stem}.json", {"title": view["title"], "alt": view["alt"]})


def _show(document: dict[str, Any]) -> None:
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    if get_ipython() is None:  # a plain script: the text form
        sys.stdout.write(record_text(document) + "\n")
        return
    display(
        {MIME: json.loads(to_json(document)), "text/html": record_html(document), "text/plain": record_text(document)},
        raw=True,
    )


def _number(entry: Mapping[str, Any]) -> str:
    value = entry["value"]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def record_text(document: Mapping[str, Any]) -> str:
    """The record as plain lines."""
    lines = [
        f"{n} = {_number(m)}" + (f" ± {m['tolerance']:g}" if m["tolerance"] is not None else "")
        for n, m in document["metrics"].items()
    ]
    return "\n".join([*lines, *(v.get("sentence", v["text"]) for v in document["verdicts"])])


def _folded_first_steps(rows: list[tuple[str, str]]) -> str:
    words = f"First step of every arm, untrained teacher: {len(rows)} values for the regression test"
    return tag("details", tag("summary", words), table(rows, ("term", "value"), left=False))


def record_html(document: Mapping[str, Any]) -> str:
    """The record as an HTML table: metrics with tolerances, then verdicts, then where it was made."""
    rows = [
        (name, _number(m), "exact" if m["tolerance"] is None else format(m["tolerance"], "g"))
        for name, m in document["metrics"].items()
    ]
    verdicts = [
        f"{VERDICT_SIGNS.get(v.get('value'), '?')} {v.get('sentence', v['text'])}" for v in document["verdicts"]
    ]
    where = (
        f"python {document['versions']['python']}, torch {document['versions'].get('torch', '?')}, "
        f"{document['device']}, {document['threads']} thread(s), commit {str(document['commit'])[:12]}, "
        f"{document['durations']['seconds']:.0f} s"
    )
    first = [(name, _number(m)) for name, m in document.get("first_steps", {}).items()]
    return join(
        (
            table(rows, ("metric", "value", "tolerance"), caption="Recorded results", left=False),
            items(verdicts),
            _folded_first_steps(first) if first else "",
            tag("p", tag("small", where)),
        )
    )
