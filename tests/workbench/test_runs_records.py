"""record(...): what is stored, what is refused, and that the JSON is always valid."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.runs import records
from workbench.runs.files import plain, read_json, to_json, write_json
from workbench.runs.records import current_record, record


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("KDW_RUN_DIR", raising=False)
    records.reset()
    yield
    records.reset()


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    info = {"notebook": "fam/x", "source_sha256": "abc", "parameters": {"seeds": 3, "quick": True}, "started": 0.0,
            "git": {"commit": "unknown", "dirty": None}}  # fmt: skip
    write_json(tmp_path / "run.json", info)
    monkeypatch.setenv("KDW_RUN_DIR", str(tmp_path))
    return tmp_path


def strict(text: str) -> Any:
    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_scalars_of_every_origin_are_stored_with_kind_and_tolerance() -> None:
    record(a=0.5, b=3, c=True, d="word", e=np.float32(0.25), f=torch.tensor(2), tol={"a": 0.1, "e": 0})
    metrics = current_record()["metrics"]
    assert {n: (m["value"], m["kind"], m["tolerance"]) for n, m in metrics.items()} == {
        "a": (0.5, "float", 0.1), "b": (3, "int", None), "c": (True, "bool", None), "d": ("word", "text", None),
        "e": (0.25, "float", 0.0), "f": (2, "int", None),
    }  # fmt: skip


def test_one_tolerance_is_for_the_floats_only() -> None:
    record(a=0.5, b=3, tol=0.01)
    metrics = current_record()["metrics"]
    assert metrics["a"]["tolerance"] == 0.01 and metrics["b"]["tolerance"] is None


@pytest.mark.parametrize(("value", "stored"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_non_finite_numbers_are_flagged_and_the_file_stays_json(run_dir: Path, value: float, stored: str) -> None:
    record(bad=value, tol=0.1)
    document = strict((run_dir / "metrics.json").read_text())
    assert document["metrics"]["bad"] == {"value": stored, "tolerance": 0.1, "kind": "float", "finite": False}


def test_later_calls_add_and_replace(run_dir: Path) -> None:
    record(a=1.0, verdicts=[{"text": "x beats y", "value": "contradicted", "sentence": "no"}])
    record(
        a=2.0, b=1, verdicts=[{"text": "x beats y", "value": "reproduced"}, {"text": "other", "value": "reproduced"}]
    )
    document = read_json(run_dir / "metrics.json")
    assert document["metrics"]["a"]["value"] == 2.0 and list(document["metrics"]) == ["a", "b"]
    assert [(v["text"], v["value"]) for v in document["verdicts"]] == [
        ("x beats y", "reproduced"),
        ("other", "reproduced"),
    ]


def test_the_record_says_what_it_is_and_where_it_was_made(run_dir: Path) -> None:
    record(a=1)
    document = read_json(run_dir / "metrics.json")
    assert document["schema"] == 2 and document["notebook"] == "fam/x" and document["source_sha256"] == "abc"
    assert document["parameters"] == {"seeds": 3, "quick": True} and document["seeds"] == 3
    assert document["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert document["commit"] == "unknown" and document["threads"] == torch.get_num_threads()
    assert document["durations"]["cpu_seconds"] > 0 and document["device"]


def test_verdict_objects_are_taken_as_they_are() -> None:
    from kdcore.experiment import Claim

    verdict = Claim("two beats one", left=[2.0] * 6, right=[1.0] * 6, threshold=0.5, unit="").check()
    record(a=1, verdicts=[verdict])
    (stored,) = current_record()["verdicts"]
    assert stored["reproduced"] is True and stored["text"] == "two beats one" and stored["sentence"] == verdict.sentence


def test_figures_are_written_with_description_and_numbers(run_dir: Path) -> None:
    from matplotlib.figure import Figure

    from workbench.views import View

    def draw(theme: Any) -> Figure:
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([0, 1])
        return figure

    view = View(title="A line", alt="It rises from 0 to 1.", table=pd.DataFrame({"x": [0, 1]}), draw=draw)
    record(a=1, figures={"line": view, "two": [view, view], "raw": b"\x89PNG"})
    folder = run_dir / "figures"
    names = {p.name for p in folder.iterdir()}
    assert {"line.png", "line-dark.png", "line.html", "line.csv", "line.json", "two-2.png", "raw.png"} <= names
    assert (folder / "line.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(folder / "line.json") == {"title": "A line", "alt": "It rises from 0 to 1."}
    assert pd.read_csv(folder / "line.csv")["x"].tolist() == [0, 1]
    assert "It rises" in (folder / "line.html").read_text()
    assert current_record()["figures"] == {"line": ["A line"], "two": ["A line", "A line"], "raw": ["raw"]}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"a": [1, 2]}, TypeError, "metric a must be a number"), ({"a": None}, TypeError, "metric a must be a number"),
        ({"a": torch.ones(2)}, TypeError, "metric a"), ({"a": 1.0, "tol": -1.0}, ValueError, "tol of a"),
        ({"a": 1.0, "tol": math.nan}, ValueError, "tol of a"),
        ({"a": 1.0, "tol": {"b": 1.0}}, ValueError, "tol names b"),
        ({"verdicts": ["yes"]}, TypeError, "verdicts must be"),
        ({"verdicts": [{"text": "x"}]}, TypeError, "verdicts must be"),
        ({"verdicts": [{"text": "x", "value": "maybe"}]}, TypeError, "verdicts must be"),
        ({"figures": {"f": 3}}, TypeError, "figure f must be"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_stores_nothing(call: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        record(**call)
    assert current_record()["metrics"] == {}


def test_a_run_folder_that_cannot_be_written_is_an_error_that_names_it(run_dir: Path) -> None:
    (run_dir / "metrics.json").mkdir()
    with pytest.raises(OSError, match=r"metrics\.json"):
        record(a=1)
    assert [p.name for p in run_dir.iterdir() if p.name.endswith(".tmp")] == []


def test_text_and_table_show_every_metric_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    record(
        accuracy=0.91,
        n=3,
        tol=0.02,
        verdicts=[{"text": "claim <1>", "value": "contradicted", "sentence": "not reproduced <1>"}],
    )
    out = capsys.readouterr().out
    assert "accuracy = 0.91 ± 0.02" in out and "not reproduced <1>" in out
    page = records.record_html(current_record())
    assert "<caption" in page and "not reproduced &lt;1&gt;" in page and "✘" in page


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_is_valid_for_any_nested_value(value: Any) -> None:
    assert strict(to_json(value)) == plain(value)


def test_first_steps_are_apart_with_a_relative_tolerance(run_dir: Path) -> None:
    record(a=1, first_steps={"KD: kd": 2.0, "KD: gradient": 31.4159, "DKD: tckd": 0.0})
    stored = strict((run_dir / "metrics.json").read_text(encoding="utf-8"))
    assert stored["first_steps"] == {
        "KD: kd": {"value": 2.0, "tolerance": 2e-4, "kind": "float"},
        "KD: gradient": {"value": 31.4159, "tolerance": 3.1e-3, "kind": "float"},
        "DKD: tckd": {"value": 0.0, "tolerance": 1e-7, "kind": "float"},
    }
    assert "KD: kd" not in stored["metrics"]
    page = str(records.record_html(current_record()))
    assert "3 values for the regression test" in page and "KD: gradient" in page
    record(b=2)
    assert len(current_record()["first_steps"]) == 3, "a later record adds"
