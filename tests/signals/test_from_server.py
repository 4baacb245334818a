"""Log-probs that came with answers become the record that a pass over the weights makes."""

import math

import numpy as np
import pytest
import torch

from distill.errors import DataError
from distill.losses.targets import TopKTargets
from distill.signals import draws
from distill.signals.collate import targets
from distill.signals.columns import Columns
from distill.signals.from_server import (
    likelihoods_of,
    num_unknown,
    packed,
    packed_own,
    problem_of,
    problem_of_record,
    record_of,
    unknown_record,
    unpacked,
    unpacked_own,
)

K, VOCAB = 6, 501


def logits(num=30):
    return torch.randn(num, VOCAB, generator=torch.Generator().manual_seed(4)) * 3


def as_served(logits_NV, k=K + 1):
    top = logits_NV.log_softmax(-1).topk(k)
    return [
        dict(zip(i, v, strict=True))
        for i, v in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def test_it_is_the_record_of_the_weights():
    expected = draws.top_k(logits(), draws.Rows.of(0, 30), k=K, columns=Columns(VOCAB))
    found = unpacked(packed(as_served(logits()), K, VOCAB), 30, K, VOCAB)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.logp, expected.logp, rtol=1e-3)
    np.testing.assert_allclose(found.tail_logp, expected.tail_logp, rtol=2e-3)
    np.testing.assert_allclose(np.exp(found.logp).sum(1) + np.exp(found.tail_logp), 1, atol=2e-3)
    assert num_unknown(found) == 0


def test_ids_of_a_padded_head_count_in_nothing():
    """As if the server had them not: mass over the shared ids is 1 after `collate`."""
    shared = VOCAB - 100
    expected = targets(
        [draws.top_k(logits(), draws.Rows.of(0, 30), k=3, columns=Columns(shared))], "cpu"
    )
    found = targets([record_of(as_served(logits(), VOCAB), 3, shared)], "cpu")
    assert isinstance(found, TopKTargets) and isinstance(expected, TopKTargets)
    assert torch.equal(found.ids_NK, expected.ids_NK)
    torch.testing.assert_close(found.logp_NK, expected.logp_NK, rtol=1e-4, atol=1e-4)


def test_a_token_of_which_nothing_is_known_is_said_to_be_so():
    served = [*as_served(logits(3)), None]
    found = unpacked(packed(served, K, VOCAB), 4, K, VOCAB)
    assert num_unknown(found) == 1
    batch = targets([found], "cpu")
    assert isinstance(batch, TopKTargets)
    assert (
        (batch.ids_NK[3] == -1).all()
        and batch.tail_logp_N[3] == 0
        and (batch.ids_NK[:3] >= 0).all()
    )


def test_fewer_ids_than_k_are_filled_with_impossible_ones():
    found = record_of([{5: math.log(0.75), 2: math.log(0.25)}], 4, VOCAB)
    assert found.ids.tolist() == [[0, 1, 2, 5]] and np.isneginf(found.logp[0, :2]).all()
    assert found.tail_logp[0] == pytest.approx(-23 * math.log(2))  # rounding may hide so much


@pytest.mark.parametrize("text", ["", "AAAA", "not base64 !"])
def test_what_is_not_a_record_is_refused(text):
    with pytest.raises(DataError, match="not a top_k record of 2 tokens"):
        unpacked(text, 2, K, VOCAB)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 40.0])
def test_no_model_is_taken_for_none_whatever_it_reckons_in(dtype, scale):
    """From one that knows nothing to one that is certain; with a padded head, and only the top 1."""
    generator = torch.Generator().manual_seed(1)
    logits_NV = torch.randn(40, VOCAB, generator=generator) * scale
    for k in (1, 6, 20, VOCAB - 1):
        assert problem_of([None, *rounded(logits_NV, k, dtype)], VOCAB) is None
    assert problem_of(rounded(logits_NV, 6, dtype), VOCAB - 200) is None
    assert problem_of([], VOCAB) is None and problem_of([None], VOCAB) is None


def rounded(logits_NV, k, dtype):
    """What a server gives that reckons its log-probs in 16 bits."""
    top = logits_NV.log_softmax(-1).to(dtype).float().topk(k)
    return [
        dict(zip(i, v, strict=True))
        for i, v in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def test_what_are_no_log_probs_is_said_to_be_none():
    """One token among thirty is enough."""
    for k in (6, 20):
        raw = logits().topk(k)
        ids, values = raw.indices.tolist(), raw.values.tolist()
        bad = {
            "raw logits": dict(zip(ids[3], values[3], strict=True)),
            "far below": {i: -60.0 - i for i in range(k)},
            "a mass": dict.fromkeys(range(k), -0.2),
            "NaN": {i: math.nan if i == 2 else -3.0 for i in range(k)},
            "inf": {i: math.inf if i == 2 else -3.0 for i in range(k)},
            "-inf": dict.fromkeys(range(k), -math.inf),
            "below 0": {i - 1: -3.0 for i in range(k)},
            "beyond": {10**30 + i: -3.0 for i in range(k)},
            "a wide one": {3 * VOCAB + i: -3.0 for i in range(1024, 1024 + k)},
            "none": {},
        }
        for name, row in bad.items():
            served = as_served(logits(), k)
            served[17] = row
            problem = problem_of(served, VOCAB)
            assert problem is not None and len(problem) < 120, name


def test_a_stored_record_of_no_log_probs_is_known():
    """Earlier versions took them as they came."""
    good = unpacked(packed([*as_served(logits()), None], K, VOCAB), 31, K, VOCAB)
    assert problem_of_record(good, VOCAB) is None
    for value in (14.5, 0.7, math.nan, -math.inf):
        served = [*as_served(logits(5)), dict.fromkeys(range(K), value)]
        assert problem_of_record(record_of(served, K, VOCAB), VOCAB) is not None, value
    half = problem_of_record(record_of([dict.fromkeys(range(K), -0.2)], K, VOCAB), VOCAB)
    assert half is not None and "a mass of" in half


def test_a_record_of_which_nothing_is_known_has_the_form_of_others():
    found = unknown_record(7, K, VOCAB)
    assert num_unknown(found) == 7 and found.ids.shape == (7, K)


BEGINS, ENDS = [1, 5, 8, *range(20, 60), 500], [500]


def test_the_likelihoods_of_an_answer_are_those_of_the_weights_where_they_are_told():
    sharp = logits() * 4
    answer = sharp.argmax(-1).tolist()
    answer[3], answer[-1] = 7, 500  # unlikely ones: told all the same
    columns = Columns(VOCAB, None, BEGINS, ENDS)
    expected = draws.likelihoods(sharp, torch.tensor(answer), draws.Rows.of(0, 30), columns=columns)
    served = as_served(sharp)
    all_logp = sharp.log_softmax(-1)
    for row, token, logp in zip(served, answer, all_logp, strict=True):
        row[token] = float(logp[token])
    own = unpacked_own(packed_own(served, answer), 30)
    record = unpacked(packed(served, K, VOCAB), 30, K, VOCAB)
    found = likelihoods_of(record, own, answer, BEGINS, ENDS)
    np.testing.assert_allclose(found.logp, expected.logp, rtol=2e-3, atol=1e-3)
    is_known = ~np.isnan(found.boundary_logp)
    assert (np.exp(record.tail_logp[is_known]) <= 0.05).all() and is_known.sum() > 10
    gap = np.exp(found.boundary_logp) - np.exp(expected.boundary_logp)
    assert np.abs(gap[is_known]).max() < 0.06

    # an earlier version's log does not have the tokens' own: those beyond the likeliest are not known
    found = likelihoods_of(record, None, answer, BEGINS, ENDS)
    assert 3 in np.flatnonzero(np.isnan(found.logp)) and num_unknown(found) <= 2


def test_what_the_server_did_not_tell_is_nan_in_both():
    found = likelihoods_of(unknown_record(4, K, VOCAB), None, [1, 2, 3, 500], BEGINS, ENDS)
    assert np.isnan(found.logp).all() and np.isnan(found.boundary_logp).all()
    assert num_unknown(found) == 4
    assert np.isnan(unpacked_own(packed_own([None, {3: -1.0}], [1, 2]), 2)).all()


@pytest.mark.parametrize("text", ["", "%%", "AAAA", packed_own([{1: -1.0}] * 3, [1, 1, 1])])
def test_own_log_probs_that_are_none_are_refused(text):
    with pytest.raises(DataError, match="log-probs of 2 tokens"):
        unpacked_own(text, 2)


def test_the_likelihoods_of_the_weights_take_the_ends_as_one_class_and_ids_of_a_padding_as_nothing():
    columns = Columns(VOCAB - 1, None, [1, 2, 7, 9], [7, 9])
    answer = torch.tensor([3, 7, 9])
    found = draws.likelihoods(logits(3), answer, draws.Rows.of(0, 3), columns=columns)
    logp = logits(3)[:, : VOCAB - 1].log_softmax(-1)
    ends = logp[:, [7, 9]].logsumexp(-1)
    np.testing.assert_allclose(found.logp, [logp[0, 3], ends[1], ends[2]], rtol=1e-5)
    np.testing.assert_allclose(found.boundary_logp, logp[:, [1, 2, 7, 9]].logsumexp(-1), rtol=1e-5)
