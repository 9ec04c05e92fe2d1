"""The four files of a new method, ready to be filled: module with card, study, lesson, test.

What is written imports, is found by the registry, and fails: the loss raises ``NotImplementedError``, so the contract
suite and the new test are red until the formula is there. Nothing in it can be mistaken for an implementation.
What the paper hands over decides the form of the loss (logits or features of a layer), and values of official code in
``tests/golden`` become the parity test, case by case and key by key.
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

$imports


def $loss(
    $student: Tensor,
    $teacher: Tensor,
    labels: Tensor | None = None,
    *,
    $knob: float = $default,
    reduction: str = "mean",
) -> Tensor:
    """Not implemented yet: say what it computes, in one line.

    Args:
        $student: ``$shape``.
        $teacher: ``$shape``; detached.
        labels: ``(N,)`` integers.
        $knob: ``> 0``; default and where it comes from.
        reduction: ``"mean"`` over samples, ``"sum"`` or ``"none"`` (``(N,)``).

    Raises:
        ValueError: shapes that do not fit.

    Reference:
        arXiv and equation.
    """
    $check
    raise NotImplementedError("$slug: write the loss")


class $class_name(Method):
    """The training objective: which terms, with which weights."""

    name, label = "$slug", "$slug"
$needs    knobs = (
        # Every knob of the paper: default with its source, the range the paper explored, its symbol, what it does.
        $knob_line
        ce_weight_knob(1.0),
    )
$body

CARD = MethodCard(
    slug="$slug",
$about    summary="Not implemented yet.",
    objectives=($class_name,),
    losses=("$loss",),
    taps="$taps",
    invariances=(),  # which of kdcore.collection.INVARIANCES the loss promises; each becomes a test
    parity=Parity("none", note="not implemented yet"),
    # evidence=(Evidence("what", paper="...", code="...", here="..."),) and deviations where the three differ
)

__all__ = ["CARD", "$class_name", "$loss"]
''')

#: What differs between a loss on logits and one on features of a layer.
_LOGITS = {
    "imports": """from torch import Tensor

from ..card import ${axes_import}Knob, MethodCard, Parity
from ..functional.checks import check_logits_pair
from ..method import Method, Signals, ce_weight_knob""",
    "student": "student_logits",
    "teacher": "teacher_logits",
    "shape": "(N, C)",
    "knob": "temperature",
    "default": "4.0",
    "check": "check_logits_pair(student_logits, teacher_logits)",
    "needs": "",
    "knob_line": 'Knob("temperature", 4.0, 1.0, 8.0, symbol="T", help="softens both distributions", source=""),',
    "taps": "logits of both",
    "body": """
    def terms(self, s: Signals) -> dict[str, Tensor]:
        return {"$slug": $loss(*s.logits, s.labels, temperature=self.knob.temperature)}
""",
}
_FEATURES = {
    "imports": """import torch
from torch import Tensor, nn

from ..card import ${axes_import}Knob, MethodCard, Parity
from ..functional.checks import describe
from ..method import Method, Needs, Signals, ce_weight_knob
from ..projectors import make_projector""",
    "student": "student_features",
    "teacher": "teacher_features",
    "shape": "(N, D)",
    "knob": "weight",
    "default": "1.0",
    "check": """if student_features.shape != teacher_features.shape:
        raise ValueError(
            f"student_features and teacher_features must have the same shape, got {describe(student_features)} and "
            f"{describe(teacher_features)}."
        )""",
    "needs": """    needs = Needs(teacher_logits=False)
    student_taps = ("embedding",)
    teacher_taps = ("embedding",)
""",
    "knob_line": 'Knob("weight", 1.0, 0.0, 10.0, symbol="w", help="weight of the term", source=""),',
    "taps": "the penultimate embedding of both",
    "body": """
    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        ours, theirs = self.settle_taps(student, teacher, sample)
        self.adapt = make_projector(ours, theirs) if ours != theirs else nn.Identity()

    def terms(self, s: Signals) -> dict[str, Tensor]:
        ours = s.student_features[self.student_taps[0]]
        theirs = s.teacher_features[self.teacher_taps[0]]
        ours = self.adapt(ours) if hasattr(self, "adapt") else ours
        return {"$slug": $loss(ours, theirs, s.labels, weight=self.knob.weight)}

    @classmethod
    def example(cls, **kwargs: object) -> Signals:
        \"\"\"As the method of the base class, with embeddings 7 wide.\"\"\"
        signals = super().example(**kwargs)  # type: ignore[arg-type]
        g = torch.Generator().manual_seed(1)
        noise = torch.randn(2, len(signals.student_logits), 7, generator=g, dtype=torch.float64)
        ours, theirs = noise.to(signals.student_logits.dtype)
        signals.student_features = {"embedding": (theirs if kwargs.get("match") else ours).requires_grad_()}
        signals.teacher_features = {"embedding": theirs.detach()}
        return signals
""",
}

_STUDY = Template('''"""Not written yet: what is compared, in a line."""

from __future__ import annotations

from ..experiment import Arm, Claim, Comparison
from . import Study
from ._shared import few_labels_task, teacher_order


def arms() -> list[Arm]:
    """Every baseline of the paper, and controls that must fail, with the same budget for each."""
    return [Arm("CE", "ce"), Arm("KD", "kd"), Arm("$slug", "$slug")]


def claims(comparison: Comparison) -> list[Claim]:
    """The paper's claims, each as an inequality."""
    values = comparison.values
    return [Claim("$slug beats KD", left=values("$slug"), right=values("KD"))]


STUDY = Study(
    slug="$slug",
    words="not written yet",
    task=few_labels_task,
    arms=arms,
    claims=claims,
    metrics={"tau": teacher_order},
    baseline="CE",
    quick={"epochs": 10},
    full={"epochs": 60},
)

__all__ = ["STUDY", "arms", "claims"]
''')

_TEST = Template('''"""Official values, hand-computed values, a slow oracle, properties, bad input."""

from __future__ import annotations

${any_import}import pytest
import torch
$golden_import
from kdcore.methods.$slug import $loss
from kdcore.studies import find_study

$parity
def test_by_hand() -> None:
    """Fails until the loss is written; then replace it by numbers computed on paper, and a slow oracle beside it."""
    student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    loss = $loss(student, teacher, torch.tensor([2]))
    assert loss.ndim == 0 and torch.isfinite(loss)
    pytest.fail("compare with numbers computed by hand, with official values (tests/golden), and with an oracle")


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="$student and $teacher must have the same shape"):
        $loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_the_study_runs() -> None:
    study = find_study("$slug")
    comparison = study.run(seeds=2, epochs=2)
    assert len(study.verdicts(comparison)) == len(study.claimed(comparison))
''')

_CHECK = Template('''
def check_$kind(case: Case) -> None:
    """$words"""
$lines    pytest.fail("compute these from the inputs, compare with close(..., tolerance of the specification)")

''')
_PARITY = Template("""
@parity(
    "$slug",
    {$kinds    },
)
def test_parity(case: Case, check: Any) -> None:
    check(case)
    case.assert_all_read()

""")

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

# %% tags=["folded"]
from kdcore import create_method, get_card

# %% [markdown]
# ## The idea
#
# Something to play with (`workbench.panels.Explorer`), before any code and before the card: the reader moves what the
# paper is about. A question first: what will happen?
#
# ## The maths, line by line
#
# Equation beside line, in short reference code; a check cell holds it against what runs. One value by hand. The
# smallest example fails until the loss is written:

# %% tags=["check"]
method = create_method("$slug")
method(method.example())

# %% [markdown]
# ## One step of training, in full
#
# A batch, both networks, the loss, its gradient, a step; then the same by the library's loop, and that they agree.
#
# ## Experiment
#
# `study.STUDY.run(...)`: named baselines with equal budgets, controls that must fail, at least three seeds. A question
# before each result.
#
# ## Verdict
#
# The paper's claims (`kdcore.experiment.check_claims`): reproduced, contradicted or open, with their numbers; beside
# them `workbench.runs.kept_verdicts`. What is said of two arms is written by `contrast` and `kept_contrast`.
#
# ## The card

# %%
get_card("$slug")

# %% [markdown]
# ## Diagnose: what changed inside
#
# ## Record
#
# `workbench.runs.record(...)`: metrics with tolerances, verdicts, figures, and `first_steps=study.STUDY.first_steps()`:
# loss terms and gradients that notice a changed objective.
#
# ## Exercises
#
# Each with a level, a cell that judges the answer (`workbench.exercises.judged`), and a folded solution that asserts.
#
# ## References
""")


def scaffold(
    slug: str, family: str | None = None, title: str | None = None, *, root: str | Path | None = None
) -> list[Path]:
    """Write module, study, lesson and test of a new method.

    The card of a paper of the collection has its row in ``collection.csv``; any other gets the fields to fill in.

    Args:
        slug: name of the module, a lower-case Python name such as ``"ofa_kd"``.
        family: chapter of the book (one of :data:`kdcore.collection.FAMILIES`), for a paper outside the collection.
        title: title of the paper, for one outside the collection.
        root: project folder; default the one around the current folder.

    Returns:
        The four files. ``kdw pair`` makes the ``.ipynb`` of the lesson.

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
    facts = _facts(slug, family, title, row) | _parity(slug, root)
    written = {
        root / f"kdcore/methods/{slug}.py": _MODULE,
        root / f"kdcore/studies/{slug}.py": _STUDY,
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
    knowledge = str(cells.get("knowledge", _GUESS["knowledge"])).partition("+")[0]
    form = _FEATURES if knowledge in ("feature", "relation", "prototype", "structure") else _LOGITS
    named = {
        "slug": slug,
        "loss": f"{slug}_loss",
        "class_name": "".join(map(str.capitalize, slug.split("_"))),
        "headline": textwrap.fill(f"{plain} ({year}){arxiv}.", 115),
        "title_comment": textwrap.fill(plain, 118, initial_indent="# ", subsequent_indent="# "),
        "axes_import": "" if row else "Axes, ",
        "about": "" if row else _about(family, title, year),
    }
    return named | {name: Template(text).safe_substitute(named) for name, text in form.items()}


def _parity(slug: str, root: Path) -> dict[str, str]:
    """A check for every kind of case in the vectors of official code, naming every key; "" where there are none."""
    file = root / f"tests/golden/{slug}.npz"
    if not file.exists():
        return {"any_import": "", "golden_import": "", "parity": ""}
    import numpy as np

    cases: dict[str, dict[str, dict[str, None]]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for entry in arrays.files:
            case, group, key = entry.split("/", 2)
            kind = re.sub(r"(_[a-z0-9]|[0-9]+)$", "", case)
            cases.setdefault(kind, {}).setdefault(group, {})[key] = None
    checks, pad = [], "    "
    for kind, groups in cases.items():
        known = {group: ", ".join(groups.get(group, {})) or "none" for group in ("in", "hp", "param")}
        lines = [f'{pad}case.out["{key}"]\n' for key in groups.get("out", {})]
        lines += [f'{pad}case.grad["{key}"]\n' for key in groups.get("grad", {})]
        words = textwrap.fill("; ".join(f"{g}: {k}" for g, k in known.items()), 108, subsequent_indent=pad)
        words += f"\n{pad}" if "\n" in words else ""
        name = re.sub(r"\W", "_", kind)
        checks.append(_CHECK.substitute(kind=name, words=words, lines="".join(lines)))
    kinds = "".join(f'\n        "{kind}*": check_{re.sub(r"[^a-zA-Z0-9_]", "_", kind)},' for kind in cases) + "\n"
    text = "".join(checks) + _PARITY.substitute(slug=slug, kinds=kinds)
    return {
        "any_import": "from typing import Any\n\n",
        "golden_import": "from support.golden import Case, parity\n",
        "parity": text,
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
    """A Python string as the formatter writes it for ``title=``: on one line if it fits, else in parentheses."""
    quote = "'" if '"' in text and "'" not in text else '"'

    def quoted(part: str) -> str:
        escaped = part.replace("\\", "\\\\").replace(quote, f"\\{quote}")
        return f"{quote}{escaped}{quote}"

    whole = quoted(text)
    if len(f"    title={whole},") <= 120:
        return whole
    lines = textwrap.wrap(text, 95, drop_whitespace=False)
    return "(\n        " + "\n        ".join(map(quoted, lines)) + "\n    )"
