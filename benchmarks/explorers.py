"""CPU seconds that the kernel spends on one move of a control, for every explorer of every lesson.

Each lesson runs in a process of its own with its quick settings; then every control of its explorers is moved and the
time of one answer is taken: values in, pictures as data out, as the page gets them. ``python -m benchmarks.explorers``
prints a table by explorer; as a part of ``python -m benchmarks`` it gives the median and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from .protocol import Row

_ROOT = Path(__file__).resolve().parent.parent
#: Positions that a slider is moved to, and values that a choice is given, in turn.
_POSITIONS = 5


def lessons() -> list[Path]:
    """Sources of all notebooks that have an explorer."""
    found = sorted((_ROOT / "notebooks").rglob("*.py"))
    return [p for p in found if "Explorer(" in p.read_text(encoding="utf-8")]


def moves(explorer: Any) -> Iterator[dict[str, Any]]:
    """Values after each move of each control, the others being where they start."""
    start = {n: c.value for n, c in explorer.controls.items()}
    for name, control in explorer.controls.items():
        if not control.shown(start):
            continue
        for k in range(_POSITIONS):
            if control.kind == "slider":
                share = (k + 0.5) / _POSITIONS
                value = control.low * (control.high / control.low) ** share if control.log else None
                value = control.low + share * (control.high - control.low) if value is None else value
                yield {**start, name: control.check(round(value) if control.integer else value)}
            else:
                options = list(control.entries.values()) if control.kind == "dropdown" else [False, True]
                yield {**start, name: options[k % len(options)]}


def measure_lesson(path: Path) -> list[dict[str, Any]]:
    """Run a lesson here and time its explorers: name, number of moves, median and largest CPU seconds."""
    import jupytext

    from workbench.panels import Explorer
    from workbench.panels.base import Panel
    from workbench.panels.widgets import PictureBox
    from workbench.views import View

    made: list[Explorer] = []
    original = Explorer.__init__

    def remember(self: Explorer, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        made.append(self)

    Explorer.__init__ = remember
    Panel._ipython_display_ = lambda self: None  # type: ignore[method-assign]
    View._repr_mimebundle_ = lambda self, include=None, exclude=None: {}
    _run(jupytext.read(path), path)
    rows = []
    for explorer in made:
        box = PictureBox()
        explorer._box = box
        times = []
        for values in moves(explorer):
            before = time.process_time()
            explorer._draw(values)
            times.append(time.process_time() - before)
            if explorer.state.error is not None:
                raise RuntimeError(f"{path.stem}, {explorer.title!r} at {values!r}") from explorer.state.error
        rows.append({"lesson": path.stem, "explorer": explorer.title, "moves": len(times), "median": median(times),
                     "largest": max(times), "bytes": _bytes(box)})  # fmt: skip
    return rows


def _run(notebook: Any, path: Path) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    os.chdir(path.parent)
    shell = InteractiveShell.instance()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            result = shell.run_cell(cell.source, silent=True)
            result.raise_error()


def _bytes(box: Any) -> int:
    """Size of one message to the page."""

    def size(value: Any) -> int:
        if isinstance(value, bytes):
            return len(value)
        if isinstance(value, dict):
            return sum(len(str(k)) + size(v) for k, v in value.items())
        return sum(size(v) for v in value) if isinstance(value, list | tuple) else len(str(value))

    return size(box.views)


def measure_all(only: list[str] | None = None) -> list[dict[str, Any]]:
    """All lessons, each in a fresh interpreter on one thread."""
    rows: list[dict[str, Any]] = []
    for path in lessons():
        if only and path.stem not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            command = [sys.executable, "-m", "benchmarks.explorers", "--here", str(path), "--out", str(out)]
            env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
            subprocess.run(command, cwd=_ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
            rows += json.loads(out.read_text())
    return rows


def measure(*, quick: bool = False) -> list[Row]:
    """Median and largest of the explorers' medians."""
    rows = measure_all(["vanilla_kd"] if quick else None)
    times = [r["median"] for r in rows]
    what = f"a move in an explorer ({len(rows)} explorers of all lessons)"
    return [
        Row(what=f"{what}: median", against="the kernel alone", value=median(times), goal=0.1, unit="CPU s", detail={}),
        Row(what=f"{what}: largest", against="the kernel alone", value=max(times), goal=0.3, unit="CPU s", detail={}),
    ]


def main() -> None:
    """The table by explorer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explorers", description=__doc__)
    parser.add_argument("lessons", nargs="*", help="file names without ending; all by default")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=_ROOT / "runs" / "explorers.json", help="where the json goes")
    options = parser.parse_args()
    rows = measure_lesson(options.here.resolve()) if options.here else measure_all(options.lessons or None)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows))
    if options.here:
        return
    print("| lesson | explorer | moves | median, CPU s | largest, CPU s | KB a move |")
    print("| --- | --- | --- | --- | --- | --- |")
    for r in rows:
        print(
            f"| {r['lesson']} | {r['explorer']} | {r['moves']} | {r['median']:.3f} | {r['largest']:.3f} | "
            f"{r['bytes'] / 1000:.0f} |"
        )
    print(
        f"\nmedian {median(r['median'] for r in rows):.3f} CPU s, largest median {max(r['median'] for r in rows):.3f}"
    )


if __name__ == "__main__":
    main()
