"""What a run ran on: versions, commit, device, threads; and whether the environment is the one we ask for."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

DISTRIBUTION = "kd-workbench"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Packages whose versions every record states.
RECORDED = (
    "kd-workbench",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "matplotlib",
    "ipykernel",
    "papermill",
)


@cache
def versions(names: tuple[str, ...] = RECORDED) -> dict[str, str]:
    """Installed versions by distribution name, Python first; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_commit(folder: str | Path) -> dict[str, Any]:
    """``{"commit": "<sha>" | "unknown", "dirty": bool | None}`` of the working tree that holds ``folder``."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "unknown", "dirty": None}


def device_name() -> str:
    """The accelerator torch sees, or ``"cpu"``; also ``"cpu"`` where torch was not loaded, and so computed nothing."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "cpu"


def thread_count() -> int:
    """Threads of one operation: torch's setting, or where it was not loaded ``OMP_NUM_THREADS`` or the processors."""
    torch = sys.modules.get("torch")
    return (
        torch.get_num_threads() if torch is not None else int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    )


@dataclass(frozen=True)
class Check:
    """One line of ``kdw doctor``: what was looked at, what was found, and what to do about it."""

    name: str
    ok: bool
    found: str
    needed: bool = True
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def required_versions(root: Path | None) -> list[str]:
    """Requirements of the project: from ``pyproject.toml`` beside the source, else from the installed metadata."""
    if root is not None and (root / "pyproject.toml").is_file():
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return [f"python{project['requires-python']}", *project["dependencies"]]
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    needed = [r for r in importlib.metadata.requires(DISTRIBUTION) or () if "extra ==" not in r]
    return [f"python{metadata['Requires-Python']}", *needed]


def check_versions(root: Path | None) -> list[Check]:
    """Each requirement of the project against what is installed."""
    from packaging.requirements import Requirement

    checks = []
    for line in required_versions(root):
        requirement = Requirement(line)
        found = versions((requirement.name,)).get(requirement.name)
        ok = found is not None and requirement.specifier.contains(found, prereleases=True)
        checks.append(
            Check(requirement.name, ok, found or "not installed", advice="" if ok else f"needs {requirement}")
        )
    return checks


def find_browser() -> str | None:
    """Path of a Chromium on this machine (``KDW_BROWSER`` first), or ``None``."""
    named = os.environ.get("KDW_BROWSER", "")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, BROWSERS)), None)


def kernels() -> dict[str, str]:
    """Installed Jupyter kernels by name, with their folders."""
    from jupyter_client.kernelspec import KernelSpecManager

    return KernelSpecManager().find_kernel_specs()


def check_folder(name: str, folder: Path, *, writable: bool, needed: bool, advice: str = "") -> Check:
    """Whether a folder exists (or can be made, where it must be writable) and can be written."""
    if not writable:
        return Check(name, folder.is_dir(), str(folder) if folder.is_dir() else f"{folder} (missing)", needed, advice)
    probe = folder / f".kdw-probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Check(name, False, f"{folder}: {error.strerror}", needed, advice)
    return Check(name, True, str(folder), needed)


def python_executable() -> str:
    """The interpreter in use, for messages."""
    return sys.executable


def is_root() -> bool:
    """Whether this process runs as the superuser (containers), which JupyterLab must be told."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
