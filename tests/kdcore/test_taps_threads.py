"""Two threads with one model: each reads its own forwards, layers are found, and training flags come back."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from kdcore.cka_maps import cka_map
from kdcore.diagnose._measures import watching
from kdcore.model_layers import layers
from kdcore.taps import TapError, Taps, evaluating, tap


class Meeting(nn.Module):
    """Identity in which a forward waits until another one is inside as well (or ``patience`` is over)."""

    def __init__(self, patience: float = 0.2) -> None:
        super().__init__()
        self.barrier, self.patience = threading.Barrier(2), patience

    def forward(self, x):
        try:
            self.barrier.wait(self.patience)
        except threading.BrokenBarrierError:
            self.barrier.reset()
        return x


def _network(patience: float = 0.2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        Meeting(patience),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, 5),
    ).train()


def _together(*jobs):
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [f.result() for f in [pool.submit(job) for job in jobs]]


def test_each_thread_reads_its_own_forward():
    model, x = _network(5.0), torch.randn(2, 3, 9, 9)

    def read(x):
        with tap(model, ["0", "3"]) as features:
            model(x)
        return features["0"], features["3"]

    # Both forwards are inside the model at the same time: the barrier lets neither pass alone.
    (a0, a3), (b0, b3) = _together(lambda: read(x), lambda: read(2 * x))
    for x_, first, second in ((x, a0, a3), (2 * x, b0, b3)):
        assert torch.equal(first, model[0](x_))
        assert torch.equal(second, model[3](model[0](x_).relu()))


def test_taps_say_that_they_hear_their_own_thread_only():
    model = _network(0.0)
    with Taps(model, "0") as taps:
        thread = threading.Thread(target=model, args=(torch.randn(1, 3, 9, 9),))
        thread.start()
        thread.join()
        with pytest.raises(TapError, match="in the thread that attached"):
            taps.features["0"]


def test_layers_and_activity_are_found_while_another_thread_runs_the_model():
    model, x = _network(0.01), torch.randn(4, 3, 9, 9)
    quiet = layers(model, x)
    stop = threading.Event()

    def busy():
        with evaluating(model), torch.no_grad():
            while not stop.is_set():
                model(torch.randn(3, 3, 12, 12))

    def look():
        try:
            found = [layers(model, x) for _ in range(10)]
            with watching(model, 4) as activity, evaluating(model), torch.no_grad():
                model(x)
            data = [
                (torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(i)), torch.zeros(6)) for i in range(3)
            ]
            return found, activity, cka_map(model, model, data)
        finally:
            stop.set()

    _, (found, activity, cka) = _together(busy, look)
    assert all(f == quiet for f in found)
    assert len({a.name for a in activity}) == len(activity)
    assert cka.layers_x == tuple(info.name for info in quiet)
    assert cka.matrix.shape == (len(quiet), len(quiet))
    assert all(m.training for m in model.modules())


def test_training_flags_come_back_when_the_last_of_overlapping_blocks_ends():
    model = _network()
    model[1].eval()
    first, second = evaluating(model), evaluating(model[7])
    first.__enter__()
    second.__enter__()
    assert not model[7].training
    first.__exit__(None, None, None)
    assert model.training and model[0].training and not model[1].training
    assert not model[7].training, "the second block still runs this part"
    second.__exit__(None, None, None)
    assert model[7].training
    with evaluating(model), evaluating(model):
        pass
    assert model.training and model[7].training and not model[1].training
