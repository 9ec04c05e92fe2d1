"""Parameters cells: what is read from them, what may be passed, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.runs.parameters import ParameterError, check_parameters, describe_parameters, parse_cell, read_parameters

CELL = """
quick: bool = True  # small enough for a test run
seeds: int = 3  # students per method
rate: float = 1e-2
scales: list[float] = [1.0, -2.0]  # several
shape: tuple[int, int] = (8, 8)
name: str = "a # b"  # not a comment inside the string
limit: int | None = None  # no limit
mode: Literal["fast", "exact"] = "fast"
old = 4.0  # no annotation
many: list[int] = [
    1,
    2,
]  # over several lines
"""


def known() -> dict[str, Any]:
    return parse_cell(CELL)


def test_every_kind_of_line_is_read() -> None:
    found = known()
    assert list(found) == ["quick", "seeds", "rate", "scales", "shape", "name", "limit", "mode", "old", "many"]
    assert found["seeds"].default == 3 and found["seeds"].help == "students per method"
    assert found["name"].default == "a # b" and found["name"].help == "not a comment inside the string"
    assert found["rate"].help == "" and found["rate"].type is float
    assert found["limit"].type_name == "int | None" and found["limit"].default is None
    assert found["old"].type is float and found["many"].help == "over several lines"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("quick", "false", False), ("quick", "YES", True), ("quick", "0", False), ("seeds", "-2", -2),
        ("rate", "1e-3", 1e-3),
        ("rate", "2", 2.0), ("scales", "1,2.5", [1.0, 2.5]), ("scales", "[1, 2]", [1.0, 2.0]), ("scales", "", []),
        ("shape", "3,4", (3, 4)), ("name", "it's \"x\" = 1", "it's \"x\" = 1"), ("name", "7", "7"),
        ("limit", "none", None),
        ("limit", "5", 5), ("mode", "exact", "exact"), ("old", "3", 3.0), ("many", "7", [7]),
    ],
)  # fmt: skip
def test_text_is_read_in_the_declared_type(name: str, text: str, value: Any) -> None:
    got = check_parameters(known(), {name: text}, text=True)[name]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("quick", "maybe"), ("seeds", "2.5"), ("seeds", "true"), ("rate", "fast"), ("rate", "nan"), ("rate", "inf"),
        ("scales", "1,x"), ("scales", "[1, 'a']"), ("shape", "1,2,3"), ("limit", "some"), ("mode", "slow"),
    ],
)  # fmt: skip
def test_ill_typed_text_is_refused_with_the_list_of_what_exists(name: str, text: str) -> None:
    with pytest.raises(ParameterError, match=rf"{name} must be") as error:
        check_parameters(known(), {name: text}, text=True)
    assert repr(text) in str(error.value)
    assert "students per method" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quick", 1),
        ("seeds", 2.0),
        ("seeds", True),
        ("rate", "1"),
        ("scales", 1.0),
        ("shape", (1,)),
        ("name", None),
        ("mode", 3),
    ],
)
def test_ill_typed_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=f"{name} must be"):
        check_parameters(known(), {name: value})


def test_a_whole_number_is_good_enough_for_a_float_and_becomes_one() -> None:
    got = check_parameters(known(), {"rate": 1, "scales": [1, 2], "shape": [1, 2], "limit": 4})
    assert got == {"rate": 1.0, "scales": [1.0, 2.0], "shape": (1, 2), "limit": 4}
    assert isinstance(got["rate"], float) and all(isinstance(v, float) for v in got["scales"])


def test_all_problems_come_in_one_message_with_close_names() -> None:
    with pytest.raises(ParameterError) as error:
        check_parameters(known(), {"sedes": "1", "quick": "perhaps", "zzz": "1"}, text=True, notebook="a/b")
    text = str(error.value)
    assert text.startswith("a/b: ")
    assert (
        "no parameter 'sedes'. Did you mean 'seeds'" in text
        and "no parameter 'zzz'" in text
        and "quick must be bool" in text
    )


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("x: int = 'a'", "x must be int"), ("x: int = f()", "must be a literal"),
        ("import os", "must be 'name: type = literal"),
        ("x: Tensor = 1", "type of parameter x"), ("x, y = 1, 2", "must be 'name: type = literal"),
        ("x: int", "must be 'name"),
    ],
)  # fmt: skip
def test_cells_that_are_not_a_list_of_parameters_are_refused(cell: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_cell(cell)


def test_script_and_notebook_read_alike(tmp_path: Path) -> None:
    script = tmp_path / "x.py"
    script.write_text(
        '# %% [markdown]\n# # T\n\n# %% tags=["parameters"]\nseeds: int = 3  # how many\n\n# %%\nother = 1\n'
    )
    notebook = tmp_path / "x.ipynb"
    cells = [
        {"cell_type": "code", "metadata": {}, "source": "other: int = 1"},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["seeds: int = 3", "  # how many"]},
    ]
    notebook.write_text(json.dumps({"cells": cells}))
    assert read_parameters(script) == read_parameters(notebook)
    assert list(read_parameters(script)) == ["seeds"]


def test_without_a_parameters_cell_nothing_can_be_passed(tmp_path: Path) -> None:
    notebook = tmp_path / "x.ipynb"
    notebook.write_text(json.dumps({"cells": []}))
    assert read_parameters(notebook) == {}
    with pytest.raises(ParameterError, match="has no parameters"):
        check_parameters({}, {"a": "1"}, text=True)


def test_description_has_a_line_for_every_parameter() -> None:
    lines = describe_parameters(known()).splitlines()
    assert len(lines) == 2 + len(known())
    assert lines[3].split() == ["seeds", "int", "3", "students", "per", "method"]


@given(st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_what_python_prints_is_read_back(value: Any) -> None:
    parameter = parse_cell(f"x: {type(value).__name__} = {value!r}")["x"]
    assert parameter.default == value
    assert parameter.parse(repr(value)) == value
