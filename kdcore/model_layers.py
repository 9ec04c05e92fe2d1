"""Which layers of a model are worth reading, which layers of two models belong together, and features of a data set.

::

    for layer in layers(model, images):        # LayerInfo: name, kind, depth, shape, stride
        print(layer)
    pair_layers(student, teacher, images)      # what may learn from what, and why
    collect_features(model, loader, "layer*")  # one tensor per layer, all samples

Layers are tap names, see :mod:`kdcore.taps`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._layer_trace import CONV, POOL, LayerInfo, Trace, feature_kind, format_shape, token_grid
from .functional.pooling import pool_features
from .inputs import INPUT_KEYS
from .taps import Taps, evaluating
from .taps._names import unwrap

_SILENT = (
    *POOL,
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


def _blocks(model: nn.Module, trace: Trace, head: str | None) -> list[str]:
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
    strides = [m.stride for m in module.modules() if isinstance(m, (*CONV, *POOL)) and m.stride is not None]
    return any(max(s if isinstance(s, tuple) else (s,)) > 1 for s in strides)


def _groups(blocks: list[str], trace: Trace) -> list[list[str]]:
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


def _representatives(groups: list[list[str]], trace: Trace) -> list[str]:
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


def _promote(name: str, trace: Trace) -> str:
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


def _timm_names(model: nn.Module, trace: Trace) -> list[str]:
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
    root = unwrap(model).root
    trace = Trace(root, sample)
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


def _last_linear(model: nn.Module, trace: Trace) -> str | None:
    """The classifier: what timm names, else the last linear layer (or convolution) that gives the model's output."""
    config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    named = named[0] if isinstance(named, tuple | list) and named else named
    runs = [n for n in trace.order if isinstance(trace.modules[n], (nn.Linear, *CONV))]
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
    root = unwrap(model).root
    name = _last_linear(root, Trace(root, sample))
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
        batch = next((batch[k] for k in INPUT_KEYS if k in batch), batch)
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
    nhwc = True if getattr(unwrap(model).root, "output_fmt", None) == "NHWC" else None

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
    "LayerInfo",
    "LayerPair",
    "batch_inputs",
    "classifier_name",
    "collect_features",
    "embedding_tap",
    "feature_kind",
    "format_shape",
    "layers",
    "pair_layers",
    "token_grid",
]
