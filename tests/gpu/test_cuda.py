"""What only a CUDA device shows: the values of the CPU, mixed precision, models that start elsewhere, resume."""

from __future__ import annotations

import copy
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore import cka_map, create_method, distill, list_objectives
from kdcore.cache import TeacherCache
from kdcore.distiller import Distiller, Step
from kdcore.method import Signals
from kdcore.models import ConvNet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def to_cuda(signals: Signals) -> Signals:
    def move(value: object) -> object:
        if isinstance(value, Tensor):
            return value.detach().cuda().requires_grad_(value.requires_grad)
        if isinstance(value, dict):
            return {k: move(v) for k, v in value.items()}
        return value

    moved = {f.name: move(getattr(signals, f.name)) for f in fields(signals) if f.name != "generator"}
    return replace(signals, **moved)


@pytest.mark.parametrize("name", [n for n in list_objectives() if n != "ce"])
def test_losses_equal_the_cpu(name: str) -> None:
    method = create_method(name).double()
    here = type(method).example()
    there = to_cuda(here)
    on_cpu, on_gpu = method.terms(here), method.cuda().terms(there)
    assert on_cpu.keys() == on_gpu.keys()
    for term in on_cpu:
        torch.testing.assert_close(on_gpu[term].cpu(), on_cpu[term], rtol=1e-9, atol=1e-11)


def data(n: int = 192) -> DataLoader:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 4
    x = 0.3 * torch.randn(n, 1, 8, 8, generator=g)
    x += torch.eye(8)[y * 2][:, None, :, None]
    return DataLoader(
        TensorDataset(x.clamp(-1, 1), y), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(1)
    )


def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return ConvNet((16, 32), 4, in_channels=1), ConvNet((4, 8), 4, in_channels=1)


OPTIONS = {"epochs": 6, "lr": 2e-2, "student_transform": nn.Identity(), "teacher_transform": nn.Identity()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("method", ["kd", "dist", "pld", "cka"])
def test_training_in_every_precision(method: str, precision: str) -> None:
    teacher, student = nets()
    before = copy.deepcopy(teacher.state_dict())
    result = distill(teacher, student, method, data(), data(), accelerator="gpu", precision=precision, **OPTIONS)
    assert all(torch.equal(before[k], v.cpu()) for k, v in teacher.state_dict().items())
    assert result.history[-1].terms and result.last_metric is not None
    first, last = (sum(e.terms.values()) for e in (result.history[0], result.history[-1]))
    assert last < first


def test_teacher_on_the_other_device_is_moved() -> None:
    teacher, student = nets()
    result = distill(teacher.cuda(), student, "kd", data(), accelerator="gpu", **OPTIONS)
    assert result.steps == 36
    teacher, student = nets()
    assert distill(teacher, student.cuda(), "kd", data(), accelerator="gpu", **OPTIONS).steps == 36


def test_a_run_on_cuda_can_be_resumed(tmp_path) -> None:
    def run(folder, stop_after=None, resume=False):
        teacher, student = nets()
        d = Distiller(
            teacher,
            student,
            "kd",
            data(),
            accelerator="gpu",
            precision="16-mixed",
            checkpoint_dir=folder,
            checkpoint_every=1,
            resume=resume,
            **OPTIONS,
        )
        for event in d.run():
            if isinstance(event, Step) and event.step == stop_after:
                return None
        return d.result()

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", stop_after=11)
    resumed = run(tmp_path / "cut", resume=True)
    assert resumed.steps == whole.steps
    for k, v in whole.student.state_dict().items():
        torch.testing.assert_close(resumed.student.state_dict()[k], v, rtol=2e-2, atol=2e-3)


def test_cache_and_map_on_cuda(tmp_path) -> None:
    teacher, student = nets()
    live = distill(copy.deepcopy(teacher), copy.deepcopy(student), "kd", data(), accelerator="gpu", **OPTIONS)
    cached = distill(teacher, student, "kd", data(), accelerator="gpu", cache=TeacherCache(tmp_path), **OPTIONS)
    assert cached.teacher_forwards == 192
    a, b = (r.history[-1].terms["kd"] for r in (live, cached))
    assert a == pytest.approx(b, rel=1e-3)

    teacher, student = nets()
    on_cpu = cka_map(teacher, student, data())
    on_gpu = cka_map(teacher.cuda(), student.cuda(), data(), device="cuda")
    torch.testing.assert_close(on_gpu.matrix.cpu(), on_cpu.matrix, rtol=0, atol=2e-3)
