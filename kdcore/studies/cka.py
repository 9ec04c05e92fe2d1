"""Representations side by side: teachers, their twins and their students, layer by layer.

The study behind the lesson on CKA: networks whose layers are worth comparing, the numbers that say whether a measure of
similarity can be trusted, and the claims judged on them::

    result = representations(seeds=3)
    [claim.check() for claim in similarity_claims(similarity_numbers(result))]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import preserved_rng
from ..cka_maps import CKAResult, batch_estimates, cka_map
from ..distiller import Distiller, Epoch
from ..experiment import Arm, Claim, Comparison, Metric, Progress, compare
from ..functional.cca import mean_cca_matrix
from ..functional.cka import CKAMap, cka, cka_matrix
from ..model_layers import collect_features, embedding_tap
from ..models import ConvNet
from ..tasks import Classification, ModelSpec, Recipe, Task, load_task
from ..tasks._models import reference_models
from . import Study
from ._shared import cifar100_task

#: Layers of the networks of :func:`representation_task`: every convolution, what its stage makes of it, the logits.
#: Batch norm is left out: per channel it is an affine map of the convolution, and CCA cannot see such maps.
COMPARED_LAYERS = (*(f"stage{i}.{part}" for i in range(1, 5) for part in ("conv", "act")), "head")
#: Samples that similarity is measured on; all batch sizes that are powers of two divide it.
COMPARED_IMAGES = 512
#: Added to the seed of a teacher for its twin: other initial weights, other order of the batches.
_TWIN = 1000


def representation_task(seed: int = 0) -> Classification:
    """Digits with a teacher of four convolutions (16-32-32-32 channels) and the same network at a third of the width.

    Args:
        seed: of the split and of the teacher.
    """

    def spec(words: str, *channels: int, epochs: int) -> ModelSpec:
        return ModelSpec(build=partial(ConvNet, channels), recipe=Recipe(epochs=epochs), words=words)

    return replace(
        load_task("digits", seed=seed),
        teachers={"wide": spec("four convolutions, 16-32-32-32 channels", 16, 32, 32, 32, epochs=12)},
        students={"narrow": spec("four convolutions, 6-12-12-12 channels", 6, 12, 12, 12, epochs=12)},
    )


#: Layers of the ResNets of :func:`cifar100_representation_task`: every block, and the logits.
RESNET_LAYERS = ("layer*.*", "linear")


def cifar100_representation_task(
    seed: int = 0, *, folder: str | Path | None = None, epochs: int = 60
) -> Classification:
    """CIFAR-100 with random crops and flips; ResNet56 as teacher, ResNet20 and a small vision transformer as students.

    Args:
        seed: of the teacher.
        folder: where ``cifar-100-python`` lies; default the data folder (``KDCORE_DATA``).
        epochs: of all networks; the recipes are ours (SGD 0.1 with a cosine, AdamW 1e-3 for the transformer).

    Raises:
        FileNotFoundError: CIFAR-100 is not there; the message names the folder.
    """
    task = cifar100_task(folder=folder, seed=seed)
    sgd = Recipe(epochs=epochs, batch_size=128, lr=0.1, optimizer="sgd", weight_decay=5e-4)
    teacher, small, tokens = (
        reference_models(task.input_shape, task.num_classes)[i][name]
        for i, name in ((0, "resnet56"), (1, "resnet20"), (1, "vit-tiny"))
    )
    adamw = replace(tokens.recipe, epochs=epochs, batch_size=128, lr=1e-3)
    return replace(
        task,
        teachers={"resnet56": replace(teacher, recipe=sgd)},
        students={"resnet20": replace(small, recipe=sgd), "vit-tiny": replace(tokens, recipe=adamw)},
    )


@dataclass(kw_only=True, eq=False)
class Representations:
    """Teachers, their twins, and students taught in different ways.

    Attributes:
        comparison: the students; ``comparison.teachers[seed]`` taught them. Its rows have ``cka``, the similarity of
            student and teacher (:func:`teacher_similarity`).
        twins: by seed, a network of the teacher's architecture, trained alike from other initial weights on batches in
            another order.
        student: name of the students' architecture in the task, ``None`` for the default.
    """

    comparison: Comparison
    twins: dict[int, nn.Module]
    student: str | None = None

    def networks(self, seed: int) -> dict[str, nn.Module]:
        """The twin, the students of every arm and an untrained student, by name."""
        task = self.comparison.tasks[seed]
        return {
            "twin": self.twins[seed],
            **{arm: self.comparison.students[arm, seed] for arm in self.comparison.arms},
            "untrained": task.student(self.student, seed=seed).eval(),
        }

    def features(
        self,
        model: nn.Module,
        seed: int,
        *,
        layers: Sequence[str] = COMPARED_LAYERS,
        pooling: str = "gap",
        images: int = COMPARED_IMAGES,
    ) -> dict[str, Tensor]:
        """Features of the same random test images, by layer: see :func:`kdcore.model_layers.collect_features`."""
        return features_of(model, self.comparison.tasks[seed], layers, pooling=pooling, images=images)


def features_of(
    model: nn.Module,
    task: Task,
    layers: str | Sequence[str],
    *,
    pooling: str = "gap",
    images: int = COMPARED_IMAGES,
) -> dict[str, Tensor]:
    """Features of the same random test images of a task, by layer: see :func:`kdcore.model_layers.collect_features`."""
    normalize, loader = task.normalization(model), task.loader("test", batch_size=256, shuffle=True, seed=0)
    return collect_features(model, ((normalize(x),) for x, _ in loader), layers, pooling=pooling, limit=images)


def alignment_arms(**knobs: Any) -> list[Arm]:
    """CE, KD at temperature 4, and CE with the CKA loss (``knobs`` are those of ``cka``) as arms."""
    return [Arm("CE", "ce"), Arm("KD", "kd", {"temperature": 4.0}), Arm("CKA", "cka", knobs)]


def teacher_similarity(student: nn.Module, task: Classification, *, images: int = COMPARED_IMAGES) -> float:
    """A metric for :func:`~kdcore.experiment.compare`: CKA of the embeddings of student and reference teacher.

    Linear and unbiased, over ``images`` random test images (all of them if there are fewer), the same ones every time.
    """
    found: list[Tensor] = []
    for model in (student, task.teacher()):
        found += features_of(model, task, embedding_tap(model, task.sample(n=2)[0]), images=images).values()
    return cka(*found).item()


def representations(
    task: Callable[[int], Classification] = representation_task,
    *,
    arms: Sequence[Arm | str] | None = None,
    student: str | None = None,
    seeds: int | Sequence[int] = 3,
    progress: Progress | None = None,
    **options: Any,
) -> Representations:
    """Networks whose layers are worth comparing: teachers, their twins, students with and without a teacher.

    Args:
        task: ``seed -> Classification``; its default teacher is used.
        arms: how students are taught; :func:`alignment_arms` by default.
        student: one of the task's students.
        seeds, progress, **options: see :func:`kdcore.experiment.compare`; ``options`` are for the students, the twin is
            trained as the teacher was.
    """
    tasks: dict[int, Classification] = {}

    def of(seed: int) -> Classification:
        return tasks[seed] if seed in tasks else tasks.setdefault(seed, task(seed))

    def twin_of(seed: int) -> Classification:
        original = of(seed - _TWIN)
        return replace(original, train=original.split("teacher_train"), students=original.teachers)

    count, ahead = seeds if isinstance(seeds, int) else len(seeds), 0

    def first(done: int, in_all: int, text: str) -> None:
        nonlocal ahead
        ahead = in_all
        if progress is not None:
            later = count * sum(t.spec("teacher").recipe.epochs for t in [*tasks.values()][:1])
            progress(done, in_all + later, text)

    def second(done: int, in_all: int, text: str) -> None:
        if progress is not None:
            progress(ahead + done, ahead + in_all, text)

    comparison = compare(
        of,
        alignment_arms() if arms is None else arms,
        student=student,
        seeds=seeds,
        metrics={"cka": teacher_similarity},
        progress=first,
        **options,
    )
    twins = compare(
        twin_of,
        [Arm("twin", "ce")],
        seeds=[_TWIN + s for s in comparison.seeds],
        progress=second,
        stop=options.get("stop"),
    )
    return Representations(
        comparison=comparison,
        student=student,
        twins={seed - _TWIN: model for (_, seed), model in twins.students.items()},
    )


def identification_maps(
    result: Representations, seed: int, *, layers: Sequence[str] = COMPARED_LAYERS, images: int = COMPARED_IMAGES
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Teacher against twin, by CKA and by mean CCA: the sanity test of Kornblith et al., section 6.1.

    Both measures see the same features, means over the map (CCA needs more samples than features).

    Returns:
        CKA ``(L, L)``, mean CCA ``(L, L)``, and the names of the layers.
    """
    x = result.features(result.comparison.teachers[seed], seed, layers=layers, images=images)
    y = result.features(result.twins[seed], seed, layers=layers, images=images)
    return cka_matrix(x, y), mean_cca_matrix(x, y), tuple(x)


def layers_identified(matrix: Tensor) -> int:
    """Rows of an ``(L, L)`` map whose largest entry is the layer's own counterpart."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must be (L, L), one row and column per layer, got {tuple(matrix.shape)}.")
    return int((matrix.argmax(1) == torch.arange(len(matrix))).sum())


def width_bias(seed: int = 0, *, samples: int = 100, width: int = 2000) -> tuple[float, float]:
    """Biased and unbiased linear CKA of two independent Gaussian clouds; both should be 0."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(samples, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return cka(x, y, unbiased=False).item(), cka(x, y).item()


def map_memory(
    batches: int,
    *,
    batch_size: int = 64,
    widths: Sequence[int] = (32, 64, 128),
    mode: str = "minibatch",
    keep_batches: bool = False,
) -> int:
    """Largest number of bytes that a :class:`~kdcore.functional.cka.CKAMap` held between batches of noise.

    Args:
        batches, batch_size: how much it is given.
        widths: of the layers, the same on both sides.
        mode, keep_batches: of the map.
    """
    generator, names = torch.Generator().manual_seed(0), [f"layer{i}" for i in range(len(widths))]
    state, peak = CKAMap(names, names, mode=mode, keep_batches=keep_batches), 0
    for _ in range(batches):
        x, y = (
            {
                name: torch.randn(batch_size, width, generator=generator)
                for name, width in zip(names, widths, strict=True)
            }
            for _ in range(2)
        )
        state.update(x, y)
        peak = max(peak, state.nbytes)
    return peak


def similarity_numbers(
    result: Representations,
    *,
    layers: Sequence[str] = COMPARED_LAYERS,
    batch_size: int = 64,
    small_batch: int = 16,
    images: int = COMPARED_IMAGES,
) -> dict[str, list[float]]:
    """What :func:`similarity_claims` judges, one number per seed.

    Returns:
        ``identified_cka``, ``identified_cca``: layers of the teacher whose counterpart in the twin is found;
        ``error``: mean distance of minibatch CKA from the whole-set value at ``batch_size``, over all pairs of layers;
        ``error_small``, ``excess_small``: the same at ``small_batch``, and by how much the mean of biased batch values
        exceeds the whole-set value there; ``noise_biased``, ``noise_unbiased``: CKA of independent noise
        (:func:`width_bias`); ``bytes_4``, ``bytes_40``: memory of a map after so many batches.
    """
    rows = []
    for seed in result.comparison.seeds:
        x = result.features(result.comparison.teachers[seed], seed, layers=layers, images=images)
        y = result.features(result.twins[seed], seed, layers=layers, images=images)
        rows.append(_pair_numbers(x, y, seed, batch_size=batch_size, small_batch=small_batch))
    return {name: [row[name] for row in rows] for name in _NUMBERS}


def _pair_numbers(
    x: Mapping[str, Tensor], y: Mapping[str, Tensor], seed: int, *, batch_size: int = 64, small_batch: int = 16
) -> dict[str, float]:
    """The numbers of :func:`similarity_numbers` for one pair of networks."""
    whole = cka_matrix(x, y)
    usual, small = batch_estimates(x, y, (batch_size, small_batch), seed=seed)
    biased, unbiased = width_bias(seed)
    return {
        "identified_cka": layers_identified(whole),
        "identified_cca": layers_identified(mean_cca_matrix(x, y)),
        "error": (usual.minibatch - whole).abs().mean().item(),
        "error_small": (small.minibatch - whole).abs().mean().item(),
        "excess_small": (small.naive - whole).mean().item(),
        "noise_biased": biased,
        "noise_unbiased": unbiased,
        "bytes_4": map_memory(4),
        "bytes_40": map_memory(40),
    }


def similarity_claims(numbers: Mapping[str, Sequence[float]], *, on: str = "") -> list[Claim]:
    """What CKA promises: it finds counterparts, batches suffice, width is not rewarded, memory does not grow.

    Args:
        numbers: of :func:`similarity_numbers` with its default batch sizes.
        on: what they were measured on, put before every claim.
    """
    where = f"{on}: " if on else ""
    return [
        Claim(
            f"{where}CKA finds the counterpart of more layers than mean CCA",
            left=numbers["identified_cka"],
            right=numbers["identified_cca"],
            unit="layers",
        ),
        Claim(
            f"{where}minibatch CKA at batch size 64 is within 0.05 of the whole-set value",
            left=numbers["error"],
            op="<=",
            threshold=0.05,
            unit="CKA",
        ),
        Claim(
            f"{where}at batch size 16 the mean of biased values is further off, upwards, than minibatch CKA",
            left=numbers["excess_small"],
            right=numbers["error_small"],
            unit="CKA",
        ),
        Claim(
            f"{where}biased CKA calls independent noise alike (100 samples, 2000 features)",
            left=numbers["noise_biased"],
            threshold=0.9,
            unit="CKA",
            every_seed=True,
        ),
        Claim(
            f"{where}unbiased CKA does not",
            left=[abs(v) for v in numbers["noise_unbiased"]],
            op="<",
            threshold=0.05,
            unit="CKA",
            every_seed=True,
        ),
        Claim(
            f"{where}a map holds as many bytes after 40 batches as after 4",
            left=numbers["bytes_40"],
            op="==",
            right=numbers["bytes_4"],
            unit="bytes",
            exact=True,
        ),
    ]


def cka_film(
    task: Classification,
    arm: Arm,
    teacher: nn.Module,
    *,
    student: str | None = None,
    seed: int = 0,
    layers: Sequence[str] | None = None,
    layers_teacher: Sequence[str] | None = None,
    pooling: str = "gap",
    images: int = COMPARED_IMAGES,
    batch_size: int = 64,
    progress: Progress | None = None,
    **train: Any,
) -> list[CKAResult]:
    """A student's training, seen as one CKA map against the teacher before it and one after every epoch.

    The training is that of :func:`kdcore.experiment.compare` with the same seed; watching does not change it. The
    teacher's Gram matrices are computed once.

    Args:
        task: data and student.
        arm: how the student is taught. Its ``student`` and ``train`` come before the arguments here.
        teacher: of the columns, and of the arm where it needs one.
        layers, layers_teacher: taps of student and teacher; the student's serve for both by default, and without any
            those that :func:`kdcore.model_layers.layers` proposes.
        pooling, images, batch_size: of the maps (:func:`kdcore.cka_maps.cka_map`), over random test images.
        progress, **train: as in :func:`~kdcore.experiment.compare`.
    """
    name = arm.student or student
    settings = task.recipe(name).settings() | train | dict(arm.train)
    size = settings.pop("batch_size")
    shown = list(task.loader("test", batch_size=batch_size, shuffle=True, seed=0))
    maps: list[CKAResult] = []

    def look(model: nn.Module) -> None:
        first = not maps
        maps.append(
            cka_map(
                model,
                teacher if first else maps[0].grams_y,  # type: ignore[arg-type]
                shown,
                layers_x=layers,
                layers_y=(layers_teacher or layers) if first else None,
                pooling=pooling,
                limit=images,
                keep_grams=first,
                transform_x=task.normalization(model),
                transform_y=task.normalization(teacher),
            )
        )

    with preserved_rng():
        distiller = Distiller(
            teacher,
            task.student(name, seed=seed),
            arm.objective(),
            task.loader("train", batch_size=size, seed=seed),
            seed=seed,
            **settings,
        )
        look(distiller.student)
        for event in distiller.run():
            if isinstance(event, Epoch):
                with preserved_rng():
                    look(distiller.student)
                if progress is not None:
                    progress(event.epoch + 1, settings["epochs"], f"film of {arm.label}")
    return maps


# The study ------------------------------------------------------------------------------------------------------------

_NUMBERS = ("identified_cka", "identified_cca", "error", "error_small", "excess_small", "noise_biased",
            "noise_unbiased", "bytes_4", "bytes_40")  # fmt: skip


def twin_arms(**knobs: Any) -> list[Arm]:
    """The students of :func:`alignment_arms`, and the teacher's twin beside them."""
    return [*alignment_arms(**knobs), Arm("twin", run=_train_twin)]


def _train_twin(task: Classification, seed: int, *, progress: Progress | None, stop: Any) -> nn.Module:
    """A network of the teacher's architecture, as :func:`representations` makes it."""
    place = replace(task, train=task.split("teacher_train"), students=task.teachers)
    made = compare(place, [Arm("twin", "ce")], seeds=[_TWIN + seed], progress=progress, stop=stop)
    return made.students["twin", _TWIN + seed] if not made.stopped else place.student(seed=_TWIN + seed)


def twin_metrics(*, layers: Sequence[str] = COMPARED_LAYERS) -> dict[str, Metric]:
    """CKA with the teacher for every arm, and the numbers of :func:`similarity_numbers` for the twin (else NaN)."""

    @lru_cache(maxsize=1)
    def numbers(model: nn.Module, task: Classification) -> Mapping[str, float]:
        if str(model) != str(task.teacher()):
            return dict.fromkeys(_NUMBERS, math.nan)
        x, y = (features_of(m, task, layers) for m in (task.teacher(), model))
        return _pair_numbers(x, y, task.seed)

    def one(name: str) -> Metric:
        return lambda model, task: numbers(model, task)[name]

    return {"cka": teacher_similarity, **{name: one(name) for name in _NUMBERS}}


def twin_claims(comparison: Comparison) -> list[Claim]:
    """:func:`similarity_claims` on the twins of a comparison."""
    return similarity_claims({name: comparison.values("twin", name).tolist() for name in _NUMBERS})


STUDY = Study(
    slug="cka",
    words="teacher and twin, layer by layer; students with and without the CKA loss",
    task=representation_task,
    arms=twin_arms,
    claims=twin_claims,
    metrics=twin_metrics,
    baseline="CE",
    full={"task": cifar100_representation_task, "student": "resnet20", "layers": RESNET_LAYERS},
)
