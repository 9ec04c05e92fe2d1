"""Metrics: streamed values equal those of everything at once, directions are known, torchmetrics works by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore.metrics import (
    Collected,
    SampleMean,
    accuracy,
    evaluate,
    hits,
    is_better,
    list_metrics,
    metric,
    metric_name,
    named_metrics,
)


def data(n: int = 23, classes: int = 4) -> TensorDataset:
    g = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(n, 5, generator=g), torch.randint(classes, (n,), generator=g))


def model(out: int = 4) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(5, out)


@pytest.mark.parametrize("batch", [1, 7, 23])
def test_streamed_is_what_all_at_once_gives(batch: int) -> None:
    net, (x, y) = model(), data().tensors
    found = evaluate(net, DataLoader(data(), batch))
    logits = net(x)
    assert found["accuracy"] == accuracy(logits, y) == (logits.argmax(1) == y).double().mean().item()
    assert found["ce"] == pytest.approx(F.cross_entropy(logits.double(), y).item(), rel=1e-6)


def test_pixels_without_a_label_count_nowhere() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 3, 2, 2, generator=g), torch.randint(3, (6, 2, 2), generator=g)
    y[0], y[1, 0, 0] = -100, -100
    found = evaluate(nn.Identity(), DataLoader(TensorDataset(x, y), 4))
    kept = y != -100
    assert found["accuracy"] == (x.argmax(1)[kept] == y[kept]).double().mean().item()
    assert found["ce"] == pytest.approx(F.cross_entropy(x, y).item(), rel=1e-6)


def test_nothing_is_kept_of_a_streamed_metric() -> None:
    one = SampleMean(hits, "accuracy")
    one.update(torch.eye(3), torch.tensor([0, 1, 0]))
    assert vars(one).keys() == {"values", "name", "higher_is_better", "total", "count"}
    assert one.compute() == pytest.approx(2 / 3)
    one.reset()
    assert one.compute() != one.compute()  # NaN: nothing was seen


def test_a_function_gets_everything_at_once_and_says_its_direction() -> None:
    seen: list[tuple[torch.Size, torch.Size]] = []

    def error(logits: Tensor, labels: Tensor) -> float:
        seen.append((logits.shape, labels.shape))
        return (logits.argmax(1) != labels).double().mean().item()

    net = model()
    found = evaluate(net, DataLoader(data(), 5), metric=error)
    assert seen == [(torch.Size([23, 4]), torch.Size([23]))] and set(found) == {"error", "ce"}
    assert found["error"] == pytest.approx(1 - evaluate(net, DataLoader(data(), 5))["accuracy"])
    assert is_better(Collected(error))
    error.higher_is_better = False  # type: ignore[attr-defined]
    assert not is_better(Collected(error))


def test_torchmetrics_by_name_and_as_objects() -> None:
    import torchmetrics

    net, (x, y) = model(), data().tensors
    given = {"f1": metric("f1", classes=4, average="macro"), "top2": metric("accuracy", classes=4, top_k=2)}
    found = evaluate(net, DataLoader(data(), 5), metric=given)
    truth = torch.nn.functional.one_hot(y, 4).bool()
    guess = torch.nn.functional.one_hot(net(x).argmax(1), 4).bool()
    both = (truth & guess).sum(0).double()
    expected = (2 * both / (truth.sum(0) + guess.sum(0)).clamp(min=1)).mean().item()
    assert found["f1"] == pytest.approx(expected) and set(found) == {"f1", "top2", "ce"}
    assert is_better(given["f1"]) and not is_better(metric("mse")) and not is_better(metric("perplexity"))
    again = evaluate(net, DataLoader(data(), 5), metric=given)
    assert again == found  # metrics are reset, not continued
    one = torchmetrics.MeanSquaredError()
    x, y = torch.randn(4, 2), torch.randn(4, 2)
    found = evaluate(nn.Identity(), [(x, y)], metric=one)
    assert found == {"MeanSquaredError": pytest.approx(F.mse_loss(x, y).item())}


@pytest.mark.parametrize("name", list_metrics())
def test_every_name_makes_a_metric_with_a_direction(name: str) -> None:
    made = metric(name, classes=3)
    assert metric_name(made) and isinstance(is_better(made), bool)
    if name == "f1":
        with pytest.raises(ValueError, match="metric 'f1' needs classes"):
            metric(name)


def test_a_readout_finds_the_answer() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"features": x, "scores": self.net(x)}

    net = Two()
    with pytest.raises(ValueError, match="a dict with the keys 'features', 'scores'"):
        evaluate(net, DataLoader(data(), 5))
    found = evaluate(net, DataLoader(data(), 5), readout=lambda output: output["scores"])
    assert found == evaluate(net.net, DataLoader(data(), 5))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, TypeError, "at least one metric, got an empty mapping"),
        (3, TypeError, "metric must have update, compute and reset, or be a function, got 3"),
        ("f1", TypeError, "got 'f1'"),
    ],
)
def test_what_is_no_metric_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        named_metrics(given)
    with pytest.raises(ValueError, match=r"name must be one of .*'f1'"):
        metric("f2")
