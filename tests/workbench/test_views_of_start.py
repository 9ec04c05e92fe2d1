"""The label beside the soft target, the gallery of lessons, and the names of scripts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore import taxonomy
from kdcore.card import FAMILIES
from workbench.runs.files import notebook_of, resolve_notebook, script_of
from workbench.runs.pairing import check_pair, check_pairs, pair
from workbench.views import soft_target_view
from workbench.views.gallery import FAMILY_WORDS, lessons_html, planned_html
from workbench.views.theme import DARK, LIGHT

LOGITS = torch.tensor([2.0, 0.0, -1.0])


def test_soft_targets_are_the_softened_probabilities() -> None:
    view = soft_target_view(LOGITS, 0, ["cat", "dog", "owl"], temperature=2.0, image=np.eye(4))
    weights = np.exp([1.0, 0.0, -0.5])
    assert np.allclose(view.table["teacher"], weights / weights.sum()) and list(view.table["label"]) == [1, 0, 0]
    assert "The label says cat" in view.alt and "62.9 % to cat, 23.1 % to dog and 14.0 % to owl" in view.alt
    assert view.png(LIGHT) != view.png(DARK)
    assert [p.kind for p in view.picture.panels] == ["images", "plane", "plane"]
    assert len(soft_target_view(LOGITS, 0, temperature=1.0).picture.panels) == 2


def test_shares_under_half_a_percent_are_not_told() -> None:
    assert "gives 100.0 % to 0." in soft_target_view([50.0, 0.0, 0.0], 0, temperature=1.0).alt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": 3}, r"label must be in \[0, 3\), got 3"),
        ({"label": -1}, "label must be"),
        ({"temperature": 0.0}, "temperature"),
        ({"class_names": ["a"]}, "3 names"),
        ({"image": torch.zeros(2, 4, 4)}, "image must be"),
        ({"teacher_logits": torch.zeros(2, 3)}, "1-D"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, object], message: str) -> None:
    given = {"teacher_logits": LOGITS, "label": 0, "temperature": 1.0} | options
    with pytest.raises(ValueError, match=message):
        soft_target_view(**given)  # type: ignore[arg-type]


def test_gallery_links_every_lesson_and_no_planned_paper() -> None:
    papers = taxonomy.entries(companions=True)
    done = [p for p in papers if p.status == "implemented"]
    links = re.findall(r'href="([^"]+)"', lessons_html(papers, base=".."))
    assert len(done) >= 3 and sorted(links) == sorted(f"../{p.notebook}" for p in done)
    chapters = [FAMILIES.index(link.split("/")[-2]) for link in links]
    assert chapters == sorted(chapters)
    with pytest.raises(ValueError, match="at least one implemented"):
        lessons_html([p for p in papers if p.status == "planned"])


def test_planned_papers_are_listed_by_family_and_text_is_escaped() -> None:
    papers = taxonomy.entries(companions=True)
    planned = [p for p in papers if p.status == "planned"]
    shown = planned_html(papers)
    assert shown.count("<a ") + shown.count("<span ") == len(planned)
    assert re.findall(r"<dt>(\w+)", shown) == [f for f in FAMILIES if any(p.family == f for p in planned)]
    assert planned_html([p for p in papers if p.status != "planned"]) == ""
    odd = replace(planned[0], title="<b>&", arxiv="")
    assert '<span title="&lt;b&gt;&amp;">' in planned_html([odd])
    assert set(FAMILY_WORDS) == set(FAMILIES)


# Scripts that would hide a package ------------------------------------------------------------------------------------


def test_only_names_of_packages_get_another_script_name() -> None:
    assert script_of("notebooks/workbench.ipynb") == Path("notebooks/workbench_notebook.py")
    assert notebook_of("notebooks/workbench_notebook.py") == Path("notebooks/workbench.ipynb")
    assert script_of("a/pld.ipynb") == Path("a/pld.py")
    assert notebook_of("a/pld_notebook.py") == Path("a/pld_notebook.ipynb")


def test_such_a_pair_is_made_checked_and_found(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    script = folder / "workbench_notebook.py"
    script.write_text("# %% [markdown]\n# # Bench\n\n# %%\n1 + 1\n", encoding="utf-8")
    assert pair(script).problem and (folder / "workbench.ipynb").is_file()
    assert [p.problem for p in check_pairs(root=tmp_path)] == [""]
    assert check_pair(folder / "workbench.ipynb").script == script
    assert '"formats": "ipynb"' in (folder / "workbench.ipynb").read_text()  # an editor must not write workbench.py
    assert resolve_notebook(script) == resolve_notebook("workbench", tmp_path) == folder / "workbench.ipynb"
    (folder / "workbench.py").write_text("# %%\n1\n", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"hides the package workbench .*workbench_notebook\.py"):
        check_pairs(root=tmp_path)
