"""Log-probs that a server gave with its answers (`capture.from_server`), as a top-k record.

They travel in the raw log, beside the answer that they belong to: one line, whole or absent.
`capture` only moves them.

T: answer tokens, K: ids kept for a token.
"""

import base64
import math
from collections.abc import Mapping, Sequence

import numpy as np

from distill.signals.encoding import SignalRecord, TopKRecord, decode, encode
from distill.signals.header import SignalHeader

SMALLEST_TAIL = 2.0**-23  # what k float32 log-probs leave of 1 is known to about that

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


def num_unknown(record: SignalRecord) -> int:
    """Return the number of tokens of which the server told nothing."""
    return int(np.isneginf(record.tail_logp).sum()) if isinstance(record, TopKRecord) else 0


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
