"""Where the bytes of each sequence are, for millions of them: 48 bytes each."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

KEY_BYTES = 16
ENTRY = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("shard", "<u4"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("num_tokens", "<u4"),
    ]
)


class Location(NamedTuple):
    """Where a sequence's bytes are: number of the shard, offset and length in its file."""

    shard: int
    offset: int
    length: int
    num_tokens: int


def entries(shard: int, index: np.ndarray, payload_start: int) -> np.ndarray:
    """Return ENTRY[N] of a shard's index; `payload_start`: what its offsets are from."""
    made = np.empty(len(index), ENTRY)
    halves_N2 = np.frombuffer(index["key"].tobytes(), "<u8").reshape(-1, 2)
    made["high"], made["low"] = halves_N2[:, 0], halves_N2[:, 1]
    made["shard"] = shard
    made["offset"] = index["offset"] + np.uint64(payload_start)
    made["length"] = index["length"]
    made["num_tokens"] = index["num_tokens"]
    return made


class KeyIndex:
    """The locations of keys of 16 bytes, in the order they came; of equal keys the first counts."""

    def __init__(self, parts: Sequence[np.ndarray]):
        """Take ENTRY arrays."""
        all_entries = np.concatenate([np.empty(0, ENTRY), *parts])
        by_key = np.lexsort((all_entries["low"], all_entries["high"]))  # stable
        ordered = all_entries[["high", "low"]][by_key]
        is_first = np.ones(len(ordered), bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        kept = np.sort(by_key[is_first])
        self._entries = all_entries[kept]
        self._by_high = np.argsort(self._entries["high"], kind="stable").astype(np.int32)
        self._high = self._entries["high"][self._by_high]

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return self.find(key) is not None

    @property
    def num_tokens(self) -> int:
        return int(self._entries["num_tokens"].sum(dtype=np.int64))

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys in the order they came."""
        joined = np.stack([self._entries["high"], self._entries["low"]], axis=1).tobytes()
        return (joined[i : i + KEY_BYTES] for i in range(0, len(joined), KEY_BYTES))

    def find(self, key: bytes) -> Location | None:
        """Return where the bytes of a key are, or None."""
        if len(key) != KEY_BYTES:
            return None
        high, low = np.frombuffer(key, "<u8")
        place = int(np.searchsorted(self._high, high))
        while place < len(self._high) and self._high[place] == high:
            entry = self._entries[self._by_high[place]]
            if entry["low"] == low:
                return Location(*entry.tolist()[2:])
            place += 1
        return None
