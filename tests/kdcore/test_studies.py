"""Studies: the data, arms and numbers they stand for, on seconds of training; claims judged as stated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdcore.distiller import Distiller, Step
from kdcore.experiment import Comparison
from kdcore.models import MLP
from kdcore.studies import _shared
from kdcore.studies import vanilla_kd as studies
from kdcore.tasks import ArrayDataset, Classification, Recipe, Task, load_task
from kdcore.tasks._augment import CropFlip


@pytest.fixture(autouse=True)
def cheap_teacher(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers of two epochs, kept in a folder of this session; students have recipes of their own."""
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path_factory.getbasetemp() / "teachers"))

    def quickly(name: str, **options: Any) -> Task:
        task = load_task(name, **options)
        cheap = {n: replace(spec, recipe=replace(spec.recipe, epochs=2)) for n, spec in task.teachers.items()}
        return replace(task, teachers=cheap)

    for module in (studies, _shared):
        monkeypatch.setattr(module, "load_task", quickly)


class Fixed(nn.Module):
    """Answers every sample with the logits that are stored for it; samples are their own numbers."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[x[:, 0].long()]


def numbered(labels: list[int], classes: int) -> Task:
    data = ArrayDataset(torch.arange(len(labels)).float()[:, None], torch.tensor(labels))
    return Classification(name="numbered", train=data, test=data, class_names=[str(i) for i in range(classes)])


# The omitted class ----------------------------------------------------------------------------------------------------


def test_the_student_never_sees_the_omitted_digit_and_soft_arms_never_see_labels() -> None:
    result = studies.omitted_class(7, temperatures=(2.0, 8.0), seeds=[1], epochs=2)
    assert result.arms == ("CE", "KD, T = 2", "KD, T = 8")
    task = result.tasks[1]
    assert 7 not in task.labels("train").tolist() and set(range(10)) - {7} == set(task.labels("train").tolist())
    assert 7 in task.labels("test").tolist() and 7 in task.labels("teacher_train").tolist()
    terms = {arm: set(result.histories[arm, 1][-1].terms) for arm in result.arms}
    assert terms == {"CE": {"ce"}, "KD, T = 2": {"kd"}, "KD, T = 8": {"kd"}}
    assert result.values("CE", "recall").tolist() == [0.0]
    assert {"recall", "recall_biased", "accuracy_biased"} <= set(result.rows.columns)


def test_metrics_of_the_omitted_class_are_those_of_shifted_logits() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 1.0], [0.0, 3.0, 2.5], [1.0, 0.0, 0.2]])
    task, student = numbered([0, 1, 1, 1], 3), Fixed(logits)
    assert studies.class_recall(1)(student, task) == pytest.approx(1 / 3)
    assert studies.class_recall(1, bias=0.75)(student, task) == pytest.approx(2 / 3)
    assert studies.biased_accuracy(1, 0.0)(student, task) == 0.5  # right: samples 0 and 2
    assert studies.biased_accuracy(1, 0.75)(student, task) == 0.75  # and now sample 1
    assert studies.biased_accuracy(1, 1.25)(student, task) == 0.75  # sample 3 is won, sample 0 is lost


def test_bias_sweep_equals_shifting_and_counting() -> None:
    g = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(50, 4, generator=g), torch.randint(4, (50,), generator=g)
    biases = torch.tensor([-3.0, -0.4, 0.0, 0.7, 5.0])
    recall, accuracy = studies.bias_sweep(logits, labels, 2, biases)
    for i, bias in enumerate(biases.tolist()):
        answers = studies.shift_class(logits, 2, bias).argmax(1)
        assert accuracy[i].item() == pytest.approx((answers == labels).double().mean().item())
        assert recall[i].item() == pytest.approx((answers[labels == 2] == 2).double().mean().item())
    assert recall.tolist() == sorted(recall.tolist()) and recall[0] < recall[-1]


def test_shift_class_changes_one_column_of_a_copy() -> None:
    logits = torch.zeros(2, 3)
    assert studies.shift_class(logits, 1, 2.5).tolist() == [[0.0, 2.5, 0.0]] * 2
    assert not logits.any()
    with pytest.raises(ValueError, match=r"index must be in \[0, 3\), got 3"):
        studies.shift_class(logits, 3, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatures": ()}, "temperatures must name at least one"),
        ({"temperatures": (4.0, 0.0)}, "temperatures must be a finite number > 0, got 0.0"),
        ({"digit": 12}, "omit_classes names 12"),
    ],
)
def test_omitted_class_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        studies.omitted_class(seeds=1, epochs=1, **options)


def measured(**columns: dict[str, list[float]]) -> Comparison:
    """A comparison with given numbers, three times over: ``last=...``, ``recall=...`` by arm."""
    columns = {name: {arm: 3 * v for arm, v in values.items()} for name, values in columns.items()}
    arms = list(columns["last"])
    seeds = range(len(columns["last"][arms[0]]))
    records = [{"arm": arm, "seed": s, **{k: v[arm][s] for k, v in columns.items()}} for arm in arms for s in seeds]
    return Comparison(arms=tuple(arms), seeds=tuple(seeds), metric="accuracy", records=records)


def test_omitted_class_claims_hold_exactly_where_they_should() -> None:
    last = {"CE": [0.87, 0.87], "KD, T = 8": [0.95, 0.93]}
    good = measured(last=last, recall={"CE": [0.0, 0.0], "KD, T = 8": [0.6, 0.9]})
    assert [c.check().reproduced for c in studies.omitted_class_claims(good)] == [True, True, True]
    one_low = measured(last=last, recall={"CE": [0.0, 0.0], "KD, T = 8": [0.49, 0.99]})
    assert [c.check().reproduced for c in studies.omitted_class_claims(one_low)] == [False, True, True]
    leak = measured(
        last={"CE": [0.9, 0.9], "KD, T = 8": [0.93, 0.94]}, recall={"CE": [0.0, 0.01], "KD, T = 8": [0.6, 0.6]}
    )
    assert [c.check().reproduced for c in studies.omitted_class_claims(leak)] == [True, False, False]


# The baselines --------------------------------------------------------------------------------------------------------


def test_few_labels_runs_the_four_objectives_on_the_same_images() -> None:
    result = studies.few_labels(seeds=1, epochs=2, train_size=60)
    assert result.arms == ("CE", "KD", "DKD", "DIST") and len(result.tasks[0].train) == 60
    assert len(result.tasks[0].split("teacher_train")) == 1078
    terms = {arm: set(result.histories[arm, 0][-1].terms) for arm in result.arms}
    assert terms == {"CE": {"ce"}, "KD": {"kd", "ce"}, "DKD": {"tckd", "nckd", "ce"}, "DIST": {"inter", "intra", "ce"}}
    assert result.students["KD", 0].head.in_features == 16
    assert result.rows["tau"].between(-1, 1).all() and result.rows["tau"].nunique() == 4


def test_baselines_pass_their_knobs_on() -> None:
    arms = {
        a.label: a.objective()
        for a in studies.logit_baselines(
            temperature=3.0, ce_weight=0.2, kd_weight=0.7, alpha=1.5, beta=6.0, warmup_epochs=4, dist_weight=1.5
        )
    }
    kd, dkd, dist = (arms[n].settings for n in ("KD", "DKD", "DIST"))
    assert kd == {"temperature": 3.0, "kd_weight": 0.7, "ce_weight": 0.2}
    assert dkd == {"alpha": 1.5, "beta": 6.0, "temperature": 3.0, "warmup_epochs": 4, "ce_weight": 1.0}
    assert dist == {"beta": 1.0, "gamma": 1.0, "temperature": 3.0, "dist_weight": 1.5, "ce_weight": 1.0}


def test_teacher_order_is_one_for_the_teacher_and_minus_one_for_its_opposite() -> None:
    task = _shared.load_task("digits")
    teacher = task.teacher()
    assert studies.teacher_order(teacher, task) == pytest.approx(1.0)
    assert studies.teacher_order(nn.Sequential(teacher, Negative()), task) == pytest.approx(-1.0)


class Negative(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


def test_arms_of_the_factor_differ_in_the_factor_alone() -> None:
    arms = {arm.label: arm for arm in studies.scale_arms(temperature=5.0)}
    assert [*arms] == [f"KD {way}{w}" for way in studies.SCALE_WAYS for w in ("", ", no T²")]
    for way in studies.SCALE_WAYS:
        with_factor, without = (arms[f"KD {way}{w}"] for w in ("", ", no T²"))
        pair = with_factor.objective(), without.objective()
        assert pair[0].settings == pair[1].settings and with_factor.train == without.train  # type: ignore[union-attr]
        terms = [method.terms(method.example(seed=1))["kd"] for method in pair]  # type: ignore[union-attr]
        torch.testing.assert_close(terms[0], 25.0 * terms[1])
    assert {a.objective().settings["ce_weight"] for a in arms.values()} == {0.0, 0.1}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("without", "verdicts"),
    [
        ((0.799, 0.7, 0.3), [True, True, True]),
        ((0.75, 0.7, 0.3), [False, True, True]),
        ((0.799, 0.82, 0.3), [True, False, True]),
        ((0.799, 0.7, 0.95), [True, True, False]),
    ],
)
def test_claims_on_the_factor_fail_alone(without: tuple[float, ...], verdicts: list[bool]) -> None:
    tau = {}
    for way, left, right in zip(studies.SCALE_WAYS, (0.8, 0.8, 0.9), without, strict=True):
        tau |= {f"KD {way}": left, f"KD {way}, no T²": right}
    rows = [{"arm": arm, "seed": s, "last": 0.9, "tau": value} for arm, value in tau.items() for s in range(6)]
    comparison = Comparison(arms=tuple(tau), seeds=tuple(range(6)), metric="accuracy", records=rows)
    assert [bool(c.check()) for c in studies.scale_claims(comparison)] == verdicts


def test_baseline_claims() -> None:
    def judged(**last: list[float]) -> list[bool]:
        return [c.check().reproduced for c in studies.baseline_claims(measured(last=last))]

    assert judged(CE=[0.90, 0.90], KD=[0.88, 0.88], DKD=[0.90, 0.89], DIST=[0.93, 0.92]) == [True, True]
    assert judged(CE=[0.90, 0.90], KD=[0.89, 0.89], DKD=[0.89, 0.89], DIST=[0.905, 0.91]) == [False, False]


# CIFAR-100 ------------------------------------------------------------------------------------------------------------


def small_photos(name: str, *, folder: Path | None = None, **options: Any) -> Task:
    assert name == "cifar100"
    g = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat(8)
    images = torch.randint(256, (32, 3, 8, 8), generator=g, dtype=torch.uint8)
    return Classification(
        name="cifar100", train=ArrayDataset(images, y), test=ArrayDataset(images, y), class_names="abcd"
    )


def test_cifar_study_trains_the_wide_networks_with_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared, "load_task", small_photos)
    recipe = replace(_shared.CIFAR_RECIPE, epochs=1, batch_size=16)
    result = studies.cifar100_x4(arms=["ce", "kd"], seeds=[0, 1], recipe=recipe)
    task = result.tasks[0]
    assert list(task.teachers) == ["resnet32x4"] and list(task.students) == ["resnet8x4"]
    assert isinstance(task.train, CropFlip) and task.split("teacher_train") is task.train
    assert isinstance(task.test, ArrayDataset)
    assert result.teachers[0] is result.teachers[1] and len(result.records) == 4
    assert np.isfinite(result.rows["last"]).all()


def test_recipe_is_the_published_one() -> None:
    r = _shared.CIFAR_RECIPE
    assert (r.epochs, r.batch_size, r.lr, r.optimizer, r.weight_decay, r.scheduler) == (
        240,
        64,
        0.05,
        "sgd",
        5e-4,
        "steps",
    )


def test_the_steps_scheduler_divides_by_ten_at_150_180_and_210_of_240() -> None:
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    run = Distiller(None, MLP(3, (2,), 2), "ce", [(x, y)], epochs=240, lr=0.05, optimizer="sgd", scheduler="steps")
    lr = [event.lr for event in run.run() if isinstance(event, Step)]
    expected = [0.05] * 150 + [0.005] * 30 + [0.0005] * 30 + [0.00005] * 30
    assert lr == pytest.approx(expected)


def test_recipes_name_the_scheduler() -> None:
    with pytest.raises(ValueError, match="'cosine', 'steps', 'constant' or a callable"):
        list(
            Distiller(
                None, MLP(3, (2,), 2), "ce", [(torch.randn(4, 3), torch.arange(4) % 2)], epochs=1, scheduler="stairs"
            ).run()
        )
    assert Recipe(scheduler="steps").training()["scheduler"] == "steps"
