"""What a reply means: addresses of paths, and how long to wait."""

import math
import time
from email.utils import formatdate

import pytest

from distill.teachers.server.replies import error_of, join_url, retry_after, says_load, shown


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


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("inf", math.inf),
        ("-inf", 0),
        ("nan", None),
        ("-5", 0),
        ("1e999", math.inf),
        ("Mon, 99 Foo 99999 99:99:99 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("1, 2", None),
        ("", None),
    ],
)
def test_retry_after_may_be_anything(value, seconds):
    found = retry_after({"retry-after": value})
    assert found == seconds or (seconds is None and found is not None and found > 1e9)


def test_what_others_wrote_is_shown_on_one_line_that_no_terminal_obeys():
    assert shown("\x1b[2Jgone\r\n\x9b31m  \ud83d\u2028x\x07") == "[2Jgone 31m \ufffd x"
    assert len(shown("y " * 9000)) == 200


def test_the_words_of_an_error_are_its_words_alone():
    assert error_of({"error": {"code": 5, "message": "no", "type": ["a"]}}) == "5 no"
    assert error_of({"error": "no", "message": {"deep": []}}) == "no"
    for nothing in ([], "x", 1, None, {}, {"error": ["x"]}, {"error": {"message": {}}}):
        assert error_of(nothing) == ""
    assert says_load({"error": {"code": 429}})
    for code in ([429], {"a": 429}, None, "x", 429.5):
        assert not says_load({"error": {"code": code}})
