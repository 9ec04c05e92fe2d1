"""What starting a notebook's kernel costs: CPU seconds of the kernel until torch, matplotlib and pandas are there."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from workbench.runs import run_notebook
from workbench.runs.pairing import notebook_text

from .protocol import Row

CODE = """# %%
import time
import lightning.fabric, matplotlib.pyplot, pandas, torch
from workbench.runs import record
record(seconds=time.process_time())
"""


def start_seconds(*, fork: bool) -> float:
    """CPU seconds of one kernel, forked or started as an ordinary process."""
    os.environ["KDW_FORK"] = "1" if fork else "0"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "start.ipynb"
        path.write_text(notebook_text(CODE), encoding="utf-8")
        run = run_notebook(path, runs_dir=folder)
        if not run.ok:
            raise RuntimeError(f"the kernel did not start: {json.dumps(run.to_dict(), default=str)}")
        return float(run.metrics["seconds"]["value"])


def measure(*, quick: bool = False) -> list[Row]:
    """Forked kernels beside ordinary ones, in turn; the process they are forked from is paid once per session."""
    pairs = [(start_seconds(fork=True), start_seconds(fork=False)) for _ in range(1 if quick else 5)]
    forked, ordinary = (min(side) for side in zip(*pairs, strict=True))
    return [
        Row(
            what="start of a notebook's kernel, libraries imported",
            against=f"an ordinary kernel: {ordinary:.1f} CPU s",
            value=forked,
            goal=1.0,
            unit="CPU s",
            detail={"forked_s": forked, "ordinary_s": ordinary},
        )
    ]
