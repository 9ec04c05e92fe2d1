"""TrainPanel: choose task, teacher, student and method; train in the background with live curves; stop and resume."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ipywidgets as w
import traitlets as t
from torch import nn

from kdcore.distiller import Distiller, DistillResult, Epoch, Step
from kdcore.functional.checks import check_choice
from kdcore.html import facts, tag
from kdcore.registry import create_method, list_objectives, objective_class
from kdcore.tasks import Classification, Recipe, list_tasks, load_task, task_info
from workbench.jobs import Job, Note, Snapshot
from workbench.scratch import Scratch
from workbench.views.base import View
from workbench.views.comparison import lines_view
from workbench.views.curves import training_curves_view

from .base import Panel
from .explorer import Control, control_for, slider
from .own_data import FolderForm
from .widgets import LiveChart, ViewBox, error_html

#: Name of a network that was handed over as a module.
OWN = "yours"
#: So many trainings of a panel are kept for comparison.
KEPT = 6


@dataclass(frozen=True)
class TeacherScore:
    """Event: how good the teacher is on the data the student is measured on."""

    metric: str
    value: float


@dataclass(kw_only=True)
class Outcome:
    """What a training in the panel gave.

    Attributes:
        request: what was asked for, task and method included.
        result: of the loop; ``None`` if it was stopped before it began. teacher, student: both networks, then ``None``.
        stopped: ended before the last epoch.
    """

    request: TrainRequest
    result: DistillResult | None
    teacher: nn.Module | None
    student: nn.Module | None
    stopped: bool

    @property
    def trained(self) -> bool:
        """Whether at least one epoch was finished."""
        return self.result is not None and bool(self.result.history)

    def untrained(self) -> nn.Module:
        """The student as it was before the first step, in eval mode."""
        return self.request.make_student().eval()


@dataclass(kw_only=True)
class TrainRequest:
    """Everything one training needs; knows nothing of the panel."""

    task: Classification
    teacher: str | nn.Module
    student: str | nn.Module
    method: str
    knobs: dict[str, Any]
    epochs: int
    seed: int
    split: str
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The task's recipe for this student (for a module of your own: the first student's)."""
        return self.task.recipe(self.student if isinstance(self.student, str) else None)

    @property
    def label(self) -> str:
        """The method as people call it."""
        return objective_class(self.method).label

    @property
    def total_steps(self) -> int:
        """About how many optimizer steps there will be."""
        return self.epochs * max(1, math.ceil(len(self.task.train) / self.recipe.batch_size))

    def make_teacher(self, progress: Callable[..., None]) -> nn.Module:
        """The teacher, trained first where the task has none yet."""
        if isinstance(self.teacher, nn.Module):
            return self.teacher
        return self.task.teacher(self.teacher, progress=progress)

    def make_student(self) -> nn.Module:
        """A fresh student; a module of your own is copied."""
        if isinstance(self.student, nn.Module):
            return copy.deepcopy(self.student)
        return self.task.student(self.student, seed=self.seed)

    def work(self, stop: threading.Event, resume: bool) -> Training:
        """The work of a job."""
        return Training(self, stop, resume)


class _Abandoned(Exception):
    """Stop was pressed while the reference teacher was being trained."""


class Training:
    """From a request to events: prepares the teacher, then drains the distiller."""

    def __init__(self, request: TrainRequest, stop: threading.Event, resume: bool) -> None:
        self.request, self.stop, self.resume = request, stop, resume
        self.outcome = Outcome(request=request, result=None, teacher=None, student=None, stopped=True)

    def run(self) -> Iterator[Any]:
        r = self.request
        yield Note("preparing the teacher (a reference teacher is trained once, then kept)")
        try:
            teacher = r.make_teacher(self._progress)
        except _Abandoned:
            return
        yield TeacherScore(r.task.metric, r.task.evaluate(teacher, r.split)[r.task.metric])
        student, recipe = r.make_student(), r.recipe
        options = {**recipe.training(), **r.options, "epochs": r.epochs}
        distiller = Distiller(
            teacher,
            student,
            create_method(r.method, **r.knobs),
            r.task.loader("train", batch_size=recipe.batch_size, seed=r.seed),
            r.task.loader(r.split, batch_size=512),
            seed=r.seed,
            metric=r.task.metrics(),
            loss=r.task.loss,
            readout=r.task.readout,
            checkpoint_dir=r.folder,
            resume="auto" if self.resume else False,
            stop=self.stop,
            **options,
        )
        yield from distiller.run()
        result = distiller.result()
        self.outcome = Outcome(
            request=r, result=result, teacher=teacher, student=result.student, stopped=result.stopped
        )

    def result(self) -> Outcome:
        return self.outcome

    def _progress(self, *_: Any) -> None:
        if self.stop.is_set():
            raise _Abandoned


def news(events: tuple[Any, ...]) -> tuple[dict[int, Step], dict[int, Epoch], str, TeacherScore | None]:
    """Steps and epochs by number (a resumed run repeats none twice), the last note, the teacher's score."""
    steps, epochs, note, score = {}, {}, "", None
    for event in events:
        if isinstance(event, Step):
            steps[event.step] = event
        elif isinstance(event, Epoch):
            epochs[event.epoch] = event
        elif isinstance(event, TeacherScore):
            score = event
        elif isinstance(event, Note):
            note = event.text
    return steps, epochs, note, score


class TrainState(t.HasTraits):
    """Choices (set by people or code) and what the training says.

    ``outcome`` is the last :class:`Outcome`; ``job`` one of the job's states; ``message`` the state in words; ``error``
    or ``None``; ``steps`` and ``epochs`` count what has been done.
    """

    task, teacher, student, method = t.Unicode(), t.Unicode(), t.Unicode(), t.Unicode()
    knobs = t.Dict()
    epochs_wanted, seed = t.Int(10), t.Int(0)
    job, message = t.Unicode("idle"), t.Unicode("ready")
    steps, epochs = t.Int(0), t.Int(0)
    progress = t.Float(0.0)
    error, outcome = t.Any(None, allow_none=True), t.Any(None, allow_none=True)


class TrainPanel(Panel):
    """Distil a student with live curves.

    Args:
        task: name of a task, or a :class:`kdcore.tasks.Classification` of your own.
        teacher, student: names the task knows (default: its first), or modules of your own; a student module is copied
            at every start, so that each training begins where it was handed over.
        method: objective to start with; all are offered.
        knobs: hyper-parameters of ``method`` that differ from the paper's.
        epochs: epochs to train (default: the task's recipe); seed: of the student's weights and the data order.
        options: further arguments of :class:`kdcore.distiller.Distiller` (``lr``, ``precision``, ...).
        name: key among the open panels.

    After a training ``panel.outcome`` holds the networks and the result, ``panel.outcomes`` those of all trainings so
    far; their curves stay in the chart. Images of your own can be loaded in the panel. The static form trains in the
    foreground.

    Raises:
        ValueError: unknown task, network, method or knob.
    """

    state: TrainState

    def __init__(
        self,
        task: str | Classification = "digits",
        *,
        teacher: str | nn.Module | None = None,
        student: str | nn.Module | None = None,
        method: str = "kd",
        knobs: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        name: str = "train",
    ) -> None:
        check_choice("method", method, list_objectives())
        create_method(method, **(knobs or {}))
        super().__init__(name)
        self.options = dict(options or {})
        self._own = {role: m for role, m in (("teacher", teacher), ("student", student)) if isinstance(m, nn.Module)}
        self._lock = threading.Lock()
        self._tasks: dict[str, Classification] = {}
        if isinstance(task, Classification):
            self._tasks[task.name] = task
        self.state = TrainState(seed=seed)
        self._set_task(task.name if isinstance(task, Classification) else task, teacher, student)
        self.state.method, self.state.knobs = method, create_method(method, **(knobs or {})).settings
        self.state.epochs_wanted = epochs if epochs is not None else self._recipe_epochs()
        if self.state.epochs_wanted < 1:
            raise ValueError(f"epochs must be >= 1, got {epochs!r}.")
        self._epochs_follow = epochs is None  # the recipe of the chosen student, until somebody sets them
        self.outcomes: list[Outcome] = []
        self._folders: list[Scratch] = []
        self._job: Job | None = None
        self._live = self._quiet = False

    # What is chosen ---------------------------------------------------------------------------------------------------
    @property
    def task(self) -> Classification:
        """The chosen task (its data is read once)."""
        return self._task(self.state.task)

    @property
    def outcome(self) -> Outcome | None:
        """The last training's outcome, ``None`` before."""
        return self.state.outcome

    @property
    def job(self) -> Job | None:
        """The last training's job."""
        return self._job

    def _task(self, name: str) -> Classification:
        if name not in self._tasks:
            self._tasks[name] = load_task(name)
        return self._tasks[name]

    def use(self, task: Classification) -> None:
        """Offer a task of your own, and choose it with its first teacher and student.

        Raises:
            RuntimeError: a training is running.
        """
        if self._job is not None and self._job.state in ("running", "stopping"):
            raise RuntimeError(f"a training is {self._job.state}: stop it before choosing another task.")
        self._tasks[task.name] = task
        if not self._live:
            self._set_task(task.name)
            return
        self._offer("task", self._offered(), task.name)
        self._chosen("task", task.name)

    def _offered(self) -> list[str]:
        """Tasks that need no further options, and those that were handed over."""
        known = (n for n in list_tasks() if task_info(n).classifies and not task_info(n).required)
        return sorted({*known, *self._tasks})

    def _names(self, role: str, task: Classification) -> list[str]:
        own = [OWN] if role in self._own else []
        return own + list(task.teachers if role == "teacher" else task.students)

    def _set_task(
        self, name: str, teacher: str | nn.Module | None = None, student: str | nn.Module | None = None
    ) -> None:
        task = self._task(name)
        chosen = {}
        for role, given in (("teacher", teacher), ("student", student)):
            names = self._names(role, task)
            chosen[role] = given if isinstance(given, str) else names[0]
            check_choice(role, chosen[role], names)
        self.state.task, self.state.teacher, self.state.student = name, chosen["teacher"], chosen["student"]

    def _recipe_epochs(self) -> int:
        return self.task.recipe(None if self.state.student == OWN else self.state.student).epochs

    def _split(self) -> str:
        return "val" if "val" in self.task.splits else "test"

    def request(self, folder: str | Path) -> TrainRequest:
        """The training as it is chosen now, with checkpoints in ``folder``."""
        s = self.state
        return TrainRequest(
            task=self.task,
            teacher=self._own["teacher"] if s.teacher == OWN else s.teacher,
            student=self._own["student"] if s.student == OWN else s.student,
            method=s.method,
            knobs=dict(s.knobs),
            epochs=s.epochs_wanted,
            seed=s.seed,
            split=self._split(),
            folder=Path(folder),
            options=self.options,
        )

    # What the buttons do ----------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin a new training with the chosen settings.

        Raises:
            RuntimeError: one is running (a second start is refused), or the panel is closed.
        """
        with self._lock:
            if self.closed:
                raise RuntimeError(f"the panel {self.name!r} is closed: run its cell again.")
            if self._job is not None and self._job.state in ("running", "stopping"):
                raise RuntimeError(f"a training is {self._job.state}: stop it before starting another.")
            folder = Scratch("train")
            self._folders.append(folder)
            self._request = self.request(folder.name)
            self.state.error = self.state.outcome = None
            job = Job(self._request.work)
            self._job = job
            job.observe(lambda change: self._show(change["new"]), "snapshot")
            job.start()

    def stop(self) -> None:
        """Stop after the current batch; a checkpoint is left from which :meth:`resume` goes on."""
        if self._job is None:
            raise RuntimeError("no training was started.")
        self._job.stop()

    def resume(self) -> None:
        """Go on after a stop or a failure, as if there had been none."""
        with self._lock:
            if self._job is None:
                raise RuntimeError("no training was started.")
            self.state.error = None
            self._job.resume()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the training; ``False`` when ``timeout`` seconds were not enough."""
        return self._job is None or self._job.join(timeout)

    def _stop(self) -> None:
        if self._job is not None:
            self._job.close()
            self._job.join(10.0)
        for folder in self._folders:
            folder.cleanup()

    # What is shown ----------------------------------------------------------------------------------------------------
    def _show(self, snapshot: Snapshot) -> None:
        """The newest news to traits and widgets; runs in the job's telling thread."""
        steps, epochs, note, score = news(snapshot.events)
        s, r = self.state, self._request
        done = max(steps, default=0)
        if snapshot.state in ("stopped", "done") and self._job is not None:
            self._keep(self._job.result())
        with s.hold_trait_notifications():
            s.steps, s.epochs, s.error = len(steps), len(epochs), snapshot.error
            s.progress = 1.0 if snapshot.state == "done" else min(1.0, done / r.total_steps)
            s.message = words(snapshot, steps, epochs, note, score, r)
            s.job = snapshot.state
        if self._live and not self.closed:
            self._paint(snapshot, steps, epochs, score)

    def _keep(self, outcome: Outcome) -> None:
        """Remember an outcome; a resumed training replaces what it left when it was stopped."""
        kept = [o for o in self.outcomes if o.request is not outcome.request]
        self.outcomes = [*kept, outcome][-KEPT:] if outcome.trained else kept
        self.state.outcome = outcome

    def _paint(
        self, snapshot: Snapshot, steps: Mapping[int, Step], epochs: Mapping[int, Epoch], score: TeacherScore | None
    ) -> None:
        self._terms.show(term_lines(steps))
        self._metric.show(metric_lines(epochs, self._request, score, self.outcomes))
        self._status.value = self._status_html()
        self._enable(snapshot.state)
        if snapshot.error is not None:
            self._box.html = error_html(snapshot.error, snapshot.trace)
        elif snapshot.state in ("done", "stopped"):
            self._box.html = outcome_html(self._request, self.state.outcome, score)
        else:
            self._box.html = ""

    def _status_html(self) -> str:
        s = self.state
        bar = tag(
            "progress",
            aria_label="training progress",
            max=1,
            value=f"{s.progress:.3f}",
            style="width:24em;max-width:100%",
        )
        said = f": {s.message.partition(': ')[2] or s.message}"
        shown = (tag("b", s.job, role="status"), said, tag("br"), bar, f" {100 * s.progress:.0f} %")
        return tag("div", *shown, class_="kd-status")

    def static(self) -> list[View]:
        """Train in the foreground (unless it was done already) and show the curves and the end."""
        outcome = self.outcome
        if outcome is None or outcome.result is None or not outcome.result.history:
            with Scratch("train") as folder:
                self._request = self.request(folder)
                training = self._request.work(threading.Event(), False)
                for _ in training.run():
                    pass
                outcome = training.result()
                self._keep(outcome)
        assert outcome.result is not None
        r, history = outcome.request, {e.epoch: e for e in outcome.result.history}
        score = (
            None
            if outcome.teacher is None
            else TeacherScore(r.task.metric, r.task.evaluate(outcome.teacher, r.split)[r.task.metric])
        )
        named = {
            role: given if isinstance(given, str) else type(given).__name__
            for role, given in (("teacher", r.teacher), ("student", r.student))
        }
        return [
            training_curves_view(
                {r.label: outcome.result.history},
                metrics=[],
                title=f"{named['student']} learns from {named['teacher']} by {r.label} on {r.task.name}: loss",
            ),
            metric_view(metric_lines(history, r, score, self.outcomes), r),
        ]

    # Widgets ----------------------------------------------------------------------------------------------------------
    def _build(self) -> Any:
        s = self.state
        self._choices = {
            "task": _choice("task", self._offered(), s.task),
            "teacher": _choice("teacher", self._names("teacher", self.task), s.teacher),
            "student": _choice("student", self._names("student", self.task), s.student),
            "method": _choice("method", {objective_class(n).label: n for n in list_objectives()}, s.method),
        }
        for role, widget in self._choices.items():
            widget.observe(lambda change, role=role: self._chosen(role, change["new"]), "value")
        self._numbers = {
            "epochs_wanted": slider(s.epochs_wanted, 1, max(100, s.epochs_wanted), label="epochs").widget("epochs"),
            "seed": slider(s.seed, 0, max(20, s.seed), label="seed").widget("seed"),
        }
        for role, widget in self._numbers.items():
            widget.observe(lambda change, role=role: self._counted(role, int(change["new"])), "value")
        self._knob_box = w.VBox()
        self._fill_knobs()
        self._buttons = {
            n: w.Button(description=n, tooltip=tip, layout=w.Layout(width="auto"))
            for n, tip in (
                ("Start", "train with the settings above"),
                ("Stop", "stop after the current batch"),
                ("Resume", "go on where it stopped"),
            )
        }
        for n, button in self._buttons.items():
            button.add_class(f"kd-{n.lower()}")
            button.on_click(lambda _, n=n: self._pressed(n))
        self._status, self._box, self._form = w.HTML(), ViewBox(), FolderForm(self.use)
        self._status.add_class("kd-status-line")
        self._terms, self._metric = LiveChart(title="Loss terms"), LiveChart(title=self.task.metric, x_label="epoch")
        self._live = True
        self._status.value = self._status_html()
        self._enable(s.job)
        wrap = w.Layout(flex_flow="row wrap", max_width="100%", grid_gap="4px 14px")
        tree = w.VBox(
            [
                w.HBox(list(self._choices.values()), layout=wrap),
                self._form.widget,
                *self._numbers.values(),
                self._knob_box,
                w.HBox(list(self._buttons.values()), layout=wrap),
                self._status,
                w.HBox([self._terms, self._metric], layout=wrap),
                self._box,
            ],
            layout=w.Layout(max_width="100%"),
        )
        tree.add_class("kd-train")
        return tree

    def _offer(self, role: str, options: Sequence[str], value: str) -> None:
        """Fill a dropdown without taking it for a choice of the reader (new options put it on the first one)."""
        self._quiet = True
        try:
            self._choices[role].options, self._choices[role].value = options, value
        finally:
            self._quiet = False

    def _fill_knobs(self) -> None:
        """Controls for the chosen method's knobs, from its card."""
        self._knob_inputs = {}
        for knob in objective_class(self.state.method).knobs:
            control = _knob_control(knob)
            if control is None:
                continue
            widget = control.widget(knob.name)
            widget.value = self.state.knobs[knob.name]
            widget.observe(lambda change, knob=knob: self._turned(knob, change["new"]), "value")
            self._knob_inputs[knob.name] = widget
        self._knob_box.children = list(self._knob_inputs.values())

    def _counted(self, role: str, value: int) -> None:
        if role == "epochs_wanted" and value != self.state.epochs_wanted:
            self._epochs_follow = False
        setattr(self.state, role, value)

    def _follow_recipe(self) -> None:
        """Epochs of the chosen student's recipe, unless they were set."""
        if self._epochs_follow:
            self.state.epochs_wanted = self._recipe_epochs()
            self._numbers["epochs_wanted"].value = self.state.epochs_wanted

    def _turned(self, knob: Any, value: Any) -> None:
        self.state.knobs = {**self.state.knobs, knob.name: knob.check(value)}

    def _chosen(self, role: str, value: str) -> None:
        if self._quiet:
            return
        if role == "task":
            try:
                self._set_task(value)
            except Exception as error:  # a data folder that is missing, say; shown where the choice was made
                self.state.error = error
                self._box.html = error_html(error, "")
                self._offer("task", self._offered(), self.state.task)
                return
            self._box.html, self.state.error = "", None
            for other in ("teacher", "student"):
                self._offer(other, self._names(other, self.task), getattr(self.state, other))
            self._metric.title = self.task.metric
        else:
            setattr(self.state, role, value)
        if role == "method":
            self.state.knobs = create_method(value).settings
            self._fill_knobs()
        elif role != "teacher":
            self._follow_recipe()

    def _pressed(self, name: str) -> None:
        for button in self._buttons.values():
            button.disabled = True
        if name == "Stop" and self._job is not None and self._job.state in ("stopped", "failed", "done"):
            self._enable(self._job.state)  # it ended between the picture and the click
            return
        try:
            {"Start": self.start, "Stop": self.stop, "Resume": self.resume}[name]()
        except RuntimeError as error:  # refused: the reason belongs in the panel
            self.state.error = error
            self._box.html = error_html(error, "")
            self._enable(self._job.state if self._job is not None else "idle")

    def _enable(self, state: str) -> None:
        self._buttons["Start"].disabled = state in ("running", "stopping")
        self._buttons["Stop"].disabled = state != "running"
        self._buttons["Resume"].disabled = state not in ("stopped", "failed")
        self._form.enable(state not in ("running", "stopping"))
        for widget in (*self._choices.values(), *self._numbers.values(), *self._knob_inputs.values()):
            widget.disabled = state in ("running", "stopping")


def _choice(label: str, options: Any, value: str) -> Any:
    return Control(kind="dropdown", options=options, value=value, label=label).widget(label)


def _knob_control(knob: Any) -> Control | None:
    """The knob's control, or ``None`` where the card gives no range to offer (it keeps its value)."""
    try:
        return control_for(knob)
    except ValueError:
        return None


def term_lines(steps: Mapping[int, Step]) -> dict[str, tuple[list[float], list[float]]]:
    """Chart lines of the loss terms over steps."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for number, step in sorted(steps.items()):
        for name, value in step.terms.items():
            x, y = lines.setdefault(name, ([], []))
            x.append(number)
            y.append(value)
    return lines


def metric_lines(
    epochs: Mapping[int, Epoch], request: TrainRequest, score: TeacherScore | None, earlier: Sequence[Outcome] = ()
) -> dict[str, tuple[list[float], list[float]]]:
    """Chart lines of the metric over finished epochs (counted from 1): the running training, the teacher's level, and
    earlier trainings on the same task."""
    lines = {f"{request.label} (this training)": _metric_line(epochs.values(), request.task.metric)}
    if score is not None and epochs:
        ends = sorted({1.0, max(epochs) + 1.0})
        lines["teacher"] = (ends, [score.value] * len(ends))
    for number, outcome in enumerate(earlier, 1):
        if outcome.request is not request and outcome.request.task is request.task and outcome.result is not None:
            lines[f"{outcome.request.label} (training {number})"] = _metric_line(
                outcome.result.history, request.task.metric
            )
    return {label: line for label, line in lines.items() if line[0]}


def metric_view(lines: Mapping[str, tuple[list[float], list[float]]], request: TrainRequest) -> View:
    """The chart of :func:`metric_lines` as a picture; the teacher's line spans all epochs."""
    last = int(max(x[-1] for x, _ in lines.values()))
    epochs = range(1, last + 1)
    drawn = {
        label: [y[0]] * last if label == "teacher" else [dict(zip(x, y, strict=True)).get(e, math.nan) for e in epochs]
        for label, (x, y) in lines.items()
    }
    metric = request.task.metric
    return lines_view(
        epochs,
        drawn,
        x_label="epoch",
        y_label=f"{request.split} {metric}",
        title=f"{metric[:1].upper()}{metric[1:]} of the student, and the teacher's",
    )


def _metric_line(epochs: Iterable[Epoch], metric: str) -> tuple[list[float], list[float]]:
    measured = sorted((e.epoch + 1.0, e.metrics[metric]) for e in epochs if metric in e.metrics)
    return [x for x, _ in measured], [y for _, y in measured]


def words(
    snapshot: Snapshot,
    steps: Mapping[int, Step],
    epochs: Mapping[int, Epoch],
    note: str,
    score: TeacherScore | None,
    request: TrainRequest,
) -> str:
    """The state in a sentence, numbers included."""
    state = snapshot.state
    if state == "failed":
        return f"failed: {type(snapshot.error).__name__}; the last checkpoint is kept, Resume goes on from it"
    if not steps:
        return f"{state}: {note}" if note else state
    last = steps[max(steps)]
    told = (
        f"step {last.step}, epoch {min(len(epochs) + 1, request.epochs)} of {request.epochs}, "
        f"{last.samples_per_second:.0f} samples/s"
    )
    if epochs:
        metric = request.task.metric
        told += f", {request.split} {metric} {epochs[max(epochs)].metrics.get(metric, math.nan):.3f}"
    if score is not None:
        told += f" (teacher {score.value:.3f})"
    return f"{state}: {told}, {snapshot.seconds:.1f} s"


def outcome_html(request: TrainRequest, outcome: Outcome | None, score: TeacherScore | None) -> str:
    """The final table."""
    if outcome is None or outcome.result is None:
        return "<p>Stopped before the first step.</p>"
    result = outcome.result

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    rows = [
        ("method", request.label),
        (f"{request.split} {request.task.metric}, teacher", shown(score.value if score else None)),
        (f"{request.split} {request.task.metric}, student, last epoch", shown(result.last_metric)),
        (
            f"{request.split} {request.task.metric}, student, best epoch",
            shown(result.best_metric) + (f" (epoch {result.best_epoch + 1})" if result.best_epoch is not None else ""),
        ),
        ("epochs done", f"{len(result.history)} of {request.epochs}"),
        ("steps", str(result.steps)),
        ("seconds", f"{result.seconds:.1f}"),
        ("samples the teacher was run on", str(result.teacher_forwards)),
    ]
    state = f"stopped; Resume goes on with {request.label}, Start begins anew" if outcome.stopped else "finished"
    caption = tag("span", f"Training {state}", style="white-space:nowrap")
    return facts(rows, caption=caption, left=False, class_="kd-outcome")


__all__ = ["OWN", "Outcome", "TeacherScore", "TrainPanel", "TrainRequest", "Training"]
