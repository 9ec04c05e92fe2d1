"""Digits of two sensors: what the profile is, who sees what, and that splits and noise follow the seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from kdcore.engine.state import generators_of
from kdcore.models.two_sensors import FusionNet, PixelNet, ProfileNet
from kdcore.tasks import load_task
from kdcore.tasks.digits_two_sensors import PROFILE, pen_profile


def test_a_profile_by_hand() -> None:
    image = torch.zeros(1, 8, 8)
    image[0, 2] = 1.0  # the third row is full of ink
    profile = pen_profile(image)[0]
    assert profile[:8].tolist() == [0.25] * 8
    assert profile[8:].tolist() == [0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_samples_are_profile_and_image_of_the_same_digit() -> None:
    bunch = load_digits()
    label = {image.astype(np.uint8).tobytes(): int(y) for image, y in zip(bunch.images, bunch.target, strict=True)}
    task = load_task("digits_two_sensors", noise=0.0)
    assert (len(task.train), len(task.test), task.input_shape) == (250, 700, (80,))
    for data in (task.train, task.test):
        images = data.x[:, PROFILE:]
        assert [label[(16 * x).to(torch.uint8).numpy().tobytes()] for x in images] == data.y.tolist()
        torch.testing.assert_close(data.x[:, :PROFILE], pen_profile(images.view(-1, 8, 8)))


def test_noise_is_on_the_profile_alone_and_of_its_size() -> None:
    calm, noisy = (load_task("digits_two_sensors", noise=n, seed=1) for n in (0.0, 0.15))
    apart = noisy.test.x - calm.test.x
    assert apart[:, PROFILE:].abs().max() == 0
    assert apart[:, :PROFILE].std().item() == pytest.approx(0.15, abs=0.004)
    assert torch.equal(noisy.test.x, load_task("digits_two_sensors", seed=1).test.x)
    assert not torch.equal(noisy.test.x, load_task("digits_two_sensors", seed=2).test.x)


def test_all_images_can_be_used_and_none_is_in_both_parts() -> None:
    task = load_task("digits_two_sensors", train_size=900, test_size=897, noise=0.0)
    train, test = ([x.numpy().tobytes() for x in d.x] for d in (task.train, task.test))
    assert len(train) == 900 and len(test) == 897
    bunch = load_digits()
    twice = len(bunch.images) - len({x.tobytes() for x in bunch.images})
    assert len(set(train) & set(test)) <= twice


def test_batches_come_apart_and_keep_the_loader_s_generator() -> None:
    task = load_task("digits_two_sensors")
    pairs, whole = task.paired(batch_size=50, seed=3), task.loader(batch_size=50, seed=3)
    assert len(pairs) == len(whole) == 5
    for (profile, image, y), (x, labels) in zip(pairs, whole, strict=True):
        assert profile.shape == (50, 16) and image.shape == (50, 64)
        assert torch.equal(torch.cat([profile, image], 1), x) and torch.equal(y, labels)
    assert any(g is not None for g in generators_of(pairs))


@torch.no_grad()
def test_networks_read_their_part_and_nothing_else() -> None:
    x = torch.rand(6, 80, generator=torch.Generator().manual_seed(0))
    profile, image = x[:, :16], x[:, 16:]
    other = torch.rand(6, 80, generator=torch.Generator().manual_seed(1))
    student, pixels, both = ProfileNet().eval(), PixelNet().eval(), FusionNet().eval()
    assert torch.equal(student(x), student(profile)) and torch.equal(pixels(x), pixels(image))
    assert torch.equal(student(x), student(torch.cat([profile, other[:, 16:]], 1)))
    assert torch.equal(pixels(x), pixels(torch.cat([other[:, :16], image], 1)))
    assert torch.equal(both(x), both(profile, image))
    for changed in (torch.cat([other[:, :16], image], 1), torch.cat([profile, other[:, 16:]], 1)):
        assert not torch.allclose(both(x), both(changed))
    assert all(net(x).shape == (6, 10) for net in (student, pixels, both))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1797 together, got 900 and 900"):
        load_task("digits_two_sensors", train_size=900, test_size=900)
    with pytest.raises(ValueError, match="noise must be"):
        load_task("digits_two_sensors", noise=-0.1)
    with pytest.raises(ValueError, match=r"x must be \(N, at least 16\) to hold the profile"):
        ProfileNet()(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"x must be \(N, at least 64\) to hold the image"):
        PixelNet()(torch.zeros(2, 16))
    with pytest.raises(ValueError, match=r"x must be \(N, at least 80\) to hold profile and image"):
        FusionNet()(torch.zeros(2, 64))
