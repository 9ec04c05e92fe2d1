"""Queries of PCoreSet against the loop of the released code, which takes all distances anew for every pick.

The picks must be the same, in their order, before anything is timed.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kdcore.methods.pcoreset import pcoreset_select

from .protocol import Row, interleaved

#: Pool, labelled samples, classes, queries.
SIZES = ((2_000, 100, 10, 50), (2_000, 100, 100, 50))


def all_anew(pool: Tensor, labeled: Tensor, budget: int) -> Tensor:
    """One pick at a time, each after all distances to everything that is known."""
    picks: list[int] = []
    for _ in range(budget):
        nearest = torch.cdist(pool, torch.cat([labeled, pool[picks]])).amin(1)
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
    return torch.tensor(picks)


def problem(samples: int, labeled: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions of a pool and of what is labelled."""
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(samples + labeled, classes, generator=g).mul(2).softmax(1)
    return p[:samples], p[samples:]


def check(samples: int, labeled: int, classes: int, budget: int) -> None:
    """Assert equal picks, in float64, where no rounding decides between neighbours."""
    pool, known = (v.double() for v in problem(samples, labeled, classes))
    ours, theirs = pcoreset_select(pool, known, budget), all_anew(pool, known, budget)
    if not torch.equal(ours, theirs):
        raise AssertionError(f"picks of PCoreSet: {ours.tolist()} where the reference has {theirs.tolist()}")


def measure(*, quick: bool = False) -> list[Row]:
    """A row per size."""
    rows = []
    for samples, labeled, classes, budget in ((60, 5, 4, 6),) if quick else SIZES:
        check(min(samples, 500), labeled, classes, min(budget, 20))
        pool, known = problem(samples, labeled, classes)
        ways = {"ours": pcoreset_select, "anew": all_anew}
        turns = {name: partial(way, pool, known, budget) for name, way in ways.items()}
        seconds = interleaved(turns, repeats=2 if quick else 3, warm_up=1)
        rows.append(
            Row(
                what=f"PCoreSet, {budget} queries from {samples}, {labeled} labelled, {classes} classes",
                against="all distances anew for each",
                sense=">=",
                value=seconds["anew"] / seconds["ours"],
                goal=3.0,
                unit="x faster",
                detail={f"{name}_s": value for name, value in seconds.items()},
            )
        )
    return rows
