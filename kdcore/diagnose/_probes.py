"""Counterfactuals: would the model be right if its input, its statistics or its class names were others?

Each probe changes one thing and asks the model again. A change is chosen on a small part of the sample and judged on
the rest, so that trying many costs no false alarm.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.agreement import best_matching, confusion_counts, paired_gain, paired_rise
from ..functional.calibration import fit_temperature
from ._changes import Change
from ._pair import Net, Role
from ._sample import Sample

#: Samples on which the candidates are compared; the best few are judged on the others.
SCREEN = 32
#: Samples on which a finalist must hold up before it is judged on all the rest.
QUICK = 64
#: A change counts when it raises accuracy by at least this much, with at most this probability by chance (one-sided
#: McNemar). Of nine kinds of change at most two each are judged, for two models: a false alarm in at most 2 % of
#: healthy
#: pairs by all of them together, and far fewer, as most never come to be judged.
LEAST_GAIN, CHANCE = 0.03, 0.0005
#: A rearrangement of the pixels (channels, mirrors, turns) leaves an input as strong as it was, so it cannot gain by
#: making a model more careful: there a small rise of accuracy counts as well if the labels become likelier (one-sided
#: Wilcoxon).
REARRANGED = ("swapped_channels", "input_geometry_mismatch")
LEAST_REARRANGED, LIKELIER = 0.01, 1e-4
#: Temperatures at which ordinary networks fit their labels.
ORDINARY = (0.3, 3.3)
#: Below this accuracy (or this far behind the other model) scales and offsets of the input are searched as well.
WEAK, BEHIND = 0.7, 0.1


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
        proven: a mark of its own shows the fault, beside the rise in accuracy.
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
    proven: bool = False

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def likelier(self) -> bool:
        """Whether the labels become likelier by a rearrangement of the pixels."""
        return self.detail.get("p_likelihood", 1.0) <= LIKELIER


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
#: Repairs that mend almost anything: what they bring back tells little of where it was lost.
MENDS_ALL = ("batch_norm_statistics", "head_mismatch")


def compete(gains: list[Gain], labels: Tensor) -> list[Gain]:
    """Repairs of one model compete: a repair is behind another that is right more often (McNemar p <= 0.05), or as
    often but leaves an ordinary fitting temperature where this one does not, or surer of the labels (paired differences
    of the log-probability more than 3 standard errors from 0), or, where none of this tells, that has less freedom.

    A last layer fitted anew and the statistics of the batch mend almost anything: the one competes with the other
    changes of the output alone, which it contains, the other with nothing unless a mark of its own proves it.
    """
    found = []
    for gain in gains:
        rivals = [
            other
            for other in gains
            if other is not gain
            and other.code != gain.code
            and (
                other.code not in MENDS_ALL or other.proven or (other.code == "head_mismatch" and gain.code in _OUTPUTS)
            )
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
