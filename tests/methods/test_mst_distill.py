"""MST-Distill against the authors' code, by hand, and as a training of three stages."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import Case, close, grad_of, parity
from torch import Tensor, nn

from kdcore.engine import Epoch, fit
from kdcore.experiment import Arm, compare
from kdcore.functional import specialized
from kdcore.methods.mst_distill import (
    GateNet,
    MaskNet,
    MSTDistiller,
    MSTTraining,
    SpecializedTeacher,
    cotraining_loss,
    load_balancing_loss,
    routed_distillation_loss,
    stage_weights,
)
from kdcore.studies import find_study
from kdcore.studies import mst_distill as study
from kdcore.tasks.digits_two_sensors import TwoSensorTask

TOLERANCE = 1e-10


def check_module(case: Case, module: nn.Module, leaf: str, out: str) -> None:
    module.double().load_state_dict(dict(case.params.items()))
    module.train(bool(case.hp.get("training", 0)))
    x = case.leaf(leaf)
    answer = module(x)
    close(answer, case.out[out], TOLERANCE)
    close(grad_of((answer * case.inputs["grad_output"]).sum(), x), case.grad[leaf], TOLERANCE)


def check_mask(case: Case) -> None:
    hp = case.hp
    mask = MaskNet(
        hp["feature_dim"], num_heads=hp["num_heads"], hidden_dim_factor=hp["hidden_dim_factor"],
        spatial=bool(hp["spatial"]),
    )  # fmt: skip
    check_module(case, mask, "features", "mask")


def check_gate(case: Case) -> None:
    gate = GateNet(case.hp["num_classes"], case.hp["num_teachers"], dense=bool(case.hp["dense"]))
    check_module(case, gate, "student_logits", "gate_logits")


def check_balance(case: Case) -> None:
    g = case.leaf("gate_probs")
    loss = load_balancing_loss(g, mode=case.name.removeprefix("load_balance_"))
    close(loss, case.out["loss"], TOLERANCE)
    close(grad_of(loss, g), case.grad["gate_probs"], TOLERANCE)


def check_routed(case: Case) -> None:
    s = case.leaf("student_logits")
    routing = "weighted" if case.name.startswith("weighted") else "topk"
    z, g = case.inputs["teacher_logits"], case.inputs["gate_probs"]
    loss, chosen = routed_distillation_loss(s, z, g, routing=routing, **dict(case.hp.items()))
    close(loss, case.out["loss"], TOLERANCE)
    close(grad_of(loss, s), case.grad["student_logits"], TOLERANCE)
    assert torch.equal(chosen, case.out["indices"] if routing == "topk" else g)


def check_cotrain(case: Case) -> None:
    names = ("student_logits", "auxiliary_logits", "multimodal_logits")
    leaves = [case.leaf(n) for n in names]
    out = cotraining_loss(*leaves, case.inputs["labels"], temperature=case.hp["temperature"])
    for name, value in case.out.items():
        close(out[name], value, TOLERANCE)
    for name, leaf in zip(names, leaves, strict=True):
        close(grad_of(out["loss"], leaf), case.grad[name], TOLERANCE)


def check_masked_teacher(case: Case) -> None:
    net = nn.Sequential()
    net.add_module("fc1", nn.Linear(4, 8))
    net.add_module("act", nn.ReLU())
    net.add_module("fc2", nn.Linear(8, 3))
    hp = case.hp
    mask = MaskNet(hp["feature_dim"], num_heads=hp["num_heads"], hidden_dim_factor=hp["hidden_dim_factor"])
    for module, prefix in ((net, "teacher."), (mask, "mask.")):
        own = {k.removeprefix(prefix): v for k, v in case.params.items() if k.startswith(prefix)}
        module.double().load_state_dict(own)
    z = SpecializedTeacher(net, "fc1", mask)(case.inputs["x"])
    close(z, case.out["teacher_logits"], TOLERANCE)
    goal, tau = case.inputs["student_logits"], hp["temperature"]
    loss, _ = routed_distillation_loss(z, goal[None], torch.ones(len(z), 1).double(), temperature=tau)
    close(loss, case.out["loss"], TOLERANCE)
    close(grad_of(loss, mask.fc.weight), case.grad["mask.fc.weight"], TOLERANCE)
    close(grad_of(loss, mask.embed.bias), case.grad["mask.embed.bias"], TOLERANCE)


@parity(
    "mst_distill",
    {
        "masknet*": check_mask,
        "gate_*": check_gate,
        "load_balance_*": check_balance,
        "routed_*": check_routed,
        "weighted_*": check_routed,
        "cotrain_*": check_cotrain,
        "masked_teacher_*": check_masked_teacher,
    },
)
def test_parity(case: Case, check: Any) -> None:
    check(case)
    case.assert_all_read()


# By hand, and against a slow oracle -----------------------------------------------------------------------------------


def kd(s: Tensor, t: Tensor, tau: float) -> Tensor:
    p, q = (t / tau).softmax(-1), (s / tau).softmax(-1)
    return tau**2 * (p * (p.log() - q.log())).sum(-1)


@pytest.mark.parametrize("routing", ["topk", "weighted", "soft"])
def test_routing_equals_a_loop_over_samples(routing: str) -> None:
    gen = torch.Generator().manual_seed(0)
    s, z, g = (torch.randn(*n, generator=gen, dtype=torch.float64) for n in ((5, 4), (3, 5, 4), (5, 3)))
    g = g.softmax(1)
    total = torch.zeros((), dtype=torch.float64)
    for n in range(5):
        if routing == "topk":
            best = sorted(range(3), key=lambda e, n=n: -g[n, e].item())[:2]
            total += sum(kd(s[n], z[e, n], 2.0) for e in best) / 2
        elif routing == "soft":
            total += sum(g[n, e] * kd(s[n], z[e, n], 2.0) for e in range(3))
        else:
            total += kd(s[n], sum(g[n, e] * z[e, n] for e in range(3)), 2.0)
    loss, _ = routed_distillation_loss(s, z, g, routing=routing, top_k=2, temperature=2.0)
    close(loss, total / 5, 1e-12)


def test_cotraining_is_six_divergences_and_three_cross_entropies() -> None:
    gen = torch.Generator().manual_seed(4)
    logits = [torch.randn(5, 3, generator=gen, dtype=torch.float64) for _ in range(3)]
    y = torch.tensor([0, 2, 1, 1, 0])
    out = cotraining_loss(*logits, y, temperature=2.0)
    for name, i in (("student", 0), ("auxiliary", 1), ("multimodal", 2)):
        own = logits[i]
        hard = -torch.stack([own[n].log_softmax(0)[y[n]] for n in range(5)]).mean()
        close(out[name], hard + sum(kd(own, logits[j], 2.0).mean() for j in range(3) if j != i), 1e-12)
    close(out["loss"], sum(out[n] for n in ("student", "auxiliary", "multimodal")), 1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(2, 5), st.integers(2, 6), st.sampled_from(["topk", "weighted", "soft"]),
    st.integers(0, 99),
)  # fmt: skip
def test_routed_losses_know_no_order_and_no_offset(
    samples: int, experts: int, classes: int, way: str, seed: int
) -> None:
    gen = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=gen, dtype=torch.float64)
    s, z, g = draw(samples, classes), draw(experts, samples, classes), draw(samples, experts).softmax(1)
    k, order = 1 + seed % experts, torch.randperm(experts, generator=gen)
    loss, chosen = routed_distillation_loss(s, z, g, routing=way, top_k=k)
    assert loss >= -1e-12
    other, moved = routed_distillation_loss(s + draw(samples, 1), z[order], g[:, order], routing=way, top_k=k)
    close(other, loss, 1e-10)
    assert torch.equal(chosen, order[moved]) if way == "topk" else torch.equal(chosen[:, order], moved)
    same, _ = routed_distillation_loss(s, s.expand_as(z), g, routing=way, top_k=k)
    close(same, torch.zeros_like(same), 1e-10)


def test_many_logits_take_another_way_to_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = torch.Generator().manual_seed(3)
    draw = partial(torch.randn, generator=gen, dtype=torch.float64)
    for shape in ((4, 3), (2, 3, 2, 2)):
        s, z, g = draw(*shape).requires_grad_(), draw(3, *shape), draw(shape[0], 3).softmax(1)
        found = []
        for few in (2**18, 0):
            monkeypatch.setattr(specialized, "_FEW", few)
            loss, chosen = routed_distillation_loss(s, z, g, top_k=2)
            found.append((loss, grad_of(loss, s), chosen))
        close(found[1][0], found[0][0], 1e-12)
        close(found[1][1], found[0][1], 1e-12)
        assert torch.equal(found[0][2], found[1][2])


def test_who_gets_a_gradient() -> None:
    gen = torch.Generator().manual_seed(1)
    s, z, raw = (torch.randn(*n, generator=gen, dtype=torch.float64) for n in ((4, 3), (2, 4, 3), (4, 2)))
    for leaf in (s, z, raw):
        leaf.requires_grad_()
    for routing, learns in (("topk", False), ("weighted", False), ("soft", True)):
        loss, _ = routed_distillation_loss(s, z, raw.softmax(1), routing=routing)
        grads = torch.autograd.grad(loss, (s, z, raw), allow_unused=True)
        assert grads[0].abs().sum() > 0 and grads[1] is None and (grads[2] is not None) == learns
    own = [t.detach().requires_grad_() for t in (s, z[0], z[1])]
    held = cotraining_loss(*own, torch.tensor([0, 1, 2, 0]), detach_targets=True)
    assert torch.autograd.grad(held["student"], own[1], allow_unused=True)[0] is None


def test_gradcheck() -> None:
    gen = torch.Generator().manual_seed(2)
    a, b, c = (torch.randn(3, 4, generator=gen, dtype=torch.float64, requires_grad=True) for _ in range(3))
    y = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda *x: cotraining_loss(*x, y)["loss"], (a, b, c))
    z, g = torch.randn(2, 3, 4, generator=gen).double(), torch.rand(3, 2, generator=gen).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, g: routed_distillation_loss(s, z, g, routing="soft")[0], (a, g))


def test_bfloat16_is_read_as_float32() -> None:
    s, z, g = torch.randn(4, 3).bfloat16(), torch.randn(2, 4, 3).bfloat16(), torch.tensor([[0.9, 0.1]] * 4)
    low, high = (routed_distillation_loss(a, b, g)[0] for a, b in ((s, z), (s.float(), z.float())))
    assert low.dtype == torch.float32
    close(low, high, 1e-5)
    three, y = (s, z[0], z[1]), torch.tensor([0, 1, 2, 0])
    close(cotraining_loss(*three, y)["loss"], cotraining_loss(*(t.float() for t in three), y)["loss"], 1e-5)


def test_weights_shrink_after_the_first_epoch_already() -> None:
    kl, lb, seen = 1.0, 1.0, []
    for epoch in range(65):
        seen.append((kl, lb))
        lb *= 0.9 if epoch % 10 == 0 else 1.0
        kl *= 0.5 if epoch % 30 == 0 else 1.0
    assert [tuple(stage_weights(e)) for e in range(65)] == [pytest.approx(w) for w in seen]
    assert seen[1] == (0.5, 0.9)


# Specialized teachers -------------------------------------------------------------------------------------------------


class Half(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h.new_full(h.shape[:2], 0.5)


def test_a_mask_by_hand_and_hooks_go() -> None:
    net = nn.Sequential(nn.Identity(), nn.Flatten())
    teacher = SpecializedTeacher(net, "0", Half())
    x = torch.arange(8.0).view(2, 2, 2, 1)
    close(teacher(x), x.flatten(1) / 2)
    assert teacher.last_mask.shape == (2, 2) and torch.equal(teacher.last_features, x)
    assert not net[0]._forward_hooks
    close(net(x), x.flatten(1))


def test_hooks_go_when_the_network_fails() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        SpecializedTeacher(net, "0", Half())(torch.ones(1, 2))
    assert not net[0]._forward_hooks


def test_wrong_layers_are_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.pair = nn.Linear(2, 2), nn.Linear(2, 2), Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(self.pair(x)[0])

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x, x

    x = torch.ones(1, 2)
    with pytest.raises(KeyError, match="used, unused, pair"):
        SpecializedTeacher(Odd(), "nowhere", Half())
    with pytest.raises(RuntimeError, match="'unused' was never executed"):
        SpecializedTeacher(Odd(), "unused", Half())(x)
    with pytest.raises(TypeError, match="must return a tensor, got tuple"):
        SpecializedTeacher(Odd(), "pair", Half())(x)


def test_masknet_takes_maps_of_one_place() -> None:
    mask = MaskNet(6)
    x = torch.randn(2, 6, 1, 1)
    close(mask(x), mask(x.flatten(1)))
    with pytest.raises(ValueError, match="features must be"):
        mask(torch.randn(2, 6, 2, 2))


# The training ---------------------------------------------------------------------------------------------------------


def test_the_stages_train_whom_they_should() -> None:
    training, seen = MSTTraining.example(), {}

    def look(event: object) -> None:
        if isinstance(event, Epoch):
            nets = {n: getattr(training, n) for n in ("student", "auxiliary", "multimodal")}
            seen[event.stage] = {n: [p.detach().clone() for p in m.parameters()] for n, m in nets.items()}

    result = fit(training, accelerator="cpu", callbacks=[look])

    def same(name: str, first: str, second: str) -> bool:
        return all(torch.equal(a, b) for a, b in zip(seen[first][name], seen[second][name], strict=True))

    assert list(seen) == ["co-train", "masks", "route"]
    assert all(same(n, "co-train", "masks") for n in seen["masks"])
    assert same("auxiliary", "masks", "route") and same("multimodal", "masks", "route")
    assert not same("student", "masks", "route")
    assert [set(e.terms) for e in result.history][::2] == [
        {"student", "auxiliary", "multimodal"},
        {"mask0", "mask1", "mask2"},
        {"ce", "route", "balance"},
    ]
    assert sum(result.history[-1].logged.values()) == pytest.approx(1.0)


def test_stacked_masks_change_the_second_teacher_of_a_network_only() -> None:
    training = MSTTraining.example()
    fit(training, accelerator="cpu")
    x, other, _ = next(iter(training.data))
    with torch.no_grad():
        alone = training.answers(x, other)
        training.options["cumulative_masks"] = True
        stacked = training.answers(x, other)
    same = [torch.equal(a, b) for a, b in zip(alone, stacked, strict=True)]
    assert same == [True, False, True]


def test_the_distiller_keeps_the_best_student() -> None:
    example = MSTTraining.example()
    distiller = MSTDistiller(
        example.student, example.auxiliary, example.multimodal, auxiliary_layers=("fc1",),
        multimodal_layers=("fc1", "fc2"), num_classes=3, epochs=(1, 1, 3), lr=(1e-2, 1e-2, 0.5),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    result = distiller.fit(example.data, example.held_out, accelerator="cpu")
    routed = [e.metrics["ce"] for e in distiller.history if e.stage == "route"]
    x, _, y = example.held_out[0]
    assert F.cross_entropy(result.student(x), y).item() == pytest.approx(min(routed), rel=1e-5)


# The study ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoSensorTask:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    return study.task_of(0, train_size=60, test_size=100)


def test_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    found = find_study("mst_distill")
    comparison = found.run(seeds=2, epochs=2, train_size=60, test_size=100)
    staged = (study.MST, study.UNMASKED, study.FIRST)
    assert comparison.arms == (study.CE, study.KD_BOTH, study.KD_IMAGE, *staged)
    for arm in comparison.arms:
        stages = [e.stage for e in comparison.histories[arm, 1]]
        masks = ["masks"] if arm in (study.MST, study.FIRST) else []
        assert stages == (["co-train", *masks, "route"] if arm in staged else ["", ""]), arm
    verdicts = found.verdicts(comparison)
    assert len(verdicts) == 6 and all(v.n == 2 for v in verdicts)
    for name, (masked, unmasked) in study.drift(comparison).items():
        assert name in study.TEACHERS and masked.shape == unmasked.shape == (2,) and (masked != unmasked).all()
    always = comparison.histories[study.FIRST, 0][-1].logged
    assert list(always.values()) == [1.0, 0.0, 0.0]


def test_stages_share_the_student_s_epochs() -> None:
    assert study.stage_epochs(100) == (20, 10, 80)
    assert study.stage_epochs(2) == (1, 1, 1)
    for arm in study.arms(epochs=30):
        assert arm.train["epochs"] == (33 if arm.label.startswith("MST") else 30)


def test_kd_from_a_chosen_teacher_is_the_kd_of_an_arm(small: TwoSensorTask) -> None:
    options = {"temperature": 4.0, "ce_weight": 1.0, "kd_weight": 1.0}
    own = partial(study.taught_by, name="both", epochs=3, temperature=4.0)
    both = [Arm("arm", "kd", options, train={"epochs": 3}), Arm("training", training=own, train={"epochs": 3})]
    found = compare(small, both, seeds=1)
    states = [found.students[arm, 0].state_dict() for arm in found.arms]
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


def test_masks_see_the_test_samples_only_to_be_measured(small: TwoSensorTask) -> None:
    """Training with other held-out samples ends in the same weights."""
    ends = []
    for other in (False, True):
        made = study.training(small, None, small.student(seed=0), 0, epochs=5)
        if other:
            made.held_out = small.paired("train", shuffle=False)
        fit(made, accelerator="cpu", seed=0)
        ends.append({n: v for n, v in made.state_dict().items() if "best" not in n and "losses" not in n})
    assert all(torch.equal(a, b) for a, b in zip(*(e.values() for e in ends), strict=True))


def test_masks_learn_towards_the_student(small: TwoSensorTask) -> None:
    made = study.training(small, None, small.student(seed=0), 0, epochs=50)
    masks = [e.metrics for e in fit(made, accelerator="cpu", seed=0).history if e.stage == "masks"]
    for name in study.TEACHERS:
        assert masks[-1][f"masked {name}"] < masks[0][f"masked {name}"]
        assert masks[-1][f"open {name}"] == pytest.approx(masks[0][f"open {name}"], rel=1e-6), "teachers stand still"


# Borders --------------------------------------------------------------------------------------------------------------

S, Z, G = torch.zeros(4, 3), torch.ones(2, 4, 3), torch.full((4, 2), 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k must be"),
        ({"top_k": 3}, "top_k must be"),
        ({"top_k": 1.5}, "top_k must be an integer"),
        ({"gate_probs": torch.ones(4, 2).long()}, "gate_probs must be floating"),
        ({"teacher_logits": torch.ones(2, 4, 2)}, "teacher_logits must be"),
        ({"gate_probs": torch.ones(4, 3)}, "gate_probs must be"),
        ({"routing": "best"}, "routing must be"),
        ({"temperature": 0.0}, "temperature must be"),
    ],
)
def test_wrong_routing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        routed_distillation_loss(**({"student_logits": S, "teacher_logits": Z, "gate_probs": G} | change))


def test_other_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be"):
        load_balancing_loss(G, mode="l2")
    with pytest.raises(ValueError, match="no width"):
        MaskNet(5, num_heads=3, hidden_dim_factor=2)
    with pytest.raises(ValueError, match="temperature must be"):
        cotraining_loss(S, S, S, torch.zeros(4).long(), temperature=-1.0)
    with pytest.raises(ValueError, match="same shape"):
        cotraining_loss(S, S, torch.ones(4, 2), torch.zeros(4).long())
    with pytest.raises(ValueError, match="student_logits must be"):
        GateNet(4, 2)(S)
    with pytest.raises(ValueError, match="epoch must be"):
        stage_weights(-1)
    net = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError, match="top_k must be"):
        MSTDistiller(net, net, net, auxiliary_layers=("0",), multimodal_layers=("0",), num_classes=3, top_k=3)


def test_whole_numbers_are_no_logits_and_labels_are_classes() -> None:
    with pytest.raises(TypeError, match="student_logits must be a floating"):
        routed_distillation_loss(S.long(), Z, G)
    with pytest.raises(TypeError, match="teacher_logits must be a floating"):
        routed_distillation_loss(S, Z.long(), G)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 3"):
        cotraining_loss(S, S, S, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(TypeError, match="labels must have an integer dtype"):
        cotraining_loss(S, S, S, torch.zeros(4))
    with pytest.raises(ValueError, match="num_classes and num_teachers"):
        GateNet(0, 2)


def trained_with(**change: Any) -> MSTTraining:
    e = MSTTraining.example()
    options: dict[str, Any] = {"auxiliary_layers": ("fc1",), "multimodal_layers": ("fc1",), "num_classes": 3} | change
    return MSTTraining(e.student, e.auxiliary, e.multimodal, e.data, e.held_out, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auxiliary_layers": (), "multimodal_layers": ()}, "name no layer"),
        ({"auxiliary_layers": (), "load_balance_mode": "cv"}, "needs at least 2 layers"),
        ({"epochs": (1, 1)}, "epochs must be three"),
        ({"epochs": (1, 1, 0)}, "epochs must be three"),
        ({"epochs": 3}, "epochs must be three"),
        ({"lr": (1e-3, 1e-3, -1.0)}, "lr must be three"),
    ],
)
def test_wrong_options_are_refused_at_once(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained_with(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_classes": 4}, "num_classes is 4"), ({"num_heads": 9}, "no width"), ({"hidden_dim_factor": 0}, ">= 1")],
)
def test_what_does_not_fit_is_refused_before_stage_1(change: dict[str, Any], message: str) -> None:
    training = trained_with(**change)
    before = [p.detach().clone() for p in training.parameters()]
    with pytest.raises(ValueError, match=message):
        fit(training, accelerator="cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, training.parameters(), strict=True)), "nothing was learnt"
