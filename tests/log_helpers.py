"""What the append-only logs of a run hold."""

from pathlib import Path

from distill.core.jsonl import Row, row_logs


def read_row_logs(folder: Path) -> tuple[list[Row], list[str]]:
    """Return all good rows of every log under `folder`, and a note for each bad line."""
    broken: list[str] = []
    return list(row_logs(folder, broken)), broken
