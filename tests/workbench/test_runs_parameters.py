"""Parameters cells: what is read from them, what may be passed, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.runs.parameters import (
    ParameterError,
    check_parameters,
    describe_parameters,
    literal,
    parse_cell,
    read_parameters,
    read_value,
)

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


# ------------------------------------------------------------------------------------------------ dicts, nested, none

NESTED = """
settings = {'lr': 0.01}  # of the training
rates: dict[str, float] = {}
blocks: list[list[int]] = []
limits: dict | None = None
anything = None
sizes: set[int] = {1, 2}
pair = (1, 2)
mix: dict[str, list[tuple[int, float]]] = {'a': [(1, 0.5)]}
either: str | list[int] = ''
free: Any = 1
"""


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("settings", "{'lr': 0.1}", {"lr": 0.1}),
        ("settings", '{"lr": 1e-3, "warm": true, "stop": null}', {"lr": 1e-3, "warm": True, "stop": None}),
        ("settings", " {'a': {'b': [1, (2, 3)]}, 4: 'x'} ", {"a": {"b": [1, (2, 3)]}, 4: "x"}),
        ("settings", "{}", {}), ("rates", "{'a': 1}", {"a": 1.0}), ("blocks", "[1, 2], [3]", [[1, 2], [3]]),
        ("blocks", "[[1], []]", [[1], []]), ("limits", "none", None), ("limits", "{'n': 3}", {"n": 3}),
        ("anything", "none", None), ("anything", "[1, 'a']", [1, "a"]), ("anything", "it's", "it's"),
        ("anything", "'none'", "none"), ("anything", "TRUE", True), ("anything", "", ""), ("sizes", "{3, 4}", {3, 4}),
        ("pair", "(3, 4)", (3, 4)), ("pair", "3,4", (3, 4)), ("mix", "{'a': [[2, 1]]}", {"a": [(2, 1.0)]}),
        ("either", "[1, 2]", [1, 2]), ("either", "[1, 2", "[1, 2"), ("free", "{'a': -1}", {"a": -1}),
    ],
)  # fmt: skip
def test_nested_values_are_read_from_text(name: str, text: str, value: Any) -> None:
    got = check_parameters(parse_cell(NESTED), {name: text}, text=True)[name]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("settings", "{'lr': 0.1", r"'\{' was never closed"), ("settings", "{'lr: 0.1}", "unterminated string"),
        ("settings", "[1]", r"settings must be dict, got '\[1\]'\."), ("settings", "lr", "quoted, lr is not"),
        ("settings", "{lr: 0.1}", "text inside must be quoted, lr is not"),
        ("settings", "{'a': __import__('os').getcwd()}", "quoted, __import__ is not"),
        ("settings", "{'a': 1e999}", "must be finite, inf is not"), ("settings", "{[]: 1}", "no literal"),
        ("settings", "{'a': b'x'}", "not of bytes"), ("settings", "\0", "null bytes"),
        ("rates", "{'a': 'fast'}", r"rates must be dict\[str, float\], got"), ("sizes", "{1.5}", "sizes must be set"),
        ("blocks", "[[1], [2", "was never closed"), ("blocks", "[" * 100_000, "nested"),
        ("limits", "{'n': ", r"limits must be dict \| None, got .*'\{' was never closed"),
        ("anything", "[1, 2", r"anything must be any literal, got '\[1, 2': '\[' was never closed"),
        ("anything", "'abc", "unterminated"), ("pair", "(3,", "was never closed"), ("free", "{1: 2", "never closed"),
    ],
)  # fmt: skip
def test_text_that_breaks_off_is_one_clear_line(name: str, text: str, why: str) -> None:
    with pytest.raises(ParameterError, match=why) as error:
        check_parameters(parse_cell(NESTED), {name: text}, text=True)
    first = str(error.value).split("\n")[0]
    assert f"{name} must be" in first and len(first) < 400


def test_values_that_a_notebook_cannot_hold_are_refused_with_their_kind() -> None:
    ring: list[Any] = []
    ring.append(ring)
    known = parse_cell("x = None\nf = 1.0\nd: dict[str, int] = {}")
    wrong = [
        ({"x": b"a"}, "not of bytes"), ({"x": {"a": object()}}, "not of object"), ({"x": ring}, "deeply"),
        ({"f": 10**400}, "f must be float"), ({"d": {"a": "b"}}, "d must be dict"),
    ]  # fmt: skip
    for values, why in wrong:
        with pytest.raises(ParameterError, match=why) as error:
            check_parameters(known, values)
        assert len(str(error.value).split("\n")[0]) < 400
    assert check_parameters(known, {"d": {"a": 1}, "x": {1: (2,)}}) == {"d": {"a": 1}, "x": {1: (2,)}}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("n = 1\nx: list = [1,\n", r"line 2 of the parameters cell cannot be read: '\[' was never closed"),
        ("%matplotlib inline", "line 1 of the parameters cell cannot be read"), ("x = 'a", "unterminated"),
        ("x = {[]: 1}", "x must be a literal"), ("x = b'a'", "not of bytes"), ("x: dict[str] = {}", "type of"),
        ("x: int[str] = 1", "type of parameter x"), ("x: '][' = 1", "type of parameter x"), ("x: 5 = 1", "type of"),
        ("x = '\0'", "null bytes"),
    ],
)  # fmt: skip
def test_cells_that_break_off_are_one_clear_line(cell: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_cell(cell)


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inside: st.lists(inside) | st.tuples(inside, inside) | st.dictionaries(st.text() | st.integers(), inside),
    max_leaves=8,
)


@given(LITERALS)
def test_what_a_run_writes_into_the_notebook_gives_the_value_back(value: Any) -> None:
    assert eval(literal(value), {"float": float}) == value
    assert literal(value) == literal(eval(literal(value), {"float": float}))  # the types too


@given(LITERALS.filter(lambda value: "inf" not in literal(value)), st.booleans())
def test_literals_and_json_are_read_as_what_they_say(value: Any, as_json: bool) -> None:
    if as_json:
        value = json.loads(json.dumps(value))
    assert read_value(json.dumps(value) if as_json and "\\u" not in json.dumps(value) else literal(value)) == value
