"""The collection's file: rows by slug with their lines, and what is refused when it is read."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kdcore import collection as collection_module
from kdcore.collection import AXES, FAMILIES, SURVEY_FIELDS, collection, read_rows, survey_values
from kdcore.registry import get_card, list_methods

TEXT = Path(collection_module.__file__).with_name("collection.csv").read_text(encoding="utf-8")
LINES = TEXT.splitlines()


def test_every_row_is_valid_and_knows_its_line() -> None:
    assert len(collection()) == len(LINES) - 1
    for slug, row in collection().items():
        assert LINES[row.line - 1].startswith(f"{slug},")
        facts = row.facts()
        assert facts["family"] in (*FAMILIES, "survey") and list(facts["axes"]) == list(AXES)
        assert list(facts["survey"]) == list(SURVEY_FIELDS) and isinstance(facts["year"], int)


def test_every_implemented_paper_has_a_row_and_no_fact_of_its_own() -> None:
    for slug in list_methods():
        facts, card = collection()[slug].facts(), get_card(slug)
        axes = facts.pop("axes")
        assert facts == {name: getattr(card, name) for name in facts} and axes == vars(card.axes)
    companions = {slug for slug, row in collection().items() if row.text("companion") == "yes"}
    assert companions == {"vanilla_kd", "cka"} <= set(list_methods())


def test_cells_of_survey_fields() -> None:
    assert survey_values("algorithm", "~sft+rl") == ("sft", "rl") and survey_values("algorithm", "-") == ()
    assert survey_values("kd_theme", "all") == survey_values("kd_theme", "~all") == SURVEY_FIELDS["kd_theme"]
    assert survey_values("skill", "medical & healthcare, NLU") == ("medical & healthcare", "NLU")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [LINES[0].replace(",goal", ",gaol"), LINES[1]],
            r"line 1: missing or unknown columns gaol, goal; needed: sl",
        ),
        ([LINES[0].removesuffix(",dd_family"), LINES[1]], r"line 1: missing or unknown columns dd_family"),
        ([], r"line 1: missing or unknown columns"),
        ([LINES[0], LINES[1], LINES[2].removesuffix(",-")], r"line 3 \(dsclora\): it must have 24 cells"),
        ([LINES[0], LINES[1] + ",x"], r"line 2 \(ortrack\): it must have 24 cells"),
        ([LINES[0], LINES[1], LINES[2], LINES[1]], r"line 4: slug 'ortrack' stands on line 2 already"),
        ([LINES[0], LINES[1].replace("ortrack", "OR-track", 1)], r"line 2: slug must be a lower-case module name, got"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^kdcore/collection\.csv, {message}"):
        read_rows("\n".join(lines))


def test_the_file_is_written_as_csv_writes_it() -> None:
    rows = list(csv.reader(LINES))
    assert all(len(row) == 24 and all(cell == cell.strip() for cell in row) for row in rows)
