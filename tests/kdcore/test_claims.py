"""Claims: settled by their interval and not by their mean, corrected for their number, honest about what is missing."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdcore.experiment import Claim, Comparison, check_claims, contrast, effects, mean_interval, seeds_suggested, tally

SPREAD = [0.010, 0.012, 0.014]  # mean 1.2 points, 95 % interval 0.703 to 1.697


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (Claim("c", SPREAD, ">", threshold=0.70), "reproduced"),
        (Claim("c", SPREAD, ">", threshold=0.71), "open"),
        (Claim("c", SPREAD, ">=", threshold=1.69), "open"),
        (Claim("c", SPREAD, ">=", threshold=1.70), "contradicted"),
        (Claim("c", SPREAD, "<", threshold=1.70), "reproduced"),
        (Claim("c", SPREAD, "<", threshold=1.20), "open"),
        (Claim("c", SPREAD, "<=", threshold=0.70), "contradicted"),
        (Claim("c", [0.910, 0.512, 0.714], ">", [0.90, 0.50, 0.70], threshold=0.70), "reproduced"),
        (Claim("c", [0.90, 0.50, 0.70], "<", [0.910, 0.512, 0.714]), "reproduced"),
        (Claim("c", SPREAD, "==", threshold=0.70), "contradicted"),
        (Claim("c", SPREAD, "==", threshold=1.20), "open"),
        (Claim("c", SPREAD, "!=", threshold=0.70), "reproduced"),
        (Claim("c", SPREAD, "!=", threshold=1.20), "open"),
        (Claim("c", SPREAD, ">", threshold=0.70, every_seed=True), "reproduced"),
        (Claim("c", [*SPREAD * 3, 0.006], ">", threshold=0.70), "reproduced"),
        (Claim("c", [*SPREAD * 3, 0.006], ">", threshold=0.70, every_seed=True), "contradicted"),
        (Claim("c", [0.52] * 5, ">", [0.50] * 5), "open"),  # no spread: sign test, p = 1 / 32
        (Claim("c", [0.52] * 6, ">", [0.50] * 6), "reproduced"),
        (Claim("c", [0.50] * 6, ">", [0.50] * 6), "contradicted"),
        (Claim("c", [0.50] * 6, ">=", [0.50] * 6), "reproduced"),
        (Claim("c", [0.50] * 6, "==", [0.50] * 6), "open"),
        (Claim("c", [0.50] * 6, "!=", [0.50] * 6), "open"),
        (Claim("c", [0.0, 0.0], "==", threshold=0, unit="%", exact=True), "reproduced"),
        (Claim("c", [0.0, 0.01], "==", threshold=0, unit="%", exact=True), "contradicted"),
        (Claim("c", 7.4, "!=", 9.2, unit="nats", exact=True), "reproduced"),
        (Claim("c", 7.4, "<", 9.2, threshold=-2.0, unit="", exact=True), "contradicted"),
        (Claim("c", 0.81, ">=", threshold=50, unit="%"), "open"),
        (Claim("c", [math.nan, 0.9], ">", 0.1), "open"),
        (Claim("c", [math.nan, 0.9], "!=", 0.1, exact=True), "open"),
        (Claim("c", [math.inf, 0.9], ">", 0.1, every_seed=True), "open"),
    ],
)
def test_claims_are_judged_by_the_interval(claim: Claim, value: str) -> None:
    verdict = claim.check()
    assert verdict.value == value
    assert verdict.reproduced is bool(verdict) is (value == "reproduced")
    assert verdict.sentence.startswith("open at " if value == "open" else f"{value}: c: ")
    kept = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert (kept["value"], kept["reproduced"], kept["sentence"]) == (value, bool(verdict), verdict.sentence)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-1, 1), st.sampled_from(["<", ">"]))
@settings(max_examples=60)
def test_one_claim_is_settled_exactly_where_its_interval_is_on_one_side(d: list[float], bound: float, op: str) -> None:
    low, high = mean_interval(d)
    if np.ptp(d) < 1e-9 or min(abs(low - bound), abs(high - bound)) < 1e-9:
        return  # without a spread, or on the edge
    above, below = ("reproduced", "contradicted") if op == ">" else ("contradicted", "reproduced")
    expected = above if low > bound else below if high < bound else "open"
    assert Claim("c", d, op, threshold=bound, unit="").check().value == expected


def test_holm_by_hand() -> None:
    def claim(t: float) -> Claim:  # differences with t statistic t over 4 seeds
        d = np.array([-1.0, 1.0, -1.0, 1.0])
        return Claim(f"t {t}", d + t * d.std(ddof=1) / 2, unit="", threshold=0.0)

    p = {t: float(stats.t.sf(abs(t), 3)) for t in (3.3, -8.0, 4.0)}  # 0.0228, 0.0020, 0.0140
    alone = [claim(t).check().value for t in p]
    assert alone == ["reproduced", "contradicted", "reproduced"]
    together = check_claims([*map(claim, p), Claim("exact", 1.0, threshold=0.0, exact=True)])
    assert [v.value for v in together] == ["open", "contradicted", "open", "reproduced"]  # 2 x 0.0140 > 0.025
    assert [v.p for v in together[:3]] == pytest.approx(list(p.values()))
    expected = [max(2 * p[4.0], p[3.3]), 3 * p[-8.0], 2 * p[4.0]]
    assert [v.p_corrected for v in together[:3]] == pytest.approx(expected)
    assert [v.claims for v in together] == [3, 3, 3, 1]
    assert "uncorrected" in together[0].sentence and "settled alone, not among 3 claims (Holm)" in together[0].sentence
    assert check_claims([]) == []


def test_a_page_of_empty_claims_rarely_settles_one() -> None:
    rng = np.random.default_rng(0)
    pages = [check_claims([Claim("c", rng.normal(size=4), threshold=0.0) for _ in range(6)]) for _ in range(400)]
    wrong = np.mean([any(v.value != "open" for v in page) for page in pages])
    assert wrong < 0.08, "5 % are allowed; without a correction there would be 26 %"


def test_suggested_seeds_have_the_power_they_claim() -> None:
    n = seeds_suggested(1.0, 0.8)
    rng = np.random.default_rng(0)
    assert n is not None
    hits = [mean_interval(rng.normal(0.8, 1.0, n))[0] > 0 for _ in range(2000)]
    assert 0.76 < np.mean(hits) < 0.87
    assert seeds_suggested(0.0, 1.0) == 2 and seeds_suggested(1.0, 0.0) is None and seeds_suggested(1.0, 0.01) is None
    corrected = seeds_suggested(1.0, 0.8, level=0.025 / 4)
    assert corrected is not None and seeds_suggested(1.0, -0.8) == n < corrected
    with pytest.raises(ValueError, match="sd must be a finite number >= 0"):
        seeds_suggested(-1.0, 1.0)


def test_open_claims_say_how_many_seeds_would_tell() -> None:
    verdict = Claim("c", [0.03, 0.02, 0.0], ">=", threshold=1.0).check()
    sd, distance = float(np.std([3, 2, 0], ddof=1)), 5 / 3 - 1
    assert verdict.seeds_suggested == seeds_suggested(sd, distance)
    assert verdict.head == f"open at 3 seeds ({verdict.seeds_suggested} suggested)"
    hopeless = Claim("c", [1.0, -1.0], threshold=0.0).check()
    assert hopeless.head == "open at 2 seeds (more than 1000 suggested)" and hopeless.seeds_suggested is None
    assert Claim("c", [0.52] * 5, ">", [0.50] * 5).check().seeds_suggested == 6
    assert Claim("c", 2.0, ">", 1.0).check().head == "open at 1 seed (one value has no spread to judge it by)"
    assert "not all values are finite" in Claim("c", [math.nan, 1.0], ">", 0.1).check().head
    assert "not establish it" in Claim("c", SPREAD, "==", threshold=1.2).check().head


def test_sentence_is_written_from_the_numbers() -> None:
    verdict = Claim("DIST beats CE", [0.93, 0.94, 0.92], ">=", [0.90, 0.92, 0.92], threshold=1.0).check()
    low, high = mean_interval([3.0, 2.0, 0.0])
    assert verdict.sentence == (
        f"open at 3 seeds ({verdict.seeds_suggested} suggested): DIST beats CE: 93 against 91.33 points, "
        f"difference +1.67 (95 % interval {low:.2f} to +{high:.2f}), wanted at least 1; holds on 2 of 3 seeds."
    )
    assert verdict.standard_error == pytest.approx(stats.sem([3.0, 2.0, 0.0]))
    assert verdict.seeds_holding == 2 and verdict.n == 3 and verdict.interval == pytest.approx((low, high))
    bare = Claim("a 3 is recognised", [0.82, 0.40, 0.61], ">=", threshold=50, unit="%", every_seed=True).check()
    low, high = mean_interval([82, 40, 61])
    assert str(bare) == (
        f"contradicted: a 3 is recognised: 61 % (95 % interval {low:.2f} to {high:.2f}), wanted at least 50 %; "
        "holds on 2 of 3 seeds (every seed wanted)."
    )
    single = Claim("norms grow", 9.2, ">", 7.0, unit="", exact=True).check()
    assert math.isnan(single.standard_error) and single.to_dict()["standard_error"] is None
    assert single.sentence == "reproduced: norms grow: 9.2 against 7, difference +2.2, wanted more than 0."


def test_verdict_shows_words_and_a_sign_not_only_colour() -> None:
    def page(left: float, **options: Any) -> str:
        return Claim("<b>", left, ">", 1.0, **options).check()._repr_html_()

    good, bad, undecided = page(2.0, exact=True), page(0.0, exact=True), page(2.0)
    assert "✓" in good and "reproduced" in good and "✗" in bad and "contradicted" in bad
    assert ">?<" in undecided and "open at 1 seed" in undecided
    assert "&lt;b&gt;" in good and "<b>:" not in good


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"op": "=>"}, "op must be one of"),
        ({"right": None}, "needs right"),
        ({"left": []}, "no values to judge"),
        ({"left": [1.0, 2.0], "right": [1.0, 2.0, 3.0]}, "left has 2 seeds and right has 3"),
    ],
)
def test_claims_that_cannot_be_judged(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Claim(**({"text": "c", "left": [1.0, 2.0], "right": 1.0} | options))


def test_tally_counts_the_three_values() -> None:
    verdicts = check_claims([Claim("a", 1.0, threshold=0.0, exact=True), Claim("b", 1.0, threshold=0.0)])
    assert tally(verdicts) == "1 of 2 claims are reproduced, 0 contradicted, 1 open."


# Effects --------------------------------------------------------------------------------------------------------------


def made(values: dict[str, list[float]], metric: str = "accuracy") -> Comparison:
    records = [{"arm": arm, "seed": s, "last": v} for arm, column in values.items() for s, v in enumerate(column)]
    return Comparison(arms=tuple(values), seeds=(0, 1, 2), metric=metric, records=records)


def test_effects_tell_what_is_settled_and_nothing_else() -> None:
    ce, kd = [0.90, 0.92, 0.88], [0.875, 0.896, 0.854]
    comparison = made({"CE": ce, "KD": kd, "DKD": [0.93, 0.90, 0.91]})
    (sentence,) = effects(comparison, "CE")
    p, (low, high) = 2 * stats.ttest_rel(kd, ce).pvalue, mean_interval([-2.5, -2.4, -2.6])
    assert sentence == (
        f"KD is 2.5 points below CE in accuracy (95 % interval {low:.2f} to {high:.2f}, p {p:.2g} after Holm's "
        "correction for 2 arms, 3 seeds)."
    )
    assert effects(made({"CE": [0.5, 0.6, 0.7], "KD": [0.6, 0.6, 0.9]}), "CE") == []
    assert effects(made({"CE": [0.5], "KD": [0.6]}), "CE") == []
    assert effects(made({"CE": [0.5, math.nan], "KD": [0.6, 0.9]}), "CE") == []
    other = effects(made({"CE": [5.0, 5.1, 5.2], "KD": [7.0, 7.1, 7.3]}, metric="psnr"), "CE", words="PSNR", unit="dB")
    assert other[0].startswith("KD is 2.03 dB above CE in PSNR (95 % interval +") and "1 arm," in other[0]
    with pytest.raises(ValueError, match="arm must be one of"):
        effects(comparison, "PLD")


def test_an_effect_must_hold_after_the_correction() -> None:
    # t = 4 over 4 seeds: p 0.028 alone, 0.056 among two arms
    base, shift = np.array([0.5, 0.6, 0.7, 0.8]), np.array([-0.01, 0.01, -0.01, 0.01])
    kd = base + shift + 4 * shift.std(ddof=1) / 2
    assert len(effects(made({"CE": base.tolist(), "KD": kd.tolist()}), "CE")) == 1
    noisy = (base + np.array([0.1, -0.1, 0.05, 0.0])).tolist()
    assert effects(made({"CE": base.tolist(), "KD": kd.tolist(), "X": noisy}), "CE") == []


@pytest.mark.parametrize(
    ("shift", "found"), [([-0.5, 0.6, -1.6], "not settled"), ([-2.5, -2.4, -2.6], "below"), ([2.5, 2.4, 2.6], "above")]
)
def test_a_contrast_is_told_in_every_case(shift: list[float], found: str) -> None:
    ce = np.array([0.90, 0.92, 0.88])
    low, high = mean_interval(shift)
    sentence = contrast("KD against CE", ce + np.array(shift) / 100, ce)
    start = f"KD against CE: {np.mean(shift):+.1f} points (95 % interval {low:+.2f} to {high:+.2f}, 3 seeds), "
    assert sentence.removeprefix(start.replace("+0.00", "0")).endswith(f"{found}.")
    assert sentence.startswith(start.split(" (")[0])


def test_a_contrast_without_a_spread_or_with_other_seeds() -> None:
    assert contrast("a", [2.0], [1.5], unit="nats") == "a: +0.5 nats (1 seed, no interval), not settled."
    with pytest.raises(ValueError, match="left and right must hold one value per seed"):
        contrast("a", [1.0, 2.0], [1.0])
