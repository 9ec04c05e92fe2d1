"""Weight files of other programs, files that are none, and damaged ones: read, or named as what they are."""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdcore.checkpoints import load_checkpoint, save_checkpoint
from kdcore.distiller import Distiller, distill
from kdcore.registry import create_method
from kdcore.weights import CheckpointError, fitting_names, load_weights, read_weights, save_weights


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "model.net.", "_forward_module.", "student."]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path: Path, prefix: str, suffix: str) -> None:
    saved, path = net(), tmp_path / f"a{suffix}"
    state = {prefix + k: v for k, v in saved.state_dict().items()}
    if suffix == ".pt":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    assert equal(saved, load_weights(net(), path))


def test_parts_that_were_compiled_and_prefixes_that_are_wanted() -> None:
    own = {"body.a": torch.ones(1), "head": torch.ones(2)}
    assert set(fitting_names(own, {"body._orig_mod.a": own["body.a"], "head": own["head"]})) == set(own)
    wrapped = {f"module.{k}": v for k, v in own.items()}
    assert set(fitting_names(wrapped, own)) == set(wrapped)
    other = {"module.x": torch.ones(1)}
    assert fitting_names(own, other) == other


def test_names_that_do_not_fit_say_what_the_prefix_is(tmp_path: Path) -> None:
    torch.save({f"module.{k}": v for k, v in nn.Linear(3, 2).state_dict().items()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"All its names begin with the prefix 'module.' \(DataParallel"):
        load_weights(net(), tmp_path / "a.pt")


EXTRAS: dict[str, Any] = {
    "args": argparse.Namespace(lr=0.1, out=Path("runs")),
    "best_acc": np.float64(91.2),
    "curve": np.arange(3, dtype=np.float32),
    "config": SimpleNamespace(depth=20),
    "epoch": 3,
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "module", "weights"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_weights_are_found_beside_what_programs_add(tmp_path: Path, key: str, extra: str) -> None:
    saved = net()
    torch.save({key: saved.state_dict(), extra: EXTRAS[extra]}, tmp_path / "best.pth.tar")
    assert equal(saved, load_weights(net(), tmp_path / "best.pth.tar"))


def test_code_is_never_run_and_the_advice_works(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    torch.save({"model": net().state_dict(), "evil": Evil()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"would run code .*mkdir.*torch.save\(model.state_dict\(\)") as caught:
        read_weights(tmp_path / "a.pt")
    assert not marker.exists() and "weights_only" not in str(caught.value)


def test_values_that_torch_cannot_read_safely_are_named(tmp_path: Path) -> None:
    torch.save({"model": net().state_dict(), "meters": collections.defaultdict(list, a=[1.0])}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"refused: .*collections.defaultdict.* save the weights alone") as caught:
        read_weights(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value)


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    for value, words in (({"epoch": 3, "note": "x"}, "a dict with the keys 'epoch', 'note'"), ([1, 2], "a list")):
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=f"holds no state dict .* but {words}"):
            read_weights(tmp_path / "a.pt")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "weights elsewhere")


def scripted(path: Path) -> None:
    """The members of a TorchScript archive (torch 2.15 no longer writes one without a warning)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "a/code/__torch__.py", "a/constants.pkl", "a/version"):
            archive.writestr(name, b"\x80\x02K\x01.")


OTHERS: dict[str, tuple[Any, str]] = {
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        "a Git LFS pointer.*git lfs pull",
    ),
    "page": (b"\n<!DOCTYPE html><html></html>", "an HTML page"),
    "html": (b"<HTML><body>", "an HTML page"),
    "json": (json.dumps({"weights": [1, 2]}).encode(), "a JSON document"),
    "gzip": (b"\x1f\x8b\x08" + b"0" * 40, "a gzip archive: unpack it"),
    "keras": (b"\x89HDF\r\n\x1a\n" + b"0" * 40, "an HDF5 file"),
    "zip": (zipped, r"a zip archive \(readme.txt\): unpack it"),
    "script": (scripted, "a TorchScript archive"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".bin"])
def test_files_that_are_no_weights_are_called_by_name(tmp_path: Path, kind: str, suffix: str) -> None:
    path, (content, words) = tmp_path / f"a{suffix}", OTHERS[kind]
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"is {words}") as caught:
        read_weights(path)
    assert "weights_only" not in str(caught.value)


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    saved = net()
    save_weights(saved, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pt")
    assert equal(saved, load_weights(net(), tmp_path / "a.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_damage_ends_in_one_error(tmp_path: Path, suffix: str) -> None:
    path = save_weights(net(), tmp_path / f"a{suffix}")
    whole, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for trial in range(150):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[draw.randrange(len(data)) :]
        for _ in range(1 + trial % 4):
            if data:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(data))
        try:
            load_weights(net(), path)
        except CheckpointError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 50


def test_odd_things_in_a_checkpoint_folder_are_passed_over(tmp_path: Path) -> None:
    kept = save_checkpoint(tmp_path, {"a": torch.ones(2)}, step=3)
    (tmp_path / "step-000000009.ckpt").mkdir()
    (tmp_path / "step-000000008.ckpt").symlink_to(tmp_path / "nothing")
    (tmp_path / "step-odd.ckpt").mkdir()
    assert torch.equal(load_checkpoint(tmp_path)["a"], torch.ones(2)) and kept.is_file()
    for name, words in (("folder.pt", "is a folder"), ("link.pt", "a link to nothing")):
        (tmp_path / name).mkdir() if words == "is a folder" else (tmp_path / name).symlink_to("nowhere")
        with pytest.raises(CheckpointError, match=words):
            read_weights(tmp_path / name)


# Extra state, the home folder, one training per folder ---------------------------------------------------------------


class Tracked(nn.Module):
    """A layer with extra state: plain, with a tensor, or of a class of its own."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.head, self.state, self.given = nn.Linear(6, 3), state, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.given = state


DATA = DataLoader(TensorDataset(torch.rand(16, 6), torch.arange(16) % 3), 4)


@pytest.mark.parametrize("state", [{"version": 2}, {"amax": torch.ones(3)}, torch.ones(2), [1, (2.0, None)]], ids=repr)
def test_extra_state_is_kept_through_training_and_resume(tmp_path: Path, state: Any) -> None:
    first = Distiller(None, Tracked(state), create_method("ce"), DATA, DATA, epochs=2, checkpoint_dir=tmp_path)
    for number, _ in enumerate(first.run()):
        if number == 5:
            break
    again = Tracked(state)
    result = distill(None, again, "ce", DATA, DATA, epochs=2, checkpoint_dir=tmp_path, resume=True)
    assert result.steps == 8 and str(again.given) == str(state)
    saved = save_weights(again, tmp_path / "w.pt")
    assert load_weights(Tracked(state), saved).head.weight.equal(again.head.weight)


def test_extra_state_that_no_checkpoint_can_hold_is_refused_first(tmp_path: Path) -> None:
    seen: list[Any] = []
    student = nn.Sequential(Tracked({"meter": random.Random(0)}))
    with pytest.raises(ValueError, match=r"the extra state of student.0 holds a Random: a checkpoint keeps tensors"):
        distill(None, student, "ce", DATA, epochs=1, checkpoint_dir=tmp_path, callbacks=[seen.append])
    assert not seen
    assert distill(None, student, "ce", DATA, epochs=1).steps == 4


def test_the_tilde_is_the_home_folder_for_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {"epochs": 1, "checkpoint_dir": "~/runs", "cache": "~/cache"}
    distill(nn.Linear(6, 3), nn.Linear(6, 3), "kd", DATA, **options)
    distill(nn.Linear(6, 3), nn.Linear(6, 3), "ce", DATA, epochs=1, checkpoint_dir="~/ce")
    saved = save_weights(net(), "~/w.safetensors")
    assert saved == tmp_path / "home" / "w.safetensors" and equal(
        load_weights(net(), "~/w.safetensors"), load_weights(net(), saved)
    )
    assert load_checkpoint("~/runs") and (tmp_path / "home" / "cache").is_dir()
    assert not (tmp_path / "~").exists()


def loop(folder: Path, *, epochs: int = 2, resume: bool | str = "auto") -> Distiller:
    return Distiller(
        None, nn.Linear(6, 3), create_method("ce"), DATA, epochs=epochs, checkpoint_dir=folder, resume=resume
    )


HOLD = """
import sys, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from kdcore.distiller import Distiller
from kdcore.registry import create_method
data = DataLoader(TensorDataset(torch.rand(16, 6), torch.arange(16) % 3), 4)
events = Distiller(None, nn.Linear(6, 3), create_method("ce"), data, epochs=2, checkpoint_dir=sys.argv[1]).run()
next(events)
print("begun", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == "begun\n"
        with pytest.raises(CheckpointError, match=rf"in use by another training \(process {first.pid} on .*, since 20"):
            next(loop(tmp_path).run())
    finally:
        first.kill()
        first.communicate()
    assert list(loop(tmp_path).run()), "a killed training leaves no lock behind"


def test_another_thread_is_refused_and_the_same_one_takes_over(tmp_path: Path) -> None:
    stream = loop(tmp_path).run()
    next(stream)
    said: list[Exception] = []

    def other() -> None:
        try:
            next(loop(tmp_path).run())
        except CheckpointError as error:
            said.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(60)
    assert len(said) == 1 and "another training of this process (thread 'MainThread')" in str(said[0])
    assert len(list(loop(tmp_path).run())) == 10, "a cell that was interrupted does not keep the folder"
    with pytest.raises(CheckpointError, match="taken over by a training that was begun later"):
        list(stream)
