"""What generate kept and dropped: counts by reason and language, and samples side by side. For the terminal and the report."""

import html
from itertools import zip_longest
from pathlib import Path
from typing import Any

from distill.core.jsonl import Row, read_jsonl
from distill.data.samples import count_by_language
from distill.errors import MissingError, RecipeError

Counts = dict[str, dict[str, int]]


def read(stage: Path) -> tuple[list[Row], list[Row]]:
    """(kept, dropped) of a run's `generate` folder. MissingError where it is not finished."""
    if not (stage / "dropped.jsonl").is_file():
        raise MissingError(
            f"{stage}: no kept and dropped samples here; run `distill generate RECIPE` first, or name its run folder"
        )
    kept, dropped = (
        [row for _, row in read_jsonl(stage / name)] for name in ("kept.jsonl", "dropped.jsonl")
    )
    return kept, dropped


def table(counts: Counts) -> tuple[list[str], list[list[str]]]:
    """(head, lines): a line for kept and for each reason, the commonest first; a column a language, and all together."""
    reasons: dict[str, int] = {}
    for mine in counts.values():
        for reason, count in mine.items():
            reasons[reason] = reasons.get(reason, 0) + count
    kept = reasons.pop("kept", 0)
    ordered = [("kept", kept), *sorted(reasons.items(), key=lambda pair: -pair[1])]
    whole = kept + sum(reasons.values())
    lines = [
        [
            reason,
            *(f"{mine.get(reason, 0):,}" for mine in counts.values()),
            f"{count:,}",
            f"{100 * count / max(whole, 1):.1f}",
        ]
        for reason, count in ordered
    ]
    return ["", *counts, "all", "%"], lines


def table_html(counts: Counts) -> str:
    head, lines = table(counts)
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in lines
    )
    return f"<div class='scroll'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def show(
    stage: Path,
    *,
    language: str | None = None,
    reason: str | None = None,
    num: int = 3,
    console: Any = None,
) -> None:
    """Print the counts, then up to `num` kept and dropped samples of each language side by side.

    Raises MissingError where generate has not finished, RecipeError for a language or reason that is not there.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    kept, dropped = read(stage)
    counts = count_by_language(kept, dropped)
    _check("--language", language, list(counts))
    _check(
        "--reason",
        reason,
        [
            name
            for name in dict.fromkeys(n for mine in counts.values() for n in mine)
            if name != "kept"
        ],
    )
    head, lines = table(counts)
    summary = Table(title=f"{len(kept):,} kept, {len(dropped):,} dropped", title_justify="left")
    for name in head:
        summary.add_column(name, justify="right" if name else "left", no_wrap=True)
    for line in lines:
        summary.add_row(*line)
    console.print(summary)
    for code in [language] if language else counts:
        good = [row for row in kept if row["language"] == code][:num]
        bad = _spread(
            [row for row in dropped if row["language"] == code and reason in (None, _name(row))],
            num,
        )
        pairs = Table(title=f"{code}", title_justify="left", show_lines=True, expand=True)
        pairs.add_column("kept", ratio=1, overflow="fold")
        pairs.add_column("dropped", ratio=1, overflow="fold")
        for left, right in zip_longest(good, bad):
            pairs.add_row(Text(_sample(left)), Text(_sample(right)))
        console.print(pairs)


def _check(option: str, value: str | None, known: list[str]) -> None:
    if value is not None and value not in known:
        raise RecipeError(
            f"{option} {value!r}: none here; there are {', '.join(known) or 'none at all'}"
        )


def _name(row: Row) -> str:
    return row["reason"].partition(":")[0]


def _spread(rows: list[Row], num: int) -> list[Row]:
    """At most `num`, taking turns over the reasons: three truncated ones say less than three kinds of fault."""
    seen: dict[str, int] = {}
    turns = []
    for place, row in enumerate(rows):
        seen[_name(row)] = seen.get(_name(row), 0) + 1
        turns.append((seen[_name(row)], place))
    return [rows[place] for _, place in sorted(turns)[:num]]


def _sample(row: Row | None) -> str:
    if row is None:
        return ""
    why = f"[{row['reason']}]\n" if "reason" in row else ""
    answer = f"\n→ {row['answer']}" if row.get("answer") else ""
    return f"{why}{row['prompt']}{answer}"
