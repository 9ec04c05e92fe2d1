"""Atomic files, checksummed checkpoints, weights without unpickling, hashes, random states."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdcore.checkpoints import (
    CheckpointError,
    capture_rng,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    preserved_rng,
    read_weights,
    restore_rng,
    save_checkpoint,
    save_weights,
    state_hash,
)


def state(step: int) -> dict:
    return {"weights": torch.arange(50) * step, "step": step, "nested": {"list": [1, 2.5, None, "x"], "ok": True}}


def test_round_trip_and_keep(tmp_path: Path) -> None:
    for step in (5, 10, 1000):
        save_checkpoint(tmp_path / "new", state(step), step=step)
    names = [p.name for p in list_checkpoints(tmp_path / "new")]
    assert names == ["step-000001000.ckpt", "step-000000010.ckpt"]  # newest first, two kept
    loaded = load_checkpoint(tmp_path / "new")
    assert loaded["step"] == 1000 and torch.equal(loaded["weights"], torch.arange(50) * 1000)
    assert loaded["nested"] == state(0)["nested"]
    assert load_checkpoint(tmp_path / "new" / names[1])["step"] == 10
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(names)


def test_nothing_there(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "none") == []
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="keep"):
        save_checkpoint(tmp_path, {}, step=1, keep=0)


@given(cut=st.integers(0, 10**6), flip=st.booleans())
@settings(max_examples=20)
def test_any_damage_is_noticed(cut: int, flip: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damage")
    good, bad = save_checkpoint(folder, state(1), step=1), save_checkpoint(folder, state(2), step=2)
    data = bytearray(bad.read_bytes())
    where = cut % len(data)
    if flip:
        data[where] ^= 1
    else:
        del data[where:]
    bad.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        load_checkpoint(folder)
    assert caught.value.path == bad and caught.value.previous == good
    assert str(bad) in str(caught.value) and str(good) in str(caught.value)
    with pytest.warns(UserWarning, match="Going on from") as warned:
        assert load_checkpoint(folder, fall_back=True)["step"] == 1
    assert str(bad) in str(warned[0].message) and str(good) in str(warned[0].message)


def test_falls_back_past_several_and_gives_up_when_all_are_damaged(tmp_path: Path) -> None:
    paths = [save_checkpoint(tmp_path, state(i), step=i, keep=3) for i in (1, 2, 3)]
    for path in paths[1:]:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning):
        assert load_checkpoint(tmp_path, fall_back=True)["step"] == 1
    paths[0].write_bytes(b"")
    with pytest.raises(CheckpointError, match="No intact older one"):
        load_checkpoint(tmp_path, fall_back=True)


def test_a_valid_checksum_over_a_malicious_pickle_runs_no_code(tmp_path: Path) -> None:
    target = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(target),)

    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    payload = buffer.getvalue()
    path = tmp_path / "step-000000001.ckpt"
    path.write_bytes(b"KDCKPT1 " + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    save_checkpoint(tmp_path, state(1), step=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        save_checkpoint(tmp_path, state(2), step=2)
    monkeypatch.undo()
    assert str(tmp_path) in str(caught.value) and isinstance(caught.value.__cause__, OSError)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001.ckpt"]
    assert load_checkpoint(tmp_path)["step"] == 1


def test_a_write_cut_short_by_the_system(tmp_path: Path) -> None:
    """A real failing write (file size limit), not a patched one."""
    code = (
        "import resource, sys, torch; from kdcore.checkpoints import *\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))\n"
        "try: save_checkpoint(sys.argv[1], {'x': torch.zeros(10**5)}, step=1)\n"
        "except CheckpointError as error: print(error); sys.exit(7)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "runs")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert str(tmp_path / "runs") in done.stdout
    assert list((tmp_path / "runs").iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="file"):
        save_checkpoint(tmp_path / "file", state(1), step=1)
    assert (tmp_path / "file").read_text() == "in the way"


def test_left_over_temporaries_are_removed_by_the_next_save(tmp_path: Path) -> None:
    (tmp_path / ".step-000000001.ckpt.99.tmp").write_bytes(b"half")
    save_checkpoint(tmp_path, state(2), step=2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000002.ckpt"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(7)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".th"])
@pytest.mark.parametrize("make", [Tied, lambda: nn.Linear(3, 2).bfloat16()])
def test_weights_round_trip(tmp_path: Path, suffix: str, make: object) -> None:
    torch.manual_seed(0)
    module = make()  # type: ignore[operator]
    path = save_weights(module, tmp_path / f"w{suffix}")
    other = make()  # type: ignore[operator]
    assert state_hash(other) != state_hash(module)
    assert state_hash(load_weights(other, path)) == state_hash(module)


def test_pickles_are_refused_with_advice_and_without_running(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"refused: reading it would run code .*save the weights alone"):
        load_weights(nn.Linear(2, 2), tmp_path / "module.pt")


def test_wrapped_state_dicts_are_found(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, tmp_path / "w.pt")
    assert torch.equal(read_weights(tmp_path / "w.pt")["weight"], module.weight)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_unreadable_weights(tmp_path: Path, suffix: str) -> None:
    path = save_weights(nn.Linear(30, 30), tmp_path / f"w{suffix}")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(nn.Linear(30, 30), path)
    with pytest.raises(CheckpointError, match="no weights file"):
        read_weights(tmp_path / f"none{suffix}")


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    path = save_weights(nn.Linear(3, 2), tmp_path / "w.pt")
    other = nn.Linear(4, 2)
    before = state_hash(other)
    with pytest.raises(CheckpointError, match=r"another shape: weight \(2, 3\) for \(2, 4\)"):
        load_weights(other, path)
    with pytest.raises(CheckpointError, match=r"missing: 0\.weight"):
        load_weights(nn.Sequential(nn.Linear(3, 2)), path)
    assert state_hash(other) == before
    with pytest.raises(ValueError, match="path must end in"):
        save_weights(other, tmp_path / "w.onnx")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_weights(tmp_path / "list.pt")


def test_state_hash_sees_every_bit_name_dtype_and_shape() -> None:
    module = nn.BatchNorm1d(3)
    hashes = {state_hash(module)}
    module.running_mean[0] = -0.0  # type: ignore[index]
    hashes.add(state_hash(module))
    module.num_batches_tracked += 1  # type: ignore[operator]
    hashes.add(state_hash(module))
    hashes.add(state_hash(nn.Sequential(module)))
    hashes.add(state_hash(nn.BatchNorm1d(3).double()))
    a, b = nn.Module(), nn.Module()
    a.register_buffer("x", torch.zeros(2, 3))
    b.register_buffer("x", torch.zeros(3, 2))
    hashes |= {state_hash(a), state_hash(b)}
    assert len(hashes) == 7
    assert state_hash(a) == state_hash(a)


def draw(generator: torch.Generator) -> list[float]:
    return [
        random.gauss(0, 1),
        np.random.normal(),  # noqa: NPY002
        torch.randn(()).item(),
        torch.randn((), generator=generator).item(),
    ]


def test_random_states_come_back() -> None:
    generator = torch.Generator().manual_seed(3)
    draw(generator)  # leaves a cached second Gaussian in random and numpy
    saved = capture_rng(generator, None)
    expected = [draw(generator) for _ in range(3)]
    with preserved_rng(generator):
        draw(generator)
    after = draw(generator)
    restore_rng(saved, generator, None)
    assert [draw(generator) for _ in range(3)] == expected
    assert draw(generator) == after
