"""How many pixels there are: an image made smaller inside a model leaves directions that move nothing, one made larger
before it has directions that hold nothing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._pair import Net
from ._sample import Sample

#: Images whose gradients are read.
IMAGES = 16
#: Singular values below this share of the largest are rounding; float32 gradients leave some 1e-7.
ROUNDING = 1e-5


class Seen(NamedTuple):
    """Directions along the height and the width of an image that move a model's scores, and how many there are."""

    rows: int
    columns: int
    height: int
    width: int

    @property
    def share(self) -> float:
        """The lesser of both shares."""
        return min(self.rows / self.height, self.columns / self.width)


def seen(net: Net, sample: Sample) -> Seen | None:
    """Rank of the gradients of a model's scores along both sides of its images.

    Whatever interpolation a model (or the transform before it) shrinks its images by, its scores depend on as many
    combinations of columns as the small image has columns; growing it again adds none. A rim that is cut off counts as
    seen: it is another fault (``input_ignored``). ``None`` where there are no images or no gradients.
    """
    if not sample.is_image or min(sample.x.shape[2:]) < 8:
        return None
    with torch.inference_mode(False), torch.enable_grad():
        x = sample.x[:IMAGES].detach().clone().float().requires_grad_()
        try:
            scores = net.logits_with_gradient(x)
            weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores)
            (gradient,) = torch.autograd.grad((scores * weights).sum(), x)
        except RuntimeError:
            return None  # something on the way has no derivative
    if not bool(torch.isfinite(gradient).all()) or not bool(gradient.any()):
        return None
    rows, columns = (_rank(gradient.double().movedim(d, 3)) for d in (2, 3))
    return Seen(rows, columns, x.shape[2], x.shape[3])


def _rank(gradient: Tensor) -> int:
    """Rank along the last dimension, lines of zeros at either end counted as seen."""
    matrix = gradient.flatten(0, 2)
    values = torch.linalg.svdvals(matrix)
    inner = matrix.abs().amax(0).nonzero().flatten()
    cut = matrix.shape[1] - int(inner[-1] - inner[0] + 1)
    return int((values > ROUNDING * values[0]).sum()) + cut


def cliffs(x: Tensor) -> tuple[tuple[float, int], tuple[float, int]] | None:
    """Along the height and the width: the steepest fall from one singular value of all images to the next, as a ratio,
    and behind how many of them it lies (a quarter of the side at least); ``None`` for small images.

    Images that were scaled up from ``k`` pixels hold ``k`` combinations of rows, whatever the interpolation; behind
    them
    there is rounding. The values of images at their own size fall slowly.
    """
    if x.ndim != 4 or not x.is_floating_point() or min(x.shape[2:]) < 12:
        return None
    found = []
    for d in (2, 3):
        values = torch.linalg.svdvals(x.double().movedim(d, 3).flatten(0, 2).cpu())
        if not float(values[0]) > 0:
            return None
        first, last = len(values) // 4, max(len(values) // 4 + 1, int(0.95 * len(values)))
        falls = values[first - 1 : last - 1] / values[first:last].clamp_min(1e-6 * values[0])
        found.append((float(falls.max()), first + int(falls.argmax())))
    return found[0], found[1]


__all__ = ["Seen", "cliffs", "seen"]
