"""A graph convolutional network on edge lists, for graphs of any size and without a graph library."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.checks import check_fraction, check_positive, describe
from ..functional.graphs import gcn_norm, propagate


class GCN(nn.Module):
    """``Z = A~ H W + b`` layer after layer, with ReLU and dropout between them and neither after the last.

    Args:
        in_dim, hidden_dim, out_dim: widths.
        num_layers: >= 1; default 2.
        dropout: in [0, 1); default 0.5.

    Attributes:
        layers: the linear layers ``layers.0`` ... (the tap names); the graph enters behind them.

    Raises:
        ValueError: widths or layers below 1, ``dropout`` out of range.

    Reference:
        "Semi-Supervised Classification with Graph Convolutional Networks" (Kipf and Welling, 2017), arXiv:1609.02907.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int = 2, dropout: float = 0.5) -> None:
        super().__init__()
        for name, value in (("in_dim", in_dim), ("hidden_dim", hidden_dim), ("out_dim", out_dim)):
            check_positive(name, value)
        check_positive("num_layers", num_layers)
        check_fraction("dropout", dropout, closed=False)
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor, *, return_embeddings: bool = False) -> Tensor | list[Tensor]:
        """``(N, out_dim)``, or with ``return_embeddings`` the list of all layers' outputs, the last one included.

        Args:
            x: ``(N, in_dim)`` node features.
            edge_index: ``(2, E)`` int64, both directions of every undirected edge.
            return_embeddings: also what is inside, after ReLU and before dropout.

        Raises:
            ValueError: shapes. IndexError: a node that does not exist.
        """
        if x.ndim != 2:
            raise ValueError(f"x must be (N, in_dim), got {describe(x)}.")
        edges, weights = gcn_norm(edge_index, len(x), dtype=x.dtype)
        embeddings: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            # A~ (H W) + b: the narrower product travels along the edges
            x = propagate(F.linear(x, layer.weight), edges, weights) + layer.bias
            if index < len(self.layers) - 1:
                x = x.relu()
                embeddings.append(x)
                x = F.dropout(x, self.dropout, self.training)
        return [*embeddings, x] if return_embeddings else x


__all__ = ["GCN"]
