"""The table of formulas is read from the modules: each says what it holds, and no formula has two homes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

import kdcore.functional
from kdcore.functional import formulas

FOLDER = Path(kdcore.functional.__file__).parent


def test_every_module_is_in_the_table() -> None:
    files = {path.stem for path in FOLDER.iterdir() if path.suffix == ".py" and not path.stem.startswith("_")}
    assert set(formulas()) == files
    assert {"cka", "cca", "gram", "similarity", "divergences"} <= files


@pytest.mark.parametrize("module", formulas())
def test_a_row_says_what_the_module_holds(module: str) -> None:
    summary, names = formulas()[module]
    assert summary and summary[-1] in ".?", "the docstring starts with a sentence that stands alone"
    assert len(summary) <= 240
    home = import_module(f"kdcore.functional.{module}")
    assert names and all(getattr(home, name).__module__ == home.__name__ for name in names)


def test_a_formula_has_one_home() -> None:
    homes = Counter(name for _, names in formulas().values() for name in names)
    assert [name for name, count in homes.items() if count > 1] == []


def test_the_table_can_be_printed() -> None:
    done = subprocess.run([sys.executable, "-m", "kdcore.functional"], capture_output=True, text=True, check=True)
    assert "gram\n    Gram matrices of features" in done.stdout
    assert "center_gram" in done.stdout
