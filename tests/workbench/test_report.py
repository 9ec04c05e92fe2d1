"""Reports: self-contained, offline, readable without seeing; notebooks as pages; the demo from end to end."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import numpy as np
import pandas as pd
import pytest

from workbench.marks import content_hash
from workbench.report import Report, export_notebook, facts_html, mathml, notebook_html, table_html, verdicts_html
from workbench.runs.records import MIME


class Page(html.parser.HTMLParser):
    """What a page holds: tags with attributes, text, and everything a browser would fetch."""

    FETCHING: ClassVar = {
        "img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data",
    }  # fmt: skip
    VOID: ClassVar = {"meta", "link", "img", "br", "hr", "input", "source", "col"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag in self.FETCHING and (address := given.get(self.FETCHING[tag])):
            self.fetched.append(address)
        self.open += [tag] if tag not in self.VOID else []

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and "math" not in self.open[:-1]:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag]


def check_offline(text: str) -> Page:
    page = Page(text)
    assert [a for a in page.fetched if not a.startswith("data:")] == []
    scripts = [a for a in page.named("script") if a.get("type") != "application/json"]  # data are never run
    (policy,) = [a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and len(scripts) == ("kd-data" in text) == policy.count("script-src 'sha256-")
    for found in re.findall(r'<script type="module">(.*?)</script>', text, re.S):
        assert content_hash(found) in policy
    assert not re.search(r"url\((?!['\"]?(?:data:|#))|@import", text)
    return page


def test_a_page_is_closed_headed_and_self_contained() -> None:
    report = Report("A <title>", "lead")
    report.add("First part", "<p>text</p>", table_html(pd.DataFrame({"m": ["a<b"], "x": [0.5]}), "numbers & so on"))
    report.add("Second: part!", facts_html({"k": "<v>"}, "facts"))
    page = check_offline(report.html())
    assert page.open == []
    assert [a["id"] for a in page.named("h2")] == ["first-part", "second-part"]
    assert [a["href"] for a in page.named("a")] == ["#first-part", "#second-part"]
    assert (
        page.named("html") == [{"lang": "en"}]
        and "A <title>" in page.text
        and "a<b" in page.text
        and "<v>" in page.text
    )
    assert len(page.named("caption")) == len(page.named("table")) == 2
    assert "prefers-color-scheme:dark" in report.html()
    with pytest.raises(ValueError, match="has a section 'First part'"):
        report.add("First part", "")


def test_tables_head_their_rows_and_show_missing_numbers_as_such() -> None:
    frame = pd.DataFrame({"arm": ["CE", "KD"], "mean": [0.123456, np.nan], "n": [3, 4]})
    page = Page(table_html(frame, "c", formats={"mean": ".2f"}))
    assert [a.get("scope") for a in page.named("th")] == ["col", "col", "col", "row", "row"]
    assert re.findall(r"<td>(.*?)</td>", table_html(frame, "c", formats={"mean": ".2f"})) == ["0.12", "3", "–", "4"]


def test_verdicts_are_told_in_words_not_by_colour_alone() -> None:
    text = verdicts_html([{"text": "x", "value": "reproduced", "sentence": "reproduced: x"},
                          {"text": "y", "value": "contradicted", "sentence": "not reproduced: <y>"}])  # fmt: skip
    assert "✔" in text and "✘" in text and "not reproduced: &lt;y&gt;" in text and verdicts_html([]) == ""
    assert ">?<" in verdicts_html([{"text": "x", "value": "open", "sentence": "open at 3 seeds: x"}])


def notebook() -> Any:
    v4 = nbformat.v4
    table = "<table><caption>c</caption><tr><td>1</td></tr></table>"
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell("# A *title*\n\n$a^2$ and `$b$` cost 5\\$.\n\n$$\\sum_i p_i \\log q_i$$\n\n"
                                 "[lesson](ranking/pld.ipynb), [other](x/y.ipynb), [web](https://example.org)"),
            v4.new_code_cell("1 < 2", outputs=[
                v4.new_output("stream", name="stdout", text="hello <b>\n"),
                v4.new_output("execute_result", data={"text/html": table, "text/plain": "plain"}),
                v4.new_output("display_data", data={MIME: {"a": 1}, "text/html": "<i>rec</i>"}),
                v4.new_output("error", ename="ValueError", evalue="bad", traceback=["\x1b[31mValueError\x1b[0m: bad"]),
            ]),
        ]
    )  # fmt: skip


def test_a_notebook_becomes_a_page_that_needs_nothing_else() -> None:
    text = notebook_html(notebook(), back="../report.html", links={"pld": "pld.html"})
    page = check_offline(text)
    assert "<title>A title</title>" in text
    assert len(page.named("math")) == 2 and "<code>$b$</code>" in text and "\\sum" not in page.text
    assert [a["href"] for a in page.named("a") if a.get("href")] == [
        "../report.html",
        "pld.html",
        "https://example.org",
    ]
    assert "hello <b>" in page.text and "<i>rec</i>" in text and "ValueError" in page.text and "\x1b" not in text
    assert "other" in page.text


def test_code_of_folded_cells_is_under_a_line_that_opens_it() -> None:
    node = notebook()
    plain = notebook_html(node)
    node["cells"][1]["metadata"]["tags"] = ["folded"]
    page = check_offline(folded := notebook_html(node))
    assert "<details><summary>code</summary>" in folded and "<details>" not in plain
    assert "1 < 2" in page.text and folded.index("</details>") < folded.index("hello")


def test_a_formula_that_cannot_be_converted_is_shown_as_written() -> None:
    assert "<mfrac>" in mathml(r"\frac{a}{b}") and 'display="block"' in mathml("x", block=True)
    assert mathml(r"a_1_2 <") == "<code>a_1_2 &lt;</code>"


def test_texts_that_a_file_holds_as_lists_of_lines_are_whole(tmp_path: Path) -> None:
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    words = {"text/markdown": "**two** lines\n\nof words", "text/plain": "words"}
    node.cells[0].outputs = [nbformat.v4.new_output("execute_result", words, execution_count=1)]
    nbformat.write(node, tmp_path / "n.ipynb")  # as Jupyter writes it: one string per line
    assert "<strong>two</strong> lines" in notebook_html(tmp_path / "n.ipynb")


def test_export_is_written_whole(tmp_path: Path) -> None:
    nbformat.write(notebook(), tmp_path / "n.ipynb")
    path = export_notebook(tmp_path / "n.ipynb", tmp_path / "out" / "n.html")
    assert path.read_text(encoding="utf-8") == notebook_html(tmp_path / "n.ipynb")


@pytest.mark.slow
def test_the_demo_compares_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.runs import demo
    from workbench.runs.execute import Job, run_many
    from workbench.runs.pairing import notebook_text
    from workbench.runs.progress import progress_bars
    from workbench.runs.store import read_run

    (tmp_path / "pyproject.toml").touch()
    lesson = tmp_path / "notebooks" / "tiny.ipynb"
    lesson.parent.mkdir()
    verdict = {"text": "t", "value": "contradicted", "sentence": "not reproduced: t"}
    code = f"from workbench.runs import record\nrecord(a=1, verdicts=[{verdict}])\n"
    script = f"# %% [markdown]\n# # Tiny\n\n# %%\n{code}"
    lesson.write_text(notebook_text(script), encoding="utf-8")
    monkeypatch.setattr(demo, "_run_lessons", lambda root, folder, workers, bars: run_many(
        [Job(lesson, run_id="tiny")], runs_dir=folder / "lessons"))  # fmt: skip
    with progress_bars(quiet=True) as bars:
        result = demo.run_demo(runs_dir=tmp_path / "runs", run_id="d", seeds=2, epochs=1, bars=bars)
    assert result.ok and read_run(result.folder).status == "done"
    page = check_offline(result.report.read_text(encoding="utf-8"))
    assert page.open == []
    headings = ["comparison", "training", "inside-the-networks", "rankings", "lessons", "how-this-was-made"]
    assert [a["id"] for a in page.named("h2")] == headings
    assert all((a.get("alt") or "").strip() for a in page.named("img")) and len(page.named("img")) >= 6
    for arm in demo.arms():
        assert re.search(rf'<th scope="row"[^>]*>{arm.label}</th>', result.report.read_text(encoding="utf-8"))
    assert "not reproduced: t" in page.text and "kdw demo --seeds 2 --epochs 1" in page.text
    links = [a["href"] for a in page.named("a") if a["href"] and a["href"].startswith("lessons/")]
    assert links == ["lessons/tiny.html"]
    check_offline((result.folder / links[0]).read_text(encoding="utf-8"))
    rows = pd.read_csv(result.folder / "comparison.csv")
    assert len(rows) == 10 and set(rows["arm"]) == {"CE", "KD", "DKD", "DIST", "PLD"}
    told = result.text()
    mean = 100 * result.comparison.mean("PLD")
    assert f"{mean:.1f} %" in told and str(result.report) in told
    assert json.dumps(result.to_dict())
