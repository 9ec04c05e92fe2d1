"""What ``kdw doctor`` looks at."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from .environment import Check, check_folder, check_versions, find_browser, kernels, python_executable
from .files import project_root


def examine() -> list[Check]:
    """All checks: versions against the project's bounds, kernel, GPU, browser, folders."""
    try:
        root: Path | None = project_root()
    except FileNotFoundError:
        root = None
    return [*check_versions(root), check_kernel(), check_gpu(), check_browser(), *check_folders(root), check_machine()]


def check_kernel() -> Check:
    """Whether the notebooks' kernel is installed."""
    found = kernels()
    advice = f"{python_executable()} -m ipykernel install --sys-prefix --name python3"
    return Check("kernel python3", "python3" in found, found.get("python3", ", ".join(found) or "none"), advice=advice)


def check_gpu() -> Check:
    """Whether torch sees a GPU; none is needed."""
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("GPU", True, f"{torch.cuda.get_device_name()}, {memory:.0f} GiB", needed=False)
    return Check("GPU", False, "none (everything runs on the CPU)", needed=False)


def check_browser() -> Check:
    """Whether the browser tests can run; nothing else needs one on this machine."""
    found = find_browser()
    advice = "browser tests are skipped; on Debian: apt-get install chromium"
    return Check("browser for tests", found is not None, found or "none", needed=False, advice=advice)


def check_folders(root: Path | None) -> list[Check]:
    """Cache (written), data (read, optional), run folders (written), notebooks."""
    from kdcore.tasks import cache_folder, data_folder

    advice = "set KDCORE_CACHE to a folder that can be written"
    checks = [
        check_folder("cache folder", cache_folder(), writable=True, needed=True, advice=advice),
        check_folder("data folder", data_folder(), writable=False, needed=False,
                     advice="only for data sets loaded by name: set KDCORE_DATA"),
    ]  # fmt: skip
    if root is None:
        return [*checks, Check("notebooks", False, "not found", advice="run kdw inside a copy of the repository")]
    checks.append(check_folder("runs folder", root / "runs", writable=True, needed=True, advice="use --runs-dir"))
    return [*checks, check_folder("notebooks", root / "notebooks", writable=False, needed=True)]


def check_machine() -> Check:
    """Processors and threads, for orientation."""
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return Check(
        "machine", True, f"{os.cpu_count()} processors, {platform.machine()}, OMP_NUM_THREADS {threads}", needed=False
    )
