"""Read any layer of any model by name, and find layers of two models that belong together.

::

    with tap(model, ["layer*", "fc:in"]) as features:
        model(x)
        features["layer3"]                     # what layer3 returned, ready for a loss

**Names.** A tap is a dotted module name as in ``model.named_modules()``. ``*`` and ``?`` match within one segment,
``**`` across segments. ``name:in`` reads the module's first tensor input. Of a tuple, list or dict the first tensor is
taken; ``name[1]`` or ``name[key]`` selects another. A module called once per forward is plain ``name``; called several
times it gives ``name#0``, ``name#1``, ...; asking for ``name#1`` reads that call only. ``""`` is the model itself.

**A tap tells the truth.** PyTorch hands hooks the very tensor that the next layer may overwrite
(``ReLU(inplace=True)``, ``x += shortcut``, a view written through its base), so tools that store it report something
else. Here taps are copy-on-write: during the forward a ``TorchDispatchMode`` sees each operator before it runs and
knows from its schema which arguments it writes; when such an argument shares storage with a tapped tensor, the tapped
values are copied first. Nothing else is ever copied, and inference tensors, which have no version counter, are covered
as well. Autograd: for a tensor with a gradient the hook keeps a memory-free handle on the graph as it was at that
point; a copy is attached to it, so that a loss on the feature sends its gradient to the tensor *before* the in-place
operator. After the forward nothing is watched any more: a feature that was written to later (``logits.div_(T)``) is
recognised by its version counter and refused with :class:`StaleTapError` (inference tensors that share memory with the
model's inputs or outputs are copied at the end instead). With ``reduce`` no activation is kept and nothing needs
watching.

Watching costs a few microseconds per operator. A forward in which nothing had to be copied is therefore not watched
again under the same circumstances (training flags, autograd and autocast, shapes of the inputs): it is checked at its
end by the version counters, and a model that overwrites a tapped tensor after all is refused once
(:class:`StaleTapError`) and watched from then on.

**Limits.** Hooks run on calls: ``model.forward(x)``, ``model.forward_features(x)`` and modules whose weights are used
without calling them record nothing. Recomputation by activation checkpointing is not recorded a second time (with
``use_reentrant=True`` the features inside have no gradient, as everything else there). DDP and Fabric wrappers are seen
through. Compiled models: attach before the first call; each tapped module breaks the graph and every tap is copied.
Scripted modules, ``DataParallel`` and writes that PyTorch itself cannot see (``tensor.numpy()[...] =``, kernels that do
not declare what they mutate) are beyond hooks; the first two are refused.

**Threads.** Taps record the forwards of the thread that attached them and no others, so that a panel may draw with a
model while a cell examines it. Attach where the model runs.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from .functional.checks import closest
from .functional.pooling import pool_features

Reduce = Callable[[Tensor], Tensor]


class TapError(KeyError):
    """A tap that does not exist or did not run; a :class:`KeyError` with a readable message."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StaleTapError(RuntimeError):
    """A tapped tensor was modified in place, unexpectedly or after the forward had ended."""


# ----------------------------------------------------------------------------------------------------------- names


class _Spec(NamedTuple):
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


def _parse(name: str) -> _Spec:
    match = _TAP.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(f"a tap is written 'module.name', 'name:in', 'name[1]' or 'name#0', got {name!r}.")
    call = match["call"]
    return _Spec(
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


class _Wrapped(NamedTuple):
    root: nn.Module  # the model the names belong to
    outer: nn.Module  # whose call is one forward pass, outside of any compiled region
    compiled: bool


def _unwrap(model: nn.Module) -> _Wrapped:
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
    return _Wrapped(model, model if outer is None else outer, compiled)


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
    known = [name for name, _ in _unwrap(model).root.named_modules(remove_duplicate=False)]
    names: dict[str, None] = {}
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given:
        raise ValueError("names must hold at least one tap, got an empty list.")
    for pattern in given:
        spec = _parse(pattern)
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


def _first_tensor(value: Any) -> Tensor | None:
    """The first tensor in a tensor, tuple, list or mapping, depth first."""
    if isinstance(value, Tensor):
        return value
    items: Iterable[Any] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, tuple | list):
        items = value
    return next((found for item in items if (found := _first_tensor(item)) is not None), None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _pick(spec: _Spec, value: Any) -> Tensor:
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
    found = _first_tensor(value)
    if found is None:
        raise TypeError(f"tap {spec.key!r}: the module {verb} no tensor but a {type(value).__name__}.")
    return found


# ----------------------------------------------------------------------------------------------------- copy-on-write


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


def _storage(x: Tensor) -> int | None:
    """Identity of the memory behind a plain dense tensor; ``None`` where there is none (sparse, subclasses)."""
    plain = type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided
    return x.untyped_storage()._cdata if plain else None


class _Record:
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
_KINDS = 256  # kinds of forwards remembered as quiet


class _Watch(TorchDispatchMode):
    """Copies tapped tensors right before an operator overwrites them."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # that wrapper would import the compiler and cost time per operator

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[int, list[_Record]] = {}
        self.copied = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (writes := _WRITES[func]) and self.records:
            for index, name in writes:
                for x in _tensors(args[index] if index < len(args) else kwargs.get(name)):
                    for record in self.records.pop(_storage(x) or 0, ()):
                        record.preserve()
                        self.copied = True
        return func(*args, **kwargs)


# ------------------------------------------------------------------------------------------------------------- taps


class Features(Mapping[str, Tensor]):
    """Live view of what the last forward recorded: tap name -> tensor, in the order the taps were asked for."""

    def __init__(self, taps: Taps) -> None:
        self._taps = taps

    def _index(self) -> dict[str, _Record]:
        index: dict[str, _Record] = {}
        for spec in self._taps._specs:
            records = self._taps._records.get(spec, [])
            index.update(
                {spec.key: records[0]} if len(records) == 1 else {f"{spec.key}#{i}": r for i, r in enumerate(records)}
            )
        return index

    def __getitem__(self, name: str) -> Tensor:
        record = self._index().get(name)
        if record is None:
            raise TapError(self._taps._why_missing(name))
        return record.value(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index())

    def __len__(self) -> int:
        return len(self._index())

    def __contains__(self, name: object) -> bool:
        return name in self._index()

    def __repr__(self) -> str:
        shapes = ", ".join(f"{n!r}: {tuple(r.tensor.shape)}" for n, r in self._index().items())
        return f"Features({{{shapes}}})"


class Taps:
    """Taps that can stay on a model for a whole training; see the module's docstring for names and guarantees.

    Each forward of the model replaces the features of the previous one. Works as a context manager, or with
    :meth:`attach` and :meth:`close`; features stay readable after closing until :meth:`clear`.

    Args:
        model: any ``nn.Module``; DDP, Fabric and ``torch.compile`` wrappers are seen through.
        names: tap names and globs, resolved at once (:func:`resolve_names`).
        reduce: applied to each tapped tensor inside the hook; only its result (a tensor) is kept, so that memory does
            not hold activations.
        detach: record without gradient.

    Attributes:
        names: the resolved taps.
        features: live mapping from tap name to tensor.

    Raises:
        TapError: unknown name, or (on reading) a tap that did not run.
        StaleTapError: on reading a feature that was modified in place after the forward.
        TypeError: (from the model's forward) the tapped module gave no tensor, or ``reduce`` returned none; also for
            models in which hooks cannot work.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
        >>> with Taps(model, "0") as taps:
        ...     _ = model(torch.ones(1, 2))
        >>> torch.equal(taps.features["0"], model[0](torch.ones(1, 2)))
        True
    """

    def __init__(
        self, model: nn.Module, names: str | Iterable[str], *, reduce: Reduce | None = None, detach: bool = False
    ) -> None:
        self._root, self._outer, self._compiled = _unwrap(model)
        if isinstance(self._root, torch.jit.ScriptModule):
            raise TypeError("modules inside a scripted model do not run hooks: tap the model before torch.jit.script.")
        self.names = resolve_names(model, names)
        self.features = Features(self)
        self._reduce, self._detach = reduce, detach
        self._specs = [_parse(name) for name in self.names]
        self._records: dict[_Spec, list[_Record]] = {}
        self._calls: Counter[tuple[str, bool]] = Counter()
        self._handles: list[Any] = []
        self._by_module: dict[nn.Module, list[_Spec]] = {}
        for spec in self._specs:
            self._by_module.setdefault(self._root.get_submodule(spec.path), []).append(spec)
        self._watch: _Watch | None = None
        self._kind: tuple[Any, ...] | None = None  # of the forward that runs; None where it cannot be trusted
        self._quiet: set[tuple[Any, ...]] = set()  # kinds of forwards in which nothing was overwritten
        self._surprised = False
        self._depth = 0
        self._ran = False

    def attach(self) -> Taps:
        """Register the hooks; attaching twice does nothing."""
        if self._handles:
            return self
        wrap: Callable[[Any], Any] = torch.compiler.disable if self._compiled else this_thread
        self._modules = list(self._root.modules())
        self._handles.append(self._outer.register_forward_pre_hook(wrap(self._begin), with_kwargs=True))
        for module, specs in self._by_module.items():
            if any(s.at_input for s in specs):
                self._handles.append(module.register_forward_pre_hook(wrap(self._on_input), with_kwargs=True))
            if any(not s.at_input for s in specs) and module is not self._outer:
                self._handles.append(module.register_forward_hook(wrap(self._on_output)))
        # Prepended, so that with several Taps on one model the watch that was entered last is left first.
        self._handles.append(
            self._outer.register_forward_hook(wrap(self._end), with_kwargs=True, always_call=True, prepend=True)
        )
        return self

    def close(self) -> None:
        """Remove the hooks; the model is as before, the last features stay readable."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._leave()

    def clear(self) -> None:
        """Forget the features (and free their memory)."""
        self._records.clear()
        self._calls.clear()
        self._ran = False

    def recorded(self) -> list[str]:
        """The keys of :attr:`features`, with every tap accounted for.

        Raises:
            TapError: a tap did not run in the last forward.
        """
        keys = list(self.features)
        for name in self.names:
            if name not in keys and f"{name}#0" not in keys:
                raise TapError(self._why_missing(name))
        return keys

    def __enter__(self) -> Taps:
        return self.attach()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Taps:
        return self  # hooks in a copy of the model (an EMA, say) see that the module is not theirs and do nothing

    def __repr__(self) -> str:
        return f"Taps({type(self._root).__name__}, {self.names}, {'attached' if self._handles else 'closed'})"

    # hooks

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if module is not self._outer:
            return
        if self._depth and _open_calls(module) < 2:  # an interrupted forward (Ctrl-C) never came to its end
            self._leave()
        self._depth += 1
        if self._depth > 1:
            return
        self.clear()
        self._ran = True
        if self._reduce is None and not self._compiled and not torch.compiler.is_compiling():
            self._kind = self._kind_of(args, kwargs)
            if self._kind is None or self._kind not in self._quiet:
                self._watch = _Watch()
                self._watch.__enter__()

    def _kind_of(self, args: Any, kwargs: Any) -> tuple[Any, ...] | None:
        """What decides which operators a forward runs, as far as it can be seen; ``None``: watch it in any case."""
        if self._surprised or torch.is_inference_mode_enabled():  # inference tensors have no version counter
            return None
        return (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
            *(m.training for m in self._modules),
            *((x.shape, x.dtype) for x in _tensors((args, kwargs))),
        )

    def _on_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._record(module, (*args, *kwargs.values()), at_input=True)

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> None:
        self._record(module, output, at_input=False)

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if module is not self._outer or self._depth == 0:
            return
        try:
            if output is not None and any(not s.at_input for s in self._by_module.get(module, ())):
                self._record(module, output, at_input=False)
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._settle((args, kwargs, output), whole=output is not None)
                self._leave()

    def _record(self, module: nn.Module, value: Any, *, at_input: bool) -> None:
        specs = self._by_module.get(module)
        if not self._depth or specs is None:
            return  # a copy of the module, or a call outside of the model's forward (recomputation in backward)
        for spec in specs:
            if spec.at_input is not at_input:
                continue
            call = self._calls[spec.key, at_input]
            self._calls[spec.key, at_input] += 1
            if spec.call is None or spec.call == call:
                self._records.setdefault(spec, []).append(self._keep(spec, _pick(spec, value)))

    def _keep(self, spec: _Spec, tensor: Tensor) -> _Record:
        tensor = tensor.detach() if self._detach else tensor
        memory = _storage(tensor)
        if self._reduce is not None:
            reduced = self._reduce(tensor)
            if not isinstance(reduced, Tensor):
                raise TypeError(f"reduce must return a tensor, got {type(reduced).__name__} at tap {spec.key!r}.")
            shared = memory is None or _storage(reduced) in (memory, None)
            return _Record(reduced.clone() if shared else reduced, watched=False)
        trusted = self._watch is None and self._kind is not None and not tensor.is_inference()
        if memory is None or (self._watch is None and not trusted):
            return _Record(tensor.clone(), watched=False)
        if self._watch is None:
            return _Record(tensor, watched=False)
        record = _Record(tensor, watched=True)
        self._watch.records.setdefault(memory, []).append(record)
        return record

    def _settle(self, outside: Any, *, whole: bool) -> None:
        """At the end of a forward: what is kept stays true, and what was learnt about forwards of this kind.

        Inference tensors that the caller could overwrite without a trace (shared with inputs or outputs) are copied.
        """
        if self._watch is not None and torch.is_inference_mode_enabled():
            for tensor in _tensors(outside):
                for record in self._watch.records.pop(_storage(tensor) or 0, ()):
                    if record.version is None:
                        record.preserve()
        elif self._watch is not None:
            if whole and self._kind is not None and not self._watch.copied and len(self._quiet) < _KINDS:
                self._quiet.add(self._kind)
        elif self._kind is not None:
            for record in (r for records in self._records.values() for r in records if r.modified):
                record.lost = self._surprised = True

    def _leave(self) -> None:
        watch, self._watch, self._kind, self._depth = self._watch, None, None, 0
        if watch is not None:
            watch.records.clear()
            if _get_current_dispatch_mode() is watch:
                watch.__exit__(None, None, None)

    def _why_missing(self, name: str) -> str:
        present = list(self.features)
        if not self._ran:
            state = "attached or cleared" if self._handles else "closed or cleared"
            return (
                f"tap {name!r} has no value: the model was not called since the taps were {state} "
                "(hooks run on model(x), not on model.forward(x), and in the thread that attached them)."
            )
        for spec in self._specs:
            if name == spec.key:
                calls = self._calls[spec.key, spec.at_input]
                if calls > 1 and spec.call is None:
                    return (
                        f"module {spec.path!r} was called {calls} times in the last forward: "
                        f"read {name}#0 to {name}#{calls - 1}."
                    )
                hint = (
                    " The model is compiled: attach the taps before its first call, or call torch.compiler.reset()."
                    if self._compiled
                    else f" It was called {calls} times."
                    if calls
                    else " It may belong to a branch that is not taken, or its weights are used without calling it."
                )
                return f"module {spec.path!r} did not run in the last forward, so tap {name!r} has no value.{hint}"
        return f"no tap is called {name!r}.{closest(name, dict.fromkeys([*present, *self.names]))} Recorded: {present}."


def this_thread(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, deaf to forwards of other threads: two of them may run one model."""
    here = threading.get_ident()

    def heard(*args: Any, **kwargs: Any) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() == here:
            hook(*args, **kwargs)

    return heard


def _open_calls(module: nn.Module) -> int:
    """How many calls of ``module`` are on the stack of this thread."""
    frame, count = sys._getframe(1), 0
    while frame is not None:
        count += frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module
        frame = frame.f_back  # type: ignore[assignment]
    return count


@contextmanager
def tap(
    model: nn.Module, names: str | Iterable[str], *, reduce: Reduce | None = None, detach: bool = False
) -> Iterator[Features]:
    """Read layers while the block runs; yields the mapping from tap name to tensor.

    Args and errors as for :class:`Taps`. The features of the last forward stay readable after the block.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with tap(model, "*") as features:
        ...     _ = model(torch.ones(1, 2))
        >>> list(features)
        ['0', '1']
    """
    with Taps(model, names, reduce=reduce, detach=detach) as taps:
        yield taps.features


_FLAGS_LOCK = threading.Lock()
_FLAGS: dict[int, list[int]] = {}  # id of a module under evaluation -> blocks that hold it, its flag before the first


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put ``model`` in eval mode for a block and give every submodule its own training flag back afterwards.

    Blocks may be nested and may overlap in several threads: the flags come back when the last one ends.
    """
    modules = list(model.modules())
    with _FLAGS_LOCK:
        for module in modules:
            _FLAGS.setdefault(id(module), [0, module.training])[0] += 1
        model.eval()
    try:
        yield model
    finally:
        with _FLAGS_LOCK:
            for module in modules:
                held = _FLAGS[id(module)]
                held[0] -= 1
                if not held[0]:
                    module.training = bool(_FLAGS.pop(id(module))[1])


# ------------------------------------------------------------------------------------------------ layers of a model


@dataclass(frozen=True)
class LayerInfo:
    """A place in a model that is worth reading.

    Attributes:
        name: tap name.
        type: class of the module.
        kind: ``"map"`` (C, H, W), ``"map_last"`` (H, W, C), ``"tokens"`` (T, D), ``"vector"`` (D,) or ``"other"``.
        depth: fraction in [0, 1] of the weight layers (convolutions, linear maps, ...) that have run when it is ready.
        parameters: number of parameters used up to and including it.
        shape: of its output without the batch dimension; ``None`` where no sample was given.
        stride: by how much the resolution of the input was divided (for tokens: by their square grid); ``None`` where
            unknown.
    """

    name: str
    type: str
    kind: str
    depth: float
    parameters: int
    shape: tuple[int, ...] | None = None
    stride: float | None = None

    def __str__(self) -> str:
        return f"{self.name} {format_shape(self.shape)}" if self.shape else self.name


def format_shape(shape: Sequence[int]) -> str:
    """``(64, 4, 4)`` -> ``"64x4x4"``."""
    return "x".join(map(str, shape))


def feature_kind(shape: Sequence[int], *, channels_last: bool | None = None) -> str:
    """What a feature of this shape (without batch) is; see :class:`LayerInfo`.

    A 3-D shape is a channels-last map if ``channels_last`` says so or, left open, if only its first two numbers agree.
    """
    if len(shape) == 3:
        if channels_last is None:
            channels_last = shape[0] == shape[1] != shape[2]
        return "map_last" if channels_last else "map"
    return {1: "vector", 2: "tokens"}.get(len(shape), "other")


def token_grid(tokens: int, grid: tuple[int, int] | None = None) -> tuple[int, int, int] | None:
    """``(height, width, prefix)`` of a token count: a square (or the given grid), with or without one class token."""
    for prefix in (0, 1):
        rest = tokens - prefix
        if grid is not None:
            if grid[0] * grid[1] == rest:
                return (*grid, prefix)
        elif rest > 0 and int(rest**0.5 + 0.5) ** 2 == rest:
            side = int(rest**0.5 + 0.5)
            return side, side, prefix
    return None


_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_SILENT = (
    *_POOL,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
)


class _Trace:
    """One forward in eval mode (without a sample: the order of definition): which modules finish when, with what."""

    def __init__(self, model: nn.Module, sample: Any = None) -> None:
        self.modules = dict(model.named_modules())
        self.outputs: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()
        self.traced = sample is not None
        self.order = self._run(model, sample) if self.traced else _post_order(model)
        weighty = [any(p.ndim > 1 for p in self.modules[n].parameters(recurse=False)) for n in self.order]
        seen: set[nn.Parameter] = set()
        sizes = []
        for name in self.order:
            new = set(self.modules[name].parameters(recurse=False)) - seen
            seen |= new
            sizes.append(sum(p.numel() for p in new))
        self.depth = dict(zip(self.order, (w / max(sum(weighty), 1) for w in accumulate(weighty)), strict=True))
        self.parameters = dict(zip(self.order, accumulate(sizes), strict=True))

    def _run(self, model: nn.Module, sample: Any) -> list[str]:
        handles = []

        def hook(name: str) -> Callable[..., None]:
            def record(_: nn.Module, args: Any, output: Any) -> None:
                self.calls[name] += 1
                tensor = _first_tensor(output)
                if tensor is not None:
                    self.outputs.setdefault(name, tensor)

            return record

        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(this_thread(hook(name))))
            with evaluating(model), torch.inference_mode():
                self.input = _first_tensor(_forward(model, sample))
        finally:
            for handle in handles:
                handle.remove()
        return list(self.outputs)

    def info(self, name: str, channels_last: bool | None) -> LayerInfo:
        module, shape, stride = self.modules[name], None, None
        kind = self.kind(name, channels_last)
        if name in self.outputs:
            shape = tuple(self.outputs[name].shape[1:])
            stride = _stride(self.input, shape, kind)
        return LayerInfo(
            name, type(module).__name__, kind, round(self.depth[name], 4), self.parameters[name], shape, stride
        )

    def kind(self, name: str, channels_last: bool | None = None) -> str:
        """From the output's shape; untraced from the module's parts, or from the one before where it has no weights."""
        if self.traced:
            return feature_kind(self.outputs[name].shape[1:], channels_last=channels_last)
        for earlier in reversed(self.order[: self.order.index(name) + 1]):
            if guess := _guess_kind(self.modules[earlier], channels_last):
                return guess
        return "other"


def _forward(model: nn.Module, sample: Any) -> Any:
    """Run ``model`` on one sample of a batch on the model's device; returns what was fed."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(sample, Tensor):
        if sample.ndim < 1 or sample.shape[0] < 1:
            raise ValueError(f"sample must be a batch with at least one element, got shape {tuple(sample.shape)}.")
        sample = sample[:1].to(device)
        model(sample)
    elif isinstance(sample, Mapping):
        sample = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in sample.items()}
        model(**sample)
    elif isinstance(sample, tuple | list):
        sample = tuple(v.to(device) if isinstance(v, Tensor) else v for v in sample)
        model(*sample)
    else:
        raise TypeError(
            f"sample must be a batch (tensor, tuple of arguments or dict of keywords), got {type(sample).__name__}."
        )
    return sample


def _post_order(model: nn.Module, prefix: str = "", seen: set[nn.Module] | None = None) -> list[str]:
    seen = set() if seen is None else seen
    seen.add(model)
    names = []
    for name, child in model.named_children():
        if child not in seen:
            names += _post_order(child, f"{prefix}{name}.", seen)
    return [*names, prefix[:-1]]


def _stride(source: Tensor | None, shape: tuple[int, ...], kind: str) -> float | None:
    if source is None or source.ndim != 4:
        return None
    size = (source.shape[2] * source.shape[3]) ** 0.5
    if kind == "tokens":
        grid = token_grid(shape[0])
        return size / (grid[0] * grid[1]) ** 0.5 if grid else None
    if kind in ("map", "map_last"):
        height, width = shape[1:] if kind == "map" else shape[:2]
        return size / (height * width) ** 0.5
    return None


def _guess_kind(module: nn.Module, channels_last: bool | None) -> str | None:
    """Without a sample: the kind from what the module is made of; ``None`` where that does not say."""
    parts = list(module.modules())
    if channels_last:
        return "map_last"
    if any("attention" in type(p).__name__.lower() or "attn" in type(p).__name__.lower() for p in parts):
        return "tokens"
    if any(isinstance(p, (*_CONV, nn.BatchNorm2d, *_POOL)) for p in parts):
        return "map"
    if any(isinstance(p, nn.LayerNorm) for p in parts) and len(parts) > 2:
        return "tokens"
    return "vector" if any(isinstance(p, nn.Linear) for p in parts) else None


def _is_container(module: nn.Module) -> bool:
    base = nn.Sequential if isinstance(module, nn.Sequential) else nn.Module
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and type(module).forward is base.forward


def _is_composite(module: nn.Module) -> bool:
    return next(module.children(), None) is not None and not _is_container(module)


def _holds_blocks(module: nn.Module) -> bool:
    """Whether somewhere inside there is a list of at least two composite blocks."""
    return any(_is_container(m) and sum(map(_is_composite, m.children())) >= 2 for m in module.modules())


def _trunk(model: nn.Module, name: str, opened: set[str]) -> list[str]:
    """Names of the blocks the model is made of: lists and wrappers are opened, blocks are not."""
    names: list[str] = []
    for child_name, child in model.named_children():
        full = f"{name}.{child_name}" if name else child_name
        if _is_container(child) or (_is_composite(child) and _holds_blocks(child)) or full in opened:
            names += _trunk(child, full, opened)
        else:
            names.append(full)
    return names


def _blocks(model: nn.Module, trace: _Trace, head: str | None) -> list[str]:
    """The trunk in the order it runs, without the classifier and what follows; opened further where too coarse."""
    position = {n: i for i, n in enumerate(trace.order)}
    end = position[head] if head is not None and trace.traced else len(position)
    opened: set[str] = set()
    while True:
        names = [n for n in _trunk(model, "", opened) if n in position and (not trace.traced or trace.calls[n] == 1)]
        blocks = sorted((n for n in names if position[n] < end and n != head), key=position.__getitem__)
        coarse = [n for n in names if _is_composite(trace.modules[n])]
        if len(blocks) >= 3 or not coarse:
            return blocks
        opened.add(max(coarse, key=lambda n: sum(p.numel() for p in trace.modules[n].parameters())))


def _downsamples(module: nn.Module) -> bool:
    strides = [m.stride for m in module.modules() if isinstance(m, (*_CONV, *_POOL)) and m.stride is not None]
    return any(max(s if isinstance(s, tuple) else (s,)) > 1 for s in strides)


def _groups(blocks: list[str], trace: _Trace) -> list[list[str]]:
    """Consecutive blocks of one resolution (maps), one length and width (tokens), or one linear layer (vectors)."""
    groups: list[list[str]] = []
    previous: Any = None
    level = 0
    for name in blocks:
        module = trace.modules[name]
        kind = trace.kind(name)
        if trace.traced:
            shape = trace.outputs[name].shape[1:]
            grid = token_grid(shape[0]) if kind == "tokens" else None
            key: Any = (kind, grid[:2], shape[1]) if grid else (kind, *(shape[1:] if kind == "map" else shape[:2]))
        else:
            level += _downsamples(module)
            key = (kind, level)
        if kind == "vector":
            key = (kind, name) if any(p.ndim > 1 for p in module.parameters()) else previous
        if key == previous and groups:
            groups[-1].append(name)
        else:
            groups.append([name])
        previous = key
    return [g for g in groups if any(next(trace.modules[n].parameters(), None) is not None for n in g)]


def _representatives(groups: list[list[str]], trace: _Trace) -> list[str]:
    """One block per group, its last; every block of a long group where the model keeps its shape (isotropic models)."""
    per_kind = Counter(trace.kind(group[-1]) for group in groups)
    names: list[str] = []
    for group in groups:
        classes = Counter(type(trace.modules[n]) for n in group if _is_composite(trace.modules[n]))
        composite = [n for n in group if classes and type(trace.modules[n]) is classes.most_common(1)[0][0]]
        if per_kind[trace.kind(group[-1])] <= 2 and len(composite) >= 3:
            names += composite
        else:
            names += [n for n in group if not isinstance(trace.modules[n], _SILENT)][-1:]
    return names


def _promote(name: str, trace: _Trace) -> str:
    """``layer4.1`` -> ``layer4`` where it is the last of a sequence, whose output is the same tensor."""
    while "." in name:
        parent, _, last = name.rpartition(".")
        module = trace.modules[parent]
        if not (
            isinstance(module, nn.Sequential)
            and _is_container(module)
            and parent in trace.depth
            and list(dict(module.named_children()))[-1] == last
            and len(module) > 1
        ):
            break
        name = parent
    return name


def _timm_names(model: nn.Module, trace: _Trace) -> list[str]:
    """Taps that timm knows for its models, where most of them exist and run once (some are made for features only)."""
    known = getattr(model, "feature_info", None)
    entries = known if isinstance(known, list) else getattr(known, "info", [])
    names = list(dict.fromkeys(e["module"] for e in entries if isinstance(e, Mapping) and e.get("module")))
    usable = [n for n in names if n in trace.depth and (not trace.traced or trace.calls[n] == 1)]
    return usable if len(usable) >= 2 and len(usable) > len(names) / 2 else []


def layers(model: nn.Module, sample: Any = None) -> list[LayerInfo]:
    """Sensible taps of any CNN, transformer, MLP or hybrid, in the order they run.

    timm models say it themselves (``feature_info``). Elsewhere: the last block of each resolution of a CNN, every block
    of a model that keeps its shape (ViT, Mixer), the activation after each linear layer of an MLP; the classifier is
    left out.

    Args:
        model: any module; wrappers are seen through. Its state is left as it was.
        sample: a batch (tensor, tuple of arguments, or dict of keywords), of a tensor the first element is run in eval
            mode. With it shapes are known and the choice follows them; without it, it follows the structure, in the
            order in which the modules were defined.

    Raises:
        ValueError: nothing sensible was found.
    """
    root = _unwrap(model).root
    trace = _Trace(root, sample)
    names = _timm_names(root, trace)
    if not names:
        head = _last_linear(root, trace)
        groups = _groups(_blocks(root, trace, head), trace)
        names = list(dict.fromkeys(_promote(n, trace) for n in _representatives(groups, trace)))
    if not names:
        raise ValueError(
            f"layers() finds nothing to tap in {type(root).__name__}: name the modules yourself "
            "(model.named_modules() lists them)."
        )
    last = True if getattr(root, "output_fmt", None) == "NHWC" else None
    return sorted((trace.info(n, last) for n in names), key=lambda info: trace.order.index(info.name))


# ------------------------------------------------------------------------------------------------ classifier, embedding


def _last_linear(model: nn.Module, trace: _Trace) -> str | None:
    """The classifier: what timm names, else the last linear layer (or convolution) that gives the model's output."""
    config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    named = named[0] if isinstance(named, tuple | list) and named else named
    runs = [n for n in trace.order if isinstance(trace.modules[n], (nn.Linear, *_CONV))]
    if named in runs:
        return named
    if not trace.traced:  # definition order says little: a convolution is the classifier only where nothing is linear
        runs = [n for n in runs if isinstance(trace.modules[n], nn.Linear)] or runs
    logits = trace.outputs.get("")
    if logits is not None:
        runs = [
            n
            for n in runs
            if trace.outputs[n].numel() == logits.numel() and torch.equal(trace.outputs[n].flatten(), logits.flatten())
        ] or [n for n in runs if trace.outputs[n].shape == logits.shape]
    return runs[-1] if runs else None


def classifier_name(model: nn.Module, sample: Any = None) -> str:
    """Dotted name of the layer that gives the logits (the first of two where a timm model has two).

    Args:
        model: any module.
        sample: a batch; with it the layer whose output *is* the model's output is taken, without it timm's word or the
            last linear layer by definition.

    Raises:
        ValueError: there is none.
    """
    root = _unwrap(model).root
    name = _last_linear(root, _Trace(root, sample))
    if name is None:
        which = "" if sample is None else " that gives its output"
        raise ValueError(
            f"{type(root).__name__} has no final linear layer{which}: name the tap yourself, e.g. 'norm' or 'pool'."
        )
    return name


def embedding_tap(model: nn.Module, sample: Any = None) -> str:
    """The tap of the penultimate embedding: ``"<classifier>:in"``.

    Raises:
        ValueError: the model has no final linear layer.
    """
    return f"{classifier_name(model, sample)}:in"


# -------------------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class LayerPair:
    """A student layer, the teacher layer it may learn from, and why."""

    student: LayerInfo
    teacher: LayerInfo
    reason: str

    def __str__(self) -> str:
        return f"{self.student} <- {self.teacher}: {self.reason}"


def _octaves(s: LayerInfo, t: LayerInfo) -> float | None:
    """log2 of the ratio of resolutions (positive: the student is coarser)."""
    return None if s.stride is None or t.stride is None else float(torch.tensor(s.stride / t.stride).log2())


def _pair_cost(s: LayerInfo, t: LayerInfo) -> float:
    octaves = _octaves(s, t)
    return abs(s.depth - t.depth) + (0.0 if octaves is None else abs(octaves)) + (s.kind == "vector" != t.kind)


def _reason(s: LayerInfo, t: LayerInfo) -> str:
    octaves = _octaves(s, t)
    where = f"at {s.depth:.0%} of the student's and {t.depth:.0%} of the teacher's depth"
    if octaves is None:
        return f"Nearest in depth, {where}."
    if abs(octaves) < 0.25:
        return f"Same resolution (stride {t.stride:g}), {where}."
    finer = "coarser" if octaves > 0 else "finer"
    return (
        f"Nearest in depth and resolution, {where}; the student is {2 ** abs(octaves):.3g}x {finer} "
        f"(stride {s.stride:g} against {t.stride:g})."
    )


def pair_layers(
    student: nn.Module, teacher: nn.Module, sample: Any, *, teacher_sample: Any = None, max_pairs: int | None = None
) -> list[LayerPair]:
    """Propose which layers of the teacher the layers of the student may learn from.

    Both lists of :func:`layers` are aligned in order (no crossing, no layer used twice) so that the total of depth
    difference plus resolution difference (in octaves) is smallest; the model with fewer layers is covered completely.

    Args:
        student, teacher: any two models.
        sample: a batch for both, or for the student alone where ``teacher_sample`` is given.
        teacher_sample: a batch for the teacher.
        max_pairs: keep this many, evenly spread, the deepest always; default all.

    Raises:
        ValueError: ``max_pairs`` below one, or a model in which no layer is found.
    """
    if max_pairs is not None and max_pairs < 1:
        raise ValueError(f"max_pairs must be at least 1, got {max_pairs}.")
    s, t = layers(student, sample), layers(teacher, sample if teacher_sample is None else teacher_sample)
    pairs = [LayerPair(s[i], t[j], _reason(s[i], t[j])) for i, j in _align(s, t)]
    if max_pairs is not None and max_pairs < len(pairs):
        pairs = [pairs[(k + 1) * len(pairs) // max_pairs - 1] for k in range(max_pairs)]
    return pairs


def _align(s: Sequence[LayerInfo], t: Sequence[LayerInfo]) -> list[tuple[int, int]]:
    """Cheapest increasing matching that covers the shorter list."""
    if len(s) > len(t):
        return [(i, j) for j, i in _align(t, s)]
    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])] * (len(t) + 1)
    for i, layer in enumerate(s):
        row: list[tuple[float, list[tuple[int, int]]]] = [(float("inf"), [])] * (len(t) + 1)
        for j in range(i + 1, len(t) + 1):
            cost, path = best[j - 1]
            row[j] = min(row[j - 1], (cost + _pair_cost(layer, t[j - 1]), [*path, (i, j - 1)]))
        best = row
    return best[-1][1]


# ----------------------------------------------------------------------------------------------------- whole data sets


def batch_inputs(batch: Any) -> Tensor:
    """The model's input in a loader's batch: a tensor, ``(x, ...)``, or a dict with ``x``, ``image``, ``pixel_values``.

    Raises:
        TypeError: something else.
    """
    if isinstance(batch, Mapping):
        keys = ("x", "image", "images", "pixel_values", "input", "inputs")
        batch = next((batch[k] for k in keys if k in batch), batch)
    elif isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor):
        what = f"a dict with {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise TypeError(f"loader must give tensors, (x, ...) or dicts with 'x' (or 'image'), got {what}.")
    return batch


def collect_features(
    model: nn.Module,
    loader: Iterable[Any],
    taps: str | Iterable[str],
    *,
    pooling: str | None = "flatten",
    limit: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Features of a whole data set, in eval and inference mode; the model is left as it was.

    Args:
        model: any module.
        loader: gives batches as :func:`batch_inputs` reads them; order is kept.
        taps: names and globs.
        pooling: ``"flatten"``, ``"gap"``, ``"cls"`` or ``None``, see
            :func:`~kdcore.functional.pooling.pool_features`; done inside the hook, so that only the pooled values are
            kept. Channels-last maps are recognised as in :func:`feature_kind`.
        limit: stop after this many samples; default all.
        device: run there (the model returns to where it was); default where the model is.

    Returns:
        Per tap a tensor on the CPU whose first dimension counts samples.

    Raises:
        TapError: unknown name, or a tap that did not run in a batch.
        ValueError: an empty loader, ``limit`` below one, or an impossible pooling.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    nhwc = True if getattr(_unwrap(model).root, "output_fmt", None) == "NHWC" else None

    def reduce(x: Tensor) -> Tensor:
        return pool_features(x, pooling, channels_last=feature_kind(x.shape[1:], channels_last=nhwc) == "map_last")

    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    there = torch.device(device) if device is not None else home
    parts: dict[str, list[Tensor]] = {}
    count = 0
    watching = Taps(model, taps, reduce=reduce, detach=True)
    try:
        model.to(there)
        with watching, evaluating(model), torch.inference_mode():
            for batch in loader:
                x = batch_inputs(batch)
                if limit is not None:
                    x = x[: limit - count]
                model(x.to(there))
                for name in parts or watching.recorded():
                    parts.setdefault(name, []).append(watching.features[name].cpu())
                count += len(x)
                if limit is not None and count >= limit:
                    break
    finally:
        model.to(home)
    if not count:
        raise ValueError("loader gave no samples.")
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


__all__ = [
    "Features",
    "LayerInfo",
    "LayerPair",
    "StaleTapError",
    "TapError",
    "Taps",
    "batch_inputs",
    "classifier_name",
    "collect_features",
    "embedding_tap",
    "evaluating",
    "feature_kind",
    "format_shape",
    "layers",
    "pair_layers",
    "resolve_names",
    "tap",
    "this_thread",
    "token_grid",
]
