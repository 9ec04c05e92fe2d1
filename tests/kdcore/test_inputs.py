"""Batches in every accepted form, positions of samples, normalisation per model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from kdcore.cka_maps import cka_map
from kdcore.distiller import distill, evaluate
from kdcore.inputs import Normalize, check_finite, input_normalization, read_batch, rebuild_loader

X, Y, I = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]), torch.arange(4) + 10  # noqa: E741


@pytest.mark.parametrize(
    "raw",
    [
        (X, Y, I),
        [X, Y, I],
        {"x": X, "y": Y, "index": I},
        {"image": X, "label": Y, "index": I},
        {"input": X, "labels": Y, "index": I},
    ],
)
def test_forms(raw: Any) -> None:
    batch = read_batch(raw)
    assert batch.x is X and batch.labels is Y and batch.index is I and batch.view is None and batch.size == 4


def test_unlabelled_and_many_inputs() -> None:
    assert read_batch(X).labels is None and read_batch([X]).x is X
    batch = read_batch({"tokens": X, "mask": Y, "label": Y})
    assert set(batch.x) == {"tokens", "mask"} and batch.labels is Y and batch.size == 4
    graph = read_batch({"x": X, "edge_index": torch.zeros(2, 9, dtype=torch.int64), "y": Y})
    assert set(graph.x) == {"x", "edge_index"} and graph.labels is Y and graph.size == 4


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("text", "a batch must be"),
        (3, "a batch must be"),
        ((), "a batch must be"),
        ((X, Y, I, Y, Y), "a batch must be"),
        ((X, Y[:2]), "y must be a tensor with 4"),
        ((X, [0, 1, 2, 0]), "y must be a tensor"),
        (([1, 2], Y), "x must be"),
        ((X, Y, I[:1]), "index must be"),
        ((X[:0], Y[:0]), "empty"),
        ({"y": Y}, "x must be a tensor"),
        (((X, X), Y), "must be one tensor"),
        ({"edge_index": Y, "y": Y}, "x must be a tensor"),
        ({"x": X[:3], "edge_index": Y, "y": Y}, "y must be a tensor with 3"),
    ],
)
def test_wrong_forms(raw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_batch(raw)


def test_views_are_stacked() -> None:
    batch = read_batch(((X, X + 1), Y), views=2)
    x, labels, view = batch.joined()
    assert torch.equal(x, torch.cat([X, X + 1])) and view is not None
    assert labels is not None and labels.tolist() == [0, 1, 2, 0] * 2 and view.tolist() == [0] * 4 + [1] * 4
    for wrong in (X, (X, X, X)):
        with pytest.raises(ValueError, match="tuple of 2 views"):
            read_batch((wrong, Y), views=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_input_is_located(value: float) -> None:
    x = X.clone()
    x[2, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"epoch 3, batch 1, at positions \[2\] \(sample indices \[12\]\)"):
        check_finite(read_batch((x, Y, I)), "epoch 3, batch 1")
    check_finite(read_batch(torch.full((2, 3), 3e38)), "a sum that overflows is no fault")


def test_normalize_by_hand() -> None:
    x = torch.tensor([[[0.5]], [[1.0]]])[None]
    assert Normalize([0.5, 0.0], [0.25, 0.5])(x).flatten().tolist() == [0.0, 2.0]
    assert not Normalize([0.5], [1.0]).state_dict()
    with pytest.raises(ValueError, match="std > 0"):
        Normalize([0.5], [0.0])
    with pytest.raises(ValueError, match=r"x must be \(N, 2"):
        Normalize([0.5, 0.0], [0.25, 0.5])(X)


def test_timm_configurations() -> None:
    import timm

    norm = input_normalization(timm.create_model("resnet18", num_classes=3))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = (X - mean) / std
    torch.testing.assert_close(norm(X), expected)
    grey = input_normalization(timm.create_model("resnet18", num_classes=3, in_chans=1))
    torch.testing.assert_close(grey(X[:, :1]), (X[:, :1] - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3))
    assert isinstance(input_normalization(nn.Linear(2, 2)), nn.Identity)
    assert isinstance(input_normalization(None), nn.Identity)


@pytest.mark.parametrize("workers", [0, 2])
def test_positions_follow_shuffling_and_the_collate_function(workers: int) -> None:
    data = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))

    def double(items: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        x, y = zip(*items, strict=True)
        return {"x": 2 * torch.stack(x), "y": torch.stack(y)}

    loader = rebuild_loader(
        DataLoader(
            data,
            4,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            collate_fn=double,
            generator=torch.Generator().manual_seed(0),
        ),
        index=True,
    )
    batches = [read_batch(raw) for raw in loader]
    assert len(batches) == len(loader) == 2
    seen = torch.cat([b.index for b in batches])  # type: ignore[misc]
    assert torch.equal(seen, torch.cat([b.labels for b in batches]))  # type: ignore[misc]
    assert torch.equal(2.0 * seen, torch.cat([b.x for b in batches])[:, 0]) and len(set(seen.tolist())) == 8


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(1), 0)])


def test_streams_have_no_positions() -> None:
    with pytest.raises(ValueError, match="iterable"):
        rebuild_loader(DataLoader(Stream()), index=True)
    with pytest.raises(ValueError, match="batch_size=None"):
        rebuild_loader(DataLoader(TensorDataset(X), batch_size=None), index=True)


# Forms of input and weights that users have ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y"), [("pixel_values", "labels"), ("img", "label"), ("image", "target"), ("images", "targets")]
)
def test_dicts_of_image_libraries_are_read(x: str, y: str) -> None:
    batch = read_batch({x: torch.rand(4, 3), y: torch.arange(4)})
    assert batch.x.shape == (4, 3) and batch.labels is not None


def test_a_dict_that_nobody_can_read_is_named() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    for keys, message in (
        (("picture", "kind"), r"needs labels, .* under one of y, .*, got the keys 'picture', 'kind'"),
        (
            ("picture", "label"),
            r"the student cannot read the batches, a dict with the keys 'picture' ",
        ),
    ):
        rows = [dict(zip(keys, (torch.rand(12), i % 4), strict=True)) for i in range(16)]
        with pytest.raises(ValueError, match=message):
            distill(None, student, "ce", DataLoader(rows, 8), epochs=1)


@pytest.mark.parametrize(("role", "shape"), [("student", (1, 2)), ("teacher", (2, 1))])
def test_a_network_for_other_inputs_is_named(role: str, shape: tuple[int, int]) -> None:
    def net(channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    student, teacher = net(shape[0]), net(shape[1])
    data = DataLoader(TensorDataset(torch.rand(8, 2, 8, 8), torch.arange(8) % 2), 4)
    with pytest.raises(ValueError, match=rf"the {role} cannot read the batches, .*\(8, 2, 8, 8\).*channels"):
        distill(teacher, student, "kd", data, epochs=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", [None, {"mean": (0.5,), "std": (0.2,)}])
def test_a_teacher_in_half_precision_gets_its_input_in_that_type(dtype: torch.dtype, config: Any) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    teacher.pretrained_cfg = config  # type: ignore[assignment]
    student = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x, y = torch.rand(16, 1, 12), torch.arange(16) % 3
    data = DataLoader(TensorDataset(x, y), 8)
    full = distill(copy.deepcopy(teacher), copy.deepcopy(student), "kd", data, epochs=1)
    half = distill(teacher.to(dtype), student, "kd", data, data, epochs=1)
    assert half.history[0].terms["kd"] == pytest.approx(full.history[0].terms["kd"], rel=0.02)
    assert input_normalization(teacher)(x).dtype == dtype
    assert evaluate(teacher, data)["accuracy"] >= 0
    assert cka_map(teacher, student, data, layers_x=["1"], layers_y=["1"]).matrix.isfinite().all()


def test_a_frozen_backbone_keeps_its_statistics_and_the_rest_does_not() -> None:
    torch.manual_seed(0)

    def body() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    student = nn.Sequential(body(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    student[0].requires_grad_(False).eval()
    before = copy.deepcopy(student[0].state_dict())
    data = DataLoader(TensorDataset(torch.rand(16, 3, 8, 8), torch.arange(16) % 2), 8)
    distill(None, student, "ce", data, data, epochs=2)
    assert all(torch.equal(before[k], v) for k, v in student[0].state_dict().items())
    assert student[2].running_mean.abs().max() > 0
    unfrozen = nn.Sequential(body(), nn.Linear(4, 2)).eval()
    distill(None, unfrozen, "ce", data, epochs=1)
    assert unfrozen[0][1].running_mean.abs().max() > 0, "eval mode alone freezes nothing"
