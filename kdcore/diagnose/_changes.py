"""Changes of a model's input that are tried on it: normalisations, geometry, size, channels, colours, scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inputs import Normalize
from ._pair import Net, Transform, is_unit
from ._sample import Sample

STATISTICS: dict[int, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    3: {
        "the ImageNet mean and standard deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "the CIFAR-10 mean and standard deviation": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "the range -1 to 1": ((0.5,), (0.5,)),
    },
    1: {"the MNIST mean and standard deviation": ((0.1307,), (0.3081,)), "the range -1 to 1": ((0.5,), (0.5,))},
}


@dataclass(frozen=True)
class Change:
    """A candidate: a function of the loader's input that takes the place of the model's own transform."""

    code: str
    words: str
    apply: Transform


def _channels(x: Tensor) -> Tensor:
    """Smallest and largest value per channel, ``(2, C)``."""
    flat = x.transpose(0, 1).flatten(1)
    return torch.stack([flat.min(1).values, flat.max(1).values])


def _affine(scale: float | Tensor, shift: float | Tensor) -> Transform:
    return lambda x: x * torch.as_tensor(scale).to(x) + torch.as_tensor(shift).to(x)


def _per_channel(x: Tensor, values: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _undo(norm: Normalize) -> Transform:
    return lambda x: x * _per_channel(x, norm.std.to(x)) + _per_channel(x, norm.mean.to(x))


def chain(first: Transform, second: Transform) -> Transform:
    return lambda x: second(first(x))


def _normalisations(net: Net, other: Net, x: Tensor) -> Iterator[tuple[str, Transform]]:
    """Other scalings of the input, with what they are."""
    low, high = float(x.min()), float(x.max())
    unit = nn.Identity() if is_unit(x) else _affine(1 / max(high - low, 1e-12), -low / max(high - low, 1e-12))
    yield "the input as the loader gives it", nn.Identity()
    if not isinstance(net.stated, nn.Identity):
        yield (
            "the normalisation its configuration states",
            chain(unit, net.stated.cpu() if not x.is_cuda else net.stated),
        )
    yield f"the input that the {other.role} gets", other.transform
    if not is_unit(x):
        yield "values scaled back to 0 to 1", unit
        ends = _channels(x)
        span = (ends[1] - ends[0]).clamp_min(1e-12)
        yield (
            "values scaled back to 0 to 1 per channel",
            _affine(_per_channel(x, 1 / span), _per_channel(x, -ends[0] / span)),
        )
    for words, (mean, std) in STATISTICS.get(x.shape[1], STATISTICS[1] if x.ndim == 4 else {}).items():
        if len(mean) in (1, x.shape[1]):
            yield words, chain(unit, Normalize(mean, std))
            yield f"{words} taken back", _undo(Normalize(mean, std))
    flat = x.transpose(0, 1).flatten(1)
    mean_, std_ = flat.mean(1), flat.std(1).clamp_min(1e-6)
    yield (
        "the data's own mean and standard deviation",
        _affine(_per_channel(x, 1 / std_), _per_channel(x, -mean_ / std_)),
    )
    yield (
        "a normalisation by the data's own mean and standard deviation taken back",
        _affine(_per_channel(x, std_), _per_channel(x, mean_)),
    )
    yield "values of 0 to 255", chain(unit, _affine(255.0, 0.0))
    yield "values divided by 255", _affine(1 / 255, 0.0)
    yield "dark and light exchanged", _affine(-1.0, low + high)


def _geometries(x: Tensor) -> Iterator[tuple[str, Transform]]:
    yield "the image mirrored", lambda x: x.flip(3)
    yield "the image upside down", lambda x: x.flip(2)
    yield "the image turned by 180 degrees", lambda x: x.flip((2, 3))
    if x.shape[2] == x.shape[3]:
        yield "rows and columns exchanged", lambda x: x.transpose(2, 3).contiguous()
        yield "the image turned by 90 degrees", lambda x: x.rot90(1, (2, 3)).contiguous()
        yield "the image turned by 270 degrees", lambda x: x.rot90(3, (2, 3)).contiguous()


def _orders(x: Tensor) -> Iterator[tuple[str, Transform]]:
    channels = x.shape[1]
    orders = list(permutations(range(3)))[1:] if channels == 3 else [tuple(reversed(range(channels)))]
    for order in orders:
        name = "".join("RGB"[c] for c in order) if channels == 3 else "reversed"
        yield f"the channels in the order {name}", partial(torch.index_select, dim=1, index=torch.tensor(order))


def greys(x: Tensor) -> Tensor:
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601, as PIL
    return (x * weights).sum(1, keepdim=True).expand_as(x).contiguous()


def _means(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).expand_as(x).contiguous()


def _coarse(x: Tensor) -> Tensor:
    """Halved and doubled again: what a smaller copy of the image holds."""
    return _resize(_resize(x, (max(1, x.shape[2] // 2), max(1, x.shape[3] // 2))), (x.shape[2], x.shape[3]))


def _soft(x: Tensor) -> Tensor:
    """Each pixel with its neighbours, binomially weighted over 5 x 5."""
    row = x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (row[:, None] * row).expand(x.shape[1], 1, 5, 5).contiguous()
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=x.shape[1])


def _sharper(x: Tensor, by: float) -> Tensor:
    """Fine detail made stronger: what a smoother interpolation than in training took away."""
    return x + by * (x - _soft(x))


def _smoother(x: Tensor) -> Tensor:
    """The steps of a nearest-neighbour interpolation taken out, the rest as sharp as before."""
    return _sharper(_soft(x), 2.0)


def _blocks(x: Tensor) -> Tensor:
    """As if doubled by its nearest neighbours."""
    small = F.avg_pool2d(x, 2, ceil_mode=True)
    return small.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, : x.shape[2], : x.shape[3]].contiguous()


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)


def _closer(x: Tensor, share: float) -> Tensor:
    """The middle, scaled up to the whole."""
    size, cut = x.shape[2:], [round(side * (1 - share) / 2) for side in x.shape[2:]]
    return _resize(x[:, :, cut[0] : size[0] - cut[0], cut[1] : size[1] - cut[1]], (size[0], size[1]))


def _farther(x: Tensor, share: float) -> Tensor:
    """The whole, scaled down, amid its mean colour."""
    height, width = round(x.shape[2] * share), round(x.shape[3] * share)
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    canvas = x.mean((2, 3), keepdim=True).expand_as(x).clone()
    canvas[:, :, top : top + height, left : left + width] = _resize(x, (height, width))
    return canvas


def _sizes(x: Tensor) -> Iterator[tuple[str, Transform]]:
    if min(x.shape[2:]) < 8:
        return
    yield "the image blurred (halved and doubled again)", _coarse
    yield "the image sharpened", partial(_sharper, by=1.0)
    yield "the image sharpened strongly", partial(_sharper, by=2.0)
    yield "the image smoothed and sharpened again (steps between its pixels taken out)", _smoother
    yield "the image in blocks of 2 x 2 pixels (halved, then doubled by its nearest pixels)", _blocks
    yield "the middle of the image scaled up (7/8 of the side)", partial(_closer, share=7 / 8)
    yield "the middle of the image scaled up (half of the side)", partial(_closer, share=0.5)
    yield "the image scaled down to half amid its mean colour", partial(_farther, share=0.5)
    yield "the image scaled down to 7/8 amid its mean colour", partial(_farther, share=7 / 8)


def _canvases(x: Tensor) -> Iterator[tuple[str, Transform]]:
    """Other sizes of the tensor itself; a model may refuse them."""
    height, width = x.shape[2:]
    for words, factor in (("half", 0.5), ("double", 2.0)):
        size = round(height * factor), round(width * factor)
        if min(size) >= 8 and max(size) <= 256:
            yield f"the image at {words} its size ({size[0]} x {size[1]} pixels)", partial(_resize, size=size)


def candidates(net: Net, other: Net, sample: Sample) -> list[Change]:
    """Every change of the input that is tried on a model, without those that change nothing or repeat another."""
    x = sample.x
    if not x.is_floating_point() or x.ndim < 2:
        return []
    found = [Change("input_normalization_mismatch", words, change) for words, change in _normalisations(net, other, x)]
    if sample.is_image:
        found += [
            Change("input_geometry_mismatch", words, chain(change, net.transform)) for words, change in _geometries(x)
        ]
        found += [
            Change("input_resolution_mismatch", words, chain(change, net.transform)) for words, change in _sizes(x)
        ]
        if x.shape[1] > 1:
            found += [Change("swapped_channels", words, chain(change, net.transform)) for words, change in _orders(x)]
        if x.shape[1] == 3:
            found += [
                Change("colour_mismatch", f"the colours taken away ({words})", chain(change, net.transform))
                for words, change in (("by their brightness", greys), ("by their mean", _means))
            ]
    return _distinct(found, net, x[:2])


def canvases(net: Net, sample: Sample) -> list[Change]:
    """The image at half and double its size, as far as the model takes it."""
    if not sample.is_image:
        return []
    found = []
    for words, change in _canvases(sample.x):
        whole = chain(change, net.transform)
        try:
            net.logits(sample.x[:2], whole)
        except (RuntimeError, ValueError, AssertionError, IndexError):
            continue  # a network for one size only: nothing to ask
        found.append(Change("input_resolution_mismatch", words, whole))
    return found


def scalings(net: Net, sample: Sample) -> list[Change]:
    """A grid of scales and offsets of the model's input, in units of its own mean and spread."""
    x = net.transform(sample.x.to(net.device)).cpu()
    mean, spread = float(x.mean()), float(x.std())
    found = []
    for scale in (1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 16.0):
        for offset in (-1.0, 0.0, 1.0):
            change = _affine(scale, mean + offset * spread - scale * mean)
            found.append(
                Change(
                    "input_normalization_mismatch",
                    f"an input {scale:g} times as strong, shifted by {offset:g} standard deviations",
                    chain(net.transform, change),
                )
            )
    return _distinct(found, net, sample.x[:2])


def _distinct(found: list[Change], net: Net, x: Tensor) -> list[Change]:
    seen, kept = [net.transform(x.to(net.device)).cpu()], []
    for change in found:
        value = change.apply(x.to(net.device)).cpu()
        if not any(value.shape == s.shape and torch.allclose(value, s, rtol=1e-4, atol=1e-5) for s in seen):
            seen.append(value)
            kept.append(change)
    return kept
