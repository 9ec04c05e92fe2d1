"""What every paper in ``kdcore.methods`` promises, parametrised by the registry: new modules need no edit here.

Objectives are evaluated on :meth:`kdcore.method.Method.example`, in the state in which the loop would call them.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.golden import close
from torch import Tensor, nn

from kdcore.card import AXES, INVARIANCES
from kdcore.method import Method, Signals, TrainingOutputs, total
from kdcore.registry import create_method, get_card, list_methods, list_objectives, objective_class

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TERMS = ("ce",)  # the loop adds cross-entropy: the baseline has no terms of its own
OBJECTIVES = [name for name in list_objectives() if name not in WITHOUT_TERMS]
PROMISES = [(name, promise) for name in OBJECTIVES for promise in objective_class(name).invariances]
LOSSES = [(slug, loss) for slug in list_methods() for loss in get_card(slug).losses]
#: Public functions of the papers that have no loss (searches, selections).
ALGORITHMS = [
    (slug, name)
    for slug in list_methods()
    if not get_card(slug).losses
    for module in [importlib.import_module(f"kdcore.methods.{slug}")]
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
]
SLUGS = list_methods()

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_paper = pytest.mark.parametrize("slug", SLUGS)
every_loss = pytest.mark.parametrize(("slug", "loss"), LOSSES + ALGORITHMS)


# Helpers --------------------------------------------------------------------------------------------------------------


def student_leaves(s: Signals) -> dict[str, Tensor]:
    """The student's tensors in the signals, by field or tap name; of a student with several outputs, each of them."""
    features = {f"student_features/{k}": v for k, v in s.student_features.items()}
    if isinstance(s.student_output, tuple):
        return {f"student_output/{i}": v for i, v in enumerate(s.student_output)} | features
    return {"student_logits": s.student_logits, **features}


def teacher_leaves(s: Signals) -> dict[str, Tensor]:
    """The teacher's floating tensors in the signals."""
    leaves = {
        "teacher_logits": s.teacher_logits,
        **{f"teacher_features/{k}": v for k, v in s.teacher_features.items()},
    }
    return {k: v for k, v in leaves.items() if v is not None}


def with_tensors(s: Signals, new: dict[str, Tensor]) -> Signals:
    """A copy of the signals in which the named tensors are replaced; the generator starts anew."""
    features = {side: dict(getattr(s, side)) for side in ("student_features", "teacher_features")}
    fields: dict[str, Any] = {}
    for name, tensor in new.items():
        side, _, tap = name.partition("/")
        if side == "student_output":
            outputs = fields.setdefault(side, list(s.student_output))
            outputs[int(tap)] = tensor
        elif tap:
            features[side][tap] = tensor
        else:
            fields[side] = tensor
    if "student_output" in fields:
        fields["student_output"] = tuple(fields["student_output"])
    return replace(s, **features, **fields, generator=torch.Generator().manual_seed(0))


def changed(s: Signals, change: Callable[[str, Tensor], Tensor]) -> Signals:
    """The signals with ``change(name, tensor)`` applied to the student's and the teacher's tensors, as fresh leaves."""
    student = {k: change(k, v.detach()).clone().requires_grad_() for k, v in student_leaves(s).items()}
    return with_tensors(s, {**student, **{k: change(k, v.detach()) for k, v in teacher_leaves(s).items()}})


def ready(name: str, s: Signals, **knobs: Any) -> Method:
    """The objective in the signals' precision; it has looked at the signals, and their epoch has begun."""
    torch.manual_seed(0)
    method = create_method(name, **knobs).to(s.student_logits.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no sample of class")  # one batch stands for the training set
        method.prepare(TrainingOutputs.of(s))
    method.on_epoch_start(s.epoch)
    return method


def loss_of(name: str, s: Signals) -> Tensor:
    return total(ready(name, s).terms(s).values())


def gradients(name: str, s: Signals) -> dict[str, Tensor]:
    leaves = student_leaves(s)
    found = torch.autograd.grad(loss_of(name, s), list(leaves.values()), allow_unused=True)
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), found, strict=True)}


def norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([t.norm() for t in tensors.values()]).norm())


# Values and gradients -------------------------------------------------------------------------------------------------


@every_objective
def test_terms_are_finite_named_scalars(name: str) -> None:
    s = objective_class(name).example()
    terms = ready(name, s).terms(s)
    assert terms, "an objective without terms does not train"
    for key, term in terms.items():
        assert isinstance(key, str) and key and key != "ce", "cross-entropy is the loop's term"
        assert isinstance(term, Tensor) and term.shape == () and term.isfinite(), f"{key}: {term}"


@every_objective
def test_the_teacher_gets_no_gradient(name: str) -> None:
    s = objective_class(name).example()
    teacher = {k: v.detach().clone().requires_grad_() for k, v in teacher_leaves(s).items()}
    loss_of(name, with_tensors(s, teacher)).backward()
    assert teacher or not objective_class(name).needs.teacher_logits
    for key, leaf in teacher.items():
        assert leaf.grad is None or not leaf.grad.any(), f"{key} has a gradient"


@every_objective
def test_the_student_learns_away_from_a_match(name: str) -> None:
    for seed in range(3):
        assert norm(gradients(name, objective_class(name).example(seed=seed))) > 1e-6


@every_objective
def test_gradcheck(name: str) -> None:
    s = objective_class(name).example(classes=4)
    leaves = student_leaves(s)
    method = ready(name, s)
    state = copy.deepcopy(method.state_dict())

    def loss(*tensors: Tensor) -> Tensor:
        method.load_state_dict(state)  # momenta and queues start equal at every evaluation
        return total(method.terms(with_tensors(s, dict(zip(leaves, tensors, strict=True)))).values())

    assert torch.autograd.gradcheck(loss, tuple(leaves.values()))


@every_objective
def test_equal_seeds_give_equal_bits(name: str) -> None:
    cls = objective_class(name)
    first, second = (loss_of(name, cls.example(seed=5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, loss_of(name, cls.example(seed=6)))


@every_objective
def test_bfloat16_autocast(name: str) -> None:
    """Under autocast with bfloat16 tensors: finite, at least float32, near the value of the same tensors in float64."""
    s = changed(objective_class(name).example(dtype=torch.float32), lambda k, v: v.bfloat16())
    method = ready(name, changed(s, lambda k, v: v.float()))
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.terms(s)
    loss = total(terms.values())
    exact = loss_of(name, changed(s, lambda k, v: v.double()))
    assert loss.isfinite() and loss.dtype in (torch.float32, torch.float64)
    close(loss, exact, 0.02)  # three bits below bfloat16's unit of 2^-8
    grads = torch.autograd.grad(loss, list(student_leaves(s).values()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in grads)


@every_objective
def test_a_batch_of_one_works_or_is_refused(name: str) -> None:
    s = objective_class(name).example(batch=1)
    try:
        loss = loss_of(name, s)
    except ValueError as refusal:
        assert "sample" in str(refusal)
    else:
        loss.backward()
        assert loss.isfinite() and all(v.grad is None or v.grad.isfinite().all() for v in student_leaves(s).values())


# Compilation ----------------------------------------------------------------------------------------------------------


def compiled_equals_eager(name: str, backend: str) -> None:
    s = objective_class(name).example()
    keys = list(student_leaves(s))
    method = ready(name, s)
    state = copy.deepcopy(method.state_dict())

    def loss(*tensors: Tensor) -> Tensor:
        return total(method.terms(with_student(s, keys, tensors)).values())

    torch.compiler.reset()
    results = []
    for function in (loss, torch.compile(loss, backend=backend)):
        method.load_state_dict(state)
        leaves = [v.detach().clone().requires_grad_() for v in student_leaves(s).values()]
        value = function(*leaves)
        results.append([value, *torch.autograd.grad(value, leaves, allow_unused=True)])
    for eager, compiled in zip(*results, strict=True):
        assert (eager is None) == (compiled is None)
        if eager is not None:
            close(compiled, eager, 1e-10)


def with_student(s: Signals, keys: list[str], tensors: tuple[Tensor, ...]) -> Signals:
    new = dict(zip(keys, tensors, strict=True))
    features = {k: new[f"student_features/{k}"] for k in s.student_features}
    if isinstance(s.student_output, tuple):
        outputs = tuple(new[f"student_output/{i}"] for i in range(len(s.student_output)))
        return replace(s, student_output=outputs, student_features=features)
    return replace(s, student_logits=new["student_logits"], student_features=features)


@every_objective
def test_compiles(name: str) -> None:
    compiled_equals_eager(name, "aot_eager")


def one_per_family() -> list[Any]:
    """The objectives; all but the first of each family are marked ``inductor``: each costs ten seconds of compiler."""
    seen: set[str] = set()
    marked = []
    for name in OBJECTIVES:
        family = objective_class(name).card.family
        marked.append(pytest.param(name, marks=[pytest.mark.inductor] if family in seen else []))
        seen.add(family)
    return marked


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor warns about the machine it compiles on, not about the loss
@pytest.mark.parametrize("name", one_per_family())
def test_compiles_to_machine_code(name: str) -> None:
    compiled_equals_eager(name, "inductor")


# Declared invariances -------------------------------------------------------------------------------------------------


def _zero_at_match(name: str) -> None:
    close(loss_of(name, objective_class(name).example(match=True)), 0.0, floor=1e-6)


def _minimal_at_match(name: str) -> None:
    s = objective_class(name).example(match=True)
    away = norm(gradients(name, objective_class(name).example()))
    assert norm(gradients(name, s)) < 1e-6 * max(1.0, away)


def _unchanged(name: str, change: Callable[[Signals], Signals]) -> None:
    s = objective_class(name).example()
    other = change(s)
    tensors = zip(student_leaves(s).values(), student_leaves(other).values(), strict=True)
    assert not all(torch.equal(a, b) for a, b in tensors), "the check must change something"
    close(loss_of(name, other), loss_of(name, s), 1e-9)


def _shift_invariant(name: str) -> None:
    g = torch.Generator().manual_seed(1)

    def change(s: Signals) -> Signals:
        per_sample = torch.randn(s.student_logits.shape[0], *[1] * (s.student_logits.ndim - 1), generator=g).double()
        return with_tensors(s, {"student_logits": s.student_logits + 3 * per_sample})

    _unchanged(name, change)


def _scale_invariant(name: str) -> None:
    def change(s: Signals) -> Signals:
        keys = [k for k in student_leaves(s) if k.startswith("student_features")] or ["student_logits"]
        return with_tensors(s, {k: 2.5 * student_leaves(s)[k] for k in keys})

    _unchanged(name, change)


def _class_permutation(name: str) -> None:
    def change(s: Signals) -> Signals:
        order = torch.randperm(s.student_logits.shape[1], generator=torch.Generator().manual_seed(3))
        new = {k: v[:, order] for k, v in (student_leaves(s) | teacher_leaves(s)).items() if k.endswith("_logits")}
        labels = s.labels if s.labels is None else order.argsort()[s.labels]
        return replace(with_tensors(s, new), labels=labels)

    _unchanged(name, change)


def _sample_permutation(name: str) -> None:
    def change(s: Signals) -> Signals:
        order = torch.randperm(s.student_logits.shape[0], generator=torch.Generator().manual_seed(3))
        new = {k: v[order] for k, v in (student_leaves(s) | teacher_leaves(s)).items()}
        per_sample = {k: v if (v := getattr(s, k)) is None else v[order] for k in ("labels", "inputs", "index", "view")}
        return replace(with_tensors(s, new), **per_sample)

    _unchanged(name, change)


def _rotation_invariant(name: str) -> None:
    def change(s: Signals) -> Signals:
        features = {k: v for k, v in student_leaves(s).items() if k.startswith("student_features")}
        assert features, "rotation_invariant is a promise about features, and example() has none"

        def rotated(x: Tensor) -> Tensor:
            g = torch.Generator().manual_seed(3)
            q, _ = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], generator=g, dtype=x.dtype))
            return torch.einsum("nd...,de->ne...", x, q)

        return with_tensors(s, {k: rotated(v) for k, v in features.items()})

    _unchanged(name, change)


CHECKS = {
    "zero_at_match": _zero_at_match,
    "minimal_at_match": _minimal_at_match,
    "shift_invariant": _shift_invariant,
    "scale_invariant": _scale_invariant,
    "class_permutation": _class_permutation,
    "sample_permutation": _sample_permutation,
    "rotation_invariant": _rotation_invariant,
}


def test_every_invariance_has_a_check() -> None:
    assert CHECKS.keys() == INVARIANCES.keys()


@pytest.mark.parametrize(("name", "promise"), PROMISES)
def test_promises_are_kept(name: str, promise: str) -> None:
    CHECKS[promise](name)


# Borders --------------------------------------------------------------------------------------------------------------


@every_objective
def test_knobs_are_checked(name: str) -> None:
    cls = objective_class(name)
    first = cls.knobs[0]
    with pytest.raises(ValueError, match=f"has no knob '{first.name}x'.*{first.name}"):
        create_method(name, **{f"{first.name}x": first.default})
    for knob in cls.knobs:
        with pytest.raises(TypeError, match=knob.name):
            create_method(name, **{knob.name: object()})
        if knob.choices:
            with pytest.raises(ValueError, match=knob.name):
                create_method(name, **{knob.name: "no such choice"})


@every_objective
def test_defaults_make_the_method(name: str) -> None:
    defaults = {k.name: k.default for k in objective_class(name).knobs}
    assert create_method(name).settings == create_method(name, **defaults).settings == defaults


@every_objective
def test_wrong_shapes_are_refused(name: str) -> None:
    s = objective_class(name).example()
    if s.teacher_logits is not None:
        other_classes = [s.teacher_logits[:, :-1]] if objective_class(name).needs.same_classes else []
        for teacher in (*other_classes, s.teacher_logits[:-1]):
            with pytest.raises(ValueError, match="teacher"):
                loss_of(name, with_tensors(s, {"teacher_logits": teacher}))


@every_objective
def test_labels_out_of_range_are_refused_or_not_read(name: str) -> None:
    s = objective_class(name).example()
    if s.labels is not None:
        try:
            beyond = torch.where(s.labels == -100, s.labels, s.labels + s.student_logits.shape[1])
            loss = loss_of(name, replace(s, labels=beyond))
        except ValueError as refusal:
            assert "labels" in str(refusal)
        else:
            assert torch.equal(loss, loss_of(name, s)), "labels that do not exist changed the loss"


class Net(nn.Module):
    """A small network with names that taps can find."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


@every_objective
def test_the_teacher_stays_out_of_the_state(name: str) -> None:
    torch.manual_seed(0)
    models = objective_class(name).example_models() or (Net(4), Net(6), torch.randn(4, 3, 8, 8))
    student, teacher, sample = models
    method = create_method(name)
    method.setup(student, teacher, sample)
    both = [m for m in (teacher, student) if m is not None]
    theirs = {p.data_ptr() for m in both for p in (*m.parameters(), *m.buffers())}
    mine = [
        *method.parameters(),
        *method.buffers(),
        *method.state_dict().values(),
        *(p for group in method.parameter_groups() for p in group["params"]),
    ]
    assert not [t for t in mine if isinstance(t, Tensor) and t.data_ptr() in theirs]
    assert not [m for m in method.modules() if m in both]


# Papers and cards -----------------------------------------------------------------------------------------------------


def sections(docstring: str) -> dict[str, str]:
    """The Google-style sections of a docstring by name; the text before them is ``""``."""
    parts = re.split(r"^(Args|Returns|Raises|Reference|Example|Yields):\s*$", docstring, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@every_loss
def test_docstrings_give_shapes_errors_and_reference(slug: str, loss: str) -> None:
    function = getattr(importlib.import_module(f"kdcore.methods.{slug}"), loss)
    text = sections(inspect.getdoc(function) or "")
    assert len(text[""].strip().splitlines()[0]) > 10, "one line that says what it is"
    for section in ("Args", "Raises", "Reference"):
        assert section in text, f"{loss} has no section {section}:"
    entries = re.findall(r"(?:^\s*|; )([\w, ]+):", text["Args"], flags=re.M)
    documented = {name for entry in entries for name in entry.split(", ")}
    assert not set(inspect.signature(function).parameters) - documented, f"{loss}: undocumented arguments"
    assert re.search(r"``\([^`]*\)``", text["Args"]), "shapes in double backticks"
    assert re.search(r"arXiv:\s?(\d{4}\.\d{4,5}|[a-z-]+/\d{7})|doi|\(\w.*\d{4}\)", text["Reference"])


@every_loss
def test_losses_have_types_and_keyword_only_knobs(slug: str, loss: str) -> None:
    signature = inspect.signature(getattr(importlib.import_module(f"kdcore.methods.{slug}"), loss))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name
        if isinstance(parameter.default, int | float | str):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"{parameter.name} must be keyword-only"


@every_paper
def test_the_card_is_complete(slug: str) -> None:
    card = get_card(slug)
    assert card.title and card.authors and card.summary and card.taps
    assert 1990 < card.year < 2100
    assert not card.arxiv or re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", card.arxiv)
    assert card.arxiv or card.venue, "a paper without an arXiv number names its venue"
    assert not card.official_code or re.fullmatch(r"[\w.-]+/[\w.-]+", card.official_code)
    assert all(card.axes.values(axis) for axis in AXES if axis != "signal")
    assert set(card.survey) == {"elicitation", "algorithm", "skill", "kd_theme", "dd_family"}
    assert card.evidence, "the box 'paper / released code / here' is empty"
    if card.parity.status != "none":
        assert card.parity.source and card.parity.tolerance
    for row in card.evidence:
        assert row.what and row.paper and row.code and row.here
    html = card._repr_html_()
    assert card.title.replace("&", "&amp;") in html or card.title in html


@every_paper
def test_knobs_say_what_they_are_and_where_they_come_from(slug: str) -> None:
    card = get_card(slug)
    for knob in [k for cls in card.objectives for k in cls.knobs]:
        assert knob.help and knob.symbol, f"{knob.name} lacks help or symbol"
        assert knob.source, f"{knob.name}: where does the default {knob.default!r} come from?"
        if knob.choices:
            assert knob.default in knob.choices
        elif isinstance(knob.default, int | float) and not isinstance(knob.default, bool):
            assert knob.low is not None and knob.high is not None, f"{knob.name} has no range"
            assert knob.low <= knob.default <= knob.high and knob.low < knob.high, knob.name
            assert not knob.log or knob.low > 0, f"{knob.name} is logarithmic from 0"


@every_paper
def test_the_card_names_losses_that_exist(slug: str) -> None:
    module, card = importlib.import_module(f"kdcore.methods.{slug}"), get_card(slug)
    assert card.losses or not card.objectives, "an objective is made of public losses"
    assert card.losses or slug in {s for s, _ in ALGORITHMS}, "a paper without a loss has public functions"
    for loss in card.losses:
        assert callable(getattr(module, loss, None)), f"kdcore.methods.{slug} has no function {loss}"
    assert len(inspect.getdoc(module) or "") > 400, "the module's docstring gives the argument, formulas and symbols"


@every_paper
def test_the_proof_exists(slug: str) -> None:
    assert (ROOT / f"tests/methods/test_{slug}.py").is_file()


@every_paper
def test_the_lesson_exists(slug: str) -> None:
    assert (ROOT / get_card(slug).notebook).is_file()
    assert (ROOT / get_card(slug).notebook).with_suffix(".py").is_file()


def public_functions() -> Iterator[Any]:
    for slug in SLUGS:
        module = importlib.import_module(f"kdcore.methods.{slug}")
        for name in getattr(module, "__all__", ()):
            yield pytest.param(getattr(module, name), id=f"{slug}.{name}")


@pytest.mark.parametrize("value", list(public_functions()))
def test_public_names_are_documented(value: Any) -> None:
    if inspect.isfunction(value) or inspect.isclass(value):
        assert (value.__doc__ or "").strip(), f"{value} has no docstring"


@every_paper
def test_modules_say_what_is_public(slug: str) -> None:
    module, card = importlib.import_module(f"kdcore.methods.{slug}"), get_card(slug)
    assert {"CARD", *card.losses, *(cls.__name__ for cls in card.objectives)} <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@every_paper
def test_the_maths_comes_first_and_the_card_last(slug: str) -> None:
    body = ast.parse((ROOT / f"kdcore/methods/{slug}.py").read_text(encoding="utf-8")).body
    code = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert code[0].lineno < 70, "what the paper computes starts below line 70"
    names = [t.id for node in body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)]
    assert names[-2:] == ["CARD", "__all__"] and body[-2].lineno > code[-1].lineno, "CARD, then __all__, end the module"


def test_only_the_baseline_has_no_terms() -> None:
    for name in WITHOUT_TERMS:
        assert create_method(name).terms(objective_class(name).example()) == {}
