"""How things are timed here, and how a result looks.

On CPUs: process CPU seconds on one thread (``OMP_NUM_THREADS=1``), the candidates taking turns in one process, the
minimum over the turns: neighbours on the machine and its clock then hit all of them alike. On a CUDA card wall seconds
take their place, from a device that has finished to a device that has finished. Nothing here is a test: values are
asserted, times are reported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of the table.

    Attributes:
        what: the thing measured, with its sizes. against: the reference, or the unit's meaning.
        value: the figure. goal: what it should reach; ``None``: for information.
        sense: ``"<="`` or ``">="``. unit: printed after the figure.
        detail: what the figure was made of (seconds, megabytes), for the json.
    """

    what: str
    against: str
    value: float
    goal: float | None = None
    sense: str = "<="
    unit: str = "x"
    detail: Mapping[str, float | list[float]]

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; ``None`` without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.sense == "<=" else self.value >= self.goal

    def cells(self) -> tuple[str, str, str, str, str]:
        """The row as text: what, against, value, goal, verdict."""
        shown = (
            f"{self.value:.2e}"
            if 0 < abs(self.value) < 1e-2
            else f"{self.value:.3f}"
            if self.value < 2
            else (f"{self.value:.1f}")
        )
        goal = "" if self.goal is None else f"{self.sense} {self.goal:g} {self.unit}".rstrip()
        verdict = {True: "yes", False: "**no**", None: ""}[self.reached]
        return self.what, self.against, f"{shown} {self.unit}".rstrip(), goal, verdict


def write_rows(rows: list[Row], path: Path) -> None:
    """Rows as json: their fields and whether the goal was reached."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(r) | {"detail": dict(r.detail), "reached": r.reached} for r in rows], indent=1))


def read_rows(path: Path) -> list[Row]:
    """What :func:`write_rows` wrote."""
    return [Row(**{k: v for k, v in entry.items() if k != "reached"}) for entry in json.loads(path.read_text())]


def markdown(rows: list[Row]) -> str:
    """The table, as it stands in ``docs/performance.md``."""
    header = ("what", "against", "measured", "goal", "reached")
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (header, ("---",) * len(header), *(row.cells() for row in rows))
    )


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU seconds of this process during one call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def device_seconds(function: Callable[[], object], device: str = "cpu") -> float:
    """:func:`cpu_seconds` of one call; on ``"cuda"`` wall seconds until the card has done all of it."""
    if device == "cpu":
        return cpu_seconds(function)
    torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def interleaved(
    candidates: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 1, device: str = "cpu"
) -> dict[str, float]:
    """Minimum of :func:`device_seconds` per candidate over ``repeats`` rounds in which all take their turn."""
    torch.set_num_threads(1)
    for _ in range(warm_up):
        for function in candidates.values():
            function()
    rounds = [{n: device_seconds(function, device) for n, function in candidates.items()} for _ in range(repeats)]
    return {name: min(r[name] for r in rounds) for name in candidates}


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Largest difference over the largest entry of the truth, both read as float64."""
    value, truth = value.detach().double(), truth.detach().double()
    return float((value - truth).abs().max() / truth.abs().max())


def must_agree(what: str, value: Tensor, truth: Tensor, tolerance: float = 1e-6) -> float:
    """:func:`relative_error`; ``AssertionError`` where it exceeds ``tolerance``: a fast wrong answer is no result."""
    error = relative_error(value, truth)
    if not error <= tolerance:
        raise AssertionError(f"{what}: off by {error:.2e} relative, allowed is {tolerance:g}.")
    return error
