r"""MST-Distill: Mixture of Specialized Teachers for Cross-Modal Knowledge Distillation (2025), arXiv:2507.07015.

A student S sees one modality; while it learns, another one is there too, and with it two teachers: A sees the other
modality only, T sees both. Neither is best for all samples, and both know things that S cannot express. So (1) all
three learn together, (2) every chosen layer of a teacher gets a mask that moves the teacher's answer towards what S can
say, and (3) a gate picks for each sample which of these specialized teachers S listens to:

.. math::
    kd(s, t) &= \tau^2 \, \mathrm{mean}_n \, KL(\mathrm{softmax}(t / \tau) \,\|\, \mathrm{softmax}(s / \tau)) \\
    L_1 &= \sum_{X \in \{S, A, T\}} CE(X, y) + \sum_{Y \ne X} kd(X, Y) \\
    L_2 &= kd(z_e, s), \qquad z_e = M(x) \text{ with layer } l \text{ giving } m_e(h) \, h \\
    L_3 &= CE(s, y) + w_{kl} \, \frac1k \sum_{i \le k} kd(s, z_{e_i}) + w_{lb} \, L_{lb}(g), \qquad
           g = \mathrm{softmax}(G(s)), \; e_1 \dots e_k = \mathrm{top}_k(g)

In :math:`L_2` only the mask learns and the student is the target. The choice in :math:`L_3` has no gradient: the gate
learns from the load balance alone, unless ``routing="soft"``. The networks live in :mod:`kdcore.models.specialized`,
the losses in :mod:`kdcore.functional.specialized`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..card import Evidence, MethodCard, Parity
from ..checkpoints import preserved_rng
from ..engine import Learn, Run, Stage, Trained, Training, fit
from ..engine.stage import to_device
from ..engine.state import generators_of
from ..functional.checks import check_choice, check_positive, describe
from ..functional.routing import expert_load
from ..functional.specialized import (
    BALANCES,
    ROUTINGS,
    StageWeights,
    cotraining_loss,
    kd_per_sample,
    load_balancing_loss,
    routed_distillation_loss,
    stage_weights,
)
from ..models.specialized import GateNet, MaskNet, Specialists, SpecializedTeacher
from ..models.two_sensors import FusionNet, PixelNet
from ..taps import evaluating


class MSTTraining(Training):
    """The paper as a training: three networks, then a mask per specialized teacher, then student and gate.

    Masks and gate are born between the stages. Logged in stage 3 is the share of every specialized teacher.

    Args:
        student: ``x_target -> (N, C)``; auxiliary: ``x_other -> (N, C)``.
        multimodal: ``(x_target, x_other) -> (N, C)``.
        data: batches ``(x_target, x_other, labels)``.
        held_out: more of them; after each epoch of stage 2 the loss of every teacher with and without its mask is
            measured there, after each of stage 3 the student's cross-entropy.
        auxiliary_layers, multimodal_layers: dotted names of the layers that get a mask.
        num_classes: C.
        epochs, lr: of the three stages; defaults 1, 1, 100 and 1e-4 (official), Adam.
        top_k, routing, load_balance_mode, temperature: of the losses; num_heads, hidden_dim_factor: of the masks.
        cumulative_masks: the i-th teacher of a network runs with masks 1 to i (official code, stage 3); default off.
        detach_targets: of stage 1.
        masked: off trains no masks, and teachers answer as they are (a control).
        keep_best: go on with each mask's best epoch on ``held_out``.

    Raises:
        ValueError: no layers, or an option out of range. KeyError: a layer that does not exist. Before the first step
            of training: ValueError where masks or ``num_classes`` do not fit the networks, TypeError and RuntimeError
            where a layer gives no tensor or does not run.
    """

    name = "mst_distill"

    def __init__(
        self,
        student: nn.Module,
        auxiliary: nn.Module,
        multimodal: nn.Module,
        data: Iterable[Any],
        held_out: Iterable[Any] | None = None,
        *,
        auxiliary_layers: Sequence[str],
        multimodal_layers: Sequence[str],
        num_classes: int,
        epochs: tuple[int, int, int] = (1, 1, 100),
        lr: tuple[float, float, float] = (1e-4, 1e-4, 1e-4),
        top_k: int = 1,
        num_heads: int = 3,
        hidden_dim_factor: int = 2,
        routing: str = "topk",
        load_balance_mode: str = "kl",
        temperature: float = 4.0,
        cumulative_masks: bool = False,
        detach_targets: bool = False,
        masked: bool = True,
        keep_best: bool = True,
    ) -> None:
        super().__init__()
        self.student, self.auxiliary, self.multimodal = student, auxiliary, multimodal
        self.data, self.held_out, self.num_classes, self.keep_best = data, held_out, num_classes, keep_best
        self.layers = [("multimodal", n) for n in multimodal_layers] + [("auxiliary", n) for n in auxiliary_layers]
        if not self.layers:
            raise ValueError("auxiliary_layers and multimodal_layers name no layer: one at least must get a mask.")
        if not 1 <= top_k <= len(self.layers):
            raise ValueError(f"top_k must be in [1, {len(self.layers)}] (layers with a mask), got {top_k!r}.")
        check_choice("routing", routing, ROUTINGS)
        check_choice("load_balance_mode", load_balance_mode, BALANCES)
        if load_balance_mode == "cv" and len(self.layers) < 2:
            raise ValueError("load_balance_mode 'cv' needs at least 2 layers with a mask, got 1.")
        check_positive("temperature", temperature)
        for option, three in (("epochs", epochs), ("lr", lr)):
            if not isinstance(three, Sequence) or len(three) != 3 or not min(three) > 0:
                raise ValueError(f"{option} must be three numbers above zero, one per stage, got {three!r}.")
        for player, layer in self.layers:
            SpecializedTeacher(self.get_submodule(player), layer, nn.Identity())  # an unknown layer is refused now
        self.labels = [f"{player} {layer}" for player, layer in self.layers]
        self.options: dict[str, Any] = {
            "epochs": list(epochs), "lr": list(lr), "top_k": top_k, "routing": routing, "temperature": temperature,
            "load_balance_mode": load_balance_mode, "cumulative_masks": cumulative_masks, "masked": masked,
            "detach_targets": detach_targets, "num_heads": num_heads, "hidden_dim_factor": hidden_dim_factor,
        }  # fmt: skip
        self._measured: dict[str, float] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Hyper-parameters as plain values."""
        return self.options | {"layers": self.labels}

    def identity(self) -> dict[str, Any]:
        """A run goes on only with the same settings."""
        return super().identity() | self.settings

    def stages(self) -> Iterator[Stage]:
        epochs, lr, measured = self.options["epochs"], self.options["lr"], self.held_out is not None

        def learn(stage: int, *players: str) -> Learn:
            return Learn(players=players, optimizer="adam", lr=lr[stage], scheduler="constant")

        with preserved_rng():
            self._specialize()  # what does not fit is refused now, not after stage 1
        everyone = learn(0, "student", "auxiliary", "multimodal")
        yield Stage(name="co-train", data=self.data, step=self.cotrain, epochs=epochs[0], learn=everyone)
        self.specialists, dense = self._specialize()
        if self.options["masked"]:
            yield Stage(
                name="masks",
                data=self.data,
                step=self.train_masks,
                epochs=epochs[1],
                learn={f"mask{e}": learn(1, f"specialists.masks.{e}") for e in range(len(self.specialists))},
                evaluate=self.measure_masks if measured else None,
            )
            self.specialists.load_best()
        self.gate = GateNet(self.num_classes, len(self.specialists), dense=dense)
        yield Stage(
            name="route",
            data=self.data,
            step=self.route,
            epochs=epochs[2],
            learn=learn(2, "student", "gate"),
            evaluate=self.measure_student if measured else None,
            watch="ce" if measured else None,
            higher_is_better=False,
        )

    def cotrain(self, batch: Any, run: Run) -> dict[str, Tensor]:
        """Stage 1."""
        x, other, y = batch
        answers = self.student(x), self.auxiliary(other), self.multimodal(x, other)
        detach, temperature = self.options["detach_targets"], self.options["temperature"]
        out = cotraining_loss(*answers, y, temperature=temperature, detach_targets=detach)
        return {name: out[name] for name in ("student", "auxiliary", "multimodal")}

    def train_masks(self, batch: Any, run: Run) -> None:
        """Stage 2: each mask by itself, with its own optimizer."""
        x, other, _ = batch
        with torch.no_grad():
            goal = self.student(x)
        inputs = self.inputs(x, other)
        for e, (teacher, (player, _)) in enumerate(zip(self.specialists.teachers, self.layers, strict=True)):
            run.minimize({f"mask{e}": self._kd(teacher(*inputs[player]), goal).mean()}, f"mask{e}")

    def route(self, batch: Any, run: Run) -> dict[str, Tensor]:
        """Stage 3."""
        x, other, y = batch
        s, weights = self.student(x), stage_weights(run.epoch)
        with torch.no_grad():
            z = self.answers(x, other)
        g = self.gate(s).softmax(1)
        loss, chosen = self.choose(s, z, g)
        shares = chosen.detach().mean(0) if chosen.is_floating_point() else expert_load(chosen, len(z))
        run.log(**{f"share {label}": share for label, share in zip(self.labels, shares.tolist(), strict=True)})
        balance = load_balancing_loss(g, mode=self.options["load_balance_mode"])
        return {"ce": F.cross_entropy(s, y), "route": weights.kl * loss, "balance": weights.lb * balance}

    def choose(self, s: Tensor, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The routed loss of student logits, teacher logits ``(E, N, ...)`` and gate, and who was chosen."""
        return routed_distillation_loss(s, z, g, **{n: self.options[n] for n in ("routing", "top_k", "temperature")})

    def answers(self, x: Tensor, other: Tensor) -> Tensor:
        """Logits of all specialized teachers, ``(E, N, C[, H, W])``."""
        return self.specialists(self.inputs(x, other), stacked=self.options["cumulative_masks"])

    def inputs(self, x: Tensor, other: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """What each teacher reads."""
        return {"multimodal": (x, other), "auxiliary": (other,)}

    def measure_masks(self) -> dict[str, float]:
        """On held-out samples, ``kd`` to the student of every teacher: ``masked ...`` and, as it is, ``open ...``."""
        sums, n = dict.fromkeys([f"{kind} {label}" for label in self.labels for kind in ("masked", "open")], 0.0), 0
        for x, other, _ in self._held_out():
            goal, inputs, n = self.student(x), self.inputs(x, other), n + len(x)
            for label, teacher, (player, _) in zip(self.labels, self.specialists.teachers, self.layers, strict=True):
                sums[f"masked {label}"] += self._kd(teacher(*inputs[player]), goal).sum().item()
                sums[f"open {label}"] += self._kd(teacher.model(*inputs[player]), goal).sum().item()
        self._measured = {name: value / n for name, value in sums.items()}
        return self._measured

    def measure_student(self) -> dict[str, float]:
        """Cross-entropy of the student on held-out samples."""
        s, y = (torch.cat(p) for p in zip(*((self.student(x), y) for x, _, y in self._held_out()), strict=True))
        return {"ce": F.cross_entropy(s, y).item()}

    def on_epoch_end(self, run: Run) -> None:
        """Keep each mask's best epoch."""
        if run.stage.name == "masks" and self._measured and self.keep_best:
            self.specialists.keep_best([self._measured[f"masked {label}"] for label in self.labels])

    def _kd(self, learner: Tensor, goal: Tensor) -> Tensor:
        return kd_per_sample(learner, goal, self.options["temperature"])

    def _held_out(self) -> Iterator[Any]:
        assert self.held_out is not None
        device = next(self.student.parameters()).device
        with preserved_rng(*generators_of(self.held_out)), evaluating(self), torch.no_grad():
            for batch in self.held_out:
                yield to_device(batch, device)

    @torch.no_grad()
    def _specialize(self) -> tuple[Specialists, bool]:
        """Masks as wide as their layers, by a dry pass of the first batch; whether the student answers with maps."""
        with preserved_rng(*generators_of(self.data)):
            x, other, _ = to_device(next(iter(self.data)), next(self.student.parameters()).device)
        with evaluating(self):
            logits = self.student(x)
            if logits.ndim not in (2, 4) or logits.shape[1] != self.num_classes:
                raise ValueError(f"num_classes is {self.num_classes}, but the student gives {describe(logits)}.")
            networks = {"multimodal": self.multimodal, "auxiliary": self.auxiliary}
            widths = {name: self.options[name] for name in ("num_heads", "hidden_dim_factor")}
            inputs = self.inputs(x, other)
            return Specialists(networks, self.layers, inputs, masked=self.options["masked"], **widths), logits.ndim == 4

    @classmethod
    def example(cls) -> MSTTraining:
        """Ten samples of two small sensors, three tiny networks, three masks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            data = TensorDataset(torch.randn(10, 4), torch.rand(10, 16), torch.arange(10) % 3)
            loader = DataLoader(data, 5, shuffle=True, generator=torch.Generator().manual_seed(0))
            student = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.1), nn.ReLU(), nn.Linear(6, 3))
            auxiliary, multimodal = PixelNet(4, (4, 6), 6, 3), FusionNet(4, 4, (4, 6), (6, 6), 3)
            return cls(
                student, auxiliary, multimodal, loader, [tuple(data[:])], auxiliary_layers=("fc1",),
                multimodal_layers=("fc1", "fc2"), num_classes=3, epochs=(1, 2, 2), lr=(1e-2, 1e-2, 1e-2),
            )  # fmt: skip


class MSTDistiller:
    """The three stages behind one call; see :class:`MSTTraining` for what the arguments mean.

    Attributes:
        history: one :class:`~kdcore.engine.Epoch` per epoch of every stage, with losses and routing shares.
        training: the :class:`MSTTraining` of the newest :meth:`fit` with masks and gate.

    Args:
        generator: the seed of masks, gate and everything drawn comes from it; 0 without one.
    """

    def __init__(
        self,
        student: nn.Module,
        auxiliary_teacher: nn.Module,
        multimodal_teacher: nn.Module,
        *,
        auxiliary_layers: Sequence[str],
        multimodal_layers: Sequence[str],
        num_classes: int,
        epochs: tuple[int, int, int] = (1, 1, 100),
        lr: tuple[float, float, float] = (1e-4, 1e-4, 1e-4),
        top_k: int = 1,
        num_heads: int = 3,
        hidden_dim_factor: int = 2,
        routing: str = "topk",
        load_balance_mode: str = "kl",
        cumulative_masks: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.networks = (student, auxiliary_teacher, multimodal_teacher)
        self.generator = generator
        self.options: Mapping[str, Any] = {
            "auxiliary_layers": auxiliary_layers, "multimodal_layers": multimodal_layers, "num_classes": num_classes,
            "epochs": epochs, "lr": lr, "top_k": top_k, "num_heads": num_heads, "routing": routing,
            "hidden_dim_factor": hidden_dim_factor, "load_balance_mode": load_balance_mode,
            "cumulative_masks": cumulative_masks,
        }  # fmt: skip
        self.history: list[Any] = []
        self.training = MSTTraining(*self.networks, (), None, **self.options)  # refuses wrong options now

    def fit(self, train_loader: Iterable[Any], val_loader: Iterable[Any] | None = None, **options: Any) -> Trained:
        """Run all stages; with ``val_loader`` the masks and the student of their best epochs are kept.

        Args:
            train_loader, val_loader: batches ``(x_target, x_other, labels)``.
            **options: of :func:`kdcore.engine.fit` (``checkpoint_dir``, ``resume``, ``callbacks``, ``stop``, ...).
        """
        seed = 0 if self.generator is None else int(torch.randint(2**31, (), generator=self.generator))
        self.training = MSTTraining(*self.networks, train_loader, val_loader, **self.options)
        with preserved_rng():
            result = fit(self.training, **({"seed": seed} | options))
        self.history = result.history
        if val_loader is not None and not result.stopped:
            result.load_best()
        return result


CARD = MethodCard(
    slug="mst_distill",
    summary="Masks on the layers of a multimodal and a cross-modal teacher make specialized teachers of them; a gate "
    "picks for each sample the ones that a student of one modality learns from.",
    losses=("cotraining_loss", "load_balancing_loss", "routed_distillation_loss"),
    taps="logits of three networks; chosen layers of both teachers, which are masked",
    parity=Parity(
        "exact", "Gray-OREO/MST-Distill", 1e-10, "masks, gates, all losses and gradients, a masked teacher, float64"
    ),
    evidence=(
        Evidence("targets of stage 1", paper="not said", code="not detached", here="not detached; detach_targets"),
        Evidence("gate", paper="routing network", code="two linear layers in a row", here="as the code"),
        Evidence(
            "what teaches the gate",
            paper="routing network is trained",
            code="load balance only: top-k indices have no gradient",
            here='as the code; routing="soft" lets it learn from distillation',
        ),
        Evidence(
            "masks in stage 3",
            paper="one per teacher",
            code="hooks pile up: teacher i runs with masks 1 to i",
            here="one per teacher; cumulative_masks=True as the code",
        ),
        Evidence("load balance", paper="KL", code="divided by E once more (batchmean)", here="as the code"),
    ),
    deviations=('routing="soft" is ours.', "Masks are independent unless cumulative_masks is on."),
)

__all__ = [
    "CARD",
    "GateNet",
    "MSTDistiller",
    "MSTTraining",
    "MaskNet",
    "SpecializedTeacher",
    "StageWeights",
    "cotraining_loss",
    "load_balancing_loss",
    "routed_distillation_loss",
    "stage_weights",
]
