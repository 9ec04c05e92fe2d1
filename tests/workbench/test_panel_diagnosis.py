"""The panel that examines the pair another panel trains."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kdcore.models import ConvNet
from kdcore.tasks import Classification, ModelSpec, Recipe, Task
from workbench.panels import DiagnosisPanel, TrainPanel
from workbench.panels.base import Panel
from workbench.panels.diagnosis import PARTS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    yield
    for panel in list(Panel._open.values()):
        panel.close()


def bars(n: int, seed: int) -> list[tuple[torch.Tensor, int]]:
    """Grey images whose class is the bright third."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for i in range(n):
        x = 0.4 * torch.rand(1, 9, 9, generator=g)
        x[:, :, 3 * (i % 3) : 3 * (i % 3) + 3] += 0.5
        made.append((x, i % 3))
    return made


def task() -> Task:
    recipe = Recipe(epochs=4, batch_size=16, lr=1e-2)
    return Classification(
        name="bars",
        train=bars(96, 0),
        test=bars(60, 1),
        class_names=("left", "middle", "right"),
        teachers={"wide": ModelSpec(build=lambda: ConvNet((8, 8), 3), recipe=recipe)},
        students={"thin": ModelSpec(build=lambda: ConvNet((4, 4), 3), recipe=recipe)},
    )


def test_each_training_is_examined_with_its_history() -> None:
    training = TrainPanel(task(), method="kd")
    panel = DiagnosisPanel(training, limit=48)
    assert training.widget and panel.widget and panel.settle()
    assert "Press <b>Start</b>" in panel._box.text
    with pytest.raises(RuntimeError, match="nothing has been trained"):
        panel.diagnosis()
    training.start()
    assert training.join(60) and panel.settle(60) and panel.state.error is None
    first = panel.diagnosis()
    assert first is panel.diagnosis() and len(first.sample) == 48 and first.settings["limit"] == 48
    assert first.findings[0].sentence in html.unescape(panel._box.text)
    for part in PARTS:
        panel.set(part=part)
        assert panel.settle(60) and panel.state.error is None and panel.state.views
    training.start()
    assert training.join(60) and panel.settle(60) and panel.diagnosis() is not first


def test_static_form_trains_and_shows_findings_and_main_pictures() -> None:
    panel = DiagnosisPanel(TrainPanel(task()), limit=48)
    titles = [view.title for view in panel.static()]
    assert titles[0] == "Findings" and "Which regions the models need" in titles
    outcome = panel.outcome
    assert outcome is not None and outcome.student is not None
    found = panel.diagnosis()
    right = outcome.student.eval()(found.sample.x).argmax(1) == found.labels
    assert found.said["student"].accuracy == pytest.approx(float(right.double().mean()))
