"""Plain ES modules that draw pictures (:mod:`workbench.views.picture`) in the page, with nothing to build or to fetch.

Each kind of panel and mark is one file beside this one; they import from each other as modules do. A widget and a page
need one text: :func:`script` joins what an entry file imports, each file once and before those that need it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(?P<file>[a-z]+\.js)";\n', re.M)


def files(entry: str) -> list[str]:
    """An entry file and all that it imports, in the order in which they must stand.

    Raises:
        ValueError: files that import each other in a circle.
    """
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(f"modules of marks must not import in a circle: {' -> '.join((*path, name))}.")
        if name in order:
            return
        for match in _IMPORT.finditer((_HERE / name).read_text(encoding="utf-8")):
            visit(match["file"], (*path, name))
        order.append(name)

    visit(entry, ())
    return order


@cache
def script(entry: str) -> str:
    """One module that holds an entry file (``"widget.js"``, ``"page.js"``) and all it imports."""
    parts = []
    for name in files(entry):
        text = _IMPORT.sub("", (_HERE / name).read_text(encoding="utf-8"))
        parts.append(re.sub(r"^export (?!default)", "", text, flags=re.M))
    return "\n".join(parts)


@cache
def style() -> str:
    """The style sheet of pictures."""
    return (_HERE / "picture.css").read_text(encoding="utf-8")


def content_hash(text: str) -> str:
    """``sha256-...`` of an inline script, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


__all__ = ["content_hash", "files", "script", "style"]
