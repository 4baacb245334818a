"""metrics.jsonl: a row an optimizer step.

It is cut back to the checkpoint's step when a run continues.
"""

import json
from pathlib import Path
from typing import Any

from distill.core.files import write_atomic


class Metrics:
    """Appends rows; on processes other than the first `path` is None and nothing is written.

    step: that of the checkpoint; rows of later steps are dropped.
    """

    def __init__(self, path: Path | None, step: int):
        self.path = path
        if path is not None:
            rows = read_metrics(path) if path.exists() else []
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
            if len(kept) < step:
                print(f"  train: {path}: {step - len(kept)} of {step} rows are broken or gone")
            write_atomic(path, "".join(kept))

    def add(self, row: dict[str, Any]) -> None:
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole rows of a metrics file; a line that is none (kill -9) is left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = (_row_of(line) for line in text.splitlines())
    return [row for row in rows if row is not None]


def _row_of(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
