"""What every study in ``kdcore.studies`` promises, on two seeds of two epochs; new studies need no edit here."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kdcore.registry import list_methods
from kdcore.studies import Study, find_study, list_studies
from kdcore.tasks import Task

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
def test_an_option_that_nothing_takes_is_refused(slug: str) -> None:
    with pytest.raises(ValueError, match=rf"study '{slug}' has no option 'epoch'\. Did you mean 'epochs'"):
        find_study(slug).run(epoch=1)


def test_options_reach_task_arms_and_training() -> None:
    study = with_cheap_teachers(find_study("vanilla_kd"))
    found = study.run(seeds=1, train_size=30, temperature=2.0, epochs=1)
    assert len(found.tasks[0].train) == 30 and found.rows["epochs"].tolist() == [1] * 4
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
