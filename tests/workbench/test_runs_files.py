"""Files that are called notebooks: any name gives a run, whatever is no notebook is named as what it is."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from workbench.cli import app
from workbench.runs import list_runs, run_many, run_notebook
from workbench.runs.execute import RunNameError, RunOptionError, new_run_folder, new_run_id
from workbench.runs.files import (
    NotebookError,
    answers_to,
    find_notebooks,
    load_notebook,
    resolve_notebook,
    slug_of,
    to_json,
)
from workbench.runs.store import find_run

CELL: dict[str, Any] = {"cell_type": "code", "metadata": {}, "source": "1", "outputs": [], "execution_count": None}
NAMES = [
    "My experiment (1)", "Versuch größer", "v1.2.final", "a.py", "😀", "实验 一", "a" * 240, "CON", "{x}", "[x]",
    "a b\tc", "quo'te\"", "semi;&|$(x)", "trailing.", "-dash", "_private", "100%", "#1?", "new\nline", "back\\slash",
]  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    metadata = {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    return {"cells": [CELL | {"id": "a"}], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5} | changes


def project(folder: Path, names: list[str]) -> Path:
    (folder / "pyproject.toml").touch()
    (folder / "notebooks").mkdir()
    for name in names:
        (folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(document()), encoding="utf-8")
    return folder


# --------------------------------------------------------------------------------------------------------- any name


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("ranking/pld", "pld"), ("00_start_here", "00_start_here"), ("My experiment (1)", "My-experiment-1"),
        ("Versuch größer", "Versuch-grosser"), ("Ångström Œuvre", "Angstrom-OEuvre"), ("v1.2.final", "v1.2.final"),
        ("😀", "notebook"), ("a 😀 b", "a-b"), ("实验 一", "实验-一"), ("...", "notebook"), ("a: b?", "a-b"),
        ("x" * 250, "x" * 60), (unicodedata.normalize("NFD", "größer"), "grosser"), ("\udcff", "notebook"),
    ],
)  # fmt: skip
def test_a_readable_slug_is_made_of_any_name(name: str, slug: str) -> None:
    assert slug_of(name) == slug


@given(st.text(min_size=1))
def test_every_name_gives_a_run_id_that_a_strict_check_takes(name: str) -> None:
    run_id = new_run_id(name)
    assert re.fullmatch(r"\d{8}-\d{6}-[\w.+-]+-[0-9a-f]{4}", run_id) and len(run_id.encode()) <= 160
    assert slug_of(slug_of(name)) == slug_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_found_by_their_name_key_path_and_slug(tmp_path: Path, name: str) -> None:
    root = project(tmp_path, [name, "other"])
    path = (root / "notebooks" / f"{name}.ipynb").resolve()
    assert resolve_notebook(path) == path and load_notebook(path)["cells"][0]["source"] == "1"
    if not name.startswith("_"):  # those are nobody's lessons
        assert resolve_notebook(name, root) == resolve_notebook(f"{name}.ipynb", root) == path
        assert resolve_notebook(slug_of(name), root) == path
        assert path in [p.resolve() for p in find_notebooks(root, name)]
    for known in (name, f"{name}.ipynb", f"notebooks/{name}.ipynb", slug_of(name)):
        assert answers_to(name, known), known
    assert not answers_to(name, "other")


def test_a_name_that_another_system_wrote_is_the_same_name(tmp_path: Path) -> None:
    root = project(tmp_path, [unicodedata.normalize("NFD", "Versuch größer")])
    assert resolve_notebook(unicodedata.normalize("NFC", "Versuch größer"), root).stem.startswith("Versuch gr")


def test_a_slug_that_two_notebooks_share_names_them(tmp_path: Path) -> None:
    root = project(tmp_path, ["a b", "a (b)"])
    with pytest.raises(FileNotFoundError, match=r"more than one notebook is called 'a-b'\. There are: a \(b\), a b\."):
        resolve_notebook("a-b", root)
    assert resolve_notebook("a b", root).stem == "a b"


@pytest.mark.notebook
def test_every_name_runs_and_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["My experiment (1)", "Versuch größer 😀", "{v1.2} [bold]", "x" * 240]
    monkeypatch.chdir(project(tmp_path, names))
    for name in names:
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        done = CliRunner().invoke(app, ["run", str(path)])
        assert done.exit_code == 0, done.output
        (run,) = list_runs("runs", notebook=name)
        assert run.ok and run.notebook == name and run.info["slug"] == slug_of(name) and slug_of(name) in run.id
        assert run.info["path"] == str(path) and find_run(name, "runs").id == run.id
        for asked in (name, f"{name}.ipynb", str(path), slug_of(name)):
            listed = CliRunner().invoke(app, ["runs", asked, "--json"])
            assert [r["id"] for r in json.loads(listed.stdout)] == [run.id], asked
    shown = CliRunner().invoke(app, ["runs"])
    assert shown.exit_code == 0 and "4 runs" in shown.output and "[bold]" in shown.output


def test_a_report_shows_a_notebook_of_any_name(tmp_path: Path) -> None:
    from workbench.report import notebook_html

    path = project(tmp_path, ["My größer (1) <b>"]) / "notebooks" / "My größer (1) <b>.ipynb"
    assert "My größer (1) &lt;b&gt;" in notebook_html(path)
    link = {"cell_type": "markdown", "metadata": {}, "source": "[it](My%20experiment%20(1).ipynb) [no](a%20b.ipynb)"}
    (tmp_path / "notebooks" / "l.ipynb").write_text(json.dumps(document(cells=[link | {"id": "b"}])))
    page = notebook_html(tmp_path / "notebooks" / "l.ipynb", links={"My experiment (1)": "My experiment.html"})
    assert '<a href="My%20experiment.html">it</a>' in page and "no" in page and "a%20b" not in page


@pytest.mark.parametrize("run_id", ["My experiment", "größer (1)", "a/b", "..", ".x", "", "a\n", "x" * 201, "a\0"])
def test_a_run_id_that_is_given_stays_strict(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(RunNameError, match="run_id must"):
        new_run_folder(tmp_path / "runs", {"id": run_id})
    assert not (tmp_path / "runs").exists()


def test_a_name_that_is_no_text_can_be_written_down() -> None:
    assert json.loads(to_json({"path": "/x/\udcff"}).encode()) == {"path": "/x/\udcff"}


# --------------------------------------------------------------------------------------------- files that are none

V3 = {"worksheets": [{"cells": []}], "metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
WRONG: dict[str, tuple[str | bytes, str]] = {
    "cut": (json.dumps(document())[:-20], "its JSON is cut short or damaged"),
    "empty": ("", "it is empty"),
    "blank": (" \n", "it is empty"),
    "list": ("[1, 2]", "its JSON is a list, not an object with cells"),
    "number": ("3", "its JSON is a number"),
    "text": ('"a"', "its JSON is a text"),
    "lfs": (LFS, "it is a Git LFS pointer; fetch the file itself with 'git lfs pull'"),
    "html": ("<!DOCTYPE html><html></html>", "it is an HTML or XML page"),
    "prose": ("hello", "it is not JSON"),
    "latin": ("größer".encode("latin-1"), "it is not UTF-8 text"),
    "zip": (b"PK\x03\x04\xff\xfe", "it is not UTF-8 text"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "v3": (json.dumps(V3), "in the old notebook format 3: convert it first with 'jupyter nbconvert"),
    "v2": (json.dumps(V3 | {"nbformat": 2}), "in the old notebook format 2"),
    "v5": (json.dumps(document(nbformat=5)), "nbformat must be 4, got 5"),
    "odd-version": (json.dumps(document(nbformat="4")), "nbformat must be 4, got '4'"),
    "no-cells": (json.dumps({"metadata": {}, "nbformat": 4}), "it has no list of cells"),
    "cells-dict": (json.dumps(document(cells={})), "it has no list of cells"),
    "cell-text": (json.dumps(document(cells=["1"])), "cell 1 has no cell_type, source and metadata"),
    "cell-kind": (json.dumps(document(cells=[CELL, CELL | {"cell_type": "heading"}])), "cell 2 has no cell_type"),
    "cell-source": (json.dumps(document(cells=[CELL | {"source": 3}])), "cell 1 has no cell_type"),
    "cell-tags": (json.dumps(document(cells=[CELL | {"metadata": {"tags": "parameters"}}])), "cell 1 has no cell_type"),
    "metadata": (json.dumps(document(metadata=[1])), "its metadata must be an object"),
    "julia": (json.dumps(document(metadata={"kernelspec": {"name": "jl", "language": "julia"}})), "in julia, not"),
    "r": (json.dumps(document(metadata={"language_info": {"name": "R"}})), "is written in R, not in Python"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_notebook_is_named_in_one_line_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    content, why = WRONG[kind]
    path = tmp_path / "x.ipynb"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    done = CliRunner().invoke(app, ["run", str(path), "--runs-dir", str(tmp_path / "runs")])
    assert done.exit_code == 2 and why in done.output and str(path) in done.output, done.output
    assert len(done.output.strip().splitlines()) == 1
    with pytest.raises(NotebookError, match=re.escape(why)):
        run_many([path], runs_dir=tmp_path / "runs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.ipynb"]


def test_a_folder_called_like_a_notebook_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.ipynb").mkdir()
    done = CliRunner().invoke(app, ["run", str(tmp_path / "x.ipynb")])
    assert done.exit_code == 2 and "is a folder, not a notebook" in done.output


def test_what_is_missing_and_does_not_matter_is_added(tmp_path: Path) -> None:
    path = tmp_path / "x.ipynb"
    bare = {"cell_type": "code", "source": ["a = 1\n", "a"]}
    path.write_text(
        "\ufeff" + json.dumps({"cells": [bare, bare | {"id": "same"}, bare | {"id": "same"}], "nbformat": 4})
    )
    cells = load_notebook(path)["cells"]
    assert [c["source"] for c in cells] == ["a = 1\na"] * 3 and len({c["id"] for c in cells}) == 3
    assert all(c["metadata"] == {} and c["outputs"] == [] for c in cells)


@pytest.mark.notebook
def test_a_notebook_without_a_kernelspec_runs_in_the_kernel_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.ipynb"
    cells = [CELL | {"source": "n: tuple = (1, 2)\ns = {1: 'a'}", "metadata": {"tags": ["parameters"]}},
             CELL | {"source": "assert n == (3, 4) and s == {2: {'b': None}}, (n, s)"}]  # fmt: skip
    path.write_text(json.dumps(document(metadata={}, cells=cells)))
    given_text = {"n": "(3, 4)", "s": "{2: {'b': null}}"}
    assert run_notebook(path, given_text, text=True, runs_dir=tmp_path / "runs").failure is None
    run = run_notebook(path, {"n": [3, 4], "s": {2: {"b": None}}}, runs_dir=tmp_path / "runs")
    assert run.failure is None and run.info["given"] == {"n": [3, 4], "s": {"2": {"b": None}}}


@pytest.mark.parametrize(
    ("option", "value"),
    [(o, v) for o in ("timeout", "output_limit") for v in (0, -1, float("nan"), float("inf"), 1e30)],
)
def test_limits_that_are_no_numbers_above_0_are_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: float
) -> None:
    path = project(tmp_path, ["x"]) / "notebooks" / "x.ipynb"
    name = option.replace("_", "-")
    monkeypatch.chdir(tmp_path)
    for command in (["run", str(path)], ["notebooks"]):
        done = CliRunner().invoke(app, [*command, f"--{name}", str(value), "--runs-dir", str(tmp_path / "runs")])
        assert done.exit_code == 2 and f"{option} must be a number of" in done.output, done.output
        assert len(done.output.strip().splitlines()) == 1
    for call in (run_notebook, lambda p, **kw: run_many([p], **kw)):
        with pytest.raises(RunOptionError, match=f"{option} must be a number of .* above 0"):
            call(path, runs_dir=tmp_path / "runs", **{option: value})
    assert not (tmp_path / "runs").exists()


def test_other_commands_name_what_is_no_notebook_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project(tmp_path, ["x"]))
    for name, (content, _) in {"cut": WRONG["cut"], "latin": WRONG["latin"]}.items():
        (tmp_path / f"{name}.ipynb").write_bytes(content.encode() if isinstance(content, str) else content)
        for command in (["pair", "--from-notebook"], ["run", "--help-parameters"]):
            done = CliRunner().invoke(app, [*command, str(tmp_path / f"{name}.ipynb")])
            assert done.exit_code == 2 and "is not a notebook: it" in done.output, done.output
    done = CliRunner().invoke(app, ["lab", "--dry-run", "--start", str(tmp_path / "cut.ipynb")])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["runs", "--runs-dir", str(tmp_path / "cut.ipynb")])
    assert done.exit_code == 1 and "is a file, not a folder of runs" in done.output
    assert not (tmp_path / "cut.py").exists() and not (tmp_path / "latin.py").exists()
