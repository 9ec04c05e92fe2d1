"""A faulty objective turns the regression of its lesson red, also where the student would be as accurate.

The lessons' own line is run here, ``record(first_steps=study.STUDY.first_steps())``, against their committed baselines;
it takes no trained teacher and two steps of each arm.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.mutants import mutate
from torch import Tensor

from kdcore.functional.divergences import dist_loss, dkd_loss, kd_loss, linear_warmup
from kdcore.functional.ranking import descending_order
from kdcore.method import Signals
from kdcore.methods.nd_kd import KDPP, nd_loss
from kdcore.methods.pld import teacher_optimal_permutation
from kdcore.methods.vanilla_kd import DKD
from kdcore.studies import find_study
from kdcore.studies.nd_kd import WRONG_MEANS
from kdcore.studies.pld import REVERSED
from kdcore.studies.vanilla_kd import OMITTED, SCALE, SHUFFLED
from workbench.runs import records
from workbench.runs.baselines import Row, compare_run, load_baselines
from workbench.runs.files import project_root, write_json
from workbench.runs.store import RunRecord

BASELINES = load_baselines(Path(__file__).parent / "baselines")
LESSONS: dict[str, Callable[[], dict[str, float]]] = {
    "foundations/vanilla_kd": lambda: (
        find_study("vanilla_kd").first_steps() | OMITTED.first_steps(on="omitted digit") | SCALE.first_steps(on="T²")
    ),
    **{
        key: lambda slug=slug: find_study(slug).first_steps()
        for key, slug in ((key, key.rpartition("/")[2]) for key in BASELINES if "/" in key)
        if slug != "vanilla_kd"
    },
}
Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No record of another test, and no teacher: who needs a trained one fails."""
    monkeypatch.setenv("KDCORE_CACHE", "/dev/null/nowhere")
    records.reset()
    yield
    records.reset()


def first_rows(key: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The first steps of a lesson beside its baseline, by way of ``record`` and a run folder."""
    info = {"notebook": key, "source_sha256": "", "parameters": {}, "started": 0.0, "git": {}}
    write_json(folder / "run.json", info)
    monkeypatch.setenv("KDW_RUN_DIR", str(folder))
    records.record(anything=1, first_steps=LESSONS[key]())
    rows = compare_run(RunRecord("r", folder, "done", key), BASELINES)
    return [row for row in rows if row.metric.startswith("first step: ")]


@pytest.mark.parametrize("key", LESSONS)
def test_a_lesson_without_a_fault_is_green(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = first_rows(key, tmp_path, monkeypatch)
    assert [row for row in rows if not row.ok] == []
    names = [row.metric for row in rows]
    assert any(name.endswith(": gradient") for name in names) and len(names) > len(
        find_study(key[key.find("/") + 1 :]).arms()
    )


@pytest.mark.parametrize("key", LESSONS)
def test_what_is_run_here_is_the_line_of_the_lesson(key: str) -> None:
    text = (project_root(Path(__file__).parent) / "notebooks" / f"{key}.py").read_text(encoding="utf-8")
    (line,) = (line.strip() for line in text.splitlines() if "first_steps=" in line)
    also = 'also = study.OMITTED.first_steps(on="omitted digit") | study.SCALE.first_steps(on="T²")\n'
    more = " | also" if also in text else ""
    assert line == f"first_steps=study.STUDY.first_steps(){more},"
    assert bool(more) == key.endswith("/vanilla_kd")


# Faults ---------------------------------------------------------------------------------------------------------------


def everywhere(patch: pytest.MonkeyPatch, original: Any, fault: Any) -> None:
    """Put ``fault`` in place of a function in every module of kdcore that holds it."""
    holders = [
        (module, name)
        for key, module in list(sys.modules.items())
        if key.startswith("kdcore.")
        for name, value in list(vars(module).items())
        if value is original
    ]
    assert holders
    for module, name in holders:
        patch.setattr(module, name, fault)


def kd_without_t2(patch: pytest.MonkeyPatch) -> None:
    everywhere(patch, kd_loss, mutate(kd_loss, "drop_T2"))


def dkd_alpha_for_beta(patch: pytest.MonkeyPatch) -> None:
    def terms(self: DKD, s: Signals) -> dict[str, Tensor]:
        k = self.knob
        _, tckd, nckd = dkd_loss(*s.logits, s.labels, temperature=k.temperature, return_parts=True)
        weight = linear_warmup(s.epoch, k.warmup_epochs)
        return {"tckd": weight * k.beta * tckd, "nckd": weight * k.alpha * nckd}

    patch.setattr(DKD, "terms", terms)


def dkd_without_warmup(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("kdcore.methods.vanilla_kd.linear_warmup", lambda epoch, warmup_epochs: 1.0)


def dist_without_intra(patch: pytest.MonkeyPatch) -> None:
    def without(*args: Any, **kwargs: Any) -> Any:
        loss, inter, intra = dist_loss(*args, **kwargs)
        return loss, inter, 0 * intra

    patch.setattr("kdcore.methods.vanilla_kd.dist_loss", without)


def pld_argmax_for_label(patch: pytest.MonkeyPatch) -> None:
    everywhere(patch, teacher_optimal_permutation, lambda t, labels: descending_order(t.detach()))


def nd_own_direction(patch: pytest.MonkeyPatch) -> None:
    def own(student_emb: Tensor, teacher_emb: Tensor, labels: Tensor, *, class_means: Tensor, **more: Any) -> Tensor:
        itself = torch.arange(len(labels), device=labels.device)
        return nd_loss(student_emb, teacher_emb, itself, class_means=teacher_emb, **more)

    everywhere(patch, nd_loss, own)


def nd_wrong_means(patch: pytest.MonkeyPatch) -> None:
    prepare = KDPP.prepare

    def shuffled(self: KDPP, seen: Any) -> None:
        prepare(self, seen)
        self.class_means = self.class_means.roll(1, 0)

    patch.setattr(KDPP, "prepare", shuffled)


#: Fault, the lesson that must notice, and the arms in which it shows.
FAULTS: list[tuple[Patch, str, set[str]]] = [
    (
        kd_without_t2,
        "foundations/vanilla_kd",
        {"KD", "omitted digit: KD, T = 4", "omitted digit: KD, T = 8", SHUFFLED}
        | {f"T²: {arm.label}" for arm in SCALE.arms()},
    ),
    (kd_without_t2, "ranking/pld", {"KD"}),
    (kd_without_t2, "foundations/cka", {"KD"}),
    (kd_without_t2, "features/nd_kd", {"KD", "KD + cos", "KD + norm", "KD++", WRONG_MEANS}),
    (dkd_alpha_for_beta, "foundations/vanilla_kd", {"DKD"}),
    (dkd_without_warmup, "foundations/vanilla_kd", {"DKD"}),
    (dist_without_intra, "foundations/vanilla_kd", {"DIST"}),
    (dist_without_intra, "ranking/pld", {"DIST"}),
    (pld_argmax_for_label, "ranking/pld", {"PLD, τ = 1", "PLD, τ = 4", "PLD, uniform weights", REVERSED}),
    (nd_own_direction, "features/nd_kd", {"KD++", "CE + ND", WRONG_MEANS}),
    (nd_wrong_means, "features/nd_kd", {"KD + cos", "KD++", "CE + ND", WRONG_MEANS}),
]


@pytest.mark.parametrize(("fault", "key", "arms"), FAULTS, ids=[f"{f.__name__}-{k}" for f, k, _ in FAULTS])
def test_a_fault_is_noticed_where_it_is(
    fault: Patch, key: str, arms: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    bad = [row for row in first_rows(key, tmp_path, monkeypatch) if not row.ok]
    noticed = {row.metric.removeprefix("first step: ").rpartition(": ")[0].partition(", epoch")[0] for row in bad}
    assert noticed == arms, [row.metric for row in bad]
    assert all(row.status == "drift" for row in bad)
    assert max(abs(r.new - r.old) / r.tolerance for r in bad) > 10, "further off than another processor would be"
