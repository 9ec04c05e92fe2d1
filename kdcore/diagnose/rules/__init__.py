"""From numbers to findings. Every rule is a generator over the facts; thresholds are stated in :mod:`.._codes`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from .._finding import Facts, Finding
from .._pair import ROLES
from .._weights import fresh
from . import classes, inputs, layers, outputs, training


def same(f: Facts) -> Iterator[Finding]:
    """Two models with the same weights."""
    if f.same:
        yield Finding(
            code="same_weights",
            severity=0.3,
            evidence={"model": "both"},
            sentence="Teacher and student have the same weights: the comparison shows the model with itself.",
            try_next="If that is not meant, check which checkpoint each of them loads.",
        )


_PLAIN: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    inputs.counterfactuals,
    inputs.scaled,
    inputs.stated_input,
    inputs.modes,
    training.learnt_samples,
    training.prepared_otherwise,
    training.too_little,
    layers.dead,
    layers.odd,
    layers.unseen,
    layers.shrunk,
    layers.frozen,
    layers.collapsed,
    outputs.not_logits,
    outputs.temperature,
    classes.label_noise,
    outputs.dark_knowledge,
    layers.least_alike,
    layers.regions,
    same,
)
_SYMPTOMS: tuple[Callable[[Facts, Sequence[Finding]], Iterator[Finding]], ...] = (
    classes.bias,
    classes.one_class,
    classes.head,
    classes.guessing,
    classes.weak_classes,
    classes.fit,
    outputs.teacher_confidence,
    outputs.student_confidence,
    outputs.scales,
    classes.worse,
    training.enlarged,
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
    short = any(f.code == "trained_too_little" for f in found)
    untrained = {role for role in ROLES if fresh(facts.stages.get(role, []))}
    return ranked(
        [
            replace(f, severity=min(f.severity, 0.45))
            if (f.code in _OF_UNTRAINED and f.evidence.get("model") in untrained)
            or (short and f.code in training.OF_TOO_LITTLE and f.evidence.get("model") == "student")
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


__all__ = ["judge", "ranked", "same_network"]
