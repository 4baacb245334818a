"""Bit strings in numpy, without a loop over values: fields of varying width, unary codes.

Bit i of a string is bit i % 8 of byte i // 8. A string ends on a whole byte, filled up with zeros.
"""

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


def pack_fields(values: NDArray[np.integer], widths: I64) -> bytes:
    """Pack the lowest `widths[i]` (0 to 63) bits of each of the non-negative `values`."""
    is_used = widths > 0
    # Most callers have none of width 0, and copies cost as much as the rest where there are few
    # values.
    if not is_used.all():
        values = values[is_used]
        widths = widths[is_used]
    fields = values.astype(np.uint64)
    if len(fields) == 0:
        return b""
    fields &= _masks(widths)
    ends = np.cumsum(widths)
    starts = ends - widths
    num_bits = int(ends[-1])
    word = starts >> 6
    shift = (starts & 63).astype(np.uint64)
    words = np.zeros((num_bits + 63 >> 6) + 1, np.uint64)
    begins_word = np.empty(len(word), bool)
    begins_word[0] = True
    np.not_equal(word[1:], word[:-1], out=begins_word[1:])
    first_of_word = begins_word.nonzero()[0]
    words[word[first_of_word]] = np.bitwise_or.reduceat(fields << shift, first_of_word)
    # At most one field runs over the end of a word, so these indices are all different.
    over = ((starts & 63) + widths > 64).nonzero()[0]
    words[word[over] + 1] |= fields[over] >> (np.uint64(64) - shift[over])
    return words.astype("<u8").tobytes()[: num_bytes(num_bits)]


def unpack_fields(data: bytes | memoryview, widths: I64) -> I64:
    """Do the inverse of `pack_fields`; `data` may be longer. Raises ValueError if it is shorter."""
    ends = np.cumsum(widths)
    num_bits = int(ends[-1]) if len(ends) else 0
    size = num_bytes(num_bits)
    if len(data) < size:
        raise ValueError(f"{len(data)} bytes hold fewer than {num_bits} bits")
    words = np.frombuffer(bytes(data[:size]) + bytes(16 - size % 8), "<u8")
    starts = ends - widths
    word = starts >> 6
    shift = (starts & 63).astype(np.uint64)
    # << 1 << (63 - shift) and not << (64 - shift): a shift by 64 is undefined.
    upper = words[word + 1] << np.uint64(1) << (np.uint64(63) - shift)
    joined = (words[word] >> shift) | upper
    return (joined & _masks(widths)).astype(np.int64)


def pack_unary(values: NDArray[np.integer]) -> bytes:
    """Pack each value as that many zeros and a one."""
    if len(values) == 0:
        return b""
    ones = np.cumsum(values + 1) - 1
    bits = np.zeros(int(ones[-1]) + 1, np.uint8)
    bits[ones] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def unpack_unary(data: bytes | memoryview, count: int) -> tuple[I64, int]:
    """Return (the first `count` values, the bytes that they took).

    Raises ValueError if there are fewer.
    """
    if count == 0:
        return np.zeros(0, np.int64), 0
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    ones = np.flatnonzero(bits)[:count]
    if len(ones) < count:
        raise ValueError(f"{len(ones)} unary values, expected {count}")
    return np.diff(ones, prepend=-1) - 1, num_bytes(int(ones[-1]) + 1)


def num_bytes(num_bits: int) -> int:
    return num_bits + 7 >> 3


def bit_length(values: NDArray[np.integer]) -> I64:
    """Return the bits of each positive value, exact below 2^53."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _masks(widths: I64) -> U64:
    return (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
