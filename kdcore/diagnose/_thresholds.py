"""Where alarms begin that no exact test decides.

Each of these numbers was set on the healthy pairs of the set ``mending`` of ``python -m benchmarks.diagnosis_rates``
(see ``docs/diagnose.md``, which has the values seen), so that a normal fit to the values of healthy pairs leaves at
most one in a thousand beyond it, and no healthy pair of that set lies beyond; never on faulty ones. Tests with a known
distribution have their levels from the same budget in :mod:`._probes`.
"""

from __future__ import annotations

#: Share of the data that are copies of training samples.
COPIES = 0.02
#: Chance, beyond a half, that a sample has more (or less) sharpness, mean or spread than a training sample.
SHIFT = 0.1
#: Fall from one singular value of the images to the next, along both sides, that only enlarged images have.
CLIFF = 4.0
#: Both models right in at least this share: worth a note that the data may have been learnt from.
UNERRING = 0.995
#: Confidence minus accuracy of a teacher.
OVERCONFIDENT = 0.28
#: Temperature that fits the labels: logits far too large, far too small.
SHARP, FLAT = 6.0, 0.5
#: Accuracy minus confidence where logits are far too small.
DOUBT = 0.32
#: The student's logits over the teacher's (spread over classes, median), and its inverse.
SCALES = 4.5
#: Total variation between the classes named and those due.
MISNAMED = 0.22
#: Both models agree, surely, on another class than the label.
NOISY = 0.1
#: Effective rank of an embedding that lies on a line.
THIN = 1.3
