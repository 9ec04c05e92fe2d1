"""The answers, class by class: guessing, favoured and missing classes, what the teacher knows and the student not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .._finding import HOW, Facts, Finding, pc, ramp
from .._pair import ROLES
from .._probes import CHANCE
from .._thresholds import MISNAMED, NOISY
from .._weights import fresh, initial_share
from .inputs import worth
from .outputs import bounded


def guessing(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Models that do no better than naming the commonest class."""
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
            [
                f"it is right in {pc(said.accuracy)} of {len(f.sample)} samples, no more than naming the commonest "
                f"class would be"
            ]
            if (blind and said.accuracy is not None)
            else []
        )
        share = initial_share(parts)
        if untouched:
            why.append("all its weights are as an initialisation leaves them")
        elif share >= 0.5:
            why.append(f"{pc(share)} of its weights are as an initialisation leaves them")
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


def one_class(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Models that name one class far too often."""
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
                sentence=f"The {role} names class {f.names[top]} in {pc(share)} of the samples; it is due in "
                f"{pc(due)}.",
                evidence={"model": role, "classes": [f.names[top]], "share": share, "due": due},
                try_next="Look at the layer before the classifier and its bias; check class weights and the balance "
                "of the training data.",
            )


def worse(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """A teacher that is worse than its student, or knows samples that its student does not."""
    from ...functional.agreement import paired_gain

    student, teacher = f.said["student"], f.said["teacher"]
    if student.right is None or teacher.right is None:
        return
    more = paired_gain(teacher.right, student.right)
    if more.gain >= 0.03 and more.p <= CHANCE:
        known = f.explained("teacher", [x for x in found if x.code != "untrained_teacher"])
        hint = " This may follow from another finding about the teacher." if known else ""
        yield Finding(
            code="teacher_worse_than_student",
            severity=min(0.55 if known else 0.95, 0.55 + 2 * more.gain),
            sentence=f"The teacher is worse than its student: it is right in {pc(teacher.accuracy or 0.0)} against "
            f"{pc(student.accuracy or 0.0)} of {len(f.sample)} samples.{hint}",
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
            sentence=f"The student is right in {pc(student.accuracy or 0.0)}, the teacher in "
            f"{pc(teacher.accuracy or 0.0)} of {len(f.sample)} samples: {more.broken} are known to the teacher alone, "
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


def bias(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Some classes are named too often: a bias repairs it, or the shares alone show it."""
    if f.labels is None:
        return
    best = max((s.accuracy for s in f.said.values() if s.accuracy is not None), default=0.0)
    due = f.labels.bincount(minlength=len(f.names)).double() / len(f.labels)
    for role in ROLES:
        said = f.said[role].logits.argmax(1).bincount(minlength=len(f.names)).double() / len(f.labels)
        off = float((said - due).abs().sum()) / 2
        g = next((g for g in f.gains if g.role == role and g.code == "class_bias"), None)
        if g is None and off < MISNAMED:
            continue
        explained = any(
            x.alarm and x.code not in (*HOW, *(o.code for o in f.gains)) and x.evidence.get("model") in (role, "both")
            for x in found
        ) or (g is None and f.explained(role, found))
        lost = max(best, g.after) - g.before if g is not None else 0.0
        if explained or (g is not None and g.behind and off < MISNAMED):
            severity = 0.4
        else:
            weak = g is not None and g.gain < 0.5 * max(lost, 1e-9)  # a little of a loss is mended by almost anything
            severity = max(
                0.0 if g is None or g.behind else min(worth(g, lost), 0.45) if weak else worth(g, lost),
                0.6 if off >= MISNAMED and (g is None or not g.behind) else 0.4,
            )
        over, under = int((said - due).argmax()), int((said - due).argmin())
        repair = (
            f" With one more bias per class, found on other samples, it is right in {pc(g.after)} instead of "
            f"{pc(g.before)} of {g.samples}."
            if g is not None
            else ""
        )
        yield Finding(
            code="class_bias",
            severity=severity,
            sentence=f"The {role} favours class {f.names[over]} (named in {pc(float(said[over]))}, due in "
            f"{pc(float(due[over]))}) and neglects {f.names[under]} ({pc(float(said[under]))}, due in "
            f"{pc(float(due[under]))}).{repair}",
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


def head(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """A last layer that does not fit the features below it."""
    best = max((s.accuracy for s in f.said.values() if s.accuracy is not None), default=0.0)
    for g in f.gains:
        if g.code != "head_mismatch":
            continue
        share = g.gain / max(best - g.before, g.gain)
        known = g.behind or any(
            x.alarm
            and x.code not in (*HOW, "frozen_stage")
            and not x.evidence.get("better_repairs")
            and x.evidence.get("model") in (g.role, "both")
            for x in found
        )
        yield Finding(
            code="head_mismatch",
            severity=0.45 if known or share < 0.5 else 0.5 + 0.13 * share,  # it mends whatever is wrong below
            sentence=f"The {g.role}'s last layer does not fit its features: a linear layer fitted to its embeddings of "
            f"{g.samples // 2} samples is right in {pc(g.after)} of the others ({g.samples} in two turns), its own in "
            f"{pc(g.before)}. Whatever is wrong below, an input that was not tried among it, may show the same.",
            evidence={
                "model": g.role,
                "accuracy_before": g.before,
                "accuracy_after": g.after,
                "samples": g.samples,
                "p": g.p,
            },
            try_next="Check that the classifier belongs to this checkpoint and these classes, and that it was trained.",
        )


def fit(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
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
    learnt = None if f.training is None else f.training.accuracy.get("student")
    if gap >= 0.15 and over >= 0.15 and (learnt is None or learnt - student.accuracy >= 0.15):
        assert f.training is not None or learnt is None
        seen = (
            f"it is right in {pc(learnt)} of {f.training.samples} training samples, and "
            if learnt is not None and f.training is not None
            else ""
        )
        doubt = (
            ""
            if learnt is not None
            else " An input prepared otherwise than in its training (another interpolation, crop or size that was not "
            "tried) looks the same; training= tells them apart."
        )
        yield Finding(
            code="overfitted_student",
            severity=ramp(min(gap, over), 0.15, 0.4, 0.55, 0.75 if learnt is not None else 0.62),
            sentence=f"The student has {'' if learnt is not None else 'perhaps '}learnt by heart: {seen}on these "
            f"{len(f.sample)} samples it gives its class {pc(student.confidence)} and is right in "
            f"{pc(student.accuracy)}, the teacher in {pc(teacher.accuracy)}.{doubt}",
            evidence={
                "model": "student",
                "confidence": student.confidence,
                "accuracy": student.accuracy,
                "accuracy_teacher": teacher.accuracy,
                "accuracy_on_training_samples": learnt,
            },
            try_next="Train it on more samples (the teacher can label them), augment, stop earlier, and weigh the soft "
            "term higher.",
        )
    elif gap >= 0.2:
        size = sum(p.numel() for p in f.nets["student"].model.parameters()) / max(
            1, sum(p.numel() for p in f.nets["teacher"].model.parameters())
        )
        small = f" It has {pc(size)} of the teacher's parameters." if size < 0.1 else ""
        yield Finding(
            code="underfitted_student",
            severity=ramp(gap, 0.2, 0.6, 0.55, 0.75),
            sentence="The student has learnt too little, or from too few samples: it is right in "
            f"{pc(student.accuracy)} against {pc(teacher.accuracy)} of {len(f.sample)} samples, and does not claim "
            f"more "
            f"({pc(student.confidence)}).{small}",
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


def label_noise(f: Facts) -> Iterator[Finding]:
    """Samples in which both models agree, surely, on another class than the label's."""
    if f.labels is None:
        return
    sure = [f.said[r].logits.double().softmax(1).max(1) for r in ROLES]
    agreed = (sure[0].indices == sure[1].indices) & (sure[0].values > 0.8) & (sure[1].values > 0.8)
    against = agreed & (sure[0].indices != f.labels)
    share = float(against.double().mean())
    one_class = any(float(s.indices.bincount().max()) >= 0.9 * len(f.labels) for s in sure)
    if share < NOISY or f.same or one_class:  # a model that names one class only agrees with anything
        return
    renamed = sum(g.code == "label_permutation" for g in f.gains) == 2
    yield Finding(
        code="label_noise",
        severity=0.35 if renamed else min(0.95, 0.5 + share),
        sentence=f"In {pc(share)} of the samples both models agree, surely, on a class that is not the label.",
        evidence={"model": "both", "samples": f.sample.index[against].tolist(), "share": share},
        try_next="Look at these samples: their labels, or the order in which labels are joined to inputs, are wrong.",
    )


def weak_classes(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Classes that a model does not know, or knows far less than the other."""
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
                sentence=f"The {role} does not know class {', '.join(names)}: it finds {pc(float(mine[lost].mean()))} "
                f"of its samples, the {f.other(role)} {pc(float(theirs[lost].mean()))}.",
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
                severity=ramp(beyond, 0.15, 0.5, 0.2, 0.4),
                sentence=f"The student lags most in class {f.names[worst]}: it finds "
                f"{pc(float(student.recall[worst]))} of its {int(count[worst])} samples, the teacher "
                f"{pc(float(teacher.recall[worst]))}.",
                evidence={
                    "model": "student",
                    "classes": [f.names[worst]],
                    "recall_student": float(student.recall[worst]),
                    "recall_teacher": float(teacher.recall[worst]),
                },
                try_next="Look at the images of this class that only the teacher gets right; give it more weight.",
            )
