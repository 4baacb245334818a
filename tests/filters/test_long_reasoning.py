"""Long reasoning: dropped where it must be short, warned of where it is too much."""

import pytest

from distill.filters.base import Answer
from distill.filters.long_reasoning import long_reasoning_ahead, long_reasoning_warning


@pytest.mark.parametrize(
    ("num_long", "num", "warns"),
    [(20, 100, False), (21, 100, True), (199_999, 300_000, True), (200_000, 300_000, False)],
)
def test_long_reasoning_does_no_harm_up_to_a_fifth_or_by_the_hundred_thousand(num_long, num, warns):
    assert (long_reasoning_warning(num_long, num, 1024) is not None) == warns


def test_long_reasoning_is_told_before_the_answers_are_paid_for():
    answers_seen = [
        Answer("q", str(n), "a", "thought", "stop", "en", num_reasoning_tokens=n)
        for n in (10, 20, 2000, 3000)
    ]
    warning = long_reasoning_ahead(answers_seen, [None] * 4, 10_000, 1024)
    assert (
        warning is not None
        and "2 of 4 samples" in warning
        and "set generate.reasoning to short or drop" in warning
    )
    assert long_reasoning_ahead(answers_seen, [None] * 4, 400_000, 1024) is None, (
        "so many are borne"
    )
    assert (
        long_reasoning_ahead(
            answers_seen, [None, None, "long_reasoning: x", "truncated: x"], 10_000, 1024
        )
        is None
    )
