"""A wait ends when it is over, or as soon as there is a reason."""

import asyncio
import time

from distill.teachers.server.sleep import sleep_unless


def test_it_sleeps_to_the_end_where_nothing_happens():
    start = time.monotonic()
    assert asyncio.run(sleep_unless(lambda: False, 0.25))
    assert time.monotonic() - start >= 0.25


def test_a_stop_in_a_long_wait_is_not_late():
    start = time.monotonic()
    assert not asyncio.run(sleep_unless(lambda: time.monotonic() - start > 0.1, 600.0))
    assert time.monotonic() - start < 5


def test_no_wait_asks_nothing():
    assert asyncio.run(sleep_unless(lambda: True, 0.0))
