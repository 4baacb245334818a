"""Connections that tell when a rank has ended, and how."""

import socket
import time

import pytest

from distill.core.lifelines import DONE, REFUSED, STOPPED, Lifelines


@pytest.fixture
def three():
    """Rank 0's lifelines and those of ranks 1 and 2, connected."""
    ends = [Lifelines(), Lifelines(), Lifelines()]
    listening = ends[0].listen()
    for rank in (1, 2):
        ends[rank].join("127.0.0.1", listening, rank)
    assert seen(ends[0], lambda: len(ends[0]._ends) == 2)
    yield ends
    for end in ends:
        end.close()


def seen(lifelines, wanted):
    end = time.monotonic() + 10
    while time.monotonic() < end and not wanted():
        assert lifelines.gone() is not None
        time.sleep(0.01)
    return wanted()


def test_all_live(three):
    assert [one.gone() | one.stopped() for one in three] == [set(), set(), set()]


def test_one_that_closes_without_a_word_is_gone(three):
    three[2].close()
    assert seen(three[0], lambda: three[0].gone() == {2})
    three[0].close()
    assert seen(three[1], lambda: three[1].gone() == {0})


@pytest.mark.parametrize("word", [DONE, STOPPED, REFUSED])
def test_one_that_leaves_in_good_order_is_not_gone(three, word):
    three[1].leave(word)
    three[0].gone()
    assert seen(three[0], lambda: 1 not in three[0]._ends)
    assert three[0].gone() == set()
    assert three[0].stopped() == ({1} if word == STOPPED else set())
    assert three[0].refused() == ({1} if word == REFUSED else set())
    three[0].leave(word)
    assert seen(three[2], lambda: 0 not in three[2]._ends)
    assert three[2].gone() == set()


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"x" * 64,
        b"0123456789abcdef 2".ljust(64),
        b"\xff" * 64,
        "\u00e9 1".encode().ljust(64),
    ],
)
def test_a_stranger_is_no_rank(hello):
    main = Lifelines()
    port = int(main.listen().split()[0])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(hello)
        stranger.shutdown(socket.SHUT_WR)
        assert main.gone() == set()
        stranger.settimeout(5)
        assert stranger.recv(1) == b""
    assert main.gone() == set() and not main._ends
    main.close()
