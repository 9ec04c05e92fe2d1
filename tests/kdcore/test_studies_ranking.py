"""The ranking study: its arms, the agreement metric against SciPy, and claims that can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from kdcore.experiment import Comparison
from kdcore.models import MLP
from kdcore.studies.pld import (
    few_labels,
    pld_arm,
    ranking_arms,
    ranking_claims,
    teacher_agreement,
    with_wrong_classes_reversed,
)
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Recipe, Task


def test_arms_and_their_names() -> None:
    *compared, control = ranking_arms()
    assert [a.label for a in compared] == ["CE", "KD", "DIST", "PLD, τ = 1", "PLD, τ = 4", "PLD, uniform weights"]
    assert [a.label for a in ranking_arms(pld_arm(4.0))][3:-1] == ["PLD, τ = 4", "PLD, uniform weights"]
    assert (control.control_of, control.control_on) == ("PLD, τ = 4", ("last", "agreement"))
    assert control.objective().settings == compared[4].objective().settings  # type: ignore[union-attr]
    assert pld_arm(2.0, ce_weight=0.5).label == "PLD, τ = 2, CE 0.5"
    made = pld_arm(2.0, weights="position", ce_weight=0.5).objective()
    assert (made.knob.temperature, made.knob.weights, made.knob.ce_weight) == (2.0, "position", 0.5)  # type: ignore[union-attr]


@pytest.fixture
def task(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    generator = torch.Generator().manual_seed(0)
    data = ArrayDataset(torch.randn(24, 6, generator=generator), torch.arange(24) % 4)
    teachers = {"t": ModelSpec(build=lambda: MLP((6,), (8,), 4), recipe=Recipe(epochs=1))}
    return Classification(name="noise", train=data, test=data, class_names="abcd", teachers=teachers)


def test_agreement_against_scipy(task: Task) -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    (s, y), (t, _) = task.predict(student), task.predict(task.teacher())
    rest = [[c for c in range(4) if c != label] for label in y.tolist()]
    expected = np.mean([kendalltau(a[r], b[r]).statistic for a, b, r in zip(s, t, rest, strict=True)])
    assert teacher_agreement(student, task) == pytest.approx(expected, abs=1e-12)
    assert teacher_agreement(task.teacher(), task) == 1.0


def comparison(pld: float, uniform: float, agreement: float) -> Comparison:
    arms = {
        "CE": (0.90, 0.6),
        "PLD, τ = 1": (pld, agreement),
        "PLD, τ = 4": (0.99, 0.9),
        "PLD, uniform weights": (uniform, 0.8),
    }
    return Comparison(
        arms=tuple(arms),
        seeds=tuple(range(6)),
        metric="accuracy",
        records=[
            {"arm": arm, "seed": s, "last": last, "agreement": tau}
            for arm, (last, tau) in arms.items()
            for s in range(6)
        ],
    )


@pytest.mark.parametrize(
    ("numbers", "verdicts"),
    [
        ((0.92, 0.88, 0.8), [True, True, True]),
        ((0.904, 0.88, 0.8), [False, True, True]),
        ((0.92, 0.91, 0.8), [True, False, True]),
        ((0.92, 0.88, 0.6), [True, True, False]),
    ],
)
def test_claims_hold_and_fail(numbers: tuple[float, float, float], verdicts: list[bool]) -> None:
    assert [bool(c.check()) for c in ranking_claims(comparison(*numbers))] == verdicts


def test_the_judged_temperature_is_fixed_beforehand_and_not_the_better_one() -> None:
    weak = comparison(0.89, 0.88, 0.5)
    assert [bool(c.check()) for c in ranking_claims(weak)] == [False, False, False]
    assert [bool(c.check()) for c in ranking_claims(weak, pld="PLD, τ = 4")] == [True, True, True]


def test_claims_name_the_data() -> None:
    plain, named = (ranking_claims(comparison(0.92, 0.88, 0.8), on=on) for on in ("", "CIFAR-100"))
    assert [c.text for c in named] == [f"CIFAR-100: {c.text}" for c in plain]


def test_few_labels_runs_the_arms(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    result = few_labels(arms=[pld_arm(4.0)], seeds=1, epochs=1, train_size=40, metrics={"agreement": teacher_agreement})
    assert -1 <= result.values("PLD, τ = 4", "agreement")[0] <= 1


def test_reversing_the_wrong_classes_keeps_label_and_weights() -> None:
    logits = torch.tensor([[3.0, 0.0, 1.0, -2.0], [0.5, 4.0, 2.0, 1.0]])
    found = with_wrong_classes_reversed(logits, torch.tensor([0, 2]))
    assert found.tolist() == [[3.0, 0.0, -2.0, 1.0], [4.0, 0.5, 2.0, 1.0]]
