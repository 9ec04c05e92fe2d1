"""Occlusion maps of teacher and student against the two batched forwards alone, and against captum's default.

The two forwards run on covered images that were made beforehand; ours makes them, runs both models, and gives the map
of a class. Values are held against ``captum.attr.Occlusion`` in float64.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kdcore.functional.occlusion import occlusion_map, occlusion_sensitivity, occlusion_windows

from .protocol import Row, interleaved, must_agree

_WINDOW, _STRIDE, _BATCH = 24, 12, 128


def maps(models: list[nn.Module], images: Tensor, windows: Tensor, classes: Tensor) -> list[Tensor]:
    """What a diagnosis shows: per model the occlusion map of each image's class, ``(N, H, W)``."""
    out = []
    for model in models:
        falls = occlusion_sensitivity(model, images, windows, batch_size=_BATCH)
        out.append(occlusion_map(falls[torch.arange(len(images)), :, classes], windows))
    return out


def captum_map(model: nn.Module, images: Tensor, classes: Tensor, perturbations: int = 1) -> Tensor:
    """The same from captum, one window per forward unless told otherwise."""
    from captum.attr import Occlusion

    channels = images.shape[1]
    given = Occlusion(model).attribute(
        images,
        sliding_window_shapes=(channels, _WINDOW, _WINDOW),
        target=classes,
        strides=(channels, _STRIDE, _STRIDE),
        perturbations_per_eval=perturbations,
    )
    return given[:, 0]


def check_map(model: nn.Module, images: Tensor, windows: Tensor, classes: Tensor) -> None:
    """Assert that the map is captum's, in float64."""
    wide = copy.deepcopy(model).double()
    with torch.no_grad():
        must_agree(
            "occlusion map against captum",
            maps([wide], images.double(), windows, classes)[0],
            captum_map(wide, images.double(), classes),
        )


def measure(*, quick: bool = False) -> list[Row]:
    """Ratio to the two forwards; for information, captum's default against ours."""
    import timm

    names, size, count = ("resnet18", "mobilenetv3_small_100"), 96, 1 if quick else 4
    torch.manual_seed(0)
    models = [timm.create_model(name, num_classes=10).eval() for name in names]
    images, classes = torch.randn(count, 3, size, size), torch.arange(count)
    windows = occlusion_windows((size, size), window=_WINDOW, stride=_STRIDE)
    for model in models:
        check_map(model, images[:1], windows, classes[:1])
    covered = torch.where(windows[None, :, None], 0.0, images[:, None]).flatten(0, 1)

    def forwards() -> None:
        with torch.no_grad():
            for model in models:
                for stack in (images, *covered.split(_BATCH)):
                    model(stack)

    def captum() -> None:
        with torch.no_grad():
            for model in models:
                captum_map(model, images, classes)

    seconds = interleaved(
        {"forwards": forwards, "ours": lambda: maps(models, images, windows, classes), "captum": captum},
        repeats=1 if quick else 7,
    )
    detail = {f"{k}_s": v for k, v in seconds.items()}
    what = f"occlusion maps of {names[0]} and {names[1]}, {count} images of {size} px, {len(windows)} windows"
    return [
        Row(
            what=what,
            against="the two batched forwards",
            value=seconds["ours"] / seconds["forwards"],
            goal=1.1,
            detail=detail,
        ),
        Row(
            what=what,
            against="captum `Occlusion`, default settings",
            sense=">=",
            unit="x faster",
            value=seconds["captum"] / seconds["ours"],
            detail=detail,
        ),
    ]
