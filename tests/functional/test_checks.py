"""Border checks: every message names the argument, what came and what was expected."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from typing import Any

import pytest
import torch

import kdcore.functional
from kdcore.functional import checks
from kdcore.functional.cka import cka
from kdcore.functional.correlation import kendall_tau
from kdcore.functional.divergences import dist_loss, dkd_loss, kd_loss
from kdcore.functional.reductions import at_least_float32, reduce


def test_describe_and_closest() -> None:
    assert checks.describe(torch.zeros(8, 10)) == "float32 (8, 10)"
    assert checks.describe((torch.zeros(2, 3), None)) == "a tuple of float32 (2, 3), None"
    assert checks.describe({"logits": torch.zeros(2, 3)}) == "a dict of logits: float32 (2, 3)"
    assert checks.describe("x" * 300) == "'" + "x" * 199 + " ..."
    assert checks.describe(None) == "None" and checks.describe("x") == "'x'"
    assert checks.closest("temperatur", ["temperature", "alpha"]) == " Did you mean 'temperature'?"
    assert checks.closest("zzz", ["temperature"]) == ""


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (checks.check_positive, (0, -1, math.nan, math.inf), (1, 0.1)),
        (checks.check_non_negative, (-0.1, math.nan, math.inf), (0, 3)),
        (checks.check_fraction, (-0.1, 1.1, math.nan), (0, 0.5, 1)),
    ],
)
def test_numbers(check, bad: tuple[float, ...], good: tuple[float, ...]) -> None:
    for value in good:
        check("beta", value)
    for value in bad:
        with pytest.raises(ValueError, match=f"beta must be .*got {value}"):
            check("beta", value)


def test_weights_are_named_in_the_message() -> None:
    checks.check_weights(ce_weight=1.0, kd_weight=0)
    with pytest.raises(ValueError, match=r"kd_weight must be a finite number >= 0, got -1"):
        checks.check_weights(ce_weight=1.0, kd_weight=-1)


def test_open_fraction() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1"):
        checks.check_fraction("ratio", 1, closed=False)


def test_choice() -> None:
    checks.check_choice("mode", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"mode must be one of 'alpha', 'beta', got 'alpa'\. Did you mean 'alpha'\?"):
        checks.check_choice("mode", "alpa", ("alpha", "beta"))
    with pytest.raises(ValueError, match="got 3"):
        checks.check_choice("mode", 3, ("a",))


def test_logits_pair() -> None:
    x = torch.zeros(2, 3)
    checks.check_logits_pair(x, x)
    checks.check_logits_pair(x[..., None, None], x[..., None, None], ndim=(2, 4))
    for args, kwargs, error, message in [
        ((x, x[:1]), {}, ValueError, r"\(2, 3\) and \(1, 3\)"),
        ((x, x[:, :2]), {}, ValueError, "3 classes and the teacher 2"),
        ((x[0], x[0]), {}, ValueError, r"student_logits must be \(N, C\), got float32 \(3,\)"),
        ((x, x[0]), {}, ValueError, "teacher_logits must be"),
        ((x, x.int()), {}, TypeError, r"teacher_logits must be a floating tensor of raw scores, got int32 \(2, 3\)"),
        (([1.0], x), {}, TypeError, r"student_logits must be a floating tensor of raw scores, got \[1.0\]"),
        ((x, x), {"min_classes": 4}, ValueError, "at least 4 classes"),
        ((x, x), {"min_samples": 3}, ValueError, "at least 3 samples"),
        ((x[:0], x[:0]), {}, ValueError, "at least 1 samples"),
        ((x, x.to("meta")), {}, ValueError, "same device, got cpu and meta"),
    ]:
        with pytest.raises(error, match=message):
            checks.check_logits_pair(*args, **kwargs)


def test_labels() -> None:
    labels = torch.tensor([0, 2], dtype=torch.int32)
    assert checks.check_labels(labels, 2, 3).dtype == torch.int64
    assert checks.check_labels(torch.tensor([0, -100]), 2, 3, ignore_index=-100).tolist() == [0, -100]
    for value, error, message in [
        (None, ValueError, r"labels are required: an integer tensor of shape \(2,\)"),
        (labels.float(), TypeError, r"integer dtype \(int64\), got float32 \(2,\)"),
        (labels.bool(), TypeError, "got bool"),
        (labels[:1], ValueError, r"shape \(2,\), got int32 \(1,\)"),
        (labels + 1, ValueError, r"\[0, 3\), got 3 \(at position 1\)"),
        (labels - 3, ValueError, r"got -3 \(at position 0\)"),
    ]:
        with pytest.raises(error, match=message):
            checks.check_labels(value, 2, 3)


def test_features_pair() -> None:
    x = torch.zeros(4, 5)
    checks.check_features_pair(x, torch.zeros(4, 2, 3))
    for y, kwargs, message in [
        (torch.zeros(3, 5), {}, "same samples"),
        (torch.zeros(()), {}, "same samples"),
        (torch.zeros(4, 6), {"same_shape": True}, "use a projector"),
        (x, {"min_samples": 5}, "at least 5 samples, got 4"),
        (torch.zeros(3, 5), {"names": ("x", "y")}, "^x and y must hold"),
    ]:
        with pytest.raises(ValueError, match=message):
            checks.check_features_pair(x, y, **kwargs)


def test_reduce() -> None:
    loss = torch.tensor([1.0, 2.0, 6.0])
    assert reduce(loss) == 3 and reduce(loss, "sum") == 9 and reduce(loss, "none") is loss
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', 'none', got 'avg'"):
        reduce(loss, "avg")


def test_at_least_float32() -> None:
    for given, expected in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32)):
        assert at_least_float32(torch.zeros(1, dtype=given)).dtype == expected
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, dtype=dtype)
        assert at_least_float32(x) is x


# Errors name the argument, in every public function ------------------------------------------------------------------


def public_functions() -> list[tuple[str, Any]]:
    found = []
    for info in pkgutil.iter_modules(kdcore.functional.__path__):
        if info.name.startswith("_") or info.name == "checks":
            continue
        module = importlib.import_module(f"kdcore.functional.{info.name}")
        for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
            value = getattr(module, name)
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                found.append((f"{info.name}.{name}", value))
    return found


def tensors_of(function: Any) -> list[str]:
    """Arguments that must be given, if all of them are tensors."""
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    plain = all(p.annotation == "Tensor" and p.kind is not p.VAR_POSITIONAL for p in needed)
    return [p.name for p in needed] if plain else []


FUNCTIONS = [(name, f) for name, f in public_functions() if tensors_of(f)]


@pytest.mark.parametrize(("name", "function"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
@pytest.mark.parametrize("wrong", ["text", [1.0, 2.0], None], ids=["text", "list", "None"])
def test_what_is_no_tensor_is_named(name: str, function: Any, wrong: Any) -> None:
    names = tensors_of(function)
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**dict.fromkeys(names, wrong))
    assert any(re.search(rf"\b{n}\b", str(caught.value)) for n in names), str(caught.value)


def test_the_wrong_one_of_several_is_named() -> None:
    s, labels = torch.randn(4, 3), torch.arange(4) % 3
    for call, message in (
        (lambda: kd_loss(s, s, temperature="4"), "temperature must be a number, got '4'"),  # type: ignore[arg-type]
        (lambda: cka(s, "y"), "y must be a tensor, got 'y'"),  # type: ignore[arg-type]
        (lambda: cka(s, s.to("meta")), "y must hold values, got float32 (4, 3) on the device 'meta'"),
        (lambda: dkd_loss(s, s, labels, alpha="1"), "alpha must be a number, got '1'"),  # type: ignore[call-overload]
        (lambda: kendall_tau(s, None), "must be a tensor, got None"),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        assert message in str(caught.value)


@pytest.mark.parametrize("temperature", [1e-30, 1e-7, 2e6, 1e30, 1e300])
def test_temperatures_without_digits_are_refused(temperature: float) -> None:
    s, t = torch.randn(2, 4, 3)
    for call in (kd_loss, dist_loss):
        with pytest.raises(ValueError, match=r"temperature must be a finite number > 0, from 1e-06 to 1e\+06, got"):
            call(s, t, temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 65.0, 1e3, 1e5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hot_and_cold_temperatures_give_numbers_and_the_known_limit(temperature: float, dtype: torch.dtype) -> None:
    s, t = (3 * torch.randn(2, 6, 5)).to(dtype)
    s.requires_grad_()
    loss = kd_loss(s, t, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, s)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all() and loss >= 0
    if temperature >= 1e3:  # T^2 KL tends to half the mean square of the centred difference
        gap = t.double() - s.detach().double()
        limit = (gap - gap.mean(1, keepdim=True)).square().mean(1).mean() / 2
        torch.testing.assert_close(loss.double(), limit, rtol=1e-2, atol=0)


def test_no_classes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="student_logits needs at least 1 classes"):
        kd_loss(torch.zeros(4, 0), torch.zeros(4, 0))
