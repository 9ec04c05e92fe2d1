"""Run folders that are not what they should be: listed as unreadable with the reason, in nobody's way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from workbench.cli import app
from workbench.runs import list_runs, store
from workbench.runs.files import read_json, write_json
from workbench.runs.store import find_run, mark_interrupted, owner, read_run

GOOD: dict[str, Any] = {"id": "good", "status": "done", "notebook": "fam/x", "started": 5.0, "seconds": 2.0}


def kdw(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result


def text(content: str | bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def changed(**fields: Any) -> Callable[[Path], None]:
    return text(json.dumps(GOOD | fields))


def without(name: str) -> Callable[[Path], None]:
    return text(json.dumps({k: v for k, v in GOOD.items() if k != name}))


def fifo(path: Path) -> None:
    os.mkfifo(path)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "torn": (text('{"status": "do'), "not valid JSON"),
    "empty": (text(""), "not valid JSON"),
    "list": (text("[1, 2]"), "run.json must be an object, got list"),
    "number": (text("3"), "must be an object, got int"),
    "null": (text("null"), "must be an object, got NoneType"),
    "latin": (text(b'{"id": "gr\xf6\xdfer"}'), "not UTF-8"),
    "binary": (text(bytes(range(256))), "not UTF-8"),
    "deep": (text("[" * 100_000), "nested too deeply"),
    "digits": (text(json.dumps(GOOD).replace("5.0", "9" * 5000)), "digits"),
    "folder": (Path.mkdir, "run.json is a folder"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "a link to nowhere, which is not there"),
    "fifo": (fifo, "no ordinary file"),
    "no-status": (without("status"), "run.json has no 'status'"),
    "no-started": (without("started"), "run.json has no 'started'"),
    "no-notebook": (without("notebook"), "run.json has no 'notebook'"),
    "other-status": (changed(status="well"), "status in run.json must be one of"),
    "status-list": (changed(status=["done"]), "status in run.json must be str"),
    "notebook-null": (changed(notebook=None), "notebook in run.json must be str, got None"),
    "started-text": (changed(started="yesterday"), "started in run.json must be int or float, got 'yesterday'"),
    "started-nan": (changed(started=float("nan")), "started in run.json must be int or float, got nan"),
    "started-far": (changed(started=1e300), "started in run.json is no time"),
    "started-true": (changed(started=True), "started in run.json must be int or float, got True"),
    "seconds-text": (changed(seconds="2"), "seconds in run.json must be"),
    "given-list": (changed(given=["n"]), "given in run.json must be dict"),
    "parameters-text": (changed(parameters="n=1"), "parameters in run.json must be dict"),
    "failure-text": (changed(failure="it broke"), "failure in run.json must be dict or null"),
    "failure-empty": (changed(failure={"cell": 1}), "failure in run.json has no 'exception'"),
    "cells-odd": (changed(cells=[3], teachers=[]), "cells[0] in run.json must be an object"),
    "cells-alone": (changed(cells=[]), "cells, but no teachers"),
}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A runs folder with one good run and one of every odd kind."""
    runs = tmp_path / "runs"
    write_json(runs / "good" / "run.json", GOOD)
    for name, (make, _) in ODD.items():
        (runs / name).mkdir()
        make(runs / name / "run.json")
    return runs


def test_odd_runs_are_unreadable_with_the_reason_and_the_good_one_is_there(odd: Path) -> None:
    runs = {r.id: r for r in list_runs(odd)}
    assert set(runs) == {"good", *ODD} and runs["good"].status == "done"
    for name, (_, why) in ODD.items():
        assert runs[name].status == "unreadable", name
        assert why in str(runs[name].failure), name
        assert "\n" not in str(runs[name].failure) and len(str(runs[name].failure)) < 300
        assert runs[name].folder == odd / name and not runs[name].ok and runs[name].record == {}
        assert json.dumps(runs[name].to_dict())
    assert find_run("good", odd).ok and mark_interrupted(odd) == []


def test_the_command_lists_them_all(odd: Path) -> None:
    table = kdw("runs", "--runs-dir", str(odd)).output
    assert f"{len(ODD) + 1} runs" in table and table.count(" unreadable ") == len(ODD) and "fam/x" in table
    shown = {r["id"]: r["status"] for r in json.loads(kdw("runs", "--runs-dir", str(odd), "--json").stdout)}
    assert shown == dict.fromkeys(ODD, "unreadable") | {"good": "done"}
    only = json.loads(kdw("runs", "--runs-dir", str(odd), "--status", "unreadable", "--json", "--mark").stdout)
    assert len(only) == len(ODD) and all(r["failure"]["message"] for r in only)


@pytest.mark.parametrize(
    "words", ["[/x]", "[bold]", "[link=http://x]a[/link]", "\\[", "[/]", "a\x1b[2Jb", "\ud800", "😀"]
)
def test_messages_and_names_are_shown_as_they_are(tmp_path: Path, words: str) -> None:
    failure = {"cell": 1, "exception": f"E{words}", "message": f"m{words}"}
    runs = tmp_path / f"runs{words if words.isascii() and '/' not in words and words.isprintable() else ''}"
    write_json(runs / "a" / "run.json", GOOD | {"status": "failed", "notebook": words, "failure": failure})
    write_json(runs / "b" / "run.json", GOOD | {"given": {"s": words}})
    shown = kdw("runs", "--runs-dir", str(runs)).output
    if words.isprintable():
        assert f"m{words}" in shown and f"s={words}" in shown
    assert "\x1b[2J" not in shown
    assert [
        r["failure"] and r["failure"]["message"]
        for r in json.loads(kdw("runs", "--runs-dir", str(runs), "--json").stdout)
    ] == [f"m{words}", None]


def test_a_done_run_whose_record_is_damaged_is_no_result(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    write_json(folder / "run.json", GOOD)
    for content, why in (
        ("{", "not valid JSON"),
        ("[]", "metrics.json must be an object"),
        ('{"metrics": 3}', "must be dict"),
    ):
        (folder / "metrics.json").write_text(content)
        run = read_run(folder)
        assert run.status == "unreadable" and why in str(run.failure) and run.metrics == {}
    write_json(folder / "metrics.json", {"metrics": {"a": {"value": 1}}})
    run = read_run(folder)
    assert run.ok and run.metrics == {"a": {"value": 1}}
    (folder / "metrics.json").write_text("{")
    assert run.metrics == {} and run.verdicts == [], "damaged after it was read: nothing is made up, nothing is raised"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read_is_listed(tmp_path: Path) -> None:
    for name in ("file", "folder"):
        write_json(tmp_path / name / "run.json", GOOD)
    (tmp_path / "file" / "run.json").chmod(0)
    (tmp_path / "folder").chmod(0)
    try:
        found = {r.id: str(r.failure) for r in list_runs(tmp_path)}
    finally:
        (tmp_path / "folder").chmod(0o700)
    assert set(found) == {"file", "folder"} and all("ermission denied" in said for said in found.values())


def test_what_the_system_refuses_to_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for a superuser too."""
    write_json(tmp_path / "file" / "run.json", GOOD)
    write_json(tmp_path / "folder" / "run.json", GOOD)
    read, scan = Path.read_text, os.scandir

    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.parent.name == "file":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)

    def scandir(path: Any) -> Any:
        if Path(path).name == "folder":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "scandir", scandir)
    found = {r.id: str(r.failure) for r in list_runs(tmp_path)}
    assert found["file"] == "PermissionError: [Errno 13] run.json cannot be read: Permission denied"
    assert "the folder cannot be read: Permission denied" in found["folder"]


def test_links_are_followed_once_and_never_in_a_ring(tmp_path: Path) -> None:
    runs, elsewhere = tmp_path / "runs", tmp_path / "disk" / "far"
    write_json(elsewhere / "run.json", GOOD | {"id": "far"})
    runs.mkdir()
    (runs / "far").symlink_to(elsewhere)
    (runs / "ring").symlink_to(runs)
    (runs / "gone").symlink_to(tmp_path / "removed")
    found = {r.id: r for r in list_runs(runs)}
    assert (
        found["far"].ok and found["gone"].status == "unreadable" and "which is not there" in str(found["gone"].failure)
    )
    assert len(found) <= 3


def test_a_folder_without_run_json_is_an_interrupted_run_only_where_nothing_else_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / ".run.json.123-abc.tmp").write_text("{")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    write_json(tmp_path / "demo" / "run.json", GOOD | {"id": "demo"})
    (tmp_path / "demo" / "figures").mkdir()
    (tmp_path / "demo" / "lessons" / "pld").mkdir(parents=True)
    starting = {r.id: r.status for r in list_runs(tmp_path)}
    assert starting == {"killed": "running", "torn": "running", "demo": "done", "pld": "running"}
    monkeypatch.setattr(store, "_UNBORN_SECONDS", 0.0)
    assert {r.id for r in list_runs(tmp_path, status="interrupted")} == {"killed", "torn", "pld"}
    assert "before it wrote run.json" in str(find_run("killed", tmp_path).failure)
    assert "interrupted" in kdw("runs", "--runs-dir", str(tmp_path)).output
    assert {r.id for r in mark_interrupted(tmp_path)} == {"killed", "torn", "pld"}
    assert [p.name for p in (tmp_path / "torn").iterdir()] == ["run.json"]
    marked = read_run(tmp_path / "torn")
    assert marked.status == "interrupted" and marked.info["started"] == pytest.approx(time.time(), abs=60)
    assert mark_interrupted(tmp_path) == [] and not (tmp_path / "mine" / "run.json").exists()


def test_marking_tidies_up_what_a_killed_run_left(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    write_json(folder / "run.json", GOOD | {"id": "k", "status": "running", **owner(), "process_start": "1"})
    (folder / "notebook.partial.ipynb").write_text("{}")
    (folder / ".usage.json.1-2.tmp").touch()
    assert [r.id for r in mark_interrupted(tmp_path)] == ["k"]
    assert sorted(p.name for p in folder.iterdir()) == ["notebook.ipynb", "run.json"]
    assert read_json(folder / "run.json")["failure"]["exception"] == "Interrupted"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from([*store._INFO, "host", "pid", "process_start", "versions"]), JSON))
def test_no_content_of_run_json_is_more_than_its_own_trouble(
    tmp_path_factory: pytest.TempPathFactory, fields: Any
) -> None:
    runs = tmp_path_factory.mktemp("runs")
    (runs / "a").mkdir()
    (runs / "a" / "run.json").write_text(json.dumps(GOOD | fields), encoding="utf-8")
    kdw("runs", "--runs-dir", str(runs))
    (shown,) = json.loads(kdw("runs", "--runs-dir", str(runs), "--json").stdout)
    assert shown["status"] in store.STATES
    (run,) = list_runs(runs)
    assert run.computing is None or run.computing >= 0 or run.info["cells"]
    assert isinstance(run.slowest(), str)
