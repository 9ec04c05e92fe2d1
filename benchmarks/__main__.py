"""``python -m benchmarks [part ...]``: each part in a process of its own, then the table and the json."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from .protocol import Row, markdown, read_rows, write_rows

PARTS = ("cka", "losses", "step", "imports", "kernels", "occlusion", "specialized", "selection")
_ROOT = Path(__file__).resolve().parent.parent


def run_part(part: str, *, quick: bool) -> list[Row]:
    """The rows of one part, measured by a fresh interpreter on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks", part, "--here", "--out", str(out), *["--quick"] * quick]
        subprocess.run(command, cwd=_ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        return read_rows(out)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--out", type=Path, default=_ROOT / "runs" / "benchmarks.json", help="where the json goes")
    parser.add_argument("--quick", action="store_true", help="small sizes and few turns: does it run?")
    parser.add_argument("--here", action="store_true", help="in this process (one part), without the table")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}.")
    if options.here:
        if len(options.parts) != 1:
            parser.error("--here takes exactly one part.")
        write_rows(import_module(f"benchmarks.{options.parts[0]}").measure(quick=options.quick), options.out)
        return
    rows = []
    for part in options.parts or PARTS:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        rows += run_part(part, quick=options.quick)
    write_rows(rows, options.out)
    print(markdown(rows))
    short = sum(row.reached is False for row in rows)
    print(
        f"\n{sum(row.reached is True for row in rows)} goals reached, {short} not; load average "
        f"{', '.join(f'{load:.1f}' for load in os.getloadavg())}; json in {options.out}"
    )


if __name__ == "__main__":
    main()
