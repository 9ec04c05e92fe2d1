"""Adapters from a student's feature to the shape of a teacher's, chosen from the two shapes and reported in words.

::

    p = make_projector((64, 4, 4), (256, 4, 4), student_name="student.layer3")
    print(p.describe())           # student.layer3 64x4x4 -> conv1x1 -> 256x4x4
    loss = F.mse_loss(p(student_feature), p.target(teacher_feature))

Shapes are written without the batch dimension: a map ``(C, H, W)``, tokens ``(T, D)``, a vector ``(D,)``. The
resolution of maps is changed before the learnable layer where it shrinks (adaptive average pooling) and after it where
it grows (bilinear), the cheaper order both times. Tokens become a map by their square grid; a class token has no place
in a map and is left out, on the teacher's side by :meth:`Projector.target`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ._projector_steps import (
    DropTokens,
    MapToTokens,
    Mean,
    Permute,
    Pointwise,
    Pool,
    ResizeTokens,
    Step,
    TokensToMap,
    Upsample,
    resizing,
    step_words,
)
from .functional.checks import check_choice, check_fraction, check_positive, describe
from .model_layers import feature_kind, format_shape, token_grid

if TYPE_CHECKING:
    from .model_layers import LayerPair

KINDS = ("auto", "none", "linear", "conv1x1", "conv1x1_bn", "mlp")
LAYOUTS = ("map", "map_last", "tokens", "vector")
Shape = tuple[int, ...]


class Projector(nn.Module):
    """A student feature in the shape of a teacher feature; build it with :func:`make_projector`.

    Attributes:
        student_shape, teacher_shape: as given, without batch.
        output_shape: of ``projector(student)``; the teacher's, or the teacher's without its class token.
        drops_teacher_token: whether :meth:`target` leaves the teacher's class token out.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        student_shape: Shape,
        teacher_shape: Shape,
        output_shape: Shape,
        *,
        student_name: str = "student",
        teacher_name: str = "teacher",
    ) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps)
        self.student_shape, self.teacher_shape, self.output_shape = student_shape, teacher_shape, output_shape
        self.student_name, self.teacher_name = student_name, teacher_name

    @property
    def drops_teacher_token(self) -> bool:
        return self.output_shape != self.teacher_shape

    def forward(self, student: Tensor) -> Tensor:
        """``(N, *student_shape)`` to ``(N, *output_shape)``.

        Raises:
            ValueError: another shape than the projector was made for.
        """
        self._check(self.student_name, student, self.student_shape)
        return self.steps(student)

    def target(self, teacher: Tensor) -> Tensor:
        """The teacher's feature as the projected student is compared with it: ``(N, *output_shape)``, detached.

        Raises:
            ValueError: another shape than the projector was made for.
        """
        self._check(self.teacher_name, teacher, self.teacher_shape)
        return (teacher[:, 1:] if self.drops_teacher_token else teacher).detach()

    @staticmethod
    def _check(name: str, x: Tensor, shape: Shape) -> None:
        if tuple(x.shape[1:]) != shape:
            wanted = ", ".join(map(str, shape))
            raise ValueError(f"{name} must be (N, {wanted}) for this projector, got {describe(x)}.")

    def describe(self) -> str:
        """In words: ``"student.layer3 64x4x4 -> conv1x1 -> 256x4x4"``."""
        steps = step_words(self.steps) or ["identity"]
        chain = [f"{self.student_name} {format_shape(self.student_shape)}", *steps, format_shape(self.output_shape)]
        note = f" ({self.teacher_name}'s class token is left out)" if self.drops_teacher_token else ""
        return " -> ".join(chain) + note

    def extra_repr(self) -> str:
        return self.describe()


def _checked(argument: str, shape: Sequence[int]) -> Shape:
    if not 1 <= len(shape) <= 3 or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in shape):
        raise ValueError(f"{argument} must be (C, H, W), (T, D) or (D,), without batch, got {tuple(shape)!r}.")
    return tuple(shape)


class _Plan:
    """Works out the steps; ``shape`` is what has been reached so far, maps always channels first."""

    def __init__(
        self,
        student: Shape,
        teacher: Shape,
        layouts: tuple[str, str],
        kind: str,
        grids: tuple[tuple[int, int] | None, tuple[int, int] | None],
        names: tuple[str, str],
    ) -> None:
        self.student, self.teacher, self.layouts = student, teacher, layouts
        self.kind, self.grids, self.names = kind, grids, names
        self.steps: list[Step] = []
        self.output = teacher

    def refuse(self, why: str, advice: str) -> ValueError:
        return ValueError(
            f"no projector from {self.names[0]} {format_shape(self.student)} ({self.layouts[0]}) to "
            f"{self.names[1]} {format_shape(self.teacher)} ({self.layouts[1]}): {why}; {advice}."
        )

    def grid(self, side: int) -> tuple[tuple[int, int], int]:
        """Grid and number of class tokens of a token sequence."""
        count, given = (self.student, self.teacher)[side][0], self.grids[side]
        found = token_grid(count, given)
        if found is None:
            argument = ("grid", "teacher_grid")[side]
            reason = (
                f"{argument}={given} holds {given[0] * given[1]} tokens"
                if given
                else f"{count} tokens of {self.names[side]} are no square grid, with or without a class token"
            )
            raise self.refuse(
                reason, f"pass {argument}=(height, width), drop extra tokens first, or choose another layer pair"
            )
        return (found[0], found[1]), found[2]

    def width(self, layout: str, width: int, out: int) -> None:
        """The learnable step."""
        if self.kind in ("conv1x1", "conv1x1_bn") and layout != "map":
            raise self.refuse(f'kind="{self.kind}" needs a map', 'use kind="auto", "linear" or "mlp"')
        if self.kind == "linear" and layout == "map":
            raise self.refuse('kind="linear" needs tokens or a vector', 'use kind="auto", "conv1x1" or "mlp"')
        if self.kind == "none" and width != out:
            raise self.refuse(f'kind="none" learns nothing, but the widths are {width} and {out}', 'use kind="auto"')
        if self.kind not in ("auto", "none") or (self.kind == "auto" and width != out):
            self.steps.append(Pointwise("linear" if self.kind == "auto" else self.kind, layout, width, out))

    def run(self) -> _Plan:
        source = "map" if self.layouts[0] == "map_last" else self.layouts[0]
        target = "map" if self.layouts[1] == "map_last" else self.layouts[1]
        s, t = self.student, self.teacher
        if self.layouts[0] == "map_last":
            s = (s[2], s[0], s[1])
            self.steps.append(Permute(0, 3, 1, 2))
        if self.layouts[1] == "map_last":
            t = (t[2], t[0], t[1])
        getattr(self, f"_{source}_to_{target}")(s, t)
        if self.layouts[1] == "map_last":
            self.steps.append(Permute(0, 2, 3, 1))
        if len(self.steps) == 2 and all(isinstance(step, Permute) for step in self.steps):
            self.steps.clear()  # channels last on both sides and nothing in between
        return self

    def _map_to_map(self, s: Shape, t: Shape) -> None:
        resize = resizing((s[1], s[2]), (t[1], t[2]))
        self.steps += [step for step in resize if isinstance(step, Pool)]
        self.width("map", s[0], t[0])
        self.steps += [step for step in resize if isinstance(step, Upsample)]

    def _map_to_tokens(self, s: Shape, t: Shape) -> None:
        grid, prefix = self.grid(1)
        self._map_to_map(s, (t[1], *grid))
        self.steps.append(MapToTokens())
        self.output = (t[0] - prefix, t[1])

    def _map_to_vector(self, s: Shape, t: Shape) -> None:
        self.steps.append(Mean("map"))
        self.width("vector", s[0], t[0])

    def _tokens_to_map(self, s: Shape, t: Shape) -> None:
        grid, prefix = self.grid(0)
        self.steps.append(TokensToMap(grid, prefix))
        self._map_to_map((s[1], *grid), t)

    def _tokens_to_tokens(self, s: Shape, t: Shape) -> None:
        if s[0] != t[0]:
            (source, extra), (grid, prefix) = self.grid(0), self.grid(1)
            keep = extra if prefix else 0
            if extra > keep:
                self.steps.append(DropTokens())
            if source != grid:
                self.steps.append(ResizeTokens(source, grid, keep))
            self.output = (t[0] - prefix + keep, t[1])
        self.width("tokens", s[1], t[1])

    def _tokens_to_vector(self, s: Shape, t: Shape) -> None:
        self.steps.append(Mean("tokens"))
        self.width("vector", s[1], t[0])

    def _vector_to_vector(self, s: Shape, t: Shape) -> None:
        self.width("vector", s[0], t[0])

    def _vector_to_map(self, s: Shape, t: Shape) -> None:
        raise self.refuse(
            "a vector has no positions",
            "choose a student layer that still has some, or pool the "
            "teacher's feature first (kdcore.functional.pooling)",
        )

    _vector_to_tokens = _vector_to_map


def make_projector(
    student_shape: Sequence[int],
    teacher_shape: Sequence[int],
    *,
    kind: str = "auto",
    grid: tuple[int, int] | None = None,
    teacher_grid: tuple[int, int] | None = None,
    student_layout: str | None = None,
    teacher_layout: str | None = None,
    student_name: str = "student",
    teacher_name: str = "teacher",
) -> Projector:
    """The adapter from one shape to the other; deterministic under ``torch.manual_seed``.

    ====================  ======================================================================================
    student -> teacher    what is done
    ====================  ======================================================================================
    map -> map            average pool where it shrinks, 1x1 convolution, bilinear where it grows
    map -> tokens         the same to the teacher's grid, flattened; the teacher's class token is left out
    map -> vector         global average pool, linear
    tokens -> map         student's class token dropped, square grid, then as map -> map
    tokens -> tokens      grids resized, linear; class tokens stay where both have one, else are left out
    tokens -> vector      mean over tokens, linear
    vector -> vector      linear
    ====================  ======================================================================================

    Args:
        student_shape, teacher_shape: ``(C, H, W)``, ``(T, D)`` or ``(D,)``, without batch.
        kind: ``"auto"``: a linear layer (1x1 convolution on maps), only where widths differ; ``"none"``: nothing
            learnable; ``"linear"``, ``"conv1x1"``, ``"conv1x1_bn"`` (with batch norm, as FitNets' regressor is commonly
            built) and ``"mlp"`` (two layers with GELU): also where widths agree.
        grid: ``(height, width)`` of the student's tokens where they are no square; also the teacher's if it fits.
        teacher_grid: the same for the teacher.
        student_layout, teacher_layout: ``"map"``, ``"map_last"`` (channels last), ``"tokens"``, ``"vector"``; default
            from the number of dimensions, as in :func:`kdcore.model_layers.feature_kind` with ``channels_last=False``.
        student_name, teacher_name: how :meth:`Projector.describe` and errors call them.

    Raises:
        ValueError: bad shape or kind, tokens without a grid, a vector as student of a map; the message names both
            shapes and what to do.

    Example:
        >>> make_projector((64, 4, 4), (256, 4, 4), student_name="student.layer3").describe()
        'student.layer3 64x4x4 -> conv1x1 -> 256x4x4'
    """
    check_choice("kind", kind, KINDS)
    student, teacher = _checked("student_shape", student_shape), _checked("teacher_shape", teacher_shape)
    layouts = []
    for side, given, shape in (("student", student_layout, student), ("teacher", teacher_layout, teacher)):
        argument, layout = f"{side}_layout", given or feature_kind(shape, channels_last=False)
        check_choice(argument, layout, LAYOUTS)
        if len(shape) != {"vector": 1, "tokens": 2}.get(layout, 3):
            raise ValueError(f"{argument}={layout!r} does not fit the shape {shape}.")
        layouts.append(layout)
    if (
        teacher_grid is None
        and grid is not None
        and layouts[1] == "tokens"
        and (layouts[0] != "tokens" or token_grid(teacher[0], grid))
    ):
        teacher_grid = grid
    names = (student_name, teacher_name)
    plan = _Plan(student, teacher, (layouts[0], layouts[1]), kind, (grid, teacher_grid), names).run()
    return Projector(plan.steps, student, teacher, plan.output, student_name=student_name, teacher_name=teacher_name)


class ProjectorBank(nn.Module):
    """One projector per layer pair, in the order of the pairs.

    Args:
        pairs: from :func:`kdcore.model_layers.pair_layers` (with shapes).
        kind: as for :func:`make_projector`.

    Raises:
        ValueError: no pairs, a pair without shapes, or one that has no projector.

    Example:
        ``bank(student_taps.features, teacher_taps.features)`` gives ``[(projected, target), ...]``.
    """

    def __init__(self, pairs: Sequence[LayerPair], *, kind: str = "auto") -> None:
        super().__init__()
        if not pairs:
            raise ValueError("pairs must hold at least one LayerPair, got none.")
        self.pairs = list(pairs)
        projectors = []
        for pair in pairs:
            if pair.student.shape is None or pair.teacher.shape is None:
                raise ValueError(
                    f"pairs need shapes, {pair.student.name!r} and {pair.teacher.name!r} have none: "
                    "pair_layers gives them."
                )
            projectors.append(
                make_projector(
                    pair.student.shape,
                    pair.teacher.shape,
                    kind=kind,
                    student_layout=pair.student.kind,
                    teacher_layout=pair.teacher.kind,
                    student_name=f"student.{pair.student.name}",
                    teacher_name=f"teacher.{pair.teacher.name}",
                )
            )
        self.projectors = nn.ModuleList(projectors)

    @property
    def student_taps(self) -> tuple[str, ...]:
        return tuple(pair.student.name for pair in self.pairs)

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        return tuple(pair.teacher.name for pair in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Projector:
        projector = self.projectors[index]
        assert isinstance(projector, Projector)
        return projector

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Projected student feature and detached teacher target of every pair, same shapes within a pair."""
        return [
            (self[i](student[pair.student.name]), self[i].target(teacher[pair.teacher.name]))
            for i, pair in enumerate(self.pairs)
        ]

    def describe(self) -> str:
        """A table in words: what is projected, onto which teacher layer, with how many parameters, and why."""
        sizes = [sum(p.numel() for p in projector.parameters()) for projector in self.projectors]
        rows = [
            (self[i].describe(), f"teacher.{pair.teacher.name}", f"{sizes[i]:,}", pair.reason)
            for i, pair in enumerate(self.pairs)
        ]
        head = ("projection", "teacher layer", "parameters", "reason")
        widths = [max(len(row[c]) for row in (head, *rows)) for c in range(3)]
        return "\n".join("  ".join([*(row[c].ljust(widths[c]) for c in range(3)), row[3]]) for row in (head, *rows))


class EmbeddingProjector(nn.Module):
    """Student embedding to the teacher's width, for the ND term only: batch norm, dropout, linear.

    Trained with the student and dropped afterwards; the student's classifier still reads the raw embedding. Children
    ``bn`` (weight 1, bias 0), ``dropout``, ``linear`` (bias 0).

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's.
        dropout: share of inputs dropped in training; default 0.5 (official).

    Shapes: ``(N, student_dim)`` to ``(N, teacher_dim)``; in training ``N >= 2`` (batch norm).

    Raises:
        ValueError: a width below 1, or ``dropout`` outside [0, 1].

    Reference:
        WangYZ1608/Knowledge-Distillation-via-ND, ``EmbTrans.fc1``.
    """

    def __init__(self, student_dim: int, teacher_dim: int, dropout: float = 0.5) -> None:
        super().__init__()
        check_positive("student_dim", student_dim)
        check_positive("teacher_dim", teacher_dim)
        check_fraction("dropout", dropout)
        self.bn = nn.BatchNorm1d(student_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(student_dim, teacher_dim)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.dropout(self.bn(x)))


__all__ = ["KINDS", "EmbeddingProjector", "Projector", "ProjectorBank", "make_projector"]
