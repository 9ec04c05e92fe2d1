"""Length and direction of embeddings: where features stand to their class, the ND term in the plane, attributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdcore.functional.checks import check_positive
from kdcore.functional.landscape import plane_points
from kdcore.methods.nd_kd import nd_loss

from .base import View
from .drawing import Array, as_array, as_tensor, join_words, limits
from .picture import Arrows, Axis, Colours, Field, Heat, Images, Line, Mark, Panel, Picture, Plane, Points, Rule, Style


def _norms_and_cosines(models: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Array, Array]]:
    read = {
        n: (as_array(f"models[{n!r}] norms", a, ndim=1), as_array(f"models[{n!r}] cosines", b, ndim=1))
        for n, (a, b) in models.items()
    }
    for name, (norms, cosines) in read.items():
        if len(norms) != len(cosines) or (norms < 0).any() or (np.abs(cosines) > 1 + 1e-6).any():
            raise ValueError(
                f"models[{name!r}] must hold norms >= 0 and cosines in [-1, 1] of the same samples, got "
                f"{len(norms)} norms and {len(cosines)} cosines."
            )
    return read


def _degrees(cosines: Array) -> Array:
    return np.degrees(np.arccos(cosines.clip(-1, 1)))


def norm_direction_view(
    models: Mapping[str, tuple[Any, Any]],
    *,
    reference: str | None = None,
    title: str = "Length and direction of the embeddings",
) -> View:
    """Every embedding as a point: the angle to the mean of its class, and its length, one quarter circle per model.

    Straight up is the direction of the class; the distance from the corner is the length. The large marker is at the
    mean length and mean angle.

    Args:
        models: name -> ``(norms (N,), cosines (N,))``, see
            :func:`kdcore.functional.prototypes.norm_and_cosine`; one to three beside the reference.
        reference: a name among them, drawn behind every other model instead of by itself.

    Raises:
        ValueError: no or too many models, an unknown reference, norms and cosines that do not fit.
    """
    read = _norms_and_cosines(models)
    if reference is not None and reference not in read:
        raise ValueError(f"reference must be one of {', '.join(map(repr, read))}, got {reference!r}.")
    shown = [n for n in read if n != reference]
    if not 1 <= len(shown) <= 3:
        raise ValueError(f"models must hold one to three beside the reference, got {len(shown)}.")
    angles = {n: _degrees(cosines) for n, (_, cosines) in read.items()}
    means = {n: (float(norms.mean()), float(angles[n].mean())) for n, (norms, _) in read.items()}
    words = [f"{n}: length {r:.3g}, {a:.0f} degrees from the class direction" for n, (r, a) in means.items()]
    alt = f"{len(next(iter(read.values()))[0])} embeddings per model. Means, {'; '.join(words)}."
    table = pd.DataFrame(
        {
            "model": list(read),
            "mean length": [m[0] for m in means.values()],
            "mean angle in degrees": [m[1] for m in means.values()],
            "mean cosine": [float(c.mean()) for _, c in read.values()],
            "embeddings": [len(c) for _, c in read.values()],
        }
    )
    widest = 90.0 if max(a.max() for a in angles.values()) <= 90 else 180.0
    longest = 1.06 * max(float(norms.max()) for norms, _ in read.values()) or 1.0

    planes = []
    for i, name in enumerate(shown):
        marks = _arcs(longest, widest)
        if reference is not None:
            marks += _cloud(angles[reference], read[reference][0], means[reference], "muted", reference)
        marks += _cloud(angles[name], read[name][0], means[name], i, name)
        planes.append(
            Plane(
                *marks,
                x=Axis("length across the class direction", low=0, high=longest),
                y=Axis("length along it", low=0 if widest == 90 else -longest, high=longest),
                title=f"{name}: length {means[name][0]:.3g}, {means[name][1]:.0f}°",
                equal=True,
                height=280 if widest == 90 else 420,
            )
        )
    return View(title=title, alt=alt, table=table, picture=Picture(*planes))


def _arcs(longest: float, widest: float) -> list[Mark]:
    """Thin lines of equal length and of equal angle, every 30 degrees."""
    turns = np.radians(np.linspace(0, widest, 61))
    radii, angles = np.linspace(0, longest, 5)[1:-1], np.radians(np.arange(30, widest + 1, 30))
    paths = [(r * np.sin(turns), r * np.cos(turns)) for r in radii]
    paths += [(np.array([0, longest * np.sin(a)]), np.array([0, longest * np.cos(a)])) for a in angles]
    return [Line("", x, y, style="muted", fine=True) for x, y in paths]


def _cloud(angles: Array, norms: Array, mean: tuple[float, float], style: Style, label: str) -> list[Mark]:
    turns, turn = np.radians(angles), np.radians(mean[1])
    notes = [f"length {r:.3g}, {a:.0f} degrees from the class" for r, a in zip(norms, angles, strict=True)]
    middle = [f"mean length {mean[0]:.3g}, mean angle {mean[1]:.0f} degrees"]
    return [
        Points("", norms * np.sin(turns), norms * np.cos(turns), style=style, size=4, notes=notes),
        Points(label, [mean[0] * np.sin(turn)], [mean[0] * np.cos(turn)], style=style, size=14, notes=middle),
    ]


def nd_landscape_view(
    student: Any, teacher: Any, class_mean: Any, *, half_width: float = 3.0, points: int = 121, title: str | None = None
) -> View:
    """The ND term over all student embeddings of the plane, with the circle at which its gradient changes.

    Inside the circle ``||s|| = ||t||`` the term falls in one direction, that of the class; outside it depends on the
    angle alone. The arrow at the student is the way a gradient step takes it.

    Args:
        student, teacher, class_mean: ``(2,)`` each.
        half_width: both axes run from minus to plus this.
        points: of the grid, per axis.

    Raises:
        ValueError: other shapes, a class mean of zero, fewer than three points.
    """
    s, t, c = (
        as_tensor(n, v, ndim=1) for n, v in (("student", student), ("teacher", teacher), ("class_mean", class_mean))
    )
    for name, vector in (("student", s), ("teacher", t), ("class_mean", c)):
        if vector.shape != (2,):
            raise ValueError(f"{name} must be (2,), got {tuple(vector.shape)}.")
    check_positive("half_width", half_width)
    if points < 3:
        raise ValueError(f"points must be at least 3, got {points!r}.")
    axis = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    rows = plane_points(torch.zeros(2).double(), torch.eye(2).double(), axis, axis).reshape(-1, 2)
    field = _term(rows, t, c).reshape(points, points).numpy()
    leaf = s.clone().requires_grad_()
    value = _term(leaf[None], t, c).sum()
    (gradient,) = torch.autograd.grad(value, leaf)
    pull = -gradient
    length, radius = float(s.norm()), float(t.norm())
    outward = float(pull @ s) / length if length else float(pull.norm())
    around = float((pull.norm() ** 2 - outward**2).clamp_min(0).sqrt())
    longer = length >= radius
    regime = "longer than the teacher: turned only" if longer else "shorter than the teacher: pulled along the class"
    alt = (
        f"The student has length {length:.2f}, the teacher {radius:.2f}. The term is {value.item():.3f}; the "
        f"student is {regime}. The pull is {around:.3f} around the origin and "
        f"{round(outward, 3) + 0.0:+.3f} outwards."
    )
    table = pd.DataFrame(
        {
            "quantity": ["length of the student", "length of the teacher", "term", "pull outwards", "pull around"],
            "value": [length, radius, value.item(), outward, around],
        }
    )

    turns = np.linspace(0, 2 * np.pi, 121)
    ray = (c / c.norm() * half_width).tolist()
    step = (pull * half_width / 2).tolist()
    plane = Plane(
        Field(
            field,
            (-half_width, half_width),
            (-half_width, half_width),
            Colours(0, 2, "1 − ⟨s, e⟩ / max(‖s‖, ‖t‖)"),
            levels=np.linspace(0, 2, 17).tolist(),
        ),
        Line("length of the teacher", radius * np.cos(turns), radius * np.sin(turns), style="light", dots=False),
        Line("class direction", [0, ray[0]], [0, ray[1]], style="bad", dots=False),
        Arrows("pull of the term", [float(s[0])], [float(s[1])], [step[0]], [step[1]], style="light"),
        Points("teacher", [float(t[0])], [float(t[1])], style="teacher", size=13),
        Points("student", [float(s[0])], [float(s[1])], style="student", size=13),
        x=Axis("first coordinate of the embedding", low=-half_width, high=half_width),
        y=Axis("second coordinate", low=-half_width, high=half_width),
        title=f"Student {regime}",
        equal=True,
    )
    return View(title=title or "The ND term in the plane", alt=alt, table=table, picture=Picture(plane))


def _term(rows: torch.Tensor, teacher: torch.Tensor, class_mean: torch.Tensor) -> torch.Tensor:
    labels = torch.zeros(len(rows), dtype=torch.int64)
    return nd_loss(rows, teacher.expand(len(rows), 2), labels, class_means=class_mean[None], reduction="none")


def norm_direction_curves_view(
    arms: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    reference: tuple[float, float] | None = None,
    title: str = "Length and direction during training",
) -> View:
    """Mean length, and mean cosine with the class mean, after every epoch, one line per arm.

    Args:
        arms: label -> ``(norms, cosines)``, one number per epoch each, all of the same length.
        reference: the teacher's two numbers, drawn as horizontal lines.

    Raises:
        ValueError: no arms, or numbers of epochs that differ.
    """
    if not arms:
        raise ValueError("arms is empty: there is nothing to show.")
    read = {n: [as_array(f"arms[{n!r}]", v, ndim=1) for v in pair] for n, pair in arms.items()}
    epochs = len(next(iter(read.values()))[0])
    for name, pair in read.items():
        if any(len(v) != epochs for v in pair):
            raise ValueError(
                f"arms[{name!r}] must hold {epochs} norms and {epochs} cosines, got "
                f"{join_words([str(len(v)) for v in pair])}."
            )
    what = ("mean length", "mean cosine with the class mean")
    alt = (
        f"{epochs} epochs. At the end, "
        + "; ".join(f"{n}: length {a[-1]:.3g}, cosine {b[-1]:.2f}" for n, (a, b) in read.items())
        + ("" if reference is None else f"; teacher: length {reference[0]:.3g}, cosine {reference[1]:.2f}")
        + "."
    )
    table = pd.DataFrame(
        {
            "arm": np.repeat(list(read), epochs),
            "epoch": np.tile(np.arange(1, epochs + 1), len(read)),
            **{w: np.concatenate([pair[i] for pair in read.values()]) for i, w in enumerate(what)},
        }
    )

    planes = []
    for i, label in enumerate(what):
        marks: list[Mark] = [
            Line(name, np.arange(1, epochs + 1), pair[i], style=k) for k, (name, pair) in enumerate(read.items())
        ]
        if reference is not None:
            marks.append(Rule(reference[i], "teacher"))
        planes.append(Plane(*marks, x=Axis("epoch"), y=Axis(label)))
    return View(title=title, alt=alt, table=table, picture=Picture(*planes))


def attribution_view(
    image: Any, maps: Mapping[str, Any], *, label: str = "attribution", title: str = "What the pixels contribute"
) -> View:
    """A grey image beside signed maps of the contributions of its pixels, on one colour scale.

    Args:
        image: ``(H, W)`` or ``(1, H, W)``.
        maps: one to four names -> ``(H, W)``; positive values speak for what was asked.
        label: of the colour bar.

    Raises:
        ValueError: no or too many maps, or shapes that differ from the image's.
    """
    pixels = as_array("image", image, ndim=(2, 3))
    pixels = pixels[0] if pixels.ndim == 3 else pixels
    read = {n: as_array(f"maps[{n!r}]", m, ndim=2) for n, m in maps.items()}
    if not 1 <= len(read) <= 4:
        raise ValueError(f"maps must hold one to four, got {len(read)}.")
    for name, m in read.items():
        if m.shape != pixels.shape:
            raise ValueError(f"maps[{name!r}] must have the image's shape {pixels.shape}, got {m.shape}.")
    low, high = limits(*read.values(), symmetric=True)
    where = {n: np.unravel_index(int(np.abs(m).argmax()), m.shape) for n, m in read.items()}
    alt = (
        f"{label} of {pixels.shape[0]} by {pixels.shape[1]} pixels. "
        + "; ".join(
            f"{n}: {m[m > 0].sum():.3g} for and {np.abs(m[m < 0]).sum():.3g} against, strongest in row {where[n][0]}, "
            f"column {where[n][1]}"
            for n, m in read.items()
        )
        + "."
    )
    table = pd.DataFrame(
        {
            "row": np.repeat(np.arange(pixels.shape[0]), pixels.shape[1]),
            "column": np.tile(np.arange(pixels.shape[1]), pixels.shape[0]),
            "image": pixels.ravel(),
            **{n: m.ravel() for n, m in read.items()},
        }
    )

    bright = (pixels - pixels.min()) / (float(np.ptp(pixels)) or 1.0)
    panels: list[Panel] = [Images(images=bright[None], captions=["image"], size=150)]
    panels += [
        Heat(values=m, colours=Colours(low, high, label, "diverging"), title=name, square=True, unnamed=True)
        for name, m in read.items()
    ]
    return View(title=title, alt=alt, table=table, picture=Picture(*panels, columns=len(panels)))


__all__ = ["attribution_view", "nd_landscape_view", "norm_direction_curves_view", "norm_direction_view"]
