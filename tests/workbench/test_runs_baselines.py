"""Baselines: what counts as a drift, and what an update writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdcore.files import write_atomic
from workbench.runs.baselines import compare_run, compare_runs, drift_table, load_baselines, update_baselines
from workbench.runs.files import read_json, write_json
from workbench.runs.store import Failure, RunRecord


def metric(value: Any, tolerance: float | None = None, kind: str = "float") -> dict[str, Any]:
    return {"value": value, "tolerance": tolerance, "kind": kind}


def run(
    folder: Path,
    notebook: str = "fam/x",
    status: str = "done",
    verdicts: list[dict[str, Any]] | None = None,
    first_steps: dict[str, Any] | None = None,
    **metrics: dict[str, Any],
) -> RunRecord:
    failure = None if status == "done" else Failure(2, "ValueError", "no")
    if metrics:
        document = {"metrics": metrics, "verdicts": verdicts or [], "first_steps": first_steps or {}}
        write_json(folder / "metrics.json", document)
    return RunRecord("r", folder, status, notebook, {}, failure)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (metric(0.90, 0.02), metric(0.92, 0.02), "ok"), (metric(0.90, 0.02), metric(0.9201, 0.02), "drift"),
        (metric(0.90, 0.02), metric(0.8799, 9.0), "drift"), (metric(0.90), metric(0.9000001), "drift"),
        (metric(0.90), metric(0.90), "ok"), (metric(3, None, "int"), metric(4, None, "int"), "drift"),
        (metric(True, None, "bool"), metric(1, None, "int"), "drift"), (metric("nan", 0.1), metric("nan", 0.1), "ok"),
        (metric("nan", 0.1), metric(0.5, 0.1), "drift"),
        (metric("a", None, "text"), metric("b", None, "text"), "drift"),
        (None, metric(1.0), "unknown"), (metric(1.0), None, "missing"),
    ],
)  # fmt: skip
def test_one_metric(tmp_path: Path, old: Any, new: Any, status: str) -> None:
    anchor = {"anchor": metric(1, None, "int")}
    baselines = {"fam/x": anchor | ({"m": old} if old else {})}
    rows = compare_run(run(tmp_path, **(anchor | ({"m": new} if new else {}))), baselines)
    assert {r.metric: r.status for r in rows} == {"anchor": "ok", "m": status}


def test_a_failed_run_and_one_that_records_nothing_do_not_pass(tmp_path: Path) -> None:
    assert [r.status for r in compare_run(run(tmp_path / "a", status="failed"), {})] == ["failed"]
    assert [r.status for r in compare_run(run(tmp_path / "b"), {})] == ["missing"]
    assert not any(r.ok for r in compare_run(run(tmp_path / "c"), {"fam/x": {"m": metric(1)}}))


def test_the_table_shows_old_new_and_tolerance_of_what_moved(tmp_path: Path) -> None:
    baselines = {"fam/x": {"still": metric(1.0, 0.1), "moved": metric(0.5, 0.01), "gone": metric(1, None, "int")}}
    rows = compare_run(run(tmp_path, still=metric(1.05, 0.1), moved=metric(0.6, 0.01)), baselines)
    lines = [line.split() for line in drift_table(rows).splitlines()[2:]]
    assert lines == [["fam/x", "moved", "0.5", "0.6", "0.01", "drift"], ["fam/x", "gone", "1", "-", "exact", "missing"]]
    assert drift_table([r for r in rows if r.ok]) == ""


def test_update_writes_a_reviewable_diff_and_keeps_what_did_not_move(tmp_path: Path) -> None:
    file = tmp_path / "baselines"
    first = run(tmp_path / "1", a=metric(0.5, 0.1), b=metric(1, None, "int"))
    assert '+  "a": {' in update_baselines([first], file)
    assert compare_runs([first], file) and all(r.ok for r in compare_runs([first], file))

    second = run(tmp_path / "2", a=metric(0.55, 0.1), b=metric(2, None, "int"))
    difference = update_baselines([second], file)
    assert "0.55" not in difference and load_baselines(file)["fam/x"]["a"]["value"] == 0.5, "within tolerance: kept"
    assert '-   "value": 1,' in difference and '+   "value": 2,' in difference
    assert update_baselines([second], file) == ""

    third = run(tmp_path / "3", a=metric(0.55, 0.01), b=metric(2, None, "int"))
    update_baselines([third], file)
    assert load_baselines(file)["fam/x"]["a"] == metric(0.55, 0.01), "another tolerance is another baseline"


def test_what_a_person_wrote_into_a_baseline_file_stays(tmp_path: Path) -> None:
    file, allowed = tmp_path / "baselines", {"seconds": 45, "since": "2026-11-28", "why": "four arms"}
    update_baselines([run(tmp_path / "1", a=metric(1, None, "int"))], file)
    path = file / "fam" / "x.json"
    write_json(path, read_json(path) | {"cpu_seconds_allowed": allowed})
    assert load_baselines(file)["fam/x"].keys() == {"a"}, "it is no metric"
    update_baselines([run(tmp_path / "2", a=metric(2, None, "int"))], file)
    assert read_json(path)["cpu_seconds_allowed"] == allowed and read_json(path)["metrics"]["a"]["value"] == 2


def test_update_drops_the_files_of_notebooks_that_are_gone(tmp_path: Path) -> None:
    file = tmp_path / "baselines"
    runs = [run(tmp_path / n, n, a=metric(1, None, "int")) for n in ("z", "b", "gone")]
    update_baselines(runs, file)
    update_baselines(runs[:1], file, keep=["z", "b"])
    assert sorted(path.name for path in file.iterdir()) == ["b.json", "z.json"] and list(load_baselines(file)) == [
        "b",
        "z",
    ]
    assert list(read_json(file / "b.json")) == ["schema", "metrics", "verdicts"]


def test_only_good_runs_become_baselines(tmp_path: Path) -> None:
    for bad, message in ((run(tmp_path / "a", status="failed"), "it failed"), (run(tmp_path / "b"), "records nothing")):
        with pytest.raises(ValueError, match=message):
            update_baselines([bad], tmp_path / "baselines")
    assert not (tmp_path / "baselines").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 99, "metrics": {}, "verdicts": {}}', '{"schema": 2, "metrics": {}}']
)
def test_a_file_that_is_not_a_baseline_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"b\.json"):
        load_baselines(write_atomic(tmp_path / "b.json", text).parent)


def test_verdicts_and_their_differences_are_baselines_too(tmp_path: Path) -> None:
    def judged(folder: str, value: str, difference: float, error: float | None = 0.5) -> RunRecord:
        verdict = {"text": "KD wins", "value": value, "difference": difference, "standard_error": error}
        return run(tmp_path / folder, verdicts=[verdict], a=metric(1, None, "int"))

    file = tmp_path / "baselines"
    update_baselines([judged("1", "open", 1.25, 0.51234)], file)
    kept = load_baselines(file)["fam/x"]
    assert kept["verdict: KD wins"] == metric("open", None, "text")
    assert kept["difference: KD wins"] == metric(1.25, 0.51)
    assert not drift_table(compare_runs([judged("2", "open", 1.7)], file))
    assert "difference: KD wins" in drift_table(compare_runs([judged("3", "open", 1.8)], file))
    turned = compare_runs([judged("4", "reproduced", 1.25)], file)
    assert [(r.metric, r.status) for r in turned if not r.ok] == [("verdict: KD wins", "drift")]
    assert [r.status for r in compare_runs([run(tmp_path / "5", a=metric(1, None, "int"))], file)][1:] == [
        "missing"
    ] * 2
    assert update_baselines([judged("6", "open", 1.5, 0.6)], file) == "", "within the old tolerance: kept"
    exact = judged("7", "reproduced", 0.0, None)
    assert "difference: KD wins" not in {r.metric for r in compare_run(exact, {})}


def test_first_steps_have_a_part_of_their_own(tmp_path: Path) -> None:
    file, n = tmp_path / "baselines", metric(1, None, "int")

    def stepped(name: str, value: float, tolerance: float) -> RunRecord:
        return run(tmp_path / name, n=n, first_steps={"KD: kd": metric(value, tolerance)})

    update_baselines([run(tmp_path / "none", n=n)], file)
    assert "first_steps" not in read_json(file / "fam" / "x.json")
    assert [r.metric for r in compare_runs([stepped("1", 2.0, 2e-4)], file) if r.status == "unknown"] == [
        "first step: KD: kd"
    ]
    update_baselines([stepped("1", 2.0, 2e-4)], file)
    assert set(read_json(file / "fam" / "x.json")["first_steps"]) == {"first step: KD: kd"}
    assert all(r.ok for r in compare_runs([stepped("2", 2.0001, 2.1e-4)], file))
    assert update_baselines([stepped("2", 2.0001, 2.1e-4)], file) == "", "its tolerance is measured: no new baseline"
    (bad,) = (r for r in compare_runs([stepped("3", 2.001, 2e-4)], file) if not r.ok)
    assert (bad.metric, bad.status) == ("first step: KD: kd", "drift")
    (gone,) = (r for r in compare_runs([run(tmp_path / "none", n=n)], file) if not r.ok)
    assert gone.status == "missing"
