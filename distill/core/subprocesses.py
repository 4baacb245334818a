"""Processes of our own that run a model's file apart from us."""

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """Ours, in which `python -m distill....` finds this package, installed or not."""
    paths = [
        str(Path(__file__).resolve().parents[2]),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def peak_memory(pid: int | str) -> int | None:
    """Bytes of memory that a process ("self": this one) held at most, mapped files and Python included; None without /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
