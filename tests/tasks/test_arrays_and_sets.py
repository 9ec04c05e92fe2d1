"""Arrays in an .npz file, and FashionMNIST and CIFAR in the layout of torchvision (tiny files written here)."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.tasks import load_task
from kdcore.tasks.arrays import to_inputs, to_labels
from kdcore.tasks.torchvision_sets import read_idx

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 9, 9, 3), dtype=np.uint8)
LABELS = np.arange(30, dtype=np.uint8) % 3


def test_published_field_names_need_no_options(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "cifar.npz",
        x_train=IMAGES,
        y_train=LABELS,
        x_test=IMAGES[:6],
        y_test=LABELS[:6],
        classes=np.array(["a", "b", "c"]),
        id_train=np.array([b"1"] * 30),
    )
    task = load_task("arrays", path=tmp_path / "cifar.npz")
    assert task.name == "cifar" and task.class_names == ("a", "b", "c") and task.input_shape == (3, 9, 9)
    assert (len(task.train), len(task.test)) == (30, 6)
    x, y = task.train[4]
    torch.testing.assert_close(x, torch.from_numpy(IMAGES[4].transpose(2, 0, 1).astype(np.float32) / 255))
    assert y == 1
    batch, _ = next(iter(task.loader("test", batch_size=6)))
    torch.testing.assert_close(batch[4], x)
    assert len(load_task("arrays", path=tmp_path / "cifar.npz", val_fraction=0.2).val) == 6


def test_other_names_and_a_split_by_seed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pictures=IMAGES[..., 0], kind=LABELS[:, None].astype(float))
    task = load_task("arrays", path=tmp_path / "a.npz", images="pictures", labels="kind", classes=["x", "y", "z"])
    assert task.input_shape == (1, 9, 9) and task.class_names == ("x", "y", "z") and len(task.test) == 12
    assert load_task("arrays", path=tmp_path / "a.npz", images="pictures", labels="kind").class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((5, 7), "auto", (7,)),
        ((5, 8, 8), "auto", (1, 8, 8)),
        ((5, 8, 8, 3), "auto", (3, 8, 8)),
        ((5, 3, 8, 8), "auto", (3, 8, 8)),
        ((5, 3, 8, 3), "auto", (3, 8, 3)),
        ((5, 3, 8, 3), "nhwc", (3, 3, 8)),
        ((5, 8, 8, 1), "auto", (1, 8, 8)),
        ((5, 2, 8, 8), "auto", (2, 8, 8)),
        ((5, 32, 32, 13), "auto", (13, 32, 32)),
        ((5, 13, 32, 32), "auto", (13, 32, 32)),
        ((5, 24, 32, 13), "auto", (13, 24, 32)),
        ((5, 13, 32, 24), "auto", (13, 32, 24)),
        ((5, 8, 8, 8), "nhwc", (8, 8, 8)),
    ],
)
def test_layouts(shape: tuple[int, ...], layout: str, expected: tuple[int, ...]) -> None:
    assert to_inputs(np.zeros(shape, np.float64), layout).shape[1:] == expected


@pytest.mark.parametrize("shape", [(5, 8, 8, 8), (5, 12, 6, 12), (5, 20, 6, 30)])
def test_layouts_that_cannot_be_told_are_asked_for(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"which axis holds the channels\? Say layout='nchw' or 'nhwc'"):
        to_inputs(np.zeros(shape, np.float32))


def test_ranges_of_whole_numbers_are_known_or_asked_for() -> None:
    ramp = np.linspace(0, 65535, 64).reshape(1, 8, 8)
    close = torch.from_numpy(ramp / 65535).float()[:, None]
    torch.testing.assert_close(to_inputs(ramp.astype(np.uint16)), close, rtol=0, atol=2e-5)
    assert to_inputs((ramp / 257).astype(np.int64)).dtype == torch.uint8
    masks = to_inputs(np.eye(8, dtype=np.int64)[None])
    assert masks.dtype == torch.float32 and masks.max() == 1
    assert to_inputs(np.eye(8, dtype=bool)[None]).max() == 1
    for odd in (ramp.astype(np.int32), -np.ones((1, 8, 8), np.int16), np.full((1, 8, 8), 16, np.int64)):
        with pytest.raises(ValueError, match=r"so that it is known what is white"):
            to_inputs(odd, name="x_train")
    assert to_inputs(np.arange(6).reshape(2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]  # vectors are not images


def test_bytes_saved_as_floats_are_told(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(40) % 2)
    with pytest.warns(UserWarning, match=r"x_train of .*a.npz holds floating values up to 255"):
        load_task("arrays", path=tmp_path / "a.npz")


def test_layouts_and_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"images must have 4 axes for layout 'nhwc', got shape \(5, 7\)"):
        to_inputs(np.zeros((5, 7)), "nhwc")
    with pytest.raises(TypeError, match="must hold numbers"):
        to_inputs(np.array([["a"]]))
    for bad in (np.array([0.5, 1.0]), np.zeros((3, 2)), np.array(["a"])):
        with pytest.raises(ValueError, match="labels must be whole numbers"):
            to_labels(bad)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file at"):
        load_task("arrays", path=tmp_path / "none.npz")
    good = save(tmp_path / "good.npz", x_train=IMAGES, y_train=LABELS)
    with pytest.raises(ValueError, match=r"no array 'X' \(option images\); it has x_train \(30, 9, 9, 3\), y_train"):
        load_task("arrays", path=good, images="X")
    with pytest.raises(ValueError, match=r"no array 'labels_test'.*test_labels"):
        load_task("arrays", path=good, test_images="x_train", test_labels="labels_test")
    with pytest.raises(ValueError, match="no array 'names'"):
        load_task("arrays", path=good, classes="names")
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got values from 0 to 2"):
        load_task("arrays", path=good, classes=["a", "b"])
    short = save(tmp_path / "short.npz", x_train=IMAGES, y_train=LABELS[:7])
    with pytest.raises(ValueError, match="x_train has 30 samples and y_train has 7"):
        load_task("arrays", path=short)
    other = save(tmp_path / "other.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:, :8], y_test=LABELS)
    with pytest.raises(ValueError, match="samples of one shape"):
        load_task("arrays", path=other)


def test_pickled_and_truncated_files_are_refused(tmp_path: Path) -> None:
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, x_train=np.array([{"a": 1}], dtype=object), y_train=LABELS)
    with pytest.raises(ValueError, match="plain arrays"):
        load_task("arrays", path=pickled)
    whole = save(tmp_path / "whole.npz", x_train=IMAGES, y_train=LABELS).read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"cut\.npz cannot be read"):
            load_task("arrays", path=tmp_path / "cut.npz")


# FashionMNIST and CIFAR ----------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 40), ("t10k", 20)):
        images = RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(n, dtype=np.uint8) % 10))
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path))
    return tmp_path


def test_fashion_mnist_reads_packed_and_plain_files(fashion: Path) -> None:
    task = load_task("fashion_mnist")
    assert (len(task.train), len(task.test)) == (40, 20) and task.input_shape == (1, 28, 28)
    assert task.class_names[9] == "Ankle boot" and "resnet20" in task.students
    packed = gzip.decompress((fashion / "FashionMNIST/raw/train-images-idx3-ubyte.gz").read_bytes())
    assert (task.train.x[0, 0].numpy().tobytes()) == packed[16 : 16 + 784]
    small = load_task("fashion_mnist", folder=fashion, test_size=7, train_size=20, omit_classes=["Bag"], seed=3)
    assert len(small.test) == 7 and len(small.train) == 20 and not (small.labels("train") == 8).any()
    with pytest.raises(ValueError, match="test_size must be between 1 and 20"):
        load_task("fashion_mnist", test_size=21)


def test_missing_sets_name_the_folder_and_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path / "nowhere"))
    for name in ("fashion_mnist", "cifar10", "cifar100"):
        with pytest.raises(FileNotFoundError, match=r"data folder .*nowhere.*KDCORE_DATA .*folder=.*download=True"):
            load_task(name)
    assert not (tmp_path / "nowhere").exists()


def test_damaged_idx_files_are_named(fashion: Path) -> None:
    path = fashion / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    packed = path.with_name(path.name + ".gz")
    whole = packed.read_bytes()
    for raw in (whole[:50], b"", gzip.compress(b"\x00\x00\x0d\x01" + b"\x00" * 20), gzip.compress(idx(IMAGES)[:-5])):
        packed.write_bytes(raw)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged"):
            load_task("fashion_mnist")
    with pytest.raises(FileNotFoundError, match="neither"):
        read_idx(fashion / "none")


@pytest.mark.parametrize(("name", "cls"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_comes_through_torchvision(name: str, cls: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torchvision.datasets as sets

    asked = []

    class Fake:
        def __init__(self, root: Path, *, train: bool, download: bool) -> None:
            asked.append((root, train, download))
            n = 30 if train else 10
            self.data, self.targets, self.classes = IMAGES[:n], (LABELS[:n]).tolist(), ["a", "b", "c"]

    monkeypatch.setattr(sets, cls, Fake)
    task = load_task(name, folder=tmp_path)
    assert asked == [(tmp_path, True, False), (tmp_path, False, False)]  # nothing is downloaded unless asked for
    assert len(task.test) == 10 and task.name == name and task.class_names == ("a", "b", "c")
    torch.testing.assert_close(task.test[2][0], torch.from_numpy(IMAGES[2].transpose(2, 0, 1).astype(np.float32) / 255))
