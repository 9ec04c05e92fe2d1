"""Read any layer of any model by name.

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

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..functional.checks import closest
from ._names import Spec, TapError, parse, pick, resolve_names, tensors, unwrap
from ._watch import Record, StaleTapError, Watch, storage

Reduce = Callable[[Tensor], Tensor]
_KINDS = 256  # kinds of forwards remembered as quiet


class Features(Mapping[str, Tensor]):
    """Live view of what the last forward recorded: tap name -> tensor, in the order the taps were asked for."""

    def __init__(self, taps: Taps) -> None:
        self._taps = taps

    def _index(self) -> dict[str, Record]:
        index: dict[str, Record] = {}
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
        self._root, self._outer, self._compiled = unwrap(model)
        if isinstance(self._root, torch.jit.ScriptModule):
            raise TypeError("modules inside a scripted model do not run hooks: tap the model before torch.jit.script.")
        self.names = resolve_names(model, names)
        self.features = Features(self)
        self._reduce, self._detach = reduce, detach
        self._specs = [parse(name) for name in self.names]
        self._records: dict[Spec, list[Record]] = {}
        self._calls: Counter[tuple[str, bool]] = Counter()
        self._handles: list[Any] = []
        self._by_module: dict[nn.Module, list[Spec]] = {}
        for spec in self._specs:
            self._by_module.setdefault(self._root.get_submodule(spec.path), []).append(spec)
        self._watch: Watch | None = None
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
                self._watch = Watch()
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
            *((x.shape, x.dtype) for x in tensors((args, kwargs))),
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
                self._records.setdefault(spec, []).append(self._keep(spec, pick(spec, value)))

    def _keep(self, spec: Spec, tensor: Tensor) -> Record:
        tensor = tensor.detach() if self._detach else tensor
        memory = storage(tensor)
        if self._reduce is not None:
            reduced = self._reduce(tensor)
            if not isinstance(reduced, Tensor):
                raise TypeError(f"reduce must return a tensor, got {type(reduced).__name__} at tap {spec.key!r}.")
            shared = memory is None or storage(reduced) in (memory, None)
            return Record(reduced.clone() if shared else reduced, watched=False)
        trusted = self._watch is None and self._kind is not None and not tensor.is_inference()
        if memory is None or (self._watch is None and not trusted):
            return Record(tensor.clone(), watched=False)
        if self._watch is None:
            return Record(tensor, watched=False)
        record = Record(tensor, watched=True)
        self._watch.records.setdefault(memory, []).append(record)
        return record

    def _settle(self, outside: Any, *, whole: bool) -> None:
        """At the end of a forward: what is kept stays true, and what was learnt about forwards of this kind.

        Inference tensors that the caller could overwrite without a trace (shared with inputs or outputs) are copied.
        """
        if self._watch is not None and torch.is_inference_mode_enabled():
            for tensor in tensors(outside):
                for record in self._watch.records.pop(storage(tensor) or 0, ()):
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


__all__ = [
    "Features",
    "StaleTapError",
    "TapError",
    "Taps",
    "evaluating",
    "resolve_names",
    "tap",
    "this_thread",
]
