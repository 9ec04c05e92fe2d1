"""Every kind of panel and mark on a page from the file system, with everything outside blocked: it draws in light and
dark, tells the data's own numbers by mouse and by keyboard, and stays readable without scripts."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.accessibility import violations
from support.views import HOSTILE, LONG, MAKE, Data, views_of

from benchmarks.marks import examples, large, page_times
from benchmarks.marks import open_page as drawing_page
from workbench.report import Report
from workbench.views.base import View
from workbench.views.picture import Axis, Line, Picture, Plane, Points, Span

pytestmark = pytest.mark.browser
SCHEMES = ("light", "dark")
WRONG = (Path(__file__).parent / "pictures.js").read_text(encoding="utf-8")
EXAMPLES = examples()


def report(views: list[View]) -> str:
    made = Report("Pictures")
    for i, view in enumerate(views):
        made.add(f"Part {i}", view)
    return made.html()


@contextmanager
def opened(
    browser: Any, path: Path, text: str, *, scheme: str = "light", width: int = 900, **options: Any
) -> Iterator[Any]:
    """The page, which must not ask for anything and must not complain (``errors`` are on it)."""
    path.write_text(text, encoding="utf-8")
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True, **options
    )
    try:
        page, asked = context.new_page(), []
        page.errors = []
        page.on("request", lambda r: asked.append(r.url))
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.goto(path.as_uri())
        yield page
        assert [url for url in asked if not url.startswith(("data:", path.as_uri()))] == []
    finally:
        context.close()


@pytest.fixture(scope="module", params=SCHEMES)
def gallery(request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    with opened(browser, path, report([*EXAMPLES.values()]), scheme=request.param) as page:
        page.scheme = request.param
        yield page
        assert page.errors == []


def four(x: float) -> str:
    return f"{float(x):.4g}".replace("-", "−")


def first_lines(kind: str) -> list[str]:
    """What the first thing of an example's panel must say, from its data (the rule: the last)."""
    (panel,) = EXAMPLES[kind].picture.panels
    m = panel.marks[0] if hasattr(panel, "marks") else None
    said: dict[str, Callable[[], list[str]]] = {
        "line": lambda: ["KD", "epoch 0", "accuracy 0", f"from {four(m.low[0])} to {four(m.high[0])}"],
        "span": lambda: ["KD", "epoch 0", "accuracy 0", f"from {four(m.low[0])} to {four(m.high[0])}"],
        "rule": lambda: ["half right", "accuracy 0.5"],
        "points": lambda: ["teacher", f"direction 1 {four(m.x[0])}", f"direction 2 {four(m.y[0])}"],
        "bars": lambda: [
            "sweet pepper",
            f"student: {four(m.values[0])}",
            f"from {four(m.low[0])} to {four(m.high[0])}",
        ],
        "histogram": lambda: ["margin 0 to 0.125", "student: 1 samples"],
        "arrows": lambda: ["pull", f"by 0 and {four(m.dy[0])}"],
        "area": lambda: ["corners", "a 0", "b 0"],
        "field": lambda: ["a −2", "b −2", f"loss {four(m.values[0, 0])}"],
        "texts": lambda: ["classes", "a 1", "b 0.8"],
        "heat": lambda: [
            "student: sweet pepper",
            "teacher: pickup truck",
            f"CKA {four(panel.values[0, 0])}",
            "best in row",
        ],
        "images": lambda: [
            "sweet pepper",
            f"occlusion: mean {four(np.nanmean(panel.maps[0]))}, highest {four(np.nanmax(panel.maps[0]))}",
        ],
        "ribbons": lambda: ["sweet pepper", "teacher: place 1", f"student: place {int(panel.right[0]) + 1}"],
        "simplex": lambda: ["student", "cat 0.3", "dog 0.3", "owl 0.4"],
        "tokens": lambda: ["“the”, position 0", "teacher", f"loss in nats {four(panel.values[0][0])}"],
        "graph": lambda: ["sweet pepper", "3 edges", f"weight {four(panel.values[0])}"],
    }
    return said[kind]()


#: What an example's mark is drawn with: it must leave ink where it stands.
DRAWN = {
    "rule": "g line[stroke-dasharray]", "span": "g rect[opacity]", "area": "g polygon", "texts": "g text",
    "field": "image", "heat": "image", "images": "image", "bars": "g rect", "tokens": "rect", "simplex": "polygon",
}  # fmt: skip


def ink(page: Any, element: Any) -> float:
    """The share of an element's box that is not paper."""
    box = element.bounding_box()
    clip = {k: max(4, box[k]) if k in ("width", "height") else box[k] - 1 for k in box}  # a line's box has no height
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB"), dtype=float)
    paper = {"light": [255, 255, 255], "dark": [22, 24, 28]}[page.scheme]
    return float((np.abs(shot - paper).max(-1) > 20).mean())


@pytest.mark.parametrize("kind", [k for k in EXAMPLES if k != "table"])
def test_a_kind_draws_and_tells_the_numbers_of_its_data(gallery: Any, kind: str) -> None:
    figure = gallery.locator("figure.kd-view").nth(list(EXAMPLES).index(kind))
    chart, tip = figure.locator("svg[role=img]"), figure.locator(".kd-tip")
    assert chart.get_attribute("aria-label") == f"{EXAMPLES[kind].title}. {EXAMPLES[kind].alt}"
    assert not figure.locator("img").is_visible() and figure.locator(".kd-picture").get_attribute("role") == "group"
    chart.scroll_into_view_if_needed()
    assert ink(gallery, figure.locator(f"svg[role=img] {DRAWN.get(kind, 'path')}").first) > 0.02
    chart.focus()
    chart.press("End" if kind == "rule" else "ArrowRight")
    if kind == "rule":  # the first press shows the first point
        chart.press("End")
    lines = tip.inner_text().split("\n")
    assert lines == first_lines(kind)
    assert figure.locator(".kd-voice").text_content() == ", ".join(lines)
    box = figure.locator(".kd-pointed").last.bounding_box()
    chart.press("Enter")
    assert figure.locator(".kd-chosen").count() == 2
    chart.press("Enter")
    assert figure.locator(".kd-chosen").count() == 0
    chart.press("Escape")
    assert not tip.is_visible() and figure.locator(".kd-pointed").count() == 0
    gallery.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tip.inner_text().split("\n")[: len(lines)] == lines
    at, page = tip.bounding_box(), gallery.viewport_size["width"]
    assert at["x"] >= 0 and at["x"] + at["width"] <= page
    gallery.mouse.move(1, 1)
    chart.evaluate("e => e.blur()")


def test_a_table_sorts_by_keyboard(gallery: Any) -> None:
    sheet = gallery.locator("figure.kd-view").nth(list(EXAMPLES).index("table")).locator(".kd-sheet")
    assert sheet.get_attribute("role") == "group" and sheet.get_attribute("aria-label") == "Example of table"

    def rows() -> list[str]:
        return sheet.locator("tbody th").all_inner_texts()

    press = sheet.get_by_role("button", name="accuracy")
    assert rows() == ["CE", "KD", "PLD"]
    press.focus()
    press.press("Enter")
    assert rows() == ["PLD", "KD", "CE"] and sheet.locator("[aria-sort=descending]").count() == 1
    press.press("Enter")
    assert rows() == ["CE", "KD", "PLD"]
    assert sheet.locator("tbody td").all_inner_texts() == ["0.912", "0.934", "0.941"]


def test_nothing_is_wrong_with_the_gallery_for_axe(gallery: Any) -> None:
    assert violations(gallery) == []


def test_arrows_walk_through_a_grid_as_it_lies(gallery: Any) -> None:
    for kind, key, said in (("heat", "ArrowDown", "student: willow tree"), ("field", "ArrowUp", "b −1.833")):
        figure = gallery.locator("figure.kd-view").nth(list(EXAMPLES).index(kind))
        chart = figure.locator("svg[role=img]")
        chart.focus()
        chart.press("ArrowRight")
        chart.press(key)
        assert said in figure.locator(".kd-tip").inner_text().split("\n")
        chart.press("Escape")


def test_a_change_of_theme_draws_anew(browser: Any, tmp_path: Path) -> None:
    with opened(browser, tmp_path / "theme.html", report([EXAMPLES["line"]])) as page:
        assert page.locator("svg[role=img] text").first.get_attribute("fill") == "#1b1b1b"
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("() => document.querySelector('svg[role=img] text').getAttribute('fill') === '#e8e8e8'")
        assert page.errors == []


def test_another_script_is_not_run(browser: Any, tmp_path: Path) -> None:
    bad = "<script>window.bad = 1</script><img src='data:,' alt='' onerror='window.bad = 1'></main>"
    text = report([EXAMPLES["bars"]]).replace("</main>", bad)
    with opened(browser, tmp_path / "bad.html", text) as page:
        page.wait_for_selector("svg[role=img]")
        page.wait_for_timeout(100)
        assert page.evaluate("() => window.bad") is None
        assert len(page.errors) == 2 and all("Content Security Policy" in e for e in page.errors)


def test_pictures_and_tables_are_there_without_scripts(browser: Any, tmp_path: Path) -> None:
    views = [EXAMPLES["heat"], EXAMPLES["simplex"]]
    with opened(browser, tmp_path / "still.html", report(views), java_script_enabled=False) as page:
        for i in range(2):
            figure = page.locator("figure.kd-view").nth(i)
            picture = figure.locator("img")
            assert picture.is_visible() and picture.bounding_box()["width"] > 150
            assert picture.get_attribute("alt") == views[i].alt
            figure.locator("summary").click()
            assert "an example" in figure.locator("table").inner_text()
        assert page.locator("svg").count() == 0


def test_a_picture_that_cannot_be_drawn_stays_still(browser: Any, tmp_path: Path) -> None:
    text = report([EXAMPLES["bars"], EXAMPLES["heat"], EXAMPLES["points"]])
    text = text.replace('"spec":{"version":1', '"spec":{"version":2', 1).replace(
        '"kind":"heat"', '"kind":"unheard of"', 1
    )
    with opened(browser, tmp_path / "other.html", text) as page:
        page.wait_for_selector("svg[role=img]")
        seen = [page.locator("figure.kd-view").nth(i).locator("> img").is_visible() for i in range(3)]
        assert seen == [True, True, False] and page.locator("svg[role=img]").count() == 1
        assert page.locator(".kd-drawn").count() == 1 and len(page.errors) == 1


def test_large_ones_are_drawn_at_once(browser: Any) -> None:
    """About 10 ms and 40 ms where the machine is quiet (docs/pictures.md); the rest is for loaded ones."""
    page = drawing_page(browser)
    try:
        for what, view in large().items():
            assert min(page_times(page, view, turns=4)) < 400, what
            assert page.evaluate("() => document.querySelectorAll('svg *').length") == 0
    finally:
        page.context.close()


# All builders ---------------------------------------------------------------------------------------------------------
def all_views(data: Callable[[], Data]) -> dict[str, View]:
    made = {}
    for builder in sorted(MAKE):
        try:
            for i, view in enumerate(views_of(builder, data())):
                if view.picture is not None and builder != "diagnosis_views":
                    made[f"{builder} {i}"] = view
        except ValueError:  # refused: another test asks how
            continue
    for view in made.values():  # the still picture is not what is looked at here
        view._png["light-100"] = b""
    return made


KINDS_OF_DATA = {
    "ten": lambda: Data(LONG[:10]),
    "hundred": lambda: Data(LONG),
    "one": lambda: Data(LONG[:1]),
    "hostile": lambda: Data(HOSTILE),
    "unknown": lambda: Data(LONG[:5], holes=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_OF_DATA)
def test_every_builders_picture_fits_its_page_and_no_words_overlap(browser: Any, tmp_path: Path, kind: str) -> None:
    views = all_views(KINDS_OF_DATA[kind])
    text = report([*views.values()])
    for width in (900, 600):
        with opened(browser, tmp_path / f"{kind}.html", text, width=width) as page:
            assert page.locator(".kd-picture").count() == len(views)
            assert page.errors == []
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            found = dict(zip(views, page.evaluate(WRONG), strict=True))
            assert {k: v for k, v in found.items() if v} == {}, f"at {width} px"
            assert page.locator(".kd-picture b, .kd-picture script").count() == 0


def test_a_shortened_caption_is_told_in_full(browser: Any, tmp_path: Path) -> None:
    (view,) = views_of("image_grid_view", Data(HOSTILE))
    with opened(browser, tmp_path / "captions.html", report([view])) as page:
        chart = page.locator("svg[role=img]")
        chart.focus()
        for i, name in enumerate(HOSTILE):
            chart.press("ArrowRight") if i % 8 or not i else [chart.press(k) for k in ("ArrowDown", "Home")]
            assert page.locator(".kd-tip").inner_text().split("\n") == name.split("\n")


def test_a_long_legend_ends_in_words(browser: Any, tmp_path: Path) -> None:
    (view,) = views_of("lines_view", Data(LONG))
    with opened(browser, tmp_path / "legend.html", report([view])) as page:
        keys = page.locator(".kd-keys")
        said = keys.locator("text").all_text_contents()
        assert said[-1] == f"and {101 - len(said)} more, told where they are pointed at" and len(said) > 15
        assert keys.bounding_box()["height"] < 170


def test_names_of_several_series_find_free_places_and_ringed_ones_come_first(browser: Any, tmp_path: Path) -> None:
    at = np.array([0.0, 0.02, 0.04, 1.0])
    series = [Points(f"s{k}", at, at * 0 + 0.01 * k, texts=[f"paper_{k}{i}" for i in range(4)]) for k in range(3)]
    ring = Points("", at[[1]], [0.02], style="ink", size=20, ring=True)  # around paper_21, the last one but two
    plane = Plane(*series, ring, x=Axis(low=-1, high=2), y=Axis(low=-1, high=1))
    view = View(title="Near ones", alt="x", table=pd.DataFrame({"x": at}), picture=Picture(plane))
    with opened(browser, tmp_path / "near.html", report([view])) as page:
        said = page.locator("svg[role=img] text").all_text_contents()
        assert page.evaluate(WRONG) == [[]] and "paper_21" in said and 4 <= sum("paper_" in t for t in said) < 12


def test_epochs_are_named_by_whole_numbers_and_bare_lines_have_bare_keys(browser: Any, tmp_path: Path) -> None:
    lines = [Line(n, range(1, 13), np.linspace(0, 1, 12), style=k, dots=bool(k)) for k, n in enumerate("ab")]
    plane = Plane(Span(2, 9, "range"), *lines, x=Axis("epoch"), y=Axis("accuracy"))
    pair = Picture(plane, plane)  # narrow: 2.5 would be a round step
    view = View(title="Learning", alt="x", table=pd.DataFrame({"x": [1]}), picture=pair)
    with opened(browser, tmp_path / "lines.html", report([view])) as page:
        texts = page.locator("svg[role=img]").first.locator("text").all_text_contents()
        assert "10" in texts and "2.5" not in texts and "7.5" not in texts and "0.5" in texts
        assert page.locator(".kd-keys path").count() == 1  # the marker of b
        last = page.locator("svg[role=img]").first.locator("g > *").last
        assert last.text_content() == "range"  # over the lines


def test_hostile_names_are_words_in_the_picture(browser: Any, tmp_path: Path) -> None:
    named = ("bars_view", "graph_view", "heatmap_view", "ranking_view", "token_sequence_view")
    views = {n: v for n, v in all_views(lambda: Data(HOSTILE)).items() if n.split()[0] in named}
    with opened(browser, tmp_path / "names.html", report([*views.values()])) as page:
        for i, builder in enumerate(views):
            said = (
                page.locator(".kd-picture")
                .nth(i)
                .evaluate("e => [...e.querySelectorAll('text, title')].map(t => t.firstChild?.textContent ?? '')")
            )
            held = {re.sub(r"\s+", " ", t) for t in said}
            wanted = {n.replace("\n", "⏎" if "token" in builder else " ") for n in HOSTILE}
            assert all(any(n in t for t in held) for n in wanted), (builder, wanted - held)
        assert violations(page, ".kd-picture") == [] and page.errors == []
