"""Pictures and page of a diagnosis, and the command that makes it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kdcore.checkpoints import save_weights
from kdcore.diagnose import Diagnosis, diagnose
from kdcore.models import MLP, ConvNet
from workbench.cli import app
from workbench.diagnose_report import diagnosis_report
from workbench.views import DARK, attribution_pair_view, diagnosis_views, occlusion_view, reliability_view


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    torch.manual_seed(0)
    x, y = torch.rand(64, 3, 16, 16), torch.arange(64) % 4
    return diagnose(
        ConvNet((4, 8), 4, in_channels=3),
        ConvNet((4, 4), 4, in_channels=3),
        (x, y),
        bootstrap=10,
        class_names=["ant", "<bee>", "cat", "dog"],
        mask_ratios=(0.5,),
        mask_samples=16,
    )


def test_every_view_draws_in_both_themes_and_speaks(found: Diagnosis) -> None:
    views = diagnosis_views(found)
    assert {"findings", "missed", "reliability", "cka", "alignment 1", "occlusion", "robustness"} <= views.keys()
    for name, view in views.items():
        assert view.png(DARK)[:4] == b"\x89PNG" and re.search(r"\d", view.alt), name
    assert len(views["alignment 1"].table) == 64 and "label" in views["alignment 1"].table
    assert views["robustness"].table["teacher"].tolist() == [r["teacher"] for r in found.robustness]


def test_page_is_whole_offline_and_escapes(found: Diagnosis) -> None:
    page = diagnosis_report(found, about={"teacher": "a <b>"}).html()
    assert "&lt;bee&gt;" in page and "<bee>" not in page and "a &lt;b&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for finding in found.findings:
        assert finding.code in page
    for heading in ("Findings", "The two models", "Layer by layer", "Region by region", "How this was measured"):
        assert f">{heading}</h2>" in page


def test_page_of_a_broken_model_and_of_vectors() -> None:
    torch.manual_seed(0)
    good, bad = MLP(5, (4,), 3), MLP(5, (4,), 3)
    data = (torch.randn(40, 5), torch.arange(40) % 3)
    assert "Region by region" not in diagnosis_report(diagnose(good, bad, data, bootstrap=0)).html()
    torch.nn.init.constant_(bad.head.bias, float("nan"))
    assert "non_finite" in diagnosis_report(diagnose(good, bad, data)).html()


def test_views_refuse_what_is_not_there() -> None:
    torch.manual_seed(0)
    vectors = diagnose(MLP(5, (4,), 3), MLP(5, (4,), 3), (torch.randn(40, 5),), bootstrap=0)
    with pytest.raises(ValueError, match="no occlusion maps"):
        occlusion_view(vectors)
    with pytest.raises(ValueError, match="needs labels"):
        reliability_view(vectors)
    with pytest.raises(ValueError, match="student_map must be"):
        attribution_pair_view(torch.rand(1, 4, 4), torch.rand(4, 4), torch.rand(3, 3))


def test_attribution_pair_says_how_far_the_maps_agree() -> None:
    first = torch.rand(6, 6)
    view = attribution_pair_view(torch.rand(3, 6, 6), first, 2 * first + 1, label="cat")
    assert "correlate by 1.00" in view.alt and view.png()[:4] == b"\x89PNG"


def test_command_on_a_folder(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(40):
            pixels = generator.integers(120 * k, 120 * k + 100, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    torch.manual_seed(0)
    for name, widths in (("teacher", (32, 64, 64)), ("student", (4, 8, 64))):
        save_weights(ConvNet(widths, 2, in_channels=3), tmp_path / f"{name}.safetensors")
    arguments = [
        "diagnose",
        "--teacher",
        f"cnn:{tmp_path / 'teacher.safetensors'}",
        "--student",
        f"cnn-small:{tmp_path / 'student.safetensors'}",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "report.html"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "untrained_teacher" in page and str(tmp_path) not in page
    assert "16 x 16 pixels" in page  # the images' own size
    smaller = CliRunner().invoke(app, [*arguments, "--size", "8"])
    assert smaller.exit_code == 0 and "8 x 8 pixels" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "of 32 test samples" in page or "all 32 test samples" in page
    (tmp_path / "data" / "dark" / "torn.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="torn"):
        again = CliRunner().invoke(app, [*arguments, "--training"])
    assert again.exit_code == 0, again.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "torn.png" in page and "torn.png" in again.output  # what was skipped is named
    assert str(tmp_path) not in page
    wrong = CliRunner().invoke(app, [*arguments[:2], "no_such_net", *arguments[3:]])
    assert wrong.exit_code == 2
    missing = CliRunner().invoke(app, [*arguments[:6], str(tmp_path / "nowhere"), *arguments[7:]])
    assert missing.exit_code == 2
