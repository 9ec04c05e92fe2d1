"""The lessons as cards with links, and the papers that are planned, by family: the table of contents of the book."""

from __future__ import annotations

from collections.abc import Sequence

from kdcore.card import FAMILIES
from kdcore.html import Html, join, tag
from kdcore.taxonomy import MethodEntry

#: What the chapters of the book are about, in a few words.
FAMILY_WORDS = {
    "foundations": "the baselines and the instruments",
    "ranking": "the order of the classes",
    "features": "what hidden layers hold",
    "masks": "which parts to look at",
    "domains": "many experts, other domains",
    "data": "little data, or none",
    "language": "language models",
    "streams": "time, graphs, and what comes later",
}

_STYLE = (
    "<style>.kd-gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(17em,1fr));gap:.8em;max-width:64em;"
    "margin:.4em 0 .8em}.kd-gallery>div{border:1px solid #8884;border-top:4px solid #0072B2;border-radius:6px;"
    "padding:.5em .8em .6em;display:flex;flex-direction:column;gap:.3em}.kd-gallery a{font-weight:600}"
    ".kd-gallery small,.kd-planned small{opacity:.8}.kd-planned{max-width:64em;margin:.2em 0}"
    ".kd-planned dt{font-weight:600;margin-top:.35em;float:none;width:auto}"
    ".kd-planned dd{margin:0 0 0 1.2em}</style>"
)


def lessons_html(papers: Sequence[MethodEntry], *, base: str = "") -> str:
    """Implemented papers as cards that lead to their lessons.

    Args:
        papers: which; planned ones are passed over.
        base: what leads from the page to the folder that holds ``notebooks``; ``".."`` for a page inside ``notebooks``.

    Raises:
        ValueError: none of them is implemented.
    """
    done = _by_family([p for p in papers if p.status == "implemented"])
    if not done:
        raise ValueError("papers must hold at least one implemented paper, got none.")
    return join((Html(_STYLE), tag("div", *(_card(p, base) for p in done), class_="kd-gallery")))


def _card(paper: MethodEntry, base: str) -> Html:
    link = "/".join(filter(None, (base, paper.notebook)))
    about = tag("small", f"{paper.family} · {paper.authors} {paper.year}")
    return tag("div", about, tag("a", paper.title, href=link), tag("span", paper.summary))


def planned_html(papers: Sequence[MethodEntry]) -> str:
    """Planned papers by family, each linked to its paper where it has an address; empty if none is planned."""
    planned = _by_family([p for p in papers if p.status == "planned"])
    rows = []
    for family in dict.fromkeys(p.family for p in planned):
        papers_of = join(map(_planned, (p for p in planned if p.family == family)), ", ")
        rows += [tag("dt", f"{family} ", tag("small", FAMILY_WORDS.get(family, ""))), tag("dd", papers_of)]
    return join((Html(_STYLE), tag("dl", *rows, class_="kd-planned"))) if rows else ""


def _planned(paper: MethodEntry) -> Html:
    if "paper" not in paper.links:
        return tag("span", paper.slug, title=paper.title)
    return tag("a", paper.slug, href=paper.links["paper"], title=paper.title)


def _by_family(papers: Sequence[MethodEntry]) -> list[MethodEntry]:
    """In the order of the book's chapters, by year within one."""
    return sorted(papers, key=lambda p: (FAMILIES.index(p.family), p.year, p.slug))
