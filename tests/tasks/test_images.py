"""A folder of one's own images: scanning, broken files, splits, any timm network."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from kdcore.checkpoints import save_weights
from kdcore.experiment import Arm, compare
from kdcore.inputs import Normalize
from kdcore.models import ConvNet
from kdcore.tasks import ModelSpec, Recipe, load_task
from kdcore.tasks import _image_files as images_module
from kdcore.tasks._image_files import common_size, read_image
from kdcore.tasks.images import timm_model

NAMES = ("one", "three", "zero")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_digits(root: Path, *, per_class: int = 12, first: int = 0, suffix: str = ".png") -> Path:
    """Real digits 1, 3 and 0 as picture files in class folders."""
    bunch = load_digits()
    for name, digit in zip(NAMES, (1, 3, 0), strict=True):
        (root / name).mkdir(parents=True, exist_ok=True)
        for k, row in enumerate(np.flatnonzero(bunch.target == digit)[first : first + per_class]):
            picture = Image.fromarray((bunch.images[row] * 15.9375).astype(np.uint8))
            picture.resize((20, 16)).save(root / name / f"{k:03d}{suffix}")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits")


def test_flat_folder_is_split_by_seed(folder: Path) -> None:
    (folder / "one" / "notes.txt").write_text("not an image")
    (folder / "one" / ".hidden.png").write_text("not an image")
    (folder / ".cache").mkdir()
    task = load_task("images", root=folder, size=16, seed=1)
    assert task.class_names == NAMES and task.input_shape == (3, 16, 16) and task.notes == ()
    assert (len(task.train), len(task.test)) == (21, 15)
    assert not set(task.train.files) & set(task.test.files)
    assert task.labels("train").bincount().tolist() == [7, 7, 7]
    other = load_task("images", root=folder, size=16, seed=2)
    assert task.train.files != other.train.files and task.fingerprint != other.fingerprint
    x, y = task.sample(n=4)
    assert x.dtype == torch.float32 and x.min() >= 0 and 0.5 < x.max() <= 1 and y.dtype == torch.int64


def test_train_val_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for part, first in (("train", 0), ("val", 20), ("test", 30)):
        write_digits(root / part, per_class=5, first=first)
    task = load_task("images", root=root, size=16)
    for part in ("train", "val", "test"):
        assert len(task.split(part)) == 15 and all(root / part in path.parents for path in task.split(part).files)


def test_student_may_see_less(folder: Path) -> None:
    task = load_task("images", root=folder, size=16, train_size=9, omit_classes=["zero"])
    assert task.labels("train").bincount(minlength=3)[2] == 0 and len(task.train) == 9
    assert len(task.split("teacher_train")) == 21


def test_unreadable_files_are_named_counted_and_skipped(folder: Path) -> None:
    whole = (folder / "one" / "000.png").read_bytes()
    (folder / "one" / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "zero" / "text.jpg").write_text("this is no picture")
    (folder / "zero" / "empty.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="3 of 39 images cannot be read and are skipped") as caught:
        task = load_task("images", root=folder, size=16)
    message = str(caught[0].message)
    assert all(name in message for name in ("broken.png", "text.jpg", "empty.png")) and task.notes == (message,)
    assert len(task.train) + len(task.test) == 36
    assert sum(len(y) for split in ("train", "test") for _, y in task.loader(split)) == 36
    assert "3 of 39 images" in task.describe()


def test_scan_is_kept_until_a_file_changes(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = images_module.read_image

    def counted(path: Path, size: int, **options: Any) -> Any:
        read.append(path)
        return real(path, size, **options)

    monkeypatch.setattr(images_module, "read_image", counted)
    load_task("images", root=folder, size=16)
    first = len(read)
    assert first >= 36
    read.clear()
    load_task("images", root=folder, size=16)
    assert len(read) <= 1  # the shape of one sample
    next((cache / "scans").iterdir()).write_text("not json")
    load_task("images", root=folder, size=16)
    assert len(read) >= 36
    read.clear()
    os.utime(folder / "one" / "000.png", (1, 1))
    load_task("images", root=folder, size=16)
    assert len(read) >= 36


def test_class_without_a_readable_image_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"at least 1 sample that can be read in .*digits; 'empty' has 0"):
        load_task("images", root=folder)


def test_class_with_one_image_cannot_be_split(folder: Path) -> None:
    (folder / "alone").mkdir()
    (folder / "alone" / "a.png").write_bytes((folder / "one" / "000.png").read_bytes())
    with pytest.raises(ValueError, match="'alone' has 1"):
        load_task("images", root=folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "there is no folder"),
        (lambda root: root.mkdir(), "must hold one sub-folder per class"),
    ],
)
def test_missing_folder_or_classes(tmp_path: Path, make: Any, message: str) -> None:
    root = tmp_path / "nothing"
    make(root)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load_task("images", root=root)


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_digits(root / "train", per_class=4)
    write_digits(root / "test", per_class=4)
    (root / "test" / "zero").rename(root / "test" / "nought")
    with pytest.raises(ValueError, match=r"missing \['zero'\], unexpected \['nought'\]"):
        load_task("images", root=root)


def test_file_that_vanishes_later_is_named(folder: Path) -> None:
    task = load_task("images", root=folder, size=16)
    task.test.files[0].unlink()
    with pytest.raises(OSError, match=f"cannot read the image .*{task.test.files[0].name}"):
        task.test[0]


def test_reading_keeps_the_centre_and_the_colours(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = (200, 100, 50)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    x = read_image(tmp_path / "wide.png", 10)
    assert x.dtype == torch.uint8 and x.shape == (3, 10, 10)
    assert x[:, 5, 5].tolist() == [200, 100, 50]
    Image.fromarray(wide).convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(wide).convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(wide[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(wide).convert("P").save(tmp_path / "clear.png", transparency=b"\x00\x7f")
    for name in ("palette.gif", "print.jpg", "grey.png", "clear.png"):
        assert read_image(tmp_path / name, 8).shape == (3, 8, 8)


def test_camera_rotation_is_undone(tmp_path: Path) -> None:
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    Image.fromarray(upright[::-1, ::-1].copy()).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", 8)[:, 0].min() == 255


def test_augmentation_reaches_training_images_only(folder: Path) -> None:
    task = load_task("images", root=folder, size=16, augment=torch.zeros_like)
    assert not task.train[0][0].any() and not task.split("teacher_train")[0][0].any() and task.test[0][0].any()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_any_timm_network_fits_the_size(name: str) -> None:
    assert timm_model(name, 5, 64).eval()(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def test_timm_teacher_own_student_and_a_run(folder: Path, tmp_path: Path) -> None:
    weights = save_weights(timm_model("test_resnet", 3, 32), tmp_path / "teacher.safetensors")
    task = load_task(
        "images", root=folder, size=32, teacher="test_resnet", teacher_weights=weights, student="cnn-small"
    )
    assert next(iter(task.teachers)) == "test_resnet" and next(iter(task.students)) == "cnn-small"
    teacher = task.teacher()
    normalize = task.normalization(teacher)
    assert isinstance(normalize, Normalize) and len(normalize.mean) == 3
    result = compare(task, [Arm("KD", "kd")], seeds=1, epochs=1, batch_size=8)
    assert result.rows.teacher_forwards.tolist() == [21]


def test_modules_and_specifications_as_networks(folder: Path) -> None:
    net = ConvNet((4, 8), 3, in_channels=3)
    spec = ModelSpec(build=lambda: ConvNet((2, 4), 3, in_channels=3), recipe=Recipe(epochs=1))
    task = load_task("images", root=folder, size=16, teacher=net, student=spec)
    made = task.teachers["teacher"].make(0)
    assert made is not net and torch.equal(made.head.weight, net.head.weight)
    assert task.student().head.in_features == 4


def test_wrong_networks_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher must be a timm name.*'resnet18'"):
        load_task("images", root=folder, size=16, teacher="resnet_18")
    with pytest.raises(ValueError, match=r"teacher_weights=.* needs teacher="):
        load_task("images", root=folder, size=16, teacher_weights="x.safetensors")
    with pytest.raises(ValueError, match="timm has no model"):
        timm_model("resnet_18", 3, 32)
    with pytest.raises(ValueError, match="size must be"):
        load_task("images", root=folder, size=4)
    five = save_weights(timm_model("test_resnet", 5, 32), tmp_path / "five.safetensors")
    task = load_task("images", root=folder, size=32, teacher="test_resnet", teacher_weights=five)
    with pytest.raises(ValueError, match=r"was trained for 5 classes .*has 3: one, three, zero"):
        task.teacher()


def test_no_warning_without_a_reason(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_task("images", root=folder, size=16)


def test_common_size_is_that_of_squares_of_one_size(tmp_path: Path) -> None:
    def image(name: str, *size: int) -> Path:
        Image.new("RGB", (size[0], size[-1])).save(tmp_path / name)
        return tmp_path / name

    squares = [image(f"{k}.png", 32) for k in range(3)]
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert common_size([]) is None and common_size([tmp_path / "broken.png"]) is None
    assert common_size([*squares, tmp_path / "broken.png"]) == 32
    assert common_size(squares, most=31) is None
    wide = image("wide.png", 32, 48)
    assert common_size([*squares, wide]) is None and common_size([wide]) is None  # several sizes; not square
    assert common_size([image("tiny.png", 4)]) is None


def test_without_a_size_squares_of_one_size_stay_as_they_are(tmp_path: Path, folder: Path) -> None:
    for part, count in (("train", 5), ("test", 2)):
        for name in ("a", "b"):
            (tmp_path / "squares" / part / name).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (20, 20), (40 * k, 0, 0)).save(tmp_path / "squares" / part / name / f"{k}.png")
    task = load_task("images", root=tmp_path / "squares")
    assert task.input_shape == task.test[0][0].shape == (3, 20, 20) and "20x20" in task.words
    assert load_task("images", root=tmp_path / "squares", size=16).input_shape == (3, 16, 16)
    assert load_task("images", root=folder).input_shape == (3, 64, 64)  # not square


# Folders and files as they are found in practice ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", None, "Testing"),
        ("TRAIN", "Validation", "Test"),
        ("train", "valid", None),
        ("trainset", "dev", None),
    ],
)
def test_splits_are_known_by_their_usual_names(tmp_path: Path, train: str, val: str | None, test: str | None) -> None:
    root = tmp_path / "set"
    for name, first in ((train, 0), (val, 20), (test, 30)):
        if name is not None:
            write_digits(root / name, per_class=5, first=first)
    task = load_task("images", root=root, size=16)
    assert task.class_names == NAMES and (task.val is not None) == (val is not None)
    held = {"val": val, "test": test}
    for part, name in held.items():
        if name is not None:
            assert len(task.split(part)) == 15 and all(root / name in p.parents for p in task.split(part).files)
    assert all(root / train in path.parents for path in task.train.files)


def test_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    write_digits(tmp_path / "set" / "train", per_class=5)
    write_digits(tmp_path / "set" / "raw", per_class=5)
    with pytest.warns(UserWarning, match=r"has a training split: its folders raw are not read"):
        load_task("images", root=tmp_path / "set", size=16)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("val", "valid", "train"), r"two val folders, val, valid: keep one"),
        (("test", "rest"), r"has test with folders inside, but no training split: call it train"),
    ],
)
def test_splits_that_are_not_clear_are_refused(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for name in folders:
        write_digits(tmp_path / "set" / name, per_class=4)
    with pytest.raises(ValueError, match=message):
        load_task("images", root=tmp_path / "set")


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "set")
    (root / "one").rename(root / "test")
    assert load_task("images", root=root, size=16).class_names == ("test", "three", "zero")


def test_one_class_is_none_and_the_folder_below_is_offered(tmp_path: Path) -> None:
    write_digits(tmp_path / "archive" / "digits")
    with pytest.raises(ValueError, match=r"one only, 'digits'\. It holds folders itself \(one, three, zero\): give "):
        load_task("images", root=tmp_path / "archive")
    only = tmp_path / "only" / "train" / "cat"
    only.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train must hold one sub-folder per class, it has one only, 'cat'\.$"):
        load_task("images", root=tmp_path / "only")


def test_folders_one_level_too_deep_are_told(tmp_path: Path) -> None:
    for site in ("north", "south"):
        write_digits(tmp_path / "set" / site, per_class=4)
    with pytest.warns(UserWarning, match=r"\(north, south\) hold the same folders \(one, three, zero\)"):
        assert load_task("images", root=tmp_path / "set", size=16).class_names == ("north", "south")


def test_copies_in_hidden_and_left_over_folders_are_no_samples(folder: Path) -> None:
    for hidden in (".ipynb_checkpoints", "__MACOSX", ".thumbs/small"):
        (folder / "one" / hidden).mkdir(parents=True)
        for path in sorted((folder / "one").glob("*.png")):
            (folder / "one" / hidden / path.name).write_bytes(path.read_bytes())
    (folder / "__MACOSX").mkdir()
    task = load_task("images", root=folder, size=16)
    assert task.class_names == NAMES and len(task.train) + len(task.test) == 36 and task.notes == ()


def test_files_of_other_kinds_are_counted_and_loose_ones_named(folder: Path) -> None:
    for k in range(3):
        (folder / "one" / f"{k}.heic").write_bytes(b"0")
    (folder / "zero" / "a.svg").write_bytes(b"0")
    (folder / "loose.png").write_bytes((folder / "one" / "000.png").read_bytes())
    with pytest.warns(UserWarning) as told:
        task = load_task("images", root=folder, size=16)
    assert len(task.train) + len(task.test) == 36
    said = " ".join(str(w.message) for w in told)
    assert "4 files of other kinds are left out: .heic (3), .svg (1)." in said
    assert f"1 images lie in {folder} itself, outside of class folders" in said


def test_a_class_of_unknown_files_says_which(folder: Path) -> None:
    for path in (folder / "one").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(ValueError, match=r"'one' has 0\. 12 files of other kinds are left out: \.heic \(12\)"):
        load_task("images", root=folder)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".jp2", ".webp", ".PNG"])
def test_all_usual_suffixes_are_read(tmp_path: Path, suffix: str) -> None:
    root = write_digits(tmp_path / "set", suffix=suffix)
    assert len(load_task("images", root=root, size=16).train) == 21


def grey_levels(tmp_path: Path, values: np.ndarray, name: str) -> torch.Tensor:
    Image.fromarray(values).save(tmp_path / name)
    return read_image(tmp_path / name, values.shape[0])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_read_as_eight(tmp_path: Path, name: str) -> None:
    ramp = np.linspace(0, 65535, 1024).reshape(32, 32).astype(np.uint16)
    read = grey_levels(tmp_path, ramp, name)
    expected = torch.from_numpy(np.round(ramp / 257).astype(np.uint8))
    assert all(torch.equal(channel, expected) for channel in read) and read.unique().numel() == 256


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_known_range_are_refused(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(OSError, match=r"(32-bit|floating) numbers from 0 to 900: save it with 8 or 16 bits"):
        grey_levels(tmp_path, np.linspace(0, 900, 256).reshape(16, 16).astype(dtype), "a.tif")


def test_a_document_called_image_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a program was started: {args}")

    for name in ("Popen", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, refused)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(OSError, match="cannot identify image file"):
        read_image(tmp_path / "a.png", 16)


def test_huge_images_are_refused_or_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(images_module, "DRAFT_PIXELS", 5_000)
    slope = np.linspace(0, 255, 256 * 128).reshape(128, 256).astype(np.uint8)
    Image.fromarray(slope).save(tmp_path / "a.png")
    Image.fromarray(slope).save(tmp_path / "a.jpg", quality=95)
    with pytest.raises(OSError, match=r"256 x 128 = 0 megapixels, more than 0: save a smaller copy"):
        read_image(tmp_path / "a.png", 16)
    drafted = read_image(tmp_path / "a.jpg", 16)
    monkeypatch.setattr(images_module, "MAX_PIXELS", 10**6)
    assert (drafted.int() - read_image(tmp_path / "a.png", 16).int()).abs().max() <= 8


def grey_net(channels: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )


def test_networks_of_one_channel_get_grey_images(folder: Path) -> None:
    task = load_task("images", root=folder, size=16, student=grey_net(1))
    assert task.input_shape == (1, 16, 16) and "16x16 grey pixels" in task.words
    colour = load_task("images", root=folder, size=16)
    assert task.fingerprint != colour.fingerprint
    assert (task.train[0][0][0] - colour.train[0][0].mean(0)).abs().max() <= 2 / 255
    assert task.predict(task.student())[0].shape == (15, 3)
    assert task.predict(task.student("cnn-small"))[0].shape == (15, 3)
    named = load_task("images", root=folder, size=32, teacher="resnet10t", grey=True)
    assert named.spec("teacher").make(0)(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"teacher": grey_net(3), "student": grey_net(1)}, "the teacher takes 3, the student takes 1"),
        ({"student": grey_net(4)}, "the student takes 4 channels"),
    ],
)
def test_networks_of_other_channels_are_refused(folder: Path, networks: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task("images", root=folder, **networks)
