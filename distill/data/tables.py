"""Rows of .csv and .tsv files: what separates their cells, and which line is the head.

Spreadsheets separate by commas or, where commas are decimal, by semicolons. The mark that is meant
is the one by which the head line has the names that are wanted.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from distill.core.jsonl import BadRow, Row
from distill.errors import DataError, shown

_MARKS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAMPLED = 20  # records from which the mark of a file without a head is told
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what Python makes of bytes that are not UTF-8
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_LONGEST_CELL = 2**31 - 1  # characters; the csv module's own limit is 131,072


def separated_rows(
    path: Path, columns: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[int, Row | BadRow]]:
    """Yield (line number, row) of a .csv, with quotes, or a .tsv without: there one is a character.

    `columns`: those that are wanted, none = all; then `names` are the names that may be there. The
    first line is the head line, unless all columns are positions. Raise DataError for what is not
    CSV: where a quotation mark is wrong, nobody knows where the next row begins.
    """
    csv.field_size_limit(_LONGEST_CELL)
    text = _decoded(path)
    has_head = not columns or not all(column.isdecimal() for column in columns)
    mark = _mark(path, text, columns, names, has_head)
    reader = _reader(path, text, mark)
    head: list[str] | None = None
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not cells:
                continue
            if head is None:
                head = _head(cells, columns, where, has_head)
                if has_head:
                    continue
            yield reader.line_num, _row(head, cells, where, has_head)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not CSV with {_MARKS[mark]} ({error}); "
            "a quotation mark in a quoted cell is written twice"
        ) from None


def _head(cells: list[str], columns: Sequence[str], where: str, has_head: bool) -> list[str]:
    """Return the names of the cells: positions where the file has no head line."""
    if not has_head:
        return [str(position) for position in range(len(cells))]
    if _NOT_UTF8.search("".join(cells)):
        raise DataError(f"{where}: not UTF-8; save the file as UTF-8")
    refuse_twice(where, cells, columns)
    return cells


def refuse_twice(where: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise DataError if a column is there twice, of those that are wanted; none = all with names."""
    for name, num in Counter(names).items():
        is_wanted = name in columns if columns else bool(name.strip())
        if num > 1 and is_wanted:
            raise DataError(
                f"{where}: the column {shown(name)} stands there {num} times; "
                "which one is meant cannot be told: rename or remove the others"
            )


def _row(head: Sequence[str], cells: Sequence[str], where: str, has_head: bool) -> Row | BadRow:
    if len(cells) != len(head):
        what = "the head line" if has_head else "the first line"
        return BadRow("wrong_cells", f"{where}: {len(cells)} cells, {what} has {len(head)}")
    if _NOT_UTF8.search("".join(cells)):
        return BadRow("not_utf8", f"{where}: not UTF-8; save the file as UTF-8")
    row: Row = {}
    for name, cell in zip(head, cells, strict=True):
        if cell or name not in row:  # several may have no name
            row[name] = cell or None
    return row


def _reader(path: Path, text: str, mark: str) -> Any:
    lines = (line[0] for line in _LINE.finditer(text))
    if path.suffix.lower() == ".tsv":
        return csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=mark, strict=True)


def _mark(
    path: Path, text: str, columns: Sequence[str], names: Sequence[str], has_head: bool
) -> str:
    """Return what separates the cells. Raise DataError where it may be one or the other."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    if has_head:
        wanted = columns or names
        return max(_MARKS, key=lambda mark: _num_found(_records(path, text, mark, 1), wanted))
    last = max(int(column) for column in columns)
    fitting = [m for m in _MARKS if _fits(_records(path, text, m, _SAMPLED), last, m)]
    if len(fitting) > 1:
        raise DataError(
            f"{path}: {' and '.join(_MARKS[mark] for mark in fitting)} could both separate its "
            "cells; add a head line and map its names, or put the cells in quotation marks"
        )
    return fitting[0] if fitting else ","


def _num_found(records: list[list[str]], wanted: Sequence[str]) -> int:
    return sum(name in wanted for name in records[0]) if records else 0


def _fits(records: list[list[str]], last: int, mark: str) -> bool:
    """Return whether all records have the same number of cells, and one at the position `last`."""
    lengths = {len(cells) for cells in records}
    return len(lengths) == 1 and min(lengths) > max(last, mark != ",")


def _records(path: Path, text: str, mark: str, num: int) -> list[list[str]]:
    """Return the first records that are not empty; none where the mark cannot be meant."""
    try:
        return list(islice(filter(None, _reader(path, text, mark)), num))
    except csv.Error:
        return []


def _decoded(path: Path) -> str:
    """Return the text; bytes that are not UTF-8 become what _NOT_UTF8 finds.

    Raise DataError for what is no text.
    """
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise DataError(f"{path}: not UTF-8 text (NUL in it: UTF-16?); save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
