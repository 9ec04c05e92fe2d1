"""The engine: stages, players and optimizers of any training, by the promises of :mod:`kdcore.engine`."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.trainings import Bilevel, Chapters, Growing, Peers, batches, net
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore.checkpoints import list_checkpoints, load_checkpoint, state_hash
from kdcore.engine import Epoch, Learn, NonFiniteLossError, Run, Stage, Step, Training, fit
from kdcore.inputs import Paired


def events(training: Training, **options: Any) -> list[Step | Epoch]:
    return list(Run(training, accelerator="cpu", **options).run())


class One(Training):
    """A student on labels; whatever a test wants changed is an argument."""

    def __init__(self, data: Any, *, student: nn.Module | None = None, learn: Any = None, **stage: Any) -> None:
        super().__init__()
        self.student, self.data = student or net(0), data
        self.learn, self.stage_options = learn or Learn(players=("student",)), stage

    def stages(self) -> Iterator[Stage]:
        yield Stage(**{"name": "one", "data": self.data, "step": self.step, "learn": self.learn} | self.stage_options)

    def step(self, batch: Any, run: Run) -> Any:
        x, y = batch
        return {"ce": F.cross_entropy(self.student(x), y)}


def test_the_same_as_a_hand_written_loop() -> None:
    training, expected = One(batches(), epochs=3, student=net(0, dropout=0.0)), net(0, dropout=0.0)
    fit(training, accelerator="cpu")
    optimizer = torch.optim.AdamW(expected.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    for _ in range(3):
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(expected(x), y).backward()
            optimizer.step()
            schedule.step()
    for ours, theirs in zip(training.student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_stages_follow_each_other_and_events_name_them() -> None:
    training = Chapters()
    seen = events(training)
    steps = [e for e in seen if isinstance(e, Step)]
    assert [(s.stage, s.epoch, s.step) for s in steps] == [
        *(("body", e, 1 + 3 * e + i) for e in range(2) for i in range(3)),
        *(("head", i // 3, 7 + i) for i in range(4)),
        *(("both", e, 11 + 3 * e + i) for e in range(2) for i in range(3)),
    ]
    epochs = [e for e in seen if isinstance(e, Epoch)]
    assert [e.stage for e in epochs] == ["body", "body", "head", "head", "both", "both"]
    assert all(math.fsum(s.terms.values()) == s.loss for s in steps)


def test_what_does_not_learn_in_a_stage_is_frozen_and_in_eval_mode() -> None:
    training, seen = Chapters(), {}

    def look(event: object) -> None:
        if isinstance(event, Step) and event.stage not in seen:
            seen[event.stage] = {
                n: (m.training, any(p.requires_grad for p in m.parameters())) for n, m in training.named_children()
            }

    hashes = {}
    for event in Run(training, accelerator="cpu", callbacks=[look]).run():
        if isinstance(event, Epoch):
            hashes[event.stage] = (state_hash(training.body), state_hash(training.head))
    assert seen["body"] == {"body": (True, True), "head": (False, False)}
    assert seen["head"] == {"body": (False, False), "head": (True, True)}
    assert seen["both"] == {"body": (True, True), "head": (True, True)}
    assert hashes["body"][0] == hashes["head"][0] and hashes["body"][1] != hashes["head"][1]
    assert hashes["both"][0] != hashes["head"][0]
    assert all(p.requires_grad for p in training.parameters()) and not training.body.training


def test_a_player_that_the_user_froze_stays_frozen() -> None:
    student = net(0)
    student[1].weight.requires_grad_(False)
    before = student[1].weight.clone()
    fit(One(batches(), student=student), accelerator="cpu")
    assert torch.equal(student[1].weight, before) and not student[1].weight.requires_grad


def test_parts_may_be_born_between_stages(tmp_path: Path) -> None:
    training = Growing()
    result = fit(training, accelerator="cpu", checkpoint_dir=tmp_path)
    assert len(training.masks) == 2 and result.steps == 3 + 3
    players = load_checkpoint(tmp_path)["players"]
    assert {n.split(".")[0] for n in players} == {"student", "masks"}  # nothing of the teacher
    assert result.student is training.student and result.training is training


def test_the_teacher_gets_no_gradient_and_is_as_it_was() -> None:
    training = Growing()
    training.teacher.train()
    before = state_hash(training.teacher)
    flags = []

    def look(event: object) -> None:
        flags.append((training.teacher.training, any(p.requires_grad for p in training.teacher.parameters())))

    fit(training, accelerator="cpu", callbacks=[look])
    assert set(flags) == {(False, False)} and state_hash(training.teacher) == before
    assert training.teacher.training and all(p.requires_grad and p.grad is None for p in training.teacher.parameters())


# Several optimizers ---------------------------------------------------------------------------------------------------


def test_minimize_moves_only_its_own_players() -> None:
    training = Peers(batches())
    order: list[tuple[str, str]] = []

    def step(batch: Any, run: Run) -> None:
        x, y = batch
        for name in ("left", "right"):
            before = {n: state_hash(getattr(training, n)) for n in ("left", "right")}
            loss = F.cross_entropy(training.left(x), y) + F.cross_entropy(training.right(x), y)
            run.minimize({name: loss}, name)
            moved = [n for n in before if state_hash(getattr(training, n)) != before[n]]
            order.append((name, "+".join(moved)))
            assert all(p.grad is None for p in training.parameters())

    training.step = step  # type: ignore[method-assign]
    seen = events(training)
    assert set(order) == {("left", "left"), ("right", "right")}
    assert isinstance(seen[0], Step) and list(seen[0].terms) == ["left", "right"]


def test_one_backward_can_move_several_optimizers() -> None:
    one, two = Peers(batches()), Peers(batches())

    def joint(batch: Any, run: Run) -> None:
        x, y = batch
        run.minimize({"sum": F.cross_entropy(one.left(x), y) + F.cross_entropy(one.right(x), y)}, "left", "right")

    one.step = joint  # type: ignore[method-assign]
    fit(one, accelerator="cpu")
    fit(two, accelerator="cpu")
    assert state_hash(one.left) == state_hash(two.left) and state_hash(one.right) == state_hash(two.right)


def test_terms_and_minimize_may_be_mixed() -> None:
    """A bilevel step, checked against the same step written by hand."""
    training = Bilevel()
    student, weight = net(1, dropout=0.0), torch.nn.Parameter(torch.zeros(2))
    (step, *_) = events(training, precision="32-true")
    assert isinstance(step, Step) and set(step.terms) == {"val", "train"}
    main, outer = torch.optim.SGD(student.parameters(), lr=0.1), torch.optim.Adam([weight], lr=0.05)
    (x, y), (xv, yv) = next(iter(Paired(batches(), batches(seed=9))))

    def inner() -> Tensor:
        return (weight.softmax(0) * torch.stack([F.cross_entropy(student(x), y), student(x).square().mean()])).sum()

    grads = torch.autograd.grad(inner(), list(student.parameters()), create_graph=True)
    virtual = {n: p - 0.1 * g for (n, p), g in zip(student.named_parameters(), grads, strict=True)}
    val = F.cross_entropy(torch.func.functional_call(student, virtual, (xv,)), yv)
    (weight.grad,) = torch.autograd.grad(val, [weight])
    outer.step()
    loss = inner()
    main.zero_grad()
    loss.backward()
    main.step()
    assert step.terms["val"] == pytest.approx(val.item(), rel=1e-6)
    assert step.terms["train"] == pytest.approx(loss.item(), rel=1e-6)


def test_an_optimizer_can_live_on_into_the_next_stage() -> None:
    class Two(One):
        def stages(self) -> Iterator[Stage]:
            for number in range(2):
                learn = Learn(players=("student",), scheduler="constant", keep=self.stage_options["keep"])
                yield Stage(name=f"task {number}", data=self.data, step=self.step, learn=learn)

    class Whole(One):
        def stages(self) -> Iterator[Stage]:
            learn = Learn(players=("student",), scheduler="constant")
            yield Stage(name="all", data=self.data, step=self.step, learn=learn, epochs=2)

    hashes = {}
    for name, training in (
        ("keep", Two(batches(), keep=True)),
        ("drop", Two(batches(), keep=False)),
        ("whole", Whole(batches())),
    ):
        hashes[name] = state_hash(fit(training, accelerator="cpu").student)
    assert hashes["keep"] == hashes["whole"] != hashes["drop"]


# What a step may ask --------------------------------------------------------------------------------------------------


def test_log_show_and_after() -> None:
    training, done = One(batches()), []

    def step(batch: Any, run: Run) -> Any:
        x, y = batch
        run.log(count=len(y), mean=x.mean())
        run.show(inputs=x)
        before = state_hash(training.student)
        run.after(lambda: done.append(state_hash(training.student) != before and not torch.is_grad_enabled()))
        return {"ce": F.cross_entropy(training.student(x), y)}

    training.stage_options["step"] = step
    run = Run(training, accelerator="cpu")
    seen = list(run.run())
    steps = [e for e in seen if isinstance(e, Step)]
    sizes = [len(y) for _, y in batches()]
    assert [s.logged["count"] for s in steps] == sizes and done == [True] * 3
    assert isinstance(seen[-1], Epoch)
    weighted = sum(n * s.logged["mean"] for n, s in zip(sizes, steps, strict=True)) / sum(sizes)
    assert seen[-1].logged["mean"] == pytest.approx(weighted)
    assert torch.equal(run.shown["inputs"], list(batches())[-1][0]) and not run.shown["inputs"].requires_grad


def test_progress_and_numbers_of_a_stage() -> None:
    seen: list[tuple[int, int, float]] = []
    training = One(batches(), epochs=2)

    def step(batch: Any, run: Run) -> Any:
        seen.append((run.epoch, run.step, run.progress))
        return One.step(training, batch, run)

    training.stage_options["step"] = step
    fit(training, accelerator="cpu")
    assert seen == [(i // 3, i, i / 6) for i in range(6)]


def test_accumulation_is_one_large_batch() -> None:
    x, y = next(iter(DataLoader(TensorDataset(*batches().dataset.tensors), 26)))
    parts = [(x[:10], y[:10]), (x[10:], y[10:])]
    several = fit(One(parts), accumulate=2, accelerator="cpu").student
    whole = fit(One([(x, y)]), accelerator="cpu").student
    for ours, theirs in zip(several.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


# Data -----------------------------------------------------------------------------------------------------------------


def test_a_stream_without_length_ends_after_its_steps() -> None:
    def forever() -> Iterator[Any]:
        while True:
            yield from batches()

    class Stream:
        def __iter__(self) -> Iterator[Any]:
            return forever()

    result = fit(One(Stream(), steps=7), accelerator="cpu")
    assert result.steps == 7 and len(result.history) == 1 and not result.stopped
    with pytest.raises(
        ValueError, match=r"not known for data without a length: give steps=... or scheduler='constant'"
    ):
        fit(One(Stream()), accelerator="cpu")


def test_finite_data_is_gone_through_again_until_the_steps_are_done() -> None:
    result = fit(One(batches(), steps=7), accelerator="cpu")
    assert result.steps == 7 and [e.step for e in result.history] == [3, 6, 7]


def test_data_may_be_chosen_at_every_epoch() -> None:
    asked: list[int] = []

    def choose(run: Run) -> Any:
        asked.append(run.epoch)
        return list(batches())[: run.epoch + 1]

    training = One(choose, epochs=3, learn=Learn(players=("student",), scheduler="constant"))
    result = fit(training, accelerator="cpu")
    assert asked == [0, 1, 2] and [e.step for e in result.history] == [1, 3, 6]


def test_a_pair_of_streams_cycles_the_shorter() -> None:
    assert list(Paired([1, 2, 3, 4, 5], "ab")) == [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a")]
    assert len(Paired([1, 2, 3], "ab")) == 3
    with pytest.raises(ValueError, match="second stream of a pair is empty"):
        list(Paired([1], []))


# The best epoch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("higher", "best"), [(True, 1), (False, 2)])
def test_the_best_epoch_follows_the_direction(higher: bool, best: int) -> None:
    values = iter([2.0, 3.0, 1.0, 2.0])
    hashes = []
    training = One(
        batches(), epochs=4, evaluate=lambda: {"score": next(values)}, watch="score", higher_is_better=higher
    )
    run = Run(training, accelerator="cpu")
    for event in run.run():
        if isinstance(event, Epoch):
            hashes.append(state_hash(training.student))
            assert event.higher_is_better is higher
    result = run.result()
    assert (result.best_epoch, result.best_metric, result.last_metric) == (best, 3.0 if higher else 1.0, 2.0)
    assert [e.is_best for e in result.history] == ([True, True, False, False] if higher else [True, False, True, False])
    result.load_best()
    assert state_hash(training.student) == hashes[best]


# Going on -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Chapters, Growing, Bilevel], ids=lambda c: c.__name__)
def test_stopped_at_any_step_and_resumed_ends_in_the_same_bits(make: type[Training], tmp_path: Path) -> None:
    whole = make()
    history = fit(whole, accelerator="cpu").history
    steps = history[-1].step
    for at in range(1, steps + 1):
        folder, stop = tmp_path / str(at), threading.Event()

        def halt(event: object, at: int = at, stop: threading.Event = stop) -> None:
            if isinstance(event, Step) and event.step == at:
                stop.set()

        first = fit(make(), accelerator="cpu", checkpoint_dir=folder, stop=stop, callbacks=[halt])
        assert first.stopped and first.steps == at
        again = make()
        second = fit(again, accelerator="cpu", checkpoint_dir=folder, resume=True)
        assert not second.stopped
        assert {k: state_hash(m) for k, m in again.named_children()} == {
            k: state_hash(m) for k, m in whole.named_children()
        }, f"stopped after step {at}"
        assert [(e.stage, e.step, e.terms, e.lr) for e in second.history] == [
            (e.stage, e.step, e.terms, e.lr) for e in history
        ]


def test_another_training_is_not_continued(tmp_path: Path) -> None:
    fit(Growing(), accelerator="cpu", checkpoint_dir=tmp_path)
    other = Growing()
    with torch.no_grad():
        other.teacher[1].weight.add_(1)
    with pytest.raises(ValueError, match=r"differs in weights of teacher"):
        fit(other, accelerator="cpu", checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"differs in .*training.*Growing.*Chapters"):
        fit(Chapters(), accelerator="cpu", checkpoint_dir=tmp_path, resume=True)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_non_finite_terms_name_stage_term_step_and_batch(tmp_path: Path) -> None:
    training = Growing(bad_at=4)
    with pytest.raises(
        NonFiniteLossError, match=r"'mask1' is nan in stage 'masks', epoch 0, step 4, batch 1"
    ) as caught:
        fit(training, accelerator="cpu", checkpoint_dir=tmp_path)
    assert (caught.value.stage, caught.value.term, caught.value.step) == ("masks", "mask1", 4)
    assert caught.value.checkpoint == list_checkpoints(tmp_path)[0]


class Nothing(One):
    def step(self, batch: Any, run: Run) -> Any:
        return None


class Vector(One):
    def step(self, batch: Any, run: Run) -> Any:
        return {"v": self.student(batch[0]).sum(1)}


class Twice(One):
    def step(self, batch: Any, run: Run) -> Any:
        loss = self.student(batch[0]).square().mean()
        run.minimize({"a": loss})
        return {"a": self.student(batch[0]).square().mean()}


class Elsewhere(One):
    def step(self, batch: Any, run: Run) -> Any:
        run.minimize({"a": self.student(batch[0]).square().mean()}, "outer")


class Unnamed(Training):
    def stages(self) -> Iterator[Stage]:
        raise AssertionError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Nothing(batches()), "step of stage 'one' neither returned terms nor called run.minimize"),
        (lambda: Vector(batches()), r"term 'v' must be a scalar tensor, got float32 \(10,\)"),
        (lambda: Twice(batches()), "two terms of one step are called 'a'"),
        (lambda: Elsewhere(batches()), "stage 'one' has no optimizer 'outer'; it has main"),
        (lambda: One([]), "data of stage 'one' gave no batch"),
        (lambda: One(batches(), learn=Learn(players=("pupil",))), "no player 'pupil' in stage 'one'; .* has student"),
        (
            lambda: One(batches(), learn={"a": Learn(players=("student",)), "b": Learn(players=("student.1",))}),
            r"student.1.weight is in two optimizers in stage 'one': 'a' and 'b'",
        ),
        (
            lambda: One(batches(), evaluate=lambda: {"f1": 1.0}, watch="accuracy"),
            "watch='accuracy' is not among what evaluate gave of stage 'one': f1",
        ),
        (lambda: One(batches(), student=nn.Flatten()), "nothing to train: no parameter of the student"),
        (lambda: Stage(name="x", data=[], step=One.step, learn={}), "stage 'x' must say who learns"),
        (lambda: Learn(players=()), "players must be a tuple"),
        (lambda: Learn(players=("a",), lr=-1.0), "lr must be"),
        (
            lambda: One(
                batches(),
                learn=Learn(players=("student",), scheduler=lambda o, n: torch.optim.lr_scheduler.ReduceLROnPlateau(o)),
            ),
            "ReduceLROnPlateau, which waits for a metric",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(make(), accelerator="cpu")


def test_teachers_cannot_learn_and_minimize_cannot_accumulate() -> None:
    class Leaks(Growing):
        def stages(self) -> Iterator[Stage]:
            for stage in super().stages():
                yield Stage(**vars(stage) | {"learn": Learn(players=("teacher",))})
                return

    with pytest.raises(ValueError, match="player 'teacher' is frozen"):
        fit(Leaks(), accelerator="cpu")
    with pytest.raises(ValueError, match=r"run.minimize, which cannot accumulate"):
        fit(Bilevel(), accelerator="cpu", accumulate=2)
    with pytest.raises(TypeError, match=r"training must be a kdcore.engine.Training"):
        fit(nn.Linear(1, 1))  # type: ignore[arg-type]
    run = Run(One(batches()))
    with pytest.raises(RuntimeError, match="nothing was trained yet"):
        run.result()


def test_break_off_restores_everything() -> None:
    training = Growing()
    for event in Run(training, accelerator="cpu").run():
        if event.step == 4:
            break
    assert all(p.requires_grad for p in training.parameters()) and training.teacher.training
