"""The usual way to run a training: to its end."""

from __future__ import annotations

import time
from typing import Any

from ..checkpoints import OwnRandomStates, others_wait
from .events import Trained
from .run import Run
from .stage import Training

_GIVE_WAY = 1e-4  # seconds in which a waiting thread wakes up and takes its turn


def fit(training: Training, **options: Any) -> Trained:
    """Run a training to its end and return what it gave.

    Args:
        training: a :class:`Training`; trained in place.
        **options: the keyword arguments of :class:`Run`.

    Raises:
        NonFiniteLossError, ValueError, CheckpointError: see :meth:`Run.run`.
    """
    run = Run(training, **options)
    finish(run)
    return run.result()


def finish(run: Run) -> None:
    """Go through :meth:`Run.run` to its end, where nobody but callbacks looks at the events.

    The random states of the run stay in place from step to step, unless another thread waits for its turn; exchanging
    them costs as much as a tenth of a small network's step.
    """
    events, own = run._events(), OwnRandomStates()
    try:
        while True:
            with own():
                while (event := next(events, None)) is not None and not others_wait():
                    pass
            if event is None:
                return
            time.sleep(_GIVE_WAY)
    finally:
        with own():
            events.close()
