"""The scaffold of a new method: lint-clean, agreeing with the plan, and red until it is filled."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import torch

from kdcore import taxonomy
from kdcore.card import MethodCard
from kdcore.collection import collection
from workbench import scaffold as scaffold_module
from workbench.runs.pairing import pair
from workbench.runs.parameters import read_parameters
from workbench.scaffold import scaffold

PROJECT = Path(scaffold_module.__file__).parents[1]
AWKWARD = 'A "quoted" title \\ with everything, long enough that no line of any of the files could hold it whole'


def load(path: Path) -> ModuleType:
    """The module as ``kdcore.methods.<slug>`` without registering it."""
    spec = importlib.util.spec_from_file_location(f"kdcore.methods.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planned_slugs() -> list[str]:
    return [e.slug for e in taxonomy.find(status="planned")]


def test_four_files_in_their_places(tmp_path: Path) -> None:
    written = scaffold("my_kd", "ranking", "My own paper", root=tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in written] == [
        "kdcore/methods/my_kd.py",
        "kdcore/studies/my_kd.py",
        "notebooks/ranking/my_kd.py",
        "tests/methods/test_my_kd.py",
    ]
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(written)


def test_the_card_of_a_planned_paper_takes_its_facts_from_the_collection(tmp_path: Path) -> None:
    for slug in planned_slugs():
        facts = collection()[slug].facts()
        path = scaffold(slug, root=tmp_path)[0]
        module = load(path)
        assert isinstance(module.CARD, MethodCard) and module.CARD.slug == slug
        assert vars(module.CARD.axes) == facts.pop("axes")
        assert all(getattr(module.CARD, name) == value for name, value in facts.items())
        card = path.read_text().partition("CARD = ")[2]
        assert not [name for name in ("title", "year", "axes", "survey", "family") if f"{name}=" in card]


def test_everything_written_passes_the_linter(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "tests/golden", tmp_path / "tests/golden")
    for slug in planned_slugs():
        scaffold(slug, root=tmp_path)
    scaffold("awkward", "masks", AWKWARD, root=tmp_path)
    (tmp_path / "pyproject.toml").write_text((PROJECT / "pyproject.toml").read_text())
    (tmp_path / "kdcore/__init__.py").touch()
    for command in (["check", "--output-format", "concise"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        result = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr


def test_official_values_become_the_parity_test(tmp_path: Path) -> None:
    """Every case and every key of the vectors is named, and the test is red until they are compared."""
    slug = "quiet_teachers"
    (tmp_path / "tests/golden").mkdir(parents=True)
    vectors = PROJECT / "tests/golden/mixup_kd.npz"
    (tmp_path / f"tests/golden/{slug}.npz").write_bytes(vectors.read_bytes())
    *_, test = scaffold(slug, "foundations", "Quiet teachers", root=tmp_path)
    text = test.read_text()
    with np.load(vectors) as arrays:
        entries = [entry.split("/", 2) for entry in arrays.files]
    patterns = re.findall(r'"([^"]+)\*": check_', text)
    for case, group, key in entries:
        assert any(case.startswith(p) for p in patterns), case
        if group in ("out", "grad"):
            assert f'case.{group}["{key}"]' in text
    assert text.count("pytest.fail") == len(patterns) + 1 and "def test_parity(case: Case, check: Any)" in text


def test_the_form_of_the_loss_follows_what_is_handed_over(tmp_path: Path) -> None:
    """Of a paper about features the objective taps a layer; one about answers reads logits."""
    features, logits = (load(scaffold(slug, root=tmp_path)[0]) for slug in ("transkd", "taid"))
    assert list(inspect.signature(features.transkd_loss).parameters)[:2] == ["student_features", "teacher_features"]
    assert list(inspect.signature(logits.taid_loss).parameters)[:2] == ["student_logits", "teacher_logits"]
    with pytest.raises(NotImplementedError, match="transkd: write the loss"):
        features.Transkd().terms(features.Transkd.example())


def test_an_awkward_title_survives(tmp_path: Path) -> None:
    module, *others = scaffold("awkward", "masks", AWKWARD, root=tmp_path)
    assert load(module).CARD.title == AWKWARD
    for path in others:
        ast.parse(path.read_text())


def test_the_loss_refuses_wrong_shapes_and_does_not_pretend(tmp_path: Path) -> None:
    module = load(scaffold("my_kd", "ranking", "My own paper", root=tmp_path)[0])
    with pytest.raises(ValueError, match="same shape"):
        module.my_kd_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(NotImplementedError, match="my_kd: write the loss"):
        module.MyKd().terms(module.MyKd.example())
    assert module.CARD.losses == ("my_kd_loss",) and module.MyKd.card is module.CARD


def test_the_written_test_is_red_until_it_is_filled(tmp_path: Path) -> None:
    module, *_, test = scaffold("my_kd", "ranking", "My own paper", root=tmp_path)
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(f"""
        import kdcore.methods, kdcore.studies
        kdcore.methods.__path__.append({str(module.parent)!r})
        kdcore.studies.__path__.append({str(tmp_path / "kdcore/studies")!r})
    """)
    )

    def run() -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, test]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        return done.stdout

    assert "NotImplementedError: my_kd: write the loss" in (out := run()) and "2 failed, 1 passed" in out
    module.write_text(
        module.read_text().replace(
            'raise NotImplementedError("my_kd: write the loss")',
            "return (student_logits - teacher_logits).square().mean()",
        )
    )
    assert "compare with numbers computed by hand" in (out := run()) and "1 failed, 2 passed" in out


def test_the_lesson_is_a_notebook_with_typed_parameters(tmp_path: Path) -> None:
    lesson = scaffold("my_kd", "ranking", "My own paper", root=tmp_path)[2]
    pair(lesson)
    notebook = nbformat.read(lesson.with_suffix(".ipynb"), as_version=4)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert list(read_parameters(lesson.with_suffix(".ipynb"))) == ["quick", "seeds"]
    assert "Not written yet" in notebook.cells[0].source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("My-KD", "ranking", "T"), "slug must be a lower-case Python name.*'My-KD'"),
        (("class", "ranking", "T"), "slug must be a lower-case Python name.*'class'"),
        (("../x", "ranking", "T"), "slug must be"),
        (("pld", "ranking", "T"), "'pld' is taken"),
        (("dkd", "ranking", "T"), "'dkd' is taken"),
        (("my_kd",), r"'my_kd' is not in kdcore/collection\.csv: give its family .*ranking.* and its title"),
        (("my_kd", "ranking", "  "), r"is not in kdcore/collection\.csv"),
        (("my_kd", "rankings", "T"), "family must be one of .*'ranking'"),
        (("taid", "ranking"), r"family of 'taid' is 'language' in kdcore/collection\.csv, got 'ranking'"),
        (("taid", None, "TAYD"), r"title of 'taid' is 'TAID: .*' in kdcore/collection\.csv, got 'TAYD'"),
        (("survey_kd_dd",), "family must be one of"),
    ],
)
def test_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaffold(*arguments, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    test = scaffold("my_kd", "ranking", "My own paper", root=tmp_path)[3]
    (tmp_path / "kdcore/methods/my_kd.py").unlink()
    test.write_text("mine")
    with pytest.raises(FileExistsError, match=r"notebooks/ranking/my_kd\.py, tests/.*my_kd\.py exists already"):
        scaffold("my_kd", "ranking", "My own paper", root=tmp_path)
    assert test.read_text() == "mine" and not (tmp_path / "kdcore/methods/my_kd.py").exists()
