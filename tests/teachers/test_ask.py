"""Many questions: each is answered once, whatever the network does; limits and signals stop it cleanly."""

import asyncio
import threading
import time
from collections import Counter

import pytest
from run_helpers import ROOT

from distill import interrupts
from distill.errors import ServerError, Stopped
from distill.models import load
from distill.progress import Progress
from distill.sections import Generate
from distill.tasks import market
from distill.teachers.ask import Errand, Lane, _until_stop
from distill.teachers.connect import connect
from distill.teachers.dialects import Answer, LlamaCpp, Question, Sampling
from distill.text import chat

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
GREEDY = Sampling(0.0, 1.0, 0, 24)


@pytest.fixture(scope="module")
def questions():
    tokenizer = load.load_tokenizer(str(TEACHER))
    prompts = market.examples(40, seed=5)
    return [
        Question(str(n), [{"role": "user", "content": p["prompt"]}], chat.prompt_ids(tokenizer, p["prompt"]), n)
        for n, p in enumerate(prompts)
    ]


def ask(url, questions, *, during=None, timeout=10.0, on_answer=None, **options):
    """(answers by key, how often each came, server) of a whole errand with short waits."""
    answers, times = {}, Counter()

    def record(question, answer):
        answers[question.key] = answer
        times[question.key] += 1
        if on_answer is not None:
            on_answer(len(times))

    async def go():
        server = await connect(url, "m", api_key_env=None, timeout=timeout, prompt_ids=[1, 2, 3])
        assert server.dialect is LlamaCpp
        server.spent.mine.requests = 0
        if during is not None:
            during()
        with Progress("ask", len(questions), "answers", shown=False) as bar:
            recipe = Generate(prompts="p.jsonl", **{"concurrency": 8, **options})
            errand = Errand(server, GREEDY, recipe, record, bar, first_delay=0.05, first_probe=0.1)
            try:
                await errand.run(iter(questions))
            except (Stopped, ServerError) as error:
                server.stopped = error  # type: ignore[attr-defined]
            finally:
                await server.client.aclose()
        return server

    return answers, times, asyncio.run(go())


@pytest.fixture(scope="module")
def calm(llama_server, questions):
    """What the server answers where nothing goes wrong."""
    answers, times, server = ask(llama_server, questions)
    assert set(times.values()) == {1} and len(answers) == server.spent.mine.requests == len(questions)
    return answers


def test_greedy_answers_are_those_of_transformers(calm, questions):
    """The same weights, template and ids: another runtime's rounding may turn a near tie, hardly ever more."""
    import torch

    from distill.models.decode import Sampling as Local
    from distill.models.decode import answer

    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    found = {}
    with torch.inference_mode():
        answer(
            model, [q.prompt_ids for q in questions], seeds=range(len(questions)), sampling=Local(0.0), max_new_tokens=24,
            stop_ids=[model.config.eos_token_id], pad_id=0, on_finished=lambda i, ids, why: found.setdefault(str(i), (ids, why)),
        )  # fmt: skip
    end = model.config.eos_token_id
    same = [[i for i in found[k][0] if i != end] == [i for i in a.token_ids if i != end] for k, a in calm.items()]
    assert sum(same) >= 0.95 * len(same)
    assert {a.finish_reason for a in calm.values()} <= {"stop", "length"}


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "stall", "not json", "wrong json"])
def test_every_question_is_answered_once_whatever_goes_wrong(proxy, questions, calm, fault):
    """Every fifth request meets the fault; no answer is lost, none comes twice, none is asked again without need."""
    faults = [0]

    def trouble(number, path):
        if path != "/completion" or number < 2 or number % 5:
            return None
        faults[0] += 1
        return fault

    proxy.trouble, proxy.stall_seconds = trouble, 0.6
    answers, times, server = ask(proxy.url, questions, timeout=0.5 if fault == "stall" else 10.0)
    assert {k: a.token_ids for k, a in answers.items()} == {k: a.token_ids for k, a in calm.items()}
    assert set(times.values()) == {1} and faults[0] >= 5
    if fault != "stall":  # on a busy machine an honest answer may be late as well
        assert server.spent.mine.requests == len(questions) + faults[0]


def test_retry_after_is_obeyed(proxy, questions):
    seen = []

    def trouble(number, path):
        seen.append(time.monotonic())
        return "429" if number == 2 else None

    proxy.trouble, proxy.retry_after = trouble, "1"
    answers, _, _ = ask(proxy.url, questions[:1])
    assert len(answers) == 1 and seen[-1] - seen[-2] >= 1.0


def test_an_outage_marks_nothing_failed(proxy, questions, calm):
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
    answers, times, _ = ask(proxy.url, questions)
    assert {k: a.token_ids for k, a in answers.items()} == {k: a.token_ids for k, a in calm.items()}
    assert set(times.values()) == {1} and all(a.error is None for a in answers.values())


def test_a_question_that_is_refused_is_answered_by_the_refusal(proxy, questions):
    refused = questions[3].prompt_ids
    proxy.trouble = lambda number, path: "400" if proxy.asked[number].get("prompt") == refused else None
    answers, _, _ = ask(proxy.url, questions[:8])
    assert [k for k, a in answers.items() if a.finish_reason == "error"] == ["3"]
    assert "as you asked" in answers["3"].error and len(answers) == 8


def test_a_key_that_is_refused_later_stops_all_and_keeps_what_there_is(proxy, questions):
    proxy.trouble = lambda number, path: "402" if number >= 12 else None
    answers, _, server = ask(proxy.url, questions)
    assert isinstance(server.stopped, ServerError) and "402" in str(server.stopped)
    assert 5 <= len(answers) <= 10 and len(proxy.asked) < 25, "not every question has to meet the refusal"


@pytest.mark.parametrize("limit", [{"max_requests": 10}, {"max_tokens": 500}, {"max_megabytes": 0.02}])
def test_a_limit_stops_cleanly(proxy, questions, limit):
    answers, times, server = ask(proxy.url, questions, concurrency=4, **limit)
    assert isinstance(server.stopped, Stopped) and next(iter(limit)) in str(server.stopped)
    assert 1 <= len(answers) < len(questions) and set(times.values()) == {1}
    assert server.spent.mine.requests == len(answers), "what was sent was awaited: it is paid for"


def test_a_signal_stops_cleanly(proxy, questions):
    with interrupts.listening():
        answers, _, server = ask(
            proxy.url, questions, concurrency=2, on_answer=lambda n: interrupts._requested.append("SIGINT") if n == 5 else None
        )
    interrupts._requested.clear()
    assert isinstance(server.stopped, Stopped) and 5 <= len(answers) <= 7
    assert server.spent.mine.requests == len(answers)


def test_the_lane_widens_while_calm_and_narrows_in_trouble():
    async def go():
        lane = Lane(64)
        widths = [lane.limit]
        for _ in range(400):
            await lane.enter()
            await lane.leave(calm=True)
        widths.append(lane.limit)
        await lane.enter()
        await lane.leave(calm=False)
        widths.append(lane.limit)
        for _ in range(10):  # the same burst
            await lane.enter()
            await lane.leave(calm=False)
        widths.append(lane.limit)
        return widths

    start, wide, cut, same_burst = asyncio.run(go())
    assert start == 4 and 15 < wide <= 64 and cut == 0.75 * wide and same_burst == cut


def test_never_more_at_once_than_the_recipe_allows(proxy, questions):
    under_way, most = [0], [0]
    forward = proxy.forward

    def counting(path, body):
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        try:
            return forward(path, body)
        finally:
            under_way[0] -= 1

    proxy.forward = counting
    ask(proxy.url, questions, concurrency=3)
    assert most[0] == 3


def test_what_a_server_wrote_after_the_end_is_cut():
    """llama.cpp stops at its model's own ends only; magpie also ends where the template begins the assistant's turn."""
    cut = _until_stop(Answer("ab c", "length", [5, 6, 9, 7, 2]), (2, 9))
    assert (cut.token_ids, cut.finish_reason) == ([5, 6, 9], "stop")
    for whole in (Answer("a", "length", [5, 6]), Answer("a", "stop", [5, 2])):
        assert _until_stop(whole, (2, 9)) == whole
