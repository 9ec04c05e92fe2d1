"""Reference teachers: trained once, found by what made them, never half-read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcore.checkpoints import CheckpointError, save_weights, state_hash
from kdcore.models import MLP
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Recipe, Task, cache_folder, data_folder
from kdcore.tasks import _teachers as teachers

RECIPE = Recipe(epochs=2, batch_size=16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    return tmp_path


def tiny(*, seed: int = 0, width: int = 4, recipe: Recipe = RECIPE, shift: float = 0.0, name: str = "tiny") -> Task:
    g = torch.Generator().manual_seed(9)
    y = torch.arange(3).repeat(16)
    data = ArrayDataset(torch.randn(48, 5, generator=g) + y[:, None] + shift, y)
    return Classification(
        name=name,
        train=data,
        test=data,
        class_names="abc",
        seed=seed,
        teachers={"net": ModelSpec(build=partial(MLP, 5, (width,), 3, dropout=0.1), recipe=recipe)},
    )


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the teachers that were trained, not read."""
    done: list[str] = []
    fit = Task.fit

    def counted(self: Task, *args: Any, label: str, **options: Any) -> Any:
        done.append(label.removeprefix("teacher "))
        return fit(self, *args, label=label, **options)

    monkeypatch.setattr(Task, "fit", counted)
    return done


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted((folder / "teachers").glob(f"*{suffix}"))


def test_second_load_reads_the_same_weights(cache: Path, trainings: list[str]) -> None:
    reports: list[tuple[int, int, str]] = []
    first = tiny().teacher(progress=lambda *report: reports.append(report))
    second = tiny().teacher("net")
    assert trainings == ["net"] and reports == [(1, 2, "teacher net"), (2, 2, "teacher net")]
    assert state_hash(first) == state_hash(second) and first is not second
    assert not first.training and not second.training
    note = json.loads(files(cache, ".json")[0].read_text())
    assert note["state_hash"] == state_hash(first) and note["made_of"]["recipe"]["epochs"] == 2


def test_a_process_knows_what_its_teachers_took(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "USED", {})
    tiny().teacher()
    path = files(cache, ".safetensors")[0]
    made = teachers.USED[path]
    assert made.label == path.stem and made.cpu_seconds > 0 and not made.cached
    tiny().teacher()
    assert {path: made} == teachers.USED, "what this process trained it has not been spared"
    teachers.USED.clear()
    tiny().teacher()
    assert {path: replace(made, cached=True)} == teachers.USED


def test_training_it_again_gives_the_same_weights_and_disturbs_no_random_state(cache: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = state_hash(tiny().teacher())
    assert torch.equal(before, torch.get_rng_state())
    for path in (cache / "teachers").iterdir():
        path.unlink()
    torch.manual_seed(6)
    assert state_hash(tiny().teacher()) == first


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"width": 5},
        {"recipe": replace(RECIPE, epochs=3)},
        {"recipe": replace(RECIPE, lr=1e-2)},
        {"shift": 0.5},
        {"name": "other"},
    ],
    ids=str,
)
def test_whatever_makes_a_teacher_is_part_of_its_name(other: dict[str, Any], trainings: list[str]) -> None:
    tiny().teacher()
    tiny(**other).teacher()
    assert trainings == ["net", "net"]


def test_recipe_version_makes_old_files_invisible(monkeypatch: pytest.MonkeyPatch, trainings: list[str]) -> None:
    tiny().teacher()
    monkeypatch.setattr(teachers, "RECIPE_VERSION", teachers.RECIPE_VERSION + 1)
    tiny().teacher()
    assert len(trainings) == 2


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink], ids=["truncated", "one bit", "gone"])
def test_damaged_weights_are_named_and_made_again(cache: Path, trainings: list[str], damage: Any) -> None:
    good = state_hash(tiny().teacher())
    path = files(cache, ".safetensors")[0]
    damage(path)
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged"):
        assert state_hash(tiny().teacher()) == good
    assert len(trainings) == 2
    assert state_hash(tiny().teacher()) == good and len(trainings) == 2


def test_damaged_note_is_named_and_made_again(cache: Path, trainings: list[str]) -> None:
    tiny().teacher()
    files(cache, ".json")[0].write_text("{")
    with pytest.warns(UserWarning, match="is damaged"):
        tiny().teacher()
    assert len(trainings) == 2


def test_weights_without_their_note_are_not_believed(cache: Path, trainings: list[str]) -> None:
    tiny().teacher()
    files(cache, ".json")[0].unlink()  # what a process killed between the two files leaves
    tiny().teacher()
    assert len(trainings) == 2


def test_unwritable_cache_costs_a_warning_not_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("KDCORE_CACHE", str(blocked))
    with pytest.warns(UserWarning, match=r"cannot be kept in .*KDCORE_CACHE"):
        model = tiny().teacher()
    assert tiny().accuracy(model) > 0.2


def test_full_disk_costs_a_warning_not_the_teacher(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(module: Any, path: Path) -> None:
        raise CheckpointError("cannot write: No space left on device.", path)

    monkeypatch.setattr(teachers, "save_weights", full)
    with pytest.warns(UserWarning, match="teacher is not kept.*No space left"):
        tiny().teacher()
    assert not files(cache, ".json") and not files(cache, ".safetensors")


def test_two_processes_at_once_train_it_once(cache: Path, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text("""
import torch
from functools import partial
from kdcore.checkpoints import state_hash
from kdcore.models import MLP
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Recipe, Task
from kdcore.tasks import Classification, _teachers as teachers
torch.set_num_threads(1)
y = torch.arange(3).repeat(16)
data = ArrayDataset(torch.randn(48, 5, generator=torch.Generator().manual_seed(9)) + y[:, None], y)
spec = ModelSpec(build=partial(MLP, 5, (4,), 3), recipe=Recipe(epochs=40, batch_size=8))
task = Classification(name="both", train=data, test=data, class_names="abc", teachers={"net": spec})
trained = []
fit = Task.fit
Task.fit = lambda *args, **options: (trained.append(1), fit(*args, **options))[1]
model = task.teacher()
print(len(trained), state_hash(model))
""")
    environment = os.environ | {"KDCORE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [child.communicate(timeout=300)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(int(count) for count, _ in answers) == [0, 1]
    assert answers[0][1] == answers[1][1]


def test_checkpoint_given_by_path(tmp_path: Path) -> None:
    model = MLP(5, (4,), 3)
    path = save_weights(model, tmp_path / "mine.safetensors")
    task = tiny()
    task.teachers["mine"] = ModelSpec(build=partial(MLP, 5, (4,), 3), weights=path)
    assert state_hash(task.teacher("mine")) == state_hash(model)
    task.students = {"warm": ModelSpec(build=partial(MLP, 5, (4,), 3), weights=path)}
    student = task.student()
    assert state_hash(student) == state_hash(model) and student.training


def test_checkpoint_for_other_classes_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = save_weights(MLP(5, (4,), 7), tmp_path / "seven.safetensors")
    with pytest.raises(ValueError, match=r"was trained for 7 classes .*, but task 'tiny' has 3: a, b, c"):
        tiny().load(MLP(5, (4,), 3), path)
    with pytest.raises(ValueError, match=r"seven.safetensors must give \(N, 3\) logits.*\(2, 7\)"):
        tiny().load(MLP(5, (4,), 7), path)
    with pytest.raises(CheckpointError, match="does not fit"):
        tiny().load(MLP(5, (9,), 3), path)


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path and data_folder() == tmp_path / "data"
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path / "sets"))
    assert data_folder() == tmp_path / "sets"
    monkeypatch.delenv("KDCORE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder().name == "kdcore" and cache_folder().is_absolute()
