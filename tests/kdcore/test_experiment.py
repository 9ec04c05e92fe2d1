"""Comparisons: fair between arms, honest about seeds."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdcore.checkpoints import state_hash
from kdcore.distiller import Epoch, Step
from kdcore.engine import Learn, Stage, Training
from kdcore.experiment import Arm, Comparison, compare, mean_interval, paired_difference
from kdcore.method import CrossEntropy
from kdcore.metrics import SampleMean
from kdcore.models import MLP
from kdcore.registry import create_method
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Recipe, Task


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "teachers"
    monkeypatch.setenv("KDCORE_CACHE", str(folder))
    return folder


def tiny(seed: int = 0, *, val: bool = False, higher_is_better: bool = True) -> Task:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat(12)
    parts = [ArrayDataset(torch.randn(36, 4, generator=g) + y[:, None], y) for _ in range(3)]
    recipe = Recipe(epochs=2, batch_size=12)

    def wrong(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.argmax(1) != labels

    error = SampleMean(wrong, "error", higher_is_better=False)
    extra: dict[str, Any] = {} if higher_is_better else {"metrics": lambda: {"error": error}}
    return Classification(
        name="tiny",
        train=parts[0],
        test=parts[1],
        val=parts[2] if val else None,
        class_names="abc",
        seed=seed,
        teachers={"net": ModelSpec(build=partial(MLP, 4, (8,), 3, dropout=0.1), recipe=recipe)},
        students={
            "small": ModelSpec(build=partial(MLP, 4, (3,), 3, dropout=0.1), recipe=recipe),
            "smaller": ModelSpec(build=partial(MLP, 4, (2,), 3), recipe=Recipe(epochs=1, batch_size=6)),
        },
        **extra,
    )


def test_every_arm_and_seed_is_trained_once_and_reported() -> None:
    result = compare(
        tiny,
        [Arm("CE", "ce"), Arm("KD", "kd", {"temperature": 2.0})],
        seeds=[4, 7],
        epochs=2,
        metrics={"width": lambda student, task: student.head.in_features + 10 * task.seed},
    )
    rows = result.rows
    assert rows[["arm", "seed"]].to_records(index=False).tolist() == [("CE", 4), ("KD", 4), ("CE", 7), ("KD", 7)]
    assert list(rows.columns) == [
        "arm",
        "seed",
        "last",
        "best",
        "best_epoch",
        "epochs",
        "seconds",
        "teacher_forwards",
        "width",
    ]
    assert rows.width.tolist() == [43, 43, 73, 73] and rows.epochs.tolist() == [2] * 4
    assert rows.teacher_forwards.tolist() == [0, 72, 0, 72]  # 2 epochs x 36 samples, for KD only
    for (arm, seed), student in result.students.items():
        assert not student.training
        assert result.tasks[seed].accuracy(student) == rows.query("arm == @arm and seed == @seed")["last"].item()
        assert len(result.histories[arm, seed]) == 2 and isinstance(result.histories[arm, seed][0], Epoch)
    assert result.seeds == (4, 7) and result.arms == ("CE", "KD") and not result.stopped
    assert result.teachers[4] is not result.teachers[7]


def test_arms_of_one_seed_share_initial_weights_and_batches() -> None:
    seen: dict[tuple[str, int], list[Any]] = {}

    class Watch(CrossEntropy):
        """Cross-entropy that notes the student's first weights and every batch."""

        def __init__(self, label: str) -> None:
            super().__init__()
            self.label_, self.notes = label, []

        def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
            return Watch(self.label_)

        def setup(self, student: torch.nn.Module, teacher: torch.nn.Module | None, sample: torch.Tensor) -> None:
            self.notes = [state_hash(student)]
            seen[self.label_, len([k for k in seen if k[0] == self.label_])] = self.notes

        def terms(self, s: Any) -> dict[str, torch.Tensor]:
            self.notes.append(s.inputs.sum().item())
            return {}

    compare(tiny(), [Arm("a", Watch("a")), Arm("b", Watch("b"))], seeds=2, epochs=2)
    assert len(seen["a", 0]) == 1 + 2 * 3
    assert seen["a", 0] == seen["b", 0] and seen["a", 1] == seen["b", 1]
    assert seen["a", 0][0] != seen["a", 1][0] and seen["a", 0][1:] != seen["a", 1][1:]
    assert len(set(seen["a", 0][1:4])) == 3 and seen["a", 0][1:4] != seen["a", 0][4:]


def test_result_of_an_arm_does_not_depend_on_its_neighbours_nor_on_the_global_state() -> None:
    arms = [Arm("KD", "kd"), Arm("CE", "ce")]
    together = compare(tiny(), arms, seeds=2, epochs=2)
    torch.manual_seed(77)
    before = torch.get_rng_state()
    alone = compare(tiny(), arms[1:], seeds=2, epochs=2)
    assert torch.equal(before, torch.get_rng_state())
    for seed in (0, 1):
        assert state_hash(together.students["CE", seed]) == state_hash(alone.students["CE", seed])
    assert not alone.teachers  # nobody needed one


def test_settings_come_from_the_arm_then_the_call_then_the_recipe() -> None:
    arms = [
        Arm("default", "ce"),
        Arm("own", "ce", train={"epochs": 4, "batch_size": 36}),
        Arm("other", "ce", student="smaller"),
    ]
    by_arm = compare(tiny(), arms, seeds=1).rows.set_index("arm")
    assert by_arm.epochs.to_dict() == {"default": 2, "own": 4, "other": 1}
    by_arm = compare(tiny(), arms, seeds=1, epochs=3).rows.set_index("arm")
    assert by_arm.epochs.to_dict() == {"default": 3, "own": 4, "other": 3}
    steps: list[int] = []

    def note(event: object) -> None:
        if isinstance(event, Step):
            steps.append(event.step)

    compare(tiny(), [arms[1]], seeds=1, callbacks=[note])
    assert steps == [1, 2, 3, 4]
    result = compare(tiny(), arms, seeds=1, student="smaller", quick=True)
    assert result.students["default", 0].head.in_features == 2 and result.rows.epochs.tolist() == [1, 4, 1]


def test_teacher_by_name_or_module() -> None:
    task, own = tiny(), MLP(4, (5,), 3)
    result = compare(task, ["kd"], seeds=2, epochs=1, teacher=own)
    assert result.teachers == {0: own, 1: own} and result.arms == ("kd",)
    default = compare(task, ["kd"], seeds=2, epochs=1)
    assert default.teachers[0] is default.teachers[1]  # one task, one teacher
    with pytest.raises(ValueError, match=r"the teacher must give \(N, 3\) logits.*\(2, 7\)"):
        compare(task, ["kd"], seeds=1, epochs=1, teacher=MLP(4, (5,), 7))
    with pytest.raises(ValueError, match="teacher must be one of 'net', got 'nett'"):
        compare(task, ["kd"], seeds=1, epochs=1, teacher="nett")


def test_methods_as_objects_and_lists() -> None:
    method = create_method("kd", temperature=2.0)
    arms = [Arm("object", method), Arm("name", "kd", {"temperature": 2.0}), Arm("both", ["kd", "dist"])]
    result = compare(tiny(), arms, seeds=1, epochs=1)
    assert state_hash(result.students["object", 0]) == state_hash(result.students["name", 0])
    assert state_hash(result.students["both", 0]) != state_hash(result.students["name", 0])
    assert set(result.histories["both", 0][0].terms) == {"ce", "kd", "inter", "intra"}


def test_best_epoch_is_chosen_on_validation_data_where_there_are_some() -> None:
    result = compare(tiny(val=True), [Arm("CE", "ce", train={"lr": 0.5})], seeds=1, epochs=6)
    assert result.chosen_on == "val"
    row, history = result.records[0], result.histories["CE", 0]
    on_val = [event.metrics["accuracy"] for event in history]
    assert on_val[row["best_epoch"]] == max(on_val)
    plain = compare(tiny(), [Arm("CE", "ce", train={"lr": 0.5})], seeds=1, epochs=6)
    assert plain.chosen_on == "test"
    on_test = [event.metrics["accuracy"] for event in plain.histories["CE", 0]]
    assert plain.records[0]["best"] == max(on_test) and plain.records[0]["last"] == on_test[-1]


def test_metric_for_which_lower_is_better() -> None:
    result = compare(tiny(higher_is_better=False), [Arm("CE", "ce")], seeds=1, epochs=6, lr=0.5)
    wrong = [event.metrics["error"] for event in result.histories["CE", 0]]
    assert result.records[0]["best"] == min(wrong) and result.records[0]["last"] == wrong[-1]
    assert result.metric == "error" and not result.higher_is_better


def test_progress_counts_epochs_up_to_all_of_them() -> None:
    reports: list[tuple[int, int, str]] = []
    compare(
        partial(tiny, val=True),
        [Arm("CE", "ce"), Arm("KD", "kd", train={"epochs": 3})],
        seeds=[21, 22],
        epochs=2,
        progress=lambda *report: reports.append(report),
    )
    done = [count for count, _, _ in reports]
    assert done == sorted(done) and done[-1] == 10 and {total for _, total, _ in reports} == {10}
    assert any(text.startswith("teacher net: epoch 1 of 2") for _, _, text in reports)
    assert reports[-1][2] == "KD, seed 22"


def test_stopping_keeps_what_was_finished() -> None:
    stop = threading.Event()

    def halfway(done: int, total: int, text: str) -> None:
        if done >= 3:
            stop.set()

    result = compare(tiny(), [Arm("CE", "ce"), Arm("KD", "kd")], seeds=2, epochs=2, progress=halfway, stop=stop)
    assert result.stopped and [(r["arm"], r["seed"]) for r in result.records] == [("CE", 0)]
    table = result.table("CE")
    assert table.n.to_dict() == {"CE": 1, "KD": 0}
    assert math.isnan(table["mean"]["KD"]) and math.isnan(table["difference"]["KD"])


def test_methods_are_kept_as_they_were_after_training() -> None:
    result = compare(tiny(), [Arm("KD", "kd"), Arm("both", ["kd", "dist"])], seeds=1, epochs=1)
    assert [m.name for m in result.methods["KD", 0]] == ["kd"]
    assert [m.name for m in result.methods["both", 0]] == ["kd", "dist"]
    assert not compare(tiny(), ["ce"], seeds=1, epochs=1, keep_students=False).methods


def test_an_arm_can_be_an_outer_loop() -> None:
    def loop(task: Task, seed: int, *, progress: Any, stop: Any) -> torch.nn.Module:
        progress(1, 2, "round 1")
        torch.rand(3)
        return task.student(seed=seed + 10)

    reports: list[tuple[int, int, str]] = []
    arms = [Arm("loop", run=loop, train={"epochs": 4}), Arm("CE", "ce")]
    result = compare(tiny(), arms, seeds=[3], epochs=2, progress=lambda *report: reports.append(report))
    assert [report[:2] for report in reports] == [(2, 6), (4, 6), (5, 6), (6, 6)]
    assert reports[0][2] == "loop, seed 3: round 1"
    assert state_hash(result.students["loop", 3]) == state_hash(tiny().student(seed=13))
    alone = compare(tiny(), arms[1:], seeds=[3], epochs=2)
    assert state_hash(result.students["CE", 3]) == state_hash(alone.students["CE", 3])
    row = result.records[0]
    assert row["last"] == row["best"] and row["epochs"] == 0 and ("loop", 3) not in result.methods


class TwoStages(Training):
    """Cross-entropy in two stages of one epoch."""

    frozen = ("teacher",)

    def __init__(self, task: Task, teacher: torch.nn.Module | None, student: torch.nn.Module, seed: int) -> None:
        super().__init__()
        assert teacher is not None
        self.teacher, self.student, self.began = teacher, student, state_hash(student)
        self.data = task.loader("train", batch_size=12, seed=seed)

    def stages(self) -> Iterator[Stage]:
        for name in ("one", "two"):
            yield Stage(name=name, data=self.data, step=self.step, epochs=1, learn=Learn(players=("student",)))

    def step(self, batch: Any, run: Any) -> dict[str, torch.Tensor]:
        return {"ce": torch.nn.functional.cross_entropy(self.student(batch[0]), batch[1])}


def test_an_arm_can_be_a_training() -> None:
    reports: list[tuple[int, int]] = []
    arms = [Arm("own", training=TwoStages, train={"epochs": 2}), Arm("CE", "ce")]
    result = compare(tiny(), arms, seeds=[2], epochs=2, progress=lambda done, total, _: reports.append((done, total)))
    kept = result.methods["own", 2]
    assert isinstance(kept, TwoStages) and kept.student is result.students["own", 2]
    assert kept.began == state_hash(tiny().student(seed=2)) != state_hash(kept.student)
    assert [event.stage for event in result.histories["own", 2]] == ["one", "two"]
    assert [r for r in reports if r[0]][-4:] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    alone = compare(tiny(), arms[1:], seeds=[2], epochs=2)
    assert state_hash(result.students["CE", 2]) == state_hash(alone.students["CE", 2])


def test_an_arm_is_one_thing() -> None:
    with pytest.raises(ValueError, match="arm 'a': give training or run, not both"):
        Arm("a", training=lambda *_: None, run=lambda *_: torch.nn.Identity())
    with pytest.raises(ValueError, match="arm 'a': knobs are for a method"):
        Arm("a", knobs={"weight": 1}, run=lambda *_: torch.nn.Identity())


def test_students_are_dropped_on_request() -> None:
    assert not compare(tiny(), ["ce"], seeds=1, epochs=1, keep_students=False).students


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        ([], {}, "arms must be one or more"),
        ([Arm("a"), Arm("a", "ce")], {}, "different labels"),
        ([Arm("a", "kdd")], {}, "no method is called 'kdd'"),
        ([Arm("a", "kd", {"temprature": 1.0})], {}, "has no knob 'temprature'"),
        ([Arm("a", ["kd", "dist"], {"temperature": 1.0})], {}, "knobs are for a method given by name"),
        ([Arm("a", "ce")], {"seeds": 0}, "seeds must be"),
        ([Arm("a", "ce")], {"seeds": [1, 1]}, "seeds must be"),
        ([Arm("a", "ce", student="huge")], {}, "student must be one of 'small', 'smaller'"),
    ],
)
def test_bad_requests_are_refused_before_training(arms: Sequence[Arm], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(tiny(), arms, **({"seeds": 1, "epochs": 1} | options))


def test_error_in_a_run_names_arm_and_seed() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        compare(tiny(), [Arm("CE", "ce")], seeds=[5], epochs=1, callbacks=[lambda event: 1 // 0])
    assert "(in arm 'CE', seed 5)" in caught.value.__notes__


# Numbers -------------------------------------------------------------------------------------------------------------


def made(values: dict[str, list[float]], metric: str = "accuracy") -> Comparison:
    records = [
        {"arm": arm, "seed": seed, "last": v}
        for arm, column in values.items()
        for seed, v in enumerate(column)
        if v is not None
    ]
    return Comparison(arms=tuple(values), seeds=(0, 1, 2), metric=metric, records=records)


def test_table_by_hand() -> None:
    comparison = made({"CE": [0.90, 0.92, 0.88], "KD": [0.93, 0.94, 0.92]})
    table = comparison.table("CE")
    assert table["mean"]["CE"] == pytest.approx(0.90) and table["std"]["CE"] == pytest.approx(0.02)
    half = 4.302652729911275 * 0.02 / math.sqrt(3)  # t quantile 0.975 with 2 degrees of freedom
    assert table["low"]["CE"] == pytest.approx(0.90 - half) and table["high"]["CE"] == pytest.approx(0.90 + half)
    assert math.isnan(table["difference"]["CE"]) and table["difference"]["KD"] == pytest.approx(0.03)
    test = stats.ttest_rel([0.93, 0.94, 0.92], [0.90, 0.92, 0.88])
    assert table["p"]["KD"] == pytest.approx(test.pvalue)
    interval = test.confidence_interval(0.95)
    assert (table["diff_low"]["KD"], table["diff_high"]["KD"]) == pytest.approx((interval.low, interval.high))
    assert "difference" not in comparison.table()
    assert comparison.mean("KD") == pytest.approx(0.93) and comparison.values("KD").tolist() == [0.93, 0.94, 0.92]


def test_differences_use_the_seeds_both_arms_have() -> None:
    table = made({"CE": [0.5, 0.6, 0.7], "KD": [0.6, None, 0.8]}).table("CE")  # type: ignore[list-item]
    assert table["difference"]["KD"] == pytest.approx(0.1) and table["n"]["KD"] == 2


def test_one_seed_and_equal_differences_say_what_they_cannot_tell() -> None:
    single = made({"CE": [0.5], "KD": [0.6]}).table("CE")
    assert single.loc["KD", ["std", "low", "high", "diff_low", "p"]].isna().all() and single["difference"]["KD"] > 0
    equal = paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert equal["difference"] == equal["diff_low"] == equal["diff_high"] == 1.0 and math.isnan(equal["p"])
    assert math.isnan(mean_interval([1.0])[0]) and math.isnan(paired_difference([], [])["difference"])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
@settings(max_examples=25)
def test_interval_agrees_with_scipy(values: list[float]) -> None:
    low, high = mean_interval(values)
    spread = stats.sem(values)
    if spread > 1e-12:
        expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=spread)
        np.testing.assert_allclose((low, high), expected, rtol=1e-9, atol=1e-12)
    assert low <= np.mean(values) + 1e-12 and high >= np.mean(values) - 1e-12


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = [low <= 0.3 <= high for low, high in (mean_interval(rng.normal(0.3, 0.1, 4)) for _ in range(2000))]
    assert abs(np.mean(hits) - 0.95) < 0.02


def test_unknown_arm_or_metric_is_named() -> None:
    comparison = made({"CE": [0.5], "KD": [0.6]})
    with pytest.raises(ValueError, match="arm must be one of 'CE', 'KD', got 'kd'"):
        comparison.values("kd")
    with pytest.raises(ValueError, match=r"there is no metric 'lst'\. Did you mean 'last'"):
        comparison.values("KD", "lst")
    with pytest.raises(ValueError, match="arm must be one of"):
        comparison.table("PLD")


def test_page_shows_percent_and_escapes() -> None:
    page = made({"<CE>": [0.5, 0.6, 0.7], "KD": [0.6, 0.7, 0.9]})._repr_html_()
    assert "<caption>accuracy in %" in page and "60.00" in page and "&lt;CE&gt;" in page and "<CE>" not in page
    assert "in %" not in made({"a": [0.5]}, metric="psnr")._repr_html_()
    assert "CE 0.6000" in repr(made({"CE": [0.5, 0.6, 0.7]}))
