"""Where notebooks and runs live, and writing in a way that nothing half-written is ever read as whole."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdcore import __version__
from kdcore.files import write_atomic

NOTEBOOKS = "notebooks"
#: Names that no script in a notebook folder may have.
PACKAGES = ("kdcore", "workbench")
_SKIP = (".ipynb_checkpoints", ".jupyter", "__pycache__")
_SLUG_LETTERS = 60
#: Letters that Unicode does not take apart into a plain letter and a mark.
_PLAIN = str.maketrans({"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O",
                        "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i"})  # fmt: skip


class NotebookError(ValueError):
    """A file that is called a notebook and cannot be run as one."""


def project_root(start: str | Path | None = None) -> Path:
    """The folder that holds ``notebooks/``: that of the installed source tree, else the nearest above ``start``.

    Args:
        start: where to look upwards from; default the current folder.

    Raises:
        FileNotFoundError: there is no such folder; the message says where it was looked for.
    """
    start = Path(start or Path.cwd()).resolve()
    source = Path(__file__).resolve().parents[2]
    for folder in (*((start, *start.parents)), source):
        if (folder / NOTEBOOKS).is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise FileNotFoundError(
        f"no project folder (pyproject.toml beside {NOTEBOOKS}/) at or above {start}, nor at {source}: "
        f"kd-workbench {__version__} runs notebooks from a copy of its repository."
    )


def find_notebooks(root: str | Path | None = None, pattern: str = "*", *, suffix: str = ".ipynb") -> list[Path]:
    """Notebooks under ``root/notebooks`` whose key or last part of it matches a glob, sorted by key."""
    root = Path(root) if root is not None else project_root()
    found = (
        p
        for p in (root / NOTEBOOKS).rglob(f"*{suffix}")
        if not set(p.parts) & set(_SKIP) and not p.name.startswith("_")
    )
    keep = (
        p
        for p in found
        if any(same_name(n, pattern) or fnmatch.fnmatchcase(n, pattern) for n in (notebook_key(p, root), p.stem))
    )
    return sorted(keep, key=lambda p: notebook_key(p, root))


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same text: some systems store an accent beside its letter, some in it."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def slug_of(name: str) -> str:
    """A name that folders may have on any system, made of a notebook's key or file name.

    ``"My experiment (1)"`` -> ``"My-experiment-1"``, ``"Versuch größer"`` -> ``"Versuch-grosser"``; letters of other
    scripts stay, signs and emoji go, what is long is cut. The names of our own lessons are their slugs.
    """
    last = name.rstrip("/").rpartition("/")[2].translate(_PLAIN)
    bare = "".join(c for c in unicodedata.normalize("NFKD", last) if not unicodedata.combining(c))
    words = re.sub(r"[^\w.+-]+", "-", unicodedata.normalize("NFC", bare))
    return _cut(words.strip("-."), _SLUG_LETTERS).strip("-.") or "notebook"


def _cut(text: str, size: int) -> str:
    """The beginning of a text that takes at most ``2 * size`` bytes and ``size`` letters."""
    return text[:size].encode(errors="ignore")[: 2 * size].decode(errors="ignore")


def answers_to(notebook: str, name: str) -> bool:
    """Whether a notebook's key (``"ranking/pld"``) is meant by a name: key, last part, file name, path or slug."""
    wanted = name.removesuffix(".ipynb")
    last = notebook.rpartition("/")[2]
    meant = (wanted, wanted.rpartition("/")[2]) if wanted != name else (wanted,)  # of a path its last part will do
    return any(same_name(known, w) for known in (notebook, last, slug_of(notebook)) for w in meant)


def script_of(notebook: str | Path) -> Path:
    """The percent script of a notebook: the same name, or ``<name>_notebook.py`` where the name is one of our packages.

    A kernel looks for modules in its notebook's folder first: a ``workbench.py`` there would hide the package.
    """
    path = Path(notebook)
    return path.with_name(f"{path.stem}{'_notebook' if path.stem in PACKAGES else ''}.py")


def notebook_of(script: str | Path) -> Path:
    """The notebook of a percent script, see :func:`script_of`."""
    path = Path(script)
    short = path.stem.removesuffix("_notebook")
    return path.with_name(f"{short if short in PACKAGES else path.stem}.ipynb")


def notebook_key(path: str | Path, root: str | Path | None = None) -> str:
    """``.../notebooks/ranking/pld.ipynb`` -> ``"ranking/pld"``; a notebook elsewhere is called by its stem."""
    path = Path(path).resolve()
    base = (Path(root).resolve() if root is not None else _root_of(path)) / NOTEBOOKS
    return path.relative_to(base).with_suffix("").as_posix() if path.is_relative_to(base) else path.stem


def _root_of(path: Path) -> Path:
    for folder in path.parents:
        if folder.name == NOTEBOOKS:
            return folder.parent
    return path.parent


def resolve_notebook(name: str | Path, root: str | Path | None = None) -> Path:
    """A notebook by path, key (``ranking/pld``) or slug (``pld``); a ``.py`` script names its ``.ipynb``.

    Raises:
        FileNotFoundError: nothing or more than one notebook answers to the name; the message lists those that exist.
    """
    path = Path(name).expanduser()
    if path.suffix == ".py" and notebook_of(path).is_file():
        path = notebook_of(path)
    if path.suffix.lower() == ".ipynb" and path.is_file():
        return path.resolve()
    if path.suffix.lower() in (".ipynb", ".py") and path.parent != Path("."):
        what = "a folder, not a notebook" if path.is_dir() else "no notebook"
        raise FileNotFoundError(f"{path} is {what}." if path.is_dir() else f"there is {what} {path}.")
    notebooks = find_notebooks(root)
    wanted = {str(name), path.with_suffix("").as_posix() if path.suffix in (".ipynb", ".py") else str(name)}
    exact = [p for p in notebooks if any(same_name(w, n) for w in wanted for n in (notebook_key(p, root), p.stem))]
    hits = exact or [p for p in notebooks if slug_of(p.stem) in wanted]
    if len(hits) == 1:
        return hits[0].resolve()
    what = "more than one notebook is" if hits else "no notebook is"
    keys = ", ".join(notebook_key(p, root) for p in (hits or notebooks)) or "none"
    raise FileNotFoundError(f"{what} called {str(name)!r}. There are: {keys}.")


def load_notebook(path: str | Path) -> dict[str, Any]:
    """An ``.ipynb`` document, with every cell in the form that running it needs.

    Args:
        path: of the file. Missing metadata and ids are added, sources become one text.

    Raises:
        NotebookError: in one line, what the file is instead of a notebook in nbformat 4.
        OSError: it cannot be read.
    """
    path = Path(path)
    document = _parsed(path)
    if not isinstance(document, dict):
        kind = _json_kind(document)
        raise NotebookError(f"{path} is not a notebook: its JSON is a {kind}, not an object with cells.")
    version = document.get("nbformat", 4)
    if version != 4:
        if isinstance(version, int) and version in (1, 2, 3):
            raise NotebookError(
                f"{path} is in the old notebook format {version}: convert it first with "
                f"'jupyter nbconvert --to notebook --nbformat 4 --inplace {path.name}'."
            )
        raise NotebookError(f"{path} is not a notebook that is read here: nbformat must be 4, got {version!r:.40}.")
    if not isinstance(document.get("cells"), list):
        raise NotebookError(f"{path} is not a notebook: it has no list of cells.")
    metadata = document.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise NotebookError(f"{path} is not a notebook: its metadata must be an object, got {metadata!r:.40}.")
    cells = [_cell(path, number, cell) for number, cell in enumerate(document["cells"], 1)]
    ids: set[str] = set()
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell.get("id"), str) or cell["id"] in ids:
            cell["id"] = f"cell-{number}" if f"cell-{number}" not in ids else f"cell-{number}-of-{len(cells)}"
        ids.add(cell["id"])
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text)
    except UnicodeDecodeError:
        raise NotebookError(f"{path} is not a notebook: it is not UTF-8 text.") from None
    except RecursionError:
        raise NotebookError(f"{path} is not a notebook: its JSON is nested too deeply.") from None
    except ValueError as error:
        start = text.lstrip()[:200].lower()
        if not start:
            what = "it is empty"
        elif start.startswith("version https://git-lfs"):
            what = "it is a Git LFS pointer; fetch the file itself with 'git lfs pull'"
        elif start.startswith("<"):
            what = "it is an HTML or XML page"
        elif start.startswith("{"):
            what = f"its JSON is cut short or damaged ({error})"
        else:
            what = f"it is not JSON ({error})"
        raise NotebookError(f"{path} is not a notebook: {what}.") from None


def _json_kind(value: Any) -> str:
    return {list: "list", str: "text", bool: "truth value", type(None): "null"}.get(type(value), "number")


def _cell(path: Path, number: int, given: Any) -> dict[str, Any]:
    cell = given if isinstance(given, dict) else {}
    kind, source, metadata = cell.get("cell_type"), cell.get("source", ""), cell.get("metadata") or {}
    if isinstance(source, list) and all(isinstance(part, str) for part in source):
        source = "".join(source)
    good = kind in ("code", "markdown", "raw") and isinstance(source, str) and isinstance(metadata, dict)
    if not good or not isinstance(metadata.get("tags", []), list):
        raise NotebookError(
            f"{path} is not a notebook: cell {number} has no cell_type, source and metadata of nbformat 4."
        )
    clean = {**cell, "source": source, "metadata": metadata}
    if kind == "code":
        outputs = clean.get("outputs")
        clean["outputs"] = outputs if isinstance(outputs, list) else []
        clean["execution_count"] = cell.get("execution_count")
    return clean


def sha256(data: bytes | str) -> str:
    """Hex digest of bytes or text."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def plain(value: Any) -> Any:
    """A value as valid JSON types: numpy and torch unwrapped, non-finite floats as ``"nan"``, ``"inf"``, ``"-inf"``."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return plain(value.tolist())
    raise TypeError(f"cannot be stored as JSON: {type(value).__name__} ({value!r:.80}).")


def to_json(value: Any) -> str:
    """Valid JSON text (no bare NaN), keys in the order given, with a final newline."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # of a file name that is no text: JSON's own escape


def write_json(path: str | Path, value: Any) -> Path:
    """:func:`to_json` written by :func:`write_atomic`."""
    return write_atomic(path, to_json(value))


def read_json(path: str | Path) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: it is not valid JSON; names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error.msg}, line {error.lineno}).") from error


def text_table(rows: Iterable[Iterable[str]], header: Iterable[str]) -> str:
    """Rows as aligned plain text, for error messages and logs."""
    lines = [tuple(map(str, header)), *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * w for w in widths))
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
