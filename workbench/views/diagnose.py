"""Pictures of a diagnosis: findings, samples, occlusion maps, alignment of layers, masks, reliability."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from kdcore.diagnose import ALARM, ROLES, Diagnosis, LayerView

from .base import View
from .cka import cka_map_view
from .drawing import Array, as_array, join_words, told
from .images import image_grid_view
from .picture import Axis, Bars, Colours, Images, Line, Panel, Picture, Plane, Points, Rule, Style
from .theme import percent


def findings_view(diagnosis: Diagnosis, *, sentences: bool = False, title: str = "Findings") -> View:
    """Severity of every finding as a bar, alarms apart from notes; the sentences are in the table.

    ``sentences`` tells the verdict and every finding in the words under the picture, with what to try next.
    """
    table = diagnosis.to_dataframe("findings")
    alarms = len(diagnosis.alarms)
    alt = (
        f"{alarms} alarm{'' if alarms == 1 else 's'} and {len(table) - alarms} note"
        f"{'' if len(table) - alarms == 1 else 's'}. "
        + (diagnosis.findings[0].sentence if len(table) else "There is nothing to report.")
    )
    if sentences:
        alt = " ".join(
            [
                diagnosis.summary() if diagnosis.healthy else alt,
                *diagnosis.in_short(),
                *(f"{n}. {f.sentence} Try next: {f.try_next}" for n, f in enumerate(diagnosis.findings, 1)),
            ]
        )

    names = [f"{f.code} ({f.evidence.get('model', '')})" for f in diagnosis.findings] or ["nothing to report"]
    styles: list[Style] = ["bad" if f.alarm else "muted" for f in diagnosis.findings]
    severity = [f.severity for f in diagnosis.findings]
    bars = Bars(
        "", range(len(severity)), severity, styles=styles, notes=[f.sentence for f in diagnosis.findings], lying=True
    )
    x, y = Axis("severity", low=0, high=1), Axis(names=names)
    picture = Picture(Plane(bars, Rule(ALARM, "an alarm from here", axis="x"), x=x, y=y))
    return View(title=title, alt=alt, table=table, picture=picture)


def _shown(images: Any) -> Array:
    """Images of any scaling as ``(n, H, W, 3)`` or ``(n, H, W)`` in [0, 1]."""
    array = as_array("images", images, ndim=4)
    low, high = float(array.min()), float(array.max())
    array = (array - low) / ((high - low) or 1.0)
    return array.transpose(0, 2, 3, 1) if array.shape[1] == 3 else array.mean(1)


def occlusion_view(diagnosis: Diagnosis, *, title: str = "Which regions the models need") -> View:
    """Images, and over them by how much the class's score falls where a window covers them: teacher, then student.

    Raises:
        ValueError: the diagnosis has no occlusion maps (the input was not an image).
    """
    seen = diagnosis.occlusion
    if seen is None:
        raise ValueError("this diagnosis has no occlusion maps: its input was not an image, or none were asked for.")
    pictures = _shown(seen.images)
    maps = {role: as_array("maps", seen.maps[role], ndim=3) for role in ("teacher", "student")}
    names = [diagnosis.class_names[int(c)] for c in seen.classes]
    table = diagnosis.to_dataframe("occlusion")
    table["largest fall, teacher"] = maps["teacher"].max((1, 2))
    table["largest fall, student"] = maps["student"].max((1, 2))
    known = table["correlation"].dropna()
    alt = (
        f"{len(names)} images of class {join_words(names)}. The maps of teacher and student correlate by "
        + (
            f"{known.mean():.2f} on average, from {known.min():.2f} to {known.max():.2f}."
            if len(known)
            else "no number: one of the models does not react."
        )
        + " Orange: covering the place lowers the class's score; violet: it raises it."
    )

    scale = Colours(-1, 1, "fall of the class's score, as a share of the map's largest", "diverging", reverse=True)
    panels: list[Panel] = [Images(images=pictures, captions=names, title="image")]
    for role, values in maps.items():
        reach = np.abs(values).max((1, 2), keepdims=True)
        said = [f"up to {v.max():+.2g}" for v in values]
        relative = values / np.where(reach > 0, reach, 1)
        panels.append(Images(images=pictures, captions=said, notes=names, maps=relative, colours=scale, title=role))
    return View(title=title, alt=alt, table=table, picture=Picture(*panels, columns=1))


def attribution_pair_view(
    image: Any, teacher_map: Any, student_map: Any, *, label: str = "", title: str = "What each model looks at"
) -> View:
    """One image with two attribution maps (occlusion, integrated gradients, ...) beside it.

    Args:
        image: ``(C, H, W)``. teacher_map, student_map: ``(H, W)``; positive speaks for the class.
        label: the class in words.

    Raises:
        ValueError: shapes that do not fit.
    """
    picture = _shown(as_array("image", image, ndim=3, finite=True)[None])[0]
    maps = {
        "teacher": as_array("teacher_map", teacher_map, ndim=2, finite=True),
        "student": as_array("student_map", student_map, ndim=2, finite=True),
    }
    for role, values in maps.items():
        if values.shape != picture.shape[:2]:
            raise ValueError(f"{role}_map must be {picture.shape[:2]} like the image, got {values.shape}.")
    flat = [m.ravel() - m.mean() for m in maps.values()]
    scale = float(np.linalg.norm(flat[0]) * np.linalg.norm(flat[1]))
    both = float(flat[0] @ flat[1]) / scale if scale else math.nan
    top = {role: np.unravel_index(int(m.argmax()), m.shape) for role, m in maps.items()}
    alt = f"{f'Class {label}. ' if label else ''}The maps correlate by {told(both)}. " + " ".join(
        f"The {r} needs row {int(p[0])}, column {int(p[1])} most." for r, p in top.items()
    )
    table = pd.DataFrame(
        {
            "model": list(maps),
            "largest": [m.max() for m in maps.values()],
            "row": [int(p[0]) for p in top.values()],
            "column": [int(p[1]) for p in top.values()],
        }
    )

    colours = Colours(-1, 1, "for the class (+) or against (−), as a share of the largest", "diverging", reverse=True)
    stack = np.stack([values / (float(np.abs(values).max()) or 1.0) for values in maps.values()])
    panels = (
        Images(images=picture[None], captions=[label or "image"], size=230),
        Images(
            images=np.stack([picture] * 2), captions=list(maps), maps=stack, colours=colours, opacity=0.75, size=230
        ),
    )
    return View(title=title, alt=alt, table=table, picture=Picture(*panels, columns=2, widths=(1, 2)))


def alignment_view(
    layer: LayerView, labels: Any = None, class_names: Any = None, *, most: int = 12, title: str | None = None
) -> View:
    """Samples in the teacher's two main directions; the student's features, rotated to fit, joined to them by lines.

    Args:
        layer: one of ``diagnosis.alignments``.
        labels: ``(N,)`` classes for the table, or ``None``. class_names: names of the classes.
        most: so many samples with the largest residual are drawn with their line.

    Raises:
        ValueError: a constant layer, which has no alignment.
    """
    fit = layer.alignment
    if fit is None:
        raise ValueError(f"layers {layer.name} have no alignment: one of them is constant.")
    s, t = (
        as_array("coordinates", np.pad(c.numpy(), ((0, 0), (0, max(0, 2 - c.shape[1])))), ndim=2)
        for c in (fit.student, fit.teacher)
    )
    residual = fit.residual.numpy()
    worst = np.argsort(-residual, kind="stable")[:most]
    table = pd.DataFrame(
        {
            "row": range(len(s)),
            "residual": residual,
            "teacher 1": t[:, 0],
            "teacher 2": t[:, 1],
            "student 1": s[:, 0],
            "student 2": s[:, 1],
        }
    )
    if labels is not None:
        classes = [int(c) for c in labels]
        table.insert(1, "label", [str(class_names[c]) if class_names is not None else str(c) for c in classes])
    table = table.sort_values("residual", ascending=False)
    share = float(np.sort(residual)[::-1][: max(1, len(residual) // 10)].sum() / max(residual.sum(), 1e-12))
    alt = (
        f"Student {layer.student} fitted to teacher {layer.teacher}: {percent(1 - fit.disparity)} of the teacher's "
        f"variation is reached, a disparity of {fit.disparity:.2f}. The two axes show "
        f"{percent(float(fit.explained.sum()))} of the teacher's variance. The tenth of the samples that fits worst "
        f"holds {percent(share)} of what is left."
    )

    words = [f"sample {k}, residual {r:.3g}" for k, r in enumerate(residual)]
    if labels is not None:
        by_row = table.set_index("row")["label"]
        words = [f"{w}, {by_row[k]}" for k, w in enumerate(words)]
    far = np.full_like(s, np.nan)
    far[worst] = s[worst]
    plane = Plane(
        Points("teacher", t[:, 0], t[:, 1], style="teacher", to=far, size=5.5, notes=words),
        Points("student, rotated", s[:, 0], s[:, 1], style="student", size=5.5, notes=words),
        x=Axis(f"teacher's direction 1 ({percent(float(fit.explained[0]))})"),
        y=Axis("direction 2" + (f" ({percent(float(fit.explained[1]))})" if len(fit.explained) > 1 else "")),
        title=f"Lines: the {len(worst)} worst fits",
        height=400,
    )
    heading = title or f"Alignment of {layer.student} with {layer.teacher}"
    return View(title=heading, alt=alt, table=table, picture=Picture(plane))


def robustness_view(diagnosis: Diagnosis, *, title: str = "Accuracy when blocks are hidden") -> View:
    """Accuracy of both models against the share of the image that is hidden, for uniform and Cox masks.

    Raises:
        ValueError: no masks were tried.
    """
    if not diagnosis.robustness:
        raise ValueError("this diagnosis tried no masks (the input is not a square image, or mask_ratios was empty).")
    table = diagnosis.to_dataframe("robustness")
    last = table.iloc[int(table["masked"].to_numpy().argmax())]
    words = "right" if diagnosis.labels is not None else "in agreement with their unmasked answer"
    alt = (
        f"On {int(last['samples'])} of the samples, without masks teacher and student are {words} in "
        f"{percent(float(table.teacher.iloc[0]))} and "
        f"{percent(float(table.student.iloc[0]))}; with {percent(float(last['masked']))} hidden ({last['kind']}) in "
        f"{percent(float(last['teacher']))} and {percent(float(last['student']))}."
    )

    planes = []
    for kind in dict.fromkeys(map(str, table["kind"])):
        rows = table[table["kind"] == kind]
        lines = [Line(role, rows["masked"], rows[role], style=role, dots=True) for role in ("teacher", "student")]
        y = Axis("accuracy" if diagnosis.labels is not None else "agreement with unmasked", low=0, high=1.03)
        planes.append(
            Plane(*lines, x=Axis("share hidden", low=0), y=y, title=f"{'Cox' if kind == 'cox' else kind} masks")
        )
    return View(title=title, alt=alt, table=table, picture=Picture(*planes))


def reliability_view(diagnosis: Diagnosis, *, title: str = "Confidence against accuracy") -> View:
    """Accuracy against confidence of both models in bins, with the diagonal of a calibrated model.

    Raises:
        ValueError: the data had no labels.
    """
    bins = {role: diagnosis.said[role].reliability for role in ROLES}
    if any(b is None for b in bins.values()):
        raise ValueError("reliability needs labels: accuracy cannot be known without them.")
    rows = [
        {"model": role, "samples": int(n), "confidence": float(c), "accuracy": float(a)}
        for role, b in bins.items()
        if b is not None
        for n, c, a in zip(b.counts, b.confidence, b.accuracy, strict=True)
        if n
    ]
    table = pd.DataFrame(rows)
    error = {role: b.error for role, b in bins.items() if b is not None}
    alt = " ".join(
        f"On {len(diagnosis.sample)} samples the {role}'s expected calibration error is {value:.3f}; it gives its "
        f"class {percent(diagnosis.said[role].confidence)} and is right in "
        f"{percent(diagnosis.said[role].accuracy or 0.0)}."
        for role, value in error.items()
    )

    planes = []
    for role in ROLES:
        of = table[table["model"] == role]
        notes = [f"{n} samples" for n in of["samples"]]
        line = Line("", of["confidence"], of["accuracy"], style=role, fine=True)
        dots = Points(role, of["confidence"], of["accuracy"], style=role, size=9, notes=notes)
        x, y = Axis("confidence", low=0, high=1.03), Axis("accuracy", low=0, high=1.05)
        rule = Rule(0, "calibrated", axis="both", style="muted")
        planes.append(Plane(rule, line, dots, x=x, y=y, title=f"{role}, ECE {error[role]:.3f}"))
    return View(title=title, alt=alt, table=table, picture=Picture(*planes))


def missed_view(
    diagnosis: Diagnosis, *, most: int = 16, title: str = "The teacher is right, the student wrong"
) -> View | None:
    """The images that only the teacher gets right, the student's surest errors first; ``None`` where there are none
    (or the input is no picture)."""
    missed = diagnosis.missed()[:most]
    if not missed or not diagnosis.sample.is_image or diagnosis.sample.x.shape[1] not in (1, 3):
        return None
    images = diagnosis.sample.x[[m["row"] for m in missed]]
    captions = [f"{m['label']}\nnot {m['student_says']}\n({percent(m['confidence'])})" for m in missed]
    view = image_grid_view(images, captions, title=title)
    return View(title=title, alt=view.alt, table=pd.DataFrame(missed), picture=view.picture)


def diagnosis_views(diagnosis: Diagnosis) -> dict[str, View]:
    """Every picture that this diagnosis allows, by name, in the order of the report."""
    views = {"findings": findings_view(diagnosis)}
    if (missed := missed_view(diagnosis)) is not None:
        views["missed"] = missed
    if diagnosis.said and diagnosis.said["teacher"].reliability is not None:
        views["reliability"] = reliability_view(diagnosis)
    cka = diagnosis.cka
    if cka is not None and bool(cka.matrix.isfinite().any()):
        views["cka"] = cka_map_view(
            cka.matrix,
            cka.layers_x,
            cka.layers_y,
            interval=cka.interval,
            pairs=[p for p in diagnosis.pairs if p[0] in cka.layers_x and p[1] in cka.layers_y],
        )
    for k, layer in enumerate(diagnosis.alignments):
        if layer.alignment is not None:
            views[f"alignment {k + 1}"] = alignment_view(layer, diagnosis.labels, diagnosis.class_names)
    if diagnosis.occlusion is not None:
        views["occlusion"] = occlusion_view(diagnosis)
    if diagnosis.robustness:
        views["robustness"] = robustness_view(diagnosis)
    return views


__all__ = [
    "alignment_view",
    "attribution_pair_view",
    "diagnosis_views",
    "findings_view",
    "missed_view",
    "occlusion_view",
    "reliability_view",
    "robustness_view",
]
