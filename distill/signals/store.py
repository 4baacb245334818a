"""Signals on disk: append-only shards, found by the content of the sequence.

    signals-<writer>-<number>-<content>.shard

    magic [8] | BLAKE2b-128 of the head [16] | bytes of the head, uint32 [4] | head: JSON
    | index | payload

The head holds the SignalHeader, counts, and a BLAKE2b-128 of index and payload. The index has 32
bytes a sequence (key, offset in the payload, length, tokens). A sequence's bytes are its record
and, if the header has a hidden_size, its hidden states. A shard appears whole, by rename, or not at
all; nothing is ever written into one that exists. All shards of a folder are one store, whoever
wrote them; of equal keys the first by file name counts.

<content> is 16 hex characters of the head's checksum, which covers everything. Hence shards of
equal name are equal, and the union of folders that independent jobs or machines filled is made by
copying them into one.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from distill.core.digests import canonical_json
from distill.core.files import write_atomic
from distill.errors import DataError, MismatchError, MissingError
from distill.signals import hidden_states
from distill.signals.encoding import SignalRecord, decode, encode
from distill.signals.header import FORMAT, LOSS_TEMPERATURE, SignalHeader
from distill.signals.hidden_states import HiddenStates
from distill.signals.key_index import KeyIndex, entries

T = TypeVar("T")

MAGIC = b"dstlsig\n"
PREFIX_BYTES = len(MAGIC) + 16 + 4
INDEX = np.dtype([("key", "V16"), ("offset", "<u8"), ("length", "<u4"), ("num_tokens", "<u4")])
# A shard is collected in memory: dense signals fill it long before `shard_tokens`.
SHARD_BYTES = 64 << 20
# Each mapped shard holds a file descriptor, and a process may have 1,024.
OPEN_SHARDS = 256


def sequence_key(token_ids: Sequence[int] | NDArray[np.integer], answer_start: int) -> str:
    """Return the key of a sequence, 32 hex characters.

    BLAKE2b-128 over the int32 ids of prompt + answer and where the answer begins.
    """
    ids = np.asarray(token_ids, dtype="<i4")
    data = ids.tobytes() + int(answer_start).to_bytes(8, "little")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class _Encoded(NamedTuple):
    """A sequence that waits for its shard."""

    key: bytes
    data: bytes
    num_tokens: int


class SignalWriter:
    """Adds shards to a folder.

    One process at a time may use a writer's name there; in other folders others may. A shard is
    written when `shard_tokens` tokens are there, and by `flush`; a kill loses what came after the
    last one. Leaving a `with`, also by an exception, writes what is left.
    """

    def __init__(
        self, folder: Path, header: SignalHeader, writer: str = "rank0", shard_tokens: int = 200_000
    ):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", writer):
            raise ValueError(
                f"writer {writer!r}: only letters, digits, _ and - may stand in a file name"
            )
        self.header = header
        self._folder = folder
        self._writer = writer
        self._shard_tokens = shard_tokens
        folder.mkdir(parents=True, exist_ok=True)
        self._number = _remove_leftovers(folder, writer)
        self._waiting: list[_Encoded] = []
        self._num_bytes = 0
        self._num_tokens = 0
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
        num_tokens = record.num_tokens
        data = encode(record, self.header)
        data += hidden_states.encode(hidden, self.header.hidden_size, num_tokens)
        self._seen.add(raw_key)
        self._waiting.append(_Encoded(raw_key, data, num_tokens))
        self._num_bytes += len(data)
        self._num_tokens += num_tokens
        if self._num_tokens >= self._shard_tokens or self._num_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Put what was added on disk, as a shard of its own."""
        if not self._waiting:
            return
        data = _shard_bytes(self.header, self._waiting)
        content = data[len(MAGIC) : len(MAGIC) + 8].hex()
        path = self._folder / f"signals-{self._writer}-{self._number:05d}-{content}.shard"
        write_atomic(path, data)
        self._number += 1
        self._waiting = []
        self._num_bytes = 0
        self._num_tokens = 0

    def __enter__(self) -> "SignalWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


def _remove_leftovers(folder: Path, writer: str) -> int:
    """Remove what a killed writer of this name left; return the number of the next shard."""
    shard = re.compile(rf"signals-{re.escape(writer)}-(\d+)-[0-9a-f]+\.shard")
    # What write_atomic had begun when it was killed.
    leftover = re.compile(rf"\.{shard.pattern}\.\d+\.tmp")
    names = [path.name for path in folder.iterdir()]
    for name in names:
        if leftover.fullmatch(name):
            (folder / name).unlink()
    matches = [shard.fullmatch(name) for name in names]
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


class SignalStore:
    """All whole shards of a folder, read at random by key through memory maps.

    expect: the header that shards must have; without it, the first shard's. Every byte is read once
    and checksums are compared (about a second a GB).

    header, folder, paths (the shards in use, by name), broken (shards left out, with skip_broken),
    num_tokens, num_bytes (of the files). Raises MismatchError naming a field that differs,
    DataError naming a broken shard (unless skip_broken), MissingError if there is neither a shard
    nor `expect`.
    """

    def __init__(
        self, folder: Path, expect: SignalHeader | None = None, *, skip_broken: bool = False
    ):
        self.folder = folder
        self.paths: list[Path] = []
        self.broken: list[Path] = []
        self.num_bytes = 0
        parts: list[np.ndarray] = []
        self._mapped = functools.lru_cache(maxsize=OPEN_SHARDS)(_map)
        for path in sorted(folder.glob("signals-*.shard")):
            try:
                header, index, payload_start = _read_head(path)
            except DataError:
                if not skip_broken:
                    raise
                self.broken.append(path)
                continue
            expect = expect or header
            for difference in expect.differences(header):
                raise MismatchError(_mismatch(path, *difference))
            parts.append(entries(len(self.paths), index, payload_start))
            self.paths.append(path)
            self.num_bytes += path.stat().st_size
        self._locations = KeyIndex(parts)
        self.num_tokens = self._locations.num_tokens
        if expect is None:
            raise MissingError(f"{folder}: no signal shards; run `distill capture RECIPE` first")
        self.header = expect

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._locations

    def __len__(self) -> int:
        return len(self._locations)

    def keys(self) -> list[str]:
        return [key.hex() for key in self._locations]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that are not here, in order."""
        return [key for key in keys if key not in self]

    def read(self, key: str) -> SignalRecord:
        """Return the record of a sequence. Raises MissingError if it is not here."""
        return self._decoded(
            key, lambda record, _, num_tokens: decode(record, self.header, num_tokens)
        )

    @property
    def hidden_size(self) -> int:
        """Width of the teacher's hidden states. Raises MissingError if none are stored."""
        if self.header.hidden_size is None:
            raise MissingError(
                f"{self.folder}: captured without hidden states; set capture.hidden_states to int8 "
                "and run `distill run RECIPE --redo capture`, or set train.hidden_weight to 0"
            )
        return self.header.hidden_size

    def read_hidden_states(self, key: str) -> HiddenStates:
        """Return the teacher's hidden states of a sequence.

        Raises MissingError if it is not here, or none are.
        """
        width = self.hidden_size
        return self._decoded(
            key, lambda _, states, num_tokens: hidden_states.decode(states, width, num_tokens)
        )

    def _decoded(self, key: str, decoder: Callable[[memoryview, memoryview, int], T]) -> T:
        """Return `decoder` of (the record's bytes, the hidden states' bytes, tokens)."""
        location = self._locations.find(bytes.fromhex(key))
        if location is None:
            raise MissingError(
                f"{self.folder}: no signal for sequence {key}; "
                "run `distill run RECIPE --redo capture`"
            )
        path = self.paths[location.shard]
        end = location.offset + location.length
        data = self._mapped(path)[location.offset : end].data
        states_bytes = location.num_tokens * hidden_states.bytes_per_token(self.header.hidden_size)
        record_bytes = location.length - states_bytes
        try:
            return decoder(data[:record_bytes], data[record_bytes:], location.num_tokens)
        except DataError as error:
            raise DataError(_broken(path, f"sequence {key}: {error}")) from None


def _shard_bytes(header: SignalHeader, sequences: list[_Encoded]) -> bytes:
    lengths = [len(sequence.data) for sequence in sequences]
    index = np.zeros(len(sequences), INDEX)
    index["key"] = np.array([sequence.key for sequence in sequences], "V16")
    index["offset"] = np.cumsum([0, *lengths[:-1]])
    index["length"] = lengths
    index["num_tokens"] = [sequence.num_tokens for sequence in sequences]
    body = index.tobytes() + b"".join(sequence.data for sequence in sequences)
    content = {
        "header": header.to_json(),
        "num_sequences": len(sequences),
        "num_tokens": int(index["num_tokens"].sum()),
        "num_bytes": len(body),
        "checksum": _checksum(body),
    }
    head = canonical_json(content).encode()
    length = len(head).to_bytes(4, "little")
    return b"".join([MAGIC, bytes.fromhex(_checksum(head)), length, head, body])


def _read_head(path: Path) -> tuple[SignalHeader, np.ndarray, int]:
    """Return (header, index, where the payload begins).

    Raises DataError if the shard is not whole, MismatchError if it is of another kind than this
    program writes.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(PREFIX_BYTES)
        if len(prefix) < PREFIX_BYTES or not prefix.startswith(MAGIC):
            raise DataError(_broken(path, "not a signal shard"))
        head = file.read(min(int.from_bytes(prefix[-4:], "little"), size))
        if _checksum(head) != prefix[len(MAGIC) : -4].hex():
            raise DataError(_broken(path, "its head does not match its checksum"))
        content: dict[str, Any] = json.loads(head)
        body_start = PREFIX_BYTES + len(head)
        expected_size = body_start + content["num_bytes"]
        if size != expected_size:
            raise DataError(_broken(path, f"{size} bytes, expected {expected_size}"))
        constants = {"format": FORMAT, "loss_temperature": LOSS_TEMPERATURE}
        for name, expected in constants.items():
            if content["header"][name] != expected:
                raise MismatchError(_mismatch(path, name, expected, content["header"][name]))
        if _checksum(_map(path)[body_start:].data) != content["checksum"]:
            raise DataError(_broken(path, "its content does not match its checksum"))
        index = np.frombuffer(file.read(content["num_sequences"] * INDEX.itemsize), INDEX)
    return SignalHeader.from_json(content["header"]), index, body_start + index.nbytes


def _checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _map(path: Path) -> np.ndarray:
    return np.memmap(path, np.uint8, mode="r")


def _mismatch(path: Path, name: str, expected: Any, actual: Any) -> str:
    return (
        f"{path}: {name} is {actual!r}, expected {expected!r}; "
        "move it away if it was copied here by mistake; else restore what the recipe said at "
        "capture, or run `distill run RECIPE --redo capture`"
    )


def _broken(path: Path, problem: str) -> str:
    return (
        f"{path}: broken ({problem}); run `distill run RECIPE --redo capture`: "
        "only its sequences are captured anew"
    )
