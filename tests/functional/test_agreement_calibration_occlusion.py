"""Formulas of the diagnosis against slow oracles, other libraries and values by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Occlusion
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from kdcore.functional.agreement import best_matching, confusion_counts, paired_gain, paired_rise, top_k_agreement
from kdcore.functional.alignment import effective_rank, procrustes_coordinates, spread_share
from kdcore.functional.calibration import expected_calibration_error, fit_temperature, reliability
from kdcore.functional.occlusion import occlusion_map, occlusion_sensitivity, occlusion_windows
from kdcore.functional.similarity import procrustes_disparity


def test_top_k_by_hand() -> None:
    s = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    t = torch.tensor([[3.0, 0.0, 2.0, 1.0], [3.0, 2.0, 1.0, 0.0]])
    assert top_k_agreement(s, t).tolist() == [1.0, 0.0]
    assert top_k_agreement(s, t, k=2).tolist() == [0.5, 0.0]
    assert top_k_agreement(s, t, k=4).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="k must be in"):
        top_k_agreement(s, t, k=5)


def test_confusion_by_hand_and_bad_input() -> None:
    counts = confusion_counts(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="labels must be in"):
        confusion_counts(torch.tensor([0]), torch.tensor([3]), 3)


@given(st.integers(0, 500))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_matching_is_the_best_of_all_permutations(seed: int) -> None:
    scores = torch.randint(0, 9, (5, 5), generator=torch.Generator().manual_seed(seed))
    found = best_matching(scores)
    best = max(sum(int(scores[i, p[i]]) for i in range(5)) for p in itertools.permutations(range(5)))
    assert sorted(found.tolist()) == list(range(5)) and int(scores[range(5), found].sum()) == best


def test_matching_prefers_the_identity_among_equals() -> None:
    assert best_matching(torch.zeros(6, 6)).tolist() == list(range(6))
    assert best_matching(torch.tensor([[0, 5, 0], [5, 0, 0], [0, 0, 0]])).tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match=r"scores must be \(C, C\)"):
        best_matching(torch.zeros(2, 3))


def test_paired_gain_by_hand() -> None:
    before = torch.tensor([True, False, False, False, True, False])
    after = torch.tensor([True, True, True, True, False, False])
    found = paired_gain(before, after)
    assert (found.fixed, found.broken) == (3, 1) and found.gain == pytest.approx(2 / 6)
    assert found.p == pytest.approx(5 / 16)  # P(Bin(4, 1/2) >= 3)
    assert paired_gain(before, before).p == 1.0
    with pytest.raises(ValueError, match="N >= 1"):
        paired_gain(before[:0], after[:0])


def test_paired_rise_by_hand() -> None:
    before, rise = torch.zeros(5), torch.tensor([1.0, 2.0, 3.0, 4.0, -5.0])
    # sum of the ranks that rise is 10 of 15; 10 of the 32 choices of signs give at least that
    at_least = sum(
        sum(r for r, up in zip(range(1, 6), signs, strict=True) if up) >= 10
        for signs in itertools.product((0, 1), repeat=5)
    )
    assert paired_rise(before, rise) == pytest.approx(at_least / 32)
    assert paired_rise(before, before) == 1.0
    assert paired_rise(before, rise * 1e6) == paired_rise(before, rise)  # ranks alone count
    with pytest.raises(ValueError, match="N >= 1"):
        paired_rise(before, rise[:4])
    with pytest.raises(ValueError, match="finite"):
        paired_rise(before, rise / 0)


@given(st.integers(0, 300), st.sampled_from([1, 10, 15]), st.floats(0.1, 8.0))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_calibration_error_equals_torchmetrics(seed: int, bins: int, sharp: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logits, labels = sharp * torch.randn(60, 5, generator=g), torch.randint(5, (60,), generator=g)
    theirs = multiclass_calibration_error(logits.double().softmax(1), labels, 5, n_bins=bins, norm="l1")
    assert expected_calibration_error(logits, labels, bins=bins) == pytest.approx(float(theirs), abs=1e-6)


def test_reliability_by_hand() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]).log()
    found = reliability(logits, torch.tensor([0, 1, 0, 1]), bins=4)
    assert found.counts.tolist() == [0, 0, 2, 2]
    assert found.confidence[2:].tolist() == pytest.approx([0.6, 0.9])
    assert found.accuracy[2:].tolist() == [1.0, 0.5]
    assert found.error == pytest.approx(0.4)
    with pytest.raises(ValueError, match="bins"):
        reliability(logits, torch.tensor([0, 1, 0, 1]), bins=0)


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_fitted_temperature_minimises_the_likelihood_and_follows_the_scale(factor: float) -> None:
    g = torch.Generator().manual_seed(0)
    base = 2 * torch.randn(400, 6, generator=g, dtype=torch.float64)
    labels = torch.multinomial(base.softmax(1), 1, generator=g).squeeze(1)
    found = fit_temperature(factor * base, labels)
    grid = torch.logspace(-2, 2, 400, dtype=torch.float64)
    slow = min(grid.tolist(), key=lambda t: float(F.cross_entropy(factor * base / t, labels)))
    assert found == pytest.approx(slow, rel=0.03) and found / factor == pytest.approx(1.0, abs=0.25)


def test_fitted_temperature_where_everything_is_right() -> None:
    assert fit_temperature(torch.eye(3), torch.arange(3)) == pytest.approx(1e-3, rel=1e-6)


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 7 * 9, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("window", "stride", "baseline"),
    [((3, 3), (2, 2), 0.0), ((2, 4), (1, 3), 0.5), ((7, 9), (1, 1), 0.0), ((3, 2), (3, 2), -1.0)],
)
def test_occlusion_equals_captum_for_every_class(
    window: tuple[int, int], stride: tuple[int, int], baseline: float
) -> None:
    model, x = Scores().eval(), torch.randn(3, 2, 7, 9)
    windows = occlusion_windows((7, 9), window=window, stride=stride)
    falls = occlusion_sensitivity(model, x, windows, baseline=baseline, batch_size=11)
    assert falls.shape == (3, len(windows), 4)
    captum = Occlusion(model)
    for target in range(4):
        theirs = captum.attribute(
            x, sliding_window_shapes=(2, *window), strides=(2, *stride), baselines=baseline, target=target
        )
        torch.testing.assert_close(
            occlusion_map(falls[..., target], windows), theirs[:, 0].detach().float(), atol=2e-5, rtol=1e-4
        )


def test_occlusion_uses_full_batches_for_all_classes_at_once() -> None:
    sizes = []

    def model(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.flatten(1).sum(1, keepdim=True).repeat(1, 3)

    windows = occlusion_windows((8, 8), window=4, stride=2)
    falls = occlusion_sensitivity(model, torch.ones(4, 1, 8, 8), windows, batch_size=20)
    assert sizes == [4, 20, 16] and bool((falls == 16).all())


def test_occlusion_refuses() -> None:
    with pytest.raises(ValueError, match="window must fit"):
        occlusion_windows((4, 4), window=5, stride=1)
    with pytest.raises(ValueError, match="stride must be"):
        occlusion_windows((4, 4), window=2, stride=0)
    with pytest.raises(ValueError, match="windows bool"):
        occlusion_sensitivity(lambda x: x, torch.ones(1, 1, 5, 5), occlusion_windows((4, 4), window=2, stride=1))
    with pytest.raises(ValueError, match="falls must be"):
        occlusion_map(torch.ones(1, 2), occlusion_windows((4, 4), window=2, stride=2))


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_alignment_leaves_what_scipy_leaves(seed: int, width_s: int, width_t: int) -> None:
    g = torch.Generator().manual_seed(seed)
    s, t = torch.randn(12, width_s, generator=g), torch.randn(12, width_t, generator=g)
    found = procrustes_coordinates(s, t, dim=2)
    wide = max(width_s, width_t, 2)
    pad = [np.pad(x.double().numpy(), ((0, 0), (0, wide - x.shape[1]))) for x in (t, s)]
    assert found.disparity == pytest.approx(procrustes(*pad)[2], abs=1e-9)
    assert found.disparity == pytest.approx(float(procrustes_disparity(s, t)), abs=1e-9)
    assert float(found.residual.mean()) == pytest.approx(found.disparity, abs=1e-9)


def test_alignment_of_a_rotated_copy_is_perfect_and_marks_the_moved_sample() -> None:
    x = torch.randn(20, 5, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    y = 3 * x @ turn + 1
    assert procrustes_coordinates(y, x).disparity == pytest.approx(0, abs=1e-12)
    y[7] += 30
    assert int(procrustes_coordinates(y, x).residual.argmax()) == 7
    with pytest.raises(ValueError, match="constant"):
        procrustes_coordinates(torch.ones(5, 2), torch.randn(5, 2))
    with pytest.raises(ValueError, match="dim"):
        procrustes_coordinates(y, x, dim=0)


def test_rank_and_spread_by_hand() -> None:
    line = torch.arange(6.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    assert effective_rank(line) == pytest.approx(1.0)
    assert effective_rank(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(4.0)
    assert effective_rank(torch.ones(5, 3)) == 0.0 == spread_share(torch.ones(5, 3))
    assert spread_share(torch.tensor([[1.0], [-1.0]])) == 1.0 and spread_share(torch.zeros(3, 2)) == 0.0
    assert spread_share(torch.tensor([[3.0], [1.0]])) == pytest.approx(2 / 10)
    with pytest.raises(ValueError, match="at least 2 samples"):
        effective_rank(torch.ones(1, 3))
