"""A paper's study without its notebook: run it, put its numbers into a record, keep that under ``docs/results``.

A result of tuned arms (``-p tuned=true``) is kept beside that of the arms as they come. A kept record carries the
fingerprint of the study it was made with; one whose study has changed since is refused by
the tests (:func:`stale`), so that a page never shows the numbers of another experiment.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.html import details, tag

from .environment import device_name, git_commit, thread_count, versions
from .files import plain, project_root, read_json, write_json
from .parameters import Parameter, read_value
from .records import VERDICT_SIGNS

if TYPE_CHECKING:
    from kdcore.experiment import Comparison
    from kdcore.studies import Study

    from .progress import Report

SCHEMA = 1
RESULTS = Path("docs/results")
_WORDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", tuple: "a list"}


def read_options(slug: str, given: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """``["epochs=3", "digit=8"]`` as options of a study; values are Python literals, what is none is text.

    Raises:
        ValueError: a name without a value, one that the study does not have, text where the tier has a
            number, or a list that is not closed.
    """
    from kdcore.functional.checks import closest
    from kdcore.studies import find_study

    study = find_study(slug)
    studies = (study, *study.also)
    known = tuple(dict.fromkeys(name for s in studies for name in s.names(quick=quick)))
    tier = {n: v for s in reversed(studies) for n, v in (s.quick if quick else s.full).items()}
    options = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"-p must be followed by a name and a value, got {item!r} alone.")
        if name not in known:
            raise ValueError(f"study {slug!r} has no option {name!r}.{closest(name, known)}")
        options[name] = _option(name, value, tier.get(name))
    return options


def _option(name: str, text: str, usual: Any) -> Any:
    """The value that text stands for; of the kind of what the tier has, where that is a number or a list."""
    kinds = {bool: bool, int: int | float, float: float, list: list, tuple: tuple}
    if type(usual) in kinds:
        return Parameter(f"option {name}", kinds[type(usual)], _WORDS[type(usual)], usual).parse(text)
    try:
        return read_value(text)
    except ValueError as error:
        raise ValueError(f"option {name} cannot be read, got {text!r:.120}: {error}.") from None


def run_study(
    slug: str,
    *,
    seeds: int = 3,
    quick: bool = True,
    options: Mapping[str, Any] | None = None,
    report: Callable[[str], Report] | None = None,
) -> dict[str, Any]:
    """Run a study with all its comparisons and judge its claims together.

    Args:
        slug: of the paper.
        seeds: their number; quick: tier.
        options: see :func:`read_options`; each comparison takes those it knows.
        report: ``title -> progress callback``.

    Returns:
        A JSON-ready record: numbers per arm and seed, intervals, settled effects, verdicts, and what they were made
        with.
    """
    from kdcore.experiment import check_claims
    from kdcore.studies import find_study

    main = find_study(slug)
    experiments, claims, seconds = [], [], 0.0
    for study in (main, *main.also):
        own = {n: v for n, v in (options or {}).items() if n in study.names(quick=quick)}
        progress = report(study.words) if report is not None else None
        comparison = study.run(quick=quick, seeds=seeds, progress=progress, **own)
        experiments.append(_experiment(study, comparison))
        claims += study.claimed(comparison, quick=quick, **own)
        seconds += comparison.seconds
    root = project_root()
    return plain(
        {
            "schema": SCHEMA,
            "study": slug,
            "fingerprint": main.fingerprint(),
            "command": command(slug, seeds=seeds, quick=quick, options=options or {}),
            "seeds": seeds,
            "quick": quick,
            "options": dict(options or {}),
            "experiments": experiments,
            "verdicts": [verdict.to_dict() for verdict in check_claims(claims)],
            "versions": versions(),
            **git_commit(root),
            "device": device_name(),
            "threads": thread_count(),
            "seconds": round(seconds, 1),
        }
    )


def command(slug: str, *, seeds: int, quick: bool, options: Mapping[str, Any]) -> str:
    """The command line that runs the study so."""
    words = ["kdw", "study", slug, "--seeds", str(seeds), *([] if quick else ["--full"])]
    for name, value in options.items():
        words += ["-p", name, str(value)]
    return shlex.join(words)


def _experiment(study: Study, comparison: Comparison) -> dict[str, Any]:
    from kdcore.experiment import effects

    table, tuning = comparison.table(study.baseline), comparison.tuning
    numbers = [name for name in comparison.records[0] if name not in ("arm", "seed", "seconds")]
    return {
        "words": study.words,
        "metric": comparison.metric,
        "baseline": study.baseline,
        "arms": {str(arm): {name: _finite(value) for name, value in row.items()} for arm, row in table.iterrows()},
        "values": {
            arm: {name: [_finite(v) for v in comparison.values(arm, name)] for name in numbers}
            for arm in comparison.arms
        },
        "effects": effects(comparison, study.baseline) if study.baseline is not None else [],
        "controls": [control.to_dict() for control in comparison.check_controls()],
        **({"tuning": tuning.to_dict()} if tuning is not None else {}),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def keep(record: Mapping[str, Any], folder: Path | None = None, *, remark: str = "") -> Path:
    """Write a record to ``docs/results/<slug>.json``, of tuned arms to ``<slug>-tuned.json``.

    A result that is already kept does not disappear: its command, commit and verdicts go with the new one
    (``earlier``), so that a study that was run until its numbers pleased shows it.

    Args:
        record: of :func:`run_study`; folder: default ``docs/results``.
        remark: what a reader must know of it, above all what was chosen after looking at numbers.

    Raises:
        ValueError: fewer than two seeds, whose claims are all open.
    """
    if record["seeds"] < 2:
        raise ValueError("a result of one seed settles nothing and is not kept: give --seeds 10 or more.")
    tuned = bool(record["options"].get("tuned"))
    before = kept_result(record["study"], folder, tuned=tuned)
    earlier = [] if before is None else [*before.get("earlier", ()), _summary(before)]
    path = _kept_in(record["study"], folder, tuned)
    return write_json(path, {**record, "remark": remark, "earlier": earlier})


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of a kept result once another takes its place."""
    said = {"remark": record.get("remark", ""), "verdicts": [v["sentence"] for v in record["verdicts"]]}
    return {name: record[name] for name in ("command", "seeds", "commit")} | said


def _kept_in(slug: str, folder: Path | None, tuned: bool) -> Path:
    return (folder or project_root() / RESULTS) / f"{slug}{'-tuned' if tuned else ''}.json"


def kept_result(slug: str, folder: Path | None = None, *, tuned: bool = False) -> dict[str, Any] | None:
    """The kept record of a study (of its tuned arms), ``None`` if there is none."""
    path = _kept_in(slug, folder, tuned)
    return read_json(path) if path.is_file() else None


class KeptVerdicts:
    """The verdicts of a kept result, for a page: who made them, and that they belong to the study as it is."""

    def __init__(self, slug: str, record: Mapping[str, Any] | None) -> None:
        self.slug, self.record = slug, record

    def __repr__(self) -> str:
        lines = [f"{sign} {sentence}" for sign, sentence in self.lines]
        return "\n".join([self.lead, *lines, *self.remarks, *self.replaced])

    @property
    def lead(self) -> str:
        """One line: how many seeds, which command; or why there is nothing to show."""
        if self.record is None:
            return f"No result of the study {self.slug!r} is kept: kdw study {self.slug} --seeds 10 --keep makes one."
        if why := stale(self.record):
            return f"The kept result is not shown: {why}"
        return f"Kept result, {self.record['seeds']} seeds ({self.record['command']}):"

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Sign and sentence of every verdict and control; none of a result that is missing or stale."""
        if self.record is None or stale(self.record):
            return []
        found = [*self.record["verdicts"], *(c for e in self.record["experiments"] for c in e.get("controls", ()))]
        return [(VERDICT_SIGNS.get(v.get("value"), "?"), str(v["sentence"])) for v in found]

    @property
    def remarks(self) -> list[str]:
        """What a reader must know of the result: its own remark, and how its arms were tuned."""
        if not self.lines or self.record is None:
            return []
        own = [self.record["remark"]] if self.record.get("remark") else []
        own += [tuning_words(e["tuning"]) for e in self.record["experiments"] if "tuning" in e]
        if self.record["options"].get("tuned"):  # what differs from the other kept result of this study
            own += [effect for e in self.record["experiments"] for effect in e["effects"]]
        return own

    @property
    def replaced(self) -> list[str]:
        """Every run that the result took the place of, with what it said."""
        if not self.lines or self.record is None:
            return []
        return [
            f"It replaces an earlier run with {e['seeds']} seeds ({e['command']}), which said: "
            + " ".join(e["verdicts"])
            for e in self.record.get("earlier", ())
        ]

    def _repr_html_(self) -> str:
        shown = (tag("li", tag("span", sign, aria_hidden="true"), f" {sentence}") for sign, sentence in self.lines)
        lists = tag("ul", *shown) if self.lines else ""
        before, own = [tag("p", r) for r in self.replaced], [tag("p", r) for r in self.remarks]
        count = f"earlier runs that it replaces: {len(before)}"
        folded = details(count, *before) if before else ""
        return tag("div", tag("p", self.lead), lists, *own, folded, class_="kd-kept")


def kept_verdicts(slug: str, folder: Path | None = None, *, tuned: bool = False) -> KeptVerdicts:
    """What a lesson shows beside its own verdicts: those of the study's kept result (of its tuned arms)."""
    return KeptVerdicts(slug, kept_result(slug, folder, tuned=tuned))


def kept_contrast(
    slug: str,
    left: str,
    right: str,
    *,
    metric: str = "last",
    part: int = 0,
    unit: str = "points",
    tuned: bool = False,
    folder: Path | None = None,
) -> str:
    """The difference of two arms of a kept result in words (:func:`kdcore.experiment.contrast`), for a lesson's text.

    Args:
        slug, tuned: which result; folder: default ``docs/results``.
        left, right: labels of arms; metric: column of the rows; part: which of the study's comparisons.
        unit: of the difference.

    Returns:
        The sentence; or why there is none, where nothing is kept or the study has changed since.

    Raises:
        ValueError: an arm or a metric that the result does not have.
    """
    from kdcore.experiment import contrast

    record = kept_result(slug, folder, tuned=tuned)
    if record is None or stale(record):
        return KeptVerdicts(slug, record).lead
    values = record["experiments"][part]["values"]
    missing = [arm for arm in (left, right) if metric not in values.get(arm, ())]
    if missing:
        raise ValueError(
            f"the kept result of {slug!r} has no {metric!r} of {missing[0]!r}; it has {', '.join(values)}."
        )
    words = f"{left} against {right}, kept result{' of tuned arms' if tuned else ''}"
    return contrast(words, values[left][metric], values[right][metric], unit=unit)


def stale(record: Mapping[str, Any]) -> str:
    """Why a kept record no longer belongs to its study, in words; empty if it does."""
    from kdcore.studies import find_study

    slug = record["study"]
    try:
        study = find_study(slug)
    except ValueError:
        return f"there is no study {slug!r} any more."
    if record["schema"] != SCHEMA or record["fingerprint"] != study.fingerprint():
        return f"the study {slug!r} has changed since its result was kept: run {record['command']} --keep."
    return ""


def tuning_words(tuning: Mapping[str, Any]) -> str:
    """``"Tuned on held-out training data, 15 trainings of each arm: CE lr 0.02; ..."``"""
    measured = ("arm", "mean", "std", "chosen")
    picks = [
        f"{t['arm']} "
        + ", ".join(f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in t.items() if n not in measured)
        for t in tuning["trials"]
        if t["chosen"]
    ]
    edge = f" At the edge of what was tried: {', '.join(tuning['at_the_edge'])}." if tuning["at_the_edge"] else ""
    return f"Tuned on held-out training data, {tuning['budget']} trainings of each arm: {'; '.join(picks)}.{edge}"


def rows(experiment: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """An experiment's arms as rows of text: arm, mean, its interval, difference, its interval, p."""
    factor = 100.0 if experiment["metric"] == "accuracy" else 1.0

    def number(value: float | None, scale: float = factor, sign: str = "") -> str:
        return "-" if value is None else f"{scale * value:{sign}.3g}" if scale == 1 else f"{scale * value:{sign}.2f}"

    def span(row: Mapping[str, Any], low: str, high: str, sign: str = "") -> str:
        return "-" if row.get(low) is None else f"{number(row[low], sign=sign)} to {number(row[high], sign=sign)}"

    return [
        (
            f"{arm} ({row['passes']:g} passes)" if row.get("passes", 1) > 1 else arm,
            number(row["mean"]),
            span(row, "low", "high"),
            number(row.get("difference"), sign="+"),
            span(row, "diff_low", "diff_high", "+"),
            number(row.get("p"), 1.0),
        )
        for arm, row in experiment["arms"].items()
    ]
