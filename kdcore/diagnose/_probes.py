"""Counterfactuals: would the model be right if its input, its statistics or its class names were others?

Each probe changes one thing and asks the model again. A change is chosen on a small part of the sample and judged on
the rest, so that trying many costs no false alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from ..functional.agreement import best_matching, confusion_counts, paired_gain
from ..inputs import Normalize
from ._pair import Net, Role, Sample, Transform, is_unit

#: Samples on which the candidates are compared; the best few are judged on the others.
SCREEN = 32
#: Samples on which a finalist must hold up before it is judged on all the rest.
QUICK = 64
#: A change counts when it raises accuracy by at least this much, with at most this probability by chance (one-sided
#: McNemar; about 0.05 over the two dozen candidates).
LEAST_GAIN, CHANCE = 0.03, 0.002
#: Below this accuracy (or this far behind the other model) scales and offsets of the input are searched as well.
WEAK, BEHIND = 0.7, 0.1

STATISTICS: dict[int, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    3: {"the ImageNet mean and standard deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "the CIFAR-10 mean and standard deviation": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "the range -1 to 1": ((0.5,), (0.5,))},
    1: {"the MNIST mean and standard deviation": ((0.1307,), (0.3081,)), "the range -1 to 1": ((0.5,), (0.5,))},
}
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
DROPOUTS = (nn.modules.dropout._DropoutNd,)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A change that makes a model right more often.

    Attributes:
        role: which model. code: what the change says is wrong. words: the change, to be read after "with".
        before, after: accuracy on the same samples. samples: how many. p: by chance (one-sided McNemar).
        detail: what else is worth knowing (classes, names).
    """

    role: Role
    code: str
    words: str
    before: float
    after: float
    samples: int
    p: float
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Change:
    """A candidate: a function of the loader's input that takes the place of the model's own transform."""

    code: str
    words: str
    apply: Transform


# ----------------------------------------------------------------------------------------------------------- candidates

def _channels(x: Tensor) -> Tensor:
    """Smallest and largest value per channel, ``(2, C)``."""
    flat = x.transpose(0, 1).flatten(1)
    return torch.stack([flat.min(1).values, flat.max(1).values])


def _affine(scale: float | Tensor, shift: float | Tensor) -> Transform:
    return lambda x: x * torch.as_tensor(scale).to(x) + torch.as_tensor(shift).to(x)


def _per_channel(x: Tensor, values: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _undo(norm: Normalize) -> Transform:
    return lambda x: x * _per_channel(x, norm.std.to(x)) + _per_channel(x, norm.mean.to(x))


def _chain(first: Transform, second: Transform) -> Transform:
    return lambda x: second(first(x))


def _normalisations(net: Net, other: Net, x: Tensor) -> Iterator[tuple[str, Transform]]:
    """Other scalings of the input, with what they are."""
    low, high = float(x.min()), float(x.max())
    unit = nn.Identity() if is_unit(x) else _affine(1 / max(high - low, 1e-12), -low / max(high - low, 1e-12))
    yield "the input as the loader gives it", nn.Identity()
    if not isinstance(net.stated, nn.Identity):
        yield "the normalisation its configuration states", _chain(unit, net.stated.cpu() if not x.is_cuda else
                                                                   net.stated)
    yield f"the input that the {other.role} gets", other.transform
    if not is_unit(x):
        yield "values scaled back to 0 to 1", unit
        ends = _channels(x)
        span = (ends[1] - ends[0]).clamp_min(1e-12)
        yield "values scaled back to 0 to 1 per channel", _affine(_per_channel(x, 1 / span),
                                                                  _per_channel(x, -ends[0] / span))
    for words, (mean, std) in STATISTICS.get(x.shape[1], STATISTICS[1] if x.ndim == 4 else {}).items():
        if len(mean) in (1, x.shape[1]):
            yield words, _chain(unit, Normalize(mean, std))
            yield f"{words} taken back", _undo(Normalize(mean, std))
    flat = x.transpose(0, 1).flatten(1)
    mean_, std_ = flat.mean(1), flat.std(1).clamp_min(1e-6)
    yield "the data's own mean and standard deviation", _affine(_per_channel(x, 1 / std_),
                                                                _per_channel(x, -mean_ / std_))
    yield "values of 0 to 255", _chain(unit, _affine(255.0, 0.0))
    yield "values divided by 255", _affine(1 / 255, 0.0)
    yield "dark and light exchanged", _affine(-1.0, low + high)


def _geometries(x: Tensor) -> Iterator[tuple[str, Transform]]:
    yield "the image mirrored", lambda x: x.flip(3)
    yield "the image upside down", lambda x: x.flip(2)
    yield "the image turned by 180 degrees", lambda x: x.flip((2, 3))
    if x.shape[2] == x.shape[3]:
        yield "rows and columns exchanged", lambda x: x.transpose(2, 3).contiguous()
        yield "the image turned by 90 degrees", lambda x: x.rot90(1, (2, 3)).contiguous()
        yield "the image turned by 270 degrees", lambda x: x.rot90(3, (2, 3)).contiguous()


def _orders(x: Tensor) -> Iterator[tuple[str, Transform]]:
    channels = x.shape[1]
    orders = list(permutations(range(3)))[1:] if channels == 3 else [tuple(reversed(range(channels)))]
    for order in orders:
        name = "".join("RGB"[c] for c in order) if channels == 3 else "reversed"
        yield f"the channels in the order {name}", partial(torch.index_select, dim=1, index=torch.tensor(order))


def candidates(net: Net, other: Net, sample: Sample) -> list[Change]:
    """Every change of the input that is tried on a model, without those that change nothing or repeat another."""
    x = sample.x
    if not x.is_floating_point() or x.ndim < 2:
        return []
    found = [Change("input_normalization_mismatch", words, change) for words, change in _normalisations(net, other, x)]
    if sample.is_image:
        found += [Change("input_geometry_mismatch", words, _chain(change, net.transform))
                  for words, change in _geometries(x)]
        if x.shape[1] > 1:
            found += [Change("swapped_channels", words, _chain(change, net.transform)) for words, change in _orders(x)]
    return _distinct(found, net, x[:2])


def scalings(net: Net, sample: Sample) -> list[Change]:
    """A grid of scales and offsets of the model's input, in units of its own mean and spread."""
    x = net.input(sample.x).float().cpu()
    mean, spread = float(x.mean()), float(x.std())
    found = []
    for scale in (1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 16.0):
        for offset in (-1.0, 0.0, 1.0):
            change = _affine(scale, mean + offset * spread - scale * mean)
            found.append(Change("input_normalization_mismatch",
                                f"an input {scale:g} times as strong, shifted by {offset:g} standard deviations",
                                _chain(net.transform, change)))
    return _distinct(found, net, sample.x[:2])


def _distinct(found: list[Change], net: Net, x: Tensor) -> list[Change]:
    seen, kept = [net.input(x).cpu()], []
    for change in found:
        value = change.apply(x.to(net.device)).cpu()
        if not any(value.shape == s.shape and torch.allclose(value, s, rtol=1e-4, atol=1e-5) for s in seen):
            seen.append(value)
            kept.append(change)
    return kept


# --------------------------------------------------------------------------------------------------------------- asking

def _right(net: Net, sample: Sample, transform: Transform | None = None) -> Tensor:
    assert sample.labels is not None
    return net.over(sample.batches, transform).argmax(1) == sample.labels


def try_changes(net: Net, changes: list[Change], sample: Sample, right: Tensor, *, finalists: int = 2) -> list[Gain]:
    """The changes that make the model right more often; per code the best.

    Args:
        sample: with labels. right: ``(N,)``, where the model is right as it is.
        finalists: how many per code go from the screening to the judgement.
    """
    if not changes or sample.labels is None or len(sample) < 2 * SCREEN:
        return []
    screen, rest = sample.part(slice(0, SCREEN)), sample.part(slice(SCREEN, None))
    # one batch size throughout: a model that looks at its batch must not profit from another size
    base = int(right[:SCREEN].sum())
    scored = [(int(_right(net, screen, change.apply).sum()) - base, -k) for k, change in enumerate(changes)]
    judged: dict[str, list[Gain]] = {}
    taken: dict[str, int] = {}
    quick = sample.part(slice(SCREEN, SCREEN + QUICK))
    for points, k in sorted(scored, reverse=True):
        change = changes[-k]
        if points < 1 or taken.get(change.code, 0) >= finalists:
            continue
        taken[change.code] = taken.get(change.code, 0) + 1
        start = _right(net, quick, change.apply)
        if paired_gain(right[SCREEN:SCREEN + QUICK], start).gain < LEAST_GAIN:
            continue
        after = torch.cat([start, _right(net, sample.part(slice(SCREEN + QUICK, None)), change.apply)]) if (
            len(rest) > QUICK) else start
        found = paired_gain(right[SCREEN:], after)
        if found.gain >= LEAST_GAIN and found.p <= CHANCE:
            judged.setdefault(change.code, []).append(Gain(
                role=net.role, code=change.code, words=change.words, p=found.p, samples=len(rest),
                before=float(right[SCREEN:].double().mean()), after=float(after.double().mean())))
    return [max(gains, key=lambda g: g.after) for gains in judged.values()]


def try_matching(role: Role, logits: Tensor, labels: Tensor, right: Tensor, names: tuple[str, ...]) -> list[Gain]:
    """Would the model be right under other class names? The renaming is found on one half, judged on the other."""
    classes, half = logits.shape[1], len(labels) // 2
    predicted = logits.argmax(1)
    after, moved = torch.zeros_like(right), torch.zeros(classes, dtype=torch.bool)
    for fit, judge in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        matching = best_matching(confusion_counts(predicted[fit], labels[fit], classes))
        after[judge] = predicted[judge] == matching[labels[judge]]
        moved |= matching != torch.arange(classes)
    found = paired_gain(right, after)
    if found.gain < LEAST_GAIN or found.p > CHANCE:
        return []
    whole = best_matching(confusion_counts(predicted, labels, classes))
    counts = confusion_counts(predicted, labels, classes)
    sure = [c for c in range(classes) if whole[c] != c and counts[c, whole[c]] > counts[c].sum() / 2]
    if not sure:
        return []
    renamed = {names[c]: names[int(whole[c])] for c in sure}
    return [Gain(role=role, code="label_permutation", words="its classes renamed", p=found.p, samples=len(labels),
                 before=float(right.double().mean()), after=float(after.double().mean()),
                 detail={"said_for": renamed})]


# ---------------------------------------------------------------------------------------------------- state of a module

def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch normalisations of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, BATCH_NORMS)}


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
    tracked = [m for m in batch_norms(net.model).values() if getattr(m, "running_mean", None) is not None]
    if not tracked or sample.batch_size < 4:
        return [], 0.0
    first = sample.part(slice(0, 2 * sample.batch_size))
    with batch_statistics(net.model):
        few = net.over(first.batches)
    changed = float((few.argmax(1) != logits[:len(few)].argmax(1)).double().mean())
    if sample.labels is None or right is None:
        return [], changed
    assert first.labels is not None
    if int((few.argmax(1) == first.labels).sum()) <= int(right[:len(few)].sum()):
        return [], changed
    with batch_statistics(net.model):
        after = net.over(sample.batches).argmax(1) == sample.labels
    found = paired_gain(right, after)
    if found.gain < LEAST_GAIN or found.p > CHANCE:
        return [], changed
    return [Gain(role=net.role, code="batch_norm_statistics", words="batch norms that use the batch's statistics",
                 before=float(right.double().mean()), after=float(after.double().mean()), samples=len(sample),
                 p=found.p)], changed


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


# ----------------------------------------------------------------------------------------- weights as at initialisation

@dataclass(frozen=True)
class Stage:
    """A part of a model, and whether it was ever trained.

    Attributes:
        name: of the sub-module. parameters: how many. frozen: share of them that does not ask for a gradient.
        initial: the weights are as an initialisation leaves them (or equal the initial weights given).
        why: what shows that.
    """

    name: str
    parameters: int
    frozen: float
    initial: bool
    why: str


def stages(model: nn.Module, initial: dict[str, Tensor] | None = None) -> list[Stage]:
    """The parts of a model with weights: its children; one that holds most of the model is opened."""
    found = []
    for name in _parts(model):
        module = model.get_submodule(name) if name else model
        own = dict(module.named_parameters())
        count = sum(p.numel() for p in own.values())
        frozen = sum(p.numel() for p in own.values() if not p.requires_grad) / count
        why = (_unchanged(name, own, initial) if initial is not None else _fresh(module))
        found.append(Stage(name, count, frozen, bool(why), why))
    return found


def fresh(parts: list[Stage]) -> bool:
    """Whether nothing in a model was trained: all stages with at least 64 weights are as initialised."""
    large = [s for s in parts if s.parameters >= 64]
    return bool(large) and all(s.initial for s in large)


def _parts(model: nn.Module, prefix: str = "") -> list[str]:
    children = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    children = {n: size for n, size in children.items() if size}
    if not children:
        return [prefix.rstrip(".")] if any(True for _ in model.parameters()) else []
    total, found = sum(children.values()), []
    for name, size in children.items():
        inner = model.get_submodule(name)
        inside = [m for m in inner.children() if any(True for _ in m.parameters())]
        open_it = size > 0.5 * total and len(inside) > 1 and all(any(True for _ in m.children()) for m in inside)
        alone = len(children) == 1 and bool(inside)
        found += _parts(inner, f"{prefix}{name}.") if open_it or alone else [f"{prefix}{name}"]
    return found


def _unchanged(stage: str, own: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> str:
    pairs = [(p.detach().cpu(), initial.get(f"{stage}.{n}" if stage else n)) for n, p in own.items()]
    known = [(p, q.cpu()) for p, q in pairs if q is not None]
    return "equal to the initial weights given" if known and all(torch.equal(p, q) for p, q in known) else ""


_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
_NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)


def _fresh(module: nn.Module) -> str:
    """Why the weights of a stage look untouched by training; empty where they do not, or where it cannot be said."""
    reasons: list[str] = []
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        if isinstance(part, _NORMS) and own:
            ones, zeros = own.get("weight"), own.get("bias")
            level = ones is None or bool((ones == 1).all()) or bool((ones == 0).all())  # 0: zero-initialised branches
            if not level or (zeros is not None and bool((zeros != 0).any())):
                return ""
            reasons.append("normalisation weights are exactly as at the start")
        elif isinstance(part, _WEIGHTED):
            why = _as_drawn(part)
            if why is None:
                return ""
            reasons += [why] if why else []
        elif own and any(p.numel() >= 64 for p in own.values()):
            return ""  # parameters of a kind whose initialisation is not known
    return "; ".join(dict.fromkeys(reasons))


def _as_drawn(layer: nn.Module) -> str | None:
    """The known initialisation that a layer's weights still follow; ``""`` too few to say, ``None`` trained."""
    from scipy.stats import kstest
    weight = layer.weight.detach().cpu().double()  # type: ignore[operator]
    bias = getattr(layer, "bias", None)
    fan_in, fan_out = weight[0].numel(), weight.shape[0] * weight[0, 0].numel()
    bound = fan_in ** -0.5
    inside = bias is None or bool((bias.detach().abs() <= bound * (1 + 1e-6)).all())
    still = bias is None or bool((bias == 0).all())
    values = weight.flatten()
    if len(values) < 64:
        return "" if inside else None
    draw = values[torch.linspace(0, len(values) - 1, min(len(values), 20_000)).long()].numpy()
    largest = float(values.abs().max())
    for name, edge, fits in (("uniform", bound, inside), ("Xavier uniform", (6 / (fan_in + fan_out)) ** 0.5, still)):
        if fits and 0.9 * edge <= largest <= edge * (1 + 1e-6) and (
                kstest(draw / edge, "uniform", (-1, 2)).pvalue > 1e-4):
            return f"weights follow torch's {name} initialisation and none exceeds its bound"
    if not still or len(values) < 1000:
        return None
    for std in ((2 / fan_in) ** 0.5, (2 / fan_out) ** 0.5, (2 / (fan_in + fan_out)) ** 0.5, 0.02, 0.01):
        if abs(float(values.std()) / std - 1) < 3 / (2 * len(values)) ** 0.5 and (
                kstest(draw / std, "norm").pvalue > 0.05):
            # many trained layers look normal: without a bias that is exactly 0 this shows nothing by itself
            return "" if bias is None else (f"weights follow a normal initialisation of standard deviation {std:.3g}, "
                                            "biases are exactly 0")
    return None


def readable(name: str) -> str:
    """A sub-module's name in a sentence."""
    return name or "the model itself"


__all__ = ["BATCH_NORMS", "CHANCE", "DROPOUTS", "LEAST_GAIN", "SCREEN", "Change", "Gain", "Stage", "batch_norms",
           "batch_statistics", "candidates", "depends_on_batch", "fresh", "readable", "scalings", "stages",
           "try_batch_statistics",
           "try_changes", "try_matching"]
