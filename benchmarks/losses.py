"""KD, DKD, DIST, std-scaled KD and PLD, forward and backward, against their usual formulations.

The references write out the published formulas the way public code does (megvii-research/mdistiller for KD and DKD,
hunto/DIST_KD for DIST, hchoi71/MIX-KD for std-scaled KD, the listing of PLD's appendix with autograd through
``logcumsumexp``). Before anything is timed, value and gradient of the library are held against the reference in float64
on the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.functional.ranking import weighted_choice_loss
from kdcore.methods.mixup_kd import mixup_kd_loss
from kdcore.methods.pld import pld_loss, pld_weights, teacher_optimal_permutation
from kdcore.methods.vanilla_kd import dist_loss, dkd_loss, kd_loss

from .protocol import Row, interleaved, must_agree, relative_error

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Prepare = Callable[[Sequence[tuple[Tensor, Tensor, Tensor]]], Loss]
SIZES = ((256, 1000), (64, 50_000))
TEMPERATURE = 4.0


def kd_reference(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """``KLDivLoss(log_softmax, softmax)`` summed over classes, mean over samples, times ``T^2``."""
    kl = F.kl_div(F.log_softmax(s / TEMPERATURE, dim=1), F.softmax(t / TEMPERATURE, dim=1), reduction="none")
    return kl.sum(1).mean() * TEMPERATURE**2


def dkd_reference(s: Tensor, t: Tensor, labels: Tensor, alpha: float = 1.0, beta: float = 8.0) -> Tensor:
    """Two masks; (target, rest) by masked sums; the other classes by a softmax with 1000 taken off the target."""
    target = torch.zeros_like(s).scatter_(1, labels.unsqueeze(1), 1).bool()
    rest = torch.ones_like(s).scatter_(1, labels.unsqueeze(1), 0).bool()

    def binary(p: Tensor) -> Tensor:
        return torch.cat([(p * target).sum(1, keepdim=True), (p * rest).sum(1, keepdim=True)], dim=1)

    scale = TEMPERATURE**2 / len(labels)
    tckd = (
        F.kl_div(
            binary(F.softmax(s / TEMPERATURE, dim=1)).log(), binary(F.softmax(t / TEMPERATURE, dim=1)), reduction="sum"
        )
        * scale
    )
    nckd = (
        F.kl_div(
            F.log_softmax(s / TEMPERATURE - 1000.0 * target, dim=1),
            F.softmax(t / TEMPERATURE - 1000.0 * target, dim=1),
            reduction="sum",
        )
        * scale
    )
    return alpha * tckd + beta * nckd


def dist_reference(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Pearson as cosine of centred rows, the second time on the transposed probabilities."""

    def pearson(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    q, p = (s / TEMPERATURE).softmax(1), (t / TEMPERATURE).softmax(1)
    return TEMPERATURE**2 * ((1 - pearson(q, p).mean()) + (1 - pearson(q.t(), p.t()).mean()))


def pld_reference(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Sort, gather, ``logcumsumexp``, and autograd through all of it."""
    ranking = t.scatter(1, labels.unsqueeze(1), torch.inf).argsort(dim=1, descending=True, stable=True)
    ordered, weights = s.gather(1, ranking), t.softmax(1).gather(1, ranking)
    return (weights * (ordered.flip(1).logcumsumexp(1).flip(1) - ordered)).sum(1).mean()


def mixstd_reference(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Both logits over their ``torch.std``, cross-entropy with one-hot rows, ``KLDivLoss(log_softmax, softmax)``."""
    s, t = s / s.std(1, keepdim=True), t / t.std(1, keepdim=True)
    targets = F.one_hot(labels, s.shape[1]).to(s.dtype)
    ce = -(targets * F.log_softmax(s, dim=1)).sum(1).mean()
    kl = F.kl_div(F.log_softmax(s, dim=1), F.softmax(t, dim=1), reduction="none").sum(1).mean()
    return 0.1 * ce + 0.9 * kl


def cached_pld(sets: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Loss:
    """PLD where ranking and weights of the (unchanging) teacher were kept."""
    kept = {}
    for _, t, labels in sets:
        ranking = teacher_optimal_permutation(t, labels)
        kept[id(t)] = ranking, pld_weights(t, ranking)

    def loss(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        ranking, weights = kept[id(t)]
        return weighted_choice_loss(s.gather(1, ranking), weights).mean()

    return loss


def unprepared(loss: Loss) -> Prepare:
    """A loss that keeps nothing of the teacher."""
    return lambda sets: loss


#: name -> (reference, ours, goal)
PAIRS: dict[str, tuple[Loss, Prepare, float]] = {
    "KD": (kd_reference, unprepared(lambda s, t, y: kd_loss(s, t, temperature=TEMPERATURE)), 1.5),
    "DKD": (dkd_reference, unprepared(lambda s, t, y: dkd_loss(s, t, y, temperature=TEMPERATURE)), 2.0),
    "DIST": (dist_reference, unprepared(lambda s, t, y: dist_loss(s, t, temperature=TEMPERATURE)), 1.5),
    "MIXSTD": (mixstd_reference, unprepared(lambda s, t, y: mixup_kd_loss(s, t, y)), 1.0),
    "PLD": (pld_reference, unprepared(lambda s, t, y: pld_loss(s, t, y)), 6.0),
    "PLD, teacher's order cached": (pld_reference, cached_pld, 12.0),
}


def problem(
    samples: int, classes: int, seed: int = 0, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits (a leaf), teacher logits, labels; the same numbers on every device."""
    g = torch.Generator().manual_seed(seed)
    t = 3 * torch.randn(samples, classes, generator=g)
    s = 2 * torch.randn(samples, classes, generator=g) + 0.3 * t
    labels = torch.randint(classes, (samples,), generator=g)
    return s.to(device, dtype).requires_grad_(), t.to(device, dtype), labels.to(device)


def value_and_gradient(loss: Loss, s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one loss at ``s``."""
    leaf = s.detach().clone().requires_grad_()
    value = loss(leaf, t, labels)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def check(name: str, reference: Loss, ours: Prepare, samples: int, classes: int) -> dict[str, float]:
    """Assert equality to 1e-6 with the reference, value and gradient, in float64 and in float32.

    ``ours`` makes the loss from the inputs it may prepare for.

    Returned are the float32 errors of both against float64: with 50 000 classes the softmax itself costs PLD more than
    1e-6 in either, so the truth cannot be what float32 is held against.
    """
    s, t, labels = problem(samples, classes)
    truth = value_and_gradient(reference, s.double(), t.double(), labels)
    theirs = value_and_gradient(reference, s, t, labels)
    for dtype, expected in ((torch.float64, truth), (torch.float32, theirs)):
        given = s.to(dtype), t.to(dtype), labels
        mine = value_and_gradient(ours([given]), *given)
        for part, value, wanted in zip(("value", "gradient"), mine, expected, strict=True):
            must_agree(f"{part} of {name} in {dtype} at ({samples}, {classes})", value, wanted)
    return {
        "error_value": relative_error(mine[0], truth[0]),
        "error_gradient": relative_error(mine[1], truth[1]),
        "reference_error_value": relative_error(theirs[0], truth[0]),
        "reference_error_gradient": relative_error(theirs[1], truth[1]),
    }


def stepping(loss: Loss, sets: list[tuple[Tensor, Tensor, Tensor]]) -> Callable[[], None]:
    """Forward and backward of the next of the input sets."""
    turns = cycle(sets)

    def step() -> None:
        s, t, labels = next(turns)
        s.grad = None
        loss(s, t, labels).backward()

    return step


def measure(*, quick: bool = False) -> list[Row]:
    """One row per loss and size."""
    rows = []
    for samples, classes in ((8, 20),) if quick else SIZES:
        sets = [problem(samples, classes, seed) for seed in range(3)]
        for name, (reference, ours, goal) in PAIRS.items():
            detail = check(name, reference, ours, samples, classes)
            seconds = interleaved(
                {"reference": stepping(reference, sets), "ours": stepping(ours(sets), sets)},
                repeats=2 if quick else 60 if classes < 5000 else 15,
                warm_up=3,
            )
            rows.append(
                Row(
                    what=f"{name}, ({samples}, {classes})",
                    against="the reference formulation",
                    sense=">=",
                    value=seconds["reference"] / seconds["ours"],
                    goal=goal,
                    unit="x faster",
                    detail=detail | {f"{k}_ms": 1e3 * v for k, v in seconds.items()},
                )
            )
    return rows
