"""Several processes: gathering values, and leaving the group in order."""

from __future__ import annotations

import atexit
from functools import cache
from typing import Any

import torch


@cache
def leave_process_group_at_exit() -> None:
    """Take this process out of its group when the program ends; once.

    Fabric does so for NCCL alone. A gloo group that is alive when the interpreter shuts down aborts the process now and
    then ("terminate called without an active exception"), after the work is done.
    """
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gathered(fabric: Any, value: Any) -> list[Any]:
    """The value of every process, in the order of ranks."""
    if fabric.world_size == 1:
        return [value]
    out: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(out, value)
    return out
