"""The training loop: events, equivalences, isolation of the teacher, and what it refuses."""

from __future__ import annotations

import copy
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from kdcore.card import Knob
from kdcore.checkpoints import CheckpointError, list_checkpoints, load_checkpoint, state_hash
from kdcore.distiller import Distiller, Epoch, NonFiniteLossError, Step, accuracy, distill, evaluate
from kdcore.inputs import Batch, Normalize
from kdcore.method import CrossEntropy, Method, Needs, Signals, TrainingOutputs, ce_weight_knob
from kdcore.registry import create_method
from kdcore.taps import TapError


class Mimic(Method):
    """Mean squared distance of logits."""

    card, name, label, knobs = CrossEntropy.card, "mimic", "mimic", (Knob("weight", 1.0), ce_weight_knob(0.5))

    def terms(self, s: Signals) -> dict[str, Tensor]:
        assert s.teacher_logits is not None
        return {self.name: self.knob.weight * (s.student_logits - s.teacher_logits).square().mean()}


class Hint(Method):
    """Feature regression through a learnt projector, with its own learning rate."""

    card, name, label, knobs = CrossEntropy.card, "hint", "hint", ()
    needs = Needs(teacher_logits=False)
    student_taps, teacher_taps = ("1",), ("1",)

    def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
        self.adapt = nn.Linear(student[1].out_features, teacher[1].out_features)  # type: ignore[index]
        self.register_buffer("steps", torch.zeros(()))

    def terms(self, s: Signals) -> dict[str, Tensor]:
        assert s.teacher_logits is None and not s.teacher_features["1"].requires_grad
        return {"hint": (self.adapt(s.student_features["1"]) - s.teacher_features["1"]).square().mean()}

    def on_step_end(self, s: Signals) -> None:
        self.steps += 1

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.adapt.parameters()), "lr": 0.05}]


def net(width: int, *, seed: int = 0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = nn.BatchNorm1d(width) if norm else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), middle, nn.ReLU(inplace=True), nn.Linear(width, 3))


def dataset(n: int = 40) -> TensorDataset:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 4, 4, generator=g)
    return TensorDataset(x, (x.flatten(1)[:, :3]).argmax(1))


def loader(n: int = 40, batch: int = 8, **options: Any) -> DataLoader:
    return DataLoader(dataset(n), batch, **({"shuffle": True} | options))


def train(student: nn.Module, method: Any = None, data: Any = None, teacher: Any = 0, **options: Any) -> Any:
    teacher = net(8, seed=1) if teacher == 0 else teacher
    return distill(
        teacher,
        student,
        method if method is not None else Mimic(),
        data if data is not None else loader(),
        **({"epochs": 2, "accelerator": "cpu"} | options),
    )


def test_events_are_consistent() -> None:
    called: list[Any] = []
    distiller = Distiller(
        net(8, seed=1),
        net(4),
        Mimic(),
        loader(20),
        loader(20),
        epochs=2,
        lr=0.1,
        accelerator="cpu",
        callbacks=[called.append],
    )
    events = list(distiller.run())
    assert events == called
    assert [type(e) for e in events] == [Step, Step, Step, Epoch] * 2
    steps = [e for e in events if isinstance(e, Step)]
    epochs = [e for e in events if isinstance(e, Epoch)]
    assert [s.step for s in steps] == list(range(1, 7)) and [e.step for e in epochs] == [3, 6]
    assert [s.teacher_forwards for s in steps] == [8, 16, 20, 28, 36, 40]
    assert steps[0].lr == 0.1 and steps[-1].lr == pytest.approx(0.1 * 0.0669873, rel=1e-5)  # (1 + cos(5 pi / 6)) / 2
    for s in steps:
        assert set(s.terms) == {"mimic", "ce"} and s.loss == pytest.approx(sum(s.terms.values()))
        assert s.grad_norm > 0 and s.samples_per_second > 0
    for e, part in zip(epochs, (steps[:3], steps[3:]), strict=True):
        for name in e.terms:  # batches of 8, 8 and 4
            mean = sum(w * s.terms[name] for w, s in zip((8, 8, 4), part, strict=True)) / 20
            assert e.terms[name] == pytest.approx(mean)
    result = distiller.result()
    assert result.history == epochs and result.steps == 6 and not result.stopped and result.teacher_forwards == 40
    assert result.metric_name == "accuracy" and result.last_metric == epochs[-1].metrics["accuracy"]
    assert result.last_metric == evaluate(result.student, loader(20))["accuracy"]
    best = max(epochs, key=lambda e: (e.metrics["accuracy"], -e.epoch))
    assert (result.best_epoch, result.best_metric) == (best.epoch, best.metrics["accuracy"])
    frame = result.to_dataframe()
    assert list(frame["val/accuracy"]) == [e.metrics["accuracy"] for e in epochs] and "loss/mimic" in frame
    assert "best accuracy" in result._repr_html_() and json.dumps(result.settings)
    with pytest.raises(RuntimeError, match="already"):
        next(iter(distiller.run()))


def test_same_as_a_hand_written_loop() -> None:
    teacher, student = net(8, seed=1), net(4, seed=2)
    reference, data = copy.deepcopy(student), loader(24, 8, shuffle=False)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):
        for x, y in data:
            logits = reference(x)
            loss = (logits - teacher(x).detach()).square().mean() + 0.5 * F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    train(student, Mimic(), data, teacher, optimizer="sgd", lr=0.1, scheduler="constant")
    for mine, theirs in zip(student.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("n", [32, 40, 36])  # whole groups; a short last group; a short last batch in it
def test_accumulation_is_one_large_batch(n: int) -> None:
    small, large = net(4, seed=2), net(4, seed=2)
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1}
    a = train(small, Mimic(), loader(n, 8, shuffle=False), accumulate=2, **options)
    b = train(large, Mimic(), loader(n, 16, shuffle=False), **options)
    assert a.steps == b.steps
    for mine, theirs in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    for x, y in zip(a.history, b.history, strict=True):
        assert x.terms == pytest.approx(y.terms, rel=1e-5)


def test_gradient_norm_and_clipping() -> None:
    student = net(4, seed=2)
    reference, (x, y) = copy.deepcopy(student), next(iter(loader(8, 8, shuffle=False)))
    teacher = net(8, seed=1)
    logits = reference(x)
    ((logits - teacher(x).detach()).square().mean() + 0.5 * F.cross_entropy(logits, y)).backward()
    gradients = [p.grad for p in reference.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    events: list[Any] = []
    before = [p.detach().clone() for p in student.parameters()]
    train(
        student,
        Mimic(),
        loader(8, 8, shuffle=False),
        teacher,
        epochs=1,
        clip_grad=0.01,
        callbacks=[events.append],
        optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0),
    )
    assert events[0].grad_norm == pytest.approx(norm, rel=1e-5) and norm > 0.01
    for p, old, g in zip(student.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(p.detach(), old - g * 0.01 / norm, rtol=1e-4, atol=1e-6)


def test_methods_are_combined_and_ce_comes_from_the_first() -> None:
    events: list[Any] = []
    train(net(4), [Mimic(ce_weight=0.25), Hint()], epochs=1, callbacks=[events.append])
    single: list[Any] = []
    train(net(4), CrossEntropy(), epochs=1, callbacks=[single.append])
    assert set(events[0].terms) == {"mimic", "hint", "ce"}
    assert set(single[0].terms) == {"ce"} and single[0].teacher_forwards == 0
    plain: list[Any] = []
    train(net(4), "ce", teacher=None, epochs=1, ce_weight=0.25, callbacks=[plain.append])
    assert events[0].terms["ce"] == pytest.approx(0.25 * single[0].terms["ce"]) == pytest.approx(plain[0].terms["ce"])

    class Clash(Mimic):
        name = "clash"

        def terms(self, s: Signals) -> dict[str, Tensor]:
            return {"mimic": s.student_logits.sum() * 0}

    with pytest.raises(ValueError, match="two parts of the objective are called 'mimic'"):
        train(net(4), [Mimic(), Clash()])
    with pytest.raises(ValueError, match="given twice"):
        train(net(4), [Mimic(), Mimic()])
    with pytest.raises(ValueError, match="nothing to learn from"):
        train(net(4), "ce", ce_weight=0.0)


def test_learnt_parts_are_trained_but_not_part_of_the_student(tmp_path: Path) -> None:
    method, student = Hint(), net(4)
    torch.manual_seed(0)
    train(student, method, checkpoint_dir=tmp_path)
    trained = method.adapt.weight.detach().clone()
    assert method.steps == 10 and set(student.state_dict()) == set(net(4).state_dict())
    state = load_checkpoint(tmp_path)
    assert torch.equal(state["players"]["methods.0.adapt.weight"], trained)
    assert [g["initial_lr"] for g in state["learners"]["main"]["optimizer"]["param_groups"]] == [1e-3, 0.05]
    fresh = Hint()
    train(net(4), fresh, lr=1e-3, epochs=1)
    assert not torch.equal(fresh.adapt.weight, trained)


@pytest.mark.parametrize("train_mode", [False, True])
def test_the_teacher_is_left_as_it_was(train_mode: bool, tmp_path: Path) -> None:
    teacher, student = net(8, seed=1, norm=True), net(4)
    teacher[2].eval()
    teacher[1].bias.requires_grad_(False)
    before, flags = state_hash(teacher), [m.training for m in teacher.modules()]
    seen: list[bool] = []
    teacher.register_forward_pre_hook(lambda m, _: seen.append(m[2].training))
    result = train(student, Mimic(), teacher=teacher, teacher_train_mode=train_mode, checkpoint_dir=tmp_path)
    assert state_hash(teacher) == before and [m.training for m in teacher.modules()] == flags
    assert set(seen) == {train_mode} and all(p.grad is None for p in teacher.parameters())
    assert teacher[1].weight.requires_grad and not teacher[1].bias.requires_grad
    assert not result.student.training and len(list(student.parameters())) == 4
    assert sum(p.numel() for p in student.parameters()) == sum(v.numel() for v in result.best_state.values())


def test_a_teacher_that_would_leak_is_refused() -> None:
    shared = net(4)
    for student in (shared, nn.Sequential(*shared)):
        with pytest.raises(ValueError, match="share parameters"):
            train(student, teacher=shared)
    teacher = net(8, seed=1)

    class Holder(Mimic):
        def setup(self, student: nn.Module, teacher: nn.Module | None, sample: Tensor) -> None:
            self.teacher = teacher

    with pytest.raises(ValueError, match="holds the teacher"):
        train(net(4), Holder(), teacher=teacher)
    with pytest.raises(ValueError, match="optimizer holds parameters of the teacher"):
        train(net(4), teacher=teacher, optimizer=torch.optim.SGD(teacher.parameters(), lr=0.1))


def test_validation_does_not_change_the_training() -> None:
    with_val, without = net(4, seed=2), net(4, seed=2)
    a = train(with_val, val=DataLoader(dataset(16), 5, shuffle=True))
    b = train(without)
    assert state_hash(with_val) == state_hash(without)
    assert a.best_metric is not None and b.best_metric is None and b.best_epoch == 1 and b.last_metric is None


def test_seed_decides() -> None:
    hashes = []
    for seed in (0, 0, 1):
        student = net(4, seed=2)
        train(student, seed=seed)
        hashes.append(state_hash(student))
    assert hashes[0] == hashes[1] != hashes[2]


def test_best_epoch_is_kept() -> None:
    scores = iter([0.2, 0.9, 0.1])
    hashes: list[str] = []
    student = net(4)

    def score(logits: Tensor, labels: Tensor) -> float:
        hashes.append(state_hash(student))
        return next(scores)

    result = train(student, val=loader(), epochs=3, metric=score)
    assert (result.best_epoch, result.best_metric, result.last_metric, result.metric_name) == (1, 0.9, 0.1, "score")
    assert [e.is_best for e in result.history] == [True, True, False]
    assert state_hash(student) == hashes[2] and state_hash(result.load_best()) == hashes[1]


def test_bf16_runs_with_losses_in_full_precision() -> None:
    dtypes: set[torch.dtype] = set()

    class Watch(Hint):
        needs = Needs()

        def terms(self, s: Signals) -> dict[str, Tensor]:
            assert s.teacher_logits is not None
            dtypes.update({s.student_logits.dtype, s.teacher_logits.dtype})
            assert s.student_features["1"].dtype is torch.bfloat16
            return {"hint": (self.adapt(s.student_features["1"]) - s.teacher_features["1"]).square().mean()}

    student = net(4)
    result = train(student, Watch(), val=loader(), precision="bf16-mixed", epochs=3, lr=0.02)
    assert dtypes == {torch.float32} and student[1].weight.dtype is torch.float32
    assert result.history[-1].terms["ce"] < result.history[0].terms["ce"]
    with pytest.raises(ValueError, match="needs a CUDA device"):
        if torch.cuda.is_available():
            pytest.skip("has CUDA")
        train(net(4), precision="16-mixed")


def test_compiled_student_learns_the_same() -> None:
    plain, compiled = net(4, seed=2), net(4, seed=2)
    train(plain, epochs=1)
    import torch._dynamo

    eager = torch.compile
    try:
        torch.compile = lambda m: eager(m, backend="eager")  # type: ignore[assignment,misc]
        train(compiled, epochs=1, compile=True)
    finally:
        torch.compile = eager
        torch._dynamo.reset()
    assert state_hash(plain) == state_hash(compiled)


def test_each_model_gets_its_own_normalisation() -> None:
    seen: dict[str, Tensor] = {}
    teacher, student = net(8, seed=1), net(4)
    teacher.default_cfg = {"mean": (0.5,), "std": (0.25,)}  # type: ignore[assignment]
    for name, model in (("teacher", teacher), ("student", student)):
        model.register_forward_pre_hook(lambda m, a, name=name: seen.__setitem__(name, a[0].detach().clone()))
    train(student, data=loader(8, 8, shuffle=False), teacher=teacher, epochs=1)
    x = dataset(8).tensors[0]
    assert torch.equal(seen["student"], x) and torch.equal(seen["teacher"], (x - 0.5) / 0.25)
    train(
        student,
        data=loader(8, 8, shuffle=False),
        teacher=teacher,
        epochs=1,
        teacher_transform=nn.Identity(),
        student_transform=Normalize([1.0], [2.0]),
    )
    assert torch.equal(seen["teacher"], x) and torch.equal(seen["student"], (x - 1) / 2)
    shifted = TensorDataset(x * 8 - 4, dataset(8).tensors[1])
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
        train(student, data=DataLoader(shifted, 8), teacher=teacher)


def test_the_teachers_answers_can_be_looked_at_first_and_index_is_supplied(tmp_path: Path) -> None:
    class Means(Method):
        card, name, label, knobs = CrossEntropy.card, "means", "means", ()
        needs = Needs(teacher_logits=False, index=True)
        student_taps = ("4",)
        teacher_taps = ("1",)
        passes = 0

        def prepare(self, seen: TrainingOutputs) -> None:
            self.passes += 1
            together = seen.collect()
            assert seen.classes == 3 and together.labels is not None and together.logits is None
            parts = [p.features["1"] for p in seen]
            torch.testing.assert_close(torch.cat(parts), together.features["1"])
            means = [together.features["1"][together.labels == c].mean(0) for c in range(3)]
            self.register_buffer("means", torch.stack(means))

        def terms(self, s: Signals) -> dict[str, Tensor]:
            data = dataset()
            assert s.index is not None and s.labels is not None
            torch.testing.assert_close(s.inputs, data.tensors[0][s.index])
            features = teacher[1](data.tensors[0].flatten(1)).detach()
            for c in range(3):
                torch.testing.assert_close(self.means[c], features[data.tensors[1] == c].mean(0))
            return {"means": s.student_logits.square().mean()}

    teacher, method = net(8, seed=1), Means()
    result = train(net(4), method, teacher=teacher, checkpoint_dir=tmp_path, checkpoint_every=1)
    assert method.passes == 1 and result.teacher_forwards == 2 * 40 + 2 * 40  # two looks, two epochs
    again = Means()
    resumed = train(net(4), again, teacher=teacher, checkpoint_dir=tmp_path, resume=True)
    assert again.passes == 0 and torch.equal(again.means, method.means)
    assert resumed.teacher_forwards == result.teacher_forwards


def test_several_teachers_are_stacked_or_named(tmp_path: Path) -> None:
    first, second = net(8, seed=1), net(6, seed=2)
    seen: list[Signals] = []

    class Look(Mimic):
        def terms(self, s: Signals) -> dict[str, Tensor]:
            seen.append(s)
            return {"look": s.student_logits.square().mean()}

    class Features(Look):
        needs = Needs(teacher_logits=False)
        teacher_taps: ClassVar = {"new": ("1",)}

    result = train(net(4), Look(), teacher=[first, second])
    s, x = seen[0], seen[0].inputs
    expected = torch.stack([first.eval()(x), second.eval()(x)]).detach()
    torch.testing.assert_close(s.teacher_logits, expected)
    assert list(s.teachers) == ["0", "1"] and not s.teacher_features and result.teacher_forwards == 2 * 80
    seen.clear()
    twice = {"old": lambda x: 2 * x, "new": nn.Identity()}
    train(net(4), Look(), teacher={"old": first, "new": second}, teacher_transform=twice)
    s, x = seen[0], seen[0].inputs
    assert s.teacher_logits is None and list(s.teachers) == ["old", "new"]
    torch.testing.assert_close(s.teachers["old"].logits, first.eval()(2 * x).detach())
    torch.testing.assert_close(s.teachers["new"].logits, second.eval()(x).detach())
    seen.clear()
    train(net(4), Features(), teacher={"old": first, "new": second})
    assert list(seen[0].teachers["new"].features) == ["1"] and not seen[0].teachers["old"].features
    seen.clear()
    cached = train(net(4), Look(), teacher=[first, second], cache=tmp_path)
    assert cached.teacher_forwards == 2 * 40 and len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2
    torch.testing.assert_close(seen[0].teacher_logits, expected)
    with pytest.raises(ValueError, match="teacher and student share parameters"):
        train(first, Look(), teacher=[second, first])
    for wrong, message in (([], "empty collection"), ({"a.b": first}, "words without a dot, got 'a.b'")):
        with pytest.raises(ValueError, match=message):
            train(net(4), Look(), teacher=wrong)


def test_what_is_learnt_from_labels_belongs_to_method_and_task() -> None:
    class Sharp(Mimic):
        def supervised(self, s: Signals) -> Tensor:
            return 0.5 * F.cross_entropy(4 * s.student_logits, s.labels)

        def readout(self, output: Any) -> Tensor:
            return output["scores"]

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"inputs": x, "scores": self.net(x)}

    student, val = Two(), loader(24, 8, shuffle=False)
    first = next(iter(Distiller(net(8, seed=1), student, Sharp(), loader(shuffle=False), val, epochs=1).run()))
    x, y = next(iter(loader(shuffle=False)))
    fresh = Two()
    expected = 0.5 * F.cross_entropy(4 * fresh(x)["scores"], y).item()
    assert isinstance(first, Step) and first.terms["ce"] == pytest.approx(expected, rel=1e-5)

    def task_loss(output: Any, labels: Tensor) -> dict[str, Tensor]:
        return {"near": (output["scores"][:, 0] - labels).square().mean(), "small": output["inputs"].square().mean()}

    options = {"loss": task_loss, "readout": lambda o: o["scores"], "ce_weight": 2.0, "epochs": 1}
    step = next(iter(Distiller(None, fresh, "ce", loader(shuffle=False), **options).run()))
    before = task_loss(Two()(x), y)
    assert isinstance(step, Step)
    assert step.terms == pytest.approx({n: 2 * v.item() for n, v in before.items()}, rel=1e-5)


def test_the_loss_is_told_and_validation_batches_are_given() -> None:
    told: list[tuple[float, int]] = []
    val = loader(24, 8, shuffle=False)

    class Asks(Mimic):
        needs = Needs(validation=True)

        def on_loss(self, terms: Any, s: Signals) -> None:
            told.append((terms["mimic"], s.step))

        def terms(self, s: Signals) -> dict[str, Tensor]:
            assert s.validation is not None and s.validation.labels is not None
            torch.testing.assert_close(s.validation.x, list(val)[s.step % 5 % 3][0])
            return super().terms(s)

    events = list(Distiller(net(8, seed=1), net(4), Asks(), loader(), val, epochs=2).run())
    steps = [e for e in events if isinstance(e, Step)]
    assert told == [(e.terms["mimic"], e.step - 1) for e in steps]
    with pytest.raises(ValueError, match="'mimic' needs validation data, got val=None"):
        train(net(4), Asks())


def test_a_method_may_put_another_head_on_the_student() -> None:
    class Wide(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.more = net, nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.more(self.net(x))

    class Merges(Mimic):
        def wrap_student(self, student: nn.Module, sample: Tensor) -> nn.Module:
            return Wide(student)

        def readout(self, output: Tensor) -> Tensor:
            return output.view(-1, 3, 2).logsumexp(2)

        def terms(self, s: Signals) -> dict[str, Tensor]:
            assert s.student_output.shape == (8, 6) and s.student_logits.shape == (8, 3)
            return super().terms(s)

    student = net(4)
    result = train(student, Merges())
    assert isinstance(result.student, Wide) and result.student.net is student
    assert set(result.best_state) == set(result.student.state_dict())


@pytest.mark.parametrize(
    ("option", "value"), [("lr", 1e-4), ("clip_grad", 1.0), ("scheduler", "constant"), ("ce_weight", 0.3)]
)
def test_another_setting_is_not_taken_for_the_saved_one(option: str, value: Any, tmp_path: Path) -> None:
    train(net(4), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=rf"differs in {option} \(saved .*, now {value}\)"):
        train(net(4), checkpoint_dir=tmp_path, resume=True, **{option: value})
    with pytest.raises(ValueError, match="differs in weights of teachers"):
        train(net(4), teacher=net(8, seed=7), checkpoint_dir=tmp_path, resume=True)


def test_other_batches_and_loaders() -> None:
    x, y = dataset().tensors
    hashes = []
    for batches in (
        list(zip(x.split(8), y.split(8), strict=True)),
        [{"image": a, "label": b} for a, b in zip(x.split(8), y.split(8), strict=True)],
        [(a, b.to(torch.uint8), i) for a, b, i in zip(x.split(8), y.split(8), torch.arange(40).split(8), strict=True)],
    ):
        student = net(4, seed=2)
        train(student, data=batches)
        hashes.append(state_hash(student))
    assert len(set(hashes)) == 1


class Mixed(Mimic):
    """Learns from random mixtures of two samples and of their labels."""

    name = "mixed"

    def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
        share = torch.rand((), generator=generator)
        labels = F.one_hot(batch.labels, 3).float()  # type: ignore[arg-type]
        return replace(
            batch,
            x=share * batch.x + (1 - share) * batch.x.flip(0),
            labels=share * labels + (1 - share) * labels.flip(0),
        )


def test_a_method_may_change_what_both_models_see(tmp_path: Path) -> None:
    seen: dict[str, Tensor] = {}
    teacher, student = net(8, seed=1), net(4)
    for name, model in (("teacher", teacher), ("student", student)):
        model.register_forward_pre_hook(lambda m, a, name=name: seen.__setitem__(name, a[0].detach().clone()))
    given: list[Signals] = []

    class Watched(Mixed):
        def terms(self, s: Signals) -> dict[str, Tensor]:
            given.append(s)
            return super().terms(s)

    train(student, Watched(), loader(8, 8, shuffle=False), teacher, epochs=1)
    x, y = dataset(8).tensors
    share = torch.rand((), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen["student"], share * x + (1 - share) * x.flip(0))
    assert torch.equal(seen["teacher"], seen["student"]) and torch.equal(given[0].inputs, seen["student"])
    hard = F.one_hot(y, 3).float()
    torch.testing.assert_close(given[0].labels, share * hard + (1 - share) * hard.flip(0))
    with pytest.raises(ValueError, match="'mixed' changes the samples: the teacher's answers cannot be cached"):
        train(net(4), Mixed(), cache=tmp_path)


def test_a_method_that_changes_samples_resumes_to_the_bit(tmp_path: Path) -> None:
    whole, broken = net(4, seed=2), net(4, seed=2)
    train(whole, Mixed(), epochs=4)
    stop = threading.Event()
    train(
        broken,
        Mixed(),
        epochs=4,
        checkpoint_dir=tmp_path,
        stop=stop,
        callbacks=[lambda e: stop.set() if e.step == 8 else None],
    )
    assert state_hash(whole) != state_hash(broken)
    train(broken, Mixed(), epochs=4, checkpoint_dir=tmp_path, resume=True)
    assert state_hash(whole) == state_hash(broken)


def test_a_method_must_keep_the_number_of_samples() -> None:
    class Fewer(Mimic):
        name = "fewer"

        def on_batch(self, batch: Batch, generator: torch.Generator) -> Batch:
            return replace(batch, x=batch.x[1:])

    with pytest.raises(ValueError, match=r"on_batch of 'fewer' must keep the number of samples, 8, got 7"):
        train(net(4), Fewer())


def test_sequences_have_their_classes_second_and_ignore_padding() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(5, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.table(tokens).transpose(1, 2)

    tokens = torch.randint(5, (12, 4), generator=torch.Generator().manual_seed(0))
    labels = (tokens % 3).index_fill(1, torch.tensor([3]), -100)
    data = DataLoader(TensorDataset(tokens, labels), 6)
    student = Tagger()
    result = train(student, "ce", data, None, val=data, epochs=1, lr=0.1)
    logits = student(tokens)
    right = [bool(logits[n, :, t].argmax() == labels[n, t]) for n in range(12) for t in range(3)]
    assert result.last_metric == pytest.approx(sum(right) / 36)
    assert result.history[0].metrics["ce"] == pytest.approx(F.cross_entropy(logits[:, :, :3], labels[:, :3]).item())
    first = re.escape(str((labels == 2).nonzero()[0].tolist()))
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 3\).*got 4 \(at position {first}"):
        train(student, "ce", DataLoader(TensorDataset(tokens, labels.masked_fill(labels == 2, 4)), 12), None)


def test_a_graph_is_one_batch_of_nodes() -> None:
    class Graph(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.net = net(width)

        def forward(self, graph: dict[str, Tensor]) -> Tensor:
            source, target = graph["edge_index"]
            return self.net(graph["x"].index_add(0, target, graph["x"][source]))

    x, y = dataset().tensors
    edges = torch.randint(40, (2, 90), generator=torch.Generator().manual_seed(0))
    result = train(Graph(4), None, [{"x": x, "edge_index": edges, "y": y}], Graph(8), epochs=3)
    assert result.steps == 3 and result.teacher_forwards == 120


def test_own_optimizer_and_scheduler() -> None:
    student, events = net(4), []
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    asked: list[int] = []

    def schedule(opt: Any, total: int) -> Any:
        asked.append(total)
        return torch.optim.lr_scheduler.StepLR(opt, 2, 0.1)

    train(student, Hint(), optimizer=optimizer, scheduler=schedule, epochs=1, callbacks=[events.append])
    assert asked == [5] and [e.lr for e in events[:5]] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])
    assert len(optimizer.param_groups) == 2


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(1, 4, 4), 0)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be"),
        ({"accumulate": 0}, "accumulate must be"),
        ({"lr": 0.0}, "lr must be"),
        ({"precision": "32"}, "precision must be one of"),
        ({"clip_grad": -1.0}, "clip_grad must be"),
        ({"ce_weight": -1.0}, "ce_weight must be"),
        ({"scheduler": "linear"}, "scheduler must be"),
        ({"optimizer": "adagrad"}, "optimizer must be"),
        ({"resume": True}, "need checkpoint_dir"),
        ({"checkpoint_every": 3}, "need checkpoint_dir"),
        ({"method": []}, "empty list"),
        ({"method": "mimick"}, "no method is called"),
        ({"data": []}, "loader is empty"),
        ({"data": loader(4, 8, drop_last=True, shuffle=False)}, "loader is empty"),
        ({"data": DataLoader(Stream())}, "length"),
        ({"data": [3]}, "a batch must be"),
        ({"data": [torch.zeros(2, 1, 4, 4)]}, "needs labels"),
        ({"teacher": None}, "needs a teacher"),
        ({"method": Hint, "teacher": None}, "needs a teacher"),
        ({"teacher": net(4)[:1]}, "same classes"),
        ({"student": nn.Flatten(0)}, "must return logits"),
        ({"teacher": net(4).to("meta")}, "the teacher is on the device 'meta'"),
        (
            {"data": DataLoader(TensorDataset((dataset().tensors[0] * 255).byte(), dataset().tensors[1]), 8)},
            "got uint8",
        ),
        (
            {"method": "cka", "data": loader(19, 8)},
            r"'cka' needs .* at least 4 samples, but the last has 3: .*drop_last",
        ),
        ({"method": "cka", "data": loader(18, 3, drop_last=True)}, "but the batch size is 3: use a larger batch size"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_step(options: dict[str, Any], message: str) -> None:
    options = dict(options)
    student = options.pop("student", None) or net(4)
    method = options.pop("method", None)
    before = state_hash(student)
    with pytest.raises(ValueError, match=message):
        train(student, method() if method is Hint else method, **options)
    assert state_hash(student) == before


def test_what_is_no_model_is_refused() -> None:
    for options, message in (
        ({"teacher": "resnet18"}, "teacher must be a torch.nn.Module, got 'resnet18'"),
        ({"student": lambda x: x}, "student must be a torch.nn.Module, got <function"),
    ):
        with pytest.raises(TypeError, match=message):
            train(options.pop("student", net(4)), **options)


def test_an_unknown_layer_is_named_before_the_first_step() -> None:
    student, method = net(4), Hint()
    before, method.teacher_taps = state_hash(student), ("layer9",)
    with pytest.raises(TapError, match="no module is called 'layer9'"):
        train(student, method)
    assert state_hash(student) == before


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    student, events = net(4), []
    before = state_hash(student)
    with pytest.raises(CheckpointError, match=r"cannot write in folder .*file"):
        train(student, checkpoint_dir=tmp_path / "file", callbacks=[events.append])
    assert state_hash(student) == before and not events


def test_smallest_batch_counts_what_the_sampler_gives() -> None:
    data = DataLoader(dataset(17), 8, sampler=RandomSampler(dataset(17), num_samples=16))
    assert train(net(4), "cka", data, epochs=1).steps == 2
    assert train(net(4), create_method("cka", unbiased=False), loader(18, 8), epochs=1).steps == 3


def test_class_counts_are_compared() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(ValueError, match=r"student has 5 classes and the teacher answers float32 \(8, 3\)"):
        train(student)


def test_label_out_of_range() -> None:
    data = dataset()
    data.tensors[1][17] = 3
    student = net(4)
    before = state_hash(student)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\).*got 3 \(at position 17\)"):
        train(student, data=DataLoader(data, 8))
    hidden = [data[i] for i in range(40)]  # labels that are only seen batch by batch
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\).*got 3 \(at position 1\)"):
        train(student, data=DataLoader(hidden, 8))  # type: ignore[arg-type]
    assert state_hash(student) != before
    with pytest.raises(ValueError, match="validation data: labels"):
        train(net(4), val=DataLoader(data, 8))


def test_batch_norm_and_a_last_batch_of_one() -> None:
    student = net(4, norm=True)
    before = state_hash(student)
    with pytest.raises(ValueError, match="drop_last=True"):
        train(student, data=loader(17, 8))
    assert state_hash(student) == before
    assert train(student, data=loader(17, 8, drop_last=True)).steps == 4
    assert train(net(4), data=loader(17, 8)).steps == 6
    x, y = dataset(9).tensors
    with pytest.raises(ValueError, match="drop_last=True"):
        train(student, data=[(x[:8], y[:8]), (x[8:], y[8:])])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_input_names_the_batch(value: float) -> None:
    data = dataset()
    data.tensors[0][19, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"epoch 0, batch 2, at positions \[3\]"):
        train(net(4), data=DataLoader(data, 8))


class Breaks(Mimic):
    """Becomes NaN at step 3."""

    name, bad, needs = "breaks", float("nan"), Needs(index=True)

    def terms(self, s: Signals) -> dict[str, Tensor]:
        fine = s.student_logits.square().mean()
        return {"fine": fine, "bad": fine * (self.bad if s.step == 3 else 1.0)}


def test_non_finite_loss_names_term_step_and_batch_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    student = net(4)
    hashes: list[str] = []
    where = r"'bad' is nan in epoch 1, step 3, batch 0, samples \[0, 1, 2"
    with pytest.raises(NonFiniteLossError, match=where) as caught:
        train(
            student,
            Breaks(),
            loader(24, 8, shuffle=False),
            checkpoint_dir=tmp_path,
            callbacks=[lambda e: hashes.append(state_hash(student))],
        )
    error = caught.value
    assert (error.term, error.epoch, error.step, error.batch) == ("bad", 1, 3, 0) and error.index == list(range(8))
    assert error.checkpoint == list_checkpoints(tmp_path)[0] and str(error.checkpoint) in str(error)
    assert state_hash(student) == hashes[-1]  # the step was not taken
    with pytest.raises(NonFiniteLossError, match="batch 1") as caught:
        train(net(4), Late(), loader(24, 8), accumulate=3)
    assert caught.value.checkpoint is None and "No checkpoint" in str(caught.value)


class Late(Mimic):
    """NaN in the second batch of an accumulated step."""

    name, calls = "late", 0

    def terms(self, s: Signals) -> dict[str, Tensor]:
        self.calls += 1
        return {"late": s.student_logits.square().mean() * (float("nan") if self.calls == 2 else 1.0)}


def test_non_finite_gradient_is_an_error_too() -> None:
    class Root(Mimic):
        name = "root"

        def terms(self, s: Signals) -> dict[str, Tensor]:
            return {"root": (s.student_logits * 0).sum().sqrt()}

    student = net(4)
    before = state_hash(student)
    with pytest.raises(NonFiniteLossError, match="'gradient' is nan"):
        train(student, Root())
    assert state_hash(student) == before


def test_stop_acts_within_a_batch_and_can_be_resumed(tmp_path: Path) -> None:
    whole = net(4, seed=2)
    train(whole, val=loader())
    for at in (2, 5, 7):
        stop, student, events = threading.Event(), net(4, seed=2), []

        def on(event: Any, stop: Any = stop, at: int = at, events: list[Any] = events) -> None:
            events.append(event)
            if event.step == at and isinstance(event, Step):
                stop.set()

        folder = tmp_path / str(at)
        first = train(student, val=loader(), stop=stop, callbacks=[on], checkpoint_dir=folder)
        assert first.stopped and first.steps == at and isinstance(events[-1], Step)
        student = net(4, seed=9)
        second = train(student, val=loader(), checkpoint_dir=folder, resume=True)
        assert not second.stopped and second.steps == 10 and len(second.history) == 2
        assert state_hash(student) == state_hash(whole) and second.teacher_forwards == 80


def test_stop_during_validation(tmp_path: Path) -> None:
    stop = threading.Event()

    class Val(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            yield (torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
            stop.set()
            yield (torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))

    first = train(net(4, seed=2), val=Val(), stop=stop, checkpoint_dir=tmp_path)
    assert first.stopped and first.steps == 5 and first.history == []
    student, whole = net(4), net(4, seed=2)
    assert len(train(student, val=loader(), checkpoint_dir=tmp_path, resume="auto").history) == 2
    train(whole, val=loader())
    assert state_hash(student) == state_hash(whole)


def test_breaking_off_leaves_everything_in_order() -> None:
    teacher = net(8, seed=1)
    distiller = Distiller(teacher, net(4), Hint(), loader(), epochs=2, accelerator="cpu")
    for event in distiller.run():
        if event.step == 3:
            break
    assert teacher.training and distiller.result().steps == 3 and distiller.result().stopped
    assert not any(m._forward_hooks for m in [*teacher.modules(), *distiller.student.modules()])


def test_another_run_in_the_folder_is_not_overwritten(tmp_path: Path) -> None:
    train(net(4), checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="holds checkpoints of another run"):
        train(net(4), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"differs in knobs.*seed"):
        train(net(4), Mimic(weight=2.0), seed=4, checkpoint_dir=tmp_path, resume=True)
    finished = train(net(4), checkpoint_dir=tmp_path, resume=True)
    assert finished.steps == 10 and len(finished.history) == 2
    longer = train(net(4), checkpoint_dir=tmp_path, resume=list_checkpoints(tmp_path)[0], epochs=3)
    assert longer.steps == 15 and len(longer.history) == 3


def test_damaged_checkpoint_on_resume(tmp_path: Path) -> None:
    train(net(4), checkpoint_dir=tmp_path)
    newest, previous = list_checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged") as caught:
        train(net(4), checkpoint_dir=tmp_path, resume=True)
    assert caught.value.previous == previous
    with pytest.warns(UserWarning, match=rf"{newest.name}.*Going on from .*{previous.name}"):
        result = train(net(4), checkpoint_dir=tmp_path, resume="auto")
    assert result.steps == 10
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(net(4), checkpoint_dir=tmp_path / "none", resume=True)
    assert train(net(4), checkpoint_dir=tmp_path / "none", resume="auto").steps == 10


def test_a_full_disk_does_not_lose_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = net(4)
    before, replace, calls = state_hash(student), os.replace, []

    def full(*paths: Any) -> None:
        calls.append(paths)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        replace(*paths)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"No space left.*the student in memory holds the weights after step 10"):
        train(student, checkpoint_dir=tmp_path)
    assert state_hash(student) != before and [p.name for p in tmp_path.glob("[!.]*")] == ["step-000000005.ckpt"]


def test_evaluate_by_hand() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = dataset().tensors
    out = evaluate(model, DataLoader(TensorDataset(x, y), 7), metric=accuracy)
    logits = model(x)
    assert out["accuracy"] == pytest.approx((logits.argmax(1) == y).float().mean().item())
    assert out["ce"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5) and model.training
    with pytest.raises(ValueError, match="empty"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="no labels"):
        evaluate(model, [x])


_DDP = """
import sys, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from kdcore.checkpoints import state_hash
from kdcore.distiller import distill
from kdcore.method import CrossEntropy, Method

class Mimic(Method):
    card, name, label, knobs = CrossEntropy.card, "mimic", "mimic", ()
    def setup(self, student, teacher, sample):
        self.scale = nn.Linear(3, 3)
    def terms(self, s):
        return {"mimic": (self.scale(s.student_logits) - s.teacher_logits).square().mean()}

def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

g = torch.Generator().manual_seed(0)
data = TensorDataset(torch.rand(24, 1, 4, 4, generator=g), torch.randint(3, (24,), generator=g))
student, method = net(2), Mimic()
strategy, devices, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
result = distill(net(1), student, method, DataLoader(data, 24 // devices // 2, shuffle=False), DataLoader(data, 8),
                 epochs=2, optimizer="sgd", lr=0.1, accelerator="cpu", devices=devices, strategy=strategy,
                 checkpoint_dir=out + "/ckpt")
import os
rank = os.environ.get("RANK", "0")
torch.save({"student": student.state_dict(), "method": method.state_dict(), "last": result.last_metric},
           f"{out}/rank{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DDP over gloo: both ranks end with the same weights, close to one process with the whole batch."""
    script = tmp_path / "train.py"
    script.write_text(_DDP)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, "ddp", "2", str(tmp_path)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    a, b = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert a["last"] == b["last"]
    for part in ("student", "method"):
        assert all(torch.equal(v, b[part][k]) for k, v in a[part].items())
    assert len(list_checkpoints(tmp_path / "ckpt")) == 2
    (tmp_path / "one").mkdir()
    monkeypatch.setattr(sys, "argv", [str(script), "auto", "1", str(tmp_path / "one")])
    monkeypatch.delenv("RANK", raising=False)
    runpy.run_path(str(script), run_name="__main__")
    one = torch.load(tmp_path / "one" / "rank0.pt")
    for part in ("student", "method"):
        for k, v in one[part].items():
            torch.testing.assert_close(a[part][k], v, rtol=1e-5, atol=1e-6)
