"""Numbers as people of each language write them."""

from fractions import Fraction

import pytest

from distill.tasks.local_numbers import chinese_number, readings


@pytest.mark.parametrize(
    ("text", "language", "values"),
    [
        ("1.000", "en", "1"),
        ("1.000", "id", "1 1000"),
        ("1.000", None, "1 1000"),
        ("1,000", "en", "1000"),
        ("1,000", "id", "1 1000"),
        ("3.125", "sw", "25/8"),
        ("0,75", "en", "3/4"),
        ("1.234,5", "en", "2469/2"),
        ("1,234.5", "id", "2469/2"),
        ("1\u202f000,5", "fr", "2001/2"),
        ("12 34", "en", ""),
        ("٣٫٥", "ar", "7/2"),
        ("−2", "en", "-2"),
        ("3/4", "en", "3/4"),
        ("1/0", "en", ""),
        ("2.5亿", "zh", "250000000"),
        ("x", "en", ""),
        ("", "en", ""),
    ],
)
def test_a_number_is_read_as_its_language_writes_it(text, language, values):
    assert readings(text, language) == {Fraction(v) for v in values.split()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("四十二", "42"),
        ("十", "10"),
        ("十二", "12"),
        ("一百零五", "105"),
        ("三万五千", "35000"),
        ("三万亿", "3000000000000"),
        ("一亿二千万", "120000000"),
        ("二〇二四", "2024"),
        ("负三", "-3"),
        ("三点一四", "157/50"),
        ("二分之一", "1/2"),
        ("百分之五十", "1/2"),
        ("两千", "2000"),
        ("四十二元", "42"),
        ("零分之一", None),
        ("苹果", None),
        ("", None),
    ],
)
def test_chinese_numerals(text, value):
    assert chinese_number(text) == (None if value is None else Fraction(value))
