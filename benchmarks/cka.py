"""A CKA map of resnet18 and vit_tiny at 96 px, 16 x 12 layers, against nothing but the two forwards.

Time is the ratio of interleaved CPU seconds. Memory is the growth of the resident peak over the moment before, each
time in a process of its own: once as it comes (the median of several, as the allocator keeps 144 MB or 252 MB for the
same forwards) and, at two numbers of samples, with freed memory given back at once, which shows what is alive. For
information, the map the way ``torch_cka`` computes it (all features of a batch kept, three Gram products per pair).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from kdcore.cka_maps import CKAResult, cka_map
from kdcore.functional.cka import CKAMap
from kdcore.taps import evaluating, tap

from .protocol import Row, cpu_seconds, interleaved, must_agree

LAYERS_X = [f"layer{i}.{j}{conv}" for i in range(1, 5) for j in range(2) for conv in ("", ".conv1")]
LAYERS_Y = [f"blocks.{i}" for i in range(12)]
OFFSETS = (0.0, 3.0, 10.0, 100.0, 1000.0)
_BATCH, _SIZE = 128, 96


def models() -> tuple[nn.Module, nn.Module]:
    """The pair, randomly initialised."""
    import timm

    torch.manual_seed(0)
    x = timm.create_model("resnet18")
    torch.manual_seed(1)
    return x, timm.create_model("vit_tiny_patch16_224", img_size=_SIZE)


def batches(samples: int, size: int = _BATCH) -> list[Tensor]:
    """Random images, batch by batch."""
    return list(torch.randn(samples, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(2)).split(size))


@torch.inference_mode()
def forwards(x: nn.Module, y: nn.Module, loader: list[Tensor]) -> None:
    """Both models over the loader, in eval mode, no hooks: what no map can do without."""
    with evaluating(x), evaluating(y):
        for on_cpu in loader:
            images = on_cpu.to(next(x.parameters()).device)
            x(images)
            y(images)


def our_map(
    x: nn.Module, y: nn.Module, loader: list[Tensor], *, keep_grams: bool = False, device: str | None = None
) -> CKAResult:
    """The map under test."""
    return cka_map(x, y, loader, layers_x=LAYERS_X, layers_y=LAYERS_Y, keep_grams=keep_grams, device=device)


def hsic_reference(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Unbiased HSIC of two Gram matrices with zero diagonal, term by term."""
    n = len(k)
    one = torch.ones(n, 1, dtype=k.dtype)
    total = (k @ l).trace() + (one.T @ k @ one @ one.T @ l @ one / ((n - 1) * (n - 2))).squeeze()
    return (total - 2 / (n - 2) * (one.T @ k @ l @ one).squeeze()) / (n * (n - 3))


@torch.no_grad()
def reference_map(x: nn.Module, y: nn.Module, loader: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """Minibatch CKA pair by pair, as the popular implementation does it: ``(16, 12)``."""
    sums = torch.zeros(3, len(LAYERS_X), len(LAYERS_Y), dtype=dtype, device=next(x.parameters()).device)

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(1).to(dtype)
        return (flat @ flat.T).fill_diagonal_(0)

    with evaluating(x), evaluating(y), tap(x, LAYERS_X) as features_x, tap(y, LAYERS_Y) as features_y:
        for on_cpu in loader:
            images = on_cpu.to(sums.device)
            x(images)
            y(images)
            for i, a in enumerate(LAYERS_X):
                k = gram(features_x[a])
                sums[1, i] += hsic_reference(k, k)
                for j, b in enumerate(LAYERS_Y):
                    l = gram(features_y[b])  # noqa: E741
                    sums[0, i, j] += hsic_reference(k, l)
                    sums[2, i, j] += hsic_reference(l, l)
    return (sums[0] / (sums[1].sqrt() * sums[2].sqrt())).cpu()


def bare_products(x: nn.Module, y: nn.Module, images: Tensor) -> Callable[[], object]:
    """What does nothing but the Gram product of each layer's features of one batch: the least an exact map costs."""
    with torch.inference_mode(), evaluating(x), evaluating(y), tap(x, LAYERS_X) as in_x, tap(y, LAYERS_Y) as in_y:
        x(images)
        y(images)
        features = [f.flatten(1).numpy() for f in (*in_x.values(), *in_y.values())]
    return lambda: [rows @ rows.T for rows in features]  # numpy: BLAS syrk, half of the work of a general product


def check_map(x: nn.Module, y: nn.Module) -> None:
    """Assert that the map is that of the pairwise way, in float64."""
    device = next(x.parameters()).device
    small = [b.to(device, torch.float64) for b in batches(32, 16)]
    ours = our_map(x.double(), y.double(), small, device=str(device))
    must_agree("CKA map", ours.matrix.cpu(), reference_map(x, y, small, torch.float64))
    x.float(), y.float()


def offset_error(offset: float, samples: int = 64, width: int = 2000) -> float:
    """Error of float32 CKA when ``offset`` (in standard deviations) is added to every feature.

    The truth is the float64 value of the features without the offset: a constant changes nothing.
    """
    g = torch.Generator().manual_seed(0)
    shared, x, y = (torch.randn(samples, width, generator=g, dtype=torch.float64) for _ in range(3))
    x, y = x + 0.5 * shared, y + 0.5 * shared

    def value(dtype: torch.dtype, shift: float) -> Tensor:
        streamed = CKAMap(["x"], ["y"], dtype=dtype)
        streamed.update({"x": (x + shift).to(dtype)}, {"y": (y + shift).to(dtype)})
        return streamed.compute()

    return float((value(torch.float32, offset) - value(torch.float64, 0.0)).abs().max())


def resident_peak() -> float:
    """``VmHWM`` in MB; unlike ``ru_maxrss`` it starts anew with the program instead of with the parent's memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_growth(run: Callable[[], object]) -> float:
    """Growth of this process's resident peak during ``run``, MB (Linux)."""
    before = resident_peak()
    run()
    return resident_peak() - before


def peaks_of(tool: str, samples: int, processes: int, *, give_back: bool = False) -> list[float]:
    """:func:`peak_growth` of the forwards or the map, measured by so many fresh processes, sorted.

    ``give_back``: glibc returns large blocks when they are freed, as the variable keeps its threshold from growing.
    """
    command = [sys.executable, "-m", "benchmarks.cka", tool, str(samples)]
    environment = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": "131072"} if give_back else {})}
    return sorted(
        float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
        for _ in range(processes)
    )


def _peak_here(tool: str, samples: int) -> float:
    x, y = models()
    loader = batches(samples)
    forwards(x, y, [loader[0][:8]])
    our_map(x, y, [loader[0][:8]])
    return peak_growth(lambda: our_map(x, y, loader) if tool == "map" else forwards(x, y, loader))


def measure(*, quick: bool = False) -> list[Row]:
    """Time, second map, memory, accuracy, and the popular way for comparison."""
    samples, repeats = (128, 1) if quick else (1024, 6)
    x, y = models()
    check_map(x, y)
    loader = batches(samples)
    seconds = interleaved(
        {"forwards": lambda: forwards(x, y, loader), "map": lambda: our_map(x, y, loader)}, repeats=repeats, warm_up=0
    )
    products = bare_products(x, y, loader[0])
    seconds["products"] = len(loader) * min(cpu_seconds(products) for _ in range(repeats))
    first = our_map(x, y, loader, keep_grams=True)
    assert first.grams_x is not None and first.grams_y is not None
    kept = first.grams_x, first.grams_y
    again = min(cpu_seconds(lambda: cka_map(*kept)) for _ in range(5))
    few = loader[:2]
    popular = interleaved(
        {
            "forwards": lambda: forwards(x, y, few),
            "popular": lambda: reference_map(x, y, few),
            "map": lambda: our_map(x, y, few),
        },
        repeats=1 if quick else 2,
        warm_up=0,
    )
    counts = (128, 256) if quick else (256, 1024)
    plain = {tool: peaks_of(tool, counts[1], 1 if quick else 7) for tool in ("forwards", "map")}
    alive = {
        (tool, n): peaks_of(tool, n, 1 if quick else 3, give_back=True) for tool in ("forwards", "map") for n in counts
    }
    more = {n: median(alive["map", n]) - median(alive["forwards", n]) for n in counts}
    errors = {offset: offset_error(offset) for offset in OFFSETS}
    what = f"`cka_map` resnet18 x vit_tiny, {_SIZE} px, 16 x 12 layers, b {_BATCH}"
    detail = {f"{k}_s": v for k, v in seconds.items()}
    memory = {f"{tool}_{n}_alive_MB": found for (tool, n), found in alive.items()}
    return [
        Row(
            what=f"{what}, N {samples}: time",
            against="the two forwards",
            value=seconds["map"] / seconds["forwards"],
            goal=1.05,
            detail=detail,
        ),
        Row(
            what="of which the bare Gram products (BLAS `syrk`)",
            against="the two forwards",
            value=seconds["products"] / seconds["forwards"],
            detail=detail,
        ),
        Row(
            what=f"a second map from kept Grams, N {samples}",
            against="the first map",
            unit="%",
            goal=2.0,
            value=100 * again / seconds["map"],
            detail=detail | {"second_s": again},
        ),
        Row(
            what=f"{what}, N {counts[1]}: peak memory",
            against="that of the two forwards",
            unit="MB more",
            goal=100,
            value=median(plain["map"]) - median(plain["forwards"]),
            detail={f"{k}_MB": v for k, v in plain.items()},
        ),
        Row(
            what="the same, freed memory given back at once",
            against="that of the two forwards",
            unit="MB more",
            goal=100,
            value=more[counts[1]],
            detail=memory,
        ),
        Row(
            what=f"growth of that from N {counts[0]} to N {counts[1]}",
            against="growth of the forwards' peak",
            unit="MB more",
            goal=10,
            value=more[counts[1]] - more[counts[0]],
            detail=memory,
        ),
        Row(
            what=f"error of float32 CKA at mean/std up to {OFFSETS[-1]:g}",
            against="float64 without the offset",
            unit="",
            goal=1e-5,
            value=max(errors.values()),
            detail={f"at_{k:g}": v for k, v in errors.items()},
        ),
        Row(
            what="what a map costs beyond the forwards, N 256",
            against="the map pair by pair (as torch_cka)",
            sense=">=",
            unit="x less",
            detail={f"{k}_s": v for k, v in popular.items()},
            value=(popular["popular"] - popular["forwards"])
            / max(popular["map"] - popular["forwards"], 0.01 * popular["forwards"]),
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Growth of the resident peak in MB.")
    parser.add_argument("tool", choices=("forwards", "map"))
    parser.add_argument("samples", type=int)
    options = parser.parse_args()
    print(_peak_here(options.tool, options.samples))
