r"""Mixed samples: Beta draws, pairs, whole and partial mixup, soft targets, boxes (CutMix), image statistics.

All mixing is :math:`\tilde x_n = \lambda_n x_{i_n} + (1 - \lambda_n) x_{j_n}` with coefficients and index vectors that
are arguments: what is random is drawn before, from a ``torch.Generator``, and the rest is a plain function.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import (
    check_choice,
    check_fraction,
    check_labels,
    check_positive,
    check_probabilities,
    describe,
    names_arguments,
)
from .reductions import at_least_float32, reduce


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """In (0, 1], float64, on the generator's device: its logarithm is finite."""
    device = generator.device if generator is not None else torch.device("cpu")
    return 1 - torch.rand(shape, generator=generator, dtype=torch.float64, device=device)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=device)


def _log_gamma_draws(n: int, shape: float, generator: torch.Generator | None) -> Tensor:
    """Logarithms of gamma variates (a draw of shape 0.01 underflows itself).

    Marsaglia and Tsang 2000: ``d (1 + c z)^3`` accepted with a probability above 0.95, drawn again where refused; below
    shape 1 a draw of shape + 1 is multiplied by ``u^(1 / shape)``.
    """
    boosted = shape if shape >= 1 else shape + 1
    d = boosted - 1 / 3
    c = 1 / math.sqrt(9 * d)
    parts: list[Tensor] = []
    missing = n
    while missing > 0:
        tries = (missing + missing // 8 + 4,)
        z, u = _normal(tries, generator), _uniform(tries, generator)
        cubed = (1 + c * z).clamp_min(0) ** 3
        log_v = cubed.log()
        accepted = (cubed > 0) & (u.log() < 0.5 * z.square() + d * (1 - cubed + log_v))
        parts.append((log_v + math.log(d))[accepted][:missing])
        missing -= len(parts[-1])
    draws = torch.cat(parts) if parts else _normal((0,), generator)
    if shape < 1:
        draws = draws + _uniform((n,), generator).log() / shape
    return draws


def beta_draws(
    n: int,
    alpha: float,
    beta: float | None = None,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``n`` independent draws of Beta(alpha, beta) that depend on nothing but the generator.

    ``torch.distributions.Beta`` takes no generator. Here ``x / (x + y)`` of two gamma variates is taken with
    logarithms, so that Beta(0.01, 0.01) gives coins and not 0 / 0.

    Args:
        n: how many, >= 0.
        alpha: > 0. beta: > 0; ``None`` for ``alpha`` again.
        generator: source; ``None`` takes torch's global one. The draws are on its device.
        dtype: of the result; default float32.

    Raises:
        ValueError: a parameter not above zero, ``n`` negative.

    Reference:
        Marsaglia and Tsang 2000, "A simple method for generating gamma variables", ACM TOMS 26(3).
    """
    beta = alpha if beta is None else beta
    check_positive("alpha", alpha)
    check_positive("beta", beta)
    if n < 0:
        raise ValueError(f"n must be >= 0, got {n!r}.")
    return torch.sigmoid(_log_gamma_draws(n, alpha, generator) - _log_gamma_draws(n, beta, generator)).to(dtype)


def permutation(n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """A random order of ``n`` samples: ``(n,)`` int64 on the generator's device."""
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.randperm(n, generator=generator, device=device)


@names_arguments
def one_hot_targets(labels: Tensor, num_classes: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Labels as probabilities; soft labels are passed through.

    Args:
        labels: ``(N,)`` integers in [0, C), or floating ``(N, C)``, returned as they are.
        num_classes: C.
        dtype: of the one-hot rows; default float32.

    Raises:
        ValueError: shape, or a label out of range. TypeError: labels of another kind.
    """
    if isinstance(labels, Tensor) and labels.is_floating_point():
        if labels.ndim != 2 or labels.shape[1] != num_classes:
            raise ValueError(f"labels must be int64 (N,) or floating (N, {num_classes}), got {describe(labels)}.")
        return labels
    return F.one_hot(check_labels(labels, len(labels), num_classes), num_classes).to(dtype)


@names_arguments
def mix_pairs(x: Tensor, first: Tensor, second: Tensor, lam: Tensor | float) -> Tensor:
    """``lam * x[first] + (1 - lam) * x[second]``, sample by sample.

    Args:
        x: ``(N, ...)`` floating: images, tokens, targets, logits.
        first, second: ``(M,)`` int64 rows of ``x``.
        lam: ``(M,)`` or one number, in [0, 1]; the weight of ``first``.

    Returns:
        ``(M, ...)`` in the dtype of ``x``.

    Raises:
        ValueError: shapes, indices or coefficients out of range, ``x`` not floating.
    """
    if not isinstance(x, Tensor) or x.ndim < 1 or not x.is_floating_point():
        raise ValueError(f"x must be floating (N, ...), got {describe(x)}.")
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"first and second must both be (M,), got {describe(first)} and {describe(second)}.")
    for name, index in (("first", first), ("second", second)):
        if index.is_floating_point() or bool(((index < 0) | (index >= len(x))).any()):
            raise ValueError(f"{name} must hold rows in [0, {len(x)}), got {describe(index)}.")
    weight = torch.as_tensor(lam, dtype=x.dtype, device=x.device)
    if weight.ndim > 1 or (weight.ndim == 1 and weight.shape != first.shape):
        raise ValueError(f"lam must be one number or ({len(first)},), got {describe(weight)}.")
    if bool(((weight < 0) | (weight > 1)).any()) or bool(weight.isnan().any()):
        raise ValueError(f"lam must be in [0, 1], got {float(weight.min())} .. {float(weight.max())}.")
    weight = weight.reshape(-1, *[1] * (x.ndim - 1)) if weight.ndim else weight
    first, second = first.to(x.device), second.to(x.device)
    return weight * x[first] + (1 - weight) * x[second]


@names_arguments
def mixup_pairs(
    inputs: Tensor, labels: Tensor, *, perm1: Tensor, perm2: Tensor, lam: Tensor | float, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Mixed inputs and mixed targets of the same pairs.

    Args:
        inputs: ``(N, ...)`` floating.
        labels: ``(N,)`` integers in [0, C), or floating ``(N, C)``.
        perm1, perm2: ``(N,)`` int64, the two members of every pair.
        lam: ``(N,)`` or one number, the weight of the first.
        num_classes: C.

    Returns:
        ``(inputs (N, ...), targets (N, C))``; rows of targets sum to 1, and are never in half precision.

    Raises:
        ValueError: shapes, indices, coefficients or labels out of range, soft labels that are no probabilities.

    Reference:
        "mixup: Beyond Empirical Risk Minimization" (Zhang et al., 2018), arXiv:1710.09412; pairs of two permutations:
        official code hchoi71/MIX-KD.
    """
    if len(labels) != len(inputs):
        raise ValueError(f"labels must hold {len(inputs)} samples like inputs, got {describe(labels)}.")
    for name, index in (("perm1", perm1), ("perm2", perm2)):
        if index.shape != (len(inputs),):
            raise ValueError(f"{name} must be ({len(inputs)},), a row for every sample, got {describe(index)}.")
    targets = one_hot_targets(labels, num_classes, dtype=at_least_float32(inputs).dtype)
    if labels.is_floating_point():
        check_probabilities("labels", labels)
    return mix_pairs(inputs, perm1, perm2, lam), mix_pairs(targets, perm1, perm2, lam)


#: How :func:`partial_mixup` chooses what stays as it is.
SAMPLINGS = ("exact", "with_replacement")


class MixedBatch(NamedTuple):
    """A mixed batch and what it was made of.

    Attributes:
        inputs: ``(N, ...)``; targets: ``(N, C)``; lam: ``(N,)`` weight of the first member, 1 where nothing is mixed;
        perm1, perm2: ``(N,)`` rows of the batch.
    """

    inputs: Tensor
    targets: Tensor
    lam: Tensor
    perm1: Tensor
    perm2: Tensor


def _check_batch(inputs: Tensor, labels: Tensor, num_classes: int, beta: float) -> None:
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or len(inputs) < 2 or not inputs.is_floating_point():
        raise ValueError(f"inputs must be floating (N, ...) with two samples or more to mix, got {describe(inputs)}.")
    check_positive("beta", beta)
    one_hot_targets(labels, num_classes)


def _draw(
    inputs: Tensor,
    labels: Tensor,
    num_classes: int,
    beta: float,
    share: float,
    sampling: str,
    g: torch.Generator | None,
) -> MixedBatch:
    n = len(inputs)
    perm1, perm2 = permutation(n, generator=g), permutation(n, generator=g)
    lam = beta_draws(n, beta, generator=g, dtype=inputs.dtype)
    kept = n - round(share * n) if sampling == "exact" else int((1 - share) * n)
    if sampling == "exact":
        still = permutation(n, generator=g)[:kept]
    else:
        still = torch.randint(n, (kept,), generator=g, device=lam.device)
    lam = lam.index_fill(0, still, 1.0)
    perm1, perm2, lam = (v.to(inputs.device) for v in (perm1, perm2, lam))
    mixed = mixup_pairs(inputs, labels, perm1=perm1, perm2=perm2, lam=lam, num_classes=num_classes)
    return MixedBatch(*mixed, lam, perm1, perm2)


@names_arguments
def full_mixup(
    inputs: Tensor, labels: Tensor, *, num_classes: int, beta: float = 1.0, generator: torch.Generator | None = None
) -> MixedBatch:
    """Every sample of a batch is mixed with another: two random permutations, one coefficient per sample.

    Args:
        inputs: ``(N, ...)`` floating, N >= 2. labels: ``(N,)`` integers in [0, C), or ``(N, C)`` probabilities.
        num_classes: C.
        beta: coefficients are drawn from Beta(beta, beta); default 1 (official; the paper also tries 0.2 and 0.4).
        generator: of all draws; the same state gives the same batch.

    Raises:
        ValueError: fewer than two samples, ``beta`` not above zero, labels that are no classes.

    Reference:
        arXiv:2211.03946, FMU; official code hchoi71/MIX-KD.
    """
    _check_batch(inputs, labels, num_classes, beta)
    return _draw(inputs, labels, num_classes, beta, 1.0, "exact", generator)


@names_arguments
def partial_mixup(
    inputs: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    mix_fraction: float = 0.1,
    beta: float = 1.0,
    sampling: str = "exact",
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """A share of the batch is mixed, the rest stays as it is (``lam = 1``).

    Args:
        inputs: ``(N, ...)`` floating, N >= 2; labels: ``(N,)`` integers in [0, C), or ``(N, C)`` probabilities.
        num_classes, beta, generator: as for :func:`full_mixup`.
        mix_fraction: share that is mixed; default 0.1, the paper's best.
        sampling: ``"exact"``: that share, rounded to whole samples. ``"with_replacement"``: as the released code, which
            draws ``int((1 - mix_fraction) N)`` samples to leave alone *with* replacement: at 0.1 only about 59.5 % stay
            unmixed.

    Raises:
        ValueError: as :func:`full_mixup`; ``mix_fraction`` outside [0, 1], unknown sampling.

    Reference:
        arXiv:2211.03946, PMU; official code hchoi71/MIX-KD (``partmixup``).
    """
    _check_batch(inputs, labels, num_classes, beta)
    check_fraction("mix_fraction", mix_fraction)
    check_choice("sampling", sampling, SAMPLINGS)
    return _draw(inputs, labels, num_classes, beta, mix_fraction, sampling, generator)


@names_arguments
def mixup_cross_entropy(
    logits: Tensor, labels_a: Tensor, labels_b: Tensor, lam: Tensor | float, *, reduction: str = "mean"
) -> Tensor:
    """``(1 - lam) CE(y_a) + lam CE(y_b)`` per sample. Mind the order: here ``lam`` weighs the *second* label.

    Args:
        logits: ``(N, C)``. labels_a, labels_b: ``(N,)`` integers in [0, C). lam: ``(N,)`` or one number, in [0, 1].
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: shapes, labels or coefficients out of range. TypeError: labels that are not integers.

    Reference:
        The convention of kornia's ``RandomMixUpV2`` and of "Online Prototype Learning" (Wei et al., 2023),
        arXiv:2308.00301.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating (N, C), got {describe(logits)}.")
    z = at_least_float32(logits)
    weight = torch.as_tensor(lam, dtype=z.dtype, device=z.device)
    if weight.ndim and weight.shape != (len(z),):
        raise ValueError(f"lam must be one number or ({len(z)},), got {describe(weight)}.")
    if bool(((weight < 0) | (weight > 1)).any()):
        raise ValueError(f"lam must be in [0, 1], got {float(weight.min())} .. {float(weight.max())}.")
    a, b = (F.cross_entropy(z, check_labels(y, *z.shape), reduction="none") for y in (labels_a, labels_b))
    return reduce((1 - weight) * a + weight * b, reduction)


#: ``(top, left, bottom, right)``, half open.
Box = tuple[int, int, int, int]


def cutmix_box(height: int, width: int, lam: float, *, generator: torch.Generator | None = None) -> Box:
    """A random box that covers a share ``1 - lam`` of the image, cut at its borders.

    Args:
        height, width: of the image, >= 1.
        lam: share that is to be kept, in [0, 1]; sides are ``sqrt(1 - lam)`` of the image's, rounded down.
        generator: source of the centre, which may lie anywhere in the image.

    Returns:
        ``(top, left, bottom, right)``; after cutting, the kept share is :func:`kept_share`.

    Raises:
        ValueError: sizes or ``lam`` out of range.

    Reference:
        "CutMix" (Yun et al., 2019), arXiv:1905.04899, section 3.1.
    """
    check_fraction("lam", lam)
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height!r} and {width!r}.")
    share = math.sqrt(1 - lam)
    spot = 1 - _uniform((2,), generator)  # in [0, 1)
    edges = []
    for size, at in ((height, float(spot[0])), (width, float(spot[1]))):
        half, centre = int(size * share) // 2, int(at * size)
        edges.append((max(centre - half, 0), min(centre + half, size)))
    if lam == 0:  # nothing is kept: the whole image, wherever the centre fell
        edges = [(0, height), (0, width)]
    (top, bottom), (left, right) = edges
    return top, left, bottom, right


def kept_share(box: Box, height: int, width: int) -> float:
    """Share of the image outside ``box``: the weight of its own label after :func:`cutmix`."""
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / (height * width)


@names_arguments
def cutmix(images: Tensor, partners: Tensor, box: Box) -> Tensor:
    """``images`` with the box of ``images[partners]`` pasted in; the inputs are left as they are.

    Args:
        images: ``(N, C, H, W)``. partners: ``(N,)`` int64. box: ``(top, left, bottom, right)``.

    Raises:
        ValueError: shapes, or a box outside the image.

    Reference:
        arXiv:1905.04899, equation 1.
    """
    if images.ndim != 4 or partners.shape != (len(images),):
        raise ValueError(
            f"images must be (N, C, H, W) and partners (N,), got {describe(images)} and {describe(partners)}."
        )
    top, left, bottom, right = box
    if not (0 <= top <= bottom <= images.shape[2] and 0 <= left <= right <= images.shape[3]):
        raise ValueError(f"box must lie inside {tuple(images.shape[2:])}, got {box}.")
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners.to(images.device), :, top:bottom, left:right]
    return mixed


@names_arguments
def mix_distribution(
    images: Tensor,
    *,
    alpha: float = 0.1,
    p: float = 1.0,
    mode: str = "random",
    eps: float = 1e-6,
    mixing: Tensor | None = None,
    permutation: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images whose mean and spread per channel are moved toward another image's: new style, same content.

    ``(x - mu) / sig * (lam sig + (1 - lam) sig') + lam mu + (1 - lam) mu'`` with mean and unbiased variance over
    pixels, ``sig = sqrt(var + eps)``, both constants.

    Args:
        images: ``(N, C, H, W)``, at least two pixels.
        alpha: ``lam ~ Beta(alpha, alpha)`` per image; default 0.1.
        p: chance that the batch is mixed at all; default 1.
        mode: ``"random"``: any partner; ``"crossdomain"``: partners of the other half of the batch.
        eps: default 1e-6.
        mixing: ``(N,)`` coefficients instead of draws. permutation: ``(N,)`` partners instead of draws.
        generator: source of what is drawn.

    Returns:
        ``(N, C, H, W)``.

    Raises:
        ValueError: shapes, ``alpha``, ``eps`` not above zero, ``p`` outside [0, 1], unknown mode.

    Reference:
        "Domain Generalization with MixStyle" (Zhou et al., 2021), arXiv:2104.02008, on images.
    """
    if images.ndim != 4 or not images.is_floating_point() or images.shape[2] * images.shape[3] < 2:
        raise ValueError(f"images must be floating (N, C, H, W) with two pixels or more, got {describe(images)}.")
    check_positive("alpha", alpha)
    check_positive("eps", eps)
    check_fraction("p", p)
    check_choice("mode", mode, ("random", "crossdomain"))
    n = len(images)
    if p < 1 and float(_uniform((), generator)) > p:
        return images
    if mixing is None:
        mixing = beta_draws(n, alpha, generator=generator, dtype=torch.float64)
    if permutation is None:
        permutation = _partners(n, mode, generator)
    if mixing.shape != (n,) or permutation.shape != (n,):
        raise ValueError(f"mixing and permutation must be ({n},), got {describe(mixing)} and {describe(permutation)}.")
    x = at_least_float32(images)
    mean, spread = x.detach().mean((2, 3), keepdim=True), (x.detach().var((2, 3), keepdim=True) + eps).sqrt()
    lam, other = mixing.to(x).view(-1, 1, 1, 1), permutation.to(x.device)
    new_mean, new_spread = (lam * v + (1 - lam) * v[other] for v in (mean, spread))
    return ((x - mean) / spread * new_spread + new_mean).to(images.dtype)


def _partners(n: int, mode: str, generator: torch.Generator | None) -> Tensor:
    if mode == "random":
        return permutation(n, generator=generator)
    half = n // 2
    return torch.cat([half + permutation(n - half, generator=generator), permutation(half, generator=generator)])


__all__ = [
    "SAMPLINGS",
    "Box",
    "MixedBatch",
    "beta_draws",
    "cutmix",
    "cutmix_box",
    "full_mixup",
    "kept_share",
    "mix_distribution",
    "mix_pairs",
    "mixup_cross_entropy",
    "mixup_pairs",
    "one_hot_targets",
    "partial_mixup",
    "permutation",
]
