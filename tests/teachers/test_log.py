"""What an answer's key holds, and what it does not: what is paid for again, and what is not."""

import pytest
from families import BY_NAME, tokenizer_of
from run_helpers import QUICKSTART

from distill.chat.tokenizers import Tokenizers
from distill.data.samples import Prompt
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.keys import request_maker
from distill.teachers.log import best_rows, final_rows
from distill.teachers.requests import RequestOptions


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(BY_NAME["qwen3"])  # its template can be told not to think


def key(tokenizer, *fields, question="What is 3 + 4?", index=0, **more):
    recipe = load_recipe(QUICKSTART, list(fields))
    teacher = connect(recipe)
    teacher.tokenizers = Tokenizers(tokenizer, tokenizer)
    make = request_maker(teacher, RequestOptions.of(recipe))
    return make(
        Prompt(({"role": "user", "content": question},), **{"language": "en", **more}), index
    ).key


@pytest.mark.parametrize(
    "field",
    [
        "generate.sampling_temperature=0.9",
        "generate.top_p=0.5",
        "generate.top_k=3",
        "generate.system_prompt=Be brief.",
        "generate.enable_thinking=false",
        "teacher.dtype=bfloat16",
        "teacher.quantization=int8",
    ],
)
def test_another_teacher_or_sampling_asks_anew(tokenizer, field):
    assert key(tokenizer, field) != key(tokenizer)


def test_another_prompt_or_draw_asks_anew(tokenizer):
    assert (
        len({key(tokenizer), key(tokenizer, question="What is 3 + 5?"), key(tokenizer, index=1)})
        == 3
    )


@pytest.mark.parametrize(
    "fields",
    [
        ["generate.max_new_tokens=777"],
        ["seed=5"],
        ["generate.samples_per_prompt=3", "generate.max_tries=4"],
        [
            "teacher.server=http://other:1",
            "generate.concurrency=3",
            "generate.request_timeout=1",
            "teacher.api_key_env=KEY",
        ],
        [
            "generate.max_requests=1",
            "generate.price_answer=9",
            "generate.max_hours=1",
            "generate.retry_errors=true",
        ],
        ["teacher.batch_tokens=9000", "run_folder=elsewhere", "num_processes=2"],
        [
            "generate.task=null",
            "generate.max_characters=9",
            "generate.near_duplicate=0.5",
            "generate.reasoning=drop",
            "languages=[en]",
        ],
    ],
)
def test_limits_machines_and_filters_ask_nothing_anew(tokenizer, fields):
    assert key(tokenizer, *fields) == key(tokenizer)


def test_what_a_prompt_is_checked_by_is_not_asked(tokenizer):
    assert key(
        tokenizer, language="sw", reference="7", source="elsewhere.jsonl", source_id="12"
    ) == key(tokenizer)


def row(reason, most=100, key="k", text=""):
    return {
        "key": key,
        "finish_reason": reason,
        "max_new_tokens": most,
        "text": text,
        "token_ids": [1],
    }


def test_a_finished_answer_is_the_best_then_the_longest_cut_then_an_error():
    order = [row("stop", text="a"), row("length", 200), row("length", 100), row("error", 300)]
    for n, best in enumerate(order):
        for other in order[n + 1 :]:
            assert best_rows([best, other]) == best_rows([other, best]) == {"k": best}
    assert best_rows([row("stop", text="a"), row("stop", text="b")])["k"]["text"] == "a", (
        "the first written"
    )
    assert (
        best_rows([row("error"), row("content_filter")])["k"]["finish_reason"] == "content_filter"
    )


def test_an_error_that_was_asked_again_is_over():
    """`retry_errors` pays once for each; and a longer answer that was refused is not asked for in every run."""
    recipe, again = (
        load_recipe(QUICKSTART, ["generate.max_new_tokens=200", f"generate.retry_errors={v}"])
        for v in ("false", "true")
    )
    assert final_rows([row("error"), row("stop")], again)["k"]["finish_reason"] == "stop"
    assert final_rows([row("error", 200)], again) == {} and "k" in final_rows(
        [row("error", 200)], recipe
    )
    assert (
        final_rows([row("length", 100), row("error", 200)], recipe)["k"]["finish_reason"]
        == "length"
    )
    assert final_rows([row("error", 100), row("length", 100)], recipe) == {}, (
        "that was refused at another length"
    )
    assert final_rows([row("length", 100), row("error", 200)], again) == {}


def named(name):
    return ["teacher.server=http://h:1", f"teacher.server_model={name}"]


def test_another_name_on_the_server_is_another_model(tokenizer):
    same = key(tokenizer)
    model = load_recipe(QUICKSTART).teacher.model
    assert (
        key(tokenizer, *named("null"))
        == key(tokenizer, *named(model))
        == key(tokenizer, "teacher.server_model=a")
        == same
    )
    assert (
        len(
            {
                same,
                key(tokenizer, *named("deepseek-chat")),
                key(tokenizer, *named("deepseek-reasoner")),
            }
        )
        == 3
    )
