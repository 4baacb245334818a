"""Which tokens are taken away, against a slow pruner that follows the definition."""

import numpy as np
import pytest
from format_helpers import SENTENCES
from shaping_helpers import KINDS, counts_of, made, vocabulary_of

from distill.shaping.bpe import BpeVocabulary
from distill.shaping.pruning import MULTIPLE, Limits, _State, longer_by, prune

LANGUAGES = (SENTENCES[:2], SENTENCES[2:4], SENTENCES[4:5])


def slowly_pruned(vocabulary, counts_VL, num):
    """Take away `num` leaves, each the least counted, later merges first: in turn, looking at all."""
    shares_VL = counts_VL / counts_VL.sum(0)
    kept = set(vocabulary.tokens)
    fixed = {*vocabulary.added, *vocabulary.byte_ids}
    fixed |= {n for n, p in vocabulary.parts.items() if not p and len(vocabulary.tokens[n]) == 1}
    for _ in range(num):
        used = {part for number in kept for part in vocabulary.parts.get(number, ())}
        leaves = list(kept - used - fixed)
        if not leaves:
            break
        rank = vocabulary.rank
        least = min(leaves, key=lambda n: (round(shares_VL[n].sum(), 12), -rank.get(n, -1), n))
        kept.remove(least)
        for part in vocabulary.parts[least]:
            shares_VL[part] += shares_VL[least]
    return kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [320, 448, 512])
def test_the_least_counted_leaf_goes_first(kind, size):
    vocabulary = vocabulary_of(made(kind))
    counts_VL = counts_of(made(kind), LANGUAGES)
    pruned = prune(vocabulary, counts_VL, (), Limits(size, None))
    slow = slowly_pruned(vocabulary, counts_VL, len(vocabulary.tokens) - size)
    if pruned.stopped_by == "size":
        assert len(pruned.kept) == size and set(pruned.kept) == slow
    else:
        assert slow <= set(pruned.kept) and len(pruned.kept) < len(slow) + MULTIPLE


@pytest.mark.parametrize("max_loss", [0.0, 0.01, 0.1])
def test_no_language_loses_more_than_it_may(parent, max_loss):
    vocabulary = vocabulary_of(parent)
    counts_VL = counts_of(parent, LANGUAGES)
    pruned = prune(vocabulary, counts_VL, (), Limits(None, max_loss))
    assert max(pruned.loss) <= max_loss
    assert pruned.stopped_by == "fertility"
    assert len(pruned.kept) % MULTIPLE == 0 or len(pruned.kept) == len(vocabulary.tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_reckoned_of_a_set_of_tokens_is_what_pruning_reckoned(kind):
    vocabulary = vocabulary_of(made(kind))
    counts_VL = counts_of(made(kind), LANGUAGES)
    pruned = prune(vocabulary, counts_VL, (), Limits(448, None))
    assert longer_by(vocabulary, pruned.kept, counts_VL) == pytest.approx(pruned.loss, abs=1e-9)
    assert longer_by(vocabulary, list(vocabulary.tokens), counts_VL) == [0.0, 0.0, 0.0]
    nothing = counts_VL * np.array([1, 0, 1])
    assert longer_by(vocabulary, pruned.kept, nothing)[1] is None


def test_of_two_limits_the_one_that_is_reached_first_ends_it():
    vocabulary = vocabulary_of(made("quickstart"))
    counts_VL = counts_of(made("quickstart"), LANGUAGES)
    by_loss = prune(vocabulary, counts_VL, (), Limits(None, 0.05))
    num = len(by_loss.kept)
    assert prune(vocabulary, counts_VL, (), Limits(num - MULTIPLE, 0.05)) == by_loss
    assert by_loss.stopped_by == "fertility"
    by_size = prune(vocabulary, counts_VL, (), Limits(num + MULTIPLE, 0.05))
    assert by_size.stopped_by == "size" and len(by_size.kept) == num + MULTIPLE
    assert by_size == prune(vocabulary, counts_VL, (), Limits(num + MULTIPLE, None))


def test_a_language_at_its_limit_does_not_keep_the_tokens_of_others():
    """Before some are put back for a round number, nothing is left that may go."""
    vocabulary = vocabulary_of(made("quickstart"))
    state = _State(vocabulary, counts_of(made("quickstart"), LANGUAGES), ())
    assert state.remove_down_to(0, 0.05) == "fertility"
    used = {part for number in state.kept for part in vocabulary.parts.get(number, ())}
    leaves = state.kept - used - state.required
    losses = [state.loss_L + state.shares_VL[number] for number in leaves]
    assert len(losses) > 50 and all((loss > 0.05).any() for loss in losses)
    assert max(state.loss_L) <= 0.05 and min(state.loss_L) > 0.03


def test_languages_count_alike_however_much_text_they_have():
    vocabulary = vocabulary_of(made("quickstart"))
    counts_VL = counts_of(made("quickstart"), LANGUAGES)
    more = prune(vocabulary, counts_VL * np.array([1.0, 64.0, 1.0]), (), Limits(512, None))
    assert more.kept == prune(vocabulary, counts_VL, (), Limits(512, None)).kept


def test_what_is_required_stays_with_all_that_it_is_made_of():
    tokenizer = made("quickstart")
    vocabulary = BpeVocabulary.of(tokenizer)
    token = max(vocabulary.rank, key=vocabulary.rank.__getitem__)
    pruned = prune(vocabulary, counts_of(tokenizer, LANGUAGES), [token], Limits(64, None))
    needed, kept = [token], set(pruned.kept)
    while needed:
        number = needed.pop()
        assert number in kept
        needed += vocabulary.parts[number]
    assert pruned.stopped_by == "required" and kept >= vocabulary.byte_ids | vocabulary.added.keys()


def test_qwens_vocabulary_is_pruned_in_seconds(qwen_tokenizer):
    import time

    from distill.models import load

    if qwen_tokenizer is None:
        pytest.skip("Qwen's vocabulary is not beside this checkout (../shared)")
    tokenizer = load.load_tokenizer(str(qwen_tokenizer))
    counts_VL = counts_of(tokenizer, LANGUAGES)
    started = time.process_time()
    pruned = prune(BpeVocabulary.of(tokenizer), counts_VL, (), Limits(32_768, None))
    print(f"{time.process_time() - started:.1f} s")
    assert len(pruned.kept) == 32_768 and time.process_time() - started < 20
