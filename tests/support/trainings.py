"""Small trainings of every kind: several stages, parts born later, several optimizers, a bilevel step, streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore.engine import Learn, Run, Stage, Training
from kdcore.inputs import Paired


def net(seed: int, width: int = 8, *, dropout: float = 0.2) -> nn.Sequential:
    """A perceptron ``(N, 6) -> (N, 3)`` with dropout; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3))


def batches(seed: int = 0, *, shuffle: bool = False) -> DataLoader[Any]:
    """26 samples of three classes in batches of 10, 10 and 6."""
    g = torch.Generator().manual_seed(seed)
    data = TensorDataset(torch.randn(26, 6, generator=g), torch.randint(3, (26,), generator=g))
    return DataLoader(data, 10, shuffle=shuffle, generator=torch.Generator().manual_seed(seed) if shuffle else None)


class Chapters(Training):
    """Three stages: a body, then a head by a number of steps, then both with an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = net(0), nn.Sequential(nn.Dropout(0.3), nn.Linear(3, 3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.head[1].reset_parameters()
        self.data = batches(shuffle=True)

    def stages(self) -> Iterator[Stage]:
        yield Stage(name="body", data=self.data, step=self.step, epochs=2, learn=Learn(players=("body",)))
        yield Stage(
            name="head", data=self.data, step=self.step, steps=4, learn=Learn(players=("head",), optimizer="sgd")
        )
        both = {"main": Learn(players=("body",)), "head": Learn(players=("head",), optimizer="adam", scheduler="steps")}
        yield Stage(name="both", data=self.data, step=self.both, epochs=2, learn=both)

    def step(self, batch: Any, run: Run) -> Any:
        x, y = batch
        noise = 0.01 * torch.randn(x.shape, generator=run.generator)
        return {"ce": F.cross_entropy(self.head(self.body(x + noise)), y)}

    def both(self, batch: Any, run: Run) -> Any:
        x, y = batch
        run.minimize({"head": F.cross_entropy(self.head(self.body(x).detach()), y)}, "head")
        return self.step(batch, run)

    def deployed(self) -> nn.Module:
        return self.body


class Growing(Training):
    """A student, then two masks born after its stage, each with its own optimizer; a teacher that is frozen."""

    frozen = ("teacher",)

    def __init__(self, bad_at: int = -1) -> None:
        super().__init__()
        self.teacher, self.student = net(5, 16), net(0)
        self.data, self.bad_at = batches(shuffle=True), bad_at

    def stages(self) -> Iterator[Stage]:
        yield Stage(name="student", data=self.data, step=self.learn, learn=Learn(players=("student",)))
        self.masks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        each = {f"mask{i}": Learn(players=(f"masks.{i}",), optimizer="adam") for i in range(2)}
        yield Stage(name="masks", data=self.data, step=self.mask, learn=each)

    def learn(self, batch: Any, run: Run) -> Any:
        x, _ = batch
        return {"mse": F.mse_loss(self.student(x), self.teacher(x))}

    def mask(self, batch: Any, run: Run) -> None:
        x, y = batch
        for i, mask in enumerate(self.masks):
            loss = F.cross_entropy(mask(self.student(x)), y)
            bad = float("nan") if run.step == self.bad_at and i == 1 else 1.0
            run.minimize({f"mask{i}": loss * bad}, f"mask{i}")


class Peers(Training):
    """Two networks that learn side by side, an optimizer each."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.left, self.right, self.data = net(0), net(1), data

    def stages(self) -> Iterator[Stage]:
        learn = {name: Learn(players=(name,)) for name in ("left", "right")}
        yield Stage(name="peers", data=self.data, step=self.step, learn=learn)

    def step(self, batch: Any, run: Run) -> Any:
        x, y = batch
        for name in ("left", "right"):
            run.minimize({name: F.cross_entropy(getattr(self, name)(x), y)}, name)

    def deployed(self) -> nn.Module:
        return self.left


class Bilevel(Training):
    """Weights of two losses are learnt through a virtual step of the student, on validation batches."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.weight = net(1, dropout=0.0), nn.ParameterList([torch.zeros(2)])
        self.data = Paired(batches(), batches(seed=9))

    def stages(self) -> Iterator[Stage]:
        learn = {
            "main": Learn(players=("student",), optimizer=self.sgd, scheduler="constant"),
            "weight": Learn(players=("weight",), optimizer="adam", lr=0.05, scheduler="constant"),
        }
        yield Stage(name="bilevel", data=self.data, step=self.step, epochs=2, learn=learn)

    @staticmethod
    def sgd(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.1)

    def inner(self, x: Any, y: Any) -> torch.Tensor:
        losses = torch.stack([F.cross_entropy(self.student(x), y), self.student(x).square().mean()])
        return (self.weight[0].softmax(0) * losses).sum()

    def step(self, batch: Any, run: Run) -> Any:
        (x, y), (x_val, y_val) = batch
        named = dict(self.student.named_parameters())
        grads = torch.autograd.grad(self.inner(x, y), list(named.values()), create_graph=True)
        virtual = {n: p - 0.1 * g for (n, p), g in zip(named.items(), grads, strict=True)}
        answer = torch.func.functional_call(self.student, virtual, (x_val,))
        run.minimize({"val": F.cross_entropy(answer, y_val)}, "weight")
        return {"train": self.inner(x, y)}
