r"""PCoreSet: Effective Active Learning through Knowledge Distillation from VLMs (2025), arXiv:2506.00910.

Labels are bought in rounds, and a vision-language teacher that needs none is there from the start. In every round a
student with two heads (DHO) learns from scratch: from the labels bought so far, and from the teacher on all images.
Then it says which images to ask for. What the teacher says clusters in a few places of the probability simplex, and the
student inherits that. So PCoreSet asks where the *probability space* is not covered yet, not the feature space: with
:math:`p = \alpha \, \mathrm{softmax}(z^{ce}) + (1 - \alpha) \, \mathrm{softmax}(z^{kd})`,

.. math::
    u^* = \arg\max_{u \in U \setminus Q} \; \min_{c \in L \cup Q} \; \| p_u - p_c \|_2, \qquad
    Q \leftarrow Q \cup \{u^*\} \qquad (B \text{ times})

=====================  =======================================  ===========================
paper                  argument                                 shape
=====================  =======================================  ===========================
:math:`p_u, u \in U`   pool_probabilities                       ``(N, C)``
:math:`p_l, l \in L`   labeled_probabilities (not one-hot)      ``(M, C)``
:math:`B`              budget                                   per round
:math:`f`              pool_features, labeled_features          ``(N, D)``, ``(M, D)``
=====================  =======================================  ===========================

The greedy cover, k-means and the dual-head objective are shared (:mod:`kdcore.functional.clustering`, ``"dho"``).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..card import Evidence, MethodCard, Parity
from ..checkpoints import preserved_rng
from ..distiller import distill
from ..few_shot import class_adaptive_prototypes
from ..functional.checks import check_choice, check_labels, check_positive, describe
from ..functional.clustering import coverage_radius, k_center_greedy, kmeans
from ..functional.dual_heads import dual_head_probabilities
from ..functional.reductions import at_least_float32
from ..inputs import input_normalization
from ..metrics import StopSignal, device_of
from ..pools import LabelOracle, mixed_loader
from ..registry import create_method
from ..rounds import ActiveHistory
from ..taps import evaluating

#: What each strategy reads beside the pool's probabilities.
_NEEDS = {
    "random": (),
    "coreset": ("pool_features", "labeled_features"),
    "uncertainty": (),
    "badge": ("pool_features",),
    "classbalanced": ("labels",),
    "pcoreset": ("labeled_probabilities",),
}
STRATEGIES = tuple(_NEEDS)


def _check_probabilities(name: str, p: Any) -> Tensor:
    if not isinstance(p, Tensor) or p.ndim != 2 or not p.is_floating_point() or not p.numel():
        raise ValueError(f"{name} must be floating (N, C) with N >= 1, got {describe(p)}.")
    p = at_least_float32(p.detach())
    if not bool(torch.isfinite(p).all()) or bool((p < 0).any()) or bool(((p.sum(1) - 1).abs() > 1e-4).any()):
        raise ValueError(
            f"{name} must hold probabilities: finite, not negative, rows that sum to 1 within 1e-4; got values from "
            f"{p.min().item():.3g} to {p.max().item():.3g}, sums from {p.sum(1).min().item():.6g} to "
            f"{p.sum(1).max().item():.6g}."
        )
    return p


def _within(budget: int, size: int) -> int:
    if not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget must be an integer of at least 1, got {budget!r}.")
    if budget > size:
        warnings.warn(f"budget is {budget}, but the pool has {size} samples: all are taken.", stacklevel=3)
    return min(budget, size)


def pcoreset_select(pool_probabilities: Tensor, labeled_probabilities: Tensor, budget: int) -> Tensor:
    """The samples whose probabilities are farthest from those of all labelled ones, one after the other.

    Args:
        pool_probabilities: ``(N, C)`` of the student on the unlabelled samples.
        labeled_probabilities: ``(M, C)`` of the student on the labelled ones (not their labels); M may be 0.
        budget: B >= 1; more than N returns all N, with a ``UserWarning``.

    Returns:
        ``(min(B, N),)`` int64 positions in the pool, in the order of picking; among equals the first.

    Raises:
        ValueError: not probabilities, class counts that differ, ``budget`` below 1.

    Reference:
        arXiv:2506.00910, algorithm 1; official code: erjui/PCoreSet.
    """
    pool = _check_probabilities("pool_probabilities", pool_probabilities)
    labeled = labeled_probabilities
    if not isinstance(labeled, Tensor) or labeled.ndim != 2 or len(labeled):
        labeled = _check_probabilities("labeled_probabilities", labeled)
    return k_center_greedy(pool, labeled, _within(budget, len(pool)))


def _badge(p: Tensor, features: Tensor, budget: int, first_index: int | None) -> Tensor:
    """Farthest first among the gradients of the last layer's weights for the predicted class."""
    error = F.one_hot(p.argmax(1), p.shape[1]).to(p) - p
    gradients = (error[:, :, None] * features.to(p)[:, None]).flatten(1)
    return k_center_greedy(gradients, gradients[:0], budget, metric="cosine", first_index=first_index)


def _class_balanced(p: Tensor, labels: Tensor, budget: int, generator: torch.Generator | None) -> Tensor:
    """More of the predicted classes that have few labels: shares by weight, the rest one by one, then at random."""
    predicted = p.argmax(1)
    counts = torch.bincount(labels, minlength=p.shape[1]).clamp(min=1)
    weight = len(labels) / (counts + 1).double()
    weight = torch.where(torch.bincount(predicted, minlength=p.shape[1]) > 0, weight, 0)
    weight = weight / weight.sum() if bool(weight.any()) else weight  # no labels at all: everything at random
    share = (budget * weight).floor().long()
    order = weight.argsort(descending=True, stable=True)
    order = order[weight[order] > 0]
    for k in range(budget - int(share.sum()) if len(order) else 0):
        share[order[k % len(order)]] += 1
    shuffled = torch.randperm(len(p), generator=generator)
    # the place of every sample within its class, in the shuffled order
    member = F.one_hot(predicted[shuffled], p.shape[1])
    place = (member.cumsum(0) * member).sum(1)
    taken = place <= share[predicted[shuffled]]
    return torch.cat([shuffled[taken], shuffled[~taken]])[:budget]


def select_queries(
    strategy: str,
    *,
    pool_probabilities: Tensor,
    pool_features: Tensor | None = None,
    labeled_probabilities: Tensor | None = None,
    labeled_features: Tensor | None = None,
    labels: Tensor | None = None,
    budget: int,
    first_index: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The samples to ask for by one of six strategies.

    Args:
        strategy: ``"random"``; ``"coreset"``: cover of the features by ``1 - cos``; ``"uncertainty"``: largest
            entropies; ``"badge"``: farthest first among gradient embeddings by ``1 - cos``; ``"classbalanced"``: more
            of the predicted classes with few labels; ``"pcoreset"``: :func:`pcoreset_select`.
        pool_probabilities: ``(N, C)``.
        pool_features: ``(N, D)``, for coreset and badge.
        labeled_probabilities: ``(M, C)``, for pcoreset.
        labeled_features: ``(M, D)``, for coreset.
        labels: ``(M,)`` integers of the labelled samples, for classbalanced.
        budget: B >= 1; more than N returns all N, with a ``UserWarning``.
        first_index: the first pick of badge, coreset; default for badge the gradient of largest norm, for coreset the
            farthest from the labelled ones.
        generator: a CPU generator of random and classbalanced; ``None`` takes torch's global one.

    Returns:
        ``(min(B, N),)`` int64 positions in the pool; among equals the first.

    Raises:
        ValueError: unknown strategy, missing inputs, not probabilities, shapes, labels out of range, ``budget``.
        TypeError: labels that are not integers.

    Reference:
        erjui/PCoreSet, ``select_queries``. Core-set: Sener and Savarese 2018, arXiv:1708.00489; BADGE (here without
        its k-means++ sampling): Ash et al. 2020, arXiv:1906.03671.
    """
    check_choice("strategy", strategy, STRATEGIES)
    given = {
        "pool_features": pool_features,
        "labeled_features": labeled_features,
        "labels": labels,
        "labeled_probabilities": labeled_probabilities,
    }
    if missing := [name for name in _NEEDS[strategy] if given[name] is None]:
        raise ValueError(f"strategy {strategy!r} needs {' and '.join(missing)}.")
    p = _check_probabilities("pool_probabilities", pool_probabilities)
    if pool_features is not None and (pool_features.ndim != 2 or len(pool_features) != len(p)):
        raise ValueError(f"pool_features must be ({len(p)}, D), got {describe(pool_features)}.")
    n = _within(budget, len(p))
    if strategy == "pcoreset":
        assert labeled_probabilities is not None
        return pcoreset_select(p, labeled_probabilities, n)
    if strategy == "coreset":
        assert pool_features is not None and labeled_features is not None
        return k_center_greedy(pool_features, labeled_features, n, metric="cosine", first_index=first_index)
    if strategy == "badge":
        assert pool_features is not None
        return _badge(p, pool_features, n, first_index)
    if strategy == "uncertainty":
        return (-(p * (p + 1e-10).log()).sum(1)).argsort(descending=True, stable=True)[:n]
    if strategy == "random":
        return torch.randperm(len(p), generator=generator)[:n].to(p.device)
    assert labels is not None
    known = check_labels(labels, labels.numel(), p.shape[1])
    return _class_balanced(p.cpu(), known.cpu(), n, generator).to(p.device)


def prediction_bias(
    probabilities: Tensor, *, num_clusters: int, generator: torch.Generator | None = None
) -> dict[str, Any]:
    """How much predictions cluster in the simplex: inertia of k-means against that of points spread evenly.

    Args:
        probabilities: ``(N, C)``.
        num_clusters: K in [1, N]; the paper's diagnostic takes C.
        generator: of the seeds of k-means and of the even points.

    Returns:
        ``inertia`` (sum of squared distances to the own centre), ``uniform_inertia`` (of as many points from the
        uniform Dirichlet distribution), ``ratio`` of the two (small: structured; NaN where the latter is 0), ``centers
        (K, C)``, ``assignments (N,)``, and ``histogram (C,)``: how many centres have each class on top.

    Raises:
        ValueError: not probabilities, K out of range.

    Reference:
        arXiv:2506.00910, structured prediction bias.
    """
    p = _check_probabilities("probabilities", probabilities)
    found = kmeans(p, num_clusters, generator=generator)
    # normalised exponential variables are uniform on the simplex
    even = -torch.rand(p.shape, generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
    spread = kmeans((even / even.sum(1, keepdim=True)).to(p), num_clusters, generator=generator).inertia
    return {
        "inertia": found.inertia,
        "uniform_inertia": spread,
        "ratio": found.inertia / spread if spread else float("nan"),
        "centers": found.centers,
        "assignments": found.assignments,
        "histogram": torch.bincount(found.centers.argmax(1), minlength=p.shape[1]),
    }


# The loop of rounds ---------------------------------------------------------------------------------------------------


def _warm_up(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A tenth of the steps up, then down to zero, both linearly."""
    warm = max(1, steps // 10)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warm, max(0.0, (steps - t) / max(1, steps - warm)))
    )


class ActiveKD:
    """Rounds of training a student with a teacher and of asking for labels.

    Every round begins with a fresh student, whose seed is the same for all strategies. There is no validation data, so
    the heads are mixed equally and the last weights count.

    Args:
        student_factory: makes a student; one without two heads gets them.
        teacher: images -> logits ``(N, C)``; ``None`` only with ``use_kd=False``.
        strategy: see :func:`select_queries`.
        budget: labels bought after each round but the last; erjui/PCoreSet's scripts: the number of classes.
        rounds: trainings.
        initial_per_class: labels of each class at the start; default 1.
        use_kd: with the teacher and both heads (default), or from labels alone with the CE head alone, on the same
            batches.
        temperature: of the distillation terms; default 2 (erjui/PCoreSet).
        steps_per_round: of AdamW; default 150 (ours, for digits; released: 200 samples for each labelled one).
        generator: of everything that is drawn; ``None`` takes torch's global one.
        lr, batch_size, unlabeled_batch_size: default 1e-3 (released), 32 and 64.
        adapt_teacher: ``(teacher, images, labels) -> teacher`` on what is labelled, before every round; a few-shot
            teacher, such as one with :func:`class_adaptive_prototypes`.

    Raises:
        ValueError: unknown strategy, counts below 1, no teacher to distil from.

    Reference:
        arXiv:2506.00910; official code: erjui/PCoreSet.
    """

    def __init__(
        self,
        student_factory: Callable[[], nn.Module],
        teacher: nn.Module | None,
        *,
        strategy: str = "pcoreset",
        budget: int,
        rounds: int,
        initial_per_class: int = 1,
        use_kd: bool = True,
        temperature: float = 2.0,
        steps_per_round: int = 150,
        generator: torch.Generator | None = None,
        lr: float = 1e-3,
        batch_size: int = 32,
        unlabeled_batch_size: int = 64,
        adapt_teacher: Callable[[nn.Module, Tensor, Tensor], nn.Module] | None = None,
    ) -> None:
        check_choice("strategy", strategy, STRATEGIES)
        counts = {"budget": budget, "rounds": rounds, "initial_per_class": initial_per_class,
                  "steps_per_round": steps_per_round, "batch_size": batch_size,
                  "unlabeled_batch_size": unlabeled_batch_size}  # fmt: skip
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}.")
        check_positive("temperature", temperature)
        if use_kd and teacher is None:
            raise ValueError(
                "teacher is None: there is nothing to distil from (use_kd=False learns from labels alone)."
            )
        self.student_factory, self.teacher, self.strategy = student_factory, teacher, strategy
        self.budget, self.rounds, self.initial_per_class, self.use_kd = budget, rounds, initial_per_class, use_kd
        self.temperature, self.steps_per_round, self.generator, self.lr = temperature, steps_per_round, generator, lr
        self.sizes, self.adapt_teacher = (batch_size, unlabeled_batch_size), adapt_teacher

    def run(
        self,
        images: Tensor,
        labels: Tensor | LabelOracle,
        test_images: Tensor,
        test_labels: Tensor,
        *,
        progress: Callable[[int, int, str], object] | None = None,
        stop: StopSignal | None = None,
        checkpoint_dir: str | Path | None = None,
    ) -> ActiveHistory:
        """All rounds; the pool may run out before the last.

        Args:
            images: ``(N, ...)``; labels: ``(N,)`` integers, or a :class:`LabelOracle` that hands them out.
            test_images, test_labels: for the accuracy of each round.
            progress: ``progress(rounds done, rounds in all, text)``; stop: once set, ends within a step.
            checkpoint_dir: every finished round is kept there, and a run that finds rounds of the same settings goes on
                after the last of them, with equal queries (a generator of its own is wanted for the same start).

        Raises:
            ValueError: no images, numbers of images and labels that differ, a class with too few samples for the
                start, labels that the student has no class for, a ``checkpoint_dir`` of another run.
        """
        oracle = labels if isinstance(labels, LabelOracle) else LabelOracle(labels)
        if len(images) != len(oracle) or len(test_images) != len(test_labels):
            raise ValueError(
                f"images and labels must hold the same samples, got {len(images)} and {len(oracle)}, in the test "
                f"{len(test_images)} and {len(test_labels)}."
            )
        if not len(images) or not len(test_images):
            raise ValueError(f"images and test_images must not be empty, got {len(images)} and {len(test_images)}.")
        # drawn before any query, so that strategies are compared on equal weights and batches
        seeds = torch.randint(2**31, (self.rounds,), generator=self.generator).tolist()
        labeled = oracle.start(self.initial_per_class, self.generator)
        history, setting = ActiveHistory(), self._setting(images, labeled, seeds)
        if checkpoint_dir is not None:
            kept = history.resume(checkpoint_dir, setting, self.generator)
            if kept is not None:
                history.student = self._fresh(images, seeds[len(history.accuracy) - 1])
                history.student.load_state_dict(kept)
                labeled = history.next_labeled
                oracle.query(labeled)
        with preserved_rng(), tempfile.TemporaryDirectory() as folder:
            for number in range(len(history.accuracy), self.rounds):
                if number and not len(history.queried[-1]):
                    break  # the pool has run out
                student = self._train(images, oracle, labeled, seeds[number], Path(folder), stop)
                if stop is not None and stop.is_set():
                    history.stopped = True
                    break
                p, features = self.answers(student, images)
                right = self.answers(student, test_images)[0].argmax(1) == test_labels
                pool = torch.ones(len(images), dtype=torch.bool).index_fill(0, labeled, False).nonzero().flatten()
                asked = labeled[:0]
                if number + 1 < self.rounds and len(pool):
                    asked = pool[self._ask(p, features, pool, labeled, oracle)]
                    oracle.query(asked)
                history.labeled.append(labeled)
                history.queried.append(asked)
                history.accuracy.append(right.double().mean().item())
                labeled = torch.cat([labeled, asked])
                history.coverage_radius.append(coverage_radius(p, p[labeled]).item())
                history.probabilities.append(p)
                history.student = student
                if checkpoint_dir is not None:
                    history.save(checkpoint_dir, setting, self.generator)
                if progress is not None:
                    progress(number + 1, self.rounds, f"round {number + 1}, {history.accuracy[-1]:.3f}")
        return history

    def _setting(self, images: Tensor, labeled: Tensor, seeds: list[int]) -> dict[str, Any]:
        """What a kept round must share with a run that goes on after it."""
        names = ("strategy", "budget", "rounds", "use_kd", "temperature", "steps_per_round", "lr", "sizes")
        return {n: getattr(self, n) for n in names} | {
            "images": tuple(images.shape), "labels at the start": labeled.tolist(), "seeds": seeds,
        }  # fmt: skip

    def _fresh(self, images: Tensor, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return create_method("dho").wrap_student(self.student_factory(), images[:2]).eval()

    def _train(
        self, images: Tensor, oracle: LabelOracle, labeled: Tensor, seed: int, folder: Path, stop: StopSignal | None
    ) -> nn.Module:
        targets = torch.full((len(images),), -100)
        targets[labeled] = oracle[labeled]
        teacher, method = self.teacher if self.use_kd else None, create_method("ce")
        if teacher is not None:
            method = create_method("dho", temperature=self.temperature)
            if self.adapt_teacher is not None:
                teacher, folder = self.adapt_teacher(teacher, images[labeled], oracle[labeled]), folder / str(seed)
        student = self._fresh(images, seed)
        if int(targets.max()) >= (classes := student.get_submodule("ce_head").out_features):  # type: ignore[operator]
            raise ValueError(f"labels must be in [0, {classes}), the classes of the student, got {int(targets.max())}.")
        result = distill(
            teacher,
            student,
            method,
            mixed_loader(images, targets, steps=self.steps_per_round, sizes=self.sizes, seed=seed),
            epochs=1,
            lr=self.lr,
            scheduler=_warm_up,
            cache=folder / "teacher" if teacher is not None else None,
            seed=seed,
            stop=stop,
        )
        return result.student.eval()

    def _ask(self, p: Tensor, features: Tensor, pool: Tensor, labeled: Tensor, oracle: LabelOracle) -> Tensor:
        return select_queries(
            self.strategy,
            pool_probabilities=p[pool],
            pool_features=features[pool],
            labeled_probabilities=p[labeled],
            labeled_features=features[labeled],
            labels=oracle[labeled],
            budget=min(self.budget, len(pool)),
            generator=self.generator,
        )

    @torch.no_grad()
    def answers(self, student: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """A student's probabilities ``(N, C)``, without KD of the CE head alone, and features; on the CPU."""
        device, parts = device_of(student), []
        normalize = input_normalization(student).to(device)
        with evaluating(student):
            for x in images.split(512):
                ce, kd, features = student(normalize(x.to(device)), return_features=True)
                p = dual_head_probabilities(ce, kd) if self.use_kd else at_least_float32(ce).softmax(1)
                parts.append((p.cpu(), features.cpu()))
        probabilities, seen = (torch.cat(part) for part in zip(*parts, strict=True))
        return probabilities, seen


CARD = MethodCard(
    slug="pcoreset",
    summary="Labels are bought where a student that also learns from a vision-language teacher leaves the probability "
    "space uncovered; every round trains a fresh student with two heads.",
    taps="logits of both heads, features",
    parity=Parity("exact", "erjui/PCoreSet", 1e-10, "queries of four strategies in their order, probabilities, radius"),
    evidence=(
        Evidence("mixture", paper="equal", code="alpha weighs the KD head", here="alpha weighs the CE head, as in DHO"),
        Evidence("labels per round", paper="number of classes", code="100 by default", here="budget, to be given"),
        Evidence(
            "first pick of badge",
            paper="not its own",
            code="largest norm after all were brought to length 1",
            here="largest norm before, or first_index",
        ),
        Evidence("greedy cover", paper="one pick at a time", code="all distances anew", here="running minimum"),
        Evidence("few-shot teacher", paper="CLAP", code="CLAP", here="simplified: one weight, one batch"),
    ),
    deviations=(
        "BADGE picks farthest first, as the released code does, not by k-means++ sampling.",
        "Steps per round do not grow with the labels.",
    ),
)

__all__ = [
    "CARD",
    "STRATEGIES",
    "ActiveHistory",
    "ActiveKD",
    "LabelOracle",
    "class_adaptive_prototypes",
    "coverage_radius",
    "k_center_greedy",
    "pcoreset_select",
    "prediction_bias",
    "select_queries",
]
