"""The three files of a new method, ready to be filled: module with card, lesson, test.

What is written imports, is found by the registry, and fails: the loss raises ``NotImplementedError``, so the contract
suite and the new test are red until the formula is there. Nothing in it can be mistaken for an implementation.
"""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from string import Template

from kdcore.collection import FAMILIES, FILE, SURVEY_FIELDS, Row, collection
from kdcore.files import write_atomic
from kdcore.functional.checks import check_choice
from kdcore.registry import list_methods, list_objectives

from .runs.files import project_root

#: The axes of a paper outside the collection; written with a note that they have to be checked.
_GUESS = {
    "knowledge": "response",
    "scheme": "offline",
    "signal": "kl",
    "task": "classification",
    "modality": "image",
    "teacher_access": "outputs",
    "data_regime": "labelled",
    "teachers": "one",
    "arch": "any",
    "goal": "compress",
}

_MODULE = Template('''r"""$headline

NOT IMPLEMENTED YET. The loss raises NotImplementedError, and the contract suite fails for this method until it does
not. Write the formula, then this docstring: a finished one says in five lines what the idea is, gives the formula and
a table of the paper's symbols with the arguments and shapes they became (see ``pld.py``).
"""

from __future__ import annotations

from torch import Tensor

from ..card import ${axes_import}Knob, MethodCard, Parity
from ..functional.checks import check_logits_pair
from ..method import Method, Signals, ce_weight_knob


def $loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None, *,
$pad  temperature: float = 4.0, reduction: str = "mean") -> Tensor:
    """Not implemented yet: say what it computes, in one line.

    Args:
        student_logits: ``(N, C)``.
        teacher_logits: ``(N, C)``; detached.
        labels: ``(N,)`` integers.
        temperature: ``T > 0``; default and where it comes from.
        reduction: ``"mean"`` over samples, ``"sum"`` or ``"none"`` (``(N,)``).

    Raises:
        ValueError: shapes that do not fit.

    Reference:
        arXiv and equation.
    """
    check_logits_pair(student_logits, teacher_logits)
    raise NotImplementedError("$slug: write the loss")


class $class_name(Method):
    """The training objective: which terms, with which weights."""

    name, label = "$slug", "$slug"
    knobs = (
        # Every knob of the paper: default with its source, the range the paper explored, its symbol, what it does.
        Knob("temperature", 4.0, 1.0, 8.0, symbol="T", help="softens both distributions", source=""),
        ce_weight_knob(1.0),
    )

    def terms(self, s: Signals) -> dict[str, Tensor]:
        loss = $loss(s.student_logits, s.teacher_logits, s.labels, temperature=self.knob.temperature)
        return {"$slug": loss}


CARD = MethodCard(
    slug="$slug",
$about    summary="Not implemented yet.",
    objectives=($class_name,),
    losses=("$loss",),
    taps="logits of both",
    invariances=(),  # which of kdcore.card.INVARIANCES the loss promises; each becomes a test
    parity=Parity("none", note="not implemented yet"),
    # evidence=(Evidence("what", paper="...", code="...", here="..."),) and deviations where the three differ
)

__all__ = ["CARD", "$class_name", "$loss"]
''')

_TEST = Template('''"""Official values, hand-computed values, a slow oracle, properties, bad input."""

from __future__ import annotations

import pytest
import torch

from kdcore.methods.$slug import $loss


def test_by_hand() -> None:
    """Fails until the loss is written; then replace it by numbers computed on paper, and a slow oracle beside it."""
    student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    loss = $loss(student, teacher, torch.tensor([2]))
    assert loss.ndim == 0 and torch.isfinite(loss)
    pytest.fail("compare with numbers computed by hand, with official values (tests/golden), and with an oracle")


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="student_logits and teacher_logits must have the same shape"):
        $loss(torch.zeros(2, 3), torch.zeros(2, 4))
''')

_LESSON = Template("""# %% [markdown]
# # $slug
#
$title_comment
#
# **Not written yet.** Here: the paper in three sentences, what the reader will be able to do at the end, and how long
# the notebook takes.

# %% tags=["parameters"]
quick: bool = True  # a run in seconds instead of the full experiment
seeds: int = 3  # how many seeds each arm is trained with

# %%
from kdcore import get_card

get_card("$slug")

# %% [markdown]
# ## The idea
#
# One picture, the formula, and the code of the loss shown from the module itself.

# %%
import inspect

from kdcore.methods import $slug

print(inspect.getsource($slug.$loss))

# %% [markdown]
# ## Two tensors
#
# The smallest example; it fails until the loss is written.

# %%
from kdcore import create_method

method = create_method("$slug")
method(method.example())

# %% [markdown]
# ## Play
#
# An `Explorer` (workbench.panels) in which the reader moves what the paper is about.
#
# ## Experiment
#
# `kdcore.experiment.compare` against named baselines, at least three seeds.
#
# ## Verdict
#
# The paper's claims (`kdcore.experiment.check_claims`): reproduced, contradicted or open, with their numbers.
#
# ## Record
#
# `workbench.runs.record(...)`: metrics with tolerances, verdicts, figures.
#
# ## Exercises and references
""")


def scaffold(
    slug: str, family: str | None = None, title: str | None = None, *, root: str | Path | None = None
) -> list[Path]:
    """Write module, lesson and test of a new method.

    The card of a paper of the collection has its row in ``collection.csv``; any other gets the fields to fill in.

    Args:
        slug: name of the module, a lower-case Python name such as ``"ofa_kd"``.
        family: chapter of the book (one of :data:`kdcore.collection.FAMILIES`), for a paper outside the collection.
        title: title of the paper, for one outside the collection.
        root: project folder; default the one around the current folder.

    Returns:
        The three files. ``kdw pair`` makes the ``.ipynb`` of the lesson.

    Raises:
        ValueError: a slug that is no module name or is taken; an unknown or missing family; a missing title; a family
            or title other than that of the paper's row.
        FileExistsError: one of the files exists; nothing is written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", slug) or keyword.iskeyword(slug):
        raise ValueError(f"slug must be a lower-case Python name such as 'ofa_kd', got {slug!r}.")
    if slug in list_methods() or slug in list_objectives():
        raise ValueError(f"slug {slug!r} is taken: kdcore has a method or an objective of that name.")
    row = collection().get(slug)
    if row:
        for name, given in (("family", family), ("title", title)):
            if given and given != row.cells[name]:
                raise ValueError(f"{name} of {slug!r} is {row.cells[name]!r} in {FILE}, got {given!r}.")
        family, title = row.cells["family"], row.cells["title"]
    title = (title or "").strip()
    if not family or not title:
        raise ValueError(f"{slug!r} is not in {FILE}: give its family ({', '.join(FAMILIES)}) and its title.")
    check_choice("family", family, FAMILIES)
    root = Path(root) if root is not None else project_root()
    facts = _facts(slug, family, title, row)
    written = {
        root / f"kdcore/methods/{slug}.py": _MODULE,
        root / f"notebooks/{family}/{slug}.py": _LESSON,
        root / f"tests/methods/test_{slug}.py": _TEST,
    }
    if existing := [str(path.relative_to(root)) for path in written if path.exists()]:
        raise FileExistsError(f"{', '.join(existing)} exists already; nothing was written.")
    for path, template in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, template.substitute(facts))
    return list(written)


def _facts(slug: str, family: str, title: str, row: Row | None) -> dict[str, str]:
    """What the templates are filled with."""
    cells: Mapping[str, str] = row.cells if row else {}
    year = cells.get("year", str(date.today().year))
    arxiv = f", arXiv:{cells['arxiv']}" if cells.get("arxiv") else ""
    plain = title.replace("\\", "").replace('"', "'")
    return {
        "slug": slug,
        "loss": f"{slug}_loss",
        "pad": " " * (len(slug) + 8),
        "class_name": "".join(map(str.capitalize, slug.split("_"))),
        "headline": textwrap.fill(f"{plain} ({year}){arxiv}.", 115),
        "title_comment": textwrap.fill(plain, 118, initial_indent="# ", subsequent_indent="# "),
        "axes_import": "" if row else "Axes, ",
        "about": "" if row else _about(family, title, year),
    }


def _about(family: str, title: str, year: str) -> str:
    """The card's fields of a paper that has no row in the collection."""
    lines = [
        f"title={_literal(title)},",
        *(f'{name}="",' for name in ("authors", "venue", "arxiv", "official_code")),
        f"year={year},",
        f'family="{family}",',
        "axes=Axes(  # a guess: read docs/taxonomy.md, then place the paper",
        *(f'    {axis}="{value}",' for axis, value in _GUESS.items()),
        "),",
        "survey={" + ", ".join(f'"{field}": "-"' for field in SURVEY_FIELDS) + "},",
    ]
    return "".join(f"    {line}\n" for line in lines)


def _literal(text: str) -> str:
    """A Python string in double quotes, in parentheses over several lines where it is long."""
    lines = textwrap.wrap(text, 95, drop_whitespace=False) or [""]
    quoted = ['"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"' for line in lines]
    return quoted[0] if len(quoted) == 1 else "(\n        " + "\n        ".join(quoted) + ")"
