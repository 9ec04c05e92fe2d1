"""The numbers of a diagnosis: what each model says, how the layers compare, what each needs of an image, what it
costs. No judgement here."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cka_maps import CKAResult, cka_map
from ..functional.agreement import confusion_counts, top_k_agreement
from ..functional.alignment import Alignment, effective_rank, procrustes_coordinates, spread_share
from ..functional.calibration import Reliability, fit_temperature, reliability
from ..functional.correlation import kendall_tau
from ..functional.divergences import kl_with_temperature
from ..functional.occlusion import occlusion_map, occlusion_sensitivity, occlusion_windows
from ..functional.pooling import pool_features
from ..model_layers import LayerPair, embedding_tap, feature_kind, pair_layers
from ..taps import Taps, this_thread
from ._pair import Net
from ._sample import Sample
from ._thresholds import DOUBT, FLAT, SHARP

#: A unit counts as dead when no sample moves it by more than this share of its layer's largest value.
DEAD_SPREAD = 1e-5
#: Temperature at which it is asked whether a teacher has anything to say beside the class it names.
SOFT_TEMPERATURE = 4.0
MASK_GRID = 8


@dataclass(kw_only=True)
class Answers:
    """What one model says on the sample.

    Attributes:
        logits: ``(N, C)``. right: ``(N,)`` bool or ``None``. accuracy, nll, ece: ``None`` without labels.
        confidence: mean highest probability. entropy: mean, in nats. temperature: the one that fits the labels best.
        nll_fitted: at that temperature. soft_mass: median probability outside the named class at temperature 4.
        recall: ``(C,)`` per class, NaN without samples. reliability: bins behind ``ece``.
    """

    logits: Tensor = field(repr=False)
    confidence: float
    entropy: float
    soft_mass: float
    right: Tensor | None = field(default=None, repr=False)
    accuracy: float | None = None
    nll: float | None = None
    ece: float | None = None
    temperature: float | None = None
    nll_fitted: float | None = None
    recall: Tensor | None = field(default=None, repr=False)
    reliability: Reliability | None = field(default=None, repr=False)

    @property
    def sharp(self) -> bool:
        """Whether the logits are far too large: by the temperature that fits, which gains 0.05 nat."""
        return (
            self.temperature is not None
            and self.nll is not None
            and self.nll_fitted is not None
            and self.temperature >= SHARP
            and self.nll - self.nll_fitted >= 0.05
        )

    @property
    def flat(self) -> bool:
        """Whether they are far too small: by the temperature that fits, and more often right than sure."""
        return (
            self.temperature is not None
            and self.accuracy is not None
            and self.temperature <= FLAT
            and self.accuracy - self.confidence >= DOUBT
        )

    @property
    def off_scale(self) -> bool:
        """Either of them."""
        return self.sharp or self.flat


def answers(logits: Tensor, labels: Tensor | None) -> Answers:
    """Accuracy, calibration and softness of ``(N, C)`` logits."""
    scores = logits.double()
    log_p = scores.log_softmax(1)
    soft = (scores / SOFT_TEMPERATURE).softmax(1).max(1).values
    said = Answers(
        logits=logits,
        confidence=float(log_p.max(1).values.exp().mean()),
        entropy=float(-(log_p.exp() * log_p).sum(1).mean()),
        soft_mass=float((1 - soft).median()),
    )
    if labels is None:
        return said
    bins = reliability(logits, labels)
    counts = confusion_counts(logits.argmax(1), labels, logits.shape[1]).double()
    said.right = logits.argmax(1) == labels
    said.accuracy, said.nll, said.ece = (
        float(said.right.double().mean()),
        float(F.cross_entropy(scores, labels)),
        bins.error,
    )
    said.temperature = fit_temperature(logits, labels)
    said.nll_fitted = float(F.cross_entropy(scores / said.temperature, labels))
    said.recall, said.reliability = counts.diagonal() / counts.sum(1), bins
    return said


def agreement(student: Tensor, teacher: Tensor, labels: Tensor | None) -> dict[str, float]:
    """How far two ``(N, C)`` logits agree: top-1, top-5, Kendall's tau (all classes; without the label), KL."""
    n, classes = student.shape
    rows = slice(0, max(16, min(n, 2**25 // classes**2)))  # tau looks at all pairs of classes
    tau = kendall_tau(student[rows], teacher[rows])
    found = {
        "top1": float(top_k_agreement(student, teacher).mean()),
        "top5": float(top_k_agreement(student, teacher, k=min(5, classes)).mean()),
        "kendall": float(tau.nanmean()),
        "kl": float(kl_with_temperature(student.double(), teacher.double()).mean()),
        "kl_t4": float(kl_with_temperature(student.double(), teacher.double(), temperature=SOFT_TEMPERATURE).mean()),
    }
    if labels is not None and classes > 2:
        mask = torch.ones_like(student[rows], dtype=torch.bool).scatter_(1, labels[rows, None], False)
        found["kendall_nontarget"] = float(kendall_tau(student[rows], teacher[rows], mask=mask).nanmean())
    return found


# ------------------------------------------------------------------------------------------------------------- activity


@dataclass(frozen=True)
class Activity:
    """One weighted or activating sub-module: the share of its units that no sample moves, its largest value."""

    name: str
    type: str
    dead: float
    largest: float
    finite: bool


_PASSIVE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@contextmanager
def watching(model: nn.Module, size: int) -> Iterator[list[Activity]]:
    """Records the activity of every leaf module in the forwards of ``size`` samples made in the block."""
    found: list[Activity] = []
    handles = []

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: Any, out: Any) -> None:
            if not isinstance(out, Tensor) or out.ndim < 2 or len(out) != size or not out.is_floating_point():
                return
            channel = 1 if feature_kind(out.shape[1:]) in ("map", "vector") else out.ndim - 1
            other = [d for d in range(out.ndim) if d != channel]
            values = out.detach().float()
            largest = float(values.abs().max())
            moved = (values - values[:1]).abs().amax(other)
            dead = float((moved <= DEAD_SPREAD * largest).double().mean()) if size > 1 else 0.0
            found.append(Activity(name, type(module).__name__, dead, largest, largest < float("inf")))

        return record

    try:
        for name, module in model.named_modules():
            if not list(module.children()) and not isinstance(module, _PASSIVE):
                handles.append(module.register_forward_hook(this_thread(hook(name))))
        yield found
    finally:
        for handle in handles:
            handle.remove()


# --------------------------------------------------------------------------------------------------------------- layers


@dataclass(kw_only=True)
class LayerView:
    """Feature alignment of one pair of layers; ``None`` where one of them is constant."""

    student: str
    teacher: str
    alignment: Alignment | None = field(repr=False)
    rank_student: float
    rank_teacher: float
    spread_student: float
    spread_teacher: float

    @property
    def name(self) -> str:
        return f"{self.student} and {self.teacher}"


def _layer_view(student: str, teacher: str, s: Tensor, t: Tensor, dim: int) -> LayerView:
    constant = spread_share(s) < 1e-12 or spread_share(t) < 1e-12
    return LayerView(
        student=student,
        teacher=teacher,
        rank_student=effective_rank(s),
        rank_teacher=effective_rank(t),
        spread_student=spread_share(s),
        spread_teacher=spread_share(t),
        alignment=None if constant else procrustes_coordinates(s, t, dim=dim),
    )


def propose(student: Net, teacher: Net, sample: Sample, max_pairs: int) -> tuple[list[LayerPair], list[str]]:
    """Layer pairs, and why there are none where nothing fits."""
    few = sample.x[:2]
    try:
        return pair_layers(
            student.model, teacher.model, student.input(few), teacher_sample=teacher.input(few), max_pairs=max_pairs
        ), []
    except ValueError as error:
        return [], [f"no layers are compared: {error}"]


def embedding_names(student: Net, teacher: Net, sample: Sample) -> tuple[str | None, str | None, list[str]]:
    """Taps of the two penultimate embeddings (``None`` and a note where a model has no final linear layer)."""
    names: list[str | None] = []
    notes = []
    for net in (student, teacher):
        try:
            names.append(embedding_tap(net.model, net.input(sample.x[:2])))
        except ValueError as error:
            names.append(None)
            notes.append(f"no embedding of the {net.role} is read: {error}")
    return names[0], names[1], notes


def read(net: Net, sample: Sample, taps: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """One pass: logits, and per tap the features averaged over positions, ``(N, C)``, on the CPU."""
    nhwc = True if getattr(net.model, "output_fmt", None) == "NHWC" else None

    def pooled(x: Tensor) -> Tensor:
        last = feature_kind(x.shape[1:], channels_last=nhwc) == "map_last"
        return pool_features(x.detach(), "gap", channels_last=last).float().cpu()

    if not taps:
        return net.over(sample.batches), {}
    logits, parts = [], {name: [] for name in taps}  # type: ignore[var-annotated]
    with Taps(net.model, list(taps), reduce=pooled) as reader:
        for x in sample.batches:
            logits.append(net.logits(x))
            for name in taps:
                key = name if name in reader.features else f"{name}#0"
                parts[name].append(reader.features[key])
    return torch.cat(logits), {name: torch.cat(p) for name, p in parts.items()}


def layer_map(student: Net, teacher: Net, sample: Sample, *, bootstrap: int, seed: int) -> CKAResult:
    """CKA of all proposed layers, with an interval per cell where there are batches enough."""
    full = [x for x in sample.batches if len(x) >= 4]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CKA is undefined", category=UserWarning)  # becomes a finding
        return cka_map(
            student.model,
            teacher.model,
            full,
            transform_x=student.input,
            transform_y=teacher.input,
            bootstrap=bootstrap if len(full) >= 4 else 0,
            seed=seed,
        )


def align(
    pairs: Sequence[LayerPair],
    embeddings: tuple[str | None, str | None],
    s: dict[str, Tensor],
    t: dict[str, Tensor],
    *,
    dim: int = 2,
) -> list[LayerView]:
    """Alignment of every pair of layers, the embeddings last."""
    names = [(p.student.name, p.teacher.name) for p in pairs]
    if embeddings[0] is not None and embeddings[1] is not None:
        names.append((embeddings[0], embeddings[1]))
    return [_layer_view(a, b, s[a], t[b], dim) for a, b in names]


# -------------------------------------------------------------------------------------------------- occlusion and masks


@dataclass(kw_only=True)
class Occlusion:
    """Occlusion of a few images.

    Attributes:
        images: ``(n, C, H, W)`` as the loader gave them. rows: their places in the sample.
        classes: ``(n,)`` class whose logit is watched: the label, or what the teacher says.
        falls: by role ``(n, W, C)``, the fall of every class per window. maps: by role ``(n, H, W)`` for ``classes``.
        windows: ``(W, H, W)``. correlation: ``(n,)`` Pearson correlation of the two models' maps, NaN where flat.
    """

    images: Tensor = field(repr=False)
    rows: Tensor
    classes: Tensor
    windows: Tensor = field(repr=False)
    falls: dict[str, Tensor] = field(repr=False)
    maps: dict[str, Tensor] = field(repr=False)
    correlation: Tensor


def occlude(student: Net, teacher: Net, sample: Sample, rows: Tensor, classes: Tensor) -> Occlusion:
    """Occlusion sensitivity of both models on the chosen images: windows of a quarter of the side, half overlapping."""
    images = sample.x[rows]
    height, width = images.shape[2:]
    side = (max(1, height // 4), max(1, width // 4))
    windows = occlusion_windows((height, width), window=side, stride=(max(1, side[0] // 2), max(1, side[1] // 2)))
    falls: dict[str, Tensor] = {
        net.role: occlusion_sensitivity(net.logits, images, windows, baseline=sample.mean) for net in (teacher, student)
    }
    watched = {
        role: f.gather(2, classes[:, None, None].expand(-1, f.shape[1], 1)).squeeze(2) for role, f in falls.items()
    }
    flat = [watched[r].double() - watched[r].double().mean(1, keepdim=True) for r in ("teacher", "student")]
    correlation = (flat[0] * flat[1]).sum(1) / (flat[0].norm(dim=1) * flat[1].norm(dim=1))
    return Occlusion(
        images=images,
        rows=rows,
        classes=classes,
        windows=windows,
        falls=falls,
        correlation=correlation,
        maps={role: occlusion_map(w, windows) for role, w in watched.items()},
    )


def _grid(height: int, width: int) -> int | None:
    """Blocks per side: the largest divisor of both sides up to 8 that leaves blocks of at least 2 pixels."""
    fits = [g for g in range(2, MASK_GRID + 1) if not height % g and not width % g and min(height, width) // g >= 2]
    return max(fits, default=None)


def robustness(
    student: Net, teacher: Net, sample: Sample, said: dict[str, Tensor], ratios: Sequence[float], seed: int
) -> list[dict[str, Any]]:
    """Accuracy (without labels: agreement with the model's own unmasked answer) under masks of growing ratio.

    Args:
        said: by role, the classes named without a mask, for the samples given.
        ratios: nominal share of masked blocks; the share that was masked is in the result.
    """
    from ..functional.masks import apply_block_mask, cox_intensity, sample_cox_mask, sample_uniform_mask

    height, width = sample.x.shape[2:]
    grid = _grid(height, width)
    if grid is None or height != width:
        return []
    target = {net.role: said[net.role] if sample.labels is None else sample.labels for net in (teacher, student)}
    intensity = cox_intensity(height, block_size=height // grid, sigma=height / 2)  # the paper's bell, scaled to S
    rows = [
        {"kind": kind, "ratio": 0.0, "masked": 0.0, "samples": len(sample)}
        | {r: float((said[r] == target[r]).double().mean()) for r in target}
        for kind in ("uniform", "cox")
    ]
    for kind in ("uniform", "cox"):
        for ratio in ratios:
            generator = torch.Generator().manual_seed(seed)
            mask = (
                sample_uniform_mask((grid, grid), len(sample), mask_ratio=ratio, generator=generator)
                if kind == "uniform"
                else sample_cox_mask(intensity, len(sample), mask_ratio=ratio, generator=generator)
            ).to(sample.x)
            x = apply_block_mask(sample.x - sample.mean, mask) + sample.mean
            hidden = replace(sample, x=x)
            rows.append(
                {"kind": kind, "ratio": ratio, "masked": float(1 - mask.mean()), "samples": len(sample)}
                | {
                    net.role: float((net.over(hidden.batches).argmax(1) == target[net.role]).double().mean())
                    for net in (teacher, student)
                }
            )
    return sorted(rows, key=lambda row: (row["kind"] != "uniform", row["ratio"]))


# ----------------------------------------------------------------------------------------------------------------- cost


def cost(net: Net, sample: Sample, repeats: int = 3) -> dict[str, float]:
    """Parameters, memory of weights, floating-point operations and latency (one sample: median of ``repeats``;
    a batch: once), with the threads torch uses."""
    from torch.utils.flop_counter import FlopCounterMode

    one, many = net.input(sample.x[:1]), net.input(sample.x[: sample.batch_size])
    with FlopCounterMode(display=False) as counter:
        net.model(one)

    def seconds(x: Tensor, times: int) -> float:
        took = []
        for _ in range(times):
            start = time.perf_counter()
            net.model(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            took.append(time.perf_counter() - start)
        return statistics.median(took)

    weights = {id(p): p for p in net.model.parameters()}.values()
    return {
        "parameters": float(sum(p.numel() for p in weights)),
        "weight_bytes": float(sum(p.numel() * p.element_size() for p in weights)),
        "flops": float(counter.get_total_flops()),
        "latency_ms": 1e3 * seconds(one, repeats),
        "batch_ms_per_sample": 1e3 * seconds(many, 1) / len(many),
    }


__all__ = [
    "Activity",
    "Answers",
    "LayerView",
    "Occlusion",
    "agreement",
    "align",
    "answers",
    "cost",
    "embedding_names",
    "layer_map",
    "occlude",
    "propose",
    "read",
    "robustness",
    "watching",
]
