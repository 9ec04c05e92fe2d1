"""Temporary folders: gone with their process, or with the next one where it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from workbench import scratch
from workbench.scratch import Scratch, sweep

CODE = """
import time
from workbench.scratch import Scratch
held = Scratch('run')
print(held.name, flush=True)
time.sleep(99)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_removed_by_its_process(place: Path) -> None:
    with Scratch("run") as name:
        assert Path(name).parent == place and Path(name).name.startswith("kdw-run-")
        (Path(name) / "k.json").touch()
        with Scratch("train") as other:
            assert sorted(p.name for p in place.iterdir()) == sorted([Path(name).name, Path(other).name])
            assert sweep(place) == [], "both are held"
    assert list(place.iterdir()) == []


def test_the_folder_of_a_killed_process_goes_with_the_next_start(place: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "TMPDIR": str(place)})  # fmt: skip
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    (left / "k.json-ipc-1").touch()
    assert sweep(place) == [] and left.is_dir(), "its process lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert left.is_dir()
    with Scratch("run"):
        assert not left.exists()


def test_only_what_is_surely_ours_is_removed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "kdw-mine").mkdir()
    (place / "kdw-mine" / "data.csv").touch()
    (place / "kdw-link").symlink_to(place / "kdw-mine")
    (place / "kdw-file").touch()
    (place / "kdw-run-new").mkdir()
    (place / "kdw-run-half").mkdir()
    (place / "kdw-run-half" / ".held.new").touch()
    assert sweep(place) == [], "one that is made at this moment has no lock yet"
    monkeypatch.setattr(scratch, "_UNBORN", -1.0)
    assert {p.name for p in sweep(place)} == {"kdw-run-new", "kdw-run-half"}
    assert {p.name for p in place.iterdir()} == {"kdw-mine", "kdw-link", "kdw-file"}
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    (place / "kdw-run-theirs").mkdir()
    os.utime(place / "kdw-run-theirs", (time.time() - 999,) * 2)
    assert sweep(place) == [], "another user's"
