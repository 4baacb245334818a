"""Sentences as each script ends them, and prose without what says nothing about language."""

import pytest

from distill.text.sentences import prose, sentences


def test_two_amounts_of_money_are_not_a_formula():
    assert "puts in" in prose("He buys a house for $80,000 and then puts in $50,000 in repairs.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs 3.5 dollars. Is it dear? No!", ["It costs 3.5 dollars.", "Is it dear?", "No!"]),
        ("今天很热。明天呢？不知道！", ["今天很热。", "明天呢？", "不知道！"]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है।"]),
        ("አንድ ነው። ሁለት ነው፧ አዎ", ["አንድ ነው።", "ሁለት ነው፧", "አዎ"]),
        ("เขามีมะม่วง 5 ผล เธอมีสามผล", ["เขามีมะม่วง 5 ผล", "เธอมีสามผล"]),
        ("သူသွားသည်။ ငါလာသည်။", ["သူသွားသည်။", "ငါလာသည်။"]),
        ("هل هذا؟ نعم", ["هل هذا؟", "نعم"]),
        ("- one\n- two", ["- one", "- two"]),
    ],
)
def test_sentences_end_as_each_script_ends_them(text, expected):
    assert sentences(text) == expected
