"""Records to test with: arbitrary ones that fit a header, and those of a realistic teacher."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from distill.signals import draws
from distill.signals.columns import Columns
from distill.signals.encoding import (
    DenseRecord,
    LikelihoodRecord,
    SampledRecord,
    ScoredDraws,
    SignalRecord,
    TopKRecord,
    join,
)
from distill.signals.header import SignalHeader

QWEN_VOCAB = 151_936


@pytest.fixture
def header() -> SignalHeader:
    names = ("teacher", "teacher_dtype", "teacher_quantization", "tokenizer", "chat_template")
    return SignalHeader(
        "sampled",
        vocab_size=1000,
        num_draws=50,
        fingerprints={name: f"{name} one" for name in names},
    )


@pytest.fixture
def record_of() -> Callable[..., Any]:
    """record_of(header, num_tokens, seed): any ids and counts, floats that are exact in float16."""
    return _record_of


@pytest.fixture(scope="session")
def real_like_record() -> SampledRecord:
    """256 tokens of a Zipf-like teacher, V = 151,936, 50 draws; ids anywhere, which is dearest."""
    generator = torch.Generator().manual_seed(5)
    slopes_N = torch.empty(32).uniform_(1.22, 2.3, generator=generator)
    logits_NV = -slopes_N[:, None] * torch.arange(1.0, QWEN_VOCAB + 1).log()
    logits_NV[:, 0] += torch.empty(32).exponential_(generator=generator)
    logits_NV = logits_NV[:, torch.randperm(QWEN_VOCAB, generator=generator)]
    target_N = torch.zeros(32, dtype=torch.long)
    rows = [draws.Rows.of(seed, 32) for seed in range(8)]
    parts = [
        draws.draw(logits_NV, target_N, r, num_draws=50, columns=Columns(QWEN_VOCAB)) for r in rows
    ]
    record = join(parts)
    assert isinstance(record, SampledRecord)
    return record


def _record_of(header: SignalHeader, num_tokens: int, seed: int) -> SignalRecord:
    rng = np.random.default_rng(seed)
    if header.kind == "dense":
        return DenseRecord(_halves(rng, (num_tokens, header.vocab_size)))
    if header.kind == "chunks":
        return LikelihoodRecord(_halves(rng, (num_tokens,)), _halves(rng, (num_tokens,)))
    if header.top_k is not None:
        ids = [_ids(rng, header.vocab_size, header.top_k) for _ in range(num_tokens)]
        shape = (num_tokens, header.top_k)
        return TopKRecord(
            np.array(ids, np.int32).reshape(shape), _halves(rng, shape), _halves(rng, (num_tokens,))
        )
    num_draws = header.num_draws
    assert num_draws is not None
    sizes = rng.integers(1, min(num_draws, header.vocab_size) + 1, num_tokens)
    ids = [_ids(rng, header.vocab_size, size) for size in sizes]
    counts = [
        1 + rng.multinomial(num_draws - size, rng.dirichlet(np.full(size, 0.3))) for size in sizes
    ]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    empty = np.zeros(0, np.int32)
    draws = (
        np.concatenate([empty, *ids]).astype(np.int32),
        np.concatenate([empty, *counts]).astype(np.int32),
        offsets,
        _halves(rng, (num_tokens,)),
        np.abs(_halves(rng, (num_tokens,))),
    )
    if not header.draw_log_probs:
        return SampledRecord(*draws)
    return ScoredDraws(*draws, _halves(rng, (int(offsets[-1]),)), _halves(rng, (num_tokens,)))


def _ids(rng: np.random.Generator, vocab_size: int, size: int) -> np.ndarray:
    """Ascending ids: spread over everything, or crowded at the low or the high end."""
    if size * 4 < vocab_size and (crowd := rng.integers(3)):
        ids = rng.choice(size * 4, size, replace=False)
        return np.sort(ids if crowd == 1 else vocab_size - 1 - ids)
    return np.sort(rng.choice(vocab_size, size, replace=False))


def _halves(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return -np.abs(rng.normal(0, 4, shape)).astype(np.float16).astype(np.float32)
