"""Tensors or tables in, a :class:`View` out: figure + title + alt text + table. No state, no widgets."""

from .base import View

__all__ = ["View"]
