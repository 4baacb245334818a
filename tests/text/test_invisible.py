"""Texts of which nothing is seen."""

import pytest

from distill.text.invisible import is_invisible


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n\r",
        "\u200b",
        "\u3000\u2003\u00a0",
        "\ufeff\u2060\u00ad\u200d",
        "\u202e\u2066\u061c",
        "\ufe0f\u034f\u3164\u2800",
        "\U000e0041\U000e0100",
        "\x07\u2028\u2029",
    ],
)
def test_nothing_is_seen_of_it(text):
    assert is_invisible(text)


@pytest.mark.parametrize(
    "text", ["a", "\u200b答", " ؟", "\u0301", "\ufffd", "👍🏽", "ክ", "​\u200d."]
)
def test_something_is_seen_of_it(text):
    assert not is_invisible(text)
