"""Many requests: each is answered once, whatever the network does; limits and signals stop it cleanly."""

import asyncio
import json
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from run_helpers import ROOT
from server_helpers import said

from distill import chat
from distill.core import shutdown
from distill.errors import ServerError, Stopped
from distill.filters.answer_form import format_problem
from distill.models import load
from distill.models.sampling import Sampling
from distill.recipe.sections import Generate
from distill.tasks import market
from distill.teachers.server.adapters import CompletionRequest
from distill.teachers.server.budget import Budget, Prices
from distill.teachers.server.checks import Vocabulary
from distill.teachers.server.client import Endpoint
from distill.teachers.server.discover import connect
from distill.teachers.server.pool import RequestPool

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
GREEDY = Sampling(0.0, 1.0, 0, 24)


@pytest.fixture(scope="module")
def requests():
    tokenizer = load.load_tokenizer(str(TEACHER))
    prompts = market.examples(40, seed=5)
    return [
        CompletionRequest(
            str(n),
            [{"role": "user", "content": p["prompt"]}],
            chat.prompt_ids(tokenizer, p["prompt"]),
            n,
        )
        for n, p in enumerate(prompts)
    ]


def ask(url, requests, *, during=None, timeout=10.0, on_answer=None, **options):
    """(answers by key, how often each came, server) of a whole pool with short waits."""
    answers, times = {}, Counter()
    recipe = Generate(prompts="p.jsonl", **{"concurrency": 8, **options})

    def record(request, answer):
        answers[request.key] = answer
        times[request.key] += 1
        if on_answer is not None:
            on_answer(len(times))

    async def go():
        endpoint = Endpoint(url, "m", timeout=timeout)
        server = await connect(endpoint, [1, 2, 3], Budget(recipe), first_delay=0.01)
        server.budget.own.requests = 0
        if during is not None:
            during()
        pool = RequestPool(
            server, GREEDY, recipe.concurrency, record, quiet, first_delay=0.05, first_probe=0.1
        )
        try:
            await pool.run(iter(requests))
        except (Stopped, ServerError) as error:
            server.stopped = error  # type: ignore[attr-defined]
        finally:
            await server.client.aclose()
        return server

    return answers, times, asyncio.run(go())


def quiet(text):
    pass


@pytest.fixture(scope="module")
def calm(llama_server, requests):
    """What the server answers where nothing goes wrong."""
    answers, times, server = ask(llama_server, requests)
    assert set(times.values()) == {1} and len(answers) == server.budget.own.requests == len(
        requests
    )
    return answers


def test_greedy_answers_are_those_of_transformers(calm, requests):
    """The same weights, template and ids: another runtime's rounding may turn a near tie, hardly ever more."""
    import torch

    from distill.models.decode import answer

    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    found = {}
    with torch.inference_mode():
        answer(
            model,
            [q.prompt_ids for q in requests],
            seeds=range(len(requests)),
            sampling=replace(GREEDY, stop_ids=(model.config.eos_token_id,)),
            pad_id=0,
            on_finished=lambda i, ids, why: found.setdefault(str(i), (ids, why)),
        )
    end = model.config.eos_token_id
    same = [
        [i for i in found[k][0] if i != end] == [i for i in a.token_ids if i != end]
        for k, a in calm.items()
    ]
    assert sum(same) >= 0.95 * len(same)
    assert {a.finish_reason for a in calm.values()} <= {"stop", "length"}


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "stall", "not json", "wrong json"])
def test_every_question_is_answered_once_whatever_goes_wrong(proxy, requests, calm, fault):
    """Every fifth request meets the fault; no answer is lost, none comes twice, none is asked again without need."""
    faults = [0]

    def trouble(number, path):
        if path != "/completion" or number < 2 or number % 5:
            return None
        faults[0] += 1
        return fault

    proxy.trouble, proxy.stall_seconds = trouble, 0.6
    answers, times, server = ask(proxy.url, requests, timeout=0.5 if fault == "stall" else 10.0)
    assert {k: a.token_ids for k, a in answers.items()} == {k: a.token_ids for k, a in calm.items()}
    assert set(times.values()) == {1} and faults[0] >= 5
    if fault != "stall":  # on a busy machine an honest answer may be late as well
        assert server.budget.own.requests == len(requests) + faults[0]


def test_retry_after_is_obeyed(proxy, requests):
    seen = []

    def trouble(number, path):
        seen.append(time.monotonic())
        return "429" if number == 2 else None

    proxy.trouble, proxy.retry_after = trouble, "1"
    answers, _, _ = ask(proxy.url, requests[:1])
    assert len(answers) == 1 and seen[-1] - seen[-2] >= 1.0


def test_an_outage_marks_nothing_failed(proxy, requests, calm):
    """The server goes away in the middle and comes back: sending pauses, everything is answered in the end."""

    def trouble(number, path):
        if number == 12:
            threading.Thread(target=outage, daemon=True).start()
        return None

    def outage():
        proxy.stop()
        time.sleep(1.0)
        proxy.trouble = lambda number, path: None
        proxy.start()

    proxy.trouble = trouble
    answers, times, _ = ask(proxy.url, requests)
    assert {k: a.token_ids for k, a in answers.items()} == {k: a.token_ids for k, a in calm.items()}
    assert set(times.values()) == {1} and all(a.error is None for a in answers.values())


def test_a_question_that_is_refused_is_answered_by_the_refusal(proxy, requests):
    refused = requests[3].prompt_ids
    proxy.trouble = lambda number, path: (
        "400" if proxy.asked[number].get("prompt") == refused else None
    )
    answers, _, _ = ask(proxy.url, requests[:8])
    assert [k for k, a in answers.items() if a.finish_reason == "error"] == ["3"]
    assert "as you asked" in answers["3"].error and len(answers) == 8


def test_a_key_that_is_refused_later_stops_all_and_keeps_what_there_is(proxy, requests):
    proxy.trouble = lambda number, path: "402" if number >= 12 else None
    answers, _, server = ask(proxy.url, requests)
    assert isinstance(server.stopped, ServerError) and "402" in str(server.stopped)
    assert 5 <= len(answers) <= 10 and len(proxy.asked) < 25, (
        "not every question has to meet the refusal"
    )


@pytest.mark.parametrize(
    "limit", [{"max_requests": 10}, {"max_tokens": 500}, {"max_megabytes": 0.02}]
)
def test_a_limit_stops_cleanly(proxy, requests, limit):
    answers, times, server = ask(proxy.url, requests, concurrency=4, **limit)
    assert isinstance(server.stopped, Stopped) and next(iter(limit)) in str(server.stopped)
    assert 1 <= len(answers) < len(requests) and set(times.values()) == {1}
    assert server.budget.own.requests == len(answers), "what was sent was awaited: it is paid for"


def test_a_signal_stops_cleanly(proxy, requests):
    with shutdown.listening():
        answers, _, server = ask(
            proxy.url,
            requests,
            concurrency=2,
            on_answer=lambda n: shutdown._requested.append("SIGINT") if n == 5 else None,
        )
    shutdown._requested.clear()
    assert isinstance(server.stopped, Stopped) and 5 <= len(answers) <= 7
    assert server.budget.own.requests == len(answers)


def test_never_more_at_once_than_the_recipe_allows(proxy, requests):
    in_flight, most = [0], [0]
    forward = proxy.forward

    def counting(path, body):
        in_flight[0] += 1
        most[0] = max(most[0], in_flight[0])
        try:
            return forward(path, body)
        finally:
            in_flight[0] -= 1

    proxy.forward = counting
    ask(proxy.url, requests, concurrency=3)
    assert most[0] == 3


def talk(api, num, *, vocabulary=Vocabulary(), say=quiet, **options):  # noqa: B008 - it is frozen
    """(answers by key, the budget, why it ended or None): `num` conversations that cost 20 tokens of a prompt and up to 30."""
    answers, ended = {}, []
    recipe = Generate(prompts="p.jsonl", **{"concurrency": 4, **options})
    budget, prices = Budget(recipe), Prices(recipe.price_prompt, recipe.price_answer)
    requests = [
        CompletionRequest(str(n), [{"role": "user", "content": f"q{n}"}], [7] * 20, n)
        for n in range(num)
    ]

    async def go():
        first, api.reply = api.reply, lambda number, body: said("4")
        endpoint = Endpoint(api.url, "m", timeout=5.0, prices=prices)
        server = await connect(endpoint, [1], budget, vocabulary=vocabulary)
        api.reply = first
        api.asked.clear()
        api.times.clear()
        pool = RequestPool(
            server,
            Sampling(0.0, 1.0, 0, 30),
            recipe.concurrency,
            lambda q, a: answers.__setitem__(q.key, a),
            say,
            first_delay=0.01,
            first_probe=0.02,
        )
        try:
            await pool.run(iter(requests))
        except (Stopped, ServerError) as error:
            ended.append(error)
        finally:
            await server.client.aclose()

    asyncio.run(go())
    return answers, budget, ended[0] if ended else None


def is_question(body, number):
    return body["messages"][0]["content"] == f"q{number}"


POISON = {
    "error": {
        "error": {"message": "engine fell over", "code": 500},
        "usage": {"prompt_tokens": 20, "completion_tokens": 9},
    },
    "status": (500, {"error": "engine fell over"}),
    "not json": '{"choices": [{"message": {"content": "engine fell over',
    "no choice": {"choices": [], "note": "engine fell over"},
}


@pytest.mark.parametrize("kind", POISON)
def test_a_question_that_is_always_answered_badly_is_given_up_and_what_came_is_kept(api, kind):
    api.reply = lambda number, body: POISON[kind] if is_question(body, 3) else said("4")
    answers, _, ended = talk(api, 8)
    assert (
        ended is None and [k for k, a in answers.items() if a.error] == ["3"] and len(answers) == 8
    )
    bad = answers["3"]
    assert (
        bad.finish_reason == "error"
        and "given up after 5 tries" in bad.error
        and "engine fell over" in bad.raw
    )
    assert sum(is_question(body, 3) for body in api.asked) == bad.usage.requests == 5
    if kind == "error":
        assert (bad.usage.prompt_tokens, bad.usage.answer_tokens) == (100, 45), (
            "what is thrown away is paid for all the same"
        )
    usage = answers["0"].usage
    assert (usage.requests, usage.prompt_tokens, usage.answer_tokens, usage.model) == (
        1,
        9,
        3,
        "served-1",
    )
    assert usage.row().keys() == {
        "requests",
        "prompt_tokens",
        "answer_tokens",
        "bytes",
        "start",
        "end",
        "model",
    }
    assert 0 < usage.start <= usage.end


def test_what_came_is_not_kept_without_measure(api):
    api.reply = lambda number, body: "x" * 100_000 if is_question(body, 0) else said("4")
    answers, _, _ = talk(api, 2)
    assert 20_000 <= len(answers["0"].raw) < 20_100 and answers["0"].raw.endswith(
        "100000 characters"
    )


def test_a_server_that_answers_nothing_well_marks_nothing_failed(api):
    """A dead engine behind a living front says 500 to everybody: it is waited for."""
    api.reply = lambda number, body: (500, {"error": "engine died"}) if number < 26 else said("4")
    answers, _, ended = talk(api, 8)
    assert ended is None and len(answers) == 8 and all(a.error is None for a in answers.values())


@pytest.mark.parametrize(
    "status, error",
    [
        (
            429,
            {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}},
        ),
        (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
        (429, {"error": {"code": "1113", "message": "您的账户已欠费，请充值后重试"}}),
        (400, {"error": {"code": "Arrearage", "message": "Access denied"}}),
        (
            200,
            {
                "choices": None,
                "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"},
            },
        ),
    ],
)
def test_an_empty_account_stops_the_run_and_marks_nothing_failed(api, status, error):
    api.reply = lambda number, body: (status, error) if number >= 4 else said("4")
    answers, _, ended = talk(api, 12)
    assert isinstance(ended, ServerError) and "no balance left" in str(ended)
    assert (
        len(answers) == 4 and all(a.error is None for a in answers.values()) and len(api.asked) <= 8
    )


def test_a_recipe_that_is_refused_from_the_first_request_on_stops_and_records_nothing(
    api, monkeypatch
):
    api.reply = lambda number, body: (400, {"error": "no such thing"})
    answers, _, ended = talk(api, 60)
    assert (
        isinstance(ended, ServerError)
        and "each of the first 20" in str(ended)
        and "no such thing" in str(ended)
    )
    assert not answers and len(api.asked) <= 24
    assert len(talk(api, 12)[0]) == 12, "fewer prompts may each be at fault"
    api.reply = lambda number, body: (400, {"error": "not this"}) if number != 10 else said("4")
    assert len(talk(api, 60)[0]) == 60, "what answers anything refuses prompts, not the recipe"
    monkeypatch.setattr("distill.teachers.server.pool.ALL_REFUSED", 3)
    paid = {"error": "no such thing", "usage": {"prompt_tokens": 20, "completion_tokens": 9}}
    api.reply = lambda number, body: paid if body["messages"][0]["content"][0] == "q" else said("4")
    assert 3 <= len(talk(api, 12)[0]) <= 7, "what was paid for is on record"


@pytest.mark.parametrize("reason", ["abort", "insufficient_system_resource", "error"])
def test_an_answer_that_was_broken_off_is_asked_again_twice(api, reason):
    api.reply = lambda number, body: (
        said("half an", reason=reason) if is_question(body, 1) else said("4")
    )
    answers, _, _ = talk(api, 4)
    assert (
        "broke the answer off" in answers["1"].error
        and answers["1"].raw == "half an"
        and answers["1"].usage.requests == 3
    )
    tries = []

    def twice(number, body):
        tries.extend([number] if is_question(body, 1) else [])
        return (
            said("half an", reason=reason) if is_question(body, 1) and len(tries) < 3 else said("4")
        )

    api.reply = twice
    assert talk(api, 4)[0]["1"].text == "4" and len(tries) == 3


def test_an_answer_that_does_not_say_why_it_ended_is_cut(api):
    api.reply = lambda number, body: (
        said("half", reason=None) if is_question(body, 1) else said("4")
    )
    answers, _, _ = talk(api, 4)
    assert (
        answers["1"].finish_reason == "length"
        and answers["1"].usage.requests == 3
        and answers["2"].finish_reason == "stop"
    )


def test_what_one_request_is_told_to_wait_all_wait(api):
    """The others that are under way come back well, and yet nothing is sent until then."""
    api.headers["Retry-After"] = "1"

    def reply(number, body):
        if number == 1:
            return 429, {"error": "slow down"}
        if number < 4:
            time.sleep(0.3)
        return said("4")

    api.reply = reply
    answers, _, _ = talk(api, 12)
    assert len(answers) == 12 and all(later >= api.times[1] + 1.0 for later in api.times[4:])


def test_half_a_character_is_repaired(api):
    api.reply = lambda number, body: (
        json.dumps(said("say \ud83d now \U0001f600")) if is_question(body, 0) else said("4")
    )
    answers, _, _ = talk(api, 2)
    assert answers["0"].text == "say \ufffd now \U0001f600" and answers["0"].text.encode()
    assert format_problem(answers["0"].text) is not None
    api.reply = lambda number, body: (
        (400, json.dumps({"error": "\ud83d"})) if is_question(body, 0) else said("4")
    )
    assert talk(api, 2)[0]["0"].error.encode()


@pytest.mark.parametrize("usage", [(20, 30), None])
@pytest.mark.parametrize(
    "limit", [{"max_tokens": 400}, {"max_cost": 0.0004, "price_prompt": 1.0, "price_answer": 1.0}]
)
def test_a_limit_is_never_passed_whatever_is_under_way(api, usage, limit):
    """Also where the server does not count: 30 characters are then 30 tokens."""
    api.reply = lambda number, body: said("x" * 30, usage=usage)
    answers, budget, ended = talk(api, 40, concurrency=8, **limit)
    assert (
        isinstance(ended, Stopped)
        and next(iter(limit)) in str(ended)
        and "one more answer may take" in str(ended)
    )
    assert 300 < budget.own.tokens <= 400 and 5 <= len(answers) <= 7
    assert budget.own.cost <= 0.0004


@pytest.mark.parametrize(
    "usage", [(-(10**9), -(10**9)), (0, -1), (1, 1), (-(10**9), 30), (20, -(10**9)), (10**30, 30)]
)
def test_a_server_that_makes_up_its_account_passes_no_limit(api, usage):
    """What was sent and what came is counted here as well; 20 tokens of a prompt, 2 of them its words."""
    api.reply = lambda number, body: said("x" * 30, usage=usage)
    answers, budget, ended = talk(api, 40, max_tokens=400)
    assert isinstance(ended, Stopped) and "max_tokens" in str(ended)
    assert 5 <= len(answers) <= 11 and 300 < budget.own.tokens <= 400
    for answer in answers.values():
        assert answer.usage.answer_tokens == 30 and 2 <= answer.usage.prompt_tokens <= 20


def test_another_tokenizer_may_count_a_quarter_and_no_less(api):
    """Then it is its own count that is billed."""
    foreign = Vocabulary(is_own=False)
    for told, counted in ((100, 100), (12, 12), (7, 7), (6, 30), (1, 30), (0, 30)):
        api.reply = lambda number, body, told=told: said("x" * 30, usage=(20, told))
        _, budget, _ = talk(api, 1, vocabulary=foreign)
        assert budget.own.answer_tokens - 3 == counted


@pytest.mark.parametrize("wait", ["inf", "1e300", "31536000", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_without_end_is_cut_and_told(api, monkeypatch, wait):
    monkeypatch.setattr("distill.teachers.server.pool.LONGEST_HOLD", 0.2)
    api.headers["Retry-After"] = wait
    api.reply = lambda number, body: (429, {"error": "slow down"}) if number == 0 else said("4")
    news: list[str] = []
    answers, _, ended = talk(api, 2, say=news.append)
    assert ended is None and len(answers) == 2
    assert "slow down" in news[0] and "asked again in 0 s (it says to wait" in news[0]


def test_a_limit_that_no_answer_fits_under_stops_at_once(api):
    answers, _, ended = talk(api, 4, max_tokens=40)
    assert (
        isinstance(ended, Stopped)
        and "one more answer may take 50" in str(ended)
        and not answers
        and not api.asked
    )


def test_the_time_that_a_run_may_take_ends_its_waits_too(api):
    api.headers["Retry-After"] = "600"
    api.reply = lambda number, body: (429, {"error": "slow down"})
    _, _, ended = talk(api, 4, max_hours=1e-4)
    assert isinstance(ended, Stopped) and "max_hours" in str(ended)
