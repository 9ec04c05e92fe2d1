"""DHO against the authors' code, by hand, and as an objective of the loop."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import Case, close, grad_of, parity
from torch import Tensor, nn

from kdcore.distiller import distill
from kdcore.functional.dual_heads import zero_shot_weights
from kdcore.method import Signals
from kdcore.methods.dho import (
    DHO,
    DualHeadStudent,
    OpenClipTeacher,
    ZeroShotTeacher,
    dho_loss,
    dual_head_probabilities,
    gradient_conflict,
    search_interpolation,
    tip_adapter_logits,
)
from kdcore.models import ConvNet
from kdcore.registry import create_method
from kdcore.studies import find_study
from kdcore.studies.dho import CE, DUAL, KD, OTHERS, SINGLE, OtherImages, both_heads, searched, searched_accuracy
from kdcore.tasks import load_task

TOLERANCE = 1e-10


# Parity ---------------------------------------------------------------------------------------------------------------


def check_loss(case: Case) -> None:
    leaves = {k: case.leaf(k) for k in ("ce_logits", "kd_logits_labeled", "kd_logits_unlabeled")}
    theirs = {k: case.inputs[k] for k in ("teacher_logits_labeled", "teacher_logits_unlabeled")}
    out = dho_loss(**leaves, **theirs, labels=case.inputs["labels"], **case.hp)
    for key, value in case.out.items():
        close(out[key], value, TOLERANCE)
    for key, value in case.grad.items():
        close(grad_of(out["loss"], leaves[key]), value, TOLERANCE)


def check_search(case: Case) -> None:
    ce, kd, labels = (case.inputs[k] for k in ("ce_logits", "kd_logits", "labels"))
    found = search_interpolation(ce, kd, labels, alphas=case.hp["alphas"], betas=case.hp["betas"])
    assert (found.accuracy, found.alpha, found.beta) == tuple(
        pytest.approx(float(case.out[k]), abs=TOLERANCE) for k in ("accuracy", "alpha", "beta")
    )
    close(dual_head_probabilities(ce, kd, alpha=found.alpha, beta=found.beta), case.out["probs"], TOLERANCE)


def check_zero_shot(case: Case) -> None:
    teacher = ZeroShotTeacher.from_text_embeddings(
        nn.Identity(), case.inputs["text_embeddings"], logit_scale=case.hp["logit_scale"]
    )
    close(teacher.text_weights, case.out["weights"], TOLERANCE)
    close(teacher(case.inputs["image_embeddings"]), case.out["logits"], TOLERANCE)


def check_tip_adapter(case: Case) -> None:
    keys = ("image_features", "cache_keys", "cache_values", "clip_weights")
    close(tip_adapter_logits(*(case.inputs[k] for k in keys), **case.hp), case.out["logits"], TOLERANCE)


@parity(
    "dho",
    {
        "loss_*": check_loss,
        "search_*": check_search,
        "zero_shot_*": check_zero_shot,
        "tip_adapter_*": check_tip_adapter,
    },
)
def test_parity(case: Case, check: Any) -> None:
    check(case)
    case.assert_all_read()


# By hand --------------------------------------------------------------------------------------------------------------


def test_tip_adapter_by_hand() -> None:
    """Two classes; the image is the first labelled image, and at a right angle to the second."""
    e, keys, values = torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.eye(2)
    out = tip_adapter_logits(e, keys, values, torch.tensor([[0.6, 0.0], [0.8, 1.0]]), alpha=2.0, beta=3.0)
    close(out, torch.tensor([[60 + 2.0, 2 * math.exp(-3)]]), 1e-5)


def test_gradient_conflict_by_hand() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    unused = nn.Parameter(torch.zeros(3))
    out = gradient_conflict(3 * w[0], -2 * w[0] + 2 * w[1], [w, unused])
    assert out == pytest.approx(
        {"cosine": -1 / math.sqrt(2), "ce_norm": 3.0, "kd_norm": 2 * math.sqrt(2), "conflict": 1}
    )
    none = gradient_conflict(w.sum() * 0, w.sum(), [w])
    assert math.isnan(none["cosine"]) and none["conflict"] == 0 and w.grad is None
    with pytest.raises(ValueError, match="at least one tensor"):
        gradient_conflict(w.sum(), w.sum(), [])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 20), st.floats(0.1, 5))
def test_tip_adapter_is_the_zero_shot_teacher_without_a_cache(seed: int, beta: float, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    e = F.normalize(torch.randn(4, 5, generator=g, dtype=torch.float64), dim=1)
    text = zero_shot_weights(torch.randn(3, 2, 5, generator=g, dtype=torch.float64))
    keys, values = F.normalize(torch.randn(6, 5, generator=g, dtype=torch.float64), dim=1), torch.eye(3).repeat(2, 1)
    out = tip_adapter_logits(e, keys, values.double(), text, alpha=0.0, beta=beta, logit_scale=scale)
    close(out, ZeroShotTeacher(nn.Identity(), text, logit_scale=scale)(e), 1e-12)


# As an objective ------------------------------------------------------------------------------------------------------


def signals() -> Signals:
    return DHO.example(batch=9)


def test_terms_and_labels_are_those_of_the_loss() -> None:
    s = signals()
    method = create_method("dho", temperature=3.0, ce_weight=0.7, kd_weight=0.2)
    ce, kd = s.student_output
    known = s.labels != -100
    whole = dho_loss(
        ce[known], kd[known], kd[~known], s.teacher_logits[known], s.teacher_logits[~known], s.labels[known],
        temperature=3.0, ce_weight=0.7, kd_weight=0.2,
    )  # fmt: skip
    terms = method.terms(s)
    close(terms["kd_labeled"], 0.2 * whole["kd_labeled"], 1e-12)
    close(terms["kd_unlabeled"], 0.2 * whole["kd_unlabeled"], 1e-12)
    close(method.supervised(s), 0.7 * whole["ce"], 1e-12)
    close(sum(terms.values()) + method.supervised(s), whole["loss"], 1e-12)


def test_each_head_hears_its_own_signal() -> None:
    s = signals()
    ce, kd = s.student_output
    method = create_method("dho")
    assert torch.autograd.grad(method.supervised(s), kd, allow_unused=True)[0] is None
    assert torch.autograd.grad(sum(method.terms(s).values()), ce, allow_unused=True)[0] is None
    single = create_method("dho", heads="single")
    assert single.supervised(s).requires_grad
    assert torch.autograd.grad(single.supervised(s), kd)[0].abs().sum() > 0
    close(single.readout(s.student_output), kd)


def test_readout_mixes_probabilities() -> None:
    s = signals()
    method = create_method("dho", alpha=0.25, beta=2.0)
    expected = dual_head_probabilities(*s.student_output, alpha=0.25, beta=2.0)
    close(method.readout(s.student_output).exp(), expected, 1e-12)
    assert method.readout(s.teacher_logits) is s.teacher_logits
    with pytest.raises(ValueError, match="two heads that returns"):
        method.terms(Signals(student_logits=s.student_logits, teacher_logits=s.teacher_logits, student_output=None))


def test_all_labelled_or_none() -> None:
    s = signals()
    s.labels[:] = 0
    terms = create_method("dho").terms(s)
    assert terms["kd_unlabeled"] == 0 and terms["kd_labeled"] > 0
    s.labels[:] = -100
    terms = create_method("dho").terms(s)
    assert terms["kd_labeled"] == 0 and terms["kd_unlabeled"] > 0 and create_method("dho").supervised(s) is None


def test_another_student_gets_two_heads() -> None:
    torch.manual_seed(0)
    net, x = ConvNet((4, 6), 5), torch.randn(3, 1, 8, 8)
    student = create_method("dho").wrap_student(net, x)
    assert isinstance(student, DualHeadStudent) and student.ce_head.weight.shape == (5, 6)
    ce, kd, features = student(x, return_features=True)
    assert ce.shape == kd.shape == (3, 5) and features.shape == (3, 6)
    assert {k.split(".")[0] for k in student.state_dict()} == {"backbone", "ce_head", "kd_head"}
    assert create_method("dho").wrap_student(student, x) is student


def test_it_trains_in_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    task = load_task("digits_two_tower", num_images=40)
    task.teachers["two-tower"] = task.teachers["two-tower"].__class__(
        build=task.teachers["two-tower"].build, recipe=task.teachers["two-tower"].recipe.quick().quick()
    )
    teacher, student = task.teacher(), task.student(seed=0)
    loader = task.loader("train", batch_size=16)
    x, y = next(iter(loader))
    assert (
        len(loader) == 15
        and len(x) == 10 + 64
        and (y[10:] == -100).all()
        and sorted(y[:10].tolist()) == list(range(10))
    )
    result = distill(teacher, student, "dho", loader, task.loader("val"), epochs=2, lr=3e-3, readout=task.readout)
    assert result.student is student and set(result.history[0].terms) == {"ce", "kd_labeled", "kd_unlabeled"}
    assert result.history[-1].terms["kd_unlabeled"] < result.history[0].terms["kd_unlabeled"]
    ce, kd, labels = both_heads(student, task, "val")
    grid = searched(student, task).grid
    assert grid.shape == (7, 21) and len(labels) == 80
    assert grid[2, 20] == pytest.approx((ce.argmax(1) == labels).double().mean().item())
    assert grid[0, 0] == pytest.approx((kd.argmax(1) == labels).double().mean().item())
    assert 0 <= searched_accuracy(student, task) <= 1


def test_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    study = find_study("dho")
    comparison = study.run(seeds=2, epochs=2)
    assert comparison.arms == (CE, KD, SINGLE, DUAL, OTHERS)
    verdicts = study.verdicts(comparison)
    assert len(verdicts) == 3 and all(v.claim.text.startswith("1 label per class") for v in verdicts)


def test_the_control_hears_the_answer_to_the_next_image() -> None:
    s = DHO.example(batch=6)
    wrong, right = OtherImages().terms(s), DHO().terms(replace(s, teacher_logits=s.teacher_logits.roll(1, 0)))
    assert (
        all(torch.equal(wrong[k], right[k]) for k in right) and wrong["kd_unlabeled"] != DHO().terms(s)["kd_unlabeled"]
    )


# Borders --------------------------------------------------------------------------------------------------------------

S, T, Y = torch.zeros(4, 3), torch.ones(4, 3), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be"),
        ({"ce_weight": -1.0}, "ce_weight must be"),
        ({"ce_weight": 0.0, "kd_weight": 0.0}, "must not both be zero"),
        ({"teacher_logits_labeled": torch.ones(4, 2)}, "teacher"),
        (
            {"kd_logits_unlabeled": torch.ones(4, 2), "teacher_logits_unlabeled": torch.ones(4, 2)},
            "must have 3 classes",
        ),
        ({"kd_logits_unlabeled": None}, "must both be given or both be None"),
        ({"labels": Y + 3}, "labels must be in"),
    ],
)
def test_wrong_losses_are_refused(change: dict[str, Any], message: str) -> None:
    given_ = {
        "ce_logits": S, "kd_logits_labeled": S, "kd_logits_unlabeled": S, "teacher_logits_labeled": T,
        "teacher_logits_unlabeled": T, "labels": Y,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        dho_loss(**(given_ | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -1.0}, "alpha must be"),
        ({"beta": 0.0}, "beta must be"),
        ({"image_features": torch.eye(3)}, r"image_features must be \(N, 2\), the width of text_weights"),
        ({"cache_values": torch.eye(3)}, r"cache_values must be \(2, 2\)"),
    ],
)
def test_wrong_caches_are_refused(change: dict[str, Any], message: str) -> None:
    eye = torch.eye(2)
    given_ = {
        "image_features": eye,
        "cache_keys": eye,
        "cache_values": eye,
        "text_weights": eye,
        "alpha": 1.0,
        "beta": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        tip_adapter_logits(**(given_ | change))


def test_teachers_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="not of length 1"):
        tip_adapter_logits(2 * torch.eye(2), *[torch.eye(2)] * 3, alpha=1.0, beta=1.0)
    with pytest.raises(ValueError, match=r"text_weights must be \(D, C\)"):
        ZeroShotTeacher(nn.Identity(), torch.ones(3))
    with pytest.raises(ValueError, match="logit_scale must be"):
        ZeroShotTeacher(nn.Identity(), torch.eye(3), logit_scale=0.0)
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        OpenClipTeacher("ViT-B-32", "openai", ["cat"], ["a photo of a {}"])


def test_gradients_and_half_precision() -> None:
    e = F.normalize(torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    keys, text = e.flip(0), torch.eye(4, 2, dtype=torch.float64)
    values = torch.eye(2, dtype=torch.float64)[[0, 1, 0]]

    def logits(x: Tensor) -> Tensor:
        return tip_adapter_logits(F.normalize(x, dim=1), keys, values, text, alpha=1.0, beta=2.0)

    assert torch.autograd.gradcheck(logits, (e.clone().requires_grad_(),))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rounded to bfloat16 the features are not exactly of length 1
        low = tip_adapter_logits(*(t.bfloat16() for t in (e, keys, values, text)), alpha=1.0, beta=2.0)
    assert low.dtype == torch.float32
    close(low, logits(e), 0.02)
