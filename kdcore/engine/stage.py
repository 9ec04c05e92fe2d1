"""What is trained: a :class:`Training` holds its players, and says in which stages who learns from what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..functional.checks import check_non_negative, check_positive

if TYPE_CHECKING:
    import torch

    from .run import Run

Terms = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Learn:
    """Who learns, and how: one optimizer.

    Attributes:
        players: dotted names of the training's submodules; their parameters that require a gradient learn.
        optimizer: ``"adamw"``, ``"adam"``, ``"sgd"`` (momentum 0.9), a callable taking parameter groups, or an
            optimizer over the players' parameters.
        lr, weight_decay: for optimizers made here; 1e-3, and ``None`` for 0.01 (AdamW), 0 (Adam), 5e-4 (SGD).
        scheduler: ``"cosine"`` to zero over the stage, ``"steps"`` (a tenth after 62.5, 75, 87.5 %), ``"constant"``, or
            ``callable(optimizer, total_steps)``.
        clip_grad: largest gradient 2-norm.
        keep: go on with the optimizer of this name from the stage before, its moments included.
    """

    players: tuple[str, ...]
    optimizer: Any = "adamw"
    lr: float = 1e-3
    weight_decay: float | None = None
    scheduler: Any = "cosine"
    clip_grad: float | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.players, str) or not self.players:
            raise ValueError(f"players must be a tuple of one or more names, got {self.players!r}.")
        check_positive("lr", self.lr)
        if self.weight_decay is not None:
            check_non_negative("weight_decay", self.weight_decay)
        if self.clip_grad is not None:
            check_positive("clip_grad", self.clip_grad)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One phase of a training: data, a step, who learns, and how long.

    Attributes:
        name: in events, messages and records; "" for the only stage of a training.
        data: batches of any form, or a function of the run that is asked for them at every epoch. When a run is resumed
            in the middle of an epoch it is asked again, with ``run.reopening`` true: what an epoch began with must then
            come from buffers.
        step: ``(batch, run) -> terms`` to be minimised together by the optimizer ``"main"`` (or the only one), or
            ``None`` where the step called :meth:`Run.minimize` itself. Both may be mixed.
        learn: one :class:`Learn` (called ``"main"``), or several by name; everything else is frozen meanwhile.
        epochs: passes over the data; steps: end after so many steps instead, for data without a length.
        evaluate: called after every epoch; an empty result means that it was interrupted.
        watch: which of its numbers picks the best state; higher_is_better: the direction of that number.
        train_mode: players in train mode; default those that learn.
    """

    name: str
    data: Iterable[Any] | Callable[[Run], Iterable[Any]]
    step: Callable[[Any, Run], Terms | None]
    learn: Learn | Mapping[str, Learn]
    epochs: int = 1
    steps: int | None = None
    evaluate: Callable[[], Mapping[str, float]] | None = None
    watch: str | None = None
    higher_is_better: bool = True
    train_mode: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("steps", self.steps)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} of stage {self.name!r} must be an integer >= 1, got {value!r}.")
        if not self.learners:
            raise ValueError(f"stage {self.name!r} must say who learns, got an empty mapping.")

    @property
    def learners(self) -> dict[str, Learn]:
        """The optimizers by name."""
        return {"main": self.learn} if isinstance(self.learn, Learn) else dict(self.learn)


class Training(nn.Module):
    """Something that can be trained: players (submodules), and stages in which they learn.

    A paper whose training is more than terms beside a student subclasses it::

        class Peers(Training):
            def __init__(self, left, right, data):
                super().__init__()
                self.left, self.right, self.data = left, right, data

            def stages(self):
                learn = Learn(players=("left", "right"))
                yield Stage(name="peers", data=self.data, step=self.step, epochs=10, learn=learn)

            def step(self, batch, run):
                x, y = batch
                return {"left": F.cross_entropy(self.left(x), y), "right": F.cross_entropy(self.right(x), y)}

            def deployed(self):
                return self.left

        trained = fit(Peers(left, right, loader), seed=0)

    Resuming replays :meth:`stages` up to the saved stage without training, and then loads the players: whatever is
    computed between two yields must be deterministic or go into parameters and buffers.
    """

    #: Players that never learn (teachers): in eval mode, without gradient, hashed, never in a checkpoint.
    frozen: ClassVar[tuple[str, ...]] = ()
    #: What tables call the training.
    name: str = ""

    def stages(self) -> Iterator[Stage]:
        """The stages in order; parts made between two yields exist from then on."""
        raise NotImplementedError(f"{type(self).__name__} must say its stages.")

    def deployed(self) -> nn.Module:
        """What is kept and compared; by default the player ``student``."""
        student = getattr(self, "student", None)
        if not isinstance(student, nn.Module):
            raise NotImplementedError(f"{type(self).__name__} has no player 'student': write deployed().")
        return student

    @classmethod
    def example(cls) -> Training:
        """A tiny training of this kind, equal at every call, on which the contract suite tries the promises."""
        raise NotImplementedError(f"{cls.__name__} must offer an example for the contract suite.")

    # Hooks, all optional --------------------------------------------------------------------------------------------

    def begin(self, run: Run, stack: ExitStack) -> None:
        """Before the first stage, players on the device, teachers in eval mode; ``stack`` undoes what has to be."""

    def read(self, raw: Any, number: int, run: Run) -> Any:
        """One batch of the loader as the step gets it, before it is moved; ``number`` counts within the epoch."""
        return raw

    def size(self, batch: Any) -> int:
        """Samples in a batch, by which terms are weighted; by default the length of the first tensor found in it."""
        return batch_size(batch)

    def sample_ids(self, batch: Any) -> list[int] | None:
        """Ids of the batch's samples for messages, where they are known."""
        return None

    def to_step(self, batch: Any, run: Run) -> Any:
        """What the step is called with; by default the batch with its tensors on the device."""
        return to_device(batch, run.device)

    def parameter_groups(self, learn: Learn) -> list[dict[str, Any]]:
        """Optimizer groups of one :class:`Learn`; by default one, the players' parameters that want a gradient."""
        modules = [self.get_submodule(name) for name in learn.players]
        unique = dict.fromkeys(p for m in modules for p in m.parameters() if p.requires_grad)
        return [{"params": list(unique)}] if unique else []

    def on_epoch_start(self, run: Run) -> None:
        """Before the first step of an epoch (not again when it is resumed in its middle)."""

    def on_step_end(self, terms: Mapping[str, float], run: Run) -> None:
        """After an optimizer step, with the values of its terms; without gradients."""

    def on_epoch_end(self, run: Run) -> None:
        """After the last step of an epoch and its evaluation."""

    # State ----------------------------------------------------------------------------------------------------------

    def is_frozen(self, name: str) -> bool:
        """Whether a parameter or buffer belongs to a frozen player."""
        return any(name == f or name.startswith(f"{f}.") for f in self.frozen)

    def learned_state(self) -> dict[str, Tensor]:
        """The state of all players but the frozen ones."""
        return {k: v for k, v in self.state_dict().items() if not self.is_frozen(k)}

    def load_learned_state(self, state: Mapping[str, Tensor]) -> None:
        """Put :meth:`learned_state` back; buffers that were made during the training are made again.

        Raises:
            ValueError: names or shapes that do not fit; they are named.
        """
        own = self.learned_state()
        for name in state.keys() - own.keys():
            owner, _, leaf = name.rpartition(".")
            try:
                module = self.get_submodule(owner)
            except AttributeError:
                continue
            if leaf not in module._parameters and (leaf in module._buffers or not hasattr(module, leaf)):
                like = next(iter([*module.parameters(), *module.buffers(), *self.parameters()]), None)
                module.register_buffer(leaf, state[name].to(like.device if like is not None else "cpu"))
        own = self.learned_state()
        faults = [f"{what} {', '.join(sorted(names)[:5])}" for what, names in (
            ("missing", own.keys() - state.keys()),
            ("unexpected", state.keys() - own.keys()),
            ("another shape", {k for k in own.keys() & state.keys() if _shape(own[k]) != _shape(state[k])}),
        ) if names]  # fmt: skip
        if faults:
            raise ValueError(f"the checkpoint belongs to another training: {'; '.join(faults)}.")
        self.load_state_dict(dict(state), strict=False)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued, as plain values."""
        return {"training": type(self).__name__}

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments and hyper-parameters as plain values, for run records."""
        return {}


def to_device(value: Any, device: torch.device) -> Any:
    """The tensors in nested tuples, lists and dicts on ``device``; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return type(value)((k, to_device(v, device)) for k, v in value.items())  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(v, device) for v in value))
    if isinstance(value, tuple | list):
        return type(value)(to_device(v, device) for v in value)
    return value


def batch_size(batch: Any) -> int:
    """The length of the first tensor with a dimension in a nested batch; 1 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((batch_size(p) for p in parts if _has_tensor(p)), 1)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_tensor(v) for v in value.values())
    if isinstance(value, tuple | list):
        return any(_has_tensor(v) for v in value)
    return isinstance(value, Tensor) and value.ndim > 0


def _shape(value: Any) -> Any:
    """Of a tensor its shape; extra state has none."""
    return value.shape if isinstance(value, Tensor) else None
