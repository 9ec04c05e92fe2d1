"""Tap names: parsing, patterns, and the tensor that a name stands for in what a module got or returned."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from ..functional.checks import closest


class TapError(KeyError):
    """A tap that does not exist or did not run; a :class:`KeyError` with a readable message."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Spec(NamedTuple):
    """One tap, parsed: ``path:in[select]#call``."""

    path: str
    at_input: bool
    select: tuple[str, ...]
    call: int | None

    @property
    def key(self) -> str:
        call = "" if self.call is None else f"#{self.call}"
        return self.path + ":in" * self.at_input + "".join(f"[{s}]" for s in self.select) + call


_TAP = re.compile(r"(?P<path>[^:\[\]#]*)(?P<input>:in)?(?P<select>(\[[^\[\]]+\])*)(#(?P<call>\d+))?")


def parse(name: str) -> Spec:
    match = _TAP.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(f"a tap is written 'module.name', 'name:in', 'name[1]' or 'name#0', got {name!r}.")
    call = match["call"]
    return Spec(
        match["path"],
        bool(match["input"]),
        tuple(re.findall(r"\[([^\]]+)\]", match["select"])),
        None if call is None else int(call),
    )


def _glob(pattern: str) -> re.Pattern[str]:
    """``*``/``?`` within a segment, ``**.`` any number of leading segments, ``**`` anything."""
    parts = re.split(r"(\*\*\.|\*\*|\*|\?)", pattern)
    words = {"**.": r"(?:.*\.)?", "**": r".+", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(words.get(p, re.escape(p)) for p in parts))


class Wrapped(NamedTuple):
    root: nn.Module  # the model the names belong to
    outer: nn.Module  # whose call is one forward pass, outside of any compiled region
    compiled: bool


def unwrap(model: nn.Module) -> Wrapped:
    """See through DDP, Fabric and ``torch.compile`` wrappers."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}.")
    outer: nn.Module | None = None
    while True:
        kind = type(model).__name__
        if isinstance(model, nn.DataParallel):
            raise TypeError(
                "taps do not work in the replicas of nn.DataParallel: use DistributedDataParallel, or tap model.module."
            )
        if kind == "OptimizedModule" and hasattr(model, "_orig_mod"):
            outer = model if outer is None else outer
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, nn.parallel.DistributedDataParallel) or kind == "_FabricModule":
            model = cast(nn.Module, model.module)
        else:
            break
    compiled = outer is not None or any(
        m._compiled_call_impl is not None or type(m).__name__ == "OptimizedModule" for m in model.modules()
    )
    return Wrapped(model, model if outer is None else outer, compiled)


def resolve_names(model: nn.Module, patterns: str | Iterable[str]) -> list[str]:
    """The taps that names and patterns stand for, in their order, each once; globs follow the model's order.

    Args:
        model: any module; wrappers are seen through.
        patterns: names or globs, with ``:in``, ``[...]`` and ``#`` as described in the module's docstring.

    Raises:
        TapError: (a ``KeyError``) no module has that name or matches the pattern; names the closest ones.
        ValueError: not a tap, or an empty list.

    Example:
        >>> resolve_names(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ["*", "1:in"])
        ['0', '1', '1:in']
    """
    known = [name for name, _ in unwrap(model).root.named_modules(remove_duplicate=False)]
    names: dict[str, None] = {}
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given:
        raise ValueError("names must hold at least one tap, got an empty list.")
    for pattern in given:
        spec = parse(pattern)
        if "*" in spec.path or "?" in spec.path:
            glob = _glob(spec.path)
            paths = [name for name in known if name and glob.fullmatch(name)]
        else:
            paths = [spec.path] if spec.path in known else []
        if not paths:
            verb = "matches" if "*" in spec.path or "?" in spec.path else "is called"
            raise TapError(
                f"no module {verb} {spec.path!r}.{closest(spec.path, [n for n in known if n])} "
                f"{type(model).__name__} has {len(known) - 1} modules; layers(model) proposes some."
            )
        names.update(dict.fromkeys(spec._replace(path=path).key for path in paths))
    return list(names)


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in a tensor, tuple, list or mapping, depth first."""
    if isinstance(value, Tensor):
        return value
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, tuple | list):
        items = value
    return next((found for item in items if (found := first_tensor(item)) is not None), None)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def pick(spec: Spec, value: Any) -> Tensor:
    """The tensor a tap stands for in a module's output or ``(args, kwargs)``."""
    verb = "got" if spec.at_input else "returned"
    for step in spec.select:
        try:
            if isinstance(value, Mapping):
                value = value[step]
            elif isinstance(value, tuple | list):
                value = value[int(step)]
            else:
                raise TypeError
        except (KeyError, IndexError, ValueError, TypeError):
            what = (
                f"keys {list(value)}"
                if isinstance(value, Mapping)
                else f"{len(value)} items"
                if isinstance(value, tuple | list)
                else f"a {type(value).__name__}"
            )
            raise TypeError(f"tap {spec.key!r}: cannot select [{step}], the module {verb} {what}.") from None
    found = first_tensor(value)
    if found is None:
        raise TypeError(f"tap {spec.key!r}: the module {verb} no tensor but a {type(value).__name__}.")
    return found
