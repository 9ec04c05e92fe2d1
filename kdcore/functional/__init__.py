"""The shared maths as pure functions of tensors; one home for each formula.

``python -m kdcore.functional`` prints the table of what is there: every module with the first sentence of its docstring
and its public names. It is read from the files, so that a new module stands in it by being there.
"""

from __future__ import annotations

import ast
from pathlib import Path


def formulas() -> dict[str, tuple[str, list[str]]]:
    """What the modules hold, read from their text: module -> (first paragraph of its docstring, public functions).

    A module whose name starts with an underscore serves the others and is left out.
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        summary = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        names = (n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef))
        found[path.stem] = (summary, list(dict.fromkeys(name for name in names if name[0] != "_")))  # overloads repeat
    return found
