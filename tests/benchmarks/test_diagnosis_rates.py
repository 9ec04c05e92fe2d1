"""The measurement of a diagnosis, small: two pairs, a handful of faults, kept results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import diagnosis_pairs, diagnosis_rates
from benchmarks.diagnosis_faults import KINDS


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: diagnosis_pairs.SOURCES[name] for name in ("clusters", "gratings")}
    monkeypatch.setattr(diagnosis_pairs, "SOURCES", few)
    monkeypatch.setattr(diagnosis_pairs, "TRAIN", 240)
    monkeypatch.setattr(diagnosis_pairs, "TEST", 200)
    chosen = ("bgr", "temperature_16", "log_probabilities", "learnt_data", "never_trained", "too_short")
    monkeypatch.setattr(diagnosis_rates, "KINDS", {name: KINDS[name] for name in chosen})
    monkeypatch.setattr(diagnosis_rates, "BEHIND", 1.0)  # networks of a few steps are no healthy pairs: all count here
    monkeypatch.setattr(diagnosis_rates, "BEFORE", 1.0)


def test_pairs_are_made_examined_and_kept(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    well, ill = diagnosis_rates.run("tried", 2, 1, tmp_path, None)
    assert len(well) == 2 and {e["kind"] for e in ill} == set(diagnosis_rates.KINDS) - {"bgr"}  # nothing is coloured
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".jsonl", *4 * [".safetensors"]]
    named = {e["kind"]: e["named"] for e in ill}
    assert named["log_probabilities"] and named["learnt_data"] and named["never_trained"]
    table = diagnosis_rates.rates(well, ill)
    assert "healthy pairs with an alarm" in table and KINDS["log_probabilities"].words in table
    assert "| copies | 0.000 |" in diagnosis_rates.distribution(well)
    monkeypatch.setattr(diagnosis_rates, "diagnose", lambda *_, **__: pytest.fail("a kept result was made again"))
    assert diagnosis_rates.run("tried", 2, 1, tmp_path, None) == (well, ill)


def test_pairs_of_different_sets_differ_and_the_same_are_the_same(small: None, tmp_path: Path) -> None:
    made = [
        diagnosis_pairs.make_pair(group, 0, tmp_path / str(k), diagnosis_pairs.SOURCES)
        for k, group in enumerate(("one", "one", "two"))
    ]
    first, again, other = made
    assert torch.equal(first.test[0], again.test[0]) and not torch.equal(first.test[0], other.test[0])
    assert all(torch.equal(a, b) for a, b in zip(first.student.parameters(), again.student.parameters(), strict=True))


def test_halves_share_no_sample(small: None, tmp_path: Path) -> None:
    pair = diagnosis_pairs.make_pair("one", 0, tmp_path, diagnosis_pairs.SOURCES)
    measured, examined = diagnosis_rates.halves(pair)
    assert len(measured[1]) + len(examined[1]) == len(pair.test[1])
    assert not (torch.cdist(measured[0], examined[0]) == 0).any()


@pytest.mark.parametrize("name", diagnosis_pairs.SOURCES)
def test_training_and_test_samples_of_every_source_are_apart(name: str) -> None:
    train, test = diagnosis_pairs.SOURCES[name](3)
    assert train[0].shape[1:] == test[0].shape[1:] and int(train[1].max()) == int(test[1].max())
    if name != "photographs":  # tiles of plain sky are equal
        assert not (torch.cdist(train[0].flatten(1), test[0].flatten(1)) == 0).any()


@pytest.mark.parametrize(
    ("hits", "tried", "low", "high"), [(0, 50, 0.0, 0.0711), (50, 50, 0.9289, 1.0), (3, 10, 0.0667, 0.6525)]
)
def test_interval_is_clopper_and_pearsons(hits: int, tried: int, low: float, high: float) -> None:
    assert diagnosis_rates.interval(hits, tried) == pytest.approx((low, high), abs=1e-4)


def test_other_arrays_of_a_folder_are_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    arrays = {f"x_{s}": random.integers(0, 255, (1300, 8, 8, 3), dtype=np.uint8) for s in ("train", "test")}
    arrays |= {f"y_{s}": np.arange(1300) % 3 for s in ("train", "test")}
    np.savez(tmp_path / "set" / "tiny.npz", **arrays)
    found = diagnosis_pairs.sources(tmp_path)
    train, test = found["tiny"](0)
    assert train[0].shape[1:] == (3, 4, 4) and set(test[1].tolist()) == {0, 1, 2}
