"""The lessons as cards with links, and the papers that are planned, by family: the table of contents of the book."""

from __future__ import annotations

import html
from collections.abc import Sequence

from kdcore.registry import FAMILIES
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
    ".kd-planned dt{font-weight:600;margin-top:.35em}.kd-planned dd{margin:0 0 0 1.2em}</style>"
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
    return f'{_STYLE}<div class="kd-gallery">{"".join(_card(p, base) for p in done)}</div>'


def _card(paper: MethodEntry, base: str) -> str:
    e = html.escape
    link = "/".join(filter(None, (base, paper.notebook)))
    return (
        f"<div><small>{e(paper.family)} · {e(paper.authors)} {paper.year}</small>"
        f'<a href="{e(link)}">{e(paper.title)}</a><span>{e(paper.summary)}</span></div>'
    )


def planned_html(papers: Sequence[MethodEntry]) -> str:
    """Planned papers by family, each linked to its paper where it has an address; empty if none is planned."""
    planned = _by_family([p for p in papers if p.status == "planned"])
    e = html.escape
    rows = []
    for family in dict.fromkeys(p.family for p in planned):
        items = ", ".join(map(_planned, (p for p in planned if p.family == family)))
        rows.append(f"<dt>{e(family)} <small>{e(FAMILY_WORDS.get(family, ''))}</small></dt><dd>{items}</dd>")
    return f'{_STYLE}<dl class="kd-planned">{"".join(rows)}</dl>' if rows else ""


def _planned(paper: MethodEntry) -> str:
    e = html.escape
    title = e(paper.title)
    if "paper" not in paper.links:
        return f'<span title="{title}">{e(paper.slug)}</span>'
    return f'<a href="{e(paper.links["paper"])}" title="{title}">{e(paper.slug)}</a>'


def _by_family(papers: Sequence[MethodEntry]) -> list[MethodEntry]:
    """In the order of the book's chapters, by year within one."""
    return sorted(papers, key=lambda p: (FAMILIES.index(p.family), p.year, p.slug))
