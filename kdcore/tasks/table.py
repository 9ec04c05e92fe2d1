"""A CSV or parquet table with a target column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..functional.checks import check_choice, closest
from ._classification import Classification
from ._data import ArrayDataset, check_class_counts, split_train, transfer_set

if TYPE_CHECKING:
    import pandas as pd

MAX_CLASSES = 200
MAX_CATEGORIES = 200


def read_table(path: str | Path) -> pd.DataFrame:
    """A table by suffix: ``.csv``, ``.tsv`` (also compressed), ``.parquet``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, or a file that cannot be parsed.
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
        return pd.read_csv(path, sep="\t" if kind == ".tsv" else ",")
    except (ValueError, OSError) as error:  # parser, encoding, empty-data and arrow errors derive from these
        raise ValueError(f"{path} cannot be read as {kind.removeprefix('.')}: {error}") from error


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

    Numeric columns are standardised and categorical ones turned into 0/1 columns, with statistics of the teacher's
    training rows only. Column names in the order of the input are in ``task.notes``.

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
    frame = frame.rename(columns=str)
    _columns(frame, "target", [target])
    used = _columns(frame, "columns", columns) if columns is not None else list(frame.columns)
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
    if text := [c for c in numeric if not pd.api.types.is_numeric_dtype(frame[c])]:
        raise ValueError(f"columns {', '.join(text)} are not numbers: name them in categorical= or drop=.")
    _check_values(frame, numeric, named, missing)
    labels, names = _classes(frame[target])
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
        notes=(f"input columns: {', '.join(features)}",),
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
