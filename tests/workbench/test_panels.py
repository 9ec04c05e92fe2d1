"""Panels without a browser: traits, controls derived from cards, static forms, training in the background."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
import traitlets

from kdcore.card import Knob
from kdcore.models import MLP
from kdcore.registry import list_objectives, objective_class
from kdcore.tasks import Classification, ModelSpec, Recipe, Task
from workbench.panels import Explorer, LiveChart, PairPanel, Slider, TrainPanel, checkbox, control_for, dropdown, slider
from workbench.panels.base import Panel, static_mode, views_html
from workbench.views import View, lines_view


def line(power: float = 2.0, start: int = 0, squared: bool = False) -> View:
    if power > 8:
        raise ValueError("power is too large")
    x = range(start, start + 5)
    return lines_view(
        list(x), {f"p{power:g}": [float(v) ** power for v in x]}, x_label="x", y_label="y", title=f"Power {power:g}"
    )


def explorer(**options: Any) -> Explorer:
    return Explorer(
        "Powers",
        {"power": slider(2.0, 1.0, 9.0, step=0.5), "start": dropdown({"zero": 0, "five": 5}), "squared": checkbox()},
        line,
        **options,
    )


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    for panel in list(Panel._open.values()):
        panel.close()


def blobs(n: int, seed: int, classes: int = 3) -> list[tuple[torch.Tensor, int]]:
    g = torch.Generator().manual_seed(seed)
    centres = torch.eye(classes, 6) * 3
    return [(centres[i % classes] + torch.randn(6, generator=g), i % classes) for i in range(n)]


def own_task() -> Task:
    recipe = Recipe(epochs=3, batch_size=16, lr=1e-2)
    return Classification(
        name="blobs",
        train=blobs(96, 0),
        test=blobs(60, 1),
        class_names=("a", "b", "c"),
        teachers={"wide": ModelSpec(build=lambda: MLP((6,), (16,), 3), recipe=recipe)},
        students={
            "thin": ModelSpec(build=lambda: MLP((6,), (4,), 3), recipe=recipe),
            "thinner": ModelSpec(build=lambda: MLP((6,), (2,), 3), recipe=recipe),
        },
    )


@pytest.fixture
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))


# Controls -------------------------------------------------------------------------------------------------------------


def test_controls_come_from_knobs() -> None:
    real = control_for(Knob("temperature", 4.0, 1.0, 20.0, symbol="T", help="softens"))
    assert (real.kind, real.value, real.low, real.high, real.label, real.help) == (
        "slider",
        4.0,
        1.0,
        20.0,
        "temperature (T)",
        "softens",
    )
    assert not real.integer and isinstance(real.check(5), float)
    whole = control_for(Knob("warmup_epochs", 20, 0, 40))
    assert whole.integer and whole.step == 1 and whole.check(7.0) == 7 and isinstance(whole.check(7.0), int)
    assert control_for(Knob("rate", 0.1, 0.001, 10.0, log=True)).log
    assert control_for(Knob("weights", "teacher", choices=("teacher", "first"))).entries == {
        "teacher": "teacher",
        "first": "first",
    }
    assert control_for(Knob("flag", True)).kind == "checkbox"
    assert control_for(Knob("t", 9.0, 1.0, 4.0)).high == 9.0  # a default outside the explored range is still reachable
    with pytest.raises(ValueError, match="'free' has no range"):
        control_for(Knob("free", 1.0))


def test_every_knob_of_every_method_has_a_control_with_its_default() -> None:
    for name in list_objectives():
        for knob in objective_class(name).knobs:
            assert control_for(knob).value == knob.default, f"{name}.{knob.name}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slider(2.0, 3.0, 1.0), "low < high"),
        (lambda: slider(5.0, 0.0, 1.0), r"\[0, 1\], got 5"),
        (lambda: slider(0.5, 0.0, 1.0, log=True), "low > 0"),
        (lambda: slider(0.5, 0.0, 1.0, step=0.0), "step > 0"),
        (lambda: dropdown([]), "options"),
        (lambda: dropdown(["a"], "b"), "must be one of"),
        (lambda: Explorer("x", {}, line), "at least one control"),
        (lambda: explorer(static_at=[{"powr": 2.0}]), "Did you mean 'power'"),
        (lambda: explorer(static_at=[{"power": 99.0}]), r"power must be a number in \[1, 9\]"),
    ],
)
def test_bad_controls_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_slider_widget_stays_inside_its_bounds() -> None:
    widget = Slider(low=1.0, high=9.0, value=2.0)
    widget.value = 99.0
    assert widget.value == 9.0
    with pytest.raises(traitlets.TraitError, match="finite"):
        widget.value = float("nan")


# Explorer -------------------------------------------------------------------------------------------------------------


def test_widget_state_and_picture_follow_each_other() -> None:
    panel = explorer()
    assert panel.widget is panel.widget and panel.settle()
    assert "Power 2" in panel._box.text and panel.state.views[0].title == "Power 2"
    panel._inputs["power"].value = 3.5  # as the reader would
    assert panel.settle() and panel.state.values["power"] == 3.5 and "Power 3.5" in panel._box.text
    panel.set(power=4.0, start=5)  # as code would
    assert panel.settle() and panel._inputs["power"].value == 4.0 and panel._inputs["start"].value == 5
    assert "from 5 to 9" in panel.state.views[0].alt and panel.state.error is None and not panel.state.busy
    with pytest.raises(ValueError, match="no control 'powr'"):
        panel.set(powr=1.0)


def test_what_render_raises_is_shown_and_the_next_picture_is_fine() -> None:
    panel = explorer()
    assert panel.widget and panel.settle()
    panel.set(power=9.0)
    assert panel.settle() and isinstance(panel.state.error, ValueError)
    assert "power is too large" in panel._box.text and "<details" in panel._box.text and "Traceback" in panel._box.text
    panel.set(power=3.0)
    assert panel.settle() and panel.state.error is None and "Power 3" in panel._box.text
    wrong = Explorer("Wrong", {"x": slider(0.5, 0.0, 1.0)}, lambda x: "a string")
    assert wrong.widget and wrong.settle() and "must return a View" in str(wrong.state.error)


def test_newest_values_win() -> None:
    gate, drawn = threading.Event(), []

    def slow(x: float) -> View:
        drawn.append(x)
        gate.wait(10)
        return line(x)

    panel = Explorer("Slow", {"x": slider(1.0, 1.0, 8.0)}, slow)
    assert panel.widget
    deadline = time.monotonic() + 10
    while not drawn and time.monotonic() < deadline:
        time.sleep(0.005)
    for x in (2.0, 3.0, 4.0, 5.0):
        panel.set(x=x)
    assert not panel.settle(0.01)
    gate.set()
    assert panel.settle() and drawn == [1.0, 5.0] and panel.state.views[0].title == "Power 5"


def test_static_form_needs_no_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = explorer(static_at=[{}, {"power": 3.0, "start": 5}])
    assert [v.title for v in panel.static()] == ["Power 2", "Power 3"]
    monkeypatch.setenv("KDW_STATIC", "1")
    assert static_mode()
    bundle = panel._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and "widget" not in panel.__dict__
    assert bundle["text/html"].count("<figure") == 2 and bundle["text/html"].count("<style>") == 1
    monkeypatch.setenv("KDW_STATIC", "0")
    assert "application/vnd.jupyter.widget-view+json" in panel._repr_mimebundle_()
    with pytest.raises(ValueError, match="too large"):  # a static run must fail loudly
        explorer(static_at=[{"power": 9.0}]).static()


def test_running_a_cell_again_closes_the_first_panel() -> None:
    first = explorer()
    widget, box = first.widget, first._box
    second = explorer()
    other = explorer(name="another")
    assert first.closed and not second.closed and not other.closed
    assert widget.comm is None and box.comm is None
    with pytest.raises(RuntimeError, match="closed"):
        _ = explorer().close() or second.widget
    second.close()
    second.close()


def test_views_html_has_one_style() -> None:
    assert views_html([line(), line(3.0)]).count("<style>") == 1


def test_live_chart_says_its_numbers_and_sends_few_points() -> None:
    chart = LiveChart(title="Loss terms")
    n = 1000
    chart.show({"kd": (range(n), [float(i) for i in range(n)]), "ce": ([0, 1], [float("nan"), 2.5])}, points=100)
    assert chart.alt == (
        "Loss terms over step. kd: 1000 points, first 0, last 999; ce: 1 points, first 2.5, last 2.5, 1 not finite."
    )
    sent = {s["label"]: s for s in chart.series}
    assert len(sent["kd"]["x"]) <= 100 and sent["kd"]["x"][-1] == 999 and sent["ce"]["y"] == [2.5]
    chart.show({})
    assert "No points yet" in chart.alt


# Training -------------------------------------------------------------------------------------------------------------


def test_training_runs_and_widgets_tell_it(cache: None) -> None:
    panel = TrainPanel(own_task(), method="kd", epochs=3)
    assert panel.widget and panel._buttons["Resume"].disabled and not panel._buttons["Start"].disabled
    panel.start()
    assert panel.join(60)
    s = panel.state
    assert (s.job, s.error, s.epochs, s.steps, s.progress) == ("done", None, 3, 18, 1.0)
    assert "epoch 3 of 3" in s.message and "test accuracy" in s.message and "teacher" in s.message
    assert panel.job is not None and panel.job.observer_error is None
    assert panel.outcome is not None and panel.outcome.result is not None and len(panel.outcome.result.history) == 3
    assert "kd: 18 points" in panel._terms.alt
    assert "KD (this training): 3 points" in panel._metric.alt and "teacher: 2 points" in panel._metric.alt
    assert "Training finished" in panel._box.html and f"{panel.outcome.result.last_metric:.4f}" in panel._box.html
    assert "<progress" in panel._status.value and 'role="status">done' in panel._status.value
    assert not panel._buttons["Start"].disabled and panel._buttons["Stop"].disabled


def test_stop_and_resume_end_where_an_unbroken_run_ends(cache: None) -> None:
    whole = TrainPanel(own_task(), method="dist", epochs=8, name="whole")
    whole.start()
    assert whole.join(60)
    broken = TrainPanel(own_task(), method="dist", epochs=8, name="broken")
    halted = threading.Event()

    def halt(change: Any) -> None:
        if change["new"] >= 4 and not halted.is_set():
            halted.set()

    broken.state.observe(halt, "steps")
    real_start = broken.request

    def slow_request(folder: Any) -> Any:
        request = real_start(folder)
        request.options = {**request.options, "callbacks": (lambda event: time.sleep(0.01),)}
        return request

    broken.request = slow_request  # type: ignore[method-assign]
    broken.start()
    assert halted.wait(30)
    broken.stop()
    assert broken.join(30) and broken.state.job == "stopped" and 4 <= broken.state.steps < 48
    assert "stopped" in broken.state.message and broken.outcome is not None and broken.outcome.stopped
    broken.resume()
    assert broken.join(60) and broken.state.job == "done" and broken.state.steps == 48
    assert whole.outcome is not None and broken.outcome is not None
    for a, b in zip(whole.outcome.student.parameters(), broken.outcome.student.parameters(), strict=True):
        assert torch.equal(a, b)


def test_second_start_is_refused_and_choices_are_locked_meanwhile(cache: None) -> None:
    panel = TrainPanel(own_task(), epochs=400)
    assert panel.widget
    panel._pressed("Start")
    with pytest.raises(RuntimeError, match="a training is running"):
        panel.start()
    deadline = time.monotonic() + 30
    while panel.state.steps == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert panel._choices["method"].disabled
    assert panel._buttons["Start"].disabled and not panel._buttons["Stop"].disabled
    panel.close()
    assert panel.job is not None and panel.job.state == "stopped"
    with pytest.raises(RuntimeError, match="closed"):
        panel.start()


def test_choosing_fills_knobs_students_and_request(cache: None, tmp_path: Any) -> None:
    panel = TrainPanel(own_task(), method="kd", knobs={"temperature": 8.0}, seed=2)
    assert panel.widget and panel.state.epochs_wanted == 3 and panel._knob_inputs["temperature"].value == 8.0
    panel._knob_inputs["temperature"].value = 2.0
    panel._choices["student"].value = "thinner"
    panel._numbers["epochs_wanted"].value = 5
    request = panel.request(tmp_path)
    assert (request.student, request.teacher, request.epochs, request.seed, request.knobs["temperature"]) == (
        "thinner",
        "wide",
        5,
        2,
        2.0,
    )
    panel._choices["method"].value = "pld"
    assert panel.state.method == "pld"
    assert set(panel._knob_inputs) <= set(panel.state.knobs) and "kd_weight" not in panel.state.knobs
    panel._choices["task"].value = "digits"
    assert panel.state.task == "digits" and panel.state.student in panel.task.students
    assert panel._choices["student"].value == panel.state.student


def test_own_modules_are_offered_and_left_untouched(cache: None) -> None:
    torch.manual_seed(0)
    teacher, student = MLP((6,), (16,), 3), MLP((6,), (5,), 3)
    before = [p.clone() for p in student.parameters()]
    panel = TrainPanel(own_task(), teacher=teacher, student=student, epochs=2)
    assert panel.state.teacher == panel.state.student == "yours"
    panel.start()
    assert panel.join(60) and panel.state.error is None and panel.outcome is not None
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, panel.outcome.student.parameters(), strict=True))


def test_failure_is_told_with_its_reason(cache: None) -> None:
    panel = TrainPanel(own_task(), epochs=2, options={"optimizer": "no-such"})
    assert panel.widget
    panel.start()
    assert panel.join(30) and panel.state.job == "failed" and "no-such" in str(panel.state.error)
    assert "no-such" in panel._box.html and "traceback" in panel._box.html
    assert not panel._buttons["Start"].disabled and not panel._buttons["Resume"].disabled
    panel._pressed("Stop")  # nothing runs: no exception, the buttons stay right
    assert not panel._buttons["Start"].disabled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kdd"}, "kd"),
        ({"knobs": {"temp": 1.0}}, "temperature"),
        ({"student": "huge"}, "thin"),
        ({"epochs": 0}, "epochs must be >= 1"),
    ],
)
def test_wrong_choices_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainPanel(own_task(), **options)
    with pytest.raises(RuntimeError, match="no training"):
        TrainPanel(own_task()).stop()


def test_static_form_trains_once(cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDW_STATIC", "1")
    panel = TrainPanel(own_task(), method="kd", epochs=2)
    curves, standing = panel.static()
    assert "over 2 epochs" in curves.alt and "thin learns from wide by KD on blobs" in curves.title
    assert "teacher" in standing.alt and "KD (this training)" in standing.alt and len(standing.table) == 2
    outcome = panel.outcome
    assert "Accuracy of the student" in panel._repr_mimebundle_()["text/html"] and panel.outcome is outcome
    assert "widget" not in panel.__dict__


# Pair -----------------------------------------------------------------------------------------------------------------


def test_pair_panel_shows_before_and_after(cache: None) -> None:
    task = own_task()
    torch.manual_seed(1)
    teacher, before, after = MLP((6,), (16, 16), 3), MLP((6,), (8, 8), 3), MLP((6,), (8, 8), 3)
    panel = PairPanel(task, teacher, after, before, limit=40, labels=("untrained", "distilled"))
    titles = [v.title for v in panel.static()]
    assert (
        any("CKA" in t for t in titles)
        and any("ranking" in t for t in titles)
        and any("prediction" in t for t in titles)
    )
    assert panel.pair.logits["teacher"].shape == (40, 3) and set(panel.pair.maps) == {"before", "after"}
    kept = {k: v.clone() for k, v in after.state_dict().items()}
    with torch.no_grad():
        next(after.parameters()).zero_()
    assert torch.equal(
        next(panel.pair.after.parameters()), next(iter(kept.values()))
    )  # a copy: later training changes nothing
    alone = PairPanel(task, teacher, before, name="alone", limit=40)
    assert "before" not in alone.pair.maps and alone.static()
    panel.set(picture="sample", sample=7, temperature=2.0)
    assert panel.settle() and panel.state.error is None and "temperature 2" in panel.state.views[0].title
    asked = {p: [n for n, c in panel.controls.items() if c.shown({"picture": p})] for p in ("cka", "sample")}
    assert asked == {"cka": ["picture"], "sample": ["picture", "sample", "temperature"]}  # the others are ignored
    with pytest.raises(ValueError, match="limit"):
        PairPanel(task, teacher, after, limit=2)
