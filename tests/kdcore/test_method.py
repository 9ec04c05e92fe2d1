"""The base class of objectives: knobs, defaults of its hooks, examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdcore.card import Knob
from kdcore.method import CrossEntropy, Method, Needs, Signals, TrainingOutputs, ce_weight_knob, total
from kdcore.methods.pld import CARD
from kdcore.registry import create_method


class Toy(Method):
    """A method with a learnable part, outside ``kdcore.methods``."""

    card = CARD
    name, label = "toy", "Toy"
    knobs = (Knob("weight", 2.0, 0.0, 4.0, symbol="w"), Knob("steps", 3), Knob("mode", "a", choices=("a", "b")))

    def __init__(self, **knobs: object) -> None:
        super().__init__(**knobs)
        self.head = nn.Linear(5, 5)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)

    def terms(self, s: Signals) -> dict[str, Tensor]:
        return {"toy": self.knob.weight * self.head(s.student_logits.float()).mean()}


def test_knobs_are_read_checked_and_reported() -> None:
    toy = Toy(weight=1, mode="b")
    assert toy.settings == {"weight": 1.0, "steps": 3, "mode": "b", "ce_weight": 1.0}
    assert toy.knob.weight == 1.0 and isinstance(toy.knob.weight, float)
    assert "weight=1.0, steps=3" in repr(toy)
    with pytest.raises(ValueError, match=r"toy has no knob 'wieght'\. Did you mean 'weight'.*steps, mode, ce_weight"):
        Toy(wieght=1)
    with pytest.raises(TypeError, match="steps must be int"):
        Toy(steps="3")


def test_settings_are_a_copy() -> None:
    toy = Toy()
    toy.settings["weight"] = 9.0
    assert toy.knob.weight == 2.0


def test_every_objective_gets_a_ce_weight_once() -> None:
    assert [k.name for k in Toy.knobs].count("ce_weight") == 1

    class Own(Toy):
        card = CARD
        name = "own"
        knobs = (ce_weight_knob(0.25),)

    assert [k.default for k in Own.knobs] == [0.25]
    assert Toy(ce_weight=0.5).ce_weight(Toy.example()) == 0.5


def test_a_variant_under_another_papers_card_takes_its_name_and_promises() -> None:
    class Bare(Method):
        card = CARD

    assert (Bare.name, Bare.label, Bare.invariances) == ("pld", "PLD", CARD.invariances)
    assert [k.name for k in Bare.knobs] == ["ce_weight"] and Bare not in CARD.objectives


def test_an_objective_is_usable_before_it_has_a_card() -> None:
    class Young(Method):
        name = "young"
        knobs = (Knob("weight", 2.0),)

    assert Young.label == "YOUNG" and Young().settings == {"weight": 2.0, "ce_weight": 1.0}


def test_only_learnable_parts_are_optimised() -> None:
    toy = Toy()
    (group,) = toy.parameter_groups()
    assert {id(p) for p in group["params"]} == {id(p) for p in toy.head.parameters()}
    assert create_method("kd").parameter_groups() == []


def test_defaults_of_the_hooks() -> None:
    toy, s = Toy(), Toy.example()
    toy.setup(nn.Identity(), None, torch.zeros(1))
    toy.on_epoch_start(0)
    toy.on_epoch_end(0)
    toy.on_step_end(s)
    assert toy.student_taps == toy.teacher_taps == ()
    assert toy(s).keys() == {"toy"}
    toy.prepare(TrainingOutputs.of(s))
    toy.on_loss({"toy": 1.0}, s)
    model = nn.Identity()
    assert toy.wrap_student(model, torch.zeros(1)) is model
    assert toy.readout((s.student_logits, None)) is s.student_logits
    with pytest.raises(NotImplementedError):
        Method.terms(toy, s)


class OneLayer(Toy):
    student_taps = teacher_taps = ("placeholder",)


def test_settling_taps_finds_what_was_not_chosen_and_measures_both() -> None:
    student = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Dropout(), nn.Linear(5, 3))
    x = torch.zeros(2, 1, 4, 4)
    method = OneLayer()
    assert method.settle_taps(student, teacher, x) == [(8,), (5,)]
    assert method.student_taps == ("2:in",) and method.teacher_taps == ("3:in",)
    chosen = OneLayer()
    chosen.student_taps = ("0",)
    assert chosen.settle_taps(student, teacher, x, find=lambda model, sample: "1") == [(2, 2, 2), (5,)]
    assert chosen.student_taps == ("0",) and OneLayer.student_taps == ("placeholder",)
    assert teacher.training  # measured in eval mode, then put back
    with pytest.raises(ValueError, match="toy needs a teacher"):
        OneLayer().settle_taps(student, None, x)


def test_signals_give_both_logits_or_say_what_is_missing() -> None:
    s = Toy.example()
    assert s.logits[0] is s.student_logits and s.logits[1] is s.teacher_logits
    with pytest.raises(ValueError, match=r"Needs\(teacher_logits=True\)"):
        _ = Signals(student_logits=torch.zeros(2, 3)).logits


def test_examples_are_seeded_and_can_match() -> None:
    a, b, c = Toy.example(seed=1), Toy.example(seed=1), Toy.example(seed=2)
    assert torch.equal(a.student_logits, b.student_logits) and not torch.equal(a.student_logits, c.student_logits)
    assert torch.equal(a.labels, b.labels) and torch.equal(a.teacher_logits, b.teacher_logits)
    assert a.student_logits.requires_grad and not a.teacher_logits.requires_grad
    match = Toy.example(match=True, batch=3, classes=4, dtype=torch.float32)
    assert torch.equal(match.student_logits, match.teacher_logits)
    assert match.student_logits.shape == (3, 4) and match.student_logits.dtype == torch.float32
    assert match.labels.max() < 4


def test_the_baseline_needs_no_teacher() -> None:
    assert CrossEntropy.needs == Needs(teacher_logits=False)
    assert create_method("ce").terms(Signals(student_logits=torch.zeros(2, 3))) == {}
    assert create_method("ce").settings == {"ce_weight": 1.0}


def test_total() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    loss = total([x, 3 * x])
    loss.backward()
    assert loss == 8 and x.grad == 4
