"""A diagnosis as a page: one self-contained HTML file with findings, pictures and tables; and ``kdw diagnose``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kdcore.diagnose import ALARM, Diagnosis, diagnose
from kdcore.html import Html, join, tag

from .report import Report, facts_html, table_html
from .templating import render
from .views.diagnose import diagnosis_views
from .views.theme import percent

if TYPE_CHECKING:
    from torch import nn

#: Rows of the table of samples that the page shows.
_SAMPLES = 40


def _finding(number: int, finding: Any) -> Html:
    numbers = {k: v for k, v in finding.evidence.items() if k != "model" and v not in (None, "", [], {})}
    shown = "; ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in numbers.items())
    return render("finding.html", number=number, finding=finding, evidence=shown)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_short(v) for v in value[:12]) + (f", ... ({len(value)})" if len(value) > 12 else "")
    if isinstance(value, dict):
        return _short([f"{k}: {_short(v)}" for k, v in value.items()])
    return str(value)


def _models(diagnosis: Diagnosis) -> str:
    names = {
        "samples": "samples measured on",
        "accuracy": "accuracy",
        "ece": "expected calibration error",
        "nll": "negative log-likelihood (nats)",
        "confidence": "mean confidence",
        "temperature": "temperature that fits",
        "parameters": "parameters",
        "flops": "floating-point operations per sample",
        "latency_ms": "latency of one sample (ms)",
        "batch_ms_per_sample": "time per sample in a batch (ms)",
        "input": "input",
    }
    rows = {row["model"]: row for row in diagnosis.models()}
    return table_html(
        pd.DataFrame(
            [
                {"measure": words} | {role: _cell(name, row.get(name)) for role, row in rows.items()}
                for name, words in names.items()
            ]
        ),
        "The two models",
    )


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name in ("accuracy", "confidence"):
        return percent(value)
    if name in ("parameters", "flops"):
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _agreement(diagnosis: Diagnosis) -> str:
    words = {
        "top1": "same first class",
        "top5": "overlap of the five first classes",
        "kendall": "Kendall's tau, all classes",
        "kendall_nontarget": "Kendall's tau, classes beside the label",
        "kl": "KL divergence from the teacher (nats)",
        "kl_t4": "the same at temperature 4",
    }
    return table_html(
        pd.DataFrame(
            [
                {"measure": words.get(k, k), "value": percent(v) if k.startswith("top") else f"{v:.3g}"}
                for k, v in diagnosis.agreement.items()
            ]
        ),
        "How far they agree",
    )


def diagnosis_report(
    diagnosis: Diagnosis, *, title: str = "Diagnosis of a pair", about: dict[str, Any] | None = None
) -> Report:
    """The page of a diagnosis.

    Args:
        diagnosis: what :func:`kdcore.diagnose.diagnose` returned.
        title: heading. about: what was compared (names, checkpoints, data), shown at the end.
    """
    report = Report(title, lead=join((tag("b", diagnosis.summary()), " ", " ".join(diagnosis.in_short()))))
    listed = join(_finding(k, f) for k, f in enumerate(diagnosis.findings, 1))
    views = diagnosis_views(diagnosis) if diagnosis.said else {}
    report.add(
        "Findings",
        listed or f"<p>Nothing to report: no rule of the list was met. Alarms start at severity {ALARM}.</p>",
        *([views["findings"]] if views and len(diagnosis.findings) > 1 else []),
    )
    if diagnosis.said:
        report.add(
            "The two models",
            _models(diagnosis),
            _agreement(diagnosis),
            *([views["reliability"]] if "reliability" in views else []),
        )
        classes, samples = diagnosis.to_dataframe("classes"), diagnosis.to_dataframe("samples")
        if len(classes):
            shown = table_html(
                classes,
                "Recall per class, widest gap first",
                formats={"teacher": ".3f", "student": ".3f", "gap": "+.3f"},
            )
            missed = (
                [
                    table_html(
                        samples.head(_SAMPLES).drop(columns="row").rename(columns=lambda c: c.replace("_", " ")),
                        "The teacher right, the student wrong: samples by position in the data, the student's "
                        "surest errors first",
                        formats={"confidence": ".3f", "teacher confidence": ".3f"},
                    )
                ]
                if len(samples)
                else []
            )
            report.add(
                "What the student has not learnt", shown, *([views["missed"]] if "missed" in views else []), *missed
            )
        layers = [
            v
            for name, v in views.items()
            if name == "cka" or (name.startswith("alignment") and name not in _repeated(diagnosis))
        ]
        if layers:
            report.add("Layer by layer", *layers)
        regions = [views[name] for name in ("occlusion", "robustness") if name in views]
        if regions:
            report.add("Region by region", *regions)
    facts = {
        **(about or {}),
        "samples": diagnosis.sample.words or len(diagnosis.sample),
        **{f"of the data ({k})": note for k, note in enumerate(diagnosis.sample.notes, 1)},
        **diagnosis.settings,
        **{f"not measured ({k})": note for k, note in enumerate(diagnosis.notes, 1)},
        "seconds": f"{sum(diagnosis.seconds.values()):.1f}",
    }
    report.add("How this was measured", facts_html({k: _short(v) for k, v in facts.items()}, "Settings"))
    return report


def _repeated(diagnosis: Diagnosis) -> set[str]:
    """Names of alignment views that show what an earlier one shows: pooling before the classifier changes nothing in
    features that are already averaged over positions."""
    seen: list[float] = []
    again = set()
    for k, view in enumerate(diagnosis.alignments):
        if view.alignment is not None:
            if any(abs(view.alignment.disparity - d) < 1e-7 for d in seen):
                again.add(f"alignment {k + 1}")
            seen.append(view.alignment.disparity)
    return again


def load_pair(
    teacher: str, student: str, data: str, *, size: int | None = None, seed: int = 0, progress: Any = None
) -> tuple[nn.Module, nn.Module, Any]:
    """The two networks and the task that ``kdw diagnose`` names.

    Args:
        teacher, student: ``NAME`` or ``NAME:checkpoint``: a network of the task or any timm name.
        data: a folder of class folders (or with ``test/`` inside), or the name of a task (``digits``).
        size: side in pixels of the images of a folder, as for the task ``images``.
        progress: called with (epochs done, epochs, text) while a teacher without a checkpoint is trained on the data's
            training part (kept for the next time).

    Raises:
        ValueError: unknown names, or a checkpoint that does not fit. FileNotFoundError: no such folder.
    """
    from kdcore.tasks import list_tasks, load_task

    (teacher_name, teacher_file), (student_name, student_file) = _split(teacher), _split(student)
    if data in list_tasks() and not Path(data).is_dir():
        task = load_task(data)
        models = []
        for role, name, file in (("teacher", teacher_name, teacher_file), ("student", student_name, student_file)):
            spec = task.spec(role, name)
            if file is not None:
                models.append(task.load(spec.make(seed), file))
            else:
                models.append(
                    task.teacher(name, progress=progress) if role == "teacher" else task.student(name, seed=seed).eval()
                )
        return models[0], models[1], task
    task = load_task(
        "images",
        root=data,
        teacher=teacher_name,
        student=student_name,
        teacher_weights=teacher_file,
        student_weights=student_file,
        size=size,
        seed=seed,
    )
    return task.teacher(teacher_name, progress=progress), task.student(student_name, seed=seed).eval(), task


def _split(name: str) -> tuple[str, str | None]:
    head, colon, file = name.partition(":")
    return (head, file) if colon else (name, None)


def run_diagnosis(
    teacher: str,
    student: str,
    data: str,
    out: str | Path,
    *,
    size: int | None = None,
    limit: int = 256,
    seed: int = 0,
    training: bool = False,
    progress: Any = None,
) -> tuple[Diagnosis, Path]:
    """Load, diagnose, write the page; returns the diagnosis and the page's path.

    ``training`` holds the samples against the task's training split.
    """
    first, second, task = load_pair(teacher, student, data, size=size, seed=seed, progress=progress)
    found = diagnose(
        first, second, task, limit=limit, seed=seed, training=task if training else None, progress=progress
    )
    found = _without_folder(found, data)
    # checkpoints and folders are shown by name alone: a page is passed on
    about = {"teacher": _public(teacher), "student": _public(student), "data": Path(data).name}
    shape = tuple(found.sample.x.shape[1:])
    about["input"] = " x ".join(map(str, shape[1:])) + " pixels" if len(shape) == 3 else f"shape {shape}"
    page = diagnosis_report(
        found, title=f"{about['student']} against {about['teacher']} on {about['data']}", about=about
    )
    return found, page.write(out)


def _without_folder(found: Diagnosis, data: str) -> Diagnosis:
    """What the data say of themselves, their folder by its name alone."""
    folder = Path(data)
    notes = [
        note.replace(str(folder.resolve()), folder.name).replace(str(folder), folder.name)
        for note in found.sample.notes
    ]
    return replace(found, sample=replace(found.sample, notes=tuple(notes)))


def _public(name: str) -> str:
    head, file = _split(name)
    return head if file is None else f"{head} ({Path(file).name})"


__all__ = ["diagnosis_report", "load_pair", "run_diagnosis"]
