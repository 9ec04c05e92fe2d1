"""``python -m benchmarks.gpu``: everything that only a CUDA card can show, in at most eight minutes.

The tests of ``tests/gpu``; losses, step, cached epoch, CKA map and occlusion in fp32, bf16 and fp16 against their
references (:mod:`benchmarks.on_device`); and, where the data folder ``KDCORE_DATA`` holds CIFAR-10, a study with real
networks: ResNet-56 teaches ResNet-20, three seeds. Prints the table and writes json. Without a card it says "skipped"
and exits 0; with one it exits 1 if a test fails, a value is wrong or a part does not run. Slow is no failure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from .on_device import PARTS
from .protocol import Row, markdown, write_rows

_ROOT = Path(__file__).resolve().parent.parent
MINUTES = 8.0
#: The study: resnet56 and resnet20 as of the CIFAR tasks, fewer epochs than a paper's 240, the same for both arms.
TEACHER_EPOCHS, STUDENT_EPOCHS, BATCH = 15, 12, 256


class Deadline:
    """A moment after which no new batch is begun; :func:`kdcore.experiment.compare` asks ``is_set()``."""

    def __init__(self, minutes: float) -> None:
        self.at = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds until then."""
        return self.at - time.monotonic()

    def is_set(self) -> bool:
        return self.left <= 0


def run_tests(deadline: Deadline) -> list[Row]:
    """``tests/gpu`` in a process of its own: how many fail, of how many."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run(command, cwd=_ROOT, timeout=max(deadline.left, 1), check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"pytest tests/gpu ended with code {done.returncode}: no test ran.")
        suite = ElementTree.parse(report).getroot().find("testsuite")
        assert suite is not None
    counts = {name: float(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped", "time")}
    return [
        Row(
            what=f"tests/gpu, {counts['tests']:.0f} tests",
            against="the values of the CPU",
            value=counts["failures"] + counts["errors"] + counts["skipped"],
            goal=0,
            unit="failed or skipped",
            detail=counts,
        )
    ]


def cifar_task(data: str | None) -> Any:
    """CIFAR-10 with random crops and flips: from ``data`` (a folder or an .npz), else from ``KDCORE_DATA``; or None."""

    from kdcore.tasks import CropFlip, load_task

    if data is None and not os.environ.get("KDCORE_DATA"):
        return None
    try:
        if data is not None and data.endswith(".npz"):
            task = load_task("arrays", path=data)
        else:
            task = load_task("cifar10", **({} if data is None else {"folder": data}))
    except FileNotFoundError as error:
        if data is not None:
            raise
        print(f"no study: {error}", file=sys.stderr)
        return None
    task.train = task.teacher_train = CropFlip(task.train)
    return task


def run_study(task: Any, deadline: Deadline, *, device: str, seeds: int = 3, quick: bool = False) -> list[Row]:
    """CE and KD students of a ResNet-56 that is trained first; as many seeds as the time allows."""
    from kdcore import distill
    from kdcore.experiment import compare

    precision = "bf16-mixed" if device == "cuda" else "32-true"
    options: dict[str, Any] = {"accelerator": device, "precision": precision, "batch_size": BATCH, "lr": 0.2}
    epochs = (1, 1) if quick else (TEACHER_EPOCHS, STUDENT_EPOCHS)
    teacher = task.spec("teacher", "resnet56").make(0)
    recipe = task.spec("teacher", "resnet56").recipe.training() | {
        "epochs": epochs[0],
        "lr": 0.2,
        "accelerator": device,
        "precision": precision,
    }
    began = time.monotonic()
    distill(None, teacher, "ce", task.loader("train", batch_size=BATCH), seed=0, stop=deadline, **recipe)
    trained = time.monotonic() - began
    found = compare(
        task,
        ["ce", "kd"],
        seeds=seeds,
        teacher=teacher.cpu().eval(),
        student="resnet20",
        stop=deadline,
        keep_students=False,
        epochs=epochs[1],
        **options,
    )
    accuracy = task.evaluate(teacher.to(device))["accuracy"]
    rows = [
        Row(
            what=f"CIFAR-10, {len(task.train)} images: resnet56, {epochs[0]} epochs",
            against="accuracy in %",
            value=100 * accuracy,
            unit="%",
            detail={"seconds": trained},
        )
    ]
    for label in found.arms:
        values = [100 * float(v) for v in found.values(label)]
        rows.append(
            Row(
                what=f"resnet20, {label}, {epochs[1]} epochs, {len(values)} of {seeds} seeds",
                against="mean accuracy in %",
                value=sum(values) / len(values) if values else float("nan"),
                unit="%",
                detail={"accuracies": values, "seconds": found.seconds},
            )
        )
    return rows


def collect(deadline: Deadline, *, device: str, data: str | None, quick: bool) -> tuple[list[Row], list[str]]:
    """All rows, and the parts that failed, each with the last line of its error; one failure stops no other part."""
    jobs: dict[str, Any] = {"tests": lambda: run_tests(deadline)} if device == "cuda" else {}
    jobs |= {name: lambda part=part: part(device, quick=quick) for name, part in PARTS.items()}
    if (task := cifar_task(data)) is not None:
        jobs["study"] = lambda: run_study(task, deadline, device=device, quick=quick)
    rows, failed = [], []
    for name, job in jobs.items():
        if deadline.is_set():
            failed.append(f"{name}: not begun, the {MINUTES:g} minutes were over")
            continue
        print(f"{name} ... ({deadline.left:.0f} s left)", file=sys.stderr, flush=True)
        try:
            rows += job()
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {error}")
    return rows, failed


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=_ROOT / "runs" / "gpu.json", help="where the json goes")
    parser.add_argument("--cifar10", metavar="PATH", help="folder or .npz of CIFAR-10; default: KDCORE_DATA")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="when no new batch is begun")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("skipped: there is no CUDA device.")
        return 0
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means 32 bits here
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    rows, failed = collect(Deadline(options.minutes), device="cuda", data=options.cifar10, quick=options.quick)
    write_rows(rows, options.out)
    print(markdown(rows))
    for line in failed:
        print(f"FAILED {line}")
    wrong = [row.what for row in rows if row.unit == "failed or skipped" and row.value]
    print(f"\n{len(rows)} rows, {len(failed) + len(wrong)} failures; json in {options.out}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
