"""Layers, weights and regions of the image: what is dead, untrained, collapsed, unlike the other model's."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .._finding import Facts, Finding, pc, ramp
from .._pair import ROLES, Role
from .._states import readable
from .._thresholds import THIN
from .._weights import fresh


def stage_of(f: Facts, role: Role, layer: str) -> str:
    """The part of the model that a layer belongs to."""
    inside = [s.name for s in f.stages.get(role, []) if layer == s.name or layer.startswith(f"{s.name}.")]
    return max(inside, key=len, default=layer)


#: Modules that rightly say the same for every sample when they saturate.
_GATES = ("Sigmoid", "Hardsigmoid", "HardSigmoid", "Softmax", "Softmax2d")


def dead(f: Facts) -> Iterator[Finding]:
    """Layers that say the same for every sample."""
    for role, active in f.activity.items():
        dead = [a for a in active if a.dead >= 0.9 and a.type not in _GATES]
        if not dead or fresh(f.stages.get(role, [])):  # zero-initialised branches of a network never trained
            continue
        whole = [a for a in dead if a.dead == 1.0]
        first = (whole or dead)[0]
        stage = stage_of(f, role, first.name)
        best = max((s.accuracy for s in f.said.values() if s.accuracy is not None), default=1.0)
        scaled = any(
            g.role == role
            and g.code == "input_normalization_mismatch"  # which is the cause, then
            and g.gain >= 0.9 * (max(best, g.after) - g.before)
            for g in f.gains
        )
        mine, other = f.said[role].accuracy, f.said[f.other(role)].accuracy
        behind = mine is None or other is None or other - mine >= 0.1
        zero = "zero" if first.largest == 0 else "the same"
        yield Finding(
            code="dead_stage",
            severity=0.45 if scaled else 0.96 if whole else 0.6 if behind else 0.45,
            sentence=f"Stage {readable(stage)} of the {role} is dead: {first.type} {readable(first.name)} gives {zero} "
            f"for every sample in {pc(first.dead)} of its channels"
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


def odd(f: Facts) -> Iterator[Finding]:
    """Weights that are exactly zero, and single ones far larger than the others of their layer."""
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
                sentence=f"{pc(worst.zeros)} of the weights {worst.name} of the {role} are exactly zero"
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


def unseen(f: Facts) -> Iterator[Finding]:
    """Parts of the input that change nothing."""
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


def shrunk(f: Facts) -> Iterator[Finding]:
    """A model that sees fewer pixels than the other: its images are made smaller, by whatever interpolation."""
    for role in ROLES:
        mine, other = f.seen.get(role), f.seen.get(f.other(role))
        if mine is None or other is None or other.share < 0.99 or mine.share > 0.9:
            continue
        if fresh(f.stages.get(role, [])):
            continue
        right = [f.said[r].accuracy for r in (role, f.other(role))]
        behind = right[0] is None or right[1] is None or right[1] - right[0] >= 0.03
        yield Finding(
            code="input_resolution_mismatch",
            severity=0.75 if behind else 0.45,
            sentence=f"The {role} sees {mine.rows} x {mine.columns} of the {mine.height} x {mine.width} pixels: its "
            f"images are made smaller on the way (and larger again, perhaps), the {f.other(role)}'s are not.",
            evidence={"model": role, "rows": mine.rows, "columns": mine.columns, "size": [mine.height, mine.width]},
            try_next=f"Look for a resize before the {role}'s first layer, and compare its size and interpolation with "
            "those of its training.",
        )


def frozen(f: Facts) -> Iterator[Finding]:
    """Parts whose weights are as an initialisation leaves them."""
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
                    "cannot_tell": [s.name for s in parts if s.verdict == "cannot tell"],
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


def collapsed(f: Facts) -> Iterator[Finding]:
    """Embeddings that hardly vary, or only along few directions."""
    view = f.embedding
    if view is None or len(f.names) < 5:
        return
    rank = {"student": view.rank_student, "teacher": view.rank_teacher}
    spread = {"student": view.spread_student, "teacher": view.spread_teacher}
    for role in ROLES:
        other = f.other(role)
        thin = rank[role] < THIN and rank[role] < rank[other] / 3
        still = spread[role] < 0.005 and spread[role] < spread[other] / 10
        if not (thin or still):
            continue
        layer = view.student if role == "student" else view.teacher
        yield Finding(
            code="collapsed_features",
            severity=0.8,
            sentence=f"The {role}'s features are collapsed: its embedding ({layer}) uses {rank[role]:.1f} directions, "
            f"the {other}'s {rank[other]:.1f}, and varies by {pc(spread[role])} of its size (the {other}'s "
            f"by {pc(spread[other])}).",
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


def least_alike(f: Facts) -> Iterator[Finding]:
    """The pair of layers that holds least of one another."""
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
        severity=ramp(0.5 - value, 0.0, 0.5, 0.15, 0.35),
        sentence=f"Layer {s} of the student holds least of what {t} of the teacher holds: CKA {value:.2f}{around}.",
        evidence={"model": "student", "layers": [s, t], "cka": value, "interval": interval},
        try_next="If features are to be distilled, this pair has most to gain; or pair the layer with another.",
    )


def regions(f: Facts) -> Iterator[Finding]:
    """Models that look at different places, or fall differently when places are hidden."""
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
            severity=ramp(beyond, 0.15, 0.4, 0.2, 0.4),
            sentence=f"With {pc(row['masked'])} of the image hidden ({row['kind']} mask, {row['samples']} samples) the "
            f"student falls to {pc(row['student'])}, the teacher to {pc(row['teacher'])}.",
            evidence={"model": "student", **row},
            try_next="Train the student on masked images (occlusion-robust losses).",
        )
