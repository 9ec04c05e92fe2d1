"""Labels that are bought, and batches of labelled and unlabelled samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdcore.pools import LabelOracle, mixed_loader

Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def test_labels_are_bought_once_and_counted() -> None:
    oracle = LabelOracle(Y)
    assert (len(oracle), oracle.num_classes, oracle.queries) == (7, 3, 0) and not oracle.is_known.any()
    assert oracle.query(torch.tensor([5, 0])).tolist() == [2, 0]
    oracle.query(torch.tensor([5, 1]))
    assert oracle.queries == 3 and oracle.is_known.nonzero().flatten().tolist() == [0, 1, 5]
    assert oracle[torch.tensor([1, 5])].tolist() == [1, 2] and oracle[0] == 0


def test_no_way_leads_to_a_label_that_was_not_bought() -> None:
    oracle = LabelOracle(Y)
    oracle.query(torch.tensor([0]))
    for look in (lambda: oracle[3], lambda: oracle[torch.tensor([0, 3])], lambda: oracle[:], lambda: list(oracle),
                 lambda: np.asarray(oracle)):  # fmt: skip
        with pytest.raises(RuntimeError, match="a label was read that nobody asked for"):
            look()
    assert oracle.queries == 1


def test_the_start_has_as_many_of_each_class() -> None:
    oracle = LabelOracle(Y)
    first = oracle.start(2, torch.Generator().manual_seed(0))
    assert Y[first].tolist() == [0, 0, 1, 1, 2, 2] and len(first.unique()) == 6 and oracle.queries == 6
    drawn = {int(LabelOracle(Y).start(1)[0]) for _ in range(100)}
    assert drawn == {0, 3, 6}
    with pytest.raises(ValueError, match=r"initial_per_class is 3, but classes have \[3, 2, 2\]"):
        LabelOracle(Y).start(3)


def test_labels_are_checked() -> None:
    with pytest.raises(TypeError, match="integer"):
        LabelOracle(torch.ones(3))
    with pytest.raises(ValueError, match="labels must"):
        LabelOracle(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="labels must"):
        LabelOracle(torch.zeros(2, 2, dtype=torch.int64))


def test_batches_mix_labelled_samples_with_all_the_others_in_turn() -> None:
    x, y = torch.arange(10.0)[:, None], torch.full((10,), -100)
    y[[2, 7]] = torch.tensor([0, 1])
    loader = mixed_loader(x, y, steps=6, sizes=(3, 4), seed=0)
    batches = list(loader)
    assert len(loader) == len(batches) == 6
    free = []
    for image, label, index in batches:
        assert torch.equal(image[:, 0], index.float()) and torch.equal(label, y[index])
        assert (label[:3] != -100).all() and (label[3:] == -100).all() and len(label) == 7
        free += index[3:].tolist()
    assert sorted(free) == sorted(3 * [i for i in range(10) if i not in (2, 7)])
    assert len(set(free[:8])) == 8
    again = list(mixed_loader(x, y, steps=6, sizes=(3, 4), seed=0))
    assert all(torch.equal(a[2], b[2]) for a, b in zip(batches, again, strict=True))
    assert len(next(iter(mixed_loader(x, y.clamp(min=0), steps=2, sizes=(3, 4), seed=0)))[0]) == 3
    with pytest.raises(ValueError, match="at least one that is known"):
        mixed_loader(x, torch.full((10,), -100), steps=1, sizes=(1, 1), seed=0)
