"""One difference in words, whatever it is: settled above, settled below, or not settled.

:func:`kdcore.experiment.effects` names what is settled and passes over the rest. Where a text is about one pair of arms
a reader must hear of it in every case, and the words must follow from the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .claims import UNITS, _signed, mean_interval


def contrast(words: str, left: Sequence[float], right: Sequence[float], *, unit: str = "points") -> str:
    """A paired difference with its 95 % interval over seeds, and whether zero lies outside it.

    Args:
        words: what is compared, e.g. ``"KD against CE"``.
        left, right: values per seed, in the same order of seeds; of a comparison or of a kept result.
        unit: ``"points"`` and ``"%"`` multiply values by 100, any other text is only printed.

    Returns:
        ``"KD against CE: -0.5 points (95 % interval -1.9 to +1, 3 seeds), not settled."``; for a settled difference
        the last words are ``settled above`` or ``settled below``.

    Raises:
        ValueError: numbers of seeds that differ, or none.
    """
    x, y = (UNITS.get(unit, 1.0) * np.asarray(v, dtype=float) for v in (left, right))
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"left and right must hold one value per seed, got shapes {x.shape} and {y.shape}.")
    low, high = mean_interval(x - y)
    difference = f"{_signed(float((x - y).mean()))} {unit}".rstrip()
    if not math.isfinite(low):
        return f"{words}: {difference} ({len(x)} seed{'' if len(x) == 1 else 's'}, no interval), not settled."
    found = "settled above" if low > 0 else "settled below" if high < 0 else "not settled"
    return f"{words}: {difference} (95 % interval {_signed(low)} to {_signed(high)}, {len(x)} seeds), {found}."


__all__ = ["contrast"]
