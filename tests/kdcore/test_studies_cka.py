"""The study behind the lesson on CKA: twins differ, films match trainings, numbers by hand, claims that can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdcore.cka_maps import batch_estimates
from kdcore.experiment import Arm, compare
from kdcore.functional.cca import mean_cca, mean_cca_matrix
from kdcore.functional.cka import CKAMap, cka, cka_matrix
from kdcore.models import ConvNet
from kdcore.studies import cka as study
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Recipe, Task

LAYERS = ("stage1.conv", "stage1.act", "stage2.act", "head")
ONE = Recipe(epochs=1, batch_size=16)


def tiny(seed: int = 0) -> Task:
    g = torch.Generator().manual_seed(seed)
    data = ArrayDataset(torch.rand(64, 1, 4, 4, generator=g), torch.arange(64) % 3)
    return Classification(
        name="tiny",
        train=data,
        test=data,
        class_names="abc",
        seed=seed,
        teachers={"t": ModelSpec(build=lambda: ConvNet((6, 8), 3), recipe=ONE)},
        students={"s": ModelSpec(build=lambda: ConvNet((3, 5), 3), recipe=replace(ONE, epochs=2))},
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> study.Representations:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        told: list[tuple[int, int, str]] = []
        made = study.representations(
            tiny, arms=study.alignment_arms(weight=2.0), seeds=2, progress=lambda *args: told.append(args)
        )
    steps = [done for done, _, text in told if "teacher" not in text]
    assert steps == list(range(1, 15)) and {total for _, total, _ in told} == {14}  # 2 x 3 x 2 epochs, then 2 twins
    return made


def named(n: int, widths: tuple[int, ...], seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(n, 8, generator=g, dtype=torch.float64)
    return {f"l{i}": base @ torch.randn(8, w, generator=g, dtype=torch.float64) + 3 for i, w in enumerate(widths)}


def test_twins_share_the_architecture_and_nothing_else(result: study.Representations) -> None:
    teacher, twin = result.comparison.teachers[0], result.twins[0]
    assert str(teacher) == str(twin) and set(result.twins) == {0, 1}
    weights = zip(teacher.parameters(), twin.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in weights if a.ndim > 1)
    assert list(result.networks(1)) == ["twin", "CE", "KD", "CKA", "untrained"]


def test_features_and_the_metric(result: study.Representations) -> None:
    teacher, student = result.comparison.teachers[0], result.comparison.students["KD", 0]
    x = result.features(teacher, 0, layers=("head:in",), images=40)["head:in"]
    y = result.features(student, 0, layers=("head:in",), images=40)["head:in"]
    assert x.shape == (40, 8) and y.shape == (40, 5)
    task = result.comparison.tasks[0]
    task.teacher = lambda *a, **k: teacher  # type: ignore[method-assign]
    assert study.teacher_similarity(student, task, images=40) == pytest.approx(cka(x, y).item(), abs=1e-6)
    assert set(result.comparison.records[0]) >= {"cka", "last"}


def test_numbers_and_maps(result: study.Representations) -> None:
    numbers = study.similarity_numbers(result, layers=LAYERS, batch_size=32, small_batch=8, images=64)
    assert all(len(v) == 2 for v in numbers.values())
    alike, cca, layers = study.identification_maps(result, 1, layers=LAYERS, images=64)
    assert layers == LAYERS and alike.shape == cca.shape == (4, 4)
    assert numbers["identified_cka"][1] == study.layers_identified(alike)
    assert numbers["identified_cca"][1] == study.layers_identified(cca)
    assert numbers["bytes_4"] == numbers["bytes_40"]
    assert len(study.similarity_claims(numbers)) == 6


def test_identified_by_hand() -> None:
    assert study.layers_identified(torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.1, 0.2, 0.3]])) == 2
    with pytest.raises(ValueError, match=r"matrix must be \(L, L\)"):
        study.layers_identified(torch.zeros(2, 3))


def test_memory_grows_where_batches_are_kept() -> None:
    assert study.map_memory(2) == study.map_memory(6) == 8 * (3 * 3 + 3 + 3)
    assert study.map_memory(6, keep_batches=True) == 7 * study.map_memory(2)
    assert study.map_memory(1, mode="exact") == study.map_memory(3, mode="exact") > 8 * 224**2
    assert CKAMap(["a"], ["b"]).nbytes == 0


def good() -> dict[str, list[float]]:
    numbers: dict[str, list[float]] = {
        "identified_cka": [4, 5],
        "identified_cca": [1, 2],
        "error": [0.01, 0.02],
        "error_small": [0.02, 0.02],
        "excess_small": [0.1, 0.2],
        "noise_biased": [0.95, 0.95],
        "noise_unbiased": [-0.01, 0.01],
        "bytes_4": [120, 120],
        "bytes_40": [120, 120],
    }
    return {name: 3 * values for name, values in numbers.items()}  # six seeds


@pytest.mark.parametrize(
    ("name", "values", "claim"),
    [
        ("identified_cca", [4, 5], 0),
        ("error", [0.05, 0.06], 1),
        ("excess_small", [0.01, 0.02], 2),
        ("noise_biased", [0.95, 0.85], 3),
        ("noise_unbiased", [0.0, -0.06], 4),
        ("bytes_40", [120, 1200], 5),
    ],
)
def test_each_claim_fails_alone(name: str, values: list[float], claim: int) -> None:
    assert all(c.check() for c in study.similarity_claims(good()))
    verdicts = [bool(c.check()) for c in study.similarity_claims(good() | {name: 3 * values}, on="here")]
    assert verdicts == [i != claim for i in range(6)]
    assert all(c.text.startswith("here: ") for c in study.similarity_claims(good(), on="here"))


def test_noise_is_called_alike_by_the_biased_value_only() -> None:
    biased, unbiased = study.width_bias(3)
    assert biased > 0.9 and abs(unbiased) < 0.05
    few = study.width_bias(3, samples=400, width=5)
    assert few[0] < 0.1


def test_a_film_is_the_training_it_shows(result: study.Representations) -> None:
    task, teacher = result.comparison.tasks[0], result.comparison.teachers[0]
    told: list[tuple[int, int, str]] = []
    arm = Arm("KD", "kd", {"temperature": 4.0})
    film = study.cka_film(
        task, arm, teacher, layers=("head:in",), images=64, batch_size=64, progress=lambda *args: told.append(args)
    )
    assert len(film) == 3 and [t[:2] for t in told] == [(1, 2), (2, 2)]
    trained = result.comparison.students["KD", 0]
    for model, shown in ((task.student(seed=0), film[0]), (trained, film[-1])):
        x, y = (result.features(m, 0, layers=("head:in",), images=64)["head:in"] for m in (model, teacher))
        assert shown.matrix.item() == pytest.approx(cka(x, y).item(), abs=1e-4)


def test_a_film_leaves_the_random_state(result: study.Representations) -> None:
    task, teacher = result.comparison.tasks[0], result.comparison.teachers[0]
    torch.manual_seed(5)
    arm = Arm("CE", "ce", train={"epochs": 1})
    study.cka_film(task, arm, teacher, layers=("head",), layers_teacher=("stage1.act",))
    after = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(2))


def test_stopped_before_the_twins(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop:
        def is_set(self) -> bool:
            return True

    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    result = study.representations(tiny, seeds=1, stop=Stop())
    assert result.twins == {} and result.comparison.stopped


# All pairs at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_matrix_is_cka_pair_by_pair(kernel: str, unbiased: bool) -> None:
    x, y = named(20, (3, 30)), named(20, (5, 2, 40), seed=1)
    matrix = cka_matrix(x, y, kernel=kernel, unbiased=unbiased, bandwidth=0.8)
    slow = [[cka(a, b, kernel=kernel, unbiased=unbiased, bandwidth=0.8).item() for b in y.values()] for a in x.values()]
    torch.testing.assert_close(matrix, torch.tensor(slow, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_cca_matrix_is_mean_cca_pair_by_pair() -> None:
    x, y = named(40, (3, 6)), named(40, (5, 2, 4), seed=1)
    slow = [[mean_cca(a, b).item() for b in y.values()] for a in x.values()]
    torch.testing.assert_close(mean_cca_matrix(x, y), torch.tensor(slow, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_estimates_of_batches() -> None:
    x, y = named(32, (3, 30)), named(32, (5, 12), seed=1)
    whole, *_ = batch_estimates(x, y, [32, 8])
    torch.testing.assert_close(whole.minibatch, cka_matrix(x, y), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole.naive, cka_matrix(x, y, unbiased=False), rtol=1e-9, atol=1e-12)
    odd = batch_estimates(x, y, [10])[0]
    assert (odd.batch_size, odd.n_batches) == (10, 3)  # two samples are left out
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))[:30].split(10)
    naive = torch.stack(
        [cka_matrix({k: v[i] for k, v in x.items()}, {k: v[i] for k, v in y.items()}, unbiased=False) for i in order]
    ).mean(0)
    torch.testing.assert_close(odd.naive, naive)
    assert (odd.naive > odd.minibatch).all()


def test_bad_input() -> None:
    x, y = named(20, (3,)), named(20, (4,), seed=1)
    with pytest.raises(ValueError, match="features_y must hold at least one layer"):
        cka_matrix(x, {})
    with pytest.raises(ValueError, match=r"features_y\['l0'\]"):
        cka_matrix(x, {"l0": y["l0"][:10]})
    with pytest.raises(ValueError, match=r"features_x\['l0'\] is constant"):
        cka_matrix({"l0": torch.ones(20, 2)}, y)
    with pytest.raises(ValueError, match="all samples are equally far"):
        cka_matrix({"l0": torch.eye(20)}, y)
    with pytest.raises(ValueError, match="kernel must be one of"):
        cka_matrix(x, y, kernel="cubic")
    with pytest.raises(ValueError, match=r"needs more samples than features.*features_y\['l0'\]"):
        mean_cca_matrix(x, named(20, (20,)))
    with pytest.raises(ValueError, match="layers of the same samples, got 10, 20"):
        mean_cca_matrix(x, {"l0": y["l0"][:10]})
    with pytest.raises(ValueError, match=r"batch_sizes must be in \[4, 20\]"):
        batch_estimates(x, y, [3])


def test_default_task(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path))
    task = study.representation_task(1)
    assert list(task.teachers) == ["wide"] and list(task.students) == ["narrow"] and task.seed == 1
    run = compare(task, ["ce"], seeds=1, epochs=1)
    names = study.Representations(comparison=run, twins={}).features(run.students["ce", 0], 0, images=8)
    assert tuple(names) == study.COMPARED_LAYERS
