"""How often a diagnosis cries wolf, and how often it names a fault: on pairs made for it.

``python -m benchmarks.diagnosis_rates mending`` makes 48 pairs and prints where healthy pairs lie on every scale that
an
alarm is measured on: the thresholds in :mod:`kdcore.diagnose._thresholds` come from these. ``... held-out`` makes other
pairs, examines the healthy ones and every kind of fault planted in ``--faults`` of them, and prints the two rates with
Clopper-Pearson intervals (95 %). Weights and results are kept in ``--cache`` and not made again; one thread.

A pair is healthy by how it was made and by a measurement on test samples that are not examined: the student is at
most 15 points behind its teacher and at most 3 before it. Pairs that are not are counted and left out of both rates;
nothing else is looked at. Of faults in what a model is fed, the points of accuracy that they cost are measured as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kdcore.diagnose as under_test
from kdcore.diagnose import Finding, diagnose
from kdcore.diagnose._finding import Facts
from kdcore.diagnose.rules.outputs import scale_ratio
from kdcore.tasks._data import stratified

from .diagnosis_faults import KINDS, Planted
from .diagnosis_pairs import Data, Pair, make_pair, sources

#: What a diagnosis is asked here: everything that can raise an alarm, without the pictures.
ASKED: dict[str, Any] = {
    "teacher_transform": None,
    "student_transform": None,
    "bootstrap": 0,
    "mask_ratios": (),
    "occlusion_images": 0,
}
BEHIND, BEFORE = 0.15, 0.03


def interval(hits: int, tried: int) -> tuple[float, float]:
    """Clopper-Pearson, 95 %."""
    from scipy.stats import beta

    if not tried:
        return 0.0, 1.0
    low = float(beta.ppf(0.025, hits, tried - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(0.975, hits + 1, tried - hits)) if hits < tried else 1.0


def halves(pair: Pair) -> tuple[Data, Data]:
    """Test samples to measure on, and those to examine; drawn by class."""
    x, y = pair.test
    measured, examined = stratified(y.numpy(), len(y) // 2, seed=0)
    return (x[measured], y[measured]), (x[examined], y[examined])


def accuracy(model: torch.nn.Module, data: Data) -> float:
    """The share of right answers."""
    with torch.inference_mode():
        return float((model(data[0]).argmax(1) == data[1]).double().mean())


def scales(facts: Facts) -> dict[str, float]:
    """Where a pair lies on the scales that alarms are measured on."""
    found: dict[str, float] = {}
    labels = facts.labels
    assert labels is not None
    due = labels.bincount(minlength=len(facts.names)).double() / len(labels)
    sure = [facts.said[r].logits.double().softmax(1).max(1) for r in ("teacher", "student")]
    against = (sure[0].indices == sure[1].indices) & (sure[0].indices != labels)
    for role, said in facts.said.items():
        assert said.accuracy is not None and said.temperature is not None
        named = said.logits.argmax(1).bincount(minlength=len(facts.names)).double() / len(labels)
        found[f"confidence - accuracy, {role}"] = said.confidence - said.accuracy
        found[f"classes named - due, {role}"] = float((named - due).abs().sum()) / 2
        if said.accuracy < 1:
            found[f"ln fitting temperature, {role}"] = math.log(said.temperature)
        if (view := facts.embedding) is not None:
            found[f"rank, {role}"] = view.rank_student if role == "student" else view.rank_teacher
    found["ln logits' spread, student / teacher"] = math.log(scale_ratio(facts))
    found["agreed against the label"] = float(
        (against & (sure[0].values > 0.8) & (sure[1].values > 0.8)).double().mean()
    )
    if facts.cliffs is not None:
        found["fall of singular values"] = min(fall for fall, _ in facts.cliffs)
    if facts.training is not None:
        found["copies"] = len(facts.training.copies) / len(facts.sample)
        found |= {f"shift of {name}": chance - 0.5 for name, chance in facts.training.shift.items()}
    return found


def examine(planted: Planted, seed: int) -> tuple[dict[str, Any], Facts]:
    """What a diagnosis says, as plain values, and the facts behind it."""
    seen: list[Facts] = []
    judge = under_test.judge

    def watched(facts: Facts) -> list[Finding]:
        seen.append(facts)
        return judge(facts)

    under_test.judge = watched
    try:
        found = diagnose(planted.teacher, planted.student, planted.data, seed=seed, **ASKED, **planted.options)
    finally:
        under_test.judge = judge
    first = [[f.code, round(f.severity, 3), f.evidence.get("model", "")] for f in found.findings[:5]]
    return {"first": first, "alarms": [f.code for f in found.alarms]}, seen[0]


def healthy(pair: Pair, training: bool) -> dict[str, Any]:
    """A pair as it is: measured, then examined (every second with its training samples given)."""
    measured, examined = halves(pair)
    t, s = (accuracy(m, measured) for m in (pair.teacher, pair.student))
    as_it_is = Planted(
        teacher=pair.teacher,
        student=pair.student,
        data=examined,
        codes=frozenset(),
        options={"training": pair.train} if training else {},
    )
    said, facts = examine(as_it_is, seed=0)
    is_healthy = -BEFORE <= t - s <= BEHIND
    return {"teacher": t, "student": s, "healthy": is_healthy, "training": training, **said, "scales": scales(facts)}


def faulty(pair: Pair, name: str) -> dict[str, Any]:
    """A fault planted in a pair: is it named by an alarm among the first three findings?"""
    measured, examined = halves(pair)
    seed = int.from_bytes(hashlib.sha256(f"{pair.name} {name}".encode()).digest()[:4], "big")
    planted = KINDS[name].plant(pair, examined, np.random.default_rng(seed))
    own = planted.data if _of_input(name) and planted.data[0] is not examined[0] else None
    cost = max(
        accuracy(before, measured if own is None else examined) - accuracy(after, measured if own is None else own)
        for before, after in ((pair.teacher, planted.teacher), (pair.student, planted.student))
    ) if _of_input(name) else None  # fmt: skip
    said, _ = examine(planted, seed=0)
    named = any(code in planted.codes and severity >= under_test.ALARM for code, severity, _ in said["first"][:3])
    return {"named": named, "cost": cost, **said}


def version() -> str:
    """Hash of what is under test: results of another version are not mixed in."""
    digest = hashlib.sha256()
    rules = sorted(Path(under_test.__file__).parent.rglob("*.py"))
    for file in (*rules, Path(__file__).with_name("diagnosis_faults.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


class Record:
    """Results by key, a line of json each; what is there is not done again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        self.known: dict[str, dict[str, Any]] = {e["key"]: e for e in map(json.loads, lines)}

    def once(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result under ``key``, made if it is not known."""
        if key not in self.known:
            self.known[key] = {"key": key, **make()}
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.known[key]) + "\n")
            print(key, self.known[key]["first"][:3], file=sys.stderr, flush=True)
        return self.known[key]


def run(group: str, pairs: int, faults: int, cache: Path, folder: Path | None) -> tuple[list[dict[str, Any]], ...]:
    """All healthy and all faulty results of a set."""
    cache.mkdir(parents=True, exist_ok=True)
    record, data = Record(cache / f"{group}-{version()}.jsonl"), sources(folder)
    well: list[dict[str, Any]] = []
    ill: list[dict[str, Any]] = []
    tried = dict.fromkeys(KINDS, 0)
    for number in range(pairs):
        pair = make_pair(group, number, cache, data)
        well.append(record.once(pair.name, lambda p=pair, n=number: healthy(p, n % 2 == 1)))  # type: ignore[misc]
        if not well[-1]["healthy"]:
            continue
        names = [n for n, k in KINDS.items() if tried[n] < faults and k.fits(pair)]
        for name in sorted(names, key=lambda n: tried[n])[: math.ceil(2 * faults * len(KINDS) / max(pairs, 1))]:
            tried[name] += 1
            key = f"{pair.name}: {name}"
            ill.append({"kind": name} | record.once(key, lambda p=pair, n=name: faulty(p, n)))  # type: ignore[misc]
    return well, ill


def percent(hits: int, tried: int) -> str:
    """``"3 of 50 (6.0 %; 1.3 to 16.5 %)"``."""
    low, high = interval(hits, tried)
    share = 100 * hits / tried if tried else math.nan
    return f"{hits} of {tried} ({share:.1f} %; {100 * low:.1f} to {100 * high:.1f} %)"


def rates(well: list[dict[str, Any]], ill: list[dict[str, Any]]) -> str:
    """Both rates and the table by kind of fault, in markdown."""
    kept = [w for w in well if w["healthy"]]
    loud = [w for w in kept if w["alarms"]]
    costly = [i for i in ill if i["cost"] is None or i["cost"] >= 0.1 or not _of_input(i["kind"])]
    lines = [
        f"Of {len(well)} pairs {len(kept)} are healthy by the measurement on samples that are not examined.",
        "",
        f"- healthy pairs with an alarm: {percent(len(loud), len(kept))}",
        f"- planted faults named by an alarm among the first three findings: "
        f"{percent(sum(i['named'] for i in ill), len(ill))}",
        f"- the same without changes of the input that cost less than 10 points of accuracy: "
        f"{percent(sum(i['named'] for i in costly), len(costly))}",
        "",
        "| fault | planted | named (share; interval) | first alarm instead |",
        "|---|---|---|---|",
    ]
    for name, kind in KINDS.items():
        mine = [i for i in ill if i["kind"] == name]
        if mine:
            other = [i["first"][0][0] if i["alarms"] else "none" for i in mine if not i["named"]]
            said = ", ".join(f"`{c}` {other.count(c)}" for c in sorted(set(other)))
            lines.append(
                f"| {kind.words} | {len(mine)} | {percent(sum(i['named'] for i in mine), len(mine))} | {said} |"
            )
    lines += ["", "Alarms of healthy pairs:", ""]
    lines += [f"- {w['key']}: {', '.join(w['alarms'])}" for w in loud] or ["- none"]
    return "\n".join(lines)


def _of_input(name: str) -> bool:
    return name in ("bgr", "normalised", "of_255", "turned", "interpolated", "interpolated_data", "interpolated_blind")


def distribution(well: list[dict[str, Any]]) -> str:
    """Where healthy pairs lie on every scale, in markdown."""
    kept = [w for w in well if w["healthy"]]
    lines = [
        f"{len(kept)} healthy pairs of {len(well)}; 3.1 standard deviations leave one in a thousand of a normal "
        "distribution on each side.",
        "",
        "| scale | smallest | mean - 3.1 sd | mean | mean + 3.1 sd | largest |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted({n for w in kept for n in w["scales"]}):
        values = [w["scales"][name] for w in kept if name in w["scales"]]
        mean, sd = statistics.mean(values), statistics.pstdev(values)
        cells = (min(values), mean - 3.1 * sd, mean, mean + 3.1 * sd, max(values))
        lines.append(f"| {name} | " + " | ".join(f"{v:.3f}" for v in cells) + " |")
    return "\n".join(lines)


def put(text: str, name: str, page: Path) -> None:
    """Put ``text`` between the page's marks ``<!-- name -->`` and ``<!-- end of name -->``."""
    old = page.read_text(encoding="utf-8")
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, tail = old.index(first) + len(first), old.index(last)
    page.write_text(f"{old[:head]}\n\n{text}\n\n{old[tail:]}", encoding="utf-8")


def main() -> None:
    """Make, examine, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", help="mending, held-out, or another name: other pairs")
    parser.add_argument("--pairs", type=int, default=48, help="pairs made")
    parser.add_argument("--faults", type=int, default=0, help="of each kind; held-out: 10")
    parser.add_argument("--data", type=Path, help="folder with more data: FashionMNIST/raw, cifar-10-batches-py, .npz")
    parser.add_argument("--cache", type=Path, default=Path("runs/diagnosis"), help="where weights and results are kept")
    parser.add_argument(
        "--write", type=Path, help="page that gets the scales (of mending) or the rates (of another set)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    well, ill = run(options.group, options.pairs, options.faults, options.cache, options.data)
    if options.write:
        words = {"scales": distribution(well)} if options.group == "mending" else {"rates": rates(well, ill)}
        for name, text in words.items():
            put(text, name, options.write)
    print(distribution(well) + "\n\n" + rates(well, ill))


if __name__ == "__main__":
    main()
