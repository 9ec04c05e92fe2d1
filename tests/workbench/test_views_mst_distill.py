"""Pictures of MST-Distill say what their numbers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.views import mask_view, paths_view, routing_view
from workbench.views.theme import DARK, LIGHT


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def probabilities(seed: int, classes: int) -> np.ndarray:
    p = draw(seed, classes)
    return p / p.sum()


def test_routing_names_first_and_last_shares() -> None:
    view = routing_view({"both fc1": [0.25, 0.5], "<b>": torch.tensor([0.75, 0.5])})
    assert (
        view.alt == "Of 2 epochs, in the first one both fc1 gets 25 %, at the end 50 %; <b> gets 75 %, at the end 50 %."
    )
    assert view.table["<b>"].tolist() == [0.75, 0.5] and view.table["epoch"].tolist() == [1, 2]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))
    ten = draw(0, 10, 60)
    assert routing_view({f"teacher {i}": v for i, v in enumerate(ten / ten.sum(0))}).png()


def test_routing_fills_the_picture() -> None:
    """Shares lie on top of each other, and together are 1."""
    shares = draw(1, 3, 5)
    shares /= shares.sum(0)
    (plane,) = routing_view(dict(zip("abc", shares, strict=True))).picture.panels
    assert [m.name for m in plane.marks] == ["a", "b", "c"] and all(m.stacked and m.width == 1 for m in plane.marks)
    np.testing.assert_allclose([m.values for m in plane.marks], shares)
    np.testing.assert_allclose(sum(m.values for m in plane.marks), 1)
    assert (plane.y.low, plane.y.high) == (0, 1)


def test_masks_are_sorted_and_the_distance_is_that_of_the_loss() -> None:
    student, teacher = probabilities(0, 4), probabilities(1, 4)
    view = mask_view({"fc1": [0.2, 0.9, 0.4]}, {"fc1": teacher}, student, list("abcd"), kind="masked", label=2)
    expected = torch.nn.functional.kl_div(torch.tensor(teacher).log(), torch.tensor(student), reduction="sum").item()
    assert f"fc1 keeps 0.20 to 0.90 of its 3 features, masked it is {expected:.3g} nats from the student" in view.alt
    assert view.alt.startswith(f"The sample is c, the student prefers {'abcd'[int(student.argmax())]}.")
    assert view.picture.panels[0].marks[0].values.tolist() == [0.9, 0.4, 0.2]
    assert list(view.table) == ["class", "student", "fc1, masked"]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


def test_masks_of_many_classes_and_a_certain_student() -> None:
    names = [f"class with a long name {i}" for i in range(100)]
    masks = {f"teacher {i}": draw(i, 512) for i in range(3)}
    answers = {n: probabilities(i, 100) for i, n in enumerate(masks)}
    sure = np.eye(100)[3]
    view = mask_view(masks, answers, sure, names, kind="unmasked", label=99)
    assert f"{-np.log(answers['teacher 0'][3]):.3g} nats" in view.alt and view.png()


def test_paths_count_who_is_best() -> None:
    view = paths_view({"CE": [0.5, 1.0, 0.25], "KD": [0.5, 0.5, 0.75]}, ["cat", "dog", "<b>"])
    assert view.alt == (
        "Mean over 3 classes, and on how many each is the best: CE 58.3 %, best on 2 and KD 58.3 %, best on 2. They "
        "are furthest apart on dog, by 50.0 points."
    )
    assert view.table["KD"].tolist() == [0.5, 0.5, 0.75]
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))
    empty = paths_view({"CE": [0.5, np.nan], "KD": [0.25, np.nan]})
    assert empty.alt.startswith("Mean over 1 classes") and empty.png()
    assert paths_view({f"arm {i}": draw(i, 100) for i in range(6)}).png()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: routing_view({}), "shares is empty"),
        (lambda: routing_view({"a": [1.0], "b": [0.0, 0.0]}), "same epochs"),
        (lambda: routing_view({"a": [0.5], "b": [0.4]}), "1 together"),
        (lambda: routing_view({"a": [1.5], "b": [-0.5]}), r"in \[0, 1\]"),
        (lambda: mask_view({}, {}, [1.0], kind="masked", label=0), "same teachers"),
        (lambda: mask_view({"a": [1]}, {"b": [1]}, [1.0], kind="masked", label=0), "same teachers"),
        (lambda: mask_view({"a": [1]}, {"a": [0.5, 0.5]}, [1.0], kind="masked", label=0), "student's 1 classes"),
        (lambda: mask_view({"a": [1]}, {"a": [1.0]}, [1.0], kind="masked", label=1), "label be one, got 1"),
        (lambda: paths_view({}), "recalls is empty"),
        (lambda: paths_view({"a": [1.0], "b": [1.0, 1.0]}), "same classes"),
        (lambda: paths_view({"a": [np.nan]}), "a class with samples"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
