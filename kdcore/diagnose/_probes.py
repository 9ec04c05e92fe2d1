"""Counterfactuals: would the model be right if its input, its statistics or its class names were others?

Each probe changes one thing and asks the model again. A change is chosen on a small part of the sample and judged on
the rest, so that trying many costs no false alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise, permutations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.agreement import best_matching, confusion_counts, paired_gain, paired_rise
from ..functional.calibration import fit_temperature
from ..inputs import Normalize
from ._pair import ROLES, Net, Role, Sample, Transform, is_unit
from ._weights import BATCH_NORMS

#: Samples on which the candidates are compared; the best few are judged on the others.
SCREEN = 32
#: Samples on which a finalist must hold up before it is judged on all the rest.
QUICK = 64
#: A change counts when it raises accuracy by at least this much, with at most this probability by chance (one-sided
#: McNemar; about 0.05 over the two dozen candidates).
LEAST_GAIN, CHANCE = 0.03, 0.002
#: A rearrangement of the pixels (channels, mirrors, turns) leaves an input as strong as it was, so it cannot gain by
#: making a model more careful: there a small rise of accuracy counts as well if the labels become likelier (one-sided
#: Wilcoxon).
REARRANGED = ("swapped_channels", "input_geometry_mismatch")
LEAST_REARRANGED, LIKELIER = 0.01, 1e-4
#: Temperatures at which ordinary networks fit their labels.
ORDINARY = (0.3, 3.3)
#: Below this accuracy (or this far behind the other model) scales and offsets of the input are searched as well.
WEAK, BEHIND = 0.7, 0.1

STATISTICS: dict[int, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    3: {
        "the ImageNet mean and standard deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "the CIFAR-10 mean and standard deviation": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "the range -1 to 1": ((0.5,), (0.5,)),
    },
    1: {"the MNIST mean and standard deviation": ((0.1307,), (0.3081,)), "the range -1 to 1": ((0.5,), (0.5,))},
}
DROPOUTS = (nn.modules.dropout._DropoutNd,)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A change that makes a model right more often.

    Attributes:
        role: which model. code: what the change says is wrong. words: the change, to be read after "with".
        before, after: accuracy on the same samples. samples: how many. p: by chance (one-sided McNemar).
        detail: what else is worth knowing (classes, names; ``p_likelihood``: by chance, that the labels become likelier
            by a rearrangement of the pixels).
        logits: ``(samples, C)`` scores with the change, of the last samples.
        behind: how many other repairs of this model do better, or as well and are simpler.
    """

    role: Role
    code: str
    words: str
    before: float
    after: float
    samples: int
    p: float
    detail: dict[str, Any] = field(default_factory=dict)
    logits: Tensor | None = field(default=None, repr=False)
    behind: int = 0

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def likelier(self) -> bool:
        """Whether the labels become likelier by a rearrangement of the pixels."""
        return self.detail.get("p_likelihood", 1.0) <= LIKELIER


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
        yield (
            "the normalisation its configuration states",
            _chain(unit, net.stated.cpu() if not x.is_cuda else net.stated),
        )
    yield f"the input that the {other.role} gets", other.transform
    if not is_unit(x):
        yield "values scaled back to 0 to 1", unit
        ends = _channels(x)
        span = (ends[1] - ends[0]).clamp_min(1e-12)
        yield (
            "values scaled back to 0 to 1 per channel",
            _affine(_per_channel(x, 1 / span), _per_channel(x, -ends[0] / span)),
        )
    for words, (mean, std) in STATISTICS.get(x.shape[1], STATISTICS[1] if x.ndim == 4 else {}).items():
        if len(mean) in (1, x.shape[1]):
            yield words, _chain(unit, Normalize(mean, std))
            yield f"{words} taken back", _undo(Normalize(mean, std))
    flat = x.transpose(0, 1).flatten(1)
    mean_, std_ = flat.mean(1), flat.std(1).clamp_min(1e-6)
    yield (
        "the data's own mean and standard deviation",
        _affine(_per_channel(x, 1 / std_), _per_channel(x, -mean_ / std_)),
    )
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


def _greys(x: Tensor) -> Tensor:
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601, as PIL
    return (x * weights).sum(1, keepdim=True).expand_as(x).contiguous()


def _means(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).expand_as(x).contiguous()


def _coarse(x: Tensor) -> Tensor:
    """Halved and doubled again: what a smaller copy of the image holds."""
    return _resize(_resize(x, (max(1, x.shape[2] // 2), max(1, x.shape[3] // 2))), (x.shape[2], x.shape[3]))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)


def _closer(x: Tensor, share: float) -> Tensor:
    """The middle, scaled up to the whole."""
    size, cut = x.shape[2:], [round(side * (1 - share) / 2) for side in x.shape[2:]]
    return _resize(x[:, :, cut[0] : size[0] - cut[0], cut[1] : size[1] - cut[1]], (size[0], size[1]))


def _farther(x: Tensor, share: float) -> Tensor:
    """The whole, scaled down, amid its mean colour."""
    height, width = round(x.shape[2] * share), round(x.shape[3] * share)
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    canvas = x.mean((2, 3), keepdim=True).expand_as(x).clone()
    canvas[:, :, top : top + height, left : left + width] = _resize(x, (height, width))
    return canvas


def _sizes(x: Tensor) -> Iterator[tuple[str, Transform]]:
    if min(x.shape[2:]) < 8:
        return
    yield "the image blurred (halved and doubled again)", _coarse
    yield "the middle of the image scaled up (7/8 of the side)", partial(_closer, share=7 / 8)
    yield "the middle of the image scaled up (half of the side)", partial(_closer, share=0.5)
    yield "the image scaled down to half amid its mean colour", partial(_farther, share=0.5)
    yield "the image scaled down to 7/8 amid its mean colour", partial(_farther, share=7 / 8)


def _canvases(x: Tensor) -> Iterator[tuple[str, Transform]]:
    """Other sizes of the tensor itself; a model may refuse them."""
    height, width = x.shape[2:]
    for words, factor in (("half", 0.5), ("double", 2.0)):
        size = round(height * factor), round(width * factor)
        if min(size) >= 8 and max(size) <= 256:
            yield f"the image at {words} its size ({size[0]} x {size[1]} pixels)", partial(_resize, size=size)


def candidates(net: Net, other: Net, sample: Sample) -> list[Change]:
    """Every change of the input that is tried on a model, without those that change nothing or repeat another."""
    x = sample.x
    if not x.is_floating_point() or x.ndim < 2:
        return []
    found = [Change("input_normalization_mismatch", words, change) for words, change in _normalisations(net, other, x)]
    if sample.is_image:
        found += [
            Change("input_geometry_mismatch", words, _chain(change, net.transform)) for words, change in _geometries(x)
        ]
        found += [
            Change("input_resolution_mismatch", words, _chain(change, net.transform)) for words, change in _sizes(x)
        ]
        if x.shape[1] > 1:
            found += [Change("swapped_channels", words, _chain(change, net.transform)) for words, change in _orders(x)]
        if x.shape[1] == 3:
            found += [
                Change("colour_mismatch", f"the colours taken away ({words})", _chain(change, net.transform))
                for words, change in (("by their brightness", _greys), ("by their mean", _means))
            ]
    return _distinct(found, net, x[:2])


def canvases(net: Net, sample: Sample) -> list[Change]:
    """The image at half and double its size, as far as the model takes it."""
    if not sample.is_image:
        return []
    found = []
    for words, change in _canvases(sample.x):
        whole = _chain(change, net.transform)
        try:
            net.logits(sample.x[:2], whole)
        except (RuntimeError, ValueError, AssertionError, IndexError):
            continue  # a network for one size only: nothing to ask
        found.append(Change("input_resolution_mismatch", words, whole))
    return found


def scalings(net: Net, sample: Sample) -> list[Change]:
    """A grid of scales and offsets of the model's input, in units of its own mean and spread."""
    x = net.input(sample.x).float().cpu()
    mean, spread = float(x.mean()), float(x.std())
    found = []
    for scale in (1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 16.0):
        for offset in (-1.0, 0.0, 1.0):
            change = _affine(scale, mean + offset * spread - scale * mean)
            found.append(
                Change(
                    "input_normalization_mismatch",
                    f"an input {scale:g} times as strong, shifted by {offset:g} standard deviations",
                    _chain(net.transform, change),
                )
            )
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


def _likely(scores: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the labels, ``(N,)``."""
    return scores.double().log_softmax(1).gather(1, labels[:, None])[:, 0]


class _Asked:
    """Scores of a model with each of the changes on parts of a sample, asked once."""

    def __init__(self, net: Net, changes: list[Change], sample: Sample) -> None:
        self.net, self.changes = net, changes
        edges = [0, SCREEN // 2, SCREEN, SCREEN + QUICK, len(sample)]
        self.rows = [slice(start, end) for start, end in pairwise(edges) if start < end]  # two of screening, a first
        self.parts = [sample.part(rows) for rows in self.rows]  # judgement, the rest
        self._known: dict[tuple[int, int], Tensor] = {}

    def scores(self, k: int, part: int) -> Tensor:
        """``(n, C)`` with change ``k``."""
        if (k, part) not in self._known:
            self._known[k, part] = self.net.over(self.parts[part].batches, self.changes[k].apply)
        return self._known[k, part]

    def judged(self, k: int) -> Tensor:
        """All that is not screening."""
        return torch.cat([self.scores(k, part) for part in range(2, len(self.parts))])


def _rearrangements(asked: _Asked, labels: Tensor, logits: Tensor, finalists: int) -> list[Gain]:
    """Rearrangements of the pixels by which the labels become likelier, ``finalists`` per code; see ``REARRANGED``."""
    before = _likely(logits, labels)
    if not bool(torch.isfinite(before).all()):
        return []

    def chance(k: int, *parts: int) -> float:
        """That the labels become likelier in these parts by chance."""
        after = torch.cat([_likely(asked.scores(k, part), labels[asked.rows[part]]) for part in parts])
        if not bool(torch.isfinite(after).all()):
            return 1.0
        return paired_rise(torch.cat([before[asked.rows[part]] for part in parts]), after)

    screened: dict[str, list[tuple[float, int]]] = {}
    for k, change in enumerate(asked.changes):
        if change.code in REARRANGED and chance(k, 0) < 0.8 and (p := chance(k, 0, 1)) < 0.5:
            screened.setdefault(change.code, []).append((p, k))
    found = []
    was = logits[SCREEN:].argmax(1) == labels[SCREEN:]
    for scored in screened.values():
        for _, k in sorted(scored)[:finalists]:
            if chance(k, 2) > 0.2:
                continue
            scores = asked.judged(k)
            now = scores.argmax(1) == labels[SCREEN:]
            more = paired_gain(was, now)
            p = chance(k, *range(2, len(asked.parts)))
            if more.gain >= LEAST_REARRANGED and p <= LIKELIER:
                change = asked.changes[k]
                found.append(
                    Gain(
                        role=asked.net.role,
                        code=change.code,
                        words=change.words,
                        p=more.p,
                        samples=len(now),
                        logits=scores,
                        detail={"p_likelihood": p},
                        before=float(was.double().mean()),
                        after=float(now.double().mean()),
                    )
                )
    return found


def try_changes(
    net: Net, changes: list[Change], sample: Sample, right: Tensor, *, finalists: int = 2, logits: Tensor | None = None
) -> list[Gain]:
    """The changes that make the model right more often; per code the best.

    Args:
        sample: with labels. right: ``(N,)``, where the model is right as it is.
        finalists: how many per code go from the screening to the judgement.
        logits: ``(N, C)``, what the model says as it is; with them rearrangements of the pixels are judged by the
            likelihood of the labels too.
    """
    if not changes or sample.labels is None or len(sample) < 2 * SCREEN:
        return []
    labels = sample.labels.cpu()
    asked = _Asked(net, changes, sample)

    def more(k: int, part: int) -> int:
        rows = asked.rows[part]
        return int((asked.scores(k, part).argmax(1) == labels[rows]).sum()) - int(right[rows].sum())

    missed = [int((~right[rows]).sum()) for rows in asked.rows[:2]]

    def least(missed: int) -> int:
        return max(1, round(0.1 * missed))  # a repair worth a sentence brings a tenth of the errors back

    scored = [
        (more(k, 0) + more(k, 1), -k) for k in range(len(changes)) if more(k, 0) >= least(missed[0]) - 1
    ]  # what does harm on the first half is not asked again
    judged: dict[str, list[Gain]] = {}
    for gain in [] if logits is None else _rearrangements(asked, labels, logits, finalists):
        judged.setdefault(gain.code, []).append(gain)
    taken: dict[str, int] = {}
    quick = asked.rows[2]
    for points, k in sorted(scored, reverse=True):
        change = changes[-k]
        if points < least(sum(missed)) or taken.get(change.code, 0) >= finalists:
            continue
        taken[change.code] = taken.get(change.code, 0) + 1
        if paired_gain(right[quick], asked.scores(-k, 2).argmax(1) == labels[quick]).gain < LEAST_GAIN:
            continue
        scores = asked.judged(-k)
        after = scores.argmax(1) == labels[SCREEN:]
        found = paired_gain(right[SCREEN:], after)
        if (
            found.gain >= LEAST_GAIN
            and found.p <= CHANCE
            and not any(g.words == change.words for g in judged.get(change.code, []))
        ):
            judged.setdefault(change.code, []).append(
                Gain(
                    role=net.role,
                    code=change.code,
                    words=change.words,
                    p=found.p,
                    samples=len(after),
                    logits=scores,
                    before=float(right[SCREEN:].double().mean()),
                    after=float(after.double().mean()),
                )
            )
    return [max(gains, key=lambda g: g.after) for gains in judged.values()]


def try_scale(net: Net, changes: list[Change], sample: Sample, logits: Tensor) -> Gain | None:
    """Is a model that is far too sure or too flat merely fed another scale? Looks for the scaling of the input under
    which its probabilities fit as they are.

    Returns:
        The scaling with the highest likelihood on the first samples, if on the others the temperature that fits is
        an ordinary one, accuracy is not lower (McNemar p > 0.05) and the labels are no less likely than without it,
        both at their fitting temperature; ``detail["surer"]``: they are more likely (3 standard errors), which no
        temperature explains.
    """
    if not changes or sample.labels is None or len(sample) < 2 * SCREEN:
        return None
    labels = sample.labels.cpu()
    screen, rest = sample.part(slice(0, SCREEN)), sample.part(slice(SCREEN, None))

    def likely(scores: Tensor, rows: slice) -> Tensor:
        return _likely(scores, labels[rows])

    first = slice(0, SCREEN)
    change = max(changes, key=lambda c: float(likely(net.over(screen.batches, c.apply), first).mean()))
    scores, others = net.over(rest.batches, change.apply), slice(SCREEN, None)
    truth, plain = labels[others], logits[others]
    fits = fit_temperature(scores, truth)
    ahead = likely(scores / fits, others) - likely(plain / fit_temperature(plain, truth), others)
    error = float(ahead.std()) / len(ahead) ** 0.5
    before, after = plain.argmax(1) == truth, scores.argmax(1) == truth
    if not ORDINARY[0] <= fits <= ORDINARY[1] or float(ahead.mean()) < -error or (paired_gain(after, before).p <= 0.05):
        return None
    return Gain(
        role=net.role,
        code=change.code,
        words=change.words,
        before=float(before.double().mean()),
        after=float(after.double().mean()),
        samples=len(rest),
        p=1.0,
        logits=scores,
        detail={
            "nll_before": -float(likely(plain, others).mean()),
            "nll_after": -float(likely(scores, others).mean()),
            "surer": float(ahead.mean()) > 3 * error,
        },
    )


def try_matching(role: Role, logits: Tensor, labels: Tensor, right: Tensor, names: tuple[str, ...]) -> list[Gain]:
    """Would the model be right under other class names? The renaming is found on one half, judged on the other."""
    classes = logits.shape[1]
    predicted = logits.argmax(1)
    renamed = torch.empty_like(logits)
    for fit, judge in _halves(len(labels)):
        matching = _renaming(confusion_counts(predicted[fit], labels[fit], classes), names)
        renamed[judge] = torch.empty_like(logits[judge]).index_copy_(1, matching, logits[judge])
        # a class is said where the one it was taken for has the highest score
    after = renamed.argmax(1) == labels
    found = paired_gain(right, after)
    if found.gain < LEAST_GAIN or found.p > CHANCE:
        return []
    counts = confusion_counts(predicted, labels, classes)
    whole = _renaming(counts, names)
    inverse = whole.argsort()
    sure = [c for c in range(classes) if inverse[c] != c and counts[c, inverse[c]] > counts[c].sum() / 2]
    if not sure:
        return []
    said_for = {names[c]: names[int(inverse[c])] for c in sure}
    return [
        Gain(
            role=role,
            code="label_permutation",
            words="its classes renamed",
            p=found.p,
            samples=len(labels),
            before=float(right.double().mean()),
            after=float(after.double().mean()),
            logits=renamed,
            detail={"said_for": said_for},
        )
    ]


def _halves(n: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    first, second = slice(0, n // 2), slice(n // 2, n)
    return (first, second), (second, first)


def _renaming(counts: Tensor, names: tuple[str, ...]) -> Tensor:
    """The label behind each name a model says, ``(C,)``: the best of the common orders (all shifted by some places,
    reversed, sorted as text) unless a free matching fits better (its freedom costs a sample per moved class)."""
    classes = len(counts)
    here = torch.arange(classes)
    text = torch.tensor(sorted(range(classes), key=str))
    orders = [(here + k) % classes for k in range(classes)] + [here.flip(0), text, text.argsort()]
    named = torch.tensor(sorted(range(classes), key=lambda c: names[c]))
    orders += [named, named.argsort()]
    fits = torch.stack([counts[order, here].sum() for order in orders])  # counts: rows are labels
    common = orders[int(fits.argmax())]
    free = best_matching(counts.T)  # said -> label
    better = int(counts[free, here].sum() - fits.max())
    return free if better > int((free != common).sum()) else common


def try_bias(role: Role, logits: Tensor, labels: Tensor, right: Tensor) -> list[Gain]:
    """Would the model be right with one more bias per class? Found on one half of the samples, judged on the other."""
    corrected = logits.double().clone()
    for fit, judge in _halves(len(labels)):
        scale, shift = _class_bias(logits[fit].double(), labels[fit], logits.shape[1])
        corrected[judge] = scale * corrected[judge] + shift
    after = corrected.argmax(1) == labels
    found = paired_gain(right, after)
    if found.gain < LEAST_GAIN or found.p > CHANCE:
        return []
    return [
        Gain(
            role=role,
            code="class_bias",
            words="one more bias per class",
            p=found.p,
            samples=len(labels),
            before=float(right.double().mean()),
            after=float(after.double().mean()),
            logits=corrected,
        )
    ]


def _class_bias(scores: Tensor, labels: Tensor, classes: int) -> tuple[float, Tensor]:
    """Scale and bias per class under which the labels are likeliest, with a weak pull of the bias towards 0 (on scores
    of unit spread: flat scores need a small bias, sharp ones a large one)."""
    from scipy.optimize import minimize

    middle = scores.mean(0)
    size = (scores - middle).std().clamp_min(1e-12)
    unit = ((scores - middle) / size).numpy()
    hot = F.one_hot(labels, classes).double().numpy()

    def loss(free: Any) -> tuple[float, Any]:
        z = torch.from_numpy(free[0] * unit + free[1:])
        log_p = z.log_softmax(1).numpy()
        error = (torch.from_numpy(log_p).exp().numpy() - hot) / len(hot)
        gradient = [(error * unit).sum(), *(error.sum(0) + 2e-3 * free[1:])]
        return float(-(log_p * hot).sum() / len(hot) + 1e-3 * (free[1:] ** 2).sum()), torch.tensor(gradient).numpy()

    best = minimize(
        loss,
        torch.tensor([1.0] + [0.0] * classes).double().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1e-3, None)] + [(None, None)] * classes,
        options={"maxiter": 200},
    ).x
    scale = float(best[0] / size)
    return scale, torch.from_numpy(best[1:]) - scale * middle


def try_head(role: Role, features: Tensor, labels: Tensor, right: Tensor, classes: int) -> list[Gain]:
    """Would the model be right with another last layer? A ridge regression on the embeddings ``(N, D)`` of one half of
    the samples, judged on the other."""
    x = features.double()
    x = torch.cat([(x - x.mean(0)) / x.std(0).clamp_min(1e-9 * float(x.abs().max()) + 1e-12), x.new_ones(len(x), 1)], 1)
    target = F.one_hot(labels, classes).double()
    scores = x.new_zeros(len(x), classes)
    for fit, judge in _halves(len(x)):
        gram = x[fit] @ x[fit].T
        ridge = 0.1 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        scores[judge] = x[judge] @ x[fit].T @ torch.linalg.solve(gram + ridge, target[fit])
    after = scores.argmax(1) == labels
    found = paired_gain(right, after)
    if found.gain < 5 * LEAST_GAIN or found.p > CHANCE:
        return []
    return [
        Gain(
            role=role,
            code="head_mismatch",
            words="another last layer",
            p=found.p,
            samples=len(labels),
            before=float(right.double().mean()),
            after=float(after.double().mean()),
            logits=scores,
        )
    ]


#: How much freedom a repair has: of two that do equally well the one with less is believed.
_FREEDOM = {"label_permutation": 3, "class_bias": 2, "batch_norm_statistics": 1, "head_mismatch": 4}


_OUTPUTS = ("label_permutation", "class_bias")


def compete(gains: list[Gain], labels: Tensor) -> list[Gain]:
    """Repairs of one model compete: a repair is behind another that is right more often (McNemar p <= 0.05), or as
    often but leaves an ordinary fitting temperature where this one does not, or surer of the labels (paired differences
    of the log-probability more than 3 standard errors from 0), or, where none of this tells, that has less freedom.

    A last layer fitted anew mends almost anything: it competes with the other changes of the output alone, which it
    contains.
    """
    found = []
    for gain in gains:
        rivals = [
            other
            for other in gains
            if other is not gain
            and other.code != gain.code
            and (other.code != "head_mismatch" or gain.code in _OUTPUTS)
        ]
        found.append(replace(gain, behind=sum(_loses(gain, other, labels) for other in rivals)))
    return found


def _loses(gain: Gain, other: Gain, labels: Tensor) -> bool:
    if gain.logits is None or other.logits is None:
        return _FREEDOM.get(gain.code, 0) > _FREEDOM.get(other.code, 0)
    n = min(len(gain.logits), len(other.logits))
    truth = labels[-n:]
    mine, theirs = gain.logits[-n:].double(), other.logits[-n:].double()
    right = [z.argmax(1) == truth for z in (mine, theirs)]
    for first, second, lost in ((right[0], right[1], True), (right[1], right[0], False)):
        if paired_gain(first, second).p <= 0.05:
            return lost
    if "head_mismatch" not in (gain.code, other.code):
        odd = [not ORDINARY[0] <= fit_temperature(z, truth) <= ORDINARY[1] for z in (mine, theirs)]
        if odd[0] != odd[1]:
            return odd[0]  # the right input makes an ordinary network of a model
        ahead = theirs.log_softmax(1).gather(1, truth[:, None]) - mine.log_softmax(1).gather(1, truth[:, None])
        error = float(ahead.std()) / n**0.5
        if error > 0 and abs(float(ahead.mean())) > 3 * error:
            return float(ahead.mean()) > 0
    return _FREEDOM.get(gain.code, 0) > _FREEDOM.get(other.code, 0)


# --------------------------------------------------------------------------------------------------------- invariances


def _views(x: Tensor) -> Iterator[tuple[str, Transform]]:
    """Changes that take something away from an image, with what they take."""
    middle = x.mean((0, 2, 3), keepdim=True)
    if x.shape[1] == 3:
        yield "colour", _greys
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
            off = net.over(few.batches, _chain(change, net.transform)) - before
            moved[role] = off.abs().amax(1) / before.std().clamp_min(1e-12)
        for role, other in zip(ROLES, ROLES[::-1], strict=True):
            if float(moved[role].max()) < 1e-5 and float(moved[other].median()) > 0.01:
                found.append((role, what, float(moved[other].median())))
    return found


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


__all__ = [
    "BATCH_NORMS",
    "CHANCE",
    "DROPOUTS",
    "LEAST_GAIN",
    "SCREEN",
    "Change",
    "Gain",
    "batch_norms",
    "batch_statistics",
    "candidates",
    "canvases",
    "compete",
    "depends_on_batch",
    "readable",
    "scalings",
    "try_batch_statistics",
    "try_bias",
    "try_changes",
    "try_head",
    "try_matching",
    "try_scale",
    "unseen",
]
