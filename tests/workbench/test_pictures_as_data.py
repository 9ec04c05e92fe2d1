"""The plain form of pictures, and the modules that draw it: one text each, in order, asking nothing of anybody."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from support.views import HOSTILE

from workbench import marks
from workbench.views import picture as P
from workbench.views.picture import VERSION, Mark, Packed, Panel, packed

FOLDER = Path(marks.__file__).parent
MODULES = {p.name: p.read_text(encoding="utf-8") for p in sorted(FOLDER.glob("*.js"))}
DOCS = Path(__file__).parents[2] / "docs"
ENTRIES = ("widget.js", "page.js")


def unpacked(p: Packed) -> np.ndarray:
    return np.frombuffer(p["data"], p["dtype"]).reshape(p["shape"])


# The plain form -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given_", "dtype"),
    [
        (np.arange(6, dtype=np.uint8), "uint8"),
        (np.arange(6, dtype=np.int64), "int32"),
        (np.array([True, False]), "float64"),
        (np.zeros(4096), "float64"),
        (np.zeros((64, 64), dtype=np.float32), "float64"),
        (np.zeros(4097), "float32"),
        (np.zeros((65, 64)), "float32"),
        (np.arange(6, dtype=">i4"), "int32"),
        (np.arange(6, dtype=">f8"), "float64"),
    ],
)
def test_arrays_travel_as_little_endian_bytes(given_: np.ndarray, dtype: str) -> None:
    made = packed(given_)
    assert made["dtype"] == dtype and made["shape"] == list(given_.shape)
    assert len(made["data"]) == given_.size * np.dtype(dtype).itemsize
    np.testing.assert_array_equal(unpacked(made), given_)


@given(arrays(np.float64, array_shapes(max_dims=3, max_side=5)))
def test_numbers_come_back_as_they_were(array: np.ndarray) -> None:
    np.testing.assert_array_equal(unpacked(packed(array)), array)  # NaN and infinities too


def test_views_of_an_array_are_packed_in_their_own_order() -> None:
    turned = np.arange(12.0).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(unpacked(packed(turned)), turned)


def test_what_is_unknown_stays_unknown() -> None:
    line = P.Line("a", [1, 2], [np.nan, np.inf])
    plain = P.Picture(P.Plane(line, P.Histogram("h", [0, 1], [2], mean=float("nan")))).plain()
    first, second = plain["panels"][0]["marks"]
    assert np.isnan(unpacked(first["y"])[0]) and np.isinf(unpacked(first["y"])[1]) and second["mean"] is None
    assert first["low"] is None and plain["panels"][0]["x"]["low"] is None


def test_the_form_has_a_version_and_names_its_kinds() -> None:
    plain = P.Picture(P.Plane(P.Rule(1.0)), P.Blank(), widths=(1, 2), columns=2).plain()
    assert plain["version"] == VERSION == 1 and plain["widths"] == [1, 2]
    assert [p["kind"] for p in plain["panels"]] == ["plane", "blank"] and plain["panels"][0]["marks"][0][
        "kind"
    ] == "rule"
    assert f"const VERSION = {VERSION};" in MODULES["picture.js"]


def test_names_and_numbers_of_any_library_become_plain() -> None:
    heat = P.Heat(values=torch.ones(1, len(HOSTILE)), colours=P.Colours(np.float32(0), np.int64(1)), columns=HOSTILE)
    table = P.Table(columns={1: [np.float64(2), None, "x", np.bool_(True), Path("a")]})
    text = json.dumps(P.Picture(heat, table).json(), allow_nan=False)
    heat_, table_ = json.loads(text)["panels"]
    assert heat_["columns"] == HOSTILE and heat_["colours"]["high"] == 1
    assert table_["columns"] == {"1": [2, None, "x", True, "a"]}


def test_every_kind_has_its_pictures_and_its_row() -> None:
    text = (DOCS / "pictures.md").read_text(encoding="utf-8")
    for kind in kinds(Panel) - {"plane", "blank"} | kinds(Mark):
        assert text.count(f"\n| `{kind}` |") == 1
        for theme in ("light", "dark"):
            path = DOCS / "images" / "marks" / f"{kind}-{theme}.png"
            assert 500 < path.stat().st_size < 25_000 and f"images/marks/{path.name}" in text


# The modules ----------------------------------------------------------------------------------------------------------
def kinds(base: type) -> set[str]:
    return {c.kind for c in base.__subclasses__() if c.__module__.startswith("workbench.views._picture_")}


def test_every_kind_has_what_draws_it() -> None:
    for base, table, module in ((Panel, "PANELS", "picture.js"), (Mark, "DRAW", "plane.js")):
        drawn = re.search(rf"const {table} = {{(.*?)}};", MODULES[module], re.S)[1]
        assert set(re.findall(r"(\w+):", drawn)) | ({"blank"} if base is Panel else set()) == kinds(base)


@pytest.mark.parametrize("entry", ENTRIES)
def test_one_text_has_every_part_once_and_before_its_use(entry: str) -> None:
    order = marks.files(entry)
    assert len(set(order)) == len(order) and order[-1] == entry
    for at, name in enumerate(order):
        needed = set(re.findall(r'from "\./(\w+\.js)"', MODULES[name]))
        assert needed <= set(order[:at]), name
    text = marks.script(entry)
    assert not re.search(r"^import ", text, re.M)
    assert len(re.findall(r"^export ", text, re.M)) == (entry == "widget.js")
    names = re.findall(r"^(?:export )?(?:async )?(?:const|let|function|class) (\w+)", text, re.M)
    names += [n for more in re.findall(r"^const \w+ = [^;{(]*, (\w+) = ", text, re.M) for n in [more]]
    assert len(names) > 40 and sorted(names) == sorted(set(names)), "joined modules share one scope"


def test_no_module_is_left_over() -> None:
    assert {n for e in ENTRIES for n in marks.files(e)} == set(MODULES)


def test_modules_that_import_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nexport const a = 1;\n')
    (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n')
    monkeypatch.setattr(marks, "_HERE", tmp_path)
    with pytest.raises(ValueError, match=r"circle: a\.js -> b\.js -> a\.js"):
        marks.files("a.js")


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_small_and_make_no_markup_from_data(name: str) -> None:
    text = MODULES[name]
    assert text.startswith("// ") and len(text) < 18_000
    addresses = set(re.findall(r"https?://[^\"'`]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}, "the one address is a name, nothing is fetched from it"
    for forbidden in (
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "fetch(",
        "XMLHttp",
    ):
        assert forbidden not in text
    written = [line.strip() for line in text.splitlines() if "innerHTML" in line]
    # HTML that kdcore.html made, which escapes what goes into it: a drawing's picture, its table, an error
    assert len(written) == (3 if name == "widget.js" else 0), written


def test_the_style_is_local_and_the_policy_names_the_script() -> None:
    assert "@import" not in marks.style() and "url(" not in marks.style() and "prefers-color-scheme" in marks.style()
    assert marks.content_hash("") == "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert "transition" not in marks.style() and "animation" not in marks.style(), "nothing moves by itself"
    assert all(len(marks.script(e)) < 95_000 for e in ENTRIES)
