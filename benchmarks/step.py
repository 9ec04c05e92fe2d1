"""A distillation step, resnet56 to resnet20, batch 64, 32 px, 100 classes, against loops written by hand.

The hand-written loop does what a careful user would write for the same objective: the teacher without gradients,
forward hooks that keep six features (three of either model), KD, cross-entropy and a penalty on the features, backward,
SGD step. Both loops see the same batches and start from the same weights; their losses are held against each other, at
every step in float64 (in float32 training amplifies round-off, so there at the first step only). With a cached
teacher the epoch is held against training the student alone.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore.cache import TeacherCache
from kdcore.distiller import Distiller, Epoch, Step
from kdcore.functional.divergences import kd_loss
from kdcore.method import CrossEntropy, Method, Needs, Signals
from kdcore.models.cifar_resnet import CifarResNet, resnet20, resnet56

from .protocol import Row, device_seconds, must_agree

TAPS = ("layer1", "layer2", "layer3")
#: Fabric's precisions and the type that autocast computes in.
PRECISIONS: dict[str, torch.dtype | None] = {
    "32-true": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}
#: By how much a first loss may differ, relative: a card sums in another order in every launch.
TOLERANCES = {
    (precision, device): small if device == "cpu" else large
    for precision, small, large in (("32-true", 1e-6, 1e-4), ("bf16-mixed", 2e-2, 2e-2), ("16-mixed", 5e-3, 5e-3))
    for device in ("cpu", "cuda")
}
_BATCH, _CLASSES, _PENALTY = 64, 100, 0.1


class SixTaps(Method):
    """KD plus the mean squared difference of three pairs of features."""

    card, name, label = CrossEntropy.card, "six_taps", "six taps"
    needs = Needs()
    student_taps = teacher_taps = TAPS

    def terms(self, s: Signals) -> dict[str, Tensor]:
        gaps = [F.mse_loss(s.student_features[n], s.teacher_features[n]) for n in TAPS]
        return {"kd": kd_loss(*s.logits), "features": _PENALTY * torch.stack(gaps).sum()}


class LogitsOnly(Method):
    """KD alone."""

    card, name, label = CrossEntropy.card, "logits_only", "logits only"

    def terms(self, s: Signals) -> dict[str, Tensor]:
        return {"kd": kd_loss(*s.logits)}


def loader(steps: int, size: int = 32) -> DataLoader:
    """Random images and labels, always in the same order."""
    g = torch.Generator().manual_seed(0)
    images = torch.rand(steps * _BATCH, 3, size, size, generator=g)
    return DataLoader(TensorDataset(images, torch.randint(_CLASSES, (len(images),), generator=g)), batch_size=_BATCH)


def networks() -> tuple[CifarResNet, CifarResNet]:
    """Teacher (eval mode) and student, randomly initialised."""
    torch.manual_seed(0)
    return resnet56(_CLASSES).eval(), resnet20(_CLASSES)


def sgd(student: nn.Module) -> torch.optim.SGD:
    """The optimizer of all candidates."""
    return torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def scaler_for(device: str, dtype: torch.dtype | None) -> torch.amp.GradScaler:
    """What keeps gradients of float16 from vanishing; does nothing for other precisions."""
    return torch.amp.GradScaler(device, enabled=dtype == torch.float16)


def by_hand(
    teacher: nn.Module,
    student: nn.Module,
    data: DataLoader,
    epochs: int,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Iterator[Tensor]:
    """Distillation with six taps, yielding the loss of every step; ``dtype``: of automatic mixed precision."""
    mixed, scaler = torch.autocast(device, dtype, enabled=dtype is not None), scaler_for(device, dtype)
    kept: dict[tuple[str, str], Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, key=(role, name): kept.__setitem__(key, out)
        )
        for role, model in (("teacher", teacher), ("student", student))
        for name in TAPS
    ]
    optimizer = sgd(student)
    for _ in range(epochs):
        student.train()
        for on_cpu, labels_on_cpu in data:
            x, labels = on_cpu.to(device), labels_on_cpu.to(device)
            with torch.no_grad(), mixed:  # inference tensors cannot be saved for the features' backward
                theirs = teacher(x).to(x.dtype)
            with mixed:
                mine = student(x).to(x.dtype)
            gaps = [F.mse_loss(kept["student", n], kept["teacher", n]) for n in TAPS]
            log_q, p = F.log_softmax(mine / 4.0, dim=1), F.softmax(theirs / 4.0, dim=1)
            loss = (
                16.0 * F.kl_div(log_q, p, reduction="batchmean")
                + _PENALTY * torch.stack(gaps).sum()
                + F.cross_entropy(mine, labels)
            )
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            yield loss.detach()
    for handle in handles:
        handle.remove()


def student_alone(
    student: nn.Module, data: DataLoader, epochs: int, device: str = "cpu", dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Cross-entropy, no teacher; yields at the end of every epoch."""
    mixed, scaler = torch.autocast(device, dtype, enabled=dtype is not None), scaler_for(device, dtype)
    optimizer = sgd(student)
    for _ in range(epochs):
        student.train()
        for on_cpu, labels in data:
            with mixed:
                logits = student(on_cpu.to(device))
            loss = F.cross_entropy(logits.float() if dtype is not None else logits, labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        yield


def distiller(
    teacher: nn.Module,
    student: nn.Module,
    method: Method,
    data: DataLoader,
    epochs: int,
    cache: TeacherCache | None = None,
    device: str = "cpu",
    precision: str = "32-true",
) -> Distiller:
    """The library's loop with the same settings."""
    return Distiller(
        teacher,
        student,
        method,
        data,
        epochs=epochs,
        optimizer=sgd(student),
        scheduler="constant",
        student_transform=nn.Identity(),
        teacher_transform=nn.Identity(),
        cache=cache,
        accelerator=device,
        precision=precision,
    )


def check_losses(steps: int = 4, size: int = 8) -> None:
    """Assert that both loops give the same losses, step by step, in float64."""
    teacher, student = (model.double() for model in networks())
    batches = list(loader(steps, size))
    data = DataLoader(
        TensorDataset(torch.cat([x for x, _ in batches]).double(), torch.cat([y for _, y in batches])),
        batch_size=_BATCH,
    )
    mine = next_epoch(distiller(copy.deepcopy(teacher), copy.deepcopy(student), SixTaps(), data, 1).run())
    theirs = torch.stack(list(by_hand(teacher, student, data, 1)))
    must_agree("losses of the two loops in float64", torch.tensor(mine, dtype=torch.float64), theirs)


def step_seconds(
    steps: int, dropped: int, device: str = "cpu", precision: str = "32-true", *, size: int = 32
) -> dict[str, float]:
    """Minimum over interleaved steps, the first ones dropped; the losses of both loops must agree."""
    teacher, student = networks()
    data, dtype = loader(steps, size), PRECISIONS[precision]
    loop = distiller(
        copy.deepcopy(teacher), copy.deepcopy(student), SixTaps(), data, 1, device=device, precision=precision
    )
    mine = (event for event in loop.run() if isinstance(event, Step))
    theirs = by_hand(teacher.to(device), student.to(device), data, 1, device, dtype)
    times: dict[str, list[float]] = {"ours": [], "by_hand": []}
    said: dict[str, Tensor] = {}
    turns = [
        ("by_hand", lambda: said.__setitem__("by_hand", next(theirs))),
        ("ours", lambda: said.__setitem__("ours", torch.tensor(next(mine).loss))),
    ]
    for number in range(steps):
        for name, turn in turns if number % 2 else turns[::-1]:
            times[name].append(device_seconds(turn, device))
        if number == 0:
            must_agree("loss of the first step", said["ours"], said["by_hand"].cpu(), TOLERANCES[precision, device])
    mine.close()
    return {name: min(values[dropped:]) for name, values in times.items()}


def next_epoch(events: Generator[Step | Epoch, None, None]) -> list[float]:
    """Run one epoch; the losses of its steps."""
    losses: list[float] = []
    for event in events:
        if isinstance(event, Epoch):
            return losses
        losses.append(event.loss)
    raise RuntimeError("the training ended before the epoch did.")


def epoch_seconds(
    steps: int, epochs: int, device: str = "cpu", precision: str = "32-true", *, size: int = 32
) -> dict[str, float]:
    """Minimum over interleaved epochs; the cached run's losses equal the uncached run's (on a CPU to the last bit)."""
    teacher, student = networks()
    data, dtype = loader(steps, size), PRECISIONS[precision]

    def run(cache: TeacherCache | None = None) -> Distiller:
        return distiller(
            teacher, copy.deepcopy(student), LogitsOnly(), data, epochs, cache, device=device, precision=precision
        )

    with tempfile.TemporaryDirectory() as folder:
        cache = TeacherCache(Path(folder) / "cache").build(
            teacher, data.dataset, batch_size=_BATCH, transform=nn.Identity(), device=device
        )
        running, cached_run = run(), run(cache)
        plain, cached = running.run(), cached_run.run()
        alone = student_alone(student.to(device), data, epochs, device, dtype)
        kept, ran = next_epoch(cached), next_epoch(plain)  # also the warm-up
        if device == "cpu" and dtype is None and kept != ran:
            raise AssertionError("the losses with a cached teacher differ from those with a running one.")
        first = torch.tensor([kept[0], ran[0]])
        must_agree("first loss with a cached teacher", first[0], first[1], TOLERANCES[precision, device])
        next(alone)
        turns = [("cached", lambda: next_epoch(cached)), ("alone", lambda: next(alone))]
        rounds = [
            {name: device_seconds(turn, device) for name, turn in (turns if number % 2 else turns[::-1])}
            for number in range(epochs - 1)
        ]
        if forwards := cached_run.result().teacher_forwards:
            raise AssertionError(f"the cached teacher was run {forwards} times.")
        for events in (plain, cached):
            events.close()
    return {name: min(r[name] for r in rounds) for name in ("cached", "alone")}


def measure(*, quick: bool = False) -> list[Row]:
    """The step with six taps, and the epoch with a cached teacher."""
    torch.set_num_threads(1)
    check_losses()
    step = step_seconds(*((3, 1) if quick else (60, 4)))
    epoch = epoch_seconds(*((2, 2) if quick else (8, 7)))
    what = f"resnet56 to resnet20, batch {_BATCH}, 32 px"
    return [
        Row(
            what=f"distillation step, {what}, 6 taps",
            against="a hand-written loop",
            goal=1.03,
            value=step["ours"] / step["by_hand"],
            detail={f"{k}_s": v for k, v in step.items()},
        ),
        Row(
            what=f"epoch with a cached teacher, {what}",
            against="the student alone, by hand",
            goal=1.05,
            value=epoch["cached"] / epoch["alone"],
            detail={f"{k}_s": v for k, v in epoch.items()},
        ),
    ]
