"""Generated Markdown: methods and axes come from the cards, and a stale or markerless file is found out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from kdcore import taxonomy
from kdcore.card import AXES, FAMILIES
from kdcore.registry import get_card, list_methods
from kdcore.tasks import images
from workbench import readme

PROJECT = Path(readme.__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# T\n\n<!-- methods:start -->\nold\n<!-- methods:end -->\n\nafter\n")
    (tmp_path / "docs/taxonomy.md").write_text(
        "".join(f"{n}:\n<!-- {n}:start -->\n<!-- {n}:end -->\n" for n in ("axes", "survey"))
    )
    return tmp_path


def test_every_implemented_paper_has_one_row_in_the_order_of_the_book() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\((\S+)\) \| (.+) \| (.+) \| (\w+) \| (.+) \|$", readme.methods_markdown(), re.M)
    assert sorted(r[0] for r in rows) == list_methods()
    assert [FAMILIES.index(r[4]) for r in rows] == sorted(FAMILIES.index(r[4]) for r in rows)
    for slug, notebook, paper, objectives, family, parity in rows:
        card = get_card(slug)
        assert (notebook, family) == (card.notebook, card.family)
        assert card.title.replace("|", "\\|") in paper and str(card.year) in paper
        assert (f"arxiv.org/abs/{card.arxiv}" in paper) if card.arxiv else "arxiv.org" not in paper
        assert re.findall(r"`(\w+)`", objectives) == [cls.name for cls in card.objectives]
        assert parity.startswith(card.parity.status) or card.parity.status == "none"


def test_every_planned_paper_is_named_under_its_family() -> None:
    lines = re.finditer(r"^- \*\*(\w+)\*\*: (.+)$", readme.methods_markdown(), re.M)
    named = {m[1]: re.findall(r"`(\w+)`", m[2]) for m in lines}
    planned = taxonomy.find(status="planned")
    assert {f: sorted(n) for f, n in named.items()} == {
        f: sorted(e.slug for e in planned if e.family == f) for f in FAMILIES if any(e.family == f for e in planned)
    }


def test_no_details_when_nothing_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    find = taxonomy.find
    monkeypatch.setattr(taxonomy, "find", lambda **f: [] if f == {"status": "planned"} else find(**f))
    assert "details" not in readme.methods_markdown()


def test_axes_and_survey_tables_hold_every_value() -> None:
    axes = readme.axes_markdown()
    for axis, values in AXES.items():
        section = axes.split(f"### `{axis}`\n")[1].split("###")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.M) == list(values)
    for field, values in taxonomy.SURVEY_FIELDS.items():
        assert f"| `{field}` | {', '.join(values)} |" in readme.survey_markdown()


def test_text_cannot_break_a_table() -> None:
    assert readme._cell("a | b\n c") == "a \\| b c"


def test_update_writes_only_between_the_markers_and_check_agrees(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = readme.check(project)
    assert "README.md is out of date" in problem and "-old" in problem and "docs/taxonomy.md is out of date" in problem
    assert readme.main(["--check", "--root", str(project)]) == 1
    assert "-old" in capsys.readouterr().err
    assert readme.main(["--root", str(project)]) == 0
    assert capsys.readouterr().out == "README.md: written\ndocs/taxonomy.md: written\n"
    text = (project / "README.md").read_text()
    assert text.startswith("# T\n\n<!-- methods:start -->\n| method |")
    assert text.endswith("<!-- methods:end -->\n\nafter\n")
    assert "old" not in text.split("<!-- methods:start -->")[1].splitlines()
    assert readme.check(project) == "" and readme.update(project) == []
    assert readme.main(["--check", "--root", str(project)]) == 0
    assert readme.main(["--root", str(project)]) == 0 and "up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no markers", "must hold the marker <!-- methods:start --> once.*not at all"),
        ("<!-- methods:start -->", "<!-- methods:end --> once.*not at all"),
        ("<!-- methods:start -->\n<!-- methods:start -->\n<!-- methods:end -->", "holds it 2 times"),
        ("<!-- methods:end -->\n<!-- methods:start -->", "comes before"),
    ],
)
def test_bad_markers_are_named_and_nothing_is_written(
    project: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "README.md").write_text(text)
    with pytest.raises(ValueError, match=message):
        readme.update(project)
    assert re.search(message, readme.check(project))
    assert readme.main(["--root", str(project)]) == readme.main(["--check", "--root", str(project)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert (project / "README.md").read_text() == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "there is no README.md" in readme.check(tmp_path)


def test_the_docs_of_this_project_are_up_to_date() -> None:
    assert readme.check(PROJECT, ["docs/taxonomy.md"]) == ""


def test_every_local_link_of_the_guides_leads_somewhere() -> None:
    for file in ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/taxonomy.md"):
        text = (PROJECT / file).read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
        missing = [link for link in links if not (PROJECT / file).parent.joinpath(link).exists()]
        assert not missing, f"{file} links to what does not exist: {missing}"


def examples() -> list[str]:
    """The README's Python examples."""
    return re.findall(r"^```python\n(.*?)^```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_first_example_of_the_readme_runs_and_prints(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    example = examples()[0]
    assert len(example.splitlines()) <= 10
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert float(re.search(r"accuracy: last (0\.\d+), best", out)[1]) > 0.5 and "stage1" in out  # type: ignore[index]


@pytest.mark.slow
def test_the_second_example_of_the_readme_runs_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(images, "TIMM_RECIPE", replace(images.TIMM_RECIPE, epochs=1))  # the same text, trained briefly
    save_file(timm.create_model("resnet34", num_classes=2).state_dict(), "teacher.safetensors")
    noise = np.random.default_rng(0)
    for name, brightness in (("night", 60), ("noon", 180)):
        (tmp_path / "my_images" / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.clip(brightness + noise.normal(0, 20, (100, 120, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my_images" / name / f"{i}.png")
    example = examples()[1]
    scope: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), scope)
    comparison = scope["comparison"]
    assert comparison.arms == ("CE", "KD", "DIST") and len(comparison.rows) == 9 and not comparison.stopped
    assert len(comparison.table(baseline="CE")) == 3


def test_the_readme_of_this_project_is_up_to_date_and_its_lessons_exist() -> None:
    assert readme.check(PROJECT, ["README.md"]) == ""
    missing = [card.notebook for card in map(get_card, list_methods()) if not (PROJECT / card.notebook).is_file()]
    assert not missing, f"the table links to lessons that do not exist: {missing}"
