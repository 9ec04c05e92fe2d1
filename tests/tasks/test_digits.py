"""The digits: real data, splits by seed, what the student sees; and what every task offers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Subset

from kdcore.checkpoints import state_hash
from kdcore.inputs import Normalize
from kdcore.models import MLP
from kdcore.tasks import ArrayDataset, Classification, ModelSpec, Task, list_tasks, load_task, task_info
from kdcore.tasks._data import fingerprint, split_train, stratified, transfer_set


def rows(data: ArrayDataset) -> set[bytes]:
    return {x.numpy().tobytes() for x in data.x}


def test_pixels_are_scikit_learn_s_divided_by_sixteen() -> None:
    task, bunch = load_task("digits"), load_digits()
    x = torch.cat([task.train.x, task.test.x])
    y = torch.cat([task.train.y, task.test.y])
    assert x.shape == (1797, 1, 8, 8) and x.dtype == torch.float32 and x.min() >= 0 and x.max() == 1
    assert (len(task.train), len(task.test)) == (1078, 719)
    ours = sorted((a.tobytes(), int(b)) for a, b in zip((16 * x[:, 0].numpy()).astype(np.uint8), y, strict=True))
    theirs = sorted((a.tobytes(), int(b)) for a, b in zip(bunch.images.astype(np.uint8), bunch.target, strict=True))
    assert ours == theirs


def test_split_is_stratified_disjoint_and_depends_on_the_seed_alone() -> None:
    one, again, other = load_task("digits", seed=3), load_task("digits", seed=3), load_task("digits", seed=4)
    assert torch.equal(one.train.x, again.train.x) and one.fingerprint == again.fingerprint != other.fingerprint
    assert not rows(one.train) & rows(one.test)
    share = one.labels("train").bincount() / (one.labels("train").bincount() + one.labels("test").bincount())
    assert (share - 0.6).abs().max() < 0.01


def test_student_may_see_less_than_its_teacher() -> None:
    full = load_task("digits", seed=1)
    task = load_task("digits", seed=1, train_size=200, omit_classes=[3, "7"])
    counts = task.labels("train").bincount(minlength=10)
    assert len(task.train) == 200 and counts[3] == counts[7] == 0 and counts[counts > 0].min() >= 24
    assert task.labels("test").bincount()[3] > 0
    assert rows(task.train) <= rows(full.train)
    assert torch.equal(task.split("teacher_train").x, full.train.x) and task.fingerprint == full.fingerprint
    assert any("3, 7" in note for note in task.notes)


def test_validation_images_come_out_of_the_training_images() -> None:
    task, full = load_task("digits", val_fraction=0.25), load_task("digits")
    assert task.splits == ("train", "val", "test", "teacher_train") and torch.equal(task.test.x, full.test.x)
    assert len(task.val) == 270 and rows(task.val) | rows(task.train) == rows(full.train)
    assert task.split("teacher_train") is task.train or len(task.split("teacher_train")) == 808
    with pytest.raises(ValueError, match=r"no val split; it has train, test.*val_fraction"):
        full.split("val")


def test_larger_images_are_interpolated() -> None:
    small, large = load_task("digits"), load_task("digits", size=16)
    assert large.input_shape == (1, 16, 16) and torch.equal(large.labels("test"), small.labels("test"))
    expected = F.interpolate(small.test.x[:5], size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(large.test.x[:5], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_fraction": 1.0}, r"train_fraction must be in \(0, 1\)"),
        ({"val_fraction": -0.1}, "val_fraction must be in"),
        ({"train_size": 5}, "train_size must be 1078"),
        ({"train_size": 5000}, "train_size must be 1078"),
        ({"omit_classes": [10]}, "omit_classes names 10"),
        ({"omit_classes": ["three"]}, "omit_classes names 'three'"),
        ({"omit_classes": list(range(10))}, "leaves no training sample"),
        ({"size": 4}, "size must be a whole number"),
        ({"sede": 1}, r"no option 'sede'. Did you mean 'seed'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task("digits", **options)


def test_unknown_task_and_missing_option() -> None:
    with pytest.raises(ValueError, match=r"'digit'.* Did you mean 'digits'"):
        load_task("digit")
    with pytest.raises(ValueError, match=r"needs path=\.\.\., target=\.\.\."):
        load_task("table")
    assert {"digits", "images", "table", "arrays", "fashion_mnist", "cifar10", "cifar100"} <= set(list_tasks())
    assert task_info("digits").options["train_fraction"] == 0.6 and task_info("images").required == ("root",)
    assert all(task_info(name).words.endswith((".", ").")) for name in list_tasks())


# What every task offers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits", seed=0)


def test_loader_gives_every_sample_once_in_an_order_set_by_the_seed(task: Task) -> None:
    batches = list(task.loader(batch_size=100, seed=5, index=True))
    index = torch.cat([i for _, _, i in batches])
    assert sorted(index.tolist()) == list(range(1078)) and index.tolist() != list(range(1078))
    for x, y, i in batches:
        assert torch.equal(x, task.train.x[i]) and torch.equal(y, task.train.y[i])
    again = torch.cat([i for _, _, i in task.loader(batch_size=100, seed=5, index=True)])
    other = torch.cat([i for _, _, i in task.loader(batch_size=100, seed=6, index=True)])
    assert torch.equal(index, again) and not torch.equal(index, other)
    x, y = next(iter(task.loader("test", batch_size=4)))
    assert torch.equal(x, task.test.x[:4]) and y.dtype == torch.int64


def test_loader_passes_over_a_last_batch_of_one_while_training_only(task: Task) -> None:
    assert 1078 % 359 == 1
    assert [len(y) for _, y in task.loader(batch_size=359)] == [359, 359, 359]
    assert [len(y) for _, y in task.loader(batch_size=359, drop_last=False)] == [359, 359, 359, 1]
    assert sum(len(y) for _, y in task.loader("train", batch_size=359, shuffle=False)) == 1078


def test_batches_from_arrays_equal_batches_from_single_samples(task: Task) -> None:
    plain = Subset(task.train, range(50))

    class OneByOne:
        def __len__(self) -> int:
            return 50

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return plain[i]

    slow = Classification(name="slow", train=OneByOne(), test=OneByOne(), class_names=task.class_names)
    fast = Classification(name="fast", train=plain, test=plain, class_names=task.class_names)
    for (x1, y1, i1), (x2, y2, i2) in zip(
        slow.loader(batch_size=8, index=True), fast.loader(batch_size=8, index=True), strict=True
    ):
        assert torch.equal(x1, x2) and torch.equal(y1, y2) and torch.equal(i1, i2)
    assert torch.equal(slow.labels("train"), fast.labels("train"))
    assert torch.equal(slow.sample(n=3)[0], fast.sample(n=3)[0])


def test_sample_is_drawn_without_replacement(task: Task) -> None:
    x, y = task.sample(n=30, seed=2)
    assert x.shape == (30, 1, 8, 8) and len({row.numpy().tobytes() for row in x}) == 30
    assert torch.equal(y, task.sample(n=30, seed=2)[1]) and not torch.equal(x, task.sample(n=30, seed=3)[0])
    assert len(task.sample(n=10_000)[1]) == 719


def test_student_weights_depend_on_the_seed_alone(task: Task) -> None:
    first = task.student("mlp-16", seed=3)
    torch.randn(17)
    state = torch.get_rng_state()
    second = task.student("mlp-16", seed=3)
    assert torch.equal(state, torch.get_rng_state()) and second.training
    assert state_hash(first) == state_hash(second)
    assert not torch.equal(first.head.weight, task.student("mlp-16", seed=4).head.weight)


def test_every_offered_network_answers_with_the_task_s_classes(task: Task) -> None:
    for spec in (*task.teachers.values(), *task.students.values()):
        model = spec.make(0)
        assert task.predict(model, n=3)[0].shape == (3, 10) and spec.words and model.training
    with pytest.raises(ValueError, match=r"student must be one of 'mlp-32'.*'mlp-23'"):
        task.student("mlp-23")


class Shifted(nn.Module):
    """Says the pixel sum's class; counts what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.default_cfg = {"mean": (0.5,), "std": (0.25,)}
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        assert not self.training
        return x.flatten(1).sum(1, keepdim=True) * torch.arange(10.0) / 100


def test_measures_agree_with_slow_counting_and_apply_the_model_s_normalisation(task: Task) -> None:
    model = Shifted().train()
    logits, labels = task.predict(model)
    assert model.training and isinstance(task.normalization(model), Normalize)
    torch.testing.assert_close(torch.cat(model.seen), (task.test.x - 0.5) / 0.25)
    guesses = [max(range(10), key=lambda c, row=row: row[c]) for row in logits.tolist()]
    hits = [g == y for g, y in zip(guesses, labels.tolist(), strict=True)]
    assert task.accuracy(model) == pytest.approx(sum(hits) / 719)
    for c in range(10):
        of_class = [h for h, y in zip(hits, labels.tolist(), strict=True) if y == c]
        assert task.recall(model)[c].item() == pytest.approx(sum(of_class) / len(of_class))
    measured = task.evaluate(model)
    assert measured["accuracy"] == task.accuracy(model)
    expected = -sum(torch.log_softmax(row.double(), 0)[y].item() for row, y in zip(logits, labels, strict=True)) / 719
    assert measured["ce"] == pytest.approx(expected)
    assert torch.equal(task.predict(model, n=5, batch_size=2)[0], logits[:5])


def test_words(task: Task) -> None:
    text = task.describe()
    assert "train 1078, test 719" in text and "accuracy, higher is better" in text and "cnn-small" in text
    page = task._repr_html_()
    assert "<caption" in page and '<th scope="row"' in page
    risky = Classification(name="<b>", train=task.test, test=task.test, class_names=[f"<{i}>" for i in range(10)])
    assert "<b></b>" not in risky._repr_html_() and "&lt;3&gt;" in risky._repr_html_()


def test_task_from_any_data_set_is_checked(task: Task) -> None:
    with pytest.raises(ValueError, match=r"labels of the train split must be in \[0, 9\), got values from 0 to 9"):
        Classification(name="few", train=task.train, test=task.test, class_names=task.class_names[:9])
    with pytest.raises(ValueError, match="the train split of task 'none' is empty"):
        Classification(
            name="none", train=ArrayDataset(torch.zeros(0, 1), torch.zeros(0)), test=task.test, class_names="ab"
        )
    with pytest.raises(TypeError, match="must have a length"):
        Classification(name="stream", train=iter([]), test=task.test, class_names="ab")
    with pytest.raises(ValueError, match="NaN or infinity in 2 samples, first at 1"):
        ArrayDataset(torch.tensor([[0.0], [float("nan")], [float("inf")]]), torch.zeros(3))
    with pytest.raises(ValueError, match="the same samples"):
        ArrayDataset(torch.zeros(3, 1), torch.zeros(2))


def test_check_model_names_both_numbers_of_classes(task: Task) -> None:
    with pytest.raises(ValueError, match=r"the teacher must give \(N, 10\) logits.*float32 \(2, 7\)"):
        task.check_model(MLP(64, (4,), 7), "the teacher")


def test_models_of_one_s_own(task: Task) -> None:
    spec = ModelSpec(build=lambda: MLP(64, (3,), 10), words="tiny")
    own = Classification(
        name="own", train=task.train, test=task.test, class_names=task.class_names, students={"tiny": spec}
    )
    assert list(own.students) == ["tiny"] and own.student().head.in_features == 3 and "mlp" in own.teachers
    assert own.recipe(quick=True).epochs == own.recipe().epochs // 3


# Splits --------------------------------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(4, 40), min_size=2, max_size=5),
    seed=st.integers(0, 50),
    val=st.sampled_from([0.0, 0.25, 0.5]),
)
@settings(max_examples=25)
def test_splits_partition_the_samples(counts: list[int], seed: int, val: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"c{i}" for i in range(len(counts))]
    try:
        split = split_train(labels, class_names=names, seed=seed, train_fraction=0.5, val_fraction=val)
    except ValueError as error:  # a part with fewer places than classes
        assert "cannot be split" in str(error) and val and min(counts) < 8
        return
    together = np.concatenate(list(split.values()))
    assert sorted(together.tolist()) == list(range(len(labels)))
    for part, name in ((split["test"], "test"), (split["train"], "train")):
        assert set(labels[part]) == set(range(len(counts))), name


@given(size=st.integers(10, 90), seed=st.integers(0, 20))
@settings(max_examples=15)
def test_transfer_set_has_the_size_and_all_remaining_classes(size: int, seed: int) -> None:
    labels = np.repeat(np.arange(5), 25)
    kept = transfer_set(labels, class_names=list("abcde"), seed=seed, train_size=size, omit_classes=["b"])
    assert len(kept) == len(set(kept.tolist())) == size and set(labels[kept]) == {0, 2, 3, 4}


def test_stratified_parts_and_too_small_classes() -> None:
    first, rest = stratified(np.repeat([0, 1], 10), 4, seed=0)
    assert len(first) == 4 and not set(first) & set(rest)
    with pytest.raises(ValueError, match=r"at least 2 samples to appear in every split; 'rare' has 1\."):
        split_train(np.array([0, 0, 0, 1]), class_names=["common", "rare"], seed=0, train_fraction=0.5)


def test_fingerprint_sees_a_single_changed_pixel_and_any_other_data_set(task: Task) -> None:
    changed = ArrayDataset(task.test.x.clone(), task.test.y)
    assert fingerprint(changed) == fingerprint(task.test)
    changed.x[700, 0, 4, 4] += 0.01
    assert fingerprint(changed) != fingerprint(task.test)
    assert fingerprint(Subset(task.test, range(20))) != fingerprint(Subset(task.test, range(21)))


def test_menus_import_no_heavy_library() -> None:
    code = (
        "import sys, kdcore.experiment, kdcore.tasks as t; [t.task_info(n) for n in t.list_tasks()];"
        "heavy = {'sklearn', 'pandas', 'timm', 'torchvision', 'PIL', 'lightning', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
