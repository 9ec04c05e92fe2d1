"""One study per paper, found by name: ``kdcore/studies/<slug>.py`` says which data, arms, numbers and claims.

    study = find_study("pld")
    comparison = study.run(seeds=3)
    study.verdicts(comparison)

A study's file defines ``STUDY``; lessons, tests, ``kdw study`` and sweeps run it. What its file holds beside ``STUDY``
is for the lesson: measures, sweeps, films.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..distiller import Distiller
from ..experiment import Arm, Claim, Comparison, Metric, Progress, Verdict, check_claims, compare, first_steps, tune
from ..experiment.tune import FACTORS, TRIAL_SEEDS
from ..functional.checks import closest
from ..method import Method
from ..tasks import Task

#: Settings that go to :func:`kdcore.experiment.compare` and the training, whatever the study.
_OF_COMPARE = ("student", "teacher", "keep_students", "epochs", "batch_size")


@dataclass(frozen=True, kw_only=True)
class Study:
    """The experiment of a paper.

    Options reach the function that has a parameter of their name: ``task``, ``arms``, ``metrics`` and ``claims`` may
    each take keyword arguments; what none of them takes is a training setting of
    :func:`kdcore.experiment.compare`. ``quick`` (a bool) is an option like the others. ``tuned=True`` gives every arm
    the same number of trials on held-out training data before (:func:`kdcore.experiment.tune`).

    Attributes:
        slug: of the paper; words: what is compared, in a line.
        task: ``seed -> Task``; each seed may have its own split and teacher.
        arms: ``**knobs -> list of arms``.
        claims: ``comparison -> list of claims``.
        metrics: further numbers by name, or a function that gives them.
        baseline: arm that the table compares with.
        quick, full: options of the two tiers; ``full`` may also name another ``task``.
        grid: what is tried where arms are tuned; ``None``: the learning rate.
        also: further comparisons of the same paper; their claims count among the same page's.
    """

    slug: str
    words: str
    task: Callable[..., Task]
    arms: Callable[..., list[Arm]]
    claims: Callable[..., list[Claim]]
    metrics: Mapping[str, Metric] | Callable[..., Mapping[str, Metric]] = field(default_factory=dict)
    baseline: str | None = None
    quick: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)
    grid: Sequence[Mapping[str, Any]] | None = None
    also: tuple[Study, ...] = ()

    def only(self, *labels: str) -> Study:
        """The same study with these arms alone, for a page that has not the time for all; its options stay.

        Raises:
            ValueError: an arm that the study does not have.
        """
        known = [arm.label for arm in self.arms()]
        for label in labels:
            if label not in known:
                raise ValueError(f"study {self.slug!r} has no arm {label!r}.{closest(label, known)}")

        @wraps(self.arms)  # options are found by the names of its arguments
        def chosen(**knobs: Any) -> list[Arm]:
            return [arm for arm in self.arms(**knobs) if arm.label in labels]

        return replace(self, arms=chosen)

    def run(
        self,
        *,
        quick: bool = True,
        seeds: int | Sequence[int] = 3,
        progress: Progress | None = None,
        stop: Any = None,
        tuned: bool = False,
        **options: Any,
    ) -> Comparison:
        """Train every arm with every seed.

        Args:
            quick: the tier of seconds on embedded data, or the full one.
            seeds, progress, stop: see :func:`kdcore.experiment.compare`.
            tuned: choose the settings of every arm first, by as many trials for each.
            **options: see the class; they come before those of the tier.

        Raises:
            ValueError: an option that nothing here takes, a seed that the trials use, arms that cannot be tuned.
        """
        task, arms, metrics, train = self._parts(quick, options)
        if not tuned:
            return compare(task, arms, seeds=seeds, progress=progress, stop=stop, metrics=metrics, **train)
        if both := set(TRIAL_SEEDS) & set(range(seeds) if isinstance(seeds, int) else seeds):
            raise ValueError(f"seeds must not be those of the trials, got {sorted(both)} among them.")
        ahead = 0

        def second(done: int, in_all: int, text: str) -> None:
            if progress is not None:
                progress(ahead + done, ahead + in_all, text)

        def first(done: int, in_all: int, text: str) -> None:
            nonlocal ahead
            ahead = in_all
            if progress is not None:
                count = seeds if isinstance(seeds, int) else len(seeds)
                later = in_all * count // (len(TRIAL_SEEDS) * len(self.grid or FACTORS))
                progress(done, in_all + later, f"tuning: {text}")

        without = {name: value for name, value in train.items() if name != "keep_students"}
        found = tune(task, arms, self.grid, progress=first, stop=stop, **without)
        comparison = compare(task, found.arms, seeds=seeds, progress=second, stop=stop, metrics=metrics, **train)
        comparison.tuning = found
        return comparison

    def first_steps(self, *, quick: bool = True, seed: int = 0, on: str = "", **options: Any) -> dict[str, float]:
        """Loss terms and gradient of the first step of every arm; see :func:`kdcore.experiment.first_steps`."""
        task, arms, _, train = self._parts(quick, options)
        only = {name: value for name, value in train.items() if name not in ("teacher", "keep_students")}
        return first_steps(task(seed), arms, seed=seed, on=on, **only)

    def _parts(
        self, quick: bool, options: Mapping[str, Any]
    ) -> tuple[Callable[[int], Task], list[Arm], Mapping[str, Metric], dict[str, Any]]:
        """Task by seed, arms, metrics, and what is left for the training."""
        chosen = self._options(quick, options)
        task = chosen.pop("task", self.task)
        taken = {
            name: _taken(f, chosen) for name, f in (("task", task), ("arms", self.arms), ("metrics", self.metrics))
        }
        used = {"quick", *(n for names in taken.values() for n in names), *_parameters(self.claims)}
        metrics = self.metrics(**taken["metrics"]) if callable(self.metrics) else self.metrics
        train = {name: value for name, value in chosen.items() if name not in used}
        return partial(task, **taken["task"]), self.arms(**taken["arms"]), metrics, train

    def verdicts(self, comparison: Comparison, *, quick: bool = True, **options: Any) -> list[Verdict]:
        """The claims judged on a comparison of this study, corrected for their number."""
        return check_claims(self.claimed(comparison, quick=quick, **options))

    def claimed(self, comparison: Comparison, *, quick: bool = True, **options: Any) -> list[Claim]:
        """The claims with the numbers of a comparison of this study."""
        return self.claims(comparison, **_taken(self.claims, self._options(quick, options)))

    def names(self, *, quick: bool = True) -> tuple[str, ...]:
        """Names of all options."""
        task = (self.quick if quick else self.full).get("task", self.task)
        functions = [f for f in (task, self.arms, self.metrics, self.claims) if callable(f)]
        own = [name for f in functions for name in _parameters(f)]
        run = ("tuned",) if all(arm.by_method for arm in self.arms()) else ()
        trained = [n for n in inspect.signature(Distiller).parameters if n not in ("teacher", "train", "val", "method")]
        return tuple(dict.fromkeys([*own, *_OF_COMPARE, *run, *trained]))

    def fingerprint(self) -> str:
        """sha256 of what the numbers of this study depend on in its own files and its methods'.

        The code of the study's file, of the paper's method, of what studies share, and of the methods of its arms,
        without comments, layout and docstrings; and the options of both tiers. Data, networks, the training loop and
        what all methods share are not in it: a kept result names the versions it was made with.
        """
        methods = [m for study in (self, *self.also) for arm in study.arms() if arm.by_method for m in _methods(arm)]
        files = {Path(inspect.getfile(self.claims)), Path(__file__).with_name("_shared.py")}
        files |= {Path(inspect.getfile(type(method))) for method in methods} - {Path(inspect.getfile(Method))}
        own = Path(__file__).parents[1] / "methods" / f"{self.slug}.py"  # also where arms are trainings or loops
        files |= {own} if own.is_file() else set()
        parts = [_code(path) for path in sorted(files, key=lambda path: path.parts[-2:])]
        parts += [_plain(tier) for study in (self, *self.also) for tier in (study.quick, study.full)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _options(self, quick: bool, options: Mapping[str, Any]) -> dict[str, Any]:
        known = (*self.names(quick=quick), "task")
        for name in options:
            if name not in known:
                raise ValueError(f"study {self.slug!r} has no option {name!r}.{closest(name, known)}")
        return {"quick": quick} | dict(self.quick if quick else self.full) | dict(options)


def _parameters(function: Any) -> list[str]:
    """Names of the keyword arguments; the first positional one is the seed or the comparison."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for p in inspect.signature(function).parameters.values() if p.kind in kinds]
    return [p.name for p in found if p.name not in ("seed", "comparison")]


def _taken(function: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {n: options[n] for n in _parameters(function) if n in options} if callable(function) else {}


def _methods(arm: Arm) -> list[Any]:
    objective = arm.objective()
    return objective if isinstance(objective, list) else [objective]


def _code(path: Path) -> str:
    """Code of a file as a text that layout, comments and docstrings do not change."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _plain(options: Mapping[str, Any]) -> str:
    return repr(sorted((n, getattr(v, "__qualname__", None) or repr(v)) for n, v in options.items()))


def list_studies() -> tuple[str, ...]:
    """Slugs of all studies, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def find_study(slug: str) -> Study:
    """The study of a paper.

    Raises:
        ValueError: there is none of this name.
    """
    if not slug.isidentifier() or slug.startswith("_") or find_spec(f"{__name__}.{slug}") is None:
        known = list_studies()
        raise ValueError(f"there is no study {slug!r}.{closest(slug, known)} There are {', '.join(known)}.")
    return import_module(f"{__name__}.{slug}").STUDY


__all__ = ["Study", "find_study", "list_studies"]
