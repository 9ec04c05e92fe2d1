"""Class means of embeddings, and what is asked of an embedding beside them: its direction and its length."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .checks import check_labels, check_positive, describe, names_arguments
from .reductions import at_least_float32, reduce


class ClassMeanAccumulator:
    """Mean embedding per class, batch by batch; sums are float64, so that the mean of a whole data set is exact.

    Args:
        num_classes: C.
        dim: D; ``None`` takes it from the first batch.

    Attributes:
        counts: ``(C,)`` int64 samples seen per class. sums: ``(C, D)`` float64, ``None`` before the first batch.

    Raises:
        ValueError: ``num_classes`` or ``dim`` below 1.

    Reference:
        "Improving Knowledge Distillation via Regularizing Feature Norm and Direction" (Wang et al., 2023),
        arXiv:2305.17007, section 3.1.
    """

    def __init__(self, num_classes: int, dim: int | None = None) -> None:
        check_positive("num_classes", num_classes)
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self.sums: Tensor | None = None
        self._dtype = torch.get_default_dtype()
        if dim is not None:
            check_positive("dim", dim)
            self.sums = torch.zeros(num_classes, dim, dtype=torch.float64)

    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add one batch.

        Args:
            embeddings: ``(N, D)``, any floating dtype; no gradient is kept.
            labels: ``(N,)`` integers in [0, C).

        Raises:
            ValueError: wrong shape, width other than before, non-finite embeddings, label out of range.
            TypeError: labels that are not integers.
        """
        if embeddings.ndim != 2 or not embeddings.is_floating_point():
            raise ValueError(
                f"embeddings must be floating, shape (N, D), got {describe(embeddings)}: pool maps and "
                "tokens first (kdcore.functional.pooling.pool_features)."
            )
        labels = check_labels(labels, len(embeddings), self.num_classes).to(embeddings.device)
        if self.sums is None:
            self.sums = torch.zeros(self.num_classes, embeddings.shape[1], dtype=torch.float64)
        if embeddings.shape[1] != self.sums.shape[1]:
            raise ValueError(f"embeddings must have {self.sums.shape[1]} features, got {describe(embeddings)}.")
        if not bool(torch.isfinite(embeddings).all()):
            raise ValueError(f"embeddings must be finite, got {describe(embeddings)} with NaN or infinite values.")
        self._dtype = embeddings.dtype
        if embeddings.device.type == "mps":  # has no float64
            embeddings, labels = embeddings.cpu(), labels.cpu()
        self.sums, self.counts = self.sums.to(embeddings.device), self.counts.to(embeddings.device)
        self.sums.index_add_(0, labels, embeddings.detach().to(torch.float64))
        self.counts += torch.bincount(labels, minlength=self.num_classes)

    def merge(self, other: ClassMeanAccumulator) -> None:
        """Add what another accumulator has seen (another process, another shard of the data).

        Raises:
            ValueError: other number of classes or features.
        """
        mine, theirs = self.sums, other.sums
        shapes = [(a.num_classes, None if a.sums is None else a.sums.shape[1]) for a in (self, other)]
        if shapes[0][0] != shapes[1][0] or (None not in (shapes[0][1], shapes[1][1]) and shapes[0] != shapes[1]):
            raise ValueError(f"other must have this accumulator's classes and features, {shapes[0]}, got {shapes[1]}.")
        if theirs is not None:
            self.sums = theirs.clone() if mine is None else mine + theirs.to(mine.device)
            self._dtype = other._dtype
        self.counts = self.counts + other.counts.to(self.counts.device)

    def compute(self) -> Tensor:
        """The means so far: ``(C, D)`` in the dtype of the embeddings.

        A class without samples gives a row of NaN and a ``UserWarning`` that names it.

        Raises:
            RuntimeError: nothing was added yet.
        """
        if self.sums is None or not int(self.counts.sum()):
            raise RuntimeError("no embeddings were added yet: call update(embeddings, labels) first.")
        empty = (self.counts == 0).nonzero().flatten().tolist()
        if empty:
            warnings.warn(
                f"no sample of class {', '.join(map(str, empty))}: its mean is NaN.", UserWarning, stacklevel=2
            )
        return (self.sums / self.counts[:, None]).to(self._dtype)


@names_arguments
def class_means(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean embedding of every class.

    Args:
        embeddings: ``(N, D)``, N >= 1; sums are taken in float64; no gradient flows.
        labels: ``(N,)`` integers in [0, C).
        num_classes: C.

    Returns:
        ``(C, D)`` in the dtype of ``embeddings``; NaN (and a ``UserWarning``) for a class without samples.

    Raises:
        ValueError: wrong shape, no sample, non-finite embeddings, label out of range.
        TypeError: labels that are not integers.

    Reference:
        "Improving Knowledge Distillation via Regularizing Feature Norm and Direction" (Wang et al., 2023),
        arXiv:2305.17007, section 3.1.

    Example:
        >>> class_means(torch.tensor([[0.0, 2.0], [2.0, 4.0], [5.0, 5.0]]), torch.tensor([0, 0, 1]), 2)
        tensor([[1., 3.],
                [5., 5.]])
    """
    if embeddings.ndim and not len(embeddings):
        raise ValueError(f"embeddings must hold at least one sample, got {describe(embeddings)}.")
    means = ClassMeanAccumulator(num_classes)
    means.update(embeddings, labels)
    return means.compute()


@names_arguments
def embeddings_and_directions(student_emb: Tensor, class_means: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Student embeddings of at least float32, and the unit direction of each sample's class.

    Args:
        student_emb: ``(N, D)``, at least one row.
        class_means: ``(C, D)``; a constant.
        labels: ``(N,)`` integers in [0, C), or floating ``(N, C)`` weights, whose mixture of class means gives
            the direction.

    Returns:
        ``(embeddings, directions)``, both ``(N, D)``.

    Raises:
        ValueError: shapes, labels, or a class mean of the batch that has no direction (the class is named).
    """
    if not isinstance(student_emb, Tensor) or student_emb.ndim != 2 or not student_emb.is_floating_point():
        raise ValueError(
            f"student_emb must be floating embeddings (N, D), got {describe(student_emb)}: pool maps and "
            "tokens first (kdcore.functional.pooling.pool_features)."
        )
    if not student_emb.shape[0]:
        raise ValueError(f"student_emb needs at least 1 sample, got {describe(student_emb)}.")
    if not isinstance(class_means, Tensor) or class_means.ndim != 2 or class_means.shape[1] != student_emb.shape[1]:
        raise ValueError(
            f"class_means must be (C, {student_emb.shape[1]}) like student_emb "
            f"{tuple(student_emb.shape)}, got {describe(class_means)}."
        )
    s = at_least_float32(student_emb)
    return s, _directions(class_means.detach().to(s.dtype), labels, len(s))


def _directions(means: Tensor, labels: Tensor | None, samples: int) -> Tensor:
    soft = isinstance(labels, Tensor) and labels.is_floating_point()
    if labels is not None and (
        not isinstance(labels, Tensor) or labels.dtype == torch.bool or (soft and labels.shape != (samples, len(means)))
    ):
        raise ValueError(
            f"labels must be int64 ({samples},) or floating weights ({samples}, {len(means)}), got {describe(labels)}."
        )
    if soft:
        assert labels is not None
        return _mixed_directions(means, labels.detach().to(means.dtype))
    labels = check_labels(labels, samples, len(means))
    centres = means[labels]
    norms = torch.linalg.vector_norm(centres, dim=1, keepdim=True)
    _refuse(labels, _unusable(norms.squeeze(1)))
    return centres / norms


def _mixed_directions(means: Tensor, weights: Tensor) -> Tensor:
    """Directions of the weighted class means, ``labels @ class_means``; classes without weight are not read."""
    used = (weights != 0).any(0)
    norms = torch.linalg.vector_norm(means, dim=1)
    _refuse(torch.arange(len(means), device=means.device), used & _unusable(norms))
    with torch.autocast(means.device.type, enabled=False):
        centres = weights @ means.where(used[:, None], 0.0)
    lengths = torch.linalg.vector_norm(centres, dim=1, keepdim=True)
    bad = _unusable(lengths.squeeze(1)) | (weights < 0).any(1)
    if not torch.compiler.is_compiling() and bool(bad.any()):
        raise ValueError(
            f"labels must be weights >= 0 whose mixture of class_means has a direction; row "
            f"{int(bad.nonzero()[0])} is not."
        )
    return centres / lengths


def _unusable(norms: Tensor) -> Tensor:
    return ~((norms > 0) & norms.isfinite())


def _refuse(classes: Tensor, bad: Tensor) -> None:
    if not torch.compiler.is_compiling() and bool(bad.any()):
        names = ", ".join(str(c) for c in classes[bad].unique().tolist())
        raise ValueError(
            f"class_means has no direction for class {names}: its mean is zero or not finite (was the "
            "class absent when the means were computed?)."
        )


@names_arguments
def share_along(s: Tensor, direction: Tensor, length: Tensor, eps: float = 1e-12) -> Tensor:
    """``<s, e> / length`` per sample; 0, with gradient 0, where the length is 0."""
    along = torch.where(length > 0, (s * direction).sum(1), 0.0)
    return along / length.clamp_min(eps)


@names_arguments
def norm_and_cosine(embeddings: Tensor, class_means: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the method is about, per sample: the length of an embedding, and how well it points to its class.

    Args:
        embeddings: ``(N, D)``.
        class_means: ``(C, D)``, usually the teacher's.
        labels: ``(N,)`` integers in [0, C), or ``(N, C)`` weights.

    Returns:
        ``(norms, cosines)``, both ``(N,)``: ``||s||`` and ``cos(s, c_y)``, the latter 0 for a zero embedding.

    Raises:
        ValueError: shapes, labels, or a class mean without direction.
    """
    s, direction = embeddings_and_directions(embeddings, class_means, labels)
    norms = torch.linalg.vector_norm(s, dim=1)
    return norms, share_along(s, direction, norms)


@names_arguments
def direction_loss(
    student_emb: Tensor, class_means: Tensor, labels: Tensor | None, *, reduction: str = "mean"
) -> Tensor:
    """The direction half alone: ``1 - cos(s, c_y)``, in [0, 2]; the length of the embedding is free.

    The ND term (:func:`kdcore.methods.nd_kd.nd_loss`) wherever the student is at least as long as the teacher. A zero
    embedding costs 1.

    Args:
        student_emb: ``(N, D)``.
        class_means: ``(C, D)`` means of teacher embeddings; a constant.
        labels: ``(N,)`` integers in [0, C), or ``(N, C)`` class weights.
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``(N,)``.

    Raises:
        ValueError: shapes, labels of another kind or out of range, a class mean without direction, reduction.

    Reference:
        Named as an explored technique in the abstract of arXiv:2305.17007 (Wang et al., 2023); this form is a
        reconstruction.
    """
    return reduce(1 - norm_and_cosine(student_emb, class_means, labels)[1], reduction)


@names_arguments
def norm_loss(student_emb: Tensor, *, step: float = 1.0, reduction: str = "mean") -> Tensor:
    """The norm half alone: ``(||s|| - (||s||.detach() + step))^2``, a constant pull that lengthens every embedding.

    Its **value is always** ``step^2``: only the gradient, ``-2 step s / ||s||`` per sample, says anything (0 for a zero
    embedding, which has no direction to grow in).

    Args:
        student_emb: ``(N, D)``.
        step: by how much the embedding should be longer than it is, > 0; default 1.
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``(N,)``.

    Raises:
        ValueError: not ``(N, D)`` floating, ``step`` not above zero, reduction.

    Reference:
        Named as an explored technique in the abstract of arXiv:2305.17007 (Wang et al., 2023); this form is the
        stepwise one of norm-based domain adaptation (Xu et al., 2019), arXiv:1811.07456.
    """
    check_positive("step", step)
    if not isinstance(student_emb, Tensor) or student_emb.ndim != 2 or not student_emb.is_floating_point():
        raise ValueError(f"student_emb must be floating embeddings (N, D), got {describe(student_emb)}.")
    norms = torch.linalg.vector_norm(at_least_float32(student_emb), dim=1)
    return reduce((norms - (norms.detach() + step)).square(), reduction)


__all__ = [
    "ClassMeanAccumulator",
    "class_means",
    "direction_loss",
    "embeddings_and_directions",
    "norm_and_cosine",
    "norm_loss",
    "share_along",
]
