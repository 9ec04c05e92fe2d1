"""The losses of MST-Distill and DHO, forward and backward, against what public code would write.

* The routed loss, where every sample has teachers of its own: against a loop over samples and teachers, and against
  ``kl_div`` on gathered logits, one chosen teacher of all samples after the other.
* The co-training loss of three networks: against six times ``kl_div`` with a softmax for each.
* The dual-head loss: against cross-entropy and two times ``kl_div``, as the authors' code writes it.

Value and gradient are held against the first reference before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.functional.dual_heads import dho_loss
from kdcore.methods.mst_distill import cotraining_loss, routed_distillation_loss

from .protocol import Row, interleaved, must_agree

SIZES = ((256, 10), (256, 1000), (64, 50_000))
EXPERTS, TOP_K, TEMPERATURE = 4, 2, 4.0
#: The first input is what learns.
Loss = Callable[..., Tensor]


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


def routed(s: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """The library's."""
    return routed_distillation_loss(s, z, g, top_k=TOP_K, temperature=TEMPERATURE)[0]


def six_divergences(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each network and ``kl_div`` to each other one, nothing detached."""
    total = logits.new_zeros(())
    for i, s in enumerate(logits):
        total = total + F.cross_entropy(s, labels)
        for t in (logits[j] for j in range(3) if j != i):
            q, p = F.log_softmax(s / TEMPERATURE, dim=1), F.softmax(t / TEMPERATURE, dim=1)
            total = total + TEMPERATURE**2 * F.kl_div(q, p, reduction="batchmean")
    return total


def cotrained(logits: Tensor, labels: Tensor) -> Tensor:
    """The library's."""
    s, a, m = logits
    return cotraining_loss(s, a, m, labels, temperature=TEMPERATURE)["loss"]


def two_divergences(heads: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of one head, ``kl_div`` of the other on labelled and on unlabelled samples."""
    ce, *students = heads
    total = 0.5 * F.cross_entropy(ce, labels)
    for s, t in zip(students, teacher, strict=True):
        q, p = F.log_softmax(s / TEMPERATURE, dim=1), F.softmax(t / TEMPERATURE, dim=1)
        total = total + 0.5 * TEMPERATURE**2 * F.kl_div(q, p, reduction="batchmean")
    return total


def dual_heads(heads: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """The library's."""
    ce, labelled, unlabelled = heads
    known, free = teacher
    return dho_loss(ce, labelled, unlabelled, known, free, labels, temperature=TEMPERATURE)["loss"]


@dataclass(frozen=True)
class Contest:
    """One loss, its references by what the table calls them, and its inputs."""

    ours: Loss
    against: dict[str, Loss]
    problem: Callable[[int, int, int], tuple[Tensor, ...]]


def routing_problem(samples: int, classes: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Student logits (a leaf), teachers' logits, gate."""
    g = torch.Generator().manual_seed(seed)
    s, z = 2 * torch.randn(samples, classes, generator=g), 3 * torch.randn(EXPERTS, samples, classes, generator=g)
    return s.requires_grad_(), z, torch.randn(samples, EXPERTS, generator=g).softmax(1)


def cotraining_problem(samples: int, classes: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Logits of three networks (a leaf), labels."""
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, samples, classes, generator=g)
    return logits.requires_grad_(), torch.randint(classes, (samples,), generator=g)


def dual_head_problem(samples: int, classes: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Logits of the CE head and twice the KD head (a leaf), the teacher's, labels."""
    g = torch.Generator().manual_seed(seed)
    heads, teacher = (
        2 * torch.randn(3, samples, classes, generator=g),
        3 * torch.randn(2, samples, classes, generator=g),
    )
    return heads.requires_grad_(), teacher, torch.randint(classes, (samples,), generator=g)


CONTESTS = {
    f"routed loss, {TOP_K} of {EXPERTS} teachers": Contest(
        routed, {"a loop over samples and teachers": loop, "`kl_div` on gathered logits": gathered}, routing_problem
    ),
    "co-training loss": Contest(cotrained, {"six times `kl_div`": six_divergences}, cotraining_problem),
    "dual-head loss": Contest(dual_heads, {"cross-entropy and `kl_div`": two_divergences}, dual_head_problem),
}


def check(name: str, samples: int, classes: int, ours: Loss | None = None) -> None:
    """Assert that all give the same value and gradient to 1e-6, in float64 and float32."""
    contest = CONTESTS[name]
    first, *others = contest.against.values()
    for dtype in (torch.float64, torch.float32):
        found = []
        for loss in (first, *others, ours or contest.ours):
            made = contest.problem(samples, classes, 0)
            leaf, *rest = (v.detach().to(dtype) if v.is_floating_point() else v for v in made)
            value = loss(leaf.requires_grad_(), *rest)
            found.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
        for other in found[1:]:
            for part, value, wanted in zip(("value", "gradient"), other, found[0], strict=True):
                must_agree(f"{part} of {name} in {dtype} at ({samples}, {classes})", value, wanted)


def stepping(loss: Loss, sets: list[tuple[Tensor, ...]]) -> Callable[[], None]:
    """Forward and backward of the next of the input sets."""
    turns = cycle(sets)

    def step() -> None:
        leaf, *rest = next(turns)
        leaf.grad = None
        loss(leaf, *rest).backward()

    return step


def measure(*, quick: bool = False) -> list[Row]:
    """A row per loss, size and reference."""
    rows = []
    for name, contest in CONTESTS.items():
        for samples, classes in ((8, 20),) if quick else SIZES:
            check(name, samples, classes)
            sets = [contest.problem(samples, classes, seed) for seed in range(3)]
            candidates = {"ours": contest.ours, **contest.against}
            seconds = interleaved(
                {n: stepping(loss, sets) for n, loss in candidates.items()}, repeats=2 if quick else 12, warm_up=2
            )
            rows += [
                Row(
                    what=f"{name}, ({samples}, {classes})",
                    against=words,
                    sense=">=",
                    value=seconds[words] / seconds["ours"],
                    goal=1.0,
                    unit="x faster",
                    detail={f"{k}_ms": 1e3 * v for k, v in seconds.items()},
                )
                for words in contest.against
            ]
    return rows
