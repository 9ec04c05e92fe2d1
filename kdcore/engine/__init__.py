"""The one training loop: whatever trains in kdcore is a :class:`Training`, run by :func:`fit`.

What can be relied on:

* Frozen players (teachers) are in eval mode, get no gradient, and are never part of what is learned, saved or
  optimised; afterwards their flags and buffers are what they were.
* Every step and epoch is an event; a stop acts within one step; the run can be resumed from there.
* On a CPU, a run that was killed in any stage and resumed ends in the same bits as one that was not, as long as the
  data's randomness comes from Python's, NumPy's or torch's global generators, the loader's own or the run's, and the
  state of the players is in parameters and buffers.
* A term or gradient that is not finite ends the run before the step is taken, with stage, term, step and batch.
"""

from .events import Epoch, NonFiniteLossError, Step, Trained, listening
from .fitting import finish, fit
from .run import Run
from .stage import Learn, Stage, Terms, Training

__all__ = [
    "Epoch",
    "Learn",
    "NonFiniteLossError",
    "Run",
    "Stage",
    "Step",
    "Terms",
    "Trained",
    "Training",
    "finish",
    "fit",
    "listening",
]
