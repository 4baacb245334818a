"""Continuations of a shared context against plain forward passes of each text by itself."""

import pytest
import torch
from families import WITH_MODEL, model_of, tokenizer_of

from distill.models.continuations import Reader, log_likelihoods
from distill.models.head import head_of
from distill.models.sequences import Continued

ASKED = [
    Continued([5, 6, 7, 8, 9], [[11], [12], [13]]),
    Continued([10], [[11, 12], [13, 14, 15, 16, 17], [18]]),
    Continued(list(range(20, 45)), [[46, 47, 48], [49]]),
    Continued([30, 31], [[32]]),
]


def one_by_one(model, each, vocab_size=300):
    sums = []
    for ids in each.continuations:
        whole = [*each.context, *ids]
        logp_TV = model(torch.tensor([whole])).logits[0, :, :vocab_size].double().log_softmax(-1)
        start = len(each.context) - 1
        sums.append(sum(float(logp_TV[start + i, token]) for i, token in enumerate(ids)))
    return sums


@pytest.mark.parametrize("batch_tokens", [1, 40, 1000])
@pytest.mark.parametrize("vocab_size", [300, 100])
def test_sums_equal_plain_forward_passes_whatever_the_batch(qwen3, batch_tokens, vocab_size):
    reader = Reader(qwen3, head_of(qwen3), 0, vocab_size, batch_tokens)
    done = []
    found = log_likelihoods(reader, ASKED, done.append)
    assert sum(done) == len(ASKED)
    with torch.no_grad():
        for each, sums in zip(ASKED, found, strict=True):
            assert sums == pytest.approx(one_by_one(qwen3, each, vocab_size), abs=2e-4)


def test_a_context_is_read_once_for_all_its_continuations(qwen3, monkeypatch):
    seen = []
    forward = qwen3.base_model.forward

    def count(*args, **kwargs):
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    reader = Reader(qwen3, head_of(qwen3), 0, 300, 1000)
    monkeypatch.setattr(qwen3.base_model, "forward", count)
    asked = Continued(list(range(3, 103)), [[1, 2, 3], [4, 5], [6]])
    log_likelihoods(reader, [asked], lambda _: None)
    assert seen == [100, 2 * 2]


@pytest.mark.parametrize("family", WITH_MODEL, ids=lambda family: family.name)
def test_every_family_agrees_whether_its_cache_has_places_or_not(family):
    tokenizer = tokenizer_of(family)
    model = model_of(family, tokenizer).float().eval()
    reader = Reader.of(model, tokenizer, 1000)
    with torch.no_grad():
        for each, sums in zip(ASKED, log_likelihoods(reader, ASKED, lambda _: None), strict=True):
            expected = one_by_one(model, each, len(tokenizer))
            assert sums == pytest.approx(expected, abs=2e-3)
