"""Tables as programs write them: separators, decimal commas, encodings, row numbers, rows longer than their header.

What is guessed is said, in ``frame.attrs["said"]``; what cannot be told is refused.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import itertools
import lzma
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?([eE][+-]?\d+)?\s*")


def read_table(path: str | Path) -> pd.DataFrame:
    """A table by suffix: ``.csv``, ``.tsv`` (also compressed), ``.parquet``.

    Separator and decimal sign are those of the file: commas, semicolons, tabs or bars, points or commas. Text that is
    neither UTF-8 nor UTF-16 is read as Windows-1252. Where that was a guess, ``frame.attrs["said"]`` says so.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, a file that cannot be parsed, or rows with more fields than the header has names.
    """
    import pandas as pd

    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no table at {path}.")
    kind = next((s for s in reversed(path.suffixes) if s.lower() in (".csv", ".tsv", ".parquet", ".pq")), "").lower()
    if not kind:
        raise ValueError(f"a table must be .csv, .tsv or .parquet, got {path.name!r}.")
    try:
        if kind in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return _read_text(path, "\t" if kind == ".tsv" else ",")
    except (ValueError, OSError, EOFError) as error:  # parser, encoding, empty-data and arrow errors derive from these
        raise ValueError(f"{path} cannot be read as {kind.removeprefix('.')}: {error}") from error


def _read_text(path: Path, usual: str) -> pd.DataFrame:
    try:
        return _read_as(path, usual, _encoding(path), [])
    except UnicodeDecodeError:
        return _read_as(path, usual, "cp1252", ["The file is not UTF-8; it is read as Windows-1252."])


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8"


def _read_as(path: Path, usual: str, encoding: str, said: list[str]) -> pd.DataFrame:
    import pandas as pd

    separator = _separator(_head(path, encoding.replace("utf-8", "utf-8-sig")), usual)
    if separator != usual:
        said.append(f"Its columns are separated by {SEPARATORS[separator]}.")
    options: dict[str, Any] = {"sep": separator, "encoding": encoding}
    frame = _without_surplus(pd.read_csv(path, **options), path, options, said)
    if separator != "," and (commas := _decimal_commas(frame)):
        options["decimal"] = ","
        frame = _without_surplus(pd.read_csv(path, **options), path, options, [])
        said.append(f"Numbers with a decimal comma: {', '.join(commas)}.")
    frame.attrs["said"] = said
    return frame


def _head(path: Path, encoding: str, lines: int = 50) -> list[str]:
    opener = _OPENERS.get(path.suffix.lower(), open)
    if path.suffix.lower() in (".zip", ".zst", ".tar"):
        return []  # pandas opens these itself; their separator is that of the suffix
    with opener(path, "rt", encoding=encoding, newline="") as file:
        return [line for line in itertools.islice(file, lines) if line.strip()]


def _separator(lines: Sequence[str], usual: str) -> str:
    """The separator that gives the header most names; the usual one where it gives as many."""
    if not lines:
        return usual
    columns = {separator: len(next(csv.reader([lines[0]], delimiter=separator))) for separator in SEPARATORS}
    most = max(columns.values())
    return usual if columns[usual] == most else next(s for s, count in columns.items() if count == most)


def _without_surplus(frame: pd.DataFrame, path: Path, options: dict[str, Any], said: list[str]) -> pd.DataFrame:
    """Undo what pandas does where rows have more fields than the header: it takes the first ones for row names."""
    import pandas as pd

    if isinstance(frame.index, pd.RangeIndex):
        return frame
    extra = frame.index.nlevels
    if extra == 1 and len(frame.columns) and bool(frame.iloc[:, -1].isna().all()):
        said.append("Every row ends with a separator that the header has not; it is passed over.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            return pd.read_csv(path, index_col=False, **options)
    raise ValueError(
        f"rows have {len(frame.columns) + extra} fields but the header has {len(frame.columns)} names "
        f"({', '.join(map(str, frame.columns[:5]))}, ...): name every column"
    )


def _decimal_commas(frame: pd.DataFrame) -> list[str]:
    """Columns of text whose every value is a number with a comma for its point."""
    found = []
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind not in "OUT" and str(column.dtype) not in ("str", "string"):
            continue
        values = column.dropna().astype(str)
        if len(values) and values.str.contains(",").any() and values.map(_DECIMAL_COMMA.fullmatch).notna().all():
            found.append(str(name))
    return found


def row_numbers(column: pd.Series) -> bool:
    """Whether a column counts the rows: whole numbers a, a + 1, ..., each once, in any order."""
    if len(column) < 2 or column.dtype.kind not in "iuf" or column.isna().any():
        return False
    values = np.sort(column.to_numpy(dtype=float))
    return bool(values[0] in (0.0, 1.0) and (np.diff(values) == 1).all())


def almost_numbers(column: pd.Series) -> list[str]:
    """The few values of a column of text that are no numbers, where most are (``"?"``, ``"n/a"``); else nothing.

    Columns with ten different numbers or fewer may be codes, and count as text.
    """
    import pandas as pd

    values = column.dropna()
    numbers = pd.to_numeric(values.astype(str), errors="coerce")
    odd = values[numbers.isna()]
    if len(odd) and len(odd) < 0.5 * len(values) and numbers.nunique() > 10:
        return list(dict.fromkeys(map(str, odd)))
    return []
