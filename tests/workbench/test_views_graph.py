"""Graphs are counted right, laid out without chance, and what is left out is said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.views import graph_view
from workbench.views.graph_layout import fit_into, name_places, spread, stress_positions
from workbench.views.theme import DARK, LIGHT

NAMES = ["ant", "bee", "cat", "dog"]
#: A path ant - bee - cat, given in both directions, a loop at cat, and dog alone.
EDGES = torch.tensor([[0, 1, 1, 2, 2], [1, 0, 2, 1, 2]])


def test_a_graph_is_counted_by_hand() -> None:
    view = graph_view(
        NAMES, EDGES, classes=[0, 0, 1, -1], class_names=["insect", "beast"], weights=[1.0, 2.0, -3.0, -3.0, 9.0]
    )
    assert view.alt == (
        "Graph of 4 nodes and 2 edges, 2 connected parts. Edges of a node: highest 2 (bee), lowest 0 (dog). 2 classes, "
        "nodes of a class: highest 2 (insect), lowest 1 (beast). 50.0 % of the edges between nodes with a class join "
        "nodes of the same one. Weights: highest 2 (ant to bee), lowest -3 (bee to cat). 1 self-loop not drawn."
    )
    assert view.table.columns.tolist() == ["node", "class", "edges", "drawn", "sum of weights"]
    assert view.table["edges"].tolist() == [1, 2, 1, 0] and view.table["class"].tolist() == ["insect"] * 2 + [
        "beast",
        "",
    ]
    assert view.table["sum of weights"].tolist() == [2, -1, -3, 0]
    figure = view.figure()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["insect", "beast", "no class"]
    assert {t.get_text() for t in figure.axes[0].texts} == {*NAMES, ""}
    assert all(view.png(theme).startswith(b"\x89PNG") for theme in (LIGHT, DARK))


def test_directions_count_where_they_are_drawn() -> None:
    view = graph_view(NAMES, EDGES, directed=True, values=[0.1, np.nan, 0.3, 0.2], value_label="risk")
    assert "4 nodes and 4 edges" in view.alt and "risk: highest 0.3 (cat), lowest 0.1 (ant). 1 value is not" in view.alt
    assert view.table["risk"].tolist() == pytest.approx([0.1, np.nan, 0.3, 0.2], nan_ok=True)
    lines, heads = view.figure().axes[0].collections[:2]
    assert len(lines.get_paths()) == len(heads.get_paths()) == 4 and view.png(DARK)


@pytest.mark.parametrize(
    ("nodes", "edges", "more", "words"),
    [
        (1, np.zeros((2, 0)), {}, "Graph of 1 node and 0 edges, 1 connected part. Edges of a node: 0 has 0."),
        (3, [[], []], {}, "3 connected parts. Edges of a node: all 3 have 0."),
        (2, [[0], [0]], {}, "all 2 have 0. 1 self-loop not drawn."),
        (2, [[0], [1]], {"classes": [-1, -100]}, "all 2 have 1. 0 classes."),
        (2, [[0], [1]], {"weights": [0.0]}, "all 2 have 1. Weights: 0 to 1 has 0."),
        (2, [[0], [1]], {"positions": [[1.0, 1.0], [1.0, 1.0]], "mark": [True, False]}, "all 2 have 1. Marked: 0."),
    ],
)
def test_graphs_say_it_right_at_the_edges(nodes: int, edges: object, more: dict[str, object], words: str) -> None:
    view = graph_view(nodes, edges, **more)
    assert view.alt.endswith(words) and "nan" not in view.alt and view.png()


def test_a_large_graph_keeps_the_marked_and_the_most_connected() -> None:
    star = np.stack([np.zeros(9, dtype=int), np.arange(1, 10)])
    view = graph_view([f"n{i}" for i in range(10)], star, mark=np.arange(10) == 7, most=3)
    assert view.table.loc[view.table["drawn"], "node"].tolist() == ["n0", "n1", "n7"]
    assert "Marked: n7. 3 of 10 nodes are drawn, with 2 of 9 edges. The table holds all." in view.alt
    texts = [t.get_text() for t in view.figure().axes[0].texts]
    assert "3 of 10 nodes are drawn, with 2 of 9 edges." in texts, "the picture says it too"


def test_of_many_classes_nine_are_told_apart() -> None:
    classes = np.repeat(np.arange(12), [3] + [2] * 10 + [1])
    figure = graph_view(len(classes), np.zeros((2, 0)), classes=classes).figure()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [*map(str, range(9)), "3 other classes"]
    assert "12 classes" in graph_view(len(classes), np.zeros((2, 0)), classes=classes).alt


# Layout ---------------------------------------------------------------------------------------------------------------


def test_a_path_is_straight_and_a_ring_is_round() -> None:
    path = stress_positions(np.array([[0, 1, 2, 3], [1, 2, 3, 4]]), 5)
    assert path[:, 0] == pytest.approx(path[0, 0] + np.sign(path[-1, 0] - path[0, 0]) * np.arange(5), abs=0.05)
    assert np.ptp(path[:, 1]) < 0.05
    ring = stress_positions(np.array([np.arange(8), (np.arange(8) + 1) % 8]), 8)
    radii = np.linalg.norm(ring - ring.mean(0), axis=1)
    assert radii.std() < 0.05 * radii.mean()


@given(st.integers(1, 12), st.data())
def test_layout_is_finite_apart_and_repeatable(count: int, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), max_size=20))
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    places = stress_positions(edges, count)
    assert np.isfinite(places).all() and (places == stress_positions(edges, count)).all()
    points = spread(fit_into(places, 8, 4, stretch=1.5), 0.2, 8, 4)
    assert (points >= 0).all() and (points <= [8.0001, 4.0001]).all()
    assert all(np.linalg.norm(a - b) > 0.15 for a, b in itertools.combinations(points, 2))


def test_given_positions_keep_their_proportions() -> None:
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    points = fit_into(square, 8, 4)
    assert points == pytest.approx(np.array([[2, 4], [6, 4], [6, 0], [2, 0]])), "y grows upwards"
    assert np.isfinite(fit_into(square[:1] * 1e9, 8, 4)).all()


def test_names_lie_clear_of_nodes_and_of_each_other() -> None:
    points = np.random.default_rng(0).uniform(1, 4, (40, 2))
    room, sizes = np.array([5.0, 5.0]), [(0.9, 0.15)] * 40
    found = dict(name_places(points, 0.08, sizes, np.zeros((0, 2)), range(40), room))
    assert 5 < len(found) < 40
    half = np.array([0.45, 0.075])
    boxes = [(m - half, m + half) for m in found.values()]
    boxes += [(p - 0.08, p + 0.08) for p in points]
    for (a, b), (c, d) in itertools.combinations(boxes[: len(found)], 2):
        assert (b <= c + 1e-9).any() or (d <= a + 1e-9).any()
    for (a, b), (c, d) in itertools.product(boxes[: len(found)], boxes[len(found) :]):
        assert (b <= c + 1e-9).any() or (d <= a + 1e-9).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"nodes": 0, "edges": [[], []]}, ValueError, "got 0 nodes and most = 100"),
        ({"most": 0}, ValueError, "got 4 nodes and most = 0"),
        ({"edges": [[0, 1]]}, ValueError, r"edges must be whole numbers \(2, E\), got int64 \(1, 2\)"),
        ({"edges": [[0.5], [1]]}, ValueError, r"edges must be whole numbers \(2, E\), got float64 \(2, 1\)"),
        ({"edges": [[0], [4]]}, IndexError, r"edges must be in \[0, 4\), got 0 to 4"),
        ({"edges": [[-1], [0]]}, IndexError, r"edges must be in \[0, 4\), got -1 to 0"),
        ({"weights": [1.0]}, ValueError, "weights must be 5 finite numbers, one for each edge, got 1"),
        ({"weights": [np.nan] * 5}, ValueError, "weights must be 5 finite numbers"),
        ({"classes": [0] * 4, "values": [0] * 4}, ValueError, "give one of them, got both"),
        ({"classes": [0.5] * 4}, ValueError, r"classes must be 4 whole numbers, .* got shape \(4,\)"),
        ({"classes": [0, 1, 2, 3], "class_names": ["a"]}, ValueError, "class_names must hold at least 4 names, got 1"),
        ({"values": [1.0]}, ValueError, r"values must be \(4,\), got \(1,\)"),
        ({"values": [np.nan] * 4}, ValueError, "values must hold finite numbers"),
        ({"positions": np.zeros((4, 3))}, ValueError, r"positions must be \(4, 2\), got \(4, 3\)"),
        ({"positions": np.full((4, 2), np.nan)}, ValueError, "positions must be finite"),
        ({"mark": [True]}, ValueError, r"mark must be \(4,\), got \(1,\)"),
    ],
)
def test_graphs_refuse_what_they_cannot_draw(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        graph_view(**({"nodes": NAMES, "edges": EDGES} | arguments))
