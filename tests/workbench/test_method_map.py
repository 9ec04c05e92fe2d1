"""Pictures of the method map: what they count and say comes from the papers, in both themes, and bad input is named."""

from __future__ import annotations

import struct
from collections import Counter
from html.parser import HTMLParser
from itertools import groupby

import numpy as np
import pytest

from kdcore import taxonomy
from kdcore.card import AXES
from kdcore.taxonomy import CASES, TRY_FIRST, entries
from workbench.views import method_map as pictures
from workbench.views.base import View
from workbench.views.theme import DARK, LIGHT, Theme

PAPERS = entries()
VIEWS = {
    "flow": lambda: pictures.flow_view(PAPERS),
    "flow of two": lambda: pictures.flow_view(PAPERS[:2], axes=("goal", "arch"), highlight=[PAPERS[0].slug]),
    "map": lambda: pictures.neighbours_view(PAPERS, highlight=["pld"]),
    "status": lambda: pictures.status_view(PAPERS),
    "guide": lambda: pictures.guide_view(CASES[0].answers),
    "open guide": lambda: pictures.guide_view({}),
}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda t: t.name)
@pytest.mark.parametrize("name", VIEWS)
def test_every_picture_is_drawn_at_notebook_width(name: str, theme: Theme) -> None:
    view = VIEWS[name]()
    png = view.png(theme)
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG") and 600 <= width <= 960 and 100 <= height <= 1000
    assert view.title and len(view.alt) > 40 and len(view.table) and view.alt in view._repr_mimebundle_()["text/plain"]


def drawn_texts(view: View) -> list[str]:
    return [t.get_text() for ax in view.figure().axes for t in ax.texts]


# Flow -----------------------------------------------------------------------------------------------------------------


def test_the_flow_labels_every_category_with_its_count() -> None:
    texts = drawn_texts(pictures.flow_view(PAPERS))
    for axis in pictures.FLOW_AXES:
        for value, count in Counter(p.values(axis)[0] for p in PAPERS).items():
            assert f"{value} {count}" in texts
        assert axis.replace("_", " ") in texts


def test_the_flow_says_what_is_most_frequent_and_what_is_highlighted() -> None:
    view = pictures.flow_view(PAPERS, highlight=["taid", "pld"])
    offline = sum(p.scheme[0] == "offline" for p in PAPERS)
    assert f"scheme offline ({offline})" in view.alt and "In full colour: pld, taid." in view.alt
    assert list(view.table.columns) == ["slug", "status", *pictures.FLOW_AXES] and len(view.table) == 43


def test_ribbons_keep_their_order_between_neighbouring_categories() -> None:
    """Every paper has a slot of its own on every axis, so ribbons never lie on each other at an axis."""
    order = pictures._category_order(PAPERS, pictures.FLOW_AXES)
    slots: dict[str, float] = {}
    for axis in pictures.FLOW_AXES:
        slots = pictures._slots(PAPERS, axis, order[axis], slots)
        assert sorted(slots.values()) == list(range(43))
        by_slot = sorted(PAPERS, key=lambda p: slots[p.slug])
        runs = [value for value, _ in groupby(p.values(axis)[0] for p in by_slot)]
        assert runs == order[axis], "papers of one category lie together"


def test_the_interactive_flow_holds_the_same_papers() -> None:
    figure = pictures.flow_view(PAPERS, highlight=["pld"]).interactive()
    trace = figure.data[0]
    assert trace.type == "parcats"
    assert [d.label for d in trace.dimensions] == ["knowledge", "scheme", "task", "teacher access"]
    assert list(trace.dimensions[1]["values"]) == [p.scheme[0] for p in PAPERS]
    colours = list(trace.line.color)
    assert [i for i, c in enumerate(colours) if c != len(AXES["knowledge"])] == [[p.slug for p in PAPERS].index("pld")]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"axes": ("goal",)}, "axes must name two or more different axes"),
        ({"axes": ("goal", "goal")}, "axes must name two or more different axes"),
        ({"axes": ("goal", "colour")}, "axes must be one of .*got 'colour'"),
        ({"highlight": ["plt"]}, "highlight must be one of .*got 'plt'.*'pld'"),
    ],
)
def test_the_flow_refuses(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pictures.flow_view(PAPERS, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("view", [pictures.flow_view, pictures.neighbours_view, pictures.status_view])
def test_no_papers_no_picture(view: object) -> None:
    with pytest.raises(ValueError, match="papers must hold at least one entry"):
        view([])  # type: ignore[operator]


# Map ------------------------------------------------------------------------------------------------------------------


def test_the_map_table_holds_the_true_neighbours() -> None:
    view = pictures.neighbours_view(PAPERS)
    for row in view.table.sample(8, random_state=0).itertuples():
        similar = {e.slug: similarity for e, similarity in taxonomy.similar(str(row.slug), 42)}
        assert row.similarity == pytest.approx(max(similar.values())) == pytest.approx(similar[str(row.nearest)])
    xy, kept = taxonomy.map_coordinates(PAPERS)
    np.testing.assert_array_equal(view.table[["x", "y"]].to_numpy(), xy)
    assert f"keeps {100 * kept:.1f} %" in view.alt


def test_labels_of_the_map_do_not_lie_on_each_other() -> None:
    """All 43 names are there, inside the picture, and no two overlap by more than a sliver."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = pictures.neighbours_view(PAPERS).figure()
    renderer = FigureCanvasAgg(figure).get_renderer()
    ax = figure.axes[0]
    labels = [t for t in ax.texts if t.get_text()]
    assert sorted(t.get_text() for t in labels) == sorted(p.slug for p in PAPERS)
    boxes = np.array([t.get_window_extent(renderer).extents for t in labels])
    assert (boxes[:, 0] >= figure.bbox.x0).all() and (boxes[:, 2] <= figure.bbox.x1).all()
    shared = pictures._overlaps(boxes, boxes)
    assert shared[~np.eye(43, dtype=bool)].max() < 40, "square pixels"


def test_overlap_by_hand() -> None:
    boxes = np.array([[0, 0, 2, 2], [np.nan] * 4])
    got = pictures._overlaps(boxes, np.array([[1.0, 1, 4, 3], [2, 0, 4, 2], [5, 5, 6, 6]]))
    np.testing.assert_array_equal(got, [[1, 0, 0], [0, 0, 0]])


def test_the_map_marks_planned_and_implemented_differently() -> None:
    figure = pictures.neighbours_view(PAPERS).interactive()
    hollow = {
        slug: symbol.endswith("-open")
        for trace in figure.data
        for slug, symbol in zip(trace.text, trace.marker.symbol, strict=True)
    }
    assert hollow == {p.slug: p.status != "implemented" for p in PAPERS}


# Tables and status ----------------------------------------------------------------------------------------------------


def test_the_table_is_sorted_as_asked() -> None:
    assert list(pictures.papers_table(PAPERS, sort="year")["year"]) == sorted(p.year for p in PAPERS)
    assert list(pictures.papers_table(PAPERS, sort="slug")["slug"]) == sorted(p.slug for p in PAPERS)
    families = list(dict.fromkeys(pictures.papers_table(PAPERS)["family"]))
    assert families[0] == "foundations" and families[-1] == "survey"
    with pytest.raises(ValueError, match="sort must be one of 'family'"):
        pictures.papers_table(PAPERS, sort="title")


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.rows += tag == "tr"
        self.hrefs += [v for k, v in attrs if tag == "a" and k == "href" and v]


def test_the_html_table_links_implemented_lessons_only() -> None:
    page = Links()
    text = pictures.papers_html(entries(companions=True), base="..")
    page.feed(text)
    done = {p.notebook for p in entries(companions=True) if p.status == "implemented"}
    assert {h for h in page.hrefs if not h.startswith("https://")} == {f"../{n}" for n in done}
    assert page.rows == 1 + len(entries(companions=True)) and "planned" in text
    assert "https://arxiv.org/abs/2506.12542" in page.hrefs


def test_the_html_table_escapes() -> None:
    import dataclasses

    odd = dataclasses.replace(PAPERS[0], title="<script>alert(1)</script>")
    assert "<script>" not in pictures.papers_html([odd]) and "&lt;script&gt;" in pictures.papers_html([odd])


def test_tables_of_words_are_aligned_left_and_escaped() -> None:
    text = pictures.text_table([{"a": "<b>", "b": 0.12345}])
    assert text.count("<td") == text.count("<th ") == 2 and text.count('style="text-align:left">') == 4
    assert "&lt;b&gt;" in text and "0.123" in text and "<td>" not in text


def test_status_counts() -> None:
    view = pictures.status_view(PAPERS)
    count = Counter(p.status for p in PAPERS)
    assert f"43 papers: {count['implemented']} implemented, {count['planned']} planned, 2 surveys" in view.alt
    *bars, ends = view.picture.panels[0].marks
    assert sum(m.values.sum() for m in bars) == 43 and len(ends.texts) == 9
    assert sum(bars[0].values) == count["implemented"] and bars[0].name == "implemented"
    assert "1 survey" in pictures.status_view(taxonomy.find(status="survey")[:1]).alt


# Guide ----------------------------------------------------------------------------------------------------------------


def test_the_guide_shows_the_baseline_first_and_the_points_of_recommend() -> None:
    answers = CASES[1].answers
    view = pictures.guide_view(answers, top=3)
    found = taxonomy.recommend(answers, top=3)
    assert list(view.table["slug"]) == [TRY_FIRST, *(r.entry.slug for r in found)]
    assert list(view.table["place"]) == ["before", "1", "2", "3"]
    assert list(view.table["points"]) == [0, *(r.score for r in found)]
    assert f"Best fit: {found[0].entry.slug} with {found[0].score} points" in view.alt
    (plane,) = view.picture.panels
    rows: Counter[int] = Counter()
    for mark in plane.marks[:-1]:
        for at, value in zip(mark.at, mark.values, strict=True):
            rows[int(at)] += int(value)
    assert [rows[row] for row in sorted(rows)] == [r.score for r in found]
    assert [n.split(" ")[0] for n in plane.y.names] == list(view.table["slug"])


def test_the_guide_counts_what_hard_rules_removed() -> None:
    answers = {"goal": "unlearn"}
    removed = [p for p in PAPERS if p.status != "survey" and taxonomy.excluded_because(p, answers)]
    assert len(removed) == 40 and "Hard rules removed 40 papers." in pictures.guide_view(answers).alt


def test_the_guide_says_when_nothing_is_asked_or_nothing_fits() -> None:
    assert "Answer a question" in pictures.guide_view({}).alt
    nothing = pictures.guide_view({"teacher_access": "none", "goal": "unlearn"})
    assert "No paper of the collection fits." in nothing.alt and list(nothing.table["slug"]) == [TRY_FIRST]
    with pytest.raises(ValueError, match="situation key"):
        pictures.guide_view({"purpose": "x"})


def test_the_table_of_worked_cases() -> None:
    table = pictures.cases_table()
    assert len(table) == 15 and table["holds"].all()
    row = table.set_index("situation").loc["GNN too slow at serving"]
    assert row["must come"] == "ff_g2m" and row["must not come"] == "pld, d2dgn" and row["comes"] == "ff_g2m 10"
