"""Pictures that can also be read: pure builders ``xxx_view(data) -> View``; no state, no widgets.

What the modules here (and those of papers, in ``papers/``) name in their ``__all__`` can be taken from this package:
``from workbench.views import heatmap_view``. The names are read from the files, a module is imported when one of its
names is asked for.
"""

from __future__ import annotations

from pathlib import Path

from kdcore._lazy import lazy, offered

_HOME = offered(Path(__file__).parent)
__all__ = [*_HOME]

__getattr__, __dir__ = lazy(__name__, _HOME)
