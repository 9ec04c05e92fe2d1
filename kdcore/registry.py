"""Method cards: what a paper is, what its knobs are, what was checked.

A method module defines ``CARD = MethodCard(...)`` and, where the paper is a training objective, one or more
:class:`kdcore.method.Method` subclasses with ``card = CARD``. Modules are found, not listed, so nothing else
has to be edited: the README table, the method map, the panels' dropdowns and slider bounds, and the contract tests all
come from here.
"""

from __future__ import annotations

import fnmatch
import html
import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from .functional.checks import check_choice, closest

if TYPE_CHECKING:
    from .method import Method

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


def split_values(text: str | Sequence[str]) -> tuple[str, ...]:
    """``"kl+mse"`` -> ``("kl", "mse")``; the first value is the main one; ``"-"`` is empty."""
    parts = text.replace(",", "+").split("+") if isinstance(text, str) else text
    return tuple(p.strip() for p in parts if p.strip() and p.strip() != "-")


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


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """A paper in kdcore. Draws itself in a notebook.

    Attributes:
        slug: module name in ``kdcore.methods``, notebook and test name.
        title, authors, year, venue, arxiv: the paper; ``authors`` in short form ("Hinton et al.").
        official_code: ``owner/name`` of the authors' repository, or "" where none was found.
        family: chapter of the book, and folder of the notebook (one of :data:`FAMILIES`).
        summary: what it does in one or two sentences.
        axes: its place in the method map.
        knobs: hyper-parameters of the card's first objective.
        losses: names of the public loss functions in the module (contract and mutation tests run on them); empty for a
            search, a selection or another algorithm without a training objective.
        taps: in words, what it reads from the two models.
        invariances: keys of :data:`INVARIANCES` promised by the first objective.
        parity, evidence, deviations: what was checked, and where paper, released code and kdcore differ.
        survey: the surveys' five fields (elicitation, algorithm, skill, kd_theme, dd_family); ``~`` marks an analogy.
    """

    slug: str
    title: str
    authors: str
    year: int
    venue: str = ""
    arxiv: str = ""
    official_code: str = ""
    family: str
    summary: str
    axes: Axes
    knobs: tuple[Knob, ...] = ()
    losses: tuple[str, ...] = ()
    taps: str = "logits"
    invariances: tuple[str, ...] = ()
    parity: Parity = Parity()
    evidence: tuple[Evidence, ...] = ()
    deviations: tuple[str, ...] = ()
    survey: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("family", self.family, FAMILIES)
        for name in self.invariances:
            check_choice("invariances", name, tuple(INVARIANCES))

    @property
    def module(self) -> str:
        return f"kdcore.methods.{self.slug}"

    @property
    def notebook(self) -> str:
        return f"notebooks/{self.family}/{self.slug}.ipynb"

    @property
    def objectives(self) -> dict[str, type[Method]]:
        """Training objectives of this paper by name, in the order of the module."""
        return {name: cls for name, cls in _objectives().items() if cls.card is self}

    def _repr_html_(self) -> str:
        return card_html(self)


def _html_table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of plain text as an HTML table; the first cell of a row is its header."""
    left = ' style="text-align:left"'
    cells = "".join(f"<th{left}>{html.escape(c)}</th>" if c else "<td></td>" for c in head)  # "" heads nothing
    top = f"<tr>{cells}</tr>" if head else ""
    body = "".join(
        f'<tr><th scope="row"{left}>{html.escape(row[0])}</th>'
        + "".join(f"<td{left}>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table>{top}{body}</table>"


def _knob_rows(knobs: Sequence[Knob]) -> list[tuple[str, ...]]:
    def explored(k: Knob) -> str:
        if k.choices:
            return ", ".join(k.choices)
        return f"{k.low:g} to {k.high:g}" if k.low is not None and k.high is not None else ""

    return [(k.name, k.symbol, str(k.default), explored(k), k.help, k.source) for k in knobs]


def card_html(card: MethodCard) -> str:
    """The card as HTML: title with links, summary, knobs, evidence box; readable in light and dark."""
    e = html.escape
    about = [e(", ".join(filter(None, (card.authors, str(card.year), card.venue))))]
    if card.arxiv:
        about.append(f'<a href="https://arxiv.org/abs/{e(card.arxiv)}">arXiv:{e(card.arxiv)}</a>')
    if card.official_code:
        about.append(f'code: <a href="https://github.com/{e(card.official_code)}">{e(card.official_code)}</a>')
    parity = card.parity
    checked = [
        parity.status,
        f"with {parity.source}" if parity.source else "",
        f"(tolerance {parity.tolerance:g})" if parity.tolerance else "",
        parity.note,
    ]
    facts = [("family", card.family), ("reads", card.taps), ("parity", " ".join(filter(None, checked)))]
    if card.invariances:
        facts.append(("promises", "; ".join(INVARIANCES[i] for i in card.invariances)))
    parts = [
        f'<b style="font-size:1.15em">{e(card.title)}</b><br>{" · ".join(about)}<p>{e(card.summary)}</p>',
        _html_table(facts),
    ]
    for name, knobs in {n: cls.knobs for n, cls in card.objectives.items()}.items() or [(card.slug, card.knobs)]:
        if knobs:
            head = ("name", "symbol", "default", "explored range", "meaning", "source of default")
            parts.append(
                f"<details><summary>knobs of <code>{e(name)}</code></summary>"
                f"{_html_table(_knob_rows(knobs), head)}</details>"
            )
    if card.evidence:
        rows = [(r.what, r.paper, r.code, r.here) for r in card.evidence]
        parts.append(
            "<details open><summary>paper / released code / here</summary>"
            f"{_html_table(rows, ('', 'paper', 'released code', 'here'))}</details>"
        )
    if card.deviations:
        parts.append("<b>We differ:</b><ul>" + "".join(f"<li>{e(d)}</li>" for d in card.deviations) + "</ul>")
    style = "border:1px solid #8884;border-left:4px solid #0072B2;border-radius:6px;padding:.6em 1em;max-width:60em"
    return f'<div class="kd-card" style="{style}">{"".join(parts)}</div>'


@cache
def _modules() -> dict[str, Any]:
    methods = importlib.import_module(f"{__package__}.methods")  # by name: methods sit above the registry
    return {
        info.name: importlib.import_module(f"{methods.__name__}.{info.name}")
        for info in pkgutil.iter_modules(methods.__path__)
        if not info.name.startswith("_")
    }


@cache
def _cards() -> dict[str, MethodCard]:
    cards = {}
    for name, module in _modules().items():
        card = getattr(module, "CARD", None)
        if not isinstance(card, MethodCard):
            raise TypeError(f"kdcore/methods/{name}.py must define CARD = MethodCard(...), got {card!r}.")
        if card.slug != name:
            raise ValueError(f"kdcore/methods/{name}.py: CARD.slug must be {name!r}, got {card.slug!r}.")
        cards[name] = card
    return cards


@cache
def _objectives() -> dict[str, type[Method]]:
    from .method import CrossEntropy, Method

    found: dict[str, type[Method]] = {"ce": CrossEntropy}
    for module in _modules().values():
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Method) and cls.__module__ == module.__name__:
                if cls.name in found:
                    raise ValueError(f"two objectives are called {cls.name!r}: {found[cls.name]} and {cls}.")
                found[cls.name] = cls
    return found


def list_methods(pattern: str = "*", **axes: str | Iterable[str]) -> list[str]:
    """Slugs of the implemented papers, sorted.

    Args:
        pattern: glob over slugs (``"*kd*"``).
        **axes: keep papers that have any of the given values on each axis, e.g. ``signal="listwise"``,
            ``knowledge=("feature", "relation")``, or ``family="ranking"``.

    Raises:
        ValueError: unknown axis or value; the message names those that exist.

    Example:
        >>> list_methods("pl*")
        ['pld']
    """
    for axis, wanted in axes.items():
        check_choice("axis", axis, (*AXES, "family"))
        for value in (wanted,) if isinstance(wanted, str) else wanted:
            check_choice(axis, value, FAMILIES if axis == "family" else AXES[axis])

    def keep(card: MethodCard) -> bool:
        for axis, wanted in axes.items():
            has = (card.family,) if axis == "family" else card.axes.values(axis)
            if not set(has) & set((wanted,) if isinstance(wanted, str) else wanted):
                return False
        return True

    return sorted(s for s, card in _cards().items() if fnmatch.fnmatchcase(s, pattern) and keep(card))


def list_objectives(pattern: str = "*") -> list[str]:
    """Names that :func:`create_method` can train with (``ce``, ``kd``, ``dkd``, ``pld``, ...), sorted."""
    return sorted(n for n in _objectives() if fnmatch.fnmatchcase(n, pattern))


def get_card(slug: str) -> MethodCard:
    """The card of a paper by slug (or by the name of one of its objectives)."""
    if slug in _cards():
        return _cards()[slug]
    if slug in _objectives():
        return _objectives()[slug].card
    raise ValueError(
        f"no method is called {slug!r}.{closest(slug, [*_cards(), *_objectives()])} list_methods() names them all."
    )


def objective_class(name: str) -> type[Method]:
    """The :class:`~kdcore.method.Method` subclass for an objective name or a paper's slug (its first objective)."""
    if name in _objectives():
        return _objectives()[name]
    if name in _cards():
        classes = list(_cards()[name].objectives.values())
        if classes:
            return classes[0]
        raise ValueError(f"{name!r} is not a training objective: its functions live in kdcore.methods.{name}.")
    raise ValueError(
        f"no method is called {name!r}.{closest(name, [*_cards(), *_objectives()])} list_objectives() names them all."
    )


def create_method(name: str, **knobs: Any) -> Method:
    """A training objective by name, with its paper's defaults where a knob is not given.

    Args:
        name: an objective (``"dkd"``) or a slug (``"vanilla_kd"`` gives its first objective, KD).
        **knobs: hyper-parameters, see ``get_card(name)``.

    Raises:
        ValueError: unknown name or knob, with the closest ones.
        TypeError: a knob of the wrong type.
    """
    return objective_class(name)(**knobs)


def knob_names(knobs: Sequence[Knob]) -> tuple[str, ...]:
    return tuple(k.name for k in knobs)


__all__ = [
    "AXES",
    "FAMILIES",
    "INVARIANCES",
    "Axes",
    "Evidence",
    "Knob",
    "MethodCard",
    "Parity",
    "card_html",
    "create_method",
    "get_card",
    "knob_names",
    "list_methods",
    "list_objectives",
    "objective_class",
    "split_values",
]
