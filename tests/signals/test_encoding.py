"""Every record comes back as it was, in few bytes; bytes that are no record are refused."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from distill.errors import DataError
from distill.signals.encoding import (
    DenseRecord,
    SampledRecord,
    TopKRecord,
    decode,
    encode,
    join,
    regroup,
)
from distill.signals.header import SignalHeader


def same(a, b) -> bool:
    return type(a) is type(b) and all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name))
        and getattr(a, f.name).dtype == getattr(b, f.name).dtype
        for f in fields(a)
    )


def back(record: Any, header: SignalHeader) -> Any:
    """The record after a round trip."""
    return decode(encode(record, header), header, record.num_tokens)


def one_token(ids, counts) -> SampledRecord:
    floats = np.full(1, -0.5, np.float32)
    return SampledRecord(
        np.array(ids, np.int32),
        np.array(counts, np.int32),
        np.array([0, len(ids)]),
        floats,
        -floats,
    )


SCORED = SignalHeader("sampled", 1000, num_draws=50, draw_log_probs=True)
every_header = pytest.mark.parametrize(
    "header",
    [
        SignalHeader("sampled", 1000, num_draws=50),
        SCORED,
        SignalHeader("top_k", 1000, top_k=8),
        SignalHeader("dense", 1000),
        SignalHeader("chunks", 1000),
    ],
    ids=["sampled", "scored", "top_k", "dense", "chunks"],
)


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 64, 1000, 151_936, 1 << 20])
@pytest.mark.parametrize("num_draws", [1, 2, 50, 1000, 65_535])
def test_sampled_records_come_back_as_they_were(record_of, vocab_size, num_draws):
    header = SignalHeader("sampled", vocab_size, num_draws=num_draws)
    for num_tokens in (0, 2) if num_draws > 1000 else (0, 1, 2, 7, 65):
        record = record_of(header, num_tokens, seed=num_tokens)
        assert same(back(record, header), record)


@pytest.mark.parametrize(
    ("vocab_size", "k"), [(1, 1), (2, 2), (5, 3), (1000, 1), (151_936, 64), (1 << 20, 1024)]
)
def test_top_k_records_come_back_as_they_were(record_of, vocab_size, k):
    header = SignalHeader("top_k", vocab_size, top_k=k)
    for num_tokens in (0, 1, 9):
        record = record_of(header, num_tokens, seed=3)
        assert same(back(record, header), record)


def test_dense_records_come_back_as_they_were_and_keep_minus_infinity(record_of):
    header = SignalHeader("dense", 37)
    for num_tokens in (0, 1, 9):
        record = record_of(header, num_tokens, seed=3)
        record.logp[:, 5] = -np.inf
        assert same(back(record, header), record)
    beyond_float16 = DenseRecord(np.full((1, 37), -1e6, np.float32))
    assert np.isneginf(back(beyond_float16, header).logp).all()


def test_likelihoods_come_back_as_they_were_in_four_bytes_a_token_and_keep_what_is_not_known(
    record_of,
):
    header = SignalHeader("chunks", 151_936)
    for num_tokens in (0, 1, 65):
        record = record_of(header, num_tokens, seed=3)
        assert same(back(record, header), record)
        assert len(encode(record, header)) == 4 * num_tokens
    record.logp[5] = record.boundary_logp[7] = np.nan
    found = back(record, header)
    assert np.flatnonzero(np.isnan(found.logp)).tolist() == [5]
    assert np.flatnonzero(np.isnan(found.boundary_logp)).tolist() == [7]


def test_ids_above_17_bits_survive():
    header = SignalHeader("sampled", 1 << 20, num_draws=50)
    ids = [0, 1, (1 << 17) - 1, 1 << 17, 151_935, (1 << 20) - 2, (1 << 20) - 1]
    record = one_token(ids, [1, 2, 3, 4, 5, 6, 29])
    assert same(back(record, header), record)


def test_counts_sum_to_the_draws_after_decoding(real_like_record):
    header = SignalHeader("sampled", 151_936, num_draws=50)
    record = back(real_like_record, header)
    assert (np.add.reduceat(record.counts, record.offsets[:-1]) == 50).all()


def test_floats_are_rounded_to_float16_and_no_further(real_like_record):
    header = SignalHeader("sampled", 151_936, num_draws=50)
    record = back(real_like_record, header)
    np.testing.assert_allclose(record.entropy, real_like_record.entropy, rtol=2**-11)
    np.testing.assert_allclose(record.target_logp, real_like_record.target_logp, rtol=2**-11)


def test_a_realistic_token_costs_less_than_36_bytes_near_the_bound(real_like_record):
    record, num_tokens = real_like_record, real_like_record.num_tokens
    assert (
        1.5 < record.entropy.mean() < 2.5 and 11 < len(record.ids) / num_tokens < 15
    )  # it is realistic
    header = SignalHeader("sampled", 151_936, num_draws=50)
    bytes_per_token = len(encode(record, header)) / num_tokens
    assert bytes_per_token < 34.5  # a shard's index adds 32 bytes a sequence

    sizes = np.diff(record.offsets)
    log2_choose = np.array(
        [(math.lgamma(151_937) - math.lgamma(u + 1) - math.lgamma(151_937 - u)) for u in sizes]
    )
    # Least bits where ids may be anywhere and every division of the draws among them is as likely.
    log2_divide = np.array([math.lgamma(50) - math.lgamma(u) - math.lgamma(51 - u) for u in sizes])
    bound = 4 + (math.log2(50) + (log2_choose + log2_divide).mean() / math.log(2)) / 8
    assert bytes_per_token < 1.02 * bound


def test_a_certain_token_costs_a_few_bytes():
    header = SignalHeader("sampled", 151_936, num_draws=50)
    for token in (0, 77_777, 151_935):
        num_tokens = 100
        floats = np.zeros(num_tokens, np.float32)
        ids = np.full(num_tokens, token, np.int32)
        certain = SampledRecord(
            ids, np.full_like(ids, 50), np.arange(num_tokens + 1), floats, floats
        )
        assert len(encode(certain, header)) / num_tokens < 8


def test_crowded_ids_cost_less_than_spread_ones():
    header = SignalHeader("sampled", 151_936, num_draws=50)
    crowded, spread = one_token(range(50), [1] * 50), one_token(range(0, 150_000, 3000), [1] * 50)
    assert len(encode(crowded, header)) < len(encode(spread, header)) - 20


@pytest.mark.parametrize(
    ("ids", "counts", "problem"),
    [
        ([3, 2], [25, 25], "ascending"),
        ([3, 3], [25, 25], "ascending"),
        ([-1, 3], [25, 25], "ascending"),
        ([3, 1000], [25, 25], "below 1000"),
        ([3, 4], [25, 24], "50 draws"),
        ([3, 4], [50, 0], "below 1"),
        ([], [], "without ids"),
    ],
)
def test_what_is_no_sample_is_not_encoded(header, ids, counts, problem):
    with pytest.raises(ValueError, match=problem):
        encode(one_token(ids, counts), header)


def test_a_record_of_another_kind_or_shape_is_not_encoded(header, record_of):
    dense, top_k = SignalHeader("dense", 10), SignalHeader("top_k", 10, top_k=4)
    with pytest.raises(ValueError, match="does not belong"):
        encode(record_of(header, 3, seed=1), dense)
    with pytest.raises(ValueError, match="11 ids"):
        encode(DenseRecord(np.zeros((3, 11), np.float32)), dense)
    with pytest.raises(ValueError, match="expected"):
        encode(
            TopKRecord(
                np.zeros((3, 5), np.int32), np.zeros((3, 5), np.float32), np.zeros(3, np.float32)
            ),
            top_k,
        )


@every_header
def test_bytes_that_are_no_record_never_give_one_of_another_size_or_with_wild_ids(
    record_of, header
):
    data = encode(record_of(header, 20, seed=4), header)
    for broken in (b"", data[:-1], data[: len(data) // 2]):
        with pytest.raises(DataError, match="not a"):
            decode(broken, header, 20)
    rng = np.random.default_rng(0)
    for _ in range(100):  # noise either is refused or keeps the laws of a record
        noise = rng.integers(0, 256, len(data), np.uint8).tobytes()
        try:
            record = decode(noise, header, 20)
        except DataError:
            continue
        assert record.num_tokens == 20
        if isinstance(record, SampledRecord | TopKRecord):
            assert record.ids.min() >= 0 and record.ids.max() < 1000


def test_draws_with_log_probs_come_back_and_do_not_pass_for_draws_without(header, record_of):
    record = record_of(SCORED, 20, seed=4)
    data = encode(record, SCORED)
    assert same(decode(data, SCORED, 20), record)
    plain = record_of(header, 20, seed=4)
    num_ids = len(record.ids)
    assert len(data) == len(encode(plain, header)) + 2 * (num_ids + 20)
    for wrong, of in ((record, header), (plain, SCORED)):
        with pytest.raises(ValueError, match="log-probs or none"):
            encode(wrong, of)
    with pytest.raises(ValueError, match="log-probs do not fit the draws"):
        encode(replace(record, logp=record.logp[1:]), SCORED)
    with pytest.raises(ValueError, match="draw_log_probs belongs to sampled"):
        SignalHeader("dense", 1000, draw_log_probs=True)


def test_joined_records_are_the_tokens_one_after_another(header, record_of):
    parts = [record_of(header, n, seed=n) for n in (3, 0, 1, 8)]
    whole: Any = join(parts)
    assert whole.num_tokens == 12
    token = 0
    for part in parts:
        for t in range(part.num_tokens):
            in_whole = slice(*whole.offsets[token : token + 2])
            in_part = slice(*part.offsets[t : t + 2])
            assert np.array_equal(whole.ids[in_whole], part.ids[in_part])
            assert np.array_equal(whole.counts[in_whole], part.counts[in_part])
            token += 1
    with pytest.raises(ValueError, match="one kind"):
        join([parts[0], DenseRecord(np.zeros((1, 1000), np.float32))])


@every_header
def test_tokens_are_regrouped_whatever_the_chunks_were(record_of, header):
    chunks = [record_of(header, n, seed=n) for n in (4, 1, 7, 9)]
    whole = join(chunks)
    for lengths in ([21], [4, 1, 7, 9], [1] * 21, [3, 10, 0, 8], [0, 13, 8, 0], [20, 1]):
        records = list(regroup(chunks, lengths))
        assert [r.num_tokens for r in records] == lengths
        assert same(join(records), whole)
    for lengths, problem in (
        ([20], "more"),
        ([22], "fewer"),
        ([12], "more"),
        ([], "more"),
        ([21, 1], "fewer"),
    ):
        with pytest.raises(ValueError, match=f"{problem} tokens"):
            list(regroup(chunks, lengths))
    with pytest.raises(ValueError, match="fewer tokens"):
        list(regroup([], [1]))
