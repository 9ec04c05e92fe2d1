"""Digits with few labels, many unlabelled images, and a small vision-language model as teacher.

The teacher has two towers and never sees a label: it learned from noisy images and captions that describe what a digit
looks like ("closed loop", "open to the left"), never its name. What it knows of the classes comes from captions alone.
It stands in for CLIP, and is not CLIP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..engine import Learn, Run, Stage, Training
from ..functional.checks import check_positive
from ..functional.contrastive import symmetric_info_nce
from ..functional.dual_heads import dual_head_probabilities
from ..inputs import Paired
from ..models import ConvNet
from ..models.dual_head import DualHeadStudent
from ..models.two_tower import TwoTower
from ..outputs import logits_of
from ._classification import Classification
from ._data import ArrayDataset, stratified, transfer_set
from ._models import ModelSpec, Recipe

#: What can be said of a digit's look.
ASPECTS = (
    "closed loop",
    "two loops",
    "loop on top",
    "loop at the bottom",
    "upright stroke",
    "bar on top",
    "bar at the bottom",
    "open to the left",
    "open to the right",
    "slanted stroke",
    "curved bottom",
    "mirror symmetric",
)
#: Which aspects are true of which digit; positions in :data:`ASPECTS`, counted from 1.
TRUE_OF = (
    (1, 11, 12), (5, 12), (7, 8, 9, 10), (8, 11), (5, 10), (6, 8, 9, 11), (1, 4, 9, 11), (6, 8, 10),
    (1, 2, 3, 4, 11, 12), (1, 3, 5, 8),
)  # fmt: skip
#: The vocabulary of the text tower.
WORDS = tuple(sorted({word for aspect in ASPECTS for word in aspect.split()}))
KEPT = 0.85  # share of the true aspects that a caption mentions
_NOISE = 0.2
_TEMPERATURE = 0.07  # CLIP's at the start of its training


def truth_table() -> Tensor:
    """Which aspect is true of which digit, ``(10, 12)`` bool."""
    table = torch.zeros(10, len(ASPECTS), dtype=torch.bool)
    for digit, aspects in enumerate(TRUE_OF):
        table[digit, [a - 1 for a in aspects]] = True
    return table


def bags(mentioned: Tensor) -> Tensor:
    """Captions ``(..., 12)``, which aspects they mention, as bags of words ``(..., words)``."""
    table = torch.tensor([[float(word in aspect.split()) for word in WORDS] for aspect in ASPECTS])
    return (mentioned.float() @ table.to(mentioned.device)).clamp(max=1)


def captions(digits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A caption of each digit ``(N,)``: the aspects it mentions, ``(N, 12)`` bool, each true one with :data:`KEPT`."""
    true = truth_table().to(digits.device)[digits]
    drawn = torch.rand(true.shape, generator=generator, device=digits.device)
    return true & (drawn < KEPT)


def read_captions(model: TwoTower, count: int, generator: torch.Generator) -> None:
    """Make the class weights of ``count`` fresh captions of each digit."""
    digits = torch.arange(10, device=generator.device).repeat_interleave(count)
    model.read_prompts(bags(captions(digits, generator).view(10, count, -1)))


class ContrastivePretraining(Training):
    """Images and their captions are drawn together in the common space; identical captions are all positives.

    Args:
        model: both towers.
        data: batches of images and digits; the digit is only used to write the caption.
        epochs, lr: of the training.
        prompts: captions per class that make the class weights at the end.
    """

    def __init__(self, model: TwoTower, data: Any, *, epochs: int, lr: float, prompts: int = 8) -> None:
        super().__init__()
        self.model, self.data, self.epochs, self.lr, self.prompts = model, data, epochs, lr, prompts

    def stages(self) -> Iterator[Stage]:
        learn = Learn(players=("model",), optimizer="adam", lr=self.lr, scheduler="constant")
        yield Stage(name="", data=self.data, step=self.step, learn=learn, epochs=self.epochs)

    def step(self, batch: Any, run: Run) -> dict[str, Tensor]:
        images, digits = batch
        noise = torch.randn(images.shape, generator=run.generator, device=images.device)
        said = captions(digits, run.generator)
        same = (said[:, None] == said[None]).all(2).float()
        seen, read = self.model.image((images + _NOISE * noise).clamp(0, 1)), self.model.text(bags(said))
        return {"contrast": symmetric_info_nce(seen, read, temperature=_TEMPERATURE, targets=same)}

    def on_epoch_end(self, run: Run) -> None:
        """After the last epoch the class weights are made of fresh captions."""
        if run.epoch == self.epochs - 1:
            read_captions(self.model.eval(), self.prompts, run.generator)

    def deployed(self) -> nn.Module:
        return self.model


class SemiSupervised:
    """Labelled and unlabelled samples in one batch ``(x, y)``, the unlabelled ones labelled -100 and standing last.

    An epoch is one pass over the unlabelled samples; the labelled ones begin anew whenever they end.
    """

    def __init__(self, labelled: DataLoader[Any], unlabelled: DataLoader[Any]) -> None:
        self.pair = Paired(unlabelled, labelled)
        self.parts = self.pair.parts

    def __len__(self) -> int:
        return len(self.pair)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for (free, _), (x, y) in self.pair:
            yield torch.cat([x, free]), torch.cat([y, y.new_full((len(free),), -100)])


def answer_of(output: Any) -> Tensor:
    """What a network answers: its logits, or of one with two heads the logarithm of their equal mixture."""
    if isinstance(output, tuple):
        return dual_head_probabilities(*output[:2]).clamp_min(1e-30).log()
    return logits_of(output)


@dataclass(kw_only=True, eq=False)
class TwoTowerTask(Classification):
    """Few labelled images (``train``), an ``unlabelled`` pool, and a two-tower teacher with images of its own.

    Attributes:
        unlabelled_batch: unlabelled samples per step; labelled ones per step are the recipe's batch size.
    """

    unlabelled_batch: int = 64
    prompts: int = field(default=8)

    def loader(self, split: str = "train", **options: Any) -> Any:
        """As of any task; ``train`` gives labelled and unlabelled samples together (:class:`SemiSupervised`)."""
        plain = super().loader(split, **options)
        if split != "train" or options.get("shuffle") is False:
            return plain
        both = {**options, "batch_size": self.unlabelled_batch, "shuffle": True}
        return SemiSupervised(plain, super().loader("unlabelled", **both))

    def untrained_teacher(self, name: str | None = None) -> Any:
        """With class weights made of captions: without any it would give every class the same logit."""
        model = super().untrained_teacher(name)
        if isinstance(model, TwoTower):
            read_captions(model, self.prompts, torch.Generator().manual_seed(self.seed))
        return model

    def training(self, model: nn.Module) -> Training | None:
        """Teachers with two towers learn from captions."""
        if not isinstance(model, TwoTower):
            return None
        recipe = self.spec("teacher").recipe
        data = self.loader("teacher_train", batch_size=recipe.batch_size, seed=self.seed)
        return ContrastivePretraining(model, data, epochs=recipe.epochs, lr=recipe.lr, prompts=self.prompts)


def dual_head_cnn(channels: tuple[int, ...] = (12, 24, 24), num_classes: int = 10) -> DualHeadStudent:
    """A small convolutional network with a head for labels and a head for the teacher."""
    backbone = ConvNet(channels, num_classes)
    backbone.head = nn.Identity()  # type: ignore[assignment]
    return DualHeadStudent(backbone, channels[-1], num_classes)


def digits_two_tower(
    *, labels_per_class: int = 1, num_images: int = 220, seed: int = 0, imbalanced: bool = False
) -> TwoTowerTask:
    """Digits: few labels, 900 unlabelled images, and a vision-language stand-in as teacher.

    Args:
        labels_per_class: labelled images of each digit.
        num_images: images with captions that the teacher learns from, at most 220; fewer make it weaker.
        seed: of all splits, the teacher and its captions.
        imbalanced: keep a fifth of the digits 5 to 9 in the pool.

    Raises:
        ValueError: a count outside its range.
    """
    from sklearn.datasets import load_digits

    check_positive("labels_per_class", labels_per_class)
    if not 20 <= num_images <= 220:
        raise ValueError(f"num_images must be in [20, 220], got {num_images!r}.")
    bunch = load_digits()
    x = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32) / 16).unsqueeze(1)
    y = np.asarray(bunch.target)
    everything, names = ArrayDataset(x, torch.from_numpy(y)), tuple(map(str, range(10)))
    captioned, rest = stratified(y, 220, seed=seed)
    pool, rest = (rest[part] for part in stratified(y[rest], 900, seed=seed))
    val, test = (rest[part] for part in stratified(y[rest], 80, seed=seed))
    if imbalanced:
        rare = np.flatnonzero(y[pool] >= 5)
        kept, _ = stratified(y[pool][rare], 0.2, seed=seed)
        pool = np.sort(np.concatenate([pool[y[pool] < 5], pool[rare[kept]]]))
    if num_images < 220:
        captioned = captioned[stratified(y[captioned], num_images, seed=seed)[0]]
    labelled = transfer_set(y[pool], class_names=names, seed=seed, train_size=10 * labels_per_class)
    recipe = Recipe(epochs=20, batch_size=32, lr=3e-3)
    teacher = ModelSpec(
        build=partial(TwoTower, len(WORDS), 10),
        recipe=replace(recipe, epochs=120, batch_size=44, optimizer="adam", scheduler="constant", weight_decay=0.0),
        words="two towers, images and captions",
    )
    student = ModelSpec(build=dual_head_cnn, recipe=recipe, words="convolutions, 12-24-24 channels, two heads")
    return TwoTowerTask(
        name="digits_two_tower",
        train=everything.subset(pool[labelled]),
        more={"unlabelled": everything.subset(pool)},
        teacher_train=everything.subset(captioned),
        val=everything.subset(val),
        test=everything.subset(test),
        class_names=names,
        teachers={"two-tower": teacher},
        students={"cnn-two-heads": student},
        readout=answer_of,
        seed=seed,
        words="real digits, few labels, a vision-language stand-in as teacher",
        notes=(f"{10 * labels_per_class} labelled, {len(pool)} unlabelled images; the teacher saw {len(captioned)}",),
    )


TASKS = {"digits_two_tower": digits_two_tower}
