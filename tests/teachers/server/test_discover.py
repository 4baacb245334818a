"""Meeting a server: busy for a moment it is the same server; what it does not take, and how it is told to think, is found out."""

import asyncio

import pytest
from families import BY_NAME, tokenizer_of
from server_helpers import said

from distill.errors import ServerError
from distill.models.sampling import Sampling
from distill.recipe.sections import Generate
from distill.teachers.requests import Completion
from distill.teachers.server.adapters import Chat, LlamaCpp
from distill.teachers.server.budget import Budget
from distill.teachers.server.client import Endpoint
from distill.teachers.server.discover import TRIES, connect
from distill.teachers.server.teacher import describe_server
from distill.teachers.server.token_ids import other_vocabulary

SAMPLING = Sampling(0.7, 0.8, 20, 1024, (2,))


def met(url, sampling=SAMPLING, budget=None, **more):
    async def go():
        endpoint = Endpoint(url, "m", timeout=5.0)
        own = budget or Budget(Generate(prompts="p.jsonl"))
        server = await connect(
            endpoint, [1, 2, 3], own, sampling=sampling, first_delay=0.01, **more
        )
        await server.client.aclose()
        return server

    return asyncio.run(go())


@pytest.mark.parametrize("fault", ["503", "429", "500", "cut", "not json"])
def test_a_server_that_is_busy_for_a_moment_is_no_other_server(proxy, fault):
    proxy.trouble = lambda number, path: (
        fault if number in (1, 2) and path == "/completion" else None
    )
    assert met(proxy.url).adapter is LlamaCpp


def test_one_that_stays_busy_is_not_taken_for_another(proxy):
    proxy.trouble = lambda number, path: "503" if path == "/completion" else None
    with pytest.raises(ServerError, match=r"refuses for load.*less busy"):
        met(proxy.url)
    assert sum(a["path"] == "/completion" for a in proxy.asked) == TRIES["load"]


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_key_that_is_refused_on_paths_that_are_not_there_is_good_for_chat(proxy, status):
    proxy.trouble = lambda number, path: None if path == "/v1/chat/completions" else status
    server = met(proxy.url)
    assert server.adapter is Chat and f"status {status}" in describe_server(server, SAMPLING)


def test_it_is_met_once_a_run(proxy):
    budget = Budget(Generate(prompts="p.jsonl"))
    first = met(proxy.url, budget=budget)
    num = len(proxy.asked)
    again = met(proxy.url, budget=budget)
    assert (
        len(proxy.asked) == num == budget.own.requests
        and again.adapter is first.adapter
        and again.client is not first.client
    )
    met(proxy.url, Sampling(1.0, 1.0, 0, 8), budget=budget)
    assert len(proxy.asked) == 2 * num, "other fields may be refused"


def refusing(*names):
    def reply(number, body):
        found = [name for name in names if name in body]
        return (
            (400, {"error": {"message": f"Unrecognized request argument supplied: {found[0]}"}})
            if found
            else said("4")
        )

    return reply


@pytest.mark.parametrize(
    "names, way_out",
    [
        (["top_k"], "top_k to 0"),
        (["top_p"], "top_p to 1"),
        (["top_k", "top_p"], "top_k to 0.*top_p to 1"),
    ],
)
def test_a_field_that_it_does_not_take_is_named_with_the_way_out(api, names, way_out):
    api.reply = refusing(*names)
    with pytest.raises(
        ServerError, match=rf"does not take .*{names[0]}.*Unrecognized.*set generate\.{way_out}"
    ):
        met(api.url)
    assert len(api.asked) <= 5


def test_a_seed_that_it_does_not_take_is_not_sent_and_that_is_said(api):
    api.reply = refusing("seed")
    server = met(api.url)
    assert server.without == {"seed"} and "takes no seed" in describe_server(server, SAMPLING)


def test_a_model_that_is_not_there_is_the_refusal_that_is_shown(api):
    api.reply = lambda number, body: (404, {"error": {"message": "no such model"}})
    with pytest.raises(ServerError, match=r"no such model.*teacher\.server_model"):
        met(api.url)


OBEYS = {
    "chat_template_kwargs": lambda body: body.get("chat_template_kwargs", {}).get(
        "enable_thinking"
    ),
    "enable_thinking": lambda body: body.get("enable_thinking"),
    "thinking": lambda body: {None: None, "enabled": True, "disabled": False}[
        body.get("thinking", {}).get("type")
    ],
}


def thinker(switch, shows):
    """A model that thinks unless this switch forbids it."""

    def reply(number, body):
        if switch is not None and OBEYS[switch](body) is False:
            return said("4", reasoning_content="")
        return said("4", **shows) if isinstance(shows, dict) else said(shows)

    return reply


@pytest.mark.parametrize(
    "shows", [{"reasoning_content": "two and"}, {"reasoning": "two and"}, "<think>\ntwo and"]
)
@pytest.mark.parametrize("switch", OBEYS)
def test_the_switch_that_turns_thinking_off_is_found(api, switch, shows):
    api.reply = thinker(switch, shows)
    sampling = Sampling(0.7, 1.0, 0, 64, enable_thinking=False)
    server = met(api.url, sampling)
    assert server.switch == switch and f"turned off by {switch}" in describe_server(
        server, sampling
    )
    assert switch in api.asked[-1] and len(OBEYS.keys() & api.asked[-1].keys()) == 1


def test_a_model_that_always_thinks_is_refused_where_it_shall_not(api):
    api.reply = thinker(None, {"reasoning_content": "two and"})
    with pytest.raises(
        ServerError,
        match=r"generate\.enable_thinking is false.*obeys no switch.*generate\.reasoning to drop",
    ):
        met(api.url, Sampling(0.7, 1.0, 0, 64, enable_thinking=False))


def test_hidden_reasoning_is_known_by_its_count(api):
    def reply(number, body):
        found = said("4", usage=(9, 30))
        details = {"reasoning_tokens": 0 if body.get("thinking") == {"type": "disabled"} else 27}
        return found | {"usage": found["usage"] | {"completion_tokens_details": details}}

    api.reply = reply
    assert met(api.url, Sampling(0.7, 1.0, 0, 64, enable_thinking=False)).switch == "thinking"


def test_a_switch_that_is_refused_is_not_the_one(api):
    """And thinking that shall be on is known by its effect, too."""

    def reply(number, body):
        if "chat_template_kwargs" in body:
            return 400, {"error": {"message": "unknown field"}}
        return said("4", reasoning_content="two") if body.get("enable_thinking") else said("4")

    api.reply = reply
    assert met(api.url, Sampling(0.7, 1.0, 0, 64, enable_thinking=True)).switch == "enable_thinking"


def test_a_server_that_answers_only_when_it_need_not_think(api):
    """DashScope refuses some models that think to requests that are not streamed."""
    api.reply = lambda number, body: (
        said("4")
        if body.get("enable_thinking") is False
        else (400, {"error": "thinking must be streamed"})
    )
    assert (
        met(api.url, Sampling(0.7, 1.0, 20, 64, enable_thinking=False)).switch == "enable_thinking"
    )
    with pytest.raises(ServerError, match="must be streamed"):
        met(api.url, Sampling(0.7, 1.0, 20, 64))


def test_a_field_that_it_does_not_take_is_found_beside_the_switch(api):
    api.reply = refusing("top_k", "chat_template_kwargs")
    with pytest.raises(ServerError, match=r"does not take top_k "):
        met(api.url, Sampling(0.7, 0.8, 20, 64, enable_thinking=False))


def test_one_that_never_says_why_an_answer_ended_is_known(api):
    api.reply = lambda number, body: said("4", reason=None)
    server = met(api.url)
    assert not server.tells_reasons and "counts as cut" in describe_server(server, SAMPLING)


def test_ids_of_another_vocabulary_are_not_taken(proxy):
    server = met(
        proxy.url, disagreement=lambda answer: "another vocabulary" if answer.token_ids else None
    )
    assert server.adapter is Chat and "completion: another vocabulary" in describe_server(
        server, SAMPLING
    )


def test_ids_agree_with_the_text_or_they_do_not():
    tokenizer = tokenizer_of(BY_NAME["qwen3"])
    for text in ("They are seven apples.", "人人生而自由", "<think>\n", "👍🏽 yes", ""):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert (
            other_vocabulary(tokenizer, Completion(text, "stop", [*ids, tokenizer.eos_token_id]))
            is None
        )
        assert (
            other_vocabulary(
                tokenizer,
                Completion(text + tokenizer.eos_token, "stop", [*ids, tokenizer.eos_token_id]),
            )
            is None
        )
    ids = tokenizer("👍🏽 yes", add_special_tokens=False).input_ids[:1]
    assert other_vocabulary(tokenizer, Completion("", "length", ids)) is None, (
        "half a character is held back"
    )
    ids = tokenizer("They are seven apples.", add_special_tokens=False).input_ids
    wrong = other_vocabulary(
        tokenizer, Completion("They are seven apples.", "stop", [i + 5 for i in ids])
    )
    assert wrong is not None and "They are seven apples." in wrong
