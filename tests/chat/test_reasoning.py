"""The marks of reasoning and answer, family by family, as the real templates and models write them.

Sources: ERNIE-4.5-21B-A3B-Thinking by the tests of transformers' chat parsing and vLLM's ernie45
parser, Hunyuan by vLLM's hunyuan_a13b parser; the others as the catalogue says.
"""

import pytest
from families import BY_NAME, tokenizer_of
from run_helpers import QUICKSTART

from distill import chat
from distill.catalog import catalog, facts
from distill.chat.tokenizers import Tokenizers
from distill.recipe import load_recipe

ERNIE = BY_NAME["ernie4.5-thinking"]
HUNYUAN = BY_NAME["hunyuan"]
RESPONSE, ANSWER = ("<response>", "</response>"), ("<answer>", "</answer>")


@pytest.mark.parametrize(
    ("text", "marks", "expected"),
    [
        ("3 + 4\n</think>\n\n<response>\n7\n</response>\n", RESPONSE, ("3 + 4", "7", True)),
        ("3 + 4\n</think>\n7", RESPONSE, ("3 + 4", "7", True)),
        ("<think>\n3 + 4\n</think>\n<answer>\n7\n</answer>", ANSWER, ("3 + 4", "7", True)),
        ("<think>\n\n</think>\n<answer>\n7\n</answer>", ANSWER, (None, "7", True)),
        ("<answer>\n7\n</answer>", ANSWER, (None, "7", True)),
        ("7", ANSWER, (None, "7", True)),
        ("<answer>\na </answer> b\n</answer>", ANSWER, (None, "a </answer> b", True)),
    ],
)
def test_the_marks_round_an_answer_are_no_part_of_it(text, marks, expected):
    assert chat.split_thinking(text, opened="</think>" in text, marks=[marks]) == expected


@pytest.mark.parametrize(
    "text",
    [
        "3 + 4\n</think>\n\n<response>\n7",  # never closed
        "3 + 4\n</think>\n\n<response>\n7\n</response>\nand more",
        "3 + 4\n</think>\n\nSo: <response>\n7\n</response>",
        "3 + 4\n</think>\n\n7\n</response>",
    ],
)
def test_an_answer_whose_marks_do_not_close_round_it_has_no_end(text):
    assert not chat.split_thinking(text, opened=True, marks=[RESPONSE])[2]


def test_marks_of_another_family_are_text():
    text = "a\n</think>\n\n<response>7</response>"
    assert chat.split_thinking(text, marks=[ANSWER]) == ("a", "<response>7</response>", True)
    qwen = tokenizer_of(BY_NAME["qwen3"])
    assert chat.answer_marks(qwen, "Qwen/Qwen3-8B") == ()
    minimax = tokenizer_of(BY_NAME["minimax-m2"])  # <response> is what a tool gave
    minimax.chat_template += "{% if tools %}<response>{{ tools }}</response>{% endif %}"
    assert chat.answer_marks(minimax) == ()


def test_a_family_is_known_by_its_template_or_where_there_is_none_by_its_name():
    assert chat.answer_marks(tokenizer_of(ERNIE)) == (RESPONSE,)
    assert chat.answer_marks(tokenizer_of(HUNYUAN), "./my-copy") == (ANSWER,)
    assert chat.answer_marks(None, "baidu/ERNIE-4.5-21B-A3B-Thinking") == (RESPONSE,)
    assert chat.answer_marks(None, "tencent/Hunyuan-7B-Instruct") == (ANSWER,)
    assert chat.answer_marks(None, "nobody/knows-this") == ()


RAW = {"both": "<think>\n3 + 4\n</think>\n\n", "close": "3 + 4\n</think>\n\n"}


@pytest.mark.parametrize("template", facts.templates().values(), ids=lambda t: t.key)
def test_what_each_template_of_the_catalogue_makes_a_model_write_is_split(template):
    text = "7" if template.answer is None else "\n7\n".join(template.answer)
    if template.tags == "channels":
        text = "<|channel|>analysis<|message|>3 + 4<|end|><|start|>assistant<|channel|>final<|message|>7"
    elif template.tags is not None:
        text = RAW[template.tags] + text
    opened = template.tags == "close"
    marks = [] if template.answer is None else [template.answer]
    reasoning = None if template.tags is None else "3 + 4"
    assert chat.split_thinking(text, opened=opened, marks=marks) == (reasoning, "7", True)
    assert (template.thinking == "never") == (template.tags is None), "a thinker has tags"


MESSAGES = [{"role": "user", "content": "How many?"}]


@pytest.mark.parametrize("family", [ERNIE, HUNYUAN], ids=lambda f: f.name)
def test_a_student_of_another_tokenizer_does_not_learn_the_marks(family):
    recipe = load_recipe(QUICKSTART)
    teacher, student = tokenizer_of(family), tokenizer_of(BY_NAME["qwen3"])
    both = Tokenizers(teacher, student, "they differ")
    prompt_ids = both.prompt_ids(recipe, MESSAGES)
    assert both.split_answer(recipe, prompt_ids, family.said) == ("3 + 4", "7", True)
    ids = teacher(family.said, add_special_tokens=False).input_ids
    learnt = both.training_ids(recipe, MESSAGES, prompt_ids, ids, family.said)[1]
    assert student.decode(learnt) == "<think>\n3 + 4\n</think>\n\n7<|im_end|>"


@pytest.mark.parametrize("family", [ERNIE, HUNYUAN], ids=lambda f: f.name)
def test_without_its_reasoning_an_answer_has_no_marks_of_it(family):
    tokenizer = tokenizer_of(family)
    end = tokenizer.eos_token_id
    prompt_ids = chat.prompt_ids(tokenizer, MESSAGES)
    said = [*tokenizer(family.said, add_special_tokens=False).input_ids, end]
    rest = tokenizer.decode(chat.without_reasoning(tokenizer, MESSAGES, prompt_ids, said))
    assert "7" in rest and "3 + 4" not in rest
    assert not any(mark in rest for mark in (*RESPONSE, *ANSWER))
    plain = [*tokenizer("<answer>\n7\n</answer>", add_special_tokens=False).input_ids, end]
    if family is HUNYUAN:  # it marks an answer without reasoning likewise
        rest = chat.without_reasoning(tokenizer, MESSAGES, prompt_ids, plain)
        assert "<answer>" not in tokenizer.decode(rest)


def test_the_catalogue_names_every_pair_of_answer_marks():
    assert set(catalog.answer_marks()) == {RESPONSE, ANSWER}
