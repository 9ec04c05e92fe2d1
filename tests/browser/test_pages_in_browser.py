"""Pages to keep or to send: each opens from a file, asks nothing of the network, and axe-core finds nothing wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from support.accessibility import violations

from kdcore.diagnose import diagnose
from kdcore.models import ConvNet
from kdcore.registry import get_card
from workbench.diagnose_report import diagnosis_report
from workbench.report import notebook_html
from workbench.views import bars_view

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


def check(browser: Any, path: Path, text: str, scheme: str, *, pictures: int = 0) -> None:
    path.write_text(text, encoding="utf-8")
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme=scheme)
    try:
        page, asked, errors = context.new_page(), [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(path.as_uri())
        drawn = page.locator(".kd-picture svg[role=img]")
        assert drawn.count() >= pictures and page.locator("figure.kd-view > img:visible").count() == 0
        assert violations(page) == [] and errors == []
        assert [url for url in asked if not url.startswith(("data:", path.as_uri()))] == []
    finally:
        context.close()


@pytest.fixture(scope="module")
def diagnosis_page() -> str:
    torch.manual_seed(0)
    x, y = torch.rand(64, 3, 16, 16), torch.arange(64) % 4
    return diagnosis_report(
        diagnose(
            ConvNet((4, 8), 4, in_channels=3),
            ConvNet((4, 4), 4, in_channels=3),
            (x, y),
            bootstrap=10,
            mask_ratios=(0.5,),
            mask_samples=16,
        )
    ).html()


@SCHEMES
def test_page_of_a_diagnosis(browser: Any, tmp_path: Path, diagnosis_page: str, scheme: str) -> None:
    check(browser, tmp_path / "diagnosis.html", diagnosis_page, scheme, pictures=5)


@SCHEMES
def test_page_of_a_notebook(browser: Any, tmp_path: Path, scheme: str) -> None:
    v4, code = nbformat.v4, "# a comment\nlong = " + " + ".join(f"'piece {i}'" for i in range(40)) + "\nprint(long)"
    outputs = [
        v4.new_output("stream", name="stdout", text="word " * 80),
        v4.new_output("execute_result", data={"text/html": get_card("pld")._repr_html_()}),
        v4.new_output("display_data", data={"text/html": bars_view([[0.2, 0.8]], ["<b>"], ["CE", "KD"]).html()}),
        v4.new_output("error", ename="ValueError", evalue="bad", traceback=["\x1b[31mValueError\x1b[0m: bad"]),
    ]
    cells = [
        v4.new_markdown_cell("# A title\n\nWith $\\alpha_k$ and\n\n$$\\sum_i p_i$$"),
        v4.new_code_cell(code, outputs=outputs),
    ]
    text = notebook_html(v4.new_notebook(cells=cells), back="report.html")
    check(browser, tmp_path / "lesson.html", text, scheme, pictures=1)
