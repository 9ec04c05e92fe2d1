"""The study of length and direction: its arms, its measures against a loop, claims that can fail."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdcore.experiment import Comparison
from kdcore.method import TrainingOutputs
from kdcore.models import MLP
from kdcore.studies import _shared
from kdcore.studies import nd_kd as study
from kdcore.studies.nd_kd import (
    accuracy_over_images,
    cifar100_nd,
    class_geometry,
    mean_cosine,
    mean_norm,
    norm_direction_arms,
    norm_direction_claims,
    norm_direction_task,
)
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Recipe, Task


def test_arms_differ_in_the_term_on_the_embedding_alone() -> None:
    arms = {a.label: a.objective() for a in norm_direction_arms(nd_weight=3.0, norm_weight=0.2, kd_weight=0.7)}
    assert list(arms) == ["CE", "KD", "KD + cos", "KD + norm", "KD++", "CE + ND", "KD++, wrong means"]
    taught = {n: arms[n].settings for n in ("KD", "KD + cos", "KD + norm", "KD++")}  # type: ignore[union-attr]
    assert [(s.pop("regularizer"), s.pop("nd_weight")) for s in taught.values()] == [
        ("nd", 0.0),
        ("direction", 3.0),
        ("norm", 0.2),
        ("nd", 3.0),
    ]
    assert all(s == taught["KD"] for s in taught.values()) and taught["KD"]["kd_weight"] == 0.7
    assert arms["KD++, wrong means"].settings == arms["KD++"].settings  # type: ignore[union-attr]
    assert arms["CE + ND"].settings["nd_weight"] == 3.0  # type: ignore[union-attr]


@pytest.fixture
def task(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    generator = torch.Generator().manual_seed(0)
    train, test = (ArrayDataset(torch.randn(n, 6, generator=generator), torch.arange(n) % 3) for n in (24, 9))
    teachers = {"t": ModelSpec(build=lambda: MLP((6,), (8,), 3), recipe=Recipe(epochs=1))}
    return Classification(name="noise", train=train, test=test, class_names="abc", teachers=teachers)


def test_geometry_against_a_loop(task: Task) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    teacher = task.teacher()
    taught = {c: [] for c in range(3)}
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        seen: list[torch.Tensor] = []
        head = [m for m in teacher.modules() if isinstance(m, nn.Linear)][-1]
        original = type(head).forward
        patch.setattr(
            type(head), "forward", lambda self, x: (seen.append(x) if self is head else None, original(self, x))[1]
        )
        for i in range(24):
            x, y = task.train[i]
            teacher(torch.as_tensor(x)[None])
            taught[int(y)].append(seen[-1][0])
    means = {c: torch.stack(rows).mean(0) for c, rows in taught.items()}
    norms, cosines = class_geometry(student, task)
    for i in range(9):
        x, y = task.test[i]
        s = student[1](student[0](torch.as_tensor(x)))
        assert norms[i].item() == pytest.approx(math.sqrt(sum(v * v for v in s.tolist())), rel=1e-5)
        cosine = torch.nn.functional.cosine_similarity(s, means[int(y)], dim=0)
        assert cosines[i].item() == pytest.approx(cosine.item(), abs=1e-5)
    assert mean_norm(student, task) == pytest.approx(norms.mean().item())
    assert mean_cosine(student, task) == pytest.approx(cosines.mean().item())


def test_networks_have_equal_widths_and_teach_by_default() -> None:
    task = norm_direction_task(3, train_size=50)
    assert (len(task.train), task.seed, list(task.teachers), list(task.students)) == (50, 3, ["cnn"], ["cnn-small"])
    assert task.student().head.in_features == task.teachers["cnn"].make(0).head.in_features == 64  # type: ignore[union-attr]


def comparison(norm: float, cosine: float, accuracy: float, cos_norm: float) -> Comparison:
    arms = {
        "CE": (0.90, 6.0, 0.4),
        "KD": (0.91, 6.0, 0.4),
        "KD + cos": (0.92, cos_norm, 0.8),
        "KD++": (accuracy, norm, cosine),
    }
    return Comparison(
        arms=tuple(arms),
        seeds=tuple(range(6)),
        metric="accuracy",
        records=[
            {"arm": arm, "seed": s, "last": a, "norm": n, "cosine": c}
            for arm, (a, n, c) in arms.items()
            for s in range(6)
        ],
    )


@pytest.mark.parametrize(
    ("numbers", "verdicts"),
    [
        ((8.0, 0.7, 0.92, 6.5), [True, True, True, True]),
        ((5.0, 0.7, 0.92, 4.5), [False, True, True, True]),
        ((8.0, 0.3, 0.92, 6.5), [True, False, True, True]),
        ((8.0, 0.7, 0.905, 6.5), [True, True, False, True]),  # above CE, below KD
        ((8.0, 0.7, 0.92, 9.0), [True, True, True, False]),
    ],
)
def test_claims_hold_and_fail(numbers: tuple[float, float, float, float], verdicts: list[bool]) -> None:
    assert [bool(c.check()) for c in norm_direction_claims(comparison(*numbers))] == verdicts


class Constant(nn.Module):
    """Says class 0 for ``right`` of ten images whose label is 0, class 1 for the others."""

    def __init__(self, right: set[int]) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0] if int(i) in self.right else [0.0, 1.0] for i in x[:, 0]])


def test_bootstrap_over_images_pairs_the_images_of_all_seeds() -> None:
    data = ArrayDataset(torch.arange(10.0)[:, None].repeat(1, 2), torch.zeros(10, dtype=torch.int64))
    two = ArrayDataset(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))
    place = Classification(name="ten", train=two, test=data, class_names="ab")
    right = {"CE": ({*range(5)}, {*range(7)}), "KD": ({*range(6)}, {*range(8)}), "all": ({*range(10)},) * 2}
    found = Comparison(
        arms=tuple(right),
        seeds=(0, 1),
        metric="accuracy",
        tasks={0: place, 1: place},
        students={(a, s): Constant(r) for a, rs in right.items() for s, r in enumerate(rs)},
    )
    table = accuracy_over_images(found, "CE", resamples=4000)
    assert table.index.tolist() == ["CE", "KD", "all"] and table.accuracy.tolist() == [0.6, 0.7, 1.0]
    # each image is drawn with both its answers: of ten images five have two right, two one, three none
    half = 1.96 * np.std([1.0] * 5 + [0.5] * 2 + [0.0] * 3) / math.sqrt(10)  # normal approximation, 10 images
    assert table.low["CE"] == pytest.approx(0.6 - half, abs=0.05)
    assert table.high["CE"] == pytest.approx(0.6 + half, abs=0.05)
    assert (table.low["all"], table.high["all"]) == (1.0, 1.0)
    assert math.isnan(table.difference["CE"]) and table.difference["KD"] == pytest.approx(0.1)
    # paired: images 5 and 7 differ, in one answer each, so no resample has a negative difference
    assert table.diff_low["KD"] == 0.0 and table.diff_high["KD"] == pytest.approx(0.25, abs=0.051)
    assert list(accuracy_over_images(found).columns) == ["accuracy", "low", "high"]
    with pytest.raises(ValueError, match="baseline must be one of CE, KD, all, got 'x'"):
        accuracy_over_images(found, "x")
    del found.students["KD", 1]
    with pytest.raises(ValueError, match="missing: KD, seed 1"):
        accuracy_over_images(found)


def test_the_full_tier_starts_where_the_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.arange(4).repeat(8)
    images = torch.randint(256, (32, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    monkeypatch.setattr(
        _shared,
        "load_task",
        lambda name, **options: Classification(
            name=name, train=ArrayDataset(images, y), test=ArrayDataset(images, y), class_names="abcd"
        ),
    )
    monkeypatch.setattr(study, "CIFAR_RECIPE", replace(study.CIFAR_RECIPE, epochs=1, batch_size=16))
    found = cifar100_nd(seeds=[0])
    assert found.arms == ("CE", "KD", "KD++") and found.rows["last"].between(0, 1).all()
    assert list(found.tasks[0].teachers) == ["resnet56"] and list(found.tasks[0].students) == ["resnet20"]
    terms = found.histories["KD++", 0][0].terms
    assert terms["nd"] > 0 and terms["kd"] == 0  # the first epoch of the warm-up


def test_the_full_tier_says_what_is_missing(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        cifar100_nd(folder=tmp_path)


def test_the_control_has_the_means_of_the_next_class() -> None:
    control = next(a for a in norm_direction_arms() if a.control_of == "KD++").objective()
    right = next(a for a in norm_direction_arms() if a.label == "KD++").objective()
    seen = TrainingOutputs.of(right.example())  # type: ignore[union-attr]
    for method in (control, right):
        method.prepare(seen)  # type: ignore[union-attr]
    assert torch.equal(control.class_means[0], right.class_means[-1])  # type: ignore[union-attr]
    assert torch.equal(control.class_means[1:], right.class_means[:-1])  # type: ignore[union-attr]
