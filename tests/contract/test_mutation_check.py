"""The mutation check itself: it makes the faults it says, and one loss survives none of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.golden import close, grad_of
from support.mutants import faults, install, mutate
from torch import Tensor

from kdcore.functional import divergences
from kdcore.methods import vanilla_kd

CHECK = Path(__file__).resolve().parents[1] / "mutation_check.py"


def loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None = None, *, temperature: float = 1.0, weight: float = 1.0
) -> Tensor:
    """A stand-in."""
    return weight * temperature**2 * (student * teacher.detach() ** 2).sum()


def test_faults_follow_the_signature() -> None:
    assert faults(loss) == [
        "flip_sign",
        "scale_1.01",
        "offset",
        "halve_gradient",
        "detach_student",
        "swap_student_and_teacher",
        "drop_T2",
        "ignore_temperature",
        "ignore_weight",
    ]
    assert "drop_T2" not in faults(lambda x: x) and "swap_student_and_teacher" not in faults(lambda x: x)
    with pytest.raises(ValueError, match="cannot have the fault 'ignore_beta'"):
        mutate(loss, "ignore_beta")


@pytest.mark.parametrize(
    ("fault", "value", "gradient"),
    [
        ("flip_sign", -216.0, -108.0),
        ("scale_1.01", 218.16, 109.08),
        ("offset", 216.01, 108.0),
        ("halve_gradient", 216.0, 54.0),
        ("detach_student", 216.0, None),
        ("swap_student_and_teacher", 144.0, None),
        ("drop_T2", 54.0, 27.0),
        ("ignore_temperature", 54.0, 27.0),
        ("ignore_weight", 72.0, 36.0),
    ],
)
def test_faults_do_what_they_say(fault: str, value: float, gradient: float | None) -> None:
    student = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    result = mutate(loss, fault)(student, torch.tensor(3.0, dtype=torch.float64), temperature=2.0, weight=3.0)
    close(result, value)
    if gradient is None:
        assert not result.requires_grad
    else:
        close(grad_of(result, student), gradient)


def test_results_may_be_dicts() -> None:
    def named(x: Tensor) -> dict[str, Tensor]:
        return {"loss": 3 * x, "count": torch.tensor(2.0)}

    x = torch.tensor(2.0, requires_grad=True)
    out = mutate(named, "halve_gradient")(x)
    assert list(out) == ["loss", "count"]
    close(out["loss"], 6.0)
    close(grad_of(out["loss"], x), 1.5)
    close(mutate(named, "flip_sign")(x)["count"], -2.0)


def test_results_may_be_tuples() -> None:
    assert mutate(lambda x: (x, 2 * x), "flip_sign")(3.0) == (-3.0, -6.0)


def test_install_reaches_every_module_that_holds_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    original = divergences.kd_loss
    for module in [m for name, m in sys.modules.items() if name.startswith("kdcore")]:
        for attribute in [a for a, value in vars(module).items() if value is original]:
            monkeypatch.setattr(module, attribute, original)  # so that it is put back afterwards
    install("kdcore.methods.vanilla_kd:kd_loss:flip_sign")
    assert vanilla_kd.kd_loss is divergences.kd_loss is not original
    assert divergences.kd_loss(torch.zeros(1, 2), torch.ones(1, 2) * torch.tensor([1.0, 0.0])) < 0


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutation_check", CHECK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutation_check"] = module
    spec.loader.exec_module(module)
    return module


def test_what_to_check() -> None:
    wanted = script().wanted
    assert wanted(["vanilla_kd:kd_loss", "pld"]) == [("vanilla_kd", "kd_loss"), ("pld", "pld_loss")]
    assert {slug for slug, _ in wanted([])} >= {"vanilla_kd", "pld"}
    with pytest.raises(SystemExit, match="has no loss 'kl_loss'"):
        wanted(["pld:kl_loss"])


@pytest.mark.slow
def test_no_fault_of_pld_survives(capsys: pytest.CaptureFixture[str]) -> None:
    assert script().main(["pld:pld_loss"]) == 0
    assert "0 not" in capsys.readouterr().out
