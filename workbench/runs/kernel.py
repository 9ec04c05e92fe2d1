"""The papermill engine of the runner: a kernel with environment variables of its own, IPC, and progress by cell.

Its client differs from papermill's: a cell that ends the notebook (``sys.exit()``, ``exit()``) is a
failure, outputs are kept up to a limit, those of output widgets with the cell, and a cell whose last messages were lost
does not wait for them without end.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from jupyter_client.utils import ensure_async
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.log import logger
from traitlets import Dict, Unicode
from traitlets.config import Config

from .meter import EXTENSION
from .outputs import OutputBudget, data_bytes, shortened_error
from .zygote import ZygoteError, can_fork, fork_kernel

ENGINE = "kdw"
_QUIET_SECONDS = 4.0  # without a message after a cell's reply: the rest of its messages is lost
_DRAIN_SECONDS = 120.0  # of messages that still come after a cell's reply, at most
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


class CellExitError(RuntimeError):
    """A cell ended the notebook: ``sys.exit()``, ``raise SystemExit``, ``exit()``, ``quit()``, with any code."""

    def __init__(self, cell: int, source: str, evalue: str | None) -> None:
        how = "exit() or quit()" if evalue is None else f"SystemExit({evalue})"
        super().__init__(
            f"the cell ended the notebook by {how}; the cells after it did not run. A notebook is done when its last "
            "cell is."
        )
        self.cell, self.source = cell, source


class RunClient(PapermillNotebookClient):
    """papermill's client with a limit on what is kept of outputs; see the module.

    Args:
        seconds: that a cell may take, ``None``: no limit.
        output_limit: bytes of outputs that are kept.
    """

    def __init__(self, nb_man: Any, *, seconds: float | None, output_limit: int, **options: Any) -> None:
        super().__init__(nb_man, timeout_func=lambda cell: seconds, **options)
        self.budget = OutputBudget(output_limit)
        self._displays: dict[str, int] = {}
        self._in_widget: set[str] = set()
        self._received, self._lost = 0, False

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        """Run a cell; what was dropped of its outputs is said at their end."""
        self.budget.start_cell()
        self._lost = False
        try:
            return super().execute_cell(cell, cell_index, **options)
        except DeadKernelError:
            raise DeadKernelError(f"the kernel ended while the cell ran: {self._end_of_kernel()}.") from None
        finally:
            said = self.budget.notice()
            if self._lost:
                said += "\n[kdw: more outputs came than could be read; some of this cell's are lost.]\n"
            if said:
                cell.outputs.append(new_output("stream", name="stderr", text=said))

    def _end_of_kernel(self) -> str:
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        code = process.poll() if process is not None else None
        if code is None:
            return "it did not say why"
        if code >= 0:
            return f"exit code {code} (os._exit, or a library that ended the process)"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"{name}" + (" (killed, by hand or for want of memory)" if name == "SIGKILL" else "")

    async def _check_raise_for_error(self, cell: Any, cell_index: int, exec_reply: dict[str, Any] | None) -> None:
        content = exec_reply["content"] if exec_reply is not None else {}
        raised = content.get("ename") == "SystemExit"
        if raised or any(part.get("source") == "ask_exit" for part in content.get("payload") or ()):
            error = CellExitError(cell_index + 1, cell.source, str(content.get("evalue", "")) if raised else None)
            if not raised:
                cell.outputs.append(new_output("error", ename="SystemExit", evalue="", traceback=[str(error)]))
            self.nb_man.cell_exception(self.nb.cells[cell_index], cell_index=cell_index)
            raise error
        await super()._check_raise_for_error(cell, cell_index, exec_reply)

    # ------------------------------------------------------------------------------------------------------- outputs

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        self._received += 1
        return super().process_message(msg, cell, cell_index)

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
        """Keep an output as far as it fits."""
        if self.clear_before_next_output:
            self.budget.clear()
        content, kind = msg["content"], msg["msg_type"]
        if kind == "stream":
            text = self.budget.beginning(content["text"])
            if not text:
                return None
            msg = msg | {"content": content | {"text": text}}
        elif kind == "error":
            msg = msg | {"content": shortened_error(content)}
        elif "data" in content:
            size = data_bytes(content["data"])
            if not self.budget.take(size):
                return None
            if display_id:
                self._displays[display_id] = size
        return super().output(outs, msg, display_id, cell_index)

    def clear_output(self, outs: list[Any], msg: dict[str, Any], cell_index: int) -> None:
        """Forget the outputs of the cell, which may then be as many again."""
        if msg["parent_header"].get("msg_id") in self._in_widget:  # that clears itself, not the cell
            return
        if not msg["content"].get("wait"):
            self.budget.clear()
        super().clear_output(outs, msg, cell_index)

    def register_output_hook(self, msg_id: str, hook: Any) -> None:
        """What goes into an output widget is kept with the cell: an executed notebook has no widgets that show it."""
        self._in_widget.add(msg_id)

    def remove_output_hook(self, msg_id: str, hook: Any) -> None:
        """See :meth:`register_output_hook`."""
        self._in_widget.discard(msg_id)

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        if display_id in self._displays and msg["msg_type"] == "update_display_data":
            size = data_bytes(msg["content"]["data"])
            if not self.budget.take(size, instead_of=self._displays[display_id]):
                return
            self._displays[display_id] = size
        super()._update_display_id(display_id, msg)

    async def _async_poll_for_reply(
        self, msg_id: str, cell: Any, timeout: float | None, task_poll_output_msg: Any, task_poll_kernel_alive: Any
    ) -> dict[str, Any]:
        """The kernel's reply to a cell, once its outputs are in or no more of them come."""
        assert self.kc is not None
        end = None if timeout is None else monotonic() + timeout
        while True:
            try:
                left = None if end is None else max(0.0, end - monotonic())
                reply: dict[str, Any] = await ensure_async(self.kc.shell_channel.get_msg(timeout=left))
            except Empty:
                task_poll_kernel_alive.cancel()
                await self._async_check_alive()
                await self._async_handle_timeout(timeout, cell)
                raise
            if reply["parent_header"].get("msg_id") == msg_id:
                break
        stop, seen = monotonic() + _DRAIN_SECONDS, -1
        while not task_poll_output_msg.done() and self._received != seen and monotonic() < stop:
            seen = self._received
            await asyncio.wait({task_poll_output_msg}, timeout=_QUIET_SECONDS)
        task_poll_kernel_alive.cancel()
        if task_poll_output_msg.done():
            task_poll_output_msg.result()
        else:
            task_poll_output_msg.cancel()
            self._lost = True
        return reply


class RunEngine(NBClientEngine):
    """papermill's engine, with :class:`RunClient`, reporting after every cell."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        on_cell: Callable[[int, int], None] | None = None,
        start_timeout: int = 60,
        **kwargs: Any,
    ) -> Any:
        complete = nb_man.cell_complete

        def cell_complete(cell: Any, cell_index: int | None = None, **rest: Any) -> None:
            complete(cell, cell_index=cell_index, **rest)
            if on_cell is not None and cell_index is not None:
                on_cell(cell_index + 1, len(nb_man.nb.cells))

        nb_man.cell_complete = cell_complete
        kwargs.pop("input_path", None)
        return RunClient(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, log=logger, **kwargs).execute()


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
    config.KernelManager.connection_file = str(connection)  # here it goes with the folder, whatever ends the run
    if os.name == "posix" and len(os.fsencode(connection)) <= _IPC_PATH_LIMIT:
        config.KernelManager.transport = "ipc"
    return config
