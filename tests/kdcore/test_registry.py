"""Cards, knobs, listing and lookup."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from html import escape

import pytest

from kdcore import registry
from kdcore.registry import (
    AXES,
    FAMILIES,
    Axes,
    Evidence,
    Knob,
    MethodCard,
    Parity,
    create_method,
    get_card,
    list_methods,
    list_objectives,
    objective_class,
    split_values,
)

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
        knobs=(Knob("k", 1.0, 0.0, 2.0, symbol="κ"),),
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
        escape(registry.INVARIANCES["scale_invariant"]),
    ):
        assert text in html, text
    assert html.count("<div") == html.count("</div>") and html.count("<table") == html.count("</table>")


def test_cards_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_card("pld").title = "other"  # type: ignore[misc]


def test_listing() -> None:
    assert {"vanilla_kd", "pld"} <= set(list_methods()) and list_methods() == sorted(list_methods())
    assert list_methods("pl*") == ["pld"] and list_methods("no such*") == []
    assert {"ce", "kd", "dkd", "dist", "pld"} <= set(list_objectives())
    assert list_objectives("d?d") == ["dkd"]


def test_filters() -> None:
    assert "pld" in list_methods(signal="listwise") and "vanilla_kd" not in list_methods(signal="listwise")
    assert {"pld", "vanilla_kd"} <= set(list_methods(signal=("kl", "listwise"), teacher_access="outputs"))
    assert "vanilla_kd" in list_methods(family="foundations") and "pld" not in list_methods(family="foundations")
    assert list_methods(family="foundations", signal="listwise") == []
    with pytest.raises(ValueError, match="axis must be one of"):
        list_methods(colour="red")
    with pytest.raises(ValueError, match="signal must be one of"):
        list_methods(signal="red")
    with pytest.raises(ValueError, match="family must be one of"):
        list_methods(family="red")


def test_lookup() -> None:
    assert get_card("dkd") is get_card("vanilla_kd") and get_card("pld").slug == "pld"
    assert objective_class("vanilla_kd") is objective_class("kd")
    assert create_method("dkd", beta=2).settings["beta"] == 2.0
    for function in (get_card, objective_class, create_method):
        with pytest.raises(ValueError, match=r"no method is called 'vanila_kd'\. Did you mean 'vanilla_kd'"):
            function("vanila_kd")


def test_families_and_folders() -> None:
    for slug in list_methods():
        c = get_card(slug)
        assert c.family in FAMILIES and c.module == f"kdcore.methods.{slug}"
        assert c.notebook == f"notebooks/{c.family}/{slug}.ipynb"


def test_a_module_without_a_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        CARD = card(slug="other")

    for modules, error, message in (
        ({"bare": object()}, TypeError, r"methods/bare\.py must define CARD"),
        ({"mine": Module}, ValueError, r"CARD\.slug must be 'mine', got 'other'"),
    ):
        monkeypatch.setattr(registry, "_modules", lambda modules=modules: modules)
        with pytest.raises(error, match=message):
            registry._cards.__wrapped__()


def test_two_objectives_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcore.methods import pld, vanilla_kd

    monkeypatch.setattr(pld.PLD, "name", "kd")
    monkeypatch.setattr(registry, "_modules", lambda: {"pld": pld, "vanilla_kd": vanilla_kd})
    with pytest.raises(ValueError, match="two objectives are called 'kd'"):
        registry._objectives.__wrapped__()


def test_looking_through_the_methods_imports_nothing_heavy() -> None:
    code = (
        "import sys, kdcore; kdcore.list_methods(); kdcore.list_objectives();"
        "heavy = 'timm torchvision sklearn pandas lightning plotly matplotlib IPython ipywidgets captum'.split();"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
