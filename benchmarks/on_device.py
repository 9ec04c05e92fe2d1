"""Losses, step, cached epoch, CKA map and occlusion on one device, in every precision, against their references.

Every value is asserted before its time is reported: float32 against the usual formulation in float64, 16 bit against
the same truth, with no more error than the usual formulation has in 16 bit (or the rounding of the type, if that is
more).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdcore.functional.occlusion import occlusion_windows

from . import cka, losses, occlusion, step
from .protocol import Row, interleaved, must_agree, relative_error

#: Rounding that a value made of a few thousand additions may show.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_PRECISION = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}


def loss_errors(name: str, size: tuple[int, int], device: str, dtype: torch.dtype) -> dict[str, float]:
    """Assert value and gradient of one loss; the errors of both formulations against float64."""
    reference, ours, _ = losses.PAIRS[name]
    s, t, labels = losses.problem(*size, device=device, dtype=dtype)
    truth = losses.value_and_gradient(reference, s.double(), t.double(), labels)
    theirs = losses.value_and_gradient(reference, s, t, labels)
    mine = losses.value_and_gradient(ours([(s, t, labels)]), s, t, labels)
    found: dict[str, float] = {}
    for part, value, usual, wanted in zip(("value", "gradient"), mine, theirs, truth, strict=True):
        error = relative_error(usual, wanted)
        allowed = max(ROUNDING[dtype], error if math.isfinite(error) else 0.0)
        what = f"{part} of {name}, {size}, {NAMES[dtype]} on {device}"
        found |= {f"error_{part}": must_agree(what, value, wanted, allowed), f"reference_error_{part}": error}
    return found


def measure_losses(device: str, *, quick: bool = False) -> list[Row]:
    """Forward and backward of each loss in each precision."""
    rows = []
    for size in ((8, 20),) if quick else losses.SIZES:
        for dtype in ROUNDING:
            sets = [losses.problem(*size, seed, device=device, dtype=dtype) for seed in range(3)]
            for name, (reference, ours, _) in losses.PAIRS.items():
                errors = loss_errors(name, size, device, dtype)
                seconds = interleaved(
                    {"reference": losses.stepping(reference, sets), "ours": losses.stepping(ours(sets), sets)},
                    repeats=2 if quick else 30,
                    warm_up=3,
                    device=device,
                )
                rows.append(
                    Row(
                        what=f"{name}, {size}, {NAMES[dtype]}",
                        against="the usual formulation, same card and type",
                        sense=">=",
                        value=seconds["reference"] / seconds["ours"],
                        goal=1.0,
                        unit="x faster",
                        detail=errors | {f"{k}_ms": 1e3 * v for k, v in seconds.items()},
                    )
                )
    return rows


def measure_step(device: str, *, quick: bool = False) -> list[Row]:
    """The step with six taps and the epoch with a cached teacher, in each precision (fp16 on a card only)."""
    size = 8 if quick else 32
    rows = []
    for precision, name in _PRECISION.items():
        if precision == "16-mixed" and device == "cpu":
            continue  # the library refuses it there
        one = step.step_seconds(*((3, 1) if quick else (60, 10)), device, precision, size=size)
        epoch = step.epoch_seconds(*((2, 2) if quick else (20, 6)), device, precision, size=size)
        what = f"resnet56 to resnet20, batch {step._BATCH}, {size} px, {name}"
        rows += [
            Row(
                what=f"distillation step, {what}, 6 taps",
                against="a hand-written loop",
                value=one["ours"] / one["by_hand"],
                goal=1.1,
                detail={f"{k}_s": v for k, v in one.items()},
            ),
            Row(
                what=f"epoch with a cached teacher, {what}",
                against="the student alone, by hand",
                value=epoch["cached"] / epoch["alone"],
                goal=1.15,
                detail={f"{k}_s": v for k, v in epoch.items()},
            ),
        ]
    return rows


def measure_cka(
    device: str, *, quick: bool = False, models: Callable[[], tuple[nn.Module, nn.Module]] = cka.models
) -> list[Row]:
    """The map in each precision: its distance from the pairwise map in float64, its time over the two forwards."""
    x, y = (model.to(device) for model in models())
    cka.check_map(x, y)
    loader = cka.batches(32 if quick else 1024, 16 if quick else cka._BATCH)
    few = [b.double() for b in loader[:2]]
    truth = cka.reference_map(x.double(), y.double(), few, torch.float64)
    x.float(), y.float()
    rows = []
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.05)):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            found = cka.our_map(x, y, loader[:2], device=device).matrix.cpu()
            error = float((found - truth).abs().max())
            if not error <= tolerance:
                raise AssertionError(f"CKA map in {NAMES[dtype]} on {device}: off by {error:.2e}, allowed {tolerance}.")
            seconds = interleaved(
                {
                    "forwards": lambda: cka.forwards(x, y, loader),
                    "map": lambda: cka.our_map(x, y, loader, device=device),
                },
                repeats=1 if quick else 3,
                device=device,
            )
        rows.append(
            Row(
                what=f"`cka_map`, {len(cka.LAYERS_X)} x {len(cka.LAYERS_Y)} layers, {NAMES[dtype]}",
                against="the two forwards",
                value=seconds["map"] / seconds["forwards"],
                detail={"largest_error": error} | {f"{k}_s": v for k, v in seconds.items()},
            )
        )
    return rows


def measure_occlusion(
    device: str, *, quick: bool = False, models: Sequence[nn.Module] | None = None, size: int = 96
) -> list[Row]:
    """Maps of two models in each precision against captum in float64, and their time over the forwards."""
    import timm

    torch.manual_seed(0)
    if models is None:
        models = [timm.create_model(name, num_classes=10) for name in ("resnet18", "mobilenetv3_small_100")]
    ready = [model.to(device).eval() for model in models]
    count = 1 if quick else 8
    images, classes = torch.randn(count, 3, size, size).to(device), torch.arange(count, device=device) % 10
    windows = occlusion_windows((size, size), window=occlusion._WINDOW, stride=occlusion._STRIDE).to(device)
    for model in ready:
        occlusion.check_map(model, images[:1], windows, classes[:1])
    covered = torch.where(windows[None, :, None], 0.0, images[:, None]).flatten(0, 1)
    exact = occlusion.maps(ready, images, windows, classes)

    @torch.no_grad()
    def forwards() -> None:
        for model in ready:
            for stack in (images, *covered.split(occlusion._BATCH)):
                model(stack)

    def ours() -> list[Tensor]:
        return occlusion.maps(ready, images, windows, classes)

    rows = []
    for dtype in ROUNDING:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            error = max(relative_error(a.float(), b) for a, b in zip(ours(), exact, strict=True))
            seconds = interleaved({"forwards": forwards, "ours": ours}, repeats=1 if quick else 5, device=device)
        rows.append(
            Row(
                what=f"occlusion maps of two networks, {count} images, {len(windows)} windows, {NAMES[dtype]}",
                against="the batched forwards",
                value=seconds["ours"] / seconds["forwards"],
                goal=1.2,
                detail={"relative_error_to_fp32": error} | {f"{k}_s": v for k, v in seconds.items()},
            )
        )
    return rows


PARTS: dict[str, Callable[..., list[Row]]] = {
    "losses": measure_losses,
    "step": measure_step,
    "cka": measure_cka,
    "occlusion": measure_occlusion,
}
