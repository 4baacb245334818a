"""A JSON Lines file as a sequence of rows that stay on disk."""

from array import array
from collections.abc import Iterator
from pathlib import Path

from distill.core.files import OpenFile
from distill.core.jsonl import BadRow, Row, placed_lines, row_of_line
from distill.errors import DataError, MissingError


class RowFile:
    """Read rows by their number, from 0; 16 bytes a row are in memory.

    What is read is in the page cache, which all processes of a machine share. `scan` must have come
    to its end before.
    """

    def __init__(self, path: Path):
        """Raise MissingError if the file is not there."""
        self.path = path
        if not path.is_file():
            raise MissingError(f"{path}: no such file")
        self._open = OpenFile(path)  # the file of now, also where another gets its name
        self._offsets = array("q")
        self._lengths = array("q")

    def scan(self) -> Iterator[tuple[int, Row]]:
        """Yield (line number from 1, row), and note where each row is.

        Raises BadRow naming the line that is no JSON object.
        """
        for number, (offset, line) in enumerate(placed_lines(self._open.file), 1):
            row = row_of_line(line, f"{self.path}, line {number}")
            if isinstance(row, BadRow):
                raise row
            if row is not None:
                self._offsets.append(offset)
                self._lengths.append(len(line))
                yield number, row

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, number: int) -> Row:
        """Return a row. Raises DataError where the file was changed since `scan`."""
        length = self._lengths[number]
        line = self._open.read(self._offsets[number], length)
        row = row_of_line(line, str(self.path)) if len(line) == length else None
        if row is None or isinstance(row, BadRow):
            raise DataError(f"{self.path}: changed while it was read; run the same command again")
        return row
