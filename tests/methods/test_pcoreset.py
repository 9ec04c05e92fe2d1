"""PCoreSet against the authors' code, by hand, against slow oracles, and as a loop that may not look at labels."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import Case, close, parity
from torch import Tensor, nn

from kdcore.checkpoints import state_hash
from kdcore.functional.dual_heads import dual_head_probabilities
from kdcore.methods.pcoreset import (
    STRATEGIES,
    ActiveKD,
    LabelOracle,
    class_adaptive_prototypes,
    coverage_radius,
    k_center_greedy,
    pcoreset_select,
    prediction_bias,
    select_queries,
)
from kdcore.models import ConvNet
from kdcore.models.dual_head import DualHeadStudent
from kdcore.studies import find_study
from kdcore.studies.pcoreset import NEAREST, PCORESET, PLAIN, RANDOM, STRATEGY_OF, aulc, covered, radius

TOLERANCE = 1e-10


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simplex(n: int, c: int, seed: int = 0) -> Tensor:
    return torch.randn(n, c, generator=generator(seed), dtype=torch.float64).mul(2).softmax(1)


# Parity ---------------------------------------------------------------------------------------------------------------


def check_selection(case: Case) -> None:
    weights = {"alpha": case.hp["alpha"], "beta": case.hp["beta"]}
    pool = dual_head_probabilities(case.inputs["pool_ce_logits"], case.inputs["pool_kd_logits"], **weights)
    labeled = dual_head_probabilities(case.inputs["labeled_ce_logits"], case.inputs["labeled_kd_logits"], **weights)
    close(pool, case.out["pool_probs"], TOLERANCE)
    close(labeled, case.out["labeled_probs"], TOLERANCE)
    given_: dict[str, Any] = {
        "pool_probabilities": pool,
        "labeled_probabilities": labeled,
        "pool_features": case.inputs["pool_features"],
        "labeled_features": case.inputs["labeled_features"],
        "budget": case.hp["budget"],
    }
    for strategy in ("pcoreset", "coreset", "uncertainty"):
        assert select_queries(strategy, **given_).tolist() == case.out[strategy].tolist(), strategy
    badge = select_queries("badge", **given_, first_index=case.hp["badge_first_index"])
    assert badge.tolist() == case.out["badge"].tolist()
    chosen = pcoreset_select(pool, labeled, case.hp["budget"])
    assert chosen.tolist() == case.out["pcoreset"].tolist()
    close(coverage_radius(pool, torch.cat([labeled, pool[chosen]])), case.out["coverage_radius"], TOLERANCE)


@parity("pcoreset", {"select_*": check_selection})
def test_parity(case: Case, check: Any) -> None:
    check(case)
    case.assert_all_read()


# By hand --------------------------------------------------------------------------------------------------------------

#: Two classes: a point is the probability of the first.
LINE = torch.tensor([0.9, 0.1, 0.5, 0.3], dtype=torch.float64)
POOL, LABELED = torch.stack([LINE, 1 - LINE], 1), torch.tensor([[0.8, 0.2]], dtype=torch.float64)


def test_pcoreset_by_hand() -> None:
    """From 0.8: the farthest is 0.1 (0.7), then 0.5 (0.3 from 0.8) before 0.3 (0.2 from 0.1) and 0.9 (0.1)."""
    assert pcoreset_select(POOL, LABELED, 2).tolist() == [1, 2]
    assert pcoreset_select(POOL, LABELED, 4).tolist() == [1, 2, 3, 0]
    radius = coverage_radius(POOL, torch.cat([LABELED, POOL[[1]]]))
    close(radius, 0.3 * math.sqrt(2), TOLERANCE)


def test_without_labels_the_first_pick_has_the_largest_norm() -> None:
    assert pcoreset_select(POOL, POOL[:0], 2).tolist() == [0, 1]
    assert k_center_greedy(POOL, POOL[:0], 2, first_index=2).tolist()[0] == 2


def test_uncertainty_by_hand() -> None:
    assert select_queries("uncertainty", pool_probabilities=POOL, budget=2).tolist() == [2, 3]
    twice = POOL[[3, 2, 3, 2]]  # among equals the first
    assert select_queries("uncertainty", pool_probabilities=twice, budget=3).tolist() == [1, 3, 0]


def test_badge_by_hand() -> None:
    """Errors are (0.1, -0.1), (-0.1, 0.1), (-0.5, 0.5) or so; with features of length 1 the unsure one comes first."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], dtype=torch.float64)
    # along +e1, -e1, +e2, +e2, longest the third; the first two are equally far from it, then the second from the first
    assert select_queries("badge", pool_probabilities=p, pool_features=features, budget=3).tolist() == [2, 0, 1]
    first = select_queries("badge", pool_probabilities=p, pool_features=features, budget=1, first_index=3)
    assert first.tolist() == [3]


def test_the_first_pick_of_badge_is_not_decided_by_rounding() -> None:
    """The released code compares norms after all are 1."""
    p, features = simplex(30, 4), torch.randn(30, 5, generator=generator(1), dtype=torch.float64)
    sizes = [
        torch.outer(torch.eye(4, dtype=torch.float64)[int(row.argmax())] - row, f).norm().item()
        for row, f in zip(p, features, strict=True)
    ]
    assert select_queries("badge", pool_probabilities=p, pool_features=features, budget=1).item() == np.argmax(sizes)


def test_class_balanced_by_hand() -> None:
    """Labels 0, 0, 0, 1: weights 4/4, 4/2, and 4/2 for the class without labels; shares 0.2, 0.4, 0.4 of five."""
    p = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    asked = select_queries(
        "classbalanced", pool_probabilities=p, labels=torch.tensor([0, 0, 0, 1]), budget=5, generator=generator()
    )
    assert torch.bincount(p[asked].argmax(1)).tolist() == [1, 2, 2]
    # six: shares 1.2, 2.4, 2.4; the one left over goes to the heaviest, the first of the two
    asked = select_queries("classbalanced", pool_probabilities=p, labels=torch.tensor([0, 0, 0, 1]), budget=6)
    assert torch.bincount(p[asked].argmax(1)).tolist() == [1, 3, 2]


def test_class_balanced_fills_up_at_random() -> None:
    """Only two samples of class 1 are there: what its share leaves comes from the others."""
    p = torch.eye(2, dtype=torch.float64)[[0] * 10 + [1] * 2]
    asked = select_queries("classbalanced", pool_probabilities=p, labels=torch.tensor([0, 0, 0, 0]), budget=9)
    assert len(set(asked.tolist())) == 9 and {10, 11} <= set(asked.tolist())
    none = select_queries("classbalanced", pool_probabilities=p, labels=torch.zeros(0, dtype=torch.int64), budget=4)
    assert len(set(none.tolist())) == 4


def test_random_follows_its_generator() -> None:
    first, second = (
        select_queries("random", pool_probabilities=POOL, budget=3, generator=generator(4)) for _ in range(2)
    )
    assert first.tolist() == second.tolist() and len(set(first.tolist())) == 3
    seen = torch.cat([select_queries("random", pool_probabilities=POOL, budget=1) for _ in range(200)])
    assert set(seen.tolist()) == {0, 1, 2, 3}


# Slow oracles ---------------------------------------------------------------------------------------------------------


def slow_cover(pool: Tensor, labeled: Tensor, budget: int) -> list[int]:
    """All distances anew for every pick."""
    centers, picked = list(labeled), []
    for _ in range(budget):
        best, at = -1.0, -1
        for i, u in enumerate(pool):
            distance = min(math.dist(u.tolist(), c.tolist()) for c in centers)
            if i not in picked and distance > best:
                best, at = distance, i
        picked.append(at)
        centers.append(pool[at])
    return picked


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 4), st.integers(2, 5))
def test_pcoreset_is_the_slow_cover_and_covers_within_twice_the_best(seed: int, n: int, m: int, c: int) -> None:
    pool, labeled = simplex(n, c, seed), simplex(m, c, seed + 1)
    budget = 1 + seed % n
    asked = pcoreset_select(pool, labeled, budget)
    assert asked.tolist() == slow_cover(pool, labeled, budget)
    after = coverage_radius(pool, torch.cat([labeled, pool[asked]]))
    assert after <= coverage_radius(pool, labeled) + 1e-12
    if n <= 6:
        from itertools import combinations

        best = min(coverage_radius(pool, torch.cat([labeled, pool[list(q)]])) for q in combinations(range(n), budget))
        assert after <= 2 * best + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(STRATEGIES), st.integers(1, 20))
def test_queries_are_different_samples_whatever_the_order_of_the_classes(seed: int, strategy: str, budget: int) -> None:
    pool, labeled = simplex(20, 4, seed), simplex(3, 4, seed + 1)
    features = torch.randn(23, 5, generator=generator(seed), dtype=torch.float64)
    labels, renamed = torch.tensor([0, 1, 1]), torch.tensor([3, 2, 1, 0])

    def ask(order: Tensor) -> list[int]:
        asked = select_queries(
            strategy,
            pool_probabilities=pool[:, order],
            labeled_probabilities=labeled[:, order],
            pool_features=features[:20],
            labeled_features=features[20:],
            labels=order.argsort()[labels],
            budget=budget,
            generator=generator(seed),
        )
        assert asked.dtype == torch.int64
        return asked.tolist()

    asked = ask(torch.arange(4))
    assert len(set(asked)) == budget and min(asked) >= 0 and max(asked) < 20
    if strategy != "classbalanced":  # equal weights are served in the order of the classes
        assert ask(renamed) == asked


def test_half_precision_is_computed_in_single() -> None:
    pool, labeled = simplex(12, 3).float(), simplex(2, 3, 1).float()
    low, low_labeled = (p.bfloat16().float() for p in (pool, labeled))
    low, low_labeled = (p / p.sum(1, keepdim=True) for p in (low, low_labeled))
    assert len(set(pcoreset_select(low, low_labeled, 5).tolist())) == 5
    eighths = torch.tensor([[0.5, 0.5], [0.875, 0.125], [0.125, 0.875]])
    same = [pcoreset_select(eighths.to(d), eighths[:1].to(d), 2).tolist() for d in (torch.bfloat16, torch.float64)]
    assert same[0] == same[1] == [1, 2]


# Structured predictions -----------------------------------------------------------------------------------------------


def test_prediction_bias_tells_clusters_from_spread() -> None:
    corners = torch.eye(3, dtype=torch.float64)[[0] * 10 + [1] * 10 + [2] * 10] * 0.97 + 0.01
    found = prediction_bias(corners, num_clusters=3, generator=generator())
    assert found["inertia"] == pytest.approx(0, abs=1e-12) and found["ratio"] < 1e-6
    assert found["histogram"].tolist() == [1, 1, 1] and found["centers"].shape == (3, 3)
    assert len(found["assignments"].unique()) == 3
    even = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64)).sample((2000,))
    assert 0.8 < prediction_bias(even, num_clusters=3, generator=generator())["ratio"] < 1.25
    one = torch.ones(4, 1, dtype=torch.float64)
    assert math.isnan(prediction_bias(one, num_clusters=1)["ratio"])


def test_prediction_bias_is_the_inertia_of_its_centers_over_that_of_even_points() -> None:
    p = simplex(60, 4)
    found = prediction_bias(p, num_clusters=3, generator=generator(1))
    centers, own = found["centers"], found["assignments"]
    for k in range(3):
        close(centers[k], p[own == k].mean(0))
    assert found["inertia"] == pytest.approx(
        sum(float((x - centers[k]).square().sum()) for x, k in zip(p, own, strict=True))
    )
    assert found["ratio"] == pytest.approx(found["inertia"] / found["uniform_inertia"])
    top = [int(center.argmax()) for center in centers]
    assert found["histogram"].tolist() == [top.count(c) for c in range(4)]
    again, other = (prediction_bias(p, num_clusters=3, generator=generator(seed)) for seed in (1, 2))
    assert again["uniform_inertia"] == found["uniform_inertia"] != other["uniform_inertia"]
    assert torch.equal(again["centers"], centers)


# A few-shot teacher ---------------------------------------------------------------------------------------------------


def test_prototypes_stay_where_they_are_held_and_follow_labels_where_they_are_not() -> None:
    text = torch.eye(4, 2)
    features = torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])  # each nearer to the other class
    labels = torch.tensor([0, 1])
    before = torch.random.get_rng_state()
    free = class_adaptive_prototypes(features, labels, text, constraint_weight=0.0, epochs=60)
    assert torch.equal(torch.random.get_rng_state(), before)
    close(free.norm(dim=0), torch.ones(2), 1e-6)
    assert (features @ free).argmax(1).tolist() == labels.tolist() != (features @ text).argmax(1).tolist()
    held = class_adaptive_prototypes(features, labels, text, constraint_weight=50.0, epochs=60)
    assert (held - text).norm() < 0.5 * (free - text).norm()
    right = text.T.clone()
    kept = class_adaptive_prototypes(right, labels, text, epochs=3)  # nothing to correct
    close(kept, text, 1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(2, 3)}, r"features must be \(M, D\)"),
        ({"labels": torch.tensor([0, 2])}, "labels must be in"),
        ({"constraint_weight": -1.0}, "constraint_weight must be"),
        ({"lr": 0.0}, "lr must be"),
        ({"epochs": 0}, "epochs of stage"),
        ({"logit_scale": 0.0}, "logit_scale must be"),
    ],
)
def test_wrong_prototypes_are_refused(change: dict[str, Any], message: str) -> None:
    given_ = {"features": torch.ones(2, 4), "labels": torch.tensor([0, 1]), "text_weights": torch.eye(4, 2)}
    with pytest.raises(ValueError, match=message):
        class_adaptive_prototypes(**(given_ | change))


# The loop -------------------------------------------------------------------------------------------------------------


def blobs(n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three classes of 1 x 8 x 8 images: rows, columns, or all of it bright."""
    y = torch.arange(n) % 3
    x = 0.2 * torch.rand(n, 1, 8, 8, generator=generator(seed))
    x[y == 0, :, ::2] += 0.7
    x[y == 1, :, :, ::2] += 0.7
    x[y == 2] += 0.7
    return x.clamp(max=1), y


class Knows(nn.Module):
    """A teacher that sees where the brightness changes."""

    def forward(self, x: Tensor) -> Tensor:
        down, across = (x.diff(dim=d).abs().mean((1, 2, 3)) for d in (2, 3))
        return 20 * torch.stack([down, across, torch.full_like(down, 0.35)], 1)


def student() -> nn.Module:
    backbone = ConvNet((6,), 3)
    backbone.head = nn.Identity()  # type: ignore[assignment]
    return DualHeadStudent(backbone, 6, 3)


def loop(**change: Any) -> ActiveKD:
    options: dict[str, Any] = {"budget": 4, "rounds": 3, "steps_per_round": 6, "generator": generator(3)}
    factory, teacher = change.pop("student_factory", student), change.pop("teacher", Knows())
    return ActiveKD(factory, teacher, **(options | change))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rounds_buy_what_they_ask_for_and_nothing_else(strategy: str) -> None:
    (x, y), (tx, ty) = blobs(), blobs(30, 1)
    oracle = LabelOracle(y)
    told: list[tuple[int, int]] = []
    before = torch.random.get_rng_state()
    history = loop(strategy=strategy).run(x, oracle, tx, ty, progress=lambda done, of, _: told.append((done, of)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [len(i) for i in history.labeled] == [3, 7, 11] and [len(i) for i in history.queried] == [4, 4, 0]
    assert sorted(y[history.labeled[0]].tolist()) == [0, 1, 2]
    assert oracle.queries == 11 == int(oracle.is_known.sum())
    for k in range(2):
        assert torch.equal(history.labeled[k + 1], torch.cat([history.labeled[k], history.queried[k]]))
    bought = history.labeled[-1]
    assert len(bought.unique()) == 11 and oracle.is_known[bought].all()
    unasked = (~oracle.is_known).nonzero().flatten()
    with pytest.raises(RuntimeError, match="a label was read that nobody asked for"):
        oracle[unasked[0]]
    assert told == [(1, 3), (2, 3), (3, 3)] and len(history.accuracy) == len(history.coverage_radius) == 3
    assert history.aulc == pytest.approx(np.mean(history.accuracy)) and not history.stopped
    p = history.probabilities[0]
    close(p.sum(1), torch.ones(60), 1e-5)
    close(history.coverage_radius[0], (p[:, None] - p[history.labeled[1]]).norm(dim=2).amin(1).max(), 1e-5)


def test_labels_that_were_not_bought_change_nothing() -> None:
    x, y = blobs()
    first = loop().run(x, LabelOracle(y), *blobs(30, 1))

    class Poisoned(LabelOracle):
        def start(self, per_class: int, generator: torch.Generator | None = None) -> Tensor:
            chosen = super().start(per_class, generator)
            kept = torch.zeros(len(y), dtype=torch.bool)
            kept[first.labeled[-1]] = True
            self._labels = torch.where(kept, self._labels, (self._labels + 1) % 3)
            return chosen

    second = loop().run(x, Poisoned(y), *blobs(30, 1))
    assert first.student is not None and second.student is not None
    assert torch.equal(first.labeled[-1], second.labeled[-1]) and first.accuracy == second.accuracy
    assert state_hash(first.student) == state_hash(second.student)


def test_strategies_begin_with_the_same_labels_and_student() -> None:
    x, y = blobs()
    first, second = (loop(strategy=s).run(x, y, *blobs(30, 1)) for s in ("random", "pcoreset"))
    assert torch.equal(first.labeled[0], second.labeled[0])
    assert torch.equal(first.probabilities[0], second.probabilities[0])
    assert not torch.equal(first.queried[0], second.queried[0])
    bought = pcoreset_select(*(second.probabilities[0][i] for i in (rest(60, second.labeled[0]), second.labeled[0])), 4)
    assert torch.equal(second.queried[0], rest(60, second.labeled[0])[bought])


def rest(n: int, taken: Tensor) -> Tensor:
    return torch.tensor([i for i in range(n) if i not in taken.tolist()])


def test_students_learn_from_the_teacher_and_without_it_from_labels_alone() -> None:
    x, y = blobs(150)
    taught = loop(steps_per_round=60, rounds=1, lr=1e-2).run(x, y, *blobs(30, 1))
    assert taught.accuracy[0] > 0.9
    learner = loop(teacher=None, use_kd=False, rounds=2, strategy="uncertainty")
    history = learner.run(x, y, *blobs(30, 1))
    assert history.student is not None and len(history.accuracy) == 2
    with torch.no_grad():
        ce = history.student(x)[0].softmax(1)
    close(history.probabilities[-1], ce, 1e-5)
    # the head that nobody taught is as it was made
    torch.manual_seed(int(torch.randint(2**31, (2,), generator=generator(3))[-1]))
    assert torch.equal(history.student.kd_head.weight, student().kd_head.weight)  # type: ignore[union-attr]


def test_another_student_gets_two_heads_and_a_teacher_can_be_adapted() -> None:
    x, y = blobs()
    seen: list[int] = []

    def adapt(teacher: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
        assert isinstance(teacher, Knows) and torch.equal(Knows()(images).argmax(1), labels)
        seen.append(len(labels))
        return teacher

    history = loop(student_factory=lambda: ConvNet((6,), 3), adapt_teacher=adapt, rounds=2).run(x, y, *blobs(30, 1))
    assert seen == [3, 7] and isinstance(history.student, DualHeadStudent)
    plain = loop(student_factory=lambda: ConvNet((6,), 3), use_kd=False, teacher=None, rounds=1)
    assert isinstance(plain.run(x, y, *blobs(30, 1)).student, DualHeadStudent)


def test_the_pool_may_run_out_and_a_run_may_be_stopped() -> None:
    x, y = blobs(12)
    history = loop(budget=6, rounds=5).run(x, y, *blobs(30, 1))
    assert [len(i) for i in history.labeled] == [3, 9, 12] and [len(i) for i in history.queried] == [6, 3, 0]
    assert history.coverage_radius[-1] == 0
    stop = threading.Event()
    stopped = loop().run(x, y, *blobs(30, 1), progress=lambda *_: stop.set(), stop=stop)
    assert stopped.stopped and len(stopped.accuracy) == 1


@pytest.mark.parametrize("strategy", ["pcoreset", "random", "classbalanced"])
@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_selection_goes_on_with_equal_picks(tmp_path: Path, strategy: str, after: int) -> None:
    x, y = blobs()
    whole = loop(strategy=strategy, rounds=3).run(x, y, *blobs(30, 1))
    stop = threading.Event()
    part = loop(strategy=strategy, rounds=3).run(
        x, y, *blobs(30, 1), checkpoint_dir=tmp_path, stop=stop,
        progress=lambda done, *_: stop.set() if done == after else None,
    )  # fmt: skip
    assert part.stopped and len(part.accuracy) == after
    trained: list[int] = []
    oracle = LabelOracle(y)
    rest = loop(strategy=strategy, rounds=3).run(
        x, oracle, *blobs(30, 1), checkpoint_dir=tmp_path, progress=lambda done, *_: trained.append(done)
    )
    assert trained == list(range(after + 1, 4)) and not rest.stopped
    for name in ("labeled", "queried", "probabilities"):
        assert all(map(torch.equal, getattr(rest, name), getattr(whole, name))), name
    assert rest.accuracy == whole.accuracy and rest.coverage_radius == whole.coverage_radius
    assert oracle.queries == len(whole.labeled[-1])
    assert rest.student is not None and whole.student is not None
    assert all(torch.equal(v, whole.student.state_dict()[k]) for k, v in rest.student.state_dict().items())
    again = loop(strategy=strategy, rounds=3).run(
        x, y, *blobs(30, 1), checkpoint_dir=tmp_path, progress=lambda *_: pytest.fail("nothing is left to train")
    )
    assert again.student is not None and again.accuracy == whole.accuracy
    assert all(torch.equal(v, whole.student.state_dict()[k]) for k, v in again.student.state_dict().items())


def test_a_damaged_checkpoint_costs_a_round_and_another_run_is_refused(tmp_path: Path) -> None:
    x, y = blobs()
    whole = loop(rounds=3).run(x, y, *blobs(30, 1), checkpoint_dir=tmp_path)
    newest = max(tmp_path.glob("step-*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="Going on from"):
        again = loop(rounds=3).run(x, y, *blobs(30, 1), checkpoint_dir=tmp_path)
    assert all(map(torch.equal, again.queried, whole.queried))
    with pytest.raises(ValueError, match=r"belongs to another run: strategy 'pcoreset', now 'random'"):
        loop(rounds=3, strategy="random").run(x, y, *blobs(30, 1), checkpoint_dir=tmp_path)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield find_study("pcoreset").run(seeds=2, epochs=1, rounds=2)


def test_the_study_runs(comparison: Any) -> None:
    study = find_study("pcoreset")
    assert comparison.arms == (PLAIN, *STRATEGY_OF, NEAREST) and len(comparison.records) == 16
    verdicts = study.verdicts(comparison)
    assert len(verdicts) == 3 and all(v.claim.text.startswith("pool of 900") for v in verdicts)
    first, second = (comparison.students[arm, 0].history for arm in (PCORESET, RANDOM))
    assert first.accuracy[0] == second.accuracy[0] and first.coverage_radius[0] < second.coverage_radius[0]
    assert (comparison.values(PCORESET, "radius") < comparison.values(RANDOM, "radius")).all()
    assert (comparison.values(NEAREST, "radius") > comparison.values(RANDOM, "radius")).all()
    assert [(c.control, c.of, c.on) for c in comparison.check_controls()] == [
        (NEAREST, PCORESET, "aulc"), (NEAREST, PCORESET, "covered"),
    ]  # fmt: skip
    for name in comparison.arms:
        learner, task = comparison.students[name, 1], comparison.tasks[1]
        assert learner.history.accuracy[-1] == pytest.approx(comparison.values(name)[1])
        assert aulc(learner, task) == pytest.approx(np.mean(learner.history.accuracy))
        assert radius(learner, task) == pytest.approx(learner.history.coverage_radius[0])
        assert covered(learner, task) == pytest.approx(1 - learner.history.coverage_radius[0] / 2**0.5)


# Borders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "change", "message"),
    [
        ("pcoreset", {"budget": 0}, "budget must be an integer of at least 1, got 0"),
        ("pcoresett", {}, "strategy must be one of 'random', .*Did you mean 'pcoreset'"),
        ("pcoreset", {"labeled_probabilities": None}, "strategy 'pcoreset' needs labeled_probabilities"),
        ("pcoreset", {"labeled_probabilities": simplex(2, 4)}, "the same width"),
        ("pcoreset", {"labeled_probabilities": torch.ones(2, 3)}, "labeled_probabilities must hold probabilities"),
        ("coreset", {}, "strategy 'coreset' needs pool_features and labeled_features"),
        ("coreset", {"pool_features": torch.ones(5, 2), "labeled_features": torch.ones(2, 3)}, "the same width"),
        ("badge", {}, "strategy 'badge' needs pool_features"),
        ("badge", {"pool_features": torch.ones(4, 2)}, r"pool_features must be \(5, D\)"),
        ("badge", {"pool_features": torch.ones(5, 2), "first_index": 5}, "first_index must be in"),
        ("classbalanced", {}, "strategy 'classbalanced' needs labels"),
        ("classbalanced", {"labels": torch.tensor([0, 3])}, r"labels must be in \[0, 3\)"),
        ("random", {"pool_probabilities": torch.full((5, 3), 0.3)}, "sum to 1 within 1e-4"),
        ("random", {"pool_probabilities": torch.tensor([[1.5, -0.5]])}, "not negative"),
        ("random", {"pool_probabilities": torch.tensor([[math.nan, 1.0]])}, "finite"),
        ("random", {"pool_probabilities": torch.ones(3)}, r"must be floating \(N, C\)"),
        ("random", {"pool_probabilities": torch.ones(0, 3)}, "N >= 1"),
    ],
)
def test_wrong_queries_are_refused(strategy: str, change: dict[str, Any], message: str) -> None:
    given_ = {"pool_probabilities": simplex(5, 3), "labeled_probabilities": simplex(2, 3, 1), "budget": 2}
    with pytest.raises(ValueError, match=message):
        select_queries(strategy, **(given_ | change))


def test_more_than_the_pool_holds_is_all_of_it() -> None:
    for strategy in STRATEGIES:
        with pytest.warns(UserWarning, match="budget is 9, but the pool has 5"):
            asked = select_queries(
                strategy,
                pool_probabilities=simplex(5, 3),
                labeled_probabilities=simplex(2, 3, 1),
                pool_features=torch.randn(5, 2, generator=generator()),
                labeled_features=torch.randn(2, 2, generator=generator()),
                labels=torch.tensor([0, 1]),
                budget=9,
            )
        assert sorted(asked.tolist()) == [0, 1, 2, 3, 4]
    with pytest.warns(UserWarning, match="budget is 9"):
        assert len(pcoreset_select(simplex(5, 3), simplex(2, 3), 9)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "x"}, "strategy must be one of"),
        ({"budget": 0}, "budget must be at least 1"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"initial_per_class": 0}, "initial_per_class must be at least 1"),
        ({"steps_per_round": 0}, "steps_per_round must be at least 1"),
        ({"temperature": 0.0}, "temperature must be"),
        ({"teacher": None}, "nothing to distil from"),
    ],
)
def test_wrong_loops_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loop(**change)


def test_wrong_data_are_refused() -> None:
    x, y = blobs()
    with pytest.raises(ValueError, match="images and labels must hold the same samples, got 60 and 59"):
        loop().run(x, y[:-1], x, y)
    with pytest.raises(ValueError, match=r"initial_per_class is 21, but classes have \[20, 20, 20\]"):
        loop(initial_per_class=21).run(x, y, x, y)
    with pytest.raises(ValueError, match="probabilities"):
        prediction_bias(torch.ones(2, 2), num_clusters=1)
    with pytest.raises(ValueError, match="num_clusters must be in"):
        prediction_bias(simplex(2, 2), num_clusters=3)


def test_wrong_counts_labels_and_empty_data_are_named() -> None:
    (x, y), (tx, ty) = blobs(), blobs(30, 1)
    with pytest.raises(ValueError, match=r"budget must be an integer of at least 1, got 1\.5"):
        pcoreset_select(POOL, LABELED, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be empty, got 0 and 30"):
        loop().run(x[:0], y[:0], tx, ty)
    with pytest.raises(ValueError, match="must not be empty, got 60 and 0"):
        loop().run(x, y, tx[:0], ty[:0])
    classes = student()(x[:2])[0].shape[1]
    with pytest.raises(ValueError, match=rf"labels must be in \[0, {classes}\).* got {classes}"):
        loop().run(x, torch.arange(len(y)) % (classes + 1), tx, ty)


def test_a_run_stopped_in_its_first_round_has_no_mean_accuracy() -> None:
    (x, y), (tx, ty) = blobs(), blobs(30, 1)
    stop = threading.Event()
    stop.set()
    history = loop().run(x, y, tx, ty, stop=stop)
    assert history.stopped and not history.accuracy and math.isnan(history.aulc)
