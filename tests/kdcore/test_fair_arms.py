"""Fair arms: the same trials for every arm, controls that must fail, arms that cost more named as such."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from kdcore.experiment import Arm, Comparison, check_controls, compare, tune
from kdcore.experiment.tune import held_out
from kdcore.models import MLP
from kdcore.studies import Study
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Recipe


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path_factory.getbasetemp() / "teachers"))


def tiny(seed: int = 0, *, val: bool = False) -> Classification:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat(12)
    train, test, held = (ArrayDataset(torch.randn(36, 4, generator=g) + 3 * torch.eye(4)[y], y) for _ in range(3))
    recipe = Recipe(epochs=8, batch_size=12, lr=1e-2)
    return Classification(
        name="tiny", train=train, test=test, val=held if val else None, class_names="abc", seed=seed,
        teachers={"net": ModelSpec(build=partial(MLP, 4, (8,), 3), recipe=recipe)},
        students={"small": ModelSpec(build=partial(MLP, 4, (3,), 3), recipe=recipe)},
    )  # fmt: skip


# Held out -------------------------------------------------------------------------------------------------------------


def rows(data: Any) -> set[tuple[float, ...]]:
    return {tuple(data[i][0].tolist()) for i in range(len(data))}


def test_a_share_of_the_training_data_takes_the_place_of_the_test() -> None:
    task = tiny()
    place = held_out(task, fraction=0.25, seed=5)
    assert (len(place.train), len(place.test)) == (27, 9)
    assert rows(place.train) | rows(place.test) == rows(task.train) and not rows(place.train) & rows(place.test)
    assert not rows(task.test) & (rows(place.train) | rows(place.test))
    assert place.split("teacher_train") is task.train and place.fingerprint == task.fingerprint
    assert rows(held_out(task, fraction=0.25, seed=5).test) == rows(place.test)
    assert rows(held_out(task, fraction=0.25, seed=6).test) != rows(place.test)


def test_a_task_with_a_validation_split_gives_that_one() -> None:
    task = tiny(val=True)
    place = held_out(task)
    assert place.test is task.val and place.train is task.train and place.val is None


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.999])
def test_a_split_may_not_be_empty(fraction: float) -> None:
    with pytest.raises(ValueError, match="leaves a split empty"):
        held_out(tiny(), fraction=fraction)


# Tuning ---------------------------------------------------------------------------------------------------------------


def test_every_arm_gets_the_same_trials_and_its_best() -> None:
    grid = [{"lr": 1e-6}, {"lr": 0.1, "epochs": 9}, {"lr": 1e-7}]
    arms = [Arm("CE", "ce"), Arm("KD", "kd", {"temperature": 2.0}, train={"batch_size": 6})]
    found = tune(tiny, arms, grid, seeds=[50, 51])
    table = found.table
    assert table.groupby("arm").size().to_dict() == {"CE": 3, "KD": 3} and found.budget == 6
    assert table.lr.tolist() == 2 * [1e-6, 0.1, 1e-7]
    assert found.chosen == dict.fromkeys(("CE", "KD"), grid[1]) and table.chosen.tolist() == 2 * [False, True, False]
    assert [arm.train for arm in found.arms] == [{"lr": 0.1, "epochs": 9}, {"batch_size": 6, "lr": 0.1, "epochs": 9}]
    assert found.arms[1].knobs == {"temperature": 2.0} and arms[0].train == {}, "the given arms stay as they are"
    assert found.at_the_edge == [] and "6 trainings of each arm" in repr(found) and "<caption>" in found._repr_html_()
    json.dumps(found.to_dict(), allow_nan=False)
    # the numbers are those of a comparison on the held-out split
    again = compare(lambda s: held_out(tiny(s), seed=s), [Arm("x", "ce", train=grid[1])], seeds=[50, 51])
    assert table["mean"][1] == again.mean("x")
    assert compare(tiny, found.arms, seeds=1).rows.epochs.tolist() == [9, 9]


def test_without_a_grid_the_learning_rate_is_tried_around_the_arm_s_own() -> None:
    found = tune(tiny, [Arm("CE", "ce"), Arm("own", "ce", train={"lr": 1.0})], seeds=[50], epochs=1)
    assert found.table.lr.tolist() == [f * lr for lr in (0.01, 1.0) for f in (0.5, 1.0, 2.0, 4.0, 8.0)]
    first = found.table.groupby("arm")["chosen"].first()
    last = found.table.groupby("arm")["chosen"].last()
    assert found.at_the_edge == [arm for arm in ("CE", "own") if first[arm] or last[arm]]


class Sealed:
    """Images that nobody may look at, but for the shape of the first."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        if index:
            raise LookupError("a test image was read")
        return torch.zeros(4), 0


def test_test_images_are_never_looked_at() -> None:
    def blind(seed: int) -> Classification:
        task = tiny(seed)
        return replace(task, test=Sealed())

    with pytest.raises(LookupError, match="a test image was read"):
        compare(blind, ["ce"], seeds=[50])
    assert tune(blind, ["ce"], [{"lr": 0.1}], seeds=[50]).table["mean"].notna().all()


def test_of_equals_the_first_is_chosen_and_controls_are_tried_like_all() -> None:
    arms = [Arm("CE", "ce"), Arm("control", "ce", control_of="CE")]
    found = tune(tiny, arms, [{"lr": 0.05}, {"lr": 0.05, "batch_size": 12}], seeds=[50])
    assert found.chosen == {"CE": {"lr": 0.05}, "control": {"lr": 0.05}}
    assert found.arms[1].control_of == "CE"


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        ([Arm("loop", run=lambda *a, **k: torch.nn.Identity())], {}, "arms must be methods.*'loop' trains in its own"),
        (["ce"], {"grid": []}, "grid must name at least one setting"),
        (["ce"], {"fraction": 1.0}, "fraction must be in"),
        (["ce"], {"grid": [{"learning_rate": 1.0}]}, "learning_rate"),
    ],
)
def test_what_cannot_be_tuned_is_refused(arms: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        tune(tiny, arms, **{"seeds": [50], **options})


def test_a_stopped_tuning_chooses_nothing() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(ValueError, match="the tuning was stopped"):
        tune(tiny, ["ce"], stop=stop)


STUDY = Study(
    slug="tiny", words="tiny", task=tiny, arms=lambda: [Arm("CE", "ce"), Arm("KD", "kd")], claims=lambda comparison: [],
    grid=[{"lr": 1e-6}, {"lr": 0.1}],
)  # fmt: skip


def test_a_study_tunes_its_arms_where_it_is_asked_to() -> None:
    reports: list[tuple[int, int, str]] = []
    found = STUDY.run(seeds=2, tuned=True, progress=lambda *report: reports.append(report))
    assert found.tuning.chosen == {"CE": {"lr": 0.1}, "KD": {"lr": 0.1}} and found.tuning.seeds == (1000, 1001, 1002)
    done = [count for count, _, _ in reports]
    assert done == sorted(done) and reports[-1][0] == reports[-1][1] and "tuning" in reports[0][2]
    assert len({in_all for _, in_all, _ in reports}) == 1
    by_hand = compare(tiny, found.tuning.arms, seeds=2)
    assert found.values("KD").tolist() == by_hand.values("KD").tolist()
    assert STUDY.run(seeds=1).tuning is None and "tuned" in STUDY.names()
    with pytest.raises(ValueError, match=r"seeds must not be those of the trials, got \[1001\]"):
        STUDY.run(seeds=[0, 1001], tuned=True)


# Controls -------------------------------------------------------------------------------------------------------------


def judged(arm: list[float], control: list[float], *, higher: bool = True, on: str = "last") -> Any:
    records = [
        {"arm": name, "seed": s, "last": v if on == "last" else 0.5, on: v}
        for name, values in (("A", arm), ("C", control))
        for s, v in enumerate(values)
    ]
    (found,) = Comparison(
        arms=("A", "C"), seeds=tuple(range(len(arm))), metric="accuracy", higher_is_better=higher, records=records,
        controls={"C": ("A", (on,))},
    ).check_controls()  # fmt: skip
    return found


def test_three_things_can_be_said_of_a_control() -> None:
    good = judged([0.9, 0.91, 0.92, 0.9], [0.5, 0.52, 0.51, 0.5])
    assert good.failed and good.sentence.startswith("control failed as it must: C falls behind A: 90.75 against 50.75")
    bad = judged([0.5, 0.52, 0.51, 0.5], [0.9, 0.91, 0.92, 0.9])
    assert not bad.failed and bad.sentence.startswith("control did not fail: C falls behind A")
    unsettled = judged([0.5, 0.6, 0.55], [0.52, 0.5, 0.56])
    assert not unsettled.failed and unsettled.sentence.startswith("open at 3 seeds (")
    assert [v.to_dict()["says"] for v in (good, bad, unsettled)] == [
        "control failed as it must", "control did not fail", "open",
    ]  # fmt: skip
    assert good.to_dict()["value"] == "reproduced" and "control failed" in good._repr_html_()


def test_direction_of_the_score_and_of_other_numbers() -> None:
    low, high = [0.1, 0.11, 0.12, 0.1], [0.5, 0.52, 0.51, 0.5]
    assert judged(low, high, higher=False).failed, "an error that is larger has fallen behind"
    assert not judged(low, high).failed
    found = judged(high, low, higher=False, on="cosine")
    assert found.failed and "falls behind A in cosine" in found.sentence


def test_controls_come_from_arms_and_are_shown() -> None:
    arms = [Arm("CE", "ce"), Arm("still", "ce", train={"lr": 1e-9}, control_of="CE")]
    found = compare(tiny, arms, seeds=4, epochs=12, lr=0.1)
    assert found.controls == {"still": ("CE", ("last",))}
    assert [c.control for c in check_controls(found)] == ["still"] and check_controls(found)[0].failed
    assert "control failed as it must" in found._repr_html_()
    assert not compare(tiny, ["ce"], seeds=1, epochs=1).check_controls()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arm("a", "ce", control_of="a"), "control_of must name another arm"),
        (lambda: Arm("a", "ce", passes=0), "passes must be an integer >= 1, got 0"),
        (lambda: compare(tiny, [Arm("a", "ce", control_of="b")], seeds=1), "is a control of 'b', which is not among"),
    ],
)
def test_impossible_arms_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Passes ---------------------------------------------------------------------------------------------------------------


def test_arms_that_cost_more_are_named_in_the_table() -> None:
    found = compare(tiny, [Arm("CE", "ce"), Arm("twice", "ce", passes=2)], seeds=2, epochs=1)
    assert found.passes == {"twice": 2}
    assert found.table("CE")["passes"].to_dict() == {"CE": 1, "twice": 2}
    assert "passes" in found._repr_html_()
    assert "passes" not in compare(tiny, ["ce"], seeds=2, epochs=1).table()
