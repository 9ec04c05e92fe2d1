"""The mutation check itself: it makes the faults it says, in losses and algorithms, and notices what tests do not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from support import mutants
from support.golden import close, grad_of
from support.mutants import algorithm_faults, faults, install, mutate
from torch import Tensor, nn

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


def weights(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """A stand-in for an algorithm."""
    return (logits / temperature).softmax(-1)


def words(name: str) -> str:
    """What no fault fits."""
    return name.upper()


def test_algorithms_have_faults_of_their_value_and_their_knobs() -> None:
    assert algorithm_faults(weights) == ["flip_sign", "scale_1.01", "offset", "ignore_temperature"]
    assert algorithm_faults(words) == []


class Pair(NamedTuple):
    first: float
    second: str


@pytest.mark.parametrize(
    ("fault", "result", "faulty"),
    [
        ("flip_sign", {"a": 1.0, "b": (-2.0,), "name": "x"}, {"a": -1.0, "b": (2.0,), "name": "x"}),
        ("scale_1.01", [100.0, 7], [101.0, 7]),
        ("offset", Pair(1.0, "x"), Pair(1.01, "x")),
        ("offset", 3, 4),
        ("offset", True, True),
        ("flip_sign", torch.tensor([[2, 0, 1]]), torch.tensor([[1, 0, 2]])),
        ("offset", torch.tensor([2, 0]), torch.tensor([3, 1])),
        ("scale_1.01", torch.tensor([2, 0]), torch.tensor([2, 0])),
        ("flip_sign", torch.tensor([True, False]), torch.tensor([False, True])),
        ("offset", None, None),
    ],
    ids=str,
)
def test_a_fault_fits_what_is_returned(monkeypatch: pytest.MonkeyPatch, fault: str, result: Any, faulty: Any) -> None:
    monkeypatch.setattr(mutants, "TALLY", {"calls": 0, "changed": 0})

    def algorithm(x: Any) -> Any:
        return x

    found = mutate(algorithm, fault)(result)
    assert type(found) is type(result)
    assert torch.equal(found, faulty) if isinstance(result, Tensor) else found == faulty
    assert mutants.TALLY["calls"] == 1 and bool(mutants.TALLY["changed"]) == (str(found) != str(result))


def test_a_function_that_is_returned_has_the_fault_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "TALLY", {"calls": 0, "changed": 0})

    def maker(start: float) -> Callable[[float], float]:
        return lambda x: start + x

    assert algorithm_faults(maker) == ["flip_sign", "scale_1.01", "offset"]
    assert mutate(maker, "flip_sign")(1.0)(2.0) == -3.0
    assert mutate(lambda: nn.Identity(), "flip_sign")()(2.0) == 2.0, "a network is not a function"


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
    assert wanted(["vanilla_kd:kd_loss"]) == [("vanilla_kd", "kd_loss")]
    assert [name for _, name in wanted(["pld"])] == [
        "pld_loss", "pld_gradient", "pld_weights", "teacher_optimal_permutation",
    ]  # fmt: skip
    assert {slug for slug, _ in wanted([])} >= {"vanilla_kd", "pld", "pcoreset"}
    assert ("pcoreset", "prediction_bias") in wanted(["pcoreset"]), "a paper without a loss is checked too"
    with pytest.raises(SystemExit, match="has no function 'kl_loss' to check; it has pld_loss, pld_gradient"):
        wanted(["pld:kl_loss"])
    with pytest.raises(SystemExit, match="there is no method 'pdl'"):
        wanted(["pdl"])


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., str]:
    """The check in a project whose tests of PLD are one's own; it prints what came of it."""
    tests, root = tmp_path / "tests", CHECK.parents[1]
    (tests / "methods").mkdir(parents=True)
    shutil.copy(root / "pyproject.toml", tmp_path)
    for name in ("conftest.py", "mutation_check.py"):
        shutil.copy(root / "tests" / name, tests)
    shutil.copytree(root / "tests" / "support", tests / "support")

    def run(code: str, *arguments: str) -> str:
        (tests / "methods" / "test_pld.py").write_text(code)
        command = [sys.executable, str(tests / "mutation_check.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(root)}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env=environment
        )
        return f"{done.stdout}{done.stderr}exit {done.returncode}"

    return run


def test_survivors_broken_tests_and_faults_that_do_not_fit_are_told_apart(checked: Callable[..., str]) -> None:
    said = checked(
        """
import pytest, torch
from kdcore.methods.pld import teacher_optimal_permutation

def test_sign():
    order = teacher_optimal_permutation(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([0]))
    assert order[0, 0] in (0, 1), "an order from the end is noticed, one that is off by one is not"

@pytest.mark.slow
def test_slow():
    assert not "run"
""",
        "pld:teacher_optimal_permutation",
        "pld:pld_gradient",
    )
    table = {tuple(line.split()[:2]): line.split()[2:] for line in said.splitlines() if line.startswith("pld.")}
    assert table["pld.teacher_optimal_permutation", "flip_sign"] == ["killed", "test_sign"]
    assert table["pld.teacher_optimal_permutation", "offset"] == ["survived"]
    assert table["pld.teacher_optimal_permutation", "scale_1.01"] == ["no", "fit"]
    assert table["pld.pld_gradient", "flip_sign"] == ["survived"], "nobody calls it"
    assert "6 faults, 1 noticed, 5 not, 1 that fit no result" in said and said.endswith("exit 1")
    assert "SURVIVED: pld.pld_gradient ignore_temperature" in said


def test_tests_that_fail_or_do_not_run_without_a_fault_stop_the_check(checked: Callable[..., str]) -> None:
    said = checked("def test_it():\n    import os\n    os._exit(7)\n", "pld:pld_loss")
    assert "fails without any fault" in said and said.endswith("exit 1")


def test_one_fault_can_be_run_without_a_fork(checked: Callable[..., str]) -> None:
    said = checked("def test_it():\n    pass\n", "--one", "pld:pld_loss:offset")
    assert "1 passed" in said and said.endswith("exit 0")


@pytest.mark.slow
def test_no_fault_of_pld_survives() -> None:
    done = subprocess.run([sys.executable, str(CHECK), "pld"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and " 0 not," in done.stdout, done.stdout + done.stderr
