"""Keys of lessons: what makes one run again, what does not, and what a lesson may cost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.runs import lessons
from workbench.runs.files import read_json, write_json
from workbench.runs.meter import hashes
from workbench.runs.store import Failure, RunRecord

USED, UNUSED = ("kdcore/a.py", "kdcore/table.csv"), "kdcore/b.py"
NOTEBOOK = "notebooks/ranking/pld.ipynb"
FILES = (*USED, UNUSED, NOTEBOOK, "notebooks/ranking/pld.py", "tests/notebooks/baselines/ranking/pld.json")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", *FILES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    return tmp_path


def green(project: Path, name: str = "one", **info: object) -> RunRecord:
    facts = {"sources": hashes(USED, project), "sources_moved": [], "given": {}} | info
    return RunRecord(name, project / "runs" / name, "done", "ranking/pld", facts)


def remembered(project: Path, run: RunRecord) -> bool:
    return lessons.remember(run, project / NOTEBOOK, project) is not None


def unchanged(project: Path) -> str | None:
    return lessons.unchanged(project / NOTEBOOK, project)


def test_a_lesson_is_known_until_something_it_used_changes(project: Path) -> None:
    assert unchanged(project) is None
    path = lessons.remember(green(project), project / NOTEBOOK, project)
    assert path is not None and path.parent == project / ".kdw-cache/lessons"
    note = read_json(path)
    assert (note["notebook"], note["run"], note["sources"]) == ("ranking/pld", "one", sorted(USED))
    assert unchanged(project) == "one"
    (project / UNUSED).write_text("changed")
    (project / "notebooks/ranking/other.ipynb").write_text("new")
    assert unchanged(project) == "one"


@pytest.mark.parametrize("name", [name for name in FILES if name != UNUSED])
@pytest.mark.parametrize("change", [lambda p: p.write_text(f"{p.read_text()} "), Path.unlink], ids=["edited", "gone"])
def test_every_input_is_in_the_key(project: Path, name: str, change: Callable[[Path], object]) -> None:
    assert remembered(project, green(project)) and unchanged(project) == "one"
    before = (project / name).read_text()
    change(project / name)
    assert unchanged(project) is None
    (project / name).write_text(before)
    assert unchanged(project) == "one", "what is put back is as it was"


@pytest.mark.parametrize("package", ["python", "torch", "numpy", "matplotlib"])
def test_versions_are_in_the_key(project: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    remembered(project, green(project))
    newer = lessons.versions() | {package: "99.0"}
    assert newer != lessons.versions()
    monkeypatch.setattr(lessons, "versions", lambda: newer)
    assert unchanged(project) is None


def test_another_lesson_of_the_same_content_is_another_lesson(project: Path) -> None:
    remembered(project, green(project))
    assert lessons.unchanged(project / "notebooks/ranking/other.ipynb", project) is None


@pytest.mark.parametrize(
    "info",
    [{"given": {"seeds": 5}}, {"sources_moved": ["kdcore/a.py"]}, {"sources": {}}, {"sources": {USED[0]: "0" * 64}}],
    ids=str,
)
def test_runs_that_prove_nothing_leave_no_key(project: Path, info: dict[str, object]) -> None:
    assert not remembered(project, green(project, **info)) and not (project / ".kdw-cache").exists()


def test_failed_and_unmeasured_runs_leave_no_key(project: Path) -> None:
    failed = RunRecord("f", project, "failed", "ranking/pld", green(project).info, Failure(1, "E", "m"))
    unmeasured = RunRecord("u", project, "done", "ranking/pld", {"given": {}})
    assert not remembered(project, failed) and not remembered(project, unmeasured)


def test_a_few_keys_are_kept_and_torn_ones_do_no_harm(project: Path) -> None:
    for number in range(lessons.KEPT + 2):
        (project / USED[0]).write_text(str(number))
        remembered(project, green(project, f"run{number}"))
        time.sleep(0.01)
    folder = project / ".kdw-cache/lessons"
    assert len(list(folder.glob("*.json"))) == lessons.KEPT
    (project / USED[0]).write_text(str(lessons.KEPT))
    assert unchanged(project) == f"run{lessons.KEPT}", "an earlier state is still known"
    (folder / "torn.json").write_text('{"notebook": "ranki')
    write_json(folder / "list.json", [1])
    assert unchanged(project) == f"run{lessons.KEPT}"


def test_one_lesson_of_every_family_always_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["ranking/pld", "start", "features/nd", "ranking/dist", "method_map"]
    assert lessons.always(keys) == {"ranking/dist", "features/nd", "method_map"}
    for name in ("CI", "KDW_ALL_LESSONS"):
        monkeypatch.delenv(name, raising=False)
    assert not lessons.all_wanted()
    for name, value in (("CI", "true"), ("KDW_ALL_LESSONS", "1")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            assert lessons.all_wanted()


# ---------------------------------------------------------------------------------------------- what a lesson may cost


def test_an_exception_needs_a_date_and_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "ranking" / "pld.json"
    assert lessons.allowed_seconds("ranking/pld", tmp_path) == lessons.LIMIT
    good = {"seconds": 45, "since": "2026-11-28", "why": "four arms of a detector"}
    write_json(path, {"cpu_seconds_allowed": good})
    assert lessons.allowed_seconds("ranking/pld", tmp_path) == 45.0
    for wrong in (good | {"seconds": 20}, good | {"since": "soon"}, good | {"why": ""}, {"seconds": 45}, 45):
        write_json(path, {"cpu_seconds_allowed": wrong})
        with pytest.raises(ValueError, match=r"cpu_seconds_allowed in .*pld\.json must have seconds above 25, since"):
            lessons.allowed_seconds("ranking/pld", tmp_path)


def test_a_slow_machine_has_more_seconds_and_a_fast_one_no_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    def burn(seconds: float) -> Callable[[], None]:
        def work() -> None:
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                os.getpid()

        return work

    monkeypatch.setattr(lessons, "REFERENCE", 0.02)
    monkeypatch.setattr(lessons, "_work", burn(0.05))
    with lessons.watch_slowness(every=0.01) as speed:
        time.sleep(0.3)
    assert len(speed.seen) > 1 and 2.4 < speed.mean < 3.5
    known = list(speed.seen)
    time.sleep(0.1)
    assert speed.seen == known, "it has ended"
    monkeypatch.setattr(lessons, "_work", burn(0.0))
    with lessons.watch_slowness() as speed:
        pass
    assert len(speed.seen) == 1 and speed.mean == lessons.Slowness().mean == 1.0


def test_the_measured_work_is_some_hundredths_of_a_second() -> None:
    started = time.process_time()
    lessons._work()
    assert 0.005 < time.process_time() - started < 1
