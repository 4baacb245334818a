"""A teacher on a server, whole: what it answers is what a student can learn."""

import pytest
from families import BY_NAME, tokenizer_of
from run_helpers import QUICKSTART
from server_helpers import said

from distill import chat, generate
from distill.chat.tokenizers import Tokenizers
from distill.data.samples import Prompt
from distill.recipe import load_recipe
from distill.teachers import connect as connect_teacher
from distill.teachers.answers import raw_row
from distill.teachers.requests import AnswerJob, Block, Request, RequestOptions


def quiet(text):
    pass


@pytest.mark.parametrize("shows", [{}, {"reasoning_content": "3 and 4"}], ids=["hidden", "apart"])
def test_an_answer_whose_reasoning_the_server_keeps_to_itself_is_whole(api, tmp_path, shows):
    """R1's template opens the reasoning in the prompt; an answer without a closing tag would be taken for one that was cut."""
    tokenizer = tokenizer_of(BY_NAME["deepseek-r1"])
    recipe = load_recipe(
        QUICKSTART,
        [
            f"teacher.server={api.url}",
            "generate.task=null",
            "generate.max_new_tokens=40",
            "languages=[en]",
        ],
    )
    prompt = Prompt(({"role": "user", "content": "What is 3 + 4?"},), "en")
    teacher = connect_teacher(recipe)
    teacher.tokenizers = Tokenizers(tokenizer, tokenizer)
    options = RequestOptions.of(recipe)
    request = Request("k", prompt, chat.prompt_ids(tokenizer, prompt.text), 0, 1)
    assert chat.opens_thinking(tokenizer, request.prompt_ids)
    completions = []
    for reason, text in (("stop", "They are seven apples."), ("length", "They are")):
        api.reply = lambda number, body, text=text, reason=reason: said(
            text, reason=reason, **shows
        )
        block = Block([request])
        teacher.answer(
            AnswerJob(iter([block]), options, {}, lambda q, a: completions.append(a), quiet)
        )
    full, cut = completions

    def candidate_of(completion):
        row = raw_row(teacher, request, completion, options)
        return generate._candidate(recipe, request, row, teacher.tokenizers)

    candidate = candidate_of(full)
    assert (candidate.finish_reason, candidate.answer_text) == ("stop", "They are seven apples.")
    assert candidate.reasoning == shows.get("reasoning_content")
    learnt = tokenizer.decode([*request.prompt_ids, *full.token_ids])
    assert (
        learnt.count("<think>") == learnt.count("</think>") == 1
        and full.token_ids[-1] == tokenizer.eos_token_id
    )
    assert candidate_of(cut).finish_reason == "length"
