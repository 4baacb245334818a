"""What a server may send instead of an answer: it is refused by name, or taken for what it means."""

import itertools
import json
import math
import time
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from raw_server_helpers import (
    ExactServer,
    RawServer,
    answering,
    ask,
    http,
    quickstart_tokenizer,
    teacher_on,
    zipped,
)
from server_helpers import said

from distill.errors import ServerError
from distill.teachers.server.budget import Budget

KIND = "server modes"
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server():
    made = RawServer()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def teachers(server, tmp_path_factory):
    """The teacher that gives text, and the one that gives log-probs."""
    folder = tmp_path_factory.mktemp("run")
    return {
        from_server: teacher_on(
            server.url, folder=folder / str(from_server), from_server=from_server
        )
        for from_server in (False, True)
    }


@pytest.fixture(scope="module")
def good():
    return ExactServer(quickstart_tokenizer())


@pytest.fixture
def answers(server, teachers, monkeypatch):
    """Ask such a server some questions, as if it had never been met; return the texts or errors."""
    monkeypatch.setattr("distill.teachers.server.discover.LONGEST_DELAY", 0.01)
    monkeypatch.setattr("distill.teachers.server.pool.LONGEST_HOLD", 0.01)
    monkeypatch.setattr("distill.teachers.server.pool.LONGEST_DELAY", 0.01)

    def go(send, *, num=2, from_server=False, timeout=5.0, said=None):
        teacher = teachers[from_server]
        teacher.budget = Budget(teacher.recipe.generate)
        teacher.endpoint = replace(teacher.endpoint, timeout=timeout)
        server.send = send
        server.asked.clear()
        server.num_sent = 0
        return [c.text if c.error is None else "error" for c in ask(teacher, num, said)]

    return go


def changed(**changes):
    """A chat server's answer with its choice changed."""
    found = said("4")
    found["choices"][0] |= changes
    return found


def nested(depth, begin="[", end="]"):
    return begin * depth + end * depth


# bodies with status 200 that are no answer
NO_ANSWERS = {
    "an empty list": [],
    "a list": [said("4")],
    "a string": '"x"',
    "a number": "1",
    "a huge number": "9" * 5000,
    "null": "null",
    "true": "true",
    "nothing": "",
    "spaces": " " * 5000,
    "an empty object": {},
    "no choice": {"choices": []},
    "choices null": {"choices": None},
    "choices a number": {"choices": 3},
    "choices an object": {"choices": {"message": {"content": "4"}}},
    "a choice null": {"choices": [None]},
    "a choice a string": {"choices": ["4"]},
    "no message": {"choices": [{"finish_reason": "stop"}]},
    "a message null": changed(message=None),
    "a message a list": changed(message=["4"]),
    "a message a string": changed(message="4"),
    "content a number": changed(message={"content": 4}),
    "content a list": changed(message={"content": [{"type": "text", "text": "4"}]}),
    "content an object": changed(message={"content": {"text": "4"}}),
    "reasoning a number": changed(message={"content": "4", "reasoning_content": 7}),
    "reasoning a list": changed(message={"content": "4", "reasoning": ["so"]}),
    "a reason a list": changed(finish_reason=["stop"]),
    "a reason an object": changed(finish_reason={"type": "stop"}),
    "a reason a number": changed(finish_reason=1),
    "a reason of 100 kB": changed(finish_reason="stop" * 25_000),
    "a reason with escapes": changed(finish_reason="stop\x1b[2J"),
    "deep lists": nested(100_000),
    "deep objects": nested(50_000, '{"a":', "}").replace(":}", ":1}"),
    "deep in a choice": '{"choices":' + nested(3000) + "}",
    "a page": "<html>busy</html>",
    "a page of terminal escapes": "\x1b[2J\x1b]0;owned\x07" * 200,
    "a stream": 'data: {"choices": [{"delta": {"content": "4"}}]}\n\ndata: [DONE]\n',
    "half a JSON": '{"choices": [{"message": {"content": "4',
    "two JSONs": json.dumps(said("4")) * 2,
    "bytes": bytes(range(256)) * 20,
    "UTF-16 without end": "{}".encode("utf-16")[:-1],
    "an error": {"error": "overloaded"},
    "an error of an object": {"error": {"message": "fell over", "code": 500}},
    "an error whose code is a list": {"error": {"message": "fell over", "code": [1, [2]]}},
    "an error whose code is an object": {"error": {"message": "fell over", "code": {"a": 1}}},
    "an error whose code is huge": {"error": {"message": "fell over", "code": 10**400}},
    "an error whose message is a list": {"error": {"message": ["fell", "over"], "code": 7}},
    "an error that is a list": {"error": ["fell over"]},
    "an error that is a number": {"error": 503},
    "an error that is true": {"error": True, "message": "fell over"},
    "an error of 200 kB": {"error": {"message": "x" * 200_000}},
    "base_resp a list": {"choices": None, "base_resp": [1008]},
    "usage of a refusal a list": {"error": "no", "usage": [1]},
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_is_refused(name, tally, server, answers):
    """From the first request on, and then to one of two questions, which is given up alone."""
    bad = http(NO_ANSWERS[name])
    tally.must_refuse(name, lambda: answers(answering(chat=lambda n, body: bad)))
    tally.must_accept(
        f"{name}, to one question",
        lambda: answers(answering(chat=lambda n, body: bad if is_first(body) else http(said("4")))),
        ["error", "4"],
    )


def is_first(body):
    return body["messages"][0]["content"] == "0 + 0?"


# whole answers that are refused at once, with what the message says
BAD_HTTP = {
    "gzip that is none": (http(b"4" * 50, Content_Encoding="gzip"), "compressed answer is broken"),
    "half a gzip": (
        http(zlib.compress(b"4" * 5000, wbits=31)[:-9], Content_Encoding="gzip"),
        "ends too early",
    ),
    "gzip twice": (zipped(said("4"), times=2), "packed as 'gzip, gzip'"),
    "brotli": (http(said("4"), Content_Encoding="br"), "packed as 'br'"),
    "an encoding of 1 kB": (http(said("4"), Content_Encoding="x" * 1000), "packed as 'xxxx"),
    "status 204": (b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n", "not JSON"),
    "status 301": (http("", 301, Location="http://elsewhere/"), "sends on to http://elsewhere/"),
    "status 302 to nowhere": (http("", 302), "sends on to nowhere"),
    "status 307 to 50 kB": (http("", 307, Location="http://" + "x" * 50_000), "sends on to"),
    "status 400 of a list": (http([1], 400), "status 400"),
    "status 403 of a number": (http("1", 403), "status 403"),
    "status 404 of escapes": (http("\x1b[2Jgone", 404), "[2Jgone"),
    "status 429 of a deep list": (http(nested(9000), 429), "refuses for load"),
    "status 500 of a list of codes": (http({"error": {"code": [5]}}, 500), "status 500"),
    "status 600": (http({}, 600), "status 600"),
    "status 999": (http({}, 999), "status 999"),
    "no HTTP": (b"220 mail.example.org ESMTP\r\n", "connection broke"),
    "nothing": (b"", "connection broke"),
    "a header without end": (b"HTTP/1.1 200 X\r\nA: " + b"x" * 300_000, "connection broke"),
    "a length below 0": (http(said("4"), Content_Length=-5), "connection broke"),
    "two lengths": (http(said("4"), content_length=1), "connection broke"),
    "a length that is too large": (http(said("4"), Content_Length=10**6), "connection broke"),
    "chunks that are none": (
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n{}\r\n0\r\n\r\n",
        "connection broke",
    ),
    **{
        f"Retry-After: {value}": (http({}, 429, Retry_After=value), "refuses for load")
        for value in ("inf", "-inf", "nan", "1e400", "-5", "9" * 400, "Mon, 99 Foo 99999", "1, 2")
    },
}


@pytest.mark.parametrize("name", BAD_HTTP)
def test_what_is_no_answer_by_http_is_refused(name, tally, answers):
    bad, word = BAD_HTTP[name]
    message = tally.must_refuse(name, lambda: answers(answering(chat=lambda n, body: bad)))
    assert word in message and message.isprintable()


def endless(start, piece=b"x" * 65536, pause=0.0):
    def pieces():
        yield start
        for _ in itertools.count():
            yield piece
            time.sleep(pause)

    return pieces()


HEAD = b"HTTP/1.1 200 X\r\n"
ENDLESS = {
    "a body": (lambda: endless(HEAD + b"\r\n"), "MB"),
    "a body of spaces": (lambda: endless(HEAD + b"\r\n", b" " * 65536), "MB"),
    "what follows a gzip": (
        lambda: endless(HEAD + b"Content-Encoding: gzip\r\n\r\n" + zlib.compress(b"{}", wbits=31)),
        "MB",
    ),
    "chunks": (
        lambda: endless(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"
        ),
        "MB",
    ),
    "headers": (lambda: endless(HEAD, b"A: b\r\n" * 1000), "connection broke"),
    "promises to go on": (lambda: endless(b"", b"HTTP/1.1 100 Go on\r\n\r\n", 0.01), "in time"),
    "a byte now and then": (lambda: endless(HEAD + b"\r\n", b" ", 0.02), "in time"),
    "half a header now and then": (lambda: endless(HEAD, b"A", 0.02), "in time"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_ended(name, tally, server, answers):
    pieces, word = ENDLESS[name]
    started = time.monotonic()
    message = tally.must_refuse(
        name, lambda: answers(answering(chat=lambda n, body: pieces()), timeout=0.15)
    )
    assert word in message and time.monotonic() - started < 4
    assert server.num_sent < 40 * MEGABYTE, "what the sockets hold among it"


def test_a_bomb_is_not_unpacked(tally, answers):
    """A megabyte of zeros a kilobyte: nothing is unpacked beyond what an answer can need."""
    packer = zlib.compressobj(9, wbits=31)
    data = b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(64)) + packer.flush()
    bomb = http(data, Content_Encoding="gzip")
    tracemalloc.start()
    message = tally.must_refuse("a bomb", lambda: answers(answering(chat=lambda n, body: bomb)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "more than 4.2 MB" in message and peak < 16 * MEGABYTE


def with_usage(usage):
    return said("4", usage=None) | {"usage": usage}


ODD_ANSWERS = {
    "gzip": zipped(said("4")),
    "x-gzip": zipped(said("4"), Content_Encoding="x-gzip"),
    "identity": http(said("4"), Content_Encoding="identity"),
    "a charset that is none": http(said("4"), Content_Type="application/json; charset=base64"),
    "a mark of byte order": http(b"\xef\xbb\xbf" + json.dumps(said("4")).encode()),
    "UTF-16": http(json.dumps(said("4")).encode("utf-16")),
    "signs of life before it": http(b"\n" * 5000 + json.dumps(said("4")).encode()),
    "status 201": http(said("4"), 201),
    "cookies": http(said("4"), Set_Cookie="a=" + "b" * 3000),
    "two choices": http(said("4") | {"choices": said("4")["choices"] * 2}),
    "usage a list": http(with_usage([1, 2])),
    "usage a number": http(with_usage(7)),
    "usage of lists": http(with_usage({"prompt_tokens": [1], "completion_tokens": {}})),
    "usage below 0": http(with_usage({"prompt_tokens": -(10**9), "completion_tokens": -1})),
    "usage beyond all": http(with_usage({"prompt_tokens": 10**30, "completion_tokens": 1e300})),
    "usage of text": http(with_usage({"prompt_tokens": "9", "completion_tokens": "3"})),
    "usage NaN": http(with_usage({"prompt_tokens": math.nan, "completion_tokens": math.inf})),
    "usage details a list": http(
        with_usage({"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": [1]})
    ),
    "a model that is a list": http(said("4") | {"model": ["x"]}),
    "a model of 200 kB": http(said("4") | {"model": "x" * 200_000}),
    "deep and not read": http(json.dumps(said("4"))[:-1] + ', "more": ' + nested(400) + "}"),
    "a number of 4,000 digits": http(json.dumps(said("4"))[:-1] + ', "n": ' + "9" * 4000 + "}"),
    "an error that is null": http(said("4") | {"error": None}),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_an_odd_answer_is_taken_for_what_it_says(name, tally, answers, teachers):
    reply = ODD_ANSWERS[name]
    tally.must_accept(name, lambda: answers(answering(chat=lambda n, body: reply)), ["4", "4"])
    used = teachers[False].budget.own
    assert 0 < used.prompt_tokens < 200 and 0 < used.answer_tokens < 20, "by our own count"


def with_ids(good, ids, **changes):
    return good.exact(tokens=ids, completion_probabilities=[good.row(i) for i in ids], **changes)


NO_IDS = {
    "null": None,
    "text": "19",
    "of text": ["19"],
    "of floats": [19.0],
    "of booleans": [True],
    "below 0": [-5],
    "outside the vocabulary": [1024],
    "far outside": [2**31 - 1],
    "beyond 64 bits": [10**30],
    "of lists": [[19]],
    "more than were asked for": [19] * 40,
    "of another vocabulary": [55],
}


@pytest.mark.parametrize("name", NO_IDS)
def test_ids_that_are_none_are_refused(name, tally, answers, good):
    """Where only exact ids will do; else the server is asked for text, and that is said."""
    reply = http(good.exact(tokens=NO_IDS[name]))
    tally.must_refuse(
        f"ids {name}", lambda: answers(answering(exact=lambda n, body: reply), from_server=True)
    )
    news: list[str] = []
    both = answering(exact=lambda n, body: reply, chat=lambda n, body: http(said("4")))
    tally.must_accept(f"ids {name}, or text", lambda: answers(both, said=news), ["4", "4"])
    assert "text only" in news[0] and "; completion: " in news[0]


NO_LOG_PROBS = {
    "raw logits": (14.5, 12.0, 3.0, 1.0, -2.0),
    "raw logits below 0": (-90.0, -95.0, -97.0, -98.0, -99.0),
    "a mass of 2": (-0.2, -0.2, -3.0, -3.0, -4.0),
    "all -inf": (-math.inf,) * 5,
    "a NaN": (-0.7, math.nan, -3.0, -3.0, -4.0),
    "+inf": (math.inf, -2.0, -3.0, -3.0, -4.0),
    "probabilities": (0.5, 0.2, 0.1, 0.1, 0.1),
    "true": (True, False, False, False, False),
    "beyond all": (1e308,) * 5,
}


@pytest.mark.parametrize("when", ["from the first on", "after the probe"])
@pytest.mark.parametrize("name", NO_LOG_PROBS)
def test_log_probs_that_are_none_refuse_the_server(name, when, tally, answers, server, good):
    """By name, and before a second answer is paid for."""
    bad = good.exact(completion_probabilities=[good.row(19, NO_LOG_PROBS[name])])

    def exact(number, body):
        is_probe = body["n_predict"] == 2
        return http(good.exact() if is_probe and when == "after the probe" else bad)

    message = tally.must_refuse(
        f"{name}, {when}", lambda: answers(answering(exact=exact), from_server=True)
    )
    assert server.url in message and "log-probs that are none" in message
    paid = [body["n_predict"] for path, body in server.asked if path == "/completion"]
    assert paid == ([2] if when == "from the first on" else [2, 24])


def row_of(good, **changes):
    return good.exact(completion_probabilities=[good.row(19) | changes])


ODD_LOG_PROBS = {
    "null": lambda g: g.exact(completion_probabilities=None),
    "a number": lambda g: g.exact(completion_probabilities=7),
    "of null": lambda g: g.exact(completion_probabilities=[None]),
    "of a token that is not there": lambda g: g.exact(completion_probabilities=[g.row(77)]),
    "of too few": lambda g: row_of(g, top_logprobs=g.row(19)["top_logprobs"][:2]),
    "without any": lambda g: row_of(g, top_logprobs=[]),
    "of the same id": lambda g: row_of(g, top_logprobs=[{"id": 19, "logprob": -1.0}] * 5),
    "that are words": lambda g: row_of(g, top_logprobs=[{"id": 19, "logprob": "much"}] * 5),
    "of huge ids": lambda g: row_of(
        g, top_logprobs=[{"id": 10**30 + i, "logprob": -2.0} for i in range(5)]
    ),
    "of ids below 0": lambda g: row_of(
        g, top_logprobs=[{"id": -i, "logprob": -2.0} for i in range(5)]
    ),
    "of ids of infinity": lambda g: row_of(g, top_logprobs=[{"id": math.inf, "logprob": -2}] * 5),
    "with huge numbers": lambda g: row_of(
        g, top_logprobs=[{"id": 19 + i, "logprob": -(10**400)} for i in range(5)]
    ),
}


@pytest.mark.parametrize("name", ODD_LOG_PROBS)
def test_log_probs_that_cannot_be_read_are_refused(name, tally, answers, server, good):
    reply = http(ODD_LOG_PROBS[name](good))
    send = answering(exact=lambda n, body: reply)
    message = tally.must_refuse(f"log-probs {name}", lambda: answers(send, from_server=True))
    assert server.url in message


@pytest.mark.parametrize(
    "row",
    [
        (-0.7, -2.0, -3.0, -3.0, -4.0),
        (0.0, *[-math.inf] * 4),
        (0.004, -9.0, -9.0, -9.0, -9.0),  # reckoned in 16 bits
        ("-0.7", "-2", -3, -3, -4),
        (-0.7, -2.0, -3.0, -3.0, -9999.0),  # how vLLM writes -inf
    ],
)
def test_log_probs_that_are_some_are_taken(row, tally, answers, good):
    reply = http(good.exact(completion_probabilities=[good.row(19, row)]))
    send = answering(exact=lambda n, body: reply)
    tally.must_accept(f"log-probs {row}", lambda: answers(send, from_server=True), ["4", "4"])


def test_one_answer_whose_log_probs_are_none_is_given_up_alone(answers, server, good):
    """After good ones it may be the prompt; the next such answer refuses the server."""
    bad = good.exact(completion_probabilities=[good.row(19, NO_LOG_PROBS["a NaN"])])

    def bad_for(*seeds):
        return answering(exact=lambda n, body: http(bad if body["seed"] in seeds else good.exact()))

    assert answers(bad_for(101), num=3, from_server=True) == ["4", "error", "4"]
    assert len(server.asked) == 2 + 3 + 1, "discovery, three questions, and one whether it is well"
    with pytest.raises(ServerError, match="log-probs that are none: NaN"):
        answers(bad_for(101, 102), num=9, from_server=True)
    assert len(server.asked) == 2 + 3 + 1


def test_a_whole_answer_without_any_log_prob_is_given_up(tally, answers, good):
    """llama.cpp tells nothing of parts of a character: of a few tokens, not of all of an answer."""
    text = "4 4 4 4 4 4 4 4"

    def exact(number, body):
        whole = {} if body["n_predict"] == 2 else {"text": text}
        return http(good.exact(**whole, completion_probabilities=[]))

    send = answering(exact=exact)
    tally.must_accept("no log-prob", lambda: answers(send, from_server=True), ["error", "error"])
