"""Your own folder of images, with networks of your own choice."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..files import write_atomic
from ..functional.checks import closest
from ._classification import Classification
from ._data import check_class_counts, split_train, transfer_set
from ._folders import cache_folder
from ._models import ModelSpec, Recipe, reference_models

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
#: Side in pixels to which images of several sizes are brought.
SIZE = 64
TIMM_RECIPE = Recipe(epochs=30, batch_size=64, lr=1e-3, weight_decay=0.05)
Network = str | nn.Module | ModelSpec


def read_image(path: Path, size: int) -> Tensor:
    """An image as uint8 ``(3, size, size)``: shorter side resized (bicubic, anti-aliased), then the centre cut out.

    Raises:
        OSError: the file is not a readable image; the message names it.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        fitted = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot read the image {path}: {error}") from error
    return torch.from_numpy(np.asarray(fitted).transpose(2, 0, 1).copy())


def common_size(files: Sequence[Path], *, look_at: int = 64, most: int = 256) -> int | None:
    """The side of images, if they are squares of one size, as those prepared for a network are.

    Args:
        files: paths.
        look_at: about how many are looked at, evenly spread; only their headers are read.
        most: larger sides are not returned.

    Returns:
        Side in pixels, at least 8, or ``None``: several sizes, not square, too large, or no image that can be read.
    """
    from PIL import Image

    sizes = set()
    for path in files[:: max(1, len(files) // look_at)]:
        try:
            with Image.open(path) as image:
                sizes.add(image.size)
        except (OSError, Image.DecompressionBombError):
            continue  # named when the folder is scanned
    side = next(iter(sizes))[0] if len(sizes) == 1 else 0
    return side if sizes == {(side, side)} and 8 <= side <= most else None


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files read when asked for; ``x (3, size, size)`` float in [0, 1].

    Args:
        files: paths, all readable (see :func:`scan`).
        labels: ``(N,)`` integers.
        size: side in pixels.
        augment: ``augment(x) -> x`` applied to every image read (training only), or ``None``.
    """

    def __init__(
        self, files: Sequence[Path], labels: np.ndarray, size: int, augment: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.files, self.labels, self.size, self.augment = list(files), np.asarray(labels), size, augment

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = read_image(self.files[index], self.size).float().div_(255)
        return (x if self.augment is None else self.augment(x)), int(self.labels[index])

    def subset(self, rows: np.ndarray, augment: Callable[[Tensor], Tensor] | None = None) -> ImageFiles:
        """The files at ``rows``."""
        return ImageFiles([self.files[i] for i in rows], self.labels[rows], self.size, augment)

    def fingerprint(self) -> str:
        """Hash of every file's name, size and time of change, the labels, and how images are read."""
        return _stamp(self.files, f"{self.size}|{self.augment!r}|{self.labels.tolist()}")


def _stamp(files: Sequence[Path], extra: str = "") -> str:
    digest = hashlib.sha256(extra.encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{path.parent.name}/{path.name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _unreadable(files: Sequence[Path]) -> dict[str, str]:
    """Files that do not decode, with the reason; the answer for unchanged files is kept in the cache folder."""
    note = cache_folder() / "scans" / f"{_stamp(files, str([str(p) for p in files]))[:32]}.json"
    try:
        return dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        pass  # not scanned yet, or the note is damaged: scan

    def reason(path: Path) -> str:
        try:
            read_image(path, 8)
        except OSError as error:
            return str(error.__cause__ or error)
        return ""

    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # odd metadata of pictures that can be read all the same
        bad = {str(path): why for path, why in zip(files, pool.map(reason, files), strict=True) if why}
    try:
        write_atomic(note, json.dumps(bad))
    except OSError as error:
        warnings.warn(f"the scan of {len(files)} images is not kept ({error}) and repeated next time.", stacklevel=3)
    return bad


def scan(
    folder: Path,
    classes: Sequence[str] | None = None,
) -> tuple[list[Path], np.ndarray, tuple[str, ...], dict[str, str]]:
    """Every readable image below ``folder/<class>/``.

    Args:
        folder: its sub-folders are the classes, in alphabetical order; hidden and other files are passed over.
        classes: the classes that must be there; ``None`` takes those found.

    Returns:
        files, labels ``(N,)``, class names, and the unreadable files with the reason.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders, other classes than expected, or a class without a readable image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}.")
    found = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not found:
        raise ValueError(f"{folder} must hold one sub-folder per class, it has none.")
    if classes is not None and found != tuple(classes):
        missing, unexpected = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
        raise ValueError(
            f"{folder} must have the class folders of the training images, {', '.join(classes)}; "
            f"missing {missing}, unexpected {unexpected}."
        )
    files = [
        (path, label)
        for label, name in enumerate(found)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    bad = _unreadable([path for path, _ in files]) if files else {}
    kept = [(path, label) for path, label in files if str(path) not in bad]
    labels = np.array([label for _, label in kept], dtype=np.int64)
    check_class_counts(labels, found, at_least=1, why=f"that can be read in {folder}")
    return [path for path, _ in kept], labels, found, bad


def timm_model(name: str, num_classes: int, size: int, *, pretrained: bool = False) -> nn.Module:
    """Any timm architecture for images of ``size`` pixels; networks that fix the size at construction are told it.

    Raises:
        ValueError: timm does not know the name; the message offers the closest.
    """
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{closest(name, timm.list_models())}")
    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": pretrained}
    try:
        return timm.create_model(name, img_size=size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)


def _menu(
    role: str,
    group: dict[str, ModelSpec],
    chosen: Network | None,
    weights: str | Path | None,
    num_classes: int,
    size: int,
    pretrained: bool,
) -> dict[str, ModelSpec]:
    """``group`` with the chosen network first."""
    path = None if weights is None else Path(weights)
    if path is not None and chosen is None:
        raise ValueError(f"{role}_weights={str(path)!r} needs {role}=...: the network the checkpoint belongs to.")
    if chosen is None:
        return group
    if isinstance(chosen, ModelSpec):
        return {role: chosen, **group}
    if isinstance(chosen, nn.Module):
        import copy

        return {
            role: ModelSpec(
                build=partial(copy.deepcopy, chosen), recipe=TIMM_RECIPE, words=type(chosen).__name__, weights=path
            ),
            **group,
        }
    if chosen in group:
        spec = group[chosen]
        spec = ModelSpec(build=spec.build, recipe=spec.recipe, words=spec.words, weights=path)
    else:
        import timm

        if not timm.is_model(chosen):
            raise ValueError(
                f"{role} must be a timm name, one of {', '.join(group)}, or a module, got {chosen!r}."
                f"{closest(chosen, [*group, *timm.list_models()])}"
            )
        build = partial(timm_model, chosen, num_classes, size, pretrained=pretrained)
        spec = ModelSpec(build=build, recipe=TIMM_RECIPE, words="timm" + ", pretrained" * pretrained, weights=path)
    return {chosen: spec, **{name: other for name, other in group.items() if name != chosen}}


def images(
    root: str | Path,
    teacher: Network | None = None,
    student: Network | None = None,
    teacher_weights: str | Path | None = None,
    student_weights: str | Path | None = None,
    pretrained: bool = False,
    size: int | None = None,
    seed: int = 0,
    train_fraction: float = 0.6,
    val_fraction: float = 0.0,
    train_size: int | None = None,
    omit_classes: Sequence[int | str] = (),
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Classification:
    """Your own folder of images (one sub-folder per class), any timm networks, your own checkpoints.

    ``root`` holds either the class folders, split by ``seed``, or ``train/`` (and ``test/``, ``val/``) with the class
    folders inside. Images are resized and cut to ``size`` pixels, in [0, 1]; each network applies its own
    normalisation. Files that cannot be decoded are found when the task is loaded, named in a warning and skipped; that
    scan is kept until a file changes.

    Args:
        root: the folder.
        teacher, student: a timm name, one of the small reference networks (``"cnn"``, ``"vit"``, ...), a module, or a
            :class:`~kdcore.tasks.ModelSpec`; it becomes the first entry of ``task.teachers`` / ``task.students``.
        teacher_weights, student_weights: checkpoints (safetensors, or weights-only .pt) of those networks. A teacher
            without one is trained on the folder.
        pretrained: let timm fetch its published weights for timm names (this uses the network).
        size: side in pixels; ``None``: those of the training images if squares of one size (<= 256), else 64.
        seed: of the splits and the reference teachers.
        train_fraction, val_fraction: shares where no ``test/`` or ``val/`` folder exists.
        train_size, omit_classes: what the student sees, as for the digits.
        augment: ``augment(x (3, size, size)) -> x`` for training images, e.g. a torchvision transform.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no classes, a class without readable images, splits whose classes differ, unknown network name.
    """
    root = Path(root).expanduser()
    if size is not None and (not isinstance(size, int) or size < 8):
        raise ValueError(f"size must be a whole number of pixels >= 8, got {size!r}.")
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root} (option root).")
    has = {name for name in ("train", "val", "test") if (root / name).is_dir()}
    files, labels, names, bad = scan(root / "train" if "train" in has else root)
    if size is None:
        size = common_size(files) or SIZE
    pool = ImageFiles(files, labels, size)
    given: dict[str, ImageFiles] = {}
    for name in has - {"train"} if "train" in has else ():
        other_files, other_labels, _, other_bad = scan(root / name, names)
        given[name] = ImageFiles(other_files, other_labels, size)
        bad |= other_bad
    split = split_train(
        labels,
        class_names=names,
        seed=seed,
        train_fraction=None if "test" in given else train_fraction,
        val_fraction=0.0 if "val" in given else val_fraction,
    )
    parts = {name: pool.subset(rows) for name, rows in split.items() if name != "train"} | given
    seen = transfer_set(
        labels[split["train"]], class_names=names, seed=seed, train_size=train_size, omit_classes=omit_classes
    )
    teachers, students = reference_models((3, size, size), len(names))
    task = Classification(
        name=f"images-{root.resolve().name}",
        class_names=names,
        seed=seed,
        words=f"images of {root}, {size}x{size} colour pixels",
        train=pool.subset(split["train"][seen], augment),
        teacher_train=pool.subset(split["train"], augment),
        val=parts.get("val"),
        test=parts["test"],
        notes=_report(bad, len(bad) + len(pool) + sum(map(len, given.values()))),
        teachers=_menu("teacher", teachers, teacher, teacher_weights, len(names), size, pretrained),
        students=_menu("student", students, student, student_weights, len(names), size, pretrained),
    )
    for note in task.notes:
        warnings.warn(note, stacklevel=3)
    return task


def _report(bad: dict[str, str], total: int) -> tuple[str, ...]:
    if not bad:
        return ()
    shown = "; ".join(f"{path} ({why})" for path, why in list(bad.items())[:5])
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    return (f"{len(bad)} of {total} images cannot be read and are skipped: {shown}{more}.",)


TASKS = {"images": images}
