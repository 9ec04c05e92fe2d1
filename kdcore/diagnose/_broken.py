"""A diagnosis of NaN and infinity alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._finding import Finding
from ._measures import Activity
from ._pair import Net, Role
from ._result import Diagnosis, input_words
from ._sample import Sample


def non_finite(
    nets: Mapping[Role, Net],
    sample: Sample,
    activity: Mapping[Role, list[Activity]],
    logits: Mapping[Role, Tensor],
    names: tuple[str, ...],
    used: dict[str, Any],
) -> Diagnosis | None:
    """A diagnosis of NaN and infinity alone, if there are any: nothing else could be said."""
    findings = []
    for role, net in nets.items():
        weights = [
            n
            for n, p in net.model.state_dict().items()
            if isinstance(p, Tensor) and p.is_floating_point() and not bool(torch.isfinite(p).all())
        ]
        layers = [a.name for a in activity[role] if not a.finite]
        outputs = role in logits and not bool(torch.isfinite(logits[role]).all())
        if not (weights or layers or outputs):
            continue
        where = (
            f"{len(weights)} of its weights hold them, {weights[0]} first"
            if weights
            else f"layer {layers[0]} gives them first"
            if layers
            else "its output holds them"
        )
        findings.append(
            Finding(
                code="non_finite",
                severity=1.0,
                sentence=f"The {role} gives NaN or infinity: {where}.",
                evidence={"model": role, "weights": weights[:20], "layers": layers[:20]},
                try_next="Go back to the last good checkpoint; lower the learning rate, clip gradients, look for "
                "log(0) and division by a standard deviation of zero.",
            )
        )
    if not findings:
        return None
    return Diagnosis(
        findings=findings,
        said={},
        agreement={},
        labels=None,
        class_names=names,
        sample=sample,
        notes=["nothing else is measured while a model gives NaN or infinity."],
        settings=used,
        inputs=input_words(nets),
    )


__all__ = ["non_finite"]
