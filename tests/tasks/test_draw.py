"""What is looked at where not all is: a stratified, seeded draw that says its size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcore.tasks import load_task
from kdcore.tasks._draw import draw_rows


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=8), n=st.integers(1, 120), seed=st.integers(0, 5))
def test_every_class_has_its_share(counts: list[int], n: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    drawn = draw_rows("test", len(labels), n, seed, labels)
    assert len(drawn) == min(n, len(labels)) and list(drawn.rows) == sorted(set(drawn.rows))
    taken = np.bincount(labels[list(drawn.rows)], minlength=len(counts))
    assert (taken <= counts).all()
    if n >= len(counts):
        assert (taken >= 1).all()
    share = min(n, len(labels)) * np.array(counts) / len(labels)
    if (share >= 1).all():
        assert (np.abs(taken - share) < 1).all()
    assert drawn == draw_rows("test", len(labels), n, seed, labels)


def test_words_by_hand() -> None:
    labels = np.arange(10_000) % 10
    assert draw_rows("test", 10_000, 400, 0, labels).words == "400 of 10,000 test samples, drawn by class, seed 0"
    assert draw_rows("val", 30, 8, 2).words == "8 of 30 val samples, drawn at random, seed 2"
    assert draw_rows("test", 297, 400, 0, labels[:297]).words == "all 297 test samples"
    with pytest.raises(ValueError, match="n must be a finite number > 0"):
        draw_rows("test", 10, 0, 0)


def test_a_sorted_split_shows_all_its_classes() -> None:
    task = load_task("digits", seed=0)
    order = task.labels("test").argsort(stable=True)
    task.test = task.test.subset(order)  # as a folder of images is: class after class
    drawn = task.draw("test", 50)
    assert task.labels("test")[:50].unique().numel() == 1
    assert task.labels("test")[list(drawn.rows)].bincount(minlength=10).min() >= 4
    model = task.student("mlp-16", seed=0)
    logits, labels = task.predict(model, rows=drawn.rows)
    everything, truth = task.predict(model)
    rows = torch.tensor(drawn.rows)
    torch.testing.assert_close(logits, everything[rows])
    assert torch.equal(labels, truth[rows])
    (batch,) = task.loader("test", batch_size=64, shuffle=False, index=True, rows=drawn.rows)
    assert torch.equal(batch[2], rows)
