"""Where notebooks and runs live, and writing in a way that nothing half-written is ever read as whole."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdcore import __version__
from kdcore.files import write_atomic

NOTEBOOKS = "notebooks"
#: Names that no script in a notebook folder may have.
PACKAGES = ("kdcore", "workbench")
_SKIP = (".ipynb_checkpoints", ".jupyter", "__pycache__")


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
        p for p in found if fnmatch.fnmatchcase(notebook_key(p, root), pattern) or fnmatch.fnmatchcase(p.stem, pattern)
    )
    return sorted(keep, key=lambda p: notebook_key(p, root))


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
    path = Path(name)
    if path.suffix == ".py" and notebook_of(path).is_file():
        path = notebook_of(path)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    if path.suffix in (".ipynb", ".py") and path.parent != Path("."):
        raise FileNotFoundError(f"there is no notebook {path}.")
    notebooks = find_notebooks(root)
    wanted = path.with_suffix("").as_posix() if path.suffix in (".ipynb", ".py") else str(name)
    hits = [p for p in notebooks if wanted in (notebook_key(p, root), p.stem)]
    if len(hits) == 1:
        return hits[0].resolve()
    what = "more than one notebook is" if hits else "no notebook is"
    keys = ", ".join(notebook_key(p, root) for p in (hits or notebooks)) or "none"
    raise FileNotFoundError(f"{what} called {str(name)!r}. There are: {keys}.")


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
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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
