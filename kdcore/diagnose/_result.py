"""The result of a diagnosis: numbers, findings, and their plain forms (dict, table, page)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..cka_maps import CKAResult
from ..functional.checks import check_choice
from ..html import Html, items, join, table, tag
from ._codes import ALARM
from ._finding import Finding
from ._measures import Answers, LayerView, Occlusion
from ._pair import ROLES, Net, Role
from ._sample import Sample

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("findings", "models", "agreement", "classes", "samples", "cka", "alignment", "occlusion", "robustness")


@dataclass(frozen=True, eq=False, kw_only=True)
class Diagnosis:
    """What was found out about a pair. Draws itself in a notebook.

    Attributes:
        findings: severest first; those of severity :data:`~kdcore.diagnose.ALARM` and more are :attr:`alarms`.
        said: by role (``"teacher"``, ``"student"``) accuracy, calibration and logits.
        agreement: ``top1``, ``top5``, ``kendall`` (and ``kendall_nontarget``), ``kl``, ``kl_t4`` in nats.
        labels: ``(N,)`` or ``None``. class_names: of the C classes.
        sample: the inputs, and the position of each in the data.
        cka: student (rows) by teacher (columns), with bootstrap intervals; ``None`` where no layers were found.
        pairs: (student layer, teacher layer), proposed. alignments: of these pairs, the embeddings last.
        occlusion: maps of a few images; ``None`` where the input is not an image. robustness: accuracy under masks.
        cost: by role parameters, weight_bytes, flops, latency_ms (one sample), batch_ms_per_sample.
        inputs: by role, how the input was prepared. notes: what could not be measured, and why.
        settings: arguments. seconds: time taken, by part.
    """

    findings: list[Finding]
    said: dict[Role, Answers]
    agreement: dict[str, float]
    labels: Tensor | None
    class_names: tuple[str, ...]
    sample: Sample
    cka: CKAResult | None = None
    pairs: list[tuple[str, str]] = field(default_factory=list)
    alignments: list[LayerView] = field(default_factory=list)
    occlusion: Occlusion | None = None
    robustness: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, dict[str, float]] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def alarms(self) -> list[Finding]:
        """The findings that say something is wrong."""
        return [f for f in self.findings if f.alarm]

    @property
    def healthy(self) -> bool:
        """Whether there is no alarm."""
        return not self.alarms

    def missed(self) -> list[dict[str, Any]]:
        """Samples the teacher gets right and the student wrong, the surest errors of the student first.

        Each with ``index`` (position in the data), ``row`` (in the sample), ``label``, ``student_says``, the student's
        ``confidence`` in it, and ``teacher_confidence`` in the label. Empty without labels.
        """
        right = {role: self.said[role].right for role in ROLES}
        if self.labels is None or right["teacher"] is None or right["student"] is None:
            return []
        p = {role: self.said[role].logits.double().softmax(1) for role in ROLES}
        rows = (right["teacher"] & ~right["student"]).nonzero().flatten()
        sure, said = p["student"][rows].max(1)
        order = sure.argsort(dim=0, descending=True, stable=True)
        return [
            {
                "index": int(self.sample.index[row]),
                "row": int(row),
                "label": self.class_names[int(self.labels[row])],
                "student_says": self.class_names[int(said[k])],
                "confidence": float(sure[k]),
                "teacher_confidence": float(p["teacher"][row, self.labels[row]]),
            }
            for k, row in zip(order.tolist(), rows[order].tolist(), strict=True)
        ]

    def per_class(self) -> list[dict[str, Any]]:
        """Recall of both models per class, the widest gap first. Empty without labels."""
        recall = {role: self.said[role].recall for role in ROLES}
        if self.labels is None or recall["teacher"] is None or recall["student"] is None:
            return []
        count = self.labels.bincount(minlength=len(self.class_names)).tolist()
        table = [
            {"class": name, "samples": n, "teacher": t, "student": s, "gap": t - s}
            for name, n, t, s in zip(
                self.class_names, count, recall["teacher"].tolist(), recall["student"].tolist(), strict=True
            )
            if n
        ]
        return sorted(table, key=lambda row: -row["gap"])

    def models(self) -> list[dict[str, Any]]:
        """One row per model: accuracy, calibration, size, speed."""
        shown = ("accuracy", "nll", "ece", "confidence", "temperature", "entropy")
        return [
            {
                "model": role,
                "samples": len(self.sample),
                **{k: getattr(self.said[role], k) for k in shown},
                **self.cost.get(role, {}),
                "input": self.inputs.get(role, {}).get("input", ""),
            }
            for role in ROLES
        ]

    def _rows(self, name: str) -> list[dict[str, Any]]:
        if name == "findings":
            return [
                {
                    "code": f.code,
                    "severity": f.severity,
                    "sentence": f.sentence,
                    "try_next": f.try_next,
                    "model": f.evidence.get("model", ""),
                }
                for f in self.findings
            ]
        if name == "agreement":
            return [{"measure": k, "value": v} for k, v in self.agreement.items()]
        if name == "alignment":
            return [
                {
                    "student": v.student,
                    "teacher": v.teacher,
                    "disparity": math.nan if v.alignment is None else v.alignment.disparity,
                    "rank_student": v.rank_student,
                    "rank_teacher": v.rank_teacher,
                }
                for v in self.alignments
            ]
        if name == "occlusion":
            seen = self.occlusion
            return (
                []
                if seen is None
                else [
                    {"index": int(self.sample.index[row]), "class": self.class_names[int(c)], "correlation": float(r)}
                    for row, c, r in zip(seen.rows, seen.classes, seen.correlation, strict=True)
                ]
            )
        return {
            "models": self.models,
            "classes": self.per_class,
            "samples": self.missed,
            "robustness": lambda: self.robustness,
        }[name]()

    def to_dataframe(self, table: str = "findings") -> pd.DataFrame:
        """One of the tables: findings (default), models, agreement, classes, samples, cka, alignment, occlusion,
        robustness.

        Raises:
            ValueError: unknown table.
        """
        import pandas as pd

        check_choice("table", table, TABLES)
        if table == "cka":
            return pd.DataFrame() if self.cka is None else self.cka.to_dataframe(long=True)
        if table == "findings" and not self.findings:
            return pd.DataFrame(columns=["code", "severity", "sentence", "try_next", "model"])
        return pd.DataFrame(self._rows(table))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, fit for JSON (what is not a number is ``None``); images are left out."""
        plain = {
            "healthy": self.healthy,
            "alarm_from": ALARM,
            "samples": len(self.sample),
            "sample": self.sample.words,
            "data": list(self.sample.notes),
            "findings": [
                {
                    "code": f.code,
                    "severity": f.severity,
                    "alarm": f.alarm,
                    "sentence": f.sentence,
                    "try_next": f.try_next,
                    "evidence": f.evidence,
                }
                for f in self.findings
            ],
            "agreement": self.agreement,
            "models": self.models(),
            "classes": self.per_class(),
            "teacher_right_student_wrong": self.missed(),
            "pairs": self.pairs,
            "inputs": self.inputs,
            "alignment": self._rows("alignment"),
            "occlusion": self._rows("occlusion"),
            "robustness": self.robustness,
            "notes": self.notes,
            "settings": self.settings,
            "seconds": self.seconds,
        }
        if self.cka is not None:
            plain["cka"] = {
                "layers_student": list(self.cka.layers_x),
                "layers_teacher": list(self.cka.layers_y),
                "matrix": self.cka.matrix.tolist(),
                "confidence": self.cka.confidence,
                "interval": None if self.cka.interval is None else self.cka.interval.tolist(),
            }
        return _plain(plain)

    def summary(self) -> str:
        """One sentence: how many alarms, and how the two compare."""
        accuracy = [self.said[r].accuracy for r in ROLES] if self.said else []
        size = (
            f"{self.sample.words}," if "," in self.sample.words else self.sample.words or f"{len(self.sample)} samples"
        )
        verdict = (
            "No alarm."
            if self.healthy
            else f"{len(self.alarms)} alarm{'s' if len(self.alarms) > 1 else ''}: {self.findings[0].sentence}"
        )
        if len(accuracy) == 2 and accuracy[0] is not None and accuracy[1] is not None:
            verdict += (
                f" On {size} the teacher is right in {100 * accuracy[0]:.1f} %, the student in "
                f"{100 * accuracy[1]:.1f} %; they agree in {100 * self.agreement['top1']:.1f} %."
            )
        elif self.agreement:
            verdict += f" On {size} they agree in {100 * self.agreement['top1']:.1f} %."
        return verdict

    def in_short(self) -> list[str]:
        """What a reader wants to know next, a sentence each: size, where the student errs, which layers differ."""
        if not self.said:
            return []
        said = []
        if self.cost:
            size, work = (self.cost["student"][k] / max(self.cost["teacher"][k], 1) for k in ("parameters", "flops"))
            said.append(
                f"The student has {_times(size)} the teacher's parameters and needs {_times(work)} its operations."
            )
        if missed := self.missed():
            (label, n), *_ = Counter(m["label"] for m in missed).most_common(1)
            (pair, k), *_ = Counter((m["label"], m["student_says"]) for m in missed).most_common(1)
            said.append(
                f"Of the {len(missed)} samples only the teacher gets right, {n} are of class {label}"
                + (f"; the commonest mistake is {pair[1]} for {pair[0]} ({k} times)." if k > 1 else ".")
            )
        if self.cka is not None:
            known = [
                (float(self.cka.matrix[self.cka.layers_x.index(s), self.cka.layers_y.index(t)]), s, t)
                for s, t in self.pairs
                if s in self.cka.layers_x and t in self.cka.layers_y
            ]
            if known := [k for k in known if math.isfinite(k[0])]:
                (low, s, t), high = min(known), max(known)
                said.append(
                    f"Of the paired layers {s} (student) and {t} (teacher) are least alike, CKA {low:.2f}"
                    + (f"; {high[1]} and {high[2]} most, {high[0]:.2f}." if len(known) > 1 else ".")
                )
        return said

    def to_html(self, title: str = "Diagnosis of a pair") -> str:
        """A self-contained page of words and tables (``workbench.diagnose_report`` adds the pictures)."""
        style = (
            ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:62rem;margin:auto;"
            "padding:1rem}th,td{padding:.2em .7em;text-align:left}"
        )
        head = Html(f'<meta charset="utf-8">{tag("title", title)}<style>{style}</style>')
        body = tag("body", tag("h1", title), Html(self._repr_html_()), self._tables())
        return f"<!DOCTYPE html>\n{tag('html', tag('head', head), body, lang='en')}\n"

    def _tables(self) -> Html:
        blocks = [
            ("Models", "models"),
            ("Agreement", "agreement"),
            ("Classes", "classes"),
            ("Teacher right, student wrong", "samples"),
            ("Layer pairs", "alignment"),
            ("Masks", "robustness"),
        ]
        found = [(heading, rows) for heading, name in blocks if (rows := self._rows(name))]
        return join(
            piece
            for heading, rows in found
            for piece in (
                tag("h2", heading),
                table([tuple(row.values()) for row in rows], tuple(rows[0]), row_heads=False),
            )
        )

    def _repr_html_(self) -> str:
        findings = [
            join(
                (
                    tag("b", f.code),
                    f" ({'alarm' if f.alarm else 'note'}, severity {f.severity:.2f}): {f.sentence} ",
                    tag("i", f.try_next),
                )
            )
            for f in self.findings
        ]
        return join(
            (
                tag("p", " ".join([self.summary(), *self.in_short()])),
                items(findings, ordered=True),
                tag("p", "Of the data:") if self.sample.notes else "",
                items(self.sample.notes),
                tag("p", "Not measured:") if self.notes else "",
                items(self.notes),
            )
        )

    def __str__(self) -> str:
        return "\n".join([self.summary(), *(f"  {f}" for f in self.findings), *(f"  {n}" for n in self.sample.notes)])

    def __repr__(self) -> str:
        codes = ", ".join(f"{f.code} {f.severity:.2f}" for f in self.findings[:4])
        return f"Diagnosis({len(self.alarms)} alarms, {len(self.sample)} samples: {codes or 'no findings'})"


def _times(ratio: float) -> str:
    """A ratio before "the ...": a share below one, a multiple above."""
    if ratio < 0.01:
        return "less than 1 % of"
    return f"{100 * ratio:.0f} % of" if ratio < 1.5 else f"{ratio:.1f} times"


def _plain(value: Any) -> Any:
    """Lists, dicts, numbers, strings; NaN and infinity become ``None``."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def input_words(nets: Mapping[Role, Net]) -> dict[str, dict[str, Any]]:
    """How each model's input was prepared."""
    return {role: dict(net.choice) for role, net in nets.items()}


__all__ = ["TABLES", "Diagnosis", "input_words"]
