"""Your own folder of images, with networks of your own choice."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..functional.checks import closest
from ._classification import Classification
from ._data import split_train, transfer_set
from ._image_files import (
    ImageFiles,
    Scan,
    common_size,
    find_splits,
    left_out_words,
    scan,
    unreadable_words,
)
from ._models import ModelSpec, Recipe, reference_models

#: Side in pixels to which images of several sizes are brought.
SIZE = 64
TIMM_RECIPE = Recipe(epochs=30, batch_size=64, lr=1e-3, weight_decay=0.05)
Network = str | nn.Module | ModelSpec


def timm_model(name: str, num_classes: int, size: int, *, pretrained: bool = False, channels: int = 3) -> nn.Module:
    """Any timm architecture for images of ``size`` pixels; networks that fix the size at construction are told it.

    Raises:
        ValueError: timm does not know the name; the message offers the closest.
    """
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{closest(name, timm.list_models())}")
    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": pretrained, "in_chans": channels}
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
    channels: int,
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
        build = partial(timm_model, chosen, num_classes, size, pretrained=pretrained, channels=channels)
        spec = ModelSpec(build=build, recipe=TIMM_RECIPE, words="timm" + ", pretrained" * pretrained, weights=path)
    return {chosen: spec, **{name: other for name, other in group.items() if name != chosen}}


def _reads_grey(given: dict[str, Network | None]) -> bool:
    """Whether the modules among the networks take one channel; those that take neither 1 nor 3 are refused."""
    taken = {}
    for role, network in given.items():
        layers = network.modules() if isinstance(network, nn.Module) else ()
        first = next((m for m in layers if isinstance(m, nn.Conv2d)), None)
        if first is not None:
            taken[role] = first.in_channels
    odd = [f"the {role} takes {count} channels" for role, count in taken.items() if count not in (1, 3)]
    if odd or len(set(taken.values())) > 1:
        shown = odd or [f"the {role} takes {count}" for role, count in taken.items()]
        raise ValueError(
            f"images are read with 3 channels, or with 1 (grey=True), for both networks: {', '.join(shown)}."
        )
    return 1 in taken.values()


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
    grey: bool | None = None,
) -> Classification:
    """Your own folder of images (one sub-folder per class), any timm networks, your own checkpoints.

    ``root`` holds either the class folders, split by ``seed``, or ``train/`` (and ``test/``, ``val/``) with the class
    folders inside (also called ``Training``, ``Testing``, ``validation`` and the like). Images are resized and cut to
    ``size`` pixels, in [0, 1]; each network applies its own normalisation. Files that cannot be decoded are found when
    the task is loaded, named in a warning and skipped; that scan is kept until a file changes.

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
        grey: read the brightness of images as one channel; ``None``: if the networks that are given take one channel.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no classes, a class without readable images, splits whose classes differ, unknown network name.
    """
    root = Path(root).expanduser()
    if size is not None and (not isinstance(size, int) or size < 8):
        raise ValueError(f"size must be a whole number of pixels >= 8, got {size!r}.")
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root} (option root).")
    grey = _reads_grey({"teacher": teacher, "student": student}) if grey is None else grey
    channels = 1 if grey else 3
    splits, words = find_splits(root)
    scans = {"train": scan(splits.get("train", root))}
    labels, names = scans["train"].labels, scans["train"].classes
    scans |= {name: scan(folder, names) for name, folder in splits.items() if name != "train"}
    if size is None:
        size = common_size(scans["train"].files) or SIZE
    sets = {name: ImageFiles(found.files, found.labels, size, grey=grey) for name, found in scans.items()}
    pool = sets.pop("train")
    given = sets
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
    teachers, students = reference_models((channels, size, size), len(names))
    task = Classification(
        name=f"images-{root.resolve().name}",
        class_names=names,
        seed=seed,
        words=f"images of {root}, {size}x{size} {'grey' if grey else 'colour'} pixels",
        train=pool.subset(split["train"][seen], augment),
        teacher_train=pool.subset(split["train"], augment),
        val=parts.get("val"),
        test=parts["test"],
        notes=(*_notes(list(scans.values())), *words),
        teachers=_menu("teacher", teachers, teacher, teacher_weights, len(names), size, pretrained, channels),
        students=_menu("student", students, student, student_weights, len(names), size, pretrained, channels),
    )
    for note in task.notes:
        warnings.warn(note, stacklevel=3)
    return task


def _notes(scans: Sequence[Scan]) -> tuple[str, ...]:
    """What was not read, and what may not be meant."""
    bad = {path: why for found in scans for path, why in found.unreadable.items()}
    others = sum((found.left_out for found in scans), Counter[str]())
    said = (unreadable_words(bad, len(bad) + sum(len(found.files) for found in scans)), left_out_words(others))
    return (*filter(None, said), *(words for found in scans for words in found.words))


TASKS = {"images": images}
