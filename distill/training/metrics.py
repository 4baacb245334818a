"""metrics.jsonl: a row an optimizer step, cut back to the checkpoint's step when a run continues."""

import json
from pathlib import Path
from typing import Any

from distill.core.files import write_atomic


class Metrics:
    """Appends rows; on processes other than the first `path` is None and nothing is written."""

    def __init__(self, path: Path | None, step: int):
        self.path = path
        if path is not None:
            rows = read_metrics(path) if path.exists() else []
            write_atomic(path, "".join(json.dumps(r) + "\n" for r in rows if r["step"] <= step))

    def add(self, row: dict[str, Any]) -> None:
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Whole rows of a metrics file; a torn last line (kill -9) is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
