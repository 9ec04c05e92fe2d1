"""Static reports: one self-contained HTML file each, light and dark, nothing fetched from anywhere.

:class:`Report` puts headings, text, tables and Views on a page; :func:`notebook_html` turns an executed notebook into
such a page (formulas become MathML, which browsers draw without a script).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from kdcore.files import write_atomic
from kdcore.html import Html, facts, table, tag

from .marks import content_hash, script
from .marks import style as marks_style
from .runs.files import load_notebook
from .runs.pairing import FOLDED
from .runs.records import VERDICT_SIGNS
from .templating import render

if TYPE_CHECKING:
    import pandas as pd

_CSS = """
:root{color-scheme:light dark;--ink:#1b1b1b;--paper:#fff;--soft:#f7f8fa;--line:#d5d8dd;--link:#0058a3;
--good:#00694d;--bad:#a33d00}
@media (prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#16181c;--soft:#22252b;--line:#3a3d44;--link:#7cc0ff;
--good:#4fd1a5;--bad:#ffa366}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem 1.2rem 4rem;max-width:62rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.7rem;line-height:1.25;margin:.4em 0}h2{font-size:1.3rem;margin:2.2em 0 .5em;border-bottom:1px solid
var(--line)} h3{font-size:1.08rem}a{color:var(--link)}nav ul{display:flex;flex-wrap:wrap;gap:.2rem
1.2rem;list-style:none;padding:0} .scroll{overflow-x:auto}table{border-collapse:collapse;margin:.6em 0
1em;font-variant-numeric:tabular-nums} caption{text-align:left;font-weight:600;padding:.2em 0}th,td{padding:.25em
.8em;border-bottom:1px solid var(--line);text-align:right} th[scope=row],td.text,th.text{text-align:left}thead
th{background:var(--soft)}
code,pre{font-family:ui-monospace,Consolas,monospace;font-size:.9em}pre{background:var(--soft);padding:.7em
1em;overflow-x:auto; border-radius:4px}.good{color:var(--good)}.bad{color:var(--bad)}.verdict{margin:.3em
0}small,.quiet{opacity:.8} img{max-width:100%;height:auto}
math[display=block]{margin:.3em 0;padding:.4em 0;overflow-x:auto}
"""
_NOTEBOOK_CSS = """
.prompt{font:.75rem ui-monospace,Consolas,monospace;opacity:.65}.prompt:empty,.anchor-link{display:none}
div.cell{margin:.9em 0}.input_area pre{border-left:3px solid var(--line)}.highlight{background:none}
.output_error pre,.output_stderr pre{border-left:3px solid var(--bad)}.output_html{overflow-x:auto}
"""


def page(title: str, body: str, *, style: str = "") -> str:
    """A whole HTML document around ``body`` (HTML); nothing in the head refers to another file."""
    return render("page.html", title=title, body=Html(body), **_drawn(body, _CSS + style))


def _drawn(body: str, style: str) -> dict[str, Any]:
    """What the pictures of a page need: the one script that draws them, its style, and a policy that allows no other.

    A page without pictures that have their data gets no script at all.
    """
    marks = script("page.js") if 'class="kd-data"' in body else ""
    allowed = f"; script-src '{content_hash(marks)}'" if marks else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}"
    return {"style": Html(style + (marks_style() if marks else "")), "script": Html(marks), "policy": Html(policy)}


def table_html(frame: pd.DataFrame, caption: str, *, formats: Mapping[str, str] | None = None) -> Html:
    """A table with a caption; the first column heads the rows.

    Args:
        frame: its columns are shown, its index is not.
        caption: says what the table shows.
        formats: format specification by column (``".3f"``); other floats get four digits.
    """
    formats = formats or {}

    def show(column: str, value: Any) -> Any:
        given = isinstance(value, float) and value == value and column in formats
        return format(value, formats[column]) if given else value

    columns = [str(c) for c in frame.columns]
    rows = [[show(c, v) for c, v in zip(columns, row, strict=True)] for row in frame.itertuples(index=False)]
    words = [not all(isinstance(v, int | float) for v in frame[c]) for c in frame.columns]
    return tag("div", table(rows, columns, caption=caption, left=words), class_="scroll")


def facts_html(values: Mapping[str, Any], caption: str) -> Html:
    """Names and values as a two-column table."""
    shown = facts({name: str(value) for name, value in values.items()}, caption=caption)
    return tag("div", shown, class_="scroll")


def verdicts_html(verdicts: Sequence[Mapping[str, Any]]) -> Html:
    """Claims with their outcome in words, a sign and a colour."""
    lines = []
    for verdict in verdicts:
        value = str(verdict.get("value", "open"))
        sign, kind = VERDICT_SIGNS.get(value, "?"), {"reproduced": "good", "contradicted": "bad"}.get(value, "open")
        sentence = verdict.get("sentence", verdict["text"])
        lines.append(tag("li", tag("span", sign, class_=kind, aria_hidden="true"), f" {sentence}", class_="verdict"))
    return tag("ul", *lines) if lines else Html()


@dataclass
class Report:
    """A page made of sections.

    Attributes:
        title: heading of the page.
        lead: one paragraph under it (HTML).
        sections: (heading, HTML) in order; filled by :meth:`add`.
    """

    title: str
    lead: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)

    def add(self, heading: str, *blocks: Any) -> None:
        """Append a section.

        Args:
            heading: its title; sections with the same title must not be added twice.
            *blocks: HTML text, or anything with an ``html()`` method (Views).
        """
        if any(heading == known for known, _ in self.sections):
            raise ValueError(f"the report has a section {heading!r} already.")
        self.sections.append((heading, "\n".join(b if isinstance(b, str) else b.html() for b in blocks)))

    def html(self) -> str:
        """The page."""
        sections = [{"anchor": _anchor(h), "heading": h, "body": Html(body)} for h, body in self.sections]
        body = "".join(body for _, body in self.sections)
        return render("report.html", title=self.title, lead=Html(self.lead), sections=sections, **_drawn(body, _CSS))

    def write(self, path: str | Path) -> Path:
        """Write the page atomically; returns its path."""
        return write_atomic(path, self.html())


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


# ---------------------------------------------------------------------------------------------- notebooks


def mathml(latex: str, *, block: bool = False) -> str:
    """A LaTeX formula as MathML; one that cannot be converted is shown as it was written."""
    from latex2mathml import converter, exceptions

    known = tuple(e for e in vars(exceptions).values() if isinstance(e, type) and issubclass(e, Exception))
    try:
        return converter.convert(latex, display="block" if block else "inline")
    except known:
        return tag("code", latex)


def notebook_html(
    notebook: str | Path | Mapping[str, Any],
    *,
    title: str | None = None,
    back: str = "",
    links: Mapping[str, str] | None = None,
) -> str:
    """An executed notebook as a self-contained page.

    Args:
        notebook: path or notebook node.
        title: of the page; default the notebook's first heading.
        back: address of a page to link back to.
        links: addresses of the pages of other notebooks by slug; links to notebooks without a page become plain text.

    Raises:
        NotebookError: the file is no notebook.
    """
    from pygments.formatters import HtmlFormatter

    node = _node(notebook)
    body, _ = _exporter().from_notebook_node(node)
    body = body.replace("<pre>", '<pre tabindex="0">')  # long lines scroll, by keyboard too
    light, dark = (HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("default", "github-dark"))
    body = _relink(body, links or {})
    link = tag("nav", tag("a", "← report", href=back)) if back else ""
    return page(
        title or notebook_title(notebook),
        f"{link}<main>{body}</main>",
        style=f"{_NOTEBOOK_CSS}{light}@media (prefers-color-scheme:dark){{{dark}}}.highlight{{background:none}}",
    )


def notebook_title(notebook: str | Path | Mapping[str, Any]) -> str:
    """The first heading of a notebook without markup; its file name (or "Notebook") where there is none."""
    stored = isinstance(notebook, str | Path)
    text = "\n".join(c["source"] for c in _node(notebook)["cells"] if c["cell_type"] == "markdown")
    heading = re.search(r"^#\s+(.+)$", text, re.M)
    return re.sub(r"[`*$_]", "", heading.group(1)) if heading else Path(str(notebook)).stem if stored else "Notebook"


def _node(notebook: str | Path | Mapping[str, Any]) -> Any:
    """A notebook node whose texts are whole; a file that is none is refused in one line."""
    import nbformat

    if not isinstance(notebook, str | Path):
        return notebook
    text = json.dumps(load_notebook(notebook))
    return nbformat.reads(text, as_version=nbformat.NO_CONVERT)  # joins texts that files hold as lists of lines


def _relink(body: str, links: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        target = links.get(Path(unquote(unescape(match["target"]))).stem)
        return tag("a", Html(match["text"]), href=quote(target)) if target else match["text"]

    return re.sub(r'<a [^>]*href="(?P<target>[^":?#]+\.ipynb)[^"]*"[^>]*>(?P<text>.*?)</a>', replace, body, flags=re.S)


#: nbconvert's basic template, with the code of cells tagged ``folded`` under a line that opens it.
_CELLS = f"""{{% extends 'basic/index.html.j2' %}}
{{% block input_group %}}
{{% if '{FOLDED}' in cell.metadata.get('tags', []) %}}<details><summary>code</summary>{{{{ super() }}}}</details>
{{% else %}}{{{{ super() }}}}{{% endif %}}
{{% endblock %}}"""


def _exporter() -> Any:
    """nbconvert's plain HTML of cells, with formulas as MathML instead of a script that would be fetched."""
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    from traitlets.config import Config

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return mathml(body, block=True)

        def multiline_math(self, text: str) -> str:
            return mathml(text, block=True)

        def inline_math(self, body: str) -> str:
            return mathml(body)

        def latex_environment(self, name: str, body: str) -> str:
            return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    def markdown2html(source: str) -> str:
        return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)

    exporter = HTMLExporter(
        template_name="basic", raw_template=_CELLS, config=Config({"HTMLExporter": {"embed_images": True}})
    )
    exporter.register_filter("markdown2html", markdown2html)
    return exporter


def export_notebook(
    notebook: str | Path, path: str | Path, *, back: str = "", links: Mapping[str, str] | None = None
) -> Path:
    """Write :func:`notebook_html` to a file, atomically."""
    return write_atomic(path, notebook_html(notebook, back=back, links=links))
