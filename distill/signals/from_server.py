"""Log-probs that a server gave with its answers (`capture.from_server`), as a top-k record.

They travel in the raw log, beside the answer that they belong to: one line, whole or absent.
`capture` only moves them.

T: answer tokens, K: ids kept for a token.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from distill.errors import DataError
from distill.signals.encoding import (
    LikelihoodRecord,
    SignalRecord,
    TopKRecord,
    decode,
    encode,
)
from distill.signals.header import SignalHeader

SMALLEST_TAIL = 2.0**-23  # what k float32 log-probs leave of 1 is known to about that
# of a log-prob above 0 and of a mass above 1: servers may reckon in 16 bits
ROUNDING = 0.01
LEAST_HEAD = 1024  # ids that a model has at least, padding of its vocabulary among them
TINY = 1e-30  # a mass that no likely ids have
LARGEST_REST = 0.05  # mass beyond the likeliest ids, of which it is not known whether a word begins
LEAST_LOGP = -30.0  # of a boundary that none of the likeliest is

LogProbs = Mapping[int, float]  # by token id, at T = 1


def packed(log_probs: Sequence[LogProbs | None], k: int, vocab_size: int) -> str:
    """Return the encoded record in base64."""
    data = encode(record_of(log_probs, k, vocab_size), _header(k, vocab_size))
    return base64.b64encode(data).decode()


def unpacked(text: str, num_tokens: int, k: int, vocab_size: int) -> TopKRecord:
    """Do the inverse of `packed`.

    Raises DataError for what is not such a record of `num_tokens` tokens.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    record = decode(data, _header(k, vocab_size), num_tokens)
    assert isinstance(record, TopKRecord)  # the header's kind
    return record


def record_of(log_probs: Sequence[LogProbs | None], k: int, vocab_size: int) -> TopKRecord:
    """Return the k likeliest of each token's ids, and the mass of all others.

    Ids from `vocab_size` on (a padded head) count in neither. A token without log-probs (None) has
    no mass anywhere, tail included: `collate` gives it no soft loss. What a token has less than k
    ids is filled with ids of mass 0.
    """
    num_tokens = len(log_probs)
    ids_TK = np.zeros((num_tokens, k), np.int32)
    logp_TK = np.full((num_tokens, k), -np.inf, np.float32)
    tail_T = np.full(num_tokens, -np.inf, np.float32)
    for t, given in enumerate(log_probs):
        likeliest = _likeliest({} if given is None else given, k, vocab_size)
        chosen = _filled_up(likeliest, k, vocab_size)
        ids_TK[t] = sorted(chosen)
        logp_TK[t] = [chosen[i] for i in sorted(chosen)]
        if given is not None:
            padding = sum(math.exp(logp) for i, logp in given.items() if i >= vocab_size)
            tail = 1 - padding - sum(math.exp(logp) for logp in likeliest.values())
            tail_T[t] = math.log(max(tail, SMALLEST_TAIL))
    return TopKRecord(ids_TK, logp_TK, tail_T)


def packed_own(log_probs: Sequence[LogProbs | None], token_ids: Sequence[int]) -> str:
    """Return the log-prob of each token of an answer, float16 in base64; NaN where it was not told."""
    told = [
        math.nan if given is None else given.get(token, math.nan)
        for given, token in zip(log_probs, token_ids, strict=True)
    ]
    return base64.b64encode(np.minimum(told, 0).astype("<f2").tobytes()).decode()


def likelihoods_of(
    record: TopKRecord,
    own_T: NDArray[np.floating] | None,
    answer_ids: Sequence[int],
    boundary_ids: Sequence[int],
    end_ids: Sequence[int],
) -> LikelihoodRecord:
    """Return what the likeliest ids tell of an answer's tokens, and of a boundary before each.

    own_T: the tokens' own log-probs; None (an earlier version's log): a token's is known where it is
    among the likeliest. A boundary's is known where they leave at most LARGEST_REST, which is taken to
    be shared as they are.
    """
    ids_T = np.asarray(answer_ids)
    mass_TK = np.exp(record.logp.astype(np.float64))
    is_told_T = ~np.isneginf(record.tail_logp)
    with np.errstate(divide="ignore", invalid="ignore"):
        listed_T = np.log((mass_TK * (record.ids == ids_T[:, None])).sum(1))
        end_T = np.log((mass_TK * np.isin(record.ids, end_ids)).sum(1))
        boundary_T = np.log((mass_TK * np.isin(record.ids, boundary_ids)).sum(1) / mass_TK.sum(1))
    logp_T = np.where(np.isneginf(listed_T), np.nan, listed_T)
    if own_T is not None:
        logp_T = np.where(np.isnan(own_T), logp_T, own_T)
    is_end_T = np.isin(ids_T, end_ids) & ~np.isneginf(end_T)
    logp_T = np.where(is_end_T, end_T, logp_T)
    knows_boundary_T = is_told_T & (np.exp(record.tail_logp) <= LARGEST_REST)
    boundary_T = np.maximum(boundary_T, LEAST_LOGP)
    return LikelihoodRecord(
        np.minimum(np.where(is_told_T, logp_T, np.nan), 0).astype(np.float32),
        np.where(knows_boundary_T, boundary_T, np.nan).astype(np.float32),
    )


def unpacked_own(text: str, num_tokens: int) -> NDArray[np.floating]:
    """Do the inverse of `packed_own`. Raises DataError for what it did not make of `num_tokens` tokens."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), "<f2")
    except ValueError:
        values = np.zeros(0)
    if len(values) != num_tokens or (values > 0).any():
        raise DataError(f"not the log-probs of {num_tokens} tokens")
    return values.astype(np.float64)


def unknown_record(num_tokens: int, k: int, vocab_size: int) -> TopKRecord:
    """Return the record of an answer of which nothing is known: it gets no soft loss."""
    return record_of([None] * num_tokens, k, vocab_size)


def num_unknown(record: SignalRecord) -> int:
    """Return the number of tokens of which the server told nothing."""
    if isinstance(record, LikelihoodRecord):
        return int(np.isnan(record.logp).sum())
    return int(np.isneginf(record.tail_logp).sum()) if isinstance(record, TopKRecord) else 0


def problem_of(log_probs: Iterable[LogProbs | None], vocab_size: int) -> str | None:
    """Return what shows that these are not log-probs of the likeliest ids; None if nothing does.

    Each is a number or -inf, none is above 0, a token's mass is at most 1, beyond rounding. And it
    is not too small: of the ids of a model the k likeliest have k shares of 1 at least. A model may
    have as many ids again as `vocab_size` (a padded head).
    """
    rows = [row for row in log_probs if row is not None]
    if not rows:
        return None
    if not all(rows):
        return "a token without any"
    num_ids = vocab_size + max(vocab_size, LEAST_HEAD)
    lowest, highest = min(map(min, rows)), max(map(max, rows))
    if lowest < 0 or highest >= num_ids:
        wrong = lowest if lowest < 0 else highest
        return f"of id {_short(wrong)}, where the vocabulary has {vocab_size:,} ids"
    sizes = np.array([len(row) for row in rows])
    values = np.fromiter(chain.from_iterable(row.values() for row in rows), float, sizes.sum())
    # one of them may be there only because it was drawn
    least_T = np.maximum(sizes - 1, 0.5) / num_ids
    return _problem_of_values(values, sizes, least_T)


def _short(number: int) -> str:
    """Return a number for people, also where it has ten thousand digits."""
    return str(number) if abs(number) < 10**12 else "beyond 10^12"


def _problem_of_values(
    values: NDArray[np.floating], sizes: NDArray[np.integer], least_T: NDArray[np.floating]
) -> str | None:
    """Return the same of the values [N] alone; `sizes` [T] says how many each token has."""
    if np.isnan(values).any():
        return "NaN"
    if values.max() > ROUNDING:
        return f"{values.max():.4g}, and a log-prob is never above 0 (raw logits?)"
    starts = np.cumsum(sizes) - sizes
    mass_T = np.add.reduceat(np.exp(values), starts)
    if mass_T.max() > 1 + ROUNDING:
        return f"with a mass of {mass_T.max():.4g} at one token, and it is never above 1"
    if (mass_T < least_T).any():
        return (
            f"with a mass of {mass_T.min():.2g} at one token, and the likeliest {sizes.max()} ids "
            "have more"
        )
    return None


def problem_of_record(record: TopKRecord, vocab_size: int) -> str | None:
    """Return what `problem_of` does of a record that was stored, in 16 bits, before it was known.

    Ids beyond the shared ones are not in it, so that its mass may be small.
    """
    is_known = ~np.isneginf(record.tail_logp)
    logp_TK = record.logp[is_known]
    if not len(logp_TK):
        return None
    if record.ids.min() < 0 or record.ids.max() >= vocab_size:
        return f"of ids that the vocabulary of {vocab_size:,} does not have"
    num_tokens, k = logp_TK.shape
    return _problem_of_values(
        logp_TK.reshape(-1), np.full(num_tokens, k), np.full(num_tokens, TINY)
    )


def _likeliest(given: LogProbs, k: int, vocab_size: int) -> dict[int, float]:
    shared = [(i, logp) for i, logp in given.items() if i < vocab_size]
    return dict(sorted(shared, key=lambda entry: -entry[1])[:k])


def _filled_up(likeliest: LogProbs, k: int, vocab_size: int) -> dict[int, float]:
    """Add the first other ids, with mass 0, until there are k."""
    others = (i for i in range(vocab_size) if i not in likeliest)
    fillers = {next(others): -math.inf for _ in range(k - len(likeliest))}
    return {**likeliest, **fillers}


def _header(k: int, vocab_size: int) -> SignalHeader:
    return SignalHeader(kind="top_k", vocab_size=vocab_size, top_k=k, fingerprints={})
