"""The rows of a log of answers, which stay on disk."""

import functools
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distill.core.files import OpenFile
from distill.core.jsonl import LogPlace, Row, row_of
from distill.core.lazy_sequence import LazySequence
from distill.errors import DataError

# Field of a row: what the server said about each token (capture.from_server), base64 of the record
LOG_PROBS = "top_k"
OWN_LOG_PROBS = (
    "logp"  # the same of the tokens themselves (capture.signal: chunks), float16 in base64
)
RAW = "raw"  # field of a row: what the server sent where it was no answer
BULK = frozenset({LOG_PROBS, OWN_LOG_PROBS, RAW})
OPEN_FILES = 64  # a process may have 1,024


class LoggedRows(LazySequence[Row, list[Row]]):
    """Rows of a log in the order they were taken; each is read when it is asked for.

    Without its bulk: the log-probs, which are twenty times the rest, and what was no answer. What a
    row is used for does not need them. `heads`: what tells which row of a key counts, in memory.
    """

    def __init__(self) -> None:
        self.heads = Heads()
        self._paths: list[Path] = []
        self._files = array("i")
        self._offsets = array("q")
        self._lengths = array("q")
        self._opened = functools.lru_cache(maxsize=OPEN_FILES)(OpenFile)

    def take(self, place: LogPlace, row: Row) -> None:
        """Note down where a row is, and its head."""
        if not self._paths or self._paths[-1] != place.path:
            self._paths.append(place.path)
        self._files.append(len(self._paths) - 1)
        self._offsets.append(place.offset)
        self._lengths.append(place.length)
        self.heads.take(row)

    def __len__(self) -> int:
        return len(self._offsets)

    def _some(self, chosen: slice) -> list[Row]:
        return [self._item(number) for number in range(len(self))[chosen]]

    def _item(self, number: int) -> Row:
        """Read a row. Raises DataError where its file was changed meanwhile."""
        path = self._paths[self._files[number]]
        row = row_of(self._opened(path).read(self._offsets[number], self._lengths[number]))
        if row is None or row.get("key") != self.heads[number]["key"]:
            raise DataError(f"{path}: changed while it was read; run the same command again")
        return {name: value for name, value in row.items() if name not in BULK}


class Heads(LazySequence[Row, list[Row]]):
    """The short fields of each row, and `num_tokens` of the answer; some 170 bytes a row."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._reasons: list[str] = []
        self._most_tokens: list[int] = []
        self._seeds: list[int] = []
        self.num_tokens = array("q")

    def take(self, row: Row) -> None:
        self._keys.append(row["key"])
        self._reasons.append(sys.intern(row["finish_reason"]))
        self._most_tokens.append(row["max_new_tokens"])
        self._seeds.append(row["seed"])
        self.num_tokens.append(len(row["token_ids"]))

    def __len__(self) -> int:
        return len(self._keys)

    def _some(self, chosen: slice) -> list[Row]:
        return [self._item(number) for number in range(len(self))[chosen]]

    def _item(self, number: int) -> Row:
        return {
            "key": self._keys[number],
            "finish_reason": self._reasons[number],
            "max_new_tokens": self._most_tokens[number],
            "seed": self._seeds[number],
        }


class ChosenRows(Mapping[str, Row]):
    """Some of the rows, by their keys; each is read when it is asked for.

    `numbers`: of each row, by key.
    """

    def __init__(self, rows: Sequence[Row], numbers: dict[str, int]):
        self.rows = rows
        self.numbers = numbers

    def __getitem__(self, key: str) -> Row:
        return self.rows[self.numbers[key]]

    def head(self, key: str) -> Row:
        """Return the short fields of a row, without reading it."""
        return heads_of(self.rows)[self.numbers[key]]

    def __contains__(self, key: object) -> bool:
        return key in self.numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def heads_of(rows: Sequence[Row]) -> Sequence[Row]:
    """Return of each row what tells which one counts; of rows in memory themselves."""
    return rows.heads if isinstance(rows, LoggedRows) else rows
