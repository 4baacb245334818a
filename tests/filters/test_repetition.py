"""Endless repetition in every script, and what only looks like it."""

import pytest

from distill.filters.repetition import first_repetition, loop
from distill.text.text import Text


@pytest.mark.parametrize(
    "text",
    [
        "The plan is good. "
        + "We go to the market and buy mangoes for the family. " * 6
        + "Then we rest.",
        "他去市场买芒果，" * 30,
        "मैं बाज़ार जाता हूँ और आम खरीदता हूँ। " * 12,
        "wait, " * 60 + "the answer is 48",
        "Let me check the sum again and again. " * 5 + "Let me check the s",
        "ha" * 200,
    ],
)
def test_repetition_is_found_in_every_script_at_the_end_and_in_the_middle(text):
    assert loop(Text(text)) is not None


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"7 x {i} = {7 * i}" for i in range(1, 30)),
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
        "| name | goats |\n|------|-------|\n| Amina | 12 |\n| Juma | 7 |\n" + "-" * 120,
        "Very, very, very, very good!",
        "No. No. No.",
    ],
)
def test_tables_and_lists_are_no_loops(text):
    assert loop(Text(text)) is None


@pytest.mark.parametrize("unit", ["So it is 12. ", "就是这样，", "यही है। ", "ab"])
def test_a_loop_begins_to_repeat_itself_after_its_first_time(unit):
    start = "The first sentence is one of its own, and says something else than what follows. "
    found = first_repetition(Text(start + unit * 80))
    assert found is not None and len(start) <= found <= len(start) + 2 * len(unit)


def test_what_does_not_loop_has_no_place_where_it_begins_to():
    assert first_repetition(Text("Each of these words stands here once, and no more.")) is None
