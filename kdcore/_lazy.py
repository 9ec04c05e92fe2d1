"""Packages whose public names are loaded on first use, so that importing them costs next to nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

_ALL = re.compile(r"^__all__ = (\[[^\]]*\])", re.MULTILINE)


def lazy(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that takes each public name from the submodule ``home`` gives.

    Args:
        package: its ``__name__``.
        home: public name -> submodule, relative to the package.
    """

    def attribute(name: str) -> Any:
        if name in home:
            return getattr(import_module(f"{package}.{home[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute, lambda: sorted(home)


def offered(folder: Path) -> dict[str, str]:
    """Public name -> dotted submodule, for all modules below a package's folder that have an ``__all__``.

    The lists are read from the text of the files (a millisecond for twenty of them); nothing is imported.

    Raises:
        ImportError: two modules offer the same name.
    """
    home: dict[str, str] = {}
    for path in sorted(folder.rglob("[!_]*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        found = _ALL.search(path.read_text(encoding="utf-8"))
        for name in ast.literal_eval(found[1]) if found else ():
            if name in home:
                raise ImportError(f"{folder.name}.{module} and {folder.name}.{home[name]} both offer {name!r}.")
            home[name] = module
    return home
