"""What each token of a BPE is made of, and which tokenizers are none."""

import pytest
from format_helpers import CHAT_TEMPLATE
from shaping_helpers import KINDS, made
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from transformers import PreTrainedTokenizerFast

from distill.errors import MismatchError
from distill.shaping.bpe import BpeVocabulary, require_bpe


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_token_are_its_bytes_and_have_lower_ids_or_none(kind):
    tokenizer = made(kind)
    vocabulary = BpeVocabulary.of(tokenizer)
    assert vocabulary.tokens.keys() == set(tokenizer.get_vocab().values())
    for number, parts in vocabulary.parts.items():
        if parts:
            joined = b"".join(vocabulary.bytes_of(part) for part in parts)
            assert joined == vocabulary.bytes_of(number)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_a_texts_ids_are_the_text(kind):
    tokenizer = made(kind)
    vocabulary = BpeVocabulary.of(tokenizer)
    text = "Habari, नमस्ते 你好!\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    written = b"".join(vocabulary.bytes_of(number) for number in ids)
    assert written.decode().removeprefix(" ") == text


def test_of_several_merges_the_parts_are_those_of_the_one_that_is_used():
    """Every pair that gives the text is a merge; the tokenizer joins by the lowest rank first."""
    vocab = {token: n for n, token in enumerate(["a", "b", "c", "bc", "ab", "abc"])}
    merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocab=vocab, merges=merges)))
    parts = BpeVocabulary.of(tokenizer).parts
    assert parts[vocab["abc"]] == (vocab["a"], vocab["bc"])


@pytest.mark.parametrize(
    "model, what",
    [
        (Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0), "Unigram"),
        (WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"), "WordPiece"),
        (BPE({"a": 0}, [], continuing_subword_prefix="##"), "continuing_subword_prefix"),
        (BPE({"a": 0}, [], end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (BPE({"a": 0}, [], dropout=0.1), "dropout"),
    ],
)
def test_what_is_no_plain_bpe_is_refused_by_name_with_the_way_out(model, what):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    tokenizer.chat_template = CHAT_TEMPLATE
    with pytest.raises(MismatchError, match=f"{what}.*student.vocabulary=null"):
        require_bpe(tokenizer)
