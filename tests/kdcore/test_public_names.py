"""``kdcore.name``: every public name loads, and stays what it is whatever else is imported."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import kdcore


@pytest.mark.parametrize("name", kdcore.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(kdcore, name) is not None


def test_no_public_name_is_also_a_module() -> None:
    """Importing ``kdcore.layers`` would set the attribute ``layers`` of the package to the module."""
    modules = {module.name for module in pkgutil.iter_modules(kdcore.__path__)}
    assert modules & set(kdcore.__all__) == set()


def test_importing_the_package_loads_nothing_of_it() -> None:
    code = "import sys, kdcore; print(sorted(m for m in sys.modules if m.startswith('kdcore.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['kdcore._lazy']"


def test_no_file_is_longer_than_a_sitting() -> None:
    files = sorted(Path(kdcore.__file__).parent.rglob("*.py"))
    long = {str(f): n for f in files if (n := len(f.read_text(encoding="utf-8").splitlines())) > 500}
    assert len(files) > 100 and not long
