"""How each kind of server is asked, and how its answer is read."""

import pytest

from distill.models.sampling import Sampling
from distill.teachers.server.adapters import (
    Chat,
    CompletionRequest,
    Completions,
    LlamaCpp,
)

PROMPT = [1, 2, 3]


REQUEST = CompletionRequest("k", [{"role": "user", "content": "2+2?"}], PROMPT, 7)


def test_only_what_the_recipe_asks_for_is_sent():
    """Servers refuse fields they do not know, and apply defaults of their own to those they do not get."""
    plain = Chat.body("m", REQUEST, Sampling(1.0, 1.0, 0, 50))
    assert plain.keys() == {"model", "messages", "max_tokens", "temperature", "seed"}
    full = Chat.body("m", REQUEST, Sampling(0.7, 0.8, 20, 50, (2,), enable_thinking=False))
    assert (full["top_p"], full["top_k"], full["chat_template_kwargs"]) == (
        0.8,
        20,
        {"enable_thinking": False, "thinking": False},
    )
    assert LlamaCpp.body("m", REQUEST, Sampling(1.0, 1.0, 0, 50))["samplers"] == ["temperature"]
    assert Completions.body("m", REQUEST, Sampling(1.0, 1.0, 0, 50, (2, 5)))["prompt"] == PROMPT


def test_a_reasoning_field_goes_before_the_answer():
    """vLLM and SGLang say reasoning_content, some APIs reasoning; either is what the model wrote first."""
    for name in ("reasoning_content", "reasoning"):
        found = {
            "choices": [
                {"message": {"content": "4", name: "two and two\n"}, "finish_reason": "stop"}
            ]
        }
        assert Chat.read(found).text == "<think>\ntwo and two\n</think>\n\n4"
    assert (
        Chat.read(
            {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
        ).finish_reason
        == "length"
    )


def test_answers_of_vllm():
    found = {
        "choices": [
            {
                "index": 0,
                "text": "4",
                "token_ids": [19, 2],
                "prompt_token_ids": PROMPT,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    answer = Completions.read(found)
    assert (answer.token_ids, answer.finish_reason, answer.prompt_tokens, answer.answer_tokens) == (
        [19, 2],
        "stop",
        3,
        2,
    )
    for broken in (None, "19 2", [19, "2"]):
        found["choices"][0]["token_ids"] = broken
        with pytest.raises(KeyError):
            Completions.read(found)


def test_log_probs_of_llama_cpp_belong_to_their_tokens():
    """It leaves out tokens that end inside a character: 7 and the first 8 here; the second 8 completes it."""
    entries = [
        {"id": i, "top_logprobs": [{"id": i, "logprob": -0.5}, {"id": 99, "logprob": -2}]}
        for i in (5, 8, 2)
    ]
    found = {
        "content": "",
        "tokens": [5, 7, 8, 8, 2],
        "tokens_evaluated": 1,
        "tokens_predicted": 5,
        "completion_probabilities": entries,
    }
    answer = LlamaCpp.read(found)
    assert answer.log_probs == [{5: -0.5, 99: -2}, None, None, {8: -0.5, 99: -2}, {2: -0.5, 99: -2}]
    with pytest.raises(ValueError, match="token 5"):
        LlamaCpp.read(found | {"tokens": [7, 8, 2]})


def test_log_probs_of_vllm():
    rows = [{"token_id:4": -0.1, "token_id:9": -3.0}, {"token_id:6": -9999.0}]
    choice = {
        "text": "x",
        "token_ids": [4, 6],
        "finish_reason": "stop",
        "logprobs": {"tokens": ["token_id:4"], "top_logprobs": rows},
    }
    assert Completions.read({"choices": [choice]}).log_probs == [{4: -0.1, 9: -3.0}, {6: -9999.0}]
    named = choice | {"logprobs": {"top_logprobs": [{"the": -0.1}, {"cat": -1}]}}
    with pytest.raises(ValueError):
        Completions.read({"choices": [named]})
