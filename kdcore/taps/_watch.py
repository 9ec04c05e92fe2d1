"""Copy-on-write: tapped values are copied right before an operator overwrites them, and only then."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ._names import tensors


class StaleTapError(RuntimeError):
    """A tapped tensor was modified in place, unexpectedly or after the forward had ended."""


class _Handle(torch.autograd.Function):
    """A stand-in of the same shape that holds the graph of ``x`` as it is now, and no memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Graft(torch.autograd.Function):
    """Values kept before an overwrite, on the graph that a handle holds."""

    @staticmethod
    def forward(ctx: Any, handle: Tensor, values: Tensor) -> Tensor:
        return values.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def storage(x: Tensor) -> int | None:
    """Identity of the memory behind a plain dense tensor; ``None`` where there is none (sparse, subclasses)."""
    plain = type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided
    return x.untyped_storage()._cdata if plain else None


class Record:
    """One tapped tensor of one call."""

    __slots__ = ("handle", "lost", "saved", "tensor", "version")

    def __init__(self, tensor: Tensor, *, watched: bool) -> None:
        self.tensor, self.lost = tensor, False
        self.handle = _Handle.apply(tensor) if watched and tensor.requires_grad else None
        self.saved: Tensor | None = None
        self.version = None if tensor.is_inference() else tensor._version

    @property
    def modified(self) -> bool:
        """Whether the tensor was written to since it was recorded."""
        return self.version is not None and self.tensor._version != self.version

    def preserve(self) -> None:
        """Keep the values; called just before they are overwritten."""
        if self.saved is None:
            self.saved = self.tensor.detach().clone()

    def value(self, name: str) -> Tensor:
        if self.lost:
            raise StaleTapError(
                f"the model overwrote the tensor tapped at {name!r}, which it had not done in earlier "
                "forwards of this kind, so that no copy was taken: call the model again (every forward "
                "is watched from now on)."
            )
        if self.saved is not None:
            tensor = self.saved
            if self.handle is not None:
                with torch.enable_grad():
                    tensor = _Graft.apply(self.handle, self.saved)
            self.tensor, self.saved, self.handle = tensor, None, None
            self.version = None if tensor.is_inference() else tensor._version
        elif self.modified:
            raise StaleTapError(
                f"the tensor tapped at {name!r} was modified in place after the forward pass: read "
                "(or clone) it before, or modify a copy."
            )
        return self.tensor


class _Writes(dict[Any, tuple[tuple[int, str], ...]]):
    """Operator -> the arguments it writes, read from its schema once."""

    def __missing__(self, func: Any) -> tuple[tuple[int, str], ...]:
        schema = getattr(func, "_schema", None)
        found = (
            ()
            if schema is None
            else tuple(
                (i, a.name)
                for i, a in enumerate(schema.arguments)
                if a.alias_info is not None and a.alias_info.is_write
            )
        )
        self[func] = found
        return found


_WRITES = _Writes()


class Watch(TorchDispatchMode):
    """Copies tapped tensors right before an operator overwrites them."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # that wrapper would import the compiler and cost time per operator

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[int, list[Record]] = {}
        self.copied = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (writes := _WRITES[func]) and self.records:
            for index, name in writes:
                for x in tensors(args[index] if index < len(args) else kwargs.get(name)):
                    for record in self.records.pop(storage(x) or 0, ()):
                        record.preserve()
                        self.copied = True
        return func(*args, **kwargs)
