"""Two towers that meet in one space: images and bags of words, with class weights made of captions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..functional.dual_heads import zero_shot_logits, zero_shot_weights
from .cnn import ConvNet


class TwoTower(nn.Module):
    """A small vision-language model: it answers with the similarity of an image to what is written about each class.

    ``image`` is a :class:`ConvNet` whose head is the projection, ``text`` a perceptron over bags of words. Once
    :meth:`read_prompts` was called, ``forward`` gives zero-shot logits.

    Args:
        words: size of the vocabulary.
        num_classes: C of the class weights.
        channels: of the image tower.
        hidden: of the text tower.
        width: of the common space.
        logit_scale: factor of the cosine in ``forward``.

    Shapes: images ``(N, in_channels, H, W)``; bags ``(N, words)``, 0 or 1; logits ``(N, C)``.
    """

    class_weights: Tensor

    def __init__(
        self,
        words: int,
        num_classes: int,
        *,
        channels: tuple[int, ...] = (16, 32, 32),
        hidden: int = 32,
        width: int = 24,
        logit_scale: float = 100.0,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.image = ConvNet(channels, width, in_channels=in_channels)
        self.text = nn.Sequential(nn.Linear(words, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.logit_scale = logit_scale
        self.register_buffer("class_weights", torch.zeros(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Zero-shot logits ``(N, C)``."""
        return zero_shot_logits(self.image(x), self.class_weights, logit_scale=self.logit_scale)

    @torch.no_grad()
    def read_prompts(self, prompts: Tensor) -> None:
        """Make the class weights of captions ``(C, P, words)``, P for each class."""
        classes, count, words = prompts.shape
        embedded = self.text(prompts.reshape(-1, words).to(self.class_weights)).view(classes, count, -1)
        self.class_weights.copy_(zero_shot_weights(embedded))


__all__ = ["TwoTower"]
