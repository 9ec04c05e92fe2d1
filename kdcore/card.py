"""Method cards: what a paper is, where it stands, what was checked. Data only: nothing here looks for methods.

A method module ends with ``CARD = MethodCard(slug=..., summary=..., objectives=(...))``. Title, authors, links, family,
the ten axes and the surveys' fields come from the paper's row in ``collection.csv``, the only place where they are
written, for papers that are implemented and for those that are planned. A baseline, or a paper of your own, has no row
and gives them to :class:`MethodCard` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .collection import AXES, FAMILIES, FILE, SURVEY_FIELDS, collection, split_values, survey_values
from .functional.checks import check_choice, closest
from .html import Html, details, facts, items, join, table, tag

#: What a loss promises; each value is a test in ``tests/contract``.
INVARIANCES = {
    "zero_at_match": "0 when the student's output equals the teacher's",
    "minimal_at_match": "gradient 0 when the student's output equals the teacher's",
    "shift_invariant": "unchanged when a constant is added to all logits of a sample",
    "scale_invariant": "unchanged when the student's features or logits are multiplied by a positive constant",
    "class_permutation": "unchanged when classes are renamed in student, teacher and labels alike",
    "sample_permutation": "unchanged when the samples of the batch are reordered",
    "rotation_invariant": "unchanged under an orthogonal transform of the student's features",
}


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Where a paper stands on the ten axes; each value is written ``"a+b"``, the main value first."""

    knowledge: str
    scheme: str
    signal: str
    task: str
    modality: str
    teacher_access: str
    data_regime: str
    teachers: str
    arch: str
    goal: str

    def __post_init__(self) -> None:
        for axis, allowed in AXES.items():
            for value in self.values(axis):
                check_choice(f"axes.{axis}", value, allowed)

    def values(self, axis: str) -> tuple[str, ...]:
        """The values on one axis, main value first."""
        check_choice("axis", axis, tuple(AXES))
        return split_values(getattr(self, axis))


@dataclass(frozen=True)
class Knob:
    """One hyper-parameter: the only place where its default, range, symbol and help are written.

    Widgets, papermill parameters, grids and documentation are derived from it. ``low``/``high`` are the range the
    paper explored (slider bounds), not a limit: what is mathematically wrong is refused by the loss itself.
    """

    name: str
    default: float | int | bool | str | None
    low: float | None = None
    high: float | None = None
    symbol: str = ""
    help: str = ""
    source: str = ""
    choices: tuple[str, ...] = ()
    log: bool = False

    def check(self, value: Any) -> Any:
        """Return ``value`` in the type of the default, or raise ``TypeError``/``ValueError`` naming the knob."""
        if self.choices and isinstance(value, str):
            check_choice(self.name, value, self.choices)
            return value
        if value is None and self.default is None:
            return None
        expected = type(self.default) if self.default is not None else float
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if expected is float and number:
            return float(value)
        if expected is int and number and float(value).is_integer():
            return int(value)
        if isinstance(value, expected) and (expected is bool or not isinstance(value, bool)):
            return value
        raise TypeError(f"{self.name} must be {expected.__name__} ({self.help or 'see the card'}), got {value!r}.")


@dataclass(frozen=True)
class Parity:
    """How the method was checked against code or text that is not ours."""

    status: str = "none"  # "exact": every vector reproduced; "partial": see note; "none": no official values exist
    source: str = ""  # e.g. "megvii-research/mdistiller"
    tolerance: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        check_choice("parity.status", self.status, ("exact", "partial", "none"))


@dataclass(frozen=True)
class Evidence:
    """One row of the 'paper / released code / here' box."""

    what: str
    paper: str
    code: str
    here: str


#: What a card may not lack.
_REQUIRED = ("title", "authors", "year", "family", "axes")

#: Default of what :class:`MethodCard` takes from the paper's row.
FROM_COLLECTION: Any = None


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """A paper in kdcore, written at the end of its module. Draws itself in a notebook.

    Attributes:
        slug: module name in ``kdcore.methods``, notebook and test name, and the paper's row in ``collection.csv``.
        summary: what it does in one or two sentences.
        objectives: its :class:`~kdcore.method.Method` classes, the main one first; the card becomes theirs
            (``cls.card``). Empty for a search, a selection or another algorithm without a training objective.
        losses: names of the public loss functions in the module (contract and mutation tests run on them).
        taps: in words, what it reads from the two models.
        invariances: keys of :data:`INVARIANCES` that every objective promises which does not say otherwise itself.
        parity, evidence, deviations: what was checked, and where paper, released code and kdcore differ.
        title, authors, year, venue, arxiv: the paper; ``authors`` in short form ("Hinton et al."). From its row.
        official_code: ``owner/name`` of the authors' repository, or "" where none was found. From its row.
        family: chapter of the book, and folder of the notebook (one of :data:`FAMILIES`). From its row.
        axes: its place in the method map. From its row.
        survey: the surveys' fields (:data:`SURVEY_FIELDS`) as cells; ``~`` marks an analogy. From its row.

    Raises:
        ValueError: a field that neither the row nor the arguments give; a value outside its vocabulary, with file and
            line where it came from the row; a class that has another paper's card.
    """

    slug: str
    summary: str
    objectives: tuple[type[Any], ...] = ()  # of Method, which imports this module
    losses: tuple[str, ...] = ()
    taps: str = "logits"
    invariances: tuple[str, ...] = ()
    parity: Parity = Parity()
    evidence: tuple[Evidence, ...] = ()
    deviations: tuple[str, ...] = ()
    title: str = FROM_COLLECTION
    authors: str = FROM_COLLECTION
    year: int = FROM_COLLECTION
    venue: str = FROM_COLLECTION
    arxiv: str = FROM_COLLECTION
    official_code: str = FROM_COLLECTION
    family: str = FROM_COLLECTION
    axes: Axes = FROM_COLLECTION
    survey: dict[str, str] = FROM_COLLECTION

    def __post_init__(self) -> None:
        self._take_from_the_collection()
        check_choice("family", self.family, FAMILIES)
        for name in self.invariances:
            check_choice("invariances", name, tuple(INVARIANCES))
        for field, cell in self.survey.items():
            check_choice("survey field", field, tuple(SURVEY_FIELDS))
            for value in survey_values(field, cell):
                check_choice(f"survey[{field!r}]", value, SURVEY_FIELDS[field])
        for cls in self.objectives:
            self._give_itself_to(cls)

    def _take_from_the_collection(self) -> None:
        """Fill what the arguments leave open from the paper's row; without one, the optional facts are empty."""
        row = collection().get(self.slug)
        given: dict[str, Any] = {"venue": "", "arxiv": "", "official_code": "", "survey": {}}
        if row:
            given = row.facts()
            given["axes"] = Axes(**given["axes"])
        for name, value in given.items():
            if getattr(self, name) is FROM_COLLECTION:
                object.__setattr__(self, name, value)
        if missing := [name for name in _REQUIRED if getattr(self, name) is FROM_COLLECTION]:
            raise ValueError(
                f"the card {self.slug!r} lacks {', '.join(missing)}: {FILE} has no row {self.slug!r}."
                f"{closest(self.slug, collection())} Add a row there, or give these fields to MethodCard."
            )

    def _give_itself_to(self, cls: type[Any]) -> None:
        """Become the card of an objective; a changed copy of its card (``replace``) leaves it with the original."""
        owner = vars(cls).get("card")
        if owner is None:
            cls.card = self
            cls.invariances = vars(cls).get("invariances", self.invariances)
        elif owner.slug != self.slug:
            raise ValueError(
                f"{cls.__name__} has the card {owner.slug!r} already, so it is no objective of {self.slug!r}: "
                "subclass it under a name of its own."
            )

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Hyper-parameters of the first objective; () for a paper without one."""
        return self.objectives[0].knobs if self.objectives else ()

    @property
    def module(self) -> str:
        return f"kdcore.methods.{self.slug}"

    @property
    def notebook(self) -> str:
        return f"notebooks/{self.family}/{self.slug}.ipynb"

    def _repr_html_(self) -> str:
        return card_html(self)


def _knob_rows(knobs: Sequence[Knob]) -> list[tuple[str, ...]]:
    def explored(k: Knob) -> str:
        if k.choices:
            return ", ".join(k.choices)
        return f"{k.low:g} to {k.high:g}" if k.low is not None and k.high is not None else ""

    return [(k.name, k.symbol, str(k.default), explored(k), k.help, k.source) for k in knobs]


def card_html(card: MethodCard) -> Html:
    """The card as HTML: title with links, summary, knobs, evidence box; readable in light and dark."""
    about: list[object] = [", ".join(filter(None, (card.authors, str(card.year), card.venue)))]
    if card.arxiv:
        about.append(tag("a", f"arXiv:{card.arxiv}", href=f"https://arxiv.org/abs/{card.arxiv}"))
    if card.official_code:
        link = tag("a", card.official_code, href=f"https://github.com/{card.official_code}")
        about.append(join(("code: ", link)))
    parity = card.parity
    checked = [
        parity.status,
        f"with {parity.source}" if parity.source else "",
        f"(tolerance {parity.tolerance:g})" if parity.tolerance else "",
        parity.note,
    ]
    said = {"family": card.family, "reads": card.taps, "parity": " ".join(filter(None, checked))}
    if card.invariances:
        said["promises"] = "; ".join(INVARIANCES[i] for i in card.invariances)
    parts = [tag("b", card.title, style="font-size:1.15em"), tag("br"), join(about, " · ")]
    parts += [tag("p", card.summary), facts(said)]
    columns = ("name", "symbol", "default", "explored range", "meaning", "source of default")
    for cls in card.objectives:
        parts.append(details(join(("knobs of ", tag("code", cls.name))), table(_knob_rows(cls.knobs), columns)))
    if card.evidence:
        rows = [(r.what, r.paper, r.code, r.here) for r in card.evidence]
        sources = ("", "paper", "released code", "here")
        parts.append(details("paper / released code / here", table(rows, sources), open=True))
    if card.deviations:
        parts += [tag("b", "We differ:"), items(card.deviations)]
    style = "border:1px solid #8884;border-left:4px solid #0072B2;border-radius:6px;padding:.6em 1em;max-width:60em"
    return tag("div", *parts, class_="kd-card", style=style)


def knob_names(knobs: Sequence[Knob]) -> tuple[str, ...]:
    """The names of some knobs, in order."""
    return tuple(k.name for k in knobs)


__all__ = [
    "AXES",
    "FAMILIES",
    "INVARIANCES",
    "SURVEY_FIELDS",
    "Axes",
    "Evidence",
    "Knob",
    "MethodCard",
    "Parity",
    "card_html",
    "knob_names",
    "split_values",
]
