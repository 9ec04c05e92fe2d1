"""The routed loss of MST-Distill, forward and backward, against a plain loop and ``kl_div`` on gathered logits.

Every sample has teachers of its own, so a loop over samples and teachers is the formulation that can be read off the
paper; gathering the chosen logits is the one without a loop. Value and gradient are held against the loop before
anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.methods.mst_distill import routed_distillation_loss

from .protocol import Row, interleaved, must_agree

SIZES = ((256, 10), (256, 1000), (64, 50_000))
EXPERTS, TOP_K, TEMPERATURE = 4, 2, 4.0
Problem = tuple[Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loop(s: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """Sample by sample, teacher by teacher."""
    total = s.new_zeros(())
    for n in range(len(s)):
        q = (s[n] / TEMPERATURE).log_softmax(0)
        for e in g[n].topk(TOP_K).indices.tolist():
            p = (z[e, n] / TEMPERATURE).softmax(0)
            total = total + (p * (p.log() - q)).sum()
    return TEMPERATURE**2 * total / (len(s) * TOP_K)


def gathered(s: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """One teacher of all samples after the other, ``kl_div`` with ``batchmean``."""
    chosen, here = g.topk(TOP_K, dim=1).indices, torch.arange(len(s))
    q = F.log_softmax(s / TEMPERATURE, dim=1)
    parts = [
        F.kl_div(q, F.softmax(z[chosen[:, i], here] / TEMPERATURE, dim=1), reduction="batchmean") for i in range(TOP_K)
    ]
    return TEMPERATURE**2 * torch.stack(parts).mean()


def ours(s: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """The library's."""
    return routed_distillation_loss(s, z, g, top_k=TOP_K, temperature=TEMPERATURE)[0]


AGAINST: dict[str, tuple[str, Loss]] = {
    "a loop over samples and teachers": ("loop", loop),
    "`kl_div` on gathered logits": ("gathered", gathered),
}


def problem(samples: int, classes: int, seed: int = 0) -> Problem:
    """Student logits (a leaf), teachers' logits, gate."""
    g = torch.Generator().manual_seed(seed)
    s, z = 2 * torch.randn(samples, classes, generator=g), 3 * torch.randn(EXPERTS, samples, classes, generator=g)
    return s.requires_grad_(), z, torch.randn(samples, EXPERTS, generator=g).softmax(1)


def check(samples: int, classes: int, mine: Loss = ours) -> None:
    """Assert that all three give the same value and gradient to 1e-6, in float64 and float32."""
    for dtype in (torch.float64, torch.float32):
        found = []
        for loss in (mine, gathered, loop):
            s, z, g = (v.detach().to(dtype) for v in problem(samples, classes))
            value = loss(s.requires_grad_(), z, g)
            found.append((value.detach(), torch.autograd.grad(value, s)[0]))
        for other in found[:2]:
            for part, value, wanted in zip(("value", "gradient"), other, found[2], strict=True):
                must_agree(f"{part} of the routed loss in {dtype} at ({samples}, {classes})", value, wanted)


def stepping(loss: Loss, sets: list[Problem]) -> Callable[[], None]:
    """Forward and backward of the next of the input sets."""
    turns = cycle(sets)

    def step() -> None:
        s, z, g = next(turns)
        s.grad = None
        loss(s, z, g).backward()

    return step


def measure(*, quick: bool = False) -> list[Row]:
    """Two rows per size."""
    rows = []
    for samples, classes in ((8, 20),) if quick else SIZES:
        check(samples, classes)
        sets = [problem(samples, classes, seed) for seed in range(3)]
        seconds = interleaved(
            {name: stepping(loss, sets) for name, loss in (*AGAINST.values(), ("ours", ours))},
            repeats=2 if quick else 12,
            warm_up=2,
        )
        rows += [
            Row(
                what=f"routed loss, {TOP_K} of {EXPERTS} teachers, ({samples}, {classes})",
                against=words,
                sense=">=",
                value=seconds[name] / seconds["ours"],
                goal=1.0,
                unit="x faster",
                detail={f"{k}_ms": 1e3 * v for k, v in seconds.items()},
            )
            for words, (name, _) in AGAINST.items()
        ]
    return rows
