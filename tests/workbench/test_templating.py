"""Templates escape what they are given, keep what is HTML, and miss nothing silently."""

from __future__ import annotations

import jinja2
import pytest

from kdcore.html import tag
from workbench.report import Report, page, verdicts_html
from workbench.templating import render


def test_text_is_escaped_and_html_is_kept() -> None:
    shown = render("page.html", title="a < b", body=tag("p", "c & d"), style="", policy="default-src 'none'", script="")
    assert "<title>a &lt; b</title>" in shown and "<p>c &amp; d</p>" in shown
    assert "<script>" not in render(
        "page.html", title="", body="<script>", style="", policy="default-src 'none'", script=""
    )


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("page.html", body="", style="", policy="default-src 'none'", script="")


def test_pages_escape_headings_and_keep_their_blocks() -> None:
    report = Report("<t>", lead="<b>lead</b>")
    report.add("One & <two>", "<p>block</p>")
    text = report.html()
    assert "<h1>&lt;t&gt;</h1><p><b>lead</b></p>" in text
    assert '<a href="#one-two">One &amp; &lt;two&gt;</a>' in text and "<p>block</p></section>" in text
    assert page("<t>", "<p>x</p>", style="p>a{color:red}").count("p>a{color:red}</style>") == 1


def test_sentences_of_verdicts_are_escaped() -> None:
    shown = verdicts_html(
        [{"text": "t", "sentence": "<i> holds", "value": "reproduced"}, {"text": "u", "value": "contradicted"}]
    )
    assert "&lt;i&gt; holds" in shown and shown.count('class="verdict"') == 2 and "✔" in shown and "✘" in shown
    assert verdicts_html([]) == ""
