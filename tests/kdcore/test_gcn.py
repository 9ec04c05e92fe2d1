"""The graph network against dense matrices, its order of operations, equivariance, and what is refused."""

from __future__ import annotations

import pytest
import torch
from support.golden import close
from torch import Tensor

from kdcore.functional.graphs import sbm_graph
from kdcore.models.gcn import GCN


def example() -> tuple[Tensor, Tensor]:
    edges, _ = sbm_graph([5, 4], 0.7, 0.2, generator=torch.Generator().manual_seed(0))
    return torch.randn(9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), edges


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_equals_dense_matrices(layers: int) -> None:
    torch.manual_seed(0)
    x, edges = example()
    net = GCN(3, 6, 2, num_layers=layers).double().eval()
    adjacency = torch.eye(9, dtype=torch.float64)
    adjacency[edges[1], edges[0]] = 1
    scale = adjacency.sum(1).rsqrt()
    operator, h, inner = scale[:, None] * adjacency * scale, x, []
    for index, layer in enumerate(net.layers):
        torch.nn.init.normal_(layer.bias)
        h = operator @ h @ layer.weight.T + layer.bias
        if index < layers - 1:
            h = h.relu()
        inner.append(h)
    close(net(x, edges), h, 1e-10)
    for got, expected in zip(net(x, edges, return_embeddings=True), inner, strict=True):
        close(got, expected, 1e-10)


def test_renaming_the_nodes_renames_the_output() -> None:
    torch.manual_seed(0)
    x, edges = example()
    net, order = GCN(3, 4, 2).double().eval(), torch.randperm(9)
    place = order.argsort()
    close(net(x[order], place[edges]), net(x, edges)[order], 1e-10)


def test_dropout_in_training_alone_and_all_weights_learn() -> None:
    torch.manual_seed(0)
    x, edges = example()
    net = GCN(3, 50, 2, dropout=0.5).double()
    assert not torch.equal(net(x, edges), net(x, edges))
    assert torch.equal(net.eval()(x, edges), net(x, edges))
    net(x, edges).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert set(net.state_dict()) == {f"layers.{i}.{p}" for i in range(2) for p in ("weight", "bias")}


def test_refusals() -> None:
    x, edges = example()
    for call, error, message in (
        (lambda: GCN(0, 1, 1), ValueError, "in_dim"),
        (lambda: GCN(1, 1, 1, num_layers=0), ValueError, "num_layers"),
        (lambda: GCN(1, 1, 1, dropout=1.0), ValueError, "dropout"),
        (lambda: GCN(3, 2, 2)(x[0].float(), edges), ValueError, r"\(N, in_dim\)"),
        (lambda: GCN(3, 2, 2)(x[:4].float(), edges), IndexError, "nodes in"),
    ):
        with pytest.raises(error, match=message):
            call()
