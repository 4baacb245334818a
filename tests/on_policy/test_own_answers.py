"""What is learnt of a student's answer: all of it up to where it goes wrong."""

import pytest
from run_helpers import QUICKSTART

from distill import chat
from distill.data.samples import Prompt
from distill.models import load
from distill.on_policy.own_answers import num_tokens_before, own_answers
from distill.on_policy.student_answers import Drawn
from distill.recipe import load_recipe

PROMPT = Prompt(({"role": "user", "content": "How much are 3 apples at 4 each?"},), "en")
GOOD = "Three apples cost 3 times 4, which is 12."


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(QUICKSTART, ["rounds.num_rounds=1"])


@pytest.fixture(scope="module")
def tokenizer():
    return load.load_tokenizer(str(QUICKSTART.parent / "quickstart/teacher"))


@pytest.fixture
def learnt(recipe, tokenizer):
    prompt_ids = chat.prompt_ids(tokenizer, list(PROMPT.messages))
    end = chat.stop_ids(tokenizer, None)[0]

    def of(text, *, cut=False, ids=None, prompt=PROMPT):
        ids = ids or tokenizer(text, add_special_tokens=False).input_ids
        ids = ids if cut else [*ids, end]
        drawn = Drawn(prompt, "k", prompt_ids, ids, "length" if cut else "stop")
        return own_answers(recipe, tokenizer, [drawn])[0]

    return of


def test_a_good_answer_is_learnt_with_its_end(learnt):
    found = learnt(GOOD)
    assert found.ends and found.sample.answer_ids == found.drawn.answer_ids
    assert not (found.is_cut or found.loops or found.is_empty or found.other_language)


def test_a_cut_answer_is_learnt_whole_without_an_end(learnt, tokenizer):
    found = learnt(GOOD, cut=True)
    assert found.is_cut and found.sample.answer_ids == found.drawn.answer_ids
    assert chat.text_of(tokenizer, found.sample.answer_ids) == GOOD


def test_a_loop_is_learnt_up_to_where_it_first_repeats_itself(learnt, tokenizer):
    found = learnt(GOOD + " So it is 12 in all." * 30, cut=True)
    assert found.loops
    text = chat.text_of(tokenizer, found.sample.answer_ids)
    assert text.startswith(GOOD) and text.count("So it is 12 in all") == 1
    assert not found.ends


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_answer_without_text_is_left_out(learnt, text):
    found = learnt(text)
    assert found.is_empty and found.sample is None


def test_nothing_after_a_control_token_in_the_middle_is_learnt(learnt, tokenizer):
    ids = tokenizer(GOOD, add_special_tokens=False).input_ids
    control = tokenizer.pad_token_id
    found = learnt("", ids=[*ids[:5], control, *ids[5:]])
    assert found.sample.answer_ids == [*ids[:5], control]
    assert not found.ends


def test_another_language_is_told_but_learnt(learnt):
    found = learnt("三个苹果一共是十二块钱，因为三乘以四等于十二，所以答案就是十二块钱。")
    assert found.other_language and found.sample is not None


def test_tokens_are_cut_at_characters(tokenizer):
    ids = tokenizer("苹果 and नमस्ते", add_special_tokens=False).input_ids
    for num in range(10):
        text = chat.text_of(tokenizer, ids[: num_tokens_before(tokenizer, ids, num)])
        assert len(text) <= num
    assert num_tokens_before(tokenizer, ids, 1000) == len(ids)
