"""A trimmed tokenizer writes what it can as its parent did, and all else as the same text."""

import random
import unicodedata

import pytest
from format_helpers import SENTENCES
from shaping_helpers import SCRIPTS, random_texts, trimmed

from distill import chat
from distill.shaping.pruning import Limits
from distill.shaping.trimmed import TrimmedVocabulary

TEXTS = [*SCRIPTS.values(), *SENTENCES, *random_texts(100)]
LIMITS = (Limits(None, 0.0), Limits(384, None))


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("limits", LIMITS, ids=["no loss", "384"])
def test_every_kept_token_encodes_to_itself_where_it_did(parent, limits):
    made, pruned, vocabulary = trimmed(parent, limits)
    before, after = (t.backend_tokenizer.model for t in (parent, made.tokenizer))
    assert len(made.tokenizer) == len(pruned.kept) < len(parent)
    num = 0
    for new, old in enumerate(pruned.kept):
        text = vocabulary.tokens[old]
        assert made.tokenizer.convert_ids_to_tokens(new) == text
        if [t.id for t in before.tokenize(text)] == [old]:
            num += 1
            assert [t.id for t in after.tokenize(text)] == [new]
    assert num > 60


@pytest.mark.parametrize("limits", LIMITS, ids=["no loss", "384"])
def test_a_text_is_the_same_after_it_was_encoded_and_decoded(parent, limits):
    made, _, _ = trimmed(parent, limits)
    for text in TEXTS:
        ids = ids_of(made.tokenizer, text)
        as_parent = decoded(parent, ids_of(parent, text))
        assert decoded(made.tokenizer, ids) == as_parent
        assert decoded(parent, made.parents_of(ids)) == as_parent


def test_all_of_unicode_comes_back_from_a_tokenizer_with_every_byte(parent):
    made, _, vocabulary = trimmed(parent, Limits(384, None))
    if len(vocabulary.byte_ids) < 256:
        pytest.skip("its parent leaves some bytes out")
    for text in TEXTS:
        back = decoded(made.tokenizer, ids_of(made.tokenizer, text))
        assert unicodedata.normalize("NFC", back) == unicodedata.normalize("NFC", text)


def test_a_text_that_needs_no_removed_token_has_the_same_ids(parent):
    """Whatever the words round it are: made of pieces of the texts that were counted."""
    made, pruned, _ = trimmed(parent, Limits(None, 0.0))
    kept, draw, num = set(pruned.kept), random.Random(0), 0
    counted = [SENTENCES[0], SENTENCES[2]]
    words = [word for text in counted for word in text.split(" ")]
    for text in [*counted, *(" ".join(draw.choices(words, k=6)) for _ in range(300)), *TEXTS]:
        ids = ids_of(parent, text)
        if set(ids) <= kept:
            num += 1
            assert made.parents_of(ids_of(made.tokenizer, text)) == ids
    assert num > 50


def test_all_else_of_the_tokenizer_is_its_parents(parent, tmp_path):
    made, _, _ = trimmed(parent, Limits(384, None))
    tokenizer = made.tokenizer
    names = ("chat_template", "special_tokens_map", "model_max_length", "padding_side")
    for name in names:
        assert getattr(tokenizer, name) == getattr(parent, name)
    assert ["bos", tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token] == [
        "bos",
        parent.bos_token,
        parent.eos_token,
        parent.pad_token,
    ]
    ids = tokenizer("a").input_ids  # with what a post-processor writes round a text
    assert made.parents_of(ids) == parent("a").input_ids
    made.write(tmp_path)
    again = TrimmedVocabulary.read(tmp_path)
    assert again.parent_ids == made.parent_ids
    assert chat.same_tokenizer(again.tokenizer, tokenizer) is None
    assert chat.fingerprint_of_format(again.tokenizer) == chat.fingerprint_of_format(tokenizer)


def test_added_tokens_are_found_in_a_text_as_before(parent):
    made, _, vocabulary = trimmed(parent, Limits(384, None))
    for number, content in vocabulary.added.items():
        assert made.parents_of(ids_of(made.tokenizer, content)) == ids_of(parent, content)
        assert made.tokenizer.convert_tokens_to_ids(content) == made.parent_ids.index(number)
