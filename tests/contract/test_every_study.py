"""What every study in ``kdcore.studies`` promises, on two seeds of two epochs; new studies need no edit here."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from kdcore.engine import listening
from kdcore.experiment import first_steps
from kdcore.registry import create_method, list_methods
from kdcore.studies import Study, find_study, list_studies
from kdcore.taps import evaluating
from kdcore.tasks import Task
from workbench.runs.files import project_root

SLUGS = list_studies()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def with_cheap_teachers(study: Study) -> Study:
    """The study with teachers of two epochs."""

    def task(seed: int, **options: Any) -> Task:
        made = study.task(seed, **options)
        cheap = {n: replace(spec, recipe=replace(spec.recipe, epochs=2)) for n, spec in made.teachers.items()}
        return replace(made, teachers=cheap)

    task.__signature__ = inspect.signature(study.task)  # type: ignore[attr-defined]
    return replace(study, task=task)


def test_every_study_belongs_to_a_method() -> None:
    assert SLUGS and set(SLUGS) <= set(list_methods())


@pytest.mark.parametrize("slug", SLUGS)
def test_a_study_is_described_and_its_arms_differ(slug: str) -> None:
    main = find_study(slug)
    for study in (main, *main.also):
        assert study.slug == slug and study.words and not study.words.endswith(".")
        labels = [arm.label for arm in study.arms()]
        assert len(labels) > 1 and len(set(labels)) == len(labels)
        assert study.baseline in labels
        for quick in (True, False):
            known = (*study.names(quick=quick), "task")
            unknown = set(study.quick if quick else study.full) - set(known)
            assert not unknown, f"{slug} names options that nothing takes: {unknown}"


@pytest.mark.parametrize("slug", SLUGS)
def test_a_study_runs_and_its_claims_are_judged(slug: str) -> None:
    main = find_study(slug)
    texts: list[str] = []
    for study in (main, *main.also):
        short = with_cheap_teachers(study)
        reports: list[tuple[int, int, str]] = []
        found = short.run(seeds=2, epochs=2, progress=lambda *report, told=reports: told.append(report))
        assert found.arms == tuple(arm.label for arm in study.arms()) and found.seeds == (0, 1)
        assert len(found.records) == 2 * len(found.arms) and not found.stopped
        done = [count for count, _, _ in reports]
        assert done == sorted(done) and reports[-1][0] == reports[-1][1]
        claims = study.claimed(found)
        assert claims, f"{slug} claims nothing"
        texts += [claim.text for claim in claims]
        for verdict in study.verdicts(found):
            json.dumps(verdict.to_dict(), allow_nan=False)
            assert verdict.n == 2 and "not all values are finite" not in verdict.head
        assert len(found.table(study.baseline)) == len(found.arms)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("slug", SLUGS)
def test_an_arm_says_how_often_it_runs_its_student(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a part in the first step over those in one plain forward pass, for the part that runs most often."""
    main, made = find_study(slug), Task.student
    counts: dict[str, int] = {}
    plain: dict[str, int] = {}

    def counted(task: Task, *args: Any, **options: Any) -> nn.Module:
        student = made(task, *args, **options)
        for name, part in student.named_modules():
            if any(True for _ in part.parameters(recurse=False)):
                part.register_forward_hook(partial(note, name))
        plain.clear()
        counts.clear()
        x = task.sample(n=2)[0]
        with evaluating(student):
            student(task.normalization(student)(x))
        plain.update(counts)
        counts.clear()
        return student

    def note(name: str, part: nn.Module, given: Any, output: Any) -> None:
        if part.training or not plain:  # whatever looks at the student before the training does it in eval mode
            counts[name] = counts.get(name, 0) + 1

    monkeypatch.setattr(Task, "student", counted)
    for study, arm in ((one, arm) for one in (main, *main.also) for arm in one.arms() if arm.run is None):
        counts.clear()
        task = study.task(0)
        settings = {n: v for n, v in study.quick.items() if n in ("student", "batch_size")}
        found: list[int] = []

        def first(event: object, found: list[int] = found) -> None:
            found += [max(counts[part] // plain[part] for part in counts)] if not found else []

        with listening(first):
            first_steps(task, [replace(arm, control_of=None)], **settings)
        assert found == [arm.passes], f"{arm.label} runs its student {found[0]} times in a step"


#: What a lesson says where its KD has other weights than (0.1, 0.9) at temperature 4, or another objective has them.
KD_DIFFERS = {
    "nd_kd": "1 for the labels and 1 for KD, with a warm-up; most other lessons take 0.1 and 0.9 (mdistiller)",
    "vanilla_kd": "the others from the teacher's soft targets alone, without any label",
    "dho": "0.5 and 0.5 at $T = 2$; the lesson on KD has 0.1 and 0.9 at $T = 4$",
    "pcoreset": "0.5 and 0.5 at $T = 2$, not the 0.1 and 0.9 at $T = 4$ of the lesson on KD",
    "mst_distill": "Labels and KD weigh 1 and 1 at $T = 4$, as in $L_1$ and $L_3$; the lesson on KD has 0.1 and 0.9",
    "mixup_kd": "as in the lesson on KD; with scaled logits there is no temperature",
    "tgeo_kd": "the lesson on KD has fixed weights, 0.1 and 0.9 at $T = 4$",
}


@pytest.mark.parametrize("slug", SLUGS)
def test_kd_has_its_own_defaults_or_the_lesson_says_the_difference(slug: str) -> None:
    main, default = find_study(slug), create_method("kd").settings
    assert default == {"temperature": 4.0, "kd_weight": 0.9, "ce_weight": 0.1}
    arms = [arm for study in (main, *main.also) for arm in study.arms() if arm.by_method]
    objectives = [o for arm in arms for o in [arm.objective()] if not isinstance(o, list)]
    kinds = [o for o in objectives if "kd_weight" in o.settings]
    others = [o for o in kinds if {n: o.settings[n] for n in default} != default]
    if others or slug in KD_DIFFERS:
        (script,) = (project_root(Path(__file__).parent) / "notebooks").glob(f"*/{slug}.py")
        text = " ".join(script.read_text(encoding="utf-8").replace("\n# ", " ").split())
        assert slug in KD_DIFFERS and KD_DIFFERS[slug] in text, f"the lesson must say how its KD differs: {others}"


@pytest.mark.parametrize("slug", SLUGS)
def test_an_option_that_nothing_takes_is_refused(slug: str) -> None:
    with pytest.raises(ValueError, match=rf"study '{slug}' has no option 'epoch'\. Did you mean 'epochs'"):
        find_study(slug).run(epoch=1)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_study_of_some_arms_keeps_its_options(slug: str) -> None:
    study = find_study(slug)
    arms = study.arms()
    controls = [arm.label for arm in arms if arm.control_of is not None]
    few = study.only(*(arm.label for arm in arms if arm.label not in controls))
    assert [a.label for a in few.arms()] == [a.label for a in arms if a.label not in controls]
    assert few.names() == study.names() and few.fingerprint() == study.fingerprint()
    with pytest.raises(ValueError, match=rf"study '{slug}' has no arm 'nobody'"):
        study.only("nobody")


def test_options_reach_task_arms_and_training() -> None:
    study = with_cheap_teachers(find_study("vanilla_kd"))
    found = study.run(seeds=1, train_size=30, temperature=2.0, epochs=1)
    assert len(found.tasks[0].train) == 30 and found.rows["epochs"].tolist() == [1] * 5
    assert found.methods["KD", 0][0].settings["temperature"] == 2.0


def test_an_unknown_study_is_named() -> None:
    with pytest.raises(ValueError, match=r"there is no study 'pdl'\. Did you mean 'pld'"):
        find_study("pdl")


def test_the_fingerprint_follows_code_and_not_words(tmp_path: Path) -> None:
    from kdcore.studies import _code

    def code(text: str) -> str:
        path = tmp_path / "x.py"
        path.write_text(text, encoding="utf-8")
        return _code(path)

    first = code('"""Words."""\n\ndef f(x):\n    """More."""\n    return x + 1\n')
    assert first == code('"""Others."""\n\n# why\ndef f(x):\n    return (x + 1)\n')
    assert first != code("def f(x):\n    return x + 2\n")
    study = find_study("pld")
    assert study.fingerprint() == find_study("pld").fingerprint() != find_study("nd_kd").fingerprint()
    assert replace(study, quick={"epochs": 3}).fingerprint() != study.fingerprint()
    assert replace(study, arms=partial(study.arms)).fingerprint() == study.fingerprint()
