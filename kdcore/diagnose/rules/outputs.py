"""What leaves a model: raw scores or not, how sure, at which temperature, in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from .._finding import Facts, Finding, pc, ramp
from .._history import lacks_t2
from .._measures import SOFT_TEMPERATURE
from .._pair import ROLES, Role
from .._probes import ORDINARY
from .._thresholds import DOUBT, OVERCONFIDENT, SCALES, SHARP

#: Logits of the two models whose scales differ by so much are worth a note.
NOTED = 2.5
#: A loss whose gradients fit at so many times the temperature stated divides by it again.
TWICE = 1.4


def not_logits(f: Facts) -> Iterator[Finding]:
    """Probabilities where the losses expect raw scores."""
    for role in ROLES:
        if kind := log_probabilities(f.said[role].logits):
            said = f.said[role]
            flat = f" They fit the labels best at temperature {said.temperature:.2g}." if said.temperature else ""
            yield Finding(
                code="probabilities_not_logits",
                severity=0.7,
                sentence=f"The {role} gives log-probabilities instead of raw scores: no score is above 0, and the "
                "logarithm of the summed exponentials is 0 for every sample (with raw scores it is a number of their "
                f"own).{flat}",
                evidence={"model": role, "kind": kind, "fitting_temperature": said.temperature},
                try_next=f"Remove the log_softmax at the end of the {role}: softmax losses do not see it, losses on "
                "the logits themselves (their differences, norms, standardised scores) do, and a temperature inside it "
                "is divided by once more in the loss.",
            )
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


def log_probabilities(logits: Tensor) -> str:
    """``"log-probabilities"`` where the logarithm of the summed exponentials of every row is 0."""
    off = float(logits.double().logsumexp(1).abs().max())
    return "log-probabilities" if float(logits.max()) <= 1e-6 and off < 1e-4 and float(logits.std()) > 0 else ""


def temperature(f: Facts) -> Iterator[Finding]:
    """A soft term that lacks its T^2: read from a history, or seen in a student that doubts what it knows."""
    term = f.soft_term
    if term is not None and term.fitting is not None and term.fitting >= TWICE * term.temperature >= TWICE * TWICE:
        yield Finding(
            code="temperature_twice",
            severity=0.9,
            sentence=f"A temperature divides the logits more than once: the gradients of the loss given are those of "
            f"KL at temperature {term.fitting:.2g}, and {term.temperature:g} was stated"
            + (" (its square)." if abs(math.log(term.fitting / term.temperature**2)) < 0.2 else "."),
            evidence={"model": "student", "temperature": term.temperature, "fitting_temperature": term.fitting},
            try_next="Divide the logits by T in one place: in the loss, neither before it nor in the model.",
        )
        return
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
    scale = 1 / scale_ratio(f)
    if student.accuracy is not None and student.temperature is not None:
        short = student.accuracy - student.confidence
        if not student.flat:
            return
        severity, known = (
            ramp(short, DOUBT, 0.5, 0.6, 0.85),
            (
                f"it is right in {pc(student.accuracy)} of {len(f.sample)} samples but gives its class only "
                f"{pc(student.confidence)}, and fits "
                f"the labels best at temperature {student.temperature:.2g}"
            ),
        )
    else:
        if f.agreement["top1"] < 0.7 or teacher.confidence - student.confidence < 0.25:
            return
        severity, known = (
            0.6,
            (
                f"it agrees with the teacher in {pc(f.agreement['top1'])} but gives its class only "
                f"{pc(student.confidence)} where the teacher gives {pc(teacher.confidence)}"
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


def scale_ratio(f: Facts) -> float:
    """The student's spread of logits over the teacher's (standard deviation over classes, median over samples)."""
    student, teacher = (f.said[r].logits.double().std(1).median() for r in ("student", "teacher"))
    return float(student.clamp_min(1e-12) / teacher.clamp_min(1e-12))


def scales(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Logits of the two models that live on other scales, where neither is odd by itself."""
    ratio = scale_ratio(f)
    if max(ratio, 1 / ratio) < NOTED or any(bounded(f.said[r].logits) for r in ROLES):
        return
    low: Role = "student" if ratio < 1 else "teacher"
    high = f.other(low)
    if f.explained(low, found) or f.explained(high, found) or any(f.said[r].off_scale for r in ROLES):
        return
    accuracy = [f.said[r].accuracy for r in (low, high)]
    if accuracy[0] is not None and accuracy[1] is not None and accuracy[1] - accuracy[0] >= 0.15:
        return  # who knows less is less sure
    times = max(ratio, 1 / ratio)
    temperatures = [f.said[r].temperature for r in (low, high)]
    fits = (
        f" (they fit the labels at temperatures {temperatures[0]:.2g} and {temperatures[1]:.2g})"
        if temperatures[0] is not None and temperatures[1] is not None
        else ""
    )
    severity = ramp(math.log(times), math.log(SCALES), math.log(4 * SCALES), 0.55, 0.7) if times >= SCALES else 0.3
    said = f"are {times:.1f} times {{}} than the {{}}'s{fits}, and neither knows much less than the other"
    if (temperatures[1] or 1.0) > ORDINARY[1]:
        yield Finding(
            code=f"overconfident_{high}",
            severity=severity,
            sentence=f"The {high}'s logits {said.format('larger', low)}: a scale may be left in the {high}.",
            evidence={"model": high, "logit_scale_ratio": times, "fitting_temperature": temperatures[1]},
            try_next=f"Look for a factor in the {high}'s last layer; calibrate it (divide by what fits).",
        )
        return
    yield Finding(
        code="temperature_without_t2" if low == "student" else "underconfident_teacher",
        severity=severity,
        sentence=f"The {low}'s logits {said.format('smaller', high)}: a temperature may divide the {low}'s logits in "
        "the model and again in the loss.",
        evidence={"model": low, "logit_scale_ratio": times, "fitting_temperature": temperatures[0]},
        try_next=f"Look for a division by a temperature inside the {low}; it belongs into the loss alone.",
    )


def teacher_confidence(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """A teacher that is surer than it is right, or the reverse: its soft targets say too little."""
    teacher = f.said["teacher"]
    if bounded(teacher.logits):
        return
    over = 0.0 if teacher.accuracy is None else teacher.confidence - teacher.accuracy
    top = 0.45 if f.explained("teacher", found) else 1.0
    reasons: list[tuple[float, str]] = []
    if over >= OVERCONFIDENT:
        reasons.append(
            (
                ramp(over, OVERCONFIDENT, 0.3 + OVERCONFIDENT, 0.6, 0.9),
                f"it gives its class {pc(teacher.confidence)} but is right in {pc(teacher.accuracy or 0.0)} of "
                f"{len(f.sample)} samples",
            )
        )
    if teacher.sharp and teacher.temperature is not None:
        reasons.append(
            (
                ramp(math.log(teacher.temperature), math.log(SHARP), math.log(4 * SHARP), 0.6, 0.9),
                f"its logits fit the labels only when divided by {teacher.temperature:.1f}",
            )
        )
    if teacher.soft_mass < 0.01:
        reasons.append(
            (
                ramp(-math.log(max(teacher.soft_mass, 1e-9)), -math.log(0.01), -math.log(1e-6), 0.6, 0.9),
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
            severity=min(top, ramp(-over, DOUBT, 0.5, 0.6, 0.8)),
            sentence=f"The teacher's soft targets are almost flat: it is right in {pc(teacher.accuracy)} of "
            f"{len(f.sample)} samples but gives its class only {pc(teacher.confidence)}; its logits fit at temperature "
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


def student_confidence(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """A student that is surer than it is right, or doubts what it knows."""
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
            severity=min(top, ramp(math.log(said.temperature), math.log(SHARP), math.log(4 * SHARP), 0.6, 0.85))
            if sharp
            else ramp(over, 0.1, 0.4, 0.2, 0.45),
            sentence=f"The student gives its class {pc(said.confidence)} but is right in {pc(said.accuracy)} of "
            f"{len(f.sample)} samples{fits}.",
            try_next="More weight on the soft term or a higher temperature usually calibrates a student; look for a "
            "scale that was left in its logits.",
        )
    elif over <= -0.2 and said.temperature > 0.5:
        yield Finding(
            code="underconfident_student",
            severity=min(top, ramp(-over, 0.2, 0.5, 0.55, 0.75)),
            evidence=numbers,
            sentence=f"The student is right in {pc(said.accuracy)} of {len(f.sample)} samples but gives its class only "
            f"{pc(said.confidence)}: it was taught to doubt.",
            try_next="Look for wrong labels in its training data, strong label smoothing, mixing or augmentation, or a "
            "temperature in its output.",
        )


def dark_knowledge(f: Facts) -> Iterator[Finding]:
    """A student that does not follow the teacher beside the right class."""
    tau = f.agreement.get("kendall_nontarget")
    known = [f.said[r].accuracy for r in ROLES]
    if tau is None or tau >= 0.3 or any(a is None or a < 0.6 for a in known):
        return
    yield Finding(
        code="soft_targets_ignored",
        severity=ramp(0.3 - tau, 0.0, 0.3, 0.15, 0.3),
        sentence="The student hardly follows the teacher's order of the classes beside the right one (Kendall's tau "
        f"{tau:.2f}).",
        evidence={"model": "student", "kendall_nontarget": tau},
        try_next="If it was distilled: check that the soft term carries T^2 (without it its gradient is 1 / T^2) and "
        "its weight; a loss on the other classes (DKD) or on their order (PLD, DIST) goes at this.",
    )
