"""Log-probs that came with answers become the record that a pass over the weights makes."""

import math

import numpy as np
import pytest
import torch

from distill.errors import DataError
from distill.losses.targets import TopKTargets
from distill.signals import draws
from distill.signals.collate import targets
from distill.signals.from_server import num_unknown, packed, record_of, unpacked

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
    expected = draws.top_k(logits(), draws.Rows.of(0, 30), k=K, vocab_size=VOCAB)
    found = unpacked(packed(as_served(logits()), K, VOCAB), 30, K, VOCAB)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.logp, expected.logp, rtol=1e-3)
    np.testing.assert_allclose(found.tail_logp, expected.tail_logp, rtol=2e-3)
    np.testing.assert_allclose(np.exp(found.logp).sum(1) + np.exp(found.tail_logp), 1, atol=2e-3)
    assert num_unknown(found) == 0


def test_ids_of_a_padded_head_count_in_nothing():
    """As if the server had them not: mass over the shared ids is 1 after `collate`."""
    shared = VOCAB - 100
    expected = targets([draws.top_k(logits(), draws.Rows.of(0, 30), k=3, vocab_size=shared)], "cpu")
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
