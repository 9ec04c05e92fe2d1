"""What the training shows: samples that were learnt from, inputs prepared otherwise, a student trained too little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .._finding import HOW, Facts, Finding, pc, ramp
from .._pair import ROLES
from .._probes import MENDS_ALL
from .._thresholds import CLIFF, COPIES, SHIFT, UNERRING

#: What a student that was trained too little shows by itself.
OF_TOO_LITTLE = frozenset(
    {
        "overfitted_student",
        "underfitted_student",
        "collapsed_output",
        "collapsed_features",
        "class_bias",
        "missing_class",
        "batch_norm_statistics",
        "input_normalization_mismatch",
        "head_mismatch",
        "untrained_student",
        "overconfident_student",
        "underconfident_student",
        "temperature_without_t2",
        "accuracy_gap",
    }
)


def learnt_samples(f: Facts) -> Iterator[Finding]:
    """Samples of the data that are training samples, or look so because both models are right on all of them."""
    known = f.training
    if known is not None and len(known.copies):
        share = len(known.copies) / len(f.sample)
        alarm = len(known.copies) >= 2 and share >= COPIES
        yield Finding(
            code="test_on_training_data",
            severity=ramp(share, COPIES, 0.5, 0.6, 0.95) if alarm else 0.4,
            sentence=f"{len(known.copies)} of the {len(f.sample)} samples are training samples or near copies of "
            f"them ({known.words} compared): accuracies on these data say how well the models remember.",
            evidence={
                "model": "both",
                "share": share,
                "samples": f.sample.index[known.copies].tolist(),
                "training_samples": known.partners,
            },
            try_next="Take the copies out of one of the two sets, split again by the source of the samples, and "
            "measure anew.",
        )
    said = [f.said[r] for r in ROLES]
    right = [s.accuracy for s in said]
    if known is not None or f.same or any(a is None or a < UNERRING for a in right):
        return
    sure = ", ".join(
        f"the {r} in {pc(f.said[r].accuracy or 0.0)} (confidence {pc(f.said[r].confidence)})" for r in ROLES
    )
    yield Finding(
        code="test_on_training_data",
        severity=0.45,
        sentence=f"Both models are right on (almost) all of the {len(f.sample)} samples: {sure}. Either the task is "
        "easy, or these are samples they learnt from; nothing in the answers tells which.",
        evidence={"model": "both", "accuracy": right, "confidence": [s.confidence for s in said]},
        try_next="Pass training= (the training samples) to look for copies, and examine samples that neither model was "
        "trained on.",
    )


_SAYS = {
    "sharpness": "input_resolution_mismatch",
    "mean": "input_normalization_mismatch",
    "spread": "input_normalization_mismatch",
}


def prepared_otherwise(f: Facts) -> Iterator[Finding]:
    """Data that differ from the training samples as a whole: in sharpness, mean or spread."""
    known = f.training
    if known is None:
        return
    off = {name: chance for name, chance in known.shift.items() if abs(chance - 0.5) >= SHIFT}
    lost = [known.accuracy[r] - (f.said[r].accuracy or 0.0) for r in ROLES if r in known.accuracy]
    behind = max(lost, default=0.0) >= 0.1
    for code in dict.fromkeys(_SAYS[name] for name in off):
        mine = {name: chance for name, chance in off.items() if _SAYS[name] == code}
        words = " and ".join(
            f"{'more' if c > 0.5 else 'less'} {n} than a training sample in {pc(max(c, 1 - c))}"
            for n, c in mine.items()
        )
        cause = "size, interpolation or compression" if code == "input_resolution_mismatch" else "scaling"
        yield Finding(
            code=code,
            severity=ramp(max(abs(c - 0.5) for c in mine.values()), SHIFT, 0.5, 0.7, 0.9) if behind else 0.4,
            sentence=f"The data are not prepared as the training samples were: a sample of theirs has {words} of the "
            f"comparisons ({len(f.sample)} samples against {known.samples}). Another {cause} does this.",
            evidence={
                "model": "both",
                **{f"more_{name}": chance for name, chance in known.shift.items()},
                "accuracy_on_training_samples": known.accuracy,
                "training_samples": known.samples,
            },
            try_next="Prepare the data by the same code as the training samples: reader, size, interpolation, "
            "compression, normalisation.",
        )


#: Alarms that say how a model errs, or that almost anything mends it: images that were scaled up may be the cause.
_EFFECTS = frozenset({*HOW, *MENDS_ALL, "overfitted_student", "underfitted_student", "accuracy_gap"})


def enlarged(f: Facts, found: Sequence[Finding]) -> Iterator[Finding]:
    """Images that were scaled up: a fault where the models were not trained on such, which a symptom may show."""
    if f.cliffs is None or min(fall for fall, _ in f.cliffs) < CLIFF:
        return
    rows, columns = (at for _, at in f.cliffs)
    odd = any(x.alarm and x.code in _EFFECTS for x in found)
    height, width = f.sample.x.shape[2:]
    yield Finding(
        code="input_resolution_mismatch",
        severity=max([0.4, *(x.severity + 0.01 for x in found if x.alarm and x.code in _EFFECTS)]),
        sentence=f"The images were scaled up: of {height} x {width} pixels they hold {rows} x {columns}."
        + (
            " Networks trained on sharp ones err on them; what else is found here may follow from it."
            if odd
            else " That is as it should be if the models were trained on such."
        ),
        evidence={"model": "both", "rows": rows, "columns": columns, "size": [height, width]},
        try_next="Compare the size and interpolation of these images with those of the training; pass training= to "
        "have it measured.",
    )


def too_little(f: Facts) -> Iterator[Finding]:
    """A student whose history shows that nothing, or little, was learnt yet."""
    known = f.learning
    student, teacher = f.said["student"], f.said["teacher"]
    if known is None or not known.too_little:
        return
    if student.accuracy is not None and teacher.accuracy is not None and teacher.accuracy - student.accuracy < 0.1:
        return  # it knows what its teacher knows, however short the training was
    much = f"{known.steps:,} steps" if known.steps is not None else ""
    epochs = f"{known.epochs} epoch{'s' if known.epochs != 1 else ''}"
    after = f"{much} ({epochs})" if much else epochs
    falls = (
        f", and it was still falling (by {pc(known.falling)} of that in the last third)" if known.falling > 0 else ""
    )
    right = (
        f" It is right in {pc(student.accuracy)} of {len(f.sample)} samples." if student.accuracy is not None else ""
    )
    evidence: dict[str, Any] = {"model": "student", **known._asdict(), "accuracy": student.accuracy}
    yield Finding(
        code="trained_too_little",
        severity=ramp(1 - known.learnt, 0.5, 1.0, 0.7, 0.9),
        sentence=f"The student was trained too little: after {after} its term {known.term!r} is {known.last:.3g}, "
        f"{pc(known.last / known.start)} of the {known.start:.3g} it starts from{falls}.{right}",
        evidence=evidence,
        try_next="Train it longer (or with a larger learning rate) until the loss is level, and ask again: what else "
        "is found now follows from this.",
    )
