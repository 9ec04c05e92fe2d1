"""The sums from which linear CKA of a whole set follows in one pass, for all pairs of layers of two models."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Stream:
    """Sums over all samples; the exact mode of :class:`~kdcore.functional.cka.CKAMap`."""

    def __init__(self, feats_x: list[Tensor], feats_y: list[Tensor]) -> None:
        self.n, self.x, self.y = 0, Side(feats_x), Side(feats_y)
        (n_x, n_y), new = (len(feats_x), len(feats_y)), feats_x[0].new_zeros
        self.cross = new(self.x.total, self.y.total)  # sum x y^T, all pairs of layers at once
        self.uv = new(n_x, n_y)  # sum u v, with u = |x|^2, v = |y|^2
        self.uy, self.vx = new(n_x, self.y.total), new(n_y, self.x.total)

    def add(self, feats_x: list[Tensor], feats_y: list[Tensor]) -> None:
        (x, u), (y, v) = self.x.add(feats_x), self.y.add(feats_y)
        self.n += len(x)
        self.cross.addmm_(x.T, y)
        self.uv.addmm_(u.T, v)
        self.uy.addmm_(u.T, y)
        self.vx.addmm_(v.T, x)

    def terms(self, unbiased: bool) -> tuple[Tensor, Tensor, Tensor]:
        """``h(X_i, Y_j)``, ``h(X_i, X_i)``, ``h(Y_j, Y_j)``; segments of columns are layers."""
        n, x, y = self.n, self.x, self.y
        own_x, own_y = x.self_terms(n, unbiased), y.self_terms(n, unbiased)
        mx, my = x.sums / n, y.sums / n
        cx, cy = x.fold(mx.square()), y.fold(my.square())
        squared = y.fold(x.fold((self.cross - n * mx[:, None] * my[None, :]).square().T).T)
        if not unbiased:
            return squared, own_x, own_y
        a, b = x.norms, y.norms
        through = y.fold(x.fold((mx[:, None] * self.cross).T).T * my)
        products = (
            self.uv
            - 2 * y.fold(self.uy * my)
            + a[:, None] * cy
            - 2 * x.fold(self.vx * mx).T
            + cx[:, None] * b
            + 4 * through
            - 3 * n * cx[:, None] * cy
        )  # sum of products of centred squared norms, row by row
        spread = (a - n * cx)[:, None] * (b - n * cy)
        return squared - n / (n - 2) * products + spread / ((n - 1) * (n - 2)), own_x, own_y


class Side:
    """What :class:`Stream` keeps of one model: per layer the sums of x, |x|^2, |x|^4, |x|^2 x and x x^T.

    All are taken about the first batch's mean, which changes nothing but the round-off.
    """

    def __init__(self, features: list[Tensor]) -> None:
        self.widths = [f.shape[1] for f in features]
        self.total = sum(self.widths)
        device, wide = features[0].device, features[0].dtype
        self.segment = torch.repeat_interleave(torch.arange(len(features)), torch.tensor(self.widths)).to(device)
        self.shift = torch.cat([f.mean(0) for f in features])
        self.sums, self.ux = (torch.zeros(self.total, dtype=wide, device=device) for _ in range(2))
        self.norms, self.uu = (torch.zeros(len(features), dtype=wide, device=device) for _ in range(2))
        self.outer = [torch.zeros(w, w, dtype=wide, device=device) for w in self.widths]

    def fold(self, values: Tensor) -> Tensor:
        """Sum the columns of each layer: ``(..., total) -> (..., layers)``."""
        out = values.new_zeros(*values.shape[:-1], len(self.widths))
        return out.index_add_(-1, self.segment, values)

    def add(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        x = torch.cat(features, 1) - self.shift
        u = self.fold(x.square())
        self.sums += x.sum(0)
        self.norms += u.sum(0)
        self.uu += u.square().sum(0)
        self.ux += (x * u[:, self.segment]).sum(0)
        for outer, part in zip(self.outer, x.split(self.widths, 1), strict=True):
            outer.addmm_(part.T, part)
        return x, u

    def self_terms(self, n: int, unbiased: bool) -> Tensor:
        """``h(X, X)`` per layer; NaN where the layer is constant, up to round-off."""
        mean, a = self.sums / n, self.norms
        c = self.fold(mean.square())
        centred = [v - n * torch.outer(m, m) for v, m in zip(self.outer, mean.split(self.widths), strict=True)]
        squared = torch.stack([v.square().sum() for v in centred])
        spread = a - n * c
        size = n * self.fold((mean + self.shift).square())
        constant = spread <= (16 * torch.finfo(a.dtype).eps) ** 2 * size
        if not unbiased:
            return squared.masked_fill(constant, math.nan)
        through = torch.stack([m @ v @ m for v, m in zip(self.outer, mean.split(self.widths), strict=True)])
        products = self.uu - 4 * self.fold(self.ux * mean) + 2 * a * c + 4 * through - 3 * n * c.square()
        h = squared - n / (n - 2) * products + spread.square() / ((n - 1) * (n - 2))
        return h.masked_fill(constant | (h <= 64 * torch.finfo(a.dtype).eps * squared), math.nan)
