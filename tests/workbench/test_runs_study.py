"""A study from the command line: options, the record, keeping it, and refusing one whose study has changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdcore import studies as kdcore_studies
from kdcore.experiment import Arm, Claim, Comparison, contrast
from kdcore.studies import Study, find_study
from kdcore.tasks import Task, load_task
from workbench.cli import app
from workbench.runs import study as runs
from workbench.runs.files import project_root, read_json
from workbench.runs.records import VERDICT_SIGNS


def small_task(seed: int = 0, *, train_size: int = 40) -> Task:
    task = load_task("digits", seed=seed, train_size=train_size)
    quick = {n: replace(spec, recipe=replace(spec.recipe, epochs=1)) for n, spec in task.teachers.items()}
    return replace(task, teachers=quick)


def small_arms(*, temperature: float = 4.0) -> list[Arm]:
    return [Arm("CE", "ce"), Arm("KD", "kd", {"temperature": temperature})]


def small_claims(comparison: Comparison) -> list[Claim]:
    return [Claim("KD beats CE", comparison.values("KD"), right=comparison.values("CE"))]


SMALL = Study(
    slug="pld", words="small", task=small_task, arms=small_arms, claims=small_claims, baseline="CE",
    quick={"epochs": 1}, full={"epochs": 2},
)  # fmt: skip


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(kdcore_studies, "find_study", lambda slug: {"pld": SMALL}[slug])


def kdw(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["study", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_the_record_has_numbers_intervals_verdicts_and_what_it_was_made_with() -> None:
    record = json.loads(kdw("pld", "--seeds", "2", "-p", "temperature", "2.5", "-p", "train_size=30", "--json").stdout)
    assert record["command"] == "kdw study pld --seeds 2 -p temperature 2.5 -p train_size 30"
    assert record["fingerprint"] == SMALL.fingerprint() and record["versions"]["torch"] and record["quick"] is True
    (part,) = record["experiments"]
    assert set(part["arms"]) == {"CE", "KD"} and part["arms"]["KD"]["n"] == 2
    ce, kd = (part["values"][arm]["last"] for arm in ("CE", "KD"))
    assert part["arms"]["KD"]["difference"] == pytest.approx(sum(kd) / 2 - sum(ce) / 2)
    assert part["values"]["KD"]["epochs"] == [1, 1]
    (verdict,) = record["verdicts"]
    assert verdict["text"] == "KD beats CE" and verdict["n"] == 2


def test_tables_and_verdicts_are_printed_and_the_full_tier_differs() -> None:
    shown = kdw("pld", "--seeds", "2", "--full").output
    assert "small: accuracy in %, 2 seeds" in shown and "against CE" in shown
    assert "KD beats CE: " in shown and " of 2 seeds." in shown
    assert runs.run_study("pld", seeds=1, quick=False)["experiments"][0]["values"]["CE"]["epochs"] == [2]


def test_a_kept_result_is_refused_once_its_study_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.kept_result("pld") is None
    kdw("pld", "--seeds", "2", "--keep")
    kept = runs.kept_result("pld")
    assert kept is not None and runs.stale(kept) == ""
    changed = replace(SMALL, quick={"epochs": 3})
    monkeypatch.setattr(kdcore_studies, "find_study", lambda slug: changed)
    assert "has changed since its result was kept: run kdw study pld --seeds 2 --keep" in runs.stale(kept)
    monkeypatch.undo()
    assert "there is no study 'gone'" in runs.stale(kept | {"study": "gone"})


def test_a_lesson_shows_what_was_kept_and_nothing_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = runs.kept_verdicts("pld")
    assert "kdw study pld --seeds 10 --keep makes one" in missing.lead and not missing.lines
    kdw("pld", "--seeds", "2", "--keep")
    shown = runs.kept_verdicts("pld")
    assert shown.lead.startswith("Kept result, 2 seeds (kdw study pld --seeds 2")
    ((sign, sentence),) = shown.lines
    assert sign in VERDICT_SIGNS.values() and "KD beats CE" in sentence
    assert sentence in repr(shown) and "<li>" in shown._repr_html_()
    monkeypatch.setattr(kdcore_studies, "find_study", lambda slug: replace(SMALL, quick={"epochs": 3}))
    assert "not shown: the study 'pld' has changed" in shown.lead and not shown.lines


def test_one_difference_of_a_kept_result_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--keep makes one" in runs.kept_contrast("pld", "KD", "CE")
    kdw("pld", "--seeds", "2", "--keep")
    values = {arm: v["last"] for arm, v in runs.kept_result("pld")["experiments"][0]["values"].items()}  # type: ignore[index]
    said = runs.kept_contrast("pld", "KD", "CE")
    assert said == contrast("KD against CE, kept result", values["KD"], values["CE"])
    with pytest.raises(ValueError, match=r"has no 'tau' of 'KD'; it has CE, KD\."):
        runs.kept_contrast("pld", "KD", "CE", metric="tau")
    monkeypatch.setattr(kdcore_studies, "find_study", lambda slug: replace(SMALL, quick={"epochs": 3}))
    assert "has changed" in runs.kept_contrast("pld", "KD", "CE")


def test_a_result_that_is_replaced_stays_visible() -> None:
    """Running a study until its numbers please leaves a trace on the page."""
    kdw("pld", "--seeds", "2", "--keep", "--remark", "first try")
    first = runs.kept_result("pld")
    assert first is not None and first["remark"] == "first try" and first["earlier"] == []
    kdw("pld", "--seeds", "3", "--keep", "--remark", "the paper's <epochs>")
    kdw("pld", "--seeds", "4", "--keep")
    kept = runs.kept_result("pld")
    assert kept is not None and [e["seeds"] for e in kept["earlier"]] == [2, 3]
    assert kept["earlier"][0]["verdicts"] == [v["sentence"] for v in first["verdicts"]]
    shown = runs.kept_verdicts("pld")
    assert len(shown.replaced) == 2 and "earlier run with 2 seeds (kdw study pld --seeds 2" in repr(shown)
    assert "<summary>earlier runs that it replaces: 2</summary>" in shown._repr_html_()
    assert "earlier run with 3 seeds" in shown._repr_html_()


def test_tuned_arms_are_kept_beside_the_others_with_what_they_were_tried_with(monkeypatch: pytest.MonkeyPatch) -> None:
    study = replace(SMALL, grid=[{"lr": 1e-6}, {"lr": 0.02}], quick={"epochs": 20})
    monkeypatch.setattr(kdcore_studies, "find_study", lambda slug: study)
    kdw("pld", "--seeds", "2", "--keep")
    shown = kdw("pld", "--seeds", "2", "-p", "tuned", "true", "--keep").output.replace("\n", " ")
    assert "Tuned on held-out training data, 6 trainings of each arm: CE lr 0.02; KD lr 0.02." in shown
    plain, tuned = runs.kept_result("pld"), runs.kept_result("pld", tuned=True)
    assert plain is not None and tuned is not None and not tuned["earlier"] and "tuning" not in plain["experiments"][0]
    trials = tuned["experiments"][0]["tuning"]["trials"]
    assert [(t["arm"], t["lr"], t["chosen"]) for t in trials] == [
        ("CE", 1e-6, False), ("CE", 0.02, True), ("KD", 1e-6, False), ("KD", 0.02, True),
    ]  # fmt: skip
    assert "Tuned on held-out" in repr(runs.kept_verdicts("pld", tuned=True))
    assert "Tuned on held-out" not in repr(runs.kept_verdicts("pld"))


def test_controls_and_passes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def arms() -> list[Arm]:
        return [Arm("CE", "ce", passes=2), Arm("still", "ce", train={"lr": 1e-9}, control_of="CE")]

    claims = [Claim("one is one", left=1.0, op="==", threshold=1.0, exact=True)]
    study = replace(SMALL, arms=arms, claims=lambda comparison: claims, quick={"epochs": 8})
    monkeypatch.setattr(kdcore_studies, "find_study", lambda slug: study)
    shown = kdw("pld", "--seeds", "3", "--keep").output
    assert "CE (2 passes)" in shown and "still falls behind CE" in shown.replace("\n", " ")
    kept = runs.kept_result("pld")
    assert kept is not None and kept["experiments"][0]["controls"][0]["of"] == "CE"
    assert "still falls behind CE" in repr(runs.kept_verdicts("pld"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pld", "-p", "epoch", "3"), "study 'pld' has no option 'epoch'. Did you mean 'epochs'"),
        (("pld", "-p", "epochs"), "-p must be followed by a name and a value"),
        (("pld", "-p", "epochs", "many"), "option epochs must be a number, got 'many'"),
        (("pld", "-p", "options", "[1, 2"), "option options cannot be read, got '[1, 2': '[' was never closed"),
        (("pld", "--keep", "--seeds", "1"), "--keep needs --seeds 2 or more"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_trains_nothing(arguments: tuple[str, ...], message: str) -> None:
    assert message in kdw(*arguments, code=2).output.replace("\n", " ")


KEPT = sorted((project_root(Path(__file__).parent) / "docs" / "results").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_results_are_those_of_the_studies_as_they_are(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdcore_studies, "find_study", find_study)
    record = read_json(path)
    tuned = record["options"].get("tuned", False)
    assert path.stem == record["study"] + "-tuned" * tuned and record["seeds"] >= 10
    assert runs.stale(record) == ""
