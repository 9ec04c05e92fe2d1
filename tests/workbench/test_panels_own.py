"""What a reader brings into the panels (folders, settings as text), and what the panels remember of trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore.distiller import Epoch
from kdcore.experiment import Arm, compare
from kdcore.models import MLP
from kdcore.tasks import Classification, ModelSpec, Recipe, Task, load_task
from workbench.panels import BeforeAfter, LiveCurves, TrainPanel, parse_settings
from workbench.panels.base import Panel
from workbench.panels.own_data import FolderForm
from workbench.panels.pair import UNTRAINED


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    yield
    for panel in list(Panel._open.values()):
        panel.close()


def blobs(n: int, seed: int) -> list[tuple[torch.Tensor, int]]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.eye(3, 6)[i % 3] * 3 + torch.randn(6, generator=g), i % 3) for i in range(n)]


def task() -> Task:
    recipe = Recipe(epochs=3, batch_size=16, lr=1e-2)
    return Classification(
        name="blobs",
        train=blobs(96, 0),
        test=blobs(60, 1),
        class_names=("a", "b", "c"),
        teachers={"wide": ModelSpec(build=lambda: MLP((6,), (16, 16), 3), recipe=recipe)},
        students={
            "thin": ModelSpec(build=lambda: MLP((6,), (4, 4), 3), recipe=recipe),
            "slow": ModelSpec(build=lambda: MLP((6,), (4,), 3), recipe=Recipe(epochs=7)),
        },
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three colours, ten noisy images each, and one file that is no image."""
    noise = np.random.default_rng(0)
    for name, colour in (("red", (220, 40, 40)), ("green", (40, 200, 60)), ("blue", (40, 60, 220))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.clip(np.array(colour) + noise.normal(0, 30, (12, 14, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    (tmp_path / "pictures" / "red" / "broken.png").write_bytes(b"no image")
    return tmp_path / "pictures"


def train(panel: TrainPanel) -> None:
    panel.start()
    assert panel.join(60) and panel.state.error is None and panel.state.job == "done"


# Settings as text -----------------------------------------------------------------------------------------------------


def test_settings_are_read_as_what_they_look_like() -> None:
    assert parse_settings(
        ["temperature=8", "weights = first", "flag=True", "rate=1e-3", "omit=[1, 2]", "text=a=b"]
    ) == {"temperature": 8, "weights": "first", "flag": True, "rate": 1e-3, "omit": [1, 2], "text": "a=b"}
    assert parse_settings([]) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["temperature"], "name=value, got 'temperature'"),
        (["=3"], "name=value"),
        (["a b=3"], "name=value"),
        (["T=1", "T=2"], "'T' is given twice"),
    ],
)
def test_bad_settings_are_named(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_settings(texts)


# A folder of your own -------------------------------------------------------------------------------------------------


def test_folder_form_gives_a_task_and_says_what_was_skipped(folder: Path) -> None:
    got: list[Task] = []
    form = FolderForm(got.append)
    form.fields["root"].value, form.fields["student"].value, form.size.value = f" {folder} ", "cnn-small", 16
    form.button.click()
    assert form.join(60) and len(got) == 1
    assert got[0].class_names == ("blue", "green", "red") and got[0].input_shape == (3, 16, 16)
    assert next(iter(got[0].students)) == "cnn-small"
    assert "Loaded <b>images-pictures</b>" in form._box.html and "1 of 31 images cannot be read" in form._box.html
    assert not form.button.disabled


def test_folder_form_takes_the_images_own_size_unless_one_was_chosen(tmp_path: Path) -> None:
    got: list[Task] = []
    form = FolderForm(got.append)

    def load(side: int) -> tuple[int, ...]:
        for name in ("a", "b"):
            (tmp_path / str(side) / name).mkdir(parents=True, exist_ok=True)
            for i in range(6):
                Image.new("RGB", (side, side), (40 * i, 0, 0)).save(tmp_path / str(side) / name / f"{i}.png")
        form.fields["root"].value = str(tmp_path / str(side))
        form.load()
        assert form.join(60)
        return got[-1].input_shape

    assert load(28) == (3, 28, 28) and form.size.value == 28
    assert load(32) == (3, 32, 32) and form.size.value == 32  # not a choice of the reader's
    form.size.value = 48
    assert load(28) == (3, 48, 48) and form.size.value == 48 and len(got) == 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("root", "/no/such/folder", "there is no folder"),
        ("teacher", "resnet_18", "timm name"),
        ("teacher_weights", "somewhere.safetensors", "needs teacher"),
    ],
)
def test_wrong_fields_are_told_in_the_form(folder: Path, field: str, value: str, message: str) -> None:
    form = FolderForm(lambda task: pytest.fail("a task came of wrong fields"))
    form.fields["root"].value = str(folder)
    form.fields[field].value = value
    form.load()
    assert form.join(60) and message in form._box.html and "traceback" in form._box.html
    assert not form.button.disabled


def test_timm_networks_are_distilled_on_a_folder(folder: Path) -> None:
    panel = TrainPanel(task(), epochs=1)
    assert panel.widget
    form = panel._form
    form.fields["root"].value, form.size.value = str(folder), 32
    form.fields["teacher"].value, form.fields["student"].value = "test_resnet", "test_efficientnet"
    form.load()
    assert form.join(90) and 'role="status">Loaded' in form._box.html
    s = panel.state
    assert (s.task, s.teacher, s.student) == ("images-pictures", "test_resnet", "test_efficientnet")
    assert [panel._choices[role].value for role in ("task", "teacher", "student")] == [s.task, s.teacher, s.student]
    assert "blobs" in panel._choices["task"].options
    panel.task.teachers["test_resnet"] = ModelSpec(
        build=panel.task.teachers["test_resnet"].build, recipe=Recipe(epochs=1)
    )
    train(panel)
    assert panel.outcome is not None and type(panel.outcome.student).__name__ == "EfficientNet"


def test_a_task_is_not_changed_under_a_training() -> None:
    panel = TrainPanel(task(), epochs=2000)
    assert panel.widget
    panel.start()
    with pytest.raises(RuntimeError, match="stop it before choosing another task"):
        panel.use(task())
    assert panel._form.button.disabled or panel.state.job == "idle"  # locked as soon as the panel has heard of it


def test_a_task_that_cannot_be_loaded_is_explained_and_the_choice_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path / "nothing"))
    panel = TrainPanel(task())
    assert panel.widget
    panel._choices["task"].value = "cifar10"
    assert isinstance(panel.state.error, FileNotFoundError) and "cifar" in panel._box.html.lower()
    assert panel.state.task == panel._choices["task"].value == "blobs"
    panel._choices["task"].value = "digits"
    assert panel.state.error is None and panel._box.html == ""
    assert panel.state.student == panel._choices["student"].value


def test_epochs_follow_the_students_recipe_until_they_are_set() -> None:
    panel = TrainPanel(task())
    assert panel.widget and panel.state.epochs_wanted == 3
    panel._choices["student"].value = "slow"
    assert panel.state.epochs_wanted == panel._numbers["epochs_wanted"].value == 7
    panel._numbers["epochs_wanted"].value = 5
    panel._choices["student"].value = "thin"
    assert panel.state.epochs_wanted == 5


# What is remembered ---------------------------------------------------------------------------------------------------


def test_earlier_trainings_stay_in_the_chart_and_can_be_compared() -> None:
    panel = TrainPanel(task(), method="kd", epochs=2)
    follower = BeforeAfter(panel, limit=40)
    assert panel.widget and follower.widget and follower.settle()
    assert follower.outcome is None and "Press <b>Start</b>" in follower._box.text
    with pytest.raises(RuntimeError, match="nothing has been trained"):
        follower.pair()
    train(panel)
    assert follower.settle(60) and follower.state.error is None and "after KD" in follower._box.text
    assert follower._inputs["against"].options == (UNTRAINED,) and follower._inputs["sample"].high == 39
    panel._choices["method"].value = "dist"
    train(panel)
    assert [o.request.method for o in panel.outcomes] == ["kd", "dist"]
    assert "KD (training 1): 2 points" in panel._metric.alt and "DIST (this training): 2 points" in panel._metric.alt
    assert follower.settle(60) and follower.state.values["against"] == UNTRAINED
    follower.set(against="KD (training 1)", picture="agreement")
    assert follower.settle(60) and follower.state.error is None
    assert "KD (training 1)" in follower._box.text and "after DIST" in follower._box.text
    before = follower.pair("KD (training 1)").before
    assert before is not None and all(
        torch.equal(a, b) for a, b in zip(before.parameters(), panel.outcomes[0].student.parameters(), strict=True)
    )  # type: ignore[union-attr]


def test_static_before_and_after_trains_once_and_its_numbers_are_those_of_the_networks() -> None:
    panel = TrainPanel(task(), epochs=2)
    follower = BeforeAfter(panel)
    titles = [v.title for v in follower.static()]
    assert any("CKA" in t for t in titles) and any("prediction" in t for t in titles)
    assert len(panel.outcomes) == 1 and follower.static() and len(panel.outcomes) == 1
    outcome, numbers = panel.outcomes[0], follower.numbers()
    assert outcome.student is not None and outcome.teacher is not None and outcome.result is not None
    assert numbers["student"] == pytest.approx(outcome.result.last_metric)
    assert numbers["teacher"] == pytest.approx(panel.task.accuracy(outcome.teacher))
    assert numbers["untrained"] == pytest.approx(panel.task.accuracy(panel.task.student("thin", seed=0)))
    assert numbers["epochs"] == 2 and numbers["steps"] == outcome.result.steps
    assert -1 <= numbers["tau"] <= 1 and 0 <= numbers["cka"] <= 1.01
    pair = follower.pair()
    divergence = [
        torch.nn.functional.kl_div(
            pair.logits["after"][i].log_softmax(0), pair.logits["teacher"][i].softmax(0), reduction="sum"
        ).item()
        for i in range(pair.count)
    ]
    assert pair.farthest == max(range(pair.count), key=divergence.__getitem__)


# Curves under a running cell ------------------------------------------------------------------------------------------


def test_live_curves_hold_the_newest_run_of_every_arm() -> None:
    curves = LiveCurves("Accuracy")
    arms = [Arm("CE", "ce", train=curves.follow("CE")), Arm("KD", "kd", train=curves.follow("KD"))]
    result = compare(
        lambda seed: load_task("digits", seed=seed, train_size=50),
        arms,
        teacher=MLP((1, 8, 8), (4,), 10),
        student="mlp-16",
        seeds=2,
        epochs=2,
    )
    assert curves.chart is None  # nobody looks
    for arm in ("CE", "KD"):
        x, y = curves.series[arm]
        assert x == [1, 2] and y == [e.metrics["accuracy"] for e in result.histories[arm, 1]]
    view = curves.view()
    assert view.table["CE"].tolist() == curves.series["CE"][1] and "accuracy over epoch from 1 to 2" in view.alt
    assert view.alt in curves._repr_mimebundle_()["text/plain"]


def test_live_curves_of_unequal_length_are_drawn_as_far_as_they_go() -> None:
    curves = LiveCurves("Accuracy")
    assert "no epoch" in curves._repr_mimebundle_()["text/plain"]
    with pytest.raises(ValueError, match="no epoch was followed"):
        curves.view()
    curves.series = {"long": ([1, 2, 3], [0.1, 0.5, 0.4]), "short": ([1, 2], [0.2, 0.3])}
    view = curves.view()
    assert "long goes from 0.1 to 0.4, highest 0.5 at 2; short goes from 0.2 to 0.3" in view.alt
    assert view.table["short"].isna().tolist() == [False, False, True] and view.png()


def test_live_curves_name_a_metric_that_is_not_measured() -> None:
    listen = LiveCurves("Recall", metric="recall").follow("KD")["callbacks"][0]
    listen("not an epoch")
    epoch = Epoch(
        epoch=0,
        step=1,
        terms={},
        metrics={"accuracy": 0.5},
        lr=0.1,
        seconds=1.0,
        samples_per_second=1.0,
        teacher_forwards=0,
        is_best=True,
    )
    with pytest.raises(ValueError, match=r"accuracy.*got 'recall'"):
        listen(epoch)
