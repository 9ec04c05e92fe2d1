"""The exam: pairs with one planted fault each, which must be named among the first three findings, and healthy pairs,
which must raise no alarm. Faults are planted the way they happen, on real digits (grey, and coloured so that the order
of the channels matters)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from kdcore.diagnose import ALARM, diagnose
from kdcore.functional.divergences import kd_loss, kl_with_temperature
from kdcore.inputs import Normalize
from kdcore.models import MLP, ConvNet, SmallViT

QUICK: dict[str, Any] = {"bootstrap": 20, "mask_ratios": (0.3,), "mask_samples": 24, "occlusion_images": 2}
Data = tuple[Tensor, Tensor]


# ------------------------------------------------------------------------------------------------------ data and models


@cache
def grey() -> tuple[Data, Data]:
    bunch = load_digits()
    x = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32) / 16).unsqueeze(1)
    y = torch.from_numpy(np.asarray(bunch.target)).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    return (x[order[:1200]], y[order[:1200]]), (x[order[1200:]], y[order[1200:]])


@cache
def colour() -> tuple[Data, Data]:
    """Digits modulo 5 in red or blue: ten classes, the second half of them blue."""
    found = []
    for (x, y), seed in zip(grey(), (2, 3), strict=True):
        blue = torch.rand(len(x), generator=torch.Generator().manual_seed(seed)) < 0.5
        tint = torch.tensor([[1.0, 0.3, 0.1], [0.1, 0.3, 1.0]])[blue.long()][:, :, None, None]
        found.append((x * tint, y % 5 + 5 * blue.long()))
    return found[0], found[1]


def fit(
    model: nn.Module,
    data: Data,
    *,
    epochs: int = 8,
    lr: float = 3e-3,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Adam on the parameters that ask for a gradient; ``loss(logits, labels, x)``, cross-entropy by default."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    x, y = data
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            logits = model(x[rows])
            value = F.cross_entropy(logits, y[rows]) if loss is None else loss(logits, y[rows], x[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return model.eval()


def net(widths: tuple[int, ...], channels: int = 1, seed: int = 0) -> ConvNet:
    torch.manual_seed(seed)
    return ConvNet(widths, 10, in_channels=channels)


@cache
def _teacher(kind: str) -> nn.Module:
    return fit(net((24, 48, 64), 3 if kind == "colour" else 1), (colour() if kind == "colour" else grey())[0])


@cache
def _student(kind: str) -> nn.Module:
    return fit(net((8, 16, 32), 3 if kind == "colour" else 1, seed=1), (colour() if kind == "colour" else grey())[0])


def pair(kind: str = "grey") -> tuple[nn.Module, nn.Module, Data]:
    return copy.deepcopy(_teacher(kind)), copy.deepcopy(_student(kind)), (colour() if kind == "colour" else grey())[1]


class Wrapped(nn.Module):
    """A network between a change of its input and a change of its output."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class NeverEval(Wrapped):
    """Stays in train mode whatever is asked."""

    def train(self, mode: bool = True) -> NeverEval:
        return super().train(True)


# --------------------------------------------------------------------------------------------------------------- faults

FAULTS: dict[str, Callable[[], tuple[nn.Module, nn.Module, Any, dict[str, Any], set[str]]]] = {}


def fault(plant: Callable[..., Any]) -> Callable[..., Any]:
    FAULTS[plant.__name__] = plant
    return plant


@fault
def student_normalised_twice() -> Any:
    teacher, student, data = pair()
    return teacher, Wrapped(student, Normalize([0.3], [0.2])), data, {}, {"input_normalization_mismatch"}


@fault
def student_gets_0_to_255() -> Any:
    teacher, student, data = pair()
    return teacher, student, data, {"student_transform": lambda x: 255 * x}, {"input_normalization_mismatch"}


@fault
def loader_normalised_for_the_teacher_only() -> Any:
    _, student, (x, y) = pair("colour")
    mean, std = [0.1, 0.08, 0.1], [0.2, 0.1, 0.2]
    (train, labels), norm = colour()[0], Normalize(mean, std)
    teacher = fit(net((24, 48, 64), 3), (norm(train), labels))
    return teacher, student, (norm(x), y), {}, {"input_normalization_mismatch"}


@fault
def student_gets_bgr() -> Any:
    teacher, student, data = pair("colour")
    return teacher, Wrapped(student, lambda x: x.flip(1)), data, {}, {"swapped_channels"}


@fault
def rows_and_columns_exchanged() -> Any:
    teacher, student, data = pair()
    return teacher, Wrapped(student, lambda x: x.transpose(2, 3)), data, {}, {"input_geometry_mismatch"}


@fault
def teacher_barely_trained() -> Any:
    _, student, data = pair()
    few = tuple(part[:150] for part in grey()[0])
    return (
        fit(net((4, 4, 4)), few, epochs=3),
        student,
        data,
        {},  # type: ignore[arg-type]
        {"teacher_worse_than_student"},
    )


@fault
def student_left_in_train_mode() -> Any:
    teacher, student, data = pair()
    return teacher, student.train(), data, {}, {"batch_norm_train_mode"}


@fault
def teacher_that_cannot_be_put_in_eval() -> Any:
    teacher, student, data = pair()
    return NeverEval(teacher).eval(), student, data, {}, {"batch_norm_train_mode"}


@fault
def running_statistics_reset() -> Any:
    teacher, student, data = pair()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return teacher, student, data, {}, {"batch_norm_statistics"}


@fault
def classes_in_another_order() -> Any:
    teacher, student, data = pair()
    return teacher, Wrapped(student, after=lambda z: z.roll(3, 1)), data, {}, {"label_permutation"}


@fault
def two_classes_exchanged_in_the_teacher() -> Any:
    teacher, student, data = pair()
    order = torch.tensor([0, 1, 7, 3, 4, 5, 6, 2, 8, 9])
    return Wrapped(teacher, after=lambda z: z[:, order]), student, data, {}, {"label_permutation"}


@fault
def a_stage_of_zeros() -> Any:
    teacher, student, data = pair()
    student.stage2.conv.weight.data.zero_()
    return teacher, student, data, {}, {"dead_stage"}


@fault
def activations_that_never_fire() -> Any:
    teacher, student, data = pair()
    student.stage3.norm.bias.data.fill_(-1e3)
    return teacher, student, data, {}, {"dead_stage"}


@fault
def a_stage_at_its_initialisation() -> Any:
    teacher, _, data = pair()
    student = net((8, 16, 32), seed=1)
    for parameter in student.stage2.parameters():
        parameter.requires_grad_(False)
    fit(student, grey()[0])
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    return teacher, student, data, {}, {"frozen_stage"}


@fault
def a_stage_without_gradient() -> Any:
    teacher, student, data = pair()
    student.stage1.requires_grad_(False)
    return teacher, student, data, {}, {"frozen_stage"}


@fault
def logits_left_divided_by_the_temperature() -> Any:
    teacher, student, data = pair()
    return teacher, Wrapped(student, after=lambda z: z / 8), data, {}, {"temperature_without_t2"}


@fault
def soft_term_without_t2_in_the_history() -> Any:
    teacher = pair()[0]
    student, terms = net((8, 16, 32), seed=2), []

    def loss(logits: Tensor, labels: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher(x)
        soft = kl_with_temperature(logits, target, temperature=5.0).mean()
        terms.append({"ce": F.cross_entropy(logits, labels).item(), "kd": soft.item()})
        return 0.1 * F.cross_entropy(logits, labels) + soft

    fit(student, grey()[0], loss=loss)
    history = [
        {k: float(np.mean([t[k] for t in terms[i : i + 19]])) for k in ("ce", "kd")} for i in range(0, len(terms), 19)
    ]
    return (
        teacher,
        student,
        grey()[0],
        {"history": history, "settings": {"temperature": 5.0, "kd_weight": 1.0}},
        {"temperature_without_t2"},
    )


@fault
def soft_loss_without_t2() -> Any:
    teacher, student, data = pair()
    return (
        teacher,
        student,
        data,
        {
            "settings": {"temperature": 4.0},
            "loss": lambda s, t: F.kl_div((s / 4).log_softmax(1), (t / 4).softmax(1), reduction="batchmean"),
        },
        {"temperature_without_t2"},
    )


@fault
def softmax_at_the_end_of_the_student() -> Any:
    teacher, student, data = pair()
    return teacher, Wrapped(student, after=lambda z: z.softmax(1)), data, {}, {"probabilities_not_logits"}


@fault
def embedding_on_a_line() -> Any:
    teacher, _, data = pair()

    class Thin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.neck, self.widen = net((8, 16, 32), seed=1), nn.Linear(10, 1), nn.Linear(1, 32)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.widen(self.neck(self.body(x))))

    torch.manual_seed(3)
    return teacher, fit(Thin(), grey()[0], epochs=6), data, {}, {"collapsed_features"}


@fault
def teacher_twenty_times_too_sure() -> Any:
    teacher, student, data = pair()
    return Wrapped(teacher, after=lambda z: 20 * z), student, data, {}, {"overconfident_teacher"}


@fault
def weights_gone_to_nan() -> Any:
    teacher, student, data = pair()
    student.stage3.conv.weight.data[0, 0, 0, 0] = float("nan")
    return teacher, student, data, {}, {"non_finite"}


@fault
def student_never_saw_two_classes() -> Any:
    teacher, _, data = pair()
    x, y = grey()[0]
    seen = (y != 3) & (y != 8)
    return teacher, fit(net((8, 16, 32), seed=1), (x[seen], y[seen])), data, {}, {"missing_class"}


@fault
def labels_shuffled_in_part() -> Any:
    teacher, student, (x, y) = pair()
    noisy = y.clone()
    noisy[:250] = (noisy[:250] + torch.randint(1, 10, (250,), generator=torch.Generator().manual_seed(0))) % 10
    return teacher, student, (x, noisy), {}, {"label_noise"}


@fault
def dropout_that_ignores_eval() -> Any:
    teacher, student, data = pair()
    return Wrapped(teacher, after=lambda z: F.dropout(z, 0.3, training=True)), student, data, {}, {"dropout_active"}


@fault
def student_never_trained() -> Any:
    teacher, _, data = pair()
    return teacher, net((8, 16, 32), seed=1).eval(), data, {}, {"untrained_student"}


@fault
def teacher_checkpoint_not_loaded() -> Any:
    _, student, data = pair()
    return net((24, 48, 64), seed=9).eval(), student, data, {}, {"untrained_teacher", "teacher_worse_than_student"}


@fault
def timm_student_never_trained() -> Any:
    import timm

    teacher, _, data = pair("colour")
    torch.manual_seed(3)  # the last norm of every branch starts at zero: dead layers that are no fault of their own
    return teacher, timm.create_model("test_resnet", num_classes=10).eval(), data, {}, {"untrained_student"}


@fault
def student_made_for_grey_images() -> Any:
    teacher, _, data = pair("colour")
    x, y = colour()[0]
    return (
        teacher,
        fit(net((8, 16, 32), 3, seed=6), (x.mean(1, keepdim=True).expand_as(x), y), epochs=4),
        data,
        {},
        {"colour_mismatch"},
    )


@fault
def student_blind_to_a_channel() -> Any:
    teacher, student, data = pair("colour")
    keep = torch.tensor([0.0, 1.0, 1.0])[:, None, None]
    return teacher, Wrapped(student, lambda x: x * keep), data, {}, {"input_ignored"}


@fault
def student_made_for_the_middle_of_the_image() -> Any:
    teacher, _, data = pair()
    x, y = grey()[0]
    closer = F.interpolate(x[:, :, 2:-2, 2:-2], size=(8, 8), mode="bilinear")
    return (teacher, fit(net((8, 16, 32), seed=6), (closer, y), epochs=5), data, {}, {"input_resolution_mismatch"})


@fault
def last_bias_damaged() -> Any:
    teacher, student, data = pair()
    student.head.bias.data[3] += 12
    return teacher, student, data, {}, {"class_bias"}


@fault
def head_of_another_network() -> Any:
    teacher, student, data = pair()
    torch.manual_seed(11)
    student.head.weight.data = student.head.weight.data[:, torch.randperm(student.head.weight.shape[1])]
    return teacher, student, data, {}, {"head_mismatch"}


@fault
def four_fifths_of_the_weights_zeroed() -> Any:
    teacher, student, data = pair()
    weight = student.stage3.conv.weight.data
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.8] = 0
    return teacher, student, data, {}, {"zeroed_weights"}


@fault
def one_weight_damaged() -> Any:
    teacher, student, data = pair()
    student.stage2.conv.weight.data[0, 0, 0, 0] = 1e4
    return teacher, student, data, {}, {"outlier_weights"}


@fault
def student_trained_on_forty_samples() -> Any:
    teacher = pair()[0]
    few = tuple(part[:40] for part in grey()[0])
    return (
        teacher,
        fit(net((8, 16, 32), seed=8), few, epochs=60),
        grey()[1],
        {},  # type: ignore[arg-type]
        {"overfitted_student", "underfitted_student"},
    )


@fault
def student_too_small() -> Any:
    teacher, _, data = pair()
    torch.manual_seed(2)
    return teacher, fit(MLP((1, 8, 8), (3,), 10), grey()[0], epochs=4), data, {}, {"underfitted_student"}


@fault
def student_eight_times_too_sure() -> Any:
    teacher, student, data = pair()
    return teacher, Wrapped(student, after=lambda z: 8 * z), data, {}, {"overconfident_student"}


# -------------------------------------------------------------------------------------------------------------- healthy


def distilled() -> Any:
    teacher, _, data = pair()
    student = net((8, 16, 32), seed=4)

    def loss(logits: Tensor, labels: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher(x)
        return 0.1 * F.cross_entropy(logits, labels) + 0.9 * kd_loss(logits, target, temperature=4.0)

    return (
        teacher,
        fit(student, grey()[0], loss=loss),
        data,
        {"settings": {"temperature": 4.0}, "loss": lambda s, t: kd_loss(s, t, temperature=4.0)},
    )


def perceptron() -> Any:
    teacher, _, data = pair()
    torch.manual_seed(5)
    return teacher, fit(MLP((1, 8, 8), (32,), 10), grey()[0], epochs=15), data, {}


def transformer() -> Any:
    teacher, _, data = pair()
    torch.manual_seed(6)
    return teacher, fit(SmallViT(8, 2, 10, in_channels=1, width=32, depth=2), grey()[0], epochs=15), data, {}


def own_normalisations() -> Any:
    _, student, data = pair("colour")
    norm = Normalize([0.1, 0.08, 0.1], [0.2, 0.1, 0.2])
    train, labels = colour()[0]
    teacher = fit(net((24, 48, 64), 3), (norm(train), labels))
    return teacher, student, data, {"teacher_transform": norm}


HEALTHY: dict[str, Callable[[], Any]] = {
    "labelled": lambda: (*pair(), {}),
    "coloured": lambda: (*pair("colour"), {}),
    "distilled": distilled,
    "perceptron": perceptron,
    "transformer": transformer,
    "own normalisations": own_normalisations,
    "the model with itself": lambda: (_teacher("grey"), _teacher("grey"), grey()[1], {}),
    "without labels": lambda: (*pair()[:2], (grey()[1][0],), {}),
    "on training data": lambda: (*pair()[:2], grey()[0], {}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_named_among_the_first_three_findings(name: str) -> None:
    teacher, student, data, options, codes = FAULTS[name]()
    found = diagnose(teacher, student, data, **QUICK, **options)
    first = [f for f in found.findings[:3] if f.alarm]
    assert codes & {f.code for f in first}, f"expected {codes}\n{found}"


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_pair_raises_no_alarm(name: str) -> None:
    teacher, student, data, options = HEALTHY[name]()
    found = diagnose(teacher, student, data, **QUICK, **options)
    assert found.healthy and all(f.severity < ALARM for f in found.findings), str(found)
