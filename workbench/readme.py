"""Generated blocks of Markdown files: the table of methods in ``README.md``, the axes in ``docs/taxonomy.md``.

A block stands between ``<!-- name:start -->`` and ``<!-- name:end -->``; everything else in the file is left alone.
``python -m workbench.readme`` writes the blocks; ``python -m workbench.readme --check`` only compares (exit code 1 and
a diff where one is out of date).
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kdcore import taxonomy
from kdcore.card import AXES, FAMILIES, MethodCard
from kdcore.files import write_atomic
from kdcore.registry import get_card, list_methods

from .runs.files import project_root


def methods_markdown() -> str:
    """The methods as Markdown: implemented papers as a table in the order of the book, planned ones folded."""
    cards = sorted(map(get_card, list_methods()), key=lambda c: (FAMILIES.index(c.family), c.slug))
    planned = taxonomy.find(status="planned")
    head = ("| method | paper | objectives | family | checked against |", "|---|---|---|---|---|")
    folded = [
        f"- **{family}**: {', '.join(names)}"
        for family in FAMILIES
        if (names := [f"`{e.slug}`" for e in planned if e.family == family])
    ]
    surveys = ", ".join(_paper_link(e.title, e.arxiv) for e in taxonomy.find(status="survey"))
    if planned:
        summary = f"<summary>{len(planned)} more papers are planned</summary>"
        folded = [f"<details>{summary}", "", *folded, "", "</details>", ""]
    return "\n".join(
        (
            *head,
            *map(_row, cards),
            "",
            *folded,
            f"The method map (`notebooks/method_map.ipynb`) places all of them, and two surveys ({surveys}), on ten "
            "axes.",
        )
    )


def _row(card: MethodCard) -> str:
    paper = f"{_paper_link(card.title, card.arxiv)} ({card.authors}, {card.year})"
    objectives = ", ".join(f"`{cls.name}`" for cls in card.objectives) or "–"
    return f"| [`{card.slug}`]({card.notebook}) | {paper} | {objectives} | {card.family} | {_parity(card)} |"


def _parity(card: MethodCard) -> str:
    if card.parity.status == "none":
        return _cell(card.parity.note or "no official values exist")
    return _cell(f"{card.parity.status}: {card.parity.source or 'official values'}")


def _paper_link(title: str, arxiv: str) -> str:
    return f"[{_cell(title)}](https://arxiv.org/abs/{arxiv})" if arxiv else _cell(title)


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def axes_markdown() -> str:
    """The ten axes, their questions, values and meanings as Markdown."""
    lines = []
    for axis in AXES:
        lines += [
            f"### `{axis}`",
            "",
            taxonomy.QUESTIONS[axis],
            "",
            "| value | meaning |",
            "|---|---|",
            *(f"| `{value}` | {_cell(taxonomy.MEANING[axis][value])} |" for value in AXES[axis]),
            "",
        ]
    return "\n".join(lines).rstrip()


def survey_markdown() -> str:
    """The surveys' five fields and their values as Markdown."""
    return "\n".join(
        (
            "| field | values |",
            "|---|---|",
            *(f"| `{field}` | {', '.join(values)} |" for field, values in taxonomy.SURVEY_FIELDS.items()),
        )
    )


#: Which file holds which generated blocks.
BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"methods": methods_markdown},
    "docs/taxonomy.md": {"axes": axes_markdown, "survey": survey_markdown},
}


def render(text: str, name: str, content: str, *, file: str = "README.md") -> str:
    """``text`` with the block ``name`` replaced by ``content``.

    Raises:
        ValueError: the markers are missing, doubled, or in the wrong order.
    """
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    for marker in (start, end):
        if (count := text.count(marker)) != 1:
            raise ValueError(
                f"{file} must hold the marker {marker} once, on a line of its own, to say where the "
                f"generated block goes; it holds it {'not at all' if not count else f'{count} times'}."
            )
    before, rest = text.split(start)
    if end not in rest:
        raise ValueError(f"{file}: the marker {end} comes before {start}.")
    return f"{before}{start}\n{content}\n{end}{rest.split(end)[1]}"


def updated(root: Path, file: str) -> tuple[str, str]:
    """The text of a file as it is and as its blocks should make it."""
    path = root / file
    if not path.is_file():
        raise ValueError(f"there is no {file} in {root}.")
    text = new = path.read_text(encoding="utf-8")
    for name, block in BLOCKS[file].items():
        new = render(new, name, block(), file=file)
    return text, new


def update(root: Path | None = None, files: Iterable[str] = tuple(BLOCKS)) -> list[str]:
    """Write the blocks; returns the files that changed.

    Raises:
        ValueError: a file or a marker is missing.
    """
    root, changed = root or project_root(), []
    for file in files:
        text, new = updated(root, file)
        if new != text:
            write_atomic(root / file, new)
            changed.append(file)
    return changed


def check(root: Path | None = None, files: Iterable[str] = tuple(BLOCKS)) -> str:
    """What is wrong with the blocks, as a readable text with diffs; "" where all are up to date."""
    root, problems = root or project_root(), []
    for file in files:
        try:
            text, new = updated(root, file)
        except ValueError as error:
            problems.append(str(error))
            continue
        if new != text:
            diff = difflib.unified_diff(text.splitlines(), new.splitlines(), file, "from the cards", n=0, lineterm="")
            problems.append("\n".join((f"{file} is out of date: run python -m workbench.readme", *diff)))
    return "\n".join(problems)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0 (right, or written), 1 (out of date, or markers missing)."""
    parser = argparse.ArgumentParser(prog="python -m workbench.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a block is out of date")
    parser.add_argument("--root", type=Path, help="project folder (default: the one around the current folder)")
    options = parser.parse_args(arguments)
    if options.check:
        problem = check(options.root)
        sys.stderr.write(f"{problem}\n" if problem else "")
        return 1 if problem else 0
    failed = False
    for file in BLOCKS:
        try:
            changed = update(options.root, (file,))
        except ValueError as error:
            failed = True
            sys.stderr.write(f"{error}\n")
        else:
            sys.stdout.write(f"{file}: {'written' if changed else 'up to date'}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
