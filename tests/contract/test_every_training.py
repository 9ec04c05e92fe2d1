"""What every training of ``kdcore.methods`` promises, on its own example; new papers need no edit here."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore import methods
from kdcore.checkpoints import load_checkpoint, state_hash
from kdcore.distillation import Distillation
from kdcore.engine import NonFiniteLossError, Run, Step, Training, fit
from kdcore.few_shot import PrototypeFitting


def found() -> dict[str, type[Training]]:
    """The trainings that papers define, the distillation, and that of a few-shot teacher."""
    trainings: dict[str, type[Training]] = {"distillation": Distillation, "few_shot": PrototypeFitting}
    for info in pkgutil.iter_modules(methods.__path__):
        module = importlib.import_module(f"{methods.__name__}.{info.name}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and issubclass(value, Training) and value.__module__ == module.__name__
            if own and not name.startswith("_"):
                trainings[f"{info.name}.{name}"] = value
    return trainings


TRAININGS = found()
every_training = pytest.mark.parametrize("name", list(TRAININGS))


def hashes(training: Training) -> dict[str, str]:
    return {name: state_hash(module) for name, module in training.named_children()}


@every_training
def test_it_trains_and_the_teachers_stay_as_they_were(name: str) -> None:
    training = TRAININGS[name].example()
    frozen = {f: state_hash(training.get_submodule(f)) for f in training.frozen}
    before = hashes(training)
    result = fit(training, accelerator="cpu")
    assert not result.stopped and result.steps == result.history[-1].step > 1
    assert {f: state_hash(training.get_submodule(f)) for f in training.frozen} == frozen
    assert hashes(training) != before, "nothing was learnt"
    assert result.student is training.deployed() and not result.student.training
    for epoch in result.history:
        assert epoch.terms and all(torch.isfinite(torch.tensor(v)) for v in epoch.terms.values())


@every_training
def test_equal_seeds_give_equal_bits(name: str) -> None:
    first, second = (fit(TRAININGS[name].example(), accelerator="cpu", seed=3) for _ in range(2))
    assert hashes(first.training) == hashes(second.training)


@every_training
def test_resumed_in_its_first_middle_and_last_step_it_ends_in_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = fit(TRAININGS[name].example(), accelerator="cpu")
    for at in sorted({1, whole.steps // 2 or 1, whole.steps - 1 or 1}):
        stop, folder = threading.Event(), tmp_path / str(at)

        def halt(event: object, at: int = at, stop: threading.Event = stop) -> None:
            if isinstance(event, Step) and event.step == at:
                stop.set()

        fit(TRAININGS[name].example(), accelerator="cpu", checkpoint_dir=folder, stop=stop, callbacks=[halt])
        again = fit(TRAININGS[name].example(), accelerator="cpu", checkpoint_dir=folder, resume=True)
        assert hashes(again.training) == hashes(whole.training), f"stopped after step {at} of {whole.steps}"
        assert [e.terms for e in again.history] == [e.terms for e in whole.history]


@every_training
def test_no_teacher_is_in_a_checkpoint(name: str, tmp_path: Path) -> None:
    training = TRAININGS[name].example()
    fit(training, accelerator="cpu", checkpoint_dir=tmp_path)
    players = load_checkpoint(tmp_path)["players"]
    assert players and not [key for key in players if training.is_frozen(key)]


@every_training
def test_a_term_that_is_not_finite_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = TRAININGS[name].example()
    run = Run(training, accelerator="cpu")
    backward = []

    def spoilt(terms: Any) -> Tensor:
        values = list(terms)
        backward.append(len(values))
        return torch.stack(values).sum() * (float("nan") if len(backward) > 1 else 1.0)

    monkeypatch.setattr("kdcore.engine.update.total", spoilt)
    with pytest.raises(NonFiniteLossError, match=r"'gradient' is (nan|inf).* step \d+, batch"):
        list(run.run())
