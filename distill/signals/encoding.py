"""The three kinds of record, one for each sequence, and their bytes.

    sampled   realised log-prob, entropy: float16 [T] each
              per token: ids - 1 (bit length of num_draws), Rice parameter (2 bits)
              ids: gaps in Rice code, first all low parts, then all unary parts
              counts, but for a token's last one, which the draws still missing make up: Elias gamma code,
              first all bit lengths in unary (in one string with the ids'), then all low parts
    top_k     log-probs [T, k], tail log-prob [T]: float16; Rice parameters and ids as above
    dense     log-probs [T, V]: float16

A part ends on a whole byte; its length follows from the parts before it, so none is stored. Ids of 50 draws at
V = 151,936 cost 2 % more than log2 C(V, unique ids), the least for ids that may be anywhere; in Elias-Fano code 13 %.

T: answer tokens, U: unique (token, id) pairs of the sequence, K: ids kept for a token, V: shared ids.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from distill.errors import DataError
from distill.signals.bits import (
    bit_length,
    num_bytes,
    pack_fields,
    pack_unary,
    unpack_fields,
    unpack_unary,
)
from distill.signals.header import SignalHeader

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

# A token's Rice parameter is the best one for ids that may be anywhere, less one of these: 2 bits say which.
# More choices cost more than they save, on even ids and on ids that crowd at the low end.
RICE_STEPS = np.array([0, 1, 2, 4])


@dataclass(frozen=True, eq=False)
class SampledRecord:
    """Draws from the teacher's distribution. The ids of token t are ids[offsets[t] : offsets[t + 1]], ascending.

    ids: int32 [U]; counts: int32 [U], how often each was drawn; offsets: int64 [T + 1].
    realised_logp: float32 [T], of the token that the answer has; entropy: float32 [T], in nats.
    """

    ids: I32
    counts: I32
    offsets: I64
    realised_logp: F32
    entropy: F32

    @property
    def num_tokens(self) -> int:
        return len(self.realised_logp)


@dataclass(frozen=True, eq=False)
class TopKRecord:
    """The likeliest ids: int32 [T, K], ascending; logp: float32 [T, K]; tail_logp: float32 [T], of all other ids."""

    ids: I32
    logp: F32
    tail_logp: F32

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class DenseRecord:
    """logp: float32 [T, V]."""

    logp: F32

    @property
    def num_tokens(self) -> int:
        return len(self.logp)


SignalRecord = SampledRecord | TopKRecord | DenseRecord


def encode(record: SignalRecord, header: SignalHeader) -> bytes:
    """The record's bytes; floats are rounded to float16, below -65,504 to -inf.

    Raises ValueError for a record that does not fit the header.
    """
    if isinstance(record, SampledRecord) and header.kind == "sampled":
        return _encode_sampled(record, header)
    if isinstance(record, TopKRecord) and header.kind == "top_k":
        return _encode_top_k(record, header)
    if isinstance(record, DenseRecord) and header.kind == "dense":
        _check(
            record.logp.shape[1] == header.vocab_size,
            f"{record.logp.shape[1]} ids, expected {header.vocab_size}",
        )
        return _float16(record.logp)
    raise ValueError(
        f"a {type(record).__name__} does not belong under a header of kind {header.kind}"
    )


def decode(data: bytes | memoryview, header: SignalHeader, num_tokens: int) -> SignalRecord:
    """The inverse of `encode`. Raises DataError if the bytes are not a record of `num_tokens` tokens."""
    try:
        if header.kind == "sampled":
            return _decode_sampled(data, header, num_tokens)
        if header.kind == "top_k":
            return _decode_top_k(data, header, num_tokens)
        _check(len(data) == 2 * num_tokens * header.vocab_size, f"{len(data)} bytes")
        return DenseRecord(
            _floats(data, 0, num_tokens * header.vocab_size).reshape(num_tokens, header.vocab_size)
        )
    except (ValueError, IndexError) as error:
        raise DataError(f"not a {header.kind} record of {num_tokens} tokens: {error}") from None


def join(records: Sequence[SignalRecord]) -> SignalRecord:
    """Records of one kind, one after another, as one. Raises ValueError for none and for different kinds."""
    kinds = {type(r) for r in records}
    if len(kinds) != 1:
        raise ValueError(f"records of kinds {sorted(k.__name__ for k in kinds)}, expected one kind")
    if len(records) == 1:
        return records[0]
    kind = kinds.pop()
    columns = {f.name: np.concatenate([getattr(r, f.name) for r in records]) for f in fields(kind)}
    if kind is SampledRecord:
        sizes = np.concatenate(
            [np.diff(r.offsets) for r in records if isinstance(r, SampledRecord)]
        )
        columns["offsets"] = np.concatenate([[0], np.cumsum(sizes)])
    return kind(**columns)


def regroup(chunks: Iterable[SignalRecord], lengths: Sequence[int]) -> Iterator[SignalRecord]:
    """The tokens of `chunks`, cut into records of `lengths` tokens; only what an unfinished record needs is held.

    Raises ValueError if the chunks do not hold just as many tokens. An empty record is of the next token's kind, so
    there must be one token at least.
    """
    chunks = iter(chunks)
    chunk, at = next(chunks, None), 0
    for length in lengths:
        parts: list[SignalRecord] = []
        while chunk is not None and (length > 0 or not parts):
            parts.append(_slice(chunk, at, min(at + length, chunk.num_tokens)))
            at, length = at + parts[-1].num_tokens, length - parts[-1].num_tokens
            if at == chunk.num_tokens and length > 0:
                chunk, at = next(chunks, None), 0
        _check(length == 0 and bool(parts), "fewer tokens than the records have")
        yield join(parts)
    _check(
        chunk is None or (at == chunk.num_tokens and next(chunks, None) is None),
        "more tokens than the records have",
    )


def _slice(record: SignalRecord, start: int, stop: int) -> SignalRecord:
    """Tokens start .. stop-1."""
    if not isinstance(record, SampledRecord):
        return type(record)(*(getattr(record, f.name)[start:stop] for f in fields(record)))
    ids = slice(record.offsets[start], record.offsets[stop])
    return SampledRecord(
        record.ids[ids],
        record.counts[ids],
        record.offsets[start : stop + 1] - record.offsets[start],
        record.realised_logp[start:stop],
        record.entropy[start:stop],
    )


# --- sampled -----------------------------------------------------------------------------------------------------


def _encode_sampled(record: SampledRecord, header: SignalHeader) -> bytes:
    assert header.num_draws is not None
    num_tokens, last = record.num_tokens, record.offsets[1:] - 1
    sizes = record.offsets[1:] - record.offsets[:-1]
    _check(
        len(record.offsets) == num_tokens + 1 and len(record.entropy) == num_tokens,
        "arrays of different lengths",
    )
    _check(
        record.offsets[0] == 0 and record.offsets[-1] == len(record.ids) == len(record.counts),
        "offsets do not fit",
    )
    _check(bool((sizes > 0).all()), "a token without ids")
    steps, low, low_widths, unary = _rice(record.ids, sizes, header.vocab_size)
    sums = np.add.reduceat(record.counts, record.offsets[:-1]) if num_tokens else np.zeros(0)
    _check(bool((sums == header.num_draws).all()), f"not {header.num_draws} draws a token")
    _check(bool((record.counts > 0).all()), "a count below 1")

    is_coded = np.ones(len(record.counts), bool)
    is_coded[last] = False
    coded = record.counts[is_coded]
    lengths = bit_length(coded) - 1
    per_token = (sizes - 1) << 2 | steps
    return b"".join(
        [
            _float16(record.realised_logp),
            _float16(record.entropy),
            pack_fields(per_token, np.full(num_tokens, _size_bits(header) + 2)),
            pack_fields(low, low_widths),
            pack_unary(np.concatenate([unary, lengths])),
            pack_fields(coded, lengths),
        ]
    )


def _decode_sampled(
    data: bytes | memoryview, header: SignalHeader, num_tokens: int
) -> SampledRecord:
    assert header.num_draws is not None
    data = memoryview(data)
    realised_logp, entropy = _floats(data, 0, num_tokens), _floats(data, num_tokens, num_tokens)
    at = 4 * num_tokens
    widths = np.full(num_tokens, _size_bits(header) + 2)
    per_token = unpack_fields(data[at:], widths)
    at += num_bytes(int(widths.sum()))
    sizes = (per_token >> 2) + 1
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    num_ids = int(offsets[-1])

    low_widths = np.repeat(_rice_parameters(sizes, per_token & 3, header.vocab_size), sizes)
    low = unpack_fields(data[at:], low_widths)
    at += num_bytes(int(low_widths.sum()))
    unary, num_unary_bytes = unpack_unary(data[at:], 2 * num_ids - num_tokens)
    at += num_unary_bytes
    ids = _ids_from_gaps(unary[:num_ids] << low_widths | low, offsets, header.vocab_size)

    lengths = unary[num_ids:]
    _check(len(lengths) == 0 or int(lengths.max()) < 16, "a count above every number of draws")
    coded = np.int64(1) << lengths | unpack_fields(data[at:], lengths)
    at += num_bytes(int(lengths.sum()))
    _check(at == len(data), f"{len(data)} bytes, the record ends at {at}")
    counts = np.zeros(num_ids, np.int64)
    is_coded = np.ones(num_ids, bool)
    is_coded[offsets[1:] - 1] = False
    counts[is_coded] = coded
    if num_tokens:
        counts[offsets[1:] - 1] = header.num_draws - np.add.reduceat(counts, offsets[:-1])
    _check(bool((counts > 0).all()), "more draws than there were")
    return SampledRecord(ids, counts.astype(np.int32), offsets, realised_logp, entropy)


def _size_bits(header: SignalHeader) -> int:
    """Bits of (unique ids of a token) - 1."""
    assert header.num_draws is not None
    return (min(header.num_draws, header.vocab_size) - 1).bit_length()


# --- top_k -------------------------------------------------------------------------------------------------------


def _encode_top_k(record: TopKRecord, header: SignalHeader) -> bytes:
    shape = (record.num_tokens, header.top_k)
    _check(record.ids.shape == shape, f"ids are {record.ids.shape}, expected {shape}")
    _check(record.logp.shape == shape, f"logp is {record.logp.shape}, expected {shape}")
    _check(record.tail_logp.shape == shape[:1], f"tail_logp is {record.tail_logp.shape}")
    steps, low, low_widths, unary = _rice(
        record.ids.reshape(-1), np.full(shape[0], header.top_k), header.vocab_size
    )
    return b"".join(
        [
            _float16(record.logp),
            _float16(record.tail_logp),
            pack_fields(steps, np.full(shape[0], 2)),
            pack_fields(low, low_widths),
            pack_unary(unary),
        ]
    )


def _decode_top_k(data: bytes | memoryview, header: SignalHeader, num_tokens: int) -> TopKRecord:
    assert header.top_k is not None
    data = memoryview(data)
    num_ids = num_tokens * header.top_k
    logp, tail_logp = _floats(data, 0, num_ids), _floats(data, num_ids, num_tokens)
    at = 2 * (num_ids + num_tokens)
    steps = unpack_fields(data[at:], np.full(num_tokens, 2))
    at += num_bytes(2 * num_tokens)
    sizes = np.full(num_tokens, header.top_k)
    low_widths = np.repeat(_rice_parameters(sizes, steps, header.vocab_size), sizes)
    low = unpack_fields(data[at:], low_widths)
    at += num_bytes(int(low_widths.sum()))
    unary, num_unary_bytes = unpack_unary(data[at:], num_ids)
    _check(
        at + num_unary_bytes == len(data),
        f"{len(data)} bytes, the record ends at {at + num_unary_bytes}",
    )
    offsets = np.arange(num_tokens + 1) * header.top_k
    ids = _ids_from_gaps(unary << low_widths | low, offsets, header.vocab_size)
    return TopKRecord(
        ids.reshape(num_tokens, header.top_k), logp.reshape(num_tokens, header.top_k), tail_logp
    )


# --- ids: the gaps of ascending ids in Rice code --------------------------------------------------------------------


def _rice(ids: I32, sizes: I64, vocab_size: int) -> tuple[I64, I64, I64, I64]:
    """(step of each token, low part of each gap, its width, the part for the unary code)."""
    starts = np.cumsum(sizes) - sizes
    gaps = ids.astype(np.int64)
    gaps[1:] -= ids[:-1] + 1
    gaps[starts] = ids[starts]  # the first id of a token counts from zero
    _check(bool((gaps >= 0).all()), "ids not ascending")
    _check(int(ids.max(initial=0)) < vocab_size, f"an id that is not below {vocab_size}")
    if len(ids) == 0:
        return sizes, gaps, gaps, gaps
    parameters_4T = _rice_table(vocab_size, int(sizes.max()))[:, sizes]
    widths_4U = np.repeat(parameters_4T, sizes, axis=1)
    costs_4T = np.add.reduceat(gaps >> widths_4U, starts, axis=1) + sizes * parameters_4T
    steps = costs_4T.argmin(0)
    widths = widths_4U[np.repeat(steps, sizes), np.arange(len(ids))]
    return steps, gaps, widths, gaps >> widths


def _rice_parameters(sizes: I64, steps: I64, vocab_size: int) -> I64:
    return _rice_table(vocab_size, int(sizes.max(initial=1)))[steps, sizes]


@functools.lru_cache(maxsize=64)
def _rice_table(vocab_size: int, most: int) -> I64:
    """[step, number of ids 0 .. most]: log2 of the mean gap of that many ids that may be anywhere, times ln 2, rounded
    up; less the step."""
    num_ids = np.maximum(np.arange(most + 1), 1)
    best = bit_length(np.maximum(vocab_size * 0.6931 / num_ids, 1).astype(np.int64))
    return np.maximum(best - RICE_STEPS[:, None], 0)


def _ids_from_gaps(gaps: I64, offsets: I64, vocab_size: int) -> I32:
    running = np.cumsum(gaps + 1)
    before = np.concatenate([[0], running])[offsets[:-1]]
    ids = running - np.repeat(before, np.diff(offsets)) - 1
    _check(int(ids.max(initial=0)) < vocab_size, "an id that is not below vocab_size")
    return ids.astype(np.int32)


# --- floats -------------------------------------------------------------------------------------------------------


def _float16(values: NDArray[np.floating]) -> bytes:
    with np.errstate(over="ignore"):
        return values.astype("<f2").tobytes()


def _floats(data: bytes | memoryview, start: int, count: int) -> F32:
    """`count` float16 values, from the `start`-th value on."""
    return np.frombuffer(data, "<f2", count, 2 * start).astype(np.float32)


def _check(fits: bool, problem: str) -> None:
    if not fits:
        raise ValueError(problem)
