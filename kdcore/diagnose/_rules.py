"""From numbers to findings. Every rule is a generator over the facts; thresholds are stated in :mod:`._codes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..cka_maps import CKAResult
from ..functional.checks import check_choice
from ._codes import ALARM, CODES
from ._history import SoftTerm, lacks_t2
from ._measures import SOFT_TEMPERATURE, Activity, Answers, LayerView, Occlusion
from ._pair import ROLES, Net, Role, Sample
from ._probes import DROPOUTS, Gain, batch_norms, readable
from ._weights import Odd, Stage, fresh, initial_share


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One plain sentence about a pair.

    Attributes:
        code: stable name, one of :data:`kdcore.diagnose.CODES`. severity: in [0, 1]; an alarm from
            :data:`kdcore.diagnose.ALARM` on.
        sentence: what is the matter, with the numbers. try_next: what to do about it.
        evidence: the numbers, and the layers, classes or samples meant; plain values.
    """

    code: str
    severity: float
    sentence: str
    evidence: dict[str, Any]
    try_next: str

    def __post_init__(self) -> None:
        check_choice("code", self.code, tuple(CODES))

    @property
    def alarm(self) -> bool:
        """Whether this is a fault rather than a difference."""
        return self.severity >= ALARM

    def __str__(self) -> str:
        return f"[{self.severity:.2f}] {self.code}: {self.sentence} {self.try_next}"


#: Findings that say how a model errs, not why.
_HOW = frozenset(
    {
        "class_bias",
        "collapsed_output",
        "missing_class",
        "teacher_worse_than_student",
        "overconfident_teacher",
        "underconfident_teacher",
        "overconfident_student",
        "head_mismatch",
    }
)


@dataclass(kw_only=True)
class Facts:
    """Everything the rules look at."""

    nets: dict[Role, Net]
    said: dict[Role, Answers]
    sample: Sample
    labels: Tensor | None
    names: tuple[str, ...]
    agreement: dict[str, float]
    gains: list[Gain] = field(default_factory=list)
    batch_changes: dict[Role, float] = field(default_factory=dict)
    dependence: dict[Role, tuple[float, float]] = field(default_factory=dict)
    activity: dict[Role, list[Activity]] = field(default_factory=dict)
    stages: dict[Role, list[Stage]] = field(default_factory=dict)
    odd_weights: dict[Role, list[Odd]] = field(default_factory=dict)
    embeddings: dict[Role, Tensor] = field(default_factory=dict)
    scaled: dict[Role, Gain | None] = field(default_factory=dict)
    unseen: list[tuple[Role, str, float]] = field(default_factory=list)
    views: list[LayerView] = field(default_factory=list)
    embedding: LayerView | None = None
    cka: CKAResult | None = None
    pairs: list[tuple[str, str]] = field(default_factory=list)
    occlusion: Occlusion | None = None
    robustness: list[dict[str, Any]] = field(default_factory=list)
    soft_term: SoftTerm | None = None
    same: bool = False

    def other(self, role: Role) -> Role:
        return "student" if role == "teacher" else "teacher"

    def explained(self, role: Role, found: Sequence[Finding]) -> bool:
        """Whether an alarm already says why this model does badly (and not how; nor is it a repair that is beaten)."""
        return any(
            f.alarm
            and f.code not in _HOW
            and not f.evidence.get("better_repairs")
            and f.evidence.get("model") in (role, "both")
            for f in found
        )


def _pc(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def _ramp(value: float, low: float, high: float, bottom: float, top: float) -> float:
    """``bottom`` at ``low``, ``top`` at ``high``, straight between, flat outside."""
    return bottom + (top - bottom) * min(1.0, max(0.0, (value - low) / (high - low)))


# ------------------------------------------------------------------------------------------------------- counterfactual

_TRY = {
    "input_normalization_mismatch": "Give the {role} the input it was trained on: pass {role}_transform, and use the "
    "same in training; check for a normalisation that is applied twice or never.",
    "swapped_channels": "Check the image reader (OpenCV gives BGR, PIL and torchvision RGB) and reorder the channels "
    "for the {role}.",
    "input_geometry_mismatch": "Check how images are read and laid out for the {role} (height and width exchanged, "
    "flips that are meant for training only).",
    "input_resolution_mismatch": "Compare the size, crop and interpolation of the {role}'s images with those of its "
    "training.",
    "colour_mismatch": "The {role} was trained on grey images: convert its input, or train it on colours.",
    "batch_norm_statistics": "Recompute the running statistics of the {role}: a pass over training data in train mode "
    "without a step (torch.optim.swa_utils.update_bn), or load a complete checkpoint.",
    "label_permutation": "Compare the class lists (sorted as text or by number, labels from 0 or 1) and reorder the "
    "{role}'s outputs or the labels.",
}


def _counterfactuals(f: Facts) -> Iterator[Finding]:
    known = [s.accuracy for s in f.said.values() if s.accuracy is not None] + [g.after for g in f.gains]
    renamed = {g.role for g in f.gains if g.code == "label_permutation"}
    for g in f.gains:
        if g.code in ("head_mismatch", "class_bias"):  # what a wrong input does to the answers: judged as symptoms
            continue
        lost = max(max(known) - g.before, 1e-9)
        role = "both" if g.code == "label_permutation" and len(renamed) == 2 else g.role
        if role == "both" and g.role == "teacher":
            continue
        what = (
            f"The {role} numbers the classes otherwise than the data"
            if role != "both"
            else "Both models number the classes otherwise than the labels of the data"
        )
        said = g.detail.get("said_for", {})
        shown = "; ".join(f"{a} is called {b}" for a, b in list(said.items())[:4]) + ("; ..." if len(said) > 4 else "")
        sentence = (
            f"{what}: {shown}. With the classes renamed, accuracy is {_pc(g.after)} instead of {_pc(g.before)}."
            if said
            else f"The {g.role} is right in {_pc(g.after)} instead of {_pc(g.before)} of {g.samples} "
            f"samples with {g.words}: "
            + {
                "input_normalization_mismatch": "its input is not normalised as in its training.",
                "swapped_channels": "its colour channels arrive in another order than in its training.",
                "input_geometry_mismatch": "its images are not the way round they were in its training.",
                "input_resolution_mismatch": "it was trained on images of another size, crop or sharpness.",
                "colour_mismatch": "it was trained on images without colour.",
                "batch_norm_statistics": "its running statistics do not fit these data.",
            }[g.code]
        )
        severity = max(
            [_share(g, lost)]
            + [
                _or_the_input(f, o, lost).severity
                for o in f.gains
                if (g.code == "input_normalization_mismatch" and o.role == g.role and o.code == "batch_norm_statistics")
            ]
        )
        yield Finding(
            code=g.code,
            severity=severity,
            sentence=sentence,
            evidence={
                "model": role,
                "change": g.words,
                "accuracy_before": g.before,
                "accuracy_after": g.after,
                "samples": g.samples,
                "p": g.p,
                "better_repairs": g.behind,
                **g.detail,
            },
            try_next=_TRY[g.code].format(role=g.role if role != "both" else "model"),
        )
        if g.code == "batch_norm_statistics" and not any(
            o.role == g.role and o.code == "input_normalization_mismatch" for o in f.gains
        ):
            yield _or_the_input(f, g, lost)


def _share(g: Gain, lost: float) -> float:
    """Severity of a repair: the share of the loss that comes back, less where another repair does better."""
    share = min(1.0, g.gain / lost)
    least = 0.5 if g.behind else 0.0 if g.likelier else 0.25
    if share < least:  # a weak model gains a little from many changes
        return 0.4
    return max(0.5, 0.55 + 0.4 * share - 0.06 * g.behind)


def _or_the_input(f: Facts, g: Gain, lost: float) -> Finding:
    """Statistics that do not fit the data may be wrong, or the data may be scaled otherwise: say so, unless the
    statistics are untouched, which only the first explains."""
    norms = [m for m in batch_norms(f.nets[g.role].model).values() if getattr(m, "running_mean", None) is not None]
    untouched = any(
        bool((m.get_buffer("running_mean") == 0).all()) and bool((m.get_buffer("running_var") == 1).all())
        for m in norms
    )
    return Finding(
        code="input_normalization_mismatch",
        severity=0.3 if untouched else _share(g, lost) - 0.05,
        sentence=f"An input that is scaled otherwise than in training would show the same in the {g.role}: none of the "
        "usual scalings brings its accuracy back, the statistics of the batch do"
        + (" (but its running statistics were never updated, which explains it)." if untouched else "."),
        evidence={
            "model": g.role,
            "accuracy_before": g.before,
            "accuracy_with_batch_statistics": g.after,
            "running_statistics_untouched": untouched,
        },
        try_next=f"Compare the mean and spread of what reaches the {g.role} with what it was trained on.",
    )


def _scaled(f: Facts) -> Iterator[Finding]:
    """Accuracy is intact, confidence is not, and another scale of the input mends it."""
    for role, g in f.scaled.items():
        if g is None or bounded(f.said[role].logits):
            continue
        surer = bool(g.detail["surer"])
        yield Finding(
            code="input_normalization_mismatch",
            severity=0.88 if surer else 0.55,
            sentence=f"The {role}'s confidence fits the labels with {g.words} (negative log-likelihood "
            f"{g.detail['nll_after']:.2f} instead of {g.detail['nll_before']:.2f}"
            + (", which no temperature reaches" if surer else "; a temperature does as much")
            + "): its input may be scaled otherwise than in its training.",
            evidence={
                "model": role,
                "change": g.words,
                "accuracy_before": g.before,
                "accuracy_after": g.after,
                "samples": g.samples,
                **g.detail,
                "better_repairs": 0 if surer else 1,
            },
            try_next=_TRY[g.code].format(role=role),
        )


def _stated_input(f: Facts) -> Iterator[Finding]:
    for role, net in f.nets.items():
        raw, stated = net.choice.get("accuracy_raw"), net.choice.get("accuracy_stated")
        if raw is None or stated is None or abs(raw - stated) < 0.1:
            continue
        better = "with" if stated > raw else "without"
        yield Finding(
            code="input_normalization_mismatch",
            severity=0.2,
            evidence={"model": role, **net.choice},
            sentence=f"The {role}'s configuration states an input normalisation that the loader does not "
            f"apply; the {role} is right in {_pc(stated)} with and {_pc(raw)} without it, and was "
            f"measured {better} it.",
            try_next="Kdcore's loops apply the stated normalisation themselves; in a loop of your own apply "
            "it per model, or correct the configuration.",
        )


# ---------------------------------------------------------------------------------------------------------------- modes


def _modes(f: Facts) -> Iterator[Finding]:
    for role, net in f.nets.items():
        norms = batch_norms(net.model)
        training = [n for n in norms if n in net.flags]
        mixed, chance = f.dependence.get(role, (0.0, 0.0))
        leans = mixed > 1e-3 and chance <= 1e-3
        changed = f.batch_changes.get(role, 0.0)
        if training or (leans and norms):
            how = (
                f"{len(training)} of its {len(norms)} batch norms were in train mode"
                if training
                else "it uses batch statistics even in eval mode (an overridden eval() or train(), or norms without "
                "running statistics)"
            )
            effect = (
                f"in this mode {_pc(changed)} of its answers change class with the batch"
                if training
                else f"a logit moves by {mixed:.2g} standard deviations when its neighbours in the batch change"
            )
            yield Finding(
                code="batch_norm_train_mode",
                severity=0.92 if changed > 0 or leans else 0.7,
                sentence=f"The {role}'s batch normalisation runs in train mode: {how}; {effect}.",
                evidence={
                    "model": role,
                    "layers": training or list(norms),
                    "answers_changed": changed,
                    "dependence_on_neighbours": mixed,
                },
                try_next=f"Call {role}.eval() before it is used"
                + (
                    " and keep it there: train() of an enclosing module switches it back."
                    if role == "teacher"
                    else " outside of training; check that eval() reaches every norm."
                ),
            )
        elif leans:
            yield Finding(
                code="batch_dependent_output",
                severity=0.7,
                evidence={"model": role, "dependence_on_neighbours": mixed},
                sentence=f"The {role}'s answer to a sample depends on the others in its batch: a logit moves "
                f"by {mixed:.2g} standard deviations.",
                try_next="Look for operations over the batch dimension (normalisation, softmax over dim 0).",
            )
        yield from _dropout(role, net, chance)


def _dropout(role: Role, net: Net, chance: float) -> Iterator[Finding]:
    drops = [
        n
        for n, m in net.model.named_modules()
        if n in net.flags
        and (
            (isinstance(m, DROPOUTS) and m.p > 0) or (type(m).__name__ == "DropPath" and getattr(m, "drop_prob", False))
        )
    ]
    if not drops and chance <= 1e-3:
        return
    how = (
        f"{len(drops)} dropout layer{'s were' if len(drops) > 1 else ' was'} in train mode when it came"
        if drops
        else f"two passes over the same samples differ by {chance:.2g} standard deviations although it is in eval mode"
    )
    yield Finding(
        code="dropout_active",
        severity=0.8 if chance > 1e-3 else 0.6,
        evidence={"model": role, "layers": drops, "difference_of_two_passes": chance},
        sentence=f"The {role} answers at random: {how}.",
        try_next=f"Call {role}.eval() before it is used; check for F.dropout without training=self.training.",
    )


# ---------------------------------------------------------------------------------------------------------------- parts


def _stage_of(f: Facts, role: Role, layer: str) -> str:
    inside = [s.name for s in f.stages.get(role, []) if layer == s.name or layer.startswith(f"{s.name}.")]
    return max(inside, key=len, default=layer)


#: Modules that rightly say the same for every sample when they saturate.
_GATES = ("Sigmoid", "Hardsigmoid", "HardSigmoid", "Softmax", "Softmax2d")


def _dead(f: Facts) -> Iterator[Finding]:
    for role, active in f.activity.items():
        dead = [a for a in active if a.dead >= 0.9 and a.type not in _GATES]
        if not dead or fresh(f.stages.get(role, [])):  # zero-initialised branches of a network never trained
            continue
        whole = [a for a in dead if a.dead == 1.0]
        first = (whole or dead)[0]
        stage = _stage_of(f, role, first.name)
        best = max((s.accuracy for s in f.said.values() if s.accuracy is not None), default=1.0)
        scaled = any(
            g.role == role
            and g.code == "input_normalization_mismatch"  # which is the cause, then
            and g.gain >= 0.9 * (max(best, g.after) - g.before)
            for g in f.gains
        )
        zero = "zero" if first.largest == 0 else "the same"
        yield Finding(
            code="dead_stage",
            severity=0.45 if scaled else 0.96 if whole else 0.6,
            sentence=f"Stage {readable(stage)} of the {role} is dead: {first.type} {readable(first.name)} gives {zero} "
            f"for every sample in {_pc(first.dead)} of its channels"
            + (f", and {len(dead) - 1} layers after it." if len(dead) > 1 else "."),
            evidence={
                "model": role,
                "stage": stage,
                "layers": [a.name for a in dead],
                "dead_share": first.dead,
                "largest_value": first.largest,
            },
            try_next="Look at its weights, biases and normalisation (zeros, a bias far below zero, a scale of zero); "
            "lower the learning rate or re-initialise it, and train again.",
        )


def _odd(f: Facts) -> Iterator[Finding]:
    for role, odd in f.odd_weights.items():
        mine, other = f.said[role].accuracy, f.said[f.other(role)].accuracy
        behind = mine is not None and other is not None and other - mine >= 0.1
        dead = {a.name for a in f.activity.get(role, []) if a.dead >= 0.9}
        zeros = [o for o in odd if o.zeros >= 0.5 and o.name.rpartition(".")[0] not in dead]
        if zeros and not fresh(f.stages.get(role, [])):
            worst = max(zeros, key=lambda o: o.zeros)
            yield Finding(
                code="zeroed_weights",
                severity=0.7 if behind else 0.4,
                sentence=f"{_pc(worst.zeros)} of the weights {worst.name} of the {role} are exactly zero"
                + (f", and half or more of {len(zeros) - 1} other tensors." if len(zeros) > 1 else "."),
                evidence={"model": role, "layers": [o.name for o in zeros], "share": worst.zeros},
                try_next="If the model was pruned, train it on after pruning; else look for a checkpoint that was read "
                "in part, or weights that were set to zero.",
            )
        if wild := [o for o in odd if o.outlier > 0 and o.zeros < 0.5]:
            worst = max(wild, key=lambda o: o.outlier)
            yield Finding(
                code="outlier_weights",
                severity=0.8,
                sentence=f"One of the weights {worst.name} of the {role} is {worst.outlier:.0f} times the median of "
                "its tensor.",
                evidence={"model": role, "layers": [o.name for o in wild], "times_the_median": worst.outlier},
                try_next="A damaged file or a step that diverged: load the checkpoint again and compare its hash, or "
                "go back to an earlier one.",
            )


def _unseen(f: Facts) -> Iterator[Finding]:
    for role in ROLES:
        what = [(w, moved) for r, w, moved in f.unseen if r == role]
        if not what or fresh(f.stages.get(role, [])) or fresh(f.stages.get(f.other(role), [])):
            continue
        mine, other = f.said[role].accuracy, f.said[f.other(role)].accuracy
        behind = mine is None or other is None or other - mine >= 0.03
        names = [w for w, _ in what]
        yield Finding(
            code="input_ignored",
            severity=0.75 if behind else 0.45,
            sentence=f"The {role} does not look at {' and '.join(names)}: without, its scores are the same; the "
            f"{f.other(role)}'s move by {what[0][1]:.2g} standard deviations.",
            evidence={"model": role, "ignored": names, "movement_of_the_other": [m for _, m in what]},
            try_next=f"Look for a conversion to grey, a crop or a channel that is dropped before the {role}'s first "
            "layer, and for first-layer weights of zero.",
        )


def _frozen(f: Facts) -> Iterator[Finding]:
    for role, parts in f.stages.items():
        initial = [s for s in parts if s.initial]
        trained = [s for s in parts if s.trained]
        held = [s for s in parts if s.frozen == 1.0] if role == "student" else []
        if len(held) == len(parts):
            held = []
        if fresh(parts):
            continue
        if initial and sum(s.parameters for s in trained) >= 64:
            names = [s.name for s in initial]
            also = " and ask for no gradient" if all(s in held for s in initial) else ""
            yield Finding(
                code="frozen_stage",
                severity=0.85,
                sentence=f"Stage {', '.join(names)} of the {role} was not trained{also}: {initial[0].why}.",
                evidence={
                    "model": role,
                    "layers": names,
                    "why": {s.name: s.why for s in initial},
                    "parameters": sum(s.parameters for s in initial),
                },
                try_next="Check that its parameters are given to the optimizer, have requires_grad=True and are not "
                "under no_grad or detach; for a checkpoint, that its keys were really loaded.",
            )
        elif held:
            names = [s.name for s in held]
            yield Finding(
                code="frozen_stage",
                severity=0.65,
                sentence=f"Stage {', '.join(names)} of the student is frozen: its parameters ask for no gradient, the "
                "others do.",
                evidence={"model": role, "layers": names, "parameters": sum(s.parameters for s in held)},
                try_next="If this is not meant, set requires_grad_(True) before the optimizer is made.",
            )


def _collapsed(f: Facts) -> Iterator[Finding]:
    view = f.embedding
    if view is None or len(f.names) < 5:
        return
    rank = {"student": view.rank_student, "teacher": view.rank_teacher}
    spread = {"student": view.spread_student, "teacher": view.spread_teacher}
    for role in ROLES:
        other = f.other(role)
        thin = rank[role] < 2 and rank[role] < rank[other] / 3
        still = spread[role] < 0.005 and spread[role] < spread[other] / 10
        if not (thin or still):
            continue
        layer = view.student if role == "student" else view.teacher
        yield Finding(
            code="collapsed_features",
            severity=0.8,
            sentence=f"The {role}'s features are collapsed: its embedding ({layer}) uses {rank[role]:.1f} directions, "
            f"the {other}'s {rank[other]:.1f}, and varies by {_pc(spread[role])} of its size (the {other}'s "
            f"by {_pc(spread[other])}).",
            evidence={
                "model": role,
                "layers": [layer],
                "effective_rank": rank[role],
                "effective_rank_other": rank[other],
                "spread": spread[role],
                "spread_other": spread[other],
            },
            try_next="Weaken whatever pulls features together (feature or contrastive term, weight decay, a too large "
            "learning rate), and check normalisation layers before the classifier.",
        )


# -------------------------------------------------------------------------------------------------------------- outputs


def _outputs(f: Facts) -> Iterator[Finding]:
    for role in ROLES:
        if kind := bounded(f.said[role].logits):
            low, high = float(f.said[role].logits.min()), float(f.said[role].logits.max())
            yield Finding(
                code="probabilities_not_logits",
                severity=0.9,
                sentence=f"The {role} gives {kind} instead of raw scores: its outputs lie between {low:.3g} and "
                f"{high:.3g}" + (" and every row sums to 1." if kind == "probabilities" else "."),
                evidence={"model": role, "lowest": low, "highest": high},
                try_next=f"Remove the softmax or sigmoid at the end of the {role}: the losses apply it themselves.",
            )


def bounded(logits: Tensor) -> str:
    """``"probabilities"`` where all rows lie in [0, 1] and sum to 1, ``"sigmoid outputs"`` where they fill [0, 1]."""
    if logits.min() < 0 or logits.max() > 1 or float(logits.std()) == 0:
        return ""
    if float((logits.sum(1) - 1).abs().max()) < 1e-3:
        return "probabilities"
    return "sigmoid outputs" if logits.min() < 0.05 and logits.max() > 0.95 else ""


def _temperature(f: Facts) -> Iterator[Finding]:
    term = f.soft_term
    if term is not None and lacks_t2(term):
        sure = "term" not in term.source
        yield Finding(
            code="temperature_without_t2",
            severity=0.9 if sure else 0.75,
            sentence=f"The soft term lacks the factor T^2: by {term.source} it is {term.ratio:.3g} times "
            f"T^2 KL at T = {term.temperature:g}, and 1 / T^2 is {term.temperature**-2:.3g}.",
            evidence={
                "model": "student",
                "temperature": term.temperature,
                "ratio": term.ratio,
                "one_over_t2": term.temperature**-2,
                "source": term.source,
            },
            try_next="Multiply the soft term by T^2 (kdcore.functional.divergences.kd_loss does), then weigh it "
            "against the cross-entropy again.",
        )
        return
    student, teacher = f.said["student"], f.said["teacher"]
    if bounded(student.logits):
        return
    scale = float(teacher.logits.double().std(1).median() / student.logits.double().std(1).median().clamp_min(1e-12))
    if student.accuracy is not None and student.temperature is not None:
        short = student.accuracy - student.confidence
        if not student.flat:
            return
        severity, known = (
            _ramp(short, 0.15, 0.5, 0.6, 0.85),
            (
                f"it is right in {_pc(student.accuracy)} but gives its class only {_pc(student.confidence)}, and fits "
                f"the labels best at temperature {student.temperature:.2g}"
            ),
        )
    else:
        if f.agreement["top1"] < 0.7 or teacher.confidence - student.confidence < 0.25:
            return
        severity, known = (
            0.6,
            (
                f"it agrees with the teacher in {_pc(f.agreement['top1'])} but gives its class only "
                f"{_pc(student.confidence)} where the teacher gives {_pc(teacher.confidence)}"
            ),
        )
    yield Finding(
        code="temperature_without_t2",
        severity=severity,
        sentence=f"The student's probabilities are far too flat: {known}; its logits are {scale:.1f} times smaller "
        "than the teacher's. A soft term at temperature T without the factor T^2, or a temperature left in "
        "the student, does this.",
        evidence={
            "model": "student",
            "accuracy": student.accuracy,
            "confidence": student.confidence,
            "fitting_temperature": student.temperature,
            "logit_scale_ratio": scale,
        },
        try_next="Check that the soft term is T^2 KL(T) and that T divides logits in the loss only, not in the model; "
        "then give the soft term more weight or train longer.",
    )


def _teacher_confidence(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    teacher = f.said["teacher"]
    if bounded(teacher.logits):
        return
    over = 0.0 if teacher.accuracy is None else teacher.confidence - teacher.accuracy
    top = 0.45 if f.explained("teacher", found) else 1.0
    reasons: list[tuple[float, str]] = []
    if over >= 0.1:
        reasons.append(
            (
                _ramp(over, 0.1, 0.4, 0.6, 0.9),
                f"it gives its class {_pc(teacher.confidence)} but is right in {_pc(teacher.accuracy or 0.0)}",
            )
        )
    if teacher.sharp and teacher.temperature is not None:
        reasons.append(
            (
                _ramp(math.log(teacher.temperature), math.log(4), math.log(16), 0.6, 0.9),
                f"its logits fit the labels only when divided by {teacher.temperature:.1f}",
            )
        )
    if teacher.soft_mass < 0.01:
        reasons.append(
            (
                _ramp(-math.log(max(teacher.soft_mass, 1e-9)), -math.log(0.01), -math.log(1e-6), 0.6, 0.9),
                f"even at T = {SOFT_TEMPERATURE:g} it leaves all other classes together "
                f"{teacher.soft_mass:.1g} (median)",
            )
        )
    if reasons:
        yield Finding(
            code="overconfident_teacher",
            severity=min(top, max(s for s, _ in reasons)),
            sentence=f"The teacher is over-confident: {'; '.join(words for _, words in reasons)}. Its soft targets are "
            "almost hard labels.",
            evidence={
                "model": "teacher",
                "confidence": teacher.confidence,
                "accuracy": teacher.accuracy,
                "ece": teacher.ece,
                "fitting_temperature": teacher.temperature,
                "mass_on_other_classes_t4": teacher.soft_mass,
            },
            try_next="Raise the temperature of the soft term, calibrate the teacher (divide its logits by the fitting "
            "temperature), or match logits instead of probabilities.",
        )
        return
    if teacher.flat and teacher.accuracy is not None and teacher.temperature is not None:
        yield Finding(
            code="underconfident_teacher",
            severity=min(top, _ramp(-over, 0.15, 0.5, 0.6, 0.8)),
            sentence=f"The teacher's soft targets are almost flat: it is right in {_pc(teacher.accuracy)} but gives "
            f"its class only {_pc(teacher.confidence)}; its logits fit at temperature "
            f"{teacher.temperature:.2g}.",
            evidence={
                "model": "teacher",
                "confidence": teacher.confidence,
                "accuracy": teacher.accuracy,
                "fitting_temperature": teacher.temperature,
            },
            try_next="Check for a temperature left in the teacher or an averaged or smoothed output; lower the "
            "temperature of the soft term.",
        )


# -------------------------------------------------------------------------------------------------------------- answers


def _guessing(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    from scipy.stats import binom

    for role in ROLES:
        said, parts = f.said[role], f.stages.get(role, [])
        untouched = fresh(parts)
        blind = False
        if said.accuracy is not None and f.labels is not None:
            guess = float(f.labels.bincount().max()) / len(f.labels)
            right = round(said.accuracy * len(f.labels))
            blind = float(binom.sf(right - 1, len(f.labels), guess)) > 0.01
        if not (untouched or blind):
            continue
        why = (
            [f"it is right in {_pc(said.accuracy)}, no more than naming the commonest class would be"]
            if (blind and said.accuracy is not None)
            else []
        )
        share = initial_share(parts)
        if untouched:
            why.append("all its weights are as an initialisation leaves them")
        elif share >= 0.5:
            why.append(f"{_pc(share)} of its weights are as an initialisation leaves them")
        severity = (
            0.97
            if untouched
            else 0.8
            if share >= 0.5
            else 0.45
            if f.explained(role, found)
            else 0.6
            if any(x.code in ("class_bias", "head_mismatch") and x.alarm and x.evidence["model"] == role for x in found)
            else 0.75
            if role == "student"
            else 0.85
        )
        yield Finding(
            code=f"untrained_{role}",
            severity=severity,
            sentence=f"The {role} knows nothing of this task: {'; '.join(why)}.",
            evidence={
                "model": role,
                "accuracy": said.accuracy,
                "weights_as_initialised": share,
                "mean_confidence": said.confidence,
            },
            try_next="Check that its checkpoint was loaded (names of keys, strict=True) and that these are "
            "the data and classes it was trained on.",
        )


def _one_class(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    repaired = {(g.role, g.code) for g in f.gains}
    causes = [x for x in found if (x.evidence.get("model"), x.code) not in repaired]  # a repair may be a coincidence
    for role in ROLES:
        counts = f.said[role].logits.argmax(1).bincount(minlength=len(f.names))
        share, top = float(counts.max()) / int(counts.sum()), int(counts.argmax())
        reference = f.labels if f.labels is not None else f.said[f.other(role)].logits.argmax(1)
        due = float((reference == top).double().mean())
        if share >= 0.9 and due <= 0.5:
            yield Finding(
                code="collapsed_output",
                severity=0.45 if f.explained(role, causes) else 0.7,
                sentence=f"The {role} names class {f.names[top]} in {_pc(share)} of the samples; it is due in "
                f"{_pc(due)}.",
                evidence={"model": role, "classes": [f.names[top]], "share": share, "due": due},
                try_next="Look at the layer before the classifier and its bias; check class weights and the balance "
                "of the training data.",
            )


def _worse(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    from ..functional.agreement import paired_gain

    student, teacher = f.said["student"], f.said["teacher"]
    if student.right is None or teacher.right is None:
        return
    more = paired_gain(teacher.right, student.right)
    if more.gain >= 0.03 and more.p <= 0.05:
        known = f.explained("teacher", found)
        hint = " This may follow from another finding about the teacher." if known else ""
        yield Finding(
            code="teacher_worse_than_student",
            severity=min(0.55 if known else 0.95, 0.55 + 2 * more.gain),
            sentence=f"The teacher is worse than its student: it is right in {_pc(teacher.accuracy or 0.0)} against "
            f"{_pc(student.accuracy or 0.0)}.{hint}",
            evidence={
                "model": "teacher",
                "accuracy_teacher": teacher.accuracy,
                "accuracy_student": student.accuracy,
                "only_student_right": more.fixed,
                "only_teacher_right": more.broken,
                "p": more.p,
            },
            try_next="Check the teacher's checkpoint, its input and its mode before distilling from it; train it "
            "longer, or take another.",
        )
    elif more.gain <= -0.01:
        gap, chance = -more.gain, paired_gain(student.right, teacher.right).p
        doubt = f" So small a lead may be chance (p = {chance:.2f}): ask more samples." if chance > 0.05 else ""
        severity = 0.55 if gap >= 0.3 and not f.explained("student", found) else min(0.45, 1.5 * gap)
        yield Finding(
            code="accuracy_gap",
            severity=severity,
            sentence=f"The student is right in {_pc(student.accuracy or 0.0)}, the teacher in "
            f"{_pc(teacher.accuracy or 0.0)}: {more.broken} samples are known to the teacher alone, "
            f"{more.fixed} to the student alone.{doubt}",
            evidence={
                "model": "student",
                "accuracy_teacher": teacher.accuracy,
                "accuracy_student": student.accuracy,
                "only_teacher_right": more.broken,
                "only_student_right": more.fixed,
                "p": chance,
            },
            try_next="Look at the samples the teacher gets right and the student wrong; train longer, distil a layer "
            "that does not match, or give the student more capacity.",
        )


def _bias(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Some classes are named too often: a bias repairs it, or the shares alone show it."""
    if f.labels is None:
        return
    best = max((s.accuracy for s in f.said.values() if s.accuracy is not None), default=0.0)
    due = f.labels.bincount(minlength=len(f.names)).double() / len(f.labels)
    for role in ROLES:
        said = f.said[role].logits.argmax(1).bincount(minlength=len(f.names)).double() / len(f.labels)
        off = float((said - due).abs().sum()) / 2
        g = next((g for g in f.gains if g.role == role and g.code == "class_bias"), None)
        if g is None and off < 0.2:
            continue
        explained = any(
            x.alarm and x.code not in (*_HOW, *(o.code for o in f.gains)) and x.evidence.get("model") in (role, "both")
            for x in found
        ) or (g is None and f.explained(role, found))
        lost = max(best, g.after) - g.before if g is not None else 0.0
        if explained or (g is not None and g.behind and off < 0.2):
            severity = 0.4
        else:
            severity = max(
                0.0 if g is None or g.behind else _share(g, lost),
                0.6 if off >= 0.2 and (g is None or not g.behind) else 0.4,
            )
        over, under = int((said - due).argmax()), int((said - due).argmin())
        repair = (
            f" With one more bias per class, found on other samples, it is right in {_pc(g.after)} instead of "
            f"{_pc(g.before)}."
            if g is not None
            else ""
        )
        yield Finding(
            code="class_bias",
            severity=severity,
            sentence=f"The {role} favours class {f.names[over]} (named in {_pc(float(said[over]))}, due in "
            f"{_pc(float(due[over]))}) and neglects {f.names[under]} ({_pc(float(said[under]))}, due in "
            f"{_pc(float(due[under]))}).{repair}",
            evidence={
                "model": role,
                "classes": [f.names[over], f.names[under]],
                "share_misnamed": off,
                **(
                    {}
                    if g is None
                    else {"accuracy_before": g.before, "accuracy_after": g.after, "p": g.p, "better_repairs": g.behind}
                ),
            },
            try_next=f"Look at the bias of the {role}'s last layer and at how often each class was in its training "
            "data; correct the bias by the logarithm of the frequencies, or balance the training.",
        )


def _head(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    best = max((s.accuracy for s in f.said.values() if s.accuracy is not None), default=0.0)
    for g in f.gains:
        if g.code != "head_mismatch":
            continue
        share = g.gain / max(best - g.before, g.gain)
        known = g.behind or any(
            x.alarm
            and x.code not in (*_HOW, "frozen_stage")
            and not x.evidence.get("better_repairs")
            and x.evidence.get("model") in (g.role, "both")
            for x in found
        )
        yield Finding(
            code="head_mismatch",
            severity=0.45 if known or share < 0.5 else 0.5 + 0.3 * share,
            sentence=f"The {g.role}'s last layer does not fit its features: a linear layer fitted to its embeddings of "
            f"{g.samples // 2} samples is right in {_pc(g.after)} of the others, its own in {_pc(g.before)}.",
            evidence={"model": g.role, "accuracy_before": g.before, "accuracy_after": g.after, "p": g.p},
            try_next="Check that the classifier belongs to this checkpoint and these classes, and that it was trained.",
        )


def _fit(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """A student far behind its teacher, without another cause: has it learnt by heart, or too little?"""
    student, teacher = f.said["student"], f.said["teacher"]
    if (
        student.accuracy is None
        or teacher.accuracy is None
        or bounded(student.logits)
        or f.explained("student", [x for x in found if x.code not in ("temperature_without_t2", "collapsed_features")])
    ):
        return
    gap, over = teacher.accuracy - student.accuracy, student.confidence - student.accuracy
    if gap >= 0.15 and over >= 0.15:
        yield Finding(
            code="overfitted_student",
            severity=_ramp(min(gap, over), 0.15, 0.4, 0.55, 0.75),
            sentence=f"The student has learnt by heart: on these samples it gives its class {_pc(student.confidence)} "
            f"and is right in {_pc(student.accuracy)}, the teacher in {_pc(teacher.accuracy)}.",
            evidence={
                "model": "student",
                "confidence": student.confidence,
                "accuracy": student.accuracy,
                "accuracy_teacher": teacher.accuracy,
            },
            try_next="Train it on more samples (the teacher can label them), augment, stop earlier, and weigh the soft "
            "term higher.",
        )
    elif gap >= 0.25:
        size = sum(p.numel() for p in f.nets["student"].model.parameters()) / max(
            1, sum(p.numel() for p in f.nets["teacher"].model.parameters())
        )
        small = f" It has {_pc(size)} of the teacher's parameters." if size < 0.1 else ""
        yield Finding(
            code="underfitted_student",
            severity=_ramp(gap, 0.25, 0.6, 0.55, 0.75),
            sentence="The student has learnt too little, or from too few samples: it is right in "
            f"{_pc(student.accuracy)} against {_pc(teacher.accuracy)}, and does not claim more "
            f"({_pc(student.confidence)}).{small}",
            evidence={
                "model": "student",
                "confidence": student.confidence,
                "accuracy": student.accuracy,
                "accuracy_teacher": teacher.accuracy,
                "parameters_share": size,
            },
            try_next="Train longer or with another learning rate, check its training labels; if that does not help, "
            "give it more capacity or a smaller teacher in between.",
        )


def _label_noise(f: Facts) -> Iterator[Finding]:
    if f.labels is None:
        return
    sure = [f.said[r].logits.double().softmax(1).max(1) for r in ROLES]
    agreed = (sure[0].indices == sure[1].indices) & (sure[0].values > 0.8) & (sure[1].values > 0.8)
    against = agreed & (sure[0].indices != f.labels)
    share = float(against.double().mean())
    one_class = any(float(s.indices.bincount().max()) >= 0.9 * len(f.labels) for s in sure)
    if share < 0.15 or f.same or one_class:  # a model that names one class only agrees with anything
        return
    renamed = sum(g.code == "label_permutation" for g in f.gains) == 2
    yield Finding(
        code="label_noise",
        severity=0.35 if renamed else min(0.95, 0.5 + share),
        sentence=f"In {_pc(share)} of the samples both models agree, surely, on a class that is not the label.",
        evidence={"model": "both", "samples": f.sample.index[against].tolist(), "share": share},
        try_next="Look at these samples: their labels, or the order in which labels are joined to inputs, are wrong.",
    )


def _classes(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    if f.labels is None:
        return
    count = f.labels.bincount(minlength=len(f.names))
    renamed = {name for x in found if x.code == "label_permutation" for name in x.evidence.get("said_for", {})}
    for role in ROLES:
        mine, theirs = f.said[role].recall, f.said[f.other(role)].recall
        assert mine is not None and theirs is not None
        lost = [
            c
            for c in range(len(f.names))
            if count[c] >= 5 and mine[c] <= 0.1 and theirs[c] >= 0.6 and f.names[c] not in renamed
        ]
        if lost and len(lost) < int((count > 0).sum()) / 2:
            names = [f.names[c] for c in lost]
            yield Finding(
                code="missing_class",
                severity=0.45 if f.explained(role, found) else 0.7,
                sentence=f"The {role} does not know class {', '.join(names)}: it finds {_pc(float(mine[lost].mean()))} "
                f"of its samples, the {f.other(role)} {_pc(float(theirs[lost].mean()))}.",
                evidence={
                    "model": role,
                    "classes": names,
                    "recall": mine[lost].tolist(),
                    "recall_other": theirs[lost].tolist(),
                },
                try_next="Check that the class is in its training data and in its class list; where data cannot be "
                "had, weigh the soft term higher: the teacher knows the class.",
            )
    student, teacher = f.said["student"], f.said["teacher"]
    assert student.recall is not None and teacher.recall is not None
    gap = (teacher.recall - student.recall).where(count >= 8, torch.nan)
    mean = float((teacher.accuracy or 0.0) - (student.accuracy or 0.0))
    if bool(gap.isfinite().any()):
        worst = int(gap.nan_to_num(nan=-2.0).argmax())
        beyond = float(gap[worst]) - max(0.0, mean)
        if beyond >= 0.15:
            yield Finding(
                code="class_gap",
                severity=_ramp(beyond, 0.15, 0.5, 0.2, 0.4),
                sentence=f"The student lags most in class {f.names[worst]}: it finds "
                f"{_pc(float(student.recall[worst]))} of its {int(count[worst])} samples, the teacher "
                f"{_pc(float(teacher.recall[worst]))}.",
                evidence={
                    "model": "student",
                    "classes": [f.names[worst]],
                    "recall_student": float(student.recall[worst]),
                    "recall_teacher": float(teacher.recall[worst]),
                },
                try_next="Look at the images of this class that only the teacher gets right; give it more weight.",
            )


# ---------------------------------------------------------------------------------------------------------- differences


def _student_confidence(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    said = f.said["student"]
    if (
        said.accuracy is None
        or said.temperature is None
        or said.nll is None
        or said.nll_fitted is None
        or bounded(said.logits)
    ):
        return
    over, top = said.confidence - said.accuracy, 0.45 if f.explained("student", found) else 1.0
    sharp = said.sharp
    numbers = {
        "model": "student",
        "confidence": said.confidence,
        "accuracy": said.accuracy,
        "ece": said.ece,
        "fitting_temperature": said.temperature,
    }
    if over >= 0.1 or sharp:
        fits = f"; its logits fit the labels only when divided by {said.temperature:.1f}" if sharp else ""
        yield Finding(
            code="overconfident_student",
            evidence=numbers,
            severity=min(top, _ramp(math.log(said.temperature), math.log(4), math.log(16), 0.6, 0.85))
            if sharp
            else _ramp(over, 0.1, 0.4, 0.2, 0.45),
            sentence=f"The student gives its class {_pc(said.confidence)} but is right in {_pc(said.accuracy)}{fits}.",
            try_next="More weight on the soft term or a higher temperature usually calibrates a student; look for a "
            "scale that was left in its logits.",
        )
    elif over <= -0.2 and said.temperature > 0.5:
        yield Finding(
            code="underconfident_student",
            severity=min(top, _ramp(-over, 0.2, 0.5, 0.55, 0.75)),
            evidence=numbers,
            sentence=f"The student is right in {_pc(said.accuracy)} but gives its class only "
            f"{_pc(said.confidence)}: it was taught to doubt.",
            try_next="Look for wrong labels in its training data, strong label smoothing, mixing or augmentation, or a "
            "temperature in its output.",
        )


def _dark_knowledge(f: Facts) -> Iterator[Finding]:
    tau = f.agreement.get("kendall_nontarget")
    known = [f.said[r].accuracy for r in ROLES]
    if tau is None or tau >= 0.3 or any(a is None or a < 0.6 for a in known):
        return
    yield Finding(
        code="soft_targets_ignored",
        severity=_ramp(0.3 - tau, 0.0, 0.3, 0.15, 0.3),
        sentence="The student hardly follows the teacher's order of the classes beside the right one (Kendall's tau "
        f"{tau:.2f}).",
        evidence={"model": "student", "kendall_nontarget": tau},
        try_next="If it was distilled: check that the soft term carries T^2 (without it its gradient is 1 / T^2) and "
        "its weight; a loss on the other classes (DKD) or on their order (PLD, DIST) goes at this.",
    )


def _layers(f: Facts) -> Iterator[Finding]:
    if f.cka is None:
        return
    known = [
        (float(f.cka.matrix[f.cka.layers_x.index(s), f.cka.layers_y.index(t)]), s, t)
        for s, t in f.pairs
        if s in f.cka.layers_x and t in f.cka.layers_y
    ]
    known = [k for k in known if math.isfinite(k[0])]
    if not known or min(known)[0] >= 0.5:
        return
    value, s, t = min(known)
    cell = f.cka.layers_x.index(s), f.cka.layers_y.index(t)
    interval = None if f.cka.interval is None else f.cka.interval[cell].tolist()
    around = "" if interval is None else f" (interval {interval[0]:.2f} to {interval[1]:.2f})"
    yield Finding(
        code="layer_mismatch",
        severity=_ramp(0.5 - value, 0.0, 0.5, 0.15, 0.35),
        sentence=f"Layer {s} of the student holds least of what {t} of the teacher holds: CKA {value:.2f}{around}.",
        evidence={"model": "student", "layers": [s, t], "cka": value, "interval": interval},
        try_next="If features are to be distilled, this pair has most to gain; or pair the layer with another.",
    )


def _regions(f: Facts) -> Iterator[Finding]:
    seen = f.occlusion
    if seen is not None and bool(seen.correlation.isfinite().any()):
        mean = float(seen.correlation.nanmean())
        if mean < 0.3:
            yield Finding(
                code="attention_mismatch",
                severity=0.3,
                sentence="Teacher and student need different regions of the "
                f"images: their occlusion maps correlate by {mean:.2f} on average.",
                evidence={
                    "model": "student",
                    "samples": f.sample.index[seen.rows].tolist(),
                    "correlation": seen.correlation.tolist(),
                },
                try_next="Look at the maps: a student that reads the background will not transfer; a spatial feature "
                "loss or masked training goes at this.",
            )
    start = next((r for r in f.robustness if r["ratio"] == 0.0), None)
    if start is None:
        return
    gap = start["teacher"] - start["student"]
    row = max(f.robustness, key=lambda r: r["teacher"] - r["student"])
    beyond = row["teacher"] - row["student"] - max(0.0, gap)
    if beyond >= 0.15:
        yield Finding(
            code="fragile_to_masks",
            severity=_ramp(beyond, 0.15, 0.4, 0.2, 0.4),
            sentence=f"With {_pc(row['masked'])} of the image hidden ({row['kind']} mask) the student falls to "
            f"{_pc(row['student'])}, the teacher to {_pc(row['teacher'])}.",
            evidence={"model": "student", **row},
            try_next="Train the student on masked images (occlusion-robust losses).",
        )


def _same(f: Facts) -> Iterator[Finding]:
    if f.same:
        yield Finding(
            code="same_weights",
            severity=0.3,
            evidence={"model": "both"},
            sentence="Teacher and student have the same weights: the comparison shows the model with itself.",
            try_next="If that is not meant, check which checkpoint each of them loads.",
        )


_PLAIN: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _counterfactuals,
    _scaled,
    _stated_input,
    _modes,
    _dead,
    _odd,
    _unseen,
    _frozen,
    _collapsed,
    _outputs,
    _temperature,
    _label_noise,
    _dark_knowledge,
    _layers,
    _regions,
    _same,
)
_SYMPTOMS: tuple[Callable[[Facts, Sequence[Finding]], Iterator[Finding]], ...] = (
    _bias,
    _one_class,
    _head,
    _guessing,
    _classes,
    _fit,
    _teacher_confidence,
    _student_confidence,
    _worse,
)
#: What follows by itself where a model was never trained.
_OF_UNTRAINED = frozenset(
    {
        "dead_stage",
        "frozen_stage",
        "zeroed_weights",
        "collapsed_features",
        "collapsed_output",
        "class_bias",
        "missing_class",
        "overconfident_teacher",
        "underconfident_teacher",
        "overconfident_student",
    }
)


def judge(facts: Facts) -> list[Finding]:
    """All findings, the severest first; symptoms are judged after causes and yield to them."""
    found = [finding for rule in _PLAIN for finding in rule(facts)]
    for rule in _SYMPTOMS:
        found += list(rule(facts, tuple(found)))
    untrained = {role for role in ROLES if fresh(facts.stages.get(role, []))}
    return ranked(
        [
            replace(f, severity=min(f.severity, 0.45))
            if f.code in _OF_UNTRAINED and f.evidence.get("model") in untrained
            else f
            for f in found
        ]
    )


def ranked(found: Sequence[Finding]) -> list[Finding]:
    """Sorted by severity, the severest first; equals keep their order."""
    return sorted(found, key=lambda f: -f.severity)


def same_network(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules are one, or hold equal weights."""
    if first is second:
        return True
    a, b = first.state_dict(), second.state_dict()
    return (
        bool(a)
        and a.keys() == b.keys()
        and all(a[k].shape == b[k].shape and torch.equal(a[k].cpu(), b[k].cpu()) for k in a)
    )


__all__ = ["Facts", "Finding", "bounded", "judge", "ranked", "same_network"]
