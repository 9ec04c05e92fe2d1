"""Pieces of HTML: everything that goes in is escaped exactly once, and tables are what assistive technology expects."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.html import Html, details, escaped, facts, items, join, table, tag


class Reader(HTMLParser):
    """The tags and the text of a document, and whether every element is closed in order."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", list[str]()
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(words, words, words, words)
def test_whatever_goes_in_comes_out_as_text(a: str, b: str, c: str, d: str) -> None:
    made = details(a, table([(b, c)], caption=d, class_=a), items([c]), tag("b", d, title=b))
    read = Reader(made)
    assert read.open == []
    assert read.text == a + d + b + c + c + d
    attributes = dict(read.tags)
    assert attributes["b"].get("title", "") == b and attributes["table"].get("class", "") == a


def test_html_is_not_escaped_again() -> None:
    bold = tag("b", "<x>")
    assert bold == "<b>&lt;x&gt;</b>"
    assert escaped(bold) == bold and tag("p", bold, "&") == "<p><b>&lt;x&gt;</b>&amp;</p>"
    assert join([bold, "<"], " · ") == "<b>&lt;x&gt;</b> · &lt;"
    assert join(["a", "b"], "<") == "a&lt;b"
    assert escaped("<b>") == "&lt;b&gt;", "a string that merely looks like HTML"


def test_a_template_with_autoescape_knows_the_pieces() -> None:
    template = jinja2.Environment(autoescape=True).from_string("{{ piece }}{{ text }}")
    assert template.render(piece=tag("i", "<"), text="<") == "<i>&lt;</i>&lt;"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123456, "0.1235"), (float("nan"), "–"), (3, "3"), (None, "None"), (True, "True")]
)
def test_values(value: object, shown: str) -> None:
    assert escaped(value) == shown


def test_a_table_heads_its_rows_and_columns() -> None:
    made = table([("a", 1, "x"), ("b", 2, "y")], ("", "n", "word"), caption="C", left=(False, False, True))
    assert made == (
        '<table><caption style="text-align:left">C</caption><thead><tr><td></td><th scope="col">n</th>'
        '<th scope="col" style="text-align:left">word</th></tr></thead><tbody>'
        '<tr><th scope="row" style="text-align:left">a</th><td>1</td><td style="text-align:left">x</td></tr>'
        '<tr><th scope="row" style="text-align:left">b</th><td>2</td><td style="text-align:left">y</td></tr>'
        "</tbody></table>"
    )
    assert table([("a",)], row_heads=False, left=False) == "<table><tbody><tr><td>a</td></tr></tbody></table>"


def test_facts_of_a_mapping_and_of_pairs() -> None:
    assert facts({"a": 1}, caption="C") == table([("a", 1)], caption="C") == facts([("a", 1)], caption="C")


def test_attributes() -> None:
    made = tag("span", class_="good", aria_hidden="true", hidden=True, title=None, id="", open=False)
    assert made == '<span class="good" aria-hidden="true" hidden></span>'
    assert tag("a", href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;"></a>'
    assert details("s", "c", open=True) == "<details open><summary>s</summary>c</details>"


def test_elements_without_an_end() -> None:
    assert tag("br") == "<br>" and tag("img", alt="a", src="b") == '<img alt="a" src="b">'


def test_an_empty_list_is_nothing() -> None:
    assert items([]) == "" and isinstance(items([]), Html)
    assert items(["a", "<"], ordered=True) == "<ol><li>a</li><li>&lt;</li></ol>"


def test_neither_jinja2_nor_torch_is_loaded() -> None:
    code = "import sys, kdcore.html; print(sorted({'jinja2', 'markupsafe', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
