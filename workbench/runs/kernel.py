"""The papermill engine of the runner: a kernel with environment variables of its own, IPC, and progress by cell."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from papermill.engines import NBClientEngine, papermill_engines
from traitlets import Dict, Unicode
from traitlets.config import Config

from .meter import EXTENSION
from .zygote import ZygoteError, can_fork, fork_kernel

ENGINE = "kdw"
_IPC_PATH_LIMIT = 90  # a Unix socket path may have 107 bytes; "-ipc-<port>" is added to ours


class ForkProvisioner(LocalProvisioner):
    """Forks the kernel from the zygote where that can be done, else starts it as an ordinary process."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        if not can_fork(cmd) or os.environ.get("KDW_FORK") == "0":
            return await super().launch_kernel(cmd, **kwargs)
        cwd, log = str(kwargs.get("cwd") or Path.cwd()), kwargs["stdout"]
        try:
            kernel = fork_kernel(cmd, kwargs["env"], cwd, log.name)
        except ZygoteError as error:
            log.write(f"kdw: {error} An ordinary kernel is started.\n".encode())
            log.flush()
            return await super().launch_kernel(cmd, **kwargs)
        self.process: Any = kernel
        self.pid = self.pgid = kernel.pid
        self.cwd = cwd
        return self.connection_info


class RunKernelManager(AsyncKernelManager):
    """Adds variables to the kernel's environment, measures it, and keeps what it writes outside of cells in a file."""

    extra_env = Dict(help="variables added to the kernel's environment").tag(config=True)
    log_file = Unicode(os.devnull, help="where the process' own standard output and error go").tag(config=True)

    async def _async_pre_start_kernel(self, **kw: Any) -> tuple[list[str], dict[str, Any]]:
        if self.provisioner is None:
            self.provisioner = ForkProvisioner(
                kernel_id=self.kernel_id or "", kernel_spec=self.kernel_spec, parent=self
            )
        return await super()._async_pre_start_kernel(
            **kw | {"env": {**os.environ, **kw.get("env", {}), **self.extra_env}}
        )

    pre_start_kernel = _async_pre_start_kernel

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        if "ipykernel_launcher" in kernel_cmd:
            kernel_cmd = [*kernel_cmd, f"--IPKernelApp.extra_extensions={EXTENSION}"]
        with open(self.log_file, "ab") as log:
            await super()._async_launch_kernel(kernel_cmd, **kw | {"stdout": log, "stderr": log})

    _launch_kernel = _async_launch_kernel


class RunEngine(NBClientEngine):
    """papermill's engine, reporting after every cell."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, on_cell: Callable[[int, int], None] | None = None, **kwargs: Any
    ) -> Any:
        complete = nb_man.cell_complete

        def cell_complete(cell: Any, cell_index: int | None = None, **rest: Any) -> None:
            complete(cell, cell_index=cell_index, **rest)
            if on_cell is not None and cell_index is not None:
                on_cell(cell_index + 1, len(nb_man.nb.cells))

        nb_man.cell_complete = cell_complete
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


papermill_engines.register(ENGINE, RunEngine)


def kernel_config(env: dict[str, str], folder: str | Path, log: str | Path = os.devnull) -> Config:
    """Settings for nbclient.

    Args:
        env: variables for the kernel.
        folder: an empty folder of this run for the connection file and, where the system has them and the path is short
            enough, the IPC sockets (otherwise TCP on this machine).
        log: file for what the kernel's process writes outside of cells.
    """
    config = Config({"RunKernelManager": {"extra_env": env, "log_file": str(log)}})
    connection = Path(folder) / "k.json"
    if os.name == "posix" and len(os.fsencode(connection)) <= _IPC_PATH_LIMIT:
        config.KernelManager.transport = "ipc"
        config.KernelManager.connection_file = str(connection)
    return config
