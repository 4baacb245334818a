"""Units of text in every script."""

import pytest

from distill.text.words import is_unspaced, words


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("She's 3 Ducks!", "she s 3 ducks"),
        ("हिन्दी में", "हिन्दी में"),
        ("他有16个苹果。", "他 有 16 个 苹 果"),
        ("ราคา ๒๕ บาท", "ร า ค า 25 บ า ท"),
        ("$80,000 and 1.500", "80000 and 1500"),
        ("３ ｍａｎｇｏｅｓ", "3 mangoes"),
        ("২৪ আম", "24 আম"),
        ("5kg", "5 kg"),
        ("Ẹ̀kọ́", "ẹ̀kọ́"),
        ("!!! 👍", ""),
    ],
)
def test_units_are_words_or_single_characters_and_numbers(text, units):
    assert words(text) == tuple(units.split())


def test_a_text_is_unspaced_by_most_of_its_units():
    assert is_unspaced(words("他买了三个 mangoes"))
    assert not is_unspaced(words("He bought 芒果 at the market today"))
