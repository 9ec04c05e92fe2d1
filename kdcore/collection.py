"""The collection: ``collection.csv``, the only place of every paper's title, links, family and place in the method map.

A line per paper, implemented or planned. Cells with several values are written ``a+b``, the main one first; ``-`` is
empty. The vocabularies are closed (``docs/taxonomy.md`` explains the values): what is not in them is refused, with file
and line, when the row is read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .functional.checks import check_choice

FAMILIES = ("foundations", "ranking", "features", "masks", "domains", "data", "language", "streams")

#: The ten axes of the method map and their closed vocabularies (``docs/taxonomy.md`` explains the values).
AXES: dict[str, tuple[str, ...]] = {
    "knowledge": ("response", "feature", "relation", "prototype", "ranking", "text", "data", "structure"),
    "scheme": ("offline", "online", "self", "reverse", "meta", "loop", "nokd"),
    "signal": (
        "kl",
        "softce",
        "hardce",
        "bce",
        "mse",
        "l1",
        "cosine",
        "contrastive",
        "listwise",
        "pairwise",
        "affinity",
        "adversarial",
        "attention",
        "reconstruction",
        "statistics",
        "selection",
        "policy",
    ),
    "task": (
        "classification",
        "detection",
        "segmentation",
        "instseg",
        "tracking",
        "superres",
        "anomaly",
        "actionseg",
        "retrieval",
        "embedding",
        "ner",
        "textclass",
        "langmodel",
        "recommendation",
        "graphnode",
        "graphlink",
        "generation",
        "continual",
        "discovery",
        "search",
        "dd",
        "analysis",
    ),
    "modality": ("image", "video", "text", "audio", "graph", "tabular", "log", "multimodal"),
    "teacher_access": ("text", "outputs", "whitebox", "none"),
    "data_regime": (
        "labelled",
        "semi",
        "unlabelled",
        "web",
        "synthetic",
        "stream",
        "paired",
        "crossdomain",
        "deletion",
    ),
    "teachers": ("one", "many", "self", "none"),
    "arch": ("same", "any", "cross", "converted"),
    "goal": (
        "compress",
        "accuracy",
        "transfer",
        "continual",
        "unlearn",
        "datasize",
        "labelcost",
        "search",
        "detect",
        "insight",
    ),
}

#: The five fields of the two surveys and their vocabularies. The first three are the pillars of the survey on language
#: models, the last two the themes of the survey on knowledge and dataset distillation.
SURVEY_FIELDS: dict[str, tuple[str, ...]] = {
    "elicitation": ("labeling", "expansion", "curation", "feature", "feedback", "self"),
    "algorithm": ("sft", "divsim", "rl", "rank"),
    "skill": (
        "instruction following",
        "multi-turn dialogue",
        "RAG",
        "thinking pattern",
        "preference",
        "value",
        "tool using",
        "planning",
        "NLU",
        "NLG",
        "information retrieval",
        "recommendation",
        "text-generation evaluation",
        "code",
        "multi-modality",
        "law",
        "medical & healthcare",
        "finance",
        "science",
        "misc",
    ),
    "kd_theme": ("rationale", "uncertainty", "multiteacher", "dynamic", "taskspecific", "theory"),
    "dd_family": ("grad", "traj", "dist", "latent", "gen", "select"),
}


def split_values(text: str | Sequence[str]) -> tuple[str, ...]:
    """``"kl+mse"`` -> ``("kl", "mse")``; the first value is the main one; ``"-"`` is empty."""
    parts = text.replace(",", "+").split("+") if isinstance(text, str) else text
    return tuple(p.strip() for p in parts if p.strip() and p.strip() != "-")


def survey_values(field: str, cell: str) -> tuple[str, ...]:
    """The cell of a survey field: ``"~feature+self"`` -> ``("feature", "self")``; ``"all"`` is every value."""
    plain = cell.removeprefix("~")
    return SURVEY_FIELDS[field] if plain == "all" else split_values(plain)


#: The file, as messages name it.
FILE = "kdcore/collection.csv"
#: Columns of free text: what a cell must match, and how to say so.
_TEXT: dict[str, tuple[str, str]] = {
    "title": (r".+", "the paper's title"),
    "authors": (r".+", "the authors in short form ('Hinton et al.')"),
    "year": (r"(19|20)\d\d", "a year such as 2025"),
    "venue": (r".*", "a journal or conference, or empty"),
    "arxiv": (r"(\d{4}\.\d{4,5}|[a-z-]+/\d{7})?", "a number such as 2506.12542, or empty"),
    "official_code": (r"([\w.-]+/[\w.-]+)?", "owner/name on GitHub, or empty"),
    "companion": (r"yes|-", "'yes' (implemented beside the collection) or '-' (one of its papers)"),
}


@dataclass(frozen=True)
class Row:
    """One line of ``collection.csv``, cells as written; what is read out of it is checked.

    Attributes:
        line: its number in the file; the header is line 1.
        cells: text by column.
    """

    line: int
    cells: Mapping[str, str]

    def _where(self, column: str) -> str:
        return f"{FILE}, line {self.line} ({self.cells['slug']}): {column}"

    def text(self, column: str) -> str:
        """A cell of free text.

        Raises:
            ValueError: it is not what the column holds; the message names file, line, column, what came, what may.
        """
        pattern, expected = _TEXT[column]
        if not re.fullmatch(pattern, self.cells[column]):
            raise ValueError(f"{self._where(column)} must be {expected}, got {self.cells[column]!r}.")
        return self.cells[column]

    def values(self, column: str) -> tuple[str, ...]:
        """The values of an axis, a survey field or ``family``, main value first.

        Raises:
            ValueError: a value outside the vocabulary, or an empty axis; the message is as that of :meth:`text`.
        """
        allowed: tuple[str, ...]
        values: tuple[str, ...]
        if column == "family":
            allowed, values = (*FAMILIES, "survey"), (self.cells[column],)
        elif column in SURVEY_FIELDS:
            allowed, values = SURVEY_FIELDS[column], survey_values(column, self.cells[column])
        else:
            allowed, values = AXES[column], split_values(self.cells[column]) or ("",)
        for value in values:
            check_choice(self._where(column), value, allowed)
        return values

    def facts(self) -> dict[str, Any]:
        """Everything that the row says about the paper, checked, by the names of a card's fields.

        Raises:
            ValueError: see :meth:`text` and :meth:`values`.
        """
        for field in SURVEY_FIELDS:
            self.values(field)
        text = {column: self.text(column) for column in _TEXT}
        del text["companion"]  # says how the map counts the paper; nothing about the paper
        return text | {
            "year": int(text["year"]),
            "family": self.values("family")[0],
            "axes": {axis: "+".join(self.values(axis)) for axis in AXES},
            "survey": {field: self.cells[field] for field in SURVEY_FIELDS},
        }


def read_rows(text: str) -> dict[str, Row]:
    """The rows of a collection by slug, in the order of the file.

    Args:
        text: what the file holds: a header with all columns, then a line per paper.

    Raises:
        ValueError: a column that is missing or unknown, a line with too few or too many cells, a slug that is no module
            name or comes twice; the message names file and line.
    """
    columns = ("slug", "family", *_TEXT, *AXES, *SURVEY_FIELDS)
    reader = csv.DictReader(text.splitlines())
    if set(reader.fieldnames or ()) != set(columns):
        wrong = sorted(set(reader.fieldnames or ()) ^ set(columns))
        raise ValueError(
            f"{FILE}, line 1: missing or unknown columns {', '.join(wrong)}; needed: {', '.join(columns)}."
        )
    rows: dict[str, Row] = {}
    for cells in reader:
        line, slug = reader.line_num, cells["slug"]
        if None in cells or None in cells.values():
            raise ValueError(f"{FILE}, line {line} ({slug}): it must have {len(columns)} cells, one per column.")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", slug):
            raise ValueError(f"{FILE}, line {line}: slug must be a lower-case module name, got {slug!r}.")
        if slug in rows:
            raise ValueError(f"{FILE}, line {line}: slug {slug!r} stands on line {rows[slug].line} already.")
        rows[slug] = Row(line, cells)
    return rows


@cache
def collection() -> Mapping[str, Row]:
    """The rows of ``collection.csv`` by slug: the papers and surveys of the collection, then its companions.

    Companions (``companion`` = yes) are implemented papers that the collection does not list: the baseline of all
    others, and the instrument that looks at them.
    """
    return read_rows(Path(__file__).with_name("collection.csv").read_text(encoding="utf-8"))


__all__ = [
    "AXES",
    "FAMILIES",
    "FILE",
    "SURVEY_FIELDS",
    "Row",
    "collection",
    "read_rows",
    "split_values",
    "survey_values",
]
