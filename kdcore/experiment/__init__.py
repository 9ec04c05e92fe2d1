"""Methods against each other: same task, same seeds, paired differences, verdicts written from the numbers.

    comparison = compare("digits", [Arm("CE", "ce"), Arm("KD", "kd", {"temperature": 4.0})], seeds=5, epochs=30)
    comparison.table(baseline="CE")
    Claim("KD beats CE", left=comparison.values("KD"), right=comparison.values("CE"), threshold=0.5).check()

Within one seed every arm starts from the same student weights and sees the same batches in the same order, so that
differences between arms are paired by seed. :mod:`.arm` says what an arm is, :mod:`.running` runs one,
:mod:`.compare` all of them, :mod:`.claims` and :mod:`.controls` judge what came out, :mod:`.contrast` puts one
difference into words. :mod:`.tune` gives every arm the same number of trials before; :mod:`.first` looks at the first
step alone, for the baselines of lessons.
"""

from .arm import Arm
from .claims import Claim, Verdict, check_claims, effects, mean_interval, paired_difference, seeds_suggested, tally
from .compare import Comparison, Metric, Progress, compare
from .contrast import contrast
from .controls import ControlVerdict, check_controls
from .first import first_steps
from .tune import Tuning, tune

__all__ = [
    "Arm",
    "Claim",
    "Comparison",
    "ControlVerdict",
    "Metric",
    "Progress",
    "Tuning",
    "Verdict",
    "check_claims",
    "check_controls",
    "compare",
    "contrast",
    "effects",
    "first_steps",
    "mean_interval",
    "paired_difference",
    "seeds_suggested",
    "tally",
    "tune",
]
