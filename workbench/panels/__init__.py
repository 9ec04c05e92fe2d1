"""ipywidgets applications made of views; no maths. Each has ``.widget``, ``.state``, ``.static()`` and ``.close()``."""

from __future__ import annotations

from kdcore._lazy import lazy

_HOME = {
    "Panel": "base",
    "static_mode": "base",
    "Explorer": "explorer",
    "Control": "explorer",
    "control_for": "explorer",
    "slider": "explorer",
    "dropdown": "explorer",
    "checkbox": "explorer",
    "LiveChart": "widgets",
    "Slider": "widgets",
    "progress_line": "progress",
    "LiveCurves": "live",
    "TrainPanel": "train",
    "PairPanel": "pair",
    "BeforeAfter": "pair",
    "DiagnosisPanel": "diagnosis",
    "parse_settings": "own_data",
}
__all__ = [*_HOME]

__getattr__, __dir__ = lazy(__name__, _HOME)
