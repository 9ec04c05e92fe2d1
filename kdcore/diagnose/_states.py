"""What a model depends on: what it does not look at, the state of its modules, its company in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..functional.agreement import paired_gain
from ._changes import chain, greys
from ._pair import ROLES, Net, Role, Transform
from ._probes import CHANCE, LEAST_GAIN, SCREEN, Gain
from ._sample import Sample
from ._weights import BATCH_NORMS

DROPOUTS = (nn.modules.dropout._DropoutNd,)


def _views(x: Tensor) -> Iterator[tuple[str, Transform]]:
    """Changes that take something away from an image, with what they take."""
    middle = x.mean((0, 2, 3), keepdim=True)
    if x.shape[1] == 3:
        yield "colour", greys
    for c in range(x.shape[1] if x.shape[1] > 1 else 0):
        yield f"channel {c}", partial(_without_channel, channel=c, value=float(middle[0, c]))
    height, width = x.shape[2:]
    rim = height // 8, width // 8
    if min(rim) >= 1 and min(height, width) >= 16:
        yield "the rim of the image", partial(_without_rim, rim=rim, colour=middle)


def _without_channel(x: Tensor, channel: int, value: float) -> Tensor:
    return x.index_fill(1, torch.tensor([channel], device=x.device), value)


def _without_rim(x: Tensor, rim: tuple[int, int], colour: Tensor) -> Tensor:
    hidden = colour.expand_as(x).clone()
    inner = (slice(None), slice(None), slice(rim[0], x.shape[2] - rim[0]), slice(rim[1], x.shape[3] - rim[1]))
    hidden[inner] = x[inner]
    return hidden


def unseen(nets: Mapping[Role, Net], sample: Sample, logits: Mapping[Role, Tensor]) -> list[tuple[Role, str, float]]:
    """What one model does not look at and the other does: (role, what, movement of the other's logits).

    Moved means by more than a hundredth of the logits' spread (median over samples); not looked at, by less than a
    hundred-thousandth in every sample.
    """
    if not sample.is_image:
        return []
    few = sample.part(slice(0, SCREEN))
    found: list[tuple[Role, str, float]] = []
    for what, change in _views(few.x):
        if float((change(few.x) - few.x).abs().max()) <= 1e-3 * float(few.x.abs().max()):
            continue  # the images have none of it
        moved: dict[Role, Tensor] = {}
        for role, net in nets.items():
            before = logits[role][: len(few)]
            off = net.over(few.batches, chain(change, net.transform)) - before
            moved[role] = off.abs().amax(1) / before.std().clamp_min(1e-12)
        for role, other in zip(ROLES, ROLES[::-1], strict=True):
            if float(moved[role].max()) < 1e-5 and float(moved[other].median()) > 0.01:
                found.append((role, what, float(moved[other].median())))
    return found


# ---------------------------------------------------------------------------------------------------- state of a module


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch normalisations of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, BATCH_NORMS)}


def tracked_norms(model: nn.Module) -> list[nn.Module]:
    """Those of them that keep running statistics."""
    return [m for m in batch_norms(model).values() if getattr(m, "running_mean", None) is not None]


def untouched(model: nn.Module) -> bool:
    """Whether running statistics are as they were made (zeros and ones): nothing but a reset leaves them so."""
    return any(
        bool((m.get_buffer("running_mean") == 0).all()) and bool((m.get_buffer("running_var") == 1).all())
        for m in tracked_norms(model)
    )


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use the statistics of the batch; the running ones are not changed (their momentum is 0)."""
    norms = [(m, m.momentum, m.training) for m in batch_norms(model).values()]
    try:
        for module, _, _ in norms:
            module.train()
            setattr(module, "momentum", 0.0)  # noqa: B010 (nn.Module's attribute type is wider)
        yield
    finally:
        for module, momentum, training in norms:
            module.train(training)
            setattr(module, "momentum", momentum)  # noqa: B010


def try_batch_statistics(net: Net, sample: Sample, right: Tensor | None, logits: Tensor) -> tuple[list[Gain], float]:
    """Batch norms with the statistics of the batch: does the model get better, and how many answers change?

    Returns:
        The gain (if any), and the share of the first samples whose class changes.
    """
    if not tracked_norms(net.model) or sample.batch_size < 4:
        return [], 0.0
    first = sample.part(slice(0, 2 * sample.batch_size))
    with batch_statistics(net.model):
        few = net.over(first.batches)
    changed = float((few.argmax(1) != logits[: len(few)].argmax(1)).double().mean())
    if sample.labels is None or right is None:
        return [], changed
    assert first.labels is not None
    if int((few.argmax(1) == first.labels).sum()) <= int(right[: len(few)].sum()):
        return [], changed
    with batch_statistics(net.model):
        scores = net.over(sample.batches)
    after = scores.argmax(1) == sample.labels.cpu()
    found = paired_gain(right, after)
    if found.gain < LEAST_GAIN or found.p > CHANCE:
        return [], changed
    return [
        Gain(
            role=net.role,
            code="batch_norm_statistics",
            words="batch norms that use the batch's statistics",
            before=float(right.double().mean()),
            after=float(after.double().mean()),
            samples=len(sample),
            p=found.p,
            logits=scores,
            proven=untouched(net.model),
        )
    ], changed


def depends_on_batch(net: Net, sample: Sample, logits: Tensor) -> tuple[float, float]:
    """How much an answer depends on its neighbours in the batch, and on chance.

    Returns:
        Largest change of a logit when the same samples come in other company, and when they come again unchanged;
        both as a share of the logits' standard deviation.
    """
    size = sample.batch_size
    if len(sample) < 2 * size:
        return 0.0, 0.0
    scale = float(logits.std()) or 1.0
    rows = torch.arange(2 * size).view(2, size).T.flatten()[:size]  # half of the first batch, half of the second
    mixed = net.logits(sample.x[rows])
    again = net.logits(sample.x[:size])
    once_more = net.logits(sample.x[:size])
    return float((mixed - logits[rows]).abs().max()) / scale, float((again - once_more).abs().max()) / scale


def readable(name: str) -> str:
    """A sub-module's name in a sentence."""
    return name or "the model itself"
