"""The four kinds of record, one for each sequence, and their bytes.

    sampled   target log-prob, entropy: float16 [T] each
              per token: ids - 1 (bit length of num_draws), Rice parameter (2 bits)
              ids: gaps in Rice code, first all low parts, then all unary parts
              counts, but for a token's last one, which the draws still missing make up:
              Elias gamma code, first all bit lengths in unary (in one string with the
              ids'), then all low parts
              with draw_log_probs also: log-probs [U], tail log-prob [T]: float16
    top_k     log-probs [T, K], tail log-prob [T]: float16; Rice parameters and ids as above
    dense     log-probs [T, V]: float16
    chunks    log-prob of the token, log-prob of a boundary before it: float16 [T] each

These are the teacher's soft targets. A part ends on a whole byte; its length follows from the parts
before it, so none is stored. Ids of 50 draws at V = 151,936 cost 2 % more than
log2 C(V, unique ids), the least for ids that may be anywhere; in Elias-Fano code 13 %.

T: answer tokens, U: unique (token, id) pairs of the sequence, K: ids kept for a token, V: shared
ids.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from distill.errors import DataError
from distill.signals import rice
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


@dataclass(frozen=True, eq=False)
class SampledRecord:
    """Draws from the teacher's distribution.

    ids: int32 [U]; those of token t are ids[offsets[t] : offsets[t + 1]], ascending.
    counts: int32 [U], how often each was drawn; offsets: int64 [T + 1].
    target_logp: float32 [T], of the token that the answer has; entropy: float32 [T], in nats.
    """

    ids: I32
    counts: I32
    offsets: I64
    target_logp: F32
    entropy: F32

    @property
    def num_tokens(self) -> int:
        return len(self.target_logp)


@dataclass(frozen=True, eq=False)
class ScoredDraws(SampledRecord):
    """Draws with their log-probs.

    logp: float32 [U], of each id drawn. tail_logp: float32 [T], of all ids that were neither drawn
    nor are the answer's own token.
    """

    logp: F32
    tail_logp: F32


@dataclass(frozen=True, eq=False)
class TopKRecord:
    """The likeliest ids: int32 [T, K], ascending.

    logp: float32 [T, K]; tail_logp: float32 [T], of all other ids.
    """

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


@dataclass(frozen=True, eq=False)
class LikelihoodRecord:
    """What the teacher says of its own tokens of an answer; NaN where a server did not tell.

    logp: float32 [T], of each token; of one that ends the answer, of any that does. boundary_logp:
    float32 [T], of a token in its place that begins a word, or ends the answer.
    """

    logp: F32
    boundary_logp: F32

    @property
    def num_tokens(self) -> int:
        return len(self.logp)


SignalRecord = SampledRecord | TopKRecord | DenseRecord | LikelihoodRecord


def encode(record: SignalRecord, header: SignalHeader) -> bytes:
    """Return the record's bytes; floats are rounded to float16, below -65,504 to -inf.

    Raises ValueError for a record that does not fit the header.
    """
    is_scored = isinstance(record, ScoredDraws)
    if isinstance(record, SampledRecord) and header.kind == "sampled":
        _check(is_scored == header.draw_log_probs, f"{type(record).__name__}: log-probs or none")
        return _encode_sampled(record, header)
    if isinstance(record, TopKRecord) and header.kind == "top_k":
        return _encode_top_k(record, header)
    if isinstance(record, DenseRecord) and header.kind == "dense":
        num_ids = record.logp.shape[1]
        _check(num_ids == header.vocab_size, f"{num_ids} ids, expected {header.vocab_size}")
        return _float16(record.logp)
    if isinstance(record, LikelihoodRecord) and header.kind == "chunks":
        _check(len(record.boundary_logp) == record.num_tokens, "arrays of different lengths")
        return _float16(record.logp) + _float16(record.boundary_logp)
    raise ValueError(
        f"a {type(record).__name__} does not belong under a header of kind {header.kind}"
    )


def decode(data: bytes | memoryview, header: SignalHeader, num_tokens: int) -> SignalRecord:
    """Do the inverse of `encode`.

    Raises DataError if the bytes are not a record of `num_tokens` tokens.
    """
    try:
        if header.kind == "sampled":
            return _decode_sampled(data, header, num_tokens)
        if header.kind == "top_k":
            return _decode_top_k(data, header, num_tokens)
        if header.kind == "chunks":
            reader = _Reader(data)
            likelihoods = LikelihoodRecord(reader.floats(num_tokens), reader.floats(num_tokens))
            reader.finish()
            return likelihoods
        num_values = num_tokens * header.vocab_size
        _check(len(data) == 2 * num_values, f"{len(data)} bytes")
        logp = _Reader(data).floats(num_values)
        return DenseRecord(logp.reshape(num_tokens, header.vocab_size))
    except (ValueError, IndexError) as error:
        raise DataError(f"not a {header.kind} record of {num_tokens} tokens: {error}") from None


def join(records: Sequence[SignalRecord]) -> SignalRecord:
    """Return records of one kind, one after another, as one.

    Raises ValueError for none and for different kinds.
    """
    kinds = {type(record) for record in records}
    if len(kinds) != 1:
        names = sorted(kind.__name__ for kind in kinds)
        raise ValueError(f"records of kinds {names}, expected one kind")
    if len(records) == 1:
        return records[0]
    kind = kinds.pop()
    columns = {f.name: np.concatenate([getattr(r, f.name) for r in records]) for f in fields(kind)}
    if issubclass(kind, SampledRecord):
        sizes = [np.diff(record.offsets) for record in records if isinstance(record, SampledRecord)]
        columns["offsets"] = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return kind(**columns)


def regroup(chunks: Iterable[SignalRecord], lengths: Sequence[int]) -> Iterator[SignalRecord]:
    """Cut the tokens of `chunks` into records of `lengths` tokens.

    Only what an unfinished record needs is held. Raises ValueError if the chunks do not hold just
    as many tokens. An empty record is of the next token's kind, so there must be one token at
    least.
    """
    chunks = iter(chunks)
    chunk = next(chunks, None)
    start = 0  # of the chunk's tokens that are left
    for length in lengths:
        parts: list[SignalRecord] = []
        while chunk is not None and (length > 0 or not parts):
            part = _slice(chunk, start, min(start + length, chunk.num_tokens))
            parts.append(part)
            start += part.num_tokens
            length -= part.num_tokens
            if start == chunk.num_tokens and length > 0:
                chunk = next(chunks, None)
                start = 0
        _check(length == 0 and bool(parts), "fewer tokens than the records have")
        yield join(parts)
    is_used_up = chunk is None or start == chunk.num_tokens
    _check(is_used_up and next(chunks, None) is None, "more tokens than the records have")


def _slice(record: SignalRecord, start: int, stop: int) -> SignalRecord:
    """Return tokens start .. stop-1."""
    if not isinstance(record, SampledRecord):
        return type(record)(*(getattr(record, f.name)[start:stop] for f in fields(record)))
    ids, tokens = slice(record.offsets[start], record.offsets[stop]), slice(start, stop)
    draws = (
        record.ids[ids],
        record.counts[ids],
        record.offsets[start : stop + 1] - record.offsets[start],
        record.target_logp[tokens],
        record.entropy[tokens],
    )
    if isinstance(record, ScoredDraws):
        return ScoredDraws(*draws, record.logp[ids], record.tail_logp[tokens])
    return SampledRecord(*draws)


def _encode_sampled(record: SampledRecord, header: SignalHeader) -> bytes:
    assert header.num_draws is not None
    _check_sampled(record, header.num_draws)
    sizes = np.diff(record.offsets)
    gaps = rice.gaps_of(record.ids, sizes, header.vocab_size)
    is_coded = _has_coded_count(record.offsets)
    coded_counts = record.counts[is_coded]
    count_lengths = bit_length(coded_counts) - 1
    per_token = (sizes - 1) << 2 | gaps.steps
    parts = [
        _float16(record.target_logp),
        _float16(record.entropy),
        pack_fields(per_token, _per_token_widths(header, record.num_tokens)),
        pack_fields(gaps.low, gaps.low_widths),
        pack_unary(np.concatenate([gaps.unary, count_lengths])),
        pack_fields(coded_counts, count_lengths),
    ]
    if isinstance(record, ScoredDraws):
        parts += [_float16(record.logp), _float16(record.tail_logp)]
    return b"".join(parts)


def _check_sampled(record: SampledRecord, num_draws: int) -> None:
    offsets = record.offsets
    num_tokens = record.num_tokens
    has_all_tokens = len(offsets) == num_tokens + 1 and len(record.entropy) == num_tokens
    _check(has_all_tokens, "arrays of different lengths")
    has_all_ids = offsets[-1] == len(record.ids) == len(record.counts)
    _check(offsets[0] == 0 and has_all_ids, "offsets do not fit")
    _check(bool((offsets[1:] > offsets[:-1]).all()), "a token without ids")
    sums = np.add.reduceat(record.counts, offsets[:-1]) if num_tokens else np.zeros(0)
    _check(bool((sums == num_draws).all()), f"not {num_draws} draws a token")
    _check(bool((record.counts > 0).all()), "a count below 1")
    if isinstance(record, ScoredDraws):
        has_all = len(record.logp) == len(record.ids) and len(record.tail_logp) == num_tokens
        _check(has_all, "log-probs do not fit the draws")


def _decode_sampled(
    data: bytes | memoryview, header: SignalHeader, num_tokens: int
) -> SampledRecord:
    assert header.num_draws is not None
    reader = _Reader(data)
    target_logp = reader.floats(num_tokens)
    entropy = reader.floats(num_tokens)
    per_token = reader.fields(_per_token_widths(header, num_tokens))
    sizes = (per_token >> 2) + 1
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    num_ids = int(offsets[-1])

    low_widths = rice.low_widths(per_token & 3, sizes, header.vocab_size)
    low = reader.fields(low_widths)
    unary = reader.unary(2 * num_ids - num_tokens)
    ids = rice.ids_of(unary[:num_ids] << low_widths | low, offsets, header.vocab_size)

    count_lengths = unary[num_ids:]
    has_possible_counts = len(count_lengths) == 0 or int(count_lengths.max()) < 16
    _check(has_possible_counts, "a count above every number of draws")
    coded_counts = np.int64(1) << count_lengths | reader.fields(count_lengths)
    log_probs = []
    if header.draw_log_probs:
        log_probs = [reader.floats(num_ids), reader.floats(num_tokens)]
    reader.finish()
    counts = np.zeros(num_ids, np.int64)
    counts[_has_coded_count(offsets)] = coded_counts
    if num_tokens:
        counts[offsets[1:] - 1] = header.num_draws - np.add.reduceat(counts, offsets[:-1])
    _check(bool((counts > 0).all()), "more draws than there were")
    draws = (ids, counts.astype(np.int32), offsets, target_logp, entropy)
    return ScoredDraws(*draws, *log_probs) if log_probs else SampledRecord(*draws)


def _has_coded_count(offsets: I64) -> NDArray[np.bool_]:
    """Return whether each id's count is stored [U]: not that of a token's last id."""
    is_coded = np.ones(int(offsets[-1]), bool)
    is_coded[offsets[1:] - 1] = False
    return is_coded


def _per_token_widths(header: SignalHeader, num_tokens: int) -> I64:
    """Return the bits of (unique ids of a token) - 1 and of its Rice step, for each token."""
    assert header.num_draws is not None
    size_bits = (min(header.num_draws, header.vocab_size) - 1).bit_length()
    return np.full(num_tokens, size_bits + 2)


def _encode_top_k(record: TopKRecord, header: SignalHeader) -> bytes:
    num_tokens = record.num_tokens
    shape = (num_tokens, header.top_k)
    _check(record.ids.shape == shape, f"ids are {record.ids.shape}, expected {shape}")
    _check(record.logp.shape == shape, f"logp is {record.logp.shape}, expected {shape}")
    _check(record.tail_logp.shape == shape[:1], f"tail_logp is {record.tail_logp.shape}")
    sizes = np.full(num_tokens, header.top_k)
    gaps = rice.gaps_of(record.ids.reshape(-1), sizes, header.vocab_size)
    parts = [
        _float16(record.logp),
        _float16(record.tail_logp),
        pack_fields(gaps.steps, np.full(num_tokens, 2)),
        pack_fields(gaps.low, gaps.low_widths),
        pack_unary(gaps.unary),
    ]
    return b"".join(parts)


def _decode_top_k(data: bytes | memoryview, header: SignalHeader, num_tokens: int) -> TopKRecord:
    assert header.top_k is not None
    shape = (num_tokens, header.top_k)
    num_ids = num_tokens * header.top_k
    reader = _Reader(data)
    logp = reader.floats(num_ids)
    tail_logp = reader.floats(num_tokens)
    steps = reader.fields(np.full(num_tokens, 2))
    sizes = np.full(num_tokens, header.top_k)
    low_widths = rice.low_widths(steps, sizes, header.vocab_size)
    low = reader.fields(low_widths)
    unary = reader.unary(num_ids)
    reader.finish()
    offsets = np.arange(num_tokens + 1) * header.top_k
    ids = rice.ids_of(unary << low_widths | low, offsets, header.vocab_size)
    return TopKRecord(ids.reshape(shape), logp.reshape(shape), tail_logp)


class _Reader:
    """Reads the parts of a record one after another.

    Each method raises ValueError if bytes are missing.
    """

    def __init__(self, data: bytes | memoryview):
        self._data = memoryview(data)
        self._start = 0

    def floats(self, count: int) -> F32:
        values = np.frombuffer(self._data, "<f2", count, self._start).astype(np.float32)
        self._start += 2 * count
        return values

    def fields(self, widths: I64) -> I64:
        values = unpack_fields(self._data[self._start :], widths)
        self._start += num_bytes(int(widths.sum()))
        return values

    def unary(self, count: int) -> I64:
        values, size = unpack_unary(self._data[self._start :], count)
        self._start += size
        return values

    def finish(self) -> None:
        """Raise ValueError if there are bytes after the last part."""
        num_read = self._start
        _check(
            num_read == len(self._data), f"{len(self._data)} bytes, the record ends at {num_read}"
        )


def _float16(values: NDArray[np.floating]) -> bytes:
    with np.errstate(over="ignore"):
        return values.astype("<f2").tobytes()


def _check(fits: bool, problem: str) -> None:
    if not fits:
        raise ValueError(problem)
