"""Rows of .csv and .tsv files: what separates their cells, and which line is the head.

Spreadsheets separate by commas or, where commas are decimal, by semicolons. The mark that is meant
is the one by which the head line has the names that are wanted; where it has none of them by any
mark, the one by which the rows have as many cells as the head.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from distill.core.jsonl import BadRow, Row
from distill.errors import DataError, in_short, shown

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
    if has_head:
        sampled = {mark: list(_first_records(path, text, mark)) for mark in _MARKS}
        mark = _mark_of_head(path, sampled, columns or names)
        _refuse_joined(path, sampled, mark, columns)
        return mark
    if path.suffix.lower() == ".tsv":
        return "\t"
    last = max(int(column) for column in columns)
    fitting = [m for m in _MARKS if _fits(_all_records(path, text, m), last, m)]
    if len(fitting) > 1:
        way_out = "add a head line and map its names, or put the cells in quotation marks"
        raise _two_marks(path, fitting, way_out)
    return fitting[0] if fitting else ","


def _mark_of_head(path: Path, sampled: dict[str, list[list[str]]], wanted: Sequence[str]) -> str:
    """Return the mark by which the head line has most of the wanted names, else splits the rows."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    found = {mark: _num_found(records, wanted) for mark, records in sampled.items()}
    if not any(found.values()):
        return max(sampled, key=lambda mark: _shape(sampled[mark]))
    best = [mark for mark in sampled if found[mark] == max(found.values())]
    splitting = [mark for mark in best if len(sampled[mark][0]) > 1]
    if len(splitting) > 1:
        raise _two_marks(
            path, splitting, "name its columns so that one of these gives more of them"
        )
    return (splitting or best)[0]


def _shape(records: list[list[str]]) -> tuple[int, int]:
    """Return (records with as many cells as the first, these cells); zeros where it has but one."""
    num_cells = len(records[0]) if records else 0
    if num_cells < 2:
        return 0, 0
    return sum(len(cells) == num_cells for cells in records), num_cells


def _refuse_joined(
    path: Path, sampled: dict[str, list[list[str]]], mark: str, columns: Sequence[str]
) -> None:
    """Raise DataError for a wanted column that is several, where another mark splits rows better."""
    for name in columns:
        for other, records in sampled.items():
            is_better = other in name and _shape(records) > _shape(sampled[mark])
            if is_better and _num_found(sampled[mark], [name]):
                head = in_short(", ".join(records[0]), 200)
                raise DataError(
                    f"{path}: the column {shown(name)} is several: its cells are separated by "
                    f"{_MARKS[other]}; there are {head}"
                )


def _two_marks(path: Path, marks: Sequence[str], way_out: str) -> DataError:
    names = " and ".join(_MARKS[mark] for mark in marks)
    return DataError(f"{path}: {names} could both separate its cells; {way_out}")


def _num_found(records: list[list[str]], wanted: Sequence[str]) -> int:
    return sum(name in wanted for name in records[0]) if records else 0


def _fits(records: list[list[str]], last: int, mark: str) -> bool:
    """Return whether all records have the same number of cells, and one at the position `last`."""
    lengths = {len(cells) for cells in records}
    return len(lengths) == 1 and min(lengths) > max(last, mark != ",")


def _first_records(path: Path, text: str, mark: str) -> Iterator[list[str]]:
    """Yield the first records that are not empty, up to one that is no CSV with this mark."""
    with suppress(csv.Error):
        yield from islice(filter(None, _reader(path, text, mark)), _SAMPLED)


def _all_records(path: Path, text: str, mark: str) -> list[list[str]]:
    """Return the first records that are not empty; none where the mark cannot be meant."""
    try:
        return list(islice(filter(None, _reader(path, text, mark)), _SAMPLED))
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
