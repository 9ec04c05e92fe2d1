"""The method map: every paper of the collection on ten axes, what is near what, and which one fits a situation.

Every paper, implemented or planned, is placed by its row in ``collection.csv`` (:mod:`kdcore.collection`), which also
feeds the cards. The axes and their closed vocabularies are :data:`kdcore.collection.AXES`; :data:`MEANING` says what
each value means, and ``docs/taxonomy.md`` shows both. Two surveys belong to the map but are never recommended; their
own fields (:data:`~kdcore.collection.SURVEY_FIELDS`) are kept for every paper; a leading ``~`` marks a paper outside
language models that is placed by analogy.

References: A Survey on Knowledge Distillation of Large Language Models (Xu et al., 2024), arXiv:2402.13116; Knowledge
Distillation and Dataset Distillation of Large Language Models (Fang et al., 2025), arXiv:2504.14772.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ._taxonomy_cases import CASES, Case
from ._taxonomy_words import MEANING, QUESTIONS
from .card import MethodCard
from .collection import AXES, FAMILIES, SURVEY_FIELDS, collection, split_values, survey_values
from .functional.checks import check_choice, closest
from .registry import get_card, list_methods

if TYPE_CHECKING:
    import numpy as np

STATUSES = ("implemented", "planned", "survey")

#: The baseline papers' slug: shown before every recommendation as "try this before".
TRY_FIRST = "vanilla_kd"

#: The questions of the decision guide, in the order in which they are asked, and the admissible answers.
GUIDE: dict[str, tuple[str, ...]] = {
    **{axis: AXES[axis] for axis in ("teacher_access", "goal", "data_regime", "modality", "task")},
    "arch": ("same", "cross", "any"),
    "teachers": AXES["teachers"],
}
#: The same questions, as they are put to the reader.
GUIDE_TEXT: dict[str, str] = {
    "teacher_access": "What can you get from the teacher?",
    "goal": "What do you want?",
    "data_regime": "Which data have you?",
    "modality": "What are your inputs?",
    "task": "What is the task?",
    "arch": "Are teacher and student of the same architecture?",
    "teachers": "How many teachers have you?",
}
_WEIGHTS = {"goal": 3, "data_regime": 3, "task": 2, "modality": 2, "teachers": 1}
_ARCH_POINTS = {"cross": {"cross": 4, "any": 1}, "same": {"same": 1, "any": 1}, "any": {}}
_ACCESS = ("none", "text", "outputs", "whitebox")  # from least to most demanding


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One paper in the map.

    Attributes:
        slug: name of module, notebook and tests.
        title, authors, year, venue, arxiv, official_code: the paper; "" where unknown or not existing.
        family: chapter of the book, or ``"survey"``.
        status: ``"implemented"`` (a card exists), ``"planned"`` or ``"survey"``.
        knowledge ... goal: the ten axes, main value first.
        elicitation ... dd_family: the surveys' fields.
        analogy: the survey fields in which the paper is placed by analogy.
        module, notebook: where the code and the lesson are, or will be when planned; "" for surveys.
        summary: what the method does; "" unless implemented.
    """

    slug: str
    title: str
    authors: str
    year: int
    venue: str
    arxiv: str
    official_code: str
    family: str
    status: str
    knowledge: tuple[str, ...]
    scheme: tuple[str, ...]
    signal: tuple[str, ...]
    task: tuple[str, ...]
    modality: tuple[str, ...]
    teacher_access: tuple[str, ...]
    data_regime: tuple[str, ...]
    teachers: tuple[str, ...]
    arch: tuple[str, ...]
    goal: tuple[str, ...]
    elicitation: tuple[str, ...] = ()
    algorithm: tuple[str, ...] = ()
    skill: tuple[str, ...] = ()
    kd_theme: tuple[str, ...] = ()
    dd_family: tuple[str, ...] = ()
    analogy: frozenset[str] = frozenset()
    module: str = ""
    notebook: str = ""
    summary: str = ""

    def __post_init__(self) -> None:
        for field, allowed in _VOCABULARY.items():
            for value in self.values(field):
                check_choice(f"{self.slug}: {field}", value, allowed)

    def values(self, field: str) -> tuple[str, ...]:
        """Values of an axis, a survey field, ``family`` or ``status``; the main one first."""
        check_choice("field", field, tuple(_VOCABULARY))
        value = getattr(self, field)
        return (value,) if isinstance(value, str) else value

    @property
    def links(self) -> dict[str, str]:
        """Addresses of the paper and of the authors' code, by name."""
        links = {"paper": f"https://arxiv.org/abs/{self.arxiv}"} if self.arxiv else {}
        return links | ({"code": f"https://github.com/{self.official_code}"} if self.official_code else {})


_PAPER = ("title", "authors", "year", "venue", "arxiv", "official_code", "family")
_VOCABULARY: dict[str, tuple[str, ...]] = {**AXES, **SURVEY_FIELDS, "family": (*FAMILIES, "survey"), "status": STATUSES}


class Recommendation(NamedTuple):
    """A paper that fits a situation, its points, and where they come from."""

    entry: MethodEntry
    score: int
    reasons: tuple[str, ...]


def _placed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Axes and survey fields as tuples, with the set of fields that are analogies (``~``)."""
    survey = facts["survey"]
    return (
        {axis: split_values(facts["axes"][axis]) for axis in AXES}
        | {field: survey_values(field, survey.get(field, "")) for field in SURVEY_FIELDS}
        | {"analogy": frozenset(field for field, cell in survey.items() if cell.startswith("~"))}
    )


def _from_row(slug: str) -> MethodEntry:
    facts = collection()[slug].facts()
    is_survey = facts["family"] == "survey"
    fields = {name: facts[name] for name in _PAPER} | _placed(facts)
    if not is_survey:
        fields |= {"module": f"kdcore.methods.{slug}", "notebook": f"notebooks/{facts['family']}/{slug}.ipynb"}
    return MethodEntry(slug=slug, **fields, status="survey" if is_survey else "planned")


def _from_card(card: MethodCard) -> MethodEntry:
    fields = {name: getattr(card, name) for name in ("slug", *_PAPER, "module", "notebook", "summary")}
    return MethodEntry(**fields | _placed({"axes": vars(card.axes), "survey": card.survey}), status="implemented")


@cache
def _collection() -> tuple[MethodEntry, ...]:
    implemented = set(list_methods())
    return tuple(
        _from_card(get_card(slug)) if slug in implemented else _from_row(slug)
        for slug, row in collection().items()
        if row.text("companion") == "-"
    )


def entries(*, companions: bool = False) -> tuple[MethodEntry, ...]:
    """All 43 papers of the collection, surveys included, in its order.

    Args:
        companions: also give the implemented modules that are not papers of the collection (baselines, instruments).
    """
    if not companions:
        return _collection()
    papers = {e.slug for e in _collection()}
    return _collection() + tuple(_from_card(get_card(slug)) for slug in list_methods() if slug not in papers)


def entry(slug: str) -> MethodEntry:
    """The entry of a paper, baseline or instrument.

    Raises:
        ValueError: unknown slug, with the closest ones.
    """
    known = {e.slug: e for e in entries(companions=True)}
    if slug not in known:
        raise ValueError(f"no paper is called {slug!r}.{closest(slug, known)} entries() has them all.")
    return known[slug]


def find(**fields: str | Iterable[str]) -> list[MethodEntry]:
    """Papers of the collection that have any of the asked values, on every asked axis.

    Args:
        **fields: an axis, a survey field, ``family`` or ``status``, with one value or several.

    Raises:
        ValueError: unknown field or value; the message names those that exist.

    Example:
        >>> [e.slug for e in find(task="instseg")]
        ['dynamic_ykd']
    """
    asked = {name: (wanted,) if isinstance(wanted, str) else tuple(wanted) for name, wanted in fields.items()}
    for name, wanted in asked.items():
        check_choice("axis", name, tuple(_VOCABULARY))
        for value in wanted:
            check_choice(name, value, _VOCABULARY[name])
    return [e for e in entries() if all(set(e.values(name)) & set(wanted) for name, wanted in asked.items())]


def similarity_matrix(papers: Sequence[MethodEntry]) -> np.ndarray:
    r"""Weighted Jaccard similarity over all values of the ten axes, ``(n, n)``, 1 on the diagonal.

    A paper's main value on an axis weighs 2, its further values 1, all others 0; then
    :math:`J(a, b) = \sum_v \min(a_v, b_v) / \sum_v \max(a_v, b_v)`.
    """
    import numpy as np

    column = {key: i for i, key in enumerate((axis, value) for axis, values in AXES.items() for value in values)}
    weights = np.zeros((len(papers), len(column)))
    for row, paper in enumerate(papers):
        for axis in AXES:
            for value in reversed(paper.values(axis)):
                weights[row, column[axis, value]] = 2.0 if value == paper.values(axis)[0] else 1.0
    smaller = np.minimum(weights[:, None], weights[None]).sum(-1)
    total = weights.sum(-1)
    return smaller / (total[:, None] + total[None] - smaller)


def similar(slug: str, k: int = 5) -> list[tuple[MethodEntry, float]]:
    """The ``k`` papers nearest to one, most similar first (ties by slug), each with its similarity in [0, 1].

    Args:
        slug: any entry, companions included; the answer contains papers of the collection only, never the paper itself.
        k: how many.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    asked, others = entry(slug), [e for e in entries() if e.slug != slug]
    row = similarity_matrix([asked, *others])[0, 1:]
    ranked = sorted(zip(others, row.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0].slug))
    return ranked[:k]


class MapCoordinates(NamedTuple):
    """Places of papers in the plane, ``(n, 2)``, and the share of squared distance that two dimensions keep."""

    xy: np.ndarray
    kept: float


def map_coordinates(papers: Sequence[MethodEntry]) -> MapCoordinates:
    r"""Classical multidimensional scaling of the Jaccard distances :math:`1 - J` to the plane.

    With :math:`B = -\tfrac12 H D^2 H` and its two largest eigenpairs, the coordinates are
    :math:`\sqrt{\lambda_i}\, u_i`; signs are fixed so that the largest coordinate of each axis is positive. ``kept`` is
    :math:`(\lambda_1 + \lambda_2) / \sum \max(\lambda, 0)`.

    Raises:
        ValueError: fewer than three papers.

    Reference: Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17, 1952.
    """
    import numpy as np

    if len(papers) < 3:
        raise ValueError(f"a map needs at least 3 papers, got {len(papers)}.")
    squared = (1 - similarity_matrix(papers)) ** 2
    centred = squared - squared.mean(0) - squared.mean(1, keepdims=True) + squared.mean()
    eigenvalues, vectors = np.linalg.eigh(-centred / 2)
    top = np.maximum(eigenvalues[-2:][::-1], 0)
    xy = vectors[:, -2:][:, ::-1] * np.sqrt(top)
    xy *= np.where(np.take_along_axis(xy, np.abs(xy).argmax(0)[None], 0) < 0, -1, 1)
    positive = np.maximum(eigenvalues, 0).sum()
    return MapCoordinates(xy, float(top.sum() / positive) if positive > 0 else 1.0)


def check_situation(situation: Mapping[str, str | None]) -> dict[str, str]:
    """The answered questions of a situation in the guide's order; ``None`` and "" are open.

    Raises:
        ValueError: a question or an answer that the guide does not have; the message names those it has.
    """
    for question in situation:
        check_choice("situation key", question, tuple(GUIDE))
    answers = {q: value for q in GUIDE if (value := situation.get(q))}
    for question, value in answers.items():
        check_choice(f"situation[{question!r}]", value, GUIDE[question])
    return answers


def _accessible(paper: MethodEntry, available: str) -> bool:
    return min(map(_ACCESS.index, paper.teacher_access)) <= _ACCESS.index(available)


def excluded_because(paper: MethodEntry, situation: Mapping[str, str | None]) -> str:
    """The hard rule that removes a paper from a situation, in words; "" if none does.

    The rules: surveys are never recommended; the least demanding access a method can do with must be available
    (none < text < outputs < whitebox); who has to unlearn needs a method that unlearns; graphs need a graph method; for
    different architectures, methods that assume the same one or restructure the teacher are out.
    """
    answers = check_situation(situation)
    if paper.status == "survey":
        return "a survey, not a method"
    if "teacher_access" in answers and not _accessible(paper, answers["teacher_access"]):
        needs = min(paper.teacher_access, key=_ACCESS.index)
        return f"needs the teacher's {needs} ({MEANING['teacher_access'][needs]})"
    if answers.get("goal") == "unlearn" and "unlearn" not in paper.goal:
        return "does not unlearn"
    if answers.get("modality") == "graph" and "graph" not in paper.modality:
        return "does not work on graphs"
    if answers.get("arch") == "cross" and set(paper.arch) <= {"same", "converted"}:
        return f"needs teacher and student of one kind ({paper.arch[0]})"
    return ""


class Point(NamedTuple):
    """Points that one answer brings to a paper; ``main`` where the answer is the paper's main value on that axis."""

    axis: str
    value: str
    points: int
    main: bool

    def __str__(self) -> str:
        return f"+{self.points} {self.axis} {self.value}{' (its main one)' if self.main else ''}"


def points(paper: MethodEntry, situation: Mapping[str, str | None]) -> tuple[Point, ...]:
    """What each answer brings to a paper, see :func:`recommend`; hard rules are not looked at."""
    answers = check_situation(situation)
    found = []
    for axis, weight in _WEIGHTS.items():
        if (asked := answers.get(axis)) in (values := paper.values(axis)):
            main = asked == values[0]
            found.append(Point(axis, answers[axis], weight + main, main))
    granted = _ARCH_POINTS[answers.get("arch", "any")]
    best = max(paper.arch, key=lambda a: granted.get(a, 0))
    return (*found, Point("arch", best, granted[best], False)) if best in granted else tuple(found)


def recommend(
    situation: Mapping[str, str | None], *, top: int | None = 5, baseline: bool = False
) -> list[Recommendation]:
    """Papers for a situation, best first.

    A paper gets 3 points where the asked goal is among its goals, 3 for the data regime, 2 for the task, 2 for the
    modality, 1 for the number of teachers, and 1 more for each of these that is its main value; asked for different
    architectures (``arch="cross"``), 4 points if it was designed for them and 1 if it is indifferent; asked for the
    same, 1 point if it assumes that or is indifferent. Open questions add nothing; papers without points, and papers
    that :func:`excluded_because` removes, are left out. Ties are ordered by slug.

    Args:
        situation: answers to some of the questions :data:`GUIDE`, e.g. ``{"goal": "compress", "modality": "text"}``.
        top: how many; ``None`` for all.
        baseline: put the baselines (:data:`TRY_FIRST`) before the list, as the decision guide shows them, with score 0:
            no comparison means much without them. They do not count towards ``top``.

    Raises:
        ValueError: unknown question or answer.

    Example:
        >>> recommend({"goal": "detect", "task": "anomaly", "modality": "image"}, top=1)[0].entry.slug
        'fabric_rd'
    """
    answers = check_situation(situation)
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1 or None, got {top}.")
    found = []
    for paper in entries():
        granted = () if excluded_because(paper, answers) else points(paper, answers)
        if granted:
            found.append(Recommendation(paper, sum(p.points for p in granted), tuple(map(str, granted))))
    found.sort(key=lambda r: (-r.score, r.entry.slug))
    first = [_baseline(answers)] if baseline else []
    return first + found[:top]


def _baseline(answers: Mapping[str, str]) -> Recommendation:
    paper = entry(TRY_FIRST)
    obstacle = excluded_because(paper, answers)
    reason = f"try this before, where you can: it {obstacle}" if obstacle else "try this before"
    return Recommendation(paper, 0, (reason,))


class CaseResult(NamedTuple):
    """What the guide answered to a worked case, and whether that is what it must answer."""

    case: Case
    found: tuple[Recommendation, ...]
    holds: bool


def check_case(case: Case) -> CaseResult:
    """Ask the guide a worked case and compare its answer with what the case demands."""
    found = recommend(case.answers)
    slugs = [r.entry.slug for r in found]
    holds = (
        set(case.appear) <= set(slugs)
        and (not case.first or slugs[:1] == [case.first])
        and all(excluded_because(entry(slug), case.answers) for slug in case.absent)
    )
    return CaseResult(case, tuple(found), holds)


def __getattr__(name: str) -> Any:
    if name == "METHODS":  # built on first use: it reads every card
        return entries()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AXES",
    "CASES",
    "GUIDE",
    "GUIDE_TEXT",
    "MEANING",
    "METHODS",  # noqa: F822
    "QUESTIONS",
    "STATUSES",
    "SURVEY_FIELDS",
    "TRY_FIRST",
    "Case",
    "CaseResult",
    "MapCoordinates",
    "MethodEntry",
    "Point",
    "Recommendation",
    "check_case",
    "check_situation",
    "entries",
    "entry",
    "excluded_because",
    "find",
    "map_coordinates",
    "points",
    "recommend",
    "similar",
    "similarity_matrix",
]
