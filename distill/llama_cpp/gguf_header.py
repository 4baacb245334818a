"""Read the header of a GGUF file without its vocabulary.

The `gguf` package's reader makes a numpy array of every token, which takes a minute for 151,936 of
them; here values are stepped over. Layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from distill.errors import DataError
from distill.llama_cpp import ggml

# by GGUF value type
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
ALIGNMENT = 32
BROKEN = (ValueError, struct.error, LookupError, OverflowError)  # what reading past its end raises


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its ggml type, number of weights and bytes."""

    name: str
    type_id: int
    num_weights: int
    bytes: int


def read_tensor_infos(path: Path) -> list[TensorInfo]:
    """Return the tensors that the file declares.

    Raises DataError if it is not GGUF version 3, breaks off in the header, or is too short for its
    data.
    """
    try:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            infos, end = _parse(data)
            size = len(data)
    except BROKEN as error:
        raise DataError(f"{path}: not a whole GGUF file ({error}); write it again") from None
    if size < end:
        raise DataError(f"{path}: not a whole GGUF file ({size} bytes of {end}); write it again")
    return infos


def read_string(path: Path, key: str) -> str | None:
    """Return the text of a key.

    None if the file has no such key, or no whole header: llama.cpp then says what is wrong.
    """
    try:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = 24
            for _ in range(struct.unpack_from("<Q", data, 16)[0]):
                name_end = _after_string(data, at)
                (kind,) = struct.unpack_from("<I", data, name_end)
                end = _after_value(data, name_end + 4, kind)
                if kind == STRING and data[at + 8 : name_end] == key.encode():
                    return data[name_end + 12 : end].decode()
                at = end
    except BROKEN:
        pass
    return None


def _parse(data: mmap.mmap) -> tuple[list[TensorInfo], int]:
    """Return the tensors, and the length that the file must have."""
    magic, version, num_tensors, num_values = struct.unpack_from("<4sIQQ", data, 0)
    if magic != b"GGUF" or version != 3:
        raise ValueError(f"it begins with {magic!r}, version {version}")
    at = 24
    for _ in range(num_values):
        at = _after_string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        at = _after_value(data, at + 4, kind)
    infos, end = [], 0
    for _ in range(num_tensors):
        name_end = _after_string(data, at)
        name = data[at + 8 : name_end].decode()
        (num_dimensions,) = struct.unpack_from("<I", data, name_end)
        shape = struct.unpack_from(f"<{num_dimensions}Q", data, name_end + 4)  # row length first
        type_id, offset = struct.unpack_from("<IQ", data, name_end + 4 + 8 * num_dimensions)
        num_bytes = ggml.row_bytes(type_id, shape[0]) * math.prod(shape[1:])
        infos.append(TensorInfo(name, type_id, math.prod(shape), num_bytes))
        end = max(end, offset + num_bytes)
        at = name_end + 16 + 8 * num_dimensions
    data_start = -(-at // ALIGNMENT) * ALIGNMENT
    return infos, data_start + end


def _after_string(data: mmap.mmap, at: int) -> int:
    """Return the position after the string that begins at `at`."""
    return at + 8 + struct.unpack_from("<Q", data, at)[0]


def _after_value(data: mmap.mmap, at: int, kind: int) -> int:
    """Return the position after the value of this GGUF type that begins at `at`."""
    if kind == STRING:
        return _after_string(data, at)
    if kind != ARRAY:
        return at + SCALAR_BYTES[kind]
    item_kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if item_kind in SCALAR_BYTES:
        return at + count * SCALAR_BYTES[item_kind]
    for _ in range(count):
        at = _after_value(data, at, item_kind)
    return at
