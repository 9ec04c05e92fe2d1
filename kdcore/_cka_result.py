"""What a CKA map holds: the matrix and how it was computed; the Grams of a model, kept for later maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .functional.checks import check_choice, closest
from .model_layers import format_shape

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


class LayerMatch(NamedTuple):
    """Two layers and their CKA."""

    layer_x: str
    layer_y: str
    cka: float


@dataclass(frozen=True, eq=False)
class KeptGrams:
    """What one model said about each batch: a U-centred Gram matrix per layer, and marks that identify the samples.

    Attributes:
        layers: tap names. shapes: of the layers' outputs, without the batch dimension.
        settings: kernel, bandwidth and pooling they were made with.
        batches: per batch ``(L, n, n)``, on the CPU. marks: per batch ``(n, 2)``, sum and norm of each sample's input.
    """

    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    settings: dict[str, Any]
    batches: list[Tensor] = field(default_factory=list, repr=False)
    marks: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def nbytes(self) -> int:
        """Memory of the matrices: ``4 L n^2`` bytes per batch in float32."""
        return sum(b.nbytes for b in self.batches)

    def select(self, names: str | Sequence[str]) -> KeptGrams:
        """The same for some of the layers, in the order given.

        Raises:
            KeyError: a layer that was not kept, with the closest names.
        """
        wanted = (names,) if isinstance(names, str) else tuple(names)
        for name in wanted:
            if name not in self.layers:
                raise KeyError(
                    f"no Grams are kept of layer {name!r}.{closest(name, self.layers)} Kept: {', '.join(self.layers)}."
                )
        rows = [self.layers.index(name) for name in wanted]
        return KeptGrams(
            wanted, tuple(self.shapes[r] for r in rows), self.settings, [b[rows] for b in self.batches], self.marks
        )

    def check_marks(self, position: int, marks: Tensor) -> None:
        """Raise ``ValueError`` unless the samples of this batch are those the Grams were made of."""
        if (
            position >= len(self.marks)
            or self.marks[position].shape != marks.shape
            or not torch.allclose(self.marks[position], marks, rtol=1e-9, atol=1e-12)
        ):
            raise ValueError(
                f"the kept Grams were made of other samples than batch {position}: use the same data, "
                "batch size and order (no new shuffling), or make new Grams with keep_grams=True."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class CKAResult:
    """A CKA map with everything needed to read it.

    Attributes:
        matrix: ``(L1, L2)`` float64; NaN where a layer is constant.
        layers_x, layers_y: tap names of rows and columns. shapes_x, shapes_y: of their outputs, without the batch.
        n_samples, n_batches, n_skipped: samples and batches used; batches left out because they had fewer than 4
            samples.
        interval: ``(L1, L2, 2)`` bootstrap interval over batches, or ``None``. confidence: its coverage.
        mode, kernel, batch_weighting, pooling: how it was computed.
        grams_x, grams_y: the models' Grams, with ``keep_grams=True``; pass them to :func:`cka_map` in place of a model.
    """

    matrix: Tensor
    layers_x: tuple[str, ...]
    layers_y: tuple[str, ...]
    shapes_x: tuple[tuple[int, ...], ...]
    shapes_y: tuple[tuple[int, ...], ...]
    n_samples: int
    n_batches: int
    n_skipped: int
    mode: str
    kernel: str
    batch_weighting: str
    pooling: str
    interval: Tensor | None = None
    confidence: float = 0.95
    grams_x: KeptGrams | None = None
    grams_y: KeptGrams | None = None

    def to_dataframe(self, *, long: bool = False) -> pd.DataFrame:
        """The map as a table: one row per layer of x, one column per layer of y.

        Args:
            long: one row per pair instead, with the columns ``layer_x``, ``layer_y``, ``cka`` and, where there is an
                interval, ``low``, ``high``.
        """
        import pandas as pd

        if not long:
            return pd.DataFrame(
                self.matrix.numpy(), index=pd.Index(self.layers_x, name="x"), columns=pd.Index(self.layers_y, name="y")
            )
        index = pd.MultiIndex.from_product([self.layers_x, self.layers_y], names=["layer_x", "layer_y"])
        columns = {"cka": self.matrix.flatten().numpy()}
        if self.interval is not None:
            low, high = self.interval.flatten(0, 1).T.numpy()
            columns |= {"low": low, "high": high}
        return pd.DataFrame(columns, index=index).reset_index()

    def best_pairs(self, *, by: str = "x") -> list[LayerMatch]:
        """For every layer of ``x`` (or of ``y``) the most similar layer of the other model; constant layers are left
        out.

        Args:
            by: ``"x"`` goes through the rows, ``"y"`` through the columns.
        """
        check_choice("by", by, ("x", "y"))
        matrix = self.matrix if by == "x" else self.matrix.T
        values, best = matrix.nan_to_num(nan=-torch.inf).max(1)
        pairs = [(i, int(j), float(v)) for i, (j, v) in enumerate(zip(best, values, strict=True)) if v > -torch.inf]
        rows = [(i, j, v) if by == "x" else (j, i, v) for i, j, v in pairs]
        return [LayerMatch(self.layers_x[i], self.layers_y[j], v) for i, j, v in rows]

    def plot(self) -> Figure:
        """Interactive heat map: hover shows layers, shapes, value, interval; dots mark each row's best column."""
        import plotly.graph_objects as go

        shapes = [
            [f"{format_shape(a)} and {format_shape(b)}" + self._range(i, j) for j, b in enumerate(self.shapes_y)]
            for i, a in enumerate(self.shapes_x)
        ]
        figure = go.Figure(
            go.Heatmap(
                z=self.matrix.tolist(),
                x=list(self.layers_y),
                y=list(self.layers_x),
                customdata=shapes,
                colorscale="Cividis",
                zmin=0,
                zmax=1,
                colorbar={"title": "CKA"},
                hovertemplate="x: %{y}<br>y: %{x}<br>CKA %{z:.3f}<br>%{customdata}<extra></extra>",
            )
        )
        best = self.best_pairs()
        figure.add_scatter(
            x=[m.layer_y for m in best],
            y=[m.layer_x for m in best],
            mode="markers",
            hoverinfo="skip",
            marker={"color": "#D55E00", "size": 7, "line": {"color": "white", "width": 1}},
            showlegend=False,
        )
        return figure.update_layout(
            title=f"CKA ({self.kernel}, {self.mode}, {self.n_samples} samples)",
            yaxis_autorange="reversed",
            xaxis_title="layers of y",
            yaxis_title="layers of x",
        )

    def _range(self, i: int, j: int) -> str:
        if self.interval is None:
            return ""
        low, high = self.interval[i, j].tolist()
        return f"<br>{self.confidence:.0%} interval {low:.3f} to {high:.3f}"

    def __repr__(self) -> str:
        return (
            f"CKAResult({len(self.layers_x)} x {len(self.layers_y)} layers, {self.n_samples} samples in "
            f"{self.n_batches} batches, {self.mode}, {self.kernel})"
        )
