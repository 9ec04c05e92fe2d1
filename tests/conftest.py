"""Every test gets one torch thread, a fixed seed, no network; and the mutant that ``mutation_check.py`` asks for."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings
from support.mutants import install

settings.register_profile("kdcore", deadline=None, derandomize=True, max_examples=25, print_blob=True)
settings.load_profile("kdcore")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported: one thread per worker, and the mutant of ``KDCORE_MUTANT`` in place."""
    torch.set_num_threads(1)
    if mutant := os.environ.get("KDCORE_MUTANT"):
        install(mutant)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, else in the order of the files: a lesson that starts last is waited for by everyone.

    Lessons, then the browser (its server starts once, where these tests are), then what is marked slow.
    """

    def rank(item: pytest.Item) -> int:
        lesson = item.path.parent.name == "notebooks" and item.get_closest_marker("notebook") is not None
        marks = ("browser", "slow")
        return 0 if lesson else next((i for i, mark in enumerate(marks, 1) if item.get_closest_marker(mark)), 3)

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the lessons computed, the slowest first: above 20 CPU seconds the next change to one should make it less."""
    reports = [r for state in ("passed", "failed") for r in terminalreporter.stats.get(state, ())]
    said = [str(value) for report in reports for name, value in report.user_properties if name == "lesson"]
    if said:
        terminalreporter.section("lessons: CPU seconds, 20 are the aim")
        for line in sorted(said, key=lambda text: -float(text.split(" CPU s")[0].split()[-1])):
            terminalreporter.line(line)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Global generators start equal in every test, whatever ran before it in the same worker."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connections to anything but this machine fail: neither the product nor its tests may reach the network."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to connect to {address!r}: tests do not reach the network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
