"""How JupyterLab is started: one place for ``kdw lab`` and the browser tests."""

from __future__ import annotations

import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcore.functional.checks import describe

#: Folder with ``overrides.json``: no news, no subshell comms (figures stay intact), every cell in the page.
SETTINGS = Path(__file__).parent / "lab"
START_PAGE = "notebooks/00_start_here.ipynb"


def free_port() -> int:
    """A TCP port of the local machine that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def new_token() -> str:
    """A fresh login token (48 hexadecimal digits)."""
    return secrets.token_hex(24)


def lab_arguments(
    root: str | Path,
    port: int | None = None,
    token: str | None = None,
    *,
    start: str | None = START_PAGE,
    browser: bool = True,
    testing: bool = False,
    allow_root: bool = False,
    settings: str | Path = SETTINGS,
) -> list[str]:
    """Command-line options of ``jupyter lab`` for a project folder, with our settings.

    Args:
        root: folder the file browser shows; also the working folder of the notebooks' kernels.
        port: TCP port on 127.0.0.1; ``None`` leaves the choice (8888 or the next free one) to the server. A given port
            is not
            retried: a second server on it ends with an error instead of opening elsewhere.
        token: login token; ``None`` leaves it to the server.
        start: notebook opened first, relative to ``root``; ``None`` opens the file browser.
        browser: open the user's browser.
        testing: expose ``window.jupyterapp`` to the page, for browser tests only.
        allow_root: permit the root user (containers).
        settings: folder with ``overrides.json``.

    Raises:
        FileNotFoundError: ``root``, ``settings`` or the start page does not exist.
        ValueError: ``port`` outside 1..65535.
    """
    root, settings = Path(root).resolve(), Path(settings).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"root must be an existing folder, got {root}.")
    if not (settings / "overrides.json").is_file():
        raise FileNotFoundError(f"settings must be a folder with overrides.json, got {settings}.")
    if start is not None and not (root / start).is_file():
        raise FileNotFoundError(f"start must be a notebook in {root}, got {start!r}.")
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"port must be in 1..65535, got {describe(port)}.")
    options = [
        "--ip=127.0.0.1",
        f"--ServerApp.root_dir={root}",
        f"--LabApp.app_settings_dir={settings}",
        f"--LabApp.default_url=/lab/tree/{start}" if start else "--LabApp.default_url=/lab",
    ]
    options += [f"--port={port}", "--ServerApp.port_retries=0"] if port is not None else []
    options += [f"--IdentityProvider.token={token}"] if token is not None else []
    options += [] if browser else ["--no-browser"]
    options += ["--LabApp.expose_app_in_browser=True"] if testing else []
    return options + (["--allow-root"] if allow_root else [])


def lab_command(
    root: str | Path, port: int | None = None, token: str | None = None, *, python: str | None = None, **options: Any
) -> list[str]:
    """``[python, -m, jupyterlab, ...]``: the command of :func:`lab_arguments`, run by this Python (its kernel has
    kdcore).

    Args:
        root, port, token: see :func:`lab_arguments`; so are the other options.
        python: interpreter; this one by default.
    """
    return [python or sys.executable, "-m", "jupyterlab", *lab_arguments(root, port, token, **options)]


def private_environment(folder: str | Path, base: Mapping[str, str]) -> dict[str, str]:
    """``base`` with Jupyter's configuration, data and runtime folders below ``folder``: nothing of the user is read or
    written."""
    folder = Path(folder)
    own = {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    for path in own.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    return {**base, **own, "JUPYTER_PLATFORM_DIRS": "0"}


def lab_url(port: int, token: str, path: str = "lab") -> str:
    """Address of a page of the local server, with its token."""
    return f"http://127.0.0.1:{port}/{path}{'&' if '?' in path else '?'}token={token}"
