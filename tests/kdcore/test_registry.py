"""Listing and lookup of the methods that are there."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from kdcore import registry
from kdcore.card import FAMILIES
from kdcore.methods.pld import PLD
from kdcore.registry import create_method, get_card, list_methods, list_objectives, objective_class


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


def test_a_module_without_a_card_or_with_one_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgotten(PLD):
        name = "forgotten"

    Forgotten.__module__ = "mine"
    other, forgets = ModuleType("mine"), ModuleType("mine")
    other.CARD = forgets.CARD = get_card("pld")
    forgets.Forgotten, forgets._Helper = Forgotten, Forgotten
    for modules, error, message in (
        ({"bare": ModuleType("bare")}, TypeError, r"methods/bare\.py must define CARD"),
        ({"mine": other}, ValueError, r"CARD\.slug must be 'mine', got 'pld'"),
        ({"pld": forgets}, ValueError, r"methods/pld\.py: CARD\.objectives must name Forgotten, too\.$"),
    ):
        monkeypatch.setattr(registry, "_modules", lambda modules=modules: modules)
        with pytest.raises(error, match=message):
            registry._cards.__wrapped__()


def test_two_objectives_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PLD, "name", "kd")
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


def test_asking_for_one_paper_loads_no_other() -> None:
    code = (
        "import sys; from kdcore.registry import create_method, get_card, objective_class\n"
        "create_method('kd'), create_method('ce'), get_card('pld'), get_card('dkd'), objective_class('vanilla_kd')\n"
        "print(sorted(m.rpartition('.')[2] for m in sys.modules if m.startswith('kdcore.methods.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pld', 'vanilla_kd']"


def test_the_names_that_are_read_are_those_that_are_there() -> None:
    assert set(registry._homes()) == {*list_methods(), *list_objectives()} - {"ce"}
    assert {name: objective_class(name).card.slug for name in registry._objectives() if name != "ce"} == {
        name: registry._homes()[name] for name in registry._objectives() if name != "ce"
    }


def test_a_name_that_is_not_written_plainly_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_homes", lambda: {"pld": "pld", "dkd": "pld"})
    assert get_card("dkd").slug == "vanilla_kd" and objective_class("kdpp").name == "kdpp"
    assert objective_class("dkd").name == "dkd"
