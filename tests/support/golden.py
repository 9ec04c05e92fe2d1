"""Values of official code, read from ``<slug>.npz``, such that nothing in a file can be overlooked.

A file holds arrays named ``<case>/<group>/<key>`` with the groups ``in``, ``hp``, ``param``, ``out``, ``grad``. The
usual form of a parity test is one function per kind of case and one parametrised test that runs them all::

    def check_kd(case: Case) -> None:
        s = case.leaf("student_logits")
        loss = kd_loss(s, case.inputs["teacher_logits"], temperature=case.hp["temperature"])
        close(loss, case.out["kd_loss"])
        close(grad_of(loss, s), case.grad["student_logits_kd"])

    @parity("vanilla_kd", {"kd_*": check_kd, "dkd_*": check_dkd})
    def test_parity(case, check):
        check(case)
        case.assert_all_read()

A case of the file that no pattern matches fails, and so does a key that the check did not look at. The files are read
from the folder that the environment variable ``KDCORE_GOLDEN`` names (default ``tests/golden``); a missing file fails,
it never skips.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

GROUPS = {"in": "inputs", "hp": "hp", "param": "params", "out": "out", "grad": "grad"}


class Read(dict[str, Any]):
    """A dict that remembers which keys were looked at. Iterating over it counts as reading all of it."""

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        super().__init__(items or {})
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(f"{key!r} is not in the file; there are {sorted(super().keys())}")
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 (reads through __getitem__)

    def __iter__(self) -> Iterator[str]:
        self.read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        self.read.update(super().keys())
        return super().keys()

    def items(self) -> Any:
        self.read.update(super().keys())
        return super().items()

    def values(self) -> Any:
        self.read.update(super().keys())
        return super().values()

    @property
    def unread(self) -> list[str]:
        return sorted(set(super().keys()) - self.read)


@dataclass
class Case:
    """One case of a file: tensors by name in ``inputs``, ``params``, ``out``, ``grad``; plain Python values in ``hp``.

    Text is ``str`` (or a list of ``str``). Floating tensors keep the file's precision (mostly float64).
    """

    slug: str
    name: str
    inputs: Read = field(default_factory=Read)
    hp: Read = field(default_factory=Read)
    params: Read = field(default_factory=Read)
    out: Read = field(default_factory=Read)
    grad: Read = field(default_factory=Read)

    def leaf(self, key: str) -> Tensor:
        """A fresh copy of ``inputs[key]`` that requires a gradient."""
        return self.inputs[key].clone().requires_grad_()

    def assert_all_read(self) -> None:
        """Fail if a key of this case was not looked at: the test would pass whatever it holds."""
        unread = [f"{group}/{key}" for group, name in GROUPS.items() for key in getattr(self, name).unread]
        if unread:
            pytest.fail(f"{self.slug}.npz, case {self.name!r}: never looked at: {', '.join(unread)}", pytrace=False)

    def __repr__(self) -> str:
        return f"Case({self.slug}/{self.name})"


def golden_folder() -> Path:
    """The folder with the vectors: ``KDCORE_GOLDEN``, or ``tests/golden``."""
    return Path(os.environ.get("KDCORE_GOLDEN") or Path(__file__).parents[1] / "golden")


def _value(group: str, array: np.ndarray) -> Any:
    if array.dtype.kind in "US":
        return array.item() if array.ndim == 0 else array.tolist()
    if group == "hp" and array.ndim == 0:
        return array.item()
    return torch.from_numpy(np.array(array))  # a copy that the test owns


def load_cases(slug: str) -> dict[str, Case]:
    """All cases of ``<slug>.npz`` by name; a missing or empty file, or an entry of another form, fails the test."""
    path = golden_folder() / f"{slug}.npz"
    if not path.is_file():
        pytest.fail(f"the vectors {path} are missing", pytrace=False)
    cases: dict[str, Case] = {}
    with np.load(path, allow_pickle=False) as file:
        for entry in file.files:
            name, group, key = [*entry.split("/"), "", ""][:3]
            if group not in GROUPS or entry.count("/") != 2:
                pytest.fail(f"{path.name}: {entry!r} is not <case>/<{'|'.join(GROUPS)}>/<key>", pytrace=False)
            case = cases.setdefault(name, Case(slug, name))
            dict.__setitem__(getattr(case, GROUPS[group]), key, _value(group, file[entry]))
    if not cases:
        pytest.fail(f"{path} holds no case", pytrace=False)
    return cases


def _unknown(case: Case) -> None:
    pytest.fail(f"{case.slug}.npz: no check knows what to do with case {case.name!r}", pytrace=False)


def find_check(name: str, checks: Mapping[str, Callable[[Case], None]]) -> Callable[[Case], None]:
    """The check of the longest glob that matches; one that fails where none does."""
    patterns = sorted((p for p in checks if fnmatch.fnmatchcase(name, p)), key=len)
    return checks[patterns[-1]] if patterns else _unknown


def parity(slug: str, checks: Mapping[str, Callable[[Case], None]]) -> pytest.MarkDecorator:
    """Parametrise a test with ``(case, check)`` for every case of the file; unknown cases fail."""
    try:
        cases = load_cases(slug)
    except pytest.fail.Exception as failure:  # fail where the test runs, so that the rest of its module still does
        message = str(failure)

        def missing(case: Case) -> None:
            pytest.fail(message, pytrace=False)

        params = [pytest.param(Case(slug, "missing"), missing, id="missing")]
    else:
        params = [pytest.param(case, find_check(name, checks), id=name) for name, case in cases.items()]
    return pytest.mark.parametrize(("case", "check"), params)


def close(
    actual: Tensor | float, expected: Tensor | float, tolerance: float = 1e-8, *, floor: float = 1e-12, what: str = ""
) -> None:
    """Equal shapes, and ``|actual - expected| <= tolerance * max |expected| + floor`` in every entry.

    The bound is relative to the largest entry: entries that cancel to almost nothing have no accuracy of their own.
    """
    a, b = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (actual, expected))
    assert a.shape == b.shape, f"{what} shape {tuple(a.shape)} instead of {tuple(b.shape)}"
    finite = b[b.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    torch.testing.assert_close(
        a, b, rtol=0.0, atol=tolerance * scale + floor, equal_nan=True, msg=lambda text: f"{what} {text}"
    )


def grad_of(loss: Tensor, leaf: Tensor) -> Tensor:
    """Gradient of ``loss`` with respect to ``leaf``; the graph stays usable."""
    (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    return gradient
