"""Projectors: words, shapes, values by hand, gradients, determinism, and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdcore.model_layers import LayerInfo, LayerPair, pair_layers
from kdcore.projectors import KINDS, ProjectorBank, make_projector
from kdcore.taps import Taps

WORDS = [
    # student, teacher, arguments, output, words in between
    ((64, 4, 4), (256, 4, 4), {}, (256, 4, 4), "conv1x1"),
    ((64, 8, 8), (64, 8, 8), {}, (64, 8, 8), "identity"),
    ((64, 8, 8), (32, 4, 4), {}, (32, 4, 4), "average pool to 4x4 -> conv1x1"),
    ((64, 4, 4), (32, 8, 8), {}, (32, 8, 8), "conv1x1 -> bilinear to 8x8"),
    ((8, 4, 6), (8, 6, 3), {}, (8, 6, 3), "average pool to 4x3 -> bilinear to 6x3"),
    ((64, 7, 7), (197, 192), {}, (196, 192), "conv1x1 -> bilinear to 14x14 -> flatten to tokens"),
    ((64, 7, 7), (49, 64), {}, (49, 64), "flatten to tokens"),
    ((17, 48), (64, 4, 4), {}, (64, 4, 4), "drop class token, grid 4x4 -> conv1x1"),
    ((16, 48), (48, 2, 2), {}, (48, 2, 2), "grid 4x4 -> average pool to 2x2"),
    ((64, 4, 4), (128,), {}, (128,), "GAP -> linear"),
    ((17, 48), (96,), {}, (96,), "mean over tokens -> linear"),
    ((10,), (20,), {}, (20,), "linear"),
    ((17, 8), (17, 16), {}, (17, 16), "linear"),
    ((11, 8), (11, 8), {}, (11, 8), "identity"),
    ((17, 8), (16, 8), {}, (16, 8), "drop class token"),
    ((16, 8), (17, 8), {}, (16, 8), "identity"),
    ((17, 8), (5, 8), {}, (5, 8), "grid 4x4, average pool to 2x2, class token kept"),
    ((17, 8), (4, 6), {}, (4, 6), "drop class token -> grid 4x4, average pool to 2x2 -> linear"),
    ((4, 8), (17, 8), {}, (16, 8), "grid 2x2, bilinear to 4x4"),
    ((12, 8), (8, 3, 4), {"grid": (3, 4)}, (8, 3, 4), "grid 3x4"),
    ((8, 6, 2), (12, 8), {"grid": (6, 2)}, (12, 8), "flatten to tokens"),
    ((12, 8), (6, 8), {"grid": (3, 4), "teacher_grid": (3, 2)}, (6, 8), "grid 3x4, average pool to 3x2"),
    (
        (4, 4, 8),
        (16, 2, 2),
        {"student_layout": "map_last"},
        (16, 2, 2),
        "channels first -> average pool to 2x2 -> conv1x1",
    ),
    ((16, 2, 2), (4, 4, 8), {"teacher_layout": "map_last"}, (4, 4, 8), "conv1x1 -> bilinear to 4x4 -> channels last"),
    ((4, 4, 8), (4, 4, 8), {"student_layout": "map_last", "teacher_layout": "map_last"}, (4, 4, 8), "identity"),
    ((64, 4, 4), (64, 4, 4), {"kind": "conv1x1"}, (64, 4, 4), "conv1x1"),
    ((64, 4, 4), (64, 4, 4), {"kind": "conv1x1_bn"}, (64, 4, 4), "conv1x1+bn"),
    ((64, 4, 4), (32, 4, 4), {"kind": "mlp"}, (32, 4, 4), "conv1x1 mlp"),
    ((8,), (8,), {"kind": "mlp"}, (8,), "linear mlp"),
    ((8,), (8,), {"kind": "linear"}, (8,), "linear"),
    ((8, 4, 4), (8,), {"kind": "none"}, (8,), "GAP"),
]


@pytest.mark.parametrize(("student", "teacher", "arguments", "output", "words"), WORDS)
def test_shape_and_words(student, teacher, arguments, output, words):
    torch.manual_seed(0)
    projector = make_projector(student, teacher, **arguments, student_name="student.a", teacher_name="teacher.b")
    before, after = "x".join(map(str, student)), "x".join(map(str, output))
    dropped = " (teacher.b's class token is left out)" if output != teacher else ""
    assert projector.describe() == f"student.a {before} -> {words} -> {after}{dropped}"
    x, t = torch.randn(2, *student, requires_grad=True), torch.randn(2, *teacher, requires_grad=True)
    y, target = projector(x), projector.target(t)
    assert tuple(y.shape) == tuple(target.shape) == (2, *output) and not target.requires_grad
    y.square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projector.parameters() if p.ndim > 1)


def test_values_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(make_projector((1, 4, 4), (1, 2, 2))(x), torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))
    tokens = torch.arange(10.0).reshape(1, 5, 2)  # class token, then a 2x2 grid row by row
    as_map = make_projector((5, 2), (2, 2, 2))(tokens)
    assert torch.equal(as_map, torch.tensor([[[[2.0, 4.0], [6.0, 8.0]], [[3.0, 5.0], [7.0, 9.0]]]]))
    assert torch.equal(make_projector((2, 2, 2), (4, 2))(as_map), tokens[:, 1:])
    kept = make_projector((5, 2), (2, 2))(tokens)  # 1x1 grid behind a class token
    assert torch.equal(kept, torch.tensor([[[0.0, 1.0], [5.0, 6.0]]]))
    assert torch.equal(make_projector((4, 2), (5, 2)).target(tokens), tokens[:, 1:])
    nhwc = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert torch.equal(make_projector((2, 2, 2), (2,), student_layout="map_last")(nhwc), torch.tensor([[3.0, 4.0]]))


def test_linear_on_tokens_is_conv1x1_on_their_map():
    torch.manual_seed(0)
    on_tokens, on_map = make_projector((16, 8), (16, 12)), make_projector((8, 4, 4), (12, 4, 4))
    linear, conv = on_tokens.steps[0].net, on_map.steps[0].net
    conv.weight.data = linear.weight.data[:, :, None, None].clone()
    conv.bias.data = linear.bias.data.clone()
    x = torch.randn(3, 8, 4, 4)
    torch.testing.assert_close(on_map(x).flatten(2).transpose(1, 2), on_tokens(x.flatten(2).transpose(1, 2)))


def test_pooling_before_or_interpolating_after_costs_least_and_commutes_for_pooling():
    torch.manual_seed(0)
    projector = make_projector((4, 8, 8), (6, 4, 4))
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(projector(x), F.adaptive_avg_pool2d(projector.steps[1](x), 4))


def test_deterministic_under_the_seed_and_state_dict_round_trip():
    def build():
        torch.manual_seed(3)
        return make_projector((8, 4, 4), (16, 8, 8), kind="mlp")

    a, b = build(), build()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    b.load_state_dict(a.state_dict())
    plain = torch.manual_seed(3) and nn.Conv2d(8, 16, 1)
    assert torch.equal(next(a.parameters()), plain.weight), "PyTorch's own initialisation"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_two_shapes_either_fit_or_are_refused(data):
    size = st.integers(1, 10)
    shape = st.one_of(st.tuples(size), st.tuples(st.integers(1, 26), size), st.tuples(size, size, size))
    student, teacher = data.draw(shape), data.draw(shape)
    kind = data.draw(st.sampled_from(KINDS))
    try:
        projector = make_projector(student, teacher, kind=kind).eval()
    except ValueError as error:
        text = str(error)
        assert "x".join(map(str, student)) in text and "x".join(map(str, teacher)) in text and ";" in text
        return
    y = projector(torch.randn(2, *student))
    assert y.shape == projector.target(torch.randn(2, *teacher)).shape == (2, *projector.output_shape)
    learnable = sum(p.numel() for p in projector.parameters())
    assert (learnable == 0) if kind == "none" else (learnable > 0 or kind == "auto")


@pytest.mark.parametrize(
    ("student", "teacher", "arguments", "message"),
    [
        (
            (13, 8),
            (8, 4, 4),
            {},
            r"student 13x8 \(tokens\) to teacher 8x4x4 \(map\).*13 tokens of student are no square",
        ),
        ((8, 4, 4), (11, 8), {}, r"11 tokens of teacher are no square grid.*pass teacher_grid=\(height, width\)"),
        ((12, 8), (8, 4, 4), {"grid": (5, 2)}, r"grid=\(5, 2\) holds 10 tokens"),
        ((8,), (8, 4, 4), {}, r"from student 8 \(vector\) to teacher 8x4x4 \(map\): a vector has no positions"),
        ((8,), (16, 8), {}, "a vector has no positions"),
        ((8, 4, 4), (9, 4, 4), {"kind": "none"}, 'kind="none" learns nothing, but the widths are 8 and 9'),
        ((8,), (9,), {"kind": "conv1x1"}, 'kind="conv1x1" needs a map'),
        ((8, 2, 2), (9, 2, 2), {"kind": "linear"}, 'kind="linear" needs tokens or a vector'),
        ((8, 2, 2), (9, 2, 2), {"kind": "conv"}, r"kind must be one of .* got 'conv'\. Did you mean 'conv1x1'"),
        ((8, 2, 2, 2), (9, 2, 2), {}, r"student_shape must be \(C, H, W\), .* without batch, got \(8, 2, 2, 2\)"),
        ((8, 0, 2), (9, 2, 2), {}, "student_shape must be"),
        ((8, 2), (9.0, 2), {}, "teacher_shape must be"),
        ((8, 2), (9, 2), {"student_layout": "map"}, r"student_layout='map' does not fit the shape \(8, 2\)"),
    ],
)
def test_refusals(student, teacher, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_projector(student, teacher, **arguments)


def test_wrong_tensors_are_named():
    projector = make_projector((8, 4, 4), (17, 8), student_name="student.layer3", teacher_name="teacher.blocks.5")
    with pytest.raises(ValueError, match=r"student\.layer3 must be \(N, 8, 4, 4\) .* got float32 \(2, 8, 4\)"):
        projector(torch.ones(2, 8, 4))
    with pytest.raises(ValueError, match=r"teacher\.blocks\.5 must be \(N, 17, 8\)"):
        projector.target(torch.ones(2, 16, 8))


def test_bank_of_pairs_from_two_models():
    torch.manual_seed(0)

    def cnn(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(32 * width, 10),
        )

    student, teacher = cnn(4), cnn(6)
    x = torch.randn(2, 1, 8, 8)
    bank = ProjectorBank(pair_layers(student, teacher, x))
    assert len(bank) == 2 and bank.student_taps == bank.teacher_taps == ("1", "4")
    with Taps(student, bank.student_taps) as s, Taps(teacher, bank.teacher_taps, detach=True) as t:
        student(x), teacher(x)
    loss = sum(F.mse_loss(y, target) for y, target in bank(s.features, t.features))
    loss.backward()
    assert all(p.grad is not None for p in bank.parameters()) and student[0].weight.grad is not None
    assert teacher[0].weight.grad is None
    lines = bank.describe().splitlines()
    assert lines[0].split() == ["projection", "teacher", "layer", "parameters", "reason"]
    assert lines[1].split()[:7] == ["student.1", "4x8x8", "->", "conv1x1", "->", "6x8x8", "teacher.1"]
    assert lines[1].split()[7] == "30" and "Same resolution (stride 1)" in lines[1]
    assert bank[1].describe() == "student.4 8x4x4 -> conv1x1 -> 12x4x4"
    assert not any("teacher" in key for key in bank.state_dict())


def test_bank_refusals():
    with pytest.raises(ValueError, match="at least one LayerPair"):
        ProjectorBank([])
    info = LayerInfo("a", "Conv2d", "map", 0.5, 10)
    with pytest.raises(ValueError, match="'a' and 'a' have none"):
        ProjectorBank([LayerPair(info, info, "")])
