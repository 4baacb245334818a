"""Rows on disk: JSON Lines files that a person may edit, and append-only logs.

A log survives a power cut. Its line is `json <tab> crc32`. One writer owns one file and a process
always starts a new one, so a torn last line (kill -9) or a NUL tail (power cut) stays the end of its
own file; readers skip it and say so.
"""

import codecs
import errno
import json
import os
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from distill.core.digests import canonical_json
from distill.core.files import fsync_folder, written_whole
from distill.errors import DataError, MissingError, shown

Row = dict[str, Any]


class BadRow(DataError):
    """A row that cannot be used, where the others can: `reason` is the name it is counted under."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line number from 1, row) of a JSON Lines file.

    Raises MissingError if the file is not there and BadRow naming the line that is no JSON object.
    """
    for number, row in jsonl_rows(path):
        if isinstance(row, BadRow):
            raise row
        yield number, row


def jsonl_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """Yield (line number from 1, row, or why the line is none) of a JSON Lines file.

    Raises MissingError if the file is not there.
    """
    for number, line in text_lines(path):
        row = _row_of(line, f"{path}, line {number}")
        if row is not None:
            yield number, row


def row_of_line(line: bytes, where: str) -> Row | BadRow | None:
    """Return the row of a line, or why it is none; None for an empty line."""
    return _row_of(_text_of(line, where), where)


def _row_of(line: str | BadRow, where: str) -> Row | BadRow | None:
    if isinstance(line, BadRow):
        return line
    return _object_of(line, where) if line.strip() else None


def text_lines(path: Path) -> Iterator[tuple[int, str | BadRow]]:
    """Yield (line number from 1, line, or why it cannot be read) of a file in UTF-8.

    Lines come without their ends and without a byte order mark. Raises MissingError if the file is
    not there.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such file")
    with open(path, "rb") as f:
        for number, (_, line) in enumerate(placed_lines(f), 1):
            yield number, _text_of(line, f"{path}, line {number}")


def placed_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in the file, line without its end and without a byte order mark) of a file."""
    offset = 0
    for piece in file:
        for ended in piece.splitlines(keepends=True):  # a carriage return alone ends a line, too
            line = ended.rstrip(b"\r\n")
            mark = b"" if offset else codecs.BOM_UTF8
            unmarked = line.removeprefix(mark)
            yield offset + len(line) - len(unmarked), unmarked
            offset += len(ended)


def _text_of(line: bytes, where: str) -> str | BadRow:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start}"
        return BadRow("not_utf8", f"{where}: not UTF-8 ({problem}); save the file as UTF-8")
    if "\0" in text:
        problem = "NUL in it: UTF-16, or torn by a power cut"
        return BadRow("not_utf8", f"{where}: not UTF-8 text ({problem}); save the file as UTF-8")
    return text


def _object_of(line: str, where: str) -> Row | BadRow:
    try:
        row = strict_json(line)
    except KeyTwice as error:
        return BadRow("key_twice", f"{where}: {error}")
    except ValueError as error:
        return BadRow("not_json", f"{where}: not JSON ({error})")
    if not isinstance(row, dict):
        problem = f"expected an object, got {type(row).__name__}"
        return BadRow("no_object", f"{where}: {problem}")
    return row


class KeyTwice(ValueError):
    """An object of JSON has a key twice; which value is meant cannot be told."""


def strict_json(text: str) -> Any:
    """Return the value of JSON that a person may have written.

    Raise KeyTwice for an object with a key twice; ValueError, saying what is wrong and where, for
    what is no JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_with_distinct_keys)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(
            f"{error.msg.removesuffix(' at')} at {where}column {error.colno}"
        ) from None
    except KeyTwice:
        raise
    except ValueError:
        raise ValueError("a number of thousands of digits") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        key = shown(counts.most_common(1)[0][0])
        raise KeyTwice(f"the key {key} stands there twice; remove or rename one")
    return row


def write_jsonl(path: Path, rows: Iterable[Row]) -> int:
    """Write rows as JSON Lines, atomically and one by one; return how many."""
    num_rows = 0
    with written_whole(path) as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            num_rows += 1
    return num_rows


class RowLog:
    """Append rows to a new file of our own under `folder`.

    Each row is on disk within a second, whenever the next one comes.
    """

    FSYNC_SECONDS = 1.0

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.jsonl"
        self._file = open(self.path, "xb", buffering=0)  # noqa: SIM115 - closed by close()
        self._unsynced = threading.Event()
        self._ended = threading.Event()
        self._failed: OSError | None = None
        self._thread = threading.Thread(target=self._keep_synced, daemon=True)
        self._thread.start()
        fsync_folder(folder)

    def append(self, row: Row) -> None:
        if self._failed is not None:
            raise self._failed
        text = canonical_json(row).encode()
        line = b"%s\t%08x\n" % (text, zlib.crc32(text))
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, "the disk took only part of a row", str(self.path))
        self._unsynced.set()

    def sync(self) -> None:
        self._unsynced.clear()  # before: a row that comes meanwhile sets it again
        os.fsync(self._file.fileno())
        self._require_there()

    def _require_there(self) -> None:
        """Raise FileNotFoundError where the file was deleted or moved: its rows would be lost."""
        try:
            is_there = os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        if not is_there:
            reason = os.strerror(errno.ENOENT)
            raise FileNotFoundError(errno.ENOENT, reason, str(self.path))

    def _keep_synced(self) -> None:
        """Sync now and then, in a thread.

        In `append` the last rows of a burst would wait for the next one, which may take hours (a
        batch, an outage).
        """
        while not self._ended.wait(self.FSYNC_SECONDS):
            if self._unsynced.is_set():
                try:
                    self.sync()
                except OSError as error:
                    error.filename = str(self.path)
                    self._failed = error  # a full disk, often: the next row is told
                    return

    def close(self) -> None:
        if self._file.closed:
            return
        self._ended.set()
        self._thread.join()
        try:
            self.sync()
        finally:
            self._file.close()
        if self.path.stat().st_size == 0:
            self.path.unlink()

    def __enter__(self) -> "RowLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LogPlace(NamedTuple):
    """Where a row of a log is: its file, and its line's offset and length there, in bytes."""

    path: Path
    offset: int
    length: int


def row_logs(folder: Path, broken: list[str]) -> Iterator[Row]:
    """Yield all good rows of every log under `folder`, by file name then position.

    A note for each bad line is added to `broken`. The union of files made on different machines is made
    by copying them into one folder.
    """
    return (row for _, row in placed_row_logs(folder, broken))


def placed_row_logs(folder: Path, broken: list[str]) -> Iterator[tuple[LogPlace, Row]]:
    """Yield each row of `row_logs` with its place."""
    for path in sorted(folder.glob("*.jsonl")):
        offset = 0
        with open(path, "rb") as f:
            for number, line in enumerate(f, 1):
                if (row := row_of(line)) is not None:
                    yield LogPlace(path, offset, len(line)), row
                elif line != b"\n":
                    broken.append(f"{path.name}, line {number}")
                offset += len(line)


def row_of(line: bytes) -> Row | None:
    """Return the row of a log's line; None where the line is torn, or holds no object."""
    text, _, crc = line.removesuffix(b"\n").rpartition(b"\t")
    try:
        row = json.loads(text) if int(crc, 16) == zlib.crc32(text) else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
