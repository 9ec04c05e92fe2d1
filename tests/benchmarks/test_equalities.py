"""The benchmarks compare equal things: small sizes, values only, nothing is timed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import cka, losses, occlusion, protocol, selection, specialized, step
from kdcore.functional.occlusion import occlusion_windows
from kdcore.models.cifar_resnet import resnet20


@pytest.mark.parametrize("name", losses.PAIRS)
def test_each_loss_equals_its_reference(name: str) -> None:
    reference, ours, _ = losses.PAIRS[name]
    errors = losses.check(name, reference, ours, 6, 11)
    assert max(errors.values()) < 1e-5
    wrong = losses.unprepared(lambda s, t, y: 1.001 * reference(s, t, y))
    with pytest.raises(AssertionError, match=f"value of {name}.*off by 1.00e-03"):
        losses.check(name, reference, wrong, 6, 11)


@pytest.mark.parametrize("name", specialized.CONTESTS)
def test_losses_of_specialized_teachers_equal_their_references(name: str) -> None:
    specialized.check(name, 6, 11)
    ours = specialized.CONTESTS[name].ours
    with pytest.raises(AssertionError, match=r"value of .*off by 1\.00e-03"):
        specialized.check(name, 6, 11, lambda *inputs: 1.001 * ours(*inputs))


def test_queries_equal_those_of_the_released_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    selection.check(80, 6, 5, 12)
    (row,) = selection.measure(quick=True)
    assert row.value > 0 and row.what.startswith("PCoreSet, 6 queries from 60")
    right = selection.all_anew
    monkeypatch.setattr(selection, "all_anew", lambda *given: right(*given).flip(0))
    with pytest.raises(AssertionError, match="picks of PCoreSet"):
        selection.check(80, 6, 5, 12)


def test_both_loops_of_the_step_give_the_same_losses() -> None:
    step.check_losses(steps=2, size=8)


def test_a_cached_teacher_gives_the_losses_of_a_running_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "loader", lambda steps, size, make=step.loader: make(steps, 8))
    assert set(step.epoch_seconds(1, 2)) == {"cached", "alone"}  # asserts equality and zero forwards on the way


def test_the_map_equals_the_pairwise_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, y = (
        nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Conv2d(4, width, 3, stride=2), nn.ReLU())
        for width in (5, 7)
    )
    monkeypatch.setattr(cka, "LAYERS_X", ["0", "2"])
    monkeypatch.setattr(cka, "LAYERS_Y", ["1", "3"])
    cka.check_map(x, y)
    assert x[0].weight.dtype == y[0].weight.dtype == torch.float32
    assert max(cka.offset_error(offset, samples=16, width=64) for offset in cka.OFFSETS) < 1e-5


def test_the_occlusion_map_is_captums() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 32, 32)
    windows = occlusion_windows((32, 32), window=occlusion._WINDOW, stride=occlusion._STRIDE)
    occlusion.check_map(resnet20(5).eval(), images, windows, torch.tensor([2]))


def test_rows_keep_their_verdict_and_print_it(tmp_path) -> None:
    rows = [
        protocol.Row(what="a", against="b", value=1.04, goal=1.03, detail={"s": 1.0}),
        protocol.Row(what="c", against="d", value=2.5, goal=2.0, sense=">=", unit="x faster", detail={}),
        protocol.Row(what="e", against="f", value=3.2e-7, unit="", detail={}),
    ]
    assert [row.reached for row in rows] == [False, True, None]
    protocol.write_rows(rows, tmp_path / "deep" / "rows.json")
    assert protocol.read_rows(tmp_path / "deep" / "rows.json") == rows
    lines = protocol.markdown(rows).splitlines()
    assert lines[2] == "| a | b | 1.040 x | <= 1.03 x | **no** |"
    assert lines[3] == "| c | d | 2.5 x faster | >= 2 x faster | yes |"
    assert lines[4] == "| e | f | 3.20e-07 |  |  |"


def test_disagreement_and_not_a_number_are_refused() -> None:
    protocol.must_agree("same", torch.ones(2), torch.ones(2))
    for value in (torch.tensor([1.0, 1.1]), torch.tensor([1.0, torch.nan])):
        with pytest.raises(AssertionError, match="it: off by"):
            protocol.must_agree("it", value, torch.ones(2))
