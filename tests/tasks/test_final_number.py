from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.recipe.sections import Generate
from distill.tasks import final_number, grader, version

DIGITS = {
    "ascii": "0123456789",
    "devanagari": "०१२३४५६७८९",
    "arabic": "٠١٢٣٤٥٦٧٨٩",
    "bengali": "০১২৩৪৫৬৭৮৯",
    "wide": "０１２３４５６７８９",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so 1,000", 1000),
        ("1.000 rupiah", 1000),
        ("1\u202f234\u202f567", 1234567),
        ("1\u00a0000", 1000),
        ("12,345.50", 12345.5),
        ("12.345,50", 12345.5),
        ("1'000", 1000),
        ("0,75", 0.75),
        ("0.500", 0.5),
        ("3.5", 3.5),
        ("57.0", 57),
        ("₹1,00", 1),
        ("₹1,23,456", 123456),
        ("٤٬٠٠٠", 4000),
        ("४२", 42),
        ("٤٢", 42),
        ("৪২", 42),
        ("４２", 42),
        ("-7", -7),
        ("−7", -7),
        ("10-7", 7),
        ("$250.", 250),
        ("50%", 50),
        ("**57**", 57),
        ("57!", 57),
        ("答案是57。", 57),
        ("Answer: 1 000", 1000),
        ("= 12 345", 12345),
        ("takes 3 100", 100),
        ("25 m²", 25),
        ("每人5，10人", 10),
        ("5, 6, 7.", 7),
        ("007", 7),
    ],
)
def test_the_last_number_of_a_text(text, value):
    assert final_number.numbers(text)[-1] == Fraction(value)


def test_every_number_is_found_in_order():
    assert final_number.numbers("First, 3×4=12. Then 20-12=8 (of 1,000).") == [
        3,
        4,
        12,
        20,
        12,
        8,
        1000,
    ]


@given(
    st.integers(0, 10**12),
    st.sampled_from(list(DIGITS)),
    st.sampled_from(["", ",", ".", "'", "\u00a0", "\u202f"]),
)
def test_digits_and_grouping_of_any_writing_read_back(value, writing, separator):
    written = (f"{value:,}" if separator else str(value)).replace(",", separator)
    written = written.translate(str.maketrans(DIGITS["ascii"], DIGITS[writing]))
    assert final_number.numbers(f"x = {written}.") == [value]


def test_the_last_number_is_graded():
    assert final_number.grade("2 + 3 = 5, so the answer is 5.", {"reference": "5"})
    assert final_number.grade("उत्तर: ₹१,२५०", {"reference": 1250})
    assert not final_number.grade("5 apples, then 6", {"reference": "5"})


@pytest.mark.parametrize("text", ["", "none", "m²", "...", "-"])
def test_an_answer_without_number_is_wrong(text):
    assert not final_number.grade(text, {"reference": "5"})


def test_the_task_is_found_by_its_recipe_name():
    assert (
        grader(Generate.model_validate({"prompts": "p.jsonl", "task": "final_number"}))
        is final_number.grade
    )
    assert version("final_number") == final_number.VERSION
