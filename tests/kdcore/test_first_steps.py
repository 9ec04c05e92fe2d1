"""The first step of every arm: values by hand, an untrained teacher, nothing that is left changed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.checkpoints import state_hash
from kdcore.engine import Epoch, Learn, Stage, Step, Training, fit, listening
from kdcore.experiment import Arm, compare, first_steps
from kdcore.functional.divergences import kd_loss
from kdcore.models import MLP
from kdcore.registry import create_method
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Recipe


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants a trained teacher fails."""
    monkeypatch.setenv("KDCORE_CACHE", "/dev/null/nowhere")


def tiny(seed: int = 0, *, size: int = 36) -> Classification:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat(size // 3)
    data = ArrayDataset(torch.randn(len(y), 4, generator=g) + y[:, None], y)
    recipe = Recipe(epochs=5, batch_size=12)
    return Classification(
        name="tiny", train=data, test=data, class_names="abc", seed=seed,
        teachers={"net": ModelSpec(build=partial(MLP, 4, (8,), 3, dropout=0.1), recipe=recipe)},
        students={"small": ModelSpec(build=partial(MLP, 4, (3,), 3), recipe=recipe)},
    )  # fmt: skip


def by_hand(task: Classification, seed: int, number: int, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, KD and gradient norm of CE + weight x KD on one batch of the stream, in a loop of its own."""
    loader = task.loader("train", batch_size=12, seed=seed)
    batches = [batch for _ in range(2) for batch in loader]
    x, y = batches[number]
    student, teacher = task.student(seed=seed), task.spec("teacher").make(task.seed).eval()
    for name, p in teacher.named_parameters():
        p.data *= 4.0 if name.endswith("weight") and p.ndim == 2 else 1.0
    s = student(x)
    ce, kd = F.cross_entropy(s, y), kd_loss(s, teacher(x).detach(), temperature=2.0)
    gradients = torch.autograd.grad(ce + weight * kd, list(student.parameters()))
    return ce, kd, torch.stack([g.pow(2).sum() for g in gradients]).sum().sqrt()


def test_values_by_hand_in_both_epochs() -> None:
    arms = [Arm("CE", "ce"), Arm("KD", "kd", {"temperature": 2.0, "kd_weight": 0.5, "ce_weight": 1.0})]
    found = first_steps(tiny(3), arms, seed=7)
    for epoch, number in (("", 0), (", epoch 1", 3)):
        for label, weight in (("CE", 0.0), ("KD", 0.5)):
            ce, kd, gradient = by_hand(tiny(3), 7, number, weight)
            assert found[f"{label}{epoch}: ce"] == pytest.approx(ce.item(), rel=1e-5)
            assert found[f"{label}{epoch}: gradient"] == pytest.approx(gradient.item(), rel=1e-5)
            if weight:
                assert found[f"{label}{epoch}: kd"] == pytest.approx(0.5 * kd.item(), rel=1e-5)
    assert len(found) == 2 * (2 + 3)


def test_warmup_shows_in_the_second_epoch_alone() -> None:
    arms = [Arm(f"DKD {e}", "dkd", {"warmup_epochs": e}) for e in (0, 1, 4)]
    found = first_steps(tiny(), arms)
    assert found["DKD 1: nckd"] == found["DKD 4: tckd"] == 0.0 < found["DKD 0: nckd"]
    full = found["DKD 0, epoch 1: nckd"]
    assert found["DKD 1, epoch 1: nckd"] == full and found["DKD 4, epoch 1: nckd"] == pytest.approx(full / 4)


def test_nothing_is_changed_and_neighbours_do_not_matter() -> None:
    task, method = tiny(), create_method("kd")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    both = first_steps(task, [Arm("KD", method), Arm("CE", "ce")], on="here")
    assert torch.equal(before, torch.get_rng_state())
    assert both == first_steps(task, [Arm("KD", method), Arm("CE", "ce")], on="here")
    alone = first_steps(task, ["ce"])
    assert {n.removeprefix("here: CE"): v for n, v in both.items() if "CE" in n} == {
        n.removeprefix("ce"): v for n, v in alone.items()
    }
    assert all(name.startswith("here: ") for name in both)
    assert "teacher" not in vars(task) and "loader" not in vars(task)


def test_optimizer_schedule_and_length_do_not_matter_but_the_batch_does() -> None:
    plain = first_steps(tiny(), ["kd"])
    assert first_steps(tiny(), ["kd"], lr=0.5, optimizer="sgd", scheduler="steps", epochs=9) == plain
    assert first_steps(tiny(), ["kd"], batch_size=6) != plain
    assert first_steps(tiny(), ["kd"], seed=1) != plain


def test_long_data_are_not_read_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    task = tiny(size=36 * 12)
    monkeypatch.setattr(task, "collate", lambda samples: (read.append(1), ArrayDatasetCollate(samples))[1])
    found = first_steps(task, ["ce"], batch_size=6)  # 72 batches of training data
    assert "ce, epoch 1: ce" in found and len(read) < 72


def ArrayDatasetCollate(samples: Any) -> Any:
    from kdcore.tasks._data import collate

    return collate(samples)


class Own(Training):
    """A training of two stages that needs the teacher."""

    frozen = ("teacher",)

    def __init__(self, task: Any, teacher: nn.Module | None, student: nn.Module, seed: int) -> None:
        super().__init__()
        assert teacher is not None
        self.teacher, self.student = teacher, student
        self.data = task.loader("train", batch_size=12, seed=seed)

    def stages(self) -> Iterator[Stage]:
        for name in ("one", "two"):
            yield Stage(name=name, data=self.data, step=self.step, epochs=1, learn=Learn(players=("student",)))

    def step(self, batch: Any, run: Any) -> dict[str, Tensor]:
        return {"own": kd_loss(self.student(batch[0]), self.teacher(batch[0]), temperature=2.0)}


def test_trainings_and_loops_tell_their_first_step() -> None:
    def loop(task: Any, seed: int, *, progress: Any, stop: Any) -> nn.Module:
        fit(Own(task, task.teacher(), task.student(seed=seed), seed))
        raise AssertionError("nothing is wanted after the first step")

    found = first_steps(tiny(), [Arm("training", training=Own), Arm("loop", run=loop)])
    assert list(found) == ["training: own", "training: gradient", "loop: own", "loop: gradient"]
    _, kd, _ = by_hand(tiny(), 0, 0, 1.0)
    assert found["training: own"] == found["loop: own"] == pytest.approx(kd.item(), rel=1e-5)


def test_charts_of_an_arm_see_nothing() -> None:
    seen: list[Any] = []
    first_steps(tiny(), [Arm("CE", "ce", train={"callbacks": (seen.append,)})])
    assert seen == []


def test_the_first_step_is_the_one_of_the_comparison_where_no_teacher_counts() -> None:
    seen: list[Step | Epoch] = []
    compare(tiny(), ["ce"], seeds=[2], epochs=1, callbacks=(seen.append,))
    found, (first, *_) = first_steps(tiny(), ["ce"], seed=2), seen
    assert isinstance(first, Step)
    assert found["ce: ce"] == first.terms["ce"] and found["ce: gradient"] == first.grad_norm


def test_wrong_arms_are_refused() -> None:
    with pytest.raises(ValueError, match="different labels"):
        first_steps(tiny(), ["ce", "ce"])


def test_listeners_hear_inside_their_block_alone() -> None:
    outer: list[Any] = []
    inner: list[Any] = []
    task = tiny()

    def train() -> str:
        return state_hash(compare(task, ["ce"], seeds=1, epochs=1).students["ce", 0])

    with listening(outer.append):
        with listening(inner.append):
            heard = train()
        count = len(inner)
        assert count == 4 and [type(e) for e in inner] == [Step, Step, Step, Epoch]
        train()
    assert len(inner) == count and len(outer) == 2 * count
    assert train() == heard and len(outer) == 2 * count
