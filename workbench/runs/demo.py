"""``kdw demo``: one student, one teacher, five objectives, three seeds, the lessons, and a report of all of it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kdcore.html import details, items, join, tag

from .environment import device_name, git_commit, versions
from .execute import Job, new_run_folder, new_run_id, run_many
from .files import find_notebooks, notebook_key, plain, project_root, sha256, slug_of, text_table, write_json
from .progress import Tasks
from .records import SCHEMA
from .store import Failure, RunRecord, owner

if TYPE_CHECKING:
    from kdcore.experiment import Arm, Comparison

#: Start page and lessons that the demo executes and links.
LESSONS = ("00_start_here", "foundations/vanilla_kd", "foundations/cka", "ranking/pld")
BASELINE = "CE"
#: 200 labelled digits, a student of 16 hidden units: where labels are few, the teacher has something to add.
TASK, TASK_OPTIONS, STUDENT = "digits", {"train_size": 200}, "mlp-16"
TRAINING: dict[str, Any] = {"batch_size": 32, "lr": 5e-3}


def arms() -> list[Arm]:
    """The demo's arms: the baselines of every lesson, and PLD; knobs that are not given are the papers' own."""
    from kdcore.experiment import Arm
    from kdcore.studies.vanilla_kd import logit_baselines

    return [*logit_baselines(), Arm("PLD", "pld", {"temperature": 4.0})]


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind."""

    folder: Path
    report: Path
    comparison: Comparison
    lessons: tuple[RunRecord, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(run.ok for run in self.lessons)

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        table = self.comparison.table(BASELINE).reset_index()
        return {
            "report": str(self.report), "seconds": round(self.seconds, 1), "ok": self.ok,
            "seeds": self.comparison.seeds,
            "table": plain(table.to_dict("records")), "lessons": [run.to_dict() for run in self.lessons],
        }  # fmt: skip

    def text(self) -> str:
        """Comparison table and how to go on, for the terminal."""
        rows = [
            (
                str(arm), f"{100 * r['mean']:.1f} %", _interval(r["low"], r["high"]),
                "" if arm == BASELINE else f"{100 * r['difference']:+.1f}",
                "" if arm == BASELINE else _interval(r["diff_low"], r["diff_high"]), f"{r['n']:.0f}",
            )
            for arm, r in self.comparison.table(BASELINE).iterrows()
        ]  # fmt: skip
        header = ("method", "test accuracy", "95 % interval", f"to {BASELINE}, points", "95 % interval", "seeds")
        lessons = ", ".join(f"{run.notebook} {run.status}" for run in self.lessons) or "not executed"
        return (
            f"\n{text_table(rows, header)}\n\nlessons: {lessons}\nfinished in {self.seconds:.0f} s\n\n"
            f"report:  {self.report}  (open it in any browser; it needs no network)\nlab:     kdw lab  (or: make lab)"
        )


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"


def run_demo(
    *,
    runs_dir: str | Path = "runs",
    run_id: str | None = None,
    seeds: int = 3,
    epochs: int = 60,
    lessons: bool = True,
    workers: int = 2,
    bars: Tasks,
) -> DemoResult:
    """Distil, execute the lessons, write ``report.html``.

    Args:
        runs_dir: where the demo's folder goes.
        run_id: its name; default the time.
        seeds: splits of the data, each with a teacher of its own (trained once, then read from the cache).
        epochs: per student.
        lessons: execute the start page and the lessons too.
        workers: notebooks at once.
        bars: where progress is shown.

    Returns:
        The result; a lesson that fails is in ``lessons`` and in the report.
    """
    import torch

    from kdcore.experiment import compare
    from kdcore.tasks import load_task

    root, started = project_root(), time.time()
    info = {
        "schema": SCHEMA, "id": run_id or new_run_id("demo"), "status": "running", "notebook": "demo",
        "started": started, **owner(),
        "parameters": {"task": TASK, **TASK_OPTIONS, "student": STUDENT, "epochs": epochs, "seeds": seeds, **TRAINING},
        "versions": versions(), "git": git_commit(root), "source_sha256": sha256(Path(__file__).read_bytes()),
    }  # fmt: skip
    folder = new_run_folder(Path(runs_dir), info)
    status, failure = "failed", None
    try:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        comparison = compare(
            lambda seed: load_task(TASK, seed=seed, **TASK_OPTIONS), arms(), seeds=seeds, student=STUDENT,
            epochs=epochs, progress=bars.report("distil"), **TRAINING,
        )  # fmt: skip
        comparison.rows.to_csv(folder / "comparison.csv", index=False)
        executed = _run_lessons(root, folder, workers, bars) if lessons else ()
        report = _write_report(folder, comparison, executed, info)
        status = "done"
    except BaseException as error:
        failure = Failure(None, type(error).__name__, str(error)[-2000:])
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        seconds = time.time() - started
        write_json(
            folder / "run.json",
            info | {"status": status, "finished": started + seconds, "seconds": round(seconds, 3),
                    "failure": vars(failure) if failure else None},
        )  # fmt: skip
    return DemoResult(folder, report, comparison, tuple(executed), seconds)


def _run_lessons(root: Path, folder: Path, workers: int, bars: Tasks) -> Sequence[RunRecord]:
    by_key = {notebook_key(p, root): p for p in find_notebooks(root)}
    absent = [key for key in LESSONS if key not in by_key]
    if absent:
        raise FileNotFoundError(f"these notebooks of the demo are not in {root / 'notebooks'}: {', '.join(absent)}.")
    jobs = [Job(by_key[key], run_id=slug_of(key)) for key in LESSONS]
    return run_many(jobs, workers=workers, runs_dir=folder / "lessons", progress=bars.report("lessons"))


# ---------------------------------------------------------------------------------------------- the report


def _write_report(folder: Path, comparison: Comparison, executed: Sequence[RunRecord], info: dict[str, Any]) -> Path:
    from ..report import Report

    seeds = len(comparison.seeds)
    report = Report(
        "One student, five ways to teach it",
        "A small network learns to read handwritten digits from 200 labelled images: from the labels alone (CE), and "
        "from a teacher by knowledge distillation (KD), decoupled distillation (DKD), correlations (DIST) and ranking "
        f"(PLD). {seeds} seeds each; within a seed all methods share the split, the teacher, the initial weights and "
        "the order of the images.",
    )
    report.add("Comparison", *_comparison_blocks(comparison))
    report.add("Training", *_curve_blocks(comparison))
    report.add("Inside the networks", *_cka_blocks(comparison))
    report.add("Rankings", *_ranking_blocks(comparison))
    if executed:
        report.add("Lessons", *_lesson_blocks(folder, executed))
    report.add("How this was made", *_provenance_blocks(info, comparison))
    return report.write(folder / "report.html")


def _comparison_blocks(comparison: Comparison) -> list[Any]:
    from kdcore.registry import objective_class

    from ..report import table_html
    from ..views.comparison import comparison_view

    table = comparison.table(BASELINE).reset_index()
    shown = table.assign(**{c: 100 * table[c] for c in table.columns if c not in ("arm", "n", "p")})
    names = {
        "arm": "method", "mean": "accuracy, %", "std": "std", "n": "seeds", "low": "low", "high": "high",
        "difference": f"to {BASELINE}, points", "diff_low": "low ", "diff_high": "high ", "p": "p",
    }  # fmt: skip
    formats = dict.fromkeys(names.values(), ".2f") | {"p": ".3f"}
    caption = (
        f"Test accuracy of the last epoch, {len(comparison.seeds)} seeds; 95 % intervals of the mean and of the paired "
        f"difference to {BASELINE} (Student's t)"
    )
    knobs = items(
        join(
            (
                tag("b", arm.label),
                f": {objective_class(str(arm.method)).card.title}; ",
                tag("code", repr(arm.objective())),
            )
        )
        for arm in arms()
    )
    return [
        comparison_view(comparison, baseline=BASELINE, title="Test accuracy by method"),
        table_html(shown[list(names)].rename(columns=names), caption, formats=formats),
        _reading(table),
        details("the methods and their settings", knobs),
    ]


def _reading(table: Any) -> str:
    """What the table says, and what it does not."""
    others = table[table["arm"] != BASELINE]
    better = [r.arm for r in others.itertuples() if r.diff_low > 0]
    worse = [r.arm for r in others.itertuples() if r.diff_high < 0]
    open_ = [r.arm for r in others.itertuples() if r.arm not in better and r.arm not in worse]
    parts = [
        f"{' and '.join(better)} beat{'s' if len(better) == 1 else ''} {BASELINE} beyond the spread of the seeds"
        if better
        else "",
        f"{' and '.join(worse)} stay{'s' if len(worse) == 1 else ''} below it" if worse else "",
        f"for {', '.join(open_)} the interval of the difference includes zero" if open_ else "",
    ]
    text = "; ".join(p for p in parts if p)
    return tag(
        "p",
        f"{text[:1].upper()}{text[1:]}. The intervals are not corrected for the number of methods, and describe this "
        "task and this student only.",
    )


def _curve_blocks(comparison: Comparison) -> list[Any]:
    from ..views.curves import training_curves_view

    return [training_curves_view(comparison.histories)]


def _first(comparison: Comparison) -> tuple[Any, Any, Any, Any]:
    """Task, teacher, student before and student after (PLD), of the first seed."""
    seed = comparison.seeds[0]
    task = comparison.tasks[seed]
    return task, comparison.teachers[seed], task.student(STUDENT, seed=seed).eval(), comparison.students["PLD", seed]


def _cka_blocks(comparison: Comparison) -> list[Any]:
    from kdcore.cka_maps import cka_map

    from ..views.cka import cka_compare_view

    task, teacher, before, after = _first(comparison)
    loader = task.loader("test", batch_size=128, shuffle=False)
    maps = [cka_map(s, teacher, loader, layers_x=_leaves(s), layers_y=_leaves(teacher)) for s in (before, after)]
    view = cka_compare_view(
        maps[0].matrix, maps[1].matrix, maps[1].layers_x, maps[1].layers_y,
        title="CKA of student and teacher, before and after PLD",
    )  # fmt: skip
    words = (
        "Centred kernel alignment (CKA) compares what two layers make of the same images: 1 means equal up to rotation "
        "and scale. Rows are the student's modules from input to output, columns the teacher's."
    )
    return [tag("p", words), view]


def _leaves(model: Any) -> list[str]:
    """Names of the modules that compute something of their own, input to output."""
    silent = ("Dropout", "Flatten", "Identity")
    return [n for n, m in model.named_modules() if n and not list(m.children()) and type(m).__name__ not in silent]


def _ranking_blocks(comparison: Comparison) -> list[Any]:
    from ..views.ranking import rank_agreement_view, ranking_view, worth_view

    task, teacher, before, after = _first(comparison)
    logits, labels = task.predict(teacher)
    old, new = task.predict(before)[0], task.predict(after)[0]
    index = _doubtful(logits, labels)
    return [
        "<p>PLD teaches the order in which the teacher would choose the classes, the true one first.</p>",
        rank_agreement_view(new, logits, old),
        ranking_view(new[index], logits[index], task.class_names, label=int(labels[index])),
        worth_view(new[index], logits[index], int(labels[index]), step=2, temperature=4.0),
    ]


def _doubtful(logits: Any, labels: Any) -> int:
    """The rightly classified image of which the teacher is least sure."""
    probabilities = logits.softmax(1)
    sure = probabilities.gather(1, labels[:, None])[:, 0]
    return int(sure.where(logits.argmax(1) == labels, sure.new_tensor(2.0)).argmin())


def _lesson_blocks(folder: Path, executed: Sequence[RunRecord]) -> list[str]:
    from ..report import export_notebook, notebook_title, verdicts_html

    links = {run.notebook.rpartition("/")[2]: f"{slug_of(run.notebook)}.html" for run in executed}
    blocks: list[str] = []
    for run in executed:
        name = links[run.notebook.rpartition("/")[2]]
        if run.executed.is_file():
            export_notebook(run.executed, folder / "lessons" / name, back="../report.html", links=links)
            link = tag("a", notebook_title(run.executed), href=f"lessons/{quote(name)}")
            heading = tag("h3", link, " ", tag("small", run.notebook))
        else:
            heading = tag("h3", run.notebook)
        took = f", {run.seconds:.0f} s" if run.seconds else ""
        state = f"executed{took}" if run.ok else tag("span", f"{run.status}: {run.failure}", class_="bad")
        blocks.append(join((heading, tag("p", state), verdicts_html(run.verdicts))))
    return blocks


def _provenance_blocks(info: dict[str, Any], comparison: Comparison) -> list[str]:
    from ..report import facts_html

    commit = info["git"]["commit"] + (" with local changes" if info["git"]["dirty"] else "")
    forwards = sum(r["teacher_forwards"] for r in comparison.records)
    where = {
        **info["versions"], "commit": commit, "device": device_name(), "processors": os.cpu_count(),
        "seconds for the comparison": f"{comparison.seconds:.1f}", "teacher forwards": forwards,
    }  # fmt: skip
    rerun = f"kdw demo --seeds {info['parameters']['seeds']} --epochs {info['parameters']['epochs']}"
    return [
        facts_html(info["parameters"], "Parameters"),
        facts_html(where, "Environment"),
        tag(
            "p",
            "Run it again: ",
            tag("code", rerun),
            ", or ",
            tag("code", "make demo"),
            ". Numbers of every run: ",
            tag("a", "comparison.csv", href="comparison.csv"),
            ".",
        ),
    ]
