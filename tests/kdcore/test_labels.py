"""Labels in every form that data sets have them in: read alike by training and validation, or refused before step 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from kdcore.distiller import distill, evaluate
from kdcore.labels import class_labels, known_labels
from kdcore.metrics import metric

CLASSES = torch.arange(32) % 4
LOGITS = torch.zeros(32, 4)
INPUTS = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))

#: Forms of the same classes.
SAME = {
    "int32": CLASSES.int(),
    "whole floats": CLASSES.float(),
    "column": CLASSES[:, None],
    "float column": CLASSES[:, None].double(),
    "one-hot": F.one_hot(CLASSES, 4),
    "one-hot floats": F.one_hot(CLASSES, 4).float(),
    "one-hot bools": F.one_hot(CLASSES, 4).bool(),
}
MULTI_HOT = F.one_hot(CLASSES, 4).float().index_fill(1, torch.tensor([0]), 1.0)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(12, 4)


def loader(labels: Tensor, x: Tensor = INPUTS) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, labels), 8)


@pytest.mark.parametrize("form", SAME)
def test_every_form_of_the_same_classes_trains_and_validates_alike(form: str) -> None:
    plain = distill(net(), net(), "kd", loader(CLASSES), loader(CLASSES), epochs=2)
    other = distill(net(), net(), "kd", loader(SAME[form]), loader(SAME[form]), epochs=2)
    for name, value in plain.student.state_dict().items():
        torch.testing.assert_close(other.student.state_dict()[name], value, rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(plain.history, other.history, strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics)
    read = class_labels(SAME[form], LOGITS)
    assert torch.equal(read if read.dtype == torch.int64 else read.argmax(1), CLASSES)


def test_probabilities_stay_what_they_are() -> None:
    soft = torch.rand(32, 4).softmax(1)
    assert class_labels(soft, LOGITS) is soft
    found = evaluate(net(), loader(soft))
    expected = F.cross_entropy(net()(INPUTS), soft).item()
    assert found["ce"] == pytest.approx(expected, rel=1e-5)
    assert found["accuracy"] == (net()(INPUTS).argmax(1) == soft.argmax(1)).double().mean().item()


def test_maps_and_sequences_by_hand() -> None:
    logits = torch.zeros(2, 3, 4, 5)
    labels = torch.randint(3, (2, 4, 5))
    labels[0, 0, 0] = -100
    assert torch.equal(class_labels(labels, logits), labels)
    assert torch.equal(class_labels(labels[:, None].float(), logits), labels)
    hot = F.one_hot(labels.clamp(min=0), 3).permute(0, 3, 1, 2)
    assert torch.equal(class_labels(hot, logits), labels.clamp(min=0))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (MULTI_HOT, r"several classes in a row \(multi-hot\), or none: sums from 1 to 2; .*binary_cross_entropy"),
        (MULTI_HOT.int(), r"several classes in a row"),
        (torch.full((32, 4), 0.5), r"rows that are no probabilities: sums from 2 to 2"),
        (F.one_hot(CLASSES, 4) * 2.0 - 1, r"no probabilities"),
        (CLASSES + 0.5, r"whole numbers of classes, got 0.5 among them: for a regression pass a loss"),
        (CLASSES + 1, r"labels must be in \[0, 4\) as the student has 4 classes, got 4"),
        (torch.zeros(32, 3), r"labels must be \(\d+,\) whole numbers, or probabilities \(\d+, 4\), for logits"),
    ],
)
@pytest.mark.parametrize("side", ["training", "validation"])
def test_other_labels_are_refused_before_the_first_step(labels: Tensor, message: str, side: str) -> None:
    steps: list[Any] = []
    train, val = loader(labels if side == "training" else CLASSES), loader(labels if side == "validation" else CLASSES)
    with pytest.raises(ValueError, match=message):
        distill(net(), net(), "kd", train, val, epochs=2, callbacks=[steps.append])
    assert steps == []


def test_labels_that_nothing_reads_are_let_pass() -> None:
    assert distill(net(), net(), "kd", loader(MULTI_HOT), epochs=1, ce_weight=0.0).steps == 4


def test_several_classes_per_sample_with_their_own_loss_and_metric() -> None:
    data = loader(MULTI_HOT)
    result = distill(
        net(), net(), "kd", data, data, epochs=1, loss=F.binary_cross_entropy_with_logits,
        metric={"f1": metric("multilabel_f1", classes=4)},
    )  # fmt: skip
    assert set(result.history[0].terms) == {"kd", "ce"} and "ce" not in result.history[0].metrics
    assert 0 <= result.history[0].metrics["f1"] <= 1


def test_regression_with_its_own_loss_and_metric() -> None:
    targets = torch.linspace(-1, 3, 32)[:, None]

    def mean_error(outputs: Tensor, labels: Tensor) -> float:
        return (outputs - labels).abs().mean().item()

    student = nn.Linear(12, 1)
    result = distill(
        None, student, "ce", loader(targets), loader(targets), epochs=1, loss=F.mse_loss, metric=mean_error
    )
    expected = (student(INPUTS) - targets).abs().mean().item()
    assert result.history[0].metrics["mean_error"] == pytest.approx(expected, rel=1e-5)


def test_what_the_epoch_learnt_is_kept_when_its_validation_fails(tmp_path: Path) -> None:
    class Late:
        """Validation data whose second pass is broken, and which lists no labels."""

        broken = False

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield INPUTS[:8], CLASSES[:8]
            yield INPUTS[8:], CLASSES[8:] + self.broken

    val = Late()
    val.broken = True
    options = {"epochs": 2, "checkpoint_dir": tmp_path}
    with pytest.raises(ValueError, match=r"validation data: labels must be in \[0, 4\)"):
        distill(net(), net(), "kd", loader(CLASSES), val, **options)
    assert list(tmp_path.glob("*.ckpt"))
    val.broken = False
    resumed = distill(net(), net(), "kd", loader(CLASSES), val, resume=True, **options)
    whole = distill(net(), net(), "kd", loader(CLASSES), Late(), epochs=2)
    assert resumed.steps == whole.steps == 8
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value)


def test_labels_are_found_where_data_sets_keep_them() -> None:
    class Named:
        targets = CLASSES.tolist()

    subset = Subset(TensorDataset(INPUTS, CLASSES), [3, 5])
    assert torch.equal(known_labels(Named()), CLASSES) and known_labels(subset).tolist() == [3, 1]
    assert known_labels(Subset(subset, [1])).tolist() == [1]
    Named.targets = [["a"], ["b", "c"]]
    assert known_labels(Named()) is None and known_labels(object()) is None
    Named.targets = np.array(["cat", "dog"])
    assert known_labels(Named()) is None


def test_a_run_does_not_go_on_with_other_labels(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "checkpoint_dir": tmp_path}
    distill(net(), net(), "kd", loader(CLASSES), **options)
    with pytest.raises(ValueError, match=r"differs in training labels \(saved \w{16}, now \w{16}\)"):
        distill(net(), net(), "kd", loader(CLASSES.flip(0)), resume=True, **options | {"epochs": 2})
    assert distill(net(), net(), "kd", loader(CLASSES), resume=True, **options | {"epochs": 2}).steps == 8


class FromOne(Dataset[tuple[Tensor, Tensor]]):
    """Lists its classes from 1 and gives them from 0, as a ``target_transform`` does."""

    targets = (CLASSES + 1).tolist()

    def __len__(self) -> int:
        return len(CLASSES)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return INPUTS[index], CLASSES[index]


def test_a_list_of_labels_that_is_changed_on_the_way_is_not_what_is_learnt() -> None:
    data = DataLoader(FromOne(), 8)
    result = distill(net(), net(), "kd", data, data, epochs=1)
    plain = distill(net(), net(), "kd", loader(CLASSES), loader(CLASSES), epochs=1)
    assert result.history[0].terms == plain.history[0].terms
    assert result.history[0].metrics == plain.history[0].metrics
