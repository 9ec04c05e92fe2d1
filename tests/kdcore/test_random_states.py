"""A training draws from random states of its own: the caller's, another run's and another thread's are not touched."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore.checkpoints import capture_rng, preserved_rng
from kdcore.distiller import Distiller, distill
from kdcore.engine import finish
from kdcore.registry import create_method

DATA = TensorDataset(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3)


def states() -> list[Any]:
    kept = capture_rng()
    return [kept["python"], [str(v) for v in kept["numpy"]], kept["torch"].tolist()]


def student() -> nn.Module:
    with preserved_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3))


def loop(seed: int = 0) -> Distiller:
    return Distiller(
        student().eval(), student(), create_method("kd"), DataLoader(DATA, 8, shuffle=True), epochs=3, seed=seed
    )


def weights(distiller: Distiller) -> list[Tensor]:
    return [p.clone() for p in distiller.result().student.parameters()]


def test_a_training_leaves_the_random_states_as_they_were() -> None:
    torch.manual_seed(3)
    before = states()
    distill(student().eval(), student(), "kd", DataLoader(DATA, 8, shuffle=True), epochs=1)
    assert states() == before


@pytest.mark.parametrize("ending", ["close", "exception", "abandoned"])
def test_so_does_one_that_ends_early(ending: str) -> None:
    before = states()
    distiller = loop()
    if ending == "exception":

        def fail(event: object) -> None:
            raise KeyError("from a callback")

        with pytest.raises(KeyError):
            distill(student().eval(), student(), "kd", DataLoader(DATA, 8), epochs=1, callbacks=[fail])
    else:
        events = distiller.run()
        next(events)
        if ending == "close":
            events.close()
    assert states() == before


def test_what_the_caller_draws_between_events_changes_nothing() -> None:
    plain, disturbed = loop(), loop()
    for _ in plain.run():
        pass
    torch.manual_seed(11)
    drawn = [(torch.rand(3), random.random(), np.random.rand()) for _ in disturbed.run()]  # noqa: NPY002
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(disturbed), strict=True))
    torch.manual_seed(11)
    assert all(torch.equal(first, torch.rand(3)) for first, _, _ in drawn), "the caller's own stream goes on"


@pytest.mark.parametrize("whole", [False, True], ids=["events", "to the end"])
def test_two_trainings_in_turns_and_in_threads_end_as_alone(whole: bool) -> None:
    alone = []
    for seed in (1, 2):
        one = loop(seed)
        for _ in one.run():
            pass
        alone.append(weights(one))
    pair = [loop(1), loop(2)]
    streams = [one.run() for one in pair]
    while any(next(stream, None) is not None for stream in streams):
        pass
    for stream in streams:
        list(stream)
    threaded = [loop(1), loop(2)]
    run = finish if whole else (lambda one: list(one.run()))
    threads = [threading.Thread(target=run, args=(one,)) for one in threaded]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for found in (pair, threaded):
        for mine, expected in zip(found, alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(weights(mine), expected, strict=True))


def test_a_training_that_runs_to_its_end_gives_way_to_others() -> None:
    long, over = loop(), threading.Event()
    long.stop = over
    long.training.epochs = 100_000  # until it is stopped
    worker = threading.Thread(target=finish, args=(long,))
    worker.start()
    try:
        for _ in range(20):  # each has to wait for one step, not for the training
            with preserved_rng():
                torch.rand(1)
        assert worker.is_alive()
    finally:
        over.set()
        worker.join(60)
    assert not worker.is_alive()
