"""The methods that are there: modules of ``kdcore.methods`` are found, not listed, so nothing else has to be edited.

A method module ends with ``CARD = MethodCard(...)`` (:mod:`kdcore.card`), whose ``objectives`` are its
:class:`kdcore.method.Method` classes. The README table, the method map, the panels' dropdowns and slider bounds, and
the contract tests all come from here.
"""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from .card import AXES, FAMILIES, MethodCard
from .functional.checks import check_choice, closest
from .method import CrossEntropy, Method

_NAME = re.compile(r'^    name(?:, label)? = "(\w+)"', re.MULTILINE)


@cache
def _homes() -> dict[str, str]:
    """Slug or objective -> module, from the text of the files: who asks for one paper loads no other.

    A hint: what is not found here, or not there, is looked for in all modules.
    """
    files = {p.stem: p for p in sorted((Path(__file__).parent / "methods").glob("[!_]*.py"))}
    named = {name: slug for slug, p in files.items() for name in _NAME.findall(p.read_text(encoding="utf-8"))}
    return {slug: slug for slug in files} | named


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
    return {name: _checked_card(name, module) for name, module in _modules().items()}


def _checked_card(name: str, module: Any) -> MethodCard:
    card = getattr(module, "CARD", None)
    if not isinstance(card, MethodCard):
        raise TypeError(f"kdcore/methods/{name}.py must define CARD = MethodCard(...), got {card!r}.")
    if card.slug != name:
        raise ValueError(f"kdcore/methods/{name}.py: CARD.slug must be {name!r}, got {card.slug!r}.")
    if unnamed := [cls.__name__ for cls in _method_classes(module) if cls not in card.objectives]:
        raise ValueError(f"kdcore/methods/{name}.py: CARD.objectives must name {', '.join(unnamed)}, too.")
    return card


def _near_card(name: str) -> MethodCard | None:
    """The card of the module that a slug or objective points at, without loading the others."""
    home = _homes().get(name)
    if home is None:
        return None
    card = _checked_card(home, importlib.import_module(f"{__package__}.methods.{home}"))
    return card if name == home or any(cls.name == name for cls in card.objectives) else None


def _method_classes(module: Any) -> list[type[Method]]:
    """The public objectives that a module defines."""
    return [
        cls
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Method) and cls.__module__ == module.__name__
        if not name.startswith("_")
    ]


@cache
def _objectives() -> dict[str, type[Method]]:
    classes: list[type[Method]] = [CrossEntropy]
    for card in _cards().values():
        classes += card.objectives
    found: dict[str, type[Method]] = {}
    for cls in classes:
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
    if (card := _near_card(slug)) is not None:
        return card
    if slug in _objectives():
        return _objectives()[slug].card
    raise ValueError(
        f"no method is called {slug!r}.{closest(slug, [*_cards(), *_objectives()])} list_methods() names them all."
    )


def objective_class(name: str) -> type[Method]:
    """The :class:`~kdcore.method.Method` subclass for an objective name or a paper's slug (its first objective)."""
    if name == CrossEntropy.name:
        return CrossEntropy
    card = _near_card(name)
    if card is not None and (named := [cls for cls in card.objectives if cls.name == name] or card.objectives):
        return named[0]
    if name in _objectives():
        return _objectives()[name]
    if card is not None:
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


__all__ = [
    "create_method",
    "get_card",
    "list_methods",
    "list_objectives",
    "objective_class",
]
