"""The diagnosis itself: what it holds, that it leaves the models alone, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore.checkpoints import state_hash
from kdcore.diagnose import ALARM, CODES, TABLES, Diagnosis, Finding, diagnose
from kdcore.diagnose._history import SoftTerm, lacks_t2, soft_term
from kdcore.diagnose._probes import CHANCE, LIKELIER, Gain, compete
from kdcore.diagnose._weights import fresh, odd_weights, stages
from kdcore.functional.agreement import paired_gain
from kdcore.functional.alignment import procrustes_coordinates
from kdcore.functional.divergences import kd_loss, kl_with_temperature
from kdcore.inputs import Normalize
from kdcore.model_layers import collect_features
from kdcore.models import MLP, ConvNet

LIGHT: dict[str, Any] = {"bootstrap": 10, "mask_ratios": (0.5,), "mask_samples": 16, "occlusion_images": 2}


def blobs(n: int = 96, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images whose class is the quarter that is bright."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    x = 0.3 * torch.rand(n, 3, 8, 8, generator=g)
    for k in range(classes):
        x[y == k, :, 4 * (k // 2) : 4 * (k // 2) + 4, 4 * (k % 2) : 4 * (k % 2) + 4] += 0.6
    return x, y


class Quarters(nn.Module):
    """Knows the answer: the mean of each quarter, times a sharpness."""

    def __init__(self, sharp: float = 20.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(12, 4)
        with torch.no_grad():
            self.head.weight.copy_(sharp / 3 * torch.eye(4).repeat(1, 3))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(x).flatten(1))


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    return diagnose(Quarters(), Quarters(12.0), blobs(), class_names=list("abcd"), **LIGHT)


def test_numbers_agree_with_a_direct_computation(found: Diagnosis) -> None:
    x, y = found.sample.x, found.labels
    s, t = Quarters(12.0)(x).detach(), Quarters()(x).detach()
    assert y is not None and len(x) == 96
    assert found.said["student"].accuracy == pytest.approx(float((s.argmax(1) == y).double().mean()))
    assert found.said["teacher"].nll == pytest.approx(float(F.cross_entropy(t.double(), y)), abs=1e-6)
    assert found.agreement["top1"] == 1.0 == found.agreement["kendall"]
    assert found.agreement["kl"] == pytest.approx(float(kl_with_temperature(s, t).mean()), abs=1e-6)
    assert found.cost["teacher"]["parameters"] == 52
    assert found.cost["teacher"]["flops"] == 2 * 12 * 4


def test_alignment_is_that_of_the_embeddings(found: Diagnosis) -> None:
    last = found.alignments[-1]
    loader = [(found.sample.x, found.labels)]
    s, t = (collect_features(m, loader, "head:in")["head:in"] for m in (Quarters(12.0), Quarters()))
    assert last.alignment is not None
    assert last.alignment.disparity == pytest.approx(procrustes_coordinates(s, t).disparity, abs=1e-9)
    assert len(last.alignment.residual) == 96


def test_sample_keeps_positions_of_the_data(found: Diagnosis) -> None:
    x, y = blobs()
    assert torch.equal(x[found.sample.index], found.sample.x) and torch.equal(y[found.sample.index], found.labels)
    assert sorted(found.sample.index.tolist()) == list(range(96))


def test_missed_samples_are_those_only_the_teacher_gets_right() -> None:
    x, y = blobs()

    class Blind(nn.Module):  # never says class 3
        def __init__(self) -> None:
            super().__init__()
            self.inner = Quarters(9.0)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.inner(x)
            return torch.cat([scores[:, :3], scores.min(1, keepdim=True).values - 1], 1)

    result = diagnose(Quarters(), Blind(), (x, y), **LIGHT)
    rows = result.missed()
    assert {r["index"] for r in rows} == set((y == 3).nonzero().flatten().tolist())
    assert [r["confidence"] for r in rows] == sorted((r["confidence"] for r in rows), reverse=True)
    assert result.per_class()[0]["class"] == "3" and result.per_class()[0]["gap"] == 1.0
    assert "missing_class" in {f.code for f in result.alarms}


def test_forms(found: Diagnosis) -> None:
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["healthy"] is found.healthy and plain["samples"] == 96
    for table in TABLES:
        found.to_dataframe(table)
    page = found.to_html()
    assert page.startswith("<!DOCTYPE html>") and "http" not in page and found.summary()[:20] in page
    with pytest.raises(ValueError, match="table must be one of"):
        found.to_dataframe("nothing")


def test_findings_are_ranked_and_in_the_vocabulary(found: Diagnosis) -> None:
    severities = [f.severity for f in found.findings]
    assert severities == sorted(severities, reverse=True) and all(0 <= s <= 1 for s in severities)
    assert found.alarms == [f for f in found.findings if f.severity >= ALARM]
    with pytest.raises(ValueError, match="code must be one of"):
        Finding(code="bad_luck", severity=1, sentence="", evidence={}, try_next="")


def test_documentation_lists_every_code_with_its_rule() -> None:
    text = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text(encoding="utf-8")
    for name, code in CODES.items():
        assert f"| `{name}` | {code.meaning} | {code.rule} | {code.reason} |" in text, f"docs/diagnose.md: {name}"


def test_models_are_left_as_they_were() -> None:
    teacher, student = ConvNet((4, 4), 4, in_channels=3).train(), ConvNet((4, 4), 4, in_channels=3)
    teacher.stage1.eval()
    before = [
        (state_hash(m), [x.training for x in m.modules()], [len(x._forward_hooks) for x in m.modules()])
        for m in (teacher, student)
    ]
    random = torch.get_rng_state()
    diagnose(teacher, student, blobs(), **LIGHT)
    assert before == [
        (state_hash(m), [x.training for x in m.modules()], [len(x._forward_hooks) for x in m.modules()])
        for m in (teacher, student)
    ]
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for m in (teacher, student) for p in m.parameters())


def test_same_seed_same_diagnosis_whatever_the_loader() -> None:
    x, y = blobs()
    loaders = [DataLoader(TensorDataset(x, y), batch_size=b, shuffle=s) for b, s in ((16, True), (40, False))]
    first, second = (diagnose(Quarters(), Quarters(5.0), d, limit=64, **LIGHT) for d in loaders)
    assert torch.equal(first.sample.x, second.sample.x)
    assert first.to_dict()["findings"] == second.to_dict()["findings"]


def test_vectors_dicts_and_missing_labels() -> None:
    x = torch.randn(80, 6)
    torch.manual_seed(0)
    teacher, student = MLP(6, (8,), 3), MLP(6, (4,), 3)
    unlabelled = diagnose(teacher, student, (x,), **LIGHT)
    assert unlabelled.labels is None and unlabelled.said["teacher"].accuracy is None
    assert unlabelled.occlusion is None and unlabelled.robustness == []
    stream = ({"x": part, "label": part.argmax(1) % 3} for part in x.split(20))
    assert diagnose(teacher, student, stream, **LIGHT).labels is not None


def test_stated_normalisation_is_applied_and_dropped_when_the_model_is_better_without() -> None:
    x, y = blobs()

    class Stated(Quarters):
        def __init__(self) -> None:
            super().__init__()
            self.default_cfg = {"mean": (0.9, 0.9, 0.9), "std": (0.5, 0.5, 0.5)}

    with_config = diagnose(Quarters(), Stated(), (x, y), **LIGHT)
    assert with_config.inputs["student"]["input"].startswith("normalised as")  # harmless to this model
    assert with_config.healthy

    class Wrong(Stated):  # negative inputs are cut away
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clamp_min(0))

    dropped = diagnose(Quarters(), Wrong(), (x, y), **LIGHT)
    assert dropped.inputs["student"]["input"].endswith("states)") and dropped.said["student"].accuracy == 1.0
    assert dropped.healthy
    explicit = diagnose(Quarters(), Wrong(), (x, y), student_transform=Normalize((0.9,), (0.5,)), **LIGHT)
    assert explicit.findings[0].code == "input_normalization_mismatch" and explicit.findings[0].alarm


def test_refusals() -> None:
    x, y = blobs(24)
    model = Quarters()
    with pytest.raises(TypeError, match=r"student must be an nn\.Module, got function"):
        diagnose(model, lambda x: x, (x, y))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the student gives 7 classes and the teacher 4"):
        diagnose(model, MLP((3, 8, 8), (4,), 7), (x, y))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\), got 9"):
        diagnose(model, model, (x, y.index_fill(0, torch.tensor([3]), 9)))
    with pytest.raises(ValueError, match="NaN or infinity, in samples"):
        diagnose(model, model, (x.index_fill(0, torch.tensor([5]), float("nan")), y))
    with pytest.raises(ValueError, match="class_names must hold 4 names"):
        diagnose(model, model, (x, y), class_names=["a"])
    with pytest.raises(ValueError, match=r"must give \(N, C\) class scores"):
        diagnose(model, nn.Conv2d(3, 4, 1), (x, y))
    with pytest.raises(TypeError, match="data must be a loader"):
        diagnose(model, model, 3)
    with pytest.raises(ValueError, match="data gave no samples"):
        diagnose(model, model, [])
    with pytest.raises(TypeError, match="student_transform must be callable"):
        diagnose(model, model, (x, y), student_transform="imagenet")
    with pytest.raises(ValueError, match="initial must hold the student's weights"):
        diagnose(model, model, (x, y), initial={"other.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="loss needs settings"):
        diagnose(model, model, (x, y), loss=lambda s, t: (s - t).square().mean(), **LIGHT)
    with pytest.raises(ValueError, match="limit must be"):
        diagnose(model, model, (x, y), limit=0)


@pytest.mark.parametrize("temperature", [2.0, 4.0, 10.0])
def test_loss_tells_whether_it_has_t2(temperature: float) -> None:
    s, t = torch.randn(2, 8, 10)
    for factor, expected in ((1.0, True), (temperature**2, False)):
        term = soft_term(
            lambda a, b, k=factor: k * kl_with_temperature(a, b, temperature=temperature).mean(),
            None,
            {"temperature": temperature},
            s,
            t,
        )
        assert term is not None and lacks_t2(term) is expected
        assert term.ratio == pytest.approx(factor / temperature**2, rel=1e-4)


def test_history_tells_whether_the_soft_term_has_t2() -> None:
    s, t = torch.randn(2, 64, 10)
    full = kd_loss(s, t, temperature=5.0).item()
    nested = {"methods": {"kd": {"temperature": 5.0, "kd_weight": 0.9}}}
    for value, expected in ((0.9 * full, False), (0.9 * full / 25, True)):
        term = soft_term(None, [{"ce": 1.0, "kd": 3.0}, {"ce": 0.2, "kd": value}], nested, s, t)
        assert term is not None and lacks_t2(term) is expected
    assert soft_term(None, None, {"temperature": 5.0}, s, t) is None
    assert not lacks_t2(SoftTerm(1.0, 1.0, "the settings"))  # at T = 1 there is nothing to lack


def test_stages_know_initial_weights_from_trained_ones() -> None:
    torch.manual_seed(0)
    model = ConvNet((8, 16, 32), 10)
    assert all(s.initial for s in stages(model) if s.parameters > 64)
    first = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for p in model.stage2.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert {s.name: s.initial for s in stages(model)}["stage2"] is False
    assert {s.name: s.initial for s in stages(model, first)} == {
        "stage1": True,
        "stage2": False,
        "stage3": True,
        "head": True,
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvNet((16, 32, 32), 10),
        lambda: MLP((1, 8, 8), (48, 48), 10),
        lambda: nn.Sequential(nn.LSTM(16, 24), nn.Linear(24, 10)),
        lambda: __import__("timm").create_model("resnet10t", num_classes=6),
        lambda: __import__("timm").create_model("test_vit", num_classes=6),
        lambda: __import__("torchvision").models.mobilenet_v2(num_classes=6, width_mult=0.25),
    ],
)
def test_a_network_never_trained_is_known_by_its_weights_whatever_drew_them(make: Any) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        model = make()
        assert fresh(stages(model)), [s for s in stages(model) if s.trained]
    with torch.no_grad():  # what a few hundred steps leave at least: every parameter has moved
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    assert not fresh(stages(model))


def test_odd_weights_are_zeros_and_outliers() -> None:
    torch.manual_seed(0)
    model = MLP((16,), (32, 32), 4)
    assert odd_weights(model) == []
    first, second = [p for p in model.parameters() if p.ndim == 2][:2]
    with torch.no_grad():
        first[:24] = 0
        second[0, 0] = 1e4
    zeros, wild = odd_weights(model)
    assert zeros.zeros == pytest.approx(0.75) and wild.zeros == 0 and wild.outlier > 1e4


def test_repairs_compete_by_accuracy_then_likelihood_then_freedom() -> None:
    y = torch.arange(200) % 4
    good = 3.0 * torch.nn.functional.one_hot(y, 4).float()

    def gain(code: str, logits: Tensor) -> Gain:
        return Gain(role="student", code=code, words="", before=0.2, after=1.0, samples=200, p=0.0, logits=logits)

    swap, renamed = compete([gain("swapped_channels", good), gain("label_permutation", good.clone())], y)
    assert (swap.behind, renamed.behind) == (0, 1)  # equal: the one with less freedom
    dull = good / 3
    swap, renamed = compete([gain("swapped_channels", dull), gain("label_permutation", good)], y)
    assert (swap.behind, renamed.behind) == (1, 0)  # surer of the labels
    wrong = good.clone()
    wrong[:40] = wrong[:40].roll(1, 1)
    swap, renamed = compete([gain("swapped_channels", wrong), gain("label_permutation", good)], y)
    assert (swap.behind, renamed.behind) == (1, 0)  # more often right


class Flip(nn.Module):
    """Its input, one dimension reversed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.dim)


class Tinted(nn.Module):
    """Names the quarter whose mean is largest; that its red exceeds its blue is weak evidence of its own."""

    def forward(self, x: Tensor) -> Tensor:
        quarters = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(2)
        return 6 * quarters.mean(1) + 0.8 * (quarters[:, 0] - quarters[:, 2])


def tinted(n: int = 256) -> tuple[Tensor, Tensor]:
    """Noisy quarters, the bright one reddish, and their labels."""
    g = torch.Generator().manual_seed(3)
    y = torch.randint(4, (n,), generator=g)
    levels = 0.8 * torch.randn(n, 3, 4, generator=g)
    levels[torch.arange(n), :, y] += torch.tensor([2.1, 1.5, 0.9])
    return levels.view(n, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3), y


def test_rearranged_channels_that_cost_few_answers_are_seen_by_the_likelihood_of_the_labels() -> None:
    x, y = tinted()
    swapped = nn.Sequential(Flip(1), Tinted())
    right = [m(x).argmax(1) == y for m in (swapped, Tinted())]
    found = paired_gain(*right)
    assert found.gain > 0 and found.p > CHANCE  # the answers alone do not tell
    first = diagnose(Tinted(), swapped, (x, y), **LIGHT).findings[0]
    assert first.code == "swapped_channels" and first.alarm and first.evidence["model"] == "student"
    assert first.evidence["p_likelihood"] <= LIKELIER
    assert diagnose(Tinted(), Tinted(), (x, y), **LIGHT).healthy


def test_few_samples_are_counted_and_four_are_enough() -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))

    torch.manual_seed(0)
    for n in (1, 3):
        with pytest.raises(ValueError, match=rf"data gave {n} samples?: a diagnosis needs at least 4"):
            diagnose(net(), net(), (torch.rand(n, 12), torch.arange(n)))
    assert diagnose(net(), net(), (torch.rand(4, 12), torch.arange(4))) is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_teacher_in_half_precision_is_examined(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    teacher, student = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        for _ in range(2)
    )
    data = (torch.rand(32, 3, 8, 8), torch.arange(32) % 4)
    full, half = diagnose(teacher, student, data), diagnose(teacher.to(dtype), student, data)
    assert half.to_dict().keys() == full.to_dict().keys()
