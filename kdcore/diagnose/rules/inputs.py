"""What reaches a model, and in which mode it runs: counterfactuals of the input, batch statistics, dropout."""

from __future__ import annotations

from collections.abc import Iterator

from .._finding import Facts, Finding, pc
from .._pair import Net, Role
from .._probes import CHANCE, LEAST_GAIN, Gain
from .._states import DROPOUTS, batch_norms
from .outputs import bounded

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


def counterfactuals(f: Facts) -> Iterator[Finding]:
    """Another input, other statistics or other class names make the model right: what was changed is what is wrong."""
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
            f"{what}: {shown}. With the classes renamed, {pc(g.after)} of {g.samples} samples are right instead of "
            f"{pc(g.before)}."
            if said
            else f"The {g.role} is right in {pc(g.after)} instead of {pc(g.before)} of {g.samples} "
            f"samples with {g.words}: "
            + {
                "input_normalization_mismatch": "its input is not normalised as in its training.",
                "swapped_channels": "its colour channels arrive in another order than in its training.",
                "input_geometry_mismatch": "its images are not the way round they were in its training.",
                "input_resolution_mismatch": "its images had another size, crop, interpolation or sharpness before.",
                "colour_mismatch": "it was trained on images without colour.",
                "batch_norm_statistics": "its running statistics do not fit these data.",
            }[g.code]
        )
        severity = worth(g, lost)
        if g.code == "batch_norm_statistics":
            severity = _statistics(f, g, lost)
        elif g.code == "input_normalization_mismatch":
            others = [o for o in f.gains if o.role == g.role and o.code == "batch_norm_statistics"]
            severity = max([severity, *(_or_the_input(f, o, lost).severity for o in others)])
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


def worth(g: Gain, lost: float) -> float:
    """Severity of a repair: the share of the loss that comes back, less where another repair does better."""
    share = min(1.0, g.gain / lost)
    least = 0.5 if g.behind else 0.0 if g.likelier else 0.25
    if share < least:  # a weak model gains a little from many changes
        return 0.4
    return max(0.5, 0.55 + 0.4 * share - 0.06 * g.behind)


#: Statistics of the batch mend much of what is wrong above them: without a mark of their own, no more than this, and
#: less than an input that brings back at least half as much.
UNPROVEN = 0.64


def _proven(f: Facts, g: Gain) -> bool | None:
    """Whether the running statistics are wrong: they were never updated, or do not even fit the training samples; not,
    where they fit those; ``None`` where nothing tells."""
    if g.proven:
        return True
    known = None if f.training is None else f.training.renewed.get(g.role)
    return None if known is None else known[0] >= LEAST_GAIN and known[1] <= CHANCE


def _statistics(f: Facts, g: Gain, lost: float) -> float:
    """Severity of running statistics that do not fit these data."""
    proven = _proven(f, g)
    if proven:
        return worth(g, lost)
    upstream = [
        worth(o, lost) - 0.02
        for o in f.gains
        if o.role == g.role and o.code in _TRY and o.code not in (g.code, "label_permutation") and o.gain >= g.gain / 2
    ]
    return min([worth(g, lost), UNPROVEN if proven is None else 0.45, *upstream])


def _or_the_input(f: Facts, g: Gain, lost: float) -> Finding:
    """Statistics that do not fit the data may be wrong, or the data may be prepared otherwise than was tried: the
    second comes first, as it lies above, unless something shows that the statistics are wrong."""
    proven = _proven(f, g)
    why = {
        True: " (but its running statistics are wrong by themselves, which explains it).",
        False: " (and its running statistics fit the training samples).",
        None: ".",
    }[proven]
    return Finding(
        code="input_normalization_mismatch",
        severity=0.3 if proven else min(worth(g, lost), UNPROVEN) + 0.01 + 0.1 * (proven is False),
        sentence=f"An input that is prepared otherwise than in training would show the same in the {g.role}: none of "
        f"the usual scalings brings its accuracy back, the statistics of the batch do: {pc(g.after)} instead of "
        f"{pc(g.before)} of {g.samples} samples{why}",
        evidence={
            "model": g.role,
            "accuracy_before": g.before,
            "accuracy_with_batch_statistics": g.after,
            "samples": g.samples,
            "running_statistics_wrong": proven,
        },
        try_next=f"Compare the mean and spread of what reaches the {g.role} with what it was trained on.",
    )


def scaled(f: Facts) -> Iterator[Finding]:
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


def stated_input(f: Facts) -> Iterator[Finding]:
    """An input normalisation that a configuration states and that does the model harm; one that does it good is applied
    and no finding (it is told in ``inputs``)."""
    for role, net in f.nets.items():
        raw, stated = net.choice.get("accuracy_raw"), net.choice.get("accuracy_stated")
        if raw is None or stated is None or raw - stated < 0.1 or net.transform is net.stated:
            continue
        yield Finding(
            code="input_normalization_mismatch",
            severity=0.2,
            evidence={"model": role, **net.choice},
            sentence=f"The {role}'s configuration states an input normalisation that does it harm: of the first "
            f"{net.choice['samples']} samples the {role} is right in {pc(stated)} with and {pc(raw)} without it, and "
            "was measured without it.",
            try_next="Kdcore's loops apply the stated normalisation themselves: correct the configuration.",
        )


# ---------------------------------------------------------------------------------------------------------------- modes


def modes(f: Facts) -> Iterator[Finding]:
    """A model that answers differently in train mode, by its batch, or by chance."""
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
                f"in this mode {pc(changed)} of its answers change class with the batch"
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
