"""Log-probs that a server gave with its answers (`capture.from_server`), as a top-k record.

They travel in the raw log, beside the answer that they belong to: one line, whole or absent. `capture` only moves them.
"""

import base64
import math
from collections.abc import Mapping, Sequence

import numpy as np

from distill.signals.encoding import SignalRecord, TopKRecord, decode, encode
from distill.signals.header import SignalHeader

SMALLEST_TAIL = 2.0**-23  # what k float32 log-probs leave of 1 is known to about that


def packed(log_probs: Sequence[Mapping[int, float] | None], k: int, vocab_size: int) -> str:
    """Base64 of the encoded record."""
    return base64.b64encode(
        encode(record_of(log_probs, k, vocab_size), _header(k, vocab_size))
    ).decode()


def unpacked(text: str, num_tokens: int, k: int, vocab_size: int) -> TopKRecord:
    """The inverse of `packed`. Raises DataError for what is not such a record of `num_tokens` tokens."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    return decode(data, _header(k, vocab_size), num_tokens)  # type: ignore[return-value] # top_k gives that kind


def record_of(
    log_probs: Sequence[Mapping[int, float] | None], k: int, vocab_size: int
) -> TopKRecord:
    """The k likeliest of each token's ids (float log-probs at T = 1), and the mass of all others.

    Ids from `vocab_size` on (a padded head) count in neither. A token without log-probs (None) has no mass anywhere,
    tail included: `collate` gives it no soft loss. What a token has less than k ids is filled with ids of mass 0.
    """
    num = len(log_probs)
    ids_TK, logp_TK = np.zeros((num, k), np.int32), np.full((num, k), -np.inf, np.float32)
    tail_T = np.full(num, -np.inf, np.float32)
    for t, row in enumerate(log_probs):
        given = {} if row is None else {i: value for i, value in row.items() if i < vocab_size}
        likeliest = sorted(given.items(), key=lambda item: -item[1])[:k]
        chosen = dict(likeliest)
        filler = (i for i in range(vocab_size) if i not in chosen)
        while len(chosen) < k:
            chosen[next(filler)] = -math.inf
        ids_TK[t] = sorted(chosen)
        logp_TK[t] = [chosen[i] for i in sorted(chosen)]
        if row is not None:
            padding = sum(math.exp(value) for i, value in row.items() if i >= vocab_size)
            rest = 1 - padding - sum(math.exp(value) for _, value in likeliest)
            tail_T[t] = math.log(max(rest, SMALLEST_TAIL))
    return TopKRecord(ids_TK, logp_TK, tail_T)


def num_unknown(record: SignalRecord) -> int:
    """Tokens of which the server told nothing."""
    return int(np.isneginf(record.tail_logp).sum()) if isinstance(record, TopKRecord) else 0


def _header(k: int, vocab_size: int) -> SignalHeader:
    return SignalHeader(kind="top_k", vocab_size=vocab_size, top_k=k, fingerprints={})
