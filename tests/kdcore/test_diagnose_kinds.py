"""Kinds of faults that a first diagnosis missed or called by a wrong name, and what a report owes its reader."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.diagnosis_faults import Around, resized
from benchmarks.diagnosis_pairs import photographs, train
from kdcore.diagnose import Diagnosis, diagnose
from kdcore.diagnose._history import learning, soft_term
from kdcore.diagnose._probes import Gain, compete
from kdcore.diagnose._sample import dealt, draw
from kdcore.diagnose._seen import cliffs
from kdcore.diagnose._training import copies, shifts
from kdcore.diagnose._weights import FEW, stages
from kdcore.functional.divergences import kd_loss, kl_with_temperature
from kdcore.models import ConvNet
from kdcore.tasks import load_task

LIGHT: dict[str, Any] = {"bootstrap": 0, "mask_ratios": (), "occlusion_images": 0}
Data = tuple[Tensor, Tensor]


def textures(n: int, seed: int) -> Data:
    """Fine checks, stripes of both directions and blots under noise, 16x16: four classes that live on their detail."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=g)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    kinds = torch.stack([(rows + columns) % 2, rows % 2, columns % 2, (rows // 4 + columns // 4) % 2]).float()
    strength = 0.25 + 0.25 * torch.rand(n, 1, 1, generator=g)
    x = 0.5 + strength * (kinds[y] - 0.5) + 0.08 * torch.randn(n, 16, 16, generator=g)
    return x.clamp(0, 1)[:, None], y


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, nn.Module, Data, Data]:
    data, test = textures(480, 0), textures(256, 1)
    models = []
    for seed, widths in enumerate(((16, 24), (8, 12))):
        torch.manual_seed(seed)
        models.append(ConvNet(widths, 4, in_channels=1))
        train(models[-1], data, seed, epochs=10)
    return models[0].eval(), models[1].eval(), data, test


def ask(trained: Any, **given: Any) -> Diagnosis:
    teacher, student, _, test = trained
    given = {"teacher": teacher, "student": student, "data": test} | given
    return diagnose(given.pop("teacher"), given.pop("student"), given.pop("data"), **LIGHT, **given)


def codes(found: Diagnosis, most: int = 3) -> set[str]:
    return {f.code for f in found.findings[:most] if f.alarm}


def test_the_pair_is_healthy(trained: Any) -> None:
    found = ask(trained, training=trained[2])
    assert found.healthy, str(found)


# -------------------------------------------------------------------------------------------------------- interpolation


@pytest.mark.parametrize(
    ("share", "down", "up"),
    [
        (0.5, "nearest", "nearest"),
        (0.5, "area", "bicubic"),
        (0.75, "nearest", "bilinear"),
        (0.75, "bilinear", "nearest"),
    ],
)
def test_another_interpolation_inside_a_model_is_seen_in_its_gradients(
    trained: Any, share: float, down: str, up: str
) -> None:
    student = Around(trained[1], before=lambda x: resized(x, share, down, up))
    found = ask(trained, student=student)
    assert "input_resolution_mismatch" in codes(found), str(found)
    assert "overfitted_student" not in {f.code for f in found.alarms}
    mine = next(f for f in found.findings if f.code == "input_resolution_mismatch" and "rows" in f.evidence)
    assert mine.evidence["model"] == "student" and abs(mine.evidence["rows"] - 16 * share) <= 1


def test_images_scaled_up_are_known_by_their_singular_values(trained: Any) -> None:
    x, y = trained[3]
    assert min(fall for fall, _ in cliffs(x) or ()) < 2
    for way in ("nearest", "bilinear", "bicubic"):
        larger = (255 * resized(x, 0.5, "area", way)).round() / 255  # as a file holds them
        found = cliffs(larger)
        assert found is not None and all(fall > 4 and at == 8 for fall, at in found)
    named = ask(trained, data=(resized(x, 0.5, "area", "bilinear"), y))
    assert "input_resolution_mismatch" in codes(named), str(named)


def test_training_samples_tell_that_images_are_prepared_otherwise(trained: Any) -> None:
    x, y = trained[3]
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    found = ask(trained, data=(soft, y), training=trained[2])
    finding = next(
        f for f in found.findings if "more_sharpness" in f.evidence and f.code == "input_resolution_mismatch"
    )
    assert finding.alarm and finding.evidence["more_sharpness"] < 0.4
    same = shifts(x, trained[2][0])
    assert set(same) == {"mean", "spread", "sharpness"} and all(abs(chance - 0.5) < 0.1 for chance in same.values())


# ---------------------------------------------------------------------------------------------- temperatures


def test_a_loss_that_divides_twice_is_told_from_one_without_t2() -> None:
    s, t = torch.randn(2, 8, 6)
    losses = {
        "twice": lambda a, b: kd_loss(a / 4, b / 4, temperature=4.0),
        "right": lambda a, b: kd_loss(a, b, temperature=4.0),
        "without": lambda a, b: kl_with_temperature(a, b, temperature=4.0).mean(),
        "another": lambda a, b: (a - b).abs().mean(),
    }
    fitting = {
        name: (soft_term(loss, None, {"temperature": 4.0}, s, t) or pytest.fail(name)).fitting
        for name, loss in losses.items()
    }
    assert fitting == {"twice": 16.0, "right": 4.0, "without": 4.0, "another": None}


def test_a_temperature_applied_twice_is_named(trained: Any) -> None:
    twice = ask(trained, loss=lambda s, t: kd_loss(s / 4, t / 4, temperature=4.0), settings={"temperature": 4.0})
    assert twice.findings[0].code == "temperature_twice"
    for role, code in (("student", "temperature_without_t2"), ("teacher", "underconfident_teacher")):
        model = trained[0] if role == "teacher" else trained[1]
        assert code in codes(ask(trained, **{role: Around(model, after=lambda z: z / 16)}))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_log_probabilities_are_no_logits(trained: Any, role: str, temperature: float) -> None:
    model = trained[0] if role == "teacher" else trained[1]
    found = ask(trained, **{role: Around(model, after=lambda z: (z / temperature).log_softmax(1))})
    finding = next(f for f in found.findings[:3] if f.code == "probabilities_not_logits")
    assert finding.evidence["model"] == role and finding.evidence["kind"] == "log-probabilities" and finding.alarm


# ---------------------------------------------------------------------------------------------- training samples


def test_copies_of_training_samples_are_found_and_named(trained: Any) -> None:
    x, y = trained[3][0].clone(), trained[3][1].clone()
    given, labels = trained[2]
    rows, taken = torch.arange(10, 40), torch.arange(100, 130)
    x[rows] = (0.9 * given[taken] + 0.03 + 0.005 * torch.randn(30, 1, 16, 16)).flip(3)
    y[rows] = labels[taken]
    found = ask(trained, data=(x, y), training=trained[2])
    finding = next(f for f in found.findings[:3] if f.code == "test_on_training_data")
    assert finding.alarm and set(finding.evidence["samples"]) == set(rows.tolist())
    partners = dict(zip(finding.evidence["samples"], finding.evidence["training_samples"], strict=True))
    assert partners == dict(zip(rows.tolist(), taken.tolist(), strict=True))


def test_plain_grounds_that_all_look_alike_are_no_copies() -> None:
    learnt, other = photographs(5)  # half of the tiles are sky
    assert not len(copies(other[0][:256], learnt[0])[0])
    again = torch.cat([other[0][:50], learnt[0][:20]])
    assert set(copies(again, learnt[0])[0].tolist()) >= set(range(50, 70))


def test_both_right_on_everything_is_a_note_without_training_samples() -> None:
    class Sure(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.tensor(by))

        def forward(self, x: Tensor) -> Tensor:
            return self.by * x

    y = torch.arange(200) % 5
    found = diagnose(Sure(9.0), Sure(8.0), (F.one_hot(y, 5).float() + 0.1 * torch.rand(200, 5), y), **LIGHT)
    finding = next(f for f in found.findings if f.code == "test_on_training_data")
    assert not finding.alarm and "training=" in finding.try_next and finding in found.findings[:3]


def test_training_samples_of_another_shape_are_refused(trained: Any) -> None:
    with pytest.raises(
        ValueError, match=r"training must hold samples like those of data, \(1, 16, 16\), got \(1, 8, 8\)"
    ):
        ask(trained, training=(trained[2][0][:, :, :8, :8], trained[2][1]))


# ---------------------------------------------------------------------------------------------- trained too little


def test_a_student_after_24_steps_was_trained_too_little_not_by_heart(trained: Any) -> None:
    torch.manual_seed(2)
    student = ConvNet((8, 12), 4, in_channels=1)
    result = train(student, trained[2], 0, epochs=2, batch_size=40, lr=5e-4)
    assert result.steps == 24
    found = ask(trained, student=student.eval(), history=result)
    assert found.findings[0].code == "trained_too_little", str(found)
    assert "24 steps" in found.findings[0].sentence and re.search(r"[\d.]+ % of the", found.findings[0].sentence)
    wrong = {"overfitted_student", "collapsed_output", "batch_norm_statistics", "class_bias"}
    assert not wrong & {f.code for f in found.alarms}


def test_the_course_of_a_training_tells_whether_it_ended_too_soon() -> None:
    def course(values: list[float], steps: int) -> Any:
        each = steps // len(values)
        return learning([{"ce": v, "step": each * (k + 1)} for k, v in enumerate(values)], None, 10)

    assert course([2.29], 24).too_little and course([2.29], 24).steps == 24
    assert not course([0.4], 24).too_little  # it knows already
    falling = course([2.3, 2.2, 2.1, 2.0, 1.9, 1.8], 6000)
    assert falling.too_little and falling.falling == pytest.approx(0.2 / 2.3026, rel=1e-2)
    assert not course([2.3, 1.6, 1.5, 1.5, 1.5, 1.5], 6000).too_little  # level: too small, perhaps, not too short
    assert not course([2.3, 1.2, 0.6, 0.3, 0.2, 0.1], 600).too_little
    assert learning([{"accuracy": 0.5}], None, 10) is None and learning(None, None, 10) is None
    half = learning([{"ce": 1.15, "steps": 20}], {"ce_weight": 0.5}, 10)
    assert half is not None and half.start == pytest.approx(1.1513, rel=1e-3) and half.too_little


# --------------------------------------------------------------------------------------------------- repairs and causes


def test_statistics_of_the_batch_do_not_outrank_an_input_that_was_not_tried(trained: Any) -> None:
    for change in (lambda x: 0.8 + 0.1 * x, lambda x: x**4):  # fog, and a curve that no candidate takes back
        found = ask(trained, student=Around(trained[1], before=change))
        order = [f.code for f in found.findings]
        assert order.index("batch_norm_statistics") > min(k for k, c in enumerate(order) if c.startswith("input_"))
        assert next(f for f in found.findings if f.code == "batch_norm_statistics").severity <= 0.64
    reset = copy.deepcopy(trained[1])
    for module in reset.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    assert ask(trained, student=reset).findings[0].code == "batch_norm_statistics"  # a mark of its own


def test_what_mends_almost_anything_competes_with_no_input() -> None:
    y = torch.arange(200) % 4
    good = 3.0 * F.one_hot(y, 4).float()
    some = good.clone()
    some[:60] = some[:60].roll(1, 1)

    def gain(code: str, logits: Tensor, proven: bool = False) -> Gain:
        right = float((logits.argmax(1) == y).double().mean())
        return Gain(
            role="student",
            code=code,
            words="",
            before=0.2,
            after=right,
            samples=200,
            p=0.0,
            logits=logits,
            proven=proven,
        )

    assert [g.behind for g in compete([gain("swapped_channels", some), gain("batch_norm_statistics", good)], y)] == [
        0,
        0,
    ]
    marked = compete([gain("swapped_channels", some), gain("batch_norm_statistics", good, proven=True)], y)
    assert [g.behind for g in marked] == [1, 0]


@pytest.mark.parametrize("weights", [64, 200, 299])
def test_a_small_layer_cannot_be_told_from_a_fresh_one(weights: int) -> None:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Linear(weights, 1), nn.Linear(1, 400))
    verdicts = {s.name: s.verdict for s in stages(small)}
    assert verdicts["0"] == "cannot tell" and weights < FEW
    assert {s.name: s.verdict for s in stages(nn.Sequential(nn.Linear(40, 10), nn.Linear(10, 40)))} == {
        "0": "as initialised",
        "1": "as initialised",
    }


def test_power_of_the_smallest_layer_that_is_judged() -> None:
    generator = torch.Generator().manual_seed(0)
    missed = 0
    for _ in range(400):  # weights that a training moved by 5 % of the bound they were drawn in
        drawn = 2 * torch.rand(FEW, generator=generator) - 1 + 0.05 * torch.randn(FEW, generator=generator)
        missed += bool(drawn.abs().max() <= 1)
    assert missed <= 4  # 1 in 400 expected


# --------------------------------------------------------------------------------------------------------- what is said


def test_the_draw_is_by_class_seeded_and_said() -> None:
    y = torch.cat([torch.zeros(900), torch.ones(90), torch.full((10,), 2)]).long()
    x = torch.arange(1000.0)[:, None].expand(1000, 3).contiguous()
    first, _ = draw((x, y), limit=100, batch_size=20, seed=3)
    again, _ = draw((x, y), limit=100, batch_size=7, seed=3)
    assert first.labels is not None and first.labels.bincount().tolist() == [90, 9, 1]
    assert torch.equal(first.x, again.x) and first.words == "100 of 1,000 samples, drawn by class, seed 3"
    assert not torch.equal(first.x, draw((x, y), limit=100, batch_size=20, seed=4)[0].x)
    sorted_loader = ((x[k : k + 50], y[k : k + 50]) for k in range(0, 1000, 50))  # can only be read in its order
    stream, _ = draw(sorted_loader, limit=100, batch_size=20, seed=3)
    assert stream.labels is not None and stream.labels.bincount().tolist() == [90, 9, 1]
    assert stream.words == "100 of 1,000 first samples, drawn by class, seed 3"


def test_any_first_part_of_the_sample_holds_every_class_in_its_share() -> None:
    y = torch.cat([torch.zeros(60), torch.ones(30), torch.full((10,), 2)]).long()
    order = dealt(y, 100, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(100))
    for n in (20, 32, 50):
        assert (y[order[:n]].bincount(minlength=3) - n * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 1.01


def test_the_size_is_said_and_skipped_images_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            pixels = random.integers(120 * k, 120 * k + 100, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "dark" / "torn.png").write_bytes(b"\x89PNG no picture")
    with pytest.warns(UserWarning, match=r"torn\.png"):
        task = load_task("images", root=str(tmp_path / "photos"), size=8)
    torch.manual_seed(0)
    models = [ConvNet((4,), 2, in_channels=3) for _ in range(2)]
    found = diagnose(models[0], models[1], task, limit=12, **LIGHT)
    size = len(task.split("test"))
    assert f"12 of {size} test samples, drawn by class, seed 0" in found.summary()
    assert "torn.png" in str(found) and "torn.png" in found.to_html()
    assert any("torn.png" in note for note in found.to_dict()["data"])


def test_every_accuracy_in_a_sentence_has_its_number_of_samples(trained: Any) -> None:
    asked = [
        {"student": Around(trained[1], before=lambda x: 255 * x)},
        {"student": Around(trained[1], before=lambda x: x.flip(2).transpose(2, 3))},
        {"student": Around(trained[1], after=lambda z: z.roll(1, 1))},
        {"teacher": Around(trained[0], after=lambda z: 0.05 * z)},
        {"student": Around(trained[1], after=lambda z: z + torch.tensor([3.0, 0, 0, 0]) * z.std())},
    ]
    seen = 0
    for given in asked:
        for finding in ask(trained, **given).findings:
            if re.search(r"(is|are) right in [\d.]+ %|accuracy is [\d.]+ %|[\d.]+ % are right", finding.sentence):
                seen += 1
                assert re.search(r"\d+ (of \d+ )?samples|of \d+[.,: ]|of the others", finding.sentence), (
                    finding.sentence
                )
    assert seen >= 5


def test_a_stated_normalisation_that_does_good_is_no_finding() -> None:
    data, test = textures(480, 0), textures(256, 1)
    torch.manual_seed(0)
    models = []
    for seed in range(2):
        model = ConvNet((8, 12), 4, in_channels=1)
        train(model, ((data[0] - 0.5) / 0.1, data[1]), seed, epochs=6)
        model.default_cfg = {"mean": (0.5,), "std": (0.1,)}
        models.append(model.eval())
    found = diagnose(models[0], models[1], test, **LIGHT)
    assert "input_normalization_mismatch" not in {f.code for f in found.findings}, str(found)
    assert found.inputs["teacher"]["input"].startswith("normalised as") and found.inputs["teacher"]["samples"] == 64
