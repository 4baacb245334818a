"""What generate kept and dropped, for the terminal and the report.

Counts by reason and language, and samples side by side.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core import terminal
from distill.core.jsonl import Row, read_jsonl
from distill.core.run_folder import RunFolder
from distill.core.verification import require_present, require_same_content
from distill.data.samples import count_by_language
from distill.data.shares import take_turns
from distill.errors import MissingError, RecipeError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Counts = dict[str, dict[str, int]]  # language: {"kept": how many, reason: how many dropped for it}


def read_kept_and_dropped(stage: Path) -> tuple[list[Row], list[Row]]:
    """Return (kept, dropped) of a run's `generate` folder; MissingError if it is unfinished."""
    if not (stage / "dropped.jsonl").is_file():
        raise MissingError(
            f"{stage}: no kept and dropped samples here; run `distill generate RECIPE` first, "
            "or name its run folder"
        )
    kept = [row for _, row in read_jsonl(stage / "kept.jsonl")]
    dropped = [row for _, row in read_jsonl(stage / "dropped.jsonl")]
    return kept, dropped


def counts_table(counts: Counts) -> tuple[list[str], list[list[str]]]:
    """Return (headings, lines): a line for kept and for each reason, the commonest first.

    A column for each language, one for all together, one for the share of all in percent.
    """
    totals: Counter[str] = Counter()
    for by_reason in counts.values():
        totals.update(by_reason)
    num_kept = totals.pop("kept", 0)
    num_all = num_kept + totals.total()
    lines = []
    for reason, num in [("kept", num_kept), *totals.most_common()]:
        by_language = [f"{by_reason.get(reason, 0):,}" for by_reason in counts.values()]
        percent = f"{100 * num / max(num_all, 1):.1f}"
        lines.append([reason, *by_language, f"{num:,}", percent])
    return ["", *counts, "all", "%"], lines


def show(
    stage: Path,
    *,
    language: str | None = None,
    reason: str | None = None,
    num: int = 3,
    console: "Console | None" = None,
) -> None:
    """Print the counts, then up to `num` kept and dropped samples of each language side by side.

    Raise MissingError where generate has not finished, DataError where one of its files is damaged,
    RecipeError for a language or reason that
    is not there.
    """
    from rich.console import Console

    console = console or Console(file=terminal.raw(sys.stdout))
    _require_as_made(stage)
    kept, dropped = read_kept_and_dropped(stage)
    counts = count_by_language(kept, dropped)
    _require_known("--language", language, list(counts))
    _require_known("--reason", reason, _reasons(counts))
    console.print(_summary(counts, f"{len(kept):,} kept, {len(dropped):,} dropped"))
    for code in [language] if language else counts:
        kept_here = [row for row in kept if row["language"] == code]
        dropped_here = [
            row for row in dropped if row["language"] == code and reason in (None, reason_name(row))
        ]
        # three truncated ones say less than three kinds of fault
        in_turns = take_turns(dropped_here, reason_name)[:num]
        console.print(_pairs(code, kept_here[:num], in_turns))


def _require_as_made(stage: Path) -> None:
    """Raise DataError where what generate kept or dropped is not what it wrote; it is shown as such."""
    shown = (stage / "kept.jsonl", stage / "dropped.jsonl")
    recorded = RunFolder(stage.parent).recorded_files(stage.name)
    files = [file for file in recorded if file.path in shown]
    require_present(files)
    for file in files:
        require_same_content(file)


def _require_known(option: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise RecipeError(
            f"{option} {value!r}: none here; there are {', '.join(known) or 'none at all'}"
        )


def _reasons(counts: Counts) -> list[str]:
    names = dict.fromkeys(name for by_reason in counts.values() for name in by_reason)
    return [name for name in names if name != "kept"]


def _summary(counts: Counts, title: str) -> "Table":
    """Return the counts as a table for the terminal."""
    from rich.table import Table

    headings, lines = counts_table(counts)
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(_text(heading), justify="right" if heading else "left", no_wrap=True)
    for line in lines:
        table.add_row(*map(_text, line))
    return table


def _pairs(language: str, kept: Sequence[Row], dropped: Sequence[Row]) -> "Table":
    """Return the samples as a table for the terminal: kept on the left, dropped on the right."""
    from rich.table import Table

    table = Table(title=_text(language), title_justify="left", show_lines=True, expand=True)
    table.add_column("kept", ratio=1, overflow="fold")
    table.add_column("dropped", ratio=1, overflow="fold")
    for left, right in zip_longest(kept, dropped):
        table.add_row(_text(_sample_text(left)), _text(_sample_text(right)))
    return table


def _text(text: str) -> "Text":
    """Return a cell that is shown as it is: neither markup nor escape sequences mean anything."""
    from rich.text import Text

    return Text(terminal.printable(text))


def reason_name(row: Row) -> str:
    """Return why a row was dropped, without what is told of the case."""
    return row["reason"].partition(":")[0]


def _sample_text(row: Row | None) -> str:
    if row is None:
        return ""
    reason = f"[{row['reason']}]\n" if "reason" in row else ""
    arrow = "→ (given)" if row.get("given") else "→"
    answer = f"\n{arrow} {row['answer']}" if row.get("answer") else ""
    return f"{reason}{row['prompt']}{answer}"
