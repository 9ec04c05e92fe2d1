"""Where nodes of a graph stand, and where their names find room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .drawing import Array

#: Places of a name about its node, the better ones first: across and down, in half widths and half heights.
_ABOUT = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def stress_positions(edges: npt.NDArray[np.int64], count: int) -> Array:
    """``(N, 2)`` positions whose distances are as near as can be to the numbers of steps along edges.

    Classical scaling of the shortest path lengths is the start, stress majorisation (scikit-learn's ``smacof``)
    improves on it; nothing is left to chance. Parts that are not connected stand beside each other, the largest first.

    Reference:
        Gansner, Koren & North, "Graph Drawing by Stress Majorization", GD 2004.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, shortest_path

    links = coo_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(count, count)).tocsr()
    parts, owner = connected_components(links, directed=False)
    steps = shortest_path(links, directed=False, unweighted=True)
    members = sorted((np.flatnonzero(owner == k) for k in range(parts)), key=lambda m: -len(m))
    places = np.empty((count, 2))
    corner, column, tallest = np.zeros(2), 0.0, 0.0
    for part in members:
        one = _connected(steps[np.ix_(part, part)])
        one = one - one.min(0)
        tallest = max(tallest, 3.0, one[:, 1].max())
        if corner[1] + one[:, 1].max() > tallest:
            corner = np.array([column + 1.0, 0.0])
        places[part] = one + corner
        column = max(column, float(places[part, 0].max()))
        corner[1] = places[part, 1].max() + 1.0
    return places


def _connected(steps: Array) -> Array:
    """Positions of one connected part from its path lengths, its longest direction across."""
    from sklearn.manifold import smacof

    count = len(steps)
    if count < 3:
        return np.stack([np.arange(count), np.zeros(count)], 1)
    centring = np.eye(count) - 1 / count
    strength, directions = np.linalg.eigh(-0.5 * centring @ steps**2 @ centring)
    start = directions[:, -2:] * np.sqrt(np.maximum(strength[-2:], 0))
    # equal rows (leaves of one node) would stay on one point: a nudge that depends on the index alone parts them
    start = start + 1e-2 * np.stack([np.cos(np.arange(count)), np.sin(np.arange(count))], 1)
    places, _ = smacof(steps, n_components=2, init=start, n_init=1, max_iter=300, eps=1e-6)
    centred = places - places.mean(0)
    turned = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    return turned * np.where(turned[np.abs(turned).argmax(0), [0, 1]] < 0, -1, 1)  # the sign is the solver's whim


def fit_into(positions: Array, width: float, height: float, *, stretch: float = 1.0) -> Array:
    """Positions moved and scaled to fill a box from its upper left corner, as far as one scale allows; ``stretch``
    allows that much more across than down. y grows upwards before, downwards after."""
    low, high = positions.min(0), positions.max(0)
    spans = high - low
    wide, tall = (room / span if span > 1e-9 * (1 + abs(high).max()) else np.inf
                  for room, span in zip((width, height), spans, strict=True))  # fmt: skip
    down = min(wide, tall)
    across = min(wide, down * stretch)
    scale = np.array([across, down]) if np.isfinite(down) else np.zeros(2)
    moved = (positions - low) * np.where(np.isfinite(scale), scale, 0.0)
    moved[:, 1] = moved[:, 1].max() - moved[:, 1]
    return moved + np.array([(width - moved[:, 0].max()) / 2, 0])


def spread(points: Array, least: float, width: float, height: float) -> Array:
    """Points moved apart, inside a box, until no two are nearer than ``least`` (or it has been tried for long)."""
    made = points.copy()
    for _ in range(60):
        away = made[:, None] - made
        distance = np.linalg.norm(away, axis=-1) + np.eye(len(made)) * 1e9
        if (distance >= least).all():
            break
        push = np.maximum(least - distance, 0) / 2 / np.maximum(distance, 1e-9)
        made = np.clip(made + (push[..., None] * away).sum(1), 0, [width, height])
    return made


def name_places(
    points: Array, radius: float, sizes: Sequence[tuple[float, float]], lines: Array, order: Sequence[int], room: Array
) -> Iterator[tuple[int, Array]]:
    """Nodes whose names find room, and the middles of the names: clear of nodes and of each other, over few lines.

    Args:
        points: ``(N, 2)`` nodes; radius: of each; sizes: width and height of each name, all in inches.
        lines: ``(P, 2)`` points along the edges.
        order: nodes, those whose names matter most first.
        room: ``(2,)`` width and height of the sheet.
    """
    taken = np.concatenate([points - radius, points + radius], 1)  # left, top, right, bottom
    for i in order:
        half = np.array(sizes[i]) / 2
        best: tuple[int, Array] | None = None
        for across, down in _ABOUT:
            gap = 0.03 if 0 in (across, down) else -0.25 * radius
            middle = points[i] + np.array([across, down]) * (half + radius + gap)
            box = np.concatenate([middle - half, middle + half])
            if (box[:2] < 0).any() or (box[2:] > room).any():
                continue
            if ((taken[:, :2] < box[2:]) & (taken[:, 2:] > box[:2])).all(1).any():
                continue
            crossed = int(((lines > box[:2]) & (lines < box[2:])).all(1).sum())
            if best is None or crossed < best[0]:
                best = (crossed, middle)
        if best is not None:
            taken = np.concatenate([taken, [[*(best[1] - half), *(best[1] + half)]]])
            yield i, best[1]
