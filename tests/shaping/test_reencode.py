"""Whatever the teacher wrote, its ids in the trimmed vocabulary are the same bytes."""

import random

import pytest
from format_helpers import SENTENCES
from run_helpers import QUICKSTART
from shaping_helpers import SCRIPTS, random_texts, trimmed

from distill import chat
from distill.chat.tokenizers import Tokenizers
from distill.errors import MismatchError
from distill.recipe import load_recipe
from distill.shaping.pruning import Limits
from distill.shaping.reencode import Reencoder

KIND = "answers"


@pytest.fixture
def reencoder(parent):
    made, _, vocabulary = trimmed(parent, Limits(384, None))
    return Reencoder.of(parent, made, vocabulary)


def answers(reencoder, num=150):
    """Ids as a model may draw them: any at all, and texts with marks and pieces of characters between."""
    draw, parent = random.Random(0), reencoder.parent
    everything = sorted(reencoder.vocabulary.tokens)
    texts = [*SCRIPTS.values(), *random_texts(20)]
    added = list(reencoder.vocabulary.added)
    for _ in range(num):
        yield draw.choices(everything, k=draw.randrange(1, 12))
        ids = parent(draw.choice(texts), add_special_tokens=False).input_ids
        cut = draw.randrange(len(ids) + 1)
        yield [*ids[:cut], draw.choice(added), *ids[cut:], draw.choice(everything)]
        yield ids[cut:]


def test_an_answer_is_the_same_bytes(reencoder, tally):
    vocabulary, made = reencoder.vocabulary, reencoder.trimmed
    for number, ids in enumerate(answers(reencoder)):

        def same(new, ids=ids):
            parents = made.parents_of(new)
            return [b"".join(map(vocabulary.bytes_of, each)) for each in (ids, parents)], _marks(
                vocabulary, parents
            )

        expected = b"".join(map(vocabulary.bytes_of, ids))
        tally.must_accept(
            f"answer {number} {ids}",
            lambda ids=ids, same=same: same(reencoder.answer_ids(ids)),
            ([expected, expected], _marks(vocabulary, ids)),
        )


def _marks(vocabulary, ids):
    return [number for number in ids if number in vocabulary.added]


def test_a_text_is_written_as_the_student_will_read_it(reencoder):
    """Not in the parts of the teacher's tokens, where other tokens are kept that are longer."""
    parent, made = reencoder.parent, reencoder.trimmed
    for text in [*SCRIPTS.values(), *SENTENCES]:
        ids = parent(text, add_special_tokens=False).input_ids
        text = parent.decode(ids, skip_special_tokens=False)
        if parent(text, add_special_tokens=False).input_ids == ids:
            new = made.tokenizer(text, add_special_tokens=False).input_ids
            assert reencoder.answer_ids(ids) == new


def test_the_pieces_of_a_token_that_was_taken_away_are_what_the_student_writes(reencoder):
    vocabulary, made = reencoder.vocabulary, reencoder.trimmed
    pieces = reencoder.pieces_of_removed()
    gone = vocabulary.tokens.keys() - set(made.parent_ids) - vocabulary.added.keys()
    assert pieces.keys() == gone and len(gone) > 100
    for token, ids in pieces.items():
        parents = made.parents_of(ids)
        assert ids and not _marks(vocabulary, parents)
        assert b"".join(map(vocabulary.bytes_of, parents)) == vocabulary.bytes_of(token)
        text = reencoder.parent.decode([token])
        written = made.tokenizer(text, add_special_tokens=False).input_ids
        if b"".join(map(vocabulary.bytes_of, made.parents_of(written))) == vocabulary.bytes_of(
            token
        ):
            assert ids == written, text


def test_a_mark_that_is_spelled_out_stays_text(reencoder):
    parent = reencoder.parent
    for mark in reencoder.vocabulary.added.values():
        spelled = parent.backend_tokenizer.model.tokenize(f"{mark[0]}")
        ids = [*(token.id for token in spelled)]
        ids += [token.id for c in mark[1:] for token in parent.backend_tokenizer.model.tokenize(c)]
        parents = reencoder.trimmed.parents_of(reencoder.answer_ids(ids))
        assert not _marks(reencoder.vocabulary, parents)


def test_a_prompt_is_what_the_template_writes(parent, reencoder):
    recipe = load_recipe(QUICKSTART, [])
    tokenizers = Tokenizers(parent, parent)
    messages = [{"role": "user", "content": "Habari? नमस्ते"}]
    before = tokenizers.prompt_ids(recipe, messages)
    after = reencoder.prompt_ids(recipe, tokenizers, messages)
    assert after == chat.prompt_ids(reencoder.trimmed.tokenizer, messages)
    reencoder.require_same_bytes(before, after, "the prompt")
    with pytest.raises(MismatchError, match=r"the prompt: .*--redo generate"):
        reencoder.require_same_bytes(before, after[:-1], "the prompt")
