"""What a trimmed vocabulary makes of the texts of each language, as a table."""

from collections.abc import Sequence

from distill.core.results import Coverage, TrimResult

STOPPED = {  # why no more tokens were taken away
    "size": "student.vocabulary.size is reached",
    "fertility": "with fewer the texts of a language would be longer by more than "
    "student.vocabulary.max_fertility_loss",
    "required": "all that is left must stay",
}
HEADINGS = (
    "language",
    "MB",
    "tokens/word",
    "after",
    "tokens/byte",
    "after",
    "longer by",
    "new text",
)
NEW_TEXT = "longer by: the counted texts; new text: a tenth of them, by as many tokens that the others choose"


def told(result: TrimResult) -> str:
    """Return how many tokens stay, why no fewer, and the table, as lines for a terminal."""
    share = result.vocab_size / result.parent_vocab_size
    first = (
        f"{result.vocab_size:,} of {result.parent_vocab_size:,} tokens stay ({share:.0%}): "
        f"{STOPPED[result.stopped_by]}"
    )
    return "\n".join([first, *table_lines(result.coverage), f"  {NEW_TEXT}"])


def cells(coverage: Sequence[Coverage]) -> list[list[str]]:
    """Return the table's lines, a cell for each of HEADINGS."""
    return [_cells_of(row) for row in coverage]


def _cells_of(row: Coverage) -> list[str]:
    words, num_bytes = max(row.num_words, 1), max(row.num_bytes, 1)
    return [
        row.language,
        f"{row.num_bytes / 1e6:.2f}",
        f"{row.tokens_before / words:.3f}",
        f"{row.tokens_after / words:.3f}",
        f"{row.tokens_before / num_bytes:.4f}",
        f"{row.tokens_after / num_bytes:.4f}",
        f"{row.loss:.2%}",
        "–" if row.new_text_loss is None else f"{row.new_text_loss:.2%}",
    ]


def table_lines(coverage: Sequence[Coverage]) -> list[str]:
    """Return the table as text."""
    lines = [list(HEADINGS), *cells(coverage)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
