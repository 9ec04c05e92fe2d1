"""What has the student not learnt, and is anything wrong with the pair? ``diagnose(teacher, student, data)``.

::

    from kdcore.diagnose import diagnose

    d = diagnose(teacher, student, loader)
    d.findings[0].sentence      # what differs most, in words
    d.alarms                    # only what looks like a fault
    d.to_dataframe("samples")   # what the teacher knows and the student does not

Findings carry codes from :data:`CODES`; the rules and their thresholds are in ``docs/diagnose.md``. Faults are told
from symptoms by asking the model again with one thing changed (another normalisation, another order of channels,
statistics of the batch, classes renamed): what brings the accuracy back is what was wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import preserved_rng
from ..functional.agreement import paired_gain
from ..functional.checks import check_positive
from ._broken import non_finite
from ._changes import candidates, canvases, scalings
from ._codes import ALARM, CODES, Code
from ._finding import Facts, Finding
from ._history import flat, learning, soft_term
from ._measures import (
    Activity,
    Answers,
    LayerView,
    Occlusion,
    agreement,
    align,
    answers,
    cost,
    embedding_names,
    layer_map,
    occlude,
    propose,
    read,
    robustness,
    watching,
)
from ._pair import ROLES, Net, Role, check_pair, is_unit, prepare, settle, undisturbed
from ._probes import BEHIND, WEAK, Gain, compete, try_bias, try_changes, try_head, try_matching, try_scale
from ._result import TABLES, Diagnosis, input_words
from ._sample import Sample, draw
from ._seen import cliffs, seen
from ._states import depends_on_batch, try_batch_statistics, unseen
from ._training import compare
from ._weights import fresh, odd_weights, stages
from .rules import judge, same_network
from .rules.outputs import bounded

Progress = Callable[[int, int, str], None]


def diagnose(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    *,
    teacher_transform: Any = "auto",
    student_transform: Any = "auto",
    class_names: Sequence[str] | None = None,
    limit: int = 256,
    batch_size: int = 32,
    max_pairs: int = 4,
    bootstrap: int = 200,
    occlusion_images: int = 4,
    mask_ratios: Sequence[float] = (0.15, 0.3, 0.5),
    mask_samples: int = 48,
    training: Any = None,
    initial: Mapping[str, Tensor] | nn.Module | None = None,
    history: Any = None,
    settings: Mapping[str, Any] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Compare a student with its teacher, and look for what is wrong with either.

    The models are measured in eval mode; mode flags (which are evidence), running statistics and random state are as
    before afterwards.

    Args:
        teacher, student: any modules that map a batch to ``(N, C)`` class scores (or return them as ``.logits``).
        data: a loader of batches ``(x, y)`` (dicts and ``(x,)`` too), a map-style data set, a tuple of tensors
            ``(x, y)``, or a :class:`~kdcore.tasks.Task` (its test split). Best are samples neither model was trained
            on. Without labels only what needs none is looked at. Of more than ``limit`` samples a part is drawn by
            class and by ``seed``; what can only be read in order is read up to 16 times the limit for that.
        teacher_transform, student_transform: applied to the loader's ``x`` for that model. ``"auto"``: for inputs in
            [0, 1] the normalisation the model's configuration states (:func:`kdcore.inputs.input_normalization`),
            unless the model is clearly better without; otherwise nothing. ``None``: nothing.
        class_names: names of the classes; numbers by default.
        limit: samples used. batch_size: of the passes.
        max_pairs: layer pairs that are aligned. bootstrap: resamples for the intervals of the CKA map.
        occlusion_images: how many images are occluded (those the student misses first). mask_ratios, mask_samples:
            of the robustness curves; ``()`` leaves them out.
        training: samples the student (and best the teacher) was trained on, in the forms of ``data`` (of a task its
            training split), without augmentation: shows copies among the data, another preparation, and whether
            the models know at least these.
        initial: the student's weights before training (a state dict or module): shows what was not trained.
        history: of the training (a :class:`~kdcore.distiller.DistillResult`, list of epochs, table): the soft term is
            compared with ``T^2 KL(T)``, and steps and losses tell whether it was trained at all. settings: of the
            training; ``temperature``, ``kd_weight`` and ``ce_weight`` are read, and ``t_squared`` if it is there. loss:
            the soft term as ``loss(student_logits, teacher_logits)``, without weight; needs
            ``settings={"temperature": T}``.
        seed: of the sample and all draws.
        progress: called with (parts done, parts, what comes next).

    Raises:
        ValueError: no samples, other numbers of classes, outputs that are not ``(N, C)``, labels outside the classes,
            NaN in the data, or ``initial`` of another network.
        TypeError: not modules, data or transforms.

    Reference:
        Stanton et al. 2021, "Does Knowledge Distillation Really Work?", arXiv:2106.05945 (agreement); Guo et al. 2017
        (calibration); Nguyen et al. 2021 (CKA); Zeiler and Fergus 2014 (occlusion).
    """
    for name, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, nn.Module):
            raise TypeError(f"{name} must be an nn.Module, got {type(model).__name__}.")
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        check_positive(name, value)
    first = _initial_weights(initial, student)
    clock = _Clock(progress)
    with preserved_rng(), undisturbed((teacher, student)):
        with clock("sample"):
            sample, named = draw(data, limit=limit, batch_size=batch_size, seed=seed)
            given = {"teacher": teacher_transform, "student": student_transform}
            models: dict[Role, nn.Module] = {"teacher": teacher, "student": student}
            nets: dict[Role, Net] = {role: prepare(role, models[role], given[role], sample) for role in ROLES}
        teacher.eval()
        student.eval()
        with torch.inference_mode():
            used = {
                "limit": limit,
                "batch_size": sample.batch_size,
                "seed": seed,
                "bootstrap": bootstrap,
                "mask_ratios": list(mask_ratios),
                **flat(settings),
            }
            return _examine(
                nets,
                sample,
                tuple(class_names or named),
                first,
                clock,
                max_pairs=max_pairs,
                bootstrap=bootstrap,
                images=occlusion_images,
                ratios=tuple(mask_ratios),
                masked=mask_samples,
                seed=seed,
                history=history,
                settings=settings,
                loss=loss,
                training=training,
                used=used,
            )


class _Clock:
    """Seconds per part, and the progress callback."""

    PARTS = ("sample", "answers", "training", "layers", "weights", "probes", "occlusion", "masks", "cost")

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.seconds = progress, dict.fromkeys(self.PARTS, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self.progress is not None:
            self.progress(self.PARTS.index(part), len(self.PARTS), part)
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start


def _initial_weights(initial: Mapping[str, Tensor] | nn.Module | None, student: nn.Module) -> dict[str, Tensor] | None:
    if initial is None:
        return None
    weights = dict(initial.state_dict() if isinstance(initial, nn.Module) else initial)
    own = dict(student.named_parameters())
    if not own.keys() & weights.keys():
        raise ValueError(
            f"initial must hold the student's weights before training, got the names "
            f"{list(weights)[:3]} and the student has {list(own)[:3]}."
        )
    return weights


def _examine(
    nets: dict[Role, Net],
    sample: Sample,
    names: tuple[str, ...],
    initial: dict[str, Tensor] | None,
    clock: _Clock,
    *,
    max_pairs: int,
    bootstrap: int,
    images: int,
    ratios: tuple[float, ...],
    masked: int,
    seed: int,
    history: Any,
    settings: Mapping[str, Any] | None,
    loss: Callable[[Tensor, Tensor], Tensor] | None,
    training: Any,
    used: dict[str, Any],
) -> Diagnosis:
    student, teacher = nets["student"], nets["teacher"]
    with clock("answers"):
        for net in nets.values():
            settle(net, sample)
        activity = {role: _activity(net, sample) for role, net in nets.items()}
        if broken := non_finite(nets, sample, activity, {}, names, used):
            return broken
        pairs, notes = propose(student, teacher, sample, max_pairs)
        *embedding, missing = embedding_names(student, teacher, sample)
        ends = (embedding[0], embedding[1])
        taps = {"student": [p.student.name for p in pairs], "teacher": [p.teacher.name for p in pairs]}
        logits, features = {}, {}
        for net, end in zip((student, teacher), ends, strict=True):
            logits[net.role], features[net.role] = read(net, sample, [*taps[net.role], *([end] if end else [])])
        if broken := non_finite(nets, sample, activity, logits, names, used):
            return broken
        labels = check_pair(logits["student"], logits["teacher"], sample.labels)
        names = _names(names, logits["student"].shape[1])
        said: dict[Role, Answers] = {role: answers(logits[role], labels) for role in ROLES}
    embeddings = {net.role: features[net.role][end] for net, end in zip((student, teacher), ends, strict=True) if end}
    facts = Facts(
        nets=nets,
        embeddings=embeddings,
        said=said,
        sample=sample,
        labels=labels,
        names=names,
        activity=activity,
        agreement=agreement(logits["student"], logits["teacher"], labels),
        same=same_network(student.model, teacher.model),
        pairs=[(p.student.name, p.teacher.name) for p in pairs],
    )
    facts.learning = learning(history, settings, len(names))
    if training is not None:
        with clock("training"):
            facts.training = compare(training, sample, nets, limit=len(sample), seed=seed)
    with clock("layers"):
        facts.views = align(pairs, ends, features["student"], features["teacher"])
        facts.embedding = facts.views[-1] if all(ends) else None
        if pairs:
            facts.cka = layer_map(student, teacher, sample, bootstrap=bootstrap, seed=seed)
    with clock("weights"):
        facts.stages = {"student": stages(student.model, initial), "teacher": stages(teacher.model)}
        facts.odd_weights = {role: odd_weights(net.model) for role, net in nets.items()}
        with torch.inference_mode(False):
            facts.soft_term = soft_term(loss, history, settings, logits["student"].clone(), logits["teacher"].clone())
    with clock("probes"):
        _probe(facts)
    with clock("occlusion"):
        if sample.is_image and images > 0:
            rows = _worth_seeing(said, labels, images)
            classes = labels[rows] if labels is not None else logits["teacher"][rows].argmax(1)
            facts.occlusion = occlude(student, teacher, sample, rows, classes)
    with clock("masks"):
        if sample.is_image and ratios:
            few = sample.part(slice(0, masked))
            facts.robustness = robustness(
                student, teacher, few, {role: logits[role][:masked].argmax(1) for role in ROLES}, ratios, seed
            )
            if not facts.robustness:
                notes.append("no masks are tried: the images are not square, or too small for blocks of 2 pixels.")
    with clock("cost"):
        costs: dict[str, dict[str, float]] = {role: cost(net, sample) for role, net in nets.items()}
    return Diagnosis(
        findings=judge(facts),
        said=said,
        agreement=facts.agreement,
        labels=labels,
        class_names=names,
        sample=sample,
        cka=facts.cka,
        pairs=facts.pairs,
        alignments=facts.views,
        occlusion=facts.occlusion,
        robustness=facts.robustness,
        cost=costs,
        inputs=input_words(nets),
        notes=[*notes, *missing],
        settings=used,
        seconds=clock.seconds,
    )


def _names(names: tuple[str, ...], classes: int) -> tuple[str, ...]:
    if names and len(names) != classes:
        raise ValueError(f"class_names must hold {classes} names, one per output of the models, got {len(names)}.")
    return tuple(map(str, names)) or tuple(map(str, range(classes)))


def _activity(net: Net, sample: Sample) -> list[Activity]:
    x = sample.x[: max(2 * sample.batch_size, 8)]
    with watching(net.model, len(x)) as found:
        net.logits(x)
    return found


def _worth_seeing(said: Mapping[Role, Answers], labels: Tensor | None, count: int) -> Tensor:
    """Rows to occlude: those the teacher gets right and the student wrong, then where they differ most."""
    p = {role: said[role].logits.double().softmax(1) for role in ROLES}
    differ = (p["teacher"] - p["student"]).abs().sum(1)
    if labels is not None and said["teacher"].right is not None and said["student"].right is not None:
        differ = differ + 4.0 * (said["teacher"].right & ~said["student"].right)
    return differ.argsort(dim=0, descending=True, stable=True)[:count]


def _probe(facts: Facts) -> None:
    """Ask both models again with one thing changed."""
    sample = facts.sample
    facts.unseen = unseen(facts.nets, sample, {role: facts.said[role].logits for role in ROLES})
    facts.cliffs = cliffs(sample.x)
    facts.seen = {role: seen(net, sample) for role, net in facts.nets.items()}
    for role, net in facts.nets.items():
        said = facts.said[role]
        facts.dependence[role] = depends_on_batch(net, sample, said.logits)
        gains, facts.batch_changes[role] = try_batch_statistics(net, sample, said.right, said.logits)
        if said.right is None or said.accuracy is None or facts.labels is None:
            facts.gains += gains
        elif not fresh(facts.stages[role]):  # never trained: no change will help
            gains += _relabelled(facts, role) + _reinput(facts, role, facts.labels)
            facts.gains += compete(gains, facts.labels)


def _relabelled(facts: Facts, role: Role) -> list[Gain]:
    """Changes of what the model's answers mean."""
    said, labels = facts.said[role], facts.labels
    assert labels is not None and said.right is not None
    gains = try_matching(role, said.logits, labels, said.right, facts.names)
    gains += try_bias(role, said.logits, labels, said.right)
    if (features := facts.embeddings.get(role)) is not None:
        gains += try_head(role, features, labels, said.right, len(facts.names))
    return gains


def _reinput(facts: Facts, role: Role, labels: Tensor) -> list[Gain]:
    """Changes of the model's input; scalings and other sizes only where it is weak and nothing else helps."""
    net, sample, said, other = facts.nets[role], facts.sample, facts.said[role], facts.said[facts.other(role)]
    assert said.right is not None and said.accuracy is not None
    found = try_changes(
        net,
        candidates(net, facts.nets[facts.other(role)], sample),
        sample,
        said.right,
        logits=said.logits.cpu() if said.accuracy >= WEAK else None,
    )
    found += _against_configuration(net, sample, said.right, found)
    weak = said.accuracy < WEAK or (other.accuracy or 0.0) - said.accuracy > BEHIND
    explained = [*found, *try_matching(role, said.logits, labels, said.right, facts.names)]
    if weak and all(g.after < WEAK for g in explained) and sample.x.is_floating_point():
        found += [
            g
            for g in try_changes(net, scalings(net, sample), sample, said.right)
            if all(g.after > f.after for f in found if f.code == g.code)
        ]
    if weak or any(g.code == "input_resolution_mismatch" for g in found):
        found += try_changes(net, canvases(net, sample), sample, said.right)
    if said.off_scale and not any(g.code == "input_normalization_mismatch" for g in found):
        scaled = [
            c
            for c in candidates(net, facts.nets[facts.other(role)], sample)
            if c.code == "input_normalization_mismatch"
        ]
        facts.scaled[role] = try_scale(net, scaled + scalings(net, sample), sample, said.logits)
    best: dict[str, Gain] = {}
    for gain in found:
        best[gain.code] = max(best.get(gain.code, gain), gain, key=lambda g: g.after)
    return list(best.values())


def _against_configuration(net: Net, sample: Sample, right: Tensor, found: Sequence[Gain]) -> list[Gain]:
    """A transform was passed in that is not the stated one: is the stated one better (a single, planned test)?"""
    if (
        isinstance(net.stated, nn.Identity)
        or net.choice.get("input") != "through the transform passed in"
        or (not is_unit(sample.x))
        or any(g.code == "input_normalization_mismatch" for g in found)
    ):
        return []
    stated = net.stated.to(net.device)
    assert sample.labels is not None
    scores = net.over(sample.batches, stated)
    after = scores.argmax(1) == sample.labels.cpu()
    better = paired_gain(right, after)
    if better.gain <= 0 or better.p > 0.05:
        return []
    return [
        Gain(
            role=net.role,
            code="input_normalization_mismatch",
            p=better.p,
            samples=len(sample),
            words="the normalisation its configuration states",
            before=float(right.double().mean()),
            after=float(after.double().mean()),
            logits=scores,
        )
    ]


__all__ = [
    "ALARM",
    "CODES",
    "ROLES",
    "TABLES",
    "Answers",
    "Code",
    "Diagnosis",
    "Finding",
    "LayerView",
    "Occlusion",
    "bounded",
    "diagnose",
]
