"""The progress line of a cell: what it shows, how often, and silence outside of a notebook."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.panels import progress, progress_line


class Shown:
    """Stands for IPython's display: keeps every bundle."""

    def __init__(self) -> None:
        self.bundles: list[dict[str, str]] = []

    def __call__(self, bundle: dict[str, str], **_: Any) -> Shown:
        self.bundles.append(bundle)
        return self

    def update(self, bundle: dict[str, str], **_: Any) -> None:
        self.bundles.append(bundle)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_first_and_last_are_always_shown_and_the_rest_now_and_then(clock: list[float]) -> None:
    shown = Shown()
    line = progress._Line("Students", "epochs", shown)
    for done in range(1, 101):
        clock[0] += 0.05
        line(done, 100, "KD, seed 0")
    texts = [b["text/plain"] for b in shown.bundles]
    assert texts[0] == "Students: 1 of 100 epochs, KD, seed 0" and texts[-1] == "Students: 100 epochs in 5 s"
    assert 20 <= len(texts) <= 27


def test_html_is_escaped_and_labelled() -> None:
    shown = progress.progress_bundle("a <b>", 3, 7, "x < y", unit="batches")["text/html"]
    assert '<progress aria-label="a &lt;b&gt;" value="3" max="7"' in shown and "3 of 7 batches, x &lt; y" in shown
    assert "<progress" not in progress.progress_bundle("a", 7, 7, seconds=1.0)["text/html"]
    unknown = progress.progress_bundle("a", 3, None)
    assert unknown["text/plain"] == "a: 3" and "max=" not in unknown["text/html"]


def test_silent_outside_of_ipython(capsys: pytest.CaptureFixture[str]) -> None:
    progress_line("Students")(1, 2, "x")
    assert capsys.readouterr() == ("", "")
