"""What ``import kdcore`` costs beyond ``import torch``: CPU seconds of whole interpreters."""

from __future__ import annotations

import resource
import subprocess
import sys

from .protocol import Row

PROGRAMS = {
    "torch": "import torch",
    "torch + kdcore": "import torch, kdcore",
    "torch + every public name of kdcore": "import torch; from kdcore import *",
}


def child_seconds(program: str) -> float:
    """CPU seconds, user and system, of one interpreter that runs ``program``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(*, quick: bool = False) -> list[Row]:
    """Seconds beyond torch for the bare import, and with every public name loaded."""
    rounds = [{name: child_seconds(program) for name, program in PROGRAMS.items()} for _ in range(1 if quick else 7)]
    seconds = {name: min(r[name] for r in rounds) for name in PROGRAMS}
    detail = {f"{name}_s": value for name, value in seconds.items()}
    return [
        Row(
            what=what,
            against="`import torch`",
            value=seconds[name] - seconds["torch"],
            goal=0.15,
            unit="CPU s",
            detail=detail,
        )
        for what, name in (
            ("`import kdcore`, beyond torch", "torch + kdcore"),
            ("`from kdcore import *` (all public names), beyond torch", "torch + every public name of kdcore"),
        )
    ]
