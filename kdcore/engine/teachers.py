"""Players that never learn: kept as they were, hashed, and put back afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


class Untouched(AbstractContextManager):
    """Modules in eval mode and without gradients; flags and buffers are restored afterwards.

    Args:
        models: the teachers.
        train_mode: batch norm layers run in train mode (the statistics of the batch).
    """

    def __init__(self, models: Iterable[nn.Module], *, train_mode: bool = False) -> None:
        self.models, self.train_mode = list(models), train_mode

    def __enter__(self) -> None:
        self.flags = [(m, m.training) for model in self.models for m in model.modules()]
        self.learning = [p for model in self.models for p in model.parameters() if p.requires_grad]
        self.buffers = [(b, b.clone()) for model in self.models for b in model.buffers()] if self.train_mode else []
        for parameter in self.learning:
            parameter.requires_grad_(False)
        for model in self.models:
            model.eval()
            if self.train_mode:
                for module in model.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.train()

    def __exit__(self, *_: Any) -> None:
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
        for parameter in self.learning:
            parameter.requires_grad_(True)
        for module, training in self.flags:
            module.training = training


class Learning(AbstractContextManager):
    """During a stage, what does not learn in it is frozen; afterwards every parameter is as it was."""

    def __init__(self, training: nn.Module, learning: Iterable[Any]) -> None:
        self.training, self.learning = training, {id(p) for p in learning}

    def __enter__(self) -> None:
        self.stopped = [p for p in self.training.parameters() if p.requires_grad and id(p) not in self.learning]
        for parameter in self.stopped:
            parameter.requires_grad_(False)

    def __exit__(self, *_: Any) -> None:
        for parameter in self.stopped:
            parameter.requires_grad_(True)


class BatchNormAdvice(AbstractContextManager):
    """Turns torch's complaint about one value per channel into what to do about it."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            raise ValueError(
                "a batch of one sample cannot go through batch norm in training mode: pass drop_last=True "
                "to the training loader, or another batch size."
            ) from error


def frozen_in_eval_mode(players: Iterable[nn.Module]) -> list[nn.Module]:
    """Parts of players that were handed over in eval mode with every parameter frozen, the topmost ones.

    They stay in eval mode, so that a frozen backbone keeps the running statistics of its batch norm.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        parameters = list(module.parameters())
        if not module.training and parameters and not any(p.requires_grad for p in parameters):
            found.append(module)
            return
        for child in module.children():
            look(child)

    for player in players:
        look(player)
    return found
