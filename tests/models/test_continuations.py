"""Continuations of a shared context against plain forward passes of each text by itself."""

import random

import pytest
import torch
from families import WITH_MODEL, model_of, tokenizer_of

from distill.models.continuations import (
    LEAST_SHARED,
    Reader,
    groups_by_beginning,
    log_likelihoods,
)
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


def few_shot(start, num=6, seed=0):
    """Contexts that begin with `start` and go on with something of their own."""
    rng = random.Random(seed)
    return [
        Continued(
            [*start, *(rng.randrange(3, 299) for _ in range(1 + n))],
            [[5, 6, 7], [9], [rng.randrange(3, 299), 4]],
        )
        for n in range(num)
    ]


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_what_contexts_begin_with_is_read_once(qwen3, monkeypatch, batch_tokens):
    """Of two few-shot sets, contexts of their own, and one that is another's beginning."""
    start, other = list(range(100, 180)), list(range(200, 240))
    asked = [*few_shot(start), *ASKED, *few_shot(other, num=2), Continued(start, [[1], [2, 3]])]
    seen = []
    forward = qwen3.base_model.forward

    def count(*args, **kwargs):
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    reader = Reader(qwen3, head_of(qwen3), 0, 300, batch_tokens)
    with torch.no_grad():
        expected = [one_by_one(qwen3, each) for each in asked]
    with monkeypatch.context() as patched:
        patched.setattr(qwen3.base_model, "forward", count)
        done = []
        found = log_likelihoods(reader, asked, done.append)
    assert sum(done) == len(asked)
    for sums, by_itself in zip(found, expected, strict=True):
        assert sums == pytest.approx(by_itself, abs=2e-4)
    assert seen.count(79) == 1  # all of `start` but the last token of the context that it is
    assert sum(seen) < 800  # each with its own beginning: more than 900


def test_contexts_that_begin_alike_may_have_choices_of_one_token_alone(qwen3):
    reader = Reader(qwen3, head_of(qwen3), 0, 300, 1000)
    asked = [Continued([*range(100, 150), n], [[11], [12]]) for n in range(3, 6)]
    with torch.no_grad():
        for each, sums in zip(asked, log_likelihoods(reader, asked, lambda _: None), strict=True):
            assert sums == pytest.approx(one_by_one(qwen3, each), abs=2e-4)


def test_groups_hold_each_context_once_and_begin_as_they_say():
    rng = random.Random(1)
    for _ in range(100):
        starts = [[rng.randrange(2) for _ in range(rng.randrange(70))] for _ in range(3)]
        contexts = [
            rng.choice(starts) + [rng.randrange(9) for _ in range(1 + rng.randrange(5))]
            for _ in range(8)
        ]
        groups = list(groups_by_beginning(contexts))
        assert sorted(i for members, _ in groups for i in members) == list(range(8))
        for members, shared in groups:
            assert not shared or (len(members) > 1 and len(shared) >= LEAST_SHARED)
            for i in members:
                assert contexts[i][: len(shared)] == list(shared)
                assert len(contexts[i]) > len(shared)
