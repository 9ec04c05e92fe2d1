"""What a run keeps of its outputs: the sums by hand, the texts that are cut, the notice."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from workbench.runs import outputs
from workbench.runs.outputs import OutputBudget, data_bytes, last_lines, shortened_error, text_bytes, trim_log


def test_a_cell_may_keep_half_of_what_is_left() -> None:
    budget = OutputBudget(10_000)
    assert budget.room == 5_000 and budget.take(4_000) and not budget.take(2_000)
    assert (budget.kept, budget.dropped) == (4_000, 2_000)
    assert budget.notice().startswith("\n[kdw: 0.002 MB of this cell's outputs are not kept. A run keeps 0.01 MB")
    budget.start_cell()
    assert budget.room == 3_000 and budget.notice() == ""


def test_a_text_is_cut_where_it_no_longer_fits() -> None:
    budget = OutputBudget(2 * 1_000)
    assert budget.beginning("a" * 500) == "a" * 500 and budget.kept == 700
    assert budget.beginning("b" * 500) == "b" * 100 and budget.dropped == 400
    assert budget.beginning("c" * 500) == "" and budget.dropped == 900
    budget.clear()
    assert budget.kept == 0 and budget.beginning("d" * 500) == "d" * 500


def test_a_picture_that_replaces_another_counts_once() -> None:
    budget = OutputBudget(2_000)
    assert budget.take(800)
    for _ in range(100):
        assert budget.take(900, instead_of=900 if budget.kept == 900 else 800)
    assert budget.kept == 900


def test_an_error_keeps_its_name_the_beginning_of_its_message_and_the_end_of_its_traceback() -> None:
    short = {"ename": "E", "evalue": "m", "traceback": ["a", "b"]}
    assert shortened_error(short) == short
    cut = shortened_error({"ename": "E", "evalue": "m" * 10**6, "traceback": ["x" * 10**6, "last"]})
    assert cut["ename"] == "E" and len(cut["evalue"]) == 10_000 and cut["traceback"][-1] == "last"
    assert sum(map(len, cut["traceback"])) < 10_100


def test_sizes_are_those_of_utf_8() -> None:
    assert text_bytes("aß😀") == 7 and data_bytes({"text/plain": "abc", "application/json": {"a": 1}}) == 211


def test_a_long_log_keeps_its_end(tmp_path: Path, monkeypatch: object) -> None:
    log = tmp_path / "kernel.log"
    assert last_lines(log) == []
    log.write_text("first\n" + "x\n" * 1_000_000 + "last words\n")
    trim_log(log)
    assert log.stat().st_size < outputs._LOG_BYTES + 200 and last_lines(log)[-1] == "last words"
    assert "first 1 MB are not kept" in log.read_text().splitlines()[0]
    before = log.read_text()
    log.write_text("short")
    trim_log(log)
    assert log.read_text() == "short" != before


@given(st.integers(0, 5_000), st.lists(st.lists(st.text(max_size=40) | st.integers(0, 900), max_size=8), max_size=6))
def test_what_is_kept_never_passes_the_limit(limit: int, cells: list[list[str | int]]) -> None:
    budget = OutputBudget(limit)
    for cell in cells:
        budget.start_cell()
        came = kept = 0
        for output in cell:
            if isinstance(output, str):
                text = budget.beginning(output)
                assert output.startswith(text)
                came, kept = came + text_bytes(output), kept + text_bytes(text)
            else:
                came, kept = came + output, kept + (output if budget.take(output) else 0)
        assert came - kept == budget.dropped
        assert budget.kept <= limit and budget.room >= 0
