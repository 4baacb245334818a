"""Questions as token ids: what lm-evaluation-harness would score, to the token."""

import pytest
from benchmark_helpers import RECIPE
from families import FAMILIES, tokenizer_of

from distill.benchmarks.encoding import Encoder
from distill.benchmarks.items import Item
from distill.errors import DataError
from distill.models.load import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(RECIPE.parent / "quickstart" / "teacher"))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_context_and_choice_are_cut_as_one_text(family):
    encoder = Encoder(tokenizer_of(family), 500)
    context, choice = encoder.pair("Swali: 3 + 4?\nJibu:", " saba")
    whole = encoder.tokenizer("Swali: 3 + 4?\nJibu: saba").input_ids
    assert context == encoder.tokenizer("Swali: 3 + 4?\nJibu:").input_ids
    assert choice == whole[len(context) :]


def test_white_space_at_the_end_of_a_context_goes_to_the_choice(tokenizer):
    encoder = Encoder(tokenizer, 500)
    assert encoder.pair("How many? ", "3") == encoder.pair("How many?", " 3")
    assert encoder.pair("How many?\n\n", "3") == encoder.pair("How many?", "\n\n3")


def test_a_long_context_loses_its_beginning_and_no_choice_is_cut(tokenizer):
    context, choice = Encoder(tokenizer, 500).pair("one two three four five six", " seven")
    room = len(choice) + 3
    cut, same = Encoder(tokenizer, room).pair("one two three four five six", " seven")
    assert same == choice
    assert cut == context[-4:]  # with the last token, which is not read, one more than is read
    with pytest.raises(DataError, match="a choice of"):
        Encoder(tokenizer, 2).pair("one", " two" * 50)


def test_choices_of_other_lengths_may_have_other_contexts_when_they_are_cut(tokenizer):
    context = "one two three four five six seven eight nine ten " * 4
    item = Item(0, context, ("mango", "a much longer mango than the others"), 0, None, "")
    whole = Encoder(tokenizer, 500).parts([item], " ")
    assert [part.choices for part in whole] == [(0, 1)]
    cut = Encoder(tokenizer, 40).parts([item], " ")
    assert sorted(choice for part in cut for choice in part.choices) == [0, 1]
    assert all(part.is_cut for part in cut) and not any(part.is_cut for part in whole)
    for part in cut:
        for ids in part.asked.continuations:
            assert len(part.asked.context) + len(ids) <= 41


def test_a_question_without_context_begins_with_the_token_that_begins_a_text(tokenizer):
    context, choice = Encoder(tokenizer, 500).pair("", "mango")
    begin = tokenizer.bos_token_id
    assert context == [tokenizer.eos_token_id if begin is None else begin]
    assert choice == tokenizer("mango", add_special_tokens=False).input_ids
