"""ipywidgets applications made of views; no maths. Each has ``.widget``, ``.state``, ``.static()`` and ``.close()``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Panel": "base", "static_mode": "base",
    "Explorer": "explorer", "Control": "explorer", "control_for": "explorer",
    "slider": "explorer", "dropdown": "explorer", "checkbox": "explorer",
    "LiveChart": "widgets", "Slider": "widgets", "progress_line": "progress", "LiveCurves": "live",
    "TrainPanel": "train", "PairPanel": "pair", "BeforeAfter": "pair",
    "DiagnosisPanel": "diagnosis", "parse_settings": "own_data",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
