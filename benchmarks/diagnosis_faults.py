"""Faults that are planted in healthy pairs for :mod:`benchmarks.diagnosis_rates`, the way they happen.

A kind takes a pair and the samples to be examined and gives what :func:`kdcore.diagnose.diagnose` is called with, and
the
codes of which one must be named. Which of its variants is planted, where there are several, is drawn by the pair's
seed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.diagnose._states import batch_statistics, tracked_norms
from kdcore.functional.divergences import kd_loss, kl_with_temperature

from .diagnosis_pairs import Data, Pair, train

Change = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class Planted:
    """A faulty pair: the arguments of :func:`kdcore.diagnose.diagnose`, and the codes that name the fault."""

    teacher: nn.Module
    student: nn.Module
    data: Data
    codes: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how it is planted, and in which pairs it can be."""

    plant: Callable[[Pair, Data, np.random.Generator], Planted]
    fits: Callable[[Pair], bool]
    words: str


class Around(nn.Module):
    """A network with a change of its input before it and one of its scores behind it."""

    def __init__(self, net: nn.Module, before: Change | None = None, after: Change | None = None) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x if self.before is None else self.before(x))
        return scores if self.after is None else self.after(scores)


KINDS: dict[str, Kind] = {}


def kind(words: str, fits: Callable[[Pair], bool] = lambda pair: True) -> Callable[..., Any]:
    """Register a fault under its function's name."""

    def keep(plant: Callable[[Pair, Data, np.random.Generator], Planted]) -> Any:
        KINDS[plant.__name__] = Kind(plant, fits, words)
        return plant

    return keep


def _image(pair: Pair) -> bool:
    return pair.is_image


def _large(pair: Pair) -> bool:
    return pair.is_image and pair.train[0].shape[2] >= 12


def _coloured(pair: Pair) -> bool:
    return pair.is_coloured


def _normed(pair: Pair) -> bool:
    return bool(tracked_norms(pair.student))


def _planted(pair: Pair, examined: Data, codes: str, **given: Any) -> Planted:
    models = {role: given.pop(role, getattr(pair, role)) for role in ("teacher", "student")}
    return Planted(**models, data=given.pop("data", examined), codes=frozenset(codes.split()), options=given)


def _before(pair: Pair, data: Data, change: Change, codes: str, random: np.random.Generator) -> Planted:
    """A change of the input of one of the two, by chance."""
    role = str(random.choice(["teacher", "student"]))
    return _planted(pair, data, codes, **{role: Around(getattr(pair, role), before=change)})


# ---------------------------------------------------------------------------------------------------------------- input


@kind("one model gets BGR", _coloured)
def bgr(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    return _before(pair, data, lambda x: x.flip(1), "swapped_channels", random)


@kind("one model's input is normalised though it learnt from raw values")
def normalised(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    mean, std = data[0].mean(), data[0].std()
    return (
        _before(pair, data, lambda x: (x - mean) / std, "input_normalization_mismatch", random)
        if (pair.is_image)
        else _before(pair, data, lambda x: 4 * x, "input_normalization_mismatch", random)
    )


@kind("one model gets values of 0 to 255", _image)
def of_255(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    return _before(pair, data, lambda x: 255 * x, "input_normalization_mismatch", random)


@kind("one model's images are turned, mirrored or transposed", _image)
def turned(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    turns: list[Change] = [lambda x: x.transpose(2, 3), lambda x: x.flip(2), lambda x: x.rot90(1, (2, 3)).contiguous()]
    return _before(pair, data, turns[random.integers(3)], "input_geometry_mismatch", random)


def resized(x: Tensor, share: float, down: str, up: str) -> Tensor:
    """There and back by two interpolations."""
    size, small = x.shape[2:], [max(4, round(share * side)) for side in x.shape[2:]]
    ways: dict[str, dict[str, Any]] = {m: {"align_corners": False} for m in ("bilinear", "bicubic")}
    shrunk = F.interpolate(x, size=small, mode=down, **ways.get(down, {}))
    return F.interpolate(shrunk, size=size, mode=up, **ways.get(up, {})).clamp(0, 1)


_WAYS = (
    (0.5, "nearest", "nearest"),
    (0.5, "bilinear", "bilinear"),
    (0.5, "area", "bicubic"),
    (0.75, "nearest", "bilinear"),
    (0.75, "bilinear", "nearest"),
)


@kind("one model's images are resized by another interpolation", _large)
def interpolated(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    share, down, up = _WAYS[random.integers(len(_WAYS))]
    return _before(pair, data, lambda x: resized(x, share, down, up), "input_resolution_mismatch", random)


@kind("all images are resized by another interpolation; training samples given", _large)
def interpolated_data(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    x = resized(data[0], *_WAYS[random.integers(len(_WAYS))])
    return _planted(pair, data, "input_resolution_mismatch", data=(x, data[1]), training=pair.train)


@kind("all images are resized by another interpolation; nothing given", _large)
def interpolated_blind(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    x = resized(data[0], *_WAYS[random.integers(len(_WAYS))])
    return _planted(pair, data, "input_resolution_mismatch", data=(x, data[1]))


# --------------------------------------------------------------------------------------------------------------- labels


@kind("one model numbers the classes shifted by one")
def shifted_classes(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    role = str(random.choice(["teacher", "student"]))
    return _planted(
        pair, data, "label_permutation", **{role: Around(getattr(pair, role), after=lambda z: z.roll(1, 1))}
    )


@kind("two classes of the student are exchanged")
def exchanged_classes(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    order = torch.arange(int(data[1].max()) + 1)
    a, b = random.permutation(len(order))[:2].tolist()
    order[[a, b]] = order[[b, a]]
    return _planted(pair, data, "label_permutation", student=Around(pair.student, after=lambda z: z[:, order]))


@kind("a third of the labels is wrong")
def wrong_labels(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    classes = int(data[1].max()) + 1
    wrong = torch.from_numpy(random.random(len(data[1])) < 0.33)
    other = (data[1] + torch.from_numpy(random.integers(1, classes, len(data[1])))) % classes
    return _planted(pair, data, "label_noise", data=(data[0], torch.where(wrong, other, data[1])))


# --------------------------------------------------------------------------------------------------------------- scores


@kind("a temperature of 4 left in the student")
def temperature_4(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    return _planted(pair, data, "temperature_without_t2", student=Around(pair.student, after=lambda z: z / 4))


@kind("a temperature of 4 left twice in one model")
def temperature_16(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    role = str(random.choice(["teacher", "student"]))
    code = {"teacher": "underconfident_teacher", "student": "temperature_without_t2"}[role]
    return _planted(pair, data, code, **{role: Around(getattr(pair, role), after=lambda z: z / 16)})


@kind("the loss given divides by the temperature twice")
def loss_twice(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    t = float(random.choice([2.0, 4.0, 8.0]))
    return _planted(
        pair,
        data,
        "temperature_twice",
        loss=lambda s, teacher: kd_loss(s / t, teacher / t, temperature=t),
        settings={"temperature": t},
    )


@kind("the loss given lacks T^2")
def loss_without_t2(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    t = float(random.choice([2.0, 4.0, 8.0]))
    return _planted(
        pair,
        data,
        "temperature_without_t2",
        loss=lambda s, teacher: kl_with_temperature(s, teacher, temperature=t).mean(),
        settings={"temperature": t},
    )


@kind("one model gives log-probabilities, of z or of z/4")
def log_probabilities(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    role, t = str(random.choice(["teacher", "student"])), float(random.choice([1.0, 4.0]))
    changed = Around(getattr(pair, role), after=lambda z: (z / t).log_softmax(1))
    return _planted(pair, data, "probabilities_not_logits", **{role: changed})


@kind("one model gives probabilities")
def probabilities(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    role = str(random.choice(["teacher", "student"]))
    changed = Around(getattr(pair, role), after=lambda z: z.softmax(1))
    return _planted(pair, data, "probabilities_not_logits", **{role: changed})


@kind("the teacher is twenty times too sure")
def too_sure(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    return _planted(pair, data, "overconfident_teacher", teacher=Around(pair.teacher, after=lambda z: 20 * z))


# ----------------------------------------------------------------------------------------------------------- the sample


@kind("the data are training samples; training samples given")
def learnt_data(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    rows = torch.from_numpy(random.permutation(len(pair.train[1]))[: len(data[1])])
    return _planted(
        pair, data, "test_on_training_data", data=(pair.train[0][rows], pair.train[1][rows]), training=pair.train
    )


@kind("a tenth of the data are near copies of training samples (noise, other brightness, mirrored); these given")
def near_copies(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    x, y = data[0].clone(), data[1].clone()
    rows = torch.from_numpy(random.permutation(len(y))[: len(y) // 10])
    taken = torch.from_numpy(random.permutation(len(pair.train[1]))[: len(rows)])
    copied = pair.train[0][taken]
    noise = 0.02 * copied.std() * torch.from_numpy(random.standard_normal(tuple(copied.shape))).float()
    copied = 0.9 * copied + 0.02 + noise
    x[rows] = copied.flip(3) if pair.is_image and random.random() < 0.3 else copied
    y[rows] = pair.train[1][taken]
    return _planted(pair, data, "test_on_training_data", data=(x, y), training=pair.train)


# ------------------------------------------------------------------------------------------------------------- training


@kind("the student was trained for 24 steps; its history given")
def too_short(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student = pair.make()
    few = tuple(part[: 24 * 32] for part in pair.train)
    result = train(student, (few[0], few[1]), int(random.integers(2**31)), epochs=1, batch_size=32, exact=True, lr=1e-3)
    return _planted(pair, data, "trained_too_little", student=student.eval(), history=result)


@kind("the student was never trained")
def never_trained(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    return _planted(pair, data, "untrained_student", student=pair.make().eval())


@kind("the student learnt from 40 samples")
def few_samples(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student = pair.make()
    rows = torch.from_numpy(random.permutation(len(pair.train[1]))[:40])
    few = (pair.train[0][rows], pair.train[1][rows])
    train(student, few, int(random.integers(2**31)), epochs=150, batch_size=20, exact=True)
    return _planted(pair, data, "overfitted_student underfitted_student", student=student.eval())


@kind("the student never saw one class")
def unseen_class(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student, gone = pair.make(), int(random.integers(int(data[1].max()) + 1))
    seen = pair.train[1] != gone
    train(student, (pair.train[0][seen], pair.train[1][seen]), int(random.integers(2**31)))
    return _planted(pair, data, "missing_class", student=student.eval())


# ------------------------------------------------------------------------------------------------------ state and
# weights


@kind("the student came in train mode", _normed)
def train_mode(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    return _planted(pair, data, "batch_norm_train_mode", student=copy.deepcopy(pair.student).train())


@kind("running statistics reset", _normed)
def reset_statistics(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student = copy.deepcopy(pair.student)
    for norm in tracked_norms(student):
        norm.reset_running_stats()  # type: ignore[operator]
    return _planted(pair, data, "batch_norm_statistics", student=student)


@kind("running statistics of other data (dark, inverted)", _normed)
def drifted_statistics(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student = copy.deepcopy(pair.student)
    other = 0.3 * (1 - data[0])
    with torch.no_grad(), batch_statistics(student):
        for norm in tracked_norms(student):
            norm.momentum = 0.3  # type: ignore[assignment]
        for part in other.split(64):
            student(part)
    return _planted(pair, data, "batch_norm_statistics", student=student.eval())


@kind("dropout that ignores eval, before the last scores of the teacher")
def dropout(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    noisy = Around(pair.teacher, after=lambda z: F.dropout(z, 0.3, training=True))
    return _planted(pair, data, "dropout_active", teacher=noisy)


def _last(model: nn.Module) -> nn.Linear:
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1]


@kind("the bias of one class damaged")
def damaged_bias(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student = copy.deepcopy(pair.student)
    spread = float(student(data[0][:128]).detach().std())
    last = _last(student)
    last.bias.data[int(random.integers(len(last.bias)))] += 3 * spread
    return _planted(pair, data, "class_bias", student=student)


@kind("the last layer of another network")
def other_head(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student = copy.deepcopy(pair.student)
    weight = _last(student).weight
    weight.data = weight.data[:, torch.from_numpy(random.permutation(weight.shape[1]))]
    return _planted(pair, data, "head_mismatch", student=student)


@kind("a layer of zeros")
def dead_layer(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student = copy.deepcopy(pair.student)
    layers = [m for m in student.modules() if isinstance(m, nn.Conv2d | nn.Linear)][:-1]
    layers[-1 if len(layers) == 1 else len(layers) // 2].weight.data.zero_()
    return _planted(pair, data, "dead_stage zeroed_weights", student=student)


@kind("one weight a thousand times too large")
def wild_weight(pair: Pair, data: Data, random: np.random.Generator) -> Planted:
    student = copy.deepcopy(pair.student)
    layers = [m for m in student.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.weight.numel() >= 64]
    weight = layers[int(random.integers(len(layers)))].weight
    weight.data.view(-1)[int(random.integers(weight.numel()))] = 2000 * float(weight.detach().abs().median())
    return _planted(pair, data, "outlier_weights", student=student)
