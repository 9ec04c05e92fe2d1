"""What marks and panels of a picture share: axes, colours, styles, arrays, and the plain form of all of them."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

import numpy as np

from .drawing import as_array

#: Of the plain form; a page's module refuses another one.
VERSION = 1
#: Colours of marks beside the numbers 0 to 7 (:data:`workbench.views.theme.CATEGORICAL`); light: white with a dark rim,
#: for lines and dots over a field.
STYLES = ("student", "teacher", "ink", "muted", "good", "bad", "light")
SCHEMES = ("sequential", "diverging", "grey")
#: Longer arrays travel with 7 digits instead of 16.
_EXACT = 4096

Style = int | str


def numbers(argument: str, value: Any, ndim: int | tuple[int, ...] = 1) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Like ``as_array``; an empty one is allowed, as a mark of nothing draws nothing."""
    value = value.to_numpy() if hasattr(value, "to_numpy") else value
    if hasattr(value, "__len__") and len(value) == 0:
        return np.zeros((0,) * (ndim if isinstance(ndim, int) else ndim[0]))
    return as_array(argument, list(value) if isinstance(value, range) else value, ndim=ndim)


def fit_together(owner: str, **arrays: Any) -> None:
    """All arrays that are given must have the length of the first."""
    (first, leader), *others = arrays.items()
    for name, array in others:
        if array is not None and len(array) != len(leader):
            raise ValueError(f"{name} of {owner} must hold {len(leader)} entries like {first}, got {len(array)}.")


def check_style(argument: str, style: Style) -> None:
    """Raise ``ValueError`` unless a style is a whole number from 0 or a name in :data:`STYLES`."""
    named = isinstance(style, str) and style in STYLES
    if not named and (isinstance(style, bool) or not isinstance(style, int) or style < 0):
        raise ValueError(f"{argument} must be a number from 0 or one of {', '.join(STYLES)}, got {style!r}.")


@dataclass(frozen=True)
class Axis:
    """One axis of a :class:`Plane`.

    Attributes:
        label: what it measures, with the unit.
        names: of the positions 0, 1, ...: the axis is one of names; none: one of numbers.
        low, high: ends; from the data by default.
        log: logarithmic (numbers > 0); logit: ``log(p / (1 - p))`` (numbers strictly between 0 and 1).
        ticks: positions to name; round numbers by default. tick_names: their names.
        percent: values in [0, 1] are written as percents.
        strong: positions whose name is set in bold (the label's class).
        hidden: neither ticks nor names (positions mean nothing by themselves).
        down: values grow downwards (ranks).
    """

    label: str = ""
    names: Sequence[str] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    logit: bool = False
    ticks: Sequence[float] = ()
    tick_names: Sequence[str] = ()
    percent: bool = False
    strong: Sequence[int] = ()
    hidden: bool = False
    down: bool = False

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"an axis needs low < high, got {self.low!r} and {self.high!r}.")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError(f"a logarithmic axis needs low > 0, got {self.low!r}.")
        if self.tick_names and len(self.tick_names) != len(self.ticks):
            raise ValueError(f"tick_names must hold {len(self.ticks)} names like ticks, got {len(self.tick_names)}.")


@dataclass(frozen=True)
class Colours:
    """A colour scale.

    Attributes:
        low, high: its ends (``low < high``); values beyond get the end's colour.
        label: what the colours measure.
        scheme: ``"sequential"`` (cividis), ``"diverging"`` (orange to purple, a meaningful middle) or ``"grey"``.
        reverse: the low end gets the colour of the high one (ranks: 1 is best).
    """

    low: float
    high: float
    label: str = ""
    scheme: str = "sequential"
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}.")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"colours need finite low < high, got {self.low!r} and {self.high!r}.")


class Mark:
    """What a panel is made of; ``kind`` names it in the plain form."""

    kind: ClassVar[str]


class Panel:
    """A part of a picture with its own axes; ``kind`` names it in the plain form."""

    kind: ClassVar[str]


class Packed(dict[str, Any]):
    """An array in the plain form: ``shape``, ``dtype`` and ``data`` (little-endian bytes)."""


def packed(array: np.ndarray[Any, Any]) -> Packed:
    """An array as little-endian bytes: bytes and whole numbers as they are, others with 16 digits up to 4,096 entries
    and with 7 beyond."""
    if array.dtype == np.uint8:
        kept = array
    elif np.issubdtype(array.dtype, np.integer):
        kept = array.astype("<i4")
    else:
        kept = array.astype("<f8" if array.size <= _EXACT else "<f4")
    return Packed(shape=list(kept.shape), dtype=str(kept.dtype), data=np.ascontiguousarray(kept).tobytes())


def as_arrays(owner: Any, *names: str, ndim: int = 1) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None:
            object.__setattr__(owner, name, numbers(name, value, ndim))


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return packed(value)
    if is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": value.kind} if isinstance(value, Mark | Panel) else {}
        return kind | {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | bool) else str(value)


def unpacked(value: Any) -> Any:
    if isinstance(value, Packed):
        return {**value, "data": base64.b64encode(value["data"]).decode()}
    if isinstance(value, dict):
        return {k: unpacked(v) for k, v in value.items()}
    return [unpacked(v) for v in value] if isinstance(value, list) else value
