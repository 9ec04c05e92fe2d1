"""Pictures of TGeo-KD say what their numbers say."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.views import triangle_view, trust_view
from workbench.views.theme import DARK

PATH = np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
T, G, M = np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0.8, 0.1, 0.1])


def test_the_triangle_has_its_lengths() -> None:
    view = triangle_view(PATH, T, G, M, alpha=[0.5, 0.25], epoch=1)
    assert view.alt.startswith("After epoch 2 the teacher's weight is 0.25; student to teacher 1.13, student to label")
    lengths = dict(zip(view.table["edge"], view.table["length"], strict=True))
    assert lengths["student to teacher"] == pytest.approx(np.hypot(0.8, 0.8))
    assert lengths["teacher to label"] == pytest.approx(2**0.5)
    assert view.png() and view.png(DARK)


def test_words_stand_apart_where_teacher_and_label_meet() -> None:
    (plane,) = triangle_view(PATH, G, G, M, alpha=[0.5, 0.25], epoch=0).picture.panels
    (texts,) = (m for m in plane.marks if m.kind == "texts")
    assert [t.rsplit(" ", 1)[0] for t in texts.texts] == ["student to teacher", "student to label"]
    along = np.linalg.norm(np.diff(np.stack([texts.x, texts.y]), axis=1))
    assert along > 0.3 * np.linalg.norm(PATH[0] - G)  # at different places of one line


def test_groups_are_described_even_when_empty() -> None:
    view = trust_view({"clean": [0.1, 0.3], "corrupted": []})
    assert view.alt == "clean: mean 0.20 over 2 samples; corrupted: no sample."
    assert view.table["clean"].sum() == 2 and view.png()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"epoch must be in \[0, 2\), got 2"):
        triangle_view(PATH, T, G, M, alpha=[0.5, 0.25], epoch=2)
    with pytest.raises(ValueError, match=r"student must be \(E, C\)"):
        triangle_view(PATH, T[:2], G, M, alpha=[0.5, 0.25], epoch=0)
    with pytest.raises(ValueError, match="groups is empty"):
        trust_view({})
