"""Any task whose answer ends in a number: right if the last number equals the reference."""

import re
from fractions import Fraction
from typing import Any

from distill.recipe.sections import Generate
from distill.tasks import Grade, numerals
from distill.tasks.local_numbers import readings
from distill.tasks.numerals import EXPONENT, LAKHS, THIN_SPACES, plain

VERSION = 2

# digits with separators between; a sign counts only where no digit or letter stands before it (10-7
# ends in 7)
_DIGITS = rf"\d[\d,.'{THIN_SPACES}]*"
NUMBER = re.compile(rf"(?:(?<![\w.])[-−])?{_DIGITS}{EXPONENT}?")
# plain spaces group digits after such a mark ("Answer: 1 000", "= 1 000", "₹1 000") or alone;
# "take 3 100 times" may be two
SPACED = re.compile(r"(?:\A|[:=$€£¥₹₦₱₫])\s*[-−]?([1-9]\d{0,2}(?: \d{3})+)(?![\w-]| \d)")


def grader(options: Generate) -> Grade:
    """Return `grade`, which needs nothing of the machine."""
    return grade


def reference_problem(text: str) -> str | None:
    """Return why no answer could equal this reference, or None."""
    try:
        return None if numbers(text) else "no number in it, and the task compares numbers"
    except numerals.TooLongError:
        return "its number is too long to be read"


def grade(answer_text: str, row: dict[str, Any]) -> bool:
    """Return whether the last number in `answer_text` equals `row["reference"]`.

    A reference that is a number is compared as one. The answer is then read as it is written in
    `row["language"]`: 1.125 is one and an eighth, and where commas are decimal a thousand, too.
    """
    reference = row["reference"]
    if numerals.is_typed(reference):
        found = _found(answer_text)
        values = readings(found[-1], row.get("language")) if found else ()
        return numerals.equals(values, reference)
    try:
        expected = numbers(str(reference))
        return bool(expected) and numbers(answer_text)[-1:] == expected[-1:]
    except numerals.TooLongError:
        return False


def numbers(text: str) -> list[Fraction]:
    """Return every number of a text, in order.

    Local digits (४२, ٤٢, ４２), thousands separators and decimals are understood. Where a text is
    ambiguous, three digits after a separator are a group: 1.000 and 1,000 are a thousand. A
    superscript is no number (25 m²), and the Chinese comma separates clauses, not digits. Raise
    numerals.TooLongError for one that is too long to read.
    """
    values = map(_value, _found(text))
    return [value for value in values if value is not None]


def _found(text: str) -> list[str]:
    """Return every number of a text as it is written there, with plain digits."""
    joined = SPACED.sub(_with_thin_spaces, plain(text))
    return NUMBER.findall(joined)


def _with_thin_spaces(match: re.Match[str]) -> str:
    return match.group().replace(match.group(1), match.group(1).replace(" ", "\u00a0"))


def _value(text: str) -> Fraction | None:
    """Return the value of digits with separators between.

    1,000 and 1.000 and 1 000 are a thousand, 1.5 and 0,75 are not: a separator groups if three
    digits follow each.
    """
    digits, power = numerals.split_exponent(text)
    value = _without_exponent(digits.lstrip("-−").rstrip(f".,'{THIN_SPACES}"))
    if value is None:
        return None
    return (-1 if text[0] in "-−" else 1) * value * power


def _without_exponent(body: str) -> Fraction | None:
    for separator in (",", ".", "'", *THIN_SPACES):
        value = _grouped_value(body, separator)
        if value is not None:
            return value
    decimal = body.replace(",", ".")
    return numerals.exact(decimal) if re.fullmatch(r"\d+(?:\.\d+)?", decimal) else None


def _grouped_value(body: str, separator: str) -> Fraction | None:
    """Return the value if `separator` groups its digits, or None."""
    mark = "." if separator == "," else ","
    integer, point, decimals = body.partition(mark)
    is_grouped = re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(separator)}\d{{3}})+", integer)
    is_in_lakhs = separator == "," and LAKHS.fullmatch(integer)
    if not (is_grouped or is_in_lakhs):
        return None
    if point and not decimals.isdigit():
        return None
    return numerals.exact(integer.replace(separator, "") + ("." + decimals if point else ""))
