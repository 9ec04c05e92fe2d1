"""Files are there whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from kdcore.files import write_atomic


def test_bytes_text_and_a_function_are_written(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"a")
        file.write(b"b")

    assert write_atomic(tmp_path / "deep" / "x", b"ab").read_bytes() == b"ab"
    assert write_atomic(tmp_path / "deep" / "x", "\u00e4").read_text(encoding="utf-8") == "\u00e4"
    assert write_atomic(str(tmp_path / "y"), write).read_bytes() == b"ab"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "x", "y"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_content_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = write_atomic(tmp_path / "a.json", "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r"cannot write .*a\.json: No space") as caught:
        write_atomic(target, "new")
    assert caught.value.errno == errno.ENOSPC
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_made_keeps_the_kind_of_its_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileExistsError, match="cannot write"):
        write_atomic(tmp_path / "file" / "x", "new")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_other_errors_pass_and_nothing_stays(tmp_path: Path, error: type[BaseException]) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomic(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_two_threads_may_write_one_file(tmp_path: Path) -> None:
    texts = [json.dumps([k] * 20_000) for k in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: write_atomic(tmp_path / "x", text), texts * 4))
    assert (tmp_path / "x").read_text() in texts and [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    assert write_atomic(tmp_path / "x", "").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_writing_a_file_needs_no_torch() -> None:
    code = "import sys, kdcore.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
