"""Subprocesses of our own that load a model's file apart from us."""

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """Return our environment, in which `python -m distill....` finds this package."""
    package = str(Path(__file__).resolve().parents[2])
    given = os.environ.get("PYTHONPATH")
    paths = [package, given] if given else [package]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def peak_memory(pid: int | str) -> int | None:
    """Return the bytes of memory that a process held at most; None without /proc.

    `pid`: "self" is this process. Mapped files and Python are among it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
