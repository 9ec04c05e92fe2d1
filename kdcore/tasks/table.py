"""A CSV or parquet table with a target column."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..functional.checks import check_choice, closest
from ._classification import Classification
from ._data import ArrayDataset, check_class_counts, split_train, transfer_set
from ._read_table import almost_numbers, read_table, row_numbers

if TYPE_CHECKING:
    import pandas as pd

MAX_CLASSES = 200
MAX_CATEGORIES = 200


def _columns(frame: pd.DataFrame, option: str, wanted: Sequence[str]) -> list[str]:
    known = list(map(str, frame.columns))
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"{option} names column {name!r}, which the table does not have.{closest(name, known)} "
                f"Its columns: {', '.join(known)}."
            )
    return list(wanted)


def _check_values(frame: pd.DataFrame, numeric: list[str], categorical: list[str], missing: str) -> None:
    """Refuse infinities always, holes unless they are to be filled, and identifiers posing as categories."""
    infinite = {c: int(np.isinf(frame[c].to_numpy(dtype=float, na_value=np.nan)).sum()) for c in numeric}
    if any(infinite.values()):
        raise ValueError(f"infinite values in {', '.join(f'{c!r} ({n})' for c, n in infinite.items() if n)}.")
    holes = {c: int(frame[c].isna().sum()) for c in (*numeric, *categorical)}
    if missing == "error" and any(holes.values()):
        where = ", ".join(f"{c!r} ({n} of {len(frame)})" for c, n in holes.items() if n)
        raise ValueError(
            f"missing values in {where}: drop those columns, clean the table, or pass missing='impute' "
            "(training median, or a category of its own)."
        )
    if empty := [c for c, n in holes.items() if n == len(frame)]:
        raise ValueError(f"columns without any value: {', '.join(empty)}; name them in drop=.")
    if wide := [c for c in categorical if frame[c].nunique() > MAX_CATEGORIES]:
        raise ValueError(
            f"more than {MAX_CATEGORIES} categories in {', '.join(wide)} (identifiers, free text?): "
            "name such columns in drop=."
        )


def _encoder(numeric: list[str], categorical: list[str]) -> Any:
    """Numbers: median for holes, mean 0, standard deviation 1. Categories: one column each, unknown ones all 0."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    words = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    return ColumnTransformer([("numeric", numbers, numeric), ("categorical", words, categorical)])


def table(
    path: str | Path | pd.DataFrame,
    target: str,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] | None = None,
    missing: str = "error",
    seed: int = 0,
    train_fraction: float = 0.6,
    val_fraction: float = 0.0,
    train_size: int | None = None,
    omit_classes: Sequence[int | str] = (),
) -> Classification:
    """A CSV or parquet table: one row per sample, one column is the class.

    Separators, decimal commas and encodings are found out (see :func:`read_table`). A nameless column of row numbers is
    left out. Numeric columns are standardised and categorical ones turned into 0/1 columns, with statistics of the
    teacher's training rows only. Column names in the order of the input are in ``task.notes``.

    Args:
        path: the file, or a DataFrame.
        target: the column with the classes (text, numbers, booleans).
        columns: columns to use, all others by default.
        drop: columns to leave out (identifiers).
        categorical: columns treated as categories; by default those that are not numbers.
        missing: ``"error"``, or ``"impute"`` (median of the training rows; for categories one of their own).
        seed, train_fraction, val_fraction, train_size, omit_classes: as for the digits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown columns (the message lists those that exist), missing or infinite values, a target that is
            not a class, a class with too few rows to appear in every split.
    """
    check_choice("missing", missing, ("error", "impute"))
    import pandas as pd

    frame = path if isinstance(path, pd.DataFrame) else read_table(path)
    said = list(frame.attrs.get("said", ()))
    frame = frame.rename(columns=str)
    if twice := sorted({name for name in frame.columns if list(frame.columns).count(name) > 1}):
        raise ValueError(f"several columns are called {', '.join(twice)}: give each a name of its own.")
    _columns(frame, "target", [target])
    if columns is not None:
        used = _columns(frame, "columns", columns)
    else:
        used = _without_row_numbers(frame, {target, *drop}, said)
    dropped = {target, *_columns(frame, "drop", drop)}
    used = [c for c in used if c not in dropped]
    if not used or not len(frame):
        raise ValueError(f"nothing is left to learn from: {len(frame)} rows, columns {used}.")
    words = (
        set(_columns(frame, "categorical", categorical))
        if categorical is not None
        else {c for c in used if not pd.api.types.is_numeric_dtype(frame[c]) or pd.api.types.is_bool_dtype(frame[c])}
    )
    numeric, named = [c for c in used if c not in words], [c for c in used if c in words]
    if categorical is None:
        _check_almost_numbers(frame, named)
    if text := [c for c in numeric if not pd.api.types.is_numeric_dtype(frame[c])]:
        raise ValueError(f"columns {', '.join(text)} are not numbers: name them in categorical= or drop=.")
    _check_values(frame, numeric, named, missing)
    labels, names = _classes(frame[target])
    for sentence in said:
        warnings.warn(f"{'the table' if isinstance(path, pd.DataFrame) else path}: {sentence}", stacklevel=3)
    split = split_train(labels, class_names=names, seed=seed, train_fraction=train_fraction, val_fraction=val_fraction)
    inputs = _inputs(frame, numeric, named)
    encoder = _encoder(numeric, named).fit(inputs.iloc[split["train"]])
    x = np.asarray(encoder.transform(inputs), dtype=np.float32)
    data = ArrayDataset(torch.from_numpy(x), torch.from_numpy(labels))
    parts = {name: data.subset(rows) for name, rows in split.items()}
    seen = transfer_set(
        labels[split["train"]], class_names=names, seed=seed, train_size=train_size, omit_classes=omit_classes
    )
    features = [str(name).partition("__")[2] for name in encoder.get_feature_names_out()]
    source = "DataFrame" if isinstance(path, pd.DataFrame) else Path(path).name
    return Classification(
        name="table",
        train=parts["train"].subset(seen),
        teacher_train=parts["train"],
        val=parts.get("val"),
        test=parts["test"],
        class_names=names,
        seed=seed,
        words=f"{source}, target {target}",
        notes=(f"input columns: {', '.join(features)}", *said),
    )


def _without_row_numbers(frame: pd.DataFrame, left_out: set[str], said: list[str]) -> list[str]:
    """All columns but a nameless one that counts the rows (``DataFrame.to_csv`` writes it); named ones are told."""
    used = []
    for name in frame.columns:
        counts = name not in left_out and row_numbers(frame[name])
        if counts and (name.startswith("Unnamed: ") or not name.strip()):
            said.append(f"Column {name!r} numbers the rows and is left out (columns= takes it in).")
            continue
        if counts:
            said.append(f"Column {name!r} numbers the rows: if it is no property of them, name it in drop=.")
        used.append(name)
    return used


def _check_almost_numbers(frame: pd.DataFrame, named: Sequence[str]) -> None:
    for name in named:
        if odd := almost_numbers(frame[name]):
            raise ValueError(
                f"column {name!r} holds numbers but for {', '.join(map(repr, odd[:5]))}: clean it, or name it in "
                "drop= or, if they are codes, in categorical=."
            )


def _inputs(frame: pd.DataFrame, numeric: list[str], categorical: list[str]) -> pd.DataFrame:
    """Numbers as float64, categories as text, with NaN for every kind of hole."""
    import pandas as pd

    columns: dict[str, Any] = {c: frame[c].astype(float) for c in numeric}
    for c in categorical:
        columns[c] = np.array([np.nan if pd.isna(v) else str(v) for v in frame[c]], dtype=object)
    return pd.DataFrame(columns, index=frame.index)


def _classes(column: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names of the target column; classes are sorted."""
    import pandas as pd

    kinds = {"text" if isinstance(v, str) else "numbers" for v in column.dropna()} if column.dtype == object else set()
    if len(kinds) > 1:
        texts = [v for v in column if isinstance(v, str)]
        raise ValueError(
            f"the target column {column.name!r} holds numbers and text, e.g. {texts[0]!r} in {len(texts)} of "
            f"{len(column)} rows: bring all to one type, e.g. frame[{column.name!r}].astype(str)."
        )
    if holes := int(column.isna().sum()):
        raise ValueError(f"the target column {column.name!r} has {holes} missing values of {len(column)}.")
    if pd.api.types.is_float_dtype(column) and not (column == column.round()).all():
        example = column[column != column.round()].iloc[0]
        raise ValueError(f"the target column {column.name!r} holds fractions such as {example}: this task classifies.")
    values, labels = np.unique(
        column.to_numpy(dtype=object) if column.dtype == object else column.to_numpy(), return_inverse=True
    )
    if not 2 <= len(values) <= MAX_CLASSES:
        raise ValueError(f"the target column {column.name!r} must have 2 to {MAX_CLASSES} classes, got {len(values)}.")
    names = tuple(str(int(v)) if isinstance(v, float | np.floating) else str(v) for v in values)
    check_class_counts(labels, names, at_least=2, why="to be split")
    return labels.astype(np.int64), names


TASKS = {"table": table}
