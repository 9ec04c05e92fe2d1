"""The usual way to run a training: to its end."""

from __future__ import annotations

from typing import Any

from .events import Trained
from .run import Run
from .stage import Training


def fit(training: Training, **options: Any) -> Trained:
    """Run a training to its end and return what it gave.

    Args:
        training: a :class:`Training`; trained in place.
        **options: the keyword arguments of :class:`Run`.

    Raises:
        NonFiniteLossError, ValueError, CheckpointError: see :meth:`Run.run`.
    """
    run = Run(training, **options)
    for _ in run.run():
        pass
    return run.result()
