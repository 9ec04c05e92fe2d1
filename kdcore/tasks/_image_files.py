"""Image files in class folders: which of them count, how they are read, what is said of those that are left out."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..files import write_atomic
from ._data import check_class_counts
from ._folders import cache_folder

if TYPE_CHECKING:
    from PIL.Image import Image

#: What is read, by suffix.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
)
#: What may lie beside pictures without a word.
BESIDE = ("", ".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".db", ".ini", ".log")
#: What files are decoded as, whatever they are called. None of these starts another program, as EPS does (Ghostscript).
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
#: Larger images are refused (decoding one takes 3 to 8 bytes a pixel); JPEGs above the second are decoded at a fraction
#: of their size, which the format allows.
MAX_PIXELS, DRAFT_PIXELS = 64_000_000, 16_000_000
#: Names of splits, in lower case, that downloads use.
SPLIT_NAMES = {
    "train": ("train", "training", "trainset", "train_set"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "testset", "test_set"),
}
_IGNORED = ("__MACOSX", "__pycache__")
_READER = 2  # counts the rules by which pixels are read: kept scans and teachers are of one of them


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(path: Path) -> Image:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
        return Image.open(path, formats=_formats())


def decoded(path: Path, what: str = "image", size: int | None = None) -> Image:
    """A picture as 8-bit RGB, upright. 16 bits a channel become 8 (65535 is white); grey becomes three equal channels.

    Args:
        path: the file.
        what: how the error calls it.
        size: side that will do, for JPEGs above :data:`DRAFT_PIXELS`; ``None`` decodes all of them.

    Raises:
        OSError: the file is not a readable image, is larger than :data:`MAX_PIXELS`, or holds numbers whose range
            nobody knows (32 bits, floating); the message names it.
    """
    from PIL import Image, ImageOps

    try:
        with _open(path) as image:
            _fit_for_memory(image, size)
            image.load()
            upright = ImageOps.exif_transpose(image)
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        return _eight_bits(upright).convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot read the {what} {path}: {error}") from error


def read_image(path: Path, size: int, *, grey: bool = False) -> Tensor:
    """An image as uint8 ``(3, size, size)``: shorter side resized (bicubic, anti-aliased), then the centre cut out.

    ``grey``: its brightness (ITU-R 601), ``(1, size, size)``.

    Raises:
        OSError: as :func:`decoded`.
    """
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(decoded(path, size=size), (size, size), Image.Resampling.BICUBIC)
    if grey:
        return torch.from_numpy(np.asarray(fitted.convert("L"))[None].copy())
    return torch.from_numpy(np.asarray(fitted).transpose(2, 0, 1).copy())


def _fit_for_memory(image: Image, size: int | None) -> None:
    width, height = image.size
    if size is not None and image.format == "JPEG" and width * height > DRAFT_PIXELS:
        image.draft("RGB", (2 * size, 2 * size))
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise ValueError(
            f"it has {width} x {height} = {width * height / 1e6:.0f} megapixels, more than {MAX_PIXELS / 1e6:.0f}: "
            "save a smaller copy"
        )


def _eight_bits(image: Image) -> Image:
    """Grey images of 16 bits as 8 bits; PIL's own conversion would clip them."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535 or (image.mode == "I" and image.format != "PNG"):
        kind = "floating numbers" if image.mode == "F" else "32-bit numbers"
        raise ValueError(f"it holds {kind} from {values.min():g} to {values.max():g}: save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


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
            with _open(path) as image:
                sizes.add(image.size)
        except (OSError, Image.DecompressionBombError):
            continue  # named when the folder is scanned
    side = next(iter(sizes))[0] if len(sizes) == 1 else 0
    return side if sizes == {(side, side)} and 8 <= side <= most else None


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files read when asked for; ``x (3, size, size)`` float in [0, 1], of one channel if ``grey``.

    Args:
        files: paths, all readable (see :func:`scan`).
        labels: ``(N,)`` integers.
        size: side in pixels.
        augment: ``augment(x) -> x`` applied to every image read (training only), or ``None``.
        grey: read their brightness.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: np.ndarray,
        size: int,
        augment: Callable[[Tensor], Tensor] | None = None,
        grey: bool = False,
    ) -> None:
        self.files, self.labels, self.size, self.augment = list(files), np.asarray(labels), size, augment
        self.grey = grey

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = read_image(self.files[index], self.size, grey=self.grey).float().div_(255)
        return (x if self.augment is None else self.augment(x)), int(self.labels[index])

    def subset(self, rows: np.ndarray, augment: Callable[[Tensor], Tensor] | None = None) -> ImageFiles:
        """The files at ``rows``."""
        return ImageFiles([self.files[i] for i in rows], self.labels[rows], self.size, augment, self.grey)

    def fingerprint(self) -> str:
        """Hash of every file's name, size and time of change, the labels, and how images are read."""
        return _stamp(self.files, f"{_READER}|{self.size}|{self.grey}|{self.augment!r}|{self.labels.tolist()}")


def _stamp(files: Sequence[Path], extra: str = "") -> str:
    digest = hashlib.sha256(extra.encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{path.parent.name}/{path.name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _unreadable(files: Sequence[Path]) -> dict[str, str]:
    """Files that do not decode, with the reason; the answer for unchanged files is kept in the cache folder."""
    note = cache_folder() / "scans" / f"{_stamp(files, str([_READER, *map(str, files)]))[:32]}.json"
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

    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # odd metadata of pictures that can be read all the same
        bad = {str(path): why for path, why in zip(files, pool.map(reason, files), strict=True) if why}
    try:
        write_atomic(note, json.dumps(bad))
    except OSError as error:
        warnings.warn(f"the scan of {len(files)} images is not kept ({error}) and repeated next time.", stacklevel=3)
    return bad


@dataclass(frozen=True)
class Scan:
    """What a folder of class folders holds.

    Attributes:
        files: readable images, by class and name. labels: ``(N,)``. classes: names of the class folders.
        unreadable: path -> reason. left_out: suffix -> number of files that are no pictures to this library.
        words: what else a user must know, one sentence each.
    """

    files: list[Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    unreadable: dict[str, str]
    left_out: Counter[str]
    words: tuple[str, ...]


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and path.name not in _IGNORED


def folders_in(folder: Path) -> list[Path]:
    """Sub-folders that count, sorted: no hidden ones, none that an archive or a tool left behind."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and _counts(path))


def _walk(folder: Path) -> Iterable[Path]:
    """Files below a class folder, sorted, without those of hidden folders (``.ipynb_checkpoints`` holds copies)."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and all(map(_counts, (path, *path.relative_to(folder).parents))):
            yield path


def find_splits(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The folders of ``root`` that are splits, by ``"train"``, ``"val"``, ``"test"``, and a sentence on the others.

    Any of :data:`SPLIT_NAMES` counts, in any case; without a training split none is a split.

    Raises:
        ValueError: two folders for one split, or a test or validation split with classes inside but none to train on.
    """
    roles = {name: role for role, names in SPLIT_NAMES.items() for name in names}
    named: dict[str, list[Path]] = {}
    others = []
    for path in folders_in(root):
        role = roles.get(path.name.lower())
        if role is None:
            others.append(path.name)
        else:
            named.setdefault(role, []).append(path)
    for role, paths in named.items():
        if len(paths) > 1:
            raise ValueError(f"{root} has two {role} folders, {', '.join(p.name for p in paths)}: keep one.")
    found = {role: paths[0] for role, paths in named.items()}
    if "train" in found:
        words = f"{root} has a training split: its folders {', '.join(others)} are not read." if others else ""
        return found, (words,) if words else ()
    if inside := [path for path in found.values() if folders_in(path)]:
        raise ValueError(
            f"{root} has {', '.join(p.name for p in inside)} with folders inside, but no training split: call it "
            f"train (or {', '.join(SPLIT_NAMES['train'][1:])})."
        )
    return {}, ()


def scan(folder: Path, classes: Sequence[str] | None = None) -> Scan:
    """Every readable image below ``folder/<class>/``.

    Args:
        folder: its sub-folders are the classes, in alphabetical order; hidden files and folders are passed over.
        classes: the classes that must be there; ``None`` takes those found.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: fewer than two class folders, other classes than expected, or a class without a readable image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}.")
    inside = folders_in(folder)
    found = tuple(path.name for path in inside)
    if not found:
        raise ValueError(f"{folder} must hold one sub-folder per class, it has none.")
    if classes is not None and found != tuple(classes):
        missing, unexpected = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
        raise ValueError(
            f"{folder} must have the class folders of the training images, {', '.join(classes)}; "
            f"missing {missing}, unexpected {unexpected}."
        )
    deeper = {path.name: [p.name for p in folders_in(path)] for path in inside}
    if len(found) == 1:
        within = deeper[found[0]]
        advice = f" It holds folders itself ({', '.join(within[:5])}): give {inside[0]}." if within else ""
        raise ValueError(f"{folder} must hold one sub-folder per class, it has one only, {found[0]!r}.{advice}")
    entries = [(path, label) for label, name in enumerate(found) for path in _walk(folder / name)]
    files = [(path, label) for path, label in entries if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() for path, _ in entries if path.suffix.lower() not in (*SUFFIXES, *BESIDE))
    bad = _unreadable([path for path, _ in files]) if files else {}
    kept = [(path, label) for path, label in files if str(path) not in bad]
    labels = np.array([label for _, label in kept], dtype=np.int64)
    try:
        check_class_counts(labels, found, at_least=1, why=f"that can be read in {folder}")
    except ValueError as error:
        raise ValueError(f"{error} {left_out_words(others)}{_reasons(bad)}".rstrip()) from None
    return Scan([path for path, _ in kept], labels, found, bad, others, _odd(folder, deeper))


def _odd(folder: Path, deeper: dict[str, list[str]]) -> tuple[str, ...]:
    """Sentences on what may not be meant: pictures outside of classes, the same sub-folders in every class."""
    words = []
    if loose := [p.name for p in folder.iterdir() if p.is_file() and _counts(p) and p.suffix.lower() in SUFFIXES]:
        words.append(f"{len(loose)} images lie in {folder} itself, outside of class folders, and are not used.")
    first, *rest = deeper.values()
    if len(first) > 1 and all(names == first for names in rest):
        words.append(
            f"all {len(deeper)} classes of {folder} ({', '.join(list(deeper)[:4])}) hold the same folders "
            f"({', '.join(first[:4])}): if those are the classes, the folders lie one level too deep."
        )
    return tuple(words)


def left_out_words(others: Counter[str]) -> str:
    """A sentence on files that are no pictures to this library; empty without any."""
    if not others:
        return ""
    shown = ", ".join(f"{suffix} ({count})" for suffix, count in others.most_common(5))
    return f"{sum(others.values())} files of other kinds are left out: {shown}."


def _reasons(bad: dict[str, str]) -> str:
    path, why = next(iter(bad.items()), ("", ""))
    return f" {len(bad)} cannot be read, e.g. {path} ({why})." if bad else ""


def unreadable_words(bad: dict[str, str], total: int) -> str:
    """A sentence that names the first files that cannot be read; empty without any."""
    if not bad:
        return ""
    shown = "; ".join(f"{path} ({why})" for path, why in list(bad.items())[:5])
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f"{len(bad)} of {total} images cannot be read and are skipped: {shown}{more}."
