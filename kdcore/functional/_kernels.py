r"""Value and gradient of the logit losses in one go, for the CPU.

Autograd makes a dozen tensors of the size of the logits and reads each of them back from memory. Here a few rows at a
time stay in the cache, and what the backward pass needs is made on the way: a softmax per model, from whose largest
entry the logsumexp follows without another pass (with the row's maximum taken off, ``logsumexp = -log max softmax``).
The functions are differentiable twice; under ``torch.compile`` and on other devices the plain formulas serve
(:func:`applies`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .correlation import pearson_correlation

#: Entries per slab of rows: half a megabyte in float32, so that the slabs in use fit the cache of one core.
_SLAB = 1 << 17


def applies(logits: Tensor) -> bool:
    """Whether the functions of this module should be used for these logits."""
    return logits.device.type == "cpu" and not torch.compiler.is_compiling()


def _slabs(length: int, step: int) -> list[slice]:
    """``range(length)`` in pieces of ``step``."""
    return [slice(start, start + step) for start in range(0, length, step)]


def _rows(classes: int) -> int:
    return max(1, _SLAB // max(1, classes))


def _centred(logits: Tensor, temperature: float) -> Tensor:
    """``(z - max z) / T``, a new tensor."""
    return (logits - logits.amax(-1, keepdim=True)).div_(temperature)


def _masked_softmax(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Softmax over all classes but the label's, which gets exactly 0. Differentiable."""
    return (logits / temperature).scatter(1, labels.unsqueeze(1), torch.finfo(logits.dtype).min).softmax(1)


class RowKL(torch.autograd.Function):
    """``KL(softmax(t / T) || softmax(s / T))`` per row; arguments ``s, t (N, C), T``, result ``(N,)``."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, temperature: float) -> Tensor:
        losses, gradient = s.new_empty(len(s)), torch.empty(s.shape, dtype=s.dtype)
        rows = _rows(s.shape[1])
        for a, b, loss, g in zip(s.split(rows), t.split(rows), losses.split(rows), gradient.split(rows), strict=True):
            a, b = _centred(a, temperature), _centred(b, temperature)
            p, q = b.softmax(-1), torch.softmax(a, -1, out=g)
            torch.linalg.vecdot(p, b.sub_(a), out=loss)
            loss += (p.amax(-1) / q.amax(-1)).log_()
            g.sub_(p)
        ctx.temperature = temperature
        ctx.save_for_backward(s, t, gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        s, t, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # it will itself be differentiated: make it again, with a graph
            gradient = (s / ctx.temperature).softmax(-1) - (t / ctx.temperature).softmax(-1)
        return (grads[0] / ctx.temperature).unsqueeze(-1) * gradient, None, None


class TargetAndRest(torch.autograd.Function):
    """What DKD compares: arguments ``s, t (N, C), labels (N,), T``, results ``(N,)`` each.

    The target's logit over ``T`` minus the logsumexp of the others, for the student and for the teacher (a constant),
    and the KL between the softmaxes over the others.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        q, p = torch.empty(s.shape, dtype=s.dtype), torch.empty(s.shape, dtype=s.dtype)
        student, teacher, losses = (s.new_empty(len(s)) for _ in range(3))
        for part in _slabs(len(s), _rows(s.shape[1])):
            index, shifted = labels[part].unsqueeze(1), []
            for margin, logits, probabilities in ((student, s, q), (teacher, t, p)):
                z = logits[part] / temperature
                target = z.gather(1, index).squeeze(1)
                top = z.scatter_(1, index, torch.finfo(z.dtype).min).amax(1, keepdim=True)
                torch.softmax(z.sub_(top), 1, out=probabilities[part])
                margin[part] = target - top.squeeze(1) + probabilities[part].amax(1).log_()
                shifted.append(z)
            torch.linalg.vecdot(p[part], shifted[1].sub_(shifted[0]), out=losses[part])
            losses[part] += (p[part].amax(1) / q[part].amax(1)).log_()
        ctx.temperature = temperature
        ctx.save_for_backward(s, labels, q, p)
        ctx.mark_non_differentiable(teacher)
        return student, teacher, losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        s, labels, q, p = ctx.saved_tensors
        margin, rest = (grads[i].unsqueeze(1) / ctx.temperature for i in (0, 2))
        if torch.is_grad_enabled():
            q = _masked_softmax(s, labels, ctx.temperature)
            return ((rest - margin) * q - rest * p).scatter(1, labels.unsqueeze(1), margin), None, None, None
        gradient = torch.empty_like(q)
        for part in _slabs(len(q), _rows(q.shape[1])):
            torch.mul(q[part], rest[part] - margin[part], out=gradient[part]).addcmul_(p[part], rest[part], value=-1)
        return gradient.scatter_(1, labels.unsqueeze(1), margin), None, None, None


class SoftmaxCorrelations(torch.autograd.Function):
    """Pearson correlations of ``q = softmax(s / T)`` with ``p = softmax(t / T)``, along rows and along columns.

    Arguments ``s, t (N, C), T, eps`` (added to the product of the norms); results ``(N,)`` and ``(C,)``. With
    ``r = <a, b> / (|a| |b| + eps)`` of centred vectors, ``dr/da = u b - v a`` for two numbers ``u, v`` per vector,
    which is all that is kept beside ``q`` and ``p``. Each vector is centred by its own mean (``1 / C`` in a row) before
    it is multiplied: nearly constant ones would cancel otherwise.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, temperature: float, eps: float) -> tuple[Tensor, Tensor]:
        n, classes = s.shape
        q, p = torch.empty(s.shape, dtype=s.dtype), torch.empty(s.shape, dtype=s.dtype)
        along_rows, along_columns, means = s.new_empty(3, n), s.new_empty(3, classes), s.new_empty(2, classes)
        for part in _slabs(n, _rows(classes)):
            torch.softmax(s[part] / temperature, 1, out=q[part])
            torch.softmax(t[part] / temperature, 1, out=p[part])
            _products(q[part] - 1 / classes, p[part] - 1 / classes, 1, along_rows[:, part])
        for part in _slabs(classes, _rows(n)):
            a, b = q[:, part], p[:, part]
            torch.stack([a.mean(0), b.mean(0)], out=means[:, part])
            _products(a - means[0, part], b - means[1, part], 0, along_columns[:, part])
        (rows, *row_factors), (columns, *column_factors) = (
            _correlation(products, eps) for products in (along_rows, along_columns)
        )
        ctx.settings = temperature, eps
        ctx.save_for_backward(s, t, q, p, means, *row_factors, *column_factors)
        return rows, columns

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        s, t, q, p, means, row_u, row_v, column_u, column_v = ctx.saved_tensors
        temperature, eps = ctx.settings
        if torch.is_grad_enabled():  # it will itself be differentiated: again, by the plain formulas
            q, p = (s / temperature).softmax(1), (t / temperature).softmax(1)
            plain = pearson_correlation(q, p, dim=1, eps=eps), pearson_correlation(q, p, dim=0, eps=eps)
            return torch.autograd.grad(plain, s, grads, create_graph=True)[0], None, None, None
        row_u, row_v = ((grads[0] * x / temperature).unsqueeze(1) for x in (row_u, row_v))
        column_u, column_v = (grads[1] * x / temperature for x in (column_u, column_v))
        gradient, uniform = torch.empty_like(q), 1 / q.shape[1]
        for part in _slabs(len(q), _rows(q.shape[1])):
            a, b, g = q[part], p[part], gradient[part]
            torch.sub(b, means[1], out=g).mul_(column_u).addcmul_(b - uniform, row_u[part])
            g.addcmul_(a - means[0], column_v, value=-1).addcmul_(a - uniform, row_v[part], value=-1)
            g.sub_(torch.linalg.vecdot(g, a).unsqueeze(1)).mul_(a)
        return gradient, None, None, None


def _products(a: Tensor, b: Tensor, dim: int, out: Tensor) -> None:
    """``<a, b>``, ``<a, a>``, ``<b, b>`` along ``dim`` into the three rows of ``out``."""
    for row, (x, y) in zip(out, ((a, b), (a, a), (b, b)), strict=True):
        if dim == 1:
            torch.linalg.vecdot(x, y, out=row)
        else:
            torch.sum(x * y, dim, out=row)


def _correlation(products: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``r``, and ``u, v`` with ``dr/da = u b - v a``; for a zero vector ``v`` is 0, as in autograd's norm."""
    ab, (a, b) = products[0], products[1:].sqrt()
    u = 1 / (a * b + eps)
    return ab * u, u, torch.where(a > 0, ab * u.square() * b / a, 0.0)
