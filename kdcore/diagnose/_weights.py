"""Was a part of a network ever trained? Weights at their initialisation are told from trained ones by what a random
draw leaves and training destroys: exact constants, the shape of one distribution, no structure of rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
#: A test that does not reject proves something only where it would have rejected: if a training moved weights by 5 % of
#: the bound they were drawn in, none of ``FEW`` exceeds it in 1 of 400 layers (none of 200 in 1 of 50, none of 64 in
#: 1 of
#: 4). Layers with fewer cannot be told. A normal shape is believed from ``MANY`` on.
FEW, MANY = 300, 1000
#: The smallest tensors in which zeros and outliers are looked for.
SMALLEST = 64
#: Each test rejects a random draw this seldom: a network has some hundred of them.
CHANCE = 1e-6
#: Biases drawn from a normal distribution of standard deviation 1e-6 (mixers) count as constant.
TINY = 1e-4
#: An entry so many times the median of its tensor is no weight but an accident.
OUTLIER = 1000.0
#: Values looked at of one tensor, and rows and columns for the largest singular value.
_VALUES, _ROWS, _COLUMNS = 20_000, 192, 384
#: Of larger tensors the first rows are looked at.
_LARGE = 2**20


class Verdict(NamedTuple):
    """What one sub-module's own weights show: ``trained``, or why they are as drawn; neither where nothing follows."""

    trained: bool = False
    why: str = ""


@dataclass(frozen=True)
class Stage:
    """A part of a model, and whether it was ever trained.

    Attributes:
        name: of the sub-module. parameters: how many. frozen: share of them that does not ask for a gradient.
        initial: the weights are as an initialisation leaves them (or equal the initial weights given).
        why: what shows that. trained: the weights show training; stages that are neither show nothing.
    """

    name: str
    parameters: int
    frozen: float
    initial: bool
    why: str
    trained: bool = False

    @property
    def verdict(self) -> str:
        """``"trained"``, ``"as initialised"`` or ``"cannot tell"``."""
        return "trained" if self.trained else "as initialised" if self.initial else "cannot tell"


def stages(model: nn.Module, initial: dict[str, Tensor] | None = None) -> list[Stage]:
    """The parts of a model with weights: its children; one that holds most of the model is opened."""
    found = []
    for name in _parts(model):
        module = model.get_submodule(name) if name else model
        own = dict(module.named_parameters())
        count = sum(p.numel() for p in own.values())
        frozen = sum(p.numel() for p in own.values() if not p.requires_grad) / count
        if initial is not None:
            why = _unchanged(name, own, initial)
            verdict = Verdict(trained=not why, why=why)
        else:
            verdict = _judge(module)
        found.append(
            Stage(name, count, frozen, bool(verdict.why) and not verdict.trained, verdict.why, verdict.trained)
        )
    return found


def fresh(parts: list[Stage]) -> bool:
    """Whether nothing in a model was trained: no stage shows training, and most weights (a thousand at least, fewer
    show nothing) are as initialised."""
    known = sum(s.parameters for s in parts if s.initial)
    return known >= MANY and not any(s.trained for s in parts) and known >= 0.5 * sum(s.parameters for s in parts)


def initial_share(parts: list[Stage]) -> float:
    """Share of the weights that lies in stages as initialised."""
    return sum(s.parameters for s in parts if s.initial) / max(1, sum(s.parameters for s in parts))


def _parts(model: nn.Module, prefix: str = "") -> list[str]:
    children = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    children = {n: size for n, size in children.items() if size}
    if not children:
        return [prefix.rstrip(".")] if any(True for _ in model.parameters()) else []
    total, found = sum(children.values()), []
    for name, size in children.items():
        inner = model.get_submodule(name)
        inside = [m for m in inner.children() if any(True for _ in m.parameters())]
        open_it = size > 0.5 * total and len(inside) > 1 and all(any(True for _ in m.children()) for m in inside)
        alone = len(children) == 1 and bool(inside)
        found += _parts(inner, f"{prefix}{name}.") if open_it or alone else [f"{prefix}{name}"]
    return found


def _unchanged(stage: str, own: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> str:
    pairs = [(p.detach().cpu(), initial.get(f"{stage}.{n}" if stage else n)) for n, p in own.items()]
    known = [(p, q.cpu()) for p, q in pairs if q is not None]
    return "equal to the initial weights given" if known and all(torch.equal(p, q) for p, q in known) else ""


class Odd(NamedTuple):
    """A weight tensor that no training leaves: the share of its entries that is exactly zero, and how many times the
    largest exceeds the median of their absolute values."""

    name: str
    zeros: float
    outlier: float


def odd_weights(model: nn.Module) -> list[Odd]:
    """Matrices and kernels of which half or more is exactly zero, or with an entry beyond a thousand medians."""
    found = []
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or weight.numel() < SMALLEST:
            continue
        size = weight.detach().abs().flatten()
        zeros = float((size == 0).double().mean())
        middle = float(_some(size[size > 0]).median()) if zeros < 1 else 0.0
        outlier = float(size.max()) / middle if middle > 0 else 0.0
        if zeros >= 0.5 or outlier >= OUTLIER:
            found.append(Odd(name, zeros, outlier))
    return found


# ------------------------------------------------------------------------------------------------------------- verdicts


def _judge(module: nn.Module) -> Verdict:
    """The verdict on a stage: trained as soon as one tensor is; else all that shows the opposite."""
    reasons: list[str] = []
    for part in module.modules():
        own = {n: p.detach().cpu() for n, p in part.named_parameters(recurse=False)}
        if not own:
            continue
        verdict = _judge_norm(own) if isinstance(part, _NORMS) else _judge_weights(own)
        if verdict.trained:
            return verdict
        reasons += [verdict.why] if verdict.why else []
    return Verdict(why="; ".join(dict.fromkeys(reasons)))


def _constant(values: Tensor) -> bool:
    return bool((values == values.flatten()[0]).all())


def _judge_norm(own: Mapping[str, Tensor]) -> Verdict:
    """Scale and shift start as constants (zero for zero-initialised branches); any step of training moves them."""
    if not all(_constant(p) for p in own.values()) or bool((own.get("bias", torch.zeros(1)) != 0).any()):
        return Verdict(trained=True)
    return (
        Verdict(why="normalisation weights are exactly as at the start")
        if max(p.numel() for p in own.values()) > 1
        else Verdict()
    )


def _judge_weights(own: Mapping[str, Tensor]) -> Verdict:
    """Weight matrices and kernels follow one distribution without structure, biases are constant or as drawn."""
    matrices = [p for p in own.values() if p.ndim >= 2]
    vectors = [p for p in own.values() if p.ndim < 2]
    verdicts = [_judge_matrix(p) for p in matrices]
    if any(v.trained for v in verdicts):
        return Verdict(trained=True)
    still = all(_constant(b) or float(b.abs().max()) < TINY for b in vectors)
    if not still and not all(_bias_as_drawn(b, matrices) for b in vectors):
        return Verdict(trained=True)
    shown = [v.why for v in verdicts if v.why]
    uniform = [w for w in shown if "bound" in w]
    if uniform:
        return Verdict(why=uniform[0])
    if shown and still and any(_constant(b) and b.numel() > 1 for b in vectors):
        return Verdict(why=f"{shown[0]}, biases are exactly constant")
    return Verdict()  # many trained layers look normal: without a bias this shows nothing by itself


def _bias_as_drawn(bias: Tensor, matrices: list[Tensor]) -> bool:
    """Constant, or uniform in the bound of one of the matrices beside it."""
    if _constant(bias) or float(bias.abs().max()) < TINY:
        return True
    return any(
        float(bias.abs().max()) <= bound * (1 + 1e-6) and _uniform(bias.flatten(), bound)
        for m in matrices
        for bound in _bounds(m)
    )


def _bounds(matrix: Tensor) -> tuple[float, ...]:
    """Bounds of the usual uniform draws: torch's default, recurrent nets', Xavier's, He's, LeCun's, by fan out."""
    rows, fan_in = len(matrix), matrix[0].numel()
    fan_out = rows * (matrix[0, 0].numel() if matrix.ndim > 2 else 1)
    return (
        fan_in**-0.5,
        (4 / rows) ** 0.5,
        (3 / rows) ** 0.5,
        (6 / (fan_in + fan_out)) ** 0.5,
        (6 / fan_in) ** 0.5,
        (6 / fan_out) ** 0.5,
        (3 / fan_in) ** 0.5,
        rows**-0.5,
    )


def _uniform(values: Tensor, bound: float) -> bool:
    from scipy.stats import kstest

    return bool(kstest(_some(values).numpy() / bound, "uniform", (-1, 2)).pvalue > CHANCE)


def _some(values: Tensor) -> Tensor:
    flat = values.flatten().float()
    return flat[:: max(1, len(flat) // _VALUES)][:_VALUES]


def _judge_matrix(weight: Tensor) -> Verdict:
    from scipy.stats import kstest

    bounds = _bounds(weight)[: None if weight.numel() >= MANY else 1]  # few weights would come near some bound
    weight = weight[: max(8, _LARGE // weight[0].numel())].double()  # the first rows are as random as all
    values, n = weight.flatten(), weight.numel()
    if n < FEW or _constant(values):
        return Verdict()
    largest = float(values.abs().max())
    near = 1 - 16 / n  # the largest of n uniform values comes that close to the bound, all but 1e-7 of the time
    for bound in bounds:
        if near * bound <= largest <= bound * (1 + 1e-6) and _uniform(values, bound):
            return Verdict(why="weights follow a uniform initialisation and none exceeds its bound")
    std = float(values.square().mean().sqrt())
    draw = _some(values).numpy() / std
    cut = 0.8796  # standard deviation of a normal distribution cut at twice its own
    if _structured(weight) or (
        kstest(draw, "norm").pvalue <= CHANCE and kstest(draw * cut, "truncnorm", (-2, 2)).pvalue <= CHANCE
    ):
        return Verdict(trained=True)
    return Verdict(
        why=f"weights follow a normal distribution of standard deviation {std:.3g} without any structure"
        if n >= MANY
        else ""
    )


def _structured(weight: Tensor) -> bool:
    """Whether rows, columns or kernel positions differ in size more than those of independent draws, or one direction
    stands out (largest singular value beyond the Tracy-Widom edge): both come with training."""
    kernel = weight.reshape(len(weight), weight.shape[1], -1)
    kurtosis = float((weight**4).mean() / weight.square().mean() ** 2)
    if any(_uneven(kernel.movedim(d, 0).flatten(1), kurtosis) for d in range(3)):
        return True
    matrix = kernel.flatten(1)[:_ROWS, :_COLUMNS].float()
    m, n = matrix.shape
    if min(m, n) < 8:
        return False
    edge = m**0.5 + n**0.5
    vector = matrix.sum(1) + matrix[:, 0]
    for _ in range(40):  # power iteration; what has not converged is too small, never too large
        vector = matrix @ (matrix.T @ (vector / vector.norm().clamp_min(1e-30)))
    top = float(vector.norm()) / float(matrix.square().mean())
    return top > edge**2 + 8 * 1.27 * edge * (m**-0.5 + n**-0.5) ** (1 / 3)


def _uneven(rows: Tensor, kurtosis: float) -> bool:
    from scipy.stats import chi2

    m, n = rows.shape
    if m < 4 or n < 100:
        return False
    energy = rows.square().mean(1)
    spread = float((energy / energy.mean() - 1).square().sum()) * n / max(kurtosis - 1, 1e-3)
    return bool(chi2.sf(spread, m - 1) < CHANCE)


__all__ = ["BATCH_NORMS", "Odd", "Stage", "Verdict", "fresh", "initial_share", "odd_weights", "stages"]
