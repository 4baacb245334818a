"""Sections of BENCHMARKS.md: each measuring script writes its own and leaves the others alone."""

import platform
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch


def replace_section(path: Path, text: str) -> None:
    """Put `text`, which begins with its `## heading`, in the place of the section of that heading, or at the end."""
    heading = text.partition("\n")[0]
    old = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    section = re.compile(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = text.strip() + "\n"
    new = (
        section.sub(lambda _: text + "\n", old, count=1)
        if section.search(old)
        else f"{old.rstrip()}\n\n{text}"
    )
    path.write_text(new.rstrip() + "\n", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column to the left, all others to the right."""
    lines = [head, ["--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """Where and with what a figure was measured."""
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} threads, no GPU"
    )
    return f"{platform.machine()}, {device}, torch {torch.__version__}, {date.today().isoformat()}"
