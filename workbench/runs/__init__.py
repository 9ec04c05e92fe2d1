"""Running notebooks: strict parameters, run folders, records, baselines, pairing. Names are loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcore._lazy import lazy

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
    "kept_contrast": "study",
    "kept_verdicts": "study",
}
__all__ = ["RunRecord", "kept_contrast", "kept_verdicts", "list_runs", "record", "run_many", "run_notebook"]

__getattr__, __dir__ = lazy(__name__, _HOME)
