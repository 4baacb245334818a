"""One connection: what a server can do is found out by asking; what it says is understood."""

import asyncio
import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from distill.errors import MissingError, RecipeError, ServerError
from distill.models.sampling import Sampling
from distill.recipe.sections import Generate
from distill.teachers.server.adapters import (
    Chat,
    CompletionRequest,
    Completions,
    LlamaCpp,
)
from distill.teachers.server.budget import FREE, Budget, Prices, Usage
from distill.teachers.server.client import Endpoint
from distill.teachers.server.discover import connect
from distill.teachers.server.replies import join_url, retry_after

PROMPT = [1, 2, 3]
REQUEST = CompletionRequest("k", [{"role": "user", "content": "2+2?"}], PROMPT, 7)


def connected(url, api_key_env=None, **more):
    async def go():
        endpoint = Endpoint(url, "m", api_key_env, timeout=5.0)
        budget = Budget(Generate(prompts="p.jsonl"))
        server = await connect(endpoint, PROMPT, budget, first_delay=0.01, **more)
        await server.client.aclose()
        return server

    return asyncio.run(go())


def test_llama_cpp_is_found_to_give_exact_ids(llama_server):
    assert connected(llama_server).adapter is LlamaCpp
    assert connected(llama_server + "/v1/").adapter is LlamaCpp


def test_a_server_without_ids_is_asked_for_text(proxy):
    """Status 200 proves nothing: /v1/completions answers, but without the ids that were asked for."""
    proxy.trouble = lambda number, path: "404" if path == "/completion" else None
    server = connected(proxy.url)
    assert server.adapter is Chat and [a["path"] for a in proxy.asked] == [
        "/v1/completions",
        "/completion",
        "/v1/chat/completions",
    ]


def test_nothing_there(proxy):
    proxy.stop()
    with pytest.raises(MissingError, match=f"{proxy.port}.*nothing answers"):
        connected(proxy.url)


def test_a_server_that_refuses_everything_is_quoted(proxy):
    proxy.trouble = lambda number, path: "400"
    with pytest.raises(ServerError, match=r"chat/completions: status 400.*as you asked"):
        connected(proxy.url)


@pytest.mark.parametrize("status, tries", [("401", 3), ("402", 1), ("403", 3)])
def test_a_refused_key_stops_and_is_not_shown(proxy, status, tries, monkeypatch):
    """Many say 401 or 403 of a path that they do not have: only every path tells."""
    monkeypatch.setenv("SOME_KEY", "secret-123")
    proxy.trouble = lambda number, path: status
    with pytest.raises(ServerError) as error:
        connected(proxy.url, api_key_env="SOME_KEY")
    assert (
        status in str(error.value)
        and "secret-123" not in str(error.value)
        and len(proxy.asked) == tries
    )
    assert proxy.headers[0]["Authorization"] == "Bearer secret-123"


def test_a_key_that_is_not_set_is_an_error_before_anything_is_sent(proxy, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(RecipeError, match=r"teacher\.api_key_env.*NO_SUCH_KEY"):
        connected(proxy.url, api_key_env="NO_SUCH_KEY")
    assert not proxy.asked


@pytest.mark.parametrize("status", ["400", "404", "401", "500"])
def test_a_server_that_repeats_the_key_does_not_have_it_shown(proxy, status, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "as you")  # which the proxy's words hold
    proxy.trouble = lambda number, path: status
    with pytest.raises(ServerError) as error:
        connected(proxy.url, api_key_env="SOME_KEY")
    assert "*** asked" in str(error.value) and "as you" not in str(error.value)


def test_the_line_end_of_a_file_is_not_part_of_the_key(proxy, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret-123\r\n")
    connected(proxy.url, api_key_env="SOME_KEY")
    assert proxy.headers[0]["Authorization"] == "Bearer secret-123"


@pytest.mark.parametrize("key", ["secret-键", "secret\n123"])
def test_what_is_no_key_is_refused_unseen(proxy, key, monkeypatch):
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(
        RecipeError, match=r"api_key_env: 'SOME_KEY': a key is printable ASCII"
    ) as error:
        connected(proxy.url, api_key_env="SOME_KEY")
    assert "secret" not in str(error.value) and not proxy.asked


def test_a_page_instead_of_json_is_quoted(proxy):
    proxy.trouble = lambda number, path: "not json"
    with pytest.raises(ServerError, match="not JSON: '<html>busy</html>'"):
        connected(proxy.url)


def test_https_of_a_server_that_speaks_http_only(proxy):
    with pytest.raises(MissingError, match="does it speak http:// only"):
        connected(proxy.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "url, path, joined",
    [
        ("http://h:1", "v1/completions", "http://h:1/v1/completions"),
        ("http://h:1/v1/", "v1/completions", "http://h:1/v1/completions"),
        ("https://h/api/v1", "v1/models", "https://h/api/v1/models"),
        ("http://h:1/v1", "completion", "http://h:1/completion"),
        (
            "https://open.bigmodel.cn/api/paas/v4",
            "v1/chat/completions",
            "https://open.bigmodel.cn/api/paas/v4/chat/completions",
        ),
        (
            "https://qianfan.baidubce.com/v2/",
            "v1/chat/completions",
            "https://qianfan.baidubce.com/v2/chat/completions",
        ),
        ("https://h/compatible-mode/v1", "v1/models", "https://h/compatible-mode/v1/models"),
        ("https://h/v1beta/openai", "v1/models", "https://h/v1beta/openai/models"),
        ("https://v1.h/prefix", "v1/models", "https://v1.h/prefix/v1/models"),
        ("http://h:1", "completion", "http://h:1/completion"),
    ],
)
def test_urls(url, path, joined):
    assert join_url(url, path) == joined


def test_retry_after_is_seconds_or_a_date():
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert 8 < (retry_after({"retry-after": formatdate(time.time() + 10, usegmt=True)}) or 0) <= 10
    assert retry_after({"retry-after": formatdate(time.time() - 10, usegmt=True)}) == 0
    assert retry_after({}) is None and retry_after({"retry-after": "soon"}) is None


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


def test_every_limit_is_named_when_it_is_reached():
    budget = Budget(
        Generate(prompts="p.jsonl"), own=Usage(10, 2_000_000, 1_000_000, 5_000_000, 3.0)
    )

    def reached(**limits):
        limits = Generate(prompts="p.jsonl", price_prompt=0.5, price_answer=2.0, **limits)
        return replace(budget, limits=limits).limit_reached(one_more)

    one_more = budget.need(100, 1000, Prices(0.5, 2.0))
    assert one_more == Usage(1, 100, 1000, 500_000, 0.00205)
    assert reached() is None
    for name, limit in [
        ("max_requests", 10),
        ("max_tokens", 3_000_000),
        ("max_cost", 3.0),
        ("max_megabytes", 5.0),
    ]:
        assert (reached(**{name: limit}) or "").startswith(f"{name} (")
        assert reached(**{name: limit + 1}) is None or name == "max_tokens"
    budget.started -= 7200
    assert (reached(max_hours=2) or "").startswith("max_hours")


def test_one_more_must_fit_beside_those_in_flight():
    budget = Budget(Generate(prompts="p.jsonl", max_tokens=1000), own=Usage(2, 100, 300))
    need = budget.need(50, 200, FREE)
    assert budget.fits(need)
    budget.in_flight.add(need)
    assert budget.fits(need), "100 + 300 + 250 + 250"
    budget.in_flight.add(need)
    assert not budget.fits(need) and budget.limit_reached(need) is None, (
        "it may when those are back"
    )
    assert (
        budget.limit_reached(Usage(1, 50, 600))
        == "max_tokens (400 of 1000, and one more answer may take 650)"
    )


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


def test_a_server_that_gives_no_log_probs_is_refused_and_quoted(proxy):
    def go(num):
        return connected(
            proxy.url,
            adapters=(Completions, LlamaCpp),
            sampling=Sampling(0.0, 1.0, 0, 24, num_log_probs=num),
        )

    server = go(20)
    assert server.adapter is LlamaCpp and proxy.asked[-1]["n_probs"] == 20
    with pytest.raises(
        ServerError, match=r"log-probs of \d+ tokens where 5000 .*capture\.top_k.*from_server"
    ):
        go(5000)
