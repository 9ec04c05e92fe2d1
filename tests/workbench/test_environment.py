"""pyproject.toml and environment.yml ask for the same, nothing without a use, and the environment at hand has it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from workbench.runs import environment
from workbench.runs.doctor import examine
from workbench.runs.files import project_root

ROOT = project_root(Path(__file__).parent)
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "jupyter-client": "jupyter_client"}
#: Distributions whose import name is not their own.
IMPORTS = {
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "ipython": "IPython",
    "jupyter-client": "jupyter_client",
}
#: Used without an import: parquet engine of pandas; the kernel and the lab are started; the engine of papermill.
WITHOUT_IMPORT = {"pyarrow", "ipykernel", "jupyterlab", "nbclient"}
#: Part of the workbench's fixed set of tools, for readers' own cells; nothing of ours imports it yet.
FOR_READERS = {"captum"}


def project() -> dict[str, dict[str, str]]:
    """Requirements of pyproject.toml: group -> name -> specifier."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"run": table["dependencies"], "dev": table["optional-dependencies"]["dev"]}
    found = {
        g: {Requirement(line).name: str(Requirement(line).specifier) for line in lines} for g, lines in groups.items()
    }
    found["python"] = {"python": table["requires-python"]}
    return found


def conda() -> dict[str, str]:
    """Requirements of environment.yml by name; the pip section included."""
    found = {}
    for line in (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"\s+- ([A-Za-z0-9_-]+)(>=[\w.]+)?", line.partition(" #")[0].rstrip())
        if match and match[1] not in ("conda-forge", "nodefaults", "pip"):
            assert match[1] not in found, f"{match[1]} is listed twice"
            found[match[1]] = match[2] or ""
    return found


def test_both_files_ask_for_the_same_versions() -> None:
    wanted = {CONDA_NAMES.get(n, n): v for group in project().values() for n, v in group.items()}
    assert conda() == wanted


def test_every_requirement_has_a_lower_bound_and_torch_is_new_enough() -> None:
    groups = project()
    assert all(v.startswith(">=") for group in groups.values() for v in group.values())
    assert Requirement("torch" + groups["run"]["torch"]).specifier.contains("2.11.0")
    assert not Requirement("torch" + groups["run"]["torch"]).specifier.contains("2.10.0")
    assert not set(groups["run"]) & set(groups["dev"])


@cache
def imported() -> frozenset[str]:
    """Top-level names imported anywhere in the two packages and the notebooks."""
    names: set[str] = set()
    for path in [p for folder in ("kdcore", "workbench", "notebooks") for p in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return frozenset(names)


#: Doors for packages that a reader brings; each is imported where it is used, with an error that says how to get it.
BROUGHT = {"open_clip"}


def test_everything_imported_is_asked_for() -> None:
    ours = {"kdcore", "workbench"} | set(sys.stdlib_module_names) | BROUGHT
    asked = {IMPORTS.get(name, name) for name in project()["run"]}
    assert imported() - ours - asked == set()


def test_nothing_is_asked_for_without_a_use() -> None:
    asked = {name for name in project()["run"] if name not in WITHOUT_IMPORT | FOR_READERS}
    assert {n for n in asked if IMPORTS.get(n, n) not in imported()} == set()


def test_this_environment_is_within_the_bounds() -> None:
    checks = {c.name: c for c in environment.check_versions(ROOT)}
    assert {c.name: c.found for c in checks.values() if not c.ok} == {}
    assert {"python", "torch", "papermill"} <= set(checks)


def test_a_version_below_the_bound_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        environment, "required_versions", lambda root: ["torch>=99", "no-such-package>=1", "python>=3.11"]
    )
    checks = {c.name: c for c in environment.check_versions(None)}
    assert not checks["torch"].ok and "torch>=99" in checks["torch"].advice
    assert (checks["no-such-package"].ok, checks["no-such-package"].found) == (False, "not installed")
    assert checks["python"].ok


def test_the_doctor_finds_a_cache_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("KDCORE_CACHE", str(blocked / "cache"))
    checks = {c.name: c for c in examine()}
    assert (
        not checks["cache folder"].ok
        and checks["cache folder"].needed
        and "KDCORE_CACHE" in checks["cache folder"].advice
    )
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    assert {c.name: c.ok for c in examine()}["cache folder"]


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text and len(text) > 11_000
