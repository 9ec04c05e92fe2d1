"""Percent scripts are the source of truth; the ``.ipynb`` beside each is generated, without outputs, byte for byte.

Cell ids come from the content of the cell, so that editing one cell changes one id and moving cells changes none.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.files import write_atomic

from .files import PACKAGES, find_notebooks, load_notebook, notebook_of, project_root, script_of, sha256

#: Tag of cells whose source JupyterLab and exported pages show folded: imports, set-up, solutions.
FOLDED = "folded"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


@dataclass(frozen=True)
class Pair:
    """A script and its notebook: ``problem`` says what is wrong ("" if nothing), ``diff`` shows it."""

    script: Path
    notebook: Path
    problem: str = ""
    diff: str = ""


def notebook_text(script: str, *, alone: bool = False) -> str:
    """The generated ``.ipynb`` of a percent script's source text.

    Args:
        script: the text.
        alone: tell jupytext in JupyterLab not to write a script of the notebook's name when the notebook is saved.

    Raises:
        ValueError: the script has no cells, or no cell tagged ``parameters`` is first among the code cells that use
            one.
    """
    import jupytext
    import nbformat

    notebook = jupytext.reads(script, fmt="py:percent")
    if not any(cell.source.strip() for cell in notebook.cells):
        raise ValueError("the script has no cells: start them with '# %%' or '# %% [markdown]'.")
    seen: Counter[str] = Counter()
    cells = []
    for cell in notebook.cells:
        digest = sha256(f"{cell.cell_type}\n{cell.source}")[:12]
        seen[digest] += 1
        tags = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if FOLDED in tags.get("tags", ()):
            tags["jupyter"] = {"source_hidden": True}
        clean: dict[str, Any] = {
            "cell_type": cell.cell_type,
            "id": digest if seen[digest] == 1 else f"{digest}-{seen[digest]}",
            "metadata": tags,
            "source": cell.source,
        }
        if cell.cell_type == "code":
            clean |= {"execution_count": None, "outputs": []}
        cells.append(clean)
    document = nbformat.from_dict(
        {
            "cells": cells,
            "metadata": {
                "kernelspec": KERNEL,
                "language_info": {"name": "python"},
                **({"jupytext": {"formats": "ipynb"}} if alone else {}),
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )
    nbformat.validate(document)
    return nbformat.writes(document, version=4).rstrip("\n") + "\n"


def pair(script: str | Path) -> Pair:
    """Write the notebook of a percent script (nothing is touched when it is already right)."""
    state = check_pair(script)
    if state.problem:
        text = state.script.read_text(encoding="utf-8")
        write_atomic(state.notebook, notebook_text(text, alone=state.notebook.stem != state.script.stem))
    return state


def check_pair(script: str | Path) -> Pair:
    """Compare a script with the notebook beside it.

    Raises:
        FileNotFoundError: there is no such script.
        FileExistsError: the script hides one of our packages from the notebooks beside it.
    """
    script = Path(script)
    script = script_of(script) if script.suffix == ".ipynb" else script.with_suffix(".py")
    notebook = notebook_of(script)
    if script.stem in PACKAGES and script.is_file():
        raise FileExistsError(
            f"{script} hides the package {script.stem} from the notebooks beside it: remove it, or "
            f"call it {script_of(script.with_suffix('.ipynb')).name}."
        )
    if not script.is_file():
        raise FileNotFoundError(f"there is no percent script {script}.")
    expected = notebook_text(script.read_text(encoding="utf-8"), alone=notebook.stem != script.stem)
    if not notebook.is_file():
        return Pair(script, notebook, "the notebook is missing")
    actual = notebook.read_text(encoding="utf-8", errors="replace")
    if actual == expected:
        return Pair(script, notebook)
    return Pair(
        script,
        notebook,
        _difference(actual, expected),
        "".join(
            difflib.unified_diff(actual.splitlines(True), expected.splitlines(True), "notebook", "from script", n=1)
        ),
    )


def _difference(actual: str, expected: str) -> str:
    try:
        have, want = json.loads(actual)["cells"], json.loads(expected)["cells"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        return f"the notebook cannot be read ({type(error).__name__}: {error})"
    if any(cell.get("outputs") for cell in have):
        return "the notebook holds outputs"
    if ["".join(c["source"]) for c in have] != ["".join(c["source"]) for c in want]:
        return "the cells differ from the script's"
    return "metadata or cell ids differ from what the script gives"


def scripts(root: str | Path | None = None) -> list[Path]:
    """All percent scripts under ``notebooks/``."""
    return find_notebooks(root, suffix=".py")


def check_pairs(paths: Iterable[str | Path] | None = None, root: str | Path | None = None) -> list[Pair]:
    """State of all pairs; a notebook without a script is a problem too."""
    if paths is not None:
        return [check_pair(p) for p in paths]
    root = Path(root) if root is not None else project_root()
    found = scripts(root)
    orphans = [p for p in find_notebooks(root) if script_of(p) not in found]
    return [
        *(check_pair(p) for p in found),
        *(Pair(script_of(p), p, "there is no percent script beside the notebook") for p in orphans),
    ]


def script_text(notebook: str | Path) -> str:
    """The percent script of a notebook edited in Jupyter: the way back, for ``kdw pair --from-notebook``.

    Raises:
        NotebookError: the file is no notebook.
    """
    import jupytext
    import nbformat

    document = nbformat.from_dict(load_notebook(notebook))
    document.metadata = {k: v for k, v in document.metadata.items() if k == "kernelspec"}
    document.metadata["jupytext"] = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "tags,-all"}
    return jupytext.writes(document, fmt="py:percent")
