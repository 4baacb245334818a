"""Any task whose answer ends in a number: right if the last number equals the reference."""

import re
import unicodedata
from fractions import Fraction
from typing import Any

from distill.recipe.sections import Generate
from distill.tasks import Grade

VERSION = 1

# what may stand between groups of three digits besides `,` and `.`; both kinds of space are common
# in print
THIN_SPACES = "\u00a0\u202f"
# digits with separators between; a sign counts only where no digit or letter stands before it (10-7
# ends in 7)
NUMBER = re.compile(rf"(?<![\w.])[-−]?\d[\d,.'{THIN_SPACES}]*|\d[\d,.'{THIN_SPACES}]*")
# plain spaces group digits after such a mark ("Answer: 1 000", "= 1 000", "₹1 000") or alone;
# "take 3 100 times" may be two
SPACED = re.compile(r"(?:\A|[:=$€£¥₹₦₱₫])\s*[-−]?([1-9]\d{0,2}(?: \d{3})+)(?![\w-]| \d)")
LAKHS = re.compile(r"[1-9]\d?(?:,\d\d)+,\d{3}")  # 1,23,456: how India groups


def grader(options: Generate) -> Grade:
    """Return `grade`, which needs nothing of the machine."""
    return grade


def grade(answer_text: str, row: dict[str, Any]) -> bool:
    """Return whether the last number in `answer_text` equals `row["reference"]`."""
    answers = numbers(answer_text)
    references = numbers(str(row["reference"]))
    return bool(answers and references) and answers[-1] == references[-1]


def numbers(text: str) -> list[Fraction]:
    """Return every number of a text, in order.

    Local digits (४२, ٤٢, ４２), thousands separators and decimals are understood. Where a text is
    ambiguous, three digits after a separator are a group: 1.000 and 1,000 are a thousand. A
    superscript is no number (25 m²), and the Chinese comma separates clauses, not digits.
    """
    joined = SPACED.sub(_with_thin_spaces, plain(text))
    values = (_value(match.group()) for match in NUMBER.finditer(joined))
    return [value for value in values if value is not None]


def _with_thin_spaces(match: re.Match[str]) -> str:
    return match.group().replace(match.group(1), match.group(1).replace(" ", "\u00a0"))


def plain(text: str) -> str:
    """Return the text with ASCII digits for local ones (४२, ٤٢, ４２) and common forms of signs."""
    return "".join(map(_plain, text))


def _plain(character: str) -> str:
    """Return the character's NFKC form with ASCII digits, where that keeps the meaning."""
    # NFKC would turn thin spaces into plain ones, ² into 2 and ， into a decimal comma
    if character in THIN_SPACES or character == "，" or unicodedata.category(character) == "No":
        return character
    form = unicodedata.normalize("NFKC", character).replace("٬", ",").replace("٫", ".")
    return "".join(map(_ascii_digit, form))


def _ascii_digit(character: str) -> str:
    value = unicodedata.digit(character, None)
    return character if value is None else str(value)


def _value(text: str) -> Fraction | None:
    """Return the value of digits with separators between.

    1,000 and 1.000 and 1 000 are a thousand, 1.5 and 0,75 are not: a separator groups if three
    digits follow each.
    """
    sign = -1 if text[0] in "-−" else 1
    body = text.lstrip("-−").rstrip(f".,'{THIN_SPACES}")
    for separator in (",", ".", "'", *THIN_SPACES):
        value = _grouped_value(body, separator)
        if value is not None:
            return sign * value
    decimal = body.replace(",", ".")
    return sign * Fraction(decimal) if re.fullmatch(r"\d+(?:\.\d+)?", decimal) else None


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
    return Fraction(integer.replace(separator, "") + ("." + decimals if point else ""))
