"""One connection: what a server can do is found out by asking; what it says is understood."""

import asyncio
import base64
import html
from urllib.parse import quote

import pytest
from raw_server_helpers import RawServer, http
from server_helpers import said

from distill.errors import MissingError, RecipeError, ServerError
from distill.models.sampling import Sampling
from distill.recipe.sections import Generate
from distill.teachers.server.adapters import (
    Chat,
    CompletionRequest,
    Completions,
    LlamaCpp,
)
from distill.teachers.server.budget import Budget
from distill.teachers.server.client import Endpoint
from distill.teachers.server.discover import PROBE_TEXT, connect
from distill.teachers.server.pool import RequestPool

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


SECRET = "sk-secret/0123+4567=89"


def echoes(key):
    """Whole answers that hold the key where it could be shown, or kept."""
    broken = said(f"half {key}", reason="abort")
    log_probs = {"top_logprobs": [{f"token_id:{key}": -1.0}]}
    choice = {"text": "x", "token_ids": [4], "finish_reason": "stop", "logprobs": log_probs}
    return {
        "a redirect": http("", 307, Location=f"http://x/?token={quote(key, safe='')}"),
        "a redirect as it is": http("", 302, Location=f"http://x/?token={key}"),
        "an answer that was broken off": http(broken),
        "an answer": http(said(f"your key is {key}")),
        "reasoning": http(said("4", reasoning_content=f"your key is {key}")),
        "a name that is a number": http({"choices": [choice]}),
        "a page": http(f"<p>{html.escape(key)}</p>"),
        "an error": http({"error": {"message": f"no such key: {key}"}}),
        "an error in base64": http({"error": base64.b64encode(f"Bearer {key}".encode()).decode()}),
        "a status": http(f"bad key {key}", 400),
        "a status, escaped": http("".join(f"\\u{ord(c):04x}" for c in key), 418),
        "its balance": http({"error": {"code": f"insufficient_quota of {key}"}}, 403),
        "a protocol": f"HTTP/1.1 {key} X\r\n\r\n".encode(),
        "an encoding": http({}, Content_Encoding=key),
        "a reason": http(said("4", reason=key)),
        "a model": http(said("4") | {"model": key}),
    }


@pytest.mark.parametrize("where", echoes(SECRET))
def test_the_key_is_in_nothing_that_is_shown_or_kept(where, monkeypatch):
    """Neither in errors, nor in what stands in for an answer, nor in an answer's row."""
    monkeypatch.setenv("SOME_KEY", SECRET)
    server, kept, news = RawServer(), [], []

    bad = echoes(SECRET)[where]

    def send(number, path, body):
        if "messages" not in body:
            return http({}, 404)
        return http(said("4")) if body["messages"][0]["content"] == PROBE_TEXT else bad

    server.send = send

    async def go():
        endpoint = Endpoint(server.url, "m", "SOME_KEY", timeout=5.0)
        met = await connect(endpoint, PROMPT, Budget(Generate(prompts="p.jsonl")))
        met.budget.has_answered = True
        pool = RequestPool(
            met, Sampling(0.0, 1.0, 0, 24), 1, lambda q, a: kept.append(a), said_news, first_delay=0
        )
        try:
            await pool.run(iter([REQUEST]))
        except ServerError as error:
            news.append(str(error))
        finally:
            await met.client.aclose()

    def said_news(text):
        news.append(text)
        if "the connection broke" in text:  # which no request is given up for
            server.send = lambda number, path, body: http(said("4"))

    try:
        asyncio.run(go())
    finally:
        server.stop()
    everything = repr((news, kept))
    assert SECRET not in everything and "0123" not in everything and len(news) + len(kept) > 0
    assert (
        where == "a model" or "***" in everything or "the key" in everything or kept[0].text == "4"
    )
    if "an answer" in where or where == "reasoning":
        assert kept[0].finish_reason == "error"
