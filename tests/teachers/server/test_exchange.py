"""What goes over the wire: counted as it goes, and only what was asked for."""

import asyncio
import json

import pytest
from raw_server_helpers import RawServer, http, zipped

from distill.teachers.server.exchange import Bounds, exchange, new_client
from distill.teachers.server.replies import RetryableError, ServerAway


@pytest.fixture
def server():
    made = RawServer()
    yield made
    made.stop()


def exchanged(url, num_bytes=10_000, seconds=5.0, times=1):
    """(the last answer, what was counted)"""
    counted = []

    async def go():
        client = new_client("secret-123", seconds)
        try:
            for _ in range(times):
                bounds = Bounds(num_bytes, seconds)
                found = await exchange(client, "POST", url, b"{}", bounds, counted.append)
            return found
        finally:
            await client.aclose()

    try:
        return asyncio.run(go()), sum(counted)
    except RetryableError as error:
        return error, sum(counted)


def test_an_answer_comes_whole_and_is_counted_as_unpacked(server):
    for reply in (http({"a": 1}), zipped({"a": 1})):
        server.send = lambda number, path, body, reply=reply: reply
        found, num = exchanged(server.url)
        assert json.loads(found.content) == {"a": 1} and found.status == 200
        assert num == len(b"{}") + len(found.content)


def test_an_answer_may_be_as_large_as_is_said_and_no_byte_larger(server):
    for reply in (http("x" * 5000), http(b"x" * 5000, Connection="close")):
        server.send = lambda number, path, body, reply=reply: reply
        found, _ = exchanged(server.url, 5000)
        assert found.text == "x" * 5000
        error, num = exchanged(server.url, 4999)
        assert isinstance(error, RetryableError) and "more than 0.0 MB" in str(error)
        assert num >= 5000, "what was thrown away was traffic all the same"


def test_a_packed_answer_stops_one_byte_after_what_is_allowed(server):
    server.send = lambda number, path, body: zipped("x" * 100_000)
    error, num = exchanged(server.url, 5000)
    assert isinstance(error, RetryableError) and num <= len(b"{}") + 5001


def test_cookies_are_not_kept(server):
    """A server could fill our requests with them, answer by answer."""
    seen = []

    async def go():
        client = new_client(None, 5.0)
        for _ in range(3):
            await exchange(client, "POST", server.url, b"{}", Bounds(9999, 5.0), lambda n: None)
            seen.append(len(client.cookies))
        await client.aclose()

    server.send = lambda number, path, body: http({}, Set_Cookie=f"c{number}=1; Path=/")
    asyncio.run(go())
    assert seen == [0, 0, 0]


def test_where_nothing_listens_it_is_away(server):
    server.stop()
    with pytest.raises(ServerAway):
        exchanged(server.url)
