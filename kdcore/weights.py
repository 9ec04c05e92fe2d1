"""Weights on disk: written whole, read without running code, also from files that other programs wrote."""

from __future__ import annotations

import argparse
import copy
import pathlib
import pickle
import re
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .files import Content, as_path, write_atomic

_TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
#: Under these names, in this order, training programs keep a state dict beside other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "module", "weights", "params")
#: What wrappers put before every name: DataParallel and DDP, ``torch.compile``, Lightning modules, and the like.
PREFIXES = {
    "module.": "DataParallel or DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "_forward_module.": "Lightning Fabric",
    "model.": "a Lightning module",
    "net.": "a wrapper that calls it net",
    "network.": "a wrapper that calls it network",
    "student.": "a wrapper that calls it student",
    "teacher.": "a wrapper that calls it teacher",
    "backbone.": "a wrapper that calls it backbone",
}
_FIRST_BYTES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights: run 'git lfs pull'"),
    (b"<!doctype html", "an HTML page: what was downloaded is not the file but a page about it"),
    (b"<html", "an HTML page: what was downloaded is not the file but a page about it"),
    (b"<?xml", "an XML document"),
    (b"{", "a JSON document"),
    (b"[", "a JSON document"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras?), which torch does not read"),
    (b"\x08", "an ONNX graph or another protocol buffer"),
    (b"GGUF", "a GGUF file, which torch does not read"),
)


class CheckpointError(RuntimeError):
    """A checkpoint or weights file cannot be read or written.

    Attributes:
        path: the file (or folder) concerned.
        previous: the newest older checkpoint in the same folder that is intact, or ``None``.
    """

    def __init__(self, message: str, path: Path, previous: Path | None = None) -> None:
        super().__init__(message)
        self.path, self.previous = path, previous


def write_checked(path: str | Path, content: Content) -> Path:
    """:func:`~kdcore.files.write_atomic`, whose failure says what to do.

    Raises:
        CheckpointError: disk full, folder read-only or not a folder; no part of the file is left behind and what was
            there before is untouched.
    """
    path = as_path(path)
    try:
        return write_atomic(path, content)
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise CheckpointError(
            f"cannot write {path.name} in folder {path.parent}: {cause.strerror or cause}. Nothing "
            "half-written was left there; free space or choose a writable folder.",
            path,
        ) from error


def save_weights(module: nn.Module, path: str | Path) -> Path:
    """Save a module's parameters and buffers, atomically.

    Args:
        module: what to save; tied weights are stored once. Extra state that is no tensor goes into torch files only.
        path: ``.safetensors`` (recommended), or ``.pt``/``.pth``/``.th``/``.bin`` for a torch state dict.

    Raises:
        ValueError: another suffix.
        CheckpointError: the folder cannot be written.
    """
    path = as_path(path)
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        names: dict[tuple[int, torch.Size, tuple[int, ...], int], str] = {}
        kept, aliases = {}, {}
        for name, tensor in tensors.items():
            storage = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.numel())
            first = names.setdefault(storage, name) if tensor.numel() else name
            if first == name:
                kept[name] = state[name].clone()
            else:
                aliases[name] = first
        return write_checked(path, lambda file: file.write(save(kept, metadata=aliases)))
    if path.suffix in _TORCH_SUFFIXES:
        return write_checked(path, lambda file: torch.save(dict(module.state_dict()) | state, file))
    raise ValueError(f"path must end in .safetensors or {', '.join(_TORCH_SUFFIXES)}, got {str(path)!r}.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a weights file, on the CPU, without ever running code from the file.

    Args:
        path: a safetensors file, or a torch file whose content is a state dict or holds one under one of
            :data:`WRAPPERS`; what else it holds is passed over. The content decides, not the suffix.

    Raises:
        CheckpointError: missing, damaged, no weights file (it is said what it is), or a pickle that needs code.
        ValueError: unknown suffix.
    """
    path = as_path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else ""
        raise CheckpointError(f"there is no weights file at {path}{f' ({what})' if what else ''}.", path)
    if path.suffix != ".safetensors" and path.suffix not in _TORCH_SUFFIXES:
        raise ValueError(f"path must end in .safetensors or {', '.join(_TORCH_SUFFIXES)}, got {str(path)!r}.")
    try:
        with path.open("rb") as file:
            first = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.", path) from error
    if path.suffix == ".safetensors" or first[8:9] == b"{":
        return _read_safetensors(path, first)
    return _state_in(_unpickled(path, first), path)


def _read_safetensors(path: Path, first: bytes) -> dict[str, Tensor]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            aliases = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # arbitrary bytes fail in many ways
        what = what_it_is(path, first)
        raise CheckpointError(
            f"{path} is {what}." if what else f"{path} is damaged or not a safetensors file: {error}.", path
        ) from error
    return state | {name: state[first] for name, first in aliases.items() if first in state}


def _unpickled(path: Path, first: bytes) -> Any:
    """What a torch file holds; plain values that training programs add are allowed, code is not."""
    try:
        with torch.serialization.safe_globals(_plain_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # arbitrary bytes fail in many ways
        if what := what_it_is(path, first):
            raise CheckpointError(f"{path} is {what}.", path) from error
        if isinstance(error, pickle.UnpicklingError) and (needs := _code_needed(str(error))):
            raise CheckpointError(
                f"{path} is refused: reading it would run code ({needs}), as it holds more than weights. In the "
                "program that wrote it, save the weights alone: torch.save(model.state_dict(), 'weights.pt').",
                path,
            ) from error
        raise CheckpointError(f"{path} is damaged or not a torch weights file: {_short(error)}", path) from error


def _short(error: Exception) -> str:
    """What torch says of a file, without its advice to read the file unsafely."""
    inner = re.search(r"WeightsUnpickler error:\s*([^\n]+)", str(error))
    return inner[1] if inner else (str(error).splitlines() or [type(error).__name__])[0]


def _plain_types() -> list[Any]:
    """Types of values, not of behaviour, that stand beside weights: options, numpy numbers, paths."""
    inside = np._core.multiarray  # type: ignore[attr-defined]  # where pickles of numpy numbers point to
    scalars = [np.dtype, np.ndarray, inside.scalar, inside._reconstruct]
    dtypes = [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdUSO"]
    paths = [getattr(pathlib, n) for n in ("PurePosixPath", "PosixPath", "PureWindowsPath", "WindowsPath", "Path")]
    spaces = [argparse.Namespace, types.SimpleNamespace]
    return [*scalars, *dtypes, *paths, *spaces, list, dict, set, tuple, int, float, str, bool]


def _code_needed(said: str) -> str:
    found = re.findall(r"GLOBAL ([\w.]+)", said)
    other = re.search(r"Can only (?:SETITEM|BUILD|REDUCE)[^\n]* got ([^\n]*)", said)
    return ", ".join(dict.fromkeys(found)) or (other[1] if other else "")


def what_it_is(path: Path, first: bytes) -> str:
    """What a file that is no weights file is, in words; empty where its first bytes do not tell."""
    if not first:
        return "empty"
    start = first.lstrip().lower()
    for mark, words in _FIRST_BYTES:
        if start.startswith(mark.lower()):
            return words
    if first.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
            return ""
        if any(name.endswith("constants.pkl") for name in names):
            return "a TorchScript archive: load it with torch.jit.load and save its state_dict()"
        if not any(name.endswith("data.pkl") for name in names):
            return f"a zip archive ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}): unpack it first"
    return ""


def _state_in(loaded: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        key = next((k for k in WRAPPERS if isinstance(loaded, Mapping) and isinstance(loaded.get(k), Mapping)), None)
        if key is None:
            break
        loaded = loaded[key]
    if isinstance(loaded, Mapping):
        tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
        rest = [name for name in loaded if name not in tensors and not str(name).endswith("_extra_state")]
        if tensors and not rest and all(isinstance(name, str) for name in tensors):
            return tensors
    kind = f"a {type(loaded).__name__}"
    if isinstance(loaded, Mapping):
        kind += f" with the keys {', '.join(map(repr, list(loaded)[:8]))}"
    raise CheckpointError(
        f"{path} holds no state dict (a mapping from names to tensors) at its top or under {', '.join(WRAPPERS)}, "
        f"but {kind}.",
        path,
    )


def fitting_names(own: Mapping[str, Any], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``stored`` under the names of ``own``, where only what a wrapper put before all names is different.

    Prefixes of :data:`PREFIXES` are taken off (nested, or inside: ``module._orig_mod.``) or put on. Anything that does
    not then fit name by name is returned as it is.
    """
    wanted = {name for name, value in own.items() if isinstance(value, Tensor)}
    for renamed in _renamings(stored):
        if set(renamed) == wanted:
            return renamed
    for prefix in PREFIXES:
        if {prefix + name for name in stored} == wanted:
            return {prefix + name: value for name, value in stored.items()}
    return dict(stored)


def _renamings(stored: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    current = dict(stored)
    yield current
    inner = {name.replace("_orig_mod.", ""): value for name, value in current.items()}
    if len(inner) == len(current):
        current = inner
        yield current
    for _ in range(3):
        prefix = next((p for p in PREFIXES if current and all(name.startswith(p) for name in current)), None)
        if prefix is None:
            return
        current = {name.removeprefix(prefix): value for name, value in current.items()}
        yield current


def load_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """Read weights into ``module`` (every name and shape must fit, see :func:`fitting_names`) and return it.

    Extra state that a file does not hold stays as it is.

    Raises:
        CheckpointError: unreadable file (see :func:`read_weights`), or names or shapes that do not fit; the module is
            then unchanged.
    """
    path = as_path(path)
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    stored = read_weights(path)
    state = fitting_names(own, stored)
    unlike = [
        f"{n} {tuple(state[n].shape)} for {tuple(v.shape)}"
        for n, v in own.items()
        if n in state and state[n].shape != v.shape
    ]
    parts = {
        "missing": [n for n in own if n not in state],
        "unexpected": [n for n in state if n not in own],
        "another shape": unlike,
    }
    faults = [f"{what}: {', '.join(ns[:5])}{' ...' if len(ns) > 5 else ''}" for what, ns in parts.items() if ns]
    if faults:
        common = next((p for p in PREFIXES if stored and all(name.startswith(p) for name in stored)), None)
        hint = f" All its names begin with the prefix {common!r} ({PREFIXES[common]})." if common else ""
        raise CheckpointError(f"{path} does not fit {type(module).__name__}; {'; '.join(faults)}.{hint}", path)
    module.load_state_dict(state, strict=False)
    return module


def copied_state(module: nn.Module) -> dict[str, Any]:
    """A module's state dict on the CPU, apart from the module; extra state is copied, too."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in module.state_dict().items()
    }


__all__ = [
    "CheckpointError",
    "copied_state",
    "fitting_names",
    "load_weights",
    "read_weights",
    "save_weights",
    "what_it_is",
    "write_checked",
]
