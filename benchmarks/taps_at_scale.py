"""Do taps tell the truth in two hundred architectures? ``python -m benchmarks.taps_at_scale [--count 220]``.

For each architecture (one configuration of timm per variant of a family, the smallest first, randomly initialised, the
smallest input it takes): every module's output is recomputed without hooks (each ``forward`` replaced by one that
clones what it returns) and held against the tap of that module, in the first forward and in those after it, which are
no longer watched; ``layers()`` must propose layers whose shapes are those
of the recomputed outputs, in order of depth; ``embedding_tap()`` must be what the classifier reads; and
``pair_layers()`` must pair the model with a resnet18, without crossing.

Each architecture is one line of ``runs/taps_at_scale.jsonl``, and is not run again; ``--write docs/taps.md`` makes the
table of what is there. One process, one thread, lowest priority. What fails is written with its message, not skipped.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.model_layers import embedding_tap, layers, pair_layers
from kdcore.taps import tap

RECORD = Path(__file__).resolve().parent.parent / "runs" / "taps_at_scale.jsonl"
MOST_PARAMETERS = 40e6
_SIZES = (32, 64, 96, 128, 160, 192, 224, 240, 256)


def first(value: Any) -> Tensor | None:
    """First tensor of an output, depth first."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := first(item)) is not None), None)
    return value if isinstance(value, Tensor) else None


def recompute(model: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """What every module returns, call by call, by clones and without hooks."""
    seen: dict[str, list[Tensor]] = {}

    def spy(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            tensor = first(out)
            if tensor is not None:
                seen.setdefault(name, []).append(tensor.clone())
            return out

        return call

    modules = {name: module for name, module in model.named_modules() if name}
    own = {name: vars(module).get("forward") for name, module in modules.items()}  # some choose theirs per instance
    for name, module in modules.items():
        module.forward = spy(module.forward, name)
    try:
        model(x)
    finally:
        for name, module in modules.items():
            del module.forward
            if own[name] is not None:
                module.forward = own[name]
    return seen


def enliven(model: nn.Module) -> None:
    """Norms and layer scales that start at 0 or 1 get something to say, so that a wrong tensor cannot look right."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5, generator=generator)
        for name, parameter in model.named_parameters():
            if name.split(".")[-1].startswith("gamma") and parameter.ndim:
                parameter.uniform_(0.5, 1.5, generator=generator)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The model at the smallest square input it takes, and two images."""
    import timm

    faults = []
    for size in _SIZES:
        choices: tuple[dict[str, Any], ...] = ({}, {"img_size": size})
        for options in choices:
            torch.manual_seed(0)
            try:
                model = timm.create_model(name, pretrained=False, num_classes=7, **options).eval()
                x = torch.randn(2, 3, size, size)
                with torch.no_grad():
                    if not torch.isfinite(model(x)).all():
                        raise ValueError("the output is not finite")
                enliven(model)
                return model, x
            except (AssertionError, RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
                faults.append(f"{size}: {error}")
    raise RuntimeError(f"takes none of the sizes up to {_SIZES[-1]}: {faults[-1][:200]}")


def different(features: Any, expected: dict[str, Tensor]) -> list[str]:
    """Taps that differ by more than what two runs of the same kernels may differ by."""
    return [
        name
        for name, value in expected.items()
        if not torch.allclose(
            features[name], value, rtol=1e-5, atol=1e-5 * max(1.0, float(value.abs().max())), equal_nan=True
        )
    ]


def check(model: nn.Module, x: Tensor, partner: tuple[nn.Module, Tensor]) -> dict[str, Any]:
    """All four checks; ``faults`` holds what did not hold."""
    faults: list[str] = []
    with torch.inference_mode():
        truth = recompute(model, x)
        expected = {f"{n}#{i}" if len(v) > 1 else n: out for n, v in truth.items() for i, out in enumerate(v)}
        with tap(model, list(truth)) as features:
            model(x)
            if set(features) != set(expected):
                faults.append(f"taps: other calls than recomputed: {sorted(set(features) ^ set(expected))[:3]}")
            if wrong := different(features, {n: value for n, value in expected.items() if n in features}):
                faults.append(f"taps: {len(wrong)} differ: {wrong[:3]}")
    found = layers(model, x)
    if not found:
        faults.append("layers: none found")
    faults += [
        f"layers: {info.name} is said to be {info.shape}"
        for info in found
        if info.shape != tuple(truth[info.name][0].shape[1:])
    ]
    faults += _check_repeated(model, x, [info.name for info in found])
    if [i.depth for i in found] != sorted(i.depth for i in found):
        faults.append("layers: not in order of depth")
    faults += _check_embedding(model, x, truth)
    pairs = pair_layers(partner[0], model, partner[1], teacher_sample=x)
    depths = [(p.student.depth, p.teacher.depth) for p in pairs]
    if not pairs or depths != sorted(depths) or len({p.teacher.name for p in pairs}) < len(pairs):
        faults.append("pair_layers: crossing, repeated or empty")
    return {
        "taps": len(expected),
        "layers": [i.name for i in found],
        "kinds": sorted({i.kind for i in found}),
        "pairs": len(pairs),
        "faults": faults,
    }


def _check_repeated(model: nn.Module, x: Tensor, names: list[str]) -> list[str]:
    """The proposed layers in three forwards of one set of taps: what was quiet in the first is trusted afterwards."""
    with torch.no_grad(), tap(model, names) as features:
        for number, images in enumerate((x, x.flip(0), 2 * x)):
            truth = recompute(model, images)
            expected = {f"{n}#{i}" if len(truth[n]) > 1 else n: v for n in names for i, v in enumerate(truth[n])}
            model(images)
            if wrong := different(features, expected):
                return [f"taps: {len(wrong)} differ in forward {number + 1}: {wrong[:3]}"]
    return []


def _check_embedding(model: nn.Module, x: Tensor, truth: dict[str, list[Tensor]]) -> list[str]:
    embedding = embedding_tap(model, x)
    classifier = embedding.removesuffix(":in")
    with torch.no_grad(), tap(model, embedding) as features:
        model(x)
        out = model.get_submodule(classifier)(features[embedding])
    scale = max(1.0, float(truth[classifier][0].abs().max()))
    same = torch.allclose(out, truth[classifier][0], rtol=1e-4, atol=1e-4 * scale)
    return [] if same else [f"embedding_tap: {embedding} is not what the classifier read"]


def parameters(name: str) -> float:
    """Number of parameters, found on the meta device; infinite where that is impossible."""
    import timm

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, pretrained=False, num_classes=7).parameters())
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
        return float("inf")


def candidates() -> list[str]:
    """Names to try: round robin over the modules of timm, within each the names in order of length.

    Every implementation comes first once, then twice, ...: breadth before variants.
    """
    import timm

    names = {
        module: sorted(timm.list_models(module=module), key=lambda n: (len(n), n)) for module in timm.list_modules()
    }
    longest = max(map(len, names.values()))
    return [group[i] for i in range(longest) for group in names.values() if i < len(group)]


def examine(name: str, partner: tuple[nn.Module, Tensor]) -> dict[str, Any] | None:
    """One line of the record; ``None`` for a model that is too large to be small."""
    import timm

    size = parameters(name)
    if MOST_PARAMETERS < size < float("inf"):
        return None
    module = timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[-1]
    record: dict[str, Any] = {"name": name, "module": module}
    began = time.process_time()
    try:
        model, x = build(name)
        if sum(p.numel() for p in model.parameters()) > MOST_PARAMETERS:
            return None
        record |= {"size": x.shape[-1], "parameters": sum(p.numel() for p in model.parameters())}
        record |= check(model, x, partner)
    except Exception as error:  # whatever a foreign model does is a result here, written down with its message
        record["faults"] = [f"{type(error).__name__}: {error}"]
        record["trace"] = traceback.format_exc(limit=-4)
    return record | {"cpu_seconds": round(time.process_time() - began, 2)}


def known() -> dict[str, dict[str, Any]]:
    """What the record holds, by name."""
    lines = RECORD.read_text().splitlines() if RECORD.is_file() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def table(records: list[dict[str, Any]]) -> str:
    """The result table in markdown, failures first."""
    head = [
        "| architecture | timm module | input | parameters | taps compared | layers proposed | pairs | result |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines = []
    for r in sorted(records, key=lambda r: (not r["faults"], r["module"], r["name"])):
        result = "; ".join(r["faults"]).replace("|", "\\|").replace("\n", " ") or "equal"
        lines.append(
            f"| `{r['name']}` | {r['module']} | {r.get('size', '')} | {r.get('parameters', 0) / 1e6:.1f} M | "
            f"{r.get('taps', '')} | {len(r.get('layers', []))} ({', '.join(r.get('kinds', []))}) | "
            f"{r.get('pairs', '')} | {result[:220]} |"
        )
    return "\n".join([*head, *lines])


def main() -> None:
    """Examine until ``--count`` architectures are on record; or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=220, help="architectures that shall be on record")
    parser.add_argument("--again", action="store_true", help="examine those with faults once more")
    parser.add_argument("--write", type=Path, help="put the table into this file, below its marker, and stop")
    options = parser.parse_args()
    done = known()
    if options.write:
        marker = "<!-- table -->"
        text = options.write.read_text()
        options.write.write_text(text[: text.index(marker) + len(marker)] + "\n\n" + table(list(done.values())) + "\n")
        return
    os.nice(19)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    partner = build("resnet18")
    if options.again:
        done = {name: entry for name, entry in done.items() if not entry["faults"]}
        RECORD.write_text("".join(json.dumps(entry) + "\n" for entry in done.values()))
    RECORD.parent.mkdir(exist_ok=True)
    for name in candidates():
        if len(done) >= options.count:
            break
        if name in done or (entry := examine(name, partner)) is None:
            continue
        done[name] = entry
        with RECORD.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(
            f"{len(done):4} {name:40} {entry['cpu_seconds']:6.1f} s  {'; '.join(entry['faults']) or 'ok'}"[:200],
            file=sys.stderr,
            flush=True,
        )
        gc.collect()
    faulty = Counter(bool(e["faults"]) for e in done.values())
    print(f"{len(done)} architectures: {faulty[False]} equal everywhere, {faulty[True]} with faults")


if __name__ == "__main__":
    main()
