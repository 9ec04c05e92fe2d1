"""The method map: vocabulary, queries, similarity, the guide and its worked cases."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import squareform

from kdcore import taxonomy
from kdcore.card import Axes, MethodCard
from kdcore.collection import AXES, FAMILIES, SURVEY_FIELDS, collection
from kdcore.registry import list_methods
from kdcore.taxonomy import (
    CASES,
    GUIDE,
    MEANING,
    QUESTIONS,
    TRY_FIRST,
    MethodEntry,
    check_case,
    entries,
    entry,
    excluded_because,
    find,
    map_coordinates,
    points,
    recommend,
    similar,
    similarity_matrix,
)

PLAIN = {
    "knowledge": "response",
    "scheme": "offline",
    "signal": "kl",
    "task": "classification",
    "modality": "image",
    "teacher_access": "outputs",
    "data_regime": "labelled",
    "teachers": "one",
    "arch": "any",
    "goal": "compress",
}


def made(slug: str = "x", status: str = "planned", **axes: str) -> MethodEntry:
    values = {axis: tuple(cell.split("+")) for axis, cell in (PLAIN | axes).items()}
    return MethodEntry(
        slug=slug,
        title=slug,
        authors="",
        year=2020,
        venue="",
        arxiv="",
        official_code="",
        family="features",
        status=status,
        **values,
    )


# The collection ------------------------------------------------------------------------------------------------------


def test_the_collection_has_41_papers_and_2_surveys_in_a_fixed_order() -> None:
    slugs = [e.slug for e in entries()]
    assert len(slugs) == len(set(slugs)) == 43
    assert slugs == list(collection())[:43] and slugs[0] == "ortrack" and slugs[-1] == "symbolic_kd"
    assert [e.slug for e in entries() if e.status == "survey"] == ["survey_llm_kd", "survey_kd_dd"]
    assert entries() == taxonomy.METHODS


def test_every_paper_is_placed_on_every_axis_within_the_vocabulary() -> None:
    for e in entries(companions=True):
        for axis, allowed in AXES.items():
            assert e.values(axis) and set(e.values(axis)) <= set(allowed), (e.slug, axis)
        for field, allowed in SURVEY_FIELDS.items():
            assert set(e.values(field)) <= set(allowed), (e.slug, field)


def test_every_value_of_the_vocabulary_that_papers_can_have_is_explained() -> None:
    assert list(MEANING) == list(QUESTIONS) == list(AXES)
    for axis, values in AXES.items():
        assert set(MEANING[axis]) == set(values), axis
        assert all(MEANING[axis].values())
    assert list(taxonomy.GUIDE_TEXT) == list(GUIDE)
    assert all(set(answers) <= set(MEANING[question]) for question, answers in GUIDE.items())


def test_families_hold_the_planned_papers() -> None:
    counts = {f: len([e for e in entries() if e.family == f]) for f in (*FAMILIES, "survey")}
    assert counts == {
        "foundations": 2,
        "ranking": 4,
        "features": 7,
        "masks": 7,
        "domains": 5,
        "data": 4,
        "language": 6,
        "streams": 6,
        "survey": 2,
    }


def test_facts_of_the_papers_are_well_formed() -> None:
    rows = [row.cells for row in collection().values()]
    assert len({row["arxiv"] for row in rows}) == len(rows) == 45
    for row in rows:
        year, number = row["arxiv"].split(".")
        assert len(year) == 4 and len(number) == 5 and number.isdigit()
        assert 0 <= int(row["year"]) - (2000 + int(year[:2])) <= 1, f"{row['slug']}: year against arXiv number"
        assert row["official_code"].count("/") == (1 if row["official_code"] else 0)
        assert row["title"] == row["title"].strip() and len(row["title"]) > 10
        assert row["authors"].endswith(" et al.") or " and " in row["authors"]


def test_survey_fields_are_parsed_with_analogies_and_all() -> None:
    assert entry("exo2ego").elicitation == ("labeling", "feature")
    assert entry("exo2ego").analogy == {"elicitation", "algorithm"}
    assert entry("leader").skill == ("medical & healthcare", "recommendation") and not entry("leader").analogy
    assert entry("survey_llm_kd").kd_theme == SURVEY_FIELDS["kd_theme"]
    assert entry("nrr_dd").elicitation == () and entry("nrr_dd").analogy == {"algorithm"}


def test_an_implemented_paper_is_placed_by_its_card() -> None:
    axes = Axes(**collection()["taid"].facts()["axes"] | {"goal": "insight"})
    got = taxonomy._from_card(MethodCard(slug="taid", title="From the card", year=2001, summary="s", axes=axes))
    assert (got.title, got.year, got.goal, got.status) == ("From the card", 2001, ("insight",), "implemented")
    planned = entry("taid")
    assert (got.skill, got.analogy, got.notebook) == (planned.skill, planned.analogy, planned.notebook)
    own = MethodCard(slug="own", title="Own", authors="A", year=2026, family="ranking", summary="s", axes=axes)
    assert taxonomy._from_card(own).skill == () and not taxonomy._from_card(own).analogy


def test_status_follows_the_modules() -> None:
    for e in entries():
        expected = "survey" if e.family == "survey" else "implemented" if e.slug in list_methods() else "planned"
        assert e.status == expected
        if e.status == "survey":
            assert e.module == e.notebook == ""
        else:
            assert (e.module, e.notebook) == (f"kdcore.methods.{e.slug}", f"notebooks/{e.family}/{e.slug}.ipynb")


def test_companions_are_cards_outside_the_collection() -> None:
    extra = [e.slug for e in entries(companions=True)[43:]]
    assert TRY_FIRST in extra and not set(extra) & {e.slug for e in entries()}
    assert set(extra) == {slug for slug, row in collection().items() if row.cells["companion"] == "yes"}


def test_a_value_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"odd: goal must be one of .*'compress'.*got 'compres'.*'compress'"):
        made("odd", goal="compres")


def test_links() -> None:
    assert entry("ofa_kd").links == {
        "paper": "https://arxiv.org/abs/2310.19444",
        "code": "https://github.com/Hao840/OFAKD",
    }
    assert "code" not in entry("trg").links


# find ----------------------------------------------------------------------------------------------------------------


def test_find_without_arguments_gives_all_and_filters_intersect_axes_and_unite_values() -> None:
    assert find() == list(entries())
    assert [e.slug for e in find(task="instseg")] == ["dynamic_ykd"]
    both = {e.slug for e in find(modality=("graph", "audio"))}
    assert both == {"d2dgn", "ff_g2m"}
    assert {e.slug for e in find(modality="graph", goal="unlearn")} == {"d2dgn"}
    assert {e.slug for e in find(dd_family="traj")} == {"survey_kd_dd"}
    assert len(find(family="masks")) == 7 and len(find(status="survey")) == 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("goals", "compress", "axis must be one of .*'goal'.*got 'goals'"),
        ("goal", "fast", "goal must be one of 'compress'.*got 'fast'"),
        ("goal", ["compress", "fast"], "got 'fast'"),
        ("status", "done", "status must be one of 'implemented'"),
    ],
)
def test_find_refuses_what_it_does_not_know(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(**{field: value})  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(AXES)), st.data())
def test_find_is_membership(axis: str, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from(AXES[axis]), min_size=1, max_size=3))
    assert find(**{axis: wanted}) == [e for e in entries() if any(v in wanted for v in e.values(axis))]


# similarity and map --------------------------------------------------------------------------------------------------


def slow_similarity(a: MethodEntry, b: MethodEntry) -> float:
    """Multisets in which the main value is counted twice: |intersection| / |union|."""

    def counted(e: MethodEntry) -> dict[tuple[str, str], int]:
        return {(axis, v): 2 if i == 0 else 1 for axis in AXES for i, v in enumerate(e.values(axis))}

    wa, wb = counted(a), counted(b)
    keys = wa.keys() | wb.keys()
    return sum(min(wa.get(k, 0), wb.get(k, 0)) for k in keys) / sum(max(wa.get(k, 0), wb.get(k, 0)) for k in keys)


def test_similarity_by_hand() -> None:
    same, more, other = made("a"), made("b", knowledge="feature+response"), made("c", goal="search", task="dd")
    got = similarity_matrix([same, more, other])
    # nine axes agree fully (18); on knowledge: response 2 against 1, feature 0 against 2 -> min 1, max 4
    np.testing.assert_allclose(got[0, 1], 19 / 22, rtol=1e-12)
    np.testing.assert_allclose(got[0, 2], 16 / 24, rtol=1e-12)
    np.testing.assert_array_equal(np.diag(got), 1)


def test_similarity_equals_the_slow_count_for_all_pairs() -> None:
    papers = entries()
    slow = [[slow_similarity(a, b) for b in papers] for a in papers]
    np.testing.assert_allclose(similarity_matrix(papers), slow, rtol=1e-12)


def test_similar_sorts_and_leaves_the_paper_out() -> None:
    got = similar("pld", k=42)
    assert len(got) == 42 and "pld" not in {e.slug for e, _ in got}
    assert [(-s, e.slug) for e, s in got] == sorted((-s, e.slug) for e, s in got)
    assert similar("pld") == got[:5] and similar("nrr_dd", 1)[0][0].slug == "infer_dd"
    assert similar(TRY_FIRST, 3)[0][0] in entries()


def test_similar_refuses() -> None:
    with pytest.raises(ValueError, match=r"no paper is called 'plt'.*'pld'"):
        similar("plt")
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        similar("pld", 0)


def test_the_map_reproduces_distances_that_fit_in_a_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 0.6, (7, 2))
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    monkeypatch.setattr(taxonomy, "similarity_matrix", lambda papers: 1 - distances)
    found, kept = map_coordinates([made(str(i)) for i in range(7)])
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=-1), distances, atol=1e-9)
    assert kept == pytest.approx(1.0) and found[:, 0].var() >= found[:, 1].var()


def test_the_map_agrees_with_the_textbook_formula() -> None:
    papers = entries()
    distances = squareform(squareform(1 - similarity_matrix(papers), checks=False))
    centring = np.eye(43) - 1 / 43
    eigenvalues = np.sort(np.linalg.eigvalsh(-0.5 * centring @ distances**2 @ centring))[::-1]
    found, kept = map_coordinates(papers)
    np.testing.assert_allclose((found**2).sum(0), eigenvalues[:2], rtol=1e-9)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    assert kept == pytest.approx(eigenvalues[:2].sum() / eigenvalues[eigenvalues > 0].sum(), rel=1e-9)
    assert all(found[np.abs(found[:, c]).argmax(), c] > 0 for c in (0, 1)), "signs are fixed"


def test_the_map_needs_three_papers_and_takes_equal_ones() -> None:
    with pytest.raises(ValueError, match="at least 3 papers, got 2"):
        map_coordinates(entries()[:2])
    xy, kept = map_coordinates([made("a"), made("b"), made("c")])
    np.testing.assert_allclose(xy, 0, atol=1e-7)
    assert kept == 1.0


# decision guide ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[c.situation for c in CASES])
def test_worked_case(case: taxonomy.Case) -> None:
    slugs = [r.entry.slug for r in recommend(case.answers)]
    assert set(case.appear) <= set(slugs)
    if case.first:
        assert slugs[0] == case.first
    everything = {r.entry.slug for r in recommend(case.answers, top=None)}
    for slug in case.absent:
        assert slug not in everything and excluded_because(entry(slug), case.answers)
    assert check_case(case).holds


def test_there_are_fifteen_cases_and_a_wrong_one_does_not_hold() -> None:
    assert len(CASES) == 15 and sum(bool(c.first) for c in CASES) == 10
    for wrong in (
        CASES[0]._replace(first="symbolic_kd"),
        CASES[0]._replace(appear=("leaf",)),
        CASES[0]._replace(absent=("pgkd",)),
    ):
        assert not check_case(wrong).holds


def test_points_by_hand() -> None:
    paper = made(
        goal="accuracy+compress",
        data_regime="semi",
        task="ner+textclass",
        modality="text",
        teachers="many",
        arch="cross",
    )
    full = {
        "goal": "compress",
        "data_regime": "semi",
        "task": "ner",
        "modality": "text",
        "teachers": "many",
        "arch": "cross",
    }
    assert [p.points for p in points(paper, full)] == [3, 4, 3, 3, 2, 4]
    assert [str(p) for p in points(paper, {"goal": "compress", "task": "ner"})] == [
        "+3 goal compress",
        "+3 task ner (its main one)",
    ]
    assert points(paper, {"arch": "same"}) == points(paper, {"arch": "any"}) == points(paper, {"goal": "search"}) == ()
    assert points(paper, {"teacher_access": "outputs"}) == ()


@pytest.mark.parametrize(
    ("arch", "asked", "granted"),
    [
        ("any", "cross", 1),
        ("any", "same", 1),
        ("same", "same", 1),
        ("cross", "same", 0),
        ("same+any", "cross", 1),
        ("converted", "same", 0),
        ("cross", "cross", 4),
    ],
)
def test_points_for_architecture(arch: str, asked: str, granted: int) -> None:
    assert sum(p.points for p in points(made(arch=arch), {"arch": asked})) == granted


@pytest.mark.parametrize(
    ("axes", "situation", "why"),
    [
        ({"teacher_access": "whitebox"}, {"teacher_access": "outputs"}, "needs the teacher's whitebox"),
        ({"teacher_access": "whitebox+text"}, {"teacher_access": "text"}, ""),
        ({"teacher_access": "none"}, {"teacher_access": "text"}, ""),
        ({"teacher_access": "text"}, {"teacher_access": "none"}, "needs the teacher's text"),
        ({}, {"goal": "unlearn"}, "does not unlearn"),
        ({"goal": "accuracy+unlearn"}, {"goal": "unlearn"}, ""),
        ({}, {"modality": "graph"}, "does not work on graphs"),
        ({"modality": "image+graph"}, {"modality": "graph"}, ""),
        ({"arch": "same"}, {"arch": "cross"}, "of one kind"),
        ({"arch": "converted"}, {"arch": "cross"}, "of one kind"),
        ({"arch": "same+any"}, {"arch": "cross"}, ""),
        ({"arch": "same"}, {"arch": "any"}, ""),
    ],
)
def test_hard_rules(axes: dict[str, str], situation: dict[str, str], why: str) -> None:
    reason = excluded_because(made(**axes), situation)
    assert why in reason and bool(reason) == bool(why)


def test_surveys_are_never_recommended_and_unlearning_keeps_only_what_unlearns() -> None:
    for goal in AXES["goal"]:
        assert not any(r.entry.status == "survey" for r in recommend({"goal": goal}, top=None))
    assert [r.entry.slug for r in recommend({"goal": "unlearn"}, top=None)] == ["d2dgn"]


def test_open_questions_add_nothing() -> None:
    assert recommend({}) == [] == recommend(dict.fromkeys(GUIDE))
    assert recommend({"goal": "search", "task": "", "arch": None}) == recommend({"goal": "search"})


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.fixed_dictionaries({}, optional={q: st.sampled_from(values) for q, values in GUIDE.items()}))
def test_recommendations_are_sorted_positive_allowed_and_explained(situation: dict[str, str]) -> None:
    found = recommend(situation, top=None)
    assert [(-r.score, r.entry.slug) for r in found] == sorted((-r.score, r.entry.slug) for r in found)
    for paper, score, reasons in found:
        assert score > 0 and not excluded_because(paper, situation)
        assert score == sum(int(reason.split()[0]) for reason in reasons)
    assert recommend(situation, top=3) == found[:3]


def test_the_baseline_comes_first_when_asked_for_and_does_not_count() -> None:
    answers = {"goal": "compress", "teacher_access": "outputs"}
    with_baseline = recommend(answers, top=5, baseline=True)
    assert with_baseline[0].entry.slug == TRY_FIRST and with_baseline[0].reasons == ("try this before",)
    assert with_baseline[1:] == recommend(answers, top=5) and len(with_baseline) == 6
    text_only = recommend({"teacher_access": "text"}, baseline=True)[0]
    assert text_only.entry.slug == TRY_FIRST and "needs the teacher's outputs" in text_only.reasons[0]


@pytest.mark.parametrize(
    ("situation", "message"),
    [
        ({"purpose": "compress"}, "situation key must be one of 'teacher_access'.*got 'purpose'"),
        ({"knowledge": "feature"}, "situation key must be one of"),
        ({"goal": "smaller"}, r"situation\['goal'\] must be one of 'compress'.*got 'smaller'"),
        ({"arch": "converted"}, r"situation\['arch'\] must be one of 'same', 'cross', 'any'"),
        ({"goal": ["compress"]}, r"got \['compress'\]"),
    ],
)
def test_the_guide_refuses_what_it_does_not_ask(situation: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(situation)
    with pytest.raises(ValueError, match="top must be at least 1 or None, got 0"):
        recommend({}, top=0)


def test_the_map_imports_light() -> None:
    code = (
        "import sys, kdcore.taxonomy as t; t.collection(); "
        "bad = {'pandas', 'sklearn', 'timm', 'torchvision', 'plotly', 'matplotlib', 'IPython'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
