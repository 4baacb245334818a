"""Signals on disk: append-only shards, found by the content of the sequence.

    signals-<writer>-<number>-<content>.shard

    magic [8] | BLAKE2b-128 of the head [16] | bytes of the head, uint32 [4] | head: JSON | index | payload

The head holds the SignalHeader, counts, and a BLAKE2b-128 of index and payload. The index has 32 bytes a sequence (key,
offset in the payload, length, tokens). A sequence's bytes are its record and, if the header has a hidden_size, its
hidden states. A shard appears whole, by rename, or not at all; nothing is ever written into one that exists. All shards
of a folder are one store, whoever wrote them; of equal keys the first by file name counts.

<content> is 16 hex characters of the head's checksum, which covers everything. Hence shards of equal name are equal, and
the union of folders that independent jobs or machines filled is made by copying them into one.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from distill.core.digests import canonical_json
from distill.core.files import write_atomic
from distill.errors import DataError, MismatchError, MissingError
from distill.signals import hidden_states
from distill.signals.encoding import SignalRecord, decode, encode
from distill.signals.header import FORMAT, SignalHeader
from distill.signals.hidden_states import HiddenStates

T = TypeVar("T")

MAGIC = b"dstlsig\n"
PREFIX_BYTES = len(MAGIC) + 16 + 4
INDEX = np.dtype([("key", "V16"), ("offset", "<u8"), ("length", "<u4"), ("num_tokens", "<u4")])
SHARD_BYTES = (
    64 << 20
)  # a shard is collected in memory: dense signals fill it long before `shard_tokens`
OPEN_SHARDS = 256  # each mapped shard holds a file descriptor, and a process may have 1,024


def sequence_key(token_ids: Sequence[int] | NDArray[np.integer], answer_start: int) -> str:
    """32 hex characters of BLAKE2b-128 over the int32 ids of prompt + answer and where the answer begins."""
    ids = np.asarray(token_ids, dtype="<i4")
    return hashlib.blake2b(
        ids.tobytes() + int(answer_start).to_bytes(8, "little"), digest_size=16
    ).hexdigest()


class SignalWriter:
    """Adds shards to a folder. One process at a time may use a writer's name there; in other folders others may.

    A shard is written when `shard_tokens` tokens are there, and by `close`; a kill loses what came after the last one.
    Closing, also by an exception inside `with`, writes what is left.
    """

    def __init__(
        self, folder: Path, header: SignalHeader, writer: str = "rank0", shard_tokens: int = 200_000
    ):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", writer):
            raise ValueError(
                f"writer {writer!r}: only letters, digits, _ and - may stand in a file name"
            )
        self.header = header
        self._folder, self._writer, self._shard_tokens = folder, writer, shard_tokens
        folder.mkdir(parents=True, exist_ok=True)
        shard = re.compile(rf"signals-{re.escape(writer)}-(\d+)-[0-9a-f]+\.shard")
        leftover = re.compile(
            rf"\.{shard.pattern}\.\d+\.tmp"
        )  # what write_atomic had begun when it was killed
        names = [p.name for p in folder.iterdir()]
        self._number = 1 + max((int(m[1]) for n in names if (m := shard.fullmatch(n))), default=-1)
        for name in names:
            if leftover.fullmatch(name):
                (folder / name).unlink()
        self._records: list[tuple[bytes, bytes, int]] = []  # key, encoded record, tokens
        self._num_bytes = self._num_tokens = 0
        self._seen: set[bytes] = set()

    def add(self, key: str, record: SignalRecord, hidden: HiddenStates | None = None) -> None:
        """Take a sequence; one that this writer has taken before is passed over.

        Raises ValueError for a record, or hidden states, that do not fit the header.
        """
        raw_key = bytes.fromhex(key)
        if len(raw_key) != 16:
            raise ValueError(f"key {key!r} is not 32 hex characters")
        if raw_key in self._seen:
            return
        data = encode(record, self.header) + hidden_states.encode(
            hidden, self.header.hidden_size, record.num_tokens
        )
        self._seen.add(raw_key)
        self._records.append((raw_key, data, record.num_tokens))
        self._num_bytes += len(data)
        self._num_tokens += record.num_tokens
        if self._num_tokens >= self._shard_tokens or self._num_bytes >= SHARD_BYTES:
            self._write_shard()

    def flush(self) -> None:
        """Put what was added on disk, as a shard of its own."""
        if self._records:
            self._write_shard()

    def _write_shard(self) -> None:
        data = _shard_bytes(self.header, self._records)
        content = data[len(MAGIC) : len(MAGIC) + 8].hex()
        path = self._folder / f"signals-{self._writer}-{self._number:05d}-{content}.shard"
        write_atomic(path, data)
        self._number += 1
        self._records, self._num_bytes, self._num_tokens = [], 0, 0

    def __enter__(self) -> "SignalWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


class SignalStore:
    """All whole shards of a folder, read at random by key through memory maps.

    expect: the header that shards must have; without it, the first shard's. verify: read every byte once and compare
    checksums (about a second a GB); sizes and heads are always checked.

    header, folder, paths (the shards in use, by name), broken (shards left out, with skip_broken), num_tokens,
    num_bytes (of the files). Raises MismatchError naming a field that differs, DataError naming a broken shard (unless
    skip_broken), MissingError if there is neither a shard nor `expect`.
    """

    def __init__(
        self,
        folder: Path,
        expect: SignalHeader | None = None,
        *,
        verify: bool = True,
        skip_broken: bool = False,
    ):
        self.folder = folder
        self.paths: list[Path] = []
        self.broken: list[Path] = []
        self.num_tokens = self.num_bytes = 0
        self._places: dict[
            bytes, tuple[int, int, int, int]
        ] = {}  # key: shard, offset in the file, length, tokens
        self._mapped = functools.lru_cache(maxsize=OPEN_SHARDS)(_map)
        for path in sorted(folder.glob("signals-*.shard")):
            try:
                header, index, start = _read_head(path, verify=verify)
            except DataError:
                if not skip_broken:
                    raise
                self.broken.append(path)
                continue
            expect = expect or header
            _check_same(path, expect, header)
            self._take(path, index, start)
        if expect is None:
            raise MissingError(f"{folder}: no signal shards; run `distill capture RECIPE` first")
        self.header = expect

    def _take(self, path: Path, index: np.ndarray, start: int) -> None:
        shard = len(self.paths)
        self.paths.append(path)
        self.num_bytes += path.stat().st_size
        for key, offset, length, num_tokens in index.tolist():
            if key not in self._places:
                self._places[key] = shard, start + offset, length, num_tokens
                self.num_tokens += num_tokens

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def keys(self) -> list[str]:
        return [key.hex() for key in self._places]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are not here, in order."""
        return [key for key in keys if key not in self]

    def read(self, key: str) -> SignalRecord:
        """The record of a sequence. Raises MissingError if it is not here."""
        return self._decoded(
            key, lambda record, _, num_tokens: decode(record, self.header, num_tokens)
        )

    @property
    def hidden_size(self) -> int:
        """Width of the teacher's hidden states. Raises MissingError if none are stored."""
        if self.header.hidden_size is None:
            raise MissingError(
                f"{self.folder}: captured without hidden states; set capture.hidden_states to int8 and run with "
                "--redo capture, or set train.hidden_weight to 0"
            )
        return self.header.hidden_size

    def read_hidden_states(self, key: str) -> HiddenStates:
        """The teacher's hidden states of a sequence. Raises MissingError if it is not here, or none are."""
        width = self.hidden_size
        return self._decoded(
            key, lambda _, states, num_tokens: hidden_states.decode(states, width, num_tokens)
        )

    def _decoded(self, key: str, decoder: Callable[[memoryview, memoryview, int], T]) -> T:
        """`decoder` of (the record's bytes, the hidden states' bytes, tokens) of a sequence."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            raise MissingError(
                f"{self.folder}: no signal for sequence {key}; run `distill capture RECIPE` again"
            )
        shard, start, length, num_tokens = place
        path = self.paths[shard]
        data = self._mapped(path)[start : start + length].data
        end = length - num_tokens * hidden_states.bytes_per_token(self.header.hidden_size)
        try:
            return decoder(data[:end], data[end:], num_tokens)
        except DataError as error:
            raise DataError(_broken(path, f"sequence {key}: {error}")) from None


def _shard_bytes(header: SignalHeader, records: list[tuple[bytes, bytes, int]]) -> bytes:
    index = np.zeros(len(records), INDEX)
    lengths = [len(data) for _, data, _ in records]
    index["key"] = np.array([key for key, _, _ in records], "V16")
    index["offset"] = np.cumsum([0, *lengths[:-1]])
    index["length"] = lengths
    index["num_tokens"] = [n for _, _, n in records]
    body = index.tobytes() + b"".join(data for _, data, _ in records)
    head = canonical_json(
        {
            "header": header.to_json(),
            "num_sequences": len(records),
            "num_tokens": int(index["num_tokens"].sum()),
            "num_bytes": len(body),
            "checksum": _checksum(body),
        }
    ).encode()
    return b"".join(
        [MAGIC, bytes.fromhex(_checksum(head)), len(head).to_bytes(4, "little"), head, body]
    )


def _read_head(path: Path, *, verify: bool) -> tuple[SignalHeader, np.ndarray, int]:
    """(header, index, where the payload begins). Raises DataError if the shard is not whole."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        prefix = f.read(PREFIX_BYTES)
        if len(prefix) < PREFIX_BYTES or not prefix.startswith(MAGIC):
            raise DataError(_broken(path, "not a signal shard"))
        head = f.read(min(int.from_bytes(prefix[-4:], "little"), size))
        if _checksum(head) != prefix[len(MAGIC) : -4].hex():
            raise DataError(_broken(path, "its head does not match its checksum"))
        described: dict[str, Any] = json.loads(head)
        body_start = PREFIX_BYTES + len(head)
        if size != body_start + described["num_bytes"]:
            raise DataError(
                _broken(path, f"{size} bytes, expected {body_start + described['num_bytes']}")
            )
        if described["header"]["format"] != FORMAT:
            raise MismatchError(_mismatch(path, "format", FORMAT, described["header"]["format"]))
        if verify and _checksum(_map(path)[body_start:].data) != described["checksum"]:
            raise DataError(_broken(path, "its content does not match its checksum"))
        index = np.frombuffer(f.read(described["num_sequences"] * INDEX.itemsize), INDEX)
    return SignalHeader.from_json(described["header"]), index, body_start + index.nbytes


def _checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _map(path: Path) -> np.ndarray:
    return np.memmap(path, np.uint8, mode="r")


def _check_same(path: Path, expect: SignalHeader, found: SignalHeader) -> None:
    for name, ours, theirs in expect.differences(found):
        raise MismatchError(_mismatch(path, name, ours, theirs))


def _mismatch(path: Path, name: str, expected: Any, found: Any) -> str:
    return (
        f"{path}: {name} is {found!r}, expected {expected!r}; restore what the recipe said at capture, or capture anew "
        "with --redo capture"
    )


def _broken(path: Path, problem: str) -> str:
    return (
        f"{path}: broken ({problem}); delete it and run `distill capture RECIPE` again: "
        "only its sequences are captured anew"
    )
