"""What a reply means: addresses of paths, and how long to wait."""

import time
from email.utils import formatdate

import pytest

from distill.teachers.server.replies import join_url, retry_after


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
