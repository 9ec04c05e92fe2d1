"""GCN normalisation and propagation, low and high graph frequencies, sampled non-edges, stochastic block models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_fraction, check_positive, describe, names_arguments


@names_arguments
def check_edge_index(edge_index: Tensor, num_nodes: int, *, name: str = "edge_index", min_edges: int = 1) -> None:
    """Raise unless ``edge_index`` is int64 ``(2, E)`` with nodes in [0, N).

    Raises:
        ValueError: dtype, shape, or fewer than ``min_edges`` edges. IndexError: a node that does not exist.
    """
    check_positive("num_nodes", num_nodes)
    if not isinstance(edge_index, Tensor) or edge_index.dtype != torch.int64 or edge_index.shape[:1] != (2,):
        raise ValueError(f"{name} must be int64 (2, E), got {describe(edge_index)}.")
    if edge_index.ndim != 2 or edge_index.shape[1] < min_edges:
        raise ValueError(f"{name} must be (2, E) with E >= {min_edges}, got {describe(edge_index)}.")
    if edge_index.numel() and not torch.compiler.is_compiling():
        low, high = int(edge_index.min()), int(edge_index.max())
        if low < 0 or high >= num_nodes:
            raise IndexError(f"{name} must hold nodes in [0, {num_nodes}), got {low} .. {high}.")


@names_arguments
def gcn_norm(
    edge_index: Tensor, num_nodes: int, *, add_self_loops: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Edges and weights of ``D^-1/2 (A + I) D^-1/2``, with D the degrees of ``A + I``.

    Args:
        edge_index: ``(2, E)`` int64, both directions of every undirected edge; E may be 0. Self-loops that are already
            there are replaced by one per node.
        num_nodes: N.
        add_self_loops: leave out for ``D^-1/2 A D^-1/2``; a node without edges then has no weight. Default on.
        dtype: of the weights.

    Returns:
        ``(edge_index (2, E'), weights (E',))``, the self-loops last.

    Raises:
        ValueError: dtype or shape. IndexError: a node that does not exist.

    Reference:
        "Semi-Supervised Classification with Graph Convolutional Networks" (Kipf and Welling, 2017), arXiv:1609.02907,
        equation 2.
    """
    check_edge_index(edge_index, num_nodes, min_edges=0)
    if add_self_loops:
        nodes = torch.arange(num_nodes, device=edge_index.device)
        edge_index = torch.cat([edge_index[:, edge_index[0] != edge_index[1]], nodes.expand(2, -1)], dim=1)
    source, target = edge_index
    degree = torch.bincount(target, minlength=num_nodes).to(dtype)
    scale = torch.where(degree > 0, degree.clamp_min(1).rsqrt(), 0.0)
    return edge_index, scale[source] * scale[target]


@names_arguments
def propagate(signal: Tensor, edge_index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over incoming edges: ``out[target] += weight * signal[source]``. Differentiable, without a matrix.

    Args:
        signal: ``(N, C)`` floating. edge_index: ``(2, E)`` int64, rows source and target. weights: ``(E,)``.

    Returns:
        ``(N, C)`` in the dtype of ``signal``.

    Raises:
        ValueError: shapes. IndexError: a node that does not exist.
    """
    if signal.ndim != 2 or not signal.is_floating_point() or not len(signal):
        raise ValueError(f"signal must be floating (N, C), got {describe(signal)}.")
    check_edge_index(edge_index, len(signal), min_edges=0)
    if weights.shape != edge_index.shape[1:]:
        raise ValueError(f"weights must be ({edge_index.shape[1]},), got {describe(weights)}.")
    messages = signal[edge_index[0]] * weights.to(signal.dtype)[:, None]
    return torch.zeros_like(signal).index_add(0, edge_index[1], messages)


@names_arguments
def frequency_components(signal: Tensor, edge_index: Tensor, *, num_nodes: int | None = None) -> tuple[Tensor, Tensor]:
    """A signal on nodes as its local average and what is left: ``(A~ Z, Z - A~ Z)``; their sum is the signal.

    Args:
        signal: ``(N, C)``. edge_index: ``(2, E)`` int64, both directions. num_nodes: N; default the signal's.

    Raises:
        ValueError: shapes, or ``num_nodes`` other than the signal's. IndexError: a node that does not exist.

    Reference:
        "Extracting Low-/High- Frequency Knowledge from Graph Neural Networks and Injecting it into MLPs" (Wu et al.,
        2023), arXiv:2305.10758, section 3.
    """
    if num_nodes is not None and num_nodes != len(signal):
        raise ValueError(f"num_nodes must be the {len(signal)} rows of signal, got {num_nodes}.")
    edges, weights = gcn_norm(edge_index, len(signal), dtype=signal.dtype)
    low = propagate(signal, edges, weights)
    return low, signal - low


def _pair_codes(edge_index: Tensor) -> Tensor:
    """Sorted distinct numbers ``j (j - 1) / 2 + i`` of the unordered pairs i < j; self-loops have none."""
    i, j = edge_index.amin(0), edge_index.amax(0)
    return (j * (j - 1) // 2 + i)[i != j].unique()


def _decode_pairs(codes: Tensor) -> Tensor:
    j = ((1 + (1 + 8 * codes.double()).sqrt()) / 2).long()
    j = j - (j * (j - 1) // 2 > codes).long()  # the root may be off by one either way
    j = j + ((j + 1) * j // 2 <= codes).long()
    return torch.stack([codes - j * (j - 1) // 2, j])


def _distinct(high: int, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` different numbers below ``high``, in random order."""
    device = generator.device if generator is not None else torch.device("cpu")
    if high <= 1 << 22 or count > high // 2:
        return torch.randperm(high, generator=generator, device=device)[:count]
    found = torch.empty(0, dtype=torch.int64, device=device)
    while len(found) < count:  # at most half of the numbers are taken: a few rounds
        found = torch.cat([found, torch.randint(high, (count,), generator=generator, device=device)]).unique()
    return found[torch.randperm(len(found), generator=generator, device=device)[:count]]


@names_arguments
def negative_edges(
    edge_index: Tensor, num_nodes: int, count: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Pairs of nodes that are not linked, drawn uniformly, each at most once.

    Args:
        edge_index: ``(2, E)`` int64; a pair counts as linked if either direction is there. E may be 0.
        num_nodes: N.
        count: how many pairs, >= 0.
        generator: source of the draws.

    Returns:
        ``(2, count)`` int64 with the smaller node first, on the device of ``edge_index``; no self-loops.

    Raises:
        ValueError: dtype, shape, or fewer unlinked pairs than asked for. IndexError: a node that does not exist.
    """
    check_edge_index(edge_index, num_nodes, min_edges=0)
    linked = _pair_codes(edge_index.cpu())
    free = num_nodes * (num_nodes - 1) // 2 - len(linked)
    if not 0 <= count <= free:
        raise ValueError(f"count must be in [0, {free}] (the unlinked pairs), got {count!r}.")
    ranks = _distinct(free, count, generator).cpu()
    # the r-th number that is not in the sorted list: r, plus how many of the list come before it
    codes = ranks + torch.searchsorted(linked - torch.arange(len(linked)), ranks, right=True)
    return _decode_pairs(codes).to(edge_index.device)


def sbm_graph(
    sizes: Sequence[int], p_in: float, p_out: float, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A stochastic block model: an undirected graph whose links are likelier inside a block than between blocks.

    Args:
        sizes: nodes per block, each >= 1.
        p_in, p_out: chance of a link inside a block and between two, in [0, 1].
        generator: source of the draws.

    Returns:
        ``(edge_index (2, E), labels (N,))``: both directions of every link, no self-loops; the block of every node.

    Raises:
        ValueError: no block, an empty block, or a probability out of range.

    Reference:
        Holland, Laskey and Leinhardt 1983, "Stochastic blockmodels: first steps", Social Networks 5.
    """
    check_fraction("p_in", p_in)
    check_fraction("p_out", p_out)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes must hold at least one block of at least one node, got {list(sizes)}.")
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    i, j = torch.triu_indices(len(labels), len(labels), offset=1)
    chance = torch.where(labels[i] == labels[j], p_in, p_out)
    device = generator.device if generator is not None else torch.device("cpu")
    links = torch.rand(len(i), generator=generator, device=device).cpu() < chance
    half = torch.stack([i[links], j[links]])
    return torch.cat([half, half.flip(0)], dim=1), labels


__all__ = ["check_edge_index", "frequency_components", "gcn_norm", "negative_edges", "propagate", "sbm_graph"]
