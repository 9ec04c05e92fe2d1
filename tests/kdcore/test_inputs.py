"""Batches in every accepted form, positions of samples, normalisation per model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

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
