"""Cards and knobs: what they refuse, what a card takes from the collection, whose card it becomes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from html import escape

import pytest

from kdcore import card as card_module
from kdcore.card import AXES, INVARIANCES, Axes, Evidence, Knob, MethodCard, Parity, split_values
from kdcore.collection import Row, collection
from kdcore.method import CrossEntropy, Method
from kdcore.registry import get_card

PLACE = dict.fromkeys(AXES, "-") | {"knowledge": "response+feature", "signal": "kl", "task": "classification"}


def card(**more: object) -> MethodCard:
    return MethodCard(
        **{
            "slug": "x",
            "title": "X <1>",
            "authors": "A & B",
            "year": 2020,
            "family": "features",
            "summary": "S.",
            "axes": Axes(**PLACE),
            **more,
        }
    )


def objective(**attributes: object) -> type[Method]:
    """A fresh objective without a card."""
    return type("Fresh", (Method,), {"name": "fresh", **attributes})


def test_split_values() -> None:
    assert split_values("kl+mse") == ("kl", "mse") == split_values("kl, mse") == split_values(("kl", "mse"))
    assert split_values("-") == () == split_values("")


def test_axes_check_their_vocabulary() -> None:
    assert Axes(**PLACE).values("knowledge") == ("response", "feature")
    with pytest.raises(ValueError, match=r"axes\.signal must be one of .*got 'klx'"):
        Axes(**PLACE | {"signal": "kl+klx"})
    with pytest.raises(ValueError, match="axis must be one of"):
        Axes(**PLACE).values("signals")


@pytest.mark.parametrize(
    ("knob", "value", "expected"),
    [
        (Knob("a", 1.0), 2, 2.0),
        (Knob("a", 1.0), 0.5, 0.5),
        (Knob("a", 3), 4.0, 4),
        (Knob("a", True), False, False),
        (Knob("a", "x"), "y", "y"),
        (Knob("a", None), None, None),
        (Knob("a", None), 2, 2.0),
        (Knob("a", "x", choices=("x", "y")), "y", "y"),
    ],
)
def test_knobs_convert(knob: Knob, value: object, expected: object) -> None:
    got = knob.check(value)
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(
    ("knob", "value", "error"),
    [
        (Knob("a", 1.0), "1", TypeError),
        (Knob("a", 1.0), True, TypeError),
        (Knob("a", 1.0), None, TypeError),
        (Knob("a", 3), 3.5, TypeError),
        (Knob("a", 3), True, TypeError),
        (Knob("a", True), 1, TypeError),
        (Knob("a", "x"), 1, TypeError),
        (Knob("a", "x", choices=("x", "y")), "z", ValueError),
        (Knob("a", "x", choices=("x", "y")), 1, TypeError),
    ],
)
def test_knobs_refuse(knob: Knob, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^a must be .*got"):
        knob.check(value)


def test_cards_refuse_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="family"):
        card(family="feature")
    with pytest.raises(ValueError, match="invariances"):
        card(invariances=("scale",))
    with pytest.raises(ValueError, match=r"parity\.status"):
        Parity("perfect")


def test_a_card_draws_itself_and_escapes() -> None:
    html = card(
        arxiv="1234.56789",
        official_code="o/n",
        deviations=("a < b",),
        objectives=(objective(knobs=(Knob("k", 1.0, 0.0, 2.0, symbol="κ"),)),),
        evidence=(Evidence("w", "p", "c", "h&h"),),
        invariances=("scale_invariant",),
    )._repr_html_()
    for text in (
        "X &lt;1&gt;",
        "A &amp; B",
        "https://arxiv.org/abs/1234.56789",
        "https://github.com/o/n",
        "a &lt; b",
        "κ",
        "0 to 2",
        "h&amp;h",
        escape(INVARIANCES["scale_invariant"]),
    ):
        assert text in html, text
    assert html.count("<div") == html.count("</div>") and html.count("<table") == html.count("</table>")


def test_cards_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_card("pld").title = "other"  # type: ignore[misc]


# From the collection --------------------------------------------------------------------------------------------------


def test_a_slug_and_what_the_method_does_are_enough_for_a_paper_of_the_collection() -> None:
    c = MethodCard(slug="taid", summary="S.")
    assert (c.authors, c.year, c.venue, c.arxiv) == ("Shing et al.", 2025, "ICLR", "2501.16937")
    assert (c.official_code, c.family) == ("SakanaAI/TAID", "language") and c.title.startswith("TAID: ")
    assert c.axes.values("modality") == ("text", "multimodal") and c.axes.goal == "compress"
    assert c.survey["skill"] == "instruction following, multi-modality" and c.survey["dd_family"] == "-"
    assert c.notebook == "notebooks/language/taid.ipynb" and c.knobs == ()


def test_what_is_given_goes_before_the_row() -> None:
    c = MethodCard(slug="taid", summary="S.", title="Mine", year=2001, survey={})
    assert (c.title, c.year, c.survey, c.authors) == ("Mine", 2001, {}, "Shing et al.")


def test_a_card_without_a_row_needs_its_facts_and_the_rest_is_empty() -> None:
    c = card()
    assert (c.venue, c.arxiv, c.official_code, c.survey) == ("", "", "", {})
    with pytest.raises(
        ValueError,
        match=r"card 'tayd' lacks authors, family, axes: kdcore/collection\.csv has no row 'tayd'\. Did you mean 'taid'"
        r".*Add a row there, or give these fields to MethodCard",
    ):
        MethodCard(slug="tayd", summary="S.", title="T", year=2020)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("title", "", r"title must be the paper's title, got ''"),
        ("authors", "", r"authors must be .*'Hinton et al\.'.*, got ''"),
        ("year", "25", r"year must be a year such as 2025, got '25'"),
        ("arxiv", "arXiv:2501.16937", r"arxiv must be a number such as 2506\.12542, or empty, got 'arXiv:2501\.16937'"),
        ("official_code", "https://github.com/a/b", r"official_code must be owner/name on GitHub, or empty"),
        ("companion", "no", r"companion must be 'yes' .* or '-' .*, got 'no'"),
        ("family", "languages", r"family must be one of .*, got 'languages'\. Did you mean 'language'"),
        ("signal", "kl+mes", r"signal must be one of 'kl', .*, got 'mes'\. Did you mean 'mse'"),
        ("goal", "-", r"goal must be one of 'compress', .*, got ''"),
        ("kd_theme", "~theorie", r"kd_theme must be one of .*, got 'theorie'\. Did you mean 'theory'"),
    ],
)
def test_a_bad_cell_is_named_with_file_line_and_column(
    monkeypatch: pytest.MonkeyPatch, column: str, cell: str, message: str
) -> None:
    row = collection()["taid"]
    bad = Row(row.line, {**row.cells, column: cell})
    monkeypatch.setattr(card_module, "collection", lambda: {"taid": bad})
    with pytest.raises(ValueError, match=rf"^kdcore/collection\.csv, line {row.line} \(taid\): {message}"):
        MethodCard(slug="taid", summary="S.")


def test_a_survey_is_no_method() -> None:
    with pytest.raises(ValueError, match=r"family must be one of .*got 'survey'"):
        MethodCard(slug="survey_kd_dd", summary="S.")


@pytest.mark.parametrize(
    ("survey", "message"),
    [
        ({"theme": "theory"}, r"survey field must be one of 'elicitation'.*got 'theme'"),
        ({"kd_theme": "~theorie"}, r"survey\['kd_theme'\] must be one of .*got 'theorie'"),
    ],
)
def test_survey_fields_have_vocabularies(survey: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        card(survey=survey)


# Whose card it is -----------------------------------------------------------------------------------------------------


def test_a_card_becomes_that_of_its_objectives() -> None:
    first, second = objective(knobs=(Knob("a", 1.0),)), objective(name="second", invariances=("shift_invariant",))
    c = card(objectives=(first, second), invariances=("class_permutation",))
    assert first.card is second.card is c and first().card is c
    assert first.invariances == ("class_permutation",) and second.invariances == ("shift_invariant",)
    assert c.knobs == first.knobs and [k.name for k in c.knobs] == ["a", "ce_weight"]
    assert CrossEntropy.card.objectives == (CrossEntropy,)


def test_an_objective_that_inherits_from_another_gets_the_card_too() -> None:
    base = objective()
    derived = type("Derived", (base,), {"name": "derived"})
    c = card(objectives=(base, derived))
    assert vars(derived)["card"] is c and derived.label == "DERIVED"


def test_a_changed_copy_leaves_the_classes_with_the_original() -> None:
    cls = objective()
    c = card(objectives=(cls,))
    copy = dataclasses.replace(c, title="Other")
    assert copy.title == "Other" and copy.objectives == (cls,) and cls.card is c


def test_a_class_has_one_card() -> None:
    cls = objective()
    card(objectives=(cls,))
    with pytest.raises(ValueError, match="Fresh has the card 'x' already, so it is no objective of 'y'"):
        card(slug="y", objectives=(cls,))


def test_cards_need_neither_registry_nor_methods() -> None:
    code = (
        "import sys, kdcore.card as c; c.MethodCard(slug='pld', summary='s')._repr_html_();"
        "print([m for m in sys.modules if m in ('kdcore.registry', 'kdcore.method', 'kdcore.methods')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
