"""Kernels forked from a process that has imported the heavy libraries already: a start costs a fork, not six seconds.

One *zygote* per runner process imports torch (one thread), lightning.fabric, matplotlib, pandas and the kernel itself,
runs nothing, and forks a kernel for every request. As it runs no notebook, nothing can leak from one kernel into the
next. It has one thread, without which a fork would not be safe. The ends of the pair of sockets say who is alive:
where the runner is gone, even by signal 9, the zygote kills its kernels and ends; where the zygote is gone, its kernels
are killed by the system. Systems without ``prctl`` (Windows, macOS) start ordinary kernels.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: What the zygote imports: what every lesson needs, and of this repository only what all lessons share.
PRELOADED = ("torch", "lightning.fabric", "numpy", "pandas", "matplotlib.pyplot", "matplotlib_inline.backend_inline",
             "ipykernel.kernelapp", "ipykernel.ipkernel", "ipywidgets", "kdcore", "workbench")  # fmt: skip
_START_SECONDS = 120.0
_PR_SET_PDEATHSIG = 1
# Read once, when Python or a library starts: a kernel that wants others needs a zygote of its own.
_FIXED = ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "PYTHONHASHSEED", "LD_LIBRARY_PATH", "LD_PRELOAD",
          "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MPLCONFIGDIR", "MPLBACKEND")  # fmt: skip

_FORK_SAFE = "jemalloc_bg_thd"  # of pyarrow's allocator, which stops and restarts it around a fork by itself


class ZygoteError(RuntimeError):
    """The zygote did not start, or is gone."""


def can_fork(command: Sequence[str]) -> bool:
    """Whether a kernel's command is this Python's own ipykernel, on a system where a zygote can be kept."""
    program = Path(command[0])
    return (
        sys.platform == "linux"
        and list(command[1:4]) == ["-m", "ipykernel_launcher", "-f"]
        and (program == Path(sys.executable) or program.name in ("python", "python3"))
    )


class ForkedKernel:
    """The process of a forked kernel, with the part of ``subprocess.Popen`` that jupyter_client uses."""

    stdin = stdout = stderr = None
    returncode: int | None

    def __init__(self, line: socket.socket, request: dict[str, Any]) -> None:
        self._line, self.returncode = line, None
        line.settimeout(_START_SECONDS)
        try:
            line.sendall(json.dumps(request).encode() + b"\n")
            self._news = line.makefile("rb")
            self.pid = int(json.loads(self._news.readline() or b"null"))
        except (OSError, TypeError, ValueError) as error:
            line.close()
            raise ZygoteError("the process that kernels are forked from ended without an answer.") from error

    def poll(self) -> int | None:
        """The exit status (negative: a signal), or ``None`` while the kernel lives."""
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; a zygote that is gone took its kernels with it."""
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("kernel", timeout or 0.0)
            said = self._news.readline()
            self.returncode = int(said) if said else -signal.SIGKILL
            self._news.close()
            self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the kernel lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the kernel to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the kernel."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The runner's end: starts the process and asks it for kernels."""

    def __init__(self, env: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "workbench.runs.zygote", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            env={"MPLBACKEND": "module://matplotlib_inline.backend_inline", **env},
            cwd=Path(__file__).resolve().parents[2],  # where -m finds this module
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._line, self._owner = ours, os.getpid()

    def fork(self, command: Sequence[str], env: dict[str, str], cwd: str, log: str) -> ForkedKernel:
        """A new kernel.

        Raises:
            ZygoteError: the zygote is gone, or a source that it holds has changed since it read it.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._line, [b"k"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise ZygoteError("the process that kernels are forked from is gone.") from error
        return ForkedKernel(ours, {"argv": list(command[2:]), "env": env, "cwd": cwd, "log": log})

    def close(self) -> None:
        """End the zygote and what it forked."""
        self._line.close()
        if self._owner == os.getpid():
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_zygotes: dict[tuple[str | None, ...], Zygote] = {}
_retired: list[Zygote] = []
_lock = threading.Lock()


def fork_kernel(command: Sequence[str], env: dict[str, str], cwd: str, log: str) -> ForkedKernel:
    """A kernel from this process' zygote, which is started when the first one is wanted and ends with this process.

    Raises:
        ZygoteError: a fresh zygote does not answer either.
    """
    key = (str(os.getpid()), *(env.get(name) for name in _FIXED))
    with _lock:
        old = _zygotes.get(key)
        if old is not None:
            try:
                return old.fork(command, env, cwd, log)
            except ZygoteError:
                _retired.append(old)  # not closed yet: kernels of it may still run
        _zygotes[key] = Zygote(env)
        return _zygotes[key].fork(command, env, cwd, log)


@atexit.register
def close_all() -> None:
    """End the zygotes of this process."""
    _retired.extend(_zygotes.values())
    _zygotes.clear()
    while _retired:
        _retired.pop().close()


# --------------------------------------------------------------------------------------- inside the zygote's process


def _sources() -> dict[str, float]:
    """Modules of this repository that are loaded, with the time of their files."""
    root = Path(__file__).resolve().parents[2]
    files = {str(f) for m in list(sys.modules.values()) if (f := getattr(m, "__file__", None))}
    ours = [f for f in files if Path(f).is_relative_to(root / "kdcore") or Path(f).is_relative_to(root / "workbench")]
    return {f: os.stat(f).st_mtime for f in ours}


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork kernels until the runner is gone (``None``); in a fork: what that kernel was asked to be."""
    read_at = _sources()
    children: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    woken.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            for pid in list(children):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    with children.pop(pid) as line:
                        _tell(line, os.waitstatus_to_exitcode(status))
        if control not in ready:
            continue
        message, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            for pid in children:
                _kill(pid)
            return None
        line = socket.socket(fileno=fds[0])
        with line.makefile("rb") as reader:
            request = json.loads(reader.readline())
        if any(not os.path.exists(f) or os.stat(f).st_mtime != at for f, at in read_at.items()):
            line.close()  # a kernel must not run on sources that are no longer there: the runner starts another zygote
            continue
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for other in (control, woken, wake, line, *children.values()):
                other.close()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != zygote:
                os._exit(1)
            return request | {"zygote": zygote}
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here and there, whoever comes first: signals go to the kernel's group
        children[pid] = line
        _tell(line, pid)


def _tell(line: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # the runner may no longer ask
        line.sendall(f"{number}\n".encode())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _become(request: dict[str, Any]) -> None:
    """In a fork: environment, folder, output and random states of a process of its own; then the kernel."""
    import random

    import numpy as np
    import torch

    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"], JPY_PARENT_PID=str(request["zygote"]))
    os.chdir(request["cwd"])
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    random.seed()
    torch.seed()
    np.random.seed()  # noqa: NPY002  the global state, which a fork shares
    parent = f"--IPKernelApp.parent_handle={request['zygote']}"  # its default was read when ipykernel was imported
    sys.argv = ["ipykernel_launcher", *request["argv"][1:], parent]
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()


def main() -> None:
    """``python -m workbench.runs.zygote FD``."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    del sys.path[0]  # put there by -m; a kernel has its notebook's folder instead
    for name in PRELOADED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    if len([name for name in names if name != _FORK_SAFE]) > 1:
        raise SystemExit("the zygote has more than one thread and cannot be forked safely.")
    gc.collect()
    gc.freeze()  # what is shared is not touched by later collections
    request = _serve(control)
    if request is not None:
        _become(request)


if __name__ == "__main__":
    main()
