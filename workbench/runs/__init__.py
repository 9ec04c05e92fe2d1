"""Running notebooks: strict parameters, run folders, records, baselines, pairing. Names are loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .execute import run_many, run_notebook
    from .records import record
    from .store import RunRecord, list_runs

_HOME = {
    "record": "records",
    "run_notebook": "execute",
    "run_many": "execute",
    "RunRecord": "store",
    "list_runs": "store",
}
__all__ = ["RunRecord", "list_runs", "record", "run_many", "run_notebook"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
