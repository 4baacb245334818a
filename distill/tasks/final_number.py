"""Any task whose answer ends in a number: right if the last number of the answer equals the reference."""

import re
import unicodedata
from fractions import Fraction
from typing import Any

VERSION = 1

# what may stand between groups of three digits besides `,` and `.`; both kinds of space are common in print
THIN_SPACES = "\u00a0\u202f"
# digits with separators between; a sign counts only where no digit or letter stands before it (10-7 ends in 7)
NUMBER = re.compile(rf"(?<![\w.])[-−]?\d[\d,.'{THIN_SPACES}]*|\d[\d,.'{THIN_SPACES}]*")
# plain spaces group digits after such a mark ("Answer: 1 000", "= 1 000", "₹1 000") or alone; "take 3 100 times" may be two
SPACED = re.compile(r"(?:\A|[:=$€£¥₹₦₱₫])\s*[-−]?([1-9]\d{0,2}(?: \d{3})+)(?![\w-]| \d)")
LAKHS = re.compile(r"[1-9]\d?(?:,\d\d)+,\d{3}")  # 1,23,456: how India groups


def grade(answer_text: str, row: dict[str, Any]) -> bool:
    """Whether the last number in `answer_text` equals `row["reference"]`; False where there is none."""
    found = numbers(answer_text)
    wanted = numbers(str(row["reference"]))
    return bool(found and wanted) and found[-1] == wanted[-1]


def numbers(text: str) -> list[Fraction]:
    """Every number of a text, in order: local digits (४२, ٤٢, ４２), thousands separators and decimals understood.

    Where a text is ambiguous, three digits after a separator are a group: 1.000 and 1,000 are a thousand. A superscript
    is no number (25 m²), and the Chinese comma separates clauses, not digits.
    """
    spaced = SPACED.sub(
        lambda match: match.group().replace(match.group(1), match.group(1).replace(" ", "\u00a0")),
        plain(text),
    )
    found = [_value(match.group()) for match in NUMBER.finditer(spaced)]
    return [value for value in found if value is not None]


def plain(text: str) -> str:
    """The text with an ASCII digit for every local digit (४२, ٤٢, ４２) and common forms of the signs around them."""
    return "".join(map(_plain, text))


def _plain(character: str) -> str:
    """The character's NFKC form with an ASCII digit for every decimal digit, where that keeps the meaning."""
    # NFKC would turn thin spaces into plain ones, ² into 2 and ， into a decimal comma
    if character in THIN_SPACES or character == "，" or unicodedata.category(character) == "No":
        return character
    form = unicodedata.normalize("NFKC", character).replace("٬", ",").replace("٫", ".")
    return "".join(c if (value := unicodedata.digit(c, None)) is None else str(value) for c in form)


def _value(text: str) -> Fraction | None:
    """1,000 and 1.000 and 1 000 are a thousand, 1.5 and 0,75 are not: a separator groups if three digits follow each."""
    sign = -1 if text[0] in "-−" else 1
    body = text.lstrip("-−").rstrip(f".,'{THIN_SPACES}")
    for separator in (",", ".", "'", *THIN_SPACES):
        whole, point, decimals = body, "", ""
        other = "." if separator == "," else ","
        if other in body:
            whole, point, decimals = body.partition(other)
        grouped = re.fullmatch(rf"[1-9]\d{{0,2}}(?:{re.escape(separator)}\d{{3}})+", whole)
        if (grouped or (separator == "," and LAKHS.fullmatch(whole))) and (
            not point or decimals.isdigit()
        ):
            return sign * Fraction(whole.replace(separator, "") + ("." + decimals if point else ""))
    decimal = body.replace(",", ".")
    return sign * Fraction(decimal) if re.fullmatch(r"\d+(?:\.\d+)?", decimal) else None
