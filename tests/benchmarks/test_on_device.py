"""What ``make gpu`` runs on a card is run here on the CPU, small: values are asserted inside, nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import cka, gpu, losses, on_device
from benchmarks.protocol import Row
from kdcore.models.cifar_resnet import resnet20


@pytest.mark.parametrize("dtype", on_device.ROUNDING, ids=str)
@pytest.mark.parametrize("name", losses.PAIRS)
def test_each_loss_is_held_against_float64_in_every_type(name: str, dtype: torch.dtype) -> None:
    errors = on_device.loss_errors(name, (6, 11), "cpu", dtype)
    assert 0 <= errors["error_value"] <= max(on_device.ROUNDING[dtype], errors["reference_error_value"])


def test_a_wrong_loss_is_noticed_in_every_type(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, _, goal = losses.PAIRS["KD"]
    wrong = losses.unprepared(lambda s, t, y: 1.05 * reference(s.float(), t.float(), y))
    monkeypatch.setitem(losses.PAIRS, "KD", (reference, wrong, goal))
    for dtype in on_device.ROUNDING:
        with pytest.raises(AssertionError, match=r"value of KD, \(6, 11\), (fp32|bf16|fp16) on cpu: off by"):
            on_device.loss_errors("KD", (6, 11), "cpu", dtype)


def small_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    x, y = (
        nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Conv2d(4, width, 3, stride=2), nn.ReLU())
        for width in (5, 7)
    )
    return x, y


def test_losses_map_and_occlusion_run_in_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cka, "LAYERS_X", ["0", "2"])
    monkeypatch.setattr(cka, "LAYERS_Y", ["1", "3"])
    torch.manual_seed(0)
    rows = [
        *on_device.measure_losses("cpu", quick=True),
        *on_device.measure_cka("cpu", quick=True, models=small_pair),
        *on_device.measure_occlusion("cpu", quick=True, models=[resnet20(10)], size=32),
    ]
    assert len(rows) == 3 * len(losses.PAIRS) + 3 + 3
    assert all(row.value > 0 for row in rows)
    assert {row.what.rpartition(", ")[2] for row in rows} == {"fp32", "bf16", "fp16"}


def test_step_and_cached_epoch_run_in_every_precision_that_a_cpu_trains_in() -> None:
    rows = on_device.measure_step("cpu", quick=True)
    assert [("bf16" in row.what, "fp32" in row.what) for row in rows] == [(False, True)] * 2 + [(True, False)] * 2


def test_without_a_card_it_says_skipped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    assert capsys.readouterr().out == "skipped: there is no CUDA device.\n"


def test_a_part_that_fails_is_told_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Row(what="a", against="b", value=1.0, detail={})

    def bad(device: str, *, quick: bool) -> list[Row]:
        raise AssertionError("off by 1")

    monkeypatch.setattr(gpu, "PARTS", {"bad": bad, "good": lambda device, quick: [good]})
    monkeypatch.delenv("KDCORE_DATA", raising=False)
    rows, failed = gpu.collect(gpu.Deadline(1.0), device="cpu", data=None, quick=True)
    assert rows == [good] and failed == ["bad: AssertionError: off by 1"]
    rows, failed = gpu.collect(gpu.Deadline(0.0), device="cpu", data=None, quick=True)
    assert not rows and [line.partition(":")[0] for line in failed] == ["bad", "good"]


def test_the_study_trains_teacher_and_students(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}_{part}": rng.integers(0, high, shape, dtype=np.uint8)
        for part, n in (("train", 24), ("test", 8))
        for kind, high, shape in (("x", 256, (n, 32, 32, 3)), ("y", 10, (n,)))
    }
    arrays["y_train"][:10] = np.arange(10)
    np.savez(tmp_path / "cifar.npz", **arrays)
    task = gpu.cifar_task(str(tmp_path / "cifar.npz"))
    rows = gpu.run_study(task, gpu.Deadline(5.0), device="cpu", seeds=1, quick=True)
    assert [row.what for row in rows] == [
        "CIFAR-10, 24 images: resnet56, 1 epochs",
        "resnet20, ce, 1 epochs, 1 of 1 seeds",
        "resnet20, kd, 1 epochs, 1 of 1 seeds",
    ]
    assert all(0 <= row.value <= 100 for row in rows) and json.dumps([dict(r.detail) for r in rows])
    assert gpu.cifar_task(None) is None or "KDCORE_DATA" in gpu.os.environ
    with pytest.raises(FileNotFoundError):
        gpu.cifar_task(str(tmp_path / "none.npz"))
